// What statements decide that all cover a flow, and which do: the order of tiers, priorities and kinds, told once for everybody.
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import { icmpProtocol, type L4, type Ports } from '../net/ports.ts'
import { rangeCovers } from '../net/prefix.ts'
import { compareRanks } from './names.ts'
import type { Entry, Grant } from './snapshot.ts'

export type Statement = Entry | Grant

/** What the first level that decides says. `judge`: it allows, if what is above L4 is as one of the statements asks. */
export type Ruling =
  | { readonly kind: 'deny'; readonly by: Statement }
  | { readonly kind: 'allow'; readonly by: Statement; readonly level: readonly Statement[] }
  | { readonly kind: 'judge'; readonly level: readonly Statement[] }
  | { readonly kind: 'fallback' }

export const fallback: Ruling = { kind: 'fallback' }

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

/** Whom a flow goes to or comes from. */
export interface PeerOf {
  readonly identity: IdentityId
  /** Undefined: no CIDR is about it. */
  readonly address: Address | undefined
  /** Whether the address has no identity of its own, so that CIDRs of the `outside` kind are about it. */
  readonly isOutside: boolean
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

/** Port, or type of ICMP; -1 for a packet of which neither is known: then only what is about the whole protocol covers it. */
export const cellOf = ({ port, icmpType }: L4): number => port ?? icmpType ?? -1

/** Whether ports cover a cell of a protocol. */
export function coversCell(ports: Ports, protocol: number, cell: number): boolean {
  const cells = cellsOf(ports, protocol)
  return cells !== undefined && cells[0] <= cell && cell <= cells[1]
}

const whole = [-1, 65535] as const

/** The cells of a protocol that ports cover. */
export function cellsOf(ports: Ports, protocol: number): readonly [first: number, last: number] | undefined {
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
