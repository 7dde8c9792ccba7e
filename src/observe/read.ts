// Reading the ring for a request: what its range and filters show, one after the other, as somebody wants it presented.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { beginning, isAskedFor, type Range } from './range.ts'
import type { Entry, Ring } from './ring.ts'

/** Entries looked at in one turn of the event loop: questions must not wait for somebody who filters. */
const entriesPerTurn = 512

/**
 * Ends after as many as the range asks for, at its end, when nothing is left and nobody follows, or when `signal` is aborted.
 * @param present makes of an entry what is given; undefined: it is passed over, and not counted.
 */
export async function* readRange<T>(
  ring: Ring,
  range: Range,
  shows: (entry: Entry) => boolean,
  present: (entry: Entry) => T | undefined,
  signal: AbortSignal,
): AsyncGenerator<T> {
  const reader = ring.reader(beginning(ring, range, shows))
  // Following, the number says where to begin and not where to end.
  let left = range.number === undefined || range.follow ? Infinity : range.number
  for (let looked = 1; !signal.aborted && left > 0; looked++) {
    const entry = reader.next()
    if (entry === undefined) {
      if (!range.follow) return
      await reader.wait(signal)
      continue
    }
    if (looked % entriesPerTurn === 0) await nextTurn()
    if (!isAskedFor(entry, range, shows)) continue
    const said = present(entry)
    if (said === undefined) continue
    if (entry.kind !== 'lost') left--
    yield said
  }
}
