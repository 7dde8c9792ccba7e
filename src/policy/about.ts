// Which of a subject's entries are about a peer, without asking each: entries by their sets of identities, and their ranges in a tree.
import type { IdentityId } from '../identity/endpoints.ts'
import { addressFromNumber, familyOf, type Address, type Family } from '../net/address.ts'
import type { AddressRange } from '../net/prefix.ts'
import type { PeerOf } from './rulings.ts'
import type { Entry } from './snapshot.ts'

/** The indices of the entries about a peer, ascending. */
export type About = (peer: PeerOf) => readonly number[]

/** An index over entries; costs a sort of their ranges. */
export function makeAbout(entries: readonly Entry[]): About {
  const everyone: number[] = []
  const bySet = new Map<ReadonlySet<IdentityId>, number[]>()
  const trees = { outside: makeTrees(), everywhere: makeTrees() }
  for (const [i, { peers }] of entries.entries()) {
    if (peers === 'everyone') {
      everyone.push(i)
      continue
    }
    const there = bySet.get(peers.identities)
    if (there !== undefined) there.push(i)
    else if (peers.identities.size > 0) bySet.set(peers.identities, [i])
    for (const kind of ['outside', 'everywhere'] as const)
      for (const range of peers[kind]) trees[kind][range.family].add(range, i)
  }
  return ({ identity, address, isOutside }) => {
    const found = new Set(everyone)
    for (const [set, list] of bySet) if (set.has(identity)) for (const i of list) found.add(i)
    if (address !== undefined) {
      const family = familyOf(address)
      trees.everywhere[family].collect(address, found)
      if (isOutside) trees.outside[family].collect(address, found)
    }
    return [...found].sort((a, b) => a - b)
  }
}

/** Ranges of one family, each with what it stands for. */
interface RangeTree {
  readonly add: (range: AddressRange, value: number) => void
  /** Adds the values of all ranges that hold the address. */
  readonly collect: (address: Address, found: Set<number>) => void
}

const makeTrees = (): Readonly<Record<Family, RangeTree>> => ({ 4: makeRangeTree(), 6: makeRangeTree() })

interface Held {
  readonly first: Address
  readonly last: Address
  readonly value: number
}

/** Ranges sorted by their beginning, with the greatest end of each half, quarter and so on: an implicit interval tree. */
function makeRangeTree(): RangeTree {
  const ranges: Held[] = []
  let ends: Address[] | undefined

  function add({ first, last, family }: AddressRange, value: number): void {
    ranges.push({ first: addressFromNumber(first, family), last: addressFromNumber(last, family), value })
    ends = undefined
  }
  function build(): Address[] {
    ranges.sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0))
    const built: Address[] = []
    greatestEnd(ranges, 0, ranges.length, built)
    return built
  }
  function search(of: readonly Address[], low: number, high: number, address: Address, found: Set<number>): void {
    if (low >= high) return
    const middle = (low + high) >>> 1
    const range = ranges[middle]
    if (range === undefined || (of[middle] ?? range.last) < address) return
    search(of, low, middle, address, found)
    if (range.first > address) return
    if (range.last >= address) found.add(range.value)
    search(of, middle + 1, high, address, found)
  }
  return { add, collect: (address, found) => { search((ends ??= build()), 0, ranges.length, address, found) } } // prettier-ignore
}

/** Fills `ends` at each middle with the greatest end between `low` and `high`. */
function greatestEnd(ranges: readonly Held[], low: number, high: number, ends: Address[]): Address | undefined {
  if (low >= high) return undefined
  const middle = (low + high) >>> 1
  let greatest = ranges[middle]?.last
  for (const end of [greatestEnd(ranges, low, middle, ends), greatestEnd(ranges, middle + 1, high, ends)])
    if (end !== undefined && (greatest === undefined || end > greatest)) greatest = end
  if (greatest !== undefined) ends[middle] = greatest
  return greatest
}
