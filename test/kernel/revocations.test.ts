// Connections that policy allows no more end. So do those of an address that passes from one workload to another, unless its successor may have
// them. All others go on.
import { spawn } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Agent, AgentParts } from '../../src/agent.ts'
import { makeConnections, openConntrack, type Connections } from '../../src/datapath/conntrack.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { openNetlink } from '../../src/datapath/netlink.ts'
import { openSockets } from '../../src/datapath/sockets.ts'
import { addressToText } from '../../src/net/address.ts'
import { at, settings, startTestAgent } from '../support/agent.ts'
import { temporaryFolder } from '../support/folder.ts'
import { addHost, enterLab, flushConnections, sh, whyNoKernel, type Host } from '../support/lab.ts'
import { pod, policy } from '../support/manifests.ts'

const reason = whyNoKernel()
/** Says 'up'. On port 7000 it gives back what it gets; on 7001 it speaks by itself, by UDP to whoever said something once. */
const echoing =
  "require('net').createServer((c) => c.on('error', () => 0).pipe(c)).listen(7000, '::'); require('net').createServer((c) => { const speaking = setInterval(() => c.write('x'), 20); c.on('error', () => 0).on('close', () => clearInterval(speaking)) }).listen(7001, '::'); const u = require('dgram').createSocket('udp4').on('message', (m, f) => setInterval(() => u.send('x', f.port, f.address, () => 0), 20)); u.bind(7001, () => console.log('up'))"
const to = (prefix: string): string => `{toCIDR: [${prefix}], toPorts: [{ports: [{port: "7000", endPort: 7001}]}]}`
const ingress = (name: string, from: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${name}-in}
spec: {endpointSelector: {matchLabels: {app: ${name}}}, ingress: [{fromEndpoints: [{matchLabels: {app: ${from}}}]}]}
`

/** Of this host: what it may send where, and who may come in. */
const ofHost = (egress: readonly string[], from: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: this-host}
spec: {nodeSelector: {}, egress: [${egress.join(', ')}], ingress: [{fromCIDR: [${from}]}]}
`
const hostAddresses = ['10.1.0.1', '10.2.0.1', '10.3.0.1', 'fd01::1', 'fd03::1'].map(at)

interface Talk {
  readonly echoes: () => number
  /** Its TCP connection has ended. */
  readonly isOver: () => boolean
}

describe.skipIf(reason !== undefined)(`revocations ${reason ?? ''}`, () => {
  const hosts: Record<string, Host> = {}
  let agent: Agent | undefined
  let folder: string
  const talks: (() => void)[] = []
  let connections: Connections

  /** Runs a Node script in a host until the test has ended; gives its lines. */
  async function run(host: Host | 'here', script: string, until: string): Promise<string[]> {
    const enter = host === 'here' ? [] : ['nsenter', `--net=${host.path}`]
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...enter, process.execPath, '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
    const lines: string[] = []
    child.stdout.setEncoding('utf8').on('data', (text: string) => lines.push(...text.split('\n').filter(Boolean)))
    talks.push(() => child.kill('SIGKILL'))
    await expect.poll(() => lines, { timeout: 5000 }).toContain(until)
    return lines
  }
  /** A connection on which something is said every 20 ms. */
  async function talk(from: string, address: string): Promise<Talk> {
    return talkOf(hosts[from] ?? expect.fail(from), address)
  }
  const talkHere = (address: string): Promise<Talk> => talkOf('here', address)
  async function talkOf(host: Host | 'here', address: string): Promise<Talk> {
    const lines = await run(host, `const s = require('net').connect(7000, '${address}', () => setInterval(() => s.write('x'), 20)); s.on('data', () => console.log('echo')).on('close', () => console.log('over')).on('error', () => 0)`, 'echo') // prettier-ignore
    return { echoes: () => lines.filter((line) => line === 'echo').length, isOver: () => lines.includes('over') }
  }
  /** A connection, or UDP, on which only the other end speaks. */
  async function listenTo(from: string, address: string, by: 'tcp' | 'udp'): Promise<Talk> {
    const host = hosts[from] ?? expect.fail(from)
    const open = by === 'tcp' ? `require('net').connect(7001, '${address}').on('data', () => console.log('echo')).on('close', () => console.log('over')).on('error', () => 0)` : `const s = require('dgram').createSocket('udp4').on('message', () => console.log('echo')); s.send('x', 7001, '${address}')` // prettier-ignore
    const lines = await run(host, open, 'echo')
    return { echoes: () => lines.filter((line) => line === 'echo').length, isOver: () => lines.includes('over') }
  }
  /** As long as ten echoes of a talk that goes on take: long enough for what is over to say something, if it could. */
  async function goesOn(one: Talk): Promise<void> {
    const before = one.echoes()
    await expect.poll(one.echoes, { timeout: 5000 }).toBeGreaterThan(before + 10)
  }
  async function tracked(): Promise<string[]> {
    const found: string[] = []
    await connections.list(({ protocol, source, peer, peerPort }) => void (protocol !== 1 && found.push(`${addressToText(source)} ${addressToText(peer)} ${peerPort}`))) // prettier-ignore
    return found
  }
  const write = (text: string): Promise<void> => writeFile(join(folder, 'p.yaml'), text)
  async function start(text: string, own = settings, more: Partial<AgentParts> = {}): Promise<void> {
    await write(text)
    agent = await startTestAgent('', { settings: own, manifests: { kind: 'path', path: folder }, hostAddresses, kernel: { nft: makeNft(), netlinkFd: openNetlink(), connections: openConntrack(), socketsFd: openSockets() }, ...more }) // prettier-ignore
  }
  async function change(text: string): Promise<void> {
    const revision = agent?.snapshot().revision ?? 0
    await write(text)
    await expect.poll(() => agent?.snapshot().revision, { timeout: 5000 }).toBe(revision + 1)
  }

  beforeAll(async () => {
    enterLab()
    connections = makeConnections(openNetlink())
    hosts['web'] = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    hosts['db'] = await addHost('db', ['10.2.0.2/24'], ['10.2.0.1/24'])
    hosts['world'] = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
  })
  beforeEach(async () => {
    folder = await temporaryFolder()
    for (const host of Object.values(hosts)) await run(host, echoing, 'up')
  })
  afterEach(async () => {
    await agent?.close()
    agent = undefined
    for (const stop of talks.splice(0)) stop()
    sh('nft delete table inet namegate 2>/dev/null || true')
    flushConnections()
  })
  afterAll(() => {
    connections?.close()
    for (const host of Object.values(hosts)) host.stop()
  })

  const web = pod('web', ['10.1.0.2', 'fd01::2'])
  const toDb = '{toEndpoints: [{matchLabels: {app: db}}]}'
  const db = pod('db', ['10.2.0.2']) + policy('db', to('10.3.0.0/24'))
  const both = policy('web', to('10.3.0.0/24'), to('fd03::/64'))

  test('a workload that is gone: its connections of both families end, those of others go on', async () => {
    await start(web + both + db)
    const [four, six, other] = [await talk('web', '10.3.0.2'), await talk('web', 'fd03::2'), await talk('db', '10.3.0.2')]
    await change(db)
    await expect.poll(tracked, { timeout: 5000 }).toEqual(['10.2.0.2 10.3.0.2 7000'])
    const before = [four, six].map((one) => one.echoes())
    await goesOn(other)
    // What had been answered may still have been on its way to us.
    expect([four, six].map((one, i) => one.echoes() - (before[i] ?? 0)).every((more) => more <= 1)).toBe(true)
    expect(agent?.troubles()).toEqual([])
  })

  test('a successor that may not have it: it ends, at once', async () => {
    await start(web + both + db)
    const [old, other] = [await talk('web', '10.3.0.2'), await talk('db', '10.3.0.2')]
    await change(pod('evil', ['10.1.0.2']) + policy('evil', to('192.0.2.0/24')) + db)
    await expect.poll(old.isOver, { timeout: 5000 }).toBe(true)
    await goesOn(other)
  })

  test('nor may the other end go on with it, though it may come in by itself', async () => {
    await start(web + both + db)
    const [tcp, udp, other] = [await listenTo('web', '10.3.0.2', 'tcp'), await listenTo('web', '10.3.0.2', 'udp'), await talk('db', '10.3.0.2')] // prettier-ignore
    await change(pod('evil', ['10.1.0.2']) + policy('evil', to('192.0.2.0/24')) + db)
    await expect.poll(async () => (await tracked()).join(), { timeout: 5000 }).toBe('10.2.0.2 10.3.0.2 7000')
    const before = [tcp, udp].map((one) => one.echoes())
    await goesOn(other)
    await goesOn(other)
    expect([tcp, udp].map((one, i) => one.echoes() - (before[i] ?? 0)).every((more) => more <= 1)).toBe(true)
    expect(await tracked()).toEqual(['10.2.0.2 10.3.0.2 7000'])
  })

  test('a successor that may have it, by its own policy: it goes on', async () => {
    await start(web + both + db)
    const old = await talk('web', '10.3.0.2')
    await change(pod('heir', ['10.1.0.2']) + policy('heir', to('10.3.0.2/32')) + db)
    await goesOn(old)
    await goesOn(old)
    expect(old.isOver()).toBe(false)
  })

  test('a policy that allows it no more: it ends within a second, in both directions; what is allowed goes on', async () => {
    await start(web + policy('web', to('10.3.0.0/24'), toDb) + db)
    const [old, mute, near, other] = [await talk('web', '10.3.0.2'), await listenTo('web', '10.3.0.2', 'tcp'), await talk('web', '10.2.0.2'), await talk('db', '10.3.0.2')]
    await change(web + policy('web', toDb) + db)
    await expect.poll(async () => (await tracked()).sort().join(), { timeout: 1000, interval: 20 }).toBe('10.1.0.2 10.2.0.2 7000,10.2.0.2 10.3.0.2 7000')
    await expect.poll(old.isOver, { timeout: 1000, interval: 20 }).toBe(true)
    const before = mute.echoes()
    await goesOn(near)
    await goesOn(other)
    expect(mute.echoes() - before).toBeLessThanOrEqual(1)
    expect([near.isOver(), other.isOver()]).toEqual([false, false])
    // Allowed again, new ones pass at once.
    await change(web + both + db)
    await goesOn(await talk('web', '10.3.0.2'))
  })

  test('a drain time: it goes on, and new ones do not begin', async () => {
    await start(web + both + db, { ...settings, policy: { ...settings.policy, drainSeconds: 3 } })
    const old = await talk('web', '10.3.0.2')
    await change(web + policy('web', to('10.2.0.0/24')) + db)
    expect((await (hosts['web'] ?? expect.fail()).run("timeout 2 bash -c 'exec 3<>/dev/tcp/10.3.0.2/7000'")).status).not.toBe(0)
    await goesOn(old)
    expect(old.isOver()).toBe(false)
    await expect.poll(old.isOver, { timeout: 6000 }).toBe(true)
  })

  test('new labels: what they deny ends, what they allow goes on', async () => {
    await start(web + policy('web', to('10.3.0.0/24'), to('10.2.0.0/24'), '{toEndpoints: [{matchLabels: {app: db}}]}') + db)
    const [world, near] = [await talk('web', '10.3.0.2'), await talk('web', '10.2.0.2')]
    await change(web.replace('{app: web}', '{app: late}') + policy('late', '{toEndpoints: [{matchLabels: {app: db}}]}') + db)
    await expect.poll(world.isOver, { timeout: 5000 }).toBe(true)
    await goesOn(near)
  })

  test('the other end: what was allowed to come to a workload may not come to its successor', async () => {
    await start(web + ingress('web', 'db') + db.replace('10.3.0.0/24', '10.1.0.0/24') + policy('x', '{}') + policy('db', '{toEntities: [cluster]}').replace('name: db', 'name: db2'))
    const old = await talk('db', '10.1.0.2')
    await change(pod('heir', ['10.1.0.2']) + ingress('heir', 'nobody') + db + policy('db', '{toEntities: [cluster]}').replace('name: db', 'name: db2'))
    await expect.poll(old.isOver, { timeout: 5000 }).toBe(true)
  })

  describe("this host's own sockets", () => {
    const own = { ...settings, policy: { ...settings.policy, hostPolicies: true } }
    const drained = { ...own, policy: { ...own.policy, drainSeconds: 2 } }
    const [four, five, six] = ['{toCIDR: [10.3.0.2/32]}', '{toEndpoints: [{matchLabels: {app: db}}]}', '{toCIDR: ["fd03::2/128"]}']
    /** A connection on which nobody says anything; says how it ends. */
    const idle = (open: string): Promise<string[]> =>
      run('here', `${open}.on('connect', () => console.log('open')).on('error', (e) => console.log(e.code)).on('close', () => console.log('over')); setInterval(() => 0, 1000)`, 'open') // prettier-ignore
    const tcp = (address: string): Promise<string[]> => idle(`require('net').connect({ port: 7000, host: '${address}' })`)
    const udp = (address: string): Promise<string[]> =>
      idle(`const s = require('dgram').createSocket('udp4'); s.connect(7001, '${address}', () => s.send('x')); s`)
    /** In the world; says when its only connection has ended. */
    const serving = "require('net').createServer((c) => { console.log('in'); c.on('error', (e) => console.log(e.code)).on('close', () => console.log('over')).resume() }).listen(7002, '::', () => console.log('serving'))" // prettier-ignore

    test('a policy that allows them no more: programs hear of it within a second, and so do the other ends; others go on', async () => {
      await start(ofHost([four, five, six], '10.3.0.0/24') + db, own)
      const ended = [await tcp('10.3.0.2'), await tcp('::ffff:10.3.0.2'), await tcp('fd03::2')]
      const datagrams = await udp('10.3.0.2')
      const other = await tcp('10.2.0.2')
      const heard = await run(hosts['world'] ?? expect.fail(), serving, 'serving')
      const held = await idle("require('net').connect(7002, '10.3.0.2')")
      await expect.poll(() => heard, { timeout: 5000 }).toContain('in')
      await change(ofHost([five], '10.3.0.0/24') + db)
      const changedAt = performance.now()
      await expect.poll(() => [...ended, held].map((lines) => lines.join(' ')), { timeout: 1000, interval: 20 }).toEqual(Array(4).fill('open ECONNABORTED over')) // prettier-ignore
      await expect.poll(() => heard.at(-1), { timeout: 1000, interval: 20 }).toBe('over')
      await expect.poll(() => datagrams.join(' '), { timeout: 1000, interval: 20 }).toBe('open ECONNABORTED')
      expect(performance.now() - changedAt).toBeLessThan(1000)
      await expect.poll(tracked, { timeout: 1000 }).toEqual(['10.2.0.1 10.2.0.2 7000'])
      expect(other).toEqual(['open'])
      expect(agent?.troubles()).toEqual([])
    })

    test('who came in by a policy that does not let him any more; a listening socket stays', async () => {
      const serve = await run('here', serving.replaceAll("'::'", "'0.0.0.0'"), 'serving')
      await start(ofHost([four], '10.3.0.0/24') + db, own)
      const speaks = `require('net').connect(7002, '10.3.0.1', () => console.log('open')).on('error', (e) => console.log(e.code)).on('close', () => console.log('over')); setInterval(() => 0, 1000)` // prettier-ignore
      const comes = await run(hosts['world'] ?? expect.fail(), speaks, 'open')
      await change(ofHost([four], '192.0.2.0/24') + db)
      await expect.poll(() => serve.join(' '), { timeout: 1000, interval: 20 }).toBe('serving in ECONNABORTED over')
      await expect.poll(() => comes.join(' '), { timeout: 1000, interval: 20 }).toBe('open ECONNRESET over')
      await change(ofHost([four], '10.3.0.0/24') + db)
      await run(hosts['world'] ?? expect.fail(), speaks, 'open')
    })

    test('a drain time: they go on as long', async () => {
      await start(ofHost([four], '10.3.0.0/24') + db, drained)
      const [lines, kept] = [await tcp('10.3.0.2'), await talkHere('10.3.0.2')]
      await change(ofHost([five], '10.3.0.0/24') + db)
      await goesOn(kept)
      expect(lines).toEqual(['open'])
      await expect.poll(() => lines.join(' '), { timeout: 6000 }).toBe('open ECONNABORTED over')
    })
  })

  test('this host may not go on with what a workload may not: its program hears of it, also when only it speaks', async () => {
    const speaking = "require('net').createServer((c) => { console.log('in'); const t = setInterval(() => c.write('x'), 20); c.on('error', (e) => { clearInterval(t); console.log(e.code) }).resume() }).listen(7003, '0.0.0.0', () => console.log('serving'))" // prettier-ignore
    const serve = await run('here', speaking, 'serving')
    const toHost = '{toEntities: [host]}'
    await start(web + policy('web', toHost, toDb) + db)
    await run(hosts['web'] ?? expect.fail(), "require('net').connect(7003, '10.1.0.1').on('data', () => console.log('echo')).on('error', () => 0)", 'echo') // prettier-ignore
    const near = await talk('web', '10.2.0.2')
    await change(web + policy('web', toDb) + db)
    await expect.poll(() => serve.join(' '), { timeout: 1000, interval: 20 }).toBe('serving in ECONNABORTED')
    await goesOn(near)
    expect((await tracked()).sort()).toEqual(['10.1.0.2 10.2.0.2 7000'])
  })

  test('nor does it begin anew what was cut, by a socket that belongs to no connection', async () => {
    await run('here', echoing, 'up')
    const toHost = '{toEntities: [host]}'
    await start(web + policy('web', toHost, toDb) + db)
    const [heard, near] = [await listenTo('web', '10.1.0.1', 'udp'), await talk('web', '10.2.0.2')]
    await change(web + policy('web', toDb) + db)
    await expect.poll(async () => (await tracked()).join(), { timeout: 1000, interval: 20 }).toBe('10.1.0.2 10.2.0.2 7000')
    const before = heard.echoes()
    await goesOn(near)
    await goesOn(near)
    expect(heard.echoes() - before).toBeLessThanOrEqual(1)
  })

  describe('while no agent ran', () => {
    const journal = (): { journal: string } => ({ journal: join(folder, 'leases') })
    /** Closes the agent and starts the next by this; gives when that was ready. */
    async function next(text: string, own = settings): Promise<number> {
      await agent?.close()
      await start(text, own, journal())
      return performance.now()
    }
    const began = (text: string, own = settings): Promise<void> => start(text, own, journal())
    /** It is over within a second after the agent was ready. */
    async function endsBy(one: Talk, readyAt: number): Promise<void> {
      await expect.poll(one.isOver, { timeout: 2000, interval: 20 }).toBe(true)
      expect(performance.now() - readyAt).toBeLessThan(1000)
    }

    test('policy changed: what it allows no more is ended, what it allows goes on', async () => {
      await began(web + policy('web', to('10.3.0.0/24'), toDb) + db)
      const [old, near, other] = [await talk('web', '10.3.0.2'), await talk('web', '10.2.0.2'), await talk('db', '10.3.0.2')]
      await endsBy(old, await next(web + policy('web', toDb) + db))
      for (const one of [near, other]) await goesOn(one)
      expect([near.isOver(), other.isOver()]).toEqual([false, false])
      // The same once more: nothing.
      await next(web + policy('web', toDb) + db)
      for (const one of [near, other]) await goesOn(one)
    })

    test('labels changed, a workload is another, the other end lets it in no more', async () => {
      const inward = (from: string): string => ingress('db', from).replace('}]}]}', '}, {matchLabels: {app: job}}]}]}')
      await began(web + policy('web', to('10.3.0.0/24'), toDb) + db + inward('web'))
      const [world, near, other] = [await talk('web', '10.3.0.2'), await talk('web', '10.2.0.2'), await talk('db', '10.3.0.2')]
      const readyAt = await next(web.replace('{app: web}', '{app: job}') + policy('job', toDb) + db + inward('web'))
      await endsBy(world, readyAt)
      for (const one of [near, other]) await goesOn(one)
      const again = await next(web.replace('{app: web}', '{app: job}') + policy('job', toDb) + db + ingress('db', 'web'))
      await endsBy(near, again)
      await goesOn(other)
    })

    test('settings changed: whatever is denied by them ends', async () => {
      await began(web + policy('web', toDb) + db, { ...settings, policy: { ...settings.policy, audit: true } })
      const [audited, near] = [await talk('web', '10.3.0.2'), await talk('web', '10.2.0.2')]
      await endsBy(audited, await next(web + policy('web', toDb) + db))
      await goesOn(near)
    })

    test('it ended before the drain time was over: the next one sees to that', async () => {
      const slow = { ...settings, policy: { ...settings.policy, drainSeconds: 60 } }
      await began(web + policy('web', to('10.3.0.0/24'), toDb) + db, slow)
      const [old, near] = [await talk('web', '10.3.0.2'), await talk('web', '10.2.0.2')]
      await change(web + policy('web', toDb) + db)
      await goesOn(old)
      await endsBy(old, await next(web + policy('web', toDb) + db))
      await goesOn(near)
    })
  })

  test('while no agent ran, without a journal: the next one ends what the address does not allow any more', async () => {
    await start(web + both + db)
    const [old, other] = [await talk('web', '10.3.0.2'), await talk('db', '10.3.0.2')]
    await agent?.close()
    await start(pod('evil', ['10.1.0.2']) + policy('evil', to('192.0.2.0/24')) + db)
    await expect.poll(old.isOver, { timeout: 5000 }).toBe(true)
    await goesOn(other)
    // And nothing else, when the same stands as before.
    await agent?.close()
    await start(pod('evil', ['10.1.0.2']) + policy('evil', to('192.0.2.0/24')) + db)
    await goesOn(other)
    expect(await tracked()).toContain('10.2.0.2 10.3.0.2 7000')
  })
}) // prettier-ignore
