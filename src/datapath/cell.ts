// What holds between one subject and one kind of peer, by protocol and port: statements in an order, cut into lookups that need no order.
// Precedence is settled here, so that a packet meets the same few lookups however many rules there are.
import type { Family } from '../net/address.ts'
import { icmpProtocol, portsCover, Protocol, type L4 } from '../net/ports.ts'
import { compareRanks } from '../policy/names.ts'
import type { DirectionPolicy, Entry, Grant, Rank } from '../policy/snapshot.ts'

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

/** Whether a statement allows only what a proxy has looked into: the kernel alone must not. */
export function needsProxy({ l7, rule }: Pick<Entry | Grant, 'l7' | 'rule'>): boolean {
  return l7 !== undefined || rule.serverNames !== undefined || rule.listener !== undefined
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
  return level.some((e) => !needsProxy(e) && (!hasDns || (e.ports.kind === 'ports' && e.ports.first === e.ports.last)))
} // prettier-ignore

/** The cell of the entries, in their order, that cover one kind of peer. */
export function compileCell(entries: readonly Entry[], tail: Tail): Cell {
  const verdictOf = (l4: L4): CellVerdict =>
    walk(
      entries.filter((entry) => portsCover(entry.ports, l4)),
      tail,
    )
  // No entry speaks of a protocol of this number.
  const rest = verdictOf({ protocol: -1 })
  const protocols = new Map<number, CellVerdict>()
  const ports: PortSpan[] = []
  const icmp: { family: Family; type: number; verdict: CellVerdict }[] = []
  for (const protocol of protocolsOf(entries)) {
    const spans = isPorted(protocol) ? spansOf(entries, protocol, verdictOf) : []
    const whole = spans.length > 0 ? mostPorts(spans) : verdictOf({ protocol })
    if (whole !== rest) protocols.set(protocol, whole)
    ports.push(...spans.filter((span) => span.verdict !== whole))
    for (const family of [4, 6] as const)
      if (icmpProtocol[family] === protocol)
        for (const type of typesOf(entries, family)) {
          const verdict = verdictOf({ protocol, icmpType: type })
          if (verdict !== whole) icmp.push({ family, type, verdict })
        }
  }
  return { rest, protocols, ports, icmp }
}

const isPorted = (protocol: number): protocol is Protocol =>
  Object.values(Protocol).some((ported) => ported === protocol)

/** Protocols of which some entry says more than of all; sorted. */
function protocolsOf(entries: readonly Entry[]): number[] {
  const found = new Set<number>()
  for (const { ports } of entries)
    if (ports.kind === 'icmp') found.add(icmpProtocol[ports.family])
    else if (ports.kind !== 'all') found.add(ports.protocol)
  return [...found].sort((a, b) => a - b)
}

function typesOf(entries: readonly Entry[], family: Family): number[] {
  const types = entries.flatMap(({ ports }) => (ports.kind === 'icmp' && ports.family === family ? [ports.type] : []))
  return [...new Set(types)].sort((a, b) => a - b)
}

/** All ports of a protocol as disjoint spans with their verdict; neighbours of one verdict joined. */
function spansOf(entries: readonly Entry[], protocol: Protocol, verdictOf: (l4: L4) => CellVerdict): PortSpan[] {
  const edges = entries.flatMap(({ ports }) =>
    ports.kind === 'ports' && ports.protocol === protocol ? [ports.first, ports.last + 1] : [],
  )
  const cuts = [...new Set([0, ...edges])].filter((cut) => cut <= 65535).sort((a, b) => a - b)
  const spans: PortSpan[] = []
  for (const [i, first] of cuts.entries()) {
    const last = (cuts[i + 1] ?? 65536) - 1
    const verdict = verdictOf({ protocol, port: first })
    const before = spans.at(-1)
    if (before?.verdict === verdict) spans[spans.length - 1] = { ...before, last }
    else spans.push({ protocol, first, last, verdict })
  }
  return spans
}

function mostPorts(spans: readonly PortSpan[]): CellVerdict {
  const counts = new Map<CellVerdict, number>()
  for (const { first, last, verdict } of spans) counts.set(verdict, (counts.get(verdict) ?? 0) + last - first + 1)
  return [...counts].reduce((most, one) => (one[1] > most[1] ? one : most))[0]
}

/** What the cell says of a packet: what the kernel's lookups find, in their order. */
export function cellVerdict(cell: Cell, { protocol, port, icmpType }: L4): CellVerdict {
  const span = cell.ports.find((one) => one.protocol === protocol && port !== undefined && one.first <= port && port <= one.last) // prettier-ignore
  const type = cell.icmp.find((one) => icmpProtocol[one.family] === protocol && one.type === icmpType)
  return (span ?? type)?.verdict ?? cell.protocols.get(protocol) ?? cell.rest
}
