// Wires the whole agent, in plain calls. Two streams meet here: manifests become a snapshot that goes down to proxy and kernel; questions
// become leases that the kernel acknowledges before they are answered.
import { createHash } from 'node:crypto'
import { monotonic, type Clock } from './clock.ts'
import { readIdentities, startDatapath, type Datapath, type DeniedFlow } from './datapath/datapath.ts'
import { makeNetlink } from './datapath/netlink.ts'
import type { Nft } from './datapath/nft.ts'
import { makeIdentities, type Digest } from './identity/identities.ts'
import { makeKeeper } from './keeper.ts'
import type { Lease, LeaseLimits, LeaseTable } from './leases/leases.ts'
import type { Logger } from './log.ts'
import { makeMetrics, type Metrics } from './metrics.ts'
import type { Address } from './net/address.ts'
import type { AddressRange } from './net/prefix.ts'
import { makeCompiler } from './policy/compile.ts'
import type { Snapshot, Why } from './policy/egress.ts'
import { issueToText, type Issue } from './policy/field.ts'
import type { Policy } from './policy/rules.ts'
import { decide } from './policy/verdict.ts'
import { makeAnswers } from './proxy/answers.ts'
import { handle, type Outcome, type ProxyParts } from './proxy/handle.ts'
import { listen, type Listener, type Listening } from './proxy/listen.ts'
import { makeUpstreams, type Server } from './proxy/upstream.ts'
import { readManifests, watchManifests, type FolderWatch } from './sources/folder.ts'
import { loadWorld, type ManifestFile } from './sources/manifests.ts'

/** 96 bits: nft allows a comment of 128 characters, which two of these fit into. */
const digest: Digest = (text) => createHash('sha256').update(text).digest('hex').slice(0, 24)

/** What can be set, as in the configuration file. */
export interface AgentSettings {
  readonly dns: {
    readonly timeoutMillis: number
    readonly deadlineMillis: number
    readonly denyReply: 'refused' | 'nxdomain'
    readonly unknownEndpoint: 'deny' | 'allow'
    readonly cache: { readonly entries: number; readonly octets: number }
  }
  readonly leases: LeaseLimits
  readonly datapath: {
    readonly table: string
    readonly denied: 'drop' | 'reject'
    readonly interfaces: readonly string[]
    readonly prefixes: readonly AddressRange[]
    readonly learnedMax: number
  }
}

export interface AgentParts {
  readonly settings: AgentSettings
  readonly log: Logger
  /** A folder or file that is watched, or texts that stay as they are. */
  readonly manifests:
    | { readonly kind: 'path'; readonly path: string }
    | { readonly kind: 'texts'; readonly files: readonly ManifestFile[] }
  readonly listeners: readonly Listener[]
  readonly upstreams: readonly Server[]
  readonly hostAddresses: readonly Address[]
  /** Undefined: names are judged and leases kept, but no kernel enforces them. */
  readonly kernel: { readonly nft: Nft; readonly netlinkFd: number } | undefined
  readonly onOutcome?: (outcome: Outcome) => void
  readonly clock?: Clock
}

/** The manifests cannot be used; `issues` says all that is wrong with them. */
export class ManifestError extends Error {
  readonly code = 'manifests'
  readonly issues: readonly Issue[]
  constructor(issues: readonly Issue[]) {
    super(issues.map(issueToText).join('\n'))
    this.name = 'ManifestError'
    this.issues = issues
  }
}

/** Policies as they stand: those in force, and what is wrong with a newer set that was refused. */
export interface PolicySet {
  readonly revision: number
  readonly policies: readonly Policy[]
  readonly warnings: readonly Issue[]
  readonly refused: readonly Issue[]
}

export interface DeniedWithWhy extends DeniedFlow {
  readonly why: Why
}

export interface Agent {
  readonly port: number
  readonly clock: Clock
  readonly metrics: Metrics
  readonly snapshot: () => Snapshot
  readonly leases: LeaseTable
  readonly policySet: () => PolicySet
  /** Takes leases out of the cache and the kernel; new packets obey when it resolves. */
  readonly cleanLeases: (matches: (lease: Lease) => boolean) => Promise<number>
  readonly denied: () => Promise<DeniedWithWhy[]>
  /** What keeps the agent from being ready; [] when nothing does. */
  readonly troubles: () => string[]
  readonly close: () => Promise<void>
}

/** How often somebody else's hand on the ruleset is looked for. The kernel says for 3 us whether there was any. */
const repairMillis = 1000
/** A policy change that the kernel refused is tried again after this. */
const retryMillis = 1000

/**
 * Starts everything; resolves when the kernel holds the policy and the proxy answers. Rejects with `ManifestError`, `NftError`,
 * `KernelError` or a socket's error, and then nothing of it runs and the kernel is as it was.
 */
export async function startAgent(parts: AgentParts): Promise<Agent> {
  const { settings, log, kernel, manifests } = parts
  const clock = parts.clock ?? monotonic
  const files = manifests.kind === 'path' ? await readManifests(manifests.path) : manifests.files
  const first = loadWorld(files)
  if (!first.ok) throw new ManifestError(first.issues)
  const known = kernel === undefined ? undefined : await readIdentities(kernel.nft, settings.datapath.table)
  const compile = makeCompiler({
    hostAddresses: parts.hostAddresses,
    upstreams: parts.upstreams.map((server) => server.address),
    denyReply: settings.dns.denyReply,
    identities: makeIdentities(known, digest),
  })
  let snapshot = compile(first.world)
  let policySet: PolicySet = {
    revision: snapshot.revision,
    policies: first.world.policies,
    warnings: first.warnings,
    refused: [],
  }
  let kernelTrouble: string | undefined
  sayWarnings(log, policySet, snapshot)

  const keeper = makeKeeper(clock, settings.leases, (seconds, elements) => metrics.commit(seconds, elements))
  const { leases } = keeper
  const commit: ProxyParts['commit'] = async ({ elements }) => {
    try {
      await keeper.commit(elements)
      if (elements.length > 0) kernelTrouble = undefined
    } catch (error) {
      sayTrouble('the kernel did not acknowledge a lease', error)
      throw error
    }
  }
  const sayTrouble = (what: string, error: unknown): void => {
    kernelTrouble = String(error)
    log.error({ err: error }, what)
  }

  // The proxy.
  const upstreams = makeUpstreams({ servers: parts.upstreams, ...settings.dns }, clock)
  const ask = makeAnswers(
    async (question, flags) => {
      const startedAt = clock()
      const reply = await upstreams.ask(question, flags)
      metrics.upstreamSeconds((clock() - startedAt) / 1000, reply.kind)
      return reply
    },
    clock,
    settings.dns.cache,
  )
  const report = (outcome: Outcome): void => {
    metrics.question(outcome)
    parts.onOutcome?.(outcome)
    sayOutcome(log, outcome)
  }
  const proxyParts: ProxyParts = {
    snapshot: () => snapshot,
    unknownEndpoint: settings.dns.unknownEndpoint,
    ask,
    learn: (fact) => keeper.learn(fact, snapshot.policyOf(fact.identity)),
    commit,
    report,
  }
  const listening: Listening = await listen(
    parts.listeners,
    async (message, source, transport) => {
      const outcome = await handle(proxyParts, message, source, transport)
      return outcome.kind === 'ignored' ? undefined : outcome.reply
    },
    (error) => log.fatal({ err: error }, 'a question made the proxy fail; this is a bug'),
  )
  const metrics = makeMetrics({
    leases: leases.size,
    endpoints: () => snapshot.endpoints.length,
    policyRevision: () => snapshot.revision,
    strangers: upstreams.strangers,
    dropped: listening.dropped,
  })

  // The kernel.
  const stopListening = async (): Promise<void> => {
    upstreams.close()
    await listening.close()
  }
  let datapath: Datapath | undefined
  if (kernel !== undefined) {
    const structure = {
      ...settings.datapath,
      strangers: settings.dns.unknownEndpoint,
      proxy: { port: listening.port, ...dnatTarget(parts.listeners) },
    }
    datapath = await startDatapath(
      { nft: kernel.nft, netlink: makeNetlink(kernel.netlinkFd), clock, structure, digest },
      snapshot,
    ).catch(async (error: unknown) => {
      await stopListening()
      throw error
    })
    keeper.enforce(datapath)
  }

  // Policy changes: the kernel first, so that nobody is told an address by a policy that the kernel does not hold yet; then the proxy;
  // then the leases, whose elements the new policy may not want any more.
  let changing: Promise<void> = Promise.resolve()
  let retry: NodeJS.Timeout | undefined
  function load(newFiles: readonly ManifestFile[]): void {
    const loaded = loadWorld(newFiles)
    metrics.load(loaded.ok)
    if (!loaded.ok) {
      policySet = { ...policySet, refused: loaded.issues }
      log.error({ issues: loaded.issues.map(issueToText) }, 'the new manifests are refused; the policy in force stays')
      return
    }
    const next = compile(loaded.world)
    const nextSet = { revision: next.revision, policies: loaded.world.policies, warnings: loaded.warnings, refused: [] }
    clearTimeout(retry)
    changing = changing.then(() => change(next, nextSet))
  }
  async function change(next: Snapshot, nextSet: PolicySet): Promise<void> {
    const before = snapshot
    try {
      await keeper.move(before, next)
      await datapath?.apply(next)
      kernelTrouble = undefined
    } catch (error) {
      sayTrouble('the kernel refused the new policy; the one in force stays, and it is tried again', error)
      retry = setTimeout(() => {
        changing = changing.then(() => change(next, nextSet))
      }, retryMillis)
      return
    }
    snapshot = next
    policySet = nextSet
    sayWarnings(log, policySet, snapshot)
    try {
      await keeper.follow(before, next)
    } catch (error) {
      sayTrouble('leases could not follow the new policy; their elements end with their timeouts', error)
    }
  }
  const watching: FolderWatch | undefined =
    manifests.kind === 'path'
      ? watchManifests(manifests.path, files, load, (error) => {
          policySet = {
            ...policySet,
            refused: [
              { file: manifests.path, line: 1, column: 1, path: '', message: error.message, severity: 'error' },
            ],
          }
          log.error({ err: error }, 'the manifests cannot be read; the policy in force stays')
        })
      : undefined

  // Somebody else's hand on the ruleset.
  let seenEpoch = datapath?.epoch()
  const repairing = setInterval(() => {
    if (datapath === undefined || datapath.epoch() === seenEpoch) return
    changing = changing.then(repair)
  }, repairMillis)
  async function repair(): Promise<void> {
    if (datapath === undefined) return
    try {
      const found = await datapath.repair()
      if (found === 'reloaded') {
        metrics.repair()
        log.warn('the kernel table was not ours any more; it is loaded again')
      }
      seenEpoch = datapath.epoch()
      await keeper.recommit()
      kernelTrouble = undefined
    } catch (error) {
      sayTrouble('the kernel table could not be repaired', error)
    }
  }

  function troubles(): string[] {
    return [
      ...(kernelTrouble === undefined ? [] : [`kernel: ${kernelTrouble}`]),
      ...(parts.upstreams.length === 0
        ? ['no upstream is configured']
        : upstreams.healthy()
          ? []
          : ['no upstream answers']),
    ]
  }
  async function denied(): Promise<DeniedWithWhy[]> {
    const flows = (await datapath?.denied()) ?? []
    return flows.map((flow) => {
      const { kind, why } = decide(snapshot, { ...flow, leasedNames: leases.namesOf(flow.identity, flow.address) })
      // The kernel refused it when it was tried; a name looked up, or a policy changed, since then does not explain that.
      return {
        ...flow,
        why: kind === 'deny' ? why : { ...why, text: `not allowed when it was tried; now ${why.text}` },
      }
    })
  }
  async function close(): Promise<void> {
    clearInterval(repairing)
    clearTimeout(retry)
    watching?.close()
    keeper.stop()
    await changing
    await stopListening()
    datapath?.close()
  }
  log.info(
    {
      port: listening.port,
      endpoints: snapshot.endpoints.length,
      policies: policySet.policies.length,
      enforced: datapath !== undefined,
    },
    'agent started',
  )
  return {
    port: listening.port,
    clock,
    metrics,
    snapshot: () => snapshot,
    leases,
    policySet: () => policySet,
    cleanLeases: keeper.clean,
    denied,
    troubles,
    close,
  }
}

/** Where the kernel sends the workloads' DNS; nothing when it listens on sockets of a gate, which take what comes in by any address. */
function dnatTarget(listeners: readonly Listener[]): { address4?: string; address6?: string } {
  const given = listeners.flatMap((listener) => (listener.kind === 'address' ? [listener.address] : []))
  const [address4, address6] = [given.find((text) => !text.includes(':')), given.find((text) => text.includes(':'))]
  return { ...(address4 === undefined ? {} : { address4 }), ...(address6 === undefined ? {} : { address6 }) }
}

function sayWarnings(log: Logger, set: PolicySet, snapshot: Snapshot): void {
  for (const warning of set.warnings) log.warn(issueToText(warning))
  for (const note of snapshot.notes) log.warn(note)
}

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
