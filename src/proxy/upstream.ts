// Asking the resolvers behind us: UDP from many random ports with random IDs, TCP when an answer is truncated, the next server when one is
// silent. Only a message from the asked server, on the asking socket, with our ID and our question is an answer (RFC 5452 §9).
import { randomFillSync } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { connect } from 'node:net'
import type { Clock, Millis } from '../clock.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { answersQuestion } from '../wire/answer.ts'
import { Rcode } from '../wire/codes.ts'
import { count, headerOctets, type Question } from '../wire/message.ts'
import { buildQuery, type QueryFlags } from '../wire/reply.ts'
import { framed } from './frame.ts'

export interface Server {
  readonly address: Address
  readonly port: number
}

export interface UpstreamOptions {
  readonly servers: readonly Server[]
  /** How long one server has before the next is tried. */
  readonly timeoutMillis: Millis
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

interface Waiting {
  readonly question: Question
  readonly settle: (reply: UpstreamReply) => void
}

/** The ports from which one server is asked. `opening` resolves to one more, or to why there is none. */
interface Pool {
  readonly server: Server
  readonly name: string
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

export function makeUpstreams({ servers, timeoutMillis, deadlineMillis }: UpstreamOptions, clock: Clock): Upstreams {
  const pools = servers.map((server): Pool => ({ server, name: serverName(server), ports: [], opening: undefined }))
  const ids = makeIds()
  let preferred = 0
  let pending = 0
  let strangers = 0
  /** Questions one after the other that no server answered. */
  let unanswered = 0
  let closing = false

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

  /** Server after server, the one that last answered well first; a server's failure (SERVFAIL, REFUSED) counts only when all say so. */
  async function askServers(question: Question, flags: QueryFlags, deadline: Millis): Promise<UpstreamReply> {
    let failure = failed('network', closing ? 'the proxy is closing' : 'no upstream is configured')
    // A lone server is asked again: a lost datagram must not cost the workload its own timeout.
    const tries = Math.max(3, pools.length)
    const first = preferred
    for (let i = 0; i < tries; i++) {
      const left = deadline - clock()
      const index = (first + i) % pools.length
      const pool = pools[index]
      if (left <= 0 || closing || pool === undefined) break
      const reply = await askServer(pool, question, flags, Math.min(timeoutMillis, left))
      if (reply.kind === 'message') {
        const rcode = (reply.message[3] ?? 0) & 0xf
        const isGood = rcode !== Rcode.ServFail && rcode !== Rcode.Refused
        if (isGood) preferred = index
        if (isGood || i + 1 >= pools.length) return reply
      }
      if (failure.kind === 'failed') failure = reply
    }
    return failure
  }

  async function askServer(pool: Pool, question: Question, flags: QueryFlags, within: Millis): Promise<UpstreamReply> {
    const started = clock()
    const port = pick(pool) ?? (await pool.opening)
    if (port === undefined || port instanceof Error || port.closed)
      return failed('network', `${pool.name} cannot be reached${port instanceof Error ? `: ${codeOf(port)}` : ''}`)
    const reply = await overUdp(port, question, flags, within)
    if (reply.kind === 'failed' || ((reply.message[2] ?? 0) & 0x02) === 0) return reply
    return overTcp(pool, question, flags, Math.max(1, within - (clock() - started)))
  }

  function overUdp(port: Port, question: Question, flags: QueryFlags, within: Millis): Promise<UpstreamReply> {
    const { name } = port.pool
    return new Promise((resolve) => {
      let id = ids()
      while (port.waiting.has(id)) id = ids()
      const settle = (reply: UpstreamReply): void => {
        clearTimeout(timer)
        port.waiting.delete(id)
        retire(port)
        resolve(reply)
      }
      const timer = setTimeout(() => settle(failed('timeout', silence(name, within))), within)
      port.waiting.set(id, { question, settle })
      port.used++
      // An error of sending comes as the socket's error event, see openPort.
      port.socket.send(buildQuery(id, question, flags))
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

  /** Only our question under our ID ends the wait: whoever guesses the ID alone must not be able to make a question fail. */
  function hear(port: Port, message: Buffer): void {
    const waiting = message.length < headerOctets ? undefined : port.waiting.get(count(message, 0))
    if (waiting === undefined || !answersQuestion(waiting.question, message)) strangers++
    else waiting.settle({ kind: 'message', message })
  }

  function overTcp(pool: Pool, question: Question, flags: QueryFlags, within: Millis): Promise<UpstreamReply> {
    const { server, name } = pool
    return new Promise((resolve) => {
      const id = ids()
      let got: Buffer = Buffer.alloc(0)
      const socket = connect({ host: addressToText(server.address), port: server.port })
      const timer = setTimeout(() => end(failed('timeout', `${silence(name, within)} over TCP`)), within)
      const end = (reply: UpstreamReply): void => {
        clearTimeout(timer)
        socket.destroy()
        resolve(reply)
      }
      socket.on('error', (error) => end(failed('network', `${name} over TCP: ${codeOf(error)}`)))
      socket.on('close', () => end(failed('network', `${name} closed the TCP connection without an answer`)))
      socket.on('connect', () => socket.write(framed(buildQuery(id, question, flags))))
      socket.on('data', (chunk) => {
        got = got.length === 0 ? chunk : Buffer.concat([got, chunk])
        while (got.length >= 2 && got.length >= 2 + got.readUInt16BE(0)) {
          // A copy: the message may be kept for long, and what came with it not.
          const message = new Uint8Array(got.subarray(2, 2 + got.readUInt16BE(0)))
          got = got.subarray(2 + message.length)
          if (count(message, 0) === id && answersQuestion(question, message)) return end({ kind: 'message', message })
          strangers++
        }
      })
    })
  }

  function close(): void {
    closing = true
    for (const pool of pools) for (const port of [...pool.ports]) retire(port)
  }
  return { ask, strangers: () => strangers, healthy: () => unanswered < unansweredMax, close }
}

function failed(reason: 'timeout' | 'network', text: string): UpstreamReply {
  return { kind: 'failed', reason, text }
}

const silence = (name: string, within: Millis): string => `${name} did not answer within ${Math.round(within)} ms`

function codeOf(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message
}

function serverName(server: Server): string {
  return `upstream ${addressToText(server.address)}#${server.port}`
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
