// `namegate run`: one command in a network of its own, under the policies given and nothing else.
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { ManifestError, startAgent } from '../agent.ts'
import type { AgentSettings } from '../settings.ts'
import { openHostAddresses } from '../datapath/hostAddresses.ts'
import { socketDiagnosis } from '../datapath/netlink.ts'
import { makeLog, type LogLevel } from '../log.ts'
import { addressFromText, addressToText, type Address } from '../net/address.ts'
import { prefixFromText, rangeCovers } from '../net/prefix.ts'
import { issueToText } from '../policy/field.ts'
import type { Server } from '../proxy/upstream.ts'
import { makeCompiler } from '../policy/compile.ts'
import { loadWorld } from '../sources/manifests.ts'
import { attachWorkload, makeGate, type Link } from './gate.ts'
import { createNamespace, netlinkIn } from './namespace.ts'
import { freeLink } from './link.ts'
import { endLike, launch, ownFailure, startedChild, takeSignals, type Ending, type Signals } from './launch.ts'
import { mayChangeNetworks, whatIsMissing } from './needs.ts'
import { nameserversOf, withNameservers } from './resolvConf.ts'
import { collectUnanswered, summaryJson, summaryText } from './summary.ts'
import { openUplink, UplinkError, type Network } from './uplink.ts'

export interface RunOptions {
  readonly policies: readonly string[]
  readonly labels: readonly (readonly [key: string, value: string])[]
  readonly upstreams: readonly Server[]
  readonly network: Network
  readonly summary: 'text' | 'json' | 'none'
  readonly logLevel: LogLevel
  readonly settings: AgentSettings
  readonly command: readonly string[]
}

/** Set for the second half of a run without root, which is root of a user namespace: the user's own `uid:gid`. */
const mappedVariable = 'NAMEGATE_MAPPED_FROM'

/** Runs the command; ends the process as the command ended. */
export async function runCommand(options: RunOptions): Promise<never> {
  // A terminal that was closed, a pipe whose reader left: what we changed is taken back all the same, and the status is the command's.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
  try {
    return endLike(await runSomewhere(options, takeSignals()))
  } catch (error) {
    process.stderr.write(explain(error))
    process.exit(ownFailure)
  }
}

/** Here when we may change networks; else as root of a user namespace. */
async function runSomewhere(options: RunOptions, signals: Signals): Promise<Ending> {
  const mappedFrom = process.env[mappedVariable]
  delete process.env[mappedVariable]
  if (mappedFrom === undefined && !mayChangeNetworks()) return rerunMapped(signals)
  const missing = whatIsMissing()
  if (missing !== undefined) throw new UplinkError(missing)
  const [uid, gid] = (mappedFrom ?? '').split(':').map(Number)
  return runInside(options, uid === undefined || gid === undefined ? undefined : { uid, gid }, signals)
}

function explain(error: unknown): string {
  if (error instanceof ManifestError)
    return `${error.message}\nnamegate: the policy cannot be used; nothing was started\n`
  return `namegate: ${error instanceof Error ? error.message : String(error)}\n`
}

/** The same command line as root of a fresh user namespace, in the network namespace we are in. */
async function rerunMapped(signals: Signals): Promise<Ending> {
  const from = `${process.getuid?.()}:${process.getgid?.()}`
  const own = [process.execPath, ...process.execArgv, fileURLToPath(new URL('../main.ts', import.meta.url)), ...process.argv.slice(2)]
  const probe = spawn('unshare', ['--user', '--map-root-user', 'true'], { stdio: ['ignore', 'ignore', 'pipe'] })
  let complaint = ''
  probe.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text))
  const allowed = await new Promise<boolean>((resolve) => {
    probe.once('error', () => resolve(false))
    probe.once('close', (status) => resolve(status === 0))
  })
  if (!allowed) {
    const advice = 'run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)'
    throw new UplinkError(`this kernel gives us no user namespace: ${complaint.trim() || 'unshare is not installed'}; ${advice}`)
  }
  const child = spawn('unshare', ['--user', '--map-root-user', 'setpriv', '--pdeathsig', 'KILL', ...own], { stdio: 'inherit', env: { ...process.env, [mappedVariable]: from } })
  return signals.supervise(startedChild(child))
} // prettier-ignore

async function runInside(options: RunOptions, mapBackTo: { uid: number; gid: number } | undefined, signals: Signals): Promise<Ending> {
  const hostResolvConf = await readFile('/etc/resolv.conf', 'utf8').catch(() => '')
  const ofHost = nameserversOf(options.upstreams.length > 0 ? '' : hostResolvConf)
  for (const note of ofHost.notes) say(note)
  const upstreams = options.upstreams.length > 0 ? options.upstreams : ofHost.addresses.map((address) => ({ address, port: 53 }))
  if (upstreams.length === 0) throw new UplinkError('no resolver: /etc/resolv.conf names none, and no --upstream is given')
  const host = openHostAddresses()
  const own = ownAddresses(host.read())
  const link = freeLink(own.map(addressToText))
  // This machine by every address that it has: names and prefixes do not lead to those, only `toEntities: [host]` does.
  const gateways = [link.gateway4, link.gateway6].flatMap((text) => addressFromText(text) ?? [])
  const files = [...(await Promise.all(options.policies.map(async (path) => ({ path, text: await readPolicy(path) })))), workloadManifest(options, link)]
  requireSelected(files, options)

  const unanswered = collectUnanswered()
  const toClose: (() => Promise<unknown>)[] = []
  try {
    const log = makeLog(options.logLevel)
    const gate = await makeGate()
    // Empty until the policy stands; its programs hear at once of connections that end.
    const namespace = await createNamespace()
    const agent = await startAgent({
      settings: { ...options.settings, datapath: { ...options.settings.datapath, denied: 'reject', interfaces: [link.name], prefixes: [] } },
      log,
      manifests: { kind: 'texts', files },
      listeners: gate.listeners,
      upstreams,
      hostAddresses: [...gateways, ...own],
      followHost: (changed) =>
        host.follow(
          (now) => changed([...gateways, ...ownAddresses(now)]),
          (error) => log.error({ err: error }, "this machine's addresses cannot be read; those known stay"),
        ),
      kernel: { ...gate.kernel, socketsFd: await netlinkIn(namespace, [], socketDiagnosis) },
      onOutcome: unanswered.see,
    })
    toClose.push(() => agent.close())
    // Whoever relies on the policy must know which part of it does not hold. The log tells it too, where it is wanted.
    if (!log.isLevelEnabled('warn')) for (const text of [...agent.policySet().warnings.map(issueToText), ...agent.snapshot().notes]) say(text)
    // The policy stands before there is anything for it to hold back.
    const uplink = await openUplink(gate, options.network, mapBackTo === undefined)
    toClose.push(() => uplink.close())
    await attachWorkload(gate, link, namespace)
    const early = signals.early()
    if (early !== undefined) return { kind: 'signal', signal: early }
    const resolvConf = withNameservers(hostResolvConf, [link.gateway4])
    const ending = await signals.supervise(launch({ namespace, command: options.command, resolvConf, mapBackTo }))
    // From here on the ending is the command's, whatever goes wrong with us.
    try {
      const flows = (await agent.denied()).filter(({ direction }) => direction === 'egress')
      if (options.summary === 'text') process.stderr.write(summaryText(unanswered.names(), flows))
      if (options.summary === 'json') process.stderr.write(summaryJson(unanswered.names(), flows))
    } catch (error) {
      complain('what was denied is not known', error)
    }
    return ending
  } finally {
    for (const close of toClose) await close().catch((error: unknown) => complain('not cleaned up', error))
  }
} // prettier-ignore

function say(text: string): void {
  process.stderr.write(`namegate: ${text}\n`)
}

function complain(what: string, error: unknown): void {
  say(`${what}: ${error instanceof Error ? error.message : String(error)}`)
}

const loopbacks = ['127.0.0.0/8', '::1'].flatMap((text) => prefixFromText(text) ?? [])

/** Without those of loopback: in the gate and behind it, they are others'. */
function ownAddresses(all: readonly Address[]): Address[] {
  return all.filter((address) => !loopbacks.some((range) => rangeCovers(range, address)))
}

async function readPolicy(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new Error(`the policy cannot be read: ${(error as Error).message}`, { cause: error })
  }
}

/** The command as a pod: what the policies select. */
function workloadManifest({ labels }: RunOptions, link: Link): { path: string; text: string } {
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'run', namespace: 'default', labels: Object.fromEntries(labels) },
    status: { podIPs: [{ ip: link.address4 }, { ip: link.address6 }] },
  }
  return { path: 'the workload', text: JSON.stringify(pod) }
}

/** A policy that selects something else would let the command do anything: that is a mistake, not a wish. */
function requireSelected(files: readonly { path: string; text: string }[], { labels, policies }: RunOptions): void {
  const loaded = loadWorld(files)
  if (!loaded.ok) throw new ManifestError(loaded.issues)
  const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world)
  const identity = snapshot.endpoints.find(({ namespace, name }) => namespace === 'default' && name === 'run')?.identity ?? 0
  const { fallback, entries } = snapshot.policyOf(identity).directions.egress
  if (fallback === 'deny' || entries.some((entry) => entry.kind === 'deny')) return
  const text = labels.map(([key, value]) => `${key}=${value}`).join(', ')
  throw new Error(`no policy in ${policies.join(', ')} restricts the egress of the workload (namespace default, labels ${text}); nothing would be enforced`)
} // prettier-ignore
