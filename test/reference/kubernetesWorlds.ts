// Random clusters with Kubernetes' own policies, as manifests; small alphabets, so that rules meet.
import fc from 'fast-check'
import type { Cluster, ClusterNetworkPolicy, ClusterPeer, ClusterProtocol, ClusterRule, End, Flow, LabelSelector, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, Pod } from './kubernetes.ts' // prettier-ignore

type Arbitrary<T> = fc.Arbitrary<T>
const optional = { requiredKeys: [] as never[] }
const few = <T>(item: Arbitrary<T>, maxLength: number, minLength = 0): Arbitrary<T[]> => fc.array(item, { minLength, maxLength }) // prettier-ignore

const namespaceName = fc.constantFrom('red', 'green', 'blue')
const keys = { pod: ['app', 'pod-template-hash'], namespace: ['team', 'kubernetes.io/metadata.name'] } as const
const value = fc.constantFrom('x', 'y', 'red')
const labelsOf = (names: readonly string[]): Arbitrary<Record<string, string>> => fc.dictionary(fc.constantFrom(...names), value, { maxKeys: 2, noNullPrototype: true }) // prettier-ignore

function selectorOf(names: readonly string[]): Arbitrary<LabelSelector> {
  const key = fc.constantFrom(...names)
  const expression = fc.oneof(
    fc.record({ key, operator: fc.constantFrom('In' as const, 'NotIn' as const), values: few(value, 2, 1) }),
    fc.record({ key, operator: fc.constantFrom('Exists' as const, 'DoesNotExist' as const) }),
  )
  return fc.record({ matchLabels: labelsOf(names), matchExpressions: few(expression, 1) }, optional)
}
const podSelector = selectorOf(keys.pod)
const namespaceSelector = selectorOf(keys.namespace)

const cidr = fc.constantFrom('0.0.0.0/0', '10.0.0.0/8', '10.0.0.0/29', '10.0.0.2/32', '192.0.2.0/24', '192.0.2.1/32')
const ipBlock = fc.oneof(
  fc.record({ cidr }),
  fc.constant({ cidr: '10.0.0.0/8', except: ['10.0.0.0/30'] }),
  fc.constant({ cidr: '0.0.0.0/0', except: ['10.0.0.0/8', '192.0.2.1/32'] }),
)
const peer: Arbitrary<NetworkPolicyPeer> = fc.oneof(
  fc.record({ podSelector }),
  fc.record({ namespaceSelector }),
  fc.record({ podSelector, namespaceSelector }),
  fc.record({ ipBlock }),
)

export const portNumbers: readonly number[] = [53, 80, 81, 8080]
const number = fc.constantFrom(...portNumbers)
const portName = fc.constantFrom('http', 'dns')
const protocol = fc.constantFrom('TCP' as const, 'UDP' as const)
const port = fc.oneof(
  fc.record({ protocol, port: fc.oneof(number, portName) }, optional),
  fc.record({ protocol, port: fc.constant(53), endPort: number }, { requiredKeys: ['port', 'endPort'] }),
)
const rule = (peers: 'from' | 'to'): Arbitrary<NetworkPolicyRule> => fc.record({ [peers]: few(peer, 2), ports: few(port, 2) }, optional) // prettier-ignore

const networkPolicy: Arbitrary<NetworkPolicy> = fc.record({
  metadata: fc.record({ name: fc.constant(''), namespace: namespaceName }),
  spec: fc.record(
    {
      podSelector,
      policyTypes: fc.subarray(['Ingress' as const, 'Egress' as const], { minLength: 1 }),
      ingress: few(rule('from'), 2),
      egress: few(rule('to'), 2),
    },
    { requiredKeys: ['podSelector'] },
  ),
})

const podsPeer: Arbitrary<ClusterPeer> = fc.oneof(
  fc.record({ namespaces: namespaceSelector }),
  fc.record({ pods: fc.record({ namespaceSelector, podSelector }) }),
)
const networksPeer: Arbitrary<ClusterPeer> = fc.record({ networks: fc.uniqueArray(cidr, { minLength: 1, maxLength: 2 }) }) // prettier-ignore
const destinationPort = fc.oneof(
  fc.record({ number }),
  fc.constantFrom({ range: { start: 80, end: 81 } }, { range: { start: 1, end: 65535 } }),
)
const transport: Arbitrary<ClusterProtocol> = fc.oneof(
  fc.record({ tcp: fc.record({ destinationPort }, optional) }),
  fc.record({ udp: fc.record({ destinationPort }, optional) }),
)
const action = fc.constantFrom('Accept' as const, 'Deny' as const, 'Pass' as const)
const protocolsOf = (items: Arbitrary<ClusterProtocol>): Arbitrary<ClusterProtocol[] | undefined> => fc.option(few(items, 2, 1), { nil: undefined }) // prettier-ignore
const named: Arbitrary<ClusterProtocol> = fc.record({ destinationNamedPort: portName })

/** A rule with networks has no named ports. */
const clusterRule = (direction: 'from' | 'to'): Arbitrary<ClusterRule> =>
  fc
    .record({
      action,
      about: fc.oneof(
        fc.record({ peers: few(podsPeer, 2, 1), protocols: protocolsOf(fc.oneof(transport, named)) }),
        ...(direction === 'from' ? [] : [fc.record({ peers: few(fc.oneof(podsPeer, networksPeer), 2, 1), protocols: protocolsOf(transport) })]),
      ),
    })
    .map(({ action: word, about: { peers, protocols } }) => ({
      action: word,
      ...(direction === 'from' ? { from: peers } : { to: peers }),
      ...(protocols === undefined ? {} : { protocols }),
    })) // prettier-ignore

const clusterPolicy: Arbitrary<ClusterNetworkPolicy> = fc.record({
  metadata: fc.record({ name: fc.constant('') }),
  spec: fc.record(
    {
      tier: fc.constantFrom('Admin' as const, 'Baseline' as const),
      priority: fc.constant(0),
      subject: podsPeer,
      ingress: few(clusterRule('from'), 3),
      egress: few(clusterRule('to'), 3),
    },
    { requiredKeys: ['tier', 'priority', 'subject'] },
  ),
})

const containerPort = fc.oneof(
  fc.record({ name: fc.constant('http'), containerPort: fc.constantFrom(80, 8080), protocol: fc.constant('TCP' as const) }), // prettier-ignore
  fc.record({ name: fc.constant('dns'), containerPort: fc.constant(53), protocol }),
)
const pods: Arbitrary<Pod[]> = few(
  fc.record({ namespace: namespaceName, labels: labelsOf(keys.pod), ports: few(containerPort, 2) }),
  6,
  2,
).map((list) => list.map((pod, i) => ({ ...pod, name: `p${i}`, ip: `10.0.0.${i + 1}` })))

/** Names and priorities are each once: among equal priorities the order is nobody's. `blue` is never declared. */
export const cluster: Arbitrary<Cluster> = fc
  .record({
    namespaces: fc.record({ red: labelsOf(['team']), green: labelsOf(['team']) }, optional),
    pods,
    networkPolicies: few(networkPolicy, 4),
    clusterPolicies: few(clusterPolicy, 4),
  })
  .map(({ networkPolicies, clusterPolicies, ...rest }) => ({
    ...rest,
    networkPolicies: networkPolicies.map((policy, i) => ({ ...policy, metadata: { ...policy.metadata, name: `np${i}` } })), // prettier-ignore
    clusterPolicies: clusterPolicies.map(({ spec }, i) => ({ metadata: { name: `cnp${i}` }, spec: { ...spec, priority: (i * 7) % 5 } })), // prettier-ignore
  }))

/** Every flow between two different ends, one of them a pod, on every port. */
export function flowsOf({ pods: all }: Cluster): Flow[] {
  const ends: End[] = [...all, { ip: '192.0.2.1' }, { ip: '192.0.2.9' }, { ip: '10.9.9.9' }]
  const pairs = ends.flatMap((from) => ends.map((to) => ({ from, to })))
  return pairs
    .filter(({ from, to }) => from !== to && ('name' in from || 'name' in to))
    .flatMap((pair) => [
      ...portNumbers.flatMap((port) => (['TCP', 'UDP'] as const).map((one): Flow => ({ ...pair, protocol: one, port }))), // prettier-ignore
      { ...pair, protocol: 'ICMP', port: 0 },
    ])
}
