// The thread that the command is a child of. It stands in namespaces of the command's own: network, mounts, processes; so all that it starts
// is in them, with the working directory, terminal and descriptors that we were given.
//
// PID 1 in there is an init of a few lines: it prepares the mounts, then takes in orphans. The command is not PID 1, which the kernel
// shields from signals that it does not handle; it is a child of ours like any other, and its end and its signals need no go-between. When
// PID 1 ends, the kernel kills all others, whatever they did to be forgotten.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { parentPort } from 'node:worker_threads'
import type { Ending } from './launch.ts'
import { leaveMountsAndProcesses } from './namespace.ts'

/** What to start. Its argv come first the program. */
export interface Family {
  /** Says a line when the place is prepared, and then lives until its stdin ends. */
  readonly init: readonly string[]
  readonly initEnvironment: NodeJS.ProcessEnv
  readonly command: readonly string[]
  readonly directory: string
}

export function endingOf(child: ChildProcess): Promise<Ending> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ kind: 'error', message: error.message }))
    child.once('exit', (status, signal) =>
      resolve(signal === null ? { kind: 'exit', status: status ?? 0 } : { kind: 'signal', signal }),
    )
  })
}

/** Runs on its thread until the command has ended and everything that it left behind; signals come as messages, the ending goes as one. */
export async function main(family: Family): Promise<void> {
  leaveMountsAndProcesses()
  const [initProgram = '', ...initArgs] = family.init
  // Out of our process group: Ctrl-C and Ctrl-Z are for the command.
  const init = spawn(initProgram, initArgs, {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
    env: family.initEnvironment,
  })
  const initEnded = endingOf(init)
  init.stdin.on('error', () => undefined)
  const ready = await Promise.race([once(init.stdout, 'data').then(() => undefined), initEnded])
  parentPort?.postMessage(ready ?? (await beParent(family, init, initEnded)))
  // The port would keep this thread.
  parentPort?.close()
}

async function beParent(
  { command, directory }: Family,
  init: ChildProcess,
  initEnded: Promise<Ending>,
): Promise<Ending> {
  const [program = '', ...args] = command
  // The directory by its name: as it was opened it may lie under what init has put there.
  const child = spawn(program, args, { stdio: 'inherit', cwd: directory })
  parentPort?.on('message', (signal: NodeJS.Signals) => child.kill(signal))
  const ending = await endingOf(child)
  init.kill('SIGKILL')
  // The kernel ends the others first.
  await initEnded
  return ending
}
