// Answers to questions, wherever from: kept ones, ones under way for somebody else, or new ones from upstream. Whatever comes out of here
// has been held against its question; nothing else is kept.
import { LRUCache } from 'lru-cache'
import type { Clock, Millis, Seconds } from '../clock.ts'
import { fit, type FitAnswer } from '../wire/answer.ts'
import { Rcode } from '../wire/codes.ts'
import type { Question } from '../wire/message.ts'
import type { QueryFlags } from '../wire/reply.ts'
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

interface Kept {
  readonly answer: FitAnswer
  readonly at: Millis
  /** When somebody last failed to answer anew. */
  failedAt: Millis
}

/** About what an entry costs: the message, an address as string (48) and the place of a TTL (8) a record, and 200 for what is around. */
const sizeOf = ({ answer }: Kept, key: string): number =>
  answer.message.length + key.length + answer.addresses.length * 48 + answer.ttlsAt.length * 8 + 200

/** A day: upstreams that say more are asked again anyway. */
export const keptSecondsMax = 86_400
/** What is told of an answer whose TTL is over, and how long a failed upstream is not asked for it again (RFC 8767 §4, §5). */
const staleTtlSeconds = 30
const failureMillis = 30_000

/** @param ask asks upstream; never rejects. */
export function makeAnswers(
  ask: (question: Question, flags: QueryFlags) => Promise<UpstreamReply>,
  clock: Clock,
  { entries, octets, staleSeconds, staleAfterMillis, prefetch }: AnswerOptions,
): (question: Question, flags: QueryFlags) => Promise<Answered> {
  const kept = new LRUCache<string, Kept>({ max: entries, maxSize: octets, sizeCalculation: sizeOf })
  const underWay = new Map<string, Promise<Answered>>()

  const ageOf = ({ at }: Kept): Seconds => Math.floor((clock() - at) / 1000)
  const ttlOf = ({ answer }: Kept): Seconds => Math.min(answer.ttlSeconds, keptSecondsMax)
  const hasFailed = ({ failedAt }: Kept): boolean => clock() - failedAt < failureMillis

  /** What is kept and may still be told, if only because nobody answers. */
  function get(key: string): Kept | undefined {
    const found = kept.get(key)
    if (found === undefined || ageOf(found) < ttlOf(found) + staleSeconds) return found
    kept.delete(key)
    return undefined
  }

  async function fetch(key: string, question: Question, flags: QueryFlags): Promise<Answered> {
    const reply = await ask(question, flags)
    if (reply.kind === 'failed') return reply
    const answer = fit(question, reply.message)
    if (answer.kind === 'fault') return { kind: 'unfit', text: answer.fault }
    // Truncation over UDP is upstream.ts's to mend; what is still truncated has no records to tell.
    if (answer.truncated) return { kind: 'unfit', text: 'it is truncated even over TCP' }
    const worthKeeping = answer.rcode === Rcode.NoError || answer.rcode === Rcode.NXDomain
    const isKept = worthKeeping && answer.ttlSeconds > 0 && Number.isFinite(answer.ttlSeconds)
    const at = clock()
    if (isKept) kept.set(key, { answer, at, failedAt: -Infinity })
    return { kind: 'answer', answer, ttlSeconds: answer.ttlSeconds, ageSeconds: 0, cached: false, keptAt: isKept ? at : undefined }
  }

  /** One upstream question for all who ask the same meanwhile: fewer packets, and fewer chances to forge an answer (RFC 5452 §5). */
  function fetchOnce(key: string, question: Question, flags: QueryFlags): Promise<Answered> {
    let fetching = underWay.get(key)
    if (fetching === undefined) {
      fetching = fetch(key, question, flags).finally(() => underWay.delete(key))
      underWay.set(key, fetching)
    }
    return fetching
  }

  async function prefetchNow(found: Kept, key: string, question: Question, flags: QueryFlags): Promise<void> {
    if (isFailure(await fetchOnce(key, question, flags))) found.failedAt = clock()
  }

  /** The upstream's answer, or the old one where it fails or is slow: in the end it is still waited for, so that the next is told anew. */
  async function orStale(found: Kept, key: string, question: Question, flags: QueryFlags): Promise<Answered> {
    const refresh = (): Promise<Answered> => fetchOnce(key, question, flags)
    const { answer } = found
    const stale: Answered = { kind: 'answer', answer, ttlSeconds: Math.min(answer.ttlSeconds, staleTtlSeconds), ageSeconds: 0, cached: true, keptAt: undefined, refresh }
    if (hasFailed(found)) return stale
    const fetching = refresh()
    const slow = Promise.withResolvers<'slow'>()
    const timer = setTimeout(() => slow.resolve('slow'), staleAfterMillis)
    const first = await Promise.race([fetching, slow.promise])
    clearTimeout(timer)
    if (first !== 'slow' && !isFailure(first)) return first
    found.failedAt = clock()
    return stale
  }

  return (question, flags) => {
    const bits = (flags.dnssecOk ? 1 : 0) | (flags.checkingDisabled ? 2 : 0) | (flags.recursionDesired ? 4 : 0) | (flags.authenticData ? 8 : 0)
    const options = flags.options.length === 0 ? '' : String.fromCharCode(...flags.options)
    const key = `${question.qtype}/${question.qclass}/${bits}/${question.wire}${options}`
    const found = get(key)
    if (found === undefined) return fetchOnce(key, question, flags)
    const ageSeconds = ageOf(found)
    const ttlSeconds = ttlOf(found) - ageSeconds
    if (ttlSeconds < 1) return orStale(found, key, question, flags)
    if (prefetch && isNearlyOver(ttlSeconds, ttlOf(found)) && !hasFailed(found)) void prefetchNow(found, key, question, flags)
    return Promise.resolve({ kind: 'answer', answer: found.answer, ttlSeconds, ageSeconds, cached: true, keptAt: found.at })
  }
} // prettier-ignore

/** Whether an answer is in the last tenth of its TTL, where it is asked for anew. */
export const isNearlyOver = (left: Seconds, ttl: Seconds): boolean => left * 10 <= ttl

/** What RFC 8767 §4 calls a failure to refresh. An answer that does not fit is none: somebody answers, and lies. */
function isFailure(answered: Answered): boolean {
  return answered.kind === 'failed' || (answered.kind === 'answer' && answered.answer.rcode === Rcode.ServFail)
}
