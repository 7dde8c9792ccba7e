// Which connections end when an address passes to another workload, and that none is forgotten when the kernel says no.
import { expect, test } from 'vitest'
import type { Connection } from '../../src/datapath/ctnetlink.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { makeTakeovers, type Takeovers } from '../../src/takeovers.ts'
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
  const compile = makeCompiler({ hostAddresses: [at('10.0.0.9')], upstreams: [], denyReply: 'refused', localNode: 'here', audit: false }) // prettier-ignore
  return (text: string): Snapshot => {
    const loaded = loadWorld([{ path: 'w.yaml', text }])
    return loaded.ok ? compile(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
  }
}

const web = pod('web', ['10.0.0.1'])
const db = pod('db', ['10.0.0.2'])
const heir = (egress: string): string => pod('heir', ['10.0.0.1']) + policy('heir', egress)

const rows: { title: string; next: string; gone: Connection[]; kept: Connection[] }[] = [
  { title: 'nobody has the address: all that touches it', next: db, gone: [tcp('10.0.0.1:1>192.0.2.1:443'), tcp('192.0.2.1:1>10.0.0.1:80'), tcp('10.0.0.3:1>192.0.2.1:443', { back: at('10.0.0.1') }), tcp('10.0.0.1:1>10.0.0.9:10053', { via: '9.9.9.9', destinationPort: 53 })], kept: [tcp('10.0.0.2:1>192.0.2.1:443')] },
  { title: 'another workload: what it may not have', next: heir(`{toCIDR: [192.0.2.0/24], ${ports(443)}}`) + db, gone: [tcp('10.0.0.1:1>192.0.2.1:80'), tcp('10.0.0.1:1>198.51.100.1:443')], kept: [tcp('10.0.0.1:1>192.0.2.1:443'), tcp('192.0.2.1:1>10.0.0.1:80'), tcp('10.0.0.2:1>198.51.100.1:443')] },
  { title: 'by where it is led, not by what was written', next: heir(`{toCIDR: [192.0.2.0/24], ${ports(443)}}`) + db, gone: [tcp('10.0.0.1:1>198.51.100.1:443', { via: '192.0.2.1' })], kept: [tcp('10.0.0.1:1>192.0.2.1:443', { via: '198.51.100.1', destinationPort: 80 })] },
  { title: 'its questions to the proxy', next: heir('{}') + db, gone: [tcp('10.0.0.1:1>10.0.0.9:10053', { via: '9.9.9.9', destinationPort: 5353 })], kept: [tcp('10.0.0.1:1>10.0.0.9:10053', { via: '9.9.9.9', destinationPort: 53 })] },
  { title: 'names that it has leased, and no others', next: heir(names('{matchPattern: "*.example.com"}')) + db, gone: [tcp('10.0.0.1:1>198.51.100.9:443')], kept: [tcp('10.0.0.1:1>198.51.100.5:443')] },
  { title: 'pings', next: heir('{toCIDR: [192.0.2.0/24]}') + db, gone: [tcp('10.0.0.1:7>198.51.100.1:0', { protocol: 1, icmpType: 8 })], kept: [tcp('10.0.0.1:7>192.0.2.1:0', { protocol: 1, icmpType: 8 })] },
  { title: 'new labels of the same workload', next: pod('web', ['10.0.0.1'], '{app: heir}') + policy('heir', '{toCIDR: [192.0.2.0/24]}'), gone: [tcp('10.0.0.1:1>198.51.100.1:443')], kept: [tcp('10.0.0.1:1>192.0.2.1:443')] },
  { title: 'a workload that is as it was: nothing, whatever its policy says now', next: web + policy('web', '{toCIDR: [192.0.2.0/24]}'), gone: [], kept: [tcp('10.0.0.1:1>198.51.100.1:443')] },
  { title: 'a workload elsewhere: its own policy is not ours to enforce', next: heir('{}').replace('status:', 'spec: {nodeName: there}\nstatus:') + db + policy('db', '{}'), gone: [tcp('10.0.0.2:1>10.0.0.1:80')], kept: [tcp('10.0.0.1:1>198.51.100.1:443')] },
] // prettier-ignore

interface Kernel {
  there: Connection[]
  readonly cut: Connection[]
  fails: boolean
}
function takeoversOf(kernel: Kernel): Takeovers {
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
  return makeTakeovers({ list, remove }, cut, namesOf, 10053)
}

for (const { title, next, gone, kept } of rows)
  test(title, async () => {
    const compile = compiler()
    const [old, now] = [compile(web + db), compile(next)]
    const kernel: Kernel = { there: [...gone, ...kept], cut: [], fails: false }
    const takeovers = takeoversOf(kernel)
    takeovers.note(old, now)
    expect(await takeovers.settle(now)).toBe(gone.length)
    expect(kernel.there).toEqual(kept)
    expect(kernel.cut).toEqual(gone)
    expect(takeovers.isSettled()).toBe(true)
  })

test('what an earlier agent found: the same stays, another identity or nobody does not', async () => {
  const now = compiler()(web + db + policy('db', '{}'))
  const number = (text: string): number => now.endpointOf(at(text))?.identity ?? 0
  const [same, other, nobody] = ['10.0.0.1', '10.0.0.2', '10.0.0.3'].map((text) => tcp(`${text}:1>192.0.2.1:443`)) as [Connection, Connection, Connection] // prettier-ignore
  const kernel: Kernel = { there: [same, other, nobody], cut: [], fails: false }
  const takeovers = takeoversOf(kernel)
  takeovers.noteFound(new Map([[at('10.0.0.1'), number('10.0.0.1')], [at('10.0.0.2'), 999], [at('10.0.0.3'), 998]]), now) // prettier-ignore
  expect(await takeovers.settle(now)).toBe(2)
  expect(kernel.there).toEqual([same])
})

test('the kernel says no: it is tried again until it has taken it', async () => {
  const compile = compiler()
  const [old, now] = [compile(web + db), compile(db)]
  const kernel: Kernel = { there: [tcp('10.0.0.1:1>192.0.2.1:443')], cut: [], fails: true }
  const takeovers = takeoversOf(kernel)
  takeovers.note(old, now)
  await expect(takeovers.settle(now)).rejects.toThrow('ENOBUFS')
  expect(takeovers.isSettled()).toBe(false)
  kernel.fails = false
  expect([await takeovers.settle(now), await takeovers.settle(now)]).toEqual([1, 0])
})

test('more connections than are held at a time', async () => {
  const compile = compiler()
  const [old, now] = [compile(web + db), compile(db)]
  const kept = tcp('10.0.0.2:1>192.0.2.1:443')
  const kernel: Kernel = { there: [...Array.from({ length: 140_000 }, () => tcp('10.0.0.1:1>192.0.2.1:443')), kept], cut: [], fails: false } // prettier-ignore
  const takeovers = takeoversOf(kernel)
  takeovers.note(old, now)
  expect(await takeovers.settle(now)).toBe(140_000)
  expect(kernel.there).toEqual([kept])
})
