// The ring: what readers see, in order, and what they are told they have missed.
import { describe, expect, test } from 'vitest'
import type { Flow } from '../../../src/observe/flow.ts'
import { answer, query } from './flows.ts'
import { isCapacity, makeRing, type Reader } from '../../../src/observe/ring.ts'

const flow = (n: number): Flow => ({ kind: 'commit', time: n, why: undefined, elements: 1, millis: 0, acknowledged: true }) // prettier-ignore
const read = (reader: Reader): (number | string)[] => {
  const seen: (number | string)[] = []
  for (let entry = reader.next(); entry !== undefined; entry = reader.next())
    seen.push(entry.kind === 'lost' ? `lost ${entry.count}` : entry.time)
  return seen
}

describe('ring', () => {
  test('what is like another is read with its own time, port and TTL, and a later entry in its place as it is', () => {
    const ring = makeRing(3, () => 0)
    ring.writeAgain(query(), 7, 40_001, 0)
    ring.writeAgain(answer(), 8, 40_002, 30)
    expect([ring.at(0), ring.at(1)]).toEqual([{ ...query(), time: 7, clientPort: 40_001 }, { ...answer(), time: 8, clientPort: 40_002, ttlSeconds: 30 }]) // prettier-ignore
    for (let i = 2; i < 6; i++) ring.write(flow(i))
    expect(read(ring.reader(3))).toEqual([3, 4, 5])
  })
  test('holds 2^n-1 entries and nothing else', () => {
    expect([0, 1, 2, 3, 7, 8, 4095, 65535, 131071].filter(isCapacity)).toEqual([1, 3, 7, 4095, 65535])
    expect(() => makeRing(4, () => 0)).toThrow(RangeError)
  })
  test('a reader sees all in order, each once', () => {
    const ring = makeRing(3, () => 0)
    const reader = ring.reader(0)
    expect(read(reader)).toEqual([])
    for (let i = 0; i < 3; i++) ring.write(flow(i))
    expect(read(reader)).toEqual([0, 1, 2])
    ring.write(flow(3))
    expect(read(reader)).toEqual([3])
  })
  test('one that is overtaken is told how many, and goes on with the oldest; others are not', () => {
    const ring = makeRing(3, () => 0)
    const [slow, fast] = [ring.reader(0), ring.reader(0)]
    const seen: (number | string)[] = []
    for (let i = 0; i < 10; i++) {
      ring.write(flow(i))
      seen.push(...read(fast))
    }
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(read(slow)).toEqual(['lost 7', 7, 8, 9])
    expect(ring.lost()).toBe(7)
  })
  test('one that begins with what is gone has lost nothing', () => {
    const ring = makeRing(3, () => 0)
    for (let i = 0; i < 10; i++) ring.write(flow(i))
    expect(read(ring.reader(2))).toEqual([7, 8, 9])
    expect(ring.at(6)).toBeUndefined()
    expect(ring.at(7)).toEqual(flow(7))
  })
  test('who waits is woken by a write, or by giving up', async () => {
    const ring = makeRing(3, () => 0)
    const reader = ring.reader(0)
    const waiting = reader.wait(new AbortController().signal)
    ring.write(flow(1))
    await waiting
    expect(read(reader)).toEqual([1])
    const giveUp = new AbortController()
    const second = reader.wait(giveUp.signal)
    giveUp.abort()
    await second
    expect(read(reader)).toEqual([])
  })
})
