// Printing what a command found. `namegate fqdn cache list | head`: whoever stops reading has seen enough.

let isWatched = false
let ended: () => void = () => undefined
/** Resolves when nobody reads standard output any more. */
const readerGone = new Promise<void>((resolve) => (ended = resolve))

/** Writes to standard output; resolves with whether anybody still reads, once there is room for more. */
export async function print(text: string): Promise<boolean> {
  const { stdout } = process
  if (!isWatched) {
    isWatched = true
    stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
      ended()
    })
  }
  if (text === '' || stdout.write(text)) return !stdout.destroyed
  await Promise.race([new Promise<void>((resolve) => stdout.once('drain', resolve)), readerGone])
  return !stdout.destroyed
}
