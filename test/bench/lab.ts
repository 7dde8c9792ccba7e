// Where the benchmarks happen: this process's own namespace is the gate; a workload hangs on it, and a world that counts what reaches it.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { addHost, enterLab, sh, type Host } from '../support/lab.ts'
import type { Load, Measured } from './client.ts'

export interface Lab {
  readonly client: Host
  readonly world: Host
  readonly folder: string
  readonly load: (load: Omit<Load, 'server'>) => Promise<Measured>
  /** Packets that reached the world since the last call: UDP to port 9. */
  readonly arrived: () => number
  readonly stop: () => void
}

/** A resolver under test: how to start it, and how a person flushes what it wrote to the kernel. */
export interface Contestant {
  readonly name: string
  readonly start: (lab: Lab) => Promise<{ readonly process: ChildProcess; readonly stop: () => Promise<void> }>
  readonly flush: () => void
}

/** One core for what is measured, the other for load and upstream. */
const measuredCore = '0'
export const loadCore = '1'
const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

export async function makeLab(): Promise<Lab> {
  enterLab()
  const client = await addHost('client', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
  const world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
  sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
  const { status, err } = world.sh(`set -e; ip route add local 198.18.0.0/15 dev lo; ip -6 route add local 2001:db8::/32 dev lo
    sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
    nft -f - <<'EOF'
table inet count {
  counter reached { }
  chain in { type filter hook prerouting priority -300; ip daddr 198.19.255.255 drop; ip6 daddr 2001:db8::ffff drop; udp dport 9 counter name reached drop; }
}
EOF`) // prettier-ignore
  if (status !== 0) throw new Error(err)
  const stub = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${world.path}`, 'taskset', '-c', loadCore, process.execPath, file('stub.ts'), '10.3.0.2', '5300'], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
  await once(stub.stdout, 'data')
  const folder = mkdtempSync(join(tmpdir(), 'namegate-bench-'))

  async function load(given: Omit<Load, 'server'>): Promise<Measured> {
    const full: Load = { ...given, server: given.family === 4 ? '10.1.0.1' : 'fd01::1' }
    const child = spawn('nsenter', [`--net=${client.path}`, 'taskset', '-c', loadCore, process.execPath, file('client.ts'), JSON.stringify(full)], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
    let out = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    await once(child, 'close')
    return JSON.parse(out) as Measured
  }
  function arrived(): number {
    const { out } = world.sh('nft -j reset counter inet count reached')
    const { nftables } = JSON.parse(out) as { nftables: { counter?: { packets: number } }[] }
    return nftables.find((entry) => entry.counter !== undefined)?.counter?.packets ?? 0
  }
  function stop(): void {
    stub.kill('SIGKILL')
    client.stop()
    world.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  return { client, world, folder, load, arrived, stop }
}

const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "fd01::2"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toFQDNs: [{matchPattern: "*.example.com"}]}]
`

async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return
  child.kill('SIGTERM')
  await once(child, 'exit')
}

/** Starts a program on the measured core and waits until it answers a question. */
export async function startMeasured(
  lab: Lab,
  command: readonly string[],
): Promise<{ process: ChildProcess; stop: () => Promise<void> }> {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'taskset', '-c', measuredCore, ...command], { stdio: ['ignore', 'inherit', 'inherit'] }) // prettier-ignore
  for (let i = 0; i < 100; i++) {
    if (child.exitCode !== null) break
    const probe = await lab.load({
      family: 4,
      names: 1,
      round: `p${process.hrtime.bigint()}`,
      inFlight: 1,
      onAnswer: 'nothing',
    })
    if (probe.answered === 1) return { process: child, stop: () => stopProcess(child) }
  }
  throw new Error(`${command.join(' ')} does not answer`)
}

/** A benchmark asks more than any workload should: by default all but the first 1000 names a minute below one domain would be refused. */
export const noBudgets = { queriesPerSecond: 1e9, namesPerDomainPerMinute: 1e9, nameOctetsPerMinute: 1e9 }

export const namegate: Contestant = {
  name: 'namegate',
  async start(lab) {
    writeFileSync(join(lab.folder, 'manifests.yaml'), manifests)
    const config = { manifests: join(lab.folder, 'manifests.yaml'), dns: { upstreams: ['10.3.0.2:5300'], budgets: noBudgets }, datapath: { interfaces: ['client'] }, leases: { journal: join(lab.folder, 'leases') }, api: { socket: null, port: null }, restart: 'none', log: { level: 'warn' } } // prettier-ignore
    writeFileSync(join(lab.folder, 'config.yaml'), JSON.stringify(config))
    const running = await startMeasured(lab, [process.execPath, file('../../src/main.ts'), 'agent', '--config', join(lab.folder, 'config.yaml')])
    return { ...running, stop: () => running.stop().then(() => void sh('nft delete table inet namegate')) }
  },
  flush: () => void sh('for set in learned learned_any learned_range; do nft flush set inet namegate ${set}4; nft flush set inet namegate ${set}6; done'),
} // prettier-ignore

export const dnsmasq: Contestant = {
  name: 'dnsmasq',
  async start(lab) {
    sh('nft -f -', `table inet eg {
  set allow4 { type ipv4_addr; flags timeout; timeout 600s; }
  set allow6 { type ipv6_addr; flags timeout; timeout 600s; }
  chain out { type filter hook forward priority 0; policy accept; ct state established,related accept
    iifname "client" ip daddr @allow4 counter accept
    iifname "client" ip6 daddr @allow6 counter accept
    iifname "client" counter drop
  }
}
`) // prettier-ignore
    const config = ['port=53', 'listen-address=10.1.0.1', 'listen-address=fd01::1', 'bind-interfaces', 'no-resolv', 'no-hosts', 'cache-size=10000', 'dns-forward-max=1000', 'server=/example.com/10.3.0.2#5300', 'nftset=/example.com/4#inet#eg#allow4,6#inet#eg#allow6', 'address=/#/', 'pid-file', ''] // prettier-ignore
    writeFileSync(join(lab.folder, 'dnsmasq.conf'), config.join('\n'))
    const running = await startMeasured(lab, ['dnsmasq', '-k', '-u', 'root', '-C', join(lab.folder, 'dnsmasq.conf')])
    return { ...running, stop: () => running.stop().then(() => void sh('nft delete table inet eg')) }
  },
  flush: () => void sh('nft flush set inet eg allow4; nft flush set inet eg allow6'),
}

/** The contestants that are installed; says which are not. */
export function contestants(): Contestant[] {
  if (spawnSync('dnsmasq', ['--version']).error === undefined) return [namegate, dnsmasq]
  console.log('dnsmasq is not installed (Debian: apt-get install dnsmasq-base): namegate alone is measured')
  return [namegate]
}

export const median = (numbers: readonly number[]): number => {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? NaN
}

/** `median (least-greatest)`. */
export function spread(numbers: readonly number[], digits = 0): string {
  return `${median(numbers).toFixed(digits)} (${Math.min(...numbers).toFixed(digits)}-${Math.max(...numbers).toFixed(digits)})`
}
