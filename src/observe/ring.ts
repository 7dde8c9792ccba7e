// The last flows, for any number of readers. A reader is a place in the ring and nothing else: one that is slow or dead costs the others
// nothing, is overtaken, and is then told how many it has missed.
import type { AnswerFlow, Flow, QueryFlow } from './flow.ts'

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
  /** Writes a flow that is like another but for these: it is made when it is read, since thousands a second are not. */
  readonly writeAgain: (like: QueryFlow | AnswerFlow, time: number, clientPort: number, ttlSeconds: number) => void
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
  /** Of entries that are like another, their own; a time of 0: what stands in the slot is the entry itself. */
  const times = new Float64Array(capacity + 1)
  const clientPorts = new Uint16Array(capacity + 1)
  const ttls = new Uint32Array(capacity + 1)
  let end = 0
  let lost = 0
  let waiting: (() => void)[] = []

  const oldest = (): number => Math.max(0, end - capacity)
  function write(entry: Entry): void {
    times[end & mask] = 0
    put(entry)
  }
  function writeAgain(like: QueryFlow | AnswerFlow, time: number, clientPort: number, ttlSeconds: number): void {
    const slot = end & mask
    times[slot] = time
    clientPorts[slot] = clientPort
    ttls[slot] = ttlSeconds
    put(like)
  }
  function put(entry: Entry): void {
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
  function read(slot: number): Entry | undefined {
    const entry = slots[slot]
    const time = times[slot] ?? 0
    if (time === 0 || (entry?.kind !== 'query' && entry?.kind !== 'answer')) return entry
    const own = { time, clientPort: clientPorts[slot] ?? 0 }
    return entry.kind === 'query' ? { ...entry, ...own } : { ...entry, ...own, ttlSeconds: ttls[slot] ?? 0 }
  }
  const at = (number: number): Entry | undefined => number >= oldest() && number < end ? read(number & mask) : undefined // prettier-ignore

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
        return place < end ? read(place++ & mask) : undefined
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
  return { write, writeAgain, end: () => end, oldest, at, reader, capacity, lost: () => lost }
}
