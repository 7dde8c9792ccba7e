// One timer for the earliest of many deadlines.
import type { Clock, Millis } from './clock.ts'

export interface Alarm {
  /** Rings at `at` or when it was armed for before, whichever is earlier. */
  readonly arm: (at: Millis | undefined) => void
  readonly stop: () => void
}

/** setTimeout takes no more than 2^31-1 ms; a longer wait rings early and is armed again. */
const waitMillisMax = 2 ** 31 - 1

/** @param ring does what is due and gives the next moment, if there is one. */
export function makeAlarm(clock: Clock, ring: () => Millis | undefined): Alarm {
  let timer: NodeJS.Timeout | undefined
  let armedFor = Infinity

  function arm(at: Millis | undefined): void {
    if (at === undefined || at >= armedFor) return
    clearTimeout(timer)
    armedFor = at
    timer = setTimeout(
      () => {
        armedFor = Infinity
        arm(ring())
      },
      Math.min(waitMillisMax, Math.max(0, Math.ceil(at - clock()))),
    )
    timer.unref()
  }
  return { arm, stop: () => clearTimeout(timer) }
}
