// What an agent has ready before it touches anything: manifests read and compiled, under the numbers that stand in the kernel. It takes most of
// a start; a standby does it ahead, and again when policy changes.
import { createHash } from 'node:crypto'
import type { AgentSettings } from './settings.ts'
import { readIdentities, readLearnedIdentities } from './datapath/datapath.ts'
import type { Nft } from './datapath/nft.ts'
import type { IdentityId } from './identity/endpoints.ts'
import { labelSetText, makeIdentities, type Digest, type IdentityTable } from './identity/identities.ts'
import type { Address } from './net/address.ts'
import { makeStepwiseCompiler } from './policy/compile.ts'
import { issueToText, type Issue } from './policy/field.ts'
import { readDenyReplies, type DenyReplies } from './policy/denyReply.ts'
import type { Snapshot } from './policy/snapshot.ts'
import type { Server } from './proxy/upstream.ts'
import { readManifests } from './sources/folder.ts'
import { makeLoader } from './sources/loader.ts'
import type { Loaded, ManifestFile } from './sources/manifests.ts'
import { inTurns } from './turns.ts'

/** 96 bits: nft allows a comment of 128 characters, which two of these fit into. */
export const digest: Digest = (text) => createHash('sha256').update(text).digest('hex').slice(0, 24)

/** The manifests cannot be used; `issues` says all that is wrong with them. */
export class ManifestError extends Error {
  readonly code = 'manifests'
  readonly issues: readonly Issue[]
  constructor(issues: readonly Issue[]) {
    super(issues.map(issueToText).join('\n'))
    this.name = 'ManifestError'
    this.issues = issues
  }
}

/** A folder or file that is watched, or texts that stay as they are. */
export type Manifests =
  { readonly kind: 'path'; readonly path: string } | { readonly kind: 'texts'; readonly files: readonly ManifestFile[] }

/** What a policy was compiled from. */
export interface Origin {
  readonly files: readonly ManifestFile[]
  readonly hostAddresses: readonly Address[]
}

export interface WarmParts {
  readonly settings: AgentSettings
  readonly manifests: Manifests
  readonly hostAddresses: readonly Address[]
  readonly upstreams: readonly Server[]
  readonly kernel: { readonly nft: Nft } | undefined
}

export interface Warm {
  readonly origin: Origin
  readonly readWorld: ReturnType<typeof makeLoader>
  readonly loaded: Extract<Loaded, { readonly ok: true }>
  readonly compile: ReturnType<typeof makeStepwiseCompiler>
  readonly snapshot: Snapshot
  /** Numbers of label sets in the kernel, and those under which something is learned, as they were then. */
  readonly known: ReadonlyMap<string, IdentityId>
  readonly taken: ReadonlySet<IdentityId>
  /** Ends what is being read. */
  readonly ending: AbortController
}

/** The upstreams of an agent: whoever may be asked. */
export const serversOf = ({ settings, upstreams }: Pick<WarmParts, 'settings' | 'upstreams'>): readonly Server[] =>
  [...upstreams, ...settings.dns.routes.flatMap((route) => route.upstreams)] // prettier-ignore

/**
 * Rejects with `ManifestError`, or as fs does.
 * @param before what was warm: files that did not change are not read again, and policies are compiled on from there.
 * @param origin what to compile instead of what lies on the disk.
 */
export async function warmUp(parts: WarmParts, before?: Warm, origin?: Origin): Promise<Warm> {
  const { settings, manifests, kernel } = parts
  const files = origin?.files ?? (manifests.kind === 'path' ? await readManifests(manifests.path) : manifests.files)
  const hostAddresses = origin?.hostAddresses ?? parts.hostAddresses
  const ending = before?.ending ?? new AbortController()
  const readWorld = before?.readWorld ?? makeLoader(settings.policy, ending.signal)
  const loaded = await readWorld(files)
  if (!loaded.ok) throw new ManifestError(loaded.issues)
  const { table } = settings.datapath
  const known = kernel === undefined ? nobody : await readIdentities(kernel.nft, table)
  const goesOn = before !== undefined && isEqual(before.known, known)
  const taken = goesOn ? before.taken : kernel === undefined ? nothing : await readLearnedIdentities(kernel.nft, table)
  const compile = goesOn ? before.compile : compilerOf(parts, { hostAddresses }, makeIdentities(known, digest, taken))
  const snapshot = await inTurns(compile(loaded.world, hostAddresses))
  return { origin: { files, hostAddresses }, readWorld, loaded, compile, snapshot, known, taken, ending }
}

/**
 * What another origin compiles to by the same settings, with the numbers that label sets have in a snapshot; undefined when its manifests cannot be used
 * (any more). Rejects when `signal` ends it.
 */
export async function compileEarlier(parts: WarmParts, origin: Origin, { identities }: Snapshot, signal: AbortSignal): Promise<Snapshot | undefined> {
  const loaded = await makeLoader(parts.settings.policy, signal)(origin.files)
  if (!loaded.ok) return undefined
  const numbers = new Map([...identities.values()].map(({ id, labels }) => [digest(labelSetText(labels)), id]))
  return inTurns(compilerOf(parts, origin, makeIdentities(numbers, digest))(loaded.world))
} // prettier-ignore

const nobody: ReadonlyMap<string, IdentityId> = new Map()
const nothing: ReadonlySet<IdentityId> = new Set()

function compilerOf(parts: WarmParts, { hostAddresses }: Pick<Origin, 'hostAddresses'>, identities: IdentityTable): Warm['compile'] {
  const { settings } = parts
  return makeStepwiseCompiler({
    ...settings.policy,
    hostAddresses,
    upstreams: serversOf(parts).map((server) => server.address),
    denyReply: denyRepliesOf(settings.dns.denyReply),
    identities,
  })
} // prettier-ignore

function denyRepliesOf(text: string): DenyReplies {
  const replies = readDenyReplies(text)
  if (typeof replies === 'string') throw new Error(`dns.denyReply ${replies}`)
  return replies
}

/** Whether the kernel's numbers are those that it was compiled with. */
export async function isStillWarm({ settings, kernel }: WarmParts, { known, taken }: Warm): Promise<boolean> {
  if (kernel === undefined) return true
  const { table } = settings.datapath
  if (!isEqual(known, await readIdentities(kernel.nft, table))) return false
  // Under a number that was free then, something may have been learned since.
  const numbers = new Set(known.values())
  return [...(await readLearnedIdentities(kernel.nft, table))].every((id) => taken.has(id) || numbers.has(id))
}

/** Whether the kernel has the numbers of all its workloads, and for the same label sets. */
export async function isNumberedLike({ settings, kernel }: WarmParts, { known, snapshot }: Warm): Promise<boolean> {
  if (kernel === undefined) return true
  if (!isEqual(known, await readIdentities(kernel.nft, settings.datapath.table))) return false
  return snapshot.endpoints.every(({ local, identity, labels }) => !local || known.get(digest(labelSetText(labels))) === identity) // prettier-ignore
}

function isEqual(a: ReadonlyMap<string, IdentityId>, b: ReadonlyMap<string, IdentityId>): boolean {
  return a.size === b.size && [...a].every(([text, id]) => b.get(text) === id)
}
