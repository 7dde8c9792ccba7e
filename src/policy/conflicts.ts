// Rules of a set of policies that cannot be merged (`merge.ts`), for those who write them: found by what policies say, whoever is there.
import { labelSetText } from '../identity/identities.ts'
import { makeUniverse, type Universe } from '../identity/universe.ts'
import { subjectsMeet } from './lint/coverage.ts'
import { conflictOf, isDemanding, makeMeeting, sortOf } from './merge.ts'
import type { PolicyRule } from './names.ts'
import { labelsOfPod } from './podLabels.ts'
import type { Policy, World } from './rules.ts'

export interface Conflict {
  /** The later of the two, in the order of the policies. */
  readonly rule: PolicyRule
  readonly other: PolicyRule
  /** In Cilium's words. */
  readonly words: string
}

/** Pairs of policies that are looked at for one kind of conflict; past that the rest of its rules are not told of. */
const pairsMax = 100_000

/**
 * Of each rule the first conflict. What rules are about is worked out once for each, as long as it lives.
 * @param meets whether some endpoint may be subject to both policies.
 */
export function makeConflictFinder(clusterName: string): (policies: readonly Policy[], meets: (a: Policy, b: Policy) => boolean) => readonly Conflict[] {
  const keysOf = makeMeeting(clusterName)
  return (policies, meets) => {
    const meetings = new Map<string, Map<string, PolicyRule[]>>()
    const order = new Map<PolicyRule['rule'], number>()
    for (const policy of policies)
      for (const rule of policy.rules) {
        if (!isDemanding(rule)) continue
        order.set(rule, order.size)
        const sort = sortOf(rule)
        for (const key of keysOf(rule)) addTo(meetings, `${policy.subject.kind} ${rule.direction} ${key}`, sort, { policy, rule })
      }
    const found = new Map<PolicyRule['rule'], Conflict>()
    for (const sorts of meetings.values()) {
      const lists = [...sorts.values()]
      for (const [i, these] of lists.entries())
        for (const those of lists.slice(0, i)) compareSorts(those, these, (rule) => order.get(rule) ?? 0, meets, found)
    }
    return [...found.values()].sort((a, b) => (order.get(a.rule.rule) ?? 0) - (order.get(b.rule.rule) ?? 0))
  }
} // prettier-ignore

function addTo(meetings: Map<string, Map<string, PolicyRule[]>>, key: string, sort: string, one: PolicyRule): void {
  let sorts = meetings.get(key)
  if (sorts === undefined) meetings.set(key, (sorts = new Map<string, PolicyRule[]>()))
  const list = sorts.get(sort)
  if (list === undefined) sorts.set(sort, [one])
  else if (list.at(-1)?.rule !== one.rule) list.push(one)
}

/** All rules of one sort conflict with all of another, or none does. */
function compareSorts(
  some: readonly PolicyRule[],
  others: readonly PolicyRule[],
  placeOf: (rule: PolicyRule['rule']) => number,
  meets: (a: Policy, b: Policy) => boolean,
  found: Map<PolicyRule['rule'], Conflict>,
): void {
  const [a, b] = [some[0], others[0]]
  if (a === undefined || b === undefined || conflictOf(a.rule, b.rule) === undefined) return
  let pairs = 0
  for (const one of some)
    for (const two of others) {
      if (++pairs > pairsMax) return
      const [first, later] = placeOf(one.rule) < placeOf(two.rule) ? [one, two] : [two, one]
      if (found.has(later.rule) || !(first.policy === later.policy || meets(first.policy, later.policy))) continue
      found.set(later.rule, { rule: later, other: first, words: conflictOf(first.rule, later.rule) ?? '' })
    }
}

/** Whether two policies select some workload, or one is about all that the other is about. */
export function subjectsMeetIn({ pods, namespaces }: World, clusterName: string): (a: Policy, b: Policy) => boolean {
  let universe: Universe | undefined
  const makeIt = (): Universe => {
    const sets = pods
      .filter((pod) => !pod.hostNetwork)
      .map((pod) => labelsOfPod(pod, namespaces.get(pod.namespace), clusterName, () => false))
    const distinct = new Map(sets.map((labels) => [labelSetText(labels), labels]))
    return makeUniverse(new Map([...distinct.values()].map((labels, id) => [id, { id, labels }])))
  }
  return (a, b) => subjectsMeet({ identities: (selector) => (universe ??= makeIt()).select(selector) }, a, b)
}
