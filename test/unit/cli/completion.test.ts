// `namegate completion`: what real shells make of the scripts. Shells that are not here are said to be missing.
import { execFile, execFileSync } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeEach, describe, expect, test } from 'vitest'
import { completionScript, shells } from '../../../src/cli/completion.ts'
import { makeProgram } from '../../../src/cli/program.ts'
import { temporaryFolder } from '../../support/folder.ts'

const run = promisify(execFile)
const cases: readonly { line: string; offers?: readonly string[]; lacks?: readonly string[]; only?: readonly string[]; files?: boolean }[] = [
  { line: 'namegate ', offers: ['agent', 'run', 'observe', 'why', 'fqdn', 'completion', '--version', '--help'], lacks: ['cache', 'help'] },
  { line: 'namegate f', only: ['fqdn'] },
  { line: 'namegate fqdn cache ', offers: ['list', 'clean'], lacks: ['agent', '--cidr'] },
  { line: 'namegate fqdn cache list --m', only: ['--matchpattern'] },
  { line: 'namegate fqdn cache list -o ', only: ['table', 'json', 'yaml'] },
  { line: 'namegate fqdn cache list -o j', only: ['json'] },
  { line: 'namegate fqdn cache list -p fqdn --ci', only: ['--cidr'] },
  { line: 'namegate fqdn cache list -p ', only: [] },
  { line: 'namegate observe --from-l', only: ['--from-label'] },
  { line: 'namegate observe --not --verd', only: ['--verdict'] },
  { line: 'namegate policy lint --fail-on w', only: ['warning'] },
  { line: 'namegate policy lint ', offers: ['--patch'], lacks: ['validate'] },
  { line: 'namegate policy lint k8', only: [], files: true },
  { line: 'namegate agent --config ', only: [], files: true },
  { line: 'namegate run --policy p.yaml -- namegate f', only: [], files: true },
  { line: 'namegate completion ', offers: [...shells], lacks: ['agent'] },
] // prettier-ignore

describe('bash', () => {
  let script: string
  beforeEach(async () => {
    script = join(await temporaryFolder(), 'namegate.bash')
    await writeFile(script, completionScript(makeProgram(), 'bash'))
  })
  /** What bash completes the line to, by the function that it would call; `compopt` works only where readline calls it, and says so here. */
  async function complete(line: string): Promise<{ words: string[]; files: boolean }> {
    const said = `set -u; source '${script}'; compopt() { echo "compopt $*"; }
      read -ra COMP_WORDS <<<"$1"; [[ $1 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
      $(complete -p namegate | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); printf '%s\\n' "\${COMPREPLY[@]}"`
    const { stdout, stderr } = await run('bash', ['--norc', '-c', said, 'bash', line])
    expect(stderr).toBe('')
    const words = stdout.split('\n').filter(Boolean)
    return { words: words.filter((word) => !word.startsWith('compopt')), files: words.includes('compopt -o default') }
  }
  for (const { line, offers = [], lacks = [], only, files } of cases)
    test(line, async () => {
      const said = await complete(line)
      if (only !== undefined) expect(said.words.sort()).toEqual([...only].sort())
      expect(said.words).toEqual(expect.arrayContaining([...offers]))
      for (const word of lacks) expect(said.words).not.toContain(word)
      if (files !== undefined) expect(said.files).toBe(files)
    })
  test('the command prints the script', async () => {
    const { stdout } = await run('bin/namegate', ['completion', 'bash'])
    expect(stdout).toBe(completionScript(makeProgram(), 'bash'))
    await expect(run('bin/namegate', ['completion', 'tcsh'])).rejects.toThrow('Allowed choices are bash, zsh, fish')
  })
})

const isThere = (shell: string): boolean => {
  try {
    execFileSync(shell, ['-c', 'true'])
    return true
  } catch {
    return false
  }
}
for (const shell of ['zsh', 'fish'] as const) {
  const program = process.env[`${shell.toUpperCase()}_BIN`] ?? shell
  describe.skipIf(!isThere(program))(`${shell}${isThere(program) ? '' : ': there is none here'}`, () => {
    test('reads the script without complaint', async () => {
      const script = join(await temporaryFolder(), `namegate.${shell}`)
      await writeFile(script, completionScript(makeProgram(), shell))
      expect(await run(program, ['-n', script])).toEqual({ stdout: '', stderr: '' })
    })
    if (shell === 'zsh')
      for (const { line, offers = [], lacks = [], only, files } of cases)
        test(line, async () => {
          const script = join(await temporaryFolder(), 'namegate.zsh')
          await writeFile(script, completionScript(makeProgram(), 'zsh'))
          // What zsh's own completion functions are told; they choose by what is begun, as they do for everybody.
          const said = `compdef() {}; _files() { print files }; compadd() { shift; print -l -- "$@" }
            _describe() { local each; for each in \${(P)2}; do print -r -- \${each%%:*}; done }
            source '${script}'; words=(\${(z)1}); [[ $1 == *' ' ]] && words+=(''); CURRENT=$#words PREFIX=$words[-1]; _namegate`
          const { stdout, stderr } = await run(program, ['-f', '-c', said, 'zsh', line])
          expect(stderr).toBe('')
          const begun = line.slice(line.lastIndexOf(' ') + 1)
          const words = stdout.split('\n').filter((word) => word !== '' && word !== 'files' && word.startsWith(begun))
          expect(words).toEqual(expect.arrayContaining([...offers]))
          for (const word of lacks) expect(words).not.toContain(word)
          if (only !== undefined) expect(words.sort()).toEqual([...only].sort())
          if (files !== undefined) expect(stdout.split('\n').includes('files')).toBe(files)
        })
    if (shell === 'fish')
      for (const { line, offers = [], only } of cases.filter(({ files }) => files !== true))
        test(line, async () => {
          const script = join(await temporaryFolder(), 'namegate.fish')
          await writeFile(script, completionScript(makeProgram(), 'fish'))
          const { stdout } = await run(program, ['--no-config', '-c', `source '${script}'; complete -C '${line}'`])
          const words = stdout.split('\n').filter(Boolean).map((each) => each.split('\t')[0] ?? '') // prettier-ignore
          // fish offers options only where one is begun.
          expect(words).toEqual(expect.arrayContaining(offers.filter((word) => !word.startsWith('-'))))
          if (only !== undefined) expect(words.sort()).toEqual([...only].sort())
        })
  })
}
