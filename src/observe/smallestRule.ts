// The smallest rule that would allow a flow: one policy about the very labels of the subject, the one peer and the one port. Pure.
import { stringify } from 'yaml'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Labels } from '../identity/labels.ts'
import { hostId, hostLabel, remoteNodeLabel } from '../identity/reserved.ts'
import { namespaceKey } from '../identity/selector.ts'
import { checkPattern } from '../match/pattern.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { icmpProtocol, protocolName, Protocol, type L4 } from '../net/ports.ts'
import { firstIdentity } from '../identity/identities.ts'
import type { Direction } from '../policy/rules.ts'
import type { Snapshot } from '../policy/snapshot.ts'

/** Whom the rule is to be about. A name stands for the addresses that it leads to. */
export type RulePeer =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'address'; readonly address: Address }
  | { readonly kind: 'identity'; readonly identity: IdentityId }

/**
 * A CiliumNetworkPolicy that allows it, as YAML; undefined where no policy can say it (a subject or peer without labels of its own, a name that
 * patterns cannot spell). It denies nothing by default, so whoever else has the subject's labels loses nothing by it.
 */
export function smallestRule(
  snapshot: Snapshot,
  direction: Direction,
  subject: IdentityId,
  peer: RulePeer,
  l4: L4,
): string | undefined {
  const labels = snapshot.identities.get(subject)?.labels
  const namespace = labels?.get(namespaceKey)
  const at = peerOf(snapshot, direction, peer)
  if (labels === undefined || namespace === undefined || at === undefined) return undefined
  const own = podLabels(labels)
  const policy = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: nameOf(direction, peer), namespace },
    spec: {
      endpointSelector: Object.keys(own).length === 0 ? {} : { matchLabels: own },
      enableDefaultDeny: { [direction]: false },
      [direction]: [{ ...at, ...portsOf(l4) }],
    },
  }
  return stringify(policy)
}

/** Labels that pods were given, by which a policy may select them. */
function podLabels(labels: Labels): Record<string, string> {
  const own = [...labels].filter(([key]) => key.startsWith('k8s:') && !key.startsWith('k8s:io.kubernetes.') && !key.startsWith('k8s:io.cilium.')) // prettier-ignore
  return Object.fromEntries(own.map(([key, value]) => [key.slice('k8s:'.length), value]))
}

function peerOf(snapshot: Snapshot, direction: Direction, peer: RulePeer): Record<string, unknown> | undefined {
  const side = direction === 'egress' ? 'to' : 'from'
  switch (peer.kind) {
    case 'name':
      return checkPattern(peer.name, 'matchName') === undefined ? { toFQDNs: [{ matchName: peer.name }] } : undefined
    case 'address':
      return { [`${side}CIDR`]: [`${addressToText(peer.address)}/${familyOf(peer.address) === 4 ? 32 : 128}`] }
    case 'identity': {
      const labels = snapshot.identities.get(peer.identity)?.labels
      if (peer.identity === hostId || labels?.has(hostLabel) === true) return { [`${side}Entities`]: ['host'] }
      if (labels?.has(remoteNodeLabel) === true) return { [`${side}Entities`]: ['remote-node'] }
      const namespace = labels?.get(namespaceKey)
      if (labels === undefined || namespace === undefined || peer.identity < firstIdentity) return undefined
      return { [`${side}Endpoints`]: [{ matchLabels: { [namespaceKey]: namespace, ...podLabels(labels) } }] }
    }
  }
}

/** Without ports where a policy cannot name them: then the rule is about every protocol. */
function portsOf({ protocol, port, icmpType }: L4): Record<string, unknown> {
  if (port !== undefined && Object.values(Protocol).some((each) => each === protocol))
    return { toPorts: [{ ports: [{ port: String(port), protocol: protocolName(protocol).toUpperCase() }] }] }
  if (icmpType === undefined) return {}
  return { icmps: [{ fields: [{ family: protocol === icmpProtocol[6] ? 'IPv6' : 'IPv4', type: icmpType }] }] }
}

/** A name for the policy that says what it is for; as Kubernetes wants it (RFC 1123). */
function nameOf(direction: Direction, peer: RulePeer): string {
  const what = peer.kind === 'name' ? peer.name : peer.kind === 'address' ? addressToText(peer.address) : `identity ${peer.identity}` // prettier-ignore
  const plain = [...what.toLowerCase()]
    .map((c) => ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '-'))
    .join('')
  const text = `allow-${direction}-${plain}`.slice(0, 63)
  return text.endsWith('-') ? `${text.slice(0, -1)}0` : text
}
