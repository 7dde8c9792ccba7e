// The program as people run it, against an API that shows a plain world: output, exit statuses, usage errors. No agent, no kernel.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { serveApi, type ServedApi } from '../../../src/api/serve.ts'
import { showWorld, type Shown } from '../api/view.ts'

interface Ended {
  readonly status: number
  readonly out: string
  readonly err: string
}
let folder: string
let api: ServedApi
let shown: Shown
let troubles: string[]

function exec(file: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(file, args, { env: { ...process.env, ...env } }, (error, out, err) =>
      resolve({ status: error === null ? 0 : Number(error.code), out, err }),
    )
    child.stdin?.end()
  })
}
const namegate = (...args: string[]): Promise<Ended> =>
  exec('bin/namegate', args, { NAMEGATE_API: `unix:${join(folder, 'api.sock')}` })

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'namegate-cli-'))
  // What is shown is replaced before each test; the socket stays.
  const view: Shown = new Proxy({} as Shown, { get: (_, key) => shown[key as keyof Shown] })
  api = await serveApi(view, { socket: join(folder, 'api.sock'), address: '127.0.0.1', port: 0 })
})
afterAll(async () => {
  await api.close()
  await rm(folder, { recursive: true })
})
beforeEach(() => {
  troubles = []
  shown = showWorld({ troubles: () => troubles })
  shown.learn({ name: 'api.example.com', ips: ['198.18.0.1', '198.18.0.2'] })
  shown.learn({ name: 'www.example.com', ips: ['2001:db8::1'], ttlSeconds: 3600 })
})

describe('what is shown', () => {
  test('fqdn cache list: aligned columns', async () => {
    const { status, out, err } = await namegate('fqdn', 'cache', 'list')
    expect([status, err]).toEqual([0, ''])
    expect(out.replaceAll(/\d{4}-[-\d]+T[:.\d]+Z/g, '<time>')).toBe(
      [
        'Endpoint  Identity  Source  FQDN              TTL   Remaining  ExpirationTime            IPs',
        '1         256       lookup  api.example.com.  60    60s        <time>  198.18.0.1,198.18.0.2',
        '1         256       lookup  www.example.com.  3600  3600s      <time>  2001:db8::1',
        '',
      ].join('\n'),
    )
  })

  const listings = [
    { args: ['fqdn', 'cache', 'list', '-p', 'www.*.com', '-o', 'yaml'], shows: /^- fqdn: www\.example\.com\.\n {2}ips:\n {4}- 2001:db8::1\n/ }, // prettier-ignore
    { args: ['identity', 'list'], shows: /^Identity +Kernel +Labels\n256 +0x100 +k8s:app=web\n +k8s:io/ },
    { args: ['identity', 'get', '257', '-o', 'json'], shows: /"id": 257,\n {2}"labels": \[\n {4}"k8s:app=db"/ },
    { args: ['endpoint', 'list'], shows: /\n1 +shop\/web +256 +allow +deny +10\.1\.0\.2 +shop\/web\n2 +shop\/db +257 +allow +allow +10\.1\.0\.3,fd01::3\n$/ }, // prettier-ignore
    { args: ['policy', 'get'], shows: /^Revision: 1\nKind +Policy +Ingress +Egress +Endpoints +File\nCiliumNetworkPolicy +shop\/web +0 +1 +shop\/web +world\.yaml\n$/ }, // prettier-ignore
    { args: ['status'], shows: /^Status +ready\ntroubles +none\n/ },
  ]
  for (const { args, shows } of listings)
    test(args.join(' '), async () => {
      expect(await namegate(...args)).toEqual({ status: 0, out: expect.stringMatching(shows) as string, err: '' })
    })

  test('status says no, for scripts too', async () => {
    troubles = ['kernel: ENOBUFS']
    const { status, out } = await namegate('status')
    expect(status).toBe(1)
    expect(out).toMatch(/^Status +not ready\ntroubles +kernel: ENOBUFS\n/)
  })

  test('over TCP, by option', async () => {
    const url = api.urls[1] ?? ''
    expect(await namegate('status', '--api', url)).toMatchObject({ status: 0 })
  })

  test('whoever stops reading has seen enough', async () => {
    for (let i = 0; i < 20_000; i++) shown.learn({ name: `n${i}.example.com`, ips: ['198.18.0.1'] })
    const env = { NAMEGATE_API: `unix:${join(folder, 'api.sock')}` }
    const piped = await exec('sh', ['-c', '{ bin/namegate fqdn cache list; echo "status $?" >&2; } | head -n 1'], env)
    expect(piped.out).toMatch(/^Endpoint .*\n$/)
    expect(piped.err).toBe('status 0\n')
  })
})

describe('fqdn cache clean', () => {
  test('without a terminal it wants -f', async () => {
    expect(await namegate('fqdn', 'cache', 'clean')).toEqual({ status: 1, out: '', err: 'nothing was cleaned (without a terminal, -f says that you mean it)\n' }) // prettier-ignore
    expect(shown.leases.size()).toBe(3)
  })
  test('what it cleaned', async () => {
    expect(await namegate('fqdn', 'cache', 'clean', '-f', '-p', 'API.example.com')).toMatchObject({ status: 0, out: '2 leases cleaned\n' }) // prettier-ignore
    expect(await namegate('fqdn', 'cache', 'clean', '-f', '-o', 'json')).toMatchObject({ status: 0, out: '{\n  "deleted": 1\n}\n' }) // prettier-ignore
    expect(shown.leases.size()).toBe(0)
  })
})

const failures = [
  { args: ['fqdn', 'cache', 'list', '-c', 'x'], err: 'namegate: cidr: "x" is not an address or a prefix\n' },
  { args: ['identity', 'get', 'a/b'], err: 'namegate: there is no identity a/b\n' },
  { args: ['status', '--api', 'unix:/nonexistent'], err: /^namegate: no agent answers at unix:\/nonexistent .*start one with: namegate agent --config FILE\n$/ }, // prettier-ignore
  { args: ['agent', '--config', '/nonexistent'], err: /^namegate: ENOENT.*'\/nonexistent'\n$/ },
]
for (const { args, err } of failures)
  test(`fails with 1: ${args.join(' ')}`, async () => {
    const matching = (typeof err === 'string' ? err : expect.stringMatching(err)) as string
    expect(await namegate(...args)).toEqual({ status: 1, out: '', err: matching })
  })

const usage = [
  { args: [], err: /^Usage: namegate / },
  { args: ['fqdn'], err: /^Usage: namegate fqdn / },
  { args: ['polcy'], err: /unknown command 'polcy'\n\(Did you mean policy\?\)/ },
  { args: ['status', '--jason'], err: /unknown option '--jason'/ },
  { args: ['status', '-o', 'xml'], err: /Allowed choices are table, json, yaml/ },
  { args: ['status', 'now'], err: /too many arguments/ },
  { args: ['agent'], err: /required option '--config <file>' not specified/ },
  { args: ['identity', 'get'], err: /missing required argument 'id'/ },
  { args: ['run', '--', 'true'], err: /required option '--policy <file>' not specified/ },
  { args: ['run', '--policy', 'p'], err: /missing required argument 'command'/ },
  { args: ['run', '--policy', 'p', '--upstream', 'dns:53', '--', 'true'], err: /an upstream is IP:PORT/ },
  { args: ['run', '--policy', 'p', '--label', '=x', '--', 'true'], err: /a label is KEY=VALUE/ },
  { args: ['run', '--policy', 'p', '--network', 'x', '--', 'true'], err: /Allowed choices are auto, / },
]
for (const { args, err } of usage)
  test(`usage: ${args.join(' ') || 'nothing'}`, async () => {
    expect(await namegate(...args)).toEqual({
      status: args[0] === 'run' ? 125 : 2,
      out: '',
      err: expect.stringMatching(err) as string,
    })
  })

test('help and version go to stdout with status 0, without colour', async () => {
  expect(await namegate('--version')).toMatchObject({ status: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) as string }) // prettier-ignore
  for (const args of [['--help'], ['run', '--help'], ['fqdn', 'cache', 'list', '--help']]) {
    const { status, out, err } = await namegate(...args)
    expect([status, err]).toEqual([0, ''])
    expect(out).toMatch(/^Usage: namegate/)
    expect(out).not.toContain('\x1b')
  }
})

describe('bin/namegate', () => {
  test('through a symbolic link', async () => {
    await symlink(join(process.cwd(), 'bin/namegate'), join(folder, 'ng'))
    expect((await exec(join(folder, 'ng'), ['--version'])).status).toBe(0)
  })

  const nodes = [
    { title: 'too old', node: '#!/bin/sh\necho 20\n', found: '20' },
    { title: 'none', node: '#!/bin/sh\nexit 127\n', found: 'none' },
  ]
  for (const { title, node, found } of nodes)
    test(`Node is ${title}: one line that says so`, async () => {
      const bare = join(folder, found)
      await mkdir(join(bare, 'bin'), { recursive: true })
      await mkdir(join(bare, 'path'))
      await copyFile('bin/namegate', join(bare, 'bin/namegate'))
      await writeFile(join(bare, 'path/node'), node)
      await chmod(join(bare, 'path/node'), 0o755)
      const { status, err } = await exec(join(bare, 'bin/namegate'), ['status'], { PATH: `${join(bare, 'path')}:/usr/bin:/bin` }) // prettier-ignore
      expect(status).toBe(125)
      expect(err).toBe(`namegate: needs Node 24 or later; found ${found} (run npm ci in ${bare}, or install a newer Node)\n`) // prettier-ignore
    })
})

describe('the first signal drains, a second one ends at once', () => {
  const script = `
    const { firstSignal } = await import('./src/cli/agent.ts')
    setInterval(() => {}, 1000)
    const signal = firstSignal()
    process.stdout.write('ready')
    process.stdout.write(await signal)`
  for (const [first, second] of [
    ['SIGTERM', 'SIGINT'],
    ['SIGTERM', 'SIGTERM'],
    ['SIGINT', 'SIGTERM'],
  ] as const)
    // prettier-ignore
    test(`${first}, ${second}`, async () => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
      const said = async (): Promise<string> => String(((await once(child.stdout, 'data')) as [Buffer])[0])
      expect(await said()).toBe('ready')
      const drains = said()
      child.kill(first)
      expect(await drains).toBe(first)
      child.kill(second)
      expect(await once(child, 'exit')).toEqual([null, second])
    })
})
