// What the kernel knows of learned addresses: of each door the elements that were asked for, by ports.
import type { Millis } from '../clock.ts'
import { makeRows } from './columns.ts'

/** What is asked of the kernel and not said to be done: how long at the longest, and how many commits have no answer yet. */
export interface Asked {
  until: Millis
  underWay: number
}

export interface Elements {
  /**
   * 0: it was not asked for.
   * @param near an element of that door, or 0: the search begins behind it. Who goes through a shape finds each at once.
   */
  readonly find: (first: number, ports: number, near?: number) => number
  /** Gives the door's first, the row of the new one is `near`'s next, or the first. */
  readonly add: (first: number, ports: number, near: number) => { readonly first: number; readonly row: number }
  /** Gives the door's first. */
  readonly remove: (first: number, row: number) => number
  readonly next: (row: number) => number
  readonly ports: (row: number) => number
  /** Until when the kernel has acknowledged it; 0: not at all. */
  readonly until: (row: number) => Millis
  /** In which epoch of its ruleset. */
  readonly epoch: (row: number) => number
  /** The longest that it may hold it: acknowledged, or asked for and not answered, or refused in doubt. */
  readonly atMost: (row: number) => Millis
  readonly underWay: (row: number) => number
  /** Gives what `isSame` tells this element by from another one that is in its row later. */
  readonly send: (row: number, until: Millis) => Asked
  /** Whether the element that was sent is still there, and not one that was asked for anew since. */
  readonly isSame: (row: number, sent: Asked) => boolean
  /** The answer to one `send`: `acknowledge`, or nothing is known to have come of it. */
  readonly acknowledge: (row: number, until: Millis, epoch: number) => void
  readonly refuse: (row: number) => void
  readonly octets: number
}

export function makeElements(): Elements {
  const rows = makeRows({ next: 'int32', epoch: 'int32', ports: 'float64', until: 'float64' }, 'next')
  /** Only of those that are under way or were refused. */
  const asked = new Map<number, Asked>()
  const next = (row: number): number => rows.at.next[row] ?? 0
  const until = (row: number): Millis => rows.at.until[row] ?? 0

  function find(first: number, ports: number, near = 0): number {
    const behind = near === 0 ? 0 : next(near)
    for (let row = behind; row !== 0; row = next(row)) if (rows.at.ports[row] === ports) return row
    for (let row = first; row !== 0 && row !== behind; row = next(row)) if (rows.at.ports[row] === ports) return row
    return 0
  }

  function add(first: number, ports: number, near: number): { first: number; row: number } {
    const row = rows.take()
    rows.at.ports[row] = ports
    rows.at.until[row] = 0
    rows.at.epoch[row] = -1
    rows.at.next[row] = near === 0 ? first : next(near)
    if (near !== 0) rows.at.next[near] = row
    return { first: near === 0 ? row : first, row }
  }

  function remove(first: number, row: number): number {
    const after = next(row)
    let before = first
    while (before !== row && before !== 0 && next(before) !== row) before = next(before)
    if (before !== row && before !== 0) rows.at.next[before] = after
    asked.delete(row)
    rows.free(row)
    return first === row ? after : first
  }

  function send(row: number, moment: Millis): Asked {
    const open = asked.get(row) ?? { until: moment, underWay: 0 }
    asked.set(row, open)
    open.until = Math.max(open.until, moment)
    open.underWay++
    return open
  }
  function refuse(row: number): void {
    const open = asked.get(row)
    if (open !== undefined) open.underWay = Math.max(0, open.underWay - 1)
  }
  function acknowledge(row: number, moment: Millis, epoch: number): void {
    rows.at.until[row] = moment
    rows.at.epoch[row] = epoch
    refuse(row)
    const open = asked.get(row)
    if (open?.underWay === 0 && open.until <= moment) asked.delete(row)
  }

  return {
    find,
    add,
    remove,
    next,
    ports: (row) => rows.at.ports[row] ?? 0,
    until,
    epoch: (row) => rows.at.epoch[row] ?? 0,
    atMost: (row) => Math.max(until(row), asked.get(row)?.until ?? 0),
    underWay: (row) => asked.get(row)?.underWay ?? 0,
    send,
    isSame: (row, sent) => asked.get(row) === sent,
    acknowledge,
    refuse,
    octets: rows.octets,
  }
}
