// Label selectors as Cilium reads them: `source:key`, `any:` (or no source) for every source, matchLabels and matchExpressions together.
import type { Labels } from './labels.ts'

export type Requirement =
  | { readonly operator: 'In' | 'NotIn'; readonly key: string; readonly values: readonly string[] }
  | { readonly operator: 'Exists' | 'DoesNotExist'; readonly key: string }

/** All requirements hold; none at all selects everything. Keys carry a source; `any:` stands for each. */
export type Selector = readonly Requirement[]

export const namespaceKey = 'k8s:io.kubernetes.pod.namespace'
export const namespaceLabelsPrefix = 'k8s:io.cilium.k8s.namespace.labels.'
export const serviceAccountKey = 'k8s:io.cilium.k8s.policy.serviceaccount'
/** On every identity of a cluster's own: peers that name no cluster are confined to this one (Cilium 1.19 and later). */
export const clusterKey = 'k8s:io.cilium.k8s.policy.cluster'
/** Tells identities apart whose pods have equal labels and unequal named ports. */
export const namedPortsKey = 'gen:io.cilium.k8s.named-ports'

/**
 * Source of pod labels that are in an identity for the sake of a Kubernetes policy that selects by them: no Cilium policy can write it, and
 * `any:` does not mean it.
 */
export const podSource = 'pod'

/** What may stand in front of a key's first colon. */
export const labelSources: readonly string[] = [
  'k8s',
  'reserved',
  'any',
  'cidr',
  'cidrgroup',
  'fqdn',
  'node',
  'gen',
  'cni',
  'unspec',
  'directory',
  'container',
]

/**
 * `app` becomes `any:app`; a known source in front of the first colon stays. `unspec:` means any source too, and `reserved.init` and `$init`
 * are other spellings of `reserved:init`.
 */
export function keyWithSource(key: string): string {
  const colon = key.indexOf(':')
  if (key.startsWith('$')) return `reserved:${key.slice(1)}`
  if (colon < 0 && key.startsWith('reserved.')) return `reserved:${key.slice('reserved.'.length)}`
  const source = colon < 0 ? '' : key.slice(0, colon)
  if (!labelSources.includes(source)) return `any:${key}`
  return source === 'unspec' ? `any:${key.slice(colon + 1)}` : key
}

/** Whether the labels meet every requirement. NotIn holds where the key is absent. */
export function selects(selector: Selector, labels: Labels): boolean {
  return selector.every((requirement) => meets(requirement, labels))
}

function meets(requirement: Requirement, labels: Labels): boolean {
  const values = valuesOf(requirement.key, labels)
  switch (requirement.operator) {
    case 'Exists':
      return values.length > 0
    case 'DoesNotExist':
      return values.length === 0
    case 'In':
      return values.some((value) => requirement.values.includes(value))
    case 'NotIn':
      return !values.some((value) => requirement.values.includes(value))
  }
}

function valuesOf(key: string, labels: Labels): readonly string[] {
  if (!key.startsWith('any:')) {
    const value = labels.get(key)
    return value === undefined ? [] : [value]
  }
  return [...labels].filter(([labelKey]) => anyKeyOf(labelKey) === key).map(([, value]) => value)
}

/** How a selector that names no source calls a label's key; undefined for a label that it does not see. */
export function anyKeyOf(labelKey: string): string | undefined {
  const colon = labelKey.indexOf(':')
  return labelKey.slice(0, colon) === podSource ? undefined : `any${labelKey.slice(colon)}`
}

/** Whether any requirement is on this key, under its own source or any. */
export function mentions(selector: Selector, key: string): boolean {
  const bare = key.slice(key.indexOf(':') + 1)
  return selector.some((requirement) => requirement.key === key || requirement.key === `any:${bare}`)
}
