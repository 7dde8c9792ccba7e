// What policy is made of, as it comes: manifests and this host's addresses are read, compiled in turns with all else, and handed on as what is
// wanted. Of what cannot be used it is said why, and what stood stays.
import type { Logger } from './log.ts'
import type { Address } from './net/address.ts'
import { issueToText, type Issue } from './policy/field.ts'
import type { Policy } from './policy/rules.ts'
import type { Snapshot } from './policy/snapshot.ts'
import { watchManifests, type FolderWatch } from './sources/folder.ts'
import type { ManifestFile } from './sources/manifests.ts'
import { inTurns } from './turns.ts'
import type { Manifests, Origin, Warm } from './warm.ts'

/** Policies that are in force, or to be. */
export interface PoliciesInForce {
  readonly revision: number
  readonly policies: readonly Policy[]
  readonly warnings: readonly Issue[]
}

/** A policy that was accepted, and what it was compiled from. */
export interface Accepted {
  readonly snapshot: Snapshot
  readonly policies: PoliciesInForce
  readonly origin: Origin
}

export interface News {
  readonly files?: readonly ManifestFile[]
  readonly hostAddresses?: readonly Address[]
}

export interface Intake {
  readonly arrive: (news: News) => void
  /** Looks at the manifests at once, where they are watched. */
  readonly look: () => void
  /** What is wrong with the newest manifests. */
  readonly refused: () => readonly Issue[]
  readonly close: () => void
}

export interface IntakeParts {
  readonly manifests: Manifests
  /** What stands: what comes is compared with it, and compiled on from there. */
  readonly warm: Warm
  readonly followHost: ((changed: (addresses: readonly Address[]) => void) => () => void) | undefined
  readonly log: Logger
  /** Hears of each set of manifests that was read, whether it can be used. */
  readonly loaded: (ok: boolean) => void
  readonly want: (accepted: Accepted) => void
}

/** Of issues, that many are in the log; the inspection endpoint has all. */
const issuesSaidMax = 100
/** Manifests that could not be read, though nothing is wrong with them, are read again after this. */
const retryMillis = 1000

export function makeIntake({ manifests, warm, followHost, log, loaded: tell, want }: IntakeParts): Intake {
  const { readWorld, compile } = warm
  /** What it was compiled from: the manifests, and this host's addresses as they are. */
  let { world, warnings } = warm.loaded
  let { files, hostAddresses } = warm.origin
  /** What has come and is not compiled yet. */
  let arrived: News = {}
  let preparing: Promise<void> = Promise.resolve()
  let refused: readonly Issue[] = []
  let reread: NodeJS.Timeout | undefined
  let isClosed = false

  function arrive(news: News): void {
    arrived = { ...arrived, ...news }
    preparing = preparing.then(prepare)
  }
  async function prepare(): Promise<void> {
    const news = arrived
    arrived = {}
    if (isClosed || (news.files === undefined && news.hostAddresses === undefined)) return
    const isRead = news.files !== undefined && (await load(news.files))
    hostAddresses = news.hostAddresses ?? hostAddresses
    if (news.hostAddresses !== undefined)
      log.info({ addresses: hostAddresses.length }, "this host's addresses have changed")
    if (!isRead && news.hostAddresses === undefined) return
    const next = await inTurns(compile(world, hostAddresses))
    want({ snapshot: next, policies: { revision: next.revision, policies: world.policies, warnings }, origin: { files, hostAddresses } }) // prettier-ignore
  }
  /** Whether the files can be used. */
  async function load(read: readonly ManifestFile[]): Promise<boolean> {
    try {
      const loaded = await readWorld(read)
      tell(loaded.ok)
      refused = loaded.ok ? [] : loaded.issues
      if (loaded.ok) {
        files = read
        ;({ world, warnings } = loaded)
      } else
        log.error(
          { count: loaded.issues.length, issues: loaded.issues.slice(0, issuesSaidMax).map(issueToText) },
          'the new manifests are refused; the policy in force stays',
        )
      return loaded.ok
    } catch (error) {
      if (isClosed) return false
      refuseFiles(error as Error)
      // Nothing is wrong with them: unless newer ones come, they are read again.
      reread = setTimeout(() => arrive({ files: read, ...arrived }), retryMillis)
      return false
    }
  }
  function refuseFiles(error: Error): void {
    const file = manifests.kind === 'path' ? manifests.path : ''
    refused = [{ file, line: 1, column: 1, path: '', message: error.message, severity: 'error' }]
    log.error({ err: error }, 'the manifests cannot be read; the policy in force stays')
  }

  const watching: FolderWatch | undefined =
    manifests.kind === 'path'
      ? watchManifests(manifests.path, files, (changed) => arrive({ files: changed }), refuseFiles)
      : undefined
  const unfollowHost = followHost?.((addresses) => arrive({ hostAddresses: addresses }))
  function close(): void {
    isClosed = true
    clearTimeout(reread)
    watching?.close()
    unfollowHost?.()
  }
  return { arrive, look: () => watching?.look(), refused: () => refused, close }
}
