// Talking to a running agent's API, over its unix socket or TCP. What guards it there is told by the environment, so that no token stands in a
// command line: NAMEGATE_API_TOKEN_FILE, NAMEGATE_API_CA, NAMEGATE_API_CERTIFICATE with NAMEGATE_API_KEY, all names of files.
import { readFileSync } from 'node:fs'
import { request as requestHttp, type ClientRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { request as requestHttps } from 'node:https'

export const defaultApi = 'unix:/run/namegate/api.sock'

/** The agent could not be asked, or said no. */
export class ApiError extends Error {
  readonly code = 'api'
}

/** Sends a request and gives the JSON of the answer. Rejects with `ApiError`. @param received is told how many characters of it are here */
export async function callApi(
  api: string,
  method: 'GET' | 'PUT' | 'DELETE',
  path: string,
  received: (characters: number) => void = () => undefined,
): Promise<unknown> {
  const place = placeOf(api, path)
  if (place === undefined) throw new ApiError(`"${api}" is ${noPlace}`)
  return new Promise((resolve, reject) => {
    const call = request({ ...place, method, timeout: 10_000 }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => received((text += part).length))
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
  if (place === undefined) throw new ApiError(`"${api}" is ${noPlace}`)
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

const noPlace = 'neither unix:PATH nor http://HOST:PORT or https://HOST:PORT'

type Place = RequestOptions & { readonly isTls?: boolean }

function placeOf(api: string, path: string): Place | undefined {
  if (api.startsWith('unix:')) return api === 'unix:' ? undefined : { socketPath: api.slice('unix:'.length), path }
  const url = URL.canParse(api) ? new URL(api) : undefined
  if (url === undefined || url.username !== '' || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    return undefined
  const [token, ca, cert, key] = ['TOKEN_FILE', 'CA', 'CERTIFICATE', 'KEY'].map(fileOf)
  const isTls = url.protocol === 'https:'
  const shown = { ...(ca === undefined ? {} : { ca }), ...(cert === undefined ? {} : { cert }), ...(key === undefined ? {} : { key }) } // prettier-ignore
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: url.port === '' && isTls ? 443 : url.port,
    path,
    isTls,
    ...(token === undefined ? {} : { headers: { authorization: `Bearer ${token.trim()}` } }),
    ...(isTls ? shown : {}),
  }
}

/** What the file says that `NAMEGATE_API_…` names; undefined when it names none. Throws `ApiError`. */
function fileOf(what: string): string | undefined {
  const file = process.env[`NAMEGATE_API_${what}`]
  if (file === undefined || file === '') return undefined
  try {
    return readFileSync(file, 'latin1')
  } catch (error) {
    throw new ApiError(`NAMEGATE_API_${what}: ${(error as Error).message}`)
  }
}

function request({ isTls, ...options }: Place, answered: (response: IncomingMessage) => void): ClientRequest {
  return isTls === true ? requestHttps(options, answered) : requestHttp(options, answered)
}
