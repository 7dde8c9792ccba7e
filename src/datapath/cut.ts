// Connections that are cut, as nft text. To forget one is not enough: the next packet of either end begins it anew, in its own direction, and
// what one end may not open the other perhaps may. So the kernel refuses what is not the beginning of a TCP connection, and every UDP packet,
// between the ports of one that was cut.
import { addressToText, familyOf } from '../net/address.ts'
import { Protocol } from '../net/ports.ts'
import type { Connection } from './ctnetlink.ts'

/** Sets of connections that were cut: protocol, both addresses, both ports. */
export const cutSets = { tcp: 'cut_tcp', udp: 'cut_udp' } as const

/** Ends of connections that are remembered in each set: of 65 000 connections, 15 MB. The kernel refuses more. */
export const cutEndsMax = 131_072

/** How long they are. An end of TCP that was silent longer has had its keep-alive's answer; a stream of UDP is new after that. */
const ttl = { tcp: '1d', udp: '10m' } as const

/** Elements on one line: see `renderChange`. */
const elementsPerLine = 500

/** Commands that have these connections refused, in both directions; those without ports only need to be forgotten. */
export function renderCut(table: string, connections: readonly Connection[]): string {
  const elements = new Map<string, string[]>()
  for (const { protocol, source, sourcePort, peer, peerPort } of connections) {
    const name = protocol === Protocol.TCP ? 'tcp' : protocol === Protocol.UDP ? 'udp' : undefined
    if (name === undefined) continue
    const set = `${cutSets[name]}${familyOf(source)}`
    const [one, other] = [`${addressToText(source)} . ${sourcePort}`, `${addressToText(peer)} . ${peerPort}`]
    const own = elements.get(set) ?? []
    own.push(`${name} . ${one} . ${other} timeout ${ttl[name]}`, `${name} . ${other} . ${one} timeout ${ttl[name]}`)
    elements.set(set, own)
  }
  let text = ''
  for (const [set, list] of elements)
    for (let i = 0; i < list.length; i += elementsPerLine)
      text += `add element inet ${table} ${set} { ${list.slice(i, i + elementsPerLine).join(', ')} }\n`
  return text
}
