// The proxy's sockets: UDP and TCP on one port, for each family. Reads messages, gives them to the story, writes its replies.
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { createServer, type Server, type Socket } from 'node:net'
import { addressFromText, type Address } from '../net/address.ts'

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

/** Gives the reply to a message, or nothing. Must not reject. */
export type Answerer = (
  message: Uint8Array,
  source: Address,
  transport: 'udp' | 'tcp',
) => Promise<Uint8Array | undefined>

export interface Listening {
  readonly port: number
  /** Datagrams dropped because too many questions were in hand. */
  readonly dropped: () => number
  /** Stops reading, lets what is in hand be answered (at most `drainMillis`), closes. */
  readonly close: () => Promise<void>
}

/** Questions in hand over UDP; what comes on top is dropped, as a full socket buffer would. */
const udpInHandMax = 4096
const tcpConnectionsMax = 1024
/** Questions in hand on one connection; no more is read from it until one is answered (RFC 7766 §6.2.1.1: pipelining). */
const tcpInHandMax = 64
const tcpIdleMillis = 10_000
const drainMillis = 2000

/** Binds all listeners on one port. Rejects with the socket's error (EADDRINUSE, EACCES). */
export async function listen(listeners: readonly Listener[], answer: Answerer): Promise<Listening> {
  const addressOf = makeAddressReader()
  let inHand = 0
  let dropped = 0
  let idle: (() => void) | undefined
  const done = (): void => {
    inHand--
    if (inHand === 0) idle?.()
  }

  function serveUdp(socket: UdpSocket): void {
    socket.on('message', (message, from) => {
      const source = addressOf(from.address)
      if (source === undefined || inHand >= udpInHandMax) {
        dropped++
        return
      }
      inHand++
      void answer(message, source, 'udp')
        .then((reply) => {
          // The workload may be gone, or the socket closing: a reply that cannot be sent is a reply lost on the way.
          if (reply !== undefined) socket.send(reply, from.port, from.address, () => undefined)
        })
        .finally(done)
    })
  }

  function serveTcp(connection: Socket): void {
    const source = addressOf(connection.remoteAddress ?? '')
    if (source === undefined) {
      connection.destroy()
      return
    }
    let buffered = Buffer.alloc(0)
    let waiting = 0
    connection.setTimeout(tcpIdleMillis, () => connection.destroy())
    connection.on('error', () => connection.destroy())
    // A client may send its questions and close its half: it still gets the answers.
    let ended = false
    connection.on('end', () => {
      ended = true
      if (waiting === 0) connection.end()
    })
    const take = (): void => {
      while (waiting < tcpInHandMax && buffered.length >= 2) {
        const end = 2 + buffered.readUInt16BE(0)
        if (buffered.length < end) break
        const message = buffered.subarray(2, end)
        buffered = buffered.subarray(end)
        waiting++
        inHand++
        void answer(message, source, 'tcp')
          .then((reply) => {
            if (reply === undefined) connection.destroy()
            else if (connection.writable)
              connection.write(Buffer.concat([Buffer.from([reply.length >> 8, reply.length & 0xff]), reply]))
          })
          .finally(() => {
            done()
            waiting--
            connection.resume()
            take()
            if (ended && waiting === 0) connection.end()
          })
      }
      if (waiting >= tcpInHandMax) connection.pause()
    }
    connection.on('data', (chunk) => {
      buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk])
      take()
    })
  }

  const udp: UdpSocket[] = []
  const tcp: Server[] = []
  const connections = new Set<Socket>()
  const bindPair = async (listener: Listener, port: number): Promise<number> => {
    const isSix = listener.kind === 'sockets' ? listener.family === 6 : listener.address.includes(':')
    const socket = createSocket({ type: isSix ? 'udp6' : 'udp4', ipv6Only: isSix, recvBufferSize: 4 << 20 })
    const server = createServer({ noDelay: true, allowHalfOpen: true }, (connection) => {
      connections.add(connection)
      connection.once('close', () => connections.delete(connection))
      serveTcp(connection)
    })
    server.maxConnections = tcpConnectionsMax
    try {
      const bound = await bindUdp(socket, listener, port)
      await bindTcp(server, listener, bound, isSix)
      serveUdp(socket)
      udp.push(socket)
      tcp.push(server)
      return bound
    } catch (error) {
      socket.close()
      server.close()
      throw error
    }
  }
  async function close(): Promise<void> {
    for (const socket of udp) socket.removeAllListeners('message')
    const closing = tcp.map((server) => new Promise((resolve) => server.close(resolve)))
    if (inHand > 0) {
      const drained = new Promise<void>((resolve) => (idle = resolve))
      const late = new Promise<void>((resolve) => setTimeout(resolve, drainMillis).unref())
      await Promise.race([drained, late])
    }
    for (const socket of udp) socket.close()
    for (const connection of connections) connection.destroy()
    await Promise.all(closing)
  }

  try {
    const port = await bindAll(listeners, bindPair)
    return { port, dropped: () => dropped, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** A free port for UDP may be taken for TCP: then another is tried, this often. */
const portTries = 10

async function bindAll(
  listeners: readonly Listener[],
  bindPair: (listener: Listener, port: number) => Promise<number>,
): Promise<number> {
  const [first, ...others] = listeners
  if (first === undefined) throw new Error('no listener is given')
  let port = 0
  for (let i = 1; port === 0; i++)
    port = await bindPair(first, first.port).catch((error: NodeJS.ErrnoException) => {
      if (first.port === 0 && error.code === 'EADDRINUSE' && i < portTries) return 0
      throw error
    })
  for (const listener of others) await bindPair(listener, listener.port === 0 ? port : listener.port)
  return port
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
