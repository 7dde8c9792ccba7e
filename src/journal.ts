// Leases on disk, for the next agent: an append-only file of lines, each with its CRC. What stands is the kernel's to say; the journal says which
// names it stands for. It is no reason to fail: what cannot be read is set aside, what cannot be written is asked for again.
import { mkdir, open, readFile, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'

/** One lease as it was learned. Moments are of the wall clock, in milliseconds: the monotonic one begins anew with the machine. */
export interface JournalEntry {
  /** Digest of the identity's labels: its number may be another's next time. */
  readonly labels: string
  /** `namespace/name` of the workload that asked last. */
  readonly endpoint: string
  readonly name: string
  /** As text. */
  readonly address: string
  readonly ttlSeconds: number
  readonly learnedAt: number
}
/** A lease that was taken away before its time. */
export type LostEntry = Pick<JournalEntry, 'labels' | 'name' | 'address'>

export interface Journal {
  /** Writes them soon (`flushMillis`); never throws, never waits. */
  readonly note: (entries: readonly JournalEntry[]) => void
  readonly lost: (entry: LostEntry) => void
  /** Lines in the file, more or less. */
  readonly lines: () => number
  /** Replaces what the file says by these entries; what is noted meanwhile comes behind them. */
  readonly rewrite: (entries: Iterable<JournalEntry>) => Promise<void>
  readonly close: () => Promise<void>
}

/** The version of the format is part of it. */
const head = 'namegate leases 1'
const flushMillis = 200
/** What waits to be written, while a disk does not take it. Past that, it is not written: those leases have to be asked for again. */
const waitingOctetsMax = 16 << 20
/** A file that is larger is not ours: 1 000 000 leases are 200 MB at most, and it is rewritten at twice their number. */
const fileOctetsMax = 1 << 29
/** Entries between which the event loop turns: about 4 ms. */
const entriesPerTurn = 1000

/** One line, with its end: its CRC, and a JSON list. */
export function lineOf(kind: string, values: readonly (string | number)[]): string {
  const text = JSON.stringify([kind, ...values])
  return `${crc32(text).toString(16).padStart(8, '0')} ${text}\n`
}
const leaseLine = ({ labels, endpoint, name, address, ttlSeconds, learnedAt }: JournalEntry): string =>
  lineOf('lease', [labels, name, address, endpoint, ttlSeconds, Math.round(learnedAt)])

/** What a journal says: its leases, the last word on each; and what is wrong with it, when not all of it could be read. */
export interface JournalText {
  readonly entries: readonly JournalEntry[]
  readonly fault: string | undefined
}

export function parseJournal(text: string): JournalText {
  const entries = new Map<string, JournalEntry>()
  let number = 0
  for (let from = 0; from < text.length;) {
    number++
    const end = text.indexOf('\n', from)
    const values = end < 0 ? undefined : readLine(text.slice(from, end))
    const [kind, labels, name, address, endpoint, ttlSeconds, learnedAt] = values ?? []
    const key = `${String(labels)} ${String(address)} ${String(name)}`
    if (number === 1 && (kind !== 'head' || labels !== head)) return { entries: [], fault: 'it does not begin as one' }
    if (kind === 'lease' && isText(labels, name, address, endpoint) && isNumber(ttlSeconds, learnedAt))
      entries.set(key, { labels, name, address, endpoint, ttlSeconds, learnedAt } as JournalEntry)
    else if (kind === 'lost' && isText(labels, name, address)) entries.delete(key)
    else if (kind !== 'head' || number > 1)
      return { entries: [...entries.values()], fault: `line ${number} is torn or not ours` }
    from = end + 1
  }
  return { entries: [...entries.values()], fault: number === 0 ? 'it is empty' : undefined }
}

const isText = (...values: unknown[]): boolean => values.every((value) => typeof value === 'string')
const isNumber = (...values: unknown[]): boolean => values.every((value) => Number.isFinite(value))

/** What `lineOf` wrote, without the end; undefined when it is torn or not ours. */
export function readLine(line: string): unknown[] | undefined {
  const text = line.slice(9)
  if (line.charAt(8) !== ' ' || crc32(text).toString(16).padStart(8, '0') !== line.slice(0, 8)) return undefined
  try {
    const values: unknown = JSON.parse(text)
    return Array.isArray(values) ? (values as unknown[]) : undefined
  } catch {
    return undefined
  }
}

/**
 * What an earlier agent wrote; [] when there is nothing, or it cannot be read. A file with a fault is set aside under another name.
 * @param say is told what was wrong.
 */
export async function readJournal(path: string, say: (text: string) => void): Promise<readonly JournalEntry[]> {
  const text = await readOwn(path, 'the journal of leases', say)
  if (text === undefined || text === noFile) return []
  const { entries, fault } = parseJournal(text)
  if (fault !== undefined) await setAside(path, 'the journal of leases', fault, say)
  return entries
}

/** There is none. */
export const noFile: unique symbol = Symbol('no file')
/** The text of a file that we write; undefined when it cannot be read, and is set aside. @param what it is, for people. */
export async function readOwn(
  path: string,
  what: string,
  say: (text: string) => void,
): Promise<string | typeof noFile | undefined> {
  try {
    const file = await open(path, 'r')
    const { size } = await file.stat().finally(() => file.close())
    if (size > fileOctetsMax) throw new Error(`it has ${size} octets`)
    return await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return noFile
    await setAside(path, what, String(error), say)
    return undefined
  }
}

/** Out of the way, for somebody to look at. */
export async function setAside(path: string, what: string, fault: string, say: (text: string) => void): Promise<void> {
  const aside = `${path}.unread`
  try {
    await rename(path, aside)
    say(`${what} ${path} could not be read as a whole (${fault}); it is set aside as ${aside}`)
  } catch (error) {
    say(`${what} ${path} could not be read as a whole (${fault}), nor set aside: ${String(error)}`)
  }
}

/** @param say is told of writing that fails, once until it succeeds again. */
export function makeJournal(path: string, say: (text: string) => void): Journal {
  let waiting: string[] = []
  let waitingOctets = 0
  let written = 0
  let hasFailed = false
  let isClosed = false
  let turn: Promise<void> = Promise.resolve()
  /** Nothing is appended before the file is known to begin as one of ours. */
  let isOurs = false

  const inTurn = (work: () => Promise<void>): Promise<void> => (turn = turn.then(work).then(succeed, fail))
  function succeed(): void {
    hasFailed = false
  }
  function fail(error: unknown): void {
    if (!hasFailed) say(`the journal of leases ${path} cannot be written: ${String(error)}`)
    hasFailed = true
  }
  function add(line: string): void {
    if (isClosed || waitingOctets + line.length > waitingOctetsMax) return
    waiting.push(line)
    waitingOctets += line.length
  }
  function takeWaiting(): string {
    const text = waiting.join('')
    written += waiting.length
    waiting = []
    waitingOctets = 0
    return text
  }
  async function append(): Promise<void> {
    if (!isOurs || waiting.length === 0) return
    const file = await open(path, 'a', 0o600)
    await file.appendFile(takeWaiting()).finally(() => file.close())
  }
  const flushing = setInterval(() => {
    if (waiting.length > 0) void inTurn(append)
  }, flushMillis)
  flushing.unref()

  const rewrite = (entries: Iterable<JournalEntry>): Promise<void> =>
    inTurn(async () => {
      const fresh = `${path}.new`
      await mkdir(dirname(path), { recursive: true })
      await rm(fresh, { force: true })
      const file = await open(fresh, 'wx', 0o600)
      const count = await writeAll(file, entries).finally(() => file.close())
      await rename(fresh, path)
      isOurs = true
      written = count
      await append()
    })

  async function close(): Promise<void> {
    clearInterval(flushing)
    isClosed = true
    await inTurn(append)
  }
  return {
    note: (entries) => entries.forEach((entry) => add(leaseLine(entry))),
    lost: ({ labels, name, address }) => add(lineOf('lost', [labels, name, address])),
    lines: () => written + waiting.length,
    rewrite,
    close,
  }
}

async function writeAll(file: FileHandle, entries: Iterable<JournalEntry>): Promise<number> {
  let text = lineOf('head', [head])
  let count = 1
  for (const entry of entries) {
    text += leaseLine(entry)
    if (++count % entriesPerTurn !== 0) continue
    await file.appendFile(text)
    text = ''
    await nextTurn()
  }
  await file.appendFile(text)
  return count
}
