// The authoring mistakes that the linter knows: stable codes, with what each is about. A code is never given to another mistake.

export const codes = {
  NG000: { name: 'invalid', about: 'the manifest is refused' },
  NG001: { name: 'fqdn-without-dns', about: 'toFQDNs without a DNS rule that lets its names be asked' },
  NG002: { name: 'cidr-in-cluster', about: 'a CIDR for what is inside the cluster: pods, nodes, service addresses' },
  NG003: { name: 'service-port', about: "a Service's port where the pods' port is meant" },
  NG004: { name: 'default-deny', about: 'a policy that denies more than it says, by default deny' },
  NG005: { name: 'fails-open', about: 'a peer list that resolves to nothing and opens its ports to everyone on Cilium' },
  NG006: { name: 'l7-shadowed', about: 'L7 rules without effect beside an allow for the same peers and ports' },
  NG007: { name: 'empty-selector', about: '{}, - {} and [], which mean different things in different places' },
  NG008: { name: 'clusterwide-everything', about: 'a cluster-wide policy that selects kube-system and health endpoints too' },
  NG009: { name: 'implied-scope', about: 'a peer that is confined to one namespace or cluster without saying so' },
  NG010: { name: 'wildcard-depth', about: 'what the * of a name pattern stands for' },
  NG011: { name: 'label-not-in-identity', about: 'a selector on a label that Cilium leaves out of identities' },
  NG012: { name: 'l7-without-default-deny', about: 'enableDefaultDeny: false together with L7 rules on old releases' },
  NG013: { name: 'http-regex', about: 'HTTP patterns that match more or less than meant' },
  NG014: { name: 'cluster-services', about: 'the API server and cluster DNS as they are reached in practice' },
  NG015: { name: 'cluster-entity', about: 'entity cluster, and traffic that comes in through a node' },
  NG016: { name: 'refused-search', about: 'refused names that end the search of a resolver' },
  NG017: { name: 'yaml', about: 'YAML that says something else than it looks like' },
  NG018: { name: 'named-port', about: 'a named port that no pod defines' },
  NG019: { name: 'removed-field', about: 'fields that a Cilium release removed' },
  NG020: { name: 'reserved-word', about: 'misspelt entities and reserved labels' },
  NG021: { name: 'order', about: 'rules that never decide, exceptions of denials, equal priorities' },
  NG022: { name: 'icmp', about: 'ICMP, which rules about ports leave out' },
  NG023: { name: 'host', about: 'probes and host policies' },
  NG024: { name: 'merge-conflict', about: 'rules that Cilium cannot merge: the endpoints that both select keep their old policy' },
} as const // prettier-ignore

export type Code = keyof typeof codes

export const severities = ['note', 'warning', 'error'] as const
/** `note`: good to know; `warning`: probably not what is meant; `error`: cannot be what is meant, or is unsafe. */
export type Severity = (typeof severities)[number]

/** Whether one is at least as severe as the other. */
export function isAtLeast(severity: Severity, least: Severity): boolean {
  return severities.indexOf(severity) >= severities.indexOf(least)
}

/** Text of a file, from one offset to another, replaced. */
export interface Edit {
  readonly file: string
  readonly start: number
  readonly end: number
  readonly text: string
}

export interface Fix {
  readonly title: string
  readonly edits: readonly Edit[]
}

export interface Finding {
  readonly code: Code
  readonly severity: Severity
  readonly file: string
  readonly line: number
  readonly column: number
  /** `spec.egress[0].toFQDNs`; '' for the document. */
  readonly path: string
  readonly policy?: string
  readonly message: string
  /** What to do about it. */
  readonly hint?: string
  /** Where the remedy is mechanical. */
  readonly fix?: Fix
}
