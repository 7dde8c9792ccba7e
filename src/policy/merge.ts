// Allow rules of one rank that are about one peer on one port say one thing together (Cilium pkg/policy mergePortProto): what one of them asks
// above L4, the others ask too, and some cannot stand together. For those Cilium computes no policy at all, and endpoints keep their old one;
// here nothing is opened where they meet, and the verdict says so. "One peer" is one selector, "one port" one port or range as it is written.
import { clusterKey, type Selector } from '../identity/selector.ts'
import { rangeToText } from '../net/prefix.ts'
import type { PolicyRule } from './names.ts'
import type { Entity, L7, Peer, Rule, RulePorts, Semantics } from './rules.ts'

export interface Merged {
  /** What takes the place of rules that others add to or close; a rule that is not here stays as it is. */
  readonly instead: ReadonlyMap<Rule, readonly Rule[]>
  /** Where nothing is opened. */
  readonly closed: readonly Closed[]
}

/** One peer and one port (all that `rule` is about) of two rules that cannot stand together; `text` says why. */
export interface Closed extends PolicyRule {
  readonly text: string
}

/** Says what the rules of one subject in one direction come to together; undefined when each stands for itself. */
export type Merger = (rules: readonly PolicyRule[]) => Merged | undefined

export interface MergeOptions {
  readonly semantics: Semantics
  readonly clusterName: string
}

/** What the rules are about is worked out once for each rule, as long as it lives. */
export function makeMerger(options: MergeOptions): Merger {
  const spots = makeSpotReader(options.clusterName)
  // By the specification Kubernetes' own policies stand for themselves.
  const isJoined = ({ policy, rule }: PolicyRule): boolean =>
    rule.kind === 'allow' && (options.semantics === 'cilium' || policy.kind.startsWith('Cilium'))

  return (rules) => {
    const demanding = rules.filter((one) => isDemanding(one.rule) && isJoined(one))
    if (demanding.length === 0) return undefined
    const meetings = new Map<string, Meeting>()
    for (const one of demanding) for (const spot of spots(one.rule)) meet(meetings, spot, one)
    const joint = new Map([...meetings].filter(([, { closed, demands }]) => closed !== undefined || demands !== undefined)) // prettier-ignore
    if (joint.size === 0) return undefined
    const instead = new Map<Rule, readonly Rule[]>()
    for (const one of rules) {
      const changed = isJoined(one) ? changeRule(one.rule, spots(one.rule), joint) : undefined
      if (changed !== undefined) instead.set(one.rule, changed)
    }
    const closed = [...joint.values()].flatMap((meeting) => meeting.closed ?? [])
    return closed.length === 0 && instead.size === 0 ? undefined : { instead, closed }
  }
}

/** What an allow rule may ask above L4, or state, beside its L7 rules: rules without it take it over. */
const demandKeys = ['serverNames', 'listener', 'terminatingTLS', 'originatingTLS', 'authentication'] as const
type Demands = Pick<Rule, (typeof demandKeys)[number]>

/** Whether a rule can add to another, or be in its way. */
export function isDemanding(rule: Rule): boolean {
  return rule.kind === 'allow' && (rule.l7 !== undefined || demandKeys.some((key) => rule[key] !== undefined))
}

/** The rules that ask something and meet in one spot. */
interface Meeting {
  /** One of each sort. */
  readonly sorts: Map<string, PolicyRule>
  closed?: Closed
  demands?: Demands
}

function meet(meetings: Map<string, Meeting>, spot: Spot, one: PolicyRule): void {
  let there = meetings.get(spot.key)
  if (there === undefined) meetings.set(spot.key, (there = { sorts: new Map() }))
  const sort = sortOf(one.rule)
  if (there.closed !== undefined || there.sorts.has(sort)) return
  for (const other of there.sorts.values()) {
    const words = conflictOf(other.rule, one.rule)
    if (words === undefined) continue
    const { policy, rule } = other
    there.closed = { policy: one.policy, rule: narrowed(one.rule, spot), text: `${words} with ${policy.name} ${rule.path} (${policy.file}:${rule.line}): nothing is opened here` } // prettier-ignore
    return
  }
  there.sorts.set(sort, one)
  const demands = joinDemands(there.demands, one.rule)
  if (demands !== undefined) there.demands = demands
}

/** Rules of one sort are merged alike with any other. */
export function sortOf(rule: Rule): string {
  return JSON.stringify([parserOf(rule), ...demandKeys.map((key) => rule[key] ?? null)])
}

/** Undefined when nobody asks for any. Of listeners the one with the lower number is taken. */
function joinDemands(a: Demands | undefined, b: Demands): Demands | undefined {
  if (demandKeys.every((key) => a?.[key] === undefined && b[key] === undefined)) return undefined
  const names = [...new Set([...(a?.serverNames ?? []), ...(b.serverNames ?? [])])]
  const listener = a?.listener !== undefined && rankOf(a) <= rankOf(b) ? a.listener : (b.listener ?? a?.listener)
  return { ...pickDemands(b), ...pickDemands(a ?? {}), ...(names.length === 0 ? {} : { serverNames: names }), ...(listener === undefined ? {} : { listener }) } // prettier-ignore
}

function pickDemands(of: Demands): Demands {
  return Object.fromEntries(demandKeys.flatMap((key) => (of[key] === undefined ? [] : [[key, of[key]]])))
}

/** Listeners without a number come last. */
const rankOf = ({ listener }: Demands): number => (listener === undefined ? Infinity : (listener.priority ?? 1000))

/** In Cilium's words, why two allow rules of one rank about one peer and port cannot be one; undefined when they can. */
export function conflictOf(a: Rule, b: Rule): string | undefined {
  const [one, other] = [parserOf(a), parserOf(b)]
  if (!canPromote(one, other) && !canPromote(other, one))
    return `cannot merge conflicting L7 parsers (${one}/${other})`
  if (a.listener !== undefined && b.listener !== undefined && rankOf(a) === rankOf(b) && fullName(a.listener) !== fullName(b.listener)) {
    const { priority = 0 } = a.listener
    return `cannot merge conflicting CiliumEnvoyConfig Listeners (${fullName(a.listener)}/${fullName(b.listener)}) with the same priority (${priority})`
  }
  if (a.authentication !== undefined && b.authentication !== undefined && a.authentication !== b.authentication)
    return `cannot merge conflicting authentication types (${a.authentication}/${b.authentication})`
  for (const side of ['terminating', 'originating'] as const) {
    const [x, y] = [a[`${side}TLS`], b[`${side}TLS`]]
    if (x !== undefined && y !== undefined && JSON.stringify(x) !== JSON.stringify(y))
      return `cannot merge conflicting ${side} TLS contexts (${x.secret}/${y.secret})`
  }
  const names = [...(a.serverNames ?? []), ...(b.serverNames ?? [])]
  const isTerminated = a.terminatingTLS !== undefined || b.terminatingTLS !== undefined
  if (names.length > 0 && (a.l7 !== undefined || b.l7 !== undefined) && !isTerminated)
    return `cannot merge L7 rules with SNI filtering without TLS termination (${names.join(', ')})`
  return undefined
} // prettier-ignore

const fullName = ({ envoyConfig, name }: NonNullable<Rule['listener']>): string => `${envoyConfig}/${name}`

/** Who reads the connection: '' nobody, 'crd' a listener of one's own, 'tls' who looks into the handshake. */
function parserOf({ l7, listener, serverNames, terminatingTLS, originatingTLS }: Rule): string {
  if (listener !== undefined) return 'crd'
  if (l7 !== undefined) return nameOf(l7)
  return serverNames === undefined && terminatingTLS === undefined && originatingTLS === undefined ? '' : 'tls'
}

const nameOf = (l7: L7): string => (l7.kind === 'l7' ? l7.protocol : l7.kind)

/** Whether what the one reads the other can read too. */
function canPromote(from: string, to: string): boolean {
  return from === to || from === '' || (from === 'tls' && to !== '' && to !== 'dns' && to !== 'crd')
}

// Spots: one peer and one port.

interface Spot {
  /** Equal for what Cilium merges. */
  readonly key: string
  readonly part: Part
  /** Index into the rule's ports. */
  readonly port: number
}

/** One of Cilium's selectors: a peer, or one of several that an entity stands for. */
interface Part {
  readonly key: string
  readonly peers: Rule['peers']
  /** Indices of the peers that it is of. */
  readonly of: readonly number[]
}

function makeSpotReader(clusterName: string): (rule: Rule) => readonly Spot[] {
  const known = new WeakMap<Rule, readonly Spot[]>()
  return (rule) => {
    let spots = known.get(rule)
    if (spots === undefined) known.set(rule, (spots = spotsOf(rule, clusterName)))
    return spots
  }
}

function spotsOf(rule: Rule, clusterName: string): readonly Spot[] {
  const ports = rule.ports.map((port) => JSON.stringify(port))
  return partsOf(rule.peers, clusterName).flatMap((part) =>
    ports.map((text, port) => ({ key: `${rule.tier} ${rule.priority} ${text} ${part.key}`, part, port })),
  )
}

/** Whether two rules have a peer and a port in common: where a conflict of theirs would be. */
export function makeMeeting(clusterName: string): (rule: Rule) => readonly string[] {
  const spots = makeSpotReader(clusterName)
  return (rule) => spots(rule).map(({ key }) => key)
}

/** Whether an allow rule is closed by what another could not stand beside. */
export function isClosedBy(rule: Rule, closed: Rule, clusterName: string): boolean {
  const keys = makeMeeting(clusterName)
  return rule.kind === 'allow' && keys(rule).some((key) => keys(closed).includes(key))
}

function partsOf(peers: Rule['peers'], clusterName: string): readonly Part[] {
  if (peers === 'everyone') return [{ key: 'everyone', peers, of: [] }]
  // Services are resolved together: whether they come to nothing is said of all of them.
  if (peers.some(({ kind }) => kind === 'service'))
    return [{ key: JSON.stringify(peers.map(bareOf)), peers, of: [...peers.keys()] }]
  return peers.flatMap((peer, i) => partsOfPeer(peer, clusterName).map((part): Part => ({ ...part, of: [i] })))
}

function partsOfPeer(peer: Peer, clusterName: string): readonly Omit<Part, 'of'>[] {
  switch (peer.kind) {
    case 'unresolved':
      return []
    case 'entity':
      return partsOfEntity(peer, clusterName)
    case 'endpoints':
      return [{ key: keyOfSelector(peer.selector), peers: [peer] }]
    case 'cidr':
      return [{ key: `cidr ${peer.reach} ${peer.ranges.map(rangeToText).join()}`, peers: [peer] }]
    case 'name':
      return [{ key: `${peer.field} ${peer.text.toLowerCase()}`, peers: [peer] }]
    case 'nodes':
    case 'cidrGroup':
    case 'service':
      return [{ key: JSON.stringify(bareOf(peer)), peers: [peer] }]
  }
}

/** Without its place. */
function bareOf(peer: Peer): object {
  const text = JSON.stringify(peer, (key, value: unknown) => (key === 'path' || key === 'line' ? undefined : typeof value === 'bigint' ? String(value) : value)) // prettier-ignore
  return JSON.parse(text) as object
}

const reserved: readonly Entity[] = ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver']
const wider: Partial<Record<Entity, readonly Entity[]>> = {
  world: ['world', 'world-ipv4', 'world-ipv6'],
  cluster: reserved,
  'cluster-mesh': reserved,
}

/** An entity stands for selectors on reserved labels (pkg/policy/api/entity.go). */
function partsOfEntity(peer: Peer & { readonly kind: 'entity' }, clusterName: string): readonly Omit<Part, 'of'>[] {
  const { entity, path, line } = peer
  if (entity === 'none') return []
  if (entity === 'all') return [{ key: 'everyone', peers: 'everyone' }]
  const parts = (wider[entity] ?? [entity]).map((each) => ({
    key: keyOfSelector([{ operator: 'In', key: `reserved:${each}`, values: [''] }]),
    peers: [{ kind: 'entity', entity: each, path, line } as const],
  }))
  if (entity !== 'cluster' && entity !== 'cluster-mesh') return parts
  const pods: Selector = entity === 'cluster' ? [{ operator: 'In', key: clusterKey, values: [clusterName] }] : [{ operator: 'Exists', key: clusterKey }] // prettier-ignore
  return [...parts, { key: keyOfSelector(pods), peers: [{ kind: 'endpoints', selector: pods, path, line }] }]
}

const keyOfSelector = (selector: Selector): string =>
  selector
    .map((requirement) =>
      JSON.stringify([
        requirement.key,
        requirement.operator,
        'values' in requirement ? [...requirement.values].sort() : [],
      ]),
    ) // prettier-ignore
    .sort()
    .join()

// What becomes of a rule.

/** Undefined: nothing; it stays. */
function changeRule(rule: Rule, spots: readonly Spot[], joint: ReadonlyMap<string, Meeting>): readonly Rule[] | undefined {
  const isChanged = ({ key }: Spot): boolean => adds(joint.get(key), rule)
  const parts = new Set(spots.filter(isChanged).map(({ part }) => part))
  if (parts.size === 0) return undefined
  // An entity stays whole where nothing is said of any of its parts.
  const peers = new Set([...parts].flatMap(({ of }) => of))
  const rest = rule.peers === 'everyone' ? [] : rule.peers.filter((_, i) => !peers.has(i))
  const derived: Rule[] = rest.length === 0 ? [] : [{ ...rule, peers: rest }]
  for (const part of new Set(spots.map((spot) => spot.part))) {
    if (!parts.has(part) && !part.of.some((i) => peers.has(i))) continue
    const own = spots.filter((spot) => spot.part === part)
    const untouched = own.filter((spot) => !isChanged(spot)).map(({ port }) => port)
    if (untouched.length > 0) derived.push({ ...rule, peers: part.peers, ports: portsAt(rule, untouched) })
    for (const spot of own.filter(isChanged)) {
      const { closed, demands } = joint.get(spot.key) ?? {}
      if (closed === undefined) derived.push({ ...narrowed(rule, spot), ...demandsOn(rule, demands ?? {}) })
    }
  }
  return derived
} // prettier-ignore

/** Whether what was said in a meeting changes a rule that is there. */
function adds(meeting: Meeting | undefined, rule: Rule): boolean {
  if (meeting === undefined) return false
  if (meeting.closed !== undefined) return true
  const demands = meeting.demands ?? {}
  return demandKeys.some((key) => demands[key] !== undefined && rule[key] === undefined)
}

/** Its own go before what others ask. */
function demandsOn(rule: Rule, demands: Demands): Demands {
  return { ...pickDemands(demands), ...pickDemands(rule) }
}

/** The rule about this peer and port alone. */
function narrowed(rule: Rule, { part, port }: Spot): Rule {
  return { ...rule, peers: part.peers, ports: portsAt(rule, [port]) }
}

function portsAt({ ports }: Rule, indices: readonly number[]): readonly RulePorts[] {
  return indices.flatMap((i) => ports[i] ?? [])
}
