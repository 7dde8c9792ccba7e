// `namegate agent`: reads the configuration, starts the agent and its API, looks at the manifests on SIGHUP, and drains on SIGTERM.
import { readFile } from 'node:fs/promises'
import { ManifestError, startAgent } from '../agent.ts'
import { AccessError, readTls } from '../api/access.ts'
import { claimApi } from '../api/serve.ts'
import { parseConfig, type Config } from '../config.ts'
import { claimTable, ClaimError } from '../datapath/claim.ts'
import { openConntrack } from '../datapath/conntrack.ts'
import { openHostAddresses } from '../datapath/hostAddresses.ts'
import { makeNft } from '../datapath/nft.ts'
import { openNetlink } from '../datapath/netlink.ts'
import { makeLog } from '../log.ts'
import { addressFromText, familyOf, type Address } from '../net/address.ts'
import { ExportError, openExports, type Exports } from '../observe/export.ts'
import type { ClaimedHubble } from '../observe/hubble/server.ts'
import { issueToText } from '../policy/field.ts'
import { nameserversOf } from '../run/resolvConf.ts'
import { SocketError } from '../socketError.ts'

/** Runs until a signal; resolves with the exit status. */
export async function agentCommand(configFile: string, version: string): Promise<number> {
  const result = parseConfig(await readFile(configFile, 'utf8'), configFile)
  if (!result.ok) {
    process.stderr.write(result.issues.map((issue) => `${issueToText(issue)}\n`).join(''))
    return 1
  }
  const { config } = result
  const log = makeLog(config.logLevel)
  for (const warning of result.warnings) log.warn(issueToText(warning))
  const ofHost = nameserversOf(config.upstreams.length > 0 ? '' : await readFile('/etc/resolv.conf', 'utf8').catch(() => ''))
  for (const note of ofHost.notes) log.warn(note)
  const upstreams = config.upstreams.length > 0 ? config.upstreams : ofHost.addresses.map((address) => ({ address, port: 53 }))
  const host = openHostAddresses()
  const given = config.hostAddresses.flatMap((text) => addressFromText(text) ?? [])
  // Of a family of which none are given, the interfaces' count: else they would be the world's.
  const withGiven = (own: readonly Address[]): Address[] => [...given, ...own.filter((one) => !given.some((other) => familyOf(other) === familyOf(one)))]
  let reload = (): void => undefined
  process.on('SIGHUP', () => reload())
  const claims: (() => Promise<void>)[] = []
  try {
    // Everything that another may have already, before anything is changed.
    if (config.enforce === 'kernel') claims.push((await claimTable(config.settings.datapath.table)).release)
    const api = await claimApi(config.api)
    claims.push(api.close)
    const hubble = await claimHubbleOf(config.observe.hubble, version)
    if (hubble !== undefined) claims.push(hubble.close)
    const exports = await openExports(config.observe.exports)
    claims.push(exports.close)
    const otlp = await openOtlpOf(config.observe, version)
    if (otlp !== undefined) claims.push(otlp.close)
    const agent = await startAgent({
      settings: config.settings,
      log,
      manifests: { kind: 'path', path: config.manifests },
      listeners: config.listeners,
      upstreams,
      ...(config.journal === undefined ? {} : { journal: config.journal }),
      hostAddresses: withGiven(host.read()),
      followHost: (changed) =>
        host.follow(
          (own) => changed(withGiven(own)),
          (error) => log.error({ err: error }, "this host's addresses cannot be read; those known stay"),
        ),
      observe: { ...config.observe, ...(config.observe.exports.length === 0 ? {} : { exported: exports.exported }), ...(otlp === undefined ? {} : { sent: otlp.exported }) },
      kernel: config.enforce === 'kernel' ? { nft: makeNft(), netlinkFd: openNetlink(), connections: openConntrack(), ...(config.observe.logGroup === undefined ? {} : { log: { fd: openNetlink(), group: config.observe.logGroup } }) } : undefined,
    })
    claims.push(agent.close)
    reload = agent.reload
    await api.serve(agent)
    log.info({ urls: api.urls }, 'inspection endpoint')
    hubble?.serve(agent.observer)
    exports.follow(agent.observer, log)
    otlp?.follow(agent.observer, log)
    const signal = await firstSignal()
    log.info({ signal }, 'draining; connections and learned addresses stay')
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

/** The first SIGTERM or SIGINT; a second one ends the process at once, as it does without us. */
export function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    const signals = ['SIGTERM', 'SIGINT'] as const
    const first = (signal: NodeJS.Signals): void => {
      for (const each of signals) process.off(each, first)
      resolve(signal)
    }
    for (const each of signals) process.on(each, first)
  })
}
