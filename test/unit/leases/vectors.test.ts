// Cilium's own expectations of what becomes of addresses whose TTL is over (its zombies), replayed against our leases. Where ours is to be different,
// the row says what we do and why: Cilium learns of connections by sweeps of connection tracking, minutes apart, we by its events; Cilium keeps
// all addresses of a name for a connection to one, and evicts at its limits whatever is oldest, in use or not.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { OpenPorts } from '../../../src/datapath/element.ts'
import type { LeaseLimits } from '../../../src/leases/lease.ts'
import { makeLeases, type LeaseTable } from '../../../src/leases/leases.ts'
import { readPattern } from '../../../src/match/pattern.ts'
import { makeTrie } from '../../../src/match/trie.ts'
import { addressFromText, addressToText, type Address } from '../../../src/net/address.ts'
import { labelsOf, wireFromText } from '../../../src/wire/name.ts'

type Names = Readonly<Record<string, readonly string[]>>
/** `1ns`, which Cilium's tests mean as "just after", is 0. */
type Moment = number | '1ns'
type Step =
  | ['upsert', Moment, string, ...string[]]
  | ['setCTGC', Moment]
  | ['markAlive', Moment, string]
  | ['gc', { alive: Names; dead: Names }]
type CascadeStep =
  | ['update', number, string, string[], number]
  | ['cacheGC', number, { affected: string[]; cacheHas: string[]; zombiesAlive: string[] }]
interface Vectors {
  scenarios: { origin: string; maxZombies: number; perHostLimit: number; steps: Step[] }[]
  cacheCascade: { steps: CascadeStep[] }
  overlimitNewest: {
    minTTL: number
    perHostLimit: number
    maxZombies: number
    afterGC: Readonly<Record<string, string>>
  }
  labels: { selectors: string[]; expect: Names }
}
const vectors = JSON.parse(
  readFileSync(new URL('../../vectors/cache-zombies.json', import.meta.url), 'utf8'),
) as Vectors

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const https: OpenPorts = { kind: 'ports', protocol: 6, first: 443, last: 443 }
const seconds = (moment: Moment): number => (moment === '1ns' ? 0 : moment)

let now: number
/** Answers that were refused: name and address. */
let refused: string[]
function learn(leases: LeaseTable, name: string, addresses: readonly string[], ttlSeconds: number): void {
  const fact = { identity: 256, endpoint: 1, name, addresses: addresses.map(at), ttlSeconds, ports: [https] }
  let learned = leases.learn(fact)
  if (learned.kind === 'full') {
    leases.evict(fact)
    learned = leases.learn(fact)
  }
  if (learned.kind === 'full') {
    refused.push(`${name} ${addresses.join()}`)
    return
  }
  leases.sending(learned.elements)
  leases.committed(learned.elements, now, 1)
}
function pass(leases: LeaseTable, secondsLong: number): void {
  const until = now + secondsLong * 1000
  for (let next = leases.nextDeadline(); next !== undefined && next <= until; next = leases.nextDeadline()) {
    now = Math.max(now, next)
    leases.expire()
    leases.kept()
  }
  now = until
}
function held(leases: LeaseTable, which: (deadline: number) => boolean = () => true): Record<string, string[]> {
  const all: Record<string, string[]> = {}
  for (const { address, name, deadline } of leases.list())
    if (which(deadline)) all[addressToText(address)] = [...(all[addressToText(address)] ?? []), name].sort()
  return all
}

const limits: LeaseLimits = { graceSeconds: 1, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, zombieSecondsMax: 86_400, addressesPerNameMax: 1000, leasesMax: 40_000 } // prettier-ignore

/** What ours has at a `gc` that is not what Cilium has, and why; by origin, and the number of the `gc`. */
interface Difference {
  readonly alive: Names
  readonly why: string
}
const unseen =
  'nothing is connected to it: it ends with its grace, and does not wait for two sweeps of connection tracking'
const differences: Readonly<Record<string, Readonly<Record<number, Difference>>>> = {
  TestZombiesSiblingsGC: {
    0: {
      alive: { '1.1.1.2': ['test.com'] },
      why: 'a connection keeps its own address, not its siblings under the name',
    },
  },
  TestZombiesGC: {
    0: { alive: { '2.2.2.2': ['somethingelse.com'] }, why: unseen },
    1: { alive: { '2.2.2.2': ['somethingelse.com'] }, why: unseen },
    2: { alive: { '2.2.2.2': ['somethingelse.com'] }, why: unseen },
    4: { alive: { '2.2.2.2': ['somethingelse.com', 'thelastthing.com'] }, why: unseen },
  },
  TestZombiesGCOverLimit: { 0: { alive: {}, why: unseen } },
  'TestZombiesGCDeferredDeletes (second half)': {
    1: { alive: { '1.1.1.1': ['test.com'], '2.2.2.2': ['somethingelse.com'] }, why: 'at the limit what is in use stays, and the new answer is refused; theirs loses 1.1.1.1, whose connection lives' }, // prettier-ignore
  },
}
/** Answers that ours refuses: at a limit where nothing may go. */
const refusals: Readonly<Record<string, readonly string[]>> = {
  TestZombiesGCOverLimit: ['test.com 2.2.2.2'],
  TestZombiesGCOverLimitWithCTGC: ['test.com 1.1.1.4'],
  'TestZombiesGCDeferredDeletes (second half)': ['onemorething.com 3.3.3.3'],
}

describe('addresses whose TTL is over', () => {
  for (const { origin, maxZombies, perHostLimit, steps } of vectors.scenarios) {
    const title = origin.replace('pkg/fqdn/cache_test.go ', '')
    test(title, () => {
      now = 0
      refused = []
      // A sweep shows which connections live: one that it marks has lived since its address was learned, and lives until a sweep shows it no more.
      const marked = new Map(steps.flatMap((step) => (step[0] === 'markAlive' ? [[at(step[2]), seconds(step[1])] as const] : []))) // prettier-ignore
      let swept = -Infinity
      const isInUse = (_: number, address: Address): boolean => (marked.get(address) ?? NaN) >= swept
      // One identity may hold a quarter.
      const leases = makeLeases(() => now, () => 1, { ...limits, addressesPerNameMax: perHostLimit, leasesMax: 4 * maxZombies }, isInUse) // prettier-ignore
      let collected = 0
      for (const step of steps) {
        switch (step[0]) {
          case 'upsert': {
            const [, moment, address, ...names] = step
            now = Math.max(now, seconds(moment) * 1000)
            for (const name of names) learn(leases, name, [address], 0)
            break
          }
          case 'setCTGC':
            swept = Math.max(swept, seconds(step[1]))
            now = Math.max(now, swept * 1000)
            break
          case 'markAlive':
            break
          case 'gc': {
            pass(leases, 3)
            const different = differences[title]?.[collected]
            if (different !== undefined) expect(different.alive, 'a difference that is none').not.toEqual(sorted(step[1].alive)) // prettier-ignore
            expect(held(leases), `gc ${collected}: ${different?.why ?? 'as theirs'}`).toEqual(different?.alive ?? sorted(step[1].alive)) // prettier-ignore
            collected++
          }
        }
      }
      expect(refused).toEqual(refusals[title] ?? [])
    })
  }
})

function sorted(names: Names): Names {
  return Object.fromEntries(Object.entries(names).map(([address, all]) => [address, [...all].sort()]))
}

test('what is past its TTL is apart from what is not, and stays for a while: their zombies, our grace', () => {
  now = 0
  refused = []
  const leases = makeLeases(() => now, () => 1, { ...limits, graceSeconds: 30 }, () => false) // prettier-ignore
  for (const step of vectors.cacheCascade.steps) {
    if (step[0] === 'update') {
      const [, moment, name, addresses, ttlSeconds] = step
      now = moment * 1000
      learn(leases, name, addresses, ttlSeconds)
      continue
    }
    const [, moment, { cacheHas, zombiesAlive }] = step
    pass(leases, moment - now / 1000)
    expect(Object.keys(held(leases, (deadline) => deadline > now)).sort()).toEqual(cacheHas)
    expect(Object.keys(held(leases, (deadline) => deadline <= now)).sort()).toEqual(zombiesAlive)
  }
  expect(refused).toEqual([])
})

test('more addresses of a name than it may have: what is unexpired stays, and newer answers are refused', () => {
  const { minTTL, perHostLimit, afterGC } = vectors.overlimitNewest
  expect(afterGC['cache']).toBe('1.1.1.16..20 (5 kept)')
  now = 0
  refused = []
  const leases = makeLeases(() => now, () => 1, { ...limits, graceSeconds: 30, ttlMinSeconds: minTTL, addressesPerNameMax: perHostLimit }, () => false) // prettier-ignore
  const addresses = Array.from({ length: 20 }, (_, i) => `1.1.1.${i + 1}`)
  for (const address of addresses) {
    learn(leases, 'test.com', [address], 0)
    now += 1000
  }
  // Theirs keeps the newest five, five more as zombies, and forgets ten whose least TTL of 100 s has hardly begun: whoever was told those loses them.
  expect(Object.keys(held(leases))).toEqual(addresses.slice(0, perHostLimit))
  expect(refused).toHaveLength(20 - perHostLimit)
  // Past their TTL and half the grace they make room for the newest.
  now = 130_000
  for (const address of addresses.slice(-perHostLimit)) learn(leases, 'test.com', [address], 0)
  expect(Object.keys(held(leases)).sort()).toEqual(addresses.slice(-perHostLimit))
})

test('which selectors a name has', () => {
  const selectors = vectors.labels.selectors.map((text) => text.replace(/^match(Name|Pattern) /, ''))
  const trie = makeTrie(selectors.map((pattern) => ({ pattern: readPattern(pattern), value: `fqdn:${pattern}` })))
  for (const [name, labels] of Object.entries(vectors.labels.expect)) {
    const found = trie.lookup(labelsOf(wireFromText(name) ?? expect.fail(name)))
    expect([...found].sort(), name).toEqual([...labels].sort())
  }
})
