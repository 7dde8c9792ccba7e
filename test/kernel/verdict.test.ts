// The kernel against `decide`: random sets of policies of every kind, random flows between workloads, this host, other nodes and the world,
// real packets, no disagreement.
import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { monotonic } from '../../src/clock.ts'
import { startDatapath, type Datapath } from '../../src/datapath/datapath.ts'
import type { LeaseElement } from '../../src/datapath/element.ts'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { makeCells } from '../../src/leases/cells.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import { openedPorts } from '../../src/policy/names.ts'
import type { Semantics } from '../../src/policy/rules.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { makeDecider } from '../../src/policy/verdict.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { at } from '../support/agent.ts'
import { addHost, enterLab, flushConnections, sh, whyNoKernel, type Host } from '../support/lab.ts'
import { ports, type Probe, type Result } from './probe.ts'

const reason = whyNoKernel()
const worlds = Number(process.env['NAMEGATE_TEST_WORLDS'] ?? 300)
const flowsPerWorld = 60

// Three workloads here (one has the labels of another, in another namespace); behind the link `world` one of another node, that node, an API
// server, and addresses that are nobody's.
const workloads = {
  web: { ip4: '10.1.0.2', ip6: 'fd01::2', namespace: 'default', app: 'a' },
  db: { ip4: '10.2.0.2', ip6: 'fd02::2', namespace: 'default', app: 'b' },
  job: { ip4: '10.4.0.2', ip6: 'fd04::2', namespace: 'other', app: 'a' },
} as const
const named = '198.18.0.9'
const hostAddresses = ['10.1.0.1', '10.2.0.1', '10.4.0.1', '10.3.0.1', 'fd01::1', 'fd02::1', 'fd04::1', 'fd03::1']
const outside4 = ['198.18.0.1', '198.18.0.5', '198.18.0.6', named, '10.3.0.8', '10.3.0.9']
const outside6 = ['2001:db8::1', '2001:db8::5', 'fd03::9']
const places: Readonly<Record<string, readonly string[]>> = {
  web: [workloads.web.ip4, workloads.web.ip6],
  db: [workloads.db.ip4, workloads.db.ip6],
  job: [workloads.job.ip4, workloads.job.ip6],
  world: [...outside4, ...outside6],
  gate: hostAddresses,
}

const object = (apiVersion: string, kind: string, metadata: object, rest: object): object => ({ apiVersion, kind, metadata, ...rest }) // prettier-ignore
const podOf = (name: string, namespace: string, app: string, nodeName: string, ips: readonly string[], http: number): object => object('v1', 'Pod', { name, namespace, labels: { app } }, { spec: { nodeName, containers: [{ name: 'x', image: 'x', ports: [{ name: 'http', containerPort: http, protocol: 'TCP' }] }] }, status: { podIPs: ips.map((ip) => ({ ip })) } }) // prettier-ignore
const inventory = [
  object('v1', 'Namespace', { name: 'default', labels: { team: 'x' } }, {}),
  object('v1', 'Namespace', { name: 'other', labels: { team: 'y' } }, {}),
  object('v1', 'Node', { name: 'here' }, { status: { addresses: [{ type: 'InternalIP', address: '10.3.0.1' }] } }),
  object('v1', 'Node', { name: 'there', labels: { role: 'far' } }, { status: { addresses: [{ type: 'InternalIP', address: '10.3.0.8' }] } }),
  ...Object.entries(workloads).map(([name, { namespace, app, ip4, ip6 }]) => podOf(name, namespace, app, 'here', [ip4, ip6], name === 'db' ? 90 : 80)),
  podOf('far', 'default', 'b', 'there', ['10.3.0.9', 'fd03::9'], 80),
  object('discovery.k8s.io/v1', 'EndpointSlice', { name: 'kubernetes', namespace: 'default', labels: { 'kubernetes.io/service-name': 'kubernetes' } }, { addressType: 'IPv4', endpoints: [{ addresses: ['198.18.0.6'] }], ports: [] }),
  object('v1', 'Service', { name: 'kubernetes', namespace: 'default' }, { spec: { ports: [{ port: 443 }] } }),
] // prettier-ignore

// What policies are made of. Prefixes hold some of the addresses above and not others.
const oneOf = fc.constantFrom
const cidr = oneOf('198.18.0.0/28', '198.18.0.4/30', '198.18.0.5/32', '0.0.0.0/0', '10.0.0.0/8', '10.1.0.0/16', '2001:db8::/64', '2001:db8::5/128', '::/0') // prettier-ignore
const withHole = oneOf({ cidr: '198.18.0.0/28', except: ['198.18.0.4/30'] }, { cidr: '0.0.0.0/0', except: ['10.0.0.0/8'] }, { cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] }) // prettier-ignore
const app = oneOf({}, { matchLabels: { app: 'a' } }, { matchLabels: { app: 'b' } }, { matchExpressions: [{ key: 'app', operator: 'NotIn', values: ['a'] }] }) // prettier-ignore
const anyNamespace = { key: 'k8s:io.kubernetes.pod.namespace', operator: 'Exists' }
const ciliumPods = fc.oneof(app, oneOf({ matchExpressions: [anyNamespace] }, { matchLabels: { 'k8s:io.kubernetes.pod.namespace': 'other' } })) // prettier-ignore
const entity = oneOf('world', 'all', 'cluster', 'host', 'remote-node', 'kube-apiserver', 'none')
const maybe = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(arbitrary, { nil: undefined })

const ciliumPeer = (way: 'from' | 'to'): fc.Arbitrary<object> =>
  fc.oneof(
    fc.array(ciliumPods, { minLength: 1, maxLength: 2 }).map((list) => ({ [`${way}Endpoints`]: list })),
    fc.uniqueArray(cidr, { minLength: 1, maxLength: 2 }).map((list) => ({ [`${way}CIDR`]: list })),
    withHole.map((one) => ({ [`${way}CIDRSet`]: [one] })),
    fc.uniqueArray(entity, { minLength: 1, maxLength: 2 }).map((list) => ({ [`${way}Entities`]: list })),
    fc.constant({}),
  )
const ciliumPort = fc.oneof(
  fc.record({ port: oneOf('1', '2', '3', '80', '90', '0'), protocol: oneOf('TCP', 'UDP', 'ANY') }),
  oneOf({ port: '1', endPort: 5, protocol: 'TCP' }, { port: '2', endPort: 99, protocol: 'ANY' }, { port: 'http', protocol: 'TCP' }, { protocol: 'VRRP' }), // prettier-ignore
)
const toPorts = fc.oneof(
  { weight: 6, arbitrary: fc.array(ciliumPort, { minLength: 1, maxLength: 2 }).map((list) => ({ toPorts: [{ ports: list }] })) }, // prettier-ignore
  { weight: 2, arbitrary: oneOf({ icmps: [{ fields: [{ type: 8, family: 'IPv4' }] }] }, { icmps: [{ fields: [{ type: 'EchoRequest', family: 'IPv6' }, { type: 13, family: 'IPv4' }] }] }) }, // prettier-ignore
  { weight: 4, arbitrary: fc.constant({}) },
)
const judged = oneOf({ toPorts: [{ ports: [{ port: '80', protocol: 'TCP' }], rules: { http: [{ method: 'GET' }] } }] }, {}) // prettier-ignore
const ciliumRule = (way: 'from' | 'to', l7: boolean): fc.Arbitrary<object> =>
  fc.tuple(ciliumPeer(way), l7 ? fc.oneof({ weight: 5, arbitrary: toPorts }, { weight: 1, arbitrary: judged }) : toPorts).map(([peer, to]) => ({ ...peer, ...to })) // prettier-ignore
const byName = oneOf({ toFQDNs: [{ matchName: 'api.example.com' }] }, { toFQDNs: [{ matchPattern: '*.example.com' }], toPorts: [{ ports: [{ port: '1', endPort: 80, protocol: 'TCP' }] }] }) // prettier-ignore
const rules = (arbitrary: fc.Arbitrary<object>): fc.Arbitrary<object[] | undefined> => maybe(fc.array(arbitrary, { minLength: 1, maxLength: 2 })) // prettier-ignore

const ciliumSpec = (l7: boolean) =>
  fc.record({
    endpointSelector: app,
    ingress: rules(ciliumRule('from', l7)),
    egress: rules(
      fc.oneof(
        { weight: 4, arbitrary: ciliumRule('to', l7) },
        { weight: 1, arbitrary: l7 ? byName : ciliumRule('to', false) },
      ),
    ),
    ingressDeny: rules(ciliumRule('from', false)),
    egressDeny: rules(ciliumRule('to', false)),
    enableDefaultDeny: maybe(fc.record({ ingress: fc.boolean(), egress: fc.boolean() })),
  })
const isAnything = (spec: object): boolean => ['ingress', 'egress', 'ingressDeny', 'egressDeny'].some((list) => (spec as Record<string, unknown>)[list] !== undefined) // prettier-ignore
const cilium = fc.tuple(oneOf('CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy'), oneOf('default', 'other'), ciliumSpec(true).filter(isAnything)).map(([kind, namespace, spec]) => ({ apiVersion: 'cilium.io/v2', kind, namespace: kind === 'CiliumNetworkPolicy' ? namespace : undefined, spec })) // prettier-ignore

const team = oneOf({}, { matchLabels: { team: 'x' } }, { matchLabels: { 'kubernetes.io/metadata.name': 'other' } })
const podSelector = oneOf({}, { matchLabels: { app: 'a' } }, { matchLabels: { app: 'b' } })
const k8sPeer = fc.oneof(
  podSelector.map((selector) => ({ podSelector: selector })),
  team.map((selector) => ({ namespaceSelector: selector })),
  fc.record({ podSelector, namespaceSelector: team }),
  withHole.map((ipBlock) => ({ ipBlock })),
  cidr.map((one) => ({ ipBlock: { cidr: one } })),
)
const k8sPort = oneOf({ port: 80 }, { port: 1, endPort: 3, protocol: 'TCP' }, { port: 'http' }, { protocol: 'UDP' }, { port: 90, protocol: 'UDP' }) // prettier-ignore
const k8sRule = (way: 'from' | 'to'): fc.Arbitrary<object> => fc.record({ [way]: maybe(fc.array(k8sPeer, { minLength: 1, maxLength: 2 })), ports: maybe(fc.array(k8sPort, { minLength: 1, maxLength: 2 })) }) // prettier-ignore
const networkPolicy = fc.record({ podSelector, policyTypes: oneOf<string[]>(['Ingress'], ['Egress'], ['Ingress', 'Egress']), ingress: rules(k8sRule('from')), egress: rules(k8sRule('to')) }) // prettier-ignore
  .chain((spec) => oneOf('default', 'other').map((namespace) => ({ apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', namespace, spec: { ...spec, ingress: spec.policyTypes.includes('Ingress') ? spec.ingress : undefined, egress: spec.policyTypes.includes('Egress') ? spec.egress : undefined } }))) // prettier-ignore

const tierPods = oneOf<object>({ namespaces: {} }, { namespaces: { matchLabels: { team: 'y' } } }, { pods: { namespaceSelector: {}, podSelector: { matchLabels: { app: 'a' } } } }) // prettier-ignore
const tierPeer = fc.oneof(
  tierPods,
  fc.uniqueArray(cidr, { minLength: 1, maxLength: 2 }).map((networks) => ({ networks })),
)
const protocols = maybe(fc.array(oneOf<object>({ tcp: { destinationPort: { number: 80 } } }, { tcp: { destinationPort: { range: { start: 1, end: 90 } } } }, { udp: {} }, { tcp: {} }), { minLength: 1, maxLength: 2 })) // prettier-ignore
const tierRule = (way: 'from' | 'to'): fc.Arbitrary<object> => fc.record({ action: oneOf('Accept', 'Deny', 'Pass'), [way]: fc.array(way === 'to' ? tierPeer : tierPods, { minLength: 1, maxLength: 2 }), protocols }) // prettier-ignore
const clusterPolicy = fc.record({ tier: oneOf('Admin', 'Baseline'), priority: fc.integer({ min: 0, max: 9 }), subject: tierPods, ingress: rules(tierRule('from')), egress: rules(tierRule('to')) }).map((spec) => ({ apiVersion: 'policy.networking.k8s.io/v1alpha2', kind: 'ClusterNetworkPolicy', namespace: undefined, spec })) // prettier-ignore

// On the host neither L7 nor names.
const ofHost = ciliumSpec(false)
  .map((spec) => ({ ...spec, endpointSelector: undefined, nodeSelector: {} }))
  .filter(isAnything)
  .map((spec) => ({ apiVersion: 'cilium.io/v2', kind: 'CiliumClusterwideNetworkPolicy', namespace: undefined, spec }))

const policySet = fc.record({
  semantics: oneOf<Semantics>('spec', 'cilium'),
  audit: fc.integer({ min: 0, max: 9 }).map((dice) => dice === 0),
  /** Of this host, where they hold. */
  hostPolicies: fc.array(ofHost, { maxLength: 2 }),
  policies: fc.array(
    fc.oneof({ weight: 3, arbitrary: cilium }, { weight: 2, arbitrary: networkPolicy }, { weight: 2, arbitrary: clusterPolicy }), // prettier-ignore
    { minLength: 1, maxLength: 5 },
  ),
})
type PolicySet = typeof policySet extends fc.Arbitrary<infer T> ? T : never

/** Who can try whom: at least one of them is held back here. */
const pairsOf = (held: readonly string[]): { place: string; from: string; to: string }[] =>
  Object.entries(places).flatMap(([place, own]) =>
    own.flatMap((from) =>
      Object.entries(places).flatMap(
        ([other, theirs]) =>
        place === other || !(held.includes(place) || held.includes(other)) ? [] : theirs.filter((to) => to.includes(':') === from.includes(':') && isNear(place, from, other, to)).map((to) => ({ place, from, to })), // prettier-ignore
      ),
    ),
  )

/** Of this host's addresses only the one on the link between: others would be a detour of routing, not of policy. */
function isNear(place: string, from: string, other: string, to: string): boolean {
  const onLink = (name: string, ip: string): boolean => {
    const link = name === 'world' ? ['10.3.0.', 'fd03::'] : (places[name] ?? []).map((own) => own.slice(0, -1))
    return link.includes(ip.slice(0, -1))
  }
  if (place === 'gate') return onLink(other, from)
  return other !== 'gate' || onLink(place, to)
}
const flowOf = (held: readonly string[]): fc.Arbitrary<{ place: string; probe: Probe }> => fc.tuple(oneOf(...pairsOf(held)), fc.integer({ min: 0, max: 9 }), oneOf(...ports)).map(([{ place, from, to }, dice, port]) => {
  const six = to.includes(':')
  if (dice < 5) return { place, probe: { from, to, protocol: 6, port } }
  if (dice < 8) return { place, probe: { from, to, protocol: 17, port } }
  if (six) return { place, probe: { from, to, protocol: 58, icmpType: 128 } }
  // Without ports the two directions of a pair are one connection: it is tried in one direction only.
  return { place, probe: dice === 8 || from > to ? { from, to, protocol: 1, icmpType: port === 1 ? 13 : 8 } : { from, to, protocol: 112 } }
}) // prettier-ignore

interface Prober {
  readonly child: ChildProcess
  readonly lines: AsyncIterator<string>
}

describe.skipIf(reason !== undefined)(`verdicts ${reason ?? ''}`, () => {
  const hosts: Host[] = []
  const probers = new Map<string, Prober>()
  let datapath: Datapath | undefined

  const nobody: PolicySet = { semantics: 'spec', audit: false, policies: [], hostPolicies: [] }
  async function restart(withHost: boolean): Promise<Datapath> {
    datapath?.close()
    const structure = { table: 'namegate', proxy: { port: 10053 }, denied: 'reject', interfaces: ['db', 'job', 'web'], prefixes: [], strangers: 'deny', learnedMax: 1024, ...(withHost ? { hostPolicies: { upstreams: [] } } : {}) } as const // prettier-ignore
    return (datapath = await startDatapath({ nft: makeNft(), netlink: makeNetlink(openNetlink()), clock: monotonic, structure, digest: (text) => String(text.length) }, snapshotOf(nobody, withHost))) // prettier-ignore
  }
  async function startProber(place: string, path: string | undefined): Promise<void> {
    const within = path === undefined ? [] : ['nsenter', `--net=${path}`]
    const program = [process.execPath, fileURLToPath(new URL('probe.ts', import.meta.url)), ...(places[place] ?? [])]
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...within, ...program], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
    const reader: Interface = createInterface({ input: child.stdout })
    const lines = reader[Symbol.asyncIterator]()
    expect((await lines.next()).value).toBe('ready')
    probers.set(place, { child, lines })
  }
  async function probe(place: string, probes: readonly Probe[]): Promise<Result[]> {
    const prober = probers.get(place) ?? expect.fail(place)
    prober.child.stdin?.write(`${JSON.stringify(probes)}\n`)
    const { value } = (await prober.lines.next()) as { value: string }
    return JSON.parse(value) as Result[]
  }

  const compilers = new Map<string, ReturnType<typeof makeCompiler>>()
  function snapshotOf({ semantics, audit, policies, hostPolicies }: PolicySet, withHost: boolean): Snapshot {
    const key = JSON.stringify([semantics, audit, withHost])
    let compile = compilers.get(key)
    if (compile === undefined) compilers.set(key, (compile = makeCompiler({ hostAddresses: hostAddresses.map(at), upstreams: [], denyReply: 'refused', semantics, localNode: 'here', audit, hostPolicies: withHost }))) // prettier-ignore
    const objects = [...policies, ...(withHost ? hostPolicies : [])].map(({ namespace, spec, ...type }, i) => ({ ...type, metadata: { name: `p${i}`, ...(namespace === undefined ? {} : { namespace }) }, spec })) // prettier-ignore
    const loaded = loadWorld([{ path: 'random', text: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [...inventory, ...objects] }) }], { semantics }) // prettier-ignore
    return loaded.ok ? compile(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
  }
  /** What workloads would hold had each asked for the name. */
  function leasesOf(snapshot: Snapshot): LeaseElement[] {
    return [...new Set(snapshot.endpoints.filter((endpoint) => endpoint.local).map(({ identity }) => identity))].flatMap((identity) => {
      const policy = snapshot.policyOf(identity)
      const cells = makeCells(policy.grantPorts)(openedPorts(policy.grantsFor(['api', 'example', 'com'])))
      return cells.map((opens) => ({ identity, address: at(named), ports: opens, timeoutMillis: 600_000 }))
    })
  } // prettier-ignore

  beforeAll(async () => {
    enterLab()
    for (const [name, { ip4, ip6 }] of Object.entries(workloads))
      hosts.push(await addHost(name, [`${ip4}/24`, `${ip6}/64`], [`${ip4.slice(0, -1)}1/24`, `${ip6.slice(0, -1)}1/64`])) // prettier-ignore
    const world = await addHost('world', ['10.3.0.2/24', '10.3.0.8/24', '10.3.0.9/24', 'fd03::2/64', 'fd03::9/64'], ['10.3.0.1/24', 'fd03::1/64']) // prettier-ignore
    hosts.push(world)
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    const unlimited = 'sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=1000000 net.ipv6.icmp.ratelimit=0' // prettier-ignore
    world.sh([...outside4.filter((ip) => ip.startsWith('198')).map((ip) => `ip addr add ${ip}/32 dev lo`), ...outside6.filter((ip) => ip.startsWith('2001')).map((ip) => `ip addr add ${ip}/128 dev lo nodad`)].join(';')) // prettier-ignore
    sh(unlimited)
    for (const host of hosts) expect(host.sh(unlimited).status).toBe(0)
    await startProber('gate', undefined)
    for (const [i, place] of ['web', 'db', 'job', 'world'].entries()) await startProber(place, hosts[i]?.path)
  })
  afterAll(() => {
    datapath?.close()
    for (const { child } of probers.values()) child.kill('SIGKILL')
    for (const host of hosts) host.stop()
  })

  const about = [{ title: 'workloads', withHost: false, count: worlds }, { title: 'workloads and this host', withHost: true, count: worlds / 2 }] // prettier-ignore
  for (const { title, withHost, count } of about)
    test(`${title}: ${count} sets of policies`, { timeout: 600_000 }, async () => {
      const seed = Number(process.env['NAMEGATE_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
      console.log(`seed ${seed}`)
      const kernel = await restart(withHost)
      const held = [...Object.keys(workloads), ...(withHost ? ['gate'] : [])]
      const isHeld = (ip: string): boolean => held.some((place) => places[place]?.includes(ip) === true)
      const flows = fc.array(flowOf(held), { minLength: flowsPerWorld, maxLength: flowsPerWorld })
      const cases = fc.sample(fc.tuple(policySet, flows), { seed, numRuns: count })
      const counts = { allow: 0, deny: 0 }
      for (const [set, tries] of cases) {
        const snapshot = snapshotOf(set, withHost)
        await kernel.apply(snapshot)
        const leases = leasesOf(snapshot)
        await kernel.commit(leases)
        flushConnections()
        const judge = makeDecider(snapshot)
        const done = await Promise.all(
          [...probers.keys()].map(async (place) => {
            const own = tries.filter((one) => one.place === place).map((one) => one.probe)
            return (await probe(place, own)).map((result, i) => ({ probe: own[i] as Probe, result }))
          }),
        )
        const wrong: object[] = []
        for (const { probe: tried, result } of done.flat()) {
          const { from, to, ...l4 } = tried
          const said = judge({ ...l4, from: { kind: 'address', address: at(from) }, to: { kind: 'address', address: at(to) }, names: to === named ? ['api.example.com'] : [] }) // prettier-ignore
          // A workload of another node is that node's to hold back.
          const here = [...(isHeld(from) ? [said.egress] : []), ...(isHeld(to) ? [said.ingress] : [])]
          // In audit mode everything passes.
          const wanted = here.every(({ verdict }) => verdict === 'allowed' || set.audit) ? 'allow' : 'deny'
          counts[wanted]++
          if (result !== wanted) wrong.push({ ...tried, result, wanted, said })
        }
        expect(wrong, `seed ${seed}: ${JSON.stringify(set, undefined, 1)}`).toEqual([])
        await kernel.remove(leases)
      }
      // Neither side must win by always saying the same.
      expect(counts.allow).toBeGreaterThan((count * flowsPerWorld) / 10)
      expect(counts.deny).toBeGreaterThan((count * flowsPerWorld) / 10)
    })
})
