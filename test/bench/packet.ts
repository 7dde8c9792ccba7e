// What a packet costs in the kernel, namespace to namespace, under 10 policies and under 10 000. Claim: at most 1.1 times as much.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { table } from '../../src/cli/output.ts'
import { monotonic } from '../../src/clock.ts'
import { startDatapath, type Datapath } from '../../src/datapath/datapath.ts'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { addHost, flushConnections, sh, type Host } from '../support/lab.ts'
import { median, spread } from './lab.ts'

const rounds = 9
const few = 10
const many = 10_000
/** Other workloads of the cluster, whom policies are about; an identity each ten of them. */
const strangers = 1000

const object = (apiVersion: string, kind: string, name: string, rest: object): object => ({ apiVersion, kind, metadata: { name }, ...rest }) // prettier-ignore
const pod = (name: string, app: string, ip: string, nodeName: string): object => ({ apiVersion: 'v1', kind: 'Pod', metadata: { name, labels: { app } }, spec: { nodeName }, status: { podIP: ip } }) // prettier-ignore

/**
 * Policies of the sorts that people write, a quarter each: other workloads by label, prefixes of their own, the world on a port, denied
 * prefixes. Every one selects both workloads here, so that all of it ends up in this kernel; the last one lets them talk.
 */
function policies(count: number): object[] {
  const ofIndex = (i: number): object => {
    const port = { toPorts: [{ ports: [{ port: String(1000 + (i % 500)), protocol: 'TCP' }] }] }
    const prefix = `${100 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/24`
    const peer = [{ matchLabels: { app: `app${i % (strangers / 10)}` } }]
    switch (i % 4) {
      case 0:
        return { egress: [{ toEndpoints: peer, ...port }], ingress: [{ fromEndpoints: peer, ...port }] }
      case 1:
        return { egress: [{ toCIDR: [prefix], ...port }], ingress: [{ fromCIDR: [prefix], ...port }] }
      case 2:
        return { egress: [{ toEntities: ['world'], ...port }] }
      default:
        return { egressDeny: [{ toCIDR: [prefix] }] }
    }
  }
  const talk = [{ matchLabels: { app: 'here' } }]
  const all = [...Array.from({ length: count - 1 }, (_, i) => ofIndex(i)), { egress: [{ toEndpoints: talk }, { toEntities: ['world'], toPorts: [{ ports: [{ port: '9', protocol: 'UDP' }] }] }], ingress: [{ fromEndpoints: talk }] }] // prettier-ignore
  return all.map((spec, i) => object('cilium.io/v2', 'CiliumNetworkPolicy', `p${i}`, { spec: { endpointSelector: { matchLabels: { app: 'here' } }, ...spec } })) // prettier-ignore
}

function snapshotOf(count: number): Snapshot {
  const others = Array.from({ length: strangers }, (_, i) => pod(`other${i}`, `app${i % (strangers / 10)}`, `10.9.${i >> 8}.${i & 255}`, 'there')) // prettier-ignore
  const items = [pod('left', 'here', '10.11.0.2', 'here'), pod('right', 'here', '10.12.0.2', 'here'), ...others, ...policies(count)] // prettier-ignore
  const loaded = loadWorld([{ path: 'bench', text: JSON.stringify({ apiVersion: 'v1', kind: 'List', items }) }])
  if (!loaded.ok) throw new Error(JSON.stringify(loaded.issues.slice(0, 3)))
  return makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', localNode: 'here' })(loaded.world)
}

/** Nanoseconds for a packet's whole trip through the gate, from one namespace to the other, on one core. */
async function measure(left: Host, right: Host, to: string, mode: 'first' | 'known'): Promise<number> {
  const child = spawn('nsenter', [`--net=${left.path}`, 'taskset', '-c', '0', process.execPath, fileURLToPath(new URL('packets.ts', import.meta.url)), right.path, to, mode], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  await once(child, 'close')
  return (JSON.parse(out) as { nanos: number }).nanos
}

const outside = '203.0.113.1'
const trips = [
  { title: 'first packet of a connection, to a workload', to: '10.12.0.2', mode: 'first' },
  { title: 'first packet, to the world', to: outside, mode: 'first' },
  { title: 'packet of an established connection', to: '10.12.0.2', mode: 'known' },
] as const

export async function packet(): Promise<void> {
  const left = await addHost('left', ['10.11.0.2/24'], ['10.11.0.1/24'])
  const right = await addHost('right', ['10.12.0.2/24'], ['10.12.0.1/24'])
  right.sh(`ip addr add ${outside}/32 dev lo`)
  sh(`ip route add ${outside} via 10.12.0.2`)
  sh('sysctl -qw net.netfilter.nf_conntrack_max=1000000')
  const structure = { table: 'bench', proxy: { port: 10053 }, denied: 'drop', interfaces: ['left', 'right'], prefixes: [], strangers: 'deny', learnedMax: 1 << 20 } as const // prettier-ignore
  const snapshots = { none: undefined, few: snapshotOf(few), many: snapshotOf(many) }
  const nft = makeNft()
  let datapath: Datapath | undefined
  const figures = trips.map(() => ({ none: [] as number[], few: [] as number[], many: [] as number[] }))
  const applied: number[] = []
  for (let round = -1; round < rounds; round++)
    for (const which of ['none', 'few', 'many'] as const) {
      const snapshot = snapshots[which]
      if (snapshot === undefined) {
        datapath?.close()
        datapath = undefined
        sh('nft delete table inet bench 2>/dev/null || true')
      } else {
        const started = performance.now()
        if (datapath === undefined)
          datapath = await startDatapath({ nft, netlink: makeNetlink(openNetlink()), clock: monotonic, structure, digest: (text) => String(text.length) }, snapshot) // prettier-ignore
        else await datapath.apply(snapshot)
        if (which === 'many') applied.push(performance.now() - started)
      }
      for (const [i, { to, mode }] of trips.entries()) {
        flushConnections()
        const nanos = await measure(left, right, to, mode)
        // The first round warms up.
        if (round >= 0) figures[i]?.[which].push(nanos)
      }
    }
  datapath?.close()
  sh('nft delete table inet bench')
  left.stop()
  right.stop()
  const rows = figures.map(({ none, few: atFew, many: atMany }, i) => [trips[i]?.title ?? '', ...[none, atFew, atMany].map((nanos) => spread(nanos)), (median(atMany) / median(atFew)).toFixed(3)]) // prettier-ignore
  console.log(`Packet, namespace to namespace, ns on one core, ${rounds} alternating rounds`)
  console.log(table(['', 'no table', `${few} policies`, `${many} policies`, 'ratio'], rows))
  console.log(`${many} policies in place of ${few}: ${spread(applied)} ms`)
}
