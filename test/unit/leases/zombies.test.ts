// What becomes of a lease whose TTL and grace are over while a connection lives, on a stepped clock: the kernel is a record of elements.
import { beforeEach, expect, test } from 'vitest'
import { setOf, type LeaseElement, type OpenPorts } from '../../../src/datapath/element.ts'
import { isZombie } from '../../../src/leases/lease.ts'
import { makeLeases, type LeaseTable } from '../../../src/leases/leases.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import { Protocol } from '../../../src/net/ports.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const https: OpenPorts = { kind: 'ports', protocol: Protocol.TCP, first: 443, last: 443 }
const [one, two, three] = ['198.18.0.1', '198.18.0.2', '198.18.0.3'].map(at) as [Address, Address, Address]
const hour = 3600

let now: number
let leases: LeaseTable
/** `identity address` of live connections. */
let live: Set<string>
let kernel: Map<string, number>
/** `moment address` of leases that were told to be zombies. */
let turned: string[]

const use = (address: Address, identity = 256): string => `${identity} ${address}`
function put(elements: readonly LeaseElement[]): void {
  leases.sending(elements)
  for (const element of elements) kernel.set(`${setOf(element)} ${use(element.address, element.identity)}`, now + element.timeoutMillis) // prettier-ignore
  leases.committed(elements, now, 1)
}
function answer(ttlSeconds: number, addresses: readonly Address[] = [one], name = 'api.example.com', identity = 256): void {
  const learned = leases.learn({ identity, endpoint: 1, name, addresses, ttlSeconds, ports: [https] })
  if (learned.kind === 'full') expect.fail(learned.text)
  put(learned.elements)
} // prettier-ignore
const isOpen = (address: Address, identity = 256): boolean => (kernel.get(`learned4 ${use(address, identity)}`) ?? 0) > now // prettier-ignore
/** As the alarm does it: whenever something is due. `each` is called after every step. */
function pass(seconds: number, each: () => void = () => undefined): void {
  const until = now + seconds * 1000
  for (let next = leases.nextDeadline(); next !== undefined && next <= until; next = leases.nextDeadline()) {
    now = Math.max(now, next)
    leases.expire()
    turned.push(...leases.turned().map(({ address }) => `${now / 1000} s ${address === one ? 'one' : 'another'}`))
    put(leases.kept())
    each()
  }
  now = until
}
const zombies = (): Address[] => [...leases.list()].filter((l) => isZombie(l, now)).map((l) => l.address)

beforeEach(() => {
  now = 0
  live = new Set()
  kernel = new Map()
  turned = []
  const limits = { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, zombieSecondsMax: 86_400, addressesPerNameMax: 4096, leasesMax: 100_000 } // prettier-ignore
  leases = makeLeases(() => now, () => 1, limits, (identity, address) => live.has(use(address, identity))) // prettier-ignore
})

test('a connection keeps its own address, not the others of its name, nor for another identity', () => {
  answer(60, [one, two])
  answer(60, [one], 'api.example.com', 257)
  live.add(use(one))
  pass(91)
  expect([isOpen(one), isOpen(two), isOpen(one, 257)]).toEqual([true, false, false])
  expect(zombies()).toEqual([one])
})

test('a zombie is told of once, when its TTL and grace are over, though it was judged before', () => {
  answer(60, [one, two])
  live.add(use(one))
  pass(89)
  expect(turned).toEqual([])
  pass(600)
  expect(turned).toEqual(['90 s one'])
  // A lookup makes it a lease again, which may become a zombie again.
  answer(60)
  pass(91)
  expect(turned).toEqual(['90 s one', '779 s one'])
})

test('what is judged to be kept, and is learned again before its time is over, was no zombie', () => {
  answer(60)
  live.add(use(one))
  pass(88)
  answer(60)
  pass(60)
  expect(turned).toEqual([])
})

test('every name of the address stays with it', () => {
  answer(60, [one], 'a.example.com')
  answer(10, [one], 'b.example.com')
  live.add(use(one))
  pass(300)
  expect(leases.namesOf(256, one)).toEqual(['a.example.com', 'b.example.com'])
})

for (const ttl of [0, 5, 60, 86_400, 2 ** 31])
  test(`TTL ${ttl}: the door is never shut while an idle connection of an hour lives, and soon after it is`, () => {
    answer(ttl)
    live.add(use(one))
    const until = Math.min(ttl, 604_800) + 30
    pass(until - 1)
    let shut = 0
    pass(hour, () => (shut += isOpen(one) ? 0 : 1))
    expect([shut, isOpen(one)]).toEqual([0, true])
    live.clear()
    pass(30)
    expect([isOpen(one), leases.size(), leases.nextDeadline()]).toEqual([false, 0, undefined])
  })

test('no connection: it ends with its grace, to the millisecond', () => {
  answer(60)
  pass(89.999)
  expect([isOpen(one), leases.size()]).toEqual([true, 1])
  pass(0.001)
  expect([isOpen(one), leases.size()]).toEqual([false, 0])
})

test('a connection that begins after the look and before the end keeps it', () => {
  answer(60)
  pass(87)
  live.add(use(one))
  pass(3)
  expect(isOpen(one)).toBe(true)
})

test('the look before the end has the kernel renew before it lets go', () => {
  answer(60)
  live.add(use(one))
  pass(85)
  expect(kernel.get(`learned4 ${use(one)}`)).toBe(115_000)
  expect(zombies()).toEqual([])
})

test('a zombie is kept for the grace at a time: so long it is open when the agent dies', () => {
  answer(0)
  live.add(use(one))
  pass(10 * 60)
  expect((kernel.get(`learned4 ${use(one)}`) ?? 0) - now).toBeLessThanOrEqual(30_000)
})

test('past its age no connection keeps it, and none of its kind is judged without end', () => {
  answer(60)
  live.add(use(one))
  pass(90 + 86_399)
  expect(isOpen(one)).toBe(true)
  pass(1)
  expect([isOpen(one), leases.size()]).toEqual([false, 0])
})

test('an age of 0: nothing is kept', () => {
  leases = makeLeases(() => now, () => 1, { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 600, zombieSecondsMax: 0, addressesPerNameMax: 4, leasesMax: 100 }, () => true) // prettier-ignore
  answer(60)
  pass(90)
  expect(leases.size()).toBe(0)
})

test('asked for again it is no zombie, and its age begins anew', () => {
  answer(60)
  live.add(use(one))
  pass(100)
  expect(zombies()).toEqual([one])
  answer(60)
  expect([zombies(), [...leases.list()].map((l) => l.deadline)]).toEqual([[], [160_000]])
  pass(90 + 86_399)
  expect(isOpen(one)).toBe(true)
})

test('a short answer about a zombie does not shut it earlier', () => {
  answer(60)
  live.add(use(one))
  pass(87)
  answer(0)
  live.clear()
  pass(27)
  expect(isOpen(one)).toBe(true)
})

test('a zombie whose renewal the kernel refuses is kept as it was before', () => {
  answer(60)
  live.add(use(one))
  pass(100)
  const before = [...leases.list()].map((l) => [l.deadline, l.keptUntil])
  const learned = leases.learn({ identity: 256, endpoint: 1, name: 'api.example.com', addresses: [one], ttlSeconds: 600, ports: [https] }) // prettier-ignore
  if (learned.kind === 'full') return expect.fail(learned.text)
  leases.sending(learned.elements)
  leases.refused(learned.elements)
  expect(leases.retract(learned.elements)).toEqual({ dropped: [], remove: [] })
  expect([...leases.list()].map((l) => [l.deadline, l.keptUntil])).toEqual(before)
  pass(hour)
  expect(isOpen(one)).toBe(true)
})

test('cleaned by hand it is gone, whoever is connected', () => {
  answer(60)
  live.add(use(one))
  pass(100)
  const { dropped, remove } = leases.drop(() => true)
  expect([dropped.length, remove.map((e) => e.address)]).toEqual([1, [one]])
  expect([leases.kept(), leases.nextDeadline()]).toEqual([[], undefined])
})

test('what the kernel did not renew is lacking', () => {
  answer(60)
  live.add(use(one))
  now = 85_000
  leases.expire()
  expect(leases.kept().map((e) => e.timeoutMillis)).toEqual([30_000])
  now = 100_000
  expect(leases.lacking().map((e) => [e.address, e.timeoutMillis])).toEqual([[one, 15_000]])
})

test('a clock that jumps: what is due is judged once, kept if it is in use, gone if not', () => {
  answer(60, [one, two])
  answer(86_400, [three])
  live.add(use(one))
  now = 7 * hour * 1000
  leases.expire()
  put(leases.kept())
  expect([isOpen(one), isOpen(two), isOpen(three), leases.size()]).toEqual([true, false, true, 2])
})

test('a name with 2 000 addresses, 8 at a time every 5 s, connections of 1 to 300 s, for an hour: none dropped, none open for nobody', () => {
  const pool = Array.from({ length: 2000 }, (_, i) => at(`198.19.${i >> 8}.${i & 255}`))
  const connections: { address: Address; until: number }[] = []
  /** When an address was last leased or in use. */
  const wanted = new Map<Address, number>()
  let seed = 1
  const random = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below
  let dropped = 0
  let idle = 0
  let most = 0
  for (let round = 0; round < hour / 5; round++) {
    const offered = Array.from({ length: 8 }, (_, i) => pool[(round * 8 + i) % pool.length] ?? one)
    answer(5, offered, 's3.example.com')
    for (const address of offered) wanted.set(address, now + 35_000)
    // Some at once, some in the grace, some to an address that a pool of connections keeps.
    for (let i = 0; i < 4; i++) {
      const address = i < 3 ? offered[random(8)] : connections[random(Math.max(1, connections.length))]?.address
      if (address === undefined) continue
      if (!isOpen(address)) dropped++
      connections.push({ address, until: now + (1 + random(300)) * 1000 })
    }
    for (let second = 0; second < 5; second++) {
      const alive = connections.filter(({ until }) => until > now)
      connections.splice(0, connections.length, ...alive)
      live = new Set(alive.map(({ address }) => use(address)))
      for (const address of new Set(alive.map((c) => c.address))) {
        if (!isOpen(address)) dropped++
        wanted.set(address, Math.max(wanted.get(address) ?? 0, now))
      }
      pass(1)
      // The last look at a connection may be a second old here.
      for (const [address, until] of wanted) if (isOpen(address) && now > until + 31_000) idle++
    }
    most = Math.max(most, leases.size())
  }
  expect([dropped, idle]).toEqual([0, 0])
  expect(most).toBeLessThan(500)
})
