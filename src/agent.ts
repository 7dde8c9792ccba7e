// Wires the whole agent, in plain calls. Two streams meet here: manifests become a snapshot that goes down to proxy and kernel; questions
// become leases that the kernel acknowledges before they are answered.
import { setTimeout as pause } from 'node:timers/promises'
import { monotonic, type Clock } from './clock.ts'
import { makeConntrack, type ConntrackSockets } from './datapath/conntrack.ts'
import { readEndpointAddresses, startDatapath, type Datapath, type DeniedFlow, type ResolverAttempt } from './datapath/datapath.ts' // prettier-ignore
import { makeNetlink } from './datapath/netlink.ts'
import type { Dialect } from './datapath/nfnetlink.ts'
import { makeSockets } from './datapath/sockets.ts'
import type { Nft } from './datapath/nft.ts'
import type { IdentityId } from './identity/endpoints.ts'
import { makeIntake, type Accepted, type PoliciesInForce } from './intake.ts'
import { makeJournal, readJournal, type JournalEntry } from './journal.ts'
import { makeKeeper } from './keeper.ts'
import { makeLiveness, watchLiveness, type LivenessWatch } from './liveness.ts'
import type { Lease } from './leases/lease.ts'
import type { LeaseTable } from './leases/leases.ts'
import type { Logger } from './log.ts'
import { makeMemoir } from './memoir.ts'
import { makeMetrics, type Metrics } from './metrics.ts'
import type { Exported } from './observe/export.ts'
import { capacityDefault } from './observe/ring.ts'
import { listenToKernel, makeJoiner, type KernelFlows } from './observe/kernel.ts'
import { makeObserver, type Observer } from './observe/observer.ts'
import { addressToText, type Address } from './net/address.ts'
import type { L4 } from './net/ports.ts'
import type { Snapshot, Why } from './policy/snapshot.ts'
import { issueToText, type Issue } from './policy/field.ts'
import { decideEgress, makeDecider, type EgressVerdict } from './policy/verdict.ts'
import { makeBatches } from './proxy/datagrams.ts'
import type { Outcome } from './proxy/handle.ts'
import { listen, type Listener, type Listening } from './proxy/listen.ts'
import type { Server } from './proxy/upstream.ts'
import { makeQuestions, makeRules, type Questions } from './questions.ts'
import type { AgentSettings } from './settings.ts'
import { placeText, socketError } from './socketError.ts'
import { findEarlier, makeLastPolicyFile, unsettled } from './lastPolicy.ts'
import { makeRevocations } from './revocations.ts'
import { compileEarlier, digest, isNumberedLike, isStillWarm, serversOf, warmUp, type Manifests, type Origin, type Warm } from './warm.ts' // prettier-ignore

export { ManifestError } from './warm.ts'

export interface AgentParts {
  readonly settings: AgentSettings
  readonly log: Logger
  readonly manifests: Manifests
  readonly listeners: readonly Listener[]
  readonly upstreams: readonly Server[]
  /** This host's addresses at the start. */
  readonly hostAddresses: readonly Address[]
  /** Calls back with all of them when they have changed; gives what ends that. Absent: they stay. */
  readonly followHost?: (changed: (addresses: readonly Address[]) => void) => () => void
  /** Undefined: names are judged and leases kept, but no kernel enforces them. */
  readonly kernel: KernelParts | undefined
  /**
   * The file that leases are written down in for the next agent, and beside it (`.policy`) what connections are in order by. Absent: it does not know
   * which names stand, nor which connections policy allowed.
   */
  readonly journal?: string
  readonly onOutcome?: (outcome: Outcome) => void
  /** Flows kept (2^n-1), and what they say of where they are from. */
  readonly observe?: {
    readonly capacity: number
    readonly cluster: string
    readonly node: string
    /** Metrics by Hubble's and Cilium's names too. */
    readonly hubbleMetrics?: boolean
    /** How many flows went to files; absent: there are none. */
    readonly exported?: () => Exported
    /** How many the collector took; absent: there is none. */
    readonly sent?: () => Exported
  }
  readonly clock?: Clock
  readonly heir?: Heir
  /** Times that this agent was started again in place of another, by what became of that. */
  readonly restarts?: Readonly<Record<Ended, number>>
}

/** How an agent before this one ended: by itself, or because another was to take its place. */
export type Ended = 'died' | 'replaced'

/** Whoever would go on from here, should this agent die. It is told what the kernel holds. */
export interface Heir {
  /** What was told last does not hold any more; resolves when that is known even if we die then. */
  readonly changing: () => Promise<void>
  /** The kernel holds what this compiles to, and nothing that it does not grant. */
  readonly inForce: (origin: Origin, dialect: Dialect | undefined) => void
}

/** What was prepared by whoever takes over, and whether the kernel is known to hold what it compiles to. */
export interface Prepared {
  readonly warm: Warm
  readonly stands: boolean
  /** What this kernel understands, as the agent before told. */
  readonly dialect?: Dialect | undefined
}

/** Ways into the kernel, all of one network namespace. */
export interface KernelParts {
  readonly nft: Nft
  /** A netfilter netlink socket, for learned addresses. */
  readonly netlinkFd: number
  /** For connections. Without them connections go on whatever becomes of their address or policy, and keep no lease. */
  readonly connections?: ConntrackSockets
  /** As `openSockets` gives it, in the namespace of programs that are to hear at once when their connections are ended. */
  readonly socketsFd?: number
  readonly log?: KernelLog
}

/** Where the kernel tells of packets: a netfilter netlink socket of the workloads' namespace, and a group that nobody else listens to. */
export interface KernelLog {
  readonly fd: number
  readonly group: number
}

/** Policies as they stand: those in force, and what is wrong with a newer set that was refused. */
export interface PolicySet extends PoliciesInForce {
  readonly refused: readonly Issue[]
}

export interface DeniedWithWhy extends DeniedFlow {
  readonly why: Why
}

/** Whether the kernel holds an address open to an identity on this port, as learned; undefined: no kernel enforces. */
export type KernelHolds = (identity: IdentityId, address: Address, l4: L4) => Promise<boolean | undefined>

export interface Agent {
  readonly port: number
  readonly clock: Clock
  readonly metrics: Metrics
  readonly observer: Observer
  readonly snapshot: () => Snapshot
  readonly leases: LeaseTable
  readonly policySet: () => PolicySet
  /** Takes leases out of the cache and the kernel; new packets obey when it resolves. */
  readonly cleanLeases: (matches: (lease: Lease) => boolean) => Promise<number>
  readonly denied: () => Promise<DeniedWithWhy[]>
  /** Looks now, not only every half minute, for workloads that try resolvers which would not be seen. */
  readonly lookForBypass: () => Promise<void>
  readonly kernelHolds: KernelHolds
  /** What a name may be the expansion of: the labels before each search domain that it ends in. */
  readonly expandedFrom: (name: string) => readonly (readonly string[])[]
  /** Attempts within the last hour at resolvers that would not be seen; [] without a kernel. */
  readonly resolverTries: () => Promise<readonly ResolverAttempt[]>
  /** What keeps the agent from being ready; [] when nothing does. */
  readonly troubles: () => string[]
  /** Looks at the manifests at once, where they are watched. */
  readonly reload: () => void
  readonly close: () => Promise<void>
}

type Refusal = 'lease' | 'policy' | 'table' | 'connections' | 'liveness'

/** How often somebody else's hand on the ruleset is looked for. The kernel says for 3 us whether there was any. */
const repairMillis = 1000
/** The journal of leases is written anew when it has twice as many lines as there are leases, and these. */
const journalSlack = 10_000
const tidyMillis = 60_000
/** A policy change that the kernel refused is tried again after this. */
const retryMillis = 1000

/**
 * Starts everything; resolves when the kernel holds the policy and the proxy answers. Rejects with `ManifestError`, `SocketError`, `NftError` or
 * `KernelError`, and then nothing of it runs, and the kernel has no table that it did not have.
 * @param prepared where the kernel holds the policy already, questions are answered before it is looked through and written anew.
 */
export async function startAgent(parts: AgentParts, prepared?: Prepared): Promise<Agent> {
  const { settings, log, kernel, manifests } = parts
  const servers = serversOf(parts)
  const clock = parts.clock ?? monotonic
  const stands = prepared?.stands === true && (await isNumberedLike(parts, prepared.warm))
  const warm = prepared === undefined ? await warmUp(parts) : stands || (await isStillWarm(parts, prepared.warm)) ? prepared.warm : await warmUp(parts, prepared.warm, prepared.warm.origin) // prettier-ignore
  const { origin, ending } = warm
  const { table } = settings.datapath
  const readFound = async (): Promise<Map<Address, IdentityId>> =>
    kernel?.connections === undefined ? new Map() : readEndpointAddresses(kernel.nft, table)
  const found = stands ? undefined : await readFound()
  let snapshot = warm.snapshot
  let inForce: PoliciesInForce = {
    revision: snapshot.revision,
    policies: warm.loaded.world.policies,
    warnings: warm.loaded.warnings,
  }
  /** What the kernel refused last, until it takes the like. */
  const refusals = new Map<Refusal, string>()
  sayWarnings(log, [inForce, snapshot])

  const sayRefusal = (of: Refusal, what: string, error: unknown): void => {
    refusals.set(of, String(error))
    log.error({ err: error }, what)
  }

  // The sockets first: a port that is taken is found before the kernel is touched, and the kernel is told the port. Questions that come from
  // here on wait; nobody is answered before the kernel enforces.
  const serving = Promise.withResolvers<Pick<Questions, 'answer'>>()
  const late: { questions?: Questions } = {}
  const listening: Listening = await listen(
    parts.listeners,
    (message, source, transport, sourcePort) =>
      late.questions === undefined
        ? serving.promise.then(({ answer }) => answer(message, source, transport, sourcePort))
        : late.questions.answer(message, source, transport, sourcePort),
    (error) => log.fatal({ err: error }, 'a question made the proxy fail; this is a bug'),
    {
      replays: {
        turn: () => late.questions?.replays.turn(),
        replay: (message, start, end, source, reply, at, port) =>
          late.questions?.replays.replay(message, start, end, source, reply, at, port) ?? 0,
      },
      batches: makeBatches(),
    },
  ).catch((error: unknown) => {
    throw whyNotListening(error)
  })
  const stopListening = async (): Promise<void> => {
    serving.resolve({ answer: () => Promise.resolve(undefined) })
    await listening.close()
  }

  // The kernel.
  let datapath: Datapath | undefined
  if (kernel !== undefined) {
    const structure = {
      ...settings.datapath,
      strangers: settings.dns.unknownEndpoint,
      proxy: { port: listening.port, ...dnatTarget(parts.listeners) },
      ...(kernel.log === undefined ? {} : { logGroup: kernel.log.group }),
      ...(settings.policy.hostPolicies ? { hostPolicies: { upstreams: servers } } : {}),
    }
    datapath = await startDatapath(
      { nft: kernel.nft, netlink: makeNetlink(kernel.netlinkFd), clock, structure, digest },
      snapshot,
      stands,
      prepared?.dialect,
    ).catch(async (error: unknown) => {
      await stopListening()
      throw error
    })
  }
  const { rules, mayLead } = makeRules(settings.dns, clock)
  const { capacity, cluster, node } = parts.observe ?? { capacity: capacityDefault, cluster: settings.policy.clusterName, node: settings.policy.localNode ?? 'localhost' } // prettier-ignore
  const observer = makeObserver({ snapshot: () => snapshot, capacity, place: { cluster, node }, now: Date.now })
  const connections = kernel?.connections === undefined ? undefined : makeConntrack(kernel.connections)
  const liveness = makeLiveness(
    (address) => {
      const endpoint = snapshot.endpointOf(address)
      return endpoint?.local === true ? endpoint.identity : undefined
    },
    (identity, address) => leases.isLeased(identity, address),
  )
  const sockets = kernel?.socketsFd === undefined ? undefined : makeSockets(kernel.socketsFd, (text) => log.warn(text))
  let watch: LivenessWatch | undefined
  const memoir = makeMemoir(clock, () => Date.now(), digest)
  const journal = parts.journal === undefined ? undefined : makeJournal(parts.journal, (text) => log.warn(text))
  const metrics = makeMetrics({
    leases: () => leases.size(),
    leaseOctets: () => leases.octets(),
    connections: liveness.size,
    endpoints: () => snapshot.endpoints.length,
    policyRevision: () => snapshot.revision,
    strangers: () => late.questions?.strangers() ?? 0,
    dropped: listening.dropped,
    flowsLost: () => ({ ring: observer.status().lost, kernel: observer.kernelLost() }),
    settle: observer.settle,
    exported: parts.observe?.exported,
    restarts: () => parts.restarts ?? {},
    sent: parts.observe?.sent,
    identities: () => snapshot.identities.size,
    policies: () => inForce.policies.length,
    leasedNames: () => leases.names(),
    hubble: parts.observe?.hubbleMetrics === true ? { cluster } : undefined,
  })
  const keeper = makeKeeper(
    clock,
    settings.leases,
    datapath,
    mayLead,
    (seconds, count) => {
      metrics.commit(seconds, count)
      observer.commit(seconds * 1000, count)
    },
    (how, news, why) => observer.lease(how, news, why),
    {
      hear: () => watch?.hear(),
      isInUse: liveness.isInUse,
      lost(lease) {
        const { identity, address } = lease
        revocations?.noteLost(identity, address)
        const labels = memoir.labelsOf(snapshot, identity)
        if (labels !== undefined) journal?.lost({ labels, name: lease.name, address: addressToText(address) })
      },
    },
    metrics.evicted,
  )
  const { leases } = keeper
  const kernelFlows = kernel?.log === undefined ? undefined : listenTo(kernel.log)
  /** Without it packets meet the same policy; nobody hears of them. */
  function listenTo({ fd, group }: KernelLog): KernelFlows | undefined {
    const join = makeJoiner(() => snapshot, leases.namesOf)
    try {
      return listenToKernel(makeNetlink(fd), group, (logged) => observer.connection(join(logged, Date.now())), observer.lost) // prettier-ignore
    } catch (error) {
      log.error({ err: error }, 'the kernel does not tell of packets: flows of connections are not observed')
      return undefined
    }
  }
  async function adopt(): Promise<void> {
    const earlier = parts.journal === undefined ? [] : await readJournal(parts.journal, (text) => log.warn(text))
    await keeper.adopt(snapshot, memoir.leasesOf(snapshot, earlier))
  }
  if (!stands)
    await adopt().catch(async (error: unknown) => {
      keeper.stop()
      await stopListening()
      kernelFlows?.close()
      await datapath?.abandon().catch((cause: unknown) => log.error({ err: cause }, 'the kernel table is left behind'))
      throw error
    })

  /** Once it is known what an earlier agent left: which leases end, and which are written down for the next. */
  async function beginLeases(): Promise<void> {
    if (connections !== undefined)
      watch ??= await watchLiveness(liveness, connections, (error) => {
        if (error === undefined) refusals.delete('liveness')
        else if (!refusals.has('liveness'))
          sayRefusal('liveness', 'connections cannot be heard of: those that keep a lease may not be known', error)
      })
    keeper.start()
    await journal?.rewrite(entries())
  }
  function* entries(): Iterable<JournalEntry> {
    for (const lease of leases.list()) yield* [memoir.entryOf(snapshot, lease)].filter((entry) => entry !== undefined)
  }
  if (!stands) await beginLeases()
  const tidying = setInterval(() => {
    if (journal !== undefined && !isCatchingUp && journal.lines() > 2 * leases.size() + journalSlack)
      void journal.rewrite(entries())
  }, tidyMillis)
  const revocations =
    connections === undefined
      ? undefined
      : makeRevocations(
          clock,
          connections,
          async (over) => datapath?.cut(over),
          sockets,
          leases.namesOf,
          { proxyPort: listening.port, upstreams: settings.policy.hostPolicies ? servers : [] },
          settings.policy.drainSeconds * 1000,
        )
  if (found !== undefined) revocations?.noteFound(found, snapshot)

  const questions = (late.questions = makeQuestions({
    dns: settings.dns,
    upstreams: parts.upstreams,
    rules,
    clock,
    log,
    snapshot: () => snapshot,
    datapath,
    keeper,
    metrics,
    observer,
    learned: (fact) =>
      journal?.note(
        fact.addresses.flatMap((address) => memoir.entryOf(snapshot, { ...fact, address, learnedAt: clock() }) ?? []),
      ),
    committed(refusal) {
      if (refusal === undefined) refusals.delete('lease')
      else sayRefusal('lease', 'the kernel did not acknowledge a lease', refusal)
    },
    onOutcome: parts.onOutcome,
  }))
  const { healthy, lookForBypass, expandedFrom, resolverTries, stopLooking, close: stopAsking } = questions
  observer.tap(metrics.flow)
  serving.resolve(questions)
  // Who answers first looks through the kernel's table afterwards, and before any policy changes: until then commits wait for what is written behind them.
  let isCatchingUp = stands
  let isBehind = stands
  await listening.begin(() => isBehind)

  // Policy changes: the kernel first, so that nobody is told an address by a policy that the kernel does not hold yet; then the proxy;
  // then the leases, whose elements the new policy may not want any more.
  let changing: Promise<void> = Promise.resolve()
  let closing = false
  /** The newest policy that was accepted: what a change brings into force, whenever it comes to it. */
  let wanted: Accepted = { snapshot, policies: inForce, origin }
  let retry: NodeJS.Timeout | undefined
  const changeInTurn = (): void => void (changing = changing.then(change))
  // What an earlier agent's connections were in order by, and what ours are.
  const lastPolicy = parts.journal === undefined || revocations === undefined ? undefined : makeLastPolicyFile(lastPolicyOf(parts.journal), (text) => log.warn(text)) // prettier-ignore
  const verdictsBy = JSON.stringify({ ...settings.policy, drainSeconds: 0 })
  /** What is in force; what of that is noted; by what all connections are in order, which is written down. Undefined until it is known what was before. */
  let standing = origin
  let noted: Origin | undefined
  let ordered: Origin | undefined
  /** Connections that policy allows no more since an earlier agent ended any: it died, and manifests, labels or workloads changed. */
  async function noteEarlier(journal: string): Promise<void> {
    const now = { origin, settings: verdictsBy }
    const compileTheirs = (theirs: Origin): Promise<Snapshot | undefined> => compileEarlier(parts, theirs, snapshot, ending.signal) // prettier-ignore
    const earlier = await findEarlier(lastPolicyOf(journal), now, compileTheirs, (text) => log.warn(text))
    // Not in the midst of a change.
    changing = changing.then(() => {
      if (closing) return
      if (earlier.kind === 'other') revocations?.note(earlier.snapshot, snapshot)
      if (earlier.kind === 'unknown') revocations?.noteAll(snapshot)
      if (earlier.kind === 'same') ordered = origin
      noted = standing
      cutInTurn()
    })
  }
  /** The heir goes on from what the kernel holds, and only from that. */
  let inherited: Origin | undefined
  function tellHeir(): void {
    if (wanted.snapshot !== snapshot || inherited === wanted.origin || !keeper.isSettled() || isCatchingUp) return
    inherited = wanted.origin
    parts.heir?.inForce(inherited, datapath?.dialect)
  }
  async function warnHeir(): Promise<void> {
    inherited = undefined
    await parts.heir?.changing()
  }
  async function change(): Promise<void> {
    clearTimeout(retry)
    const before = snapshot
    const change = wanted
    const next = change.snapshot
    if (closing || next === before) return
    await Promise.all([warnHeir(), unsettle()])
    try {
      await keeper.prepare(before, next)
      await datapath?.apply(next)
      refusals.delete('policy')
    } catch (error) {
      sayRefusal('policy', 'the kernel refused the new policy; the one in force stays, and it is tried again', error)
      // What is tried again is what is wanted then; close() waits for us, and nothing may come after it.
      if (!closing) retry = setTimeout(changeInTurn, retryMillis)
      await keepersFollow(before, before)
      cutInTurn()
      return
    }
    // No answer leaves between these two, nor after them by the old policy: whoever waits for a commit looks at the snapshot again.
    snapshot = next
    standing = change.origin
    const followed = keepersFollow(before, next)
    sayWarnings(log, [change.policies, next], [inForce, before])
    inForce = change.policies
    log.info(
      { revision: next.revision, endpoints: next.endpoints.length, policies: inForce.policies.length },
      'in force',
    )
    await followed
    tellHeir()
    revocations?.note(before, next)
    if (noted !== undefined) noted = standing
    cutInTurn()
  }
  // Whoever has many connections must not hold up a policy.
  let cutting: Promise<void> = Promise.resolve()
  const cutInTurn = (): void => void (cutting = cutting.then(cut))
  async function cut(): Promise<void> {
    if (revocations === undefined) return
    if (revocations.isSettled()) return sayOrdered()
    try {
      const ended = await revocations.settle(snapshot)
      refusals.delete('connections')
      if (ended > 0)
        log.info({ connections: ended }, 'connections are ended: their workload is gone, or may not have them any more')
      if (revocations.isSettled()) sayOrdered()
    } catch (error) {
      sayRefusal('connections', 'connections that may not go on could not be ended; it is tried again', error)
    }
  }
  /** Connections may begin by a policy that was in force for a moment only: who dies in it must not be followed by one that knows nothing of that. */
  async function unsettle(): Promise<void> {
    if (noted === undefined) return
    ordered = undefined
    await lastPolicy?.write(unsettled)
  }
  /** Not before: who dies until then is followed by one that ends what was to be ended. */
  function sayOrdered(): void {
    if (noted === undefined || noted === ordered) return
    ordered = noted
    void lastPolicy?.write({ origin: noted, settings: verdictsBy })
  }
  async function keepersFollow(before: Snapshot, next: Snapshot): Promise<void> {
    try {
      await keeper.follow(before, next)
    } catch (error) {
      log.error({ err: error }, 'leases could not follow the new policy yet; it is tried again')
    }
  }
  const intake = makeIntake({
    manifests,
    warm,
    followHost: parts.followHost,
    log,
    loaded: metrics.load,
    want(accepted) {
      wanted = accepted
      changeInTurn()
    },
  })
  if (prepared !== undefined) intake.look()
  if (prepared !== undefined && String(parts.hostAddresses) !== String(origin.hostAddresses))
    intake.arrive({ hostAddresses: parts.hostAddresses })

  async function catchUp(): Promise<void> {
    while (isCatchingUp && !closing)
      try {
        const endpoints = await readFound()
        await adopt()
        revocations?.noteFound(endpoints, snapshot)
        await beginLeases()
        isCatchingUp = false
        refusals.delete('table')
      } catch (error) {
        sayRefusal('table', 'what an agent before this one left in the kernel is not looked through yet; it is tried again', error)
        await pause(retryMillis, undefined, { ref: false })
      }
  } // prettier-ignore

  // Somebody else's hand on the ruleset, and what the kernel refused to take out or in.
  let seenEpoch = stands ? undefined : datapath?.epoch()
  const repairing = setInterval(() => {
    if (datapath !== undefined && datapath.epoch() !== seenEpoch) changing = changing.then(repair)
    else if (keeper.needsSettling()) changing = changing.then(settle)
    if (revocations?.isSettled() === false) cutInTurn()
  }, repairMillis)
  async function repair(): Promise<void> {
    if (datapath === undefined || datapath.epoch() === seenEpoch) return
    try {
      const { found, epoch } = await datapath.repair()
      if (found === 'reloaded') {
        metrics.repair()
        log.warn('the kernel table was not ours any more; it is loaded again')
      }
      await keeper.settle()
      // Last: as long as something is refused, all of it is tried again.
      seenEpoch = epoch
      refusals.delete('table')
      tellHeir()
    } catch (error) {
      sayRefusal('table', 'the kernel table could not be repaired', error)
    }
  }
  if (stands)
    changing = changing
      .then(catchUp)
      .then(repair)
      .then(() => void (isBehind = false))
  const { journal: journalFile } = parts
  changing = changing
    .then(tellHeir)
    .then(cutInTurn)
    .then(() => void (journalFile !== undefined && noteEarlier(journalFile)))
  async function settle(): Promise<void> {
    try {
      await keeper.settle()
      tellHeir()
    } catch (error) {
      log.error({ err: error }, 'the kernel does not hold what the leases say; it is tried again')
    }
  }

  function troubles(): string[] {
    const ofKernel = [...refusals.values(), keeper.trouble()].filter((trouble) => trouble !== undefined)
    return [
      ...ofKernel.map((trouble) => `kernel: ${trouble}`),
      ...(parts.upstreams.length === 0 ? ['no upstream is configured'] : healthy() ? [] : ['no upstream answers']),
    ]
  }
  async function cleanLeases(matches: (lease: Lease) => boolean): Promise<number> {
    const cleaned = await keeper.clean(matches)
    cutInTurn()
    await cutting
    return cleaned
  }
  async function denied(): Promise<DeniedWithWhy[]> {
    const flows = (await datapath?.denied()) ?? []
    const judge = makeDecider(snapshot)
    return flows.map((flow) => {
      const { direction, identity, address } = flow
      const leasedNames = leases.namesOf(identity, address)
      if (direction === 'egress') return { ...flow, why: whyDenied(decideEgress(snapshot, { ...flow, leasedNames })) }
      const { ingress } = judge({ ...flow, from: { kind: 'address', address }, to: { kind: 'identity', identity } })
      return {
        ...flow,
        why: whyDenied({ kind: ingress.verdict === 'allowed' ? 'allow' : 'deny', why: ingress.why[0] }),
      }
    })
  }
  async function close(): Promise<void> {
    closing = true
    ending.abort()
    clearInterval(repairing)
    stopLooking()
    clearInterval(tidying)
    clearTimeout(retry)
    intake.close()
    keeper.stop()
    watch?.stop()
    await changing
    // Those who were asked are still listened to: a question that was read is answered.
    await stopListening()
    stopAsking()
    await cutting
    await Promise.all([journal?.close(), lastPolicy?.close()])
    connections?.close()
    sockets?.close()
    kernelFlows?.close()
    datapath?.close()
  }
  log.info(
    {
      port: listening.port,
      endpoints: snapshot.endpoints.length,
      policies: inForce.policies.length,
      enforced: datapath !== undefined,
    },
    'agent started',
  )
  return {
    port: listening.port,
    clock,
    metrics,
    observer,
    snapshot: () => snapshot,
    leases,
    policySet: () => ({ ...inForce, refused: intake.refused() }),
    cleanLeases,
    denied,
    lookForBypass,
    kernelHolds: async (identity, address, l4) => datapath?.holds(identity, address, l4),
    expandedFrom,
    resolverTries,
    troubles,
    reload: intake.look,
    close,
  }
}

const lastPolicyOf = (journal: string): string => `${journal}.policy`

/** A socket's error in words, where it is about an address that somebody chose. */
function whyNotListening(error: unknown): unknown {
  const { address, port } = error as { address?: string; port?: number }
  return address === undefined || port === undefined
    ? error
    : socketError('DNS', placeText(address, port), 'dns.listen', error)
}

/** Where the kernel sends the workloads' DNS; nothing when it listens on sockets of a gate, which take what comes in by any address. */
function dnatTarget(listeners: readonly Listener[]): { address4?: string; address6?: string } {
  const given = listeners.flatMap((listener) => listener.address ?? [])
  const [address4, address6] = [given.find((text) => !text.includes(':')), given.find((text) => text.includes(':'))]
  return { ...(address4 === undefined ? {} : { address4 }), ...(address6 === undefined ? {} : { address6 }) }
}

/** The kernel refused it when it was tried; a name looked up, or a policy changed, since then does not explain that. */
function whyDenied({ kind, why }: EgressVerdict): Why {
  return kind === 'deny' ? why : { ...why, text: `not allowed when it was tried; now ${why.text}` }
}

/** Says what is to be said of policies and of the world they are in, except for what was said of those before. */
function sayWarnings(log: Logger, [policies, snapshot]: InForce, before?: InForce): void {
  if (policies.warnings !== before?.[0].warnings)
    for (const issue of policies.warnings) log[issue.severity === 'note' ? 'info' : 'warn'](issueToText(issue))
  const said = new Set(before?.[1].notes)
  for (const note of snapshot.notes) if (!said.has(note)) log.warn(note)
}
type InForce = readonly [PoliciesInForce, Snapshot]
