// Addresses that no public name should lead to: a name whose owner points it at them makes a workload connect to its own neighbourhood (DNS
// rebinding). IPv4 addresses hidden in IPv6 ones count as themselves: a translator or tunnel on the way takes them out again.
import { octetsOf, type Address } from './address.ts'

/** What kind of address it is, for people; `undefined` for a public one. */
export function specialKind(address: Address): string | undefined {
  const octets = octetsOf(address)
  return octets.length === 4 ? specialFour(octets, 0) : specialSix(octets)
}

/** Of the IANA registry "IPv4 Special-Purpose Address Space" what is not global, and metadata services at public addresses. */
function specialFour(octets: Uint8Array, at: number): string | undefined {
  const [a = 0, b = 0, c = 0, d = 0] = octets.subarray(at, at + 4)
  if (a === 0) return 'unspecified'
  if (a === 127) return 'loopback'
  if (a === 10 || (a === 172 && b >= 16 && b <= 31) || (a === 192 && b === 168)) return 'private'
  if (a === 169 && b === 254) return 'link-local'
  if (a === 100 && b >= 64 && b <= 127) return 'carrier NAT'
  // 192.0.0.0/24 holds protocol assignments and Oracle's metadata service; 168.63.129.16 is Azure's.
  if ((a === 192 && b === 0 && c === 0) || (a === 168 && b === 63 && c === 129 && d === 16)) return 'metadata'
  if (a >= 224) return a < 240 ? 'multicast' : 'reserved'
  return undefined
}

function specialSix(o: Uint8Array): string | undefined {
  const [a = 0, b = 0] = o
  const isZero = (from: number, to: number): boolean => o.subarray(from, to).every((octet) => octet === 0)
  if (isZero(0, 15)) return o[15] === 1 ? 'loopback' : o[15] === 0 ? 'unspecified' : 'reserved'
  if ((a & 0xfe) === 0xfc) return 'private'
  if (a === 0xfe && (b & 0xc0) === 0x80) return 'link-local'
  if (a === 0xfe && (b & 0xc0) === 0xc0) return 'private'
  if (a === 0xff) return 'multicast'
  for (const { what, at } of hiddenFours(o)) {
    const kind = specialFour(at, 0)
    if (kind !== undefined) return `${kind} in ${what}`
  }
  return undefined
}

/** The IPv4 addresses that an IPv6 address may stand for. */
function hiddenFours(o: Uint8Array): { readonly what: string; readonly at: Uint8Array }[] {
  const pick = (...places: number[]): Uint8Array => Uint8Array.from(places, (place) => o[place] ?? 0)
  const begins = (...octets: number[]): boolean => octets.every((octet, i) => o[i] === octet)
  const last = pick(12, 13, 14, 15)
  // IPv4-compatible and -mapped (RFC 4291 §2.5.5).
  if (o.subarray(0, 10).every((octet) => octet === 0)) return [{ what: 'IPv6', at: last }]
  if (begins(0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0)) return [{ what: 'NAT64', at: last }]
  // A prefix of one's own within 64:ff9b:1::/48 (RFC 8215), whose length we do not know: each of RFC 6052 §2.2 is tried. What begins with 0
  // there is but the zeros around another.
  if (begins(0, 0x64, 0xff, 0x9b, 0, 1))
    return [pick(6, 7, 9, 10), pick(7, 9, 10, 11), pick(9, 10, 11, 12), last]
      .filter((at) => at[0] !== 0)
      .map((at) => ({ what: 'NAT64', at }))
  if (begins(0x20, 0x02)) return [{ what: '6to4', at: pick(2, 3, 4, 5) }]
  // Teredo: the server, and the client's address inverted (RFC 4380 §4).
  if (begins(0x20, 0x01, 0, 0))
    return [
      { what: 'Teredo', at: pick(4, 5, 6, 7) },
      { what: 'Teredo', at: last.map((octet) => octet ^ 0xff) },
    ]
  // ISATAP's interface identifier (RFC 5214 §6.1), below any prefix.
  if (((o[8] ?? 0) & 0xfd) === 0 && o[9] === 0 && o[10] === 0x5e && o[11] === 0xfe)
    return [{ what: 'ISATAP', at: last }]
  return []
}
