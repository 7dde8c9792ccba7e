// Asking an agent that is not there, is none, or says no.
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { callApi } from '../../../src/cli/client.ts'

let server: Server | undefined
async function answer(status: number, body: string): Promise<string> {
  server = createServer((_request, response) => void response.writeHead(status).end(body)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
afterEach(() => {
  server?.close()
  server = undefined
})

test('what it says', async () => expect(await callApi(await answer(200, '[1]'), 'GET', '/')).toEqual([1]))

test('how much is there already is told while it comes', async () => {
  const body = JSON.stringify(Array.from({ length: 100_000 }, (_, i) => i))
  const told: number[] = []
  await callApi(await answer(200, body), 'GET', '/', (characters) => told.push(characters))
  expect([told.length > 1, told.at(-1)]).toEqual([true, body.length])
})

const troubles = [
  { status: 400, body: '{"error":"cidr: \\"x\\" is not an address"}', says: /^cidr: "x" is not an address$/ },
  { status: 500, body: '{}', says: /^the agent answered 500$/ },
  { status: 200, body: '<html>', says: /^what answers at http:.* is no namegate agent$/ },
  { status: 404, body: 'null', says: /is no namegate agent/ },
]
for (const { status, body, says } of troubles)
  test(`${status} ${body}`, async () => {
    await expect(callApi(await answer(status, body), 'GET', '/')).rejects.toThrow(says)
  })

test('nobody there: the address that was tried, and how to start one', async () => {
  const says =
    /^no agent answers at unix:\/nonexistent\/api\.sock \(.*ENOENT.*\); start one with: namegate agent --config/
  await expect(callApi('unix:/nonexistent/api.sock', 'GET', '/')).rejects.toThrow(says)
})

for (const api of [
  '',
  'unix:',
  '/run/api.sock',
  'ftp://127.0.0.1:9653',
  'http://user@127.0.0.1:9653',
  '127.0.0.1:9653',
])
  test(`not a place: "${api}"`, async () => {
    await expect(callApi(api, 'GET', '/')).rejects.toThrow('is neither unix:PATH nor http://HOST:PORT')
  })
