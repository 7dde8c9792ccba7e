// The workload of the benchmarks: asks names, some in flight at a time, and on each answer at once sends a packet to the address.
// Runs as a process of its own; prints one line of JSON.
import { createSocket } from 'node:dgram'
import { connect } from 'node:net'

export interface Load {
  /** The resolver to ask, on port 53. */
  readonly server: string
  readonly family: 4 | 6
  readonly names: number
  /** Names are `d<i>-<round>.example.com`: another round, other names. */
  readonly round: string
  readonly inFlight: number
  readonly onAnswer: 'nothing' | 'udp' | 'tcp'
}

export interface Measured {
  readonly answered: number
  readonly failed: number
  readonly seconds: number
  /** TCP connections whose first packet was lost: it is sent again only after a second. */
  readonly slowConnects: number
}

/** A question that is not answered within this is lost. */
const patienceMillis = 3000
const slowMillis = 900

async function run(load: Load): Promise<Measured> {
  const type = load.family === 4 ? 'udp4' : 'udp6'
  const asking = createSocket({ type, recvBufferSize: 8 << 20 })
  const sending = createSocket({ type, sendBufferSize: 8 << 20 })
  // Nothing may listen yet: such a question counts as unanswered.
  for (const socket of [asking, sending]) socket.on('error', () => undefined)
  const payload = Buffer.from('x')
  const waiting = new Map<number, { timer: NodeJS.Timeout; done: (message?: Buffer) => void }>()
  asking.on('message', (message) => waiting.get(message.readUInt16BE(0))?.done(message))
  await new Promise<void>((resolve) => asking.connect(53, load.server, resolve))
  const connects: Promise<number>[] = []
  let [next, answered, failed] = [0, 0, 0]
  const started = performance.now()

  async function one(i: number): Promise<void> {
    const id = i & 0xffff
    const query = buildQuery(id, `d${i}-${load.round}.example.com`, load.family)
    const message = await new Promise<Buffer | undefined>((resolve) => {
      const done = (got?: Buffer): void => {
        clearTimeout(timer)
        waiting.delete(id)
        resolve(got)
      }
      const timer = setTimeout(done, patienceMillis)
      waiting.set(id, { timer, done })
      asking.send(query)
    })
    const address = message === undefined ? undefined : addressIn(message, query.length, load.family)
    if (address === undefined) failed++
    else {
      answered++
      if (load.onAnswer === 'udp') sending.send(payload, 9, address)
      if (load.onAnswer === 'tcp') connects.push(timeConnect(address))
    }
  }
  async function worker(): Promise<void> {
    while (next < load.names) await one(next++)
  }
  await Promise.all(Array.from({ length: load.inFlight }, worker))
  const seconds = (performance.now() - started) / 1000
  const slowConnects = (await Promise.all(connects)).filter((millis) => millis >= slowMillis).length
  asking.close()
  // Packets that wait for their neighbour's address must be out before the socket is gone.
  await new Promise<void>((resolve) =>
    sending.send(payload, 9, load.family === 4 ? '198.19.255.255' : '2001:db8::ffff', () => resolve()),
  )
  sending.close()
  return { answered, failed, seconds, slowConnects }
}

function timeConnect(address: string): Promise<number> {
  const started = performance.now()
  return new Promise((resolve) => {
    const socket = connect({ host: address, port: 9, timeout: patienceMillis })
    const end = (): void => {
      socket.destroy()
      resolve(performance.now() - started)
    }
    socket.on('connect', end).on('error', end).on('timeout', end)
  })
}

function buildQuery(id: number, name: string, family: 4 | 6): Buffer {
  const labels = name.split('.')
  const query = Buffer.alloc(12 + name.length + 2 + 4)
  query.writeUInt16BE(id, 0)
  query.writeUInt16BE(0x0100, 2)
  query.writeUInt16BE(1, 4)
  let at = 12
  for (const label of labels) {
    query[at] = label.length
    query.write(label, at + 1, 'latin1')
    at += 1 + label.length
  }
  query.writeUInt16BE(family === 4 ? 1 : 28, at + 1)
  query.writeUInt16BE(1, at + 3)
  return query
}

/** The address of the first answer, which stands behind a two-octet pointer; undefined without answer. */
function addressIn(message: Buffer, questionEnd: number, family: 4 | 6): string | undefined {
  if ((message.readUInt16BE(2) & 0xf) !== 0 || message.readUInt16BE(6) === 0) return undefined
  let at = questionEnd
  // Names are compressed (pointer) or, rarely, written out.
  while ((message[at] ?? 0) !== 0 && (message[at] ?? 0) < 0xc0) at += 1 + (message[at] ?? 0)
  at += (message[at] ?? 0) >= 0xc0 ? 2 : 1
  const data = message.subarray(at + 10)
  if (family === 4) return [...data.subarray(0, 4)].join('.')
  return Array.from({ length: 8 }, (_, i) => data.readUInt16BE(i * 2).toString(16)).join(':')
}

console.log(JSON.stringify(await run(JSON.parse(process.argv[2] ?? '') as Load)))
