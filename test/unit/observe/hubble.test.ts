// Hubble's API as a gRPC client sees it, over TCP, a unix socket and TLS. The real command is run in test/e2e/hubble.test.ts.
import { execFileSync } from 'node:child_process'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { credentials, type ChannelCredentials, type Client, type ServiceClientConstructor } from '@grpc/grpc-js'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import {
  claimHubble,
  loadHubble,
  serveHubble,
  type HubblePlace,
  type ServedHubble,
} from '../../../src/observe/hubble/server.ts'
import { makeObserver, type Observer } from '../../../src/observe/observer.ts'
import { temporaryFolder } from '../../support/folder.ts'
import { showWorld } from '../api/view.ts'
import { answer, connection, query } from './flows.ts'

type Message = Record<string, unknown>
let served: ServedHubble | undefined
afterEach(async () => {
  await served?.close()
  served = undefined
})

let now = 10_000
function observing(capacity = 4095): Observer {
  now = 10_000
  return makeObserver({ snapshot: showWorld().snapshot, capacity, place: { cluster: 'default', node: 'node-1' }, now: () => now }) // prettier-ignore
}
async function serve(observer: Observer, place: HubblePlace = { address: '127.0.0.1:0' }): Promise<string> {
  served = await serveHubble(observer, [place], { version: 'namegate test' })
  return place.address.startsWith('unix:') ? place.address : `127.0.0.1:${served.ports[0]}`
}
function clientOf(service: string, target: string, how: ChannelCredentials = credentials.createInsecure()): Record<string, (...args: unknown[]) => unknown> & Client {
  let here: unknown = loadHubble()
  for (const part of service.split('.')) here = (here as Message)[part]
  const client = new (here as ServiceClientConstructor)(target, how)
  onTestFinished(() => client.close())
  return client as never
} // prettier-ignore
const call = (client: ReturnType<typeof clientOf>, method: string, request: Message = {}): Promise<Message> =>
  new Promise((resolve, reject) => client[method]?.(request, (error: Error | null, reply: Message) => (error === null ? resolve(reply) : reject(error)))) // prettier-ignore
const stream = (client: ReturnType<typeof clientOf>, method: string, request: Message): AsyncIterable<Message> & { cancel: () => void } =>
  client[method]?.(request) as never // prettier-ignore
async function flows(target: string, request: Message): Promise<Message[]> {
  const got: Message[] = []
  for await (const message of stream(clientOf('observer.Observer', target), 'GetFlows', request)) got.push(message)
  return got
}
const summaries = async (target: string, request: Message): Promise<unknown[]> =>
  (await flows(target, request)).map(({ flow, lost_events }) => (flow as Message | undefined)?.['Summary'] ?? `lost ${String((lost_events as Message)['num_events_lost'])}`) // prettier-ignore

const asked = 'DNS Query api.example.com. A'
const told = 'DNS Answer "198.18.0.20" TTL: 60 (Proxy api.example.com. A)'
const tried = 'TCP Flags: SYN'
function filled(capacity?: number): Observer {
  const observer = observing(capacity)
  for (const flow of [query(), answer(), connection()]) observer.ring.write(flow)
  return observer
}

describe('Observer', () => {
  test('GetFlows gives what is there: all, the last, the first, filtered, in a range of time', async () => {
    const target = await serve(filled())
    expect(await summaries(target, { number: '18446744073709551615' })).toEqual([asked, told, tried])
    expect(await summaries(target, { number: 2 })).toEqual([told, tried])
    expect(await summaries(target, { number: 2, first: true })).toEqual([asked, told])
    expect(await summaries(target, { number: 0 })).toEqual([])
    expect(await summaries(target, { number: 1, whitelist: [{ protocol: ['dns'] }] })).toEqual([told])
    expect(await summaries(target, { number: 9, blacklist: [{ protocol: ['dns'] }] })).toEqual([tried])
    expect(await summaries(target, { since: { seconds: 1, nanos: 1_000_000 } })).toEqual([told, tried])
    expect(await summaries(target, { until: { seconds: 1, nanos: 1_000_000 } })).toEqual([asked, told])
  })
  test('what contradicts itself is refused', async () => {
    const target = await serve(filled())
    await expect(flows(target, { first: true, follow: true })).rejects.toThrow('INVALID_ARGUMENT')
    await expect(flows(target, { number: 1, whitelist: [{ dns_query: ['('] }] })).rejects.toThrow('missing closing )')
  })
  test('a flow carries who, why and where', async () => {
    const target = await serve(filled())
    const [{ flow, node_name: node } = {}] = await flows(target, { number: 1 })
    expect(node).toBe('default/node-1')
    expect(flow).toMatchObject({
      verdict: 'DROPPED',
      drop_reason: 133,
      drop_reason_desc: 'POLICY_DENIED',
      IP: { source: '10.1.0.2', destination: '198.18.0.20', ipVersion: 'IPv4' },
      l4: { TCP: { source_port: 40000, destination_port: 443, flags: { SYN: true } } },
      source: { ID: 1, identity: 256, namespace: 'shop', pod_name: 'web-7d9f' },
      destination: { identity: 9, labels: ['reserved:world', 'reserved:world-ipv4'] },
      destination_names: ['api.example.com'],
      traffic_direction: 'EGRESS',
      policy_log: ['no rule matched; selected by shop/web'],
    })
    expect(flow).not.toHaveProperty('is_reply.value')
  })
  test('a field mask holds, but the default one of the command gets what the command prints', async () => {
    const target = await serve(filled())
    const shown = async (...paths: string[]): Promise<Message> => ((await flows(target, { number: 1, field_mask: { paths } }))[0] ?? {})['flow'] as Message // prettier-ignore
    expect(await shown('verdict', 'source.identity')).toEqual({ verdict: 'DROPPED', source: { identity: 256 } }) // prettier-ignore
    const peoples = ['time', 'verdict', 'IP', 'l4', 'source.identity', 'source.pod_name', 'destination.identity', 'node_name', 'event_type', 'is_reply', 'Summary'] // prettier-ignore
    expect(await shown(...peoples)).toMatchObject({ Summary: tried, traffic_direction: 'EGRESS', destination_names: ['api.example.com'] }) // prettier-ignore
    expect(await shown('verdict', 'Summary')).toEqual({ verdict: 'DROPPED', Summary: tried })
  })
  test('a follower sees what comes; one that was overtaken is told', async () => {
    const observer = observing(7)
    const following = stream(clientOf('observer.Observer', await serve(observer)), 'GetFlows', { follow: true })
    const got: unknown[] = []
    const reading = (async () => {
      for await (const { flow, lost_events: lost } of following) {
        got.push((flow as Message | null)?.['Summary'] ?? `lost ${String((lost as Message)['num_events_lost'])}`)
        if (got.length === 9) break
      }
    })()
    await new Promise((resolve) => (following as never as NodeJS.EventEmitter).once('metadata', resolve))
    observer.ring.write(query())
    await expect.poll(() => got).toEqual([asked])
    // All in one turn: nobody can read between them.
    for (let i = 0; i < 10; i++) observer.ring.write(connection())
    await reading
    expect(got).toEqual([asked, 'lost 3', ...Array<string>(7).fill(tried)])
  })
  test('status, nodes, namespaces, peers, health', async () => {
    const observer = filled()
    const target = await serve(observer)
    const client = clientOf('observer.Observer', target)
    expect(await call(client, 'ServerStatus')).toMatchObject({ num_flows: '3', max_flows: '4095', num_connected_nodes: { value: 1 }, version: 'namegate test' }) // prettier-ignore
    expect(await call(client, 'GetNodes')).toMatchObject({ nodes: [{ name: 'default/node-1', state: 'NODE_CONNECTED' }] }) // prettier-ignore
    expect(await call(client, 'GetNamespaces')).toEqual({})
    const health = clientOf('grpc.health.v1.Health', target)
    expect(await call(health, 'Check', { service: 'hubble.server.Observer' })).toEqual({ status: 'SERVING' })
    await expect(call(health, 'Check', { service: 'nonsense' })).rejects.toThrow('NOT_FOUND')
    const peers = stream(clientOf('peer.Peer', target), 'Notify', {})
    for await (const peer of peers) {
      expect(peer).toMatchObject({ name: 'default/node-1', address: '127.0.0.1:0', type: 'PEER_ADDED' })
      break
    }
  })
})

test('over a unix socket, which its group may use', async () => {
  const address = `unix:${join(await temporaryFolder(), 'hubble.sock')}`
  expect(await summaries(await serve(filled(), { address }), { number: 1 })).toEqual([tried])
  expect(statSync(address.slice('unix:'.length)).mode & 0o777).toBe(0o660)
})

test('where Relay finds this node: at its socket, or over TCP with the name of its certificate', async () => {
  const address = `unix:${join(await temporaryFolder(), 'hubble.sock')}`
  const told = async (places: readonly HubblePlace[]): Promise<unknown> => {
    served = await serveHubble(filled(), places, { version: 'namegate test' })
    for await (const { address, tls } of stream(clientOf('peer.Peer', places[0]?.address ?? ''), 'Notify', {})) {
      await served.close()
      return { address, tls }
    }
    return undefined
  }
  expect(await told([{ address }])).toEqual({ address: `unix://${address.slice('unix:'.length)}` })
  const [certificate, key] = await makeCertificate()
  expect(await told([{ address }, { address: '127.0.0.1:0', tls: { certificate, key } }])).toEqual({ address: '127.0.0.1:0', tls: { server_name: 'node-1.default.hubble-grpc.cilium.io' } }) // prettier-ignore
})

test('while the agent starts, clients are told to come again', async () => {
  const claimed = await claimHubble([{ address: '127.0.0.1:0' }], { version: 'namegate test' })
  served = claimed
  const target = `127.0.0.1:${claimed.ports[0]}`
  const client = clientOf('observer.Observer', target)
  const starting = 'UNAVAILABLE: the agent is starting'
  await expect(call(client, 'ServerStatus')).rejects.toThrow(starting)
  await expect(call(clientOf('grpc.health.v1.Health', target), 'Check', {})).rejects.toThrow(starting)
  await expect(flows(target, { number: 1 })).rejects.toThrow(starting)
  claimed.serve(filled())
  expect(await call(client, 'ServerStatus')).toMatchObject({ num_flows: '3' })
})

test('a socket that cannot be had: told with its option, and nothing is held', async () => {
  const file = join(await temporaryFolder(), 'notes.txt')
  writeFileSync(file, 'mine')
  await expect(claimHubble([{ address: '127.0.0.1:0' }, { address: `unix:${file}` }], { version: 'x' })).rejects.toThrow(`Hubble's API cannot listen on ${file}: something that is no socket lies there; observe.hubble.listen sets another`) // prettier-ignore
  expect(readFileSync(file, 'utf8')).toBe('mine')
})

test('over TLS, only for clients with a certificate', async () => {
  const [certificate, key] = await makeCertificate()
  const target = await serve(filled(), { address: '127.0.0.1:0', tls: { certificate, key, clientCa: certificate } })
  const status = (how: ChannelCredentials): Promise<Message> => call(clientOf('observer.Observer', target, how), 'ServerStatus') // prettier-ignore
  expect(await status(credentials.createSsl(certificate, key, certificate))).toMatchObject({ num_flows: '3' })
  await expect(status(credentials.createSsl(certificate))).rejects.toThrow('UNAVAILABLE')
  await expect(status(credentials.createInsecure())).rejects.toThrow('UNAVAILABLE')
})

/** Of localhost, signed by itself. */
async function makeCertificate(): Promise<[certificate: Buffer, key: Buffer]> {
  const folder = await temporaryFolder()
  execFileSync('bash', ['-c', `set -e; cd '${folder}'
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1`], { stdio: 'ignore' }) // prettier-ignore
  return ['cert.pem', 'key.pem'].map((name) => readFileSync(join(folder, name))) as [Buffer, Buffer]
}
