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

/** The manifests at `path`: the file itself, or the folder's *.yaml, *.yml and *.json in order, without hidden ones. Rejects like fs does. */
export async function readManifests(path: string): Promise<ManifestFile[]> {
  if (!(await stat(path)).isDirectory()) return [{ path, text: await readFile(path, 'utf8') }]
  const names = (await readdir(path))
    .filter((name) => !name.startsWith('.') && endings.some((ending) => name.endsWith(ending)))
    .sort()
  const files = await Promise.all(names.map((name) => readManifest(join(path, name))))
  return files.filter((file) => file !== undefined)
}

/** Regular files only (through symlinks): to read a pipe would wait for ever. What vanished meanwhile is not there. */
async function readManifest(path: string): Promise<ManifestFile | undefined> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  return found?.isFile() === true ? { path, text: await readFile(path, 'utf8') } : undefined
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
  let last = JSON.stringify(initial)
  let closed = false
  let settling: NodeJS.Timeout | undefined
  let reading: Promise<void> = Promise.resolve()

  async function look(): Promise<void> {
    try {
      const files = await readManifests(path)
      const text = JSON.stringify(files)
      if (closed || text === last) return
      // A folder that lost everything at once was unmounted or emptied by mistake: no policy would be in force. To mean it, leave an empty file.
      if (files.length === 0) throw new Error(`there are no manifests in ${path} any more`)
      last = text
      onChange(files)
    } catch (error) {
      if (!closed && last !== String(error)) {
        last = String(error)
        onError(error as Error)
      }
    }
  }
  const soon = (): void => {
    clearTimeout(settling)
    settling = setTimeout(() => {
      reading = reading.then(look)
    }, settleMillis)
  }
  const poll = setInterval(soon, pollMillis)
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
    clearInterval(poll)
    for (const watcher of watchers) watcher.close()
  }
  return { close }
}
