// The thread that reads manifests: a part, then it waits until that was taken.
import { once } from 'node:events'
import { parentPort, workerData } from 'node:worker_threads'
import type { Reading, ReadPart } from './loader.ts'
import { readParts } from './manifests.ts'

const { files, options } = workerData as Reading
for (const [at, file] of files.entries())
  for (const part of readParts(file, options)) {
    const isTaken = parentPort === null ? undefined : once(parentPort, 'message')
    parentPort?.postMessage({ at, part } satisfies ReadPart)
    await isTaken
  }
parentPort?.postMessage(undefined satisfies ReadPart)
