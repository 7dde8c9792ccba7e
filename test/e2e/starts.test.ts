// How `namegate agent` starts where something is in its way, beside another agent, and how it ends: as a process, on the real kernel.
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { decode, encode } from 'dns-packet'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { temporaryFolder } from '../support/folder.ts'
import { addHost, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'
import { names, pod, policy } from '../support/manifests.ts'
import { killAgent } from '../support/processes.ts'

const reason = whyNoKernel()
const manifests = pod('web', ['10.1.0.2']) + policy('web', names('{matchPattern: "*.example.com"}'))

interface Running {
  readonly process: ChildProcess
  readonly said: () => string
  readonly ended: Promise<{ readonly status: number | null; readonly signal: NodeJS.Signals | null }>
}

describe.skipIf(reason !== undefined)(`starts ${reason ?? ''}`, () => {
  let folder: string
  const running: Running[] = []
  let web: Host
  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24'], ['10.1.0.1/24'])
  })
  afterAll(() => web?.stop())
  beforeEach(async () => {
    folder = await temporaryFolder()
    await writeFile(join(folder, 'manifests.yaml'), manifests)
  })
  afterEach(async () => {
    for (const { process, ended } of running.splice(0)) {
      killAgent(process)
      await ended
    }
    sh('nft delete table inet namegate 2>/dev/null || true')
  })

  /** Starts an agent with its own sockets in the folder, over which the configuration is laid. */
  async function start(over: Record<string, unknown> = {}, prefix: readonly string[] = []): Promise<Running> {
    const config = join(folder, `config${running.length}.yaml`)
    await writeFile(config, JSON.stringify({ manifests: join(folder, 'manifests.yaml'), dns: { listen: [{ address: '0.0.0.0', port: 10053 }], upstreams: ['127.0.0.1:5301'] }, datapath: { interfaces: ['web'] }, leases: { journal: join(folder, 'leases') }, api: { socket: join(folder, 'api.sock'), port: 9653 }, ...over })) // prettier-ignore
    const [program = '', ...args] = [...prefix, 'bin/namegate', 'agent', '--config', config]
    const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
    const ended = new Promise<{ status: number | null; signal: NodeJS.Signals | null }>((done) =>
      child.once('close', (status, signal) => done({ status, signal })),
    )
    const one = { process: child, said: () => said, ended }
    running.push(one)
    return one
  }
  const says = (one: Running, words: string): Promise<void> =>
    expect.poll(one.said, { timeout: 10_000 }).toContain(words)
  const up = (one: Running): Promise<void> => says(one, 'inspection endpoint')
  /** Elsewhere than the agent that is there already. */
  const elsewhere = (): Record<string, unknown> => ({ dns: { listen: [{ address: '127.0.0.1', port: 10054 }], upstreams: ['127.0.0.1:5301'] }, api: { socket: join(folder, 'other.sock'), port: null } }) // prettier-ignore

  describe('something is in its way', () => {
    const onTcp = (port: number) => async () => {
      const other = createServer().listen(port, '127.0.0.1')
      await once(other, 'listening')
      onTestFinished(() => void other.close())
    }
    const onUdp = (port: number) => async () => {
      const other = createSocket('udp4').bind(port, '0.0.0.0')
      await once(other, 'listening')
      onTestFinished(() => void other.close())
    }
    const cases = [
      { title: "the API's port", prepare: onTcp(9653), over: {}, said: 'the API cannot listen on 127.0.0.1:9653: another program has it; api.port sets another' },
      { title: "the API's token may be read by others", prepare: async () => undefined, over: { api: { socket: null, port: 9653, tokenFile: '/etc/passwd' } }, said: 'namegate: api.tokenFile: /etc/passwd may be read or changed by others (mode 644); chmod 600 it' },
      { title: "Hubble's port", prepare: onTcp(4244), over: { observe: { hubble: { listen: ['127.0.0.1:4244'] } } }, said: "Hubble's API cannot listen on 127.0.0.1:4244: another program has it; observe.hubble.listen sets another" },
      { title: "DNS's port, UDP", prepare: onUdp(10053), over: {}, said: 'DNS cannot listen on 0.0.0.0:10053: another program has it; dns.listen sets another' },
      { title: "DNS's port, TCP", prepare: onTcp(10053), over: {}, said: 'DNS cannot listen on 0.0.0.0:10053: another program has it; dns.listen sets another' },
      { title: 'an address that is not ours', prepare: async () => undefined, over: { dns: { listen: [{ address: '192.0.2.1' }] } }, said: 'DNS cannot listen on 192.0.2.1:10053: this host has no such address; dns.listen sets another' },
      { title: "the API's socket is no socket", prepare: () => writeFile(join(folder, 'api.sock'), 'mine'), over: {}, said: 'something that is no socket lies there; api.socket sets another' },
    ] // prettier-ignore
    for (const { title, prepare, over, said } of cases)
      test(`${title}: told with the option, and nothing is left behind`, async () => {
        await prepare()
        const before = existsSync(join(folder, 'api.sock'))
        const agent = await start(over)
        expect(await agent.ended).toEqual({ status: 1, signal: null })
        expect(agent.said()).toContain(said)
        expect(sh('nft list tables')).toBe('')
        expect(existsSync(join(folder, 'api.sock'))).toBe(before)
        expect(sh('ss -Hltnu src :10053 or src :9653 | grep -c namegate || true')).toBe('0\n')
      })

    test('a table that stood there before is as it was', async () => {
      const first = await start()
      await up(first)
      first.process.kill('SIGTERM')
      await first.ended
      const before = sh('nft -s list ruleset')
      await onTcp(9653)()
      const agent = await start({ datapath: { interfaces: ['other'] } })
      expect(await agent.ended).toMatchObject({ status: 1 })
      expect(sh('nft -s list ruleset')).toBe(before)
    })
  })

  describe('one agent for a table', () => {
    test('a second is refused and told who has it; the first goes on', async () => {
      const first = await start()
      await up(first)
      const before = sh('nft -s list ruleset')
      const second = await start(elsewhere())
      expect(await second.ended).toEqual({ status: 1, signal: null })
      expect(second.said()).toMatch(/another agent \(process \d+\) holds the table namegate of this network namespace; stop it first, or set datapath\.table/) // prettier-ignore
      expect(second.said()).toContain(`(process ${first.process.pid})`)
      expect(sh('nft -s list ruleset')).toBe(before)
      expect(existsSync(join(folder, 'other.sock'))).toBe(false)
    })

    test('a killed one has it no longer, at once', async () => {
      const first = await start()
      await up(first)
      killAgent(first.process)
      await first.ended
      await up(await start())
    })

    test('another table, another network namespace, or no kernel: not in the way', async () => {
      await up(await start())
      const other = await start({ ...elsewhere(), datapath: { table: 'other' } })
      await up(other)
      await up(await start({ api: { socket: join(folder, 'third.sock') } }, ['unshare', '--net', 'sh', '-c', 'ip link set lo up; exec "$@"', 'sh'])) // prettier-ignore
      await up(await start({ dns: { listen: [{ address: '127.0.0.1', port: 10055 }] }, api: { socket: null, port: null }, datapath: { enforce: 'none' } })) // prettier-ignore
      // It would bring its table back, and the workload's DNS with that.
      killAgent(other.process)
      await other.ended
      sh('nft delete table inet other')
    })
  })

  describe('signals', () => {
    /** Answers when it is told to. */
    async function heldUpstream(): Promise<{ asked: () => number; release: () => void }> {
      const socket = createSocket('udp4').bind(5301, '127.0.0.1')
      await once(socket, 'listening')
      onTestFinished(() => void socket.close())
      const held: (() => void)[] = []
      socket.on('message', (message, from) => {
        const { id, questions = [] } = decode(message)
        const reply = encode({ type: 'response', id: id ?? 0, flags: 0x180, questions, answers: questions.map(({ name }) => ({ type: 'A', name, ttl: 60, data: '198.18.0.20' })) }) // prettier-ignore
        held.push(() => socket.send(reply, from.port, from.address))
      })
      return { asked: () => held.length, release: () => held.forEach((send) => send()) }
    }
    /** Asks so many names at once as the workload; gives how many were answered with the address, when all are or none comes for so long. */
    async function ask(count: number, millis = 5000): Promise<number> {
      const { out } = await web.run(`${process.execPath} --input-type=module -e "
        import { createSocket } from 'node:dgram'
        import { decode, encode } from '${import.meta.resolve('dns-packet')}'
        const answered = new Set()
        const end = () => { console.log(answered.size); process.exit() }
        let late = setTimeout(end, ${millis})
        const socket = createSocket('udp4').on('message', (message) => {
          const { id, answers } = decode(message)
          if (answers[0]?.data === '198.18.0.20') answered.add(id)
          late.refresh()
          if (answered.size === ${count}) end()
        })
        for (let id = 1; id <= ${count}; id++) socket.send(encode({ type: 'query', id, flags: 0x100, questions: [{ type: 'A', name: 'n' + id + '.example.com' }] }), 53, '9.9.9.9')"`)
      return Number(out)
    }

    test('SIGTERM with many questions under way: all are answered, exit status 0, the table stays', async () => {
      const upstream = await heldUpstream()
      const agent = await start()
      await up(agent)
      const answered = ask(200)
      await expect.poll(upstream.asked, { timeout: 5000 }).toBe(200)
      agent.process.kill('SIGTERM')
      await says(agent, 'draining')
      upstream.release()
      expect(await agent.ended).toEqual({ status: 0, signal: null })
      expect(await answered).toBe(200)
      expect(sh('nft list tables')).toContain('inet namegate')
    })

    for (const second of ['SIGTERM', 'SIGINT'] as const)
      test(`a second ${second} ends it at once`, async () => {
        const upstream = await heldUpstream()
        const agent = await start({ dns: { listen: [{ address: '0.0.0.0', port: 10053 }], upstreams: ['127.0.0.1:5301'], timeoutMillis: 30_000, deadlineMillis: 60_000 } }) // prettier-ignore
        await up(agent)
        const answered = ask(1, 1500)
        await expect.poll(upstream.asked, { timeout: 5000 }).toBe(1)
        agent.process.kill('SIGTERM')
        await says(agent, 'draining')
        agent.process.kill(second)
        expect(await agent.ended).toEqual({ status: null, signal: second })
        expect(await answered).toBe(0)
        // Nothing of it is in the way of the next one.
        await up(await start())
      })

    test('SIGHUP looks at the manifests, and does not end it', async () => {
      const agent = await start()
      await up(agent)
      agent.process.kill('SIGHUP')
      await writeFile(join(folder, 'manifests.yaml'), manifests + pod('late', ['10.1.0.3']))
      agent.process.kill('SIGHUP')
      const endpoints = (): Promise<string> => new Promise((done) => execFile('bin/namegate', ['endpoint', 'list', '--api', `unix:${join(folder, 'api.sock')}`], (_error, out) => done(out))) // prettier-ignore
      await expect.poll(endpoints, { timeout: 5000 }).toContain('default/late')
      expect(agent.process.exitCode).toBe(null)
    })
  })
})
