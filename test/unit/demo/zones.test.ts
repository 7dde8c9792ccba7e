// Zone files and lookups in them.
import { expect, test } from 'vitest'
import { lookUp, makeZones, parseZone, readZones } from '../../../src/demo/zones.ts'

const zone = `$ORIGIN Example.com.
$TTL 300
@ IN SOA ns1 hostmaster ( 1 2 ; serial
   3 4 60 )
www 60 IN CNAME api ; alias
api A 198.18.0.1
    AAAA 2001:db8::1
deep.er IN TXT "a;b" c
`
const zones = makeZones(parseZone(zone, 'z'))

test('records', () => {
  expect(
    parseZone(zone, 'z').map(({ name, type, ttlSeconds, data }) => [name, type, ttlSeconds, data.join('|')]),
  ).toEqual([
    ['example.com', 'SOA', 300, 'ns1.example.com|hostmaster.example.com|1|2|3|4|60'],
    ['www.example.com', 'CNAME', 60, 'api.example.com'],
    ['api.example.com', 'A', 300, '198.18.0.1'],
    ['api.example.com', 'AAAA', 300, '2001:db8::1'],
    ['deep.er.example.com', 'TXT', 300, 'a;b|c'],
  ])
})

const rows = [
  ['www.example.com', 'A', 'NOERROR', ['CNAME', 'A'], 0],
  ['api.example.com', 'MX', 'NOERROR', [], 1],
  ['er.example.com', 'A', 'NOERROR', [], 1],
  ['no.example.com', 'A', 'NXDOMAIN', [], 1],
  ['example.org', 'A', 'REFUSED', [], 0],
] as const
for (const [name, type, rcode, answers, authority] of rows)
  test(`${name} ${type}`, () => {
    const found = lookUp(zones, name, type)
    expect([found.rcode, found.answers.map((r) => r.type), found.authority.length]).toEqual([rcode, answers, authority])
  })

const broken = [
  ['x IN A', 'z:1: A takes 1 fields, not 0'],
  ['\n\nx IN WHAT 1', 'z:3: record type "WHAT" is not known here'],
  ['$TTL soon', 'z:1: "soon" is not a TTL'],
] as const
for (const [text, message] of broken) test(message, () => expect(() => parseZone(text, 'z')).toThrow(message))

test('the zones of the project are readable', () =>
  expect([...readZones('zones').apexes].sort()).toEqual(['example.com', 'example.net']))
