// World -> snapshot: labels become identities, policies become what each identity may ask and reach. Identities that the same policies
// select share one compiled policy. Numbers live on from one snapshot to the next, and so does what a change does not touch: what is
// compiled of a policy lasts as long as those it can be about; an identity's policy as long as the policies that select it.
import type { IdentityId } from '../identity/endpoints.ts'
import { makeIdentities, type IdentityTable } from '../identity/identities.ts'
import { hostId, unknownId, worldId } from '../identity/reserved.ts'
import { selects, type Selector } from '../identity/selector.ts'
import type { Address } from '../net/address.ts'
import { replyFor, replyOfAll, type DenyReplies, type DenyReply } from './denyReply.ts'
import { compareStatements, compileNames, whyOf, type PolicyRule, type Resolvers } from './names.ts'
import { makeMerger, type Closed, type Merged, type Merger } from './merge.ts'
import { identityOf, makePlaces, type Places } from './places.ts'
import { isNobody, resolvePeers, resolvePorts, type Surroundings } from './resolve.ts'
import { atOnce, type Steps } from '../steps.ts'
import { differenceOf, extentOf, makeTouch, usesAddresses, type Difference } from './touch.ts'
import { Tier, type Direction, type NamedPort, type Policy, type Rule, type Semantics, type World } from './rules.ts'
import type { DirectionPolicy, Entry, Snapshot, SubjectPolicy } from './snapshot.ts'

export interface CompileOptions {
  /** Addresses of this host: entity `host`, in-cluster. Those that a world is compiled with, where others are given. */
  readonly hostAddresses: readonly Address[]
  /** The resolvers behind the proxy: a rule that allows port 53 to one of them allows every name. */
  readonly upstreams: readonly Address[]
  readonly denyReply: DenyReplies | DenyReply
  readonly semantics?: Semantics
  readonly clusterName?: string
  /** The node whose addresses are this host's too. */
  readonly localNode?: string | undefined
  /** As Cilium's enable-policy. `always`: who is selected by nothing is denied everything; `never`: policies do nothing. */
  readonly enforcement?: 'default' | 'always' | 'never'
  /** This host may always reach its pods, where no rule says otherwise (on unless false). */
  readonly allowLocalhost?: boolean
  /** Denials at L3/L4 are noted, and let through: of everybody, or of those that one of the selectors selects. */
  readonly audit?: boolean
  readonly auditEndpoints?: readonly Selector[]
  /** Whether policies with a nodeSelector hold for this host's own traffic. */
  readonly hostPolicies?: boolean
  /** Numbers for label sets; a fresh table when absent. */
  readonly identities?: IdentityTable
}

interface Settings extends Required<Omit<CompileOptions, 'localNode' | 'identities'>> {
  readonly merge: Merger
  /** Whether what a policy is compiled to depends on where endpoints are. */
  readonly looksUp: (policy: Policy) => boolean
}

/**
 * Compiles worlds one after the other; identity and endpoint numbers stay with their labels and pods. Objects of a world that are the same as
 * in the world before are taken for unchanged. `hostAddresses` are this host's when they are not those of the options any more.
 */
export function makeCompiler(options: CompileOptions): (world: World, hostAddresses?: readonly Address[]) => Snapshot {
  const compile = makeStepwiseCompiler(options)
  return (world, hostAddresses) => atOnce(compile(world, hostAddresses))
}

/** The same in steps; one world must be at its end before the next one begins. */
export function makeStepwiseCompiler(
  options: CompileOptions,
): (world: World, hostAddresses?: readonly Address[]) => Steps<Snapshot> {
  const given = { semantics: 'spec', clusterName: 'default', enforcement: 'default', allowLocalhost: true, audit: false, auditEndpoints: [], hostPolicies: false, ...options } as const // prettier-ignore
  const settings: Settings = { ...given, merge: makeMerger(given), looksUp: remember(usesAddresses) }
  const identities = options.identities ?? makeIdentities()
  const place = makePlaces({ ...settings, localNode: options.localNode, identities })
  let before: Compiled | undefined
  let revision = 0

  return function* (world, hostAddresses = options.hostAddresses) {
    const compiled = (before = yield* compileWorld(world, yield* place(world, hostAddresses), settings, before))
    const { places } = compiled
    return {
      revision: ++revision,
      endpoints: places.endpoints,
      endpointOf: (address) => places.endpointsByAddress.get(address),
      identities: places.universe.identities,
      policyOf: compiled.policyOf,
      identityOf: (address) => identityOf(places, address),
      addresses: places.addresses,
      isInCluster: (address) => places.inCluster.has(address),
      notes: places.notes,
    }
  }
}

/** One world, compiled as far as it was asked for, with what the next one may take over. */
interface Compiled {
  readonly world: World
  readonly places: Places
  readonly rules: RuleCompiler
  readonly selecting: Selecting
  readonly policies: ReadonlyMap<IdentityId, SubjectPolicy>
  readonly policyOf: (identity: IdentityId) => SubjectPolicy
}

function* compileWorld(world: World, places: Places, settings: Settings, before: Compiled | undefined): Steps<Compiled> {
  const { rules, selecting, changed } = yield* takeOver(world, places, settings, before)
  const resolvers: Resolvers = {
    upstreams: settings.upstreams,
    identityOf: (address) => identityOf(places, address),
    isOutside: (address) => !places.inCluster.has(address),
  }
  const policies = new Map<IdentityId, SubjectPolicy>()
  if (before !== undefined && changed !== undefined)
    for (const [identity, policy] of before.policies) if (!changed.has(identity)) policies.set(identity, policy)
  const compileSubject = makeSubjectCompiler(rules, resolvers, sharedPerIdentityMax * (places.universe.identities.size + 1))
  const unknown = compileSubject(unknownId, [], [], { ...settings, enforcement: 'always', audit: false })
  const free = compileSubject(unknownId, [], [], { ...settings, enforcement: 'never' })

  function computePolicy(identity: IdentityId): SubjectPolicy {
    const labels = places.universe.identities.get(identity)?.labels
    if (labels === undefined) return { ...unknown, identity, mayAsk: () => ({ kind: 'deny', why: { text: 'no endpoint has this identity' } }) }
    if (!isSubject(identity, places, settings)) return { ...free, identity }
    const audit = settings.audit || settings.auditEndpoints.some((selector) => selects(selector, labels))
    return compileSubject(identity, selecting.get(identity) ?? [], places.namedPorts.get(identity) ?? [], { ...settings, audit })
  }
  function policyOf(identity: IdentityId): SubjectPolicy {
    let policy = policies.get(identity)
    if (policy === undefined) policies.set(identity, (policy = computePolicy(identity)))
    return policy
  }
  return { world, places, rules, selecting, policies, policyOf }
} // prettier-ignore

/** What a compilation begins with. `changed`: identities whose policy is not that of before; undefined: all may be. */
interface TakenOver {
  readonly rules: RuleCompiler
  readonly selecting: Selecting
  readonly changed: ReadonlySet<IdentityId> | undefined
}

/**
 * Small changes are followed: policies that can be about what differs are compiled anew, and so are the identities that these select, those
 * that came or are others now, and those of which a policy went or came. Else all is compiled anew.
 */
function* takeOver(world: World, places: Places, settings: Settings, before: Compiled | undefined): Steps<TakenOver> {
  const followed = before === undefined ? undefined : yield* follow(world, places, settings, before)
  return followed ?? { rules: makeRuleCompiler(world, places, settings), selecting: yield* selectAll(world.policies, places), changed: undefined }
} // prettier-ignore

function* follow(world: World, places: Places, settings: Settings, before: Compiled): Steps<TakenOver | undefined> {
  const difference = differenceOf(before.world, world, before.places, places)
  const changes = changesOf(before.world.policies, world.policies)
  if (difference === undefined || changes.removed.length + changes.added.length > changesMax) return undefined
  if (!sameUpstreams(before.places, places, settings)) return undefined
  const isTouched = makeTouch(difference, settings.clusterName, settings.looksUp)
  const touched = new Set<Policy>()
  for (const policy of world.policies) {
    if (isTouched(policy)) touched.add(policy)
    yield
  }
  const others = new Set(difference.somebody.map(({ id }) => id))
  if (difference.isOtherHost) others.add(hostId)
  const { selecting, changed } = followPolicies(changes, places, before)
  for (const id of others) {
    changed.add(id)
    selecting.set(id, world.policies.filter((policy) => isSelected(id, policy, places)))
    yield
  }
  if (touched.size > 0) for (const [id, list] of selecting) if (list.some((policy) => touched.has(policy))) changed.add(id)
  return { rules: before.rules.follow(world, places, difference, touched), selecting, changed }
} // prettier-ignore

/** The resolvers' addresses have the identities that they had. */
function sameUpstreams(a: Places, b: Places, { upstreams }: Settings): boolean {
  return upstreams.every((address) => identityOf(a, address) === identityOf(b, address) && a.inCluster.has(address) === b.inCluster.has(address)) // prettier-ignore
}

/** World, other nodes and API servers have no policy of their own here; this host has one behind a switch. */
function isSubject(identity: IdentityId, { nodeIds, universe }: Places, { hostPolicies }: Settings): boolean {
  if (identity === hostId) return hostPolicies
  if (identity === worldId[4] || identity === worldId[6] || nodeIds.has(identity)) return false
  return universe.identities.get(identity)?.labels.has('reserved:kube-apiserver') !== true
}

// Who is selected by what.

/** The policies that select each identity, in the world's order; whom none selects is not here. */
type Selecting = ReadonlyMap<IdentityId, readonly Policy[]>

/** More changed policies than this are not worked in one by one. */
const changesMax = 256

function* selectAll(policies: readonly Policy[], places: Places): Steps<Selecting> {
  const all = new Map<IdentityId, Policy[]>()
  for (const policy of policies) {
    for (const identity of selectedIdentities(policy, places)) {
      const list = all.get(identity)
      if (list === undefined) all.set(identity, [policy])
      else list.push(policy)
    }
    yield
  }
  return all
}

/** Policies that went and came, in the world's order. `changed`: whom they select, of identities that are as they were. */
function followPolicies(changes: Changes<Policy>, places: Places, before: Compiled): { readonly selecting: Map<IdentityId, readonly Policy[]>; readonly changed: Set<IdentityId> } {
  const selecting = new Map(before.selecting)
  const gone = new Set(changes.removed)
  const added = changes.added.map((policy) => ({ policy, selected: new Set(selectedIdentities(policy, places)) }))
  const changed = new Set([...changes.removed.flatMap((policy) => [...selectedIdentities(policy, before.places)]), ...added.flatMap(({ selected }) => [...selected])])
  for (const identity of changed) {
    const old = selecting.get(identity) ?? []
    const at = old.filter((policy) => changes.isAhead(policy)).length
    const rest = old.slice(at).filter((policy) => !gone.has(policy))
    const fresh = added.flatMap(({ policy, selected }) => (selected.has(identity) ? [policy] : []))
    selecting.set(identity, [...old.slice(0, at), ...fresh, ...rest])
  }
  return { selecting, changed }
} // prettier-ignore

function selectedIdentities(policy: Policy, places: Places): Iterable<IdentityId> {
  const { kind, selector } = policy.subject
  if (kind === 'node') return selects(selector, places.hostNodeLabels) ? [hostId] : []
  // This host is nobody's endpoint; the others that are none are never asked for.
  const selected = places.universe.select(selector)
  return selected.has(hostId) ? [...selected].filter((identity) => identity !== hostId) : selected
}

function isSelected(id: IdentityId, { subject: { kind, selector } }: Policy, { universe, hostNodeLabels }: Places): boolean {
  const now = universe.identities.get(id)
  if (now === undefined) return false
  return id === hostId ? kind === 'node' && selects(selector, hostNodeLabels) : kind === 'endpoints' && selects(selector, now.labels)
} // prettier-ignore

/** What stands between the beginning and the end that two lists have in common. `isAhead`: whether an item stands in that beginning. */
interface Changes<T> {
  readonly removed: readonly T[]
  readonly added: readonly T[]
  readonly isAhead: (item: T) => boolean
}

function changesOf<T extends object>(old: readonly T[], next: readonly T[]): Changes<T> {
  let head = 0
  while (head < old.length && head < next.length && old[head] === next[head]) head++
  let tail = 0
  while (tail < old.length - head && tail < next.length - head && old[old.length - 1 - tail] === next[next.length - 1 - tail]) tail++
  const ahead = new Set(old.slice(0, head))
  return { removed: old.slice(head, old.length - tail), added: next.slice(head, next.length - tail), isAhead: (item) => ahead.has(item) }
} // prettier-ignore

// What a policy says to a subject.

/** What was made of a policy, by direction (and named ports). */
type Made = Map<string, readonly Entry[]>

/** Entries of policies, each made once as long as those whom rules can be about stay the same. */
interface RuleCompiler {
  readonly entriesOf: (policy: Policy, direction: Direction, subjectPorts: readonly NamedPort[]) => readonly Entry[]
  /** Entries of a rule that is not as it stands in its policy. */
  readonly compileRule: (policy: Policy, rule: Rule, subjectPorts: readonly NamedPort[]) => readonly Entry[]
  /** A number for each policy. */
  readonly numberOf: (policy: Policy) => number
  /** Compiled policies by what they are compiled from. */
  readonly shared: Map<string, Omit<SubjectPolicy, 'identity'>>
  /** The same for another world, without what was made of the touched policies. */
  readonly follow: (world: World, places: Places, difference: Difference, touched: ReadonlySet<Policy>) => RuleCompiler
}

const said = { allow: 'allowed by rule', deny: 'denied by rule', pass: 'passed on by rule' } as const

/** @param made what was made of policies already and holds here too. */
function makeRuleCompiler(world: World, places: Places, settings: Settings, made = new WeakMap<Policy, Made>()): RuleCompiler {
  const { semantics, clusterName } = settings
  const around: Surroundings = { places, world, semantics, clusterName }
  /** Of policies that depend on where endpoints are: it holds in this world only. */
  const madeHere = new WeakMap<Policy, Made>()

  /** One entry for each of the rule's ports; none when its peers are nobody. */
  function compileRule(policy: Policy, rule: Rule, subjectPorts: readonly NamedPort[]): readonly Entry[] {
    const resolved = resolvePeers(rule, around)
    if (isNobody(resolved)) return []
    const { kind, tier, priority, l7 } = rule
    const why = whyOf(policy, rule, said[kind])
    return rule.ports.flatMap((rulePorts) =>
      resolvePorts(rulePorts, resolved, rule, subjectPorts, around).map(({ peers, ports }) => ({ kind, tier, priority, peers, ports, ...(l7 === undefined ? {} : { l7 }), rule, why })),
    )
  }
  function entriesOf(policy: Policy, direction: Direction, subjectPorts: readonly NamedPort[]): readonly Entry[] {
    const of = settings.looksUp(policy) ? madeHere : made
    let lists = of.get(policy)
    if (lists === undefined) of.set(policy, (lists = new Map<string, readonly Entry[]>()))
    const key = direction === 'ingress' && usesSubjectPorts(policy) ? JSON.stringify(subjectPorts) : direction
    let entries = lists.get(key)
    if (entries === undefined) {
      const rules = policy.rules.filter((rule) => rule.direction === direction)
      lists.set(key, (entries = rules.flatMap((rule) => compileRule(policy, rule, subjectPorts))))
    }
    return entries
  }
  const numbers = new WeakMap<Policy, number>()
  let count = 0
  function numberOf(policy: Policy): number {
    let number = numbers.get(policy)
    if (number === undefined) numbers.set(policy, (number = count++))
    return number
  }
  function follow(other: World, otherPlaces: Places, difference: Difference, touched: ReadonlySet<Policy>): RuleCompiler {
    const extent = extentOf(difference)
    if (extent === 'nothing') return self
    if (extent === 'addresses') return makeRuleCompiler(other, otherPlaces, settings, made)
    // Only of policies that are there: those that went are not asked whether they are touched, and may come back.
    const still = new WeakMap<Policy, Made>()
    for (const policy of other.policies) {
      const lists = touched.has(policy) ? undefined : made.get(policy)
      if (lists !== undefined) still.set(policy, lists)
    }
    return makeRuleCompiler(other, otherPlaces, settings, still)
  }
  const self: RuleCompiler = { entriesOf, compileRule, numberOf, shared: new Map(), follow }
  return self
} // prettier-ignore

function usesSubjectPorts(policy: Policy): boolean {
  return policy.rules.some((rule) => rule.direction === 'ingress' && rule.ports.some((ports) => ports.kind === 'named'))
}

function remember<K extends object, V>(compute: (key: K) => V): (key: K) => V {
  const known = new WeakMap<K, V>()
  return (key) => {
    let value = known.get(key)
    if (value === undefined) known.set(key, (value = compute(key)))
    return value
  }
}

/** What policies say of how a name is refused; else what the configuration says. */
function replies(selecting: readonly Policy[], { denyReply }: Settings): SubjectPolicy['denyReplyTo'] {
  const ofPolicies = selecting.flatMap((policy) => policy.denyReply ?? [])
  const ofAll = typeof denyReply === 'string' ? { otherwise: denyReply, suffixes: [] } : denyReply
  return (name) => replyOfAll(ofPolicies, name) ?? replyFor(ofAll, name) ?? 'refused'
}

type SubjectCompiler = (identity: IdentityId, selecting: readonly Policy[], ports: readonly NamedPort[], settings: Settings) => SubjectPolicy // prettier-ignore

/** Compiled policies kept for subjects that the same policies select, for each identity there is; past that they go, and those in use are made again. */
const sharedPerIdentityMax = 4

function makeSubjectCompiler(rules: RuleCompiler, resolvers: Resolvers, sharedMax: number): SubjectCompiler {
  function compute(identity: IdentityId, selecting: readonly Policy[], ports: readonly NamedPort[], settings: Settings): Omit<SubjectPolicy, 'identity'> {
    const rulesOn = (of: Direction): readonly PolicyRule[] => settings.enforcement === 'never' ? [] : rulesOf(selecting, of, settings)
    const [ingress, egress] = [rulesOn('ingress'), rulesOn('egress')]
    const merged = { ingress: settings.merge(ingress), egress: settings.merge(egress) }
    const direction = (of: Direction): DirectionPolicy => compileDirection(of, identity, selecting, merged[of], ports, rules, settings)
    const directions = { ingress: direction('ingress'), egress: direction('egress') }
    return {
      directions,
      denyReplyTo: replies(selecting, settings),
      refusesDoh: selecting.some((policy) => policy.dns?.refusesDoh === true),
      ...compileNames(egress.flatMap((one) => insteadOf(one, merged.egress)), directions.egress, resolvers, merged.egress?.closed),
    }
  }
  return (identity, selecting, ports, settings) => {
    const own = selecting.some(usesSubjectPorts) ? JSON.stringify(ports) : ''
    const key = `${identity === hostId} ${settings.enforcement} ${settings.audit} ${selecting.map(rules.numberOf).join()} ${own}`
    let shared = rules.shared.get(key)
    if (shared === undefined) {
      if (rules.shared.size >= sharedMax) rules.shared.clear()
      rules.shared.set(key, (shared = compute(identity, selecting, ports, settings)))
    }
    return { ...shared, identity }
  }
} // prettier-ignore

/** By the specification a NetworkPolicy's verdict is final: the Baseline tier is not reached where one isolates. */
function isIsolated(selecting: readonly Policy[], direction: Direction, { semantics }: Settings): boolean {
  return semantics === 'spec' && selecting.some((policy) => policy.kind === 'NetworkPolicy' && policy.defaultDeny[direction] && policy.directions.includes(direction)) // prettier-ignore
}

function rulesOf(selecting: readonly Policy[], direction: Direction, settings: Settings): readonly PolicyRule[] {
  const isolated = isIsolated(selecting, direction, settings)
  return selecting.flatMap((policy) =>
    policy.rules
      .filter((rule) => rule.direction === direction && !(isolated && rule.tier === Tier.Baseline))
      .map((rule) => ({ policy, rule })),
  )
}

function compileDirection(
  direction: Direction,
  identity: IdentityId,
  selecting: readonly Policy[],
  merged: Merged | undefined,
  ports: readonly NamedPort[],
  rules: RuleCompiler,
  settings: Settings,
): DirectionPolicy {
  const { enforcement, audit, allowLocalhost } = settings
  if (enforcement === 'never') return { selected: false, defaultDeny: false, selectedBy: [], entries: [], fallback: 'allow', fallbackFromHost: 'allow', audit } // prettier-ignore
  const here = selecting.filter((policy) => policy.directions.includes(direction))
  const defaultDeny = enforcement === 'always' || here.some((policy) => policy.defaultDeny[direction])
  const passesLocalhost = direction === 'ingress' && allowLocalhost && here.length > 0 && identity !== hostId
  const all = [
    ...here.flatMap((policy) => entriesOf(policy, direction, merged, ports, rules)),
    ...(merged?.closed ?? []).flatMap((closed) => closedEntries(closed, ports, rules)),
  ]
  const entries = isIsolated(here, direction, settings) ? all.filter(({ tier }) => tier !== Tier.Baseline) : all
  return {
    selected: here.length > 0,
    defaultDeny,
    selectedBy: here.map((policy) => policy.name),
    entries: entries.sort(compareStatements),
    fallback: defaultDeny ? 'deny' : 'allow',
    fallbackFromHost: defaultDeny && !passesLocalhost ? 'deny' : 'allow',
    audit,
  }
}

function insteadOf({ policy, rule }: PolicyRule, merged: Merged | undefined): readonly PolicyRule[] {
  return (merged?.instead.get(rule) ?? [rule]).map((each) => ({ policy, rule: each }))
}

/** What a policy says among the others that select the subject. */
function entriesOf(
  policy: Policy,
  direction: Direction,
  merged: Merged | undefined,
  ports: readonly NamedPort[],
  rules: RuleCompiler,
): readonly Entry[] {
  const own = policy.rules.filter((rule) => rule.direction === direction)
  if (merged === undefined || !own.some((rule) => merged.instead.has(rule)))
    return rules.entriesOf(policy, direction, ports)
  return own.flatMap((rule) => insteadOf({ policy, rule }, merged)).flatMap((one) => rules.compileRule(policy, one.rule, ports)) // prettier-ignore
}

function closedEntries({ policy, rule, text }: Closed, ports: readonly NamedPort[], rules: RuleCompiler): Entry[] {
  return rules.compileRule(policy, rule, ports).map((entry) => ({ ...entry, kind: 'deny', why: { ...entry.why, text, conflict: true } })) // prettier-ignore
}
