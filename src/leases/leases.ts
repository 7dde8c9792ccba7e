// The allow cache: which identity may reach which address because which name said so, until when. Pure: time and the kernel's
// epoch are passed in; what must be written to the kernel is returned as elements, and the caller says when that was acknowledged. This is the life
// of leases; how they are kept, as rows of numbers, is `holdings.ts`.
import type { Clock, Millis, Seconds } from '../clock.ts'
import type { LeaseElement, OpenPorts } from '../datapath/element.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import { makeAskers } from './askers.ts'
import { makeSchedule } from './deadlines.ts'
import { makeElements, type Asked } from './elements.ts'
import { makeHoldings, type Amounts, type Holder } from './holdings.ts'
import type { Assured, Evicted, IsInUse, Learned, Lease, LeaseFact, LeaseLimits } from './lease.ts'
import { makeBounds, makeRipe, type LeaseLimit } from './room.ts'
import { makeShapes, numberOf, portsOf } from './shapes.ts'

/**
 * Connections are looked at this long before a lease would end, so that the kernel has renewed the element of one that is kept before it lets go;
 * and at the end again, for one that began meanwhile.
 */
export const judgedMillis = 5000

/**
 * Workloads of one identity that are remembered as having asked for a lease. Who is forgotten and gets new labels has to ask again:
 * a thousand replicas that are relabelled do so anyway.
 */
const askersMax = 256

/**
 * What an answer leaves with beyond the TTL it tells: half the grace, and these 5 s where the grace allows. The rest of the grace is what saves
 * commits: an answer told again within it needs none.
 */
const spareMillisMin = 5000
/** The time from asking for an element to sending it: the kernel may hold it so much longer than its lease. */
const latenessMillis = 1000

/** Of a lease that a connection keeps, or kept. */
interface Kept {
  /** Since when it is a zombie; undefined: it was learned again since. */
  since: Millis | undefined
  until: Millis
}

/** What a lease's flags say. `turning`: judged to be a zombie, and not told of. `judged`: its connections were looked at. `kept`: it has a `Kept`. */
const turning = 1
const judged = 2
const kept = 4
/** The kernel has acknowledged all its ports for its whole deadline; for which one before is in `stoodBefore`. */
const stood = 8
/** It was kept on since `kept` was asked. */
const prolonged = 16

export interface LeaseTable {
  /** Records a fact and says what the kernel must acknowledge first. A lease is only ever prolonged, never cut, by a new fact. */
  readonly learn: (fact: LeaseFact) => Learned
  /**
   * Takes up what was learned at another time, by an earlier agent: nothing is known to stand for it. It may be over already, and then is judged by
   * `expire`. False where there is no room.
   */
  readonly restore: (fact: LeaseFact, learnedAt: Millis) => boolean
  /**
   * For a fact that `learn` refuses: takes away leases whose TTL is over, for so long that no answer leads to them any more, and that no connection
   * uses, the oldest first, until it has room or none is left. Gives for each bound what went, and elements to remove.
   */
  readonly evict: (fact: LeaseFact) => { readonly evicted: readonly Evicted[]; readonly remove: LeaseElement[] }
  /** These elements are on their way to the kernel; one of `committed` and `refused` follows. */
  readonly sending: (elements: readonly LeaseElement[]) => void
  /** The kernel acknowledged these elements, sent at `sentAt` in `epoch`. Gives those that are no longer asked for, or not for so long. */
  readonly committed: (elements: readonly LeaseElement[], sentAt: Millis, epoch: number) => LeaseElement[]
  readonly refused: (elements: readonly LeaseElement[]) => void
  /**
   * Undoes what was learned with elements that the kernel refused: leases that it never acknowledged are dropped, others get back the deadline
   * that it did acknowledge. Gives what was dropped, and elements to remove.
   */
  readonly retract: (elements: readonly LeaseElement[]) => {
    readonly dropped: Lease[]
    readonly remove: LeaseElement[]
  }
  /**
   * Leases whose TTL and grace are over are dropped and returned; the kernel has let go of them by itself. Those whose address is in use are kept
   * as zombies instead: what the kernel must renew for them is `kept`.
   */
  readonly expire: () => Lease[]
  /** Elements that zombies need for longer than the kernel was asked to hold them, since the last call. */
  readonly kept: () => LeaseElement[]
  /** Leases whose TTL and grace are over since the last call, and that a connection keeps: `expire` finds them when their moment has come. */
  readonly turned: () => Lease[]
  /** Elements that the kernel holds for longer than the last lease that `expire` dropped: to remove, since the last call. */
  readonly leftBehind: () => LeaseElement[]
  /** When `expire` next has something to do. */
  readonly nextDeadline: () => Millis | undefined
  /** Drops the leases that `matches` and returns them with the elements that no other lease holds up. */
  readonly drop: (matches: (lease: Lease) => boolean) => { readonly dropped: Lease[]; readonly remove: LeaseElement[] }
  /** Policy or endpoints changed: what each name opens is asked anew. Gives what opens nothing any more, and elements to remove; what is to be added is `lacking`. */
  readonly regrant: (
    portsFor: (lease: Lease) => readonly OpenPorts[],
    isThere: (endpoint: number, identity: IdentityId) => boolean,
  ) => { readonly lost: Lease[]; readonly remove: LeaseElement[] }
  /** Every element that the kernel does not hold as it should: not, not surely, not long enough or too long. Those it does not hold come first. */
  readonly lacking: () => LeaseElement[]
  /** The element as it ought to be in the kernel now; undefined when no lease asks for it. */
  readonly current: (element: LeaseElement) => LeaseElement | undefined
  /** What the kernel surely holds of a name's addresses for an identity; undefined unless all of it stands, acknowledged in one epoch. */
  readonly assured: (identity: IdentityId, name: string, addresses: readonly Address[]) => Assured | undefined
  /** A number that changes when anything `assured` may have become less for another reason than time. */
  readonly losses: () => number
  /** The names under which an identity holds an address now. */
  readonly namesOf: (identity: IdentityId, address: Address) => string[]
  readonly isLeased: (identity: IdentityId, address: Address) => boolean
  readonly isLeasedAs: (identity: IdentityId, name: string, address: Address) => boolean
  /** The leases of an address, and of a name, whoever holds them. */
  readonly leasesAt: (address: Address) => Lease[]
  readonly leasesAs: (name: string) => Lease[]
  readonly list: () => Iterable<Lease>
  readonly size: () => number
  /** Names that lead somewhere for somebody: of each identity its own. */
  readonly names: () => number
  /** What leases take: rows of numbers and the texts of names and addresses. What lies idle beside that is a thirty-second at most, and of texts a third. */
  readonly octets: () => number
}

/**
 * An empty table.
 * @param epoch changes whenever somebody else has changed the kernel's ruleset: what was acknowledged before is then not relied upon.
 * @param isInUse says of an address whether a connection keeps it; absent: nothing does.
 * @param seed of the hashes of names: one that nobody knows, where others choose names.
 */
export function makeLeases(
  clock: Clock,
  epoch: () => number,
  limits: LeaseLimits,
  isInUse?: IsInUse,
  seed = 0,
): LeaseTable {
  const graceMillis = limits.graceSeconds * 1000
  const spareMillis = Math.min(graceMillis, Math.max(graceMillis / 2, spareMillisMin))
  const zombieMillisMax = isInUse === undefined ? 0 : (limits.zombieSecondsMax ?? 0) * 1000
  const lookAhead = zombieMillisMax > 0 ? Math.min(judgedMillis, graceMillis / 2) : 0
  const holdings = makeHoldings(seed)
  const { at } = holdings
  const elements = makeElements()
  const shapes = makeShapes()
  const askers = makeAskers(askersMax)
  const bounds = makeBounds(limits)
  const schedule = makeSchedule(dueOf, () => at.position)
  const ripe = makeRipe(schedule.walk, (row, now) => dueOf(row) > now + graceMillis, isRipe, deadlineOf)
  /** Of few leases: those that connections keep, and those whose new deadline the kernel has not acknowledged, with the one before. */
  const keptOf = new Map<number, Kept>()
  const stoodBefore = new Map<number, Millis>()
  /** Zombies that were kept on since `kept` was asked. */
  let prolongedRows: number[] = []
  /** As which element each was sent: it may be dropped and asked for anew before the kernel answers. */
  const sentAs = new WeakMap<LeaseElement, Asked>()
  let leftBehind: LeaseElement[] = []
  let turned: Lease[] = []
  let losses = 0

  const flagsOf = (row: number): number => at.flags[row] ?? 0
  const has = (row: number, flag: number): boolean => (flagsOf(row) & flag) !== 0
  const set = (row: number, flag: number): void => void (at.flags[row] = flagsOf(row) | flag)
  const clear = (row: number, flag: number): void => void (at.flags[row] = flagsOf(row) & ~flag)
  function deadlineOf(row: number): Millis {
    return at.deadline[row] ?? 0
  }
  const shapeOf = (row: number): number => at.shape[row] ?? 0
  const askersOf = (row: number): number => at.askers[row] ?? 0
  const doorAt = (identity: IdentityId, address: Address): number => holdings.door(holdings.holder(identity), address)

  function endOf(row: number): Millis {
    const end = deadlineOf(row) + graceMillis
    return has(row, kept) ? Math.max(end, keptOf.get(row)?.until ?? 0) : end
  }
  /** Its connections are looked at shortly before it ends, and when it does; and what turns into a zombie is told of when it does. */
  function dueOf(row: number): Millis {
    const flags = flagsOf(row)
    if ((flags & (turning | judged | kept)) === 0) return deadlineOf(row) + graceMillis - lookAhead
    if ((flags & turning) !== 0) return keptOf.get(row)?.since ?? 0
    return (flags & judged) === 0 ? endOf(row) - lookAhead : endOf(row)
  }
  function judgeLater(row: number): void {
    clear(row, judged)
    schedule.put(holdings.holderOf(row).index, row)
  }

  function viewOf(row: number): Lease {
    const zombie = keptOf.get(row)
    const ttlSeconds = at.ttlSeconds[row] ?? 0
    return {
      identity: holdings.holderOf(row).identity,
      endpoint: askers.last(askersOf(row)),
      askers: askers.list(askersOf(row)),
      name: holdings.nameText(row),
      address: holdings.addressOf(holdings.doorOf(row)),
      ttlSeconds,
      learnedAt: deadlineOf(row) - ttlSeconds * 1000,
      deadline: deadlineOf(row),
      ports: shapes.portsOf(shapeOf(row)),
      zombieSince: zombie?.since,
      keptUntil: zombie?.until ?? 0,
    }
  }

  /** The latest moment that any lease behind the door asks for these ports. */
  function openUntil(door: number, ports: number): Millis {
    let until = 0
    for (let row = holdings.atDoor(door); row !== 0; row = holdings.nextAtDoor(row)) {
      const end = endOf(row)
      if (end > until && shapes.opens(shapeOf(row), ports)) until = end
    }
    return until
  }

  /** The leases that a fact is about, by its addresses; 0: there is none yet. */
  const found: number[] = []
  /** At which bound the fact would be; undefined when there is room. Fills `found`. */
  function limitFor({ identity, name: nameText, addresses }: LeaseFact, shape: number): LeaseLimit | undefined {
    const holder = holdings.holder(identity)
    const name = holdings.name(holder, nameText)
    const added = { leases: 0, elements: 0, octets: 0 }
    let namesOfAddress = 0
    let length = name === 0 ? nameText.length : undefined
    for (let i = 0; i < addresses.length; i++) {
      const address = addresses[i] ?? noAddress
      const door = holdings.door(holder, address)
      const row = holdings.find(name, door)
      found[i] = row
      added.elements += opened(door, shape)
      if (row !== 0) continue
      added.leases++
      added.octets += holdings.octetsFor(length, door === 0 ? address.length : undefined)
      length = undefined
      namesOfAddress = Math.max(namesOfAddress, holdings.countAtDoor(door))
    }
    if (added.leases === 0 && added.elements === 0) return undefined
    added.octets += added.elements * elements.octets
    const addressesOfName = holdings.countOfName(name)
    return bounds.limitFor(added, { name: nameText, addressesOfName, namesOfAddress, own: holder ?? nothingHeld, all: holdings.all }) // prettier-ignore
  }
  /** How many elements a shape would add to what a door has. */
  function opened(door: number, shape: number): number {
    const numbers = shapes.numbersOf(shape)
    if (door === 0) return numbers.length
    const first = holdings.elementsAt(door)
    let added = 0
    let near = 0
    for (const ports of numbers) {
      const element = elements.find(first, ports, near)
      if (element === 0) added++
      else near = element
    }
    return added
  }

  function learn(fact: LeaseFact): Learned {
    const now = clock()
    const told = Math.min(fact.ttlSeconds, limits.ttlMaxSeconds)
    const ttlSeconds = Math.min(Math.max(told, limits.ttlMinSeconds), limits.ttlMaxSeconds)
    const shape = shapes.shapeOf(fact.ports)
    const limit = limitFor(fact, shape)
    if (limit !== undefined) return { kind: 'full', ...limit }

    const missed: LeaseElement[] = []
    let fresh: Address[] = nowhere
    let renewed: Address[] = nowhere
    for (let i = 0; i < fact.addresses.length; i++) {
      const address = fact.addresses[i] ?? noAddress
      const before = holdings.all.leases
      const row = hold(fact, address, found[i] ?? 0, now, ttlSeconds, shape)
      // Most answers are told again, and change nothing: for them nothing is made.
      if (holdings.all.leases > before) fresh = [...fresh, address]
      else if ((at.untold[row] ?? 0) >= 1000) {
        renewed = [...renewed, address]
        at.untold[row] = 0
      }
      const missedBefore = missed.length
      missing(row, fact.identity, address, now, told * 1000 + spareMillis, missed)
      if (missed.length === missedBefore) stand(row)
    }
    return { kind: 'learned', ttlSeconds: told, elements: missed, changes: { ttlSeconds, fresh, renewed } }
  }

  function restore(fact: LeaseFact, learnedAt: Millis): boolean {
    const shape = shapes.shapeOf(fact.ports)
    if (limitFor(fact, shape) !== undefined) return false
    fact.addresses.forEach((address, i) => {
      at.untold[hold(fact, address, found[i] ?? 0, learnedAt, fact.ttlSeconds, shape)] = 0
    })
    return true
  }

  /** The fact's lease at one of its addresses, new or renewed. `known` is where it was found, or 0. */
  function hold(
    fact: LeaseFact,
    address: Address,
    known: number,
    now: Millis,
    ttlSeconds: Seconds,
    shape: number,
  ): number {
    // An answer may have an address twice.
    const row = known !== 0 || fact.addresses.length === 1 ? known : find(fact.identity, fact.name, address)
    if (row === 0) return holdNew(fact, address, now, ttlSeconds, shape)
    noteAsker(row, fact.endpoint)
    reshape(row, shape)
    const deadline = now + ttlSeconds * 1000
    const before = deadlineOf(row)
    if (deadline <= before) return row
    if (has(row, stood)) stoodBefore.set(row, before)
    clear(row, stood | turning)
    at.untold[row] = (at.untold[row] ?? 0) + deadline - before
    at.deadline[row] = deadline
    at.ttlSeconds[row] = wholeSeconds(ttlSeconds)
    const zombie = keptOf.get(row)
    if (zombie !== undefined) zombie.since = undefined
    judgeLater(row)
    return row
  }

  function holdNew(fact: LeaseFact, address: Address, now: Millis, ttlSeconds: Seconds, shape: number): number {
    const row = holdings.add(fact.identity, fact.name, address)
    at.askers[row] = askers.alone(fact.endpoint)
    shapes.hold(shape)
    at.shape[row] = shape
    at.deadline[row] = now + ttlSeconds * 1000
    at.ttlSeconds[row] = wholeSeconds(ttlSeconds)
    judgeLater(row)
    return row
  }

  const find = (identity: IdentityId, name: string, address: Address): number => {
    const holder = holdings.holder(identity)
    return holdings.find(holdings.name(holder, name), holdings.door(holder, address))
  }
  function reshape(row: number, shape: number): void {
    if (shape === shapeOf(row)) return
    shapes.hold(shape)
    shapes.release(shapeOf(row))
    at.shape[row] = shape
  }
  function stand(row: number): void {
    if (has(row, stood)) return
    set(row, stood)
    stoodBefore.delete(row)
    // Until then the deadline may be taken back to one before, and the connection counts again.
    const zombie = keptOf.get(row)
    if (zombie === undefined || zombie.since !== undefined || zombie.until > deadlineOf(row) + graceMillis) return
    keptOf.delete(row)
    clear(row, kept)
  }

  function noteAsker(row: number, endpoint: number): void {
    const before = askersOf(row)
    if (askers.last(before) === endpoint) return
    const holder = holdings.holderOf(row)
    // Where there is no room for it, who asked last of one is remembered, and of many those who are.
    const hasRoom = bounds.fits(3 * askers.cellOctets, holder, holdings.all)
    if (hasRoom) setAskers(row, holder, () => askers.note(before, endpoint))
    else if (askers.isAlone(before)) at.askers[row] = askers.alone(endpoint)
  }
  function setAskers(row: number, holder: Holder, change: () => number): void {
    const cells = askers.size()
    at.askers[row] = change()
    holdings.count(holder, (askers.size() - cells) * askers.cellOctets)
  }

  /** Adds to `missed` the elements of the lease that the kernel has not acknowledged for at least `needMillis` from now. */
  function missing(
    row: number,
    identity: IdentityId,
    address: Address,
    now: Millis,
    needMillis: Millis,
    missed: LeaseElement[],
  ): void {
    const door = holdings.doorOf(row)
    const numbers = shapes.numbersOf(shapeOf(row))
    let current: number | undefined
    let near = 0
    for (let i = 0; i < numbers.length; i++) {
      const number = numbers[i] ?? 0
      let element = elements.find(holdings.elementsAt(door), number, near)
      // The epoch costs a question to the kernel: it is asked only where the answer matters, and once.
      const stands = element !== 0 && elements.until(element) >= now + needMillis && elements.epoch(element) === (current ??= epoch()) // prettier-ignore
      // Known from here on, so that a lease dropped while its commit is under way is also taken out of the kernel.
      if (element === 0) element = expectElement(door, number, near)
      near = element
      if (stands) continue
      const ports = shapes.portsOf(shapeOf(row))[i] ?? portsOf(number)
      missed.push({ identity, address, ports, timeoutMillis: openUntil(door, number) - now })
    }
  }

  function expectElement(door: number, ports: number, near: number): number {
    const { first, row } = elements.add(holdings.elementsAt(door), ports, near)
    holdings.setElements(door, first, 1, elements.octets)
    return row
  }
  function removeElement(door: number, element: number): void {
    holdings.setElements(door, elements.remove(holdings.elementsAt(door), element), -1, elements.octets)
  }
  function elementAt(door: number, ports: number, timeoutMillis: Millis): LeaseElement {
    const { identity } = holdings.holderOfDoor(door)
    return { identity, address: holdings.addressOf(door), ports: portsOf(ports), timeoutMillis }
  }
  function elementOf({ identity, address, ports }: LeaseElement): number {
    const door = doorAt(identity, address)
    return door === 0 ? 0 : elements.find(holdings.elementsAt(door), numberOf(ports))
  }

  function sending(sent: readonly LeaseElement[]): void {
    const now = clock()
    for (const element of sent) {
      const door = doorAt(element.identity, element.address)
      if (door === 0) continue
      const number = numberOf(element.ports)
      const row = elements.find(holdings.elementsAt(door), number) || expectElement(door, number, 0)
      sentAs.set(element, elements.send(row, now + element.timeoutMillis))
    }
  }
  /** The element that was sent; 0: it was dropped since, whatever else is there now. */
  function rowSent(element: LeaseElement): number {
    const row = elementOf(element)
    const sent = sentAs.get(element)
    return sent === undefined || elements.isSame(row, sent) ? row : 0
  }

  function committed(sent: readonly LeaseElement[], sentAt: Millis, atEpoch: number): LeaseElement[] {
    const outdated: LeaseElement[] = []
    for (const element of sent) {
      const until = sentAt + element.timeoutMillis
      const row = rowSent(element)
      // Its lease may have been dropped meanwhile: then the element was removed after this commit, and does not stand.
      if (row === 0) {
        outdated.push(element)
        continue
      }
      // Asked for later, and less: by the lateness of the one before.
      if (until < elements.until(row)) losses++
      elements.acknowledge(row, until, atEpoch)
      const door = doorAt(element.identity, element.address)
      if (until > openUntil(door, numberOf(element.ports)) + latenessMillis) outdated.push(element)
    }
    let last = 0
    for (const { identity, address } of sent) {
      const door = doorAt(identity, address)
      if (door !== last)
        for (let row = holdings.atDoor(door); row !== 0; row = holdings.nextAtDoor(row))
          if (!has(row, stood) && isWhole(row, door)) stand(row)
      last = door
    }
    return outdated
  }

  /** Whether the kernel has acknowledged all that a lease opens, for its deadline. */
  function isWhole(row: number, door: number): boolean {
    const until = deadlineOf(row) + spareMillis
    let near = 0
    for (const ports of shapes.numbersOf(shapeOf(row))) {
      near = elements.find(holdings.elementsAt(door), ports, near)
      if (near === 0 || elements.until(near) < until) return false
    }
    return true
  }

  function refused(sent: readonly LeaseElement[]): void {
    for (const element of sent) {
      const row = rowSent(element)
      if (row !== 0) elements.refuse(row)
    }
  }

  function retract(sent: readonly LeaseElement[]): { dropped: Lease[]; remove: LeaseElement[] } {
    losses++
    const dropped: Lease[] = []
    const remove: LeaseElement[] = []
    for (const { identity, address } of sent) {
      const door = doorAt(identity, address)
      if (door === 0) continue
      for (const row of rowsAt(door)) {
        const lease = cutBack(row, door)
        if (lease !== undefined) dropped.push(lease)
      }
      remove.push(...takeOut(door))
    }
    return { dropped, remove }
  }

  /** Takes from a lease what the kernel has not acknowledged, unless another question's commit may still bring it; gives it if nothing is left. */
  function cutBack(row: number, door: number): Lease | undefined {
    const first = holdings.elementsAt(door)
    const isUnderWay = (ports: number): boolean => elements.underWay(elements.find(first, ports)) > 0
    if (shapes.numbersOf(shapeOf(row)).some(isUnderWay)) return undefined
    const before = stoodBefore.get(row)
    if (!has(row, stood) && before === undefined) {
      const lease = viewOf(row)
      forget(row)
      return lease
    }
    at.deadline[row] = before ?? deadlineOf(row)
    at.untold[row] = 0
    stand(row)
    judgeLater(row)
    return undefined
  }

  /** Gives its door, which stays until it is taken out or discarded. */
  function forget(row: number): number {
    const holder = holdings.holderOf(row)
    const door = holdings.doorOf(row)
    schedule.remove(holder.index, row)
    keptOf.delete(row)
    stoodBefore.delete(row)
    shapes.release(shapeOf(row))
    setAskers(row, holder, () => {
      askers.free(askersOf(row))
      return 0
    })
    holdings.remove(row)
    return door
  }

  /** Of a door that nobody stands behind any more: the kernel lets go of it by itself. */
  function discard(door: number): void {
    if (holdings.countAtDoor(door) > 0) return
    for (let row = holdings.elementsAt(door); row !== 0; row = holdings.elementsAt(door)) removeElement(door, row)
    holdings.shut(door)
  }

  /** Elements that were written for the door and that no lease of it asks for any more. */
  function takeOut(door: number): LeaseElement[] {
    const now = clock()
    const remove: LeaseElement[] = []
    for (let row = holdings.elementsAt(door), next: number; row !== 0; row = next) {
      next = elements.next(row)
      const number = elements.ports(row)
      if (openUntil(door, number) > 0) continue
      // What was refused, and never acknowledged before, is not there.
      if (elements.until(row) > 0 || elements.underWay(row) > 0)
        remove.push(elementAt(door, number, Math.max(1000, elements.atMost(row) - now)))
      removeElement(door, row)
    }
    discard(door)
    return remove
  }

  function expire(): Lease[] {
    const now = clock()
    const over: Lease[] = []
    for (let row = schedule.due(now); row !== 0; row = schedule.due(now)) {
      if (has(row, turning)) {
        clear(row, turning)
        turned.push(viewOf(row))
        judgeLater(row)
      } else if (isKept(row, now)) keep(row, now)
      else if (endOf(row) > now) {
        set(row, judged)
        schedule.put(holdings.holderOf(row).index, row)
      } else {
        over.push(viewOf(row))
        const door = forget(row)
        leftBehind.push(...heldOn(door, now))
        discard(door)
      }
    }
    return over
  }

  /** Of a door that nobody stands behind any more: what the kernel holds for longer yet, for a lease that went before its time. */
  function heldOn(door: number, now: Millis): LeaseElement[] {
    const held: LeaseElement[] = []
    if (holdings.countAtDoor(door) > 0) return held
    for (let row = holdings.elementsAt(door); row !== 0; row = elements.next(row)) {
      const timeoutMillis = elements.atMost(row) - now
      if (timeoutMillis > latenessMillis) held.push(elementAt(door, elements.ports(row), timeoutMillis))
    }
    return held
  }
  function takeLeftBehind(): LeaseElement[] {
    const all = leftBehind
    leftBehind = []
    return all
  }

  const isUsed = (row: number): boolean =>
    isInUse?.(holdings.holderOf(row).identity, holdings.addressOf(holdings.doorOf(row))) === true
  /** Whether a connection keeps it, longer than it is kept anyway. */
  function isKept(row: number, now: Millis): boolean {
    if (zombieMillisMax === 0) return false
    const since = keptOf.get(row)?.since
    const isOfAge = since !== undefined && Math.max(now, endOf(row)) >= since + zombieMillisMax
    return !isOfAge && isUsed(row)
  }

  function keep(row: number, now: Millis): void {
    const zombie = keptOf.get(row) ?? { since: undefined, until: 0 }
    keptOf.set(row, zombie)
    set(row, kept)
    if (zombie.since === undefined) {
      zombie.since = deadlineOf(row) + graceMillis
      set(row, turning)
    }
    // For a grace at a time: so long is it open when its last connection ends, or the agent.
    zombie.until = Math.min(now + graceMillis, zombie.since + zombieMillisMax)
    if (!has(row, prolonged)) prolongedRows.push(row)
    set(row, prolonged)
    judgeLater(row)
  }

  function takeProlonged(): LeaseElement[] {
    const now = clock()
    const missed: LeaseElement[] = []
    for (const row of prolongedRows) {
      // It may be gone, and another in its row.
      if (!has(row, prolonged)) continue
      clear(row, prolonged)
      const address = holdings.addressOf(holdings.doorOf(row))
      missing(row, holdings.holderOf(row).identity, address, now, (keptOf.get(row)?.until ?? 0) - now, missed)
    }
    prolongedRows = []
    return missed
  }

  function takeTurned(): Lease[] {
    const all = turned
    turned = []
    return all
  }

  /**
   * Whether a lease may go for others' sake: nobody is connected, and no answer leads to it any more. The TTL of each that was told, fresh or
   * past its own, was over by then: the spare time that it left with (`missing`, `assured`) is no part of what may be taken.
   */
  function isRipe(group: number, row: number, now: Millis): boolean {
    const isOver = deadlineOf(row) + spareMillis <= now && (keptOf.get(row)?.until ?? 0) - spareMillis <= now
    return isOver && at.position[row] !== 0 && holdings.holderOf(row).index === group && !isUsed(row)
  }

  function evict(fact: LeaseFact): { evicted: Evicted[]; remove: LeaseElement[] } {
    const shape = shapes.shapeOf(fact.ports)
    const evicted: { limit: LeaseLimit; leases: Lease[] }[] = []
    const remove: LeaseElement[] = []
    for (let limit = limitFor(fact, shape); limit !== undefined; limit = limitFor(fact, shape)) {
      const row = oldestRipe(limit, fact)
      if (row === 0) break
      if (evicted.at(-1)?.limit.limit !== limit.limit || evicted.at(-1)?.limit.budget !== limit.budget)
        evicted.push({ limit, leases: [] })
      evicted.at(-1)?.leases.push(viewOf(row))
      remove.push(...takeOut(forget(row)))
    }
    if (evicted.length > 0) losses++
    return { evicted, remove }
  }

  /** The oldest lease that may go, of those that are counted at the bound; 0: there is none. */
  function oldestRipe({ limit }: LeaseLimit, { identity, name, addresses }: LeaseFact): number {
    const now = clock()
    const holder = holdings.holder(identity)
    const oldest = (rows: Iterable<number>): number => {
      let first = 0
      for (const row of rows) if (row !== 0 && (first === 0 || deadlineOf(row) < deadlineOf(first))) first = row
      return first
    }
    const ripeOf = (rows: readonly number[]): number[] => rows.filter((row) => isRipe(holder?.index ?? -1, row, now))
    switch (limit) {
      case 'name':
        return oldest(ripeOf(rowsOf(holdings.name(holder, name))))
      case 'address':
        return oldest(ripeOf(addresses.flatMap((address) => rowsAt(holdings.door(holder, address)))))
      case 'identity':
        return holder === undefined ? 0 : ripe.first(holder.index, now)
      case 'all':
        return oldest([...holdings.holders()].map(({ index }) => ripe.first(index, now)))
    }
  }

  function rowsOf(name: number): number[] {
    const rows: number[] = []
    for (let row = holdings.ofName(name); row !== 0; row = holdings.nextOfName(row)) rows.push(row)
    return rows
  }
  function rowsAt(door: number): number[] {
    const rows: number[] = []
    for (let row = holdings.atDoor(door); row !== 0; row = holdings.nextAtDoor(row)) rows.push(row)
    return rows
  }

  function drop(matches: (lease: Lease) => boolean): { dropped: Lease[]; remove: LeaseElement[] } {
    losses++
    const dropped: Lease[] = []
    const doors = new Set<number>()
    for (const row of [...holdings.each()]) {
      const lease = viewOf(row)
      if (!matches(lease)) continue
      dropped.push(lease)
      doors.add(forget(row))
    }
    return { dropped, remove: [...doors].flatMap(takeOut) }
  }

  function regrant(
    portsFor: (lease: Lease) => readonly OpenPorts[],
    isThere: (endpoint: number, identity: IdentityId) => boolean,
  ): { lost: Lease[]; remove: LeaseElement[] } {
    losses++
    const lost: Lease[] = []
    const emptied = new Set<number>()
    for (const row of [...holdings.each()]) {
      const lease = viewOf(row)
      const shape = shapes.shapeOf(portsFor(lease))
      if (shapes.numbersOf(shape).length === 0) {
        lost.push(lease)
        emptied.add(forget(row))
        continue
      }
      reshape(row, shape)
      const remain = (endpoint: number): boolean => isThere(endpoint, lease.identity)
      if (!lease.askers.every(remain)) setAskers(row, holdings.holderOf(row), () => askers.filter(askersOf(row), remain)) // prettier-ignore
    }
    const remove = [...emptied].flatMap(takeOut)
    for (const door of holdings.doors()) remove.push(...takeOut(door))
    return { lost, remove }
  }

  function current({ identity, address, ports }: LeaseElement): LeaseElement | undefined {
    const door = doorAt(identity, address)
    const timeoutMillis = door === 0 ? 0 : openUntil(door, numberOf(ports)) - clock()
    return timeoutMillis > 0 ? { identity, address, ports, timeoutMillis } : undefined
  }

  function lacking(): LeaseElement[] {
    const now = clock()
    const currentEpoch = epoch()
    const absent: LeaseElement[] = []
    const doubtful: LeaseElement[] = []
    for (const door of holdings.doors()) {
      const numbers = new Set(rowsAt(door).flatMap((row) => shapes.numbersOf(shapeOf(row))))
      for (const number of numbers) {
        const until = openUntil(door, number)
        const row = elements.find(holdings.elementsAt(door), number)
        if (until <= now || (row !== 0 && isRight(row, until, currentEpoch))) continue
        const list = row === 0 || elements.until(row) <= now ? absent : doubtful
        list.push(elementAt(door, number, until - now))
      }
    }
    return [...absent, ...doubtful]
  }

  /** Whether the kernel surely holds an element until then, give or take what an answer may leave without. */
  function isRight(element: number, until: Millis, currentEpoch: number): boolean {
    if (elements.epoch(element) !== currentEpoch) return false
    const stands = elements.until(element)
    return stands >= until - (graceMillis - spareMillis) && stands <= until + latenessMillis
  }

  function* list(): Iterable<Lease> {
    for (const row of holdings.each()) yield viewOf(row)
  }

  function assured(identity: IdentityId, nameText: string, addresses: readonly Address[]): Assured | undefined {
    const holder = holdings.holder(identity)
    const name = holdings.name(holder, nameText)
    let until = Infinity
    let inEpoch: number | undefined
    for (const address of addresses) {
      const door = holdings.door(holder, address)
      const row = holdings.find(name, door)
      if (row === 0) return undefined
      // Another name may hold the element for longer, and be taken away.
      until = Math.min(until, endOf(row))
      let near = 0
      for (const ports of shapes.numbersOf(shapeOf(row))) {
        near = elements.find(holdings.elementsAt(door), ports, near)
        if (near === 0 || elements.epoch(near) !== (inEpoch ??= elements.epoch(near))) return undefined
        until = Math.min(until, elements.until(near))
      }
    }
    const { ttlMinSeconds: ttlSecondsMin, ttlMaxSeconds: ttlSecondsMax } = limits
    return inEpoch === undefined ? undefined : { tellUntil: until - spareMillis, epoch: inEpoch, ttlSecondsMax, ttlSecondsMin }
  } // prettier-ignore

  const ofEverybody = (rows: (holder: Holder) => number[]): Lease[] => [...holdings.holders()].flatMap((holder) => rows(holder).map(viewOf)) // prettier-ignore
  return {
    learn,
    restore,
    evict,
    sending,
    committed,
    refused,
    retract,
    expire,
    kept: takeProlonged,
    leftBehind: takeLeftBehind,
    turned: takeTurned,
    nextDeadline: schedule.earliest,
    drop,
    regrant,
    lacking,
    current,
    assured,
    losses: () => losses,
    namesOf: (identity, address) => rowsAt(doorAt(identity, address)).map(holdings.nameText),
    isLeased: (identity, address) => doorAt(identity, address) !== 0,
    isLeasedAs: (identity, name, address) => find(identity, name, address) !== 0,
    leasesAt: (address) => ofEverybody((holder) => rowsAt(holdings.door(holder, address))),
    leasesAs: (name) => ofEverybody((holder) => rowsOf(holdings.name(holder, name))),
    list,
    size: () => holdings.all.leases,
    names: () => holdings.all.names,
    octets: () => holdings.all.octets,
  }
}

/** Shared: an answer told again makes no list. */
const nowhere: Address[] = []
const noAddress = '' as Address
const nothingHeld: Amounts = { leases: 0, names: 0, elements: 0, octets: 0 }

/** As they are kept: none is longer than 136 years. */
function wholeSeconds(seconds: Seconds): Seconds {
  return Math.min(Math.ceil(seconds), 2 ** 32 - 1)
}
