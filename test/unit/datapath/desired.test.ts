// Desired state as values: the difference, applied, gives what is desired; and the text that nft gets.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  desiredElements,
  diff,
  identityToText,
  renderChange,
  renderFlush,
  type Elements,
} from '../../../src/datapath/desired.ts'
import { policySets, type PolicySet } from '../../../src/datapath/structure.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

const pod = (name: string, ip: string): string => `---\napiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, labels: {app: ${name}}}\nstatus: {podIP: "${ip}"}\n` // prettier-ignore
const policy = `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress: [{toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}]}]}, {toEndpoints: [{matchLabels: {app: db}}]}]
  egressDeny: [{toCIDR: [192.0.2.7/32]}]
`

test('a small world', () => {
  const loaded = loadWorld([{ path: 'x', text: pod('web', '10.0.0.1') + pod('db', 'fd00::2') + policy }])
  if (!loaded.ok) return expect.fail(JSON.stringify(loaded.issues))
  const elements = desiredElements(
    makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world),
    (text) => String(text.length),
  )
  expect(Object.fromEntries([...elements].map(([set, entries]) => [set, Object.fromEntries(entries)]))).toEqual({
    identity4: { '10.0.0.1': '0:100' },
    identity6: { 'fd00::2': '0:101' },
    verdict4: {
      '0:100 . 192.0.2.0-192.0.2.6 . tcp . 80-90': 'goto allowed',
      '0:100 . 192.0.2.7 . 0-255 . 0-65535': 'goto denied4',
      '0:100 . 192.0.2.8-192.0.2.255 . tcp . 80-90': 'goto allowed',
    },
    verdict6: { '0:100 . fd00::2 . 0-255 . 0-65535': 'goto allowed' },
    verdict_any4: { '0:100 . 192.0.2.7': 'goto denied4' },
    verdict_any6: { '0:100 . fd00::2': 'goto allowed' },
    open: { '0:101': '' },
    identities: { '0:100 comment "130.2"': '', '0:101 comment "129.2"': '' },
  })
})

const anyElements: fc.Arbitrary<Elements> = fc
  .array(fc.tuple(fc.constantFrom(...policySets), fc.constantFrom('a', 'b', 'c'), fc.constantFrom('1', '2')))
  .map((rows) => {
    const sets = new Map<PolicySet, Map<string, string>>()
    for (const [set, key, value] of rows) sets.set(set, (sets.get(set) ?? new Map<string, string>()).set(key, value))
    return sets
  })

test('any two states: removing and adding the difference to one gives the other, and nothing more is touched', () => {
  fc.assert(
    fc.property(anyElements, anyElements, (desired, realised) => {
      const { remove, add } = diff(desired, realised)
      for (const set of policySets) {
        const now = new Map(realised.get(set))
        for (const [key, value] of remove.get(set) ?? []) {
          expect(now.get(key)).toBe(value)
          now.delete(key)
        }
        for (const [key, value] of add.get(set) ?? []) {
          expect(now.has(key)).toBe(false)
          now.set(key, value)
        }
        expect([...now].sort()).toEqual([...(desired.get(set) ?? [])].sort())
      }
    }),
  )
})

test('the same state is no change', () => {
  fc.assert(
    fc.property(anyElements, (state) => {
      expect(renderChange('t', diff(state, state))).toBe('')
    }),
  )
})

test('text: removals first, sets without values, long lists in several lines', () => {
  const change = {
    remove: new Map([['open', new Map([['0:100', '']])]] as const),
    add: new Map([['identity4', new Map([['10.0.0.1', '0:100']])]] as const),
  }
  expect(renderChange('t', change)).toBe(
    'delete element inet t open { 0:100 }\nadd element inet t identity4 { 10.0.0.1 : 0:100 }\n',
  )
  const many = new Map(Array.from({ length: 1001 }, (_, i) => [`10.0.${i >> 8}.${i & 255}`, '0:100']))
  expect(
    renderChange('t', { remove: new Map(), add: new Map([['identity4', many]] as const) }).split('\n'),
  ).toHaveLength(4)
  expect(renderFlush('t').split('\n')).toHaveLength(policySets.length + 1)
})

test('identities as nft writes them', () =>
  expect([256, 65536, 0x1000001].map(identityToText)).toEqual(['0:100', '1:0', '100:1']))
