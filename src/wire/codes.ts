// Numbers of the DNS standards that we speak of, from the IANA registry "Domain Name System (DNS) Parameters".

export const Rcode = {
  NoError: 0,
  FormErr: 1,
  ServFail: 2,
  NXDomain: 3,
  NotImp: 4,
  Refused: 5,
  BadVers: 16,
  BadCookie: 23,
} as const
export type Rcode = (typeof Rcode)[keyof typeof Rcode]

export const Type = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  DNAME: 39,
  OPT: 41,
  RRSIG: 46,
  SVCB: 64,
  HTTPS: 65,
  IXFR: 251,
  AXFR: 252,
  ANY: 255,
} as const

/** NONE and ANY are none that a record could have (RFC 2136 §1.3, RFC 1035 §3.2.5). */
export const Class = { IN: 1, CH: 3, HS: 4, NONE: 254, ANY: 255 } as const

/** Extended DNS error codes (RFC 8914 §4). */
export const Ede = {
  Other: 0,
  StaleAnswer: 3,
  NotReady: 14,
  Blocked: 15,
  Censored: 16,
  Filtered: 17,
  Prohibited: 18,
  StaleNXDomainAnswer: 19,
  NotSupported: 21,
  NoReachableAuthority: 22,
  NetworkError: 23,
  InvalidData: 24,
} as const
export type Ede = (typeof Ede)[keyof typeof Ede]

/** `A`, `AAAA`, …, or `TYPE99` (RFC 3597 §5). */
export function typeName(qtype: number): string {
  return typeNames.get(qtype) ?? `TYPE${qtype}`
}
const namesOf = (codes: Readonly<Record<string, number>>): ReadonlyMap<number, string> =>
  new Map(Object.entries(codes).map(([name, number]) => [number, name]))
const typeNames = namesOf(Type)
const classNames = namesOf(Class)
const rcodeNames = namesOf(Rcode)

/** `IN`, `CH`, or `CLASS99` (RFC 3597 §5). */
export function className(qclass: number): string {
  return classNames.get(qclass) ?? `CLASS${qclass}`
}

/** `NOERROR`, `REFUSED`, …, as dig prints them. */
export function rcodeName(rcode: number): string {
  return rcodeNames.get(rcode)?.toUpperCase() ?? `RCODE${rcode}`
}
