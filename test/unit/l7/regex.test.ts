// What RE2 accepts and refuses, and that it matches in full: against the words of Go's regexp, and against JavaScript where both agree.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkRegex, compileRegex, regexCharactersMax } from '../../../src/l7/regex.ts'

const refused = [
  { text: 'a(?=b)', message: 'error parsing regexp: invalid or unsupported Perl syntax: `(?=`' },
  { text: '(?!a)b', message: 'error parsing regexp: invalid or unsupported Perl syntax: `(?!`' },
  { text: '(?<=a)b', message: 'error parsing regexp: invalid named capture: `(?<=a)b`' },
  { text: '(a)\\1', message: 'error parsing regexp: invalid escape sequence: `\\1`' },
  { text: '\\u0041', message: 'error parsing regexp: invalid escape sequence: `\\u`' },
  { text: 'a{1001}', message: 'error parsing regexp: invalid repeat count: `{1001}`' },
  { text: '*', message: 'error parsing regexp: missing argument to repetition operator: `*`' },
  { text: 'a**', message: 'error parsing regexp: invalid nested repetition operator: `**`' },
  { text: '(a', message: 'error parsing regexp: missing closing ): `(a`' },
  { text: 'a)', message: 'error parsing regexp: unexpected ): `a)`' },
  { text: '[a', message: 'error parsing regexp: missing closing ]: `[a`' },
  { text: '[z-a]', message: 'error parsing regexp: invalid character class range: `z-a`' },
  { text: 'a\\', message: 'error parsing regexp: trailing backslash at end of expression' },
  { text: '(((a?){0,10}){0,10}){0,10}'.repeat(4), message: 'error parsing regexp: expression too large' },
  { text: 'a'.repeat(regexCharactersMax + 1), message: `error parsing regexp: expression too large: ${regexCharactersMax + 1} characters, the most is ${regexCharactersMax}` },
] // prettier-ignore
describe('refused', () => {
  for (const { text, message } of refused)
    test(text.slice(0, 30), () => {
      expect(checkRegex(text)).toBe(message)
      // Unchecked it matches nothing, not even itself.
      if (text.length <= regexCharactersMax) expect(compileRegex(text)(text)).toBe(false)
    })
})

const rows = [
  { text: '/public', match: ['/public'], not: ['/public/', '/public?x=1', '/Public', 'x/public', ''] },
  { text: 'GET|HEAD', match: ['GET', 'HEAD'], not: ['get', 'GETHEAD', 'GET|HEAD', 'POST'] },
  { text: '/a|/b.*', match: ['/a', '/b', '/bc'], not: ['/ac', '/b\n', 'x/b'] },
  { text: 'a|ab', match: ['a', 'ab'], not: ['b', 'abb'] },
  { text: 'api.example.com', match: ['api.example.com', 'apiXexample.com'], not: ['api.example.com:80'] },
  { text: '^/x$', match: ['/x'], not: ['/x\n', '/xx'] },
  { text: '(?i)/abc', match: ['/ABC', '/abc'], not: ['/abd'] },
  { text: '\\pN+', match: ['12', '٣'], not: ['a', ''] },
  { text: '/[[:alpha:]]+', match: ['/aB'], not: ['/1'] },
  { text: '\\Qa.b\\E', match: ['a.b'], not: ['axb'] },
  { text: '(?P<v>v\\d)/x', match: ['v1/x'], not: ['v/x'] },
  { text: '/é.', match: ['/é💩'], not: ['/é'] },
  { text: 'a{,3}', match: ['a{,3}'], not: ['a', 'aaa'] },
  { text: '.*', match: ['', '/x?y=%0A'], not: ['a\nb'] },
]
describe('full match', () => {
  for (const { text, match, not } of rows)
    test(text, () => {
      expect(checkRegex(text)).toBeUndefined()
      const matches = compileRegex(text)
      for (const subject of match) expect(matches(subject), `matches ${subject}`).toBe(true)
      for (const subject of not) expect(matches(subject), `does not match ${subject}`).toBe(false)
    })
})

test('any expression of the common core, any text: as JavaScript with ^(?:…)$', () => {
  const atom = fc.constantFrom('a', 'b', 'ab', '.', '[ab]', '[^a]', 'GET', '/', '\\.', '\\d')
  const { expression } = fc.letrec<{ expression: string }>((tie) => ({
    expression: fc.oneof(
      { maxDepth: 3, withCrossShrink: true },
      atom,
      fc.tuple(tie('expression'), tie('expression')).map(([a, b]) => `${a}${b}`),
      fc.tuple(tie('expression'), tie('expression')).map(([a, b]) => `${a}|${b}`),
      fc.tuple(tie('expression'), fc.constantFrom('*', '+', '?', '{2}', '{1,2}')).map(([a, times]) => `(${a})${times}`),
    ),
  }))
  const subject = fc.string({ unit: fc.constantFrom('a', 'b', 'GET', '/', '.', '1'), maxLength: 8 })
  fc.assert(
    fc.property(expression, subject, (text, subject) => {
      const inFull = new RegExp(`^(?:${text})$`, 'u') // eslint-disable-line no-restricted-syntax
      expect(checkRegex(text)).toBeUndefined()
      expect(compileRegex(text)(subject)).toBe(inFull.test(subject))
    }),
    { numRuns: 5000 },
  )
})

test('any text at all is either refused in words or matches without a throw', () => {
  const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 20 }), fc.string({ unit: fc.constantFrom(...'\\()[]{}*+?|^$.-a0:<=!PQpk,'), maxLength: 12 })) // prettier-ignore
  fc.assert(
    fc.property(text, fc.string({ maxLength: 20 }), (text, subject) => {
      const fault = checkRegex(text)
      if (fault !== undefined) expect(fault).toMatch(/^error parsing regexp: ./)
      expect([true, false]).toContain(compileRegex(text)(subject))
    }),
    { numRuns: 5000 },
  )
})

// Each of these holds a backtracking matcher up for longer than the universe has been there.
for (const text of ['(a*)*b', '(x+x+)+y', '(a|a)*b', '(?:a?){500}a{500}b', '.*.*.*.*.*.*=.*'])
  test(`${text} ends`, () => expect(compileRegex(text)(`${'a'.repeat(2000)}x`)).toBe(false))

test('a text too long for a large expression does not match, however it reads', () => {
  const matches = compileRegex('[a-z]{0,1000}'.repeat(4))
  expect(matches('a'.repeat(100))).toBe(true)
  expect(matches('a'.repeat(3900))).toBe(false)
  expect(compileRegex('[a-z]*')('a'.repeat(60_000))).toBe(true)
})
