// One process that is the agent: what its configuration names is found, claimed and served, until it is to end. Then it drains.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { ManifestError, startAgent, type AgentParts, type Heir, type Prepared } from '../agent.ts'
import { AccessError, readTls } from '../api/access.ts'
import type { Succession } from '../api/routes.ts'
import { claimApi } from '../api/serve.ts'
import { firstSignal } from '../cli/agent.ts'
import type { Config } from '../config.ts'
import { claimTable, ClaimError, type Holder } from '../datapath/claim.ts'
import { openConntrack } from '../datapath/conntrack.ts'
import { openHostAddresses, type HostAddresses } from '../datapath/hostAddresses.ts'
import { makeNft } from '../datapath/nft.ts'
import { openNetlink } from '../datapath/netlink.ts'
import { openSockets } from '../datapath/sockets.ts'
import { makeLog, type Logger } from '../log.ts'
import { addressFromText, familyOf, type Address } from '../net/address.ts'
import { ExportError, openExports, type Exports } from '../observe/export.ts'
import type { ClaimedHubble } from '../observe/hubble/server.ts'
import type { Server } from '../proxy/upstream.ts'
import { nameserversOf } from '../run/resolvConf.ts'
import { SocketError } from '../socketError.ts'
import type { WarmParts } from '../warm.ts'
import type { Restarts } from './messages.ts'

/** Where an agent finds itself by its configuration. */
export interface Place {
  readonly config: Config
  readonly version: string
  readonly log: Logger
  readonly upstreams: readonly Server[]
  readonly host: HostAddresses
  /** With those that are configured: of a family of which none are, the interfaces' count. Else they would be the world's. */
  readonly withGiven: (own: readonly Address[]) => Address[]
}

export async function findPlace(config: Config, version: string): Promise<Place> {
  const log = makeLog(config.logLevel)
  const ofHost = nameserversOf(config.upstreams.length > 0 ? '' : await readFile('/etc/resolv.conf', 'utf8').catch(() => ''))
  for (const note of ofHost.notes) log.warn(note)
  const given = config.hostAddresses.flatMap((text) => addressFromText(text) ?? [])
  return {
    config,
    version,
    log,
    upstreams: config.upstreams.length > 0 ? config.upstreams : ofHost.addresses.map((address) => ({ address, port: 53 })),
    host: openHostAddresses(),
    withGiven: (own) => [...given, ...own.filter((one) => !given.some((other) => familyOf(other) === familyOf(one)))],
  }
} // prettier-ignore

/** What makes ready needs of it. */
export function warmPartsOf({ config, upstreams, host, withGiven }: Place): WarmParts {
  return {
    settings: config.settings,
    manifests: { kind: 'path', path: config.manifests },
    hostAddresses: withGiven(host.read()),
    upstreams,
    kernel: config.enforce === 'kernel' ? { nft: makeNft() } : undefined,
  }
}

/** What a policy is compiled by beside manifests and addresses: of the same fingerprint, the kernel is told the same. */
export function fingerprintOf({ config, version, upstreams }: Place): string {
  const { settings, enforce, observe, listeners } = config
  return createHash('sha256')
    .update(JSON.stringify([version, settings, enforce, observe.logGroup, listeners, upstreams]))
    .digest('hex')
}

/** What is different where several processes take turns. */
export interface Turn {
  readonly listeners: AgentParts['listeners']
  readonly prepared?: Prepared
  readonly heir?: Heir
  readonly restarts?: Restarts
  /** What others may ask of whoever holds the table. */
  readonly holder?: Holder
  readonly answering?: () => void
  readonly succession?: Succession
  /** Asked when it has started. Resolves when it is to end, with what it was that said so. */
  readonly ended: () => Promise<string>
  /** Calls back whenever the manifests are to be looked at. */
  readonly reloads: (reload: () => void) => void
}

/** Runs until it is to end; resolves with the exit status. What keeps it from starting is told on stderr. */
export async function serve(place: Place, turn: Turn): Promise<number> {
  const { config, version, log, upstreams, host, withGiven } = place
  let reload = (): void => undefined
  turn.reloads(() => reload())
  const claims: (() => Promise<void>)[] = []
  try {
    // Everything that another may have already, before anything is changed.
    if (config.enforce === 'kernel') claims.push((await claimTable(config.settings.datapath.table, turn.holder)).release)
    const api = await claimApi(config.api)
    claims.push(api.close)
    const hubble = await claimHubbleOf(config.observe.hubble, version)
    if (hubble !== undefined) claims.push(hubble.close)
    const exports = await openExports(config.observe.exports)
    claims.push(exports.close)
    const otlp = await openOtlpOf(config.observe, version)
    if (otlp !== undefined) claims.push(otlp.close)
    const agent = await startAgent(
      {
        ...warmPartsOf(place),
        log,
        listeners: turn.listeners,
        upstreams,
        followHost: (changed) =>
          host.follow(
            (own) => changed(withGiven(own)),
            (error) => log.error({ err: error }, "this host's addresses cannot be read; those known stay"),
          ),
        ...(config.journal === undefined ? {} : { journal: config.journal }),
        observe: { ...config.observe, ...(config.observe.exports.length === 0 ? {} : { exported: exports.exported }), ...(otlp === undefined ? {} : { sent: otlp.exported }) },
        kernel: config.enforce === 'kernel' ? { nft: makeNft(), netlinkFd: openNetlink(), connections: openConntrack(), socketsFd: openSockets(), ...(config.observe.logGroup === undefined ? {} : { log: { fd: openNetlink(), group: config.observe.logGroup } }) } : undefined,
        ...(turn.heir === undefined ? {} : { heir: turn.heir }),
        ...(turn.restarts === undefined ? {} : { restarts: turn.restarts }),
      },
      turn.prepared,
    )
    claims.push(agent.close)
    turn.answering?.()
    reload = agent.reload
    await api.serve({ ...agent, succession: turn.succession })
    log.info({ urls: api.urls }, 'inspection endpoint')
    hubble?.serve(agent.observer)
    exports.follow(agent.observer, log)
    otlp?.follow(agent.observer, log)
    log.info({ signal: await turn.ended() }, 'draining; connections and learned addresses stay')
    return 0
  } catch (error) {
    if (error instanceof ManifestError) process.stderr.write(`${error.message}\n`)
    else if (error instanceof SocketError || error instanceof ClaimError || error instanceof AccessError || error instanceof ExportError) process.stderr.write(`namegate: ${error.message}\n`)
    else log.fatal({ err: error }, 'the agent cannot start')
    return 1
  } finally {
    for (const release of claims.reverse()) await release()
  }
} // prettier-ignore

/** The agent as the only process of its kind. */
export async function serveAlone(config: Config, version: string): Promise<number> {
  return serve(await findPlace(config, version), {
    listeners: config.listeners,
    ended: firstSignal,
    reloads: (reload) => void process.on('SIGHUP', reload),
  })
}

/** Hubble's API where the configuration wants it. */
async function claimHubbleOf({ listen, certificate, key, clientCa }: Config['observe']['hubble'], version: string): Promise<ClaimedHubble | undefined> {
  if (listen.length === 0) return undefined
  const { claimHubble } = await import('../observe/hubble/server.ts')
  const tls =
    certificate === undefined || key === undefined
      ? undefined
      : await readTls({ certificate, key, clientCa }, 'observe.hubble.tls')
  return claimHubble(listen.map((address) => ({ address, ...(tls === undefined || address.startsWith('unix:') ? {} : { tls }) })), { version: `namegate ${version}` })
} // prettier-ignore

/** The collector where the configuration names one: without it its packages are not loaded. */
async function openOtlpOf({ otlp, cluster, node }: Config['observe'], version: string): Promise<Exports | undefined> {
  if (otlp === undefined) return undefined
  const { openOtlp } = await import('../observe/otlp.ts')
  return openOtlp(otlp, { version, cluster, node })
}
