// The peers of a rule as identities and address ranges, and its ports as numbers: what entries are made of.
import { apiServerLabel, hostId, hostLabel, remoteNodeLabel } from '../identity/reserved.ts'
import { clusterKey, namespaceKey, selects, type Selector } from '../identity/selector.ts'
import type { Identity, IdentityId } from '../identity/endpoints.ts'
import { addressFromText } from '../net/address.ts'
import { rangeCovers, rangeOf, subtractRanges, type AddressRange } from '../net/prefix.ts'
import type { Ports } from '../net/ports.ts'
import { identityOf, type Places } from './places.ts'
import type {
  CidrGroup,
  EndpointSlice,
  Entity,
  NamedPort,
  Peer,
  Rule,
  RulePorts,
  Semantics,
  Service,
  World,
} from './rules.ts'
import type { Peers } from './snapshot.ts'

/** What peers are looked up in. */
export interface Surroundings {
  readonly places: Places
  readonly world: Pick<World, 'services' | 'endpointSlices' | 'cidrGroups'>
  readonly semantics: Semantics
  readonly clusterName: string
}

const nobody: Exclude<Peers, 'everyone'> = { identities: new Set(), outside: [], everywhere: [] }

/** Whether these peers can be anybody. */
export function isNobody(peers: Peers): boolean {
  return peers !== 'everyone' && peers.identities.size + peers.outside.length + peers.everywhere.length === 0
}

/** The peers of a rule but for its names, which are known by leases only. */
export function resolvePeers(rule: Rule, around: Surroundings): Peers {
  if (rule.peers === 'everyone') return 'everyone'
  const resolved = rule.peers.map((peer) => resolvePeer(peer, rule, around))
  const found = resolved.filter((peers) => peers !== undefined)
  const [only] = found
  if (only === undefined) return resolved.length > 0 && opensToAll(rule, around) ? 'everyone' : nobody
  if (found.length === 1) return only
  const identities = new Set<IdentityId>()
  const outside: AddressRange[] = []
  const everywhere: AddressRange[] = []
  for (const peers of found) {
    if (peers === 'everyone') return peers
    for (const id of peers.identities) identities.add(id)
    // Not spread: a group may have more ranges than a call takes arguments.
    for (const range of peers.outside) outside.push(range)
    for (const range of peers.everywhere) everywhere.push(range)
  }
  return { identities, outside, everywhere }
}

/** Cilium reads services that come to nothing as "no peer was named", where ports are. */
function opensToAll(rule: Rule, { semantics }: Surroundings): boolean {
  return semantics === 'cilium' && rule.ports.every((ports) => ports.kind !== 'all')
}

/** Undefined: services that are not there. */
function resolvePeer(peer: Peer, rule: Rule, around: Surroundings): Peers | undefined {
  switch (peer.kind) {
    case 'cidr':
      return peer.reach === 'outside' ? { ...nobody, outside: peer.ranges } : { ...nobody, everywhere: peer.ranges }
    case 'cidrGroup': {
      const ranges = groupsOf(peer, around.world.cidrGroups).flatMap((group) => group.ranges)
      return { ...nobody, outside: peer.except.length === 0 ? ranges : subtractRanges(ranges, peer.except) }
    }
    case 'endpoints':
      return { ...nobody, identities: around.places.universe.select(peer.selector) }
    case 'nodes':
      return { ...nobody, identities: selectNodes(peer, around) }
    case 'entity':
      return resolveEntity(peer.entity, around)
    case 'service':
      return resolveService(peer, rule, around)
    case 'unresolved':
      // A deny rule about somebody unknown must not deny less than it says.
      return rule.kind === 'deny' && around.semantics === 'spec' ? 'everyone' : nobody
    case 'name':
      return nobody
  }
}

/** The groups that a peer means. */
export function groupsOf({ group }: Peer & { readonly kind: 'cidrGroup' }, groups: readonly CidrGroup[]): readonly CidrGroup[] {
  return groups.filter(({ name, labels }) => (typeof group === 'string' ? name === group : selectsBare(group, labels)))
} // prettier-ignore

/** The services that a peer means. */
export function servicesOf(peer: Peer & { readonly kind: 'service' }, services: readonly Service[]): readonly Service[] {
  return services.filter(
    ({ namespace, name, labels }) =>
      (peer.namespace === undefined || peer.namespace === namespace) &&
      (typeof peer.service === 'string' ? name === peer.service : selectsBare(peer.service, labels)),
  )
} // prettier-ignore

export function slicesOf({ namespace, name }: Service, slices: readonly EndpointSlice[]): readonly EndpointSlice[] {
  return slices.filter((slice) => slice.namespace === namespace && slice.service === name)
}

/** Labels of objects that are no endpoints have no source. */
function selectsBare(selector: Selector, labels: ReadonlyMap<string, string>): boolean {
  return selects(selector.map((requirement) => ({ ...requirement, key: `any:${bareKey(requirement.key)}` })), new Map([...labels].map(([key, value]) => [`k8s:${key}`, value]))) // prettier-ignore
}

const bareKey = (key: string): string => (key.startsWith('any:') || key.startsWith('k8s:') ? key.slice(4) : key)

/** Nodes carry their cluster's name when nodes are asked for, and not when endpoints are: a selector on labels that nodes lack must not mean them. */
function selectNodes(
  { selector, self }: Peer & { readonly kind: 'nodes' },
  { places, clusterName }: Surroundings,
): ReadonlySet<IdentityId> {
  const isSelected = (id: IdentityId): boolean =>
    selects(selector, new Map([...(places.universe.identities.get(id)?.labels ?? []), [clusterKey, clusterName]]))
  const here = self === true && selects(selector, places.hostNodeLabels) ? [hostId] : []
  return new Set([...[...places.nodeIds].filter(isSelected), ...here])
}

const membersOf: Readonly<Record<Exclude<Entity, 'all' | 'none'>, (identity: Identity, clusterName: string) => boolean>> = {
  world: ({ labels }) => labels.has('reserved:world'),
  'world-ipv4': ({ labels }) => labels.has('reserved:world-ipv4'),
  'world-ipv6': ({ labels }) => labels.has('reserved:world-ipv6'),
  host: ({ labels }) => labels.has(hostLabel),
  'remote-node': ({ labels }) => labels.has(remoteNodeLabel),
  'kube-apiserver': ({ labels }) => labels.has(apiServerLabel),
  init: ({ labels }) => labels.has('reserved:init'),
  health: ({ labels }) => labels.has('reserved:health'),
  unmanaged: ({ labels }) => labels.has('reserved:unmanaged'),
  ingress: ({ labels }) => labels.has('reserved:ingress'),
  cluster: ({ labels }, clusterName) => clusterReserved.some((key) => labels.has(key)) || labels.get(clusterKey) === clusterName,
  'cluster-mesh': ({ labels }) => clusterReserved.some((key) => labels.has(key)) || labels.has(clusterKey),
} // prettier-ignore
const clusterReserved = [hostLabel, remoteNodeLabel, apiServerLabel, 'reserved:init', 'reserved:health', 'reserved:unmanaged', 'reserved:ingress'] // prettier-ignore

/** Whether an identity is among those that an entity means; everybody is in `all`. */
export function isMember(entity: Entity, identity: Identity, clusterName: string): boolean {
  return entity === 'all' || (entity !== 'none' && membersOf[entity](identity, clusterName))
}

function resolveEntity(entity: Entity, { places, clusterName }: Surroundings): Peers {
  if (entity === 'all') return 'everyone'
  if (entity === 'none') return nobody
  const identities = places.universe.where(`${entity} of ${clusterName}`, (each) => isMember(entity, each, clusterName))
  return { ...nobody, identities }
}

/** The backends: of a service with a selector the endpoints that it selects, of one without the addresses of its slices. */
function resolveService(
  peer: Peer & { readonly kind: 'service' },
  rule: Rule,
  around: Surroundings,
): Peers | undefined {
  // Cilium translates the services of allow rules only.
  if (around.semantics === 'cilium' && rule.kind === 'deny') return undefined
  const identities = new Set<IdentityId>()
  const ranges: AddressRange[] = []
  let isResolved = false
  for (const service of servicesOf(peer, around.world.services)) {
    const { namespace, selector } = service
    if (selector !== undefined) {
      isResolved = true
      const backends = backendSelector(selector, namespace, around.clusterName)
      for (const id of around.places.universe.select(backends)) identities.add(id)
      continue
    }
    for (const slice of slicesOf(service, around.world.endpointSlices))
      for (const text of slice.addresses) {
        const address = addressFromText(text)
        if (address !== undefined) ranges.push(rangeOf(address))
      }
  }
  if (!isResolved && ranges.length === 0) return undefined
  return around.semantics === 'cilium'
    ? { identities, outside: ranges, everywhere: [] }
    : { identities, outside: [], everywhere: ranges }
}

/** Of the backends of a service with a selector. */
export function backendSelector(labels: ReadonlyMap<string, string>, namespace: string, clusterName: string): Selector {
  const own = [...labels].map(([key, value]) => ({ operator: 'In' as const, key: `k8s:${key}`, values: [value] }))
  return [...own, { operator: 'In', key: namespaceKey, values: [namespace] }, { operator: 'In', key: clusterKey, values: [clusterName] }] // prettier-ignore
}

/** Peers with ports as numbers. On ingress a named port is the subject's, which may declare it for several numbers. */
export function resolvePorts(
  ports: RulePorts,
  peers: Peers,
  rule: Rule,
  subjectPorts: readonly NamedPort[],
  around: Surroundings,
): readonly { readonly peers: Peers; readonly ports: Ports }[] {
  if (ports.kind !== 'named') return [{ peers, ports }]
  const { name, protocol, endPort } = ports
  const named = (list: readonly NamedPort[]): number[] => [
    ...new Set(list.filter((port) => port.name === name && port.protocol === protocol).map((port) => port.port)),
  ]
  if (rule.direction === 'ingress')
    return named(subjectPorts).map((first) => ({
      peers,
      ports: { kind: 'ports', protocol, first, last: Math.max(first, endPort ?? 0) },
    }))
  const byNumber = new Map<number, IdentityId[]>()
  for (const [id, list] of around.places.namedPorts)
    for (const number of named(list)) byNumber.set(number, [...(byNumber.get(number) ?? []), id])
  return [...byNumber].flatMap(([number, ids]) => {
    const having = havingIdentity(peers, new Set(ids), around)
    return isNobody(having)
      ? []
      : [{ peers: having, ports: { kind: 'ports', protocol, first: number, last: number } as const }]
  })
}

/** Those of the peers that have one of these endpoint identities. */
function havingIdentity(peers: Peers, ids: ReadonlySet<IdentityId>, around: Surroundings): Peers {
  const { places } = around
  if (peers === 'everyone') return { ...nobody, identities: ids }
  const identities = new Set([...peers.identities].filter((id) => ids.has(id)))
  if (peers.everywhere.length === 0) return { ...nobody, identities }
  // `touch.ts` knows that addresses are looked at here.
  const inside = [...places.addresses.keys()].filter(
    (address) => ids.has(identityOf(places, address)) && peers.everywhere.some((range) => rangeCovers(range, address)),
  )
  return { identities, outside: [], everywhere: inside.map(rangeOf) }
}
