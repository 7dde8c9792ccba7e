// Talking to a running agent's API, over its unix socket or loopback.
import { request, type IncomingMessage } from 'node:http'

export const defaultApi = 'unix:/run/namegate/api.sock'

/** The agent could not be asked, or said no. */
export class ApiError extends Error {
  readonly code = 'api'
}

/** Sends a request and gives the JSON of the answer. Rejects with `ApiError`. */
export function callApi(api: string, method: 'GET' | 'DELETE', path: string): Promise<unknown> {
  const place = placeOf(api, path)
  if (place === undefined) return Promise.reject(new ApiError(`"${api}" is neither unix:PATH nor http://HOST:PORT`))
  return new Promise((resolve, reject) => {
    const call = request({ ...place, method, timeout: 10_000 }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text += part))
      response.on('end', () => {
        try {
          const body: unknown = JSON.parse(text)
          if ((response.statusCode ?? 500) < 400) resolve(body)
          else reject(new ApiError((body as { error?: string }).error ?? `the agent answered ${response.statusCode}`))
        } catch {
          reject(new ApiError(`what answers at ${api} is no namegate agent`))
        }
      })
    })
    call.on('timeout', () => call.destroy(new Error('no answer within 10 s')))
    call.on('error', (error: NodeJS.ErrnoException) => {
      const isForbidden = error.code === 'EACCES' || error.code === 'EPERM'
      const hint = isForbidden ? 'its socket is for root and its group' : 'start one with: namegate agent --config FILE'
      const what = isForbidden ? 'the agent may not be asked' : 'no agent answers'
      reject(new ApiError(`${what} at ${api} (${error.message || error.code}); ${hint}`))
    })
    call.end()
  })
}

/** The lines of an answer as they come; ends when the agent ends it. Rejects with `ApiError`. */
export async function* streamApi(api: string, path: string): AsyncGenerator<string> {
  const place = placeOf(api, path)
  if (place === undefined) throw new ApiError(`"${api}" is neither unix:PATH nor http://HOST:PORT`)
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const call = request({ ...place, method: 'GET' }, resolve)
    call.on('error', (error) => reject(new ApiError(`no agent answers at ${api} (${error.message}); start one with: namegate agent --config FILE`))) // prettier-ignore
    call.end()
  })
  let text = ''
  for await (const part of response.setEncoding('utf8')) {
    text += part as string
    const lines = text.split('\n')
    text = lines.pop() ?? ''
    if ((response.statusCode ?? 500) < 400) yield* lines.filter((line) => line !== '')
  }
  if ((response.statusCode ?? 500) < 400) return
  const body = JSON.parse(text) as { error?: string }
  throw new ApiError(body.error ?? `the agent answered ${response.statusCode}`)
}

type Place =
  | { readonly socketPath: string; readonly path: string }
  | { readonly host: string; readonly port: string; readonly path: string }

function placeOf(api: string, path: string): Place | undefined {
  if (api.startsWith('unix:')) return api === 'unix:' ? undefined : { socketPath: api.slice('unix:'.length), path }
  const url = URL.canParse(api) ? new URL(api) : undefined
  return url?.protocol === 'http:' ? { host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port, path } : undefined
}
