// Asking the resolvers behind us: UDP from many random ports with random IDs, TCP when an answer is truncated, TCP or TLS alone where that is
// configured, another server beside one that is slow. Only a message from the asked server, on the asking socket, with our ID and our question is an answer (RFC 5452 §9).
import { randomBytes, randomFillSync } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import type { Clock, Millis } from '../clock.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { answersQuestion } from '../wire/answer.ts'
import { Rcode } from '../wire/codes.ts'
import { count, headerOctets, optionOf, readEdns, readRecord, type Edns, type Question } from '../wire/message.ts'
import { buildQuery, type QueryFlags } from '../wire/reply.ts'
import { makeStream, type Stream } from './stream.ts'

export interface Server {
  readonly address: Address
  readonly port: number
  /** Absent: UDP, and TCP for what does not fit. `tls` is DNS over TLS (RFC 7858). */
  readonly transport?: 'tcp' | 'tls'
  /** The name that its certificate must bear; absent: its address. */
  readonly serverName?: string
  /** A file of certificates (PEM) that may have signed it; absent: those that Node trusts. */
  readonly caFile?: string
}

export interface UpstreamOptions {
  readonly servers: readonly Server[]
  /** How long one server has to answer. */
  readonly timeoutMillis: Millis
  /** After so long without an answer another server is asked as well; the first good answer counts. Absent: only after `timeoutMillis`. */
  readonly hedgeMillis?: Millis
  /**
   * Names go out over UDP in random case, and an answer counts only with the very same: one bit more a letter that a forger must guess ("0x20").
   * One in another case is asked for again over TCP. A server that changes the case there too is known to do so for ten minutes: asked over UDP in the
   * client's case (`prefer`), or over TCP only (`require`).
   */
  readonly mixCase?: 'off' | 'prefer' | 'require'
  /** How long a question takes at most: a workload's resolver gives up after 5 s. */
  readonly deadlineMillis: Millis
}

export type UpstreamReply =
  | { readonly kind: 'message'; readonly message: Uint8Array }
  | { readonly kind: 'failed'; readonly reason: 'timeout' | 'network' | 'overloaded'; readonly text: string }

export interface Upstreams {
  /** Never rejects. */
  readonly ask: (question: Question, flags: QueryFlags) => Promise<UpstreamReply>
  /** Messages that were thrown away: wrong ID, wrong question, too late. */
  readonly strangers: () => number
  /** Whether any of the last questions was answered; true before the first. */
  readonly healthy: () => boolean
  /** Asks nothing new; what is under way ends by itself, within its timeout. */
  readonly close: () => void
}

/** Questions under way; more are refused at once, so that a dead upstream cannot hold memory. */
export const pendingMax = 4096
/** So many without an answer mean that the servers are gone; one name whose own servers are silent does not. */
const unansweredMax = 5
/** Sockets, hence source ports, a server at a time. With the ID that is 20 bits to guess, anew every second or two. */
const socketsPerServer = 16
/** A socket is given up for a fresh port after so many questions or so long. */
const questionsPerSocketMax = 1000
const socketAgeMillisMax = 10_000
/** How long a server is known to change the case of names. */
const foldsMillis = 600_000
/** How long a server that does not know OPT is asked without, before it is tried again: it may have been replaced. */
const plainMillis = 600_000
/** So many unanswered questions in a row, and a server is asked only when the others fail, or one question in `probeEvery` finds out. */
const downAfter = 3
const probeEvery = 32
/** Options of a client that are longer than this go over TCP: with the longest name, the query stays below the least MTU. */
const optionsOverUdpMax = 512

interface Waiting {
  readonly question: Question
  readonly hasEdns: boolean
  /** The answer must be in the case of the question. */
  readonly isMixed: boolean
  readonly settle: (reply: UpstreamReply | 'folded') => void
}

const clientCookieOctets = 8

/** The ports from which one server is asked. `opening` resolves to one more, or to why there is none. */
interface Pool {
  readonly server: Server
  readonly name: string
  readonly stream: Stream
  /** Our cookie, 8 octets, and, once it told one, the server's behind it (RFC 7873 §4). */
  cookie: Uint8Array
  /** Until then it is asked without OPT, which it did not understand. */
  plainUntil: Millis
  /** Until then it is known to change the case of names. */
  foldsUntil: Millis
  /** Questions one after the other that it did not answer; from `downAfter` on it is asked last. */
  silent: number
  ports: Port[]
  opening: Promise<Port | Error> | undefined
}

interface Port {
  readonly pool: Pool
  readonly socket: Socket
  readonly bornAt: Millis
  readonly waiting: Map<number, Waiting>
  used: number
  closed: boolean
}

/** Throws when a `caFile` cannot be read. */
export function makeUpstreams(options: UpstreamOptions, clock: Clock): Upstreams {
  const { servers, timeoutMillis, hedgeMillis = timeoutMillis, deadlineMillis, mixCase = 'off' } = options
  const pools = servers.map(makePool)
  const ids = makeIds()
  let preferred = 0
  let pending = 0
  let strangers = 0
  let asked = 0
  /** Questions one after the other that no server answered. */
  let unanswered = 0
  let closing = false

  function makePool(server: Server): Pool {
    const { address, port, transport, serverName = addressToText(address), caFile } = server
    const ca = caFile === undefined ? undefined : readFileSync(caFile, 'utf8')
    const name = nameOf(server)
    const stream = makeStream(
      { address: addressToText(address), port, name: transport === undefined ? `${name} over TCP` : name, tls: transport === 'tls' ? { serverName, ca } : undefined }, // prettier-ignore
      () => void strangers++,
    )
    return { server, name, stream, cookie: new Uint8Array(randomBytes(clientCookieOctets)), plainUntil: -Infinity, foldsUntil: -Infinity, silent: 0, ports: [], opening: undefined } // prettier-ignore
  }

  async function ask(question: Question, flags: QueryFlags): Promise<UpstreamReply> {
    if (pending >= pendingMax)
      return { kind: 'failed', reason: 'overloaded', text: `${pending} questions are under way already` }
    pending++
    try {
      const reply = await askServers(question, flags, clock() + deadlineMillis)
      unanswered = reply.kind === 'message' ? 0 : unanswered + 1
      return reply
    } finally {
      pending--
    }
  }

  /** Servers in the order in which they are asked: the one that last answered well first, the silent ones last. */
  function inOrder(): readonly Pool[] {
    if (pools.length === 1) return pools
    const order = pools.map((_, i) => pools[(preferred + i) % pools.length]).filter((pool) => pool !== undefined)
    if (++asked % probeEvery === 0) return order
    return [...order.filter(({ silent }) => silent < downAfter), ...order.filter(({ silent }) => silent >= downAfter)]
  }

  /**
   * Asks the first server; the next as soon as one failed, or beside it when it is slow. The first good answer counts; a server's failure
   * (SERVFAIL, REFUSED) only when all say so.
   */
  function askServers(question: Question, flags: QueryFlags, deadline: Millis): Promise<UpstreamReply> {
    const order = inOrder()
    // A lone server is asked again: a lost datagram must not cost the workload its own timeout.
    const tries = closing ? 0 : order.length === 0 ? 0 : Math.max(3, order.length)
    return new Promise((resolve) => {
      let started = 0
      let open = 0
      let done = false
      let failure = failed('network', closing ? 'the proxy is closing' : 'no upstream is configured')
      let unhappy: UpstreamReply | undefined
      let hedge: NodeJS.Timeout | undefined
      const finish = (reply: UpstreamReply): void => {
        done = true
        clearTimeout(hedge)
        resolve(reply)
      }
      const next = (): void => {
        clearTimeout(hedge)
        if (done) return
        const left = deadline - clock()
        const pool = order[started % order.length]
        if (pool === undefined || started >= tries || left <= 0 || closing) {
          if (open === 0) finish(unhappy ?? failure)
          return
        }
        const isFirst = started === 0
        started++
        open++
        if (started < tries && hedgeMillis < timeoutMillis) hedge = setTimeout(next, hedgeMillis)
        // The last has all that is left: behind it nobody else is asked.
        void askServer(pool, question, flags, started < tries ? Math.min(timeoutMillis, left) : left).then((reply) => {
          open--
          pool.silent = reply.kind === 'message' ? 0 : pool.silent + 1
          if (done) return
          if (reply.kind === 'message') {
            const rcode = (reply.message[3] ?? 0) & 0xf
            if (rcode !== Rcode.ServFail && rcode !== Rcode.Refused) {
              preferred = pools.indexOf(pool)
              return finish(reply)
            }
            unhappy ??= reply
            // Every server was asked and has answered like this: to ask again changes nothing.
            if (started >= order.length && open === 0) return finish(unhappy)
          } else if (isFirst || failure.text.startsWith('no upstream')) failure = reply
          next()
        })
      }
      next()
    })
  }

  async function askServer(pool: Pool, question: Question, flags: QueryFlags, within: Millis): Promise<UpstreamReply> {
    const deadline = clock() + within
    const left = (): Millis => Math.max(1, deadline - clock())
    const hadEdns = clock() >= pool.plainUntil
    let reply = await askOnce(pool, question, flags, left())
    if (reply.kind === 'failed') return reply
    if (hadEdns && isWithoutEdns(reply.message, question)) {
      // It does not know OPT (RFC 6891 §7): once more, without.
      pool.plainUntil = clock() + plainMillis
      reply = await askOnce(pool, question, flags, left())
    } else if (isBadCookie(reply.message, question)) {
      // It wants the cookie that it has just told us (RFC 7873 §5.3); what is still not right goes over TCP.
      reply = await askOnce(pool, question, flags, left())
      if (reply.kind === 'message' && isBadCookie(reply.message, question))
        reply = await overStream(pool, question, flags, left())
    }
    return reply
  }

  async function askOnce(pool: Pool, question: Question, flags: QueryFlags, within: Millis): Promise<UpstreamReply> {
    if (pool.server.transport !== undefined || flags.options.length > optionsOverUdpMax)
      return overStream(pool, question, flags, within)
    const started = clock()
    const left = (): Millis => Math.max(1, within - (clock() - started))
    const folds = started < pool.foldsUntil
    if (mixCase === 'require' && folds) return overStream(pool, question, flags, within)
    const isMixed = mixCase !== 'off' && !folds
    const port = pick(pool) ?? (await pool.opening)
    if (port === undefined || port instanceof Error || port.closed)
      return failed('network', `${pool.name} cannot be reached${port instanceof Error ? `: ${codeOf(port)}` : ''}`)
    const reply = await overUdp(port, isMixed ? mixed(question, ids) : question, flags, within, isMixed)
    if (reply === 'folded') return overStreamMixed(pool, question, flags, left())
    if (reply.kind === 'failed' || ((reply.message[2] ?? 0) & 0x02) === 0) return reply
    return overStream(pool, question, flags, left())
  }

  /** An answer came in another case: a forger's, or the server's way. Nobody can forge over TCP, so what it does there is its way. */
  async function overStreamMixed(
    pool: Pool,
    question: Question,
    flags: QueryFlags,
    within: Millis,
  ): Promise<UpstreamReply> {
    const started = clock()
    const asked = mixed(question, ids)
    const reply = await overStream(pool, asked, flags, within)
    if (reply.kind === 'message' && !isInCaseOf(asked, reply.message)) pool.foldsUntil = clock() + foldsMillis
    if (reply.kind === 'message' || reply.reason !== 'network' || mixCase === 'require') return reply
    // It has no TCP: then it is as if the case were not mixed at all.
    const port = pick(pool) ?? (await pool.opening)
    if (port === undefined || port instanceof Error || port.closed) return reply
    const plain = await overUdp(port, question, flags, Math.max(1, within - (clock() - started)), false)
    return plain === 'folded' ? reply : plain
  }

  function overStream(pool: Pool, question: Question, flags: QueryFlags, within: Millis): Promise<UpstreamReply> {
    return pool.stream.ask(question, (id) => buildQuery(id, question, flags, clock() < pool.plainUntil ? 'none' : {}), within)
  } // prettier-ignore

  /** `folded`: an answer came, but not in the case of the question, in which it had to be. */
  function overUdp(
    port: Port,
    question: Question,
    flags: QueryFlags,
    within: Millis,
    isMixed: boolean,
  ): Promise<UpstreamReply | 'folded'> {
    const { name } = port.pool
    return new Promise((resolve) => {
      let id = ids()
      while (port.waiting.has(id)) id = ids()
      const settle = (reply: UpstreamReply | 'folded'): void => {
        clearTimeout(timer)
        port.waiting.delete(id)
        retire(port)
        resolve(reply)
      }
      const timer = setTimeout(() => settle(failed('timeout', silence(name, within))), within)
      const hasEdns = clock() >= port.pool.plainUntil
      port.waiting.set(id, { question, hasEdns, isMixed, settle })
      port.used++
      // An error of sending comes as the socket's error event, see openPort.
      const { cookie } = port.pool
      port.socket.send(buildQuery(id, question, flags, hasEdns ? { cookie } : 'none'))
    })
  }

  /** A random one of the ports that are not spent. One more is opened while there are few; with none at all the caller waits for that. */
  function pick(pool: Pool): Port | undefined {
    let port: Port | undefined
    while (port === undefined && pool.ports.length > 0) {
      port = pool.ports[ids() % pool.ports.length]
      if (port === undefined || !isSpent(port)) continue
      pool.ports.splice(pool.ports.indexOf(port), 1)
      retire(port)
      port = undefined
    }
    if (pool.ports.length < socketsPerServer)
      pool.opening ??= openPort(pool).finally(() => {
        pool.opening = undefined
      })
    return port
  }

  const isSpent = (port: Port): boolean =>
    port.used >= questionsPerSocketMax || clock() - port.bornAt > socketAgeMillisMax

  /** Closes a port that is spent, or not needed because we close, when nobody waits on it any more. */
  function retire(port: Port): void {
    if (port.closed || port.waiting.size > 0 || (!closing && !isSpent(port))) return
    shut(port)
  }

  function shut(port: Port): void {
    port.closed = true
    port.pool.ports = port.pool.ports.filter((other) => other !== port)
    port.socket.close()
  }

  function openPort(pool: Pool): Promise<Port | Error> {
    const { server, name } = pool
    return new Promise((resolve) => {
      const socket = createSocket({ type: familyOf(server.address) === 4 ? 'udp4' : 'udp6', recvBufferSize: 1 << 20 })
      const port: Port = { pool, socket, bornAt: clock(), waiting: new Map(), used: 0, closed: false }
      let connected = false
      socket.on('message', (message) => hear(port, message))
      socket.on('error', (error) => {
        if (!connected) {
          shut(port)
          resolve(error)
          return
        }
        // An ICMP error, or a datagram that could not leave: the server is not to be reached from here. Whoever waits here need not.
        const failure = failed('network', `${name} cannot be reached: ${codeOf(error)}`)
        for (const { settle } of [...port.waiting.values()]) settle(failure)
      })
      socket.on('connect', () => {
        connected = true
        if (closing) shut(port)
        else pool.ports.push(port)
        resolve(port)
      })
      // By event, not by callback: a callback would be called for a failure too, without saying so in its type.
      socket.connect(server.port, addressToText(server.address))
      socket.unref()
    })
  }

  /**
   * Only our question under our ID ends the wait: whoever guesses the ID alone must not be able to make a question fail. A server that does not
   * know OPT may send back a bare header with FORMERR: that makes us ask without OPT, no more.
   */
  function hear(port: Port, message: Buffer): void {
    const waiting = message.length < headerOctets ? undefined : port.waiting.get(count(message, 0))
    if (waiting === undefined) return void strangers++
    const isBare = waiting.hasEdns && isBareFormErr(message)
    if (!isBare && !answersQuestion(waiting.question, message)) return void strangers++
    if (!isBare && !takeCookie(port.pool, waiting.question, message)) return void strangers++
    if (!isBare && waiting.isMixed && !isInCaseOf(waiting.question, message)) {
      strangers++
      return waiting.settle('folded')
    }
    waiting.settle({ kind: 'message', message })
  }

  /** Keeps the server's cookie; false when the message bears a cookie that is not an answer to ours (RFC 7873 §5.3): somebody guessed. */
  function takeCookie(pool: Pool, question: Question, message: Uint8Array): boolean {
    const cookie = optionOf(ednsOf(message, question), 10)
    if (cookie === undefined) return true
    if (cookie.length < 16 || cookie.length > 40) return false
    for (let i = 0; i < clientCookieOctets; i++) if (cookie[i] !== pool.cookie[i]) return false
    if (Buffer.compare(cookie, pool.cookie) !== 0) pool.cookie = new Uint8Array(cookie)
    return true
  } // prettier-ignore

  function close(): void {
    closing = true
    for (const pool of pools) {
      pool.stream.close()
      for (const port of [...pool.ports]) retire(port)
    }
  }
  return { ask, strangers: () => strangers, healthy: () => unanswered < unansweredMax, close }
}

/** The question with the letters of its name in random case. Length octets are below 64: none is a letter. */
function mixed(question: Question, random: () => number): Question {
  const octets = Uint8Array.from(question.octets)
  let bits = 0
  for (let i = 0; i < octets.length - 4; i++) {
    if (i % 16 === 0) bits = random()
    const octet = octets[i] ?? 0
    const isLetter = (octet | 0x20) >= 0x61 && (octet | 0x20) <= 0x7a
    if (isLetter) octets[i] = (octet & ~0x20) | (((bits >>> (i % 16)) & 1) << 5)
  }
  return { ...question, octets }
}

/** Whether a message that answers the question bears its name octet for octet. */
const isInCaseOf = ({ octets }: Question, message: Uint8Array): boolean =>
  octets.every((octet, i) => message[headerOctets + i] === octet)

function failed(reason: 'timeout' | 'network', text: string): UpstreamReply & { readonly kind: 'failed' } {
  return { kind: 'failed', reason, text }
}

const silence = (name: string, within: Millis): string => `${name} did not answer within ${Math.round(within)} ms`

function codeOf(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message
}

function nameOf({ address, port, transport, serverName }: Server): string {
  const how = transport === undefined ? '' : ` over ${transport.toUpperCase()}`
  return `upstream ${addressToText(address)}#${port}${how}${serverName === undefined ? '' : ` (${serverName})`}`
}

/** The OPT record of an answer; `none` as well where it cannot be read: answer.ts judges that. */
function ednsOf(message: Uint8Array, question: Question): Edns | 'none' {
  let at = headerOctets + question.octets.length
  for (let i = count(message, 6) + count(message, 8); i > 0; i--) {
    const record = readRecord(message, at)
    if (record === undefined) return 'none'
    at = record.end
  }
  return readEdns(message, at, count(message, 10)) ?? 'none'
}

const isBareFormErr = (message: Uint8Array): boolean =>
  message.length === headerOctets && ((message[2] ?? 0) & 0xf8) === 0x80 && ((message[3] ?? 0) & 0xf) === Rcode.FormErr

/** FORMERR or NOTIMP without OPT: the server knows no EDNS (RFC 6891 §7). */
function isWithoutEdns(message: Uint8Array, question: Question): boolean {
  const rcode = (message[3] ?? 0) & 0xf
  if (rcode !== Rcode.FormErr && rcode !== Rcode.NotImp) return false
  return isBareFormErr(message) || ednsOf(message, question) === 'none'
}

function isBadCookie(message: Uint8Array, question: Question): boolean {
  if (((message[3] ?? 0) & 0xf) !== (Rcode.BadCookie & 0xf)) return false
  const edns = ednsOf(message, question)
  return edns !== 'none' && edns.extendedRcode === Rcode.BadCookie >>> 4
}

/** Unpredictable 16-bit numbers, drawn in blocks: a system call for each would cost more than the query. */
function makeIds(): () => number {
  const block = new Uint16Array(2048)
  let next = block.length
  return () => {
    if (next >= block.length) {
      randomFillSync(block)
      next = 0
    }
    return block[next++] ?? 0
  }
}
