// The kernel's words about its own addresses as octets: which of a link's two ends is ours, and nothing that is cut or strange.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { askAddresses, readAddresses } from '../../../src/datapath/rtnetlink.ts'
import { addressFromText } from '../../../src/net/address.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const pad = (octets: readonly number[]): number[] => [...octets, ...new Array<number>((4 - (octets.length % 4)) % 4).fill(0)] // prettier-ignore
const attribute = (type: number, text: string): number[] => {
  const body = [...at(text)].map((c) => c.charCodeAt(0))
  return pad([body.length + 4, 0, type, 0, ...body])
}
/** RTM_NEWADDR (20), or another type, of a family (2, 10), with attributes. */
function message(type: number, family: number, ...attributes: readonly number[][]): Uint8Array {
  const body = [family, 24, 0, 0, 5, 0, 0, 0, ...attributes.flat()]
  return Uint8Array.from([body.length + 16, 0, 0, 0, type, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, ...body])
}
const read = (octets: Uint8Array, length = octets.length): unknown => readAddresses(octets, length)

const rows: { title: string; octets: Uint8Array; found: unknown[] }[] = [
  { title: 'IPv4', octets: message(20, 2, attribute(1, '10.1.0.1'), attribute(2, '10.1.0.1'), attribute(4, '10.1.0.255')), found: [{ kind: 'address', address: at('10.1.0.1') }] },
  { title: 'the other end first', octets: message(20, 2, attribute(1, '10.1.0.2'), attribute(2, '10.1.0.1')), found: [{ kind: 'address', address: at('10.1.0.1') }] },
  { title: 'the other end last', octets: message(20, 2, attribute(2, '10.1.0.1'), attribute(1, '10.1.0.2')), found: [{ kind: 'address', address: at('10.1.0.1') }] },
  { title: 'IPv6, which has one end', octets: message(20, 10, attribute(1, 'fd01::1')), found: [{ kind: 'address', address: at('fd01::1') }] },
  { title: 'an address that went', octets: message(21, 2, attribute(2, '10.1.0.1')), found: [] },
  { title: 'another family', octets: message(20, 28, attribute(2, '10.1.0.1')), found: [] },
  { title: 'an address of another length than its family', octets: message(20, 10, attribute(1, '10.1.0.1')), found: [] },
  { title: 'no address', octets: message(20, 2), found: [] },
  { title: 'the end', octets: Uint8Array.from([20, 0, 0, 0, 3, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), found: [{ kind: 'done', sequence: 7 }] },
  { title: 'an error', octets: Uint8Array.from([20, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]), found: [{ kind: 'error', sequence: 7, errno: 1 }] },
] // prettier-ignore
for (const { title, octets, found } of rows)
  test(title, () => {
    expect(read(octets)).toEqual(found)
    for (let length = 0; length < octets.length; length++) expect(read(octets, length)).toEqual([])
  })

test('several in one answer', () => {
  const [a, b] = [message(20, 2, attribute(2, '10.1.0.1')), message(20, 10, attribute(1, 'fd01::1'))]
  expect(read(Uint8Array.from([...a, ...b]))).toEqual(['10.1.0.1', 'fd01::1'].map((text) => ({ kind: 'address', address: at(text) }))) // prettier-ignore
})

test('no octets make the reader throw or run on', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (octets) => void read(octets)),
    { numRuns: 2000 },
  )
  const whole = message(20, 2, attribute(1, '10.1.0.2'), attribute(2, '10.1.0.1'))
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (place, octet) => {
      const octets = Uint8Array.from(whole)
      octets[place] = octet
      expect((read(octets) as unknown[]).length).toBeLessThanOrEqual(1)
    }),
    { numRuns: 2000 },
  )
})

test('the question fits where it is written', () => {
  expect(askAddresses(new Uint8Array(64), 1)).toBe(24)
})
