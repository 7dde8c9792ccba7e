// The table in a real kernel: rendered text is what the kernel lists, policy changes in one step, learned addresses outlive a restart,
// and packets obey.
import { spawnSync } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { monotonic } from '../../src/clock.ts'
import { probeDialect, startDatapath, type Datapath } from '../../src/datapath/datapath.ts'
import type { LeaseElement, OpenPorts } from '../../src/datapath/element.ts'
import { makeLearnedSets } from '../../src/datapath/learned.ts'
import { KernelError, makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { renderStructure, renderSwitch, type StructureOptions } from '../../src/datapath/structure.ts'
import { Protocol, type Ports } from '../../src/net/ports.ts'
import type { Direction } from '../../src/policy/rules.ts'
import type { DirectionPolicy, Entry, Snapshot } from '../../src/policy/snapshot.ts'
import { addHost, answerEverywhere, answerOn, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'
import { at, denying, entry, host as hostIdentity, makeSnapshot, peers, range, tcp } from '../support/snapshot.ts'

const reason = whyNoKernel()
const structure: StructureOptions = {
  table: 'namegate',
  proxy: { port: 10053 },
  denied: 'reject',
  interfaces: ['web', 'db*'],
  prefixes: [],
  strangers: 'deny',
  learnedMax: 65536,
}
const digest = (text: string): string => String(text.length)
const ports = (first: number, last = first): OpenPorts => ({ kind: 'ports', protocol: Protocol.TCP, first, last })
const lease = (identity: number, address: string, opens: OpenPorts, seconds = 600): LeaseElement => ({ identity, address: at(address), ports: opens, timeoutMillis: seconds * 1000 }) // prettier-ignore

/** Two workloads: web is identity 256, db is 257; their egress is denied but for these entries, and what leases open. */
function snapshotOf(entries: Record<number, Entry[] | 'open'>): Snapshot {
  const policies = [256, 257].map((identity) => {
    const own = entries[identity] ?? []
    return [identity, own === 'open' ? {} : { egress: { ...denying(...own), fallbackFromHost: 'deny' as const } }] as const
  })
  return makeSnapshot({
    endpoints: [{ name: 'web', identity: 256, addresses: ['10.1.0.2', 'fd01::2'] }, { name: 'db', identity: 257, addresses: ['10.2.0.2', 'fd02::2'] }],
    policies: Object.fromEntries(policies),
    named: true,
  })
} // prettier-ignore

describe.skipIf(reason !== undefined)(`datapath ${reason ?? ''}`, () => {
  let web: Host
  let db: Host
  let world: Host
  let datapath: Datapath
  const start = (snapshot: Snapshot, options = structure): Promise<Datapath> => startDatapath({ nft: makeNft(), netlink: makeNetlink(openNetlink()), clock: monotonic, structure: options, digest }, snapshot) // prettier-ignore

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    db = await addHost('db0', ['10.2.0.2/24', 'fd02::2/64'], ['10.2.0.1/24', 'fd02::1/64'])
    world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    await answerEverywhere(world)
    datapath = await start(snapshotOf({}))
  })
  afterAll(() => {
    datapath?.close()
    for (const host of [web, db, world]) host?.stop()
  })

  const connect = (from: Host, address: string, port: number): boolean =>
    from.sh(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}'`).status === 0

  const variants: StructureOptions[] = [
    structure,
    {
      ...structure,
      denied: 'drop',
      proxy: { port: 53, address4: '10.1.0.1', address6: 'fd01::1' },
      strangers: 'allow',
    },
    { ...structure, interfaces: [], prefixes: ['10.0.0.0/8', 'fd00::/8'].map(range) },
    {
      ...structure,
      interfaces: ['veth*', 'a'],
      prefixes: ['10.9.0.0/16', '10.8.0.0/16', '10.2.0.0/16'].map(range),
      proxy: { port: 53, address4: '10.1.0.1' },
      hostPolicies: { upstreams: [{ address: at('192.0.2.53'), port: 53 }, { address: at('2001:db8::53'), port: 5353 }] }, // prettier-ignore
    },
    {
      ...structure,
      interfaces: ['eth0', 'eth10', 'eth2', 'docker0', 'veth*', 'br-1234567890ab', 'eth0'],
      proxy: { port: 53, address4: '0.0.0.0', address6: 'FD01:0::0001' },
    },
    { ...structure, hostPolicies: { upstreams: [] } },
    { ...structure, interfaces: [], prefixes: [range('10.0.0.0/8')] },
  ]
  for (const [i, options] of variants.entries())
    test(`the kernel lists the structure as it was rendered, and after each switch (${i})`, () => {
      const variant = { ...options, table: `variant${i}` }
      sh('nft -f -', renderStructure(variant, 'closed'))
      const listed = (): string => sh(`nft -s -t list table inet ${variant.table}`)
      expect(listed()).toBe(renderStructure(variant, 'closed'))
      for (const to of ['a', 'b', 'a'] as const) {
        sh('nft -f -', renderSwitch(variant, to))
        expect(listed()).toBe(renderStructure(variant, to))
      }
      sh(`nft delete table inet ${variant.table}`)
    })

  test('default deny: nothing passes, on either family, and says so at once', () => {
    expect(connect(web, '198.18.0.1', 443)).toBe(false)
    expect(connect(web, '2001:db8::1', 443)).toBe(false)
  })

  test('a learned address opens its port to its identity alone', async () => {
    await datapath.commit([lease(256, '198.18.0.1', ports(443)), lease(256, '2001:db8::1', ports(443))])
    expect(connect(web, '198.18.0.1', 443)).toBe(true)
    expect(connect(web, '2001:db8::1', 443)).toBe(true)
    expect(connect(web, '198.18.0.1', 444)).toBe(false)
    expect(connect(db, '198.18.0.1', 443)).toBe(false)
    expect(connect(db, '2001:db8::1', 443)).toBe(false)
  })

  test('ranges of ports and any port', async () => {
    await datapath.commit([lease(256, '198.18.0.2', ports(1000, 2000)), lease(256, '2001:db8::2', ports(1000, 2000))])
    await datapath.commit([lease(256, '198.18.0.3', { kind: 'all' }), lease(256, '2001:db8::3', { kind: 'all' })])
    expect(['198.18.0.2', '2001:db8::2'].map((a) => [999, 1000, 2000, 2001].map((p) => connect(web, a, p)))).toEqual(
      Array<boolean[]>(2).fill([false, true, true, false]),
    )
    expect(connect(web, '198.18.0.3', 7)).toBe(true)
    expect(web.sh('ping -c1 -W2 198.18.0.3').status).toBe(0)
    expect(web.sh('ping -c1 -W2 2001:db8::3').status).toBe(0)
    expect(web.sh('ping -c1 -W2 198.18.0.2').status).not.toBe(0)
  })

  test('removed, present or not', async () => {
    await datapath.remove([lease(256, '198.18.0.2', ports(1000, 2000)), lease(256, '198.18.77.77', ports(1))])
    expect(connect(web, '198.18.0.2', 1000)).toBe(false)
  })

  test('CIDRs by policy, deny before allow and before leases', async () => {
    await datapath.commit([lease(256, '198.18.9.9', ports(443))])
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('198.18.8.0/23'), ports(80, 90)), entry('deny', peers('198.18.9.0/24'), { kind: 'all' })], 257: 'open' })) // prettier-ignore
    expect(connect(web, '198.18.8.1', 80)).toBe(true)
    expect(connect(web, '198.18.8.1', 91)).toBe(false)
    expect(connect(web, '198.18.9.1', 80)).toBe(false)
    expect(connect(web, '198.18.9.9', 443)).toBe(false)
    expect(connect(db, '198.19.1.1', 1)).toBe(true)
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('198.18.8.0/24'), { kind: 'all' })] }))
    expect(connect(web, '198.18.9.9', 443)).toBe(true)
    expect(web.sh('ping -c1 -W2 198.18.8.1').status).toBe(0)
    expect(connect(db, '198.19.1.1', 1)).toBe(false)
  })

  test('every port of every protocol with ports is not ICMP', async () => {
    const all = [Protocol.TCP, Protocol.UDP, Protocol.SCTP].map((protocol) => entry('allow', peers('198.18.4.0/24'), { kind: 'ports', protocol, first: 0, last: 65535 })) // prettier-ignore
    await datapath.apply(snapshotOf({ 256: all }))
    expect([connect(web, '198.18.4.4', 9), web.sh('ping -c3 -i0.2 -W1 198.18.4.4').status]).toEqual([true, 1])
  })

  test('a forged source address is refused, from another workload or from nowhere', async () => {
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('0.0.0.0/0'), { kind: 'all' })] }))
    db.sh('ip addr add 10.1.0.2/32 dev eth0; ip addr add 10.99.0.1/32 dev eth0')
    const forged = (source: string): number | null => db.sh(`ping -c1 -W1 -I ${source} 198.18.0.50`).status
    expect(web.sh('ping -c1 -W2 198.18.0.50').status).toBe(0)
    expect([forged('10.1.0.2'), forged('10.99.0.1')]).toEqual([1, 1])
    db.sh('ip addr del 10.1.0.2/32 dev eth0; ip addr del 10.99.0.1/32 dev eth0')
  })

  test('this host itself is behind the policy too', async () => {
    await datapath.apply(snapshotOf({}))
    expect(connect(web, '10.1.0.1', 22)).toBe(false)
    expect(connect(web, '10.1.0.1', 10053)).toBe(false)
  })

  test('denied flows are read back with their packets', async () => {
    web.sh('ping -c2 -i0.2 -W1 198.18.5.5')
    connect(web, '198.18.5.6', 8443)
    connect(db, '2001:db8::5', 99)
    const denied = (await datapath.denied()).filter((f) =>
      [at('198.18.5.5'), at('198.18.5.6'), at('2001:db8::5')].includes(f.address),
    )
    expect(denied).toContainEqual({
      direction: 'egress',
      identity: 256,
      address: at('198.18.5.5'),
      protocol: 1,
      port: undefined,
      packets: 2,
    })
    expect(denied).toContainEqual({
      direction: 'egress',
      identity: 256,
      address: at('198.18.5.6'),
      protocol: 6,
      port: 8443,
      packets: 1,
    })
    expect(denied).toContainEqual({
      direction: 'egress',
      identity: 257,
      address: at('2001:db8::5'),
      protocol: 6,
      port: 99,
      packets: 1,
    })
  })

  test('established connections go on when the policy that let them in is gone', async () => {
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('198.18.0.60'), { kind: 'all' })] }))
    // One ICMP identifier is one flow.
    expect(web.sh('ping -c1 -W2 -e 77 198.18.0.60').status).toBe(0)
    await datapath.apply(snapshotOf({}))
    expect(web.sh('ping -c1 -W2 -e 77 198.18.0.60').status).toBe(0)
    expect(web.sh('ping -c1 -W1 -e 78 198.18.0.60').status).not.toBe(0)
  })

  test('between the ports of a connection that was cut a new one may begin', async () => {
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('198.18.0.0/15'), tcp(443))] }))
    const of = { protocol: 6, source: at('10.1.0.2'), destination: at('198.18.0.7'), destinationPort: 443, peer: at('198.18.0.7'), peerPort: 443, back: at('10.1.0.2'), icmpType: undefined, id: 1, zone: 0 } // prettier-ignore
    await datapath.cut([{ ...of, sourcePort: 4000, backPort: 4000 }])
    await datapath.cut([{ ...of, sourcePort: 4000, backPort: 4000 }, { ...of, protocol: 17, sourcePort: 4001, backPort: 4001 }, { ...of, protocol: 1, sourcePort: 0, backPort: 0 }]) // prettier-ignore
    expect(sh('nft list set inet namegate cut_tcp4')).toContain('tcp . 198.18.0.7 . 443 . 10.1.0.2 . 4000 timeout 1d')
    const dial = `require('net').connect({ host: '198.18.0.7', port: 443, localPort: 4000 }).on('end', () => console.log('ended')).on('error', (e) => console.log(e.code))`
    expect(web.sh(`timeout 5 ${process.execPath} -e "${dial}"`).out).toBe('ended\n')
    await datapath.apply(snapshotOf({}))
  })

  test('a restart adopts the table: learned addresses stand, no moment is open', async () => {
    await datapath.commit([lease(256, '198.18.0.70', ports(443))])
    datapath.close()
    expect(connect(web, '198.18.0.70', 443)).toBe(true)
    expect(connect(web, '198.18.0.71', 443)).toBe(false)
    datapath = await start(snapshotOf({ 257: 'open' }))
    expect(connect(web, '198.18.0.70', 443)).toBe(true)
    expect(connect(web, '198.18.0.71', 443)).toBe(false)
    expect(connect(db, '198.18.0.71', 443)).toBe(true)
  })

  test('learned addresses are read back as they were written', async () => {
    const written = [
      lease(256, '198.18.44.1', ports(443)),
      lease(257, '2001:db8::44', ports(1000, 2000)),
      lease(256, '198.18.44.2', { kind: 'all' }),
    ]
    await datapath.commit(written)
    const key = ({ identity, address, ports }: LeaseElement): string => JSON.stringify([identity, address, ports])
    const read = (await datapath.learned()).map(key)
    for (const element of written) expect(read).toContain(key(element))
  })

  test('the epoch changes when somebody else changes the ruleset, not by our own commits', async () => {
    const before = datapath.epoch()
    await datapath.commit([lease(256, '198.18.0.80', ports(443))])
    await datapath.commit([lease(256, '198.18.0.80', ports(443), 900), lease(256, '198.18.0.81', ports(443))])
    await datapath.remove([lease(256, '198.18.0.81', ports(443))])
    expect(datapath.epoch()).toBe(before)
    sh('nft flush set inet namegate learned4')
    const after = datapath.epoch()
    expect(after).not.toBe(before)
    expect(datapath.epoch()).toBe(after)
  })

  test('nor by our own policy changes, whoever asks and commits meanwhile; somebody else is noticed in all that', async () => {
    const before = datapath.epoch()
    const seen = new Set<number>()
    let isOver = false
    const asking = (async () => {
      for (let i = 0; !isOver; i++) {
        seen.add(datapath.epoch())
        await datapath.commit([lease(256, `198.18.60.${i & 255}`, ports(443))])
      }
    })()
    const one = (i: number): Entry => entry('allow', peers(`198.18.${i >> 8}.${i & 255}`), ports(1))
    for (const count of [300, 600, 1, 900]) await datapath.apply(snapshotOf({ 256: Array.from({ length: count }, (_, i) => one(i)) })) // prettier-ignore
    isOver = true
    await asking
    expect(datapath.epoch()).toBe(before)
    // While it could not be told who it was, nothing is relied upon.
    expect([...seen].filter((epoch) => epoch !== before && !Number.isNaN(epoch))).toEqual([])
    const hand = datapath.apply(snapshotOf({ 256: [one(7)] }))
    sh('nft flush set inet namegate learned4')
    await hand
    expect(datapath.epoch()).not.toBe(before)
  })

  test('a commit that has to wait for a large ruleset of somebody else keeps the event loop from nothing', async () => {
    sh(`nft add table inet large; nft add map inet large ranges '{ type ipv4_addr : classid; flags interval; }'`)
    const elements = Array.from({ length: 40_000 }, (_, i) => `20.${i >> 8}.${i & 255}.0/24 : 1:${(i & 1).toString()}`) // prettier-ignore
    const lines = [0, 10_000, 20_000, 30_000].map((i) => `add element inet large ranges { ${elements.slice(i, i + 10_000).join(', ')} }\n`) // prettier-ignore
    let isOver = false
    const other = makeNft()(['-f', '-'], lines.join('')).finally(() => (isOver = true))
    let turns = 0
    const turning = (async () => {
      for (; !isOver; turns++) await new Promise((resolve) => setImmediate(resolve))
    })()
    let longest = { took: 0, turned: 0 }
    for (let i = 0; !isOver; i++) {
      const [start, before] = [performance.now(), turns]
      await datapath.commit([lease(256, `198.18.61.${i & 255}`, ports(443))])
      const took = performance.now() - start
      if (took > longest.took) longest = { took, turned: turns - before }
    }
    await Promise.all([other, turning])
    sh('nft delete table inet large')
    expect(longest.took).toBeGreaterThan(20)
    expect(longest.turned).toBeGreaterThan(20)
  })

  test('a commit is sent at once where nobody else changes the ruleset, aside for a while where somebody did', async () => {
    let now = 0
    const dialect = { renewal: 'replace', removal: 'replace' } as const
    const sets = makeLearnedSets(makeNetlink(openNetlink()), 'namegate', () => now, dialect)
    /** Whether the kernel had so many elements before the event loop turned. */
    async function isAtOnce(count = 1): Promise<boolean> {
      let hasTurned = false
      const done = sets.commit(Array.from({ length: count }, (_, i) => lease(256, `198.18.62.${i}`, ports(443))))
      setImmediate(() => (hasTurned = true))
      await done
      return !hasTurned
    }
    sets.epoch()
    expect(await isAtOnce()).toBe(true)
    expect(await isAtOnce(200)).toBe(false)
    expect(await isAtOnce()).toBe(true)
    sh('nft add table inet others')
    expect(await isAtOnce()).toBe(false)
    now += 599_999
    expect(await isAtOnce()).toBe(false)
    now += 1
    expect(await isAtOnce()).toBe(true)
    await sets.ours(async () => {
      await makeNft()(['delete', 'table', 'inet', 'others'])
      expect(await isAtOnce()).toBe(false)
    })
    expect(await isAtOnce()).toBe(true)
    sets.close()
  })

  test('closed: what is under way is acknowledged, what comes later is refused', async () => {
    const other = await start(snapshotOf({}), { ...structure, table: 'closing' })
    const first = other.commit([lease(256, '198.18.0.1', ports(443))])
    await new Promise((resolve) => setImmediate(resolve))
    other.close()
    other.close()
    await first
    await expect(other.commit([lease(256, '198.18.0.2', ports(443))])).rejects.toMatchObject({ code: 'EBADF' })
    sh('nft delete table inet closing')
  })

  test('committing again renews the timeout', async () => {
    await datapath.commit([lease(256, '198.18.0.82', ports(443), 60)])
    await datapath.commit([lease(256, '198.18.0.82', ports(443), 7200)])
    expect(sh('nft list set inet namegate learned4')).toContain('198.18.0.82 . tcp . 443 timeout 2h')
  })

  test('a kernel that does not renew is made to, in the same transaction', async () => {
    const sets = makeLearnedSets(makeNetlink(openNetlink()), 'namegate', monotonic, {
      renewal: 'replace',
      removal: 'replace',
    })
    await sets.commit([lease(256, '198.18.0.83', ports(443), 60)])
    await sets.commit([lease(256, '198.18.0.83', ports(443), 7200), lease(256, '198.18.0.84', ports(1000, 2000), 7200)])
    expect(sh('nft list set inet namegate learned4')).toContain('198.18.0.83 . tcp . 443 timeout 2h')
    expect(connect(web, '198.18.0.84', 1500)).toBe(true)
    await sets.remove([lease(256, '198.18.0.83', ports(443)), lease(256, '198.18.0.84', ports(1000, 2000)), lease(256, '198.18.0.85', ports(443))]) // prettier-ignore
    for (const set of ['learned4', 'learned_range4'])
      expect(sh(`nft list set inet namegate ${set}`)).not.toMatch(/198\.18\.0\.8[345]/)
    sets.close()
    // What this kernel does by itself decides which way the agent goes.
    const [major = 0, minor = 0] = sh('uname -r').split('.').map(Number)
    const found = await probeDialect(makeNft(), makeNetlink(openNetlink()), 'other', monotonic)
    if (major > 6 || (major === 6 && minor >= 12)) expect(found.renewal).toBe('update')
    if (major > 6 || (major === 6 && minor >= 3)) expect(found.removal).toBe('destroy')
    expect(sh('nft list tables')).not.toContain('probe')
  })

  describe('removal', () => {
    const rows = [
      { title: 'of what is not there, from full sets', there: [lease(256, '198.18.0.1', ports(1)), lease(256, '198.18.0.2', ports(1))], gone: [lease(256, '198.18.0.3', ports(1))] },
      { title: 'of what is and of what is not there', there: [lease(256, '198.18.0.1', ports(1)), lease(256, '198.18.0.2', ports(1))], gone: [lease(256, '198.18.0.1', ports(1)), lease(256, '198.18.0.3', ports(1)), lease(256, '198.18.0.2', ports(1))] },
      { title: 'of a range that overlaps another', there: [lease(256, '198.18.0.1', ports(1000, 2000))], gone: [lease(256, '198.18.0.1', ports(1500, 2500))] },
      { title: 'of any port, IPv6', there: [lease(256, '2001:db8::1', { kind: 'all' }), lease(256, '2001:db8::2', { kind: 'all' })], gone: [lease(256, '2001:db8::3', { kind: 'all' }), lease(256, '2001:db8::1', { kind: 'all' })] },
    ] // prettier-ignore
    for (const { title, there, gone } of rows)
      test(title, async () => {
        const small = await start(snapshotOf({}), { ...structure, table: 'small', learnedMax: 2 })
        const key = ({ identity, address, ports: open }: LeaseElement): string => JSON.stringify([identity, address, open]) // prettier-ignore
        try {
          await small.commit(there)
          await small.remove(gone)
          const left = there.map(key).filter((one) => !gone.map(key).includes(one))
          expect((await small.learned()).map(key).sort()).toEqual(left.sort())
        } finally {
          small.close()
          sh('nft delete table inet small')
        }
      })
  })

  test('a table that is gone: the commit fails by name, repair brings it back', async () => {
    sh('nft delete table inet namegate')
    await expect(datapath.commit([lease(256, '198.18.0.90', ports(443))])).rejects.toMatchObject({ code: 'ENOENT' })
    await expect(datapath.commit([lease(256, '198.18.0.90', ports(443))])).rejects.toBeInstanceOf(KernelError)
    expect((await datapath.repair()).found).toBe('reloaded')
    expect((await datapath.repair()).found).toBe('stands')
    await datapath.commit([lease(256, '198.18.0.90', ports(443))])
    expect([connect(web, '198.18.0.90', 443), connect(web, '198.18.0.91', 443)]).toEqual([true, false])
  })

  test('policy maps changed by hand are made true by the next change', async () => {
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('198.18.4.1'), ports(1))] }))
    sh('for copy in a b; do nft flush map inet namegate egress_port4_$copy; done')
    await datapath.apply(snapshotOf({ 256: [entry('allow', peers('198.18.4.2'), ports(1))] }))
    expect([connect(web, '198.18.4.1', 1), connect(web, '198.18.4.2', 1)]).toEqual([false, true])
  })

  test('one element that the kernel refuses does not hold up the others', async () => {
    const bad = lease(256, '198.18.0.1', ports(5000, 4000))
    const results = await Promise.allSettled([
      datapath.commit([bad]),
      datapath.commit([lease(256, '198.18.0.95', ports(443))]),
    ])
    expect(results.map((r) => r.status)).toEqual(['rejected', 'fulfilled'])
    expect(connect(web, '198.18.0.95', 443)).toBe(true)
  })

  test('1 000 commits at once are all acknowledged', async () => {
    const all = Array.from({ length: 1000 }, (_, i) => lease(256, `198.19.${i >> 8}.${i & 255}`, ports(443)))
    await Promise.all(all.map((element) => datapath.commit([element])))
    expect(sh('nft list set inet namegate learned4').match(/198\.19\./g)).toHaveLength(1000)
  })

  describe('between workloads, and from this host', () => {
    const all: Ports = { kind: 'all' }
    const both = (web: Partial<Record<Direction, DirectionPolicy>>, db: Partial<Record<Direction, DirectionPolicy>>, of: Partial<DirectionPolicy> = {}): Snapshot =>
      makeSnapshot({
        endpoints: [{ name: 'web', identity: 256, addresses: ['10.1.0.2', 'fd01::2'] }, { name: 'db', identity: 257, addresses: ['10.2.0.2', 'fd02::2'] }],
        addresses: { '10.1.0.1': hostIdentity, '10.2.0.1': hostIdentity, 'fd01::1': hostIdentity, 'fd02::1': hostIdentity },
        policies: { 256: web, 257: db, 1: { egress: { ...denying(entry('allow', peers(257), tcp(80))), ...of } } },
      }) // prettier-ignore
    const ping = (from: Host, to: string, options = ''): boolean =>
      from.sh(`ping -c1 -W1 ${options} ${to}`).status === 0
    const gate: Host = { sh: (script: string) => ({ status: spawnSync('bash', ['-c', script]).status, out: '', err: '' }) } as Host // prettier-ignore

    beforeAll(async () => {
      for (const host of [web, db, world]) await answerOn(host, [53, 80, 443])
    })

    test('a packet passes both the policy of its source and that of its destination', async () => {
      const ingress = denying(entry('allow', peers(256), tcp(80)))
      await datapath.apply(both({}, { ingress }))
      expect([connect(web, '10.2.0.2', 80), connect(web, 'fd02::2', 80), connect(web, '10.2.0.2', 443)]).toEqual([true, true, false]) // prettier-ignore
      expect([connect(world, '10.2.0.2', 80), connect(world, 'fd02::2', 80), connect(world, '10.1.0.2', 80)]).toEqual([false, false, true]) // prettier-ignore
      await datapath.apply(both({ egress: denying(entry('allow', peers(257), tcp(443))) }, { ingress }))
      expect([connect(web, '10.2.0.2', 80), connect(web, '10.2.0.2', 443)]).toEqual([false, false])
      const denied = (await datapath.denied()).filter(({ port, address }) => port === 443 && [at('10.1.0.2'), at('10.2.0.2')].includes(address)) // prettier-ignore
      expect(denied).toEqual([{ direction: 'ingress', identity: 257, address: at('10.1.0.2'), protocol: 6, port: 443, packets: 2 }]) // prettier-ignore
    })

    test('answers pass: what was let in may answer, whatever its own egress', async () => {
      await datapath.apply(both({ ingress: denying() }, { egress: denying(), ingress: denying(entry('allow', peers(256), all)) })) // prettier-ignore
      expect([connect(web, '10.2.0.2', 80), ping(web, '10.2.0.2'), ping(db, '10.1.0.2')]).toEqual([true, true, false])
    })

    test('types of ICMP are told apart', async () => {
      const ingress = denying(entry('deny', peers(256), { kind: 'icmp', family: 4, type: 8 }), entry('allow', peers(256), { kind: 'protocol', protocol: 1 }), entry('allow', peers(256), { kind: 'icmp', family: 6, type: 128 })) // prettier-ignore
      await datapath.apply(both({}, { ingress }))
      expect([ping(web, '10.2.0.2'), ping(web, 'fd02::2')]).toEqual([false, true])
    })

    test('this host reaches its workloads, but where a rule says otherwise', async () => {
      await datapath.apply(both({}, { ingress: denying() }))
      expect([connect(gate, '10.2.0.2', 80), connect(gate, 'fd02::2', 80), ping(gate, '10.2.0.2')]).toEqual([true, true, true]) // prettier-ignore
      await datapath.apply(both({}, { ingress: denying(entry('deny', peers(hostIdentity), tcp(80))) }))
      expect([connect(gate, '10.2.0.2', 80), connect(gate, 'fd02::2', 80), connect(gate, '10.2.0.2', 443)]).toEqual([false, false, true]) // prettier-ignore
    })

    test("this host's address does not come from outside", async () => {
      await datapath.apply(both({}, { ingress: denying() }))
      db.sh(`nft -f - <<< 'table inet count { counter got { }; chain in { type filter hook prerouting priority -300; icmpv6 type echo-request counter name got; }; }'`) // prettier-ignore
      world.sh('ip addr add fd02::1/128 dev lo nodad; ip route add fd02::2 via fd03::1')
      const got = (): number => Number(/packets (\d+)/.exec(db.sh('nft list counter inet count got').out)?.[1])
      expect(ping(gate, 'fd02::2')).toBe(true)
      expect(got()).toBe(1)
      ping(world, 'fd02::2', '-I fd02::1')
      expect(got()).toBe(1)
      world.sh('ip addr del fd02::1/128 dev lo; ip route del fd02::2')
      db.sh('nft delete table inet count')
    })

    test('a DNS server among the workloads: port 53 is a port like others to those who come from elsewhere', async () => {
      await datapath.apply(both({}, { ingress: denying(entry('allow', peers('10.3.0.0/24'), tcp(53))) }))
      expect([connect(world, '10.2.0.2', 53), connect(world, '10.2.0.2', 80), connect(gate, '10.2.0.2', 53)]).toEqual([true, false, true]) // prettier-ignore
      await datapath.apply(both({}, { ingress: denying() }))
      expect(connect(world, '10.2.0.2', 53)).toBe(false)
    })

    test('a workload that meets itself by way of a service', async () => {
      await datapath.apply(both({ egress: denying(), ingress: denying() }, {}))
      sh(`nft -f - <<< 'table ip vip { chain before { type nat hook prerouting priority dstnat; ip daddr 192.0.2.80 dnat to 10.1.0.2; }; chain after { type nat hook postrouting priority srcnat; ct status dnat masquerade; }; }'`) // prettier-ignore
      expect([connect(web, '192.0.2.80', 80), connect(db, '192.0.2.80', 80)]).toEqual([true, false])
      sh('nft delete table ip vip')
    })

    test('audit: what would be denied passes, and is noted', async () => {
      await datapath.apply(both({ egress: { ...denying(), audit: true } }, { ingress: { ...denying(), audit: true } }))
      expect([connect(web, '10.2.0.2', 80), connect(web, '198.18.61.1', 443)]).toEqual([true, true])
      const noted = (await datapath.denied()).map(({ direction, identity, address, port }) => [direction, identity, address, port]) // prettier-ignore
      expect(noted).toContainEqual(['egress', 256, at('10.2.0.2'), 80])
      expect(noted).toContainEqual(['ingress', 257, at('10.1.0.2'), 80])
      expect(noted).toContainEqual(['egress', 256, at('198.18.61.1'), 443])
    })

    test("this host's own policies: off, they hold for nothing; on, they spare what it cannot live without", async () => {
      await datapath.apply(both({}, {}))
      expect([connect(gate, '198.18.0.1', 443), connect(gate, '10.1.0.2', 80)]).toEqual([true, true])
      datapath.close()
      datapath = await start(both({}, {}), { ...structure, hostPolicies: { upstreams: [{ address: at('198.18.0.53'), port: 53 }] } }) // prettier-ignore
      // The links' addresses are this host's; the world's link has one that is not known to be.
      expect([connect(gate, '10.1.0.2', 80), connect(gate, '10.2.0.2', 80), connect(gate, '10.2.0.2', 443)]).toEqual([false, true, false]) // prettier-ignore
      expect(gate.sh('ip -6 neigh flush dev web; ping -c1 -W2 ::1').status).toBe(0)
      const denied = (await datapath.denied()).filter(({ identity }) => identity === 1)
      expect(denied).toContainEqual({ direction: 'egress', identity: 1, address: at('10.1.0.2'), protocol: 6, port: 80, packets: 1 }) // prettier-ignore
      // Its upstream stays in reach from its known addresses too, its workloads get their answers, and the link works.
      expect(gate.sh(`timeout 3 ${process.execPath} -e "require('net').connect({ host: '198.18.0.53', port: 53, localAddress: '10.2.0.1' }).on('connect', () => process.exit(0)).on('error', () => process.exit(1))"`).status).toBe(0) // prettier-ignore
      expect(gate.sh(`timeout 3 ${process.execPath} -e "require('net').connect({ host: '198.18.0.54', port: 53, localAddress: '10.2.0.1' }).on('connect', () => process.exit(0)).on('error', () => process.exit(1))"`).status).toBe(1) // prettier-ignore
      expect([ping(web, '10.1.0.1'), ping(web, 'fd01::1'), ping(db, 'fd02::1')]).toEqual([true, true, true])
    })
  })
})
