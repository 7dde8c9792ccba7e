// Socket diagnosis as bytes (linux/sock_diag.h, linux/inet_diag.h): the connected sockets of a network namespace read, their destruction written.
// Pure. Ports and addresses are in network order, all else in the host's.
import { addressFromOctets, type Address } from '../net/address.ts'
import { Protocol } from '../net/ports.ts'

const NLMSG_ERROR = 2
const NLMSG_DONE = 3
const NLM_F_REQUEST = 1
const NLM_F_ACK = 4
const NLM_F_DUMP = 0x300
const SOCK_DIAG_BY_FAMILY = 20
const SOCK_DESTROY = 21
const AF_INET = 2
const AF_INET6 = 10
const headerOctets = 16
/** struct inet_diag_req_v2: family, protocol, what more to say, padding; states; the socket's ends. */
const requestOctets = headerOctets + 8 + 48
/** struct inet_diag_sockid: both ports, both addresses of 16 octets each, interface, cookie (the kernel's own name for the socket). */
const idOctets = 48
/** Where it stands in struct inet_diag_msg. */
const idAt = 4

/** States that are asked for, as bits of the kernel's numbers: TCP that has another end, so neither listening, closed nor TIME-WAIT; UDP that is connected. */
const states: ReadonlyMap<number, number> = new Map([
  [Protocol.TCP, [1, 2, 3, 4, 5, 8, 9, 11, 12].reduce((bits, state) => bits | (1 << state), 0)],
  [Protocol.UDP, 1 << 1],
])

/** The kinds of sockets that can be destroyed: each is a question of its own. */
export const socketKinds: readonly { readonly family: number; readonly protocol: number }[] = [...states.keys()].flatMap((protocol) => [AF_INET, AF_INET6].map((family) => ({ family, protocol }))) // prettier-ignore

/** One connected socket. An IPv4 connection of a socket for both families has IPv4 addresses here. */
export interface DiagSocket {
  readonly local: Address
  readonly localPort: number
  readonly remote: Address
  readonly remotePort: number
  /** What the kernel knows it by; good for as long as `octets` stay as they are. */
  readonly id: Uint8Array
}

export type SockDiagMessage =
  | { readonly kind: 'socket'; readonly socket: DiagSocket }
  | { readonly kind: 'done'; readonly sequence: number }
  /** `errno` 0 is an acknowledgement. */
  | { readonly kind: 'error'; readonly sequence: number; readonly errno: number }

/** Writes the question for all sockets of a kind into `octets`; returns its length. */
export function askSockets(
  octets: Uint8Array,
  { family, protocol }: (typeof socketKinds)[number],
  sequence: number,
): number {
  octets.fill(0, 0, requestOctets)
  const view = writeHeader(octets, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, sequence)
  octets[headerOctets] = family
  octets[headerOctets + 1] = protocol
  view.setUint32(headerOctets + 4, states.get(protocol) ?? 0, true)
  return requestOctets
}

/** Writes the request to destroy one socket into `octets`; returns its length. It is acknowledged; ENOENT says that it was gone already. */
export function destroySocket(
  octets: Uint8Array,
  { family, protocol }: (typeof socketKinds)[number],
  id: Uint8Array,
  sequence: number,
): number {
  octets.fill(0, 0, requestOctets)
  writeHeader(octets, SOCK_DESTROY, NLM_F_ACK, sequence)
  octets[headerOctets] = family
  octets[headerOctets + 1] = protocol
  octets.set(id.subarray(0, idOctets), headerOctets + 8)
  return requestOctets
}

function writeHeader(octets: Uint8Array, type: number, flags: number, sequence: number): DataView {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  view.setUint32(0, requestOctets, true)
  view.setUint16(4, type, true)
  view.setUint16(6, NLM_F_REQUEST | flags, true)
  view.setUint32(8, sequence, true)
  return view
}

/** Reads the messages in `octets[0, length)` one by one; what is not understood is passed over, a cut message ends the reading. */
export function readSockets(octets: Uint8Array, length: number, each: (message: SockDiagMessage) => void): void {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  for (let at = 0; at + headerOctets <= length;) {
    const size = view.getUint32(at, true)
    if (size < headerOctets || at + size > length) return
    const message = readMessage(octets, view, at, at + size)
    if (message !== undefined) each(message)
    at += (size + 3) & ~3
  }
}

function readMessage(octets: Uint8Array, view: DataView, at: number, end: number): SockDiagMessage | undefined {
  const type = view.getUint16(at + 4, true)
  const sequence = view.getUint32(at + 8, true)
  const body = at + headerOctets
  if (type === NLMSG_DONE) return { kind: 'done', sequence }
  if (type === NLMSG_ERROR) return body + 4 <= end ? { kind: 'error', sequence, errno: 0 - view.getInt32(body, true) } : undefined // prettier-ignore
  if (type !== SOCK_DIAG_BY_FAMILY || body + idAt + idOctets > end) return undefined
  const family = octets[body] ?? 0
  if (family !== AF_INET && family !== AF_INET6) return undefined
  const length = family === AF_INET ? 4 : 16
  return {
    kind: 'socket',
    socket: {
      local: addressFromOctets(octets, body + idAt + 4, length),
      localPort: view.getUint16(body + idAt),
      remote: addressFromOctets(octets, body + idAt + 20, length),
      remotePort: view.getUint16(body + idAt + 2),
      id: octets.subarray(body + idAt, body + idAt + idOctets),
    },
  }
}
