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
      /** When it came in; undefined: it is told to those who asked meanwhile, and not kept. */
      readonly keptAt: Millis | undefined
    }
  | { readonly kind: 'unfit'; readonly text: string }
  | { readonly kind: 'failed'; readonly reason: 'timeout' | 'network' | 'overloaded'; readonly text: string }

export interface AnswerOptions {
  /** Bounds of what is kept; the least recently used goes. */
  readonly entries: number
  readonly octets: number
}

interface Kept {
  readonly answer: FitAnswer
  readonly at: Millis
}

/** About what an entry costs: the message, an address as string (48) and the place of a TTL (8) a record, and 200 for what is around. */
const sizeOf = ({ answer }: Kept, key: string): number =>
  answer.message.length + key.length + answer.addresses.length * 48 + answer.ttlsAt.length * 8 + 200

/** A day: upstreams that say more are asked again anyway. */
const keptSecondsMax = 86_400

/** @param ask asks upstream; never rejects. */
export function makeAnswers(
  ask: (question: Question, flags: QueryFlags) => Promise<UpstreamReply>,
  clock: Clock,
  { entries, octets }: AnswerOptions,
): (question: Question, flags: QueryFlags) => Promise<Answered> {
  const kept = new LRUCache<string, Kept>({ max: entries, maxSize: octets, sizeCalculation: sizeOf })
  const underWay = new Map<string, Promise<Answered>>()

  function get(key: string): Answered | undefined {
    const found = kept.get(key)
    if (found === undefined) return undefined
    const ageSeconds = Math.floor((clock() - found.at) / 1000)
    const ttlSeconds = Math.min(found.answer.ttlSeconds, keptSecondsMax) - ageSeconds
    if (ttlSeconds >= 1) return { kind: 'answer', answer: found.answer, ttlSeconds, ageSeconds, cached: true, keptAt: found.at }
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
    if (isKept) kept.set(key, { answer, at })
    return { kind: 'answer', answer, ttlSeconds: answer.ttlSeconds, ageSeconds: 0, cached: false, keptAt: isKept ? at : undefined }
  }

  return (question, flags) => {
    const bits = (flags.dnssecOk ? 1 : 0) | (flags.checkingDisabled ? 2 : 0) | (flags.recursionDesired ? 4 : 0) | (flags.authenticData ? 8 : 0)
    const key = `${question.qtype}/${question.qclass}/${bits}/${question.wire}`
    const found = get(key)
    if (found !== undefined) return Promise.resolve(found)
    let fetching = underWay.get(key)
    if (fetching === undefined) {
      // One upstream question for all who ask the same meanwhile: fewer packets, and fewer chances to forge an answer (RFC 5452 §5).
      fetching = fetch(key, question, flags).finally(() => underWay.delete(key))
      underWay.set(key, fetching)
    }
    return fetching
  }
} // prettier-ignore
