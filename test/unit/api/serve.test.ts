// The sockets of the API: who may be behind them, what may lie in their way.
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { claimApi, serveApi, type ServedApi } from '../../../src/api/serve.ts'
import { callApi } from '../../../src/cli/client.ts'
import { showWorld } from './view.ts'

let folder: string
let socket: string
const served: ServedApi[] = []
const serve = async (over: { socket?: string | undefined; address?: string; port?: number } = {}): Promise<ServedApi> => {
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

test('a folder that cannot be made', async () => {
  const file = join(folder, 'notes.txt')
  await writeFile(file, '')
  await expect(serve({ socket: join(file, 'under', 'api.sock') })).rejects.toThrow('ENOTDIR')
})
