// Checks about labels: peers confined to a namespace or cluster (NG009), labels that are not in identities (NG011), reserved labels (NG020).
import { isIdentityRelevant } from '../../identity/relevant.ts'
import {
  clusterKey,
  keyWithSource,
  labelSources,
  mentions,
  namespaceKey,
  type Selector,
} from '../../identity/selector.ts'
import { nearest, type Field } from '../field.ts'
import {
  at,
  fixOf,
  isCilium,
  isEmptyMap,
  keysOfSelector,
  listed,
  selectorsOf,
  textOf,
  type Check,
  type Context,
  type Spec,
} from './context.ts'

/** `k8s.io.kubernetes.pod.namespace` and its like as they are meant: the source of a label ends with a colon. Undefined for other keys. */
function undotted(key: string): string | undefined {
  const dot = key.indexOf('.')
  const [source, rest] = [key.slice(0, dot), key.slice(dot + 1)]
  if (dot < 0 || key.includes(':') || !['k8s', 'any'].includes(source)) return undefined
  // `k8s.io/role` is a key as any other.
  const isCiliums = rest.startsWith('io.kubernetes.') || rest.startsWith('io.cilium.')
  return isCiliums || !rest.includes('/') ? `${source}:${rest}` : undefined
}

const isOnNamespace = (key: string): boolean => key === namespaceKey || key === 'any:io.kubernetes.pod.namespace'

/** NG009. */
const implied: Check = (context, say) => {
  const speaksOfClusters = context.specs.some((spec) =>
    selectorsOf(spec).some(({ field }) =>
      keysOfSelector(field).some(({ key }) => bareOf(key) === 'io.cilium.k8s.policy.cluster'),
    ),
  )
  for (const spec of context.specs.filter(isOfNamespaces))
    for (const rule of spec.policy?.rules ?? [])
      for (const peer of rule.peers === 'everyone' ? [] : rule.peers) {
        if (peer.kind !== 'endpoints') continue
        const field = context.fieldAt(spec, peer.path)
        // A selector that a service stands for has no field of its own.
        if (field.path !== peer.path || isEmptyMap(field)) continue
        if (!isCilium(spec)) {
          const pods = at(field, 'podSelector')
          if (pods !== undefined && keysOfSelector(pods).length > 0 && at(field, 'namespaceSelector') === undefined)
            confined(context, spec, field, peer.selector, say)
          continue
        }
        const written = keysOfSelector(field).map(({ key }) => key)
        const wrote = written.map((key) => keyWithSource(key))
        // What is no pod has no namespace.
        if (wrote.some((key) => key.startsWith('reserved:'))) continue
        if (
          speaksOfClusters &&
          context.isCilium(1, 19) &&
          mentions(peer.selector, clusterKey) &&
          !wrote.some((key) => bareOf(key) === bareOf(clusterKey))
        )
          say('NG009', spec, field, {
            severity: 'note',
            message: 'since Cilium 1.19 a peer that names no cluster is of this cluster only',
            hint: 'for any cluster: matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]',
          })
        if (
          spec.namespace === undefined ||
          wrote.some(isOnNamespace) ||
          written.some((key) => undotted(key)?.startsWith('k8s:io.') === true) ||
          wrote.some((key) => key.includes('io.cilium.k8s.namespace.labels.'))
        )
          continue
        confined(context, spec, field, peer.selector, say)
      }
}

/** Kinds whose peers are confined to a namespace without saying so. */
const isOfNamespaces = (spec: Spec): boolean => isCilium(spec) || spec.kind === 'NetworkPolicy'

const bareOf = (key: string): string => key.slice(key.indexOf(':') + 1)

function confined(context: Context, spec: Spec, field: Field, selector: Selector, say: Parameters<Check>[1]): void {
  if (context.selected(selector).length > 0) return
  const own = spec.namespace ?? ''
  const anywhere = selector.filter(({ key }) => key !== namespaceKey)
  const found = [...new Set(context.selected(anywhere).map(({ pod }) => pod.namespace))]
  const namespaces = found.length === 0 && isClusterDns(selector) && own !== dnsNamespace ? [dnsNamespace] : found
  const [only] = namespaces
  if (only === undefined) {
    // Of a NetworkPolicy everybody knows whose pods it means.
    if (isCilium(spec)) sayOwn(context, spec, field, say)
    return
  }
  const others = found.length === 0 ? 'the cluster DNS is in' : `none there has these labels; ${found.length === 1 ? 'there are some in' : 'there are some in each of'}`
  say('NG009', spec, field, {
    severity: 'warning',
    message: `this peer means pods of namespace ${own}, the policy's own; ${others} ${listed(namespaces)}`,
    hint: isCilium(spec) ? `name the namespace: k8s:io.kubernetes.pod.namespace: ${only}` : `name the namespace in the same item: namespaceSelector: ${byName(only)}`,
    fix: namespaces.length === 1 ? namespaceFix(context, spec, field, only) : undefined,
  })
} // prettier-ignore

const dnsNamespace = 'kube-system'
const dnsLabels: Readonly<Record<string, readonly string[]>> = {
  'k8s-app': ['kube-dns', 'coredns', 'node-local-dns'],
  'app.kubernetes.io/name': ['coredns'],
}
/** Whether these labels are those of the cluster's DNS servers. */
const isClusterDns = (selector: Selector): boolean =>
  selector.some(
    (r) => r.operator === 'In' && r.values.some((value) => dnsLabels[bareOf(r.key)]?.includes(value) === true),
  )

/** Nobody at hand tells who is meant. */
function sayOwn(context: Context, spec: Spec, field: Field, say: Parameters<Check>[1]): void {
  const own = spec.namespace ?? ''
  if (context.workloads.length === 0)
    say('NG009', spec, field, {
      severity: 'note',
      message: `this peer means pods of namespace ${own}, the policy's own`,
      hint: 'for pods of another: k8s:io.kubernetes.pod.namespace: NAME among its labels',
    })
  else if (context.selected([{ operator: 'In', key: namespaceKey, values: [own] }]).length > 0)
    say('NG009', spec, field, {
      severity: 'note',
      message: `no workload of these manifests has these labels in namespace ${own}`,
    })
}

const byName = (namespace: string): string => `{matchLabels: {${namespaceName}: ${namespace}}}`

function namespaceFix(context: Context, spec: Spec, field: Field, namespace: string): ReturnType<typeof fixOf> {
  const { insertEntry, appendFlow } = context.sources
  const title = `pods of namespace ${namespace}`
  if (!isCilium(spec)) {
    const entry = `namespaceSelector: ${byName(namespace)}`
    return fixOf(title, insertEntry(field, [entry]) ?? appendFlow(field, entry))
  }
  const labels = at(field, 'matchLabels')
  if (labels === undefined) return undefined
  const key = 'k8s:io.kubernetes.pod.namespace'
  return fixOf(title, insertEntry(labels, [`${key}: ${namespace}`]) ?? appendFlow(labels, `"${key}": ${namespace}`))
}

/** NG011: Cilium's default filter; `labels` in its configuration changes it. */
const filtered: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field } of selectorsOf(spec))
      for (const { key, field: place } of keysOfSelector(field)) {
        const full = keyWithSource(key)
        const isPodLabel = full.startsWith('any:') || full.startsWith('k8s:')
        // Namespace selectors of the Kubernetes kinds are about labels of namespaces, which are all in.
        if (
          !isPodLabel ||
          isIdentityRelevant(bareOf(full)) ||
          undotted(key) !== undefined ||
          place.path.includes('amespaceSelector') ||
          place.path.includes('.namespaces') ||
          place.path.includes('.nodes') ||
          place.path.includes('odeSelector') ||
          /\.(from|to)Nodes\[/.test(place.path) ||
          place.path.includes('k8sServiceSelector')
        )
          continue
        if (bareOf(full) === namespaceName) sayNamespaceName(context, spec, place, key, say)
        else
          say('NG011', spec, place, {
            severity: 'warning',
            message: `Cilium leaves label "${bareOf(full)}" out of identities: no pod has it there, so a selector on it selects nothing (and NotIn or DoesNotExist everything)`,
            hint: 'select by a label of your own, or add this one to "labels" in the Cilium configuration',
          })
      }
}

/** The label that every namespace has, and no pod. */
const namespaceName = 'kubernetes.io/metadata.name'

function sayNamespaceName(context: Context, spec: Spec, place: Field, key: string, say: Parameters<Check>[1]): void {
  const own = 'k8s:io.kubernetes.pod.namespace'
  say('NG011', spec, place, {
    severity: 'warning',
    message: `"${key}" is a label of namespaces: no pod has it, so this selects nothing`,
    hint: isCilium(spec) ? `pods of a namespace have the label ${own}` : 'it belongs below namespaceSelector',
    ...(isCilium(spec) && !place.path.includes('matchExpressions')
      ? { fix: fixOf(`pods of the namespace`, context.sources.renameKey(place, own)) }
      : {}),
  })
}

const reserved = [
  'host',
  'world',
  'world-ipv4',
  'world-ipv6',
  'health',
  'init',
  'unmanaged',
  'remote-node',
  'kube-apiserver',
  'ingress',
]

/** NG020: `reserved: health` is a label of that name; the reserved label is `reserved:health`, without a value. */
const reservedLabels: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field } of isCilium(spec) ? selectorsOf(spec) : [])
      for (const { key, field: place } of keysOfSelector(field)) {
        const value = place.kind === 'scalar' && at(field, 'matchLabels')?.kind === 'map' ? textOf(place) : undefined
        const bare = bareOf(keyWithSource(key))
        const word = bare === 'reserved' ? value : /^reserved[./](.+)$/.exec(bare)?.[1]
        if (word !== undefined && reserved.includes(word.toLowerCase()))
          say('NG020', spec, place, {
            severity: 'warning',
            message: `"${key}${bare === 'reserved' ? `: ${word}` : ''}" is an ordinary label, which nothing has; the reserved one is "reserved:${word.toLowerCase()}"`,
            hint: `write "reserved:${word.toLowerCase()}": ""`,
            fix: place.path.includes('matchExpressions')
              ? undefined
              : fixOf(
                  'the reserved label',
                  context.sources.replaceEntry(place, `"reserved:${word.toLowerCase()}": ""`),
                ),
          })
        else if (key.startsWith('reserved:') && !reserved.includes(key.slice('reserved:'.length))) {
          const wrong = key.slice('reserved:'.length)
          const near = nearest(wrong, reserved)
          say('NG020', spec, place, {
            severity: 'warning',
            message: `there is no reserved label "${wrong}"`,
            hint: near === undefined ? `there are ${reserved.join(', ')}` : `did you mean "reserved:${near}"?`,
            fix:
              near === undefined || place.path.includes('matchExpressions')
                ? undefined
                : fixOf(`reserved:${near}`, context.sources.renameKey(place, `"reserved:${near}"`)),
          })
        } else if (undotted(key) !== undefined && !context.workloads.some(({ labels }) => labels.has(`k8s:${key}`)))
          say('NG020', spec, place, {
            severity: 'warning',
            message: `"${key}" is a label of that name, which nothing has: the source of a label ends with a colon`,
            hint: `write "${undotted(key) ?? ''}"`,
            fix: place.path.includes('matchExpressions')
              ? fixOf(undotted(key) ?? '', context.sources.replaceScalar(place, undotted(key) ?? ''))
              : fixOf(undotted(key) ?? '', context.sources.renameKey(place, `"${undotted(key) ?? ''}"`)),
          })
        else if (key.includes(':') && !labelSources.includes(key.slice(0, key.indexOf(':'))))
          say('NG020', spec, place, {
            severity: 'warning',
            message: `"${key.slice(0, key.indexOf(':'))}" is no source of labels: nothing has this key`,
            hint: `sources are ${labelSources.join(', ')}`,
          })
      }
}

export const labelChecks: readonly Check[] = [implied, filtered, reservedLabels]
