// CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy into rules. Says everything that is wrong, be it the API server's schema or
// Cilium's agent that refuses it, in Cilium's words where it has some. What is known but not enforced yet is a warning.
import { readDenyReplies } from './denyReply.ts'
import { namespaceKey, type Requirement, type Selector } from '../identity/selector.ts'
import { isSince, notEnforced, type Context, type PolicyMeta, type Section } from './context.ts'
import {
  isAbsent,
  readBoolean,
  readList,
  readMap,
  readPart,
  readString,
  readWord,
  type Field,
  type Report,
  type Strays,
} from './field.ts'
import { parseIcmp } from './icmp.ts'
import { parsePeers, peerKeys } from './peers.ts'
import { Tier, type Direction, type ParseOptions, type Peer, type Policy, type Rule, type Subject } from './rules.ts'
import { hostKey, readPeerSelector, readSelector, readSubjectSelector } from './selectors.ts'
import { parseToPorts, type PortStatement } from './toPorts.ts'

const sections: readonly Section[] = [
  { key: 'ingress', direction: 'ingress', kind: 'allow' },
  { key: 'ingressDeny', direction: 'ingress', kind: 'deny' },
  { key: 'egress', direction: 'egress', kind: 'allow' },
  { key: 'egressDeny', direction: 'egress', kind: 'deny' },
]
const specKeys = [
  'endpointSelector',
  'nodeSelector',
  ...sections.map(({ key }) => key),
  'enableDefaultDeny',
  'labels',
  'description',
  'log',
]
const straysOfSpec: Strays = {
  podSelector: 'a Cilium policy selects with endpointSelector',
  policyTypes: 'a Cilium policy has none: a direction that has rules is denied by default, and "ingress: [{}]" denies all of it',
  priority: 'Cilium policies stand in no order: what denies goes before what allows',
  order: 'Cilium policies stand in no order: what denies goes before what allows',
} // prettier-ignore
const replyAnnotation = 'namegate.io/dns-deny-reply'

/** The policy of one `spec` (or item of `specs`), or undefined when it has errors; all of them are in the report. */
export function parseCiliumPolicy(
  report: Report,
  meta: PolicyMeta,
  spec: Field,
  options: ParseOptions,
): Policy | undefined {
  const before = report.errorCount()
  const fields = readMap(report, spec, specKeys, straysOfSpec)
  const subject = parseSubject(report, meta, spec, fields)
  const lists = sections.map((section) => ({ section, items: readList(report, fields.get(section.key)) }))
  if (lists.every(({ items }) => items.length === 0)) {
    report.error(spec, 'rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny')
    const flag = fields.get('enableDefaultDeny')
    if (flag !== undefined) report.note(flag, 'says nothing without rules; "ingress: [{}]" and "egress: [{}]" deny all of their direction') // prettier-ignore
  }
  const directions = (['ingress', 'egress'] as const).filter((direction) =>
    lists.some(({ section, items }) => section.direction === direction && items.length > 0),
  )
  const defaultDeny = parseDefaultDeny(report, fields.get('enableDefaultDeny'), directions)
  readRemarks(report, fields)
  const matchesInit = subject?.selector.some(({ key }) => key === 'reserved:init') ?? false
  const kind = subject?.kind ?? 'endpoints'
  const rules = lists.flatMap(({ section, items }) => {
    const context: Context = {
      report,
      meta,
      options,
      section,
      subject: kind,
      matchesInit,
      defaultDeny: defaultDeny[section.direction],
    }
    return items.flatMap((item) => parseRule(context, item))
  })
  const denyReply = readDenyReply(report, meta, spec)
  const dns = readDnsOptions(report, meta, spec)
  if (report.errorCount() > before || subject === undefined) return undefined
  return {
    kind: meta.kind,
    name: meta.namespace === undefined ? meta.name : `${meta.namespace}/${meta.name}`,
    namespace: meta.namespace,
    file: spec.file,
    line: spec.line,
    subject,
    rules,
    directions,
    defaultDeny,
    ...(denyReply === undefined ? {} : { denyReply }),
    ...(dns === undefined ? {} : { dns }),
  }
}

function parseSubject(
  report: Report,
  meta: PolicyMeta,
  spec: Field,
  fields: ReadonlyMap<string, Field>,
): Subject | undefined {
  const [endpoint, node] = [fields.get('endpointSelector'), fields.get('nodeSelector')]
  if (!isAbsent(endpoint) && !isAbsent(node))
    report.error(spec, 'rule cannot have both EndpointSelector and NodeSelector')
  if (!isAbsent(node)) {
    if (meta.namespace !== undefined)
      report.error(node, 'Invalid CiliumNetworkPolicy spec: rule cannot have NodeSelector')
    else report.note(node, 'enforced where policies for the host itself are switched on (they are off by default)')
    return { kind: 'node', selector: readSelector(report, node, hostKey) }
  }
  if (!isAbsent(endpoint)) return { kind: 'endpoints', selector: readSubjectSelector(report, endpoint, meta.namespace) }
  report.error(spec, 'rule must have one of EndpointSelector or NodeSelector')
  return undefined
}

/** Unless it is said otherwise, a direction that has rules denies what they do not allow. One without rules is left as it is in any case. */
function parseDefaultDeny(
  report: Report,
  field: Field | undefined,
  directions: readonly Direction[],
): Policy['defaultDeny'] {
  const switches = readPart(report, field, ['ingress', 'egress'])
  const denies = (direction: Direction): boolean => {
    const entry = switches.get(direction)
    const value = readBoolean(report, entry)
    if (value === true && entry !== undefined && !directions.includes(direction))
      report.warn(entry, `has no effect: the policy has no ${direction} rules; "${direction}: [{}]" denies all`)
    return directions.includes(direction) && (value ?? true)
  }
  return { ingress: denies('ingress'), egress: denies('egress') }
}

/** What a policy says about itself, checked and let be. */
function readRemarks(report: Report, fields: ReadonlyMap<string, Field>): void {
  readString(report, fields.get('description'))
  readString(report, readPart(report, fields.get('log'), ['value']).get('value'))
  for (const item of readList(report, fields.get('labels'))) {
    const label = readMap(report, item, ['key', 'value', 'source'])
    if (isAbsent(label.get('key'))) report.error(item, 'key: Required value')
    for (const key of ['key', 'value', 'source']) readString(report, label.get(key))
  }
}

function readDenyReply(report: Report, meta: PolicyMeta, spec: Field): Policy['denyReply'] {
  const text = meta.annotations.get(replyAnnotation)
  const replies = text === undefined ? undefined : readDenyReplies(text)
  if (typeof replies !== 'string') return replies
  report.error(spec, `annotation ${replyAnnotation} ${replies}`)
  return undefined
}

function straysOfRule({ direction, kind }: Section): Strays {
  const prefix = direction === 'ingress' ? 'from' : 'to'
  const peers = `peers are ${prefix}Endpoints, ${prefix}Entities, ${prefix}CIDR, …`
  const inPorts = 'it stands in an item of toPorts'
  return {
    [prefix]: peers,
    podSelector: peers,
    namespaceSelector: `${peers}; a namespace is the label k8s:io.kubernetes.pod.namespace`,
    ipBlock: `${peers}; with exceptions ${prefix}CIDRSet`,
    ports: 'they stand in an item of toPorts',
    rules: inPorts,
    serverNames: inPorts,
    listener: inPorts,
    ...(direction === 'ingress' ? { toFQDNs: 'names are for egress only', toServices: 'services are for egress only' } : {}),
    ...(kind === 'deny' ? { authentication: 'a denial is about peers and ports alone' } : {}),
  }
} // prettier-ignore

/** Undefined when no annotation says any of it. */
function readDnsOptions(report: Report, meta: PolicyMeta, spec: Field): Policy['dns'] {
  const isOn = (annotation: string): boolean => {
    const text = meta.annotations.get(`namegate.io/${annotation}`) ?? 'false'
    if (text !== 'true' && text !== 'false') report.error(spec, `annotation namegate.io/${annotation} must be "true" or "false", not "${text}"`) // prettier-ignore
    return text === 'true'
  }
  const options = { followsAliases: isOn('allow-cname-target'), privateAnswers: isOn('allow-private-answers'), refusesDoh: isOn('refuse-doh') } // prettier-ignore
  return Object.values(options).includes(true) ? options : undefined
}

/** An entry of one of the four lists becomes a rule for each of its toPorts or icmps items, or one about every protocol. */
function parseRule(context: Context, field: Field): Rule[] {
  const { report, section } = context
  const requiresKey = section.direction === 'ingress' ? 'fromRequires' : 'toRequires'
  const peerFields = peerKeys(context)
  const own = section.kind === 'allow' ? ['authentication'] : []
  const known = [...peerFields, requiresKey, 'toPorts', 'icmps', ...own]
  const fields = readMap(report, field, known, straysOfRule(section))
  const [toPorts, icmps] = [readList(report, fields.get('toPorts')), readList(report, fields.get('icmps'))]
  if (toPorts.length > 0 && icmps.length > 0)
    report.error(field, 'the ICMPs block may only be present without ToPorts. Define a separate rule to use ToPorts')
  const names = fields.get('toFQDNs')
  if (section.kind === 'deny' && names !== undefined)
    report.note(
      names,
      'Cilium refuses toFQDNs in egressDeny. Here the names are refused at DNS, and an address that is known by such names only is denied',
    )
  const peers = parsePeers(context, field, fields, toPorts.length + icmps.length > 0)
  const authentication =
    section.kind === 'allow' ? parseAuthentication(context, fields.get('authentication')) : undefined
  const statements: PortStatement[] = [
    ...toPorts.flatMap((item) => parseToPorts(context, item) ?? []),
    ...icmps.map((item) => ({ ports: parseIcmp(report, item) })).filter(({ ports }) => ports.length > 0),
  ]
  // `- {}` is the idiom for "default deny and nothing else": without peers and ports a rule says nothing.
  if (toPorts.length + icmps.length === 0 && peers !== 'everyone') statements.push({ ports: [{ kind: 'all' }] })
  const { direction, kind } = section
  const { path, line, column } = field
  const rule = { direction, kind, tier: Tier.Normal, priority: 0, path, line, column } as const
  const demand = authentication === undefined ? {} : { authentication }
  return [
    ...statements.map((statement): Rule => ({ ...rule, peers, ...demand, ...statement })),
    ...parseRequires(context, fields.get(requiresKey)),
  ]
}

/** What the peers must prove about themselves, kept as it was said. */
function parseAuthentication(context: Context, field: Field | undefined): Rule['authentication'] {
  if (isAbsent(field)) return undefined
  const { report } = context
  const entry = readMap(report, field, ['mode']).get('mode')
  if (isAbsent(entry)) report.error(field, 'mode: Required value')
  const mode = readWord(report, entry, ['disabled', 'required', 'test-always-fail'])
  if (mode !== undefined && mode !== 'disabled') notEnforced(context, field, 'authentication')
  return mode
}

/**
 * fromRequires and toRequires, gone since 1.19: endpoints that rules allow must meet these selectors too. Read as what has taken their
 * place, a deny of the endpoints that do not meet them.
 */
function parseRequires(context: Context, field: Field | undefined): Rule[] {
  const { report, meta, matchesInit, options, section } = context
  const items = readList(report, field)
  const [item] = items
  if (isAbsent(field) || item === undefined) return []
  const rewrite = `write an ${section.direction}Deny rule about the endpoints that do not have these labels (operator NotIn)`
  if (isSince(options, '1.19')) {
    report.error(field, `Too many: ${items.length}: must have at most 0 items; Cilium 1.19 removed it: ${rewrite}`)
    return []
  }
  report.warn(field, `gone since Cilium 1.19, and read here as a deny of the endpoints that do not meet it: ${rewrite}`)
  const peers = items.flatMap((selector) =>
    readPeerSelector(report, selector, { namespace: meta.namespace, matchesInit, options }).map(
      (requirement): Peer => ({
        kind: 'endpoints',
        path: selector.path,
        line: selector.line,
        selector: lacking(requirement),
      }),
    ),
  )
  const { path, line } = field
  return [
    {
      direction: section.direction,
      kind: 'deny',
      tier: Tier.Normal,
      priority: 0,
      path,
      line,
      peers,
      ports: [{ kind: 'all' }],
    },
  ]
}

/** Pods that do not meet a requirement. */
function lacking(requirement: Requirement): Selector {
  const pods: Requirement = { operator: 'Exists', key: namespaceKey }
  const { key } = requirement
  switch (requirement.operator) {
    case 'In':
      return [pods, { operator: 'NotIn', key, values: requirement.values }]
    case 'NotIn':
      return [pods, { operator: 'In', key, values: requirement.values }]
    case 'Exists':
      return [pods, { operator: 'DoesNotExist', key }]
    case 'DoesNotExist':
      return [pods, { operator: 'Exists', key }]
  }
}
