// What the routes answer, as JSON Schema (2020-12, which OpenAPI 3.1 takes as it stands). Objects are closed: what is not named is not there.

export type Schema = Readonly<Record<string, unknown>>
type Fields = Readonly<Record<string, Schema>>

const text: Schema = { type: 'string' }
const integer: Schema = { type: 'integer' }
const flag: Schema = { type: 'boolean' }
const time: Schema = { type: 'string', format: 'date-time' }
const oneOf = (...values: readonly string[]): Schema => ({ type: 'string', enum: values })
const list = (items: Schema): Schema => ({ type: 'array', items })
const texts = list(text)
/** @param may fields that may be absent. */
const object = (fields: Fields, may: Fields = {}): Schema => ({ type: 'object', properties: { ...fields, ...may }, required: Object.keys(fields), additionalProperties: false }) // prettier-ignore

const why = object(
  { text },
  { policy: text, policyKind: text, rule: text, source: text, conflict: flag, audited: flag },
)
const verdict = oneOf('allowed', 'denied', 'audited', 'redirect')
const direction = object({ verdict, why: list(why) })
const link = object(
  { link: oneOf('endpoint', 'policy', 'question', 'lookup', 'lease', 'kernel', 'egress', 'ingress', 'seen'), text },
  { holds: flag, why },
)

const restart = oneOf('idle', 'under way', 'failed', 'impossible')
const identity = object({ id: integer, labels: texts })
const policy = object({ kind: text, name: text, file: text, 'egress-rules': integer, 'ingress-rules': integer, endpoints: texts }) // prettier-ignore

/** Names as in Hubble's `flow.proto`. */
const end = object({ identity: integer, labels: texts }, { ID: integer, namespace: text, pod_name: text, cluster_name: text }) // prettier-ignore
const ports = object({ source_port: integer, destination_port: integer })
const flags = object({}, { FIN: flag, SYN: flag, RST: flag, PSH: flag, ACK: flag, URG: flag, ECE: flag, CWR: flag })
const icmp = object({ type: integer, code: integer })
const l4 = object({}, { TCP: object({ source_port: integer, destination_port: integer }, { flags }), UDP: ports, SCTP: ports, ICMPv4: icmp, ICMPv6: icmp }) // prettier-ignore
const dns = object({ query: text, observation_source: text, qtypes: texts }, { ips: texts, ttl: integer, rcode: integer, rrtypes: texts }) // prettier-ignore
const deciders = list(object({ name: text }, { namespace: text, kind: text }))
/** What the proxy is shown as. */
const service = object({ name: text })
const flow = object(
  {
    time,
    verdict: oneOf('FORWARDED', 'DROPPED', 'ERROR', 'AUDIT', 'REDIRECTED'),
    source: end,
    destination: end,
    Type: oneOf('L3_L4', 'L7'),
    node_name: text,
    event_type: object({ type: integer }, { sub_type: integer }),
    traffic_direction: oneOf('INGRESS', 'EGRESS'),
    Summary: text,
  },
  {
    drop_reason: integer,
    drop_reason_desc: text,
    IP: object({ ipVersion: oneOf('IPv4', 'IPv6') }, { source: text, destination: text }),
    l4,
    l7: object({ type: oneOf('REQUEST', 'RESPONSE'), dns }, { latency_ns: text }),
    source_names: texts,
    destination_names: texts,
    reply: flag,
    source_service: service,
    destination_service: service,
    policy_match_type: integer,
    is_reply: flag,
    policy_log: texts,
    egress_allowed_by: deciders,
    egress_denied_by: deciders,
    ingress_allowed_by: deciders,
    ingress_denied_by: deciders,
  },
)
const lostEvents = object({ source: oneOf('HUBBLE_RING_BUFFER', 'PERF_EVENT_RING_BUFFER'), num_events_lost: text })

/** Every answer that says no; while the agent starts with what `/healthz` has beside it. */
export const errorSchema: Schema = object({ error: text }, { ok: flag, troubles: texts })

/** By route; of answers that are streams, one line of it, or what one event says. */
export const schemas: Readonly<Record<string, Schema>> = {
  'GET /healthz': object({ ok: flag, troubles: texts }, { error: text }),
  'GET /metrics': text,
  'GET /v1/openapi': { type: 'object', properties: { openapi: text, info: object({ title: text, version: text }), paths: { type: 'object' } }, required: ['openapi', 'info', 'paths'] },
  'GET /v1/status': object({ ready: flag, troubles: texts, revision: integer, endpoints: integer, policies: integer, leases: integer, 'dns-port': integer, refused: integer, process: integer, restart }, { 'restart-fault': text }),
  'PUT /v1/restart': object({ process: integer, restart }, { 'restart-fault': text }),
  'GET /v1/fqdn/cache': list(object({ fqdn: text, ips: texts, ttl: integer, 'lookup-time': time, 'expiration-time': time, 'endpoint-id': integer, source: oneOf('lookup', 'connection'), identity: integer, state: oneOf('alive', 'zombie'), why: text, 'remaining-seconds': integer })),
  'DELETE /v1/fqdn/cache': object({ deleted: integer }),
  'GET /v1/fqdn/cache/watch': { oneOf: [object({ fqdn: text, ips: texts, identity: integer, 'endpoint-id': integer, ttl: integer, 'remaining-seconds': integer, time }), object({ flows: integer })] },
  'GET /v1/fqdn/names': list(object({ field: oneOf('matchName', 'matchPattern'), selector: text, users: texts, leases: integer })),
  'GET /v1/identity': list(identity),
  'GET /v1/identity/:id': identity,
  'GET /v1/endpoint': list(object({ id: integer, namespace: text, name: text, identity: integer, addresses: texts, policies: texts, 'egress-default-deny': flag, 'ingress-default-deny': flag })),
  'GET /v1/policy': object({ revision: integer, policies: list(policy), warnings: texts, refused: texts }),
  'GET /v1/policy/selectors': list(object({ selector: text, identities: list(integer), users: texts })),
  'GET /v1/verdict': object({ verdict, egress: direction, ingress: direction }),
  'GET /v1/why': object({ from: text, to: text, verdict: oneOf('allowed', 'audited', 'denied'), text, chain: list(link) }, { missing: text, direction: oneOf('egress', 'ingress'), by: why, rule: text, advice: text }),
  'GET /v1/flows': object({ node_name: text, time }, { flow, lost_events: lostEvents }),
} // prettier-ignore
