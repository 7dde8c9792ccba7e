// The metrics that dashboards of Cilium and Hubble ask for, under their names and labels, made of our flows. Behind a switch: they name
// workloads and names, so each label that comes from outside has a bound.
import { Counter, Gauge, type Registry } from 'prom-client'
import { protocolName } from '../../net/ports.ts'
import { dropReasonName, dropReasonOf } from '../filters.ts'
import { isHubbleFlow, type AnswerFlow, type End, type Flow, type HubbleFlow, type QueryFlow } from '../flow.ts'
import { rcodeText } from '../summary.ts'

export interface HubbleGauges {
  readonly cluster: string
  readonly flowsLost: () => { readonly ring: number; readonly kernel: number }
  readonly endpoints: () => number
  readonly identities: () => number
  readonly policies: () => number
  readonly policyRevision: () => number
  readonly leasedNames: () => number
}

/** Distinct names, and workloads, that have a series of their own; all further ones share `other`. */
export const queriesMax = 500
export const workloadsMax = 1000
const other = 'other'

const protocolText = (flow: HubbleFlow): string => flow.kind !== 'connection' ? 'DNS' : flow.protocol === 1 ? 'ICMPv4' : flow.protocol === 58 ? 'ICMPv6' : protocolName(flow.protocol).toUpperCase() // prettier-ignore

/** Adds them to a registry. */
export function makeHubbleMetrics(
  registry: Registry,
  gauges: HubbleGauges,
): { readonly flow: (flow: Flow, times: number) => void } {
  const registers = [registry]
  const counter = (name: string, help: string, labelNames: string[]): Counter => new Counter({ name, help, labelNames, registers }) // prettier-ignore
  const { cluster } = gauges
  const dnsLabels = ['cluster', 'source', 'destination', 'source_namespace', 'destination_namespace', 'rcode', 'qtypes', 'ips_returned', 'query'] // prettier-ignore
  const queries = counter('hubble_dns_queries_total', 'Number of DNS queries observed.', dnsLabels)
  const responses = counter('hubble_dns_responses_total', 'Number of DNS responses observed.', dnsLabels)
  const types = counter('hubble_dns_response_types_total', 'Number of DNS response types observed.', [...dnsLabels.slice(0, 5), 'type', 'qtypes', 'query']) // prettier-ignore
  const processed = counter('hubble_flows_processed_total', 'Number of flows processed.', ['cluster', 'type', 'subtype', 'verdict', 'protocol']) // prettier-ignore
  const drops = counter('hubble_drop_total', 'Number of drops.', ['cluster', 'reason', 'protocol'])
  const verdicts = counter('hubble_policy_verdicts_total', 'Number of policy verdicts.', ['cluster', 'direction', 'match', 'action']) // prettier-ignore
  const l7 = counter('cilium_policy_l7_total', 'Number of requests by what policy said.', ['rule', 'proxy_type'])
  const dropCount = counter('cilium_drop_count_total', 'Number of dropped packets that were told of.', ['reason', 'direction']) // prettier-ignore
  const forwardCount = counter('cilium_forward_count_total', 'Number of first packets that were forwarded and told of.', ['direction']) // prettier-ignore
  new Counter({
    name: 'hubble_lost_events_total',
    help: 'Number of lost events.',
    labelNames: ['source'],
    registers,
    collect() {
      const { ring, kernel } = gauges.flowsLost()
      this.reset()
      this.inc({ source: 'hubble_ring_buffer' }, ring)
      this.inc({ source: 'perf_event_ring_buffer' }, kernel)
    },
  })
  const gauge = (name: string, help: string, read: () => number, labels: Record<string, string> = {}): Gauge =>
    new Gauge({ name, help, labelNames: Object.keys(labels), registers, collect() { this.set(labels, read()) } }) // prettier-ignore
  gauge('cilium_version', 'Version of what speaks under these names.', () => 1, { cluster, version: 'namegate' })
  gauge('cilium_endpoint', 'Number of endpoints.', gauges.endpoints)
  gauge('cilium_identity', 'Number of identities.', gauges.identities)
  gauge('cilium_policy', 'Number of policies.', gauges.policies)
  gauge('cilium_policy_max_revision', 'Highest policy revision.', gauges.policyRevision)
  gauge('cilium_fqdn_active_names', 'Number of names with leases.', gauges.leasedNames)

  const names = makeBounded(queriesMax)
  const workloads = makeBounded(workloadsMax)
  const workloadOf = ({ pod, namespace, labels }: End): string => pod !== '' ? workloads(`${namespace}/${pod}`) : (labels.find((label) => label.startsWith('reserved:')) ?? '') // prettier-ignore

  function dns(flow: QueryFlow | AnswerFlow, times: number): void {
    const query = names(flow.qname === '.' ? '.' : `${flow.qname}.`)
    const ends = { cluster, source: workloadOf(flow.source), destination: workloadOf(flow.destination), source_namespace: flow.source.namespace, destination_namespace: flow.destination.namespace } // prettier-ignore
    const asked = { qtypes: flow.qtype, query }
    if (flow.kind === 'query') {
      queries.inc(
        { ...ends, ...asked, rcode: flow.verdict === 'DROPPED' ? 'Policy denied' : '', ips_returned: '0' },
        times,
      )
      l7.inc({ rule: 'received', proxy_type: 'fqdn' }, times)
      l7.inc({ rule: flow.verdict === 'DROPPED' ? 'denied' : 'forwarded', proxy_type: 'fqdn' }, times)
      return
    }
    const rcode = flow.verdict === 'DROPPED' ? 'Policy denied' : rcodeText(flow.rcode)
    responses.inc({ ...ends, ...asked, rcode, ips_returned: String(Math.min(flow.addresses.length, 16)) }, times)
    if (flow.addresses.length > 0) types.inc({ ...ends, ...asked, type: flow.qtype }, times)
  }
  function flow(seen: Flow, times: number): void {
    if (!isHubbleFlow(seen)) return
    const { verdict } = seen
    const protocol = protocolText(seen)
    const isConnection = seen.kind === 'connection'
    processed.inc({ cluster, type: isConnection ? 'PolicyVerdict' : 'L7', subtype: isConnection ? '' : 'DNS', verdict, protocol }, times) // prettier-ignore
    const reason = dropReasonName(dropReasonOf(seen))
    if (verdict === 'DROPPED') drops.inc({ cluster, reason, protocol }, times)
    const direction = isConnection ? seen.direction : 'egress'
    if (seen.kind !== 'answer') verdicts.inc({ cluster, direction, match: isConnection ? 'all' : 'l7/dns', action: verdict === 'DROPPED' ? 'dropped' : verdict === 'AUDIT' ? 'audit' : 'forwarded' }, times) // prettier-ignore
    if (!isConnection) dns(seen, times)
    else if (verdict === 'DROPPED')
      dropCount.inc({ reason: seen.byDenyRule ? 'Policy denied by denylist' : 'Policy denied', direction: direction.toUpperCase() }, times) // prettier-ignore
    else forwardCount.inc({ direction: direction.toUpperCase() }, times)
  }
  return { flow }
}

/** The first so many values are themselves, all others are one. */
function makeBounded(max: number): (value: string) => string {
  const known = new Set<string>()
  return (value) => {
    if (known.has(value)) return value
    if (known.size >= max) return other
    known.add(value)
    return value
  }
}
