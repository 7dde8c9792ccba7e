// The sockets at the ends of connections, where they are in this network namespace: destroyed, so that their programs hear of the end at once
// (ECONNABORTED) and the other ends are told (RST). A program whose connection is only forgotten sends into the void for a quarter of an hour.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Protocol } from '../net/ports.ts'
import type { Connection } from './ctnetlink.ts'
import { KernelError, makeNetlink, openNetlink, socketDiagnosis } from './netlink.ts'
import { askSockets, destroySocket, readSockets, socketKinds, type DiagSocket } from './sockdiag.ts'

export interface Sockets {
  /** Destroys those that are an end of one of these connections; gives how many. Rejects with `KernelError`, and is to be called again then. */
  readonly destroy: (connections: readonly Connection[]) => Promise<number>
  readonly close: () => void
}

/** The kernel fills up to 32 kB of an answer when it is asked with that much room: some 340 sockets. */
const answerOctets = 1 << 15
const requestOctetsMax = 128
/** Between these the event loop turns. */
const destroyedPerTurn = 256
const [EPERM, ENOENT, EOPNOTSUPP] = [1, 2, 95]

/** Opens what `makeSockets` takes over, in the network namespace of the calling thread. Throws `KernelError`. */
export function openSockets(): number {
  return openNetlink([], socketDiagnosis)
}

/**
 * Takes over a socket of `openSockets`, or made in another namespace.
 * @param say is told once when this kernel destroys no sockets (CONFIG_INET_DIAG_DESTROY), or not for us; then nothing is tried any more.
 */
export function makeSockets(fd: number, say: (text: string) => void): Sockets {
  const netlink = makeNetlink(fd)
  const answer = new Uint8Array(answerOctets)
  const request = new Uint8Array(requestOctetsMax)
  let sequence = 0
  let isRefused = false

  /** Copies of what the kernel knows the sockets by that have one of these ends. */
  async function find(kind: (typeof socketKinds)[number], ends: ReadonlySet<string>): Promise<Uint8Array[]> {
    const asked = (sequence = (sequence + 1) & 0x7fffffff)
    const found: Uint8Array[] = []
    netlink.send(request, askSockets(request, kind, asked))
    for (let isDone = false; !isDone; await nextTurn()) {
      const length = netlink.receive(answer)
      if (length === 0) throw new KernelError('list sockets', 0)
      readSockets(answer, length, (message) => {
        if (message.kind === 'socket') {
          if (ends.has(endOfSocket(kind.protocol, message.socket))) found.push(message.socket.id.slice())
        } else if (message.sequence === asked) {
          isDone = true
          // A kernel without this kind of sockets.
          if (message.kind === 'error' && message.errno !== ENOENT) throw new KernelError('list sockets', message.errno)
        }
      })
    }
    return found
  }

  /** Whether it was there. */
  function destroyOne(kind: (typeof socketKinds)[number], id: Uint8Array): boolean {
    const asked = (sequence = (sequence + 1) & 0x7fffffff)
    netlink.send(request, destroySocket(request, kind, id, asked))
    let errno: number | undefined
    while (errno === undefined) {
      const length = netlink.receive(answer)
      if (length === 0) throw new KernelError('destroy a socket', 0)
      readSockets(answer, length, (message) => {
        if (message.kind === 'error' && message.sequence === asked) ({ errno } = message)
      })
    }
    if (errno === EOPNOTSUPP || errno === EPERM) {
      isRefused = true
      say(`this kernel does not let us destroy sockets (${errno === EPERM ? 'no CAP_NET_ADMIN' : 'CONFIG_INET_DIAG_DESTROY is not set'}): programs of this host whose connections are ended hear of it when they send`) // prettier-ignore
      return false
    }
    if (errno !== 0 && errno !== ENOENT) throw new KernelError('destroy a socket', errno)
    return errno === 0
  }

  async function destroy(connections: readonly Connection[]): Promise<number> {
    const ends = new Set(connections.flatMap(endsOf))
    let destroyed = 0
    if (ends.size === 0) return destroyed
    for (const kind of socketKinds)
      for (const [i, id] of (isRefused ? [] : await find(kind, ends)).entries()) {
        if (isRefused) break
        if (destroyOne(kind, id)) destroyed++
        if (i % destroyedPerTurn === destroyedPerTurn - 1) await nextTurn()
      }
    return destroyed
  }
  let turn: Promise<unknown> = Promise.resolve()
  /** Answers to two questions on one socket would be mixed. */
  function inTurn(connections: readonly Connection[]): Promise<number> {
    const result = turn.then(() => destroy(connections))
    turn = result.catch(() => undefined)
    return result
  }
  return { destroy: inTurn, close: netlink.close }
}

const protocols: readonly number[] = [Protocol.TCP, Protocol.UDP]

/** Both ends as their sockets see them: who opened it knows the destination as it was written, the other end whom its answers are addressed to. */
function endsOf(connection: Connection): string[] {
  const { protocol, source, sourcePort, destination, destinationPort, peer, peerPort, back, backPort } = connection
  if (!protocols.includes(protocol)) return []
  return [
    `${protocol} ${sourcePort} ${destinationPort} ${source} ${destination}`,
    `${protocol} ${peerPort} ${backPort} ${peer} ${back}`,
  ]
}
function endOfSocket(protocol: number, { local, localPort, remote, remotePort }: DiagSocket): string {
  return `${protocol} ${localPort} ${remotePort} ${local} ${remote}`
}
