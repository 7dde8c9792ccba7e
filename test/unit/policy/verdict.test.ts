// A verdict with its why: what is said, where it points, and every step of an explanation. What policies mean is in cases.test.ts.
import { describe, expect, test } from 'vitest'
import { addressFromText } from '../../../src/net/address.ts'
import { makeCompiler, type CompileOptions } from '../../../src/policy/compile.ts'
import { explain } from '../../../src/policy/explain.ts'
import { openedPorts } from '../../../src/policy/names.ts'
import { portsToText } from '../../../src/net/ports.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { decide, makeDecider, type Decision, type Flow } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { labelsOf, wireFromText } from '../../../src/wire/name.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const pods = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
status: {podIP: 10.0.0.53}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: jobs, namespace: shop}
spec: {selector: {matchLabels: {app: jobs}}, template: {metadata: {labels: {app: jobs}}, spec: {containers: []}}}
`
const cnp = (name: string, app: string, spec: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: ${app}}}
  ${spec}
`
function compile(text: string, options: Partial<CompileOptions> = {}): Snapshot {
  const loaded = loadWorld([{ path: 'p.yaml', text: pods + text }])
  if (!loaded.ok) return expect.fail(JSON.stringify(loaded.issues))
  return makeCompiler({ hostAddresses: [at('192.168.0.1')], upstreams: [at('10.0.0.53')], denyReply: 'refused', ...options })(loaded.world) // prettier-ignore
}
const flow = (from: string, to: string, port: number, rest: Partial<Flow> = {}): Flow => ({ from: { kind: 'address', address: at(from) }, to: { kind: 'address', address: at(to) }, protocol: 6, port, ...rest }) // prettier-ignore
const said = ({ verdict, egress, ingress }: Decision): string[] => [verdict, egress.verdict, egress.why[0].text, ingress.verdict, ingress.why[0].text] // prettier-ignore
const web = '10.0.0.1'
const db = '10.0.0.2'

describe('why', () => {
  const sql = cnp('sql', 'db', 'ingress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]') // prettier-ignore
  const rows: { title: string; policies: string; flow: Flow; want: string[]; options?: Partial<CompileOptions> }[] = [
    { title: 'nobody selects', policies: '', flow: flow(web, db, 5432), want: ['allowed', 'allowed', 'no policy denies egress by default', 'allowed', 'no policy denies ingress by default'] },
    { title: 'a rule allows', policies: sql, flow: flow(web, db, 5432), want: ['allowed', 'allowed', 'no policy denies egress by default', 'allowed', 'allowed by rule'] },
    { title: 'no rule matches', policies: sql, flow: flow(web, db, 80), want: ['denied', 'allowed', 'no policy denies egress by default', 'denied', 'no rule matched; selected by shop/sql'] },
    { title: 'this host', policies: sql, flow: flow('192.168.0.1', db, 80), want: ['allowed', 'allowed', 'no policy denies egress by default', 'allowed', 'this host reaches its workloads'] },
    { title: 'this host, kept out', policies: sql, options: { allowLocalhost: false }, flow: flow('192.168.0.1', db, 80), want: ['denied', 'allowed', 'no policy denies egress by default', 'denied', 'no rule matched; selected by shop/sql'] },
    { title: 'audited', policies: sql, options: { audit: true }, flow: flow(web, db, 80), want: ['audited', 'allowed', 'no policy denies egress by default', 'audited', 'no rule matched; selected by shop/sql'] },
    { title: 'to itself', policies: sql, flow: flow(db, db, 80), want: ['allowed', 'allowed', 'a workload always reaches itself', 'allowed', 'a workload always reaches itself'] },
    { title: 'names are granted, and none is known', policies: cnp('p', 'web', 'egress: [{toFQDNs: [{matchName: a.com}]}]'), flow: flow(web, '8.8.8.8', 443), want: ['denied', 'denied', 'no rule matched, and no name that is allowed leads there; selected by shop/p', 'allowed', 'no policy denies ingress by default'] },
    { title: 'a name is granted on other ports', policies: cnp('p', 'web', 'egress: [{toFQDNs: [{matchName: a.com}], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]'), flow: flow(web, '8.8.8.8', 80, { names: ['a.com'] }), want: ['denied', 'denied', 'a.com is allowed on tcp/443 only', 'allowed', 'no policy denies ingress by default'] },
    { title: 'HTTP that nobody has seen', policies: cnp('p', 'web', 'egress: [{toEntities: [all], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]}]'), flow: flow(web, '8.8.8.8', 80), want: ['redirect', 'redirect', 'a proxy judges HTTP', 'allowed', 'no policy denies ingress by default'] },
    { title: 'HTTP that is not allowed', policies: cnp('p', 'web', 'egress: [{toEntities: [all], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]}]'), flow: flow(web, '8.8.8.8', 80, { http: { method: 'POST' } }), want: ['denied', 'denied', 'no rule for HTTP matches; selected by shop/p', 'allowed', 'no policy denies ingress by default'] },
  ] // prettier-ignore
  for (const { title, policies, flow: of, want, options } of rows) test(title, () => expect(said(decide(compile(policies, options), of))).toEqual(want)) // prettier-ignore

  test('points at policy, rule and line', () => {
    expect(decide(compile(sql), flow(web, db, 5432)).ingress.why).toEqual([{ text: 'allowed by rule', policy: 'shop/sql', policyKind: 'CiliumNetworkPolicy', rule: 'spec.ingress[0]', source: 'p.yaml:27' }]) // prettier-ignore
  })
  test('HTTP points at the rule of the list', () => {
    const snapshot = compile(cnp('p', 'web', 'egress: [{toEntities: [all], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}, {method: PUT}]}}]}]')) // prettier-ignore
    expect(decide(snapshot, flow(web, '8.8.8.8', 80, { http: { method: 'PUT' } })).egress.why[0].rule).toBe('spec.egress[0].toPorts[0].rules.http[1]') // prettier-ignore
  })
  test('what is stated and not enforced stands behind', () => {
    const snapshot = compile(cnp('p', 'web', 'egress: [{toEntities: [all], authentication: {mode: required}}]'))
    expect(decide(snapshot, flow(web, '8.8.8.8', 80)).egress.why.map((why) => why.text)).toEqual(['allowed by rule', 'authentication is required, not enforced yet']) // prettier-ignore
  })
  test('at an address that two claim, nobody is who it says', () => {
    const snapshot = compile(`---
apiVersion: v1
kind: Pod
metadata: {name: twin, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.7}]}
`)
    const twin = snapshot.endpoints.find(({ name }) => name === 'twin') ?? expect.fail()
    const from = (address: string): Flow => ({ ...flow(web, db, 80), from: { kind: 'endpoint', endpoint: twin, address: at(address) } }) // prettier-ignore
    expect(said(decide(snapshot, from('10.0.0.1')))[2]).toBe('nobody knows whose address this is')
    expect(decide(snapshot, from('10.0.0.7')).verdict).toBe('allowed')
  })
  test('a workload without addresses is known by its labels', () => {
    const snapshot = compile(cnp('p', 'db', 'ingress: [{fromEndpoints: [{matchLabels: {app: jobs}}]}]'))
    const jobs = snapshot.endpoints.find(({ name }) => name === 'jobs') ?? expect.fail()
    expect(decide(snapshot, { ...flow(web, db, 80), from: { kind: 'endpoint', endpoint: jobs } }).verdict).toBe('allowed') // prettier-ignore
  })
})

test('a block of addresses and a named port: the pods in it that have the port', () => {
  const np = `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/CIDR}}], ports: [{port: sql}]}]}
`
  const verdicts = (bits: string): string[] => {
    const snapshot = compile(np.replace('CIDR', bits))
    return [flow(web, db, 5432), flow(web, db, 80), flow(web, '10.0.0.53', 5432)].map((of) => decide(snapshot, of).egress.verdict) // prettier-ignore
  }
  expect([verdicts('24'), verdicts('31')]).toEqual([
    ['allowed', 'denied', 'denied'],
    ['denied', 'denied', 'denied'],
  ])
})

describe('names in egressDeny', () => {
  const snapshot = compile(cnp('p', 'web', 'egress: [{toEntities: [world]}, {toFQDNs: [{matchPattern: "**.com"}]}]\n  egressDeny: [{toFQDNs: [{matchPattern: "*.evil.com"}]}]')) // prettier-ignore
  const verdict = (names: string[]): string => decide(snapshot, flow(web, '8.8.8.8', 443, { names })).egress.verdict
  const mayAsk = (name: string): string => snapshot.policyOf(snapshot.identityOf(at(web))).mayAsk(labelsOf(wireFromText(name) ?? expect.fail())).kind // prettier-ignore

  test('the name may not be asked', () => {
    expect(['x.evil.com', 'evil.com', 'b.com'].map(mayAsk)).toEqual(['deny', 'allow', 'allow'])
  })
  test('an address that is known by such names only is denied', () => {
    expect([verdict(['x.evil.com']), verdict(['x.evil.com', 'y.evil.com']), verdict(['x.evil.com', 'b.com']), verdict([])]).toEqual(['denied', 'denied', 'allowed', 'allowed']) // prettier-ignore
  })
  test('a lease opens nothing behind a denial', () => {
    const grants = snapshot.policyOf(snapshot.identityOf(at(web))).grantsFor(['x', 'evil', 'com'])
    expect(grants.map(({ kind }) => kind)).toEqual(['deny', 'allow'])
    expect(openedPorts(grants).map(portsToText)).toEqual([])
    expect(openedPorts(snapshot.policyOf(snapshot.identityOf(at(web))).grantsFor(['b', 'com'])).map(portsToText)).toEqual(['any']) // prettier-ignore
  })
})

describe('questions', () => {
  const admin = (kind: string, rules: string): string => `---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: ${kind}
metadata: {name: ${kind === 'AdminNetworkPolicy' ? 'anp' : 'default'}}
spec: {${kind === 'AdminNetworkPolicy' ? 'priority: 5, ' : ''}subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}, egress: [${rules}]}
`
  const denyAll = '{name: d, action: Deny, to: [{networks: [0.0.0.0/0]}, {namespaces: {}}]}'
  const names = cnp('p', 'web', 'egress: [{toFQDNs: [{matchName: a.com}]}]')
  const dns = cnp('p', 'web', 'egress: [{toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system}}], toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchName: a.com}]}}]}]') // prettier-ignore
  const rows: { title: string; policies: string; options?: Partial<CompileOptions>; want: Record<string, 'allow' | 'deny'> }[] = [
    { title: 'nobody selects', policies: '', want: { 'a.com': 'allow' } },
    { title: 'a granted name', policies: names, want: { 'a.com': 'allow', 'b.com': 'deny' } },
    { title: 'a Baseline denial comes after what is granted', policies: names + admin('BaselineAdminNetworkPolicy', denyAll), want: { 'a.com': 'allow', 'b.com': 'deny' } },
    { title: 'an Admin denial comes before', policies: names + admin('AdminNetworkPolicy', denyAll), want: { 'a.com': 'deny', 'b.com': 'deny' } },
    { title: 'a Baseline denial alone denies the resolver', policies: admin('BaselineAdminNetworkPolicy', denyAll), want: { 'a.com': 'deny' } },
    { title: 'audit: what only ports deny is let through', policies: names, options: { audit: true }, want: { 'a.com': 'allow', 'b.com': 'allow' } },
    { title: 'audit: DNS rules hold all the same', policies: dns, options: { audit: true }, want: { 'a.com': 'allow', 'b.com': 'deny' } },
    { title: 'enforcement never', policies: names, options: { enforcement: 'never' }, want: { 'b.com': 'allow' } },
    { title: 'enforcement always, nobody selects', policies: '', options: { enforcement: 'always' }, want: { 'b.com': 'deny' } },
  ] // prettier-ignore
  for (const { title, policies, options, want } of rows)
    test(title, () => {
      const snapshot = compile(policies, options)
      const { mayAsk } = snapshot.policyOf(snapshot.identityOf(at(web)))
      for (const [name, kind] of Object.entries(want)) expect(mayAsk(name.split('.')).kind, name).toBe(kind)
    })
})

describe('explanation', () => {
  const anp = `---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: anp}
spec:
  priority: 5
  subject: {namespaces: {}}
  ingress:
  - {name: pass-shop, action: Pass, from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}
  - {name: rest, action: Deny, from: [{namespaces: {}}]}
`
  const snapshot = compile(`${anp}${cnp('sql', 'db', 'ingress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: "5432", protocol: TCP}]}]}]')}`) // prettier-ignore

  test('every tier, every rule, what each lacked', () => {
    const { ingress } = explain(snapshot, flow(web, db, 80))
    const steps = ingress.steps.map((step) => {
      if (step.kind === 'tier') return step.name
      if (step.kind === 'fallback') return `end ${step.fallback}`
      return `${step.statement} ${step.ports} ${step.outcome.kind === 'lacks' ? `lacks ${step.outcome.lacks}` : step.outcome.kind}` // prettier-ignore
    })
    expect(steps).toEqual(['Admin', 'pass any passes', 'deny any skipped', 'Normal', 'allow tcp/5432 lacks port', 'end deny']) // prettier-ignore
    expect([ingress.verdict, ingress.selectedBy]).toEqual(['denied', ['anp', 'shop/sql']])
  })
  test('as text', () => {
    expect(explain(snapshot, flow(web, db, 5432)).text).toEqual([
      `shop/web [identity ${snapshot.identityOf(at(web))}] -> shop/db [identity ${snapshot.identityOf(at(db))}], tcp/5432`,
      'egress: allowed: no policy denies egress by default',
      '  selected by no policy',
      '  at the end: allow: no policy denies egress by default',
      'ingress: allowed: allowed by rule (shop/sql spec.ingress[0], p.yaml:37)',
      '  selected by anp, shop/sql',
      '  tier Admin',
      '    pass any (anp spec.ingress[0], p.yaml:29): passes: the rest of the tier is skipped',
      '    deny any (anp spec.ingress[1], p.yaml:30): skipped: its tier is passed',
      '  tier Normal',
      '    allow tcp/5432 (shop/sql spec.ingress[0], p.yaml:37): decides',
      'verdict: allowed',
    ])
  })
})

describe('what a rule lacks, in words', () => {
  const rows: { rule: string; flow: Flow; says: string }[] = [
    { rule: 'ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]', flow: flow('10.0.0.53', web, 1), says: 'peer: it is about pods with app=web in namespace shop; this one has no app' },
    { rule: 'ingress: [{fromEndpoints: [{matchLabels: {app: web}}]}]', flow: flow(db, web, 1), says: 'peer: it is about pods with app=web in namespace shop; this one has app=db' },
    { rule: 'ingress: [{fromEndpoints: [{}]}]', flow: flow('10.0.0.53', web, 1), says: 'peer: it is about every pod in namespace shop; this one has namespace=kube-system' },
    { rule: 'ingress: [{fromEndpoints: [{matchExpressions: [{key: app, operator: NotIn, values: [db]}, {key: tier, operator: DoesNotExist}]}]}]', flow: flow(db, web, 1), says: 'peer: it is about pods with app not db, no tier in namespace shop; this one has app=db' },
    { rule: 'ingress: [{fromEndpoints: [{}]}]', flow: flow('203.0.113.1', web, 1), says: 'peer: it is about every pod in namespace shop; this is no pod' },
    { rule: 'ingress: [{fromEndpoints: [{matchLabels: {"reserved:world": ""}}]}]', flow: flow(db, web, 1), says: 'peer: it is about who has reserved:world; this one has no reserved:world' },
    { rule: 'ingress: [{fromCIDR: [10.0.0.0/8]}]', flow: flow(db, web, 1), says: 'peer: it is about 10.0.0.0/8; 10.0.0.2 is in the cluster, and CIDRs are about addresses outside of it' },
    { rule: 'ingress: [{fromCIDRSet: [{cidr: 203.0.113.0/24, except: [203.0.113.0/28]}]}]', flow: flow('203.0.113.1', web, 1), says: 'peer: it is about 203.0.113.0/24 except 203.0.113.0/28; 203.0.113.1 is excepted' },
    { rule: 'ingress: [{fromCIDR: [1.0.0.0/8, 2.0.0.0/8, 3.0.0.0/8, 4.0.0.0/8]}]', flow: flow('203.0.113.1', web, 1), says: 'peer: it is about 1.0.0.0/8; 2.0.0.0/8; 3.0.0.0/8 and 1 more' },
    { rule: 'ingress: [{fromEntities: [host, world]}]', flow: flow(db, web, 1), says: 'peer: it is about entity host; entity world' },
    { rule: 'egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: sql, protocol: TCP}]}]}, {toEntities: [none]}]', flow: flow(web, '10.0.0.53', 5432), says: 'peer: it is about every pod in namespace shop; this one has namespace=kube-system' },
    { rule: 'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]}]', flow: flow(db, web, 80, { http: { method: 'PUT', path: '/a', host: undefined, headers: [] } }), says: 'request: PUT /a meets none of what it lists' },
    { rule: 'egress: [{toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.com]}]}]', flow: flow(web, '203.0.113.1', 443, { sni: 'b.com' }), says: 'request: server name b.com (it wants a.com) meets none of what it lists' },
    { rule: 'egress: [{toPorts: [{ports: [{port: "53", protocol: TCP}], rules: {dns: [{matchName: a.com}]}}]}]', flow: flow(web, '10.0.0.53', 53, { dns: 'b.com' }), says: 'request: the question for b.com meets none of what it lists' },
  ] // prettier-ignore
  for (const { rule, flow: asked, says } of rows)
    test(says, () => {
      const { text, decision } = explain(compile(cnp('p', 'web', rule)), asked)
      expect(decision.verdict).toBe('denied')
      expect(text.flatMap((line) => line.split(' lacks the ')[1] ?? [])).toContain(says)
    })

  const silent: { title: string; policies: string; flow: Flow; says: string }[] = [
    { title: 'nobody has the labels', policies: cnp('p', 'web', 'ingress: [{fromEndpoints: [{matchLabels: {app: gone}}]}]'), flow: flow(db, web, 1), says: 'allow any (shop/p spec.ingress[0], p.yaml:27): lacks the peer: it is about nobody who is here: pods with app=gone in namespace shop' },
    { title: 'another cluster', policies: cnp('p', 'web', 'ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: west}}]}]'), flow: flow(db, web, 1), says: 'lacks the peer: it is about nobody who is here: pods with cluster=west in namespace shop' },
    { title: 'no peer at all', policies: cnp('p', 'web', 'ingress: [{fromEntities: []}]'), flow: flow(db, web, 1), says: 'lacks the peer: it is about nobody who is here' },
    { title: 'a service that is not there', policies: cnp('p', 'web', 'egress: [{toServices: [{k8sService: {serviceName: gone, namespace: shop}}]}]'), flow: flow(web, db, 1), says: 'lacks the peer: it is about nobody who is here: the pods behind service shop/gone' },
    { title: 'a group that is not there', policies: cnp('p', 'web', 'egress: [{toCIDRSet: [{cidrGroupRef: g}]}]'), flow: flow(web, '203.0.113.1', 1), says: 'lacks the peer: it is about nobody who is here: CIDR group g' },
    { title: 'a named port that the pod has not', policies: cnp('p', 'web', 'ingress: [{toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]'), flow: flow(db, web, 5432), says: 'allow tcp/sql (shop/p spec.ingress[0], p.yaml:27): lacks the port: it has no port named sql' },
    { title: 'a named port that no peer has', policies: cnp('p', 'web', 'egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: "1", protocol: TCP}]}, {ports: [{port: gone, protocol: TCP}]}]}]'), flow: flow(web, db, 5432), says: 'allow tcp/gone (shop/p spec.egress[0], p.yaml:27): lacks the port: nobody it is about has a port named gone' },
    { title: 'a name that leads elsewhere', policies: cnp('p', 'web', 'egress: [{toFQDNs: [{matchName: a.com}]}]'), flow: flow(web, '203.0.113.1', 1), says: 'lacks the name: it is about matchName "a.com"; no name is known to lead there' },
    { title: 'another name', policies: cnp('p', 'web', 'egress: [{toFQDNs: [{matchName: a.com}]}]'), flow: flow(web, '203.0.113.1', 1, { names: ['b.com'] }), says: 'lacks the name: it is about matchName "a.com"; known to lead there: b.com' },
    { title: 'names and pods', policies: cnp('p', 'web', 'egress: [{toFQDNs: [{matchName: a.com}]}]'), flow: flow(web, db, 1), says: 'lacks the peer: it is about matchName "a.com"; names lead out of the cluster only' },
    { title: 'Baseline behind a NetworkPolicy', policies: `---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: shop}\nspec: {podSelector: {}}\n---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\nspec: {subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {}}]}]}\n`, flow: flow(db, web, 1), says: 'not reached: a NetworkPolicy selects this, and its verdict is final' },
  ] // prettier-ignore
  for (const { title, policies, flow: asked, says } of silent)
    test(`a rule that came to nothing is told of: ${title}`, () => {
      const loaded = loadWorld([{ path: 'p.yaml', text: pods + policies }])
      if (!loaded.ok) expect.fail(JSON.stringify(loaded.issues))
      const { text, decision } = explain(compile(policies), asked, loaded.world.policies)
      expect(decision.verdict).toBe('denied')
      expect(text.filter((line) => line.includes(says))).toHaveLength(1)
    })

  test('no rule is told of twice', () => {
    const rule = 'egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: sql}, {port: "80", protocol: TCP}]}]}, {toFQDNs: [{matchPattern: "*.com"}]}, {toEntities: [world], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]' // prettier-ignore
    const policies = cnp('p', 'web', rule)
    const loaded = loadWorld([{ path: 'p.yaml', text: pods + policies }])
    if (!loaded.ok) expect.fail(JSON.stringify(loaded.issues))
    for (const asked of [flow(web, db, 5432), flow(web, '203.0.113.1', 443, { names: ['a.com'] })]) {
      const lines = explain(compile(policies), asked, loaded.world.policies).text.filter((line) => line.startsWith('    '))
      expect(new Set(lines).size).toBe(lines.length)
      expect(lines.filter((line) => line.includes('nobody'))).toEqual([])
    }
  }) // prettier-ignore

  test('a peer whose port of that name is another', () => {
    const { text } = explain(compile(cnp('p', 'web', 'egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: sql, protocol: TCP}]}]}]')), flow(web, '10.0.0.1', 5432, { to: { kind: 'endpoint', endpoint: compile('').endpoints.find(({ name }) => name === 'jobs') ?? expect.fail() } })) // prettier-ignore
    expect(text.join('\n')).toContain('lacks the peer: it has no port named sql')
  })
})

test('many rules about one workload: what they say is found, not searched', () => {
  const blocks = Array.from({ length: 4000 }, (_, i) => `203.${i >> 8}.${i & 255}.0/24`)
  const rules = blocks.map(
    (cidr, i) => `{toCIDR: [${cidr}], toPorts: [{ports: [{port: "${1000 + i}", protocol: TCP}]}]}`,
  )
  const decider = makeDecider(compile(cnp('p', 'web', `egress: [${rules.join()}]`)))
  const ask = (port: (i: number) => number): Set<string> => new Set(blocks.map((cidr, i) => decider(flow(web, cidr.replace('0/24', '7'), port(i))).egress.verdict)) // prettier-ignore
  expect([ask((i) => 1000 + i), ask((i) => 1001 + i)]).toEqual([new Set(['allowed']), new Set(['denied'])])
})
