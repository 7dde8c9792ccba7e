// Which labels make an identity: Cilium's default filter (pkg/labelsfilter). What comes and goes with every rollout (pod-template-hash and
// its like) would otherwise give each revision of a workload an identity of its own.
import { podSource } from './selector.ts'

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

/**
 * The key that a pod's label has in its identity. What the filter leaves out no Cilium policy can select, whatever it writes; Kubernetes' own
 * policies select by every label of a pod. So such labels have a source of their own, which only those policies' selectors carry.
 */
export function podLabelKey(key: string): string {
  return isIdentityRelevant(key) ? `k8s:${key}` : `${podSource}:${key}`
}
