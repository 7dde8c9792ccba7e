// World -> snapshot: labels become identities, policies become what each identity may ask and reach. Identities that the same policies
// select share one compiled policy. Numbers live on from one snapshot to the next, and so does what a change does not touch: what is
// compiled of a policy lasts as long as those it can be about; an identity's policy as long as the policies that select it.
import type { IdentityId } from '../identity/endpoints.ts'
import { makeIdentities, type IdentityTable } from '../identity/identities.ts'
import { hostId, unknownId, worldId } from '../identity/reserved.ts'
import { selects, type Selector } from '../identity/selector.ts'
import type { Address } from '../net/address.ts'
import { compareStatements, compileNames, whyOf, type PolicyRule, type Resolvers } from './names.ts'
import { makeMerger, type Closed, type Merged, type Merger } from './merge.ts'
import { identityOf, makePlaces, type Places } from './places.ts'
import { isNobody, resolvePeers, resolvePorts, type Surroundings } from './resolve.ts'
import { changedIdentities, isTouched } from './touch.ts'
import { Tier, type Direction, type NamedPort, type Policy, type Rule, type Semantics, type World } from './rules.ts'
import type { DirectionPolicy, Entry, Snapshot, SubjectPolicy } from './snapshot.ts'

export interface CompileOptions {
  /** Addresses of this host: entity `host`, in-cluster. Those that a world is compiled with, where others are given. */
  readonly hostAddresses: readonly Address[]
  /** The resolvers behind the proxy: a rule that allows port 53 to one of them allows every name. */
  readonly upstreams: readonly Address[]
  readonly denyReply: 'refused' | 'nxdomain'
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
}

/**
 * Compiles worlds one after the other; identity and endpoint numbers stay with their labels and pods. Objects of a world that are the same as
 * in the world before are taken for unchanged. `hostAddresses` are this host's when they are not those of the options any more.
 */
export function makeCompiler(options: CompileOptions): (world: World, hostAddresses?: readonly Address[]) => Snapshot {
  const given = { semantics: 'spec', clusterName: 'default', enforcement: 'default', allowLocalhost: true, audit: false, auditEndpoints: [], hostPolicies: false, ...options } as const // prettier-ignore
  const settings: Settings = { ...given, merge: makeMerger(given) }
  const identities = options.identities ?? makeIdentities()
  const place = makePlaces({ ...settings, localNode: options.localNode, identities })
  let before: Compiled | undefined
  let revision = 0

  return (world, hostAddresses = options.hostAddresses) => {
    const compiled = (before = compileWorld(world, place(world, hostAddresses), settings, before))
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

function compileWorld(world: World, places: Places, settings: Settings, before: Compiled | undefined): Compiled {
  const { rules, selecting, changed } = takeOver(world, places, settings, before)
  const resolvers: Resolvers = {
    upstreams: settings.upstreams,
    identityOf: (address) => identityOf(places, address),
    isOutside: (address) => !places.inCluster.has(address),
  }
  const policies = new Map<IdentityId, SubjectPolicy>()
  if (before !== undefined && changed !== undefined)
    for (const [identity, policy] of before.policies) if (!changed.has(identity)) policies.set(identity, policy)
  const compileSubject = makeSubjectCompiler(rules, resolvers)
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

/** Policies may have changed while identities are as before, or some identities while policies are; else all is compiled anew. */
function takeOver(world: World, places: Places, settings: Settings, before: Compiled | undefined): TakenOver {
  if (before?.rules.stillHolds(world, places) === true) return { rules: before.rules, ...selectAll(world.policies, places, before) }
  const followed = before === undefined ? undefined : followIdentities(world, places, settings, before)
  return followed ?? { rules: makeRuleCompiler(world, places, settings), ...selectAll(world.policies, places, undefined) }
} // prettier-ignore

/** Some identities came, went or changed: policies that can be about them are compiled anew, and so are the identities that these select. */
function followIdentities(world: World, places: Places, settings: Settings, before: Compiled): TakenOver | undefined {
  if (!sameItems(before.world.policies, world.policies) || before.places.hostNodeLabels !== places.hostNodeLabels) return undefined
  if (!sameSurroundings(before.world, world) || !sameUpstreams(before.places, places, settings)) return undefined
  const identities = changedIdentities(before.places, places)
  if (identities === undefined) return undefined
  const touched = new Set(world.policies.filter((policy) => isTouched(policy, identities, settings.clusterName)))
  const changed = new Set(identities.map(({ id }) => id))
  const selecting = new Map(before.selecting)
  for (const id of changed) {
    const now = places.universe.identities.get(id)
    const list = now === undefined ? [] : world.policies.filter(({ subject: { kind, selector } }) => id === hostId ? kind === 'node' && selects(selector, places.hostNodeLabels) : kind === 'endpoints' && selects(selector, now.labels))
    selecting.set(id, list)
  }
  for (const [id, list] of selecting) if (list.some((policy) => touched.has(policy))) changed.add(id)
  const untouched = (policy: Policy): boolean => !touched.has(policy)
  return { rules: makeRuleCompiler(world, places, settings, (policy) => (untouched(policy) ? before.rules.madeOf(policy) : undefined)), selecting, changed }
} // prettier-ignore

/** What rules are about besides identities. */
function sameSurroundings(a: World, b: World): boolean {
  return sameItems(a.services, b.services) && sameItems(a.endpointSlices, b.endpointSlices) && sameItems(a.cidrGroups, b.cidrGroups) // prettier-ignore
}

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

/** `changed`: identities whose policies are not those of before; undefined when that is not known. */
function selectAll(
  policies: readonly Policy[],
  places: Places,
  before: Compiled | undefined,
): { readonly selecting: Selecting; readonly changed: ReadonlySet<IdentityId> | undefined } {
  const selectedBy = (policy: Policy): Iterable<IdentityId> => selectedIdentities(policy, places)
  const isSameHost = before?.places.hostNodeLabels === places.hostNodeLabels
  const change = before === undefined || !isSameHost ? undefined : differenceOf(before.world.policies, policies)
  if (before === undefined || change === undefined || change.removed.length + change.added.length > changesMax) {
    const all = new Map<IdentityId, Policy[]>()
    for (const policy of policies)
      for (const identity of selectedBy(policy)) {
        const list = all.get(identity)
        if (list === undefined) all.set(identity, [policy])
        else list.push(policy)
      }
    return { selecting: all, changed: undefined }
  }
  const selecting = new Map(before.selecting)
  const changed = new Set([...change.removed, ...change.added].flatMap((policy) => [...selectedBy(policy)]))
  const gone = new Set(change.removed)
  const added = change.added.map((policy) => ({ policy, selected: new Set(selectedBy(policy)) }))
  for (const identity of changed) {
    const old = selecting.get(identity) ?? []
    const at = old.filter((policy) => change.isAhead(policy)).length
    const rest = old.slice(at).filter((policy) => !gone.has(policy))
    const fresh = added.flatMap(({ policy, selected }) => (selected.has(identity) ? [policy] : []))
    selecting.set(identity, [...old.slice(0, at), ...fresh, ...rest])
  }
  return { selecting, changed }
}

function selectedIdentities(policy: Policy, places: Places): Iterable<IdentityId> {
  const { kind, selector } = policy.subject
  if (kind === 'node') return selects(selector, places.hostNodeLabels) ? [hostId] : []
  // This host is nobody's endpoint; the others that are none are never asked for.
  const selected = places.universe.select(selector)
  return selected.has(hostId) ? [...selected].filter((identity) => identity !== hostId) : selected
}

/** What stands between the beginning and the end that two lists have in common. `isAhead`: whether an item stands in that beginning. */
function differenceOf<T extends object>(old: readonly T[], next: readonly T[]): { readonly removed: readonly T[]; readonly added: readonly T[]; readonly isAhead: (item: T) => boolean } {
  let head = 0
  while (head < old.length && head < next.length && old[head] === next[head]) head++
  let tail = 0
  while (tail < old.length - head && tail < next.length - head && old[old.length - 1 - tail] === next[next.length - 1 - tail]) tail++
  const ahead = new Set(old.slice(0, head))
  return { removed: old.slice(head, old.length - tail), added: next.slice(head, next.length - tail), isAhead: (item) => ahead.has(item) }
} // prettier-ignore

// What a policy says to a subject.

type Made = Map<string, readonly Entry[]>

/** Entries of policies, each made once as long as those whom rules can be about stay the same. */
interface RuleCompiler {
  readonly entriesOf: (policy: Policy, direction: Direction, subjectPorts: readonly NamedPort[]) => readonly Entry[]
  /** Entries of a rule that is not as it stands in its policy. */
  readonly compileRule: (policy: Policy, rule: Rule, subjectPorts: readonly NamedPort[]) => readonly Entry[]
  /** What was made of a policy, by direction (and named ports). */
  readonly madeOf: (policy: Policy) => Made | undefined
  /** A number for each policy. */
  readonly numberOf: (policy: Policy) => number
  /** Whether what was made holds in another world too. */
  readonly stillHolds: (world: World, places: Places) => boolean
  /** Compiled policies by what they are compiled from. */
  readonly shared: Map<string, Omit<SubjectPolicy, 'identity'>>
}

const said = { allow: 'allowed by rule', deny: 'denied by rule', pass: 'passed on by rule' } as const

/** @param taken what is known of a policy already and holds here too. */
function makeRuleCompiler(world: World, places: Places, settings: Settings, taken: (policy: Policy) => Made | undefined = () => undefined): RuleCompiler {
  const { semantics, clusterName } = settings
  const around: Surroundings = { places, world, semantics, clusterName, addressesUsed: false }
  const made = new WeakMap<Policy, Made>()
  for (const policy of world.policies) {
    const known = taken(policy)
    if (known !== undefined) made.set(policy, new Map(known))
  }

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
    let lists = made.get(policy)
    if (lists === undefined) made.set(policy, (lists = new Map<string, readonly Entry[]>()))
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
  function stillHolds(other: World, otherPlaces: Places): boolean {
    return (
      otherPlaces.universe === places.universe &&
      otherPlaces.hostNodeLabels === places.hostNodeLabels &&
      (otherPlaces === places || !around.addressesUsed) &&
      sameSurroundings(world, other) &&
      sameUpstreams(places, otherPlaces, settings)
    )
  }
  return { entriesOf, compileRule, madeOf: (policy) => made.get(policy), numberOf, stillHolds, shared: new Map() }
} // prettier-ignore

function usesSubjectPorts(policy: Policy): boolean {
  return policy.rules.some((rule) => rule.direction === 'ingress' && rule.ports.some((ports) => ports.kind === 'named'))
}

type SubjectCompiler = (identity: IdentityId, selecting: readonly Policy[], ports: readonly NamedPort[], settings: Settings) => SubjectPolicy // prettier-ignore

/** Compiled policies kept for subjects that the same policies select; at the bound they go, and those in use are made again. */
const sharedMax = 100_000

function makeSubjectCompiler(rules: RuleCompiler, resolvers: Resolvers): SubjectCompiler {
  function compute(identity: IdentityId, selecting: readonly Policy[], ports: readonly NamedPort[], settings: Settings): Omit<SubjectPolicy, 'identity'> {
    const rulesOn = (of: Direction): readonly PolicyRule[] => settings.enforcement === 'never' ? [] : rulesOf(selecting, of, settings)
    const [ingress, egress] = [rulesOn('ingress'), rulesOn('egress')]
    const merged = { ingress: settings.merge(ingress), egress: settings.merge(egress) }
    const direction = (of: Direction): DirectionPolicy => compileDirection(of, identity, selecting, merged[of], ports, rules, settings)
    const directions = { ingress: direction('ingress'), egress: direction('egress') }
    return {
      directions,
      denyReply: selecting.some((policy) => policy.denyReply === 'nxdomain')
        ? 'nxdomain'
        : (selecting.find((policy) => policy.denyReply !== undefined)?.denyReply ?? settings.denyReply),
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

function sameItems(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a === b || (a.length === b.length && a.every((item, i) => item === b[i]))
}
