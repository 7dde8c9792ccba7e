// Numbers for label sets. The same set has the same number as long as the table lives; numbers are not given out twice.
import type { Identity, IdentityId } from './endpoints.ts'
import type { Labels } from './labels.ts'

/** Below are Cilium's reserved identities: 1 host, 2 world, … */
export const firstIdentity = 256

/** A short text that differs for different texts: a cryptographic hash, since label values are anybody's to choose. */
export type Digest = (text: string) => string

/** The canonical text of a label set, equal only for equal sets. (That of `labelsToText` is for people: `a=b` may be a key there.) */
export function labelSetText(labels: Labels): string {
  return JSON.stringify([...labels].sort(([a], [b]) => (a < b ? -1 : 1)))
}

export interface IdentityTable {
  readonly idOf: (labels: Labels) => IdentityId
  readonly get: (id: IdentityId) => Identity | undefined
}

/**
 * A table that grows by one entry for each distinct label set that the agent ever sees.
 * @param known numbers that an earlier agent gave out and that stand in the kernel, by digest of the label set's text: the same set gets
 * its number again, and no other set gets it.
 * @param taken further numbers that nobody gets: something stands in the kernel under them.
 */
export function makeIdentities(
  known: ReadonlyMap<string, IdentityId> = new Map(),
  digest: Digest = (text) => text,
  taken: Iterable<IdentityId> = [],
): IdentityTable {
  const byLabels = new Map<string, IdentityId>()
  const byId = new Map<IdentityId, Identity>()
  let next = Math.max(firstIdentity, ...[...known.values(), ...taken].map((id) => id + 1))

  function idOf(labels: Labels): IdentityId {
    const text = labelSetText(labels)
    let id = byLabels.get(text)
    if (id === undefined) {
      id = known.get(digest(text)) ?? next++
      byLabels.set(text, id)
      byId.set(id, { id, labels })
    }
    return id
  }
  return { idOf, get: (id) => byId.get(id) }
}
