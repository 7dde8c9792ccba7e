// Policies as short text, for tables of manifests and what is made of them.
import type { Requirement, Selector } from '../../../src/identity/selector.ts'
import { portsToText, protocolName } from '../../../src/net/ports.ts'
import { rangeToText } from '../../../src/net/prefix.ts'
import { issueToText } from '../../../src/policy/field.ts'
import type { ParseOptions, Peer, Policy, Rule, RulePorts } from '../../../src/policy/rules.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

/** `ns=…` for a pod's namespace, `nsl.KEY` for a namespace's label, `cluster=…`; other keys as they are. */
function requirementToText(r: Requirement): string {
  const key = r.key
    .replace('k8s:io.kubernetes.pod.namespace', 'ns')
    .replace('k8s:io.cilium.k8s.namespace.labels.', 'nsl.')
    .replace('k8s:io.cilium.k8s.policy.cluster', 'cluster')
  switch (r.operator) {
    case 'In':
      return `${key}=${r.values.join('|')}`
    case 'NotIn':
      return `${key}!=${r.values.join('|')}`
    case 'Exists':
      return key
    case 'DoesNotExist':
      return `!${key}`
  }
}

export const selectorToText = (selector: Selector): string => `{${selector.map(requirementToText).join(' ')}}`

function peerToText(peer: Peer): string {
  switch (peer.kind) {
    case 'cidr':
      return `${peer.ranges.map(rangeToText).join('+')} ${peer.reach}`
    case 'endpoints':
      return selectorToText(peer.selector)
    case 'nodes':
      return `nodes${peer.self === true ? ' and self' : ''}${selectorToText(peer.selector)}`
    case 'name':
      return `${peer.field} ${peer.text}${peer.pattern.kind === 'labels' && peer.pattern.deep ? ' deep' : ''}`
    default:
      return peer.kind
  }
}

const rulePortsToText = (ports: RulePorts): string =>
  ports.kind === 'named' ? `${protocolName(ports.protocol)}/${ports.name}` : portsToText(ports)

/** `ingress allow {ns=default} tcp/80`; tier and priority in front where they are not those of a NetworkPolicy. */
export function ruleToText(rule: Rule): string {
  const order = rule.tier === 200 ? '' : `${rule.tier === 100 ? 'Admin' : 'Baseline'} ${rule.priority} `
  const peers = rule.peers === 'everyone' ? 'everyone' : `[${rule.peers.map(peerToText).join(', ')}]`
  const l7 = rule.l7?.kind === 'dns' ? ` dns ${rule.l7.rules.map(({ text }) => text).join(',')}` : ''
  return `${order}${rule.direction} ${rule.kind} ${peers} ${rule.ports.map(rulePortsToText).join(' ')}${l7}`
}

/** The peers of a policy's first rule. */
export function firstPeers(policy: Policy | undefined): readonly Peer[] {
  const peers = policy?.rules[0]?.peers
  return peers === undefined || peers === 'everyone' ? [] : peers
}

/** The one policy of a manifest, or every issue when it has errors. */
export function policyIn(text: string, options: Partial<ParseOptions> = {}): { readonly policy?: Policy; readonly issues: readonly string[] } {
  const loaded = loadWorld([{ path: 'p', text }], options)
  const issues = (loaded.ok ? loaded.warnings : loaded.issues).map(issueToText)
  const [policy] = loaded.ok ? loaded.world.policies : []
  return policy === undefined ? { issues } : { policy, issues }
} // prettier-ignore
