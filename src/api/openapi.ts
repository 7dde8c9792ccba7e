// The table of the inspection endpoint's routes, and the OpenAPI document that is made of it.
import { errorSchema, schemas, type Schema } from './schemas.ts'

interface RouteFacts {
  readonly summary: string
  /** Query parameters, with what they mean. */
  readonly query?: Readonly<Record<string, string>>
  readonly required?: readonly string[]
  readonly type?: 'text/plain' | 'application/x-ndjson' | 'text/event-stream'
}

const filters = {
  matchpattern: 'only names that match, as toFQDNs matchPattern does',
  cidr: 'only addresses inside',
  identity: 'only of this identity',
  source: 'only from this source: lookup or connection',
}

const ends = {
  from: 'NAMESPACE/POD, POD, or addresses with commas between, of which the first that a workload has counts',
  to: 'NAME, IP, [IPv6] or NAMESPACE/POD, with :PORT (443 unless said)',
  protocol: 'tcp (unless said), udp, sctp or icmp',
}

export const routeTable: Readonly<Record<string, RouteFacts>> = {
  'GET /healthz': { summary: 'Whether the agent does its job; 503 with reasons when not.' },
  'GET /metrics': { summary: 'Numbers for Prometheus.', type: 'text/plain' },
  'GET /v1/openapi': { summary: 'This document.' },
  'GET /v1/status': { summary: 'What stands: revision, endpoints, policies, leases, troubles.' },
  'GET /v1/fqdn/cache': {
    summary: 'Leases by name and identity, a page of them where a limit is given.',
    query: { ...filters, limit: 'rows at most', offset: 'rows to pass over; what comes or goes meanwhile shifts them' },
  },
  'DELETE /v1/fqdn/cache': {
    summary: 'Takes leases out of the cache and the kernel.',
    query: { matchpattern: filters.matchpattern },
  },
  // PUT, which browsers send for no page of somebody else's without asking first.
  'PUT /v1/restart': {
    summary:
      "Has a process of the code and configuration on disk take this one's place, without a question lost; `GET /v1/status` says what becomes of it.",
  },
  'GET /v1/fqdn/cache/watch': {
    summary:
      'Server-sent events from now on: learned, renewed, zombie (kept by a connection), expired, evicted (before its grace was over, for want of room), revoked.',
    query: { matchpattern: filters.matchpattern, cidr: filters.cidr, identity: filters.identity },
    type: 'text/event-stream',
  },
  'GET /v1/fqdn/names': { summary: 'The names that policies name, by whom, and how many leases they have.' },
  'GET /v1/identity': { summary: 'Identities in use, with their labels.' },
  'GET /v1/identity/:id': { summary: 'One identity.' },
  'GET /v1/endpoint': { summary: 'Workloads.' },
  'GET /v1/policy': { summary: 'Policies in force, and what is wrong with newer ones that were refused.' },
  'GET /v1/policy/selectors': { summary: 'What policies select by, whom that selects now, and which policies do.' },
  'GET /v1/verdict': { summary: 'The verdict on one flow, both directions.', query: ends, required: ['from', 'to'] },
  'GET /v1/why': {
    summary: 'Why a flow passes or not: the chain of facts, the missing link, the smallest rule.',
    query: ends,
    required: ['from', 'to'],
  },
  'GET /v1/flows': {
    summary: 'Flows in the form of `hubble observe -o json`, a line each.',
    query: {
      last: 'the newest so many (20 unless said)',
      first: 'the oldest so many',
      since: 'from this time on (RFC 3339)',
      until: 'up to this time',
      follow: 'true: go on with what comes',
      allow: "a JSON list of Hubble's FlowFilters, of which one must match",
      deny: 'a list of which none may',
    },
    type: 'application/x-ndjson',
  },
}

const contents: Readonly<Record<NonNullable<RouteFacts['type']> | 'application/json', string>> = {
  'application/json': 'what was asked for',
  'text/plain': "in Prometheus' form",
  'application/x-ndjson': 'JSON, a line each: the schema is that of a line',
  'text/event-stream': "events; the schema is that of an event's data, which is one line of JSON",
}

/** The OpenAPI 3.1 document. */
export function openApiDocument(version: string): Readonly<Record<string, unknown>> {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const [route, facts] of Object.entries(routeTable)) {
    const [method = '', path = ''] = route.split(' ')
    const inPath = path.split('/').flatMap((part) => (part.startsWith(':') ? [part.slice(1)] : []))
    const text = { type: 'string' }
    const parameters = [
      ...inPath.map((name) => ({ name, in: 'path', required: true, schema: text })),
      ...Object.entries(facts.query ?? {}).map(([name, description]) => ({ name, in: 'query', required: facts.required?.includes(name) === true, description, schema: text })), // prettier-ignore
    ]
    const type = facts.type ?? 'application/json'
    const said = (description: string, type: string, schema: Schema = {}): unknown => ({ description, content: { [type]: { schema } } }) // prettier-ignore
    const key = inPath.reduce((all, name) => all.replace(`:${name}`, `{${name}}`), path)
    paths[key] = {
      ...paths[key],
      [method.toLowerCase()]: {
        summary: facts.summary,
        parameters,
        responses: {
          200: said(contents[type], type, schemas[route]),
          ...(route === 'GET /healthz' ? { 503: said('`troubles` say why not', type, schemas[route]) } : {}),
          default: said('`error` says what is wrong', 'application/json', errorSchema),
        },
      },
    }
  }
  return { openapi: '3.1.0', info: { title: 'namegate', version }, paths }
}
