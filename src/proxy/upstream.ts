// Asking the resolvers behind us: UDP from many random ports with random IDs, TCP when an answer is truncated, the next server when one is
// silent. Only a message from the asked server, on the asking socket, with our ID and our question is an answer (RFC 5452 §9).
import { randomFillSync } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { connect } from 'node:net'
import type { Clock, Millis } from '../clock.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { answersQuestion } from '../wire/answer.ts'
import { Rcode } from '../wire/codes.ts'
import { count, type Question } from '../wire/message.ts'
import { buildQuery, type QueryFlags } from '../wire/reply.ts'

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
  /** Whether the last question that ended was answered; true before the first. */
  readonly healthy: () => boolean
  readonly close: () => void
}

/** Questions under way; more are refused at once, so that a dead upstream cannot hold memory. */
export const pendingMax = 4096
/** Sockets, hence source ports, a server at a time. With the ID that is 20 bits to guess, anew every second or two. */
const socketsPerServer = 16
/** A socket is given up for a fresh port after so many questions or so long. */
const questionsPerSocketMax = 1000
const socketAgeMillisMax = 10_000

interface Waiting {
  readonly question: Question
  readonly settle: (message: Uint8Array | undefined) => void
}

interface Port {
  readonly socket: Socket
  readonly bornAt: Millis
  readonly waiting: Map<number, Waiting>
  used: number
}

export function makeUpstreams({ servers, timeoutMillis, deadlineMillis }: UpstreamOptions, clock: Clock): Upstreams {
  const pools = servers.map(() => ({
    ports: [] as Port[],
    opening: undefined as Promise<Port | undefined> | undefined,
  }))
  const ids = makeIds()
  let preferred = 0
  let pending = 0
  let strangers = 0
  let healthy = true
  let closed = false

  async function ask(question: Question, flags: QueryFlags): Promise<UpstreamReply> {
    if (pending >= pendingMax)
      return { kind: 'failed', reason: 'overloaded', text: `${pending} questions are under way already` }
    pending++
    try {
      const reply = await askServers(question, flags, clock() + deadlineMillis)
      healthy = reply.kind === 'message'
      return reply
    } finally {
      pending--
    }
  }

  /** Server after server, the one that last answered first; a server's failure (SERVFAIL, REFUSED) counts only when all say so. */
  async function askServers(question: Question, flags: QueryFlags, deadline: Millis): Promise<UpstreamReply> {
    let failure: UpstreamReply = { kind: 'failed', reason: 'network', text: 'no upstream is configured' }
    // A lone server is asked again: a lost datagram must not cost the workload its own timeout.
    const tries = Math.max(3, servers.length)
    const first = preferred
    for (let i = 0; i < tries && servers.length > 0; i++) {
      const left = deadline - clock()
      if (left <= 0 || closed) break
      const index = (first + i) % servers.length
      const reply = await askServer(index, question, flags, Math.min(timeoutMillis, left))
      if (reply.kind === 'message') {
        preferred = index
        const rcode = (reply.message[3] ?? 0) & 0xf
        if ((rcode !== Rcode.ServFail && rcode !== Rcode.Refused) || i + 1 >= servers.length) return reply
      }
      if (failure.kind === 'failed') failure = reply
    }
    return failure
  }

  async function askServer(
    index: number,
    question: Question,
    flags: QueryFlags,
    within: Millis,
  ): Promise<UpstreamReply> {
    const started = clock()
    const name = serverName(servers[index])
    const port = await portOf(index)
    if (port === undefined) return { kind: 'failed', reason: 'network', text: `${name} cannot be reached` }
    const message = await overUdp(port, question, flags, within)
    if (message === 'refused')
      return { kind: 'failed', reason: 'network', text: `${name} refused: nothing listens there` }
    if (message === undefined)
      return { kind: 'failed', reason: 'timeout', text: `${name} did not answer within ${Math.round(within)} ms` }
    if (((message[2] ?? 0) & 0x02) === 0) return { kind: 'message', message }
    const whole = await overTcp(servers[index], question, flags, Math.max(1, within - (clock() - started)))
    if (whole === undefined)
      return { kind: 'failed', reason: 'timeout', text: `${name} truncated its answer and gave none over TCP` }
    return { kind: 'message', message: whole }
  }

  function overUdp(
    port: Port,
    question: Question,
    flags: QueryFlags,
    within: Millis,
  ): Promise<Uint8Array | 'refused' | undefined> {
    return new Promise((resolve) => {
      let id = ids()
      while (port.waiting.has(id)) id = ids()
      const timer = setTimeout(() => settle(undefined), within)
      const settle = (message: Uint8Array | undefined, refused = false): void => {
        clearTimeout(timer)
        port.waiting.delete(id)
        retire(port)
        resolve(refused ? 'refused' : message)
      }
      port.waiting.set(id, { question, settle: (message) => settle(message, message === undefined) })
      port.used++
      port.socket.send(buildQuery(id, question, flags))
    })
  }

  /** A port to ask from; another one is opened while there are few, a spent one replaced. */
  async function portOf(index: number): Promise<Port | undefined> {
    const pool = pools[index]
    if (pool === undefined) return undefined
    pool.ports = pool.ports.filter((port) => !isSpent(port) || (retire(port), false))
    if (pool.ports.length < socketsPerServer) pool.opening ??= openPort(index).finally(() => (pool.opening = undefined))
    if (pool.ports.length === 0) return pool.opening
    return pool.ports[ids() % pool.ports.length]
  }

  const isSpent = (port: Port): boolean =>
    port.used >= questionsPerSocketMax || clock() - port.bornAt > socketAgeMillisMax

  /** Closes a spent port when nobody waits on it any more. */
  function retire(port: Port): void {
    if (port.waiting.size > 0 || (!closed && !isSpent(port))) return
    for (const pool of pools) pool.ports = pool.ports.filter((other) => other !== port)
    if (port.used >= 0) {
      port.used = -1 - questionsPerSocketMax
      port.socket.close()
    }
  }

  function openPort(index: number): Promise<Port | undefined> {
    const server = servers[index]
    if (server === undefined) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      const socket = createSocket({ type: familyOf(server.address) === 4 ? 'udp4' : 'udp6', recvBufferSize: 1 << 20 })
      const port: Port = { socket, bornAt: clock(), waiting: new Map(), used: 0 }
      socket.on('message', (message) => hear(port, message))
      // An ICMP error on a connected socket: the server's host says that nothing listens. Everybody who waits here need not.
      socket.on('error', () => {
        for (const { settle } of [...port.waiting.values()]) settle(undefined)
        resolve(undefined)
      })
      socket.connect(server.port, addressToText(server.address), () => {
        pools[index]?.ports.push(port)
        resolve(port)
      })
      socket.unref()
    })
  }

  function hear(port: Port, message: Buffer): void {
    const waiting = message.length < 12 ? undefined : port.waiting.get(count(message, 0))
    if (waiting === undefined || !answersQuestion(waiting.question, message)) strangers++
    else waiting.settle(message)
  }

  function overTcp(
    server: Server | undefined,
    question: Question,
    flags: QueryFlags,
    within: Millis,
  ): Promise<Uint8Array | undefined> {
    if (server === undefined) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      const id = ids()
      const query = buildQuery(id, question, flags)
      let got = Buffer.alloc(0)
      const socket = connect({ host: addressToText(server.address), port: server.port })
      const timer = setTimeout(() => end(undefined), within)
      const end = (message: Uint8Array | undefined): void => {
        clearTimeout(timer)
        socket.destroy()
        resolve(message)
      }
      socket.on('error', () => end(undefined))
      socket.on('close', () => end(undefined))
      socket.on('connect', () =>
        socket.write(Buffer.concat([Buffer.from([query.length >> 8, query.length & 0xff]), query])),
      )
      socket.on('data', (chunk) => {
        got = Buffer.concat([got, chunk])
        if (got.length < 2 || got.length < 2 + got.readUInt16BE(0)) return
        const message = got.subarray(2, 2 + got.readUInt16BE(0))
        const ours = message.length >= 12 && count(message, 0) === id && answersQuestion(question, message)
        if (!ours) strangers++
        end(ours ? message : undefined)
      })
    })
  }

  function close(): void {
    closed = true
    for (const pool of pools) for (const port of [...pool.ports]) retire(port)
  }
  return { ask, strangers: () => strangers, healthy: () => healthy, close }
}

function serverName(server: Server | undefined): string {
  return server === undefined ? '' : `upstream ${addressToText(server.address)}#${server.port}`
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
