// NetworkPolicy: what each form means, by the specification and in Cilium, and what the API server refuses.
import { expect, test } from 'vitest'
import { selects } from '../../../src/identity/selector.ts'
import { firstPeers, policyIn, ruleToText, selectorToText } from './ruleText.ts'

/** A policy whose spec begins on line 4. */
const np = (spec: string): string =>
  `apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: shop}\n${spec}`
const inSpec = (fields: string): string => np(`spec: {podSelector: {}, ${fields}}`)

interface Row {
  readonly title: string
  readonly text: string
  /** Directions that are isolated, and each rule. */
  readonly spec: readonly string[]
  /** Where Cilium (1.20, cluster `default`) says otherwise. */
  readonly cilium?: readonly string[]
}

const rows: readonly Row[] = [
  { title: 'no spec: every pod is isolated for ingress', text: np(''), spec: ['ingress'] },
  { title: 'an empty spec', text: np('spec: {}'), spec: ['ingress'] },
  { title: 'policyTypes absent', text: np('spec: {podSelector: {}}'), spec: ['ingress'] },
  { title: 'policyTypes absent, egress rules', text: inSpec('egress: [{}]'), spec: ['ingress,egress', 'egress allow everyone any'] },
  { title: 'policyTypes absent, an empty egress section', text: inSpec('egress: []'), spec: ['ingress,egress'], cilium: ['ingress'] },
  { title: 'policyTypes empty is absent', text: inSpec('policyTypes: [], egress: [{}]'), spec: ['ingress,egress', 'egress allow everyone any'] },
  { title: 'both directions, no rules', text: inSpec('policyTypes: [Egress, Ingress]'), spec: ['ingress,egress'] },
  { title: 'an empty rule is everything', text: inSpec('ingress: [{}]'), spec: ['ingress', 'ingress allow everyone any'] },
  { title: 'an empty from is everyone', text: inSpec('ingress: [{from: [], ports: [{port: 80}]}]'), spec: ['ingress', 'ingress allow everyone tcp/80'] },
  { title: 'a null from is everyone', text: inSpec('ingress: [{from: null}]'), spec: ['ingress', 'ingress allow everyone any'] },
  { title: 'rules of a direction that policyTypes leaves out', text: inSpec('policyTypes: [Ingress], egress: [{ports: [{port: 1}]}]'), spec: ['ingress'], cilium: ['ingress,egress', 'egress allow everyone tcp/1'] },
  { title: 'ingress rules under policyTypes [Egress]', text: inSpec('policyTypes: [Egress], ingress: [{}]'), spec: ['egress'], cilium: ['ingress,egress', 'ingress allow everyone any'] },
  { title: 'every pod of the same namespace', text: inSpec('ingress: [{from: [{podSelector: {}}]}]'), spec: ['ingress', 'ingress allow [{ns=shop}] any'], cilium: ['ingress', 'ingress allow [{ns=shop cluster=default}] any'] },
  { title: 'every pod of every namespace', text: inSpec('ingress: [{from: [{namespaceSelector: {}}]}]'), spec: ['ingress', 'ingress allow [{ns}] any'], cilium: ['ingress', 'ingress allow [{ns cluster=default}] any'] },
  { title: 'namespaces by label are of pods', text: inSpec('ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]'), spec: ['ingress', 'ingress allow [{nsl.team=a ns}] any'], cilium: ['ingress', 'ingress allow [{nsl.team=a cluster=default}] any'] },
  { title: 'namespace and pod in one item: both', text: inSpec('egress: [{to: [{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: b}}}]}]'), spec: ['ingress,egress', 'egress allow [{nsl.team=a ns k8s:app=b}] any'], cilium: ['ingress,egress', 'egress allow [{nsl.team=a k8s:app=b cluster=default}] any'] },
  { title: 'namespace and pod in two items: either', text: inSpec('egress: [{to: [{namespaceSelector: {}}, {podSelector: {matchLabels: {app: b}}}]}]'), spec: ['ingress,egress', 'egress allow [{ns}, {k8s:app=b ns=shop}] any'], cilium: ['ingress,egress', 'egress allow [{ns cluster=default}, {k8s:app=b ns=shop cluster=default}] any'] },
  { title: 'every operator', text: inSpec('ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [x, y]}, {key: b, operator: NotIn, values: [z]}, {key: c, operator: Exists}, {key: d.io/e, operator: DoesNotExist}]}}]}]'), spec: ['ingress', 'ingress allow [{k8s:a=x|y k8s:b!=z k8s:c !k8s:d.io/e ns=shop}] any'], cilium: ['ingress', 'ingress allow [{k8s:a=x|y k8s:b!=z k8s:c !k8s:d.io/e ns=shop cluster=default}] any'] },
  { title: 'a cluster that is named stays', text: inSpec('ingress: [{from: [{podSelector: {matchLabels: {io.cilium.k8s.policy.cluster: east}}}]}]'), spec: ['ingress', 'ingress allow [{cluster=east ns=shop}] any'] },
  { title: 'ipBlock', text: inSpec('egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]'), spec: ['ingress,egress', 'egress allow [10.0.0.0/8 everywhere] any'], cilium: ['ingress,egress', 'egress allow [10.0.0.0/8 outside] any'] },
  { title: 'ipBlock with except', text: inSpec('egress: [{to: [{ipBlock: {cidr: 10.0.0.0/30, except: [10.0.0.0/32, 10.0.0.3/32]}}]}]'), spec: ['ingress,egress', 'egress allow [10.0.0.1-10.0.0.2 everywhere] any'], cilium: ['ingress,egress', 'egress allow [10.0.0.1-10.0.0.2 outside] any'] },
  { title: 'ipBlock of IPv6 with host bits', text: inSpec('egress: [{to: [{ipBlock: {cidr: "fd00::1/8"}}]}]'), spec: ['ingress,egress', 'egress allow [fd00::/8 everywhere] any'], cilium: ['ingress,egress', 'egress allow [fd00::/8 outside] any'] },
  { title: 'a null peer beside an ipBlock is none', text: inSpec('egress: [{to: [{podSelector: null, ipBlock: {cidr: 10.0.0.0/8}}]}]'), spec: ['ingress,egress', 'egress allow [10.0.0.0/8 everywhere] any'], cilium: ['ingress,egress', 'egress allow [10.0.0.0/8 outside] any'] },
  { title: 'ports: protocol defaults to TCP', text: inSpec('ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 9, protocol: SCTP}]}]'), spec: ['ingress', 'ingress allow everyone tcp/80 udp/53 sctp/9'] },
  { title: 'ports: no port is every port of the protocol', text: inSpec('ingress: [{ports: [{protocol: UDP}, {}]}]'), spec: ['ingress', 'ingress allow everyone udp/* tcp/*'] },
  { title: 'ports: empty is every port and protocol', text: inSpec('ingress: [{ports: []}]'), spec: ['ingress', 'ingress allow everyone any'] },
  { title: 'ports: a name', text: inSpec('ingress: [{ports: [{port: http}, {port: dns-2, protocol: UDP}]}]'), spec: ['ingress', 'ingress allow everyone tcp/http udp/dns-2'] },
  { title: 'ports: a range', text: inSpec('ingress: [{ports: [{port: 80, endPort: 90}, {port: 7, endPort: 7}]}]'), spec: ['ingress', 'ingress allow everyone tcp/80-90 tcp/7'] },
] // prettier-ignore

const summary = (text: string, semantics: 'spec' | 'cilium'): readonly string[] => {
  const { policy, issues } = policyIn(text, { semantics })
  if (policy === undefined) return issues
  expect(policy.defaultDeny).toEqual({
    ingress: policy.directions.includes('ingress'),
    egress: policy.directions.includes('egress'),
  })
  return [policy.directions.join(), ...policy.rules.map(ruleToText)]
}

for (const { title, text, spec, cilium = spec } of rows) {
  test(`${title} (spec)`, () => expect(summary(text, 'spec')).toEqual(spec))
  test(`${title} (cilium)`, () => expect(summary(text, 'cilium')).toEqual(cilium))
}

test('whom a policy selects, and where it and its rules stand', () => {
  const { policy } = policyIn(
    np('spec:\n  podSelector:\n    matchLabels: {app: web}\n  ingress:\n  - from:\n    - podSelector: {}\n    ports:\n    - port: 80'),
  ) // prettier-ignore
  expect(policy).toMatchObject({ kind: 'NetworkPolicy', name: 'shop/a', namespace: 'shop', file: 'p', line: 4 })
  expect(selectorToText(policy?.subject.selector ?? [])).toBe('{k8s:app=web ns=shop}')
  expect(policy?.rules[0]).toMatchObject({ path: 'spec.ingress[0]', line: 8, peers: [{ path: 'spec.ingress[0].from[0]', line: 9 }] }) // prettier-ignore
})

test('peers of older Ciliums are of every cluster', () => {
  const { policy } = policyIn(inSpec('ingress: [{from: [{podSelector: {}}]}]'), { semantics: 'cilium', ciliumVersion: [1, 18] }) // prettier-ignore
  expect(policy?.rules.map(ruleToText)).toEqual(['ingress allow [{ns=shop}] any'])
})

test('a namespace peer that only excludes: pods by the specification, the world too in a Cilium before 1.19', () => {
  const text = inSpec('ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}]}]') // prettier-ignore
  const world = new Map([['reserved:world', '']])
  const reaches = (options: Parameters<typeof policyIn>[1]): boolean =>
    firstPeers(policyIn(text, options).policy).some(
      (peer) => peer.kind === 'endpoints' && selects(peer.selector, world),
    )
  expect(reaches({ semantics: 'spec' })).toBe(false)
  expect(reaches({ semantics: 'cilium' })).toBe(false)
  expect(reaches({ semantics: 'cilium', ciliumVersion: [1, 18] })).toBe(true)
})

const warned: readonly { text: string; semantics: 'spec' | 'cilium'; issues: readonly string[] }[] = [
  { text: np('spec: {}'), semantics: 'spec', issues: ['p:4:1: warning: spec: podSelector is not there: the policy selects every pod of namespace shop'] },
  { text: np(''), semantics: 'spec', issues: ['p:1:1: warning: spec: podSelector is not there: the policy selects every pod of namespace shop'] },
  { text: inSpec('egress: []'), semantics: 'spec', issues: ['p:4:25: warning: spec.egress: empty, without policyTypes: the text of the API isolates egress here, the API server does not; say policyTypes'] },
  { text: inSpec('policyTypes: [Ingress], egress: [{}]'), semantics: 'spec', issues: ['p:4:49: warning: spec.egress: has no effect: policyTypes does not name Egress'] },
  { text: inSpec('policyTypes: [Ingress], egress: [{}]'), semantics: 'cilium', issues: [] },
  { text: inSpec('policyTypes: [Ingress], egress: []'), semantics: 'spec', issues: [] },
] // prettier-ignore

for (const { text, semantics, issues } of warned)
  test(`warned of (${semantics}): ${text.slice(text.indexOf('spec:'))}`, () =>
    expect(policyIn(text, { semantics }).issues).toEqual(issues))

/** Each is refused; what is said of it. `S` stands for the place of `spec`. */
const refused: readonly { text: string; says: string }[] = [
  { text: inSpec('polcyTypes: [Ingress]'), says: 'p:4:25: spec.polcyTypes: unknown field "polcyTypes"; did you mean "policyTypes"?' },
  { text: inSpec('ingress: [{form: []}]'), says: 'p:4:36: spec.ingress[0].form: unknown field "form"; did you mean "from"?' },
  { text: inSpec('endpointSelector: {}'), says: 'p:4:25: spec.endpointSelector: unknown field "endpointSelector"; a NetworkPolicy selects with podSelector' },
  { text: inSpec('egressDeny: [{}]'), says: 'p:4:25: spec.egressDeny: unknown field "egressDeny"; a NetworkPolicy only allows: denials are for CiliumNetworkPolicy and ClusterNetworkPolicy' },
  { text: inSpec('ingress: [{podSelector: {}}]'), says: 'p:4:36: spec.ingress[0].podSelector: unknown field "podSelector"; it stands in an item of from' },
  { text: inSpec('ingress: [{fromEndpoints: [{}]}]'), says: 'p:4:36: spec.ingress[0].fromEndpoints: unknown field "fromEndpoints"; peers are podSelector, namespaceSelector or ipBlock in an item of from' },
  { text: inSpec('egress: [{toFQDNs: []}]'), says: 'p:4:35: spec.egress[0].toFQDNs: unknown field "toFQDNs"; a NetworkPolicy knows no names: those are for CiliumNetworkPolicy and ClusterNetworkPolicy' },
  { text: inSpec('egress: [{from: []}]'), says: 'p:4:35: spec.egress[0].from: unknown field "from"' },
  { text: inSpec('ingress: {}'), says: 'p:4:25: spec.ingress: must be a list, not a mapping' },
  { text: inSpec('policyTypes: [Ingres]'), says: 'p:4:39: spec.policyTypes[0]: Unsupported value: "Ingres": supported values: "Egress", "Ingress"; did you mean "Ingress"?' },
  { text: inSpec('policyTypes: [Ingress, Egress, Ingress]'), says: 'p:4:25: spec.policyTypes: Invalid value: may not specify more than two policyTypes' },
  { text: inSpec('ingress: [{from: [{}]}]'), says: 'p:4:43: spec.ingress[0].from[0]: Required value: must specify a peer' },
  { text: inSpec('ingress: [{from: [{podSelector: null}]}]'), says: 'p:4:43: spec.ingress[0].from[0]: Required value: must specify a peer' },
  { text: inSpec('ingress: [{from: [null]}]'), says: 'p:4:43: spec.ingress[0].from[0]: must be a mapping, not nothing' },
  { text: inSpec('ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]'), says: 'p:4:43: spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer' },
  { text: inSpec('ingress: [{from: [{ipBlock: {}}]}]'), says: 'p:4:44: spec.ingress[0].from[0].ipBlock: cidr: Required value' },
  { text: inSpec('ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]'), says: 'p:4:54: spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.1": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)' },
  { text: inSpec('ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]'), says: 'p:4:81: spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "11.0.0.0/8": must be a strict subset of `cidr`' },
  { text: inSpec('ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]'), says: 'p:4:81: spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`' },
  { text: inSpec('ingress: [{ports: [{port: 0}]}]'), says: 'p:4:45: spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive' },
  { text: inSpec('ingress: [{ports: [{port: 80, endPort: 79}]}]'), says: 'p:4:55: spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`' },
  { text: inSpec('ingress: [{ports: [{port: 80, endPort: 65536}]}]'), says: 'p:4:55: spec.ingress[0].ports[0].endPort: Invalid value: 65536: must be between 1 and 65535, inclusive' },
  { text: inSpec('ingress: [{ports: [{port: http, endPort: 90}]}]'), says: 'p:4:57: spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric' },
  { text: inSpec('ingress: [{ports: [{endPort: 90}]}]'), says: 'p:4:45: spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is not specified' },
  { text: inSpec('ingress: [{ports: [{port: "80"}]}]'), says: 'p:4:45: spec.ingress[0].ports[0].port: Invalid value: "80": must contain at least one letter (a-z); a port number stands without quotes here' },
  { text: inSpec('ingress: [{ports: [{port: 80-90}]}]'), says: 'p:4:45: spec.ingress[0].ports[0].port: Invalid value: "80-90": a range is port: 80 with endPort: 90' },
  { text: inSpec('ingress: [{ports: [{port: a--b}]}]'), says: 'p:4:45: spec.ingress[0].ports[0].port: Invalid value: "a--b": must not contain consecutive hyphens' },
  { text: inSpec('ingress: [{ports: [{port: HTTP}]}]'), says: 'p:4:45: spec.ingress[0].ports[0].port: Invalid value: "HTTP": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)' },
  { text: inSpec('ingress: [{ports: [{port: 1, protocol: GRE}]}]'), says: 'p:4:54: spec.ingress[0].ports[0].protocol: Unsupported value: "GRE": supported values: "SCTP", "TCP", "UDP"' },
  { text: inSpec('ingress: [{from: [{podSelector: {matchLabels: {"k8s:app": a}}}]}]'), says: "p:4:72: spec.ingress[0].from[0].podSelector.matchLabels.k8s:app: invalid label selector: key: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.' (sources such as `k8s:` are of Cilium's policies)" },
  { text: inSpec('ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Is}]}}]}]'), says: 'p:4:86: spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: invalid label selector: operator: Invalid value: "Is": not a valid selector operator; did you mean "In"?' },
  { text: np('spec: {podSelector: {}}\nspecs: []'), says: 'p:5:1: specs: unknown field "specs"; did you mean "spec"?' },
  { text: np('spec: {podSelector: {}}').replace('name: a', 'name: A_b'), says: `p:3:1: metadata: metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character` },
] // prettier-ignore

for (const { text, says } of refused)
  test(says, () => {
    const { policy, issues } = policyIn(text)
    expect(issues).toEqual([says])
    expect(policy).toBeUndefined()
  })

test('everything that is wrong is said at once', () => {
  const { issues } = policyIn(
    inSpec('policyTypes: [X], ingress: [{from: [{}], ports: [{port: 0}]}], egress: [{to: [{ipBlock: {cidr: x}}]}]'),
  )
  expect(issues).toHaveLength(4)
})
