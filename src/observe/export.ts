// Flows written to files, as JSON lines in the form of `hubble observe -o json`, with rotation and filters. An export is a reader of the ring like
// any other: a disk that is slow or full costs others nothing, and what it could not take is counted, and told in the file.
import { mkdir, open, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Logger } from '../log.ts'
import { compileFilters, type FlowFilter } from './filters.ts'
import { flowLine } from './hubble/message.ts'
import type { Observer } from './observer.ts'

/** A file cannot be written; the message begins with the option that names it. */
export class ExportError extends Error {
  readonly code = 'export'
}

export interface ExportSettings {
  readonly file: string
  /** A file that would become larger is set aside: FILE becomes FILE.1, that FILE.2, and so on. */
  readonly sizeOctetsMax: number
  /** With the one that is written to; what is older is removed. */
  readonly filesMax: number
  /** Hubble's FlowFilters: one of these must match, unless there are none; and none of those. */
  readonly allow: readonly FlowFilter[]
  readonly deny: readonly FlowFilter[]
  /** Paths as in Hubble's field masks; [] is everything. */
  readonly fields: readonly string[]
}

/** Flows, since the start. */
export interface Exported {
  readonly written: number
  /** Those that a file, or a collector, could not take: it was too slow, or failed. */
  readonly lost: number
}

export interface Exports {
  /** Begins with the oldest flow that is remembered. */
  readonly follow: (observer: Pick<Observer, 'ring' | 'place'>, log: Pick<Logger, 'error' | 'info'>) => void
  readonly exported: () => Exported
  /** Writes what is still in the ring, and ends. */
  readonly close: () => Promise<void>
}

/** Entries taken from the ring for one write. */
const entriesPerWrite = 512
/** Its owner writes, its group reads; who talks to whom is not for others. */
const fileMode = 0o640

/** Opens the files, before there are flows. Rejects with `ExportError` when one cannot be written, and then none is open. */
export async function openExports(all: readonly ExportSettings[]): Promise<Exports> {
  const files: LogFile[] = []
  const count = { written: 0, lost: 0 }
  const following: Promise<void>[] = []
  const closing = new AbortController()
  try {
    for (const settings of all) files.push(await openLog(settings))
  } catch (error) {
    await Promise.all(files.map((file) => file.close()))
    throw error
  }
  async function follow({ ring, place }: Pick<Observer, 'ring' | 'place'>, log: Pick<Logger, 'error' | 'info'>, file: LogFile, { allow, deny, fields, file: path }: ExportSettings): Promise<void> {
    const filters = compileFilters(allow, deny, place)
    if (!filters.ok) throw new Error(filters.error)
    const reader = ring.reader(ring.oldest())
    let isFailing = false
    for (;;) {
      const lines: Line[] = []
      let looked = 0
      for (let entry = reader.next(); entry !== undefined; entry = looked < entriesPerWrite ? reader.next() : undefined) {
        looked++
        if (entry.kind === 'lost') count.lost += entry.source === 'ring' ? entry.count : 0
        else if (!filters.shows(entry)) continue
        const line = flowLine(entry, place, filters.deniedAs, fields)
        if (line !== undefined) lines.push({ text: `${JSON.stringify(line)}\n`, flows: entry.kind === 'lost' ? 0 : 1 })
      }
      if (looked === 0) {
        if (closing.signal.aborted) return
        await reader.wait(closing.signal)
        continue
      }
      const { lines: taken, error } = await file.write(lines)
      lines.forEach(({ flows }, i) => (count[i < taken ? 'written' : 'lost'] += flows))
      if (error !== undefined && !isFailing) log.error({ err: error, file: path }, 'flows cannot be exported; they count as lost until the file takes them')
      if (error === undefined && isFailing && taken > 0) log.info({ file: path }, 'flows are exported again')
      if (lines.length > 0) isFailing = error !== undefined
    }
  }
  return {
    follow: (observer, log) => files.forEach((file, i) => void following.push(follow(observer, log, file, all[i] as ExportSettings))),
    exported: () => ({ ...count }),
    close: async () => {
      closing.abort()
      await Promise.all(following)
      await Promise.all(files.map((file) => file.close()))
    },
  }
} // prettier-ignore

interface Line {
  readonly text: string
  /** 0 for what tells of a loss. */
  readonly flows: 0 | 1
}

interface LogFile {
  /** Resolves with how many of the lines the system has, from the first on; fewer than all with the error that stopped it. */
  readonly write: (lines: readonly Line[]) => Promise<{ readonly lines: number; readonly error?: unknown }>
  readonly close: () => Promise<void>
}

async function openLog({ file, sizeOctetsMax, filesMax }: ExportSettings): Promise<LogFile> {
  let handle: FileHandle | undefined
  let inode = 0
  let size = 0
  async function reopen(): Promise<void> {
    await handle?.close()
    handle = undefined
    await mkdir(dirname(file), { recursive: true })
    handle = await open(file, 'a', fileMode)
    const about = await handle.stat()
    inode = about.ino
    size = about.isFile() ? about.size : 0
  }
  /** Somebody else may have set the file aside, or removed it. */
  async function isOurs(): Promise<boolean> {
    return (await stat(file).catch(() => undefined))?.ino === inode
  }
  async function rotate(): Promise<void> {
    await handle?.close()
    handle = undefined
    const numbered = (number: number): string => (number === 0 ? file : `${file}.${number}`)
    await rm(numbered(filesMax - 1), { force: true })
    for (let number = filesMax - 2; number >= 0; number--)
      await rename(numbered(number), numbered(number + 1)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
      })
    await reopen()
  }
  async function append(text: string): Promise<void> {
    if (text === '' || handle === undefined) return
    const octets = Buffer.from(text)
    try {
      for (let at = 0; at < octets.length;) at += (await handle.write(octets, at)).bytesWritten
      size += octets.length
    } catch (error) {
      // No half line stays; what is no regular file cannot be cut.
      const about = await handle.stat()
      if (about.size > size) await handle.truncate(size).catch(() => undefined)
      throw error
    }
  }
  async function write(lines: readonly Line[]): ReturnType<LogFile['write']> {
    let taken = 0
    let held = ''
    let heldOctets = 0
    try {
      if (lines.length > 0 && (handle === undefined || !(await isOurs()))) await reopen()
      for (const [i, { text }] of lines.entries()) {
        const octets = Buffer.byteLength(text)
        const isFull = size + heldOctets > 0 && size + heldOctets + octets > sizeOctetsMax
        if (isFull) {
          await append(held)
          taken = i
          held = ''
          heldOctets = 0
          await rotate()
        }
        held += text
        heldOctets += octets
      }
      await append(held)
      return { lines: lines.length }
    } catch (error) {
      return { lines: taken, error }
    }
  }
  await reopen().catch((error: unknown) => {
    throw new ExportError(`observe.export: ${file} cannot be written: ${(error as Error).message}`)
  })
  return { write, close: async () => handle?.close() }
}
