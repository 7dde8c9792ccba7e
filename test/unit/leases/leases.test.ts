// The allow cache on a stepped clock: what must be committed before an answer, what stands, what is over.
import fc from 'fast-check'
import { beforeEach, expect, test } from 'vitest'
import type { LeaseElement } from '../../../src/datapath/element.ts'
import type { LeaseFact, LeaseLimits } from '../../../src/leases/lease.ts'
import { makeLeases, type LeaseTable } from '../../../src/leases/leases.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import { Protocol, type Ports } from '../../../src/net/ports.ts'

const limits: LeaseLimits = {
  graceSeconds: 30,
  ttlMinSeconds: 0,
  ttlMaxSeconds: 86_400,
  addressesPerNameMax: 3,
  leasesMax: 20,
}
const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const https: Ports = { kind: 'ports', protocol: Protocol.TCP, first: 443, last: 443 }
const ssh: Ports = { kind: 'ports', protocol: Protocol.TCP, first: 22, last: 22 }

let now = 0
let epoch = 1
let leases: LeaseTable
const fresh = (over: Partial<LeaseLimits> = {}) => makeLeases(() => now, () => epoch, { ...limits, ...over }) // prettier-ignore
const fact = (over: Partial<LeaseFact> = {}): LeaseFact => ({ identity: 256, endpoint: 1, name: 'api.example.com', addresses: [at('198.18.0.1')], ttlSeconds: 60, ports: [https], ...over }) // prettier-ignore
/** Learns and acknowledges, as the agent does; gives the timeouts in seconds that went to the kernel. */
function answer(over: Partial<LeaseFact> = {}): number[] {
  const learned = leases.learn(fact(over))
  if (learned.kind === 'full') return expect.fail(learned.text)
  leases.committed(learned.elements, now, epoch)
  return learned.elements.map((e) => e.timeoutMillis / 1000)
}

beforeEach(() => {
  now = 0
  epoch = 1
  leases = fresh()
})

test('a new address is committed for its TTL and the grace', () => expect(answer()).toEqual([90]))

test('an address that stands for the TTL told needs no commit', () => {
  answer()
  now = 20_000
  expect(answer({ ttlSeconds: 40 })).toEqual([])
})

test('an address that would not outlive the TTL told is renewed', () => {
  answer()
  now = 50_000
  expect(answer({ ttlSeconds: 60 })).toEqual([90])
})

test('an answer leaves with half the grace beyond its TTL, however often it is told', () => {
  answer({ ttlSeconds: 0 })
  now = 15_000
  expect(answer({ ttlSeconds: 0 })).toEqual([])
  now = 15_001
  expect(answer({ ttlSeconds: 0 })).toEqual([30])
})

test('a short grace is left whole: a program that asks and connects at once finds no door that just closed', () => {
  leases = fresh({ graceSeconds: 2 })
  answer({ ttlSeconds: 0 })
  now = 1
  expect(answer({ ttlSeconds: 0 })).toEqual([2])
})

test('a shorter TTL does not cut a lease', () => {
  answer({ ttlSeconds: 600 })
  answer({ ttlSeconds: 5 })
  now = 100_000
  expect(leases.expire()).toEqual([])
  expect(leases.namesOf(256, at('198.18.0.1'))).toEqual(['api.example.com'])
})

test('after somebody else changed the ruleset, everything is committed anew', () => {
  answer()
  epoch = 2
  now = 10_000
  expect(answer({ ttlSeconds: 50 })).toEqual([80])
  expect(answer({ ttlSeconds: 50 })).toEqual([])
})

test('what the kernel did not acknowledge does not stand', () => {
  leases.learn(fact())
  expect(answer()).toEqual([90])
})

test('one identity does not stand for another', () => {
  answer()
  expect(answer({ identity: 257 })).toEqual([90])
  expect(leases.namesOf(258, at('198.18.0.1'))).toEqual([])
})

test('an address under two names stands until the later of them', () => {
  answer({ name: 'long.example.com', ttlSeconds: 600 })
  now = 1000
  expect(answer({ name: 'short.example.com', ttlSeconds: 5 })).toEqual([])
  now = 601_000
  expect(answer({ name: 'short.example.com', ttlSeconds: 60 })).toEqual([90])
})

test('each name opens its own ports', () => {
  answer({ name: 'a.example.com', ports: [https] })
  expect(answer({ name: 'b.example.com', ports: [https, ssh] })).toHaveLength(1)
})

test('"any port" makes the others superfluous', () =>
  expect(answer({ ports: [https, { kind: 'all' }, ssh] })).toHaveLength(1))

test('a lease is over when TTL and grace are, not before', () => {
  answer()
  expect(leases.nextDeadline()).toBe(90_000)
  now = 89_999
  expect(leases.expire()).toEqual([])
  now = 90_000
  expect(leases.expire().map((l) => l.name)).toEqual(['api.example.com'])
  expect([leases.size(), leases.nextDeadline()]).toEqual([0, undefined])
})

test('TTL 0 stands for the grace', () => expect(answer({ ttlSeconds: 0 })).toEqual([30]))

test('the least TTL prolongs the lease, not what is told', () => {
  leases = fresh({ ttlMinSeconds: 300 })
  expect(leases.learn(fact({ ttlSeconds: 5 }))).toMatchObject({ ttlSeconds: 5, elements: [{ timeoutMillis: 330_000 }] })
})

test('the greatest TTL cuts both', () =>
  expect(leases.learn(fact({ ttlSeconds: 2 ** 31 }))).toMatchObject({
    ttlSeconds: 86_400,
    elements: [{ timeoutMillis: 86_430_000 }],
  }))

test('at the bounds the answer is refused and nothing that stands is evicted', () => {
  answer({ addresses: ['198.18.0.1', '198.18.0.2', '198.18.0.3'].map(at) })
  expect(leases.learn(fact({ addresses: [at('198.18.0.4')] }))).toMatchObject({ kind: 'full', limit: 'name' })
  expect(answer({ addresses: [at('198.18.0.3')] })).toEqual([])
  answer({ name: 'b.example.com', addresses: ['198.18.0.1', '198.18.0.2'].map(at) })
  expect(leases.learn(fact({ name: 'c.example.com' })).kind).toBe('full')
  expect(leases.size()).toBe(5)
  leases = fresh({ leasesMax: 2 })
  answer({ identity: 257 })
  answer({ identity: 258 })
  expect(leases.learn(fact({ identity: 259 }))).toEqual({
    kind: 'full',
    limit: 'all',
    budget: 'leases',
    text: '2 leases are held; the limit is 2',
  })
})

test('one identity takes at most a quarter of the room, in leases and in elements', () => {
  leases = fresh({ leasesMax: 8 })
  answer({ name: 'a.example.com' })
  answer({ name: 'b.example.com', addresses: [at('198.18.0.2')] })
  const text = 'this identity holds 2 leases in 2 elements; the limit for one is 2 of each, a quarter of leasesMax'
  expect(leases.learn(fact({ name: 'c.example.com' }))).toEqual({
    kind: 'full',
    limit: 'identity',
    budget: 'leases',
    text,
  })
  expect(answer({ identity: 257, name: 'c.example.com' })).toEqual([90])
  expect(leases.learn(fact({ identity: 258, ports: [https, ssh, { ...ssh, protocol: Protocol.UDP }] })).kind).toBe('full') // prettier-ignore
  // What is over makes room again.
  leases.drop((lease) => lease.name === 'a.example.com')
  expect(answer({ name: 'c.example.com', addresses: [at('198.18.0.3')] })).toEqual([90])
  now = 90_000
  leases.expire()
  expect(answer({ name: 'd.example.com', ports: [https, ssh] })).toEqual([90, 90])
})

test('a dropped lease takes out what no other lease holds up', () => {
  answer({ name: 'a.example.com', ports: [https] })
  answer({ name: 'b.example.com', ports: [https, ssh] })
  const { dropped, remove } = leases.drop((lease) => lease.name === 'b.example.com')
  expect(dropped.map((l) => l.name)).toEqual(['b.example.com'])
  expect(remove.map((e) => e.ports)).toEqual([ssh])
  expect(leases.drop(() => true).remove.map((e) => e.ports)).toEqual([https])
})

test('a lease dropped while its commit is under way is taken out too', () => {
  const learned = leases.learn(fact())
  if (learned.kind === 'full') return expect.fail(learned.text)
  leases.sending(learned.elements)
  expect(leases.drop(() => true).remove.map((e) => e.ports)).toEqual([https])
  expect(leases.committed(learned.elements, now, epoch)).toEqual(learned.elements)
})

test('a changed policy takes and gives', () => {
  answer()
  answer({ name: 'gone.example.com', addresses: [at('198.18.0.9')] })
  const { remove } = leases.regrant(
    (lease) => (lease.name === 'gone.example.com' ? [] : [ssh]),
    () => true,
  )
  expect(remove.map((e) => [e.address, e.ports])).toEqual([[at('198.18.0.9'), https], [at('198.18.0.1'), https]]) // prettier-ignore
  expect(leases.lacking().map((e) => [e.ports, e.timeoutMillis])).toEqual([[ssh, 90_000]])
  expect([...leases.list()].map((l) => l.name)).toEqual(['api.example.com'])
})

test('who asked is remembered while it is there', () => {
  answer({ endpoint: 1 })
  answer({ endpoint: 2 })
  answer({ endpoint: 1 })
  const askers = () => [...leases.list()].map((lease) => [lease.endpoint, lease.askers])
  expect(askers()).toEqual([[1, [1, 2]]])
  leases.regrant(() => [https], (endpoint) => endpoint === 2) // prettier-ignore
  expect(askers()).toEqual([[1, [2]]])
  for (let endpoint = 3; endpoint < 1000; endpoint++) answer({ endpoint })
  expect(askers()[0]?.[1]).toHaveLength(256)
  expect(askers()[0]?.[1]).toContain(999)
})

test('any history: what stands is what the leases say, merged in any order', () => {
  const step = fc.record({
    name: fc.constantFrom('a', 'b'),
    address: fc.constantFrom('198.18.0.1', '198.18.0.2'),
    ttl: fc.integer({ min: 0, max: 100 }),
    ports: fc.constantFrom([https], [ssh], [https, ssh]),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      const run = (order: typeof steps) => {
        leases = fresh({ leasesMax: 400, addressesPerNameMax: 100 })
        for (const { name, address, ttl } of order)
          answer({ name, addresses: [at(address)], ttlSeconds: ttl, ports: [https, ssh] })
        epoch++
        return leases.lacking().map((e) => `${e.address}${JSON.stringify(e.ports)}${e.timeoutMillis}`).sort() // prettier-ignore
      }
      expect(run(steps)).toEqual(run([...steps].reverse()))
    }),
  )
})

test('any mix of learning and waiting: nothing outlives its deadline, nothing leaves before it', () => {
  const step = fc.record({
    name: fc.constantFrom('a', 'b', 'c'),
    ttl: fc.integer({ min: 0, max: 50 }),
    wait: fc.integer({ min: 0, max: 40_000 }),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      now = 0
      leases = fresh({ leasesMax: 400 })
      const deadlines = new Map<string, number>()
      for (const { name, ttl, wait } of steps) {
        now += wait
        for (const [known, deadline] of deadlines) if (deadline <= now) deadlines.delete(known)
        leases.expire()
        answer({ name, ttlSeconds: ttl })
        deadlines.set(name, Math.max(deadlines.get(name) ?? 0, now + ttl * 1000 + 30_000))
        expect([...leases.list()].map((l) => l.name).sort()).toEqual([...deadlines.keys()].sort())
        expect(leases.nextDeadline()).toBe(Math.min(...deadlines.values()))
      }
    }),
  )
})

test('an acknowledgement, and a refusal, are of the element that was sent, not of one that was asked for anew since', () => {
  const send = (): LeaseElement[] => {
    const learned = leases.learn(fact())
    if (learned.kind === 'full') return expect.fail(learned.text)
    leases.sending(learned.elements)
    return [...learned.elements]
  }
  for (const kind of ['acknowledged', 'refused']) {
    leases = fresh()
    const first = send()
    leases.drop(() => true)
    const again = send()
    if (kind === 'acknowledged') expect(leases.committed(first, now, epoch)).toEqual(first)
    else {
      leases.refused(first)
      expect(leases.retract(first)).toEqual({ dropped: [], remove: [] })
    }
    // The kernel has taken out what it acknowledged, and the other has no answer yet.
    expect(leases.learn(fact({ endpoint: 2 }))).toMatchObject({ elements: [{}] })
    leases.committed(again, now, epoch)
    expect(answer({ endpoint: 2 })).toEqual([])
  }
})

test('what is assured of a name ends with its own lease, however long the element stands for another', () => {
  answer({ name: 'other.example.com', ttlSeconds: 600 })
  answer()
  expect(leases.assured(256, 'api.example.com', [at('198.18.0.1')])?.tellUntil).toBe(75_000)
})
