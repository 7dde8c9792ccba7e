// Flows as Hubble's messages: plain objects with the fields' own names, which are the JSON of `hubble observe -o json` as they stand. Pure.
import { addressToText, familyOf } from '../../net/address.ts'
import type { Why } from '../../policy/snapshot.ts'
import {
  directionOf,
  dropReasonName,
  dropReasonOf,
  eventOf,
  EventType,
  isReply,
  proxyService,
  type DeniedAs,
  type Place,
} from '../filters.ts'
import { isHubbleFlow, type End, type HubbleFlow } from '../flow.ts'
import type { Entry } from '../ring.ts'
import { summaryOf, tcpFlagNames } from '../summary.ts'

/** A message as protobuf's JSON has it: absent fields are absent, enums are their names, 64 bits are text. */
export type Message = Readonly<Record<string, unknown>>

/** `2026-01-02T03:04:05.678Z` as JSON, seconds and nanoseconds on the wire. */
export interface Timestamp {
  readonly seconds: number
  readonly nanos: number
}
export const timestampOf = (millis: number): Timestamp => {
  const seconds = Math.floor(millis / 1000)
  return { seconds, nanos: Math.round((millis - seconds * 1000) * 1e6) }
}

/** The flow; its time is a `Timestamp` for the wire, and text for JSON. */
export function flowMessage(flow: HubbleFlow, place: Place, time: unknown, deniedAs: DeniedAs): Message {
  const { source, destination, verdict } = flow
  const { type, subType } = eventOf(flow, deniedAs)
  const reason = dropReasonOf(flow)
  const address = source.address ?? destination.address
  const reply = isReply(flow)
  return {
    time,
    verdict,
    ...(reason === 0 ? {} : { drop_reason: reason, drop_reason_desc: dropReasonName(reason) }),
    ...(address === undefined ? {} : { IP: { ...(source.address === undefined ? {} : { source: addressToText(source.address) }), ...(destination.address === undefined ? {} : { destination: addressToText(destination.address) }), ipVersion: familyOf(address) === 4 ? 'IPv4' : 'IPv6' } }),
    ...l4Of(flow),
    source: endMessage(source, place),
    destination: endMessage(destination, place),
    Type: flow.kind === 'connection' ? 'L3_L4' : 'L7',
    node_name: `${place.cluster}/${place.node}`,
    ...(source.names.length === 0 ? {} : { source_names: source.names }),
    ...(destination.names.length === 0 ? {} : { destination_names: destination.names }),
    ...l7Of(flow),
    ...proxyOf(flow),
    ...(reply === true ? { reply } : {}),
    event_type: { type, ...(subType === 0 ? {} : { sub_type: subType }) },
    traffic_direction: directionOf(flow),
    ...(flow.kind === 'connection' && type === EventType.PolicyVerdict ? { policy_match_type: flow.match } : {}),
    ...(reply === undefined ? {} : { is_reply: { value: reply } }),
    ...decidedBy(flow),
    Summary: summaryOf(flow),
  }
} // prettier-ignore

/**
 * An entry as a line of `hubble observe -o json`; undefined for what Hubble has no flow for.
 * @param fields a mask, as of `masked`; [] is everything.
 */
export function flowLine(
  entry: Entry,
  place: Place,
  deniedAs: DeniedAs,
  fields: readonly string[] = [],
): Message | undefined {
  const time = new Date(entry.time).toISOString()
  const node = { node_name: `${place.cluster}/${place.node}`, time }
  if (entry.kind === 'lost') {
    const source = entry.source === 'ring' ? 'HUBBLE_RING_BUFFER' : 'PERF_EVENT_RING_BUFFER'
    return { lost_events: { source, num_events_lost: String(entry.count) }, ...node }
  }
  return isHubbleFlow(entry) ? { flow: masked(flowJson(entry, place, time, deniedAs), fields), ...node } : undefined
}

/** In JSON, what protobuf wraps to tell absent from false is the bare value. */
function flowJson(flow: HubbleFlow, place: Place, time: string, deniedAs: DeniedAs): Message {
  const { is_reply: reply, ...rest } = flowMessage(flow, place, time, deniedAs)
  return reply === undefined ? rest : { ...rest, is_reply: (reply as { value: boolean }).value }
}

function endMessage(end: End, { cluster }: Place): Message {
  const { endpoint, identity, namespace, labels, pod } = end
  return { ...(endpoint === 0 ? {} : { ID: endpoint }), identity, ...(namespace === '' ? {} : { namespace }), labels, ...(pod === '' ? {} : { pod_name: pod, cluster_name: cluster }) } // prettier-ignore
}

function l4Of(flow: HubbleFlow): Message {
  if (flow.kind !== 'connection') {
    const ports =
      flow.kind === 'query'
        ? { source_port: flow.clientPort, destination_port: 53 }
        : { source_port: 53, destination_port: flow.clientPort }
    return { l4: flow.transport === 'udp' ? { UDP: ports } : { TCP: ports } }
  }
  const { protocol, sourcePort: source_port, destinationPort: destination_port, icmp, tcpFlags } = flow
  if (icmp !== undefined) return { l4: protocol === 58 ? { ICMPv6: icmp } : { ICMPv4: icmp } }
  const ports = { source_port, destination_port }
  if (protocol === 6) return { l4: { TCP: { ...ports, ...(tcpFlags === undefined ? {} : { flags: Object.fromEntries(tcpFlagNames(tcpFlags).map((flag) => [flag, true])) }) } } } // prettier-ignore
  if (protocol === 17) return { l4: { UDP: ports } }
  return protocol === 132 ? { l4: { SCTP: ports } } : {}
}

/** The end without an address has a name instead: what shows a flow would show a port of nothing. */
function proxyOf(flow: HubbleFlow): Message {
  if (flow.kind === 'connection') return {}
  return { [flow.kind === 'query' ? 'destination_service' : 'source_service']: { name: proxyService } }
}

function l7Of(flow: HubbleFlow): Message {
  if (flow.kind === 'connection') return {}
  const query = flow.qname === '.' ? '.' : `${flow.qname}.`
  const dns = { query, observation_source: 'proxy', qtypes: [flow.qtype] }
  if (flow.kind === 'query') return { l7: { type: 'REQUEST', dns } }
  const { addresses, ttlSeconds, rcode, millis } = flow
  // Only address records are read of an answer: there is a type of record where there is an address.
  const rrtypes = addresses.length === 0 ? [] : [flow.qtype]
  return { l7: { type: 'RESPONSE', latency_ns: String(Math.round(millis * 1e6)), dns: { ...dns, ips: addresses.map(addressToText), ttl: ttlSeconds, rcode, rrtypes } } } // prettier-ignore
}

/**
 * Which policy allows or denies, and in the log why, with rule and line. That no rule matched stands in the log only, also where it names a rule
 * that is near: no policy denies then.
 */
function decidedBy(flow: HubbleFlow): Message {
  const { why, verdict } = flow
  if (why === undefined) return {}
  const log = { policy_log: [whyLine(why)] }
  const isDenied = verdict === 'DROPPED' || verdict === 'AUDIT'
  if (why.policy === undefined || (isDenied && flow.kind === 'connection' && !flow.byDenyRule)) return log
  const side = directionOf(flow) === 'INGRESS' ? 'ingress' : 'egress'
  const slash = why.policy.indexOf('/')
  const policy = { name: why.policy.slice(slash + 1), ...(slash < 0 ? {} : { namespace: why.policy.slice(0, slash) }), ...(why.policyKind === undefined ? {} : { kind: why.policyKind }) } // prettier-ignore
  return { ...log, [`${side}_${isDenied ? 'denied' : 'allowed'}_by`]: [policy] }
}

const whyLine = ({ text, policy, rule, source }: Why): string =>
  policy === undefined ? text : `${text} (${[`${policy} ${rule ?? ''}`.trim(), source].filter(Boolean).join(', ')})`

/** Fields of a mask: those that it names, or all of them when it names none. */
export function masked(message: Message, paths: readonly string[]): Message {
  if (paths.length === 0) return message
  const wanted = isForPeople(paths) ? [...paths, ...printed] : paths
  const shown: Record<string, unknown> = {}
  for (const path of wanted) copyPath(message, shown, path.split('.'))
  return shown
}

/**
 * The mask that the `hubble` command asks with for a person leaves out what it then prints: names, and before 1.18 direction and policies. It is
 * told by its fields; a mask that somebody wrote is kept to.
 */
const isForPeople = (paths: readonly string[]): boolean => peoplesFields.every((field) => paths.includes(field))
const peoplesFields = ['time', 'verdict', 'IP', 'l4', 'source.identity', 'source.pod_name', 'destination.identity', 'node_name', 'event_type', 'is_reply', 'Summary'] // prettier-ignore
const printed = ['source_names', 'destination_names', 'traffic_direction', 'policy_match_type', 'egress_allowed_by', 'ingress_allowed_by', 'egress_denied_by', 'ingress_denied_by'] // prettier-ignore

function copyPath(from: Message, to: Record<string, unknown>, [field = '', ...rest]: readonly string[]): void {
  if (!Object.hasOwn(from, field)) return
  const value = from[field]
  if (rest.length === 0 || typeof value !== 'object' || value === null || Array.isArray(value)) {
    to[field] = value
    return
  }
  const before = to[field]
  if (before === value) return
  const within: Record<string, unknown> = { ...(before as Record<string, unknown> | undefined) }
  copyPath(value as Message, within, rest)
  to[field] = within
}
