// CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy into rules, egress half. Says everything that is wrong, with Cilium's words where
// Cilium has some. What is known but not enforced yet is a warning; such an allow rule then allows nothing, and a deny rule keeps denying.
import {
  keyWithSource,
  mentions,
  namespaceKey,
  namespaceLabelsPrefix,
  type Requirement,
  type Selector,
} from '../identity/selector.ts'
import { checkPattern, readPattern } from '../match/pattern.ts'
import { Protocol, type Ports } from '../net/ports.ts'
import { prefixFromText, rangeToText, subtractRanges, type AddressRange } from '../net/prefix.ts'
import {
  isAbsent,
  nearest,
  readBoolean,
  readInteger,
  readList,
  readMap,
  readString,
  readStringMap,
  type Field,
  type Report,
} from './field.ts'
import { entities, Tier, type Direction, type DnsRule, type Entity, type ParseOptions, type Peer, type Policy, type PolicyKind, type Rule } from './rules.ts' // prettier-ignore

export interface PolicyMeta {
  readonly kind: PolicyKind
  readonly name: string
  /** Undefined for a cluster-wide policy. */
  readonly namespace: string | undefined
  readonly annotations: ReadonlyMap<string, string>
}

const ruleKeys = ['endpointSelector', 'nodeSelector', 'ingress', 'ingressDeny', 'egress', 'egressDeny', 'enableDefaultDeny', 'labels', 'description', 'log'] // prettier-ignore
const peerKeys = [
  'toEndpoints',
  'toCIDR',
  'toCIDRSet',
  'toEntities',
  'toFQDNs',
  'toServices',
  'toGroups',
  'toNodes',
  'toRequires',
]
const egressKeys = [...peerKeys, 'toPorts', 'icmps', 'authentication']
const denyKeys = egressKeys.filter((key) => key !== 'toFQDNs' && key !== 'authentication')
const portRuleKeys = ['ports', 'rules', 'terminatingTLS', 'originatingTLS', 'serverNames', 'listener']
const replyAnnotation = 'namegate.io/dns-deny-reply'

/** The rule of one `spec` (or item of `specs`), or undefined when it has errors; all of them are in the report. */
export function parseCiliumPolicy(report: Report, meta: PolicyMeta, spec: Field, _options: ParseOptions): Policy | undefined {
  const before = report.issues.filter((issue) => issue.severity === 'error').length
  const fields = readMap(report, spec, ruleKeys)
  const subject = parseSubject(report, meta, spec, fields)
  const lists = ['ingress', 'ingressDeny', 'egress', 'egressDeny'].map((key) => readList(report, fields.get(key)))
  const [ingress = [], ingressDeny = [], allow = [], deny = []] = lists
  if (lists.every((list) => list.length === 0)) report.error(spec, 'rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny')
  for (const [key, list] of [['ingress', ingress], ['ingressDeny', ingressDeny]] as const) // prettier-ignore
    if (list[0] !== undefined) report.warn(list[0], `not enforced yet: ${key}; this agent enforces egress`)
  const egress = [...allow.flatMap((rule) => parseEgress(report, meta, rule, 'allow')), ...deny.flatMap((rule) => parseEgress(report, meta, rule, 'deny'))]
  const switches = fields.get('enableDefaultDeny')
  const defaultDeny = isAbsent(switches) ? undefined : readBoolean(report, readMap(report, switches, ['ingress', 'egress']).get('egress'))
  const denyReply = meta.annotations.get(replyAnnotation)
  if (denyReply !== undefined && denyReply !== 'refused' && denyReply !== 'nxdomain')
    report.error(spec, `annotation ${replyAnnotation} must be refused or nxdomain, not "${denyReply}"`)
  if (report.issues.filter((issue) => issue.severity === 'error').length > before || subject === undefined) return undefined
  const directions: Direction[] = [
    ...(ingress.length + ingressDeny.length > 0 ? ['ingress' as const] : []),
    ...(allow.length + deny.length > 0 ? ['egress' as const] : []),
  ]
  return {
    kind: meta.kind,
    name: meta.namespace === undefined ? meta.name : `${meta.namespace}/${meta.name}`,
    namespace: meta.namespace,
    file: spec.file,
    line: spec.line,
    subject: { kind: 'endpoints', selector: subject },
    rules: egress,
    directions,
    defaultDeny: { ingress: directions.includes('ingress'), egress: defaultDeny ?? directions.includes('egress') },
    ...(denyReply === 'refused' || denyReply === 'nxdomain' ? { denyReply } : {}),
  }
} // prettier-ignore

function parseSubject(
  report: Report,
  meta: PolicyMeta,
  spec: Field,
  fields: ReadonlyMap<string, Field>,
): Selector | undefined {
  const [endpoint, node] = [fields.get('endpointSelector'), fields.get('nodeSelector')]
  if (!isAbsent(endpoint) && !isAbsent(node))
    report.error(spec, 'rule cannot have both EndpointSelector and NodeSelector')
  if (!isAbsent(node)) {
    if (meta.namespace !== undefined)
      report.error(node, 'Invalid CiliumNetworkPolicy spec: rule cannot have NodeSelector')
    else report.warn(node, 'not enforced yet: nodeSelector; the policy selects nobody')
    return [{ operator: 'In', key: namespaceKey, values: [] }]
  }
  if (isAbsent(endpoint)) {
    report.error(spec, 'rule must have one of EndpointSelector or NodeSelector')
    return undefined
  }
  const selector = parseSelector(report, endpoint)
  if (meta.namespace === undefined) return selector
  // A policy selects in its own namespace, whatever else its selector says about namespaces.
  if (
    selector.some(
      (r) =>
        r.key === namespaceKey && !(r.operator === 'In' && r.values.length === 1 && r.values[0] === meta.namespace),
    )
  )
    report.warn(endpoint, `a policy selects in its own namespace only: ${meta.namespace}`)
  return [
    ...selector.filter((r) => r.key !== namespaceKey),
    { operator: 'In', key: namespaceKey, values: [meta.namespace] },
  ]
}

function parseSelector(report: Report, field: Field): Selector {
  const fields = readMap(report, field, ['matchLabels', 'matchExpressions'])
  const requirements: Requirement[] = []
  for (const [key, value] of readStringMap(report, fields.get('matchLabels')))
    requirements.push({ operator: 'In', key: keyWithSource(key), values: [value] })
  for (const item of readList(report, fields.get('matchExpressions'))) {
    const expression = readMap(report, item, ['key', 'operator', 'values'])
    const key = readString(report, expression.get('key'))
    const operator = readString(report, expression.get('operator'))
    const values = readList(report, expression.get('values')).flatMap((value) => readString(report, value) ?? [])
    if (key === undefined) report.error(item, 'invalid label selector: key is missing')
    else if (operator === 'In' || operator === 'NotIn') {
      if (values.length === 0) report.error(item, `invalid label selector: values: must not be empty for ${operator}`)
      requirements.push({ operator, key: keyWithSource(key), values })
    } else if (operator === 'Exists' || operator === 'DoesNotExist') {
      if (values.length > 0) report.error(item, `invalid label selector: values: must be empty for ${operator}`)
      requirements.push({ operator, key: keyWithSource(key) })
    } else
      report.error(
        item,
        `invalid label selector: operator must be In, NotIn, Exists or DoesNotExist, not ${operator ?? 'nothing'}`,
      )
  }
  return requirements
}

/** A peer selector means pods of the policy's namespace unless it says otherwise, and of all namespaces in a cluster-wide policy. */
function parsePeerSelector(report: Report, meta: PolicyMeta, field: Field): Selector {
  const selector = parseSelector(report, field)
  if (selector.some((r) => r.key.startsWith('reserved:')) || mentions(selector, namespaceKey)) return selector
  if (meta.namespace === undefined) return [...selector, { operator: 'Exists', key: namespaceKey }]
  const anyPrefix = namespaceLabelsPrefix.replace('k8s:', 'any:')
  if (selector.some((r) => r.key.startsWith(namespaceLabelsPrefix) || r.key.startsWith(anyPrefix))) return selector
  return [...selector, { operator: 'In', key: namespaceKey, values: [meta.namespace] }]
}

/** One egress rule becomes one rule for each of its toPorts items. */
function parseEgress(report: Report, meta: PolicyMeta, field: Field, kind: 'allow' | 'deny'): Rule[] {
  const present = field.kind === 'map' ? field.entries : new Map<string, Field>()
  if (kind === 'deny' && present.has('toFQDNs'))
    report.error(present.get('toFQDNs') ?? field, 'toFQDNs is not allowed in egressDeny')
  const fields = readMap(report, field, kind === 'deny' ? [...denyKeys, 'toFQDNs'] : egressKeys)
  const kinds = peerKeys.filter((key) => readList(report, fields.get(key)).length > 0 && key !== 'toRequires')
  if (kinds.length > 1) {
    const [a = '', b = ''] = kinds.map((key) => `T${key.slice(1)}`)
    report.error(field, `combining ${a} and ${b} is not supported yet`)
  }
  // Restrictions that we know but do not enforce: an allow rule must not open more than it says, a deny rule must not deny less.
  const unenforced = ['toServices', 'toGroups', 'toNodes', 'toRequires', 'icmps', 'authentication'].filter(
    (key) => !isAbsent(fields.get(key)),
  )
  for (const key of unenforced) report.warn(fields.get(key) ?? field, `not enforced yet: ${key}; ${consequence(kind)}`)
  if (unenforced.length > 0 && kind === 'allow') return []

  const listed = peerKeys.some((key) => !isAbsent(fields.get(key)))
  const ported = !isAbsent(fields.get('toPorts'))
  const { path, line } = field
  const statement = { direction: 'egress', kind, tier: Tier.Normal, priority: 0, path, line } as const
  // Whom a deny rule means that names services, groups or nodes is not known here: everyone.
  const blurred = unenforced.some((key) => ['toServices', 'toGroups', 'toNodes'].includes(key))
  const peers = listed && !blurred ? parsePeers(report, meta, fields) : 'everyone'
  if (unenforced.includes('icmps')) return [{ ...statement, peers, ports: [{ kind: 'all' }] }]
  // `- {}` is the idiom for "default deny and nothing else": it allows nothing.
  if (!listed && !ported) return []
  const items = readList(report, fields.get('toPorts'))
  if (items.length === 0) return listed ? [{ ...statement, peers, ports: [{ kind: 'all' }] }] : []
  return items.flatMap((item) => parseToPorts(report, item, kind)).map((item) => ({ ...statement, peers, ...item }))
}

const consequence = (kind: 'allow' | 'deny'): string =>
  kind === 'allow' ? 'the rule allows nothing' : 'the rule denies as if it were not there'

function parsePeers(report: Report, meta: PolicyMeta, fields: ReadonlyMap<string, Field>): Peer[] {
  const list = (key: string): readonly Field[] => readList(report, fields.get(key))
  return [
    ...list('toEndpoints').map((item): Peer => ({
      kind: 'endpoints',
      path: item.path,
      line: item.line,
      selector: parsePeerSelector(report, meta, item),
    })),
    ...list('toCIDR').flatMap((item): Peer[] => {
      const range = parseCidr(report, item)
      return range === undefined
        ? []
        : [
            {
              kind: 'cidr',
              path: item.path,
              line: item.line,
              ranges: [range],
              text: rangeToText(range),
              reach: 'outside',
            },
          ]
    }),
    ...list('toCIDRSet').flatMap((item) => parseCidrSet(report, item)),
    ...list('toEntities').flatMap((item): Peer[] => {
      const entity = readString(report, item)
      if (entity === undefined) return []
      if (!(entities as readonly string[]).includes(entity)) {
        const near = nearest(entity, entities)
        report.error(item, `unsupported entity: ${entity}${near === undefined ? '' : `; did you mean "${near}"?`}`)
        return []
      }
      if (['remote-node', 'kube-apiserver', 'init', 'health', 'unmanaged', 'ingress'].includes(entity))
        report.warn(item, `not enforced yet: entity ${entity} has no members here; it matches nothing`)
      return [{ kind: 'entity', path: item.path, line: item.line, entity: entity as Entity }]
    }),
    ...list('toFQDNs').flatMap((item): Peer[] => parseName(report, item).map((name) => ({ kind: 'name', ...name }))),
  ]
}

function parseCidr(report: Report, field: Field | undefined): AddressRange | undefined {
  const text = readString(report, field)
  if (text === undefined || field === undefined) return undefined
  if (text === '') report.error(field, 'IP must be specified')
  const range = prefixFromText(text)
  if (range === undefined && text !== '')
    report.error(field, `unable to parse CIDR: "${text}" is not an address or a prefix`)
  return range
}

function parseCidrSet(report: Report, field: Field): Peer[] {
  const fields = readMap(report, field, ['cidr', 'except', 'cidrGroupRef', 'cidrGroupSelector'])
  const given = ['cidr', 'cidrGroupRef', 'cidrGroupSelector'].filter((key) => !isAbsent(fields.get(key)))
  if (given.length === 0) report.error(field, 'one of cidr, cidrGroupRef, or cidrGroupSelector is required')
  if (given.length > 1) report.error(field, 'more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set')
  if (given.some((key) => key !== 'cidr')) report.warn(field, 'not enforced yet: CIDR groups; it matches nothing')
  const range = parseCidr(report, fields.get('cidr'))
  const except = readList(report, fields.get('except')).flatMap((item) => {
    const hole = parseCidr(report, item)
    if (hole === undefined || range === undefined) return []
    if (hole.family !== range.family || hole.first < range.first || hole.last > range.last)
      report.error(
        item,
        `allow CIDR prefix ${rangeToText(range)} does not contain exclude CIDR prefix ${rangeToText(hole)}`,
      )
    return [hole]
  })
  if (range === undefined) return []
  return [
    {
      kind: 'cidr',
      path: field.path,
      line: field.line,
      ranges: subtractRanges([range], except),
      text: rangeToText(range),
      reach: 'outside',
    },
  ]
}

/** A matchName or matchPattern; both or none is an error. */
function parseName(report: Report, field: Field): DnsRule[] {
  const fields = readMap(report, field, ['matchName', 'matchPattern'])
  const given = (['matchName', 'matchPattern'] as const).filter((key) => !isAbsent(fields.get(key)))
  if (given.length > 1) report.error(field, 'only one of MatchName or MatchPattern is allowed in an FQDNSelector')
  if (given.length === 0) report.error(field, 'one of matchName or matchPattern is required')
  return given.flatMap((key): DnsRule[] => {
    const entry = fields.get(key)
    const text = readString(report, entry)
    if (text === undefined || entry === undefined) return []
    const complaint = checkPattern(text, key)
    if (complaint !== undefined) report.error(entry, complaint)
    return complaint === undefined
      ? [{ path: field.path, line: field.line, field: key, text, pattern: readPattern(text) }]
      : []
  })
}

/** Ports and names of one toPorts item; [] when it contributes nothing. */
function parseToPorts(report: Report, field: Field, kind: 'allow' | 'deny'): Pick<Rule, 'ports' | 'l7'>[] {
  const fields = readMap(report, field, kind === 'deny' ? ['ports'] : portRuleKeys)
  const items = readList(report, fields.get('ports'))
  if (items.length > 40) report.error(fields.get('ports') ?? field, 'too many ports, the max is 40')
  const ports = items.flatMap((item) => parsePort(report, item))
  const rulesField = fields.get('rules')
  const rules = isAbsent(rulesField) ? new Map<string, Field>() : readMap(report, rulesField, ['http', 'kafka', 'dns', 'l7', 'l7proto'])
  const kinds = ['http', 'kafka', 'dns', 'l7'].filter((key) => readList(report, rules.get(key)).length > 0)
  if (kinds.length > 1) report.error(field, 'multiple L7 protocol rule types specified in single rule')
  const unenforced = [...['http', 'kafka', 'l7'].filter((key) => kinds.includes(key)).map((key) => `rules.${key}`), ...portRuleKeys.slice(2).filter((key) => !isAbsent(fields.get(key)))]
  for (const key of unenforced) report.warn(field, `not enforced yet: ${key}; the rule allows nothing on these ports`)
  const names = readList(report, rules.get('dns'))
  if (names.length > 0 && items.length === 0) report.error(field, 'port 53 must be specified for DNS rules')
  if (names.length > 0 && ports.some((port) => port.kind === 'ports' && port.first !== port.last))
    report.error(field, 'DNS rules do not support port ranges')
  const dns = names.flatMap((item) => parseName(report, item))
  if (ports.length === 0 || unenforced.length > 0) return []
  return [names.length > 0 ? { ports, l7: { kind: 'dns', rules: dns } } : { ports }]
} // prettier-ignore

const protocols: Readonly<Record<string, readonly Protocol[]>> = {
  TCP: [Protocol.TCP],
  UDP: [Protocol.UDP],
  SCTP: [Protocol.SCTP],
  ANY: [Protocol.TCP, Protocol.UDP, Protocol.SCTP],
}

function parsePort(report: Report, field: Field): Ports[] {
  const fields = readMap(report, field, ['port', 'endPort', 'protocol'])
  const word = (readString(report, fields.get('protocol')) ?? 'ANY').toUpperCase()
  const wanted = protocols[word]
  const text = readString(report, fields.get('port'))
  if (text === undefined && isAbsent(fields.get('port'))) report.error(field, 'port must be specified')
  if (wanted === undefined) {
    if (['VRRP', 'IGMP', 'GRE', 'IPIP', 'IPV6', 'ESP', 'AH'].includes(word))
      report.warn(field, `not enforced yet: protocol ${word}; it matches nothing`)
    else report.error(fields.get('protocol') ?? field, `invalid protocol "${word}", must be { tcp | udp | sctp | any }`)
  }
  if (text === undefined) return []
  const digits = text !== '' && [...text].every((c) => c >= '0' && c <= '9')
  if (!digits) {
    const named = text.length <= 15 && [...text].some((c) => (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
    if (named) report.warn(field, `not enforced yet: named port "${text}"; it matches nothing`)
    else report.error(fields.get('port') ?? field, `unable to parse port: "${text}" is neither a number nor a name`)
    return []
  }
  const first = Number(text)
  if (first > 65535) {
    report.error(fields.get('port') ?? field, `unable to parse port: ${text} is over 65535`)
    return []
  }
  const endPort = readInteger(report, fields.get('endPort')) ?? 0
  if (endPort < 0 || endPort > 65535) report.error(fields.get('endPort') ?? field, `endPort must be 0 to 65535, not ${endPort}`)
  const [low, high] = first === 0 ? [0, 65535] : [first, Math.max(first, endPort)]
  return (wanted ?? []).map((protocol) => ({ kind: 'ports', protocol, first: low, last: high }))
} // prettier-ignore
