// Who the other side of a packet is, as one number: the kernel finds it by address, and then asks what the subject's policy says about that
// number. Addresses with an identity of their own are its number; other addresses are told apart only where some policy tells them apart.
import { addressToNumber, familyOf, type Address, type Family } from '../net/address.ts'
import { everyAddress, type AddressRange } from '../net/prefix.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import { lastIdentity } from '../identity/identities.ts'
import { hostId, unknownId } from '../identity/reserved.ts'
import type { Entry, Snapshot } from '../policy/snapshot.ts'
import type { Steps } from '../steps.ts'

/** Peers that no policy of this machine tells apart. */
export interface PeerKind {
  readonly number: number
  readonly identity: IdentityId
  /** Addresses with an identity, or addresses of the world. */
  readonly place: 'cluster' | 'world'
  /** Whether `outside` ranges of entries are about it: the world, and API servers out there. */
  readonly isOutside: boolean
  /** The ranges of entries in which it lies, as `rangeKey`. */
  readonly ranges: readonly string[]
  readonly families: ReadonlySet<Family>
  /** How many addresses with an identity are of this kind. */
  readonly count: number
}

export interface Peers {
  readonly kinds: readonly PeerKind[]
  /** Addresses with an identity. */
  readonly single: ReadonlyMap<Address, number>
  /** Other addresses that lie in ranges of some policy; disjoint. */
  readonly ranges: readonly { readonly range: AddressRange; readonly number: number }[]
}

/** Numbers of this host, of the world, and of whoever has an identity but no number that a subject's policy knows. */
export const hostNumber: number = hostId
export const worldNumber = 0
export const clusterNumber = 0xffff_0001
/** Of addresses that two workloads claim: their identity is 0, which as a number is the world's. */
const unknownNumber = 0xffff_0002

/** Kinds that ranges make get numbers from here on; identities are below (as Cilium's local scopes). */
const firstCell = lastIdentity + 1

/** Numbers for kinds that ranges make: the same kind keeps its number as long as it is in use. */
export type CellNumbers = (kinds: readonly string[]) => ReadonlyMap<string, number>

export function makeCellNumbers(): CellNumbers {
  let known: ReadonlyMap<string, number> = new Map()
  let next = firstCell
  return (kinds) => {
    known = new Map(kinds.map((kind) => [kind, known.get(kind) ?? next++]))
    return known
  }
}

export const rangeKey = ({ family, first, last }: AddressRange): string => `${family} ${first}-${last}`

interface Piece {
  readonly range: AddressRange
  readonly keys: readonly string[]
}

interface Draft {
  readonly place: PeerKind['place']
  readonly identity: IdentityId
  readonly isOutside: boolean
  readonly ranges: readonly string[]
  readonly families: Set<Family>
  count: number
}

/** The kinds of peers that these entries, all that this machine enforces, tell apart. */
export function* peersOf(entries: Iterable<Entry>, snapshot: Snapshot, numbers: CellNumbers): Steps<Peers> {
  const everywhere = new Map<string, AddressRange>()
  const all = new Map<string, AddressRange>()
  for (const { peers } of entries) {
    if (peers === 'everyone') continue
    for (const range of peers.everywhere) everywhere.set(rangeKey(range), range)
    for (const range of peers.outside) all.set(rangeKey(range), range)
    yield
  }
  for (const [key, range] of everywhere) all.set(key, range)

  const drafts = new Map<string, Draft>()
  const put = (family: Family, draft: Omit<Draft, 'families' | 'count'>, count: number): string => {
    const { identity, isOutside, ranges } = draft
    // Of an identity alone the number is the identity.
    const key = ranges.length === 0 ? String(identity) : `${identity} ${isOutside ? 'out' : 'in'} ${ranges.join()}`
    let known = drafts.get(key)
    if (known === undefined) drafts.set(key, (known = { ...draft, families: new Set(), count: 0 }))
    known.families.add(family)
    known.count += count
    return key
  }

  const single: [Address, string][] = []
  const ranges: { range: AddressRange; key: string }[] = []
  for (const family of [4, 6] as const) {
    const [anywhere, outside] = [yield* cut([...everywhere.values()], family), yield* cut([...all.values()], family)]
    for (const [address, identity] of snapshot.addresses) {
      if (familyOf(address) !== family) continue
      const isOutside = !snapshot.isInCluster(address)
      const keys = keysAt(isOutside ? outside : anywhere, address)
      single.push([address, put(family, { place: 'cluster', identity, isOutside, ranges: keys }, 1)])
      yield
    }
    const world = worldIdentity(snapshot, family)
    for (const { range, keys } of outside) {
      ranges.push({ range, key: put(family, { place: 'world', identity: world, isOutside: true, ranges: keys }, 0) })
      yield
    }
    // Whether or not its addresses are known, this host is somebody.
    put(family, { place: 'cluster', identity: hostNumber, isOutside: false, ranges: [] }, 0)
  }

  const cells = numbers([...drafts].filter(([, { ranges: keys }]) => keys.length > 0).map(([key]) => key))
  const numberOf = (key: string): number => cells.get(key) ?? (Number(key) === unknownId ? unknownNumber : Number(key))
  return {
    kinds: [...drafts].map(([key, draft]) => ({ ...draft, number: numberOf(key) })),
    single: new Map(single.map(([address, key]) => [address, numberOf(key)])),
    ranges: ranges.map(({ range, key }) => ({ range, number: numberOf(key) })),
  }
}

/** The identity of addresses of a family that nobody has. */
export function worldIdentity(snapshot: Snapshot, family: Family): IdentityId {
  return snapshot.identityOf('\0'.repeat(family === 4 ? 4 : 16) as Address)
}

/** Cuts the family's address space at every range's edges; gives the pieces in some range, with the keys of those ranges. Sorted. */
function* cut(ranges: readonly AddressRange[], family: Family): Steps<Piece[]> {
  const edges: { at: bigint; key: string; opens: boolean }[] = []
  for (const range of ranges) {
    if (range.family !== family) continue
    edges.push({ at: range.first, key: rangeKey(range), opens: true })
    if (range.last < everyAddress[family].last) edges.push({ at: range.last + 1n, key: rangeKey(range), opens: false })
    yield
  }
  edges.sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0))
  const pieces: Piece[] = []
  const open = new Set<string>()
  for (let i = 0; i < edges.length;) {
    const first = edges[i]?.at ?? 0n
    for (let edge = edges[i]; edge !== undefined && edge.at === first; edge = edges[++i])
      if (edge.opens) open.add(edge.key)
      else open.delete(edge.key)
    const last = (edges[i]?.at ?? everyAddress[family].last + 1n) - 1n
    if (open.size > 0) pieces.push({ range: { family, first, last }, keys: [...open].sort() })
    yield
  }
  return pieces
}

/** The keys of the ranges in which an address lies: halving search. */
function keysAt(pieces: readonly Piece[], address: Address): readonly string[] {
  const number = addressToNumber(address)
  let [low, high] = [0, pieces.length]
  while (low < high) {
    const middle = (low + high) >> 1
    const piece = pieces[middle]
    if (piece === undefined || piece.range.first > number) high = middle
    else low = middle + 1
  }
  const piece = pieces[low - 1]
  return piece !== undefined && number <= piece.range.last ? piece.keys : []
}
