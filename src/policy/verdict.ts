// The verdict on one flow, both directions, each with its why: pure, from a snapshot. What the kernel does at L3/L4, and what the proxies
// say above it where the flow tells.
import type { Endpoint, Identity, IdentityId } from '../identity/endpoints.ts'
import { apiServerLabel, hostId, hostLabel, remoteNodeLabel, unknownId, worldId } from '../identity/reserved.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { makeAddressTable, numberAt, type AddressTable } from '../net/addressTable.ts'
import { portsCover, portsToText, type L4 } from '../net/ports.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'
import { makeJudges, type Above, type Judges } from './above.ts'
import { compareStatements } from './names.ts'
import { isAbout, settle, type PeerOf, type Ruling, type Statement } from './rulings.ts'
import { addLane, lookUp, makeTables, noteOf, type Tables } from './tables.ts'
import type { Direction } from './rules.ts'
import type { DirectionPolicy, Grant, Snapshot, SubjectPolicy, Why } from './snapshot.ts'

/** One end of a flow. An endpoint may be given with the address it uses; a workload that has none yet is known by its labels only. */
export type Party =
  | { readonly kind: 'address'; readonly address: Address }
  | { readonly kind: 'endpoint'; readonly endpoint: Endpoint; readonly address?: Address }
  | { readonly kind: 'identity'; readonly identity: IdentityId }

export interface Flow extends L4, Above {
  readonly from: Party
  readonly to: Party
  /** Names that are known to lead to the destination's address: leased to the source, or resolved by it. */
  readonly names?: readonly string[] | undefined
}

/** `audited`: denied, and let through in audit mode. `redirect`: a proxy must judge what the flow does not tell. */
export type VerdictKind = 'allowed' | 'denied' | 'audited' | 'redirect'

/** The worse of two directions is the flow's verdict. */
const kinds: readonly VerdictKind[] = ['allowed', 'audited', 'redirect', 'denied']
const Rank = { allowed: 0, audited: 1, redirect: 2, denied: 3 } as const satisfies Record<VerdictKind, number>

export interface DirectionVerdict {
  readonly verdict: VerdictKind
  /** What decided comes first; behind it what else a person must know: requirements that are stated and not enforced here. */
  readonly why: readonly [Why, ...Why[]]
}

export interface Decision {
  readonly verdict: VerdictKind
  readonly egress: DirectionVerdict
  readonly ingress: DirectionVerdict
}

/** The verdict on one flow. Whoever has many flows keeps a decider: it remembers what it has worked out. */
export function decide(snapshot: Snapshot, flow: Flow): Decision {
  return makeDecider(snapshot)(flow)
}

type Judged = Ruling & { readonly kind: 'judge' }

/** Numbers that a decider keeps of what it has worked out, 16 MB; past that it begins anew. */
const numbersMax = 1 << 22

/** What a decider has worked out. Numbers of lanes and identities are small: a verdict touches little memory (`tables.ts`). */
interface Deciding {
  readonly snapshot: Snapshot
  readonly outsiders: ReadonlySet<IdentityId>
  /** Identity times two, and one more for `isOutside`. */
  readonly whose: AddressTable
  readonly tables: Tables
  readonly judges: Judges
  readonly lanes: Map<DirectionPolicy, number>
  /** By lane. */
  readonly policies: DirectionPolicy[]
  /** By lane, three each: where no entry decides by default, for flows from this host, for flows out of the cluster. */
  readonly fallbacks: DirectionVerdict[]
  /** What the tables' rulings say, by the upper bits of their codes; the lower two are the rank of the verdict. */
  readonly outcomes: (DirectionVerdict | Judged)[]
  /** By identity. */
  readonly egressLanes: (number | undefined)[]
  readonly ingressLanes: (number | undefined)[]
  /** Of what a direction said last: kept apart, so that a verdict does not look into what it says. */
  rank: number
}

/** Decides flows under one snapshot. @param keeps how many numbers it may keep. */
export function makeDecider(snapshot: Snapshot, keeps: number = numbersMax): (flow: Flow) => Decision {
  const policies: DirectionPolicy[] = []
  const outcomes: Deciding['outcomes'] = [nothing]
  const outsiders = outsidersOf(snapshot)
  const tables = makeTables({
    present: (lane, ruling) => {
      const outcome = presented(policies[lane], ruling)
      const rank = 'level' in outcome ? Rank.redirect : Rank[outcome.verdict]
      return ((outcomes.push(outcome) - 1) << 2) | rank
    },
    dropped: () => void (outcomes.length = 1),
    numbersMax: keeps,
  })
  const numbers = new Map([...snapshot.addresses].map(([address, id]) => [address, id * 2 + (outsiders.has(id) ? 1 : 0)]))
  const deciding: Deciding = { snapshot, outsiders, whose: makeAddressTable(numbers), tables, judges: makeJudges(), lanes: new Map(), policies, fallbacks: [], outcomes, egressLanes: [], ingressLanes: [], rank: 0 }
  return (flow) => decideFlow(deciding, flow)
} // prettier-ignore

function decideFlow(deciding: Deciding, flow: Flow): Decision {
  const from = partyOf(deciding, flow.from, flow.to)
  const to = partyOf(deciding, flow.to, flow.from)
  if (
    from.address !== undefined &&
    from.address === to.address &&
    from.identity === to.identity &&
    from.identity >= firstWorkload
  )
    return toItself
  const { names } = flow
  const lane = (deciding.egressLanes[from.identity] ??= laneOf(deciding, 'egress', from.identity))
  const egress = names !== undefined && names.length > 0 && to.isOutside ? ranked(deciding, decideNamed(deciding, from.identity, lane, to, flow, names)) : decideLane(deciding, lane, to, flow) // prettier-ignore
  const egressRank = deciding.rank
  const ingress = decideLane(deciding, (deciding.ingressLanes[to.identity] ??= laneOf(deciding, 'ingress', to.identity)), from, flow) // prettier-ignore
  return { verdict: kinds[Math.max(egressRank, deciding.rank)] ?? 'denied', egress, ingress }
}

/** Who a party is, for the most usual ones without a look into a Map. */
function partyOf({ snapshot, outsiders, whose }: Deciding, party: Party, other: Party): PeerOf {
  if (party.kind !== 'address') return resolveParty(snapshot, outsiders, party, other)
  const { address } = party
  const number = numberAt(whose, address)
  if (number < 0) return { identity: worldId[familyOf(address)], address, isOutside: true }
  return { identity: number >>> 1, address, isOutside: (number & 1) === 1 }
}

function laneOf({ snapshot, lanes, policies, fallbacks, tables }: Deciding, direction: Direction, identity: IdentityId): number {
  const policy = snapshot.policyOf(identity)
  const of = policy.directions[direction]
  let lane = lanes.get(of)
  if (lane === undefined) {
    const said = fallbacksOf(direction, policy)
    lane = addLane(tables, of.entries, said.map(({ verdict }) => Rank[verdict]))
    lanes.set(of, lane)
    policies.push(of)
    fallbacks.push(...said)
  }
  return lane
} // prettier-ignore

function decideLane(deciding: Deciding, lane: number, peer: PeerOf, flow: Flow): DirectionVerdict {
  const { tables, fallbacks, outcomes } = deciding
  const code = lookUp(tables, lane, peer, flow)
  if (code === 0) {
    const at = placeOf(peer)
    deciding.rank = noteOf(tables, lane, at)
    return fallbacks[lane * 3 + at] ?? nothing
  }
  deciding.rank = code & 3
  // Only what is to be judged has the rank of a redirect; nothing else of the outcome is looked at.
  const outcome = outcomes[code >> 2] ?? nothing
  return deciding.rank === Rank.redirect && 'level' in outcome
    ? ranked(deciding, judgedVerdict(deciding, lane, outcome, flow))
    : (outcome as DirectionVerdict)
}

function ranked(deciding: Deciding, verdict: DirectionVerdict): DirectionVerdict {
  deciding.rank = Rank[verdict.verdict]
  return verdict
}

/** Where names count: grants stand among the entries. */
function decideNamed(deciding: Deciding, identity: IdentityId, lane: number, peer: PeerOf, flow: Flow, names: readonly string[]): DirectionVerdict {
  const policy = deciding.snapshot.policyOf(identity)
  const { egress } = policy.directions
  const ruling = namedRuling(policy, egress.entries.filter((entry) => isAbout(entry, peer)), flow)
  if (ruling.kind === 'judge') return judgedVerdict(deciding, lane, ruling, flow)
  if (ruling.kind !== 'fallback') return ruledVerdict(egress, ruling)
  const fallback = deciding.fallbacks[lane * 3 + placeOf(peer)] ?? nothing
  const why = egress.fallback === 'deny' ? namedWhy(policy, names) : undefined
  return why === undefined ? fallback : { ...fallback, why: [why] }
} // prettier-ignore

function judgedVerdict({ judges, policies }: Deciding, lane: number, { level }: Judged, flow: Flow): DirectionVerdict {
  const judgement = judges.judge(level, flow)
  switch (judgement.kind) {
    case 'met': {
      const { by, spot } = judgement
      return {
        verdict: 'allowed',
        why: [{ ...by.why, text: spot.text, rule: spot.path }, ...requirements(level, by)],
      }
    }
    case 'unknown':
      return { verdict: 'redirect', why: [{ ...judgement.by.why, text: `a proxy judges ${what(judgement.by)}` }, ...requirements(level, judgement.by)] } // prettier-ignore
    case 'unmet': {
      const [first] = level
      const words = [...new Set(level.filter((by) => by.l7 !== undefined || by.rule.serverNames !== undefined).map(what))].join(', ') // prettier-ignore
      return { verdict: 'denied', why: [{ ...(first?.why ?? {}), text: `no rule for ${words} matches; selected by ${(policies[lane]?.selectedBy ?? []).join(', ')}` }] } // prettier-ignore
    }
  }
}

const firstWorkload = 256
const loop: DirectionVerdict = { verdict: 'allowed', why: [{ text: 'a workload always reaches itself' }] }
/** Of a lane that is not there. */
const nothing: DirectionVerdict = { verdict: 'denied', why: [{ text: 'no policy is known' }] }
const toItself: Decision = { verdict: 'allowed', egress: loop, ingress: loop }

/** Identities that CIDRs are about although they are not world's: API servers out there. */
export function outsidersOf({ identities }: Pick<Snapshot, 'identities'>): ReadonlySet<IdentityId> {
  const isApart = ({ labels }: Identity): boolean => labels.has(apiServerLabel) && !labels.has(remoteNodeLabel) && !labels.has(hostLabel)
  return new Set([...identities.values()].flatMap((identity) => (isApart(identity) ? [identity.id] : [])))
} // prettier-ignore

/** Who a party is; an endpoint with several addresses uses the first of the other's family. */
export function resolveParty(
  snapshot: Snapshot,
  outsiders: ReadonlySet<IdentityId>,
  party: Party,
  other: Party,
): PeerOf {
  switch (party.kind) {
    case 'address': {
      const { address } = party
      const identity = snapshot.addresses.get(address)
      if (identity === undefined) return { identity: worldId[familyOf(address)], address, isOutside: true }
      return { identity, address, isOutside: outsiders.has(identity) }
    }
    case 'endpoint': {
      const { endpoint, address = addressFor(endpoint, other) } = party
      // At an address that somebody else claims too, nobody is who it says.
      const isNobodys = address !== undefined && snapshot.addresses.get(address) === unknownId
      return { identity: isNobodys ? unknownId : endpoint.identity, address, isOutside: false }
    }
    case 'identity':
      return { identity: party.identity, address: undefined, isOutside: false }
  }
}

function addressFor({ addresses }: Endpoint, other: Party): Address | undefined {
  const like = other.kind === 'address' ? other.address : other.kind === 'endpoint' ? (other.address ?? other.endpoint.addresses[0]) : undefined // prettier-ignore
  if (like === undefined) return addresses[0]
  return addresses.find((address) => familyOf(address) === familyOf(like)) ?? addresses[0]
}

/** The ruling where names count: what they grant stands among the entries. A denied name counts only where every name is denied. */
function namedRuling(policy: SubjectPolicy, entries: readonly Statement[], flow: Flow): Ruling {
  const covering = entries.filter((entry) => portsCover(entry.ports, flow))
  const granted = (flow.names ?? []).map((name) =>
    policy.grantsFor(labelsOfName(name)).filter((grant) => portsCover(grant.ports, flow)),
  )
  const isDenied = (grants: readonly Grant[]): boolean => grants.some((grant) => grant.kind === 'deny')
  const everyDenied = granted.every(isDenied)
  const grants = granted.flat().filter((grant) => grant.kind === 'allow' || everyDenied)
  return settle(grants.length === 0 ? covering : [...covering, ...grants].sort(compareStatements))
}

function presented(of: DirectionPolicy | undefined, ruling: Ruling): DirectionVerdict | Judged {
  if (ruling.kind === 'judge') return ruling
  return ruling.kind === 'fallback' || of === undefined ? nothing : ruledVerdict(of, ruling)
}

/** Which of a lane's fallbacks a peer meets. */
function placeOf({ identity, isOutside }: PeerOf): 0 | 1 | 2 {
  return identity === hostId ? 1 : isOutside ? 2 : 0
}

function ruledVerdict(of: DirectionPolicy, ruling: Ruling & { kind: 'allow' | 'deny' }): DirectionVerdict {
  const { by } = ruling
  if (ruling.kind === 'deny') return { verdict: of.audit ? 'audited' : 'denied', why: [by.why] }
  return { verdict: 'allowed', why: [by.why, ...requirements(ruling.level, by)] }
}

/** What rules state and nobody here holds anybody to. */
function requirements(level: readonly Statement[], by: Statement): Why[] {
  const found: Why[] = []
  const authentic = by.rule.authentication === 'disabled' ? undefined : level.find(({ rule }) => rule.authentication !== undefined && rule.authentication !== 'disabled') // prettier-ignore
  if (authentic !== undefined)
    found.push({ ...authentic.why, text: `authentication is ${authentic.rule.authentication}, not enforced yet` })
  for (const field of ['listener', 'terminatingTLS', 'originatingTLS'] as const)
    if (by.rule[field] !== undefined) found.push({ ...by.why, text: `${field} is stated, not enforced yet` })
  return found
}

function what({ l7, rule }: Statement): string {
  if (l7 === undefined) return rule.serverNames === undefined ? 'ports' : 'server names'
  return { http: 'HTTP', kafka: 'Kafka', dns: 'DNS', l7: l7.kind === 'l7' ? l7.protocol : '' }[l7.kind]
}

/** What is said where no entry decides: by default, to flows from this host, to flows out of the cluster. */
function fallbacksOf(direction: Direction, policy: SubjectPolicy): [DirectionVerdict, DirectionVerdict, DirectionVerdict] {
  const { fallback, fallbackFromHost, selectedBy, audit } = policy.directions[direction]
  const selected = selectedBy.length === 0 ? '' : `; selected by ${selectedBy.join(', ')}`
  const missing = policy.identity === unknownId ? 'nobody knows whose address this is' : 'no rule matched'
  const say = (verdict: 'allow' | 'deny', text: string): DirectionVerdict => ({ verdict: verdict === 'allow' ? 'allowed' : audit ? 'audited' : 'denied', why: [{ text }] })
  const free = `no policy denies ${direction} by default`
  const denied = missing + selected
  const wantsName = direction === 'egress' && policy.grantPorts.length > 0
  return [
    say(fallback, fallback === 'allow' ? free : denied),
    say(fallbackFromHost, fallback === 'allow' ? free : fallbackFromHost === 'allow' ? 'this host reaches its workloads' : denied),
    say(fallback, fallback === 'allow' ? free : wantsName ? `${missing}, and no name that is allowed leads there${selected}` : denied),
  ]
} // prettier-ignore

/** What is near to allowing: a name that is granted, on other ports. */
function namedWhy(policy: SubjectPolicy, names: readonly string[]): Why | undefined {
  for (const name of names) {
    const grants = policy.grantsFor(labelsOfName(name)).filter((grant) => grant.kind === 'allow')
    const [near] = grants
    if (near === undefined) continue
    return { ...near.why, text: `${name} is allowed on ${[...new Set(grants.map(({ ports }) => portsToText(ports)))].join(', ')} only` } // prettier-ignore
  }
  return undefined
}

export interface EgressFlow extends L4 {
  readonly identity: IdentityId
  readonly address: Address
  /** Names under which this identity holds a lease on the address. */
  readonly leasedNames: readonly string[]
}

export interface EgressVerdict {
  readonly kind: 'allow' | 'deny'
  readonly why: Why
}

/** The egress half alone, as the kernel gives it: what a proxy would have to judge is denied. In audit mode denials are told as such. */
export function decideEgress(snapshot: Snapshot, flow: EgressFlow): EgressVerdict {
  const { identity, address, leasedNames: names } = flow
  const policy = snapshot.policyOf(identity)
  const peer = { identity: snapshot.identityOf(address), address, isOutside: !snapshot.isInCluster(address) }
  const about = policy.directions.egress.entries.filter((entry) => isAbout(entry, peer))
  const asked: Flow = { ...flow, from: { kind: 'identity', identity }, to: { kind: 'address', address }, names }
  const ruling = peer.isOutside ? namedRuling(policy, about, asked) : settle(about.filter((entry) => portsCover(entry.ports, flow))) // prettier-ignore
  switch (ruling.kind) {
    case 'fallback':
      return deniedEgress(policy, peer, names)
    case 'judge': {
      const [by] = ruling.level
      return { kind: 'deny', why: { ...by?.why, text: `not enforced yet: ${by === undefined ? '' : what(by)}` } }
    }
    default: {
      const { by } = ruling
      const name = 'peers' in by ? undefined : names.find((each) => policy.grantsFor(labelsOfName(each)).includes(by))
      return { kind: ruling.kind, why: name === undefined ? by.why : { ...by.why, text: `leased as ${name} by ${by.why.text}` } } // prettier-ignore
    }
  }
}

function deniedEgress(policy: SubjectPolicy, { address, isOutside, identity }: PeerOf, names: readonly string[]): EgressVerdict {
  const { egress } = policy.directions
  if ((identity === hostId ? egress.fallbackFromHost : egress.fallback) === 'allow') return { kind: 'allow', why: { text: 'no policy denies egress by default' } }
  const near = isOutside ? namedWhy(policy, names) : undefined
  if (near !== undefined) return { kind: 'deny', why: near }
  const selected = egress.selectedBy.length === 0 ? '' : `; selected by ${egress.selectedBy.join(', ')}`
  const missing = policy.grantPorts.length > 0 && isOutside && address !== undefined ? `no rule matched, and no name leased to this identity has ${addressToText(address)}` : 'no rule matched'
  return { kind: 'deny', why: { text: missing + selected } }
} // prettier-ignore

export function labelsOfName(name: string): readonly string[] {
  const wire = wireFromText(name)
  return wire === undefined ? [] : labelsOf(wire)
}
