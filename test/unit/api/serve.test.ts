// The sockets of the API: who may be behind them, what may lie in their way.
import { existsSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { claimApi, serveApi, type ApiPlaces, type ServedApi } from '../../../src/api/serve.ts'
import { callApi, streamApi } from '../../../src/cli/client.ts'
import { showWorld } from './view.ts'

let folder: string
let socket: string
const served: ServedApi[] = []
const serve = async (over: Partial<ApiPlaces> = {}): Promise<ServedApi> => {
  const api = await serveApi(showWorld(), { socket, address: '127.0.0.1', port: undefined, ...over })
  served.push(api)
  return api
} // prettier-ignore

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'namegate-api-'))
  socket = join(folder, 'run', 'api.sock')
})
afterEach(async () => {
  await Promise.all(served.splice(0).map((api) => api.close()))
  await rm(folder, { recursive: true })
})

test('the socket is for its owner and group, and goes when the agent goes', async () => {
  const { urls, close } = await serve()
  expect(urls).toEqual([`unix:${socket}`])
  expect((await stat(socket)).mode & 0o777).toBe(0o660)
  expect(await callApi(urls[0] ?? '', 'GET', '/v1/status')).toMatchObject({ ready: true })
  await close()
  expect(existsSync(socket)).toBe(false)
})

test('both at once, each told where it is', async () => {
  const { urls } = await serve({ port: 0 })
  expect(urls).toEqual([`unix:${socket}`, expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/)])
  for (const url of urls) expect(await callApi(url, 'GET', '/healthz')).toEqual({ ok: true, troubles: [] })
})

test('a second agent is refused, and the first goes on answering', async () => {
  await serve()
  await expect(serve()).rejects.toThrow(
    `the API cannot listen on ${socket}: another agent answers there; api.socket sets another`,
  )
  expect(await callApi(`unix:${socket}`, 'GET', '/v1/status')).toMatchObject({ ready: true })
})

test('a socket that a killed agent left is replaced', async () => {
  const { close } = await serve()
  const moved = join(folder, 'moved')
  await rename(socket, moved)
  await close()
  await rename(moved, socket)
  await serve()
  expect(await callApi(`unix:${socket}`, 'GET', '/v1/status')).toMatchObject({ ready: true })
})

test('something that is no socket is left alone', async () => {
  const file = join(folder, 'notes.txt')
  await writeFile(file, 'mine')
  await expect(serve({ socket: file })).rejects.toThrow('is no socket')
  expect(await readFile(file, 'utf8')).toBe('mine')
})

test('a port that is taken: nothing is served, no socket stays', async () => {
  const other: Server = createServer()
  await new Promise<void>((done) => other.listen(0, '127.0.0.1', done))
  const taken = other.address() as { port: number }
  await expect(serve({ port: taken.port })).rejects.toMatchObject({
    code: 'EADDRINUSE',
    message: expect.stringMatching(/: another program has it; api\.port sets another/) as string,
  })
  expect(existsSync(socket)).toBe(false)
  await new Promise((done) => other.close(done))
})

test('while the agent starts, it says so; then it is shown', async () => {
  const api = await claimApi({ socket, address: '127.0.0.1', port: 0 })
  served.push(api)
  for (const url of api.urls) await expect(callApi(url, 'GET', '/v1/status')).rejects.toThrow('the agent is starting')
  await api.serve(showWorld())
  for (const url of api.urls) expect(await callApi(url, 'GET', '/v1/status')).toMatchObject({ ready: true })
})

describe('elsewhere than on loopback', () => {
  const token = 'c2VjcmV0LXNlY3JldC1zZWNyZXQ='
  const environment = (values: Readonly<Record<string, string>>): void => {
    for (const [key, value] of Object.entries(values)) vi.stubEnv(`NAMEGATE_API_${key}`, value)
  }
  afterEach(() => vi.unstubAllEnvs())
  const write = async (name: string, text: string, mode = 0o600): Promise<string> => {
    const file = join(folder, name)
    await writeFile(file, text, { mode })
    await chmod(file, mode)
    return file
  }
  const serveTcp = async (places: Partial<ApiPlaces>): Promise<string> =>
    (await serve({ socket: undefined, address: '127.0.0.2', port: 0, ...places })).urls[0] ?? ''

  test('with a token', async () => {
    const tokenFile = await write('token', `${token}\n`)
    const url = await serveTcp({ tokenFile })
    await expect(callApi(url, 'GET', '/v1/status')).rejects.toThrow('the token of api.tokenFile is required')
    environment({ TOKEN_FILE: tokenFile })
    expect(await callApi(url, 'GET', '/v1/status')).toMatchObject({ ready: true })
    const lines: string[] = []
    for await (const line of streamApi(url, '/v1/flows?last=1')) lines.push(line)
    expect(lines).toEqual([])
    environment({ TOKEN_FILE: join(folder, 'none') })
    await expect(callApi(url, 'GET', '/v1/status')).rejects.toThrow('NAMEGATE_API_TOKEN_FILE: ENOENT')
  })
  test('with a token, the unix socket is still guarded by its rights', async () => {
    const { urls } = await serve({ port: 0, tokenFile: await write('token', token) })
    expect(await callApi(urls[0] ?? '', 'GET', '/v1/status')).toMatchObject({ ready: true })
    await expect(callApi(urls[1] ?? '', 'GET', '/v1/status')).rejects.toThrow('the token of api.tokenFile is required')
  })
  test('with certificates: the client must have one of the CA, and the server one that it knows', async () => {
    const pair = (name: string): string => `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ${name}.key -out ${name}.pem -days 2 -subj /CN=${name} -addext subjectAltName=IP:127.0.0.2` // prettier-ignore
    execFileSync('bash', ['-c', `set -e; cd '${folder}'; ${pair('server')}; ${pair('client')}; ${pair('other')}`], { stdio: 'ignore' }) // prettier-ignore
    const file = (name: string): string => join(folder, name)
    const url = await serveTcp({ tls: { certificate: file('server.pem'), key: file('server.key'), clientCa: file('client.pem') } }) // prettier-ignore
    expect(url).toMatch(/^https:/)
    const status = (): Promise<unknown> => callApi(url, 'GET', '/v1/status')
    await expect(status()).rejects.toThrow('self-signed certificate')
    environment({ CA: file('server.pem') })
    await expect(status()).rejects.toThrow('no agent answers')
    environment({ CERTIFICATE: file('other.pem'), KEY: file('other.key') })
    await expect(status()).rejects.toThrow('no agent answers')
    environment({ CERTIFICATE: file('client.pem'), KEY: file('client.key') })
    expect(await status()).toMatchObject({ ready: true })
    await expect(serveTcp({ tls: { certificate: file('server.pem'), key: file('client.key') } })).rejects.toThrow('api.tls: these files are no certificate and its key') // prettier-ignore
    await expect(serveTcp({ tls: { certificate: file('none'), key: file('client.key') } })).rejects.toThrow(/^api\.tls\.certificate: .*none cannot be read/) // prettier-ignore
  })

  const files = [
    { title: 'others may read it', text: token, mode: 0o604, says: /may be read or changed by others \(mode 604\); chmod 600 it/ },
    { title: 'the group may write it', text: token, mode: 0o620, says: /\(mode 620\)/ },
    { title: 'short', text: 'secret', mode: 0o600, says: /has fewer than 22 characters; openssl rand -base64 32/ },
    { title: 'two lines', text: `${token}\n${token}`, mode: 0o600, says: /something else than one line/ },
    { title: 'long', text: 'x'.repeat(2000), mode: 0o600, says: /is longer than 1024 characters/ },
  ] // prettier-ignore
  for (const { title, text, mode, says } of files)
    test(`a token file that is refused: ${title}`, async () => {
      await expect(serveTcp({ tokenFile: await write('token', text, mode) })).rejects.toThrow(says)
      await expect(serve({ port: 0, tokenFile: join(folder, 'token') })).rejects.toMatchObject({ code: 'access' })
      expect(existsSync(socket)).toBe(false)
    })
  test('a token file that is not there, or a folder', async () => {
    await expect(serveTcp({ tokenFile: join(folder, 'none') })).rejects.toThrow(/^api\.tokenFile: .*none cannot be read: ENOENT/) // prettier-ignore
    await expect(serveTcp({ tokenFile: folder })).rejects.toThrow('is no file')
  })
})

test('a request that does not come to its end is closed', async () => {
  const api = await claimApi({ socket, address: '127.0.0.1', port: undefined }, 50)
  served.push(api)
  await api.serve(showWorld())
  for (const begun of ['GET /v1/status HTTP/1.1\r\nHost: x\r\n', 'DELETE /v1/fqdn/cache HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n1']) {
    const client = connect({ path: socket })
    client.write(begun)
    let said = ''
    client.setEncoding('utf8').on('data', (text: string) => (said += text))
    await once(client, 'close')
    expect(said).toMatch(/^(HTTP\/1\.1 408|$)/)
  }
}) // prettier-ignore

test('a folder that cannot be made', async () => {
  const file = join(folder, 'notes.txt')
  await writeFile(file, '')
  await expect(serve({ socket: join(file, 'under', 'api.sock') })).rejects.toThrow('ENOTDIR')
})
