// Policies as the domain sees them: what a manifest says, checked, before it is compiled for identities.
import type { Selector } from '../identity/selector.ts'
import type { Pattern } from '../match/pattern.ts'
import type { AddressRange } from '../net/prefix.ts'
import type { Ports } from '../net/ports.ts'

export const entities = [
  'all',
  'world',
  'world-ipv4',
  'world-ipv6',
  'cluster',
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

/** One destination of a rule. `path` is where it stands in the document. */
export type Peer = { readonly path: string } & (
  | { readonly kind: 'cidr'; readonly ranges: readonly AddressRange[]; readonly text: string }
  | { readonly kind: 'endpoints'; readonly selector: Selector }
  | { readonly kind: 'entity'; readonly entity: Entity }
  | {
      readonly kind: 'name'
      readonly field: 'matchName' | 'matchPattern'
      readonly text: string
      readonly pattern: Pattern
    }
)

/** A name that may be asked. */
export interface DnsRule {
  readonly path: string
  readonly field: 'matchName' | 'matchPattern'
  readonly text: string
  readonly pattern: Pattern
}

/** One rule with one of its toPorts items. */
export interface EgressRule {
  readonly kind: 'allow' | 'deny'
  readonly path: string
  readonly line: number
  /** `everyone`: the rule names no destination. A list may be empty: it reaches nobody. */
  readonly peers: 'everyone' | readonly Peer[]
  readonly ports: readonly Ports[]
  /** The names that these ports may be used to ask; absent: the rule says nothing about names. */
  readonly dns?: readonly DnsRule[]
}

export interface Policy {
  /** `namespace/name`, or `name` when cluster-wide. */
  readonly name: string
  readonly file: string
  /** Whom it is about; already confined to its namespace. */
  readonly subject: Selector
  readonly egress: readonly EgressRule[]
  readonly defaultDeny: boolean
  readonly denyReply?: 'refused' | 'nxdomain'
}

/** A workload as its manifest says. */
export interface Pod {
  readonly namespace: string
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly serviceAccount?: string
  readonly addresses: readonly string[]
}

/** Everything that was loaded. */
export interface World {
  /** Name to labels. A namespace that is not here exists with its name label only. */
  readonly namespaces: ReadonlyMap<string, ReadonlyMap<string, string>>
  readonly pods: readonly Pod[]
  readonly policies: readonly Policy[]
}
