// Who looks for resolvers that we do not see: said once an hour for each, counted each time.
import { beforeEach, expect, test } from 'vitest'
import { makeBypassWatch, type BypassWatch } from '../../src/bypass.ts'
import type { Endpoint } from '../../src/identity/endpoints.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const endpoint = (id: number): Endpoint => ({ id, namespace: 'default', name: `pod${id}`, identity: 256, labels: new Map(), addresses: [at(`10.0.0.${id}`)], local: true }) // prettier-ignore
const [one, two] = [endpoint(1), endpoint(2)]
const endpointOf = (address: Address): Endpoint | undefined => [one, two].find(({ addresses }) => addresses.includes(address)) // prettier-ignore
const attempt = (source: string, address: string, packets: number) => ({ source: at(source), address: at(address), packets }) // prettier-ignore

let now: number
let said: string[]
let counted: Record<string, number>
let watch: BypassWatch
beforeEach(() => {
  now = 0
  said = []
  counted = { name: 0, port: 0 }
  watch = makeBypassWatch(
    () => now,
    ({ name }, text) => void said.push(`${name} ${text.replace(/,.*/, '')}`),
    (way, times) => (counted[way] = (counted[way] ?? 0) + times),
  )
})

test('questions: said once an hour, for each endpoint', () => {
  watch.asked(one, 'dns.google', 'answered')
  watch.asked(one, 'dns.quad9.net', 'refused')
  watch.asked(two, 'dns.google', 'answered')
  now = 3_599_999
  watch.asked(one, 'dns.google', 'answered')
  now = 3_600_000
  watch.asked(one, 'dns.google', 'answered')
  expect(said).toEqual(['pod1 asks for dns.google', 'pod2 asks for dns.google', 'pod1 asks for dns.google'])
  expect(counted).toEqual({ name: 5, port: 0 })
})

test('attempts: only what is new since the last look counts', () => {
  watch.tried([attempt('10.0.0.1', '1.1.1.1', 2), attempt('10.0.0.9', '1.1.1.1', 7)], endpointOf)
  watch.tried([attempt('10.0.0.1', '1.1.1.1', 2)], endpointOf)
  expect([said, counted]).toEqual([['pod1 tries 1.1.1.1 port 853 (DNS over TLS)'], { name: 0, port: 2 }])
  now = 3_600_000
  watch.tried([attempt('10.0.0.1', '1.1.1.1', 2)], endpointOf)
  expect(said, 'an old attempt is no new one').toHaveLength(1)
  watch.tried([attempt('10.0.0.1', '1.1.1.1', 3), attempt('10.0.0.1', '8.8.8.8', 1)], endpointOf)
  expect([said.length, counted['port']]).toEqual([2, 4])
  watch.tried([], endpointOf)
  watch.tried([attempt('10.0.0.1', '1.1.1.1', 1)], endpointOf)
  expect(counted['port'], 'forgotten by the kernel and counted anew').toBe(5)
})

test('the bound: 16 384 are remembered, the first goes', () => {
  for (let id = 0; id <= 16_384; id++) watch.asked({ ...one, id }, 'dns.google', 'answered')
  watch.asked({ ...one, id: 16_384 }, 'dns.google', 'answered')
  expect(said).toHaveLength(16_385)
  watch.asked({ ...one, id: 0 }, 'dns.google', 'answered')
  expect(said).toHaveLength(16_386)
})
