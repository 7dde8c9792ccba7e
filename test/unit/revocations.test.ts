// Which connections end when an address passes to another workload, when policy allows them no more, when their lease is taken away; and that
// none is forgotten when the kernel says no.
import { describe, expect, test } from 'vitest'
import type { Connection } from '../../src/datapath/ctnetlink.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { makeRevocations, type Revocations } from '../../src/revocations.ts'
import { names, pod, policy, ports } from '../support/manifests.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
let count = 0
/** A TCP connection `from:port>to:port`; `via` is what was written as its destination. */
function tcp(text: string, over: Partial<Connection> & { readonly via?: string } = {}): Connection {
  const [[source = '', sourcePort], [peer = '', peerPort]] = text.split('>').map((end) => end.split(':')) as [string[], string[]] // prettier-ignore
  const { via = peer, ...rest } = over
  return { protocol: 6, source: at(source), sourcePort: Number(sourcePort), destination: at(via), destinationPort: Number(peerPort), peer: at(peer), peerPort: Number(peerPort), back: at(source), backPort: Number(sourcePort), icmpType: undefined, id: ++count, zone: 0, ...rest } // prettier-ignore
}
const compiler = () => {
  const compile = makeCompiler({ hostAddresses: [at('10.0.0.9')], upstreams: [], denyReply: 'refused', localNode: 'here', audit: false, hostPolicies: true }) // prettier-ignore
  return (text: string): Snapshot => {
    const loaded = loadWorld([{ path: 'w.yaml', text }])
    return loaded.ok ? compile(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
  }
}

const web = pod('web', ['10.0.0.1'])
const db = pod('db', ['10.0.0.2'])
const ingressOf = (name: string, from: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}-in}
spec: {endpointSelector: {matchLabels: {app: ${name}}}, ingress: [{fromEndpoints: [{matchLabels: {app: ${from}}}]}]}
`
const heir = (egress: string): string => pod('heir', ['10.0.0.1']) + policy('heir', egress)

const rows: { title: string; next: string; gone: Connection[]; kept: Connection[] }[] = [
  { title: 'nobody has the address: all that touches it', next: db, gone: [tcp('10.0.0.1:1>192.0.2.1:443'), tcp('192.0.2.1:1>10.0.0.1:80'), tcp('10.0.0.3:1>192.0.2.1:443', { back: at('10.0.0.1') }), tcp('10.0.0.1:1>10.0.0.9:10053', { via: '9.9.9.9', destinationPort: 53 })], kept: [tcp('10.0.0.2:1>192.0.2.1:443')] },
  { title: 'another workload: what it may not have', next: heir(`{toCIDR: [192.0.2.0/24], ${ports(443)}}`) + db, gone: [tcp('10.0.0.1:1>192.0.2.1:80'), tcp('10.0.0.1:1>198.51.100.1:443')], kept: [tcp('10.0.0.1:1>192.0.2.1:443'), tcp('192.0.2.1:1>10.0.0.1:80'), tcp('10.0.0.2:1>198.51.100.1:443')] },
  { title: 'by where it is led, not by what was written', next: heir(`{toCIDR: [192.0.2.0/24], ${ports(443)}}`) + db, gone: [tcp('10.0.0.1:1>198.51.100.1:443', { via: '192.0.2.1' })], kept: [tcp('10.0.0.1:1>192.0.2.1:443', { via: '198.51.100.1', destinationPort: 80 })] },
  { title: 'its questions to the proxy', next: heir('{}') + db, gone: [tcp('10.0.0.1:1>10.0.0.9:10053', { via: '9.9.9.9', destinationPort: 5353 })], kept: [tcp('10.0.0.1:1>10.0.0.9:10053', { via: '9.9.9.9', destinationPort: 53 })] },
  { title: 'names that it has leased, and no others', next: heir(names('{matchPattern: "*.example.com"}')) + db, gone: [tcp('10.0.0.1:1>198.51.100.9:443')], kept: [tcp('10.0.0.1:1>198.51.100.5:443')] },
  { title: 'pings', next: heir('{toCIDR: [192.0.2.0/24]}') + db, gone: [tcp('10.0.0.1:7>198.51.100.1:0', { protocol: 1, icmpType: 8 })], kept: [tcp('10.0.0.1:7>192.0.2.1:0', { protocol: 1, icmpType: 8 })] },
  { title: 'new labels of the same workload', next: pod('web', ['10.0.0.1'], '{app: heir}') + policy('heir', '{toCIDR: [192.0.2.0/24]}'), gone: [tcp('10.0.0.1:1>198.51.100.1:443')], kept: [tcp('10.0.0.1:1>192.0.2.1:443')] },
  { title: 'a new policy of the same workload: what it allows goes on, all else not', next: web + db + policy('web', '{toCIDR: [192.0.2.0/24]}'), gone: [tcp('10.0.0.1:1>198.51.100.1:443')], kept: [tcp('10.0.0.1:1>192.0.2.1:443'), tcp('10.0.0.2:1>198.51.100.1:443')] },
  { title: 'a workload elsewhere: its own policy is not ours to enforce', next: heir('{}').replace('status:', 'spec: {nodeName: there}\nstatus:') + db + policy('db', '{}'), gone: [tcp('10.0.0.2:1>10.0.0.1:80')], kept: [tcp('10.0.0.1:1>198.51.100.1:443')] },
] // prettier-ignore

interface Kernel {
  there: Connection[]
  readonly cut: Connection[]
  fails: boolean
}
let moment = 0
function revocationsOf(kernel: Kernel, drainMillis = 0): Revocations {
  const list = async (each: (connection: Connection, isClosed: boolean) => void): Promise<void> => {
    if (kernel.fails) throw new Error('ENOBUFS')
    for (const connection of kernel.there) each(connection, false)
  }
  const remove = async (over: readonly Connection[]): Promise<number> => {
    const gone = new Set(over)
    kernel.there = kernel.there.filter((one) => !gone.has(one))
    return over.length
  }
  const cut = async (over: readonly Connection[]): Promise<void> => void kernel.cut.push(...over)
  const namesOf = (_: number, address: Address): string[] => address === at('198.51.100.5') ? ['api.example.com'] : [] // prettier-ignore
  return makeRevocations(
    () => moment,
    { list, remove },
    cut,
    undefined,
    namesOf,
    { proxyPort: 10053, upstreams: [{ address: at('192.0.2.53'), port: 53 }] },
    drainMillis,
  )
}

for (const { title, next, gone, kept } of rows)
  test(title, async () => {
    const compile = compiler()
    const [old, now] = [compile(web + db), compile(next)]
    const kernel: Kernel = { there: [...gone, ...kept], cut: [], fails: false }
    const revocations = revocationsOf(kernel)
    revocations.note(old, now)
    expect(await revocations.settle(now)).toBe(gone.length)
    expect(kernel.there).toEqual(kept)
    expect(kernel.cut).toEqual(gone)
    expect(revocations.isSettled()).toBe(true)
  })

const ofHost = (egress: string, ingress: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: this-host}
spec: {nodeSelector: {}, egress: [${egress}], ingress: [${ingress}]}
`
const udp = (text: string): Connection => tcp(text, { protocol: 17 })
const upkeep = [tcp('10.0.0.9:1>192.0.2.53:53'), udp('10.0.0.9:1>192.0.2.53:53'), udp('10.0.0.9:68>192.0.2.7:67'), udp('192.0.2.7:67>10.0.0.9:68'), tcp('10.0.0.9:1>10.0.0.9:80'), tcp('10.0.0.1:1>10.0.0.9:10053')] // prettier-ignore

test('this host: what its policies allow no more, but not what it cannot live without', async () => {
  const compile = compiler()
  const [old, now] = [compile(web + db), compile(web + db + ofHost('{toCIDR: [192.0.2.0/28]}', '{fromCIDR: [192.0.2.0/28]}'))] // prettier-ignore
  const gone = [tcp('10.0.0.9:1>198.51.100.1:443'), tcp('198.51.100.1:1>10.0.0.9:22'), tcp('10.0.0.9:1>192.0.2.53:443'), tcp('10.0.0.9:1>10.0.0.1:80')] // prettier-ignore
  const kept = [tcp('10.0.0.9:1>192.0.2.1:443'), tcp('192.0.2.1:1>10.0.0.9:22'), tcp('10.0.0.1:1>198.51.100.1:443')]
  const kernel: Kernel = { there: [...gone, ...kept, ...upkeep], cut: [], fails: false }
  const revocations = revocationsOf(kernel)
  revocations.note(old, now)
  expect(await revocations.settle(now)).toBe(gone.length)
  expect(kernel.there).toEqual([...kept, ...upkeep])
  // And when nothing is known of what was allowed before, nor why: all that is not allowed now, when the drain time is over.
  const late: Kernel = { there: [...gone, ...kept, ...upkeep], cut: [], fails: false }
  const other = revocationsOf(late, 10)
  other.noteAll(now)
  expect(await other.settle(now)).toBe(0)
  moment = 10
  expect(await other.settle(now)).toBe(gone.length)
  expect(late.there).toEqual([...kept, ...upkeep])
})

test('what an earlier agent found: the same stays, another identity or nobody does not', async () => {
  const now = compiler()(web + db + policy('db', '{}'))
  const number = (text: string): number => now.endpointOf(at(text))?.identity ?? 0
  const [same, other, nobody] = ['10.0.0.1', '10.0.0.2', '10.0.0.3'].map((text) => tcp(`${text}:1>192.0.2.1:443`)) as [Connection, Connection, Connection] // prettier-ignore
  const kernel: Kernel = { there: [same, other, nobody], cut: [], fails: false }
  const revocations = revocationsOf(kernel)
  revocations.noteFound(new Map([[at('10.0.0.1'), number('10.0.0.1')], [at('10.0.0.2'), 999], [at('10.0.0.3'), 998]]), now) // prettier-ignore
  expect(await revocations.settle(now)).toBe(2)
  expect(kernel.there).toEqual([same])
})

test('the kernel says no: it is tried again until it has taken it', async () => {
  const compile = compiler()
  const [old, now] = [compile(web + db), compile(db)]
  const kernel: Kernel = { there: [tcp('10.0.0.1:1>192.0.2.1:443')], cut: [], fails: true }
  const revocations = revocationsOf(kernel)
  revocations.note(old, now)
  await expect(revocations.settle(now)).rejects.toThrow('ENOBUFS')
  expect(revocations.isSettled()).toBe(false)
  kernel.fails = false
  expect([await revocations.settle(now), await revocations.settle(now)]).toEqual([1, 0])
})

test('more connections than are held at a time', async () => {
  const compile = compiler()
  const [old, now] = [compile(web + db), compile(db)]
  const kept = tcp('10.0.0.2:1>192.0.2.1:443')
  const kernel: Kernel = { there: [...Array.from({ length: 140_000 }, () => tcp('10.0.0.1:1>192.0.2.1:443')), kept], cut: [], fails: false } // prettier-ignore
  const revocations = revocationsOf(kernel)
  revocations.note(old, now)
  expect(await revocations.settle(now)).toBe(140_000)
  expect(kernel.there).toEqual([kept])
})

describe('the same workload under a changed policy', () => {
  const byName = policy('web', names('{matchPattern: "*.example.com"}'))
  const leased = tcp('10.0.0.1:1>198.51.100.5:443')
  const unknown = tcp('10.0.0.1:1>198.51.100.9:443')
  /** What is left of connections when the first comes to be the second. */
  async function left(before: string, next: string, there: Connection[]): Promise<Connection[]> {
    const compile = compiler()
    const [old, current] = [compile(before), compile(next)]
    const kernel: Kernel = { there, cut: [], fails: false }
    const revocations = revocationsOf(kernel)
    revocations.note(old, current)
    await revocations.settle(current)
    return kernel.there
  }

  const changes: { title: string; before: string; next: string; gone: Connection[]; kept: Connection[] }[] = [
    { title: 'its names stay: also what no lease is known for any more', before: web + byName, next: web + byName + policy('web', '{toCIDR: [192.0.2.0/24]}').replace('name: web', 'name: more'), gone: [], kept: [leased, unknown] },
    { title: 'its names change: what is leased under one of them, and nothing else', before: web + byName, next: web + policy('web', names('{matchName: api.example.com}')), gone: [unknown], kept: [leased] },
    { title: 'its names go', before: web + byName, next: web + policy('web', '{toCIDR: [192.0.2.0/24]}'), gone: [leased, unknown], kept: [] },
    { title: 'the port goes', before: web + byName, next: web + policy('web', names('{matchPattern: "*.example.com"}', ports(80))), gone: [leased], kept: [] },
    { title: 'an address that a name led to is a workload now', before: web + byName, next: web + byName + pod('late', ['198.51.100.5']), gone: [leased], kept: [unknown] },
    { title: 'the other end does not let it in any more', before: web + db, next: web + db + ingressOf('db', 'nobody'), gone: [tcp('10.0.0.1:1>10.0.0.2:80')], kept: [tcp('10.0.0.2:1>10.0.0.1:80')] },
    { title: 'the other end is of another kind now', before: web + db + policy('web', '{toEndpoints: [{matchLabels: {app: db}}]}'), next: web + db.replace('{app: db}', '{app: old}') + policy('web', '{toEndpoints: [{matchLabels: {app: db}}]}'), gone: [tcp('10.0.0.1:1>10.0.0.2:80')], kept: [] },
    { title: 'what it did not allow before, and was there all the same', before: web + policy('web', '{toCIDR: [192.0.2.0/24]}'), next: web + policy('web', '{toCIDR: [192.0.2.0/25]}'), gone: [tcp('10.0.0.1:1>192.0.2.200:443')], kept: [tcp('10.0.0.1:1>203.0.113.1:443')] },
  ] // prettier-ignore
  for (const { title, before, next, gone, kept } of changes)
    test(title, async () => expect(await left(before, next, [...gone, ...kept])).toEqual(kept))

  test('a lease that is taken away: its connections, unless something else allows them', async () => {
    const current = compiler()(web + byName + policy('web', '{toCIDR: [192.0.2.0/24]}').replace('name: web', 'name: more'))
    const other = tcp('10.0.0.1:1>198.51.100.8:443')
    const byCidr = tcp('10.0.0.1:1>192.0.2.1:443')
    const kernel: Kernel = { there: [unknown, other, byCidr], cut: [], fails: false }
    const revocations = revocationsOf(kernel)
    const { identity = 0 } = current.endpointOf(at('10.0.0.1')) ?? {}
    for (const address of ['198.51.100.9', '192.0.2.1']) revocations.noteLost(identity, at(address))
    revocations.noteLost(identity + 1, at('198.51.100.8'))
    expect(await revocations.settle(current)).toBe(1)
    expect(kernel.there).toEqual([other, byCidr])
  })

  test('a drain time: it goes on for so long, by the change that came first; a workload that is gone has none', async () => {
    const compile = compiler()
    const [first, second, third] = [compile(web + db + byName), compile(web + db + policy('web', '{}')), compile(web + policy('web', '{}'))]
    const kernel: Kernel = { there: [leased, tcp('10.0.0.2:1>192.0.2.1:443')], cut: [], fails: false }
    const revocations = revocationsOf(kernel, 10_000)
    moment = 0
    revocations.note(first, second)
    expect([await revocations.settle(second), revocations.isSettled()]).toEqual([0, false])
    moment = 5000
    revocations.note(second, third)
    expect(await revocations.settle(third)).toBe(1)
    moment = 9999
    expect(await revocations.settle(third)).toBe(0)
    moment = 10_000
    expect([await revocations.settle(third), kernel.there]).toEqual([1, []])
    moment = 20_000
    await revocations.settle(third)
    expect(revocations.isSettled()).toBe(true)
  })
}) // prettier-ignore
