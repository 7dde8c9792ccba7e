// World -> who is where: endpoints with their identities, nodes, this host, API servers, and whose each address is.
import type { Endpoint, Identity, IdentityId } from '../identity/endpoints.ts'
import { idleMax, labelSetText, type IdentityTable } from '../identity/identities.ts'
import type { Labels } from '../identity/labels.ts'
import { apiServerLabels, hostId, hostIdentity, nodeLabels, remoteNode, reservedNode, unknownId, world as worldOf, worldId } from '../identity/reserved.ts' // prettier-ignore
import { clusterKey, namedPortsKey, podSource, type Selector } from '../identity/selector.ts' // prettier-ignore
import { makeUniverse, type Universe } from '../identity/universe.ts'
import { addressFromText, addressToText, familyOf, type Address } from '../net/address.ts'
import { labelsOfPod } from './podLabels.ts'

import type { Steps } from '../steps.ts'
import type { NamedPort, Node, Pod, Policy, Semantics, World } from './rules.ts'

export interface PlacesOptions {
  readonly semantics: Semantics
  readonly clusterName: string
  /** The node whose addresses are this host's. */
  readonly localNode: string | undefined
  readonly identities: IdentityTable
}

export interface Places {
  readonly endpoints: readonly Endpoint[]
  /** Addresses that two endpoints claim belong to neither. */
  readonly endpointsByAddress: ReadonlyMap<Address, Endpoint>
  readonly addresses: ReadonlyMap<Address, IdentityId>
  readonly inCluster: Pick<ReadonlySet<Address>, 'has'>
  /** Every identity that an address can have, world's too; the same object as long as they and their named ports are the same. */
  readonly universe: Universe
  readonly namedPorts: ReadonlyMap<IdentityId, readonly NamedPort[]>
  readonly nodeIds: ReadonlySet<IdentityId>
  /** Whom nodeSelectors are about: this host, with its node's labels. */
  readonly hostNodeLabels: Labels
  readonly notes: readonly string[]
}

export function identityOf({ addresses }: Pick<Places, 'addresses'>, address: Address): IdentityId {
  return addresses.get(address) ?? worldId[familyOf(address)]
}

/** A pod's labels before named ports tell it from others, and what its manifest says of addresses. */
interface Drawn {
  readonly ofNamespace: ReadonlyMap<string, string> | undefined
  readonly kept: ReadonlySet<string>
  readonly labels: Labels
  readonly text: string
  readonly portsText: string
  readonly addresses: readonly Address[]
  readonly faults: readonly string[]
}

/** Reads worlds one after the other, each with the addresses that this host has then; what did not change is not computed again. */
export function makePlaces(options: PlacesOptions): (world: World, hostAddresses: readonly Address[]) => Steps<Places> {
  const endpointIds = new Map<string, number>()
  let nextEndpointId = 1
  const drawn = new WeakMap<Pod, Drawn>()
  const made = new WeakMap<Pod, Endpoint>()
  const keysOf = makeKeyReader()
  let before: { readonly world: World; readonly hostAddresses: readonly Address[]; readonly kept: ReadonlySet<string>; readonly places: Places } | undefined // prettier-ignore
  let kept: ReadonlySet<string> = new Set()

  function draw(pod: Pod, world: World): Drawn {
    const ofNamespace = world.namespaces.get(pod.namespace)
    let found = drawn.get(pod)
    if (found?.kept !== kept || found.ofNamespace !== ofNamespace)
      drawn.set(pod, (found = drawPod(pod, ofNamespace, kept, options.clusterName)))
    return found
  }

  function endpointFor(pod: Pod, labels: Labels, identity: IdentityId, addresses: readonly Address[]): Endpoint {
    const old = made.get(pod)
    if (old?.identity === identity && old.labels === labels) return old
    const { namespace, name, kind, node } = pod
    const key = kind === 'Pod' ? `${namespace}/${name}` : `${kind} ${namespace}/${name}`
    let id = endpointIds.get(key)
    if (id === undefined) endpointIds.set(key, (id = nextEndpointId++))
    const local = options.localNode === undefined || node === undefined || node === options.localNode
    const endpoint = { id, namespace, name, identity, labels, addresses, local }
    made.set(pod, endpoint)
    return endpoint
  }

  /** Numbers of endpoints that are not there any more are forgotten, once they are many, and given to nobody else: leases say who asked. */
  function releaseEndpointIds(endpoints: readonly Endpoint[]): void {
    if (endpointIds.size <= endpoints.length + idleMax) return
    const held = new Set(endpoints.map(({ id }) => id))
    for (const [key, id] of endpointIds) if (!held.has(id)) endpointIds.delete(key)
  }

  function* compute(world: World, hostAddresses: readonly Address[]): Steps<Places> {
    const notes: string[] = []
    const identities = new Map<IdentityId, Identity>([worldOf[4], worldOf[6]].map((each) => [each.id, each]))
    const namedPorts = new Map<IdentityId, readonly NamedPort[]>()
    const ofNodes = placeNodes(world, hostAddresses, options)
    for (const identity of ofNodes.identities) identities.set(identity.id, identity)

    const draws: Drawn[] = []
    for (const pod of world.pods) {
      draws.push(draw(pod, world))
      yield
    }
    const portsByLabels = new Map<string, Set<string>>()
    for (const [i, { text, portsText }] of draws.entries()) {
      if (world.pods[i]?.hostNetwork === true) continue
      const there = portsByLabels.get(text)
      if (there === undefined) portsByLabels.set(text, new Set([portsText]))
      else there.add(portsText)
    }
    const sets = new Map<string, Identity>()
    const endpointAt = (pod: Pod, i: number): Endpoint => {
      const { labels, text, portsText, addresses, faults } = draws[i] ?? draw(pod, world)
      notes.push(...faults)
      if (pod.hostNetwork) return endpointFor(pod, labels, ofNodes.identityOfNode(pod.node), addresses)
      const isSplit = (portsByLabels.get(text)?.size ?? 0) > 1
      const key = isSplit ? `${text} ${portsText}` : text
      let set = sets.get(key)
      if (set === undefined) {
        const all = isSplit ? sorted(new Map([...labels, [namedPortsKey, portsText]])) : labels
        sets.set(key, (set = identityIn(options.identities, all)))
        identities.set(set.id, set)
        if (pod.ports.length > 0) namedPorts.set(set.id, pod.ports)
      }
      return endpointFor(pod, set.labels, set.id, addresses)
    }
    const endpoints: Endpoint[] = []
    for (const [i, pod] of world.pods.entries()) {
      endpoints.push(endpointAt(pod, i))
      yield
    }
    releaseEndpointIds(endpoints)
    options.identities.release(identities)
    // Pods on their node's network have its addresses, and are not endpoints there.
    const own = endpoints.filter((_, i) => world.pods[i]?.hostNetwork !== true)
    const endpointsByAddress = new Map<Address, Endpoint>()
    const claimed = claimAddresses(own, endpointsByAddress, notes)
    yield
    const addresses = new Map<Address, IdentityId>(ofNodes.addresses)
    for (const [i, { identity, addresses: shared }] of endpoints.entries())
      for (const address of shared)
        if (world.pods[i]?.hostNetwork === true && !addresses.has(address)) addresses.set(address, identity)
    for (const [address, { identity }] of endpointsByAddress) addresses.set(address, identity)
    for (const address of claimed) addresses.set(address, unknownId)
    yield
    const outside = new Set(
      ofNodes.apiServersOutside.filter((address) => addresses.get(address) === ofNodes.addresses.get(address)),
    )
    const old = before?.places
    const isSameUniverse = old !== undefined && sameIdentities(old, identities, namedPorts)
    return {
      endpoints,
      endpointsByAddress,
      addresses,
      inCluster: { has: (address) => addresses.has(address) && !outside.has(address) },
      universe: isSameUniverse ? old.universe : makeUniverse(identities, old?.universe),
      namedPorts: isSameUniverse ? old.namedPorts : namedPorts,
      nodeIds: ofNodes.nodeIds,
      hostNodeLabels: old !== undefined && sameLabels(old.hostNodeLabels, ofNodes.hostNodeLabels) ? old.hostNodeLabels : ofNodes.hostNodeLabels, // prettier-ignore
      notes,
    }
  }

  return function* (world, hostAddresses) {
    const mentioned = options.semantics === 'spec' ? keysOf(world.policies) : new Set<string>()
    if (!sameSet(kept, mentioned)) kept = mentioned
    const isSameHost = before !== undefined && sameItems(before.hostAddresses, hostAddresses)
    if (isSameHost && before?.kept === kept && isSamePlace(before.world, world)) return before.places
    const places = yield* compute(world, hostAddresses)
    before = { world, hostAddresses, kept, places }
    return places
  }
}

/** The identity of a label set. What stands from before is the same set, as the object by which it is seen to be unchanged. */
function identityIn(identities: IdentityTable, labels: Labels): Identity {
  const id = identities.idOf(labels)
  return identities.get(id) ?? { id, labels }
}

const sorted = (labels: Labels): Labels => new Map([...labels].sort(([a], [b]) => (a < b ? -1 : 1)))

function drawPod(
  pod: Pod,
  ofNamespace: ReadonlyMap<string, string> | undefined,
  kept: ReadonlySet<string>,
  clusterName: string,
): Drawn {
  const { namespace, name } = pod
  const labels = sorted(labelsOfPod(pod, ofNamespace, clusterName, (key) => kept.has(key)))
  const addresses = new Map<Address, true>()
  const faults: string[] = []
  for (const text of pod.addresses) {
    const address = addressFromText(text)
    if (address === undefined) faults.push(`pod ${namespace}/${name}: "${text}" is not an address`)
    else addresses.set(address, true)
  }
  const portsText = pod.ports
    .map((port) => `${port.name}=${port.port}/${port.protocol}`)
    .sort()
    .join()
  return { ofNamespace, kept, labels, text: labelSetText(labels), portsText, addresses: [...addresses.keys()], faults } // prettier-ignore
}

/** Whose policy would hold for an address that two endpoints claim is not to be guessed. */
function claimAddresses(
  endpoints: readonly Endpoint[],
  table: Map<Address, Endpoint>,
  notes: string[],
): ReadonlySet<Address> {
  const claimed = new Set<Address>()
  for (const endpoint of endpoints)
    for (const address of endpoint.addresses) {
      const other = table.get(address)
      if (other === undefined) {
        table.set(address, endpoint)
        continue
      }
      claimed.add(address)
      notes.push(`${addressToText(address)} is claimed by ${other.namespace}/${other.name} and ${endpoint.namespace}/${endpoint.name}: it is denied`) // prettier-ignore
    }
  for (const address of claimed) table.delete(address)
  return claimed
}

interface NodePlaces {
  readonly identities: readonly Identity[]
  readonly addresses: ReadonlyMap<Address, IdentityId>
  readonly nodeIds: ReadonlySet<IdentityId>
  readonly apiServersOutside: readonly Address[]
  readonly hostNodeLabels: Labels
  /** Of a node by its name; one that is not known is a node without labels. */
  readonly identityOfNode: (name: string | undefined) => IdentityId
}

function placeNodes(world: World, hostAddresses: readonly Address[], options: PlacesOptions): NodePlaces {
  const apiServers = new Set(
    world.endpointSlices
      .filter(({ namespace, service }) => namespace === 'default' && service === 'kubernetes')
      .flatMap((slice) => slice.addresses.flatMap((text) => addressFromText(text) ?? [])),
  )
  const here = new Set(hostAddresses)
  const addressesOf = (node: Node): Address[] => node.addresses.flatMap((text) => addressFromText(text) ?? [])
  const isLocal = (node: Node): boolean =>
    options.localNode === undefined
      ? addressesOf(node).some((address) => here.has(address))
      : node.name === options.localNode
  const addresses = new Map<Address, IdentityId>()
  const identities = new Map<IdentityId, Identity>()
  const byName = new Map<string, IdentityId>()
  let hostNodeLabels: Labels = nodeSubject(new Map(), options.clusterName)
  for (const node of world.nodes) {
    const own = addressesOf(node)
    if (isLocal(node)) {
      for (const address of own) here.add(address)
      hostNodeLabels = nodeSubject(node.labels, options.clusterName)
      byName.set(node.name, hostId)
      continue
    }
    const labels = nodeLabels(
      node.labels,
      own.some((address) => apiServers.has(address)),
    )
    const identity = reservedNode(labels) ?? identityIn(options.identities, labels)
    const { id } = identity
    identities.set(id, identity)
    byName.set(node.name, id)
    for (const address of own) addresses.set(address, id)
  }
  const isHostName = (name: string | undefined): boolean => name === undefined || name === options.localNode
  if (
    !identities.has(remoteNode.id) &&
    world.pods.some((pod) => pod.hostNetwork && !isHostName(pod.node) && !byName.has(pod.node ?? ''))
  )
    identities.set(remoteNode.id, remoteNode)
  const nodeIds = new Set(identities.keys())
  for (const address of here) addresses.set(address, hostId)
  const host = hostIdentity([...here].some((address) => apiServers.has(address)))
  identities.set(hostId, host)
  const apiServersOutside = [...apiServers].filter((address) => !addresses.has(address))
  if (apiServersOutside.length > 0) {
    const id = options.identities.idOf(apiServerLabels)
    identities.set(id, { id, labels: apiServerLabels })
    for (const address of apiServersOutside) addresses.set(address, id)
  }
  return {
    identities: [...identities.values()],
    addresses,
    nodeIds,
    apiServersOutside,
    hostNodeLabels,
    identityOfNode: (name) => byName.get(name ?? '') ?? (isHostName(name) ? hostId : remoteNode.id),
  }
}

/** This host as a nodeSelector sees it. */
function nodeSubject(labels: ReadonlyMap<string, string>, clusterName: string): Labels {
  return sorted(new Map([...[...labels].map(([key, value]): [string, string] => [`node:${key}`, value]), [clusterKey, clusterName], ['reserved:host', '']])) // prettier-ignore
}

/** The keys that Cilium's filter leaves out of identities and some selector of these policies mentions: Kubernetes' own kinds can. */
function makeKeyReader(): (policies: readonly Policy[]) => ReadonlySet<string> {
  const ofPolicy = new WeakMap<Policy, readonly string[]>()
  return (policies) => {
    const keys = new Set<string>()
    for (const policy of policies) {
      let own = ofPolicy.get(policy)
      if (own === undefined) ofPolicy.set(policy, (own = filteredKeys(policy)))
      for (const key of own) keys.add(key)
    }
    return keys
  }
}

function filteredKeys(policy: Policy): readonly string[] {
  const selectors: Selector[] = [policy.subject.selector]
  for (const { peers } of policy.rules)
    for (const peer of peers === 'everyone' ? [] : peers) if (peer.kind === 'endpoints') selectors.push(peer.selector)
  const keys = selectors.flatMap((selector) => selector.map(({ key }) => key))
  return [...new Set(keys.filter((key) => key.startsWith(`${podSource}:`)))]
}

function sameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((key) => b.has(key))
}

function sameItems<T>(a: readonly T[], b: readonly T[]): boolean {
  return a === b || (a.length === b.length && a.every((item, i) => item === b[i]))
}

function isSamePlace(a: World, b: World): boolean {
  return (
    sameItems(a.pods, b.pods) &&
    sameItems(a.nodes, b.nodes) &&
    sameItems(a.endpointSlices, b.endpointSlices) &&
    (a.namespaces === b.namespaces ||
      (a.namespaces.size === b.namespaces.size &&
        [...a.namespaces].every(([name, labels]) => b.namespaces.get(name) === labels)))
  )
}

function sameLabels(a: Labels, b: Labels): boolean {
  return a === b || (a.size === b.size && [...a].every(([key, value]) => b.get(key) === value))
}

function sameIdentities(
  old: Places,
  identities: ReadonlyMap<IdentityId, Identity>,
  namedPorts: Places['namedPorts'],
): boolean {
  const { universe } = old
  if (universe.identities.size !== identities.size || old.namedPorts.size !== namedPorts.size) return false
  for (const [id, { labels }] of identities) {
    const was = universe.identities.get(id)
    if (was === undefined || !sameLabels(was.labels, labels)) return false
  }
  for (const [id, ports] of namedPorts) {
    const was = old.namedPorts.get(id)
    if (was !== ports && JSON.stringify(was) !== JSON.stringify(ports)) return false
  }
  return true
}
