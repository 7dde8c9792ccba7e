// The journal of leases: what was written is read; what is torn, foreign or in the way is set aside, said, and never fatal.
import { readFile, writeFile, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { beforeEach, expect, test } from 'vitest'
import { lineOf, makeJournal, parseJournal, readJournal, type JournalEntry } from '../../src/journal.ts'
import { temporaryFolder } from '../support/folder.ts'

const entry = (over: Partial<JournalEntry> = {}): JournalEntry => ({ labels: 'abc', endpoint: 'default/web', name: 'api.example.com', address: '198.18.0.1', ttlSeconds: 60, learnedAt: 1_700_000_000_000, ...over }) // prettier-ignore
const other = entry({ address: '198.18.0.2' })

let path: string
let said: string[]
const say = (text: string): void => void said.push(text)
beforeEach(async () => {
  path = join(await temporaryFolder(), 'deep', 'leases')
  said = []
})

/** A journal with these entries, closed. */
async function written(...entries: JournalEntry[]): Promise<string> {
  const journal = makeJournal(path, say)
  await journal.rewrite([])
  journal.note(entries)
  await journal.close()
  return readFile(path, 'utf8')
}

test('what was noted is read, the last word on each', async () => {
  const journal = makeJournal(path, say)
  journal.note([entry({ name: 'before.example.com' })])
  await journal.rewrite([entry(), entry({ name: 'b.example.com' })])
  journal.note([entry({ ttlSeconds: 90 }), other])
  journal.lost({ labels: 'abc', name: 'b.example.com', address: '198.18.0.1' })
  await journal.close()
  expect(await readJournal(path, say)).toEqual([entry({ ttlSeconds: 90 }), entry({ name: 'before.example.com' }), other]) // prettier-ignore
  expect(said).toEqual([])
})

test('a name with any octets, as text', async () => {
  const names = ['a\\.b.example.com', 'x"\n\u00ff.example.com', '.', '__proto__']
  await written(...names.map((name) => entry({ name })))
  expect((await readJournal(path, say)).map(({ name }) => name)).toEqual(names)
})

test('nothing there is nothing wrong', async () => {
  expect(await readJournal(path, say)).toEqual([])
  expect(said).toEqual([])
})

test('cut anywhere: all lines before the cut count, and the file is set aside', async () => {
  const text = await written(entry(), other)
  const lines = text.split('\n').slice(1, -1)
  fc.assert(
    fc.property(fc.integer({ min: 0, max: text.length - 1 }), (at) => {
      const { entries, fault } = parseJournal(text.slice(0, at))
      const whole = Math.max(0, text.slice(0, at).split('\n').length - 2)
      // Between two lines nothing is missing that could be seen.
      expect([entries.length, fault === undefined]).toEqual([Math.min(whole, lines.length), text[at - 1] === '\n'])
    }),
  )
  await writeFile(path, text.slice(0, -3))
  expect(await readJournal(path, say)).toEqual([entry()])
  expect(await readdir(join(path, '..'))).toEqual(['leases.unread'])
  expect(said).toEqual([expect.stringContaining('line 3 is torn or not ours')])
})

test('any octet changed: that line does not count, nor what is behind it', async () => {
  const text = await written(entry(), other)
  fc.assert(
    fc.property(fc.integer({ min: 0, max: text.length - 1 }), fc.constantFrom('\0', 'x', '\n', '9'), (at, octet) => {
      fc.pre(text[at] !== octet)
      const { entries, fault } = parseJournal(text.slice(0, at) + octet + text.slice(at + 1))
      expect(fault).toBeDefined()
      for (const one of entries) expect([entry(), other]).toContainEqual(one)
    }),
  )
})

const foreign: [title: string, text: string][] = [
  ['another program', 'root:x:0:0:root:/root:/bin/sh\n'],
  ['another version', lineOf('head', ['namegate leases 2'])],
  ['no head', lineOf('lease', ['abc', 'a.example.com', '198.18.0.1', 'default/web', 60, 0])],
  ['an empty file', ''],
  ['no number where there must be one', lineOf('head', ['namegate leases 1']) + lineOf('lease', ['abc', 'a', '198.18.0.1', 'w', 'x', 0])], // prettier-ignore
]
for (const [title, text] of foreign)
  test(`${title}: set aside whole, and a new one begun`, async () => {
    await mkdir(join(path, '..'))
    await writeFile(path, text)
    expect(await readJournal(path, say)).toEqual([])
    expect(said).toHaveLength(1)
    expect(await readFile(`${path}.unread`, 'utf8')).toBe(text)
    await written(entry())
    expect(await readJournal(path, say)).toEqual([entry()])
  })

test('a folder in its place: said once, and never fatal', async () => {
  await mkdir(join(path, 'x'), { recursive: true })
  await writeFile(join(path, 'x', 'y'), '')
  const journal = makeJournal(path, say)
  await journal.rewrite([entry()])
  journal.note([entry()])
  await journal.rewrite([entry()])
  await journal.close()
  expect(said).toEqual([expect.stringContaining('cannot be written')])
})

test('before it is begun anew nothing is appended to what an earlier agent wrote', async () => {
  const text = await written(entry())
  const journal = makeJournal(path, say)
  journal.note([other])
  await journal.close()
  expect(await readFile(path, 'utf8')).toBe(text)
})

test('its lines are counted, so that somebody can tidy it', async () => {
  const journal = makeJournal(path, say)
  await journal.rewrite([entry()])
  for (let i = 0; i < 10; i++) journal.note([entry()])
  expect(journal.lines()).toBe(12)
  await journal.rewrite([entry()])
  await journal.close()
  expect(parseJournal(await readFile(path, 'utf8')).entries).toHaveLength(1)
})
