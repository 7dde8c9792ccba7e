// Hubble's Observer, Peer and health services over gRPC, for the `hubble` command, Hubble UI and Relay.
import { once } from 'node:events'
import { chmod, mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  loadPackageDefinition,
  logVerbosity,
  Metadata,
  Server,
  ServerCredentials,
  setLogVerbosity,
  status as Status,
  type GrpcObject,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceClientConstructor,
} from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import type { Tls } from '../../api/access.ts'
import { clearSocket } from '../../api/serve.ts'
import { addressToText } from '../../net/address.ts'
import { socketError } from '../../socketError.ts'
import { compileFilters, type FlowFilter, type Place } from '../filters.ts'
import { isHubbleFlow, type LeaseFlow } from '../flow.ts'
import type { Observer } from '../observer.ts'
import type { Range } from '../range.ts'
import { readRange } from '../read.ts'
import type { Entry } from '../ring.ts'
import { flowMessage, masked, timestampOf, type Message } from './message.ts'

/** `address`: `127.0.0.1:4244` or `unix:/path`. With `clientCa`, clients must show a certificate of that. */
export interface HubblePlace {
  readonly address: string
  readonly tls?: Tls
}

export interface ServedHubble {
  /** The port of each place that has one. */
  readonly ports: readonly number[]
  readonly close: () => Promise<void>
}

/** What the server says of its program; not Hubble's version, by which clients would judge what it can. */
export interface About {
  readonly version: string
}

/** Streams open at a time, over all clients: each costs a place in the ring and what the transport holds. */
const streamsMax = 256
interface WireTimestamp {
  readonly seconds: string | number
  readonly nanos?: number
}
interface FlowsRequest {
  readonly number?: string
  readonly follow?: boolean
  readonly first?: boolean
  readonly blacklist?: readonly FlowFilter[]
  readonly whitelist?: readonly FlowFilter[]
  readonly since?: WireTimestamp | null
  readonly until?: WireTimestamp | null
  readonly field_mask?: { readonly paths?: readonly string[] } | null
}

const protoFolder = fileURLToPath(new URL('.', import.meta.url))
/** The services, for the server and for clients in tests. */
export function loadHubble(): GrpcObject {
  const files = ['observer.proto', 'peer.proto', 'health.proto']
  return loadPackageDefinition(
    loadSync(files, { includeDirs: [protoFolder], keepCase: true, longs: String, enums: String, oneofs: true }),
  )
}
function serviceOf(root: GrpcObject, path: string): ServiceClientConstructor['service'] {
  let here: unknown = root
  for (const part of path.split('.')) here = (here as Record<string, unknown>)[part]
  return (here as ServiceClientConstructor).service
}

type Call = ServerWritableStream<FlowsRequest, Message>
type Failure = Error & { readonly code: Status }
const failure = (code: Status, text: string): Failure => Object.assign(new Error(text), { code })

export interface ClaimedHubble extends ServedHubble {
  /** From now on this is what is shown. */
  readonly serve: (observer: Observer) => void
}

/** Serves at each place; rejects like `claimHubble`. */
export async function serveHubble(
  observer: Observer,
  places: readonly HubblePlace[],
  about: About,
): Promise<ServedHubble> {
  const claimed = await claimHubble(places, about)
  claimed.serve(observer)
  return claimed
}

/**
 * Takes the places given, before there is anything to be shown: until then every call is answered UNAVAILABLE, upon which clients try again.
 * Rejects with `SocketError` when one cannot be had, and then holds nothing.
 */
export async function claimHubble(places: readonly HubblePlace[], { version }: About): Promise<ClaimedHubble> {
  // What it has to say of sockets is in the error that we tell.
  setLogVerbosity(logVerbosity.NONE)
  const root = loadHubble()
  const server = new Server({ 'grpc.max_receive_message_length': 1 << 20, 'grpc.keepalive_time_ms': 30_000 })
  const closing = new AbortController()
  let streams = 0
  let shown: Observer | undefined
  const starting = failure(Status.UNAVAILABLE, 'the agent is starting')
  const nodeOf = ({ place }: Observer): string => `${place.cluster}/${place.node}`
  const announced = announcedOf(places)

  const unary = (answer: (observer: Observer) => Message) => (_call: ServerUnaryCall<unknown, Message>, done: sendUnaryData<Message>): void => (shown === undefined ? done(starting) : done(null, answer(shown)))
  const stream = (serve: (observer: Observer, call: Call, signal: AbortSignal) => Promise<void>) => (call: Call): void => {
    if (shown === undefined) {
      call.emit('error', starting)
      return
    }
    if (streams >= streamsMax) {
      call.emit('error', failure(Status.RESOURCE_EXHAUSTED, `${streamsMax} streams are open`))
      return
    }
    streams++
    const gone = new AbortController()
    const over = (): void => gone.abort()
    call.on('cancelled', over)
    closing.signal.addEventListener('abort', over, { once: true })
    serve(shown, call, gone.signal)
      .then(() => call.end())
      .catch((error: unknown) => call.emit('error', error))
      .finally(() => {
        streams--
        closing.signal.removeEventListener('abort', over)
      })
  }

  function status(observer: Observer): Message {
    const { flows, flowsMax, seen, uptimeMillis, rate } = observer.status()
    return { num_flows: flows, max_flows: flowsMax, seen_flows: seen, uptime_ns: String(Math.round(uptimeMillis * 1e6)), num_connected_nodes: { value: 1 }, num_unavailable_nodes: { value: 0 }, version, flows_rate: rate }
  }
  function nodes(observer: Observer): Message {
    const { flows, flowsMax, seen, uptimeMillis } = observer.status()
    return { nodes: [{ name: nodeOf(observer), version, address: announced.address, state: 'NODE_CONNECTED', tls: announced.tls ? { enabled: true, server_name: serverName(observer.place) } : { enabled: false }, uptime_ns: String(Math.round(uptimeMillis * 1e6)), num_flows: flows, max_flows: flowsMax, seen_flows: seen }] }
  }

  async function flows(observer: Observer, call: Call, signal: AbortSignal): Promise<void> {
    const { request } = call
    const { place } = observer
    const nodeName = nodeOf(observer)
    const filters = compileFilters(request.whitelist ?? [], request.blacklist ?? [], place)
    if (!filters.ok) throw failure(Status.INVALID_ARGUMENT, filters.error)
    const { deniedAs } = filters
    const paths = request.field_mask?.paths ?? []
    const shows = (entry: Entry): boolean => entry.kind !== 'lost' && filters.shows(entry)
    await walk(observer, call, signal, request, shows, (entry) => {
      const time = timestampOf(entry.time)
      if (entry.kind === 'lost') {
        const source = entry.source === 'ring' ? 'HUBBLE_RING_BUFFER' : 'PERF_EVENT_RING_BUFFER'
        return { lost_events: { source, num_events_lost: entry.count }, node_name: nodeName, time }
      }
      return isHubbleFlow(entry) ? { flow: masked(flowMessage(entry, place, time, deniedAs), paths), node_name: nodeName, time } : undefined
    })
  }
  /** What happens to leases: Hubble has no event for it, and shows the text of those that it does not know. */
  async function events(observer: Observer, call: Call, signal: AbortSignal): Promise<void> {
    const nodeName = nodeOf(observer)
    await walk(observer, call, signal, call.request, (entry) => entry.kind === 'lease', (entry) => entry.kind === 'lease' ? { agent_event: eventMessage(entry), node_name: nodeName, time: timestampOf(entry.time) } : undefined)
  }

  const header = (call: { sendMetadata: (metadata: Metadata) => void }): void => call.sendMetadata(new Metadata())
  async function walk({ ring }: Observer, call: Call, signal: AbortSignal, request: FlowsRequest, shows: (entry: Entry) => boolean, present: (entry: Entry) => Message | undefined): Promise<void> {
    header(call)
    for await (const message of readRange(ring, rangeOf(request), shows, present, signal))
      // Who does not read is waited for here, with its place in the ring and no more.
      if (!call.write(message) && !signal.aborted) await once(call, 'drain', { signal }).catch(() => undefined)
  }

  const observe = { GetFlows: stream(flows), GetAgentEvents: stream(events), GetNodes: unary(nodes), GetNamespaces: unary(({ namespaces, place: { cluster } }) => ({ namespaces: namespaces().map((namespace) => ({ cluster, namespace })) })), ServerStatus: unary(status) }
  server.addService(serviceOf(root, 'observer.Observer'), observe)
  server.addService(serviceOf(root, 'peer.Peer'), {
    Notify: stream(async (observer, call, signal) => {
      header(call)
      call.write({ name: nodeOf(observer), address: announced.address, type: 'PEER_ADDED', ...(announced.tls ? { tls: { server_name: serverName(observer.place) } } : {}) })
      if (!signal.aborted) await once(signal, 'abort')
    }),
  })
  const serving = { status: 'SERVING' }
  server.addService(serviceOf(root, 'grpc.health.v1.Health'), {
    Check: (call: ServerUnaryCall<{ service?: string }, Message>, done: sendUnaryData<Message>) =>
      shown === undefined ? done(starting) : servedNames.includes(call.request.service ?? '') ? done(null, serving) : done(failure(Status.NOT_FOUND, 'unknown service')),
    Watch: stream(async (_observer, call, signal) => {
      call.write(servedNames.includes((call.request as { service?: string }).service ?? '') ? serving : { status: 'SERVICE_UNKNOWN' })
      if (!signal.aborted) await once(signal, 'abort')
    }),
  })

  const ports: number[] = []
  let at = ''
  const close = async (): Promise<void> => {
    closing.abort()
    await new Promise<void>((resolve) => server.tryShutdown(() => resolve()))
  }
  try {
    for (const each of places) {
      const path = each.address.startsWith('unix:') ? each.address.slice('unix:'.length) : undefined
      at = path ?? each.address
      if (path !== undefined) {
        await mkdir(dirname(path), { recursive: true })
        await clearSocket(path)
      }
      const port = await bind(server, each)
      if (path !== undefined) await chmod(path, 0o660)
      else ports.push(port)
    }
  } catch (error) {
    server.forceShutdown()
    throw socketError("Hubble's API", at, 'observe.hubble.listen', error)
  }
  return { ports, close, serve: (observer) => void (shown = observer) }
} // prettier-ignore

/** Where others may call this node: over TCP if it can be had so, else at its socket, as Relay reads that. */
function announcedOf(places: readonly HubblePlace[]): { readonly address: string; readonly tls: boolean } {
  const isSocket = ({ address }: HubblePlace): boolean => address.startsWith('unix:')
  const place = places.find((each) => !isSocket(each)) ?? places[0]
  if (place === undefined) return { address: '', tls: false }
  const { address, tls } = place
  return { address: isSocket(place) ? `unix://${address.slice('unix:'.length)}` : address, tls: tls !== undefined }
}

/** The name that Relay looks for in a node's certificate: `*.CLUSTER.hubble-grpc.cilium.io` is what Cilium issues. */
function serverName({ cluster, node }: Place): string {
  return `${[node, cluster].map((name) => name.replaceAll('.', '-')).join('.')}.hubble-grpc.cilium.io`
}

/** The names by which clients ask whether we are well: the `hubble` command asks for the first. */
const servedNames: readonly string[] = ['hubble.server.Observer', 'observer.Observer', 'peer.Peer', '']

function bind(server: Server, { address, tls }: HubblePlace): Promise<number> {
  const credentials =
    tls === undefined
      ? ServerCredentials.createInsecure()
      : ServerCredentials.createSsl(tls.clientCa ?? null, [{ cert_chain: tls.certificate, private_key: tls.key }], tls.clientCa !== undefined) // prettier-ignore
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, port) => (error === null ? resolve(port) : reject(withCode(error))))
  })
}

/** The library puts the errno's name into the text only. */
function withCode(error: Error): Error {
  const code = ['EADDRINUSE', 'EADDRNOTAVAIL', 'EACCES'].find((each) => error.message.includes(each))
  return code === undefined ? error : Object.assign(error, { code })
}

const millisOf = (time: WireTimestamp | null | undefined): number | undefined =>
  time === null || time === undefined ? undefined : Number(time.seconds) * 1000 + (time.nanos ?? 0) / 1e6

/** Numbers so great are meant to be all. */
const everything = 2 ** 53

/** Throws a failure where the request contradicts itself. */
function rangeOf(request: FlowsRequest): Range {
  const { first = false, follow = false } = request
  if (first && follow) throw failure(Status.INVALID_ARGUMENT, 'first cannot be specified with follow')
  const [since, until] = [millisOf(request.since), millisOf(request.until)]
  const number = Number(request.number ?? 0)
  const isAll = number >= everything || (number === 0 && (since !== undefined || until !== undefined))
  return { number: isAll ? undefined : number, first, follow, since, until }
}

function eventMessage({ change, identity, endpoint, name, addresses, ttlSeconds }: LeaseFlow): Message {
  const notification = JSON.stringify({ name, addresses: addresses.map(addressToText), identity, endpoint, ttlSeconds })
  return { type: 'AGENT_EVENT_UNKNOWN', unknown: { type: `lease ${change}`, notification } }
}
