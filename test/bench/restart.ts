// How long DNS is gone when the agent is killed, and what is lost when it is replaced, under 5 000 questions a second; and what the processes cost.
import { spawn, type ChildProcess } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { table } from '../../src/cli/output.ts'
import type { Asked } from '../kernel/questions.ts'
import { sh, until } from '../support/lab.ts'
import { childrenOf, kill, killAgent } from '../support/processes.ts'
import { spread, type Lab } from './lab.ts'

const perSecond = 5000
const rounds = Number(process.env['NAMEGATE_BENCH_ROUNDS'] ?? 10)
const policyCounts = [1, 2000]
/** Who answered for shorter is taken to die again and again. */
const stableMillis = 3500
const file = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

export async function restart(lab: Lab): Promise<void> {
  for (const policies of policyCounts)
    for (const layout of ['standby', 'cold'] as const) {
      const agent = await start(lab, policies, layout)
      try {
        await measure(lab, agent, `${policies} policies, ${layout}`)
      } finally {
        killAgent(agent.child)
        sh('nft delete table inet namegate')
      }
    }
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
  await until(() => count('agent started') > 0 && (!running.hasStandby || running.standbys() > 0))
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

async function measure(lab: Lab, agent: Running, title: string): Promise<void> {
  const memory = [agent.child.pid ?? 0, ...agent.workers()].map(memoryOf).join(' + ')
  const rows: string[][] = []
  for (const how of ['killed', 'replaced'] as const) {
    const results: Asked[] = []
    for (let i = 0; i < rounds; i++) {
      await pause(stableMillis)
      results.push(await asked(lab, () => (how === 'killed' ? killWorker(agent) : replaceWorker(agent))))
    }
    const lost = results.map(({ sent, answered }) => sent - answered)
    rows.push([how, spread(results.map(({ gapMillis }) => gapMillis)), spread(results.map(({ slowestMillis }) => slowestMillis)), spread(lost), String(results.reduce((sum, { sent }) => sum + sent, 0))]) // prettier-ignore
  }
  console.log(`restart: ${title}: memory of supervisor and workers ${memory} MiB (of its own: not shared)`)
  console.log(table(['the agent is', 'gap ms', 'slowest answer ms', 'questions lost', 'of all'], rows))
}

async function killWorker(agent: Running): Promise<void> {
  const before = agent.standbys()
  kill(agent.workers()[0] ?? 0)
  await followed(agent, before)
}
async function replaceWorker(agent: Running): Promise<void> {
  const [before, [worker = 0]] = [agent.standbys(), agent.workers()]
  agent.child.kill('SIGUSR2')
  await until(() => !agent.workers().includes(worker))
  // The successor is a standby first, and then has one.
  await followed(agent, before + 1)
}
const followed = ({ hasStandby, standbys }: Running, before: number): Promise<void> =>
  hasStandby ? until(() => standbys() > before) : pause(stableMillis)

async function asked(lab: Lab, work: () => Promise<void>): Promise<Asked> {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${lab.client.path}`, process.execPath, file('../kernel/questions.ts'), '10.1.0.1', '53', String(perSecond), 'a.example.com'], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  await lines.next()
  await pause(500)
  await work()
  child.stdin.write('.')
  return JSON.parse((await lines.next()).value as string) as Asked
}

/** What would be free if the process ended: pages that are nobody else's. */
function memoryOf(pid: number): string {
  const kib = sh(`awk '/^Private/ { sum += $2 } END { print sum }' /proc/${pid}/smaps_rollup`)
  return (Number(kib) / 1024).toFixed(0)
}
