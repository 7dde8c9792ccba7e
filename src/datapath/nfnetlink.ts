// nf_tables messages as bytes (linux/netfilter/nfnetlink.h, nf_tables.h): set elements with timeouts, and the generation.
// Pure: builds requests, reads answers. Integers of netlink headers are host order, those inside nf_tables attributes big endian.
import type { Address } from '../net/address.ts'
import { setOf, type LeaseElement } from './element.ts'

const NLMSG_ERROR = 2
const NLM_F_REQUEST = 1
const NLM_F_ACK = 4
const NLM_F_CREATE = 0x400
const NFNL_BATCH_BEGIN = 0x10
const NFNL_BATCH_END = 0x11
const NFNL_SUBSYS_NFTABLES = 10
const NFPROTO_INET = 1
const NEWSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 12
const DELSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 14
const DESTROYSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 30
const NEWGEN = (NFNL_SUBSYS_NFTABLES << 8) | 15
const GETGEN = (NFNL_SUBSYS_NFTABLES << 8) | 16
const ELEM_LIST_TABLE = 1
const ELEM_LIST_SET = 2
const ELEM_LIST_ELEMENTS = 3
const LIST_ELEM = 1
const ELEM_KEY = 1
const ELEM_TIMEOUT = 4
const ELEM_EXPIRATION = 5
const ELEM_KEY_END = 10
const DATA_VALUE = 1
const NESTED = 0x8000
const GEN_ID = 1

/** Elements in one transaction. At 32 an element costs a quarter of a lone one; 128 stay well inside a socket buffer. */
export const elementsPerTransactionMax = 128

/** What the buffer must hold for a full transaction: at most three messages of under 220 octets an element, and the frame. */
export const requestOctetsMax: number = elementsPerTransactionMax * 3 * 220 + 64

/** What a kernel can do in one step, found out by `probeDialect`. */
export interface Dialect {
  /** How an element that may be there already gets its new timeout: see `addElements`. */
  readonly renewal: 'update' | 'replace'
  /** How an element goes that may not be there: see `removeElements`. */
  readonly removal: 'destroy' | 'replace'
}

/** A view on a request or answer buffer; the caller owns the buffer and sends `[0, length)`. */
interface Writer {
  readonly octets: Uint8Array
  readonly view: DataView
  at: number
}

function startMessage(
  w: Writer,
  type: number,
  flags: number,
  sequence: number,
  family: number,
  resource: number,
): number {
  const start = w.at
  w.view.setUint16(start + 4, type, true)
  w.view.setUint16(start + 6, flags, true)
  w.view.setUint32(start + 8, sequence, true)
  w.view.setUint32(start + 12, 0, true)
  w.octets[start + 16] = family
  w.octets[start + 17] = 0
  w.view.setUint16(start + 18, resource)
  w.at = start + 20
  return start
}

function endMessage(w: Writer, start: number): void {
  w.view.setUint32(start, w.at - start, true)
}

function startAttribute(w: Writer, type: number): number {
  const start = w.at
  w.view.setUint16(start + 2, type, true)
  w.at = start + 4
  return start
}

function endAttribute(w: Writer, start: number): void {
  w.view.setUint16(start, w.at - start, true)
  while (w.at % 4 !== 0) w.octets[w.at++] = 0
}

function text(w: Writer, type: number, value: string): void {
  const start = startAttribute(w, type)
  for (let i = 0; i < value.length; i++) w.octets[w.at++] = value.charCodeAt(i)
  w.octets[w.at++] = 0
  endAttribute(w, start)
}

function millis(w: Writer, type: number, value: number): void {
  const start = startAttribute(w, type)
  w.view.setBigUint64(w.at, BigInt(Math.max(1, Math.round(value))))
  w.at += 8
  endAttribute(w, start)
}

/**
 * Key octets: fields of a concatenation, each padded to four. The identity is a classid: host order as the packet's priority is, but big
 * endian in an interval set, whose lookup compares octet by octet and for which nft's rules therefore turn it round.
 */
function key(
  w: Writer,
  type: number,
  identity: number,
  address: Address,
  protocol: number | undefined,
  port: number,
  inInterval: boolean,
): void {
  const start = startAttribute(w, type | NESTED)
  const data = startAttribute(w, DATA_VALUE)
  w.view.setUint32(w.at, identity, !inInterval)
  w.at += 4
  for (let i = 0; i < address.length; i++) w.octets[w.at++] = address.charCodeAt(i)
  if (protocol !== undefined) {
    w.view.setUint32(w.at, 0)
    w.octets[w.at] = protocol
    w.view.setUint32(w.at + 4, 0)
    w.view.setUint16(w.at + 4, port)
    w.at += 8
  }
  endAttribute(w, data)
  endAttribute(w, start)
}

/** The end of a range, which lives in an interval set; undefined of what is in a hash. */
function endOf({ ports }: LeaseElement): number | undefined {
  return ports.kind === 'ports' && ports.first !== ports.last ? ports.last : undefined
}

function elementMessage(
  w: Writer,
  table: string,
  type: number,
  flags: number,
  sequence: number,
  e: LeaseElement,
  timed: boolean,
): void {
  const start = startMessage(w, type, NLM_F_REQUEST | flags, sequence, NFPROTO_INET, 0)
  text(w, ELEM_LIST_TABLE, table)
  text(w, ELEM_LIST_SET, setOf(e))
  const list = startAttribute(w, ELEM_LIST_ELEMENTS | NESTED)
  const element = startAttribute(w, LIST_ELEM | NESTED)
  const { ports } = e
  const end = endOf(e)
  const protocol = ports.kind === 'all' ? undefined : ports.protocol
  key(w, ELEM_KEY, e.identity, e.address, protocol, ports.kind === 'all' ? 0 : ports.first, end !== undefined)
  if (end !== undefined) key(w, ELEM_KEY_END, e.identity, e.address, protocol, end, true)
  if (timed) {
    millis(w, ELEM_TIMEOUT, e.timeoutMillis)
    millis(w, ELEM_EXPIRATION, e.timeoutMillis)
  }
  endAttribute(w, element)
  endAttribute(w, list)
  endMessage(w, start)
}

function transaction(octets: Uint8Array, sequence: number, body: (w: Writer) => void): number {
  const w: Writer = { octets, view: new DataView(octets.buffer, octets.byteOffset, octets.byteLength), at: 0 }
  endMessage(w, startMessage(w, NFNL_BATCH_BEGIN, NLM_F_REQUEST, sequence, 0, NFNL_SUBSYS_NFTABLES))
  body(w)
  endMessage(w, startMessage(w, NFNL_BATCH_END, NLM_F_REQUEST, sequence, 0, NFNL_SUBSYS_NFTABLES))
  return w.at
}

/**
 * Writes one transaction that adds the elements, or renews those that are there; returns its length. Only the last message asks for
 * an acknowledgement, numbered `sequence`: a failure of an earlier one is reported before it.
 * - `update`: add with timeout and expiration, which renews since Linux 6.12; before, it returned success and did nothing.
 * - `replace`: add, delete, add: renews everywhere, the first add being there so that the delete cannot fail.
 */
export function addElements(
  octets: Uint8Array,
  table: string,
  elements: readonly LeaseElement[],
  renewal: Dialect['renewal'],
  sequence: number,
): number {
  return transaction(octets, sequence, (w) => {
    elements.forEach((element, i) => {
      const ack = i === elements.length - 1 ? NLM_F_ACK : 0
      if (renewal === 'replace') {
        elementMessage(w, table, NEWSETELEM, NLM_F_CREATE, sequence, element, true)
        elementMessage(w, table, DELSETELEM, 0, sequence, element, false)
      }
      elementMessage(w, table, NEWSETELEM, NLM_F_CREATE | ack, sequence, element, true)
    })
  })
}

/**
 * Writes one transaction that removes the elements, present or not; returns its length.
 * - `destroy`: since Linux 6.3; but for ranges, of which the kernel takes out whichever holds the first port.
 * - `replace`: add, then delete. A full set refuses the addition (ENFILE), and so does one in which another range overlaps (EEXIST).
 */
export function removeElements(
  octets: Uint8Array,
  table: string,
  elements: readonly LeaseElement[],
  removal: Dialect['removal'],
  sequence: number,
): number {
  return transaction(octets, sequence, (w) => {
    elements.forEach((element, i) => {
      const ack = i === elements.length - 1 ? NLM_F_ACK : 0
      const destroys = removal === 'destroy' && endOf(element) === undefined
      if (!destroys) elementMessage(w, table, NEWSETELEM, NLM_F_CREATE, sequence, element, true)
      elementMessage(w, table, destroys ? DESTROYSETELEM : DELSETELEM, ack, sequence, element, false)
    })
  })
}

/** Writes the question for the ruleset's generation, a number that every transaction of anybody raises; returns its length. */
export function askGeneration(octets: Uint8Array, sequence: number): number {
  const w: Writer = { octets, view: new DataView(octets.buffer, octets.byteOffset, octets.byteLength), at: 0 }
  endMessage(w, startMessage(w, GETGEN, NLM_F_REQUEST, sequence, 0, 0))
  return w.at
}

export type Answer =
  | { readonly kind: 'ack'; readonly sequence: number }
  | { readonly kind: 'error'; readonly sequence: number; readonly errno: number }
  | { readonly kind: 'generation'; readonly sequence: number; readonly generation: number }
  | { readonly kind: 'other' }

/** Reads the messages in `octets[0, length)`; anything not understood is `other`, a cut message ends the reading. */
export function readAnswers(octets: Uint8Array, length: number): Answer[] {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  const answers: Answer[] = []
  for (let at = 0; at + 16 <= length;) {
    const size = view.getUint32(at, true)
    if (size < 16 || at + size > length) break
    answers.push(readAnswer(view, at, size))
    at += (size + 3) & ~3
  }
  return answers
}

function readAnswer(view: DataView, at: number, size: number): Answer {
  const type = view.getUint16(at + 4, true)
  const sequence = view.getUint32(at + 8, true)
  if (type === NLMSG_ERROR && size >= 20) {
    const errno = -view.getInt32(at + 16, true)
    return errno === 0 ? { kind: 'ack', sequence } : { kind: 'error', sequence, errno }
  }
  if (type !== NEWGEN) return { kind: 'other' }
  for (let a = at + 20; a + 8 <= at + size; a += (view.getUint16(a, true) + 3) & ~3) {
    if (view.getUint16(a, true) < 4) break
    if ((view.getUint16(a + 2, true) & 0x3fff) === GEN_ID)
      return { kind: 'generation', sequence, generation: view.getUint32(a + 4) }
  }
  return { kind: 'other' }
}
