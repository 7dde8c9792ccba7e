// Time from a lease to its acknowledgement by the kernel. Claim: p50 at most 0.1 ms, p99 at most 1 ms.
import { startDatapath } from '../../src/datapath/datapath.ts'
import type { LeaseElement } from '../../src/datapath/element.ts'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { monotonic } from '../../src/clock.ts'
import { table } from '../../src/cli/output.ts'
import { addressFromNumber } from '../../src/net/address.ts'
import { makeCompiler } from '../../src/policy/compile.ts'

const rounds = 5000
/** Not counted: code that is still being compiled is not what is asked. */
const warmUp = 50
/** With fewer, the slowest one alone would be the p99 of all its questions. */
const batchesMin = 1000

export async function commit(): Promise<void> {
  const structure = { table: 'bench', proxy: { port: 10053 }, denied: 'drop', interfaces: [], prefixes: [], strangers: 'deny', learnedMax: 1 << 20 } as const // prettier-ignore
  const nothing = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })({
    namespaces: new Map(),
    pods: [],
    nodes: [],
    services: [],
    endpointSlices: [],
    cidrGroups: [],
    policies: [],
  })
  const nft = makeNft()
  const datapath = await startDatapath(
    { nft, netlink: makeNetlink(openNetlink()), clock: monotonic, structure, digest: (text) => String(text.length) },
    nothing,
  )
  const element = (i: number): LeaseElement => ({ identity: 256, address: addressFromNumber(0xc6120000n + BigInt(i), 4), ports: { kind: 'ports', protocol: 6, first: 443, last: 443 }, timeoutMillis: 3_600_000 }) // prettier-ignore
  const rows: string[][] = []
  let next = 0
  for (const { title, batch, renew } of [
    { title: 'one new address', batch: 1, renew: false },
    { title: 'one renewed', batch: 1, renew: true },
    { title: '50 questions at once, each its own', batch: 50, renew: false },
  ]) {
    const times: number[] = []
    for (let i = -warmUp; i < Math.max(rounds / batch, batchesMin); i++) {
      const jobs = Array.from({ length: batch }, () => [element(renew ? i + warmUp : next++)])
      const started = performance.now()
      await Promise.all(
        jobs.map((job) => datapath.commit(job).then(() => i >= 0 && times.push(performance.now() - started))),
      )
    }
    times.sort((a, b) => a - b)
    const at = (share: number): string => `${((times[Math.floor(times.length * share)] ?? NaN) * 1000).toFixed(0)} us`
    rows.push([title, at(0.5), at(0.99), at(0.999)])
  }
  datapath.close()
  await nft(['delete', 'table', 'inet', 'bench'])
  console.log(`Commit, from the request to the kernel's acknowledgement, at least ${rounds} addresses`)
  console.log(table(['', 'p50', 'p99', 'p99.9'], rows))
}
