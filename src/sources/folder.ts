// Manifests on disk: reads a folder (or one file) and says when what is in it has changed.
import { watch, type FSWatcher } from 'node:fs'
import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { manifestCharactersMax, type ManifestFile } from './documents.ts'

const endings = ['.yaml', '.yml', '.json']
/** Editors and `kubectl` write in several steps; what comes within this time is one change. */
const settleMillis = 50
/** A change waits for no more than that: something in the folder may be written to all the time. */
const settleMillisMax = 1000
/** Should the watch miss something (network file systems, a folder that was replaced), it is noticed by then. */
const pollMillis = 2000
/** Polling may cost this part of the time at most: a large folder (0.2 s for 10 000 files) is polled less often. */
const pollShare = 0.02
const pollMillisMax = 30_000

/** Open files have a bound of their own (1024 on many machines); so many are read at a time. */
const readAtOnce = 64
/** A larger file is not even read: whoever reads it refuses it at `manifestCharactersMax`, and a character has four octets at most. */
const octetsMax = 4 * manifestCharactersMax
/** Times of files are no finer than some milliseconds: what was changed this shortly before it was read may have changed since. */
const freshMillis = 2000
/** `kubectl get … > FILE` empties the file first, and fills it when the server has answered: for so long an emptied file has what it had. */
const emptyMillis = 10_000

/** The manifests at `path`: the file itself, or the folder's *.yaml, *.yml and *.json in order, without hidden ones. Rejects like fs does. */
export function readManifests(path: string): Promise<ManifestFile[]> {
  return makeFolderReader(path)()
}

/** Kubernetes mounts a ConfigMap's files as symlinks through this one, and changes them all at once by putting another in its place. */
const swapName = '..data'
/** A folder that is swapped while it is read is read again, this often. */
const swapsMax = 5

/** Where the files of a ConfigMap's mount are now; undefined where nothing is swapped. */
const swappedTo = (folder: string): Promise<string | undefined> => readlink(join(folder, swapName)).catch(() => undefined) // prettier-ignore

/**
 * Reads `path` again and again, and of a folder only the files that changed.
 * @param before what was read of it already.
 */
function makeFolderReader(path: string, before: readonly ManifestFile[] = []): () => Promise<ManifestFile[]> {
  let known = new Map<string, KnownFile>(before.map((file) => [file.path, { ...file, state: 'earlier' }]))

  return async () => {
    if (!(await stat(path)).isDirectory()) {
      const file = await readFileAnew(path, undefined)
      if (file === undefined) throw new Error(`${path} is no regular file`)
      return [{ path, text: file.text }]
    }
    // Of two sets, some files of the one and some of the other are neither.
    for (let tries = 1; ; tries++) {
      const place = await swappedTo(path)
      const files = await readFolder()
      if ((await swappedTo(path)) === place || tries >= swapsMax) return files
    }
  }

  async function readFolder(): Promise<ManifestFile[]> {
    const paths = await pathsIn(path)
    const files: (KnownFile | undefined)[] = []
    for (let at = 0; at < paths.length; at += readAtOnce)
      files.push(
        ...(await Promise.all(paths.slice(at, at + readAtOnce).map((one) => readFileAnew(one, known.get(one))))),
      )
    known = new Map(files.flatMap((file) => (file === undefined ? [] : [[file.path, file]])))
    return [...known.values()].map(({ path, text }) => ({ path, text }))
  }
}

/** Whether a file of a folder is one, by its name. */
export function isManifest(name: string): boolean {
  return !name.startsWith('.') && endings.some((ending) => name.endsWith(ending))
}

async function pathsIn(folder: string): Promise<string[]> {
  const names = (await readdir(folder)).filter(isManifest)
  return names.sort().map((name) => join(folder, name))
}

interface KnownFile extends ManifestFile {
  /** What a file's inode says of its state. */
  readonly state: string
}

/** What is not there, or not any more, is undefined. */
function unlessGone<T>(reading: Promise<T>): Promise<T | undefined> {
  return reading.catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
}

/** Regular files only (through symlinks): to read a pipe would wait for ever. What vanished meanwhile is not there. */
async function readFileAnew(path: string, known: KnownFile | undefined): Promise<KnownFile | undefined> {
  const found = await unlessGone(stat(path, { bigint: true }))
  if (found?.isFile() !== true) return undefined
  if (found.size > octetsMax) throw new Error(`${path} is larger than ${octetsMax} octets`)
  const { dev, ino, size, mtimeNs, ctimeNs } = found
  const ageMillis = Date.now() - Number(ctimeNs / 1_000_000n)
  if (size === 0n && ageMillis < emptyMillis && known !== undefined) return { ...known, state: 'emptied' }
  const isFresh = ageMillis < freshMillis
  const state = isFresh ? 'fresh' : [dev, ino, size, mtimeNs, ctimeNs].join()
  if (known !== undefined && !isFresh && known.state === state) return known
  const text = await unlessGone(readFile(path, 'utf8'))
  return text === undefined ? undefined : { path, text, state }
}

export interface FolderWatch {
  /** Looks now, without waiting to be told of a change. */
  readonly look: () => void
  readonly close: () => void
}

/**
 * Calls `onChange` with all manifests whenever their text differs from what was last given (first: `initial`), and `onError` when they
 * cannot be read. Files that are replaced (rename, the symlinks of a ConfigMap) count as changed by their text.
 */
export function watchManifests(
  path: string,
  initial: readonly ManifestFile[],
  onChange: (files: readonly ManifestFile[]) => void,
  onError: (error: Error) => void,
): FolderWatch {
  const read = makeFolderReader(path, initial)
  let last: readonly ManifestFile[] | string = initial
  let closed = false
  let settling: NodeJS.Timeout | undefined
  let reading: Promise<void> = Promise.resolve()

  async function look(): Promise<void> {
    const start = performance.now()
    try {
      const files = await read()
      if (closed || (typeof last !== 'string' && sameFiles(files, last))) return
      // A folder that lost everything at once was unmounted or emptied by mistake: no policy would be in force. To mean it, leave an empty file.
      if (files.length === 0) throw new Error(`there are no manifests in ${path} any more`)
      last = files
      onChange(files)
    } catch (error) {
      if (!closed && last !== String(error)) {
        last = String(error)
        onError(error as Error)
      }
    } finally {
      clearTimeout(poll)
      if (!closed)
        poll = setTimeout(soon, Math.min(pollMillisMax, Math.max(pollMillis, (performance.now() - start) / pollShare)))
    }
  }
  let since: number | undefined
  const soon = (): void => {
    const now = performance.now()
    since ??= now
    clearTimeout(settling)
    settling = setTimeout(
      () => {
        since = undefined
        reading = reading.then(look)
      },
      Math.max(0, Math.min(settleMillis, since + settleMillisMax - now)),
    )
  }
  let poll = setTimeout(soon, pollMillis)
  const watchers = watchPlaces(path, soon)

  function close(): void {
    closed = true
    clearTimeout(settling)
    clearTimeout(poll)
    watchers.close()
  }
  return { look: soon, close }
}

/**
 * Calls `changed` when something changes in the folder itself, or with it in the one it lies in: a single file, or a folder swapped as a whole,
 * changes there. Where no watch is to be had (inotify limits, gone folder), the poll notices.
 */
function watchPlaces(path: string, changed: () => void): { readonly close: () => void } {
  let inner = watchPlace(path, changed)
  const outer = watchPlace(dirname(path), (name) => {
    if (name !== basename(path) && name !== swapName) return
    // Another folder may stand there now: what is watched is the one that was.
    inner?.close()
    inner = watchPlace(path, changed)
    changed()
  })
  return {
    close() {
      inner?.close()
      outer?.close()
    },
  }
}

function watchPlace(place: string, changed: (name: string | null) => void): FSWatcher | undefined {
  try {
    const watcher = watch(place, (_event, name) => changed(name))
    watcher.on('error', () => undefined)
    return watcher
  } catch {
    return undefined
  }
}

function sameFiles(a: readonly ManifestFile[], b: readonly ManifestFile[]): boolean {
  return a.length === b.length && a.every(({ path, text }, i) => path === b[i]?.path && text === b[i].text)
}
