// The inspection endpoint's sockets: a unix socket guarded by file rights, and loopback TCP.
import { chmod, lstat, mkdir, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import { makeApi, type ApiView } from './routes.ts'

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

/** Serves the API at the places given. Rejects when another agent answers on the socket, something else lies there, or a port is taken. */
export async function serveApi(agent: ApiView, { socket, address, port }: ApiPlaces): Promise<ServedApi> {
  const apps: { close: () => Promise<void> }[] = []
  const urls: string[] = []
  const close = async (): Promise<void> => {
    await Promise.all(apps.map((app) => app.close()))
  }
  try {
    if (socket !== undefined) {
      await mkdir(dirname(socket), { recursive: true })
      await clearSocket(socket)
      const app = makeApi(agent, false)
      await app.listen({ path: socket })
      apps.push(app)
      await chmod(socket, 0o660)
      urls.push(`unix:${socket}`)
    }
    if (port !== undefined) {
      const app = makeApi(agent, true)
      urls.push(await app.listen({ host: address, port }))
      apps.push(app)
    }
    return { urls, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** Takes away the socket that a killed agent left behind, and nothing else. */
export async function clearSocket(socket: string): Promise<void> {
  const found = await lstat(socket).catch(() => undefined)
  if (found === undefined) return
  if (!found.isSocket()) throw new Error(`${socket} is there and is no socket`)
  if (await somebodyAnswers(socket)) throw new Error(`another agent answers on ${socket}`)
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
