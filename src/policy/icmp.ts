// `icmps` of a rule: types of ICMP by number or by Cilium's names for them.
import type { Family } from '../net/address.ts'
import type { Ports } from '../net/ports.ts'
import { didYouMean, isAbsent, readList, readMap, readWord, type Field, type Report } from './field.ts'

/** Cilium's names; ICMP's own registry has more types than names here. */
const types: Readonly<Record<Family, Readonly<Record<string, number>>>> = {
  4: {
    EchoReply: 0,
    DestinationUnreachable: 3,
    Redirect: 5,
    Echo: 8,
    EchoRequest: 8,
    RouterAdvertisement: 9,
    RouterSelection: 10,
    TimeExceeded: 11,
    ParameterProblem: 12,
    Timestamp: 13,
    TimestampReply: 14,
    Photuris: 40,
    ExtendedEchoRequest: 42,
    ExtendedEchoReply: 43,
  },
  6: {
    DestinationUnreachable: 1,
    PacketTooBig: 2,
    TimeExceeded: 3,
    ParameterProblem: 4,
    EchoRequest: 128,
    EchoReply: 129,
    MulticastListenerQuery: 130,
    MulticastListenerReport: 131,
    MulticastListenerDone: 132,
    RouterSolicitation: 133,
    RouterAdvertisement: 134,
    NeighborSolicitation: 135,
    NeighborAdvertisement: 136,
    RedirectMessage: 137,
    RouterRenumbering: 138,
    ICMPNodeInformationQuery: 139,
    ICMPNodeInformationResponse: 140,
    InverseNeighborDiscoverySolicitation: 141,
    InverseNeighborDiscoveryAdvertisement: 142,
    HomeAgentAddressDiscoveryRequest: 144,
    HomeAgentAddressDiscoveryReply: 145,
    MobilePrefixSolicitation: 146,
    MobilePrefixAdvertisement: 147,
    DuplicateAddressRequestCodeSuffix: 157,
    DuplicateAddressConfirmationCodeSuffix: 158,
    ExtendedEchoRequest: 160,
    ExtendedEchoReply: 161,
  },
}

/** The number of a type by Cilium's name for it. */
export function icmpTypeOf(family: Family, name: string): number | undefined {
  return Object.hasOwn(types[family], name) ? types[family][name] : undefined
}

/** Cilium's limit for one item of `icmps`. */
const fieldsMax = 40

/** The types of one item of `icmps`; [] when it contributes nothing. */
export function parseIcmp(report: Report, field: Field): Ports[] {
  const list = readMap(report, field, ['fields']).get('fields')
  const items = readList(report, list)
  if (items.length > fieldsMax) report.error(list ?? field, `too many types, the max is ${fieldsMax}`)
  return items.flatMap((item) => parseType(report, item) ?? [])
}

function parseType(report: Report, field: Field): Ports | undefined {
  const fields = readMap(report, field, ['family', 'type'])
  const [given, type] = [fields.get('family'), fields.get('type')]
  const word = isAbsent(given) ? 'IPv4' : readFamily(report, given)
  if (isAbsent(type)) report.error(field, 'type: Required value')
  if (isAbsent(type) || word === undefined) return undefined
  const family = word === 'IPv6' ? 6 : 4
  if (type.kind !== 'scalar' || (typeof type.value !== 'number' && typeof type.value !== 'string')) {
    report.error(type, 'must be a number or a name of an ICMP type')
    return undefined
  }
  const number = typeof type.value === 'number' ? type.value : (icmpTypeOf(family, type.value) ?? numberOf(type.value))
  if (number === undefined) {
    const name = String(type.value)
    report.error(type, `ICMP type ${name} not found in ${word}${didYouMean(name, Object.keys(types[family]))}`)
    return undefined
  }
  if (!Number.isInteger(number) || number < 0 || number > 255) {
    report.error(type, `an ICMP type is 0 to 255, not ${number}`)
    return undefined
  }
  return { kind: 'icmp', family, type: number }
}

function readFamily(report: Report, field: Field): 'IPv4' | 'IPv6' | undefined {
  if (field.kind !== 'scalar' || typeof field.value !== 'string') return readWord(report, field, ['IPv4', 'IPv6'])
  if (field.value === 'IPv4' || field.value === 'IPv6') return field.value
  report.error(field, `wrong family: ${field.value}${didYouMean(field.value, ['IPv4', 'IPv6'])}`)
  return undefined
}

const numberOf = (text: string): number | undefined =>
  text !== '' && text.length <= 3 && [...text].every((c) => c >= '0' && c <= '9') ? Number(text) : undefined
