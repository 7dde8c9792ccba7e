// The process's log: JSON lines on stderr.
import { destination, pino, type Logger } from 'pino'

export type { Logger }

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

export function makeLog(level: LogLevel): Logger {
  const stderr = destination({ fd: 2, sync: true })
  // A terminal that was closed, a pipe whose reader left: nobody to tell is no reason to stop.
  stderr.on('error', () => undefined)
  return pino({ level, base: { pid: process.pid } }, stderr)
}
