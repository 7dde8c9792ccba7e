// Hubble's own command against a running agent, command line by command line as hubble.txt has them: what it prints, and which flows each filter
// leaves; over TCP, a unix socket, TLS and with a client's certificate.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { serveHubble } from '../../src/observe/hubble/server.ts'
import { makeObserver } from '../../src/observe/observer.ts'
import { hubbleCommand, runHubble, whyNoHubble, type Ended } from '../support/hubbleCommand.ts'
import { addHost, answerEverywhere, enterLab, sh, until, whyNoKernel, type Host } from '../support/lab.ts'
import { killAgent } from '../support/processes.ts'
import { showWorld } from '../unit/api/view.ts'
import { connection } from '../unit/observe/flows.ts'

const reason = whyNoKernel() ?? whyNoHubble()
const story = await readFile(new URL('hubble.txt', import.meta.url), 'utf8')
/** The parts of the text behind lines `== NAME`. */
const parts = new Map(story.split('\n== ').slice(1).map((part) => [part.slice(0, part.indexOf('\n')), part.slice(part.indexOf('\n') + 1)])) // prettier-ignore
const part = (name: string): string => parts.get(name) ?? expect.fail(`no part ${name}`)

/** `$ COMMAND`, and what it prints up to the next. */
const shown = part('prints').split('\n$ ').slice(1).map((text) => ({ command: text.slice(0, text.indexOf('\n')), output: text.slice(text.indexOf('\n') + 1).trim() })) // prettier-ignore
/** `FLAGS | FLOWS`, or `FLAGS | ! ERROR`. */
const filters = part('filters').split('\n').filter((line) => line.includes(' | ')).map((line) => ({ flags: line.slice(0, line.lastIndexOf(' | ')).trim(), leaves: line.slice(line.lastIndexOf(' | ') + 3).trim() })) // prettier-ignore

/** As a shell reads it, quotes included. */
const words = (text: string): string[] => execFileSync('bash', ['-c', `printf '%s\\n' ${text}`], { encoding: 'utf8' }).trim().split('\n') // prettier-ignore

/** Without what differs from run to run: times, ports of clients, what remains of a TTL, widths of columns. */
const settled = (text: string): string[] =>
  text
    .replace(/[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d\.\d{3}/g, 'TIME')
    .replace(/"\d{4}-\d\d-\d\dT[^"]*Z"/g, '"TIME"')
    .replace(/(web-7d9f|old|10\.4\.0\.2):\d{4,5}\b/g, '$1:PORT')
    .replace(/TTL: \d+/g, 'TTL: N')
    .replace(/(UPTIME: +|Flows\/s: |PER SECOND: +)(N\/A|[\d.]+m?[\d.]*s?)/g, '$1N')
    .replace(/Connected +\S+ +(N\/A|[\d.]+) /, 'Connected N N ')
    .replace(/namegate [\d.]+/g, 'namegate VERSION')
    .replace(/-{12} +TIMESTAMP/g, '------------\nTIMESTAMP')
    .trim()
    .split('\n')
    .map((line) => line.replace(/ +/g, ' ').trim())

interface Line {
  readonly flow: { readonly time: string; readonly l4: unknown; readonly Summary: string }
}
const linesOf = ({ out }: Ended): Line[] => out.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Line) // prettier-ignore
const keyOf = ({ flow }: Line): string => JSON.stringify([flow.time, flow.l4, flow.Summary])

describe.skipIf(reason !== undefined)(`the hubble command ${reason ?? ''}`, () => {
  const hosts: Host[] = []
  let upstream: EmbeddedUpstream
  let agent: ChildProcess
  let folder: string
  let all: string[]
  const server = '127.0.0.1:4245'
  const hubble = (args: readonly string[], at = server): Promise<Ended> => runHubble([...args, '--server', at], folder)
  const seen = async (): Promise<Line[]> => linesOf(await hubble(['observe', '--all', '-o', 'json']))

  beforeAll(async () => {
    enterLab()
    folder = await mkdtemp(join(tmpdir(), 'namegate-hubble-'))
    const add = async (name: string, subnet: number): Promise<Host> => {
      const host = await addHost(name, [`10.${subnet}.0.2/24`, `fd0${subnet}::2/64`], [`10.${subnet}.0.1/24`, `fd0${subnet}::1/64`]) // prettier-ignore
      hosts.push(host)
      return host
    }
    const [web, , old, world] = [await add('web', 1), await add('db', 2), await add('old', 4), await add('world', 3)]
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    await answerEverywhere(world)
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
    await writeFile(join(folder, 'manifests'), part('manifests'))
    await writeFile(join(folder, 'config.yaml'), JSON.stringify({ manifests: join(folder, 'manifests'), dns: { upstreams: ['127.0.0.1:5300'] }, datapath: { interfaces: ['web', 'db', 'old'], denied: 'reject' }, policy: { auditEndpoints: [{ labels: { app: 'old' } }] }, host: { node: 'node-1' }, log: { level: 'error' }, api: { socket: join(folder, 'api.sock'), port: 9653 }, observe: { hubble: { listen: [`unix:${join(folder, 'hubble.sock')}`, server] } } })) // prettier-ignore
    agent = spawn('bin/namegate', ['agent', '--config', join(folder, 'config.yaml')], { stdio: ['ignore', 'ignore', 'inherit'] }) // prettier-ignore
    await until(async () => (await hubble(['status'])).status === 0)
    // The kernel's flows come behind those of questions: each part is waited for, so that the order is one.
    let flows = 0
    for (const [who, name] of [[web, 'web asks'], [web, 'web connects'], [old, 'old asks'], [old, 'old connects']] as const) {
      await who.run(`connect() { timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2"; }\n${part(name)}`)
      flows += part(name).trim().split('\n').length * (name.endsWith('asks') ? 2 : 1)
      await until(async () => (await seen()).length >= flows)
    } // prettier-ignore
    all = (await seen()).map(keyOf)
  })
  afterAll(async () => {
    if (agent !== undefined) killAgent(agent)
    await upstream?.close()
    for (const host of hosts) host.stop()
    await rm(folder, { recursive: true, force: true })
  })

  for (const { command, output } of shown)
    test(`hubble ${command}`, async () => {
      const { out, err } = await hubble(words(command))
      expect(settled(`${out}${err}`)).toEqual(output.split('\n'))
    })

  for (const { flags, leaves } of filters)
    test(`observe ${flags}: ${leaves}`, async () => {
      const ended = await hubble(['observe', ...(/--(all|first|last|since|until)\b/.test(flags) ? [] : ['--all']), '-o', 'json', ...words(flags)]) // prettier-ignore
      if (leaves.startsWith('! ')) {
        expect(ended).toMatchObject({ status: 1, out: '' })
        expect(ended.err).toContain(leaves.slice(2))
        return
      }
      expect(ended).toMatchObject({ status: 0, err: '' })
      expect(linesOf(ended).map((line) => all.indexOf(keyOf(line)) + 1).join(' ')).toBe(leaves === '-' ? '' : leaves) // prettier-ignore
    })

  test('over a unix socket', async () => {
    const at = `unix://${join(folder, 'hubble.sock')}`
    expect((await hubble(['status'], at)).out).toContain('Ok\n')
    expect(linesOf(await hubble(['observe', '--all', '-o', 'json'], at)).map(keyOf)).toEqual(all)
  })

  test('between two moments', async () => {
    const moments = (await seen()).map(({ flow }) => flow.time)
    const between = await hubble(['observe', '--since', moments[3] ?? '', '--until', moments[8] ?? '', '-o', 'json'])
    expect(linesOf(between).map((line) => all.indexOf(keyOf(line)) + 1)).toEqual([4, 5, 6, 7, 8, 9])
  })

  const follow = (...args: string[]): ChildProcess & { readonly told: () => string } => {
    const child = spawn(hubbleCommand, [...args, '--server', server], { stdio: ['ignore', 'pipe', 'inherit'], env: { HOME: folder } }) // prettier-ignore
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
    return Object.assign(child, { told: () => text })
  }

  test('watch peers', async () => {
    const watching = follow('watch', 'peers')
    await expect.poll(() => settled(watching.told())).toEqual([`PEER_ADDED ${server} default/node-1`])
    watching.kill('SIGINT')
    await once(watching, 'exit')
  })

  // Last: it makes a flow more.
  test('observe --follow', async () => {
    const following = follow('observe', '--follow', '--last', '1', '--to-ip', '198.18.0.0/15')
    await expect.poll(() => following.told().split('\n').length).toBe(2)
    await hosts[0]?.run('timeout 3 bash -c "exec 3<>/dev/tcp/198.18.0.55/443"')
    await expect.poll(() => settled(following.told()).slice(1)).toEqual(['TIME: shop/web-7d9f:PORT (ID:256) <> 198.18.0.55:443 (world-ipv4) policy-verdict:none EGRESS DENIED (TCP Flags: SYN)']) // prettier-ignore
    following.kill('SIGINT')
    await once(following, 'exit')
  })

  test('over TLS, and with a certificate of its own', async () => {
    sh(`cd '${folder}'; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1`) // prettier-ignore
    const [certificate, key] = await Promise.all([
      readFile(join(folder, 'cert.pem')),
      readFile(join(folder, 'key.pem')),
    ])
    const observer = makeObserver({ snapshot: showWorld().snapshot, capacity: 7, place: { cluster: 'default', node: 'node-1' }, now: Date.now }) // prettier-ignore
    observer.ring.write(connection())
    const trusting = ['--tls', '--tls-ca-cert-files', join(folder, 'cert.pem')]
    const knowing = [...trusting, '--tls-client-cert-file', join(folder, 'cert.pem'), '--tls-client-key-file', join(folder, 'key.pem')] // prettier-ignore
    for (const clientCa of [undefined, certificate]) {
      const served = await serveHubble(observer, [{ address: '127.0.0.1:0', tls: { certificate, key, ...(clientCa === undefined ? {} : { clientCa }) } }], { version: 'test' }) // prettier-ignore
      const at = `localhost:${served.ports[0]}`
      try {
        expect((await hubble(['observe', ...knowing], at)).out).toContain('policy-verdict:none EGRESS DENIED')
        expect(await hubble(['status', ...trusting], at)).toMatchObject({ status: clientCa === undefined ? 0 : 1 })
        expect(await hubble(['status'], at)).toMatchObject({ status: 1 })
      } finally {
        await served.close()
      }
    }
  })
})
