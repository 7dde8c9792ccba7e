// `namegate agent` as a process, and the commands that talk to it.
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { killAgent } from '../support/processes.ts'
import { addHost, enterLab, sh, until, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.1.0.2}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {}
  egress: [{toFQDNs: [{matchPattern: "*.example.com"}]}]
`

interface Ended {
  readonly status: number
  readonly out: string
  readonly err: string
}

describe.skipIf(reason !== undefined)(`namegate agent ${reason ?? ''}`, () => {
  let web: Host
  let upstream: EmbeddedUpstream
  let agent: ChildProcess
  let folder: string
  let said = ''
  const config = (over: Record<string, unknown> = {}): string => JSON.stringify({ manifests: join(folder, 'manifests'), dns: { upstreams: ['127.0.0.1:5300'] }, datapath: { interfaces: ['web'] }, leases: { journal: join(folder, 'leases') }, api: { socket: join(folder, 'api.sock'), port: 9653 }, observe: { export: [{ file: join(folder, 'flows', 'dns.jsonl'), allow: [{ protocol: ['dns'] }], deny: [{ reply: [true] }] }], hubble: { listen: [`unix:${join(folder, 'hubble.sock')}`] } }, ...over }) // prettier-ignore
  const namegate = (...args: string[]): Promise<Ended> =>
    new Promise((resolve) => {
      execFile(
        'bin/namegate',
        args,
        { env: { ...process.env, NAMEGATE_API: `unix:${join(folder, 'api.sock')}` } },
        (error, out, err) => {
          resolve({ status: error === null ? 0 : Number(error.code), out, err })
        },
      )
    })
  const json = async (...args: string[]): Promise<unknown> => JSON.parse((await namegate(...args, '-o', 'json')).out)

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24'], ['10.1.0.1/24'])
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
    folder = await mkdtemp(join(tmpdir(), 'namegate-agent-'))
    await writeFile(join(folder, 'manifests'), manifests)
    await writeFile(join(folder, 'config.yaml'), config())
    agent = spawn('bin/namegate', ['agent', '--config', join(folder, 'config.yaml')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    agent.stderr?.setEncoding('utf8').on('data', (text: string) => (said += text))
    await until(async () => (await namegate('status')).status === 0)
    await web.run(
      'dig +tries=1 api.example.com @9.9.9.9; dig +tries=1 www.example.com @9.9.9.9; dig +tries=1 evil.test @9.9.9.9',
    )
  })
  afterAll(async () => {
    if (agent !== undefined) killAgent(agent)
    await upstream?.close()
    web?.stop()
    await rm(folder, { recursive: true, force: true })
  })

  test('fqdn cache list: what Cilium shows, and what is left', async () => {
    const rows = await json('fqdn', 'cache', 'list')
    expect(rows).toMatchObject([
      { fqdn: 'api.example.com.', ips: ['198.18.0.20'], ttl: 300, source: 'lookup', 'endpoint-id': 1, identity: 256 },
      { fqdn: 'www.example.com.', ips: ['198.18.1.7'], ttl: 120 },
    ])
    const { out } = await namegate('fqdn', 'cache', 'list')
    expect(out.split('\n')[0]?.split(/\s+/)).toEqual([
      'Endpoint',
      'Identity',
      'Source',
      'FQDN',
      'TTL',
      'Remaining',
      'ExpirationTime',
      'IPs',
    ])
  })

  const filters = [
    { args: ['-p', 'www.*.com'], names: ['www.example.com.'] },
    { args: ['-p', 'API.example.com'], names: ['api.example.com.'] },
    { args: ['-c', '198.18.0.0/24'], names: ['api.example.com.'] },
    { args: ['-i', '256'], names: ['api.example.com.', 'www.example.com.'] },
    { args: ['-i', '257'], names: [] },
    { args: ['-s', 'lookup', '-c', '198.18.1.7'], names: ['www.example.com.'] },
    { args: ['-s', 'connection'], names: [] },
  ]
  for (const { args, names } of filters)
    test(`fqdn cache list ${args.join(' ')}`, async () => {
      expect(((await json('fqdn', 'cache', 'list', ...args)) as { fqdn: string }[]).map((row) => row.fqdn)).toEqual(
        names,
      )
    })

  test('flows in a file, and counted; Hubble’s socket', async () => {
    const lines = async (): Promise<string[]> => (await readFile(join(folder, 'flows', 'dns.jsonl'), 'utf8')).trim().split('\n').map((line) => { const { flow } = JSON.parse(line) as { flow: { verdict: string; Summary: string } }; return `${flow.verdict} ${flow.Summary}` }) // prettier-ignore
    await expect.poll(lines).toEqual(['FORWARDED DNS Query api.example.com. A', 'FORWARDED DNS Query www.example.com. A', 'DROPPED DNS Query evil.test. A']) // prettier-ignore
    expect(await (await fetch('http://127.0.0.1:9653/metrics')).text()).toMatch(/\nnamegate_export_flows_total 3\n[\s\S]*\nnamegate_export_lost_total 0\n/) // prettier-ignore
    expect((await stat(join(folder, 'hubble.sock'))).mode & 0o777).toBe(0o660)
  })

  test('wrong filters are told', async () => {
    expect(await namegate('fqdn', 'cache', 'list', '-p', 'a b')).toMatchObject({ status: 1, err: /Invalid characters in MatchPattern/ as unknown as string }) // prettier-ignore
    expect((await namegate('fqdn', 'cache', 'list', '-c', 'x')).err).toContain('"x" is not an address or a prefix')
    expect((await namegate('fqdn', 'cache', 'list', '-i', 'x')).err).toContain('"x" is not a number')
  })

  test('identity, endpoint, policy, status', async () => {
    expect(await json('identity', 'list')).toMatchObject([{ id: 256, labels: ['k8s:app=web', 'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop', 'k8s:io.cilium.k8s.policy.cluster=default', 'k8s:io.cilium.k8s.policy.serviceaccount=default', 'k8s:io.kubernetes.pod.namespace=shop'] }]) // prettier-ignore
    expect(await json('identity', 'get', '256')).toMatchObject({ id: 256 })
    expect(await namegate('identity', 'get', '9')).toMatchObject({
      status: 1,
      err: 'namegate: there is no identity 9\n',
    })
    expect(await json('endpoint', 'list')).toMatchObject([{ id: 1, name: 'web', addresses: ['10.1.0.2'], policies: ['shop/web'], 'egress-default-deny': true }]) // prettier-ignore
    expect(await json('policy', 'get')).toMatchObject({
      revision: 1,
      policies: [{ name: 'shop/web', endpoints: ['shop/web'] }],
      refused: [],
    })
    expect(await json('status')).toMatchObject({ ready: true, leases: 2, endpoints: 1 })
  })

  test('clean asks, unless forced, and normalises like list', async () => {
    expect(await namegate('fqdn', 'cache', 'clean')).toMatchObject({ status: 1, out: '' })
    expect(await json('fqdn', 'cache', 'clean', '-f', '-p', 'API.example.com')).toEqual({ deleted: 1 })
    expect(sh('nft list set inet namegate learned_any4')).not.toContain('198.18.0.20')
    expect(await json('fqdn', 'cache', 'clean', '-f')).toEqual({ deleted: 1 })
    expect(await json('fqdn', 'cache', 'list')).toEqual([])
  })

  test('HTTP on loopback: health, metrics; not under another name, not by a workload', async () => {
    const get = (path: string, host = '127.0.0.1:9653'): Promise<string> => new Promise((done) => execFile('curl', ['-s', '-w', ' %{http_code}', '-H', `Host: ${host}`, `http://127.0.0.1:9653${path}`], (_e, out) => done(out))) // prettier-ignore
    expect(await get('/healthz')).toBe('{"ok":true,"troubles":[]} 200')
    expect(await get('/metrics')).toMatch(
      /namegate_dns_questions_total\{outcome="answered",rcode="NOERROR",transport="udp",cached="false"\} 2/,
    )
    expect(await get('/v1/fqdn/cache?matchpatern=x')).toContain('unknown parameter')
    expect(await get('/v1/status', 'evil.example')).toContain('403')
    expect((await web.run('curl -s -m 2 http://10.1.0.1:9653/v1/status')).status).not.toBe(0)
    expect((await stat(join(folder, 'api.sock'))).mode & 0o777).toBe(0o660)
  })

  test('a second agent on the same socket is refused', async () => {
    await writeFile(join(folder, 'second.yaml'), config({ dns: { listen: [{ address: '127.0.0.1', port: 10099 }], upstreams: ['127.0.0.1'] }, datapath: { enforce: 'none' } })) // prettier-ignore
    expect(await namegate('agent', '--config', join(folder, 'second.yaml'))).toMatchObject({ status: 1 })
    expect((await namegate('status')).status).toBe(0)
  })

  test('wrong manifests: shown with their places, the policy before them stays, and mended they are gone', async () => {
    const place = join(folder, 'manifests')
    const healthz = (): Promise<string> => new Promise((done) => execFile('curl', ['-s', 'http://127.0.0.1:9653/healthz'], (_e, out) => done(out))) // prettier-ignore
    const { revision } = (await json('status')) as { revision: number }
    await writeFile(place, manifests.replace('matchPattern', 'matchPatern'))
    await until(async () => ((await json('status')) as { refused: number }).refused > 0)
    const { out, status } = await namegate('status')
    expect(out).toContain('refused    2\n')
    expect(out).toContain(
      `The newest manifests are refused, and the policy before them stays in force:\n  ${place}:12:24: spec.egress[0].toFQDNs[0].matchPatern: unknown field "matchPatern"; did you mean "matchPattern"?\n  ${place}:12:23: `,
    )
    expect(status).toBe(0)
    expect(await json('status')).toMatchObject({ ready: true, revision })
    expect(JSON.parse(await healthz())).toEqual({ ok: true, troubles: [] })
    expect(said).toContain('the new manifests are refused; the policy in force stays')
    expect((await web.run('dig +tries=1 +short www.example.com @9.9.9.9')).out).toContain('198.18.1.7')
    await writeFile(place, manifests)
    await until(async () => ((await json('status')) as { refused: number }).refused === 0)
    expect((await namegate('status')).out).not.toContain(place)
  })

  test('SIGTERM: a question under way is answered, exit status 0, the table stays', async () => {
    agent.kill('SIGTERM')
    const [status] = (await once(agent, 'exit')) as [number | null]
    expect(status).toBe(0)
    expect(sh('nft list tables')).toContain('inet namegate')
    expect(await namegate('status')).toMatchObject({
      status: 1,
      err: /no agent answers at unix:.*start one with/ as unknown as string,
    })
  })

  const broken = [
    {
      title: 'unknown field',
      text: 'manifests: x\ndsn: {}',
      err: 'config.yaml:2:6: dsn: unknown field "dsn"; did you mean "dns"?',
    },
    { title: 'several', text: 'dns: {upstreams: [x], timeoutMillis: fast}\napi: {address: 0.0.0.0}', err: /manifests: .*\n.*1:19: dns\.upstreams\[0\]: "x" is not IP:PORT.*\n.*dns\.timeoutMillis: .*\n.*api\.address: elsewhere than on loopback, tokenFile or tls\.clientCa is required/ }, // prettier-ignore
    { title: 'broken YAML', text: 'dns: [', err: 'config.yaml:1:7: ' },
    { title: 'no manifests there', text: 'manifests: /nonexistent\napi: {socket: null, port: null}', err: /ENOENT/ },
  ]
  for (const { title, text, err } of broken)
    test(`configuration: ${title}`, async () => {
      await writeFile(join(folder, 'config.yaml'), text)
      const got = await namegate('agent', '--config', join(folder, 'config.yaml'))
      if (typeof err === 'string') expect(got.err).toContain(err)
      else expect(got.err).toMatch(err)
      expect(got.status).toBe(1)
    })
})
