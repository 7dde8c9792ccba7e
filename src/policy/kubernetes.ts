// networking.k8s.io/v1 NetworkPolicy into rules. Says what the API server would refuse, in its words. `semantics` decides where Cilium does
// otherwise than the API's text says.
import { Protocol } from '../net/ports.ts'
import { prefixFromText, rangeToText, subtractRanges, type AddressRange } from '../net/prefix.ts'
import type { PolicyMeta } from './context.ts'
import { isAbsent, readInteger, readList, readMap, readString, readWord, type Field, type Report, type Strays } from './field.ts' // prettier-ignore
import { ofThisCluster, podsOfNamespace, podsOfNamespaces, readNamespaceSelector, readPodSelector, readPortName } from './podSelectors.ts' // prettier-ignore
import { Tier, type Direction, type ParseOptions, type Peer, type Policy, type Rule, type RulePorts } from './rules.ts'

interface Context {
  readonly report: Report
  readonly namespace: string
  readonly options: ParseOptions
}

const onlyAllows = 'a NetworkPolicy only allows: denials are for CiliumNetworkPolicy and ClusterNetworkPolicy'
const straysOfSpec: Strays = {
  endpointSelector: 'a NetworkPolicy selects with podSelector',
  nodeSelector: 'a NetworkPolicy selects pods of its namespace, with podSelector',
  ingressDeny: onlyAllows,
  egressDeny: onlyAllows,
}
function straysOfRule(peersKey: 'from' | 'to'): Strays {
  const inPeer = `it stands in an item of ${peersKey}`
  const ofCilium = [`${peersKey}Endpoints`, `${peersKey}CIDR`, `${peersKey}CIDRSet`, `${peersKey}Entities`]
  return {
    podSelector: inPeer,
    namespaceSelector: inPeer,
    ipBlock: inPeer,
    toPorts: 'ports are "ports: [{port: 80}]" here',
    toFQDNs: 'a NetworkPolicy knows no names: those are for CiliumNetworkPolicy and ClusterNetworkPolicy',
    ...Object.fromEntries(ofCilium.map((key) => [key, `peers are podSelector, namespaceSelector or ipBlock in an item of ${peersKey}`])),
  }
} // prettier-ignore
const straysOfPeer: Strays = {
  matchLabels: 'it stands below podSelector or namespaceSelector',
  matchExpressions: 'it stands below podSelector or namespaceSelector',
  cidr: 'it stands below ipBlock',
}

const directionOf = { Ingress: 'ingress', Egress: 'egress' } as const
const typeOf = { ingress: 'Ingress', egress: 'Egress' } as const

/** The policy of one `spec`, or undefined when it has errors; all of them are in the report. */
export function parseNetworkPolicy(report: Report, meta: PolicyMeta, spec: Field, options: ParseOptions): Policy | undefined {
  const before = report.errorCount()
  const namespace = meta.namespace ?? 'default'
  const context: Context = { report, namespace, options }
  const fields = readMap(report, spec, ['podSelector', 'policyTypes', 'ingress', 'egress'], straysOfSpec)
  const subject = fields.get('podSelector')
  if (spec.kind === 'map' && isAbsent(subject)) report.warn(spec, `podSelector is not there: the policy selects every pod of namespace ${namespace}`)
  const selector = podsOfNamespace(readPodSelector(report, subject), namespace)
  const rules = (['ingress', 'egress'] as const).flatMap((direction) =>
    readList(report, fields.get(direction)).map((item) => parseRule(context, item, direction)),
  )
  const directions = directionsOf(context, fields, rules)
  if (report.errorCount() > before) return undefined
  return {
    kind: meta.kind,
    name: `${namespace}/${meta.name}`,
    namespace,
    file: spec.file,
    line: spec.line,
    subject: { kind: 'endpoints', selector },
    rules: rules.filter((rule) => directions.includes(rule.direction)),
    directions,
    defaultDeny: { ingress: directions.includes('ingress'), egress: directions.includes('egress') },
  }
} // prettier-ignore

/**
 * policyTypes decides; absent it is Ingress, and Egress where there is an egress section. For Cilium, rules count whatever policyTypes says, and
 * an empty egress section is none, as for the API server, which completes what it stores.
 */
function directionsOf({ report, options }: Context, fields: ReadonlyMap<string, Field>, rules: readonly Rule[]): Direction[] {
  const types = readPolicyTypes(report, fields.get('policyTypes'))
  const has = (direction: Direction): boolean => rules.some((rule) => rule.direction === direction)
  const egress = fields.get('egress')
  if (types.length === 0) {
    if (!isAbsent(egress) && !has('egress'))
      report.warn(egress, 'empty, without policyTypes: the text of the API isolates egress here, the API server does not; say policyTypes')
    const isolatesEgress = options.semantics === 'spec' ? !isAbsent(egress) : has('egress')
    return isolatesEgress ? ['ingress', 'egress'] : ['ingress']
  }
  return (['ingress', 'egress'] as const).filter((direction) => {
    if (types.includes(direction)) return true
    const field = fields.get(direction)
    if (field === undefined || !has(direction)) return false
    if (options.semantics === 'spec') report.warn(field, `has no effect: policyTypes does not name ${typeOf[direction]}`)
    return options.semantics === 'cilium'
  })
} // prettier-ignore

function readPolicyTypes(report: Report, field: Field | undefined): Direction[] {
  const items = readList(report, field)
  if (items.length > 2 && field !== undefined) report.error(field, 'Invalid value: may not specify more than two policyTypes') // prettier-ignore
  return items.flatMap((item) => {
    const word = readWord(report, item, ['Egress', 'Ingress'])
    return word === undefined ? [] : [directionOf[word]]
  })
}

function parseRule(context: Context, field: Field, direction: Direction): Rule {
  const { report } = context
  const peersKey = direction === 'ingress' ? 'from' : 'to'
  const fields = readMap(report, field, [peersKey, 'ports'], straysOfRule(peersKey))
  const peers = readList(report, fields.get(peersKey))
  const ports = readList(report, fields.get('ports'))
  return {
    path: field.path,
    line: field.line,
    direction,
    kind: 'allow',
    tier: Tier.Normal,
    priority: 0,
    peers: peers.length === 0 ? 'everyone' : peers.flatMap((item) => parsePeer(context, item)),
    ports: ports.length === 0 ? [{ kind: 'all' }] : ports.flatMap((item) => parsePort(report, item)),
  }
}

function parsePeer(context: Context, field: Field): Peer[] {
  const { report, namespace, options } = context
  const fields = readMap(report, field, ['podSelector', 'namespaceSelector', 'ipBlock'], straysOfPeer)
  const spot = { path: field.path, line: field.line }
  const [pods, namespaces, block] = ['podSelector', 'namespaceSelector', 'ipBlock'].map((key) => fields.get(key))
  if (isAbsent(pods) && isAbsent(namespaces) && isAbsent(block)) {
    if (field.kind === 'map') report.error(field, 'Required value: must specify a peer')
    return []
  }
  if (!isAbsent(block)) {
    if (!isAbsent(pods) || !isAbsent(namespaces)) report.error(field, 'Forbidden: may not specify both ipBlock and another peer') // prettier-ignore
    return parseBlock(context, block, spot)
  }
  const podSelector = readPodSelector(report, pods)
  const selector = isAbsent(namespaces)
    ? podsOfNamespace(podSelector, namespace)
    : podsOfNamespaces(podSelector, readNamespaceSelector(report, namespaces), options)
  return [{ ...spot, kind: 'endpoints', selector: ofThisCluster(selector, options) }]
}

function parseBlock({ report, options }: Context, field: Field, spot: { readonly path: string; readonly line: number }): Peer[] {
  const fields = readMap(report, field, ['cidr', 'except'])
  const cidr = fields.get('cidr')
  if (isAbsent(cidr) || (cidr.kind === 'scalar' && cidr.value === '')) report.error(cidr ?? field, 'cidr: Required value')
  const range = readBlockCidr(report, cidr)
  const holes = readList(report, fields.get('except')).flatMap((item) => {
    const hole = readBlockCidr(report, item)
    if (hole === undefined || range === undefined) return []
    const isInside = hole.family === range.family && hole.first >= range.first && hole.last <= range.last
    if (!isInside || (hole.first === range.first && hole.last === range.last))
      report.error(item, `Invalid value: "${rangeToText(hole)}": must be a strict subset of \`cidr\``)
    return [hole]
  })
  if (range === undefined) return []
  const text = [rangeToText(range), ...(holes.length > 0 ? ['except', holes.map(rangeToText).join(', ')] : [])].join(' ')
  return [{ ...spot, kind: 'cidr', ranges: subtractRanges([range], holes), text, reach: options.semantics === 'spec' ? 'everywhere' : 'outside' }]
} // prettier-ignore

/** A prefix with its length; undefined when absent or wrong. */
function readBlockCidr(report: Report, field: Field | undefined): AddressRange | undefined {
  const text = readString(report, field)
  if (field === undefined || text === undefined || text === '') return undefined
  const range = text.includes('/') ? prefixFromText(text) : undefined
  if (range === undefined) report.error(field, `Invalid value: "${text}": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`) // prettier-ignore
  return range
}

function parsePort(report: Report, field: Field): RulePorts[] {
  const fields = readMap(report, field, ['protocol', 'port', 'endPort'])
  const word = isAbsent(fields.get('protocol')) ? 'TCP' : readWord(report, fields.get('protocol'), ['SCTP', 'TCP', 'UDP'])
  const [portField, endField] = [fields.get('port'), fields.get('endPort')]
  const endPort = readInteger(report, endField)
  const refuseEnd = (why: string): void => {
    if (endField !== undefined && endPort !== undefined) report.error(endField, `Invalid value: ${endPort}: ${why}`)
  }
  if (isAbsent(portField)) {
    refuseEnd('may not be specified when `port` is not specified')
    return word === undefined ? [] : [{ kind: 'ports', protocol: Protocol[word], first: 0, last: 65535 }]
  }
  if (portField.kind === 'scalar' && typeof portField.value === 'string') {
    refuseEnd('may not be specified when `port` is non-numeric')
    const name = readPortName(report, portField)
    return word === undefined || name === undefined ? [] : [{ kind: 'named', name, protocol: Protocol[word], endPort: undefined }]
  }
  const port = readInteger(report, portField)
  if (port === undefined) return []
  if (port < 1 || port > 65535) report.error(portField, `Invalid value: ${port}: must be between 1 and 65535, inclusive`)
  if (endPort !== undefined && endPort < port) refuseEnd('must be greater than or equal to `port`')
  else if (endPort !== undefined && (endPort < 1 || endPort > 65535)) refuseEnd('must be between 1 and 65535, inclusive')
  return word === undefined ? [] : [{ kind: 'ports', protocol: Protocol[word], first: port, last: endPort ?? port }]
} // prettier-ignore
