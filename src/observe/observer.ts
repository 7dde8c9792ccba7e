// What observes an agent: makes flows of what its parts say and keeps the last of them for whoever asks.
import type { LeaseNews } from '../keeper.ts'
import type { LeaseChange } from '../leases/lease.ts'
import type { Outcome } from '../proxy/handle.ts'
import { typeName } from '../wire/codes.ts'
import type { Place } from './filters.ts'
import { endOf, endOfEndpoint, isHubbleFlow, proxyEnd, type AnswerFlow, type ConnectionFlow, type Flow, type QueryFlow } from './flow.ts' // prettier-ignore
import { makeRing, type Ring } from './ring.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'

export interface Observer {
  readonly ring: Ring
  readonly place: Place
  /** How a question ended: a flow for it, and one for what was answered. @param millis how long that took; clientPort the asker's */
  readonly question: (outcome: Outcome, millis: number, clientPort: number) => void
  /** The same for an outcome that is told again, the same object with another TTL: nothing is made of it before somebody reads it. */
  readonly again: (outcome: Outcome, clientPort: number) => void
  readonly commit: (millis: number, elements: number | undefined) => void
  readonly lease: (change: LeaseChange, news: LeaseNews, why?: Why) => void
  /** A packet that the kernel told of; undefined is none. */
  readonly connection: (flow: ConnectionFlow | undefined) => void
  /** Packets that it did not tell of. */
  readonly lost: (count: number) => void
  readonly status: () => ObserverStatus
  /** Packets that the kernel did not tell of. */
  readonly kernelLost: () => number
  /** Is told of each flow as it is written, and how many like it there were: of those that are told again only now and then, and before `settle` is over. */
  readonly tap: (see: (flow: Flow, times: number) => void) => void
  readonly settle: () => void
  /** Namespaces that had a flow within the last hour. */
  readonly namespaces: () => readonly string[]
}

export interface ObserverStatus {
  readonly flows: number
  readonly flowsMax: number
  readonly seen: number
  readonly uptimeMillis: number
  /** Flows a second within the last minute, or since the start. */
  readonly rate: number
  readonly lost: number
}

export interface ObserverParts {
  readonly snapshot: () => Snapshot
  /** Entries of the ring: 2^n-1. */
  readonly capacity: number
  readonly place: Place
  /** Milliseconds since 1970. */
  readonly now: () => number
}

const namespaceMillis = 3_600_000
/** Namespaces that are remembered; those that were seen longest ago go first. */
const namespacesMax = 10_000
const rateSeconds = 60
/** Outcomes told again that wait to be counted, and so many at once are when there are more: 2 ms. */
const waitingMax = 16_384
const countedAtOnce = 4096

/** The flows of an outcome that is told again and again. */
interface Pattern {
  readonly query: QueryFlow
  readonly answer: AnswerFlow
  /** Since they were counted last. */
  times: number
  last: number
}

export function makeObserver({ snapshot, capacity, place, now }: ObserverParts): Observer {
  const ring = makeRing(capacity, now)
  const startedAt = now()
  const seenAt = new Map<string, number>()
  let seen = 0
  let kernelLost = 0
  const taps: ((flow: Flow, times: number) => void)[] = []
  const patterns = new WeakMap<Outcome, Pattern>()
  /** Those with `times` above 0, each once. */
  const waiting: Pattern[] = []
  /** Flows by second, the last minute of them. */
  const perSecond = new Float64Array(rateSeconds)
  const secondOf = new Float64Array(rateSeconds)

  function record(flow: Flow): void {
    ring.write(flow)
    tell(flow, 1, flow.time)
    if (isHubbleFlow(flow)) count(flow.time, 1)
  }
  function tell(flow: Flow, times: number, time: number): void {
    for (const see of taps) see(flow, times)
    if (!isHubbleFlow(flow)) return
    note(flow.source.namespace, time)
    note(flow.destination.namespace, time)
  }
  function count(time: number, flows: number): void {
    seen += flows
    const second = Math.floor(time / 1000)
    const at = second % rateSeconds
    if (secondOf[at] !== second) {
      secondOf[at] = second
      perSecond[at] = 0
    }
    perSecond[at] = (perSecond[at] ?? 0) + flows
  }
  function note(namespace: string, time: number): void {
    if (namespace === '' || seenAt.get(namespace) === time) return
    // Last seen, last in the map.
    seenAt.delete(namespace)
    seenAt.set(namespace, time)
    if (seenAt.size <= namespacesMax) return
    const [eldest] = seenAt.keys()
    if (eldest !== undefined) seenAt.delete(eldest)
  }

  function question(outcome: Outcome, millis: number, clientPort: number): void {
    const flows = flowsOf(outcome, millis, clientPort)
    if (flows === undefined) return
    record(flows.query)
    record(flows.answer)
  }
  function flowsOf(outcome: Outcome, millis: number, clientPort: number): { query: QueryFlow; answer: AnswerFlow } | undefined {
    if (outcome.kind === 'ignored' || outcome.kind === 'rejected') return undefined
    const time = now()
    const { question: asked, source, endpoint, transport, why } = outcome
    const asker = endpoint === undefined ? endOf(snapshot(), source) : endOfEndpoint(endpoint, source)
    const about = { transport, clientPort, qname: asked.name, qtype: typeName(asked.qtype) }
    const verdict = outcome.kind === 'refused' ? 'DROPPED' : outcome.kind === 'failed' ? 'ERROR' : why.audited === true ? 'AUDIT' : 'FORWARDED'
    const rcode = outcome.kind === 'failed' ? 2 : outcome.rcode
    const { addresses, ttlSeconds } = outcome.kind === 'answered' ? outcome : { addresses: [], ttlSeconds: 0 }
    const refused = outcome.kind === 'refused' ? { refused: outcome.reason } : {}
    return {
      query: { kind: 'query', time: time - millis, why, source: asker, destination: proxyEnd, verdict, ...about },
      answer: { kind: 'answer', time, why, source: proxyEnd, destination: asker, verdict, ...about, rcode, addresses, ttlSeconds, millis, ...refused },
    }
  } // prettier-ignore
  function again(outcome: Outcome, clientPort: number): void {
    let pattern = patterns.get(outcome)
    if (pattern === undefined) {
      const flows = flowsOf(outcome, 0, clientPort)
      if (flows === undefined) return
      patterns.set(outcome, (pattern = { ...flows, times: 0, last: 0 }))
    }
    const time = now()
    ring.writeAgain(pattern.query, time, clientPort, 0)
    ring.writeAgain(pattern.answer, time, clientPort, outcome.kind === 'answered' ? outcome.ttlSeconds : 0)
    count(time, 2)
    pattern.last = time
    if (pattern.times++ > 0) return
    if (waiting.length >= waitingMax) settle(countedAtOnce)
    waiting.push(pattern)
  }
  function settle(count = waiting.length): void {
    for (const pattern of waiting.splice(0, count)) {
      tell(pattern.query, pattern.times, pattern.last)
      tell(pattern.answer, pattern.times, pattern.last)
      pattern.times = 0
    }
  }
  function namespaces(): readonly string[] {
    settle()
    return [...seenAt].filter(([, time]) => time > now() - namespaceMillis).map(([namespace]) => namespace).sort() // prettier-ignore
  }

  function status(): ObserverStatus {
    const time = now()
    const second = Math.floor(time / 1000)
    const within = perSecond.reduce((sum, count, i) => ((secondOf[i] ?? 0) > second - rateSeconds ? sum + count : sum), 0) // prettier-ignore
    const uptimeMillis = time - startedAt
    const rate = within / Math.max(1, Math.min(rateSeconds, uptimeMillis / 1000))
    return { flows: ring.end() - ring.oldest(), flowsMax: capacity, seen, uptimeMillis, rate, lost: ring.lost() }
  }

  return {
    ring,
    place,
    question,
    again,
    settle: () => settle(),
    commit: (millis, elements) => record({ kind: 'commit', time: now(), why: undefined, elements: elements ?? 0, millis, acknowledged: elements !== undefined }), // prettier-ignore
    lease: (change, { identity, endpoint, name, addresses, ttlSeconds }, why) => record({ kind: 'lease', time: now(), why, change, identity, endpoint, name, addresses, ttlSeconds }), // prettier-ignore
    connection: (flow) => flow !== undefined && record(flow),
    lost: (count) => {
      kernelLost += count
      ring.write({ kind: 'lost', source: 'kernel', count, time: now() })
    },
    kernelLost: () => kernelLost,
    tap: (see) => void taps.push(see),
    status,
    namespaces,
  }
}
