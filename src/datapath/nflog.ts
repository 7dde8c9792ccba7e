// nfnetlink_log messages as octets (linux/netfilter/nfnetlink_log.h): which group is listened to, and the packets that the kernel tells of.
// Pure. Integers of netlink headers are host order, those inside attributes big endian.
import { addressFromOctets, type Address } from '../net/address.ts'

const NLM_F_REQUEST = 1
const NLM_F_ACK = 4
const NFNL_SUBSYS_ULOG = 4
const PACKET = NFNL_SUBSYS_ULOG << 8
const CONFIG = (NFNL_SUBSYS_ULOG << 8) | 1
const CFG_CMD = 1
const CFG_MODE = 2
const CFG_TIMEOUT = 4
const CFG_QTHRESH = 5
const CFG_FLAGS = 6
const CMD_BIND = 1
const COPY_PACKET = 2
const FLAG_SEQ = 1
const ATTR_PAYLOAD = 9
const ATTR_PREFIX = 10
const ATTR_SEQ = 12

/** Octets of each packet that are wanted: IPv6 with the widest header of a transport protocol that we read. */
export const snapOctets = 96
/** Packets that the kernel gathers before it says anything, at most for 10 ms. */
const gatherPackets = 64
const gatherHundredths = 1

/** Writes the request to be told of a group's packets; returns its length. One acknowledgement follows, numbered `sequence`. */
export function bindGroup(octets: Uint8Array, group: number, sequence: number): number {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  let at = 20
  const attribute = (type: number, values: readonly number[]): void => {
    view.setUint16(at, 4 + values.length, true)
    view.setUint16(at + 2, type, true)
    octets.set(values, at + 4)
    octets.fill(0, at + 4 + values.length, (at + 4 + values.length + 3) & ~3)
    at = (at + 4 + values.length + 3) & ~3
  }
  attribute(CFG_CMD, [CMD_BIND])
  attribute(CFG_MODE, [0, 0, 0, snapOctets, COPY_PACKET, 0])
  attribute(CFG_TIMEOUT, [0, 0, 0, gatherHundredths])
  attribute(CFG_QTHRESH, [0, 0, 0, gatherPackets])
  attribute(CFG_FLAGS, [0, FLAG_SEQ])
  view.setUint32(0, at, true)
  view.setUint16(4, CONFIG, true)
  view.setUint16(6, NLM_F_REQUEST | NLM_F_ACK, true)
  view.setUint32(8, sequence, true)
  view.setUint32(12, 0, true)
  octets[16] = 0
  octets[17] = 0
  view.setUint16(18, group)
  return at
}

/** What a rule's log expression told of one packet. */
export interface Logged {
  /** The rule's prefix. */
  readonly prefix: string
  /** Number of the message in its group: what is missing between two was lost. */
  readonly sequence: number
  readonly source: Address
  readonly destination: Address
  readonly protocol: number
  readonly sourcePort: number | undefined
  readonly destinationPort: number | undefined
  readonly icmp: { readonly type: number; readonly code: number } | undefined
  readonly tcpFlags: number | undefined
}

/** Reads the packets in `octets[0, length)`; what is not understood is passed over, a cut message ends the reading. */
export function readLogged(octets: Uint8Array, length: number): Logged[] {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  const found: Logged[] = []
  for (let at = 0; at + 16 <= length;) {
    const size = view.getUint32(at, true)
    if (size < 16 || at + size > length) break
    if (view.getUint16(at + 4, true) === PACKET) {
      const logged = readMessage(octets, view, at + 20, at + size)
      if (logged !== undefined) found.push(logged)
    }
    at += (size + 3) & ~3
  }
  return found
}

function readMessage(octets: Uint8Array, view: DataView, start: number, end: number): Logged | undefined {
  let prefix = ''
  let sequence = 0
  let payload: [number, number] | undefined
  for (let at = start; at + 4 <= end;) {
    const size = view.getUint16(at, true)
    if (size < 4 || at + size > end) return undefined
    const type = view.getUint16(at + 2, true) & 0x3fff
    if (type === ATTR_PREFIX)
      for (let i = at + 4; i < at + size && octets[i] !== 0; i++) prefix += String.fromCharCode(octets[i] ?? 0) // prettier-ignore
    else if (type === ATTR_SEQ && size >= 8) sequence = view.getUint32(at + 4)
    else if (type === ATTR_PAYLOAD) payload = [at + 4, at + size]
    at += (size + 3) & ~3
  }
  const packet = payload === undefined ? undefined : readPacket(octets, view, ...payload)
  return packet === undefined ? undefined : { prefix, sequence, ...packet }
}

/** Extension headers of IPv6 that are walked over (RFC 8200 §4): hop-by-hop, routing, fragment, destination options. */
const extensions: readonly number[] = [0, 43, 44, 60]

/** The beginning of an IP packet; undefined when it is cut off before its addresses. */
export function readPacket(octets: Uint8Array, view: DataView, start: number, end: number): Omit<Logged, 'prefix' | 'sequence'> | undefined {
  const version = (octets[start] ?? 0) >> 4
  if (version === 4 && end - start >= 20) {
    const at = start + ((octets[start] ?? 0) & 0xf) * 4
    // What is not the first fragment has no ports.
    const isFirst = (view.getUint16(start + 6) & 0x1fff) === 0
    return { source: addressFromOctets(octets, start + 12, 4), destination: addressFromOctets(octets, start + 16, 4), ...readTransport(octets, view, octets[start + 9] ?? 0, isFirst ? at : end, end) }
  }
  if (version !== 6 || end - start < 40) return undefined
  let protocol = octets[start + 6] ?? 0
  let at = start + 40
  while (extensions.includes(protocol) && at + 8 <= end) {
    const isFragment = protocol === 44
    protocol = octets[at] ?? 0
    if (isFragment && (view.getUint16(at + 2) & 0xfff8) !== 0) at = end
    else at += isFragment ? 8 : ((octets[at + 1] ?? 0) + 1) * 8
  }
  return { source: addressFromOctets(octets, start + 8, 16), destination: addressFromOctets(octets, start + 24, 16), ...readTransport(octets, view, protocol, at, end) }
} // prettier-ignore

function readTransport(octets: Uint8Array, view: DataView, protocol: number, at: number, end: number): Pick<Logged, 'protocol' | 'sourcePort' | 'destinationPort' | 'icmp' | 'tcpFlags'> {
  const nothing = { protocol, sourcePort: undefined, destinationPort: undefined, icmp: undefined, tcpFlags: undefined }
  if (at + 4 > end) return nothing
  if (protocol === 1 || protocol === 58) return { ...nothing, icmp: { type: octets[at] ?? 0, code: octets[at + 1] ?? 0 } }
  if (protocol !== 6 && protocol !== 17 && protocol !== 132) return nothing
  const tcpFlags = protocol === 6 && at + 14 <= end ? octets[at + 13] : undefined
  return { ...nothing, sourcePort: view.getUint16(at), destinationPort: view.getUint16(at + 2), tcpFlags }
} // prettier-ignore
