// What holds between one subject and one kind of peer, by protocol and port: statements in an order, cut into lookups that need no order.
// Precedence is settled here, so that a packet meets the same few lookups however many rules there are.
import type { Family } from '../net/address.ts'
import { icmpProtocol, portsCover, Protocol, type L4, type Ports } from '../net/ports.ts'
import { compareRanks, needsProxy } from '../policy/names.ts'
import type { DirectionPolicy, Entry, Rank } from '../policy/snapshot.ts'
import { singlesMax } from './element.ts'

/** `lease`: denied, unless a lease opens it. */
export type CellVerdict = 'allow' | 'deny' | 'lease'

/** What happens past the entries, and where in their order names stand (none on ingress). */
export interface Tail {
  readonly fallback: DirectionPolicy['fallback']
  readonly names: readonly Rank[]
}

export interface PortSpan {
  readonly protocol: Protocol
  readonly first: number
  readonly last: number
  readonly verdict: CellVerdict
}

/** Read from the end: the last list that knows the packet decides. Nothing is in a list that the lists before it say as well. */
export interface Cell {
  /** Every packet. */
  readonly rest: CellVerdict
  /** Protocols that differ from `rest`, with all their ports or types. */
  readonly protocols: ReadonlyMap<number, CellVerdict>
  /** Ports that differ from their protocol; disjoint, sorted. */
  readonly ports: readonly PortSpan[]
  /** ICMP types that differ from their protocol. */
  readonly icmp: readonly { readonly family: Family; readonly type: number; readonly verdict: CellVerdict }[]
}

/**
 * The verdict of entries that all cover a packet, in their order: the first decides, a `pass` skips the rest of its tier. Allows of one level
 * (tier and priority) stand together: where all of them need a proxy, the level denies. A denial leaves the door to leases only when every
 * name rule comes before it: with name rules on both sides of a denial the kernel, which does not know which of them a lease is from, stays
 * closed.
 */
export function walk(entries: readonly Entry[], { fallback, names }: Tail): CellVerdict {
  let skipped: number | undefined
  let lost = names.length === 0
  const denied = (isBefore: (name: Rank) => boolean): CellVerdict => (!lost && names.every(isBefore) ? 'lease' : 'deny')
  for (const [i, entry] of entries.entries()) {
    if (entry.tier === skipped) continue
    switch (entry.kind) {
      case 'deny':
        return denied((name) => compareRanks(name, entry) < 0)
      case 'allow':
        return allowsUnseen(entries, i) ? 'allow' : denied((name) => compareRanks(name, entry) <= 0)
      case 'pass':
        skipped = entry.tier
        lost ||= names.some((name) => name.tier === entry.tier && name.priority > entry.priority)
    }
  }
  return fallback === 'allow' ? 'allow' : denied(() => true)
}

/** Whether an allow of this level needs no proxy. Beside DNS rules only one on exactly the port counts (as in `policy/rulings.ts`). */
function allowsUnseen(entries: readonly Entry[], from: number): boolean {
  const [first] = entries.slice(from)
  const level = entries.slice(from).filter((e) => e.kind === 'allow' && first !== undefined && compareRanks(e, first) === 0)
  const hasDns = level.some(({ l7 }) => l7?.kind === 'dns')
  return level.some((e) => !needsProxy(e) && (!hasDns || isOnePort(e.ports)))
} // prettier-ignore

const isOnePort = (ports: Ports): boolean => ports.kind === 'ports' && ports.first === ports.last

/** An entry with its place in the subject's order. */
export interface Placed {
  readonly at: number
  readonly entry: Entry
}

interface CoveredSpan {
  readonly first: number
  readonly last: number
  readonly covering: readonly Placed[]
}

/** Which entries cover what, as far as they can decide; made once for what many kinds of peers have in common. */
export interface Layer {
  /** Every packet. */
  readonly always: readonly Placed[]
  /** All ports or types of a protocol; those of `always` too. */
  readonly protocols: ReadonlyMap<number, readonly Placed[]>
  /** All ports of a protocol, in disjoint spans. */
  readonly ports: ReadonlyMap<Protocol, readonly CoveredSpan[]>
  readonly icmp: ReadonlyMap<
    string,
    { readonly family: Family; readonly type: number; readonly covering: readonly Placed[] }
  >
}

export const nothing: Layer = { always: [], protocols: new Map(), ports: new Map(), icmp: new Map() }

/** The layer with more entries. What they do not cover stays as it is, so that few entries on top of many cost little. */
export function addEntries(layer: Layer, entries: readonly Placed[]): Layer {
  if (entries.length === 0) return layer
  const of = (covers: (ports: Ports) => boolean): readonly Placed[] => entries.filter(({ entry }) => covers(entry.ports))
  const always = merge(layer.always, of(({ kind }) => kind === 'all'))
  const protocols = new Map<number, readonly Placed[]>()
  const ports = new Map<Protocol, readonly CoveredSpan[]>()
  const icmp = new Map<string, { family: Family; type: number; covering: readonly Placed[] }>()
  for (const protocol of new Set([...layer.protocols.keys(), ...entries.flatMap(({ entry }) => protocolOf(entry.ports) ?? [])])) {
    const whole = of((its) => its.kind === 'all' || (its.kind === 'protocol' && its.protocol === protocol))
    const before = layer.protocols.get(protocol) ?? layer.always
    protocols.set(protocol, merge(before, whole))
    if (isPorted(protocol)) ports.set(protocol, cutSpans(layer.ports.get(protocol) ?? [{ first: 0, last: 65535, covering: before }], entries, whole, protocol))
  }
  for (const [key, { family, type, covering }] of [...layer.icmp, ...typesOf(entries, layer)]) {
    const more = of((its) => its.kind === 'all' || portsCover(its, { protocol: icmpProtocol[family], icmpType: type }))
    icmp.set(key, { family, type, covering: merge(covering, more) })
  }
  return { always, protocols, ports, icmp }
} // prettier-ignore

/** The types that the entries are the first to speak of. */
function typesOf(entries: readonly Placed[], layer: Layer): [string, { family: Family; type: number; covering: readonly Placed[] }][] {
  const found = new Map<string, { family: Family; type: number; covering: readonly Placed[] }>()
  for (const { entry: { ports } } of entries) {
    if (ports.kind !== 'icmp') continue
    const { family, type } = ports
    const key = `${family} ${type}`
    if (!layer.icmp.has(key)) found.set(key, { family, type, covering: layer.protocols.get(icmpProtocol[family]) ?? layer.always })
  }
  return [...found]
} // prettier-ignore

function cutSpans(spans: readonly CoveredSpan[], entries: readonly Placed[], whole: readonly Placed[], protocol: Protocol): CoveredSpan[] {
  const ranged = entries.flatMap((placed) => {
    const { ports } = placed.entry
    return ports.kind === 'ports' && ports.protocol === protocol ? [{ placed, first: ports.first, last: ports.last }] : []
  })
  const cuts = [...new Set(ranged.flatMap(({ first, last }) => [first, last + 1]))].sort((a, b) => a - b)
  const opening = ranged.sort((a, b) => a.first - b.first)
  let open: typeof ranged = []
  const found: CoveredSpan[] = []
  let [next, cut] = [0, 0]
  for (const span of spans)
    for (let { first } = span; first <= span.last;) {
      while ((cuts[cut] ?? 65536) <= first) cut++
      const last = Math.min(span.last, (cuts[cut] ?? 65536) - 1)
      while ((opening[next]?.first ?? 65536) <= first) open.push(...opening.slice(next, ++next))
      open = open.filter((one) => one.last >= first)
      const more = open.length === 0 ? whole : [...whole, ...open.map(({ placed }) => placed)]
      found.push({ first, last, covering: merge(span.covering, more) })
      first = last + 1
    }
  return found
} // prettier-ignore

/** Both, in order, without what cannot decide any more. */
function merge(a: readonly Placed[], b: readonly Placed[]): readonly Placed[] {
  return b.length === 0 ? a : prune([...a, ...b].sort((x, y) => x.at - y.at))
}

/** Of each tier what stands before and in the first level that decides; of that level one allow of each sort (`allowsUnseen`). */
function prune(placed: readonly Placed[]): Placed[] {
  const decided = new Map<number, Placed>()
  const sorts = new Set<string>()
  return placed.filter((one) => {
    const { entry } = one
    const by = decided.get(entry.tier)
    if (by === undefined) {
      if (entry.kind !== 'pass') decided.set(entry.tier, one)
      if (entry.kind !== 'allow') return true
    } else if (entry.kind !== 'allow' || by.entry.kind !== 'allow' || compareRanks(entry, by.entry) !== 0) return false
    const sort = `${entry.tier} ${needsProxy(entry) ? (entry.l7?.kind === 'dns' ? 'dns' : 'proxy') : isOnePort(entry.ports) ? 'port' : 'plain'}`
    if (sorts.has(sort)) return false
    sorts.add(sort)
    return true
  })
} // prettier-ignore

const isPorted = (protocol: number): protocol is Protocol =>
  Object.values(Protocol).some((ported) => ported === protocol)

/** The protocol of which ports say more than of all. */
function protocolOf(ports: Ports): number | undefined {
  if (ports.kind === 'icmp') return icmpProtocol[ports.family]
  return ports.kind === 'all' ? undefined : ports.protocol
}

export function cellOf(layer: Layer, tail: Tail): Cell {
  const verdictOf = (covering: readonly Placed[]): CellVerdict =>
    walk(
      covering.map(({ entry }) => entry),
      tail,
    )
  const rest = verdictOf(layer.always)
  const protocols = new Map<number, CellVerdict>()
  const ports: PortSpan[] = []
  for (const [protocol, covering] of [...layer.protocols].sort(([a], [b]) => a - b)) {
    const spans = isPorted(protocol) ? joinSpans(layer.ports.get(protocol) ?? [], protocol, verdictOf) : []
    const whole = spans.length > 0 ? mostPorts(spans) : verdictOf(covering)
    if (whole !== rest) protocols.set(protocol, whole)
    ports.push(...spans.filter((span) => span.verdict !== whole))
  }
  const icmp = [...layer.icmp.values()]
    .map(({ family, type, covering }) => ({ family, type, verdict: verdictOf(covering) }))
    .filter(({ family, verdict }) => verdict !== (protocols.get(icmpProtocol[family]) ?? rest))
  return { rest, protocols, ports, icmp }
}

/** Neighbours of one verdict joined. */
function joinSpans(spans: readonly CoveredSpan[], protocol: Protocol, verdictOf: (covering: readonly Placed[]) => CellVerdict): PortSpan[] {
  const joined: PortSpan[] = []
  for (const { first, last, covering } of spans) {
    const verdict = verdictOf(covering)
    const before = joined.at(-1)
    if (before?.verdict === verdict) joined[joined.length - 1] = { ...before, last }
    else joined.push({ protocol, first, last, verdict })
  }
  return joined
} // prettier-ignore

function mostPorts(spans: readonly PortSpan[]): CellVerdict {
  const counts = new Map<CellVerdict, number>()
  for (const { first, last, verdict } of spans) counts.set(verdict, (counts.get(verdict) ?? 0) + last - first + 1)
  return [...counts].reduce((most, one) => (one[1] > most[1] ? one : most))[0]
}

/** The cell of entries, in their order, that cover one kind of peer. */
export function compileCell(entries: readonly Entry[], tail: Tail): Cell {
  return cellOf(
    addEntries(
      nothing,
      entries.map((entry, at) => ({ at, entry })),
    ),
    tail,
  )
}

/** What is said of a kind of peers on top of what is said of all of its place: less than the whole cell. */
export type Difference = Omit<Cell, 'rest'> & { readonly rest: CellVerdict | undefined }

/**
 * What must be said on top of `under` so that all that is said is `cell`. Where they differ only in ports and types of ICMP, that is those
 * ports and types; else the whole cell.
 */
export function differenceTo(cell: Cell, under: Cell): Difference {
  if (cell.rest !== under.rest) return cell
  const protocols = new Set([...cell.protocols.keys(), ...under.protocols.keys()])
  for (const protocol of protocols)
    if (!isPorted(protocol) && (cell.protocols.get(protocol) ?? cell.rest) !== (under.protocols.get(protocol) ?? under.rest)) return cell
  const ports = Object.values(Protocol).flatMap((protocol) => differentSpans(cell, under, protocol))
  const icmp = [...cell.icmp, ...under.icmp].filter(({ family, type, verdict }, i, all) => {
    const l4 = { protocol: icmpProtocol[family], icmpType: type }
    return all.findIndex((one) => one.family === family && one.type === type) === i && (i < cell.icmp.length ? cellVerdict(under, l4) : cellVerdict(cell, l4)) !== verdict
  }).map(({ family, type }) => ({ family, type, verdict: cellVerdict(cell, { protocol: icmpProtocol[family], icmpType: type }) }))
  // A whole protocol is one element in the cell, and a range of all ports here.
  const isLess = costOf(ports) + icmp.length < costOf(cell.ports) + cell.protocols.size + cell.icmp.length + 1
  return isLess ? { rest: undefined, protocols: new Map(), ports, icmp } : cell
} // prettier-ignore

/** Elements that the spans become; wide ones are dearer to look up. */
function costOf(spans: readonly PortSpan[]): number {
  return spans.reduce((sum, { first, last }) => sum + (last - first < singlesMax ? last - first + 1 : 4), 0)
}

function differentSpans(cell: Cell, under: Cell, protocol: Protocol): PortSpan[] {
  const edgesOf = ({ ports }: Cell): number[] =>
    ports.flatMap((span) => (span.protocol === protocol ? [span.first, span.last + 1] : []))
  const cuts = [...new Set([0, ...edgesOf(cell), ...edgesOf(under)])].filter((cut) => cut <= 65535).sort((a, b) => a - b) // prettier-ignore
  const [is, was] = [spanReader(cell, protocol), spanReader(under, protocol)]
  const spans: PortSpan[] = []
  for (const [i, first] of cuts.entries()) {
    const last = (cuts[i + 1] ?? 65536) - 1
    const verdict = is(first)
    if (verdict === was(first)) continue
    const before = spans.at(-1)
    if (before?.verdict === verdict && before.last === first - 1) spans[spans.length - 1] = { ...before, last }
    else spans.push({ protocol, first, last, verdict })
  }
  return spans
}

/** Reads verdicts on ports that are asked in rising order. */
function spanReader(cell: Cell, protocol: Protocol): (port: number) => CellVerdict {
  const spans = cell.ports.filter((span) => span.protocol === protocol)
  const whole = cell.protocols.get(protocol) ?? cell.rest
  let i = 0
  return (port) => {
    while ((spans[i]?.last ?? 65536) < port) i++
    const span = spans[i]
    return span !== undefined && span.first <= port ? span.verdict : whole
  }
}

/** What the cell says of a packet: what the kernel's lookups find, in their order. */
export function cellVerdict(cell: Cell, { protocol, port, icmpType }: L4): CellVerdict {
  const span = cell.ports.find((one) => one.protocol === protocol && port !== undefined && one.first <= port && port <= one.last) // prettier-ignore
  const type = cell.icmp.find((one) => icmpProtocol[one.family] === protocol && one.type === icmpType)
  return (span ?? type)?.verdict ?? cell.protocols.get(protocol) ?? cell.rest
}
