// The story of one query: its ways out, and the order learn -> commit -> answer.
import { decode, type DecodedPacket, type OptAnswer } from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressToText } from '../../../src/net/address.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import type { Answered } from '../../../src/proxy/answers.ts'
import { handle, type Outcome, type ProxyParts } from '../../../src/proxy/handle.ts'
import { count } from '../../../src/wire/message.ts'
import {
  a,
  AAAA,
  cname,
  https,
  HTTPS,
  message,
  nameOctets,
  opt,
  query,
  response,
  soa,
  TXT,
  type Parts,
  type Rr,
} from '../wire/build.ts'
import {
  answered,
  at,
  grant,
  promised,
  questionOf,
  settle,
  snapshotOf,
  stranger,
  web,
  worldOf,
  type World,
} from './world.ts'

const q = 'api.example.com'
const one: Parts = { answers: [a(q, '192.0.2.1', 60)] }
const withOpt: Parts = { additionals: [opt()] }

const run = (world: World, parts: Parts = {}, source = web): Promise<Outcome> =>
  handle(world, query(parts), source, 'udp')
function replyOf(outcome: Outcome): DecodedPacket & { rcode?: string } {
  return decode(Buffer.from(outcome.kind === 'ignored' ? [] : outcome.reply))
}
/** `CODE text` of the EDE option. */
function edeOf(outcome: Outcome): string | undefined {
  const additional = replyOf(outcome).additionals?.find((r): r is OptAnswer => r.type === 'OPT')
  // Its types know no option 15.
  const options = (additional?.options ?? []) as readonly { readonly code: number; readonly data?: Buffer }[]
  const data = options.find((o) => o.code === 15)?.data
  return data && `${data.readUInt16BE(0)} ${data.subarray(2).toString()}`
}
const addressesIn = (outcome: Outcome): unknown[] => (replyOf(outcome).answers ?? []).filter((r) => r.type === 'A')

describe('answered', () => {
  test('learned, committed, then told', async () => {
    const world = worldOf({ answer: { answers: [cname(q, 'b', 50), a('b', '192.0.2.1', 60)] } })
    const outcome = await run(world)
    expect(world.log).toEqual(['ask', 'learn', 'commit', 'answered'])
    expect(world.facts).toMatchObject([{ identity: 256, endpoint: 7, name: q, addresses: [at('192.0.2.1')], ttlSeconds: 50 }]) // prettier-ignore
    expect(outcome).toMatchObject({ kind: 'answered', leased: true, committed: 1, cached: false, ttlSeconds: 50, rcode: 0 }) // prettier-ignore
    expect(replyOf(outcome)).toMatchObject({ rcode: 'NOERROR', answers: [{ ttl: 50 }, { ttl: 50, data: '192.0.2.1' }] })
  })

  test('the client gets its own case back, whatever the upstream made of it', async () => {
    const outcome = await run(worldOf({ answer: { name: 'api.EXAMPLE.COM', ...one } }), { name: 'aPi.eXample.com' })
    expect(replyOf(outcome)).toMatchObject({ id: 0x1234, questions: [{ name: 'aPi.eXample.com' }] })
    expect(outcome).toMatchObject({ kind: 'answered', question: { name: q } })
  })

  test('the TTL told is the lease’s', async () => {
    const world = worldOf({
      answer: one,
      learn: () => ({
        kind: 'learned',
        ttlSeconds: 17,
        elements: [],
        changes: { ttlSeconds: 17, fresh: [], renewed: [] },
      }),
    })
    const outcome = await run(world)
    expect(replyOf(outcome).answers).toMatchObject([{ ttl: 17 }])
    expect(outcome).toMatchObject({ ttlSeconds: 17, committed: 0 })
  })

  test('a kept answer takes the same way, with what is left of its TTL', async () => {
    const world = worldOf({
      ask: (question) => Promise.resolve(answered(question, one, { ageSeconds: 40, cached: true })),
    })
    const outcome = await run(world)
    expect(world.log).toEqual(['ask', 'learn', 'commit', 'answered'])
    expect(world.facts).toMatchObject([{ ttlSeconds: 20 }])
    expect(replyOf(outcome).answers).toMatchObject([{ ttl: 20 }])
  })

  const others: [title: string, asked: Parts, answer: readonly Rr[]][] = [
    ['a TXT of class CH', { type: TXT, class: 3 }, [{ owner: q, type: TXT, class: 3, data: [1, 65] }]],
    ['an A of class CH, also where it looks like an address', { class: 3 }, [{ ...a(q, '192.0.2.1'), class: 3 }]],
    ['an A of class HS', { class: 4 }, [{ ...a(q, '10.0.0.1'), class: 4 }]],
    ['a class and a type that nobody knows', { type: 4711, class: 4711 }, [{ owner: q, type: 4711, class: 4711, data: [1] }]],
    ['a type that nobody knows', { type: 4711 }, [{ owner: q, type: 4711, data: [10, 0, 0, 1] }]],
    ['PTR', { name: '1.2.0.192.in-addr.arpa', type: 12 }, [{ owner: '1.2.0.192.in-addr.arpa', type: 12, data: nameOctets('a.test') }]],
    ['SRV', { name: '_x._tcp.example.com', type: 33 }, [{ owner: '_x._tcp.example.com', type: 33, data: [0, 1, 0, 1, 0, 80, ...nameOctets('a.test')] }]],
    ['MX', { type: 15 }, [{ owner: q, type: 15, data: [0, 1, ...nameOctets('a.test')] }]],
    ['NS', { type: 2 }, [{ owner: q, type: 2, data: nameOctets('a.test') }]],
    ['HTTPS without hints', { type: HTTPS }, [https(q, '', [[1, [2, 104, 50]]])]],
  ] // prettier-ignore
  for (const [title, asked, answers] of others)
    test(`${title}: by the rules for its name; passed as it is, without a lease, glue left out`, async () => {
      const glue = { ...a('a.test', '192.0.2.66'), class: asked.class ?? 1 }
      const world = worldOf({ answer: { ...asked, answers, additionals: [glue] } })
      const outcome = await run(world, asked)
      expect(outcome).toMatchObject({ kind: 'answered', rcode: 0, leased: false, addresses: [] })
      expect(world.log).toEqual(['ask', 'answered'])
      const reply = outcome.kind === 'answered' ? outcome.reply : new Uint8Array(0)
      expect(Buffer.from(reply).includes(Buffer.from(answers[0]?.data ?? [0, 0]))).toBe(true)
      expect([count(reply, 6), count(reply, 10)]).toEqual([1, 0])

      const denied = worldOf({ snapshot: () => snapshotOf({ mayAsk: () => false }) })
      expect(await run(denied, asked)).toMatchObject({ kind: 'refused', reason: 'policy' })
      expect(denied.log).toEqual(['refused'])
    })
  test('HTTPS with address hints: these are leased', async () => {
    const world = worldOf({ answer: { type: HTTPS, answers: [https(q, '', [[4, [192, 0, 2, 9]]])] } })
    expect(await run(world, { type: HTTPS })).toMatchObject({ kind: 'answered', leased: true })
    expect(world.facts[0]?.addresses.map(addressToText)).toEqual(['192.0.2.9'])
  })

  const plain: { title: string; ask?: Parts; answer: Parts; snapshot?: Snapshot }[] = [
    { title: 'NXDOMAIN', answer: { flags: 0x8183, authorities: [soa('example.com', 60, 60)] } },
    { title: 'NODATA', ask: { type: AAAA }, answer: { type: AAAA, authorities: [soa('example.com', 60, 60)] } },
    { title: 'a TXT', ask: { type: TXT }, answer: { type: TXT, answers: [{ owner: q, type: TXT, data: [0] }] } },
    { title: 'a name that no toFQDNs rule opens', answer: one, snapshot: snapshotOf({ grants: () => [] }) },
    { title: 'an identity without default deny', answer: one, snapshot: snapshotOf({ defaultDeny: false }) },
    { title: 'an address in the cluster', answer: one, snapshot: snapshotOf({ inCluster: [at('192.0.2.1')] }) },
  ]
  for (const { title, ask, answer, snapshot = snapshotOf() } of plain)
    test(`${title} needs no lease`, async () => {
      const world = worldOf({ answer, snapshot: () => snapshot })
      expect(await run(world, ask)).toMatchObject({ kind: 'answered', leased: false })
      expect(world.log).toEqual(['ask', 'answered'])
    })

  test('of several addresses, those in the cluster are told but not leased', async () => {
    const snapshot = snapshotOf({ inCluster: [at('192.0.2.1')] })
    const world = worldOf({ snapshot: () => snapshot, answer: { answers: [a(q, '192.0.2.1'), a(q, '192.0.2.2')] } })
    expect(addressesIn(await run(world))).toHaveLength(2)
    expect(world.facts[0]?.addresses.map(addressToText)).toEqual(['192.0.2.2'])
  })

  test('sources without an endpoint, where that is allowed: forwarded, without leases', async () => {
    const world = worldOf({ answer: one, unknownEndpoint: 'allow' })
    expect(await run(world, {}, stranger)).toMatchObject({ kind: 'answered', endpoint: undefined, leased: false })
    expect(world.log).toEqual(['ask', 'answered'])
  })
})

describe('an answer whose TTL is over, when nobody answers', () => {
  const failed: Answered = { kind: 'failed', reason: 'timeout', text: 'silent' }
  const stale = (refreshed: Answered = failed, parts: Parts = one): Partial<ProxyParts> => ({
    ask: (question) => Promise.resolve({ ...answered(question, parts, { cached: true }), refresh: () => Promise.resolve(refreshed) } as Answered),
  }) // prettier-ignore
  test('told as long as the asker’s lease stands; nothing is learned or committed', async () => {
    const world = worldOf({ ...stale(), standsFor: () => 7 })
    const outcome = await run(world, withOpt)
    expect(outcome).toMatchObject({ kind: 'answered', stale: true, ttlSeconds: 7, committed: 0, leased: true })
    expect(replyOf(outcome).answers).toMatchObject([{ ttl: 7, data: '192.0.2.1' }])
    expect(edeOf(outcome)).toMatch(/^3 /)
    expect(world.log).toEqual(['ask', 'answered'])
  })
  test('what needs no lease is told', async () => {
    const nxdomain = { flags: 0x8183, authorities: [soa('example.com', 60, 60)] }
    const outcome = await run(worldOf(stale(failed, nxdomain)), withOpt)
    expect([replyOf(outcome).rcode, edeOf(outcome)?.slice(0, 3)]).toEqual(['NXDOMAIN', '19 '])
  })
  test('where the lease does not stand the upstream is waited for: its failure is told', async () => {
    const world = worldOf(stale())
    expect(await run(world)).toMatchObject({ kind: 'failed', stage: 'upstream' })
    expect(world.log).toEqual(['ask', 'failed'])
  })
  test('… or its answer is', async () => {
    const world = worldOf(stale(answered(questionOf(), { answers: [a(q, '192.0.2.2', 60)] })))
    expect(await run(world)).toMatchObject({
      kind: 'answered',
      stale: false,
      addresses: [at('192.0.2.2')],
      committed: 1,
    })
    expect(world.log).toEqual(['ask', 'learn', 'commit', 'answered'])
  })
})

describe('refused', () => {
  const denying = (denyReply: 'refused' | 'nxdomain'): Snapshot => snapshotOf({ mayAsk: () => false, denyReply })
  test('by policy: REFUSED, and why; nobody is asked', async () => {
    const world = worldOf({ snapshot: () => denying('refused') })
    const outcome = await run(world, withOpt)
    expect(replyOf(outcome).rcode).toBe('REFUSED')
    expect(edeOf(outcome)).toBe('15 namegate: api.example.com A: no rule matches (default/web spec)')
    expect(world.log).toEqual(['refused'])
  })
  test('by policy: NXDOMAIN where it says so', async () =>
    expect(replyOf(await run(worldOf({ snapshot: () => denying('nxdomain') }))).rcode).toBe('NXDOMAIN'))
  const unserved: [title: string, asked: Parts][] = [
    ['class 0, which is none', { class: 0 }],
    ['class NONE', { class: 254 }],
    ['class ANY: its answer may hold addresses', { class: 255 }],
    ['a zone transfer', { type: 252 }],
    ['a zone transfer from a serial on', { type: 251 }],
  ]
  for (const [title, asked] of unserved)
    test(title, async () => {
      const world = worldOf({})
      const outcome = await run(world, { ...asked, ...withOpt })
      expect([replyOf(outcome).rcode, edeOf(outcome)?.slice(0, 3)]).toEqual(['REFUSED', '21 '])
      expect(world.log).toEqual(['refused'])
    })
  test('a name, whatever the class', async () =>
    expect(replyOf(await run(worldOf({ snapshot: () => denying('refused') }), { class: 3 })).rcode).toBe('REFUSED'))
  test('an unknown source', async () => {
    const world = worldOf({})
    const outcome = await run(world, withOpt, stranger)
    expect(replyOf(outcome).rcode).toBe('REFUSED')
    expect(edeOf(outcome)).toMatch(/^18 /)
    expect(world.log).toEqual(['refused'])
  })
})

describe('failed', () => {
  const full = { kind: 'full', limit: 'all', budget: 'leases', text: 'the table is full' } as const
  const rows: { title: string; world: () => World; ede: RegExp; stage: string; log: string[] }[] = [
    { title: 'upstream is silent', world: () => worldOf({ ask: () => failing('timeout') }), ede: /^22 /, stage: 'upstream', log: ['ask'] }, // prettier-ignore
    { title: 'upstream is not to be reached', world: () => worldOf({ ask: () => failing('network') }), ede: /^23 /, stage: 'upstream', log: ['ask'] }, // prettier-ignore
    { title: 'too many questions', world: () => worldOf({ ask: () => failing('overloaded') }), ede: /^22 /, stage: 'upstream', log: ['ask'] }, // prettier-ignore
    { title: 'the answer is to another question', world: () => worldOf({ answer: { name: 'evil.test' } }), ede: /^24 .*question/, stage: 'answer', log: ['ask'] }, // prettier-ignore
    { title: 'the answer leaves the chain', world: () => worldOf({ answer: { answers: [a(q, '192.0.2.1'), a('evil.test', '192.0.2.6')] } }), ede: /^24 .*outside the chain/, stage: 'answer', log: ['ask'] }, // prettier-ignore
    { title: 'no room for the lease', world: () => worldOf({ answer: one, learn: () => full }), ede: /^0 .*the table is full/, stage: 'lease', log: ['ask', 'learn'] }, // prettier-ignore
    { title: 'the kernel does not acknowledge', world: () => worldOf({ answer: one, commit: () => Promise.reject(new Error('ENOSPC')) }), ede: /^0 .*ENOSPC/, stage: 'commit', log: ['ask', 'learn', 'commit'] }, // prettier-ignore
  ]
  const failing = (reason: 'timeout' | 'network' | 'overloaded'): Promise<Answered> =>
    Promise.resolve({ kind: 'failed', reason, text: reason })
  for (const { title, world: make, ede, stage, log } of rows)
    test(`${title}: SERVFAIL, why, and no address`, async () => {
      const world = make()
      const outcome = await run(world, withOpt)
      expect(outcome).toMatchObject({ kind: 'failed', stage })
      expect(replyOf(outcome)).toMatchObject({ rcode: 'SERVFAIL', answers: [] })
      expect(edeOf(outcome)).toMatch(ede)
      expect(world.log).toEqual([...log, 'failed'])
    })
})

describe('rejected and ignored', () => {
  const rows: [title: string, wire: Uint8Array, want: string | undefined][] = [
    ['opcode UPDATE', message({ flags: 0x2800 }), 'NOTIMP'],
    ['two questions', query({ counts: [2, 0, 0, 0] }), 'FORMERR'],
    ['a compressed question', Uint8Array.from([...query().subarray(0, 12), 0xc0, 4, 0, 1, 0, 1]), 'FORMERR'],
    ['an additional record that is cut off', query({ counts: [1, 0, 0, 1] }), 'FORMERR'],
    ['a response', response(), undefined],
    ['eleven octets', query().subarray(0, 11), undefined],
  ]
  for (const [title, wire, want] of rows)
    test(`${title}: ${want ?? 'silence'}`, async () => {
      const world = worldOf({})
      const outcome = await handle(world, wire, web, 'tcp')
      expect(outcome.kind).toBe(want === undefined ? 'ignored' : 'rejected')
      if (want !== undefined) expect(replyOf(outcome).rcode).toBe(want)
      expect(world.log).toEqual([outcome.kind])
    })
  test('EDNS version 1: BADVERS', async () => {
    const outcome = await run(worldOf({}), { additionals: [opt(1232, { version: 1 })] })
    expect(outcome).toMatchObject({ kind: 'rejected', rcode: 16 })
    expect(replyOf(outcome).additionals).toMatchObject([{ type: 'OPT', extendedRcode: 1 }])
  })
})

describe('the promise', () => {
  test('a slow kernel: there is no reply before it has acknowledged', async () => {
    const kernel = promised<undefined>()
    const world = worldOf({ answer: one, commit: () => kernel.promise })
    let outcome: Outcome | undefined
    const story = run(world).then((end) => (outcome = end))
    await settle()
    expect(world.log).toEqual(['ask', 'learn', 'commit'])
    expect(outcome).toBeUndefined()
    kernel.resolve(undefined)
    await story
    expect(world.log).toEqual(['ask', 'learn', 'commit', 'answered'])
    expect(addressesIn(outcome ?? (await story))).toHaveLength(1)
  })

  test('two questions for one name: each waits for its own commit', async () => {
    const kernels = [promised<undefined>(), promised<undefined>()]
    let commits = 0
    const world = worldOf({ answer: one, commit: () => kernels[commits++]?.promise ?? Promise.reject(new Error()) })
    const ended: number[] = []
    const stories = [1, 2].map((n) => run(world).then(() => ended.push(n)))
    await settle()
    kernels[1]?.resolve(undefined)
    await stories[1]
    expect(ended).toEqual([2])
    kernels[0]?.resolve(undefined)
    await Promise.all(stories)
    expect(ended).toEqual([2, 1])
  })
})

describe('policy changes', () => {
  /** A world whose snapshot can be replaced, and whose upstream and kernel wait to be told. */
  function changing(): World & {
    use: (next: Snapshot) => void
    upstream: ReturnType<typeof promised<Parts>>
    kernels: ReturnType<typeof promised<undefined>>[]
  } {
    // prettier-ignore
    let snapshot = snapshotOf()
    const upstream = promised<Parts>()
    const kernels: ReturnType<typeof promised<undefined>>[] = []
    const world = worldOf({
      snapshot: () => snapshot,
      ask: async (question) => answered(question, await upstream.promise),
      commit: () => {
        const kernel = promised<undefined>()
        kernels.push(kernel)
        return kernel.promise
      },
    })
    return { ...world, use: (next) => (snapshot = next), upstream, kernels }
  }

  test('while the upstream is asked: what is denied now is denied', async () => {
    const world = changing()
    const story = run(world)
    world.use(snapshotOf({ revision: 2, mayAsk: () => false }))
    world.upstream.resolve(one)
    const outcome = await story
    expect(outcome.kind).toBe('refused')
    expect(addressesIn(outcome)).toEqual([])
    expect(world.log).toEqual(['ask', 'refused'])
  })

  test('while the upstream is asked: the grants are those of now, and the upstream is not asked twice', async () => {
    const world = changing()
    const grants = [{ ...grant, ports: { kind: 'all' }, why: { text: 'new' } }] as const
    const story = run(world)
    world.use(snapshotOf({ revision: 2, grants: () => grants }))
    world.upstream.resolve(one)
    await settle()
    expect(world.facts).toMatchObject([{ grants }])
    world.kernels[0]?.resolve(undefined)
    expect((await story).kind).toBe('answered')
    expect(world.log).toEqual(['ask', 'learn', 'commit', 'answered'])
  })

  test('while the upstream is asked: the endpoint is gone', async () => {
    const world = changing()
    const story = run(world)
    world.use({ ...snapshotOf({ revision: 2 }), endpointOf: () => undefined })
    world.upstream.resolve(one)
    expect(await story).toMatchObject({ kind: 'refused', endpoint: undefined })
  })

  test('while the kernel commits: what is denied now is denied, though it was acknowledged', async () => {
    const world = changing()
    world.upstream.resolve(one)
    const story = run(world)
    await settle()
    world.use(snapshotOf({ revision: 2, mayAsk: () => false }))
    world.kernels[0]?.resolve(undefined)
    const outcome = await story
    expect(outcome.kind).toBe('refused')
    expect(addressesIn(outcome)).toEqual([])
  })

  test('while the kernel commits: what is still allowed is learned and committed again', async () => {
    const world = changing()
    world.upstream.resolve(one)
    const story = run(world)
    await settle()
    world.use(snapshotOf({ revision: 2 }))
    world.kernels[0]?.resolve(undefined)
    await settle()
    expect(world.log).toEqual(['ask', 'learn', 'commit', 'learn', 'commit'])
    world.kernels[1]?.resolve(undefined)
    expect((await story).kind).toBe('answered')
  })

  test('again and again: given up, without an address', async () => {
    let revision = 0
    const world = worldOf({ answer: one, snapshot: () => snapshotOf({ revision: revision++ }) })
    const outcome = await run(world, withOpt)
    expect(outcome).toMatchObject({ kind: 'failed', stage: 'policy' })
    expect(replyOf(outcome)).toMatchObject({ rcode: 'SERVFAIL', answers: [] })
  })
})

describe('any', () => {
  test('octets of a query: an outcome, with a reply that decodes', async () => {
    const valid = query({ additionals: [opt()] })
    const changed = fc
      .tuple(fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { maxLength: 3 }), fc.nat(valid.length))
      .map(([octets, length]) => {
        const wire = valid.slice(0, length % 5 === 0 ? length : undefined)
        for (const [place, octet] of octets) if (place < wire.length) wire[place] = octet
        return wire
      })
    const someWire = fc.oneof(fc.uint8Array({ maxLength: 80 }), changed)
    await fc.assert(
      fc.asyncProperty(someWire, fc.constantFrom('udp' as const, 'tcp' as const), async (wire, transport) => {
        const world = worldOf({ ask: (question) => Promise.resolve(answered(question, { name: question.labels.join('.'), type: question.qtype })) }) // prettier-ignore
        const outcome = await handle(world, wire, web, transport)
        if (outcome.kind !== 'ignored') {
          expect(outcome.reply[0]).toBe(wire[0])
          expect(outcome.reply[1]).toBe(wire[1])
          expect((outcome.reply[2] ?? 0) & 0x80).toBe(0x80)
        }
        expect(world.outcomes).toEqual([outcome])
      }),
      { numRuns: 1000 },
    )
  })

  test('answer: what is learned belongs to the chain, and what is told was learned', async () => {
    const someName = fc.constantFrom(q, 'b', 'c')
    const someRecord = fc.oneof(
      fc.tuple(someName, someName).map(([owner, target]) => cname(owner, target)),
      fc.tuple(someName, fc.nat(9)).map(([owner, n]) => a(owner, `192.0.2.${n}`)),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(someRecord, { maxLength: 4 }), async (answers) => {
        const world = worldOf({ answer: { answers } })
        const told = (addressesIn(await run(world)) as { data: string }[]).map((r) => r.data)
        const learned = world.facts.flatMap((fact) => fact.addresses.map(addressToText))
        expect(new Set(told)).toEqual(new Set(learned))
      }),
      { numRuns: 500 },
    )
  })
})

test('the question of a lease is the client’s, canonical', async () => {
  const world = worldOf({ answer: { answers: [a(q, '192.0.2.1')] } })
  await run(world, { name: 'API.EXAMPLE.COM' })
  expect(world.facts[0]?.name).toBe(questionOf().name)
})
