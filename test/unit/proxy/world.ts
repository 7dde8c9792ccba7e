// A world for the story of one query: plain records that note what they were asked.
import type { Endpoint, Identity } from '../../../src/identity/endpoints.ts'
import type { Learned } from '../../../src/leases/lease.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import type { Ports } from '../../../src/net/ports.ts'
import { Tier, type Rule } from '../../../src/policy/rules.ts'
import type { DirectionPolicy, Grant, Snapshot, SubjectPolicy } from '../../../src/policy/snapshot.ts'
import type { Answered } from '../../../src/proxy/answers.ts'
import type { Fact, Outcome, ProxyParts } from '../../../src/proxy/handle.ts'
import { makeBudgets, type BudgetLimits } from '../../../src/proxy/budgets.ts'
import { makeNameRules } from '../../../src/proxy/names.ts'
import { makeScreen, type ScreenOptions } from '../../../src/proxy/screen.ts'
import { wireFromText } from '../../../src/wire/name.ts'
import { fit } from '../../../src/wire/answer.ts'
import { readQuestion, type Question } from '../../../src/wire/message.ts'
import type { QueryFlags } from '../../../src/wire/reply.ts'
import { query, response, type Parts } from '../wire/build.ts'

export const raise = (text: string): never => {
  throw new Error(text)
}
export const at = (text: string): Address => addressFromText(text) ?? raise(text)
export const web: Address = at('10.1.0.2')
export const stranger: Address = at('10.9.9.9')
export const flags: QueryFlags = { recursionDesired: true, authenticData: false, checkingDisabled: false, dnssecOk: false, options: new Uint8Array(0) } // prettier-ignore
const https: Ports = { kind: 'ports', protocol: 6, first: 443, last: 443 }
const rule: Rule = { path: 'spec.egress[0]', line: 1, direction: 'egress', kind: 'allow', tier: Tier.Normal, priority: 0, peers: [], ports: [https] } // prettier-ignore
export const grant: Grant = {
  kind: 'allow',
  tier: Tier.Normal,
  priority: 0,
  ports: https,
  rule,
  why: { text: 'toFQDNs' },
}

export function questionOf(parts: Parts = {}): Question {
  return readQuestion(query(parts)) ?? raise('no question')
}

/** What answers.ts gives for an upstream's message. */
export function answered(
  question: Question,
  parts: Parts,
  { ageSeconds = 0, cached = false }: { ageSeconds?: number; cached?: boolean } = {},
): Answered {
  const answer = fit(question, response(parts))
  if (answer.kind === 'fault') return { kind: 'unfit', text: answer.fault }
  return { kind: 'answer', answer, ttlSeconds: answer.ttlSeconds - ageSeconds, ageSeconds, cached, keptAt: undefined }
}

export interface Rules {
  readonly revision?: number
  readonly mayAsk?: (name: string) => boolean
  readonly grants?: (name: string) => readonly Grant[]
  readonly denyReply?: 'refused' | 'nxdomain'
  readonly followsAliases?: boolean
  readonly refusesDoh?: boolean
  readonly defaultDeny?: boolean
  readonly inCluster?: readonly Address[]
}

const endpoint: Endpoint = { id: 7, namespace: 'default', name: 'web', identity: 256, labels: new Map(), addresses: [web], local: true } // prettier-ignore

const direction = (fallback: 'allow' | 'deny'): DirectionPolicy => ({ selected: true, defaultDeny: fallback === 'deny', selectedBy: ['default/web'], entries: [], fallback, fallbackFromHost: fallback, audit: false }) // prettier-ignore

/** One endpoint, `web`, under a policy; by default everything may be asked and everything is granted. */
export function snapshotOf(rules: Rules = {}): Snapshot {
  const policy: SubjectPolicy = {
    identity: 256,
    directions: { ingress: direction('allow'), egress: direction((rules.defaultDeny ?? true) ? 'deny' : 'allow') },
    denyReplyTo: () => rules.denyReply ?? 'refused',
    followsAliases: rules.followsAliases ?? false,
    refusesDoh: rules.refusesDoh ?? false,
    mayAsk: (labels) =>
      (rules.mayAsk?.(labels.join('.')) ?? true)
        ? { kind: 'allow', why: { text: 'a rule matches' } }
        : { kind: 'deny', why: { text: 'no rule matches', policy: 'default/web', rule: 'spec' } },
    grantsFor: (labels) => rules.grants?.(labels.join('.')) ?? [grant],
    grantNames: [],
    grantsText: '',
    grantPorts: [grant.ports],
    grantRanks: [{ tier: Tier.Normal, priority: 0 }],
  }
  const identity: Identity = { id: 256, labels: new Map() }
  return {
    revision: rules.revision ?? 1,
    endpoints: [endpoint],
    endpointOf: (address) => (address === web ? endpoint : undefined),
    identities: new Map([[256, identity]]),
    policyOf: () => policy,
    identityOf: (address) => (address === web ? 256 : 9),
    addresses: new Map([[web, 256]]),
    isInCluster: (address) => rules.inCluster?.includes(address) ?? false,
    notes: [],
  }
}

const cluster = [wireFromText('cluster.local') ?? raise('cluster.local')]
const limits: BudgetLimits = { queriesPerSecond: 1000, namesPerDomainPerMinute: 1000, nameOctetsPerMinute: 100_000, nxdomainShare: 0.95, nxdomainFrom: 500 } // prettier-ignore
/** Rules beside policy as they are by default. */
export function nothingBeside(
  over: Partial<BudgetLimits & ScreenOptions> = {},
  clock: () => number = () => 0,
): Pick<ProxyParts, 'names' | 'budgets' | 'screen'> {
  return {
    names: makeNameRules({ clusterDomain: cluster[0] ?? raise(''), searchSuffixes: [], refuseDoh: false }),
    budgets: makeBudgets({ ...limits, ...over }, clock, cluster),
    screen: makeScreen({ privateAnswers: 'refuse', privateSuffixes: cluster, serviceHints: 'lease', stripEch: false, ...over }), // prettier-ignore
  }
}

type LearnedWell = Learned & { readonly kind: 'learned' }
export interface World extends ProxyParts {
  /** What happened, in order: `ask`, `learn`, `commit`, `answered`, … */
  readonly log: string[]
  readonly facts: Fact[]
  readonly outcomes: Outcome[]
}

export function worldOf(parts: Partial<ProxyParts> & { answer?: Parts }): World {
  const log: string[] = []
  const facts: Fact[] = []
  const outcomes: Outcome[] = []
  const { answer = {}, ...given } = parts
  const snapshot = snapshotOf()
  const base: ProxyParts = {
    snapshot: () => snapshot,
    unknownEndpoint: 'deny',
    ...nothingBeside(),
    ask: (question) => Promise.resolve(answered(question, answer)),
    learn: (fact) => ({ kind: 'learned', ttlSeconds: fact.ttlSeconds, elements: elementsOf(fact), changes: { ttlSeconds: fact.ttlSeconds, fresh: [], renewed: [] } }), // prettier-ignore
    commit: () => Promise.resolve(),
    standsFor: () => 0,
    report: () => undefined,
    ...given,
  }
  return {
    ...base,
    log,
    facts,
    outcomes,
    ask(question, asked) {
      log.push('ask')
      return base.ask(question, asked)
    },
    learn(fact) {
      log.push('learn')
      facts.push(fact)
      return base.learn(fact)
    },
    commit(learned) {
      log.push('commit')
      return base.commit(learned)
    },
    report(outcome) {
      log.push(outcome.kind)
      outcomes.push(outcome)
      base.report(outcome)
    },
  }
}

function elementsOf({ identity, addresses, grants, ttlSeconds }: Fact): LearnedWell['elements'] {
  return addresses.flatMap((address) =>
    grants.flatMap(({ ports }) =>
      ports.kind === 'all' || ports.kind === 'ports'
        ? [{ identity, address, ports, timeoutMillis: ttlSeconds * 1000 }]
        : [],
    ),
  )
}

/** A promise with its handles outside. */
export function promised<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  return Promise.withResolvers<T>()
}

/** Lets everything run that can run now: promises and what is queued behind them. */
export const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
