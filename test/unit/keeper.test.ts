// Leases and kernel kept together, on a stepped clock. The kernel is a plain record of elements that refuses what the test says.
import { beforeEach, describe, expect, test } from 'vitest'
import type { Datapath } from '../../src/datapath/datapath.ts'
import { setOf, type LeaseElement } from '../../src/datapath/element.ts'
import { makeKeeper, type EarlierLease, type Keeper } from '../../src/keeper.ts'
import type { LeaseLimits } from '../../src/leases/lease.ts'
import { addressFromText, addressToText, type Address } from '../../src/net/address.ts'
import { portsToText, type Ports } from '../../src/net/ports.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import type { Fact } from '../../src/proxy/handle.ts'
import { makeMayLead } from '../../src/proxy/screen.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { labelsOf, wireFromText } from '../../src/wire/name.ts'
import { names, pod, policy, ports } from '../support/manifests.ts'

const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
const limits: LeaseLimits = { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, addressesPerNameMax: 100, leasesMax: 10_000 } // prettier-ignore

let now: number
let epoch: number
let compile: ReturnType<typeof makeCompiler>
let snapshot: Snapshot
let keeper: Keeper
/** What the keeper told of leases. */
let over: string[]
/** What stands in the kernel: text of the element -> until when. */
let kernel: Map<string, number>
/** When the kernel's answers arrive. */
let acknowledges: Promise<undefined>
let refuses: (verb: 'commit' | 'remove', element: string) => boolean

const textOf = (element: LeaseElement): string =>
  `${element.identity} ${addressToText(element.address)} ${portsToText(element.ports)}`

/** As the kernel does it: a transaction is taken whole or not at all, and cells of the range sets may not overlap. */
function transact(verb: 'commit' | 'remove', elements: readonly LeaseElement[]): ReturnType<Datapath['commit']> {
  const overlaps = (element: LeaseElement): boolean =>
    verb === 'commit' && setOf(element).startsWith('learned_range') && [...kernel.keys()].some((text) => overlap(text, textOf(element))) // prettier-ignore
  if (elements.some((element) => refuses(verb, textOf(element)) || overlaps(element)))
    return Promise.reject(new Error(`${verb}: refused`))
  for (const element of elements)
    if (verb === 'commit') kernel.set(textOf(element), now + element.timeoutMillis)
    else kernel.delete(textOf(element))
  const sentAt = now
  return acknowledges.then(() => ({ sentAt, epoch }))
}
function overlap(a: string, b: string): boolean {
  const cut = (text: string): [string, number, number] => {
    const [, key = '', first = '', last = ''] = /^(.*\/)(\d+)-(\d+)$/.exec(text) ?? []
    return [key, Number(first), Number(last)]
  }
  const [[keyA, firstA, lastA], [keyB, firstB, lastB]] = [cut(a), cut(b)]
  return a !== b && keyA === keyB && keyA !== '' && firstA <= lastB && firstB <= lastA
}
const earlier: LeaseElement[] = []
const datapath: Datapath = {
  dialect: { renewal: 'update', removal: 'destroy' },
  apply: () => Promise.resolve(),
  commit: (elements) => transact('commit', elements),
  remove: (elements) => transact('remove', elements),
  epoch: () => epoch,
  repair: () => Promise.resolve({ found: 'stands', epoch }),
  denied: () => Promise.resolve([]),
  tried: () => Promise.resolve([]),
  cut: () => Promise.resolve(),
  holds: () => Promise.resolve(true),
  learned: () => Promise.resolve(earlier),
  close: () => undefined,
  abandon: () => Promise.resolve(),
}

function world(manifests: string): Snapshot {
  const loaded = loadWorld([{ path: 'test.yaml', text: manifests }])
  if (!loaded.ok) return expect.fail(JSON.stringify(loaded.issues))
  return compile(loaded.world)
}
/** An answer to a workload, as the agent gives it: learned, then committed. */
async function answer(who: string, name: string, address: string, ttlSeconds = 60): Promise<void> {
  const endpoint = snapshot.endpoints.find((e) => e.name === who) ?? expect.fail(who)
  const rules = snapshot.policyOf(endpoint.identity)
  const grants = rules.grantsFor(labelsOf(wireFromText(name) ?? expect.fail(name)))
  const fact = {
    identity: endpoint.identity,
    endpoint: endpoint.id,
    name,
    addresses: [at(address)],
    ttlSeconds,
    grants,
  }
  const learned = keeper.learn(fact, rules)
  if (learned.kind === 'full') return expect.fail(learned.text)
  await keeper.commit(learned.elements)
}
async function change(manifests: string): Promise<void> {
  const before = snapshot
  snapshot = world(manifests)
  await keeper.follow(before, snapshot)
}
const identityOf = (who: string): number => snapshot.endpoints.find((e) => e.name === who)?.identity ?? expect.fail(who)
/** Puts into the kernel, for 600 s, what an earlier agent had learned. */
async function standing(...elements: readonly string[]): Promise<void> {
  for (const element of elements) {
    const [identity, address = '', port] = element.split(' ')
    const opened: Ports = port === 'any' ? { kind: 'all' } : { kind: 'ports', protocol: 6, first: 443, last: 443 }
    earlier.push({ identity: Number(identity), address: at(address), ports: opened, timeoutMillis: 600_000 })
  }
  await transact('commit', earlier)
}
/** What stands, with the seconds that it still stands for. */
const stands = (): string[] =>
  [...kernel].filter(([, until]) => until > now).map(([text, until]) => `${text} ${(until - now) / 1000} s`).sort() // prettier-ignore
const leased = (): string[] =>
  [...keeper.leases.list()].map((l) => `${l.name} ${addressToText(l.address)} ${(l.deadline - now) / 1000} s`).sort()

const anyName = names('{matchPattern: "*.example.com"}')
const web = pod('web', ['10.1.0.2'])

beforeEach(() => {
  now = 0
  epoch = 1
  kernel = new Map()
  acknowledges = Promise.resolve(undefined)
  refuses = () => false
  earlier.length = 0
  compile = makeCompiler({ hostAddresses: [at('10.1.0.1')], upstreams: [], denyReply: 'refused' })
  snapshot = world(web + policy('web', anyName))
  keeper = makeKeeper(
    () => now,
    limits,
    datapath,
    makeMayLead({ privateAnswers: 'refuse', privateSuffixes: [] }),
    () => undefined,
    (how, { name, addresses, ttlSeconds }) => over.push(`${how} ${name} ${addresses.map(addressToText).join(',')} ${ttlSeconds} s`), // prettier-ignore
  )
  over = []
})

test('a lease that policy takes back is told of', async () => {
  await answer('web', 'a.example.com', '198.18.0.1')
  await answer('web', 'b.example.com', '198.18.0.2')
  over = []
  await change(web + policy('web', names('{matchName: a.example.com}')))
  expect(over).toEqual(['revoked b.example.com 198.18.0.2 60 s'])
})

test('what is learned, renewed and not taken is told of; what is told again is not', async () => {
  await answer('web', 'a.example.com', '198.18.0.1')
  // From the cache, its TTL in whole seconds: the lease ends when it did, or a fraction of a second later.
  now = 10_500
  await answer('web', 'a.example.com', '198.18.0.1', 50)
  expect(over).toEqual(['learned a.example.com 198.18.0.1 60 s'])
  now = 61_000
  await answer('web', 'a.example.com', '198.18.0.1')
  expect(over.slice(1)).toEqual(['renewed a.example.com 198.18.0.1 60 s'])
  over = []
  refuses = () => true
  await expect(answer('web', 'b.example.com', '198.18.0.2')).rejects.toThrow('refused')
  expect(over).toEqual(['learned b.example.com 198.18.0.2 60 s', 'revoked b.example.com 198.18.0.2 60 s'])
})

describe('what the kernel refused', () => {
  test('is not learned', async () => {
    refuses = () => true
    await expect(answer('web', 'a.example.com', '198.18.0.1')).rejects.toThrow('refused')
    expect([leased(), stands(), keeper.leases.nextDeadline()]).toEqual([[], [], undefined])
  })

  test('does not prolong what stood before', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 60)
    now = 50_000
    refuses = () => true
    await expect(answer('web', 'a.example.com', '198.18.0.1', 600)).rejects.toThrow('refused')
    expect([leased(), stands()]).toEqual([['a.example.com 198.18.0.1 10 s'], ['256 198.18.0.1 tcp/443 40 s']])
    expect(keeper.leases.nextDeadline()).toBe(90_000)
  })

  test('does not cut what was told without a commit, because it stood for long enough', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 60)
    now = 20_000
    await answer('web', 'a.example.com', '198.18.0.1', 45)
    refuses = () => true
    await expect(answer('web', 'a.example.com', '198.18.0.1', 600)).rejects.toThrow('refused')
    expect([leased(), stands()]).toEqual([['a.example.com 198.18.0.1 45 s'], ['256 198.18.0.1 tcp/443 70 s']])
  })

  test('leaves other names of the address alone', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 60)
    refuses = () => true
    await expect(answer('web', 'b.example.com', '198.18.0.1', 600)).rejects.toThrow('refused')
    expect([leased(), stands()]).toEqual([['a.example.com 198.18.0.1 60 s'], ['256 198.18.0.1 tcp/443 90 s']])
  })

  test('for one question and took for another is learned', async () => {
    refuses = () => true
    const first = answer('web', 'a.example.com', '198.18.0.1')
    refuses = () => false
    const { promise, resolve } = Promise.withResolvers<undefined>()
    acknowledges = promise
    const second = answer('web', 'a.example.com', '198.18.0.1')
    await expect(first).rejects.toThrow('refused')
    resolve(undefined)
    await second
    expect([leased(), stands()]).toEqual([['a.example.com 198.18.0.1 60 s'], ['256 198.18.0.1 tcp/443 90 s']])
  })

  test('does not keep the rest out when all is written again', async () => {
    for (let i = 1; i <= 300; i++) await answer('web', `n${i}.example.com`, `198.18.${i >> 8}.${i & 255}`)
    kernel.clear()
    epoch++
    refuses = (_, element) => element.includes(' 198.18.0.77 ')
    await expect(keeper.settle()).rejects.toThrow('refused')
    expect([stands().length, keeper.isSettled(), keeper.trouble()]).toEqual([299, false, '1 elements are not as they should be: Error: commit: refused']) // prettier-ignore
    refuses = () => false
    await keeper.settle()
    expect([stands().length, keeper.isSettled(), keeper.trouble()]).toEqual([300, true, undefined])
  })

  test('to take out is taken out later, and the rest at once', async () => {
    await answer('web', 'a.example.com', '198.18.0.1')
    await answer('web', 'b.example.com', '198.18.0.2')
    refuses = (verb, element) => verb === 'remove' && element.includes(' 198.18.0.1 ')
    await expect(keeper.clean(() => true)).rejects.toThrow('remove: refused')
    expect([leased(), stands(), keeper.isSettled()]).toEqual([[], ['256 198.18.0.1 tcp/443 90 s'], false])
    refuses = () => false
    await keeper.settle()
    expect([stands(), keeper.isSettled()]).toEqual([[], true])
  })

  test('to take out, and learned again meanwhile, stays', async () => {
    await answer('web', 'a.example.com', '198.18.0.1')
    refuses = (verb) => verb === 'remove'
    await expect(keeper.clean(() => true)).rejects.toThrow('refused')
    refuses = () => false
    await answer('web', 'a.example.com', '198.18.0.1')
    await keeper.settle()
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s'])
  })
})

describe('a door that a longer lease held open', () => {
  beforeEach(async () => {
    await answer('web', 'long.example.com', '198.18.0.1', 604_800)
    await answer('web', 'short.example.com', '198.18.0.1', 10)
  })

  test('closes with the shorter one when the longer is cleaned', async () => {
    await keeper.clean((lease) => lease.name === 'long.example.com')
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 40 s'])
  })

  test('closes with the shorter one when policy takes the longer', async () => {
    await change(web + policy('web', names('{matchName: short.example.com}')))
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 40 s'])
  })
})

describe('ports that policy cuts anew', () => {
  const rule = (name: string, first: number, last: number): string => names(`{matchName: ${name}.example.com}`, ports(first, last)) // prettier-ignore

  test('what is to go goes first: overlapping ranges are no obstacle', async () => {
    await change(web + policy('web', rule('a', 1000, 2000), rule('b', 3000, 4000)))
    await answer('web', 'a.example.com', '198.18.0.1')
    await change(web + policy('web', rule('a', 1500, 2500)))
    expect(stands()).toEqual(['256 198.18.0.1 tcp/1500-2500 90 s'])
  })

  test('a port that the kernel refused is added later, and the lease keeps what it has', async () => {
    await answer('web', 'a.example.com', '198.18.0.1')
    refuses = (_, element) => element.endsWith('tcp/80')
    const both = web + policy('web', anyName, names('{matchPattern: "*.example.com"}', ports(80)))
    await expect(change(both)).rejects.toThrow('refused')
    expect([stands(), keeper.isSettled()]).toEqual([['256 198.18.0.1 tcp/443 90 s'], false])
    refuses = () => false
    await keeper.settle()
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s', '256 198.18.0.1 tcp/80 90 s'])
  })

  test('a port that another name opened for a shorter time opens for the longer', async () => {
    await change(web + policy('web', names('{matchName: a.example.com}'), names('{matchName: b.example.com}', ports(80)))) // prettier-ignore
    await answer('web', 'a.example.com', '198.18.0.1', 600)
    await answer('web', 'b.example.com', '198.18.0.1', 10)
    await change(web + policy('web', names('{matchName: a.example.com}', ports(80)), names('{matchName: b.example.com}', ports(80)))) // prettier-ignore
    expect(stands()).toEqual(['256 198.18.0.1 tcp/80 630 s'])
  })
})

describe('a workload with new labels', () => {
  const both = policy('web', anyName) + policy('db', names('{matchName: pay.example.com}'))
  const db = pod('db', ['10.2.0.2'])
  const other = pod('other', ['10.1.0.3'], '{app: web}')
  const relabelled = (labels: string): string => pod('web', ['10.1.0.2'], labels)
  /** Everything up to the moment in which the kernel is given the new policy. */
  async function prepare(manifests: string): Promise<Snapshot> {
    const next = world(manifests)
    await keeper.prepare(snapshot, next)
    return next
  }
  async function comeIntoForce(next: Snapshot): Promise<void> {
    const before = snapshot
    snapshot = next
    await keeper.follow(before, next)
  }

  test('and an identity that nobody has yet finds there what its policy grants, before the kernel knows of it', async () => {
    snapshot = world(web + db + both)
    await answer('web', 'api.example.com', '198.18.0.1')
    await answer('web', 'pay.example.com', '198.18.0.2')
    const next = await prepare(relabelled('{app: db, side: a}') + db + both)
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s', '256 198.18.0.2 tcp/443 90 s', '258 198.18.0.2 tcp/443 90 s']) // prettier-ignore
    await comeIntoForce(next)
    expect(stands()).toEqual(['258 198.18.0.2 tcp/443 90 s'])
  })

  test('takes nothing along when the kernel refuses the new policy', async () => {
    await answer('web', 'api.example.com', '198.18.0.1')
    await prepare(relabelled('{app: web, side: a}') + policy('web', anyName))
    expect(stands()).toHaveLength(2)
    await keeper.follow(snapshot, snapshot)
    expect([stands(), keeper.leases.size()]).toEqual([['256 198.18.0.1 tcp/443 90 s'], 1])
  })

  test('and the identity of others brings them nothing before policy is in force', async () => {
    snapshot = world(web + db + policy('web', anyName) + policy('db', '{}'))
    await answer('web', 'api.example.com', '198.18.0.1')
    const next = await prepare(relabelled('{app: db}') + db + policy('web', anyName) + policy('db', anyName))
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s'])
    await comeIntoForce(next)
    expect(stands()).toEqual(['257 198.18.0.1 tcp/443 90 s'])
  })

  test('takes along what it learned while the kernel was given the new policy', async () => {
    const next = await prepare(relabelled('{app: web, side: a}') + policy('web', anyName))
    await answer('web', 'api.example.com', '198.18.0.1')
    await comeIntoForce(next)
    expect(stands()).toEqual(['257 198.18.0.1 tcp/443 90 s'])
  })

  test('takes along what it asked for itself, nothing that others asked for', async () => {
    snapshot = world(web + other + policy('web', anyName))
    await answer('web', 'a.example.com', '198.18.0.1')
    await answer('other', 'a.example.com', '198.18.0.1')
    await answer('other', 'b.example.com', '198.18.0.2')
    await change(relabelled('{app: web, side: a}') + other + policy('web', anyName))
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s', '256 198.18.0.2 tcp/443 90 s', '257 198.18.0.1 tcp/443 90 s']) // prettier-ignore
  })

  test('does not take along what it asked for under labels before its last', async () => {
    snapshot = world(web + other + policy('web', anyName))
    await answer('web', 'a.example.com', '198.18.0.1')
    await answer('other', 'a.example.com', '198.18.0.1')
    await change(relabelled('{app: web, side: a}') + other + policy('web', anyName))
    await keeper.clean((lease) => lease.identity === 257)
    await change(relabelled('{app: web, side: b}') + other + policy('web', anyName))
    await change(web + other + policy('web', anyName))
    await change(relabelled('{app: web, side: c}') + other + policy('web', anyName))
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s'])
  })

  test('comes into its policy though the kernel has no room for what it takes along', async () => {
    await answer('web', 'api.example.com', '198.18.0.1')
    refuses = (_, element) => element.startsWith('257')
    const next = await prepare(relabelled('{app: web, side: a}') + policy('web', anyName))
    await expect(comeIntoForce(next)).rejects.toThrow('refused')
    refuses = () => false
    await keeper.settle()
    expect(stands()).toEqual(['257 198.18.0.1 tcp/443 90 s'])
  })
})

describe('for how long an old answer may be told', () => {
  const fact = (who: string, ...addresses: string[]): Fact => {
    const { id, identity } = snapshot.endpoints.find((e) => e.name === who) ?? expect.fail(who)
    return { identity, endpoint: id, name: 'a.example.com', addresses: addresses.map(at), ttlSeconds: 0, grants: [] }
  }
  test('as long as all of it surely stands, less half the grace', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 60)
    now = 10_000
    await answer('web', 'a.example.com', '198.18.0.2', 60)
    expect(keeper.standsFor(fact('web', '198.18.0.2'))).toBe(75)
    expect(keeper.standsFor(fact('web', '198.18.0.1', '198.18.0.2'))).toBe(65)
    now = 80_000
    expect(keeper.standsFor(fact('web', '198.18.0.1', '198.18.0.2'))).toBe(0)
  })
  test('not where one address was never leased, nor for another identity', async () => {
    await change(web + policy('web', anyName) + pod('job', ['10.1.0.3']) + policy('job', anyName))
    await answer('web', 'a.example.com', '198.18.0.1')
    expect(keeper.standsFor(fact('web', '198.18.0.1', '198.18.0.2'))).toBe(0)
    expect(keeper.standsFor(fact('job', '198.18.0.1'))).toBe(0)
  })
  test('not when somebody else touched the ruleset since', async () => {
    await answer('web', 'a.example.com', '198.18.0.1')
    epoch++
    expect(keeper.standsFor(fact('web', '198.18.0.1'))).toBe(0)
  })
})

describe('a policy that lets its names lead to private addresses', () => {
  const open = policy('web', anyName).replace('name: web}', 'name: web, annotations: {namegate.io/allow-private-answers: "true"}}') // prettier-ignore
  test('does so no more: what was leased by it goes, the rest stays', async () => {
    await change(web + open)
    await answer('web', 'a.example.com', '10.9.0.1')
    await answer('web', 'a.example.com', '198.18.0.1')
    await change(web + open + pod('db', ['10.1.0.9']))
    expect(stands()).toEqual(['256 10.9.0.1 tcp/443 90 s', '256 198.18.0.1 tcp/443 90 s'])
    await change(web + policy('web', anyName))
    expect([leased(), stands()]).toEqual([['a.example.com 198.18.0.1 60 s'], ['256 198.18.0.1 tcp/443 90 s']])
  })
})

describe('an address that becomes one of the cluster', () => {
  const victim = pod('victim', ['198.18.0.1'])

  test('takes leases on it with it', async () => {
    await answer('web', 'a.example.com', '198.18.0.1')
    await change(web + victim + policy('web', anyName))
    expect([leased(), stands()]).toEqual([[], []])
  })

  test('takes what an earlier agent learned with it, now or at the start', async () => {
    await standing('256 198.18.0.1 any', '256 198.18.0.2 any', '256 10.1.0.1 any')
    await keeper.adopt(snapshot)
    expect(stands()).toEqual(['256 198.18.0.1 any 600 s', '256 198.18.0.2 any 600 s'])
    await change(web + victim + policy('web', anyName))
    expect(stands()).toEqual(['256 198.18.0.2 any 600 s'])
  })
})

describe('what an earlier agent learned', () => {
  test('goes at the start where nobody has the identity', async () => {
    await standing('256 198.18.0.1 any', '257 198.18.0.1 any')
    await keeper.adopt(snapshot)
    expect(stands()).toEqual(['256 198.18.0.1 any 600 s'])
  })

  test('goes with its identity', async () => {
    await change(web + pod('db', ['10.2.0.2']) + policy('web', anyName) + policy('db', anyName))
    await standing('256 198.18.0.1 any', '257 198.18.0.1 any')
    await keeper.adopt(snapshot)
    await change(web + policy('web', anyName))
    expect(stands()).toEqual(['256 198.18.0.1 any 600 s'])
  })

  test('goes with the grants that it may have come from, but for what was learned again', async () => {
    await standing('256 198.18.0.1 tcp/443', '256 198.18.0.2 tcp/443')
    await keeper.adopt(snapshot)
    await answer('web', 'a.example.com', '198.18.0.1')
    await change(web + policy('web', names('{matchName: a.example.com}')))
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s'])
  })

  const asks: [title: string, more: string][] = [
    ['server names', ', serverNames: [a.example.com]'],
    ['a listener', ', listener: {envoyConfig: {kind: CiliumEnvoyConfig, name: c}, name: l}'],
    ['HTTP rules', ', rules: {http: [{}]}'],
  ]
  for (const [title, more] of asks)
    test(`goes where its grant comes to ask for ${title}, which only a proxy can see`, async () => {
      await standing('256 198.18.0.1 tcp/443')
      await keeper.adopt(snapshot)
      await change(web + policy('web', anyName.replace(']}]', `]${more}}]`)))
      expect(stands()).toEqual([])
    })

  test('is taken out later where the kernel refuses, and troubles say so', async () => {
    await standing('257 198.18.0.1 any')
    refuses = () => true
    await expect(keeper.adopt(snapshot)).rejects.toThrow('remove: refused')
    expect(keeper.trouble()).toContain('refused')
    refuses = () => false
    await keeper.settle()
    expect([stands(), keeper.trouble()]).toEqual([[], undefined])
  })
})

describe("an earlier agent's journal", () => {
  const earlierLease = (over: Partial<EarlierLease> = {}): EarlierLease => ({ identity: 256, endpoint: 1, name: 'a.example.com', address: at('198.18.0.1'), ttlSeconds: 60, learnedAt: -10_000, ...over }) // prettier-ignore

  test('says which name stands: it is a lease again, for what was left of it', async () => {
    await standing('256 198.18.0.1 tcp/443')
    await keeper.adopt(snapshot, [earlierLease()])
    expect([leased(), stands()]).toEqual([['a.example.com 198.18.0.1 50 s'], ['256 198.18.0.1 tcp/443 80 s']])
    // And goes with the rule of its name, not with others.
    await change(web + policy('web', names('{matchName: a.example.com}')))
    expect(leased()).toEqual(['a.example.com 198.18.0.1 50 s'])
    await change(web + policy('web', names('{matchName: b.example.com}')))
    expect([leased(), stands()]).toEqual([[], []])
  })

  test('opens nothing: not what does not stand, not what policy does not grant now, not to another', async () => {
    await standing('256 198.18.0.1 tcp/443', '256 198.18.0.2 tcp/443')
    await keeper.adopt(snapshot, [
      earlierLease({ address: at('198.18.0.9') }),
      earlierLease({ name: 'a.example.net' }),
      earlierLease({ identity: 257 }),
      earlierLease({ address: at('198.18.0.2'), ttlSeconds: 86_400 * 365, learnedAt: 1e12 }),
    ])
    // A wall clock that was wrong prolongs nothing: the kernel says whole seconds, of which one is uncertain.
    expect(leased()).toEqual(['a.example.com 198.18.0.2 571 s'])
  })

  test('what is over, and stands for its grace or its connection, is judged when leases begin to end', async () => {
    await standing('256 198.18.0.1 tcp/443')
    await keeper.adopt(snapshot, [earlierLease({ learnedAt: -3_600_000 })])
    expect(keeper.leases.size()).toBe(1)
    expect(keeper.leases.expire().map(({ name }) => name)).toEqual(['a.example.com'])
  })
})

test('a lease dropped while its commit is under way does not stand when it is learned again', async () => {
  await answer('web', 'a.example.com', '198.18.0.1')
  await change(web + policy('web', anyName, names('{matchName: b.example.com}', ports(80))))
  const asked = answer('web', 'b.example.com', '198.18.0.1')
  const cleaned = keeper.clean((lease) => lease.name === 'b.example.com')
  await Promise.all([asked, cleaned])
  await keeper.settle()
  expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s'])
  await answer('web', 'b.example.com', '198.18.0.1')
  expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s', '256 198.18.0.1 tcp/80 90 s'])
  expect(identityOf('web')).toBe(256)
})

describe('at a bound', () => {
  /** `limit/budget count` of what went. */
  let evicted: string[]
  let connected: Set<string>
  beforeEach(() => {
    evicted = []
    connected = new Set()
    // One identity may hold two.
    keeper = makeKeeper(
      () => now,
      { ...limits, leasesMax: 8, zombieSecondsMax: 3600 },
      datapath,
      makeMayLead({ privateAnswers: 'refuse', privateSuffixes: [] }),
      () => undefined,
      (how, { name }, why) => over.push(`${how} ${name}${why === undefined ? '' : `: ${why.text}`}`),
      { hear: () => undefined, isInUse: (_, address) => connected.has(addressToText(address)), lost: () => undefined },
      ({ limit, budget }, count) => evicted.push(`${limit}/${budget} ${count}`),
    )
  })
  const settled = async (): Promise<void> => {
    while (!keeper.isSettled()) await Promise.resolve()
  }

  test('the oldest lease past its TTL makes room, in table and kernel, and it is told why', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 0)
    await answer('web', 'b.example.com', '198.18.0.2', 60)
    now = 20_000
    over = []
    await answer('web', 'c.example.com', '198.18.0.3', 60)
    await settled()
    expect(over).toEqual(['evicted a.example.com: its TTL was over: this identity holds 2 leases in 2 elements; the limit for one is 2 of each, a quarter of leasesMax', 'learned c.example.com']) // prettier-ignore
    expect(evicted).toEqual(['identity/leases 1'])
    expect(stands()).toEqual(['256 198.18.0.2 tcp/443 70 s', '256 198.18.0.3 tcp/443 90 s'])
  })

  test('a connection that began since the last look keeps its address, and the answer is refused', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 0)
    await answer('web', 'b.example.com', '198.18.0.2', 60)
    now = 20_000
    connected.add('198.18.0.1')
    await expect(answer('web', 'c.example.com', '198.18.0.3')).rejects.toThrow('this identity holds 2 leases')
    expect([evicted, stands().length]).toEqual([[], 2])
  })

  test('an address that went and is learned again in the same breath, or later, stands for whom it was told', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 0)
    await answer('web', 'b.example.com', '198.18.0.2', 60)
    now = 20_000
    await answer('web', 'c.example.com', '198.18.0.1', 60)
    await settled()
    expect(stands()).toEqual(['256 198.18.0.1 tcp/443 90 s', '256 198.18.0.2 tcp/443 70 s'])
    // The kernel takes its time over the removal; the commit behind it comes from a later question.
    now = 100_000
    let acknowledge: (value: undefined) => void = () => undefined
    acknowledges = new Promise((resolve) => (acknowledge = resolve))
    const first = answer('web', 'd.example.com', '198.18.0.4', 60)
    const again = answer('web', 'e.example.com', '198.18.0.2', 60)
    acknowledge(undefined)
    await Promise.all([first, again])
    await settled()
    expect(stands()).toEqual(['256 198.18.0.2 tcp/443 90 s', '256 198.18.0.4 tcp/443 90 s'])
  })

  test('what goes is asked of the kernel before what comes, for its sets may be full, and once', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 0)
    await answer('web', 'b.example.com', '198.18.0.2', 60)
    now = 20_000
    const asked: string[] = []
    refuses = (verb, element) => {
      asked.push(`${verb} ${element}`)
      return false
    }
    let acknowledge: (value: undefined) => void = () => undefined
    acknowledges = new Promise((resolve) => (acknowledge = resolve))
    const answered = answer('web', 'c.example.com', '198.18.0.3', 60)
    expect([keeper.isSettled(), keeper.needsSettling()]).toEqual([false, false])
    const settling = keeper.settle()
    acknowledge(undefined)
    await Promise.all([answered, settling])
    expect(keeper.isSettled()).toBe(true)
    expect(asked.filter((text) => !text.includes('198.18.0.2'))).toEqual(['remove 256 198.18.0.1 tcp/443', 'commit 256 198.18.0.3 tcp/443']) // prettier-ignore
  })

  test('what the kernel did not take out is owed, and taken out later', async () => {
    await answer('web', 'a.example.com', '198.18.0.1', 0)
    await answer('web', 'b.example.com', '198.18.0.2', 60)
    now = 20_000
    refuses = (verb) => verb === 'remove'
    await answer('web', 'c.example.com', '198.18.0.3', 60)
    expect([stands().length, keeper.isSettled()]).toEqual([3, false])
    refuses = () => false
    await keeper.settle()
    expect([stands().length, keeper.isSettled()]).toEqual([2, true])
  })
})
