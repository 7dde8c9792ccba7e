// What a hostile workload sends, and what somebody else's hand does to the table: nothing opens, nobody is silenced.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Agent, AgentParts } from '../../src/agent.ts'
import { identityToText } from '../../src/datapath/desired.ts'
import { openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft, type Nft } from '../../src/datapath/nft.ts'
import { verdictNumbers } from '../../src/datapath/structure.ts'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { settings, startTestAgent } from '../support/agent.ts'
import { temporaryFolder } from '../support/folder.ts'
import { range } from '../support/snapshot.ts'
import { addHost, answerEverywhere, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const pod = (name: string, addresses: string[]): string => `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, labels: {app: ${name}}}
status: {podIPs: [${addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`
const policy = (app: string, egress: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${app}}
spec:
  endpointSelector: {matchLabels: {app: ${app}}}
  egress: [${egress}]
`
const pods = pod('web', ['10.1.0.2', 'fd01::2']) + pod('db', ['10.2.0.2', 'fd02::2'])
const names = '{toFQDNs: [{matchPattern: "*.example.com"}], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}'
const base = pods + policy('web', names) + policy('db', '{}')

describe.skipIf(reason !== undefined)(`intruders ${reason ?? ''}`, () => {
  let web: Host
  let db: Host
  let world: Host
  let upstream: EmbeddedUpstream
  let agent: Agent | undefined
  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    db = await addHost('db', ['10.2.0.2/24', 'fd02::2/64'], ['10.2.0.1/24', 'fd02::1/64'])
    world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    sh('sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.db.rp_filter=0 net.ipv4.conf.web.rp_filter=0')
    await answerEverywhere(world)
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
  })
  afterEach(async () => {
    await agent?.close()
    agent = undefined
    sh('nft delete table inet namegate 2>/dev/null || true')
  })
  afterAll(async () => {
    await upstream?.close()
    for (const host of [web, db, world]) host?.stop()
  })
  const start = async (manifest: string, parts: Partial<AgentParts> = {}): Promise<Agent> =>
    (agent = await startTestAgent(manifest, parts))
  const connect = async (from: Host, address: string, port = 443): Promise<boolean> =>
    (await from.run(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}'`)).status === 0
  const node = (host: Host, script: string) => host.run(`${process.execPath} -e "${script}"`)

  test('a datagram from port 0: no answer, and the next one has its own', async () => {
    await start(base)
    web.sh(
      `nft -f - <<< 'table ip zero { chain out { type filter hook output priority 0; udp dport 53 udp sport set 0; }; }'`,
    )
    const silent = await web.run('dig +tries=1 +time=1 api.example.com @9.9.9.9')
    expect(silent.out).toMatch(/timed out|no servers/)
    web.sh('nft delete table ip zero')
    expect((await web.run('dig +tries=1 +time=3 +short api.example.com @9.9.9.9')).out).toBe('198.18.0.20\n')
  })

  test("a forged source does not ride on another's established flow", async () => {
    await start(pods + policy('web', '{toEntities: [world]}') + policy('db', '{}'))
    const counter = 'udp dport 9999 counter name got'
    world.sh(
      `nft -f - <<< 'table ip count { counter got { }; chain in { type filter hook prerouting priority -300; ${counter}; }; }'`,
    )
    const got = (): number => Number(/packets (\d+)/.exec(world.sh('nft list counter ip count got').out)?.[1])
    const hearing = node(world, `const s = require('dgram').createSocket('udp4'); s.bind(9999, '198.18.0.50', () => console.log('up')); s.on('message', (m, f) => s.send('ok', f.port, f.address)); setTimeout(() => process.exit(), 4000)`) // prettier-ignore
    const say = (address: string): string =>
      `const s = require('dgram').createSocket('udp4'); s.bind(4444, '${address}', () => s.send('x', 9999, '198.18.0.50', () => setTimeout(() => process.exit(), 200)))`
    await expect
      .poll(async () => (await node(web, say('10.1.0.2'))).status === 0 && got() > 0, { timeout: 5000 }) // prettier-ignore
      .toBe(true)
    const before = got()
    db.sh('ip addr add 10.1.0.2/32 dev lo')
    expect((await node(db, say('10.1.0.2'))).status).toBe(0)
    expect(got()).toBe(before)
    expect((await node(web, say('10.1.0.2'))).status).toBe(0)
    expect(got()).toBe(before + 1)
    db.sh('ip addr del 10.1.0.2/32 dev lo')
    world.sh('nft delete table ip count')
    await hearing
  })

  const forgeries = [
    { title: 'an unknown source', from: 'web', family: 'ip', source: '198.18.0.66', to: '198.18.0.50', port: 9999 },
    { title: 'an unknown source, IPv6', from: 'web', family: 'ip6', source: '2001:db8::66', to: '2001:db8::50', port: 9999 }, // prettier-ignore
    { title: 'an unknown source that asks a name', from: 'web', family: 'ip', source: '198.18.0.66', to: '9.9.9.9', port: 53 }, // prettier-ignore
    { title: "another workload's source", from: 'db', family: 'ip', source: '10.1.0.2', to: '198.18.0.50', port: 9999 },
  ] as const
  for (const { title, from, family, source, to, port } of forgeries)
    test(`${title}: no answer carries what was sent to where the source is`, async () => {
      await start(base)
      const [sender, heard] = from === 'web' ? [web, world] : [db, web]
      heard.sh(
        `nft -f - <<< 'table ${family} count { counter got { }; chain in { type filter hook prerouting priority -300; ${family} daddr ${source} counter name got; }; }'`,
      )
      sender.sh(
        `nft -f - <<< 'table ${family} forge { counter sent { }; chain out { type filter hook postrouting priority 300; ${family} daddr ${to} udp dport ${port} ${family} saddr set ${source} counter name sent; }; }'`,
      )
      try {
        await sender.run(`dig +tries=2 +time=1 -p ${port} api.example.com @${to}`)
        expect(sender.sh(`nft list counter ${family} forge sent`).out).toMatch(/packets [2-9]/)
        expect(heard.sh(`nft list counter ${family} count got`).out).toContain('packets 0')
      } finally {
        sender.sh(`nft delete table ${family} forge`)
        heard.sh(`nft delete table ${family} count`)
      }
    })

  test('neighbour messages stay on the link', async () => {
    await start(base)
    world.sh(
      `nft -f - <<< 'table ip6 count { counter got { }; chain in { type filter hook prerouting priority -300; ip6 daddr 2001:db8::99 counter name got; }; }'`,
    )
    web.sh(
      `nft -f - <<< 'table ip6 forge { chain out { type filter hook output priority 0; ip6 daddr 2001:db8::99 icmpv6 type echo-request icmpv6 type set nd-neighbor-advert ip6 hoplimit set 255; }; }'`,
    )
    await web.run('ping -6 -c 2 -i 0.2 -W 1 2001:db8::99')
    web.sh('nft delete table ip6 forge')
    expect(world.sh('nft list counter ip6 count got').out).toContain('packets 0')
    // The link itself works: the gateway is found anew by its global address and by its own.
    web.sh('ip -6 neigh flush dev eth0')
    sh('ip -6 neigh flush dev web')
    expect((await web.run('dig +tries=1 +time=3 +short AAAA api.example.com @fd01::1')).out).toBe('2001:db8::20\n')
    expect(await connect(web, '2001:db8::20')).toBe(true)
    world.sh('nft delete table ip6 count')
  })

  test('an address that two pods claim is nobody’s: nothing goes out from it, with or without interfaces', async () => {
    const twice = pods + pod('twin', ['10.1.0.2', 'fd01::2']) + policy('web', '{toEntities: [all]}')
    for (const interfaces of [[], ['web', 'db']]) {
      await start(twice, { settings: { ...settings, datapath: { ...settings.datapath, interfaces } } })
      expect(await Promise.all(['198.18.200.1', '2001:db8::77'].map((address) => connect(web, address)))).toEqual([false, false]) // prettier-ignore
      await agent?.close()
    }
  })

  describe('prefixes of one family only, and no interface', () => {
    const four = [range('10.1.0.0/16'), range('10.2.0.0/16')]
    const settingsOf = (datapath: Partial<AgentParts['settings']['datapath']>): AgentParts['settings'] => ({ ...settings, datapath: { ...settings.datapath, interfaces: [], ...datapath } }) // prettier-ignore
    const onlyFour = pod('web', ['10.1.0.2']) + policy('web', '{toEntities: [all]}')

    test('what comes from an address of the other that nobody has goes nowhere', async () => {
      await start(onlyFour, { settings: settingsOf({ prefixes: four }) })
      expect(await Promise.all([connect(web, '198.18.200.1'), connect(web, '2001:db8::77')])).toEqual([true, false])
      // This host itself goes where it will, and is reached.
      const own = (address: string): string => sh(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/443' && echo yes || echo no`) // prettier-ignore
      expect(own('2001:db8::77')).toBe('yes\n')
      expect((await world.run('ping -6 -c 1 -W 2 fd03::1')).status).toBe(0)
    })

    test('a workload that has one is reached and reaches as its policy says', async () => {
      await start(pod('web', ['10.1.0.2', 'fd01::2']) + policy('web', '{toEntities: [all]}'), { settings: settingsOf({ prefixes: four }) }) // prettier-ignore
      expect(await connect(web, '2001:db8::77')).toBe(true)
      expect((await world.run('ping -6 -c 1 -W 2 fd01::2')).status).toBe(0)
    })

    test('the other way round', async () => {
      await start(pod('web', ['fd01::2']), { settings: settingsOf({ prefixes: [range('fd01::/64')] }) })
      expect(await Promise.all([connect(web, '198.18.200.1'), connect(web, '2001:db8::77')])).toEqual([false, true])
    })
  })

  test('policy maps changed by hand are ours again within seconds', async () => {
    await start(base, { settings: { ...settings, datapath: { ...settings.datapath, interfaces: [] } } })
    expect(await connect(web, '198.18.200.1')).toBe(false)
    sh('for copy in a b; do nft flush map inet namegate identity4_$copy; done')
    await expect.poll(() => connect(web, '198.18.200.1'), { timeout: 6000, interval: 200 }).toBe(false)
    // Port 443 of the world, for db.
    sh(
      `for copy in a b; do nft add element inet namegate egress_port4_$copy '{ 0:0 . 10.2.0.2 . tcp . 443 : ${identityToText(verdictNumbers.allow)} }'; done`,
    )
    await expect.poll(() => connect(db, '198.18.200.1'), { timeout: 6000, interval: 200 }).toBe(false)
  })

  test('an nft that did its work and then died: the change back is made', async () => {
    const folder = await temporaryFolder()
    const write = (text: string): Promise<void> => writeFile(join(folder, 'p.yaml'), text)
    const real = makeNft()
    let dies = false
    const nft: Nft = async (args, input) => {
      const out = await real(args, input)
      // Of a change's two steps the second: the kernel judges by the new policy, and we have not heard of it.
      if (dies && input?.includes('flush chain')) throw new Error('killed after its work')
      return out
    }
    await write(base)
    const manifests = { kind: 'path', path: folder } as const
    const { troubles } = await start('', { manifests, kernel: { nft, netlinkFd: openNetlink() } })
    dies = true
    await write(base.replace(policy('web', names), policy('web', '{toEntities: [world]}')))
    await expect.poll(troubles, { timeout: 5000 }).not.toEqual([])
    expect(await connect(web, '198.18.200.1')).toBe(true)
    dies = false
    await write(base)
    await expect.poll(() => connect(web, '198.18.200.1'), { timeout: 6000, interval: 200 }).toBe(false)
  })
})
