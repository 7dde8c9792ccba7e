// Whatever NetworkPolicies and ClusterNetworkPolicies say: the verdict is that of a literal reading of the manifests.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import { issueToText } from '../../../src/policy/field.ts'
import { makeDecider, type Party } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { allows, type Cluster, type ClusterNetworkPolicy, type End } from '../../reference/kubernetes.ts'
import { cluster, flowsOf } from '../../reference/kubernetesWorlds.ts'

/** The same policy in the words of v1alpha1; Baseline ones have no priority and a fixed name. */
function elderOf({ metadata, spec }: ClusterNetworkPolicy): object {
  const { tier, priority, subject, ...directions } = spec
  const rules = (list: ClusterNetworkPolicy['spec']['ingress']): object[] | undefined =>
    list?.map(({ action, protocols, ...peers }) => ({
      ...peers,
      action: action === 'Accept' ? 'Allow' : action,
      ...(protocols === undefined ? {} : { ports: protocols.flatMap(portsOf) }),
    }))
  return {
    apiVersion: 'policy.networking.k8s.io/v1alpha1',
    kind: tier === 'Admin' ? 'AdminNetworkPolicy' : 'BaselineAdminNetworkPolicy',
    metadata: tier === 'Admin' ? metadata : { name: 'default' },
    spec: {
      ...(tier === 'Admin' ? { priority } : {}),
      subject,
      ingress: rules(directions.ingress),
      egress: rules(directions.egress),
    },
  }
}

function portsOf(one: NonNullable<NonNullable<ClusterNetworkPolicy['spec']['ingress']>[number]['protocols']>[number]): object[] {
  if (one.destinationNamedPort !== undefined) return [{ namedPort: one.destinationNamedPort }]
  const protocol = one.tcp === undefined ? 'UDP' : 'TCP'
  const port = (one.tcp ?? one.udp)?.destinationPort
  if (port === undefined) return [{ portRange: { protocol, start: 1, end: 65535 } }]
  return 'number' in port ? [{ portNumber: { protocol, port: port.number } }] : [{ portRange: { protocol, ...port.range } }]
} // prettier-ignore

/** Whether v1alpha1 has a word for it: one Baseline policy at most, and that does not pass. */
function isElder({ tier, ingress = [], egress = [] }: ClusterNetworkPolicy['spec'], others: number): boolean {
  return tier === 'Admin' || (others === 1 && [...ingress, ...egress].every(({ action }) => action !== 'Pass'))
}

function manifestsOf({ namespaces, pods, networkPolicies, clusterPolicies }: Cluster, withElders: boolean): object[] {
  const baselines = clusterPolicies.filter(({ spec }) => spec.tier === 'Baseline').length
  return [
    ...Object.entries(namespaces).map(([name, labels]) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })), // prettier-ignore
    ...pods.map(({ name, namespace, labels, ip, ports }) => ({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace, labels },
      spec: { containers: [{ name: 'c', ports }] },
      status: { podIP: ip },
    })),
    ...networkPolicies.map((policy) => ({ apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', ...policy })),
    ...clusterPolicies.map((policy) =>
      withElders && isElder(policy.spec, baselines)
        ? elderOf(policy)
        : { apiVersion: 'policy.networking.k8s.io/v1alpha2', kind: 'ClusterNetworkPolicy', ...policy },
    ),
  ]
}

const party = ({ ip }: End): Party => ({ kind: 'address', address: addressFromText(ip) as Address })
const numberOf = { TCP: 6, UDP: 17, ICMP: 1 } as const

for (const withElders of [false, true])
  test(`random clusters${withElders ? ', in the words of v1alpha1' : ''}`, () => {
    let cases = 0
    fc.assert(
      fc.property(cluster, (one) => {
        const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: manifestsOf(one, withElders) })
        const loaded = loadWorld([{ path: 'p.json', text }])
        if (!loaded.ok) throw new Error(loaded.issues.map(issueToText).join('\n'))
        const decide = makeDecider(makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world)) // prettier-ignore
        for (const flow of flowsOf(one)) {
          const decision = decide({ from: party(flow.from), to: party(flow.to), protocol: numberOf[flow.protocol], ...(flow.protocol === 'ICMP' ? { icmpType: 8 } : { port: flow.port }) }) // prettier-ignore
          for (const direction of ['egress', 'ingress'] as const) {
            cases++
            const want = allows(one, flow, direction) ? 'allowed' : 'denied'
            if (decision[direction].verdict !== want)
              expect({ flow, direction, verdict: decision[direction] }).toEqual({ flow, direction, verdict: want })
          }
        }
      }),
      { numRuns: 150 },
    )
    expect(cases).toBeGreaterThan(50_000)
  })
