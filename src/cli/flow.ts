// Flows as people and programs describe them (one JSON object each) into questions for the engine, and verdicts into their JSON. Pure.
import type { Endpoint } from '../identity/endpoints.ts'
import type { HttpRequest } from '../l7/http.ts'
import { kafkaKeyNumber, type KafkaRequest } from '../l7/kafka.ts'
import { addressFromText, familyOf, type Address } from '../net/address.ts'
import { Protocol } from '../net/ports.ts'
import { prefixFromText } from '../net/prefix.ts'
import { nearest } from '../policy/field.ts'
import { icmpTypeOf } from '../policy/icmp.ts'
import type { Pod, World } from '../policy/rules.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'
import { labelsOfName, makeDecider, type Decision, type Flow, type Party, type VerdictKind } from '../policy/verdict.ts'
import { wireFromText } from '../wire/name.ts'

export interface DirectionAnswer {
  readonly verdict: VerdictKind
  readonly why: readonly Why[]
}

/** What the command says of one flow. */
export type Answer =
  | { readonly verdict: 'allowed' | 'denied'; readonly egress: DirectionAnswer; readonly ingress: DirectionAnswer }
  | { readonly error: string }

/** A flow that cannot be answered, and why not. */
export class FlowError extends Error {
  readonly code = 'flow'
}

/** A flow as the engine is asked: once for each address that its name leads to. */
export interface Asked {
  readonly flows: readonly [Flow, ...Flow[]]
  /** What a person must know about the question itself. */
  readonly notes: readonly Why[]
}

/** The fields of a flow and of its parts. */
const fieldsOf = {
  flow: ['from', 'to', 'protocol', 'port', 'icmpType', 'resolved', 'http', 'sni', 'dns', 'kafka'],
  http: ['method', 'path', 'host', 'headers'],
  kafka: ['apiKey', 'apiVersion', 'clientID', 'topic', 'topics'],
} as const
/** What people write for them. A protocol or a request in a field that nobody reads would be answered as if it were not there. */
const otherWords: Readonly<Record<string, string>> = {
  proto: 'protocol',
  prot: 'protocol',
  dport: 'port',
  serverName: 'sni',
  method: 'http.method',
  path: 'http.path',
  headers: 'http.headers',
  verb: 'method',
  url: 'path',
  authority: 'host',
}

/** Fields of their own that people have in flows (an id, a remark) are let be; what looks like one of ours is a mistake. */
function checkFields(fields: Record<string, unknown>, part: keyof typeof fieldsOf): void {
  const known: readonly string[] = fieldsOf[part]
  for (const key in fields) {
    if (known.includes(key)) continue
    const other = Object.hasOwn(otherWords, key) ? otherWords[key] : undefined
    const isOfHere = other !== undefined && (known.includes(other) || (part === 'flow' && other.startsWith('http.')))
    const meant = isOfHere ? other : nearest(key, known, Math.min(2, Math.floor(key.length / 4)))
    if (meant !== undefined)
      throw new FlowError(`unknown field "${part === 'flow' ? '' : `${part}.`}${key}"; did you mean "${meant}"?`)
  }
}

/** Reads flows of one world. Throws `FlowError`: this is the edge, and such a flow is one line of thousands. */
export function makeFlowReader(world: World, snapshot: Snapshot): (value: unknown) => Asked {
  const places = new Map<string, { pod: Pod; endpoint: Endpoint }>()
  for (const [i, pod] of world.pods.entries()) {
    const [name, endpoint] = [`${pod.namespace}/${pod.name}`, snapshot.endpoints[i]]
    // A Pod goes before a workload of its name.
    if (endpoint !== undefined && (pod.kind === 'Pod' || !places.has(name))) places.set(name, { pod, endpoint })
  }
  /** Where pods of that name are, for whoever leaves the namespace out. */
  const byName = new Map<string, string>()
  for (const { namespace, name } of world.pods) if (!byName.has(name)) byName.set(name, `${namespace}/${name}`)
  const services = new Map(
    world.services.flatMap(({ namespace, name, clusterIPs }) =>
      clusterIPs.map((text) => [addressFromText(text), `${namespace}/${name}`] as const),
    ),
  )
  function partyOf(text: string, what: 'from' | 'to'): { party: Party; pod?: Pod } {
    const address = text.includes('/') ? undefined : addressFromText(text)
    if (address !== undefined) return { party: { kind: 'address', address } }
    const place = places.get(text)
    if (place !== undefined) return { party: { kind: 'endpoint', endpoint: place.endpoint }, pod: place.pod }
    if (text.includes('/'))
      throw new FlowError(
        prefixFromText(text) === undefined
          ? `${what}: there is no pod or workload ${text}`
          : `${what}: ${text} is a prefix; a flow has one address`,
      )
    const full = byName.get(text)
    const hint = full === undefined ? '' : `; did you mean "${full}"?`
    throw new FlowError(
      `${what}: "${text}" is neither NAMESPACE/NAME nor an IP address${what === 'to' ? ' nor fqdn:NAME' : ''}${hint}`,
    )
  }
  /** To the cluster's address of a service no packet comes: policy sees the pods behind it. */
  function noteOfService({ party }: { readonly party: Party }): Why[] {
    const service = party.kind === 'address' ? services.get(party.address) : undefined
    return service === undefined
      ? []
      : [{ text: `this is the cluster address of Service ${service}, judged as an address of the world: policy sees the pods behind it` }]
  } // prettier-ignore

  return (value) => {
    const fields = recordOf(value, 'a flow')
    checkFields(fields, 'flow')
    const from = partyOf(textOf(fields['from'], 'from'), 'from')
    const to = textOf(fields['to'], 'to')
    const resolved = readResolved(fields['resolved'])
    const notes: Why[] = []
    let targets: { party: Party; pod?: Pod }[]
    const asked = to.startsWith('fqdn:') ? readName(to.slice('fqdn:'.length)) : undefined
    if (asked === undefined) {
      targets = [partyOf(to, 'to')]
      for (const target of targets) notes.push(...noteOfService(target))
    } else {
      const addresses = resolved.get(asked) ?? []
      if (addresses.length === 0)
        notes.push({
          text: `resolved has no address of ${asked}: judged as an address of the world that only this name leads to`,
        })
      targets = (addresses.length === 0 ? [somewhere] : addresses).map((address) => ({
        party: { kind: 'address', address },
      }))
    }
    const above = readAbove(fields)
    const flows = targets.map(({ party, pod }): Flow => {
      const names = [...resolved]
        .filter(
          ([name, addresses]) => name === asked || (party.kind === 'address' && addresses.includes(party.address)),
        )
        .map(([name]) => name)
      if (asked !== undefined && !names.includes(asked)) names.push(asked)
      return { from: from.party, to: party, ...readL4(fields, [from.party, party], pod), ...above, names }
    })
    return { flows: flows as [Flow, ...Flow[]], notes }
  }
}

/** Answers flows: `value` is one as JSON gives it. */
export function makeAnswerer(world: World, snapshot: Snapshot): (value: unknown) => Answer {
  const read = makeFlowReader(world, snapshot)
  const decide = makeDecider(snapshot)
  return (value) => {
    try {
      const { flows, notes } = read(value)
      // Of several addresses any may be used: what is said is the worst.
      const decisions = flows.map((flow) => decide(flow))
      const worst = decisions.find(({ verdict }) => verdict === 'denied') ?? decisions[0]
      return answerOf(worst, worst === undefined ? notes : [...notes, ...noteOfQuestion(snapshot, flows[0], worst)])
    } catch (error) {
      if (error instanceof FlowError) return { error: error.message }
      throw error
    }
  }
}

const dnsPort = 53

/** The agent's proxy answers questions that toFQDNs names, whether or not a rule lets them through to the resolver as Cilium asks for. */
export function noteOfQuestion(snapshot: Snapshot, { from, dns, port }: Flow, { egress }: Decision): Why[] {
  if (dns === undefined || port !== dnsPort || from.kind !== 'endpoint' || egress.verdict !== 'denied') return []
  const asked = snapshot.policyOf(from.endpoint.identity).mayAsk(labelsOfName(dns))
  return asked.kind === 'allow'
    ? [{ ...asked.why, text: `an agent answers this question all the same: ${asked.why.text}` }]
    : []
}

function answerOf(decision: Decision | undefined, notes: readonly Why[]): Answer {
  if (decision === undefined) return { error: 'there is nothing to decide' }
  const { verdict, egress, ingress } = decision
  return {
    verdict: verdict === 'denied' ? 'denied' : 'allowed',
    egress: notes.length === 0 ? egress : { ...egress, why: [...egress.why, ...notes] },
    ingress,
  }
}

/** An address that nobody has (RFC 5737): what a name leads to when nobody says where. */
const somewhere = '\xc0\0\x02\x01' as Address

function recordOf(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new FlowError(`${what} is a JSON object`)
  return value as Record<string, unknown>
}

function textOf(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new FlowError(value === undefined ? `${what} is missing` : `${what} must be a string`)
  if (value === '') throw new FlowError(`${what} is empty`)
  return value
} // prettier-ignore

/** A name without its final dot, lower case. */
function readName(text: string, what = 'fqdn'): string {
  const bare = text.endsWith('.') ? text.slice(0, -1) : text
  if (bare === '') throw new FlowError(`${what}: the name is missing`)
  if (bare.includes('*')) throw new FlowError(`${what}: "${text}" is a pattern; a flow has one name`)
  if (wireFromText(bare) === undefined || bare.includes(' ')) throw new FlowError(`${what}: "${text}" is not a name`)
  return bare.toLowerCase()
}

function readResolved(value: unknown): ReadonlyMap<string, readonly Address[]> {
  const resolved = new Map<string, readonly Address[]>()
  if (value === undefined || value === null) return resolved
  for (const [name, list] of Object.entries(recordOf(value, 'resolved'))) {
    const texts: unknown[] = Array.isArray(list) ? list : [list]
    const addresses = texts.map((text) => {
      const address = typeof text === 'string' ? addressFromText(text) : undefined
      if (address === undefined) throw new FlowError(`resolved: ${JSON.stringify(text)} is not an address of ${name}`)
      return address
    })
    const known = readName(name, 'resolved')
    resolved.set(known, [...(resolved.get(known) ?? []), ...addresses])
  }
  return resolved
}

/** IANA numbers of what has a name here; others are given by number. */
const protocols: Readonly<Record<string, number>> = {
  TCP: 6,
  UDP: 17,
  SCTP: 132,
  ICMP: 1,
  ICMPV4: 1,
  ICMPV6: 58,
  IGMP: 2,
  IPIP: 4,
  IPV6: 41,
  GRE: 47,
  ESP: 50,
  AH: 51,
  VRRP: 112,
}
const protocolWords = [...Object.keys(protocols).filter((word) => !word.startsWith('ICMPV')), 'ICMPv6'].join(', ')
const ported: readonly number[] = Object.values(Protocol)

function readL4(
  fields: Record<string, unknown>,
  parties: readonly Party[],
  pod: Pod | undefined,
): Pick<Flow, 'protocol' | 'port' | 'icmpType'> {
  const protocol = readProtocol(fields['protocol'], parties)
  if (protocol === 1 || protocol === 58) {
    // A type that is not said is that of a ping.
    const type = fields['icmpType'] ?? fields['port'] ?? (protocol === 1 ? 8 : 128)
    const named = typeof type === 'string' ? icmpTypeOf(protocol === 1 ? 4 : 6, type) : undefined
    return { protocol, icmpType: named ?? readNumber(type, 'icmpType', 255) }
  }
  if (!ported.includes(protocol)) return { protocol }
  const port = fields['port']
  if (port === undefined || port === null) throw new FlowError('port is missing')
  if (typeof port === 'string' && Number.isNaN(Number(port))) {
    const named = pod?.ports.find((each) => each.name === port && each.protocol === protocol)
    if (named === undefined) throw new FlowError(`port: the destination has no port named "${port}"`)
    return { protocol, port: named.port }
  }
  return { protocol, port: readNumber(port, 'port', 65_535) }
}

function readProtocol(value: unknown, parties: readonly Party[]): number {
  if (value === undefined || value === null) return Protocol.TCP
  if (typeof value === 'number') return readNumber(value, 'protocol', 255)
  const word = textOf(value, 'protocol').toUpperCase()
  const number = protocols[word] ?? (Number.isNaN(Number(word)) ? undefined : readNumber(Number(word), 'protocol', 255))
  if (number === undefined)
    throw new FlowError(`protocol: "${textOf(value, 'protocol')}" is none of ${protocolWords}, nor a number`)
  const addresses = parties.flatMap((party) =>
    party.kind === 'address' ? [party.address] : party.kind === 'endpoint' ? party.endpoint.addresses.slice(0, 1) : [],
  )
  const isSix =
    parties.some((party) => party.kind === 'address' && familyOf(party.address) === 6) ||
    (addresses.length > 0 && addresses.every((address) => familyOf(address) === 6))
  return word === 'ICMP' && isSix ? 58 : number
}

function readNumber(value: unknown, what: string, most: number): number {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 0 || number > most)
    throw new FlowError(`${what} must be a whole number from 0 to ${most}`)
  return number
}

function readAbove(fields: Record<string, unknown>): Pick<Flow, 'http' | 'kafka' | 'sni' | 'dns'> {
  const { http, kafka, sni, dns } = fields
  const isGiven = (value: unknown): boolean => value !== undefined && value !== null
  return {
    ...(isGiven(http) ? { http: readHttp(http) } : {}),
    ...(isGiven(kafka) ? { kafka: readKafka(kafka) } : {}),
    ...(isGiven(sni) ? { sni: textOf(sni, 'sni') } : {}),
    ...(isGiven(dns) ? { dns: readQuestion(dns) } : {}),
  }
}

/** The name that is asked; `.` is the root. */
function readQuestion(value: unknown): string {
  const text = textOf(typeof value === 'object' ? recordOf(value, 'dns')['query'] : value, 'dns')
  return text === '.' ? text : readName(text, 'dns')
}

function readHttp(value: unknown): HttpRequest {
  const fields = recordOf(value, 'http')
  checkFields(fields, 'http')
  const part = (key: string): string | undefined =>
    fields[key] === undefined ? undefined : textOf(fields[key], `http.${key}`)
  const headers = fields['headers']
  return {
    method: part('method'),
    path: part('path'),
    host: part('host'),
    headers: headers === undefined ? [] : readHeaders(headers),
  }
}

/** `{name: value}`, `{name: [values]}` or `[[name, value]]`. */
function readHeaders(value: unknown): [string, string][] {
  const pairs: [unknown, unknown][] = Array.isArray(value)
    ? value.map((pair): [unknown, unknown] => (Array.isArray(pair) ? [pair[0], pair[1]] : [undefined, undefined]))
    : Object.entries(recordOf(value, 'http.headers')).flatMap(([name, text]) =>
        Array.isArray(text) ? text.map((each): [string, unknown] => [name, each]) : [[name, text] as [string, unknown]],
      )
  return pairs.map(([name, text]) => {
    if (typeof name !== 'string' || typeof text !== 'string') throw new FlowError('http.headers is {"name": "value"}')
    return [name, text]
  })
}

function readKafka(value: unknown): KafkaRequest {
  const fields = recordOf(value, 'kafka')
  checkFields(fields, 'kafka')
  const { apiKey, apiVersion, clientID, topic, topics } = fields
  const key = typeof apiKey === 'string' ? kafkaKeyNumber(apiKey) : apiKey
  if (key === undefined)
    throw new FlowError(
      apiKey === undefined
        ? 'kafka.apiKey is missing'
        : `kafka.apiKey: "${textOf(apiKey, 'kafka.apiKey')}" is not known`,
    )
  const list: unknown[] = Array.isArray(topics) ? topics : topic === undefined ? [] : [topic]
  return {
    apiKey: readNumber(key, 'kafka.apiKey', 32_767),
    apiVersion: apiVersion === undefined ? 0 : readNumber(apiVersion, 'kafka.apiVersion', 32_767),
    clientID: clientID === undefined ? '' : textOf(clientID, 'kafka.clientID'),
    topics: list.map((each) => textOf(each, 'kafka.topic')),
  }
}
