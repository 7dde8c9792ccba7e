// Asks the same question again and again (once it has been answered), so many times a second, each time with another ID and port, until it is told to stop; then waits for
// answers that are still to come. Arguments: address and port of the server, questions a second, the name. stdin: anything ends it. stdout:
// `ready`, and at the end an `Asked` as JSON.
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { encode } from 'dns-packet'

export interface Asked {
  readonly sent: number
  readonly answered: number
  /** Of the answers, those that were not NOERROR. */
  readonly failed: number
  /** The longest time without any answer, between two of them. */
  readonly gapMillis: number
  /** The longest time from a question to its answer. */
  readonly slowestMillis: number
}

const [address = '', port = '', perSecond = '', name = ''] = process.argv.slice(2)
const message = encode({ type: 'query', id: 0, flags: 0x100, questions: [{ name, type: 'A' }] })
const idsMax = 1 << 16
/** IDs are used once on each socket: so many questions in all. */
const socketCount = 16
const patienceMillis = 3000
const millisPerTurn = 1

const sockets = await Promise.all(
  Array.from({ length: socketCount }, async () => {
    const socket = createSocket({ type: address.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 1 << 20 })
    socket.connect(Number(port), address)
    await once(socket, 'connect')
    return socket
  }),
)
const sentAt = new Float64Array(socketCount * idsMax)
let [sent, answered, failed, gapMillis, slowestMillis, lastAt] = [0, 0, 0, 0, 0, 0]
for (const [i, socket] of sockets.entries()) {
  // A port that nobody listens on is told by ICMP: that question is lost.
  socket.on('error', () => undefined)
  socket.on('message', (reply) => {
    const at = i * idsMax + reply.readUInt16BE(0)
    const askedAt = sentAt[at] ?? 0
    if (askedAt === 0) return
    sentAt[at] = 0
    const now = performance.now()
    answered++
    if (((reply[3] ?? 0) & 15) !== 0) failed++
    if (lastAt > 0) gapMillis = Math.max(gapMillis, now - lastAt)
    lastAt = now
    slowestMillis = Math.max(slowestMillis, now - askedAt)
  })
}
// The first by itself: thousands of questions at once for a name that is in no cache are another matter.
while (answered === 0) {
  sentAt[0] = performance.now()
  sockets[0]?.send(message)
  await delay(200)
}
;[sent, answered, gapMillis, slowestMillis, lastAt] = [1, 1, 0, 0, 0]
const beganAt = performance.now()
const turn = setInterval(() => {
  const due = Math.min(((performance.now() - beganAt) / 1000) * Number(perSecond), sentAt.length)
  for (; sent < due; sent++) {
    const [i, id] = [sent % socketCount, Math.floor(sent / socketCount)]
    message.writeUInt16BE(id, 0)
    sentAt[i * idsMax + id] = performance.now()
    sockets[i]?.send(message)
  }
}, millisPerTurn)
console.log('ready')
await once(process.stdin, 'data')
clearInterval(turn)
for (const end = performance.now() + patienceMillis; answered < sent && performance.now() < end;) await delay(20)
console.log(JSON.stringify({ sent, answered, failed, gapMillis, slowestMillis } satisfies Asked))
process.exit()
