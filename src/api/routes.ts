// The inspection endpoint's routes. Fields are named as in Cilium's agent API where it has them.
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import type { Agent } from '../agent.ts'
import { wallTime } from '../clock.ts'
import { labelsToText } from '../identity/labels.ts'
import type { Lease } from '../leases/leases.ts'
import { checkPattern, readPattern } from '../match/pattern.ts'
import { makeTrie } from '../match/trie.ts'
import { addressToText } from '../net/address.ts'
import { prefixFromText, rangeCovers } from '../net/prefix.ts'
import { issueToText } from '../policy/field.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'

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
}

export interface IdentityRow {
  readonly id: number
  readonly labels: readonly string[]
}

export interface PolicyView {
  readonly revision: number
  readonly policies: readonly {
    readonly name: string
    readonly file: string
    readonly 'egress-rules': number
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
}

/** Every route, for documentation and the test that holds the two together. */
export const routes = [
  'GET /healthz',
  'GET /metrics',
  'GET /v1/status',
  'GET /v1/fqdn/cache',
  'DELETE /v1/fqdn/cache',
  'GET /v1/identity',
  'GET /v1/identity/:id',
  'GET /v1/endpoint',
  'GET /v1/policy',
] as const

const bodyOctetsMax = 64 * 1024
const requestMillisMax = 10_000

/** Lets a lease pass, or says what is wrong with the filters. */
type Filter =
  { readonly ok: true; readonly matches: (lease: Lease) => boolean } | { readonly ok: false; readonly error: string }

/** The filters of a query. Unknown ones are an error: a misspelt filter must not clean everything. */
function readFilter(query: Readonly<Record<string, unknown>>, allowed: readonly string[]): Filter {
  const tests: ((lease: Lease) => boolean)[] = []
  for (const [key, value] of Object.entries(query)) {
    if (!allowed.includes(key))
      return { ok: false, error: `unknown parameter "${key}"; there is ${allowed.join(', ')}` }
    if (typeof value !== 'string') return { ok: false, error: `${key} is given twice` }
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
    } else tests.push((lease) => lease.source === value)
  }
  return { ok: true, matches: (lease) => tests.every((test) => test(lease)) }
}

export function cacheRows(agent: Agent, matches: (lease: Lease) => boolean): CacheRow[] {
  const groups = new Map<string, Lease[]>()
  for (const lease of agent.leases.list()) {
    if (!matches(lease)) continue
    const key = `${lease.identity} ${lease.endpoint} ${lease.name} ${lease.learnedAt} ${lease.deadline}`
    groups.set(key, [...(groups.get(key) ?? []), lease])
  }
  return [...groups.values()].flatMap((leases) => {
    const [first] = leases
    if (first === undefined) return []
    const row: CacheRow = {
      fqdn: first.name === '.' ? '.' : `${first.name}.`,
      ips: leases.map((lease) => addressToText(lease.address)),
      ttl: first.ttlSeconds,
      'lookup-time': wallTime(agent.clock, first.learnedAt).toISOString(),
      'expiration-time': wallTime(agent.clock, first.deadline).toISOString(),
      'endpoint-id': first.endpoint,
      source: first.source,
      identity: first.identity,
      'remaining-seconds': Math.round((first.deadline - agent.clock()) / 1000),
    }
    return [row]
  })
}

export function endpointRows(agent: Agent): EndpointRow[] {
  const snapshot = agent.snapshot()
  return snapshot.endpoints.map(({ id, namespace, name, identity, addresses }) => {
    const { selectedBy, defaultDeny } = snapshot.policyOf(identity)
    return {
      id,
      namespace,
      name,
      identity,
      addresses: addresses.map(addressToText),
      policies: selectedBy,
      'egress-default-deny': defaultDeny,
    }
  })
}

export function identityRows(agent: Agent): IdentityRow[] {
  return [...agent.snapshot().identities.values()]
    .map(({ id, labels }) => ({ id, labels: labelsToText(labels) }))
    .sort((a, b) => a.id - b.id)
}

function policyView(agent: Agent): PolicyView {
  const { revision, policies, warnings, refused } = agent.policySet()
  const endpoints = endpointRows(agent)
  return {
    revision,
    policies: policies.map(({ name, file, egress }) => ({
      name,
      file,
      'egress-rules': egress.length,
      endpoints: endpoints
        .filter((endpoint) => endpoint.policies.includes(name))
        .map((endpoint) => `${endpoint.namespace}/${endpoint.name}`),
    })),
    warnings: warnings.map(issueToText),
    refused: refused.map(issueToText),
  }
}

function statusView(agent: Agent): StatusView {
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
  }
}

/** Names under which this API may be addressed over TCP; any other means a browser was led here (DNS rebinding). */
const localHosts = ['localhost', '127.0.0.1', '[::1]']

/** @param overTcp whether requests come over TCP: then the Host header must name this machine. */
export function makeApi(agent: Agent, overTcp: boolean): FastifyInstance {
  const app = Fastify({ bodyLimit: bodyOctetsMax, requestTimeout: requestMillisMax, forceCloseConnections: true })
  if (overTcp)
    app.addHook('onRequest', async (request, reply) => {
      const { hostname } = request
      if (!localHosts.includes(hostname))
        await reply.code(403).send({ error: `this API is not served under the name ${hostname}` })
    })
  const bad = (reply: FastifyReply, error: string): FastifyReply => reply.code(400).send({ error })

  app.get('/healthz', async (_request, reply) => {
    const troubles = agent.troubles()
    return reply.code(troubles.length === 0 ? 200 : 503).send({ ok: troubles.length === 0, troubles })
  })
  app.get('/metrics', async (_request, reply) =>
    reply.type('text/plain; version=0.0.4; charset=utf-8').send(await agent.metrics.text()),
  )
  app.get('/v1/status', async () => statusView(agent))
  app.get('/v1/fqdn/cache', async (request, reply) => {
    const filter = readFilter(request.query as Record<string, unknown>, ['matchpattern', 'cidr', 'identity', 'source'])
    return filter.ok ? cacheRows(agent, filter.matches) : bad(reply, filter.error)
  })
  app.delete('/v1/fqdn/cache', async (request, reply) => {
    const filter = readFilter(request.query as Record<string, unknown>, ['matchpattern'])
    return filter.ok ? { deleted: await agent.cleanLeases(filter.matches) } : bad(reply, filter.error)
  })
  app.get('/v1/identity', async () => identityRows(agent))
  app.get('/v1/identity/:id', async (request, reply) => {
    const { id } = request.params as { id: string }
    const row = identityRows(agent).find((identity) => String(identity.id) === id)
    return row ?? reply.code(404).send({ error: `there is no identity ${id}` })
  })
  app.get('/v1/endpoint', async () => endpointRows(agent))
  app.get('/v1/policy', async () => policyView(agent))
  return app
}
