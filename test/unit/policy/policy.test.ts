// What policies mean: who may ask what, who may reach whom, and why.
import { describe, expect, test } from 'vitest'
import { addressFromText } from '../../../src/net/address.ts'
import { portsToText } from '../../../src/net/ports.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { decideEgress } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { labelsOf, wireFromText } from '../../../src/wire/name.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const pods = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
status: {podIP: 10.0.0.53}
`
const policy = (spec: string, name = 'p', kind = 'CiliumNetworkPolicy'): string => `---
apiVersion: cilium.io/v2
kind: ${kind}
metadata: {name: ${name}${kind === 'CiliumNetworkPolicy' ? ', namespace: shop' : ''}}
spec:
  endpointSelector: {matchLabels: {app: web}}
${spec}
`
function compile(text: string, upstream = '10.0.0.53', compiler = makeCompiler({ hostAddresses: [at('192.168.0.1')], upstreams: [at(upstream)], denyReply: 'refused' })): Snapshot {
  const loaded = loadWorld([{ path: 'p.yaml', text: pods + text }])
  return loaded.ok ? compiler(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
} // prettier-ignore
const identityOf = (snapshot: Snapshot, name: string): number =>
  snapshot.endpoints.find((e) => e.name === name)?.identity ?? 0
const labels = (name: string): string[] => labelsOf(wireFromText(name) ?? expect.fail(name))
const mayAsk = (snapshot: Snapshot, name: string, pod = 'web'): boolean => snapshot.policyOf(identityOf(snapshot, pod)).mayAsk(labels(name)).kind === 'allow' // prettier-ignore
const reaches = (
  snapshot: Snapshot,
  address: string,
  flow = 'tcp/443',
  leasedNames: string[] = [],
  pod = 'web',
): boolean => {
  const [protocol, port] = flow.split('/')
  const number = { tcp: 6, udp: 17, sctp: 132, icmp: 1 }[protocol ?? ''] ?? 0
  return decideEgress(snapshot, { identity: identityOf(snapshot, pod), address: at(address), protocol: number, port: port === undefined ? undefined : Number(port), leasedNames }).kind === 'allow' // prettier-ignore
}

describe('names that may be asked', () => {
  const dnsRule = (
    rule: string,
  ): string => `  - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, k8s-app: kube-dns}}]
    toPorts: [{ports: [{port: "53", protocol: ANY}]${rule === '' ? '' : `, rules: {dns: [${rule}]}`}}]`
  const rows = [
    { title: 'no policy: all', spec: undefined, yes: ['a.com'], no: [] },
    { title: 'default deny alone: none', spec: '  egress: [{}]', yes: [], no: ['a.com'] },
    { title: 'toFQDNs is asking leave too', spec: '  egress: [{toFQDNs: [{matchName: a.com}, {matchPattern: "*.b.com"}]}]', yes: ['a.com', 'x.b.com', 'A.COM'], no: ['b.com', 'x.a.com', 'x.y.b.com'] },
    { title: 'a DNS rule', spec: `  egress:\n${dnsRule('{matchName: a.com}, {matchPattern: "**.c.com"}')}`, yes: ['a.com', 'x.y.c.com'], no: ['b.com'] },
    { title: 'a DNS rule for everything', spec: `  egress:\n${dnsRule('{matchPattern: "*"}')}`, yes: ['a.com', 'odd\\032label.com', '.'], no: [] },
    { title: 'port 53 of the resolver without names: any name', spec: `  egress:\n${dnsRule('')}`, yes: ['a.com', 'odd\\032label.com'], no: [] },
    { title: 'port 53 of somebody else: none', spec: '  egress: [{toCIDR: [9.9.9.9/32], toPorts: [{ports: [{port: "53"}]}]}]', yes: [], no: ['a.com'] },
    { title: 'all ports of the resolver, no DNS rule: any name', spec: '  egress: [{toEntities: [cluster]}]', yes: ['a.com'], no: [] },
    { title: 'all ports of the resolver beside a DNS rule: its names only', spec: `  egress:\n  - toEntities: [cluster]\n${dnsRule('{matchName: a.com}')}`, yes: ['a.com'], no: ['b.com'] },
    { title: 'denied port 53', spec: `  egress:\n${dnsRule('{matchPattern: "*"}')}\n  egressDeny: [{toEntities: [cluster], toPorts: [{ports: [{port: "53"}]}]}]`, yes: [], no: ['a.com'] },
    { title: 'enableDefaultDeny off: all', spec: '  enableDefaultDeny: {egress: false}\n  egress: [{toFQDNs: [{matchName: a.com}]}]', yes: ['a.com', 'b.com'], no: [] },
    { title: 'a DNS rule on another port: nothing here', spec: '  egress: [{toPorts: [{ports: [{port: "5353"}], rules: {dns: [{matchPattern: "*"}]}}]}]', yes: [], no: ['a.com'] },
  ] // prettier-ignore
  for (const { title, spec, yes, no } of rows)
    test(title, () => {
      const snapshot = compile(spec === undefined ? '' : policy(spec))
      for (const name of yes) expect(mayAsk(snapshot, name), name).toBe(true)
      for (const name of no) expect(mayAsk(snapshot, name), name).toBe(false)
    })

  test('an identity that no policy selects is free, an unknown one is not', () => {
    const snapshot = compile(policy('  egress: [{}]'))
    expect(mayAsk(snapshot, 'a.com', 'db')).toBe(true)
    expect(snapshot.policyOf(99999).mayAsk(labels('a.com')).kind).toBe('deny')
  })

  test('the why names policy, rule and line', () => {
    const web = (snapshot: Snapshot) => snapshot.policyOf(identityOf(snapshot, 'web'))
    const snapshot = compile(policy('  egress:\n  - toFQDNs:\n    - matchName: a.com'))
    expect(web(snapshot).mayAsk(labels('a.com')).why).toEqual({ text: 'toFQDNs matchName "a.com"', policy: 'shop/p', policyKind: 'CiliumNetworkPolicy', rule: 'spec.egress[0].toFQDNs[0]', source: 'p.yaml:27' }) // prettier-ignore
    expect(web(snapshot).mayAsk(labels('b.com')).why.text).toBe('no DNS or toFQDNs rule matches; selected by shop/p')
  })

  test('NXDOMAIN by annotation, by suffix too', () => {
    const annotated = (reply: string, of = 'p'): string => policy('  egress: [{}]', of).replace(`{name: ${of},`, `{name: ${of}, annotations: {namegate.io/dns-deny-reply: "${reply}"},`) // prettier-ignore
    const replies = (text: string, name: string): string[] => {
      const snapshot = compile(text)
      const wire = wireFromText(name) ?? expect.fail(name)
      return ['web', 'db'].map((pod) => snapshot.policyOf(identityOf(snapshot, pod)).denyReplyTo(wire))
    }
    expect(replies(annotated('nxdomain'), 'a.com')).toEqual(['nxdomain', 'refused'])
    const bySuffix = annotated('refused, corp.example=nxdomain, public.corp.example=refused')
    expect(['a.com', 'corp.example', 'x.corp.example', 'xcorp.example', 'a.public.corp.example'].map((name) => replies(bySuffix, name)[0])).toEqual(['refused', 'nxdomain', 'nxdomain', 'refused', 'refused']) // prettier-ignore
    // NXDOMAIN wins where policies disagree; a policy that says nothing of a name leaves it to the others.
    const both = bySuffix + '---\n' + annotated('lan=nxdomain', 'q')
    expect(['a.lan', 'x.corp.example', 'a.com'].map((name) => replies(both, name)[0])).toEqual(['nxdomain', 'nxdomain', 'refused']) // prettier-ignore
  })
})

describe('addresses that may be reached', () => {
  const rows = [
    { title: 'no policy', spec: undefined, yes: ['8.8.8.8', '10.0.0.2'], no: [] },
    { title: 'default deny idiom', spec: '  egress: [{}]', yes: [], no: ['8.8.8.8', '10.0.0.2'] },
    { title: 'only a deny: default deny too', spec: '  egressDeny: [{toCIDR: [8.8.8.8/32]}]', yes: [], no: ['8.8.8.8', '9.9.9.9'] },
    { title: 'deny without default deny', spec: '  enableDefaultDeny: {egress: false}\n  egressDeny: [{toCIDR: [8.8.8.8/32]}]', yes: ['9.9.9.9'], no: ['8.8.8.8'] },
    { title: 'CIDR, host bits and all', spec: '  egress: [{toCIDR: [1.1.1.77/24]}]', yes: ['1.1.1.1'], no: ['1.1.2.1'] },
    { title: 'CIDR never reaches pods and the host', spec: '  egress: [{toCIDR: [0.0.0.0/0]}]', yes: ['8.8.8.8'], no: ['10.0.0.2', '192.168.0.1', '2001:db8::1'] },
    { title: 'except', spec: '  egress: [{toCIDRSet: [{cidr: 1.0.0.0/8, except: [1.2.0.0/16]}]}]', yes: ['1.1.0.1', '1.3.0.1'], no: ['1.2.3.4'] },
    { title: 'what one rule excepts another may allow', spec: '  egress: [{toCIDRSet: [{cidr: 1.0.0.0/8, except: [1.2.0.0/16]}]}, {toCIDR: [1.2.3.0/24]}]', yes: ['1.2.3.4'], no: ['1.2.4.4'] },
    { title: 'deny beats allow, however specific', spec: '  egress: [{toCIDR: [1.1.1.1/32]}]\n  egressDeny: [{toCIDR: [1.0.0.0/8]}]', yes: [], no: ['1.1.1.1'] },
    { title: 'world', spec: '  egress: [{toEntities: [world]}]', yes: ['8.8.8.8', '2001:db8::1'], no: ['10.0.0.2', '192.168.0.1'] },
    { title: 'cluster', spec: '  egress: [{toEntities: [cluster]}]', yes: ['10.0.0.2', '10.0.0.53', '192.168.0.1'], no: ['8.8.8.8'] },
    { title: 'host', spec: '  egress: [{toEntities: [host]}]', yes: ['192.168.0.1'], no: ['10.0.0.2'] },
    { title: 'reserved labels', spec: '  egress: [{toEndpoints: [{matchLabels: {"reserved:world": ""}}]}]', yes: ['8.8.8.8'], no: ['10.0.0.2'] },
    { title: 'all', spec: '  egress: [{toEntities: [all]}]', yes: ['8.8.8.8', '10.0.0.2', '192.168.0.1'], no: [] },
    { title: 'endpoints of its own namespace', spec: '  egress: [{toEndpoints: [{}]}]', yes: ['10.0.0.2'], no: ['10.0.0.53', '8.8.8.8', '192.168.0.1'] },
    { title: 'endpoints by namespace label', spec: '  egress: [{toEndpoints: [{matchLabels: {"k8s:io.cilium.k8s.namespace.labels.team": red}}]}]', yes: ['10.0.0.2'], no: ['10.0.0.53'] },
    { title: 'endpoints by expression', spec: '  egress: [{toEndpoints: [{matchExpressions: [{key: app, operator: NotIn, values: [db]}, {key: "k8s:io.kubernetes.pod.namespace", operator: Exists}]}]}]', yes: ['10.0.0.53'], no: ['10.0.0.2'] },
    { title: 'an empty list of peers reaches nobody', spec: '  egress: [{toEndpoints: [], toPorts: [{ports: [{port: "443"}]}]}]', yes: [], no: ['10.0.0.2', '8.8.8.8'] },
    { title: 'an empty list of names does not open ports to everyone', spec: '  egress: [{toFQDNs: [], toPorts: [{ports: [{port: "443"}]}]}]', yes: [], no: ['8.8.8.8'] },
    { title: 'ports without peers: everybody', spec: '  egress: [{toPorts: [{ports: [{port: "443"}]}]}]', yes: ['8.8.8.8', '10.0.0.2'], no: [] },
    { title: 'not enforced: allows nothing', spec: '  egress: [{toCIDR: [8.8.8.0/24], toPorts: [{ports: [{port: "443", protocol: TCP}], rules: {http: [{}]}}]}, {toCIDR: [9.9.9.9/32], icmps: [{fields: [{type: 8}]}]}]', yes: [], no: ['8.8.8.8', '9.9.9.9'] },
    { title: 'nobody knows who is in a group: a deny rule about one denies all', spec: '  egress: [{toEntities: [all]}]\n  egressDeny: [{toGroups: [{aws: {}}]}]', yes: [], no: ['8.8.8.8'] },
  ] // prettier-ignore
  for (const { title, spec, yes, no } of rows)
    test(title, () => {
      const snapshot = compile(spec === undefined ? '' : policy(spec))
      for (const address of yes) expect(reaches(snapshot, address), address).toBe(true)
      for (const address of no) expect(reaches(snapshot, address), address).toBe(false)
    })

  test('a cluster-wide policy selects and means every namespace', () => {
    const snapshot = compile(policy('  egress: [{toEndpoints: [{}]}]', 'wide', 'CiliumClusterwideNetworkPolicy'))
    expect(['10.0.0.2', '10.0.0.53', '8.8.8.8'].map((a) => reaches(snapshot, a))).toEqual([true, true, false])
  })

  test('ports and protocols', () => {
    const snapshot = compile(policy('  egress: [{toCIDR: [8.8.8.8/32], toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}, {port: "0", protocol: UDP}, {port: "7"}]}]}]')) // prettier-ignore
    const flows = ['tcp/79', 'tcp/80', 'tcp/90', 'tcp/91', 'udp/1', 'udp/65535', 'tcp/7', 'sctp/7', 'sctp/8', 'icmp']
    expect(flows.filter((flow) => reaches(snapshot, '8.8.8.8', flow))).toEqual([
      'tcp/80',
      'tcp/90',
      'udp/1',
      'udp/65535',
      'tcp/7',
      'sctp/7',
    ])
    expect(reaches(compile(policy('  egress: [{toCIDR: [8.8.8.8/32]}]')), '8.8.8.8', 'icmp')).toBe(true)
  })

  test('a name opens its ports through a lease, and only so', () => {
    const snapshot = compile(
      policy('  egress: [{toFQDNs: [{matchName: a.com}], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]'),
    )
    const grants = snapshot.policyOf(identityOf(snapshot, 'web')).grantsFor(labels('a.com'))
    expect(grants.map((g) => portsToText(g.ports))).toEqual(['tcp/443'])
    expect(reaches(snapshot, '8.8.8.8')).toBe(false)
    expect(reaches(snapshot, '8.8.8.8', 'tcp/443', ['a.com'])).toBe(true)
    expect(reaches(snapshot, '8.8.8.8', 'tcp/80', ['a.com'])).toBe(false)
    expect(reaches(snapshot, '8.8.8.8', 'tcp/443', ['b.com'])).toBe(false)
    const why = (port: number, leasedNames: string[]) => decideEgress(snapshot, { identity: identityOf(snapshot, 'web'), address: at('8.8.8.8'), protocol: 6, port, leasedNames }).why // prettier-ignore
    expect(why(443, ['a.com']).text).toBe('leased as a.com by toFQDNs matchName "a.com"')
    expect(why(80, ['a.com']).text).toBe('a.com is allowed on tcp/443 only')
    expect(why(443, []).text).toBe(
      'no rule matched, and no name leased to this identity has 8.8.8.8; selected by shop/p',
    )
  })
})

describe('identities', () => {
  const compiler = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })
  const before = compile('', '10.0.0.53', compiler)

  test('a label set is a number that stays, whatever else changes', () => {
    const after = compile(policy('  egress: [{}]') + '---\napiVersion: v1\nkind: Pod\nmetadata: {name: aaa, namespace: shop, labels: {app: web}}\nstatus: {podIP: 10.0.0.9}\n', '10.0.0.53', compiler) // prettier-ignore
    expect(['web', 'db', 'dns'].map((n) => identityOf(after, n))).toEqual(
      ['web', 'db', 'dns'].map((n) => identityOf(before, n)),
    )
    expect(identityOf(after, 'aaa')).toBe(identityOf(after, 'web'))
    expect(after.endpoints.find((e) => e.name === 'web')?.id).toBe(before.endpoints.find((e) => e.name === 'web')?.id)
  })

  test('ours start at 256 and carry namespace and namespace labels', () => {
    expect(identityOf(before, 'web')).toBe(256)
    expect([...(before.identities.get(256)?.labels ?? [])].map(([k, v]) => `${k}=${v}`)).toEqual([
      'k8s:app=web',
      'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop',
      'k8s:io.cilium.k8s.namespace.labels.team=red',
      'k8s:io.cilium.k8s.policy.cluster=default',
      'k8s:io.cilium.k8s.policy.serviceaccount=default',
      'k8s:io.kubernetes.pod.namespace=shop',
    ])
  })

  test('an address that two pods claim belongs to neither', () => {
    const snapshot = compile(
      '---\napiVersion: v1\nkind: Pod\nmetadata: {name: thief, namespace: shop}\nstatus: {podIP: 10.0.0.1}\n',
    )
    expect(snapshot.endpointOf(at('10.0.0.1'))).toBeUndefined()
    expect(snapshot.endpointOf(at('fd00::1'))?.name).toBe('web')
    expect(snapshot.notes).toEqual(['10.0.0.1 is claimed by shop/web and shop/thief: it is denied'])
  })
})
