// The inspection endpoint's sockets: a unix socket guarded by file rights, and TCP: on loopback, or guarded by a token or certificates.
import { chmod, lstat, mkdir, rm } from 'node:fs/promises'
import { createServer, type RequestListener, type Server, type ServerOptions } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo, type ListenOptions } from 'node:net'
import { dirname } from 'node:path'
import { placeText, socketError } from '../socketError.ts'
import { AccessError, makeTokenTest, readTls, readToken, type TlsFiles } from './access.ts'
import { makeApi, requestMillisMax, type ApiView, type Guard } from './routes.ts'

export interface ApiPlaces {
  readonly socket: string | undefined
  readonly address: string
  /** 0 takes any free port. */
  readonly port: number | undefined
  /** Over TCP its token must be shown. */
  readonly tokenFile?: string | undefined
  readonly tls?: TlsFiles | undefined
}

export interface ServedApi {
  /** Where it answers: `unix:PATH`, `http://127.0.0.1:PORT`, `https://10.0.0.1:PORT`. */
  readonly urls: readonly string[]
  readonly close: () => Promise<void>
}

export interface ClaimedApi extends ServedApi {
  /** From now on the agent is shown; until then every request is answered 503. */
  readonly serve: (agent: ApiView) => Promise<void>
}

/** One place where the API is to be served. */
interface Claim {
  readonly server: Server
  readonly guard: Guard
  readonly url: string
}

/**
 * Takes the places given, before there is an agent to be shown. Rejects when another agent answers on the socket, something else lies there, or a
 * port is taken, or with `AccessError` when what guards it cannot be used; then it holds nothing.
 * @param requestMillis within which a request must have come.
 */
export async function claimApi(places: ApiPlaces, requestMillis: number = requestMillisMax): Promise<ClaimedApi> {
  const { socket, port } = places
  const claims: Claim[] = []
  const close = async (): Promise<void> => {
    await Promise.all(claims.map(({ server }) => ended(server)))
  }
  try {
    if (socket !== undefined) claims.push(await claimSocket(socket, requestMillis))
    if (port !== undefined) claims.push(await claimPort(places, port, requestMillis))
  } catch (error) {
    await close()
    throw error
  }
  async function serve(agent: ApiView): Promise<void> {
    for (const { server, guard } of claims) {
      const app = makeApi(agent, guard)
      await app.ready()
      server.removeAllListeners('request')
      server.on('request', (request, response) => app.routing(request, response))
    }
  }
  return { urls: claims.map(({ url }) => url), serve, close }
}

/** Serves the API at the places given; rejects like `claimApi`. */
export async function serveApi(agent: ApiView, places: ApiPlaces): Promise<ServedApi> {
  const api = await claimApi(places)
  await api.serve(agent)
  return api
}

async function claimSocket(socket: string, requestMillis: number): Promise<Claim> {
  try {
    await mkdir(dirname(socket), { recursive: true })
    await clearSocket(socket)
    const server = await listening(createServer(limits(requestMillis), sayStarting), { path: socket })
    await chmod(socket, 0o660).catch(async (error: unknown) => {
      await ended(server)
      throw error
    })
    return { server, guard: 'open', url: `unix:${socket}` }
  } catch (error) {
    throw socketError('the API', socket, 'api.socket', error)
  }
}

async function claimPort(places: ApiPlaces, port: number, requestMillis: number): Promise<Claim> {
  const { address, tokenFile, tls } = places
  const guard: Guard = tokenFile !== undefined ? makeTokenTest(await readToken(tokenFile, 'api.tokenFile')) : tls?.clientCa !== undefined ? 'open' : 'local' // prettier-ignore
  const server = tls === undefined ? createServer(limits(requestMillis), sayStarting) : await createGuarded(tls, requestMillis) // prettier-ignore
  try {
    await listening(server, { host: address, port })
  } catch (error) {
    throw socketError('the API', placeText(address, port), 'api.port', error)
  }
  const scheme = tls === undefined ? 'http' : 'https'
  return { server, guard, url: `${scheme}://${placeText(address, (server.address() as AddressInfo).port)}` }
}

async function createGuarded(files: TlsFiles, requestMillis: number): Promise<Server> {
  const { certificate, key, clientCa } = await readTls(files, 'api.tls')
  const clients = clientCa === undefined ? {} : { ca: clientCa, requestCert: true, rejectUnauthorized: true }
  try {
    const options = { ...limits(requestMillis), cert: certificate, key, ...clients, handshakeTimeout: requestMillis }
    return createTlsServer(options, sayStarting)
  } catch (error) {
    throw new AccessError(`api.tls: these files are no certificate and its key: ${(error as Error).message}`)
  }
}

/** Connections to one place at a time; the next are closed at once. Each may be a follower, which costs a place in the ring. */
const connectionsMax = 256
/** What comes slower than this is closed: nobody holds a connection by sending an octet now and then. */
const limits = (requestMillis: number): ServerOptions => ({ requestTimeout: requestMillis, headersTimeout: requestMillis, connectionsCheckingInterval: Math.min(1000, requestMillis) }) // prettier-ignore

const sayStarting: RequestListener = (_request, response) => {
  response.writeHead(503, { 'content-type': 'application/json; charset=utf-8' })
  response.end(JSON.stringify({ ok: false, troubles: ['the agent is starting'], error: 'the agent is starting' }))
}

function listening(server: Server, where: ListenOptions): Promise<Server> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.maxConnections = connectionsMax
    server.listen(where, () => {
      server.removeListener('error', reject)
      resolve(server)
    })
  })
}

function ended(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}

/** Takes away the socket that a killed agent left behind, and nothing else. */
export async function clearSocket(socket: string): Promise<void> {
  const found = await lstat(socket).catch(() => undefined)
  if (found === undefined) return
  if (!found.isSocket()) throw new Error('something that is no socket lies there')
  if (await somebodyAnswers(socket)) throw new Error('another agent answers there')
  await rm(socket, { force: true })
}

/** Only a refused connection means that nobody does; a full queue, for one, has somebody behind it. */
function somebodyAnswers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path })
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'))
  })
}
