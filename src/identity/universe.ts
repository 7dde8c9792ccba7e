// All identities there are at a moment, and which of them a selector selects: an index by label makes that cheap for many selectors.
import type { Identity, IdentityId } from './endpoints.ts'
import { anyKeyOf, selects, type Selector } from './selector.ts'

export interface Universe {
  readonly identities: ReadonlyMap<IdentityId, Identity>
  /** The identities whose labels meet the selector; equal selectors give the same set. */
  readonly select: (selector: Selector) => ReadonlySet<IdentityId>
  /** The identities that a test is true of. `name` is the test's: the same name gives the same set. */
  readonly where: (name: string, test: (identity: Identity) => boolean) => ReadonlySet<IdentityId>
  /** What `select` and `where` have answered. */
  readonly known: (question: Selector | string) => ReadonlySet<IdentityId> | undefined
  /** Lets go of the universe before: each would hold on to all that ever were. */
  readonly standAlone: () => void
}

/**
 * Identities; the index over their labels is made when first needed, and costs about 1 us a label.
 * @param before a universe much like this one: what it answered is taken over, corrected where identities differ.
 */
export function makeUniverse(identities: ReadonlyMap<IdentityId, Identity>, before?: Universe): Universe {
  let index: ReadonlyMap<string, readonly Identity[]> | undefined
  const all = [...identities.values()]
  const bySelector = new WeakMap<Selector, ReadonlySet<IdentityId>>()
  const byText = new Map<string, ReadonlySet<IdentityId>>()
  const differing = before === undefined ? [] : differenceOf(before.identities, identities)
  const isNear = before !== undefined && differing.length <= differingMax
  let ask = isNear ? before.known : (): undefined => undefined
  before?.standAlone()

  /** The fewest identities among which all that the selector selects are: those with one of its labels. */
  function candidates(selector: Selector): readonly Identity[] {
    const having = (index ??= indexOf(all))
    let best: readonly Identity[] = all
    for (const requirement of selector) {
      if (requirement.operator !== 'In') continue
      const lists = requirement.values.map((value) => having.get(`${requirement.key}\0${value}`) ?? [])
      const [only] = lists
      const found = lists.length === 1 && only !== undefined ? only : lists.flat()
      if (found.length < best.length) best = found
    }
    return best
  }
  /** An answer of the universe before, with the identities that differ judged again. */
  function corrected(old: ReadonlySet<IdentityId>, test: (identity: Identity) => boolean): ReadonlySet<IdentityId> {
    let set: Set<IdentityId> | undefined
    for (const id of differing) {
      const now = identities.get(id)
      const belongs = now !== undefined && test(now)
      if (belongs === old.has(id)) continue
      set ??= new Set(old)
      if (belongs) set.add(id)
      else set.delete(id)
    }
    return set ?? old
  }
  function select(selector: Selector): ReadonlySet<IdentityId> {
    let found = bySelector.get(selector)
    if (found !== undefined) return found
    const old = ask(selector)
    if (old !== undefined) found = corrected(old, ({ labels }) => selects(selector, labels))
    else {
      const text = JSON.stringify(selector)
      found = where(
        text,
        ({ labels }) => selects(selector, labels),
        () => candidates(selector),
      )
    }
    bySelector.set(selector, found)
    return found
  }
  function where(name: string, test: (identity: Identity) => boolean, among: () => readonly Identity[] = () => all): ReadonlySet<IdentityId> {
    let found = byText.get(name)
    if (found === undefined) {
      const old = ask(name)
      found = old === undefined ? new Set(among().flatMap((identity) => (test(identity) ? [identity.id] : []))) : corrected(old, test)
      byText.set(name, found)
    }
    return found
  } // prettier-ignore
  const known: Universe['known'] = (question) =>
    (typeof question === 'string' ? byText : bySelector).get(question as never)
  return { identities, select, where, known, standAlone: () => void (ask = () => undefined) }
}

/** More identities than this, and it is another universe. */
const differingMax = 32

/** Identities that one has and the other has not, or with other labels. */
function differenceOf(old: Universe['identities'], now: Universe['identities']): readonly IdentityId[] {
  const came = [...now].flatMap(([id, { labels }]) => (old.get(id)?.labels === labels ? [] : [id]))
  return [...came, ...[...old.keys()].filter((id) => !now.has(id))]
}

/** Identities by each of their labels, under its own source and under any. */
function indexOf(identities: readonly Identity[]): ReadonlyMap<string, readonly Identity[]> {
  const byLabel = new Map<string, Identity[]>()
  const put = (label: string, identity: Identity): void => {
    const there = byLabel.get(label)
    if (there === undefined) byLabel.set(label, [identity])
    else if (there.at(-1) !== identity) there.push(identity)
  }
  for (const identity of identities)
    for (const [key, value] of identity.labels) {
      put(`${key}\0${value}`, identity)
      const any = anyKeyOf(key)
      if (any !== undefined) put(`${any}\0${value}`, identity)
    }
  return byLabel
}
