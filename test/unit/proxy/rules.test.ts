// What holds beside policy: the rebinding guard and what is cut from answers, names by search lists and of resolvers, budgets.
import { describe, expect, test } from 'vitest'
import { addressToText } from '../../../src/net/address.ts'
import { makeBudgets, registeredDomain, type Budget } from '../../../src/proxy/budgets.ts'
import { handle } from '../../../src/proxy/handle.ts'
import { makeNameRules } from '../../../src/proxy/names.ts'
import { makeScreen, type ScreenOptions } from '../../../src/proxy/screen.ts'
import { fit, type FitAnswer } from '../../../src/wire/answer.ts'
import { nameFromLabels, labelsOf, wireFromText, type WireName } from '../../../src/wire/name.ts'
import { a, cname, https, HTTPS, pointer, query, response, soa, u16, type Parts } from '../wire/build.ts'
import { at, grant, nothingBeside, questionOf, raise, snapshotOf, web, worldOf } from './world.ts'

const wire = (text: string): WireName => wireFromText(text) ?? raise(text)
const q = 'api.example.com'
function fitting(parts: Parts): FitAnswer {
  const answer = fit(questionOf(parts), response(parts))
  return answer.kind === 'fits' ? answer : raise(answer.fault)
}
const screenOf = (over: Partial<ScreenOptions>) => makeScreen({ privateAnswers: 'refuse', privateSuffixes: [], serviceHints: 'lease', stripEch: false, ...over }) // prettier-ignore
const told = (parts: Parts, over: Partial<ScreenOptions>, mayBePrivate = false): string => {
  const question = questionOf(parts)
  const grants = mayBePrivate ? [{ ...grant, privateAnswers: true as const }] : [grant]
  const screened = screenOf(over)(question, fitting(parts), question.wire, grants)
  return screened.kind === 'refuse' ? 'refused' : screened.answer.addresses.map(addressToText).join(' ')
}

describe('the rebinding guard', () => {
  const mixed: Parts = { answers: [cname(q, 'b.net'), a('b.net', '10.0.0.1'), a('b.net', '192.0.2.1')] }
  const pointed: Parts = { answers: [a(pointer(12), '10.0.0.1'), a(pointer(12), '192.0.2.1')], authorities: [soa('com', 9, 9)] } // prettier-ignore
  const hinted: Parts = { type: HTTPS, answers: [https(q, '', [[0, [...u16(4), ...u16(1)]], [1, [2, 104, 50]], [4, [169, 254, 169, 254]], [5, [1, 2]], [6, [...at('2001:db8::1')].map((c) => c.charCodeAt(0))]])] } // prettier-ignore
  const rows: readonly [string, Parts, Partial<ScreenOptions>, boolean, string][] = [
    ['refused', mixed, {}, false, 'refused'],
    ['stripped', mixed, { privateAnswers: 'strip' }, false, '192.0.2.1'],
    ['stripped, by compressed names', pointed, { privateAnswers: 'strip' }, false, '192.0.2.1'],
    ['allowed', mixed, { privateAnswers: 'allow' }, false, '10.0.0.1 192.0.2.1'],
    ['by policy', mixed, {}, true, '10.0.0.1 192.0.2.1'],
    ['a zone of one’s own', mixed, { privateSuffixes: [wire('example.com')] }, false, '10.0.0.1 192.0.2.1'],
    ['not by the alias’s target', mixed, { privateSuffixes: [wire('b.net')] }, false, 'refused'],
    ['hints', hinted, {}, false, 'refused'],
    ['hints stripped: of one family', hinted, { privateAnswers: 'strip' }, false, '2001:db8::1'],
    ['all hints, by switch', hinted, { privateAnswers: 'allow', serviceHints: 'strip' }, false, ''],
  ]
  for (const [title, parts, over, mayBePrivate, want] of rows)
    test(title, () => expect(told(parts, over, mayBePrivate)).toBe(want))

  test('ECH goes on request, and what remains fits; `mandatory` names nothing that is gone', () => {
    const screened = screenOf({ stripEch: true, privateAnswers: 'strip' })(
      questionOf(hinted),
      fitting(hinted),
      wire(q),
      [],
    )
    const message = screened.kind === 'pass' ? Buffer.from(screened.answer.message) : raise('refused')
    expect(message.includes(Buffer.from([0, 0, 0, 2, 0, 1]))).toBe(true)
    expect(message.includes(Buffer.from([0, 5, 0, 2, 1, 2]))).toBe(false)
    expect(fitting(hinted).message.includes(5)).toBe(true)
  })
  test('refused with its reason; no lease', async () => {
    const world = worldOf({ answer: { answers: [a(q, '169.254.169.254')] } })
    expect(await handle(world, query(), web, 'udp')).toMatchObject({ kind: 'refused', reason: 'private' })
    expect(world.facts).toEqual([])
  })
  test('stripped: the rest is leased, and an EDE says so', async () => {
    const rules = nothingBeside({ privateAnswers: 'strip' })
    const world = worldOf({ ...rules, answer: { answers: [a(q, '10.0.0.1'), a(q, '192.0.2.1')] } })
    const outcome = await handle(world, query({ additionals: [{ owner: '.', type: 41, class: 1232, ttl: 0, data: [] }] }), web, 'udp') // prettier-ignore
    expect(outcome).toMatchObject({ kind: 'answered', stripped: true })
    expect(Buffer.from(outcome.kind === 'ignored' ? [] : outcome.reply).toString('latin1')).toContain(
      '10.0.0.1 (private)',
    )
    expect(world.facts.map(({ addresses }) => addresses)).toEqual([[at('192.0.2.1')]])
  })
})

describe('names', () => {
  const rules = makeNameRules({ clusterDomain: wire('cluster.local'), searchSuffixes: [wire('ec2.internal')], refuseDoh: true }) // prettier-ignore
  const rows: readonly (readonly [string, readonly string[]])[] = [
    ['a.com.ns.svc.cluster.local', ['a.com', 'a.com.ns', 'a.com.ns.svc']],
    ['a.com.cluster.local', ['a.com']],
    ['a.com.ec2.internal', ['a.com']],
    ['ec2.internal', []],
    ['cluster.local', []],
    ['a.notcluster.local', []],
  ]
  for (const [name, want] of rows)
    test(name, () => expect(rules.expandedFrom(wire(name)).map((labels) => nameFromLabels(labels))).toEqual(want))
  const doh: readonly (readonly [string, boolean])[] = [
    ['use-application-dns.net', true],
    ['dns.google', true],
    ['abc123.dns.nextdns.io', true],
    ['example.com', false],
    ['google', false],
  ]
  for (const [name, want] of doh)
    test(`${name}: ${want ? 'refused' : 'not'}`, () => expect(rules.isDohRefused(wire(name), false)).toBe(want))
  test('a name by which resolvers are only looked for is none of them', () =>
    expect(['use-application-dns.net', '_dns.resolver.arpa', 'dns.google', 'google'].map((name) => rules.isResolver(wire(name)))).toEqual([false, false, true, false])) // prettier-ignore
  test('by policy alone', async () => {
    const world = worldOf({ snapshot: () => snapshotOf({ refusesDoh: true }) })
    expect(await handle(world, query({ name: 'dns.google' }), web, 'udp')).toMatchObject({ kind: 'refused', reason: 'doh', rcode: 3 }) // prettier-ignore
    expect(world.log).toEqual(['refused'])
  })
  test('registered domains', () => {
    for (const [name, domain] of [
      ['a.b.example.com', 'example.com'],
      ['a.b.co.uk', 'b.co.uk'],
      ['x.de', 'x.de'],
      ['de', 'de'],
      ['t.evil.io', 'evil.io'],
    ] as const)
      // prettier-ignore
      expect(nameFromLabels(labelsOf(registeredDomain(wire(name))))).toBe(domain)
  })
})

describe('budgets', () => {
  const limits = { queriesPerSecond: 100, namesPerDomainPerMinute: 50, nameOctetsPerMinute: 20_000, nxdomainShare: 0.9, nxdomainFrom: 40 } // prettier-ignore
  /** Asks by turns, `perSecond`, until a budget ends it or a minute is over. */
  function run(
    nameOf: (i: number) => string,
    perSecond: number,
    rcode = 0,
  ): { at: number; budget: Budget | undefined } {
    let now = 0
    const budgets = makeBudgets(limits, () => now, [wire('cluster.local')])
    for (let i = 0; i < perSecond * 59; i++) {
      now = (i * 1000) / perSecond
      const over = budgets.spend(1, wire(nameOf(i)))
      if (over !== undefined) return { at: i, budget: over.budget }
      budgets.answered(1, wire(nameOf(i)), rcode)
    }
    return { at: -1, budget: undefined }
  }
  const blob = (i: number, octets: number): string => Buffer.from(String(i).padStart(octets / 2, 'x')).toString('hex').slice(0, octets) // prettier-ignore
  test('iodine: long base32 labels under one domain', () =>
    expect(run((i) => `0${blob(i, 60)}.${blob(i + 1, 60)}.t.evil.test`, 60)).toMatchObject({ budget: 'names', at: 50 }))
  test('dnscat2: hex labels, a poll a second', () =>
    expect(run((i) => `${blob(i, 18)}.c2.evil.test`, 1)).toMatchObject({ budget: 'names' }))
  test('the same spread over many domains', () =>
    expect(run((i) => `${blob(i, 60)}.${blob(i, 60)}.evil${i}.test`, 20)).toMatchObject({ budget: 'octets' }))
  test('names made by an algorithm', () =>
    expect(run((i) => `d${i}.test`, 1, 3)).toMatchObject({ budget: 'nxdomain', at: 40 }))
  test('a flood of one name', () => expect(run(() => q, 1000)).toMatchObject({ budget: 'queries' }))
  test('a busy workload: few names, often, and its search list', () =>
    expect(run((i) => (i % 4 === 0 ? `h${i % 9}.example.com` : `h${i}.ns.svc.cluster.local`), 90)).toEqual({ at: -1, budget: undefined })) // prettier-ignore
  test('over it: refused with its reason, nobody is asked; a minute later it may ask again', async () => {
    let now = 0
    const world = worldOf({ ...nothingBeside({ namesPerDomainPerMinute: 2 }, () => now) })
    const ask = (name: string) => handle(world, query({ name }), web, 'udp')
    for (const name of ['a.e.test', 'b.e.test']) expect((await ask(name)).kind).not.toBe('refused')
    world.log.length = 0
    expect(await ask('c.e.test')).toMatchObject({ kind: 'refused', reason: 'names' })
    expect(world.log).toEqual(['refused'])
    expect((await ask('a.e.test')).kind).not.toBe('refused')
    now = 60_000
    expect((await ask('c.e.test')).kind).not.toBe('refused')
  })
})
