// Manifests on disk: what is read, what is noticed, what does not stop the watch.
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
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
