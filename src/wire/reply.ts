// Messages that we send: the query to an upstream, and replies to the workload. OPT is hop by hop (RFC 6891 §6), so it is ours on both sides.
import { Rcode, Type, type Ede } from './codes.ts'
import type { FitAnswer } from './answer.ts'
import { headerOctets, noOptions, passingOptions, type Edns, type Question } from './message.ts'

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

/**
 * The query for an upstream: our ID, the question as asked, RD, AD and CD as the client set them, DO when it did, and the client's options.
 * Without OPT (`none`) for a server that does not know it.
 */
export function buildQuery(
  id: number,
  question: Question,
  flags: QueryFlags,
  edns: { readonly cookie?: Uint8Array } | 'none' = {},
): Uint8Array {
  const behindQuestion = headerOctets + question.octets.length
  const cookie = edns === 'none' || edns.cookie === undefined ? noOptions : encodeOption(10, edns.cookie)
  const options = edns === 'none' ? noOptions : joined(flags.options, cookie)
  const message = new Uint8Array(behindQuestion + (edns === 'none' ? 0 : 11 + options.length))
  put16(message, 0, id)
  message[2] = flags.recursionDesired ? 1 : 0
  message[3] = (flags.authenticData ? 0x20 : 0) | (flags.checkingDisabled ? 0x10 : 0)
  put16(message, 4, 1)
  put16(message, 10, edns === 'none' ? 0 : 1)
  message.set(question.octets, headerOctets)
  if (edns !== 'none') putOpt(message, behindQuestion, Rcode.NoError, flags.dnssecOk, options)
  return message
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (b.length === 0) return a
  const both = new Uint8Array(a.length + b.length)
  both.set(a, 0)
  both.set(b, a.length)
  return both
}

/** The bits of a query that change what an upstream answers. */
export interface QueryFlags {
  readonly recursionDesired: boolean
  readonly authenticData: boolean
  readonly checkingDisabled: boolean
  readonly dnssecOk: boolean
  /** Options of the client that go on to the upstream. */
  readonly options: Uint8Array
}

/** Reads them from a query's header and OPT. */
export function flagsOf(message: Uint8Array, edns: Edns | 'none'): QueryFlags {
  const [high = 0, low = 0] = [message[2], message[3]]
  return { recursionDesired: (high & 1) !== 0, authenticData: (low & 0x20) !== 0, checkingDisabled: (low & 0x10) !== 0, dnssecOk: edns !== 'none' && edns.dnssecOk, options: passingOptions(edns) }
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
export function buildReply(asked: Asked, question: Question, answer: FitAnswer, ttlSeconds: number, ageSeconds: number, transport: 'udp' | 'tcp', explanation?: Explanation): Uint8Array {
  const max = replyOctetsMax(asked.edns, transport)
  // The upstream's options are worth less than its records: where both do not fit, they stay behind.
  const wanted = explanation === undefined ? answer.options : joined(answer.options, encodeText(explanation))
  const options = answer.end + 11 + wanted.length <= max ? wanted : noOptions
  const opt = asked.edns === 'none' ? 0 : 11 + options.length
  const fits = !answer.truncated && answer.end + opt <= max
  const body = fits ? answer.end : headerOctets + question.octets.length
  const reply = new Uint8Array(body + opt)
  reply.set(answer.message.subarray(0, body))
  // Without OPT there is no room for the upper bits, and the lower alone mean something else.
  const rcode = asked.edns === 'none' && answer.rcode > 0xf ? Rcode.ServFail : answer.rcode
  putHeader(reply, asked, rcode & 0xf)
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
  if (asked.edns !== 'none') putOpt(reply, body, rcode, asked.edns.dnssecOk, options)
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

/** Writes an OPT record of 11 octets, and behind it the options that are given. */
function putOpt(
  octets: Uint8Array,
  at: number,
  rcode: number,
  dnssecOk: boolean,
  options: Uint8Array | undefined,
): void {
  octets[at] = 0
  put16(octets, at + 1, Type.OPT)
  put16(octets, at + 3, udpOctetsOffered)
  octets[at + 5] = (rcode >>> 4) & 0xff
  octets[at + 6] = 0
  put16(octets, at + 7, dnssecOk ? 0x8000 : 0)
  put16(octets, at + 9, options?.length ?? 0)
  if (options !== undefined) octets.set(options, at + 11)
}

/** An option behind its code and length. */
function encodeOption(code: number, data: Uint8Array): Uint8Array {
  const option = new Uint8Array(4 + data.length)
  put16(option, 0, code)
  put16(option, 2, data.length)
  option.set(data, 4)
  return option
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
