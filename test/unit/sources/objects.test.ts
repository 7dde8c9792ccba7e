// What is read of the objects that policies are about, and what is wrong with them; which objects are left out, and how that is said.
import { expect, test } from 'vitest'
import { issueToText } from '../../../src/policy/field.ts'
import type { World } from '../../../src/policy/rules.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

const load = (text: string): { readonly world: Partial<World>; readonly issues: readonly string[] } => {
  const loaded = loadWorld([{ path: 'p', text }])
  const issues = (loaded.ok ? loaded.warnings : loaded.issues).map(issueToText)
  return { world: loaded.ok ? loaded.world : {}, issues }
}
/** An object whose further fields begin on line 4. */
const object = (apiVersion: string, kind: string, rest = '', metadata = '{name: a}'): string =>
  `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: ${metadata}\n${rest}\n`

const pod = (rest: string, metadata?: string): string => object('v1', 'Pod', rest, metadata)
const template = `{metadata: {labels: {app: web}}, spec: {serviceAccountName: sa, hostNetwork: true, containers: [{ports: [{name: http, containerPort: 80}]}]}}`
const ofTemplate = { namespace: 'default', name: 'a', labels: new Map([['app', 'web']]), serviceAccount: 'sa', addresses: [], hostNetwork: true, ports: [{ name: 'http', protocol: 6, port: 80 }], containerPorts: [{ protocol: 6, port: 80 }], file: 'p', line: 1, path: '' } // prettier-ignore

const read: readonly { title: string; text: string; world: Partial<Record<keyof World, unknown>>; issues?: readonly string[] }[] = [
  { title: 'a bare pod', text: pod(''), world: { pods: [{ kind: 'Pod', namespace: 'default', name: 'a', labels: new Map(), addresses: [], hostNetwork: false, ports: [], containerPorts: [], file: 'p', line: 1, path: '' }] } },
  { title: 'a pod with all of it', text: pod('spec: {serviceAccountName: sa, nodeName: n, hostNetwork: true}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}', '{name: a, namespace: shop, labels: {app: web}}'), world: { pods: [{ namespace: 'shop', labels: new Map([['app', 'web']]), serviceAccount: 'sa', node: 'n', hostNetwork: true, addresses: ['10.0.0.1', 'fd00::1'] }] } },
  { title: 'the old name of serviceAccountName', text: pod('spec: {serviceAccount: sa}'), world: { pods: [{ serviceAccount: 'sa' }] } },
  { title: 'podIP alone', text: pod('status: {podIP: 10.0.0.1}'), world: { pods: [{ addresses: ['10.0.0.1'] }] } },
  { title: 'a pod that waits for its address', text: pod('status: {podIP: "", phase: Pending}'), world: { pods: [{ addresses: [] }] } },
  { title: 'a pod that has ended', text: pod('status: {podIP: 10.0.0.1, phase: Succeeded}'), world: { pods: [{ addresses: [] }] } },
  { title: 'ports of containers and of sidecars, not of init containers', text: pod('spec: {containers: [{ports: [{name: http, containerPort: 80}, {containerPort: 53, protocol: UDP}]}, {}], initContainers: [{ports: [{name: no, containerPort: 1}]}, {restartPolicy: Always, ports: [{name: s, containerPort: 9, protocol: SCTP}]}]}'), world: { pods: [{ ports: [{ name: 'http', protocol: 6, port: 80 }, { name: 's', protocol: 132, port: 9 }], containerPorts: [{ protocol: 6, port: 80 }, { protocol: 17, port: 53 }, { protocol: 132, port: 9 }] }] } },
  ...[['apps/v1', 'Deployment'], ['apps/v1', 'StatefulSet'], ['apps/v1', 'DaemonSet'], ['apps/v1', 'ReplicaSet'], ['v1', 'ReplicationController'], ['batch/v1', 'Job']].map(([version = '', kind = '']) => (
    { title: kind, text: object(version, kind, `spec: {template: ${template}}`), world: { pods: [{ kind, ...ofTemplate }] } })),
  { title: 'CronJob', text: object('batch/v1', 'CronJob', `spec: {jobTemplate: {spec: {template: ${template}}}}`), world: { pods: [{ kind: 'CronJob', ...ofTemplate }] } },
  { title: 'a namespace', text: object('v1', 'Namespace', '', '{name: a, labels: {team: x}}'), world: { namespaces: new Map([['a', new Map([['team', 'x']])]]) } },
  { title: 'a node', text: object('v1', 'Node', 'status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: "fd00::1"}, {type: Hostname, address: n1}, {type: InternalDNS, address: n1.x}]}', '{name: n1, labels: {pool: x}}'), world: { nodes: [{ name: 'n1', labels: new Map([['pool', 'x']]), addresses: ['10.0.0.1', 'fd00::1'] }] } },
  { title: 'a service', text: object('v1', 'Service', 'spec: {selector: {app: web}, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd01::1"], ports: [{port: 80}, {name: h, port: 81, targetPort: http, protocol: UDP}, {port: 82, targetPort: 8082}]}', '{name: a, labels: {l: m}}'), world: { services: [{ namespace: 'default', name: 'a', labels: new Map([['l', 'm']]), selector: new Map([['app', 'web']]), clusterIPs: ['10.96.0.1', 'fd01::1'], file: 'p', line: 1, path: '', ports: [{ name: undefined, protocol: 6, port: 80, targetPort: 80 }, { name: 'h', protocol: 17, port: 81, targetPort: 'http' }, { name: undefined, protocol: 6, port: 82, targetPort: 8082 }] }] } },
  { title: 'a headless service without a selector', text: object('v1', 'Service', 'spec: {clusterIP: None}'), world: { services: [{ selector: undefined, clusterIPs: [], ports: [] }] } },
  { title: 'an ExternalName', text: object('v1', 'Service', 'spec: {type: ExternalName, externalName: x.example}'), world: { services: [] }, issues: ['p:1:1: note: Service default/a is an ExternalName: a name in DNS, not backends'] },
  { title: 'an endpoint slice', text: object('discovery.k8s.io/v1', 'EndpointSlice', 'addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: true}}, {addresses: [10.0.0.3], conditions: {ready: false}}, {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}]', '{name: a-1, namespace: shop, labels: {kubernetes.io/service-name: a}}'), world: { endpointSlices: [{ namespace: 'shop', service: 'a', addresses: ['10.0.0.1', '10.0.0.2', '10.0.0.4'] }] } },
  { title: 'an endpoint slice of names', text: object('discovery.k8s.io/v1', 'EndpointSlice', 'addressType: FQDN\nendpoints: [{addresses: [x.example]}]', '{name: a-1, labels: {kubernetes.io/service-name: a}}'), world: { endpointSlices: [] } },
  { title: 'an endpoint slice of no service', text: object('discovery.k8s.io/v1', 'EndpointSlice', 'endpoints: []'), world: { endpointSlices: [] }, issues: ['p:1:1: note: EndpointSlice default/a belongs to no service: it has no label kubernetes.io/service-name'] },
  { title: 'endpoints', text: object('v1', 'Endpoints', 'subsets: [{addresses: [{ip: 10.0.0.1}], notReadyAddresses: [{ip: 10.0.0.2}]}, {addresses: [{ip: 10.0.0.3}]}]', '{name: kubernetes}'), world: { endpointSlices: [{ namespace: 'default', service: 'kubernetes', addresses: ['10.0.0.1', '10.0.0.3'] }] } },
  ...['v2', 'v2alpha1'].map((version) => (
    { title: `CiliumCIDRGroup ${version}`, text: object(`cilium.io/${version}`, 'CiliumCIDRGroup', 'spec: {externalCIDRs: [10.0.0.0/8]}', '{name: g, labels: {a: b}}'), world: { cidrGroups: [{ name: 'g', labels: new Map([['a', 'b']]), ranges: [{ family: 4 }] }] } })),
  { title: 'a cluster-wide policy that names a namespace', text: object('cilium.io/v2', 'CiliumClusterwideNetworkPolicy', 'spec: {endpointSelector: {}, ingress: [{}]}', '{name: a, namespace: shop}'), world: { policies: [{ name: 'a', namespace: undefined }] }, issues: ['p:3:21: warning: metadata.namespace: a CiliumClusterwideNetworkPolicy has no namespace: it holds in all of them, not in "shop" alone'] },
  { title: 'an empty namespace is none', text: object('networking.k8s.io/v1', 'NetworkPolicy', 'spec: {podSelector: {}}', '{name: a, namespace: ""}'), world: { policies: [{ name: 'default/a' }] } },
  { title: 'a list of anything', text: `apiVersion: v1\nkind: List\nitems:\n- ${pod('').replaceAll('\n', '\n  ')}`, world: { pods: [{ name: 'a', line: 4, path: 'items[0]' }] } },
  { title: 'a list of one kind, whose items do not say it', text: 'apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}', world: { pods: [{ kind: 'Pod', name: 'a' }] } },
  { title: 'a list of policies', text: 'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- {metadata: {name: a}, spec: {podSelector: {}}}', world: { policies: [{ name: 'default/a' }] } },
  { title: 'a name that the cluster completes, twice', text: `${pod('', '{generateName: a-}')}---\n${pod('', '{generateName: a-}')}`, world: { pods: [{ name: 'a-' }, { name: 'a-' }] } },
  { title: 'the same name in two namespaces and kinds', text: [pod(''), pod('', '{name: a, namespace: b}'), object('v1', 'Service'), object('v1', 'Namespace')].join('---\n'), world: { pods: [{ namespace: 'default' }, { namespace: 'b' }] } },
] // prettier-ignore

for (const { title, text, world, issues = [] } of read)
  test(title, () => {
    const loaded = load(text)
    expect(loaded.issues).toEqual(issues)
    for (const [key, value] of Object.entries(world)) {
      const found = loaded.world[key as keyof World]
      // Maps are compared whole, records by the fields that the row names.
      if (value instanceof Map) expect(found).toEqual(value)
      else {
        expect(found).toHaveLength((value as unknown[]).length)
        expect(found).toMatchObject(value as object)
      }
    }
  })

const unread: readonly { apiVersion: string; kind: string; says: string }[] = [
  { apiVersion: 'v1', kind: 'ConfigMap', says: 'note: v1 ConfigMap is not read here' },
  { apiVersion: 'v1', kind: 'ServiceAccount', says: 'note: v1 ServiceAccount is not read here' },
  { apiVersion: 'rbac.authorization.k8s.io/v1', kind: 'Role', says: 'note: rbac.authorization.k8s.io/v1 Role is not read here' },
  { apiVersion: 'kustomize.config.k8s.io/v1beta1', kind: 'Kustomization', says: 'note: kustomize.config.k8s.io/v1beta1 Kustomization is not read here' },
  { apiVersion: 'cilium.io/v2', kind: 'CiliumEndpoint', says: 'note: cilium.io/v2 CiliumEndpoint is not read here' },
  { apiVersion: 'cilium.io/v2', kind: 'CiliumLocalRedirectPolicy', says: 'note: cilium.io/v2 CiliumLocalRedirectPolicy is not read here' },
  { apiVersion: 'serving.knative.dev/v1', kind: 'Service', says: 'note: serving.knative.dev/v1 Service is not read here' },
  { apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolcy', says: 'warning: cilium.io/v2 CiliumNetworkPolcy is not read here; did you mean CiliumNetworkPolicy?' },
  { apiVersion: 'cilium.io/v1', kind: 'CiliumNetworkPolicy', says: 'warning: cilium.io/v1 CiliumNetworkPolicy is not read here; CiliumNetworkPolicy is cilium.io/v2' },
  { apiVersion: 'extensions/v1beta1', kind: 'NetworkPolicy', says: 'warning: extensions/v1beta1 NetworkPolicy is not read here; NetworkPolicy is networking.k8s.io/v1' },
  { apiVersion: 'v1', kind: 'Deployment', says: 'note: v1 Deployment is not read here' },
  { apiVersion: 'apps/v1beta1', kind: 'Deployment', says: 'warning: apps/v1beta1 Deployment is not read here; Deployment is apps/v1' },
  { apiVersion: 'batch/v2', kind: 'CronJob', says: 'warning: batch/v2 CronJob is not read here; CronJob is batch/v1 or batch/v1beta1' },
  { apiVersion: 'v1', kind: 'ConfigMapList', says: 'note: v1 ConfigMapList is not read here' },
] // prettier-ignore

for (const { apiVersion, kind, says } of unread)
  test(`${apiVersion} ${kind}`, () => expect(load(object(apiVersion, kind, '')).issues).toEqual([`p:1:1: ${says}`]))

const refused: readonly { text: string; says: readonly string[] }[] = [
  { text: pod('spec: []'), says: ['p:4:1: spec: must be a mapping, not a list'] },
  { text: pod('spec: {hostNetwork: "yes", nodeName: 1}'), says: ['p:4:28: spec.nodeName: must be a string (in quotes: "1"), not a number', 'p:4:8: spec.hostNetwork: must be a boolean, not a string'] },
  { text: pod('spec: {containers: [{ports: [{containerPort: 0}, {containerPort: "80"}, {name: a}, {containerPort: 1, protocol: ICMP}]}]}'), says: ['p:4:31: spec.containers[0].ports[0].containerPort: must be between 1 and 65535, inclusive, not 0', 'p:4:51: spec.containers[0].ports[1].containerPort: must be an integer, not a string', 'p:4:73: spec.containers[0].ports[2]: must have containerPort', 'p:4:103: spec.containers[0].ports[3].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"'] },
  { text: pod('status: {podIPs: [{ip: 10.0.0.256}]}'), says: ['p:4:20: status.podIPs[0].ip: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), not "10.0.0.256"'] },
  { text: pod('', '{name: a, labels: {n: 1}}'), says: ['p:3:30: metadata.labels.n: must be a string (in quotes: "1"), not a number'] },
  { text: pod('', '[]'), says: ['p:3:1: metadata: must be a mapping, not a list', 'p:3:1: metadata: metadata.name: must have name'] },
  { text: pod('', '{name: ""}'), says: ['p:3:1: metadata: metadata.name: must have name'] },
  { text: object('apps/v1', 'Deployment', 'spec: {replicas: 1}'), says: ['p:4:1: spec: Deployment must have a pod template'] },
  { text: object('batch/v1', 'CronJob', `spec: {template: ${template}}`), says: ['p:4:1: spec: CronJob must have a pod template'] },
  { text: object('v1', 'Service', 'spec: {clusterIP: x, ports: [{targetPort: 0, port: 1}, {port: 70000}, {}], selector: []}'), says: ['p:4:76: spec.selector: must be a mapping, not a list', 'p:4:8: spec.clusterIP: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), not "x"', 'p:4:31: spec.ports[0].targetPort: must be between 1 and 65535, inclusive, not 0', 'p:4:57: spec.ports[1].port: must be between 1 and 65535, inclusive, not 70000'] },
  { text: object('v1', 'Node', 'status: {addresses: [{type: InternalIP, address: n1}]}'), says: ['p:4:41: status.addresses[0].address: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), not "n1"'] },
  { text: object('cilium.io/v2', 'CiliumCIDRGroup', ''), says: ['p:1:1: spec must be provided'] },
  { text: object('cilium.io/v2', 'CiliumCIDRGroup', 'spec: {externalCIDR: [10.0.0.0/8]}'), says: ['p:4:8: spec.externalCIDR: unknown field "externalCIDR"; did you mean "externalCIDRs"?', 'p:4:1: spec: externalCIDRs: Required value'] },
  { text: 'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nItems:\n- {metadata: {name: a}, spec: {podSelector: {}}}', says: ['p:3:1: Items: unknown field "Items"; did you mean "items"?'] },
  { text: object('networking.k8s.io/v1', 'NetworkPolicy', 'spec: {podSelector: {}}', '{name: a, namespace: My_shop}'), says: [`p:3:21: metadata.namespace: Invalid value: "My_shop": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`] },
  { text: object('networking.k8s.io/v1', 'NetworkPolicy', 'spec: {podSelector: {}}', '{name: a, namespace: 5}'), says: ['p:3:21: metadata.namespace: must be a string (in quotes: "5"), not a number'] },
  { text: `${object('cilium.io/v2', 'CiliumCIDRGroup', 'spec: {externalCIDRs: []}')}---\n${object('cilium.io/v2alpha1', 'CiliumCIDRGroup', 'spec: {externalCIDRs: []}')}`, says: ['p:6:1: CiliumCIDRGroup a is there twice; the other is at p:1'] },
] // prettier-ignore

for (const { text, says } of refused) test(says.join('; ').slice(0, 160), () => expect(load(text).issues).toEqual(says))
