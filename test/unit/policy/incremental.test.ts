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
