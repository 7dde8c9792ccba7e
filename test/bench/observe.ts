// What observation costs: flows a second that one process writes while one follower filters them and makes its lines, and what a warm question
// costs with and without its flows and metrics. Claims: at least 100 000 flows a second, at most 10 % of the DNS throughput.
import { monotonic } from '../../src/clock.ts'
import { flowLines, readFlowQuery } from '../../src/api/flows.ts'
import { table } from '../../src/cli/output.ts'
import { makeMetrics } from '../../src/metrics.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'
import { endOf, type ConnectionFlow } from '../../src/observe/flow.ts'
import { makeObserver, type Observer } from '../../src/observe/observer.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { startEmbeddedUpstream } from '../../src/demo/upstream.ts'
import { startTestAgent } from '../support/agent.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { encode } from 'dns-packet'
import { median } from './lab.ts'

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
const rounds = 3
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
  return makeMetrics({ leases: none, endpoints: none, policyRevision: none, strangers: none, dropped: none, identities: none, policies: none, leasedNames: none, restarts: () => ({}), flowsLost: () => ({ ring: 0, kernel: 0 }), settle: () => undefined, hubble: hubble ? { cluster: 'default' } : undefined }) // prettier-ignore
}

/** One in ten flows is what the follower asks for. */
async function writing(snapshot: Snapshot): Promise<string[][]> {
  const rows: string[][] = []
  for (const { title, hubble, follow } of [
    { title: 'written, nobody follows', hubble: false, follow: false },
    { title: 'written, one follower with a filter', hubble: false, follow: true },
    { title: "the same, with Hubble's metrics", hubble: true, follow: true },
  ]) {
    const rates: number[] = []
    let lost = 0
    for (let round = 0; round <= rounds; round++) {
      const observer = makeObserving(snapshot)
      observer.tap(newMetrics(hubble).flow)
      const gone = new AbortController()
      const query = readFlowQuery({ follow: 'true', allow: '[{"verdict":["DROPPED"]}]' }, observer.place)
      if (!query.ok) throw new Error(query.error)
      const following = follow ? drain(flowLines(observer, query, gone.signal)) : Promise.resolve(0)
      const started = performance.now()
      for (let i = 0; i < flowsPerRound; i += batch) {
        for (let j = 0; j < batch; j++) observer.connection(flow(snapshot, i + j))
        // The loop turns, as it does between packets.
        await new Promise(setImmediate)
      }
      if (round > 0) rates.push(flowsPerRound / ((performance.now() - started) / 1000))
      gone.abort()
      await following
      lost += observer.ring.lost()
    }
    rows.push([title, `${Math.round(median(rates))} flows/s, ${lost} lost to the follower`])
  }
  return rows
}

async function drain(lines: AsyncGenerator<string>): Promise<number> {
  let octets = 0
  for await (const line of lines) octets += line.length
  return octets
}

function flow(snapshot: Snapshot, i: number): ConnectionFlow {
  return { kind: 'connection', time: Date.now(), why: { text: 'bench' }, source: endOf(snapshot, at('10.1.0.2')), destination: endOf(snapshot, at('198.18.0.20'), ['api.example.com']), verdict: i % 10 === 0 ? 'DROPPED' : 'FORWARDED', direction: 'egress', protocol: 6, sourcePort: 1024 + (i % 60_000), destinationPort: 443, icmp: undefined, tcpFlags: 2, byDenyRule: false } // prettier-ignore
}

const questions = 10_000
const inFlight = 32

/** Warm questions over loopback, the agent in this process: all that it does; and what of that observation is, done again on its own. */
async function asking(): Promise<string[][]> {
  const upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
  const agent = await startTestAgent(manifests, {}, false)
  const times: number[] = []
  const costs: number[] = []
  try {
    for (let round = 0; round <= rounds; round++) {
      const seconds = await askAll(agent.port)
      const cost = costOf(agent.observer, agent.metrics)
      if (round === 0) continue
      times.push((seconds / questions) * 1e6)
      costs.push(cost)
    }
  } finally {
    await agent.close()
    await upstream.close()
  }
  const share = median(costs.map((cost, i) => cost / (times[i] ?? NaN)))
  return [
    ['a warm question, with the client that asks it', `${median(times).toFixed(1)} us`],
    ['of that two flows and their metrics', `${median(costs).toFixed(2)} us, ${(share * 100).toFixed(1)} %`],
  ]
}

async function askAll(port: number): Promise<number> {
  const socket = createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const message = encode({ type: 'query', id: 1, flags: 0x100, questions: [{ type: 'A', name: 'api.example.com' }] })
  const started = performance.now()
  await new Promise<void>((resolve) => {
    let sent = 0
    let answered = 0
    const send = (): void => {
      if (sent++ < questions) socket.send(message, port, '127.0.0.1')
    }
    socket.on('message', () => {
      if (++answered === questions) resolve()
      else send()
    })
    for (let i = 0; i < inFlight; i++) send()
  })
  socket.close()
  return (performance.now() - started) / 1000
}

/** Microseconds for what observing one question takes. */
function costOf(observer: Observer, metrics: ReturnType<typeof makeMetrics>): number {
  const labels = ['api', 'example', 'com']
  const question = { name: 'api.example.com', labels, qtype: 1, qclass: 1, octets: new Uint8Array() } as never
  const outcome = { kind: 'answered', reply: new Uint8Array(12), question, source: at('127.0.0.1'), endpoint: undefined, transport: 'udp', basis: undefined, rcode: 0, addresses: [at('198.18.0.20')], ttlSeconds: 60, leased: true, committed: 0, cached: true, stale: false, stripped: false, why: { text: 'bench' } } as const // prettier-ignore
  const started = monotonic()
  for (let i = 0; i < questions; i++) {
    for (const step of ['cache', 'learn', 'commit', 'total'] as const) metrics.step(step, 0.000_01)
    observer.lease('learned', { identity: 256, endpoint: 1, name: 'api.example.com', addresses: [at('198.18.0.20')], ttlSeconds: 60 }) // prettier-ignore
    observer.question(outcome, 0.01, 40_000)
  }
  return ((monotonic() - started) / questions) * 1000
}
