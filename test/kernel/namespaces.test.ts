// Namespaces held by descriptors: what a thread enters, only it is in; sockets cross; and they go with their process.
import { execFile, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { readlink } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bindIn, createNamespace, enterNamespace, shell, workerIn, type Namespace } from '../../src/run/namespace.ts'
import { enterLab, sh, whyNoKernel } from '../support/lab.ts'

const reason = whyNoKernel()
const run = promisify(execFile)
const source = new URL('../../src/run/namespace.ts', import.meta.url).href
/** A program of its own: this one's pool of threads has been at work since before the lab. */
const program = (body: string): string[] => [
  '--eval',
  `import { createNamespace, shell, workerIn } from '${source}'\n${body}`,
]
const moduleOf = (code: string): URL => new URL(`data:text/javascript,${encodeURIComponent(code)}`)

describe.skipIf(reason !== undefined)(`namespaces ${reason ?? ''}`, () => {
  let namespace: Namespace
  beforeAll(async () => {
    enterLab()
    namespace = await createNamespace()
    await shell('ip link set lo up', namespace)
  })
  afterAll(() => namespace?.release())

  test('a worker that enters one leaves the other threads where they were, those of the pool too', async () => {
    const worker = `
      import { readlink } from 'node:fs/promises'
      import { readlinkSync } from 'node:fs'
      import { parentPort } from 'node:worker_threads'
      export async function main() {
        const own = readlinkSync('/proc/thread-self/ns/net')
        parentPort.postMessage({ own, pool: await readlink('/proc/thread-self/ns/net') })
      }`
    const { stdout } = await run(
      process.execPath,
      program(`
        import { once } from 'node:events'
        import { readdirSync, readlinkSync } from 'node:fs'
        const namespace = await createNamespace()
        const [{ own, pool }] = await once(workerIn(namespace, new URL(${JSON.stringify(moduleOf(worker).href)}), 0), 'message')
        const created = (await shell('readlink /proc/self/ns/net', namespace)).trim()
        console.log(JSON.stringify({ main: readlinkSync('/proc/thread-self/ns/net'), own, pool, created }))`),
    )
    const seen = JSON.parse(stdout) as Record<'main' | 'own' | 'pool' | 'created', string>
    const here = sh('readlink /proc/self/ns/net').trim()
    expect(seen).toEqual({ main: here, pool: here, own: seen.created, created: seen.created })
    expect(seen.created).not.toBe(here)
  })

  test('the main thread never enters one', () =>
    expect(() => enterNamespace(namespace.fd)).toThrow('the main thread stays in its namespace'))

  for (const family of [4, 6] as const)
    test(`sockets bound there are served from here, IPv${family}`, async () => {
      const [sockets] = await bindIn(namespace, 5353, [family])
      if (sockets === undefined) throw new Error('no sockets')
      const udp = createSocket(family === 4 ? 'udp4' : 'udp6').bind({ fd: sockets.udpFd })
      udp.on('message', (message, from) => udp.send(`${message.toString()} by UDP\n`, from.port, from.address))
      const tcp = createServer((connection) => connection.end('by TCP\n')).listen({ fd: sockets.tcpFd })
      await once(tcp, 'listening')
      const host = family === 4 ? '127.0.0.1' : '::1'
      expect(await shell(`exec timeout 5 bash -c 'cat < /dev/tcp/${host}/5353'`, namespace)).toBe('by TCP\n')
      expect(
        await shell(
          `exec timeout 5 bash -c 'exec 3<>/dev/udp/${host}/5353; printf hello >&3; dd bs=99 count=1 status=none <&3'`,
          namespace,
        ),
      ).toBe('hello by UDP\n')
      await expect(shell(`bash -c 'cat < /dev/tcp/${host}/5353'`)).rejects.toThrow('Connection refused')
      udp.close()
      tcp.close()
    })

  test('a port that is taken there is an error with its name', async () => {
    const [sockets] = await bindIn(namespace, 5354, [4])
    const server = createServer().listen({ fd: sockets?.tcpFd ?? -1 })
    await once(server, 'listening')
    await expect(bindIn(namespace, 5354, [4])).rejects.toThrow('bind port 5354: EADDRINUSE')
    server.close()
  })

  test("a worker's servers live there", async () => {
    const code = `
      import { createServer } from 'node:net'
      import { parentPort } from 'node:worker_threads'
      export function main(greeting) {
        const server = createServer((c) => c.end(greeting)).listen(0, '127.0.0.1', () => parentPort.postMessage(server.address()))
      }`
    const worker = workerIn(namespace, moduleOf(code), 'inside\n')
    const [{ port }] = (await once(worker, 'message')) as [AddressInfo]
    expect(await shell(`exec timeout 5 bash -c 'cat < /dev/tcp/127.0.0.1/${port}'`, namespace)).toBe('inside\n')
    await expect(shell(`bash -c 'cat < /dev/tcp/127.0.0.1/${port}'`)).rejects.toThrow('Connection refused')
    await worker.terminate()
  })

  test("a command's complaint is the error", async () => {
    await expect(shell('ip link add x type nonesuch', namespace)).rejects.toThrow(/Unknown device type/)
    await expect(shell('exit 3')).rejects.toThrow('a command ended with status 3')
  })

  test('without the right to make one: an error with its name', async () => {
    const args = ['--bounding-set', '-sys_admin', process.execPath, ...program('await createNamespace()')]
    await expect(run('setpriv', args)).rejects.toThrow('make a network namespace: EPERM')
  })

  test('a killed process leaves nothing', async () => {
    const body = `
      const namespace = await createNamespace()
      await shell('ip link add left type veth peer name eth0 netns ' + namespace.path)
      console.log(await shell('readlink /proc/self/ns/net', namespace))
      setInterval(() => undefined, 1000)`
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', process.execPath, ...program(body)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    await once(child.stdout, 'data')
    expect(sh('ip -br link show left')).toContain('left')
    child.kill('SIGKILL')
    await once(child, 'exit')
    await expect.poll(() => sh('ip -br link')).not.toContain('left')
  })

  test('a released one is gone', async () => {
    const { fd, release } = await createNamespace()
    expect(await readlink(`/proc/self/fd/${fd}`)).toMatch(/^net:/)
    release()
    await expect(readlink(`/proc/self/fd/${fd}`)).rejects.toThrow('ENOENT')
  })
})
