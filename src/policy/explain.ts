// A verdict with every step that led to it: which policies select, which tiers were walked, which rules were tried and what each lacked.
// As data, and as lines of text. Slow on purpose: it goes through all rules one by one and keeps nothing.
import type { IdentityId } from '../identity/endpoints.ts'
import { labelsToText } from '../identity/labels.ts'
import { addressToText } from '../net/address.ts'
import { portsCover, portsToText, protocolName } from '../net/ports.ts'
import { makeJudges } from './above.ts'
import { compareStatements } from './names.ts'
import { asksAbove, isAbout, type PeerOf, type Statement } from './rulings.ts'
import { Tier, type Direction } from './rules.ts'
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
  | { readonly kind: 'decides' | 'joins' | 'passes' | 'skipped' }
  | { readonly kind: 'lacks'; readonly lacks: Lack; readonly detail: string }

export type Step =
  | { readonly kind: 'tier'; readonly tier: number; readonly name: string }
  | {
      readonly kind: 'rule'
      readonly statement: 'allow' | 'deny' | 'pass'
      readonly priority: number
      readonly ports: string
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

/** Explains the verdict on a flow. */
export function explain(snapshot: Snapshot, flow: Flow): Explanation {
  const decision = decide(snapshot, flow)
  const outsiders = outsidersOf(snapshot)
  const from = resolveParty(snapshot, outsiders, flow.from, flow.to)
  const to = resolveParty(snapshot, outsiders, flow.to, flow.from)
  const egress = explainDirection(snapshot, 'egress', from, to, flow, decision)
  const ingress = explainDirection(snapshot, 'ingress', to, from, flow, decision)
  const text = [flowText(snapshot, from, to, flow), ...directionText(egress), ...directionText(ingress), `verdict: ${decision.verdict}`] // prettier-ignore
  return { decision, egress, ingress, text }
}

function explainDirection(snapshot: Snapshot, direction: Direction, subject: PeerOf, peer: PeerOf, flow: Flow, decision: Decision): DirectionExplanation {
  const policy = snapshot.policyOf(subject.identity)
  const of = policy.directions[direction]
  const { verdict, why } = decision[direction]
  return { direction, subject: subject.identity, peer: peer.identity, selectedBy: of.selectedBy, steps: stepsOf(of, statementsOf(direction, policy, peer, flow), peer, flow, verdict, why[0]), verdict, why }
} // prettier-ignore

/** A statement with what it lacks. */
interface Tried {
  readonly statement: Statement
  readonly lack: (Outcome & { readonly kind: 'lacks' }) | undefined
}

function statementsOf(direction: Direction, policy: SubjectPolicy, peer: PeerOf, flow: Flow): readonly Tried[] {
  const l4 = l4Text(flow)
  const entries = policy.directions[direction].entries.map((statement): Tried => {
    if (!isAbout(statement, peer)) return { statement, lack: { kind: 'lacks', lacks: 'peer', detail: 'its peers are others' } } // prettier-ignore
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
  return [...entries, ...grants].sort((a, b) => compareStatements(a.statement, b.statement))
}

function lackOfPort({ ports }: Statement, flow: Flow, l4: string): Tried['lack'] {
  return portsCover(ports, flow) ? undefined : { kind: 'lacks', lacks: 'port', detail: `${l4} is not ${portsToText(ports)}` } // prettier-ignore
}

const tierNames: Readonly<Record<number, string>> = { [Tier.Admin]: 'Admin', [Tier.Normal]: 'Normal', [Tier.Baseline]: 'Baseline' } // prettier-ignore

function stepsOf(of: DirectionPolicy, tried: readonly Tried[], peer: PeerOf, flow: Flow, verdict: VerdictKind, decisive: Why): readonly Step[] {
  const steps: Step[] = []
  const judges = makeJudges()
  let tier = -1
  let passed = -1
  let decided: Statement | undefined
  for (const { statement, lack } of tried) {
    if (statement.tier !== tier) {
      tier = statement.tier
      steps.push({ kind: 'tier', tier, name: tierNames[tier] ?? String(tier) })
    }
    let outcome: Outcome
    if (lack !== undefined) outcome = lack
    else if (statement.tier <= passed) outcome = { kind: 'skipped' }
    else if (decided !== undefined) outcome = { kind: isOneLevel(decided, statement) ? 'joins' : 'skipped' }
    else if (statement.kind === 'pass') {
      passed = statement.tier
      outcome = { kind: 'passes' }
    } else {
      decided = statement
      outcome = { kind: 'decides' }
    }
    if (statement.kind === 'allow' && asksAbove(statement) && (outcome.kind === 'decides' || outcome.kind === 'joins')) {
      if (judges.judge([statement], flow).kind === 'unmet') outcome = { kind: 'lacks', lacks: 'l7', detail: 'what it asks above L4 is not met' }
    }
    const { kind, priority, ports, why } = statement
    steps.push({ kind: 'rule', statement: kind, priority, ports: portsToText(ports), why, outcome })
  }
  if (decided === undefined) {
    const fallback = peer.identity === 1 ? of.fallbackFromHost : of.fallback
    steps.push({ kind: 'fallback', fallback, text: decisive.text })
  } else if (verdict === 'denied' && decided.kind === 'allow') steps.push({ kind: 'fallback', fallback: 'deny', text: decisive.text })
  return steps
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
      const said = outcome.kind === 'lacks' ? `lacks the ${outcome.lacks}: ${outcome.detail}` : outcome.kind
      return `    ${step.statement} ${step.ports}: ${whyText(step.why)}: ${said}`
    }
  }
}

/** `text (policy rule, file:line)`. */
export function whyText({ text, policy, rule, source }: Why): string {
  if (policy === undefined) return text
  return `${text} (${policy} ${rule ?? ''}${source === undefined ? '' : `, ${source}`})`
}
