// World -> snapshot: labels become identities, policies become what each identity may ask and reach. Identities that the same policies
// select share one compiled policy. Compiled anew as a whole; only numbers live on from one snapshot to the next.
import type { Endpoint, Identity, IdentityId } from '../identity/endpoints.ts'
import { makeIdentities, type IdentityTable } from '../identity/identities.ts'
import type { Labels } from '../identity/labels.ts'
import { namespaceKey, namespaceLabelsPrefix, selects, serviceAccountKey } from '../identity/selector.ts'
import { makeTrie } from '../match/trie.ts'
import { addressFromText, addressToText, type Address } from '../net/address.ts'
import { portsCover, Protocol, type Ports } from '../net/ports.ts'
import { everyAddress, joinRanges, rangeCovers, rangeOf, subtractRanges, type AddressRange } from '../net/prefix.ts'
import type { EgressPolicy, Grant, NameVerdict, PeerEntry, Snapshot, Why } from './egress.ts'
import type { EgressRule, Peer, Pod, Policy, World } from './rules.ts'

export interface CompileOptions {
  /** Addresses of this host: entity `host`, in-cluster. */
  readonly hostAddresses: readonly Address[]
  /** The resolvers behind the proxy: a rule that allows port 53 to one of them allows every name. */
  readonly upstreams: readonly Address[]
  readonly denyReply: 'refused' | 'nxdomain'
  /** Numbers for label sets; a fresh table when absent. */
  readonly identities?: IdentityTable
}

/** Compiles worlds one after the other; identity and endpoint numbers stay with their labels and pods. */
export function makeCompiler(options: CompileOptions): (world: World) => Snapshot {
  const identities = options.identities ?? makeIdentities()
  const endpointIds = new Map<string, number>()
  let revision = 0

  return (world) => {
    const notes: string[] = []
    const endpoints = world.pods
      .filter((pod) => pod.addresses.length > 0)
      .map((pod) => endpointOf(pod, world, identities.idOf, endpointIds, notes))
    const byAddress = addressTable(endpoints, notes)
    const places = placesOf(endpoints, options.hostAddresses)
    const compiled = new Map<string, Omit<EgressPolicy, 'identity'>>()
    const policies = new Map<IdentityId, EgressPolicy>()
    const used = new Map<IdentityId, Identity>()
    for (const { identity, labels } of endpoints) {
      if (policies.has(identity)) continue
      used.set(identity, { id: identity, labels })
      const selecting = world.policies.filter((policy) => selects(policy.subject, labels))
      const key = selecting.map((policy) => world.policies.indexOf(policy)).join()
      let shared = compiled.get(key)
      if (shared === undefined) compiled.set(key, (shared = compilePolicies(selecting, places, options)))
      policies.set(identity, { identity, ...shared })
    }
    const unknown: EgressPolicy = { identity: 0, ...compilePolicies([], places, options), defaultDeny: true, mayAsk: () => deny('no endpoint has this identity') } // prettier-ignore
    return {
      revision: ++revision,
      endpoints,
      endpointOf: (address) => byAddress.get(address),
      identities: used,
      policyOf: (identity) => policies.get(identity) ?? unknown,
      isInCluster: (address) => byAddress.has(address) || options.hostAddresses.includes(address),
      notes,
    }
  }
}

const deny = (text: string): NameVerdict => ({ kind: 'deny', why: { text } })

function endpointOf(pod: Pod, world: World, idOf: (labels: Labels) => IdentityId, ids: Map<string, number>, notes: string[]): Endpoint {
  const { namespace, name } = pod
  const labels = new Map<string, string>([...pod.labels].map(([key, value]) => [`k8s:${key}`, value]))
  labels.set(namespaceKey, namespace)
  const ofNamespace = new Map([['kubernetes.io/metadata.name', namespace], ...(world.namespaces.get(namespace) ?? [])])
  for (const [key, value] of ofNamespace) labels.set(namespaceLabelsPrefix + key, value)
  if (pod.serviceAccount !== undefined) labels.set(serviceAccountKey, pod.serviceAccount)
  const key = `${namespace}/${name}`
  if (!ids.has(key)) ids.set(key, ids.size + 1)
  const addresses = pod.addresses.flatMap((text) => {
    const address = addressFromText(text)
    if (address === undefined) notes.push(`pod ${key}: "${text}" is not an address`)
    return address === undefined ? [] : [address]
  })
  const sorted = new Map([...labels].sort(([a], [b]) => (a < b ? -1 : 1)))
  return { id: ids.get(key) ?? 0, namespace, name, identity: idOf(sorted), labels: sorted, addresses }
} // prettier-ignore

/** Addresses that two endpoints claim belong to neither: whose policy would hold is not to be guessed. */
function addressTable(endpoints: readonly Endpoint[], notes: string[]): ReadonlyMap<Address, Endpoint> {
  const table = new Map<Address, Endpoint>()
  const claimedTwice = new Set<Address>()
  for (const endpoint of endpoints)
    for (const address of endpoint.addresses) {
      const other = table.get(address)
      if (other !== undefined && other !== endpoint) {
        claimedTwice.add(address)
        notes.push(`${addressToText(address)} is claimed by ${other.namespace}/${other.name} and ${endpoint.namespace}/${endpoint.name}: it is denied`)
      } else table.set(address, endpoint)
    }
  for (const address of claimedTwice) table.delete(address)
  return table
} // prettier-ignore

/** Who is where: what peers select from. */
interface Places {
  readonly endpoints: readonly Endpoint[]
  readonly host: readonly AddressRange[]
  readonly inCluster: readonly AddressRange[]
  readonly world: readonly AddressRange[]
}

function placesOf(endpoints: readonly Endpoint[], hostAddresses: readonly Address[]): Places {
  const host = joinRanges(hostAddresses.map(rangeOf))
  const inCluster = joinRanges([...host, ...endpoints.flatMap((endpoint) => endpoint.addresses.map(rangeOf))])
  return { endpoints, host, inCluster, world: subtractRanges(Object.values(everyAddress), inCluster) }
}

function rangesOf(peers: EgressRule['peers'], places: Places): AddressRange[] {
  if (peers === 'everyone') return Object.values(everyAddress)
  return joinRanges(peers.flatMap((peer) => peerRanges(peer, places)))
}

function peerRanges(peer: Peer, places: Places): readonly AddressRange[] {
  switch (peer.kind) {
    case 'cidr':
      // CIDRs never select what has an identity of its own: labels decide about that.
      return subtractRanges(peer.ranges, places.inCluster)
    case 'endpoints':
      return [
        ...places.endpoints.filter((e) => selects(peer.selector, e.labels)).flatMap((e) => e.addresses.map(rangeOf)),
        ...(selects(peer.selector, new Map([['reserved:host', '']])) ? places.host : []),
        ...(selects(peer.selector, new Map([['reserved:world', '']])) ? places.world : []),
      ]
    case 'entity':
      switch (peer.entity) {
        case 'all':
          return Object.values(everyAddress)
        case 'world':
          return places.world
        case 'world-ipv4':
          return places.world.filter((range) => range.family === 4)
        case 'world-ipv6':
          return places.world.filter((range) => range.family === 6)
        case 'cluster':
          return places.inCluster
        case 'host':
          return places.host
        default:
          return []
      }
    case 'name':
      return []
  }
}

function whyOf(
  policy: Policy,
  rule: { readonly path: string; readonly line: number },
  text: string,
  path = rule.path,
): Why {
  return { text, policy: policy.name, rule: path, source: `${policy.file}:${rule.line}` }
}

function compilePolicies(selecting: readonly Policy[], places: Places, options: CompileOptions): Omit<EgressPolicy, 'identity'> {
  const selectedBy = selecting.map((policy) => policy.name)
  const defaultDeny = selecting.some((policy) => policy.defaultDeny)
  const entries: PeerEntry[] = []
  const grants: { pattern: Peer & { kind: 'name' }; value: readonly Grant[] }[] = []
  for (const policy of selecting)
    for (const rule of policy.egress) {
      const ranges = rangesOf(rule.peers, places)
      for (const ports of rule.dns === undefined && ranges.length > 0 ? rule.ports : [])
        entries.push({ kind: rule.kind, ranges, ports, why: whyOf(policy, rule, rule.kind === 'allow' ? 'allowed by rule' : 'denied by rule') })
      if (rule.peers === 'everyone') continue
      for (const peer of rule.peers)
        if (peer.kind === 'name' && rule.dns === undefined) {
          const why = whyOf(policy, rule, `toFQDNs ${peer.field} "${peer.text}"`, peer.path)
          grants.push({ pattern: peer, value: rule.ports.map((ports) => ({ ports, why })) })
        }
    }
  const trie = makeTrie(grants.map(({ pattern: { pattern }, value }) => ({ pattern, value })))
  return {
    defaultDeny,
    selectedBy,
    denyReply: selecting.some((policy) => policy.denyReply === 'nxdomain')
      ? 'nxdomain'
      : (selecting.find((policy) => policy.denyReply !== undefined)?.denyReply ?? options.denyReply),
    mayAsk: compileNames(selecting, entries, trie.lookup, options, defaultDeny, selectedBy),
    grantsFor: (labels) => trie.lookup(labels).flat(),
    grantsText: JSON.stringify(grants.map(({ pattern: { field, text }, value }) => [field, text, value.map((grant) => grant.ports)])),
    grantPorts: distinctPorts(grants.flatMap(({ value }) => value.map((grant) => grant.ports))),
    entries,
  }
} // prettier-ignore

function distinctPorts(ports: readonly Ports[]): readonly Ports[] {
  return [...new Map(ports.map((one) => [JSON.stringify(one), one])).values()]
}

const isDns = (ports: Ports): boolean => portsCover(ports, Protocol.UDP, 53) || portsCover(ports, Protocol.TCP, 53)
const isExactlyDns = (ports: Ports): boolean => ports.kind === 'ports' && ports.first === 53 && ports.last === 53

/**
 * May a name be asked? Yes if a toFQDNs rule names it, a DNS rule on port 53 does, or a rule without names allows port 53 to the resolver
 * (as in Cilium, next to DNS rules only one on exactly that port counts). A deny rule on the resolver's port 53 ends it all.
 */
function compileNames(
  selecting: readonly Policy[],
  entries: readonly PeerEntry[],
  granted: (labels: readonly string[]) => readonly (readonly Grant[])[],
  options: CompileOptions,
  defaultDeny: boolean,
  selectedBy: readonly string[],
): EgressPolicy['mayAsk'] {
  const reachesResolver = (entry: PeerEntry): boolean =>
    isDns(entry.ports) &&
    options.upstreams.some((upstream) => entry.ranges.some((range) => rangeCovers(range, upstream)))
  const denied = entries.find((entry) => entry.kind === 'deny' && reachesResolver(entry))
  if (denied !== undefined)
    return () => ({ kind: 'deny', why: { ...denied.why, text: 'DNS to the resolver is denied by rule' } })
  if (!defaultDeny) return () => ({ kind: 'allow', why: { text: 'no policy denies egress by default' } })

  const names = selecting.flatMap((policy) =>
    policy.egress.flatMap((rule) =>
      rule.dns === undefined || !rule.ports.some(isDns)
        ? []
        : rule.dns.map((dns) => ({
            pattern: dns.pattern,
            value: whyOf(policy, rule, `DNS rule ${dns.field} "${dns.text}"`, dns.path),
          })),
    ),
  )
  // In a DNS rule `*` is every name, odd octets and all; in toFQDNs it is not.
  const every = names.find(({ pattern }) => pattern.kind === 'any')?.value
  const plain = entries.find(
    (entry) => entry.kind === 'allow' && reachesResolver(entry) && (names.length === 0 || isExactlyDns(entry.ports)),
  )
  const everyName =
    every ??
    (plain === undefined ? undefined : { ...plain.why, text: 'port 53 of the resolver is allowed, for any name' })
  const trie = makeTrie(names)
  const refusal: NameVerdict = deny(`no DNS or toFQDNs rule matches; selected by ${selectedBy.join(', ')}`)
  return (labels) => {
    const why = everyName ?? granted(labels)[0]?.[0]?.why ?? trie.lookup(labels)[0]
    return why === undefined ? refusal : { kind: 'allow', why }
  }
}
