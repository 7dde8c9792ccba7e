// What is due next: a binary heap of rows by moment. Where each row stands in it is written down, so that it is moved and removed in place.
import type { Millis } from '../clock.ts'
import { grown, lengthened } from './columns.ts'

export interface Deadlines {
  /** Puts a row in, or in its new place when its moment has changed. */
  readonly put: (row: number) => void
  readonly remove: (row: number) => void
  /** The one whose moment is first; 0 when there is none. */
  readonly first: () => number
  readonly earliest: () => Millis | undefined
  /** By moment, as long as `visit` wants more; rows must not be put in or removed meanwhile. */
  readonly walk: (visit: (row: number) => boolean) => void
}

/**
 * An empty heap.
 * @param momentOf a row; `put` follows when it changes.
 * @param positions of rows in this heap, from 1 on; 0: not in it. Given anew for each call, since columns grow.
 */
export function makeDeadlines(momentOf: (row: number) => Millis, positions: () => Int32Array): Deadlines {
  /** From 1 on. */
  let heap = new Int32Array(8)
  let count = 0

  function place(row: number, position: number, at: Int32Array): void {
    heap[position] = row
    at[row] = position
  }
  function rise(row: number, from: number, at: Int32Array): void {
    const moment = momentOf(row)
    let i = from
    for (let up = i >> 1; up > 0; up = i >> 1) {
      const above = heap[up] ?? 0
      if (momentOf(above) <= moment) break
      place(above, i, at)
      i = up
    }
    place(row, i, at)
  }
  function sink(row: number, from: number, at: Int32Array): void {
    const moment = momentOf(row)
    let i = from
    for (let down = 2 * i; down <= count; down = 2 * i) {
      if (down < count && momentOf(heap[down + 1] ?? 0) < momentOf(heap[down] ?? 0)) down++
      const below = heap[down] ?? 0
      if (moment <= momentOf(below)) break
      place(below, i, at)
      i = down
    }
    place(row, i, at)
  }

  function put(row: number): void {
    const at = positions()
    let position = at[row] ?? 0
    if (position === 0) {
      position = ++count
      if (count === heap.length) {
        heap = lengthened(heap, grown(count))
      }
    }
    rise(row, position, at)
    sink(row, at[row] ?? 0, at)
  }

  function remove(row: number): void {
    const at = positions()
    const position = at[row] ?? 0
    if (position === 0) return
    at[row] = 0
    const last = heap[count] ?? 0
    count--
    if (last === row) return
    rise(last, position, at)
    sink(last, at[last] ?? 0, at)
  }

  function walk(visit: (row: number) => boolean): void {
    // Positions whose parents were visited, themselves as a heap: the next is always among them.
    const edge = count > 0 ? [1] : []
    const moment = (i: number): Millis => momentOf(heap[edge[i] ?? 0] ?? 0)
    const swap = (i: number, j: number): void => void ([edge[i], edge[j]] = [edge[j] ?? 0, edge[i] ?? 0])
    while (edge.length > 0) {
      const position = edge[0] ?? 0
      if (!visit(heap[position] ?? 0)) return
      const last = edge.pop() ?? 0
      if (edge.length > 0) edge[0] = last
      for (let i = 0, down = 1; down < edge.length; i = down, down = 2 * i + 1) {
        if (down + 1 < edge.length && moment(down + 1) < moment(down)) down++
        if (moment(i) <= moment(down)) break
        swap(i, down)
      }
      for (const child of [2 * position, 2 * position + 1]) {
        if (child > count) break
        for (let i = edge.push(child) - 1; i > 0 && moment((i - 1) >> 1) > moment(i); i = (i - 1) >> 1)
          swap(i, (i - 1) >> 1)
      }
    }
  }

  const earliest = (): Millis | undefined => (count === 0 ? undefined : momentOf(heap[1] ?? 0))
  return { put, remove, first: () => (count === 0 ? 0 : (heap[1] ?? 0)), earliest, walk }
}

/** Heaps of several groups, and what is due next of them all. */
export interface Schedule {
  readonly put: (group: number, row: number) => void
  readonly remove: (group: number, row: number) => void
  /** The row that is due first, if that is not after `now`; 0: none is. */
  readonly due: (now: Millis) => number
  readonly earliest: () => Millis | undefined
  readonly walk: (group: number, visit: (row: number) => boolean) => void
}

/** Groups are small numbers. Parameters are as of `makeDeadlines`. */
export function makeSchedule(momentOf: (row: number) => Millis, positions: () => Int32Array): Schedule {
  const heaps: (Deadlines | undefined)[] = []
  /** The group whose first is first of all, and its moment; `isKnown`: whether that is so. */
  let soonest = -1
  let moment = Infinity
  let isKnown = true

  function heed(group: number): void {
    const at = heaps[group]?.earliest()
    if (at === undefined) heaps[group] = undefined
    if (at !== undefined && at < moment) [soonest, moment] = [group, at]
    else if (group === soonest && at !== moment) isKnown = false
  }
  function look(): void {
    soonest = -1
    moment = Infinity
    heaps.forEach((heap, group) => {
      const at = heap?.earliest() ?? Infinity
      if (at < moment) [soonest, moment] = [group, at]
    })
    isKnown = true
  }
  function earliest(): Millis | undefined {
    if (!isKnown) look()
    return soonest < 0 ? undefined : moment
  }
  return {
    put(group, row) {
      const heap = (heaps[group] ??= makeDeadlines(momentOf, positions))
      heap.put(row)
      heed(group)
    },
    remove(group, row) {
      heaps[group]?.remove(row)
      heed(group)
    },
    due: (now) => ((earliest() ?? Infinity) <= now ? (heaps[soonest]?.first() ?? 0) : 0),
    earliest,
    walk: (group, visit) => heaps[group]?.walk(visit),
  }
}
