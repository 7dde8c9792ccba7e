// Who holds what, as rows of numbers: identities hold leases, each of a name and at a door (an address as that identity sees it). Knows how they hang
// together and what they take, in numbers and octets; nothing of time or of the kernel.
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import { makeRows, type Columns } from './columns.ts'
import { makeKeys } from './keys.ts'
import { append, unlink, type Ring } from './rings.ts'

/** Sums over the leases of one identity, or of all. */
export interface Amounts {
  leases: number
  names: number
  elements: number
  /** What rows and texts take. What lies idle until it is used again is not counted. */
  octets: number
}

export interface Holder extends Amounts {
  readonly identity: IdentityId
  readonly index: number
  doors: number
}

const leaseKinds = {
  /** End of the TTL. */
  deadline: 'float64',
  /** By how many milliseconds the deadline moved since it was told of. */
  untold: 'float32',
  ttlSeconds: 'uint32',
  name: 'int32',
  door: 'int32',
  nextOfName: 'int32',
  beforeOfName: 'int32',
  nextAtDoor: 'int32',
  beforeAtDoor: 'int32',
  askers: 'int32',
  shape: 'int32',
  /** In the heap of its holder. */
  position: 'int32',
  flags: 'uint8',
} as const
const keyKinds = { group: 'int32', place: 'int32', next: 'int32', first: 'int32', count: 'int32' } as const

export interface Holdings {
  /** Read anew after each `add`. */
  readonly at: Columns<typeof leaseKinds>
  readonly all: Amounts
  readonly holder: (identity: IdentityId) => Holder | undefined
  readonly holders: () => Iterable<Holder>
  readonly holderOf: (lease: number) => Holder
  readonly holderOfDoor: (door: number) => Holder
  readonly name: (holder: Holder | undefined, name: string) => number
  readonly door: (holder: Holder | undefined, address: Address) => number
  readonly doorOf: (lease: number) => number
  /** The lease of a name at a door; 0: there is none. */
  readonly find: (name: number, door: number) => number
  readonly nameText: (lease: number) => string
  readonly addressOf: (door: number) => Address
  readonly ofName: (name: number) => number
  readonly nextOfName: (lease: number) => number
  readonly atDoor: (door: number) => number
  readonly nextAtDoor: (lease: number) => number
  /** Leases of a name, and at a door. */
  readonly countOfName: (name: number) => number
  readonly countAtDoor: (door: number) => number
  /** The first element of a door. */
  readonly elementsAt: (door: number) => number
  readonly setElements: (door: number, first: number, added: number, octets: number) => void
  /** A new lease of that name at that door, with no flags and nothing untold; its other fields are the caller's to fill. */
  readonly add: (identity: IdentityId, name: string, address: Address) => number
  /** Takes a lease away. Its door stays, even if nobody stands behind it, until it is `shut`. */
  readonly remove: (lease: number) => void
  readonly shut: (door: number) => void
  /** Counts octets that a lease takes elsewhere. */
  readonly count: (holder: Holder, octets: number) => void
  /** What a lease costs, with its name and its door where those are new. */
  readonly octetsFor: (nameLength: number | undefined, addressLength: number | undefined) => number
  /** Every lease, those of one name together. */
  readonly each: () => Iterable<number>
  readonly doors: () => Iterable<number>
}

export function makeHoldings(seed: number): Holdings {
  const leases = makeRows(leaseKinds, 'nextOfName')
  const names = makeRows(keyKinds, 'next')
  const doors = makeRows({ ...keyKinds, elements: 'int32' } as const, 'next')
  const nameKeys = makeKeys(names, seed)
  const doorKeys = makeKeys(doors, seed)
  const byIdentity = new Map<IdentityId, Holder>()
  const byIndex: (Holder | undefined)[] = []
  const idle: number[] = []
  const all: Amounts = { leases: 0, names: 0, elements: 0, octets: 0 }
  /** With its place in its holder's heap. */
  const leaseOctets = leases.octets + Int32Array.BYTES_PER_ELEMENT
  const nameOctets = names.octets + nameKeys.octets
  const doorOctets = doors.octets + doorKeys.octets

  const ringOfName = (): Ring => ({ first: names.at.first, next: leases.at.nextOfName, before: leases.at.beforeOfName })
  const ringAtDoor = (): Ring => ({ first: doors.at.first, next: leases.at.nextAtDoor, before: leases.at.beforeAtDoor })
  const nameOf = (lease: number): number => leases.at.name[lease] ?? 0
  const doorOf = (lease: number): number => leases.at.door[lease] ?? 0
  const holderAt = (index: number | undefined): Holder => byIndex[index ?? -1] ?? nobody

  function count(holder: Holder, octets: number): void {
    holder.octets += octets
    all.octets += octets
  }
  function holderFor(identity: IdentityId): Holder {
    let holder = byIdentity.get(identity)
    if (holder === undefined) {
      const index = idle.pop() ?? byIndex.length
      byIdentity.set(identity, (holder = { identity, index, leases: 0, names: 0, doors: 0, elements: 0, octets: 0 }))
      byIndex[index] = holder
    }
    return holder
  }
  function forgetIfEmpty(holder: Holder): void {
    if (holder.leases > 0 || holder.doors > 0) return
    byIdentity.delete(holder.identity)
    byIndex[holder.index] = undefined
    idle.push(holder.index)
  }

  function nameFor(holder: Holder, text: string): number {
    const found = nameKeys.find(holder.index, text)
    if (found !== 0) return found
    holder.names++
    all.names++
    count(holder, nameOctets + text.length)
    return nameKeys.take(holder.index, text)
  }
  function doorFor(holder: Holder, address: Address): number {
    const found = doorKeys.find(holder.index, address)
    if (found !== 0) return found
    holder.doors++
    count(holder, doorOctets + address.length)
    return doorKeys.take(holder.index, address)
  }

  function add(identity: IdentityId, nameText: string, address: Address): number {
    const holder = holderFor(identity)
    const name = nameFor(holder, nameText)
    const door = doorFor(holder, address)
    const lease = leases.take()
    leases.at.name[lease] = name
    leases.at.door[lease] = door
    append(ringOfName(), name, lease)
    append(ringAtDoor(), door, lease)
    names.at.count[name] = (names.at.count[name] ?? 0) + 1
    doors.at.count[door] = (doors.at.count[door] ?? 0) + 1
    holder.leases++
    all.leases++
    count(holder, leaseOctets)
    return lease
  }

  function remove(lease: number): void {
    const name = nameOf(lease)
    const door = doorOf(lease)
    const holder = holderAt(names.at.group[name])
    unlink(ringOfName(), name, lease)
    unlink(ringAtDoor(), door, lease)
    leases.at.name[lease] = leases.at.door[lease] = leases.at.flags[lease] = leases.at.untold[lease] = 0
    leases.free(lease)
    holder.leases--
    all.leases--
    count(holder, -leaseOctets)
    doors.at.count[door] = (doors.at.count[door] ?? 0) - 1
    names.at.count[name] = (names.at.count[name] ?? 0) - 1
    if (names.at.count[name] !== 0) return
    holder.names--
    all.names--
    count(holder, -nameOctets - nameKeys.lengthOf(name))
    nameKeys.free(name)
  }

  function shut(door: number): void {
    if (doors.at.count[door] !== 0) return
    const holder = holderAt(doors.at.group[door])
    holder.doors--
    count(holder, -doorOctets - doorKeys.lengthOf(door))
    doorKeys.free(door)
    forgetIfEmpty(holder)
  }

  function setElements(door: number, first: number, added: number, octets: number): void {
    const holder = holderAt(doors.at.group[door])
    doors.at.elements[door] = first
    holder.elements += added
    all.elements += added
    count(holder, added * octets)
  }

  function find(name: number, door: number): number {
    if (name === 0 || door === 0) return 0
    // The shorter way: many names share an address, or many addresses a name; hardly ever both.
    if ((names.at.count[name] ?? 0) <= (doors.at.count[door] ?? 0)) {
      for (let lease = ofName(name); lease !== 0; lease = nextOfName(lease)) if (doorOf(lease) === door) return lease
    } else for (let lease = atDoor(door); lease !== 0; lease = nextAtDoor(lease)) if (nameOf(lease) === name) return lease // prettier-ignore
    return 0
  }
  const ofName = (name: number): number => names.at.first[name] ?? 0
  const atDoor = (door: number): number => doors.at.first[door] ?? 0
  function nextOfName(lease: number): number {
    const next = leases.at.nextOfName[lease] ?? 0
    return next === names.at.first[nameOf(lease)] ? 0 : next
  }
  function nextAtDoor(lease: number): number {
    const next = leases.at.nextAtDoor[lease] ?? 0
    return next === doors.at.first[doorOf(lease)] ? 0 : next
  }

  function* each(): Iterable<number> {
    for (let name = 1; name < names.end(); name++) {
      const ofThis: number[] = []
      for (let lease = ofName(name); lease !== 0; lease = nextOfName(lease)) ofThis.push(lease)
      // Leases may come and go meanwhile, and rows become another's.
      for (const lease of ofThis) if (nameOf(lease) === name) yield lease
    }
  }
  function* everyDoor(): Iterable<number> {
    for (let door = 1; door < doors.end(); door++) if ((doors.at.count[door] ?? 0) > 0) yield door
  }

  return {
    at: leases.at,
    all,
    holder: (identity) => byIdentity.get(identity),
    holders: () => byIdentity.values(),
    holderOf: (lease) => holderAt(names.at.group[nameOf(lease)]),
    holderOfDoor: (door) => holderAt(doors.at.group[door]),
    name: (holder, text) => (holder === undefined ? 0 : nameKeys.find(holder.index, text)),
    door: (holder, address) => (holder === undefined ? 0 : doorKeys.find(holder.index, address)),
    doorOf,
    find,
    nameText: (lease) => nameKeys.textOf(nameOf(lease)),
    addressOf: (door) => doorKeys.textOf(door) as Address,
    ofName,
    nextOfName,
    atDoor,
    nextAtDoor,
    countOfName: (name) => names.at.count[name] ?? 0,
    countAtDoor: (door) => doors.at.count[door] ?? 0,
    elementsAt: (door) => doors.at.elements[door] ?? 0,
    setElements,
    add,
    remove,
    shut,
    count,
    octetsFor: (nameLength, addressLength) =>
      leaseOctets +
      (nameLength === undefined ? 0 : nameOctets + nameLength) +
      (addressLength === undefined ? 0 : doorOctets + addressLength),
    each,
    doors: everyDoor,
  }
}

/** Of rows that are free: nothing asks for it. */
const nobody: Holder = { identity: -1, index: -1, leases: 0, names: 0, doors: 0, elements: 0, octets: 0 }
