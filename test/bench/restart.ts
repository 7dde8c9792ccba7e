// How long DNS is gone and what is lost when the agent is killed, its supervisor, or both, and when it is replaced: under 5 000 questions and 1 000 new
// connections a second, while others are held and what is denied is tried; and what the processes cost. `NAMEGATE_BENCH_ROUNDS` says how often.
import { spawn, type ChildProcess } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { table } from '../../src/cli/output.ts'
import type { Asked } from '../kernel/questions.ts'
import { sh, until, type Host } from '../support/lab.ts'
import { childrenOf, kill, killAgent } from '../support/processes.ts'
import type { Connected } from './connections.ts'
import { spread, type Lab } from './lab.ts'

const perSecond = 5000
const connectionsPerSecond = 1000
const [held, deniedPerSecond] = [200, 200]
/** Where the name of all questions leads in the world; and an address that nobody was told. */
const [leased, denied, echoPort] = ['198.18.0.1', '198.18.99.9', 7777]
const rounds = Number(process.env['NAMEGATE_BENCH_ROUNDS'] ?? 10)
const layouts = (['standby', 'cold'] as const).filter((layout) =>
  (process.env['NAMEGATE_BENCH_LAYOUTS'] ?? layout).includes(layout),
)
const policyCounts = (process.env['NAMEGATE_BENCH_POLICIES'] ?? '1 2000').split(' ').map(Number)
/** Who answered for shorter is taken to die again and again. */
const stableMillis = 3500
/** For an agent with thousands of policies to be there, on a machine that is busy. */
const patienceSeconds = 60
const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

export async function restart(lab: Lab): Promise<void> {
  const echo = await helper(lab.world, ['-e', `require('net').createServer((c) => c.on('error', () => 0).pipe(c)).listen({ port: ${echoPort}, backlog: 4096 }, () => console.log('ready'))`]) // prettier-ignore
  const count = (when: string, priority: number): string => `counter ${when}_denied { }; counter ${when}_allowed { }; chain ${when} { type filter hook prerouting priority ${priority}; iifname "client" ip daddr ${denied} counter name ${when}_denied; iifname "client" ip daddr ${leased} counter name ${when}_allowed; };` // prettier-ignore
  sh('nft -f -', `table inet bench { ${count('before', -460)} ${count('behind', -80)} }\n`)
  try {
    await restarts(lab)
  } finally {
    echo.child.kill('SIGKILL')
    sh('nft delete table inet bench')
  }
}

async function restarts(lab: Lab): Promise<void> {
  for (const policies of policyCounts)
    for (const layout of layouts) {
      const place = { agent: await start(lab, policies, layout), again: () => start(lab, policies, layout) }
      try {
        await measure(lab, place, `${policies} policies, ${layout}`)
      } finally {
        killAgent(place.agent.child)
        sh('nft delete table inet namegate')
      }
    }
}

/** Where an agent runs, and another may follow it. */
interface Place {
  agent: Running
  readonly again: () => Promise<Running>
}

interface Running {
  readonly child: ChildProcess
  readonly workers: () => number[]
  /** Standbys that became ready so far. */
  readonly standbys: () => number
  readonly hasStandby: boolean
}

async function start(lab: Lab, policies: number, layout: 'standby' | 'cold'): Promise<Running> {
  const manifests = join(lab.folder, 'restart.yaml')
  writeFileSync(manifests, Array.from({ length: policies }, (_, i) => manifestOf(i)).join(''))
  const config = { manifests, dns: { upstreams: ['10.3.0.2:5300'], budgets: { queriesPerSecond: 1_000_000 } }, datapath: { interfaces: ['client'] }, leases: { journal: join(lab.folder, 'leases') }, api: { socket: null, port: null }, restart: layout } // prettier-ignore
  writeFileSync(join(lab.folder, 'restart-config.yaml'), JSON.stringify(config))
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', process.execPath, file('../../src/main.ts'), 'agent', '--config', join(lab.folder, 'restart-config.yaml')], { stdio: ['ignore', 'ignore', 'pipe'] }) // prettier-ignore
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
  const count = (words: string): number => said.split(words).length - 1
  const running = { child, workers: () => childrenOf(child.pid ?? 0), standbys: () => count('a standby is ready'), hasStandby: layout === 'standby' } // prettier-ignore
  await until(() => count('agent started') > 0 && (!running.hasStandby || running.standbys() > 0), patienceSeconds)
  return running
}

/** The first is the client; the others are somebody's, with policies of their own. */
function manifestOf(i: number): string {
  const ips = i === 0 ? '[{ip: 10.1.0.2}, {ip: "fd01::2"}]' : `[{ip: 10.9.${i >> 8}.${i & 255}}]`
  const egress = i === 0 ? '{toFQDNs: [{matchPattern: "*.example.com"}]}' : `{toCIDR: [100.${i >> 8}.${i & 255}.0/24]}, {toFQDNs: [{matchPattern: "*.n${i}.example.org"}]}` // prettier-ignore
  return `---
apiVersion: v1
kind: Pod
metadata: {name: pod${i}, labels: {app: app${i % 200}}}
status: {podIPs: ${ips}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: policy${i}}
spec: {endpointSelector: {matchLabels: {app: app${i % 200}}}, egress: [${egress}]}
`
}

async function measure(lab: Lab, place: Place, title: string): Promise<void> {
  const memory = [place.agent.child.pid ?? 0, ...place.agent.workers()].map(memoryOf).join(' + ')
  const rows: string[][] = []
  for (const [how, work] of Object.entries(ways)) {
    const results: Result[] = []
    if (work === killBoth && !place.agent.hasStandby) continue
    for (let i = 0; i < rounds; i++) {
      await pause(stableMillis)
      results.push(await under(lab, () => work(place)))
      if (work !== killBoth) continue
      place.agent = await place.again()
      await until(() => place.agent.workers().length === 2, patienceSeconds)
    }
    const sum = (of: (result: Result) => number): number => results.reduce((all, result) => all + of(result), 0)
    const lost = results.map(({ asked: { sent, answered } }) => sent - answered)
    const millis = (of: (result: Result) => number): string => spread(results.map(of))
    rows.push([how, millis(({ asked }) => asked.gapMillis), millis(({ asked }) => asked.slowestMillis), spread(lost), spread(results.map(({ overflowed }) => overflowed)), String(sum(({ asked }) => asked.sent)), // prettier-ignore
      `${sum(({ connected }) => connected.heldLost)} of ${sum(({ connected }) => connected.held)}`, `${sum(({ connected }) => connected.failed)} of ${sum(({ connected }) => connected.opened)}`, millis(({ connected }) => connected.slowestMillis), `${sum(({ passed }) => passed)} of ${sum(({ tried }) => tried)}`, String(sum(({ dropped }) => dropped))]) // prettier-ignore
  }
  console.log(`restart: ${title}: memory of supervisor and workers ${memory} MiB (of its own: not shared)`)
  console.log(table(['what', 'gap ms', 'slowest answer ms', 'questions lost', 'in the socket', 'of all', 'held lost', 'new failed', 'slowest new ms', 'denied packets passed', 'allowed dropped'], rows)) // prettier-ignore
}

const ways: Readonly<Record<string, (place: Place) => Promise<void>>> = {
  'agent killed': ({ agent }) => killWorker(agent),
  'agent replaced': ({ agent }) => replaceWorker(agent),
  'supervisor and agent killed': killBoth,
  'supervisor killed, started again': killSupervisor,
  'all killed, started again': killAll,
}

/** The standby goes on; the next supervisor takes over from that when it has been measured. */
async function killBoth({ agent }: Place): Promise<void> {
  // Whoever has lost its parent is nobody's child any more.
  const [worker = 0] = agent.workers()
  kill(agent.child.pid ?? 0)
  kill(worker)
  await pause(stableMillis)
}
async function killSupervisor(place: Place): Promise<void> {
  const { child } = place.agent
  const [worker = 0] = place.agent.workers()
  kill(child.pid ?? 0)
  place.agent = await place.again()
  await until(() => !isThere(worker), patienceSeconds)
}
async function killAll(place: Place): Promise<void> {
  killAgent(place.agent.child)
  place.agent = await place.again()
}
function isThere(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

async function killWorker(agent: Running): Promise<void> {
  const before = agent.standbys()
  kill(agent.workers()[0] ?? 0)
  await followed(agent, before)
}
async function replaceWorker(agent: Running): Promise<void> {
  const [before, [worker = 0]] = [agent.standbys(), agent.workers()]
  agent.child.kill('SIGUSR2')
  await until(() => !agent.workers().includes(worker), patienceSeconds)
  // The successor is a standby first, and then has one.
  await followed(agent, before + 1)
}
const followed = ({ hasStandby, standbys }: Running, before: number): Promise<void> =>
  hasStandby ? until(() => standbys() > before, patienceSeconds) : pause(stableMillis)

interface Result {
  readonly asked: Asked
  readonly connected: Connected
  /** Packets to the denied address, before policy and behind it; and of those to the leased one, how many did not pass. */
  readonly tried: number
  readonly passed: number
  readonly dropped: number
  /** Questions for which there was no room in the socket. */
  readonly overflowed: number
}

/** What becomes of questions and connections while `work` is done. */
async function under(lab: Lab, work: () => Promise<void>): Promise<Result> {
  const before = overflowed()
  const asking = await helper(lab.client, [file('../kernel/questions.ts'), '10.1.0.1', '53', String(perSecond), 'a1.example.com']) // prettier-ignore
  sh('nft reset counters table inet bench')
  const connecting = await helper(lab.client, [file('connections.ts'), leased, String(echoPort), String(held), String(connectionsPerSecond), denied, String(deniedPerSecond)]) // prettier-ignore
  await pause(500)
  await work()
  await pause(500)
  const [connected, asked] = await Promise.all([finish<Connected>(connecting), finish<Asked>(asking)])
  const { nftables } = JSON.parse(sh('nft -j list counters table inet bench')) as { nftables: { counter?: { name: string; packets: number } }[] } // prettier-ignore
  const count = (name: string): number => nftables.find(({ counter }) => counter?.name === name)?.counter?.packets ?? NaN // prettier-ignore
  return { asked, connected, tried: count('before_denied'), passed: count('behind_denied'), dropped: count('before_allowed') - count('behind_allowed'), overflowed: overflowed() - before } // prettier-ignore
}

/** Datagrams that found no room in a socket of this namespace (RcvbufErrors) so far. */
function overflowed(): number {
  return Number(sh("awk '/^Udp: [0-9]/ { print $6 }' /proc/net/snmp"))
}

interface Helper {
  readonly child: ChildProcess
  readonly lines: AsyncIterator<string>
}

/** A program of Node in a host, which says when it is ready. */
async function helper(host: Host, args: readonly string[]): Promise<Helper> {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, process.execPath, ...args], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  if ((await lines.next()).value !== 'ready') throw new Error(`${args[0]} is not ready`)
  return { child, lines }
}
async function finish<T>({ child, lines }: Helper): Promise<T> {
  child.stdin?.write('.')
  return JSON.parse((await lines.next()).value as string) as T
}

/** What would be free if the process ended: pages that are nobody else's. */
function memoryOf(pid: number): string {
  const kib = sh(`awk '/^Private/ { sum += $2 } END { print sum }' /proc/${pid}/smaps_rollup`)
  return (Number(kib) / 1024).toFixed(0)
}
