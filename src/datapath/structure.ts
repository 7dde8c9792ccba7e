// The table's structure as nft text in the kernel's normal form: what `nft -s -t list table` prints is what stands here.
// A packet from or to a workload meets a constant number of lookups, whatever the number of policies:
//   established passes;  is its source a workload: whose peer is the destination, as a number;  what does the subject's policy say about
//   that number and port;  if a lease could open it, the learned sets;  and then the same for its destination, with the source as peer.
import { addressFromText, addressToText, type Address } from '../net/address.ts'
import { joinRanges, rangeToText, type AddressRange } from '../net/prefix.ts'
import { cutEndsMax, cutSets } from './cut.ts'
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
const copies = ['a', 'b'] as const
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

/**
 * What policy fills is there twice, and so are the chains that look into it: packets are judged by one copy while the other is written. A
 * lookup shows what stands at its moment; but the rules of a chain that a packet entered are those of one moment, so that a change of the rules
 * that say which copy it is lets each packet see the old policy or the new, never a number of the one under which the other says something else.
 */
export type Copy = 'a' | 'b'
export const otherCopy = { a: 'b', b: 'a' } as const

/** Of which copies a set's name in the table is; what no packet meets is there once. */
export const nameIn = (copy: Copy, set: PolicySet): string => (set === 'identities' ? set : `${set}_${copy}`)

/** The whole table without elements, packets being judged by this copy; `closed`: nothing new passes to or from workloads until one judges. */
export function renderStructure(options: StructureOptions, copy: Copy | 'closed'): string {
  const bases = entrances(options, copy).map(({ name, hook, rules }) => block(`chain ${name}`, [hook, ...rules]))
  const chains = [...common(options), ...copies.flatMap((each) => chainsOf(options, each)), ...bases]
  return `table inet ${options.table} {\n${[...sets(options), ...chains].join('\n')}}\n`
}

/** Commands that have packets judged by the other copy. */
export function renderSwitch(options: StructureOptions, to: Copy): string {
  return entrances(options, to)
    .map(({ name, rules }) => `flush chain inet ${options.table} ${name}\n${rules.map((rule) => `add rule inet ${options.table} ${name} ${rule}\n`).join('')}`)
    .join('')
} // prettier-ignore

function sets(options: StructureOptions): string[] {
  const size = `size ${options.learnedMax}`
  const both = (name: string, type: (address: string, f: F) => string, lines: readonly string[], kind = 'set', copy?: Copy): string[] =>
    families.map((f) => block(`${kind} ${name}${f}${copy === undefined ? '' : `_${copy}`}`, [`type ${type(`ipv${f}_addr`, f)}`, ...lines]))
  const flow = (address: string): string => `classid . ${address} . inet_proto . inet_service`
  const ofPolicy = (copy: Copy): string[] => [
    ...both('identity', (address) => `${address} : classid`, [], 'map', copy),
    ...both('peer', (address) => `${address} : classid`, [], 'map', copy),
    ...both('range', (address) => `${address} : classid`, ['flags interval'], 'map', copy),
    ...both('cluster', (address) => address, [], 'set', copy),
    ...both('self', (address) => `${address} . ${address}`, [], 'set', copy),
    ...both('host', (address) => address, [], 'set', copy),
    ...both('nobody', (address) => address, [], 'set', copy),
    ...directions.flatMap((d) => [
      ...both(`${d}_port`, (address) => `${flow(address)} : classid`, [], 'map', copy),
      ...both(`${d}_ports`, (address) => `${flow(address)} : classid`, ['flags interval'], 'map', copy),
      ...both(`${d}_icmp`, (address, f) => `classid . ${address} . ${f === 4 ? 'icmp_type' : 'icmpv6_type'} : classid`, [], 'map', copy),
      ...both(`${d}_protocol`, (address) => `classid . ${address} . inet_proto : classid`, [], 'map', copy),
      ...both(`${d}_any`, (address) => `classid . ${address} : classid`, [], 'map', copy),
      ...both(`${d}_audited`, (address) => address, [], 'set', copy),
    ]),
  ]
  const denied = [`size ${deniedFlowsMax}`, 'flags dynamic,timeout', 'timeout 1h']
  return [
    ...copies.flatMap(ofPolicy),
    // No packet meets this one: it tells the next agent what the numbers stand for.
    block('set identities', ['type classid']),
    ...directions.flatMap((d) => [...both(`denied_${d}`, flow, denied), ...both(`denied_${d}_any`, (address) => `classid . ${address} . inet_proto`, denied)]),
    ...both('tried', (address) => `${address} . ${address}`, tried.lines),
    ...both('learned', flow, [size, 'flags timeout']),
    ...both('learned_any', (address) => `classid . ${address}`, [size, 'flags timeout']),
    ...both('learned_range', flow, ['flags interval,timeout']),
    ...Object.values(cutSets).flatMap((set) => both(set, (address) => `inet_proto . ${address} . inet_service . ${address} . inet_service`, [`size ${cutEndsMax}`, 'flags timeout'])),
  ]
} // prettier-ignore

/** Errors about tracked packets (RFC 792, RFC 4443 §3). By their types: protocols' names are known only to a host with a list of them. */
const RELATED_ERRORS = ['icmp type { destination-unreachable, source-quench, redirect, time-exceeded, parameter-problem }', 'icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }'].map((match) => `ct state related ${match}`) // prettier-ignore
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

/** Octet 13 of TCP's header holds its flags. Written in words, each nft lists it otherwise. */
const NOT_SYN = '@th,104,8 & 0x2 == 0x0'
/** What goes on of a connection that was cut must not begin it anew, whichever end sends first. */
const CUT = 'meta l4proto { tcp, udp } jump cut'
const ends = (f: F): string => `meta l4proto . ${ip(f)} saddr . th sport . ${ip(f)} daddr . th dport`

/** The subject's address and the peer's, of a packet in a direction. */
const sides = (direction: 'egress' | 'ingress', f: F): { subject: string; peer: string } => {
  const [source, destination] = [`${ip(f)} saddr`, `${ip(f)} daddr`]
  return direction === 'egress' ? { subject: source, peer: destination } : { subject: destination, peer: source }
}

/**
 * The chains of one copy. Numbers are carried in the packet's priority: it is free in prerouting (forwarding sets it anew), while marks belong
 * to kube-proxy and network plugins. `allowed` and `refuse` clear it. Verdicts are numbers too, so that maps hold data only: the kernel walks every chain
 * that an element of a verdict map leads to, for each element, whenever the map changes.
 */
function chainsOf(options: StructureOptions, copy: Copy): string[] {
  const c = `_${copy}`
  return [
    ...families.flatMap((f) => judging('ingress', f, c, options)),
    // What its sender may send may still not be for its receiver.
    block(`chain passed${c}`, [...families.map((f) => `${ip(f)} daddr @identity${f}${c} goto ingress${f}${c}`), 'goto allowed']),
    ...families.flatMap((f) => judging('egress', f, c, options)),
    ...families.map((f) =>
      block(`chain outgoing${f}${c}`, [
        ...(f === 6 ? [...NEIGHBOURS, PART] : []),
        toProxy(options),
        `meta l4proto { tcp, udp } th dport ${tried.port} update @tried${f} { ${ip(f)} saddr . ${ip(f)} daddr counter }`,
        // By way of a service, a workload can meet itself.
        `${ip(f)} saddr . ${ip(f)} daddr @self${f}${c} accept`,
        `goto egress${f}${c}`,
      ]),
    ),
    // This machine's own address does not come from outside.
    block(`chain arriving${c}`, [...NEIGHBOURS, PART, 'fib saddr type local counter drop', `goto passed${c}`]),
    // An error about a connection opens nothing for a workload that is no end of it; other relations than errors are judged like all packets.
    block(`chain error${c}`, [
      ...families.flatMap((f) => ['original', 'reply'].map((way) => `ct ${way} ${ip(f)} saddr . ${ip(f)} saddr @self${f}${c} accept`)),
      ...families.map((f) => `${ip(f)} saddr @identity${f}${c} return`),
      'accept',
    ]),
    ...families.map((f) =>
      block(`chain from_host${f}${c}`, [
        ...(f === 6 ? [`${ND} accept`] : []),
        `meta priority set ${hostClass}`,
        `meta priority set ${ip(f)} saddr map @peer${f}${c}`,
        `goto ingress_peer${f}${c}`,
      ]),
    ),
    ...(options.hostPolicies === undefined ? [] : [block(`chain to_endpoint${c}`, toEndpoints(c))]),
  ]
} // prettier-ignore

const toProxy = ({ proxy }: StructureOptions): string => `meta l4proto { tcp, udp } th dport ${proxy.port} fib daddr type local accept` // prettier-ignore
const toEndpoints = (c: string): string[] => families.map((f) => `${ip(f)} daddr @identity${f}${c} goto from_host${f}${c}`) // prettier-ignore

/** Chains that are about no policy. */
function common(options: StructureOptions): string[] {
  return [
    block('chain allowed', [...log(options, 'allowed'), 'meta priority set none accept']),
    block('chain refuse', [
      'meta priority set none',
      // A reset ends a connect at once; on an ICMP error that comes back while it still sends, TCP tries again a second later.
      ...(options.denied === 'drop'
        ? ['counter drop']
        : ['meta l4proto tcp counter reject with tcp reset', 'counter reject with icmpx admin-prohibited']),
    ]),
    // No word to a source that nobody knows: it need not be who sent this, and what is sent back carries a part of it, or of the question.
    ...(options.strangers === 'deny' ? [block('chain stranger', [...NEIGHBOURS, toProxy(options), 'counter drop'])] : []),
    block('chain sent', [FORGED, ...DETOURS]),
    // Who had a connection knows that the other end is there: silence would tell him nothing, but let him wait for a quarter of an hour.
    block('chain hang_up', ['meta l4proto tcp counter reject with tcp reset']),
    block('chain cut', [
      ...families.map((f) => `${NOT_SYN} ${ends(f)} @${cutSets.tcp}${f} goto hang_up`),
      ...families.map((f) => `${ends(f)} @${cutSets.udp}${f} goto refuse`),
    ]),
    block('chain to_proxy', redirects(options.proxy)),
  ]
} // prettier-ignore

/** A chain that the kernel calls. */
interface Entrance {
  readonly name: string
  readonly hook: string
  readonly rules: readonly string[]
}

/** Where packets come in, and which copy of the policy they are judged by. */
function entrances(options: StructureOptions, copy: Copy | 'closed'): Entrance[] {
  if (copy === 'closed') return closed(options)
  const c = `_${copy}`
  const from = workloadMatches(options)
  const workloads = families.map((f) => `${ip(f)} saddr @identity${f}${c}`)
  return [
    // Before all else, and before fragments are put together: who forges another's address would ride on his connections, or end his datagrams.
    {
      name: 'senders',
      hook: 'type filter hook prerouting priority -450; policy accept;',
      rules: [...from, ...workloads].map((match) => `${match} goto sent`),
    },
    {
      name: 'dns',
      hook: 'type nat hook prerouting priority dstnat - 10; policy accept;',
      rules: [...workloads, ...from].map((match) => `${match} meta l4proto { tcp, udp } th dport 53 goto to_proxy`),
    },
    {
      name: 'forwarded',
      hook: 'type filter hook prerouting priority dstnat + 10; policy accept;',
      rules: [
        'ct state established accept',
        // This host's refusal of what it sent itself, which has the source of whom it was for.
        'ct state related iifname "lo" accept',
        ...RELATED_ERRORS.map((match) => `${match} jump error${c}`),
        CUT,
        ...families.map((f) => `${ip(f)} saddr @identity${f}${c} goto outgoing${f}${c}`),
        // Whose policy would hold for an address that two claim is not to be guessed.
        ...families.flatMap((f) => ['saddr', 'daddr'].map((end) => `${ip(f)} ${end} @nobody${f}${c} goto refuse`)),
        ...(options.strangers === 'deny' ? from.map((match) => `${match} goto stranger`) : []),
        ...families.map((f) => `${ip(f)} daddr @identity${f}${c} goto arriving${c}`),
        ...(options.strangers === 'deny' ? ungoverned(options).map((f) => `meta nfproto ipv${f} fib daddr type unicast counter drop`) : []), // prettier-ignore
      ],
    },
    ...ownTraffic(options, c),
  ]
}

/**
 * While a table is replaced, what is to judge is not all there. Questions go to the proxy all the same, from whoever is on the link that they come
 * from: nothing is answered that is not committed, and a question that is dropped costs its asker seconds.
 */
function closed(options: StructureOptions): Entrance[] {
  const ends = (end: 'saddr' | 'daddr', set: string): string[] => families.map((f) => `${ip(f)} ${end} @${set}${f}_a`)
  const drops = (matches: readonly string[]): string[] => ['ct state established accept', ...matches.map((match) => `${match} drop`)] // prettier-ignore
  const rules: Readonly<Record<string, readonly string[]>> = {
    forwarded: [toProxy(options), ...drops([...workloadMatches(options), ...ends('saddr', 'identity'), ...ends('daddr', 'identity')])],
    host_out: ['oifname "lo" accept', ...drops([...ends('daddr', 'identity'), ...ends('saddr', 'host')])],
    host_in: ['iifname "lo" accept', ...drops(ends('daddr', 'host'))],
  }
  return entrances(options, 'a').map((one) => ({ ...one, rules: rules[one.name] ?? one.rules }))
} // prettier-ignore

/** The chains that judge a packet in one direction: its peer's number, the policy's word on it, leases, and what is remembered of denials. */
function judging(direction: 'egress' | 'ingress', f: F, c: string, options: StructureOptions): string[] {
  const { subject, peer } = sides(direction, f)
  const allowed = direction === 'egress' ? `passed${c}` : 'allowed'
  const key = `meta priority . ${subject}`
  const flow = `meta priority . ${peer} . meta l4proto . th dport`
  const look = (lookup: string, more: string): string => `meta priority set ${key}${more} map @${direction}_${lookup}${f}${c}`
  const identity = `meta priority set ${subject} map @identity${f}${c}`
  const outcomes = [
    `${verdictClass.allow} : goto ${allowed}`,
    `${verdictClass.deny} : goto denied_${direction}${f}${c}`,
    ...(direction === 'egress' ? [`${verdictClass.lease} : goto lease${f}${c}`] : []),
  ]
  return [
    block(`chain denied_${direction}${f}${c}`, [
      ...log(options, direction),
      ...(options.hostPolicies !== undefined ? [`meta priority set ${hostClass}`] : []),
      identity,
      `${PORTED} update @denied_${direction}${f} { ${flow} counter }`,
      // Without the protocols named, an ICMP packet's checksum would be its port.
      `meta l4proto != { tcp, udp, sctp } update @denied_${direction}_any${f} { meta priority . ${peer} . meta l4proto counter }`,
      `${subject} @${direction}_audited${f}${c} goto ${allowed}`,
      'goto refuse',
    ]),
    ...(direction === 'egress'
      ? [
          block(`chain lease${f}${c}`, [
            identity,
            `${PORTED} ${flow} @learned${f} goto passed${c}`,
            `meta priority . ${peer} @learned_any${f} goto passed${c}`,
            `${PORTED} ${flow} @learned_range${f} goto passed${c}`,
            `goto denied_egress${f}${c}`,
          ]),
        ]
      : []),
    block(`chain ${direction}_verdict${f}${c}`, [
      `${PORTED} ${look('port', ' . meta l4proto . th dport')}`,
      `${PORTED} ${look('ports', ' . meta l4proto . th dport')}`,
      look('icmp', f === 4 ? ' . icmp type' : ' . icmpv6 type'),
      look('protocol', ' . meta l4proto'),
      look('any', ''),
      `meta priority vmap { ${outcomes.join(', ')} }`,
    ]),
    // A number that the subject's policy does not know: then it is one of its place.
    block(`chain ${direction}_peer${f}${c}`, [
      `jump ${direction}_verdict${f}${c}`,
      'meta priority set none',
      `${peer} @cluster${f}${c} meta priority set ${clusterClass}`,
      `jump ${direction}_verdict${f}${c}`,
      `goto denied_${direction}${f}${c}`,
    ]),
    // Where the address has an identity, its ranges are in its number: no tree of ranges is walked.
    block(`chain ${direction}${f}${c}`, [
      `meta priority set ${peer} map @peer${f}${c} goto ${direction}_peer${f}${c}`,
      'meta priority set none',
      `meta priority set ${peer} map @range${f}${c}`,
      `goto ${direction}_peer${f}${c}`,
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
function ownTraffic({ hostPolicies, proxy }: StructureOptions, c: string): Entrance[] {
  const base = (name: 'host_out' | 'host_in', rules: readonly string[]): Entrance => ({
    name,
    hook: `type filter hook ${name === 'host_out' ? 'output' : 'input'} priority filter; policy accept;`,
    // A refusal is related to the packet that it answers.
    rules: ['ct state established accept', ...RELATED_ERRORS.map((match) => `${match} accept`), 'ct state related tcp flags rst accept', CUT, ...rules], // prettier-ignore
  })
  if (hostPolicies === undefined) return [base('host_out', toEndpoints(c))]
  return [
    base('host_out', [
      'oifname "lo" accept',
      LINK,
      'udp sport 68 udp dport 67 accept',
      'udp sport 546 udp dport 547 accept',
      ...hostPolicies.upstreams.map(({ address, port }) => `${ip(address.length === 4 ? 4 : 6)} daddr ${addressToText(address)} meta l4proto { tcp, udp } th dport ${port} goto to_endpoint${c}`),
      ...families.map((f) => `${ip(f)} saddr @host${f}${c} goto egress${f}${c}`),
      `goto to_endpoint${c}`,
    ]),
    base('host_in', [
      'iifname "lo" accept',
      LINK,
      'udp sport 67 udp dport 68 accept',
      'udp sport 547 udp dport 546 accept',
      ...families.map((f) => `${ip(f)} saddr @identity${f}${c} meta l4proto { tcp, udp } th dport ${proxy.port} accept`),
      ...families.map((f) => `${ip(f)} daddr @host${f}${c} goto ingress${f}${c}`),
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
