// Cilium's policies: what each field becomes, what is refused and in which words.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Selector } from '../../../src/identity/selector.ts'
import { portsToText, protocolName } from '../../../src/net/ports.ts'
import { rangeToText } from '../../../src/net/prefix.ts'
import { issueToText } from '../../../src/policy/field.ts'
import type { L7, ParseOptions, Peer, Policy, Rule, RulePorts } from '../../../src/policy/rules.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

type Options = Partial<ParseOptions>
const old: Options = { ciliumVersion: [1, 18] }

/** A policy of the namespace shop, whose spec stands in line 5 and following; `wide`: a cluster-wide one. */
const manifest = (spec: string, wide = false): string => `apiVersion: cilium.io/v2
kind: ${wide ? 'CiliumClusterwideNetworkPolicy' : 'CiliumNetworkPolicy'}
metadata: {name: p${wide ? '' : ', namespace: shop'}}
spec:
${spec}`
const subject = '  endpointSelector: {}\n'

function load(text: string, options?: Options): { policy: Policy | undefined; issues: string[] } {
  const loaded = loadWorld([{ path: 'p.yaml', text }], options)
  const issues = (loaded.ok ? loaded.warnings : loaded.issues).map(issueToText)
  return { policy: loaded.ok ? loaded.world.policies[0] : undefined, issues }
}
function policyOf(text: string, options?: Options): Policy {
  const { policy, issues } = load(text, options)
  return policy ?? expect.fail(issues.join('\n'))
}
/** The rules of a spec that selects all pods of shop. */
const rulesOf = (rest: string, options?: Options, wide = false): readonly Rule[] =>
  policyOf(manifest(subject + rest, wide), options).rules
/** What is said about such a spec, without file, line, column and `spec.`. */
const saidOf = (rest: string, options?: Options, wide = false): string[] =>
  load(manifest(subject + rest, wide), options).issues.map(withoutPlace)
const withoutPlace = (text: string): string => text.split(' ').slice(1).join(' ').replace('spec.', '')

const selectorText = (selector: Selector): string =>
  selector.map((r) => ('values' in r ? `${r.key} ${r.operator} ${r.values.join('|')}` : `${r.key} ${r.operator}`)).join(', ') // prettier-ignore
const portText = (port: RulePorts): string =>
  port.kind === 'named' ? `${protocolName(port.protocol)}/${port.name}${port.endPort === undefined ? '' : `-${port.endPort}`}` : portsToText(port) // prettier-ignore
function peerText(peer: Peer): string {
  switch (peer.kind) {
    case 'cidr':
      return `${peer.reach} ${peer.ranges.map(rangeToText).join('+')}`
    case 'cidrGroup': {
      const except = peer.except.map(rangeToText).join('+')
      return `group ${typeof peer.group === 'string' ? peer.group : `{${selectorText(peer.group)}}`}${except === '' ? '' : ` except ${except}`}` // prettier-ignore
    }
    case 'endpoints':
      return `pods {${selectorText(peer.selector)}}`
    case 'nodes':
      return `nodes {${selectorText(peer.selector)}}`
    case 'entity':
      return peer.entity
    case 'name':
      return `${peer.field} ${peer.text}`
    case 'service':
      return `service ${peer.namespace ?? '*'}/${typeof peer.service === 'string' ? peer.service : `{${selectorText(peer.service)}}`}` // prettier-ignore
    case 'unresolved':
      return `? ${peer.field}`
  }
}
const peersText = (rule: Rule): string => (rule.peers === 'everyone' ? 'everyone' : rule.peers.map(peerText).join('; '))
/** `allow egress cluster: tcp/443`. */
const ruleText = (rule: Rule): string => `${rule.kind} ${rule.direction} ${peersText(rule)}: ${rule.ports.map(portText).join(' ')}` // prettier-ignore

// Three of the agent's messages depend on its switches, which are always on here: "L7 policy is not supported since L7 proxy is not enabled",
// and that ICMP rules and FromNodes/ToNodes rules can only be applied when their flag is set.
describe('the agent’s messages, and what brings them about', () => {
  const ports = '[{port: "80", protocol: TCP}]'
  const rows: { spec?: string; rest?: string; wide?: boolean; options?: Options; says: string }[] = [
    { rest: '', says: 'rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny' },
    { spec: '  ingress: [{}]', says: 'rule must have one of EndpointSelector or NodeSelector' },
    { spec: '  endpointSelector: {}\n  nodeSelector: {}\n  ingress: [{}]', wide: true, says: 'rule cannot have both EndpointSelector and NodeSelector' },
    { spec: '  nodeSelector: {}\n  ingress: [{}]', says: 'Invalid CiliumNetworkPolicy spec: rule cannot have NodeSelector' },
    { spec: `  nodeSelector: {}\n  ingress: [{toPorts: [{ports: ${ports}, rules: {http: [{}]}}]}]`, wide: true, says: 'L7 policy is not supported on host ingress yet' },
    { spec: `  nodeSelector: {}\n  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{}]}}]}]`, wide: true, says: 'L7 protocol HTTP is not supported on host egress yet' },
    { rest: '  ingress: [{toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchPattern: "*"}]}}]}]', says: 'L7 protocol DNS is not supported on ingress yet' },
    { rest: '  ingress: [{toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchPattern: "*"}]}}]}]', says: 'DNS rules are not allowed on ingress' },
    { rest: `  ingress: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: ${ports}}]}]`, says: 'the ICMPs block may only be present without ToPorts. Define a separate rule to use ToPorts' },
    { rest: '  egressDeny: [{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: "1"}]}]}]', says: 'the ICMPs block may only be present without ToPorts. Define a separate rule to use ToPorts' },
    { rest: '  ingress: [{fromEndpoints: [{}], fromCIDR: [1.0.0.0/8]}]', says: 'combining FromEndpoints and FromCIDR is not supported yet' },
    { rest: '  egress: [{toFQDNs: [{matchName: a.com}], toEntities: [world]}]', says: 'combining ToEntities and ToFQDNs is not supported yet' },
    { rest: '  egressDeny: [{toServices: [{k8sService: {serviceName: a}}], toNodes: [{}]}]', says: 'combining ToNodes and ToServices is not supported yet' },
    { rest: '  ingress: [{fromEntities: [wrld]}]', says: 'unsupported entity: wrld; did you mean "world"?' },
    { rest: '  egress: [{toEntities: [World]}]', says: 'unsupported entity: World; did you mean "world"?' },
    { rest: '  egress: [{toPorts: [{rules: {dns: [{matchName: a.com}]}}]}]', says: 'port 53 must be specified for DNS rules' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{}], dns: [{matchName: a.com}]}}]}]`, says: 'multiple L7 protocol rule types specified in single rule' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, serverNames: [a.com], rules: {http: [{}]}}]}]`, says: 'ServerNames are not allowed with L7 rules without TLS termination' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, serverNames: [""]}]}]`, says: 'empty server name is not allowed' },
    { rest: `  egress: [{toPorts: [{ports: [${Array(41).fill('{port: "1"}').join()}]}]}]`, says: 'too many ports, the max is 40' },
    { rest: `  egress: [{icmps: [{fields: [${Array(41).fill('{type: 1}').join()}]}]}]`, says: 'too many types, the max is 40' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "80", protocol: UDP}], rules: {http: [{}]}}]}]', says: 'L7 rules can only apply to TCP (not UDP) except for DNS rules' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "80"}], rules: {http: [{}]}}]}]', says: 'L7 rules can only apply to TCP (not ANY) except for DNS rules' },
    { rest: `  ingress: [{toPorts: [{ports: ${ports}, listener: {name: l, envoyConfig: {name: c}}}]}]`, says: 'Listener is not allowed on ingress (l)' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{}]}, listener: {name: l, envoyConfig: {name: c}}}]}]`, says: 'Listener is not allowed with L7 rules (l)' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "0", protocol: TCP}], rules: {http: [{}]}}]}]', says: 'L7 rules can not be used when a port is 0' },
    { rest: '  egress: [{toPorts: [{ports: [{protocol: TCP}]}]}]', says: 'port must be specified' },
    { rest: '  egress: [{toPorts: [{ports: [{port: ""}]}]}]', says: 'port must be specified' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "1", protocol: GRE}]}]}]', says: 'port must be empty or 0' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "99999"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "99999": value out of range' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "80-90"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "80-90": invalid syntax; a range is port: "80" with endPort: 90' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "80,443"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "80,443": invalid syntax; each port is an item of its own' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "*"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "*": invalid syntax; every port is "0", or no toPorts' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "a_b"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "a_b": invalid syntax' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "a-service-with-a-long-name"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "a-service-with-a-long-name": invalid syntax' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "08"}]}]}]', says: 'unable to parse port: strconv.ParseUint: parsing "08": invalid syntax' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "53", endPort: 54}], rules: {dns: [{matchName: a.com}]}}]}]', says: 'DNS rules do not support port ranges' },
    { rest: '  egress: [{icmps: [{fields: [{family: IPv5, type: 1}]}]}]', says: 'wrong family: IPv5; did you mean "IPv4"?' },
    { rest: '  egress: [{icmps: [{fields: [{type: PacketTooBig}]}]}]', says: 'ICMP type PacketTooBig not found in IPv4' },
    { rest: '  egress: [{icmps: [{fields: [{family: IPv6, type: EchoRequst}]}]}]', says: 'ICMP type EchoRequst not found in IPv6; did you mean "EchoRequest"?' },
    { rest: '  egress: [{toCIDR: [""]}]', says: 'IP must be specified' },
    { rest: '  egress: [{toCIDR: [10.0.0.0/33]}]', says: 'unable to parse CIDR: "10.0.0.0/33" is not an address or a prefix' },
    // A mask that is no length does not parse to begin with: the agent's "CIDR cannot specify non-contiguous mask" is never reached.
    { rest: '  egress: [{toCIDR: [10.0.0.0/255.0.255.0]}]', says: 'unable to parse CIDR: "10.0.0.0/255.0.255.0" is not an address or a prefix' },
    { rest: '  egress: [{toCIDRSet: [{cidrGroupSelector: {matchExpressions: [{key: a, operator: In}]}}]}]', says: "failed to sanitize cidrGroupSelector {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"In\"}]}: invalid label selector: values: Required value: must be specified when `operator` is 'In' or 'NotIn'" },
    { rest: '  egress: [{toCIDRSet: [{}]}]', says: 'one of cidr, cidrGroupRef, or cidrGroupSelector is required' },
    { rest: '  egress: [{toCIDRSet: [{cidr: 1.0.0.0/8, cidrGroupRef: g}]}]', says: 'more than one of cidr, cidrGroupRef, or cidrGroupSelector may not be set' },
    { rest: '  egress: [{toCIDRSet: [{cidr: 1.1.1.1}]}]', says: `unable to parse CIDRRule "1.1.1.1": no '/'` },
    { rest: '  egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]}]', says: 'allow CIDR prefix 10.0.0.0/8 does not contain exclude CIDR prefix 11.0.0.0/8' },
    { rest: '  egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]}]', says: 'allow CIDR prefix 10.0.0.0/8 does not contain exclude CIDR prefix 10.0.0.0/7' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "1", protocol: TPC}]}]}]', says: 'invalid protocol "TPC", must be { tcp | udp | sctp | vrrp | igmp | gre | ipip | ipv6 | esp | ah | any }; did you mean "TCP"?' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "0", protocol: ICMP}]}]}]', says: 'invalid protocol "ICMP", must be { tcp | udp | sctp | vrrp | igmp | gre | ipip | ipv6 | esp | ah | any }; ICMP goes into icmps' },
    { rest: '  egress: [{toFQDNs: [{matchName: a.com, matchPattern: b.com}]}]', says: 'only one of MatchName or MatchPattern is allowed in an FQDNSelector' },
    { rest: '  egress: [{toFQDNs: [{}]}]', says: 'one of matchName or matchPattern is required' },
    { rest: '  egress: [{toFQDNs: [{matchName: "*.a.com"}]}]', says: 'Invalid characters in MatchName: "*.a.com". Only 0-9, a-z, A-Z and ., -, _ characters are allowed' },
    { rest: '  egress: [{toFQDNs: [{matchPattern: "a b"}]}]', says: 'Invalid characters in MatchPattern: "a b". Only 0-9, a-z, A-Z and ., -, _ and * characters are allowed' },
    { rest: `  egress: [{toFQDNs: [{matchPattern: ${'a'.repeat(256)}}]}]`, says: `Invalid MatchPattern: "${'a'.repeat(256)}". Must be <= 255 characters long.` },
    { rest: '  egress: [{toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchName: "*.a.com"}]}}]}]', says: 'Invalid characters in MatchName: "*.a.com". Only 0-9, a-z, A-Z and . and - characters are allowed' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{headerMatches: [{value: a}]}]}}]}]`, says: 'Header name missing' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{headerMatches: [{name: a, mismatch: DROP}]}]}}]}]`, says: 'Invalid header action: DROP' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{headerMatches: [{name: a, secret: {}}]}]}}]}]`, says: 'Secret name missing' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{path: "("}]}}]}]`, says: 'error parsing regexp: missing closing ): `(`' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{host: "a(?=b)"}]}}]}]`, says: 'error parsing regexp: invalid or unsupported Perl syntax: `(?=`' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {http: [{method: "(a)\\\\1"}]}}]}]`.replace('\\\\\\\\', '\\\\'), says: 'error parsing regexp: invalid escape sequence: `\\1`' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {kafka: [{role: produce, apiKey: fetch}]}}]}]`, options: old, says: 'cannot set both Role "produce" and APIKey "fetch" together' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {kafka: [{role: prodce}]}}]}]`, options: old, says: 'invalid Kafka Role "prodce"; did you mean "produce"?' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {kafka: [{apiKey: fech}]}}]}]`, options: old, says: 'invalid Kafka APIKey "fech"; did you mean "fetch"?' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {kafka: [{apiVersion: "x"}]}}]}]`, options: old, says: 'invalid Kafka APIVersion "x"' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {kafka: [{topic: "a b"}]}}]}]`, options: old, says: 'invalid Kafka Topic name "a b"' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {kafka: [{topic: ${'a'.repeat(256)}}]}}]}]`, options: old, says: 'kafka topic exceeds maximum len of 255' },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {l7: [{a: b}]}}]}]`, options: old, says: "'l7' may only be specified when a 'l7proto' is also specified" },
    { rest: `  egress: [{toPorts: [{ports: ${ports}, rules: {l7proto: r2d2, l7: [{"": b}]}}]}]`, options: old, says: 'Empty key not allowed' },
  ] // prettier-ignore
  test.each(rows)('$says', ({ spec, rest = '', wide = false, options, says }) => {
    const { policy, issues } = load(manifest(spec ?? subject + rest, wide), options)
    expect(policy).toBeUndefined()
    expect(issues.map((issue) => issue.replace(/^.*?: (?:[a-zA-Z0-9[\].]+: )?/, ''))).toContain(says)
  })
})

describe('what the API server’s schema refuses', () => {
  const rows: { rest: string; says: string; options?: Options }[] = [
    { rest: '  ingres: [{}]\n  egress: [{}]', says: 'ingres: unknown field "ingres"; did you mean "ingress"?' },
    { rest: '  ingress: [{toEndpoints: [{}]}]', says: 'ingress[0].toEndpoints: unknown field "toEndpoints"; did you mean "fromEndpoints"?' },
    { rest: '  ingressDeny: [{authentication: {mode: required}}]', says: 'ingressDeny[0].authentication: unknown field "authentication"; a denial is about peers and ports alone' },
    { rest: '  egressDeny: [{toPorts: [{ports: [{port: "1"}], rules: {http: [{}]}}]}]', says: 'egressDeny[0].toPorts[0].rules: unknown field "rules"; a denial is about peers and ports alone' },
    // What belongs elsewhere, or to another kind of policy, is told where to.
    { rest: '  ingress: [{from: [{podSelector: {}}]}]', says: 'ingress[0].from: unknown field "from"; peers are fromEndpoints, fromEntities, fromCIDR, …' },
    { rest: '  egress: [{ports: [{port: "80"}]}]', says: 'egress[0].ports: unknown field "ports"; they stand in an item of toPorts' },
    { rest: '  ingress: [{toFQDNs: [{matchName: a.com}]}]', says: 'ingress[0].toFQDNs: unknown field "toFQDNs"; names are for egress only' },
    { rest: '  podSelector: {}\n  ingress: [{}]', says: 'podSelector: unknown field "podSelector"; a Cilium policy selects with endpointSelector' },
    { rest: '  policyTypes: [Ingress]\n  ingress: [{}]', says: 'policyTypes: unknown field "policyTypes"; a Cilium policy has none: a direction that has rules is denied by default, and "ingress: [{}]" denies all of it' },
    { rest: '  ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP, rules: {http: [{}]}}]}]}]', says: 'ingress[0].toPorts[0].ports[0].rules: unknown field "rules"; it stands beside ports, not in its items' },
    { rest: '  ingress: [{toPorts: [{port: "80"}]}]', says: 'ingress[0].toPorts[0].port: unknown field "port"; it stands in an item of ports' },
    { rest: '  ingress: [{fromEndpoints: [{app: web}]}]', says: 'ingress[0].fromEndpoints[0].app: unknown field "app"; labels stand below matchLabels' },
    { rest: '  ingress: [{fromEndpoints: [{matchLables: {app: web}}]}]', says: 'ingress[0].fromEndpoints[0].matchLables: unknown field "matchLables"; did you mean "matchLabels"?' },
    { rest: '  egress: [{toFQDNs: [api.example.com]}]', says: 'egress[0].toFQDNs[0]: must be a mapping, not a string: {matchName: "api.example.com"}' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "53"}], rules: {dns: ["*"]}}]}]', says: 'egress[0].toPorts[0].rules.dns[0]: must be a mapping, not a string: {matchPattern: "*"}' },
    { rest: '  enableDefaultDeny: {ingress: true}', says: 'note: enableDefaultDeny: says nothing without rules; "ingress: [{}]" and "egress: [{}]" deny all of their direction' },
    { rest: '  egress: {}', says: 'egress: must be a list, not a mapping' },
    { rest: '  egress: [null]', says: 'egress[0]: must be a mapping, not nothing' },
    { rest: '  egress: [{toPorts: [{ports: [{port: 443}]}]}]', says: 'egress[0].toPorts[0].ports[0].port: must be a string (in quotes: "443"), not a number' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443", endPort: "444"}]}]}]', says: 'egress[0].toPorts[0].ports[0].endPort: must be an integer, not a string' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443", endPort: 65536}]}]}]', says: 'egress[0].toPorts[0].ports[0].endPort: endPort must be 0 to 65535, not 65536' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443", protocol: tcp}]}]}]', says: 'egress[0].toPorts[0].ports[0].protocol: Unsupported value: "tcp": supported values: "TCP", "UDP", "SCTP", "ANY", "VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"; did you mean "TCP"?' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], rules: {}}]}]', says: 'egress[0].toPorts[0].rules: "rules" must validate one and only one schema (oneOf): http or dns' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], serverNames: []}]}]', says: 'egress[0].toPorts[0].serverNames: Invalid value: 0: serverNames in body should have at least 1 items' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], serverNames: [a.com, a.com]}]}]', says: 'egress[0].toPorts[0].serverNames[1]: Duplicate value: "a.com"' },
    { rest: `  egress: [{toPorts: [{ports: [{port: "443"}], serverNames: [${Array.from({ length: 41 }, (_, i) => `n${i}.com`).join()}]}]}]`, says: 'egress[0].toPorts[0].serverNames: Too many: 41: must have at most 40 items' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], listener: {name: l, envoyConfig: {name: c, kind: Envoy}}}]}]', says: 'egress[0].toPorts[0].listener.envoyConfig.kind: Unsupported value: "Envoy": supported values: "CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], listener: {name: l}}]}]', says: 'egress[0].toPorts[0].listener: envoyConfig.name: Required value' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], listener: {name: l, envoyConfig: {name: c}, priority: 101}}]}]', says: 'egress[0].toPorts[0].listener.priority: priority must be 1 to 100, not 101' },
    { rest: '  egress: [{toPorts: [{ports: [{port: "443"}], terminatingTLS: {}}]}]', says: 'egress[0].toPorts[0].terminatingTLS: secret: Required value' },
    { rest: '  egress: [{authentication: {}}]', says: 'egress[0].authentication: mode: Required value' },
    { rest: '  egress: [{authentication: {mode: mutual}}]', says: 'egress[0].authentication.mode: Unsupported value: "mutual": supported values: "disabled", "required", "test-always-fail"' },
    { rest: '  egress: [{icmps: [{fields: [{}]}]}]', says: 'egress[0].icmps[0].fields[0]: type: Required value' },
    { rest: '  egress: [{icmps: [{fields: [{type: 256}]}]}]', says: 'egress[0].icmps[0].fields[0].type: an ICMP type is 0 to 255, not 256' },
    { rest: '  egress: [{icmps: [{fields: [{type: true}]}]}]', says: 'egress[0].icmps[0].fields[0].type: must be a number or a name of an ICMP type' },
    { rest: '  egress: [{toServices: [{k8sServiceSelector: {}}]}]', says: 'egress[0].toServices[0].k8sServiceSelector: selector: Required value' },
    { rest: '  egress: [{toCIDRSet: [{cidrGroupRef: Not_a_name}]}]', says: 'egress[0].toCIDRSet[0].cidrGroupRef: Invalid value: "Not_a_name": a lowercase RFC 1123 subdomain is the name of a CiliumCIDRGroup' },
    { rest: '  egress: [{toFQDNs: [{matchName: .a.com}]}]', says: "egress[0].toFQDNs[0].matchName: should match '^([-a-zA-Z0-9_]+[.]?)+$': a label is empty" },
    { rest: '  egress: [{toGroups: [{azure: {}}]}]', says: 'egress[0].toGroups[0].azure: unknown field "azure"' },
    { rest: '  egress: [{}]\n  enableDefaultDeny: {egress: "no"}', says: 'enableDefaultDeny.egress: must be a boolean, not a string' },
    { rest: '  egress: [{}]\n  labels: [{value: a}]', says: 'labels[0]: key: Required value' },
    { rest: '  egress: [{}]\n  log: {text: a}', says: 'log.text: unknown field "text"' },
    { rest: '  egress: [{}]\n  description: 7', says: 'description: must be a string (in quotes: "7"), not a number' },
    { rest: '  ingress: [{fromRequires: [{}]}]', says: 'ingress[0].fromRequires: Too many: 1: must have at most 0 items; Cilium 1.19 removed it: write an ingressDeny rule about the endpoints that do not have these labels (operator NotIn)' },
  ] // prettier-ignore
  test.each(rows)('$says', ({ rest, options, says }) => {
    expect(load(manifest(subject + rest), options).policy).toBeUndefined()
    expect(saidOf(rest, options)).toContain(says)
  })

  test('everything at once, each in its place', () => {
    const text = manifest(`  egres: []
  egress:
  - toFQDNs:
    - matchName: "*.example.com"
    toPorts:
    - ports: [{port: 443}, {port: "99999"}]
  - toCIDR: [10.0.0.0/33]
    toEntities: [wrld]`)
    expect(load(text).issues).toEqual([
      'p.yaml:5:3: spec.egres: unknown field "egres"; did you mean "egress"?',
      'p.yaml:4:1: spec: rule must have one of EndpointSelector or NodeSelector',
      'p.yaml:8:7: spec.egress[0].toFQDNs[0].matchName: Invalid characters in MatchName: "*.example.com". Only 0-9, a-z, A-Z and ., -, _ characters are allowed',
      'p.yaml:10:16: spec.egress[0].toPorts[0].ports[0].port: must be a string (in quotes: "443"), not a number',
      'p.yaml:10:29: spec.egress[0].toPorts[0].ports[1].port: unable to parse port: strconv.ParseUint: parsing "99999": value out of range',
      'p.yaml:11:14: spec.egress[1].toCIDR[0]: unable to parse CIDR: "10.0.0.0/33" is not an address or a prefix',
      'p.yaml:12:18: spec.egress[1].toEntities[0]: unsupported entity: wrld; did you mean "world"?',
      'p.yaml:11:5: spec.egress[1]: combining ToCIDR and ToEntities is not supported yet',
    ])
  })
})

describe('label selectors', () => {
  const subjects = [
    { title: 'all pods of the namespace', selector: '{}', becomes: 'k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'null is all, too', selector: '{matchLabels: }', becomes: 'k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'sources', selector: '{matchLabels: {a: "1", "k8s:b": "2", "any:c": "3", "unspec:d": "4", "container:e": "5"}}', becomes: 'any:a In 1, k8s:b In 2, any:c In 3, any:d In 4, container:e In 5, k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'an empty value', selector: '{matchLabels: {a: ""}}', becomes: 'any:a In , k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'operators', selector: '{matchExpressions: [{key: a, operator: In, values: [x, y]}, {key: b, operator: NotIn, values: [z]}, {key: c, operator: Exists}, {key: d, operator: DoesNotExist, values: []}]}', becomes: 'any:a In x|y, any:b NotIn z, any:c Exists, any:d DoesNotExist, k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'keys with a prefix', selector: '{matchLabels: {app.kubernetes.io/name: web, "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": shop}}', becomes: 'any:app.kubernetes.io/name In web, k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name In shop, k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'its own namespace', selector: '{matchLabels: {"k8s:io.kubernetes.pod.namespace": shop}}', becomes: 'k8s:io.kubernetes.pod.namespace In shop' },
    { title: 'another namespace gives way', selector: '{matchLabels: {"k8s:io.kubernetes.pod.namespace": other}}', becomes: 'k8s:io.kubernetes.pod.namespace In shop', says: ['endpointSelector: a policy selects in its own namespace only: the namespace that is named here is replaced by "shop"'] },
    { title: 'another namespace by any source selects nothing', selector: '{matchLabels: {io.kubernetes.pod.namespace: other}}', becomes: 'any:io.kubernetes.pod.namespace In other, k8s:io.kubernetes.pod.namespace In shop', says: ['endpointSelector: selects nothing: a policy selects in its own namespace, which is "shop"'] },
    { title: 'all pods of all namespaces', selector: '{}', wide: true, becomes: '' },
    { title: 'a namespace of a cluster-wide policy', selector: '{matchLabels: {"k8s:io.kubernetes.pod.namespace": other}}', wide: true, becomes: 'k8s:io.kubernetes.pod.namespace In other' },
  ] // prettier-ignore
  test.each(subjects)('of the subject: $title', ({ selector, wide = false, becomes, says = [] }) => {
    const text = manifest(`  endpointSelector: ${selector}\n  egress: [{}]`, wide)
    const { kind, selector: read } = policyOf(text).subject
    expect([kind, selectorText(read)]).toEqual(['endpoints', becomes])
    expect(load(text).issues.map(withoutPlace).map((issue) => issue.replace('warning: ', ''))).toEqual(says.map((s) => `warning: ${s}`).map((s) => s.replace('warning: ', ''))) // prettier-ignore
  })

  const [ns, home] = ['k8s:io.kubernetes.pod.namespace', 'k8s:io.cilium.k8s.policy.cluster In default']
  const peers: { title: string; selector: string; becomes: string; wide?: boolean; options?: Options; of?: string }[] = [
    { title: 'all pods of the namespace, in this cluster', selector: '{}', becomes: `${ns} In shop, ${home}` },
    { title: 'before 1.19: in every cluster', selector: '{}', options: old, becomes: `${ns} In shop` },
    { title: 'another cluster’s name for itself', selector: '{}', options: { clusterName: 'east' }, becomes: `${ns} In shop, k8s:io.cilium.k8s.policy.cluster In east` },
    { title: 'a cluster that is named', selector: '{matchLabels: {io.cilium.k8s.policy.cluster: west}}', becomes: `any:io.cilium.k8s.policy.cluster In west, ${ns} In shop` },
    { title: 'any cluster', selector: '{matchExpressions: [{key: "k8s:io.cilium.k8s.policy.cluster", operator: Exists}]}', becomes: `k8s:io.cilium.k8s.policy.cluster Exists, ${ns} In shop` },
    { title: 'a namespace that is named', selector: '{matchLabels: {"k8s:io.kubernetes.pod.namespace": other}}', becomes: `${ns} In other, ${home}` },
    { title: 'by any source', selector: '{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}', becomes: `any:io.kubernetes.pod.namespace Exists, ${home}` },
    { title: 'labels of namespaces', selector: '{matchLabels: {"k8s:io.cilium.k8s.namespace.labels.team": red}}', becomes: `k8s:io.cilium.k8s.namespace.labels.team In red, ${home}` },
    { title: 'labels of namespaces by any source', selector: '{matchLabels: {io.cilium.k8s.namespace.labels.team: red}}', becomes: `any:io.cilium.k8s.namespace.labels.team In red, ${home}` },
    { title: 'reserved labels are left alone', selector: '{matchLabels: {"reserved:world": ""}}', becomes: 'reserved:world In ' },
    { title: 'reserved labels in their other spellings', selector: '{matchLabels: {reserved.world: "", "$host": ""}}', becomes: 'reserved:world In , reserved:host In ' },
    { title: 'all pods, of a cluster-wide policy', selector: '{}', wide: true, becomes: `${ns} Exists, ${home}` },
    { title: 'labels of namespaces, of a cluster-wide policy', selector: '{matchLabels: {"k8s:io.cilium.k8s.namespace.labels.team": red}}', wide: true, becomes: `k8s:io.cilium.k8s.namespace.labels.team In red, ${ns} Exists, ${home}` },
    { title: 'where the subject may have no labels yet', selector: '{}', wide: true, of: '{matchLabels: {"reserved:init": ""}}', becomes: home },
  ] // prettier-ignore
  test.each(peers)('of peers: $title', ({ selector, wide = false, options, becomes, of = '{}' }) => {
    const text = (rest: string): string => manifest(`  endpointSelector: ${of}\n  ${rest}`, wide)
    for (const rest of [`ingress: [{fromEndpoints: [${selector}]}]`, `egressDeny: [{toEndpoints: [${selector}]}]`])
      expect(policyOf(text(rest), options).rules.map(peersText)).toEqual([`pods {${becomes}}`])
  })

  const wrong = [
    { selector: '{matchLabels: {"a b": x}}', says: `key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character` },
    { selector: '{matchLabels: {"/a": x}}', says: 'key: Invalid value: "/a": prefix part must be non-empty' },
    { selector: '{matchLabels: {"a/": x}}', says: 'key: Invalid value: "a/": name part must be non-empty' },
    { selector: '{matchLabels: {"A/b": x}}', says: `key: Invalid value: "A/b": prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character` },
    { selector: `{matchLabels: {${'k'.repeat(64)}: x}}`, says: `key: Invalid value: "${'k'.repeat(64)}": name part must be no more than 63 bytes` },
    { selector: '{matchLabels: {a: "x y"}}', says: `Invalid value: "x y": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character` },
    { selector: `{matchLabels: {a: ${'v'.repeat(64)}}}`, says: `Invalid value: "${'v'.repeat(64)}": must be no more than 63 bytes` },
    { selector: '{matchExpressions: [{key: a, operator: In, values: ["x y"]}]}', says: `Invalid value: "x y": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character` },
    { selector: '{matchExpressions: [{operator: Exists}]}', says: 'key: Required value' },
    { selector: '{matchExpressions: [{key: a}]}', says: 'operator: Required value: one of In, NotIn, Exists, DoesNotExist' },
    { selector: '{matchExpressions: [{key: a, operator: in, values: [x]}]}', says: 'operator: Invalid value: "in": not a valid selector operator; did you mean "In"?' },
    { selector: '{matchExpressions: [{key: a, operator: NotIn, values: []}]}', says: "values: Required value: must be specified when `operator` is 'In' or 'NotIn'" },
    { selector: '{matchExpressions: [{key: a, operator: Exists, values: [x]}]}', says: "values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'" },
  ] // prettier-ignore
  test.each(wrong)('wrong: $says', ({ selector, says }) => {
    for (const rest of [`  ingress: [{fromEndpoints: [${selector}]}]`, `  egress: [{toNodes: [${selector}]}]`, `  egress: [{toServices: [{k8sServiceSelector: {selector: ${selector}}}]}]`]) // prettier-ignore
      expect(saidOf(rest).map((issue) => issue.slice(issue.indexOf(': ') + 2))).toEqual([`invalid label selector: ${says}`]) // prettier-ignore
  })

  test('what YAML makes of values, and a source that is none', () => {
    expect(saidOf('  egress: [{toEndpoints: [{matchLabels: {a: true, b: 1, c: }}]}]')).toEqual([
      'egress[0].toEndpoints[0].matchLabels.a: must be a string (in quotes: "true"), not a boolean',
      'egress[0].toEndpoints[0].matchLabels.b: must be a string (in quotes: "1"), not a number',
      'egress[0].toEndpoints[0].matchLabels.c: must be a string, not nothing (an empty value is "")',
    ])
    expect(saidOf('  egress: [{toEndpoints: [{matchLabels: {"k8:app": web}}]}]')).toEqual([
      'warning: egress[0].toEndpoints[0].matchLabels.k8:app: no label has the source "k8": nothing here has this key; did you mean "k8s"?',
    ])
  })

  test('a nodeSelector is about this host', () => {
    const text = manifest('  nodeSelector: {matchLabels: {role: edge, "k8s:zone": a}}\n  ingress: [{}]', true)
    const { subject: read } = policyOf(text)
    expect([read.kind, selectorText(read.selector)]).toEqual(['node', 'node:role In edge, node:zone In a'])
  })
})

describe('peers', () => {
  const home = 'k8s:io.cilium.k8s.policy.cluster In default'
  const rows: { rest: string; becomes: string[]; options?: Options }[] = [
    { rest: 'ingress: [{fromCIDR: [1.1.1.77/24, "2001:db8::1"]}]', becomes: ['allow ingress outside 1.1.1.0/24; outside 2001:db8::1: any'] },
    { rest: 'egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/9]}]}]', becomes: ['allow egress outside 10.128.0.0/9: any'] },
    { rest: 'egressDeny: [{toCIDRSet: [{cidrGroupRef: office}, {cidrGroupSelector: {matchLabels: {a: b, "cidrgroup:c": d}}}]}]', becomes: ['deny egress group office; group {a In b, c In d}: any'] },
    { rest: 'egress: [{toCIDRSet: [{cidrGroupRef: office, except: [1.0.0.0/8]}]}]', becomes: ['allow egress group office except 1.0.0.0/8: any'] },
    { rest: 'egress: [{toCIDRSet: [{cidrGroupRef: office, except: [1.0.0.0/8]}]}]', options: { semantics: 'cilium' }, becomes: ['allow egress group office: any'] },
    { rest: 'ingressDeny: [{fromEntities: [world, kube-apiserver, cluster-mesh, none]}]', becomes: ['deny ingress world; kube-apiserver; cluster-mesh; none: any'] },
    { rest: 'egress: [{toNodes: [{matchLabels: {role: edge, "any:zone": a}}]}]', becomes: [`allow egress nodes {node:role In edge, node:zone In a, ${home}}: any`] },
    { rest: 'ingress: [{fromNodes: [{matchLabels: {io.cilium.k8s.policy.cluster: west}}]}]', becomes: ['allow ingress nodes {k8s:io.cilium.k8s.policy.cluster In west}: any'] },
    { rest: 'ingress: [{fromNodes: [{}]}]', options: old, becomes: ['allow ingress nodes {}: any'] },
    { rest: 'egress: [{toFQDNs: [{matchName: a.com}, {matchPattern: "*.b.com"}]}]', becomes: ['allow egress matchName a.com; matchPattern *.b.com: any'] },
    { rest: 'egressDeny: [{toFQDNs: [{matchName: a.com}]}]', becomes: ['deny egress matchName a.com: any'] },
    { rest: 'egress: [{toServices: [{k8sService: {serviceName: db, namespace: data}}, {k8sService: {serviceName: web}}]}]', becomes: ['allow egress service data/db; service */web: any'] },
    { rest: 'egress: [{toServices: [{k8sServiceSelector: {selector: {matchLabels: {a: b, "k8s:c": d}}, namespace: data}}]}]', becomes: ['allow egress service data/{a In b, c In d}: any'] },
    { rest: 'egress: [{toGroups: [{aws: {region: eu-1, labels: {a: b}, securityGroupsIds: [sg-1], securityGroupsNames: [web]}}], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', becomes: ['allow egress ? toGroups: tcp/1'] },
    { rest: 'ingress: [{fromGroups: [{aws: {}}]}]', becomes: ['allow ingress ? fromGroups: any'] },
    // Nobody, everybody, nothing.
    { rest: 'ingress: [{}]', becomes: [] },
    { rest: 'egressDeny: [{}]', becomes: [] },
    { rest: 'ingress: [{toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', becomes: ['allow ingress everyone: tcp/1'] },
    { rest: 'egress: [{icmps: [{fields: [{type: 8}]}]}]', becomes: ['allow egress everyone: icmp type 8'] },
    { rest: 'ingress: [{fromEndpoints: []}]', becomes: ['allow ingress : any'] },
    { rest: 'ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', becomes: ['allow ingress : tcp/1'] },
    { rest: 'egress: [{toCIDR: [], toEntities: [world]}]', becomes: ['allow egress : any'] },
    { rest: 'egress: [{toEndpoints: [], toFQDNs: [{matchName: a.com}]}]', becomes: ['allow egress matchName a.com: any'] },
    { rest: 'egress: [{toEndpoints: [{}], toPorts: []}]', options: old, becomes: ['allow egress pods {k8s:io.kubernetes.pod.namespace In shop}: any'] },
    { rest: 'egress: [{toEndpoints: [{}], toPorts: [{}]}]', becomes: [] },
    { rest: 'egress: [{toEndpoints: [{}], toPorts: [{ports: []}]}]', becomes: [] },
    { rest: 'egress: [{toEndpoints: [{}], icmps: [{}]}]', becomes: [] },
    // Lists whose emptiness Cilium does not notice: closed by the specification, open to everyone in Cilium.
    ...(['toFQDNs: []', 'toGroups: []', 'toServices: []', 'toServices: [{}]'].flatMap((list) => [
      { rest: `egress: [{${list}, toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]`, becomes: ['allow egress : tcp/1'] },
      { rest: `egress: [{${list}, icmps: [{fields: [{type: 8}]}]}]`, options: { semantics: 'cilium' } as const, becomes: ['allow egress everyone: icmp type 8'] },
      { rest: `egress: [{${list}, toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]`, options: { semantics: 'cilium' } as const, becomes: ['allow egress everyone: tcp/1'] },
      { rest: `egress: [{${list}}]`, options: { semantics: 'cilium' } as const, becomes: ['allow egress : any'] },
    ])),
    { rest: 'ingress: [{fromGroups: [], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', options: { semantics: 'cilium' }, becomes: ['allow ingress everyone: tcp/1'] },
    { rest: 'ingress: [{fromGroups: [], fromCIDR: [], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', options: { semantics: 'cilium' }, becomes: ['allow ingress : tcp/1'] },
    // Cilium resolves no services in egressDeny.
    { rest: 'egressDeny: [{toServices: [{k8sService: {serviceName: db}}], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', becomes: ['deny egress service */db: tcp/1'] },
    { rest: 'egressDeny: [{toServices: [{k8sService: {serviceName: db}}], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]', options: { semantics: 'cilium' }, becomes: ['deny egress everyone: tcp/1'] },
    { rest: 'egressDeny: [{toServices: [{k8sService: {serviceName: db}}]}]', options: { semantics: 'cilium' }, becomes: ['deny egress : any'] },
    // Before 1.19.
    { rest: 'ingress: [{fromRequires: [{matchLabels: {team: a}}], fromEntities: [cluster]}]', options: old, becomes: ['allow ingress cluster: any', 'deny ingress pods {k8s:io.kubernetes.pod.namespace Exists, any:team NotIn a}; pods {k8s:io.kubernetes.pod.namespace Exists, k8s:io.kubernetes.pod.namespace NotIn shop}: any'] },
  ] // prettier-ignore
  test.each(rows)('$rest $options', ({ rest, becomes, options }) => {
    expect(rulesOf(`  ${rest}`, options).map(ruleText)).toEqual(becomes)
  })

  test('every peer and every rule knows where it stands', () => {
    const rules = rulesOf('  egress:\n  - {}\n  - toEndpoints:\n    - {}\n    - {}\n    toPorts:\n    - ports: [{port: "1"}]\n    - ports: [{port: "2"}]') // prettier-ignore
    expect(rules.map(({ path, line }) => `${path}:${line}`)).toEqual(['spec.egress[1]:8', 'spec.egress[1]:8'])
    const [rule] = rules
    expect(rule === undefined || rule.peers === 'everyone' ? [] : rule.peers.map(({ path, line }) => `${path}:${line}`)).toEqual(['spec.egress[1].toEndpoints[0]:9', 'spec.egress[1].toEndpoints[1]:10']) // prettier-ignore
  })
})

describe('ports', () => {
  const rows: { ports: string; becomes: string; direction?: 'ingress'; says?: string }[] = [
    { ports: '{port: "443", protocol: TCP}', becomes: 'tcp/443' },
    { ports: '{port: "443"}', becomes: 'tcp/443 udp/443 sctp/443' },
    { ports: '{port: "443", protocol: ANY}', becomes: 'tcp/443 udp/443 sctp/443' },
    { ports: '{port: "80", endPort: 90, protocol: SCTP}', becomes: 'sctp/80-90' },
    { ports: '{port: "80", endPort: 80, protocol: UDP}', becomes: 'udp/80' },
    { ports: '{port: "80", endPort: 79, protocol: UDP}', becomes: 'udp/80', says: 'endPort: endPort 79 is before port 80: it is this port only' },
    { ports: '{port: "0", endPort: 90, protocol: UDP}', becomes: 'udp/*' },
    { ports: '{port: "0443", protocol: TCP}', becomes: 'tcp/291', says: 'port: "0443" is octal: port 291' },
    { ports: '{port: "1_000", protocol: TCP}', becomes: 'tcp/1000' },
    { ports: '{port: HTTP-alt, protocol: TCP}', becomes: 'tcp/http-alt' },
    { ports: '{port: "0x10"}', becomes: 'tcp/0x10 udp/0x10 sctp/0x10' },
    { ports: '{port: http, endPort: 90, protocol: TCP}', becomes: 'tcp/http', says: 'endPort: endPort is ignored: on egress a named port is a single port' },
    { ports: '{port: http, endPort: 90, protocol: TCP}', direction: 'ingress', becomes: 'tcp/http-90' },
    { ports: '{protocol: VRRP}, {protocol: IGMP, port: "0"}, {protocol: GRE}, {protocol: IPIP}, {protocol: IPV6}, {protocol: ESP}, {protocol: AH}', becomes: 'protocol 112 protocol 2 protocol 47 protocol 4 protocol 41 protocol 50 protocol 51' },
  ] // prettier-ignore
  test.each(rows)('$ports $direction', ({ ports, becomes, direction = 'egress', says }) => {
    const rest = `  ${direction}: [{toPorts: [{ports: [${ports}]}]}]`
    expect(rulesOf(rest).map(({ ports: read }) => read.map(portText).join(' '))).toEqual([becomes])
    expect(saidOf(rest)).toEqual(says === undefined ? [] : [`warning: egress[0].toPorts[0].ports[0].${says}`])
  })

  test('as much as there may be', () => {
    const name = 'fifteen-letters'
    const ports = [`{port: ${name}, protocol: TCP}`, '{port: "65535", protocol: TCP}', '{port: "1", endPort: 65535, protocol: TCP}', '{port: "2", endPort: 1, protocol: TCP}', ...Array<string>(36).fill('{port: "1", protocol: UDP}')] // prettier-ignore
    const [rule] = rulesOf(`  egress: [{toPorts: [{ports: [${ports.join()}]}]}]`)
    expect(rule?.ports.slice(0, 4).map(portText)).toEqual([`tcp/${name}`, 'tcp/65535', 'tcp/1-65535', 'tcp/2'])
    expect(saidOf('  egress: [{toPorts: [{ports: [{port: "2", endPort: 1}]}]}]')).toHaveLength(1)
    const types = Array.from({ length: 40 }, (_, i) => `{type: ${i === 39 ? 255 : i}}`)
    expect(rulesOf(`  egress: [{icmps: [{fields: [${types.join()}]}]}]`)[0]?.ports).toHaveLength(40)
    expect(saidOf('  egress: [{icmps: [{fields: [{type: -1}, {type: 1.5}]}]}]')).toHaveLength(2)
    expect(rulesOf(`  egress: [{toEndpoints: [{matchLabels: {${'k'.repeat(63)}: ${'v'.repeat(63)}}}]}]`)).toHaveLength(
      1,
    )
  })

  test('types of ICMP, one rule for each item', () => {
    const rest = '  ingressDeny: [{icmps: [{fields: [{type: 8}, {type: EchoReply}, {family: IPv6, type: EchoRequest}]}, {fields: [{type: "3"}, {family: IPv4, type: ExtendedEchoReply}]}]}]' // prettier-ignore
    expect(rulesOf(rest).map(ruleText)).toEqual([
      'deny ingress everyone: icmp type 8 icmp type 0 icmpv6 type 128',
      'deny ingress everyone: icmp type 3 icmp type 43',
    ])
  })
})

describe('above layer 4', () => {
  const l7Of = (rules: string, options?: Options, rest = ''): L7 | undefined =>
    rulesOf(`${rest}  egress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {${rules}}}]}]`, options)[0]?.l7
  const bare = (l7: L7 | undefined): unknown =>
    JSON.parse(JSON.stringify(l7, (key, value: unknown) => (key === 'path' || key === 'line' ? undefined : value)))

  test('HTTP', () => {
    const text = `http: [{path: "/a/.*", method: GET|HEAD, host: ""}, {host: a.com, headers: ["X-Key: a b", "X-There"],
      headerMatches: [{name: Token, value: v, mismatch: REPLACE}, {name: T2, secret: {name: s}}, {name: T3, secret: {name: s, namespace: other}, value: ""}]}, {}]`
    expect(bare(l7Of(text))).toEqual({
      kind: 'http',
      rules: [
        { pathRegex: '/a/.*', methodRegex: 'GET|HEAD', headers: [], headerMatches: [] },
        {
          hostRegex: 'a.com',
          headers: [{ name: 'x-key', value: 'a b' }, { name: 'x-there' }],
          headerMatches: [
            { name: 'token', value: 'v', mismatch: 'REPLACE' },
            { name: 't2', secret: 'shop/s' },
            { name: 't3', secret: 'other/s' },
          ],
        },
        { headers: [], headerMatches: [] },
      ],
    })
  })

  test('DNS, Kafka and generic rules', () => {
    const dns = l7Of('dns: [{matchName: a.com}, {matchPattern: "*.b.com"}]')
    expect(dns?.kind === 'dns' && dns.rules.map(({ path, field, text }) => `${path} ${field} ${text}`)).toEqual([
      'spec.egress[0].toPorts[0].rules.dns[0] matchName a.com',
      'spec.egress[0].toPorts[0].rules.dns[1] matchPattern *.b.com',
    ])
    const kafka = 'kafka: [{role: Produce, topic: t, clientID: c}, {apiKey: Fetch, apiVersion: "3"}]'
    expect(bare(l7Of(kafka, old))).toEqual({
      kind: 'kafka',
      rules: [
        { role: 'produce', topic: 't', clientID: 'c' },
        { apiKey: 'fetch', apiVersion: 3 },
      ],
    })
    expect(l7Of('l7proto: r2d2, l7: [{cmd: READ}]', old)).toEqual({ kind: 'l7', protocol: 'r2d2', rules: [new Map([['cmd', 'READ']])] }) // prettier-ignore
    expect(l7Of('l7proto: r2d2', old)).toEqual({ kind: 'l7', protocol: 'r2d2', rules: [new Map()] })
  })

  test('empty lists demand nothing', () => {
    for (const rules of ['http: []', 'dns: []', 'http: null, dns: []']) expect(l7Of(rules), rules).toBeUndefined()
  })

  test('with the default deny off, rules of layer 7 stop nothing: since 1.18', () => {
    const off = '  enableDefaultDeny: {egress: false}\n'
    const count = (rules: string, options?: Options, rest = off): number | undefined => l7Of(rules, options, rest)?.rules.length // prettier-ignore
    expect(bare(l7Of('http: [{path: /a}]', {}, off))).toEqual({ kind: 'http', rules: [{ pathRegex: '/a', headers: [], headerMatches: [] }, { headers: [], headerMatches: [] }] }) // prettier-ignore
    expect(bare(l7Of('dns: [{matchName: a.com}]', {}, off))).toMatchObject({ rules: [{ text: 'a.com' }, { text: '*', pattern: { kind: 'any' } }] }) // prettier-ignore
    expect(bare(l7Of('kafka: [{topic: a}]', old, off))).toMatchObject({ rules: [{ topic: 'a' }, {}] })
    expect(count('http: [{path: /a}]', { ciliumVersion: [1, 17] })).toBe(1)
    expect(count('http: [{path: /a}]', {}, '  enableDefaultDeny: {ingress: false}\n')).toBe(1)
  })

  test('names, TLS, listeners, authentication: kept, and said not to be enforced', () => {
    const rest = `  egress:
  - authentication: {mode: required}
    toPorts:
    - ports: [{port: "443", protocol: TCP}]
      serverNames: ["**.a.com", B.com]
      terminatingTLS: {secret: {name: s, namespace: tls}, certificate: c, privateKey: k}
      originatingTLS: {secret: {name: s}, trustedCA: ca}
      rules: {http: [{}]}
    - ports: [{port: "80", protocol: TCP}]
      listener: {name: l, envoyConfig: {name: c, kind: CiliumClusterwideEnvoyConfig}, priority: 7}`
    const [tls, listener] = rulesOf(rest)
    expect(tls).toMatchObject({
      authentication: 'required',
      serverNames: ['**.a.com', 'B.com'],
      terminatingTLS: { secret: 'tls/s', certificate: 'c', privateKey: 'k' },
      originatingTLS: { secret: 'shop/s', trustedCA: 'ca' },
      l7: { kind: 'http' },
    })
    expect(listener?.listener).toEqual({ name: 'l', envoyConfig: 'CiliumClusterwideEnvoyConfig/c', priority: 7 })
    const fields = ['authentication', 'toPorts[0].rules', 'toPorts[0].terminatingTLS', 'toPorts[0].originatingTLS', 'toPorts[0].serverNames', 'toPorts[1].listener'] // prettier-ignore
    const names = ['authentication', 'rules.http', 'terminatingTLS', 'originatingTLS', 'serverNames', 'listener']
    const closed = (name = ''): boolean => ['rules.http', 'serverNames', 'listener'].includes(name)
    const consequence = (name?: string): string => closed(name) ? 'the agent opens nothing by this rule' : 'verdicts state it, and no connection is held to it' // prettier-ignore
    expect(saidOf(rest).sort()).toEqual(fields.map((field, i) => `warning: egress[0].${field}: not enforced yet: ${names[i]}; ${consequence(names[i])}`).sort()) // prettier-ignore
  })

  test('a listener of a namespace is not for a cluster-wide policy', () => {
    const listener = (kind: string): string => `  egress: [{toPorts: [{ports: [{port: "1"}], listener: {name: l, envoyConfig: {name: c${kind}}}}]}]` // prettier-ignore
    expect(rulesOf(listener(''), {}, true)[0]?.listener?.envoyConfig).toBe('CiliumClusterwideEnvoyConfig/c')
    expect(saidOf(listener(', kind: CiliumEnvoyConfig'), {}, true)).toContain('warning: egress[0].toPorts[0].listener: Listener "l" in CCNP can not use Kind CiliumEnvoyConfig') // prettier-ignore
  })

  test('authentication that demands nothing is no warning', () => {
    expect(saidOf('  ingress: [{fromEndpoints: [{}], authentication: {mode: disabled}}]')).toEqual([])
  })

  test('"**." has its meaning since 1.19', () => {
    const deep = '  egress: [{toFQDNs: [{matchPattern: "**.a.com"}]}]'
    const patternOf = (options?: Options): unknown => {
      const peers = rulesOf(deep, options)[0]?.peers
      return peers === undefined || peers === 'everyone' || peers[0]?.kind !== 'name' ? undefined : peers[0].pattern
    }
    expect(patternOf()).toMatchObject({ kind: 'labels', deep: true, labels: [{ text: 'a' }, { text: 'com' }] })
    expect(patternOf(old)).toMatchObject({ deep: false, labels: [{ kind: 'glob', pieces: ['', ''] }, { text: 'a' }, { text: 'com' }] }) // prettier-ignore
    expect(saidOf(deep, old)).toEqual(['warning: egress[0].toFQDNs[0].matchPattern: a leading "**." means more than one label since Cilium 1.19 only; before, it is "*."']) // prettier-ignore
  })
})

describe('default deny', () => {
  const rows = [
    { rest: 'ingress: [{}]', directions: ['ingress'], denies: [true, false] },
    { rest: 'egressDeny: [{}]', directions: ['egress'], denies: [false, true] },
    { rest: 'ingress: []\n  egress: [{toEntities: [all]}]', directions: ['egress'], denies: [false, true] },
    { rest: 'ingress: [{}]\n  egress: [{}]\n  enableDefaultDeny: {ingress: false}', directions: ['ingress', 'egress'], denies: [false, true] },
    { rest: 'egress: [{}]\n  enableDefaultDeny: {egress: true, ingress: false}', directions: ['egress'], denies: [false, true] },
    { rest: 'egress: [{}]\n  enableDefaultDeny: {ingress: true}', directions: ['egress'], denies: [false, true], says: ['warning: enableDefaultDeny.ingress: has no effect: the policy has no ingress rules; "ingress: [{}]" denies all'] },
  ] // prettier-ignore
  test.each(rows)('$rest', ({ rest, directions, denies, says = [] }) => {
    const policy = policyOf(manifest(`${subject}  ${rest}`))
    expect(policy.directions).toEqual(directions)
    expect([policy.defaultDeny.ingress, policy.defaultDeny.egress]).toEqual(denies)
    expect(saidOf(`  ${rest}`)).toEqual(says)
  })
})

describe('what is let through with a word about it', () => {
  const rows = [
    { rest: 'egressDeny: [{toFQDNs: [{matchName: a.com}]}]', says: 'note: egressDeny[0].toFQDNs: Cilium refuses toFQDNs in egressDeny. Here the names are refused at DNS, and an address that is known by such names only is denied' },
    { rest: 'egress: [{toEntities: [world-ipv4]}]', says: "warning: egress[0].toEntities[0]: the API server refuses the entity world-ipv4: it is not in the schema of Cilium's policies" },
    { rest: 'ingress: [{fromEntities: [health]}]', says: 'warning: ingress[0].fromEntities[0]: the entity health has no members here: it matches nothing' },
    { rest: 'egress: [{toEndpoints: , toPorts: [{ports: [{port: "1"}]}]}]', says: 'warning: egress[0].toEndpoints: is empty (null), which is the same as not there: the rule is about everyone unless it names other peers' },
    { rest: 'egress: [{toGroups: [{aws: {}}]}]', says: 'warning: egress[0].toGroups[0]: not enforced yet: toGroups; nobody here can ask the provider who is in the group: it matches nothing' },
    { rest: 'ingressDeny: [{fromGroups: [{aws: {}}]}]', says: 'warning: ingressDeny[0].fromGroups[0]: not enforced yet: fromGroups; nobody here can ask the provider who is in the group: the rule denies everyone' },
    { rest: 'ingressDeny: [{fromGroups: [{aws: {}}]}]', options: { semantics: 'cilium' } as const, says: 'warning: ingressDeny[0].fromGroups[0]: not enforced yet: fromGroups; nobody here can ask the provider who is in the group: it matches nothing' },
    { rest: 'egress: [{toServices: [{}]}]', says: 'warning: egress[0].toServices[0]: names no service: it matches nothing' },
    { rest: 'egress: [{toCIDRSet: [{cidrGroupRef: a, except: [1.0.0.0/8]}]}]', options: { semantics: 'cilium' } as const, says: 'warning: egress[0].toCIDRSet[0].except: Cilium ignores except beside a group' },
    { rest: 'egress: [{toServices: [{k8sService: {}}]}]', says: 'warning: egress[0].toServices[0].k8sService: names no service: it matches nothing' },
    { rest: 'egress: [{toPorts: [{ports: [{port: "1", protocol: TCP}], rules: {http: [{headers: ["X:y"]}]}}]}]', says: 'warning: egress[0].toPorts[0].rules.http[0].headers[0]: no header is called "x:y": the rule matches no request; write "Name: value", with a space' },
    { rest: 'egress: [{toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{topic: a}]}}]}]', says: "warning: egress[0].toPorts[0].rules.kafka: Cilium 1.20 removed kafka rules; here they are judged as before: leave the port open and let the brokers' own ACLs decide about topics" },
    { rest: 'egress: [{toPorts: [{ports: [{port: "9", protocol: TCP}], rules: {l7proto: r2d2}}]}]', says: 'warning: egress[0].toPorts[0].rules.l7proto: Cilium 1.20 removed l7proto rules; here they are judged as before: leave the port open, or send it to a listener of a CiliumEnvoyConfig' },
    { rest: 'egress: [{toRequires: [{}]}]', options: old, says: 'warning: egress[0].toRequires: gone since Cilium 1.19, and read here as a deny of the endpoints that do not meet it: write an egressDeny rule about the endpoints that do not have these labels (operator NotIn)' },
  ] // prettier-ignore
  test.each(rows)('$says', ({ rest, options, says }) => {
    expect(load(manifest(`${subject}  ${rest}`), options).policy).toBeDefined()
    expect(saidOf(`  ${rest}`, options)).toContain(says)
  })

  test('nothing is said about a policy with everything in order', () => {
    const rest = `  description: d
  labels: [{key: a, value: b, source: k8s}]
  log: {value: v}
  ingress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
  egress: [{toFQDNs: [{matchPattern: "*.a.com"}], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]`
    expect(saidOf(rest)).toEqual([])
  })

  test('a description beside the spec, as in many examples', () => {
    const text = manifest(`${subject}  egress: [{}]`).replace('spec:', 'description: d\nspec:')
    expect(policyOf(text).rules).toEqual([])
    expect(load(text).issues).toEqual([
      'p.yaml:4:1: warning: description: stands beside spec, where nobody keeps it: it belongs into spec',
    ])
  })

  test('an answer to a refused question, by annotation', () => {
    const annotated = (reply: string): string => manifest(`${subject}  egress: [{}]`).replace('{name: p,', `{name: p, annotations: {namegate.io/dns-deny-reply: ${reply}},`) // prettier-ignore
    expect(policyOf(annotated('nxdomain')).denyReply).toEqual({ otherwise: 'nxdomain', suffixes: [] })
    const said = (reply: string): string => load(annotated(reply)).issues.join().replace('p.yaml:4:1: spec: annotation namegate.io/dns-deny-reply ', '') // prettier-ignore
    expect(said('servfail')).toBe('must be refused or nxdomain, not "servfail"')
    expect(said('"refused, lan="')).toBe('must be refused or nxdomain, not ""')
    expect(said('"refused, nxdomain"')).toBe('says twice how what has no suffix is answered')
    expect(said('"a..b=nxdomain"')).toBe('"a..b" is not a suffix of names')
    expect(said('".=nxdomain"')).toBe('"." is not a suffix of names')
    expect(said('"a.lan=nxdomain, A.lan.=refused"')).toBe('says twice how names under A.lan. are answered')
  })
})

describe('whatever the tree', () => {
  const words = ['ingress', 'ingressDeny', 'egress', 'egressDeny', 'endpointSelector', 'nodeSelector', 'matchLabels', 'matchExpressions', 'key', 'operator', 'values',
    'fromEndpoints', 'toEndpoints', 'toCIDR', 'fromCIDRSet', 'cidr', 'except', 'cidrGroupRef', 'cidrGroupSelector', 'toEntities', 'toFQDNs', 'matchName', 'matchPattern',
    'toServices', 'k8sService', 'k8sServiceSelector', 'selector', 'serviceName', 'namespace', 'toGroups', 'aws', 'toNodes', 'toRequires', 'toPorts', 'ports', 'port', 'endPort', 'protocol',
    'rules', 'http', 'dns', 'kafka', 'l7', 'l7proto', 'path', 'headers', 'headerMatches', 'secret', 'name', 'serverNames', 'listener', 'envoyConfig', 'terminatingTLS', 'icmps', 'fields',
    'type', 'family', 'authentication', 'mode', 'enableDefaultDeny', 'labels', 'log', 'topic'] // prettier-ignore
  const scalars = [null, true, 0, 53, -1, 1e9, '', '0', '53', 'http', 'TCP', 'a.com', '*', '**.a', '10.0.0.0/8', '::/0', 'world', 'In', 'Exists', 'IPv6', 'EchoRequest', '(', 'k8s:a', 'app', 'required'] // prettier-ignore
  const tree = fc.letrec((tie) => ({
    any: fc.oneof({ depthSize: 'large' }, fc.constantFrom(...scalars), fc.array(tie('any'), { maxLength: 3 }), tie('map')),
    map: fc.dictionary(fc.constantFrom(...words), tie('any'), { maxKeys: 5 }),
  })).map // prettier-ignore

  test('it is read or refused, never thrown at, and a rule always has ports', () => {
    fc.assert(
      fc.property(tree, fc.constantFrom<Options>({}, old, { semantics: 'cilium' }), (spec, options) => {
        const text = JSON.stringify({ apiVersion: 'cilium.io/v2', kind: 'CiliumNetworkPolicy', metadata: { name: 'p' }, spec: { endpointSelector: {}, ...(spec as object) } }) // prettier-ignore
        const { policy, issues } = load(text, options)
        expect(policy !== undefined || issues.length > 0).toBe(true)
        for (const rule of policy?.rules ?? []) expect(rule.ports.length).toBeGreaterThan(0)
      }),
      { numRuns: 2000 },
    )
  })
})

describe('CiliumCIDRGroup', () => {
  const read = (spec: string, version: string): { ranges?: string[]; issues: string[] } => {
    const text = `apiVersion: cilium.io/${version}\nkind: CiliumCIDRGroup\nmetadata: {name: g, labels: {a: b}}\n${spec}`
    const loaded = loadWorld([{ path: 'g.yaml', text }])
    if (!loaded.ok) return { issues: loaded.issues.map(issueToText) }
    const [group] = loaded.world.cidrGroups
    expect(group).toMatchObject({ name: 'g', labels: new Map([['a', 'b']]) })
    return { ranges: group?.ranges.map(rangeToText) ?? [], issues: loaded.warnings.map(issueToText) }
  }
  const rows = [
    { spec: 'spec: {externalCIDRs: [10.0.0.0/8, "2001:db8::/32", 1.1.1.1/32]}', ranges: ['10.0.0.0/8', '2001:db8::/32', '1.1.1.1'], issues: [] },
    { spec: 'spec: {externalCIDRs: []}', ranges: [], issues: [] },
    { spec: 'spec: {}', issues: ['g.yaml:4:1: spec: externalCIDRs: Required value'] },
    { spec: 'spec: {externalCIDRs: [10.0.0.0/99], externalCidrs: []}', issues: ['g.yaml:4:38: spec.externalCidrs: unknown field "externalCidrs"; did you mean "externalCIDRs"?', 'g.yaml:4:24: spec.externalCIDRs[0]: unable to parse CIDR: "10.0.0.0/99" is not an address or a prefix'] },
  ] // prettier-ignore
  for (const version of ['v2', 'v2alpha1'])
    test.each(rows)(`${version} $spec`, ({ spec, ...expected }) => expect(read(spec, version)).toEqual(expected))
})
