// The verdict on one flow, both directions, each with its why: pure, from a snapshot. What the kernel does at L3/L4, and what the proxies
// say above it where the flow tells.
import type { Endpoint, Identity, IdentityId } from '../identity/endpoints.ts'
import { apiServerLabel, hostId, hostLabel, remoteNodeLabel, unknownId, worldId } from '../identity/reserved.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { portsCover, portsToText, type L4 } from '../net/ports.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'
import { makeJudges, type Above } from './above.ts'
import { compareStatements } from './names.ts'
import { isAbout, makeRulings, settle, type PeerOf, type Ruling, type Rulings, type Statement } from './rulings.ts'
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

/** One direction of subjects that the same policies select, with the verdicts that no flow changes. */
interface Lane {
  readonly of: DirectionPolicy
  readonly rulings: Rulings<Settled>
  /** Where no entry decides: by default, for flows from this host, and for flows out of the cluster. */
  readonly fallback: DirectionVerdict
  readonly fallbackFromHost: DirectionVerdict
  readonly fallbackOutside: DirectionVerdict
}

/** What is known of one identity. */
interface Known {
  readonly policy: SubjectPolicy
  readonly ingress: Lane
  readonly egress: Lane
}

/** A ruling with the verdict that it is, where nothing of the flow but addresses and ports counts. */
type Settled =
  { readonly kind: 'said'; readonly verdict: DirectionVerdict } | (Ruling & { readonly kind: 'judge' | 'fallback' })

function settledAs(of: DirectionPolicy): (ruling: Ruling) => Settled {
  return (ruling) => ruling.kind === 'judge' || ruling.kind === 'fallback' ? ruling : { kind: 'said', verdict: ruledVerdict(of, ruling) }
} // prettier-ignore

/** Decides flows under one snapshot. */
export function makeDecider(snapshot: Snapshot): (flow: Flow) => Decision {
  const known = new Map<IdentityId, Known>()
  const lanes = new Map<DirectionPolicy, Lane>()
  const judges = makeJudges()
  const outsiders = outsidersOf(snapshot)

  function laneOf(direction: Direction, policy: SubjectPolicy): Lane {
    const of = policy.directions[direction]
    let lane = lanes.get(of)
    if (lane === undefined) lanes.set(of, (lane = { of, rulings: makeRulings(of.entries, settledAs(of)), ...fallbacksOf(direction, policy) })) // prettier-ignore
    return lane
  }
  function knownOf(identity: IdentityId): Known {
    let subject = known.get(identity)
    if (subject === undefined) {
      const policy = snapshot.policyOf(identity)
      known.set(identity, (subject = { policy, ingress: laneOf('ingress', policy), egress: laneOf('egress', policy) }))
    }
    return subject
  }

  function decideEgressOf({ policy, egress }: Known, peer: PeerOf, flow: Flow): DirectionVerdict {
    const { names } = flow
    if (names === undefined || names.length === 0 || !peer.isOutside) return settledVerdict(egress, egress.rulings.rulingOf(peer, flow), peer, flow) // prettier-ignore
    const ruling = namedRuling(policy, egress.rulings.rowOf(peer).entries, flow)
    if (ruling.kind !== 'fallback' || egress.of.fallback === 'allow') return settledVerdict(egress, settledAs(egress.of)(ruling), peer, flow) // prettier-ignore
    return { verdict: egress.of.audit ? 'audited' : 'denied', why: [namedWhy(policy, names) ?? egress.fallbackOutside.why[0]] } // prettier-ignore
  }
  function settledVerdict(lane: Lane, settled: Settled, peer: PeerOf, flow: Flow): DirectionVerdict {
    switch (settled.kind) {
      case 'said':
        return settled.verdict
      case 'judge':
        return judgedVerdict(lane.of, settled, flow)
      case 'fallback':
        return peer.identity === hostId ? lane.fallbackFromHost : peer.isOutside ? lane.fallbackOutside : lane.fallback
    }
  }
  function judgedVerdict(of: DirectionPolicy, { level }: Ruling & { kind: 'judge' }, flow: Flow): DirectionVerdict {
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
        return { verdict: 'denied', why: [{ ...(first?.why ?? {}), text: `no rule for ${words} matches; selected by ${of.selectedBy.join(', ')}` }] } // prettier-ignore
      }
    }
  }

  return (flow) => {
    const from = resolveParty(snapshot, outsiders, flow.from, flow.to)
    const to = resolveParty(snapshot, outsiders, flow.to, flow.from)
    if (
      from.address !== undefined &&
      from.address === to.address &&
      from.identity === to.identity &&
      from.identity >= firstWorkload
    )
      return toItself
    const egress = decideEgressOf(knownOf(from.identity), to, flow)
    const { ingress: lane } = knownOf(to.identity)
    const ingress = settledVerdict(lane, lane.rulings.rulingOf(from, flow), from, flow)
    return { verdict: worse(egress.verdict, ingress.verdict), egress, ingress }
  }
}

const firstWorkload = 256
const loop: DirectionVerdict = { verdict: 'allowed', why: [{ text: 'a workload always reaches itself' }] }
const toItself: Decision = { verdict: 'allowed', egress: loop, ingress: loop }

const severity: Readonly<Record<VerdictKind, number>> = { allowed: 0, audited: 1, redirect: 2, denied: 3 }

function worse(a: VerdictKind, b: VerdictKind): VerdictKind {
  return severity[a] >= severity[b] ? a : b
}

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
      const { endpoint, address } = party
      return { identity: endpoint.identity, address: address ?? addressFor(endpoint, other), isOutside: false }
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

/** What is said where no entry decides. */
function fallbacksOf(direction: Direction, policy: SubjectPolicy): Pick<Lane, 'fallback' | 'fallbackFromHost' | 'fallbackOutside'> {
  const { fallback, fallbackFromHost, selectedBy, audit } = policy.directions[direction]
  const selected = selectedBy.length === 0 ? '' : `; selected by ${selectedBy.join(', ')}`
  const missing = policy.identity === unknownId ? 'nobody knows whose address this is' : 'no rule matched'
  const say = (verdict: 'allow' | 'deny', text: string): DirectionVerdict => ({ verdict: verdict === 'allow' ? 'allowed' : audit ? 'audited' : 'denied', why: [{ text }] })
  const free = `no policy denies ${direction} by default`
  const denied = missing + selected
  const wantsName = direction === 'egress' && policy.grantPorts.length > 0
  return {
    fallback: say(fallback, fallback === 'allow' ? free : denied),
    fallbackFromHost: say(fallbackFromHost, fallback === 'allow' ? free : fallbackFromHost === 'allow' ? 'this host reaches its workloads' : denied),
    fallbackOutside: say(fallback, fallback === 'allow' ? free : wantsName ? `${missing}, and no name that is allowed leads there${selected}` : denied),
  }
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
