// Checks about what is denied by default (NG004, NG012).
import { namespaceKey } from '../../identity/selector.ts'
import { Protocol } from '../../net/ports.ts'
import type { Direction, Policy, Rule } from '../rules.ts'
import {
  at,
  fixOf,
  isCilium,
  isEmptyList,
  itemsOf,
  itemsOfSpec,
  listed,
  nameOf,
  rulesOf,
  textOf,
  type Check,
  type Context,
} from './context.ts'
import { hasPort } from './coverage.ts'

const directions: readonly Direction[] = ['ingress', 'egress']

/** NG004: a policy of denials alone denies everything else, too. */
const denyOnly: Check = (context, say) => {
  for (const spec of context.specs)
    for (const direction of isCilium(spec) ? directions : []) {
      const [allow, deny] = [at(spec.field, direction), at(spec.field, `${direction}Deny`)]
      if (deny === undefined || itemsOf(deny).length === 0 || itemsOf(allow).length > 0) continue
      if (at(spec.field, 'enableDefaultDeny', direction) !== undefined) continue
      const others = (spec.policy === undefined ? [] : context.around(spec.policy)).filter(
        (other) => other.defaultDeny[direction] && rulesOf(other, direction).some(({ kind }) => kind === 'allow'),
      )
      if (others.length > 0) continue
      const existing = at(spec.field, 'enableDefaultDeny')
      say('NG004', spec, deny, {
        severity: 'warning',
        message: `${direction}Deny alone puts ${about(context, spec.policy)} into default deny: all other ${direction} is denied too, as no rule allows it`,
        hint: `to deny these and nothing else: enableDefaultDeny: {${direction}: false}`,
        fix: fixOf(
          'deny what is listed and nothing else',
          existing === undefined
            ? context.sources.insertEntry(spec.field, ['enableDefaultDeny:', `  ${direction}: false`])
            : context.sources.insertEntry(existing, [`${direction}: false`]),
        ),
      })
    }
}

function about(context: Context, policy: Policy | undefined): string {
  const workloads = policy === undefined ? [] : context.selected(policy.subject.selector)
  return workloads.length === 0
    ? 'its subject'
    : `${workloads.length} workload${workloads.length === 1 ? '' : 's'} (${listed(workloads.map(nameOf))})`
}

/** Peers that one reaches by a name of the cluster. */
const isNamed = ({ peers }: Rule): boolean =>
  peers !== 'everyone' && peers.some(({ kind }) => kind === 'endpoints' || kind === 'service' || kind === 'name')

/** NG004: egress without DNS. */
const noDns: Check = (context, say) => {
  for (const spec of context.specs) {
    const { policy } = spec
    if (policy === undefined || policy.subject.kind === 'node' || !policy.defaultDeny.egress) continue
    const reaching = rulesOf(policy, 'egress').find((rule) => rule.kind === 'allow' && isNamed(rule))
    if (reaching === undefined) continue
    const all = context.around(policy).flatMap((other) => rulesOf(other, 'egress'))
    if (
      all.some(
        (rule) => rule.kind === 'allow' && hasPort(rule, 53, [Protocol.UDP]) && mayReachDns(context, rule, policy),
      )
    )
      continue
    // NG001 says it for names.
    if (
      isCilium(spec) &&
      all.some((rule) => rule.peers !== 'everyone' && rule.peers.some(({ kind }) => kind === 'name'))
    )
      continue
    if (reachesDns(context, all)) continue
    say('NG004', spec, at(spec.field, 'egress') ?? spec.field, {
      severity: 'warning',
      message: `this puts ${about(context, policy)} into default deny for egress, and no policy allows them DNS: names cannot be looked up`,
      hint: 'allow UDP and TCP port 53 to the cluster DNS (kube-system, k8s-app: kube-dns)',
    })
  }
}

/** Whether DNS servers may be among the peers: not where a rule is about the pods of the policy's own namespace, or about names. */
function mayReachDns(context: Context, { peers }: Rule, { namespace }: Policy): boolean {
  if (peers === 'everyone') return true
  return peers.some((peer) => {
    if (peer.kind !== 'endpoints') return peer.kind !== 'name'
    if (context.selected(peer.selector).some(({ pod }) => pod.labels.get('k8s-app') === 'kube-dns')) return true
    const own = peer.selector.some(
      (r) =>
        r.operator === 'In' &&
        bareOf(r.key) === bareOf(namespaceKey) &&
        r.values.length === 1 &&
        r.values[0] === namespace,
    )
    return !own || namespace === 'kube-system'
  })
}

const bareOf = (key: string): string => key.slice(key.indexOf(':') + 1)

/** Whether a rule opens the port that a DNS server at hand has instead of 53. */
function reachesDns(context: Context, rules: readonly Rule[]): boolean {
  const services = context.world?.services.flatMap(({ ports }) => ports) ?? []
  const targets = services
    .filter(({ port, protocol }) => port === 53 && protocol === Protocol.UDP)
    .map(({ targetPort }) => targetPort)
  const pods = context.workloads
    .filter(({ pod }) => pod.labels.get('k8s-app') === 'kube-dns')
    .flatMap(({ pod }) => pod.ports)
  const own = pods.filter(({ protocol }) => protocol === Protocol.UDP).flatMap(({ name, port }) => [name, port])
  const isOpen = (rule: Rule, port: number | string): boolean =>
    typeof port === 'number'
      ? hasPort(rule, port, [Protocol.UDP])
      : rule.ports.some((each) => each.kind === 'named' && each.name === port)
  return rules.some((rule) => rule.kind === 'allow' && [...targets, ...own].some((port) => isOpen(rule, port)))
}

/** NG004: who is put into default deny, said by the first policy that does it. */
const subjects: Check = (context, say) => {
  for (const direction of directions) {
    const known = new Set<unknown>()
    for (const spec of context.specs) {
      const { policy } = spec
      if (policy === undefined || policy.subject.kind === 'node' || !policy.defaultDeny[direction]) continue
      const fresh = context.selected(policy.subject.selector).filter((workload) => !known.has(workload))
      for (const workload of fresh) known.add(workload)
      if (fresh.length > 0)
        say('NG004', spec, at(spec.field, direction) ?? at(spec.field, `${direction}Deny`) ?? spec.field, {
          severity: 'note',
          message: `this policy puts ${about(context, policy)} into default deny for ${direction}`,
        })
    }
  }
}

/** NG012. */
const withoutDefaultDeny: Check = (context, say) => {
  if (context.isCilium(1, 18)) return
  for (const spec of context.specs)
    for (const { field, direction } of itemsOfSpec(spec)) {
      const flag = at(spec.field, 'enableDefaultDeny', direction)
      if (textOf(flag) !== 'false' || flag === undefined) continue
      const rules = itemsOf(at(field, 'toPorts'))
        .map((item) => at(item, 'rules'))
        .find((each) =>
          ['http', 'dns', 'kafka', 'l7'].some((key) => at(each, key) !== undefined && !isEmptyList(at(each, key))),
        )
      if (rules !== undefined)
        say('NG012', spec, rules, {
          severity: 'warning',
          message: `before Cilium 1.18 L7 rules deny what they do not match, even with enableDefaultDeny.${direction}: false (line ${flag.line})`,
          hint: 'add a rule that matches everything (http: [{}], dns: [{matchPattern: "*"}]), or upgrade',
        })
    }
}

export const denyChecks: readonly Check[] = [denyOnly, noDns, subjects, withoutDefaultDeny]
