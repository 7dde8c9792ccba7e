// The thread that goes into a namespace, fetches descriptors, and ends.
import { parentPort, workerData } from 'node:worker_threads'
import { doErrand, type Errand } from './namespace.ts'

let answer: number[] | { error: string }
try {
  answer = doErrand(workerData as Errand)
} catch (error) {
  answer = { error: error instanceof Error ? error.message : String(error) }
}
parentPort?.postMessage(answer)
