// Flows in files: rotation under load, filters, and what a file does not take.
import { readdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { openExports, type Exports, type ExportSettings } from '../../../src/observe/export.ts'
import { makeRing, type Ring } from '../../../src/observe/ring.ts'
import { temporaryFolder } from '../../support/folder.ts'
import { connection, query } from './flows.ts'

const place = { cluster: 'default', node: 'node-1' }
let folder: string
let ring: Ring
const logged: string[] = []
const log = { error: (_: unknown, text: string) => void logged.push(text), info: (_: unknown, text: string) => void logged.push(text) } as never // prettier-ignore
beforeEach(async () => {
  folder = await temporaryFolder()
  ring = makeRing(1023, () => 0)
  logged.length = 0
})

async function begin(over: Partial<ExportSettings> = {}): Promise<Exports> {
  const exports = await openExports([{ file: join(folder, 'flows.jsonl'), sizeOctetsMax: 512_000, filesMax: 100, allow: [], deny: [], fields: [], ...over }]) // prettier-ignore
  onTestFinished(() => exports.close())
  exports.follow({ ring, place }, log)
  return exports
}
interface Line {
  readonly flow?: { readonly verdict: string; readonly l7?: { readonly dns: { readonly query: string } } }
  readonly lost_events?: { readonly num_events_lost: string }
}
/** The lines of all files, the oldest first; each file ends with a whole line. */
async function lines(): Promise<Line[]> {
  const numberOf = (name: string): number => Number(name.slice('flows.jsonl.'.length) || '0')
  const names = (await readdir(folder)).sort((a, b) => numberOf(b) - numberOf(a))
  const texts = await Promise.all(names.map((name) => readFile(join(folder, name), 'utf8')))
  return texts.flatMap((text) => {
    expect(text === '' || text.endsWith('\n')).toBe(true)
    return text.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Line) // prettier-ignore
  })
}
const numbered = (number: number): Parameters<Ring['write']>[0] => query({ qname: `n${number}.example.com` })
const written = (exports: Exports, count: number): Promise<void> => expect.poll(() => exports.exported().written, { timeout: 10_000 }).toBe(count) // prettier-ignore

test('rotation under load: every flow is in a file, in order, or told as lost and counted', async () => {
  const exports = await begin()
  const total = 30_000
  for (let i = 0; i < total;) {
    // In one turn more than the ring holds, now and then: then something must be lost.
    const end = Math.min(total, i + (i % 9000 === 0 ? 3000 : 300))
    for (; i < end; i++) ring.write(numbered(i))
    // Flows go on coming while files are written and set aside, but not so many that all but bursts are lost.
    const behind = (): number => i - exports.exported().written - exports.exported().lost
    do await new Promise(setImmediate)
    while (behind() > 700)
  }
  await exports.close()
  let next = 0
  let flows = 0
  for (const { flow, lost_events: lost } of await lines()) {
    if (lost !== undefined) next += Number(lost.num_events_lost)
    else {
      expect(flow?.l7?.dns.query).toBe(`n${next++}.example.com.`)
      flows++
    }
  }
  expect(next).toBe(total)
  const { written: count, lost } = exports.exported()
  expect([count, count + lost]).toEqual([flows, total])
  expect(lost).toBeGreaterThan(1000)
  expect(flows).toBeGreaterThan(5000)
  const names = await readdir(folder)
  expect(names.length).toBeGreaterThan(10)
  for (const name of names) {
    const { size, mode } = await stat(join(folder, name))
    expect(size).toBeLessThanOrEqual(512_000)
    expect(mode & 0o777).toBe(0o640)
  }
})

test('so many files and no more: the oldest goes', async () => {
  for (const filesMax of [1, 3]) {
    const exports = await begin({ filesMax, sizeOctetsMax: 10_000 })
    for (let i = 0; i < 900; i++) ring.write(numbered(i))
    await exports.close()
    expect((await readdir(folder)).sort()).toEqual(['flows.jsonl', 'flows.jsonl.1', 'flows.jsonl.2'].slice(0, filesMax))
    expect((await lines()).at(-1)?.flow?.l7?.dns.query).toBe('n899.example.com.')
  }
})

test('what the filters show, in the fields that are asked for', async () => {
  const exports = await begin({ allow: [{ protocol: ['tcp'] }], deny: [{ verdict: ['FORWARDED'] }], fields: ['verdict', 'l4.TCP.destination_port'] }) // prettier-ignore
  for (const flow of [query(), connection(), connection({ verdict: 'FORWARDED' }), connection({ verdict: 'AUDIT' })]) ring.write(flow) // prettier-ignore
  await exports.close()
  expect((await lines()).map(({ flow }) => flow)).toEqual(['DROPPED', 'AUDIT'].map((verdict) => ({ verdict, l4: { TCP: { destination_port: 443 } } }))) // prettier-ignore
  expect(exports.exported()).toEqual({ written: 2, lost: 0 })
})

test('a file that was there goes on, and one that was moved away is followed by a new one', async () => {
  const first = await begin()
  ring.write(numbered(0))
  await first.close()
  ring = makeRing(7, () => 0)
  const second = await begin()
  ring.write(numbered(1))
  await written(second, 1)
  expect(await lines()).toHaveLength(2)
  await rename(join(folder, 'flows.jsonl'), join(folder, 'flows.jsonl.7'))
  ring.write(numbered(2))
  await second.close()
  expect((await lines()).map(({ flow }) => flow?.l7?.dns.query)).toEqual([0, 1, 2].map((n) => `n${n}.example.com.`))
  expect(await readFile(join(folder, 'flows.jsonl'), 'utf8')).toContain('n2.example.com')
})

test('a full disk: what it does not take is counted, said once, and over when there is room', async () => {
  const file = join(folder, 'flows.jsonl')
  await symlink('/dev/full', file)
  const exports = await begin()
  for (let i = 0; i < 3; i++) {
    ring.write(numbered(i))
    await expect.poll(() => exports.exported()).toEqual({ written: 0, lost: i + 1 })
  }
  await rm(file)
  ring.write(numbered(3))
  await written(exports, 1)
  expect(logged).toEqual(['flows cannot be exported; they count as lost until the file takes them', 'flows are exported again']) // prettier-ignore
  expect((await lines()).map(({ flow }) => flow?.l7?.dns.query)).toEqual(['n3.example.com.'])
})

test('a file that cannot be had', async () => {
  await expect(begin({ file: '/dev/null/flows' })).rejects.toThrow(/^observe\.export: \/dev\/null\/flows cannot be written: /) // prettier-ignore
})
