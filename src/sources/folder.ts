// Manifests on disk: reads a folder (or one file) and says when what is in it has changed.
import { watch, type FSWatcher } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { ManifestFile } from './manifests.ts'

const endings = ['.yaml', '.yml', '.json']
/** Editors and `kubectl` write in several steps; what comes within this time is one change. */
const settleMillis = 50
/** Should the watch miss something (network file systems, a folder that was replaced), it is noticed by then. */
const pollMillis = 2000
/** Polling may cost this part of the time at most: a large folder (0.2 s for 10 000 files) is polled less often. */
const pollShare = 0.02

/** Open files have a bound of their own (1024 on many machines); so many are read at a time. */
const readAtOnce = 64
/** Times of files are no finer than some milliseconds: what was changed this shortly before it was read may have changed since. */
const freshMillis = 2000

/** The manifests at `path`: the file itself, or the folder's *.yaml, *.yml and *.json in order, without hidden ones. Rejects like fs does. */
export function readManifests(path: string): Promise<ManifestFile[]> {
  return makeFolderReader(path)()
}

/** Reads `path` again and again, and of a folder only the files that changed. */
function makeFolderReader(path: string): () => Promise<ManifestFile[]> {
  let known = new Map<string, KnownFile>()

  return async () => {
    if (!(await stat(path)).isDirectory()) return [{ path, text: await readFile(path, 'utf8') }]
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

/** Regular files only (through symlinks): to read a pipe would wait for ever. What vanished meanwhile is not there. */
async function readFileAnew(path: string, known: KnownFile | undefined): Promise<KnownFile | undefined> {
  const found = await stat(path, { bigint: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (found?.isFile() !== true) return undefined
  const { dev, ino, size, mtimeNs, ctimeNs } = found
  const isFresh = Date.now() - Number(ctimeNs / 1_000_000n) < freshMillis
  const state = isFresh ? 'fresh' : [dev, ino, size, mtimeNs, ctimeNs].join()
  return known !== undefined && !isFresh && known.state === state ? known : { path, text: await readFile(path, 'utf8'), state } // prettier-ignore
}

export interface FolderWatch {
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
  const read = makeFolderReader(path)
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
      if (!closed) poll = setTimeout(soon, Math.max(pollMillis, (performance.now() - start) / pollShare))
    }
  }
  const soon = (): void => {
    clearTimeout(settling)
    settling = setTimeout(() => {
      reading = reading.then(look)
    }, settleMillis)
  }
  let poll = setTimeout(soon, pollMillis)
  const watchers: FSWatcher[] = []
  // The folder itself, and the one it lies in: a single file, or a folder swapped as a whole, changes there.
  for (const [place, name] of [
    [path, undefined],
    [dirname(path), basename(path)],
  ] as const)
    // prettier-ignore
    try {
      const watcher = watch(place, (_event, changed) => {
        if (name === undefined || changed === name) soon()
      })
      watcher.on('error', () => undefined)
      watchers.push(watcher)
    } catch {
      // No watch to be had (inotify limits, gone folder): the poll notices.
    }

  function close(): void {
    closed = true
    clearTimeout(settling)
    clearTimeout(poll)
    for (const watcher of watchers) watcher.close()
  }
  return { close }
}

function sameFiles(a: readonly ManifestFile[], b: readonly ManifestFile[]): boolean {
  return a.length === b.length && a.every(({ path, text }, i) => path === b[i]?.path && text === b[i].text)
}
