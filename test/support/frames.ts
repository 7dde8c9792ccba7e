// Packets written octet by octet, for what no honest socket sends: extension headers, options, fragments, forged sources, ICMP errors.
// RFC 791 (IPv4), 8200 (IPv6), 792 and 4443 (ICMP), 768 (UDP), 9293 (TCP). Pure.
import { expect } from 'vitest'
import { addressFromText } from '../../src/net/address.ts'

export type Octets = readonly number[]

export const word = (value: number): Octets => [(value >> 8) & 255, value & 255]
export const text = (value: string): Octets => [...Buffer.from(value, 'latin1')]
/** An address of either family; IPv4 in IPv6 as `::ffff:1.2.3.4` too, which nobody may send. */
export const octetsOf = (address: string): Octets => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/.exec(address)?.[1]
  if (mapped !== undefined) return [...Array<number>(10).fill(0), 255, 255, ...octetsOf(mapped)]
  return [...Buffer.from(addressFromText(address) ?? expect.fail(address), 'latin1')]
}

/** The ones' complement sum of RFC 1071. */
export function checksum(octets: Octets): number {
  let sum = 0
  for (let i = 0; i < octets.length; i += 2) sum += ((octets[i] ?? 0) << 8) | (octets[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  return ~sum & 0xffff
}
const withChecksum = (octets: Octets, at: number, sum: number): Octets => octets.with(at, sum >> 8).with(at + 1, sum & 255) // prettier-ignore

/** Source and destination. */
export type Way = readonly [from: string, to: string]

/** What is behind the network header. */
export interface Body {
  readonly protocol: number
  readonly octets: Octets
}

function overPseudoHeader([from, to]: Way, { protocol, octets }: Body, at: number): Body {
  const pseudo = [...octetsOf(from), ...octetsOf(to), ...[0, 0, ...word(octets.length)], 0, 0, 0, protocol]
  return { protocol, octets: withChecksum(octets, at, checksum([...pseudo, ...octets])) }
}

export function udp(way: Way, [from, to]: readonly [number, number], data: Octets): Body {
  return overPseudoHeader(way, { protocol: 17, octets: [...word(from), ...word(to), ...word(8 + data.length), 0, 0, ...data] }, 6) // prettier-ignore
}

export const Flag = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, URG: 32 } as const
/** @param sequence and what is acknowledged, under 65536. */
export function tcp(
  way: Way,
  [from, to]: readonly [number, number],
  flags: number,
  data: Octets,
  [sequence, acknowledged]: readonly [number, number] = [1, 1],
): Body {
  // prettier-ignore
  return overPseudoHeader(way, { protocol: 6, octets: [...word(from), ...word(to), 0, 0, ...word(sequence), 0, 0, ...word(acknowledged), 0x50, flags, 0x20, 0, 0, 0, 0, 0, ...data] }, 16) // prettier-ignore
}

/** @param rest the second word of the header: identifier and number, a gateway, an MTU. */
export function icmp(way: Way, type: number, code: number, rest: Octets, data: Octets): Body {
  const octets = [type, code, 0, 0, ...rest, ...data]
  if (way[0].includes(':')) return overPseudoHeader(way, { protocol: 58, octets }, 2)
  return { protocol: 1, octets: withChecksum(octets, 2, checksum(octets)) }
}

export const bare = (protocol: number, octets: Octets): Body => ({ protocol, octets })

/** One part of a datagram: where it begins, in octets, and whether more follow. */
export interface Part {
  readonly id: number
  readonly offset: number
  readonly more: boolean
}

export interface Ipv4Head {
  /** Whole words. */
  readonly options?: Octets
  readonly part?: Part
  readonly ttl?: number
}

export function ipv4(
  [from, to]: Way,
  { protocol, octets }: Body,
  { options = [], part, ttl = 64 }: Ipv4Head = {},
): Octets {
  // prettier-ignore
  const { id, offset, more } = part ?? { id: 0, offset: 0, more: false }
  const length = 20 + options.length
  const head = [0x40 + length / 4, 0, ...word(length + octets.length), ...word(id), ...word((more ? 0x2000 : 0) | (offset / 8)), ttl, protocol, 0, 0, ...octetsOf(from), ...octetsOf(to), ...options] // prettier-ignore
  return [...withChecksum(head, 10, checksum(head)), ...octets]
}

/** An extension header without its first octet, which says what follows it. */
export interface Extension {
  readonly header: number
  readonly octets: Octets
}
export const hopByHop = (...options: Octets): Extension => ({ header: 0, octets: lengthed(options) })
export const destinationOptions = (...options: Octets): Extension => ({ header: 60, octets: lengthed(options) })
/** @param left segments that are still to be visited. */
export const routing = (type: number, left: number, ...data: Octets): Extension => ({ header: 43, octets: lengthed([type, left, ...data]) }) // prettier-ignore
export const fragment = ({ id, offset, more }: Part): Extension => ({ header: 44, octets: [0, ...word(offset | (more ? 1 : 0)), 0, 0, ...word(id)] }) // prettier-ignore
/** An authentication header (RFC 4302), whose length is in words. */
export const authentication: Extension = { header: 51, octets: [4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, ...Array<number>(12).fill(0)] } // prettier-ignore

/** Padded to eights, with the length in front: in eights, without the first. */
function lengthed(data: Octets): Octets {
  const padding = (8 - ((data.length + 2) % 8)) % 8
  const pad = padding < 2 ? Array<number>(padding).fill(0) : [1, padding - 2, ...Array<number>(padding - 2).fill(0)]
  return [(data.length + 2 + padding) / 8 - 1, ...data, ...pad]
}

export interface Ipv6Head {
  readonly extensions?: readonly Extension[]
  readonly hopLimit?: number
}

export function ipv6(
  [from, to]: Way,
  { protocol, octets }: Body,
  { extensions = [], hopLimit = 64 }: Ipv6Head = {},
): Octets {
  // prettier-ignore
  const chain = extensions.flatMap(({ octets: rest }, i) => [extensions[i + 1]?.header ?? protocol, ...rest])
  const first = extensions[0]?.header ?? protocol
  return [0x60, 0, 0, 0, ...word(chain.length + octets.length), first, hopLimit, ...octetsOf(from), ...octetsOf(to), ...chain, ...octets] // prettier-ignore
}

/** A datagram in the family of its addresses. */
export const ip = (way: Way, body: Body): Octets => (way[0].includes(':') ? ipv6(way, body) : ipv4(way, body))

/** The parts of a body, cut at offsets that are eights. */
export function cut(
  { protocol, octets }: Body,
  ...cuts: readonly number[]
): { body: Body; offset: number; more: boolean }[] {
  // prettier-ignore
  const edges = [0, ...cuts, octets.length]
  return edges.slice(0, -1).map((offset, i) => ({
    body: { protocol, octets: octets.slice(offset, edges[i + 1]) },
    offset,
    more: i < cuts.length,
  }))
}
