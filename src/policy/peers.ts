// Whom a Cilium rule is about: its from… and to… lists.
import { keyWithSource, type Selector } from '../identity/selector.ts'
import { rangeToText, subtractRanges } from '../net/prefix.ts'
import { readCidr, readExcept, readPrefix } from './cidr.ts'
import type { Context } from './context.ts'
import {
  didYouMean,
  fieldToJson,
  isAbsent,
  readList,
  readMap,
  readString,
  readStringMap,
  type Field,
  type Report,
} from './field.ts'
import { parseNames } from './l7rules.ts'
import { entities, type Entity, type Peer, type Rule } from './rules.ts'
import { isSubdomain, readNodesSelector, readPeerSelector, readSelector } from './selectors.ts'

/** Kinds of peers by the word behind `from` or `to`. `loose`: lists whose emptiness Cilium does not notice. */
interface PeerKind {
  readonly word: string
  readonly loose: boolean
  readonly egressOnly: boolean
  readonly parse: (context: Context, item: Field) => readonly Peer[]
}

const peerKinds: readonly PeerKind[] = [
  { word: 'Endpoints', loose: false, egressOnly: false, parse: parseEndpoints },
  { word: 'Nodes', loose: false, egressOnly: false, parse: parseNodes },
  { word: 'CIDR', loose: false, egressOnly: false, parse: parseCidrItem },
  { word: 'CIDRSet', loose: false, egressOnly: false, parse: parseCidrSet },
  { word: 'Entities', loose: false, egressOnly: false, parse: parseEntity },
  { word: 'Groups', loose: true, egressOnly: false, parse: parseGroup },
  { word: 'Services', loose: true, egressOnly: true, parse: parseService },
  { word: 'FQDNs', loose: true, egressOnly: true, parse: parseFqdn },
]

const prefixOf = ({ section }: Context): 'from' | 'to' => (section.direction === 'ingress' ? 'from' : 'to')
const kindsOf = ({ section }: Context): readonly PeerKind[] =>
  peerKinds.filter((kind) => !kind.egressOnly || section.direction === 'egress')

/** The fields of a rule that name peers. */
export function peerKeys(context: Context): string[] {
  return kindsOf(context).map(({ word }) => prefixOf(context) + word)
}

/**
 * The peers of a rule, `everyone` when it has no list of them. An empty list is nobody; `ported`: the rule has toPorts or icmps, with
 * which Cilium takes a rule whose groups, services or names come to nothing for one about everyone.
 */
export function parsePeers(
  context: Context,
  field: Field,
  fields: ReadonlyMap<string, Field>,
  ported: boolean,
): Rule['peers'] {
  const { report, section, options } = context
  const cilium = options.semantics === 'cilium'
  const lists = kindsOf(context).flatMap((kind) => {
    const list = fields.get(prefixOf(context) + kind.word)
    if (isAbsent(list)) {
      if (list !== undefined)
        report.warn(
          list,
          'is empty (null), which is the same as not there: the rule is about everyone unless it names other peers',
        )
      return []
    }
    const items = readList(report, list)
    return [{ ...kind, count: items.length, peers: items.flatMap((item) => kind.parse(context, item)) }]
  })
  if (lists.length === 0) return 'everyone'
  const [first, second] = lists
    .filter(({ count }) => count > 0)
    .map(({ word }) => (section.direction === 'ingress' ? 'From' : 'To') + word)
  if (first !== undefined && second !== undefined)
    report.error(field, `combining ${first} and ${second} is not supported yet`)

  // Cilium resolves services in egress only: in egressDeny they come to nothing.
  const unresolved = (word: string): boolean => cilium && word === 'Services' && section.kind === 'deny'
  const peers = lists.filter(({ word }) => !unresolved(word)).flatMap((list) => list.peers)
  if (lists.some(({ loose, count }) => !loose && count === 0)) return peers.filter((peer) => peer.kind === 'name')
  return peers.length === 0 && cilium && ported ? 'everyone' : peers
}

const spotOf = ({ path, line }: Field): { readonly path: string; readonly line: number } => ({ path, line })

function parseEndpoints(context: Context, item: Field): Peer[] {
  const { report, meta, matchesInit, options } = context
  const selector = readPeerSelector(report, item, { namespace: meta.namespace, matchesInit, options })
  return [{ ...spotOf(item), kind: 'endpoints', selector }]
}

function parseNodes({ report, options }: Context, item: Field): Peer[] {
  return [{ ...spotOf(item), kind: 'nodes', selector: readNodesSelector(report, item, options) }]
}

function parseCidrItem({ report }: Context, item: Field): Peer[] {
  const range = readCidr(report, item)
  return range === undefined
    ? []
    : [{ ...spotOf(item), kind: 'cidr', ranges: [range], text: rangeToText(range), reach: 'outside' }]
}

const cidrForms = ['cidr', 'cidrGroupRef', 'cidrGroupSelector'] as const

function parseCidrSet(context: Context, item: Field): Peer[] {
  const { report, options } = context
  const fields = readMap(report, item, [...cidrForms, 'except'])
  // An empty string is not set, to the agent.
  const given = cidrForms.flatMap((key) => {
    const field = fields.get(key)
    return isAbsent(field) || (key !== 'cidrGroupSelector' && readString(report, field) === '') ? [] : [{ key, field }]
  })
  if (given.length === 0) report.error(item, 'one of cidr, cidrGroupRef, or cidrGroupSelector is required')
  if (given.length > 1) report.error(item, 'more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set')
  return given.flatMap(({ key, field }): Peer[] => {
    if (key === 'cidr') {
      const range = readPrefix(report, field, (text) => `unable to parse CIDRRule "${text}"`)
      const around = range === undefined ? undefined : { range, text: readString(report, field) ?? '' }
      const holes = readExcept(report, fields.get('except'), around)
      if (range === undefined) return []
      return [
        {
          ...spotOf(item),
          kind: 'cidr',
          ranges: subtractRanges([range], holes),
          text: [rangeToText(range), ...(holes.length > 0 ? ['except', holes.map(rangeToText).join(', ')] : [])].join(
            ' ',
          ),
          reach: 'outside',
        },
      ]
    }
    const group = key === 'cidrGroupRef' ? readGroupName(context, field) : readGroupSelector(context, field)
    const holes = readExcept(report, fields.get('except'))
    const ignored = options.semantics === 'cilium' && holes.length > 0
    if (ignored) report.warn(fields.get('except') ?? item, 'Cilium ignores except beside a group')
    return group === undefined ? [] : [{ ...spotOf(item), kind: 'cidrGroup', group, except: ignored ? [] : holes }]
  })
}

function readGroupName({ report }: Context, field: Field): string | undefined {
  const name = readString(report, field)
  if (name !== undefined && !isSubdomain(name))
    report.error(field, `Invalid value: "${name}": a lowercase RFC 1123 subdomain is the name of a CiliumCIDRGroup`)
  return name
}

/** A cidrGroupSelector; the agent says of what its complaint is. */
function readGroupSelector(context: Context, field: Field): Selector {
  const { report } = context
  const error: Report['error'] = (at, message) => {
    const isAgents = message.startsWith('invalid label selector')
    report.error(at, isAgents ? `failed to sanitize cidrGroupSelector ${fieldToJson(field)}: ${message}` : message)
  }
  return readBareSelector({ ...report, error }, field, 'cidrgroup')
}

/** A selector of objects by their own labels, whose keys have no source; `source` is what Cilium puts in front of them. */
function readBareSelector(report: Report, field: Field, source: string): Selector {
  return readSelector(report, field, (key) => {
    const full = keyWithSource(key)
    return full.startsWith('any:') || full.startsWith(`${source}:`) ? full.slice(full.indexOf(':') + 1) : full
  })
}

/** In Cilium's agent, and not in its CRD: `kubectl apply` refuses them in a Cilium policy. */
const unlisted: readonly string[] = ['world-ipv4', 'world-ipv6']
/** Nothing that is enforced here ever is one of these. */
const memberless: readonly string[] = ['init', 'health', 'unmanaged', 'ingress']

function parseEntity({ report }: Context, item: Field): Peer[] {
  const word = readString(report, item)
  if (word === undefined) return []
  const entity = entities.find((known): known is Entity => known === word)
  if (entity === undefined) {
    report.error(item, `unsupported entity: ${word}${didYouMean(word, entities)}`)
    return []
  }
  if (unlisted.includes(entity))
    report.warn(item, `the API server refuses the entity ${entity}: it is not in the schema of Cilium's policies`)
  if (memberless.includes(entity)) report.warn(item, `the entity ${entity} has no members here: it matches nothing`)
  return [{ ...spotOf(item), kind: 'entity', entity }]
}

function parseGroup(context: Context, item: Field): Peer[] {
  const { report, section, options } = context
  const aws = readMap(report, item, ['aws']).get('aws')
  if (!isAbsent(aws)) {
    const fields = readMap(report, aws, ['labels', 'region', 'securityGroupsIds', 'securityGroupsNames'])
    readStringMap(report, fields.get('labels'))
    readString(report, fields.get('region'))
    for (const key of ['securityGroupsIds', 'securityGroupsNames'])
      for (const id of readList(report, fields.get(key))) readString(report, id)
  }
  const key = `${prefixOf(context)}Groups`
  const denies = section.kind === 'deny' && options.semantics === 'spec'
  const consequence = denies ? 'the rule denies everyone' : 'it matches nothing'
  report.warn(item, `not enforced yet: ${key}; nobody here can ask the provider who is in the group: ${consequence}`)
  return [{ ...spotOf(item), kind: 'unresolved', field: key }]
}

function parseService(context: Context, item: Field): Peer[] {
  const { report } = context
  const fields = readMap(report, item, ['k8sService', 'k8sServiceSelector'])
  const [named, selected] = [fields.get('k8sService'), fields.get('k8sServiceSelector')]
  const peers: Peer[] = []
  const add = (service: string | Selector, namespace: string | undefined): void =>
    void peers.push({ ...spotOf(item), kind: 'service', service, namespace: namespace === '' ? undefined : namespace })
  if (!isAbsent(named)) {
    const service = readMap(report, named, ['serviceName', 'namespace'])
    const name = readString(report, service.get('serviceName')) ?? ''
    const namespace = readString(report, service.get('namespace'))
    if (name === '') report.warn(named, 'names no service: it matches nothing')
    else add(name, namespace)
  }
  if (!isAbsent(selected)) {
    const service = readMap(report, selected, ['selector', 'namespace'])
    const selector = service.get('selector')
    const namespace = readString(report, service.get('namespace'))
    if (isAbsent(selector)) report.error(selected, 'selector: Required value')
    else add(readBareSelector(report, selector, 'k8s'), namespace)
  }
  if (isAbsent(named) && isAbsent(selected)) report.warn(item, 'names no service: it matches nothing')
  return peers
}

function parseFqdn(context: Context, item: Field): Peer[] {
  return parseNames(context, item, 'toFQDNs').map((name) => ({ ...spotOf(item), kind: 'name', ...name }))
}
