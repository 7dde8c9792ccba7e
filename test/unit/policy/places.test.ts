// Who is who in a world: labels that make identities, nodes, this host, API servers, and whose each address is.
import { describe, expect, test } from 'vitest'
import { firstIdentity, idleMax, lastIdentity, makeIdentities } from '../../../src/identity/identities.ts'
import { labelsToText } from '../../../src/identity/labels.ts'
import { isIdentityRelevant } from '../../../src/identity/relevant.ts'
import { addressFromText } from '../../../src/net/address.ts'
import { makeCompiler, type CompileOptions } from '../../../src/policy/compile.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const base: CompileOptions = { hostAddresses: [], upstreams: [], denyReply: 'refused' }

function compile(text: string, options: Partial<CompileOptions> = {}): Snapshot {
  const loaded = loadWorld([{ path: 'w.yaml', text }], { semantics: options.semantics ?? 'spec' })
  return loaded.ok ? makeCompiler({ ...base, ...options })(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
}
const pod = (name: string, address: string, labels: string, spec = ''): string => `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {${labels}}}
spec: {containers: [{name: c${spec.startsWith('ports') ? `, ${spec}` : ''}}]${spec === '' || spec.startsWith('ports') ? '' : `, ${spec}`}}
status: {podIP: ${address}}
`
const node = (name: string, address: string, labels = ''): string => `---
apiVersion: v1
kind: Node
metadata: {name: ${name}, labels: {${labels}}}
status: {addresses: [{type: InternalIP, address: ${address}}, {type: Hostname, address: ${name}}]}
`
const apiServer = (address: string): string => `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [${address}]}]
`
/** The labels behind an address, without those that every pod has. */
const labelsAt = (snapshot: Snapshot, address: string): string[] =>
  labelsToText(snapshot.identities.get(snapshot.identityOf(at(address)))?.labels ?? new Map()).filter((label) => !label.includes('io.kubernetes') && !label.includes('io.cilium')) // prettier-ignore

describe('labels that make an identity (Cilium pkg/labelsfilter, defaults)', () => {
  const rows: [key: string, isIn: boolean][] = [
    ['app', true],
    ['app.kubernetes.io/name', true],
    ['kubernetes.io/arch', false],
    ['example.com/kubernetes.io', true],
    ['io.kubernetes.pod.namespace', true],
    ['io.kubernetes.container', false],
    ['io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name', true],
    ['io.cilium.k8s.policy.serviceaccount', true],
    ['pod-template-hash', false],
    ['pod-template-hash-of-mine', false],
    ['controller-revision-hash', false],
    ['statefulset.kubernetes.io/pod-name', false],
    ['apps.kubernetes.io/pod-index', false],
    ['apps.kubernetes.io/other', true],
    ['batch.kubernetes.io/controller-uid', false],
    ['batch.kubernetes.io/job-name', true],
    ['controller-uid', false],
    ['failure-domain.beta.kubernetes.io/zone', false],
    ['app.kubernetes.io.beta.kubernetes.io', false],
    ['topology.kubernetes.io/zone', false],
    ['annotation.x', false],
    ['k8s.io/x', false],
    ['etcd_node', false],
  ]
  for (const [key, isIn] of rows) test(`${key}: ${isIn ? 'in' : 'out'}`, () => expect(isIdentityRelevant(key)).toBe(isIn)) // prettier-ignore

  const text = pod('a', '10.0.0.1', 'app: a, pod-template-hash: x') + pod('b', '10.0.0.2', 'app: a, pod-template-hash: y') // prettier-ignore
  const ofCilium = (selector: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: c, namespace: shop}
spec: {endpointSelector: ${selector}, egress: [{}]}
`
  const ofKubernetes = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec: {podSelector: {matchLabels: {pod-template-hash: x}}, policyTypes: [Egress]}
`
  test('what is out tells no pods apart', () => {
    const snapshot = compile(text)
    expect(snapshot.identityOf(at('10.0.0.1'))).toBe(snapshot.identityOf(at('10.0.0.2')))
  })
  const selected = (policies: string, semantics: 'spec' | 'cilium'): string[] => {
    const snapshot = compile(text + policies, { semantics })
    return ['10.0.0.1', '10.0.0.2'].filter((address) => snapshot.policyOf(snapshot.identityOf(at(address))).directions.egress.selected) // prettier-ignore
  }
  test("Kubernetes' own policies select by every label; for Cilium such a label is not there", () => {
    expect([selected(ofKubernetes, 'spec'), selected(ofKubernetes, 'cilium')]).toEqual([['10.0.0.1'], []])
  })
  const both = ['10.0.0.1', '10.0.0.2']
  const seen: [selector: string, selects: string[]][] = [
    ['{matchLabels: {pod-template-hash: x}}', []],
    ['{matchLabels: {"k8s:pod-template-hash": x}}', []],
    ['{matchLabels: {"any:pod-template-hash": x}}', []],
    ['{matchLabels: {"pod:pod-template-hash": x}}', []],
    ['{matchExpressions: [{key: pod-template-hash, operator: Exists}]}', []],
    ['{matchExpressions: [{key: pod-template-hash, operator: DoesNotExist}]}', both],
    ['{matchExpressions: [{key: pod-template-hash, operator: NotIn, values: [x]}]}', both],
  ]
  // That another policy makes the label known must not let Cilium's see it.
  for (const [selector, want] of seen)
    for (const semantics of ['spec', 'cilium'] as const)
      test(`a Cilium policy, ${semantics}: ${selector}`, () =>
        expect(selected(ofCilium(selector) + ofKubernetes.replace('{name: p', '{name: q').replace('hash: x', 'hash: none'), semantics)).toEqual(want)) // prettier-ignore
})

describe('named ports', () => {
  const http = (number: number): string => `ports: [{name: http, containerPort: ${number}}]`
  test('pods with equal labels and unequal ports are two identities', () => {
    const snapshot = compile(pod('a', '10.0.0.1', 'app: a', http(80)) + pod('b', '10.0.0.2', 'app: a', http(8080)) + pod('c', '10.0.0.3', 'app: a', http(80))) // prettier-ignore
    const [a, b, c] = ['10.0.0.1', '10.0.0.2', '10.0.0.3'].map((text) => snapshot.identityOf(at(text)))
    expect([a === b, a === c]).toEqual([false, true])
    expect([...(snapshot.identities.get(a ?? 0)?.labels.keys() ?? [])]).toContain('gen:io.cilium.k8s.named-ports')
  })
  test('with equal ports they are one, and have no such label', () => {
    const snapshot = compile(pod('a', '10.0.0.1', 'app: a', http(80)) + pod('b', '10.0.0.2', 'app: a', http(80)))
    expect(labelsAt(snapshot, '10.0.0.1')).toEqual(['k8s:app=a'])
  })
})

describe('addresses', () => {
  const text = pod('web', '10.0.0.1', 'app: web') + node('n1', '10.1.0.1', 'zone: a') + node('n2', '10.1.0.2', 'zone: b') + node('n3', '10.1.0.3') // prettier-ignore
  const rows: { title: string; text?: string; options?: Partial<CompileOptions>; address: string; labels: string[]; id?: number }[] = [
    { title: 'a pod', address: '10.0.0.1', labels: ['k8s:app=web'] },
    { title: 'world has an identity by family', address: '8.8.8.8', labels: ['reserved:world', 'reserved:world-ipv4'], id: 9 },
    { title: 'world, IPv6', address: '2001:db8::1', labels: ['reserved:world', 'reserved:world-ipv6'], id: 10 },
    { title: 'a node, by its labels', address: '10.1.0.1', labels: ['node:zone=a', 'reserved:remote-node'] },
    { title: 'a node without labels', address: '10.1.0.3', labels: ['reserved:remote-node'], id: 6 },
    { title: 'the local node is the host', options: { localNode: 'n1' }, address: '10.1.0.1', labels: ['reserved:host'], id: 1 },
    { title: 'an address of this host', options: { hostAddresses: [at('192.168.0.9')] }, address: '192.168.0.9', labels: ['reserved:host'], id: 1 },
    { title: 'whose node has an address of this host is on this host', options: { hostAddresses: [at('10.1.0.2')] }, address: '10.1.0.2', labels: ['reserved:host'], id: 1 },
    { title: 'an API server out there', text: text + apiServer('203.0.113.1'), address: '203.0.113.1', labels: ['reserved:kube-apiserver'] },
    { title: 'an API server on a node', text: text + apiServer('10.1.0.2'), address: '10.1.0.2', labels: ['node:zone=b', 'reserved:kube-apiserver', 'reserved:remote-node'] },
    { title: 'an API server on a node without labels', text: text + apiServer('10.1.0.3'), address: '10.1.0.3', labels: ['reserved:kube-apiserver', 'reserved:remote-node'], id: 7 },
    { title: 'an API server on this host', text: text + apiServer('10.1.0.1'), options: { localNode: 'n1' }, address: '10.1.0.1', labels: ['reserved:host', 'reserved:kube-apiserver'], id: 1 },
    { title: 'a pod on its node\'s network', text: text + pod('net', '10.1.0.2', 'app: net', 'hostNetwork: true, nodeName: n2'), address: '10.1.0.2', labels: ['node:zone=b', 'reserved:remote-node'] },
    { title: 'a pod on the network of a node that is not there', text: text + pod('net', '10.1.0.9', 'app: net', 'hostNetwork: true, nodeName: n9'), address: '10.1.0.9', labels: ['reserved:remote-node'], id: 6 },
    { title: 'a pod on this host\'s network', text: text + pod('net', '10.1.0.9', 'app: net', 'hostNetwork: true, nodeName: n1'), options: { localNode: 'n1' }, address: '10.1.0.9', labels: ['reserved:host'], id: 1 },
    { title: 'an address that two pods claim is nobody\'s', text: text + pod('thief', '10.0.0.1', 'app: thief'), address: '10.0.0.1', labels: [], id: 0 },
  ] // prettier-ignore
  for (const { title, text: own = text, options = {}, address, labels, id } of rows)
    test(title, () => {
      const snapshot = compile(own, options)
      expect(labelsAt(snapshot, address)).toEqual(labels)
      if (id !== undefined) expect(snapshot.identityOf(at(address))).toBe(id)
      const isOutside = labels[0] === 'reserved:world' || (labels[0] === 'reserved:kube-apiserver' && labels.length === 1)
      expect(snapshot.isInCluster(at(address))).toBe(!isOutside)
    }) // prettier-ignore

  test('workloads live here unless a local node is named and they are elsewhere', () => {
    const both = pod('here', '10.0.0.1', 'a: b', 'nodeName: n1') + pod('there', '10.0.0.2', 'a: b', 'nodeName: n2')
    const local = (options: Partial<CompileOptions>): boolean[] =>
      compile(both, options).endpoints.map((each) => each.local)
    expect([local({}), local({ localNode: 'n1' })]).toEqual([
      [true, true],
      [true, false],
    ])
  })

  test('numbers stay with their labels and are not given twice', () => {
    const identities = makeIdentities()
    const compiler = makeCompiler({ ...base, identities })
    const load = (text: string): Snapshot => {
      const loaded = loadWorld([{ path: 'w.yaml', text }])
      return loaded.ok ? compiler(loaded.world) : expect.fail()
    }
    const first = load(pod('a', '10.0.0.1', 'app: a')).identityOf(at('10.0.0.1'))
    const other = load(pod('a', '10.0.0.1', 'app: b')).identityOf(at('10.0.0.1'))
    const again = load(pod('x', '10.0.0.7', 'app: a')).identityOf(at('10.0.0.7'))
    expect([first === other, first === again]).toEqual([false, true])
  })

  /** One compiler, worlds of pods by their names, which are their labels too. */
  function makeWorlds(): (names: readonly string[]) => Snapshot {
    const compiler = makeCompiler({ ...base, identities: makeIdentities() })
    return (names) => {
      const text = names.map((name, i) => pod(name, `10.0.${i >> 8}.${i & 255}`, `app: ${name}`)).join('')
      const loaded = loadWorld([{ path: 'w.yaml', text }])
      return loaded.ok ? compiler(loaded.world) : expect.fail()
    }
  }
  const numbersOf = (snapshot: Snapshot, name: string): number[] =>
    snapshot.endpoints.filter((each) => each.name === name).flatMap(({ id, identity }) => [id, identity])
  const several = (count: number, of: string): string[] => Array.from({ length: count }, (_, i) => `${of}${i}`)

  test('numbers that few have left stay theirs', () => {
    const load = makeWorlds()
    const first = load(['stays', ...several(idleMax, 'goes')])
    load(['stays'])
    const again = load(['stays', 'goes7'])
    for (const name of ['stays', 'goes7']) expect(numbersOf(again, name)).toEqual(numbersOf(first, name))
  })
  test('numbers of many that are gone are forgotten, and nobody else gets them', () => {
    const load = makeWorlds()
    const first = load(['stays', ...several(idleMax + 1, 'goes')])
    load(['stays'])
    const again = load(['stays', 'goes7', ...several(3, 'new')])
    expect(numbersOf(again, 'stays')).toEqual(numbersOf(first, 'stays'))
    const given = { ids: new Set(first.endpoints.map(({ id }) => id)), identities: new Set(first.endpoints.map(({ identity }) => identity)) } // prettier-ignore
    for (const { id, identity, name } of again.endpoints)
      expect([name, given.ids.has(id), given.identities.has(identity)]).toEqual([name, name === 'stays', name === 'stays']) // prettier-ignore
  })
  test('past the last number come those that nobody has and nothing stands under', () => {
    const label = (value: string): ReadonlyMap<string, string> => new Map([['k8s:app', value]])
    const known = new Map([['a digest', lastIdentity - 1]])
    const identities = makeIdentities(known, () => 'another', [firstIdentity + 1])
    const given = ['a', 'b', 'c'].map((value) => identities.idOf(label(value)))
    expect(given).toEqual([lastIdentity, firstIdentity, firstIdentity + 2])
    expect(identities.idOf(label('a'))).toBe(lastIdentity)
  })
})

describe('labels that nobody may give to a pod', () => {
  const whole = (snapshot: Snapshot, address: string): readonly string[] =>
    labelsToText(snapshot.identities.get(snapshot.identityOf(at(address)))?.labels ?? new Map())
  test('where it is and who runs it says its place, not its labels', () => {
    const posing = 'app: a, io.cilium.k8s.policy.serviceaccount: payments, io.cilium.k8s.namespace.labels.env: prod, io.kubernetes.pod.namespace: bank, io.cilium.k8s.policy.cluster: west' // prettier-ignore
    const snapshot = compile(pod('a', '10.0.0.1', posing) + pod('b', '10.0.0.2', 'app: a'))
    expect(whole(snapshot, '10.0.0.1')).toEqual(whole(snapshot, '10.0.0.2'))
  })
  test('a key with a sign in it is not a key and its value', () => {
    const snapshot = compile(pod('a', '10.0.0.1', 'role: admin') + pod('b', '10.0.0.2', '"role=admin": ""'))
    expect(snapshot.identityOf(at('10.0.0.1'))).not.toBe(snapshot.identityOf(at('10.0.0.2')))
  })
})
