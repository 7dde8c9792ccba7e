// The connections of a workload while its agent is killed: some that are held, new ones at a steady rate, and some that are denied. Runs as a process of
// its own, until it is told to stop. Arguments: address and port that echo, how many to hold, new ones a second, an address that is denied, tries of it
// a second. stdin: anything ends it. stdout: `ready`, and at the end a `Connected` as JSON.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

export interface Connected {
  readonly held: number
  /** Of those held, which did not bring back what was sent on them at the end. */
  readonly heldLost: number
  readonly opened: number
  /** Of the new ones, which did not bring back what was sent on them. */
  readonly failed: number
  /** From the first packet to what came back. */
  readonly slowestMillis: number
  readonly deniedTried: number
  /** Denied ones that were established. */
  readonly deniedPassed: number
}

const [address = '', port = '', holds = '', perSecond = '', denied = '', deniedPerSecond = ''] = process.argv.slice(2)
const patienceMillis = 5000
const deniedMillis = 500
const millisPerTurn = 2

/** Whether a byte came back; the connection stays. */
function echoes(socket: Socket): Promise<boolean> {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, patienceMillis, false)
    const done = (came: boolean): void => {
      clearTimeout(late)
      resolve(came)
    }
    socket.once('data', () => done(true)).once('error', () => done(false))
    socket.write('x')
  })
}

const held = await Promise.all(
  Array.from({ length: Number(holds) }, async () => {
    const socket = connect(Number(port), address).on('error', () => undefined)
    await once(socket, 'connect')
    return socket
  }),
)
let [opened, failed, under, slowestMillis, deniedTried, deniedPassed] = [0, 0, 0, 0, 0, 0]

async function openOne(): Promise<void> {
  opened++
  under++
  const startedAt = performance.now()
  const socket = connect(Number(port), address)
  if (await echoes(socket)) slowestMillis = Math.max(slowestMillis, performance.now() - startedAt)
  else failed++
  // Without a TIME-WAIT, which at this rate would soon have all ports.
  socket.resetAndDestroy()
  under--
}
function tryDenied(): void {
  deniedTried++
  const socket = connect(Number(port), denied).on('error', () => undefined)
  socket.once('connect', () => deniedPassed++)
  setTimeout(() => socket.destroy(), deniedMillis)
}

const beganAt = performance.now()
const turn = setInterval(() => {
  const seconds = (performance.now() - beganAt) / 1000
  while (opened < seconds * Number(perSecond)) void openOne()
  while (deniedTried < seconds * Number(deniedPerSecond)) tryDenied()
}, millisPerTurn)
console.log('ready')
await once(process.stdin, 'data')
clearInterval(turn)
for (const end = performance.now() + patienceMillis; under > 0 && performance.now() < end;) await delay(20)
const alive = await Promise.all(held.map(echoes))
const heldLost = alive.filter((came) => !came).length
console.log(JSON.stringify({ held: held.length, heldLost, opened, failed, slowestMillis, deniedTried, deniedPassed } satisfies Connected)) // prettier-ignore
process.exit()
