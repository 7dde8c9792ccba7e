// `npm start`, as far as its table; and that nothing stays behind.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { temporaryFolder } from '../support/folder.ts'
import { enterLab, sh, whyNoKernel } from '../support/lab.ts'

const reason = whyNoKernel()
const demo = (...args: string[]): Promise<string> =>
  new Promise((resolve, reject) =>
    execFile('bin/namegate', ['demo', ...args], (error, out) =>
      error === null ? resolve(out) : reject(new Error(error.message)),
    ),
  )

/** WHO, WHAT and RESULT of each line. */
const story = (out: string): string[] => {
  const lines = out.split('\n')
  const head = lines.find((line) => line.startsWith('WHO')) ?? ''
  const rows = lines
    .slice(lines.indexOf(head) + 1)
    .filter((line) => line.startsWith('shop') || line.startsWith('batch'))
  return rows.map((row) => row.slice(0, head.indexOf('LEASE')).replace(/\s+/g, ' ').trim())
}
const told = [
  'shop connect 198.18.0.20 tcp/443 denied',
  'shop lookup api.example.com 198.18.0.20',
  'shop connect 198.18.0.20 tcp/443 connected',
  'shop connect 198.18.0.20 tcp/80 denied',
  'batch connect 198.18.0.20 tcp/443 denied',
  'batch lookup api.example.com REFUSED',
  'batch lookup pay.example.com 198.18.0.21 198.18.0.22',
  'batch connect 198.18.0.21 tcp/443 connected',
  'shop lookup www.example.com 198.18.1.7',
  'shop connect 198.18.1.7 tcp/443 connected',
  'shop lookup tracker.example.net @8.8.8.8 REFUSED',
  'shop connect 198.18.1.66 tcp/443 denied',
  'batch connect 10.244.1.2 tcp/8080 connected',
  'shop connect 10.244.2.2 tcp/8080 denied',
]

const judged = told.map((line) =>
  line.replace(/(connect .*) connected$/, '$1 would connect').replace(/(connect .*) denied$/, '$1 would be denied'),
)

test('without a kernel the same story is judged', async () => {
  const out = await demo('--once', '--verdicts-only')
  expect(out).toContain('Verdicts only (as you asked)')
  expect(story(out)).toEqual(judged)
})

test('whoever stops reading has seen enough: it ends well, and leaves no folder', async () => {
  const folder = await temporaryFolder()
  const pipe = 'set -o pipefail; bin/namegate demo --verdicts-only | head -1'
  const got = await new Promise<{ status: number; out: string; err: string }>((resolve) =>
    execFile('bash', ['-c', pipe], { env: { ...process.env, TMPDIR: folder }, timeout: 20_000 }, (error, out, err) =>
      resolve({ status: error === null ? 0 : Number(error.code), out, err }),
    ),
  )
  expect(got).toEqual({ status: 0, out: expect.stringContaining('Verdicts only') as string, err: '' })
  const child = spawn('bin/namegate', ['demo', '--verdicts-only'], { env: { ...process.env, TMPDIR: folder } })
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  await expect.poll(() => out, { timeout: 10_000 }).toContain('Ctrl-C ends it')
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(await readdir(folder)).toEqual([])
})

describe.skipIf(reason !== undefined)(`with a kernel ${reason ?? ''}`, () => {
  test('the story is enforced', async () => {
    enterLab()
    const out = await demo('--once')
    expect(story(out)).toEqual(told)
    expect(out).toContain('2 acknowledged by the kernel')
  })

  const lacking = [
    { title: 'nft', script: 'mount -t tmpfs tmpfs /usr/sbin', why: 'not installed: nft' },
    { title: 'capabilities', script: 'set -- setpriv --bounding-set -sys_admin,-net_admin "$@"', why: 'root, but without the capabilities' },
  ] // prettier-ignore
  for (const { title, script, why } of lacking)
    test(`root without ${title}: said, and judged`, async () => {
      const command = `${script}; exec "$@"`
      const out = await new Promise<string>((resolve) =>
        execFile('unshare', ['--mount', 'sh', '-ec', command, 'sh', 'bin/namegate', 'demo', '--once'], (_error, text) =>
          resolve(text),
        ),
      )
      expect(out).toContain(`Verdicts only (${why}`)
      expect(story(out)).toEqual(judged)
    })

  test('it stays up with its API until a signal, and leaves nothing', async () => {
    const before = sh('ip -o link; nft list ruleset; ls /run/netns 2>/dev/null || true')
    const child = spawn('bin/namegate', ['demo'], { stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    await expect.poll(() => out, { timeout: 10_000 }).toContain('Ctrl-C ends it')
    const api = /NAMEGATE_API=(\S+)/.exec(out)?.[1] ?? ''
    const listed = await new Promise<string>((resolve) =>
      execFile('bin/namegate', ['fqdn', 'cache', 'list', '--api', api], (_e, text) => resolve(text)),
    )
    expect(listed).toContain('pay.example.com.')
    child.kill('SIGINT')
    const [status] = (await once(child, 'exit')) as [number | null]
    expect(status).toBe(0)
    expect(sh('ip -o link; nft list ruleset; ls /run/netns 2>/dev/null || true')).toBe(before)
  })
})
