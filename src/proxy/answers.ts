// Answers to questions, wherever from: kept ones, ones under way for somebody else, or new ones from upstream. Whatever comes out of here
// has been held against its question; nothing else is kept.
import { randomInt } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import type { Clock, Millis, Seconds } from '../clock.ts'
import { fit, type FitAnswer } from '../wire/answer.ts'
import { Rcode } from '../wire/codes.ts'
import type { Question } from '../wire/message.ts'
import { mixed, numberOfName } from '../wire/name.ts'
import type { QueryFlags } from '../wire/reply.ts'
import { makeBlocks, takenFor } from './blocks.ts'
import type { UpstreamReply } from './upstream.ts'

export type Answered =
  | {
      readonly kind: 'answer'
      readonly answer: FitAnswer
      /** What is left of its TTL. */
      readonly ttlSeconds: Seconds
      readonly ageSeconds: Seconds
      readonly cached: boolean
      /** When it came in; undefined: it is told to those who asked meanwhile, and not kept, or its TTL is over. */
      readonly keptAt: Millis | undefined
      /** Present when its TTL is over, and nobody has answered since: asks on, for whom this one will not do. */
      readonly refresh?: () => Promise<Answered>
    }
  | { readonly kind: 'unfit'; readonly text: string }
  | { readonly kind: 'failed'; readonly reason: 'timeout' | 'network' | 'overloaded'; readonly text: string }

export interface AnswerOptions {
  /** Bounds of what is kept; the least recently used goes. */
  readonly entries: number
  readonly octets: number
  /** How long behind its TTL an answer is at hand when the upstream fails (RFC 8767); 0: not at all. */
  readonly staleSeconds: Seconds
  /** After so long without a word from upstream, such an answer is told rather than waited: less than a client's first timeout. */
  readonly staleAfterMillis: Millis
  /** Whether what is asked for in the last tenth of its TTL is asked for anew meanwhile. */
  readonly prefetch: boolean
}

/** What is kept of an answer, as long as it is looked at: what its octets say is read from them each time. */
interface Kept {
  readonly answer: FitAnswer
  readonly at: Millis
  /** When somebody last failed to answer anew. */
  readonly failedAt: Millis
}

/** A question, and all that makes an answer another one. */
interface Key {
  readonly question: Question
  readonly flags: QueryFlags
  readonly bits: number
  /** By which it is kept. */
  readonly number: number
}

/** Before the message stand: when it came, when somebody last failed (both float64), the bits of its question, and length and octets of its options. */
const [failedAtAt, bitsAt, optionsLengthAt, optionsAt] = [8, 16, 17, 19]
/** What an entry costs beside its blocks: number, place, size and links in lists (32), and 24 to 56 in the Map. */
const entryOctets = 88
/** What an answer counts for in `octets`. */
export const keptOctets = (messageOctets: number, optionsOctets: number): number =>
  entryOctets + takenFor(optionsAt + optionsOctets + messageOctets)

/** A day: upstreams that say more are asked again anyway. */
export const keptSecondsMax = 86_400
/** What is told of an answer whose TTL is over, and how long a failed upstream is not asked for it again (RFC 8767 §4, §5). */
const staleTtlSeconds = 30
const failureMillis = 30_000

/**
 * @param ask asks upstream; never rejects.
 * @param numberOf two questions of one number are not mistaken for each other, but of their answers only the newer is kept: at a million kept, one of 4000.
 */
export function makeAnswers(
  ask: (question: Question, flags: QueryFlags) => Promise<UpstreamReply>,
  clock: Clock,
  { entries, octets, staleSeconds, staleAfterMillis, prefetch }: AnswerOptions,
  numberOf: NumberOf = makeNumberOf(randomInt(2 ** 32)),
): (question: Question, flags: QueryFlags) => Promise<Answered> {
  /** First blocks by the number of the question. */
  const kept = new LRUCache<number, number>({ max: entries, maxSize: octets, dispose: (block) => blocks.remove(block) })
  const blocks = makeBlocks()
  const underWay = new Map<string, Promise<Answered>>()

  const ageOf = ({ at }: Kept): Seconds => Math.floor((clock() - at) / 1000)
  const ttlOf = ({ answer }: Kept): Seconds => Math.min(answer.ttlSeconds, keptSecondsMax)
  const hasFailed = ({ failedAt }: Kept): boolean => clock() - failedAt < failureMillis

  function keep({ flags, bits, number }: Key, message: Uint8Array, at: Millis): void {
    const size = keptOctets(message.length, flags.options.length)
    kept.delete(number)
    if (size > octets) return
    // Room is made before it is taken: at no moment is there more than may be.
    while (kept.size >= entries || kept.calculatedSize + size > octets) kept.pop()
    const head = new Uint8Array(optionsAt + flags.options.length)
    const view = new DataView(head.buffer)
    view.setFloat64(0, at)
    view.setFloat64(failedAtAt, -Infinity)
    view.setUint8(bitsAt, bits)
    view.setUint16(optionsLengthAt, flags.options.length)
    head.set(flags.options, optionsAt)
    kept.set(number, blocks.put(head, message), { size })
  }

  /** What is kept and may still be told, if only because nobody answers. */
  function get(key: Key): Kept | undefined {
    const block = kept.get(key.number)
    if (block === undefined) return undefined
    const found = readKept(blocks.read(block), key)
    if (found === undefined || ageOf(found) < ttlOf(found) + staleSeconds) return found
    kept.delete(key.number)
    return undefined
  }

  function noteFailure(key: Key): void {
    const block = kept.peek(key.number)
    if (block === undefined || readKept(blocks.read(block), key) === undefined) return
    const head = blocks.head(block)
    new DataView(head.buffer, head.byteOffset).setFloat64(failedAtAt, clock())
  }

  async function fetch(key: Key): Promise<Answered> {
    const reply = await ask(key.question, key.flags)
    if (reply.kind === 'failed') return reply
    const answer = fit(key.question, reply.message)
    if (answer.kind === 'fault') return { kind: 'unfit', text: answer.fault }
    // Truncation over UDP is upstream.ts's to mend; what is still truncated has no records to tell.
    if (answer.truncated) return { kind: 'unfit', text: 'it is truncated even over TCP' }
    const worthKeeping = answer.rcode === Rcode.NoError || answer.rcode === Rcode.NXDomain
    const isKept = worthKeeping && answer.ttlSeconds > 0 && Number.isFinite(answer.ttlSeconds)
    const at = clock()
    if (isKept) keep(key, answer.message, at)
    return { kind: 'answer', answer, ttlSeconds: answer.ttlSeconds, ageSeconds: 0, cached: false, keptAt: isKept ? at : undefined }
  }

  /** One upstream question for all who ask the same meanwhile: fewer packets, and fewer chances to forge an answer (RFC 5452 §5). */
  function fetchOnce(key: Key): Promise<Answered> {
    const text = textOf(key)
    let fetching = underWay.get(text)
    if (fetching === undefined) {
      fetching = fetch(key).finally(() => underWay.delete(text))
      underWay.set(text, fetching)
    }
    return fetching
  }

  async function prefetchNow(key: Key): Promise<void> {
    if (isFailure(await fetchOnce(key))) noteFailure(key)
  }

  /** The upstream's answer, or the old one where it fails or is slow: in the end it is still waited for, so that the next is told anew. */
  async function orStale(found: Kept, key: Key): Promise<Answered> {
    const refresh = (): Promise<Answered> => fetchOnce(key)
    const { answer } = found
    const stale: Answered = { kind: 'answer', answer, ttlSeconds: Math.min(answer.ttlSeconds, staleTtlSeconds), ageSeconds: 0, cached: true, keptAt: undefined, refresh }
    if (hasFailed(found)) return stale
    const fetching = refresh()
    const slow = Promise.withResolvers<'slow'>()
    const timer = setTimeout(() => slow.resolve('slow'), staleAfterMillis)
    const first = await Promise.race([fetching, slow.promise])
    clearTimeout(timer)
    if (first !== 'slow' && !isFailure(first)) return first
    noteFailure(key)
    return stale
  }

  return (question, flags) => {
    const bits = (flags.dnssecOk ? 1 : 0) | (flags.checkingDisabled ? 2 : 0) | (flags.recursionDesired ? 4 : 0) | (flags.authenticData ? 8 : 0)
    const key: Key = { question, flags, bits, number: numberOf(question, flags.options, bits) }
    const found = get(key)
    if (found === undefined) return fetchOnce(key)
    const ageSeconds = ageOf(found)
    const ttlSeconds = ttlOf(found) - ageSeconds
    if (ttlSeconds < 1) return orStale(found, key)
    if (prefetch && isNearlyOver(ttlSeconds, ttlOf(found)) && !hasFailed(found)) void prefetchNow(key)
    return Promise.resolve({ kind: 'answer', answer: found.answer, ttlSeconds, ageSeconds, cached: true, keptAt: found.at })
  }
} // prettier-ignore

/** The same for two questions that one answer is for, and for no others. */
function textOf({ question, flags, bits }: Key): string {
  const options = flags.options.length === 0 ? '' : String.fromCharCode(...flags.options)
  return `${question.qtype}/${question.qclass}/${bits}/${question.wire}${options}`
}

type NumberOf = (question: Question, options: Uint8Array, bits: number) => number

/** @param seed one that nobody knows, so that nobody chooses names that drive out others. */
function makeNumberOf(seed: number): NumberOf {
  return ({ wire, qtype, qclass }, options, bits) => {
    let number = mixed(mixed(mixed(seed, bits), qtype), qclass)
    for (let i = 0; i < options.length; i++) number = mixed(number, options[i] ?? 0)
    return numberOfName(wire, number)
  }
}

/** Undefined when it is the answer to another question. */
function readKept(octets: Uint8Array, { question, flags, bits }: Key): Kept | undefined {
  const view = new DataView(octets.buffer, octets.byteOffset)
  const optionsEnd = optionsAt + view.getUint16(optionsLengthAt)
  if (octets[bitsAt] !== bits || optionsEnd !== optionsAt + flags.options.length) return undefined
  for (let i = optionsAt; i < optionsEnd; i++) if (octets[i] !== flags.options[i - optionsAt]) return undefined
  const answer = fit(question, octets.subarray(optionsEnd))
  return answer.kind === 'fits' ? { answer, at: view.getFloat64(0), failedAt: view.getFloat64(failedAtAt) } : undefined
}

/** Whether an answer is in the last tenth of its TTL, where it is asked for anew. */
export const isNearlyOver = (left: Seconds, ttl: Seconds): boolean => left * 10 <= ttl

/** What RFC 8767 §4 calls a failure to refresh. An answer that does not fit is none: somebody answers, and lies. */
function isFailure(answered: Answered): boolean {
  return answered.kind === 'failed' || (answered.kind === 'answer' && answered.answer.rcode === Rcode.ServFail)
}
