// The compiled egress policy of one identity: what the proxy, the kernel and the verdict read. Immutable; made by compile.ts.
import type { AddressRange } from '../net/prefix.ts'
import type { Ports } from '../net/ports.ts'
import type { Endpoint, Identity, IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'

/** Why a verdict is what it is. `text` is for people; the others say where the deciding rule stands (absent when no rule matched). */
export interface Why {
  readonly text: string
  /** `namespace/name`, or `name` of a cluster-wide policy. */
  readonly policy?: string
  /** Path of the rule in its document: `spec.egress[0].toFQDNs[1]`. */
  readonly rule?: string
  /** `file:line` where the manifest came from a file. */
  readonly source?: string
}

export type NameVerdict = { readonly kind: 'allow'; readonly why: Why } | { readonly kind: 'deny'; readonly why: Why }

/** What a toFQDNs rule opens for a name that it matches. */
export interface Grant {
  readonly ports: Ports
  readonly why: Why
}

/** One L3/L4 statement. Deny beats allow (and beats grants); entries of one kind are a union. */
export interface PeerEntry {
  readonly kind: 'allow' | 'deny'
  readonly ranges: readonly AddressRange[]
  readonly ports: Ports
  readonly why: Why
}

export interface EgressPolicy {
  readonly identity: IdentityId
  /** Whether what no rule allows is denied. False for an identity that no policy puts under default deny: all is allowed that no rule denies. */
  readonly defaultDeny: boolean
  /** The policies whose selectors match this identity, for "no rule matched; selected by A, B". */
  readonly selectedBy: readonly string[]
  /** How a refused question is answered. */
  readonly denyReply: 'refused' | 'nxdomain'
  /** May this identity ask for the name? `labels`: lower-cased labels of the name, leftmost first, the root is []. */
  readonly mayAsk: (labels: readonly string[]) => NameVerdict
  /** What connections to the addresses of this name are allowed; [] when no toFQDNs rule matches. */
  readonly grantsFor: (labels: readonly string[]) => readonly Grant[]
  /** All distinct ports that any toFQDNs rule of this identity opens: ranges among them are cut into disjoint cells for the kernel. */
  readonly grantPorts: readonly Ports[]
  /** All that toFQDNs rules grant, as text: equal texts grant the same, so that leases made under one hold under the other. */
  readonly grantsText: string
  /** L3/L4 statements in no particular order. */
  readonly entries: readonly PeerEntry[]
}

/** Everything that the data plane needs to decide; replaced as a whole when policy, endpoints or labels change. */
export interface Snapshot {
  readonly revision: number
  readonly endpoints: readonly Endpoint[]
  readonly endpointOf: (address: Address) => Endpoint | undefined
  readonly identities: ReadonlyMap<IdentityId, Identity>
  readonly policyOf: (identity: IdentityId) => EgressPolicy
  /** In-cluster addresses (endpoints and this host): label and entity rules decide about them, CIDRs and names do not. */
  readonly isInCluster: (address: Address) => boolean
  /** What was odd while compiling, for people: addresses that two pods claim, and the like. */
  readonly notes: readonly string[]
}
