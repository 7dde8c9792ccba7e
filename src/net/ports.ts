// Which protocols and ports a rule covers.
import type { Family } from './address.ts'

/** IANA protocol numbers of the protocols that carry ports. */
export const Protocol = { TCP: 6, UDP: 17, SCTP: 132 } as const
export type Protocol = (typeof Protocol)[keyof typeof Protocol]

/** IANA protocol numbers of ICMP by the family that it belongs to. */
export const icmpProtocol: Readonly<Record<Family, number>> = { 4: 1, 6: 58 }

/**
 * `all`: any protocol, with ports or without (ICMP too). `ports`: ports `first` to `last` of one protocol; 0-65535 is all of them.
 * `icmp`: one type of ICMP of one family, any code. `protocol`: one protocol without ports, by its IANA number.
 */
export type Ports =
  | { readonly kind: 'all' }
  | { readonly kind: 'ports'; readonly protocol: Protocol; readonly first: number; readonly last: number }
  | { readonly kind: 'icmp'; readonly family: Family; readonly type: number }
  | { readonly kind: 'protocol'; readonly protocol: number }

/** What of a packet rules about ports look at. `port` is the destination's, absent for protocols without; `icmpType` for ICMP only. */
export interface L4 {
  readonly protocol: number
  readonly port?: number | undefined
  readonly icmpType?: number | undefined
}

/** The name of a protocol number, as nft and policies write it, lower case. */
export function protocolName(protocol: number): string {
  for (const [name, number] of Object.entries(Protocol)) if (number === protocol) return name.toLowerCase()
  return protocol === 1 ? 'icmp' : protocol === 58 ? 'icmpv6' : String(protocol)
}

/** Whether `ports` covers a packet. */
export function portsCover(ports: Ports, { protocol, port, icmpType }: L4): boolean {
  switch (ports.kind) {
    case 'all':
      return true
    case 'ports':
      return ports.protocol === protocol && port !== undefined && ports.first <= port && port <= ports.last
    case 'icmp':
      return icmpProtocol[ports.family] === protocol && ports.type === icmpType
    case 'protocol':
      return ports.protocol === protocol
  }
}

/** Whether some packet is covered by both. */
export function portsOverlap(a: Ports, b: Ports): boolean {
  if (a.kind === 'all' || b.kind === 'all') return true
  if (a.kind === 'protocol') return protocolOf(b) === a.protocol
  if (b.kind === 'protocol') return protocolOf(a) === b.protocol
  if (a.kind === 'icmp') return b.kind === 'icmp' && a.family === b.family && a.type === b.type
  return b.kind === 'ports' && a.protocol === b.protocol && a.first <= b.last && b.first <= a.last
}

function protocolOf(ports: Exclude<Ports, { kind: 'all' }>): number {
  return ports.kind === 'icmp' ? icmpProtocol[ports.family] : ports.protocol
}

/** `any`, `tcp/443`, `udp/1000-2000`, `icmp type 8`, `protocol 47`. */
export function portsToText(ports: Ports): string {
  switch (ports.kind) {
    case 'all':
      return 'any'
    case 'icmp':
      return `${protocolName(icmpProtocol[ports.family])} type ${ports.type}`
    case 'protocol':
      return `protocol ${ports.protocol}`
    case 'ports': {
      const range = ports.first === ports.last ? String(ports.first) : `${ports.first}-${ports.last}`
      return `${protocolName(ports.protocol)}/${ports.first === 0 && ports.last === 65535 ? '*' : range}`
    }
  }
}
