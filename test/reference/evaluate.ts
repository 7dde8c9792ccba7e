// Policies read literally: one flow against every rule of every policy, no compiling, no identities, no indexes, nothing remembered. Slow, and
// sharing no code with the engine that it judges. After Cilium's own reference simulator (pkg/policy/testutils), with what production does
// otherwise, and with what the Kubernetes specification says otherwise behind `semantics`.
import ipaddr from 'ipaddr.js'
import type {
  CidrGroup,
  NamedPort,
  Node,
  Peer,
  Pod,
  Policy,
  Rule,
  RulePorts,
  Service,
  World,
} from '../../src/policy/rules.ts'
import type { Selector } from '../../src/identity/selector.ts'

export interface Switches {
  readonly semantics: 'spec' | 'cilium'
  readonly clusterName: string
  readonly localNode: string | undefined
  readonly hostAddresses: readonly string[]
  readonly enforcement: 'default' | 'always' | 'never'
  readonly allowLocalhost: boolean
  readonly audit: boolean
  readonly hostPolicies: boolean
}

/** A pod, or whoever has an address. */
export type End = { readonly pod: Pod; readonly address: string | undefined } | { readonly address: string }

export interface Question {
  readonly from: End
  readonly to: End
  readonly protocol: number
  readonly port?: number
  readonly icmpType?: number
  /** Names known to lead to the destination. */
  readonly names: readonly string[]
  readonly method?: string
  readonly sni?: string
}

export type Said = 'allowed' | 'denied' | 'audited' | 'redirect'

interface Who {
  readonly kind: 'pod' | 'host' | 'node' | 'apiserver' | 'world' | 'unknown'
  /** `source:key` to value. */
  readonly labels: ReadonlyMap<string, string>
  readonly ports: readonly NamedPort[]
  readonly address: { readonly family: 4 | 6; readonly number: bigint } | undefined
}

interface Case {
  readonly world: World
  readonly switches: Switches
  readonly question: Question
}

/** What policy says, in both directions. */
export function evaluate(world: World, switches: Switches, question: Question): { egress: Said; ingress: Said } {
  const at: Case = { world, switches, question }
  const [from, to] = [whoIs(at, question.from), whoIs(at, question.to)]
  if (isItself(from, to)) return { egress: 'allowed', ingress: 'allowed' }
  return { egress: decide(at, 'egress', from, to), ingress: decide(at, 'ingress', to, from) }
}

function isItself(a: Who, b: Who): boolean {
  if (a.kind !== 'pod' || b.kind !== 'pod' || a.address === undefined) return false
  const isOne = a.address.family === b.address?.family && a.address.number === b.address.number
  const likeness = ({ labels, ports }: Who): string => JSON.stringify([[...labels].sort(), ports.map((port) => JSON.stringify(port)).sort()]) // prettier-ignore
  return isOne && likeness(a) === likeness(b)
}

// Who is who.

function numberOf(text: string): { family: 4 | 6; number: bigint } {
  const parsed = ipaddr.parse(text)
  const number = parsed.toByteArray().reduce((sum, octet) => sum * 256n + BigInt(octet), 0n)
  return { family: parsed.kind() === 'ipv4' ? 4 : 6, number }
}
const isSame = (a: string, b: string): boolean => ipaddr.parse(a).toNormalizedString() === ipaddr.parse(b).toNormalizedString() // prettier-ignore

function isLocalNode({ switches }: Case, node: Node): boolean {
  if (switches.localNode !== undefined) return node.name === switches.localNode
  return node.addresses.some((text) => switches.hostAddresses.some((host) => isSame(text, host)))
}

function isApiServer({ world }: Case, text: string): boolean {
  return world.endpointSlices.some((slice) => slice.namespace === 'default' && slice.service === 'kubernetes' && slice.addresses.some((other) => isSame(other, text))) // prettier-ignore
}

function whoIs(at: Case, end: End): Who {
  const address = end.address === undefined ? undefined : numberOf(end.address)
  const { world, switches } = at
  const having = world.pods.filter((pod) => !pod.hostNetwork && pod.addresses.some((text) => end.address !== undefined && isSame(text, end.address))) // prettier-ignore
  if (having.length > 1) return { kind: 'unknown', labels: new Map(), ports: [], address }
  if ('pod' in end) return end.pod.hostNetwork ? ofNode(at, end.pod.node, address) : ofPod(at, end.pod, address)
  if (having[0] !== undefined) return ofPod(at, having[0], address)
  const nodes = world.nodes.filter((node) => node.addresses.some((text) => isSame(text, end.address)))
  if (switches.hostAddresses.some((text) => isSame(text, end.address)) || nodes.some((node) => isLocalNode(at, node)))
    return ofHost(at, address)
  if (nodes[0] !== undefined) return ofNode(at, nodes[0].name, address)
  if (isApiServer(at, end.address)) return { kind: 'apiserver', labels: new Map([['reserved:kube-apiserver', '']]), ports: [], address } // prettier-ignore
  const guest = world.pods.find((pod) => pod.hostNetwork && pod.addresses.some((text) => isSame(text, end.address)))
  if (guest !== undefined) return ofNode(at, guest.node, address)
  const family = address?.family ?? 4
  return { kind: 'world', labels: new Map([['reserved:world', ''], [`reserved:world-ipv${family}`, '']]), ports: [], address } // prettier-ignore
}

function ofHost(at: Case, address: Who['address']): Who {
  const labels = new Map([['reserved:host', '']])
  const own = [...at.switches.hostAddresses, ...at.world.nodes.filter((node) => isLocalNode(at, node)).flatMap((node) => node.addresses)] // prettier-ignore
  if (own.some((text) => isApiServer(at, text))) labels.set('reserved:kube-apiserver', '')
  return { kind: 'host', labels, ports: [], address }
}

function ofNode(at: Case, name: string | undefined, address: Who['address']): Who {
  const node = at.world.nodes.find((other) => other.name === name)
  if (node === undefined) return name === undefined || name === at.switches.localNode ? ofHost(at, address) : { kind: 'node', labels: new Map([['reserved:remote-node', '']]), ports: [], address } // prettier-ignore
  if (isLocalNode(at, node)) return ofHost(at, address)
  const labels = new Map([...node.labels].map(([key, value]): [string, string] => [`node:${key}`, value]))
  labels.set('reserved:remote-node', '')
  if (node.addresses.some((text) => isApiServer(at, text))) labels.set('reserved:kube-apiserver', '')
  return { kind: 'node', labels, ports: [], address }
}

/** Cilium's default filter, as it stands in pkg/labelsfilter: patterns that match from the first character on. */
const included = [/^io\.kubernetes\.pod\.namespace/, /^io\.cilium\.k8s\.namespace\.labels/, /^app\.kubernetes\.io/, /^io\.cilium\.k8s\.policy\.cluster/, /^io\.cilium\.k8s\.policy\.serviceaccount/] // prettier-ignore
const excluded = [/^io\.kubernetes/, /^kubernetes\.io/, /^statefulset\.kubernetes\.io\/pod-name/, /^apps\.kubernetes\.io\/pod-index/, /^batch\.kubernetes\.io\/job-completion-index/, /^batch\.kubernetes\.io\/controller-uid/, /^controller-uid/, /^.*beta\.kubernetes\.io/, /^k8s\.io/, /^pod-template-generation/, /^pod-template-hash/, /^controller-revision-hash/, /^annotation.*/, /^etcd_node/, /^topology\.kubernetes\.io/] // prettier-ignore

function isCiliums(key: string): boolean {
  const lengths = (patterns: readonly RegExp[]): number[] => patterns.flatMap((pattern) => pattern.exec(key)?.[0].length ?? []) // prettier-ignore
  const ignored = lengths(excluded)
  return ignored.length === 0 || Math.max(0, ...lengths(included)) > Math.min(...ignored)
}

/** Kubernetes' own policies select by all labels of a pod; what only they can select has the source `pod`. It makes no identity of its own unless mentioned. */
function isKept({ world, switches }: Case, key: string): boolean {
  if (isCiliums(key) || switches.semantics === 'cilium') return isCiliums(key)
  const mentions = (selector: Selector): boolean => selector.some((requirement) => requirement.key === `pod:${key}`)
  return world.policies.some((policy) => mentions(policy.subject.selector) || policy.rules.some(({ peers }) => peers !== 'everyone' && peers.some((peer) => peer.kind === 'endpoints' && mentions(peer.selector)))) // prettier-ignore
}

function ofPod(at: Case, pod: Pod, address: Who['address']): Who {
  const all: [string, string][] = [...pod.labels]
  const ofNamespace = new Map([
    ['kubernetes.io/metadata.name', pod.namespace],
    ...(at.world.namespaces.get(pod.namespace) ?? []),
  ])
  for (const [key, value] of ofNamespace) all.push([`io.cilium.k8s.namespace.labels.${key}`, value])
  all.push(['io.kubernetes.pod.namespace', pod.namespace], ['io.cilium.k8s.policy.cluster', at.switches.clusterName])
  if (pod.serviceAccount !== undefined) all.push(['io.cilium.k8s.policy.serviceaccount', pod.serviceAccount])
  const labels = new Map(all.filter(([key]) => isKept(at, key)).map(([key, value]): [string, string] => [`${isCiliums(key) ? 'k8s' : 'pod'}:${key}`, value])) // prettier-ignore
  return { kind: 'pod', labels, ports: pod.ports, address }
}

// What selects whom.

function matches(selector: Selector, labels: ReadonlyMap<string, string>): boolean {
  for (const requirement of selector) {
    const [source, bare] = /^([a-z0-9]+):(.*)$/.exec(requirement.key)?.slice(1) ?? ['any', requirement.key]
    const values = [...labels].flatMap(([key, value]) => {
      const cut = key.indexOf(':')
      const isIt = key.slice(cut + 1) === bare && (((source === 'any' || source === 'unspec') && !key.startsWith('pod:')) || key.slice(0, cut) === source) // prettier-ignore
      return isIt ? [value] : []
    })
    const among = (): boolean => 'values' in requirement && values.some((value) => requirement.values.includes(value))
    if (requirement.operator === 'Exists' && values.length === 0) return false
    if (requirement.operator === 'DoesNotExist' && values.length > 0) return false
    if (requirement.operator === 'In' && !among()) return false
    if (requirement.operator === 'NotIn' && among()) return false
  }
  return true
}

function matchesBare(of: string | Selector, name: string, labels: ReadonlyMap<string, string>): boolean {
  if (typeof of === 'string') return of === name
  return matches(of, new Map([...labels].map(([key, value]) => [`any:${key}`, value])))
}

const isOutside = ({ kind }: Who): boolean => kind === 'world' || kind === 'apiserver'

interface Range {
  readonly family: 4 | 6
  readonly first: bigint
  readonly last: bigint
}
const lies = (ranges: readonly Range[], { address }: Who): boolean => ranges.some((range) => range.family === address?.family && range.first <= address.number && address.number <= range.last) // prettier-ignore

function isPeer(at: Case, peer: Peer, rule: Rule, who: Who): boolean {
  const { world, switches } = at
  const has = (...keys: string[]): boolean => keys.some((key) => who.labels.has(key))
  switch (peer.kind) {
    case 'cidr':
      return (peer.reach === 'everywhere' || isOutside(who)) && lies(peer.ranges, who)
    case 'cidrGroup': {
      const isMeant = (group: CidrGroup): boolean => matchesBare(peer.group, group.name, group.labels)
      return isOutside(who) && world.cidrGroups.some((group) => isMeant(group) && lies(group.ranges, who)) && !lies(peer.except, who) // prettier-ignore
    }
    case 'endpoints':
      return who.kind !== 'unknown' && matches(peer.selector, who.labels)
    case 'nodes':
      if (who.kind === 'host') return peer.self === true && matches(peer.selector, nodeLabelsOf(at))
      return who.kind === 'node' && matches(peer.selector, new Map([...who.labels, ['k8s:io.cilium.k8s.policy.cluster', switches.clusterName]])) // prettier-ignore
    case 'entity': {
      const reserved = has('reserved:host', 'reserved:remote-node', 'reserved:kube-apiserver')
      if (peer.entity === 'all') return true
      if (peer.entity === 'none') return false
      if (peer.entity === 'cluster') return reserved || who.labels.get('k8s:io.cilium.k8s.policy.cluster') === switches.clusterName // prettier-ignore
      if (peer.entity === 'cluster-mesh') return reserved || has('k8s:io.cilium.k8s.policy.cluster')
      return has(`reserved:${peer.entity}`)
    }
    case 'service': {
      if (switches.semantics === 'cilium' && rule.kind === 'deny') return false
      return servicesOf(at, peer).some((service) => isBackend(at, service, who))
    }
    case 'unresolved':
      return rule.kind === 'deny' && switches.semantics === 'spec'
    case 'name':
      return isOutside(who) && isNamed(at, peer.text, rule)
  }
}

function servicesOf({ world }: Case, peer: Peer & { kind: 'service' }): Service[] {
  return world.services.filter((service) => (peer.namespace === undefined || service.namespace === peer.namespace) && matchesBare(peer.service, service.name, service.labels)) // prettier-ignore
}
const slicesOf = ({ world }: Case, service: Service): string[] => world.endpointSlices.flatMap((slice) => (slice.namespace === service.namespace && slice.service === service.name ? slice.addresses : [])) // prettier-ignore

function isBackend(at: Case, service: Service, who: Who): boolean {
  if (service.selector === undefined) {
    const isOne = slicesOf(at, service).some((text) => numberOf(text).number === who.address?.number && numberOf(text).family === who.address.family) // prettier-ignore
    return isOne && (at.switches.semantics === 'spec' || isOutside(who))
  }
  const wanted: [string, string][] = [...service.selector, ['io.kubernetes.pod.namespace', service.namespace], ['io.cilium.k8s.policy.cluster', at.switches.clusterName]] // prettier-ignore
  return wanted.every(([key, value]) => who.labels.get(`k8s:${key}`) === value)
}

/** Names by the pattern's text: stars within a label, a leading `**.` for whole labels, a star alone for everything. */
function nameMatches(text: string, name: string): boolean {
  const pattern = text.toLowerCase()
  if ([...pattern].every((c) => c === '*')) return true
  const [labels, wanted] = [name.toLowerCase().split('.'), pattern.split('.')]
  if (wanted[0]?.startsWith('**') === true) {
    const tail = wanted.slice(1)
    return labels.length > tail.length && tail.every((of, i) => globMatches(of, labels.slice(-tail.length)[i] ?? ''))
  }
  return labels.length === wanted.length && wanted.every((of, i) => globMatches(of, labels[i] ?? ''))
}

function globMatches(glob: string, label: string): boolean {
  if (glob === '') return label === ''
  if (!glob.startsWith('*')) return glob[0] === label[0] && globMatches(glob.slice(1), label.slice(1))
  return globMatches(glob.slice(1), label) || (label !== '' && globMatches(glob, label.slice(1)))
}

function isNamed(at: Case, text: string, rule: Rule): boolean {
  const { names } = at.question
  const named = names.some((name) => nameMatches(text, name))
  if (rule.kind !== 'deny' || !named) return named
  // An address is denied by its names only if all of them are denied.
  const subject = whoIs(at, at.question.from)
  const denying = at.world.policies.filter((policy) => isSubject(at, policy, subject)).flatMap((policy) => policy.rules.filter((other) => other.direction === 'egress' && other.kind === 'deny' && isReached(at, other) && other.peers !== 'everyone' && coversL4(at, other, subject, whoIs(at, at.question.to)))) // prettier-ignore
  return names.every((name) => denying.some(({ peers }) => peers !== 'everyone' && peers.some((peer) => peer.kind === 'name' && nameMatches(peer.text, name)))) // prettier-ignore
}

function coversPeer(at: Case, rule: Rule, who: Who): boolean {
  if (rule.peers === 'everyone') return true
  if (rule.peers.some((peer) => isPeer(at, peer, rule, who))) return true
  // Cilium takes a rule whose services come to nothing, and that has ports, for one about everyone.
  if (at.switches.semantics !== 'cilium' || rule.peers.length === 0) return false
  if (rule.ports.some((ports) => ports.kind === 'all')) return false
  return rule.peers.every((peer) => peer.kind === 'service' && (rule.kind === 'deny' || servicesOf(at, peer).every((service) => service.selector === undefined && slicesOf(at, service).length === 0))) // prettier-ignore
}

function coversL4(at: Case, rule: Rule, subject: Who, peer: Who): boolean {
  return rule.ports.some((ports) => coversPorts(at, ports, rule, subject, peer))
}

function coversPorts({ question }: Case, ports: RulePorts, rule: Rule, subject: Who, peer: Who): boolean {
  const { protocol, port, icmpType } = question
  switch (ports.kind) {
    case 'all':
      return true
    case 'protocol':
      return ports.protocol === protocol
    case 'icmp':
      return protocol === (ports.family === 4 ? 1 : 58) && ports.type === icmpType
    case 'ports':
      return ports.protocol === protocol && port !== undefined && ports.first <= port && port <= ports.last
    case 'named': {
      if (ports.protocol !== protocol || port === undefined) return false
      const isIt = (other: NamedPort): boolean => other.name === ports.name && other.protocol === protocol
      if (rule.direction === 'egress') return peer.ports.some((other) => isIt(other) && other.port === port)
      return subject.ports.some((other) => isIt(other) && other.port <= port && port <= Math.max(other.port, ports.endPort ?? 0)) // prettier-ignore
    }
  }
}

// What follows.

function isSubject(at: Case, policy: Policy, who: Who): boolean {
  const { kind, selector } = policy.subject
  if (who.kind === 'pod') return kind === 'endpoints' && matches(selector, who.labels)
  if (who.kind !== 'host' || kind !== 'node' || !at.switches.hostPolicies) return false
  return matches(selector, nodeLabelsOf(at))
}

/** What a nodeSelector sees of this host. */
function nodeLabelsOf(at: Case): ReadonlyMap<string, string> {
  const node = at.world.nodes.filter((other) => isLocalNode(at, other)).at(-1)
  const labels = new Map([...(node?.labels ?? [])].map(([key, value]): [string, string] => [`node:${key}`, value]))
  return labels.set('reserved:host', '').set('k8s:io.cilium.k8s.policy.cluster', at.switches.clusterName)
}

/** By the specification nothing of the Baseline tier is reached where a NetworkPolicy isolates. */
function isReached(at: Case, rule: Rule): boolean {
  if (at.switches.semantics === 'cilium' || rule.tier !== 250) return true
  const subject = whoIs(at, rule.direction === 'egress' ? at.question.from : at.question.to)
  return !at.world.policies.some((other) => other.kind === 'NetworkPolicy' && isSubject(at, other, subject) && other.directions.includes(rule.direction) && other.defaultDeny[rule.direction]) // prettier-ignore
}

function decide(at: Case, direction: 'ingress' | 'egress', subject: Who, peer: Who): Said {
  const { world, switches } = at
  const denied: Said = switches.audit ? 'audited' : 'denied'
  if (subject.kind === 'unknown') return 'denied'
  if (subject.kind !== 'pod' && (subject.kind !== 'host' || !switches.hostPolicies)) return 'allowed'
  if (switches.enforcement === 'never') return 'allowed'
  const here = world.policies.filter((policy) => policy.directions.includes(direction) && isSubject(at, policy, subject)) // prettier-ignore
  const defaultDeny = switches.enforcement === 'always' || here.some((policy) => policy.defaultDeny[direction])
  const rules = here
    .flatMap((policy) => policy.rules.filter((rule) => rule.direction === direction && isReached(at, rule)))
    .filter((rule) => coversPeer(at, rule, peer) && coversL4(at, rule, subject, peer))
  const order = { deny: 0, allow: 1, pass: 2 }
  rules.sort((a, b) => a.tier - b.tier || a.priority - b.priority || order[a.kind] - order[b.kind])
  let skip = 0
  for (const rule of rules) {
    if (rule.tier < skip) continue
    if (rule.kind === 'pass') skip = rule.tier + 1
    else if (rule.kind === 'deny') return denied
    else return above(at, rules.filter((other) => other.kind === 'allow' && other.tier === rule.tier && other.priority === rule.priority)) // prettier-ignore
  }
  if (!defaultDeny) return 'allowed'
  const isProbe = direction === 'ingress' && peer.kind === 'host' && subject.kind !== 'host'
  return isProbe && switches.allowLocalhost && here.length > 0 ? 'allowed' : denied
}

/** Rules that allow on one level: one without demands lets all pass, else one must find its demands met. */
function above({ question }: Case, level: readonly Rule[]): Said {
  let best: Said = 'denied'
  for (const { l7, serverNames } of level) {
    const sni = serverNames === undefined ? true : question.sni === undefined ? undefined : serverNames.includes(question.sni) // prettier-ignore
    const http = l7?.kind !== 'http' ? true : question.method === undefined ? undefined : l7.rules.some(({ methodRegex }) => methodRegex === undefined || methodRegex === question.method) // prettier-ignore
    if (sni === true && http === true) return 'allowed'
    if (sni !== false && http !== false) best = 'redirect'
  }
  return best
}
