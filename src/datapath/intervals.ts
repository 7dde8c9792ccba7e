// L3/L4 statements compiled into disjoint boxes (addresses x protocol x ports), each with one verdict: precedence is settled here,
// so that a packet meets one lookup however many rules there are.
import { everyAddress, type AddressRange } from '../net/prefix.ts'
import { Protocol } from '../net/ports.ts'
import type { Family } from '../net/address.ts'
import type { PeerEntry } from '../policy/egress.ts'

export type BoxVerdict = 'allow' | 'deny'

/** One cell of an identity's verdict map. `protocol: 'any'` spans every protocol that carries ports, on all ports. */
export interface Box {
  readonly range: AddressRange
  readonly protocol: Protocol | 'any'
  readonly first: number
  readonly last: number
  readonly verdict: BoxVerdict
}

/** A verdict on packets without ports (ICMP and the like), by address. */
export interface Slab {
  readonly range: AddressRange
  readonly verdict: BoxVerdict
}

export interface Intervals {
  readonly boxes: readonly Box[]
  readonly slabs: readonly Slab[]
}

interface Span {
  readonly first: number
  readonly last: number
  readonly verdict: BoxVerdict
}

/** Disjoint boxes and slabs for one family: deny beats allow, what no entry covers is left out. Sorted by address, then ports. */
export function compileIntervals(entries: readonly PeerEntry[], family: Family): Intervals {
  const boxes: Box[] = []
  const slabs = pieces(
    entries.filter((entry) => entry.ports.kind === 'all'),
    family,
  ).map(({ range, covering }): Slab => ({ range, verdict: verdictOf(covering) ?? 'deny' }))
  for (const { range, covering } of pieces(entries, family)) {
    const spans = Object.values(Protocol).map((protocol) => ({ protocol, spans: spansOf(covering, protocol) }))
    const whole = spans[0]?.spans[0]
    if (whole !== undefined && spans.every((s) => s.spans.length === 1 && isWhole(s.spans[0], whole.verdict)))
      boxes.push({ range, protocol: 'any', ...whole })
    else
      for (const { protocol, spans: ofProtocol } of spans)
        for (const span of ofProtocol) boxes.push({ range, protocol, ...span })
  }
  return { boxes, slabs }
}

function isWhole(span: Span | undefined, verdict: BoxVerdict): boolean {
  return span?.first === 0 && span.last === 65535 && span.verdict === verdict
}

function verdictOf(entries: readonly PeerEntry[]): BoxVerdict | undefined {
  if (entries.some((entry) => entry.kind === 'deny')) return 'deny'
  return entries.length > 0 ? 'allow' : undefined
}

/** Cuts the family's address space at every range's edges; yields the pieces that some entry covers, equal neighbours joined. */
function pieces(
  entries: readonly PeerEntry[],
  family: Family,
): { range: AddressRange; covering: readonly PeerEntry[] }[] {
  const edges: { at: bigint; entry: PeerEntry; opens: boolean }[] = []
  for (const entry of entries)
    for (const range of entry.ranges) {
      if (range.family !== family) continue
      edges.push({ at: range.first, entry, opens: true })
      if (range.last < everyAddress[family].last) edges.push({ at: range.last + 1n, entry, opens: false })
    }
  edges.sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0))
  const found: { range: { family: Family; first: bigint; last: bigint }; covering: readonly PeerEntry[] }[] = []
  // An entry may cover an address by several of its ranges at once, hence a count.
  const open = new Map<PeerEntry, number>()
  for (let i = 0; i < edges.length;) {
    const first = edges[i]?.at ?? 0n
    for (let edge = edges[i]; edge !== undefined && edge.at === first; edge = edges[++i]) {
      const depth = (open.get(edge.entry) ?? 0) + (edge.opens ? 1 : -1)
      if (depth === 0) open.delete(edge.entry)
      else open.set(edge.entry, depth)
    }
    const last = (edges[i]?.at ?? everyAddress[family].last + 1n) - 1n
    if (open.size === 0) continue
    const covering = entries.filter((entry) => open.has(entry))
    const before = found.at(-1)
    if (before?.range.last === first - 1n && sameEntries(before.covering, covering)) before.range.last = last
    else found.push({ range: { family, first, last }, covering })
  }
  return found
}

function sameEntries(a: readonly PeerEntry[], b: readonly PeerEntry[]): boolean {
  return a.length === b.length && a.every((entry, i) => entry === b[i])
}

/** The ports of one protocol as disjoint spans with their verdict; neighbours of one verdict joined. */
function spansOf(covering: readonly PeerEntry[], protocol: Protocol): Span[] {
  const relevant = covering.flatMap((entry) => {
    if (entry.ports.kind === 'all') return [{ entry, first: 0, last: 65535 }]
    return entry.ports.protocol === protocol ? [{ entry, first: entry.ports.first, last: entry.ports.last }] : []
  })
  const cuts = [...new Set(relevant.flatMap(({ first, last }) => [first, last + 1]))].sort((a, b) => a - b)
  const spans: { first: number; last: number; verdict: BoxVerdict }[] = []
  for (const [i, first] of cuts.entries()) {
    const last = (cuts[i + 1] ?? first) - 1
    const verdict = verdictOf(relevant.filter((r) => r.first <= first && last <= r.last).map((r) => r.entry))
    if (last < first || verdict === undefined) continue
    const before = spans.at(-1)
    if (before?.last === first - 1 && before.verdict === verdict) before.last = last
    else spans.push({ first, last, verdict })
  }
  return spans
}
