// Labels with their source: `k8s:app=web`, `reserved:world`. A sorted label set is what an identity stands for.

/** Label key with source (`k8s:app`) to value, sorted by key. */
export type Labels = ReadonlyMap<string, string>

/** `k8s:app=web` for each label, sorted, for people. */
export function labelsToText(labels: Labels): readonly string[] {
  return [...labels].map(([key, value]) => (value === '' ? key : `${key}=${value}`)).sort()
}
