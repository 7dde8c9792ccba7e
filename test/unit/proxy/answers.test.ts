// The answer cache on a clock of its own, and questions that share one answer.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keptOctets, makeAnswers, type AnswerOptions, type Answered } from '../../../src/proxy/answers.ts'
import type { UpstreamReply } from '../../../src/proxy/upstream.ts'
import type { Question } from '../../../src/wire/message.ts'
import { a, AAAA, response, soa, TXT, type Parts, type Rr } from '../wire/build.ts'
import { flags, promised, questionOf, settle } from './world.ts'

const q = 'api.example.com'
const big: AnswerOptions = { entries: 100, octets: 1_000_000, staleSeconds: 0, staleAfterMillis: 1800, prefetch: false }

/** Answers on a clock that stands at `now`, in front of an upstream that says what `answer` gives for a question. */
function answersOver(
  answer: (question: Question) => Parts | UpstreamReply,
  options = big,
  numberOf?: Parameters<typeof makeAnswers>[3],
) {
  const state = { now: 0, asked: 0 }
  const upstream = (question: Question): Promise<UpstreamReply> => {
    state.asked++
    const said = answer(question)
    return Promise.resolve('kind' in said ? said : { kind: 'message', message: response({ name: question.labels.join('.'), type: question.qtype, ...said }) }) // prettier-ignore
  }
  const ask = makeAnswers(upstream, () => state.now, options, numberOf)
  return { state, ask: (parts: Parts = {}, over = {}): Promise<Answered> => ask(questionOf(parts), { ...flags, ...over }) } // prettier-ignore
}
const messageOf = (answered: Answered): Uint8Array | undefined =>
  answered.kind === 'answer' ? Uint8Array.from(answered.answer.message) : undefined
/** A TXT record of so many octets. */
const txt = (owner: string, length: number, octet: number): Rr => ({
  owner,
  type: TXT,
  ttl: 300,
  data: Array<number>(length).fill(octet),
})
const ttl = (seconds: number): Parts => ({ answers: [a(q, '192.0.2.1', seconds)] })
const left = (answered: Answered): unknown =>
  answered.kind === 'answer'
    ? { left: answered.ttlSeconds, age: answered.ageSeconds, cached: answered.cached }
    : answered

describe('kept', () => {
  test('for as long as its TTL says', async () => {
    const { state, ask } = answersOver(() => ttl(10))
    expect(left(await ask())).toEqual({ left: 10, age: 0, cached: false })
    state.now = 4999
    expect(left(await ask())).toEqual({ left: 6, age: 4, cached: true })
    state.now = 9999
    expect(left(await ask())).toEqual({ left: 1, age: 9, cached: true })
    state.now = 10_000
    expect(left(await ask())).toEqual({ left: 10, age: 0, cached: false })
    expect(state.asked).toBe(2)
  })

  test('at most a day', async () => {
    const { state, ask } = answersOver(() => ttl(2_000_000))
    await ask()
    state.now = 86_399_000
    expect(left(await ask())).toMatchObject({ left: 1, cached: true })
    state.now = 86_400_000
    expect(left(await ask())).toMatchObject({ cached: false })
  })

  const rows: [title: string, answer: Parts | UpstreamReply, kept: boolean][] = [
    ['an answer', ttl(10), true],
    ['an answer with TTL 0', ttl(0), false],
    ['NXDOMAIN with SOA', { flags: 0x8183, authorities: [soa('com', 60, 60)] }, true],
    ['NXDOMAIN without SOA (RFC 2308 §5)', { flags: 0x8183 }, false],
    ['NODATA with SOA', { authorities: [soa('com', 60, 60)] }, true],
    ['SERVFAIL', { flags: 0x8182, authorities: [soa('com', 60, 60)] }, false],
    ['an answer outside the chain', { answers: [a('evil.test', '192.0.2.1')] }, false],
    ['a truncated answer', { flags: 0x8380, ...ttl(10) }, false],
    ['a failure', { kind: 'failed', reason: 'timeout', text: '' }, false],
  ]
  for (const [title, answer, kept] of rows)
    test(`${title}: ${kept ? 'yes' : 'no'}`, async () => {
      const { state, ask } = answersOver(() => answer)
      await ask()
      await ask()
      expect(state.asked).toBe(kept ? 1 : 2)
    })

  test('apart by name, type and the bits that change the answer; not by case', async () => {
    const { state, ask } = answersOver(() => ({ authorities: [soa('com', 60, 60)] }))
    const different: [Parts, object][] = [
      [{}, {}],
      [{ name: 'b.example.com' }, {}],
      [{ type: AAAA }, {}],
      [{}, { dnssecOk: true }],
      [{}, { checkingDisabled: true }],
      [{}, { recursionDesired: false }],
      [{}, { authenticData: true }],
    ]
    for (const [parts, over] of different) await ask(parts, over)
    expect(state.asked).toBe(different.length)
    await ask({ name: 'API.example.COM' })
    expect(state.asked).toBe(different.length)
  })

  test('apart even where they have one number: then only the newer is kept', async () => {
    const { state, ask } = answersOver((question) => ({ name: question.name, type: question.qtype, authorities: [soa('com', 60, 60)] }), big, () => 1) // prettier-ignore
    const different: [Parts, object][] = [
      [{}, {}],
      [{}, { dnssecOk: true }],
      [{ name: 'apj.example.com' }, { dnssecOk: true }],
      [{ name: 'apj.example.com', type: AAAA }, { dnssecOk: true }],
      [{}, {}],
      [{}, { options: Uint8Array.of(0, 8, 0, 0) }],
      [{}, { options: Uint8Array.of(0, 9, 0, 0) }],
    ]
    for (const [parts, over] of different) for (let i = 0; i < 2; i++) await ask(parts, over)
    expect(state.asked).toBe(different.length)
    for (const [parts, over] of different) await ask(parts, over)
    expect(state.asked).toBe(2 * different.length)
  })

  test('within the bound of entries: the least recently used goes', async () => {
    const { state, ask } = answersOver(() => ({ authorities: [soa('com', 60, 60)] }), { ...big, entries: 2 })
    for (const name of ['a', 'b', 'a', 'c']) await ask({ name })
    expect(state.asked).toBe(3)
    await ask({ name: 'a' })
    expect(state.asked).toBe(3)
    await ask({ name: 'b' })
    expect(state.asked).toBe(4)
  })

  test('within the bound of octets: what is greater than all of it is not kept', async () => {
    const size = keptOctets(response(ttl(60)).length, 0)
    for (const [octets, asked] of [[size, 1], [size - 1, 2]] as const) {
      const { state, ask } = answersOver(() => ttl(60), { ...big, octets })
      await ask()
      expect((await ask()).kind).toBe('answer')
      expect(state.asked).toBe(asked)
    }
  }) // prettier-ignore

  test('apart by the options that go on to the upstream, and told with the octets that came', async () => {
    const { state, ask } = answersOver((question) => ({ answers: [txt(question.labels.join('.'), 300, state.asked)] }))
    const lists = [[], [0, 8, 0, 0], [0, 8, 0, 1, 7], [0, 9, 0, 1, 7]].map((octets) => Uint8Array.from(octets))
    const first = await Promise.all(lists.map((options) => ask({ type: TXT }, { options })))
    for (const [i, options] of lists.entries())
      expect(messageOf(await ask({ type: TXT }, { options }))).toEqual(messageOf(first[i] ?? expect.fail('not asked')))
    expect(state.asked).toBe(lists.length)
  })

  test('what was told stays what it was when its place is taken by another', async () => {
    const { ask } = answersOver((question) => ({ answers: [txt(question.labels.join('.'), 300, question.wire.charCodeAt(1))] }), { ...big, entries: 1 }) // prettier-ignore
    await ask({ name: 'a', type: TXT })
    const told = await ask({ name: 'a', type: TXT })
    const before = messageOf(told)
    for (const name of ['b', 'c']) await ask({ name, type: TXT })
    expect(messageOf(told)).toEqual(before)
  })

  test('as a list would that knows when each was asked for last: within both bounds, whatever the sizes', async () => {
    const step = fc.record({ name: fc.constantFrom(...'abcdefgh'), length: fc.nat(400) })
    const run = async (steps: { name: string; length: number }[], entries: number, octets: number): Promise<void> => {
      let length = 0
      const { state, ask } = answersOver((question) => ({ answers: [txt(question.labels.join('.'), length, 1)] }), { ...big, entries, octets }) // prettier-ignore
      let list: { name: string; size: number; message: Uint8Array | undefined }[] = []
      for (const each of steps) {
        ;({ length } = each)
        const before = state.asked
        const message = messageOf(await ask({ name: each.name, type: TXT }))
        const known = list.find(({ name }) => name === each.name)
        expect(state.asked - before).toBe(known === undefined ? 1 : 0)
        if (known !== undefined) expect(message).toEqual(known.message)
        const size = known?.size ?? keptOctets(message?.length ?? 0, 0)
        list = [...list.filter((other) => other !== known), { name: each.name, size, message }]
        if (size > octets) list.pop()
        while (list.length > entries || list.reduce((sum, one) => sum + one.size, 0) > octets) list.shift()
      }
    }
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 100, max: 3000 }), run)) // prettier-ignore
  })
})

describe('truncated even over TCP', () => {
  test('does not fit: nothing of it is told', async () => {
    const { ask } = answersOver(() => ({ flags: 0x8380, answers: [a('evil.test', '192.0.2.1')] }))
    expect(await ask()).toEqual({ kind: 'unfit', text: 'it is truncated even over TCP' })
  })
})

describe('behind its TTL, when nobody answers anew', () => {
  const failed: UpstreamReply = { kind: 'failed', reason: 'timeout', text: 'silent' }
  const lasting = { ...big, staleSeconds: 100 }
  /** An answer of 10 s, then what is given. */
  const after = (then: () => Parts | UpstreamReply, options = lasting): ReturnType<typeof answersOver> => {
    let first = true
    return answersOver(() => (first ? ((first = false), ttl(10)) : then()), options)
  }
  const isStale = (answered: Answered): boolean => answered.kind === 'answer' && answered.refresh !== undefined
  const rows: [title: string, then: Parts | UpstreamReply, at: number, stale: boolean, options?: AnswerOptions][] = [
    ['silence', failed, 10_000, true],
    ['silence, to the last second', failed, 109_999, true],
    ['silence, for too long', failed, 110_000, false],
    ['silence, and nothing may be stale', failed, 10_000, false, big],
    ['SERVFAIL', { flags: 0x8182 }, 10_000, true],
    ['REFUSED is an answer', { flags: 0x8185 }, 10_000, false],
    ['NXDOMAIN is an answer', { flags: 0x8183, authorities: [soa('com', 60, 60)] }, 10_000, false],
    ['what does not fit is a lie, not silence', { answers: [a('evil.test', '192.0.2.1')] }, 10_000, false],
  ] // prettier-ignore
  for (const [title, then, at, stale, options] of rows)
    test(`${title}: ${stale ? 'told' : 'not told'}`, async () => {
      const { state, ask } = after(() => then, options)
      await ask()
      state.now = at
      expect(isStale(await ask())).toBe(stale)
    })

  test('with 30 s at most, or its own TTL', async () => {
    for (const [own, told] of [[10, 10], [300, 30]] as const) {
      let said: Parts | UpstreamReply = ttl(own)
      const { state, ask } = answersOver(() => said, lasting)
      await ask()
      state.now = own * 1000
      said = failed
      expect(left(await ask())).toEqual({ left: told, age: 0, cached: true })
    }
  }) // prettier-ignore

  test('the upstream is asked again only after 30 s, unless somebody needs it', async () => {
    const { state, ask } = after(() => failed)
    await ask()
    state.now = 10_000
    const stale = await ask()
    state.now = 39_999
    await ask()
    expect(state.asked).toBe(2)
    expect(stale.kind === 'answer' && (await stale.refresh?.())).toMatchObject({ kind: 'failed' })
    expect(state.asked).toBe(3)
    state.now = 40_000
    await ask()
    expect(state.asked).toBe(4)
  })

  test('an upstream that is slow is not waited for; its answer is there for the next', async () => {
    let now = 0
    const slow = promised<UpstreamReply>()
    const replies = [Promise.resolve<UpstreamReply>({ kind: 'message', message: response(ttl(10)) }), slow.promise]
    const ask = makeAnswers(() => replies.shift() ?? expect.fail('asked again'), () => now, { ...lasting, staleAfterMillis: 1 }) // prettier-ignore
    await ask(questionOf(), flags)
    now = 10_000
    const stale = await ask(questionOf(), flags)
    expect(isStale(stale)).toBe(true)
    slow.resolve({ kind: 'message', message: response(ttl(50)) })
    expect(stale.kind === 'answer' && left((await stale.refresh?.()) ?? stale)).toMatchObject({ left: 50 })
    expect(left(await ask(questionOf(), flags))).toMatchObject({ left: 50, cached: true })
  })
})

describe('asked for in the last tenth of its TTL', () => {
  test('told from the cache, and asked for anew meanwhile, once', async () => {
    const { state, ask } = answersOver(() => ttl(100), { ...big, prefetch: true })
    await ask()
    state.now = 89_999
    await ask()
    expect(state.asked).toBe(1)
    state.now = 90_000
    expect(left(await ask())).toEqual({ left: 10, age: 90, cached: true })
    await settle()
    expect(state.asked).toBe(2)
    expect(left(await ask())).toEqual({ left: 100, age: 0, cached: true })
    expect(state.asked).toBe(2)
  })
  test('not where it is switched off, nor again within 30 s when nobody answers', async () => {
    for (const [prefetch, asked] of [[false, 1], [true, 2]] as const) {
      let said: Parts | UpstreamReply = ttl(100)
      const { state, ask } = answersOver(() => said, { ...big, prefetch })
      await ask()
      said = { kind: 'failed', reason: 'timeout', text: 'silent' }
      state.now = 95_000
      for (let i = 0; i < 3; i++) {
        expect(left(await ask())).toEqual({ left: 5, age: 95, cached: true })
        await settle()
      }
      expect(state.asked).toBe(asked)
    }
  }) // prettier-ignore
})

describe('under way', () => {
  test('equal questions share one upstream question, also its failure', async () => {
    for (const reply of [
      { kind: 'message', message: response(ttl(0)) },
      { kind: 'failed', reason: 'timeout', text: 'silent' },
    ] as const) {
      let asked = 0
      const upstream = promised<UpstreamReply>()
      const ask = makeAnswers(() => (asked++, upstream.promise), () => 0, big) // prettier-ignore
      const both = [ask(questionOf(), flags), ask(questionOf({ name: 'API.example.com' }), flags)]
      upstream.resolve(reply)
      const [one, other] = await Promise.all(both)
      expect(asked).toBe(1)
      expect(other).toBe(one)
      await ask(questionOf(), flags)
      expect(asked, 'afterwards it is asked anew').toBe(2)
    }
  })

  test('different questions do not', async () => {
    const { state, ask } = answersOver(() => ttl(60))
    await Promise.all([ask(), ask({ type: AAAA })])
    expect(state.asked).toBe(2)
  })
})
