// What is due next: a binary heap of items by moment. An item stands in it once; moving and removing it leaves the old place
// behind as a stone that is skipped when it comes up.
import type { Millis } from '../clock.ts'

export interface Deadlines<T extends object> {
  /** Sets or changes the moment of an item. */
  readonly move: (item: T, at: Millis) => void
  readonly remove: (item: T) => void
  /** Takes out one item whose moment is not after `now`. */
  readonly due: (now: Millis) => T | undefined
  readonly earliest: () => Millis | undefined
}

interface Place<T> {
  readonly at: Millis
  readonly item: T
}

/** An empty heap. Stones are swept when they are more than half of it, so it stays within twice the number of items. */
export function makeDeadlines<T extends object>(): Deadlines<T> {
  let heap: Place<T>[] = []
  const current = new Map<T, Place<T>>()

  function swap(i: number, j: number): void {
    const [a, b] = [heap[i], heap[j]]
    if (a !== undefined && b !== undefined) [heap[i], heap[j]] = [b, a]
  }
  const at = (i: number): Millis => heap[i]?.at ?? Infinity

  function push(place: Place<T>): void {
    let i = heap.push(place) - 1
    for (let up = (i - 1) >> 1; i > 0 && at(up) > at(i); up = (i - 1) >> 1) {
      swap(i, up)
      i = up
    }
  }

  function pop(): Place<T> | undefined {
    const top = heap[0]
    const last = heap.pop()
    if (top === undefined || last === undefined || heap.length === 0) return top
    heap[0] = last
    for (let i = 0, down = 1; down < heap.length; down = 2 * i + 1) {
      if (at(down + 1) < at(down)) down++
      if (at(i) <= at(down)) break
      swap(i, down)
      i = down
    }
    return top
  }

  function skipStones(): void {
    for (let top = heap[0]; top !== undefined && current.get(top.item) !== top; top = heap[0]) pop()
  }

  function move(item: T, moment: Millis): void {
    const place = { at: moment, item }
    current.set(item, place)
    push(place)
    if (heap.length > 64 && heap.length > 2 * current.size) {
      heap = []
      for (const kept of current.values()) push(kept)
    }
  }

  function due(now: Millis): T | undefined {
    skipStones()
    const top = heap[0]
    if (top === undefined || top.at > now) return undefined
    pop()
    current.delete(top.item)
    return top.item
  }

  function earliest(): Millis | undefined {
    skipStones()
    return heap[0]?.at
  }

  return { move, remove: (item) => void current.delete(item), due, earliest }
}
