// A connection that outlives its lease: its address stays open to new connections while it lives, the others of the name do not; when it has
// ended, so has the address.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/agent.ts'
import { leaseEvents } from '../../src/api/watch.ts'
import { openConntrack } from '../../src/datapath/conntrack.ts'
import { openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { isZombie } from '../../src/leases/lease.ts'
import { addressToText } from '../../src/net/address.ts'
import { settings, startTestAgent } from '../support/agent.ts'
import { addHost, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'
import { names, pod, policy } from '../support/manifests.ts'

const reason = whyNoKernel()

describe.skipIf(reason !== undefined)(`zombies ${reason ?? ''}`, () => {
  let web: Host
  let world: Host
  let upstream: EmbeddedUpstream
  let agent: Agent
  let folder: string
  const clients: ChildProcess[] = []

  /** Runs a Node script in a host; resolves when it has said something. */
  async function run(host: Host, script: string): Promise<ChildProcess> {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, process.execPath, '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
    await once(child.stdout, 'data')
    return child
  }
  /** A process that connects when it is told where to: by then it has started, however busy the machine, and a lease of seconds is not over. */
  async function connector(then = ''): Promise<(address: string) => Promise<ChildProcess>> {
    const script = `process.stdin.once('data', (to) => require('net').connect(443, String(to), function () { console.log('connected'); ${then} }).on('error', () => process.exit(3))); console.log('ready')`
    const child = await run(web, script)
    clients.push(child)
    return async (address) => {
      child.stdin?.write(address)
      await once(child.stdout ?? expect.fail(), 'data')
      return child
    }
  }
  const connect = async (address: string): Promise<boolean> =>
    (await web.run(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/443'`)).status === 0
  const leases = (): string[] => [...agent.leases.list()].map((l) => `${addressToText(l.address)} ${isZombie(l, agent.clock()) ? 'zombie' : 'alive'}`).sort() // prettier-ignore
  const soon = { timeout: 15_000 }
  const late = { timeout: 30_000 }

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24'], ['10.1.0.1/24'])
    world = await addHost('world', ['10.3.0.2/24'], ['10.3.0.1/24'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2')
    world.sh('ip route add local 198.18.0.0/15 dev lo')
    const server = await run(world, "require('net').createServer((c) => c.on('error', () => 0).resume()).listen(443, () => console.log('up'))") // prettier-ignore
    world.process.once('exit', () => server.kill('SIGKILL'))
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
    folder = await mkdtemp(join(tmpdir(), 'namegate-'))
    agent = await start()
  })
  afterEach(() => {
    for (const client of clients.splice(0)) client.kill('SIGKILL')
  })
  const start = (graceSeconds = 2): Promise<Agent> =>
    startTestAgent(pod('web', ['10.1.0.2']) + policy('web', names('{matchPattern: "*.example.com"}')), {
      settings: { ...settings, leases: { ...settings.leases, ttlMaxSeconds: 1, graceSeconds, zombieSecondsMax: 3600 } }, // prettier-ignore
      kernel: { nft: makeNft(), netlinkFd: openNetlink(), connections: openConntrack() },
      journal: join(folder, 'leases'),
    })
  afterAll(async () => {
    await agent?.close()
    await upstream?.close()
    for (const host of [web, world]) host?.stop()
    await rm(folder, { recursive: true, force: true })
  })

  test('an idle connection keeps its address, and no other of its name, until it ends', async () => {
    const gone = new AbortController()
    const events: string[] = []
    const watched = (async () => {
      for await (const event of leaseEvents(agent.observer, agent.clock, ({ name }) => name === 'pay.example.com', gone.signal)) // prettier-ignore
        for (const [, change, ips] of event.matchAll(/^event: (\w+)\ndata: .*"ips":\[(.*?)\]/g)) events.push(`${change} ${ips}`) // prettier-ignore
    })()
    const open = await connector()
    expect((await web.run('dig +short pay.example.com @9.9.9.9')).out.split('\n').filter(Boolean).sort()).toEqual(['198.18.0.21', '198.18.0.22']) // prettier-ignore
    const client = await open('198.18.0.21')
    await expect.poll(leases, soon).toEqual(['198.18.0.21 zombie'])
    // The kernel may hold an address for as long after its lease as the commit was late: up to a second.
    await expect.poll(() => connect('198.18.0.22'), soon).toBe(false)
    // Over several of its terms.
    const since = agent.clock()
    let refused = 0
    while (agent.clock() < since + 6000) refused += (await connect('198.18.0.21')) ? 0 : 1
    expect([refused, leases()]).toEqual([0, ['198.18.0.21 zombie']])
    client.kill('SIGKILL')
    await expect.poll(leases, soon).toEqual([])
    await expect.poll(() => connect('198.18.0.21'), soon).toBe(false)
    gone.abort()
    await watched
    expect(events.slice(1).sort()).toEqual(['expired "198.18.0.21"', 'expired "198.18.0.22"', 'zombie "198.18.0.21"'])
    expect(events[0]).toMatch(/^learned "198.18.0.2[12]","198.18.0.2[12]"$/)
    expect(events.indexOf('zombie "198.18.0.21"')).toBeLessThan(events.indexOf('expired "198.18.0.21"'))
    expect(agent.troubles()).toEqual([])
  })

  test(
    'over a restart: the next agent knows which names stand, and keeps what is in use',
    { timeout: 90_000 },
    async () => {
      // What stands while nobody renews it must outlast a restart on a busy machine.
      await agent.close()
      agent = await start(10)
      const open = await connector()
      await web.run('dig +short pay.example.com @9.9.9.9')
      const client = await open('198.18.0.22')
      await expect.poll(leases, late).toEqual(['198.18.0.22 zombie'])
      // And one whose TTL and grace are not over.
      await web.run('dig +short api.example.com @9.9.9.9')
      await agent.close()
      agent = await start(10)
      expect(leases().map((lease) => lease.split(' ')[0])).toEqual(['198.18.0.20', '198.18.0.22'])
      const since = agent.clock()
      let refused = 0
      while (agent.clock() < since + 5000) refused += (await connect('198.18.0.22')) ? 0 : 1
      expect(refused).toBe(0)
      await expect.poll(leases, late).toEqual(['198.18.0.22 zombie'])
      expect([...agent.leases.list()].map(({ name }) => name)).toEqual(['pay.example.com'])
      client.kill('SIGKILL')
      await expect.poll(leases, late).toEqual([])
      await agent.close()
      agent = await start()
    },
  )

  test('cleaned by hand: its connections end within a second, those by other leases go on', async () => {
    const speaking = "setInterval(() => this.write('x'), 20)"
    const [openGone, openKept] = [await connector(speaking), await connector(speaking)]
    await web.run('dig +short pay.example.com @9.9.9.9; dig +short api.example.com @9.9.9.9')
    const [gone, kept] = await Promise.all([openGone('198.18.0.21'), openKept('198.18.0.20')])
    const ended = once(gone, 'exit')
    expect(await agent.cleanLeases((lease) => lease.name === 'pay.example.com')).toBe(2)
    const cleanedAt = agent.clock()
    expect(await ended).toEqual([3, null])
    expect(agent.clock() - cleanedAt).toBeLessThan(1000)
    expect(await connect('198.18.0.21')).toBe(false)
    await expect.poll(leases, soon).toEqual(['198.18.0.20 zombie'])
    expect(kept.exitCode).toBe(null)
    kept.kill('SIGKILL')
  })
})
