// Processes of `namegate agent`: a supervisor and its workers, which live on when it is killed.
import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'

/** The processes that a process started and that still run, eldest first. */
export function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

/** Kills a process if it is still there. Throws for 0, which is to the kernel whoever asks and all of its group. */
export function kill(pid: number, signal: NodeJS.Signals = 'SIGKILL'): void {
  if (pid === 0) throw new Error('there is no process to kill')
  try {
    process.kill(pid, signal)
  } catch {
    // It is gone.
  }
}

/** Kills an agent with its workers, so that nobody starts another meanwhile. */
export function killAgent({ pid, exitCode, signalCode }: ChildProcess): void {
  if (pid === undefined || exitCode !== null || signalCode !== null) return
  kill(pid, 'SIGSTOP')
  for (const child of childrenOf(pid)) kill(child)
  kill(pid)
}
