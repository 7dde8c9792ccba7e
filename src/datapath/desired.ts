// What the policy's sets should hold, computed from a snapshot; the difference to what they hold; and that as nft text.
import { addressFromNumber, addressToText, familyOf, type Address, type Family } from '../net/address.ts'
import { protocolName } from '../net/ports.ts'
import type { AddressRange } from '../net/prefix.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import { labelSetText, type Digest } from '../identity/identities.ts'
import { unknownId } from '../identity/reserved.ts'
import type { Direction } from '../policy/rules.ts'
import type { DirectionPolicy, Entry, Snapshot, SubjectPolicy } from '../policy/snapshot.ts'
import { atOnce, type Steps } from '../steps.ts'
import {
  addEntries,
  cellOf as cellOfLayer,
  differenceTo,
  nothing,
  type Cell,
  type CellVerdict,
  type Difference,
  type Layer,
  type Placed,
} from './cell.ts'
import { setOf, singlesMax, type LeaseElement } from './element.ts'
import {
  clusterNumber,
  hostNumber,
  peersOf,
  rangeKey,
  worldIdentity,
  worldNumber,
  type CellNumbers,
  type PeerKind,
  type Peers,
} from './peers.ts'
import { nameIn, policySets, verdictNumbers, type Copy, type PolicySet } from './structure.ts'

/** Set name -> element key -> value; the value is '' in sets. Keys and values are nft text. */
export type Elements = ReadonlyMap<PolicySet, ReadonlyMap<string, string>>

/** Elements to take out and to put in; a changed value is both. Removals go first, in one transaction with the additions. */
export interface Change {
  readonly remove: Elements
  readonly add: Elements
}

export interface Wanted {
  readonly digest: Digest
  /** Kept from one snapshot to the next. */
  readonly numbers: CellNumbers
  /** Whether policies of this host (nodeSelector) are enforced on its own traffic. */
  readonly hostPolicies: boolean
}

/** How nft writes an identity: a classid, `major:minor` in hexadecimal. 257 is `0:101`. */
export function identityToText(identity: IdentityId): string {
  return `${(identity >>> 16).toString(16)}:${(identity & 0xffff).toString(16)}`
}

const verdictText: Readonly<Record<CellVerdict, string>> = {
  allow: identityToText(verdictNumbers.allow),
  deny: identityToText(verdictNumbers.deny),
  lease: identityToText(verdictNumbers.lease),
}

/** Somebody whose policy this machine enforces. */
interface Subject {
  readonly address: Address
  readonly policy: SubjectPolicy
}

/**
 * The elements that this snapshot asks for. Subjects are this machine's endpoints, each by its addresses; peers go by number (`peersOf`). Each
 * identity's number goes with the digests of its labels and of what its policy grants to names (`readIdentities`).
 */
export function desiredElements(snapshot: Snapshot, wanted: Wanted): Elements {
  return atOnce(desiredSteps(snapshot, wanted))
}

/** The same in steps. */
export function* desiredSteps(snapshot: Snapshot, { digest, numbers, hostPolicies }: Wanted): Steps<Elements> {
  const sets = new Map<PolicySet, Map<string, string>>(policySets.map((name) => [name, new Map()]))
  const put = (set: PolicySet, key: string, value: string): void => void sets.get(set)?.set(key, value)
  const subjects: Subject[] = []
  for (const endpoint of snapshot.endpoints) {
    if (!endpoint.local) continue
    const policy = snapshot.policyOf(endpoint.identity)
    const id = identityToText(endpoint.identity)
    for (const address of endpoint.addresses) {
      // An address of the host's is not a workload's, nor is one that another workload claims too.
      if (snapshot.endpointOf(address) !== endpoint) continue
      const [family, text] = [familyOf(address), addressToText(address)]
      put('identities', `${id} comment "${digest(labelSetText(endpoint.labels))}.${digest(policy.grantsText)}"`, '')
      put(`identity${family}`, text, id)
      put(`self${family}`, `${text} . ${text}`, '')
      subjects.push({ address, policy })
    }
    yield
  }
  if (hostPolicies)
    for (const [address, identity] of snapshot.addresses) {
      if (identity !== hostNumber) continue
      put(`host${familyOf(address)}`, addressToText(address), '')
      subjects.push({ address, policy: { ...snapshot.policyOf(identity), grantRanks: [] } })
    }

  const peers = yield* peersOf(entriesOf(subjects), snapshot, numbers)
  for (const [address, number] of peers.single) {
    put(`peer${familyOf(address)}`, addressToText(address), identityToText(number))
    put(`cluster${familyOf(address)}`, addressToText(address), '')
    yield
  }
  for (const [address, identity] of snapshot.addresses)
    if (identity === unknownId) put(`nobody${familyOf(address)}`, addressToText(address), '')
  for (const { range, number } of peers.ranges) {
    put(`range${range.family}`, rangeText(range), identityToText(number))
    yield
  }

  const tables = makeTables(peers, snapshot)
  for (const { address, policy } of subjects)
    for (const direction of ['egress', 'ingress'] as const) {
      for (const { number, cell } of yield* tables(policy, direction, familyOf(address))) {
        putCell(put, direction, address, number, cell)
        yield
      }
      if (policy.directions[direction].audit)
        put(`${direction}_audited${familyOf(address)}`, addressToText(address), '')
    }
  return sets
}

function* entriesOf(subjects: readonly Subject[]): Iterable<Entry> {
  const seen = new Set<readonly Entry[]>()
  for (const { policy } of subjects)
    for (const { entries } of [policy.directions.egress, policy.directions.ingress])
      if (!seen.has(entries)) {
        seen.add(entries)
        yield* entries
      }
}

interface Row {
  readonly number: number
  readonly cell: Difference
}

/** What a policy says to each kind of peer that it tells from others of its place, and to the rest of each place. Policies in common are asked once. */
function makeTables(
  peers: Peers,
  snapshot: Snapshot,
): (policy: SubjectPolicy, direction: Direction, family: Family) => Steps<readonly Row[]> {
  const worlds = { 4: worldIdentity(snapshot, 4), 6: worldIdentity(snapshot, 6) }
  const byIdentity = new Map<IdentityId, PeerKind[]>()
  const byRange = new Map<string, PeerKind[]>()
  const known = { 4: 0, 6: 0 }
  for (const kind of peers.kinds) {
    pushTo(byIdentity, kind.identity, kind)
    for (const range of kind.ranges) pushTo(byRange, range, kind)
    // A kind of both families counts in both: it is about what most are, not about how many.
    for (const family of kind.families) if (kind.place === 'cluster') known[family] += kind.count
  }
  const made = new Map<string, readonly Row[]>()
  const ids = new Map<DirectionPolicy, number>()

  function* rowsOf(
    policy: DirectionPolicy,
    fromHost: DirectionPolicy['fallback'],
    names: SubjectPolicy['grantRanks'],
    family: Family,
  ): Steps<Row[]> {
    const { cellOf, identities, kinds } = yield* makeCells(policy, fromHost, names, byRange)
    const world = cellOf({ identity: worlds[family], isOutside: true })
    const others = cellOf({ identity: nobody, isOutside: false })
    const spokenOf = new Set<PeerKind>([...(byIdentity.get(hostNumber) ?? []), ...kinds])
    // World's kinds are told apart by ranges alone.
    for (const identity of identities)
      if (identity !== worlds[4] && identity !== worlds[6])
        for (const kind of byIdentity.get(identity) ?? []) spokenOf.add(kind)
    const ours = [...spokenOf].filter((kind) => kind.families.has(family))
    const cells = new Map<PeerKind, Cell>()
    for (const kind of ours) {
      cells.set(kind, cellOf(kind))
      yield
    }
    const cluster = mostCommon(cells, others, known[family])
    const rows: Row[] = [
      { number: worldNumber, cell: world },
      { number: clusterNumber, cell: cluster },
    ]
    // There is nothing to say about whom no entry is about, unless most of the cluster is somebody.
    const told = cluster === others ? ours : peers.kinds.filter((kind) => kind.families.has(family))
    for (const kind of told) {
      yield
      const [cell, under] = [cellOf(kind), kind.place === 'world' ? world : cluster]
      // What comes from this host is judged by its number alone, be its address known or not.
      if (kind.identity === hostNumber) rows.push({ number: kind.number, cell })
      else if (cell !== under) rows.push({ number: kind.number, cell: differenceTo(cell, under) })
    }
    return rows
  }

  return function* (policy, direction, family) {
    const ofDirection = policy.directions[direction]
    const names = direction === 'egress' ? policy.grantRanks : []
    const fromHost = direction === 'ingress' ? ofDirection.fallbackFromHost : ofDirection.fallback
    if (!ids.has(ofDirection)) ids.set(ofDirection, ids.size)
    const key = `${direction} ${ids.get(ofDirection)} ${family} ${names.map(({ tier, priority }) => `${tier}/${priority}`).join()}`
    let rows = made.get(key)
    if (rows === undefined) made.set(key, (rows = yield* rowsOf(ofDirection, fromHost, names, family)))
    return rows
  }
}

function pushTo<K, V>(index: Map<K, V[]>, key: K, value: V): void {
  const list = index.get(key)
  if (list === undefined) index.set(key, [value])
  else list.push(value)
}

/** No entry is about this identity by itself. */
const nobody: IdentityId = -1

/** The cell that most of the addresses with an identity have: `others` is that of all that are not among the kinds. */
function mostCommon(cells: ReadonlyMap<PeerKind, Cell>, others: Cell, known: number): Cell {
  const counts = new Map<Cell, number>()
  let left = known
  for (const [kind, cell] of cells) {
    if (kind.place === 'world') continue
    counts.set(cell, (counts.get(cell) ?? 0) + kind.count)
    left -= kind.count
  }
  counts.set(others, (counts.get(others) ?? 0) + left)
  return [...counts].reduce((most, one) => (one[1] > most[1] ? one : most))[0]
}

interface Cells {
  /** The cell of a kind of peer, or of all of an identity that lie in no range; those that the same entries are about share it. */
  readonly cellOf: (kind: PeerKind | Pick<PeerKind, 'identity' | 'isOutside'>) => Cell
  /** Whom entries are about, and whom by ranges. */
  readonly identities: Iterable<IdentityId>
  readonly kinds: Iterable<PeerKind>
}

function* makeCells(
  { entries, fallback }: DirectionPolicy,
  fromHost: DirectionPolicy['fallback'],
  names: SubjectPolicy['grantRanks'],
  kindsByRange: ReadonlyMap<string, readonly PeerKind[]>,
): Steps<Cells> {
  const everyone: number[] = []
  const byIdentity = new Map<IdentityId, number[]>()
  const byKind = new Map<PeerKind, number[]>()
  for (const [at, { peers }] of entries.entries()) {
    if (peers === 'everyone') {
      everyone.push(at)
      continue
    }
    for (const identity of peers.identities) pushTo(byIdentity, identity, at)
    for (const range of peers.everywhere) {
      for (const kind of kindsByRange.get(rangeKey(range)) ?? []) pushTo(byKind, kind, at)
      yield
    }
    for (const range of peers.outside) {
      for (const kind of kindsByRange.get(rangeKey(range)) ?? []) if (kind.isOutside) pushTo(byKind, kind, at)
      yield
    }
  }
  const placed = (ats: Iterable<number>): Placed[] => [...ats].flatMap((at) => { const entry = entries[at]; return entry === undefined ? [] : [{ at, entry }] }) // prettier-ignore
  const ofEveryone = addEntries(nothing, placed(everyone))
  const ofIdentities = new Map<string, Layer>()
  const byIdentities = new Map<IdentityId, Layer>()
  /** Identities that the same entries are about share a layer. */
  function layerOf(identity: IdentityId): Layer {
    let layer = byIdentities.get(identity)
    if (layer !== undefined) return layer
    const own = byIdentity.get(identity) ?? []
    layer = ofIdentities.get(own.join())
    if (layer === undefined) ofIdentities.set(own.join(), (layer = addEntries(ofEveryone, placed(own))))
    byIdentities.set(identity, layer)
    return layer
  }
  const cells = new Map<Layer, Map<string, Cell>>()
  function cellOf(kind: PeerKind | Pick<PeerKind, 'identity' | 'isOutside'>): Cell {
    const { identity } = kind
    const layer = layerOf(identity)
    const tail = { fallback: identity === hostNumber ? fromHost : fallback, names }
    const more = new Set('ranges' in kind ? byKind.get(kind) : undefined)
    if (more.size > 0) for (const at of byIdentity.get(identity) ?? []) more.delete(at)
    const key = `${tail.fallback} ${[...more].join()}`
    let ofLayer = cells.get(layer)
    if (ofLayer === undefined) cells.set(layer, (ofLayer = new Map<string, Cell>()))
    let cell = ofLayer.get(key)
    if (cell === undefined) ofLayer.set(key, (cell = cellOfLayer(addEntries(layer, placed(more)), tail)))
    return cell
  }
  return { cellOf, identities: byIdentity.keys(), kinds: byKind.keys() }
}

function putCell(
  put: (set: PolicySet, key: string, value: string) => void,
  direction: Direction,
  address: Address,
  number: number,
  cell: Difference,
): void {
  const family = familyOf(address)
  const head = `${identityToText(number)} . ${addressToText(address)}`
  if (cell.rest !== undefined) put(`${direction}_any${family}`, head, verdictText[cell.rest])
  for (const [protocol, verdict] of cell.protocols)
    put(`${direction}_protocol${family}`, `${head} . ${protocol}`, verdictText[verdict])
  for (const icmp of cell.icmp)
    if (icmp.family === family) put(`${direction}_icmp${family}`, `${head} . ${icmp.type}`, verdictText[icmp.verdict])
  for (const { protocol, first, last, verdict } of cell.ports) {
    const flow = `${head} . ${protocolName(protocol)}`
    if (last - first >= singlesMax) put(`${direction}_ports${family}`, `${flow} . ${first}-${last}`, verdictText[verdict])
    else for (let port = first; port <= last; port++) put(`${direction}_port${family}`, `${flow} . ${port}`, verdictText[verdict])
  } // prettier-ignore
}

function rangeText({ family, first, last }: AddressRange): string {
  const text = addressToText(addressFromNumber(first, family))
  return first === last ? text : `${text}-${addressToText(addressFromNumber(last, family))}`
}

/** What turns `realised` into `desired`. */
export function diff(desired: Elements, realised: Elements): Change {
  return atOnce(diffSteps(desired, realised))
}

/** The same in steps. */
export function* diffSteps(desired: Elements, realised: Elements): Steps<Change> {
  const remove = new Map<PolicySet, Map<string, string>>()
  const add = new Map<PolicySet, Map<string, string>>()
  for (const set of policySets) {
    const want = desired.get(set) ?? new Map<string, string>()
    const have = realised.get(set) ?? new Map<string, string>()
    const [gone, fresh] = [yield* without(have, want), yield* without(want, have)]
    if (gone.size > 0) remove.set(set, gone)
    if (fresh.size > 0) add.set(set, fresh)
  }
  return { remove, add }
}

/** What one has, and the other has not or has otherwise. */
function* without(of: ReadonlyMap<string, string>, others: ReadonlyMap<string, string>): Steps<Map<string, string>> {
  const left = new Map<string, string>()
  let seen = 0
  for (const [key, value] of of) {
    if (others.get(key) !== value) left.set(key, value)
    if (++seen % 64 === 0) yield
  }
  return left
}

export const isNothing = ({ remove, add }: Change): boolean => remove.size === 0 && add.size === 0

/** What one copy holds, with the identities of another: those are there once, and follow what judges. */
export function withIdentities(elements: Elements, judging: Elements): Elements {
  return new Map([...elements, ['identities', judging.get('identities') ?? new Map<string, string>()]])
}

/** Elements on one line of nft text: long lines make its parser slow. */
const elementsPerLine = 500

/**
 * The change in one copy as commands for `nft -f`; '' when there is nothing to do. nft looks for each range that goes among all (5 ms of 10 000;
 * writing those anew costs 120 ms), and the kernel for each range of ports (5 ms of 5 000): where many go, the set is emptied and filled.
 * @param elements what the copy holds then.
 */
export function renderChange(table: string, copy: Copy, change: Change, elements: Elements): string {
  return atOnce(changeSteps(table, copy, change, elements))
}

/** The same in steps. */
export function* changeSteps(table: string, copy: Copy, change: Change, elements: Elements): Steps<string> {
  const anew = intervalSets.filter(({ set, goMax }) => (change.remove.get(set)?.size ?? 0) > goMax(elements.get(set)?.size ?? 0)).map(({ set }) => set)
  const part = (of: Elements, isAnew: boolean): Elements => new Map([...of].filter(([set]) => anew.includes(set) === isAnew))
  return (
    (yield* renderElements('delete', table, copy, part(change.remove, false))) +
    anew.map((set) => renderFlushOf(table, copy, set)).join('') +
    (yield* renderElements('add', table, copy, part(change.add, false))) +
    (yield* renderElements('add', table, copy, part(elements, true)))
  )
} // prettier-ignore

/** Those whose elements are ranges, and how many may go one by one of a set that keeps so many. */
const intervalSets: readonly { readonly set: PolicySet; readonly goMax: (kept: number) => number }[] = [
  ...(['range4', 'range6'] as const).map((set) => ({ set, goMax: () => 4 })),
  ...(['egress_ports4', 'egress_ports6', 'ingress_ports4', 'ingress_ports6'] as const).map((set) => ({ set, goMax: (kept: number) => 4 + kept / 4 })),
] // prettier-ignore

/** Commands that empty every policy set of a copy, for a fresh start on a table that is there. */
export function renderFlush(table: string, copy: Copy): string {
  return policySets.map((set) => renderFlushOf(table, copy, set)).join('')
}

function renderFlushOf(table: string, copy: Copy, set: PolicySet): string {
  return `flush ${isMap(set) ? 'map' : 'set'} inet ${table} ${nameIn(copy, set)}\n`
}

const plainSets: readonly string[] = ['host', 'cluster', 'self', 'nobody', 'egress_audited', 'ingress_audited'].flatMap((name) => [`${name}4`, `${name}6`]) // prettier-ignore

/** Some hold addresses or numbers alone; everything else is a map. */
function isMap(set: PolicySet): boolean {
  return set !== 'identities' && !plainSets.includes(set)
}

function elementText(verb: 'add' | 'delete', key: string, value: string): string {
  // A comment is not part of what an element is deleted by.
  const [bare = ''] = verb === 'delete' ? key.split(' comment ') : [key]
  return value === '' ? bare : `${bare} : ${value}`
}

function* renderElements(verb: 'add' | 'delete', table: string, copy: Copy, elements: Elements): Steps<string> {
  let text = ''
  for (const [set, entries] of elements) {
    const all = [...entries]
    for (let i = 0; i < all.length; i += elementsPerLine) {
      const list = all.slice(i, i + elementsPerLine).map(([key, value]) => elementText(verb, key, value))
      text += `${verb} element inet ${table} ${nameIn(copy, set)} { ${list.join(', ')} }\n`
      yield
    }
  }
  return text
}

/** Adds learned addresses by text, for a table that takes over from another; all other commits go by netlink. */
export function renderLearned(table: string, elements: readonly LeaseElement[]): string {
  return elements
    .filter(({ timeoutMillis }) => timeoutMillis > 0)
    .map((element) => {
      const { identity, address, ports, timeoutMillis } = element
      const port = ports.kind === 'all' ? '' : ` . ${protocolName(ports.protocol)} . ${ports.first === ports.last ? ports.first : `${ports.first}-${ports.last}`}`
      const time = `${Math.ceil(timeoutMillis / 1000)}s`
      return `add element inet ${table} ${setOf(element)} { ${identityToText(identity)} . ${addressToText(address)}${port} timeout ${time} expires ${time} }\n`
    })
    .join('')
} // prettier-ignore
