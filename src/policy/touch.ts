// What a change of the world touches: which policies are about somebody who came, went or is somebody else now. What was compiled of all others
// still holds, and so does what identities got from them.
import type { IdentityId } from '../identity/endpoints.ts'
import type { Labels } from '../identity/labels.ts'
import { clusterKey, selects } from '../identity/selector.ts'
import type { Places } from './places.ts'
import { backendSelector, groupsOf, isMember, servicesOf, slicesOf } from './resolve.ts'
import type { NamedPort, Peer, Policy, Rule, World } from './rules.ts'

/** More changed identities than this are no small change: to ask each rule about each of them would cost more than to compile all anew. */
const identitiesMax = 32

/** Somebody with the labels and ports that they have or had. */
interface Somebody {
  readonly id: IdentityId
  readonly labels: Labels
  readonly ports: readonly NamedPort[]
}

/** What differs between two worlds besides their policies. */
export interface Difference {
  /** Who came, went, or has other labels or named ports than before; those twice, as they were and as they are. */
  readonly somebody: readonly Somebody[]
  /** Whether this host's node has other labels. */
  readonly isOtherHost: boolean
  /** Whether some address has another identity. */
  readonly addressesMoved: boolean
  readonly before: Surroundings
  readonly after: Surroundings
}

type Surroundings = Pick<World, 'services' | 'endpointSlices' | 'cidrGroups'>

/** Undefined when it is not small. */
export function differenceOf(before: World, after: World, from: Places, to: Places): Difference | undefined {
  const somebody = from.universe === to.universe ? [] : changedIdentities(from, to)
  if (somebody === undefined) return undefined
  return { somebody, isOtherHost: from.hostNodeLabels !== to.hostNodeLabels, addressesMoved: from !== to, before, after }
} // prettier-ignore

function changedIdentities(before: Places, after: Places): readonly Somebody[] | undefined {
  const changed: Somebody[] = []
  const add = (id: IdentityId, labels: Labels, { namedPorts }: Places): void =>
    void changed.push({ id, labels, ports: namedPorts.get(id) ?? [] })
  const [old, now] = [before.universe.identities, after.universe.identities]
  for (const [id, { labels }] of now) {
    const was = old.get(id)
    if (was?.labels === labels && samePorts(id, before, after)) continue
    add(id, labels, after)
    if (was !== undefined) add(id, was.labels, before)
    if (changed.length > identitiesMax) return undefined
  }
  for (const [id, { labels }] of old) if (!now.has(id)) add(id, labels, before)
  return changed.length > identitiesMax ? undefined : changed
}

function samePorts(id: IdentityId, before: Places, after: Places): boolean {
  const [a, b] = [before.namedPorts.get(id), after.namedPorts.get(id)]
  return a === b || JSON.stringify(a ?? []) === JSON.stringify(b ?? [])
}

/** How much differs of what rules are about. `addresses`: where somebody is, and nothing else. */
export function extentOf({ somebody, isOtherHost, addressesMoved, before, after }: Difference): 'nothing' | 'addresses' | 'more' {
  if (somebody.length > 0 || isOtherHost || !sameSurroundings(before, after)) return 'more'
  return addressesMoved ? 'addresses' : 'nothing'
} // prettier-ignore

function sameSurroundings(a: Surroundings, b: Surroundings): boolean {
  return sameItems(a.services, b.services) && sameItems(a.endpointSlices, b.endpointSlices) && sameItems(a.cidrGroups, b.cidrGroups) // prettier-ignore
}

/** Tells whether some rule of a policy can be about what differs. @param looksUp whether a policy `usesAddresses`, remembered. */
export function makeTouch(difference: Difference, clusterName: string, looksUp: (policy: Policy) => boolean): (policy: Policy) => boolean {
  const { somebody, isOtherHost, addressesMoved, before, after } = difference
  const extent = extentOf(difference)
  if (extent === 'nothing') return () => false
  if (extent === 'addresses') return looksUp
  const isSame = sameSurroundings(before, after)
  const selectsSomebody = (selector: Parameters<typeof selects>[0]): boolean => somebody.some(({ labels }) => selects(selector, labels)) // prettier-ignore

  function isPeerTouched(peer: Peer): boolean {
    switch (peer.kind) {
      case 'endpoints':
        return selectsSomebody(peer.selector)
      case 'nodes':
        if (peer.self === true && isOtherHost) return true
        return somebody.some(({ labels }) => selects(peer.selector, new Map([...labels, [clusterKey, clusterName]])))
      case 'entity':
        return somebody.some((identity) => isMember(peer.entity, identity, clusterName))
      case 'service':
        return isServiceTouched(peer)
      case 'cidrGroup':
        return !isSame && !sameItems(groupsOf(peer, before.cidrGroups), groupsOf(peer, after.cidrGroups))
      case 'cidr':
      case 'name':
      case 'unresolved':
        return false
    }
  }
  function isServiceTouched(peer: Peer & { readonly kind: 'service' }): boolean {
    const services = servicesOf(peer, after.services)
    if (!isSame && !sameItems(servicesOf(peer, before.services), services)) return true
    return services.some((service) =>
      service.selector === undefined
        ? !isSame && !sameItems(slicesOf(service, before.endpointSlices), slicesOf(service, after.endpointSlices))
        : selectsSomebody(backendSelector(service.selector, service.namespace, clusterName)),
    )
  }
  function isRuleTouched(rule: Rule): boolean {
    const { direction, peers, ports } = rule
    // Named ports of destinations are those of all endpoints there are.
    if (direction === 'egress' && ports.some((port) => port.kind === 'named' && somebody.some((one) => one.ports.some(({ name }) => name === port.name)))) return true // prettier-ignore
    return peers !== 'everyone' && peers.some(isPeerTouched)
  }
  return (policy) => policy.rules.some(isRuleTouched) || (addressesMoved && looksUp(policy))
} // prettier-ignore

/** Whether what a policy is compiled to depends on which endpoint has which address, not on labels alone (`resolvePorts`). */
export function usesAddresses({ rules }: Policy): boolean {
  return rules.some(
    ({ direction, peers, ports }) =>
      direction === 'egress' &&
      peers !== 'everyone' &&
      ports.some(({ kind }) => kind === 'named') &&
      peers.some((peer) => peer.kind === 'service' || (peer.kind === 'cidr' && peer.reach === 'everywhere')),
  )
}

function sameItems(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a === b || (a.length === b.length && a.every((item, i) => item === b[i]))
}
