// What takes long is told of while it does: one line on standard error, when that is a terminal, and gone before anything else is printed.
import type { Millis } from '../clock.ts'

export interface Screen {
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
  readonly write: (text: string) => unknown
}

/** Where a computation stands: `reading manifests`, 3 of 100. Its total is undefined where nobody knows it. */
export interface Stand {
  readonly what: string
  readonly done: number
  readonly total?: number
}

export interface Progress {
  /** @param isLong what comes next takes over a second, and says nothing meanwhile: it is told of at once */
  readonly tell: (stand: Stand, isLong?: boolean) => void
  /** Takes the line away. To be called before anything else is printed, and at the end. */
  readonly end: () => void
}

/** What is over sooner is not told of. */
const patienceMillis = 1000
/** Ten times a second is as fast as people see; terminals far away are slow. */
const betweenMillis = 100
/** Of a terminal that does not say how wide it is. */
const columnsUsual = 80

export const silent: Progress = { tell: () => undefined, end: () => undefined }

/** Silent where nobody looks: in pipes, files and CI. @param now when it is, from any moment on */
export function makeProgress(screen: Screen, now: () => Millis): Progress {
  if (screen.isTTY !== true) return silent
  const startedAt = now()
  let toldAt = -Infinity
  let shown = 0
  function tell({ what, done, total }: Stand, isLong = false): void {
    const at = now()
    if (!isLong && (at < startedAt + patienceMillis || at < toldAt + betweenMillis)) return
    toldAt = at
    const columns = screen.columns === undefined || screen.columns === 0 ? columnsUsual : screen.columns
    // A line that wraps could not be taken back.
    const text = `${what}: ${done}${total === undefined ? '' : ` of ${total}`} ...`.slice(0, columns - 1)
    screen.write(`\r${text.padEnd(shown)}`)
    shown = text.length
  }
  function end(): void {
    if (shown > 0) screen.write(`\r${' '.repeat(shown)}\r`)
    shown = 0
  }
  return { tell, end }
}

/** Runs what takes long; its line is gone when that has ended, however it has. */
export async function withProgress<T>(work: (tell: Progress['tell']) => Promise<T>): Promise<T> {
  const progress = makeProgress(process.stderr, () => performance.now())
  try {
    return await work(progress.tell)
  } finally {
    progress.end()
  }
}
