// Which protocols and ports a rule covers.

/** IANA protocol numbers of the protocols that carry ports. */
export const Protocol = { TCP: 6, UDP: 17, SCTP: 132 } as const
export type Protocol = (typeof Protocol)[keyof typeof Protocol]

/** `all`: any protocol, with ports or without (ICMP too). `ports`: ports `first` to `last` of one protocol; 0-65535 is all of them. */
export type Ports =
  | { readonly kind: 'all' }
  | { readonly kind: 'ports'; readonly protocol: Protocol; readonly first: number; readonly last: number }

/** The name of a protocol number, as nft and policies write it, lower case. */
export function protocolName(protocol: number): string {
  for (const [name, number] of Object.entries(Protocol)) if (number === protocol) return name.toLowerCase()
  return protocol === 1 ? 'icmp' : protocol === 58 ? 'icmpv6' : String(protocol)
}

/** Whether `ports` covers a packet; `port` is undefined for protocols without ports. */
export function portsCover(ports: Ports, protocol: number, port: number | undefined): boolean {
  if (ports.kind === 'all') return true
  return ports.protocol === protocol && port !== undefined && ports.first <= port && port <= ports.last
}

/** `any`, `tcp/443`, `udp/1000-2000`. */
export function portsToText(ports: Ports): string {
  if (ports.kind === 'all') return 'any'
  const range = ports.first === ports.last ? String(ports.first) : `${ports.first}-${ports.last}`
  return `${protocolName(ports.protocol)}/${ports.first === 0 && ports.last === 65535 ? '*' : range}`
}
