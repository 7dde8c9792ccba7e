// Many subjects' entries as numbers in one flat array, so that a verdict under 10 000 policies touches little more memory than one under ten:
// an object for each row and span cost 14 cache misses a direction, this costs four or five. What is not asked for is not made.
//
//   lane (a subject in a direction) -> identity of the peer, by hash   -> row: [spans, other, key..., code...]
//                                   -> address of world, by its interval -> row
//
// A row's keys are protocol and port (`keyOf`), ascending; each key's code holds up to the next one. A code is what `present` made of a ruling,
// 0 for the fallback, `unsettled` until somebody asks.
import type { IdentityId } from '../identity/endpoints.ts'
import { worldId } from '../identity/reserved.ts'
import { addressFromNumber, familyOf, type Address } from '../net/address.ts'
import { icmpProtocol, type L4, type Ports } from '../net/ports.ts'
import { everyAddress, type AddressRange } from '../net/prefix.ts'
import { makeAbout, type About } from './about.ts'
import { cellOf, coversCell, cellsOf, settle, type PeerOf, type Ruling } from './rulings.ts'
import type { Entry } from './snapshot.ts'

/** The state of all lanes. Only the functions below write to it; they are no closures over it, of which the engine compiles what is general. */
export interface Tables {
  readonly options: TablesOptions
  readonly entriesOf: (readonly Entry[])[]
  readonly notesOf: number[]
  lanes: Int32Array
  pool: Int32Array
  used: number
  /** Of rows: their entries, and the same row for the same entries of a lane. */
  readonly rowEntries: Map<number, readonly Entry[]>
  readonly rowsByEntries: Map<string, number>
  /** Rows of peers that neither their identity nor their place in the world's IPv4 addresses tells: `lane identity piece`. */
  readonly oddRows: Map<string, number>
  readonly oddCuts: Map<string, readonly Address[]>
  readonly abouts: Map<number, About>
  /** The row without entries, which most peers of most lanes have. */
  emptyRow: number
}

export interface TablesOptions {
  /** Makes a code, above 0, of a ruling for the lane; called once for each span that is asked for. */
  readonly present: (lane: number, ruling: Ruling) => number
  /** Is told that no code that was made is in use any more. */
  readonly dropped: () => void
  /** Past so many numbers all rows are dropped and made again as they are asked for. */
  readonly numbersMax: number
}

/** Past so many odd rows all are dropped, too. */
const oddRowsMax = 1 << 16
const unsettled = -1

/** Where a lane's things stand, in `lanes`: at `lane * laneSize`. */
const laneSize = 16
/**
 * `sieve`: 256 bits, one for each identity of the hash (of its number modulo 256): most peers of most lanes are in none. Of the looks that 64
 * let through every third found nothing.
 */
const Slot = { hash: 0, mask: 1, rest: 2, cuts: 3, cutCount: 4, flags: 5, sieve: 6 } as const
const notMade = -1
/** What a lane's ranges tell apart: addresses of world by family, and addresses that have an identity. */
const Flag = { world4: 1, world6: 2, everywhere: 4 } as const
/** Above the flags are notes, two bits each. */
const flagBits = 3
const sieveWords = 8
/** Word of the sieve in which an identity's bit stands. */
const wordOf = (id: IdentityId): number => (id >> 5) & (sieveWords - 1)

/** Protocols that no entry of a row names are one. */
const keyOf = (protocol: number, cell: number): number => protocol * 0x20000 + cell + 1

export function makeTables(options: TablesOptions): Tables {
  return {
    options,
    entriesOf: [],
    notesOf: [],
    lanes: new Int32Array(64 * laneSize),
    pool: new Int32Array(1 << 12),
    used: 0,
    rowEntries: new Map(),
    rowsByEntries: new Map(),
    oddRows: new Map(),
    oddCuts: new Map(),
    abouts: new Map(),
    emptyRow: 0,
  }
}

/** A lane for these entries, which stand in their order, and for up to twelve numbers from 0 to 3 that `noteOf` gives back. */
export function addLane(tables: Tables, entries: readonly Entry[], notes: readonly number[]): number {
  const lane = tables.entriesOf.push(entries) - 1
  tables.notesOf.push(notes.reduce((bits, note, i) => bits | (note << (flagBits + 2 * i)), 0))
  if (lane * laneSize >= tables.lanes.length) {
    const larger = new Int32Array(tables.lanes.length * 2)
    larger.set(tables.lanes)
    tables.lanes = larger
  }
  tables.lanes[lane * laneSize] = notMade
  return lane
}

/** Stands beside what `lookUp` has just read: it costs no further look into memory. */
export function noteOf({ lanes }: Tables, lane: number, i: number): number {
  return ((lanes[lane * laneSize + Slot.flags] ?? 0) >> (flagBits + 2 * i)) & 3
}

/** The code of what a lane's entries decide about a flow with a peer; 0 when they decide nothing. */
export function lookUp(tables: Tables, lane: number, peer: PeerOf, l4: L4): number {
  if (tables.used > tables.options.numbersMax || tables.oddRows.size > oddRowsMax) dropAll(tables)
  const row = rowOf(tables, lane, peer)
  const { pool } = tables
  const count = pool[row] ?? 0
  const { protocol } = l4
  const cell = cellOf(l4)
  let at = row + 1
  if (count > 0) {
    const key = lastAtMost(pool, row + 2, count, keyOf(protocol, cell))
    // Below a protocol's first key only entries about every protocol could be, and with one of those it begins at -1.
    if ((pool[key] ?? 0) >= keyOf(protocol, -1) && (pool[key] ?? 0) <= keyOf(protocol, cell)) at = key + count
  }
  const code = pool[at] ?? 0
  return code === unsettled ? settleAt(tables, lane, row, at, at === row + 1 ? undefined : protocol, cell) : code
}

function rowOf(tables: Tables, lane: number, peer: PeerOf): number {
  const at = lane * laneSize
  if (tables.lanes[at] === notMade) makeLane(tables, lane)
  const { lanes, pool } = tables
  const { identity, address, isOutside } = peer
  const flags = lanes[at + Slot.flags] ?? 0
  if (address !== undefined && (flags & 7) !== 0) {
    const needed = !isOutside ? Flag.everywhere : address.length === 4 ? Flag.world4 : Flag.world6
    if ((flags & needed) !== 0)
      return identity === worldId[4] && isOutside ? worldRow(tables, lane, peer, address) : oddRow(tables, lane, peer, address) // prettier-ignore
  }
  // What is outside differs from the rest by ranges only, and there are none here.
  const sieve = lanes[at + Slot.sieve + wordOf(identity)] ?? 0
  if ((sieve & (1 << (identity & 31))) !== 0) {
    const slot = slotOf(pool, lanes[at + Slot.hash] ?? 0, lanes[at + Slot.mask] ?? 0, identity)
    if (pool[slot] === identity + 1) {
      const row = pool[slot + 1] ?? 0
      return row === 0 ? keep(tables, slot + 1, makeRow(tables, lane, peer)) : row
    }
  }
  const rest = lanes[at + Slot.rest] ?? 0
  return rest === 0 ? (lanes[at + Slot.rest] = makeRow(tables, lane, peer)) : rest
}

function worldRow(tables: Tables, lane: number, peer: PeerOf, address: Address): number {
  const { lanes, pool } = tables
  const cuts = lanes[lane * laneSize + Slot.cuts] ?? 0
  const count = lanes[lane * laneSize + Slot.cutCount] ?? 0
  const at = lastAtMost(pool, cuts, count, signedNumber(address)) + count
  const row = pool[at] ?? 0
  return row === 0 ? keep(tables, at, makeRow(tables, lane, peer)) : row
}

function oddRow(tables: Tables, lane: number, peer: PeerOf, address: Address): number {
  const { entriesOf, oddCuts, oddRows } = tables
  const family = familyOf(address)
  const kind = `${lane} ${family}`
  let cuts = oddCuts.get(kind)
  if (cuts === undefined) oddCuts.set(kind, (cuts = cutAddresses(entriesOf[lane] ?? [], family)))
  const key = `${kind} ${peer.identity} ${peer.isOutside} ${countUpTo(cuts, address)}`
  let row = oddRows.get(key)
  if (row === undefined) oddRows.set(key, (row = makeRow(tables, lane, peer)))
  return row
}

/** Index of the last of `count` ascending numbers at `at` that is not above `value`; the first is never above it. */
function lastAtMost(pool: Int32Array, at: number, count: number, value: number): number {
  let low = at
  let high = at + count
  while (high - low > 1) {
    const middle = (low + high) >>> 1
    if ((pool[middle] ?? 0) <= value) low = middle
    else high = middle
  }
  return low
}

/** Where an identity stands in a hash, or would. */
function slotOf(pool: Int32Array, hash: number, mask: number, id: IdentityId): number {
  let i = id & mask
  for (;;) {
    const at = hash + i * 2
    const there = pool[at]
    if (there === 0 || there === id + 1) return at
    i = (i + 1) & mask
  }
}

/** Writes to the pool, which may have been replaced by a larger one while the value was made. */
function keep(tables: Tables, at: number, value: number): number {
  tables.pool[at] = value
  return value
}

// What is made once.

/** Room for `size` numbers, all 0. 0 itself is no place of anything. */
function take(tables: Tables, size: number): number {
  const at = tables.used === 0 ? 1 : tables.used
  const { pool } = tables
  const used = (tables.used = at + size)
  if (used > pool.length) {
    const larger = (tables.pool = new Int32Array(Math.max(pool.length * 2, used)))
    larger.set(pool.subarray(0, at))
  } else pool.fill(0, at, used)
  return at
}

function dropAll(tables: Tables): void {
  const { entriesOf, lanes, rowEntries, rowsByEntries, oddRows, oddCuts, abouts, options } = tables
  tables.used = 0
  tables.emptyRow = 0
  for (const map of [rowEntries, rowsByEntries, oddRows, oddCuts, abouts]) map.clear()
  for (let lane = 0; lane < entriesOf.length; lane++) lanes[lane * laneSize] = notMade
  options.dropped()
}

function makeLane(tables: Tables, lane: number): void {
  const entries = tables.entriesOf[lane] ?? []
  const named = new Set<IdentityId>()
  const sets = new Set<ReadonlySet<IdentityId>>()
  const everywhere: AddressRange[] = []
  const all: AddressRange[] = []
  for (const { peers } of entries) {
    if (peers === 'everyone') continue
    sets.add(peers.identities)
    for (const range of peers.everywhere) everywhere.push(range)
    for (const list of [peers.everywhere, peers.outside]) for (const range of list) all.push(range)
  }
  for (const set of sets) for (const id of set) named.add(id)
  let size = 4
  // Three quarters full at most: numbers beside each other do not collide, and what is small stays near.
  while (size * 3 < named.size * 4) size *= 2
  const hash = take(tables, size * 2)
  const sieve = new Array<number>(sieveWords).fill(0)
  for (const id of named) {
    tables.pool[slotOf(tables.pool, hash, size - 1, id)] = id + 1
    sieve[wordOf(id)] = (sieve[wordOf(id)] ?? 0) | (1 << (id & 31))
  }
  const cuts = cutNumbers(all)
  const cutsAt = take(tables, cuts.length * 2)
  tables.pool.set(cuts, cutsAt)
  const flags = flagsOf(all, everywhere) | (tables.notesOf[lane] ?? 0)
  tables.lanes.set([hash, size - 1, 0, cutsAt, cuts.length, flags, ...sieve], lane * laneSize)
}

function makeRow(tables: Tables, lane: number, peer: PeerOf): number {
  const { abouts, rowsByEntries, rowEntries } = tables
  const all = tables.entriesOf[lane] ?? []
  let indexOf = abouts.get(lane)
  if (indexOf === undefined) abouts.set(lane, (indexOf = makeAbout(all)))
  const indices = indexOf(peer)
  if (indices.length === 0) return (tables.emptyRow ||= take(tables, 2))
  const about = indices.flatMap((i) => all[i] ?? [])
  const key = `${lane} ${indices.join(' ')}`
  let row = rowsByEntries.get(key)
  if (row !== undefined) return row
  const keys = keysOf(about)
  row = take(tables, 2 + keys.length * 2)
  const { pool } = tables
  pool[row] = keys.length
  pool[row + 1] = unsettled
  pool.set(keys, row + 2)
  pool.fill(unsettled, row + 2 + keys.length, row + 2 + keys.length * 2)
  rowEntries.set(row, about)
  rowsByEntries.set(key, row)
  return row
}

function settleAt(
  tables: Tables,
  lane: number,
  row: number,
  at: number,
  protocol: number | undefined,
  cell: number,
): number {
  const entries = tables.rowEntries.get(row) ?? []
  const ruling = settle(entries.filter(({ ports }) => (protocol === undefined ? ports.kind === 'all' : coversCell(ports, protocol, cell)))) // prettier-ignore
  return keep(tables, at, ruling.kind === 'fallback' ? 0 : tables.options.present(lane, ruling))
}

/** Where what entries cover changes, for each protocol that some of them names, ascending. */
function keysOf(entries: readonly Entry[]): number[] {
  const protocols = new Set(entries.flatMap(({ ports }) => protocolsOf(ports)))
  const keys = new Set<number>()
  for (const protocol of protocols) {
    for (const { ports } of entries) {
      const cells = cellsOf(ports, protocol)
      if (cells === undefined) continue
      keys.add(keyOf(protocol, cells[0]))
      if (cells[1] < 65535) keys.add(keyOf(protocol, cells[1] + 1))
    }
  }
  return [...keys].sort((a, b) => a - b)
}

function protocolsOf(ports: Ports): readonly number[] {
  if (ports.kind === 'all') return []
  return [ports.kind === 'icmp' ? icmpProtocol[ports.family] : ports.protocol]
}

function flagsOf(all: readonly AddressRange[], everywhere: readonly AddressRange[]): number {
  const has = (family: 4 | 6): boolean => all.some((range) => range.family === family)
  return (has(4) ? Flag.world4 : 0) | (has(6) ? Flag.world6 : 0) | (everywhere.length > 0 ? Flag.everywhere : 0)
}

/** An IPv4 address as a number that sorts as it does, in 32 bits with a sign. */
function signedNumber(address: Address): number {
  return (
    ((address.charCodeAt(0) << 24) | (address.charCodeAt(1) << 16) | (address.charCodeAt(2) << 8) | address.charCodeAt(3)) ^ -0x80000000 // prettier-ignore
  )
}

/** Where IPv4 ranges begin and where they are over, ascending, from the lowest address on; as `signedNumber` has them. */
function cutNumbers(ranges: readonly AddressRange[]): number[] {
  const cuts = new Set([0])
  for (const { family, first, last } of ranges) {
    if (family !== 4) continue
    cuts.add(Number(first))
    if (last < everyAddress[4].last) cuts.add(Number(last) + 1)
  }
  return [...cuts].sort((a, b) => a - b).map((number) => (number | 0) ^ -0x80000000)
}

function cutAddresses(entries: readonly Entry[], family: 4 | 6): readonly Address[] {
  const ranges = entries.flatMap(({ peers }) => (peers === 'everyone' ? [] : [...peers.outside, ...peers.everywhere]))
  const cuts = new Set<bigint>()
  for (const range of ranges) {
    if (range.family !== family) continue
    cuts.add(range.first)
    if (range.last < everyAddress[family].last) cuts.add(range.last + 1n)
  }
  return [...cuts].map((number) => addressFromNumber(number, family)).sort((a, b) => (a < b ? -1 : 1))
}

/** How many of the ascending addresses are not above one. */
function countUpTo(addresses: readonly Address[], address: Address): number {
  let low = 0
  let high = addresses.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const there = addresses[middle]
    if (there !== undefined && there <= address) low = middle + 1
    else high = middle
  }
  return low
}
