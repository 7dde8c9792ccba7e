// `namegate restart`: asks the agent for a successor and waits for it: what SIGUSR2 does, with an answer.
import { setTimeout as pause } from 'node:timers/promises'
import type { StatusView } from '../api/routes.ts'
import { ApiError, callApi } from './client.ts'

/** A successor compiles everything first: thousands of policies on a busy machine. */
const patienceMillis = 120_000
const lookMillis = 100

/** Resolves with the exit status. Rejects with `ApiError` when there is no agent, or it cannot be replaced. */
export async function restartCommand(api: string): Promise<number> {
  const startedAt = performance.now()
  const { process: before } = (await callApi(api, 'PUT', '/v1/restart')) as StatusView
  let last: StatusView | undefined
  while (performance.now() - startedAt < patienceMillis) {
    await pause(lookMillis)
    last = (await look(api)) ?? last
    if (last === undefined) continue
    const { process: now, ready, restart } = last
    if (now !== before && ready) {
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
      process.stdout.write(`process ${now} has taken over from ${before}, and is ready; that took ${seconds} s\n`)
      return 0
    }
    if (now === before && restart === 'failed') return say(`process ${before} stays: ${last['restart-fault'] ?? ''}`)
  }
  const waited = `after ${patienceMillis / 1000} s`
  if (last === undefined || last.process === before) return say(`process ${before} was not followed by another ${waited}; the agent's log may say why`) // prettier-ignore
  return say(`process ${last.process} has taken over from ${before}, and is not ready ${waited}: ${last.troubles.join('; ')}`) // prettier-ignore
}

/** Undefined between the two, when nobody answers, or not yet. */
async function look(api: string): Promise<StatusView | undefined> {
  try {
    return (await callApi(api, 'GET', '/v1/status')) as StatusView
  } catch (error) {
    if (error instanceof ApiError) return undefined
    throw error
  }
}

function say(text: string): number {
  process.stderr.write(`namegate: ${text}\n`)
  return 1
}
