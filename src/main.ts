// The program `namegate`.
import { CommanderError } from 'commander'
import { makeProgram } from './cli/program.ts'

const program = makeProgram()
const usageError = 2
const refuse = (command: typeof program): void => {
  command.exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : usageError))
  for (const sub of command.commands) refuse(sub)
}
refuse(program)

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exit(usageError)
  process.stderr.write(`namegate: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}
