// The table's structure as nft text in the kernel's normal form: what `nft -s -t list table` prints is what stands here.
// A packet from or to a workload meets a constant number of lookups, whatever the number of policies:
//   established passes;  is its source a workload: whose peer is the destination, as a number;  what does the subject's policy say about
//   that number and port;  if a lease could open it, the learned sets;  and then the same for its destination, with the source as peer.
import { addressFromText, addressToText, type Address } from '../net/address.ts'
import { joinRanges, rangeToText, type AddressRange } from '../net/prefix.ts'
import { snapOctets } from './nflog.ts'
import { clusterNumber } from './peers.ts'

export interface StructureOptions {
  readonly table: string
  /**
   * Where the workloads' DNS is sent: a port of this host, on the address the packet came in by (`0.0.0.0`, `::`, or none given at all), or on a
   * given address. A family that has none while the other has one is without DNS.
   */
  readonly proxy: { readonly port: number; readonly address4?: string; readonly address6?: string }
  /** Silent, or answered (TCP reset, else ICMP "administratively prohibited") so that programs fail at once. */
  readonly denied: 'drop' | 'reject'
  /**
   * Where workloads live: interface names (may end in `*`) and prefixes. What comes from there with an unknown source is a stranger: its DNS is
   * answered where it is routed back, all else dropped. Prefixes of one family alone do not say where the other's workloads live: then of that
   * family only what an endpoint sends or gets is forwarded.
   */
  readonly interfaces: readonly string[]
  readonly prefixes: readonly AddressRange[]
  readonly strangers: 'deny' | 'allow'
  /**
   * Policies of this host (nodeSelector) hold for its own traffic too. `upstreams` are the resolvers that the proxy itself asks: they stay in
   * reach whatever those policies say. Absent: they hold for nothing.
   */
  readonly hostPolicies?: { readonly upstreams: readonly { readonly address: Address; readonly port: number }[] }
  /** The NFLOG group that is told of first packets, allowed and denied, at most `loggedPerSecond` of each. Absent: nobody is. */
  readonly logGroup?: number
  /** Bound of each learned set; the kernel refuses more (ENFILE), and the answer is then SERVFAIL. */
  readonly learnedMax: number
}

/** Workloads' attempts at resolvers that would not be seen (DNS over TLS and QUIC, RFC 7858 §3.1, RFC 9250 §4.1.1): past the bound no new ones are remembered. */
export const triedMax = 4096
const tried = { port: 853, lines: [`size ${triedMax}`, 'flags dynamic,timeout', 'timeout 1h'] }

/** Denied flows that are remembered for the summary and `denied()`: past the bound only the counter goes on. */
export const deniedFlowsMax = 4096

/** What the kernel tells of: packets that policy denies in a direction, and connections that it lets begin. */
export const logPrefix = { egress: 'denied egress', ingress: 'denied ingress', allowed: 'allowed' } as const
/** Told of in a second, for each prefix: past that packets go their way untold. */
const loggedPerSecond = 2000

function log({ logGroup }: StructureOptions, prefix: keyof typeof logPrefix): string[] {
  if (logGroup === undefined) return []
  return [`limit rate ${loggedPerSecond}/second burst ${loggedPerSecond} packets log prefix "${logPrefix[prefix]}" group ${logGroup} snaplen ${snapOctets}`] // prettier-ignore
}

const families = [4, 6] as const
const directions = ['egress', 'ingress'] as const
/** What the lookups for one direction are keyed by, behind peer and subject; in the order in which a packet meets them. */
const lookups = ['port', 'ports', 'icmp', 'protocol', 'any'] as const

type F = 4 | 6
type OfDirection = `${'egress' | 'ingress'}_${(typeof lookups)[number] | 'audited'}${F}`

/**
 * The maps and sets that policy fills, as text elements; the learned ones are written by netlink.
 * `identity`: local endpoints. `peer`, `range`: numbers of peers (peers.ts). `cluster`: addresses with an identity. `self`: an endpoint's address,
 * twice. `host`: this machine's addresses.
 * `audited`: subjects whose denials are noted and let through.
 */
export const policySets: readonly PolicySet[] = [
  ...(['identity', 'peer', 'range', 'cluster', 'self', 'host', 'nobody'] as const).flatMap((name) =>
    families.map((f) => `${name}${f}` as const),
  ),
  ...directions.flatMap((d) =>
    [...lookups, 'audited' as const].flatMap((name) => families.map((f) => `${d}_${name}${f}` as const)),
  ),
  'identities',
]
export type PolicySet =
  `${'identity' | 'peer' | 'range' | 'cluster' | 'self' | 'host' | 'nobody'}${F}` | OfDirection | 'identities'

/** What the maps of policy hold: numbers that no peer has. */
export const verdictNumbers = { allow: 0xfff0_0001, deny: 0xfff0_0002, lease: 0xfff0_0003 } as const

/** As nft lists them. */
const verdictClass = { allow: 'fff0:1', deny: 'fff0:2', lease: 'fff0:3' } as const
const clusterClass = `${(clusterNumber >>> 16).toString(16)}:${(clusterNumber & 0xffff).toString(16)}`
const hostClass = '0:1'

const block = (head: string, lines: readonly string[]): string =>
  `\t${head} {\n${lines.map((line) => `\t\t${line}\n`).join('')}\t}\n`

/** The whole table without elements. */
export function renderStructure(options: StructureOptions): string {
  const blocks = [...sets(options), ...chains(options)]
  return `table inet ${options.table} {\n${blocks.join('\n')}}\n`
}

function sets(options: StructureOptions): string[] {
  const size = `size ${options.learnedMax}`
  const both = (name: string, type: (address: string, f: F) => string, lines: readonly string[], kind = 'set'): string[] =>
    families.map((f) => block(`${kind} ${name}${f}`, [`type ${type(`ipv${f}_addr`, f)}`, ...lines]))
  const flow = (address: string): string => `classid . ${address} . inet_proto . inet_service`
  const ofDirection = (d: string): string[] => [
    ...both(`${d}_port`, (address) => `${flow(address)} : classid`, [], 'map'),
    ...both(`${d}_ports`, (address) => `${flow(address)} : classid`, ['flags interval'], 'map'),
    ...both(`${d}_icmp`, (address, f) => `classid . ${address} . ${f === 4 ? 'icmp_type' : 'icmpv6_type'} : classid`, [], 'map'),
    ...both(`${d}_protocol`, (address) => `classid . ${address} . inet_proto : classid`, [], 'map'),
    ...both(`${d}_any`, (address) => `classid . ${address} : classid`, [], 'map'),
    ...both(`${d}_audited`, (address) => address, []),
    ...both(`denied_${d}`, flow, [`size ${deniedFlowsMax}`, 'flags dynamic,timeout', 'timeout 1h']),
    ...both(`denied_${d}_any`, (address) => `classid . ${address} . inet_proto`, [`size ${deniedFlowsMax}`, 'flags dynamic,timeout', 'timeout 1h']),
  ]
  return [
    ...both('identity', (address) => `${address} : classid`, [], 'map'),
    ...both('peer', (address) => `${address} : classid`, [], 'map'),
    ...both('range', (address) => `${address} : classid`, ['flags interval'], 'map'),
    ...both('cluster', (address) => address, []),
    ...both('self', (address) => `${address} . ${address}`, []),
    ...both('host', (address) => address, []),
    ...both('nobody', (address) => address, []),
    // No packet meets this one: it tells the next agent what the numbers stand for.
    block('set identities', ['type classid']),
    ...directions.flatMap(ofDirection),
    ...both('tried', (address) => `${address} . ${address}`, tried.lines),
    ...both('learned', flow, [size, 'flags timeout']),
    ...both('learned_any', (address) => `classid . ${address}`, [size, 'flags timeout']),
    ...both('learned_range', flow, ['flags interval,timeout']),
  ]
} // prettier-ignore

const PORTED = 'meta l4proto { tcp, udp, sctp }'
/**
 * Neighbours of the link, and nobody farther: a message to any other address would be forwarded, with whatever is written in it. A neighbour is
 * this host, an address of link scope, or one that is reached by the way that the message came.
 */
const ND = 'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255'
const NEIGHBOURS = [
  `${ND} ip6 daddr { fe80::/10, ff02::/16 } accept`,
  `${ND} fib daddr type local accept`,
  `${ND} fib daddr . iif oif exists accept`,
]
/** Not routed to where it came from. Silently: a refusal would go to whomever the forger named, with what it wrote. */
const FORGED = 'fib saddr . iif oif missing counter drop'
/** A part of a datagram that was not put together with the others: its ports are not to be seen. In IPv4 there are none by now. */
const PART = 'exthdr frag exists counter drop'
/** A route of the sender's own, around what is judged here (RFC 791, RFC 8200 §4.4); or this host's inside, which is on no link (RFC 1122 §3.2.1.3). */
const DETOURS = ['ip option lsrr exists', 'ip option ssrr exists', 'exthdr rt exists', 'ip daddr 127.0.0.0/8', 'ip6 daddr ::1'].map((match) => `${match} counter drop`) // prettier-ignore
const ip = (f: F): 'ip' | 'ip6' => (f === 4 ? 'ip' : 'ip6')

/** The subject's address and the peer's, of a packet in a direction. */
const sides = (direction: 'egress' | 'ingress', f: F): { subject: string; peer: string } => {
  const [source, destination] = [`${ip(f)} saddr`, `${ip(f)} daddr`]
  return direction === 'egress' ? { subject: source, peer: destination } : { subject: destination, peer: source }
}

/**
 * Numbers are carried in the packet's priority: it is free in prerouting (forwarding sets it anew), while marks belong to kube-proxy and
 * network plugins. `allowed` and `refuse` clear it. Verdicts are numbers too, so that maps hold data only: the kernel walks every chain
 * that an element of a verdict map leads to, for each element, whenever the map changes.
 */
function chains(options: StructureOptions): string[] {
  const { proxy } = options
  const dns = `meta l4proto { tcp, udp } th dport ${proxy.port} fib daddr type local accept`
  const from = workloadMatches(options)
  return [
    block('chain allowed', [...log(options, 'allowed'), 'meta priority set none accept']),
    block('chain refuse', [
      'meta priority set none',
      // A reset ends a connect at once; on an ICMP error that comes back while it still sends, TCP tries again a second later.
      ...(options.denied === 'drop'
        ? ['counter drop']
        : ['meta l4proto tcp counter reject with tcp reset', 'counter reject with icmpx admin-prohibited']),
    ]),
    ...families.flatMap((f) => judging('ingress', f, options)),
    // What its sender may send may still not be for its receiver.
    block('chain passed', [...families.map((f) => `${ip(f)} daddr @identity${f} goto ingress${f}`), 'goto allowed']),
    ...families.flatMap((f) => judging('egress', f, options)),
    ...families.map((f) =>
      block(`chain outgoing${f}`, [
        ...(f === 6 ? [...NEIGHBOURS, PART] : []),
        dns,
        `meta l4proto { tcp, udp } th dport ${tried.port} update @tried${f} { ${ip(f)} saddr . ${ip(f)} daddr counter }`,
        // By way of a service, a workload can meet itself.
        `${ip(f)} saddr . ${ip(f)} daddr @self${f} accept`,
        `goto egress${f}`,
      ]),
    ),
    // No word to a source that nobody knows: it need not be who sent this, and what is sent back carries a part of it, or of the question.
    ...(options.strangers === 'deny' ? [block('chain stranger', [...NEIGHBOURS, dns, 'counter drop'])] : []),
    // This machine's own address does not come from outside.
    block('chain arriving', [...NEIGHBOURS, PART, 'fib saddr type local counter drop', 'goto passed']),
    block('chain sent', [FORGED, ...DETOURS]),
    // Before all else, and before fragments are put together: who forges another's address would ride on his connections, or end his datagrams.
    block('chain senders', [
      'type filter hook prerouting priority -450; policy accept;',
      ...[...from, ...families.map((f) => `${ip(f)} saddr @identity${f}`)].map((match) => `${match} goto sent`),
    ]),
    // An error about a connection opens nothing for a workload that is no end of it; other relations than errors are judged like all packets.
    block('chain error', [
      ...families.flatMap((f) =>
        ['original', 'reply'].map((way) => `ct ${way} ${ip(f)} saddr . ${ip(f)} saddr @self${f} accept`),
      ),
      ...families.map((f) => `${ip(f)} saddr @identity${f} return`),
      'accept',
    ]),
    block('chain forwarded', [
      'type filter hook prerouting priority dstnat + 10; policy accept;',
      'ct state established accept',
      'ct state related meta l4proto { icmp, ipv6-icmp } jump error',
      ...families.map((f) => `${ip(f)} saddr @identity${f} goto outgoing${f}`),
      // Whose policy would hold for an address that two claim is not to be guessed.
      ...families.flatMap((f) => ['saddr', 'daddr'].map((end) => `${ip(f)} ${end} @nobody${f} goto refuse`)),
      ...(options.strangers === 'deny' ? from.map((match) => `${match} goto stranger`) : []),
      ...families.map((f) => `${ip(f)} daddr @identity${f} goto arriving`),
      ...(options.strangers === 'deny' ? ungoverned(options).map((f) => `meta nfproto ipv${f} fib daddr type unicast counter drop`) : []), // prettier-ignore
    ]),
    ...ownTraffic(options),
    block('chain to_proxy', redirects(proxy)),
    block('chain dns', [
      'type nat hook prerouting priority dstnat - 10; policy accept;',
      ...['ip saddr @identity4', 'ip6 saddr @identity6', ...from].map(
        (match) => `${match} meta l4proto { tcp, udp } th dport 53 goto to_proxy`,
      ),
    ]),
  ]
}

/** The chains that judge a packet in one direction: its peer's number, the policy's word on it, leases, and what is remembered of denials. */
function judging(direction: 'egress' | 'ingress', f: F, options: StructureOptions): string[] {
  const { subject, peer } = sides(direction, f)
  const allowed = direction === 'egress' ? 'passed' : 'allowed'
  const key = `meta priority . ${subject}`
  const flow = `meta priority . ${peer} . meta l4proto . th dport`
  const look = (lookup: string, more: string): string => `meta priority set ${key}${more} map @${direction}_${lookup}${f}`
  const identity = `meta priority set ${subject} map @identity${f}`
  const outcomes = [
    `${verdictClass.allow} : goto ${allowed}`,
    `${verdictClass.deny} : goto denied_${direction}${f}`,
    ...(direction === 'egress' ? [`${verdictClass.lease} : goto lease${f}`] : []),
  ]
  return [
    block(`chain denied_${direction}${f}`, [
      ...log(options, direction),
      ...(options.hostPolicies !== undefined ? [`meta priority set ${hostClass}`] : []),
      identity,
      `${PORTED} update @denied_${direction}${f} { ${flow} counter }`,
      // Without the protocols named, an ICMP packet's checksum would be its port.
      `meta l4proto != { tcp, udp, sctp } update @denied_${direction}_any${f} { meta priority . ${peer} . meta l4proto counter }`,
      `${subject} @${direction}_audited${f} goto ${allowed}`,
      'goto refuse',
    ]),
    ...(direction === 'egress'
      ? [
          block(`chain lease${f}`, [
            identity,
            `${PORTED} ${flow} @learned${f} goto passed`,
            `meta priority . ${peer} @learned_any${f} goto passed`,
            `${PORTED} ${flow} @learned_range${f} goto passed`,
            `goto denied_egress${f}`,
          ]),
        ]
      : []),
    block(`chain ${direction}_verdict${f}`, [
      `${PORTED} ${look('port', ' . meta l4proto . th dport')}`,
      `${PORTED} ${look('ports', ' . meta l4proto . th dport')}`,
      look('icmp', f === 4 ? ' . icmp type' : ' . icmpv6 type'),
      look('protocol', ' . meta l4proto'),
      look('any', ''),
      `meta priority vmap { ${outcomes.join(', ')} }`,
    ]),
    // A number that the subject's policy does not know: then it is one of its place.
    block(`chain ${direction}_peer${f}`, [
      `jump ${direction}_verdict${f}`,
      'meta priority set none',
      `${peer} @cluster${f} meta priority set ${clusterClass}`,
      `jump ${direction}_verdict${f}`,
      `goto denied_${direction}${f}`,
    ]),
    // Where the address has an identity, its ranges are in its number: no tree of ranges is walked.
    block(`chain ${direction}${f}`, [
      `meta priority set ${peer} map @peer${f} goto ${direction}_peer${f}`,
      'meta priority set none',
      `meta priority set ${peer} map @range${f}`,
      `goto ${direction}_peer${f}`,
    ]),
  ]
} // prettier-ignore

/** What an IPv6 host cannot live without, and leases of addresses (DHCP): no policy of the host is about these. */
const LINK = 'icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, mld2-listener-report } accept' // prettier-ignore

/**
 * This machine's own traffic. What it sends to its endpoints is judged by their ingress with the host as peer, even from an address that is
 * not known to be the host's. Where its own policies hold: replies, loopback, the link's upkeep, the workloads' DNS to the proxy and the
 * proxy's to its upstreams pass; addresses that are not known to be the host's are not held back.
 */
function ownTraffic({ hostPolicies, proxy }: StructureOptions): string[] {
  const local = families.map((f) => `${ip(f)} daddr @identity${f} goto from_host${f}`)
  const base = (name: string, lines: readonly string[]): string =>
    block(`chain ${name}`, [
      `type filter hook ${name === 'host_out' ? 'output' : 'input'} priority filter; policy accept;`,
      'ct state established accept',
      'ct state related meta l4proto { icmp, ipv6-icmp } accept',
      ...lines,
    ])
  const fromHost = families.map((f) =>
    block(`chain from_host${f}`, [
      ...(f === 6 ? [`${ND} accept`] : []),
      `meta priority set ${hostClass}`,
      `meta priority set ${ip(f)} saddr map @peer${f}`,
      `goto ingress_peer${f}`,
    ]),
  )
  if (hostPolicies === undefined) return [...fromHost, base('host_out', local)]
  return [
    ...fromHost,
    block('chain to_endpoint', local),
    base('host_out', [
      'oifname "lo" accept',
      LINK,
      'udp sport 68 udp dport 67 accept',
      'udp sport 546 udp dport 547 accept',
      ...hostPolicies.upstreams.map(({ address, port }) => `${ip(address.length === 4 ? 4 : 6)} daddr ${addressToText(address)} meta l4proto { tcp, udp } th dport ${port} goto to_endpoint`),
      ...families.map((f) => `${ip(f)} saddr @host${f} goto egress${f}`),
      'goto to_endpoint',
    ]),
    base('host_in', [
      'iifname "lo" accept',
      LINK,
      'udp sport 67 udp dport 68 accept',
      'udp sport 547 udp dport 546 accept',
      ...families.map((f) => `${ip(f)} saddr @identity${f} meta l4proto { tcp, udp } th dport ${proxy.port} accept`),
      ...families.map((f) => `${ip(f)} daddr @host${f} goto ingress${f}`),
    ]),
  ]
} // prettier-ignore

function workloadMatches(options: StructureOptions): string[] {
  // Sorted and joined, as the kernel lists them. Not so interface names: how nft orders a set of those is its own affair, so each is alone.
  const list = (values: readonly string[]): string =>
    values.length === 1 ? (values[0] ?? '') : `{ ${values.join(', ')} }`
  const matches = [...new Set(options.interfaces)].map((name) => `iifname "${name}"`)
  for (const family of [4, 6] as const) {
    const prefixes = joinRanges(options.prefixes.filter((prefix) => prefix.family === family)).map(rangeToText)
    if (prefixes.length > 0) matches.push(`${family === 4 ? 'ip' : 'ip6'} saddr ${list(prefixes)}`)
  }
  return matches
}

/** The family whose workloads could be anywhere. Where neither has a prefix, nothing was said of strangers at all. */
function ungoverned({ interfaces, prefixes }: Pick<StructureOptions, 'interfaces' | 'prefixes'>): readonly F[] {
  if (interfaces.length > 0 || prefixes.length === 0) return []
  return families.filter((f) => !prefixes.some((prefix) => prefix.family === f))
}

function redirects({ port, address4, address6 }: StructureOptions['proxy']): string[] {
  const isAny = (address: string | undefined): boolean => address === '0.0.0.0' || address === '::'
  if (address4 === undefined && address6 === undefined) return [`meta l4proto { tcp, udp } redirect to :${port}`]
  if (isAny(address4) && isAny(address6)) return [`meta l4proto { tcp, udp } redirect to :${port}`]
  const lead = (nfproto: 'ipv4' | 'ipv6', address: string | undefined, target: (text: string) => string): string[] => {
    const parsed = address === undefined ? undefined : addressFromText(address)
    if (parsed === undefined) return []
    const how = isAny(address) ? `redirect to :${port}` : target(addressToText(parsed))
    return [`meta nfproto ${nfproto} meta l4proto { tcp, udp } ${how}`]
  }
  return [
    ...lead('ipv4', address4, (text) => `dnat ip to ${text}:${port}`),
    ...lead('ipv6', address6, (text) => `dnat ip6 to [${text}]:${port}`),
    // A family without a proxy address has no DNS: silence is better than an answer from elsewhere.
    'drop',
  ]
}
