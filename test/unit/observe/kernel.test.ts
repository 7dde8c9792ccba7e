// Packets that the kernel told of, as flows: one for each packet also in audit mode, and by whose policy.
import { expect, test } from 'vitest'
import { logPrefix } from '../../../src/datapath/structure.ts'
import type { Logged } from '../../../src/datapath/nflog.ts'
import type { Selector } from '../../../src/identity/selector.ts'
import { PolicyMatch } from '../../../src/observe/flow.ts'
import { makeJoiner } from '../../../src/observe/kernel.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { names, pod, policy } from '../../support/manifests.ts'
import { at } from './flows.ts'

function snapshotOf(text: string, audit: boolean, auditEndpoints: readonly Selector[] = []): Snapshot {
  const loaded = loadWorld([{ path: 'test.yaml', text }])
  if (!loaded.ok) return expect.fail(JSON.stringify(loaded.issues))
  return makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', audit, auditEndpoints })(loaded.world)
}
const told = (prefix: keyof typeof logPrefix, source: string, destination: string, more: Partial<Logged> = {}): Logged => ({ prefix: logPrefix[prefix], sequence: 0, source: at(source), destination: at(destination), protocol: 6, sourcePort: 40_000, destinationPort: 443, icmp: undefined, tcpFlags: 2, ...more }) // prettier-ignore
const manifests = pod('web', ['10.1.0.2']) + policy('web', names('{matchName: a.example.com}'))

test('in audit mode, a packet that is told of as denied and then passes is one flow', () => {
  const snapshot = snapshotOf(manifests, true)
  const join = makeJoiner(() => snapshot, () => []) // prettier-ignore
  expect(join(told('egress', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ verdict: 'AUDIT', direction: 'egress' })
  expect(join(told('allowed', '10.1.0.2', '198.18.0.1', { sourcePort: 40_001 }), 0)).toMatchObject({ verdict: 'FORWARDED' }) // prettier-ignore
  expect(join(told('allowed', '10.1.0.2', '198.18.0.1'), 0)).toBeUndefined()
  // The next one is a packet of its own.
  expect(join(told('allowed', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ verdict: 'FORWARDED' })
})
test('in audit mode of some, the others are refused', () => {
  const both = manifests + pod('db', ['10.1.0.3']) + policy('db', names('{matchName: a.example.com}'))
  const snapshot = snapshotOf(both, false, [[{ operator: 'In', key: 'k8s:app', values: ['db'] }]])
  const join = makeJoiner(() => snapshot, () => []) // prettier-ignore
  expect(join(told('egress', '10.1.0.3', '198.18.0.1'), 0)).toMatchObject({ verdict: 'AUDIT' })
  expect(join(told('egress', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ verdict: 'DROPPED' })
  expect(join(told('allowed', '10.1.0.3', '198.18.0.1'), 0)).toBeUndefined()
})
test('without it nothing is held back', () => {
  const snapshot = snapshotOf(manifests, false)
  const join = makeJoiner(() => snapshot, () => []) // prettier-ignore
  expect(join(told('egress', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ verdict: 'DROPPED' })
  expect(join(told('allowed', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ verdict: 'FORWARDED' })
})
test('what only the receiver was asked about is of its ingress', () => {
  const snapshot = snapshotOf(manifests, false)
  const join = makeJoiner(() => snapshot, () => []) // prettier-ignore
  expect(join(told('allowed', '198.18.0.1', '10.1.0.2'), 0)).toMatchObject({ direction: 'ingress', why: { text: 'no policy denies ingress by default' } }) // prettier-ignore
  expect(join(told('allowed', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ direction: 'egress' })
  expect(join({ ...told('allowed', '10.1.0.2', '198.18.0.1'), prefix: 'somebody else' }, 0)).toBeUndefined()
})

const matches = [
  ['{toEntities: [world]}', PolicyMatch.L3],
  ['{toPorts: [{ports: [{port: "443", protocol: TCP}]}]}', PolicyMatch.L4],
  ['{toCIDR: [198.18.0.0/15], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}', PolicyMatch.L3L4],
  ['{toPorts: [{ports: [{port: "0", protocol: TCP}]}]}', PolicyMatch.Protocol],
  ['{toCIDR: [198.18.0.0/15], toPorts: [{ports: [{port: "0", protocol: TCP}]}]}', PolicyMatch.L3Protocol],
] as const
for (const [rule, match] of matches)
  test(`what the rule speaks of: ${rule}`, () => {
    const snapshot = snapshotOf(pod('web', ['10.1.0.2']) + policy('web', rule), false)
    const join = makeJoiner(() => snapshot, () => []) // prettier-ignore
    expect(join(told('allowed', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ verdict: 'FORWARDED', match })
  })
test('what no policy selects is allowed all; a denial without a rule speaks of nothing', () => {
  const snapshot = snapshotOf(manifests, false)
  const join = makeJoiner(() => snapshot, () => []) // prettier-ignore
  expect(join(told('allowed', '198.18.0.1', '10.1.0.2'), 0)).toMatchObject({ match: PolicyMatch.All })
  expect(join(told('egress', '10.1.0.2', '198.18.0.1'), 0)).toMatchObject({ match: PolicyMatch.None })
})
