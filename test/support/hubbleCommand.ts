// The `hubble` command: what HUBBLE_BIN names, or what setup.sh has built.
import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('../../node_modules/.hubble/', import.meta.url))
export const hubbleCommand: string = process.env['HUBBLE_BIN'] ?? `${folder}hubble`

/** What Go and pip say of a registry that is not to be had: no fault of this change, and no reason to hold it up. */
const unreachable = [
  '403 Forbidden',
  '429 Too Many',
  'dial tcp',
  'no such host',
  'i/o timeout',
  'TLS handshake timeout',
]

/** Why the command cannot be run; undefined when it can. In CI (NAMEGATE_REQUIRE_KERNEL=1) a reason is an error, but for a registry's own. */
export function whyNoHubble(): string | undefined {
  if (existsSync(hubbleCommand)) return undefined
  const log = existsSync(`${folder}log`)
    ? readFileSync(`${folder}log`, 'utf8').trim().split('\n').slice(-5).join('; ')
    : ''
  const reason = log === '' ? `there is no ${hubbleCommand}; \`sh setup.sh test\` builds it` : `the hubble command could not be built: ${log}` // prettier-ignore
  const isOurs = !unreachable.some((words) => log.includes(words))
  if (isOurs && process.env['NAMEGATE_REQUIRE_KERNEL'] === '1') throw new Error(reason)
  return reason
}

export interface Ended {
  readonly status: number | undefined
  readonly out: string
  readonly err: string
}

/** Runs it, with settings of nobody's. */
export function runHubble(args: readonly string[], home: string): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(hubbleCommand, args, { encoding: 'utf8', env: { PATH: process.env['PATH'], HOME: home }, timeout: 20_000 }, (error, out, err) => {
      resolve({ status: error === null ? 0 : typeof error.code === 'number' ? error.code : undefined, out, err })
    })
  })
} // prettier-ignore
