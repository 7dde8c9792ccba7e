// What is told again: the story's octets or nothing, and never an address that the kernel does not hold for as long as is told.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { LeaseElement } from '../../../src/datapath/element.ts'
import type { LeaseLimits } from '../../../src/leases/lease.ts'
import { makeLeases } from '../../../src/leases/leases.ts'
import type { Address } from '../../../src/net/address.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { makeAnswers } from '../../../src/proxy/answers.ts'
import { handle, type Outcome } from '../../../src/proxy/handle.ts'
import { makeReplays } from '../../../src/proxy/replay.ts'
import { a, AAAA, cname, HTTPS, opt, query, response, soa, type Parts } from '../wire/build.ts'
import type { BudgetLimits } from '../../../src/proxy/budgets.ts'
import { at, grant, nothingBeside, raise, snapshotOf, stranger, web } from './world.ts'

const limits: LeaseLimits = { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 200, addressesPerNameMax: 100, leasesMax: 1000 } // prettier-ignore
const spareMillis = 15_000

/** What the upstream says, by name. */
const zone: Readonly<Record<string, Parts>> = {
  'api.example.com': { answers: [cname('api.example.com', 'b', 50), a('b', '192.0.2.1', 60), a('b', '192.0.2.2', 300)] }, // prettier-ignore
  'short.example.com': { answers: [a('short.example.com', '192.0.2.1', 5)] },
  'long.example.com': { answers: [a('long.example.com', '192.0.2.3', 900)] },
  'never.example.com': { answers: [a('never.example.com', '192.0.2.4', 0)] },
  'none.example.com': { flags: 0x8183, authorities: [soa('example.com', 40, 40)] },
  'broken.example.com': { flags: 0x8182 },
  'evil.test': {},
  // What a search list made of a name that may be asked; a public name that leads inside; one of which a part does; an alias of what may be asked.
  'api.example.com.cluster.local': { flags: 0x8183 },
  'inside.example.com': { answers: [a('inside.example.com', '10.0.0.1', 60)] },
  'half.example.com': { answers: [a('half.example.com', '10.0.0.1', 60), a('half.example.com', '192.0.2.5', 60)] },
  'alias.test': { answers: [cname('alias.test', 'api.example.com', 60), a('api.example.com', '192.0.2.1', 60)] },
}
const names = Object.keys(zone)
/** Of other types there is nothing, for 40 s. Numbered names, in letters, have a time of their own: 1000 s and their number. */
const numbered = (i: number): string => [...String(i)].map((digit) => 'abcdefghij'.charAt(Number(digit))).join('')
const ttlOf = (name: string): number => {
  const [first = '', ...rest] = name.split('.')
  if (rest.join('.') !== 'numbered.test') return 40
  return 1000 + Number([...first].map((letter) => 'abcdefghij'.indexOf(letter)).join(''))
}

const alwaysDenied = ['evil.test', 'api.example.com.cluster.local', 'alias.test']
/** A proxy on a clock of its own, over a kernel that holds what was committed until somebody flushes it. */
function proxy(
  over: Partial<LeaseLimits> = {},
  budget: Partial<BudgetLimits> = {},
  { privateAnswers, followsAliases }: { privateAnswers: 'refuse' | 'strip'; followsAliases: boolean } = {
    privateAnswers: 'refuse',
    followsAliases: false,
  },
) {
  const state = {
    now: 0,
    epoch: 1,
    kernelRefuses: false,
    upstreamFails: false,
    asked: 0,
    denied: alwaysDenied,
    revision: 1,
  }
  const kernel = new Map<string, number>()
  const keyOf = ({ identity, address }: Pick<LeaseElement, 'identity' | 'address'>): string => `${identity} ${address}`
  const clock = (): number => state.now
  const leases = makeLeases(clock, () => state.epoch, { ...limits, ...over })
  const outcomes: Outcome[] = []
  let made: Snapshot | undefined
  const snapshot = (): Snapshot =>
    made?.revision === state.revision
      ? made
      : (made = snapshotOf({
          revision: state.revision,
          followsAliases,
          mayAsk: (name) => !state.denied.includes(name),
          grants: (name) => (state.denied.includes(name) ? [] : [{ ...grant, followsAliases: true }]),
        }))
  const ask = makeAnswers(
    (question) => {
      state.asked++
      if (state.upstreamFails) return Promise.resolve({ kind: 'failed', reason: 'timeout', text: 'nobody answers' })
      return Promise.resolve({
        kind: 'message',
        message: response({ name: question.name, type: question.qtype, ...(question.qtype === 1 ? zone[question.name] : { authorities: [soa('example.com', ttlOf(question.name), 9999)] }) }), // prettier-ignore
      })
    },
    clock,
    { entries: 100, octets: 1_000_000, staleSeconds: 100, staleAfterMillis: 1000, prefetch: true },
  )
  const parts = {
    snapshot,
    unknownEndpoint: 'deny' as const,
    ...nothingBeside({ ...budget, privateAnswers }, clock),
    ask,
    learn: ({ grants, ...fact }: Parameters<Parameters<typeof handle>[0]['learn']>[0]) =>
      leases.learn({ ...fact, ports: grants.flatMap(({ ports }) => (ports.kind === 'ports' ? [ports as never] : [])) }),
    commit({ elements }: { elements: readonly LeaseElement[] }) {
      leases.sending(elements)
      if (state.kernelRefuses && elements.length > 0) {
        leases.refused(elements)
        for (const element of leases.retract(elements).remove) kernel.delete(keyOf(element))
        return Promise.reject(new Error('ENOSPC'))
      }
      for (const element of elements) kernel.set(keyOf(element), state.now + element.timeoutMillis)
      leases.committed(elements, state.now, state.epoch)
      return Promise.resolve()
    },
    standsFor({ identity, name, addresses }: Parameters<Parameters<typeof handle>[0]['standsFor']>[0]) {
      const assured = leases.assured(identity, name, addresses)
      return assured?.epoch === state.epoch ? Math.max(0, Math.floor((assured.tellUntil - state.now) / 1000)) : 0
    },
    // One object hears of every replay: a copy is what is kept.
    report: (outcome: Outcome) => void outcomes.push({ ...outcome }),
  }
  const replays = makeReplays({ clock, revision: () => snapshot().revision, epoch: () => state.epoch, leases, budgets: parts.budgets, entries: 1, report: parts.report }) // prettier-ignore
  const buffer = new Uint8Array(8192)
  /** The replay of a message that lies anywhere in memory, written anywhere. */
  function again(message: Uint8Array, source: Address = web): Uint8Array | undefined {
    const around = Uint8Array.from([...Array<number>(7).fill(0xff), ...message, 0xee, 0xee])
    buffer.fill(0xdd)
    replays.turn()
    const length = replays.replay(around, 7, 7 + message.length, source, buffer, 100, 1000)
    expect(buffer[99]).toBe(0xdd)
    expect(buffer[100 + length]).toBe(0xdd)
    return length === 0 ? undefined : buffer.slice(100, 100 + length)
  }
  async function tell(message: Uint8Array, source: Address = web): Promise<Uint8Array> {
    const outcome = await handle(parts, message, source, 'udp')
    replays.keep(message, outcome)
    return outcome.kind === 'ignored' ? new Uint8Array() : outcome.reply
  }
  return {
    state,
    kernel,
    leases,
    outcomes,
    again,
    tell,
    drop: (name: string) => {
      for (const element of leases.drop((lease) => lease.name === name).remove) kernel.delete(keyOf(element))
    },
    flush: () => {
      kernel.clear()
      state.epoch++
    },
    deny: (denied: string[]) => {
      Object.assign(state, { denied, revision: state.revision + 1 })
    },
    holdsFor: (address: Address) => (kernel.get(keyOf({ identity: 256, address })) ?? 0) - state.now,
  }
}

async function warm(parts: Parts = {}, over: Partial<LeaseLimits> = {}): Promise<ReturnType<typeof proxy>> {
  const world = proxy(over)
  await world.tell(query(parts))
  await world.tell(query(parts))
  return world
}
const other = { id: 0xbeef, name: 'aPI.ExAmple.coM' }

describe('told again', () => {
  test('with the ID and the case of who asks, and what is left of the TTL', async () => {
    const world = await warm()
    world.state.now = 10_500
    const again = world.again(query(other)) ?? raise('declined')
    expect(again).toEqual(await world.tell(query(other)))
    expect(world.outcomes.slice(2)).toMatchObject([
      { kind: 'answered', cached: true, committed: 0, ttlSeconds: 40 },
      { kind: 'answered', cached: true, committed: 0, ttlSeconds: 40 },
    ])
  })

  test('a refusal', async () => {
    const world = await warm({ name: 'evil.test' })
    const [asked] = [query({ id: 7, name: 'EVIL.test' })]
    expect(world.again(asked)).toEqual(await world.tell(asked))
    expect(world.outcomes.at(-2)).toMatchObject({ kind: 'refused', rcode: 5 })
  })

  test('not at the first time: what is asked once drives out nobody', async () => {
    const world = proxy()
    await world.tell(query())
    expect(world.again(query())).toBeUndefined()
  })
})

describe('not told again', () => {
  const changes: [what: string, change: (world: ReturnType<typeof proxy>) => void][] = [
    ['policy changed', (world) => world.deny(['evil.test'])],
    ['the table was flushed', (world) => world.flush()],
    ['its lease was cleaned (DELETE /v1/fqdn/cache)', (world) => world.drop('api.example.com')],
    ['the answer is over', (world) => (world.state.now = 50_000)],
    ['grants were asked anew', (world) => void world.leases.regrant(() => [], () => true)],
  ] // prettier-ignore
  for (const [what, change] of changes)
    test(`when ${what}`, async () => {
      const world = await warm()
      expect(world.again(query())).toBeDefined()
      change(world)
      expect(world.again(query())).toBeUndefined()
    })

  test('when the lease ends before the TTL that would be told and the spare time', async () => {
    // The kernel holds the address from the first asking on; the second answer is a new one, which needed no commit.
    const world = await warm({ name: 'long.example.com' })
    for (; world.state.now < 880_000; world.state.now += 1000) {
      const [told] = [world.again(query({ name: 'long.example.com' }))]
      if (told === undefined) break
    }
    // At most 200 s are told; 230 s after the first asking the kernel lets go.
    expect(world.state.now).toBe(16_000)
    expect(world.holdsFor(at('192.0.2.3'))).toBe(214_000)
  })

  test('what is shorter than the shortest lease: whenever it is told, the lease is prolonged', async () => {
    const world = await warm({ name: 'short.example.com' }, { ttlMinSeconds: 10 })
    expect(world.again(query({ name: 'short.example.com' }))).toBeUndefined()
  })

  test('in the last tenth of the TTL: the story asks anew meanwhile', async () => {
    const world = await warm()
    world.state.now = 44_000
    expect(world.again(query())).toBeDefined()
    world.state.now = 45_000
    expect(world.again(query())).toBeUndefined()
    await world.tell(query())
    expect(world.state.asked).toBe(2)
  })

  test('beyond the budget: and what is told again costs', async () => {
    const world = proxy({}, { queriesPerSecond: 2 })
    for (let i = 0; i < 2; i++) await world.tell(query())
    for (let i = 0; i < 2; i++) expect(world.again(query())).toBeDefined()
    expect(world.again(query())).toBeUndefined()
    await world.tell(query())
    expect(world.outcomes.at(-1)).toMatchObject({ kind: 'refused', reason: 'queries' })
  })

  test('an answer whose TTL is over, told since nobody answers', async () => {
    const world = await warm()
    Object.assign(world.state, { now: 51_000, upstreamFails: true })
    for (let i = 0; i < 2; i++) await world.tell(query())
    expect(world.outcomes.at(-1)).toMatchObject({ kind: 'answered', stale: true })
    expect(world.again(query())).toBeUndefined()
  })

  const base: Parts = { name: 'api.example.com' }
  const withOpt = { ...base, additionals: [opt()] }
  const unlike: [what: string, message: Uint8Array, source?: Address][] = [
    ['from another source', query(base), stranger],
    ['of another type', query({ ...base, type: AAAA })],
    ['of another class', query({ ...base, class: 3 })],
    ['with CD', query({ ...base, flags: 0x0110 })],
    ['without RD', query({ ...base, flags: 0 })],
    ['with OPT', query({ ...base, additionals: [opt()] })],
    ['for a longer name', query({ ...base, name: 'api.example.comm' })],
    ['with another length octet', Uint8Array.from(query(base), (octet, i) => (i === 12 ? 3 | 0x20 : octet))],
    ['a response', response(base)],
    ['cut off', query(base).subarray(0, -1)],
    ['with more behind it', Uint8Array.from([...query(base), 0])],
    ['of nothing but a header', query(base).subarray(0, 12)],
    ['empty', new Uint8Array()],
  ]
  // Most differ in the bit that the number under which they are kept does not see.
  const unlikeOpt: [what: string, message: Uint8Array][] = [
    ['without OPT', query(base)],
    ['with another size', query({ ...base, additionals: [opt(1232 | 0x20)] })],
    ['with DO', query({ ...base, additionals: [opt(1232, { dnssecOk: true })] })],
    ['of another version', query({ ...base, additionals: [opt(1232, { version: 0x20 })] })],
    ['with another record in its place', query({ ...base, additionals: [{ ...opt(), type: 42 }] })],
    ['with OPT below another name', query(withOpt).map((octet, i, { length }) => (i === length - 11 ? 0x20 : octet))],
    ['with a count of its options that is not true', query(withOpt).map((octet, i, { length }) => (i === length - 1 ? 0x20 : octet))],
    ['with AD', query({ ...withOpt, flags: 0x0120 })],
    ['with a count of questions that is not one', query({ ...withOpt, counts: [0x21, 0, 0, 1] })],
    ['with a count of additional records that is not one', query({ ...withOpt, counts: [1, 0, 0, 0x21] })],
  ] // prettier-ignore
  for (const [what, message] of unlikeOpt)
    test(`where there was OPT, a message ${what}`, async () => {
      const world = await warm(withOpt)
      expect(world.again(query(withOpt))).toBeDefined()
      expect(world.again(message)).toBeUndefined()
    })
  for (const [what, message, source] of unlike)
    test(`a message ${what}`, async () => expect((await warm(base)).again(message, source)).toBeUndefined())

  test('type 65 is not type 97, though names fold so', async () => {
    const world = await warm({ type: HTTPS })
    expect(world.again(query({ type: HTTPS }))).toBeDefined()
    expect(world.again(query({ type: 97 }))).toBeUndefined()
  })

  const cookie = { ...opt(), data: [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8] }
  const unkept: [what: string, parts: Parts][] = [
    ['an answer with TTL 0', { name: 'never.example.com' }],
    ['SERVFAIL', { name: 'broken.example.com' }],
    ['an answer to a message with options', { additionals: [cookie] }],
  ]
  for (const [what, parts] of unkept)
    test(what, async () => expect((await warm(parts)).again(query(parts))).toBeUndefined())
})

test('a commit that the kernel refused is not relied upon', async () => {
  const world = proxy()
  world.state.kernelRefuses = true
  for (let i = 0; i < 3; i++) expect((await world.tell(query()))[3]).toBe(0x82)
  expect(world.again(query())).toBeUndefined()
})

test('at the bound the older goes, and nothing else is told', async () => {
  const world = proxy(
    {},
    { queriesPerSecond: 100_000, namesPerDomainPerMinute: 100_000, nameOctetsPerMinute: 1_000_000 },
  )
  const many = Array.from({ length: 5000 }, (_, i) => query({ name: `${numbered(i)}.numbered.test`, type: AAAA }))
  for (const message of many) for (let i = 0; i < 2; i++) await world.tell(message)
  const told = many.filter((message, i) => {
    if (world.again(message) === undefined) return false
    expect(world.outcomes.at(-1)).toMatchObject({ ttlSeconds: 1000 + i })
    return true
  })
  expect(told.length).toBeGreaterThan(500)
  expect(told.length).toBeLessThanOrEqual(1024)
})

type Step =
  | { readonly kind: 'ask'; readonly name: string; readonly id: number; readonly upper: number; readonly flags: number; readonly type: number; readonly edns: number; readonly stranger: boolean }
  | { readonly kind: 'wait'; readonly millis: number }
  | { readonly kind: 'flush' | 'refuse' | 'silence' }
  | { readonly kind: 'drop'; readonly name: string }
  | { readonly kind: 'policy'; readonly denied: string[] } // prettier-ignore

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 40, arbitrary: fc.record({ kind: fc.constant('ask' as const), name: fc.constantFrom(...names, ...names.slice(0, 3), ...names.slice(0, 3)), id: fc.nat(0xffff), upper: fc.nat(0xffff), flags: fc.constantFrom(...Array<number>(8).fill(0x0100), 0x0120, 0), type: fc.constantFrom(...Array<number>(8).fill(1), 28, 65), edns: fc.constantFrom(...Array<number>(8).fill(0), 1, 2), stranger: fc.constantFrom(...Array<boolean>(9).fill(false), true) }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('wait' as const), millis: fc.nat(8000) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'refuse' as const, 'silence' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('drop' as const), name: fc.constantFrom(...names) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('policy' as const), denied: fc.subarray(names) }) },
) // prettier-ignore

const cased = (name: string, upper: number): string =>
  [...name].map((c, i) => ((upper >> (i % 16)) & 1 ? c.toUpperCase() : c)).join('')
function messageOf({ name, id, upper, flags, type, edns }: Step & { kind: 'ask' }): Uint8Array {
  const additionals = edns === 0 ? [] : [opt(1232, { dnssecOk: edns === 2 })]
  return query({ name: cased(name, upper), id, flags, type, additionals })
}

const tight: Partial<BudgetLimits> = {
  queriesPerSecond: 4,
  namesPerDomainPerMinute: 5,
  nxdomainFrom: 4,
  nxdomainShare: 0.3,
}
test('whatever happens: the same octets as the story alone, and the kernel holds every address that is told', async () => {
  let [told, again] = [0, 0]
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 40, maxLength: 200 }),
      fc.constantFrom({}, {}, tight),
      fc.record({ privateAnswers: fc.constantFrom('refuse', 'strip'), followsAliases: fc.boolean() }),
      async (steps, budget, rules) => {
        const world = proxy({}, budget, rules)
        // The same world without replays: it always asks the story.
        const twin = proxy({}, budget, rules)
        for (const each of steps)
          for (const one of [world, twin]) {
            one.leases.expire()
            if (each.kind === 'wait') one.state.now += each.millis
            if (each.kind === 'flush') one.flush()
            if (each.kind === 'refuse') one.state.kernelRefuses = !one.state.kernelRefuses
            if (each.kind === 'silence') one.state.upstreamFails = !one.state.upstreamFails
            if (each.kind === 'drop') one.drop(each.name)
            if (each.kind === 'policy') one.deny(each.denied)
            if (each.kind !== 'ask' || one === twin) continue
            const [message, source] = [messageOf(each), each.stranger ? stranger : web]
            const replayed = world.again(message, source)
            const reply = replayed ?? (await world.tell(message, source))
            told++
            if (replayed !== undefined) again++
            const expected = await twin.tell(message, source)
            const isRefused = world.state.kernelRefuses && ((reply[3] ?? 0) & 15) !== ((expected[3] ?? 0) & 15)
            // One that replays had no reason to commit when the other had one, and the reverse: then a kernel that refuses makes a difference.
            const story = twin.outcomes.at(-1)
            const isStale = story?.kind === 'answered' && story.stale
            // Nor is a lease prolonged by what is told again: then what nobody answers any more can be told for less long.
            if (isStale) expect(replayed).toBeUndefined()
            else if (!isRefused && !world.state.upstreamFails) expect(reply).toEqual(expected)
            // What was told of is counted as the story counts it.
            if (replayed !== undefined && !isRefused && !isStale) expect(world.outcomes.at(-1)?.kind).toBe(story?.kind)
            const outcome = world.outcomes.at(-1)
            if (outcome?.kind !== 'answered') continue
            for (const address of outcome.addresses)
              expect(world.holdsFor(address)).toBeGreaterThanOrEqual(outcome.ttlSeconds * 1000 + spareMillis)
          }
      },
    ),
    { numRuns: 100 },
  )
  // Both ways were gone.
  expect(again).toBeGreaterThan(told / 20)
  expect(again).toBeLessThan(told)
})
