// The inspection endpoint's sockets: a unix socket guarded by file rights, and loopback TCP.
import { chmod, lstat, mkdir, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { connect, type AddressInfo, type ListenOptions } from 'node:net'
import { dirname } from 'node:path'
import { placeText, socketError } from '../socketError.ts'
import { makeApi, requestMillisMax, type ApiView } from './routes.ts'

export interface ApiPlaces {
  readonly socket: string | undefined
  readonly address: string
  /** 0 takes any free port. */
  readonly port: number | undefined
}

export interface ServedApi {
  /** Where it answers: `unix:PATH`, `http://127.0.0.1:PORT`. */
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
  readonly isTcp: boolean
  readonly url: string
}

/**
 * Takes the places given, before there is an agent to be shown. Rejects when another agent answers on the socket, something else lies there, or a
 * port is taken, and then holds nothing.
 */
export async function claimApi({ socket, address, port }: ApiPlaces): Promise<ClaimedApi> {
  const claims: Claim[] = []
  const close = async (): Promise<void> => {
    await Promise.all(claims.map(({ server }) => ended(server)))
  }
  try {
    if (socket !== undefined) claims.push(await claimSocket(socket))
    if (port !== undefined) claims.push(await claimPort(address, port))
  } catch (error) {
    await close()
    throw error
  }
  async function serve(agent: ApiView): Promise<void> {
    for (const { server, isTcp } of claims) {
      const app = makeApi(agent, isTcp)
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

async function claimSocket(socket: string): Promise<Claim> {
  try {
    await mkdir(dirname(socket), { recursive: true })
    await clearSocket(socket)
    const server = await listening({ path: socket })
    await chmod(socket, 0o660).catch(async (error: unknown) => {
      await ended(server)
      throw error
    })
    return { server, isTcp: false, url: `unix:${socket}` }
  } catch (error) {
    throw socketError('the API', socket, 'api.socket', error)
  }
}

async function claimPort(address: string, port: number): Promise<Claim> {
  try {
    const server = await listening({ host: address, port })
    return { server, isTcp: true, url: `http://${placeText(address, (server.address() as AddressInfo).port)}` }
  } catch (error) {
    throw socketError('the API', placeText(address, port), 'api.port', error)
  }
}

function listening(where: ListenOptions): Promise<Server> {
  const server = createServer({ requestTimeout: requestMillisMax }, (_request, response) => {
    response.writeHead(503, { 'content-type': 'application/json; charset=utf-8' })
    response.end(JSON.stringify({ ok: false, troubles: ['the agent is starting'], error: 'the agent is starting' }))
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
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
