// A lease as others see it: what it is learned from, what is said of it, and within which limits.
import type { Millis, Seconds } from '../clock.ts'
import type { LeaseElement, OpenPorts } from '../datapath/element.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { LeaseLimit } from './room.ts'

export interface LeaseLimits {
  /** Added to the TTL in the kernel: applications use an address a little longer than they were told. */
  readonly graceSeconds: Seconds
  readonly ttlMinSeconds: Seconds
  readonly ttlMaxSeconds: Seconds
  /** Addresses a name may have at a time for one identity. At this bound and the others room is made (`evict`), or the answer is refused. */
  readonly addressesPerNameMax: number
  /** How long a connection keeps an address open after TTL and grace; absent or 0: not at all. The connection itself goes on after that. */
  readonly zombieSecondsMax?: Seconds
  /** Leases in all, of which one identity may hold a quarter, and as many elements. */
  readonly leasesMax: number
  /** What they may take in memory, of which one identity may have a quarter; absent: only their number is bounded. */
  readonly octetsMax?: number
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
  | ({ readonly kind: 'full' } & LeaseLimit)

/**
 * What happens to a lease. `renewed`: it has a new deadline; `zombie`: its TTL and grace are over, and a connection keeps it; `evicted`: its TTL was
 * over, and others needed the room; `revoked`: policy, a person or a kernel that did not take it ended it before its time.
 */
export type LeaseChange = 'learned' | 'renewed' | 'zombie' | 'expired' | 'evicted' | 'revoked'

/** What went so that a fact has room, and at which bound. */
export interface Evicted {
  readonly limit: LeaseLimit
  readonly leases: readonly Lease[]
}

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

/** What the kernel surely holds of a name: until when, and with which TTLs, an answer may be told once more without `learn`. */
export interface Assured {
  /** No told TTL may reach beyond: the kernel holds everything so long, and the spare time after it. */
  readonly tellUntil: Millis
  readonly epoch: number
  /** The most that may be told, and the least: what is shorter than the shortest lease prolongs it whenever it is told. */
  readonly ttlSecondsMax: Seconds
  readonly ttlSecondsMin: Seconds
}
