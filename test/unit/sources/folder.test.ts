// Manifests on disk: what is read, what is noticed, what does not stop the watch.
import { execFileSync } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { mkdir, mkdtemp, readlink, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readManifests, watchManifests, type FolderWatch } from '../../../src/sources/folder.ts'

let folder: string
let watching: FolderWatch | undefined
/** What was given, one line each: the files with their text, or the error. */
let seen: string[]
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'namegate-folder-'))
  seen = []
})
afterEach(async () => {
  watching?.close()
  watching = undefined
  await rm(folder, { recursive: true, force: true })
})
const put = (name: string, text: string): Promise<void> => writeFile(join(folder, name), text)
async function watch(path = folder): Promise<void> {
  watching = watchManifests(
    path,
    await readManifests(path),
    (files) => seen.push(files.map((file) => `${file.path.slice(file.path.lastIndexOf('/') + 1)}=${file.text}`).join()),
    (error) => seen.push(error.message),
  )
}
const told = (text: string): Promise<void> => expect.poll(() => seen.at(-1), { timeout: 8000 }).toBe(text)

test('manifests in order; hidden, other and special files not', async () => {
  await put('b.yaml', '1')
  await put('a.json', '2')
  await put('.c.yaml', '3')
  await put('d.txt', '4')
  await mkdir(join(folder, 'e.yaml'))
  execFileSync('mkfifo', [join(folder, 'f.yaml')])
  await symlink('nowhere', join(folder, 'g.yaml'))
  await symlink('d.txt', join(folder, 'h.yml'))
  expect((await readManifests(folder)).map(({ path, text }) => [path.slice(folder.length + 1), text])).toEqual([
    ['a.json', '2'],
    ['b.yaml', '1'],
    ['h.yml', '4'],
  ])
})

test('a changed, a new and a removed file', async () => {
  await put('a.yaml', '1')
  await watch()
  await put('a.yaml', '2')
  await told('a.yaml=2')
  await put('b.yaml', '3')
  await told('a.yaml=2,b.yaml=3')
  await rm(join(folder, 'a.yaml'))
  await told('b.yaml=3')
  expect(seen).toHaveLength(3)
})

test('a pipe that came and went stops nothing', async () => {
  await put('a.yaml', '1')
  await watch()
  execFileSync('mkfifo', [join(folder, 'b.yaml')])
  await put('a.yaml', '2')
  await told('a.yaml=2')
  await rm(join(folder, 'b.yaml'))
  await put('a.yaml', '3')
  await told('a.yaml=3')
})

test('everything gone at once is an error, not a world without policies', async () => {
  await put('a.yaml', '1')
  await watch()
  await rm(join(folder, 'a.yaml'))
  await told(`there are no manifests in ${folder} any more`)
  await put('none.yaml', '')
  await told('none.yaml=')
  await put('a.yaml', '1')
  await told('a.yaml=1,none.yaml=')
})

test('the folder itself gone, and another in its place', async () => {
  const inner = join(folder, 'inner')
  await mkdir(inner)
  await writeFile(join(inner, 'a.yaml'), '1')
  await watch(inner)
  await rename(inner, join(folder, 'old'))
  await expect.poll(() => seen.at(-1), { timeout: 8000 }).toContain('ENOENT')
  await mkdir(inner)
  await writeFile(join(inner, 'a.yaml'), '2')
  await told('a.yaml=2')
})

test('an editor that puts another file in its place', async () => {
  await put('a.yaml', '1')
  await watch()
  for (const text of ['2', '3']) {
    await put('.a.yaml.swp', 'x')
    await put('a.yaml~', '1')
    await put('4913', text)
    await rename(join(folder, '4913'), join(folder, 'a.yaml'))
    await told(`a.yaml=${text}`)
  }
  expect(seen).toHaveLength(2)
})

/** As Kubernetes mounts a ConfigMap: files are links through `..data`, which is put in place of the old one. */
async function configMap(version: string, names: readonly string[]): Promise<void> {
  const place = `..2026_${version}`
  await mkdir(join(folder, place))
  for (const name of names) await writeFile(join(folder, place, name), version)
  await symlink(place, join(folder, '..data_tmp'))
  const old = await readlink(join(folder, '..data')).catch(() => undefined)
  await rename(join(folder, '..data_tmp'), join(folder, '..data'))
  for (const name of names) await symlink(join('..data', name), join(folder, name)).catch(() => undefined)
  if (old !== undefined) await rm(join(folder, old), { recursive: true })
}

test('a ConfigMap: every version as a whole, never some files of one and some of another', async () => {
  const names = Array.from({ length: 100 }, (_, i) => `f${i}.yaml`).sort()
  const whole = (version: number): string => names.map((name) => `${name}=${version}`).join()
  await configMap('0', names)
  await watch()
  let isOver = false
  const read = new Set<string>()
  const reading = (async () => {
    while (!isOver) read.add((await readManifests(folder)).map((file) => `${basename(file.path)}=${file.text}`).join())
  })()
  for (let version = 1; version <= 9; version++) {
    await configMap(String(version), names)
    watching?.look()
    // Not between two readings, but in the middle of one.
    await new Promise((resolve) => setTimeout(resolve, 20 + version * 5))
  }
  await told(whole(9))
  isOver = true
  await reading
  for (const one of [...seen, ...read]) expect(one).toBe(whole(Number(one.at(-1))))
})

test('one file of a ConfigMap', async () => {
  await configMap('1', ['a.yaml'])
  await watch(join(folder, 'a.yaml'))
  await configMap('2', ['a.yaml'])
  await told('a.yaml=2')
})

test('a folder in which something is written all the time', async () => {
  await put('a.yaml', '1')
  await watch()
  let lines = 0
  const writing = setInterval(() => appendFileSync(join(folder, 'app.log'), `${lines++}\n`), 5)
  try {
    await put('a.yaml', '2')
    await told('a.yaml=2')
  } finally {
    clearInterval(writing)
  }
})

test('a file that is emptied and filled a second later has what it had until then', async () => {
  await put('a.yaml', '1')
  await put('b.yaml', '1')
  await watch()
  await put('a.yaml', '')
  await put('b.yaml', '2')
  await told('a.yaml=1,b.yaml=2')
  await put('a.yaml', '3')
  await told('a.yaml=3,b.yaml=2')
  expect(seen).toHaveLength(2)
})

test('a file that nobody would write is not read', async () => {
  await put('a.yaml', '1')
  await watch()
  await put('b.yaml', '')
  await truncate(join(folder, 'b.yaml'), 5e9)
  await told(`${join(folder, 'b.yaml')} is larger than 64000000 octets`)
  await rm(join(folder, 'b.yaml'))
  await told('a.yaml=1')
})

test('files that come and go while they are read are there or not', async () => {
  await put('a.yaml', '1')
  let isOver = false
  const comingAndGoing = (async () => {
    while (!isOver) {
      await put('b.yaml', '2')
      await rm(join(folder, 'b.yaml'))
    }
  })()
  for (let i = 0; i < 300; i++) expect((await readManifests(folder))[0]?.text).toBe('1')
  isOver = true
  await comingAndGoing
})

test('a folder that was made again is watched like the one before', async () => {
  const inner = join(folder, 'inner')
  for (const text of ['1', '2']) {
    await mkdir(inner)
    await writeFile(join(inner, 'a.yaml'), text)
    if (watching === undefined) await watch(inner)
    else await told(`a.yaml=${text}`)
    await writeFile(join(inner, 'a.yaml'), `${text}${text}`)
    await told(`a.yaml=${text}${text}`)
    await rm(inner, { recursive: true })
    await expect.poll(() => seen.at(-1), { timeout: 8000 }).toContain('ENOENT')
  }
})

test('one of ten thousand files changes', async () => {
  for (let i = 0; i < 10_000; i += 100)
    await Promise.all(Array.from({ length: 100 }, (_, j) => put(`f${i + j}.yaml`, 'x')))
  await watch()
  await put('f77.yaml', 'y')
  await expect.poll(() => seen.at(-1)?.split(',').filter((one) => one !== '' && !one.endsWith('=x')), { timeout: 20_000 }).toEqual(['f77.yaml=y']) // prettier-ignore
}, 60_000)
