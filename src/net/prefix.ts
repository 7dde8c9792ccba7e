// Prefixes (CIDR) and ranges of addresses as numbers, and the interval arithmetic that compiling policy needs.
import {
  addressFromNumber,
  addressFromText,
  addressToNumber,
  addressToText,
  familyOf,
  type Address,
  type Family,
} from './address.ts'

/** All addresses from `first` to `last`, both included, of one family. */
export interface AddressRange {
  readonly family: Family
  readonly first: bigint
  readonly last: bigint
}

/** The range that holds every address of a family. */
export const everyAddress: Readonly<Record<Family, AddressRange>> = {
  4: { family: 4, first: 0n, last: (1n << 32n) - 1n },
  6: { family: 6, first: 0n, last: (1n << 128n) - 1n },
}

/**
 * Parses `ADDRESS/BITS`, or a bare address as a full-length prefix. Host bits may be set, as Cilium and the kernel's routes allow;
 * they are ignored. `undefined` when it is neither.
 */
export function prefixFromText(text: string): AddressRange | undefined {
  const slash = text.indexOf('/')
  const address = addressFromText(slash < 0 ? text : text.slice(0, slash))
  if (address === undefined) return undefined
  const width = familyOf(address) === 4 ? 32 : 128
  const digits = slash < 0 ? String(width) : text.slice(slash + 1)
  if (digits.length === 0 || digits.length > 3 || [...digits].some((d) => d < '0' || d > '9')) return undefined
  const bits = Number(digits)
  if (bits > width) return undefined
  const host = (1n << BigInt(width - bits)) - 1n
  const number = addressToNumber(address)
  return { family: familyOf(address), first: number & ~host, last: number | host }
}

/** The range of exactly one address. */
export function rangeOf(address: Address): AddressRange {
  const number = addressToNumber(address)
  return { family: familyOf(address), first: number, last: number }
}

/** Whether the range holds the address. */
export function rangeCovers(range: AddressRange, address: Address): boolean {
  if (range.family !== familyOf(address)) return false
  const number = addressToNumber(address)
  return range.first <= number && number <= range.last
}

/** What is left of `ranges` without every address of `without`; sorted, disjoint, adjacent ranges joined. */
export function subtractRanges(ranges: readonly AddressRange[], without: readonly AddressRange[]): AddressRange[] {
  const holes = joinRanges(without)
  const left: AddressRange[] = []
  for (const range of joinRanges(ranges)) {
    let first = range.first
    for (const hole of holes) {
      if (hole.family !== range.family || hole.last < first || hole.first > range.last) continue
      if (hole.first > first) left.push({ family: range.family, first, last: hole.first - 1n })
      first = hole.last + 1n
    }
    if (first <= range.last) left.push({ family: range.family, first, last: range.last })
  }
  return left
}

/** The same addresses as sorted, disjoint ranges with adjacent ones joined; IPv4 before IPv6. */
export function joinRanges(ranges: readonly AddressRange[]): AddressRange[] {
  const sorted = [...ranges].sort((a, b) => a.family - b.family || (a.first < b.first ? -1 : a.first > b.first ? 1 : 0))
  const joined: AddressRange[] = []
  for (const range of sorted) {
    const before = joined.at(-1)
    if (before === undefined || before.family !== range.family || range.first > before.last + 1n) joined.push(range)
    else if (range.last > before.last) joined[joined.length - 1] = { ...before, last: range.last }
  }
  return joined
}

/** `10.0.0.0/8` where the range is one prefix, else `first-last`. */
export function rangeToText(range: AddressRange): string {
  const first = addressToText(addressFromNumber(range.first, range.family))
  const size = range.last - range.first + 1n
  const isPrefix = (size & (size - 1n)) === 0n && range.first % size === 0n
  const width = range.family === 4 ? 32 : 128
  if (size === 1n) return first
  if (isPrefix) return `${first}/${width - (size.toString(2).length - 1)}`
  return `${first}-${addressToText(addressFromNumber(range.last, range.family))}`
}
