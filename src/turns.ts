// Long computations in turns of the event loop: questions are answered between them.
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Steps } from './steps.ts'

/** A turn is this long: short beside the patience of a resolver (seconds), long beside what a turn costs (20 us). */
const turnMillis = 8

/** Runs a computation to its end, `turnMillis` at a time. */
export async function inTurns<T>(steps: Steps<T>): Promise<T> {
  for (let start = performance.now(); ;) {
    const step = steps.next()
    if (step.done === true) return step.value
    if (performance.now() - start < turnMillis) continue
    await nextTurn()
    start = performance.now()
  }
}
