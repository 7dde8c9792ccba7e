// Patterns against Cilium's own expectations, and the trie against a matcher that tries one pattern after the other.
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { checkPattern, readPattern } from '../../../src/match/pattern.ts'
import { makeTrie } from '../../../src/match/trie.ts'
import { labelsOf, wireFromText } from '../../../src/wire/name.ts'

interface Vectors {
  cases: { pattern: string; accept: string[]; reject: string[] }[]
}
const vectors = (file: string): Vectors['cases'] => (JSON.parse(readFileSync(new URL(`../../vectors/${file}`, import.meta.url), 'utf8')) as Vectors).cases // prettier-ignore

/** Labels as the wire would give them; names that no wire can carry (an empty label) are cut at their dots. */
function labels(name: string): string[] {
  const wire = wireFromText(name)
  return wire === undefined ? name.replace(/\.$/, '').toLowerCase().split('.') : labelsOf(wire)
}
const matches = (pattern: string, name: string): boolean =>
  makeTrie([{ pattern: readPattern(pattern), value: 1 }]).lookup(labels(name)).length > 0
/** Cilium matches text with a final dot; text without one, or empty, is no name here and cannot come from a message. */
const isName = (text: string): boolean => text.endsWith('.')

for (const file of ['fqdn-matchpattern.json', 'fqdn-match-derived.json'])
  describe(file, () => {
    for (const { pattern, accept, reject } of vectors(file))
      test(`'${pattern}'`, () => {
        for (const name of accept.filter(isName)) expect(matches(pattern, name), `accepts ${name}`).toBe(true)
        for (const name of reject.filter(isName)) expect(matches(pattern, name), `rejects ${name}`).toBe(false)
      })
  })

test('a label with a dot in it is not two labels', () => {
  expect(matches('a.b.example', 'a\\.b.example.')).toBe(false)
  expect(matches('*.example', 'a\\.b.example.')).toBe(false)
  expect(matches('**.example', 'a\\.b.example.')).toBe(false)
})

const faults = [
  { text: 'a b.com', field: 'matchName', message: 'Invalid characters in MatchName: "a b.com". Only 0-9, a-z, A-Z and ., -, _ characters are allowed' },
  { text: '*.com', field: 'matchName', message: 'Invalid characters in MatchName: "*.com". Only 0-9, a-z, A-Z and ., -, _ characters are allowed' },
  { text: 'a[b].com', field: 'matchPattern', message: 'Invalid characters in MatchPattern: "a[b].com". Only 0-9, a-z, A-Z and ., -, _ and * characters are allowed' },
  { text: 'x'.repeat(256), field: 'matchPattern', message: `Invalid MatchPattern: "${'x'.repeat(256)}". Must be <= 255 characters long.` },
  { text: '.com', field: 'matchName', message: "should match '^([-a-zA-Z0-9_]+[.]?)+$': a label is empty" },
  { text: 'a..com', field: 'matchPattern', message: "should match '^([-a-zA-Z0-9_*]+[.]?)+$': a label is empty" },
  { text: '', field: 'matchName', message: "should match '^([-a-zA-Z0-9_]+[.]?)+$': a label is empty" },
  { text: 'Example.COM.', field: 'matchName', message: undefined },
  { text: '**.x_y-1.com', field: 'matchPattern', message: undefined },
] as const // prettier-ignore
for (const { text, field, message } of faults)
  test(`${field} '${text.slice(0, 20)}'`, () => expect(checkPattern(text, field)).toBe(message))

/** Cilium's conversion, literally; only for the short patterns of the property below. */
function asRegExp(pattern: string): RegExp {
  const CH = '[-a-z0-9_]'
  if (/^[*]+[.]?$/.test(pattern)) return new RegExp(`(^(${CH}+[.])+$)|(^[.]$)`) // eslint-disable-line no-restricted-syntax
  const dotted = pattern.endsWith('.') ? pattern : `${pattern}.`
  const prefix = /^[*]{2,}[.]/.exec(dotted)?.[0] ?? ''
  const rest = dotted.slice(prefix.length).replaceAll('.', '[.]').replace(/[*]+/g, `${CH}*`)
  return new RegExp(`^${prefix === '' ? '' : `(${CH}+([.]${CH}+){0,})[.]`}${rest}$`) // eslint-disable-line no-restricted-syntax
}

test('any patterns, any name: the trie finds what trying them one by one finds', () => {
  const piece = fc.constantFrom('a', 'b', '*', 'ab', '**', 'a*', '*b', 'a*b', '*a*b*', 'a**b')
  const pattern = fc.array(piece, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('.'))
  const name = fc.array(fc.constantFrom('a', 'b', 'ab', 'aab', 'abab', 'ba', 'a b', 'xaxbx'), { maxLength: 4 })
  fc.assert(
    fc.property(fc.array(pattern, { maxLength: 8 }), name, (patterns, labels) => {
      const trie = makeTrie(patterns.map((text) => ({ pattern: readPattern(text), value: text })))
      const text = labels.length === 0 ? '.' : labels.map((label) => `${label.replace(' ', '\\032')}.`).join('')
      expect(trie.lookup(labels).sort()).toEqual(patterns.filter((p) => asRegExp(p).test(text)).sort())
    }),
    { numRuns: 3000 },
  )
})
