// One connection to an upstream over TCP or TLS, kept open between questions: many are under way on it at once and answered in any order
// (RFC 7766 §6.2.1, RFC 7858 §3.3).
import { randomInt } from 'node:crypto'
import { connect, isIP, type Socket } from 'node:net'
import { connect as connectTls, type PeerCertificate, checkServerIdentity } from 'node:tls'
import { answersQuestion } from '../wire/answer.ts'
import { count, headerOctets, type Question } from '../wire/message.ts'
import { framed } from './frame.ts'
import type { Millis } from '../clock.ts'
import type { UpstreamReply } from './upstream.ts'

export interface StreamServer {
  /** As text. */
  readonly address: string
  readonly port: number
  /** TLS: the name that the certificate must bear, and who may have signed it (undefined: those that Node trusts). */
  readonly tls: { readonly serverName: string; readonly ca: string | undefined } | undefined
  /** For people. */
  readonly name: string
}

export interface Stream {
  /** Never rejects. `build` makes the query for an ID. */
  readonly ask: (question: Question, build: (id: number) => Uint8Array, within: Millis) => Promise<UpstreamReply>
  /** Opens nothing new; what is under way ends by itself. */
  readonly close: () => void
}

/** Closed after so long without a question: less than the 10 s after which common servers do (RFC 7766 §6.2.3). */
const idleMillis = 8_000

interface Waiting {
  readonly question: Question
  readonly settle: (reply: UpstreamReply) => void
}

interface Connection {
  readonly socket: Socket
  readonly waiting: Map<number, Waiting>
  /** Whether anything was answered on it: a server may close an idle connection just when we ask. */
  answered: boolean
}

/** @param stranger hears of every message that answers no question of ours. */
export function makeStream(server: StreamServer, stranger: () => void): Stream {
  let open: Connection | undefined
  let closing = false

  async function ask(question: Question, build: (id: number) => Uint8Array, within: Millis): Promise<UpstreamReply> {
    if (closing) return { kind: 'failed', reason: 'network', text: 'the proxy is closing' }
    const started = performance.now()
    const old = open
    const reply = await askOn((open ??= start()), question, build, within)
    const left = within - (performance.now() - started)
    // A connection that served before and was closed under the question: once more, on a new one (RFC 7766 §6.2.4).
    const isClosed = reply.kind === 'failed' && reply.reason === 'network' && old?.answered === true && open !== old
    return isClosed && left > 0 && !closing ? askOn((open ??= start()), question, build, left) : reply
  }

  function askOn(on: Connection, question: Question, build: (id: number) => Uint8Array, within: Millis): Promise<UpstreamReply> {
    return new Promise((resolve) => {
      let id = randomInt(65536)
      while (on.waiting.has(id)) id = randomInt(65536)
      const settle = (reply: UpstreamReply): void => {
        clearTimeout(timer)
        on.waiting.delete(id)
        if (closing && on.waiting.size === 0) on.socket.destroy()
        resolve(reply)
      }
      const text = `${server.name} did not answer within ${Math.round(within)} ms`
      const timer = setTimeout(() => {
        settle({ kind: 'failed', reason: 'timeout', text })
        // Nothing was ever heard on it: whoever comes next need not wait for the same.
        if (!on.answered) drop(on, text)
      }, within)
      on.waiting.set(id, { question, settle })
      on.socket.write(framed(build(id)))
    })
  } // prettier-ignore

  function start(): Connection {
    const socket = dial(server)
    const connection: Connection = { socket, waiting: new Map(), answered: false }
    let got: Buffer = Buffer.alloc(0)
    socket.setTimeout(idleMillis, () => {
      if (connection.waiting.size === 0) drop(connection, 'idle')
    })
    socket.on('error', (error: NodeJS.ErrnoException) => drop(connection, error.code ?? error.message))
    socket.on('close', () => drop(connection, 'it closed the connection without an answer'))
    socket.on('data', (chunk: Buffer) => {
      got = got.length === 0 ? chunk : Buffer.concat([got, chunk])
      while (got.length >= 2 && got.length >= 2 + got.readUInt16BE(0)) {
        // A copy: the message may be kept for long, and what came with it not.
        const message = new Uint8Array(got.subarray(2, 2 + got.readUInt16BE(0)))
        got = got.subarray(2 + message.length)
        hear(connection, message)
      }
    })
    socket.unref()
    return connection
  }

  function hear(connection: Connection, message: Uint8Array): void {
    const waiting = message.length < headerOctets ? undefined : connection.waiting.get(count(message, 0))
    if (waiting === undefined || !answersQuestion(waiting.question, message)) return stranger()
    connection.answered = true
    waiting.settle({ kind: 'message', message })
  }

  function drop(connection: Connection, text: string): void {
    if (open === connection) open = undefined
    connection.socket.destroy()
    for (const { settle } of [...connection.waiting.values()])
      settle({ kind: 'failed', reason: 'network', text: `${server.name}: ${text}` })
  }

  return {
    ask,
    close() {
      closing = true
      if (open?.waiting.size === 0) drop(open, 'closing')
    },
  }
}

function dial({ address, port, tls }: StreamServer): Socket {
  if (tls === undefined) {
    const socket = connect({ host: address, port })
    socket.setNoDelay(true)
    return socket
  }
  const { serverName, ca } = tls
  return connectTls({
    host: address,
    port,
    ALPNProtocols: ['dot'],
    minVersion: 'TLSv1.2',
    // Server names in the handshake are names, not addresses (RFC 6066 §3).
    ...(isIP(serverName) === 0 ? { servername: serverName } : {}),
    ...(ca === undefined ? {} : { ca }),
    rejectUnauthorized: true,
    checkServerIdentity: (_host: string, certificate: PeerCertificate) => checkServerIdentity(serverName, certificate),
  })
}
