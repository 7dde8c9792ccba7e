// The table's structure as nft text in the kernel's normal form: what `nft -s -t list table` prints is what stands here.
// A packet from a workload meets a constant number of lookups, whatever the number of policies:
//   source address -> identity;  established passes;  verdict maps (deny and allow, disjoint);  learned sets;  open identities;  denied.
import { addressFromText, addressToText } from '../net/address.ts'
import { joinRanges, rangeToText, type AddressRange } from '../net/prefix.ts'

export interface StructureOptions {
  readonly table: string
  /**
   * Where the workloads' DNS is sent: a port of this host, on the address the packet came in by (`0.0.0.0`, `::`, or none given at all), or on a
   * given address. A family that has none while the other has one is without DNS.
   */
  readonly proxy: { readonly port: number; readonly address4?: string; readonly address6?: string }
  /** Silent, or answered (TCP reset, else ICMP "administratively prohibited") so that programs fail at once. */
  readonly denied: 'drop' | 'reject'
  /** Where workloads live: interface names (may end in `*`) and prefixes. What comes from there with an unknown source is a stranger: its DNS is answered where it is routed back, all else dropped. */
  readonly interfaces: readonly string[]
  readonly prefixes: readonly AddressRange[]
  readonly strangers: 'deny' | 'allow'
  /** Bound of each learned set; the kernel refuses more (ENFILE), and the answer is then SERVFAIL. */
  readonly learnedMax: number
}

/** Denied flows that are remembered for the summary and `denied()`: past the bound only the counter goes on. */
export const deniedFlowsMax = 4096

/** The maps and sets that policy fills, as text elements; the learned ones are written by netlink. */
export const policySets = [
  'identity4',
  'identity6',
  'verdict4',
  'verdict6',
  'verdict_any4',
  'verdict_any6',
  'open',
  'identities',
] as const
export type PolicySet = (typeof policySets)[number]

const block = (head: string, lines: readonly string[]): string =>
  `\t${head} {\n${lines.map((line) => `\t\t${line}\n`).join('')}\t}\n`

/** The whole table without elements. */
export function renderStructure(options: StructureOptions): string {
  const blocks = [...sets(options), ...chains(options)]
  return `table inet ${options.table} {\n${blocks.join('\n')}}\n`
}

function sets(options: StructureOptions): string[] {
  const size = `size ${options.learnedMax}`
  const both = (name: string, type: (address: string) => string, lines: readonly string[], kind = 'set'): string[] =>
    (['4', '6'] as const).map((f) => block(`${kind} ${name}${f}`, [`type ${type(`ipv${f}_addr`)}`, ...lines]))
  return [
    ...both('identity', (address) => `${address} : classid`, [], 'map'),
    ...both(
      'verdict',
      (address) => `classid . ${address} . inet_proto . inet_service : verdict`,
      ['flags interval'],
      'map',
    ),
    ...both('verdict_any', (address) => `classid . ${address} : verdict`, ['flags interval'], 'map'),
    block('set open', ['type classid']),
    // No packet meets this one: it tells the next agent what the numbers stand for.
    block('set identities', ['type classid']),
    ...both('learned', (address) => `classid . ${address} . inet_proto . inet_service`, [size, 'flags timeout']),
    ...both('learned_any', (address) => `classid . ${address}`, [size, 'flags timeout']),
    ...both('learned_range', (address) => `classid . ${address} . inet_proto . inet_service`, [
      'flags interval,timeout',
    ]),
    ...both('denied', (address) => `classid . ${address} . inet_proto . inet_service`, [
      `size ${deniedFlowsMax}`,
      'flags dynamic,timeout',
      'timeout 1h',
    ]),
    ...both('denied_any', (address) => `classid . ${address} . inet_proto`, [
      `size ${deniedFlowsMax}`,
      'flags dynamic,timeout',
      'timeout 1h',
    ]),
  ]
}

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

function chains(options: StructureOptions): string[] {
  const { proxy } = options
  // The identity is carried in the packet's priority: it is free in prerouting (forwarding sets it anew), while marks belong to
  // kube-proxy and network plugins. `allowed` and `refuse` clear it.
  const dns = `meta l4proto { tcp, udp } th dport ${proxy.port} fib daddr type local meta priority set none accept`
  const enforce = (f: '4' | '6'): string => {
    const address = f === '4' ? 'ip daddr' : 'ip6 daddr'
    const flow = `meta priority . ${address} . meta l4proto . th dport`
    return block(`chain egress${f}`, [
      ...(f === '6' ? NEIGHBOURS : []),
      dns,
      // Without the protocols named, an ICMP packet's checksum would be looked up as its port.
      `${PORTED} ${flow} vmap @verdict${f}`,
      `meta l4proto != { tcp, udp, sctp } meta priority . ${address} vmap @verdict_any${f}`,
      `${flow} @learned${f} goto allowed`,
      `meta priority . ${address} @learned_any${f} goto allowed`,
      `${flow} @learned_range${f} goto allowed`,
      'meta priority @open goto allowed',
      `goto denied${f}`,
    ])
  }
  const deny = (f: '4' | '6'): string => {
    const address = f === '4' ? 'ip daddr' : 'ip6 daddr'
    return block(`chain denied${f}`, [
      `${PORTED} update @denied${f} { meta priority . ${address} . meta l4proto . th dport counter } goto refuse`,
      `meta l4proto != { tcp, udp, sctp } update @denied_any${f} { meta priority . ${address} . meta l4proto counter } goto refuse`,
      'goto refuse',
    ])
  }
  const from = workloadMatches(options)
  return [
    block('chain allowed', ['meta priority set none accept']),
    block('chain refuse', [
      'meta priority set none',
      // A reset ends a connect at once; on an ICMP error that comes back while it still sends, TCP tries again a second later.
      ...(options.denied === 'drop'
        ? ['counter drop']
        : ['meta l4proto tcp counter reject with tcp reset', 'counter reject with icmpx admin-prohibited']),
    ]),
    deny('4'),
    deny('6'),
    enforce('4'),
    enforce('6'),
    // No word to a source that nobody knows: it need not be who sent this, and what is sent back carries a part of it, or of the question.
    ...(options.strangers === 'deny'
      ? [block('chain stranger', [...NEIGHBOURS, 'fib saddr . iif oif missing counter drop', dns, 'counter drop'])]
      : []),
    block('chain egress', [
      'type filter hook prerouting priority dstnat + 10; policy accept;',
      // Before all else: who forges another's address would ride on the other's established connections.
      // Silently: a refusal would go to that other, with what was sent in it.
      'ip saddr @identity4 fib saddr . iif oif missing counter drop',
      'ip6 saddr @identity6 fib saddr . iif oif missing counter drop',
      'ct state established,related accept',
      'meta priority set ip saddr map @identity4 goto egress4',
      'meta priority set ip6 saddr map @identity6 goto egress6',
      ...(options.strangers === 'deny' ? from.map((match) => `${match} goto stranger`) : []),
    ]),
    block('chain to_proxy', redirects(proxy)),
    block('chain dns', [
      'type nat hook prerouting priority dstnat - 10; policy accept;',
      ...['ip saddr @identity4', 'ip6 saddr @identity6', ...from].map(
        (match) => `${match} meta l4proto { tcp, udp } th dport 53 goto to_proxy`,
      ),
    ]),
  ]
}

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
