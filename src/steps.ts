// Long computations as steps: pure code says where it may be interrupted, whoever calls it decides whether it is.

/** A computation that stops now and then, at no more than about a millisecond's distance, and gives its result at the end. */
export type Steps<T> = Generator<void, T, void>

/** Runs a computation to its end without a stop. */
export function atOnce<T>(steps: Steps<T>): T {
  for (;;) {
    const step = steps.next()
    if (step.done === true) return step.value
  }
}
