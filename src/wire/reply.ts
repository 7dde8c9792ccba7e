// Messages that we send: the query to an upstream, and replies to the workload. OPT is hop by hop (RFC 6891 §6), so it is ours on both sides.
import { Rcode, Type, type Ede } from './codes.ts'
import type { FitAnswer } from './answer.ts'
import { headerOctets, type Edns, type Question } from './message.ts'

/** What we offer upstreams and clients as UDP size: no fragments on any sane path (DNS flag day 2020). */
export const udpOctetsOffered = 1232
/** The most we send over UDP, whatever the client offers: larger answers are fragments, which get lost or forged. */
const udpOctetsMax = 4096
const udpOctetsPlain = 512
/** EXTRA-TEXT is for people; a line of it. */
const extraTextOctetsMax = 200

export interface Explanation {
  readonly code: Ede
  readonly text: string
}

/** The query for an upstream: our ID, the question as asked, RD, AD and CD as the client set them, DO when it did. */
export function buildQuery(id: number, question: Question, flags: QueryFlags): Uint8Array {
  const message = new Uint8Array(headerOctets + question.octets.length + 11)
  put16(message, 0, id)
  message[2] = flags.recursionDesired ? 1 : 0
  message[3] = (flags.authenticData ? 0x20 : 0) | (flags.checkingDisabled ? 0x10 : 0)
  put16(message, 4, 1)
  put16(message, 10, 1)
  message.set(question.octets, headerOctets)
  putOpt(message, headerOctets + question.octets.length, Rcode.NoError, flags.dnssecOk, undefined)
  return message
}

/** The bits of a query that change what an upstream answers. */
export interface QueryFlags {
  readonly recursionDesired: boolean
  readonly authenticData: boolean
  readonly checkingDisabled: boolean
  readonly dnssecOk: boolean
}

/** Reads them from a query's header and OPT. */
export function flagsOf(message: Uint8Array, edns: Edns | 'none'): QueryFlags {
  const [high = 0, low = 0] = [message[2], message[3]]
  return { recursionDesired: (high & 1) !== 0, authenticData: (low & 0x20) !== 0, checkingDisabled: (low & 0x10) !== 0, dnssecOk: edns !== 'none' && edns.dnssecOk }
} // prettier-ignore

/** A query as far as replies need it. */
export interface Asked {
  readonly message: Uint8Array
  /** Absent when the question could not be read. */
  readonly question?: Question
  readonly edns: Edns | 'none'
}

/** A reply without records: refusal, failure, format error. The explanation goes along when the client speaks EDNS (RFC 8914 §2). */
export function buildError(asked: Asked, rcode: Rcode, explanation?: Explanation): Uint8Array {
  const question = asked.question?.octets ?? new Uint8Array(0)
  const text = explanation === undefined ? undefined : encodeText(explanation)
  const optOctets = asked.edns === 'none' ? 0 : 11 + (text === undefined ? 0 : text.length)
  const reply = new Uint8Array(headerOctets + question.length + optOctets)
  putHeader(reply, asked, rcode & 0xf)
  put16(reply, 4, question.length > 0 ? 1 : 0)
  reply.set(question, headerOctets)
  if (asked.edns !== 'none') {
    put16(reply, 10, 1)
    putOpt(reply, headerOctets + question.length, rcode, asked.edns.dnssecOk, text)
  }
  return reply
}

/**
 * The reply that passes an upstream's answer on: the client's ID and its question octets, TTLs not above `ttlSeconds`, additional section
 * replaced by our OPT. What does not fit the client over UDP, or is truncated itself, goes out empty with TC, so that the client asks again
 * over TCP (RFC 2181 §9).
 * @param ageSeconds time since the answer came in, taken off every TTL.
 */
export function buildReply(asked: Asked, question: Question, answer: FitAnswer, ttlSeconds: number, ageSeconds: number, transport: 'udp' | 'tcp'): Uint8Array {
  const opt = asked.edns === 'none' ? 0 : 11
  const fits = !answer.truncated && answer.end + opt <= replyOctetsMax(asked.edns, transport)
  const body = fits ? answer.end : headerOctets + question.octets.length
  const reply = new Uint8Array(body + opt)
  reply.set(answer.message.subarray(0, body))
  putHeader(reply, asked, answer.rcode)
  // AD as the upstream says, to a client that showed it understands it (RFC 6840 §5.7, §5.8); AA is not ours to claim.
  const wantsAd = ((asked.message[3] ?? 0) & 0x20) !== 0 || (asked.edns !== 'none' && asked.edns.dnssecOk)
  if (wantsAd) reply[3] = (reply[3] ?? 0) | ((answer.message[3] ?? 0) & 0x20)
  reply.set(question.octets, headerOctets)
  put16(reply, 10, opt > 0 ? 1 : 0)
  if (fits) for (const at of answer.ttlsAt) capTtl(reply, at, ttlSeconds, ageSeconds)
  else {
    reply[2] = (reply[2] ?? 0) | 0x02
    put16(reply, 6, 0)
    put16(reply, 8, 0)
  }
  if (asked.edns !== 'none') putOpt(reply, body, answer.rcode, asked.edns.dnssecOk, undefined)
  return reply
} // prettier-ignore

function replyOctetsMax(edns: Edns | 'none', transport: 'udp' | 'tcp'): number {
  if (transport === 'tcp') return 65535
  return edns === 'none' ? udpOctetsPlain : Math.min(Math.max(edns.udpOctets, udpOctetsPlain), udpOctetsMax)
}

/** ID, opcode, RD and CD from the query; QR and RA set. */
function putHeader(reply: Uint8Array, { message }: Asked, rcode: number): void {
  reply[0] = message[0] ?? 0
  reply[1] = message[1] ?? 0
  reply[2] = 0x80 | ((message[2] ?? 0) & 0x79)
  reply[3] = 0x80 | ((message[3] ?? 0) & 0x10) | rcode
}

/** Makes the TTL at `at` what is left of it after `ageSeconds`, and not above `ttlSeconds`. */
export function capTtl(reply: Uint8Array, at: number, ttlSeconds: number, ageSeconds: number): void {
  const original = ((reply[at] ?? 0) & 0x80) !== 0 ? 0 : get32(reply, at)
  const ttl = Math.max(0, Math.min(original - ageSeconds, ttlSeconds))
  put16(reply, at, Math.floor(ttl / 65536))
  put16(reply, at + 2, ttl & 0xffff)
}

function get32(octets: Uint8Array, at: number): number {
  return (
    (((octets[at] ?? 0) << 24) |
      ((octets[at + 1] ?? 0) << 16) |
      ((octets[at + 2] ?? 0) << 8) |
      (octets[at + 3] ?? 0)) >>>
    0
  )
}

function put16(octets: Uint8Array, at: number, value: number): void {
  octets[at] = (value >>> 8) & 0xff
  octets[at + 1] = value & 0xff
}

/** Writes an OPT record of 11 octets, and behind it the option that is given. */
function putOpt(
  octets: Uint8Array,
  at: number,
  rcode: number,
  dnssecOk: boolean,
  option: Uint8Array | undefined,
): void {
  octets[at] = 0
  put16(octets, at + 1, Type.OPT)
  put16(octets, at + 3, udpOctetsOffered)
  octets[at + 5] = (rcode >>> 4) & 0xff
  octets[at + 6] = 0
  put16(octets, at + 7, dnssecOk ? 0x8000 : 0)
  put16(octets, at + 9, option?.length ?? 0)
  if (option !== undefined) octets.set(option, at + 11)
}

/** An EDE option: code 15, length, INFO-CODE, EXTRA-TEXT in UTF-8 cut at a character. */
function encodeText({ code, text }: Explanation): Uint8Array {
  let utf8 = new TextEncoder().encode(text)
  if (utf8.length > extraTextOctetsMax) {
    let end = extraTextOctetsMax
    while (((utf8[end] ?? 0) & 0xc0) === 0x80) end--
    utf8 = utf8.slice(0, end)
  }
  const option = new Uint8Array(6 + utf8.length)
  put16(option, 0, 15)
  put16(option, 2, 2 + utf8.length)
  put16(option, 4, code)
  option.set(utf8, 6)
  return option
}
