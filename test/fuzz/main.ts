// `npm run fuzz [-- COUNT [SEED]]`: mutated messages through all readers, 10 million by default. Says the message that failed, and ends with 1.
import { makeRandom, mutate, tryOut } from './mutate.ts'

const [count, seed] = [Number(process.argv[2] ?? 10_000_000), Number(process.argv[3] ?? Date.now() % 2 ** 32)]
/** No message may take longer: a hang is found even where it ends. */
const slowMillis = 50
const random = makeRandom(seed)
let taken = 0
let slow = 0
for (let i = 0; i < count; i++) {
  const message = mutate(random)
  const started = performance.now()
  try {
    if (tryOut(message)) taken++
  } catch (error) {
    console.error(`message ${i} of seed ${seed}: ${Buffer.from(message).toString('hex')}`)
    console.error(error)
    process.exit(1)
  }
  // Once may be the collector's or another process's doing; the same message twice is not.
  if (performance.now() - started > slowMillis) {
    const again = performance.now()
    tryOut(message)
    if (performance.now() - again > slowMillis) {
      console.error(`slow: ${Buffer.from(message).toString('hex')}`)
      slow++
    }
  }
}
console.log(`${count} messages of seed ${seed}: ${taken} taken as answers, no throw, ${slow} slow`)
process.exitCode = slow > 0 ? 1 : 0
