// Budgets of leases: how many there may be and what they may take, of one identity and of all; and what makes room at a bound: the oldest of those
// that nobody relies on any more.
import type { Millis } from '../clock.ts'

/** Whose bound is met: of a name's addresses, of an address's names, of one identity, of all. */
export type LeaseScope = 'name' | 'address' | 'identity' | 'all'
/** What there is too much of. The kernel's sets have room for so many elements, and a lease of many ports is many. */
export type LeaseBudget = 'leases' | 'elements' | 'octets'
export interface LeaseLimit {
  readonly limit: LeaseScope
  readonly budget: LeaseBudget
  readonly text: string
}

export interface Budgets {
  readonly addressesPerNameMax: number
  readonly leasesMax: number
  readonly octetsMax?: number
}

/** What one identity may hold of all budgets: nobody who asks for many names takes the room of all others. */
const shareOfIdentity = 0.25

/**
 * Names that an identity may have for one address: as many are walked through when the kernel acknowledges it (0.1 ms). A few hundred are what
 * large content networks come to.
 */
const namesPerAddressMax = 16_384

/** What an answer would add. */
export interface Addition {
  readonly leases: number
  readonly elements: number
  readonly octets: number
}
/** What is there: of the name, and most of one of the addresses that get another name. */
export interface Present {
  readonly name: string
  readonly addressesOfName: number
  readonly namesOfAddress: number
  readonly own: Addition
  readonly all: Addition
}

export interface Bounds {
  /** At which bound an answer would be; undefined when there is room. Who adds nothing is always let in. */
  readonly limitFor: (added: Addition, present: Present) => LeaseLimit | undefined
  /** Whether that many octets more are within the bounds. */
  readonly fits: (octets: number, own: Addition, all: Addition) => boolean
}

export function makeBounds({ addressesPerNameMax, leasesMax, octetsMax = Infinity }: Budgets): Bounds {
  const shareOf = (max: number): number => (max === Infinity ? max : Math.max(1, Math.floor(max * shareOfIdentity)))
  const countShare = shareOf(leasesMax)
  const octetsShare = shareOf(octetsMax)

  function limitFor(added: Addition, { name, addressesOfName, namesOfAddress, own, all }: Present): LeaseLimit | undefined {
    const at = (limit: LeaseScope, budget: LeaseBudget, text: string): LeaseLimit => ({ limit, budget, text })
    const { leases, elements, octets } = added
    if (leases > 0 && addressesOfName + leases > addressesPerNameMax)
      return at('name', 'leases', `${name} already has ${addressesOfName} addresses leased; the limit is ${addressesPerNameMax}`)
    if (leases > 0 && namesOfAddress >= namesPerAddressMax)
      return at('address', 'leases', `an address of ${name} already has ${namesOfAddress} names for this identity; the limit is ${namesPerAddressMax}`)
    const isMore = (more: number, held: number, max: number): boolean => more > 0 && held + more > max
    const byCount = isMore(leases, own.leases, countShare) ? 'leases' : isMore(elements, own.elements, countShare) ? 'elements' : undefined
    if (byCount !== undefined)
      return at('identity', byCount, `this identity holds ${own.leases} leases in ${own.elements} elements; the limit for one is ${countShare} of each, a quarter of leasesMax`)
    if (isMore(octets, own.octets, octetsShare))
      return at('identity', 'octets', `the leases of this identity take ${own.octets} octets; the limit for one is ${octetsShare}, a quarter of octetsMax`)
    if (isMore(leases, all.leases, leasesMax)) return at('all', 'leases', `${all.leases} leases are held; the limit is ${leasesMax}`)
    if (isMore(elements, all.elements, leasesMax)) return at('all', 'elements', `leases are held in ${all.elements} elements; the limit is ${leasesMax}`)
    if (isMore(octets, all.octets, octetsMax)) return at('all', 'octets', `leases take ${all.octets} octets; the limit is ${octetsMax}`)
    return undefined
  } // prettier-ignore
  return {
    limitFor,
    fits: (octets, own, all) => own.octets + octets <= octetsShare && all.octets + octets <= octetsMax,
  }
}

/** Leases of one identity that could go, oldest first, as far as they were looked for. */
export interface Ripe {
  /** The oldest; 0: there is none. */
  readonly first: (group: number, now: Millis) => number
}

/** Leases that are looked at at a time, 2 ms; and how many of them are kept in order. Those of a million that are due first are the oldest. */
const visitsMax = 8192
const ripeMax = 1024
/** Who is at the bound and has nothing ripe is not looked through for each of its questions. */
const againMillis = 100

/**
 * @param walk visits a group's leases by the moment that they are due.
 * @param isDueLater whether a lease is due so late that neither it nor any behind it may go.
 * @param isRipe whether a row is a lease of the group that may go.
 */
export function makeRipe(
  walk: (group: number, visit: (lease: number) => boolean) => void,
  isDueLater: (lease: number, now: Millis) => boolean,
  isRipe: (group: number, lease: number, now: Millis) => boolean,
  deadlineOf: (lease: number) => Millis,
): Ripe {
  interface Basket {
    leases: number[]
    taken: number
    lookedAt: Millis
  }
  const baskets = new Map<number, Basket>()

  function gather(group: number, now: Millis): number[] {
    const found: number[] = []
    let visits = 0
    walk(group, (lease) => {
      if (isDueLater(lease, now) || ++visits > visitsMax) return false
      if (isRipe(group, lease, now)) found.push(lease)
      return found.length < ripeMax
    })
    return found.sort((a, b) => deadlineOf(a) - deadlineOf(b))
  }

  function first(group: number, now: Millis): number {
    let basket = baskets.get(group)
    if (basket === undefined) baskets.set(group, (basket = { leases: [], taken: 0, lookedAt: -Infinity }))
    for (;;) {
      for (; basket.taken < basket.leases.length; basket.taken++) {
        // It may have been renewed, or its row be another's.
        const lease = basket.leases[basket.taken] ?? 0
        if (isRipe(group, lease, now)) return lease
      }
      const isEmpty = basket.leases.length === 0
      if (isEmpty && now < basket.lookedAt + againMillis) return 0
      basket.leases = gather(group, now)
      basket.taken = 0
      basket.lookedAt = now
      if (basket.leases.length === 0) return 0
    }
  }
  return { first }
}
