// `namegate agent`: reads the configuration, starts the agent and its API, and drains on SIGTERM.
import { readFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { ManifestError, startAgent, type Agent } from '../agent.ts'
import { serveApi } from '../api/serve.ts'
import { parseConfig, type Config } from '../config.ts'
import { makeNft } from '../datapath/nft.ts'
import { openNetlink } from '../datapath/netlink.ts'
import { makeLog } from '../log.ts'
import type { ServedHubble } from '../observe/hubble/server.ts'
import { addressFromText } from '../net/address.ts'
import { issueToText } from '../policy/field.ts'
import { nameserversOf } from '../run/resolvConf.ts'

/** Runs until a signal; resolves with the exit status. */
export async function agentCommand(configFile: string, version: string): Promise<number> {
  const result = parseConfig(await readFile(configFile, 'utf8'), configFile)
  if (!result.ok) {
    process.stderr.write(result.issues.map((issue) => `${issueToText(issue)}\n`).join(''))
    return 1
  }
  const { config } = result
  const log = makeLog(config.logLevel)
  const ofHost = nameserversOf(config.upstreams.length > 0 ? '' : await readFile('/etc/resolv.conf', 'utf8').catch(() => ''))
  for (const note of ofHost.notes) log.warn(note)
  const upstreams = config.upstreams.length > 0 ? config.upstreams : ofHost.addresses.map((address) => ({ address, port: 53 }))
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses?.map(({ address }) => address) ?? [])
  const hostAddresses = (config.hostAddresses.length > 0 ? config.hostAddresses : own).flatMap((text) => addressFromText(text) ?? [])
  const { interfaces, prefixes } = config.settings.datapath
  if (config.enforce === 'kernel' && interfaces.length + prefixes.length === 0)
    log.warn('datapath.interfaces and datapath.prefixes are empty: packets from addresses that no endpoint has are not held back')
  try {
    const agent = await startAgent({
      settings: config.settings,
      log,
      manifests: { kind: 'path', path: config.manifests },
      listeners: config.listeners,
      upstreams,
      hostAddresses,
      observe: config.observe,
      kernel: config.enforce === 'kernel' ? { nft: makeNft(), netlinkFd: openNetlink(), ...(config.observe.logGroup === undefined ? {} : { log: { fd: openNetlink(), group: config.observe.logGroup } }) } : undefined,
    })
    const api = await serveApi(agent, config.api).catch(async (error: unknown) => {
      await agent.close()
      throw error
    })
    log.info({ urls: api.urls }, 'inspection endpoint')
    const hubble = await hubbleOf(agent, config.observe.hubble, version).catch(async (error: unknown) => {
      await api.close()
      await agent.close()
      throw error
    })
    const signal = await firstSignal()
    log.info({ signal }, 'draining; connections and learned addresses stay')
    await hubble?.close()
    await api.close()
    await agent.close()
    return 0
  } catch (error) {
    if (error instanceof ManifestError) process.stderr.write(`${error.message}\n`)
    else log.fatal({ err: error }, 'the agent cannot start')
    return 1
  }
} // prettier-ignore

/** Hubble's API where the configuration wants it. */
async function hubbleOf(agent: Agent, { listen, certificate, key, clientCa }: Config['observe']['hubble'], version: string): Promise<ServedHubble | undefined> {
  if (listen.length === 0) return undefined
  const { serveHubble } = await import('../observe/hubble/server.ts')
  const tls =
    certificate === undefined || key === undefined
      ? undefined
      : { certificate: await readFile(certificate), key: await readFile(key), ...(clientCa === undefined ? {} : { clientCa: await readFile(clientCa) }) }
  return serveHubble(agent.observer, listen.map((address) => ({ address, ...(tls === undefined || address.startsWith('unix:') ? {} : { tls }) })), { version: `namegate ${version}` })
} // prettier-ignore

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
