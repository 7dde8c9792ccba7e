// The inspection endpoint's routes. Fields are named as in Cilium's agent API where it has them.
import { readFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { setImmediate as nextTurn } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import type { PolicySet } from '../agent.ts'
import { wallTime, type Clock, type Millis } from '../clock.ts'
import { firstIdentity } from '../identity/identities.ts'
import { labelsToText } from '../identity/labels.ts'
import { isZombie, type Lease } from '../leases/lease.ts'
import type { LeaseTable } from '../leases/leases.ts'
import { checkPattern, readPattern } from '../match/pattern.ts'
import { makeTrie } from '../match/trie.ts'
import type { Metrics } from '../metrics.ts'
import type { TokenTest } from './access.ts'
import { readFlowQuery, flowLines } from './flows.ts'
import type { Observer } from '../observe/observer.ts'
import { openApiDocument, routeTable } from './openapi.ts'
import { nameRows, selectorRows } from './selectors.ts'
import { leaseEvents, type Watched } from './watch.ts'
import { answerVerdict, answerWhy, readWhyQuery, type WhyView } from './why.ts'
import { addressFromText, addressToText } from '../net/address.ts'
import { prefixFromText, rangeCovers } from '../net/prefix.ts'
import type { Snapshot } from '../policy/snapshot.ts'
import { issueToText } from '../policy/field.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'

/** What the API shows; an `Agent` is one. */
export interface ApiView extends Pick<WhyView, 'kernelHolds' | 'expandedFrom' | 'resolverTries'> {
  readonly port: number
  readonly clock: Clock
  readonly metrics: Pick<Metrics, 'text'>
  readonly snapshot: () => Snapshot
  readonly leases: Pick<LeaseTable, 'list' | 'size' | 'leasesAt' | 'leasesAs'>
  readonly policySet: () => PolicySet
  readonly cleanLeases: (matches: (lease: Lease) => boolean) => Promise<number>
  readonly troubles: () => readonly string[]
  readonly observer: Pick<Observer, 'ring' | 'place'>
  /** Absent: nobody could start another. */
  readonly succession?: Succession | undefined
}

/** Another process in place of this one. */
export interface Succession {
  /** Has it be prepared; does nothing while that is under way. */
  readonly ask: () => void
  readonly state: () => SuccessionState
}
export type SuccessionState =
  { readonly kind: 'idle' | 'under way' } | { readonly kind: 'failed' | 'impossible'; readonly why: string }

/** One name as one identity holds it: the addresses that were learned together. */
export interface CacheRow {
  readonly fqdn: string
  readonly ips: readonly string[]
  readonly ttl: number
  readonly 'lookup-time': string
  readonly 'expiration-time': string
  readonly 'endpoint-id': number
  readonly source: string
  readonly identity: number
  /** `zombie`: TTL and grace are over, and a connection keeps the addresses. */
  readonly state: 'alive' | 'zombie'
  readonly why: string
  /** Of the TTL; the kernel keeps the address open for the grace after it, when this is negative. */
  readonly 'remaining-seconds': number
}

export interface EndpointRow {
  readonly id: number
  readonly namespace: string
  readonly name: string
  readonly identity: number
  readonly addresses: readonly string[]
  readonly policies: readonly string[]
  readonly 'egress-default-deny': boolean
  readonly 'ingress-default-deny': boolean
}

export interface IdentityRow {
  readonly id: number
  readonly labels: readonly string[]
}

export interface PolicyView {
  readonly revision: number
  readonly policies: readonly {
    readonly kind: string
    readonly name: string
    readonly file: string
    readonly 'egress-rules': number
    readonly 'ingress-rules': number
    readonly endpoints: readonly string[]
  }[]
  readonly warnings: readonly string[]
  /** What is wrong with a newer set of manifests that was refused. */
  readonly refused: readonly string[]
}

export interface StatusView {
  readonly ready: boolean
  readonly troubles: readonly string[]
  readonly revision: number
  readonly endpoints: number
  readonly policies: number
  readonly leases: number
  readonly 'dns-port': number
  readonly refused: number
  /** The one that answers. */
  readonly process: number
  readonly restart: SuccessionState['kind']
  /** Why it failed, or cannot be. */
  readonly 'restart-fault'?: string
}

/** Every route, for documentation and the test that holds the two together. */
export const routes: readonly string[] = Object.keys(routeTable)

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string } // prettier-ignore

const bodyOctetsMax = 64 * 1024
export const requestMillisMax = 10_000
/** Leases looked at in one turn of the event loop, about 4 ms: questions must not wait for somebody who lists a million leases. */
export const leasesPerTurn = 1000

/** The query parameters of a route. */
function parametersOf(route: string): readonly string[] {
  return Object.hasOwn(routeTable, route) ? Object.keys(routeTable[route]?.query ?? {}) : []
}
/** Cilium's sources of leases: `connection` is what its zombies have, and ours. */
const sources = ['lookup', 'connection']

/** What is wrong with the parameters of a query: a misspelt filter must not clean everything. */
function checkParameters(query: Readonly<Record<string, unknown>>, allowed: readonly string[]): string | undefined {
  for (const [key, value] of Object.entries(query)) {
    if (!allowed.includes(key)) return `unknown parameter "${key}"; there is ${allowed.join(', ') || 'none here'}`
    if (typeof value !== 'string') return `${key} is given twice`
  }
  return undefined
}

/** Lets a lease pass, or says what is wrong with the filters. */
type Filter =
  | { readonly ok: true; readonly matches: (lease: Lease | Watched) => boolean }
  | { readonly ok: false; readonly error: string }

/** The filters of a query that `checkParameters` has passed. */
function readFilter(query: Readonly<Record<string, string>>, clock: Clock): Filter {
  const tests: ((lease: Lease | Watched) => boolean)[] = []
  for (const [key, value] of Object.entries(query)) {
    if (key === 'matchpattern') {
      const complaint = checkPattern(value, 'matchPattern')
      if (complaint !== undefined) return { ok: false, error: complaint }
      const trie = makeTrie([{ pattern: readPattern(value), value: true }])
      tests.push((lease) => trie.lookup(labelsOf(wireFromText(lease.name) ?? ('\0' as never))).length > 0)
    } else if (key === 'cidr') {
      const range = prefixFromText(value)
      if (range === undefined) return { ok: false, error: `cidr: "${value}" is not an address or a prefix` }
      tests.push((lease) => rangeCovers(range, lease.address))
    } else if (key === 'identity') {
      if (value === '' || [...value].some((c) => c < '0' || c > '9'))
        return { ok: false, error: `identity: "${value}" is not a number` }
      tests.push((lease) => lease.identity === Number(value))
    } else {
      if (!sources.includes(value)) return { ok: false, error: `source: "${value}" is none of ${sources.join(', ')}` }
      tests.push((lease) => sourceOf(lease, clock()) === value)
    }
  }
  return { ok: true, matches: (lease) => tests.every((test) => test(lease)) }
}

const sourceOf = (lease: Lease | Watched, now: Millis): string => 'source' in lease ? lease.source : isZombie(lease, now) ? 'connection' : 'lookup' // prettier-ignore

/** Why an address is open still. */
function whyOpen(lease: Lease, clock: Clock): string {
  const now = clock()
  const at = (moment: Millis | undefined): string => wallTime(clock, moment ?? now).toISOString()
  if (isZombie(lease, now)) return `TTL and grace were over at ${at(lease.zombieSince)}; a connection keeps it, at the last look until ${at(lease.keptUntil)}`
  return lease.deadline > now ? 'its TTL is not over' : 'its TTL is over, its grace is not'
} // prettier-ignore

/** The rows of one name as one identity holds it: addresses that were learned together are one row. */
function rowsOf(leases: readonly Lease[], clock: Clock): CacheRow[] {
  const groups = new Map<string, [Lease, ...Lease[]]>()
  for (const lease of leases) {
    const key = `${lease.endpoint} ${lease.learnedAt} ${lease.deadline} ${lease.zombieSince} ${lease.keptUntil}`
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [lease])
    else group.push(lease)
  }
  return [...groups.values()].map((group) => {
    const [lease] = group
    const { name, ttlSeconds, learnedAt, deadline, endpoint, identity } = lease
    return {
      fqdn: name === '.' ? '.' : `${name}.`,
      ips: group.map(({ address }) => addressToText(address)),
      ttl: ttlSeconds,
      'lookup-time': wallTime(clock, learnedAt).toISOString(),
      'expiration-time': wallTime(clock, deadline).toISOString(),
      'endpoint-id': endpoint,
      source: sourceOf(lease, clock()),
      identity,
      state: isZombie(lease, clock()) ? 'zombie' : 'alive',
      why: whyOpen(lease, clock),
      'remaining-seconds': Math.round((deadline - clock()) / 1000),
    }
  })
}

/** Which rows of a list. */
interface Page {
  readonly offset: number
  readonly limit: number
}

/** The rows that a query asks for; a string says what is wrong. */
function readPage({ offset, limit }: Readonly<Record<string, string>>): Page | string {
  const isCount = (text: string): boolean => text !== '' && text.length < 10 && [...text].every((c) => c >= '0' && c <= '9') // prettier-ignore
  for (const [key, value] of Object.entries({ offset, limit })) if (value !== undefined && !isCount(value)) return `${key}: "${value}" is not a number` // prettier-ignore
  return { offset: Number(offset ?? 0), limit: limit === undefined ? Infinity : Number(limit) }
}

/** The cache as JSON text, in pieces between which the event loop turns; leases that come or go meanwhile may be in it or not. */
async function* cacheText(
  view: ApiView,
  matches: (lease: Lease) => boolean,
  { offset, limit }: Page,
): AsyncGenerator<string> {
  let text = '['
  let row = 0
  let isFirst = true
  let visited = 0
  let held: Lease[] = []
  const flush = (): void => {
    for (const each of rowsOf(held, view.clock)) {
      const at = row++
      if (at < offset || at >= offset + limit) continue
      text += `${isFirst ? '' : ','}${JSON.stringify(each)}`
      isFirst = false
    }
    held = []
  }
  // The leases of one name of one identity stand together in the list.
  for (const lease of view.leases.list()) {
    const [last] = held
    if (last !== undefined && (last.name !== lease.name || last.identity !== lease.identity)) flush()
    if (row >= offset + limit) break
    if (matches(lease)) held.push(lease)
    if (++visited % leasesPerTurn !== 0) continue
    if (text !== '') yield text
    text = ''
    await nextTurn()
  }
  flush()
  yield `${text}]`
}

export function endpointRows(agent: ApiView): EndpointRow[] {
  const snapshot = agent.snapshot()
  return snapshot.endpoints.map(({ id, namespace, name, identity, addresses }) => {
    const { ingress, egress } = snapshot.policyOf(identity).directions
    return {
      id,
      namespace,
      name,
      identity,
      addresses: addresses.map(addressToText),
      policies: [...new Set([...egress.selectedBy, ...ingress.selectedBy])],
      'egress-default-deny': egress.fallback === 'deny',
      'ingress-default-deny': ingress.fallback === 'deny',
    }
  })
}

export function identityRows(agent: ApiView): IdentityRow[] {
  return [...agent.snapshot().identities.values()]
    .filter(({ id }) => id >= firstIdentity)
    .map(({ id, labels }) => ({ id, labels: labelsToText(labels) }))
    .sort((a, b) => a.id - b.id)
}

function policyView(agent: ApiView): PolicyView {
  const { revision, policies, warnings, refused } = agent.policySet()
  const endpoints = endpointRows(agent)
  return {
    revision,
    policies: policies.map(({ kind, name, file, rules }) => ({
      kind,
      name,
      file,
      'egress-rules': rules.filter((rule) => rule.direction === 'egress').length,
      'ingress-rules': rules.filter((rule) => rule.direction === 'ingress').length,
      endpoints: endpoints
        .filter((endpoint) => endpoint.policies.includes(name))
        .map((endpoint) => `${endpoint.namespace}/${endpoint.name}`),
    })),
    warnings: warnings.map(issueToText),
    refused: refused.map(issueToText),
  }
}

function statusView(agent: ApiView): StatusView {
  const troubles = agent.troubles()
  const { revision, policies, refused } = agent.policySet()
  return {
    ready: troubles.length === 0,
    troubles,
    revision,
    endpoints: agent.snapshot().endpoints.length,
    policies: policies.length,
    leases: agent.leases.size(),
    'dns-port': agent.port,
    refused: refused.length,
    ...restartView(agent),
  }
}

function restartView({ succession }: ApiView): Pick<StatusView, 'process' | 'restart' | 'restart-fault'> {
  const state: SuccessionState = succession?.state() ?? { kind: 'impossible', why: 'there is one process only (restart: none); stop it and start it again' } // prettier-ignore
  return { process: process.pid, restart: state.kind, ...('why' in state ? { 'restart-fault': state.why } : {}) }
}

/** Names under which this API may be addressed over TCP; any other means a browser was led here (DNS rebinding). */
function isLocalHost(hostname: string): boolean {
  if (['localhost', '[::1]'].includes(hostname.toLowerCase())) return true
  return hostname.startsWith('127.') && addressFromText(hostname) !== undefined
}

/**
 * How requests are looked at before anything else. `open`: whoever gets here may ask (a unix socket, a client's certificate). `local`: loopback,
 * where the Host header must name this machine. Else the token must be shown.
 */
export type Guard = 'open' | 'local' | TokenTest

export function makeApi(agent: ApiView, guard: Guard): FastifyInstance {
  const app = Fastify({
    bodyLimit: bodyOctetsMax,
    requestTimeout: requestMillisMax,
    forceCloseConnections: true,
  })
  const bad = (reply: FastifyReply, error: string): FastifyReply => reply.code(400).send({ error })
  app.setErrorHandler(async (error: Error & { statusCode?: number }, _request, reply) =>
    reply.code(error.statusCode ?? 500).send({ error: error.message }),
  )
  app.setNotFoundHandler(async ({ method, url }, reply) =>
    reply.code(404).send({ error: `there is no ${method} ${url}; there is ${routes.join(', ')}` }),
  )
  if (typeof guard === 'function')
    app.addHook('onRequest', async ({ headers: { authorization } }, reply) => {
      if (!guard(authorization))
        await reply
          .code(401)
          .header('www-authenticate', 'Bearer')
          .send({ error: 'the token of api.tokenFile is required' })
    })
  if (guard === 'local')
    app.addHook('onRequest', async (request, reply) => {
      const { hostname } = request
      if (!isLocalHost(hostname))
        await reply.code(403).send({ error: `this API is not served under the name ${hostname}` })
      // Whoever is on this host reaches it: nobody of them is to keep the agent from having a standby.
      else if (request.method === 'PUT')
        await reply.code(403).send({ error: 'over TCP this needs api.tokenFile; use the socket (api.socket)' })
    })
  app.addHook('preHandler', async ({ method, query, routeOptions: { url } }, reply) => {
    if (url?.startsWith('/v1/') !== true) return undefined
    const allowed = parametersOf(`${method === 'HEAD' ? 'GET' : method} ${url}`)
    const complaint = checkParameters(query as Record<string, unknown>, allowed)
    if (complaint !== undefined) return bad(reply, complaint)
    return undefined
  })

  app.get('/healthz', async (_request, reply) => {
    const troubles = agent.troubles()
    return reply.code(troubles.length === 0 ? 200 : 503).send({ ok: troubles.length === 0, troubles })
  })
  app.get('/metrics', async (_request, reply) =>
    reply.type('text/plain; version=0.0.4; charset=utf-8').send(await agent.metrics.text()),
  )
  app.get('/v1/status', async () => statusView(agent))
  app.get('/v1/fqdn/cache', async (request, reply) => {
    const { limit, offset, ...filters } = request.query as Record<string, string>
    const filter = readFilter(filters, agent.clock)
    const page = readPage({ ...(limit === undefined ? {} : { limit }), ...(offset === undefined ? {} : { offset }) })
    if (!filter.ok) return bad(reply, filter.error)
    if (typeof page === 'string') return bad(reply, page)
    return reply.type('application/json; charset=utf-8').send(Readable.from(cacheText(agent, filter.matches, page)))
  })
  app.get('/v1/fqdn/cache/watch', async (request, reply) => {
    const filter = readFilter(request.query as Record<string, string>, agent.clock)
    if (!filter.ok) return bad(reply, filter.error)
    const gone = new AbortController()
    reply.raw.once('close', () => gone.abort())
    return reply.type('text/event-stream').send(Readable.from(leaseEvents(agent.observer, agent.clock, filter.matches, gone.signal))) // prettier-ignore
  })
  app.get('/v1/fqdn/names', async () => nameRows(agent.policySet().policies, agent.leases.list()))
  app.get('/v1/policy/selectors', async () => selectorRows(agent.policySet().policies, agent.snapshot()))
  app.get('/v1/openapi', async () => openApiDocument(version))
  app.get('/v1/verdict', async (request, reply) => {
    const query = readWhyQuery(request.query as Record<string, string>, agent.snapshot())
    return query.ok ? answerVerdict(agent, query) : bad(reply, query.error)
  })
  app.delete('/v1/fqdn/cache', async (request, reply) => {
    const filter = readFilter(request.query as Record<string, string>, agent.clock)
    return filter.ok ? { deleted: await agent.cleanLeases(filter.matches) } : bad(reply, filter.error)
  })
  app.put('/v1/restart', async (_request, reply) => {
    agent.succession?.ask()
    const view = restartView(agent)
    return view.restart === 'impossible' ? reply.code(409).send({ error: view['restart-fault'] }) : view
  })
  app.get('/v1/identity', async () => identityRows(agent))
  app.get('/v1/identity/:id', async (request, reply) => {
    const { id } = request.params as { id: string }
    const row = identityRows(agent).find((identity) => String(identity.id) === id)
    return row ?? reply.code(404).send({ error: `there is no identity ${id}` })
  })
  app.get('/v1/endpoint', async () => endpointRows(agent))
  app.get('/v1/policy', async () => policyView(agent))
  app.get('/v1/flows', async (request, reply) => {
    const query = readFlowQuery(request.query as Record<string, string>, agent.observer.place)
    if (!query.ok) return bad(reply, query.error)
    const gone = new AbortController()
    reply.raw.once('close', () => gone.abort())
    return reply.type('application/x-ndjson').send(Readable.from(flowLines(agent.observer, query, gone.signal)))
  })
  app.get('/v1/why', async (request, reply) => {
    const query = readWhyQuery(request.query as Record<string, string>, agent.snapshot())
    return query.ok ? answerWhy(agent, query) : bad(reply, query.error)
  })
  return app
}
