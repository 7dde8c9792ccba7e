// The kernel side as one thing: the table's structure and policy maps through nft, learned addresses through netlink, denied flows
// read back. Keeps what it believes the policy maps hold, and makes it true again when somebody else changed the table.
import type { Clock } from '../clock.ts'
import { addressFromText, addressToText, familyOf, type Address } from '../net/address.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Digest } from '../identity/identities.ts'
import { protocolName, type L4, type Protocol } from '../net/ports.ts'
import type { Direction } from '../policy/rules.ts'
import type { Snapshot } from '../policy/snapshot.ts'
import { inTurns } from '../turns.ts'
import type { Connection } from './ctnetlink.ts'
import { renderCut } from './cut.ts'
import { changeSteps, desiredSteps, diffSteps, identityToText, isNothing, renderFlush, renderLearned, withIdentities, type Elements } from './desired.ts' // prettier-ignore
import { learnedSets, type LeaseElement, type OpenPorts } from './element.ts'
import { makeLearnedSets, type LearnedSets } from './learned.ts'
import type { Netlink } from './netlink.ts'
import type { Dialect } from './nfnetlink.ts'
import { NftError, type Nft } from './nft.ts'
import { makeCellNumbers } from './peers.ts'
import { nameIn, otherCopy, renderStructure, renderSwitch, type Copy, type StructureOptions } from './structure.ts'

/** A flow that the kernel refused (or would have, where policy is only audited), with how many packets it tried. */
export interface DeniedFlow {
  /** In which direction, seen from the subject, whose policy it was. */
  readonly direction: Direction
  readonly identity: IdentityId
  /** The peer's: destination on egress, source on ingress. */
  readonly address: Address
  readonly protocol: number
  /** The destination's; undefined for protocols without ports. */
  readonly port: number | undefined
  readonly packets: number
}

/** What a repair found, and the epoch in which its work stands. */
export interface Repaired {
  readonly found: 'stands' | 'reloaded'
  readonly epoch: number
}

/** First packets from a workload's address to port 853 of another, as many as the kernel has counted so far. */
export interface ResolverAttempt {
  readonly source: Address
  readonly address: Address
  readonly packets: number
}

export interface Datapath {
  /** What this kernel understands: for who takes over. */
  readonly dialect: Dialect
  /** Makes the kernel hold this snapshot's policy; resolves when it does. Each packet sees the old or the new, never some of both. */
  readonly apply: (snapshot: Snapshot) => Promise<void>
  readonly commit: LearnedSets['commit']
  readonly remove: LearnedSets['remove']
  readonly epoch: LearnedSets['epoch']
  /** Writes the policy in force into the table anew, whatever somebody did to it; the table itself, and all learned with it, only when its structure is not ours. */
  readonly repair: () => Promise<Repaired>
  readonly denied: () => Promise<DeniedFlow[]>
  /** Attempts within the last hour at resolvers that would not be seen, let through or not. */
  readonly tried: () => Promise<ResolverAttempt[]>
  /** From now on what goes on of these connections is refused, once they are forgotten. */
  readonly cut: (connections: readonly Connection[]) => Promise<void>
  /** Whether a learned address stands there for this port, asked of the kernel itself. */
  readonly holds: (identity: IdentityId, address: Address, l4: L4) => Promise<boolean>
  /** Every learned address that stands in the kernel, also those of an earlier agent. */
  readonly learned: () => Promise<LeaseElement[]>
  /** Lets go of the kernel; the table stays, so that connections live on and the next agent adopts it. */
  readonly close: () => void
  /** For a start that failed: closes, and takes the table away if it was not there before. */
  readonly abandon: () => Promise<void>
}

export interface DatapathParts {
  readonly nft: Nft
  readonly netlink: Netlink
  readonly clock: Clock
  readonly structure: StructureOptions
  readonly digest: Digest
}

/**
 * Adopts the table that stands when its structure is ours to the letter; else replaces it, closed until all is there. Learned addresses stay in either
 * case, unless an identity's number stands for other labels now, or its policy grants names otherwise. The snapshot's policy comes with it: no
 * moment is open. Rejects with `NftError` or `KernelError`.
 * @param stands whether the table is known to be ours, and to hold this very policy: then it is neither looked at nor written before the first `repair`
 * or `apply`. For who takes over from an agent that died a moment ago, and calls `repair` soon.
 * @param known what this kernel understands, where somebody has found out since it was booted: that takes three runs of nft.
 */
export async function startDatapath(
  { nft, netlink, clock, structure, digest }: DatapathParts,
  snapshot: Snapshot,
  stands = false,
  known?: Dialect,
): Promise<Datapath> {
  const { table } = structure
  const wanted = { a: renderStructure(structure, 'a'), b: renderStructure(structure, 'b') }
  const nothing: Elements = new Map()
  const options = { digest, numbers: makeCellNumbers(), hostPolicies: structure.hostPolicies !== undefined }
  /** The copy of the policy maps by which packets are judged, and what each holds; undefined where that is not known: nft may have done it and then died. */
  let judging: Copy | undefined
  let held: { readonly [copy in Copy]?: Elements | undefined } = {}
  /** What is in force: the last that the kernel took. Made when it is needed: of thousands of policies it takes hundreds of milliseconds. */
  let inForce: Elements | undefined
  const elementsInForce = async (): Promise<Elements> => (inForce ??= await inTurns(desiredSteps(snapshot, options)))
  // nft runs one after the other: two transactions in flight could land in the wrong order.
  let turn: Promise<unknown> = Promise.resolve()
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const result = turn.then(work)
    turn = result.catch(() => undefined)
    return result
  }

  /** The copy that judges in the table that stands; undefined when there is none. */
  async function standing(): Promise<Copy | 'other structure' | undefined> {
    const text = await nft(['-s', '-t', 'list', 'table', 'inet', table]).catch(() => undefined)
    if (text === undefined) return undefined
    return text === wanted.a ? 'a' : text === wanted.b ? 'b' : 'other structure'
  }

  /**
   * Writes all of it, into the copy that does not judge and then does, or with the table itself where that is not ours: then what was acknowledged
   * is gone. Gives the epoch of the first step: whoever comes between is seen to have come.
   * @param also commands for the same transaction.
   */
  async function load(elements: Elements, found: Awaited<ReturnType<typeof standing>>, also = ''): Promise<number> {
    const isOurs = found === 'a' || found === 'b'
    if (!isOurs) held = { b: nothing }
    const to = isOurs ? otherCopy[found] : 'a'
    const before = isOurs ? renderFlush(table, to) : `add table inet ${table}\ndelete table inet ${table}\n${renderStructure(structure, 'closed')}`
    const epoch = await fill(to, before + (await changeText(to, nothing, elements)) + also, elements, !isOurs)
    await turnTo(to)
    return epoch
  } // prettier-ignore

  /** What turns one into the other as text; '' when that is nothing. Of thousands of policies it takes hundreds of milliseconds. */
  async function changeText(copy: Copy, from: Elements, to: Elements): Promise<string> {
    return inTurns(changeSteps(table, copy, await inTurns(diffSteps(to, from)), to))
  }

  async function fill(to: Copy, text: string, elements: Elements, forgets = false): Promise<number> {
    held = { ...held, [to]: undefined }
    const epoch = await learned.ours(async () => void (await nft(['-f', '-'], text)), forgets)
    held = { ...held, [to]: elements }
    return epoch
  }
  /** By itself: in one transaction with what was written, a packet would see the new rules a moment before the new ranges (Linux 6.18: 1 in 4 changes under load). */
  async function turnTo(to: Copy): Promise<void> {
    judging = undefined
    await learned.ours(async () => void (await nft(['-f', '-'], renderSwitch(structure, to))))
    judging = to
  }

  const dialect = known ?? (await probeDialect(nft, netlink, table, clock))
  const learned = makeLearnedSets(netlink, table, clock, dialect)
  // What stands may be of another version or other settings: its structure goes, what was learned stays.
  let wasThere = true
  // To list a table of thousands of policies takes nft a second or two: the first `repair` does that.
  if (!stands) await begin(await elementsInForce())

  async function begin(elements: Elements): Promise<void> {
    const found = await standing()
    wasThere = found !== undefined
    const holds = await stillHolds(nft, table, elements)
    const forget = (): string => learnedSets.map((set) => `flush set inet ${table} ${set}\n`).join('')
    if (found !== 'other structure') await load(elements, found, holds || found === undefined ? '' : forget())
    else if (!holds) await load(elements, found)
    else
      await load(elements, found, renderLearned(table, await standingLearned().catch(() => []))).catch(() =>
        load(elements, found),
      )
  }

  async function apply(snapshot: Snapshot): Promise<void> {
    await inTurn(async () => {
      const desired = await inTurns(desiredSteps(snapshot, options))
      await bring(desired)
      inForce = desired
    })
  }

  /** By the difference where it is known and the kernel takes it; else as a whole. The kernel's refusal of that is the caller's to know. */
  async function bring(desired: Elements): Promise<void> {
    const now = judging === undefined ? undefined : held[judging]
    if (now !== undefined && isNothing(await inTurns(diffSteps(desired, now)))) return
    const to = judging === undefined ? undefined : otherCopy[judging]
    const there = to === undefined ? undefined : held[to]
    if (to !== undefined && now !== undefined && there !== undefined)
      try {
        const change = await changeText(to, withIdentities(there, now), desired)
        if (change !== '') await fill(to, change, desired)
        await turnTo(to)
        return
      } catch {
        // The maps do not hold what we believed: somebody's hand, or an nft that did its work and was killed.
      }
    await reload(desired)
  }

  /** Writes all of the policy anew, and the table itself if it is not ours, in which case what was acknowledged is gone. */
  async function reload(desired: Elements): Promise<Repaired> {
    const found = await standing()
    const epoch = await load(desired, found)
    return { found: found === 'a' || found === 'b' ? 'stands' : 'reloaded', epoch }
  }

  // Whose hand it was cannot be seen, nor what it did to the maps: they are written anew.
  const repair = (): Promise<Repaired> => inTurn(async () => reload(await elementsInForce()))

  async function denied(): Promise<DeniedFlow[]> {
    const lists = await Promise.all(
      deniedSets.map(async ({ direction, set }) =>
        readDenied(direction, await nft(['-j', '-n', 'list', 'set', 'inet', table, set])),
      ),
    )
    return lists.flat()
  }

  async function tried(): Promise<ResolverAttempt[]> {
    const lists = await Promise.all(
      ['tried4', 'tried6'].map((set) => nft(['-j', '-n', 'list', 'set', 'inet', table, set])),
    )
    return lists.flatMap(readTried)
  }

  async function cut(connections: readonly Connection[]): Promise<void> {
    const text = renderCut(table, connections)
    if (text === '') return
    await inTurn(() => learned.ours(async () => void (await nft(['-f', '-'], text))))
  }

  async function standingLearned(): Promise<LeaseElement[]> {
    const lists = await Promise.all(learnedSets.map((set) => nft(['-j', '-n', 'list', 'set', 'inet', table, set])))
    return lists.flatMap(readLearned)
  }

  async function holdsLearned(identity: IdentityId, address: Address, { protocol, port }: L4): Promise<boolean> {
    const [key, family] = [`${identityToText(identity)} . ${addressToText(address)}`, familyOf(address)]
    const ported = port === undefined ? [] : ['learned', 'learned_range'].map((set) => ({ set, key: `${key} . ${protocolName(protocol)} . ${port}` })) // prettier-ignore
    const found = await Promise.all([{ set: 'learned_any', key }, ...ported].map((at) => isThere(`${at.set}${family}`, at.key))) // prettier-ignore
    return found.includes(true)
  }
  /** nft says of an element that is not there: "No such file or directory". */
  const isThere = (set: string, key: string): Promise<boolean> =>
    nft(['get', 'element', 'inet', table, set, `{ ${key} }`]).then(() => true, (error: unknown) => {
      if (error instanceof NftError && error.message.includes('No such file')) return false
      throw error
    }) // prettier-ignore

  return {
    dialect,
    apply,
    commit: learned.commit,
    remove: learned.remove,
    epoch: learned.epoch,
    repair,
    denied,
    tried,
    cut,
    holds: holdsLearned,
    learned: standingLearned,
    close: learned.close,
    async abandon() {
      learned.close()
      if (!wasThere) await nft(['delete', 'table', 'inet', table])
    },
  }
}

/** What the numbers in a standing table stand for: identity -> `labels digest.grants digest`. Empty when there is no such table. */
async function standingIdentities(nft: Nft, table: string): Promise<Map<IdentityId, string>> {
  const json = await nft(['-j', '-n', 'list', 'set', 'inet', table, 'identities']).catch(() => '{"nftables":[]}')
  const { nftables } = JSON.parse(json) as { nftables: { set?: { elem?: unknown[] } }[] }
  const found = new Map<IdentityId, string>()
  for (const { set } of nftables)
    for (const entry of set?.elem ?? []) {
      const { elem } = entry as { elem?: { val?: unknown; comment?: string } }
      if (elem?.comment !== undefined) found.set(identityFromJson(elem.val), elem.comment)
    }
  return found
}

/** Numbers that an earlier agent gave to label sets, by digest of the set's text. */
export async function readIdentities(nft: Nft, table: string): Promise<Map<string, IdentityId>> {
  return new Map([...(await standingIdentities(nft, table))].map(([id, digests]) => [digests.split('.')[0] ?? '', id]))
}

/** Whose addresses were which, by the table that stands: those of this machine's endpoints. */
export async function readEndpointAddresses(nft: Nft, table: string): Promise<Map<Address, IdentityId>> {
  const list = (map: string): Promise<string> => nft(['-j', '-n', 'list', 'map', 'inet', table, map])
  const chain = await nft(['list', 'chain', 'inet', table, 'forwarded']).catch(() => '')
  const copy = chain.includes(nameIn('b', 'identity4')) ? 'b' : 'a'
  const maps = (['identity4', 'identity6'] as const).map((map) => nameIn(copy, map))
  const lists = await Promise.all(maps.map((map) => list(map).catch(() => '{"nftables":[]}')))
  const found = new Map<Address, IdentityId>()
  for (const json of lists) {
    const { nftables } = JSON.parse(json) as { nftables: { map?: { elem?: unknown[] } }[] }
    for (const { map } of nftables)
      for (const entry of map?.elem ?? []) {
        const [text, identity] = Array.isArray(entry) ? (entry as unknown[]) : []
        const address = typeof text === 'string' ? addressFromText(text) : undefined
        if (address !== undefined) found.set(address, identityFromJson(identity))
      }
  }
  return found
}

/** Numbers under which something stands that an earlier agent learned: whoever got one of them anew would get that too. */
export async function readLearnedIdentities(nft: Nft, table: string): Promise<Set<IdentityId>> {
  const list = (set: string): Promise<string> => nft(['-j', '-n', 'list', 'set', 'inet', table, set])
  const lists = await Promise.all(learnedSets.map((set) => list(set).catch(() => '{"nftables":[]}')))
  return new Set(lists.flatMap(readLearned).map((element) => element.identity))
}

/** Whether what was learned under the standing identities may be kept under the desired ones. */
async function stillHolds(nft: Nft, table: string, desired: Elements): Promise<boolean> {
  const before = await standingIdentities(nft, table)
  for (const key of desired.get('identities')?.keys() ?? []) {
    const [id, digests] = key.split(' comment ')
    const known = before.get(identityFromJson(id))
    if (known !== undefined && `"${known}"` !== digests) return false
  }
  return true
}

const deniedSets = (['egress', 'ingress'] as const).flatMap((direction) =>
  ['4', '6', '_any4', '_any6'].map((kind) => ({ direction, set: `denied_${direction}${kind}` })),
)

/**
 * Whether this kernel renews an element's timeout when it is added again (Linux 6.12 and later), and removes what may not be there (6.3), tried
 * out on a set of its own: a version number says little on distribution kernels.
 */
export async function probeDialect(nft: Nft, netlink: Netlink, table: string, clock: Clock): Promise<Dialect> {
  const probe = `${table}_probe`
  await nft(
    ['-f', '-'],
    `add table inet ${probe}\nadd set inet ${probe} learned_any4 { type classid . ipv4_addr; flags timeout; }\n`,
  )
  try {
    const sets = makeLearnedSets(netlink, probe, clock, { renewal: 'update', removal: 'destroy' })
    const element: LeaseElement = {
      identity: 1,
      address: '\x7f\0\0\x01' as Address,
      ports: { kind: 'all' },
      timeoutMillis: 3_600_000,
    }
    const canDestroy = await sets.remove([element]).then(() => true, () => false) // prettier-ignore
    await sets.commit([element])
    await sets.commit([{ ...element, timeoutMillis: 7_200_000 }])
    const after = await nft(['list', 'set', 'inet', probe, 'learned_any4'])
    return {
      renewal: after.includes('timeout 2h') ? 'update' : 'replace',
      removal: canDestroy ? 'destroy' : 'replace',
    }
  } finally {
    await nft(['delete', 'table', 'inet', probe])
  }
}

/** Reads `nft -j list set` of a denied set; elements of another shape are passed over. */
function readDenied(direction: Direction, json: string): DeniedFlow[] {
  const flows: DeniedFlow[] = []
  const { nftables } = JSON.parse(json) as { nftables: { set?: { elem?: unknown[] } }[] }
  for (const { set } of nftables)
    for (const entry of set?.elem ?? []) {
      const { elem } = entry as { elem?: { val?: { concat?: unknown[] }; counter?: { packets?: number } } }
      const [identity, address, protocol, port] = elem?.val?.concat ?? []
      const parsed = typeof address === 'string' ? addressFromText(address) : undefined
      if (parsed === undefined) continue
      flows.push({
        direction,
        identity: identityFromJson(identity),
        address: parsed,
        protocol: numberFromJson(protocol),
        port: port === undefined ? undefined : numberFromJson(port),
        packets: elem?.counter?.packets ?? 0,
      })
    }
  return flows
}

/** Reads `nft -j list set` of a set of attempts; elements of another shape are passed over. */
function readTried(json: string): ResolverAttempt[] {
  const { nftables } = JSON.parse(json) as { nftables: { set?: { elem?: unknown[] } }[] }
  return nftables.flatMap(({ set }) =>
    (set?.elem ?? []).flatMap((entry) => {
      const { elem } = entry as { elem?: { val?: { concat?: unknown[] }; counter?: { packets?: number } } }
      const [source, address] = (elem?.val?.concat ?? []).map((text) => addressFromText(String(text)))
      return source === undefined || address === undefined
        ? []
        : [{ source, address, packets: elem?.counter?.packets ?? 0 }]
    }),
  )
}

/** Reads `nft -j list set` of a learned set. */
function readLearned(json: string): LeaseElement[] {
  const elements: LeaseElement[] = []
  const { nftables } = JSON.parse(json) as { nftables: { set?: { elem?: unknown[] } }[] }
  for (const { set } of nftables)
    for (const entry of set?.elem ?? []) {
      const { elem } = entry as { elem?: { val?: { concat?: unknown[] }; expires?: number } }
      const [identity, address, protocol, port] = elem?.val?.concat ?? []
      const parsed = typeof address === 'string' ? addressFromText(address) : undefined
      if (parsed === undefined) continue
      const { range } = (port ?? {}) as { range?: [number, number] }
      const [first, last] = range ?? [Number(port), Number(port)]
      const ports: OpenPorts =
        protocol === undefined
          ? { kind: 'all' }
          : { kind: 'ports', protocol: numberFromJson(protocol) as Protocol, first, last }
      elements.push({
        identity: identityFromJson(identity),
        address: parsed,
        ports,
        timeoutMillis: (elem?.expires ?? 0) * 1000,
      })
    }
  return elements
}

/** nft prints a classid as `major:minor` in hexadecimal. */
function identityFromJson(value: unknown): IdentityId {
  if (typeof value === 'number') return value
  const [major = '0', minor = '0'] = String(value).split(':')
  return (parseInt(major || '0', 16) << 16) | parseInt(minor || '0', 16)
}

function numberFromJson(value: unknown): number {
  const names: Readonly<Record<string, number>> = { icmp: 1, tcp: 6, udp: 17, 'ipv6-icmp': 58, icmpv6: 58, sctp: 132 }
  return typeof value === 'number' ? value : (names[String(value)] ?? Number(value))
}
