// Manifests into a world, again and again: what did not change is not read anew, and much text is read on another thread.
import { Worker } from 'node:worker_threads'
import type { ParseOptions } from '../policy/rules.ts'
import { defaultParseOptions, joinContents, joinParts, makeConflictWarner, readFile, type Content, type Loaded, type ManifestFile, type Part } from './manifests.ts' // prettier-ignore

/** As much is read here, in some 25 ms (YAML takes 0.5 ms a thousand characters): a thread of its own takes half a second to begin. */
const charactersHereMax = 50_000

/** What the reading thread is given, and what it says: a part of a file, by its place in the list; undefined when all is read. */
export interface Reading {
  readonly files: readonly ManifestFile[]
  readonly options: ParseOptions
}
export type ReadPart = { readonly at: number; readonly part: Part } | undefined

/**
 * Loads again and again; one load must be at its end before the next begins. A file whose text is the same as last time is not read again: its
 * policies, pods and the others are the same objects, by which whoever compiles sees what changed. A load rejects when its thread breaks down, or
 * `signal` ends it.
 */
export function makeLoader(
  options: Partial<ParseOptions> = {},
  signal?: AbortSignal,
): (files: readonly ManifestFile[]) => Promise<Loaded> {
  const all = { ...defaultParseOptions, ...options }
  const warn = makeConflictWarner(all.clusterName)
  let known = new Map<string, Content>()

  return async (files) => {
    const changed = files.filter((file) => known.get(file.path)?.text !== file.text)
    const characters = changed.reduce((sum, { text }) => sum + text.length, 0)
    const read = characters <= charactersHereMax ? changed.map((file) => readFile(file, all)) : await readAside({ files: changed, options: all }, signal) // prettier-ignore
    const fresh = new Map(read.map((content) => [content.path, content]))
    const contents = files.flatMap(({ path }) => fresh.get(path) ?? known.get(path) ?? [])
    known = new Map(contents.map((content) => [content.path, content]))
    return joinContents(contents, warn)
  }
}

/** Reads files on a thread of its own. */
async function readAside(reading: Reading, signal: AbortSignal | undefined): Promise<Content[]> {
  signal?.throwIfAborted()
  const parts = reading.files.map((): Part[] => [])
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('reader.ts', import.meta.url), { workerData: reading })
    worker.on('message', (message: ReadPart) => {
      if (message === undefined) {
        resolve(reading.files.map((file, at) => joinParts(file, parts[at] ?? [])))
        return
      }
      parts[message.at]?.push(message.part)
      // The next one only in the next turn: to take one over costs a millisecond.
      setImmediate(() => worker.postMessage('next'))
    })
    const end = (): void => void worker.terminate()
    signal?.addEventListener('abort', end)
    worker.once('error', reject)
    worker.once('exit', () => {
      signal?.removeEventListener('abort', end)
      reject(new Error('the thread that reads manifests ended too early'))
    })
  })
}
