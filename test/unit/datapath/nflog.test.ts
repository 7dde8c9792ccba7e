// Messages of nfnetlink_log: what is read of packets, that nothing makes the reading throw, and that what is missing is counted.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bindGroup, readLogged } from '../../../src/datapath/nflog.ts'
import { listenToKernel } from '../../../src/observe/kernel.ts'
import { addressToText } from '../../../src/net/address.ts'

const pad = (octets: number[]): number[] => [...octets, ...Array<number>((4 - (octets.length % 4)) % 4).fill(0)]
const attribute = (type: number, value: number[]): number[] => pad([(4 + value.length) & 0xff, (4 + value.length) >> 8, type, 0, ...value]) // prettier-ignore
const text = (value: string): number[] => [...Buffer.from(value), 0]
const tcp4 = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 1, 0, 2, 198, 18, 0, 20, 0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0] // prettier-ignore
const of6 = (next: number, rest: number[]): number[] => [0x60, 0, 0, 0, 0, rest.length, next, 64, ...Array<number>(15).fill(0), 1, ...Array<number>(15).fill(0), 2, ...rest] // prettier-ignore
function message(sequence: number, packet: number[], prefix = 'denied egress'): number[] {
  const body = [2, 0, 0x10, 0x94, ...attribute(10, text(prefix)), ...attribute(9, packet), ...attribute(12, [0, 0, 0, sequence])] // prettier-ignore
  const size = 16 + body.length
  return [size & 0xff, size >> 8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...body]
}
const read = (octets: number[]): ReturnType<typeof readLogged> => readLogged(Uint8Array.from(octets), octets.length)

describe('nflog', () => {
  test('TCP over IPv4', () => {
    const [logged] = read(message(7, tcp4))
    expect(logged).toMatchObject({ prefix: 'denied egress', sequence: 7, protocol: 6, sourcePort: 40000, destinationPort: 443, tcpFlags: 2, icmp: undefined }) // prettier-ignore
    expect([logged?.source, logged?.destination].map((address) => address && addressToText(address))).toEqual(['10.1.0.2', '198.18.0.20']) // prettier-ignore
  })
  const cases: readonly (readonly [string, number[], object])[] = [
    ['UDP over IPv6', of6(17, [0, 53, 0, 54, 0, 8, 0, 0]), { protocol: 17, sourcePort: 53, destinationPort: 54, tcpFlags: undefined }],
    ['behind a hop-by-hop header', of6(0, [17, 0, 0, 0, 0, 0, 0, 0, 0, 53, 0, 54, 0, 8, 0, 0]), { protocol: 17, destinationPort: 54 }],
    ['a later fragment has no ports', of6(44, [17, 0, 0, 8, 0, 0, 0, 0, 0, 53, 0, 54]), { protocol: 17, destinationPort: undefined }],
    ['ICMPv6', of6(58, [128, 0, 0, 0]), { protocol: 58, icmp: { type: 128, code: 0 }, destinationPort: undefined }],
    ['cut off behind its addresses', tcp4.slice(0, 20), { protocol: 6, destinationPort: undefined, tcpFlags: undefined }],
    ['a later fragment of IPv4', [...tcp4.slice(0, 6), 0, 8, ...tcp4.slice(8)], { protocol: 6, destinationPort: undefined }],
  ] // prettier-ignore
  for (const [name, packet, expected] of cases)
    test(name, () => expect(read(message(1, packet))).toMatchObject([expected]))

  test('several messages in one reading', () => {
    expect(read([...message(1, tcp4), ...message(2, tcp4)]).map(({ sequence }) => sequence)).toEqual([1, 2])
  })
  test('nothing makes it throw', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (octets) => void readLogged(octets, octets.length)))
    const whole = message(1, tcp4)
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(255), fc.nat(whole.length), (at, value, length) => {
        const changed = Uint8Array.from(whole)
        changed[at] = value
        readLogged(changed, length)
      }),
    )
  })
  test('what is missing between two numbers is counted', () => {
    const ack = [36, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, ...Array<number>(20).fill(0)]
    const waiting = [ack, message(1, tcp4), [...message(2, tcp4), ...message(6, tcp4)]]
    const sent: number[] = []
    const seen: (number | string)[] = []
    const flows = listenToKernel(
      {
        send: (_request, length) => void sent.push(length),
        sendAside: () => Promise.resolve(),
        receive: (answer) => {
          const next = waiting.shift() ?? []
          answer.set(next)
          return next.length
        },
        close: () => void seen.push('closed'),
      },
      4244,
      ({ sequence }) => void seen.push(sequence),
      (count) => void seen.push(`lost ${count}`),
    )
    flows.poll()
    flows.close()
    expect(sent).toEqual([bindGroup(new Uint8Array(256), 4244, 1)])
    expect(seen).toEqual([1, 2, 'lost 3', 6, 'closed'])
  })
})
