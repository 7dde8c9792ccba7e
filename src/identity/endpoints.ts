// What enforcement is about: a workload with its addresses and the identity that its labels give it.
import type { Address } from '../net/address.ts'
import type { Labels } from './labels.ts'

/** The number of a label set; stable while the agent runs. 1-255 are reserved as in Cilium (1 host, 2 world); ours start at 256. */
export type IdentityId = number & { readonly brand?: 'IdentityId' }

export interface Identity {
  readonly id: IdentityId
  readonly labels: Labels
}

export interface Endpoint {
  /** Small number, stable while the agent runs, for people and the API. */
  readonly id: number
  readonly namespace: string
  readonly name: string
  readonly identity: IdentityId
  readonly labels: Labels
  readonly addresses: readonly Address[]
  /** Whether it lives on this machine, whose kernel then enforces its policy. True for all when no local node is configured. */
  readonly local: boolean
}
