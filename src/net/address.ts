// IP addresses as their octets. An address is a string of 4 or 16 latin1 characters, one per octet: it is a Map key as it
// stands, costs no object, and within a family compares (`<`) as the number does. Text and numbers are made from it at the edges.
import ipaddr from 'ipaddr.js'

/** 4 octets (IPv4) or 16 octets (IPv6), one latin1 character each. IPv4-mapped IPv6 never appears: it is IPv4 (see `addressFromOctets`). */
export type Address = string & { readonly brand: 'Address' }
export type Family = 4 | 6

/** The family of an address. */
export function familyOf(address: Address): Family {
  return address.length === 4 ? 4 : 6
}

const MAPPED = '\0\0\0\0\0\0\0\0\0\0\xff\xff'

/**
 * The address in `octets[at, at + length)`; `length` is 4 or 16. ::ffff:a.b.c.d becomes a.b.c.d, since that is what
 * the kernel sends when a workload connects to it (RFC 4291 §2.5.5.2, RFC 4038 §4.2).
 */
export function addressFromOctets(octets: Uint8Array, at: number, length: 4 | 16): Address {
  let text = ''
  for (let i = at; i < at + length; i++) text += String.fromCharCode(octets[i] ?? 0)
  return (length === 16 && text.startsWith(MAPPED) ? text.slice(12) : text) as Address
}

/** The octets of an address, 4 or 16. */
export function octetsOf(address: Address): Uint8Array {
  return Uint8Array.from(address, (c) => c.charCodeAt(0))
}

/**
 * Parses an address as people and sockets write it: strict dotted quad or RFC 4291 text; a zone (`%eth0`) is cut off.
 * Octal, hexadecimal and short IPv4 forms are refused (`undefined`): they mean different things to different programs.
 */
export function addressFromText(text: string): Address | undefined {
  const percent = text.indexOf('%')
  const bare = percent < 0 ? text : text.slice(0, percent)
  if (ipaddr.IPv4.isValidFourPartDecimal(bare))
    return addressFromOctets(Uint8Array.from(ipaddr.IPv4.parse(bare).toByteArray()), 0, 4)
  if (!bare.includes(':') || !ipaddr.IPv6.isValid(bare)) return undefined
  return addressFromOctets(Uint8Array.from(ipaddr.IPv6.parse(bare).toByteArray()), 0, 16)
}

/** Canonical text: dotted quad, or RFC 5952. */
export function addressToText(address: Address): string {
  const octets = octetsOf(address)
  if (octets.length === 4) return octets.join('.')
  return ipaddr.fromByteArray([...octets]).toString()
}

/** The address as an unsigned number of its family's width. */
export function addressToNumber(address: Address): bigint {
  let number = 0n
  for (let i = 0; i < address.length; i++) number = (number << 8n) | BigInt(address.charCodeAt(i))
  return number
}

/** The address of `family` with that number; the number must fit the family. */
export function addressFromNumber(number: bigint, family: Family): Address {
  let text = ''
  for (let shift = family === 4 ? 24n : 120n; shift >= 0n; shift -= 8n)
    text += String.fromCharCode(Number((number >> shift) & 0xffn))
  return text as Address
}
