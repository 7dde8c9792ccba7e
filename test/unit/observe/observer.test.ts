// Outcomes that are told again: cheap when they are written, and the same flows when they are read and counted.
import { expect, test } from 'vitest'
import { makeObserver } from '../../../src/observe/observer.ts'
import type { Outcome } from '../../../src/proxy/handle.ts'
import { at } from '../../support/agent.ts'
import { showWorld } from '../api/view.ts'

const question = {
  name: 'api.example.com',
  labels: [],
  qtype: 1,
  qclass: 1,
  octets: new Uint8Array(),
  wire: '',
} as never
const said = { reply: new Uint8Array(12), question, source: at('10.1.0.2'), endpoint: undefined, transport: 'udp', basis: undefined, rcode: 0, why: { text: 'because' } } as const // prettier-ignore
const answered: Outcome & { ttlSeconds: number } = { ...said, kind: 'answered', addresses: [at('198.18.0.1')], ttlSeconds: 60, leased: true, committed: 0, cached: true, stale: false, stripped: false } // prettier-ignore

function observe(): { observer: ReturnType<typeof makeObserver>; seen: Map<string, number>; pass: (millis: number) => void } {
  let now = 1_000_000
  const observer = makeObserver({ snapshot: showWorld().snapshot, capacity: 65535, place: { cluster: 'default', node: 'n' }, now: () => now }) // prettier-ignore
  const seen = new Map<string, number>()
  observer.tap(({ kind }, times) => seen.set(kind, (seen.get(kind) ?? 0) + times))
  return { observer, seen, pass: (millis) => (now += millis) }
} // prettier-ignore

test('told again is what a question is, with its own time, port and TTL', () => {
  const [one, other] = [observe(), observe()]
  const again = { ...answered }
  for (const [i, ttlSeconds] of [60, 59, 1].entries()) {
    again.ttlSeconds = ttlSeconds
    one.observer.again(again, 40_000 + i)
    other.observer.question({ ...answered, ttlSeconds }, 0, 40_000 + i)
    one.pass(1000)
    other.pass(1000)
  }
  const entries = ({ observer: { ring } }: typeof one): unknown[] => [0, 1, 2, 3, 4, 5, 6].map((number) => ring.at(number)) // prettier-ignore
  expect(entries(one)).toEqual(entries(other))
  expect(one.observer.status()).toEqual(other.observer.status())
  expect(one.observer.namespaces()).toEqual(other.observer.namespaces())
  one.observer.settle()
  expect(one.seen).toEqual(new Map([['query', 3], ['answer', 3]])) // prettier-ignore
  expect(one.seen).toEqual(other.seen)
})

test('counted once, when somebody wants to know, and at the latest when many wait', () => {
  const { observer, seen } = observe()
  const one = { ...answered }
  for (let i = 0; i < 5; i++) observer.again(one, 1)
  expect(seen.size).toBe(0)
  observer.settle()
  observer.settle()
  expect(seen.get('query')).toBe(5)
  for (let i = 0; i < 16_385; i++) observer.again({ ...answered }, 1)
  expect(seen.get('query')).toBe(5 + 4096)
  observer.again(one, 1)
  observer.settle()
  expect(seen.get('answer')).toBe(5 + 16_386)
})

test('what was dropped and what was refused', () => {
  const { observer, seen } = observe()
  observer.again({ kind: 'ignored', why: { text: '' } }, 1)
  expect(observer.ring.end()).toBe(0)
  observer.again({ ...said, rcode: 5, kind: 'refused', reason: 'policy' }, 1)
  expect(observer.ring.at(1)).toMatchObject({ kind: 'answer', verdict: 'DROPPED', refused: 'policy', rcode: 5, ttlSeconds: 0 }) // prettier-ignore
  observer.settle()
  expect(seen.get('answer')).toBe(1)
})
