// What a lease costs: octets in the process at a million of them, and a commit's latency under 50 000 standing ones against 100. Target: at most
// 200 octets; at most 1.5 times the latency.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { monotonic } from '../../src/clock.ts'
import { table } from '../../src/cli/output.ts'
import { startDatapath } from '../../src/datapath/datapath.ts'
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

const blocks = 40
const roundsOfBlock = 100

/** One table of leases and its kernel table; `run` learns and commits that many new addresses, and gives what each took, in microseconds. */
interface Standing {
  /** What was run since is taken away again. */
  readonly restore: () => Promise<void>
  readonly run: (rounds: number) => Promise<{ readonly all: number[]; readonly ours: number[] }>
  readonly close: () => Promise<void>
}

async function stand(name: string, count: number): Promise<Standing> {
  const structure = { table: name, proxy: { port: 10053 }, denied: 'drop', interfaces: [], prefixes: [], strangers: 'deny', learnedMax: 1 << 20 } as const // prettier-ignore
  const nothing = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })({ namespaces: new Map(), pods: [], nodes: [], services: [], endpointSlices: [], cidrGroups: [], policies: [] }) // prettier-ignore
  const nft = makeNft()
  const parts = { nft, netlink: makeNetlink(openNetlink()), clock: monotonic, structure, digest: (text: string) => String(text.length) } // prettier-ignore
  const datapath = await startDatapath(parts, nothing)
  const leases = makeLeases(monotonic, () => datapath.epoch(), limits)
  let made = 0
  async function run(rounds: number): Promise<{ all: number[]; ours: number[] }> {
    const times = { all: [] as number[], ours: [] as number[] }
    for (let i = 0; i < rounds; i++) {
      const number = made++
      const started = performance.now()
      const learned = leases.learn({ identity: 256, endpoint: 1, name: `n${number}.example.com`, addresses: [addressFromNumber(0x20000000n + BigInt(number), 4)], ttlSeconds: 3600, ports: [https] }) // prettier-ignore
      if (learned.kind === 'full') throw new Error(learned.text)
      leases.sending(learned.elements)
      const sent = performance.now()
      const { sentAt, epoch } = await datapath.commit(learned.elements)
      const acknowledged = performance.now()
      leases.committed(learned.elements, sentAt, epoch)
      const ended = performance.now()
      times.all.push((ended - started) * 1000)
      times.ours.push((sent - started + ended - acknowledged) * 1000)
    }
    return times
  }
  await run(count)
  async function restore(): Promise<void> {
    const { remove } = leases.drop(({ name }) => Number(/\d+/.exec(name)?.[0]) >= count)
    for (let i = 0; i < remove.length; i += 50) await datapath.remove(remove.slice(i, i + 50))
  }
  return {
    run,
    restore,
    async close() {
      datapath.close()
      await nft(['delete', 'table', 'inet', name])
    },
  }
}

const at = (times: number[], share: number): number => times.sort((a, b) => a - b)[Math.floor(times.length * share)] ?? NaN // prettier-ignore

/** Both at once, in turns of a block each: what the machine does meanwhile, and what is compiled, is the same for both. */
async function latency(): Promise<void> {
  const counts = [100, 50_000] as const
  const tables = [await stand('few', counts[0]), await stand('many', counts[1])] as const
  const rows: { p50: number[]; p99: number[]; ours: number[] }[] = tables.map(() => ({ p50: [], p99: [], ours: [] }))
  for (let block = -2; block < blocks; block++)
    for (const which of block % 2 === 0 ? [0, 1] : [1, 0]) {
      const times = await tables[which]?.run(roundsOfBlock)
      await tables[which]?.restore()
      const row = rows[which]
      if (block < 0 || times === undefined || row === undefined) continue
      row.p50.push(at(times.all, 0.5))
      row.p99.push(at(times.all, 0.99))
      row.ours.push(at(times.ours, 0.5))
    }
  for (const each of tables) await each.close()
  const ratios = (rows[1]?.p50 ?? []).map((many, i) => many / (rows[0]?.p50[i] ?? NaN))
  console.log(`Learning and committing one new address: medians of ${blocks} blocks of ${roundsOfBlock}, in turns`)
  console.log(table(['standing leases', 'p50', 'of it ours', 'p99'], rows.map(({ p50, p99, ours }, i) => [`${counts[i]}`, ...[p50, ours, p99].map((all) => `${at(all, 0.5).toFixed(0)} us`)]))) // prettier-ignore
  console.log(`ratio of p50, block by block: median ${at(ratios, 0.5).toFixed(2)}, quarters ${at(ratios, 0.25).toFixed(2)} and ${at(ratios, 0.75).toFixed(2)}`) // prettier-ignore
}

export async function leases(): Promise<void> {
  await latency()
  console.log('Octets for each of 1 000 000 leases, all acknowledged, one port each')
  console.log(table(['', 'octets'], [1, 8].map((n) => [`${n} addresses a name`, String(octetsOf(n))]))) // prettier-ignore
}
