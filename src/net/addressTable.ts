// Numbers by address, for whoever asks millions of times a second: an open hash of 32-bit numbers costs one cache line a look-up, where a Map
// costs three (bucket, entry, and the string that it compares with). A record and functions over it: of closures the engine compiles something
// more general as soon as there are two.
import type { Address } from './address.ts'

export interface AddressTable {
  /** IPv4 addresses and their numbers plus one, in pairs; the latter 0 where nothing is. */
  readonly slots: Int32Array
  readonly mask: number
  /** IPv6. */
  readonly others: ReadonlyMap<Address, number>
}

/** @param numbers at least 0 and below 2^31 - 1. */
export function makeAddressTable(numbers: ReadonlyMap<Address, number>): AddressTable {
  const others = new Map<Address, number>()
  let size = 16
  while (size < numbers.size * 2) size *= 2
  const slots = new Int32Array(size * 2)
  const mask = size - 1
  for (const [address, number] of numbers) {
    if (address.length !== 4) {
      others.set(address, number)
      continue
    }
    const at = slotOf(slots, mask, bitsOf(address))
    slots[at] = bitsOf(address)
    slots[at + 1] = number + 1
  }
  return { slots, mask, others }
}

/** The number of an address; -1 when it has none. */
export function numberAt({ slots, mask, others }: AddressTable, address: Address): number {
  if (address.length !== 4) return others.get(address) ?? -1
  return (slots[slotOf(slots, mask, bitsOf(address)) + 1] ?? 0) - 1
}

/** Where an address stands, or would. */
function slotOf(slots: Int32Array, mask: number, bits: number): number {
  // Fibonacci hashing: neighbours are far apart.
  let i = (Math.imul(bits, 0x9e3779b1) >>> 11) & mask
  while (slots[i * 2 + 1] !== 0 && slots[i * 2] !== bits) i = (i + 1) & mask
  return i * 2
}

function bitsOf(address: Address): number {
  return (address.charCodeAt(0) << 24) | (address.charCodeAt(1) << 16) | (address.charCodeAt(2) << 8) | address.charCodeAt(3) // prettier-ignore
}
