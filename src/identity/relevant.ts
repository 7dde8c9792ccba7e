// Which labels make an identity: Cilium's default filter (pkg/labelsfilter). What comes and goes with every rollout (pod-template-hash and
// its like) would otherwise give each revision of a workload an identity of its own.
import type { Labels } from './labels.ts'

/** What a key begins with to be in, although an exclusion covers it. */
const included = [
  'io.kubernetes.pod.namespace',
  'io.cilium.k8s.namespace.labels',
  'app.kubernetes.io',
  'io.cilium.k8s.policy.cluster',
  'io.cilium.k8s.policy.serviceaccount',
]

/** What a key begins with to be out. */
const excluded = [
  'io.kubernetes',
  'kubernetes.io',
  'statefulset.kubernetes.io/pod-name',
  'apps.kubernetes.io/pod-index',
  'batch.kubernetes.io/job-completion-index',
  'batch.kubernetes.io/controller-uid',
  'controller-uid',
  'k8s.io',
  'pod-template-generation',
  'pod-template-hash',
  'controller-revision-hash',
  'annotation',
  'etcd_node',
  'topology.kubernetes.io',
]
/** A key that has this in it anywhere is out. */
const excludedWithin = 'beta.kubernetes.io'

/** Whether labels with this key (without source) are part of an identity: the longest inclusion against the shortest exclusion. */
export function isIdentityRelevant(key: string): boolean {
  let ignored = key.includes(excludedWithin) ? key.lastIndexOf(excludedWithin) + excludedWithin.length : 0
  for (const prefix of excluded) {
    // `annotation.*` matches to the end of the key.
    const length = prefix === 'annotation' ? key.length : prefix.length
    if (key.startsWith(prefix) && (ignored === 0 || length < ignored)) ignored = length
  }
  if (ignored === 0) return true
  return included.some((prefix) => prefix.length > ignored && key.startsWith(prefix))
}

/** The labels that make the identity; keys carry a source. `kept` are keys without source that stay in whatever the filter says. */
export function identityLabels(labels: Labels, kept: ReadonlySet<string>): Labels {
  return new Map([...labels].filter(([key]) => isRelevant(key, kept)))
}

function isRelevant(key: string, kept: ReadonlySet<string>): boolean {
  const colon = key.indexOf(':')
  const bare = key.slice(colon + 1)
  return key.startsWith('reserved:') || isIdentityRelevant(bare) || kept.has(bare)
}
