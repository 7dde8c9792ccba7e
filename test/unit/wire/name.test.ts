// Names: what is read, what is refused, and that text and octets say the same.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  isUnder,
  labelsOf,
  nameFromLabels,
  nameOctetsMax,
  numberOfName,
  readName,
  wireFromText,
  type WireName,
} from '../../../src/wire/name.ts'
import { nameOctets, pointer } from './build.ts'

const octets = (...parts: (number | number[] | string)[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((p) => (typeof p === 'string' ? [...Buffer.from(p, 'latin1')] : p)))
const label = (length: number): number[] => [length, ...Array<number>(length).fill(0x61)]
/** Stands before every name. */
const header = Array<number>(12).fill(0)
/** A pointer to an octet behind the header. */
const to = (at: number): number[] => pointer(header.length + at)
/** A root at 0, then pointers, each to the one before; the name begins at the last. */
const chained = (count: number): { wire: Uint8Array; at: number } => ({
  wire: octets(0, 0, ...Array.from({ length: count }, (_, i) => to(i * 2))),
  at: count * 2,
})

describe('readName', () => {
  const longest = octets(label(63), label(63), label(63), label(61), 0)
  const rows: { title: string; wire: Uint8Array; at?: number; want: string | undefined; end?: number }[] = [
    { title: 'labels', wire: octets(3, 'www', 2, 'de', 0), want: 'www.de', end: 8 },
    { title: 'the root', wire: octets(0), want: '.', end: 1 },
    { title: 'ASCII case is folded (RFC 4343)', wire: octets(3, 'wWw', 2, 'DE', 0), want: 'www.de', end: 8 },
    { title: 'no other case is', wire: octets(2, 0xc4, 0xdc, 0), want: '\\196\\220', end: 4 },
    { title: 'octets next to the letters are not folded', wire: octets(2, '@[', 0), want: '@[', end: 4 },
    { title: 'a pointer', wire: octets(2, 'de', 0, 3, 'www', to(0)), at: 4, want: 'www.de', end: 10 },
    { title: 'a pointer to a pointer', wire: octets(2, 'de', 0, to(0), 1, 'x', to(4)), at: 6, want: 'x.de', end: 10 }, // prettier-ignore
    { title: 'a pointer to itself', wire: octets(to(0)), want: undefined },
    { title: 'a pointer to the labels before it', wire: octets(1, 'a', to(0)), want: undefined },
    { title: 'a pointer forward', wire: octets(to(2), 0), want: undefined },
    { title: 'two pointers at each other', wire: octets(to(2), to(0)), at: 2, want: undefined },
    { title: 'a pointer into the header', wire: octets(pointer(11)), want: undefined },
    { title: 'a pointer of one octet', wire: octets(0, 0xc0), at: 1, want: undefined },
    { title: '126 pointers', ...chained(126), want: '.', end: 254 },
    { title: '127 pointers', ...chained(127), want: undefined },
    { title: 'no octet at all', wire: octets(), want: undefined },
    { title: 'a label that is cut off', wire: octets(3, 'ww'), want: undefined },
    { title: 'labels without an end', wire: octets(3, 'www'), want: undefined },
    { title: 'label type 01 (RFC 6891 §5)', wire: octets(0x41, 0, 0), want: undefined },
    { title: 'label type 10', wire: octets(0x80, 0, 0), want: undefined },
    { title: '255 octets', wire: longest, want: nameFromLabels(['a'.repeat(63), 'a'.repeat(63), 'a'.repeat(63), 'a'.repeat(61)]), end: 255 }, // prettier-ignore
    { title: '256 octets', wire: octets(label(63), label(63), label(63), label(62), 0), want: undefined },
    { title: '256 octets by a pointer', wire: octets([...longest], 1, 'a', to(0)), at: 255, want: undefined },
    { title: 'dots and backslashes inside a label', wire: octets(3, 'a.b', 2, '\\x', 0), want: 'a\\.b.\\\\x', end: 8 },
    {
      title: 'octets that do not print',
      wire: octets(4, 0, 0x20, 0x7f, 0xff, 0),
      want: '\\000\\032\\127\\255',
      end: 6,
    },
  ]
  for (const { title, wire, at = 0, want, end } of rows)
    test(title, () => {
      const read = readName(octets(header, [...wire]), at + header.length)
      expect(read && nameFromLabels(labelsOf(read.wire))).toBe(want)
      expect(read && read.end - header.length).toBe(end)
    })

  test('any octets: a bounded name or nothing', () => {
    // Many pointers and short labels, so that most of what is tried goes somewhere.
    const octet = fc.oneof(fc.constantFrom(0, 1, 2, 0xc0, 0xc1), fc.nat(255))
    fc.assert(
      fc.property(fc.array(octet, { maxLength: 600 }), fc.nat(620), (values, at) => {
        const wire = Uint8Array.from(values)
        const read = readName(wire, at)
        if (read === undefined) return
        expect(read.end).toBeLessThanOrEqual(wire.length)
        expect(read.end).toBeGreaterThan(at)
        expect(read.wire.length).toBeLessThanOrEqual(nameOctetsMax)
        expect(readName(octets(read.wire), 0)?.wire).toBe(read.wire)
      }),
    )
  })
})

describe('text', () => {
  const rows: [text: string, labels: string[] | undefined][] = [
    ['.', []],
    ['de', ['de']],
    ['WWW.de.', ['www', 'de']],
    ['a\\.b.de', ['a.b', 'de']],
    ['a\\\\.de', ['a\\', 'de']],
    ['\\000\\255.de', ['\0\xff', 'de']],
    ['\\065.de', ['a', 'de']],
    ['ä.de', ['\xe4', 'de']],
    ['x'.repeat(63), ['x'.repeat(63)]],
    ['', undefined],
    ['..', undefined],
    ['.de', undefined],
    ['a..de', undefined],
    ['a.de..', undefined],
    ['x'.repeat(64), undefined],
    [`${'x'.repeat(64)}.de`, undefined],
    [Array(127).fill('a').join('.'), Array<string>(127).fill('a')],
    [Array(128).fill('a').join('.'), undefined],
    ['a\\', undefined],
    ['a\\2', undefined],
    ['a\\25', undefined],
    ['a\\256', undefined],
    ['\u20ac.de', undefined],
    ['\\\u20ac.de', undefined],
  ]
  for (const [text, labels] of rows)
    test(JSON.stringify(text.length > 30 ? `${text.slice(0, 20)}… (${text.length})` : text), () => {
      const wire = wireFromText(text)
      expect(wire && labelsOf(wire)).toEqual(labels)
    })

  const someLabels = fc
    .array(fc.array(fc.nat(255), { minLength: 1, maxLength: 20 }), { maxLength: 8 })
    .map((labels) => labels.map((codes) => String.fromCharCode(...codes)))
  const fold = (labels: string[]): string[] => labels.map((l) => l.replace(/[A-Z]/g, (c) => c.toLowerCase()))

  test('of any name is read back as the same name', () => {
    fc.assert(
      fc.property(someLabels, (labels) => {
        const read = wireFromText(nameFromLabels(fold(labels)))
        expect(read && labelsOf(read)).toEqual(fold(labels))
      }),
    )
  })

  test('is equal only for equal labels', () => {
    const close = fc.array(fc.stringMatching(/^[a.\\0]{1,4}$/), { maxLength: 3 })
    fc.assert(
      fc.property(close, close, (one, other) => {
        const sameText = nameFromLabels(one) === nameFromLabels(other)
        expect(sameText).toBe(JSON.stringify(one) === JSON.stringify(other))
      }),
      { numRuns: 2000 },
    )
  })
})

describe('isUnder', () => {
  const rows: [name: string, ancestor: string, want: boolean][] = [
    ['a.b.de', 'b.de', true],
    ['a.b.de', 'a.b.de', true],
    ['a.b.de', '.', true],
    ['.', '.', true],
    ['b.de', 'a.b.de', false],
    ['ab.de', 'b.de', false],
    ['a.b.de', 'a.de', false],
  ]
  for (const [name, ancestor, want] of rows)
    test(`${name} under ${ancestor}: ${want}`, () =>
      expect(isUnder(wireFromText(name) ?? raise(), wireFromText(ancestor) ?? raise())).toBe(want))

  test('a tail that begins inside a label is none', () => {
    // The label "x\x01b" ends in the octets of the name "b".
    const name = String.fromCharCode(3, 0x78, 1, 0x62, 0) as WireName
    expect(isUnder(name, String.fromCharCode(...nameOctets('b')) as WireName)).toBe(false)
  })
})

const raise = (): never => {
  throw new Error('not a name')
}

test('numbers of names: few are alike, whatever the seed, and which are depends on it', () => {
  const names = Array.from({ length: 100_000 }, (_, i) => wireFromText(`m${i}.p${i % 1000}.example.org`) as WireName)
  const alike = (seed: number): string[] => {
    const first = new Map<number, string>()
    return names.filter((name) => {
      const number = numberOfName(name, seed)
      expect(number | 0).toBe(number)
      if (first.has(number)) return true
      first.set(number, name)
      return false
    })
  }
  // 1.2 of 100 000 on average.
  const [one, other] = [alike(0), alike(0x9abcdef0)]
  expect(one.length).toBeLessThan(10)
  expect(other.length).toBeLessThan(10)
  expect(one.filter((name) => other.includes(name))).toEqual([])
})
