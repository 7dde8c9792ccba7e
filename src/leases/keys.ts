// Finds rows by a text within a group: the names that an identity has leases for, the addresses that it may reach. A table of chains that grows by
// one chain at a time (linear hashing, Litwin 1980): at a million rows no question waits for all of them to be placed anew (80 ms).
import { grown, lengthened, type Rows } from './columns.ts'
import { hashed, headOctets, makeTexts } from './texts.ts'

/** What a row needs to be found: `group` is any number, `place` and `next` are kept here. */
export interface KeyKinds {
  readonly group: 'int32'
  readonly place: 'int32'
  readonly next: 'int32'
  readonly [field: string]: 'int32'
}

export interface Keys {
  /** 0: there is none. */
  readonly find: (group: number, text: string) => number
  /** A new row: there must be none with that text in that group. */
  readonly take: (group: number, text: string) => number
  readonly free: (row: number) => void
  readonly textOf: (row: number) => string
  readonly lengthOf: (row: number) => number
  /** Octets that a row takes beside its fields and its text: the text's head, and its share of the chains. */
  readonly octets: number
}

/** @param seed of the hash: who chooses names must not know which share a chain. */
export function makeKeys(rows: Rows<KeyKinds>, seed: number): Keys {
  const texts = makeTexts((row, place) => {
    rows.at.place[row] = place
  })
  let heads = new Int32Array(64)
  /** Chains in use, and a mask of at least that many. */
  let chains = 1
  let mask = 0
  let count = 0

  const start = (group: number): number => Math.imul(group ^ seed, 0x9e3779b1)
  const hashOf = (row: number): number => texts.hash(start(rows.at.group[row] ?? 0), rows.at.place[row] ?? 0)
  /** A chain that is not split off yet is a part of the one it will be split from. */
  function chainOf(hash: number): number {
    const spread = hash ^ (hash >>> 16)
    const chain = spread & mask
    return chain < chains ? chain : spread & (mask >>> 1)
  }

  function find(group: number, text: string): number {
    const { group: groups, place: places, next } = rows.at
    for (let row = heads[chainOf(hashed(start(group), text))] ?? 0; row !== 0; row = next[row] ?? 0)
      if (groups[row] === group && texts.isAt(places[row] ?? 0, text)) return row
    return 0
  }

  function push(chain: number, row: number): void {
    rows.at.next[row] = heads[chain] ?? 0
    heads[chain] = row
  }

  /** One more chain, with its part of the rows of the one that had them so far. */
  function split(): void {
    if (chains === heads.length) {
      heads = lengthened(heads, grown(chains))
    }
    if (chains > mask) mask = 2 * mask + 1
    const whole = chains & (mask >>> 1)
    chains++
    let row = heads[whole] ?? 0
    heads[whole] = 0
    while (row !== 0) {
      const next = rows.at.next[row] ?? 0
      push(chainOf(hashOf(row)), row)
      row = next
    }
  }

  function take(group: number, text: string): number {
    const row = rows.take()
    rows.at.group[row] = group
    rows.at.place[row] = texts.write(row, text)
    if (++count > chains) split()
    push(chainOf(hashOf(row)), row)
    return row
  }

  function free(row: number): void {
    const { next, place } = rows.at
    const chain = chainOf(hashOf(row))
    if (heads[chain] === row) heads[chain] = next[row] ?? 0
    else {
      let before = heads[chain] ?? 0
      while (before !== 0 && next[before] !== row) before = next[before] ?? 0
      next[before] = next[row] ?? 0
    }
    count--
    texts.drop(place[row] ?? 0)
    rows.free(row)
  }

  return {
    find,
    take,
    free,
    textOf: (row) => texts.read(rows.at.place[row] ?? 0),
    lengthOf: (row) => texts.length(rows.at.place[row] ?? 0),
    octets: headOctets + Int32Array.BYTES_PER_ELEMENT,
  }
}
