// Numbers for label sets. The same set has the same number as long as the table lives; numbers are not given out twice.
import type { Identity, IdentityId } from './endpoints.ts'
import { labelsToText, type Labels } from './labels.ts'

/** Below are Cilium's reserved identities: 1 host, 2 world, … */
export const firstIdentity = 256

export interface IdentityTable {
  readonly idOf: (labels: Labels) => IdentityId
  readonly get: (id: IdentityId) => Identity | undefined
}

/** An empty table. It grows by one entry for each distinct label set that the agent ever sees. */
export function makeIdentities(): IdentityTable {
  const byLabels = new Map<string, IdentityId>()
  const byId = new Map<IdentityId, Identity>()

  function idOf(labels: Labels): IdentityId {
    const text = JSON.stringify(labelsToText(labels))
    let id = byLabels.get(text)
    if (id === undefined) {
      id = firstIdentity + byLabels.size
      byLabels.set(text, id)
      byId.set(id, { id, labels })
    }
    return id
  }
  return { idOf, get: (id) => byId.get(id) }
}
