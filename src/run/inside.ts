// A thread that enters a namespace for good and runs a module there: `export function main(data)`.
import { workerData } from 'node:worker_threads'
import { enterNamespace } from './namespace.ts'

const { fd, module, data } = workerData as { fd: number; module: string; data: unknown }
enterNamespace(fd)
const { main } = (await import(module)) as { main: (data: unknown) => Promise<void> | void }
await main(data)
