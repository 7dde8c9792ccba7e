// Server name patterns against the expectations of Cilium's Envoy filter, and any pattern against its conversion to a regular expression.
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { checkServerName, matchServerName, readServerName } from '../../../src/l7/sni.ts'

interface Case {
  pattern: string
  sni?: string
  match?: boolean
  invalid?: boolean
}
const { cases } = JSON.parse(readFileSync(new URL('../../vectors/sni-match.json', import.meta.url), 'utf8')) as { cases: Case[] } // prettier-ignore
const matches = (pattern: string, name: string): boolean => matchServerName(readServerName(pattern), name)

test('96 vectors are there', () => expect(cases).toHaveLength(96))
for (const { pattern, sni, match, invalid } of cases)
  if (invalid) test(`'${pattern}' is refused`, () => expect(checkServerName(pattern)).toMatch(/^invalid server name /))
  else
    test(`'${pattern}' ${match ? 'matches' : 'does not match'} '${sni}'`, () =>
      expect(matches(pattern, sni ?? '')).toBe(match))

const faults = [
  { text: '', message: 'empty server name is not allowed' },
  { text: 'x'.repeat(256), message: 'Too long: may not be more than 255 characters' },
  { text: 'x'.repeat(255), message: undefined },
  { text: '.example.com', message: 'invalid server name ".example.com": a label is empty' },
  { text: 'a b.com', message: 'invalid server name "a b.com": only 0-9, a-z, A-Z and ., -, _ and * characters are allowed' },
  { text: 'a**.com', message: 'invalid server name "a**.com": ** stands for whole labels and must be alone between dots' },
  { text: '**', message: undefined },
  { text: 'a.**.b', message: undefined },
  { text: '**.**', message: undefined },
  { text: '_x-*y*.EXAMPLE', message: undefined },
] // prettier-ignore
for (const { text, message } of faults)
  test(`pattern '${text.slice(0, 20)}'`, () => expect(checkServerName(text)).toBe(message))

const rows = [
  // Only ASCII has cases here: the Kelvin sign in lower case would be a k.
  { pattern: 'k.example', name: '\u212a.example', match: false },
  { pattern: '*.example', name: '\u212a.example', match: false },
  { pattern: '*.example', name: `${'a'.repeat(300)}.example`, match: false },
  { pattern: '**.**', name: 'a', match: false },
  { pattern: '**.**', name: 'a.b', match: true },
  { pattern: '**.**', name: 'a.b.c', match: true },
  { pattern: '**.a.**', name: 'b.a.a.b', match: true },
  { pattern: '**.a.**', name: 'a.b', match: false },
  { pattern: 'ab*ba', name: 'aba', match: false },
  { pattern: 'a*bc*c', name: 'abc', match: false },
]
for (const { pattern, name, match } of rows)
  test(`'${pattern}' and '${name.slice(0, 20)}'`, () => expect(matches(pattern, name)).toBe(match))

/** The filter's own conversion, literally; only for the short patterns of the property below. */
function asRegExp(pattern: string): RegExp {
  const deep = '[-a-z0-9_]+([.][-a-z0-9_]+)*'
  const converted = pattern.toLowerCase().replace(/[.]|[*][*]|[*]/g, (c) => (c === '.' ? '[.]' : c === '**' ? deep : '[-a-z0-9_]*')) // prettier-ignore
  return new RegExp(`^(?:${pattern === '*' ? deep : converted})$`) // eslint-disable-line no-restricted-syntax
}

test('any pattern that is not refused, any name: the same as its regular expression', () => {
  const part = fc.constantFrom('*', '**', 'a', 'b', 'aB', 'a*', '*b', 'a*b', '*a*b*', 'ab*ba', '-', '_*')
  const pattern = fc.array(part, { minLength: 1, maxLength: 5 }).map((parts) => parts.join('.'))
  const label = fc.constantFrom('', 'a', 'b', 'ab', 'AB', 'abab', 'ba', 'xaxbx', '_', '-', 'a b', 'é')
  const name = fc.array(label, { maxLength: 6 }).map((labels) => labels.join('.'))
  fc.assert(
    fc.property(pattern, name, (pattern, name) => {
      expect(checkServerName(pattern)).toBeUndefined()
      expect(matches(pattern, name)).toBe(name !== '' && asRegExp(pattern).test(name.toLowerCase()))
    }),
    { numRuns: 5000 },
  )
})

test('any text but none: refused exactly where the filter refuses it', () => {
  const valid = /^(([*]{1,2}|[*]?[-\w]+([*][-\w]+)*[*]?)[.])*([*]{1,2}|[*]?[-\w]+([*][-\w]+)*[*]?)$/
  const text = fc.string({
    unit: fc.constantFrom('*', '.', 'a', 'Z', '0', '-', '_', ' ', 'é'),
    minLength: 1,
    maxLength: 10,
  })
  fc.assert(
    fc.property(text, (text) => {
      expect(checkServerName(text) === undefined).toBe(valid.test(text))
    }),
    { numRuns: 5000 },
  )
})

// A backtracking matcher needs longer than anyone waits for one of these.
const hostile = [
  { pattern: `${'*a'.repeat(127)}b`, name: 'a'.repeat(255) },
  { pattern: `${'**.'.repeat(84)}b`, name: `${'a.'.repeat(127)}a` },
  { pattern: `${'**.*a*a.'.repeat(31)}b`, name: `${'aaa.'.repeat(63)}a` },
]
for (const { pattern, name } of hostile)
  test(`'${pattern.slice(0, 16)}…' takes no longer than its size`, () => {
    const compiled = readServerName(pattern)
    for (let i = 0; i < 500; i++) expect(matchServerName(compiled, name)).toBe(false)
  })
