// The last flows, for any number of readers. A reader is a place in the ring and nothing else: one that is slow or dead costs the others
// nothing, is overtaken, and is then told how many it has missed.
import type { Flow } from './flow.ts'

/** Hubble's default and its most. */
export const capacityDefault = 4095
export const capacityMax = 65535

export interface Lost {
  readonly kind: 'lost'
  /** `ring`: the reader was overtaken; `kernel`: packets that the kernel did not tell of. */
  readonly source: 'ring' | 'kernel'
  readonly count: number
  readonly time: number
}
export type Entry = Flow | Lost

export interface Reader {
  /** The next entry; undefined when there is none yet. */
  readonly next: () => Entry | undefined
  /** Resolves when there may be more, or when `signal` is aborted. */
  readonly wait: (signal: AbortSignal) => Promise<void>
}

export interface Ring {
  readonly write: (entry: Entry) => void
  /** Where the next entry will stand: entries have numbers from 0. */
  readonly end: () => number
  /** The number of the oldest entry that is still there. */
  readonly oldest: () => number
  readonly at: (number: number) => Entry | undefined
  /** A reader that begins with this number, or with the oldest if that is gone already (without being told of a loss). */
  readonly reader: (from: number) => Reader
  readonly capacity: number
  /** Readers that were overtaken, by entries lost. */
  readonly lost: () => number
}

/** Whether a ring may have this many entries: 2^n - 1, so that a place is a mask away. */
export function isCapacity(entries: number): boolean {
  return entries >= 1 && entries <= capacityMax && Number.isInteger(entries) && (entries & (entries + 1)) === 0
}

/** An empty ring. @param now the time of losses, in milliseconds since 1970. */
export function makeRing(capacity: number, now: () => number): Ring {
  if (!isCapacity(capacity)) throw new RangeError(`a ring holds 2^n-1 flows, at most ${capacityMax}; not ${capacity}`)
  const mask = capacity
  const slots = new Array<Entry | undefined>(capacity + 1).fill(undefined)
  let end = 0
  let lost = 0
  let waiting: (() => void)[] = []

  const oldest = (): number => Math.max(0, end - capacity)
  function write(entry: Entry): void {
    slots[end++ & mask] = entry
    // Once for all that comes in this turn of the event loop: whoever writes does not wait for readers.
    if (waiting.length > 0) {
      const called = waiting
      waiting = []
      setImmediate(() => {
        for (const resolve of called) resolve()
      })
    }
  }
  const at = (number: number): Entry | undefined => number >= oldest() && number < end ? slots[number & mask] : undefined // prettier-ignore

  function reader(from: number): Reader {
    let place = Math.max(from, oldest())
    return {
      next() {
        const first = oldest()
        if (place < first) {
          const count = first - place
          place = first
          lost += count
          return { kind: 'lost', source: 'ring', count, time: now() }
        }
        return place < end ? slots[place++ & mask] : undefined
      },
      wait: (signal) =>
        new Promise((resolve) => {
          if (signal.aborted || place < end) {
            resolve()
            return
          }
          const done = (): void => {
            signal.removeEventListener('abort', cancelled)
            resolve()
          }
          const cancelled = (): void => {
            waiting = waiting.filter((each) => each !== done)
            resolve()
          }
          signal.addEventListener('abort', cancelled, { once: true })
          waiting.push(done)
        }),
    }
  }
  return { write, end: () => end, oldest, at, reader, capacity, lost: () => lost }
}
