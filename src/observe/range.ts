// Which entries of the ring a request is about: the first or the last so many that its filters show, within a range of time. Pure.
import type { Entry, Ring } from './ring.ts'

export interface Range {
  /** How many at most; undefined: all. With `first` the oldest, else the newest. */
  readonly number: number | undefined
  readonly first: boolean
  readonly follow: boolean
  /** Milliseconds since 1970. Goes before `number`, which then counts from there. */
  readonly since: number | undefined
  readonly until: number | undefined
}

/** Where to begin: a number of the ring. */
export function beginning(ring: Ring, range: Range, shows: (entry: Entry) => boolean): number {
  const { number, first, follow, since, until } = range
  if (since !== undefined || first) return ring.oldest()
  // All, or from now on; a range that only ends somewhere begins at the beginning.
  if (number === undefined) return ring.oldest()
  if (number === 0) return follow ? ring.end() : until === undefined ? ring.end() : ring.oldest()
  let left = number
  for (let at = ring.end() - 1; at >= ring.oldest(); at--) {
    const entry = ring.at(at)
    if (entry === undefined || entry.kind === 'lost') continue
    if (until !== undefined && entry.time > until) continue
    if (shows(entry) && --left === 0) return at
  }
  return ring.oldest()
}

/** Whether an entry is asked for. Losses pass filters and time; a follower goes on whatever the time. */
export function isAskedFor(entry: Entry, { since, until, follow }: Range, shows: (entry: Entry) => boolean): boolean {
  if (entry.kind === 'lost') return true
  // Those behind a late one may be earlier: a question's flow has the time at which it came, and is written when it was answered.
  if ((since !== undefined && entry.time < since) || (until !== undefined && entry.time > until && !follow))
    return false
  return shows(entry)
}
