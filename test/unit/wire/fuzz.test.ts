// A fixed number of mutated messages; `npm run fuzz` goes through millions.
import { expect, test } from 'vitest'
import { makeRandom, mutate, tryOut } from '../../fuzz/mutate.ts'

test('100 000 mutated messages: no throw, nothing from outside the chain', () => {
  const random = makeRandom(4)
  let taken = 0
  for (let i = 0; i < 100_000; i++) if (tryOut(mutate(random))) taken++
  // Else they are all refused at once, and nothing is tested.
  expect(taken).toBeGreaterThan(5_000)
})
