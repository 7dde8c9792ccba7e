// The DNS of an agent: the parts of a question's story put together with the rules that hold beside policy, and all who hear how it ended.
import { makeBypassWatch } from './bypass.ts'
import type { Clock } from './clock.ts'
import type { Datapath, ResolverAttempt } from './datapath/datapath.ts'
import type { IdentityId } from './identity/endpoints.ts'
import type { Keeper } from './keeper.ts'
import type { Logger } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Observer } from './observe/observer.ts'
import type { Snapshot } from './policy/snapshot.ts'
import { makeAnswers } from './proxy/answers.ts'
import { makeBudgets } from './proxy/budgets.ts'
import { handle, type Fact, type Outcome, type ProxyParts } from './proxy/handle.ts'
import type { Answerer } from './proxy/listen.ts'
import { makeNameRules } from './proxy/names.ts'
import { makeReplays, type Replays } from './proxy/replay.ts'
import { makeRoutes } from './proxy/routes.ts'
import { makeMayLead, makeScreen, type MayLead } from './proxy/screen.ts'
import { makeUpstreams, type Server } from './proxy/upstream.ts'
import type { AgentSettings } from './settings.ts'
import { wireFromText, type WireName } from './wire/name.ts'

export interface QuestionParts {
  readonly dns: AgentSettings['dns']
  readonly upstreams: readonly Server[]
  readonly rules: Rules
  readonly clock: Clock
  readonly log: Logger
  readonly snapshot: () => Snapshot
  readonly datapath: Datapath | undefined
  readonly keeper: Keeper
  readonly metrics: Metrics
  readonly observer: Observer
  /** Hears what is learned anew, before the kernel has it. */
  readonly learned: (fact: Fact) => void
  /** Whether the kernel acknowledged what was learned; undefined: it did. */
  readonly committed: (refusal: unknown) => void
  readonly onOutcome: ((outcome: Outcome) => void) | undefined
}

export interface Questions {
  readonly answer: Answerer
  readonly replays: Replays
  /** Messages from upstreams that answered no question of ours. */
  readonly strangers: () => number
  /** Whether some upstream answers. */
  readonly healthy: () => boolean
  /** What a name may be the expansion of: the labels before each search domain that it ends in. */
  readonly expandedFrom: (name: string) => readonly (readonly string[])[]
  /** Attempts within the last hour at resolvers that would not be seen; [] without a kernel. */
  readonly resolverTries: () => Promise<readonly ResolverAttempt[]>
  /** Looks now, not only every half minute, for workloads that try resolvers which would not be seen. */
  readonly lookForBypass: () => Promise<void>
  readonly stopLooking: () => void
  /** Nobody is asked any more; who was asked before is still listened to. */
  readonly close: () => void
}

/** How often the kernel is asked who tried port 853. */
const bypassMillis = 30_000

export function makeQuestions(parts: QuestionParts): Questions {
  const { dns, rules, clock, log, snapshot, datapath, keeper, metrics, observer } = parts
  const upstreams = makeRoutes(
    dns.routes.map(({ suffixes, upstreams: servers }) => ({
      suffixes: wires(suffixes),
      upstreams: makeUpstreams({ ...dns, servers }, clock),
    })),
    makeUpstreams({ ...dns, servers: parts.upstreams }, clock),
  )
  const ask = makeAnswers(
    async (question, flags) => {
      const startedAt = clock()
      const reply = await upstreams.ask(question, flags)
      metrics.upstreamSeconds((clock() - startedAt) / 1000, reply.kind)
      return reply
    },
    clock,
    dns.cache,
  )
  const commit: ProxyParts['commit'] = async ({ elements }) => {
    try {
      const startedAt = clock()
      await keeper.commit(elements)
      metrics.step('commit', (clock() - startedAt) / 1000)
      if (elements.length > 0) parts.committed(undefined)
    } catch (error) {
      parts.committed(error)
      throw error
    }
  }
  const report = (outcome: Outcome): void => {
    metrics.question(outcome)
    sayBypass(outcome)
    parts.onOutcome?.(outcome)
    sayOutcome(log, outcome)
  }
  const story: ProxyParts = {
    snapshot,
    unknownEndpoint: dns.unknownEndpoint,
    ...rules,
    ask: async (question, flags) => {
      const startedAt = clock()
      const answered = await ask(question, flags)
      metrics.step(answered.kind === 'answer' && answered.cached ? 'cache' : 'upstream', (clock() - startedAt) / 1000)
      return answered
    },
    learn(fact) {
      const startedAt = clock()
      const learned = keeper.learn(fact, snapshot().policyOf(fact.identity))
      metrics.step('learn', (clock() - startedAt) / 1000)
      if (learned.kind === 'full') metrics.full(learned)
      // What needs no commit is what stands, and was heard of already.
      else if (learned.elements.length > 0) parts.learned(fact)
      return learned
    },
    commit,
    standsFor: keeper.standsFor,
    report,
  }

  const bypasses = makeBypassWatch(
    clock,
    (endpoint, text) => log.warn({ endpoint: `${endpoint.namespace}/${endpoint.name}` }, text),
    (way, times) => metrics.bypass(way, times),
  )
  const countsOnNames = (identity: IdentityId): boolean => snapshot().policyOf(identity).grantPorts.length > 0
  function sayBypass(outcome: Outcome): void {
    if (outcome.kind !== 'answered' && outcome.kind !== 'refused') return
    const { endpoint, question, kind } = outcome
    if (endpoint === undefined || !rules.names.isResolver(question.wire) || !countsOnNames(endpoint.identity)) return
    bypasses.asked(endpoint, question.name, kind)
  }
  const resolverTries = async (): Promise<readonly ResolverAttempt[]> => (await datapath?.tried()) ?? []
  async function lookForBypass(): Promise<void> {
    bypasses.tried(await resolverTries(), (address) => {
      const endpoint = snapshot().endpointOf(address)
      return endpoint !== undefined && countsOnNames(endpoint.identity) ? endpoint : undefined
    })
  }
  const looking = setInterval(() => {
    // A table that was deleted by hand is repaired within a second; there is nothing to see until then.
    lookForBypass().catch(() => undefined)
  }, bypassMillis)

  const replays = makeReplays({
    clock,
    revision: () => snapshot().revision,
    epoch: () => datapath?.epoch() ?? 0,
    leases: keeper.leases,
    budgets: rules.budgets,
    entries: dns.cache.entries,
    report: (outcome, sourcePort) => {
      report(outcome)
      observer.again(outcome, sourcePort)
    },
  })
  const answer: Answerer = async (message, source, transport, sourcePort) => {
    const startedAt = clock()
    const outcome = await handle(story, message, source, transport)
    replays.keep(message, outcome)
    const millis = clock() - startedAt
    metrics.step('total', millis / 1000)
    observer.question(outcome, millis, sourcePort)
    return outcome.kind === 'ignored' ? undefined : outcome.reply
  }
  return {
    answer,
    replays,
    strangers: upstreams.strangers,
    healthy: upstreams.healthy,
    expandedFrom: (name) => {
      const wire = wireFromText(name)
      return wire === undefined ? [] : rules.names.expandedFrom(wire)
    },
    resolverTries,
    lookForBypass,
    stopLooking: () => clearInterval(looking),
    close: upstreams.close,
  }
}

/** What holds for names and answers beside policy. */
export type Rules = Pick<ProxyParts, 'names' | 'budgets' | 'screen'>

export function makeRules(dns: AgentSettings['dns'], clock: Clock): { readonly rules: Rules; readonly mayLead: MayLead } {
  const [cluster, search, own] = [wires([dns.clusterDomain]), wires(dns.searchSuffixes), wires(dns.privateSuffixes)]
  const screening = { ...dns, privateSuffixes: [...cluster, ...own] }
  return {
    mayLead: makeMayLead(screening),
    rules: {
      names: makeNameRules({ clusterDomain: cluster[0] ?? noName, searchSuffixes: search, refuseDoh: dns.refuseDoh }),
      budgets: makeBudgets(dns.budgets, clock, [...cluster, ...search]),
      screen: makeScreen(screening),
    },
  }
} // prettier-ignore
/** Under which no name lies: a domain that cannot be read, which the configuration does not let through. */
const noName = '' as WireName

const wires = (names: readonly string[]): WireName[] => names.flatMap((name) => wireFromText(name) ?? [])

function sayOutcome(log: Logger, outcome: Outcome): void {
  if (!log.isLevelEnabled('debug')) return
  if (outcome.kind === 'ignored' || outcome.kind === 'rejected')
    log.debug({ outcome: outcome.kind, why: outcome.why.text }, 'dns')
  else
    log.debug(
      { outcome: outcome.kind, name: outcome.question.name, endpoint: outcome.endpoint?.name, why: outcome.why },
      'dns',
    )
}
