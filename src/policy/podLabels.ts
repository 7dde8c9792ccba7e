// The labels of a pod's identity: its own, and what Cilium adds to them about namespace, cluster and service account.
import type { Labels } from '../identity/labels.ts'
import { podLabelKey } from '../identity/relevant.ts'
import { clusterKey, namespaceKey, namespaceLabelsPrefix, podSource, serviceAccountKey } from '../identity/selector.ts'
import type { Pod } from './rules.ts'

/** Labels that say where a pod is and who runs it: whoever may label a pod must not be able to say that it is elsewhere. */
const isOurs = (key: string): boolean => key.startsWith('io.cilium.k8s.') || key === 'io.kubernetes.pod.namespace'

/**
 * @param ofNamespace labels of its namespace; undefined: it is not declared.
 * @param isKept whether a label stays that only Kubernetes' own policies select by, with its key (`pod:…`).
 */
export function labelsOfPod(
  { namespace, labels, serviceAccount }: Pick<Pod, 'namespace' | 'labels' | 'serviceAccount'>,
  ofNamespace: ReadonlyMap<string, string> | undefined,
  clusterName: string,
  isKept: (key: string) => boolean,
): Labels {
  const all = new Map<string, string>()
  for (const [key, value] of labels) {
    const full = podLabelKey(key)
    if (!isOurs(key) && (!full.startsWith(`${podSource}:`) || isKept(full))) all.set(full, value)
  }
  all.set(namespaceKey, namespace)
  all.set(clusterKey, clusterName)
  all.set(`${namespaceLabelsPrefix}kubernetes.io/metadata.name`, namespace)
  for (const [key, value] of ofNamespace ?? []) all.set(namespaceLabelsPrefix + key, value)
  if (serviceAccount !== undefined) all.set(serviceAccountKey, serviceAccount)
  return all
}
