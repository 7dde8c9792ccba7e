// Checks about the order of rules (NG021): rules that never decide, exceptions in denials, equal priorities.
import type { Policy, Rule } from '../rules.ts'
import { at, fixOf, isCilium, isOrdered, itemsOf, itemsOfSpec, type Check, type Spec } from './context.ts'
import { peersCover, portsCover, subjectsMeet } from './coverage.ts'

/** A denial with exceptions: what it leaves out is not allowed by that. */
const exceptions: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field, direction, isDeny } of itemsOfSpec(spec))
      for (const item of isDeny ? itemsOf(at(field, direction === 'egress' ? 'toCIDRSet' : 'fromCIDRSet')) : []) {
        const except = at(item, 'except')
        if (except !== undefined && itemsOf(except).length > 0)
          say('NG021', spec, except, {
            severity: 'warning',
            message:
              'except in a denial only takes these addresses out of it: they still need a rule that allows them, and another denial still holds for them',
          })
      }
}

/** Equal priorities in one tier: which of two policies goes first is undefined. */
const priorities: Check = (context, say) => {
  const ordered = context.specs.filter(isOrdered)
  const told = new Set<Spec>()
  for (const [i, spec] of ordered.entries())
    for (const other of ordered.slice(0, i)) {
      const [a, b] = [spec.policy, other.policy]
      if (
        a === undefined ||
        b === undefined ||
        told.has(spec) ||
        rankOf(a) === undefined ||
        rankOf(a) !== rankOf(b) ||
        !subjectsMeet(context, a, b)
      )
        continue
      told.add(spec)
      say('NG021', spec, at(spec.field, 'priority') ?? spec.field, {
        severity: 'warning',
        message: `${other.name} (${other.field.file}:${other.field.line}) has the same priority in the same tier: which of the two goes first is not defined`,
        hint: 'give each policy of a tier a priority of its own',
      })
    }
}

/** Tier and priority of a policy whose rules stand in an order: the whole part of its rules' priorities. */
function rankOf({ rules }: Policy): string | undefined {
  const [first] = rules
  return first === undefined ? undefined : `${first.tier} ${Math.floor(first.priority)}`
}

interface Placed {
  readonly spec: Spec
  readonly policy: Policy
  readonly rule: Rule
}

/** Whether the earlier rule decides all that the later one is about. */
const covers = (earlier: Rule, later: Rule): boolean =>
  earlier.direction === later.direction &&
  peersCover(earlier.peers, later.peers) &&
  portsCover(earlier.ports, later.ports)

const before = (a: Rule, b: Rule): boolean =>
  a.tier !== b.tier
    ? a.tier < b.tier
    : a.priority !== b.priority
      ? a.priority < b.priority
      : a.kind === 'deny' && b.kind === 'allow'

/** What earlier rule leaves the later one nothing to decide: a denial or allow before it, or a pass before it in its own tier. */
function endsBefore({ rule }: Placed, later: Rule): boolean {
  if (rule === later || !before(rule, later) || !covers(rule, later)) return false
  // An allow with conditions above L4 decides only some.
  if (rule.kind === 'allow' && (rule.l7 !== undefined || rule.serverNames !== undefined)) return false
  return rule.kind !== 'pass' || rule.tier === later.tier
}

/** Rules that never decide. */
const unreachable: Check = (context, say) => {
  const all: Placed[] = context.specs.flatMap((spec) => {
    const { policy } = spec
    return policy === undefined ? [] : policy.rules.map((rule) => ({ spec, policy, rule }))
  })
  // Only what can end others is compared with all: in a set without denials and tiers there is nothing to compare.
  const ending = new Map<Policy, Placed[]>()
  for (const placed of all) {
    if (placed.rule.kind === 'allow' && !isOrdered(placed.spec)) continue
    ending.set(placed.policy, [...(ending.get(placed.policy) ?? []), placed])
  }
  const told = new Set<unknown>()
  for (const later of all) {
    const field = context.fieldAt(later.spec, later.rule.path)
    if (told.has(field) || (later.rule.peers !== 'everyone' && later.rule.peers.length === 0)) continue
    const siblings = later.policy.rules.filter(({ path }) => path === later.rule.path)
    const candidates =
      ending.size === 0 ? [] : context.covering(later.policy).flatMap((policy) => ending.get(policy) ?? [])
    const earlier = candidates.find((each) => siblings.every((rule) => endsBefore(each, rule)))
    if (earlier === undefined) continue
    told.add(field)
    const where =
      earlier.spec === later.spec
        ? `line ${earlier.rule.line}`
        : `${earlier.spec.name} (${earlier.policy.file}:${earlier.rule.line})`
    const what = earlier.rule.kind === 'deny' ? 'denies' : earlier.rule.kind === 'pass' ? 'passes on' : 'accepts'
    say('NG021', later.spec, field, {
      severity: 'warning',
      message: `this rule never decides: the one at ${where} comes before it and ${what} all that it is about`,
      hint: isCilium(later.spec)
        ? 'deny goes before allow, whatever is more specific'
        : 'the first rule that matches decides: put the narrower one first, or take this one out',
      fix: fixOf('take it out', context.sources.removeItem(field)),
    })
  }
}

export const orderChecks: readonly Check[] = [exceptions, priorities, unreachable]
