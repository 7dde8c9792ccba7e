// Budgets by number and by octets: what goes at a bound, what never does, and that sums are exact. On a stepped clock.
import fc from 'fast-check'
import { beforeEach, expect, test } from 'vitest'
import type { OpenPorts } from '../../../src/datapath/element.ts'
import type { Lease, LeaseFact, LeaseLimits } from '../../../src/leases/lease.ts'
import { makeLeases, type LeaseTable } from '../../../src/leases/leases.ts'
import { addressFromNumber, addressFromText, type Address } from '../../../src/net/address.ts'
import { Protocol } from '../../../src/net/ports.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const https: OpenPorts = { kind: 'ports', protocol: Protocol.TCP, first: 443, last: 443 }
const limits: LeaseLimits = { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 86_400, zombieSecondsMax: 3600, addressesPerNameMax: 3, leasesMax: 8 } // prettier-ignore

let now: number
/** `identity address` of live connections. */
let live: Set<string>
let leases: LeaseTable
const use = (identity: number, address: Address): string => `${identity} ${address}`
const fresh = (over: Partial<LeaseLimits> = {}): LeaseTable => makeLeases(() => now, () => 1, { ...limits, ...over }, (identity, address) => live.has(use(identity, address))) // prettier-ignore
const fact = (name: string, address = '198.18.0.1', over: Partial<LeaseFact> = {}): LeaseFact => ({ identity: 256, endpoint: 1, name, addresses: [at(address)], ttlSeconds: 60, ports: [https], ...over }) // prettier-ignore
function learn(one: LeaseFact): 'learned' | 'full' {
  const learned = leases.learn(one)
  if (learned.kind === 'full') return 'full'
  leases.sending(learned.elements)
  leases.committed(learned.elements, now, 1)
  return 'learned'
}
const evicted = (one: LeaseFact): string[] => leases.evict(one).evicted.flatMap(({ limit, leases: gone }) => gone.map(({ name }) => `${limit.limit}/${limit.budget} ${name}`)) // prettier-ignore
const held = (): string[] => [...leases.list()].map(({ name }) => name).sort()

beforeEach(() => {
  now = 0
  live = new Set()
  leases = fresh()
})

test('what is unexpired stays, and the answer is refused', () => {
  learn(fact('a'))
  learn(fact('b', '198.18.0.2'))
  now = 60_000
  expect(evicted(fact('c', '198.18.0.3'))).toEqual([])
  expect(learn(fact('c', '198.18.0.3'))).toBe('full')
})

test('what an answer leaves with beside its TTL is not taken: half the grace', () => {
  learn(fact('a', '198.18.0.1', { ttlSeconds: 0 }))
  learn(fact('b', '198.18.0.2'))
  now = 14_999
  expect(evicted(fact('c', '198.18.0.3'))).toEqual([])
  now = 15_100
  expect(evicted(fact('c', '198.18.0.3'))).toEqual(['identity/leases a'])
  expect([learn(fact('c', '198.18.0.3')), held()]).toEqual(['learned', ['b', 'c']])
})

test('the oldest goes first, and no more than has to', () => {
  learn(fact('b', '198.18.0.2', { ttlSeconds: 2 }))
  learn(fact('a', '198.18.0.1', { ttlSeconds: 1 }))
  now = 20_000
  expect(evicted(fact('c', '198.18.0.3'))).toEqual(['identity/leases a'])
})

test('what is in use stays, also as a zombie whose connection has ended but that an answer may lead to', () => {
  learn(fact('a', '198.18.0.1', { ttlSeconds: 0 }))
  learn(fact('b', '198.18.0.2', { ttlSeconds: 10 }))
  live.add(use(256, at('198.18.0.1')))
  now = 28_000
  expect(evicted(fact('c', '198.18.0.3'))).toEqual(['identity/leases b'])
  learn(fact('c', '198.18.0.3'))
  leases.expire()
  leases.kept()
  live.clear()
  // Kept until 58 s: what was told of it may be relied on until 43 s.
  now = 42_900
  expect(evicted(fact('d', '198.18.0.4'))).toEqual([])
  now = 43_000
  expect(evicted(fact('d', '198.18.0.4'))).toEqual(['identity/leases a'])
})

test('its elements are to be removed, unless another name holds them up', () => {
  learn(fact('a', '198.18.0.1', { ttlSeconds: 0 }))
  learn(fact('b', '198.18.0.1'))
  now = 20_000
  expect(leases.evict(fact('c', '198.18.0.3')).remove).toEqual([])
  now = 80_000
  learn(fact('c', '198.18.0.3'))
  expect(leases.evict(fact('d', '198.18.0.4')).remove.map(({ address }) => address)).toEqual([at('198.18.0.1')])
})

test('what is assured to be told again is not, once something has gone', () => {
  learn(fact('a', '198.18.0.1', { ttlSeconds: 0 }))
  learn(fact('b', '198.18.0.2'))
  now = 20_000
  const before = leases.losses()
  leases.evict(fact('c', '198.18.0.3'))
  expect(leases.losses()).not.toBe(before)
})

test('a name at its bound loses its own oldest address, and nobody else any', () => {
  leases = fresh({ leasesMax: 100 })
  const all = ['198.18.0.1', '198.18.0.2', '198.18.0.3'].map(at)
  learn(fact('other', '198.18.0.9', { ttlSeconds: 0 }))
  learn(fact('s3', '198.18.0.1', { addresses: all, ttlSeconds: 1 }))
  now = 20_000
  expect(evicted(fact('s3', '198.18.0.4'))).toEqual(['name/leases s3'])
  expect(leases.isLeasedAs(256, 's3', at('198.18.0.1'))).toBe(false)
  expect(learn(fact('s3', '198.18.0.4'))).toBe('learned')
  expect(leases.size()).toBe(4)
})

test('at the bound of all, the oldest of anybody goes', () => {
  for (const identity of [1, 2, 3, 4]) for (const i of [1, 2]) learn(fact(`n${identity}${i}`, `198.18.${identity}.${i}`, { identity, ttlSeconds: identity })) // prettier-ignore
  now = 30_000
  expect(evicted(fact('c', '198.18.0.3', { identity: 5 }))).toEqual(['all/leases n11'])
})

test('by octets: long names take more, and the refusal says so', () => {
  leases = fresh({ leasesMax: 100_000, octetsMax: 8000 })
  const name = (i: number, length: number): string => String(i).padStart(length, 'x')
  let short = 0
  while (learn(fact(name(short, 10), '198.18.0.1')) === 'learned') short++
  leases = fresh({ leasesMax: 100_000, octetsMax: 8000 })
  let long = 0
  while (learn(fact(name(long, 250), '198.18.0.1')) === 'learned') long++
  expect(short).toBeGreaterThan(2 * long)
  const told = leases.learn(fact(name(long, 250), '198.18.0.1'))
  expect(told).toMatchObject({ kind: 'full', limit: 'identity', budget: 'octets' })
  expect(told.kind === 'full' && told.text).toMatch(/^the leases of this identity take 1\d{3} octets; the limit for one is 2000, a quarter of octetsMax$/) // prettier-ignore
  // Others have their own share, until all of it is taken.
  let identity = 300
  while (learn(fact('y', '198.18.0.1', { identity })) === 'learned') identity++
  expect(leases.learn(fact('y', '198.18.0.1', { identity }))).toMatchObject({ limit: 'all', budget: 'octets' })
  expect(leases.octets()).toBeLessThanOrEqual(8000)
})

test('what is known already is let in at any bound', () => {
  leases = fresh({ leasesMax: 100_000, octetsMax: 4 * 300 })
  learn(fact('a'))
  learn(fact('b'))
  expect(learn(fact('c'))).toBe('full')
  now = 30_000
  expect(learn(fact('a', '198.18.0.1', { endpoint: 2 }))).toBe('learned')
})

/** Sums of a table that holds just these leases, learned anew. */
function sumsOf(all: readonly Lease[]): number[] {
  const other = makeLeases(() => 0, () => 1, { ...limits, leasesMax: 1e6, addressesPerNameMax: 1000 }) // prettier-ignore
  for (const lease of all) for (const endpoint of lease.askers) other.learn({ ...lease, endpoint, addresses: [lease.address], ttlSeconds: 60 }) // prettier-ignore
  return [other.size(), other.names(), other.octets()]
}

test('any history at a bound: only what nobody relies on goes, and sums are those of what is held', () => {
  const step = fc.record({
    identity: fc.integer({ min: 1, max: 4 }),
    name: fc.integer({ min: 0, max: 9 }),
    address: fc.integer({ min: 0, max: 5 }),
    endpoint: fc.integer({ min: 1, max: 3 }),
    ttlSeconds: fc.constantFrom(0, 1, 5, 40),
    wait: fc.constantFrom(0, 0, 1000, 7000, 20_000),
    connect: fc.constantFrom('begin', 'end', 'neither'),
  })
  const seen = { evicted: 0, refused: 0 }
  fc.assert(
    fc.property(fc.array(step, { minLength: 30, maxLength: 60 }), fc.constantFrom({}, { leasesMax: 1000, octetsMax: 3000 }), (steps, over) => {
      now = 0
      live = new Set()
      leases = fresh(over)
      for (const { identity, name, address, endpoint, ttlSeconds, wait, connect } of steps) {
        now += wait
        const addresses = [addressFromNumber(0xc6120000n + BigInt(address), 4)]
        const [peer = at('198.18.0.0')] = addresses
        if (connect === 'begin') live.add(use(identity, peer))
        if (connect === 'end') live.delete(use(identity, peer))
        leases.expire()
        leases.kept()
        const one = fact(`${'n'.repeat(1 + name)}.example`, '198.18.0.1', { identity, endpoint, addresses, ttlSeconds })
        if (learn(one) === 'full') {
          const gone = leases.evict(one).evicted.flatMap(({ leases: some }) => some)
          for (const lease of gone) {
            expect(lease.deadline + 15_000).toBeLessThanOrEqual(now)
            expect(live.has(use(lease.identity, lease.address))).toBe(false)
          }
          seen.evicted += gone.length
          if (learn(one) === 'full') seen.refused++
        }
        expect([leases.size(), leases.names(), leases.octets()]).toEqual(sumsOf([...leases.list()]))
      }
      live.clear()
      for (let i = 0; i < 3; i++) {
        now += 1e7
        leases.expire()
      }
      expect([leases.size(), leases.names(), leases.octets(), leases.nextDeadline()]).toEqual([0, 0, 0, undefined])
    }),
    { numRuns: 200 },
  )
  expect(Math.min(seen.evicted, seen.refused)).toBeGreaterThan(100)
}) // prettier-ignore

test('what the kernel holds for one that went is removed when the last lease at the address ends', () => {
  leases = fresh({ addressesPerNameMax: 1 })
  learn(fact('a', '198.18.0.1', { ttlSeconds: 100 }))
  learn(fact('b', '198.18.0.1', { ttlSeconds: 90 }))
  now = 116_000
  expect(evicted(fact('a', '198.18.0.2'))).toEqual(['name/leases a'])
  now = 120_000
  expect(leases.expire().map(({ name }) => name)).toEqual(['b'])
  // Held for a until 130 s.
  expect(leases.leftBehind().map(({ timeoutMillis }) => timeoutMillis)).toEqual([10_000])
  expect(leases.leftBehind()).toEqual([])
})

test('what the kernel lets go of by itself is not removed', () => {
  learn(fact('a'))
  now = 90_000
  expect([leases.expire().length, leases.leftBehind()]).toEqual([1, []])
})
