// Leases written down by one agent and read by another that numbers everybody otherwise, at another time.
import { expect, test } from 'vitest'
import { makeMemoir } from '../../src/memoir.ts'
import { addressFromText } from '../../src/net/address.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { pod } from '../support/manifests.ts'

function snapshotOf(text: string): Snapshot {
  const loaded = loadWorld([{ path: 'w.yaml', text }])
  return loaded.ok
    ? makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world)
    : expect.fail(JSON.stringify(loaded.issues))
}
const [web, db] = [pod('web', ['10.0.0.1']), pod('db', ['10.0.0.2'])]
const address = addressFromText('198.18.0.1') ?? expect.fail()
const memoirAt = (now: number, wall: number): ReturnType<typeof makeMemoir> => makeMemoir(() => now, () => wall, (text) => text) // prettier-ignore
const endpoint = (snapshot: Snapshot, name: string): { id: number; identity: number } => snapshot.endpoints.find((one) => one.name === name) ?? expect.fail(name) // prettier-ignore

test('by labels and name of the workload, and by the wall clock', () => {
  const before = snapshotOf(web + db)
  const { id, identity } = endpoint(before, 'db')
  const entry = memoirAt(50_000, 1_000_000).entryOf(before, { identity, endpoint: id, name: 'api.example.com', address, ttlSeconds: 60, learnedAt: 40_000 }) // prettier-ignore
  expect(entry).toMatchObject({ endpoint: 'default/db', address: '198.18.0.1', learnedAt: 990_000 })
  const after = snapshotOf(db + web)
  const now = endpoint(after, 'db')
  expect([now.id, now.identity]).not.toEqual([id, identity])
  expect(memoirAt(3000, 1_020_000).leasesOf(after, entry === undefined ? [] : [entry])).toEqual([
    { identity: now.identity, endpoint: now.id, name: 'api.example.com', address, ttlSeconds: 60, learnedAt: -27_000 },
  ])
})

test('nobody with these labels, or no address: left out; another workload with them: it is theirs', () => {
  const before = snapshotOf(web + pod('twin', ['10.0.0.3'], '{app: web}'))
  const { id, identity } = endpoint(before, 'twin')
  const memoir = memoirAt(0, 0)
  const entry = memoir.entryOf(before, { identity, endpoint: id, name: 'x', address, ttlSeconds: 1, learnedAt: 0 }) ?? expect.fail() // prettier-ignore
  expect(memoir.leasesOf(snapshotOf(db), [entry])).toEqual([])
  expect(memoir.leasesOf(before, [{ ...entry, address: 'x' }])).toEqual([])
  expect(memoir.leasesOf(snapshotOf(web), [entry])).toMatchObject([{ endpoint: 0 }])
})
