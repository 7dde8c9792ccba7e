// The project's own form: who imports whom, what pure folders may not do, which files there are not.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'

const files = (readdirSync('src', { recursive: true }) as string[])
  .filter((name) => name.endsWith('.ts'))
  .map((name) => join('src', name))
const importsOf = (file: string): string[] =>
  [...readFileSync(file, 'utf8').matchAll(/(?:from|import\() ?'([^']+)'/g)].map(([, name = '']) => name)
/** The folder below src in which a file lies; '' for src itself. */
const folderOf = (file: string): string => {
  const path = relative('src', file)
  return path.includes('/') ? (path.split('/')[0] ?? '') : ''
}
const inside = (file: string, name: string): string => relative('.', resolve(dirname(file), name))

/** What each folder may import of ours, besides itself. `clock.ts` and `steps.ts` are for all, `turns.ts` for shells; shells are not restricted. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  net: [],
  wire: ['net'],
  match: [],
  l7: [],
  identity: ['net'],
  policy: ['net', 'wire', 'match', 'identity', 'l7'],
  leases: ['net', 'identity', 'datapath'],
  datapath: ['net', 'identity', 'policy'],
  proxy: ['net', 'wire', 'identity', 'policy', 'leases'],
  sources: ['net', 'policy'],
}
const forAll = ['src/clock.ts', 'src/steps.ts', 'src/turns.ts']
const pure = ['net', 'wire', 'match', 'l7', 'identity', 'policy', 'leases']
const pureFiles = [
  'src/datapath/element.ts',
  'src/datapath/cell.ts',
  'src/datapath/peers.ts',
  'src/datapath/desired.ts',
  'src/datapath/structure.ts',
  'src/datapath/nfnetlink.ts',
  'src/datapath/ctnetlink.ts',
  'src/datapath/rtnetlink.ts',
  'src/datapath/cut.ts',
  'src/datapath/nflog.ts',
]

for (const file of files) {
  const permitted = allowed[folderOf(file)]
  test(file, () => {
    for (const name of importsOf(file).filter((n) => n.startsWith('.'))) {
      const target = inside(file, name)
      if (permitted !== undefined && !forAll.includes(target)) expect([folderOf(file), ...permitted], `${file} imports ${target}`).toContain(folderOf(target)) // prettier-ignore
      // Leases know only what an element is, nothing of how the kernel gets it.
      if (folderOf(file) === 'leases' && folderOf(target) === 'datapath') expect(target).toBe('src/datapath/element.ts')
    }
    const text = readFileSync(file, 'utf8')
    if (pure.includes(folderOf(file)) || pureFiles.includes(file)) {
      expect(importsOf(file).filter((name) => name.startsWith('node:') || name === 'koffi' || name.endsWith('/turns.ts'))).toEqual([]) // prettier-ignore
      expect(text).not.toMatch(/\b(setTimeout|setInterval|setImmediate|Date\.now|performance\.now|new Date)\b/)
    }
    expect(file).not.toMatch(/\/(index|utils|types|helpers)\.ts$/)
    expect(text).not.toMatch(/^export default/m)
    expect(text.startsWith('//'), `${file} opens with what it is`).toBe(true)
  })
}

test('every dependency is used', () => {
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as { dependencies: Record<string, string> }
  const imported = new Set(files.flatMap(importsOf))
  for (const name of Object.keys(dependencies))
    expect(
      [...imported].some((i) => i === name || i.startsWith(`${name}/`)),
      name,
    ).toBe(true)
})

test('every file of src is in the map', () => {
  const map = readFileSync('src/README.md', 'utf8')
  for (const folder of new Set(files.map(folderOf)))
    expect(map).toContain(folder === '' ? 'agent.ts' : `\`${folder}/\``)
})

test('tests that make folders remove them', () => {
  for (const name of (readdirSync('test', { recursive: true }) as string[]).filter((file) => file.endsWith('.ts'))) {
    const text = readFileSync(join('test', name), 'utf8')
    if (/\bmkdtemp\(join/.test(text)) expect(text, name).toMatch(/\brm\(/)
  }
})
