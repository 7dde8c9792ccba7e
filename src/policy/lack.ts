// Whom a rule is about, and what a peer lacks to be one of them, in words.
import type { Labels } from '../identity/labels.ts'
import { clusterKey, namespaceKey, namespaceLabelsPrefix, podSource, selects, type Requirement, type Selector } from '../identity/selector.ts' // prettier-ignore
import { addressToText } from '../net/address.ts'
import { prefixFromText, rangeCovers } from '../net/prefix.ts'
import type { Peer, Rule } from './rules.ts'
import type { PeerOf } from './rulings.ts'

/** Who the peer of a flow is. */
export interface Someone extends PeerOf {
  readonly labels: Labels
}

/** As many peers of a rule are named. */
const namedMax = 3

/** Why a rule is not about somebody. @param cluster the name of this one, which goes without saying */
export function lackOfPeer({ peers, ports }: Rule, someone: Someone, cluster: string | undefined): string {
  const named = ports.find((port) => port.kind === 'named')
  const noPort = named === undefined ? undefined : `it has no port named ${named.name}`
  if (peers === 'everyone') return noPort ?? 'it is about nobody here'
  if (peers.length === 0) return 'it is about nobody'
  const found = peers.find((peer) => peer.kind === 'endpoints' && selects(peer.selector, someone.labels))
  if (found !== undefined && noPort !== undefined) return noPort
  const names = peers.slice(0, namedMax).map((peer) => peerText(peer, cluster))
  const rest = peers.length - names.length
  const [only] = peers
  const reason = peers.length === 1 && only !== undefined ? reasonOf(only, someone) : undefined
  return `it is about ${names.join('; ')}${rest > 0 ? ` and ${rest} more` : ''}${reason === undefined ? '' : `; ${reason}`}`
}

/** `pods with app=web in namespace shop`. */
export function peerText(peer: Peer, cluster: string | undefined): string {
  switch (peer.kind) {
    case 'cidr':
      return peer.text
    case 'cidrGroup':
      return typeof peer.group === 'string' ? `CIDR group ${peer.group}` : `CIDR groups with ${listText(peer.group)}`
    case 'endpoints':
      return podsText(peer.selector, cluster)
    case 'nodes': {
      const labels = listText(peer.selector.filter((r) => r.key !== clusterKey))
      return `${peer.self === true ? '' : 'other '}nodes${labels === '' ? '' : ` with ${labels}`}`
    }
    case 'entity':
      return `entity ${peer.entity}`
    case 'name':
      return `${peer.field} "${peer.text}"`
    case 'service':
      return typeof peer.service === 'string'
        ? `the pods behind service ${peer.namespace ?? '*'}/${peer.service}`
        : `the pods behind services with ${listText(peer.service)}`
    case 'unresolved':
      return `${peer.field}, which nobody here can look up`
  }
}

function podsText(selector: Selector, cluster: string | undefined): string {
  if (selector.some(({ key }) => key.startsWith('reserved:'))) return `who has ${listText(selector)}`
  const namespace = selector.find((r) => bareOf(r.key) === bareOf(namespaceKey) && r.operator === 'In')
  const said = selector.filter((r) => r !== namespace && !isImplied(r, cluster))
  const where = namespace === undefined || !('values' in namespace) ? '' : ` in namespace ${namespace.values.join(' or ')}`
  return `${said.length === 0 ? 'every pod' : `pods with ${listText(said)}`}${where}`
} // prettier-ignore

/** What is added to selectors without being written: any namespace, this cluster. */
function isImplied(r: Requirement, cluster: string | undefined): boolean {
  if (r.operator === 'Exists') return r.key === namespaceKey
  return r.operator === 'In' && r.key === clusterKey && cluster !== undefined && r.values.includes(cluster)
}

const listText = (selector: Selector): string => selector.map(requirementText).join(', ')

function requirementText(r: Requirement): string {
  const name = nameOf(r.key)
  switch (r.operator) {
    case 'In':
      if (r.values.length !== 1) return `${name} in (${r.values.join(', ')})`
      return r.values[0] === '' ? name : `${name}=${r.values[0] ?? ''}`
    case 'NotIn':
      return `${name} not ${r.values.length === 1 ? (r.values[0] ?? '') : `in (${r.values.join(', ')})`}`
    case 'Exists':
      return `any ${name}`
    case 'DoesNotExist':
      return `no ${name}`
  }
}

const bareOf = (key: string): string => key.slice(key.indexOf(':') + 1)
const silentSources = ['k8s', 'any', 'node', podSource]

/** A key as people know it. */
function nameOf(key: string): string {
  const bare = bareOf(key)
  const ofNamespace = bareOf(namespaceLabelsPrefix)
  if (bare.startsWith(ofNamespace)) return `namespace label ${bare.slice(ofNamespace.length)}`
  if (bare === bareOf(namespaceKey)) return 'namespace'
  if (bare === bareOf(clusterKey)) return 'cluster'
  return silentSources.includes(key.slice(0, key.indexOf(':'))) ? bare : key
}

/** What stands against the only peer of a rule; undefined where that says it all. */
function reasonOf(peer: Peer, someone: Someone): string | undefined {
  if (peer.kind === 'endpoints') return reasonOfPods(peer.selector, someone)
  if (peer.kind !== 'cidr') return undefined
  const { address, isOutside } = someone
  if (address === undefined) return 'it has no address'
  const text = addressToText(address)
  if (peer.ranges.some((range) => rangeCovers(range, address)))
    return isOutside ? undefined : `${text} is in the cluster, and CIDRs are about addresses outside of it`
  const whole = prefixFromText(peer.text.split(' ')[0] ?? '')
  return whole !== undefined && rangeCovers(whole, address) ? `${text} is excepted` : undefined
}

function reasonOfPods(selector: Selector, { labels }: Someone): string | undefined {
  const missed = selector.find((requirement) => !selects([requirement], labels))
  if (missed === undefined) return undefined
  if (!labels.has(namespaceKey)) return missed.key.startsWith('reserved:') ? undefined : 'this is no pod'
  const name = nameOf(missed.key)
  const values = [...labels].filter(([key]) => bareOf(key) === bareOf(missed.key)).map(([, value]) => value)
  return values.length === 0 ? `this one has no ${name}` : `this one has ${name}=${values.join(', ')}`
}
