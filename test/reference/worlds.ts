// Random worlds, policies and flows in which much meets much: few labels, few addresses, few ports, every kind of rule.
import fc, { type Arbitrary } from 'fast-check'
import type { Selector } from '../../src/identity/selector.ts'
import { readPattern } from '../../src/match/pattern.ts'
import type { Ports } from '../../src/net/ports.ts'
import { prefixFromText, subtractRanges, type AddressRange } from '../../src/net/prefix.ts'
import { entities, policyKinds, Tier, type CidrGroup, type EndpointSlice, type L7, type NamedPort, type Node, type Peer, type Pod, type Policy, type Rule, type RulePorts, type Service, type World } from '../../src/policy/rules.ts' // prettier-ignore
import type { End, Question, Switches } from './evaluate.ts'

const spot = { path: 'spec', line: 1 }
const pick = fc.constantFrom
const maybe = <T>(arbitrary: Arbitrary<T>): Arbitrary<T | undefined> => fc.option(arbitrary, { nil: undefined })
const few = <T>(arbitrary: Arbitrary<T>, max: number, min = 0): Arbitrary<T[]> => fc.array(arbitrary, { minLength: min, maxLength: max }) // prettier-ignore
const some = <T>(values: readonly T[], max = values.length): Arbitrary<T[]> => fc.subarray([...values], { maxLength: max }) // prettier-ignore

export const outsiders = ['192.0.2.1', '192.0.2.9', '198.51.100.7', '2001:db8::5'] as const
const podAddresses = ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6', 'fd00::1', 'fd00::2'] as const // prettier-ignore
const nodeAddresses = ['10.1.0.1', '10.1.0.2', '10.1.0.3', 'fd01::2'] as const
const everyAddress = [...outsiders, ...podAddresses, ...nodeAddresses]
const namespaces = ['a', 'b'] as const
const names = ['a.com', 'x.a.com', 'y.x.a.com', 'b.org'] as const

const range = (text: string): AddressRange => {
  const found = prefixFromText(text)
  if (found === undefined) throw new Error(text)
  return found
}
const cidrs = ['0.0.0.0/0', '10.0.0.0/29', '10.0.0.4/30', '10.1.0.0/30', '192.0.2.0/24', '192.0.2.8/29', '198.51.100.7/32', '::/0', '2001:db8::/32', 'fd00::/64'] // prettier-ignore
const ranges = fc.tuple(pick(...cidrs), some(cidrs, 2)).map(([cidr, holes]) => subtractRanges([range(cidr)], holes.filter((hole) => hole !== cidr).map(range))) // prettier-ignore

// Who is there.

const labels = fc.tuple(maybe(pick('x', 'y')), maybe(pick('f', 'b')), maybe(pick('1', '2'))).map(([app, tier, hash]) => new Map([['app', app], ['tier', tier], ['pod-template-hash', hash]].flatMap(([key, value]) => (key === undefined || value === undefined ? [] : [[key, value] as const])))) // prettier-ignore
const namedPort: Arbitrary<NamedPort> = fc.record({ name: pick('http', 'dns'), protocol: pick(6, 17), port: pick(53, 80, 81, 443) }) // prettier-ignore
const pod: Arbitrary<Omit<Pod, 'name' | 'addresses'>> = fc.record({ kind: fc.constant('Pod'), namespace: pick(...namespaces), file: fc.constant('w.yaml'), path: fc.constant(''), line: fc.constant(1), labels, hostNetwork: fc.nat(9).map((n) => n === 0), ports: few(namedPort, 2), containerPorts: fc.constant([]), node: pick('n1', 'n2', 'n9') }) // prettier-ignore
const pods: Arbitrary<Pod[]> = fc.tuple(few(pod, 6, 2), fc.shuffledSubarray([...podAddresses], { minLength: 8 }), fc.nat(20)).map(([list, addresses, odd]) => list.map((each, i) => ({ ...each, name: `p${i}`, addresses: each.hostNetwork ? [nodeAddresses[i % 4] ?? ''] : i === 5 ? [] : i === 1 && odd === 0 ? [addresses[0] ?? ''] : i === 0 ? [addresses[0] ?? '', addresses[7] ?? ''] : [addresses[i] ?? ''] }))) // prettier-ignore
const zone = maybe(pick('east', 'west')).map((value): ReadonlyMap<string, string> => new Map(value === undefined ? [] : [['zone', value]])) // prettier-ignore
const nodes: Arbitrary<Node[]> = fc.tuple(zone, zone, zone).map(([one, two, three]) => [{ name: 'n1', labels: one, addresses: ['10.1.0.1'] }, { name: 'n2', labels: two, addresses: ['10.1.0.2', 'fd01::2'] }, { name: 'n3', labels: three, addresses: ['10.1.0.3'] }]) // prettier-ignore
const slices: Arbitrary<EndpointSlice[]> = fc.tuple(some(['10.1.0.1', '10.1.0.2', '192.0.2.1']), some([...everyAddress], 2)).map(([servers, backends]) => [{ namespace: 'default', service: 'kubernetes', addresses: servers }, { namespace: 'a', service: 'bare', addresses: backends }]) // prettier-ignore
const service = (name: string, selector: Service['selector']): Service => ({ ...spot, namespace: 'a', name, file: 'w.yaml', labels: new Map([['svc', name]]), selector, clusterIPs: [], ports: [] }) // prettier-ignore
const services: Arbitrary<Service[]> = pick('x', 'y', 'z').map((app) => [service('web', new Map([['app', app]])), service('bare', undefined)]) // prettier-ignore
const groups: Arbitrary<CidrGroup[]> = fc.tuple(ranges, ranges).map(([one, two]) => [{ name: 'g1', labels: new Map([['kind', 'k']]), ranges: one }, { name: 'g2', labels: new Map([['kind', 'l']]), ranges: two }]) // prettier-ignore
const teams = maybe(pick('red', 'blue')).map((team): World['namespaces'] => new Map([['a', new Map(team === undefined ? [] : [['team', team]])]])) // prettier-ignore

// What policies say.

const keyed = (key: string, values: readonly [string, ...string[]]): Arbitrary<Selector> => fc.oneof(fc.tuple(pick('In', 'NotIn'), some(values).filter((list) => list.length > 0)).map(([operator, list]): Selector => [{ operator: operator === 'In' ? 'In' : 'NotIn', key, values: list }]), pick('Exists', 'DoesNotExist').map((operator): Selector => [{ operator: operator === 'Exists' ? 'Exists' : 'DoesNotExist', key }])) // prettier-ignore
const requirement = fc.oneof(
  keyed('any:app', ['x', 'y']),
  keyed('k8s:app', ['x', 'y']),
  keyed('any:tier', ['f', 'b']),
  keyed('k8s:io.kubernetes.pod.namespace', ['a', 'b']),
  keyed('k8s:io.cilium.k8s.namespace.labels.team', ['red', 'blue']),
  keyed('any:pod-template-hash', ['1', '2']),
  keyed('pod:pod-template-hash', ['1', '2']),
  keyed('k8s:io.cilium.k8s.policy.cluster', ['default', 'other']),
  pick<Selector>([{ operator: 'Exists', key: 'reserved:host' }], [{ operator: 'Exists', key: 'reserved:world' }], [{ operator: 'DoesNotExist', key: 'reserved:kube-apiserver' }]), // prettier-ignore
)
const selector: Arbitrary<Selector> = few(requirement, 2).map((list) => list.flat())
const podSelector: Arbitrary<Selector> = few(fc.oneof(keyed('any:app', ['x', 'y']), keyed('k8s:tier', ['f', 'b']), keyed('k8s:io.kubernetes.pod.namespace', ['a', 'b'])), 1).map((list) => list.flat()) // prettier-ignore
const bareSelector = fc.oneof(keyed('svc', ['web', 'bare']), keyed('kind', ['k', 'l']))
const nodeSelector = few(keyed('node:zone', ['east', 'west']), 1).map((list): Selector => [...list.flat(), { operator: 'Exists', key: 'reserved:remote-node' }, { operator: 'In', key: 'k8s:io.cilium.k8s.policy.cluster', values: ['default'] }]) // prettier-ignore

const pattern = pick('a.com', '*.a.com', '**.a.com', '*', 'b.org', '*.org', 'x*.com')
const name: Arbitrary<Peer> = pattern.map((text) => ({ ...spot, kind: 'name', field: 'matchPattern', text, pattern: readPattern(text) })) // prettier-ignore
const located: Arbitrary<Peer> = fc.oneof(
  fc.tuple(ranges, pick('outside' as const, 'everywhere' as const)).map(([list, reach]): Peer => ({ ...spot, kind: 'cidr', ranges: list, text: '', reach })), // prettier-ignore
  fc.tuple(fc.oneof(pick('g1', 'g2', 'g9'), bareSelector), some(cidrs, 1)).map(([group, holes]): Peer => ({ ...spot, kind: 'cidrGroup', group, except: holes.map(range) })), // prettier-ignore
  selector.map((of): Peer => ({ ...spot, kind: 'endpoints', selector: of })),
  selector.map((of): Peer => ({ ...spot, kind: 'endpoints', selector: of })),
  fc.tuple(nodeSelector, fc.boolean()).map(([of, self]): Peer => ({ ...spot, kind: 'nodes', selector: self ? of.filter(({ key }) => key !== 'reserved:remote-node') : of, ...(self ? { self } : {}) })), // prettier-ignore
  pick(...entities, 'cluster' as const, 'cluster' as const, 'cluster-mesh' as const, 'world' as const).map(
    (entity): Peer => ({ ...spot, kind: 'entity', entity }),
  ),
  fc.constant<Peer>({ ...spot, kind: 'unresolved', field: 'toGroups' }),
)
const served: Arbitrary<Peer> = fc.tuple(fc.oneof(pick('web', 'bare', 'gone'), bareSelector), maybe(pick('a', 'b'))).map(([of, namespace]) => ({ ...spot, kind: 'service', service: of, namespace })) // prettier-ignore
/** Kinds of peers are not mixed with names or services, as in manifests. */
const peers = (direction: Rule['direction'], kind: Rule['kind']): Arbitrary<Rule['peers']> => {
  const egress = direction === 'egress' ? [few(served, 2, 1), ...(kind === 'pass' ? [] : [few(name, 2, 1)])] : []
  return fc.oneof({ arbitrary: fc.constant('everyone' as const), weight: 2 }, { arbitrary: few(located, 2), weight: 4 }, ...egress.map((arbitrary) => ({ arbitrary, weight: 1 }))) // prettier-ignore
}
const cell: Arbitrary<Ports> = fc.oneof(
  fc.tuple(pick(6 as const, 17 as const, 132 as const), pick(0, 52, 53, 80, 443), pick(0, 1, 400)).map(([protocol, first, more]): Ports => (first === 0 ? { kind: 'ports', protocol, first: 0, last: 65535 } : { kind: 'ports', protocol, first, last: first + more })), // prettier-ignore
  fc.tuple(pick(4 as const, 6 as const), pick(8, 128, 0)).map(([family, type]): Ports => ({ kind: 'icmp', family, type })), // prettier-ignore
  fc.constant<Ports>({ kind: 'protocol', protocol: 47 }),
)
const named: Arbitrary<RulePorts> = fc.record({ kind: fc.constant('named' as const), name: pick('http', 'dns'), protocol: pick(6 as const, 17 as const), endPort: maybe(pick(70, 90, 500)) }) // prettier-ignore
const ports: Arbitrary<RulePorts[]> = fc.oneof(fc.constant<RulePorts[]>([{ kind: 'all' }]), few(fc.oneof({ arbitrary: cell, weight: 3 }, { arbitrary: named, weight: 2 }), 3, 1)) // prettier-ignore
const above: Arbitrary<Pick<Rule, 'l7' | 'serverNames'>> = fc.oneof(
  { arbitrary: fc.constant({}), weight: 5 },
  { arbitrary: pick('GET', 'POST', undefined).map((method) => ({ l7: { kind: 'http', rules: [{ ...spot, ...(method === undefined ? {} : { methodRegex: method }), headers: [], headerMatches: [] }] } satisfies L7 })), weight: 1 }, // prettier-ignore
  { arbitrary: some(['a.com', 'b.org']).filter((list) => list.length > 0).map((serverNames) => ({ serverNames })), weight: 1 }, // prettier-ignore
)
const standing = fc.oneof(
  { arbitrary: fc.record({ tier: fc.constant(Tier.Normal), priority: fc.constant(0), kind: pick('allow' as const, 'allow' as const, 'allow' as const, 'deny' as const) }), weight: 3 }, // prettier-ignore
  { arbitrary: fc.record({ tier: pick(Tier.Admin, Tier.Baseline), priority: pick(1, 1.01, 2), kind: pick('allow' as const, 'deny' as const, 'pass' as const) }), weight: 2 }, // prettier-ignore
)
const rule: Arbitrary<Rule> = fc.tuple(standing, pick('ingress' as const, 'egress' as const)).chain(([{ tier, priority, kind }, direction]) => fc.tuple(peers(direction, kind), ports, kind === 'allow' ? above : fc.constant({})).map(([of, at, asked]) => ({ ...spot, direction, tier, priority, kind, peers: of, ports: at, ...asked }))) // prettier-ignore
export const policy: Arbitrary<Policy> = fc.record({ kind: pick(...policyKinds), subject: fc.oneof({ arbitrary: podSelector.map((of) => ({ kind: 'endpoints' as const, selector: of })), weight: 6 }, { arbitrary: few(keyed('node:zone', ['east', 'west']), 1).map((list) => ({ kind: 'node' as const, selector: list.flat() })), weight: 1 }), rules: few(rule, 4), selects: some(['ingress', 'egress'] as const), ingress: fc.boolean(), egress: fc.boolean() }).map(({ kind, subject, rules, selects, ingress, egress }) => {
  const directions = (['ingress', 'egress'] as const).filter((each) => selects.includes(each) || rules.some((other) => other.direction === each))
  return { kind, name: 'a/p', namespace: 'a', file: 'p.yaml', line: 1, subject, rules, directions, defaultDeny: { ingress: ingress && directions.includes('ingress'), egress: egress && directions.includes('egress') } }
}) // prettier-ignore

export const world: Arbitrary<World> = fc.record({ namespaces: teams, pods, nodes, services, endpointSlices: slices, cidrGroups: groups, policies: few(policy, 5, 1) }) // prettier-ignore

export const switches: Arbitrary<Switches> = fc.record({ semantics: pick('spec' as const, 'cilium' as const), clusterName: fc.constant('default'), localNode: maybe(pick('n1', 'n2')), hostAddresses: some(['10.1.0.1', '10.1.0.9']), enforcement: pick('default' as const, 'default' as const, 'default' as const, 'always' as const, 'never' as const), allowLocalhost: pick(true, true, false), audit: pick(false, false, false, true), hostPolicies: fc.boolean() }) // prettier-ignore

/** A flow in terms that hold for any world: pods by their place in the list. */
interface Draft extends Omit<Question, 'from' | 'to'> {
  readonly from: number | string
  readonly to: number | string
}
const l4 = fc.oneof(
  { arbitrary: fc.record({ protocol: pick(6, 6, 6, 17, 132), port: pick(1, 52, 53, 54, 80, 81, 90, 443, 453, 843) }), weight: 6 }, // prettier-ignore
  { arbitrary: fc.record({ protocol: pick(1, 58), icmpType: pick(0, 8, 128) }), weight: 1 },
  { arbitrary: fc.record({ protocol: pick(47, 50, 6) }), weight: 1 },
)
const seen = fc.oneof({ arbitrary: fc.constant({}), weight: 3 }, { arbitrary: fc.record({ method: pick('GET', 'PUT') }), weight: 1 }, { arbitrary: fc.record({ sni: pick('a.com', 'c.net') }), weight: 1 }) // prettier-ignore
const end = fc.oneof({ arbitrary: fc.nat(5), weight: 3 }, { arbitrary: pick(...everyAddress, '10.1.0.9'), weight: 2 })
export const draft: Arbitrary<Draft> = fc.tuple(end, end, l4, seen, fc.oneof(fc.constant([]), some(names))).map(([from, to, at, known, of]) => ({ from, to, ...at, ...known, names: of })) // prettier-ignore

/** The flow in one world. A pod without an address is known by its labels. */
export function questionIn({ pods: list }: Pick<World, 'pods'>, { from, to, ...rest }: Draft): Question {
  const endOf = (of: number | string): End => {
    if (typeof of === 'string') return { address: of }
    const found = list[of % list.length]
    if (found === undefined) throw new Error('a world without pods')
    return { pod: found, address: found.addresses[0] }
  }
  return { ...rest, from: endOf(from), to: endOf(to) }
}
