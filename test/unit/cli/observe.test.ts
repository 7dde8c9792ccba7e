// `namegate observe`: flags into Hubble's filters, lines for people; and the whole command against an API on a socket.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { serveApi } from '../../../src/api/serve.ts'
import { compactLine, filtersOf, momentOf } from '../../../src/cli/observe.ts'
import { temporaryFolder } from '../../support/folder.ts'
import { showWorld } from '../api/view.ts'
import { answer, connection, query } from '../observe/flows.ts'

test('flags are one filter; one that means either end makes two of it', () => {
  expect(filtersOf({ output: 'compact' })).toEqual([])
  expect(filtersOf({ output: 'compact', verdict: ['dropped'], fromPod: ['shop/'], toPort: ['443', '80'] })).toEqual([{ verdict: ['DROPPED'], source_pod: ['shop/'], destination_port: ['443', '80'] }]) // prettier-ignore
  expect(filtersOf({ output: 'compact', reply: false, ip: ['10.0.0.1'] })).toEqual([{ reply: [false], source_ip: ['10.0.0.1'] }, { reply: [false], destination_ip: ['10.0.0.1'] }]) // prettier-ignore
})

test('moments: before now, or as they stand', () => {
  const now = Date.parse('2026-01-02T03:04:05Z')
  expect(momentOf('1h10m', now)).toBe('2026-01-02T01:54:05.000Z')
  for (const text of ['2026-01-02T03:04:05Z', '10', '', 'm', '10x']) expect(momentOf(text, now)).toBe(text)
})

test('nothing that a name says steers the terminal', () => {
  const line = compactLine({ time: 't', flow: { verdict: 'FORWARDED', source: {}, destination: {}, Summary: 'DNS Query \x1b[2J.' } }, false) // prettier-ignore
  expect(line).toContain('DNS Query ?[2J.')
})

test('the command asks the agent and prints what it says', async () => {
  const view = showWorld()
  for (const flow of [query(), answer(), connection()]) view.observer.ring.write(flow)
  const socket = join(await temporaryFolder(), 'api.sock')
  const api = await serveApi(view, { socket, address: '127.0.0.1', port: undefined })
  onTestFinished(() => api.close())
  const observe = async (...args: string[]): Promise<string> => (await promisify(execFile)(process.execPath, ['src/main.ts', 'observe', '--api', `unix:${socket}`, ...args])).stdout // prettier-ignore
  expect(await observe()).toBe(
    '1970-01-01T00:00:01.000Z: shop/web-7d9f:40001 -> reserved:host:53 FORWARDED (DNS Query api.example.com. A): toFQDNs (shop/web spec.egress[0])\n' +
      '1970-01-01T00:00:01.001Z: shop/web-7d9f:40001 <- reserved:host:53 FORWARDED (DNS Answer "198.18.0.20" TTL: 60 (Proxy api.example.com. A))\n' +
      '1970-01-01T00:00:01.002Z: shop/web-7d9f:40000 <> api.example.com:443 DROPPED (TCP Flags: SYN): no rule matched; selected by shop/web\n',
  )
  const [json = ''] = (await observe('--verdict', 'dropped', '-o', 'json')).split('\n')
  expect(JSON.parse(json)).toMatchObject({ flow: { verdict: 'DROPPED', time: '1970-01-01T00:00:01.002Z', destination_names: ['api.example.com'] }, node_name: 'default/node-1' }) // prettier-ignore
  expect(await observe('--first', '1', '--to-port', '53')).toContain('DNS Query')
  await expect(observe('--dns-query', '(')).rejects.toThrow('missing closing )')
  await expect(observe('--first', '1', '-f')).rejects.toThrow('first goes neither with last nor with follow')
})
