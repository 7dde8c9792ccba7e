// Desired state as values: it says of each packet what the entries say; the difference, applied, gives what is desired; and the text that
// nft gets.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { walk } from '../../../src/datapath/cell.ts'
import {
  desiredElements,
  diff,
  identityToText,
  renderChange,
  renderFlush,
  type Elements,
} from '../../../src/datapath/desired.ts'
import { clusterNumber, makeCellNumbers, worldNumber } from '../../../src/datapath/peers.ts'
import { policySets, verdictNumbers, type PolicySet } from '../../../src/datapath/structure.ts'
import { addressToText, familyOf, type Address } from '../../../src/net/address.ts'
import { portsCover, protocolName, type L4, type Ports } from '../../../src/net/ports.ts'
import { rangeCovers } from '../../../src/net/prefix.ts'
import type { Direction } from '../../../src/policy/rules.ts'
import type { DirectionPolicy, Entry, Snapshot } from '../../../src/policy/snapshot.ts'
import { at, denying, entry, host, makeSnapshot, open, peers, range, tcp } from '../../support/snapshot.ts'

const digest = (text: string): string => String(text.length)
const elementsOf = (snapshot: Snapshot, hostPolicies = false): Elements => desiredElements(snapshot, { digest, numbers: makeCellNumbers(), hostPolicies }) // prettier-ignore
const filled = (elements: Elements): Record<string, Record<string, string>> => Object.fromEntries([...elements].filter(([, entries]) => entries.size > 0).map(([set, entries]) => [set, Object.fromEntries(entries)])) // prettier-ignore

const places = {
  endpoints: [
    { name: 'web', identity: 256, addresses: ['10.0.0.1'] },
    { name: 'db', identity: 257, addresses: ['10.0.0.2', 'fd00::2'] },
    { name: 'far', identity: 258, addresses: ['10.0.9.9'], local: false },
  ],
  // The last one is claimed by two.
  addresses: { '10.0.0.254': host, '198.18.0.7': 7, '10.0.0.77': 0 },
} as const

test('a small world', () => {
  const egress = denying(
    entry('deny', peers('192.0.2.7'), { kind: 'all' }),
    entry('allow', peers('192.0.2.0/29'), tcp(80, 90)),
    entry('allow', peers(257), tcp(5432)),
  )
  expect(filled(elementsOf(makeSnapshot({ ...places, policies: { 256: { egress } } })))).toEqual({
    identity4: { '10.0.0.1': '0:100', '10.0.0.2': '0:101' },
    identity6: { 'fd00::2': '0:101' },
    self4: { '10.0.0.1 . 10.0.0.1': '', '10.0.0.2 . 10.0.0.2': '' },
    self6: { 'fd00::2 . fd00::2': '' },
    nobody4: { '10.0.0.77': '' },
    peer4: { '10.0.0.1': '0:100', '10.0.0.2': '0:101', '10.0.9.9': '0:102', '10.0.0.254': '0:1', '198.18.0.7': '0:7', '10.0.0.77': 'ffff:2' },
    peer6: { 'fd00::2': '0:101' },
    // What differs from the rest of its place only.
    range4: { '192.0.2.0-192.0.2.6': '100:0', '192.0.2.7': '100:1' },
    cluster4: { '10.0.0.1': '', '10.0.0.2': '', '10.0.9.9': '', '10.0.0.254': '', '198.18.0.7': '', '10.0.0.77': '' },
    cluster6: { 'fd00::2': '' },
    identities: { '0:100 comment "19.0"': '', '0:101 comment "18.0"': '' },
    egress_port4: {
      '0:101 . 10.0.0.1 . tcp . 5432': 'fff0:1',
      ...Object.fromEntries([80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90].map((port) => [`100:0 . 10.0.0.1 . tcp . ${port}`, 'fff0:1'])),
    },
    egress_any4: {
      ...Object.fromEntries(['0:0', 'ffff:1', '0:1'].map((peer) => [`${peer} . 10.0.0.1`, 'fff0:2'])),
      ...Object.fromEntries(['0:0', 'ffff:1', '0:1'].map((peer) => [`${peer} . 10.0.0.2`, 'fff0:1'])),
    },
    egress_any6: Object.fromEntries(['0:0', 'ffff:1', '0:1'].map((peer) => [`${peer} . fd00::2`, 'fff0:1'])),
    ingress_any4: Object.fromEntries(['10.0.0.1', '10.0.0.2'].flatMap((to) => ['0:0', 'ffff:1', '0:1'].map((peer) => [`${peer} . ${to}`, 'fff0:1']))),
    ingress_any6: Object.fromEntries(['0:0', 'ffff:1', '0:1'].map((peer) => [`${peer} . fd00::2`, 'fff0:1'])),
  })
}) // prettier-ignore

test('numbers of ranges stay with the ranges', () => {
  const numbers = makeCellNumbers()
  const withRanges = (...texts: string[]): Record<string, string> | undefined => {
    const egress = denying(...texts.map((text) => entry('allow', peers(text), tcp(1))))
    return filled(desiredElements(makeSnapshot({ ...places, policies: { 256: { egress } } }), { digest, numbers, hostPolicies: false }))['range4'] // prettier-ignore
  }
  expect(withRanges('192.0.2.0/24')).toEqual({ '192.0.2.0-192.0.2.255': '100:0' })
  expect(withRanges('192.0.0.0/24', '192.0.2.0/24')).toEqual({ '192.0.0.0-192.0.0.255': '100:1', '192.0.2.0-192.0.2.255': '100:0' }) // prettier-ignore
  expect(withRanges('192.0.2.0/24', '192.0.3.0/24')).toEqual({ '192.0.2.0-192.0.2.255': '100:0', '192.0.3.0-192.0.3.255': '100:2' }) // prettier-ignore
})

test('audit, by direction; the host only where its policies hold', () => {
  const snapshot = makeSnapshot({ ...places, policies: { 256: { ingress: { ...denying(), audit: true } }, 1: { egress: denying() } } }) // prettier-ignore
  const without = filled(elementsOf(snapshot))
  expect([without['ingress_audited4'], without['egress_audited4'], without['host4']]).toEqual([{ '10.0.0.1': '' }, undefined, undefined]) // prettier-ignore
  const within = filled(elementsOf(snapshot, true))
  expect([within['host4'], within['identity4'], within['egress_any4']]).toMatchObject([{ '10.0.0.254': '' }, without['identity4'], { '0:0 . 10.0.0.254': 'fff0:2' }]) // prettier-ignore
})

/** What the chains of structure.ts find for a packet, read from the elements as they do it. */
function kernelSays(elements: Elements, direction: Direction, subject: Address, peer: Address, l4: L4): string {
  const [f, who] = [familyOf(subject), addressToText(peer)]
  const get = (set: PolicySet, key: string): string | undefined => elements.get(set)?.get(key)
  const inRange = [...(elements.get(`range${f}`) ?? [])].filter(([text]) => {
    const [first = '', last = first] = text.split('-')
    return rangeCovers({ family: f, first: range(first).first, last: range(last).first }, peer)
  })
  expect(inRange.length).toBeLessThanOrEqual(1)
  const number = get(`peer${f}`, who) ?? inRange[0]?.[1] ?? identityToText(worldNumber)
  const coarse = identityToText(get(`cluster${f}`, who) === undefined ? worldNumber : clusterNumber)
  const look = (of: string): string | undefined => {
    const key = `${of} . ${addressToText(subject)}`
    const name = protocolName(l4.protocol)
    const wide = [...(elements.get(`${direction}_ports${f}`) ?? [])].find(([text]) => {
      const [start, first = 0, last = 0] = [text.slice(0, text.lastIndexOf(' . ')), ...text.slice(text.lastIndexOf(' . ') + 3).split('-').map(Number)] // prettier-ignore
      return start === `${key} . ${name}` && l4.port !== undefined && first <= l4.port && l4.port <= last
    })
    return (
      get(`${direction}_port${f}`, `${key} . ${name} . ${l4.port}`) ??
      wide?.[1] ??
      (l4.protocol === (f === 4 ? 1 : 58) ? get(`${direction}_icmp${f}`, `${key} . ${l4.icmpType}`) : undefined) ??
      get(`${direction}_protocol${f}`, `${key} . ${l4.protocol}`) ??
      get(`${direction}_any${f}`, key)
    )
  }
  const found = look(number) ?? look(coarse)
  return Object.entries(verdictNumbers).find(([, code]) => identityToText(code) === found)?.[0] ?? 'nothing'
}

const isPeer = ({ peers: of }: Entry, snapshot: Snapshot, address: Address): boolean =>
  of === 'everyone' ||
  of.identities.has(snapshot.identityOf(address)) ||
  of.everywhere.some((one) => rangeCovers(one, address)) ||
  (!snapshot.isInCluster(address) && of.outside.some((one) => rangeCovers(one, address)))

const words = ['198.18.0.0/28', '198.18.0.4/30', '198.18.0.7', '0.0.0.0/0', '!10.0.0.0/24', '!0.0.0.0/0', '!198.18.0.4/31', '::/0', '2001:db8::/64', 1, 7, 9, 10, 256, 257, 258] // prettier-ignore
const anyPorts = fc.constantFrom<Ports>({ kind: 'all' }, tcp(80), tcp(0, 65535), tcp(70, 100), { kind: 'icmp', family: 4, type: 8 }, { kind: 'protocol', protocol: 6 }) // prettier-ignore
const anyEntry = fc
  .tuple(
    fc.constantFrom('allow' as const, 'deny' as const),
    fc.oneof(fc.constant('everyone' as const), fc.subarray(words, { minLength: 1, maxLength: 3 }).map((some) => peers(...some))), // prettier-ignore
    anyPorts,
  )
  .map(([kind, to, ports]) => entry(kind, to, ports))
const anyDirection: fc.Arbitrary<DirectionPolicy> = fc
  .tuple(
    fc.array(anyEntry, { maxLength: 4 }),
    fc.constantFrom('allow' as const, 'deny' as const),
    fc.constantFrom('allow' as const, 'deny' as const),
  )
  .map(([entries, fallback, fallbackFromHost]) => ({
    ...open,
    entries: entries.sort((a, b) => (a.kind === b.kind ? 0 : a.kind === 'deny' ? -1 : 1)),
    fallback,
    fallbackFromHost,
  }))
const others = ['10.0.0.77', '10.0.0.1', '10.0.0.2', '10.0.9.9', '10.0.0.254', '198.18.0.1', '198.18.0.4', '198.18.0.7', '203.0.113.1', 'fd00::2', '2001:db8::1', '2001:db8:1::1'].map(at) // prettier-ignore
const packets: readonly L4[] = [{ protocol: 6, port: 80 }, { protocol: 6, port: 90 }, { protocol: 6, port: 1 }, { protocol: 17, port: 80 }, { protocol: 1, icmpType: 8 }, { protocol: 1, icmpType: 0 }, { protocol: 58, icmpType: 128 }] // prettier-ignore

test('any policies: the elements say of each packet what walking the entries says', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.constantFrom(256, 257, 1), fc.constantFrom('egress', 'ingress'), anyDirection), { maxLength: 4 }), fc.boolean(), (given, named) => {
      const policies: Record<number, Partial<Record<Direction, DirectionPolicy>>> = {}
      for (const [identity, direction, policy] of given) policies[identity] = { ...policies[identity], [direction]: policy }
      const snapshot = makeSnapshot({ ...places, policies, named })
      const elements = elementsOf(snapshot, true)
      for (const subject of ['10.0.0.1', '10.0.0.2', 'fd00::2', '10.0.0.254'].map(at))
        for (const peer of others)
          for (const direction of familyOf(subject) === familyOf(peer) ? (['egress', 'ingress'] as const) : []) {
            const identity = snapshot.identityOf(subject)
            const policy = snapshot.policyOf(identity).directions[direction]
            const covering = policy.entries.filter((one) => isPeer(one, snapshot, peer))
            const fallback = direction === 'ingress' && snapshot.identityOf(peer) === host ? policy.fallbackFromHost : policy.fallback
            const names = named && direction === 'egress' && identity !== host ? [{ tier: 200, priority: 0 } as const] : []
            for (const l4 of packets.filter(({ protocol }) => protocol !== (familyOf(peer) === 4 ? 58 : 1)))
              expect([addressToText(subject), direction, addressToText(peer), l4, kernelSays(elements, direction, subject, peer, l4)]).toEqual([addressToText(subject), direction, addressToText(peer), l4, walk(covering.filter((one) => portsCover(one.ports, l4)), { fallback, names })])
          }
    }),
    { numRuns: 150 },
  )
}) // prettier-ignore

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
      expect(renderChange('t', 'a', diff(state, state), state)).toBe('')
    }),
  )
})

test('text: removals first, sets without values, long lists in several lines', () => {
  const change = {
    remove: new Map([['cluster4', new Map([['10.0.0.1', '']])]] as const),
    add: new Map([['identity4', new Map([['10.0.0.1', '0:100']])]] as const),
  }
  expect(renderChange('t', 'a', change, new Map())).toBe(
    'delete element inet t cluster4_a { 10.0.0.1 }\nadd element inet t identity4_a { 10.0.0.1 : 0:100 }\n',
  )
  const many = new Map(Array.from({ length: 1001 }, (_, i) => [`10.0.${i >> 8}.${i & 255}`, '0:100']))
  expect(
    renderChange('t', 'a', { remove: new Map(), add: new Map([['identity4', many]] as const) }, new Map()).split('\n'),
  ).toHaveLength(4)
  expect(renderFlush('t', 'a').split('\n')).toHaveLength(policySets.length + 1)
})

test('ranges of which many go are written anew, others one by one', () => {
  const ranges = (...keys: string[]): Elements => new Map([['range4', new Map(keys.map((key) => [`10.0.${key}.0-10.0.${key}.9`, '1:0']))]]) // prettier-ignore
  const render = (desired: Elements, realised: Elements): string[] => renderChange('t', 'b', diff(desired, realised), desired).split('\n') // prettier-ignore
  expect(render(ranges('7'), ranges('7', '1'))).toEqual(['delete element inet t range4_b { 10.0.1.0-10.0.1.9 : 1:0 }', '']) // prettier-ignore
  expect(render(ranges('7', '8'), ranges('7', '1', '2', '3', '4', '5'))).toEqual(['flush map inet t range4_b', 'add element inet t range4_b { 10.0.7.0-10.0.7.9 : 1:0, 10.0.8.0-10.0.8.9 : 1:0 }', '']) // prettier-ignore
  expect(render(new Map(), ranges('1', '2', '3', '4', '5'))).toEqual(['flush map inet t range4_b', ''])
})

test('identities as nft writes them', () =>
  expect([256, 65536, 0x1000001].map(identityToText)).toEqual(['0:100', '1:0', '100:1']))
