// All identities there are at a moment, and which of them a selector selects: an index by label makes that cheap for many selectors.
import type { Identity, IdentityId } from './endpoints.ts'
import { selects, type Selector } from './selector.ts'

export interface Universe {
  readonly identities: ReadonlyMap<IdentityId, Identity>
  /** The identities whose labels meet the selector; equal selectors give the same set. */
  readonly select: (selector: Selector) => ReadonlySet<IdentityId>
}

/** Identities with an index over their labels. Costs about 1 us a label. */
export function makeUniverse(identities: ReadonlyMap<IdentityId, Identity>): Universe {
  const byLabel = new Map<string, Identity[]>()
  const put = (label: string, identity: Identity): void => {
    const there = byLabel.get(label)
    if (there === undefined) byLabel.set(label, [identity])
    else if (there.at(-1) !== identity) there.push(identity)
  }
  for (const identity of identities.values())
    for (const [key, value] of identity.labels) {
      put(`${key}\0${value}`, identity)
      put(`any:${key.slice(key.indexOf(':') + 1)}\0${value}`, identity)
    }
  const all = [...identities.values()]
  const bySelector = new WeakMap<Selector, ReadonlySet<IdentityId>>()
  const byText = new Map<string, ReadonlySet<IdentityId>>()

  /** The fewest identities among which all that the selector selects are: those with one of its labels. */
  function candidates(selector: Selector): readonly Identity[] {
    let best = all
    for (const requirement of selector) {
      if (requirement.operator !== 'In') continue
      const having = requirement.values.map((value) => byLabel.get(`${requirement.key}\0${value}`) ?? [])
      const [only] = having
      const found = having.length === 1 && only !== undefined ? only : having.flat()
      if (found.length < best.length) best = found
    }
    return best
  }
  function select(selector: Selector): ReadonlySet<IdentityId> {
    let found = bySelector.get(selector)
    if (found !== undefined) return found
    const text = JSON.stringify(selector)
    found = byText.get(text)
    if (found === undefined) {
      found = new Set(candidates(selector).flatMap(({ id, labels }) => (selects(selector, labels) ? [id] : [])))
      byText.set(text, found)
    }
    bySelector.set(selector, found)
    return found
  }
  return { identities, select }
}
