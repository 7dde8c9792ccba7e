// Numbers for Prometheus, under our own prefix. Labels have few values by construction: no names, no addresses.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { BypassWay } from './bypass.ts'
import type { Outcome } from './proxy/handle.ts'
import { rcodeName } from './wire/codes.ts'

export interface Metrics {
  readonly question: (outcome: Outcome) => void
  readonly upstreamSeconds: (seconds: number, result: 'message' | 'failed') => void
  /** `elements` is undefined when the kernel did not acknowledge. */
  readonly commit: (seconds: number, elements: number | undefined) => void
  readonly load: (ok: boolean) => void
  readonly repair: () => void
  readonly bypass: (way: BypassWay, times: number) => void
  readonly text: () => Promise<string>
}

/** What is read when somebody asks, rather than counted on the way. */
export interface Gauges {
  readonly leases: () => number
  /** Connections of workloads to leased addresses. */
  readonly connections?: () => number
  readonly endpoints: () => number
  readonly policyRevision: () => number
  readonly strangers: () => number
  readonly dropped: () => number
}

export function makeMetrics(gauges: Gauges): Metrics {
  const registers = [new Registry()]
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
  const questions = counter('namegate_dns_questions_total', 'Questions by how they ended.', [
    'outcome',
    'rcode',
    'transport',
    'cached',
  ])
  const upstream = new Histogram({ name: 'namegate_dns_upstream_seconds', help: 'Time an upstream question took.', labelNames: ['result'], buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5], registers }) // prettier-ignore
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
  gauge('namegate_leases', 'Leases held.', gauges.leases)
  if (gauges.connections !== undefined)
    gauge('namegate_lease_connections', 'Connections of workloads to leased addresses.', gauges.connections)
  gauge('namegate_endpoints', 'Endpoints known.', gauges.endpoints)
  gauge('namegate_policy_revision', 'Revision of the snapshot in force.', gauges.policyRevision)
  gauge('namegate_dns_strangers', 'Messages from upstreams that answered no question of ours.', gauges.strangers)
  gauge('namegate_dns_dropped', 'Datagrams dropped because too many questions were in hand.', gauges.dropped)

  const refusals = counter('namegate_dns_refused_total', 'Questions refused, by what refused them.', ['reason'])
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
      if (outcome.kind === 'refused') refusals.inc({ reason: outcome.reason })
      if (outcome.kind === 'answered' && outcome.stripped) stripped.inc()
      if (outcome.kind === 'answered' && outcome.stale) stale.inc()

      if (outcome.kind === 'ignored') questions.inc({ outcome: 'ignored', rcode: '', transport: '', cached: '' })
      else {
        const rcode = rcodeName((outcome.reply[3] ?? 0) & 0xf)
        const cached = outcome.kind === 'answered' ? String(outcome.cached) : ''
        questions.inc({ outcome: outcome.kind, rcode, transport: outcome.transport, cached })
      }
    },
    upstreamSeconds: (seconds, result) => upstream.observe({ result }, seconds),
    commit(seconds, count) {
      if (count === undefined) failures.inc()
      else {
        commits.observe(seconds)
        elements.inc(count)
      }
    },
    load: (ok) => loads.inc({ result: ok ? 'ok' : 'refused' }),
    repair: () => repairs.inc(),
    bypass: (way, times) => bypasses.inc({ way }, times),
    text: () => registers[0]?.metrics() ?? Promise.resolve(''),
  }
}
