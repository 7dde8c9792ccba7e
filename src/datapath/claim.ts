// One agent for each table of a network namespace. The claim is an abstract unix socket: its name is the namespace's, one can have it, and the
// kernel frees it when the holder ends, however it does. Nothing of it lies on disk.
import { connect, createServer, type Server, type Socket } from 'node:net'

export interface Claim {
  /** Lets another agent have the table. */
  readonly release: () => Promise<void>
}

/** Who holds a claim, and what those may ask of it who find it held. */
export interface Holder {
  /** Whom to stop so that the holder ends. */
  readonly process: () => number
  /** Whoever started it is gone: it makes room for another. */
  readonly isAlone: () => boolean
  /** Gives what it serves by to the process that receives under this name; false when it does not. */
  readonly give: (name: string) => boolean
  readonly end: () => void
}

/** Somebody else holds the claim. */
export class ClaimError extends Error {
  readonly code = 'claimed'
}

/** The leading NUL makes a name abstract (unix(7)). */
const nameOf = (table: string): string => `\0namegate/${table}`
/** Under such names a holder gives away what it serves by. */
export const receiverPrefix = 'namegate/to/'
/** The holder says who it is at once; from one that hangs we do not wait to hear it. */
const introductionMillis = 1000
/** Of what either says. */
const lineOctetsMax = 128
/** Whoever asks a lot of the holder is no agent. */
const newcomersMax = 16

const itself: Holder = {
  process: () => process.pid,
  isAlone: () => false,
  give: () => false,
  end: () => undefined,
}

/** Claims a table in the network namespace of this process. Rejects with `ClaimError` when another process has it. */
export async function claimTable(table: string, holder: Holder = itself): Promise<Claim> {
  const newcomers = new Set<Socket>()
  const server = createServer((newcomer) => {
    newcomers.add(newcomer)
    newcomer.on('error', () => undefined)
    newcomer.once('close', () => newcomers.delete(newcomer))
    if (holder.isAlone()) converse(newcomer, holder)
    else newcomer.end(`process ${holder.process()}\n`, () => newcomer.destroy())
  })
  server.maxConnections = newcomersMax
  try {
    await listening(server, nameOf(table))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    const found = await findHolder(table)
    found?.leave()
    throw claimedBy(table, found?.process)
  }
  // Whoever holds a claim does something else for a living: this does not keep the process.
  server.unref()
  async function release(): Promise<void> {
    const closed = new Promise((resolve) => void server.close(resolve))
    for (const newcomer of newcomers) newcomer.destroy()
    await closed
  }
  return { release }
}

export function claimedBy(table: string, process: number | undefined): ClaimError {
  const who = process === undefined ? 'which does not say who it is' : `process ${process}`
  return new ClaimError(
    `another agent (${who}) holds the table ${table} of this network namespace; stop it first, or set datapath.table`,
  )
}

/** Of a holder that is alone, its sockets may be asked for; and once they are given, that it ends. */
function converse(newcomer: Socket, holder: Holder): void {
  newcomer.unref()
  newcomer.write(`process ${holder.process()} alone\n`)
  let isHeir = false
  readLines(newcomer, (line) => {
    if (line.startsWith(`give ${receiverPrefix}`)) isHeir = holder.give(line.slice('give '.length)) || isHeir
    else if (line === 'end' && isHeir) holder.end()
    else newcomer.destroy()
  })
}

/** Calls back with each line; who says more than a line's worth without an end is not listened to. */
function readLines(socket: Socket, each: (line: string) => void): void {
  let text = ''
  socket.setEncoding('latin1').on('data', (part: string) => {
    const lines = (text + part).split('\n')
    text = lines.pop() ?? ''
    if (text.length > lineOctetsMax) socket.destroy()
    for (const line of lines) each(line)
  })
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

/** A holder, as whoever finds it sees it. */
export interface FoundHolder {
  /** Undefined: it does not say. */
  readonly process: number | undefined
  readonly isAlone: boolean
  /** Asks for its sockets, to be received under that name. */
  readonly askFor: (name: string) => void
  /** Asks it to end; to be had only from one that gave its sockets. */
  readonly askToEnd: () => void
  /** Resolves when it has let go of the table, or is gone. */
  readonly gone: Promise<void>
  readonly leave: () => void
}

/** Who holds the claim of a table; undefined when nobody does. */
export function findHolder(table: string): Promise<FoundHolder | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ path: nameOf(table) })
    const gone = new Promise<void>((done) => void socket.once('close', () => done()))
    const found = (line: string): void => {
      clearTimeout(late)
      const [, pid, alone] = /^process (\d{1,10})( alone)?$/.exec(line) ?? []
      resolve({
        process: pid === undefined ? undefined : Number(pid),
        isAlone: alone !== undefined,
        askFor: (name) => void socket.write(`give ${name}\n`),
        askToEnd: () => void socket.write('end\n'),
        gone,
        leave: () => void socket.destroy(),
      })
    }
    const late = setTimeout(() => found(''), introductionMillis)
    socket.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(late)
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(undefined)
      else found('')
    })
    readLines(socket, found)
    socket.once('end', () => found(''))
  })
}
