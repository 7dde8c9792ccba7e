// Octets in blocks: what is read is what was put, whatever came and went between, and room that was given back is used again.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { headOctetsMax, makeBlocks, takenFor } from '../../../src/proxy/blocks.ts'

const octets = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff)

test('what is read is what was put', () => {
  const step = fc.record({ head: fc.nat(100), body: fc.nat(300), remove: fc.boolean(), which: fc.nat(1000) })
  const run = (steps: { head: number; body: number; remove: boolean; which: number }[]): void => {
    const blocks = makeBlocks()
    const held: { block: number; all: Uint8Array }[] = []
    for (const [i, { head, body, remove, which }] of steps.entries()) {
      const [first, second] = [octets(head, i), octets(body, i + 100)]
      held.push({ block: blocks.put(first, second), all: Uint8Array.from([...first, ...second]) })
      if (remove) for (const { block } of held.splice(which % held.length, 1)) blocks.remove(block)
      for (const { block, all } of held) {
        expect(Uint8Array.from(blocks.read(block))).toEqual(all)
        expect(Uint8Array.from(blocks.head(block))).toEqual(all.slice(0, headOctetsMax))
      }
    }
  }
  fc.assert(fc.property(fc.array(step, { maxLength: 40 }), run))
})

test('the head may be written to', () => {
  const blocks = makeBlocks()
  const block = blocks.put(octets(8, 0), octets(100, 1))
  blocks.head(block)[3] = 0xee
  expect([...blocks.read(block).subarray(0, 5)]).toEqual([0, 7, 14, 0xee, 28])
})

test('blocks that were given back are taken first, and no more are taken than is counted', () => {
  const blocks = makeBlocks()
  let most = 0
  for (let round = 0; round < 100; round++) {
    const held = [1, 60, 61, 500].map((length) => blocks.put(octets(0, 0), octets(length, round)))
    most = Math.max(most, ...held)
    for (const block of held) blocks.remove(block)
  }
  const blocksOf = (length: number): number => takenFor(length) / takenFor(1)
  expect(most).toBeLessThan([1, 60, 61, 500].reduce((sum, length) => sum + blocksOf(length), 0))
  expect([1, 60, 61, 500].map(blocksOf)).toEqual([1, 1, 2, 8])
})

test('over many pages', () => {
  const blocks = makeBlocks()
  const places = Array.from({ length: 40_000 }, (_, i) => blocks.put(octets(4, i), octets(60, i)))
  for (let i = 0; i < places.length; i += 997)
    expect(Uint8Array.from(blocks.read(places[i] ?? -1))).toEqual(Uint8Array.from([...octets(4, i), ...octets(60, i)]))
})
