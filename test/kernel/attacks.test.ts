// What somebody in a workload writes onto the wire, octet by octet: forged sources, fragments, extension headers, options, errors about
// others' connections. Whoever is not to get it does not hear a word of it, even below his own firewall.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/agent.ts'
import { settings, startTestAgent } from '../support/agent.ts'
import { authentication, bare, cut, destinationOptions, Flag, fragment, hopByHop, icmp, ip, ipv4, ipv6, octetsOf, routing, tcp, text, udp, word, type Body, type Extension, type Octets, type Part, type Way } from '../support/frames.ts' // prettier-ignore
import { addHost, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'
import { pod } from '../support/manifests.ts'
import { openWire, type Wire } from './wire.ts'

const reason = whyNoKernel()
const places = ['web', 'db', 'job', 'world'] as const
type Place = (typeof places)[number]
const own: Readonly<Record<Place, Way>> = {
  web: ['10.1.0.2', 'fd01::2'],
  db: ['10.2.0.2', 'fd02::2'],
  job: ['10.4.0.2', 'fd04::2'],
  world: ['198.18.0.9', '2001:db8::9'],
}
const of = (place: Place, family: 4 | 6): string => own[place][family === 4 ? 0 : 1]
const between = (from: Place, to: Place, family: 4 | 6): Way => [of(from, family), of(to, family)]

// Everybody hears everybody on port 9. Beyond that web may FTP, db nothing, and job everything but port 80 and one network.
const open = '{toPorts: [{ports: [{port: "9", protocol: UDP}]}]}'
const policies = `---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: all}
spec: {endpointSelector: {}, ingress: [${open}], egress: [${open}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec: {endpointSelector: {matchLabels: {app: web}}, egress: [{toEntities: [world], toPorts: [{ports: [{port: "21", protocol: TCP}]}]}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: job}
spec:
  endpointSelector: {matchLabels: {app: job}}
  egress: [{toEntities: [all]}]
  egressDeny: [{toPorts: [{ports: [{port: "80", protocol: ANY}]}]}, {toCIDR: [198.18.80.0/24, "2001:db8:80::/64"]}]
`
const manifest = (['web', 'db', 'job'] as const).map((name) => pod(name, own[name])).join('') + policies

interface Attack {
  readonly title: string
  readonly from: Place
  readonly family: 4 | 6
  /** What somebody has sent before, so that there is a flow. */
  readonly before?: readonly [Place, Octets]
  readonly packets: (secret: Octets) => Octets[]
  /** What somebody sends then. */
  readonly after?: readonly [Place, Octets]
  /** Nobody, unless said otherwise. */
  readonly heard?: readonly Place[]
  readonly host?: boolean
}

const services = [['ip', '192.0.2.8', '10.2.0.2'], ['ip6', '2001:db8:f::8', '[fd02::2]']]
  .map(([ip = '', at = '', db = '']) => `${ip} daddr ${at}0 dnat ${ip} to ${db.replace(/[[\]]/g, '')}; ${ip} daddr ${at}1 udp dport 9 dnat ${ip} to ${db}:10; ${ip} daddr ${at}2 udp dport 10 dnat ${ip} to ${db}:9;`)
  .join(' ') // prettier-ignore

/** Numbers what is sent: each is found by its own. */
let marks = 0

const unreachable = (way: Way, about: Octets): Body => icmp(way, way[0].includes(':') ? 1 : 3, way[0].includes(':') ? 4 : 3, [0, 0, 0, 0], about) // prettier-ignore

describe.skipIf(reason !== undefined)(`attacks ${reason ?? ''}`, () => {
  const hosts = new Map<Place, Host>()
  const wires = new Map<Place, Wire>()
  let agent: Agent
  const wire = (place: Place): Wire => wires.get(place) ?? expect.fail(place)

  beforeAll(async () => {
    enterLab()
    for (const [i, name] of (['web', 'db', 'world', 'job'] as const).entries())
      hosts.set(name, await addHost(name, [`10.${i + 1}.0.2/24`, `fd0${i + 1}::2/64`], [`10.${i + 1}.0.1/24`, `fd0${i + 1}::1/64`])) // prettier-ignore
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    // Nothing but the table stands in the way: no filter of sources, and what is off by default is on.
    const set = ['ipv4.rp_filter=0', 'ipv4.route_localnet=1', 'ipv4.accept_source_route=1', 'ipv6.accept_source_route=1', 'ipv6.seg6_enabled=1', 'ipv6.accept_ra=2'] // prettier-ignore
    sh(['all', ...places].flatMap((name) => set.map((one) => `sysctl -qw net.${one.replace('.', `.conf.${name}.`)}`)).join(';')) // prettier-ignore
    sh(`nft -f - <<< 'table inet heard { counter got { }; chain in { type filter hook input priority 300; iifname "world" accept; icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept; counter name got; }; }'`) // prettier-ignore
    sh(`nft -f - <<< 'table inet services { chain in { type nat hook prerouting priority dstnat; ${services} }; }'`)
    for (const [name, host] of hosts) {
      // Nobody answers: what counts is what arrives.
      host.sh(`nft -f - <<< 'table inet deaf { chain in { type filter hook prerouting priority -300; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; drop; }; }'`) // prettier-ignore
      wires.set(name, await openWire(host, name))
    }
    agent = await startTestAgent(manifest, { settings: { ...settings, datapath: { ...settings.datapath, denied: 'drop', interfaces: ['web', 'db', 'job'] } } }) // prettier-ignore
    for (const from of places) for (const family of [4, 6] as const) await hearEverybody(from, family)
    // What links say when they come up (RFC 4861 §6.3.7, RFC 3810) is over, or is not counted.
    hostHeard = atThisHost()
  })
  afterAll(async () => {
    await agent?.close()
    for (const one of wires.values()) one.stop()
    for (const host of hosts.values()) host.stop()
  })

  /** What is allowed, sent behind what was tried by the same core: who has heard it will not hear the other any more. */
  async function hearEverybody(from: Place, family: 4 | 6): Promise<void> {
    const mark = `<mark ${++marks}>`
    const others = places.filter((place) => place !== from)
    const packets = others.map((to) => ip(between(from, to, family), udp(between(from, to, family), [9, 9], text(mark)))) // prettier-ignore
    await wire(from).send(packets)
    await Promise.all(others.map((to) => wire(to).hears(mark)))
  }
  async function say(from: Place, packet: Octets, family: 4 | 6): Promise<void> {
    await wire(from).send([packet])
    await hearEverybody(from, family)
  }
  const atThisHost = (): number => Number(/packets (\d+)/.exec(sh('nft list counter inet heard got'))?.[1])
  let hostHeard = 0
  /** Who hears the secret in what is sent; and whether this host hears anything from there. */
  async function heardBy(
    from: Place,
    family: 4 | 6,
    packets: Attack['packets'],
    after?: Attack['after'],
  ): Promise<{ heard: Place[]; host: boolean }> {
    // prettier-ignore
    const secret = `<secret ${++marks}>`
    for (const one of wires.values()) one.forget()
    await wire(from).send(packets(text(secret)))
    if (after !== undefined) await say(...after, family)
    await hearEverybody(from, family)
    const heard = places.filter((place) => place !== from && wire(place).heard.some((packet) => packet.includes(secret))) // prettier-ignore
    const before = hostHeard
    hostHeard = atThisHost()
    return { heard, host: hostHeard > before }
  }

  /** A datagram from one to another. */
  const datagram = (from: Place, to: Place, family: 4 | 6, port: number, data: Octets, source = 1000): Octets => ip(between(from, to, family), udp(between(from, to, family), [source, port], data)) // prettier-ignore
  const both = [4, 6] as const

  const honest: Attack[] = both.flatMap((family) => [
    { title: 'what is allowed', from: 'web', family, packets: (secret) => [datagram('web', 'db', family, 9, secret)], heard: ['db'] }, // prettier-ignore
    { title: 'what is not', from: 'web', family, packets: (secret) => [datagram('web', 'db', family, 10, secret)] },
    { title: 'what is not denied', from: 'job', family, packets: (secret) => [datagram('job', 'world', family, 81, secret)], heard: ['world'] }, // prettier-ignore
    {
      title: 'what is denied',
      from: 'job',
      family,
      packets: (secret) => [datagram('job', 'world', family, 80, secret)],
    },
  ])

  // Sources that are not one's own, with what would be allowed.
  const forged = (sources: readonly string[], to: Place, family: 4 | 6): Attack[] =>
    sources.map((source) => ({ title: `${source} as source, to ${to}`, from: 'db', family, packets: (secret) => [ip([source, of(to, family)], udp([source, of(to, family)], [9, 9], secret))] })) // prettier-ignore
  const sources: Attack[] = (['world', 'web'] as const).flatMap((to) => [
    ...forged(['10.1.0.2', '10.4.0.2', '10.2.0.1', '10.3.0.1', '10.3.0.2', '198.18.0.9', '198.18.0.66', '10.2.0.9', '10.99.0.1', '169.254.1.1', '127.0.0.1', '0.0.0.0', '255.255.255.255', '224.0.0.1', '10.2.0.255'], to, 4), // prettier-ignore
    ...forged(['fd01::2', 'fd04::2', 'fd02::1', 'fd03::1', 'fd03::2', '2001:db8::9', '2001:db8::66', 'fd02::9', 'fd99::1', 'fe80::1', '::1', '::', 'ff02::1', '::ffff:10.1.0.2', '::ffff:10.2.0.2', '2002:a01:2::1'], to, 6), // prettier-ignore
  ])

  const riding: Attack[] = both.flatMap((family) => {
    const [web, world, db] = [of('web', family), of('world', family), of('db', family)]
    const flow = ip([web, world], udp([web, world], [4444, 9], text('hello')))
    return [
      {
        title: "somebody's own peer as source, in answer to him", from: 'db', family, before: ['web', flow],
        packets: (secret) => [ip([world, web], udp([world, web], [9, 4444], secret))],
      },
      {
        title: 'another as source, in his own flow', from: 'db', family, before: ['web', flow],
        packets: (secret) => [ip([web, world], udp([web, world], [4444, 9], secret))],
      },
      {
        title: "an error about another's flow, to him who began it", from: 'db', family, before: ['web', flow],
        packets: (secret) => [ip([db, web], unreachable([db, web], [...flow, ...secret]))],
      },
      {
        title: "an error about another's flow, to his peer", from: 'db', family, before: ['web', flow],
        packets: (secret) => {
          const answer = ip([world, web], udp([world, web], [9, 4444], text('hello')))
          return [ip([db, world], unreachable([db, world], [...answer, ...secret]))]
        },
      },
      {
        title: "an error about another's flow, from whom it is about", from: 'db', family, before: ['web', flow],
        packets: (secret) => [ip([world, web], unreachable([world, web], [...flow, ...secret]))],
      },
      {
        title: 'an error about a flow that there is not', from: 'db', family,
        packets: (secret) => [ip([db, web], unreachable([db, web], [...ip([web, world], udp([web, world], [4445, 9], text('hello'))), ...secret]))],
      },
      {
        title: 'an error about his own flow', from: 'db', family, before: ['web', ip([web, db], udp([web, db], [4444, 9], text('hello')))], heard: ['web'],
        packets: (secret) => [ip([db, web], unreachable([db, web], [...ip([web, db], udp([web, db], [4444, 9], text('hello'))), ...secret]))],
      },
    ] satisfies Attack[]
  }) // prettier-ignore

  /** Cut in parts of one datagram, in either family. */
  const parts = (way: Way, body: Body, ...cuts: number[]): Octets[] =>
    cut(body, ...cuts).map(({ body: piece, offset, more }) => part(way, piece, { id: 77, offset, more }))
  const part = (way: Way, body: Body, of: Part): Octets => way[0].includes(':') ? ipv6(way, body, { extensions: [fragment(of)] }) : ipv4(way, body, { part: of }) // prettier-ignore
  const pad = text('........')
  const long = text('........'.repeat(8))
  /** Job's, to a port of the world that is denied, or to the next one, which is not. */
  const toWorld = (title: string, family: 4 | 6, packets: (way: Way, port: number, secret: Octets) => Octets[], allowed: Place[] = ['world']): Attack[] =>
    [80, 81].map((port) => ({ title: `${title}, port ${port}`, from: 'job', family, packets: (secret) => packets(between('job', 'world', family), port, secret), heard: port === 80 ? [] : allowed })) // prettier-ignore
  const fragments: Attack[] = both.flatMap((family) => [
    ...toWorld('in two parts', family, (way, port, secret) => parts(way, udp(way, [1000, port], [...pad, ...secret]), 16)), // prettier-ignore
    ...toWorld('the last part first', family, (way, port, secret) => parts(way, udp(way, [1000, port], [...pad, ...secret]), 16).reverse()), // prettier-ignore
    ...toWorld('ports alone in the first part of TCP (RFC 1858)', family, (way, port, secret) => parts(way, tcp(way, [1000, port], Flag.SYN, [...long, ...secret]), 8, 72), family === 4 ? ['world'] : []),
    // Of two the earlier counts (IPv4), or neither (RFC 5722).
    ...[80, 81].map((port): Attack => ({
      title: `a first part to port ${port} over another`, from: 'job', family, heard: port === 80 && family === 4 ? ['world'] : [],
      packets: (secret) => {
        const [first = [], last = []] = parts(between('job', 'world', family), udp(between('job', 'world', family), [1000, port === 80 ? 81 : 80], [...pad, ...secret]), 16)
        const [over = []] = parts(between('job', 'world', family), udp(between('job', 'world', family), [1000, port], [...pad, ...secret]), 16)
        return [first, over, last]
      },
    })),
    ...toWorld('an earlier part longer than told, over the next', family, (way, port, secret) => {
      const { protocol, octets } = udp(way, [1000, port], [...pad, ...pad, ...secret])
      return [part(way, { protocol, octets: octets.slice(0, 24) }, { id: 7, offset: 0, more: true }), part(way, { protocol, octets: octets.slice(16) }, { id: 7, offset: 16, more: false })]
    }, []),
    ...toWorld('a later part alone', family, (way, port, secret) => parts(way, udp(way, [1000, port], [...pad, ...secret]), 16).slice(1), []),
    ...toWorld('a first part alone', family, (way, port, secret) => [part(way, udp(way, [1000, port], [...secret, ...long].slice(0, 40)), { id: 9, offset: 0, more: true })], []),
    {
      title: "the end of another's datagram", from: 'db', family, heard: [],
      packets: (secret) => parts(between('web', 'world', family), udp(between('web', 'world', family), [1000, 9], [...pad, ...secret]), 16).slice(1),
      after: ['web', parts(between('web', 'world', family), udp(between('web', 'world', family), [1000, 9], [...pad, ...pad]), 16)[0] ?? []],
    },
  ]) // prettier-ignore

  const whole: Part = { id: 5, offset: 0, more: false }
  const chains: readonly { title: string; extensions: readonly Extension[]; heard?: Place[] }[] = [
    { title: 'hop-by-hop options', extensions: [hopByHop()] },
    { title: 'destination options', extensions: [destinationOptions()] },
    { title: 'destination options, 256 octets of them', extensions: [destinationOptions(1, 252, ...Array<number>(252).fill(0))] }, // prettier-ignore
    { title: 'an atomic fragment (RFC 8021)', extensions: [fragment(whole)] },
    { title: 'everything in a row', extensions: [hopByHop(), destinationOptions(), fragment(whole), destinationOptions()] }, // prettier-ignore
    { title: 'thirty headers', extensions: Array.from({ length: 30 }, () => destinationOptions()) },
    { title: 'hop-by-hop options where they may not be', extensions: [destinationOptions(), hopByHop()] },
    { title: 'a routing header of type 0, at its end', extensions: [routing(0, 0, 0, 0, 0, 0)], heard: [] },
    { title: 'a routing header of type 2', extensions: [routing(2, 1, 0, 0, 0, 0, ...octetsOf('fd02::2'))], heard: [] },
    { title: 'a routing header behind others', extensions: [hopByHop(), destinationOptions(), routing(4, 0, 0, 0, 0, 0, ...octetsOf('fd02::2'))], heard: [] }, // prettier-ignore
  ]
  const extensions: Attack[] = [
    ...chains.flatMap(({ title, extensions: chain, heard }) => toWorld(title, 6, (way, port, secret) => [ipv6(way, udp(way, [1000, port], secret), { extensions: chain })], heard)), // prettier-ignore
    ...toWorld('destination options in one part, the rest in the next', 6, (way, port, secret) => {
      const { protocol, octets } = udp(way, [1000, port], [...pad, ...secret])
      const body = bare(60, [protocol, ...destinationOptions().octets, ...octets])
      return [part(way, bare(60, body.octets.slice(0, 8)), { id: 8, offset: 0, more: true }), part(way, bare(60, body.octets.slice(8)), { id: 8, offset: 8, more: false })] // prettier-ignore
    }, []), // prettier-ignore
    ...toWorld('parts within a part', 6, (way, port, secret) => cut(udp(way, [1000, port], [...pad, ...secret]), 16).map(({ body, offset, more }) => ipv6(way, body, { extensions: [fragment(whole), fragment({ id: 6, offset, more })] })), []), // prettier-ignore
    ...toWorld('parts of parts', 6, (way, port, secret) => {
      const inner = cut(udp(way, [1000, port], [...pad, ...secret]), 16)
      return inner.flatMap(({ body, offset, more }, i) => cut(bare(44, [body.protocol, ...fragment({ id: 6, offset, more }).octets, ...body.octets]), 8).map((outer) => part(way, outer.body, { ...outer, id: 90 + i }))) // prettier-ignore
    }, []), // prettier-ignore
    // What is inside is IPsec's: a protocol of its own, as in IPv4.
    { title: 'an authentication header', from: 'web', family: 6, packets: (secret) => [ipv6(between('web', 'world', 6), udp(between('web', 'world', 6), [1000, 9], secret), { extensions: [authentication] })] }, // prettier-ignore
    // Longer than the packet: nobody can say what is behind it.
    { title: 'destination options without an end', from: 'web', family: 6, packets: (secret) => [ipv6(between('web', 'world', 6), bare(60, [17, 200, ...secret]))] }, // prettier-ignore
    { title: 'no next header', from: 'web', family: 6, packets: (secret) => [ipv6(between('web', 'world', 6), bare(59, secret))] }, // prettier-ignore
  ]

  const option = (title: string, options: Octets, allowed?: Place[]): Attack[] => toWorld(title, 4, (way, port, secret) => [ipv4(way, udp(way, [1000, port], secret), { options })], allowed) // prettier-ignore
  const denied = { 4: '198.18.80.1', 6: '2001:db8:80::1' } as const
  const options: Attack[] = [
    ...option('router alert', [148, 4, 0, 0]),
    ...option('record route', [7, 7, 4, 0, 0, 0, 0, 0]),
    ...option('timestamps', [68, 8, 5, 0, 0, 0, 0, 0]),
    ...option('nothing but padding', Array<number>(40).fill(1)),
    ...option('a loose source route', [131, 7, 4, ...octetsOf('10.2.0.2'), 0], []),
    ...option('a strict source route behind others', [1, 1, 1, 137, 7, 8, ...octetsOf('10.2.0.2'), 0], []),
    {
      title: 'a route of his own by this host, to whom he may not', from: 'job', family: 4,
      packets: (secret) => [ipv4(['10.4.0.2', '10.4.0.1'], udp(['10.4.0.2', denied[4]], [1000, 81], secret), { options: [131, 7, 4, ...octetsOf(denied[4]), 0] })],
    },
    {
      title: 'a route of his own by this host, to whom he may not', from: 'job', family: 6,
      packets: (secret) => [ipv6(['fd04::2', 'fd04::1'], udp(['fd04::2', denied[6]], [1000, 81], secret), { extensions: [routing(4, 1, 1, 0, 0, 0, ...octetsOf(denied[6]), ...octetsOf('fd04::1'))] })],
    },
  ] // prettier-ignore

  const [ping, redirect, solicitation, advertisement] = [{ 4: 8, 6: 128 }, { 4: 5, 6: 137 }, 135, 134] as const
  const protocols: Attack[] = both.flatMap((family) => {
    const way = between('web', 'world', family)
    const toDb = between('web', 'db', family)
    const inner = ip(between('db', 'world', family), udp(between('db', 'world', family), [1000, 9], text('inner')))
    const carried: [string, Body][] = [
      ['SCTP', bare(132, [...word(1000), ...word(9), 0, 0, 0, 0, 0, 0, 0, 0])],
      ['UDP-Lite', bare(136, udp(way, [1000, 9], text('x')).octets)],
      ['DCCP', bare(33, [...word(1000), ...word(9), 0, 0, 0, 0, 0, 0, 0, 0])],
      ['GRE', bare(47, [0, 0, 8, 0, ...inner])],
      ['ESP', bare(50, [0, 0, 0, 1, 0, 0, 0, 1])],
      ['IP in IP', bare(family === 4 ? 4 : 41, inner)],
      ['6in4 and 4in6', bare(family === 4 ? 41 : 4, ip(between('db', 'world', family === 4 ? 6 : 4), udp(between('db', 'world', family === 4 ? 6 : 4), [1000, 9], text('inner'))))],
      ['protocol 0', bare(family === 4 ? 0 : 59, [])],
      ['protocol 255', bare(255, [])],
      ["the other family's ICMP", family === 4 ? bare(58, [128, 0, 0, 0]) : bare(1, [8, 0, 0, 0])],
      ['a ping', icmp(way, ping[family], 0, [0, 1, 0, 1], [])],
      ['a redirect', icmp(way, redirect[family], 0, octetsOf('10.1.0.2').slice(0, 4), inner)],
      ['UDP from port 53', udp(way, [53, 1000], [])],
      ['UDP from a DHCP server', udp(way, family === 4 ? [67, 68] : [547, 546], [])],
      ['UDP without ports', bare(17, [])],
      ['TCP without ports', bare(6, [])],
    ]
    const all = { ...Flag, NOTHING: 0, 'SYN and ACK': Flag.SYN | Flag.ACK, 'SYN and FIN': Flag.SYN | Flag.FIN, 'PSH and ACK': Flag.PSH | Flag.ACK, 'everything': 63 }
    const neighbour = (type: number): Body => icmp(toDb, type, 0, [0, 0, 0, 0], octetsOf(of('db', 6)))
    return [
      ...carried.map(([title, { protocol, octets }]): Attack => ({ title, from: 'web', family, packets: (secret) => [ip(way, { protocol, octets: [...octets, ...secret] })] })),
      ...Object.entries(all).flatMap(([title, flags]): Attack[] => [
        { title: `TCP with ${title}, where nothing is allowed`, from: 'web', family, packets: (secret) => [ip(way, tcp(way, [1000, 443], flags, secret))] },
        { title: `TCP with ${title}, where it is denied`, from: 'job', family, packets: (secret) => [ip(between('job', 'world', family), tcp(between('job', 'world', family), [1000, 80], flags, secret))] },
      ]),
      { title: 'both open at once', from: 'web', family, before: ['db', ip(between('db', 'web', family), tcp(between('db', 'web', family), [1000, 1000], Flag.SYN, []))], packets: (secret) => [ip(toDb, tcp(toDb, [1000, 1000], Flag.SYN, secret))] },
      ...(family === 4 ? [] : [solicitation, advertisement, 136, 133].map((type): Attack => ({ title: `ICMPv6 ${type} to another link`, from: 'web', family, packets: (secret) => [ipv6(toDb, { ...neighbour(type), octets: [...neighbour(type).octets, ...secret] }, { hopLimit: 255 })] }))),
      ...toWorld('a wrong checksum', family, (to, port, secret) => [ip(to, { protocol: 17, octets: udp(to, [1000, port], secret).octets.with(6, 0x12) })]),
    ]
  }) // prettier-ignore

  // This host's own ears: with routes to its loopback from the links open, and source routes accepted.
  const ears = (from: 'web' | 'job', family: 4 | 6, to: string, heardThere = false): Attack => {
    const way: Way = [of(from, family), to]
    return { title: `${from} to ${to} of this host`, from, family, packets: (secret) => [ip(way, udp(way, [1000, 81], secret)), ip(way, tcp(way, [1000, 9653], Flag.SYN, secret))], host: heardThere } // prettier-ignore
  }
  const host: Attack[] = [
    ...['10.1.0.1', '10.2.0.1', '10.3.0.1', '127.0.0.1', '127.0.0.53', '10.1.0.255', '255.255.255.255', '224.0.0.1', '224.0.0.251'].map((to) => ears('web', 4, to)), // prettier-ignore
    ...['fd01::1', 'fd02::1', 'fd03::1', '::1', 'ff02::1', 'ff02::fb', 'ff05::2', '::ffff:127.0.0.1'].map((to) => ears('web', 6, to)), // prettier-ignore
    ...['127.0.0.1', '127.0.0.53'].map((to) => ears('job', 4, to)),
    ears('job', 6, '::1'),
    ears('job', 4, '10.4.0.1', true),
    ears('job', 6, 'fd04::1', true),
    { title: 'a DHCP request', from: 'web', family: 4, packets: (secret) => [ip(['0.0.0.0', '255.255.255.255'], udp(['0.0.0.0', '255.255.255.255'], [68, 67], secret))] }, // prettier-ignore
    { title: 'a router advertisement', from: 'job', family: 6, packets: (secret) => [ipv6(['fe80::1', 'ff02::1'], icmp(['fe80::1', 'ff02::1'], 134, 0, [64, 0, 255, 255], [0, 0, 0, 0, 0, 0, 0, 0, ...secret]), { hopLimit: 255 })] }, // prettier-ignore
    { title: 'a redirect', from: 'job', family: 6, packets: (secret) => [ipv6(['fe80::1', 'fd04::1'], icmp(['fe80::1', 'fd04::1'], 137, 0, [0, 0, 0, 0], [...octetsOf('fd04::2'), ...octetsOf('2001:db8::9'), ...secret]), { hopLimit: 255 })] }, // prettier-ignore
    { title: 'a redirect as the router of the way', from: 'job', family: 4, packets: (secret) => [ip(['10.3.0.2', '10.4.0.1'], icmp(['10.3.0.2', '10.4.0.1'], 5, 1, octetsOf('10.4.0.2'), [...ip(['10.3.0.1', '198.18.0.9'], udp(['10.3.0.1', '198.18.0.9'], [53, 53], text('x'))), ...secret]))] }, // prettier-ignore
  ]

  const translated: Attack[] = both.flatMap((family) => {
    const [to, ten, nine] = family === 4 ? ['192.0.2.80', '192.0.2.81', '192.0.2.82'] : ['2001:db8:f::80', '2001:db8:f::81', '2001:db8:f::82'] // prettier-ignore
    const send = (title: string, service: string, port: number, heard: Place[]): Attack => ({ title, from: 'web', family, packets: (secret) => [ip([of('web', family), service], udp([of('web', family), service], [1000, port], secret))], heard }) // prettier-ignore
    return [
      send('a service in front of an allowed port', to ?? '', 9, ['db']),
      send('a service in front of another port', to ?? '', 10, []),
      send('a service at an allowed port, in front of another', ten ?? '', 9, []),
      send('a service at another port, in front of an allowed one', nine ?? '', 10, ['db']),
    ]
  })

  for (const [name, attacks] of Object.entries({
    honest,
    sources,
    riding,
    fragments,
    extensions,
    options,
    protocols,
    host,
    translated,
  }))
    // prettier-ignore
    describe(name, () => {
      for (const { title, from, family, before, packets, after, heard = [], host: atHost = false } of attacks)
        test(`IPv${family}: ${title}`, async () => {
          if (before !== undefined) await say(...before, family)
          const got = await heardBy(from, family, packets, after)
          expect(got).toEqual({ heard, host: atHost })
        })
    })

  test('what a helper expects is judged like everything: a data connection of FTP', async () => {
    sh(`nft -f - <<< 'table inet helper { ct helper ftp { type "ftp" protocol tcp; }; chain pre { type filter hook prerouting priority -150; tcp dport 21 ct helper set "ftp"; }; }'`) // prettier-ignore
    const [there, back] = [between('web', 'world', 4), between('world', 'web', 4)]
    const packet = (way: Way, flags: number, numbers: [number, number], data: Octets = []): Octets => ip(way, tcp(way, way === there ? [1021, 21] : [21, 1021], flags, data, numbers)) // prettier-ignore
    await say('web', packet(there, Flag.SYN, [1, 0]), 4)
    await say('world', packet(back, Flag.SYN | Flag.ACK, [1, 2]), 4)
    await say('web', packet(there, Flag.ACK | Flag.PSH, [2, 2], text('USER a\r\n')), 4)
    await say('web', packet(there, Flag.ACK | Flag.PSH, [10, 2], text('PORT 10,1,0,2,4,210\r\n')), 4)
    expect(sh('cat /proc/net/nf_conntrack_expect')).toContain('dport=1234')
    const got = await heardBy('world', 4, (secret) => [ip(back, tcp(back, [20, 1234], Flag.SYN, secret))])
    expect(got).toEqual({ heard: [], host: false })
    sh('nft delete table inet helper')
  })

  test("a second link, with the first one's address", async () => {
    const path = hosts.get('db')?.path ?? ''
    sh(`ip link add two type veth peer name eth1 netns ${path}; ip link set two up`)
    hosts.get('db')?.sh('ip link set eth1 up')
    const second = await openWire(hosts.get('db') ?? expect.fail(), 'two', 'eth1')
    const mark = `<secret ${++marks}>`
    await second.send(both.map((family) => datagram('db', 'world', family, 9, text(mark))))
    await hearEverybody('db', 4)
    second.stop()
    expect(wire('world').heard.filter((packet) => packet.includes(mark))).toEqual([])
  })
})
