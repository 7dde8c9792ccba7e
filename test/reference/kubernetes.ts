// A slow, literal reading of Kubernetes' own policies, by the text of their API and from the manifests as they are written: what the parser and
// the engine are held against. It shares no code with them, and knows pods and addresses outside only.

export interface LabelSelector {
  readonly matchLabels?: Readonly<Record<string, string>>
  readonly matchExpressions?: readonly {
    readonly key: string
    readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist'
    readonly values?: readonly string[]
  }[]
}

export interface NetworkPolicyPeer {
  readonly podSelector?: LabelSelector
  readonly namespaceSelector?: LabelSelector
  readonly ipBlock?: { readonly cidr: string; readonly except?: readonly string[] }
}

export interface NetworkPolicyRule {
  readonly from?: readonly NetworkPolicyPeer[]
  readonly to?: readonly NetworkPolicyPeer[]
  readonly ports?: readonly {
    readonly protocol?: Protocol
    readonly port?: number | string
    readonly endPort?: number
  }[]
}

export interface NetworkPolicy {
  readonly metadata: { readonly name: string; readonly namespace: string }
  readonly spec: {
    readonly podSelector: LabelSelector
    readonly policyTypes?: readonly ('Ingress' | 'Egress')[]
    readonly ingress?: readonly NetworkPolicyRule[]
    readonly egress?: readonly NetworkPolicyRule[]
  }
}

export interface ClusterPeer {
  readonly namespaces?: LabelSelector
  readonly pods?: { readonly namespaceSelector: LabelSelector; readonly podSelector: LabelSelector }
  readonly networks?: readonly string[]
}

type DestinationPort =
  { readonly number: number } | { readonly range: { readonly start: number; readonly end: number } }
export interface ClusterProtocol {
  readonly tcp?: { readonly destinationPort?: DestinationPort }
  readonly udp?: { readonly destinationPort?: DestinationPort }
  readonly destinationNamedPort?: string
}

export interface ClusterRule {
  readonly action: 'Accept' | 'Deny' | 'Pass'
  readonly from?: readonly ClusterPeer[]
  readonly to?: readonly ClusterPeer[]
  readonly protocols?: readonly ClusterProtocol[]
}

export interface ClusterNetworkPolicy {
  readonly metadata: { readonly name: string }
  readonly spec: {
    readonly tier: 'Admin' | 'Baseline'
    readonly priority: number
    readonly subject: ClusterPeer
    readonly ingress?: readonly ClusterRule[]
    readonly egress?: readonly ClusterRule[]
  }
}

export type Protocol = 'TCP' | 'UDP'

export interface Pod {
  readonly name: string
  readonly namespace: string
  readonly labels: Readonly<Record<string, string>>
  readonly ip: string
  readonly ports: readonly { readonly name: string; readonly containerPort: number; readonly protocol: Protocol }[]
}

export interface Cluster {
  readonly namespaces: Readonly<Record<string, Readonly<Record<string, string>>>>
  readonly pods: readonly Pod[]
  readonly networkPolicies: readonly NetworkPolicy[]
  readonly clusterPolicies: readonly ClusterNetworkPolicy[]
}

/** A pod, or an address outside. */
export type End = Pod | { readonly ip: string }

export interface Flow {
  readonly from: End
  readonly to: End
  readonly protocol: Protocol | 'ICMP'
  readonly port: number
}

export type Direction = 'ingress' | 'egress'

/** Whether policy lets the flow out of its source, or into its destination. */
export function allows(cluster: Cluster, flow: Flow, direction: Direction): boolean {
  const subject = direction === 'egress' ? flow.from : flow.to
  const other = direction === 'egress' ? flow.to : flow.from
  if (!isPod(subject)) return true
  const admin = walkTier(cluster, 'Admin', subject, other, flow, direction)
  if (admin !== undefined) return admin
  const isolating = cluster.networkPolicies.filter((policy) => isolates(policy, subject, direction))
  if (isolating.length > 0)
    return isolating.some((policy) =>
      (policy.spec[direction] ?? []).some((rule) => ruleMatches(cluster, policy, rule, other, flow, direction)),
    )
  return walkTier(cluster, 'Baseline', subject, other, flow, direction) ?? true
}

const isPod = (end: End): end is Pod => 'namespace' in end

/** Undefined: the tier has nothing to say, or passes. */
function walkTier(
  cluster: Cluster,
  tier: 'Admin' | 'Baseline',
  subject: Pod,
  other: End,
  flow: Flow,
  direction: Direction,
): boolean | undefined {
  const policies = cluster.clusterPolicies
    .filter((policy) => policy.spec.tier === tier && clusterPeerMatches(cluster, policy.spec.subject, subject))
    .sort((a, b) => a.spec.priority - b.spec.priority)
  for (const policy of policies)
    for (const rule of policy.spec[direction] ?? []) {
      const peers = (direction === 'ingress' ? rule.from : rule.to) ?? []
      if (!peers.some((peer) => clusterPeerMatches(cluster, peer, other))) continue
      if (rule.protocols !== undefined && !rule.protocols.some((protocol) => protocolMatches(protocol, flow))) continue
      if (rule.action === 'Pass') return undefined
      return rule.action === 'Accept'
    }
  return undefined
}

function clusterPeerMatches(cluster: Cluster, peer: ClusterPeer, end: End): boolean {
  if (peer.networks !== undefined) return peer.networks.some((cidr) => lies(end.ip, cidr))
  if (!isPod(end)) return false
  if (peer.namespaces !== undefined) return selectorMatches(peer.namespaces, namespaceLabels(cluster, end.namespace))
  return (
    peer.pods !== undefined &&
    selectorMatches(peer.pods.namespaceSelector, namespaceLabels(cluster, end.namespace)) &&
    selectorMatches(peer.pods.podSelector, end.labels)
  )
}

function protocolMatches(protocol: ClusterProtocol, flow: Flow): boolean {
  if (protocol.destinationNamedPort !== undefined)
    return portsNamed(flow.to, protocol.destinationNamedPort).some((port) => port.protocol === flow.protocol && port.containerPort === flow.port) // prettier-ignore
  const spec = flow.protocol === 'TCP' ? protocol.tcp : flow.protocol === 'UDP' ? protocol.udp : undefined
  if (spec === undefined) return false
  if (spec.destinationPort === undefined) return true
  if ('number' in spec.destinationPort) return spec.destinationPort.number === flow.port
  return spec.destinationPort.range.start <= flow.port && flow.port <= spec.destinationPort.range.end
}

const portsNamed = (end: End, name: string): Pod['ports'] =>
  isPod(end) ? end.ports.filter((port) => port.name === name) : []

function isolates({ metadata, spec }: NetworkPolicy, subject: Pod, direction: Direction): boolean {
  const types = spec.policyTypes ?? ['Ingress', ...(spec.egress === undefined ? [] : ['Egress'])]
  return (
    metadata.namespace === subject.namespace &&
    selectorMatches(spec.podSelector, subject.labels) &&
    types.includes(direction === 'ingress' ? 'Ingress' : 'Egress')
  )
}

function ruleMatches(
  cluster: Cluster,
  policy: NetworkPolicy,
  rule: NetworkPolicyRule,
  other: End,
  flow: Flow,
  direction: Direction,
): boolean {
  const peers = (direction === 'ingress' ? rule.from : rule.to) ?? []
  const ports = rule.ports ?? []
  const isMeant = (peer: NetworkPolicyPeer): boolean => peerMatches(cluster, policy.metadata.namespace, peer, other)
  return (peers.length === 0 || peers.some(isMeant)) && (ports.length === 0 || ports.some((port) => portMatches(port, flow))) // prettier-ignore
}

function peerMatches(
  cluster: Cluster,
  namespace: string,
  { podSelector, namespaceSelector, ipBlock }: NetworkPolicyPeer,
  end: End,
): boolean {
  if (ipBlock !== undefined) return lies(end.ip, ipBlock.cidr) && !(ipBlock.except ?? []).some((cidr) => lies(end.ip, cidr)) // prettier-ignore
  if (!isPod(end)) return false
  const isThere = namespaceSelector === undefined ? end.namespace === namespace : selectorMatches(namespaceSelector, namespaceLabels(cluster, end.namespace)) // prettier-ignore
  return isThere && (podSelector === undefined || selectorMatches(podSelector, end.labels))
}

function portMatches({ protocol = 'TCP', port, endPort }: NonNullable<NetworkPolicyRule['ports']>[number], flow: Flow): boolean {
  if (protocol !== flow.protocol) return false
  if (port === undefined) return true
  if (typeof port === 'number') return port <= flow.port && flow.port <= (endPort ?? port)
  return portsNamed(flow.to, port).some((one) => one.protocol === protocol && one.containerPort === flow.port)
} // prettier-ignore

function selectorMatches({ matchLabels = {}, matchExpressions = [] }: LabelSelector, labels: Readonly<Record<string, string>>): boolean {
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values = [] }) => {
      const value = labels[key]
      if (operator === 'Exists') return value !== undefined
      if (operator === 'DoesNotExist') return value === undefined
      const isIn = value !== undefined && values.includes(value)
      return operator === 'In' ? isIn : !isIn
    })
  )
} // prettier-ignore

function namespaceLabels(cluster: Cluster, name: string): Readonly<Record<string, string>> {
  return { 'kubernetes.io/metadata.name': name, ...cluster.namespaces[name] }
}

/** IPv4 only. */
function lies(ip: string, cidr: string): boolean {
  const bitsOf = (text: string): string => text.split('.').map((part) => Number(part).toString(2).padStart(8, '0')).join('') // prettier-ignore
  const [address = '', length = '32'] = cidr.split('/')
  return bitsOf(ip).slice(0, Number(length)) === bitsOf(address).slice(0, Number(length))
}
