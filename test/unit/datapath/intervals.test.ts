// L3/L4 statements against a brute-force reading of the same statements.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { compileIntervals } from '../../../src/datapath/intervals.ts'
import { addressFromNumber } from '../../../src/net/address.ts'
import { portsCover, Protocol, type Ports } from '../../../src/net/ports.ts'
import { prefixFromText, rangeCovers, rangeToText } from '../../../src/net/prefix.ts'
import type { PeerEntry } from '../../../src/policy/egress.ts'

const why = { text: 'test' }
const range = (text: string) => prefixFromText(text) ?? expect.fail(`not a prefix: ${text}`)
const tcp = (first: number, last = first): Ports => ({ kind: 'ports', protocol: Protocol.TCP, first, last })
const entry = (kind: 'allow' | 'deny', prefixes: string[], ports: Ports): PeerEntry => ({
  kind,
  ranges: prefixes.map(range),
  ports,
  why,
})
const show = (entries: PeerEntry[]) => {
  const { boxes, slabs } = compileIntervals(entries, 4)
  return {
    boxes: boxes.map((b) => `${rangeToText(b.range)} ${b.protocol} ${b.first}-${b.last} ${b.verdict}`),
    slabs: slabs.map((s) => `${rangeToText(s.range)} ${s.verdict}`),
  }
}

const rows = [
  { title: 'nothing', entries: [], boxes: [], slabs: [] },
  { title: 'a prefix, any port', entries: [entry('allow', ['10.0.0.0/8'], { kind: 'all' })], boxes: ['10.0.0.0/8 any 0-65535 allow'], slabs: ['10.0.0.0/8 allow'] },
  { title: 'one port leaves ICMP out', entries: [entry('allow', ['10.0.0.0/8'], tcp(443))], boxes: ['10.0.0.0/8 6 443-443 allow'], slabs: [] },
  {
    title: 'deny inside allow',
    entries: [entry('allow', ['10.0.0.0/30'], { kind: 'all' }), entry('deny', ['10.0.0.2'], tcp(80))],
    boxes: ['10.0.0.0/31 any 0-65535 allow', '10.0.0.2 6 0-79 allow', '10.0.0.2 6 80-80 deny', '10.0.0.2 6 81-65535 allow', '10.0.0.2 17 0-65535 allow', '10.0.0.2 132 0-65535 allow', '10.0.0.3 any 0-65535 allow'],
    slabs: ['10.0.0.0/30 allow'],
  },
  { title: 'overlapping ranges of ports join', entries: [entry('allow', ['10.0.0.1'], tcp(80, 90)), entry('allow', ['10.0.0.1'], tcp(85, 99))], boxes: ['10.0.0.1 6 80-99 allow'], slabs: [] },
  { title: 'one entry, overlapping prefixes', entries: [entry('allow', ['10.0.0.0/24', '10.0.0.128/25'], tcp(1))], boxes: ['10.0.0.0/24 6 1-1 allow'], slabs: [] },
  { title: 'the end of the address space', entries: [entry('deny', ['255.255.255.255', '0.0.0.0/1'], tcp(1))], boxes: ['0.0.0.0/1 6 1-1 deny', '255.255.255.255 6 1-1 deny'], slabs: [] },
  { title: 'the other family is not ours', entries: [entry('allow', ['2001:db8::/32'], tcp(1))], boxes: [], slabs: [] },
] // prettier-ignore

for (const { title, entries, boxes, slabs } of rows) test(title, () => expect(show(entries)).toEqual({ boxes, slabs }))

const anyPorts = fc.oneof(
  fc.constant<Ports>({ kind: 'all' }),
  fc
    .record({
      protocol: fc.constantFrom(...Object.values(Protocol)),
      a: fc.integer({ min: 0, max: 7 }),
      b: fc.integer({ min: 0, max: 7 }),
    })
    .map(({ protocol, a, b }): Ports => ({ kind: 'ports', protocol, first: Math.min(a, b), last: Math.max(a, b) })),
)
const anyRange = fc
  .tuple(fc.integer({ min: 0, max: 15 }), fc.integer({ min: 0, max: 15 }))
  .map(([a, b]) => ({ family: 4 as const, first: BigInt(Math.min(a, b)), last: BigInt(Math.max(a, b)) }))
const anyEntry: fc.Arbitrary<PeerEntry> = fc.record({
  kind: fc.constantFrom('allow' as const, 'deny' as const),
  ranges: fc.array(anyRange, { minLength: 1, maxLength: 3 }),
  ports: anyPorts,
  why: fc.constant(why),
})

test('any statements: boxes are disjoint and say what the statements say', () => {
  fc.assert(
    fc.property(fc.array(anyEntry, { maxLength: 6 }), (entries) => {
      const { boxes, slabs } = compileIntervals(entries, 4)
      for (let number = 0n; number < 17n; number++) {
        const address = addressFromNumber(number, 4)
        for (const protocol of [6, 17, 132, 1])
          for (let port = 0; port < 9; port++) {
            const ported = protocol === 1 ? undefined : port
            const covering = entries.filter((e) => e.ranges.some((r) => rangeCovers(r, address)) && portsCover(e.ports, protocol, ported))
            const want = covering.some((e) => e.kind === 'deny') ? 'deny' : covering.length > 0 ? 'allow' : undefined
            const hits = ported === undefined ? slabs.filter((s) => rangeCovers(s.range, address)) : boxes.filter((b) => rangeCovers(b.range, address) && (b.protocol === 'any' || b.protocol === protocol) && b.first <= port && port <= b.last)
            expect(hits.length).toBeLessThanOrEqual(1)
            expect(hits[0]?.verdict).toBe(want)
          }
      }
    }),
    { numRuns: 200 },
  )
}) // prettier-ignore
