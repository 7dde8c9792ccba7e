// Policy that changes under load: what every one of the policy sets allows passes at each moment of each change, and what every one denies never
// does. The packets of the flood belong to no connection, so that each of them meets policy; the kernel counts them before and behind it.
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { monotonic } from '../../src/clock.ts'
import { startDatapath, type Datapath } from '../../src/datapath/datapath.ts'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { decide } from '../../src/policy/verdict.ts'
import { makeLoader } from '../../src/sources/loader.ts'
import { at } from '../support/agent.ts'
import { ip, text, udp } from '../support/frames.ts'
import { addHost, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const changes = Number(process.env['NAMEGATE_TEST_CHANGES'] ?? 200)
const [allowedPort, deniedPort] = [443, 80]
const web = { 4: '10.1.0.2', 6: 'fd01::2' } as const
const db = { 4: '10.2.0.2', 6: 'fd02::2' } as const
const world = { 4: '198.18.0.9', 6: '2001:db8::9' } as const
const ways = ([4, 6] as const).flatMap((f) => [
  { place: 'web', from: web[f], to: world[f] },
  { place: 'web', from: web[f], to: db[f] },
  { place: 'world', from: world[f], to: db[f] },
])
const flows = ways.flatMap((way) => [allowedPort, deniedPort].map((port) => ({ ...way, port })))

const object = (kind: string, name: string, rest: object, apiVersion = 'cilium.io/v2', namespace: string | undefined = 'default'): object => ({ apiVersion, kind, metadata: { name, ...(namespace === undefined ? {} : { namespace }) }, ...rest }) // prettier-ignore
const pod = (name: string, ips: readonly string[], labels: object, nodeName = 'here'): object => ({ apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'default', labels }, spec: { nodeName }, status: { podIPs: ips.map((ip) => ({ ip })) } }) // prettier-ignore
const node = (name: string, ips: readonly string[]): object => object('Node', name, { status: { addresses: ips.map((address) => ({ type: 'InternalIP', address })) } }, 'v1', undefined) // prettier-ignore
const pods = (app: string): object[] => [pod('web', Object.values(web), { app, tier: 'web' }), pod('db', Object.values(db), { app, tier: 'db' })] // prettier-ignore
const here = node('here', ['10.3.0.1'])

const ports = (port: string, endPort?: number): object => ({ toPorts: [{ ports: [{ port, protocol: 'UDP', ...(endPort === undefined ? {} : { endPort }) }] }] }) // prettier-ignore
const open = ports(String(allowedPort))
const shut = ports(String(deniedPort))
const cnp = (name: string, tier: string, spec: object): object => object('CiliumNetworkPolicy', name, { spec: { endpointSelector: { matchLabels: { tier } }, ...spec } }) // prettier-ignore
const others = { matchLabels: { tier: 'web' } }
const dbs = { matchLabels: { tier: 'db' } }
const prefixes = ['198.18.0.0/24', '2001:db8::/64']
/** The same to and from: what web may reach, and who may reach db. */
const both = (to: object[], from: object[], deny: { readonly to?: object[]; readonly from?: object[] } = {}): object[] => [
  cnp('to', 'web', { egress: to, ...(deny.to === undefined ? {} : { egressDeny: deny.to }) }),
  cnp('from', 'db', { ingress: from, ...(deny.from === undefined ? {} : { ingressDeny: deny.from }) }),
] // prettier-ignore
const within = { toEndpoints: [dbs], ...open }
const fromWithin = { fromEndpoints: [others], ...open }
const tiered = (name: string, tier: string, priority: number, subject: string, rules: object): object => object('ClusterNetworkPolicy', name, { spec: { tier, priority, subject: { pods: { namespaceSelector: {}, podSelector: { matchLabels: { tier: subject } } } }, ...rules } }, 'policy.networking.k8s.io/v1alpha2', undefined) // prettier-ignore
const everybody = [{ namespaces: {} }]
const everywhere = [...everybody, { networks: ['0.0.0.0/0', '::/0'] }]
const on = (port: number): object => ({ protocols: [{ udp: { destinationPort: { number: port } } }] })
const someone = Array.from({ length: 40 }, (_, i) => pod(`other${i}`, [`10.9.0.${i}`, `fd09::${i}`], { app: `app${i % 8}` }, 'there')) // prettier-ignore
const wide = Array.from({ length: 12 }, (_, i) => ({ toCIDR: [`198.18.0.0/${13 + i}`, `2001:db8::/${32 + 2 * i}`], ...ports(String(1000 + i)) })) // prettier-ignore

/** Sets of policies of every kind, and of who is where. */
const sets: Readonly<Record<string, readonly object[]>> = {
  prefixes: [...pods('a'), ...both([{ toCIDR: prefixes, ...open }, within], [{ fromCIDR: prefixes, ...open }, fromWithin])], // prettier-ignore
  'everything but': [...pods('a'), ...both([{ toEntities: ['all'] }], [{ fromEntities: ['all'] }], { to: [shut], from: [shut] })], // prettier-ignore
  'prefixes with holes, and denied ones': [
    ...pods('a'),
    ...both(
      [{ toCIDRSet: [{ cidr: '0.0.0.0/0', except: ['198.19.0.0/16'] }, { cidr: '::/0', except: ['2001:db8:9::/48'] }] }, { toEntities: ['cluster'] }],
      [{ fromCIDRSet: [{ cidr: '0.0.0.0/0', except: ['10.0.0.0/8'] }, { cidr: '::/0', except: ['fd00::/8'] }] }, { fromEntities: ['cluster'] }],
      { to: [{ toCIDR: ['198.18.0.0/25', '2001:db8::/96'], ...shut }, { toEndpoints: [dbs], ...shut }], from: [{ fromEntities: ['world', 'cluster'], ...shut }] },
    ),
  ],
  'wide ranges of ports': [...pods('a'), ...both([{ toEntities: ['world'], ...ports('100', 2000) }, { toEndpoints: [{}], ...ports('443', 4430) }], [{ fromEntities: ['world'], ...ports('400', 500) }, { fromEndpoints: [{}], ...ports('81', 9000) }])],
  'many prefixes in one another': [...pods('a'), ...both([...wide, { toCIDR: prefixes, ...open }, within], [{ fromCIDR: ['198.18.0.8/30', '2001:db8::/120'], ...open }, fromWithin])],
  'an Admin tier': [
    ...pods('a'), ...both([{ toEntities: ['all'] }], [{ fromEntities: ['all'], ...open }]),
    tiered('one', 'Admin', 3, 'web', { egress: [{ action: 'Accept', to: everywhere, ...on(allowedPort) }, { action: 'Deny', to: everywhere }] }),
  ],
  'an Admin tier that passes, and a Baseline': [
    ...pods('a'), ...both([{ toEntities: ['world'], ...open }, within], [{ fromEntities: ['all'], ...open }]),
    tiered('one', 'Admin', 3, 'web', { egress: [{ action: 'Pass', to: everywhere, ...on(allowedPort) }, { action: 'Deny', to: everywhere, ...on(deniedPort) }] }),
    tiered('two', 'Baseline', 0, 'db', { ingress: [{ action: 'Deny', from: everybody }] }),
  ],
  'NetworkPolicies': [
    ...pods('a'),
    object('NetworkPolicy', 'to', { spec: { podSelector: others, policyTypes: ['Egress'], egress: [{ to: [{ ipBlock: { cidr: '198.18.0.0/15' } }, { ipBlock: { cidr: '2001:db8::/32' } }, { podSelector: dbs }], ports: [{ protocol: 'UDP', port: allowedPort }] }] } }, 'networking.k8s.io/v1'),
    object('NetworkPolicy', 'from', { spec: { podSelector: dbs, ingress: [{ from: [{ ipBlock: { cidr: '0.0.0.0/0', except: ['10.9.0.0/16'] } }, { ipBlock: { cidr: '::/0' } }], ports: [{ protocol: 'UDP', port: allowedPort }] }] } }, 'networking.k8s.io/v1'),
  ],
  'other labels': [...pods('b'), ...both([{ toCIDR: prefixes, ...open }, { toEndpoints: [{ matchLabels: { app: 'b' } }], ...open }], [{ fromCIDR: prefixes, ...open }, { fromEndpoints: [{ matchLabels: { app: 'b', tier: 'web' } }], ...open }])],
  'labels one by one': [pod('web', Object.values(web), { tier: 'web' }), pod('db', Object.values(db), { tier: 'db' }), ...both([{ toEntities: ['all'], ...open }], [{ fromEntities: ['all'], ...open }])],
  'more pods': [...pods('a'), ...someone, ...both([{ toCIDR: prefixes, ...open }, within, ...Array.from({ length: 8 }, (_, i) => ({ toEndpoints: [{ matchLabels: { app: `app${i}` } }] }))], [{ fromCIDR: prefixes, ...open }, fromWithin, { fromEndpoints: [{ matchLabels: { app: 'app3' } }] }])],
  'the world is a node': [...pods('a'), node('there', Object.values(world)), ...both([{ toEntities: ['remote-node'], ...open }, within], [{ fromEntities: ['remote-node'], ...open }, fromWithin])],
  'the world is a node with labels': [...pods('a'), { ...node('there', Object.values(world)), metadata: { name: 'there', labels: { zone: 'east' } } }, ...both([{ toNodes: [{ matchLabels: { zone: 'east' } }], ...open }, within], [{ fromNodes: [{ matchLabels: { zone: 'east' } }], ...open }, fromWithin])],
  'the world is an API server': [
    ...pods('a'), object('Service', 'kubernetes', { spec: { ports: [{ port: 443 }] } }, 'v1'),
    ...Object.entries(world).map(([family, address]) => ({ apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice', metadata: { name: `kubernetes${family}`, namespace: 'default', labels: { 'kubernetes.io/service-name': 'kubernetes' } }, addressType: `IPv${family}`, endpoints: [{ addresses: [address] }], ports: [] })),
    ...both([{ toEntities: ['kube-apiserver'], ...open }, within], [{ fromEntities: ['kube-apiserver'], ...open }, fromWithin]),
  ],
  'the world is a pod': [...pods('a'), pod('far', Object.values(world), { app: 'far' }, 'there'), ...both([{ toEndpoints: [{ matchLabels: { app: 'far' } }, dbs], ...open }], [{ fromEndpoints: [{ matchLabels: { app: 'far' } }, others], ...open }])],
  'a group of prefixes': [...pods('a'), object('CiliumCIDRGroup', 'g', { spec: { externalCIDRs: prefixes } }, 'cilium.io/v2', undefined), ...both([{ toCIDRSet: [{ cidrGroupRef: 'g' }], ...open }, within], [{ fromCIDRSet: [{ cidrGroupRef: 'g' }], ...open }, fromWithin])],
  'nothing by default': [...pods('a'), cnp('to', 'web', { enableDefaultDeny: { egress: false }, egressDeny: [shut] }), cnp('from', 'db', { enableDefaultDeny: { ingress: false }, ingressDeny: [shut] })],
} // prettier-ignore
/** What a big cluster's policies are, all about the two here. */
const many = (count: number): object[] => Array.from({ length: count }, (_, i) => cnp(`many${i}`, i % 2 === 0 ? 'web' : 'db', i % 2 === 0 ? { egress: [{ toCIDR: [`100.${i >> 8}.${i & 255}.0/24`], ...ports(String(1000 + (i % 500))) }] } : { ingress: [{ fromEndpoints: [{ matchLabels: { app: `app${i % 8}` } }], ...ports(String(1000 + (i % 500))) }] })) // prettier-ignore

describe.skipIf(reason !== undefined)(`changes ${reason ?? ''}`, () => {
  const hosts = new Map<string, Host>()
  let datapath: Datapath | undefined
  const compile = makeCompiler({ hostAddresses: ['10.1.0.1', '10.2.0.1', 'fd01::1', 'fd02::1'].map(at), upstreams: [], denyReply: 'refused', localNode: 'here' }) // prettier-ignore
  const load = makeLoader()
  const list = (items: readonly object[]): string => JSON.stringify({ apiVersion: 'v1', kind: 'List', items })
  const snapshotOf = async (name: string, more: readonly object[] = []): Promise<Snapshot> => {
    const loaded = await load([{ path: name, text: list([here, ...(sets[name] ?? expect.fail(name))]) }, { path: 'more', text: list(more) }]) // prettier-ignore
    return loaded.ok ? compile(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
  }
  const isAllowed = (snapshot: Snapshot, { from, to, port }: (typeof flows)[number]): boolean => decide(snapshot, { protocol: 17, port, from: { kind: 'address', address: at(from) }, to: { kind: 'address', address: at(to) } }).verdict === 'allowed' // prettier-ignore

  beforeAll(async () => {
    enterLab()
    for (const [i, name] of (['web', 'db', 'world'] as const).entries())
      hosts.set(name, await addHost(name, [`10.${i + 1}.0.2/24`, `fd0${i + 1}::2/64`], [`10.${i + 1}.0.1/24`, `fd0${i + 1}::1/64`])) // prettier-ignore
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2; sysctl -qw net.ipv4.conf.all.rp_filter=0') // prettier-ignore
    for (const host of hosts.values())
      host.sh(`nft -f - <<< 'table inet deaf { chain in { type filter hook prerouting priority -300; icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; drop; }; }'`) // prettier-ignore
    const counting = (when: string): string => flows.map(({ place, from, to, port }, i) => `iifname "${place}" ${from.includes(':') ? 'ip6' : 'ip'} saddr ${from} ${to.includes(':') ? 'ip6' : 'ip'} daddr ${to} udp dport ${port} counter name ${when}${i};`).join(' ') // prettier-ignore
    const counters = flows.map((_, i) => `counter before${i} { }; counter behind${i} { };`).join(' ')
    sh('nft -f -', `table inet count { ${counters} chain before { type filter hook prerouting priority -460; ${counting('before')} }; chain behind { type filter hook prerouting priority -80; ${counting('behind')} }; }\n`) // prettier-ignore
  })
  afterAll(() => {
    datapath?.close()
    for (const host of hosts.values()) host.stop()
  })

  interface Link {
    readonly address: string
    readonly ifindex: number
  }
  const linkOf = (json: string): Link => (JSON.parse(json) as [Link])[0]
  async function startFlood(place: string): Promise<{ child: ChildProcess; lines: AsyncIterator<string> }> {
    const host = hosts.get(place) ?? expect.fail(place)
    const own = linkOf(host.sh('ip -j link show dev eth0').out)
    const packets = Array.from({ length: 16 }, (_, i) => i).flatMap((i) => flows.filter((flow) => flow.place === place).map(({ from, to, port }) => Buffer.from(ip([from, to], udp([from, to], [2000 + i, port], text('flood')))).toString('base64'))) // prettier-ignore
    const program = [process.execPath, fileURLToPath(new URL('flood.ts', import.meta.url)), String(own.ifindex), own.address, linkOf(sh(`ip -j link show dev ${place}`)).address, ...packets] // prettier-ignore
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, ...program], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    expect((await lines.next()).value).toBe('ready')
    return { child, lines }
  }
  /** What passed of each flow while `work` was done, and how many were sent. */
  async function flooded(work: () => Promise<void>): Promise<{ flow: string; sent: number; passed: number }[]> {
    sh('nft reset counters table inet count')
    const floods = await Promise.all(['web', 'world'].map(startFlood))
    try {
      await work()
    } finally {
      for (const { child, lines } of floods) {
        child.stdin?.write('.')
        await lines.next()
      }
    }
    const { nftables } = JSON.parse(sh('nft -j list counters table inet count')) as { nftables: { counter?: { name: string; packets: number } }[] } // prettier-ignore
    const count = (name: string): number => nftables.find(({ counter }) => counter?.name === name)?.counter?.packets ?? -1 // prettier-ignore
    return flows.map(({ from, to, port }, i) => ({ flow: `${from} > ${to}:${port}`, sent: count(`before${i}`), passed: count(`behind${i}`) })) // prettier-ignore
  }
  function expectExact(results: Awaited<ReturnType<typeof flooded>>): void {
    for (const { sent } of results) expect(sent).toBeGreaterThan(1000)
    expect(results.map(({ flow, passed }) => ({ flow, passed }))).toEqual(results.map(({ flow, sent }) => ({ flow, passed: flow.endsWith(`:${allowedPort}`) ? sent : 0 }))) // prettier-ignore
  }
  const start = (snapshot: Snapshot): Promise<Datapath> => startDatapath({ nft: makeNft(), netlink: makeNetlink(openNetlink()), clock: monotonic, digest: (text) => String(text.length), structure: { table: 'namegate', proxy: { port: 10053 }, denied: 'drop', interfaces: ['web', 'db'], prefixes: [], strangers: 'deny', learnedMax: 1024 } }, snapshot) // prettier-ignore

  for (const name of Object.keys(sets))
    test(`the test itself: ${name}: allows what all allow, denies what all deny`, async () => {
      const snapshot = await snapshotOf(name)
      expect(flows.filter((flow) => isAllowed(snapshot, flow) !== (flow.port === allowedPort))).toEqual([])
    })

  test(`${changes} changes`, { timeout: 300_000 }, async () => {
    const seed = Number(process.env['NAMEGATE_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
    console.log(`seed ${seed}`)
    const snapshots: Snapshot[] = []
    for (const name of fc.sample(fc.constantFrom(...Object.keys(sets)), { seed, numRuns: changes }))
      snapshots.push(await snapshotOf(name))
    const kernel = (datapath = await start(await snapshotOf('prefixes')))
    expectExact(
      await flooded(async () => {
        for (const snapshot of snapshots) await kernel.apply(snapshot)
      }),
    )
  })

  test('written anew, by another agent and after somebody else’s hand', async () => {
    const first = datapath ?? expect.fail()
    expectExact(
      await flooded(async () => {
        for (const name of ['everything but', 'prefixes', 'an Admin tier']) {
          await first.apply(await snapshotOf(name))
          await first.repair()
        }
        first.close()
        datapath = await start(await snapshotOf('prefixes'))
        datapath.close()
        datapath = await start(await snapshotOf('the world is a node'))
      }),
    )
  })

  test('10 000 policies: in, changed, out', { timeout: 300_000 }, async () => {
    const kernel = datapath ?? expect.fail()
    const more = [...someone, ...many(10_000)]
    const snapshots: Snapshot[] = []
    for (const name of ['prefixes', 'an Admin tier', 'everything but']) snapshots.push(await snapshotOf(name, more))
    snapshots.push(await snapshotOf('NetworkPolicies'))
    expectExact(
      await flooded(async () => {
        for (const snapshot of snapshots) await kernel.apply(snapshot)
      }),
    )
  })
})
