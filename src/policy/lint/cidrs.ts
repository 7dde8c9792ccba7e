// Checks about addresses: CIDRs for what is inside the cluster (NG002), entity cluster and traffic that comes in through a node (NG015).
import { addressFromText, addressToNumber, familyOf, type Family } from '../../net/address.ts'
import { everyAddress, prefixFromText, type AddressRange } from '../../net/prefix.ts'
import type { Peer, Rule } from '../rules.ts'
import {
  at,
  entriesOf,
  fixOf,
  isCilium,
  itemsOf,
  nameOf,
  rulesOf,
  textOf,
  type Check,
  type Context,
  type Said,
  type Spec,
} from './context.ts'

type CidrPeer = Peer & { readonly kind: 'cidr' }

const cidrsOf = (rule: Rule): readonly CidrPeer[] =>
  rule.peers === 'everyone' ? [] : rule.peers.filter((peer): peer is CidrPeer => peer.kind === 'cidr')

const isEverything = (ranges: readonly AddressRange[]): boolean =>
  ranges.some((range) => range.first === 0n && range.last === everyAddress[range.family].last)

/** Who inside the cluster has an address, and how one names it in a policy. */
interface Inhabitant {
  readonly number: bigint
  readonly what: string
  readonly instead: string
  readonly isNode: boolean
  readonly isApiServer: boolean
}

/** Everybody with an address by family, in the order of addresses. */
function inhabitantsOf(context: Context): Readonly<Record<Family, readonly Inhabitant[]>> {
  const found: Record<Family, Inhabitant[]> = { 4: [], 6: [] }
  const add = (texts: readonly string[], who: Omit<Inhabitant, 'number' | 'isApiServer'>): void => {
    for (const text of texts) {
      const address = addressFromText(text)
      if (address !== undefined)
        found[familyOf(address)].push({
          ...who,
          isApiServer: who.isNode && apiServers.has(text),
          number: addressToNumber(address),
        })
    }
  }
  const { world } = context
  const slices =
    world?.endpointSlices.filter(({ namespace, service }) => namespace === 'default' && service === 'kubernetes') ?? []
  const apiServers = new Set(slices.flatMap(({ addresses }) => addresses))
  for (const workload of context.workloads)
    add(workload.pod.addresses, {
      what: `pod ${nameOf(workload)}`,
      instead: 'select pods by their labels (fromEndpoints/toEndpoints, podSelector)',
      isNode: false,
    })
  for (const { name, addresses } of world?.nodes ?? [])
    add(addresses, { what: `node ${name}`, instead: 'use the entities host and remote-node', isNode: true })
  for (const { namespace, name, clusterIPs } of world?.services ?? [])
    add(clusterIPs, {
      what: `the cluster address of Service ${namespace}/${name}`,
      instead: 'policy sees the pods behind a Service: select those',
      isNode: false,
    })
  for (const list of Object.values(found)) list.sort((a, b) => (a.number < b.number ? -1 : a.number > b.number ? 1 : 0))
  return found
}

/** The first of those in the range. */
function firstIn(
  inhabitants: Readonly<Record<Family, readonly Inhabitant[]>>,
  range: AddressRange,
): Inhabitant | undefined {
  const list = inhabitants[range.family]
  let [low, high] = [0, list.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((list[middle]?.number ?? 0n) < range.first) low = middle + 1
    else high = middle
  }
  const found = list[low]
  return found !== undefined && found.number <= range.last ? found : undefined
}

/** The ranges from which pods and services get their addresses, as Nodes and ServiceCIDRs say. */
function rangesOf(context: Context): readonly (Omit<Inhabitant, 'number'> & { readonly range: AddressRange })[] {
  return context.others.flatMap((object) => {
    const [kind, name] = [textOf(at(object, 'kind')), textOf(at(object, 'metadata', 'name')) ?? '']
    const texts =
      kind === 'Node'
        ? [at(object, 'spec', 'podCIDR'), ...itemsOf(at(object, 'spec', 'podCIDRs'))]
        : kind === 'ServiceCIDR'
          ? itemsOf(at(object, 'spec', 'cidrs'))
          : []
    const who =
      kind === 'Node'
        ? {
            what: `the pod addresses of node ${name}`,
            instead: 'select pods by their labels (fromEndpoints/toEndpoints, podSelector)',
          }
        : { what: 'the cluster addresses of Services', instead: 'policy sees the pods behind a Service: select those' }
    return texts.flatMap((field) => {
      const range = prefixFromText(textOf(field) ?? '')
      return range === undefined ? [] : [{ ...who, isNode: false, isApiServer: false, range }]
    })
  })
}

const meets = (a: AddressRange, b: AddressRange): boolean =>
  a.family === b.family && a.first <= b.last && b.first <= a.last

/** NG002. */
const inCluster: Check = (context, say) => {
  const inhabitants = inhabitantsOf(context)
  const known = rangesOf(context)
  for (const spec of context.specs)
    for (const rule of spec.policy?.rules ?? [])
      for (const peer of cidrsOf(rule)) {
        // Everything there is means the outside to whoever writes it.
        if (isEverything(peer.ranges)) continue
        const found = peer.ranges
          .map((range) => firstIn(inhabitants, range) ?? known.find((each) => meets(each.range, range)))
          .find((each) => each !== undefined)
        if (found === undefined) continue
        const { what, isNode, isApiServer } = found
        const effect = rule.kind === 'deny' ? 'is not denied by this' : 'is not meant by this'
        const who = isCilium(spec)
          ? 'a CIDR is about addresses outside the cluster'
          : 'on Cilium a CIDR is about addresses outside the cluster (elsewhere it may be otherwise)'
        say('NG002', spec, context.fieldAt(spec, peer.path), {
          severity: 'warning',
          message: `${peer.text} covers ${what}${isApiServer ? ', where the API server is' : ''}, which ${effect}: ${who}`,
          hint: `${isApiServer ? 'use the entity kube-apiserver' : found.instead}${isNode ? '; or set policy-cidr-match-mode: nodes in Cilium' : ''}`,
          ...(isApiServer ? apiServerFix(context, spec, peer) : {}),
        })
      }
}

/** A list of nothing but one address of the API server's node means the API server. */
function apiServerFix(context: Context, spec: Spec, peer: CidrPeer): Pick<Said, 'fix'> {
  const bracket = peer.path.lastIndexOf('[')
  const list = context.fieldAt(spec, peer.path.slice(0, bracket))
  const key = list.path.slice(list.path.lastIndexOf('.') + 1)
  const [range] = peer.ranges
  if (
    range === undefined ||
    range.first !== range.last ||
    itemsOf(list).length !== 1 ||
    !['toCIDR', 'fromCIDR'].includes(key)
  )
    return {}
  const entities = key.replace('CIDR', 'Entities')
  return {
    fix: fixOf('the entity kube-apiserver', context.sources.replaceEntry(list, `${entities}: [kube-apiserver]`)),
  }
}

/** NG015: the entity `cluster`. */
const clusterEntity: Check = (context, say) => {
  for (const spec of context.specs)
    for (const rule of spec.policy?.rules ?? [])
      for (const peer of rule.peers === 'everyone' ? [] : rule.peers)
        if (peer.kind === 'entity' && peer.entity === 'cluster')
          say('NG015', spec, context.fieldAt(spec, peer.path), {
            severity: 'note',
            message:
              'entity cluster is the pods of this cluster and the nodes of every connected one: pods of other clusters are not in it',
            hint: 'for those, toEndpoints/fromEndpoints with {key: io.cilium.k8s.policy.cluster, operator: Exists}, or the entity cluster-mesh',
          })
}

/** NG015: clients from outside come with a node's address, unless the Service keeps theirs. */
const translatedClients: Check = (context, say) => {
  const exposed = context.others.filter(
    (object) =>
      textOf(at(object, 'kind')) === 'Service' &&
      ['NodePort', 'LoadBalancer'].includes(textOf(at(object, 'spec', 'type')) ?? '') &&
      textOf(at(object, 'spec', 'externalTrafficPolicy')) !== 'Local',
  )
  if (exposed.length === 0) return
  for (const spec of context.specs) {
    const rule = rulesOf(spec.policy, 'ingress').find((each) =>
      cidrsOf(each).some(({ ranges }) => !isEverything(ranges)),
    )
    const peer = rule && cidrsOf(rule)[0]
    if (spec.policy === undefined || rule === undefined || peer === undefined) continue
    const subjects = context.selected(spec.policy.subject.selector)
    const service = exposed.find((object) =>
      subjects.some(
        ({ pod }) =>
          pod.namespace === (textOf(at(object, 'metadata', 'namespace')) ?? 'default') &&
          selectorOf(object).every(([key, value]) => pod.labels.get(key) === value),
      ),
    )
    if (service === undefined) continue
    say('NG015', spec, context.fieldAt(spec, peer.path), {
      severity: 'warning',
      message: `clients of ${textOf(at(service, 'spec', 'type')) ?? ''} Service ${textOf(at(service, 'metadata', 'name')) ?? ''} that come in through another node arrive with that node's address, which ${peer.text} does not cover`,
      hint: 'externalTrafficPolicy: Local (or DSR) keeps the client address; or allow the entities world and remote-node',
    })
  }
}

const selectorOf = (service: Parameters<typeof at>[0]): [string, string][] => {
  const entries = entriesOf(at(service, 'spec', 'selector')).flatMap(([key, value]): [string, string][] => [
    [key, textOf(value) ?? ''],
  ])
  return entries.length === 0 ? [['\0', 'selects nothing']] : entries
}

export const cidrChecks: readonly Check[] = [inCluster, clusterEntity, translatedClients]
