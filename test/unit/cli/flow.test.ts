// Flows as JSON: who the parties are, what is missing, what names lead to. What the engine decides is tested with the engine.
import { describe, expect, test } from 'vitest'
import { makeAnswerer, type Answer } from '../../../src/cli/flow.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.1.0.2}, {ip: "fd01::2"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: other}}
  template: {metadata: {labels: {app: other}}, spec: {containers: []}}
---
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: there}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.168.0.9]}]
ports: [{port: 6443}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{matchLabels: {app: db}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
  - toFQDNs: [{matchName: api.example.com}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  - toEntities: [kube-apiserver, remote-node, host]
    toPorts: [{ports: [{port: "6443", protocol: TCP}]}]
  - toCIDR: [198.18.0.0/15]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: "/a/.*", headers: ["X-Tag: a"]}]}}]
  - toCIDR: [198.18.0.0/15, "2001:db8::/32"]
    icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]
  - toCIDR: [198.18.0.0/15]
    toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [www.example.com]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
  - fromEntities: [remote-node]
`

const loaded = loadWorld([{ path: 'a.yaml', text: manifests }])
if (!loaded.ok) throw new Error(JSON.stringify(loaded.issues))
const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', localNode: 'here' })(loaded.world) // prettier-ignore
const answer = makeAnswerer(loaded.world, snapshot)

/** `overall egress ingress`, or the error. */
const brief = (found: Answer): string =>
  'error' in found ? found.error : `${found.verdict} ${found.egress.verdict} ${found.ingress.verdict}`

const flow = (more: object): object => ({ from: 'shop/web', to: 'shop/db', protocol: 'TCP', port: 5432, ...more })

describe('answers', () => {
  const rows = [
    { title: 'pod to workload', flow: flow({}), want: 'allowed allowed allowed' },
    { title: 'the wrong port', flow: flow({ port: 5433 }), want: 'denied denied allowed' },
    { title: 'a named port of the destination', flow: flow({ port: 'pg' }), want: 'allowed allowed allowed' },
    { title: 'a port as text', flow: flow({ port: '5432' }), want: 'allowed allowed allowed' },
    { title: 'TCP unless said', flow: { from: 'shop/web', to: 'shop/db', port: 5432 }, want: 'allowed allowed allowed' },
    { title: 'a protocol in lower case', flow: flow({ protocol: 'udp' }), want: 'denied denied allowed' },
    { title: 'a protocol by number', flow: flow({ protocol: 6 }), want: 'allowed allowed allowed' },
    { title: 'a Pod goes before a Deployment of its name', flow: flow({ from: 'shop/web', to: '192.0.2.1', port: 80 }), want: 'denied denied allowed' },
    { title: 'a pod by its address', flow: flow({ from: '10.1.0.2' }), want: 'allowed allowed allowed' },
    { title: 'the world', flow: flow({ from: '192.0.2.1' }), want: 'denied allowed denied' },
    { title: 'another node', flow: flow({ from: '192.168.0.2' }), want: 'allowed allowed allowed' },
    { title: 'this node is not remote-node, and reaches its pods', flow: flow({ from: '192.168.0.1' }), want: 'allowed allowed allowed' },
    { title: 'the API server', flow: flow({ to: '192.168.0.9', port: 6443 }), want: 'allowed allowed allowed' },
    { title: 'a name with an address', flow: flow({ to: 'fqdn:api.example.com', port: 443, resolved: { 'api.example.com': ['203.0.113.5'] } }), want: 'allowed allowed allowed' },
    { title: 'a name in other case and with a final dot', flow: flow({ to: 'fqdn:API.example.com.', port: 443, resolved: { 'Api.Example.Com.': ['203.0.113.5'] } }), want: 'allowed allowed allowed' },
    { title: 'a name without an address', flow: flow({ to: 'fqdn:api.example.com', port: 443 }), want: 'allowed allowed allowed' },
    { title: 'a name that no rule has', flow: flow({ to: 'fqdn:www.example.com', port: 443, resolved: { 'www.example.com': ['203.0.113.5'] } }), want: 'denied denied allowed' },
    { title: 'an address that an allowed name has', flow: flow({ to: '203.0.113.5', port: 443, resolved: { 'api.example.com': ['203.0.113.5'] } }), want: 'allowed allowed allowed' },
    { title: 'an address that another name has', flow: flow({ to: '203.0.113.6', port: 443, resolved: { 'api.example.com': ['203.0.113.5'] } }), want: 'denied denied allowed' },
    { title: 'of several addresses the worst: one is a node', flow: flow({ to: 'fqdn:api.example.com', port: 443, resolved: { 'api.example.com': ['203.0.113.5', '192.168.0.2'] } }), want: 'denied denied allowed' },
    { title: 'HTTP', flow: flow({ to: '198.18.0.1', port: 80, http: { method: 'GET', path: '/a/b', headers: { 'x-tag': 'a' } } }), want: 'allowed allowed allowed' },
    { title: 'HTTP, header missing', flow: flow({ to: '198.18.0.1', port: 80, http: { method: 'GET', path: '/a/b' } }), want: 'denied denied allowed' },
    { title: 'HTTP that the flow does not tell', flow: flow({ to: '198.18.0.1', port: 80 }), want: 'allowed redirect allowed' },
    { title: 'SNI', flow: flow({ to: '198.18.0.1', port: 443, sni: 'www.example.com' }), want: 'allowed allowed allowed' },
    { title: 'another SNI', flow: flow({ to: '198.18.0.1', port: 443, sni: 'evil.example.com' }), want: 'denied denied allowed' },
    { title: 'ICMP is a ping unless said', flow: { from: 'shop/web', to: '198.18.0.1', protocol: 'ICMP' }, want: 'allowed allowed allowed' },
    { title: 'ICMP of IPv6', flow: { from: 'shop/web', to: '2001:db8::1', protocol: 'ICMP' }, want: 'allowed allowed allowed' },
    { title: 'ICMPv6 by name', flow: { from: 'shop/web', to: '2001:db8::1', protocol: 'ICMPv6', icmpType: 128 }, want: 'allowed allowed allowed' },
    { title: 'ICMP of another type', flow: { from: 'shop/web', to: '198.18.0.1', protocol: 'ICMP', icmpType: 13 }, want: 'denied denied allowed' },
    { title: 'ICMP by the name that policies have for its type', flow: { from: 'shop/web', to: '198.18.0.1', protocol: 'ICMP', icmpType: 'EchoRequest' }, want: 'allowed allowed allowed' },
    { title: 'fields of whoever asks', flow: flow({ id: 7, title: 'x', note: 'y', source: 'z', type: 'egress', expect: 'allowed' }), want: 'allowed allowed allowed' },
    { title: 'a protocol without ports', flow: { from: 'shop/db', to: 'shop/web', protocol: 'GRE' }, want: 'allowed allowed allowed' },
  ] as const // prettier-ignore
  for (const { title, flow: asked, want } of rows) test(title, () => expect(brief(answer(asked))).toBe(want))
})

describe('what cannot be answered', () => {
  const rows = [
    { title: 'no object', flow: [], want: 'a flow is a JSON object' },
    { title: 'null', flow: null, want: 'a flow is a JSON object' },
    { title: 'no from', flow: { to: 'shop/db', port: 1 }, want: 'from is missing' },
    { title: 'no to', flow: { from: 'shop/web', port: 1 }, want: 'to is missing' },
    { title: 'an unknown pod', flow: flow({ from: 'shop/gone' }), want: 'from: there is no pod or workload shop/gone' },
    { title: 'no party', flow: flow({ to: 'nobody' }), want: 'to: "nobody" is neither NAMESPACE/NAME nor an IP address nor fqdn:NAME' },
    { title: 'a prototype is no pod', flow: flow({ to: 'constructor' }), want: 'to: "constructor" is neither NAMESPACE/NAME nor an IP address nor fqdn:NAME' },
    { title: 'a short address', flow: flow({ to: '10.1' }), want: 'to: "10.1" is neither NAMESPACE/NAME nor an IP address nor fqdn:NAME' },
    { title: 'no port', flow: { from: 'shop/web', to: 'shop/db', protocol: 'TCP' }, want: 'port is missing' },
    { title: 'a port that is none', flow: flow({ port: 65536 }), want: 'port must be a whole number from 0 to 65535' },
    { title: 'a port in pieces', flow: flow({ port: 80.5 }), want: 'port must be a whole number from 0 to 65535' },
    { title: 'a named port that is not there', flow: flow({ port: 'http' }), want: 'port: the destination has no port named "http"' },
    { title: 'no protocol that exists', flow: flow({ protocol: 'QUIC' }), want: /^protocol: "QUIC" is none of TCP, UDP/ },
    { title: 'no protocol of the prototype', flow: flow({ protocol: 'constructor' }), want: /^protocol: "constructor" is none of/ },
    { title: 'a protocol number too far', flow: flow({ protocol: 256 }), want: 'protocol must be a whole number from 0 to 255' },
    { title: 'resolved to no address', flow: flow({ resolved: { a: ['x'] } }), want: 'resolved: "x" is not an address of a' },
    { title: 'an empty name', flow: flow({ to: 'fqdn:' }), want: 'fqdn: the name is missing' },
    { title: 'a pattern for a name', flow: flow({ to: 'fqdn:*.example.com' }), want: 'fqdn: "*.example.com" is a pattern; a flow has one name' },
    { title: 'an empty label', flow: flow({ to: 'fqdn:a..example.com' }), want: 'fqdn: "a..example.com" is not a name' },
    { title: 'a pattern that is asked', flow: flow({ dns: '*.example.com' }), want: 'dns: "*.example.com" is a pattern; a flow has one name' },
    { title: 'a pod without its namespace', flow: flow({ from: 'web' }), want: 'from: "web" is neither NAMESPACE/NAME nor an IP address; did you mean "shop/web"?' },
    { title: 'a prefix', flow: flow({ to: '10.0.0.0/8' }), want: 'to: 10.0.0.0/8 is a prefix; a flow has one address' },
    { title: 'an empty protocol', flow: flow({ protocol: '' }), want: 'protocol is empty' },
    { title: 'a type of ICMP that nobody knows', flow: flow({ protocol: 'ICMP', icmpType: 'EchoRequst' }), want: 'icmpType must be a whole number from 0 to 255' },
    { title: 'a field that is misspelt', flow: flow({ protocl: 'UDP' }), want: 'unknown field "protocl"; did you mean "protocol"?' },
    { title: 'another word for a field', flow: flow({ proto: 'UDP' }), want: 'unknown field "proto"; did you mean "protocol"?' },
    { title: 'a field in other case', flow: flow({ Port: 5432 }), want: 'unknown field "Port"; did you mean "port"?' },
    { title: 'a request beside http', flow: flow({ method: 'GET' }), want: 'unknown field "method"; did you mean "http.method"?' },
    { title: 'a misspelt part of a request', flow: flow({ http: { methd: 'GET' } }), want: 'unknown field "http.methd"; did you mean "method"?' },
    { title: 'headers that are none', flow: flow({ http: { headers: { a: 1 } } }), want: 'http.headers is {"name": "value"}' },
    { title: 'Kafka without a key', flow: flow({ kafka: {} }), want: 'kafka.apiKey is missing' },
  ] as const // prettier-ignore
  for (const { title, flow: asked, want } of rows)
    test(title, () => {
      const found = brief(answer(asked))
      if (typeof want === 'string') expect(found).toBe(want)
      else expect(found).toMatch(want)
    })
})

test('what a question alone does not tell is said beside the verdict', () => {
  const service = `${manifests}---\napiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\nspec: {clusterIP: 10.96.0.7, selector: {app: db}, ports: [{port: 5432}]}`
  const world = loadWorld([{ path: 'a.yaml', text: service }])
  if (!world.ok) throw new Error(JSON.stringify(world.issues))
  const ask = makeAnswerer(world.world, makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(world.world)) // prettier-ignore
  expect(JSON.stringify(ask(flow({ to: '10.96.0.7' })))).toContain('this is the cluster address of Service shop/db')
  const question = { from: 'shop/web', to: '192.0.2.53', protocol: 'UDP', port: 53 }
  expect(ask({ ...question, dns: 'api.example.com' })).toMatchObject({
    verdict: 'denied',
    egress: { why: [{}, { text: 'an agent answers this question all the same: toFQDNs matchName "api.example.com"', rule: 'spec.egress[1].toFQDNs[0]' }] },
  }) // prettier-ignore
  expect(ask({ ...question, dns: 'www.example.com' })).toMatchObject({ verdict: 'denied', egress: { why: [{}] } })
})

test('a name whose address nobody tells says so', () => {
  const found = answer(flow({ to: 'fqdn:api.example.com', port: 443 }))
  expect(JSON.stringify(found)).toContain('resolved has no address of api.example.com')
})
