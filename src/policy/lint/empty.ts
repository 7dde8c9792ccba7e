// Checks about what is empty: lists that open everything (NG005), the three ways to write nothing (NG007), selectors of everything (NG008).
import type { Field } from '../field.ts'
import type { Service } from '../rules.ts'
import {
  at,
  entriesOf,
  fixOf,
  isCilium,
  isEmptyList,
  isEmptyMap,
  itemsOf,
  itemsOfSpec,
  keysOfSelector,
  rulesOf,
  textOf,
  type Check,
  type Context,
  type Item,
  type Spec,
} from './context.ts'

const failingOpen = ['toServices', 'toGroups', 'toFQDNs', 'fromGroups']

/** NG005. */
const failsOpen: Check = (context, say) => {
  for (const spec of context.specs)
    for (const item of isCilium(spec) ? itemsOfSpec(spec) : []) {
      const { field } = item
      const isPorted = itemsOf(at(field, 'toPorts')).length > 0
      for (const key of failingOpen) {
        const list = at(field, key)
        if (list !== undefined && isEmptyList(list) && isPorted)
          say('NG005', spec, list, {
            severity: 'error',
            message: `${key}: [] with toPorts ${opens(item)} on Cilium: an empty list stands for every peer there`,
            hint: `take ${key} out and name the peers; namegate takes it for nobody`,
          })
      }
      const services = at(field, 'toServices')
      if (services === undefined || isEmptyList(services)) continue
      if (item.isDeny)
        say('NG005', spec, services, {
          severity: 'error',
          message: isPorted
            ? 'toServices in egressDeny is never resolved by Cilium: with toPorts it denies these ports to everyone'
            : 'toServices in egressDeny is never resolved by Cilium: it denies nothing',
          hint: 'deny the pods behind the service by their labels: toEndpoints',
        })
      else if (context.world !== undefined) missingServices(context, spec, item, services, isPorted, say)
    }
}

const opens = ({ isDeny }: Item): string =>
  isDeny ? 'denies these ports to everyone' : 'allows these ports to everyone'

function missingServices(
  context: Context,
  spec: Spec,
  item: Item,
  services: Field,
  isPorted: boolean,
  say: Parameters<Check>[1],
): void {
  const missing = itemsOf(services).filter((entry) => !resolves(context, entry))
  // Cilium opens the ports only if none of them resolves.
  const [first] = missing
  if (first === undefined) return
  const text = describe(first)
  const isOpen = isPorted && missing.length === itemsOf(services).length
  say('NG005', spec, first, {
    severity: isOpen ? 'error' : 'warning',
    message: isOpen
      ? `${text} is not in these manifests; on Cilium a rule whose services cannot be found ${opens(item)}`
      : `${text} is not in these manifests: this entry allows nothing`,
    hint: isOpen
      ? 'select the pods by their labels with toEndpoints, which fails closed (namegate allows nobody)'
      : 'check name and namespace',
  })
}

function describe(entry: Field): string {
  const named = at(entry, 'k8sService')
  if (named === undefined) return 'a service with these labels'
  return `service ${textOf(at(named, 'namespace')) ?? ''}/${textOf(at(named, 'serviceName')) ?? ''}`
}

function resolves(context: Context, entry: Field): boolean {
  const { world } = context
  const [named, selected] = [at(entry, 'k8sService'), at(entry, 'k8sServiceSelector')]
  const namespace = textOf(at(named ?? selected, 'namespace'))
  const isThere = ({ selector, ...service }: Service): boolean =>
    selector !== undefined ||
    world?.endpointSlices.some(
      (slice) => slice.service === service.name && slice.namespace === service.namespace && slice.addresses.length > 0,
    ) === true
  if (named !== undefined) {
    const name = textOf(at(named, 'serviceName'))
    return (
      world?.services.some(
        (service) =>
          service.name === name &&
          (namespace === undefined || namespace === '' || service.namespace === namespace) &&
          isThere(service),
      ) === true
    )
  }
  // Selectors with expressions are not read here: they are taken to find something.
  if (selected === undefined || itemsOf(at(selected, 'selector', 'matchExpressions')).length > 0) return true
  const wanted = entriesOf(at(selected, 'selector', 'matchLabels'))
  return (
    world?.services.some(
      (service) =>
        (namespace === undefined || namespace === '' || service.namespace === namespace) &&
        wanted.every(([key, value]) => service.labels.get(key) === textOf(value)) &&
        isThere(service),
    ) === true
  )
}

const peerLists = /^(from|to)(Endpoints|CIDR|CIDRSet|Entities|Nodes)$/

/** NG007. */
const nothings: Check = (context, say) => {
  for (const spec of context.specs) {
    if (spec.kind !== 'NetworkPolicy' && !isCilium(spec)) continue
    for (const key of isCilium(spec) ? ['ingress', 'ingressDeny', 'egress', 'egressDeny'] : []) {
      const list = at(spec.field, key)
      if (list !== undefined && isEmptyList(list))
        say('NG007', spec, list, {
          severity: 'warning',
          message: `${key}: [] is as if it were not there: it denies nothing (in a NetworkPolicy it denies everything)`,
          hint: key.endsWith('Deny') ? 'take it out' : `to allow nothing: ${key}: [{}]`,
          fix: key.endsWith('Deny') ? undefined : fixOf('allow nothing', context.sources.replaceValue(list, '[{}]')),
        })
    }
    for (const item of itemsOfSpec(spec))
      if (isCilium(spec)) ciliumNothings(context, spec, item, say)
      else networkPolicyNothings(spec, item, say)
  }
}

function ciliumNothings(
  context: Context,
  spec: Spec,
  { field, list, direction, isDeny }: Item,
  say: Parameters<Check>[1],
): void {
  if (isEmptyMap(field)) {
    const isAlone = itemsOf(list).length === 1
    say('NG007', spec, field, {
      severity: isAlone ? 'note' : 'warning',
      message: isDeny
        ? '{} denies nothing here'
        : `{} allows nothing here${isAlone ? `: ${direction} is denied` : ', beside the other rules'} (in a NetworkPolicy it allows everything)`,
      ...(isAlone ? {} : { fix: fixOf('take it out', context.sources.removeItem(field)) }),
    })
    return
  }
  for (const [key, value] of entriesOf(field)) {
    if (peerLists.test(key) && isEmptyList(value))
      say('NG007', spec, value, {
        severity: 'warning',
        message: `${key}: [] selects nobody: the rule has no effect`,
        hint: key.endsWith('Endpoints')
          ? `everybody in the namespace is ${key}: [{}]; without ${key} the rule is about everyone`
          : `without ${key} the rule is about everyone`,
      })
    if (key.endsWith('Endpoints'))
      for (const peer of itemsOf(value).filter(isEmptyMap))
        say('NG007', spec, peer, {
          severity: 'note',
          message: `${key}: [{}] is every pod ${spec.namespace === undefined ? 'of all namespaces' : `of namespace ${spec.namespace}`}: never the world, this host or other nodes`,
        })
  }
  for (const item of itemsOf(at(field, 'toPorts'))) {
    const ports = at(item, 'ports')
    if (isEmptyMap(item) || (ports !== undefined && isEmptyList(ports)))
      say('NG007', spec, item, {
        severity: 'warning',
        message: 'toPorts without ports contributes nothing: it does not stand for every port',
        hint: 'for every port leave toPorts out',
      })
    for (const [key, rules] of entriesOf(at(item, 'rules')))
      if (isEmptyList(rules))
        say('NG007', spec, rules, {
          severity: 'warning',
          message: `${key}: [] is as if it were not there: every request is allowed on these ports`,
          hint: `${key}: [{}] is the proxy with everything allowed; to deny, list what is allowed`,
        })
  }
}

function networkPolicyNothings(spec: Spec, { field, direction }: Item, say: Parameters<Check>[1]): void {
  if (isEmptyMap(field))
    say('NG007', spec, field, {
      severity: 'note',
      message: `{} allows all ${direction} here (in a Cilium policy it allows nothing)`,
    })
  const key = direction === 'ingress' ? 'from' : 'to'
  const peers = at(field, key)
  if (peers !== undefined && isEmptyList(peers))
    say('NG007', spec, peers, {
      severity: 'warning',
      message: `${key}: [] is everyone, the outside too`,
      hint: `to allow nobody take the whole rule out; for all pods of the namespace: ${key}: [{podSelector: {}}]`,
    })
}

const ownNamespace = [
  '{key: "k8s:io.kubernetes.pod.namespace", operator: Exists}',
  '{key: "k8s:io.kubernetes.pod.namespace", operator: NotIn, values: [kube-system]}',
]

/** A selector without any requirement. */
const selectsAll = (selector: Field): boolean => selector.kind === 'map' && keysOfSelector(selector).length === 0

/** NG008. */
const clusterwide: Check = (context, say) => {
  for (const spec of context.specs) {
    const selector = at(spec.field, 'endpointSelector')
    if (spec.kind !== 'CiliumClusterwideNetworkPolicy' || selector === undefined || !selectsAll(selector)) continue
    if (
      spec.policy !== undefined &&
      !spec.policy.defaultDeny.ingress &&
      !spec.policy.defaultDeny.egress &&
      !rulesOf(spec.policy, 'ingress')
        .concat(rulesOf(spec.policy, 'egress'))
        .some(({ kind }) => kind === 'deny')
    )
      continue
    say('NG008', spec, selector, {
      severity: 'warning',
      message:
        'endpointSelector: {} selects every endpoint of the cluster: kube-system (cluster DNS) and the health endpoints of Cilium too',
      hint: 'leave them out, and allow the entity health where the health of nodes is watched',
      fix: fixOf(
        'leave kube-system and health endpoints out',
        context.sources.replaceValue(selector, `{matchExpressions: [${ownNamespace.join(', ')}]}`),
      ),
    })
  }
}

export const emptyChecks: readonly Check[] = [failsOpen, nothings, clusterwide]
