// `namegate agent`: reads the configuration, and starts the agent under a supervisor, or alone where that is configured.
import { readFile } from 'node:fs/promises'
import { parseConfig, type Config } from '../config.ts'
import { makeLog } from '../log.ts'
import { issueToText } from '../policy/field.ts'

/** Runs until a signal; resolves with the exit status. */
export async function agentCommand(configFile: string, version: string): Promise<number> {
  const config = await readConfig(configFile)
  if (config === undefined) return 1
  if (config.restart !== 'none') {
    const { supervise } = await import('../supervisor/supervise.ts')
    const status = await supervise(configFile, config, version)
    if (status !== undefined) return status
    makeLog(config.logLevel).warn('sockets cannot be kept for another process on this machine: there is one process, as with restart: none')
  }
  const { serveAlone } = await import('../supervisor/serve.ts')
  return serveAlone(config, version)
} // prettier-ignore

/** @param say is told what is wrong with it, a line each; and then it is undefined. */
export async function readConfig(configFile: string, say: (text: string) => unknown = (text) => process.stderr.write(text)): Promise<Config | undefined> {
  const result = parseConfig(await readFile(configFile, 'utf8'), configFile)
  if (!result.ok) {
    say(result.issues.map((issue) => `${issueToText(issue)}\n`).join(''))
    return undefined
  }
  for (const warning of result.warnings) makeLog(result.config.logLevel).warn(issueToText(warning))
  return result.config
} // prettier-ignore

/** The first SIGTERM or SIGINT; a second one ends the process at once, as it does without us. */
export function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    const signals = ['SIGTERM', 'SIGINT'] as const
    const first = (signal: NodeJS.Signals): void => {
      for (const each of signals) process.off(each, first)
      resolve(signal)
    }
    for (const each of signals) process.on(each, first)
  })
}
