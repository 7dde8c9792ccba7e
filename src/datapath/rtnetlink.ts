// A network namespace's own addresses as bytes (linux/rtnetlink.h, linux/if_addr.h): the question for all of them, and the answers. Pure.
// Integers of rtnetlink are host order.
import { addressFromOctets, type Address } from '../net/address.ts'

const NLMSG_ERROR = 2
const NLMSG_DONE = 3
const NLM_F_REQUEST = 1
const NLM_F_DUMP = 0x300
const NEWADDR = 20
const GETADDR = 22
const AF_INET = 2
const AF_INET6 = 10
const IFA_ADDRESS = 1
const IFA_LOCAL = 2
const headerOctets = 16
/** struct ifaddrmsg: family, prefix length, flags, scope, and the interface's index. */
const addressHeaderOctets = 8

/** Multicast groups that tell of addresses that came, changed or went (RTNLGRP_*). */
export const addressGroups: readonly number[] = [5, 9]

/** Writes the question for all addresses of both families into `octets`; returns its length. */
export function askAddresses(octets: Uint8Array, sequence: number): number {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  const length = headerOctets + addressHeaderOctets
  octets.fill(0, 0, length)
  view.setUint32(0, length, true)
  view.setUint16(4, GETADDR, true)
  view.setUint16(6, NLM_F_REQUEST | NLM_F_DUMP, true)
  view.setUint32(8, sequence, true)
  return length
}

export type AddressMessage =
  | { readonly kind: 'address'; readonly address: Address }
  | { readonly kind: 'done'; readonly sequence: number }
  | { readonly kind: 'error'; readonly sequence: number; readonly errno: number }

/** Reads the messages in `octets[0, length)` one by one; what is not understood is passed over, a cut message ends the reading. */
export function readAddresses(octets: Uint8Array, length: number): AddressMessage[] {
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength)
  const messages: AddressMessage[] = []
  for (let at = 0; at + headerOctets <= length;) {
    const size = view.getUint32(at, true)
    if (size < headerOctets || at + size > length) break
    const message = readMessage(octets, view, at, at + size)
    if (message !== undefined) messages.push(message)
    at += (size + 3) & ~3
  }
  return messages
}

function readMessage(octets: Uint8Array, view: DataView, at: number, end: number): AddressMessage | undefined {
  const type = view.getUint16(at + 4, true)
  const sequence = view.getUint32(at + 8, true)
  if (type === NLMSG_DONE) return { kind: 'done', sequence }
  if (type === NLMSG_ERROR && at + 20 <= end) return { kind: 'error', sequence, errno: 0 - view.getInt32(at + 16, true) }
  const start = at + headerOctets + addressHeaderOctets
  if (type !== NEWADDR || start > end) return undefined
  const family = octets[at + headerOctets]
  const size = family === AF_INET ? 4 : family === AF_INET6 ? 16 : undefined
  if (size === undefined) return undefined
  const address = ownAddress(octets, view, start, end, size)
  return address === undefined ? undefined : { kind: 'address', address }
} // prettier-ignore

/** Where a link has two ends that are told apart, IFA_ADDRESS is the other's and IFA_LOCAL ours; else the one that is there is ours. */
function ownAddress(octets: Uint8Array, view: DataView, start: number, end: number, size: 4 | 16): Address | undefined {
  let found: Address | undefined
  for (let at = start; at + 4 <= end;) {
    const length = view.getUint16(at, true)
    if (length < 4 || at + length > end) break
    const type = view.getUint16(at + 2, true)
    if (length === 4 + size && (type === IFA_LOCAL || (type === IFA_ADDRESS && found === undefined))) {
      found = addressFromOctets(octets, at + 4, size)
      if (type === IFA_LOCAL) break
    }
    at += (length + 3) & ~3
  }
  return found
}
