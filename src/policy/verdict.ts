// The verdict on one flow, both directions, each with its why: pure, from a snapshot. What the kernel does at L3/L4, and what the proxies
// say above it where the flow tells.
import type { Endpoint, IdentityId } from '../identity/endpoints.ts'
import { hostId, unknownId } from '../identity/reserved.ts'
import { addressToText, familyOf, type Address } from '../net/address.ts'
import { portsCover, portsToText, type L4 } from '../net/ports.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'
import { makeJudges, type Above } from './above.ts'
import { compareStatements } from './names.ts'
import { makeRulings, settle, type PeerOf, type Ruling, type Rulings, type Statement } from './rulings.ts'
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

/** What is known of one identity as a subject. */
interface Subject {
  readonly policy: SubjectPolicy
  readonly rulings: Readonly<Record<Direction, Rulings>>
}

/** Decides flows under one snapshot. */
export function makeDecider(snapshot: Snapshot): (flow: Flow) => Decision {
  const subjects = new Map<IdentityId, Subject>()
  const rulingsOf = new Map<DirectionPolicy, Rulings>()
  const verdicts = new WeakMap<DirectionPolicy, WeakMap<Ruling, DirectionVerdict>>()
  const judges = makeJudges()

  function rulingsFor(policy: DirectionPolicy): Rulings {
    let rulings = rulingsOf.get(policy)
    if (rulings === undefined) rulingsOf.set(policy, (rulings = makeRulings(policy.entries)))
    return rulings
  }
  function subjectOf(identity: IdentityId): Subject {
    let subject = subjects.get(identity)
    if (subject === undefined) {
      const policy = snapshot.policyOf(identity)
      const { ingress, egress } = policy.directions
      subjects.set(identity, (subject = { policy, rulings: { ingress: rulingsFor(ingress), egress: rulingsFor(egress) } })) // prettier-ignore
    }
    return subject
  }

  function decideDirection(direction: Direction, subject: PeerOf, peer: PeerOf, flow: Flow): DirectionVerdict {
    const { policy, rulings } = subjectOf(subject.identity)
    const of = policy.directions[direction]
    const named = direction === 'egress' && flow.names !== undefined && flow.names.length > 0 && peer.isOutside
    const ruling = named ? namedRuling(policy, rulings[direction].rowOf(peer).entries, flow) : rulings[direction].rulingOf(peer, flow) // prettier-ignore
    if (ruling.kind === 'judge') return judgedVerdict(of, ruling, flow)
    if (ruling.kind === 'fallback') return fallbackVerdict(direction, policy, peer, flow)
    return kept(of, ruling)
  }
  /** One verdict for each ruling: nothing is made for a flow. */
  function kept(of: DirectionPolicy, ruling: Ruling & { kind: 'allow' | 'deny' }): DirectionVerdict {
    let ofPolicy = verdicts.get(of)
    if (ofPolicy === undefined) verdicts.set(of, (ofPolicy = new WeakMap()))
    let verdict = ofPolicy.get(ruling)
    if (verdict === undefined) ofPolicy.set(ruling, (verdict = ruledVerdict(of, ruling)))
    return verdict
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
    const from = resolveParty(snapshot, flow.from, flow.to)
    const to = resolveParty(snapshot, flow.to, flow.from)
    if (from.address !== undefined && from.address === to.address && from.identity === to.identity && from.identity >= firstWorkload) return toItself
    const egress = decideDirection('egress', from, to, flow)
    const ingress = decideDirection('ingress', to, from, flow)
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

/** Who a party is; an endpoint with several addresses uses the first of the other's family. */
export function resolveParty(snapshot: Snapshot, party: Party, other: Party): PeerOf {
  switch (party.kind) {
    case 'address': {
      const { address } = party
      return { identity: snapshot.identityOf(address), address, isOutside: !snapshot.isInCluster(address) }
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

/** What no entry decides. */
function fallbackVerdict(direction: Direction, policy: SubjectPolicy, peer: PeerOf, flow: Flow): DirectionVerdict {
  const of = policy.directions[direction]
  const fallback = peer.identity === hostId ? of.fallbackFromHost : of.fallback
  if (fallback === 'deny') {
    const why = deniedWhy(direction, policy, peer, flow)
    return { verdict: of.audit ? 'audited' : 'denied', why: [why] }
  }
  const text = of.fallback === 'allow' ? `no policy denies ${direction} by default` : 'this host reaches its workloads'
  return { verdict: 'allowed', why: [{ text }] }
}

function deniedWhy(direction: Direction, policy: SubjectPolicy, peer: PeerOf, flow: Flow): Why {
  const { selectedBy } = policy.directions[direction]
  if (policy.identity === unknownId) return { text: 'nobody knows whose address this is' }
  const selected = selectedBy.length === 0 ? '' : `; selected by ${selectedBy.join(', ')}`
  if (direction === 'ingress') return { text: `no rule matched${selected}` }
  for (const name of flow.names ?? []) {
    const grants = policy.grantsFor(labelsOfName(name))
    const [near] = grants
    if (near !== undefined && peer.isOutside)
      return { ...near.why, text: `${name} is allowed on ${[...new Set(grants.map(({ ports }) => portsToText(ports)))].join(', ')} only` } // prettier-ignore
  }
  if (policy.grantPorts.length > 0 && peer.isOutside && peer.address !== undefined)
    return {
      text: `no rule matched, and no name leased to this identity has ${addressToText(peer.address)}${selected}`,
    }
  return { text: `no rule matched${selected}` }
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
  const about = makeRulings(policy.directions.egress.entries).rowOf(peer).entries
  const asked: Flow = { ...flow, from: { kind: 'identity', identity }, to: { kind: 'address', address }, names }
  const ruling = peer.isOutside ? namedRuling(policy, about, asked) : settle(about.filter((entry) => portsCover(entry.ports, flow))) // prettier-ignore
  switch (ruling.kind) {
    case 'fallback': {
      const { verdict, why } = fallbackVerdict('egress', policy, peer, asked)
      return { kind: verdict === 'allowed' ? 'allow' : 'deny', why: why[0] }
    }
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

export function labelsOfName(name: string): readonly string[] {
  const wire = wireFromText(name)
  return wire === undefined ? [] : labelsOf(wire)
}
