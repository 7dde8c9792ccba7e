// The policy by which all connections are in order, on disk for the next agent: what changed since, while nobody was there or before its connections
// were ended, it has to make up for. Lines with a CRC each, as the journal has them; written anew as a whole. No reason to fail either.
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { lineOf, noFile, readLine, readOwn, setAside } from './journal.ts'
import { addressFromText, addressToText } from './net/address.ts'
import type { Snapshot } from './policy/snapshot.ts'
import type { Origin } from './warm.ts'

export interface LastPolicy {
  readonly origin: Origin
  /** The settings that verdicts depend on, as text: by others, nobody knows what was allowed. */
  readonly settings: string
}

/** The version of the format is part of it. */
const head = 'namegate policy 1'
/** Of a manifest, on one line: 0.3 ms. The event loop turns between them. */
const charactersPerLine = 1 << 16

export function* linesOf({ origin, settings }: LastPolicy): Iterable<string> {
  yield lineOf('head', [head])
  yield lineOf('settings', [settings])
  yield lineOf('host', origin.hostAddresses.map(addressToText))
  let count = 0
  for (const { path, text } of origin.files) {
    count++
    yield lineOf('file', [path])
    for (let at = 0; at < text.length; at += charactersPerLine) {
      count++
      yield lineOf('text', [text.slice(at, at + charactersPerLine)])
    }
  }
  yield lineOf('end', [count])
}

/** Whole or not at all: half a policy would allow and deny something else. */
export function parseLastPolicy(text: string): LastPolicy | undefined {
  // Behind the last line end there is nothing.
  if (!text.endsWith('\n')) return undefined
  const lines = text.split('\n').map(readLine)
  const [first, ofSettings, ofHost, ...rest] = lines.slice(0, -1)
  const [end] = rest.splice(-1)
  if (first?.[0] !== 'head' || first[1] !== head || ofSettings?.[0] !== 'settings' || ofHost?.[0] !== 'host') return undefined // prettier-ignore
  const files: { path: string; text: string }[] = []
  for (const line of rest) {
    const [kind, value] = line ?? []
    const last = files.at(-1)
    if (typeof value !== 'string') return undefined
    if (kind === 'file') files.push({ path: value, text: '' })
    else if (kind === 'text' && last !== undefined) last.text += value
    else return undefined
  }
  if (end?.[0] !== 'end' || end[1] !== rest.length) return undefined
  const hostAddresses = ofHost.slice(1).flatMap((value) => addressFromText(String(value)) ?? [])
  return { origin: { files, hostAddresses }, settings: String(ofSettings[1]) }
}

const what = 'the policy of an earlier agent'

/** `unreadable`: it is set aside. @param say is told what was wrong. */
export async function readLastPolicy(
  path: string,
  say: (text: string) => void,
): Promise<LastPolicy | 'none' | 'unreadable'> {
  const text = await readOwn(path, what, say)
  if (text === noFile) return 'none'
  const last = text === undefined ? undefined : parseLastPolicy(text)
  if (text !== undefined && last === undefined) await setAside(path, what, 'it is torn or not ours', say)
  return last ?? 'unreadable'
}

/** What is written down while a policy comes into force, until all connections are in order by it: by what they were is known to nobody then. */
export const unsettled: LastPolicy = { origin: { files: [], hostAddresses: [] }, settings: '' }

/** What connections were in order by when an earlier agent died: the same as now, something else, or that is not known. `none`: there was no agent. */
export type Earlier =
  { readonly kind: 'none' | 'same' | 'unknown' } | { readonly kind: 'other'; readonly snapshot: Snapshot }

/**
 * Never rejects.
 * @param compile what manifests come to by today's settings; undefined when they cannot be used.
 */
export async function findEarlier(
  path: string,
  now: LastPolicy,
  compile: (origin: Origin) => Promise<Snapshot | undefined>,
  say: (text: string) => void,
): Promise<Earlier> {
  const last = await readLastPolicy(path, say)
  if (last === 'none') return { kind: 'none' }
  if (last === 'unreadable') return { kind: 'unknown' }
  if (last.settings !== now.settings) return { kind: 'unknown' }
  if (isSameOrigin(last.origin, now.origin)) return { kind: 'same' }
  const snapshot = await compile(last.origin).catch(() => undefined)
  return snapshot === undefined ? { kind: 'unknown' } : { kind: 'other', snapshot }
}

export interface LastPolicyFile {
  /** Replaces what the file says; of several that wait, only the last is written. Resolves when it is, or cannot be; never rejects. */
  readonly write: (last: LastPolicy) => Promise<void>
  readonly close: () => Promise<void>
}

/** @param say is told of writing that fails, once until it succeeds again. */
export function makeLastPolicyFile(path: string, say: (text: string) => void): LastPolicyFile {
  let wanted: LastPolicy | undefined
  let hasFailed = false
  let writing: Promise<void> = Promise.resolve()

  async function writeWanted(): Promise<void> {
    const last = wanted
    wanted = undefined
    if (last === undefined) return
    try {
      await replace(path, last)
      hasFailed = false
    } catch (error) {
      if (!hasFailed) say(`${path} cannot be written: ${String(error)}; should this agent die, the next one ends connections by what it said before`)
      hasFailed = true
    }
  } // prettier-ignore
  function write(last: LastPolicy): Promise<void> {
    wanted = last
    return (writing = writing.then(writeWanted))
  }
  return { write, close: () => writing }
}

async function replace(path: string, last: LastPolicy): Promise<void> {
  const fresh = `${path}.new`
  await mkdir(dirname(path), { recursive: true })
  await rm(fresh, { force: true })
  const file = await open(fresh, 'wx', 0o600)
  try {
    for (const line of linesOf(last)) {
      await file.appendFile(line)
      await nextTurn()
    }
  } finally {
    await file.close()
  }
  await rename(fresh, path)
}

/** Whether the same texts and addresses are compiled. */
function isSameOrigin(a: Origin, b: Origin): boolean {
  return (
    String(a.hostAddresses) === String(b.hostAddresses) &&
    a.files.length === b.files.length &&
    a.files.every(({ path, text }, i) => path === b.files[i]?.path && text === b.files[i]?.text)
  )
}
