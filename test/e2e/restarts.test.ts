// Agents that are killed and replaced under load: `namegate agent` as processes, on the real kernel. Questions, connections that are held, and a
// flood of packets that belong to none, counted before and behind policy. Times are printed, not judged: `npm run bench -- restart` measures them.
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import type { Asked } from '../kernel/questions.ts'
import { temporaryFolder } from '../support/folder.ts'
import { ip, text, udp } from '../support/frames.ts'
import { addHost, enterLab, sh, until, whyNoKernel, type Host } from '../support/lab.ts'
import { pod, policy } from '../support/manifests.ts'
import { childrenOf, kill, killAgent } from '../support/processes.ts'

const reason = whyNoKernel()
/** The benchmark asks more; here nothing may be lost, on machines that do other things too. */
const perSecond = 2000
const connections = 200
const manifests = pod('web', ['10.1.0.2']) + policy('web', '{toFQDNs: [{matchPattern: "*.example.com"}]}')
const [leased, denied] = ['198.18.0.20', '198.18.99.9']
const kernelFile = (name: string): string => fileURLToPath(new URL(`../kernel/${name}`, import.meta.url))

interface Helper {
  readonly child: ChildProcess
  readonly lines: AsyncIterator<string>
}

describe.skipIf(reason !== undefined)(`restarts ${reason ?? ''}`, () => {
  let folder: string
  let web: Host
  let world: Host
  let upstream: EmbeddedUpstream
  const agents: ChildProcess[] = []
  let said = ''

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24'], ['10.1.0.1/24'])
    world = await addHost('world', ['10.3.0.2/24'], ['10.3.0.1/24'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2')
    world.sh('ip route add local 198.18.0.0/15 dev lo')
    const echo = await helper(world, ['-e', "require('net').createServer((c) => c.on('error', () => 0).pipe(c)).listen(7777, () => console.log('ready'))"]) // prettier-ignore
    world.process.once('exit', () => echo.child.kill('SIGKILL'))
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
    const counting = (when: string): string => [leased, denied].map((to, i) => `iifname "web" ip daddr ${to} udp dport 9 counter name ${when}${i};`).join(' ') // prettier-ignore
    sh('nft -f -', `table inet count { counter before0 { }; counter before1 { }; counter behind0 { }; counter behind1 { }; chain before { type filter hook prerouting priority -460; ${counting('before')} }; chain behind { type filter hook prerouting priority -80; ${counting('behind')} }; }\n`) // prettier-ignore
  })
  afterAll(async () => {
    await upstream?.close()
    web?.stop()
    world?.stop()
  })
  beforeEach(async () => {
    folder = await temporaryFolder()
    await writeFile(join(folder, 'manifests.yaml'), manifests)
    await writeFile(join(folder, 'config.yaml'), JSON.stringify({ manifests: join(folder, 'manifests.yaml'), dns: { upstreams: ['127.0.0.1:5300'], budgets: { queriesPerSecond: 100_000 } }, datapath: { interfaces: ['web'] }, leases: { journal: join(folder, 'leases') }, api: { socket: join(folder, 'api.sock'), port: 9653 } })) // prettier-ignore
    said = ''
  })
  afterEach(() => {
    for (const agent of agents.splice(0)) killAgent(agent)
    // Those whose supervisor a test killed.
    for (const [, pid] of sh('ss -Hlnup sport = :10053').matchAll(/pid=(\d+)/g)) kill(Number(pid))
    sh('nft delete table inet namegate 2>/dev/null || true')
  })

  /** A program of Node in a host, which says when it is ready. */
  async function helper(host: Host, args: readonly string[]): Promise<Helper> {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, process.execPath, ...args], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    expect((await lines.next()).value).toBe('ready')
    return { child, lines }
  }
  async function finish({ child, lines }: Helper): Promise<unknown> {
    child.stdin?.write('.')
    return JSON.parse((await lines.next()).value as string)
  }

  /** An agent that answers, and has a standby. */
  async function start(): Promise<ChildProcess> {
    const agent = spawn('bin/namegate', ['agent', '--config', join(folder, 'config.yaml')], { stdio: ['ignore', 'ignore', 'pipe'] }) // prettier-ignore
    agents.push(agent)
    const before = standbys()
    agent.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    await hasStandby(agent, before)
    await answers()
    return agent
  }
  const restart = (api = `unix:${join(folder, "api.sock")}`): Promise<{ out: string; err: string; status: number }> =>
    new Promise((resolve) => execFile('bin/namegate', ['restart', '--api', api], (error, out, err) => resolve({ out, err, status: error === null ? 0 : Number(error.code) }))) // prettier-ignore
  const dig = (): Promise<{ out: string }> => web.run('dig +tries=1 +time=1 +short api.example.com @9.9.9.9')
  const answers = (): Promise<void> => until(async () => (await dig()).out.includes(leased))
  const standbys = (): number => said.split('a standby is ready').length - 1
  async function hasStandby(agent: ChildProcess, before: number): Promise<void> {
    await until(() => standbys() > before && childrenOf(agent.pid ?? 0).length === 2)
  }
  const workerOf = (agent: ChildProcess): number => childrenOf(agent.pid ?? 0)[0] ?? expect.fail('there is no worker')

  interface Outcome extends Asked {
    readonly alive: number
  }
  /** What became of questions, connections and packets while `work` was done. */
  async function under(work: () => Promise<void>): Promise<Outcome> {
    // So that there are answers in the cache and addresses in the kernel.
    await answers()
    const held = await helper(web, ['-e', holding(connections)])
    sh('nft reset counters table inet count')
    const flood = await startFlood()
    const questions = await helper(web, [kernelFile('questions.ts'), '9.9.9.9', '53', String(perSecond), 'api.example.com']) // prettier-ignore
    await work()
    const asked = (await finish(questions)) as Asked
    await finish(flood)
    const { nftables } = JSON.parse(sh('nft -j list counters table inet count')) as { nftables: { counter?: { name: string; packets: number } }[] } // prettier-ignore
    const count = (name: string): number => nftables.find(({ counter }) => counter?.name === name)?.counter?.packets ?? -1 // prettier-ignore
    expect(count('before0')).toBeGreaterThan(1000)
    expect(count('before1')).toBeGreaterThan(1000)
    expect({ leased: count('behind0'), denied: count('behind1') }).toEqual({ leased: count('before0'), denied: 0 })
    const alive = (await finish(held)) as number
    console.log(JSON.stringify({ ...asked, alive }))
    expect(alive).toBe(connections)
    expect(asked.failed).toBe(0)
    return { ...asked, alive }
  }
  /** Opens connections; told to, says how many of them still bring back what is sent on them. */
  const holding = (count: number): string => `
    const held = Array.from({ length: ${count} }, () => require('net').connect(7777, '${leased}').on('error', () => 0))
    let open = 0
    for (const one of held) one.once('connect', () => ++open === ${count} && console.log('ready'))
    process.stdin.once('data', () => {
      let alive = 0
      const end = () => { console.log(alive); process.exit() }
      for (const one of held) { one.once('data', () => ++alive === ${count} && end()); one.write('x') }
      setTimeout(end, 3000)
    })`
  /** Says something on a connection again and again; says when it ends, or, told to, that it still brings back what is sent. */
  const speaking = (to: string): string => `
    const s = require('net').connect(7777, '${to}', () => { console.log('ready'); setInterval(() => s.write('x'), 20) })
    s.on('error', ({ code }) => { console.log(JSON.stringify({ code, at: Date.now() })); process.exit() }).resume()
    process.stdin.once('data', () => s.once('data', () => { console.log('"alive"'); process.exit() }))`
  async function startFlood(): Promise<Helper> {
    const own = (JSON.parse(web.sh('ip -j link show dev eth0').out) as [{ address: string; ifindex: number }])[0]
    const [{ address }] = JSON.parse(sh('ip -j link show dev web')) as [{ address: string }]
    const packets = [leased, denied].map((to) => Buffer.from(ip(['10.1.0.2', to], udp(['10.1.0.2', to], [2000, 9], text('flood')))).toString('base64')) // prettier-ignore
    return helper(web, [kernelFile('flood.ts'), String(own.ifindex), own.address, address, ...packets])
  }
  async function metric(name: string): Promise<string | undefined> {
    const all = await (await fetch('http://127.0.0.1:9653/metrics')).text()
    return all.split('\n').find((line) => line.startsWith(name))
  }

  test('the agent is killed: another answers, and nothing else changes', { timeout: 60_000 }, async () => {
    const agent = await start()
    const { sent, answered } = await under(async () => {
      kill(workerOf(agent))
      await answers()
    })
    // What was in its hands is gone with it: what came within a turn or two.
    expect(sent - answered).toBeLessThan(perSecond / 5)
    await until(async () => (await metric('namegate_restarts_total{cause="died"}')) === 'namegate_restarts_total{cause="died"} 1') // prettier-ignore
    expect(agent.exitCode).toBe(null)
  })

  test('the supervisor is killed: the agent answers on; the next supervisor takes over without a question lost', { timeout: 60_000 }, async () => {
    const agent = await start()
    const worker = workerOf(agent)
    const before = await under(async () => {
      agent.kill('SIGKILL')
      await once(agent, 'exit')
      await until(() => childrenOf(worker).length === 0)
      await answers()
    })
    expect(before.answered).toBe(before.sent)
    const after = await under(async () => {
      const next = await start()
      await until(() => sh(`ps -o pid= -p ${worker} || true`) === '')
      expect(childrenOf(next.pid ?? 0)).not.toContain(worker)
      await answers()
    })
    expect(after.answered).toBe(after.sent)
  }) // prettier-ignore

  test('supervisor and agent are killed at once: the standby takes over, and the next supervisor from that', { timeout: 60_000 }, async () => {
    const agent = await start()
    const [worker = 0, standby = 0] = childrenOf(agent.pid ?? 0)
    const { sent, answered } = await under(async () => {
      kill(agent.pid ?? 0)
      kill(worker)
      await once(agent, 'exit')
      await answers()
    })
    expect(sent - answered).toBeLessThan(perSecond / 5)
    expect(said).toContain('the standby takes over')
    const next = await start()
    await until(() => sh(`ps -o pid= -p ${standby} || true`) === '')
    expect(childrenOf(next.pid ?? 0)).not.toContain(standby)
    // The supervisor alone: the agent goes on, and its standby is not needed.
    const [left = 0, needless = 0] = childrenOf(next.pid ?? 0)
    kill(next.pid ?? 0)
    await until(() => sh(`ps -o pid= -p ${needless} || true`) === '')
    await answers()
    kill(left, 'SIGTERM')
    await until(() => sh(`ps -o pid= -p ${left} || true`) === '')
  }) // prettier-ignore

  test('a supervisor that cannot start leaves the agent of the one before it as it is', async () => {
    const agent = await start()
    const worker = workerOf(agent)
    agent.kill('SIGKILL')
    await once(agent, 'exit')
    await writeFile(join(folder, 'manifests.yaml'), 'kind: Wrong')
    const next = spawn('bin/namegate', ['agent', '--config', join(folder, 'config.yaml')], { stdio: ['ignore', 'ignore', 'pipe'] }) // prettier-ignore
    expect(await once(next, 'exit')).toEqual([1, null])
    await answers()
    kill(worker, 'SIGTERM')
    await until(() => sh(`ps -o pid= -p ${worker} || true`) === '')
  })

  test('both are killed and started again: connections live, nothing opens', { timeout: 60_000 }, async () => {
    const agent = await start()
    await under(async () => {
      killAgent(agent)
      await start()
    })
  })

  test('both are killed and policy changes before they are started again: what it allows no more ends within a second, the rest lives', { timeout: 60_000 }, async () => {
    const narrow = (prefix: string): string => pod('web', ['10.1.0.2']) + policy('web', '{toFQDNs: [{matchPattern: "*.example.com"}]}', `{toCIDR: [${prefix}]}`) // prettier-ignore
    await writeFile(join(folder, 'manifests.yaml'), narrow('198.18.7.0/24'))
    const agent = await start()
    // So that what connections are in order by is written down.
    await until(async () => (await readFile(join(folder, 'leases.policy'), 'utf8').catch(() => '')).includes('198.18.7.0/24')) // prettier-ignore
    await answers()
    const talks = await Promise.all([leased, '198.18.7.1', '198.18.7.200'].map((to) => helper(web, ['-e', speaking(to)])))
    killAgent(agent)
    await once(agent, 'exit')
    await writeFile(join(folder, 'manifests.yaml'), narrow('198.18.7.128/25'))
    await start()
    const ended = JSON.parse(String((await talks[1]?.lines.next())?.value)) as { code: string; at: number }
    const { time } = said.split('\n').flatMap((line) => (line.includes('agent started') ? [JSON.parse(line) as { time: number }] : [])).at(-1) ?? expect.fail(said) // prettier-ignore
    expect(ended).toEqual({ code: 'ECONNRESET', at: expect.any(Number) as number })
    expect(ended.at - time).toBeLessThan(1000)
    for (const kept of [talks[0], talks[2]]) expect(await finish(kept ?? expect.fail())).toBe('alive')
  }) // prettier-ignore

  test('replaced (SIGUSR2): another process answers, and no question is lost', { timeout: 60_000 }, async () => {
    const agent = await start()
    const worker = workerOf(agent)
    const { sent, answered } = await under(async () => {
      agent.kill('SIGUSR2')
      await until(() => !childrenOf(agent.pid ?? 0).includes(worker))
      await answers()
    })
    expect(answered).toBe(sent)
    await until(async () => (await metric('namegate_restarts_total{cause="replaced"}')) === 'namegate_restarts_total{cause="replaced"} 1') // prettier-ignore
    agent.kill('SIGTERM')
    expect(await once(agent, 'exit')).toEqual([0, null])
  })

  test('namegate restart: waits for the successor, and loses no question; says why there is none', { timeout: 60_000 }, async () => {
    const agent = await start()
    const worker = workerOf(agent)
    let told: { out: string; err: string; status: number } | undefined
    const { sent, answered } = await under(async () => void (told = await restart()))
    await until(() => !childrenOf(agent.pid ?? 0).includes(worker))
    expect(told).toMatchObject({ status: 0, err: '', out: expect.stringContaining(`process ${workerOf(agent)} has taken over from ${worker}, and is ready; that took`) as string }) // prettier-ignore
    expect(answered).toBe(sent)
    await writeFile(join(folder, 'config.yaml'), 'manifests: here\nnonsense: 1')
    const stays = workerOf(agent)
    const refused = await restart()
    expect(refused).toMatchObject({ status: 1, out: '', err: expect.stringContaining('nonsense') as string })
    expect(refused.err).toContain(`namegate: process ${stays} stays: the new configuration cannot be used: `)
    expect(workerOf(agent)).toBe(stays)
    kill(agent.pid ?? 0)
    await once(agent, 'exit')
    await until(async () => (await restart()).err.includes('start the agent again'))
    kill(stays, 'SIGTERM')
    expect(await restart('http://127.0.0.1:1')).toMatchObject({ status: 1, err: expect.stringContaining('no agent answers') as string }) // prettier-ignore
  }) // prettier-ignore

  test('a policy that changes while nobody is there comes into force', async () => {
    const agent = await start()
    kill(agent.pid ?? 0, 'SIGSTOP')
    kill(workerOf(agent))
    await writeFile(join(folder, 'manifests.yaml'), manifests.replace('*.example.com', 'nothing.example.com'))
    kill(agent.pid ?? 0, 'SIGCONT')
    await until(async () => (await web.run('dig +tries=1 +time=1 api.example.com @9.9.9.9')).out.includes('REFUSED'))
    expect(sh('nft list set inet namegate learned_any4')).not.toContain(leased)
  })

  test('manifests that cannot be used do not keep another from taking over what is in force', async () => {
    const agent = await start()
    await writeFile(join(folder, 'manifests.yaml'), 'kind: Wrong')
    await until(() => said.includes('the new manifests are refused'))
    const before = standbys()
    kill(workerOf(agent))
    await answers()
    await hasStandby(agent, before)
    kill(workerOf(agent))
    await answers()
  })

  test('a configuration that cannot be used replaces nobody', async () => {
    const agent = await start()
    const workers = childrenOf(agent.pid ?? 0)
    await writeFile(join(folder, 'config.yaml'), 'dns: {')
    agent.kill('SIGUSR2')
    await until(() => said.includes('the new configuration cannot be used'))
    expect(childrenOf(agent.pid ?? 0)).toEqual(workers)
    await answers()
  })

  test('an agent that dies again and again waits longer each time, and comes back', { timeout: 60_000 }, async () => {
    const agent = await start()
    for (let i = 0; i < 3; i++) {
      const worker = workerOf(agent)
      kill(worker)
      await until(() => !childrenOf(agent.pid ?? 0).includes(worker))
      await answers()
    }
    expect(said).toContain('it dies again and again; the next one waits')
    expect(said.match(/the agent died; another takes over/g)).toHaveLength(3)
  })
})
