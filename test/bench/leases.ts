// What a lease costs: octets in the process at a million of them, and a commit's latency under 50 000 standing ones against 100. Target: at most
// 200 octets; at most 1.5 times the latency.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { monotonic } from '../../src/clock.ts'
import { table } from '../../src/cli/output.ts'
import { startDatapath, type Datapath } from '../../src/datapath/datapath.ts'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { makeLeases, type LeaseTable } from '../../src/leases/leases.ts'
import { addressFromNumber } from '../../src/net/address.ts'
import { makeCompiler } from '../../src/policy/compile.ts'

const million = 1_000_000
const limits = { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, zombieSecondsMax: 86_400, addressesPerNameMax: 4096, leasesMax: 8 * million } // prettier-ignore
const https = { kind: 'ports', protocol: 6, first: 443, last: 443 } as const

/** Names of `addressesPerName` addresses each, of 16 identities, until there are `count` leases; all of them stand. */
function fill(leases: LeaseTable, count: number, addressesPerName: number): void {
  for (let i = 0; leases.size() < count; i++) {
    const addresses = Array.from({ length: addressesPerName }, (_, j) => addressFromNumber(0x10000000n + BigInt(i * addressesPerName + j), 4)) // prettier-ignore
    const learned = leases.learn({ identity: 256 + (i % 16), endpoint: 1, name: `name-${i}.service.example.com`, addresses, ttlSeconds: 3600, ports: [https] }) // prettier-ignore
    if (learned.kind === 'full') throw new Error(learned.text)
    leases.sending(learned.elements)
    leases.committed(learned.elements, 0, 1)
  }
}

/** In a process of its own: octets for each of a million leases. */
function octetsOf(addressesPerName: number): number {
  const program = `import('${fileURLToPath(import.meta.url)}').then((m) => m.measure(${addressesPerName}))`
  return Number(execFileSync(process.execPath, ['--expose-gc', '--max-old-space-size=6000', '-e', program], { encoding: 'utf8' })) // prettier-ignore
}
export function measure(addressesPerName: number): void {
  const collect = (): number => {
    ;(globalThis as { gc?: () => void }).gc?.()
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }
  const leases = makeLeases(() => 0, () => 1, limits, () => false) // prettier-ignore
  const before = collect()
  fill(leases, million, addressesPerName)
  console.log(Math.round((collect() - before) / leases.size()))
}

const rounds = 3000
/** Median and 99th percentile of commits of one new address, in microseconds, with `standing` leases in table and kernel. */
async function latency(datapath: Datapath, standing: number): Promise<[p50: number, p99: number]> {
  const leases = makeLeases(monotonic, () => datapath.epoch(), limits)
  const times: number[] = []
  for (let i = -standing; i < rounds; i++) {
    const started = performance.now()
    const learned = leases.learn({ identity: 256, endpoint: 1, name: `n${i}.example.com`, addresses: [addressFromNumber(0x20000000n + BigInt(i + standing), 4)], ttlSeconds: 3600, ports: [https] }) // prettier-ignore
    if (learned.kind === 'full') throw new Error(learned.text)
    leases.sending(learned.elements)
    const { sentAt, epoch } = await datapath.commit(learned.elements)
    leases.committed(learned.elements, sentAt, epoch)
    if (i >= 0) times.push(performance.now() - started)
  }
  times.sort((a, b) => a - b)
  const at = (share: number): number => (times[Math.floor(times.length * share)] ?? NaN) * 1000
  return [at(0.5), at(0.99)]
}

export async function leases(): Promise<void> {
  const structure = { table: 'bench', proxy: { port: 10053 }, denied: 'drop', interfaces: [], prefixes: [], strangers: 'deny', learnedMax: 1 << 20 } as const // prettier-ignore
  const nothing = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })({ namespaces: new Map(), pods: [], nodes: [], services: [], endpointSlices: [], cidrGroups: [], policies: [] }) // prettier-ignore
  const nft = makeNft()
  const rows: [string, number, number][] = []
  // Each twice, in turns: the first of all also pays for compiling.
  for (const standing of [100, 50_000, 100, 50_000]) {
    const parts = { nft, netlink: makeNetlink(openNetlink()), clock: monotonic, structure, digest: (text: string) => String(text.length) } // prettier-ignore
    const datapath = await startDatapath(parts, nothing)
    const [p50, p99] = await latency(datapath, standing)
    rows.push([String(standing), p50, p99])
    datapath.close()
    await nft(['delete', 'table', 'inet', 'bench'])
  }
  console.log(`Learning and committing one new address, ${rounds} times`)
  console.log(table(['standing leases', 'p50', 'p99'], rows.map(([standing, p50, p99]) => [standing, `${p50.toFixed(0)} us`, `${p99.toFixed(0)} us`]))) // prettier-ignore
  console.log('Octets for each of 1 000 000 leases, all acknowledged, one port each')
  console.log(table(['', 'octets'], [1, 8].map((n) => [`${n} addresses a name`, String(octetsOf(n))]))) // prettier-ignore
}
