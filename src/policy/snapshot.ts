// The compiled policy of one identity: what the proxy, the kernel and the verdict read. Immutable; made by compile.ts.
import type { DenyReply } from './denyReply.ts'
import type { WireName } from '../wire/name.ts'
import type { Endpoint, Identity, IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { Ports } from '../net/ports.ts'
import type { AddressRange } from '../net/prefix.ts'
import type { Direction, L7, PolicyKind, Rule, Tier } from './rules.ts'

/** Why a verdict is what it is. `text` is for people; the others say where the deciding rule stands (absent when no rule matched). */
export interface Why {
  readonly text: string
  /** `namespace/name`, or `name` of a cluster-wide policy. */
  readonly policy?: string
  readonly policyKind?: PolicyKind
  /** Path of the rule in its document: `spec.egress[0].toFQDNs[1]`. */
  readonly rule?: string
  /** `file:line` where the manifest came from a file. */
  readonly source?: string
  /** An allow rule that cannot stand beside another, which `text` names: nothing is opened where they meet. */
  readonly conflict?: true
  /** It would be denied, and passes in audit mode. */
  readonly audited?: true
}

export type NameVerdict = { readonly kind: 'allow'; readonly why: Why } | { readonly kind: 'deny'; readonly why: Why }

/** A place in the order of evaluation: lower tier first, then lower priority. */
export interface Rank {
  readonly tier: Tier
  readonly priority: number
}

/**
 * What a name rule says about connections to the addresses of a name that it matches: an entry whose peers are those addresses. `deny`: toFQDNs in
 * egressDeny; the name is refused, and an address that is known by such names only is denied.
 */
export interface Grant {
  readonly kind: 'allow' | 'deny'
  readonly tier: Tier
  readonly priority: number
  readonly ports: Ports
  readonly l7?: L7
  readonly rule: Rule
  readonly why: Why
  /** Its policy lets a rule for a canonical name admit the aliases that lead to it. */
  readonly followsAliases?: true
  /** Its policy lets these names lead to private addresses. */
  readonly privateAnswers?: true
}

/**
 * Whom an entry is about. An address is a peer when its identity (`Snapshot.identityOf`) is among `identities`, or when it lies in `outside`
 * and has no identity of its own (it is world, or an API server out there), or when it lies in `everywhere`.
 */
export type Peers =
  | 'everyone'
  | {
      readonly identities: ReadonlySet<IdentityId>
      readonly outside: readonly AddressRange[]
      readonly everywhere: readonly AddressRange[]
    }

/** One statement about peers and ports, for one subject in one direction. */
export interface Entry {
  readonly kind: 'allow' | 'deny' | 'pass'
  readonly tier: Tier
  readonly priority: number
  readonly peers: Peers
  /** Named ports are numbers here; on egress, where each destination may have its own number, an entry is about one of the numbers. */
  readonly ports: Ports
  /** What must hold above L4 for an `allow`; the kernel alone cannot say (nor about `rule.serverNames`). */
  readonly l7?: L7
  readonly rule: Rule
  readonly why: Why
}

/** What holds for one subject in one direction. */
export interface DirectionPolicy {
  /** Whether any policy selects the subject in this direction; when none does, everything is allowed. */
  readonly selected: boolean
  /** Whether what no entry decides is denied. */
  readonly defaultDeny: boolean
  /** The policies that select it, for "no rule matched; selected by A, B". */
  readonly selectedBy: readonly string[]
  /**
   * In the order in which they decide: the first that covers a flow does, but a `pass` skips the rest of its tier. The tail end (what the
   * reference algorithm calls tier 255) is not in here: see `fallback`.
   */
  readonly entries: readonly Entry[]
  /** What happens to a flow that no entry decides. */
  readonly fallback: 'allow' | 'deny'
  /** The same for a flow that comes from this host (identity 1): on ingress it passes a default deny, so that probes reach their pods. */
  readonly fallbackFromHost: 'allow' | 'deny'
  /** Audit mode: what is denied here, by an entry or by the fallback, passes all the same and is noted; the verdict says `audited`. */
  readonly audit: boolean
}

export interface SubjectPolicy {
  readonly identity: IdentityId
  readonly directions: Readonly<Record<Direction, DirectionPolicy>>
  /** How a refused question for this name is answered. */
  readonly denyReplyTo: (name: WireName) => DenyReply
  /** Whether any grant follows aliases. */
  readonly followsAliases: boolean
  /** Some policy refuses names of resolvers that would not be seen. */
  readonly refusesDoh: boolean
  /** May this identity ask for the name? `labels`: lower-cased labels of the name, leftmost first, the root is []. */
  readonly mayAsk: (labels: readonly string[]) => NameVerdict
  /** What connections to the addresses of this name are allowed; [] when no toFQDNs rule matches. */
  readonly grantsFor: (labels: readonly string[]) => readonly Grant[]
  /** All distinct ports that any toFQDNs rule of this identity opens: ranges among them are cut into disjoint cells for the kernel. */
  readonly grantPorts: readonly Ports[]
  /** The names and patterns of toFQDNs rules (allowing ones) as they are written. */
  readonly grantNames: readonly string[]
  /** The distinct places of toFQDNs rules (allowing ones) in the order of entries: the kernel lets leases open only what nothing before them decides. */
  readonly grantRanks: readonly Rank[]
  /** All that toFQDNs rules grant, as text: equal texts grant the same, so that leases made under one hold under the other. */
  readonly grantsText: string
}

/** Everything that the data plane needs to decide; replaced as a whole when policy, endpoints or labels change. */
export interface Snapshot {
  readonly revision: number
  readonly endpoints: readonly Endpoint[]
  readonly endpointOf: (address: Address) => Endpoint | undefined
  readonly identities: ReadonlyMap<IdentityId, Identity>
  readonly policyOf: (identity: IdentityId) => SubjectPolicy
  /** Of any address: an endpoint's, a node's, this host's, an API server's, or world's of its family. */
  readonly identityOf: (address: Address) => IdentityId
  /** Every address that has an identity of its own, with it: endpoints', nodes', this host's, API servers'. All others are world's. */
  readonly addresses: ReadonlyMap<Address, IdentityId>
  /** In-cluster addresses (endpoints, nodes and this host): label and entity rules decide about them; names do not. */
  readonly isInCluster: (address: Address) => boolean
  /** What people should know about this compilation: addresses claimed twice, … */
  readonly notes: readonly string[]
}
