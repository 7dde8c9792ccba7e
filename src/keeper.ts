// Keeps leases and kernel together: what is learned is committed, what policy no longer grants is removed, what a workload with new labels
// still holds goes with it. The table of leases is pure and the datapath knows no names; this is where the two meet.
import { randomInt } from 'node:crypto'
import { makeAlarm } from './alarm.ts'
import type { Clock, Millis, Seconds } from './clock.ts'
import type { Datapath } from './datapath/datapath.ts'
import type { LeaseElement, OpenPorts } from './datapath/element.ts'
import type { Acknowledged } from './datapath/learned.ts'
import { elementsPerTransactionMax } from './datapath/nfnetlink.ts'
import type { IdentityId } from './identity/endpoints.ts'
import { makeCells, type Cells } from './leases/cells.ts'
import type { IsInUse, Lease, LeaseChange, LeaseFact, LeaseLimits, Learned } from './leases/lease.ts'
import { makeLeases, type LeaseTable } from './leases/leases.ts'
import type { LeaseLimit } from './leases/room.ts'
import type { Address } from './net/address.ts'
import { portsToText, type Ports } from './net/ports.ts'
import { openedPorts } from './policy/names.ts'
import type { SubjectPolicy, Snapshot } from './policy/snapshot.ts'
import type { Fact } from './proxy/handle.ts'
import type { MayLead } from './proxy/screen.ts'
import { labelsOf, wireFromText } from './wire/name.ts'

export interface Keeper {
  readonly leases: LeaseTable
  /** At the start, before anybody is answered: takes over what an earlier agent learned, as leases where it is known which
   * names it stands for, and takes out what is nobody's now. */
  readonly adopt: (snapshot: Snapshot, earlier?: readonly EarlierLease[]) => Promise<void>
  /** From now on leases end when they are over: not before connections that may keep them are known. */
  readonly start: () => void
  /** Records what an answer taught; the elements must be committed before it leaves. */
  readonly learn: (fact: Fact, policy: SubjectPolicy) => Learned
  /** For how many seconds what is known of an answer may be told without anything more: all its leases surely stand so long. */
  readonly standsFor: (fact: Fact) => number
  /** Resolves when the kernel has acknowledged what an answer taught; rejects with its error, and then the leases are as they were before. */
  readonly commit: (elements: readonly LeaseElement[]) => Promise<void>
  /**
   * Before the kernel holds `next`: workloads whose labels changed, and that get an identity which nobody has yet, find their leases there when
   * the kernel learns of it. Until then they open nothing to anybody; should the kernel refuse `next`, `follow` from the old to the old.
   */
  readonly prepare: (before: Snapshot, next: Snapshot) => Promise<void>
  /**
   * In the tick in which `next` comes into force, the kernel holding it already: leases move with workloads whose labels changed, and all of
   * them, and what an earlier agent learned, are made what it grants.
   */
  readonly follow: (before: Snapshot, next: Snapshot) => Promise<void>
  /**
   * Makes the kernel hold what the leases say: first takes out what must not be there, then writes what is not, or not surely, there. What the
   * kernel refuses does not keep the rest; rejects with its error when all has been tried, and is to be called again until it resolves.
   */
  readonly settle: () => Promise<void>
  /** Whether the kernel holds what it should, and nothing else, as far as is known. */
  readonly isSettled: () => boolean
  /** Whether `settle` has something to do that is not under way already. */
  readonly needsSettling: () => boolean
  /** Why the kernel does not hold what the leases say, when it refused that. */
  readonly trouble: () => string | undefined
  /** Takes leases out of table and kernel; new packets obey when it resolves. */
  readonly clean: (matches: (lease: Lease) => boolean) => Promise<number>
  readonly stop: () => void
}

/** What leases and connections have to do with each other. */
export interface Uses {
  /** Brings `isInUse` up to date. */
  readonly hear: () => void
  readonly isInUse: IsInUse
  /** A lease was taken away before it was over. */
  readonly lost: (lease: Lease) => void
}

/** What an earlier agent's journal says of one lease. `learnedAt` is of the clock of this one, and may lie before its beginning. */
export interface EarlierLease {
  readonly identity: IdentityId
  readonly endpoint: number
  readonly name: string
  readonly address: Address
  readonly ttlSeconds: number
  readonly learnedAt: Millis
}

/** What is told of leases of one name and identity: to learn, renew, keep (`zombie`), end or take them back. */
export interface LeaseNews {
  readonly identity: IdentityId
  readonly endpoint: number
  readonly name: string
  readonly addresses: readonly Address[]
  readonly ttlSeconds: Seconds
}

const newsOf = ({ identity, endpoint, name, address, ttlSeconds }: Lease): LeaseNews => ({ identity, endpoint, name, addresses: [address], ttlSeconds }) // prettier-ignore

interface Owed {
  readonly element: LeaseElement
  /** The kernel lets go of it by itself then. */
  readonly until: Millis
}

interface Failed {
  readonly elements: readonly LeaseElement[]
  readonly error: Error
}

const keyOf = ({ identity, address, ports }: LeaseElement): string => `${identity} ${address} ${portsToText(ports)}`

/** Nobody has the identity, and somebody may get its number; or the address is one that labels decide about. */
function isNobodys({ identity, address }: LeaseElement, snapshot: Snapshot): boolean {
  return !snapshot.identities.has(identity) || snapshot.isInCluster(address)
}

/** As many as the kernel takes in one transaction: between the parts, questions get their turn. */
function inParts<T>(all: readonly T[]): readonly T[][] {
  const parts: T[][] = []
  for (let i = 0; i < all.length; i += elementsPerTransactionMax)
    parts.push(all.slice(i, i + elementsPerTransactionMax))
  return parts
}

/**
 * @param datapath the kernel that commits go to, started; undefined: leases are kept, and nothing is enforced.
 * @param mayLead whether a name may still lead to an address: a lease that no answer would make now goes.
 * @param changed is told of what happens to leases: learned before the kernel has it, and revoked if it does not take it.
 * @param uses absent: no connection keeps a lease, and none is ended for one.
 * @param evicted is told of leases that went so that others had room, and of the bound that was met.
 * @param committed is told of each commit: how long it took, how many elements; `elements` is undefined when the kernel refused.
 */
export function makeKeeper(
  clock: Clock,
  limits: LeaseLimits,
  datapath: Datapath | undefined,
  mayLead: MayLead,
  committed: (seconds: number, elements: number | undefined) => void,
  changed: (how: LeaseChange, news: LeaseNews, why?: { readonly text: string }) => void = () => undefined,
  uses?: Uses,
  evicted: (limit: LeaseLimit, leases: number) => void = () => undefined,
): Keeper {
  const leases = makeLeases(clock, () => datapath?.epoch() ?? 0, limits, uses?.isInUse, randomInt(2 ** 32))
  const alarm = makeAlarm(clock, () => {
    uses?.hear()
    for (const lease of leases.expire()) changed('expired', newsOf(lease))
    for (const lease of leases.turned()) changed('zombie', newsOf(lease))
    void keepOn(leases.kept())
    owe(leases.leftBehind())
    void takeOut()
    return leases.nextDeadline()
  })
  /** Renews what zombies need. What the kernel refuses is tried again when all is settled: the leases say that it is to be there. */
  async function keepOn(elements: readonly LeaseElement[]): Promise<void> {
    if (elements.length > 0 && (await send(elements)) !== undefined) isOutdated = true
  }
  function takenBack(lease: Lease): void {
    changed('revoked', newsOf(lease))
    uses?.lost(lease)
  }
  /** Elements that must not stand in the kernel any more, by key. */
  const owed = new Map<string, Owed>()
  /** Of these, what the kernel is asked to take out, and has not answered. */
  const going = new Map<Owed, Promise<Error | undefined>>()
  /** What an earlier agent learned, by key. Which name opened it is not known here: it goes as soon as that may matter. */
  const adopted = new Map<string, Owed>()
  /** Something in the kernel stands longer than it should. */
  let isOutdated = false
  let trouble: string | undefined
  const cells = new WeakMap<SubjectPolicy['grantPorts'], Cells>()

  function cellsOf(policy: SubjectPolicy, ports: readonly Ports[]): readonly OpenPorts[] {
    let cut = cells.get(policy.grantPorts)
    if (cut === undefined) cells.set(policy.grantPorts, (cut = makeCells(policy.grantPorts)))
    return cut(ports)
  }
  /** What a lease opens to an identity under a snapshot. Nothing at an address of the cluster: labels decide about those, not names. */
  function portsOf(
    lease: Pick<Lease, 'name' | 'address'>,
    snapshot: Snapshot,
    identity: IdentityId,
  ): readonly OpenPorts[] {
    if (snapshot.isInCluster(lease.address)) return []
    const policy = snapshot.policyOf(identity)
    const wire = wireFromText(lease.name)
    if (wire === undefined) return []
    const grants = policy.grantsFor(labelsOf(wire))
    return !mayLead(wire, grants, lease.address) ? [] : cellsOf(policy, openedPorts(grants))
  }

  function learn({ grants, ...fact }: Fact, policy: SubjectPolicy): Learned {
    const ports = cellsOf(policy, openedPorts(grants))
    return learnAll({ ...fact, ports })
  }
  function learnAll(fact: LeaseFact): Learned {
    let learned = leases.learn(fact)
    if (learned.kind === 'full' && makeRoomFor(fact)) {
      learned = leases.learn(fact)
      // Before the commit of what was learned: the kernel's sets may be full too. What that asks for again is not owed any more.
      void takeOut()
    }
    alarm.arm(leases.nextDeadline())
    if (learned.kind === 'full') return learned
    const { ttlSeconds, fresh, renewed } = learned.changes
    const { identity, endpoint, name } = fact
    if (fresh.length > 0) changed('learned', { identity, endpoint, name, addresses: fresh, ttlSeconds })
    if (renewed.length > 0) changed('renewed', { identity, endpoint, name, addresses: renewed, ttlSeconds })
    return learned
  }

  /**
   * At a bound: what nobody relies on any more goes first. Its elements are owed to the kernel: removals and commits are taken in the order of asking,
   * so that whoever learns one of the addresses again has it written behind that.
   */
  function makeRoomFor(fact: LeaseFact): boolean {
    // Whoever has connected since the last look is not to lose the address.
    uses?.hear()
    const { evicted: all, remove: orphans } = leases.evict(fact)
    for (const { limit, leases: gone } of all) {
      for (const lease of gone) changed('evicted', newsOf(lease), { text: `its TTL was over: ${limit.text}` })
      evicted(limit, gone.length)
    }
    owe(orphans)
    return all.length > 0
  }

  function standsFor({ identity, name, addresses }: Fact): number {
    const assured = leases.assured(identity, name, addresses)
    if (assured === undefined || assured.epoch !== (datapath?.epoch() ?? 0)) return 0
    return Math.max(0, Math.floor((assured.tellUntil - clock()) / 1000))
  }

  async function commit(elements: readonly LeaseElement[]): Promise<void> {
    if (elements.length === 0) return
    const failed = await send(elements)
    if (failed === undefined) return
    const { dropped, remove: orphans } = leases.retract(failed.elements)
    for (const lease of dropped) changed('revoked', newsOf(lease))
    owe(orphans)
    throw failed.error
  }

  /** Sends the elements at once, in parts that the kernel takes whole or not at all; gives what it refused. */
  async function send(elements: readonly LeaseElement[]): Promise<Failed | undefined> {
    const startedAt = clock()
    leases.sending(elements)
    const failures = (await Promise.all(inParts(elements).map(sendPart))).filter((one) => one !== undefined)
    const [first] = failures
    committed((clock() - startedAt) / 1000, first === undefined ? elements.length : undefined)
    return first === undefined
      ? undefined
      : { elements: failures.flatMap((failed) => failed.elements), error: first.error }
  }
  async function sendPart(part: readonly LeaseElement[]): Promise<Failed | undefined> {
    let acknowledged: Acknowledged
    try {
      acknowledged = await toKernel(part)
    } catch (error) {
      leases.refused(part)
      return { elements: part, error: error as Error }
    }
    sayOutdated(leases.committed(part, acknowledged.sentAt, acknowledged.epoch))
    for (const element of adopted.size > 0 ? part : []) adopted.delete(keyOf(element))
    return undefined
  }
  const toKernel = (elements: readonly LeaseElement[]): Promise<Acknowledged> =>
    datapath === undefined ? Promise.resolve({ sentAt: clock(), epoch: 0 }) : datapath.commit(elements)

  /** What was acknowledged though its lease was dropped or cut meanwhile. */
  function sayOutdated(elements: readonly LeaseElement[]): void {
    if (elements.length === 0) return
    owe(elements)
    isOutdated = true
  }

  function owe(elements: readonly LeaseElement[]): void {
    for (const element of elements) owed.set(keyOf(element), { element, until: clock() + element.timeoutMillis })
  }

  /** What of these must still be taken out: a lease may have come to ask for it again, the kernel have let go of it by itself, or it is going. */
  function dueOf(keys: readonly string[]): Owed[] {
    return keys.flatMap((key) => {
      const one = owed.get(key)
      if (one === undefined || going.has(one)) return []
      if (leases.current(one.element) === undefined && one.until > clock()) return [one]
      owed.delete(key)
      return []
    })
  }

  async function settle(): Promise<void> {
    isOutdated = false
    // Ports of what is to go may overlap those of what is to come, and the kernel then refuses the latter.
    const errors = [...(await takeOut()), ...(await putIn())]
    trouble =
      errors[0] === undefined ? undefined : `${errors.length} elements are not as they should be: ${String(errors[0])}`
    if (errors[0] !== undefined) throw errors[0]
  }

  /**
   * Resolves when nothing is owed, with why something still is; never rejects. What is small is asked of the kernel at once. Of a part that is refused,
   * each element is tried alone: one bad one does not keep the others.
   */
  async function takeOut(): Promise<Error[]> {
    const underWay = new Set(going.values())
    const errors: (Error | undefined)[] = []
    for (const part of inParts([...owed.keys()])) {
      const error = await remove(dueOf(part))
      if (error !== undefined) errors.push(...(await Promise.all(dueOf(part).map((one) => remove([one])))))
    }
    errors.push(...(await Promise.all(underWay)))
    return errors.filter((error) => error !== undefined)
  }

  function remove(debts: readonly Owed[]): Promise<Error | undefined> {
    const removing = removeNow(debts).finally(() => debts.forEach((one) => going.delete(one)))
    for (const one of debts) going.set(one, removing)
    return removing
  }
  async function removeNow(debts: readonly Owed[]): Promise<Error | undefined> {
    try {
      await datapath?.remove(debts.map(({ element }) => element))
    } catch (error) {
      return error as Error
    }
    // What was learned and dropped again meanwhile was written behind this, and is owed anew.
    for (const one of debts) if (owed.get(keyOf(one.element)) === one) owed.delete(keyOf(one.element))
    return undefined
  }

  async function putIn(): Promise<Error[]> {
    const errors: Error[] = []
    for (const part of inParts(leases.lacking())) {
      // Leases come and go between the parts: what is sent is what is asked for now.
      const failed = await send(currentOf(part))
      if (failed === undefined) continue
      const alone = await Promise.all(currentOf(failed.elements).map((element) => send([element])))
      errors.push(...alone.flatMap((one) => one?.error ?? []))
    }
    return errors
  }
  const currentOf = (elements: readonly LeaseElement[]): LeaseElement[] =>
    elements.flatMap((element) => leases.current(element) ?? [])

  /** Copies leases from the old identities of workloads to the new ones, only those that the workload itself asked for. */
  function copyMoved(before: Snapshot, next: Snapshot, isTarget: (identity: IdentityId) => boolean): boolean {
    const old = new Map(before.endpoints.map(({ id, identity }) => [id, identity]))
    const moved = new Map(next.endpoints.filter(({ id, identity }) => old.has(id) && old.get(id) !== identity && isTarget(identity)).map(({ id, identity }) => [id, identity])) // prettier-ignore
    if (moved.size === 0) return false
    for (const lease of [...leases.list()])
      for (const endpoint of lease.askers) {
        const identity = moved.get(endpoint)
        if (identity === undefined || old.get(endpoint) !== lease.identity) continue
        const ports = portsOf(lease, next, identity)
        if (ports.length === 0) continue
        const { name, address, deadline } = lease
        const ttlSeconds = Math.max(0, (deadline - clock()) / 1000)
        // Where there is no room for it, the workload has to ask again.
        learnAll({ identity, endpoint, name, addresses: [address], ttlSeconds, ports })
      }
    return true
  }

  async function prepare(before: Snapshot, next: Snapshot): Promise<void> {
    if (!copyMoved(before, next, (identity) => !before.identities.has(identity))) return
    // What is refused is tried again when the policy is in force: a full set must not keep a new policy out.
    await settle().catch(() => undefined)
  }

  async function follow(before: Snapshot, next: Snapshot): Promise<void> {
    // An identity that others have already: its elements open to them too, so not before policy says that it may. Until these are written,
    // within milliseconds, the moved workload is refused: it is the other way round that an address would be open to whom it is not granted.
    copyMoved(before, next, () => true)
    const identities = new Map(next.endpoints.map(({ id, identity }) => [id, identity]))
    const { lost, remove: orphans } = leases.regrant(
      (lease) => portsOf(lease, next, lease.identity),
      (endpoint, identity) => identities.get(endpoint) === identity,
    )
    lost.forEach(takenBack)
    owe(orphans)
    const known = new Map<IdentityId, boolean>()
    // Only of those that something was learned for: of all identities it would be the work of a whole change.
    function isRegranted(id: IdentityId): boolean {
      let regranted = known.get(id)
      if (regranted === undefined) known.set(id, (regranted = next.policyOf(id).grantsText !== before.policyOf(id).grantsText)) // prettier-ignore
      return regranted
    }
    disown((element) => isNobodys(element, next) || isRegranted(element.identity))
    await settle()
  }

  async function adopt(snapshot: Snapshot, earlier: readonly EarlierLease[] = []): Promise<void> {
    const now = clock()
    // The kernel says in whole seconds what is left of them.
    for (const element of (await datapath?.learned()) ?? [])
      adopted.set(keyOf(element), { element, until: now + element.timeoutMillis + 1000 })
    restore(snapshot, earlier)
    disown((element) => isNobodys(element, snapshot))
    await settle()
  }

  /** Leases of an earlier agent: only at addresses that stand, for no longer than they stand, and only what policy grants now. */
  function restore(snapshot: Snapshot, earlier: readonly EarlierLease[]): void {
    const standing = new Map<string, Millis>()
    for (const { element, until } of adopted.values()) {
      const door = `${element.identity} ${element.address}`
      standing.set(door, Math.max(standing.get(door) ?? 0, until))
    }
    for (const { learnedAt: said, ...lease } of earlier) {
      const until = standing.get(`${lease.identity} ${lease.address}`)
      const ports = portsOf(lease, snapshot, lease.identity)
      if (until === undefined || ports.length === 0) continue
      // What was learned since is newer.
      if (leases.isLeasedAs(lease.identity, lease.name, lease.address)) continue
      // A wall clock that was set meanwhile prolongs nothing.
      const learnedAt = Math.min(said, clock())
      const stoodSeconds = Math.floor((until - learnedAt) / 1000) - limits.graceSeconds
      const ttlSeconds = Math.max(0, Math.min(lease.ttlSeconds, stoodSeconds))
      leases.restore({ ...lease, addresses: [lease.address], ttlSeconds, ports }, learnedAt)
    }
  }

  function disown(isOver: (element: LeaseElement) => boolean): void {
    for (const [key, held] of adopted) {
      if (held.until > clock() && !isOver(held.element)) continue
      adopted.delete(key)
      owed.set(key, held)
    }
  }

  async function clean(matches: (lease: Lease) => boolean): Promise<number> {
    const { dropped, remove: orphans } = leases.drop(matches)
    dropped.forEach(takenBack)
    owe(orphans)
    await settle()
    return dropped.length
  }

  return {
    leases,
    adopt,
    start: () => alarm.arm(leases.nextDeadline()),
    learn,
    standsFor,
    commit,
    prepare,
    follow,
    settle,
    isSettled: () => trouble === undefined && !isOutdated && owed.size === 0,
    needsSettling: () => trouble !== undefined || isOutdated || owed.size > going.size,
    trouble: () => trouble,
    clean,
    stop: alarm.stop,
  }
}
