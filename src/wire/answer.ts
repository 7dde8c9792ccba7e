// Does the answer fit the question? Only an answer whose question is ours and whose records all belong to the chain that starts
// there may teach us addresses: a permitted resolver can lie, and what it slips in must open nothing.
import { addressFromOctets, type Address } from '../net/address.ts'
import { Class, Rcode, rcodeName, Type } from './codes.ts'
import {
  count,
  headerOctets,
  noOptions,
  passingOptions,
  readEdns,
  readRecord,
  type Question,
  type RecordAt,
} from './message.ts'
import { isUnder, readName, type WireName } from './name.ts'

/** A chain longer than this is a loop or an attack; resolvers stop at 8 to 16. */
export const chainLinksMax = 16
/** Records in an answer and authority section together: more than fits any sane answer of 64 kB. */
const recordsMax = 2048

/** An answer that fits. Offsets are into `message`. */
export interface FitAnswer {
  readonly kind: 'fits'
  readonly message: Uint8Array
  /** With the upper bits of the OPT record, if it has one (RFC 6891 §6.1.3). */
  readonly rcode: number
  /** The names from the question along its CNAMEs, in order. */
  readonly chain: readonly WireName[]
  /** Options that the upstream meant for the client. */
  readonly options: Uint8Array
  /** TC: the answer is to be had over TCP. Then nothing is told of its records, and `end` is the end of the question. */
  readonly truncated: boolean
  /** Of class IN: in-chain A, AAAA and the address hints of HTTPS and SVCB, each once, in order: all that a client may connect to. */
  readonly addresses: readonly Address[]
  /** Whether it holds HTTPS or SVCB records. */
  readonly hasService: boolean
  /** The least TTL along the chain and its addresses; for a negative answer what RFC 2308 §5 says, 0 without SOA. */
  readonly ttlSeconds: number
  /** Where the TTLs of answer and authority records stand. */
  readonly ttlsAt: readonly number[]
  /** End of the authority section. What follows (glue, OPT) is not passed on: nobody vouches for it. */
  readonly end: number
}

export type Fit = FitAnswer | { readonly kind: 'fault'; readonly fault: string }

const fault = (text: string): Fit => ({ kind: 'fault', fault: text })

/** Whether a message is an answer to this very question: a response whose one question equals ours, case aside. */
export function answersQuestion(question: Question, message: Uint8Array): boolean {
  if (
    message.length < headerOctets + question.octets.length ||
    ((message[2] ?? 0) & 0xf8) !== 0x80 ||
    count(message, 4) !== 1
  )
    return false
  const end = headerOctets + question.octets.length
  const name = readName(message, headerOctets)
  return (
    name !== undefined &&
    name.end + 4 === end &&
    name.wire === question.wire &&
    count(message, end - 4) === question.qtype &&
    count(message, end - 2) === question.qclass
  )
}

/** Judges a response to `question`. The message is kept, not copied. */
export function fit(question: Question, message: Uint8Array): Fit {
  if (!answersQuestion(question, message)) return fault('its question is not the one asked')
  const truncated = ((message[2] ?? 0) & 0x02) !== 0
  const lowRcode = (message[3] ?? 0) & 0x0f
  // What is cut off is to be had over TCP; until then its records say nothing, and none of them is passed on.
  const behindQuestion = headerOctets + question.octets.length
  if (truncated)
    return { kind: 'fits', message, rcode: lowRcode, chain: [question.wire], options: noOptions, truncated, addresses: [], hasService: false, ttlSeconds: 0, ttlsAt: [], end: behindQuestion } // prettier-ignore
  const [answers, authorities] = [count(message, 6), count(message, 8)]
  if (answers + authorities > recordsMax) return fault(`${answers + authorities} records`)
  const records: RecordAt[] = []
  let at = behindQuestion
  for (let i = 0; i < answers + authorities; i++) {
    const record = readRecord(message, at)
    if (record === undefined) return fault('a record is malformed or cut off')
    records.push(record)
    at = record.end
  }
  const additionals = count(message, 10)
  const edns = additionals > recordsMax ? undefined : readEdns(message, at, additionals)
  if (edns === undefined) return fault('its additional section is malformed')
  const rcode = lowRcode | (edns === 'none' ? 0 : edns.extendedRcode << 4)

  const section = records.slice(0, answers)
  const chain = followChain(question, message, section)
  if (typeof chain === 'string') return fault(chain)
  const addresses = new Set<Address>()
  let least = Infinity
  // Addresses are of the Internet: what is an A in another class (RFC 1035 §3.4.1) leads nowhere that a lease could be about.
  const isInternet = question.qclass === Class.IN
  for (const record of section) {
    const stray = strayRecord(record, question.qclass, chain)
    if (stray !== undefined) return fault(stray)
    least = Math.min(least, ttlOf(record))
    if (!isInternet) continue
    if (record.type === Type.A && record.dataLength !== 4) return fault('an A record that is not 4 octets')
    if (record.type === Type.AAAA && record.dataLength !== 16) return fault('an AAAA record that is not 16 octets')
    if (record.type === Type.A) addresses.add(addressFromOctets(message, record.dataAt, 4))
    if (record.type === Type.AAAA) addresses.add(addressFromOctets(message, record.dataAt, 16))
    if (record.type === Type.SVCB || record.type === Type.HTTPS) {
      const hints = readHints(message, record)
      if (hints === undefined) return fault('a service record is malformed')
      for (const hint of hints) addresses.add(hint)
    }
  }
  // NXDOMAIN may stand at the end of a chain (RFC 6604 §2.1), but an error that names addresses contradicts itself.
  if (rcode !== Rcode.NoError && addresses.size > 0) return fault(`addresses under ${rcodeName(rcode)}`)
  const positive =
    rcode === Rcode.NoError && section.some((record) => record.type === question.qtype || !links.includes(record.type))
  const ttlSeconds = positive ? least : Math.min(least, negativeTtl(message, records.slice(answers)))
  return {
    kind: 'fits',
    message,
    rcode,
    chain: [...chain],
    options: passingOptions(edns),
    truncated,
    addresses: [...addresses],
    hasService: isInternet && section.some(({ type }) => type === Type.SVCB || type === Type.HTTPS),
    ttlSeconds,
    ttlsAt: records.map((r) => r.ttlAt),
    end: at,
  }
}

const [ipv4hint, ipv6hint] = [4, 6]

/** The address hints of a service record, which clients connect to at once (RFC 9460 §2.2, §7.3); `undefined` when it is malformed. */
function readHints(message: Uint8Array, record: RecordAt): Address[] | undefined {
  const end = record.dataAt + record.dataLength
  const target = record.dataLength < 3 ? undefined : readName(message, record.dataAt + 2)
  if (target === undefined || target.end > end) return undefined
  const hints: Address[] = []
  let at = target.end
  while (at < end) {
    const length = at + 4 > end ? Infinity : count(message, at + 2)
    const key = count(message, at)
    at += 4
    if (at + length > end) return undefined
    const size = key === ipv4hint ? 4 : key === ipv6hint ? 16 : undefined
    if (size !== undefined) {
      if (length === 0 || length % size !== 0) return undefined
      for (let i = 0; i < length; i += size) hints.push(addressFromOctets(message, at + i, size))
    }
    at += length
  }
  return hints
}

/** Records that only lead on to others: an answer of nothing else is a negative one. */
const links: readonly number[] = [Type.CNAME, Type.DNAME, Type.RRSIG]

/** A TTL with its top bit set counts as zero (RFC 2181 §8). */
function ttlOf(record: RecordAt): number {
  return record.ttl >= 2 ** 31 ? 0 : record.ttl
}

/** The names from the question along the CNAMEs, in whatever order these stand; or what is wrong with them. */
function followChain(
  question: Question,
  message: Uint8Array,
  section: readonly RecordAt[],
): ReadonlySet<WireName> | string {
  const next = new Map<WireName, WireName>()
  for (const record of section) {
    if (record.type !== Type.CNAME || record.class !== question.qclass) continue
    const target = readName(message, record.dataAt)
    if (target === undefined || target.end !== record.dataAt + record.dataLength) return 'a CNAME is malformed'
    const known = next.get(record.owner)
    if (known !== undefined && known !== target.wire) return 'the chain forks'
    next.set(record.owner, target.wire)
  }
  const chain = new Set<WireName>([question.wire])
  // A question for the CNAME itself ends at its owner.
  if (question.qtype === Type.CNAME) return chain
  for (let name = next.get(question.wire); name !== undefined; name = next.get(name)) {
    if (chain.has(name)) return 'the chain loops'
    if (chain.size >= chainLinksMax) return `the chain is longer than ${chainLinksMax}`
    chain.add(name)
  }
  return chain
}

/** Why a record does not belong into an answer with this chain; `undefined` when it does. */
function strayRecord(record: RecordAt, qclass: number, chain: ReadonlySet<WireName>): string | undefined {
  if (record.class !== qclass) return 'a record of another class'
  if (chain.has(record.owner)) return undefined
  // A DNAME stands above the name that it redirects (RFC 6672 §3.1), and its signature with it.
  if (
    (record.type === Type.DNAME || record.type === Type.RRSIG) &&
    [...chain].some((name) => isUnder(name, record.owner))
  )
    return undefined
  return 'a record outside the chain that starts at the question'
}

/** How long a negative answer may be kept: the lesser of the SOA's TTL and its MINIMUM field, its last four octets. */
function negativeTtl(message: Uint8Array, authority: readonly RecordAt[]): number {
  const soa = authority.find((record) => record.type === Type.SOA && record.dataLength >= 22)
  if (soa === undefined) return 0
  const at = soa.dataAt + soa.dataLength - 4
  return Math.min(ttlOf(soa), count(message, at) * 65536 + count(message, at + 2))
}
