// Policies as the domain sees them: what a manifest says, checked, before it is compiled for identities. Every kind of policy, Cilium's and
// Kubernetes' own, comes down to the same rules: a subject, and statements in an order of tiers, priorities and verdicts.
import type { DenyReplies } from './denyReply.ts'
import type { Selector } from '../identity/selector.ts'
import type { HttpPattern } from '../l7/http.ts'
import type { KafkaPattern } from '../l7/kafka.ts'
import type { Pattern } from '../match/pattern.ts'
import type { Ports, Protocol } from '../net/ports.ts'
import type { AddressRange } from '../net/prefix.ts'

/** Where the sources disagree: `spec` is what the Kubernetes API text says, `cilium` what Cilium does. */
export type Semantics = 'spec' | 'cilium'

export const entities = [
  'all',
  'world',
  'world-ipv4',
  'world-ipv6',
  'cluster',
  'cluster-mesh',
  'host',
  'remote-node',
  'kube-apiserver',
  'init',
  'health',
  'unmanaged',
  'ingress',
  'none',
] as const
export type Entity = (typeof entities)[number]

export type Direction = 'ingress' | 'egress'

/** Where a thing stands in its manifest. `path` is from the document's root: `spec.egress[0].toFQDNs[1]`. */
export interface Spot {
  readonly path: string
  readonly line: number
}

/** One party of a rule: destination of an egress rule, source of an ingress rule. */
export type Peer = Spot &
  (
    | {
        readonly kind: 'cidr'
        readonly ranges: readonly AddressRange[]
        readonly text: string
        /**
         * `outside`: only addresses that have no identity of their own, as Cilium reads CIDRs. `everywhere`: pods, nodes and this host too
         * (NetworkPolicy ipBlock and ClusterNetworkPolicy networks, by the specification).
         */
        readonly reach: 'outside' | 'everywhere'
      }
    /** The members of CiliumCIDRGroups, by name or by the groups' labels (keys without source), less `except`. Reach is `outside`. */
    | { readonly kind: 'cidrGroup'; readonly group: string | Selector; readonly except: readonly AddressRange[] }
    | { readonly kind: 'endpoints'; readonly selector: Selector }
    /** Nodes other than this one, by labels with the source `node:`; `self`: this one too, by the same labels. */
    | { readonly kind: 'nodes'; readonly selector: Selector; readonly self?: true }
    | { readonly kind: 'entity'; readonly entity: Entity }
    | ({ readonly kind: 'name' } & NameMatch)
    /** The backends of services, by name or by the services' labels (keys without source); `namespace` undefined is every one. */
    | { readonly kind: 'service'; readonly service: string | Selector; readonly namespace: string | undefined }
    /** Known, but nobody here can say who it is: toGroups. It selects nobody. */
    | { readonly kind: 'unresolved'; readonly field: string }
  )

/** A matchName or matchPattern. */
export interface NameMatch {
  readonly field: 'matchName' | 'matchPattern'
  readonly text: string
  readonly pattern: Pattern
}

/** Ports as a rule says them. A named port stands for numbers that pods declare: the subject's on ingress, each destination's on egress. */
export type RulePorts =
  | Ports
  | { readonly kind: 'named'; readonly name: string; readonly protocol: Protocol; readonly endPort: number | undefined }

/** A name that may be asked. */
export type DnsRule = Spot & NameMatch

export type HttpRule = Spot & HttpPattern
export type KafkaRule = Spot & KafkaPattern

/** What must hold above L4. A rule of each list suffices. */
export type L7 =
  | { readonly kind: 'http'; readonly rules: readonly HttpRule[] }
  | { readonly kind: 'kafka'; readonly rules: readonly KafkaRule[] }
  | { readonly kind: 'dns'; readonly rules: readonly DnsRule[] }
  /** `l7proto` with generic key-value rules. */
  | { readonly kind: 'l7'; readonly protocol: string; readonly rules: readonly ReadonlyMap<string, string>[] }

export interface Listener {
  readonly name: string
  /** `CiliumEnvoyConfig/name` or `CiliumClusterwideEnvoyConfig/name`. */
  readonly envoyConfig: string
  readonly priority: number | undefined
}

/** A TLS context: where its secret is; kept as it was said. */
export interface TlsContext {
  readonly secret: string
  readonly trustedCA?: string
  readonly certificate?: string
  readonly privateKey?: string
}

/** Lower is evaluated first; the first tier whose statement is final decides. */
export const Tier = { Admin: 100, Normal: 200, Baseline: 250 } as const
export type Tier = (typeof Tier)[keyof typeof Tier]

/** One statement: in a direction, about peers and ports; one toPorts item each. */
export interface Rule extends Spot {
  /** Of Cilium's kinds, whose rules may be in each other's way. */
  readonly column?: number
  readonly direction: Direction
  /** `pass`: skips the rest of its tier. */
  readonly kind: 'allow' | 'deny' | 'pass'
  readonly tier: Tier
  /** Lower goes first within its tier; at equal priority deny beats allow beats pass. 0 for all but ClusterNetworkPolicy and its elders. */
  readonly priority: number
  /** `everyone`: the rule names no peer. A list may be empty: nobody. */
  readonly peers: 'everyone' | readonly Peer[]
  /** Any of them; never empty. `all` stands for a rule without ports: every protocol, ICMP too. */
  readonly ports: readonly RulePorts[]
  readonly l7?: L7
  readonly serverNames?: readonly string[]
  readonly listener?: Listener
  readonly terminatingTLS?: TlsContext
  readonly originatingTLS?: TlsContext
  readonly authentication?: 'required' | 'disabled' | 'test-always-fail'
}

export const policyKinds = [
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'ClusterNetworkPolicy',
  'AdminNetworkPolicy',
  'BaselineAdminNetworkPolicy',
] as const
export type PolicyKind = (typeof policyKinds)[number]

/** Whom a policy is about: endpoints, or this host when it has a nodeSelector that matches (keys with source `node:` or `any:`). */
export interface Subject {
  readonly kind: 'endpoints' | 'node'
  /** Already confined to the policy's namespace. */
  readonly selector: Selector
}

/** One `spec` (an object with `specs` is several of these, with one name). */
export interface Policy {
  readonly kind: PolicyKind
  /** `namespace/name`, or `name` when cluster-wide. */
  readonly name: string
  /** Undefined for cluster-wide policies. */
  readonly namespace: string | undefined
  readonly file: string
  /** Where the spec begins. */
  readonly line: number
  readonly subject: Subject
  readonly rules: readonly Rule[]
  /**
   * Directions in which the policy selects its subject at all: those with rules, and those of policyTypes. A `{}` item of a Cilium list makes no
   * rule, and still puts its direction here.
   */
  readonly directions: readonly Direction[]
  /** Whether what no rule allows is denied, by direction. */
  readonly defaultDeny: Readonly<Record<Direction, boolean>>
  readonly denyReply?: DenyReplies
  readonly dns?: DnsOptions
}

/** What annotations say about a policy's names. */
export interface DnsOptions {
  /** `namegate.io/allow-cname-target`: a rule for a canonical name admits the aliases that lead to it. */
  readonly followsAliases: boolean
  /** `namegate.io/allow-private-answers`: its names may lead to private addresses. */
  readonly privateAnswers: boolean
  /** `namegate.io/refuse-doh`: names of resolvers that would not be seen do not exist. */
  readonly refusesDoh: boolean
}

export interface NamedPort {
  readonly name: string
  readonly protocol: Protocol
  readonly port: number
}

/** A workload as its manifest says: a Pod, or the pods of a Deployment and its like as one (without addresses). */
export interface Pod extends Spot {
  /** `Pod`, `Deployment`, … */
  readonly kind: string
  readonly namespace: string
  readonly name: string
  readonly file: string
  readonly labels: ReadonlyMap<string, string>
  readonly serviceAccount?: string
  readonly addresses: readonly string[]
  /** It uses its node's addresses, and has no identity of its own. */
  readonly hostNetwork: boolean
  readonly node?: string
  readonly ports: readonly NamedPort[]
  /** Container ports that have no name, too: for the linter. */
  readonly containerPorts: readonly { readonly protocol: Protocol; readonly port: number }[]
}

export interface Node {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly addresses: readonly string[]
}

export interface Service extends Spot {
  readonly namespace: string
  readonly name: string
  readonly file: string
  readonly labels: ReadonlyMap<string, string>
  /** Undefined: its backends are those of its EndpointSlices. */
  readonly selector: ReadonlyMap<string, string> | undefined
  readonly clusterIPs: readonly string[]
  readonly ports: readonly {
    readonly name: string | undefined
    readonly protocol: Protocol
    readonly port: number
    /** A number, or a named port of the backends. */
    readonly targetPort: number | string
  }[]
}

export interface EndpointSlice {
  readonly namespace: string
  readonly service: string
  readonly addresses: readonly string[]
}

export interface CidrGroup {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly ranges: readonly AddressRange[]
}

/** Everything that was loaded. */
export interface World {
  /** Name to labels. A namespace that is not here exists with its name label only. */
  readonly namespaces: ReadonlyMap<string, ReadonlyMap<string, string>>
  readonly pods: readonly Pod[]
  readonly nodes: readonly Node[]
  readonly services: readonly Service[]
  readonly endpointSlices: readonly EndpointSlice[]
  readonly cidrGroups: readonly CidrGroup[]
  readonly policies: readonly Policy[]
}

/** What parsing must know beyond the text. */
export interface ParseOptions {
  readonly semantics: Semantics
  /** `1.20`: which fields and meanings are Cilium's. */
  readonly ciliumVersion: readonly [major: number, minor: number]
  /** The name of this cluster: peers that name none are confined to it (policy-default-local-cluster, since 1.19). */
  readonly clusterName: string
}
