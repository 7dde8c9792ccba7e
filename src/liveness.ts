// Which addresses workloads are connected to now: what connection tracking tells, kept as it comes, and compared with the kernel's own list now
// and then. Values in, values out; the shell that reads the kernel is `watchLiveness`.
import type { Connection } from './datapath/ctnetlink.ts'
import type { Conntrack } from './datapath/conntrack.ts'
import type { IdentityId } from './identity/endpoints.ts'
import type { Address } from './net/address.ts'

export interface Liveness {
  /** What the kernel tells of one connection. */
  readonly note: (kind: 'begun' | 'closed' | 'over', connection: Connection) => void
  /** A list of all that there is begins; what is noted meanwhile is kept. Gives what takes each of it, and what ends it. */
  readonly relist: () => { readonly each: (connection: Connection) => void; readonly done: () => void }
  /** Whether an endpoint with that identity is connected to the address. */
  readonly isInUse: (identity: IdentityId, address: Address) => boolean
  /** Connections that are known. */
  readonly size: () => number
}

/**
 * Connections that are remembered: 60 MB. Past that, new ones are not, until others end: leases that only they would keep end with their grace,
 * and new connections to those addresses are denied.
 */
export const livenessMax: number = 1 << 18

/** Who is connected to one address: by the source's address, the kernel's names for the connections. */
type Users = Map<Address, Set<number>>

/**
 * @param identityAt of an address: its endpoint's identity, undefined when no endpoint of this machine has it.
 * @param isLeased whether the identity holds a lease at the address: connections to others are nobody's concern here.
 */
export function makeLiveness(
  identityAt: (address: Address) => IdentityId | undefined,
  isLeased: (identity: IdentityId, address: Address) => boolean,
  max: number = livenessMax,
): Liveness {
  let known = new Map<Address, Users>()
  let count = 0
  /** While a list is read: what was heard to begin and to end, which the list may not have or still have. */
  let listing: { readonly fresh: Map<Address, Users>; count: number; readonly gone: Set<number> } | undefined

  function add(to: Map<Address, Users>, { peer, source, id }: Connection): boolean {
    let users = to.get(peer)
    if (users === undefined) to.set(peer, (users = new Map<Address, Set<number>>()))
    let ids = users.get(source)
    if (ids === undefined) users.set(source, (ids = new Set<number>()))
    if (ids.has(id)) return false
    ids.add(id)
    return true
  }
  function remove(from: Map<Address, Users>, { peer, source, id }: Connection): boolean {
    const users = from.get(peer)
    const ids = users?.get(source)
    if (users === undefined || ids?.delete(id) !== true) return false
    if (ids.size === 0) users.delete(source)
    if (users.size === 0) from.delete(peer)
    return true
  }
  function isOurs({ source, peer }: Connection): boolean {
    const identity = identityAt(source)
    return identity !== undefined && isLeased(identity, peer)
  }

  function note(kind: 'begun' | 'closed' | 'over', connection: Connection): void {
    if (kind !== 'begun') {
      if (remove(known, connection)) count--
      if (listing === undefined) return
      listing.gone.add(connection.id)
      if (remove(listing.fresh, connection)) listing.count--
      return
    }
    if (!isOurs(connection)) return
    if (count < max && add(known, connection)) count++
    if (listing !== undefined && listing.count < max && add(listing.fresh, connection)) listing.count++
  }

  function relist(): ReturnType<Liveness['relist']> {
    const own = (listing = { fresh: new Map<Address, Users>(), count: 0, gone: new Set<number>() })
    return {
      each(connection) {
        if (own.count < max && !own.gone.has(connection.id) && isOurs(connection) && add(own.fresh, connection))
          own.count++
      },
      done() {
        if (listing !== own) return
        known = own.fresh
        count = own.count
        listing = undefined
      },
    }
  }

  function isInUse(identity: IdentityId, address: Address): boolean {
    for (const source of known.get(address)?.keys() ?? []) if (identityAt(source) === identity) return true
    return false
  }
  return { note, relist, isInUse, size: () => count }
}

/** How often events are read: they wait in the socket meanwhile, and are read as well before anything is judged by them. */
const hearMillis = 100
/** Of events that are read at once, 4 ms each: 60 000 events a second are followed. More are lost at some time, and then there is the list. */
const turnsMax = 4
/** Events can be lost, and a lease be learned for an address that is connected to already. */
const listMillis = 60_000

export interface LivenessWatch {
  /** Reads what has been told since: to be called before `isInUse` is asked. */
  readonly hear: () => void
  readonly stop: () => void
}

/**
 * Keeps a liveness true: events as they come, a list at the start, each minute, and when events were lost. Resolves when the first list is read.
 * @param failed is told when the kernel cannot be read, of each time anew; `undefined` when it can be again.
 */
export async function watchLiveness(
  liveness: Liveness,
  conntrack: Conntrack,
  failed: (error: unknown) => void,
): Promise<LivenessWatch> {
  let isListing = false
  let isStopped = false
  async function list(): Promise<void> {
    if (isListing || isStopped) return
    isListing = true
    const { each, done } = liveness.relist()
    try {
      await conntrack.list((connection, isClosed) => void (isClosed || each(connection)))
      done()
      failed(undefined)
    } catch (error) {
      if (!isStopped) failed(error)
    } finally {
      isListing = false
    }
  }
  /** What is behind these is heard the next time. */
  function hear(): void {
    if (isStopped) return
    try {
      let heard = conntrack.events(liveness.note)
      for (let turns = 1; heard === 'more' && turns < turnsMax; turns++) heard = conntrack.events(liveness.note)
      if (heard === 'lost') void list()
    } catch (error) {
      failed(error)
    }
  }
  const hearing = setInterval(hear, hearMillis)
  const listing = setInterval(() => void list(), listMillis)
  await list()
  return {
    hear,
    stop() {
      isStopped = true
      clearInterval(hearing)
      clearInterval(listing)
    },
  }
}
