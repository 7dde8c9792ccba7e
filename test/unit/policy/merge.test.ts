// Allow rules that Cilium makes one of: what the one asks, the other asks too; and what cannot be one opens nothing, with the reason.
import { describe, expect, test } from 'vitest'
import { addressFromText } from '../../../src/net/address.ts'
import { portsToText } from '../../../src/net/ports.ts'
import { makeCompiler, type CompileOptions } from '../../../src/policy/compile.ts'
import { explain } from '../../../src/policy/explain.ts'
import { issueToText } from '../../../src/policy/field.ts'
import { openedPorts } from '../../../src/policy/names.ts'
import type { ParseOptions, World } from '../../../src/policy/rules.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { decide, type Decision, type Flow } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { labelsOf, wireFromText } from '../../../src/wire/name.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const pod = (name: string, address: string): string => `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: shop, labels: {app: ${name}}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIP: ${address}}
---
`
const pods = pod('web', '10.0.0.1') + pod('db', '10.0.0.2') + pod('cache', '10.0.0.3')
const policy = (name: string, spec: string, subject = '{matchLabels: {app: web}}'): string => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}, namespace: shop}
spec:
  endpointSelector: ${subject}
  ${spec}
---
`
const old: Partial<ParseOptions> = { ciliumVersion: [1, 17] }

function load(text: string, options: Partial<CompileOptions> = {}): World {
  const loaded = loadWorld([{ path: 'p.yaml', text: pods + text }], { ...old, semantics: options.semantics ?? 'spec' })
  return loaded.ok ? loaded.world : expect.fail(loaded.issues.map(issueToText).join('\n'))
}
function compile(text: string, options: Partial<CompileOptions> = {}): Snapshot {
  return makeCompiler({ hostAddresses: [], upstreams: [at('10.0.0.53')], denyReply: 'refused', ...options })(load(text, options)) // prettier-ignore
}
const to = (address: string, port: number, rest: Partial<Flow> = {}): Flow => ({ from: { kind: 'address', address: at('10.0.0.1') }, to: { kind: 'address', address: at(address) }, protocol: 6, port, ...rest }) // prettier-ignore
const egress = (decision: Decision): string => `${decision.egress.verdict}: ${decision.egress.why[0].text}`

/** Egress of web to db on tcp/80 unless said otherwise, each text what a rule asks there. */
const rule = (
  asks: string,
  { peer = 'toEndpoints: [{matchLabels: {app: db}}]', ports = '{port: "80", protocol: TCP}', more = '' } = {},
): string =>
  `egress: [{${peer}, toPorts: [{ports: [${ports}]${asks === '' ? '' : `, ${asks}`}}]${more === '' ? '' : `, ${more}`}}]`
const http = 'rules: {http: [{method: GET}]}'
const kafka = 'rules: {kafka: [{topic: a}]}'
const sni = 'serverNames: [a.com]'
const tls = (secret: string, side = 'terminating'): string => `${side}TLS: {secret: {name: ${secret}}}`
const listener = (name: string, priority = ''): string => `listener: {envoyConfig: {kind: CiliumEnvoyConfig, name: c}, name: ${name}${priority === '' ? '' : `, priority: ${priority}`}}` // prettier-ignore
const get: Partial<Flow> = { http: { method: 'GET' } }

describe('rules that cannot stand together', () => {
  const rows: { title: string; one: string; other: string; words?: RegExp }[] = [
    { title: 'HTTP and Kafka', one: rule(http), other: rule(kafka), words: /^cannot merge conflicting L7 parsers \(http\/kafka\)/ },
    { title: 'HTTP and server names', one: rule(http), other: rule(sni), words: /^cannot merge L7 rules with SNI filtering without TLS termination \(a\.com\)/ },
    { title: 'HTTP and server names, TLS ended by one', one: rule(`${http}, ${tls('s')}`), other: rule(sni) },
    { title: 'HTTP and a listener', one: rule(http), other: rule(listener('l')), words: /L7 parsers \(http\/crd\)/ },
    { title: 'server names and a listener', one: rule(sni), other: rule(listener('l')), words: /L7 parsers \(tls\/crd\)/ },
    { title: 'server names and DNS', one: rule('rules: {dns: [{matchPattern: "*"}]}', { ports: '{port: "53", protocol: TCP}' }), other: rule(sni, { ports: '{port: "53", protocol: TCP}' }), words: /L7 parsers \(dns\/tls\)/ },
    { title: 'listeners of one number', one: rule(listener('l', '2')), other: rule(listener('m', '2')), words: /Listeners \(CiliumEnvoyConfig\/c\/l\/CiliumEnvoyConfig\/c\/m\) with the same priority \(2\)/ },
    { title: 'listeners without numbers', one: rule(listener('l')), other: rule(listener('m')), words: /same priority \(0\)/ },
    { title: 'listeners of several numbers', one: rule(listener('l', '2')), other: rule(listener('m', '3')) },
    { title: 'a listener twice', one: rule(listener('l')), other: rule(listener('l')) },
    { title: 'ways to authenticate', one: rule('', { more: 'authentication: {mode: required}' }), other: rule('', { more: 'authentication: {mode: disabled}' }), words: /authentication types \(required\/disabled\)/ },
    { title: 'one way to authenticate', one: rule('', { more: 'authentication: {mode: required}' }), other: rule('') },
    { title: 'ways to end TLS', one: rule(tls('s')), other: rule(tls('t')), words: /terminating TLS contexts \(shop\/s\/shop\/t\)/ },
    { title: 'ways to begin TLS', one: rule(tls('s', 'originating')), other: rule(tls('t', 'originating')), words: /originating TLS contexts \(shop\/s\/shop\/t\)/ },
    { title: 'HTTP and HTTP', one: rule(http), other: rule('rules: {http: [{method: PUT}]}') },
    { title: 'other ports', one: rule(http), other: rule(kafka, { ports: '{port: "81", protocol: TCP}' }) },
    { title: 'a range that has the port', one: rule(http), other: rule(kafka, { ports: '{port: "80", endPort: 81, protocol: TCP}' }) },
    { title: 'another peer', one: rule(http), other: rule(kafka, { peer: 'toEndpoints: [{matchLabels: {app: cache}}]' }) },
    { title: 'one of several peers', one: rule(http), other: rule(kafka, { peer: 'toEndpoints: [{matchLabels: {app: cache}}, {matchLabels: {app: db}}]' }), words: /http\/kafka/ },
    { title: 'labels in another order', one: rule(http, { peer: 'toEndpoints: [{matchLabels: {app: db, "k8s:io.kubernetes.pod.namespace": shop}}]' }), other: rule(kafka, { peer: 'toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": shop, app: db}}]' }), words: /http\/kafka/ },
    { title: 'everyone, said in two ways', one: rule(http, { peer: 'toEntities: [all]' }), other: rule(kafka).replace('toEndpoints: [{matchLabels: {app: db}}], ', ''), words: /http\/kafka/ },
    { title: 'an entity that is part of another: for its own members only', one: rule(http, { peer: 'toEntities: [cluster]' }), other: rule(kafka, { peer: 'toEntities: [host]' }) },
    { title: 'a named port', one: rule(http, { ports: '{port: http, protocol: TCP}' }), other: rule(kafka, { ports: '{port: http, protocol: TCP}' }), words: /http\/kafka/ },
  ] // prettier-ignore
  for (const { title, one, other, words } of rows)
    for (const semantics of ['spec', 'cilium'] as const)
      test(`${title}, ${semantics}`, () => {
        const text = policy('a', one) + policy('b', other)
        const port = one.includes('"53"') ? 53 : 80
        const { egress: said } = decide(compile(text, { semantics }), to('10.0.0.2', port, { ...get, sni: 'a.com' }))
        const issues = loadWorld([{ path: 'p.yaml', text: pods + text }], { ...old, semantics })
        const warned = (issues.ok ? issues.warnings : []).filter(({ message }) => message.startsWith('cannot merge'))
        const isPart = one.includes('[cluster]')
        if (words === undefined) {
          expect([said.verdict, warned.length]).toEqual(['allowed', isPart ? 1 : 0])
          return
        }
        expect(said.verdict).toBe('denied')
        expect(said.why[0].text).toMatch(words)
        expect(said.why[0]).toMatchObject({ policy: 'shop/b', rule: 'spec.egress[0]' })
        // Both places: where it is said, and the other in the words.
        expect(said.why[0].text).toMatch(/with shop\/a spec\.egress\[0\] \(p\.yaml:\d+\): nothing is opened here$/)
        expect(warned).toHaveLength(1)
        expect(warned[0]).toMatchObject({ file: 'p.yaml', path: 'spec.egress[0]', severity: 'warning' })
        expect(warned[0]?.message).toMatch(words)
        expect(warned[0]?.message).toMatch(/with the rule at shop\/a, p\.yaml:\d+: /)
      })

  const both = policy('a', rule(http)) + policy('b', rule(kafka, { ports: '{port: "80", protocol: TCP}, {port: "81", protocol: TCP}' })) // prettier-ignore
  test('only where they meet: the other ports and peers go on', () => {
    const snapshot = compile(both)
    expect(egress(decide(snapshot, to('10.0.0.2', 81)))).toBe('redirect: a proxy judges Kafka')
    expect(egress(decide(snapshot, to('10.0.0.3', 80)))).toBe('denied: no rule matched; selected by shop/a, shop/b')
  })
  test('an allow without demands does not open it again, nor does a lower tier', () => {
    const everyone = policy('c', 'egress: [{toEntities: [all]}]')
    const baseline = `apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: open}
spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{namespaces: {}}]}]}
---
`
    for (const more of [everyone, baseline])
      expect(decide(compile(both + more), to('10.0.0.2', 80, get)).egress.verdict).toBe('denied')
  })
  test('who is selected by one of them is not concerned', () => {
    const snapshot = compile(policy('a', rule(http)) + policy('b', rule(kafka), '{matchLabels: {app: cache}}'))
    expect(decide(snapshot, to('10.0.0.2', 80, get)).egress.verdict).toBe('allowed')
  })
  test('in audit mode it is told, and passes', () => {
    expect(decide(compile(both, { audit: true }), to('10.0.0.2', 80, get)).egress.verdict).toBe('audited')
  })
  test('an explanation says it at its step', () => {
    const { text } = explain(compile(both), to('10.0.0.2', 80, get), load(both).policies)
    expect(
      text.filter((line) => line.startsWith('    ')).map((line) => line.replace(/p\.yaml:\d+/g, 'p.yaml')),
    ).toEqual([
      '    deny tcp/80 cannot merge conflicting L7 parsers (http/kafka) with shop/a spec.egress[0] (p.yaml): nothing is opened here (shop/b spec.egress[0], p.yaml): decides',
      '    allow tcp/81 (shop/b spec.egress[0], p.yaml): lacks the port: tcp/80 is not tcp/81',
      '    allow tcp/80 (shop/a spec.egress[0], p.yaml): opens nothing here: it cannot stand beside another rule',
    ])
  })
  test('ingress too', () => {
    const side = (text: string): string => text.replace('egress', 'ingress').replace('toEndpoints', 'fromEndpoints')
    const snapshot = compile(policy('a', side(rule(http))) + policy('b', side(rule(kafka))))
    const flow = { ...to('10.0.0.1', 80, get), from: { kind: 'address', address: at('10.0.0.2') } } as const
    expect(decide(snapshot, flow).ingress.verdict).toBe('denied')
  })
})

describe('what one asks, the others ask too', () => {
  const known = (text: string, name: string, flow: Partial<Flow> = {}): string =>
    decide(compile(text), to('10.0.0.2', 80, { ...flow, sni: name })).egress.verdict
  const plain = policy('b', rule(''))
  test('server names, of a rule that opens the port to the same peer', () => {
    const text = policy('a', rule(sni)) + plain
    expect([known(text, 'a.com'), known(text, 'b.com')]).toEqual(['allowed', 'denied'])
  })
  test('every name that some rule has', () => {
    const text = policy('a', rule(sni)) + policy('c', rule('serverNames: [c.com]')) + plain
    expect(['a.com', 'c.com', 'b.com'].map((name) => known(text, name))).toEqual(['allowed', 'allowed', 'denied'])
  })
  test('a rule about others, or about a range, stands for itself', () => {
    for (const peer of ['toEntities: [all]', 'toEndpoints: [{}]'])
      expect(known(policy('a', rule(sni)) + policy('b', rule('', { peer })), 'b.com')).toBe('allowed')
    expect(known(policy('a', rule(sni)) + policy('b', rule('', { ports: '{port: "80", endPort: 90, protocol: TCP}' })), 'b.com')).toBe('allowed') // prettier-ignore
  })
  test('of a rule about several peers and ports the rest stays as it is', () => {
    const wide = policy('b', rule('', { peer: 'toEndpoints: [{matchLabels: {app: db}}, {matchLabels: {app: cache}}]', ports: '{port: "80", protocol: TCP}, {port: "81", protocol: TCP}' })) // prettier-ignore
    const snapshot = compile(policy('a', rule(sni)) + wide)
    const verdict = (address: string, port: number): string => decide(snapshot, to(address, port, { sni: 'b.com' })).egress.verdict // prettier-ignore
    expect([verdict('10.0.0.2', 80), verdict('10.0.0.2', 81), verdict('10.0.0.3', 80), verdict('10.0.0.3', 82)]).toEqual(['denied', 'allowed', 'allowed', 'denied']) // prettier-ignore
  })
  test('a listener: the kernel alone opens nothing then', () => {
    const { entries } = compile(policy('a', rule(listener('l'))) + plain).policyOf(256).directions.egress
    expect(entries.map((entry) => entry.rule.listener?.name)).toEqual(['l', 'l'])
  })
  test('the listener with the lower number is taken', () => {
    const { entries } = compile(policy('a', rule(listener('l', '9'))) + policy('c', rule(listener('m', '2'))) + plain).policyOf(256).directions.egress // prettier-ignore
    expect(entries.map((entry) => entry.rule.listener?.name)).toEqual(['l', 'm', 'm'])
  })
  test("Kubernetes' own policies stand for themselves by the specification", () => {
    const own = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}
---
`
    const open = rule(sni).replace('toEndpoints: [{matchLabels: {app: db}}], ', '')
    const verdict = (semantics: 'spec' | 'cilium'): string => decide(compile(policy('a', open) + own, { semantics }), to('10.0.0.2', 80, { sni: 'b.com' })).egress.verdict // prettier-ignore
    expect([verdict('spec'), verdict('cilium')]).toEqual(['allowed', 'denied'])
  })
})

describe('names', () => {
  const named = (name: string, asks: string, ports = '{port: "443", protocol: TCP}'): string => rule(asks, { peer: `toFQDNs: [{matchName: ${name}}]`, ports }) // prettier-ignore
  const labels = (name: string): readonly string[] => labelsOf(wireFromText(name) ?? expect.fail(name))
  const about = (text: string, name: string): { asked: string; opened: string[] } => {
    const own = compile(text).policyOf(256)
    const { kind, why } = own.mayAsk(labels(name))
    return { asked: `${kind}: ${why.text}`, opened: openedPorts(own.grantsFor(labels(name))).map(portsToText) }
  }
  const closed = policy('a', named('a.com', http)) + policy('b', named('a.com', sni))
  test('of rules that cannot be one nothing is left to ask for', () => {
    const { asked, opened } = about(closed, 'a.com')
    expect(asked).toMatch(/^deny: cannot merge L7 rules with SNI filtering .* with shop\/a spec\.egress\[0\]/)
    expect(opened).toEqual([])
  })
  test('what else opens the name does so', () => {
    const more = policy('c', named('a.com', '', '{port: "80", protocol: TCP}'))
    expect(about(closed + more, 'a.com')).toEqual({ asked: 'allow: toFQDNs matchName "a.com"', opened: ['tcp/80'] })
  })
  test('no wider name opens the port again', () => {
    const more = policy('c', rule('', { peer: 'toFQDNs: [{matchPattern: "*.com"}]', ports: '{port: "443", protocol: TCP}' })) // prettier-ignore
    expect(about(closed + more, 'a.com').opened).toEqual([])
    expect(about(closed + more, 'b.com').opened).toEqual(['tcp/443'])
  })
  test('the verdict on an address says it; a name that is permitted keeps its address open', () => {
    const snapshot = compile(closed + policy('c', named('b.com', '')))
    const verdict = (...names: string[]): string => egress(decide(snapshot, to('192.0.2.1', 443, { names, sni: 'a.com', ...get }))) // prettier-ignore
    expect(verdict('a.com')).toMatch(/^denied: cannot merge L7 rules/)
    expect(verdict('a.com', 'b.com')).toBe('allowed: toFQDNs matchName "b.com"')
    expect(verdict('a.com', 'c.com')).toMatch(/^denied: /)
  })
  test('without default deny the name may be asked, and the port stays closed', () => {
    const free = (text: string): string => text.replaceAll('  egress: [', '  enableDefaultDeny: {egress: false}\n  egress: [') // prettier-ignore
    const snapshot = compile(free(closed))
    expect(snapshot.policyOf(256).mayAsk(labels('a.com')).kind).toBe('allow')
    expect(decide(snapshot, to('192.0.2.1', 443, { names: ['a.com'] })).egress.verdict).toBe('denied')
    expect(decide(snapshot, to('192.0.2.1', 80, { names: ['a.com'] })).egress.verdict).toBe('allowed')
  })
})
