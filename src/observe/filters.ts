// Hubble's FlowFilter as a test of flows: entries of a list are OR-ed, the fields of one filter AND-ed, the values of a field OR-ed; a flow is
// shown when the allow list is empty or passes it, and the deny list does not. Pure. Fields are named as on the wire (snake_case).
import { labelSources } from '../identity/selector.ts'
import { checkRegex, compileRegex, type TextTest } from '../l7/regex.ts'
import { addressToText, familyOf } from '../net/address.ts'
import { prefixFromText, rangeCovers, type AddressRange } from '../net/prefix.ts'
import type { End, Flow, HubbleFlow } from './flow.ts'
import { isHubbleFlow } from './flow.ts'
import { readLabelSelector, type LabelTest } from './labelSelector.ts'
import { tcpFlagNames, withDot } from './summary.ts'

/** Numbers of Hubble's event types (monitor API). */
export const EventType = { Drop: 1, PolicyVerdict: 5, L7: 129 } as const
/** Hubble's codes of why a packet was dropped: 133 no rule allows it, 181 a deny rule does not. */
export const DropReason = { PolicyDenied: 133, PolicyDeny: 181 } as const

/** A filter as JSON or protobuf gives it: each field a list. */
export type FlowFilter = Readonly<Record<string, unknown>>
export type FlowTest = (flow: HubbleFlow) => boolean

/**
 * Hubble has two events for a denied packet, the verdict of a policy and the drop; here it is one flow. Who asks for drops, and not for verdicts,
 * is shown it as a drop, else it is a verdict.
 */
export type DeniedAs = 'verdict' | 'drop'

/** What is shown of all flows of this node, and as what; or what is wrong with the lists. */
export type FilterResult =
  | { readonly ok: true; readonly shows: (flow: Flow) => boolean; readonly deniedAs: DeniedAs }
  | { readonly ok: false; readonly error: string }

/** `cluster/node`: what flows of this agent say of where they are from. */
export interface Place {
  readonly cluster: string
  readonly node: string
}

/** The filters that one request may have, in both lists together: each is a test on every flow. */
export const filtersMax = 512
/** The values in one field of a filter. */
const valuesMax = 512

/** A filter that cannot be read; caught in `compileFilters`. */
class FilterError extends Error {}

/** Compiles the allow and deny lists of a request. */
export function compileFilters(allow: readonly FlowFilter[], deny: readonly FlowFilter[], place: Place): FilterResult {
  if (allow.length + deny.length > filtersMax) return { ok: false, error: `more than ${filtersMax} filters` }
  try {
    const allowed = allow.map((filter) => compileFilter(filter, place))
    const denied = deny.map((filter) => compileFilter(filter, place))
    const types = allow.flatMap(eventTypesOf).map(({ type }) => type)
    return {
      ok: true,
      deniedAs: types.includes(EventType.Drop) && !types.includes(EventType.PolicyVerdict) ? 'drop' : 'verdict',
      shows: (flow) =>
        isHubbleFlow(flow) &&
        (allowed.length === 0 || allowed.some((test) => test(flow))) &&
        !denied.some((test) => test(flow)),
    }
  } catch (error) {
    if (error instanceof FilterError) return { ok: false, error: error.message }
    throw error
  }
}

function compileFilter(filter: FlowFilter, place: Place): FlowTest {
  const tests: FlowTest[] = []
  for (const [field, given] of Object.entries(filter)) {
    if (given === undefined || given === null) continue
    if (field === 'experimental') {
      const { cel_expression: cel } = given as { cel_expression?: unknown[] }
      if (Array.isArray(cel) && cel.length > 0) throw new FilterError('experimental.cel_expression is not supported')
      continue
    }
    const make = fields[field]
    if (make === undefined) throw new FilterError(`there is no filter "${field}"`)
    const values: unknown[] = Array.isArray(given) ? given : [given]
    if (values.length > valuesMax) throw new FilterError(`${field}: more than ${valuesMax} values`)
    if (values.length > 0) tests.push(make(values, place, filter))
  }
  return (flow) => tests.every((test) => test(flow))
}

type Maker = (values: readonly unknown[], place: Place, filter: FlowFilter) => FlowTest

const textOf = (value: unknown): string => {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  throw new FilterError(`${JSON.stringify(value)} is not text`)
}
/** Unsigned, of up to 64 bits as text or number. */
const numberOf = (value: unknown): number => {
  const number = typeof value === 'number' ? value : typeof value === 'string' && value !== '' ? Number(value) : NaN
  if (!Number.isInteger(number) || number < 0) throw new FilterError(`${JSON.stringify(value)} is not a number`)
  return number
}
const nonEmpty = (value: unknown): string => {
  const text = textOf(value)
  if (text === '') throw new FilterError('a name must not be empty')
  return text
}
/** Never: what no flow of ours has cannot be asked for with success. What is asked is read all the same: nonsense is told. */
const never = (read: (value: unknown) => unknown = () => undefined): Maker => (values) => {
  for (const value of values) read(value)
  return () => false
} // prettier-ignore
const any = <T>(values: readonly T[], test: (value: T, flow: HubbleFlow) => boolean): FlowTest => (flow) => values.some((value) => test(value, flow)) // prettier-ignore

type Side = 'source' | 'destination'

const ofIp = (side: Side): Maker => (values) => {
  return any(values.map(readRange), (range, flow) => {
    const { address } = flow[side]
    return address !== undefined && rangeCovers(range, address)
  })
} // prettier-ignore

function readRange(value: unknown): AddressRange {
  const range = prefixFromText(textOf(value))
  if (range === undefined) throw new FilterError(`"${textOf(value)}" is not an address or a prefix`)
  return range
}

/** `ns/`, `/name`, `ns/name`, `name` (of the namespace default): the name is a prefix. */
const ofPod = (side: Side): Maker => (values) =>
  any(values.map(readPodName), ({ namespace, prefix }, flow) => {
    const end = flow[side]
    return end.pod !== '' && (namespace === '' || end.namespace === namespace) && end.pod.startsWith(prefix)
  }) // prettier-ignore

/** The service that the proxy is shown as, of no namespace: the only one that flows of ours tell of. */
export const proxyService = 'dns-proxy'
const ofService = (side: Side): Maker => (values) => {
  const matches = values.map(readPodName).some(({ namespace, prefix }) => namespace === '' && proxyService.startsWith(prefix))
  return (flow) => matches && ((flow.kind === 'query' && side === 'destination') || (flow.kind === 'answer' && side === 'source'))
} // prettier-ignore

function readPodName(value: unknown): { readonly namespace: string; readonly prefix: string } {
  const text = nonEmpty(value)
  const slash = text.indexOf('/')
  return slash < 0 ? { namespace: 'default', prefix: text } : { namespace: text.slice(0, slash), prefix: text.slice(slash + 1) } // prettier-ignore
}

const bareName = (text: string): string => (text.endsWith('.') ? text.slice(0, -1) : text).toLowerCase()

/** `*` stands for any run of letters, digits, dots and hyphens, also none. */
function fqdnTest(text: string): TextTest {
  const name = bareName(text.trim())
  if (name === '' || name.endsWith('.') || ![...name].every(isOfPattern)) throw new FilterError(`"${text}" is not a pattern of names`) // prettier-ignore
  return regexTest(name.split('*').map(quoted).join('[-.0-9a-z]*'))
}
const isOfPattern = (c: string): boolean => (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || '.*-_'.includes(c)
const quoted = (text: string): string => [...text].map((c) => ('\\.+*?()|[]{}^$'.includes(c) ? `\\${c}` : c)).join('')

/** The whole text must match. */
function regexTest(expression: string): TextTest {
  const complaint = checkRegex(expression)
  if (complaint !== undefined) throw new FilterError(complaint)
  return compileRegex(expression)
}
/** It must match somewhere. */
function searchTest(expression: string): TextTest {
  const complaint = checkRegex(expression)
  if (complaint !== undefined) throw new FilterError(complaint)
  return regexTest(`(?s:.*)(?:${expression})(?s:.*)`)
}

const ofFqdn = (side: Side): Maker => (values) =>
  any(values.map((value) => fqdnTest(textOf(value))), (test, flow) => flow[side].names.some((name) => test(bareName(name)))) // prettier-ignore

const ofIdentity = (side: Side): Maker => (values) => {
  const wanted = new Set(values.map(numberOf))
  return (flow) => wanted.has(flow[side].identity)
} // prettier-ignore

const ofLabel = (side: Side): Maker => (values) => {
  return any(values.map(readSelector), (selector, flow) => selector(flow[side].labels))
} // prettier-ignore

function readSelector(value: unknown): LabelTest {
  const selector = readLabelSelector(textOf(value), labelSources)
  if (typeof selector === 'string') throw new FilterError(selector)
  return selector
}

const portOf = (side: Side, flow: HubbleFlow): number | undefined => {
  if (flow.kind === 'connection') return side === 'source' ? flow.sourcePort : flow.destinationPort
  // The question goes to port 53, the answer comes from it.
  return (flow.kind === 'query') === (side === 'destination') ? 53 : flow.clientPort
}
const ofPort = (side: Side): Maker => (values) => {
  const wanted = new Set(values.map(numberOf))
  for (const port of wanted) if (port > 65535) throw new FilterError(`${port} is not a port`)
  return (flow) => wanted.has(portOf(side, flow) ?? -1)
} // prettier-ignore

const verdicts = ['VERDICT_UNKNOWN', 'FORWARDED', 'DROPPED', 'ERROR', 'AUDIT', 'REDIRECTED', 'TRACED', 'TRANSLATED']
const directions = ['TRAFFIC_DIRECTION_UNKNOWN', 'INGRESS', 'EGRESS']
const versions = ['IP_NOT_USED', 'IPv4', 'IPv6']
/** The names of enums, where numbers may stand for them. */
const enumerated = (names: readonly string[], value: unknown): string => {
  const name = typeof value === 'number' ? names[value] : names.find((each) => each.toLowerCase() === textOf(value).toLowerCase()) // prettier-ignore
  if (name === undefined) throw new FilterError(`${JSON.stringify(value)} is none of ${names.join(', ')}`)
  return name
}

export const directionOf = (flow: HubbleFlow): 'INGRESS' | 'EGRESS' => flow.kind === 'connection' && flow.direction === 'ingress' ? 'INGRESS' : 'EGRESS' // prettier-ignore
/** Undefined for what did not pass: nobody knows. */
export const isReply = (flow: HubbleFlow): boolean | undefined => flow.kind === 'answer' ? true : flow.kind === 'query' || flow.verdict !== 'DROPPED' ? false : undefined // prettier-ignore

/** What a flow is called in the monitor's numbers: DNS is L7, all else the verdict of a policy, or a drop. */
export function eventOf(flow: HubbleFlow, deniedAs: DeniedAs = 'verdict'): { readonly type: number; readonly subType: number } {
  if (flow.kind !== 'connection') return { type: EventType.L7, subType: 0 }
  return deniedAs === 'drop' && flow.verdict === 'DROPPED' ? { type: EventType.Drop, subType: dropReasonOf(flow) } : { type: EventType.PolicyVerdict, subType: 0 }
} // prettier-ignore
/** 0 where nothing was dropped. */
export function dropReasonOf(flow: HubbleFlow): number {
  if (flow.verdict !== 'DROPPED') return 0
  return flow.kind === 'connection' && flow.byDenyRule ? DropReason.PolicyDeny : DropReason.PolicyDenied
}
const dropReasonNames: Readonly<Record<number, string>> = {
  0: 'DROP_REASON_UNKNOWN',
  133: 'POLICY_DENIED',
  181: 'POLICY_DENY',
}
export const dropReasonName = (reason: number): string => dropReasonNames[reason] ?? 'DROP_REASON_UNKNOWN'

const protocolNames: Readonly<Record<number, string>> = { 1: 'icmpv4', 6: 'tcp', 17: 'udp', 58: 'icmpv6', 132: 'sctp', 112: 'vrrp', 2: 'igmp' } // prettier-ignore
/** L3, L4 and L7 names, as `--protocol` takes them. */
function protocolsOf(flow: HubbleFlow): readonly string[] {
  const address = flow.source.address ?? flow.destination.address
  const three = address === undefined ? [] : [familyOf(address) === 4 ? 'ipv4' : 'ipv6']
  if (flow.kind !== 'connection') return [...three, flow.transport, 'dns']
  const name = protocolNames[flow.protocol]
  return [...three, ...(name === undefined ? [] : [name]), ...(flow.protocol === 1 || flow.protocol === 58 ? ['icmp'] : [])] // prettier-ignore
}
const protocolWords = ['ipv4', 'ipv6', 'tcp', 'udp', 'sctp', 'icmp', 'icmpv4', 'icmpv6', 'vrrp', 'igmp', 'dns', 'http'] // prettier-ignore

interface EventTypeFilter {
  readonly type?: number
  readonly match_sub_type?: boolean
  readonly sub_type?: number
}

const eventTypesOf = (filter: FlowFilter): readonly EventTypeFilter[] => (filter['event_type'] ?? []) as readonly EventTypeFilter[] // prettier-ignore

/** No flow of ours is HTTP's. Filters on HTTP make no sense beside an event type that has none. */
const http = (read: (text: string) => unknown = () => undefined): Maker => (values, _place, filter) => {
  const types = eventTypesOf(filter)
  if (types.length > 0 && !types.some(({ type }) => type === EventType.L7))
    throw new FilterError('filtering by HTTP fields requires the event type filter to include L7')
  for (const value of values) if (typeof value !== 'object') read(textOf(value))
  return () => false
} // prettier-ignore

/** `404`, or the first digits and a plus: `4+`, `40+`. */
function readStatus(text: string): void {
  const [first = '', ...rest] = text.endsWith('+') ? text.slice(0, -1) : text
  const isLong = text.endsWith('+') ? rest.length <= 1 : rest.length === 2
  if (!(first >= '1' && first <= '5') || !isLong || rest.some((c) => c < '0' || c > '9')) throw new FilterError(`"${text}" is not an HTTP status or a prefix such as 4+`) // prettier-ignore
}

/** `cluster/node`, either with `*`; one part alone is the node, of any cluster. */
const nodeName: Maker = (values, { cluster, node }) => {
  const matches = values.some((value) => {
    const text = nonEmpty(value)
    const [c, n, ...rest] = text.includes('/') ? text.split('/') : ['', text]
    if (rest.length > 0) throw new FilterError(`"${text}" has more than one slash`)
    const tests = [[c, cluster], [n, node]].map(([pattern = '', name = '']) => pattern === '' || fqdnTest(pattern)(name.toLowerCase())) // prettier-ignore
    return tests.every(Boolean)
  })
  return () => matches
}

/** Only pods say which cluster they are of. */
const ofCluster = (side: Side): Maker => (values, place) => {
  const isOurs = values.map(nonEmpty).includes(place.cluster)
  return (flow) => isOurs && flow[side].pod !== ''
} // prettier-ignore

const tcpFlags: Maker = (values) => {
  const wanted = values.map((value) =>
    Object.entries(value as Record<string, unknown>).flatMap(([flag, is]) => (is === true ? [flag.toUpperCase()] : [])),
  )
  return any(wanted, (flags, flow) => {
    if (flow.kind !== 'connection' || flow.tcpFlags === undefined) return false
    const has = tcpFlagNames(flow.tcpFlags) as readonly string[]
    return flags.every((flag) => has.includes(flag))
  })
}

const fields: Readonly<Record<string, Maker>> = {
  source_ip: ofIp('source'),
  destination_ip: ofIp('destination'),
  source_pod: ofPod('source'),
  destination_pod: ofPod('destination'),
  source_service: ofService('source'),
  destination_service: ofService('destination'),
  source_fqdn: ofFqdn('source'),
  destination_fqdn: ofFqdn('destination'),
  source_label: ofLabel('source'),
  destination_label: ofLabel('destination'),
  source_identity: ofIdentity('source'),
  destination_identity: ofIdentity('destination'),
  source_port: ofPort('source'),
  destination_port: ofPort('destination'),
  verdict: (values) => {
    const wanted = new Set(values.map((value) => enumerated(verdicts, value)))
    return (flow) => wanted.has(flow.verdict)
  },
  event_type: (values) =>
    any(values as readonly EventTypeFilter[], ({ type, match_sub_type: exact, sub_type: sub }, flow) => {
      const event = eventOf(flow, type === EventType.Drop ? 'drop' : 'verdict')
      return ((type ?? 0) === 0 || event.type === type) && (exact !== true || event.subType === (sub ?? 0))
    }),
  protocol: (values) => {
    const wanted = values.map((value) => textOf(value).toLowerCase())
    for (const word of wanted) if (!protocolWords.includes(word)) throw new FilterError(`unrecognized protocol: ${word}`)
    return any(wanted, (word, flow) => protocolsOf(flow).includes(word))
  },
  reply: (values) => {
    const wanted = new Set(values.map((value) => value === true || value === 'true'))
    return (flow) => {
      // Drops have no side: Hubble counts them as no reply.
      return wanted.has(isReply(flow) ?? false)
    }
  },
  dns_query: (values) =>
    any(values.map((value) => searchTest(textOf(value))), (test, flow) => flow.kind !== 'connection' && test(withDot(flow.qname))),
  ip_version: (values) => {
    const wanted = new Set(values.map((value) => enumerated(versions, value)))
    return (flow) => {
      const address = flow.source.address ?? flow.destination.address
      return address !== undefined && wanted.has(familyOf(address) === 4 ? 'IPv4' : 'IPv6')
    }
  },
  traffic_direction: (values) => {
    const wanted = new Set(values.map((value) => enumerated(directions, value)))
    return (flow) => wanted.has(directionOf(flow))
  },
  drop_reason_desc: (values) => {
    // By number or by name: of the reasons that Hubble has, flows of ours have two.
    const wanted = new Set(values.map((value) => (typeof value === 'number' ? value : textOf(value).toUpperCase())))
    return (flow) => flow.verdict === 'DROPPED' && (wanted.has(dropReasonOf(flow)) || wanted.has(dropReasonName(dropReasonOf(flow))))
  },
  tcp_flags: tcpFlags,
  node_name: nodeName,
  source_cluster_name: ofCluster('source'),
  destination_cluster_name: ofCluster('destination'),
  http_status_code: http(readStatus),
  http_method: http(),
  http_path: http(searchTest),
  http_url: http(searchTest),
  http_header: http(),
  // What flows of ours do not carry.
  source_workload: never(),
  destination_workload: never(),
  trace_id: never(),
  uuid: never(),
  source_ip_xlated: never(readRange),
  interface: never(),
  node_labels: never(readSelector),
  ip_trace_id: never(numberOf),
  encrypted: (values) => {
    const wanted = new Set(values.map((value) => value === true || value === 'true'))
    return () => wanted.has(false)
  },
} // prettier-ignore

/** All filter fields that there are. */
export const filterFields: readonly string[] = Object.keys(fields)

export const addressText = ({ address }: End): string => (address === undefined ? '' : addressToText(address))
