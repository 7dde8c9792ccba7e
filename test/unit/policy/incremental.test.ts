// What a change recomputes, and what it leaves: worlds that share all objects but the changed ones, one compiler.
import { describe, expect, test } from 'vitest'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import type { Policy, World } from '../../../src/policy/rules.ts'
import type { Snapshot, SubjectPolicy } from '../../../src/policy/snapshot.ts'
import { decide } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const pod = (name: string, address: string, ports = ''): string => `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {app: ${name}}}
spec: {nodeName: n1, containers: [{name: c${ports}}]}
status: {podIP: ${address}}
`
const cnp = (name: string, app: string, spec: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}, namespace: shop}
spec: {endpointSelector: {matchLabels: {app: ${app}}}, ${spec}}
`
const node = (zone: string): string => `---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: ${zone}}}
status: {addresses: [{type: InternalIP, address: 10.1.0.1}]}
`
function load(text: string): World {
  const loaded = loadWorld([{ path: 'w.yaml', text }])
  return loaded.ok ? loaded.world : expect.fail(JSON.stringify(loaded.issues))
}
const compiler = () => makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', localNode: 'n1' })
const policyAt = (snapshot: Snapshot, address: string): SubjectPolicy => snapshot.policyOf(snapshot.identityOf(at(address))) // prettier-ignore
const egress = (snapshot: Snapshot, to: string, port: number): string => decide(snapshot, { from: { kind: 'address', address: at('10.0.0.1') }, to: { kind: 'address', address: at(to) }, protocol: 6, port }).egress.verdict // prettier-ignore

describe('what stays', () => {
  const base = load(pod('web', '10.0.0.1') + pod('db', '10.0.0.2') + pod('old', '10.0.0.3') + cnp('p', 'web', 'egress: [{toEndpoints: [{matchLabels: {app: db}}]}]') + cnp('q', 'db', 'ingress: [{fromEntities: [cluster]}]')) // prettier-ignore
  const [p, q] = base.policies as [Policy, Policy]
  const other = load(cnp('p', 'web', 'egress: [{toEntities: [world]}]')).policies[0] ?? expect.fail()
  const newcomer = load(pod('new', '10.0.0.9')).pods

  const rows: { title: string; next: World; touched: string[]; kept: string[] }[] = [
    { title: 'nothing', next: { ...base }, touched: [], kept: ['10.0.0.1', '10.0.0.2', '10.0.0.3'] },
    { title: 'another policy: whom it selects', next: { ...base, policies: [other, q] }, touched: ['10.0.0.1'], kept: ['10.0.0.2', '10.0.0.3'] },
    { title: 'a policy that went', next: { ...base, policies: [p] }, touched: ['10.0.0.2'], kept: ['10.0.0.1', '10.0.0.3'] },
    { title: 'a pod with labels of its own: whose rules can be about it', next: { ...base, pods: [...base.pods, ...newcomer] }, touched: ['10.0.0.2'], kept: ['10.0.0.1', '10.0.0.3'] },
    { title: 'a pod that went', next: { ...base, pods: base.pods.slice(0, 2) }, touched: ['10.0.0.2'], kept: ['10.0.0.1'] },
  ] // prettier-ignore
  for (const { title, next, touched, kept } of rows)
    test(title, () => {
      const compile = compiler()
      const before = compile(base)
      const old = new Map([...touched, ...kept].map((address) => [address, policyAt(before, address)]))
      const after = compile(next)
      for (const address of kept) expect(policyAt(after, address), address).toBe(old.get(address))
      for (const address of touched) expect(policyAt(after, address), address).not.toBe(old.get(address))
    })
})

describe('what stays, of everything that rules can be about', () => {
  const np = (name: string, app: string, spec: string): string => `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ${name}, namespace: shop}
spec: {podSelector: {matchLabels: {app: ${app}}}, ${spec}}
`
  const namespace = (name: string, team: string): string => `---
apiVersion: v1
kind: Namespace
metadata: {name: ${name}, labels: {team: ${team}}}
`
  const away = (name: string, address: string, space: string): string => pod(name, address).replace('namespace: shop', `namespace: ${space}`) // prettier-ignore
  const group = (name: string, cidr: string, kind = name): string => `---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: ${name}, labels: {kind: ${kind}}}
spec: {externalCIDRs: [${cidr}]}
`
  const service = (name: string, spec: string): string => `---
apiVersion: v1
kind: Service
metadata: {name: ${name}, namespace: shop, labels: {svc: ${name}}}
spec: {${spec}, ports: [{port: 80}]}
`
  const slice = (name: string, address: string, space = 'shop'): string => `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ${name}-1, namespace: ${space}, labels: {kubernetes.io/service-name: ${name}}}
addressType: IPv4
endpoints: [{addresses: [${address}]}]
`
  const remote = (name: string, address: string, zone: string): string => node(zone).replace('name: n1', `name: ${name}`).replace('10.1.0.1', address) // prettier-ignore

  // Each workload has a rule about one thing.
  const rules = {
    host: 'ingress: [{fromEntities: [host]}]',
    remote: 'ingress: [{fromEntities: [remote-node]}]',
    labels: 'egress: [{toEndpoints: [{matchLabels: {app: labels}}]}]',
    spaces: 'egress: [{toEndpoints: [{matchLabels: {"k8s:io.cilium.k8s.namespace.labels.team": red}}]}]',
    group: 'egress: [{toCIDRSet: [{cidrGroupRef: g1}]}]',
    groups: 'egress: [{toCIDRSet: [{cidrGroupSelector: {matchLabels: {kind: k}}}]}]',
    service: 'egress: [{toServices: [{k8sService: {serviceName: front, namespace: shop}}]}]',
    services: 'egress: [{toServices: [{k8sServiceSelector: {selector: {matchLabels: {svc: bare}}, namespace: shop}}]}]',
    nodes: 'ingress: [{fromNodes: [{matchLabels: {zone: a}}]}]',
    api: 'egress: [{toEntities: [kube-apiserver]}]',
    ported: 'egress: [{toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]',
    names: 'egress: [{toFQDNs: [{matchName: a.com}]}]',
    plain: 'egress: [{toCIDR: [192.0.2.0/24]}]',
  }
  const apps = Object.keys(rules)
  const addressOf = (app: string): string => `10.0.0.${apps.indexOf(app) + 1}`
  const sql = (port: number): string => `, ports: [{name: sql, containerPort: ${port}}]`
  const all = {
    pods: apps.map((app) => pod(app, addressOf(app))).join(''),
    front: pod('front', '10.0.1.1') + pod('db', '10.0.1.2', sql(5432)),
    away: away('far', '10.0.2.1', 'red') + away('off', '10.0.2.2', 'blue'),
    spaces: namespace('red', 'red') + namespace('blue', 'blue'),
    nodes: node('x') + remote('n2', '10.1.0.2', 'a') + remote('n3', '10.1.0.3', 'b'),
    groups: group('g1', '192.0.2.0/28') + group('g2', '192.0.2.16/28', 'k') + group('g3', '192.0.2.32/28'),
    services: service('front', 'selector: {app: front}') + service('bare', 'clusterIP: None') + service('idle', 'selector: {app: nobody}'),
    slices: slice('bare', '192.0.2.99') + slice('other', '192.0.2.98') + slice('kubernetes', '10.1.0.3', 'default'),
    policies: Object.entries(rules).map(([app, spec]) => cnp(app, app, spec)).join(''),
    block: np('block', 'plain', 'policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.1.0/24}}], ports: [{port: sql}]}]'),
  } // prettier-ignore
  const base = load(Object.values(all).join(''))

  /** The world with parts written anew; what is written as before is the same object, as the loader keeps it. */
  function changed(parts: Partial<typeof all>): World {
    const next = load(Object.values({ ...all, ...parts }).join(''))
    const kept = <T>(list: readonly T[], old: readonly T[]): T[] => list.map((item) => old.find((other) => isEqual(other, item)) ?? item) // prettier-ignore
    return {
      pods: kept(next.pods, base.pods),
      nodes: kept(next.nodes, base.nodes),
      services: kept(next.services, base.services),
      endpointSlices: kept(next.endpointSlices, base.endpointSlices),
      cidrGroups: kept(next.cidrGroups, base.cidrGroups),
      policies: kept(next.policies, base.policies),
      namespaces: new Map([...next.namespaces].map(([name, labels]) => [name, kept([labels], [base.namespaces.get(name) ?? labels])[0] ?? labels])),
    } // prettier-ignore
  }
  const isEqual = (a: unknown, b: unknown): boolean => text(a) === text(b)
  const text = (value: unknown): string => JSON.stringify(value, (key, one: unknown) => (key === 'line' ? undefined : one instanceof Map ? [...(one as Map<string, string>)] : typeof one === 'bigint' ? String(one) : one)) // prettier-ignore

  const rows: { title: string; parts: Partial<typeof all>; touched: string[] }[] = [
    { title: 'nothing', parts: {}, touched: [] },
    { title: 'a policy', parts: { policies: all.policies.replace('a.com', 'b.com') }, touched: ['names'] },
    { title: 'a pod that comes, and nobody speaks of', parts: { front: all.front + pod('late', '10.0.1.9') }, touched: [] },
    { title: 'a pod that comes with labels that somebody has', parts: { away: all.away + away('far', '10.0.2.9', 'red').replace('name: far', 'name: far2') }, touched: [] },
    { title: 'a label: who is somebody else now, and who speaks of one of the two', parts: { pods: all.pods.replace('app: labels', 'app: labels, more: x') }, touched: ['labels'] },
    { title: 'a label of a backend', parts: { front: all.front.replace('app: front', 'app: front, more: x') }, touched: ['service'] },
    { title: 'an address', parts: { front: all.front.replace('10.0.1.1', '10.0.1.5') }, touched: ['plain'] },
    { title: 'a named port', parts: { front: all.front.replace('5432', '5433') }, touched: ['ported', 'plain'] },
    { title: 'a label of a namespace: the rules about it', parts: { spaces: namespace('red', 'red') + namespace('blue', 'red') }, touched: ['spaces'] },
    { title: 'a label of a namespace that no rule is about', parts: { spaces: namespace('red', 'red') + namespace('blue', 'green') }, touched: [] },
    { title: 'a group by name', parts: { groups: all.groups.replace('192.0.2.0/28', '192.0.2.0/29') }, touched: ['group'] },
    { title: 'a group by labels', parts: { groups: all.groups.replace('192.0.2.16/28', '192.0.2.16/29') }, touched: ['groups'] },
    { title: 'a group that gets the labels', parts: { groups: all.groups.replace('kind: g3', 'kind: k') }, touched: ['groups'] },
    { title: 'a group that nobody names', parts: { groups: all.groups.replace('192.0.2.32/28', '192.0.2.32/29') }, touched: [] },
    { title: 'a service', parts: { services: all.services.replace('app: front', 'app: db') }, touched: ['service'] },
    { title: 'a service that nobody names', parts: { services: all.services.replace('app: nobody', 'app: db') }, touched: [] },
    { title: 'backends of a service without a selector', parts: { slices: all.slices.replace('192.0.2.99', '192.0.2.90') }, touched: ['services'] },
    { title: 'backends of a service that nobody names', parts: { slices: all.slices.replace('192.0.2.98', '192.0.2.90') }, touched: [] },
    { title: 'labels of another node', parts: { nodes: node('x') + remote('n2', '10.1.0.2', 'c') + remote('n3', '10.1.0.3', 'b') }, touched: ['nodes', 'remote'] },
    { title: 'an address of another node', parts: { nodes: node('x') + remote('n2', '10.1.0.7', 'a') + remote('n3', '10.1.0.3', 'b') }, touched: ['plain'] },
    { title: "labels of this host's node", parts: { nodes: node('y') + remote('n2', '10.1.0.2', 'a') + remote('n3', '10.1.0.3', 'b') }, touched: ['plain'] },
    { title: 'an API server that moves to this host', parts: { slices: all.slices.replace('10.1.0.3', '10.1.0.1') }, touched: ['api', 'host', 'remote'] },
    { title: 'a policy and a group', parts: { policies: all.policies.replace('a.com', 'b.com'), groups: all.groups.replace('192.0.2.0/28', '192.0.2.0/29') }, touched: ['group', 'names'] },
  ] // prettier-ignore
  for (const { title, parts, touched } of rows)
    test(title, () => {
      const compile = compiler()
      const policiesOf = (snapshot: Snapshot): Map<string, SubjectPolicy> => new Map(apps.map((app) => [app, policyAt(snapshot, addressOf(app))])) // prettier-ignore
      const old = policiesOf(compile(base))
      const now = policiesOf(compile(changed(parts)))
      // `plain` has a block beside a named port: which addresses are in it is asked whenever some address moved.
      const others = apps.filter((app) => app !== 'plain' && now.get(app) !== old.get(app))
      expect(others).toEqual(touched.filter((app) => app !== 'plain').sort((a, b) => apps.indexOf(a) - apps.indexOf(b)))
      if (touched.includes('plain')) expect(now.get('plain')).not.toBe(old.get('plain'))
    })

  test('what was compiled before a policy went does not come back with it', () => {
    const compile = compiler()
    const without = base.policies.filter(({ name }) => name !== 'shop/labels')
    compile(base).policyOf(256)
    policyAt(compile(base), addressOf('labels'))
    compile({ ...base, policies: without })
    const more = load(pod('late', '10.0.1.9').replace('app: late', 'app: labels, more: x')).pods
    compile({ ...base, pods: [...base.pods, ...more], policies: without })
    const back = compile({ ...base, pods: [...base.pods, ...more] })
    const late = back.identityOf(at('10.0.1.9'))
    const [entry] = policyAt(back, addressOf('labels')).directions.egress.entries
    expect(entry?.peers === 'everyone' ? [] : [...(entry?.peers.identities ?? [])]).toContain(late)
  })
})

describe('what does not', () => {
  test("this host's addresses: one that comes, one that goes, and back", () => {
    const base = load(pod('web', '10.0.0.1') + cnp('p', 'web', 'egress: [{toCIDR: [192.168.0.0/16]}]') + node('a'))
    const compile = compiler()
    const say = (...addresses: string[]): unknown => {
      const snapshot = compile(base, addresses.map(at))
      return [...addresses, '192.168.0.7'].map((text) => [snapshot.identityOf(at(text)), egress(snapshot, text, 80)])
    }
    const world = compile(base).identityOf(at('192.168.0.7'))
    expect(say()).toEqual([[world, 'allowed']])
    expect(say('192.168.0.7')).toEqual([[1, 'denied'], [1, 'denied']]) // prettier-ignore
    expect(say('192.168.0.8')).toEqual([[1, 'denied'], [world, 'allowed']]) // prettier-ignore
    expect(say()).toEqual([[world, 'allowed']])
  })

  test('a block of addresses and a named port: a pod that moves in it', () => {
    const np = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{port: sql}]}]}
`
    const sql = ', ports: [{name: sql, containerPort: 5432}]'
    const base = load(pod('web', '10.0.0.1') + pod('db', '10.0.0.2', sql) + np)
    const compile = compiler()
    expect(egress(compile(base), '10.0.0.2', 5432)).toBe('allowed')
    const moved = { ...base, pods: base.pods.map((each) => (each.name === 'db' ? { ...each, addresses: ['10.0.0.7'] } : each)) } // prettier-ignore
    const after = compile(moved)
    expect([egress(after, '10.0.0.7', 5432), egress(after, '10.0.0.2', 5432)]).toEqual(['allowed', 'denied'])
  })

  test('the same, of a policy that nobody asked for before', () => {
    const np = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{port: sql}]}]}
`
    const base = load(pod('web', '10.0.0.1') + pod('db', '10.0.0.2', ', ports: [{name: sql, containerPort: 5432}]') + np) // prettier-ignore
    const compile = compiler()
    compile(base)
    const after = compile({ ...base, pods: base.pods.map((each) => (each.name === 'db' ? { ...each, addresses: ['10.0.0.7'] } : each)) }) // prettier-ignore
    expect([egress(after, '10.0.0.7', 5432), egress(after, '10.0.0.2', 5432)]).toEqual(['allowed', 'denied'])
  })

  test('a named port without peers: a new pod that has it', () => {
    const named = cnp('p', 'web', 'egress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]')
    const base = load(pod('web', '10.0.0.1') + named)
    const compile = compiler()
    compile(base).policyOf(256)
    const more = load(pod('late', '10.0.0.5', ', ports: [{name: http, containerPort: 9000}]')).pods
    const after = compile({ ...base, pods: [...base.pods, ...more] })
    expect([egress(after, '10.0.0.5', 9000), egress(after, '10.0.0.5', 80)]).toEqual(['allowed', 'denied'])
  })

  test("rules about nodes: this one's labels", () => {
    const admin = `---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: nodes}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: a}}}]}]}
`
    const base = load(pod('web', '10.0.0.1') + node('a') + admin)
    const compile = compiler()
    expect(egress(compile(base), '10.1.0.1', 80)).toBe('denied')
    expect(egress(compile({ ...base, nodes: load(node('b')).nodes }), '10.1.0.1', 80)).toBe('allowed')
  })
})
