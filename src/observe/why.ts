// Why a workload reaches a destination, or does not: the chain of facts from its identity and policy through lookup and lease to the verdict,
// and the first link that is missing. Pure: everything that it looks at is passed in.
import type { IdentityId } from '../identity/endpoints.ts'
import { unknownId } from '../identity/reserved.ts'
import type { Lease, LeaseChange } from '../leases/lease.ts'
import { addressToText, type Address } from '../net/address.ts'
import { portsCover, portsToText, protocolName, type L4 } from '../net/ports.ts'
import { explain, type DirectionExplanation, type Step, type Explanation } from '../policy/explain.ts'
import { Tier, type Direction } from '../policy/rules.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'
import { labelsOfName, outsidersOf, resolveParty, type Flow as Asked, type Party } from '../policy/verdict.ts'
import type { AnswerFlow, ConnectionFlow, Flow, Refusal } from './flow.ts'
import { smallestRule, type RulePeer } from './smallestRule.ts'

/** What keeps it from passing; each is one thing to do about it. */
export const missingLinks = {
  'no-endpoint': 'no workload is known with that address',
  'claimed-twice': "several workloads claim the address, so it is nobody's",
  'no-rule': 'no rule is about that destination',
  port: 'a rule is about that destination, on other ports',
  deny: 'a deny rule decides',
  conflict: 'two rules about that destination cannot stand together',
  'not-enforced': 'a rule allows it only with what a proxy would have to judge',
  'name-not-allowed': 'no rule lets the name be asked',
  'name-denied': 'a deny rule is about the name',
  'search-expansion': 'a search list made the name of one that may be asked',
  'resolver-denied': 'a deny rule is about the resolver',
  'never-resolved': 'nobody of this identity has asked for the name',
  'other-identity': 'another identity has asked for the name, this one has not',
  'other-resolver': 'the address was not learned from namegate',
  'no-address': 'the name has no address of that kind',
  'answer-failed': 'the name was asked, and the answer was not given',
  rebinding: 'the answer led where no public name should, and was refused',
  budget: 'the question was over budget',
  'doh-refused': 'the name is one of a resolver that would not be seen, and such are refused',
  'lease-over': 'the TTL and the grace of the last lookup are over',
  revoked: 'the lease was taken back',
  kernel: 'the kernel does not hold the lease',
} as const
export type Missing = keyof typeof missingLinks

/** `endpoint`: who asks; `policy`: what selects it; `question`: may the name be asked; the others as their names say. */
export type LinkName =
  'endpoint' | 'policy' | 'question' | 'lookup' | 'lease' | 'kernel' | 'egress' | 'ingress' | 'seen'

export interface Link {
  readonly link: LinkName
  /** Undefined: a fact that neither helps nor hinders. */
  readonly holds: boolean | undefined
  readonly text: string
  readonly why?: Why
}

export interface WhyReport {
  readonly verdict: 'allowed' | 'audited' | 'denied'
  readonly missing: Missing | undefined
  /** Whose policy denies it. */
  readonly direction: Direction | undefined
  readonly text: string
  /** The rule that decides, or that is near; undefined where there is none. */
  readonly by: Why | undefined
  readonly chain: readonly Link[]
  /** The smallest policy that would allow it, as YAML. */
  readonly rule: string | undefined
  /** What else helps. */
  readonly advice: string | undefined
  /** The lease that the verdict relies on: the kernel must hold it. */
  readonly relies: { readonly identity: IdentityId; readonly address: Address } | undefined
}

/** Packets that a workload sent to port 853 of an address within the last hour: a resolver whose answers are not seen. */
export interface ResolverTry {
  readonly source: Address
  readonly address: Address
  readonly packets: number
}

export interface WhyFacts {
  readonly snapshot: Snapshot
  /** Whoever holds them. */
  readonly leasesAt: (address: Address) => readonly Lease[]
  readonly leasesAs: (name: string) => readonly Lease[]
  /** What a name may be the expansion of by a search list, as the proxy reads it. */
  readonly expandedFrom: (name: string) => readonly (readonly string[])[]
  /** Newest first. */
  readonly flows: () => Iterable<Flow>
  /** Milliseconds of the leases' clock. */
  readonly now: number
}

export interface WhyQuestion extends L4 {
  readonly from: Party
  readonly to: Party | { readonly kind: 'name'; readonly name: string }
}

/** An address that nobody has (RFC 5737): what a name leads to as long as nobody knows. */
export const somewhere = '\xc0\0\x02\x01' as Address

/** Says why. Looks at every rule of both ends, and at every flow that is remembered. */
export function explainWhy(facts: WhyFacts, question: WhyQuestion): WhyReport {
  const { from, to, ...l4 } = question
  const who = whoAsks(facts.snapshot, from)
  return to.kind === 'name' ? whyName(facts, who, from, to.name, l4) : whyFlow(facts, who, { ...l4, from, to }, [])
}

interface Who {
  readonly identity: IdentityId
  readonly isEndpoint: boolean
  readonly chain: readonly Link[]
}

function whoAsks(snapshot: Snapshot, from: Party): Who {
  const endpoint = from.kind === 'endpoint' ? from.endpoint : from.kind === 'address' ? snapshot.endpointOf(from.address) : snapshot.endpoints.find(({ identity }) => identity === from.identity) // prettier-ignore
  const { identity } = resolveParty(snapshot, outsidersOf(snapshot), from, from)
  const where = from.kind === 'address' ? addressToText(from.address) : ''
  const link: Link = endpoint === undefined
    ? { link: 'endpoint', holds: undefined, text: `no workload is known at ${where}: it has identity ${identity}, and only its destination's policy is about it` }
    : { link: 'endpoint', holds: identity !== unknownId, text: identity === unknownId ? missingLinks['claimed-twice'] : `${endpoint.namespace}/${endpoint.name} has identity ${identity}` } // prettier-ignore
  const { selectedBy } = snapshot.policyOf(identity).directions.egress
  const policy: Link = { link: 'policy', holds: undefined, text: selectedBy.length === 0 ? 'no policy selects its egress' : `its egress is selected by ${selectedBy.join(', ')}` } // prettier-ignore
  return { identity, isEndpoint: endpoint !== undefined, chain: [link, policy] }
}

/** What is known of a flow's verdict before the kernel was asked. */
function whyFlow(facts: WhyFacts, who: Who, flow: Asked, before: readonly Link[]): WhyReport {
  const { snapshot } = facts
  const to = resolveParty(snapshot, outsidersOf(snapshot), flow.to, flow.from)
  const mine = to.address === undefined || !to.isOutside ? [] : facts.leasesAt(to.address).filter(({ identity }) => identity === who.identity) // prettier-ignore
  const names = [...new Set([...(flow.names ?? []), ...mine.map(({ name }) => name)])]
  const asked: Asked = { ...flow, names }
  const explanation = explain(snapshot, asked)
  const leases = mine.map((lease): Link => ({ link: 'lease', holds: true, text: `${addressToText(lease.address)} is leased as ${lease.name}: ${secondsText(lease, facts.now)}` })) // prettier-ignore
  const seen = lastSeen(facts, who, to.address, to.identity, flow)
  const chain = [...who.chain, ...before, ...leases]
  const egress = findingOf(explanation.egress)
  const ingress = findingOf(explanation.ingress)
  const verdictLinks = [linkOf('egress', explanation.egress, egress), linkOf('ingress', explanation.ingress, ingress)]
  const audits = (direction: Direction, { subject }: DirectionExplanation): boolean => snapshot.policyOf(subject).directions[direction].audit // prettier-ignore
  // What really denies goes before what audit mode lets pass.
  const isHard = { egress: egress !== undefined && !audits('egress', explanation.egress), ingress: ingress !== undefined && !audits('ingress', explanation.ingress) } // prettier-ignore
  const isIngress = ingress !== undefined && (egress === undefined || (isHard.ingress && !isHard.egress))
  const direction = isIngress ? 'ingress' : egress !== undefined ? 'egress' : undefined
  const finding = isIngress ? ingress : egress
  if (direction === undefined || finding === undefined) {
    const [by] = explanation.egress.why
    const relied = reliesOnLease(snapshot, asked, explanation) && to.address !== undefined ? { identity: who.identity, address: to.address } : undefined // prettier-ignore
    return { verdict: 'allowed', missing: undefined, direction: undefined, text: `allowed: ${by?.text ?? ''}`, by, chain: [...chain, ...verdictLinks, ...seen], rule: undefined, advice: undefined, relies: relied } // prettier-ignore
  }
  const lookup = direction === 'egress' && to.isOutside && to.address !== undefined && who.isEndpoint ? lookupOf(facts, who.identity, to.address, asked, finding.missing) : undefined // prettier-ignore
  const missing = lookup?.missing ?? finding.missing
  const peer: RulePeer = to.isOutside && to.address !== undefined ? (names[0] === undefined ? { kind: 'address', address: to.address } : { kind: 'name', name: names[0] }) : { kind: 'identity', identity: to.identity } // prettier-ignore
  const rule = needsRule(missing) ? rulesFor(snapshot, asked, peer, egress, ingress) : undefined
  const passes = !isHard.egress && !isHard.ingress
  return {
    verdict: passes ? 'audited' : 'denied',
    missing,
    direction,
    text: `${passes ? 'would be denied (audit mode lets it pass)' : 'denied'}: ${lookup?.text ?? finding.text}`,
    by: finding.by,
    chain: [...chain, ...(lookup === undefined ? [] : [{ link: 'lookup', holds: false, text: lookup.text } as const]), ...verdictLinks, ...seen], // prettier-ignore
    rule,
    advice: adviceOf(missing, rule),
    relies: undefined,
  }
}

function whyName(facts: WhyFacts, who: Who, from: Party, name: string, l4: L4): WhyReport {
  const { snapshot } = facts
  const none = { by: undefined, rule: undefined, advice: undefined, relies: undefined, direction: 'egress' } as const
  if (!who.isEndpoint) {
    const text = 'denied: no workload is known with that address, and questions of strangers are refused'
    return { ...none, verdict: 'denied', missing: 'no-endpoint', text, chain: who.chain }
  }
  const policy = snapshot.policyOf(who.identity)
  const labels = labelsOfName(name)
  const may = policy.mayAsk(labels)
  const grants = policy.grantsFor(labels)
  const question: Link = { link: 'question', holds: may.kind === 'allow', text: may.why.text, why: may.why }
  if (may.kind === 'deny') {
    const meant = facts.expandedFrom(name).find((shorter) => policy.mayAsk(shorter).kind === 'allow')
    if (meant !== undefined) {
      const text = `${name} is what a search list makes of ${meant.join('.')}, which may be asked; it is answered with NXDOMAIN, so that the resolver goes on to that`
      const expanded: Link = { link: 'question', holds: false, text, why: may.why }
      return { ...none, verdict: 'denied', missing: 'search-expansion', text: `denied at DNS: ${text}`, by: may.why, chain: [...who.chain, expanded, ...lastAsked(facts, who.identity, name)], advice: adviceOf('search-expansion', undefined) } // prettier-ignore
    }
    const missing = may.why.conflict === true ? 'conflict' : may.why.policy === undefined ? 'name-not-allowed' : grants.some(({ kind }) => kind === 'deny') ? 'name-denied' : 'resolver-denied' // prettier-ignore
    const rule = missing === 'name-not-allowed' ? smallestRule(snapshot, 'egress', who.identity, { kind: 'name', name }, l4) : undefined // prettier-ignore
    return { ...none, verdict: 'denied', missing, text: `denied at DNS: ${may.why.text}`, by: may.why, chain: [...who.chain, question, ...lastAsked(facts, who.identity, name)], rule, advice: adviceOf(missing, rule) } // prettier-ignore
  }
  const mine = facts.leasesAs(name).filter(({ identity }) => identity === who.identity)
  const told = mine.length > 0 ? mine.map(({ address }) => address) : lastAddresses(facts, who.identity, name)
  const isJudgedByAddress = mine.length > 0 || grants.length === 0 || told.some((address) => snapshot.isInCluster(address)) // prettier-ignore
  if (told.length > 0 && isJudgedByAddress) {
    const lookup: Link = { link: 'lookup', holds: true, text: `it leads to ${told.slice(0, 4).map(addressToText).join(', ')}` } // prettier-ignore
    const reports = told.map((address) => whyFlow(facts, who, { ...l4, from, to: { kind: 'address', address }, names: mine.length > 0 ? [name] : [] }, [question, lookup])) // prettier-ignore
    // Of several addresses any may be used: what is said is the worst.
    const worst = reports.find(({ verdict }) => verdict === 'denied') ?? reports.find(({ verdict }) => verdict === 'audited') ?? reports[0] // prettier-ignore
    if (worst !== undefined) return withRefusal(worst, lastRefusal(facts, who.identity, name))
  }
  // Nobody knows where it leads: what would be, if it led somewhere outside that only this name leads to?
  const would = whyFlow(facts, who, { ...l4, from, to: { kind: 'address', address: somewhere }, names: [name] }, [question]) // prettier-ignore
  const isOpen = explain(snapshot, { ...l4, from, to: { kind: 'address', address: somewhere } }).decision.verdict === 'allowed' // prettier-ignore
  const lookup = lookupOfName(facts, who.identity, name)
  const isRefused = Object.values(missingOfRefusal).includes(lookup.missing)
  if (would.verdict === 'denied' || (!isRefused && (would.verdict !== 'allowed' || isOpen)))
    return { ...would, relies: undefined }
  const chain: Link[] = [...would.chain.filter(({ link }) => link !== 'egress' && link !== 'ingress'), { link: 'lookup', holds: false, text: lookup.text }] // prettier-ignore
  const by = grants.find(({ kind, ports }) => kind === 'allow' && portsCover(ports, l4))?.why
  return { ...none, verdict: 'denied', missing: lookup.missing, text: `denied: ${lookup.text}`, by, chain, advice: adviceOf(lookup.missing, undefined) } // prettier-ignore
}

interface Finding {
  readonly missing: Missing
  readonly text: string
  readonly by: Why | undefined
  /** The tier of what decides; undefined where nothing does. */
  readonly tier: number | undefined
  /** What decides keeps its proxy whatever else allows the flow: no rule takes it away. */
  readonly isProxied?: boolean
}

const holdsProxy = (step: Step): boolean =>
  step.kind === 'rule' &&
  step.isProxied &&
  (step.outcome.kind !== 'lacks' || step.outcome.lacks === 'l7') &&
  step.outcome.kind !== 'skipped'

/** What a direction lacks; undefined when nothing. In audit mode too: there it is what would be lacking. */
function findingOf({ steps, verdict, why, subject, peer }: DirectionExplanation): Finding | undefined {
  if (verdict === 'allowed') return undefined
  let tier = 0
  let passed = -1
  let near: Finding | undefined
  for (const step of steps) {
    if (step.kind === 'tier') tier = step.tier
    if (step.kind !== 'rule') continue
    const { outcome } = step
    if (outcome.kind === 'passes') passed = tier
    if (outcome.kind === 'decides' && step.why.conflict === true) return { missing: 'conflict', text: step.why.text, by: step.why, tier } // prettier-ignore
    if (outcome.kind === 'decides' && step.statement === 'deny') return { missing: 'deny', text: `${step.why.text}: a deny rule decides`, by: step.why, tier } // prettier-ignore
    if (outcome.kind === 'decides' || (outcome.kind === 'lacks' && outcome.lacks === 'l7')) return { missing: 'not-enforced', text: why[0]?.text ?? '', by: step.why, tier, isProxied: steps.some(holdsProxy) } // prettier-ignore
    if (step.statement === 'allow' && outcome.kind === 'lacks' && outcome.lacks === 'port' && tier > passed)
      near ??= { missing: 'port', text: `${step.why.text} allows ${step.ports} only`, by: step.why, tier: undefined }
  }
  if (subject === unknownId || peer === unknownId) return { missing: 'claimed-twice', text: missingLinks['claimed-twice'], by: undefined, tier: undefined } // prettier-ignore
  return near ?? { missing: 'no-rule', text: why[0]?.text ?? '', by: undefined, tier: undefined }
}

function linkOf(
  direction: Direction,
  { verdict, why: [why] }: DirectionExplanation,
  finding: Finding | undefined,
): Link {
  const holds = verdict === 'allowed' || verdict === 'audited'
  const by = finding?.by ?? why
  return { link: direction, holds, text: `${verdict === 'redirect' ? 'denied' : verdict}: ${finding?.text ?? why?.text ?? ''}`, ...(by === undefined ? {} : { why: by }) } // prettier-ignore
}

/** Whether only names make it pass. */
function reliesOnLease(snapshot: Snapshot, flow: Asked, { egress }: Explanation): boolean {
  if (flow.names === undefined || flow.names.length === 0 || egress.verdict !== 'allowed') return false
  return explain(snapshot, { ...flow, names: [] }).egress.verdict === 'denied'
}

interface Lookup {
  readonly missing: Missing
  readonly text: string
}

/** Why an address that a granted name could open is not leased. Undefined: no name could. */
function lookupOf({ snapshot, leasesAt, flows }: WhyFacts, identity: IdentityId, address: Address, asked: Asked, missing: Missing): Lookup | undefined {
  if (missing !== 'no-rule' && missing !== 'port') return undefined
  const policy = snapshot.policyOf(identity)
  const isOpened = (name: string): boolean => policy.grantsFor(labelsOfName(name)).some(({ kind, ports }) => kind === 'allow' && portsCover(ports, asked)) && explain(snapshot, { ...asked, names: [name] }).egress.verdict === 'allowed'
  if (!policy.grantPorts.some((ports) => portsCover(ports, asked))) return undefined
  const where = addressToText(address)
  for (const flow of flows()) {
    if (flow.kind !== 'lease' || flow.identity !== identity || !flow.addresses.includes(address)) continue
    if (!isOpened(flow.name)) continue
    return goneText(flow.change, flow.name)
  }
  const other = leasesAt(address).find((lease) => lease.identity !== identity && isOpened(lease.name))
  if (other !== undefined) return { missing: 'other-identity', text: `${where} is leased as ${other.name} to identity ${other.identity}; identity ${identity} has not asked for it` }
  // Rules about names may close each other: then none opens anything.
  if (missing === 'port' || !policy.grantNames.flatMap(samplesOf).some(isOpened)) return undefined
  return { missing: 'other-resolver', text: `no lookup that namegate answered led identity ${identity} to ${where}: another resolver was used, or the address is written down somewhere` }
} // prettier-ignore

/** Names that a matchName or matchPattern covers; where it covers any depth, a deeper one too: what is below a name may be denied, or only what is right below it. */
function samplesOf(text: string): string[] {
  const bare = (text.endsWith('.') ? text.slice(0, -1) : text).toLowerCase()
  const [first = '', ...rest] = bare.split('.')
  const sample = [first, ...rest].map((label) => label.split('*').join('a-name-of-it')).join('.')
  return bare === '*' || first === '**' ? [sample, `a-name-below.${sample}`] : [sample]
}

function goneText(change: LeaseChange, name: string): Lookup {
  if (change === 'revoked') return { missing: 'revoked', text: `the lease as ${name} was taken back` }
  const how = change === 'evicted' ? 'its TTL has passed, and others needed its room' : 'its TTL and the grace after it have passed'
  return { missing: 'lease-over', text: `the lease as ${name} is over: ${how}` }
} // prettier-ignore

/** Refusals that are not for policy to explain. */
const missingOfRefusal: Readonly<Partial<Record<Refusal, Missing>>> = { private: 'rebinding', doh: 'doh-refused', queries: 'budget', names: 'budget', octets: 'budget', nxdomain: 'budget' } // prettier-ignore

/** Why a name that may be asked and would open it has no lease. */
function lookupOfName({ leasesAs, flows }: WhyFacts, identity: IdentityId, name: string): Lookup {
  for (const flow of flows()) {
    if (flow.kind === 'lease' && flow.identity === identity && flow.name === name) return goneText(flow.change, name)
    if (flow.kind !== 'answer' || flow.destination.identity !== identity || flow.qname !== name) continue
    const refusal = refusalOf(flow)
    if (refusal !== undefined) return refusal
    if (flow.verdict === 'ERROR') return { missing: 'answer-failed', text: `${name} ${flow.qtype} was asked, and not answered: ${flow.why?.text ?? 'no reason is known'}` } // prettier-ignore
    if (flow.verdict === 'FORWARDED' && (flow.rcode !== 0 || flow.addresses.length === 0)) return { missing: 'no-address', text: `${name} ${flow.qtype} was asked; there is no address (RCODE ${flow.rcode})` } // prettier-ignore
  }
  const other = leasesAs(name).find((lease) => lease.identity !== identity)
  if (other !== undefined) return { missing: 'other-identity', text: `${name} was asked by identity ${other.identity}, not by identity ${identity}` } // prettier-ignore
  return {
    missing: 'never-resolved',
    text: `${name} may be asked, and nobody of identity ${identity} has asked for it`,
  }
}

function refusalOf({ qname, qtype, refused, why }: AnswerFlow): Lookup | undefined {
  const missing = refused === undefined ? undefined : missingOfRefusal[refused]
  return missing === undefined ? undefined : { missing, text: `${qname} ${qtype} was asked, and refused: ${why?.text ?? missingLinks[missing]}` } // prettier-ignore
}

/** The refusal of the name since it was last answered with addresses, with its time. Undefined: there is none. */
function lastRefusal({ flows }: WhyFacts, identity: IdentityId, name: string): (Lookup & { readonly time: number }) | undefined {
  for (const flow of flows()) {
    if (flow.kind !== 'answer' || flow.destination.identity !== identity || flow.qname !== name) continue
    const refusal = refusalOf(flow)
    if (refusal !== undefined) return { ...refusal, time: flow.time }
    if (flow.verdict === 'FORWARDED' && flow.addresses.length > 0) return undefined
  }
  return undefined
} // prettier-ignore

/** Addresses that an older answer gave are judged as they stand; that a newer one was refused is told beside it. */
function withRefusal(report: WhyReport, refusal: (Lookup & { readonly time: number }) | undefined): WhyReport {
  if (refusal === undefined) return report
  const text = `since then, at ${new Date(refusal.time).toISOString()}, ${refusal.text}`
  return { ...report, chain: [...report.chain, { link: 'lookup', holds: undefined, text }], advice: report.advice ?? adviceOf(refusal.missing, undefined) } // prettier-ignore
}

/** Links that are missing, perhaps, because the workload asks a resolver that is not seen. */
const unseen: readonly (Missing | undefined)[] = ['other-resolver', 'never-resolved', 'other-identity', 'lease-over']

/** @param tries those of all workloads; @param sources the asker's addresses. */
export function withTries(report: WhyReport, tries: readonly ResolverTry[], sources: readonly Address[]): WhyReport {
  if (!unseen.includes(report.missing)) return report
  const own = tries.filter(({ source }) => sources.includes(source))
  if (own.length === 0) return report
  const places = own.slice(0, 4).map(({ address, packets }) => `${addressToText(address)} port 853 (x${packets})`)
  const text = `within the last hour it tried ${places.join(', ')}: DNS over TLS or QUIC, whose answers are not seen and open nothing`
  return { ...report, text: `${report.text}; ${text}`, chain: [...report.chain, { link: 'lookup', holds: undefined, text }] } // prettier-ignore
}

/** Where the name led when it was last answered. */
function lastAddresses({ flows }: WhyFacts, identity: IdentityId, name: string): readonly Address[] {
  for (const flow of flows())
    if (flow.kind === 'answer' && flow.destination.identity === identity && flow.qname === name && flow.verdict === 'FORWARDED' && flow.addresses.length > 0) return flow.addresses // prettier-ignore
  return []
}

function lastAsked({ flows }: WhyFacts, identity: IdentityId, name: string): Link[] {
  for (const flow of flows())
    if (flow.kind === 'query' && flow.source.identity === identity && flow.qname === name)
      return [{ link: 'seen', holds: undefined, text: `last asked ${new Date(flow.time).toISOString()}: ${flow.verdict}` }] // prettier-ignore
  return []
}

/** The last connection of this kind that the kernel told of. */
function lastSeen({ flows }: WhyFacts, who: Who, address: Address | undefined, identity: IdentityId, l4: L4): Link[] {
  const isIt = (flow: ConnectionFlow): boolean =>
    flow.source.identity === who.identity && flow.protocol === l4.protocol && flow.destinationPort === l4.port &&
    (address === undefined ? flow.destination.identity === identity : flow.destination.address === address)
  for (const flow of flows())
    if (flow.kind === 'connection' && isIt(flow))
      return [{ link: 'seen', holds: undefined, text: `last tried ${new Date(flow.time).toISOString()}: ${flow.verdict}`, ...(flow.why === undefined ? {} : { why: flow.why }) }]
  return []
} // prettier-ignore

/** Where the rules are there already, and something else is missing, no rule is to be written. */
function needsRule(missing: Missing): boolean {
  return ['no-rule', 'port', 'deny', 'not-enforced', 'other-resolver'].includes(missing)
}

/** A rule for each direction that lacks one; undefined when no rule can help: a denial of the policies' own tier, or before it, wins. */
function rulesFor(snapshot: Snapshot, flow: Asked, peer: RulePeer, egress: Finding | undefined, ingress: Finding | undefined): string | undefined {
  const outsiders = outsidersOf(snapshot)
  const from = resolveParty(snapshot, outsiders, flow.from, flow.to)
  const to = resolveParty(snapshot, outsiders, flow.to, flow.from)
  const source: RulePeer = from.isOutside && from.address !== undefined ? { kind: 'address', address: from.address } : { kind: 'identity', identity: from.identity }
  const found: string[] = []
  for (const [direction, finding, subject, other] of [['egress', egress, from, peer], ['ingress', ingress, to, source]] as const) {
    if (finding === undefined) continue
    const isBefore = finding.tier !== undefined && (finding.missing === 'deny' || finding.missing === 'conflict' ? finding.tier <= Tier.Normal : finding.tier < Tier.Normal)
    const rule = isBefore || finding.isProxied === true ? undefined : smallestRule(snapshot, direction, subject.identity, other, flow)
    if (rule === undefined) return undefined
    found.push(rule)
  }
  return found.join('---\n')
} // prettier-ignore

function adviceOf(missing: Missing, rule: string | undefined): string | undefined {
  switch (missing) {
    case 'never-resolved':
    case 'other-identity':
    case 'lease-over':
    case 'revoked':
      return 'the policy allows it: let the workload look the name up again, and connect to what it is told'
    case 'other-resolver':
      return 'let the workload ask by its resolver on port 53, which leads here; or allow the address itself'
    case 'deny':
    case 'name-denied':
    case 'resolver-denied':
      return rule === undefined ? 'no rule allows it while that deny rule stands: narrow that' : undefined
    case 'search-expansion':
      return 'nothing is amiss if the resolver goes on; ask why of the name that is meant'
    case 'rebinding':
      return 'if the name is to lead there, name its domain in dns.privateSuffixes, or allow the address itself'
    case 'budget':
      return 'see dns.budgets, and what asks so much'
    case 'doh-refused':
      return 'let the workload ask by its resolver on port 53, which leads here'
    case 'conflict':
      return 'let both rules ask the same above L4, or let them differ in peers or ports'
    case 'claimed-twice':
      return 'see the notes of the policy: which workloads have that address'
    default:
      return undefined
  }
}

function secondsText({ deadline }: Lease, now: number): string {
  const seconds = Math.round((deadline - now) / 1000)
  return seconds >= 0 ? `${seconds} s of its TTL are left` : `its TTL is over for ${-seconds} s, and the grace lasts`
}

/** What the kernel says of the element that an allowed flow relies on. @param held undefined: there is no kernel to ask */
export function withKernel(report: WhyReport, held: boolean | undefined): WhyReport {
  if (report.relies === undefined) return report
  const where = addressToText(report.relies.address)
  if (held === undefined)
    return { ...report, chain: [...report.chain, { link: 'kernel', holds: undefined, text: 'no kernel enforces it' }] }
  if (held) return { ...report, chain: [...report.chain, { link: 'kernel', holds: true, text: `the kernel holds ${where} open to it` }] } // prettier-ignore
  const text = `the kernel does not hold ${where} open on this port: what names open is ports of TCP, UDP and SCTP, or everything`
  return { ...report, verdict: 'denied', missing: 'kernel', direction: 'egress', text: `denied: ${text}`, chain: [...report.chain, { link: 'kernel', holds: false, text }] } // prettier-ignore
}

/** `tcp/443`, `icmp type 8`. */
export function l4Text({ protocol, port, icmpType }: L4): string {
  if (port !== undefined) return `${protocolName(protocol)}/${port}`
  return icmpType === undefined ? protocolName(protocol) : portsToText({ kind: 'icmp', family: protocol === 58 ? 6 : 4, type: icmpType }) // prettier-ignore
}
