// Which addresses are in use, by what the kernel tells in any order: beginnings and ends, before, while and after a list is read.
import { beforeEach, expect, test } from 'vitest'
import type { Conntrack } from '../../src/datapath/conntrack.ts'
import type { Connection } from '../../src/datapath/ctnetlink.ts'
import { makeLiveness, watchLiveness, type Liveness } from '../../src/liveness.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const [web, twin, db, api] = ['10.0.0.1', '10.0.0.2', '10.0.0.3', '198.18.0.1'].map(at) as [Address, Address, Address, Address] // prettier-ignore
const connection = (id: number, source = web, peer = api): Connection => ({ protocol: 6, source, sourcePort: id, destination: peer, destinationPort: 443, peer, peerPort: 443, back: source, backPort: id, icmpType: undefined, id, zone: 0 }) // prettier-ignore

let identities: Map<Address, number>
let liveness: Liveness
const make = (max?: number): Liveness => makeLiveness((address) => identities.get(address), (_, address) => address === api, max) // prettier-ignore

beforeEach(() => {
  identities = new Map([[web, 256], [twin, 256], [db, 257]]) // prettier-ignore
  liveness = make()
})

test('in use while any connection of any endpoint of the identity lives', () => {
  liveness.note('begun', connection(1))
  liveness.note('begun', connection(1))
  liveness.note('begun', connection(2, twin))
  expect([liveness.isInUse(256, api), liveness.isInUse(257, api), liveness.size()]).toEqual([true, false, 2])
  liveness.note('over', connection(1))
  expect(liveness.isInUse(256, api)).toBe(true)
  liveness.note('closed', connection(2, twin))
  liveness.note('over', connection(2, twin))
  expect([liveness.isInUse(256, api), liveness.size()]).toEqual([false, 0])
})

test('what is no workload of ours, and what no lease is for, is not remembered', () => {
  liveness.note('begun', connection(1, at('192.0.2.1')))
  liveness.note('begun', connection(2, web, at('198.18.0.2')))
  liveness.note('begun', connection(3, api, web))
  expect(liveness.size()).toBe(0)
})

test('a workload with new labels takes its connections with it', () => {
  liveness.note('begun', connection(1))
  identities.set(web, 300)
  expect([liveness.isInUse(256, api), liveness.isInUse(300, api)]).toEqual([false, true])
})

test('a list says what there is; what is heard while it is read is newer', () => {
  liveness.note('begun', connection(1))
  const list = liveness.relist()
  list.each(connection(2))
  liveness.note('over', connection(2))
  liveness.note('over', connection(3))
  list.each(connection(3))
  liveness.note('begun', connection(4, db))
  list.done()
  expect([liveness.isInUse(256, api), liveness.isInUse(257, api), liveness.size()]).toEqual([false, true, 1])
})

test('at the bound new ones are not remembered until others end', () => {
  liveness = make(1)
  liveness.note('begun', connection(1))
  liveness.note('begun', connection(2, db))
  expect([liveness.isInUse(257, api), liveness.size()]).toEqual([false, 1])
  liveness.note('over', connection(1))
  liveness.note('begun', connection(2, db))
  expect([liveness.isInUse(257, api), liveness.size()]).toEqual([true, 1])
})

test('when events were lost, a list is read', async () => {
  let isLost = false
  let there = [connection(1)]
  const conntrack: Conntrack = {
    events: () => (isLost ? 'lost' : 'all'),
    list: async (each) => {
      for (const one of there) each(one, one.id === 2)
    },
    remove: async () => 0,
    close: () => undefined,
  }
  const watch = await watchLiveness(liveness, conntrack, (error) => expect(error).toBeUndefined())
  expect(liveness.isInUse(256, api)).toBe(true)
  there = [connection(2), connection(3, db)]
  isLost = true
  watch.hear()
  await Promise.resolve()
  isLost = false
  expect([liveness.isInUse(256, api), liveness.isInUse(257, api)]).toEqual([false, true])
  watch.stop()
})
