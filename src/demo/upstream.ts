// The embedded upstream: a resolver for a folder of zone files, on dns2.
import dns2 from 'dns2'
import { Type } from '../wire/codes.ts'
import { lookUp, readZones, type Zones, type ZoneRecord } from './zones.ts'

export interface EmbeddedUpstream {
  readonly zones: Zones
  readonly close: () => Promise<void>
}

/** What dns2 encodes: a record with the fields of its type. Its own types know fewer fields than its encoder writes. */
type Resource = Record<string, unknown> & { name: string; type: number; class: number; ttl: number }

const rcodes = { NOERROR: 0, NXDOMAIN: 3, REFUSED: 5 } as const

/** Serves the zones of a folder over UDP and TCP on an IPv4 address. Rejects when the port is taken or a zone file is wrong. */
export async function startEmbeddedUpstream(folder: string, address: string, port: number): Promise<EmbeddedUpstream> {
  const zones = readZones(folder)
  const server = dns2.createServer({
    udp: true,
    tcp: true,
    handle: (request, send) => {
      const response = dns2.Packet.createResponseFromRequest(request)
      const [question] = request.questions
      const type =
        Object.entries(Type).find(([, number]) => number === (question as { type?: number } | undefined)?.type)?.[0] ??
        ''
      const { rcode, answers, authority } = lookUp(zones, question?.name ?? '', type)
      const header = response.header as unknown as Record<string, number>
      header['rcode'] = rcodes[rcode]
      header['ra'] = 1
      response.answers = answers.map(toResource) as unknown as typeof response.answers
      response.authorities = authority.map(toResource) as unknown as typeof response.authorities
      void send(response)
    },
  })
  server.on('requestError', () => undefined)
  const failed = new Promise<never>((_resolve, reject) => void server.on('error', reject))
  await Promise.race([server.listen({ udp: { port, address }, tcp: { port, address } }), failed])
  return { zones, close: () => Promise.resolve(server.close()).then(() => undefined) }
}

function toResource({ name, type, ttlSeconds, data }: ZoneRecord): Resource {
  const base = { name, type: Type[type as keyof typeof Type] ?? 0, class: 1, ttl: ttlSeconds }
  const [a = '', b = '', c = '', d = ''] = data
  switch (type) {
    case 'A':
    case 'AAAA':
      return { ...base, address: type === 'A' ? a : expand(a) }
    case 'NS':
      return { ...base, ns: a }
    case 'MX':
      return { ...base, priority: Number(a), exchange: b }
    case 'SRV':
      return { ...base, priority: Number(a), weight: Number(b), port: Number(c), target: d }
    case 'TXT':
      return { ...base, data: [...data] }
    case 'SOA': {
      const [serial, refresh, retry, expiration, minimum] = data.slice(2).map(Number)
      return { ...base, primary: a, admin: b, serial, refresh, retry, expiration, minimum }
    }
    default:
      return { ...base, domain: a }
  }
}

/** dns2 reads IPv6 addresses only in full, eight groups. */
function expand(text: string): string {
  const [head = '', tail] = text.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  return tail === undefined
    ? text
    : [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right].join(':')
}
