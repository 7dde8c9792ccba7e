// The allow cache: which identity may reach which address because which name said so, until when. Pure: time and the kernel's
// epoch are passed in; what must be written to the kernel is returned as elements, and the caller says when that was acknowledged.
import type { Clock, Millis, Seconds } from '../clock.ts'
import type { LeaseElement, OpenPorts } from '../datapath/element.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import { makeDeadlines } from './deadlines.ts'

export interface LeaseLimits {
  /** Added to the TTL in the kernel: applications use an address a little longer than they were told. */
  readonly graceSeconds: Seconds
  readonly ttlMinSeconds: Seconds
  readonly ttlMaxSeconds: Seconds
  /** Addresses a name may have at a time for one identity. At the bound the answer is refused; nothing that stands is evicted. */
  readonly addressesPerNameMax: number
  /** How long a connection keeps an address open after TTL and grace; absent or 0: not at all. The connection itself goes on after that. */
  readonly zombieSecondsMax?: Seconds
  /** Leases in all, of which one identity may hold a quarter, and as many elements (`shareOfIdentity`). At the bound the answer is refused. */
  readonly leasesMax: number
}

/** An answer that fits its question, seen by one identity. `addresses` are those that need a lease; `ports` what the name opens, as cells. */
export interface LeaseFact {
  readonly identity: IdentityId
  readonly endpoint: number
  readonly name: string
  readonly addresses: readonly Address[]
  readonly ttlSeconds: Seconds
  readonly ports: readonly OpenPorts[]
}

type Full = Learned & { readonly kind: 'full' }
export type Learned =
  | {
      readonly kind: 'learned'
      /** The TTL that the workload may be told: never longer than the lease. */
      readonly ttlSeconds: Seconds
      /** To be acknowledged by the kernel before the answer leaves; empty when all of it stands there for that long. */
      readonly elements: readonly LeaseElement[]
      /** What happened to leases; addresses whose lease is as it was are in neither. */
      readonly changes: LeaseChanges
    }
  | { readonly kind: 'full'; readonly limit: LeaseLimit; readonly text: string }

/** The bound that is met: of a name's addresses, of one identity's leases, of all. */
export type LeaseLimit = 'name' | 'identity' | 'all'

/**
 * What happens to a lease. `renewed`: it has a new deadline; `zombie`: its TTL and grace are over, and a connection keeps it; `revoked`: policy,
 * a person or a kernel that did not take it ended it before its time.
 */
export type LeaseChange = 'learned' | 'renewed' | 'zombie' | 'expired' | 'revoked'

export interface LeaseChanges {
  /** TTL of the leases: never shorter than what the workload may be told. */
  readonly ttlSeconds: Seconds
  /** Addresses that have a lease now, and had none. */
  readonly fresh: readonly Address[]
  /** Addresses whose lease ends later than was told last, by a second or more: an answer's TTL is cut to whole seconds each time it is told. */
  readonly renewed: readonly Address[]
}

/** One lease as people see it. Moments are of the clock that was passed in. */
export interface Lease {
  readonly identity: IdentityId
  /** Who asked last. */
  readonly endpoint: number
  /** Everybody who asked and still has the identity; beyond `askersMax` those who asked first are forgotten. */
  readonly askers: readonly number[]
  readonly name: string
  readonly address: Address
  readonly ttlSeconds: Seconds
  readonly learnedAt: Millis
  /** End of the TTL; the kernel keeps the address open for the grace after it. */
  readonly deadline: Millis
  readonly ports: readonly OpenPorts[]
  /** Since when it is a zombie: its TTL and grace were over then, and a connection keeps the address. May be up to `judgedMillis` ahead. */
  readonly zombieSince: Millis | undefined
  /** Of a zombie: until when it is kept without another look at its connections. */
  readonly keptUntil: Millis
}

/** Whether any connection from an identity's endpoints to an address lives now. */
export type IsInUse = (identity: IdentityId, address: Address) => boolean

/** A lease is over when TTL and grace are, and is a zombie from then on if a connection keeps it. */
export function isZombie(lease: Lease, now: Millis): boolean {
  return lease.zombieSince !== undefined && lease.zombieSince <= now
}

/**
 * Connections are looked at this long before a lease would end, so that the kernel has renewed the element of one that is kept before it lets go;
 * and at the end again, for one that began meanwhile.
 */
export const judgedMillis = 5000

/**
 * Of `leasesMax`, what one identity may hold: nobody who asks for many names takes the room of all others. The kernel's sets have room for
 * `leasesMax` elements, and a lease of many ports is many, so elements are bounded alike.
 */
const shareOfIdentity = 0.25

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

/** What the kernel surely holds of a name: until when, and with which TTLs, an answer may be told once more without `learn`. */
export interface Assured {
  /** No told TTL may reach beyond: the kernel holds everything so long, and the spare time after it. */
  readonly tellUntil: Millis
  readonly epoch: number
  /** The most that may be told, and the least: what is shorter than the shortest lease prolongs it whenever it is told. */
  readonly ttlSecondsMax: Seconds
  readonly ttlSecondsMin: Seconds
}

interface Held extends Lease {
  /** The deadline that was told last, in `LeaseChanges`; undefined: none. */
  told: Millis | undefined
  /** The latest deadline that the kernel has acknowledged for all its ports; undefined while it never has. */
  stood: Millis | undefined
  endpoint: number
  askers: readonly number[]
  ttlSeconds: Seconds
  learnedAt: Millis
  deadline: Millis
  ports: readonly OpenPorts[]
  zombieSince: Millis | undefined
  keptUntil: Millis
}

/** What the kernel knows of one element. */
interface Standing {
  /** Until when it has acknowledged it; 0: not at all. */
  until: Millis
  /** In which epoch of its ruleset. */
  epoch: number
  /** The longest that it was asked to hold it. */
  asked: Millis
  /** Commits whose answer is still to come. */
  underWay: number
}

/** All that one identity may reach at one address: its leases by name, and its elements by ports. */
interface Door {
  readonly byName: Map<string, Held>
  readonly standing: Map<string, Standing>
}

interface Holder {
  readonly byName: Map<string, Map<Address, Held>>
  readonly byAddress: Map<Address, Door>
  /** Leases by all names together. */
  count: number
  /** Elements at all doors together. */
  elements: number
}

export interface LeaseTable {
  /** Records a fact and says what the kernel must acknowledge first. A lease is only ever prolonged, never cut, by a new fact. */
  readonly learn: (fact: LeaseFact) => Learned
  /**
   * Takes up what was learned at another time, by an earlier agent: nothing is known to stand for it. It may be over already, and then is judged by
   * `expire`. False where there is no room.
   */
  readonly restore: (fact: LeaseFact, learnedAt: Millis) => boolean
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
  /** The leases of an address, and of a name, whoever holds them. */
  readonly leasesAt: (address: Address) => Lease[]
  readonly leasesAs: (name: string) => Lease[]
  readonly list: () => Iterable<Lease>
  readonly size: () => number
  /** Names that lead somewhere for somebody: of each identity its own. */
  readonly names: () => number
}

/**
 * An empty table.
 * @param epoch changes whenever somebody else has changed the kernel's ruleset: what was acknowledged before is then not relied upon.
 * @param isInUse says of an address whether a connection keeps it; absent: nothing does.
 */
export function makeLeases(clock: Clock, epoch: () => number, limits: LeaseLimits, isInUse?: IsInUse): LeaseTable {
  const holders = new Map<IdentityId, Holder>()
  const deadlines = makeDeadlines<Held>()
  const graceMillis = limits.graceSeconds * 1000
  const spareMillis = Math.min(graceMillis, Math.max(graceMillis / 2, spareMillisMin))
  const perIdentityMax = Math.max(1, Math.floor(limits.leasesMax * shareOfIdentity))
  const zombieMillisMax = isInUse === undefined ? 0 : (limits.zombieSecondsMax ?? 0) * 1000
  const lookAhead = zombieMillisMax > 0 ? Math.min(judgedMillis, graceMillis / 2) : 0
  /** Texts and lists that many leases have alike, each kept once: 150 octets a lease. Past the bound they are forgotten, and made again. */
  const keys = new Map<string, string>()
  const shapes = new Map<string, readonly OpenPorts[]>()
  const askersAlone = new Map<number, readonly number[]>()
  /** Zombies that were kept on since `kept` was asked. */
  let renewed: Held[] = []
  /** Judged to be zombies, and not told of: their TTL and grace are over at `zombieSince`. */
  const turning = new Set<Held>()
  let turned: Held[] = []
  let count = 0
  let losses = 0

  const endOf = (held: Held): Millis => Math.max(held.deadline + graceMillis, held.keptUntil)
  /** Its connections are looked at shortly before it ends; and what turns into a zombie is told of when it does. */
  const judgeLater = (held: Held): void => deadlines.move(held, turning.has(held) ? (held.zombieSince ?? 0) : endOf(held) - lookAhead) // prettier-ignore

  function holderOf(identity: IdentityId): Holder {
    let holder = holders.get(identity)
    if (holder === undefined)
      holders.set(identity, (holder = { byName: new Map(), byAddress: new Map(), count: 0, elements: 0 }))
    return holder
  }

  /** The latest moment that any lease behind the door asks for these ports. */
  function openUntil(door: Door, portsKey: string): Millis {
    let until = 0
    for (const held of door.byName.values())
      if (endOf(held) > until && held.ports.some((ports) => keyOf(ports) === portsKey)) until = endOf(held)
    return until
  }

  function learn(fact: LeaseFact): Learned {
    const now = clock()
    const told = Math.min(fact.ttlSeconds, limits.ttlMaxSeconds)
    const ttlSeconds = Math.min(Math.max(told, limits.ttlMinSeconds), limits.ttlMaxSeconds)
    const holder = holderOf(fact.identity)
    const addresses = holder.byName.get(fact.name) ?? new Map<Address, Held>()
    const ports = shapeOf(fact.ports)
    const full = whyFull(holder, addresses, fact, ports)
    if (full !== undefined) return full
    if (addresses.size === 0) holder.byName.set(fact.name, addresses)

    const elements: LeaseElement[] = []
    let fresh: Address[] = nowhere
    let renewed: Address[] = nowhere
    for (const address of fact.addresses) {
      const held = hold(fact, address, addresses, holder, now, ttlSeconds, ports)
      const door = holder.byAddress.get(address)
      if (door === undefined) continue
      // Most answers are told again, and change nothing: for them nothing is made.
      if (held.told === undefined || held.deadline >= held.told + 1000) {
        if (held.told === undefined) fresh = [...fresh, address]
        else renewed = [...renewed, address]
        held.told = held.deadline
      }
      const before = elements.length
      missing(holder, door, held, now, told * 1000 + spareMillis, elements)
      if (elements.length === before) held.stood = held.deadline
    }
    return { kind: 'learned', ttlSeconds: told, elements, changes: { ttlSeconds, fresh, renewed } }
  }

  /** At which bound the fact would be; undefined when there is room. */
  function whyFull(
    holder: Holder,
    addresses: ReadonlyMap<Address, Held>,
    fact: LeaseFact,
    ports: readonly OpenPorts[],
  ): Full | undefined {
    const full = (limit: LeaseLimit, text: string): Full => ({ kind: 'full', limit, text })
    const added = fact.addresses.reduce((n, address) => (addresses.has(address) ? n : n + 1), 0)
    if (addresses.size + added > limits.addressesPerNameMax)
      return full(
        'name',
        `${fact.name} already has ${addresses.size} addresses leased; the limit is ${limits.addressesPerNameMax}`,
      )
    if (holder.count + added > perIdentityMax || holder.elements + opened(holder, fact, ports) > perIdentityMax)
      return full(
        'identity',
        `this identity holds ${holder.count} leases in ${holder.elements} elements; the limit for one is ${perIdentityMax} of each, a quarter of leasesMax`,
      )
    return count + added > limits.leasesMax
      ? full('all', `${count} leases are held; the limit is ${limits.leasesMax}`)
      : undefined
  }

  function restore(fact: LeaseFact, learnedAt: Millis): boolean {
    const holder = holderOf(fact.identity)
    const addresses = holder.byName.get(fact.name) ?? new Map<Address, Held>()
    const ports = shapeOf(fact.ports)
    if (whyFull(holder, addresses, fact, ports) !== undefined) return false
    if (addresses.size === 0) holder.byName.set(fact.name, addresses)
    for (const address of fact.addresses)
      hold(fact, address, addresses, holder, learnedAt, fact.ttlSeconds, ports).told =
        learnedAt + fact.ttlSeconds * 1000
    return true
  }

  /** How many elements the fact would add to what the identity has. */
  function opened(holder: Holder, { addresses }: LeaseFact, ports: readonly OpenPorts[]): number {
    let added = 0
    for (const address of addresses) {
      const standing = holder.byAddress.get(address)?.standing
      for (const each of ports) if (standing?.has(keyOf(each)) !== true) added++
    }
    return added
  }

  function hold(
    fact: LeaseFact,
    address: Address,
    addresses: Map<Address, Held>,
    holder: Holder,
    now: Millis,
    ttlSeconds: Seconds,
    ports: readonly OpenPorts[],
  ): Held {
    const deadline = now + ttlSeconds * 1000
    const before = addresses.get(address)
    if (before !== undefined) {
      if (before.endpoint !== fact.endpoint) noteAsker(before, fact.endpoint)
      before.ports = ports
      if (deadline > before.deadline) {
        before.deadline = deadline
        before.ttlSeconds = ttlSeconds
        before.learnedAt = now
        before.zombieSince = undefined
        turning.delete(before)
        judgeLater(before)
      }
      return before
    }
    const { identity, endpoint, name } = fact
    const held: Held = {
      identity,
      endpoint,
      askers: once(askersAlone, endpoint, () => [endpoint]),
      name,
      address,
      ttlSeconds,
      learnedAt: now,
      deadline,
      ports,
      zombieSince: undefined,
      keptUntil: 0,
      stood: undefined,
      told: undefined,
    }
    addresses.set(address, held)
    let door = holder.byAddress.get(address)
    if (door === undefined) holder.byAddress.set(address, (door = { byName: new Map(), standing: new Map() }))
    door.byName.set(name, held)
    judgeLater(held)
    holder.count++
    count++
    return held
  }

  function noteAsker(held: Held, endpoint: number): void {
    held.endpoint = endpoint
    if (held.askers.includes(endpoint)) return
    held.askers = [...held.askers.slice(1 - askersMax), endpoint]
  }

  /** Adds to `elements` those of the lease that the kernel has not acknowledged for at least `needMillis` from now. */
  function missing(
    holder: Holder,
    door: Door,
    held: Held,
    now: Millis,
    needMillis: Millis,
    elements: LeaseElement[],
  ): void {
    let current: number | undefined
    for (const ports of held.ports) {
      const standing = door.standing.get(keyOf(ports))
      // The epoch costs a question to the kernel: it is asked only where the answer matters, and once.
      if (standing !== undefined && standing.until >= now + needMillis && standing.epoch === (current ??= epoch()))
        continue
      // Known from here on, so that a lease dropped while its commit is under way is also taken out of the kernel.
      if (standing === undefined) expectElement(holder, door, keyOf(ports))
      elements.push({
        identity: held.identity,
        address: held.address,
        ports,
        timeoutMillis: openUntil(door, keyOf(ports)) - now,
      })
    }
  }

  function shapeOf(ports: readonly OpenPorts[]): readonly OpenPorts[] {
    const distinct = distinctPorts(ports)
    return once(shapes, distinct.map(keyOf).join(), () => distinct)
  }

  function expectElement(holder: Holder, door: Door, portsKey: string): Standing {
    const standing = { until: 0, epoch: -1, asked: 0, underWay: 0 }
    door.standing.set(
      once(keys, portsKey, () => portsKey),
      standing,
    )
    holder.elements++
    return standing
  }

  function sending(elements: readonly LeaseElement[]): void {
    const now = clock()
    for (const element of elements) {
      const holder = holders.get(element.identity)
      const door = holder?.byAddress.get(element.address)
      if (holder === undefined || door === undefined) continue
      const standing = door.standing.get(keyOf(element.ports)) ?? expectElement(holder, door, keyOf(element.ports))
      standing.asked = Math.max(standing.asked, now + element.timeoutMillis)
      standing.underWay++
    }
  }

  function doorOf({ identity, address }: LeaseElement): Door | undefined {
    return holders.get(identity)?.byAddress.get(address)
  }

  function committed(elements: readonly LeaseElement[], sentAt: Millis, atEpoch: number): LeaseElement[] {
    const outdated: LeaseElement[] = []
    for (const element of elements) {
      const until = sentAt + element.timeoutMillis
      const door = doorOf(element)
      const standing = door?.standing.get(keyOf(element.ports))
      // Its lease may have been dropped meanwhile: then the element was removed after this commit, and does not stand.
      if (door === undefined || standing === undefined) {
        outdated.push(element)
        continue
      }
      // Asked for later, and less: by the lateness of the one before.
      if (until < standing.until) losses++
      standing.until = until
      standing.epoch = atEpoch
      standing.asked = Math.max(standing.asked, until)
      standing.underWay = Math.max(0, standing.underWay - 1)
      if (until > openUntil(door, keyOf(element.ports)) + latenessMillis) outdated.push(element)
    }
    for (const element of elements) {
      const door = doorOf(element)
      for (const held of door?.byName.values() ?? []) if (standsWhole(held, door)) held.stood = held.deadline
    }
    return outdated
  }

  function standsWhole(held: Held, door: Door | undefined): boolean {
    const until = held.deadline + spareMillis
    return held.ports.every((ports) => (door?.standing.get(keyOf(ports))?.until ?? 0) >= until)
  }

  function refused(elements: readonly LeaseElement[]): void {
    for (const element of elements) {
      const standing = doorOf(element)?.standing.get(keyOf(element.ports))
      if (standing !== undefined) standing.underWay = Math.max(0, standing.underWay - 1)
    }
  }

  function retract(elements: readonly LeaseElement[]): { dropped: Lease[]; remove: LeaseElement[] } {
    losses++
    const dropped: Lease[] = []
    const remove: LeaseElement[] = []
    for (const element of elements) {
      const door = doorOf(element)
      if (door === undefined) continue
      for (const held of [...door.byName.values()]) if (cutBack(held, door) === 'dropped') dropped.push(held)
      remove.push(...orphans(element.identity, element.address, door))
    }
    return { dropped, remove }
  }

  /** Takes from a lease what the kernel has not acknowledged, unless another question's commit may still bring it. */
  function cutBack(held: Held, door: Door): 'dropped' | 'stays' {
    if (held.ports.some((ports) => (door.standing.get(keyOf(ports))?.underWay ?? 0) > 0)) return 'stays'
    if (held.stood === undefined) {
      forget(held)
      return 'dropped'
    }
    held.deadline = held.told = held.stood
    judgeLater(held)
    return 'stays'
  }

  function forget(held: Held): Door | undefined {
    const holder = holders.get(held.identity)
    const addresses = holder?.byName.get(held.name)
    if (holder === undefined || addresses?.get(held.address) !== held) return undefined
    addresses.delete(held.address)
    if (addresses.size === 0) holder.byName.delete(held.name)
    const door = holder.byAddress.get(held.address)
    door?.byName.delete(held.name)
    if (door?.byName.size === 0) {
      holder.byAddress.delete(held.address)
      holder.elements -= door.standing.size
    }
    if (holder.byName.size === 0) holders.delete(held.identity)
    deadlines.remove(held)
    turning.delete(held)
    holder.count--
    count--
    return door
  }

  function expire(): Lease[] {
    const now = clock()
    const over: Lease[] = []
    for (let held = deadlines.due(now); held !== undefined; held = deadlines.due(now)) {
      if (turning.delete(held)) {
        turned.push(held)
        judgeLater(held)
      } else if (isKept(held, now)) keep(held, now)
      else if (endOf(held) > now) deadlines.move(held, endOf(held))
      else {
        forget(held)
        over.push(held)
      }
    }
    return over
  }

  /** Whether a connection keeps it, longer than it is kept anyway. */
  function isKept(held: Held, now: Millis): boolean {
    if (zombieMillisMax === 0 || isInUse === undefined) return false
    const isOfAge = held.zombieSince !== undefined && Math.max(now, endOf(held)) >= held.zombieSince + zombieMillisMax
    return !isOfAge && isInUse(held.identity, held.address)
  }

  function keep(held: Held, now: Millis): void {
    if (held.zombieSince === undefined) {
      held.zombieSince = held.deadline + graceMillis
      turning.add(held)
    }
    // For a grace at a time: so long is it open when its last connection ends, or the agent.
    held.keptUntil = Math.min(now + graceMillis, held.zombieSince + zombieMillisMax)
    renewed.push(held)
    judgeLater(held)
  }

  function kept(): LeaseElement[] {
    const now = clock()
    const elements: LeaseElement[] = []
    for (const held of renewed) {
      const holder = holders.get(held.identity)
      const door = holder?.byAddress.get(held.address)
      if (holder === undefined || door?.byName.get(held.name) !== held) continue
      missing(holder, door, held, now, held.keptUntil - now, elements)
    }
    renewed = []
    return elements
  }

  function takeTurned(): Lease[] {
    const all = turned
    turned = []
    return all
  }

  /** Elements that were written for the door and that no lease of it asks for any more. */
  function orphans(identity: IdentityId, address: Address, door: Door): LeaseElement[] {
    const now = clock()
    const remove: LeaseElement[] = []
    for (const [portsKey, { until, asked, underWay }] of door.standing) {
      if (openUntil(door, portsKey) > 0) continue
      // What was refused, and never acknowledged before, is not there.
      if (until > 0 || underWay > 0)
        remove.push({ identity, address, ports: portsFromKey(portsKey), timeoutMillis: Math.max(1000, asked - now) })
      door.standing.delete(portsKey)
      // A door that nobody holds any more is counted off already.
      const holder = holders.get(identity)
      if (holder?.byAddress.get(address) === door) holder.elements--
    }
    return remove
  }

  function drop(matches: (lease: Lease) => boolean): { dropped: Lease[]; remove: LeaseElement[] } {
    losses++
    const dropped = [...list()].filter(matches) as Held[]
    const doors = new Map<Door, Held>()
    for (const held of dropped) {
      const door = forget(held)
      if (door !== undefined) doors.set(door, held)
    }
    return { dropped, remove: [...doors].flatMap(([door, held]) => orphans(held.identity, held.address, door)) }
  }

  function regrant(
    portsFor: (lease: Lease) => readonly OpenPorts[],
    isThere: (endpoint: number, identity: IdentityId) => boolean,
  ): { lost: Lease[]; remove: LeaseElement[] } {
    losses++
    const remove: LeaseElement[] = []
    const lost: Held[] = []
    for (const held of list() as Iterable<Held>) {
      held.ports = shapeOf(portsFor(held))
      if (held.ports.length === 0) lost.push(held)
      const remain = (endpoint: number): boolean => isThere(endpoint, held.identity)
      if (!held.askers.every(remain)) held.askers = held.askers.filter(remain)
    }
    const emptied = lost.map((held) => [forget(held), held] as const)
    for (const [door, held] of emptied)
      if (door?.byName.size === 0) remove.push(...orphans(held.identity, held.address, door))
    for (const [identity, holder] of holders)
      for (const [address, door] of holder.byAddress) remove.push(...orphans(identity, address, door))
    return { lost, remove }
  }

  function current({ identity, address, ports }: LeaseElement): LeaseElement | undefined {
    const door = holders.get(identity)?.byAddress.get(address)
    const timeoutMillis = door === undefined ? 0 : openUntil(door, keyOf(ports)) - clock()
    return timeoutMillis > 0 ? { identity, address, ports, timeoutMillis } : undefined
  }

  function lacking(): LeaseElement[] {
    const now = clock()
    const currentEpoch = epoch()
    const absent: LeaseElement[] = []
    const doubtful: LeaseElement[] = []
    for (const [identity, holder] of holders)
      for (const [address, door] of holder.byAddress)
        for (const portsKey of new Set([...door.byName.values()].flatMap((held) => held.ports.map(keyOf)))) {
          const until = openUntil(door, portsKey)
          const standing = door.standing.get(portsKey)
          if (until <= now || (standing !== undefined && isRight(standing, until, currentEpoch))) continue
          const list = (standing?.until ?? 0) <= now ? absent : doubtful
          list.push({ identity, address, ports: portsFromKey(portsKey), timeoutMillis: until - now })
        }
    return [...absent, ...doubtful]
  }

  /** Whether the kernel surely holds an element until then, give or take what an answer may leave without. */
  function isRight(standing: Standing, until: Millis, currentEpoch: number): boolean {
    if (standing.epoch !== currentEpoch) return false
    return standing.until >= until - (graceMillis - spareMillis) && standing.until <= until + latenessMillis
  }

  function* list(): Iterable<Lease> {
    for (const holder of holders.values()) for (const addresses of holder.byName.values()) yield* addresses.values()
  }

  function assured(identity: IdentityId, name: string, addresses: readonly Address[]): Assured | undefined {
    const holder = holders.get(identity)
    let until = Infinity
    let inEpoch: number | undefined
    for (const address of addresses) {
      const held = holder?.byName.get(name)?.get(address)
      if (held === undefined) return undefined
      for (const ports of held.ports) {
        const standing = holder?.byAddress.get(address)?.standing.get(keyOf(ports))
        if (standing === undefined || standing.epoch !== (inEpoch ??= standing.epoch)) return undefined
        until = Math.min(until, standing.until)
      }
    }
    const { ttlMinSeconds: ttlSecondsMin, ttlMaxSeconds: ttlSecondsMax } = limits
    return inEpoch === undefined ? undefined : { tellUntil: until - spareMillis, epoch: inEpoch, ttlSecondsMax, ttlSecondsMin }
  } // prettier-ignore

  const namesOf = (identity: IdentityId, address: Address): string[] => [
    ...(holders.get(identity)?.byAddress.get(address)?.byName.keys() ?? []),
  ]
  const ofEverybody = (find: (holder: Holder) => Iterable<Lease> | undefined): Lease[] => [...holders.values()].flatMap((holder) => [...(find(holder) ?? [])]) // prettier-ignore
  return {
    learn,
    restore,
    sending,
    committed,
    refused,
    retract,
    expire,
    kept,
    turned: takeTurned,
    nextDeadline: deadlines.earliest,
    drop,
    regrant,
    lacking,
    current,
    assured,
    losses: () => losses,
    namesOf,
    leasesAt: (address) => ofEverybody((holder) => holder.byAddress.get(address)?.byName.values()),
    leasesAs: (name) => ofEverybody((holder) => holder.byName.get(name)?.values()),
    list,
    size: () => count,
    names: () => [...holders.values()].reduce((sum, { byName }) => sum + byName.size, 0),
  }
}

/** Of values that are kept once, by key. */
const onceMax = 1 << 16
function once<K, V>(known: Map<K, V>, key: K, make: () => V): V {
  let value = known.get(key)
  if (value === undefined) {
    if (known.size >= onceMax) known.clear()
    known.set(key, (value = make()))
  }
  return value
}

/** Shared: an answer told again makes no list. */
const nowhere: Address[] = []

/** `*`, or `protocol:first:last`: equal only for equal ports. */
function keyOf(ports: OpenPorts): string {
  return ports.kind === 'all' ? '*' : `${ports.protocol}:${ports.first}:${ports.last}`
}

function portsFromKey(key: string): OpenPorts {
  if (key === '*') return { kind: 'all' }
  const [protocol, first, last] = key.split(':').map(Number)
  return { kind: 'ports', protocol: protocol as 6, first: first ?? 0, last: last ?? 0 }
}

/** Each once; only `all` where it is among them, since it covers the rest. */
function distinctPorts(ports: readonly OpenPorts[]): readonly OpenPorts[] {
  const all = ports.find((p) => p.kind === 'all')
  if (all !== undefined) return [all]
  return [...new Map(ports.map((p) => [keyOf(p), p])).values()]
}
