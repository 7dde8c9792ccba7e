// Connection tracking as bytes (linux/netfilter/nfnetlink_conntrack.h): events and dumps read, dumps and deletions written. Pure.
// Integers of netlink headers are host order, those inside attributes big endian.
import { addressFromOctets, type Address } from '../net/address.ts'

const NLMSG_ERROR = 2
const NLMSG_DONE = 3
const NLM_F_REQUEST = 1
const NLM_F_ACK = 4
const NLM_F_DUMP = 0x300
const NFNL_SUBSYS_CTNETLINK = 1
const CT_NEW = NFNL_SUBSYS_CTNETLINK << 8
const CT_GET = CT_NEW | 1
const CT_DELETE = CT_NEW | 2
const TUPLE_ORIG = 1
const TUPLE_REPLY = 2
const PROTOINFO = 4
const PROTOINFO_TCP = 1
const PROTOINFO_TCP_STATE = 1
/** Both ends have closed it, or one has reset it: the kernel remembers it for two minutes, nothing more comes. */
const tcpClosedStates: readonly number[] = [7, 8]
const ID = 12
const ZONE = 18
const TUPLE_IP = 1
const TUPLE_PROTO = 2
const V4_SRC = 1
const V4_DST = 2
const V6_SRC = 3
const V6_DST = 4
const PROTO_NUM = 1
const PROTO_SRC_PORT = 2
const PROTO_DST_PORT = 3
const PROTO_ICMP_ID = 4
const PROTO_ICMP_TYPE = 5
const PROTO_ICMP_CODE = 6
const PROTO_ICMPV6_ID = 7
const PROTO_ICMPV6_TYPE = 8
const PROTO_ICMPV6_CODE = 9
const TYPE_MASK = 0x3fff
const NESTED = 0x8000
const headerOctets = 20

/** Multicast groups that tell of connections (NFNLGRP_*): one that has begun, has changed its state, is forgotten. */
export const conntrackGroups = { begun: 1, changed: 2, over: 3 } as const

/**
 * One tracked connection. `source` opened it, to `destination` as it was written; `peer` is where its answers come from (`destination` after it
 * was translated), and `back` whom they are addressed to (`source` after it was). Ports are 0 for protocols without; ICMP has its identifier in
 * `sourcePort`.
 */
export interface Connection {
  readonly protocol: number
  readonly source: Address
  readonly sourcePort: number
  readonly destination: Address
  readonly destinationPort: number
  readonly peer: Address
  readonly peerPort: number
  readonly back: Address
  readonly backPort: number
  /** Of ICMP only. */
  readonly icmpType: number | undefined
  /** The kernel's name for it, beside its addresses: another connection of the same addresses has another. */
  readonly id: number
  readonly zone: number
}

export type ConntrackMessage =
  /** `begun`: it is there, new or as before. `closed`: it is there, and TCP is through with it. `over`: it is forgotten. */
  | { readonly kind: 'begun' | 'closed' | 'over'; readonly connection: Connection }
  | { readonly kind: 'done'; readonly sequence: number }
  /** `errno` 0 is an acknowledgement. */
  | { readonly kind: 'error'; readonly sequence: number; readonly errno: number }

/** Reads the messages in `octets[0, length)` one by one; what is not understood is passed over, a cut message ends the reading. */
export function readConntrack(octets: Uint8Array, length: number, each: (message: ConntrackMessage) => void): void {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  for (let at = 0; at + 16 <= length;) {
    const size = view.getUint32(at, true)
    if (size < 16 || at + size > length) return
    const message = readMessage(octets, view, at, at + size)
    if (message !== undefined) each(message)
    at += (size + 3) & ~3
  }
}

function readMessage(octets: Uint8Array, view: DataView, at: number, end: number): ConntrackMessage | undefined {
  const type = view.getUint16(at + 4, true)
  const sequence = view.getUint32(at + 8, true)
  if (type === NLMSG_DONE) return { kind: 'done', sequence }
  if (type === NLMSG_ERROR && at + 20 <= end)
    return { kind: 'error', sequence, errno: 0 - view.getInt32(at + 16, true) }
  if (type !== CT_NEW && type !== CT_DELETE) return undefined
  const connection = readConnection(octets, view, at + headerOctets, end)
  if (connection === undefined) return undefined
  if (type === CT_DELETE) return { kind: 'over', connection }
  return { kind: isTcpClosed(view, at + headerOctets, end) ? 'closed' : 'begun', connection }
}

interface Tuple {
  source: Address | undefined
  destination: Address | undefined
  protocol: number
  sourcePort: number
  destinationPort: number
  icmpType: number | undefined
}

function readConnection(octets: Uint8Array, view: DataView, from: number, end: number): Connection | undefined {
  let original: Tuple | undefined
  let reply: Tuple | undefined
  let id = 0
  let zone = 0
  eachAttribute(view, from, end, (type, at, to) => {
    if (type === TUPLE_ORIG) original = readTuple(octets, view, at, to)
    else if (type === TUPLE_REPLY) reply = readTuple(octets, view, at, to)
    else if (type === ID && to - at === 4) id = view.getUint32(at)
    else if (type === ZONE && to - at === 2) zone = view.getUint16(at)
  })
  const { source, destination } = original ?? {}
  const { source: peer, destination: back } = reply ?? {}
  if (original === undefined || reply === undefined) return undefined
  if (source === undefined || destination === undefined || peer === undefined || back === undefined) return undefined
  const { protocol, sourcePort, destinationPort, icmpType } = original
  // Of ICMP that is the identifier again.
  const peerPort = icmpType === undefined ? reply.sourcePort : 0
  const { destinationPort: backPort } = reply
  return { protocol, source, sourcePort, destination, destinationPort, peer, peerPort, back, backPort, icmpType, id, zone } // prettier-ignore
}

function isTcpClosed(view: DataView, from: number, end: number): boolean {
  let isClosed = false
  eachAttribute(view, from, end, (type, at, to) => {
    if (type !== PROTOINFO) return
    eachAttribute(view, at, to, (protocol, start, stop) => {
      if (protocol !== PROTOINFO_TCP) return
      eachAttribute(view, start, stop, (field, place, last) => {
        if (field === PROTOINFO_TCP_STATE && last - place === 1)
          isClosed = tcpClosedStates.includes(view.getUint8(place))
      })
    })
  })
  return isClosed
}

function eachAttribute(
  view: DataView,
  from: number,
  end: number,
  each: (type: number, at: number, to: number) => void,
): void {
  for (let at = from; at + 4 <= end;) {
    const size = view.getUint16(at, true)
    if (size < 4 || at + size > end) return
    each(view.getUint16(at + 2, true) & TYPE_MASK, at + 4, at + size)
    at += (size + 3) & ~3
  }
}

function readTuple(octets: Uint8Array, view: DataView, from: number, end: number): Tuple {
  const tuple: Tuple = { source: undefined, destination: undefined, protocol: 0, sourcePort: 0, destinationPort: 0, icmpType: undefined } // prettier-ignore
  eachAttribute(view, from, end, (type, at, to) => {
    if (type === TUPLE_IP)
      eachAttribute(view, at, to, (field, start, stop) => {
        const size = stop - start
        if (size !== (field <= V4_DST ? 4 : 16)) return
        if (field === V4_SRC || field === V6_SRC) tuple.source = addressFromOctets(octets, start, size)
        else if (field === V4_DST || field === V6_DST) tuple.destination = addressFromOctets(octets, start, size)
      })
    else if (type === TUPLE_PROTO)
      eachAttribute(view, at, to, (field, start, stop) => {
        if (stop - start === 2 && (field === PROTO_SRC_PORT || field === PROTO_ICMP_ID || field === PROTO_ICMPV6_ID))
          tuple.sourcePort = view.getUint16(start)
        else if (stop - start === 2 && field === PROTO_DST_PORT) tuple.destinationPort = view.getUint16(start)
        else if (stop - start !== 1) return
        else if (field === PROTO_NUM) tuple.protocol = view.getUint8(start)
        else if (field === PROTO_ICMP_TYPE || field === PROTO_ICMPV6_TYPE) tuple.icmpType = view.getUint8(start)
      })
  })
  return tuple
}

/** Writes the question for all tracked connections of both families into `octets`; returns its length. */
export function askConnections(octets: Uint8Array, sequence: number): number {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  return writeHeader(octets, view, 0, CT_GET, NLM_F_DUMP, sequence, 0)
}

/** What the buffer must hold for each connection to be deleted. */
export const deletionOctetsMax = 128

/**
 * Writes requests that delete these connections, each if it is still there as it was seen; returns their length. Each is acknowledged, with
 * `sequence` and the numbers after it; ENOENT says that it was gone already.
 */
export function deleteConnections(octets: Uint8Array, connections: readonly Connection[], sequence: number): number {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  let at = 0
  connections.forEach((connection, i) => (at = writeDeletion(octets, view, at, connection, (sequence + i) & 0x7fffffff)))
  return at
} // prettier-ignore

function writeDeletion(
  octets: Uint8Array,
  view: DataView,
  start: number,
  connection: Connection,
  sequence: number,
): number {
  const { source, sourcePort, destination, destinationPort, protocol, icmpType, id, zone } = connection
  const isSix = source.length === 16
  let at = writeHeader(octets, view, start, CT_DELETE, NLM_F_ACK, sequence, isSix ? 10 : 2)
  const nest = (type: number, body: () => void): void => {
    const from = at
    at += 4
    body()
    view.setUint16(from, at - from, true)
    view.setUint16(from + 2, type | NESTED, true)
  }
  const attribute = (type: number, size: number, put: (at: number) => void): void => {
    view.setUint16(at, 4 + size, true)
    view.setUint16(at + 2, type, true)
    put(at + 4)
    at += 4 + size
    while (at % 4 !== 0) octets[at++] = 0
  }
  const address = (type: number, text: Address): void =>
    attribute(type, text.length, (to) => {
      for (let i = 0; i < text.length; i++) octets[to + i] = text.charCodeAt(i)
    })
  nest(TUPLE_ORIG, () => {
    nest(TUPLE_IP, () => {
      address(isSix ? V6_SRC : V4_SRC, source)
      address(isSix ? V6_DST : V4_DST, destination)
    })
    nest(TUPLE_PROTO, () => {
      attribute(PROTO_NUM, 1, (to) => view.setUint8(to, protocol))
      if (icmpType === undefined) {
        attribute(PROTO_SRC_PORT, 2, (to) => view.setUint16(to, sourcePort))
        attribute(PROTO_DST_PORT, 2, (to) => view.setUint16(to, destinationPort))
      } else {
        // Only questions that have an identifier are tracked, and their code is 0.
        attribute(isSix ? PROTO_ICMPV6_ID : PROTO_ICMP_ID, 2, (to) => view.setUint16(to, sourcePort))
        attribute(isSix ? PROTO_ICMPV6_TYPE : PROTO_ICMP_TYPE, 1, (to) => view.setUint8(to, icmpType))
        attribute(isSix ? PROTO_ICMPV6_CODE : PROTO_ICMP_CODE, 1, (to) => view.setUint8(to, 0))
      }
    })
  })
  if (zone !== 0) attribute(ZONE, 2, (to) => view.setUint16(to, zone))
  attribute(ID, 4, (to) => view.setUint32(to, id))
  view.setUint32(start, at - start, true)
  return at
}

function writeHeader(
  octets: Uint8Array,
  view: DataView,
  at: number,
  type: number,
  flags: number,
  sequence: number,
  family: number,
): number {
  view.setUint32(at, headerOctets, true)
  view.setUint16(at + 4, type, true)
  view.setUint16(at + 6, NLM_F_REQUEST | flags, true)
  view.setUint32(at + 8, sequence, true)
  view.setUint32(at + 12, 0, true)
  octets[at + 16] = family
  octets[at + 17] = 0
  view.setUint16(at + 18, 0)
  return at + headerOctets
}
