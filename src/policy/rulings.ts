// What one subject's entries decide in one direction, settled in advance: peers that the same entries are about share a row, ports of a
// row are cut into disjoint spans, and each span has its ruling. Rows are made when first asked for and kept within bounds.
import type { IdentityId } from '../identity/endpoints.ts'
import { familyOf, type Address, type Family } from '../net/address.ts'
import { addressFromNumber } from '../net/address.ts'
import { icmpProtocol, type L4, type Ports } from '../net/ports.ts'
import { everyAddress, rangeCovers, type AddressRange } from '../net/prefix.ts'
import { compareRanks } from './names.ts'
import type { Entry, Grant } from './snapshot.ts'

export type Statement = Entry | Grant

/** What the first level that decides says. `judge`: it allows, if what is above L4 is as one of the statements asks. */
export type Ruling =
  | { readonly kind: 'deny'; readonly by: Statement }
  | { readonly kind: 'allow'; readonly by: Statement; readonly level: readonly Statement[] }
  | { readonly kind: 'judge'; readonly level: readonly Statement[] }
  | { readonly kind: 'fallback' }

const fallback: Ruling = { kind: 'fallback' }

/** Whether an allowing statement asks for something above L4. */
export function asksAbove({ l7, rule }: Statement): boolean {
  return l7 !== undefined || rule.serverNames !== undefined
}

/** The ruling of statements that all cover a flow, in their order. Lower tiers first; a pass skips the rest of its tier. */
export function settle(covering: readonly Statement[]): Ruling {
  let passed = -1
  for (const [i, statement] of covering.entries()) {
    if (statement.tier <= passed) continue
    if (statement.kind === 'deny') return { kind: 'deny', by: statement }
    if (statement.kind === 'allow') return settleLevel(covering, i, statement)
    passed = statement.tier
  }
  return fallback
}

/** Allows of one rank stand together. One that asks nothing above L4 lets everything pass; beside DNS rules only on exactly the port. */
function settleLevel(covering: readonly Statement[], from: number, first: Statement): Ruling {
  const level: Statement[] = []
  for (let i = from; i < covering.length; i++) {
    const statement = covering[i]
    if (statement?.kind !== 'allow' || compareRanks(statement, first) !== 0) break
    level.push(statement)
  }
  const hasDns = level.some(({ l7 }) => l7?.kind === 'dns')
  const plain = level.find((statement) => !asksAbove(statement) && (!hasDns || isOnePort(statement.ports)))
  return plain === undefined ? { kind: 'judge', level } : { kind: 'allow', by: plain, level }
}

const isOnePort = (ports: Ports): boolean => ports.kind === 'ports' && ports.first === ports.last

/** Spans of ports (ICMP: of types) of one protocol, each with its ruling once it was asked for. */
interface Spans {
  readonly starts: readonly number[]
  readonly rulings: (Ruling | undefined)[]
}

/** What the entries say about one class of peers. */
export interface Row {
  /** Those about such peers, in their order. */
  readonly entries: readonly Entry[]
  readonly byProtocol: (Spans | undefined)[]
}

/** Whom a flow goes to or comes from. */
export interface PeerOf {
  readonly identity: IdentityId
  /** Undefined: no CIDR is about it. */
  readonly address: Address | undefined
  /** Whether the address has no identity of its own, so that CIDRs of the `outside` kind are about it. */
  readonly isOutside: boolean
}

export interface Rulings {
  readonly rowOf: (peer: PeerOf) => Row
  readonly rulingOf: (peer: PeerOf, l4: L4) => Ruling
}

/** Rows (and peers known by their row) kept for one subject and direction; at the bound all of them go and are made again. */
const rowsMax = 4096
/** Up to so many distinct sets of identities a class of peers is a number whose bits say in which of them it is. */
const bitsMax = 8

/** Rulings over entries in their order. */
export function makeRulings(entries: readonly Entry[]): Rulings {
  const sets = distinctSets(entries)
  const cuts = { 4: cutsOf(entries, 4), 6: cutsOf(entries, 6) }
  const hasCuts = cuts[4].outside.length + cuts[6].outside.length > 0
  const rows = new Map<number, Row>()
  const classes = new Map<IdentityId, number>()
  const classNumbers = new Map<string, number>()

  /** Which sets hold the identity, as a number. */
  function classOf(identity: IdentityId): number {
    if (sets.length <= bitsMax) {
      let bits = 0
      for (let i = 0; i < sets.length; i++) if (sets[i]?.has(identity) === true) bits |= 1 << i
      return bits
    }
    let number = classes.get(identity)
    if (number === undefined) {
      const text = sets.map((set) => (set.has(identity) ? '1' : '0')).join('')
      number = classNumbers.get(text) ?? classNumbers.size
      if (classes.size >= rowsMax || classNumbers.size >= rowsMax) {
        classes.clear()
        classNumbers.clear()
        rows.clear()
        number = 0
      }
      classNumbers.set(text, number)
      classes.set(identity, number)
    }
    return number
  }
  function pieceOf({ address, isOutside }: PeerOf): number {
    if (!hasCuts || address === undefined) return 0
    const family = familyOf(address)
    const at = isOutside ? cuts[family].outside : cuts[family].everywhere
    return at.length === 0 ? 0 : (lastAtMost(at, address) + 2) * 2 + (family === 4 ? 0 : 1)
  }
  function rowOf(peer: PeerOf): Row {
    // Distinct for each class, each piece of address space and both kinds of addresses.
    const key = ((pieceOf(peer) * 2 + (peer.isOutside ? 1 : 0)) * rowsMax) + classOf(peer.identity)
    let row = rows.get(key)
    if (row === undefined) {
      if (rows.size >= rowsMax) rows.clear()
      rows.set(key, (row = { entries: entries.filter((entry) => isAbout(entry, peer)), byProtocol: [] }))
    }
    return row
  } // prettier-ignore
  return { rowOf, rulingOf: (peer, l4) => rulingIn(rowOf(peer), l4) }
}

/** Whether an entry is about a peer. */
export function isAbout({ peers }: Pick<Entry, 'peers'>, { identity, address, isOutside }: PeerOf): boolean {
  if (peers === 'everyone' || peers.identities.has(identity)) return true
  if (address === undefined) return false
  return (
    peers.everywhere.some((range) => rangeCovers(range, address)) ||
    (isOutside && peers.outside.some((range) => rangeCovers(range, address)))
  )
}

function distinctSets(entries: readonly Entry[]): readonly ReadonlySet<IdentityId>[] {
  const sets = new Set<ReadonlySet<IdentityId>>()
  for (const { peers } of entries) if (peers !== 'everyone' && peers.identities.size > 0) sets.add(peers.identities)
  return [...sets]
}

/** Where the address space changes its entries: for addresses without an identity of their own, and for those with one. */
function cutsOf(entries: readonly Entry[], family: Family): { readonly outside: readonly Address[]; readonly everywhere: readonly Address[] } {
  const everywhere = entries.flatMap(({ peers }) => (peers === 'everyone' ? [] : peers.everywhere))
  const outside = entries.flatMap(({ peers }) => (peers === 'everyone' ? [] : peers.outside))
  return { outside: cutAt([...everywhere, ...outside], family), everywhere: cutAt(everywhere, family) }
} // prettier-ignore

function cutAt(ranges: readonly AddressRange[], family: Family): readonly Address[] {
  const cuts = new Set<bigint>()
  for (const range of ranges) {
    if (range.family !== family) continue
    cuts.add(range.first)
    if (range.last < everyAddress[family].last) cuts.add(range.last + 1n)
  }
  return [...cuts].map((number) => addressFromNumber(number, family)).sort((a, b) => (a < b ? -1 : 1))
}

/** Index of the last item that is not after `value`, -1 when all are; `items` ascend. */
function lastAtMost<T extends string | number>(items: readonly T[], value: T): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const item = items[middle]
    if (item !== undefined && item <= value) low = middle + 1
    else high = middle
  }
  return low - 1
}

/** Port, or type of ICMP; -1 for a packet of which neither is known: then only what is about the whole protocol covers it. */
const cellOf = ({ port, icmpType }: L4): number => port ?? icmpType ?? -1

function rulingIn(row: Row, l4: L4): Ruling {
  const { entries, byProtocol } = row
  if (entries.length === 0) return fallback
  const spans = (byProtocol[l4.protocol] ??= cutSpans(entries, l4.protocol))
  const at = lastAtMost(spans.starts, cellOf(l4))
  if (at < 0) return fallback
  return (spans.rulings[at] ??= settle(entries.filter((entry) => coversCell(entry.ports, l4.protocol, spans.starts[at] ?? -1)))) // prettier-ignore
}

function cutSpans(entries: readonly Entry[], protocol: number): Spans {
  const starts = new Set<number>()
  for (const { ports } of entries) {
    const cells = cellsOf(ports, protocol)
    if (cells === undefined) continue
    starts.add(cells[0])
    if (cells[1] < 65535) starts.add(cells[1] + 1)
  }
  const sorted = [...starts].sort((a, b) => a - b)
  return { starts: sorted, rulings: sorted.map(() => undefined) }
}

function coversCell(ports: Ports, protocol: number, cell: number): boolean {
  const cells = cellsOf(ports, protocol)
  return cells !== undefined && cells[0] <= cell && cell <= cells[1]
}

const whole = [-1, 65535] as const

function cellsOf(ports: Ports, protocol: number): readonly [first: number, last: number] | undefined {
  switch (ports.kind) {
    case 'all':
      return whole
    case 'protocol':
      return ports.protocol === protocol ? whole : undefined
    case 'icmp':
      return icmpProtocol[ports.family] === protocol ? [ports.type, ports.type] : undefined
    case 'ports':
      return ports.protocol === protocol ? [ports.first, ports.last] : undefined
  }
}
