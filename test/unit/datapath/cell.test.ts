// Entries in an order, cut into lookups without one: against walking them.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  addEntries,
  cellOf,
  cellVerdict,
  compileCell,
  differenceTo,
  nothing,
  walk,
  type CellVerdict,
  type Tail,
} from '../../../src/datapath/cell.ts'
import { portsCover, portsToText, Protocol, type L4, type Ports } from '../../../src/net/ports.ts'
import { Tier, type L7 } from '../../../src/policy/rules.ts'
import type { Entry } from '../../../src/policy/snapshot.ts'
import { entry, tcp } from '../../support/snapshot.ts'

const all: Ports = { kind: 'all' }
const http: L7 = { kind: 'http', rules: [] }
const dns: L7 = { kind: 'dns', rules: [] }
const denied: Tail = { fallback: 'deny', names: [] }
const named: Tail = { fallback: 'deny', names: [{ tier: Tier.Normal, priority: 0 }] }
const allow = (ports: Ports, more: Partial<Entry> = {}): Entry => entry('allow', 'everyone', ports, more)
const deny = (ports: Ports, more: Partial<Entry> = {}): Entry => entry('deny', 'everyone', ports, more)
const pass = (ports: Ports, more: Partial<Entry> = {}): Entry => entry('pass', 'everyone', ports, more)
const admin = { tier: Tier.Admin }
const baseline = { tier: Tier.Baseline }

const show = (entries: readonly Entry[], tail = denied): string[] => {
  const { rest, protocols, ports, icmp } = compileCell(entries, tail)
  return [
    ...ports.map(({ verdict, ...span }) => `${portsToText({ kind: 'ports', ...span })} ${verdict}`),
    ...icmp.map(({ verdict, ...one }) => `${portsToText({ kind: 'icmp', ...one })} ${verdict}`),
    ...[...protocols].map(([protocol, verdict]) => `${protocol} ${verdict}`),
    `rest ${rest}`,
  ]
}

const rows: { title: string; entries: Entry[]; tail?: Tail; cell: string[] }[] = [
  { title: 'nothing', entries: [], cell: ['rest deny'] },
  { title: 'nothing denies', entries: [], tail: { fallback: 'allow', names: [] }, cell: ['rest allow'] },
  { title: 'nothing, but a name', entries: [], tail: named, cell: ['rest lease'] },
  { title: 'everything', entries: [allow(all)], cell: ['rest allow'] },
  { title: 'a port', entries: [allow(tcp(443))], cell: ['tcp/443 allow', 'rest deny'] },
  { title: 'every port is not ICMP', entries: [allow(tcp(0, 65535))], cell: ['6 allow', 'rest deny'] },
  { title: 'all but a port', entries: [deny(tcp(25)), allow(all)], cell: ['tcp/25 deny', 'rest allow'] },
  { title: 'all of a protocol but some ports', entries: [deny(tcp(20, 30)), allow(tcp(0, 65535))], cell: ['tcp/20-30 deny', '6 allow', 'rest deny'] },
  { title: 'ranges join', entries: [allow(tcp(80, 90)), allow(tcp(85, 99))], cell: ['tcp/80-99 allow', 'rest deny'] },
  { title: 'a type of ICMP', entries: [allow({ kind: 'icmp', family: 4, type: 8 })], cell: ['icmp type 8 allow', 'rest deny'] },
  { title: 'ICMP but a type', entries: [deny({ kind: 'icmp', family: 6, type: 128 }), allow({ kind: 'protocol', protocol: 58 })], cell: ['icmpv6 type 128 deny', '58 allow', 'rest deny'] },
  { title: 'a protocol without ports', entries: [allow({ kind: 'protocol', protocol: 47 })], cell: ['47 allow', 'rest deny'] },
  { title: 'Admin before Normal', entries: [allow(tcp(22), admin), deny(all)], cell: ['tcp/22 allow', 'rest deny'] },
  { title: 'passed on to Normal', entries: [pass(tcp(22), admin), deny(all, admin), allow(all)], cell: ['tcp/22 allow', 'rest deny'] },
  { title: 'passed on to the end', entries: [pass(all, baseline), deny(all, { ...baseline, priority: 1 })], tail: { fallback: 'allow', names: [] }, cell: ['rest allow'] },
  { title: 'a lower number goes first', entries: [allow(all, { ...admin, priority: 1 }), deny(all, { ...admin, priority: 2 })], cell: ['rest allow'] },
  { title: 'what a proxy must see is not allowed', entries: [allow(tcp(80), { l7: http })], cell: ['rest deny'] },
  { title: 'unless the same level allows it without', entries: [allow(tcp(80), { l7: http }), allow(tcp(80))], cell: ['tcp/80 allow', 'rest deny'] },
  { title: 'beside DNS rules only on exactly the port', entries: [allow(tcp(5353), { l7: dns }), allow(all)], cell: ['tcp/5353 deny', 'rest allow'] },
  { title: 'a later level is not asked', entries: [allow(tcp(80), { ...admin, l7: http }), allow(tcp(80))], cell: ['rest deny'] },
  { title: 'names: a denial of their tier beats leases', entries: [deny(tcp(25))], tail: named, cell: ['tcp/25 deny', 'rest lease'] },
  { title: 'names: Baseline comes after leases', entries: [deny(all, baseline)], tail: named, cell: ['rest lease'] },
  { title: 'names: beside what a proxy must see', entries: [allow(tcp(80), { l7: http })], tail: named, cell: ['rest lease'] },
  { title: 'names: skipped by a pass before them', entries: [pass(all, admin)], tail: { fallback: 'deny', names: [{ tier: Tier.Admin, priority: 1 }] }, cell: ['rest deny'] },
  { title: 'names: on both sides of a denial, closed', entries: [deny(tcp(1))], tail: { fallback: 'deny', names: [{ tier: Tier.Admin, priority: 1 }, { tier: Tier.Baseline, priority: 1 }] }, cell: ['tcp/1 deny', 'rest lease'] },
] // prettier-ignore

for (const { title, entries, tail, cell } of rows) test(title, () => expect(show(entries, tail)).toEqual(cell))

const anyPorts: fc.Arbitrary<Ports> = fc.oneof(
  fc.constant<Ports>({ kind: 'all' }),
  fc
    .tuple(fc.constantFrom(...Object.values(Protocol)), fc.integer({ min: 0, max: 7 }), fc.constantFrom(0, 1, 3, 65535))
    .map(([protocol, first, more]): Ports => ({ kind: 'ports', protocol, first, last: Math.min(65535, first + more) })),
  fc.record({ kind: fc.constant('icmp'), family: fc.constantFrom(4 as const, 6 as const), type: fc.constantFrom(0, 8) }), // prettier-ignore
  fc.record({ kind: fc.constant('protocol'), protocol: fc.constantFrom(1, 6, 47, 58) }),
)
const orderOfKinds = { deny: 0, allow: 1, pass: 2 }

/** In the order that compiling gives. */
const anyEntries = fc
  .array(
    fc
      .record({
        kind: fc.constantFrom('allow' as const, 'deny' as const, 'pass' as const),
        tier: fc.constantFrom(...Object.values(Tier)),
        priority: fc.integer({ min: 0, max: 2 }),
        ports: anyPorts,
        proxied: fc.boolean(),
      })
      .map(({ kind, ports, proxied, ...rank }) =>
        entry(kind, 'everyone', ports, { ...rank, ...(kind === 'allow' && proxied ? { l7: http } : {}) }),
      ),
    { maxLength: 7 },
  )
  .map((entries) => entries.sort((a, b) => a.tier - b.tier || a.priority - b.priority || orderOfKinds[a.kind] - orderOfKinds[b.kind])) // prettier-ignore
const anyTail: fc.Arbitrary<Tail> = fc.record({
  fallback: fc.constantFrom('allow', 'deny'),
  names: fc.constantFrom([], [{ tier: Tier.Normal, priority: 0 }], [{ tier: Tier.Admin, priority: 1 }, { tier: Tier.Normal, priority: 0 }]), // prettier-ignore
})
const packets: readonly L4[] = [
  ...[6, 17, 132].flatMap((protocol) => [0, 1, 2, 3, 5, 7, 8, 10, 11, 65535].map((port) => ({ protocol, port }))),
  ...[1, 58].flatMap((protocol) => [0, 3, 8].map((icmpType) => ({ protocol, icmpType }))),
  { protocol: 47 },
  { protocol: 50 },
]

test('any entries: the cell says of each packet what walking them says', () => {
  fc.assert(
    fc.property(anyEntries, anyTail, (entries, tail) => {
      const cell = compileCell(entries, tail)
      for (const l4 of packets)
        expect([l4, cellVerdict(cell, l4)]).toEqual([
          l4,
          walk(
            entries.filter((one) => portsCover(one.ports, l4)),
            tail,
          ),
        ])
    }),
    { numRuns: 1000 },
  )
})

test('any two cells: the difference on top of the one says what the other says', () => {
  fc.assert(
    fc.property(anyEntries, anyEntries, anyTail, (entries, others, tail) => {
      const [cell, under] = [compileCell(entries, tail), compileCell(others, tail)]
      const { rest, ...difference } = differenceTo(cell, under)
      for (const l4 of packets) {
        const nowhere = 'nowhere' as CellVerdict
        const said = cellVerdict({ ...difference, rest: rest ?? nowhere }, l4)
        expect([l4, said === nowhere ? cellVerdict(under, l4) : said]).toEqual([l4, cellVerdict(cell, l4)])
      }
    }),
    { numRuns: 1000 },
  )
})

test('any entries: added on top of others they decide as if they had been there from the start', () => {
  fc.assert(
    fc.property(anyEntries, anyTail, fc.infiniteStream(fc.boolean()), (entries, tail, coins) => {
      const placed = entries.map((one, at) => ({ at, entry: one }))
      const below = placed.filter(() => coins.next().value === true)
      const above = placed.filter((one) => !below.includes(one))
      const cell = cellOf(addEntries(addEntries(nothing, below), above), tail)
      for (const l4 of packets) expect([l4, cellVerdict(cell, l4)]).toEqual([l4, cellVerdict(compileCell(entries, tail), l4)]) // prettier-ignore
    }),
    { numRuns: 500 },
  )
})

test('any entries: without leases and proxies the first that covers decides, and a pass skips its tier', () => {
  fc.assert(
    fc.property(anyEntries, fc.constantFrom(...packets), (entries, l4) => {
      const covering = entries.filter((one) => one.l7 === undefined && portsCover(one.ports, l4))
      let left = covering
      while (left[0]?.kind === 'pass') left = left.filter((one) => one.tier !== left[0]?.tier)
      expect(walk(covering, denied)).toBe(left[0]?.kind ?? 'deny')
    }),
    { numRuns: 1000 },
  )
})
