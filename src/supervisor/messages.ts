// What the supervisor and its workers say to each other. Both ends are of one installation, but after an upgrade not of one version: a worker
// must understand the supervisor that was started before it.
import type { Ended } from '../agent.ts'
import type { Dialect } from '../datapath/nfnetlink.ts'
import type { Origin } from '../warm.ts'

/** A policy that the kernel holds. */
export interface Held {
  readonly origin: Origin
  /** Of the version and settings that it was compiled by: by others it may come out as something else. */
  readonly fingerprint: string
  /** What this kernel understands; an older worker does not say. */
  readonly dialect?: Dialect | undefined
}

export type Restarts = Readonly<Record<Ended, number>>

export type ToWorker =
  /** What to have ready; nothing: what lies on the disk. */
  | { readonly kind: 'prepare'; readonly serial: number; readonly held: Held | undefined }
  /** Take over. `serial`: of what the kernel holds, where that is known. */
  | { readonly kind: 'go'; readonly serial: number | undefined; readonly restarts: Restarts }
  | { readonly kind: 'reload' }
  /** Another was to take over from it, and does not. */
  | { readonly kind: 'stay'; readonly why: string }
  /** Answer what is in hand, and end. */
  | { readonly kind: 'end' }

export type FromWorker =
  /** It could take over now. */
  | { readonly kind: 'warm' }
  | { readonly kind: 'answering' }
  /** It was told to end, answers nobody any more and has let go of the kernel: what is left of it is to exit. */
  | { readonly kind: 'released' }
  /** Another is to take over, of the code and configuration on disk. */
  | { readonly kind: 'replace' }
  | { readonly kind: 'changing' }
  | { readonly kind: 'inForce'; readonly held: Held }

/** How a worker is started: the first tells what is wrong as `namegate agent` always did; the others wait until they are needed. */
export type Role = 'first' | 'standby'

/** What a worker is started with, as JSON in its first argument. */
export interface WorkerStart {
  readonly role: Role
  readonly configFile: string
  readonly version: string
  readonly sockets: readonly SharedSockets[]
}

/** The sockets of one listener, bound to `address`, by descriptors of the process that is told of them. */
export interface SharedSockets {
  readonly family: 4 | 6
  readonly address: string
  readonly port: number
  readonly udpFd: number
  readonly tcpFd: number
}
