// How much an identity may ask. Names carry data: whoever may ask for anything below one domain can send whatever it likes to that domain's
// servers, a few hundred octets a question. A cached name tells nobody anything, so what counts is distinct names.
import { randomInt } from 'node:crypto'
import { Rcode } from '../wire/codes.ts'
import type { Millis } from '../clock.ts'
import { isUnder, labelsOf, numberOfName, type WireName } from '../wire/name.ts'

export interface BudgetLimits {
  /** Floods: questions a second, of which two seconds' worth may come at once. */
  readonly queriesPerSecond: number
  /** Tunnels and walks through a zone (iodine, dnscat2): distinct names under one registered domain a minute. */
  readonly namesPerDomainPerMinute: number
  /** Exfiltration spread over many domains: octets of distinct names a minute. */
  readonly nameOctetsPerMinute: number
  /** Names made by an algorithm, dictionary walks: the share of NXDOMAIN, from `nxdomainFrom` answers a minute on. */
  readonly nxdomainShare: number
  readonly nxdomainFrom: number
}

export type Budget = 'queries' | 'names' | 'octets' | 'nxdomain'
export interface Overdrawn {
  readonly budget: Budget
  readonly text: string
}

export interface Budgets {
  /** Takes a question's cost; what it says when there is none left, and then nothing is taken. */
  readonly spend: (who: string | number, name: WireName) => Overdrawn | undefined
  readonly answered: (who: string | number, name: WireName, rcode: number) => void
}

/** Who is remembered at once; beyond, the one that has been silent for longest begins anew. */
const spendersMax = 16_384
/** Distinct names that one spender is held to, whatever the limits: what is over it within a minute is over the budget. */
const namesMax = 100_000

interface Spender {
  /** Questions that may come now. */
  tokens: number
  tokensAt: Millis
  minuteAt: Millis
  /** By number: a name may be taken for one that was counted, once in 40 000 at the most that are held. */
  names: Set<number>
  perDomain: Map<WireName, number>
  octets: number
  answers: number
  nxdomains: number
}

/** @param exempt suffixes whose names stay within (the cluster's own): they count as questions only. */
export function makeBudgets(limits: BudgetLimits, clock: () => Millis, exempt: readonly WireName[]): Budgets {
  const spenders = new Map<string | number, Spender>()
  const seed = randomInt(2 ** 32)

  function spenderOf(who: string | number): Spender {
    const now = clock()
    let spender = spenders.get(who)
    if (spender === undefined) {
      const [first] = spenders.keys()
      if (spenders.size >= spendersMax && first !== undefined) spenders.delete(first)
      spender = { tokens: 2 * limits.queriesPerSecond, tokensAt: now, minuteAt: now, names: new Set(), perDomain: new Map(), octets: 0, answers: 0, nxdomains: 0 }
      spenders.set(who, spender)
    }
    if (now - spender.minuteAt >= 60_000) {
      // Asked again a minute later: last in the row of those that may be forgotten.
      spenders.delete(who)
      spenders.set(who, spender)
      Object.assign(spender, { minuteAt: now, octets: 0, answers: 0, nxdomains: 0 })
      spender.names.clear()
      spender.perDomain.clear()
    }
    spender.tokens = Math.min(2 * limits.queriesPerSecond, spender.tokens + ((now - spender.tokensAt) / 1000) * limits.queriesPerSecond)
    spender.tokensAt = now
    return spender
  }
  const isExempt = (name: WireName): boolean => exempt.some((suffix) => isUnder(name, suffix))

  return {
    spend(who, name) {
      const spender = spenderOf(who)
      if (spender.tokens < 1) return { budget: 'queries', text: `more than ${limits.queriesPerSecond} questions a second` }
      spender.tokens--
      if (isExempt(name)) return undefined
      const number = numberOfName(name, seed)
      if (spender.names.has(number)) return undefined
      if (spender.answers >= limits.nxdomainFrom && spender.nxdomains > limits.nxdomainShare * spender.answers)
        return { budget: 'nxdomain', text: `${spender.nxdomains} of ${spender.answers} names within a minute do not exist` }
      const domain = registeredDomain(name)
      const count = (spender.perDomain.get(domain) ?? 0) + 1
      if (count > limits.namesPerDomainPerMinute || spender.names.size >= namesMax)
        return { budget: 'names', text: `more than ${limits.namesPerDomainPerMinute} names under one domain within a minute` }
      if (spender.octets + name.length > limits.nameOctetsPerMinute)
        return { budget: 'octets', text: `more than ${limits.nameOctetsPerMinute} octets in names within a minute` }
      spender.names.add(number)
      spender.perDomain.set(domain, count)
      spender.octets += name.length
      return undefined
    },
    answered(who, name, rcode) {
      const spender = spenders.get(who)
      if (spender === undefined || isExempt(name)) return
      spender.answers++
      if (rcode === Rcode.NXDomain) spender.nxdomains++
    },
  }
} // prettier-ignore

/**
 * The domain that somebody registered, roughly: the last two labels, three where the country's second level is short (`co.uk`, `com.au`). A
 * list of public suffixes would be finer; that it takes the customers of one hosting domain together only makes the budget stricter.
 */
export function registeredDomain(name: WireName): WireName {
  const labels = labelsOf(name)
  const [second = '', top = ''] = labels.slice(-2)
  const depth = top.length === 2 && second.length <= 3 ? 3 : 2
  const octets = labels.slice(-depth).reduce((sum, label) => sum + label.length + 1, 1)
  return name.slice(-octets) as WireName
}
