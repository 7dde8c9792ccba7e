// What an identity may ask and what names open to it: toFQDNs rules, DNS rules, and rules that open the resolver's port 53.
import type { IdentityId } from '../identity/endpoints.ts'
import type { Pattern } from '../match/pattern.ts'
import { makeTrie } from '../match/trie.ts'
import type { Address } from '../net/address.ts'
import { portsCover, portsOverlap, portsToText, Protocol, type Ports } from '../net/ports.ts'
import { rangeCovers } from '../net/prefix.ts'
import type { Closed } from './merge.ts'
import type { NameMatch, Peer, Policy, Rule } from './rules.ts'
import type { DirectionPolicy, Entry, Grant, NameVerdict, Peers, Rank, SubjectPolicy, Why } from './snapshot.ts'

/** Who the resolvers behind the proxy are. */
export interface Resolvers {
  readonly upstreams: readonly Address[]
  readonly identityOf: (address: Address) => IdentityId
  /** Whether an address has no identity of its own: CIDRs may mean it. */
  readonly isOutside: (address: Address) => boolean
}

export interface PolicyRule {
  readonly policy: Policy
  readonly rule: Rule
}

/** The why of a rule, or of one of its peers or DNS rules when `at` is given. */
export function whyOf(policy: Policy, rule: Rule, text: string, path: string = rule.path): Why {
  return { text, policy: policy.name, policyKind: policy.kind, rule: path, source: `${policy.file}:${rule.line}` }
}

/** Negative when `a` is evaluated first. */
export function compareRanks(a: Rank, b: Rank): number {
  return a.tier - b.tier || a.priority - b.priority
}

const kindOrder = { deny: 0, allow: 1, pass: 2 } as const

/** The order in which statements decide. */
export function compareStatements(a: Rank & Pick<Entry, 'kind'>, b: Rank & Pick<Entry, 'kind'>): number {
  return compareRanks(a, b) || kindOrder[a.kind] - kindOrder[b.kind]
}

interface Granting {
  readonly name: NameMatch & Peer
  readonly pattern: Pattern
  readonly value: readonly Grant[]
}

export type NamePolicy = Pick<
  SubjectPolicy,
  'mayAsk' | 'grantsFor' | 'followsAliases' | 'grantPorts' | 'grantNames' | 'grantRanks' | 'grantsText'
>

/**
 * @param rules the egress rules that hold for the identity; `egress` what they are compiled to.
 * @param closed rules about one peer that open nothing, since another cannot stand beside them.
 */
export function compileNames(rules: readonly PolicyRule[], egress: DirectionPolicy, resolvers: Resolvers, closed: readonly Closed[] = []): NamePolicy {
  const opening = rules.flatMap(({ policy, rule }) => {
    if (rule.peers === 'everyone' || rule.kind === 'pass' || rule.l7?.kind === 'dns') return []
    return rule.peers.flatMap((peer) =>
      peer.kind === 'name' ? [{ name: peer, pattern: peer.pattern, value: grantsOf(policy, rule, peer) }] : [],
    )
  })
  const granting = [...opening, ...closed.flatMap(closedGrants)]
  const trie = makeTrie(granting)
  const grantsFor = (labels: readonly string[]): readonly Grant[] => {
    const found = trie.lookup(labels).flat()
    return found.length < 2 ? found : found.sort(compareStatements)
  }
  const allowing = granting.flatMap(({ value }) => value.filter((grant) => grant.kind === 'allow'))
  return {
    mayAsk: compileQuestions(rules, egress, grantsFor, resolvers),
    grantsFor,
    followsAliases: allowing.some((grant) => grant.followsAliases === true),
    grantPorts: [...new Map(allowing.map(({ ports }) => [portsToText(ports), ports])).values()],
    grantNames: [...new Set(granting.flatMap(({ name, value }) => (value.some(({ kind }) => kind === 'allow') ? [name.text] : [])))],
    grantRanks: [...new Map(allowing.map(({ tier, priority }) => [`${tier} ${priority}`, { tier, priority }])).values()].sort(compareRanks),
    grantsText: JSON.stringify(granting.map(({ name: { field, text }, value }) => [field, text, value.map((grant) => [grant.kind, grant.tier, grant.priority, portsToText(grant.ports), needsProxy(grant), grant.privateAnswers === true])])),
  }
} // prettier-ignore

/** Named ports are nobody's outside the cluster, and names lead there only. */
function grantsOf(policy: Policy, rule: Rule, name: NameMatch & { readonly path: string }): readonly Grant[] {
  const { kind, tier, priority, l7 } = rule
  if (kind === 'pass') return []
  const why = whyOf(policy, rule, `toFQDNs ${name.field} "${name.text}"`, name.path)
  const options = {
    ...(policy.dns?.followsAliases === true ? { followsAliases: true as const } : {}),
    ...(policy.dns?.privateAnswers === true ? { privateAnswers: true as const } : {}),
  }
  return rule.ports.flatMap(
    (ports) =>
    ports.kind === 'named' ? [] : [{ kind, tier, priority, ports, ...(l7 === undefined ? {} : { l7 }), rule, why, ...options }], // prettier-ignore
  )
}

/** Denials of connections, not of names: other ports may be open. */
function closedGrants({ policy, rule, text }: Closed): readonly Granting[] {
  if (rule.peers === 'everyone') return []
  return rule.peers.flatMap((peer) =>
    peer.kind !== 'name'
      ? []
      : [{ name: peer, pattern: peer.pattern, value: grantsOf(policy, rule, peer).map((grant): Grant => ({ ...grant, kind: 'deny', why: { ...grant.why, text, conflict: true } })) }],
  )
} // prettier-ignore

/** Whether it denies since its rule, which allows, cannot stand beside another (`merge.ts`). */
export const isClosed = ({ kind, rule }: Pick<Entry | Grant, 'kind' | 'rule'>): boolean => kind === 'deny' && rule.kind === 'allow' // prettier-ignore

/**
 * What the kernel may open at the addresses of a name: what is allowed on ports alone, and not behind a denial of such ports. What a proxy must
 * judge, above L4, is not opened. `grants` in their order.
 */
export function openedPorts(grants: readonly Grant[]): readonly Ports[] {
  const opened: Ports[] = []
  const denied: Ports[] = []
  for (const grant of grants)
    if (grant.kind === 'deny') denied.push(grant.ports)
    else if (!needsProxy(grant) && !denied.some((other) => portsOverlap(other, grant.ports))) opened.push(grant.ports)
  return opened
}

/** Whether a statement allows only what a proxy has looked into: the kernel alone must not. */
export function needsProxy({ l7, rule }: Pick<Entry | Grant, 'l7' | 'rule'>): boolean {
  return l7 !== undefined || rule.serverNames !== undefined || rule.listener !== undefined
}

const isDns = (ports: Ports): boolean => questionFlows.some((flow) => portsCover(ports, flow))
const isExactlyDns = (ports: Ports): boolean => ports.kind === 'ports' && ports.first === 53 && ports.last === 53
const questionFlows = [
  { protocol: Protocol.UDP, port: 53 },
  { protocol: Protocol.TCP, port: 53 },
]

function reaches(peers: Peers, address: Address, { identityOf, isOutside }: Resolvers): boolean {
  if (peers === 'everyone') return true
  return (
    peers.identities.has(identityOf(address)) ||
    peers.everywhere.some((range) => rangeCovers(range, address)) ||
    (peers.outside.some((range) => rangeCovers(range, address)) && isOutside(address))
  )
}

/** The first entry that denies a question to some resolver, over UDP or TCP, where nothing before it decides. */
function deniedQuestion(entries: readonly Entry[], resolvers: Resolvers): Entry | undefined {
  for (const upstream of resolvers.upstreams)
    for (const flow of questionFlows) {
      let passed = -1
      for (const entry of entries) {
        if (entry.tier <= passed || !portsCover(entry.ports, flow) || !reaches(entry.peers, upstream, resolvers)) continue
        if (entry.kind === 'deny') return entry
        if (entry.kind === 'allow') break
        passed = entry.tier
      }
    }
  return undefined
} // prettier-ignore

interface Permission extends Rank {
  readonly why: Why
}

/**
 * May a name be asked? Yes if a toFQDNs rule names it, a DNS rule on port 53 does, or a rule without names allows port 53 to the resolver
 * (as in Cilium, next to DNS rules only one on exactly that port counts). A deny rule on the resolver's port 53 ends it for all that is not
 * evaluated before that rule; so does a toFQDNs in egressDeny for its names.
 */
function compileQuestions(
  rules: readonly PolicyRule[],
  egress: DirectionPolicy,
  grantsFor: (labels: readonly string[]) => readonly Grant[],
  resolvers: Resolvers,
): SubjectPolicy['mayAsk'] {
  const { entries, fallback, selectedBy, audit } = egress
  const denied = deniedQuestion(entries, resolvers)
  const names = rules.flatMap(({ policy, rule }) => {
    const { l7, tier, priority } = rule
    if (l7?.kind !== 'dns' || !rule.ports.some((ports) => ports.kind !== 'named' && isDns(ports))) return []
    return l7.rules.map((dns) => ({
      pattern: dns.pattern,
      value: { tier, priority, why: whyOf(policy, rule, `DNS rule ${dns.field} "${dns.text}"`, dns.path) },
    }))
  })
  const isOpen = (permission: Rank): boolean => denied === undefined || compareRanks(permission, denied) < 0
  // In a DNS rule `*` is every name, odd octets and all; in toFQDNs it is not.
  const every = names.find(({ pattern, value }) => pattern.kind === 'any' && isOpen(value))?.value
  const plain = entries.find(
    (entry) =>
      entry.kind === 'allow' &&
      entry.l7 === undefined &&
      isDns(entry.ports) &&
      (names.length === 0 || isExactlyDns(entry.ports)) &&
      isOpen(entry) &&
      resolvers.upstreams.some((upstream) => reaches(entry.peers, upstream, resolvers)),
  )
  const everyName: Permission | undefined =
    every ??
    (plain === undefined
      ? undefined
      : { tier: plain.tier, priority: plain.priority, why: { ...plain.why, text: 'port 53 of the resolver is allowed, for any name' } }) // prettier-ignore
  const passes: Why = { text: 'audit mode: port 53 of the resolver is let through', audited: true }
  const byDefault = fallback === 'allow' ? { text: 'no policy denies egress by default' } : audit && names.length === 0 ? passes : undefined // prettier-ignore
  const free = byDefault !== undefined && denied !== undefined ? (audit ? passes : undefined) : byDefault
  const trie = makeTrie(names)
  const refusal: NameVerdict = {
    kind: 'deny',
    why:
      denied === undefined
        ? { text: `no DNS or toFQDNs rule matches; selected by ${selectedBy.join(', ')}` }
        : { ...denied.why, text: 'DNS to the resolver is denied by rule' },
  }
  return (labels) => {
    const all = grantsFor(labels)
    const grants = all.filter((grant) => !isClosed(grant))
    const granted = grants.find((grant) => isOpen(grant) || grant.kind === 'deny')
    const asked = trie.lookup(labels).find(isOpen)
    const permissions = [everyName, granted?.kind === 'allow' ? granted : undefined, asked].filter((p) => p !== undefined)
    // A name that is denied stays so unless something evaluated before it allows the question.
    const refused = grants.find((grant) => grant.kind === 'deny')
    const open = permissions.find((permission) => refused === undefined || compareRanks(permission, refused) < 0)
    if (open !== undefined) return { kind: 'allow', why: open.why }
    if (refused !== undefined) return { kind: 'deny', why: { ...refused.why, text: `${refused.why.text} in a deny rule` } }
    const closed = byDefault === undefined ? all.find(isClosed) : undefined
    if (closed !== undefined) return { kind: 'deny', why: closed.why }
    return free === undefined ? refusal : { kind: 'allow', why: free }
  }
} // prettier-ignore
