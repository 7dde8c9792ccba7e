// HTTP rules against requests: fields, headers, what is done to headers, secrets; and lists of rules against a matcher that is all there is.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  compileHttp,
  matchHttp,
  readHeader,
  type HeaderMatch,
  type HttpMatch,
  type HttpPattern,
  type HttpRequest,
} from '../../../src/l7/http.ts'

const rule = (fields: Partial<HttpPattern> = {}): HttpPattern => ({ headers: [], headerMatches: [], ...fields })
const header = (...headers: string[]): HttpPattern => rule({ headers: headers.map(readHeader) })
const match = (...headerMatches: HeaderMatch[]): HttpPattern => rule({ headerMatches })
const noSecrets = (): undefined => undefined
const evaluate = (rules: HttpPattern[], request: HttpRequest, secrets: (name: string) => string | undefined = noSecrets): HttpMatch => matchHttp(compileHttp(rules), request, secrets) // prettier-ignore

const get: HttpRequest = {
  method: 'GET',
  path: '/public?x=1',
  host: 'api.example.com:8080',
  headers: [['X-Token', 'abc']],
}
const rows: { title: string; rules: HttpPattern[]; request?: HttpRequest; want: number | undefined }[] = [
  { title: 'no rules let nothing pass', rules: [], want: undefined },
  { title: 'an empty rule is every request', rules: [rule()], want: 0 },
  { title: 'empty texts are not set', rules: [rule({ pathRegex: '', methodRegex: '', hostRegex: '' })], want: 0 },
  { title: 'the path includes the query', rules: [rule({ pathRegex: '/public' })], want: undefined },
  { title: 'a pattern for the query', rules: [rule({ pathRegex: '/public([?].*)?' })], want: 0 },
  { title: 'methods have a case', rules: [rule({ methodRegex: 'get' })], want: undefined },
  { title: 'one of two methods', rules: [rule({ methodRegex: 'HEAD|GET' })], want: 0 },
  { title: 'the host includes its port', rules: [rule({ hostRegex: 'api\\.example\\.com' })], want: undefined },
  { title: 'a host with port', rules: [rule({ hostRegex: 'api\\.example\\.com(:\\d+)?' })], want: 0 },
  { title: 'all fields must hold', rules: [rule({ methodRegex: 'GET', pathRegex: '/private' })], want: undefined },
  { title: 'a later rule will do', rules: [rule({ methodRegex: 'PUT' }), rule({ pathRegex: '/public.*' })], want: 1 },
  { title: 'the first that matches is named', rules: [rule({ methodRegex: 'PUT' }), rule(), rule()], want: 1 },
  { title: 'what is not known does not match', rules: [rule({ hostRegex: '.*' })], request: { method: 'GET', path: '/' }, want: undefined },
  { title: 'gRPC is POST to /package.Service/Method', rules: [rule({ methodRegex: 'POST', pathRegex: '/cloudcity\\.DoorManager/(GetName|GetLocation)' })], request: { method: 'POST', path: '/cloudcity.DoorManager/GetName', host: 'd' }, want: 0 },
  { title: 'another gRPC method', rules: [rule({ methodRegex: 'POST', pathRegex: '/cloudcity\\.DoorManager/GetName' })], request: { method: 'POST', path: '/cloudcity.DoorManager/SetAccessCode' }, want: undefined },
  { title: 'header present', rules: [header('X-Token')], want: 0 },
  { title: 'header names have no case', rules: [header('x-TOKEN abc')], want: 0 },
  { title: 'header with its value', rules: [header('X-Token: abc')], want: 0 },
  { title: 'values have a case', rules: [header('X-Token: ABC')], want: undefined },
  { title: 'part of a value is not enough', rules: [header('X-Token: ab')], want: undefined },
  { title: 'no such header', rules: [header('X-Other')], want: undefined },
  { title: 'all headers must hold', rules: [header('X-Token', 'X-Other')], want: undefined },
  { title: 'without a space it is a name, of a header that cannot be', rules: [header('X-Token:abc')], want: undefined },
  { title: 'several of one name are joined', rules: [header('X-A: 1,2')], request: { headers: [['X-A', '1'], ['x-a', '2']] }, want: 0 },
  { title: 'one of several is not the whole', rules: [header('X-A: 1')], request: { headers: [['X-A', '1'], ['x-a', '2']] }, want: undefined },
  { title: 'an empty header is present', rules: [header('X-A')], request: { headers: [['X-A', '']] }, want: 0 },
  { title: 'Host is the authority', rules: [header('Host: api.example.com:8080')], want: 0 },
  { title: 'headers of objects are no surprise', rules: [header('constructor')], want: undefined },
  { title: 'headerMatches without mismatch decide', rules: [match({ name: 'X-Token', value: 'abd' })], want: undefined },
  { title: 'headerMatches with the right value', rules: [match({ name: 'X-Token', value: 'abc' })], want: 0 },
  { title: 'headerMatches without value: presence', rules: [match({ name: 'X-Token' })], want: 0 },
  { title: 'a Secret that is missing never matches', rules: [match({ name: 'X-Token', secret: 'ns/gone' })], want: undefined },
  { title: 'nor for an effect', rules: [match({ name: 'X-Token', secret: 'ns/gone', mismatch: 'LOG' })], want: undefined },
  { title: 'a missing Secret leaves the value', rules: [match({ name: 'X-Token', secret: 'ns/gone', value: 'abc' })], want: 0 },
  { title: 'the Secret goes before the value', rules: [match({ name: 'X-Token', secret: 'ns/token', value: 'abc' })], want: undefined },
  { title: 'a Secret with the right value', rules: [match({ name: 'X-Token', secret: 'ns/token' })], request: { headers: [['X-Token', 's3cret']] }, want: 0 },
  { title: 'an empty Secret is not presence', rules: [match({ name: 'X-Token', secret: 'ns/empty' })], want: undefined },
] // prettier-ignore
const secrets = (name: string): string | undefined => ({ 'ns/token': 's3cret', 'ns/empty': '' })[name]
describe('matching', () => {
  for (const { title, rules, request = get, want } of rows)
    test(title, () => expect(evaluate(rules, request, secrets)).toEqual({ rule: want, effects: [] }))
})

const effects: { title: string; rules: HttpPattern[]; request?: HttpRequest; want: HttpMatch }[] = [
  {
    title: 'a right value has no effect',
    rules: [match({ name: 'X-Token', value: 'abc', mismatch: 'DELETE' })],
    want: { rule: 0, effects: [] },
  },
  {
    title: 'LOG lets pass',
    rules: [match({ name: 'X-Token', value: 'xyz', mismatch: 'LOG' })],
    want: { rule: 0, effects: [{ action: 'LOG', name: 'x-token', expected: 'xyz', found: 'abc', secret: false }] },
  },
  {
    title: 'ADD of what is missing',
    rules: [match({ name: 'X-New', value: '1', mismatch: 'ADD' })],
    want: { rule: 0, effects: [{ action: 'ADD', name: 'x-new', expected: '1', found: undefined, secret: false }] },
  },
  {
    title: 'DELETE of a wrong value',
    rules: [match({ name: 'X-Token', value: 'xyz', mismatch: 'DELETE' })],
    want: { rule: 0, effects: [{ action: 'DELETE', name: 'x-token', expected: 'xyz', found: 'abc', secret: false }] },
  },
  {
    title: 'DELETE where nothing is',
    rules: [match({ name: 'X-New', value: 'xyz', mismatch: 'DELETE' }, { name: 'X-Other', mismatch: 'DELETE' })],
    want: { rule: 0, effects: [] },
  },
  {
    title: 'REPLACE, with a Secret that logs must not show',
    rules: [match({ name: 'X-Token', secret: 'ns/token', mismatch: 'REPLACE' })],
    want: { rule: 0, effects: [{ action: 'REPLACE', name: 'x-token', expected: 's3cret', found: 'abc', secret: true }] },
  },
  {
    title: 'every rule that matches adds its effects',
    rules: [
      rule(),
      match({ name: 'X-A', value: '1', mismatch: 'ADD' }),
      rule({ pathRegex: '/other', headerMatches: [{ name: 'X-B', value: '1', mismatch: 'ADD' }] }),
      rule({ headers: [{ name: 'x-none' }], headerMatches: [{ name: 'X-C', value: '1', mismatch: 'ADD' }] }),
      match({ name: 'X-D', mismatch: 'LOG' }),
    ],
    want: {
      rule: 0,
      effects: [
        { action: 'ADD', name: 'x-a', expected: '1', found: undefined, secret: false },
        { action: 'LOG', name: 'x-d', expected: '', found: undefined, secret: false },
      ],
    },
  },
  {
    title: 'a later rule sees what an earlier one did',
    rules: [match({ name: 'X-Token', value: 'new', mismatch: 'REPLACE' }), match({ name: 'X-Token', value: 'new', mismatch: 'LOG' })],
    want: { rule: 0, effects: [{ action: 'REPLACE', name: 'x-token', expected: 'new', found: 'abc', secret: false }] },
  },
  {
    title: 'and so does a later match of one rule',
    rules: [match({ name: 'X-A', value: '1', mismatch: 'ADD' }, { name: 'X-A', value: '2', mismatch: 'ADD' }, { name: 'X-A', value: '1,2', mismatch: 'LOG' })],
    want: {
      rule: 0,
      effects: [
        { action: 'ADD', name: 'x-a', expected: '1', found: undefined, secret: false },
        { action: 'ADD', name: 'x-a', expected: '2', found: '1', secret: false },
      ],
    },
  },
  {
    title: 'a rule that comes to match by an effect',
    rules: [rule({ headers: [{ name: 'x-a' }] }), match({ name: 'X-A', value: '1', mismatch: 'ADD' }), rule({ headers: [{ name: 'x-a', value: '1' }], headerMatches: [{ name: 'x-b', value: '2', mismatch: 'ADD' }] })],
    want: {
      rule: 1,
      effects: [
        { action: 'ADD', name: 'x-a', expected: '1', found: undefined, secret: false },
        { action: 'ADD', name: 'x-b', expected: '2', found: undefined, secret: false },
      ],
    },
  },
  {
    title: 'a rule that fails in the middle leaves nothing behind',
    rules: [match({ name: 'X-A', value: '1', mismatch: 'ADD' }, { name: 'X-B', secret: 'ns/gone', mismatch: 'ADD' }), rule()],
    want: { rule: 1, effects: [] },
  },
] // prettier-ignore
describe('effects', () => {
  for (const { title, rules, request = get, want } of effects)
    test(title, () => expect(evaluate(rules, request, secrets)).toEqual(want))
})

const headers = [
  { text: 'X-A: b', want: { name: 'x-a', value: 'b' } },
  { text: 'X-A b', want: { name: 'x-a', value: 'b' } },
  { text: 'X-A:  b c ', want: { name: 'x-a', value: ' b c ' } },
  { text: 'X-A: ', want: { name: 'x-a', value: '' } },
  { text: 'X-A', want: { name: 'x-a' } },
  { text: 'X-A:b', want: { name: 'x-a:b' } },
]
for (const { text, want } of headers) test(`header '${text}'`, () => expect(readHeader(text)).toEqual(want))

test('any rules, any request: the first rule of which every field holds', () => {
  const words = ['GET', 'POST', '/a', '/b', 'x', 'y']
  const word = fc.constantFrom(...words)
  const field = fc.option(fc.uniqueArray(word, { minLength: 1, maxLength: 3 }), { nil: undefined })
  const expected = fc.record({ name: fc.constantFrom('h1', 'H2'), value: fc.option(word, { nil: undefined }) })
  const sketch = fc.record({ path: field, method: field, host: field, headers: fc.array(expected, { maxLength: 2 }) })
  const request = fc.record({
    path: word,
    method: fc.option(word, { nil: undefined }),
    host: fc.option(word, { nil: undefined }),
    headers: fc.uniqueArray(fc.tuple(fc.constantFrom('h1', 'h2'), word), { selector: ([name]) => name }),
  })
  const holds = (words: string[] | undefined, text: string | undefined): boolean => words === undefined || (text !== undefined && words.includes(text)) // prettier-ignore
  fc.assert(
    fc.property(fc.array(sketch, { maxLength: 5 }), request, (sketches, request) => {
      const texts = (words: string[] | undefined): string => words?.map((w) => `(${w})`).join('|') ?? ''
      const patterns = sketches.map(({ path, method, host, headers }) => ({
        pathRegex: texts(path),
        methodRegex: texts(method),
        hostRegex: texts(host),
        headers: [],
        headerMatches: headers.map(({ name, value }) => ({ name, ...(value === undefined ? {} : { value }) })),
      }))
      const index = sketches.findIndex((s) => {
        if (!holds(s.path, request.path) || !holds(s.method, request.method) || !holds(s.host, request.host))
          return false
        return s.headers.every(({ name, value }) => request.headers.some((h) => h[0] === name.toLowerCase() && (value === undefined || h[1] === value))) // prettier-ignore
      })
      expect(evaluate(patterns, request)).toEqual({ rule: index < 0 ? undefined : index, effects: [] })
    }),
    { numRuns: 3000 },
  )
})

test('any rules with effects: the same rules match as without, if no rule asks for a header', () => {
  const action = fc.constantFrom('LOG', 'ADD', 'DELETE', 'REPLACE')
  const correction = fc.record({ name: fc.constantFrom('h1', 'h2'), value: fc.constantFrom('', 'x', 'y'), mismatch: action }) // prettier-ignore
  const rules = fc.array(fc.record({ path: fc.constantFrom('/a', '/b'), corrections: fc.array(correction, { maxLength: 3 }) })) // prettier-ignore
  fc.assert(
    fc.property(rules, fc.constantFrom('/a', '/b'), fc.constantFrom('x', 'y'), (rules, path, value) => {
      const patterns = rules.map((r) => rule({ pathRegex: r.path, headerMatches: r.corrections }))
      const { rule: index, effects } = evaluate(patterns, { path, headers: [['h1', value]] })
      expect(index).toBe(rules.some((r) => r.path === path) ? rules.findIndex((r) => r.path === path) : undefined)
      expect(effects.length).toBeLessThanOrEqual(rules.filter((r) => r.path === path).flatMap((r) => r.corrections).length) // prettier-ignore
      // Every effect follows from what the ones before it left.
      const now = new Map<string, string>([['h1', value]])
      for (const { action, name, expected, found } of effects) {
        expect(found).toBe(now.get(name))
        expect(found === undefined || (expected !== '' && found !== expected)).toBe(true)
        if (action === 'ADD') now.set(name, found === undefined ? expected : `${found},${expected}`)
        if (action === 'REPLACE') now.set(name, expected)
        if (action === 'DELETE') now.delete(name)
      }
    }),
    { numRuns: 2000 },
  )
})
