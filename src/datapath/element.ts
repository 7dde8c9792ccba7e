// One learned address as the kernel holds it: identity, address and what part of it is open, for how long.
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { Ports } from '../net/ports.ts'

/** What a lease can open: ports, or everything. Types of ICMP and other protocols without ports are no part of the learned sets. */
export type OpenPorts = Extract<Ports, { kind: 'all' | 'ports' }>

/** Ranges up to this many ports become single ports: a hash element each is cheaper, to look up and to commit, than one of an interval set. */
export const singlesMax = 16

export interface LeaseElement {
  readonly identity: IdentityId
  readonly address: Address
  readonly ports: OpenPorts
  /** From the commit on; at its end the kernel closes the door by itself. */
  readonly timeoutMillis: number
}

/** The sets that hold learned addresses: exact ports and "any" by hash, ranges of ports by interval tree. One each per family. */
export const learnedSets = [
  'learned4',
  'learned6',
  'learned_any4',
  'learned_any6',
  'learned_range4',
  'learned_range6',
] as const
export type LearnedSet = (typeof learnedSets)[number]

/** The set in which an element lives. */
export function setOf(element: Pick<LeaseElement, 'address' | 'ports'>): LearnedSet {
  const family = element.address.length === 4 ? '4' : '6'
  if (element.ports.kind === 'all') return `learned_any${family}`
  return element.ports.first === element.ports.last ? `learned${family}` : `learned_range${family}`
}
