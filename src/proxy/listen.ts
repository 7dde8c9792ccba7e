// The proxy's sockets: UDP and TCP on one port, for each family. Reads messages, gives them to the story, writes its replies.
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { createServer, type Server, type Socket } from 'node:net'
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises'
import { addressFromText, addressToText, type Address } from '../net/address.ts'
import { Rcode } from '../wire/codes.ts'
import { gate, readQuestion } from '../wire/message.ts'
import { buildError } from '../wire/reply.ts'
import {
  addressOf,
  batchMax,
  makeBatches,
  placeAt,
  portOf,
  replyOctetsMax,
  type Batches,
  type Datagrams,
  type Place,
} from './datagrams.ts'
import { framed } from './frame.ts'
import type { Replays } from './replay.ts'

/** Where to listen: an address of this namespace (port 0: any that is free for both), or sockets that were bound in another one. */
export type Listener =
  | { readonly kind: 'address'; readonly address: string; readonly port: number }
  | {
      readonly kind: 'sockets'
      readonly family: 4 | 6
      readonly udpFd: number
      readonly tcpFd: number
      readonly port: number
      /** Which address they are bound to, where it is one to lead DNS to. */
      readonly address?: string
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
  /**
   * Sockets that were bound elsewhere are read from here on, and not before: what comes waits in them, where there is more room than with us. Those of
   * our own are read from the start. Resolves when connections are accepted and questions are being read.
   * @param isBehind while it is true, questions are read no faster than they are answered, as those are that waited.
   */
  readonly begin: (isBehind?: () => boolean) => Promise<void>
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

export interface ListenOptions {
  /** Answers what it can at once; all else is the answerer's. */
  readonly replays?: Pick<Replays, 'turn' | 'replay'>
  /** Undefined: datagrams come and go one by one. */
  readonly batches: Batches | undefined
  readonly tcpIdleMillis?: number
}

/** What the sockets of one proxy share. */
interface Desk {
  readonly replays: Pick<Replays, 'turn' | 'replay'>
  readonly batches: Batches | undefined
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
  { replays = noReplays, batches, tcpIdleMillis = tcpIdleMillisDefault }: ListenOptions = { batches: makeBatches() },
): Promise<Listening> {
  const desk: Desk = {
    replays,
    batches,
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
  const serve: Serve = async ({ udp, datagrams, tcp }, isBehind) => {
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
    await serveUdp(desk, udp, datagrams, isBehind)
  }
  const [first] = listeners
  if (first === undefined) throw new Error('no listener is given')
  const isOwn = (listener: Listener): listener is Listener & { kind: 'address' } => listener.kind === 'address'
  const port = isOwn(first) ? await bindAll(listeners.filter(isOwn), batches, bound, serve) : first.port
  /** Of sockets that are still read as fast as they are answered. */
  const catchingUp: Promise<void>[] = []
  async function begin(isBehind: () => boolean = () => false): Promise<void> {
    for (const listener of listeners) {
      if (listener.kind === 'address' || desk.closing) continue
      const { pair, udpRead } = await takeUp(listener, batches, serve, isBehind, () => desk.closing)
      bound.push(pair)
      catchingUp.push(udpRead.catch(deaf))
    }
  }

  /** A socket that nobody reads any more must not look as if somebody did: this process ends, and who comes after it reads. */
  function deaf(error: unknown): void {
    onFault(error)
    setImmediate(() => {
      throw error
    })
  }

  let closed: Promise<void> | undefined
  async function shut(): Promise<void> {
    desk.closing = true
    const ended = bound.map(({ tcp }) => new Promise((resolve) => tcp.close(resolve)))
    // Replies leave by a descriptor of their own, so reading ends now: what comes from here on waits for whoever else has the socket.
    for (const { udp, datagrams } of bound)
      if (datagrams !== undefined) udp.close()
      else udp.removeAllListeners('message')
    for (const connection of connections.keys()) connection.pause()
    await Promise.all(catchingUp)
    await drained(desk)
    desk.closed = true
    for (const { udp, datagrams } of bound)
      if (datagrams !== undefined) datagrams.close()
      else udp.close()
    for (const connection of connections.keys()) connection.destroy()
    await Promise.all(ended)
  }
  return { port, begin, dropped: () => desk.dropped, close: () => (closed ??= shut()) }
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

const noReplays: Pick<Replays, 'turn' | 'replay'> = { turn: () => undefined, replay: () => 0 }
/** Questions that are read at once, before timers and connections get their turn: under 2 ms, where they are told again. */
const questionsPerTurn = 256
/** Of questions that waited in the socket, so many are in hand before more are read; but one that takes long does not hold up the others. */
const waitingInHandMax = 256
const waitingTriesMax = 50

/**
 * Reads questions one by one as they come, and with `datagrams` in batches what has come behind each; replies that are ready together leave
 * together.
 * @param isBehind whether there may be more than is answered as it comes; undefined: nothing can have come before. Resolves when that is over.
 */
async function serveUdp(
  desk: Desk,
  socket: UdpSocket,
  datagrams: Datagrams | undefined,
  isBehind: (() => boolean) | undefined,
): Promise<void> {
  const { replays } = desk
  const scratch = new Uint8Array(replyOctetsMax)
  /** Told when the replies that wait have left. */
  let waiting: (() => void)[] = []

  socket.on('message', (message, from) => {
    replays.turn()
    const source = desk.addressOf(from.address)
    // Nobody can be answered at port 0 (RFC 768: none was given); to try would throw.
    if (source === undefined || from.port === 0) desk.dropped++
    else takeFirst(message, source, from.address, from.port)
    if (datagrams !== undefined) takeMore(datagrams)
  })
  let isOfLibuv = isBehind === undefined
  if (isBehind !== undefined && datagrams !== undefined) await takeWaiting(datagrams, isBehind)
  isOfLibuv = true

  function takeFirst(message: Uint8Array, source: Address, address: string, port: number): void {
    // A scope (`fe80::1%eth0`) says more than the address: that is left to libuv.
    const place = datagrams === undefined || address.includes('%') ? undefined : placeAt(source, port)
    if (datagrams === undefined || place === undefined) {
      const length = replays.replay(message, 0, message.length, source, scratch, 0, port)
      // The workload may be gone: a reply that cannot be sent is a reply lost on the way. Done when it has left, not before.
      if (length > 0) socket.send(scratch.slice(0, length), port, address)
      else ask(message, source, port, (reply, done) => sendAlone(reply, port, address, done))
      return
    }
    if (datagrams.isFull()) flush(datagrams)
    const length = replays.replay(message, 0, message.length, source, datagrams.outgoing, datagrams.replyAt(), port)
    if (length > 0) datagrams.replyTo(place, length)
    else ask(message, source, port, (reply, done) => sendSoon(datagrams, reply, place, done))
  }

  /** Until nothing is left, not only until a batch is not full: to be woken again costs as much as ten questions. The first batch is of the turn that the first one opened. */
  function takeMore(datagrams: Datagrams): void {
    for (let taken = 0; taken < questionsPerTurn;) {
      const count = takeBatch(datagrams, taken > 0)
      if (count === 0) return
      taken += count
    }
  }
  function takeBatch(datagrams: Datagrams, isNewTurn = true): number {
    const count = datagrams.receive()
    if (count > 0 && isNewTurn) replays.turn()
    for (let i = 0; i < count; i++) takeOne(datagrams, i)
    flush(datagrams)
    return count
  }

  /** No faster than it is answered: with nothing in the cache, thousands of questions at once are more than may be in hand. */
  async function takeWaiting(datagrams: Datagrams, isBehind: () => boolean): Promise<void> {
    for (let count = batchMax; (count === batchMax || isBehind()) && !desk.closing;) {
      count = takeBatch(datagrams)
      for (let i = 0; i < waitingTriesMax && desk.inHand.udp > waitingInHandMax; i++) await pause(1)
      if (count === batchMax) await nextTurn()
      else await pause(1)
    }
  }

  function takeOne(datagrams: Datagrams, i: number): void {
    const source = datagrams.sourceOf(i)
    if (datagrams.portOf(i) === 0) {
      desk.dropped++
      return
    }
    const start = datagrams.startOf(i)
    const end = start + datagrams.lengthOf(i)
    if (datagrams.isFull()) flush(datagrams)
    const length = replays.replay(
      datagrams.incoming,
      start,
      end,
      source,
      datagrams.outgoing,
      datagrams.replyAt(),
      datagrams.portOf(i),
    )
    if (length > 0) {
      datagrams.replyBack(i, length)
      return
    }
    const place = datagrams.placeOf(i)
    ask(datagrams.incoming.slice(start, end), source, datagrams.portOf(i), (reply, done) =>
      sendSoon(datagrams, reply, place, done),
    )
  }

  function ask(
    message: Uint8Array,
    source: Address,
    port: number,
    send: (reply: Uint8Array, done: () => void) => void,
  ): void {
    if (!desk.shares.take(source)) {
      desk.dropped++
      return
    }
    desk.inHand.udp++
    const done = (): void => {
      desk.inHand.udp--
      desk.shares.giveBack(source)
      desk.onDone()
    }
    void desk.answer(message, source, 'udp', port).then((reply) => {
      if (reply === undefined || desk.closed) done()
      else send(reply, done)
    })
  }

  /** With all other replies of this turn. */
  function sendSoon(datagrams: Datagrams, reply: Uint8Array, place: Place, done: () => void): void {
    if (datagrams.isFull()) flush(datagrams)
    datagrams.outgoing.set(reply, datagrams.replyAt())
    datagrams.replyTo(place, reply.length)
    if (waiting.push(done) === 1) process.nextTick(flush, datagrams)
  }
  function flush(datagrams: Datagrams): void {
    if (!desk.closed) datagrams.flush(sendLeft)
    if (waiting.length === 0) return
    const left = waiting
    waiting = []
    for (const done of left) done()
  }
  /** Waits for room in the socket, as libuv does: once that has it. Before, a send of its own would bind it to another port. */
  function sendLeft(reply: Uint8Array, place: Place): void {
    if (isOfLibuv) sendAlone(reply, portOf(place), addressToText(addressOf(place)), () => undefined)
  }
  function sendAlone(reply: Uint8Array, port: number, address: string, done: () => void): void {
    if (desk.closed || (desk.closing && datagrams !== undefined)) done()
    else socket.send(reply, port, address, done)
  }
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

/** @param isBehind as `begin` has it; undefined: nobody can have asked before. */
type Serve = (pair: Omit<Pair, 'port'>, isBehind: (() => boolean) | undefined) => Promise<void>

/** The two sockets of one listener. */
interface Pair {
  readonly udp: UdpSocket
  readonly datagrams: Datagrams | undefined
  readonly tcp: Server
  readonly port: number
}

function closePair({ udp, datagrams, tcp }: Omit<Pair, 'port'>): void {
  udp.close()
  datagrams?.close()
  tcp.close()
}

/** A port that is free for one socket may be taken for another: then a new one is tried, this often. */
const portTries = 10

/** Binds every listener and puts the sockets into `bound`; port 0 becomes one port that is free for all of them. */
async function bindAll(
  listeners: readonly (Listener & { kind: 'address' })[],
  batches: Batches | undefined,
  bound: Pair[],
  serve: Serve,
): Promise<number> {
  for (let i = 1; ; i++) {
    try {
      for (const listener of listeners)
        bound.push(await bindPair(listener, listener.port || (bound[0]?.port ?? 0), batches, serve))
      return bound[0]?.port ?? 0
    } catch (error) {
      for (const pair of bound.splice(0)) closePair(pair)
      const isTaken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE'
      if (listeners[0]?.port !== 0 || !isTaken || i >= portTries) throw error
    }
  }
}

async function bindPair(listener: Listener & { kind: 'address' }, port: number, batches: Batches | undefined, serve: Serve): Promise<Pair> {
  const isSix = listener.address.includes(':')
  const { udp, tcp } = makePair(isSix, batches)
  let datagrams: Datagrams | undefined
  try {
    const udpFd = openUdp(listener, port, batches)
    datagrams = udpFd === undefined ? undefined : batches?.on(udpFd)
    // Before binding: from then on there may be questions.
    await serve({ udp, datagrams, tcp }, undefined)
    const bound = await bindUdp(udp, listener, udpFd, port)
    if (udpFd !== undefined) batches?.claim(udpFd)
    await bindTcp(tcp, listener, bound, isSix)
    return { udp, datagrams, tcp, port: bound }
  } catch (error) {
    closePair({ udp, datagrams, tcp })
    throw error
  }
} // prettier-ignore

/** The pair once its connections are accepted; `udpRead` resolves when what waited is read, and libuv has the socket. */
interface TakenUp {
  readonly pair: Pair
  readonly udpRead: Promise<void>
}

/** Sockets that were bound elsewhere, with what waits in them. */
async function takeUp(listener: Listener & { kind: 'sockets' }, batches: Batches | undefined, serve: Serve, isBehind: () => boolean, isClosing: () => boolean): Promise<TakenUp> {
  const { family, udpFd, port } = listener
  const { udp, tcp } = makePair(family === 6, batches)
  const datagrams = batches?.on(udpFd)
  async function readUdp(): Promise<void> {
    await read
    if (isClosing()) return
    await bindUdp(udp, listener, udpFd, port)
    batches?.claim(udpFd)
  }
  const read = serve({ udp, datagrams, tcp }, isBehind)
  try {
    await bindTcp(tcp, listener, port, family === 6)
    return { pair: { udp, datagrams, tcp, port }, udpRead: readUdp() }
  } catch (error) {
    closePair({ udp, datagrams, tcp })
    throw error
  }
} // prettier-ignore

function makePair(isSix: boolean, batches: Batches | undefined): Pick<Pair, 'udp' | 'tcp'> {
  const udp = createSocket({
    type: isSix ? 'udp6' : 'udp4',
    ipv6Only: isSix,
    ...(batches === undefined ? { recvBufferSize: 4 << 20 } : {}),
    // All addresses are literal. Node's own look-up would put every reply off to a later tick.
    lookup: (address, _options, callback) => callback(null, address, isSix ? 6 : 4),
  })
  const tcp = createServer({ noDelay: true, allowHalfOpen: true })
  tcp.maxConnections = tcpConnectionsMax
  return { udp, tcp }
}

/** A socket of our own, so that we know its number; undefined where `node:dgram` must make one. */
function openUdp({ address: text }: Listener & { kind: 'address' }, port: number, batches: Batches | undefined): number | undefined {
  const address = text.includes('%') ? undefined : addressFromText(text)
  return address === undefined ? undefined : batches?.open(address, port)
} // prettier-ignore

function bindUdp(socket: UdpSocket, listener: Listener, fd: number | undefined, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    const bound = (): void => {
      socket.removeListener('error', reject)
      socket.on('error', () => undefined)
      resolve(listener.kind === 'sockets' ? listener.port : socket.address().port)
    }
    if (fd !== undefined) socket.bind({ fd, exclusive: true }, bound)
    else if (listener.kind === 'address') socket.bind({ address: listener.address, port, exclusive: true }, bound)
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
