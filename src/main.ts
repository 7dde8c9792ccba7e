// The program `namegate`.
import { CommanderError } from 'commander'
import { makeProgram } from './cli/program.ts'
import { ownFailure } from './run/launch.ts'

const program = makeProgram()
const usageError = 2
const refuse = (command: typeof program, status: number): void => {
  command.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : status))
  // Of `run`, every status but one is the command's.
  for (const sub of command.commands) refuse(sub, sub.name() === 'run' ? ownFailure : status)
}
refuse(program, usageError)

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exit(usageError)
  process.stderr.write(`namegate: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}
