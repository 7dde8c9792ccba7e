// Printing what a command found. `namegate fqdn cache list | head`: whoever stops reading has seen enough.

/** Whether a reader is there: watched from the first line on, as long as the process lives. */
const reader = { watched: false, gone: false, leave: (): void => undefined }
const readerGone = new Promise<void>((resolve) => (reader.leave = resolve))

/** Writes to standard output; resolves with whether anybody still reads, once there is room for more. */
export async function print(text: string): Promise<boolean> {
  const { stdout } = process
  if (!reader.watched) {
    reader.watched = true
    stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
      reader.gone = true
      reader.leave()
    })
  }
  if (reader.gone || text === '' || stdout.write(text)) return !reader.gone
  let roomy: () => void = () => undefined
  await Promise.race([new Promise<void>((resolve) => stdout.once('drain', (roomy = resolve))), readerGone])
  stdout.off('drain', roomy)
  return !reader.gone
}
