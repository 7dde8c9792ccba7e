// The proxy's sockets: UDP and TCP on one port, for each family. Reads messages, gives them to the story, writes its replies.
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { createServer, type Server, type Socket } from 'node:net'
import { addressFromText, type Address } from '../net/address.ts'
import { Rcode } from '../wire/codes.ts'
import { gate, readQuestion } from '../wire/message.ts'
import { buildError } from '../wire/reply.ts'
import { framed } from './frame.ts'

/** Where to listen: an address of this namespace (port 0: any that is free for both), or sockets that were bound in another one. */
export type Listener =
  | { readonly kind: 'address'; readonly address: string; readonly port: number }
  | {
      readonly kind: 'sockets'
      readonly family: 4 | 6
      readonly udpFd: number
      readonly tcpFd: number
      readonly port: number
    }

/** Gives the reply to a message, or nothing. Should it reject, that is reported and the question answered with SERVFAIL. */
export type Answerer = (
  message: Uint8Array,
  source: Address,
  transport: 'udp' | 'tcp',
  sourcePort: number,
) => Promise<Uint8Array | undefined>

export interface Listening {
  readonly port: number
  /** Datagrams dropped because too many questions were in hand. */
  readonly dropped: () => number
  /** Stops reading, lets what is in hand be answered (at most `drainMillis`), closes. Once; further calls wait for the same. */
  readonly close: () => Promise<void>
}

/** Questions in hand over UDP; what comes on top is dropped, as a full socket buffer would. */
const udpInHandMax = 4096
/** Of these, what one source may hold: whoever asks for slow names must not silence the others. Above what one resolver has under way. */
const udpInHandPerSourceMax = 1024
const tcpConnectionsMax = 1024
/** Of these, what one source may hold: a workload that opens connections and says nothing must not lock the others out. */
const tcpConnectionsPerSourceMax = 128
/**
 * Questions in hand on one connection, until their answers have left; no more is read from it until one has (RFC 7766 §6.2.1.1: pipelining).
 * So what a client that does not read its answers makes us hold is bounded too.
 */
const tcpInHandMax = 64
/**
 * A connection on which nothing came to an end for so long, neither a question nor an answer, is closed (RFC 7766 §6.2.3): octets of a question
 * that never becomes whole do not keep it.
 */
const tcpIdleMillisDefault = 10_000
const drainMillis = 2000

/** What the sockets of one proxy share. */
interface Desk {
  /** Never rejects. */
  readonly answer: Answerer
  readonly addressOf: (text: string) => Address | undefined
  readonly tcpIdleMillis: number
  /** Questions that are read and not answered yet. */
  inHand: { udp: number; tcp: number }
  /** Of questions over UDP. */
  readonly shares: Shares
  dropped: number
  closing: boolean
  /** The sockets are gone; what is still in hand has nowhere to go. */
  closed: boolean
  /** Called when something in hand is done. */
  onDone: () => void
}

/**
 * Binds all listeners on one port; addresses are literal. Rejects with the socket's error (EADDRINUSE, EACCES) and then holds nothing.
 * @param onFault hears what `answer` rejects with, which is a bug of ours.
 */
export async function listen(
  listeners: readonly Listener[],
  answer: Answerer,
  onFault: (error: unknown) => void = warn,
  tcpIdleMillis: number = tcpIdleMillisDefault,
): Promise<Listening> {
  const desk: Desk = {
    answer: guarded(answer, onFault),
    addressOf: makeAddressReader(),
    tcpIdleMillis,
    inHand: { udp: 0, tcp: 0 },
    shares: makeShares(udpInHandMax, udpInHandPerSourceMax),
    dropped: 0,
    closing: false,
    closed: false,
    onDone: () => undefined,
  }
  const bound: Pair[] = []
  const connections = new Map<Socket, Address>()
  const serve = (udp: UdpSocket, tcp: Server): void => {
    serveUdp(desk, udp)
    tcp.on('connection', (connection: Socket) => {
      const source = desk.addressOf(connection.remoteAddress ?? '')
      const held = [...connections.values()].filter((other) => other === source).length
      if (source === undefined || desk.closing || held >= tcpConnectionsPerSourceMax) {
        connection.destroy()
        return
      }
      connections.set(connection, source)
      connection.once('close', () => connections.delete(connection))
      serveTcp(desk, connection, source)
    })
  }
  const port = await bindAll(listeners, bound, serve)

  let closed: Promise<void> | undefined
  async function shut(): Promise<void> {
    desk.closing = true
    const ended = bound.map(({ tcp }) => new Promise((resolve) => tcp.close(resolve)))
    for (const { udp } of bound) udp.removeAllListeners('message')
    for (const connection of connections.keys()) connection.pause()
    await drained(desk)
    desk.closed = true
    for (const { udp } of bound) udp.close()
    for (const connection of connections.keys()) connection.destroy()
    await Promise.all(ended)
  }
  return { port, dropped: () => desk.dropped, close: () => (closed ??= shut()) }
}

/** Places of which each source has a share. */
interface Shares {
  /** Whether there was a place; it must be given back. */
  readonly take: (source: Address) => boolean
  readonly giveBack: (source: Address) => void
}

function makeShares(max: number, perSourceMax: number): Shares {
  const held = new Map<Address, number>()
  let count = 0
  return {
    take(source) {
      const own = held.get(source) ?? 0
      if (count >= max || own >= perSourceMax) return false
      held.set(source, own + 1)
      count++
      return true
    },
    giveBack(source) {
      const own = (held.get(source) ?? 0) - 1
      if (own > 0) held.set(source, own)
      else held.delete(source)
      count--
    },
  }
}

/** Resolves when nothing is in hand any more, or it takes too long. */
function drained(desk: Desk): Promise<void> {
  return new Promise((resolve) => {
    const late = setTimeout(resolve, drainMillis)
    desk.onDone = () => {
      if (desk.inHand.udp + desk.inHand.tcp > 0) return
      clearTimeout(late)
      resolve()
    }
    desk.onDone()
  })
}

function serveUdp(desk: Desk, socket: UdpSocket): void {
  socket.on('message', (message, from) => {
    const source = desk.addressOf(from.address)
    // Nobody can be answered at port 0 (RFC 768: none was given); to try would throw.
    if (source === undefined || from.port === 0 || !desk.shares.take(source)) {
      desk.dropped++
      return
    }
    desk.inHand.udp++
    const done = (): void => {
      desk.inHand.udp--
      desk.shares.giveBack(source)
      desk.onDone()
    }
    void desk.answer(message, source, 'udp', from.port).then((reply) => {
      // The workload may be gone: a reply that cannot be sent is a reply lost on the way. Done when it has left, not before.
      if (reply === undefined || desk.closed) done()
      else socket.send(reply, from.port, from.address, done)
    })
  })
}

function serveTcp(desk: Desk, connection: Socket, source: Address): void {
  let buffered: Buffer = Buffer.alloc(0)
  let inHand = 0
  // A client may send its questions and close its half: it still gets the answers.
  let ended = false
  const idle = setTimeout(() => connection.destroy(), desk.tcpIdleMillis)
  connection.once('close', () => clearTimeout(idle))
  connection.on('error', () => connection.destroy())
  connection.on('end', () => {
    ended = true
    if (inHand === 0) connection.end()
  })
  connection.on('data', (chunk) => {
    buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk])
    take()
  })

  function take(): void {
    while (inHand < tcpInHandMax && !desk.closing && buffered.length >= 2) {
      const end = 2 + buffered.readUInt16BE(0)
      if (buffered.length < end) break
      const message = buffered.subarray(2, end)
      buffered = buffered.subarray(end)
      inHand++
      desk.inHand.tcp++
      idle.refresh()
      void desk.answer(message, source, 'tcp', connection.remotePort ?? 0).then((reply) => {
        if (reply !== undefined && connection.writable) connection.write(framed(reply), done)
        else {
          // What deserves no answer is not DNS: there is nothing more to say on this connection.
          if (reply === undefined) connection.destroy()
          done()
        }
      })
    }
    if (inHand >= tcpInHandMax) connection.pause()
  }

  function done(): void {
    inHand--
    desk.inHand.tcp--
    idle.refresh()
    if (!desk.closing) connection.resume()
    take()
    if (ended && inHand === 0) connection.end()
    desk.onDone()
  }
}

/** An answerer that never rejects: what goes wrong inside is told to `onFault`, and the client gets SERVFAIL where a reply is due. */
function guarded(answer: Answerer, onFault: (error: unknown) => void): Answerer {
  return async (message, source, transport, sourcePort) => {
    try {
      return await answer(message, source, transport, sourcePort)
    } catch (error) {
      onFault(error)
      if (gate(message).kind === 'ignore') return undefined
      const question = readQuestion(message)
      return buildError({ message, edns: 'none', ...(question === undefined ? {} : { question }) }, Rcode.ServFail)
    }
  }
}

function warn(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : String(error))
}

type Serve = (udp: UdpSocket, tcp: Server) => void

/** The two sockets of one listener. */
interface Pair {
  readonly udp: UdpSocket
  readonly tcp: Server
  readonly port: number
}

/** A port that is free for one socket may be taken for another: then a new one is tried, this often. */
const portTries = 10

/** Binds every listener and puts the sockets into `bound`; port 0 becomes one port that is free for all of them. */
async function bindAll(listeners: readonly Listener[], bound: Pair[], serve: Serve): Promise<number> {
  const [first] = listeners
  if (first === undefined) throw new Error('no listener is given')
  for (let i = 1; ; i++) {
    try {
      for (const listener of listeners)
        bound.push(await bindPair(listener, listener.port || (bound[0]?.port ?? 0), serve))
      return bound[0]?.port ?? 0
    } catch (error) {
      for (const { udp, tcp } of bound.splice(0)) {
        udp.close()
        tcp.close()
      }
      const isTaken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
      if (first.port !== 0 || !isTaken || i >= portTries) throw error
    }
  }
}

async function bindPair(listener: Listener, port: number, serve: Serve): Promise<Pair> {
  const isSix = listener.kind === 'sockets' ? listener.family === 6 : listener.address.includes(':')
  const udp = createSocket({
    type: isSix ? 'udp6' : 'udp4',
    ipv6Only: isSix,
    recvBufferSize: 4 << 20,
    // All addresses are literal. Node's own look-up would put every reply off to a later tick.
    lookup: (address, _options, callback) => callback(null, address, isSix ? 6 : 4),
  })
  const tcp = createServer({ noDelay: true, allowHalfOpen: true })
  tcp.maxConnections = tcpConnectionsMax
  // Before binding: from then on there may be questions.
  serve(udp, tcp)
  try {
    const bound = await bindUdp(udp, listener, port)
    await bindTcp(tcp, listener, bound, isSix)
    return { udp, tcp, port: bound }
  } catch (error) {
    udp.close()
    tcp.close()
    throw error
  }
}

function bindUdp(socket: UdpSocket, listener: Listener, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    const bound = (): void => {
      socket.removeListener('error', reject)
      socket.on('error', () => undefined)
      resolve(listener.kind === 'sockets' ? listener.port : socket.address().port)
    }
    if (listener.kind === 'sockets') socket.bind({ fd: listener.udpFd, exclusive: true }, bound)
    else socket.bind({ address: listener.address, port, exclusive: true }, bound)
  })
}

function bindTcp(server: Server, listener: Listener, port: number, ipv6Only: boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    const bound = (): void => {
      server.removeListener('error', reject)
      // A connection that could not be accepted is the client's to try again.
      server.on('error', () => undefined)
      resolve()
    }
    if (listener.kind === 'sockets') server.listen({ fd: listener.tcpFd, exclusive: true }, bound)
    else server.listen({ host: listener.address, port, ipv6Only, exclusive: true }, bound)
  })
}

/** Reads source addresses; few workloads ask many questions, so texts are remembered, and all forgotten at the bound. */
function makeAddressReader(): (text: string) => Address | undefined {
  const rememberedMax = 4096
  let known = new Map<string, Address | undefined>()
  return (text) => {
    if (known.has(text)) return known.get(text)
    if (known.size >= rememberedMax) known = new Map()
    const address = addressFromText(text)
    known.set(text, address)
    return address
  }
}
