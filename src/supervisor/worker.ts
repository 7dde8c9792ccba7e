// A worker: one process that answers, or that has everything ready to. It is told what to do by the supervisor; should that die, it goes on.
import { readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import type { Heir, Prepared } from '../agent.ts'
import type { Succession, SuccessionState } from '../api/routes.ts'
import { firstSignal } from '../cli/agent.ts'
import { parseConfig } from '../config.ts'
import { findHolder } from '../datapath/claim.ts'
import type { Dialect } from '../datapath/nfnetlink.ts'
import type { Listener } from '../proxy/listen.ts'
import { ManifestError, warmUp, type Warm } from '../warm.ts'
import { giveTo } from './handover.ts'
import type { FromWorker, Restarts, ToWorker, WorkerStart } from './messages.ts'
import { findPlace, fingerprintOf, serve, warmPartsOf, type Place } from './serve.ts'

const start = JSON.parse(process.argv[2] ?? '') as WorkerStart
/** What came before anybody listened would be lost. */
const early: ToWorker[] = []
let hear = (message: ToWorker): void => void early.push(message)
process.on('message', (message: ToWorker) => hear(message))
const { promise: endAsked, resolve: end } = Promise.withResolvers<string>()
let reload = (): void => undefined
let successor: SuccessionState = { kind: 'idle' }

/** Resolves when it is written, so that it is heard whatever becomes of us; at once when there is nobody to hear. */
function say(message: FromWorker): Promise<void> {
  return new Promise((resolve) => {
    if (!process.connected) resolve()
    else process.send?.(message, undefined, undefined, () => resolve())
  })
}

function obey(message: ToWorker): void {
  if (message.kind === 'end') end('replaced')
  if (message.kind === 'reload') reload()
  if (message.kind === 'stay') successor = { kind: 'failed', why: message.why }
}

/** The supervisor is asked; it ends us when another is ready, or says why we are to stay. */
const succession: Succession = {
  ask() {
    if (!process.connected || successor.kind === 'under way') return
    successor = { kind: 'under way' }
    void say({ kind: 'replace' })
  },
  state: () => process.connected ? successor : { kind: 'impossible', why: 'the supervisor is gone: start the agent again, and that takes over from this process' },
} // prettier-ignore

async function main(): Promise<number> {
  const text = await readFile(start.configFile, 'utf8')
  const read = parseConfig(text, start.configFile)
  if (!read.ok) throw new Error(`${start.configFile} cannot be used any more`)
  const place = await findPlace(read.config, start.version)
  const isFirst = start.role === 'first'
  if (isFirst) listenFor(obey)
  const turn: Taken = isFirst ? {} : await standBy(place)
  listenFor(obey)
  process.once('disconnect', () => {
    if (place.config.enforce === 'kernel') place.log.warn('the supervisor is gone; this process goes on until another takes over')
    else end('the supervisor is gone, and where no kernel enforces nobody could take over')
  }) // prettier-ignore
  return serve(place, {
    ...turn,
    listeners: start.sockets.map((sockets): Listener => ({ kind: 'sockets', ...sockets })),
    heir: heirOf(place),
    holder: {
      process: () => (process.connected ? process.ppid : process.pid),
      isAlone: () => !process.connected,
      give: (name) => giveTo(name, { fds: start.sockets.flatMap(({ udpFd, tcpFd }) => [udpFd, tcpFd]), text: JSON.stringify(start.sockets) }), // prettier-ignore
      end: () => end('another takes over'),
    },
    succession,
    answering: () => void say({ kind: 'answering' }),
    ended: () => Promise.race([endAsked, firstSignal()]),
    reloads: (look) => {
      reload = look
      // For who lost the supervisor.
      process.on('SIGHUP', look)
    },
  })
}

function listenFor(listener: typeof hear): void {
  hear = listener
  for (const message of early.splice(0)) hear(message)
}

function heirOf(place: Place): Heir {
  const fingerprint = fingerprintOf(place)
  return {
    changing: () => say({ kind: 'changing' }),
    inForce: (origin, dialect) => void say({ kind: 'inForce', held: { origin, fingerprint, dialect } }),
  }
}

interface Taken {
  readonly prepared?: Prepared
  readonly restarts?: Restarts
}

/** Keeps ready what the supervisor says; resolves when it is time to take over. Rejects when it cannot be made ready. */
function standBy(place: Place): Promise<Taken> {
  const own = fingerprintOf(place)
  let warm: Warm | undefined
  let ready: number | undefined
  let dialect: Dialect | undefined
  /** Whether what the agent holds is of our own version and settings. */
  let isOfOurs = false
  let wanted: (ToWorker & { kind: 'prepare' }) | undefined
  let isPreparing = false
  let told: (ToWorker & { kind: 'go' }) | undefined
  return new Promise((resolve, reject) => {
    process.once('disconnect', outlive)
    listenFor((message) => {
      if (message.kind === 'prepare') wanted = message
      else if (message.kind === 'go') told = message
      else if (message.kind === 'end') process.exit(0)
      void prepare().catch(reject)
    })

    /**
     * The supervisor is gone. Where the one that answers is too, nobody else would take over, and its sockets would be gone with us; else that goes on, and
     * nobody will ever ask for us. One of other settings may have another
     * table, and cannot be told to be gone by ours. What came into force since nobody could tell us any more: the kernel is looked through first.
     */
    function outlive(): void {
      const { enforce, settings } = place.config
      const outlives =
        enforce === 'kernel' && warm !== undefined && isOfOurs
          ? isFree(settings.datapath.table)
          : Promise.resolve(false)
      outlives
        .then(async (isAlone) => {
          if (!isAlone) process.exit(0)
          place.log.error('the supervisor and the agent are gone; the standby takes over')
          told ??= { kind: 'go', serial: undefined, restarts: { died: 1, replaced: 0 } }
          await prepare()
        })
        .catch(reject)
    }
    async function prepare(): Promise<void> {
      if (isPreparing) return
      isPreparing = true
      while (wanted !== undefined) {
        const { serial, held } = wanted
        wanted = undefined
        warm = await warmUp(warmPartsOf(place), warm, held?.origin)
        ready = held?.fingerprint === own ? serial : undefined
        isOfOurs = held?.fingerprint === own
        dialect = isOfOurs ? held?.dialect : undefined
        await say({ kind: 'warm' })
      }
      isPreparing = false
      if (told === undefined || warm === undefined) return
      process.off('disconnect', outlive)
      resolve({ prepared: { warm, stands: told.serial !== undefined && told.serial === ready, dialect }, restarts: told.restarts }) // prettier-ignore
    }
  })
}
/** Who kills both does so one after the other. */
const bothMillis = 300

/** Whether nobody has the table, now or in a moment. */
async function isFree(table: string): Promise<boolean> {
  const holder = await findHolder(table)
  if (holder === undefined) return true
  await Promise.race([holder.gone, pause(bothMillis)])
  holder.leave()
  const still = await findHolder(table)
  still?.leave()
  return still === undefined
}

try {
  process.exitCode = await main()
  await say({ kind: 'released' })
} catch (error) {
  process.stderr.write(`namegate: ${error instanceof ManifestError || !(error instanceof Error) ? String(error) : error.message}\n`)
  process.exitCode = 1
} // prettier-ignore
process.exit()
