// The supervisor: holds the DNS sockets and sees to it that somebody answers on them. A worker that dies is followed by one that has everything
// ready; questions wait in the sockets meanwhile. Small, so that nothing in it can die of what comes over the wire.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Ended } from '../agent.ts'
import { firstSignal, readConfig } from '../cli/agent.ts'
import type { Config } from '../config.ts'
import { makeLog, type Logger } from '../log.ts'
import { claimedBy, ClaimError, findHolder, receiverPrefix, type FoundHolder } from '../datapath/claim.ts'
import { placeText, SocketError } from '../socketError.ts'
import { openReceiver, type Given } from './handover.ts'
import type { FromWorker, Held, Role, SharedSockets, ToWorker, WorkerStart } from './messages.ts'
import { makeSocketOpener } from './sockets.ts'

const workerFile = fileURLToPath(new URL('worker.ts', import.meta.url))
/** Descriptors before this one are stdin, stdout, stderr and what we talk by. */
const firstInherited = 4
/** Who answered for so long and then died is not in a loop. */
const stableMillis = 3000
/** Between one death in a loop and the next start; doubled each time. */
const pauseMillisFirst = 250
const pauseMillisMax = 10_000
/** A standby that cannot be made ready is tried again after a second, and after twice as long each time. */
const standbyPauseMillisFirst = 1000
const standbyPauseMillisMax = 60_000
/** What is in hand is answered within 2 s, and before that a change of policy that has begun is brought to its end; who takes longer hangs. */
const endMillisMax = 60_000
/** A successor that is not ready by then will never be: as long as `namegate restart` waits. */
const warmMillisMax = 120_000

interface Worker {
  readonly child: ChildProcess
  /** It could take over at once. */
  isWarm: boolean
  /** When it began to answer. */
  answeredAt: number | undefined
  /** It was told to make room for another, or is not wanted any more. */
  isReplaced: boolean
}

/**
 * Runs until a signal; resolves with the exit status. Undefined where sockets cannot be kept. What keeps the first worker from starting ends all,
 * with its status; later ones are started again and again.
 */
export async function supervise(configFile: string, config: Config, version: string): Promise<number | undefined> {
  const open = makeSocketOpener()
  if (open === undefined) return undefined
  const log = makeLog(config.logLevel)
  try {
    const predecessor = await findPredecessor(config)
    const sockets = predecessor?.sockets ?? open(placesOf(config))
    if (predecessor !== undefined) log.warn({ process: predecessor.process }, 'an agent without supervisor is found; another takes over from it') // prettier-ignore
    return await new Promise((resolve) => oversee({ configFile, version, log, sockets, predecessor, hasStandby: config.restart === 'standby' }, resolve)) // prettier-ignore
  } catch (error) {
    if (!(error instanceof SocketError) && !(error instanceof ClaimError)) throw error
    process.stderr.write(`namegate: ${error.message}\n`)
    return 1
  }
}

const placesOf = ({ listeners }: Config): { address: string; port: number }[] => listeners.flatMap((listener) => (listener.kind === 'address' ? [{ address: listener.address, port: listener.port }] : [])) // prettier-ignore
const placesText = (places: readonly { readonly address: string; readonly port: number }[]): string =>
  places.map(({ address, port }) => placeText(address, port)).join(', ')

/** A worker that goes on though its supervisor died. */
interface Predecessor extends Pick<FoundHolder, 'process' | 'askToEnd' | 'gone' | 'leave'> {
  readonly sockets: readonly SharedSockets[]
}

/** Undefined when nobody holds the table. Rejects with `ClaimError` when that is somebody from whom nothing is to be taken over. */
async function findPredecessor({ enforce, settings, ...config }: Config): Promise<Predecessor | undefined> {
  const { table } = settings.datapath
  const found = enforce === 'kernel' ? await findHolder(table) : undefined
  if (found === undefined) return undefined
  const refused = claimedBy(table, found.process)
  const places = placesText(placesOf({ enforce, settings, ...config }))
  try {
    if (!found.isAlone) throw refused
    const receiver = openReceiver(receiverPrefix)
    found.askFor(receiver.name)
    const given = await receiver.receive()
    const sockets = given === undefined ? [] : socketsOf(given)
    if (placesText(sockets) !== places) throw refused
    return { process: found.process, askToEnd: found.askToEnd, gone: found.gone, leave: found.leave, sockets }
  } catch (error) {
    found.leave()
    throw error
  }
}

function socketsOf({ fds, text }: Given): SharedSockets[] {
  return (JSON.parse(text) as SharedSockets[]).map((pair, i) => ({ ...pair, udpFd: fds[2 * i] ?? -1, tcpFd: fds[2 * i + 1] ?? -1 })) // prettier-ignore
}

interface Overseen {
  readonly configFile: string
  readonly version: string
  readonly log: Logger
  readonly sockets: readonly SharedSockets[]
  readonly hasStandby: boolean
  readonly predecessor: Predecessor | undefined
}

function oversee(
  { configFile, version, log, sockets, hasStandby, predecessor }: Overseen,
  over: (status: number) => void,
): void {
  let active: Worker | undefined
  let standby: Worker | undefined
  /** The active one makes room when the standby is warm. */
  let isReplacing = false
  let isEnding = false
  /** For the predecessor to end. */
  let isWaiting = predecessor !== undefined
  /** What the kernel holds, as it was told last; `isHeld` is false from the moment at which it changes. */
  let held: Held | undefined
  let isHeld = false
  let serial = 0
  const restarts: Record<Ended, number> = { died: 0, replaced: 0 }
  let deathsInARow = 0
  let standbyPauseMillis = standbyPauseMillisFirst
  let later: NodeJS.Timeout | undefined

  function start(role: Role): Worker {
    const given: WorkerStart = { role, configFile, version, sockets: sockets.map((pair, i) => ({ ...pair, udpFd: firstInherited + 2 * i, tcpFd: firstInherited + 2 * i + 1 })) } // prettier-ignore
    const child = spawn(process.execPath, [...process.execArgv, workerFile, JSON.stringify(given)], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc', ...sockets.flatMap(({ udpFd, tcpFd }) => [udpFd, tcpFd])],
      serialization: 'advanced',
    })
    const worker: Worker = { child, isWarm: false, answeredAt: undefined, isReplaced: false }
    child.on('message', (message: FromWorker) => hear(worker, message))
    // What it said before it died is heard first.
    const left = [once(child, 'exit'), ...(child.connected ? [once(child, 'disconnect')] : [])]
    Promise.all(left).then(
      () => ended(worker, child.exitCode ?? child.signalCode ?? 0),
      (error: unknown) => ended(worker, String(error)),
    )
    if (role === 'standby') tell(worker, { kind: 'prepare', serial, held })
    return worker
  }

  function tell({ child }: Worker, message: ToWorker): void {
    // One that has died will be noticed.
    if (child.connected) child.send(message, () => undefined)
  }

  function hear(worker: Worker, message: FromWorker): void {
    switch (message.kind) {
      case 'warm':
        if (worker !== standby) return
        if (!worker.isWarm) log.info({ process: worker.child.pid }, 'a standby is ready')
        worker.isWarm = true
        standbyPauseMillis = standbyPauseMillisFirst
        if (isReplacing) makeRoom()
        if (isWaiting) predecessor?.askToEnd()
        return
      case 'answering':
        worker.answeredAt = performance.now()
        if (worker === active && standby === undefined && hasStandby && !isEnding) standby = start('standby')
        return
      case 'released':
        // Its successor need not wait for the exit of a process, which takes a busy machine a while.
        if (worker === active && worker.isReplaced && !isEnding) activeEnded(worker, 0)
        return
      case 'replace':
        if (worker === active) void replace()
        return
      case 'changing':
        if (worker === active) isHeld = false
        return
      case 'inForce':
        if (worker !== active) return
        ;({ held } = message)
        isHeld = true
        serial++
        if (standby !== undefined) tell(standby, { kind: 'prepare', serial, held })
        return
    }
  }

  function makeRoom(): void {
    if (active === undefined || active.isReplaced) return
    active.isReplaced = true
    endWorker(active)
  }

  /** Answers what is in hand, and ends; or is ended. */
  function endWorker(worker: Worker): void {
    tell(worker, { kind: 'end' })
    setTimeout(() => worker.child.kill('SIGKILL'), endMillisMax).unref()
  }

  function ended(worker: Worker, how: number | string): void {
    if (worker === standby) standbyEnded(worker, how)
    else if (worker === active) activeEnded(worker, how)
  }

  function standbyEnded(worker: Worker, how: number | string): void {
    standby = undefined
    if (isEnding || worker.isReplaced) return
    if (isWaiting) return finish(typeof how === 'number' ? how : 1)
    log.error({ process: worker.child.pid, how }, isReplacing ? 'the new agent cannot start; the one before it stays' : 'the standby ended') // prettier-ignore
    if (isReplacing) stay(`the new agent cannot start (it ended with ${how}); its log says why`)
    if (!hasStandby) return
    clearTimeout(later)
    later = setTimeout(() => (standby ??= start('standby')), standbyPauseMillis)
    standbyPauseMillis = Math.min(standbyPauseMillis * 2, standbyPauseMillisMax)
  }

  function activeEnded(worker: Worker, how: number | string): void {
    active = undefined
    // As a shell tells it.
    const status = typeof how === 'number' ? how : how === 'SIGTERM' ? 143 : 1
    const { answeredAt } = worker
    if (isEnding) return finish(status)
    const isFirst = held === undefined && restarts.died + restarts.replaced === 0
    if (answeredAt === undefined && isFirst) return finish(status)
    const cause = worker.isReplaced ? 'replaced' : 'died'
    restarts[cause]++
    if (cause === 'replaced') log.info({ process: worker.child.pid }, 'the agent made room for its successor')
    else log.error({ process: worker.child.pid, how }, 'the agent died; another takes over')
    const isStable = answeredAt !== undefined && performance.now() - answeredAt >= stableMillis
    deathsInARow = worker.isReplaced || isStable ? 0 : deathsInARow + 1
    // The first time it may have been somebody's hand; again and again it is what it meets.
    if (deathsInARow <= 1) return takeOver()
    const millis = Math.min(pauseMillisFirst * 2 ** (deathsInARow - 2), pauseMillisMax)
    log.error({ millis, deaths: deathsInARow }, 'it dies again and again; the next one waits')
    clearTimeout(later)
    later = setTimeout(takeOver, millis)
  }

  function takeOver(): void {
    isReplacing = false
    active = standby ?? start('standby')
    standby = undefined
    tell(active, { kind: 'go', serial: isHeld ? serial : undefined, restarts })
  }

  async function replace(): Promise<void> {
    if (isReplacing) {
      log.warn('the agent is being replaced already; SIGUSR2 does nothing')
      return
    }
    if (isEnding || active?.answeredAt === undefined) {
      log.warn('nobody answers at the moment, or the agent ends; SIGUSR2 does nothing')
      return stay('it ends, or has just begun')
    }
    isReplacing = true
    let why = ''
    const config = await readConfig(configFile, (text) => (why += text)).catch(
      (error: unknown) => void (why = String(error)),
    )
    if (config === undefined) {
      log.error({ why }, 'the new configuration cannot be used; the agent stays as it is')
      return stay(`the new configuration cannot be used: ${why.trim()}`)
    }
    if (isEnding) return
    // The agent may have died meanwhile, and be followed already.
    isReplacing = true
    sayFixed(config)
    // It was started from the code of then.
    discard()
    const successor = (standby = start('standby'))
    setTimeout(() => {
      if (successor === standby && !successor.isWarm) successor.child.kill('SIGKILL')
    }, warmMillisMax).unref()
  }
  function stay(why: string): void {
    isReplacing = false
    if (active !== undefined) tell(active, { kind: 'stay', why })
  }
  function sayFixed(config: Config): void {
    const { restart } = config
    if (
      placesText(placesOf(config)) !== placesText(sockets) ||
      restart === 'none' ||
      (restart === 'standby') !== hasStandby
    )
      log.warn('dns.listen and restart stay as they were: to change them, stop the agent and start it')
  }
  function discard(): void {
    clearTimeout(later)
    if (standby === undefined) return
    standby.isReplaced = true
    standby.child.kill('SIGKILL')
    standby = undefined
  }

  function finish(status: number): void {
    isEnding = true
    discard()
    predecessor?.leave()
    over(status)
  }

  if (predecessor === undefined) active = start('first')
  else {
    standby = start('standby')
    void predecessor.gone.then(() => {
      isWaiting = false
      if (isEnding) return
      restarts.replaced++
      takeOver()
    })
  }
  process.on('SIGHUP', () => {
    if (active !== undefined) tell(active, { kind: 'reload' })
  })
  process.on('SIGUSR2', () => void replace())
  void firstSignal().then(() => {
    isEnding = true
    discard()
    predecessor?.askToEnd()
    if (active === undefined) finish(0)
    else if (active.answeredAt === undefined) active.child.kill('SIGTERM')
    else endWorker(active)
    // A second one ends us at once, and with us all that is ours.
    for (const signal of ['SIGTERM', 'SIGINT'] as const)
      process.once(signal, () => {
        active?.child.kill('SIGKILL')
        process.kill(process.pid, signal)
      })
  })
}
