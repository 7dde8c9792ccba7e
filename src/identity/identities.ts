// Numbers for label sets. The same set has the same number as long as somebody has it, and no other set has it then.
import type { Identity, IdentityId } from './endpoints.ts'
import type { Labels } from './labels.ts'

/** Below are Cilium's reserved identities: 1 host, 2 world, … */
export const firstIdentity = 256
/** Numbers above are others' in the kernel: of what ranges tell apart (`datapath/peers.ts`). */
export const lastIdentity: IdentityId = 0xff_ffff

/** A short text that differs for different texts: a cryptographic hash, since label values are anybody's to choose. */
export type Digest = (text: string) => string

/** The canonical text of a label set, equal only for equal sets. (That of `labelsToText` is for people: `a=b` may be a key there.) */
export function labelSetText(labels: Labels): string {
  return JSON.stringify([...labels].sort(([a], [b]) => (a < b ? -1 : 1)))
}

export interface IdentityTable {
  readonly idOf: (labels: Labels) => IdentityId
  readonly get: (id: IdentityId) => Identity | undefined
  /**
   * Forgets the label sets that nobody has, once they are more than `idleMax`: should one come back, it gets another number. @param held the
   * identities of the world that is being compiled. What was learned under another does not stand any more when that world is in force.
   */
  readonly release: (held: Pick<ReadonlySet<IdentityId>, 'has'>) => void
}

/** So many label sets that nobody has any more keep their numbers: a workload that is down for a moment is who it was. */
export const idleMax = 1024

/**
 * A table of the label sets that somebody has or had of late. A number that was let go of is given to another set only when all others have
 * been (after half a year with a new set each second): what still says it (a flow, an element that the kernel has not dropped yet) means nobody.
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
  const kept = new Set([...known.values(), ...taken])
  let next = firstIdentity
  for (const id of kept) next = Math.max(next, id + 1)

  function fresh(): IdentityId {
    for (;;) {
      const id = next > lastIdentity ? firstIdentity : next
      next = id + 1
      if (!byId.has(id) && !kept.has(id)) return id
    }
  }
  function idOf(labels: Labels): IdentityId {
    const text = labelSetText(labels)
    let id = byLabels.get(text)
    if (id === undefined) {
      id = known.get(digest(text)) ?? fresh()
      byLabels.set(text, id)
      byId.set(id, { id, labels })
    }
    return id
  }
  function release(held: Parameters<IdentityTable['release']>[0]): void {
    const idle = [...byLabels].filter(([, id]) => !held.has(id))
    if (idle.length <= idleMax) return
    for (const [text, id] of idle) {
      byLabels.delete(text)
      byId.delete(id)
    }
  }
  return { idOf, get: (id) => byId.get(id), release }
}
