// The set-up step on machines where it cannot succeed at once: what failed is tried again, and said again.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'namegate-setup-'))
  await copyFile('setup.sh', join(folder, 'setup.sh'))
  await writeFile(join(folder, 'package-lock.json'), '{}\n')
})
afterEach(() => rm(folder, { recursive: true }))

/** Runs the copy with an npm that notes its arguments and then does what the script says. */
async function setup(npm: string): Promise<{ status: number; err: string }> {
  await mkdir(join(folder, 'bin'), { recursive: true })
  await writeFile(join(folder, 'bin/npm'), `#!/bin/sh\necho "$@" >> calls\nmkdir -p node_modules/.bin\n${npm}\n`)
  await chmod(join(folder, 'bin/npm'), 0o755)
  return new Promise((resolve) =>
    execFile('sh', ['setup.sh'], { cwd: folder, env: { ...process.env, PATH: `${folder}/bin:${process.env['PATH']}` } }, (error, _out, err) =>
      resolve({ status: error === null ? 0 : Number(error.code), err }),
    ),
  )
} // prettier-ignore
const calls = async (): Promise<string[]> => (await readFile(join(folder, 'calls'), 'utf8')).trim().split('\n')
const installsNode = 'ln -s "$(command -v sh)" node_modules/.bin/node'

test('an install without the package "node" is no install: the next try installs again', async () => {
  for (let i = 0; i < 2; i++)
    expect(await setup('true')).toMatchObject({ status: 1, err: expect.stringContaining('did not install the package "node"') as string }) // prettier-ignore
  expect(await setup(installsNode)).toMatchObject({ status: 0 })
  expect(await setup(installsNode)).toMatchObject({ status: 0 })
  // Three tries; the fourth found all in place.
  expect(await calls()).toEqual(Array(3).fill('ci --include=dev --no-audit --no-fund'))
})

test('npm scripts end with what they start: a signal to npm reaches it', async () => {
  const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: Record<string, string> }
  const script = (scripts['start'] ?? '').replace('./setup.sh', '-c true').replace(/node \S+ \w+$/, 'sleep 1000')
  expect(script).toMatch(/sleep 1000$/)
  // As npm runs it.
  const child = spawn('sh', ['-c', `echo $$; ${script}`], { stdio: ['ignore', 'pipe', 'ignore'], detached: true })
  try {
    const [pid] = (await once(child.stdout, 'data')) as [Buffer]
    const name = (): Promise<string> => readFile(`/proc/${pid.toString().trim()}/comm`, 'utf8')
    await expect.poll(name, { timeout: 5000 }).toBe('sleep\n')
    child.kill('SIGTERM')
    expect(await once(child, 'exit')).toEqual([null, 'SIGTERM'])
  } finally {
    if (child.exitCode === null && child.signalCode === null) process.kill(-(child.pid ?? 0), 'SIGKILL')
  }
})
