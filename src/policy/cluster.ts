// policy.networking.k8s.io into rules: ClusterNetworkPolicy (v1alpha2, v1beta1), and its elders AdminNetworkPolicy and BaselineAdminNetworkPolicy
// (v1alpha1), which say the same with other words for ports. What a later version of the API may have added fails closed.
import type { Selector } from '../identity/selector.ts'
import { readPattern } from '../match/pattern.ts'
import { Protocol } from '../net/ports.ts'
import { prefixFromText, rangeToText } from '../net/prefix.ts'
import type { PolicyMeta } from './context.ts'
import { didYouMean, isAbsent, nearest, readInteger, readList, readMap, readString, readWord, type Field, type Report, type Strays } from './field.ts' // prettier-ignore
import { ofThisCluster, podsOfNamespaces, readNamespacedPods, readNamespaceSelector, readNodeSelector, readPortName } from './podSelectors.ts' // prettier-ignore
import { Tier, type Direction, type NameMatch, type ParseOptions, type Peer, type Policy, type Rule, type RulePorts, type Spot } from './rules.ts' // prettier-ignore

/** In what the kinds differ. */
interface Dialect {
  /** Words for what a rule does; the first one allows. */
  readonly actions: readonly ['Accept' | 'Allow', ...('Deny' | 'Pass')[]]
  readonly portsKey: 'protocols' | 'ports'
  readonly egressPeers: readonly string[]
  /** Rules a direction may have. */
  readonly rulesMax: number
  /** Peers, and ports, that a rule may have. */
  readonly itemsMax: number
  /** Of `{ namespaceSelector, podSelector }`. */
  readonly podsRequired: readonly string[]
}

/** The kinds have other words for ports. */
const straysOfRule = ({ portsKey }: Dialect): Strays =>
  portsKey === 'ports' ? { protocols: 'ports are "ports" here' } : { ports: 'ports are "protocols" here' }

const ingressPeers = ['namespaces', 'pods']
const clusterDialect: Dialect = {
  actions: ['Accept', 'Deny', 'Pass'],
  portsKey: 'protocols',
  egressPeers: [...ingressPeers, 'networks', 'nodes', 'domainNames'],
  rulesMax: 25,
  itemsMax: 25,
  podsRequired: ['podSelector'],
}
const adminDialect: Dialect = {
  ...clusterDialect,
  actions: ['Allow', 'Deny', 'Pass'],
  portsKey: 'ports',
  rulesMax: 100,
  itemsMax: 100,
  podsRequired: ['namespaceSelector', 'podSelector'],
}
const baselineDialect: Dialect = {
  ...adminDialect,
  actions: ['Allow', 'Deny'],
  egressPeers: [...ingressPeers, 'networks', 'nodes'],
}

/** Networks, and names, that one peer may list. */
const listedMax = 25
const ruleNameCharactersMax = 100
const priorityMax = 1000
/** Rules of one policy are tried in order: each comes this much after the one before it, and all before the next policy's priority. */
const priorityStep = 1 / 1000

interface Context {
  readonly report: Report
  readonly options: ParseOptions
  readonly dialect: Dialect
  readonly tier: Tier
  readonly priority: number
}

/** The policy of a ClusterNetworkPolicy's `spec`, or undefined when it has errors; all of them are in the report. */
export function parseClusterNetworkPolicy(report: Report, meta: PolicyMeta, spec: Field, options: ParseOptions): Policy | undefined {
  const before = report.errorCount()
  const fields = readMap(report, spec, ['tier', 'priority', 'subject', 'ingress', 'egress'])
  if (isAbsent(fields.get('tier'))) report.error(spec, 'tier: Required value')
  const tier = readWord(report, fields.get('tier'), ['Admin', 'Baseline']) === 'Baseline' ? Tier.Baseline : Tier.Admin
  const context = { report, options, dialect: clusterDialect, tier, priority: readPriority(report, spec, fields) }
  return policyOf(context, meta, spec, fields, before)
} // prettier-ignore

/** The policy of an AdminNetworkPolicy's or BaselineAdminNetworkPolicy's `spec`, or undefined when it has errors. */
export function parseAdminNetworkPolicy(report: Report, meta: PolicyMeta, spec: Field, options: ParseOptions): Policy | undefined {
  const before = report.errorCount()
  const isBaseline = meta.kind === 'BaselineAdminNetworkPolicy'
  const fields = readMap(report, spec, [...(isBaseline ? [] : ['priority']), 'subject', 'ingress', 'egress'])
  if (isBaseline && meta.name !== 'default')
    report.error(spec, 'Only one baseline admin network policy with metadata.name="default" can be created in the cluster')
  const context = isBaseline
    ? { report, options, dialect: baselineDialect, tier: Tier.Baseline, priority: 0 }
    : { report, options, dialect: adminDialect, tier: Tier.Admin, priority: readPriority(report, spec, fields) }
  return policyOf(context, meta, spec, fields, before)
} // prettier-ignore

/** @param before how many errors there were before this policy */
function policyOf(context: Context, meta: PolicyMeta, spec: Field, fields: ReadonlyMap<string, Field>, before: number): Policy | undefined {
  const selector = parseSubject(context, spec, fields.get('subject'))
  const rules = (['ingress', 'egress'] as const).flatMap((direction) => {
    const list = fields.get(direction)
    const items = readList(context.report, list)
    checkCount(context.report, list, items, 0, context.dialect.rulesMax)
    return items.flatMap((item, i) => parseRule({ ...context, priority: context.priority + i * priorityStep }, item, direction))
  })
  if (context.report.errorCount() > before || selector === undefined) return undefined
  return {
    kind: meta.kind,
    name: meta.name,
    namespace: undefined,
    file: spec.file,
    line: spec.line,
    subject: { kind: 'endpoints', selector },
    rules,
    directions: (['ingress', 'egress'] as const).filter((direction) => rules.some((rule) => rule.direction === direction)),
    defaultDeny: { ingress: false, egress: false },
  }
} // prettier-ignore

function readPriority(report: Report, spec: Field, fields: ReadonlyMap<string, Field>): number {
  const field = fields.get('priority')
  if (isAbsent(field)) report.error(spec, 'priority: Required value')
  const priority = readInteger(report, field) ?? 0
  if (field !== undefined && priority < 0) report.error(field, `Invalid value: ${priority}: should be greater than or equal to 0`) // prettier-ignore
  if (field !== undefined && priority > priorityMax) report.error(field, `Invalid value: ${priority}: should be less than or equal to ${priorityMax}`) // prettier-ignore
  return priority
}

function checkCount(report: Report, field: Field | undefined, items: readonly Field[], min: number, max: number): void {
  if (isAbsent(field) || field.kind !== 'list') return
  if (items.length < min) report.error(field, `Invalid value: should have at least ${min} items`)
  if (items.length > max) report.error(field, `Too many: ${items.length}: must have at most ${max} items`)
}

/** The one key of a mapping that must have exactly one; undefined, and said, when it has none or several. */
function onlyKey(report: Report, field: Field, fields: ReadonlyMap<string, Field>, known: readonly string[]): string | undefined {
  const given = known.filter((key) => !isAbsent(fields.get(key)))
  if (field.kind === 'map' && given.length !== 1)
    report.error(field, `exactly one of ${known.join(', ')} must be set, not ${given.length === 0 ? 'none' : given.join(' and ')}`)
  return given.length === 1 ? given[0] : undefined
} // prettier-ignore

function parseSubject({ report, options, dialect }: Context, spec: Field, field: Field | undefined): Selector | undefined {
  if (isAbsent(field)) {
    report.error(spec, 'subject: Required value')
    return undefined
  }
  const fields = readMap(report, field, ingressPeers)
  const key = onlyKey(report, field, fields, ingressPeers)
  const entry = key === undefined ? undefined : fields.get(key)
  if (entry === undefined) return undefined
  if (key === 'pods') return readNamespacedPods(report, entry, dialect.podsRequired, options)
  return podsOfNamespaces([], readNamespaceSelector(report, entry), options)
} // prettier-ignore

function parseRule(context: Context, field: Field, direction: Direction): Rule[] {
  const { report, dialect, options } = context
  const peersKey = direction === 'ingress' ? 'from' : 'to'
  const fields = readMap(report, field, ['name', 'action', peersKey, dialect.portsKey], straysOfRule(dialect))
  const name = readString(report, fields.get('name')) ?? ''
  if (name.length > ruleNameCharactersMax) report.error(fields.get('name') ?? field, `Too long: may not be more than ${ruleNameCharactersMax} characters`) // prettier-ignore
  for (const key of ['action', peersKey])
    if (field.kind === 'map' && isAbsent(fields.get(key))) report.error(field, `${key}: Required value`)
  const action = readWord(report, fields.get('action'), dialect.actions)
  const [peerItems, portItems] = [peersKey, dialect.portsKey].map((key) => {
    const items = readList(report, fields.get(key))
    checkCount(report, fields.get(key), items, 1, dialect.itemsMax)
    return items
  })
  const peers = (peerItems ?? []).map((item) => parsePeer(context, item, direction, action))
  const ports = (portItems ?? []).map((item) => (dialect.portsKey === 'ports' ? parsePort : parseProtocol)(report, item))
  checkNamedPorts(report, field, dialect, peers, ports)
  const isUnknown = { peer: peers.includes('unknown'), port: ports.includes('unknown') }
  const rule: Rule = {
    path: field.path,
    line: field.line,
    direction,
    kind: action === 'Deny' ? 'deny' : action === 'Pass' ? 'pass' : 'allow',
    tier: context.tier,
    priority: context.priority,
    peers: peers.flatMap((peer) => (peer === 'unknown' ? [] : peer)),
    ports: (portItems ?? []).length === 0 ? [{ kind: 'all' }] : ports.flatMap((port) => (port === 'unknown' ? [] : port)),
  }
  if (isUnknown.peer || isUnknown.port) return [failClosed(rule, isUnknown)]
  return options.semantics === 'cilium' ? [rule, ...dnsRulesFor(rule)] : [rule]
} // prettier-ignore

/** A rule that says something nobody here understands: what allows allows nothing, anything else denies all that it might be about. */
function failClosed(rule: Rule, isUnknown: { readonly peer: boolean; readonly port: boolean }): Rule {
  const ports: Rule['ports'] = isUnknown.port ? [{ kind: 'all' }] : rule.ports
  if (rule.kind === 'allow') return { ...rule, peers: [], ports }
  return { ...rule, kind: 'deny', peers: isUnknown.peer ? 'everyone' : rule.peers, ports }
}

/** Cilium lets those who may reach a name ask the cluster's DNS for it; by the specification a rule of its own must. */
function dnsRulesFor(rule: Rule): Rule[] {
  if (rule.peers === 'everyone') return []
  const names = rule.peers.filter((peer) => peer.kind === 'name')
  const [first] = names
  if (first === undefined) return []
  const { path, line } = first
  const selector: Selector = [{ operator: 'In', key: 'any:k8s-app', values: ['kube-dns'] }]
  const ports = ['dns', 'dns-tcp'].flatMap((name) => namedPorts(name, Object.values(Protocol)))
  return [{ ...rule, path, line, peers: [{ path, line, kind: 'endpoints', selector }], ports, l7: { kind: 'dns', rules: names } }] // prettier-ignore
}

function checkNamedPorts(
  report: Report,
  field: Field,
  { egressPeers }: Dialect,
  peers: readonly (readonly Peer[] | 'unknown')[],
  ports: readonly (readonly RulePorts[] | 'unknown')[],
): void {
  const isNameless = (peer: Peer): boolean => peer.kind === 'nodes' || peer.kind === 'cidr' || peer.kind === 'name'
  if (!peers.some((list) => list !== 'unknown' && list.some(isNameless))) return
  if (!ports.some((list) => list !== 'unknown' && list.some((port) => port.kind === 'named'))) return
  const nameless = egressPeers.filter((key) => !ingressPeers.includes(key)).join('/')
  report.error(field, `${nameless} peer cannot be set with namedPorts since there are no namedPorts for ${nameless}`)
}

/**
 * The fields of a peer or port, and the one that is set. A field that is not known is an error where it looks like a slip of the pen, else it
 * is of a later version of the API: `unknown`.
 */
function readChoice(report: Report, field: Field, known: readonly string[]): { readonly key: string; readonly entry: Field } | 'unknown' | undefined {
  const fields = readMap(report, field)
  const others = [...fields].filter(([key]) => !known.includes(key))
  for (const [key, entry] of others)
    if (nearest(key, known) !== undefined) report.error(entry, `unknown field "${key}"${didYouMean(key, known)}`)
    else report.warn(entry, `unknown field "${key}": the rule fails closed (what accepts accepts nothing, what denies or passes denies)`)
  if (others.length > 0) return 'unknown'
  const key = onlyKey(report, field, fields, known)
  const entry = key === undefined ? undefined : fields.get(key)
  return key === undefined || entry === undefined ? undefined : { key, entry }
} // prettier-ignore

function parsePeer(context: Context, field: Field, direction: Direction, action: string | undefined): readonly Peer[] | 'unknown' {
  const { report, options, dialect } = context
  const choice = readChoice(report, field, direction === 'ingress' ? ingressPeers : dialect.egressPeers)
  if (choice === undefined || choice === 'unknown') return choice ?? []
  const { key, entry } = choice
  const spot: Spot = { path: field.path, line: field.line }
  switch (key) {
    case 'pods':
      return [{ ...spot, kind: 'endpoints', selector: ofThisCluster(readNamespacedPods(report, entry, dialect.podsRequired, options), options) }]
    case 'nodes':
      return parseNodes(context, entry, spot)
    case 'networks':
      return readListed(report, entry).flatMap((item) => parseNetwork(context, item))
    case 'domainNames':
      if (action !== undefined && action !== dialect.actions[0])
        report.error(entry, `egress.to.domainNames is only supported for egress.action=${dialect.actions[0]}`)
      return readListed(report, entry).flatMap((item) => parseDomainName(report, item))
    default:
      return [{ ...spot, kind: 'endpoints', selector: podsOfNamespaces([], readNamespaceSelector(report, entry), options) }]
  }
} // prettier-ignore

/** The items of a list that is a set. */
function readListed(report: Report, field: Field): readonly Field[] {
  const items = readList(report, field)
  checkCount(report, field, items, 1, listedMax)
  const seen = new Set<unknown>()
  for (const item of items) {
    if (item.kind === 'scalar' && seen.has(item.value)) report.error(item, `Duplicate value: "${String(item.value)}"`)
    if (item.kind === 'scalar') seen.add(item.value)
  }
  return items
}

/** By the specification every node whose labels fit, this one too; in Cilium only others. */
function parseNodes({ report, options }: Context, field: Field, spot: Spot): Peer[] {
  const selector = readNodeSelector(report, field)
  const nodes = { ...spot, kind: 'nodes', selector: ofThisCluster(selector, options) } as const
  return [options.semantics === 'spec' ? { ...nodes, self: true } : nodes]
}

function parseNetwork({ report, options }: Context, field: Field): Peer[] {
  const text = readString(report, field)
  if (text === undefined) return []
  // An IPv4 address within an IPv6 one would be read as IPv4, and its length as IPv6's.
  const range = text.includes('/') && !(text.includes(':') && text.includes('.')) ? prefixFromText(text) : undefined
  if (range === undefined) {
    report.error(field, `Invalid CIDR format provided: "${text}"`)
    return []
  }
  const { path, line } = field
  return [{ path, line, kind: 'cidr', ranges: [range], text: rangeToText(range), reach: options.semantics === 'spec' ? 'everywhere' : 'outside' }] // prettier-ignore
}

/** The API's pattern, without its `*.`: two labels or more, and perhaps a final dot. */
const domainName = /^([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$/
const domainCharactersMax = 255

/** `*.` in front stands for one or more labels here, which Cilium writes `**.`. */
function parseDomainName(report: Report, field: Field): Peer[] {
  const text = readString(report, field)
  if (text === undefined) return []
  const isWild = text.startsWith('*.')
  const bare = isWild ? text.slice(2) : text
  if (text.length > domainCharactersMax || !domainName.test(bare)) {
    report.error(field, `Invalid value: "${text}": should be a domain name of at least two labels, with *. in front at most`) // prettier-ignore
    return []
  }
  const match: NameMatch = isWild
    ? { field: 'matchPattern', text, pattern: readPattern(`**.${bare}`) }
    : { field: 'matchName', text, pattern: readPattern(text) }
  return [{ kind: 'name', path: field.path, line: field.line, ...match }]
}

const protocolOf = { tcp: Protocol.TCP, udp: Protocol.UDP, sctp: Protocol.SCTP } as const

const namedPorts = (name: string, protocols: readonly Protocol[]): RulePorts[] =>
  protocols.map((protocol) => ({ kind: 'named', name, protocol, endPort: undefined }))

/** An item of `protocols`. */
function parseProtocol(report: Report, field: Field): readonly RulePorts[] | 'unknown' {
  const choice = readChoice(report, field, [...Object.keys(protocolOf), 'destinationNamedPort'])
  if (choice === undefined || choice === 'unknown') return choice ?? []
  const { key, entry } = choice
  if (key === 'destinationNamedPort') return parseNamedPort(report, entry)
  const protocol = protocolOf[key as keyof typeof protocolOf]
  const destination = readMap(report, entry, ['destinationPort']).get('destinationPort')
  // No port at all is every port of the protocol.
  if (isAbsent(destination)) return [{ kind: 'ports', protocol, first: 0, last: 65535 }]
  const port = readChoice(report, destination, ['number', 'range'])
  if (port === undefined || port === 'unknown') return port ?? []
  if (port.key === 'range') return parseRange(report, port.entry, protocol, ['start', 'end'])
  const number = readPort(report, port.entry)
  return number === undefined ? [] : [{ kind: 'ports', protocol, first: number, last: number }]
}

/** An item of `ports`, v1alpha1. */
function parsePort(report: Report, field: Field): readonly RulePorts[] | 'unknown' {
  const choice = readChoice(report, field, ['portNumber', 'portRange', 'namedPort'])
  if (choice === undefined || choice === 'unknown') return choice ?? []
  const { key, entry } = choice
  if (key === 'namedPort') return parseNamedPort(report, entry)
  const word = entry.kind === 'map' ? readWord(report, entry.entries.get('protocol'), ['SCTP', 'TCP', 'UDP']) : undefined
  const protocol = Protocol[word ?? 'TCP']
  if (key === 'portRange') return parseRange(report, entry, protocol, ['protocol', 'start', 'end'])
  const port = readMap(report, entry, ['protocol', 'port']).get('port')
  if (isAbsent(port)) report.error(entry, 'port: Required value')
  const number = readPort(report, port)
  return number === undefined ? [] : [{ kind: 'ports', protocol, first: number, last: number }]
} // prettier-ignore

/** A named port is one of the pods that are reached, of whichever protocol they declare it for. */
function parseNamedPort(report: Report, field: Field): RulePorts[] {
  const name = readPortName(report, field)
  return name === undefined ? [] : namedPorts(name, Object.values(Protocol))
}

function parseRange(report: Report, field: Field, protocol: Protocol, keys: readonly string[]): RulePorts[] {
  const fields = readMap(report, field, keys)
  for (const key of ['start', 'end']) if (field.kind === 'map' && isAbsent(fields.get(key))) report.error(field, `${key}: Required value`) // prettier-ignore
  const [first, last] = ['start', 'end'].map((key) => readPort(report, fields.get(key)))
  if (first === undefined || last === undefined) return []
  if (first >= last) report.error(field, 'Start port must be less than End port')
  return [{ kind: 'ports', protocol, first, last }]
}

function readPort(report: Report, field: Field | undefined): number | undefined {
  const port = readInteger(report, field)
  if (field === undefined || port === undefined) return undefined
  if (port < 1) report.error(field, `Invalid value: ${port}: should be greater than or equal to 1`)
  if (port > 65535) report.error(field, `Invalid value: ${port}: should be less than or equal to 65535`)
  return port
}
