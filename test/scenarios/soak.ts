// 12 simulated hours of 10 000 new names an hour on 500 rotating addresses, TTL 60, some kept by connections: prints RSS and leases hour by hour, as
// JSON. Run by soak.test.ts in a process of its own (with --expose-gc), so that nothing else is measured.
import type { Connection } from '../../src/datapath/ctnetlink.ts'
import { makeLeases } from '../../src/leases/leases.ts'
import { makeLiveness } from '../../src/liveness.ts'
import { addressFromNumber, type Address } from '../../src/net/address.ts'

const hours = 12
const namesAnHour = 10_000
const secondsAn = 3600
const web = addressFromNumber(0x0a000001n, 4)
const limits = { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, zombieSecondsMax: 86_400, addressesPerNameMax: 4096, leasesMax: 1_000_000 } // prettier-ignore

let now = 0
const liveness = makeLiveness(
  (address) => (address === web ? 256 : undefined),
  (identity, address) => leases.isLeased(identity, address),
)
const leases = makeLeases(
  () => now,
  () => 1,
  limits,
  liveness.isInUse,
)
const connection = (id: number, peer: Address): Connection => ({ protocol: 6, source: web, sourcePort: 1024 + (id % 60_000), destination: peer, destinationPort: 443, peer, peerPort: 443, back: web, backPort: 1024, icmpType: undefined, id, zone: 0 }) // prettier-ignore

/** By second: connections that end then. */
const ending = new Map<number, Connection[]>()
let made = 0
function learnOne(): void {
  const i = made++
  const address = addressFromNumber(0xc6120000n + BigInt(i % 500), 4)
  const learned = leases.learn({ identity: 256, endpoint: 1, name: `n${i}.example.com`, addresses: [address], ttlSeconds: 60, ports: [{ kind: 'ports', protocol: 6, first: 443, last: 443 }] }) // prettier-ignore
  if (learned.kind === 'full') throw new Error(learned.text)
  leases.sending(learned.elements)
  leases.committed(learned.elements, now, 1)
  if (i % 4 !== 0) return
  const one = connection(i, address)
  liveness.note('begun', one)
  const end = Math.floor(now / 1000) + 1 + ((i * 7919) % 300)
  ending.set(end, [...(ending.get(end) ?? []), one])
}

const report: { rss: number; heap: number; leases: number }[] = []
for (let second = 1; second <= hours * secondsAn; second++) {
  now = second * 1000
  while (made < (second * namesAnHour) / secondsAn) learnOne()
  for (const one of ending.get(second) ?? []) liveness.note('over', one)
  ending.delete(second)
  leases.expire()
  leases.turned()
  const renewed = leases.kept()
  leases.sending(renewed)
  leases.committed(renewed, now, 1)
  if (second % secondsAn !== 0) continue
  ;(globalThis as { gc?: () => void }).gc?.()
  const { rss, heapUsed: heap } = process.memoryUsage()
  report.push({ rss, heap, leases: leases.size() })
}
// When nobody asks any more and all connections have ended, nothing is left.
for (const all of ending.values()) for (const one of all) liveness.note('over', one)
now += 1_000_000
leases.expire()
console.log(JSON.stringify({ report, left: leases.size(), connections: liveness.size() }))
