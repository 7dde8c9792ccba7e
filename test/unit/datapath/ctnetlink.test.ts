// Connection tracking's messages as octets: what the kernel says is read, what is cut or strange is passed over.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { askConnections, deleteConnections, deletionOctetsMax, readConntrack, type Connection, type ConntrackMessage } from '../../../src/datapath/ctnetlink.ts' // prettier-ignore
import { addressFromText } from '../../../src/net/address.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const read = (octets: Uint8Array, length = octets.length): ConntrackMessage[] => {
  const messages: ConntrackMessage[] = []
  readConntrack(octets, length, (message) => messages.push(message))
  return messages
}

/** A message as Linux 6.18 sent it: tcp from 10.1.0.2:40000 to 10.96.0.1:443, translated to 198.18.0.1:8443, masqueraded as 10.3.0.1:50000. */
function message(type: number): Uint8Array {
  const attribute = (kind: number, body: readonly number[]): number[] => {
    const size = body.length + 4
    return [size & 255, size >> 8, kind & 255, kind >> 8, ...body, ...new Array<number>((4 - (size % 4)) % 4).fill(0)]
  }
  const tuple = (kind: number, source: number[], destination: number[], from: number, to: number): number[] =>
    attribute(0x8000 | kind, [
      ...attribute(0x8001, [...attribute(1, source), ...attribute(2, destination)]),
      ...attribute(0x8002, [...attribute(1, [6]), ...attribute(2, [from >> 8, from & 255]), ...attribute(3, [to >> 8, to & 255])]),
    ])
  const body = [
    ...tuple(1, [10, 1, 0, 2], [10, 96, 0, 1], 40000, 443),
    ...tuple(2, [198, 18, 0, 1], [10, 3, 0, 1], 8443, 50000),
    ...attribute(3, [0, 0, 1, 0x8e]),
    ...attribute(12, [1, 2, 3, 4]),
  ]
  const size = body.length + 20
  return Uint8Array.from([size & 255, size >> 8, 0, 0, type, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, ...body])
} // prettier-ignore

const connection: Connection = { protocol: 6, source: at('10.1.0.2'), sourcePort: 40000, destination: at('10.96.0.1'), destinationPort: 443, peer: at('198.18.0.1'), peerPort: 8443, back: at('10.3.0.1'), backPort: 50000, icmpType: undefined, id: 0x01020304, zone: 0 } // prettier-ignore

test('a connection that begins, and one that is over, as they were written and as they were translated', () => {
  expect(read(message(0))).toEqual([{ kind: 'begun', connection }])
  expect(read(message(2))).toEqual([{ kind: 'over', connection }])
})

test('the end of a list, an acknowledgement, an error', () => {
  const plain = (type: number, errno: number): Uint8Array =>
    Uint8Array.from([20, 0, 0, 0, type, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, errno === 0 ? 0 : 256 - errno, errno === 0 ? 0 : 255, errno === 0 ? 0 : 255, errno === 0 ? 0 : 255]) // prettier-ignore
  expect(read(plain(3, 0))).toEqual([{ kind: 'done', sequence: 7 }])
  expect(read(plain(2, 0))).toEqual([{ kind: 'error', sequence: 7, errno: 0 }])
  expect(read(plain(2, 2))).toEqual([{ kind: 'error', sequence: 7, errno: 2 }])
})

test('no octets make the reader throw or run on, and a message that is cut tells nothing', () => {
  const whole = message(0)
  for (let length = 0; length < whole.length; length++) expect(read(whole, length)).toEqual([])
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (octets) => void read(octets)),
    { numRuns: 2000 },
  )
  const changed = fc.tuple(fc.nat(whole.length - 1), fc.nat(255))
  fc.assert(
    fc.property(changed, ([place, octet]) => {
      const octets = Uint8Array.from(whole)
      octets[place] = octet
      expect(read(octets).length).toBeLessThanOrEqual(1)
    }),
    { numRuns: 2000 },
  )
})

test('requests fit the room that is said', () => {
  const octets = new Uint8Array(3 * deletionOctetsMax)
  expect(askConnections(octets, 1)).toBe(20)
  const six: Connection = { ...connection, source: at('2001:db8::1'), destination: at('2001:db8::2'), zone: 9 }
  const icmp: Connection = { ...six, protocol: 58, icmpType: 128, destinationPort: 0 }
  for (const each of [connection, six, icmp])
    expect(deleteConnections(octets, [each], 1)).toBeLessThanOrEqual(deletionOctetsMax)
  expect(deleteConnections(octets, [six, icmp, six], 1)).toBeLessThanOrEqual(octets.length)
})
