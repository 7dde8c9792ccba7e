// Tiny builders of DNS messages for tests: octets by hand, so that what is malformed can be written down too.

export interface Rr {
  readonly owner: string | number[]
  readonly type: number
  readonly ttl?: number
  readonly class?: number
  readonly data: number[]
}

export const A = 1
export const CNAME = 5
export const SOA = 6
export const TXT = 16
export const AAAA = 28
export const DNAME = 39
export const OPT = 41
export const RRSIG = 46
export const HTTPS = 65

export const u16 = (n: number): number[] => [(n >>> 8) & 0xff, n & 0xff]
export const u32 = (n: number): number[] => [...u16(n >>> 16), ...u16(n)]
export const pointer = (at: number): number[] => u16(0xc000 | at)

/** An uncompressed name; no escapes. '' or '.' is the root. */
export function nameOctets(name: string): number[] {
  const labels = name.split('.').filter(Boolean)
  return [...labels.flatMap((label) => [label.length, ...Buffer.from(label, 'latin1')]), 0]
}

export const a = (owner: Rr['owner'], ip: string, ttl = 300): Rr => ({
  owner,
  type: A,
  ttl,
  data: ip.split('.').map(Number),
})
/** `tail` is the last octet of 2001:db8::tail. */
export const aaaa = (owner: Rr['owner'], tail: number, ttl = 300): Rr => ({
  owner,
  type: AAAA,
  ttl,
  data: [0x20, 0x01, 0x0d, 0xb8, ...Array<number>(11).fill(0), tail],
})
export const cname = (owner: Rr['owner'], target: string, ttl = 300): Rr => ({
  owner,
  type: CNAME,
  ttl,
  data: nameOctets(target),
})
/** An HTTPS record: priority, target, and parameters as [key, octets] (RFC 9460 §2.2). */
export const https = (
  owner: Rr['owner'],
  target: string,
  params: [key: number, octets: number[]][],
  ttl = 300,
): Rr => ({
  owner,
  type: HTTPS,
  ttl,
  data: [
    ...u16(1),
    ...nameOctets(target),
    ...params.flatMap(([key, value]) => [...u16(key), ...u16(value.length), ...value]),
  ],
})
export const soa = (owner: string, ttl: number, minimum: number): Rr => ({
  owner,
  type: SOA,
  ttl,
  data: [...nameOctets('ns'), ...nameOctets('me'), ...[1, 2, 3, 4, minimum].flatMap(u32)],
})
export const opt = (
  udpOctets = 1232,
  {
    version = 0,
    dnssecOk = false,
    extendedRcode = 0,
    options = [],
  }: { version?: number; dnssecOk?: boolean; extendedRcode?: number; options?: [code: number, data: number[]][] } = {},
): Rr => ({
  owner: '.',
  type: OPT,
  class: udpOctets,
  ttl: ((extendedRcode << 24) | (version << 16) | (dnssecOk ? 0x8000 : 0)) >>> 0,
  data: options.flatMap(([code, data]) => [...u16(code), ...u16(data.length), ...data]),
})

export interface Parts {
  readonly id?: number
  /** The two octets of flags: 0x0100 is RD, 0x8000 QR, 0x0200 TC. */
  readonly flags?: number
  readonly name?: string
  readonly type?: number
  readonly class?: number
  readonly answers?: readonly Rr[]
  readonly authorities?: readonly Rr[]
  readonly additionals?: readonly Rr[]
  /** QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT where they lie. */
  readonly counts?: readonly [number, number, number, number]
}

export function message(parts: Parts): Uint8Array {
  const { answers = [], authorities = [], additionals = [] } = parts
  const counts = parts.counts ?? [1, answers.length, authorities.length, additionals.length]
  return Uint8Array.from([
    ...u16(parts.id ?? 0x1234),
    ...u16(parts.flags ?? 0x0100),
    ...counts.flatMap(u16),
    ...nameOctets(parts.name ?? 'api.example.com'),
    ...u16(parts.type ?? A),
    ...u16(parts.class ?? 1),
    ...[...answers, ...authorities, ...additionals].flatMap(record),
  ])
}

export const query = (parts: Parts = {}): Uint8Array => message({ flags: 0x0100, ...parts })
/** An answer of a recursive server: QR, RD, RA. */
export const response = (parts: Parts = {}): Uint8Array => message({ flags: 0x8180, ...parts })

function record(rr: Rr): number[] {
  const owner = typeof rr.owner === 'string' ? nameOctets(rr.owner) : rr.owner
  return [...owner, ...u16(rr.type), ...u16(rr.class ?? 1), ...u32(rr.ttl ?? 300), ...u16(rr.data.length), ...rr.data]
}
