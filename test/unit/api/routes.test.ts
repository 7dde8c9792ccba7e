// The routes, asked without a socket.
import type { InjectOptions } from 'fastify'
import { beforeEach, describe, expect, test } from 'vitest'
import { z, type ZodType } from 'zod'
import type { Lease } from '../../../src/leases/lease.ts'
import { makeTokenTest } from '../../../src/api/access.ts'
import { leasesPerTurn, makeApi, routes, type CacheRow, type SuccessionState } from '../../../src/api/routes.ts'
import { serveApi } from '../../../src/api/serve.ts'
import { answer, at, connection, query as flowQuery } from '../observe/flows.ts'
import { showWorld, type Shown } from './view.ts'

type Method = NonNullable<InjectOptions['method']>

let view: Shown
beforeEach(() => {
  view = showWorld()
  view.learn({ name: 'api.example.com', ips: ['198.18.0.1', '2001:db8::1'] })
  view.learn({ name: 'www.example.com', ips: ['198.18.1.1'], ttlSeconds: 300 })
  view.learn({ name: 'api.example.com', ips: ['198.18.0.1'], identity: 257, endpoint: 2 })
})

async function ask(url: string, method: Method = 'GET', shown = view): Promise<{ status: number; body: unknown }> {
  const { statusCode, body } = await makeApi(shown, 'open').inject({ method, url })
  return { status: statusCode, body: body === '' ? undefined : JSON.parse(body) }
}
const cache = async (query = '', shown = view): Promise<CacheRow[]> => (await ask(`/v1/fqdn/cache${query}`, 'GET', shown)).body as CacheRow[] // prettier-ignore
const held = async (query = ''): Promise<string[]> => (await cache(query)).map((row) => `${row.identity} ${row.fqdn} ${row.ips.join(' ')}`) // prettier-ignore
const web = '256 api.example.com. 198.18.0.1 2001:db8::1'
const www = '256 www.example.com. 198.18.1.1'
const db = '257 api.example.com. 198.18.0.1'

describe('GET /v1/fqdn/cache', () => {
  test('one row of Cilium fields, with identity and what is left', async () => {
    view.setTime(45_400)
    const [row] = await cache('?matchpattern=www.example.com')
    expect(row).toEqual({
      fqdn: 'www.example.com.',
      ips: ['198.18.1.1'],
      ttl: 300,
      'lookup-time': expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      'expiration-time': expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      'endpoint-id': 1,
      source: 'lookup',
      state: 'alive',
      why: 'its TTL is not over',
      identity: 256,
      'remaining-seconds': 255,
    })
    const seconds = (Date.parse(row?.['expiration-time'] ?? '') - Date.parse(row?.['lookup-time'] ?? '')) / 1000
    expect(Math.round(seconds)).toBe(300)
  })

  const filters: readonly { query: string; rows: readonly string[] }[] = [
    { query: '', rows: [web, www, db] },
    { query: '?matchpattern=*.example.com', rows: [web, www, db] },
    { query: '?matchpattern=*', rows: [web, www, db] },
    { query: '?matchpattern=API.Example.COM.', rows: [web, db] },
    { query: '?matchpattern=*.com', rows: [] },
    { query: '?cidr=198.18.0.0/24', rows: ['256 api.example.com. 198.18.0.1', db] },
    { query: '?cidr=2001:db8::/32', rows: ['256 api.example.com. 2001:db8::1'] },
    { query: '?cidr=198.18.1.1', rows: [www] },
    { query: '?identity=257', rows: [db] },
    { query: '?identity=9', rows: [] },
    { query: '?source=lookup', rows: [web, www, db] },
    { query: '?source=connection', rows: [] },
    { query: '?identity=256&cidr=198.18.0.0/15&matchpattern=w*.example.com', rows: [www] },
  ]
  for (const { query, rows } of filters)
    test(`${query === '' ? 'no filter' : query}`, async () => expect(await held(query)).toEqual(rows))

  test('addresses learned at another moment are a row of their own', async () => {
    view.setTime(10_000)
    view.learn({ name: 'www.example.com', ips: ['198.18.1.2'] })
    const rows = await cache('?matchpattern=www.example.com')
    expect(rows.map((row) => [row.ips, row['remaining-seconds']])).toEqual([
      [['198.18.1.1'], 290],
      [['198.18.1.2'], 60],
    ])
  })

  test('a name past its TTL, within the grace, has less than nothing left', async () => {
    view.setTime(75_000)
    expect((await cache('?identity=257')).map((row) => row['remaining-seconds'])).toEqual([-15])
  })

  test('what a connection keeps beyond its grace is a zombie, with why', async () => {
    view.setTime(85_000)
    expect((await cache('?identity=257')).map(({ state, source }) => [state, source])).toEqual([['alive', 'lookup']])
    view.setTime(95_000)
    const rows = await cache('?identity=257&source=connection')
    expect(rows.map(({ state, why }) => [state, why.replaceAll(/\d{4}-\S+Z/g, '<time>')])).toEqual([['zombie', 'TTL and grace were over at <time>; a connection keeps it, at the last look until <time>']]) // prettier-ignore
    expect(await cache('?identity=257&source=lookup')).toEqual([])
    view.setTime(200_000)
    expect((await cache('?matchpattern=www.example.com')).map(({ why }) => why)).toEqual(['its TTL is not over'])
    view.setTime(310_000)
    expect((await cache('?matchpattern=www.example.com')).map(({ why }) => why)).toEqual(['its TTL is over, its grace is not']) // prettier-ignore
  })

  test('the root', async () => {
    view.learn({ name: '.', ips: ['198.18.9.9'] })
    expect(await held('?cidr=198.18.9.9')).toEqual(['256 . 198.18.9.9'])
  })

  for (const count of [leasesPerTurn - 1, leasesPerTurn, leasesPerTurn + 1, 4 * leasesPerTurn])
    test(`${count} leases, none lost or twice where one piece of the answer ends`, async () => {
      const big = showWorld()
      for (let i = 0; i < count; i++) big.learn({ name: `n${i >> 1}.example.com`, ips: [`10.0.${i >> 8}.${i & 255}`] })
      const rows = await cache('', big)
      expect(rows.length).toBe(Math.ceil(count / 2))
      expect(new Set(rows.flatMap((row) => row.ips)).size).toBe(count)
    })

  test('the event loop turns while many leases are listed', async () => {
    const big = showWorld()
    for (let i = 0; i < 5 * leasesPerTurn; i++) big.learn({ name: `n${i}.test`, ips: ['198.18.0.1'] })
    let inThisTurn = 0
    let most = 0
    let isOver = false
    const turn = (): void => {
      inThisTurn = 0
      if (!isOver) setImmediate(turn)
    }
    turn()
    function* list(): Iterable<Lease> {
      for (const lease of big.leases.list()) {
        most = Math.max(most, ++inThisTurn)
        yield lease
      }
    }
    const rows = await cache('', { ...big, leases: { ...big.leases, list } })
    isOver = true
    expect(rows.length).toBe(5 * leasesPerTurn)
    // What was read ahead in one turn may meet the first of the next.
    expect(most).toBeLessThanOrEqual(2 * leasesPerTurn)
  })
})

describe('DELETE /v1/fqdn/cache', () => {
  const cleans = [
    { query: '', deleted: 4, left: [] },
    { query: '?matchpattern=api.example.com', deleted: 3, left: [www] },
    { query: '?matchpattern=API.EXAMPLE.com.', deleted: 3, left: [www] },
    { query: '?matchpattern=*.test', deleted: 0, left: [web, www, db] },
  ]
  for (const { query, deleted, left } of cleans)
    test(`${query === '' ? 'all' : query}`, async () => {
      expect(await ask(`/v1/fqdn/cache${query}`, 'DELETE')).toEqual({ status: 200, body: { deleted } })
      expect(await held()).toEqual(left)
    })

  test('the kernel said no: the reason is told', async () => {
    const shown = showWorld({ cleanLeases: () => Promise.reject(new Error('ENOBUFS')) })
    expect(await ask('/v1/fqdn/cache', 'DELETE', shown)).toEqual({ status: 500, body: { error: 'ENOBUFS' } })
  })
})

const refused: readonly { method?: Method; url: string; status?: number; error: string }[] = [
  { url: '/v1/fqdn/cache?matchpattern=a%20b', error: 'Invalid characters in MatchPattern: "a b"' },
  { url: '/v1/fqdn/cache?matchpattern=', error: 'a label is empty' },
  { url: '/v1/fqdn/cache?cidr=10.0.0.0/33', error: '"10.0.0.0/33" is not an address or a prefix' },
  { url: '/v1/fqdn/cache?identity=0x100', error: '"0x100" is not a number' },
  { url: '/v1/fqdn/cache?source=lokup', error: '"lokup" is none of lookup, connection' },
  { url: '/v1/fqdn/cache?cidr=10.0.0.1&cidr=10.0.0.2', error: 'cidr is given twice' },
  { url: '/v1/fqdn/cache?pattern=x', error: 'unknown parameter "pattern"; there is matchpattern, cidr' },
  { url: '/v1/fqdn/cache?__proto__=x', error: 'unknown parameter "__proto__"' },
  { method: 'DELETE', url: '/v1/fqdn/cache?matchpattern=', error: 'a label is empty' },
  { method: 'DELETE', url: '/v1/fqdn/cache?matchpatern=x', error: 'unknown parameter "matchpatern"' },
  { method: 'DELETE', url: '/v1/fqdn/cache?cidr=10.0.0.0/8', error: 'unknown parameter "cidr"' },
  { url: '/v1/endpoint?identity=256', error: 'unknown parameter "identity"; there is none here' },
  { url: '/v1/identity/256?x=1', error: 'unknown parameter "x"' },
  { url: '/v1/identity/9', status: 404, error: 'there is no identity 9' },
  { url: '/v1/identity/0x100', status: 404, error: 'there is no identity 0x100' },
  { url: '/v1/nothing', status: 404, error: 'there is no GET /v1/nothing; there is GET /healthz' },
  { method: 'POST', url: '/v1/policy', status: 404, error: 'there is no POST /v1/policy' },
]
for (const { method = 'GET', url, status = 400, error } of refused)
  test(`refused: ${method} ${url}`, async () => {
    expect(await ask(url, method)).toEqual({ status, body: { error: expect.stringContaining(error) as string } })
    expect(view.leases.size()).toBe(4)
  })

/** What routes must be asked for. */
const queries: Readonly<Record<string, string>> = { 'GET /v1/why': '?from=shop/web&to=api.example.com', 'GET /v1/verdict': '?from=shop/web&to=api.example.com' } // prettier-ignore
test('every route that is listed answers', async () => {
  // To watch has no end: see below.
  for (const route of routes.filter((each) => !each.endsWith('/watch'))) {
    const [method = '', url = ''] = route.split(' ')
    const { statusCode } = await makeApi(view, 'open').inject({
      method: method,
      url: url.replace(':id', '256') + (queries[route] ?? ''),
    })
    expect([route, statusCode]).toEqual([route, 200])
  }
})

test('the OpenAPI document tells of every route and parameter, and of nothing else', async () => {
  const { body } = await ask('/v1/openapi')
  const { paths } = body as { paths: Record<string, Record<string, { parameters: { name: string; in: string }[] }>> }
  const told = Object.entries(paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, { parameters }]) => ({ route: `${method.toUpperCase()} ${path.replace('{id}', ':id')}`, parameters }))) // prettier-ignore
  expect(told.map(({ route }) => route).sort()).toEqual([...routes].sort())
  for (const { route, parameters } of told.filter((each) => each.route.includes(' /v1/'))) {
    const [method = '', path = ''] = route.split(' ')
    const { status, body: said } = await ask(`${path.replace(':id', '256')}?nonsense=1`, method)
    const names = parameters.filter((each) => each.in === 'query').map(({ name }) => name)
    expect({ status, said }).toEqual({ status: 400, said: { error: `unknown parameter "nonsense"; there is ${names.join(', ') || 'none here'}` } }) // prettier-ignore
  }
})

interface Told {
  readonly responses: Readonly<Record<string, { readonly content: Readonly<Record<string, { readonly schema: Record<string, unknown> }>> }>> // prettier-ignore
}
/** What the document says of a route's answer with this status. */
async function schemaOf(route: string, status: string): Promise<{ readonly type: string; readonly schema: ZodType }> {
  const { paths } = (await ask('/v1/openapi')).body as { paths: Record<string, Record<string, Told>> }
  const [method = '', path = ''] = route.split(' ')
  const [entry] = Object.entries(paths[path.replace(':id', '{id}')]?.[method.toLowerCase()]?.responses[status]?.content ?? {}) // prettier-ignore
  if (entry === undefined) throw new Error(`nothing is told of ${route} ${status}`)
  return { type: entry[0], schema: z.fromJSONSchema(entry[1].schema) }
}
/** Values of an answer, each of which the schema is about. */
function valuesOf(type: string, body: string): unknown[] {
  if (type === 'application/json') return [JSON.parse(body)]
  if (type === 'application/x-ndjson') return body.split('\n').filter(Boolean).map((line) => JSON.parse(line) as unknown) // prettier-ignore
  return [body]
}
describe('answers are what the OpenAPI document says', () => {
  const more: Readonly<Record<string, readonly string[]>> = {
    'GET /v1/why': ['api.example.com', 'pay.example.net', '198.18.0.1', 'shop/db:5432', 'never.example.com'].map((to) => `?from=shop/web&to=${to}`), // prettier-ignore
    'GET /v1/verdict': ['?from=shop/web&to=api.example.com', '?from=10.9.9.9&to=shop/db'],
    'GET /v1/flows': ['?last=20', '?last=20&deny=[{"verdict":["DROPPED"]}]'],
  }
  for (const route of routes.filter((each) => !each.endsWith('/watch')))
    test(route, async () => {
      const icmp = { type: 8, code: 0 }
      const flows = [flowQuery(), answer(), answer({ rcode: 3, addresses: [], verdict: 'DROPPED' }), connection(), connection({ verdict: 'FORWARDED', why: { text: 'x', policy: 'all' } }), connection({ protocol: 1, icmp, tcpFlags: undefined, direction: 'ingress' }), connection({ protocol: 17, tcpFlags: undefined, byDenyRule: true })] // prettier-ignore
      for (const flow of flows) view.observer.ring.write(flow)
      view.observer.ring.write({ kind: 'lost', source: 'kernel', count: 3, time: 0 })
      const { type, schema } = await schemaOf(route, '200')
      const [method = '', url = ''] = route.split(' ')
      let values = 0
      for (const query of more[route] ?? [queries[route] ?? '']) {
        const { statusCode, headers, body } = await makeApi(view, 'open').inject({ method, url: `${url.replace(':id', '256')}${query}` }) // prettier-ignore
        expect(statusCode).toBe(200)
        expect(headers['content-type']).toContain(type)
        for (const value of valuesOf(type, body)) expect([schema.safeParse(value).error?.issues, value]).toEqual([undefined, value]) // prettier-ignore
        values += valuesOf(type, body).length
      }
      expect(values).toBeGreaterThan(0)
    })
  test('what is refused, and what is not well', async () => {
    const { schema } = await schemaOf('GET /v1/fqdn/cache', 'default')
    expect(schema.safeParse((await ask('/v1/fqdn/cache?limit=x')).body).success).toBe(true)
    const well = await schemaOf('GET /healthz', '503')
    expect(well.schema.safeParse((await ask('/healthz', 'GET', showWorld({ troubles: () => ['x'] }))).body).success).toBe(true) // prettier-ignore
    expect(well.schema.safeParse({ ok: false }).success).toBe(false)
  })
})

test('the cache by pages: together they are the whole', async () => {
  expect((await cache('?limit=2')).map(({ fqdn }) => fqdn)).toEqual(['api.example.com.', 'www.example.com.'])
  expect((await cache('?limit=2&offset=2')).map(({ identity }) => identity)).toEqual([257])
  expect(await cache('?offset=3')).toEqual([])
  expect((await ask('/v1/fqdn/cache?limit=x')).body).toEqual({ error: 'limit: "x" is not a number' })
})

test('names and selectors, with who uses them', async () => {
  expect((await ask('/v1/fqdn/names')).body).toEqual([{ field: 'matchPattern', selector: '*.example.com', users: ['shop/web'], leases: 4 }]) // prettier-ignore
  expect((await ask('/v1/policy/selectors')).body).toEqual([
    { selector: 'any:app=web,k8s:io.kubernetes.pod.namespace=shop', identities: [256], users: ['shop/web'] },
    { selector: 'matchPattern *.example.com', identities: [], users: ['shop/web'] },
  ])
})

test('a verdict', async () => {
  expect((await ask('/v1/verdict?from=shop/web&to=198.18.1.1:80')).body).toMatchObject({ verdict: 'allowed', egress: { why: [{ policy: 'shop/web' }] } }) // prettier-ignore
  expect((await ask('/v1/verdict?from=shop/web&to=198.18.9.9:80')).body).toMatchObject({ verdict: 'denied' })
  expect((await ask('/v1/verdict?from=shop/web&to=pay.example.net')).body).toMatchObject({ verdict: 'denied' })
})

test('whoever watches the cache is told of what passes the filter, until they go', async () => {
  const { urls, close } = await serveApi(view, { socket: undefined, address: '127.0.0.1', port: 0 })
  const gone = new AbortController()
  const response = await fetch(`${urls[0]}/v1/fqdn/cache/watch?matchpattern=*.example.com`, { signal: gone.signal })
  expect(response.headers.get('content-type')).toBe('text/event-stream')
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  expect((await reader?.read())?.value).toBe(': watching\n\n')
  const lease = { kind: 'lease', time: 0, why: undefined, identity: 256, endpoint: 1, ttlSeconds: 60 } as const
  view.observer.ring.write({ ...lease, change: 'learned', name: 'other.test', addresses: [at('198.18.0.9')] })
  view.observer.ring.write({ ...lease, change: 'revoked', name: 'api.example.com', addresses: [at('198.18.0.1')] })
  const event = (await reader?.read())?.value ?? ''
  expect(event).toBe('event: revoked\ndata: {"fqdn":"api.example.com.","ips":["198.18.0.1"],"identity":256,"endpoint-id":1,"ttl":60,"remaining-seconds":0,"time":"1970-01-01T00:00:00.000Z"}\n\n') // prettier-ignore
  const { schema } = await schemaOf('GET /v1/fqdn/cache/watch', '200')
  expect(schema.safeParse(JSON.parse(event.slice(event.indexOf('{')))).success).toBe(true)
  // Of what is learned or renewed the TTL runs; of the others nothing is left.
  for (const [change, remaining] of [
    ['learned', 60],
    ['renewed', 60],
    ['zombie', 0],
    ['expired', 0],
  ] as const) {
    view.observer.ring.write({ ...lease, time: Date.now(), change, name: 'api.example.com', addresses: [at('198.18.0.1')] }) // prettier-ignore
    const text = (await reader?.read())?.value ?? ''
    expect(text.slice(0, text.indexOf('\n'))).toBe(`event: ${change}`)
    const data = JSON.parse(text.slice(text.indexOf('{'))) as { 'remaining-seconds': number }
    expect([schema.safeParse(data).success, data['remaining-seconds']]).toEqual([true, remaining])
  }
  gone.abort()
  await close()
})

test('HEAD takes the parameters of GET', async () => {
  expect((await ask('/v1/fqdn/cache?identity=256', 'HEAD')).status).toBe(200)
  expect((await ask('/v1/fqdn/cache?x=256', 'HEAD')).status).toBe(400)
})

test('identities with their labels, endpoints with their policies', async () => {
  expect((await ask('/v1/identity/257')).body).toEqual({ id: 257, labels: ['k8s:app=db', 'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop', 'k8s:io.cilium.k8s.policy.cluster=default', 'k8s:io.cilium.k8s.policy.serviceaccount=default', 'k8s:io.kubernetes.pod.namespace=shop'] }) // prettier-ignore
  expect(((await ask('/v1/identity')).body as { id: number }[]).map((row) => row.id)).toEqual([256, 257])
  expect((await ask('/v1/endpoint')).body).toEqual([
    { id: 1, namespace: 'shop', name: 'web', identity: 256, addresses: ['10.1.0.2'], policies: ['shop/web'], 'egress-default-deny': true, 'ingress-default-deny': false },
    { id: 2, namespace: 'shop', name: 'db', identity: 257, addresses: ['10.1.0.3', 'fd01::3'], policies: [], 'egress-default-deny': false, 'ingress-default-deny': false },
  ]) // prettier-ignore
})

test('the policy in force, and what is wrong with a newer set', async () => {
  const refused = [{ file: 'new.yaml', line: 3, column: 5, path: 'spec', message: 'must be a mapping', severity: 'error' as const }] // prettier-ignore
  const { policySet } = view
  expect((await ask('/v1/policy', 'GET', { ...view, policySet: () => ({ ...policySet(), refused }) })).body).toEqual({
    revision: 1,
    policies: [
      {
        kind: 'CiliumNetworkPolicy',
        name: 'shop/web',
        file: 'world.yaml',
        'egress-rules': 1,
        'ingress-rules': 0,
        endpoints: ['shop/web'],
      },
    ],
    warnings: [],
    refused: ['new.yaml:3:5: spec: must be a mapping'],
  })
})

test('a restart: asked for, under way, refused, and where nobody could start another', async () => {
  let asked = 0
  let state: SuccessionState = { kind: 'under way' }
  const shown = showWorld({ succession: { ask: () => void asked++, state: () => state } })
  expect(await ask('/v1/restart', 'PUT', shown)).toEqual({ status: 200, body: { process: process.pid, restart: 'under way' } }) // prettier-ignore
  // Nothing that a page of somebody else's could have a browser send unasked.
  for (const method of ['GET', 'POST']) expect((await ask('/v1/restart', method, shown)).status).toBe(404)
  expect(asked).toBe(1)
  state = { kind: 'failed', why: 'no' }
  expect((await ask('/v1/status', 'GET', shown)).body).toMatchObject({ restart: 'failed', 'restart-fault': 'no' })
  const nobody = { status: 409, body: { error: expect.stringContaining('restart: none') as string } }
  expect(await ask('/v1/restart', 'PUT', showWorld({ succession: undefined }))).toEqual(nobody)
})

test('status and health: 503 with reasons when the agent cannot do its job', async () => {
  expect((await ask('/v1/status')).body).toEqual({ ready: true, troubles: [], revision: 1, endpoints: 2, policies: 1, leases: 4, 'dns-port': 10053, refused: 0, process: process.pid, restart: 'idle' }) // prettier-ignore
  expect(await ask('/healthz?probe=1')).toEqual({ status: 200, body: { ok: true, troubles: [] } })
  const shown = showWorld({ troubles: () => ['no upstream answers'] })
  expect(await ask('/healthz', 'GET', shown)).toEqual({ status: 503, body: { ok: false, troubles: ['no upstream answers'] } }) // prettier-ignore
  expect((await ask('/v1/status', 'GET', shown)).body).toMatchObject({ ready: false, troubles: ['no upstream answers'] }) // prettier-ignore
})

describe('behind a token', () => {
  const token = 'c2VjcmV0LXNlY3JldC1zZWNyZXQ='
  const shown = [
    { authorization: `Bearer ${token}`, status: 200 },
    { authorization: `bearer  ${token} `, status: 200 },
    { authorization: undefined, status: 401 },
    { authorization: '', status: 401 },
    { authorization: 'Bearer', status: 401 },
    { authorization: `Bearer ${token}x`, status: 401 },
    { authorization: `Bearer ${token.slice(1)}`, status: 401 },
    { authorization: `Basic ${token}`, status: 401 },
    { authorization: token, status: 401 },
  ]
  for (const { authorization, status } of shown)
    test(`${authorization}: ${status}`, async () => {
      for (const url of ['/healthz', '/v1/policy', '/nothing', '/v1/fqdn/cache?x=1']) {
        const headers = { host: 'gate.example', ...(authorization === undefined ? {} : { authorization }) }
        const said = await makeApi(view, makeTokenTest(token)).inject({ url, headers })
        const want = status === 401 ? 401 : url === '/nothing' ? 404 : url.includes('?') ? 400 : 200
        expect([url, said.statusCode]).toEqual([url, want])
        if (status === 401) expect([said.headers['www-authenticate'], said.body]).toEqual(['Bearer', '{"error":"the token of api.tokenFile is required"}']) // prettier-ignore
      }
    })
})

test('a body is bounded', async () => {
  const said = await makeApi(view, 'open').inject({ method: 'DELETE', url: '/v1/fqdn/cache', headers: { 'content-type': 'application/json' }, payload: JSON.stringify('x'.repeat(70_000)) }) // prettier-ignore
  expect([said.statusCode, JSON.parse(said.body)]).toEqual([413, { error: 'Request body is too large' }])
  expect(view.leases.size()).toBe(4)
})

test('metrics are text', async () => {
  const { headers, body } = await makeApi(view, 'open').inject('/metrics')
  expect([headers['content-type'], body]).toEqual(['text/plain; version=0.0.4; charset=utf-8', 'namegate_leases 2\n'])
})

const hosts = [
  { host: 'localhost:9653', status: 200 },
  { host: 'LocalHost', status: 200 },
  { host: '127.0.0.1:9653', status: 200 },
  { host: '[::1]:9653', status: 200 },
  { host: '[::1]', status: 200 },
  { host: '127.0.0.2:9653', status: 200 },
  { host: 'evil.example', status: 403 },
  { host: 'localhost.evil.example:9653', status: 403 },
  { host: '127.0.0.1.evil.example', status: 403 },
  { host: '[::2]:9653', status: 403 },
  { host: '10.0.0.1', status: 403 },
]
for (const { host, status } of hosts)
  test(`over TCP under the name "${host}": ${status}`, async () => {
    for (const url of ['/v1/status', '/nothing'])
      expect((await makeApi(view, 'local').inject({ url, headers: { host } })).statusCode).toBe(
        status === 200 && url === '/nothing' ? 404 : status,
      )
    // A unix socket is no place that a browser can be led to.
    expect((await makeApi(view, 'open').inject({ url: '/v1/status', headers: { host } })).statusCode).toBe(200)
  })

test('over TCP without a token nobody restarts the agent: whoever is on the host could keep it from having a standby', async () => {
  const put = async (guard: 'local' | 'open'): Promise<number> =>
    (await makeApi(view, guard).inject({ method: 'PUT', url: '/v1/restart', headers: { host: 'localhost' } }))
      .statusCode
  expect(await put('local')).toBe(403)
  expect(await put('open')).not.toBe(403)
})
