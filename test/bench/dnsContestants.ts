// The resolvers of the `dns` benchmark, each configured as close to the same as it can be: 10 000 names and 1 000 patterns are permitted,
// all else is denied, answers are kept, one worker. None of the rivals writes to the kernel here: that is their fastest setting.
import { spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { sh } from '../support/lab.ts'
import { noBudgets, startMeasured, type Lab } from './lab.ts'

export interface Resolver {
  readonly name: string
  /** The program that must be installed, and the Debian package that has it. */
  readonly needs: { readonly program: string; readonly packageName: string } | undefined
  /** @param entries answers that it must have room for */
  readonly start: (
    lab: Lab,
    entries?: number,
  ) => Promise<{ readonly process: ChildProcess; readonly stop: () => Promise<void> }>
  /** Has a running one give back what is garbage; absent: it makes none. */
  readonly collect?: (pid: number) => Promise<void>
}

export const identities = 100
export const names: readonly string[] = Array.from({ length: 10_000 }, (_, i) => `n${i}.example.net`)
/** Zones below which everything is permitted. The first is the one that `startMeasured` asks in. */
export const zones: readonly string[] = ['example.com', ...Array.from({ length: 999 }, (_, i) => `p${i}.example.org`)]
/** The workloads' addresses: 10.1.0.2 and up, one identity each. */
export const sources: readonly string[] = Array.from({ length: identities }, (_, i) => `10.1.0.${i + 2}`)

const entriesUsual = 50_000
const upstream = '10.3.0.2'
const upstreamPort = 5300
const us = '10.1.0.1'

const namegate: Resolver = {
  name: 'namegate',
  needs: undefined,
  async start(lab, entries = entriesUsual) {
    const pods = sources.map((ip, i) => `apiVersion: v1
kind: Pod
metadata: {name: w${i}, labels: {app: client, number: "${i}"}}
status: {podIPs: [{ip: ${ip}}]}
---`) // prettier-ignore
    const rules = [
      ...names.map((name) => `{matchName: ${name}}`),
      ...zones.map((zone) => `{matchPattern: "*.${zone}"}`),
    ]
    const policy = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toFQDNs: [${rules.join(', ')}]}]
`
    const manifests = join(lab.folder, 'dns.yaml')
    writeFileSync(manifests, [...pods, policy].join('\n'))
    const config = { manifests, dns: { upstreams: [`${upstream}:${upstreamPort}`], cache: { entries, octets: entries * 2000 }, budgets: noBudgets }, leases: { leasesMax: 1 << 21, journal: join(lab.folder, 'leases') }, datapath: { interfaces: ['client'] }, api: { socket: null, port: null }, restart: 'none', log: { level: 'warn' } } // prettier-ignore
    writeFileSync(join(lab.folder, 'dns-config.yaml'), JSON.stringify(config))
    const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
    const flags = (process.env['NAMEGATE_BENCH_NODE_FLAGS'] ?? '').split(' ').filter((flag) => flag !== '')
    const running = await startMeasured(lab, [process.execPath, ...flags, main, 'agent', '--config', join(lab.folder, 'dns-config.yaml')]) // prettier-ignore
    return { ...running, stop: () => running.stop().then(() => void sh('nft delete table inet namegate')) }
  },
  collect: collectGarbage,
}

/** Node opens its inspector (here: 127.0.0.1:9229 of the gate) when it gets SIGUSR1. */
async function collectGarbage(pid: number): Promise<void> {
  process.kill(pid, 'SIGUSR1')
  let targets: readonly { readonly webSocketDebuggerUrl: string }[] | undefined
  for (let tries = 0; targets === undefined && tries < 100; tries++)
    targets = (await fetch('http://127.0.0.1:9229/json/list')
      .then((answer) => answer.json())
      .catch(() => pause(100, undefined))) as typeof targets
  const socket = new WebSocket(targets?.[0]?.webSocketDebuggerUrl ?? '')
  await once(socket, 'open')
  socket.send(JSON.stringify({ id: 1, method: 'HeapProfiler.collectGarbage' }))
  await once(socket, 'message')
  socket.close()
  await once(socket, 'close')
}

const unbound: Resolver = {
  name: 'unbound',
  needs: { program: 'unbound', packageName: 'unbound' },
  start(lab, entries = entriesUsual) {
    const zone = (name: string): string => `  local-zone: "${name}." transparent`
    const text = `server:
  interface: ${us}
  access-control: 0.0.0.0/0 allow
  num-threads: 1
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "${lab.folder}"
  pidfile: ""
  use-syslog: no
  verbosity: 0
  module-config: "iterator"
  so-rcvbuf: 4m
  incoming-num-tcp: 200
  msg-cache-size: ${Math.ceil(entries / 780)}m
  rrset-cache-size: ${Math.ceil(entries / 390)}m
  outgoing-range: 8192
  num-queries-per-thread: 4096
  local-zone: "." always_nxdomain
${[...names, ...zones].map(zone).join('\n')}
forward-zone:
  name: "."
  forward-addr: ${upstream}@${upstreamPort}
`
    writeFileSync(join(lab.folder, 'unbound.conf'), text)
    return startMeasured(lab, ['unbound', '-d', '-c', join(lab.folder, 'unbound.conf')])
  },
}

const dnsdist: Resolver = {
  name: 'dnsdist',
  needs: { program: 'dnsdist', packageName: 'dnsdist' },
  start(lab, entries = entriesUsual) {
    const text = `setLocal("${us}:53")
setACL({"0.0.0.0/0"})
newServer({address="${upstream}:${upstreamPort}", healthCheckMode="up"})
getPool(""):setCache(newPacketCache(${entries}, {maxTTL=86400}))
local allow = newDNSNameSet()
${names.map((name) => `allow:add(newDNSName("${name}"))`).join('\n')}
local below = newSuffixMatchNode()
${zones.map((zone) => `below:add(newDNSName("${zone}"))`).join('\n')}
addAction(AndRule({NotRule(QNameSetRule(allow)), NotRule(SuffixMatchNodeRule(below, true))}), RCodeAction(DNSRCode.NXDOMAIN))
`
    writeFileSync(join(lab.folder, 'dnsdist.conf'), text)
    return startMeasured(lab, ['dnsdist', '--supervised', '--disable-syslog', '-C', join(lab.folder, 'dnsdist.conf')])
  },
}

const dnsmasq: Resolver = {
  name: 'dnsmasq',
  needs: { program: 'dnsmasq', packageName: 'dnsmasq-base' },
  start: startDnsmasq,
}

function startDnsmasq(lab: Lab, entries = entriesUsual): ReturnType<Resolver['start']> {
  const servers = [...names, ...zones].map((name) => `server=/${name}/${upstream}#${upstreamPort}`)
  const text = ['port=53', `listen-address=${us}`, 'bind-interfaces', 'no-resolv', 'no-hosts', `cache-size=${entries}`, 'dns-forward-max=1000', ...servers, 'address=/#/', 'pid-file', ''] // prettier-ignore
  writeFileSync(join(lab.folder, 'dnsmasq-dns.conf'), text.join('\n'))
  return startMeasured(lab, ['dnsmasq', '-k', '-u', 'root', '-C', join(lab.folder, 'dnsmasq-dns.conf')])
}

const knot: Resolver = {
  name: 'knot-resolver',
  needs: { program: 'kresd', packageName: 'knot-resolver' },
  start: startKnot,
}

function startKnot(lab: Lab, entries = entriesUsual): ReturnType<Resolver['start']> {
  const folder = join(lab.folder, 'knot')
  mkdirSync(folder, { recursive: true })
  const text = `log_level('crit')
net.listen('${us}', 53, { kind = 'dns' })
cache.open(${Math.max(200, Math.ceil(entries / 1000))} * MB, 'lmdb://${folder}')
cache.clear()
trust_anchors.remove('.')
modules = { 'policy' }
local allow = {}
${[...names, ...zones].map((name) => `allow[#allow + 1] = '${name}.'`).join('\n')}
policy.add(policy.suffix(policy.FORWARD('${upstream}@${upstreamPort}'), policy.todnames(allow)))
policy.add(policy.all(policy.DENY))
`
  writeFileSync(join(folder, 'kresd.conf'), text)
  return startMeasured(lab, ['kresd', '-n', '-c', join(folder, 'kresd.conf'), folder])
}

/** Those that are asked for and installed; says which are not. */
export function resolvers(): Resolver[] {
  const asked = process.env['NAMEGATE_BENCH_RESOLVERS']?.split(',')
  return installed([namegate, unbound, dnsdist, dnsmasq, knot].filter(({ name }) => asked?.includes(name) ?? true))
}

function installed(all: readonly Resolver[]): Resolver[] {
  return all.filter(({ name, needs }) => {
    if (needs === undefined || spawnSync(needs.program, ['--version']).error === undefined) return true
    console.log(`${name} is not installed (Debian: apt-get install ${needs.packageName}): not measured`)
    return false
  })
}
