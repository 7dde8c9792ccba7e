// One agent for each table of a network namespace. The claim is an abstract unix socket: its name is the namespace's, one can have it, and the
// kernel frees it when the holder ends, however it does. Nothing of it lies on disk.
import { connect, createServer, type Server } from 'node:net'

export interface Claim {
  /** Lets another agent have the table. */
  readonly release: () => Promise<void>
}

/** Somebody else holds the claim. */
export class ClaimError extends Error {
  readonly code = 'claimed'
}

/** The leading NUL makes a name abstract (unix(7)). */
const nameOf = (table: string): string => `\0namegate/${table}`
/** The holder says who it is at once; from one that hangs we do not wait to hear it. */
const introductionMillis = 1000
const introductionOctetsMax = 64

/** Claims a table in the network namespace of this process. Rejects with `ClaimError` when another process has it. */
export async function claimTable(table: string): Promise<Claim> {
  const server = createServer((newcomer) => {
    newcomer.on('error', () => undefined)
    newcomer.end(`process ${process.pid}`, () => newcomer.destroy())
  })
  try {
    await listening(server, nameOf(table))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    throw new ClaimError(
      `another agent (${await introduction(nameOf(table))}) holds the table ${table} of this network namespace; stop it first, or set datapath.table`,
    )
  }
  // Whoever holds a claim does something else for a living: this does not keep the process.
  server.unref()
  return { release: () => new Promise((resolve) => void server.close(() => resolve())) }
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ path }, () => {
      server.removeListener('error', reject)
      server.on('error', () => undefined)
      resolve()
    })
  })
}

/** What the holder says of itself: `process 4711`. */
function introduction(path: string): Promise<string> {
  return new Promise((resolve) => {
    const holder = connect({ path })
    let text = ''
    const done = (): void => {
      clearTimeout(late)
      holder.destroy()
      resolve(/^process \d+$/.test(text) ? text : 'which does not say who it is')
    }
    const late = setTimeout(done, introductionMillis)
    holder.setEncoding('latin1').on('data', (part: string) => {
      text += part
      if (text.length > introductionOctetsMax) done()
    })
    holder.on('error', done).on('end', done)
  })
}
