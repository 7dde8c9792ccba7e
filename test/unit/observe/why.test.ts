// `why` against ground truth: what a literal reading of the policies (test/reference) says of the same flow, and of the same flow in worlds that
// are changed just so that the rule which is named, or the link which is missing, must show.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { makeIdentities } from '../../../src/identity/identities.ts'
import type { Lease } from '../../../src/leases/lease.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import type { Flow } from '../../../src/observe/flow.ts'
import { explainWhy, type WhyFacts, type WhyReport } from '../../../src/observe/why.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import { Tier, type Policy, type Rule, type World } from '../../../src/policy/rules.ts'
import type { Snapshot, Why } from '../../../src/policy/snapshot.ts'
import { decide, type Party } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { evaluate, type End, type Question, type Said, type Switches } from '../../reference/evaluate.ts'
import { draft, outsiders, questionIn, switches, world } from '../../reference/worlds.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const seed = Number(process.env['NAMEGATE_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
const verdicts = 10_000
const flowsPerWorld = 50

/** Every rule, and what stands in it, with a place of its own. */
function numbered(of: World): World {
  const mark = (rule: Rule, path: string): Rule => ({ ...rule, path, peers: rule.peers === 'everyone' ? rule.peers : rule.peers.map((peer) => ({ ...peer, path })), ...(rule.l7?.kind === 'http' ? { l7: { ...rule.l7, rules: rule.l7.rules.map((each) => ({ ...each, path })) } } : {}) }) // prettier-ignore
  return { ...of, policies: of.policies.map((policy, i) => ({ ...policy, name: `a/p${i}`, rules: policy.rules.map((rule, j) => mark(rule, `spec[${j}]`)) })) } // prettier-ignore
}
/** The world with other rules: each rule becomes what `change` makes of it, or goes. */
function changed(of: World, change: (rule: Rule, policy: Policy) => Rule | undefined): World {
  return { ...of, policies: of.policies.map((policy) => ({ ...policy, rules: policy.rules.flatMap((rule) => change(rule, policy) ?? []) })) } // prettier-ignore
}
/** A copy that lacks these fields. */
const without = <T extends object>(value: T, ...keys: readonly (keyof T)[]): T => Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key as keyof T))) as T // prettier-ignore

/** The world without default denials: only deny rules deny. */
const undenying = (of: World): World => ({ ...of, policies: of.policies.map((policy) => ({ ...policy, defaultDeny: { ingress: false, egress: false } })) }) // prettier-ignore

type State = 'leased' | 'expired' | 'revoked' | 'other' | 'none'
const states: readonly State[] = ['leased', 'expired', 'revoked', 'other', 'none']

function partyOf(snapshot: Snapshot, end: End): Party {
  if (!('pod' in end)) return { kind: 'address', address: at(end.address) }
  const endpoint = snapshot.endpoints.find(({ namespace, name }) => namespace === end.pod.namespace && name === end.pod.name) ?? expect.fail(end.pod.name) // prettier-ignore
  return { kind: 'endpoint', endpoint, ...(end.address === undefined ? {} : { address: at(end.address) }) }
}
const identityOf = (snapshot: Snapshot, party: Party): number => party.kind === 'endpoint' ? party.endpoint.identity : party.kind === 'address' ? snapshot.identityOf(party.address) : party.identity // prettier-ignore

/** What leases and flows say when these names were looked up, and then that happened. */
function factsOf(snapshot: Snapshot, identity: number, names: readonly string[], address: Address | undefined, state: State): WhyFacts {
  const lease = (name: string, holder: number): Lease => ({ identity: holder, endpoint: 1, askers: [1], name, address: address ?? ('' as Address), ttlSeconds: 60, learnedAt: 0, deadline: 60_000, ports: [], zombieSince: undefined, keptUntil: 0 })
  const holder = state === 'leased' ? identity : 9_999
  const leases = address !== undefined && (state === 'leased' || state === 'other') ? names.map((name) => lease(name, holder)) : []
  const gone = address !== undefined && (state === 'expired' || state === 'revoked') ? names.map((name): Flow => ({ kind: 'lease', time: 0, why: undefined, change: state, identity, endpoint: 1, name, addresses: [address], ttlSeconds: 60 })) : []
  return { snapshot, leasesAt: (wanted) => leases.filter((each) => each.address === wanted), leasesAs: (name) => leases.filter((each) => each.name === name), expandedFrom: () => [], flows: () => gone, now: 0 }
} // prettier-ignore

const text = (value: unknown): string => JSON.stringify(value, (_, v: unknown): unknown => (v instanceof Map ? [...(v as Map<string, string>)] : typeof v === 'bigint' ? v.toString() : v)) // prettier-ignore
const counts = new Map<string, number>()
const label = {
  leased: '',
  expired: 'lease-over',
  revoked: 'revoked',
  other: 'other-identity',
  none: 'other-resolver',
} as const

/** What is wrong with a report, by the reference; undefined: nothing. */
function wrongWith(of: World, by: Switches, question: Question, state: State, report: WhyReport): string | undefined {
  const isKnown = state === 'leased'
  const asked = { ...question, names: isKnown ? question.names : [] }
  const said = evaluate(of, by, asked)
  const isBad = (one: Said): boolean => one !== 'allowed'
  // Audit mode lets pass what proxies would have to judge, too; what is nobody's is denied all the same.
  const isHard = (one: Said): boolean => (by.audit ? one === 'denied' : isBad(one))
  const wanted = isHard(said.egress) || isHard(said.ingress) ? 'denied' : isBad(said.egress) || isBad(said.ingress) ? 'audited' : 'allowed' // prettier-ignore
  if (report.verdict !== wanted) return `the verdict is ${wanted}`
  const { direction, missing } = report
  const names = (rule: Rule, policy: Policy, why: Why | undefined): boolean => policy.name === why?.policy && rule.path === why.rule // prettier-ignore
  if (missing === undefined || direction === undefined) {
    if (report.by?.policy === undefined) {
      // Nobody's rule: so without any allowing rule it still passes.
      return isBad(evaluate(changed(of, (rule) => (rule.kind === 'allow' && rule.direction === 'egress' ? undefined : rule)), by, asked).egress) ? 'a rule allows it' : undefined // prettier-ignore
    }
    const alone = changed(of, (rule, policy) => (rule.direction !== 'egress' || names(rule, policy, report.by) ? rule : undefined)) // prettier-ignore
    return isBad(evaluate(alone, by, asked).egress) ? 'another rule allows it' : undefined
  }
  const passes = (of_: World, names_: readonly string[] = asked.names, by_ = by): boolean => !['denied', 'audited'].includes(evaluate(of_, by_, { ...asked, names: names_ })[direction]) // prettier-ignore
  const passesUndenied = (of_: World): boolean => passes(undenying(of_), asked.names, { ...by, enforcement: 'default' })
  if (!isBad(said[direction])) return `${direction} does not deny it`
  // All of its protocol; without ports a rule may mean others (services that come to nothing, to Cilium).
  const whole: Rule['ports'] = [{ kind: 'protocol', protocol: question.protocol }]
  const named = (rule: Rule): boolean => rule.peers !== 'everyone' && rule.peers.some(({ kind }) => kind === 'name')
  const nameRules = changed(of, (rule) => rule.direction !== direction || rule.kind !== 'allow' ? rule : named(rule) ? { ...rule, peers: 'everyone' } : undefined) // prettier-ignore
  const onlyL4 = (rule: Rule): Rule => without(rule, 'l7', 'serverNames', 'listener', 'terminatingTLS', 'originatingTLS', 'authentication') // prettier-ignore
  const byName = direction === 'egress' && !isKnown && question.names.some((name) => evaluate(of, by, { ...asked, names: [name] }).egress === 'allowed') // prettier-ignore
  switch (missing) {
    case 'deny': {
      const alone = changed(of, (rule, policy) => (rule.direction !== direction || names(rule, policy, report.by) ? rule : undefined)) // prettier-ignore
      // An address is denied when each of its names is, by whichever rules: the one that is named denies one of them.
      const isDenied = (names_: readonly string[]): boolean => !passes(undenying(alone), names_, { ...by, enforcement: 'default' }) // prettier-ignore
      return isDenied(asked.names) || asked.names.some((name) => isDenied([name])) ? undefined : 'that rule does not deny it' // prettier-ignore
    }
    case 'conflict':
      // Without denials, and without what rules ask above L4, nothing is in the way of what they allow.
      return passes(changed(of, (rule) => (rule.kind === 'deny' ? undefined : onlyL4(rule)))) ? undefined : 'nothing allows it without what is above L4' // prettier-ignore
    case 'port':
      if (byName && state !== 'none') return `a name would open it: ${label[state]}`
      return passes(changed(of, (rule, policy) => (names(rule, policy, report.by) ? { ...rule, ports: whole } : rule))) ? undefined : 'that rule with all ports does not allow it' // prettier-ignore
    case 'not-enforced':
      return passes(changed(of, (rule) => without(rule, 'l7', 'serverNames'))) ? undefined : 'nor is it allowed without what is above L4' // prettier-ignore
    case 'claimed-twice':
      return [question.from, question.to].some(({ address }) => of.pods.filter(({ addresses }) => address !== undefined && addresses.includes(address)).length > 1) ? undefined : 'nobody else has the address' // prettier-ignore
    case 'no-rule': {
      // Denials that are evaluated after the default one decide nothing.
      const nearer = changed(of, (rule) => (rule.kind === 'deny' && rule.tier > Tier.Normal ? undefined : rule))
      if (passes(nearer)) return 'a later rule denies it'
      if (!passesUndenied(nearer)) return 'a rule denies it'
      if (byName) return `a name would open it: ${label[state]}`
      // A named port that nobody has is about nothing. Who has all ports keeps them: given some, services that come to nothing are everyone.
      return passes(changed(of, (rule) => (rule.kind === 'allow' && rule.ports.some(({ kind }) => kind !== 'named' && kind !== 'all') ? { ...rule, ports: whole } : rule))) ? 'a rule is about it on other ports' : undefined // prettier-ignore
    }
    case 'other-resolver':
      // The lookup comes first: that what the name would open is asked for above L4 in ways that cannot stand together is another matter.
      return (passes(nameRules) || passes(changed(nameRules, onlyL4))) && (state === 'none' || !byName)
        ? undefined
        : `no name opens that port, or ${label[state]}`
    case 'lease-over':
    case 'revoked':
    case 'other-identity':
      return byName && missing === label[state] ? undefined : `the state is ${label[state]}`
    default:
      return 'a link that this question does not have'
  }
}

/** What is wrong with the rule that is proposed. */
function wrongWithRule(of: World, by: Switches, question: Question, state: State, report: WhyReport): string | undefined {
  if (report.rule === undefined) return undefined
  const loaded = loadWorld([{ path: 'rule.yaml', text: report.rule }])
  if (!loaded.ok) return `it does not parse: ${text(loaded.issues)}`
  const next: World = { ...of, policies: [...of.policies, ...loaded.world.policies] }
  const asked = { ...question, names: state === 'leased' ? question.names : [] }
  const literal = evaluate(next, by, asked)
  if (literal.egress !== 'allowed' || literal.ingress !== 'allowed') return `read literally it gives ${text(literal)}`
  const compiled = compilerOf(by)(next)
  const verdict = decide(compiled, { ...l4Of(question), from: partyOf(compiled, question.from), to: partyOf(compiled, question.to), names: asked.names })
  return verdict.verdict === 'allowed' ? undefined : `the engine says ${verdict.verdict}`
} // prettier-ignore

const compilerOf = ({ hostAddresses, ...rest }: Switches): ((of: World) => Snapshot) => makeCompiler({ ...rest, hostAddresses: hostAddresses.map(at), upstreams: [], denyReply: 'refused', identities: makeIdentities() }) // prettier-ignore
const l4Of = ({ protocol, port, icmpType }: Question): { protocol: number; port?: number; icmpType?: number } => ({ protocol, ...(port === undefined ? {} : { port }), ...(icmpType === undefined ? {} : { icmpType }) }) // prettier-ignore

test(`${verdicts} verdicts: the deciding rule or the missing link is named, and the proposed rule allows`, { timeout: 600_000 }, () => {
  let judged = 0
  fc.assert(
    fc.property(world, switches, fc.array(fc.tuple(draft, fc.constantFrom(...states), fc.option(fc.constantFrom(...outsiders), { nil: undefined })), { minLength: flowsPerWorld, maxLength: flowsPerWorld }), (drawn, by, drafts) => {
      const of = numbered(drawn)
      const snapshot = compilerOf(by)(of)
      for (const [each, state, outside] of drafts) {
        // What a packet tells of itself, and nothing above L4; half of the flows leave the cluster.
        const question = without(questionIn(of, outside === undefined ? each : { ...each, to: outside }), 'method', 'sni')
        const [from, to] = [partyOf(snapshot, question.from), partyOf(snapshot, question.to)]
        const address = to.kind === 'address' ? to.address : undefined
        const report = explainWhy(factsOf(snapshot, identityOf(snapshot, from), question.names, address, state), { ...l4Of(question), from, to })
        const isStranger = from.kind === 'address' && snapshot.endpointOf(from.address) === undefined
        const known = isStranger || address === undefined ? { ...question, names: state === 'leased' && address !== undefined ? question.names : [] } : question
        const wrong = wrongWith(of, by, known, state, report) ?? wrongWithRule(of, by, known, state, report)
        if (wrong !== undefined) expect.fail(`seed ${seed}: ${wrong}; ${text({ state, question: known, report, by, of })}`)
        judged++
        const key = `${report.missing ?? 'allowed'}${report.rule === undefined ? '' : ' with a rule'}`
        counts.set(key, (counts.get(key) ?? 0) + 1)
      }
    }),
    { seed, numRuns: verdicts / flowsPerWorld },
  )
  expect(judged).toBeGreaterThanOrEqual(verdicts)
  // Of what a lease may lack, and of rules that cannot stand together, a run may miss one or two.
  const drawn = (key: string): boolean => [...counts].some(([counted]) => counted.startsWith(key))
  for (const key of ['allowed', 'deny', 'port', 'no-rule', 'not-enforced', 'other-resolver']) expect(drawn(key), key).toBe(true)
  expect(['lease-over', 'revoked', 'other-identity', 'conflict'].some(drawn)).toBe(true)
}) // prettier-ignore
