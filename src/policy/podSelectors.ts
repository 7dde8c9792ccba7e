// The selectors of Kubernetes' own policies, podSelector and namespaceSelector, as selectors over identity labels.
import { podLabelKey } from '../identity/relevant.ts'
import { mentions, clusterKey, namespaceKey, namespaceLabelsPrefix, type Requirement, type Selector } from '../identity/selector.ts' // prettier-ignore
import { isSince } from './context.ts'
import { isAbsent, readList, readMap, readPart, readString, type Field, type Report } from './field.ts'
import type { ParseOptions } from './rules.ts'
import { readSelector } from './selectors.ts'

const namespaceLabelKey = (key: string): string => namespaceLabelsPrefix + key

/** Keys of pods. Absent selects every pod, as empty does. */
export function readPodSelector(report: Report, field: Field | undefined): Selector {
  return readKubernetesSelector(report, field, podLabelKey)
}

/** Keys of namespaces. Absent selects every namespace, as empty does. */
export function readNamespaceSelector(report: Report, field: Field | undefined): Selector {
  return readKubernetesSelector(report, field, namespaceLabelKey)
}

/** Keys of nodes, with the source `node:`. */
export function readNodeSelector(report: Report, field: Field): Selector {
  return readKubernetesSelector(report, field, (key) => `node:${key}`)
}

function readKubernetesSelector(report: Report, field: Field | undefined, keyOf: (key: string) => string): Selector {
  if (isAbsent(field)) return []
  if (field.kind === 'map') checkKeys(report, field)
  return readSelector(report, field, keyOf)
}

/** Sources in front of keys are Cilium's; here a colon is an error. */
function checkKeys(report: Report, field: Field): void {
  const fields = readMap(report, field)
  const say = (at: Field): void =>
    report.error(at, "invalid label selector: key: Invalid value: name part must consist of alphanumeric characters, '-', '_' or '.' (sources such as `k8s:` are of Cilium's policies)") // prettier-ignore
  const labels = fields.get('matchLabels')
  if (labels?.kind === 'map') for (const [key, entry] of labels.entries) if (key.includes(':')) say(entry)
  const expressions = fields.get('matchExpressions')
  for (const item of expressions?.kind === 'list' ? readList(report, expressions) : []) {
    const key = item.kind === 'map' ? item.entries.get('key') : undefined
    if (key?.kind === 'scalar' && typeof key.value === 'string' && key.value.includes(':')) say(key)
  }
}

/** Pods of one namespace. */
export function podsOfNamespace(pods: Selector, namespace: string): Selector {
  return [...pods, { operator: 'In', key: namespaceKey, values: [namespace] }]
}

/**
 * Pods of the namespaces that are selected. By the specification a peer or subject that is named by namespaces is a pod; in Cilium only an empty
 * selector says so, and one that merely excludes (NotIn, DoesNotExist) selects what has no namespace too: world, nodes, the host.
 */
export function podsOfNamespaces(pods: Selector, namespaces: Selector, { semantics }: ParseOptions): Selector {
  const isPod: Requirement = { operator: 'Exists', key: namespaceKey }
  return [...namespaces, ...(semantics === 'spec' || namespaces.length === 0 ? [isPod] : []), ...pods]
}

/**
 * Under Cilium's semantics peers that name no cluster are of this one (policy-default-local-cluster, on since 1.19). The specification knows one
 * cluster.
 */
export function ofThisCluster(selector: Selector, options: ParseOptions): Selector {
  if (options.semantics === 'spec' || !isSince(options, '1.19') || mentions(selector, clusterKey)) return selector
  return [...selector, { operator: 'In', key: clusterKey, values: [options.clusterName] }]
}

/** The `{ namespaceSelector, podSelector }` of ClusterNetworkPolicy and its elders. */
export function readNamespacedPods(report: Report, field: Field, required: readonly string[], options: ParseOptions): Selector {
  const fields = readPart(report, field, ['namespaceSelector', 'podSelector'])
  for (const key of required) if (isAbsent(fields.get(key))) report.error(field, `${key}: Required value`)
  const namespaces = readNamespaceSelector(report, fields.get('namespaceSelector'))
  return podsOfNamespaces(readPodSelector(report, fields.get('podSelector')), namespaces, options)
} // prettier-ignore

/** A port's name as IANA and the API server have it: at most 15 of a-z, 0-9 and single hyphens, with a letter. Undefined when wrong. */
export function readPortName(report: Report, field: Field): string | undefined {
  const name = readString(report, field)
  if (name === undefined) return undefined
  const wrong = portNameComplaint(name)
  if (wrong !== undefined) report.error(field, `Invalid value: "${name}": ${wrong}`)
  return wrong === undefined ? name : undefined
}

function portNameComplaint(name: string): string | undefined {
  if (name.length > 15) return 'must be no more than 15 characters'
  if (!/^[-a-z0-9]+$/.test(name)) return 'must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)'
  if (/^[0-9]+$/.test(name)) return 'must contain at least one letter (a-z); a port number stands without quotes here'
  if (!/[a-z]/.test(name)) return 'must contain at least one letter (a-z)'
  if (name.includes('--')) return 'must not contain consecutive hyphens'
  if (name.startsWith('-') || name.endsWith('-')) return 'must not begin or end with a hyphen'
  return undefined
}
