// Checks about the cluster around a policy: API server and DNS as they are reached (NG014), probes and host policies (NG023).
import { Protocol } from '../../net/ports.ts'
import type { Field } from '../field.ts'
import type { Entity, Rule } from '../rules.ts'
import {
  at,
  fixOf,
  isCilium,
  isOrdered,
  itemsOf,
  itemsOfSpec,
  listed,
  nameOf,
  rulesOf,
  textOf,
  type Check,
  type Spec,
} from './context.ts'
import { hasPort, peersCover } from './coverage.ts'

/** NG014: the API server. */
const apiServer: Check = (context, say) => {
  if (context.world === undefined) return
  const known = context.world.endpointSlices.some(
    ({ namespace, service, addresses }) => namespace === 'default' && service === 'kubernetes' && addresses.length > 0,
  )
  for (const spec of context.specs)
    for (const rule of rulesOf(spec.policy, 'egress'))
      for (const peer of rule.peers === 'everyone' ? [] : rule.peers) {
        if (peer.kind !== 'entity' || peer.entity !== 'kube-apiserver') continue
        const field = context.fieldAt(spec, peer.path)
        if (!known)
          say('NG014', spec, field, {
            severity: 'note',
            message:
              'the EndpointSlice of Service default/kubernetes is not in these manifests: who kube-apiserver is is not known here, and the rule matches nothing',
            hint: 'on managed clusters its addresses are outside the cluster and may change; they have to be in that EndpointSlice',
          })
        if (hasPort(rule, 443, [Protocol.TCP]) && !hasPort(rule, 6443, [Protocol.TCP]))
          say('NG014', spec, field, {
            severity: 'note',
            message: 'policy sees the port of the API server itself, often 6443; 443 is the port of Service kubernetes',
            hint: 'look at the ports of the EndpointSlice of default/kubernetes',
          })
      }
}

const dnsServices = ['kube-dns', 'coredns', 'dns-default', 'rke2-coredns-rke2-coredns']

/** NG014: DNS on another port than the rule's. */
const dnsPorts: Check = (context, say) => {
  const services =
    context.world?.services.filter(
      ({ name, ports }) =>
        dnsServices.includes(name) &&
        ports.some(({ port, targetPort }) => port === 53 && typeof targetPort === 'number' && targetPort !== 53),
    ) ?? []
  const local = context.world?.pods.find(
    ({ labels, name }) => labels.get('k8s-app') === 'node-local-dns' || name === 'node-local-dns',
  )
  for (const spec of context.specs)
    for (const { field, direction, isDeny } of itemsOfSpec(spec)) {
      if (direction !== 'egress' || isDeny) continue
      const ports = [
        ...itemsOf(at(field, 'toPorts')).flatMap((item) => itemsOf(at(item, 'ports'))),
        ...itemsOf(at(field, 'ports')),
      ]
      const dns = ports.map((item) => at(item, 'port')).find((port) => textOf(port) === '53')
      if (dns === undefined) continue
      const [service] = services
      const target = service?.ports.find(({ port }) => port === 53)?.targetPort
      if (
        service !== undefined &&
        target !== undefined &&
        !ports.some((item) => textOf(at(item, 'port')) === String(target))
      )
        say('NG014', spec, dns, {
          severity: 'warning',
          message: `the pods of Service ${service.namespace}/${service.name} listen on port ${target}, not 53, which is what policy sees`,
          hint: `use ${target} (for Cilium together with 53: its proxy goes by the port)`,
          fix: fixOf(`port ${target}`, context.sources.replaceScalar(dns, String(target))),
        })
      if (local !== undefined && reachesOnlyPods(spec, field))
        say('NG014', spec, dns, {
          severity: 'warning',
          message: `${local.namespace}/${local.name} answers DNS on the node: questions go to the node's address, which this rule does not allow`,
          hint: 'allow the entity host on port 53 too, or redirect DNS to its pods with a CiliumLocalRedirectPolicy',
        })
    }
}

/** Whether all peers of the rule are pods by labels. */
function reachesOnlyPods(spec: Spec, item: Field): boolean {
  const rules = rulesOf(spec.policy, 'egress').filter(
    ({ path }) => path === item.path || path.startsWith(`${item.path}.`),
  )
  const isPods = ({ peers }: Rule): boolean => peers !== 'everyone' && peers.every(({ kind }) => kind === 'endpoints')
  return rules.length > 0 && rules.every(isPods)
}

/** NG014: the agent's proxy is asked on port 53. */
const dnsRulePorts: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field, direction } of isCilium(spec) ? itemsOfSpec(spec) : [])
      for (const item of direction === 'egress' ? itemsOf(at(field, 'toPorts')) : []) {
        const [dns, ports] = [at(item, 'rules', 'dns'), itemsOf(at(item, 'ports')).map((port) => at(port, 'port'))]
        const [first] = ports
        if (itemsOf(dns).length === 0 || first === undefined || ports.some((port) => textOf(port) === '53')) continue
        say('NG014', spec, first, {
          severity: 'note',
          message: `these DNS rules are for port ${textOf(first) ?? ''}: questions to port 53 do not meet them, and namegate's proxy answers port 53 only`,
          hint: 'pods ask port 53 of the cluster DNS unless its pods listen elsewhere: then add that port beside 53',
        })
      }
}

const probeKeys = ['livenessProbe', 'readinessProbe', 'startupProbe']

/** NG023: probes come from the node; Cilium lets them in only while allow-localhost is not `policy`. */
const probes: Check = (context, say) => {
  const probed = new Set(context.others.flatMap(probedNames))
  for (const spec of context.specs) {
    const { policy } = spec
    if (policy === undefined || policy.subject.kind === 'node' || !policy.defaultDeny.ingress) continue
    const subjects = context
      .selected(policy.subject.selector)
      .filter((workload) => probed.has(`${workload.pod.kind} ${nameOf(workload)}`))
    if (subjects.length === 0) continue
    const all = context.around(policy).flatMap((other) => rulesOf(other, 'ingress'))
    // One that allows them need not rely on it; one that denies them is told of below.
    if (all.some((rule) => rule.kind !== 'pass' && meansHost(rule))) continue
    say('NG023', spec, at(spec.field, 'ingress') ?? spec.field, {
      severity: 'note',
      message: `the probes of ${listed(subjects.map(nameOf))} come from the node; no rule allows them, they pass because a pod's own node always may (not with allow-localhost: policy in Cilium)`,
      ...(isCilium(spec) ? { hint: 'to be independent of that: fromEntities: [host] on the ports of the probes' } : {}),
    })
  }
}

/** NG023: a denial holds for the node too, before what lets it reach its pods by default. */
const deniedProbes: Check = (context, say) => {
  const probed = new Set(context.others.flatMap(probedNames))
  for (const spec of context.specs) {
    const { policy } = spec
    if (policy === undefined || policy.subject.kind === 'node' || isOrdered(spec)) continue
    const denial = rulesOf(policy, 'ingress').find((rule) => rule.kind === 'deny' && meansHost(rule) && rule.ports.some(({ kind }) => kind === 'all'))
    if (denial === undefined) continue
    const subjects = context.selected(policy.subject.selector).filter(({ pod }) => probed.has(`${pod.kind} ${pod.namespace}/${pod.name}`))
    say('NG023', spec, context.fieldAt(spec, denial.path), {
      severity: subjects.length === 0 ? 'note' : 'warning',
      message: `this denies the node as well, and no rule can allow it again: ${subjects.length === 0 ? 'probes of the kubelet fail' : `the probes of ${listed(subjects.map(nameOf))} fail`}`,
      hint: 'deny the entity world, or allow what is wanted and leave the rest to default deny',
    })
  }
} // prettier-ignore

const meansEntity = (rule: Rule, entity: Entity): boolean =>
  peersCover(rule.peers, [{ kind: 'entity', entity, path: rule.path, line: rule.line }])
const meansHost = (rule: Rule): boolean => meansEntity(rule, 'host')
/** An API server on a node is a remote node as well. */
const means = (rule: Rule, entity: Entity): boolean =>
  meansEntity(rule, entity) || (entity === 'kube-apiserver' && meansEntity(rule, 'remote-node'))

/** `Deployment shop/web`, when a container of it has a probe over the network. */
function probedNames(object: Field): readonly string[] {
  const kind = textOf(at(object, 'kind')) ?? ''
  const pod =
    at(object, 'spec', 'jobTemplate', 'spec', 'template', 'spec') ??
    at(object, 'spec', 'template', 'spec') ??
    at(object, 'spec')
  const containers = itemsOf(at(pod, 'containers'))
  const isProbed = containers.some((container) =>
    probeKeys.some((key) => ['httpGet', 'tcpSocket', 'grpc'].some((how) => at(container, key, how) !== undefined)),
  )
  return isProbed
    ? [
        `${kind} ${textOf(at(object, 'metadata', 'namespace')) ?? 'default'}/${textOf(at(object, 'metadata', 'name')) ?? ''}`,
      ]
    : []
}

/** What a node needs: from whom, on which port (0: any), for what. */
const needs = [
  { direction: 'ingress', entity: 'remote-node', port: 0, what: 'traffic of other nodes (tunnel, health, etcd)' },
  { direction: 'ingress', entity: 'kube-apiserver', port: 10250, what: 'the API server to the kubelet (port 10250)' },
  { direction: 'egress', entity: 'kube-apiserver', port: 0, what: 'the kubelet to the API server' },
  { direction: 'egress', entity: 'remote-node', port: 0, what: 'traffic to other nodes (tunnel, health)' },
] as const

/** NG023: host policies. */
const hostPolicies: Check = (context, say) => {
  for (const spec of context.specs) {
    const { policy } = spec
    if (policy === undefined || policy.subject.kind !== 'node') continue
    for (const direction of ['ingress', 'egress'] as const) {
      if (!policy.defaultDeny[direction]) continue
      const all = context.around(policy).flatMap((other) => rulesOf(other, direction))
      const missing = needs.filter(
        (need) =>
          need.direction === direction &&
          !all.some(
            (rule) =>
              rule.kind === 'allow' &&
              (need.port === 0 || hasPort(rule, need.port, [Protocol.TCP])) &&
              means(rule, need.entity),
          ),
      )
      if (missing.length > 0)
        say('NG023', spec, at(spec.field, direction) ?? spec.field, {
          severity: 'warning',
          message: `this host policy cuts off ${missing.map(({ what }) => what).join('; ')}`,
          hint: `allow ${[...new Set(missing.map(({ entity }) => entity))].join(' and ')} (or the entity cluster); answers to connections of the host itself pass by themselves`,
        })
    }
  }
}

export const clusterChecks: readonly Check[] = [apiServer, dnsPorts, dnsRulePorts, probes, deniedProbes, hostPolicies]
