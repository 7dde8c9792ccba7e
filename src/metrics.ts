// Numbers for Prometheus, under our own prefix. Labels have few values by construction: no names, no addresses. Under Hubble's and Cilium's
// names too where that is wanted.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { BypassWay } from './bypass.ts'
import { makeHistogram } from './histogram.ts'
import type { Exported } from './observe/export.ts'
import type { LeaseLimit } from './leases/room.ts'
import type { Flow } from './observe/flow.ts'
import { makeHubbleMetrics } from './observe/hubble/metrics.ts'
import type { Outcome } from './proxy/handle.ts'
import { rcodeName } from './wire/codes.ts'

/** `cache` and `upstream`: where the answer came from; `total`: from the question read to the answer ready. */
export const steps = ['cache', 'upstream', 'learn', 'commit', 'total'] as const
export type Step = (typeof steps)[number]

export interface Metrics {
  readonly question: (outcome: Outcome) => void
  readonly upstreamSeconds: (seconds: number, result: 'message' | 'failed') => void
  /** `elements` is undefined when the kernel did not acknowledge. */
  readonly commit: (seconds: number, elements: number | undefined) => void
  /** A step of a question's story is done. */
  readonly step: (step: Step, seconds: number) => void
  readonly flow: (flow: Flow, times: number) => void
  /** An answer was refused: there is no room for what it says. */
  readonly full: (limit: LeaseBound) => void
  /** Leases went so that others had room. */
  readonly evicted: (limit: LeaseBound, leases: number) => void
  readonly load: (ok: boolean) => void
  readonly repair: () => void
  readonly bypass: (way: BypassWay, times: number) => void
  readonly text: () => Promise<string>
}

/** Whose bound was met, and what there was too much of. */
export type LeaseBound = Pick<LeaseLimit, 'limit' | 'budget'>

/** What is read when somebody asks, rather than counted on the way. */
export interface Gauges {
  readonly leases: () => number
  /** What leases take in memory. */
  readonly leaseOctets: () => number
  /** Connections of workloads to leased addresses. */
  readonly connections?: () => number
  readonly endpoints: () => number
  readonly policyRevision: () => number
  readonly strangers: () => number
  readonly dropped: () => number
  /** Flows that followers missed, and packets that the kernel did not tell of. */
  readonly flowsLost: () => { readonly ring: number; readonly kernel: number }
  /** Called before all is told: what was only noted is counted. */
  readonly settle: () => void
  /** Absent: there are no files. */
  readonly exported?: (() => Exported) | undefined
  /** Absent: no collector takes them. */
  readonly sent?: (() => Exported) | undefined
  readonly identities: () => number
  readonly policies: () => number
  readonly leasedNames: () => number
  /** By what became of the agent before. */
  readonly restarts: () => Readonly<Record<string, number>>
  /** Undefined: only our own names. */
  readonly hubble: { readonly cluster: string } | undefined
}

const upstreamResults = ['message', 'failed'] as const
const upstreamSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const stepSeconds = [0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5] // prettier-ignore

export function makeMetrics(gauges: Gauges): Metrics {
  const registry = new Registry()
  const registers = [registry]
  const counter = (name: string, help: string, labelNames: string[] = []): Counter =>
    new Counter({ name, help, labelNames, registers })
  const gauge = (name: string, help: string, read: () => number): Gauge =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read())
      },
    })
  // Counted by number and told when somebody reads: the library's own counting costs 1 us, a tenth of a question.
  const tallies = new Float64Array(outcomeKinds.length * tallyWidth)
  new Counter({
    name: 'namegate_dns_questions_total',
    help: 'Questions by how they ended.',
    labelNames: ['outcome', 'rcode', 'transport', 'cached'],
    registers,
    collect() {
      tallies.forEach((count, index) => {
        if (count > 0) this.inc(labelsOfTally(index), count)
      })
      tallies.fill(0)
    },
  })
  const upstream = makeHistogram('namegate_dns_upstream_seconds', 'Time an upstream question took.', 'result', upstreamResults, upstreamSeconds) // prettier-ignore
  registry.registerMetric(upstream.metric as never)
  const commits = new Histogram({ name: 'namegate_commit_seconds', help: 'Time from a lease to its acknowledgement by the kernel.', buckets: [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1], registers }) // prettier-ignore
  const elements = counter('namegate_commit_elements_total', 'Elements written to the kernel for leases.')
  const failures = counter('namegate_commit_failures_total', 'Commits that the kernel did not acknowledge.')
  const loads = counter('namegate_policy_loads_total', 'Loads of the manifests.', ['result'])
  const bypasses = counter(
    'namegate_dns_bypass_total',
    'Attempts of workloads with name rules at resolvers that would not be seen: packets to port 853, questions for names of public resolvers.',
    ['way'],
  )
  const repairs = counter('namegate_table_repairs_total', 'Times the kernel table had to be made ours again.')
  const stepped = makeHistogram('namegate_dns_step_seconds', 'Time that each step of a question took; `total` is all of it.', 'step', steps, stepSeconds) // prettier-ignore
  registry.registerMetric(stepped.metric as never)
  const flows = makeFlowCounts()
  new Counter({
    name: 'namegate_flows_total',
    help: 'Flows recorded.',
    labelNames: ['kind', 'verdict', 'direction'],
    registers,
    collect() {
      this.reset()
      for (const { labels, count } of flows.all()) this.inc(labels, count)
    },
  })
  new Counter({
    name: 'namegate_flows_lost_total',
    help: 'Flows that followers were too slow for (ring), and packets that the kernel did not tell of (kernel).',
    labelNames: ['source'],
    registers,
    collect() {
      this.reset()
      for (const [source, count] of Object.entries(gauges.flowsLost())) this.inc({ source }, count)
    },
  })
  const exported = (name: string, help: string, read: () => number): Counter => new Counter({ name, help, registers, collect() { this.reset(); this.inc(read()) } }) // prettier-ignore
  const toFiles = gauges.exported
  if (toFiles !== undefined) exported('namegate_export_flows_total', 'Flows written to files.', () => toFiles().written)
  if (toFiles !== undefined) exported('namegate_export_lost_total', 'Flows that a file could not take: it was too slow, or failed.', () => toFiles().lost) // prettier-ignore
  const toCollector = gauges.sent
  if (toCollector !== undefined) exported('namegate_otlp_flows_total', 'Flows that the collector took.', () => toCollector().written) // prettier-ignore
  if (toCollector !== undefined) exported('namegate_otlp_lost_total', 'Flows that the collector could not take: it was too slow, or refused them.', () => toCollector().lost) // prettier-ignore
  new Counter({
    name: 'namegate_restarts_total',
    help: 'Times that the agent was started again: the one before died, or was replaced.',
    labelNames: ['cause'],
    registers,
    collect() {
      this.reset()
      for (const [cause, count] of Object.entries(gauges.restarts())) this.inc({ cause }, count)
    },
  })
  const hubble = gauges.hubble === undefined ? undefined : makeHubbleMetrics(registry, { ...gauges, ...gauges.hubble })
  gauge('namegate_identities', 'Identities in use.', gauges.identities)
  gauge('namegate_policies', 'Policies in force.', gauges.policies)
  gauge('namegate_leased_names', 'Names that lead somewhere for somebody.', gauges.leasedNames)
  gauge('namegate_leases', 'Leases held.', gauges.leases)
  gauge('namegate_lease_octets', 'Octets that leases take in memory.', gauges.leaseOctets)
  if (gauges.connections !== undefined)
    gauge('namegate_lease_connections', 'Connections of workloads to leased addresses.', gauges.connections)
  gauge('namegate_endpoints', 'Endpoints known.', gauges.endpoints)
  gauge('namegate_policy_revision', 'Revision of the snapshot in force.', gauges.policyRevision)
  gauge('namegate_dns_strangers', 'Messages from upstreams that answered no question of ours.', gauges.strangers)
  gauge('namegate_dns_dropped', 'Datagrams dropped because too many questions were in hand.', gauges.dropped)

  const refusals = new Map<string, number>()
  new Counter({
    name: 'namegate_dns_refused_total',
    help: 'Questions refused, by what refused them.',
    labelNames: ['reason'],
    registers,
    collect() {
      for (const [reason, count] of refusals) this.inc({ reason }, count)
      refusals.clear()
    },
  })
  const full = counter(
    'namegate_leases_full_total',
    'Answers refused because a bound of leases was met: of a name, of an address, of an identity, of all.',
    ['limit', 'budget'],
  )
  const evicted = counter(
    'namegate_leases_evicted_total',
    'Leases whose TTL was over and that no connection used, taken away in their grace so that others had room, by the bound that was met.',
    ['limit', 'budget'],
  )
  const stale = counter(
    'namegate_dns_stale_total',
    'Answers told though their TTL was over, since no upstream answered.',
  )
  const stripped = counter(
    'namegate_dns_stripped_total',
    'Answers told without records that lead where no public name should.',
  )

  return {
    question(outcome) {
      const index = tallyOf(outcome)
      tallies[index] = (tallies[index] ?? 0) + 1
      if (outcome.kind === 'refused') refusals.set(outcome.reason, (refusals.get(outcome.reason) ?? 0) + 1)
      if (outcome.kind === 'answered' && outcome.stripped) stripped.inc()
      if (outcome.kind === 'answered' && outcome.stale) stale.inc()
    },
    upstreamSeconds: (seconds, result) => upstream.observe(result, seconds),
    commit(seconds, count) {
      if (count === undefined) failures.inc()
      else {
        commits.observe(seconds)
        elements.inc(count)
      }
    },
    step: stepped.observe,
    flow(flow, times) {
      flows.count(flow, times)
      hubble?.flow(flow, times)
    },
    full: ({ limit, budget }) => full.inc({ limit, budget }),
    evicted: ({ limit, budget }, leases) => evicted.inc({ limit, budget }, leases),
    load: (ok) => loads.inc({ result: ok ? 'ok' : 'refused' }),
    repair: () => repairs.inc(),
    bypass: (way, times) => bypasses.inc({ way }, times),
    text() {
      gauges.settle()
      return registry.metrics()
    },
  }
}

interface FlowCount {
  readonly labels: { readonly kind: string; readonly verdict: string; readonly direction: string }
  count: number
}

/** Found by one look for each label, and told when somebody asks: a text of all labels for each flow costs more than all else about it. */
function makeFlowCounts(): { readonly count: (flow: Flow, times: number) => void; readonly all: () => readonly FlowCount[] } {
  const counts: FlowCount[] = []
  const found = new Map<string, Map<string, Map<string, FlowCount>>>()
  function countOf(kind: string, verdict: string, direction: string): FlowCount {
    const known = found.get(kind)?.get(verdict)?.get(direction)
    if (known !== undefined) return known
    const count = { labels: { kind, verdict, direction }, count: 0 }
    counts.push(count)
    const ofKind = found.get(kind) ?? new Map<string, Map<string, FlowCount>>()
    found.set(kind, ofKind)
    ofKind.set(verdict, (ofKind.get(verdict) ?? new Map<string, FlowCount>()).set(direction, count))
    return count
  }
  return {
    count(flow, times) {
      const direction = flow.kind === 'connection' ? flow.direction : flow.kind === 'query' || flow.kind === 'answer' ? 'egress' : ''
      countOf(flow.kind, verdictOf(flow), direction).count += times
    },
    all: () => counts,
  }
} // prettier-ignore

function verdictOf(flow: Flow): string {
  if (flow.kind === 'commit') return flow.acknowledged ? 'FORWARDED' : 'ERROR'
  return flow.kind === 'lease' ? flow.change : flow.verdict
}

const outcomeKinds = ['answered', 'refused', 'failed', 'rejected', 'ignored'] as const
/** Of one kind: by rcode, over TCP or not, from what was kept or not. */
const tallyWidth = 64

function tallyOf(outcome: Outcome): number {
  const index = outcomeKinds.indexOf(outcome.kind) * tallyWidth
  if (outcome.kind === 'ignored') return index
  const cached = outcome.kind === 'answered' && outcome.cached ? 1 : 0
  return index + ((outcome.reply[3] ?? 0) & 0xf) * 4 + (outcome.transport === 'tcp' ? 2 : 0) + cached
}

function labelsOfTally(index: number): Record<'outcome' | 'rcode' | 'transport' | 'cached', string> {
  const outcome = outcomeKinds[Math.floor(index / tallyWidth)] ?? ''
  if (outcome === 'ignored') return { outcome, rcode: '', transport: '', cached: '' }
  const rcode = rcodeName((index % tallyWidth) >> 2)
  return { outcome, rcode, transport: (index & 2) === 0 ? 'udp' : 'tcp', cached: outcome === 'answered' ? String((index & 1) === 1) : '' } // prettier-ignore
}
