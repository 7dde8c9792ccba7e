// Numbers by address: what a Map of the same says, for addresses that are in it and for their neighbours.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { addressFromNumber, type Address } from '../../../src/net/address.ts'
import { makeAddressTable, numberAt } from '../../../src/net/addressTable.ts'

const v4 = (number: number): Address => addressFromNumber(BigInt(number >>> 0), 4)
const v6 = (number: number): Address => addressFromNumber(BigInt(number >>> 0), 6)

test('it says what a Map says', () => {
  const low = fc.integer({ min: 0, max: 300 })
  const address = fc.oneof(
    low.map(v4),
    low.map((n) => v4(-1 - n)),
    fc.integer().map(v4),
    low.map(v6),
  )
  const number = fc.integer({ min: 0, max: 2 ** 31 - 2 })
  fc.assert(
    fc.property(fc.array(fc.tuple(address, number), { maxLength: 200 }), fc.array(address), (pairs, others) => {
      const map = new Map(pairs)
      const table = makeAddressTable(map)
      for (const each of [...map.keys(), ...others]) expect(numberAt(table, each)).toBe(map.get(each) ?? -1)
    }),
  )
})

test('20 000 addresses without order: those that meet in the hash stay apart', () => {
  const scattered = (i: number): Address => v4(Math.imul(i * i + 1, 977))
  const map = new Map(Array.from({ length: 20_000 }, (_, i) => [scattered(i), i] as const))
  const table = makeAddressTable(map)
  for (let i = 0; i < 40_000; i++) expect(numberAt(table, scattered(i))).toBe(map.get(scattered(i)) ?? -1)
})
