// What observes an agent: makes flows of what its parts say and keeps the last of them for whoever asks.
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { Outcome } from '../proxy/handle.ts'
import { typeName } from '../wire/codes.ts'
import type { Place } from './filters.ts'
import {
  endOf,
  endOfEndpoint,
  isHubbleFlow,
  proxyEnd,
  type ConnectionFlow,
  type Flow,
  type LeaseChange,
} from './flow.ts'
import { makeRing, type Ring } from './ring.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'

export interface LeaseFact {
  readonly identity: IdentityId
  readonly endpoint: number
  readonly name: string
  readonly addresses: readonly Address[]
  readonly ttlSeconds: number
}

export interface Observer {
  readonly ring: Ring
  readonly place: Place
  /** How a question ended: a flow for it, and one for what was answered. @param millis how long that took; clientPort the asker's */
  readonly question: (outcome: Outcome, millis: number, clientPort: number) => void
  readonly commit: (millis: number, elements: number | undefined) => void
  readonly lease: (change: LeaseChange, fact: LeaseFact, why?: Why) => void
  /** A packet that the kernel told of; undefined is none. */
  readonly connection: (flow: ConnectionFlow | undefined) => void
  /** Packets that it did not tell of. */
  readonly lost: (count: number) => void
  readonly status: () => ObserverStatus
  /** Packets that the kernel did not tell of. */
  readonly kernelLost: () => number
  /** Is told of each flow, as it is written. */
  readonly tap: (see: (flow: Flow) => void) => void
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

export function makeObserver({ snapshot, capacity, place, now }: ObserverParts): Observer {
  const ring = makeRing(capacity, now)
  const startedAt = now()
  const seenAt = new Map<string, number>()
  let seen = 0
  let kernelLost = 0
  const taps: ((flow: Flow) => void)[] = []
  /** Flows by second, the last minute of them. */
  const perSecond = new Float64Array(rateSeconds)
  const secondOf = new Float64Array(rateSeconds)

  function record(flow: Flow): void {
    ring.write(flow)
    for (const see of taps) see(flow)
    if (!isHubbleFlow(flow)) return
    seen++
    const second = Math.floor(flow.time / 1000)
    const at = second % rateSeconds
    if (secondOf[at] !== second) {
      secondOf[at] = second
      perSecond[at] = 0
    }
    perSecond[at] = (perSecond[at] ?? 0) + 1
    note(flow.source.namespace, flow.time)
    note(flow.destination.namespace, flow.time)
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
    if (outcome.kind === 'ignored' || outcome.kind === 'rejected') return
    const time = now()
    const { question: asked, source, endpoint, transport, why } = outcome
    const asker = endpoint === undefined ? endOf(snapshot(), source) : endOfEndpoint(endpoint, source)
    const about = { transport, clientPort, qname: asked.name, qtype: typeName(asked.qtype) }
    const verdict =
      outcome.kind === 'refused'
        ? 'DROPPED'
        : outcome.kind === 'failed'
          ? 'ERROR'
          : why.audited === true
            ? 'AUDIT'
            : 'FORWARDED'
    record({ kind: 'query', time: time - millis, why, source: asker, destination: proxyEnd, verdict, ...about })
    const rcode = outcome.kind === 'failed' ? 2 : outcome.rcode
    const told = outcome.kind === 'answered' ? outcome : { addresses: [], ttlSeconds: 0 }
    const { addresses, ttlSeconds } = told
    const refused = outcome.kind === 'refused' ? { refused: outcome.reason } : {}
    record({ kind: 'answer', time, why, source: proxyEnd, destination: asker, verdict, ...about, rcode, addresses, ttlSeconds, millis, ...refused }) // prettier-ignore
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
    namespaces: () => [...seenAt].filter(([, time]) => time > now() - namespaceMillis).map(([namespace]) => namespace).sort(), // prettier-ignore
  }
}
