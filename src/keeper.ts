// Keeps leases and kernel together: what is learned is committed, what policy no longer grants is removed, what a workload with new labels
// still holds goes with it. The table of leases is pure and the datapath knows no names; this is where the two meet.
import { makeAlarm } from './alarm.ts'
import type { Clock } from './clock.ts'
import type { Datapath } from './datapath/datapath.ts'
import type { LeaseElement } from './datapath/element.ts'
import type { IdentityId } from './identity/endpoints.ts'
import { makeCells, type Cells } from './leases/cells.ts'
import { makeLeases, type Lease, type LeaseLimits, type LeaseTable, type Learned } from './leases/leases.ts'
import { portsToText, type Ports } from './net/ports.ts'
import type { EgressPolicy, Snapshot } from './policy/egress.ts'
import type { Fact } from './proxy/handle.ts'
import { labelsOf, wireFromText } from './wire/name.ts'

export interface Keeper {
  readonly leases: LeaseTable
  /** Records what an answer taught; the elements must be committed before it leaves. */
  readonly learn: (fact: Fact, policy: EgressPolicy) => Learned
  /** Resolves when the kernel has acknowledged; rejects with its error. */
  readonly commit: (elements: readonly LeaseElement[]) => Promise<void>
  /** Before the kernel learns of new identities: leases follow workloads whose labels changed, as far as their new policy grants them. */
  readonly move: (before: Snapshot, next: Snapshot) => Promise<void>
  /** After the kernel holds a new policy: leases and learned addresses are made what it grants. */
  readonly follow: (before: Snapshot, next: Snapshot) => Promise<void>
  /** Writes every element anew, where somebody may have taken them out. */
  readonly recommit: () => Promise<void>
  /** Takes leases out of table and kernel; new packets obey when it resolves. */
  readonly clean: (matches: (lease: Lease) => boolean) => Promise<number>
  readonly stop: () => void
}

/**
 * @param datapath the kernel that commits go to, started; undefined: leases are kept, and nothing is enforced.
 * @param committed is told of each commit: how long it took, how many elements; `elements` is undefined when the kernel refused.
 */
export function makeKeeper(
  clock: Clock,
  limits: LeaseLimits,
  datapath: Datapath | undefined,
  committed: (seconds: number, elements: number | undefined) => void,
): Keeper {
  const leases = makeLeases(clock, () => datapath?.epoch() ?? 0, limits)
  const alarm = makeAlarm(clock, () => {
    leases.expire()
    return leases.nextDeadline()
  })
  const cells = new WeakMap<EgressPolicy['grantPorts'], Cells>()

  function cellsOf(policy: EgressPolicy, ports: readonly Ports[]): readonly Ports[] {
    let cut = cells.get(policy.grantPorts)
    if (cut === undefined) cells.set(policy.grantPorts, (cut = makeCells(policy.grantPorts)))
    return cut(ports)
  }
  function portsOf(lease: Lease, policy: EgressPolicy): readonly Ports[] {
    const wire = wireFromText(lease.name)
    const grants = wire === undefined ? [] : policy.grantsFor(labelsOf(wire))
    return cellsOf(
      policy,
      grants.map((grant) => grant.ports),
    )
  }

  function learn({ grants, ...fact }: Fact, policy: EgressPolicy): Learned {
    const ports = cellsOf(
      policy,
      grants.map((grant) => grant.ports),
    )
    const learned = leases.learn({ ...fact, ports })
    alarm.arm(leases.nextDeadline())
    return learned
  }

  async function commit(elements: readonly LeaseElement[]): Promise<void> {
    if (elements.length === 0) return
    const startedAt = clock()
    try {
      const { sentAt, epoch } =
        datapath === undefined ? { sentAt: startedAt, epoch: 0 } : await datapath.commit(elements)
      leases.committed(elements, sentAt, epoch)
    } catch (error) {
      committed((clock() - startedAt) / 1000, undefined)
      throw error
    }
    committed((clock() - startedAt) / 1000, elements.length)
  }

  async function move(before: Snapshot, next: Snapshot): Promise<void> {
    const identities = new Map(before.endpoints.map((endpoint) => [endpoint.id, endpoint.identity]))
    const moves = new Map<string, readonly [from: IdentityId, to: IdentityId]>()
    for (const { id, identity } of next.endpoints) {
      const from = identities.get(id)
      if (from !== undefined && from !== identity) moves.set(`${from} ${identity}`, [from, identity])
    }
    for (const [from, to] of moves.values())
      for (const lease of [...leases.list()].filter((held) => held.identity === from)) {
        const ports = portsOf(lease, next.policyOf(to))
        if (ports.length === 0) continue
        const ttlSeconds = Math.max(0, (lease.deadline - clock()) / 1000)
        const learned = leases.learn({ ...lease, identity: to, addresses: [lease.address], ttlSeconds, ports })
        if (learned.kind === 'learned') await commit(learned.elements)
      }
    alarm.arm(leases.nextDeadline())
  }

  async function follow(before: Snapshot, next: Snapshot): Promise<void> {
    const { add, remove } = leases.regrant((lease) => portsOf(lease, next.policyOf(lease.identity)))
    await datapath?.remove(remove)
    await commit(add)
    const isRegranted = (id: IdentityId): boolean => next.policyOf(id).grantsText !== before.policyOf(id).grantsText
    const regranted = new Set([...next.identities.keys()].filter(isRegranted))
    if (regranted.size > 0) await removeStrays(regranted)
  }

  /** Takes out what an earlier agent learned for these identities: which name opened it is not known here, so neither is whether it still may. */
  async function removeStrays(identities: ReadonlySet<IdentityId>): Promise<void> {
    if (datapath === undefined) return
    const keyOf = ({ identity, address, ports }: LeaseElement): string => `${identity} ${address} ${portsToText(ports)}`
    const standing = await datapath.learned()
    const ours = new Set(leases.elements().map(keyOf))
    await datapath.remove(standing.filter((element) => identities.has(element.identity) && !ours.has(keyOf(element))))
  }

  async function clean(matches: (lease: Lease) => boolean): Promise<number> {
    const { dropped, remove } = leases.drop(matches)
    await datapath?.remove(remove)
    return dropped.length
  }

  return {
    leases,
    learn,
    commit,
    move,
    follow,
    recommit: () => commit(leases.elements()),
    clean,
    stop: alarm.stop,
  }
}
