// Flows at a collector: a real HTTP server that takes OTLP with JSON.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import type { Exports } from '../../../src/observe/export.ts'
import { openOtlp, type OtlpSettings } from '../../../src/observe/otlp.ts'
import { makeRing, type Ring } from '../../../src/observe/ring.ts'
import { answer, connection, query } from './flows.ts'

const place = { cluster: 'default', node: 'node-1' }
const sender = { ...place, version: '1.2.3' }
let ring: Ring
let collector: Server
let url: string
/** Statuses of the answers to come; then 200. */
let statuses: (number | 'silence')[]
let requests: { readonly path: string | undefined; readonly headers: IncomingHttpHeaders; readonly body: Body }[]
const logged: string[] = []
const log = { error: (_: unknown, line: string) => void logged.push(line), info: (_: unknown, line: string) => void logged.push(line) } as never // prettier-ignore

interface Value {
  readonly stringValue?: string
  readonly intValue?: number | string
  readonly arrayValue?: { readonly values: readonly Value[] }
}
interface Attribute {
  readonly key: string
  readonly value: Value
}
interface Sent {
  readonly timeUnixNano: string
  readonly severityNumber: number
  readonly severityText: string
  readonly eventName?: string
  readonly body: Value
  readonly attributes: readonly Attribute[]
}
interface Body {
  readonly resourceLogs: readonly {
    readonly resource: { readonly attributes: readonly Attribute[] }
    readonly scopeLogs: readonly { readonly scope: { readonly name: string }; readonly logRecords: readonly Sent[] }[]
  }[]
}

const plain = ({ stringValue, intValue, arrayValue }: Value): unknown => arrayValue?.values.map(plain) ?? stringValue ?? Number(intValue) // prettier-ignore
const object = (attributes: readonly Attribute[]): Record<string, unknown> => Object.fromEntries(attributes.map(({ key, value }) => [key, plain(value)])) // prettier-ignore
const records = (): Sent[] => requests.flatMap(({ body }) => body.resourceLogs.flatMap(({ scopeLogs }) => scopeLogs.flatMap(({ logRecords }) => logRecords))) // prettier-ignore
const soon = { timeout: 15_000 }

beforeEach(async () => {
  ring = makeRing(1023, () => 0)
  requests = []
  statuses = []
  logged.length = 0
  collector = createServer((request, response) => {
    void text(request).then((body) => {
      const status = statuses.shift() ?? 200
      if (status === 'silence') return
      // What is refused is no record.
      if (status === 200) requests.push({ path: request.url, headers: request.headers, body: JSON.parse(body) as Body })
      response.writeHead(status, { 'content-type': 'application/json' }).end('{}')
    })
  })
  await once(collector.listen(0, '127.0.0.1'), 'listening')
  url = `http://127.0.0.1:${(collector.address() as AddressInfo).port}/v1/logs`
})
afterEach(() => {
  collector.closeAllConnections()
  collector.close()
})

async function begin(over: Partial<OtlpSettings> = {}): Promise<Exports> {
  const otlp = await openOtlp({ url, headers: {}, allow: [], deny: [], ...over }, sender)
  onTestFinished(() => otlp.close())
  otlp.follow({ ring, place }, log)
  return otlp
}

test('records say what was decided, by which rule, about whom', async () => {
  const otlp = await begin({ headers: { authorization: 'Bearer x' } })
  ring.write(query())
  ring.write(answer({ verdict: 'ERROR', rcode: 2, addresses: [] }))
  ring.write(connection({ why: { text: 'no rule matched; selected by shop/web', policy: 'shop/web', rule: 'spec.egress[0]', source: 'web.yaml:7' } })) // prettier-ignore
  ring.write(connection({ verdict: 'AUDIT' }))
  await expect.poll(() => otlp.exported(), soon).toEqual({ written: 4, lost: 0 })
  expect(requests[0]).toMatchObject({ path: '/v1/logs', headers: { authorization: 'Bearer x', 'content-type': 'application/json' } }) // prettier-ignore
  const { resource, scopeLogs } = requests[0]?.body.resourceLogs[0] ?? expect.fail()
  expect(object(resource.attributes)).toEqual({ 'service.name': 'namegate', 'service.version': '1.2.3', 'k8s.cluster.name': 'default', 'k8s.node.name': 'node-1' }) // prettier-ignore
  expect(scopeLogs[0]?.scope.name).toBe('namegate')
  // INFO, ERROR and WARN of the data model for logs.
  expect(records().map(({ severityNumber, severityText }) => `${severityText} ${severityNumber}`)).toEqual(['FORWARDED 9', 'ERROR 17', 'DROPPED 13', 'AUDIT 13']) // prettier-ignore
  const [asked, , denied] = records()
  expect(asked?.timeUnixNano).toBe('1000000000')
  expect(object(asked?.attributes ?? [])).toMatchObject({ 'namegate.flow': 'query', 'dns.question.name': 'api.example.com', 'namegate.dns.qtype': 'A', 'network.transport': 'udp', 'destination.port': 53 }) // prettier-ignore
  expect(denied?.body.stringValue).toBe('shop/web-7d9f -> api.example.com TCP Flags: SYN DROPPED: no rule matched; selected by shop/web') // prettier-ignore
  expect(object(denied?.attributes ?? [])).toEqual({
    'namegate.flow': 'connection',
    'namegate.verdict': 'DROPPED',
    'namegate.direction': 'egress',
    'namegate.drop_reason': 'POLICY_DENIED',
    'namegate.why': 'no rule matched; selected by shop/web',
    'namegate.policy': 'shop/web',
    'namegate.rule': 'spec.egress[0]',
    'namegate.rule.source': 'web.yaml:7',
    'network.type': 'ipv4',
    'network.transport': 'tcp',
    'source.address': '10.1.0.2',
    'source.port': 40000,
    'namegate.source.identity': 256,
    'namegate.source.labels': ['k8s:app=web', 'k8s:io.kubernetes.pod.namespace=shop'],
    'namegate.source.namespace': 'shop',
    'namegate.source.pod': 'web-7d9f',
    'destination.address': '198.18.0.20',
    'destination.port': 443,
    'namegate.destination.identity': 9,
    'namegate.destination.labels': ['reserved:world', 'reserved:world-ipv4'],
    'namegate.destination.names': ['api.example.com'],
  })
})

test('filters decide what is sent', async () => {
  const otlp = await begin({ allow: [{ verdict: ['DROPPED'] }], deny: [{ protocol: ['dns'] }] })
  ring.write(query({ verdict: 'DROPPED' }))
  ring.write(connection({ verdict: 'FORWARDED' }))
  ring.write(connection())
  await expect.poll(() => otlp.exported(), soon).toEqual({ written: 1, lost: 0 })
  expect(records().map(({ severityText }) => severityText)).toEqual(['DROPPED'])
})

test('a collector that is away costs nothing but what the ring overtakes: that is counted, and told when it is back', async () => {
  statuses = [503, 503]
  const otlp = await begin()
  ring.write(query())
  await expect.poll(() => statuses.length, soon).toBeLessThan(2)
  // While it is asked again, more than the ring holds; who writes does not wait.
  for (let i = 0; i < 3000; i++) ring.write(query({ time: 2000 + i }))
  await expect.poll(() => otlp.exported(), soon).toEqual({ written: 1 + 1023, lost: 3000 - 1023 })
  expect(records().flatMap(({ eventName, body }) => (eventName === 'namegate.lost' ? [body.stringValue] : []))).toEqual(['the collector was too slow for 1977 flows']) // prettier-ignore
})

test('what the collector refuses is lost and counted; said once, and when it takes flows again', async () => {
  statuses = [400, 401]
  const otlp = await begin()
  for (const lost of [1, 2]) {
    ring.write(query())
    await expect.poll(() => otlp.exported(), soon).toEqual({ written: 0, lost })
  }
  ring.write(query())
  await expect.poll(() => otlp.exported(), soon).toEqual({ written: 1, lost: 2 })
  expect(logged).toEqual(['flows cannot be sent to the collector; those that it has no time for count as lost', 'flows are sent to the collector again']) // prettier-ignore
})

test('what is in the ring leaves when the agent ends, and a collector that says nothing does not hold it up', async () => {
  const otlp = await begin()
  for (let i = 0; i < 700; i++) ring.write(query())
  await otlp.close()
  expect(otlp.exported()).toEqual({ written: 700, lost: 0 })
  statuses = ['silence']
  const other = await begin()
  ring.write(query())
  await expect.poll(() => statuses.length, soon).toBe(0)
  const started = performance.now()
  await other.close()
  expect(performance.now() - started).toBeLessThan(4000)
})

test('without the optional packages an agent says what is missing', async () => {
  const hooks = `import { registerHooks } from 'node:module'
registerHooks({ resolve(name, context, next) { return next(name.startsWith('@opentelemetry/') ? name + '-of-nobody' : name, context) } })`
  const script = `import { openOtlp } from '${new URL('../../../src/observe/otlp.ts', import.meta.url).href}'
await openOtlp({ url: '${url}', headers: {}, allow: [], deny: [] }, { version: '', cluster: '', node: '' }).catch((error) => console.log(error.code, error.message))`
  const child = spawn(process.execPath, ['--import', `data:text/javascript,${encodeURIComponent(hooks)}`, '--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
  expect(await text(child.stdout)).toBe('export observe.otlp needs optional packages that are not installed: npm install --include=optional\n') // prettier-ignore
})
