// Manifests for the commands that work without an agent: what the paths name, read into a world.
import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { InvalidArgumentError, Option, type Command } from 'commander'
import type { ParseOptions, Semantics } from '../policy/rules.ts'
import { isManifest, readManifests } from '../sources/folder.ts'
import { loadWorld, type Loaded, type ManifestFile } from '../sources/manifests.ts'
import type { Progress } from './progress.ts'

/** Options of every command that reads manifests. */
export interface Reading {
  readonly semantics: Semantics
  readonly ciliumVersion: readonly [number, number]
  readonly clusterName: string
  readonly localNode?: string
  readonly recursive?: boolean
}

/** Adds those options. */
export function reading(command: Command): Command {
  return command
    .addOption(
      new Option('--semantics <whose>', 'where the sources disagree: the specification or what Cilium does')
        .choices(['spec', 'cilium'])
        .default('spec'),
    )
    .addOption(
      new Option('--cilium-version <version>', 'which Cilium the manifests are meant for')
        .argParser(readVersion)
        .default([1, 20], '1.20'),
    )
    .option('--cluster-name <name>', 'name of this cluster: peers that name none are in it', 'default')
    .option(
      '--local-node <name>',
      'the Node that is this host: its addresses are the entity host, those of others remote-node',
    )
    .option('-R, --recursive', 'folders below a folder too')
}

function readVersion(text: string): [number, number] {
  const [major = '', minor = '', ...rest] = (text.startsWith('v') ? text.slice(1) : text).split('.')
  const isNumber = (part: string): boolean => part !== '' && [...part].every((c) => c >= '0' && c <= '9')
  // A patch level (1.18.3) says nothing about the language.
  if (!isNumber(major) || !isNumber(minor) || rest.length > 1)
    throw new InvalidArgumentError('a version is MAJOR.MINOR, such as 1.20')
  return [Number(major), Number(minor)]
}

export const parseOptionsOf = ({ semantics, ciliumVersion, clusterName }: Reading): ParseOptions => ({
  semantics,
  ciliumVersion,
  clusterName,
})

/** A file of that many characters takes a second to read as YAML. */
const longCharacters = 1_000_000

/** The world of the files. */
export function loadFiles(files: readonly ManifestFile[], options: Reading, tell: Progress['tell']): Loaded {
  return loadWorld(files, parseOptionsOf(options), ({ text }, done) =>
    tell({ what: 'reading manifests', done, total: files.length }, text.length >= longCharacters),
  )
}

/** The manifests that the paths name: files, folders, `-` for standard input. Rejects when a folder has none: it is not the one meant. */
export async function readPaths(
  paths: readonly string[],
  { recursive }: Pick<Reading, 'recursive'>,
): Promise<ManifestFile[]> {
  const files = new Map<string, ManifestFile>()
  for (const path of paths) {
    const found =
      path === '-' ? [{ path: '<stdin>', text: await readStdin() }] : await readPath(path, recursive === true)
    if (found.length === 0) throw new Error(`no manifests (*.yaml, *.yml, *.json) in ${path}${await hintOf(path, recursive)}`) // prettier-ignore
    for (const file of found) files.set(file.path, file)
  }
  return [...files.values()]
}

async function hintOf(path: string, recursive: boolean | undefined): Promise<string> {
  if (path === '-' || recursive === true) return ''
  const entries = await readdir(path, { withFileTypes: true })
  return entries.some((entry) => entry.isDirectory()) ? '; -R reads the folders below it too' : ''
}

async function readPath(path: string, recursive: boolean): Promise<ManifestFile[]> {
  const own = await readManifests(path)
  if (!(await stat(path)).isDirectory()) return own
  const entries = await readdir(path, { withFileTypes: true })
  // An agent that watches the folder takes such a link for a file that is being replaced.
  const lost = entries.find((entry) => entry.isSymbolicLink() && isManifest(entry.name) && !existsSync(join(path, entry.name))) // prettier-ignore
  if (lost !== undefined) throw new Error(`${join(path, lost.name)} is a link that leads nowhere`)
  if (!recursive) return own
  const below = entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.')).map(({ name }) => name)
  const nested: ManifestFile[] = []
  for (const name of below.sort()) nested.push(...(await readPath(join(path, name), true)))
  return [...own, ...nested]
}

async function readStdin(): Promise<string> {
  let text = ''
  process.stdin.setEncoding('utf8')
  for await (const part of process.stdin) text += String(part)
  return text
}
