// A verdict with every step that led to it: which policies select, which tiers were walked, which rules were tried and what each lacked.
// As data, and as lines of text. Slow on purpose: it goes through all rules one by one and keeps nothing.
import type { IdentityId } from '../identity/endpoints.ts'
import { labelsToText, type Labels } from '../identity/labels.ts'
import { hostId } from '../identity/reserved.ts'
import { clusterKey, selects } from '../identity/selector.ts'
import { addressToText } from '../net/address.ts'
import { portsCover, portsToText, protocolName } from '../net/ports.ts'
import { makeJudges } from './above.ts'
import { lackOfPeer, peerText } from './lack.ts'
import { isClosedBy } from './merge.ts'
import { compareStatements, isClosed, whyOf } from './names.ts'
import { asksAbove, isAbout, type PeerOf, type Statement } from './rulings.ts'
import { Tier, type Direction, type Policy, type Rule } from './rules.ts'
import type { DirectionPolicy, Snapshot, SubjectPolicy, Why } from './snapshot.ts'
import {
  decide,
  labelsOfName,
  outsidersOf,
  resolveParty,
  type Decision,
  type Flow,
  type VerdictKind,
} from './verdict.ts'

/** What a rule lacks to be about the flow. `name`: none of the names that it grants is known for the address. */
export type Lack = 'peer' | 'port' | 'name' | 'l7'

/**
 * What became of one rule. `decides`; `joins`: it allows on the level that decides, beside the rule that does; `passes`: the rest of its tier
 * is skipped; `lacks`; `skipped`: what was before it decided, or passed its tier.
 */
export type Outcome =
  | { readonly kind: 'decides' | 'joins' | 'passes' }
  /**
   * `isolated`: by the specification the verdict of a NetworkPolicy is final, and the Baseline tier is not reached. `closed`: it cannot stand
   * beside another rule, and neither opens anything.
   */
  | { readonly kind: 'skipped'; readonly because: 'decided' | 'passed' | 'isolated' | 'closed' }
  | { readonly kind: 'lacks'; readonly lacks: Lack; readonly detail: string }

export type Step =
  | { readonly kind: 'tier'; readonly tier: number; readonly name: string }
  | {
      readonly kind: 'rule'
      readonly statement: 'allow' | 'deny' | 'pass'
      readonly priority: number
      readonly ports: string
      /** A proxy has the connection even where another rule allows it as it is: TLS contexts or a listener are asked for. */
      readonly isProxied: boolean
      readonly why: Why
      readonly outcome: Outcome
    }
  | { readonly kind: 'fallback'; readonly fallback: 'allow' | 'deny'; readonly text: string }

export interface DirectionExplanation {
  readonly direction: Direction
  readonly subject: IdentityId
  readonly peer: IdentityId
  readonly selectedBy: readonly string[]
  readonly steps: readonly Step[]
  readonly verdict: VerdictKind
  readonly why: readonly Why[]
}

export interface Explanation {
  readonly decision: Decision
  readonly egress: DirectionExplanation
  readonly ingress: DirectionExplanation
  readonly text: readonly string[]
}

/** Explains the verdict on a flow. @param policies those that the snapshot was compiled from: rules that are about nobody are in it no more */
export function explain(snapshot: Snapshot, flow: Flow, policies: readonly Policy[] = []): Explanation {
  const decision = decide(snapshot, flow)
  const outsiders = outsidersOf(snapshot)
  const from = resolveParty(snapshot, outsiders, flow.from, flow.to)
  const to = resolveParty(snapshot, outsiders, flow.to, flow.from)
  const egress = explainDirection(snapshot, 'egress', from, to, flow, decision, policies)
  const ingress = explainDirection(snapshot, 'ingress', to, from, flow, decision, policies)
  const text = [flowText(snapshot, from, to, flow), ...directionText(egress), ...directionText(ingress), `verdict: ${decision.verdict}`] // prettier-ignore
  return { decision, egress, ingress, text }
}

function explainDirection(snapshot: Snapshot, direction: Direction, subject: PeerOf, peer: PeerOf, flow: Flow, decision: Decision, policies: readonly Policy[]): DirectionExplanation {
  const policy = snapshot.policyOf(subject.identity)
  const of = policy.directions[direction]
  const { verdict, why } = decision[direction]
  const selecting = policies.filter((each) => of.selectedBy.includes(each.name) && isSubject(each, snapshot, subject.identity))
  const heard = statementsOf(snapshot, direction, policy, peer, flow)
  const tried = [...heard, ...silentRules(snapshot, selecting, direction, heard, peer, flow)].sort((a, b) => compareStatements(a.statement, b.statement))
  return { direction, subject: subject.identity, peer: peer.identity, selectedBy: of.selectedBy, steps: stepsOf(of, tried, peer, flow, verdict, why[0]), verdict, why }
} // prettier-ignore

/** The name of this cluster, as its pods have it among their labels. */
function clusterOf({ identities }: Snapshot): string | undefined {
  for (const { labels } of identities.values()) if (labels.has(clusterKey)) return labels.get(clusterKey)
  return undefined
}

function isSubject({ subject }: Policy, { identities }: Snapshot, identity: IdentityId): boolean {
  if (subject.kind === 'node') return identity === hostId
  return selects(subject.selector, identities.get(identity)?.labels ?? new Map<string, string>())
}

/** A statement with what it lacks. */
interface Tried {
  readonly statement: Statement
  /** As its rule says them, where the statement does not. */
  readonly ports?: string
  readonly lack: (Outcome & { readonly kind: 'lacks' | 'skipped' }) | undefined
}

/** Rules that came to no statement about this flow: they are about nobody who is here, about names that nobody knows of, or not reached. */
function silentRules(snapshot: Snapshot, selecting: readonly Policy[], direction: Direction, heard: readonly Tried[], peer: PeerOf, flow: Flow): readonly Tried[] {
  const isolated = selecting.some(({ kind, defaultDeny }) => kind === 'NetworkPolicy' && defaultDeny[direction])
  const closed = heard.filter(({ statement }) => isClosed(statement))
  const isHeard = (policy: Policy, rule: Rule): boolean =>
    heard.some(({ statement: { rule: other, why } }) => why.policy === policy.name && other.path === rule.path && sharesNames(rule, other))
  return selecting.flatMap((policy) =>
    policy.rules
      .filter((rule) => rule.direction === direction && !isHeard(policy, rule))
      .map((rule): Tried => {
        const { kind, tier, priority } = rule
        const statement = { kind, tier, priority, ports: { kind: 'all' } as const, rule, peers: nobody, why: whyOf(policy, rule, generic[kind]) }
        const ports = rule.ports.map((each) => (each.kind === 'named' ? `${protocolName(each.protocol)}/${each.name}` : portsToText(each))).join(', ')
        const isOut = isolated && tier === Tier.Baseline && !heard.some((each) => each.statement.tier === tier)
        const cluster = clusterOf(snapshot)
        const isShut = closed.some((each) => isClosedBy(rule, each.statement.rule, cluster ?? ''))
        const because = isOut ? 'isolated' : isShut ? 'closed' : undefined
        return { statement, ports, lack: because === undefined ? silence(rule, peer, flow, cluster) : { kind: 'skipped', because } }
      }),
  )
} // prettier-ignore

const nobody = { identities: new Set<IdentityId>(), outside: [], everywhere: [] } as const

/** Rules of one path are told apart by the names of their ports; others are heard as one. */
function sharesNames(rule: Rule, other: Rule): boolean {
  const names = rule.ports.flatMap((port) => (port.kind === 'named' ? port.name : []))
  return names.length < rule.ports.length || names.some((name) => other.ports.some((port) => port.kind === 'named' && port.name === name))
} // prettier-ignore

function silence(rule: Rule, peer: PeerOf, { names = [] }: Flow, cluster: string | undefined): Outcome & { readonly kind: 'lacks' } {
  const { peers, ports } = rule
  if (peers !== 'everyone' && peers.some(({ kind }) => kind === 'name')) {
    const list = peers.map((each) => peerText(each, cluster)).join('; ')
    if (!peer.isOutside) return { kind: 'lacks', lacks: 'peer', detail: `it is about ${list}; names lead out of the cluster only` }
    const known = names.length === 0 ? 'no name is known to lead there' : `known to lead there: ${names.join(', ')}`
    return { kind: 'lacks', lacks: 'name', detail: `it is about ${list}; ${known}` }
  }
  const named = ports.find((port) => port.kind === 'named')
  if (named !== undefined) return { kind: 'lacks', lacks: 'port', detail: rule.direction === 'ingress' ? `it has no port named ${named.name}` : `nobody it is about has a port named ${named.name}` }
  const list = peers === 'everyone' || peers.length === 0 ? '' : `: ${peers.map((each) => peerText(each, cluster)).join('; ')}`
  return { kind: 'lacks', lacks: 'peer', detail: `it is about nobody who is here${list}` }
} // prettier-ignore

function statementsOf(snapshot: Snapshot, direction: Direction, policy: SubjectPolicy, peer: PeerOf, flow: Flow): readonly Tried[] {
  const l4 = l4Text(flow)
  const labelsOf = (id: IdentityId): Labels => snapshot.identities.get(id)?.labels ?? new Map<string, string>()
  const someone = { ...peer, labels: labelsOf(peer.identity) }
  const cluster = clusterOf(snapshot)
  const entries = policy.directions[direction].entries.map((statement): Tried => {
    if (!isAbout(statement, peer)) return { statement, lack: { kind: 'lacks', lacks: 'peer', detail: lackOfPeer(statement.rule, someone, cluster) } }
    return { statement, lack: lackOfPort(statement, flow, l4) }
  })
  const names = direction === 'egress' && peer.isOutside ? (flow.names ?? []) : []
  const granted = names.map((name) => policy.grantsFor(labelsOfName(name)))
  const everyDenied = granted.every((grants) => grants.some((grant) => grant.kind === 'deny' && portsCover(grant.ports, flow))) // prettier-ignore
  const grants = granted.flat().map((statement): Tried => {
    const lack = lackOfPort(statement, flow, l4)
    if (lack === undefined && statement.kind === 'deny' && !everyDenied)
      return { statement, lack: { kind: 'lacks', lacks: 'name', detail: 'the address is known by other names too' } }
    return { statement, lack }
  })
  return [...entries, ...grants]
} // prettier-ignore

function lackOfPort({ ports }: Statement, flow: Flow, l4: string): Tried['lack'] {
  return portsCover(ports, flow) ? undefined : { kind: 'lacks', lacks: 'port', detail: `${l4} is not ${portsToText(ports)}` } // prettier-ignore
}

function holdsProxy({ kind, rule }: Statement): boolean {
  return kind === 'allow' && (rule.listener ?? rule.terminatingTLS ?? rule.originatingTLS) !== undefined
}

const tierNames: Readonly<Record<number, string>> = { [Tier.Admin]: 'Admin', [Tier.Normal]: 'Normal', [Tier.Baseline]: 'Baseline' } // prettier-ignore

function stepsOf(of: DirectionPolicy, tried: readonly Tried[], peer: PeerOf, flow: Flow, verdict: VerdictKind, decisive: Why): readonly Step[] {
  const steps: Step[] = []
  const judges = makeJudges()
  let tier = -1
  let passed = -1
  let decided: Statement | undefined
  for (const { statement, lack, ports: said } of tried) {
    if (statement.tier !== tier) {
      tier = statement.tier
      steps.push({ kind: 'tier', tier, name: tierNames[tier] ?? String(tier) })
    }
    let outcome: Outcome
    if (lack !== undefined) outcome = lack
    else if (statement.tier <= passed) outcome = { kind: 'skipped', because: 'passed' }
    else if (decided !== undefined) outcome = isOneLevel(decided, statement) ? { kind: 'joins' } : { kind: 'skipped', because: 'decided' }
    else if (statement.kind === 'pass') {
      passed = statement.tier
      outcome = { kind: 'passes' }
    } else {
      decided = statement
      outcome = { kind: 'decides' }
    }
    if (statement.kind === 'allow' && asksAbove(statement) && (outcome.kind === 'decides' || outcome.kind === 'joins')) {
      if (judges.judge([statement], flow).kind === 'unmet') outcome = { kind: 'lacks', lacks: 'l7', detail: aboveText(statement, flow) }
    }
    const { kind, priority, ports, why } = statement
    steps.push({ kind: 'rule', statement: kind, priority, ports: said ?? portsToText(ports), isProxied: holdsProxy(statement), why, outcome })
  }
  if (decided === undefined) {
    const fallback = peer.identity === 1 ? of.fallbackFromHost : of.fallback
    steps.push({ kind: 'fallback', fallback, text: decisive.text })
  } else if (verdict === 'denied' && decided.kind === 'allow') steps.push({ kind: 'fallback', fallback: 'deny', text: decisive.text })
  return steps
} // prettier-ignore

/** What a flow brings above L4, of what a rule asks there. */
function aboveText({ l7, rule }: Statement, { http, dns, sni, kafka }: Flow): string {
  const told = [
    ...(rule.serverNames !== undefined && sni !== undefined ? [`server name ${sni} (it wants ${rule.serverNames.join(', ')})`] : []),
    ...(l7?.kind === 'http' && http !== undefined ? [`${http.method ?? 'the request'} ${http.path ?? ''}`.trim()] : []),
    ...(l7?.kind === 'dns' && dns !== undefined ? [`the question for ${dns}`] : []),
    ...(l7?.kind === 'kafka' && kafka !== undefined ? ['the Kafka request'] : []),
  ]
  return told.length === 0 ? 'what it asks above L4 is not met' : `${told.join(', ')} meets none of what it lists`
} // prettier-ignore

function isOneLevel(decided: Statement, statement: Statement): boolean {
  return decided.kind === 'allow' && statement.kind === 'allow' && decided.tier === statement.tier && decided.priority === statement.priority // prettier-ignore
}

function l4Text({ protocol, port, icmpType }: Flow): string {
  const name = protocolName(protocol)
  return port !== undefined ? `${name}/${port}` : icmpType !== undefined ? `${name} type ${icmpType}` : name
}

function flowText(snapshot: Snapshot, from: PeerOf, to: PeerOf, flow: Flow): string {
  const names = flow.names === undefined || flow.names.length === 0 ? '' : ` (${flow.names.join(', ')})`
  return `${partyText(snapshot, from)} -> ${partyText(snapshot, to)}${names}, ${l4Text(flow)}`
}

/** The endpoint's name, else the address, with the labels of the identity where there are few. */
function partyText(snapshot: Snapshot, { identity, address }: PeerOf): string {
  const endpoint = (address === undefined ? undefined : snapshot.endpointOf(address)) ?? (address === undefined ? snapshot.endpoints.find((each) => each.identity === identity) : undefined) // prettier-ignore
  if (endpoint !== undefined) return `${endpoint.namespace}/${endpoint.name} [identity ${identity}]`
  const labels = labelsToText(snapshot.identities.get(identity)?.labels ?? new Map()).filter((label) => label.startsWith('reserved:')) // prettier-ignore
  return `${address === undefined ? '' : addressToText(address)} [${labels.length === 0 ? `identity ${identity}` : labels.join(', ')}]`.trim() // prettier-ignore
}

function directionText({ direction, selectedBy, steps, verdict, why }: DirectionExplanation): string[] {
  const selected = selectedBy.length === 0 ? 'selected by no policy' : `selected by ${selectedBy.join(', ')}`
  return [
    `${direction}: ${verdict}: ${whyText(why[0] ?? { text: '' })}`,
    ...why.slice(1).map((other) => `  note: ${whyText(other)}`),
    `  ${selected}`,
    ...steps.map(stepText),
  ]
}

function stepText(step: Step): string {
  switch (step.kind) {
    case 'tier':
      return `  tier ${step.name}`
    case 'fallback':
      return `  at the end: ${step.fallback}: ${step.text}`
    case 'rule': {
      const { outcome } = step
      // What it would have done stands in front already.
      const { text, ...place } = step.why
      const rule = whyText({ ...place, text: text === generic[step.statement] ? '' : text }).trim()
      return `    ${step.statement} ${step.ports} ${rule}: ${outcomeText(outcome)}`
    }
  }
}

/** What entries say of themselves when there is nothing more to say. */
const generic = { allow: 'allowed by rule', deny: 'denied by rule', pass: 'passed on by rule' } as const

const skippedText = {
  passed: 'skipped: its tier is passed',
  decided: 'not needed: the verdict stands',
  closed: 'opens nothing here: it cannot stand beside another rule',
  isolated: 'not reached: a NetworkPolicy selects this, and its verdict is final',
} as const

function outcomeText(outcome: Outcome): string {
  switch (outcome.kind) {
    case 'lacks':
      return `lacks the ${outcome.lacks === 'l7' ? 'request' : outcome.lacks}: ${outcome.detail}`
    case 'decides':
      return 'decides'
    case 'joins':
      return 'allows too, with the rule that decides'
    case 'passes':
      return 'passes: the rest of the tier is skipped'
    case 'skipped':
      return skippedText[outcome.because]
  }
} // prettier-ignore

/** `text (policy rule, file:line)`. */
export function whyText({ text, policy, rule, source }: Why): string {
  if (policy === undefined) return text
  return `${text} (${policy} ${rule ?? ''}${source === undefined ? '' : `, ${source}`})`
}
