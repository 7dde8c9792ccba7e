// A DNS message as its octets: what the header alone tells, the question, and a walk over records. Nothing is decoded that is not asked for.
import { Rcode, Type } from './codes.ts'
import { labelsOf, nameFromLabels, readName, type Name, type WireName } from './name.ts'

export const headerOctets = 12

/** What to do with a query, judged from its header (RFC 1035 §4.1.1): go on, answer with an error code, or say nothing. */
export type Gate =
  | { readonly kind: 'accept' }
  | { readonly kind: 'reject'; readonly rcode: Rcode; readonly fault: string }
  | { readonly kind: 'ignore'; readonly fault: string }

/** Answers to answers would make loops: what is a response, or too short to have a header, gets silence. */
export function gate(message: Uint8Array): Gate {
  if (message.length < headerOctets) return { kind: 'ignore', fault: 'shorter than a header' }
  if ((message[2] ?? 0) & 0x80) return { kind: 'ignore', fault: 'a response, not a query' }
  if ((message[2] ?? 0) & 0x78) return { kind: 'reject', rcode: Rcode.NotImp, fault: 'opcode other than QUERY' }
  if (count(message, 4) !== 1) return { kind: 'reject', rcode: Rcode.FormErr, fault: `${count(message, 4)} questions` }
  if (count(message, 6) > 0 || count(message, 8) > 0)
    return { kind: 'reject', rcode: Rcode.FormErr, fault: 'records in a query' }
  // An OPT record; what else a query may carry (TSIG, SIG(0)) is between its sender and us, and we hold no keys.
  if (count(message, 10) > 1) return { kind: 'reject', rcode: Rcode.FormErr, fault: 'too many additional records' }
  return { kind: 'accept' }
}

/** One of the header's 16-bit numbers. */
export function count(message: Uint8Array, at: number): number {
  return ((message[at] ?? 0) << 8) | (message[at + 1] ?? 0)
}

export interface Question {
  readonly wire: WireName
  readonly labels: readonly string[]
  readonly name: Name
  readonly qtype: number
  readonly qclass: number
  /** The question's octets as the client wrote them (its case is given back to it), a copy. */
  readonly octets: Uint8Array
}

/** The first question, which follows the header; `undefined` when it is malformed or its name is compressed. */
export function readQuestion(message: Uint8Array): Question | undefined {
  const name = readName(message, headerOctets)
  if (name === undefined || name.end - headerOctets !== name.wire.length || name.end + 4 > message.length)
    return undefined
  const labels = labelsOf(name.wire)
  return {
    wire: name.wire,
    labels,
    name: nameFromLabels(labels),
    qtype: count(message, name.end),
    qclass: count(message, name.end + 2),
    // Not `slice`: that of a Buffer is a view, and would hold on to the packet.
    octets: new Uint8Array(message.subarray(headerOctets, name.end + 4)),
  }
}

/** One record of a message: where things stand in it. */
export interface RecordAt {
  readonly owner: WireName
  readonly type: number
  readonly class: number
  readonly ttl: number
  readonly ttlAt: number
  readonly dataAt: number
  readonly dataLength: number
  readonly end: number
}

/** The record at `at`; `undefined` when it is malformed or cut off. */
export function readRecord(message: Uint8Array, at: number): RecordAt | undefined {
  const owner = readName(message, at)
  if (owner === undefined || owner.end + 10 > message.length) return undefined
  const fixed = owner.end
  const dataLength = count(message, fixed + 8)
  const end = fixed + 10 + dataLength
  if (end > message.length) return undefined
  const ttl = count(message, fixed + 4) * 65536 + count(message, fixed + 6)
  return {
    owner: owner.wire,
    type: count(message, fixed),
    class: count(message, fixed + 2),
    ttl,
    ttlAt: fixed + 4,
    dataAt: fixed + 10,
    dataLength,
    end,
  }
}

/** What the client's OPT record says (RFC 6891 §6.1). */
export interface Edns {
  readonly udpOctets: number
  readonly version: number
  readonly dnssecOk: boolean
  /** Upper eight bits of an answer's rcode; 0 in queries. */
  readonly extendedRcode: number
  /** Options as they stand in the record, code and length before each. */
  readonly options: Uint8Array
}

/** The OPT record among `records` that begin at `at`; `none` when there is none, `undefined` when they are malformed or it is there twice. */
export function readEdns(message: Uint8Array, at: number, records: number): Edns | 'none' | undefined {
  let edns: Edns | 'none' = 'none'
  for (let i = 0; i < records; i++) {
    const record = readRecord(message, at)
    if (record === undefined) return undefined
    at = record.end
    if (record.type !== Type.OPT) continue
    if (edns !== 'none' || record.owner !== '\0') return undefined
    const options = new Uint8Array(message.subarray(record.dataAt, record.end))
    if (!areOptions(options)) return undefined
    edns = {
      udpOctets: record.class,
      version: (record.ttl >>> 16) & 0xff,
      dnssecOk: (record.ttl & 0x8000) !== 0,
      extendedRcode: record.ttl >>> 24,
      options,
    }
  }
  return edns
}

function areOptions(options: Uint8Array): boolean {
  let at = 0
  while (at + 4 <= options.length) at += 4 + count(options, at + 2)
  return at === options.length
}

/** What the first option with that code holds; `undefined` when there is none. */
export function optionOf(edns: Edns | 'none', code: number): Uint8Array | undefined {
  if (edns === 'none') return undefined
  const { options } = edns
  for (let at = 0; at < options.length; at += 4 + count(options, at + 2))
    if (count(options, at) === code) return options.subarray(at + 4, at + 4 + count(options, at + 2))
  return undefined
}

/**
 * Options that mean one hop only: cookie (RFC 7873), TCP keepalive (RFC 7828), padding (RFC 7830), CHAIN (RFC 7901). All others are between
 * the client and whoever answers: they pass, in both directions.
 */
const hopOptions: readonly number[] = [10, 11, 12, 13]

/** The options that go on to the other side. */
export function passingOptions(edns: Edns | 'none'): Uint8Array {
  if (edns === 'none' || edns.options.length === 0) return noOptions
  const { options } = edns
  const passing: number[] = []
  for (let at = 0; at < options.length;) {
    const end = at + 4 + count(options, at + 2)
    if (!hopOptions.includes(count(options, at))) passing.push(...options.subarray(at, end))
    at = end
  }
  return Uint8Array.from(passing)
}

export const noOptions: Uint8Array = new Uint8Array(0)
