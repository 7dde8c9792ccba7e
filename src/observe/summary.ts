// A flow in one line, in the form that Hubble's compact, dict and table output print as it stands.
import { addressToText } from '../net/address.ts'
import type { HubbleFlow } from './flow.ts'

const flagNames = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'] as const
export type TcpFlag = (typeof flagNames)[number]

/** The names of the flags in the octet, as Hubble lists them. */
export function tcpFlagNames(octet: number): readonly TcpFlag[] {
  return flagNames.filter((_, i) => (octet & (1 << i)) !== 0)
}

/** Names of IANA's DNS RCODEs, as Hubble spells them. */
const rcodeTexts: Readonly<Record<number, string>> = {
  0: 'No Error',
  1: 'Format Error',
  2: 'Server Failure',
  3: 'Non-Existent Domain',
  4: 'Not Implemented',
  5: 'Query Refused',
}
export const rcodeText = (rcode: number): string => rcodeTexts[rcode] ?? `RCode${rcode}`

/** A name as messages have it: with the final dot, `.` for the root. */
export const withDot = (name: string): string => `${name === '.' ? '' : name}.`

export function summaryOf(flow: HubbleFlow): string {
  switch (flow.kind) {
    case 'query':
      return `DNS Query ${withDot(flow.qname)} ${flow.qtype}`
    case 'answer': {
      const asked = `(Proxy ${withDot(flow.qname)} ${flow.qtype})`
      if (flow.rcode !== 0) return `DNS Answer RCode: ${rcodeText(flow.rcode)} TTL: ${flow.ttlSeconds} ${asked}`
      return `DNS Answer "${flow.addresses.map(addressToText).join(',')}" TTL: ${flow.ttlSeconds} ${asked}`
    }
    case 'connection':
      if (flow.tcpFlags !== undefined) return `TCP Flags: ${tcpFlagNames(flow.tcpFlags).join(', ')}`
      if (flow.protocol === 17) return 'UDP'
      if (flow.protocol === 132) return 'SCTP'
      if (flow.icmp !== undefined) return `${flow.protocol === 58 ? 'ICMPv6' : 'ICMPv4'} ${icmpText(flow.protocol, flow.icmp)}`
      return `IP protocol ${flow.protocol}`
  }
} // prettier-ignore

function icmpText(protocol: number, { type, code }: { readonly type: number; readonly code: number }): string {
  if (type === (protocol === 58 ? 128 : 8)) return 'EchoRequest'
  return type === (protocol === 58 ? 129 : 0) ? 'EchoReply' : `${type}(${code})`
}
