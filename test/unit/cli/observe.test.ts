// `namegate observe`: flags into Hubble's filters, lines for people; and the whole command against an API on a socket.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { serveApi } from '../../../src/api/serve.ts'
import { compactLine, filtersOf, makeRenderer, momentOf, plainStyle } from '../../../src/cli/observe.ts'
import { temporaryFolder } from '../../support/folder.ts'
import { showWorld } from '../api/view.ts'
import { answer, connection, query } from '../observe/flows.ts'

test('flags are one filter; one that means either end makes two of it', () => {
  expect(filtersOf({})).toEqual([])
  expect(filtersOf({ verdict: ['dropped'], 'from-pod': ['shop/'], 'to-port': ['443', '80'] })).toEqual([{ verdict: ['DROPPED'], source_pod: ['shop/'], destination_port: ['443', '80'] }]) // prettier-ignore
  expect(filtersOf({ reply: ['false'], ip: ['10.0.0.1'] })).toEqual([{ reply: [false], source_ip: ['10.0.0.1'] }, { reply: [false], destination_ip: ['10.0.0.1'] }]) // prettier-ignore
  expect(filtersOf({ 'from-pod': ['a/b'], 'from-namespace': ['shop'] })).toEqual([{ source_pod: ['a/b', 'shop/'] }])
  expect(filtersOf({ type: ['drop:133', 'l7', '5'], 'tcp-flags': ['syn,ACK'], 'ip-version': ['v6'], 'traffic-direction': ['egress'] })).toEqual([{ event_type: [{ type: 1, match_sub_type: true, sub_type: 133 }, { type: 129 }, { type: 5 }], tcp_flags: [{ SYN: true, ACK: true }], ip_version: ['IPv6'], traffic_direction: ['EGRESS'] }]) // prettier-ignore
  expect(() => filtersOf({ type: ['x'] })).toThrow('a type is one of drop, trace, policy-verdict, l7, or a number')
})

test('columns are as wide as what was in them so far; losses and unknown parties have their place', () => {
  const row = makeRenderer('table', plainStyle)
  const flow = { verdict: 'DROPPED', source: {}, destination: {}, IP: { source: 'fd00::1', destination: '198.18.0.1' }, l4: { TCP: { source_port: 1, destination_port: 2 } }, traffic_direction: 'EGRESS', Summary: 'x' } // prettier-ignore
  expect(row(JSON.stringify({ time: '2026-01-02T03:04:05.678Z', flow }))).toBe(
    'TIMESTAMP                 SOURCE                          DESTINATION                     TYPE                    VERDICT    SUMMARY\n' +
      '2026-01-02T03:04:05.678Z  [fd00::1]:1                     198.18.0.1:2                    policy-verdict EGRESS   DROPPED    x\n',
  )
  expect(row(JSON.stringify({ time: '2026-01-02T03:04:05.678Z', lost_events: { source: 'R', num_events_lost: '3' } }))).toMatch(/^2026-01-02T03:04:05.678Z {100,}3 flows lost \(R\)\n$/) // prettier-ignore
})

test('times, nodes, addresses, colours', () => {
  const flow = { verdict: 'AUDIT', source: { pod_name: 'web', namespace: 'shop' }, destination: {}, IP: { source: '10.0.0.1', destination: '198.18.0.1' }, destination_names: ['a.test'], Summary: 'x' } // prettier-ignore
  const line = { time: '2026-01-02T03:04:05.678Z', node_name: 'c/n', flow }
  expect(compactLine(line, plainStyle)).toBe('2026-01-02T03:04:05.678Z: shop/web <> a.test AUDIT (x)\n')
  expect(compactLine(line, { colours: true, translate: false, nodeName: true, time: 'StampMilli' })).toBe('Jan  2 03:04:05.678 [c/n]: \x1b[36m10.0.0.1\x1b[0m <> \x1b[36m198.18.0.1\x1b[0m \x1b[33mAUDIT\x1b[0m (x)\n') // prettier-ignore
  expect(compactLine(line, { ...plainStyle, time: 'RFC3339' })).toMatch(/^2026-01-02T03:04:05Z: /)
})

test('moments: before now, or as they stand', () => {
  const now = Date.parse('2026-01-02T03:04:05Z')
  expect(momentOf('1h10m', now)).toBe('2026-01-02T01:54:05.000Z')
  for (const text of ['2026-01-02T03:04:05Z', '10', '', 'm', '10x']) expect(momentOf(text, now)).toBe(text)
})

test('nothing that a name says steers the terminal', () => {
  const line = compactLine({ time: 't', flow: { verdict: 'FORWARDED', source: {}, destination: {}, Summary: 'DNS Query \x1b[2J.' } }, plainStyle) // prettier-ignore
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
  // --not is about the next flag only.
  expect((await observe('--not', '--verdict', 'dropped', '--protocol', 'dns')).split('\n')).toHaveLength(3)
  expect(await observe('--protocol', 'tcp', '--not', '--verdict', 'dropped')).toBe('')
  expect(await observe('--not', '--reply', '--not', '--protocol', 'dns', '--all')).not.toContain('DNS Answer')
  expect(await observe('--not', '--pod', 'shop/web', '--print-raw-filters', '-4')).toBe('{"allowlist":{"ip_version":["IPv4"]}}\n{"denylist":{"source_pod":["shop/web"]}}\n{"denylist":{"destination_pod":["shop/web"]}}\n') // prettier-ignore
  expect(await observe('--denylist', '[{"verdict":["DROPPED"]}]', '-t', 'policy-verdict')).toBe('')
  expect(await observe('-n', 'shop', '-o', 'table', '--last', '1')).toMatch(/^TIMESTAMP +SOURCE.*\n1970.*shop\/web-7d9f:40000 +api\.example\.com:443 +policy-verdict EGRESS +DROPPED +TCP Flags: SYN: no rule matched; selected by shop\/web\n$/) // prettier-ignore
  expect(await observe('-o', 'dict', '--last', '1')).toContain('\n    VERDICT: DROPPED\n')
  expect(await observe('--color', 'always', '--last', '1')).toContain('\x1b[31mDROPPED\x1b[0m')
  await expect(observe('--not')).rejects.toThrow('--not: no filter stands behind it')
  await expect(observe('--not', '--not', '--verdict', 'x')).rejects.toThrow('--not twice')
  await expect(observe('--allowlist', '{')).rejects.toThrow("--allowlist: not JSON of Hubble's FlowFilters")
  await expect(observe('--dns-query', '(')).rejects.toThrow('missing closing )')
  await expect(observe('--first', '1', '-f')).rejects.toThrow('first goes neither with last nor with follow')
})
