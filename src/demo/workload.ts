// A demo workload: asks names and opens connections with plain sockets, on whatever thread (hence namespace) it runs.
import { createSocket } from 'node:dgram'
import { connect, createServer } from 'node:net'
import { parentPort } from 'node:worker_threads'
import { decode, encode, type Answer, type Packet } from 'dns-packet'

export type Wish =
  | {
      readonly kind: 'lookup'
      readonly name: string
      readonly type: 'A' | 'AAAA'
      readonly server: string
      readonly port: number
      readonly from?: string
    }
  | { readonly kind: 'connect'; readonly address: string; readonly port: number }
  | { readonly kind: 'serve'; readonly ports: readonly number[] }

export interface LookedUp {
  readonly rcode: string
  readonly addresses: readonly string[]
  readonly ttlSeconds: number
}

/** As long as a stub resolver waits for its first answer. */
const patienceMillis = 5000

/** One question over UDP; the server's rcode, or `TIMEOUT`. */
export function lookUpFrom({ name, type, server, port, from }: Wish & { kind: 'lookup' }): Promise<LookedUp> {
  return new Promise((resolve) => {
    const socket = createSocket(server.includes(':') ? 'udp6' : 'udp4')
    const end = (result: LookedUp): void => {
      clearTimeout(timer)
      socket.close()
      resolve(result)
    }
    const timer = setTimeout(() => end({ rcode: 'TIMEOUT', addresses: [], ttlSeconds: 0 }), patienceMillis)
    socket.on('message', (message) => {
      const { answers = [], rcode } = decode(message) as Packet & { answers?: Answer[]; rcode?: string }
      const found = answers.filter((answer) => answer.type === type) as { data: string; ttl?: number }[]
      end({ rcode: rcode ?? '', addresses: found.map((answer) => answer.data), ttlSeconds: found[0]?.ttl ?? 0 })
    })
    socket.on('error', () => end({ rcode: 'UNREACHABLE', addresses: [], ttlSeconds: 0 }))
    const id = Math.floor(Math.random() * 65536)
    const query = encode({ type: 'query', id, flags: 0x100, questions: [{ type, name }], additionals: [{ type: 'OPT', name: '.', udpPayloadSize: 1232, flags: 0 } as unknown as Answer] }) // prettier-ignore
    socket.bind(from === undefined ? {} : { address: from }, () => socket.send(query, port, server))
  })
}

/** Opens a TCP connection; `connected` or the socket's error code. */
export function connectTo(address: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, timeout: patienceMillis })
    const end = (result: string): void => {
      socket.destroy()
      resolve(result)
    }
    socket.on('connect', () => end('connected'))
    socket.on('timeout', () => end('ETIMEDOUT'))
    socket.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? 'error'))
  })
}

/** Accepts TCP on these ports of every address, and closes at once. */
async function serve(ports: readonly number[]): Promise<void> {
  for (const port of ports)
    await new Promise<void>((resolve, reject) => {
      const server = createServer((connection) => connection.on('error', () => undefined).end())
      server.on('error', reject)
      server.listen(port, '::', resolve)
    })
}

/** Serves wishes from the parent thread, one answer for each: `{ id, result }`. */
export function main(): void {
  parentPort?.on('message', ({ id, wish }: { id: number; wish: Wish }) => {
    const granted: Promise<unknown> = wish.kind === 'lookup' ? lookUpFrom(wish) : wish.kind === 'connect' ? connectTo(wish.address, wish.port) : serve(wish.ports)
    void granted.then((result) => parentPort?.postMessage({ id, result }))
  })
} // prettier-ignore
