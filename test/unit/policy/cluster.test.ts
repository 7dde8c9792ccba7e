// ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy: what each form means, and what their schemas refuse.
import { expect, test } from 'vitest'
import { makeTrie } from '../../../src/match/trie.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import { issueToText } from '../../../src/policy/field.ts'
import { decide, type Party } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { firstPeers, policyIn, ruleToText, selectorToText } from './ruleText.ts'

const object = (version: string, kind: string, name: string, spec: string): string =>
  `apiVersion: policy.networking.k8s.io/${version}\nkind: ${kind}\nmetadata: {name: ${name}}\nspec:\n  ${spec}\n`
/** Rules stand on line 6, from column 3. */
const cluster = (rules: string, tier = 'Admin'): string =>
  object(
    'v1alpha2',
    'ClusterNetworkPolicy',
    'a',
    `{tier: ${tier}, priority: 7, subject: {namespaces: {}},\n  ${rules}}`,
  )
const admin = (rules: string): string =>
  object('v1alpha1', 'AdminNetworkPolicy', 'a', `{priority: 7, subject: {namespaces: {}},\n  ${rules}}`)
const baseline = (rules: string, name = 'default'): string =>
  object('v1alpha1', 'BaselineAdminNetworkPolicy', name, `{subject: {namespaces: {}},\n  ${rules}}`)
const pods = '{namespaces: {}}'

interface Row {
  readonly title: string
  readonly text: string
  readonly spec: readonly string[]
  /** Where Cilium (1.20, cluster `default`) says otherwise. */
  readonly cilium?: readonly string[]
}

const rows: readonly Row[] = [
  { title: 'rules are tried in order', text: cluster(`ingress: [{action: Accept, from: [${pods}]}, {action: Deny, from: [${pods}]}, {action: Pass, from: [${pods}]}]`), spec: ['Admin 7 ingress allow [{ns}] any', 'Admin 7.001 ingress deny [{ns}] any', 'Admin 7.002 ingress pass [{ns}] any'] },
  { title: 'each direction counts for itself', text: cluster(`ingress: [{action: Accept, from: [${pods}]}], egress: [{action: Deny, to: [${pods}]}]`, 'Baseline'), spec: ['Baseline 7 ingress allow [{ns}] any', 'Baseline 7 egress deny [{ns}] any'] },
  { title: 'v1beta1', text: cluster(`ingress: [{action: Deny, from: [${pods}]}]`).replace('v1alpha2', 'v1beta1'), spec: ['Admin 7 ingress deny [{ns}] any'] },
  { title: 'AdminNetworkPolicy', text: admin(`egress: [{name: x, action: Allow, to: [${pods}]}, {action: Deny, to: [${pods}]}, {action: Pass, to: [${pods}]}]`), spec: ['Admin 7 egress allow [{ns}] any', 'Admin 7.001 egress deny [{ns}] any', 'Admin 7.002 egress pass [{ns}] any'] },
  { title: 'BaselineAdminNetworkPolicy', text: baseline(`ingress: [{action: Deny, from: [${pods}]}, {action: Allow, from: [${pods}]}]`), spec: ['Baseline 0 ingress deny [{ns}] any', 'Baseline 0.001 ingress allow [{ns}] any'] },
  { title: 'namespaces by label', text: cluster('ingress: [{action: Accept, from: [{namespaces: {matchLabels: {team: a}}}]}]'), spec: ['Admin 7 ingress allow [{nsl.team=a ns}] any'], cilium: ['Admin 7 ingress allow [{nsl.team=a}] any'] },
  { title: 'namespaces that are only excluded', text: cluster('ingress: [{action: Accept, from: [{namespaces: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}]}]'), spec: ['Admin 7 ingress allow [{nsl.team!=a ns}] any'], cilium: ['Admin 7 ingress allow [{nsl.team!=a}] any'] },
  { title: 'pods of namespaces', text: cluster('ingress: [{action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: b}}}}]}]'), spec: ['Admin 7 ingress allow [{nsl.team=a ns k8s:app=b}] any'], cilium: ['Admin 7 ingress allow [{nsl.team=a k8s:app=b cluster=default}] any'] },
  { title: 'pods of every namespace', text: cluster('ingress: [{action: Accept, from: [{pods: {podSelector: {}}}]}]'), spec: ['Admin 7 ingress allow [{ns}] any'], cilium: ['Admin 7 ingress allow [{ns cluster=default}] any'] },
  { title: 'nodes: this one too by the specification', text: cluster('egress: [{action: Deny, to: [{nodes: {matchLabels: {pool: a}}}]}]'), spec: ['Admin 7 egress deny [nodes and self{node:pool=a}] any'], cilium: ['Admin 7 egress deny [nodes{node:pool=a cluster=default}] any'] },
  { title: 'networks', text: cluster('egress: [{action: Deny, to: [{networks: [10.0.0.0/8, "fd00::/8"]}]}]'), spec: ['Admin 7 egress deny [10.0.0.0/8 everywhere, fd00::/8 everywhere] any'], cilium: ['Admin 7 egress deny [10.0.0.0/8 outside, fd00::/8 outside] any'] },
  { title: 'domainNames; Cilium lets them be asked of the cluster DNS', text: cluster('egress: [{action: Accept, to: [{domainNames: [a.example, "*.b.example."]}], protocols: [{tcp: {destinationPort: {number: 443}}}]}]'), spec: ['Admin 7 egress allow [matchName a.example, matchPattern *.b.example. deep] tcp/443'], cilium: ['Admin 7 egress allow [matchName a.example, matchPattern *.b.example. deep] tcp/443', 'Admin 7 egress allow [{any:k8s-app=kube-dns}] tcp/dns udp/dns sctp/dns tcp/dns-tcp udp/dns-tcp sctp/dns-tcp dns a.example,*.b.example.'] },
  { title: 'protocols', text: cluster(`ingress: [{action: Accept, from: [${pods}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {sctp: {}}, {tcp: {}}, {destinationNamedPort: web}]}]`), spec: ['Admin 7 ingress allow [{ns}] tcp/80 udp/1-9 sctp/* tcp/* tcp/web udp/web sctp/web'] },
  { title: 'ports of v1alpha1', text: admin(`ingress: [{action: Allow, from: [${pods}], ports: [{portNumber: {protocol: TCP, port: 80}}, {portNumber: {port: 81}}, {portRange: {protocol: UDP, start: 1, end: 9}}, {portRange: {start: 2, end: 3}}, {namedPort: web}]}]`), spec: ['Admin 7 ingress allow [{ns}] tcp/80 tcp/81 udp/1-9 tcp/2-3 tcp/web udp/web sctp/web'] },
  { title: 'domainNames of an AdminNetworkPolicy', text: admin('egress: [{action: Allow, to: [{domainNames: ["*.b.example"]}]}]'), spec: ['Admin 7 egress allow [matchPattern *.b.example deep] any'], cilium: ['Admin 7 egress allow [matchPattern *.b.example deep] any', 'Admin 7 egress allow [{any:k8s-app=kube-dns}] tcp/dns udp/dns sctp/dns tcp/dns-tcp udp/dns-tcp sctp/dns-tcp dns *.b.example'] },
  { title: 'a peer of a later version: what accepts accepts nothing', text: cluster(`egress: [{action: Accept, to: [{wormholes: {}}, ${pods}]}]`), spec: ['Admin 7 egress allow [] any'] },
  { title: 'a peer of a later version: what denies denies everyone', text: cluster(`egress: [{action: Deny, to: [{wormholes: {}}, ${pods}], protocols: [{tcp: {}}]}]`), spec: ['Admin 7 egress deny everyone tcp/*'] },
  { title: 'a peer of a later version: what passes denies everyone', text: cluster('egress: [{action: Pass, to: [{wormholes: {}}]}]'), spec: ['Admin 7 egress deny everyone any'] },
  { title: 'a protocol of a later version: what accepts accepts nothing', text: cluster(`egress: [{action: Accept, to: [${pods}], protocols: [{quicksand: {}}, {tcp: {}}]}]`), spec: ['Admin 7 egress allow [] any'] },
  { title: 'a protocol of a later version: what denies denies all of its peers', text: cluster(`egress: [{action: Deny, to: [${pods}], protocols: [{quicksand: {}}]}]`), spec: ['Admin 7 egress deny [{ns}] any'] },
  { title: 'a port of a later version', text: cluster(`egress: [{action: Pass, to: [${pods}], protocols: [{tcp: {destinationPort: {someday: 1}}}]}]`), spec: ['Admin 7 egress deny [{ns}] any'] },
] // prettier-ignore

for (const { title, text, spec, cilium = spec } of rows)
  for (const [semantics, want] of [
    ['spec', spec],
    ['cilium', cilium],
  ] as const)
    // prettier-ignore
    test(`${title} (${semantics})`, () => {
      const { policy, issues } = policyIn(text, { semantics })
      expect(policy?.rules.map(ruleToText) ?? issues).toEqual(want)
      expect(policy?.defaultDeny).toEqual({ ingress: false, egress: false })
      const directions = new Set(policy?.rules.map((rule) => rule.direction))
      expect(policy?.directions).toEqual([...directions])
    })

const subjects: readonly { text: string; semantics: 'spec' | 'cilium'; subject: string }[] = [
  { text: 'namespaces: {}', semantics: 'spec', subject: '{ns}' },
  { text: 'namespaces: {}', semantics: 'cilium', subject: '{ns}' },
  { text: 'namespaces: {matchLabels: {team: a}}', semantics: 'spec', subject: '{nsl.team=a ns}' },
  { text: 'namespaces: {matchLabels: {team: a}}', semantics: 'cilium', subject: '{nsl.team=a}' },
  { text: 'pods: {podSelector: {matchLabels: {app: b}}}', semantics: 'spec', subject: '{ns k8s:app=b}' },
  { text: 'pods: {podSelector: {matchLabels: {app: b}}}', semantics: 'cilium', subject: '{ns k8s:app=b}' },
] // prettier-ignore

for (const { text, semantics, subject } of subjects)
  test(`subject {${text}} (${semantics})`, () => {
    const { policy } = policyIn(object('v1alpha2', 'ClusterNetworkPolicy', 'a', `{tier: Admin, priority: 1, subject: {${text}}}`), { semantics }) // prettier-ignore
    expect(policy).toMatchObject({ name: 'a', namespace: undefined, rules: [], directions: [] })
    expect(selectorToText(policy?.subject.selector ?? [])).toBe(subject)
  })

test('*. stands for one or more labels', () => {
  const { policy } = policyIn(cluster('egress: [{action: Accept, to: [{domainNames: ["*.kubernetes.io"]}]}]'))
  const names = firstPeers(policy).flatMap((peer) =>
    peer.kind === 'name' ? [{ pattern: peer.pattern, value: 1 }] : [],
  )
  const trie = makeTrie(names)
  const matched = ['www', 'latest.blog', '', 'x-'].map((prefix) => trie.lookup([...prefix.split('.').filter((l) => l !== ''), 'kubernetes', 'io']).length) // prettier-ignore
  expect(matched).toEqual([1, 1, 0, 1])
  expect(trie.lookup(['wikipedia', 'org'])).toEqual([])
})

test('the rules of one policy never reach the priority of the next', () => {
  const rule = `{action: Deny, to: [${pods}]}`
  const { policy } = policyIn(admin(`egress: [${Array(100).fill(rule).join()}]`))
  const priorities = policy?.rules.map(({ priority }) => priority) ?? []
  expect(new Set(priorities).size).toBe(100)
  expect(priorities).toEqual([...priorities].sort((a, b) => a - b))
  expect(priorities.at(-1)).toBeLessThan(8)
})

const many = (n: number, item: string): string => `[${Array(n).fill(item).join(', ')}]`

/** Each is refused; what is said of it. */
const refused: readonly { text: string; says: readonly string[] }[] = [
  { text: object('v1alpha2', 'ClusterNetworkPolicy', 'a', '{}'), says: ['p:4:1: spec: tier: Required value', 'p:4:1: spec: priority: Required value', 'p:4:1: spec: subject: Required value'] },
  { text: cluster('ingress: []', 'Normal'), says: ['p:5:4: spec.tier: Unsupported value: "Normal": supported values: "Admin", "Baseline"'] },
  { text: cluster('ingress: []').replace('priority: 7', 'priority: 1001'), says: ['p:5:17: spec.priority: Invalid value: 1001: should be less than or equal to 1000'] },
  { text: cluster('ingress: []').replace('priority: 7', 'priority: -1'), says: ['p:5:17: spec.priority: Invalid value: -1: should be greater than or equal to 0'] },
  { text: cluster('ingress: []').replace('priority: 7', 'priority: 1.5'), says: ['p:5:17: spec.priority: must be an integer, not a number'] },
  { text: cluster('ingress: []').replace('{namespaces: {}}', '{}'), says: ['p:5:30: spec.subject: exactly one of namespaces, pods must be set, not none'] },
  { text: cluster('ingress: []').replace('{namespaces: {}}', '{namespaces: {}, pods: {podSelector: {}}}'), says: ['p:5:30: spec.subject: exactly one of namespaces, pods must be set, not namespaces and pods'] },
  { text: cluster('ingress: []').replace('{namespaces: {}}', '{pods: {}}'), says: ['p:5:40: spec.subject.pods: podSelector: Required value'] },
  { text: admin('ingress: []').replace('{namespaces: {}}', '{pods: {podSelector: {}}}'), says: ['p:5:27: spec.subject.pods: namespaceSelector: Required value'] },
  { text: cluster('ingress: [{}]'), says: ['p:6:13: spec.ingress[0]: action: Required value', 'p:6:13: spec.ingress[0]: from: Required value'] },
  { text: cluster('ingress: [{action: Accept, from: []}]'), says: ['p:6:30: spec.ingress[0].from: Invalid value: should have at least 1 items'] },
  { text: cluster(`ingress: [{action: Allow, from: [${pods}]}]`), says: ['p:6:14: spec.ingress[0].action: Unsupported value: "Allow": supported values: "Accept", "Deny", "Pass"'] },
  { text: baseline(`ingress: [{action: Pass, from: [${pods}]}]`), says: ['p:6:14: spec.ingress[0].action: Unsupported value: "Pass": supported values: "Allow", "Deny"'] },
  { text: cluster(`ingress: [{action: Deny, name: ${'x'.repeat(101)}, from: [${pods}]}]`), says: ['p:6:28: spec.ingress[0].name: Too long: may not be more than 100 characters'] },
  { text: cluster(`ingress: ${many(26, `{action: Deny, from: [${pods}]}`)}`), says: ['p:6:3: spec.ingress: Too many: 26: must have at most 25 items'] },
  { text: cluster(`ingress: [{action: Deny, from: ${many(26, pods)}}]`), says: ['p:6:28: spec.ingress[0].from: Too many: 26: must have at most 25 items'] },
  { text: admin(`ingress: ${many(101, `{action: Deny, from: [${pods}]}`)}`), says: ['p:6:3: spec.ingress: Too many: 101: must have at most 100 items'] },
  { text: cluster(`ingress: [{action: Deny, from: [${pods}], protocols: []}]`), says: ['p:6:54: spec.ingress[0].protocols: Invalid value: should have at least 1 items'] },
  { text: cluster(`ingress: [{action: Deny, from: [${pods}], ports: [{}]}]`), says: ['p:6:54: spec.ingress[0].ports: unknown field "ports"; ports are "protocols" here'] },
  { text: cluster('ingress: [{action: Deny, from: [{}]}]'), says: ['p:6:35: spec.ingress[0].from[0]: exactly one of namespaces, pods must be set, not none'] },
  { text: admin('ingress: [{action: Deny, from: [{namespaces: {namespaceSelector: {}}}]}]'), says: ['p:6:49: spec.ingress[0].from[0].namespaces.namespaceSelector: unknown field "namespaceSelector"; this is the selector itself: matchLabels, matchExpressions'] },
  { text: admin('ingress: [{action: Deny, from: [{pods: {namespaces: {}, namespaceSelector: {}, podSelector: {}}}]}]'), says: ['p:6:43: spec.ingress[0].from[0].pods.namespaces: unknown field "namespaces"; it is namespaceSelector here'] },
  { text: cluster('ingress: [{action: Deny, from: [{namespace: {}}]}]'), says: ['p:6:36: spec.ingress[0].from[0].namespace: unknown field "namespace"; did you mean "namespaces"?'] },
  { text: cluster('egress: [{action: Deny, to: [{namespaces: {}, nodes: {}}]}]'), says: ['p:6:32: spec.egress[0].to[0]: exactly one of namespaces, pods, networks, nodes, domainNames must be set, not namespaces and nodes'] },
  { text: cluster('egress: [{action: Deny, to: [{networks: [10.0.0.1, "::ffff:10.0.0.0/104", 10.0.0.0/8, 10.0.0.0/8]}]}]'), says: ['p:6:89: spec.egress[0].to[0].networks[3]: Duplicate value: "10.0.0.0/8"', 'p:6:44: spec.egress[0].to[0].networks[0]: Invalid CIDR format provided: "10.0.0.1"', 'p:6:54: spec.egress[0].to[0].networks[1]: Invalid CIDR format provided: "::ffff:10.0.0.0/104"'] },
  { text: cluster('egress: [{action: Deny, to: [{networks: []}]}]'), says: ['p:6:33: spec.egress[0].to[0].networks: Invalid value: should have at least 1 items'] },
  { text: cluster('egress: [{action: Deny, to: [{domainNames: [a.example]}]}]'), says: ['p:6:33: spec.egress[0].to[0].domainNames: egress.to.domainNames is only supported for egress.action=Accept'] },
  { text: cluster('egress: [{action: Pass, to: [{domainNames: [a.example]}]}]'), says: ['p:6:33: spec.egress[0].to[0].domainNames: egress.to.domainNames is only supported for egress.action=Accept'] },
  { text: cluster('egress: [{action: Accept, to: [{domainNames: [com, "a.*.com", "**.a.com", "*", -a.com]}]}]'), says: ['com', 'a.*.com', '**.a.com', '*', '-a.com'].map((name, i) => `p:6:${[49, 54, 65, 77, 82][i]}: spec.egress[0].to[0].domainNames[${i}]: Invalid value: "${name}": should be a domain name of at least two labels, with *. in front at most`) },
  { text: cluster('egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: web}]}]'), says: ['p:6:12: spec.egress[0]: networks/nodes/domainNames peer cannot be set with namedPorts since there are no namedPorts for networks/nodes/domainNames'] },
  { text: cluster(`ingress: [{action: Deny, from: [${pods}], protocols: [{tcp: {destinationPort: {number: 0}}}, {tcp: {destinationPort: {range: {start: 9, end: 9}}}}, {tcp: {}, udp: {}}, {udp: {destinationPort: {}}}]}]`), says: ['p:6:91: spec.ingress[0].protocols[0].tcp.destinationPort.number: Invalid value: 0: should be greater than or equal to 1', 'p:6:130: spec.ingress[0].protocols[1].tcp.destinationPort.range: Start port must be less than End port', 'p:6:160: spec.ingress[0].protocols[2]: exactly one of tcp, udp, sctp, destinationNamedPort must be set, not tcp and udp', 'p:6:187: spec.ingress[0].protocols[3].udp.destinationPort: exactly one of number, range must be set, not none'] },
  { text: admin(`ingress: [{action: Deny, from: [${pods}], ports: [{portNumber: {protocol: GRE, port: 1}}, {portNumber: {protocol: TCP}}, {portRange: {start: 1}}]}]`), says: ['p:6:76: spec.ingress[0].ports[0].portNumber.protocol: Unsupported value: "GRE": supported values: "SCTP", "TCP", "UDP"', 'p:6:103: spec.ingress[0].ports[1].portNumber: port: Required value', 'p:6:134: spec.ingress[0].ports[2].portRange: end: Required value'] },
  { text: baseline('egress: [{action: Deny, to: [{nodes: {}}], ports: [{namedPort: web}]}]'), says: ['p:6:12: spec.egress[0]: networks/nodes peer cannot be set with namedPorts since there are no namedPorts for networks/nodes'] },
  { text: baseline('ingress: []', 'mine'), says: ['p:4:1: spec: Only one baseline admin network policy with metadata.name="default" can be created in the cluster'] },
  { text: baseline('ingress: []').replace('{subject', '{priority: 1, subject'), says: ['p:5:4: spec.priority: unknown field "priority"'] },
] // prettier-ignore

for (const { text, says } of refused)
  test(says.join('; ').slice(0, 200), () => {
    const { policy, issues } = policyIn(text)
    expect(issues).toEqual(says)
    expect(policy).toBeUndefined()
  })

test('what fails closed is said', () => {
  expect(policyIn(cluster('egress: [{action: Accept, to: [{wormholes: {}}]}]')).issues).toEqual([
    'p:6:35: warning: spec.egress[0].to[0].wormholes: unknown field "wormholes": the rule fails closed (what accepts accepts nothing, what denies or passes denies)',
  ])
})

const place = (kind: string, name: string, address: string): string =>
  kind === 'Node'
    ? `apiVersion: v1\nkind: Node\nmetadata: {name: ${name}, labels: {pool: x}}\nstatus: {addresses: [{type: InternalIP, address: ${address}}]}\n---\n`
    : `apiVersion: v1\nkind: Pod\nmetadata: {name: ${name}}\nstatus: {podIP: ${address}}\n---\n`
const onNodes = `${place('Node', 'n1', '10.1.0.1')}${place('Node', 'n2', '10.1.0.2')}${place('Pod', 'web', '10.0.0.1')}${cluster('egress: [{action: Deny, to: [{nodes: {matchLabels: {pool: x}}}]}]')}` // prettier-ignore

for (const [semantics, want] of [
  ['spec', ['denied', 'denied']],
  ['cilium', ['allowed', 'denied']],
] as const)
  // prettier-ignore
  test(`nodes, this one and another (${semantics})`, () => {
    const loaded = loadWorld([{ path: 'p', text: onNodes }], { semantics })
    if (!loaded.ok) throw new Error(loaded.issues.map(issueToText).join('\n'))
    const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', localNode: 'n1', semantics })(loaded.world) // prettier-ignore
    const party = (text: string): Party => ({ kind: 'address', address: addressFromText(text) as Address })
    const verdictOn = (to: string): string =>
      decide(snapshot, { from: party('10.0.0.1'), to: party(to), protocol: 6, port: 80 }).verdict
    expect(['10.1.0.1', '10.1.0.2'].map(verdictOn)).toEqual(want)
  })
