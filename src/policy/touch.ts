// What a change of identities touches: a pod with labels that nobody had, a node that left. Everything else that was compiled still holds.
import type { Identity, IdentityId } from '../identity/endpoints.ts'
import { clusterKey, selects, type Selector } from '../identity/selector.ts'
import type { Places } from './places.ts'
import { isMember } from './resolve.ts'
import type { Peer, Policy, Rule } from './rules.ts'

/** More changed identities than this are no small change. */
const identitiesMax = 32

/** Identities that came, went, or stand for other labels or named ports than before; undefined when they are many. */
export function changedIdentities(before: Places, after: Places): readonly Identity[] | undefined {
  const changed: Identity[] = []
  const [old, now] = [before.universe.identities, after.universe.identities]
  for (const [id, identity] of now) {
    const was = old.get(id)
    if (was?.labels === identity.labels && samePorts(id, before, after)) continue
    changed.push(identity)
    if (was !== undefined && was.labels !== identity.labels) changed.push(was)
    if (changed.length > identitiesMax) return undefined
  }
  for (const [id, identity] of old) if (!now.has(id)) changed.push(identity)
  return changed.length > identitiesMax ? undefined : changed
}

function samePorts(id: IdentityId, before: Places, after: Places): boolean {
  const [a, b] = [before.namedPorts.get(id), after.namedPorts.get(id)]
  return a === b || JSON.stringify(a ?? []) === JSON.stringify(b ?? [])
}

/** Whether some rule of a policy can be about one of the identities. */
export function isTouched(policy: Policy, identities: readonly Identity[], clusterName: string): boolean {
  return policy.rules.some((rule) => isRuleTouched(rule, identities, clusterName))
}

function isRuleTouched({ direction, peers, ports }: Rule, identities: readonly Identity[], clusterName: string): boolean {
  // Named ports of destinations are those of all endpoints there are.
  if (direction === 'egress' && ports.some(({ kind }) => kind === 'named')) return true
  return peers !== 'everyone' && peers.some((peer) => isPeerTouched(peer, identities, clusterName))
} // prettier-ignore

function isPeerTouched(peer: Peer, identities: readonly Identity[], clusterName: string): boolean {
  const some = (selector: Selector): boolean => identities.some(({ labels }) => selects(selector, labels))
  switch (peer.kind) {
    case 'endpoints':
      return some(peer.selector)
    case 'nodes':
      return identities.some(({ labels }) => selects(peer.selector, new Map([...labels, [clusterKey, clusterName]])))
    case 'entity':
      return identities.some((identity) => isMember(peer.entity, identity, clusterName))
    case 'service':
      return true
    case 'cidr':
    case 'cidrGroup':
    case 'name':
    case 'unresolved':
      return false
  }
}
