// Folders for tests, which nothing of is left.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'

/** A new folder for the test that is running; it goes when the test has ended, however that was. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'namegate-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}
