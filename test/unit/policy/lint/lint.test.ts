// Every authoring mistake that the linter knows: a manifest that has it, one that has it not, and the patch that makes the one into the other.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { makeReport } from '../../../../src/policy/field.ts'
import { codes, type Code, type Finding, type Severity } from '../../../../src/policy/lint/codes.ts'
import { lint } from '../../../../src/policy/lint/lint.ts'
import { applyEdits, editsOf } from '../../../../src/policy/lint/patch.ts'
import type { ParseOptions } from '../../../../src/policy/rules.ts'
import { readDocuments } from '../../../../src/sources/documents.ts'
import { defaultParseOptions, loadWorld } from '../../../../src/sources/manifests.ts'

function lintText(text: string, options: Partial<ParseOptions> = {}): readonly Finding[] {
  const files = [{ path: 'a.yaml', text }]
  const loaded = loadWorld(files, options)
  return lint({
    world: loaded.ok ? loaded.world : undefined,
    issues: loaded.ok ? loaded.warnings : loaded.issues,
    documents: files.flatMap((file) => readDocuments(makeReport(), file)),
    texts: new Map(files.map((file) => [file.path, file.text])),
    options: { ...defaultParseOptions, ...options },
  })
}

const of = (findings: readonly Finding[], code: Code): readonly Finding[] => findings.filter((finding) => finding.code === code) // prettier-ignore
const serious = (findings: readonly Finding[]): readonly Finding[] => findings.filter(({ severity }) => severity !== 'note') // prettier-ignore

/** A policy; `spec` is block YAML that begins a line with two blanks. */
const object = (kind: string, spec: string, name = 'p', more = ''): string => {
  const versions: Readonly<Record<string, string>> = { NetworkPolicy: 'networking.k8s.io/v1', ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2', AdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1' } // prettier-ignore
  const namespaced = kind === 'NetworkPolicy' || kind === 'CiliumNetworkPolicy'
  return `apiVersion: ${versions[kind] ?? 'cilium.io/v2'}\nkind: ${kind}\nmetadata:\n  name: ${name}\n${namespaced ? '  namespace: shop\n' : ''}${more}spec:\n${spec.replace(/^\n/, '')}`
} // prettier-ignore
const cnp = (spec: string, name?: string, more?: string): string =>
  object('CiliumNetworkPolicy', `  endpointSelector: {matchLabels: {app: web}}\n${spec.replace(/^\n/, '')}`, name, more)
const ccnp = (spec: string): string => object('CiliumClusterwideNetworkPolicy', spec)
const knp = (spec: string, name?: string): string => object('NetworkPolicy', spec, name)
const all = (...objects: readonly string[]): string => objects.map((each) => `${each.trimEnd()}\n`).join('---\n')

const pod = (name: string, more: { namespace?: string; labels?: string; ip?: string; ports?: string; spec?: string } = {}): string =>
  `apiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, namespace: ${more.namespace ?? 'shop'}, labels: {${more.labels ?? `app: ${name}`}}}\nspec: {containers: [{name: c, ports: [${more.ports ?? ''}]${more.spec ?? ''}}]}\nstatus: {podIP: ${more.ip ?? '10.1.0.9'}}\n` // prettier-ignore
const web = pod('web', { ip: '10.1.0.2', ports: '{name: http, containerPort: 8080}' })
const db = pod('db', { ip: '10.1.0.3', ports: '{name: pg, containerPort: 5432}' })
const service = (name: string, spec: string, namespace = 'shop'): string => `apiVersion: v1\nkind: Service\nmetadata: {name: ${name}, namespace: ${namespace}}\nspec: {${spec}}\n` // prettier-ignore
const webService = service('web', 'selector: {app: web}, clusterIP: 10.96.0.5, ports: [{port: 80, targetPort: 8080}]')
const node = 'apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n' // prettier-ignore
const apiServer = 'apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}\naddressType: IPv4\nendpoints: [{addresses: [192.168.0.1]}]\nports: [{port: 6443}]\n' // prettier-ignore

const kubeDns = `
  - toEndpoints:
    - matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s:k8s-app: kube-dns}
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns:`
const port = (number: number | string, protocol = 'TCP'): string => `toPorts: [{ports: [{port: "${number}", protocol: ${protocol}}]}]` // prettier-ignore

interface Row {
  readonly code: Code
  readonly title: string
  readonly severity: Severity
  /** Has the mistake. */
  readonly bad: string
  /** Has it not. */
  readonly good: string
  readonly options?: Partial<ParseOptions>
  /** 1-based. */
  readonly line: number
  readonly column: number
  readonly says: RegExp
  /** Whether there is a patch, after which nothing serious is left. */
  readonly fixed?: true
}

/** The line of the only place with this text. */
const lineOf = (text: string, part: string): number => {
  const lines = text.split('\n')
  const found = lines.flatMap((line, i) => (line.includes(part) ? [i + 1] : []))
  if (found.length !== 1) throw new Error(`${part} is on lines ${found.join(', ')}`)
  return found[0] ?? 0
}
/** A row whose place is that of a text in the bad manifest. */
const row = (code: Code, title: string, severity: Severity, bad: string, good: string, place: string, says: RegExp, more: Partial<Row> = {}): Row => {
  const line = more.line ?? lineOf(bad, place)
  return { code, title, severity, bad, good, column: (bad.split('\n')[line - 1] ?? '').indexOf(place) + 1, says, ...more, line }
} // prettier-ignore

const fqdn = (dns: string): string => cnp(`
  egress:${dns}
  - toFQDNs: [{matchName: api.example.com}]
    ${port(443)}`) // prettier-ignore

const rows: readonly Row[] = [
  row('NG001', 'a name that no DNS rule covers', 'warning', fqdn(''), fqdn(`${kubeDns} [{matchName: api.example.com}]`), '{matchName: api', /no DNS rule lets api\.example\.com be asked/, { fixed: true }),
  row('NG001', 'a DNS rule for other names', 'warning', fqdn(`${kubeDns} [{matchPattern: "*.example.org"}]`), fqdn(`${kubeDns} [{matchPattern: "*"}]`), '{matchName: api', /api\.example\.com/, { fixed: true }),
  row('NG001', 'a DNS rule for other pods', 'warning',
    all(fqdn(''), object('CiliumNetworkPolicy', `  endpointSelector: {matchLabels: {app: other}}\n  egress:${kubeDns} [{matchPattern: "*"}]`, 'q')),
    all(fqdn(''), object('CiliumNetworkPolicy', `  endpointSelector: {}\n  egress:${kubeDns} [{matchPattern: "*"}]`, 'q')), '{matchName: api', /api/, { fixed: true }),
  row('NG001', 'a DNS rule for pods other than these', 'warning',
    all(fqdn(''), object('CiliumClusterwideNetworkPolicy', `  endpointSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}\n  enableDefaultDeny: {egress: false}\n  egress:${kubeDns} [{matchPattern: "*"}]`, 'q')),
    all(fqdn(''), object('CiliumClusterwideNetworkPolicy', `  endpointSelector: {matchExpressions: [{key: k8s-app, operator: NotIn, values: [kube-dns]}, {key: io.kubernetes.pod.namespace, operator: NotIn, values: [kube-system]}]}\n  enableDefaultDeny: {egress: false}\n  egress:${kubeDns} [{matchPattern: "*"}]`, 'q')), '{matchName: api', /no DNS rule lets/, { fixed: true }),
  row('NG002', 'a CIDR over a pod', 'warning', all(web, cnp('  ingress:\n  - fromCIDR: [10.1.0.0/16]')), all(web, cnp('  ingress:\n  - fromCIDR: [10.2.0.0/16]')), '10.1.0.0/16', /10\.1\.0\.0\/16 covers pod shop\/web/),
  row('NG002', 'a Service address', 'warning', all(webService, cnp(`  egress:\n  - toCIDR: [10.96.0.5/32]`)), all(webService, cnp('  egress:\n  - toCIDR: [0.0.0.0/0]')), '10.96.0.5/32', /cluster address of Service shop\/web/),
  row('NG002', 'the node of the API server', 'warning', all(node, apiServer, cnp('  egress:\n  - toCIDR: [192.168.0.1/32]')), all(node, apiServer, cnp('  egress:\n  - toEntities: [kube-apiserver]')), '192.168.0.1/32', /node n1, where the API server is/, { fixed: true }),
  row('NG002', 'the range of the pods', 'warning', all(`${node.trimEnd()}\nspec: {podCIDR: 10.244.0.0/24}`, cnp('  ingress:\n  - fromCIDR: [10.244.0.0/16]')), all(`${node.trimEnd()}\nspec: {podCIDR: 10.244.0.0/24}`, cnp('  ingress:\n  - fromCIDR: [10.245.0.0/16]')), '10.244.0.0/16', /covers the pod addresses of node n1/),
  row('NG002', 'an ipBlock', 'warning', all(web, knp('  podSelector: {}\n  ingress:\n  - from: [{ipBlock: {cidr: 10.1.0.0/16}}]')), all(web, knp('  podSelector: {}\n  ingress:\n  - from: [{ipBlock: {cidr: 10.2.0.0/16}}]')), '{ipBlock', /on Cilium a CIDR is about addresses outside/),
  row('NG003', 'the port of the Service', 'warning', all(web, webService, cnp(`  ingress:\n  - ${port(80)}`)), all(web, webService, cnp(`  ingress:\n  - ${port(8080)}`)), 'port: "80"', /80 is the port of Service shop\/web; .* is 8080/, { fixed: true }),
  row('NG003', 'in a NetworkPolicy, a number', 'warning', all(web, webService, knp('  podSelector: {}\n  ingress:\n  - ports: [{port: 80}]')), all(web, webService, knp('  podSelector: {}\n  ingress:\n  - ports: [{port: 8080}]')), 'port: 80}]\n'.trim(), /80 is the port of Service/, { fixed: true }),
  row('NG003', 'towards the pods', 'warning', all(web, webService, cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: web}}]\n    ${port(80)}\n  - toPorts: [{ports: [{port: "53"}]}]`)), all(web, webService, cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: web}}]\n    ${port(8080)}\n  - toPorts: [{ports: [{port: "53"}]}]`)), 'port: "80"', /is 8080/, { fixed: true }),
  row('NG004', 'denials alone', 'warning', cnp('  egressDeny:\n  - toCIDR: [203.0.113.0/24]'), cnp('  enableDefaultDeny: {egress: false}\n  egressDeny:\n  - toCIDR: [203.0.113.0/24]'), 'egressDeny', /egressDeny alone puts its subject into default deny/, { fixed: true }),
  row('NG004', 'egress without DNS', 'warning', all(web, db, cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: db}}]\n    ${port(5432)}`)), all(web, db, cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: db}}]\n    ${port(5432)}\n  - ${port(53, 'ANY')}`)), 'egress:', /1 workload \(shop\/web\).*names cannot be looked up/),
  row('NG004', 'egress of pods that only a label outside identities tells', 'warning', all(pod('web', { labels: 'app: web, pod-template-hash: x' }), db, knp(`  podSelector: {matchLabels: {pod-template-hash: x}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{podSelector: {matchLabels: {app: db}}}]`)), all(web, db, knp(`  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{namespaceSelector: {}}]`)), 'egress:', /1 workload \(shop\/web\).*names cannot be looked up/),
  row('NG004', 'egress to pods of the own namespace, on every port', 'warning', all(web, db, knp(`  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{podSelector: {matchLabels: {app: db}}}]`)), all(web, db, knp(`  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{namespaceSelector: {}}]`)), 'egress:', /names cannot be looked up/),
  row('NG005', 'a service that is not there', 'error', all(web, cnp(`  egress:\n  - toServices: [{k8sService: {serviceName: gone, namespace: shop}}]\n    ${port(80)}`)), all(web, webService, cnp(`  egress:\n  - toServices: [{k8sService: {serviceName: web, namespace: shop}}]\n    ${port(8080)}\n  - ${port(53, 'ANY')}`)), '{k8sService', /service shop\/gone is not in these manifests; .* allows these ports to everyone/),
  row('NG005', 'an empty list', 'error', cnp(`  egress:\n  - toFQDNs: []\n    ${port(443)}`), cnp(`  egress:\n  - toEntities: [world]\n    ${port(443)}`), 'toFQDNs', /an empty list stands for every peer there/),
  row('NG005', 'toServices in a denial', 'error', all(webService, web, cnp(`  enableDefaultDeny: {egress: false}\n  egressDeny:\n  - toServices: [{k8sService: {serviceName: web, namespace: shop}}]\n    ${port(80)}`)), all(web, cnp(`  enableDefaultDeny: {egress: false}\n  egressDeny:\n  - toEndpoints: [{matchLabels: {app: web}}]\n    ${port(80)}`)), 'toServices', /denies these ports to everyone/),
  row('NG006', 'HTTP beside the port', 'warning', all(web, cnp(`  ingress:\n  - toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{path: "/a/.*"}]}}]\n  - fromEndpoints: [{matchLabels: {app: db}}]`)), all(web, cnp(`  ingress:\n  - toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{path: "/a/.*"}]}}]\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    ${port(9090)}`)), '{path', /these HTTP rules restrict nothing for some peers: the rule at line/),
  row('NG006', 'DNS beside port 53 of the same', 'warning', cnp(`  egress:${kubeDns} [{matchName: a.example.com}]\n  - toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system}}]\n    ${port(53, 'UDP')}`), cnp(`  egress:${kubeDns} [{matchName: a.example.com}]\n  - toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system}}]`), '{matchName', /these DNS rules/),
  row('NG007', '[] denies nothing', 'warning', cnp(`  ingress: []\n  egress:\n  - toEntities: [world]`), cnp(`  ingress: [{}]\n  egress:\n  - toEntities: [world]`), 'ingress: []', /as if it were not there/, { fixed: true }),
  row('NG007', '{} among others', 'warning', cnp(`  ingress:\n  - {}\n  - fromEntities: [cluster]`), cnp(`  ingress:\n  - fromEntities: [cluster]`), '{}\n'.trim(), /allows nothing here, beside the other rules/, { fixed: true }),
  row('NG007', 'nobody', 'warning', cnp(`  ingress:\n  - fromEndpoints: []`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db}}]`), 'fromEndpoints', /selects nobody/),
  row('NG007', 'toPorts without ports', 'warning', cnp(`  ingress:\n  - fromEntities: [cluster]\n    toPorts: [{ports: []}]`), cnp(`  ingress:\n  - fromEntities: [cluster]`), '{ports', /contributes nothing/),
  row('NG007', 'http: []', 'warning', cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: []}}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]`), 'http: []', /every request is allowed/),
  row('NG007', 'everyone in a NetworkPolicy', 'warning', knp('  podSelector: {}\n  ingress:\n  - from: []'), knp('  podSelector: {}\n  ingress:\n  - from: [{podSelector: {}}]'), 'from', /from: \[\] is everyone/),
  row('NG008', 'the whole cluster', 'warning', ccnp(`  endpointSelector: {}\n  ingress:\n  - fromEntities: [cluster]`), ccnp(`  endpointSelector: {matchLabels: {app: web}}\n  ingress:\n  - fromEntities: [cluster]`), 'endpointSelector', /kube-system .* and the health endpoints/, { fixed: true }),
  row('NG009', 'pods of another namespace', 'warning', all(web, pod('mon', { namespace: 'ops' }), cnp(`  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        app: mon`)), all(web, pod('mon', { namespace: 'ops' }), cnp(`  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        app: mon\n        k8s:io.kubernetes.pod.namespace: ops`)), 'matchLabels:\n'.trim(), /pods of namespace shop.*; none there has these labels; there are some in ops/, { fixed: true, line: 22 }),
  row('NG009', 'the same in flow style', 'warning', all(web, pod('mon', { namespace: 'ops' }), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: mon}}]`)), all(web, pod('mon', { namespace: 'ops' }), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}]`)), '{matchLabels: {app: mon', /there are some in ops/, { fixed: true }),
  row('NG009', 'the cluster DNS without its namespace', 'warning', cnp(`  egress:\n  - toEndpoints:\n    - matchLabels:\n        k8s-app: kube-dns\n    toPorts: [{ports: [{port: "53", protocol: ANY}]}]`), cnp(`  egress:\n  - toEndpoints:\n    - matchLabels:\n        k8s-app: kube-dns\n        io.kubernetes.pod.namespace: kube-system\n    toPorts: [{ports: [{port: "53", protocol: ANY}]}]`), 'matchLabels:\n'.trim(), /the cluster DNS is in kube-system/, { line: 10, fixed: true }),
  row('NG009', 'the cluster DNS in a NetworkPolicy', 'warning', knp(`  podSelector: {}\n  policyTypes: [Egress]\n  egress:\n  - to:\n    - podSelector: {matchLabels: {k8s-app: kube-dns}}\n    ports: [{port: 53, protocol: UDP}]`), knp(`  podSelector: {}\n  policyTypes: [Egress]\n  egress:\n  - to:\n    - namespaceSelector: {}\n      podSelector: {matchLabels: {k8s-app: kube-dns}}\n    ports: [{port: 53, protocol: UDP}]`), 'podSelector: {matchLabels: {k8s', /the cluster DNS is in kube-system/, { fixed: true }),
  row('NG009', 'pods of another namespace in a NetworkPolicy', 'warning', all(web, pod('mon', { namespace: 'ops' }), knp(`  podSelector: {}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: mon}}}]`)), all(web, pod('mon', { namespace: 'ops' }), knp(`  podSelector: {}\n  ingress:\n  - from: [{podSelector: {matchLabels: {app: web}}}]`)), '{podSelector: {matchLabels: {app: mon', /there are some in ops/, { fixed: true }),
  row('NG009', 'clusters', 'note', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}]\n  - fromEndpoints: [{matchLabels: {app: db, io.cilium.k8s.policy.cluster: east}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db, io.cilium.k8s.policy.cluster: east}}]`), '{matchLabels: {app: web}}]\n'.trim(), /of this cluster only/),
  row('NG009', 'no pods at hand', 'note', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: mon}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: mon, k8s:io.kubernetes.pod.namespace: ops}}]`), '{matchLabels: {app: mon', /pods of namespace shop, the policy's own$/),
  row('NG010', 'a star that is part of a label', 'warning', fqdnPattern('*example.com'), fqdnPattern('*.example.com'), 'matchPattern: "*example', /matches evil-example\.com/, { fixed: true }),
  row('NG010', 'the domain itself', 'note', fqdnPattern('*.example.com'), fqdnPattern('a.example.com'), 'matchPattern: "*.example', /exactly one label: a\.example\.com, not a\.b\.example\.com, nor example\.com itself/),
  row('NG011', 'a label of the kubelet', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {pod-template-hash: abc}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {version: abc}}]`), 'pod-template-hash', /leaves label "pod-template-hash" out of identities/),
 row('NG011', 'the name of a namespace as a label of pods', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {kubernetes.io/metadata.name: ops}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name: ops}}]`), 'kubernetes.io/metadata.name', /is a label of namespaces: no pod has it/, { fixed: true }),
  row('NG011', 'nodes have labels of the kubelet', 'warning', knp('  podSelector: {matchLabels: {kubernetes.io/hostname: a}}\n  ingress: [{}]'), object('ClusterNetworkPolicy', '  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  egress:\n  - action: Deny\n    to: [{nodes: {matchLabels: {kubernetes.io/hostname: a}}}]'), 'kubernetes.io/hostname', /leaves label "kubernetes.io\/hostname" out/),
  row('NG012', 'L7 without default deny', 'warning', cnp(`  enableDefaultDeny: {ingress: false}\n  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/a/.*"}]}}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/a/.*"}]}}]`), 'rules', /before Cilium 1\.18/, { options: { ciliumVersion: [1, 17] } }),
  row('NG013', 'dots in host', 'warning', http('host: api.example.com'), http('host: api\\.example\\.com'), 'host', /apixexamplexcom passes too/, { fixed: true }),
  row('NG013', 'dots in host, in quotes', 'warning', http('host: "api.example.com"'), http('host: "api\\\\.example\\\\.com"'), 'host', /apixexamplexcom/, { fixed: true }),
  row('NG013', 'a method in lower case', 'warning', http('method: get'), http('method: GET'), 'method', /matches no request/, { fixed: true }),
  row('NG013', 'a path without slash', 'warning', http('path: public'), http('path: /public/.*'), 'path', /a path begins with \//, { fixed: true }),
  row('NG013', 'a query', 'warning', http('path: "/a?b=c"'), http('path: "/a(/.*)?"'), 'path', /matches no question mark/, { fixed: true }),
  row('NG013', 'a path in full', 'note', http('path: /public'), http('path: /public/.*'), 'path', /neither \/public\?x=1/),
  row('NG013', 'no RE2', 'error', http('path: "/(?=a)"'), http('path: "/(a)"'), 'path', /pars/),
  row('NG014', 'an API server that nobody knows', 'note', cnp(`  egress:\n  - toEntities: [kube-apiserver]`), all(node, apiServer, cnp(`  egress:\n  - toEntities: [kube-apiserver]`)), 'kube-apiserver', /EndpointSlice of Service default\/kubernetes/),
  row('NG014', 'cluster DNS elsewhere than on 53', 'warning', all(service('dns-default', 'selector: {dns: default}, ports: [{port: 53, protocol: UDP, targetPort: 5353}]', 'openshift-dns'), cnp(`  egress:\n  - toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: openshift-dns}}]\n    ${port(53, 'UDP')}`)), all(service('dns-default', 'selector: {dns: default}, ports: [{port: 53, protocol: UDP, targetPort: 5353}]', 'openshift-dns'), cnp(`  egress:\n  - toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: openshift-dns}}]\n    ${port(5353, 'UDP')}`)), 'port: "53"', /listen on port 5353, not 53/, { fixed: true }),
  row('NG014', 'DNS rules for another port', 'note', cnp(`  egress:${kubeDns.replace('"53"', '"5353"')} [{matchPattern: "*"}]`), cnp(`  egress:${kubeDns} [{matchPattern: "*"}]`), 'port: "5353"', /DNS rules are for port 5353/),
  row('NG014', 'DNS on the node', 'warning', all(pod('node-local-dns', { namespace: 'kube-system', labels: 'k8s-app: node-local-dns', spec: '}], hostNetwork: true, restartPolicy: Always, initContainers: [{name: i' }), cnp(`  egress:${kubeDns} [{matchPattern: "*"}]`)), all(cnp(`  egress:${kubeDns} [{matchPattern: "*"}]`)), 'port: "53"', /answers DNS on the node/),
  row('NG015', 'entity cluster', 'note', cnp(`  ingress:\n  - fromEntities: [cluster]`), cnp(`  ingress:\n  - fromEntities: [host]`), 'cluster]', /pods of other clusters are not in it/),
  row('NG015', 'clients behind a node', 'warning', all(web, service('lb', 'type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]'), cnp(`  ingress:\n  - fromCIDR: [198.51.100.0/24]`)), all(web, service('lb', 'type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]'), cnp(`  ingress:\n  - fromCIDR: [198.51.100.0/24]`)), '198.51.100.0/24', /arrive with that node's address/),
  row('NG016', 'refused names', 'note', cnp(`  egress:${kubeDns} [{matchName: api.example.com}]`), cnp(`  egress:${kubeDns} [{matchName: api.example.com}]`, 'p', '  annotations:\n    namegate.io/dns-deny-reply: nxdomain\n'), '{matchName', /answered REFUSED/, { fixed: true }),
  row('NG017', 'a port without quotes', 'error', cnp(`  ingress:\n  - toPorts: [{ports: [{port: 80, protocol: TCP}]}]`), cnp(`  ingress:\n  - ${port(80)}`), 'port: 80', /must be a string/, { fixed: true }),
  row('NG017', 'a label that is a number, as it is written', 'error', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {version: 1.10}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {version: "1.10"}}]`), 'version', /must be a string \(in quotes: "1\.10"\)/, { fixed: true }),
  row('NG017', 'a label that is a boolean', 'error', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {on: True}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {on: "True"}}]`), 'on: True', /must be a string \(in quotes: "True"\)/, { fixed: true }),
  row('NG017', 'a label that is a boolean to kubectl', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {old: yes}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {old: "yes"}}]`), 'old: yes', /to kubectl yes without quotes is a boolean/, { fixed: true }),
  row('NG017', 'a word where a list is wanted', 'error', cnp(`  ingress:\n  - fromEntities: cluster`), cnp(`  ingress:\n  - fromEntities: [cluster]`), 'fromEntities', /must be a list, not a string/, { fixed: true }),
  row('NG017', 'a key that is there twice', 'error', cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80"}]}]\n    toPorts: [{ports: [{port: "90"}]}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80"}]}, {ports: [{port: "90"}]}]`), 'toPorts: [{ports: [{port: "90"', /unique/),
  row('NG017', 'ports beside toPorts', 'error', cnp(`  ingress:\n  - toPorts: []\n    ports: [{port: "80"}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80"}]}]`), 'ports: [{', /unknown field "ports"/),
  row('NG017', 'a range the wrong way round', 'warning', cnp(`  ingress:\n  - toPorts: [{ports: [{port: "443", endPort: 80, protocol: TCP}]}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", endPort: 443, protocol: TCP}]}]`), 'endPort', /endPort 80 is not above port 443/),
  row('NG018', 'a misspelt named port', 'error', all(web, cnp(`  ingress:\n  - ${port('htpp')}`)), all(web, cnp(`  ingress:\n  - ${port('http')}`)), 'port: "htpp"', /no pod that this is about \(shop\/web\) names a port "htpp"/, { fixed: true }),
  row('NG018', 'a word for every port', 'warning', cnp(`  ingress:\n  - ${port('any')}`), cnp(`  ingress:\n  - ${port(0)}`), 'port: "any"', /is a port of that name, not every port/, { fixed: true }),
  row('NG018', 'of the other protocol', 'error', all(web, knp('  podSelector: {}\n  ingress:\n  - ports: [{port: http, protocol: UDP}]')), all(web, knp('  podSelector: {}\n  ingress:\n  - ports: [{port: http}]')), 'port: http', /is a port of TCP/),
  row('NG018', 'in a ClusterNetworkPolicy', 'error', all(web, admin('a', 10, ['    from: [{namespaces: {}}]\n    protocols: [{destinationNamedPort: htpp}]'])), all(web, admin('a', 10, ['    from: [{namespaces: {}}]\n    protocols: [{destinationNamedPort: http}]'])), 'destinationNamedPort', /names a port "htpp"/, { fixed: true }),
  row('NG019', 'fromRequires', 'error', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    fromRequires: [{matchLabels: {team: a}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db, team: a}}]`), 'fromRequires', /removed in Cilium 1\.19/, { fixed: true }),
  row('NG019', 'Kafka', 'error', cnp(`  ingress:\n  - toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{topic: a}]}}]`), cnp(`  ingress:\n  - ${port(9092)}`), 'kafka', /removed in Cilium 1\.20/),
  row('NG020', 'an entity in capitals', 'error', cnp(`  ingress:\n  - fromEntities: [Host]`), cnp(`  ingress:\n  - fromEntities: [host]`), 'Host]', /unsupported entity: Host/, { fixed: true }),
  row('NG020', 'a reserved label written as one of yours', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {reserved: health}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {"reserved:health": ""}}]`), 'reserved: health', /"reserved:health"/, { fixed: true }),
  row('NG020', 'a reserved label that does not exist', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {"reserved:Health": ""}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {"reserved:health": ""}}]`), '"reserved:Health"', /no reserved label "Health"/, { fixed: true }),
  row('NG020', 'a source with a dot', 'warning', cnp(`  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        k8s.io.kubernetes.pod.namespace: ops\n        app: mon`), cnp(`  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        k8s:io.kubernetes.pod.namespace: ops\n        k8s.io/role: mon`), 'k8s.io', /the source of a label ends with a colon/, { fixed: true }),
  row('NG020', 'a source with a dot, in an expression', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: k8s.app, operator: Exists}]}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: "k8s:app", operator: Exists}]}]`), 'key: k8s.app', /ends with a colon/, { fixed: true }),
  row('NG020', 'a family of the world', 'warning', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {"reserved:world-ipv5": ""}}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {"reserved:world-ipv4": ""}}]`), '"reserved:world-ipv5"', /no reserved label/, { fixed: true }),
  row('NG021', 'an exception in a denial', 'warning', cnp(`  ingress:\n  - fromEntities: [world]\n  ingressDeny:\n  - fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.9/32]}]`), cnp(`  ingress:\n  - fromEntities: [world]\n  ingressDeny:\n  - fromCIDRSet: [{cidr: 203.0.113.0/24}]`), 'except', /still need a rule that allows them/),
  row('NG021', 'equal priorities', 'warning', all(admin('a', 10), admin('b', 10)), all(admin('a', 10), admin('b', 11)), 'priority: 10', /has the same priority in the same tier/, { line: 20 }),
  row('NG021', 'an allow that a denial covers', 'warning', cnp(`  ingress:\n  - fromEntities: [cluster]\n  - fromCIDR: [203.0.113.9/32]\n  ingressDeny:\n  - fromCIDR: [203.0.113.0/24]`), cnp(`  ingress:\n  - fromEntities: [cluster]\n  - fromCIDR: [203.0.114.9/32]\n  ingressDeny:\n  - fromCIDR: [203.0.113.0/24]`), 'fromCIDR: [203.0.113.9/32]', /never decides: .* denies all/, { fixed: true }),
  row('NG021', 'a name under a denied world', 'warning', cnp(`  egress:\n  - toFQDNs: [{matchName: a.example.com}]\n  - toEntities: [cluster]${kubeDns} [{matchName: a.example.com}]\n  egressDeny:\n  - toEntities: [world]`), cnp(`  egress:\n  - toFQDNs: [{matchName: a.example.com}]\n  - toEntities: [cluster]${kubeDns} [{matchName: a.example.com}]\n  egressDeny:\n  - toCIDR: [198.51.100.0/24]`), 'toFQDNs', /never decides: .* denies all/, { fixed: true }),
  row('NG021', 'behind an earlier rule of the same policy', 'warning', admin('a', 10, ['    from: [{namespaces: {}}]', '    from: [{namespaces: {matchLabels: {team: x}}}]']), admin('a', 10, ['    from: [{namespaces: {matchLabels: {team: x}}}]', '    from: [{namespaces: {}}]']), 'name: r1', /never decides: .* accepts all/, { fixed: true }),
  row('NG022', 'ports alone', 'note', cnp(`  ingress:\n  - fromEntities: [host]\n    ${port(80)}`), cnp(`  ingress:\n  - fromEntities: [host]\n    ${port(80)}\n  - icmps: [{fields: [{type: 8}]}]`), 'fromEntities', /ping and other ICMP are denied/),
  row('NG023', 'probes', 'note', all(pod('web', { ports: '{name: http, containerPort: 8080}', spec: ', livenessProbe: {httpGet: {port: http}}' }), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}]`)), all(pod('web', { ports: '{name: http, containerPort: 8080}', spec: ', livenessProbe: {httpGet: {port: http}}' }), cnp(`  ingress:\n  - fromEntities: [host]`)), 'ingress:', /probes of shop\/web come from the node/),
  row('NG023', 'a denial of the node and its probes', 'warning', all(pod('web', { ports: '{name: http, containerPort: 8080}', spec: ', livenessProbe: {httpGet: {port: http}}' }), cnp(`  ingress:\n  - fromEntities: [all]\n  ingressDeny:\n  - fromEntities: [cluster]`)), all(pod('web', { ports: '{name: http, containerPort: 8080}', spec: ', livenessProbe: {httpGet: {port: http}}' }), cnp(`  ingress:\n  - fromEntities: [all]\n  ingressDeny:\n  - fromEntities: [world]`)), 'fromEntities: [cluster]', /denies the node as well, .* the probes of shop\/web fail/),
  row('NG008', 'with an empty list of labels', 'warning', ccnp(`  endpointSelector: {matchLabels: {}}\n  ingress:\n  - fromEntities: [cluster]`), ccnp(`  endpointSelector: {matchExpressions: [{key: app, operator: Exists}]}\n  ingress:\n  - fromEntities: [cluster]`), 'endpointSelector', /kube-system/, { fixed: true }),
  row('NG023', 'a host policy', 'warning', ccnp(`  nodeSelector: {}\n  ingress:\n  - fromCIDR: [198.51.100.0/24]\n    ${port(22)}`), ccnp(`  nodeSelector: {}\n  ingress:\n  - fromEntities: [cluster]`), 'ingress:', /cuts off traffic of other nodes .*kubelet/),
  row('NG006', 'server names beside a range that has the port', 'warning', all(cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: db}}] # here\n    toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.com]}]`), cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: db}}]\n    toPorts: [{ports: [{port: "440", endPort: 450, protocol: TCP}]}]`, 'q')), all(cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: db}}]\n    toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.com]}]`), cnp(`  egress:\n  - toEndpoints: [{matchLabels: {app: db}}]\n    toPorts: [{ports: [{port: "443", protocol: TCP}]}]`, 'q')), 'toEndpoints: [{matchLabels: {app: db}}] # here', /these server name rules restrict nothing for some peers/),
  row('NG024', 'two listeners, of several peers one', 'error', all(cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    toPorts: [{ports: [{port: "80", protocol: TCP}], serverNames: [a.com]}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}, {matchLabels: {app: db}}]\n    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]`, 'q')), all(cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    toPorts: [{ports: [{port: "80", protocol: TCP}], serverNames: [a.com]}]`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: web}}]\n    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]`, 'q')), 'fromEndpoints: [{matchLabels: {app: web}}', /SNI filtering without TLS termination/),
  row('NG024', 'two protocols on one port', 'error', all(cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {kafka: [{topic: a}]}}]`, 'q')), all(cnp(`  ingress:\n  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]`), cnp(`  ingress:\n  - toPorts: [{ports: [{port: "81", protocol: TCP}], rules: {kafka: [{topic: a}]}}]`, 'q')), 'toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {kafka', /cannot merge conflicting L7 parsers \(http\/kafka\)/, { options: { ciliumVersion: [1, 17] } }),
  row('NG024', 'two ways to authenticate', 'error', cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    authentication: {mode: required}\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    authentication: {mode: disabled}`), cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {app: db}}]\n    authentication: {mode: required}\n  - fromEndpoints: [{matchLabels: {app: web}}]\n    authentication: {mode: disabled}`), 'fromEndpoints', /authentication types \(required\/disabled\)/, { line: 11 }),
] // prettier-ignore

function http(rule: string): string {
  return cnp(
    `  ingress:\n  - toPorts:\n    - ports: [{port: "80", protocol: TCP}]\n      rules:\n        http:\n        - ${rule}\n`,
  )
}

function fqdnPattern(pattern: string): string {
  return cnp(
    `  egress:\n  - toFQDNs:\n    - matchPattern: "${pattern}"\n    ${port(443)}${kubeDns} [{matchPattern: "*"}]`,
  )
}

function admin(name: string, priority: number, rules: readonly string[] = ['    from: [{namespaces: {}}]']): string {
  const items = rules.map((rule, i) => `  - name: r${i}\n    action: Accept\n${rule}\n`)
  return object('ClusterNetworkPolicy', `  tier: Admin\n  priority: ${priority}\n  subject: {namespaces: {}}\n  ingress:\n${items.join('')}`, name) // prettier-ignore
}

for (const code of new Set(rows.map((each) => each.code)))
  describe(`${code} ${codes[code].name}`, () => {
    for (const { title, severity, bad, good, options, line, column, says, fixed } of rows.filter((each) => each.code === code)) {
      test(`${title}: found, with its place`, () => {
        const found = of(lintText(bad, options), code).filter(({ message }) => says.test(message))
        expect(found.map((each) => [each.severity, each.line, each.column])).toEqual([[severity, line, column]])
      })
      test(`${title}: not found where it is not`, () => {
        expect(of(lintText(good, options), code).filter(({ message }) => says.test(message))).toEqual([])
      })
      test(`${title}: ${fixed === true ? 'the patch leaves nothing serious' : 'no patch'}`, () => {
        const [found] = of(lintText(bad, options), code).filter(({ message }) => says.test(message))
        if (fixed !== true) return expect(found?.fix).toBeUndefined()
        const mended = lintText(applyEdits(bad, found?.fix?.edits ?? []), options)
        expect(serious(mended)).toEqual([])
        expect(of(mended, code).filter(({ message }) => says.test(message))).toEqual([])
      })
    }
  }) // prettier-ignore

test('protocol ANY is spoken of where it is written', () => {
  const text = cnp(`  ingress:\n  - ${port(80)}\n  egress:\n  - ${port(53, 'ANY')}`)
  const said = of(lintText(text), 'NG022').map(({ message }) => [
    message.split(' ')[0],
    message.includes('protocol ANY'),
  ])
  expect(said).toEqual([['ingress', false], ['egress', true]]) // prettier-ignore
})

describe('what is no mistake', () => {
  const rows = [
    { title: 'reserved labels have no namespace', text: cnp(`  ingress:\n  - fromEndpoints: [{matchLabels: {"reserved:host": ""}}]\n  - fromEndpoints: [{matchExpressions: [{key: "reserved:remote-node", operator: Exists}]}]`), code: 'NG009' },
    { title: 'quoted words, and words within others', text: cnp(`  description: yes and no\n  ingress:\n  - fromEndpoints: [{matchLabels: {a: "no", b: 'on', c: none, d: yEs}}]`), code: 'NG017' },
    { title: 'a pod that has the label k8s.app', text: all(pod('web', { labels: 'app: web, k8s.app: web' }), cnp('  ingress:\n  - fromEndpoints: [{matchLabels: {k8s.app: web}}]')), code: 'NG020' },
    { title: 'a world of one family does not cover names', text: cnp('  egress:\n  - toFQDNs: [{matchName: a.example.com}]\n  egressDeny:\n  - toCIDR: [0.0.0.0/0]'), code: 'NG021' },
  ] as const // prettier-ignore
  for (const { title, text, code } of rows) test(title, () => expect(of(lintText(text), code)).toEqual([]))
})

test('what is put in ends its lines as the file does', () => {
  const text = cnp('  egressDeny:\n  - toCIDR: [203.0.113.0/24]\n').replaceAll('\n', '\r\n')
  const mended = applyEdits(text, editsOf(lintText(text).flatMap(({ fix }) => fix ?? [])))
  expect(mended).toContain('enableDefaultDeny:\r\n    egress: false\r\n')
  expect(mended.replaceAll('\r\n', '')).not.toContain('\n')
})

test('every code has a row', () => {
  const tested = new Set(rows.map(({ code }) => code))
  expect(Object.keys(codes).filter((code) => code !== 'NG000' && !tested.has(code as Code))).toEqual([])
})

describe('where policies stand', () => {
  const spec = '{endpointSelector: {matchLabels: {app: web}}, egressDeny: [{toCIDR: [203.0.113.0/24]}]}'
  const rows = [
    { title: 'specs', text: `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspecs:\n- ${spec}\n- ${spec}\n`, lines: [5, 6] },
    { title: 'a List', text: `apiVersion: v1\nkind: List\nitems:\n- {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: p}, spec: ${spec}}\n`, lines: [4] },
    { title: 'a list of the kind', text: `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicyList\nitems:\n- {metadata: {name: p}, spec: ${spec}}\n`, lines: [4] },
    { title: 'JSON', text: '{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"p"},\n"spec":{"endpointSelector":{},\n"egressDeny":[{"toCIDR":["203.0.113.0/24"]}]}}', lines: [3] },
    { title: 'the second document', text: `---\n# nothing\n---\n${cnp('  egressDeny:\n  - toCIDR: [203.0.113.0/24]')}`, lines: [11] },
  ] // prettier-ignore
  for (const { title, text, lines } of rows)
    test(title, () => {
      const found = of(lintText(text), 'NG004').filter(({ severity }) => severity === 'warning')
      expect(found.map(({ line }) => line)).toEqual(lines)
    })
})

describe('whatever the text', () => {
  const errors = (findings: readonly Finding[]): number =>
    findings.filter(({ severity, code }) => severity === 'error' && code !== 'NG005' && code !== 'NG018').length
  /** Lines of real manifests, some taken out, doubled, moved, indented otherwise. */
  const mangled = fc
    .tuple(
      fc.constantFrom(...rows.flatMap(({ bad, good }) => [bad, good])),
      fc.array(fc.tuple(fc.nat(), fc.nat({ max: 4 })), { maxLength: 4 }),
    ) // prettier-ignore
    .map(([text, changes]) => {
      const lines = text.split('\n')
      for (const [place, kind] of changes) {
        const at = place % lines.length
        const line = lines[at] ?? ''
        if (kind === 0) lines.splice(at, 1)
        else if (kind === 1) lines.splice(at, 0, line)
        else if (kind === 2) lines[at] = ` ${line}`
        else if (kind === 3) lines[at] = line.replace(/: .*/, ': []')
        else lines[at] = line.replace(/: .*/, ': {}')
      }
      return lines.join('\n')
    })
  test('nothing throws, and no fix breaks a manifest', () => {
    fc.assert(
      fc.property(mangled, fc.constantFrom<ParseOptions['semantics']>('spec', 'cilium'), (text, semantics) => {
        const findings = lintText(text, { semantics })
        for (const { fix } of findings) {
          if (fix === undefined) continue
          const mended = applyEdits(text, fix.edits)
          expect(errors(lintText(mended, { semantics })), mended).toBeLessThanOrEqual(errors(findings))
        }
      }),
      { numRuns: Number(process.env['NAMEGATE_RUNS'] ?? 500) },
    )
  })

  test('patches come to an end: after a few rounds there is nothing left to patch', () => {
    for (const { bad, options } of rows) {
      let text = bad
      for (let round = 0; round < 4; round++) text = applyEdits(text, editsOf(lintText(text, options).flatMap(({ fix }) => fix ?? []))) // prettier-ignore
      expect(lintText(text, options).filter(({ fix }) => fix !== undefined)).toEqual([])
    }
  })
})
