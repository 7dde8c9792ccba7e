// What observation costs: flows that one process writes in a second while one follower filters them and makes its lines, and what a warm question
// costs with and without its flows and metrics. Claims: at least 100 000 flows a second on one core, at most 10 % of the DNS throughput.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { flowLines, readFlowQuery } from '../../src/api/flows.ts'
import { table } from '../../src/cli/output.ts'
import { startEmbeddedUpstream } from '../../src/demo/upstream.ts'
import { makeMetrics } from '../../src/metrics.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'
import { endOf, type ConnectionFlow } from '../../src/observe/flow.ts'
import { makeObserver, type Observer } from '../../src/observe/observer.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { settings, startTestAgent } from '../support/agent.ts'
import { noBudgets, spread } from './lab.ts'

const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
status: {podIPs: [{ip: 10.1.0.2}, {ip: 127.0.0.1}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  egress: [{toFQDNs: [{matchPattern: "*.example.com"}]}]
`
const rounds = 5
const flowsPerRound = 100_000
/** Written in one turn of the event loop: fewer than a follower looks at in one. */
const batch = 250

export async function observe(): Promise<void> {
  const loaded = loadWorld([{ path: 'bench.yaml', text: manifests }])
  if (!loaded.ok) throw new Error('the manifests are not valid')
  const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world)
  console.log('Flows, and what they cost a question')
  console.log(table(['', 'measured'], [...(await writing(snapshot)), ...(await asking())]))
}

const at = (text: string): Address => addressFromText(text) as Address
const makeObserving = (snapshot: Snapshot): Observer => makeObserver({ snapshot: () => snapshot, capacity: 65_535, place: { cluster: 'default', node: 'bench' }, now: Date.now }) // prettier-ignore
const newMetrics = (hubble: boolean): ReturnType<typeof makeMetrics> => {
  const none = (): number => 0
  return makeMetrics({ leases: none, leaseOctets: none, endpoints: none, policyRevision: none, strangers: none, dropped: none, identities: none, policies: none, leasedNames: none, restarts: () => ({}), flowsLost: () => ({ ring: 0, kernel: 0 }), settle: () => undefined, hubble: hubble ? { cluster: 'default' } : undefined }) // prettier-ignore
}

interface Variant {
  readonly title: string
  readonly hubble: boolean
  readonly follow: boolean
  readonly write: (observer: Observer, snapshot: Snapshot, i: number) => void
}
const connections: Variant['write'] = (observer, snapshot, i) => observer.connection(flow(snapshot, i))
/** Two flows each. */
const again: Variant['write'] = (observer, _, i) => {
  if (i % 2 === 0) observer.again(i % 20 === 0 ? refused : answered, 1024 + (i % 60_000))
}
const variants: readonly Variant[] = [
  { title: 'connections, nobody follows', hubble: false, follow: false, write: connections },
  { title: 'connections, one follower with a filter', hubble: false, follow: true, write: connections },
  { title: "the same, with Hubble's metrics", hubble: true, follow: true, write: connections },
  { title: 'answers told again, nobody follows', hubble: false, follow: false, write: again },
  { title: 'answers told again, one follower with a filter', hubble: false, follow: true, write: again },
]

/** One in ten flows is what the follower asks for. Variants take turns. */
async function writing(snapshot: Snapshot): Promise<string[][]> {
  const rates = new Map(variants.map(({ title }) => [title, [] as number[]]))
  const lost = new Map<string, number>()
  for (let round = 0; round <= rounds; round++)
    for (const { title, hubble, follow, write } of variants) {
      const observer = makeObserving(snapshot)
      observer.tap(newMetrics(hubble).flow)
      const gone = new AbortController()
      const query = readFlowQuery({ follow: 'true', allow: '[{"verdict":["DROPPED"]}]' }, observer.place)
      if (!query.ok) throw new Error(query.error)
      const following = follow ? drain(flowLines(observer, query, gone.signal)) : Promise.resolve(0)
      const before = process.cpuUsage()
      for (let i = 0; i < flowsPerRound; i += batch) {
        for (let j = 0; j < batch; j++) write(observer, snapshot, i + j)
        // The loop turns, as it does between packets.
        await new Promise(setImmediate)
      }
      const seconds = cpuSeconds(before)
      if (round > 0) rates.get(title)?.push(flowsPerRound / seconds)
      gone.abort()
      await following
      lost.set(title, (lost.get(title) ?? 0) + observer.ring.lost())
    }
  return variants.map(({ title }) => [title, `${spread(rates.get(title) ?? [])} flows for a second of processor, ${lost.get(title)} lost to the follower`]) // prettier-ignore
}

/** Of all threads of this process, user and system. */
function cpuSeconds(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}

async function drain(lines: AsyncGenerator<string>): Promise<number> {
  let octets = 0
  for await (const line of lines) octets += line.length
  return octets
}

function flow(snapshot: Snapshot, i: number): ConnectionFlow {
  return { kind: 'connection', time: Date.now(), why: { text: 'bench' }, source: endOf(snapshot, at('10.1.0.2')), destination: endOf(snapshot, at('198.18.0.20'), ['api.example.com']), verdict: i % 10 === 0 ? 'DROPPED' : 'FORWARDED', direction: 'egress', protocol: 6, sourcePort: 1024 + (i % 60_000), destinationPort: 443, icmp: undefined, tcpFlags: 2, byDenyRule: false, match: 0 } // prettier-ignore
}

const asked = { name: 'api.example.com', labels: ['api', 'example', 'com'], qtype: 1, qclass: 1, octets: new Uint8Array() } as never // prettier-ignore
const about = { reply: new Uint8Array(12), question: asked, source: at('10.1.0.2'), endpoint: undefined, transport: 'udp', basis: undefined, why: { text: 'bench' } } as const // prettier-ignore
const answered = { ...about, kind: 'answered', rcode: 0, addresses: [at('198.18.0.20')], ttlSeconds: 60, leased: true, committed: 0, cached: true, stale: false, stripped: false } as const // prettier-ignore
const refused = { ...about, kind: 'refused', reason: 'policy', rcode: 5 } as const

const perfSeconds = 2
const perfRounds = 7
const names = 10

/**
 * Warm questions over loopback, the agent in this process and dnsperf in another: with its flows, without, and without its metrics of questions
 * too, in turns. What is not observed is what does nothing instead of being called.
 */
async function asking(): Promise<string[][]> {
  if (spawnSync('dnsperf', ['-h']).error !== undefined)
    return [['a warm question', 'not measured: dnsperf is not installed (Debian: apt-get install dnsperf)']]
  const upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
  const agent = await startTestAgent(manifests, { settings: { ...settings, dns: { ...settings.dns, budgets: { ...settings.dns.budgets, ...noBudgets } } } }, false) // prettier-ignore
  const folder = mkdtempSync(join(tmpdir(), 'namegate-bench-'))
  const file = join(folder, 'questions')
  writeFileSync(file, 'api.example.com A\npay.example.com A\n'.repeat(names / 2))
  const nothing = (): void => undefined
  const { again: flowsAgain, question: flows } = agent.observer
  const { question: counts } = agent.metrics
  const ways = [
    { title: 'observed', again: flowsAgain, question: flows, counted: counts },
    { title: 'without flows', again: nothing, question: nothing, counted: counts },
    { title: 'without flows and metrics', again: nothing, question: nothing, counted: nothing },
  ] as const
  const runs = new Map<string, { rate: number; micros: number }[]>(ways.map(({ title }) => [title, []]))
  try {
    for (let round = 0; round <= perfRounds; round++)
      for (const { title, again, question, counted } of round % 2 === 0 ? ways : [...ways].reverse()) {
        Object.assign(agent.observer, { again, question })
        Object.assign(agent.metrics, { question: counted })
        const run = await perf(agent.port, file)
        if (round > 0) runs.get(title)?.push(run)
      }
  } finally {
    await agent.close()
    await upstream.close()
    rmSync(folder, { recursive: true, force: true })
  }
  const of = (title: string): readonly { rate: number; micros: number }[] => runs.get(title) ?? []
  const observed = of('observed')
  return ways.map(({ title }) => {
    const [rates, micros] = [of(title).map(({ rate }) => rate), of(title).map(({ micros }) => micros)]
    const cost = of(title).map((run, i) => ((observed[i]?.micros ?? NaN) / run.micros - 1) * 100)
    const less = of(title).map((run, i) => (1 - (observed[i]?.rate ?? NaN) / run.rate) * 100)
    const costs = title === 'observed' ? '' : `; observing costs ${spread(cost, 1)} % of processor time, ${spread(less, 1)} % of the rate`
    return [`warm questions, ${title}`, `${spread(rates)} a second, ${spread(micros, 2)} us of processor each${costs}`]
  }) // prettier-ignore
}

async function perf(port: number, file: string): Promise<{ rate: number; micros: number }> {
  const before = process.cpuUsage()
  const child = spawn('dnsperf', ['-s', '127.0.0.1', '-p', String(port), '-d', file, '-l', String(perfSeconds), '-q', '200', '-c', '10'], { stdio: ['ignore', 'pipe', 'ignore'] }) // prettier-ignore
  const out = await text(child.stdout)
  const seconds = cpuSeconds(before)
  const number = (label: string): number => Number.parseFloat(out.split(label)[1] ?? '')
  return { rate: number('Queries per second:'), micros: (seconds * 1e6) / number('Queries completed:') }
}
