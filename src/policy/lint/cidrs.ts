// Checks about addresses: CIDRs for what is inside the cluster (NG002), entity cluster and traffic that comes in through a node (NG015).
import { addressFromText } from '../../net/address.ts'
import { everyAddress, rangeCovers, type AddressRange } from '../../net/prefix.ts'
import type { Peer, Rule } from '../rules.ts'
import { at, fixOf, isCilium, itemsOf, nameOf, rulesOf, textOf, type Check, type Context, type Said, type Spec } from './context.ts' // prettier-ignore
import { entriesOf } from './context.ts'

type CidrPeer = Peer & { readonly kind: 'cidr' }

const cidrsOf = (rule: Rule): readonly CidrPeer[] =>
  rule.peers === 'everyone' ? [] : rule.peers.filter((peer): peer is CidrPeer => peer.kind === 'cidr')

const isEverything = (ranges: readonly AddressRange[]): boolean =>
  ranges.some((range) => range.first === 0n && range.last === everyAddress[range.family].last)

function covers(ranges: readonly AddressRange[], text: string): boolean {
  const address = addressFromText(text)
  return address !== undefined && ranges.some((range) => rangeCovers(range, address))
}

/** What inside the cluster has an address in the ranges: what it is, and how one names it in a policy. */
function inhabitantOf(context: Context, ranges: readonly AddressRange[]): { readonly what: string; readonly instead: string; readonly apiServer: boolean } | undefined {
  const { world } = context
  const inside = (addresses: readonly string[]): boolean => addresses.some((text) => covers(ranges, text))
  const pod = context.workloads.find((workload) => inside(workload.pod.addresses))
  if (pod !== undefined) return { what: `pod ${nameOf(pod)}`, instead: 'select pods by their labels (fromEndpoints/toEndpoints, podSelector)', apiServer: false }
  const node = world?.nodes.find(({ addresses }) => inside(addresses))
  const apiServers = world?.endpointSlices.filter(({ namespace, service }) => namespace === 'default' && service === 'kubernetes').flatMap(({ addresses }) => addresses) ?? []
  if (node !== undefined) {
    const apiServer = node.addresses.some((text) => covers(ranges, text) && apiServers.includes(text))
    return { what: `node ${node.name}${apiServer ? ', where the API server is' : ''}`, instead: apiServer ? 'use the entity kube-apiserver' : 'use the entities host and remote-node', apiServer }
  }
  const service = world?.services.find(({ clusterIPs }) => inside(clusterIPs))
  if (service !== undefined) return { what: `the cluster address of Service ${service.namespace}/${service.name}`, instead: 'policy sees the pods behind a Service: select those', apiServer: false }
  return undefined
} // prettier-ignore

/** NG002. */
const inCluster: Check = (context, say) => {
  const told = new Set<string>()
  for (const spec of context.specs)
    for (const rule of spec.policy?.rules ?? [])
      for (const peer of cidrsOf(rule)) {
        const field = context.fieldAt(spec, peer.path)
        const id = `${field.file}:${field.line}:${field.column}`
        // Everything there is means the outside to whoever writes it.
        if (told.has(id) || isEverything(peer.ranges)) continue
        const found = inhabitantOf(context, peer.ranges)
        if (found === undefined) continue
        told.add(id)
        const effect = rule.kind === 'deny' ? 'is not denied by this' : 'is not meant by this'
        const who = isCilium(spec) ? 'a CIDR is about addresses outside the cluster' : 'on Cilium a CIDR is about addresses outside the cluster (elsewhere it may be otherwise)'
        say('NG002', spec, field, {
          severity: 'warning',
          message: `${peer.text} covers ${found.what}, which ${effect}: ${who}`,
          hint: `${found.instead}${found.what.startsWith('node') ? '; or set policy-cidr-match-mode: nodes in Cilium' : ''}`,
          ...(found.apiServer ? apiServerFix(context, spec, peer) : {}),
        })
      }
} // prettier-ignore

/** A list of nothing but one address of the API server's node means the API server. */
function apiServerFix(context: Context, spec: Spec, peer: CidrPeer): Pick<Said, 'fix'> {
  const bracket = peer.path.lastIndexOf('[')
  const list = context.fieldAt(spec, peer.path.slice(0, bracket))
  const key = list.path.slice(list.path.lastIndexOf('.') + 1)
  const [range] = peer.ranges
  if (range === undefined || range.first !== range.last || itemsOf(list).length !== 1 || !['toCIDR', 'fromCIDR'].includes(key)) return {}
  const entities = key.replace('CIDR', 'Entities')
  return { fix: fixOf('the entity kube-apiserver', context.sources.replaceEntry(list, `${entities}: [kube-apiserver]`)) }
} // prettier-ignore

/** NG015: the entity `cluster`. */
const clusterEntity: Check = (context, say) => {
  for (const spec of context.specs)
    for (const rule of spec.policy?.rules ?? [])
      for (const peer of rule.peers === 'everyone' ? [] : rule.peers)
        if (peer.kind === 'entity' && peer.entity === 'cluster')
          say('NG015', spec, context.fieldAt(spec, peer.path), { severity: 'note', message: 'entity cluster is the pods of this cluster and the nodes of every connected one: pods of other clusters are not in it', hint: 'for those, toEndpoints/fromEndpoints with {key: io.cilium.k8s.policy.cluster, operator: Exists}, or the entity cluster-mesh' })
} // prettier-ignore

/** NG015: clients from outside come with a node's address, unless the Service keeps theirs. */
const translatedClients: Check = (context, say) => {
  const exposed = context.others.filter((object) => textOf(at(object, 'kind')) === 'Service' && ['NodePort', 'LoadBalancer'].includes(textOf(at(object, 'spec', 'type')) ?? '') && textOf(at(object, 'spec', 'externalTrafficPolicy')) !== 'Local')
  if (exposed.length === 0) return
  for (const spec of context.specs) {
    const rule = rulesOf(spec.policy, 'ingress').find((each) => cidrsOf(each).some(({ ranges }) => !isEverything(ranges)))
    const peer = rule && cidrsOf(rule)[0]
    if (spec.policy === undefined || rule === undefined || peer === undefined) continue
    const subjects = context.selected(spec.policy.subject.selector)
    const service = exposed.find((object) => subjects.some(({ pod }) => pod.namespace === (textOf(at(object, 'metadata', 'namespace')) ?? 'default') && selectorOf(object).every(([key, value]) => pod.labels.get(key) === value)))
    if (service === undefined) continue
    say('NG015', spec, context.fieldAt(spec, peer.path), {
      severity: 'warning',
      message: `clients of ${textOf(at(service, 'spec', 'type')) ?? ''} Service ${textOf(at(service, 'metadata', 'name')) ?? ''} that come in through another node arrive with that node's address, which ${peer.text} does not cover`,
      hint: 'externalTrafficPolicy: Local (or DSR) keeps the client address; or allow the entities world and remote-node',
    })
  }
} // prettier-ignore

const selectorOf = (service: Parameters<typeof at>[0]): [string, string][] => {
  const entries = entriesOf(at(service, 'spec', 'selector')).flatMap(([key, value]): [string, string][] => [[key, textOf(value) ?? '']]) // prettier-ignore
  return entries.length === 0 ? [['\0', 'selects nothing']] : entries
}

export const cidrChecks: readonly Check[] = [inCluster, clusterEntity, translatedClients]
