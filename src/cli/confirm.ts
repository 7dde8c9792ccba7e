// Asking a person before something is undone that cannot be done again.
import { createInterface } from 'node:readline/promises'

/** Whether a person at the terminal said yes; false without a terminal. Rejects with an `AbortError` on Ctrl-C and Ctrl-D. */
export async function confirm(
  input: NodeJS.ReadableStream & { readonly isTTY?: boolean },
  output: NodeJS.WritableStream,
  question: string,
): Promise<boolean> {
  if (input.isTTY !== true) return false
  const terminal = createInterface({ input, output })
  try {
    const answer = (await terminal.question(`${question} [y/N] `)).trim().toLowerCase()
    return answer === 'y' || answer === 'yes'
  } finally {
    terminal.close()
  }
}
