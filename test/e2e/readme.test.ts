// What the README shows is what happens: its policy, its command, its output, its configuration, its routes.
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { routes } from '../../src/api/routes.ts'
import { makeProgram } from '../../src/cli/program.ts'
import { parseConfig } from '../../src/config.ts'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { temporaryFolder } from '../support/folder.ts'
import { addHost, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'

const readme = await readFile('README.md', 'utf8')
/** The fenced block behind a mark, or the first with a first line. */
const block = (from: string): string =>
  /```\w*\n([\s\S]*?)```/.exec(readme.slice(readme.indexOf(from)))?.[1] ?? expect.fail(`no block after ${from}`)
const reason = whyNoKernel()

test('npm commands are scripts', async () => {
  const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: Record<string, string> }
  for (const [, name = ''] of readme.matchAll(/^ {4}npm (?:run )?(\w+)/gm)) expect(Object.keys(scripts)).toContain(name)
})

test('namegate commands exist', () => {
  const commands = makeProgram().commands
  for (const [, name = ''] of readme.matchAll(/namegate (agent|restart|run|status|fqdn|endpoint|identity|policy)\b/g))
    expect(commands.map((c) => c.name())).toContain(name)
})

test('the routes of the table are the routes of the API', () => {
  const told = new Set<string>()
  for (const [, method = '', rest = ''] of readme.matchAll(/^\| `(GET|PUT|DELETE) (.*?)\|/gm))
    for (const [path] of rest.matchAll(/\/[\w/:]+/g)) told.add(`${method} ${path}`)
  expect([...told].sort()).toEqual([...routes].sort())
})

test('the configuration is one', () => {
  const result = parseConfig(block('namegate agent --config'), 'config.yaml')
  expect(result).toMatchObject({ ok: true, config: { manifests: '/etc/namegate/manifests' } })
})

test('explain prints what the README shows', async () => {
  const [shown = '', ...output] = block('<!-- test:explain -->').trimEnd().split('\n')
  const { stdout } = await promisify(execFile)('sh', ['-c', shown.replace(/^\$ /, '')])
  expect(stdout.trimEnd().split('\n')).toEqual(output)
})

test('policy commands and their options exist', () => {
  const policy = makeProgram().commands.find((command) => command.name() === 'policy')
  for (const [, name = '', rest = ''] of readme.matchAll(/namegate policy (\w+)(.*)/g)) {
    const command = policy?.commands.find((each) => each.name() === name) ?? expect.fail(`no command ${name}`)
    const own = rest.split('|')[0] ?? ''
    for (const [option] of own.matchAll(/(?<= )--?[a-z][a-z-]*/g))
      expect(
        command.options.flatMap(({ long, short }) => [long, short]),
        `${name} ${option}`,
      ).toContain(option)
  }
})

describe.skipIf(reason !== undefined)(`the story ${reason ?? ''}`, () => {
  let world: Host
  let upstream: EmbeddedUpstream
  beforeAll(async () => {
    enterLab()
    world = await addHost('world', ['10.3.0.2/24'], ['10.3.0.1/24'])
    sh('ip route add default via 10.3.0.2')
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
  })
  afterAll(async () => {
    await upstream?.close()
    world?.stop()
  })

  test('the command prints what the README shows', async () => {
    const [shown = '', ...output] = block('<!-- test:command -->').trimEnd().split('\n')
    const folder = await temporaryFolder()
    await writeFile(join(folder, 'policy.yaml'), block('<!-- test:policy -->'))
    const command = shown.replace(/^\$ /, '').replace('bin/namegate run', `${resolve('bin/namegate')} run --upstream 127.0.0.1:5300`)
    const got = await new Promise<string>((done) => execFile('sh', ['-c', `${command} 2>&1`], { cwd: folder }, (_error, out) => done(out)))
    const lines = (text: readonly string[]): string[] => text.map((line) => line.replace(/\s+/g, ' ').trim()).sort()
    expect(lines(got.trimEnd().split('\n'))).toEqual(lines(output))
  })
}) // prettier-ignore
