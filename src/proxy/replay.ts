// What the story has told, told again: octets it left behind, for the same message from the same source. Nothing is decided here. An entry
// holds only while everything stands that the story looked at: the snapshot, the answer's TTL, and for what was learned the leases and the
// kernel's ruleset. In doubt the story is asked, which is always right.
import type { Clock, Millis, Seconds } from '../clock.ts'
import type { Assured } from '../leases/lease.ts'
import type { LeaseTable } from '../leases/leases.ts'
import type { Address } from '../net/address.ts'
import { count, headerOctets } from '../wire/message.ts'
import { capTtl } from '../wire/reply.ts'
import { isNearlyOver } from './answers.ts'
import type { Budgets } from './budgets.ts'
import { spenderOf, type Basis, type Outcome } from './handle.ts'

export interface ReplayParts {
  readonly clock: Clock
  /** Revision of the snapshot in force. */
  readonly revision: () => number
  /** Changes when somebody else has changed the kernel's ruleset. Asks the kernel: once a turn. */
  readonly epoch: () => number
  readonly leases: Pick<LeaseTable, 'assured' | 'losses'>
  /** An answer told again costs what it costs when it is told by the story. */
  readonly budgets: Budgets
  /** Entries kept, rounded up to a power of two. */
  readonly entries: number
  /** Hears of each replay, and of the asker's port. Of `reply` only the code is this one's: it is that of an earlier asking. */
  readonly report: (outcome: Told, port: number) => void
}

/** What can be told again. */
type Told = Outcome & { readonly kind: 'answered' | 'refused' }

export interface Replays {
  /** Notes what the story made of a message over UDP, if that may be told again. */
  readonly keep: (message: Uint8Array, outcome: Outcome) => void
  /** Opens a turn: datagrams that were read together. What holds in general is looked at once for all of them. */
  readonly turn: () => void
  /** Writes the reply to `message[start, end)`, asked from `port`, to `reply[at]`; gives its length, 0 when the story must be asked. */
  readonly replay: (message: Uint8Array, start: number, end: number, source: Address, reply: Uint8Array, at: number, port: number) => number
} // prettier-ignore

interface Entry {
  readonly source: Address
  /** Of the message, which is told by these and by its question, as that stands in the reply: the two octets of flags; its OPT record. */
  readonly flags: number
  readonly opt: Opt
  /** End of the name in the message and in the reply. */
  readonly nameEnd: number
  /** The reply with the TTLs of the upstream's answer, and the question of who asked first. */
  readonly reply: Uint8Array
  readonly ttlsAt: readonly number[]
  readonly answer:
    | {
        readonly keptAt: Millis
        readonly ttlSeconds: Seconds
        readonly spender: string | number
        readonly rcode: number
      }
    | undefined
  /** Undefined: nothing needs a lease. */
  readonly lease: Assured | undefined
  /** One object for all that hear of this entry: what they keep of it they copy. */
  readonly outcome: Told & { ttlSeconds?: Seconds }
}

/** An OPT record without options: type and class (the size), what stands in the place of a TTL; 0 and 0: there is none. As numbers of 32 bits with a sign, which take no room of their own. */
interface Opt {
  readonly typeAndClass: number
  readonly ttl: number
}

/** Places that a number may be found at: of names that fall together none drives out the others while there is room (1 of 100 with four, 15 with one). */
const ways = 4
const placesMin = 1024
const placesMax = 65_536
/** A name of 255 octets, type, class, and an OPT record without options. */
const optOctets = 11
const messageOctetsMax = headerOctets + 255 + 4 + optOctets

/**
 * An empty table. It is emptied when the snapshot, the ruleset or what leases assure changes. Who asks something for the first time leaves
 * only a number: an entry is made at the second time, so names asked once drive out nobody. At the bound an entry goes when four newer ones
 * fall to its places.
 */
export function makeReplays({ clock, revision, epoch, leases, budgets, entries, report }: ReplayParts): Replays {
  let size = placesMin
  while (size < entries && size < placesMax) size *= 2
  const places = new Array<Entry | undefined>(size).fill(undefined)
  const seen = new Int32Array(size)
  /** What all entries rest on. */
  const ground = { revision: -1, losses: -1, epoch: -1 }
  let now: Millis = 0
  /** Whether the kernel was asked in this turn. */
  let isAsked = false

  function standOn(what: 'revision' | 'losses' | 'epoch', value: number): void {
    if (ground[what] === value) return
    ground[what] = value
    places.fill(undefined)
  }
  function look(): void {
    standOn('revision', revision())
    standOn('losses', leases.losses())
  }

  function turn(): void {
    now = clock()
    isAsked = false
    look()
  }

  const placeOf = (hash: number): number => hash & (size - ways)

  /** Where the entry for a message is; -1: there is none. */
  function find(place: number, message: Uint8Array, start: number, length: number, source: Address): number {
    for (let at = place; at < place + ways; at++) {
      const entry = places[at]
      if (entry !== undefined && isSame(entry, message, start, length, source)) return at
    }
    return -1
  }

  /** Whether it was asked before; from now on it was. */
  function wasSeen(place: number, hash: number): boolean {
    for (let at = place; at < place + ways; at++) if (seen[at] === hash) return true
    seen.copyWithin(place + 1, place, place + ways - 1)
    seen[place] = hash
    return false
  }

  function keep(message: Uint8Array, outcome: Outcome): void {
    if (outcome.kind !== 'answered' && outcome.kind !== 'refused') return
    const { basis, question, source } = outcome
    const nameEnd = headerOctets + question.octets.length - 4
    if (basis === undefined || outcome.transport !== 'udp' || !isPlain(message, nameEnd + 4)) return
    const hash = hashOf(message, 0, message.length, source)
    const place = placeOf(hash)
    if (!wasSeen(place, hash)) return
    look()
    if (basis.revision !== ground.revision) return
    let lease: Assured | undefined
    if (basis.kind === 'answer' && basis.fact !== undefined) {
      const { identity, name, addresses } = basis.fact
      lease = leases.assured(identity, name, addresses)
      if (lease === undefined || lease.epoch < ground.epoch) return
      standOn('epoch', lease.epoch)
    }
    const { ttlsAt, reply } = withFullTtls(outcome.reply, basis)
    const again: Told = outcome.kind === 'answered' ? { ...outcome, reply, cached: true, committed: 0 } : { ...outcome, reply }
    const known = find(place, message, 0, message.length, source)
    const at = known < 0 ? place + ways - 1 : known
    // The newest first.
    places.copyWithin(place + 1, place, at)
    places[place] = {
      source,
      flags: count(message, 2),
      opt: optAt(message, nameEnd + 4, message.length),
      nameEnd,
      reply,
      ttlsAt,
      answer:
        basis.kind === 'answer'
          ? { keptAt: basis.keptAt, ttlSeconds: basis.ttlSeconds, spender: spenderOf(outcome.endpoint, source), rcode: basis.answer.rcode }
          : undefined,
      lease,
      outcome: { ...again, basis: undefined },
    }
  }

  function replay(message: Uint8Array, start: number, end: number, source: Address, reply: Uint8Array, at: number, port: number): number {
    const length = end - start
    if (length > messageOctetsMax || length < headerOctets) return 0
    const found = find(placeOf(hashOf(message, start, length, source)), message, start, length, source)
    const entry = places[found]
    if (entry === undefined) return 0
    const { answer, lease } = entry
    const ageSeconds = answer === undefined ? 0 : Math.floor((now - answer.keptAt) / 1000)
    let told = answer === undefined ? 0 : answer.ttlSeconds - ageSeconds
    // From the last tenth on the story is told: it asks anew meanwhile, and knows what to say when nobody answers.
    if (answer !== undefined && (told < 1 || isNearlyOver(told, answer.ttlSeconds))) return 0
    if (lease !== undefined) {
      if (!isAsked) standOn('epoch', epoch())
      isAsked = true
      told = Math.min(told, lease.ttlSecondsMax)
      if (lease.epoch !== ground.epoch || told < lease.ttlSecondsMin || now + told * 1000 > lease.tellUntil) return 0
    }
    if (answer !== undefined) {
      // Last of all: what cannot be paid is not taken either, and the story says which budget it was.
      const { wire } = entry.outcome.question
      if (budgets.spend(answer.spender, wire) !== undefined) return 0
      budgets.answered(answer.spender, wire, answer.rcode)
    }
    reply.set(entry.reply, at)
    reply[at] = message[start] ?? 0
    reply[at + 1] = message[start + 1] ?? 0
    for (let i = headerOctets; i < entry.nameEnd; i++) reply[at + i] = message[start + i] ?? 0
    const { ttlsAt, outcome } = entry
    for (let i = 0; i < ttlsAt.length; i++) capTtl(reply, at + (ttlsAt[i] ?? 0), told, ageSeconds)
    if (outcome.kind === 'answered') outcome.ttlSeconds = told
    report(outcome, port)
    return entry.reply.length
  }

  return { keep, turn, replay }
} // prettier-ignore

/** Whether nothing follows the question, or one OPT record without options: those may ask for what is not the same twice (cookies). */
function isPlain(message: Uint8Array, questionEnd: number): boolean {
  const rest = message.length - questionEnd
  return rest === 0 || (rest === optOctets && message[questionEnd] === 0 && count(message, message.length - 2) === 0)
}

/** The reply as it would be with the TTLs that the upstream's answer had; none are in one that was cut (TC). */
function withFullTtls(told: Uint8Array, basis: Basis): { reply: Uint8Array; ttlsAt: readonly number[] } {
  const reply = Uint8Array.from(told)
  if (basis.kind !== 'answer' || ((reply[2] ?? 0) & 0x02) !== 0) return { reply, ttlsAt: [] }
  const { message, ttlsAt } = basis.answer
  for (const at of ttlsAt) reply.set(message.subarray(at, at + 4), at)
  return { reply, ttlsAt }
}

/** Of the source and of the message behind its ID, the same for names that differ in case only (FNV-1a). */
function hashOf(message: Uint8Array, start: number, length: number, source: Address): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < source.length; i++) hash = Math.imul(hash ^ source.charCodeAt(i), 0x01000193)
  for (let i = start + 2; i < start + length; i++) hash = Math.imul(hash ^ ((message[i] ?? 0) | 0x20), 0x01000193)
  return hash ^ (hash >>> 15)
}

const noOpt: Opt = { typeAndClass: 0, ttl: 0 }
function optAt(message: Uint8Array, at: number, end: number): Opt {
  return at === end ? noOpt : { typeAndClass: int32(message, at + 1), ttl: int32(message, at + 5) }
}
const int32 = (octets: Uint8Array, at: number): number => (count(octets, at) << 16) | count(octets, at + 2)

/**
 * Whether a message is the entry's: octet by octet, but for its ID and the case of its name. All that are kept have one question, and nothing
 * else but the OPT record, if any.
 */
function isSame(entry: Entry, message: Uint8Array, start: number, length: number, from: Address): boolean {
  const { source, flags, opt, nameEnd, reply } = entry
  const hasOpt = opt.typeAndClass !== 0
  const questionEnd = nameEnd + 4
  if (source !== from || length !== (hasOpt ? questionEnd + optOctets : questionEnd)) return false
  if (count(message, start + 2) !== flags || int32(message, start + 4) !== 0x10000) return false
  if (int32(message, start + 8) !== (hasOpt ? 1 : 0)) return false
  for (let i = headerOctets; i < nameEnd; i++) {
    const ours = reply[i] ?? 0
    const theirs = message[start + i] ?? 0
    // Length octets are below 64 and so never taken for letters.
    if (ours !== theirs && (((ours ^ theirs) !== 0x20) || !isLetter(ours))) return false
  }
  if (int32(message, start + nameEnd) !== int32(reply, nameEnd)) return false
  if (!hasOpt) return true
  const at = start + questionEnd
  return message[at] === 0 && int32(message, at + 1) === opt.typeAndClass && int32(message, at + 5) === opt.ttl && count(message, at + 9) === 0
} // prettier-ignore

const isLetter = (octet: number): boolean => (octet | 0x20) >= 0x61 && (octet | 0x20) <= 0x7a
