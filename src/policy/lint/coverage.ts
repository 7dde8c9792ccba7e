// Static comparison of rules: whether one covers or meets another. Where it cannot be told from the text, the workloads at hand decide; where
// they cannot either, the answer is no.
import type { Requirement, Selector } from '../../identity/selector.ts'
import { makeTrie } from '../../match/trie.ts'
import { Protocol, type Ports } from '../../net/ports.ts'
import { subtractRanges, type AddressRange } from '../../net/prefix.ts'
import type { NameMatch, Peer, Policy, Rule, RulePorts } from '../rules.ts'
import type { Context } from './context.ts'

/** Which workloads at hand a selector selects. */
type Selecting = Pick<Context, 'identities'>

const bare = (key: string): string => key.slice(key.indexOf(':') + 1)
const isSameKey = (a: string, b: string): boolean => a === b || (a.startsWith('any:') && bare(a) === bare(b))

/** Whether whatever meets `given` meets `wanted` too. */
function implies(given: Requirement, wanted: Requirement): boolean {
  if (!isSameKey(wanted.key, given.key)) return false
  switch (wanted.operator) {
    case 'Exists':
      return given.operator === 'In' || given.operator === 'Exists'
    case 'DoesNotExist':
      return given.operator === 'DoesNotExist'
    case 'In':
      return given.operator === 'In' && given.values.every((value) => wanted.values.includes(value))
    case 'NotIn':
      if (given.operator === 'In') return given.values.every((value) => !wanted.values.includes(value))
      return (
        given.operator === 'DoesNotExist' ||
        (given.operator === 'NotIn' && wanted.values.every((value) => given.values.includes(value)))
      )
  }
}

/** Whether `wide` selects all that `narrow` does, whatever there is. */
export function selectorCovers(wide: Selector, narrow: Selector): boolean {
  return wide.every((wanted) => narrow.some((given) => implies(given, wanted)))
}

/** Whether both select some workload at hand, or one covers the other. */
function selectorsMeet(context: Selecting, a: Selector, b: Selector): boolean {
  if (selectorCovers(a, b) || selectorCovers(b, a)) return true
  const others = context.identities(b)
  return [...context.identities(a)].some((id) => others.has(id))
}

/**
 * The same, where what `narrow` does not speak of is taken for absent: a policy for all pods but those of kube-dns is about `app: web`,
 * although there might be a pod that is both.
 */
function selectorCoversMostly(wide: Selector, narrow: Selector): boolean {
  const isUnsaid = (wanted: Requirement): boolean =>
    (wanted.operator === 'NotIn' || wanted.operator === 'DoesNotExist') &&
    !narrow.some((given) => isSameKey(wanted.key, given.key))
  return wide.every((wanted) => isUnsaid(wanted) || narrow.some((given) => implies(given, wanted)))
}

/** Whether the policy is about all that the other is about, as far as anybody can tell. */
export function subjectCoversMostly(context: Selecting, wide: Policy, narrow: Policy): boolean {
  if (subjectCovers(context, wide, narrow)) return true
  return (
    wide.subject.kind === narrow.subject.kind &&
    context.identities(narrow.subject.selector).size === 0 &&
    selectorCoversMostly(wide.subject.selector, narrow.subject.selector)
  )
}

/** Whether the policy is about all that the other is about. */
export function subjectCovers(context: Selecting, wide: Policy, narrow: Policy): boolean {
  if (wide.subject.kind !== narrow.subject.kind) return false
  if (selectorCovers(wide.subject.selector, narrow.subject.selector)) return true
  const [ours, theirs] = [context.identities(wide.subject.selector), context.identities(narrow.subject.selector)]
  return theirs.size > 0 && theirs.size <= ours.size && [...theirs].every((id) => ours.has(id))
}

/** Whether some workload, or what one of them covers, is subject to both. */
export function subjectsMeet(context: Selecting, a: Policy, b: Policy): boolean {
  return a.subject.kind === b.subject.kind && selectorsMeet(context, a.subject.selector, b.subject.selector)
}

const holds = (wide: readonly AddressRange[], narrow: readonly AddressRange[]): boolean =>
  subtractRanges(narrow, wide).length === 0
const meet = (a: readonly AddressRange[], b: readonly AddressRange[]): boolean =>
  a.some((x) => b.some((y) => x.family === y.family && x.first <= y.last && y.first <= x.last))

const wider: Readonly<Record<string, readonly string[]>> = {
  world: ['world-ipv4', 'world-ipv6'],
  cluster: ['host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver'],
  'cluster-mesh': ['cluster', 'host', 'remote-node', 'init', 'ingress', 'health', 'unmanaged', 'kube-apiserver'],
}

function peerCovers(wide: Peer, narrow: Peer): boolean {
  if (wide.kind === 'entity' && wide.entity === 'all') return true
  switch (narrow.kind) {
    case 'endpoints':
      return wide.kind === 'endpoints' && selectorCovers(wide.selector, narrow.selector)
    case 'nodes':
      return wide.kind === 'nodes' && selectorCovers(wide.selector, narrow.selector)
    case 'cidr':
      return (
        wide.kind === 'cidr' &&
        (wide.reach === 'everywhere' || narrow.reach === 'outside') &&
        holds(wide.ranges, narrow.ranges)
      )
    case 'entity':
      return (
        wide.kind === 'entity' &&
        (wide.entity === narrow.entity || (wider[wide.entity]?.includes(narrow.entity) ?? false))
      )
    case 'name':
      // Names lead out of the cluster only.
      return (wide.kind === 'name' && nameCovers(wide, narrow)) || (wide.kind === 'entity' && wide.entity === 'world')
    case 'cidrGroup':
      return (
        wide.kind === 'cidrGroup' &&
        wide.except.length === 0 &&
        JSON.stringify(wide.group) === JSON.stringify(narrow.group)
      )
    case 'service':
      return (
        wide.kind === 'service' &&
        wide.namespace === narrow.namespace &&
        JSON.stringify(wide.service) === JSON.stringify(narrow.service)
      )
    case 'unresolved':
      return false
  }
}

/** Whether everybody whom `narrow` is about is somebody whom `wide` is about. Nobody is covered by nobody only. */
export function peersCover(wide: Rule['peers'], narrow: Rule['peers']): boolean {
  if (wide === 'everyone') return true
  if (narrow === 'everyone') return wide.some((peer) => peer.kind === 'entity' && peer.entity === 'all')
  return narrow.length > 0 && narrow.every((peer) => wide.some((other) => peerCovers(other, peer)))
}

function peersMeetEach(context: Selecting, a: Peer, b: Peer): boolean {
  if (peerCovers(a, b) || peerCovers(b, a)) return true
  if (a.kind === 'endpoints' && b.kind === 'endpoints') return selectorsMeet(context, a.selector, b.selector)
  if (a.kind === 'cidr' && b.kind === 'cidr') return meet(a.ranges, b.ranges)
  const isWorld = (peer: Peer): boolean => peer.kind === 'entity' && peer.entity.startsWith('world')
  const isOutside = (peer: Peer): boolean => peer.kind === 'cidr' || peer.kind === 'name'
  if ((isWorld(a) && isOutside(b)) || (isWorld(b) && isOutside(a))) return true
  const inCluster = (peer: Peer): boolean => peer.kind === 'entity' && peer.entity.startsWith('cluster')
  return (inCluster(a) && b.kind === 'endpoints') || (inCluster(b) && a.kind === 'endpoints')
}

/** Whether somebody may be whom both are about. */
export function peersMeet(context: Selecting, a: Rule['peers'], b: Rule['peers']): boolean {
  if (a === 'everyone') return b === 'everyone' || b.length > 0
  if (b === 'everyone') return a.length > 0
  return a.some((x) => b.some((y) => peersMeetEach(context, x, y)))
}

function portCovers(wide: RulePorts, narrow: RulePorts): boolean {
  if (wide.kind === 'all') return true
  if (wide.kind === 'ports' && narrow.kind === 'ports')
    return wide.protocol === narrow.protocol && wide.first <= narrow.first && narrow.last <= wide.last
  if (wide.kind === 'ports' && narrow.kind === 'named')
    return wide.protocol === narrow.protocol && wide.first === 0 && wide.last === 65535
  return JSON.stringify(wide) === JSON.stringify(narrow)
}

/** Whether every port of `narrow` is one of `wide`. */
export function portsCover(wide: readonly RulePorts[], narrow: readonly RulePorts[]): boolean {
  return narrow.every((port) => wide.some((other) => portCovers(other, port)))
}

/** The numbers of a named port among workloads that can be meant. */
function numbersOf(context: Context, port: RulePorts): readonly RulePorts[] {
  if (port.kind !== 'named') return [port]
  const numbers = context.workloads.flatMap(({ pod }) =>
    pod.ports.filter(({ name, protocol }) => name === port.name && protocol === port.protocol),
  )
  return [
    port,
    ...numbers.map(({ protocol, port: number }): Ports => ({ kind: 'ports', protocol, first: number, last: number })),
  ]
}

/** Whether some port is of both. */
export function portsMeet(context: Context, a: readonly RulePorts[], b: readonly RulePorts[]): boolean {
  const [xs, ys] = [a, b].map((ports) => ports.flatMap((port) => numbersOf(context, port)))
  return (xs ?? []).some((x) =>
    (ys ?? []).some(
      (y) =>
        portCovers(x, y) ||
        portCovers(y, x) ||
        (x.kind === 'ports' &&
          y.kind === 'ports' &&
          x.protocol === y.protocol &&
          x.first <= y.last &&
          y.first <= x.last),
    ),
  )
}

/** Whether the rule opens or closes this port of TCP or UDP. */
export function hasPort(
  rule: Rule,
  number: number,
  protocols: readonly Protocol[] = [Protocol.UDP, Protocol.TCP],
): boolean {
  return protocols.some((protocol) =>
    rule.ports.some((port) => portCovers(port, { kind: 'ports', protocol, first: number, last: number })),
  )
}

/** Whether every name that `narrow` matches is one that `wide` matches, as far as their text tells. */
export function nameCovers(wide: NameMatch, narrow: NameMatch): boolean {
  if (wide.pattern.kind === 'any' || JSON.stringify(wide.pattern) === JSON.stringify(narrow.pattern)) return true
  if (narrow.pattern.kind === 'any') return false
  // A star is covered by a star: a label that stands for one, and one deeper for `**.`.
  const labels = narrow.pattern.labels.map((label) =>
    label.kind === 'literal' ? label.text : label.pieces.join(sample),
  )
  const covers = (candidate: readonly string[]): boolean =>
    makeTrie([{ pattern: wide.pattern, value: true }]).lookup(candidate).length > 0
  if (narrow.pattern.deep)
    return wide.pattern.deep && covers([sample, ...labels]) && covers([sample, sample, ...labels])
  return covers(labels)
}

/** A label that no pattern has but by a star. */
const sample = 'q7zq'
