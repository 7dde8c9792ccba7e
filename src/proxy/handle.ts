// The story of one query. The order at its end is the product's promise:
//
//     learn ──► commit ──► answer        the workload never holds an address that the kernel would drop for it
//       │          │
//       │          └─ the kernel did not acknowledge: SERVFAIL, no address
//       └─ no room for the lease: SERVFAIL, no address
//
// Two questions for one name at once each wait for their own commit; neither leans on the other's.
import type { Millis } from '../clock.ts'
import type { Endpoint } from '../identity/endpoints.ts'
import type { Learned } from '../leases/lease.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { SubjectPolicy, Grant, Snapshot, Why } from '../policy/snapshot.ts'
import { Class, className, Ede, Rcode, Type, typeName } from '../wire/codes.ts'
import { count, gate, headerOctets, readEdns, readQuestion, type Question } from '../wire/message.ts'
import { buildError, buildReply, flagsOf, type Asked, type QueryFlags } from '../wire/reply.ts'
import type { FitAnswer } from '../wire/answer.ts'
import { labelsOf, nameFromLabels, type WireName } from '../wire/name.ts'
import { keptSecondsMax, type Answered } from './answers.ts'
import type { Budget, Budgets } from './budgets.ts'
import type { NameRules } from './names.ts'
import type { Screen } from './screen.ts'

/** What one identity learned from one answer. */
export interface Fact {
  readonly identity: IdentityId
  readonly endpoint: number
  readonly name: string
  readonly addresses: readonly Address[]
  readonly ttlSeconds: number
  readonly grants: readonly Grant[]
}

export interface ProxyParts {
  readonly snapshot: () => Snapshot
  /** `allow`: who has no endpoint is forwarded, without leases. */
  readonly unknownEndpoint: 'deny' | 'allow'
  readonly names: NameRules
  readonly budgets: Budgets
  readonly screen: Screen
  readonly ask: (question: Question, flags: QueryFlags) => Promise<Answered>
  readonly learn: (fact: Fact) => Learned
  /** Resolves when the kernel has acknowledged; rejects when it did not. */
  readonly commit: (learned: Learned & { readonly kind: 'learned' }) => Promise<void>
  /** For how many seconds from now the asker's own leases of it surely stand in the kernel; 0: at least one of them does not. */
  readonly standsFor: (fact: Fact) => number
  readonly report: (outcome: Outcome) => void
}

interface Said {
  readonly reply: Uint8Array
  readonly why: Why
  readonly transport: 'udp' | 'tcp'
}

/** What an outcome rests on: as long as that stands, the same message from the same source is told the same (`replay.ts`). */
export type Basis =
  | { readonly kind: 'policy'; readonly revision: number }
  | {
      readonly kind: 'answer'
      readonly revision: number
      readonly answer: FitAnswer
      readonly keptAt: Millis
      /** Of the answer when it came in. */
      readonly ttlSeconds: number
      /** What was learned from it; undefined: nothing had to be. */
      readonly fact: Fact | undefined
    }

interface About {
  /** Undefined: it may be another the next time. */
  readonly basis: Basis | undefined
  readonly question: Question
  readonly source: Address
  readonly endpoint: Endpoint | undefined
}

/** How a query ended. `ignored`: nothing is sent. */
export type Outcome =
  | (Said &
      About & {
        readonly kind: 'answered'
        readonly rcode: number
        readonly addresses: readonly Address[]
        readonly ttlSeconds: number
        /** Whether its addresses are leased to the asker (else policy decides about them by address alone). */
        readonly leased: boolean
        /** Elements that the kernel had to acknowledge for this answer; 0 when all stood already. */
        readonly committed: number
        readonly cached: boolean
        /** Its TTL was over and nobody answered: told because the asker's lease stands (RFC 8767). */
        readonly stale: boolean
        /** Whether records that lead where no public name should were left out. */
        readonly stripped: boolean
      })
  | (Said &
      About & {
        readonly kind: 'refused'
        readonly rcode: number
        /** `policy`: it says no. `search`: nor is it meant, a search list made the name. `private`: the answer leads where no public name should. */
        readonly reason: 'policy' | 'search' | 'doh' | 'private' | Budget
      })
  | (Said & About & { readonly kind: 'failed'; readonly stage: 'upstream' | 'answer' | 'lease' | 'commit' | 'policy' })
  | (Said & { readonly kind: 'rejected'; readonly rcode: number })
  | { readonly kind: 'ignored'; readonly why: Why }

/** Policy that changes while an answer is under way makes the question start over; more often than this it is given up. */
const restartsMax = 3

/** Answers one message from `source`. Never throws on anything that a packet says. */
export async function handle(
  parts: ProxyParts,
  message: Uint8Array,
  source: Address,
  transport: 'udp' | 'tcp',
): Promise<Outcome> {
  const outcome = await story(parts, message, source, transport)
  parts.report(outcome)
  return outcome
}

async function story(
  parts: ProxyParts,
  message: Uint8Array,
  source: Address,
  transport: 'udp' | 'tcp',
): Promise<Outcome> {
  const asked = readAsked(message, transport)
  if (asked.kind !== 'query') return asked
  const { question } = asked
  const flags = flagsOf(message, asked.edns)

  // Asked for once: policy that changes meanwhile sends us back to the permission, not to the upstream.
  let answered: Answered | undefined
  for (let start = 0; start <= restartsMax; start++) {
    // Who asks, and may they?
    const snapshot = parts.snapshot()
    const endpoint = snapshot.endpointOf(source)
    const about = { question, source, endpoint, transport, basis: undefined }
    // What is refused before anybody is asked, and before it costs anything.
    const byPolicy: Told = { ...about, basis: { kind: 'policy', revision: snapshot.revision } }
    const unserved = whyUnserved(question)
    if (unserved !== undefined)
      return refuse(asked, byPolicy, 'policy', Rcode.Refused, Ede.NotSupported, { text: unserved })
    if (endpoint === undefined && parts.unknownEndpoint === 'deny')
      return refuse(asked, byPolicy, 'policy', Rcode.Refused, Ede.Prohibited, { text: 'no endpoint is known with this source address' }) // prettier-ignore
    const policy = endpoint === undefined ? undefined : snapshot.policyOf(endpoint.identity)
    const verdict = policy?.mayAsk(question.labels) ?? {
      kind: 'allow' as const,
      why: { text: 'sources without an endpoint are let through' },
    }
    // A denied name may still be an alias of an allowed one; only its answer tells.
    const maybeAlias = verdict.kind === 'deny' && policy !== undefined && mayBeAlias(policy, question)
    if (verdict.kind === 'deny' && !maybeAlias) return refuseDenied(parts, asked, byPolicy, policy, verdict.why)
    if (parts.names.isDohRefused(question.wire, policy?.refusesDoh === true))
      return refuse(asked, byPolicy, 'doh', Rcode.NXDomain, Ede.Filtered, { text: 'resolvers that would not be seen are refused' }) // prettier-ignore
    const spender = spenderOf(endpoint, source)
    const overdrawn = start > 0 ? undefined : parts.budgets.spend(spender, question.wire)
    if (overdrawn !== undefined)
      return refuse(asked, about, overdrawn.budget, Rcode.Refused, Ede.Prohibited, { text: `over budget: ${overdrawn.text}` }) // prettier-ignore

    // Ask upstream; does the answer fit? Whoever was permitted to ask need not be permitted to know when the answer is in.
    if (answered === undefined) {
      answered = await parts.ask(question, flags)
      if (answered.kind === 'answer') parts.budgets.answered(spender, question.wire, answered.answer.rcode)
      if (parts.snapshot() !== snapshot) continue
    }
    if (answered.kind === 'failed')
      return fail(
        asked,
        about,
        'upstream',
        answered.reason === 'network' ? Ede.NetworkError : Ede.NoReachableAuthority,
        answered.text,
      )
    if (answered.kind === 'unfit')
      return fail(asked, about, 'answer', Ede.InvalidData, `the upstream's answer does not fit: ${answered.text}`)

    // By which name is it permitted, and may all of it be told?
    const alias = policy !== undefined && maybeAlias ? aliasOf(policy, answered) : undefined
    if (maybeAlias && alias === undefined) return refuseDenied(parts, asked, about, policy, verdict.why)
    const why = alias?.why ?? verdict.why
    const name = alias?.name ?? question.name
    const grants = policy?.grantsFor(alias?.labels ?? question.labels) ?? []
    const screened = parts.screen(question, answered.answer, alias?.wire ?? question.wire, grants)
    if (screened.kind === 'refuse')
      return refuse(asked, about, 'private', Rcode.Refused, Ede.Censored, { text: screened.text })

    // Learn, wait for the kernel, answer.
    const { cached } = answered
    const { answer } = screened
    const fact =
      endpoint === undefined || policy === undefined
        ? undefined
        : factOf(snapshot, policy, endpoint, name, grants, { ...answered, answer })
    let { ttlSeconds } = answered
    let committed = 0
    if (answered.refresh !== undefined) {
      // Nobody answers any more. What was true is told as long as the asker's lease stands anyway; it does not prolong that.
      ttlSeconds = Math.min(ttlSeconds, fact === undefined ? ttlSeconds : parts.standsFor(fact))
      if (ttlSeconds < 1) {
        answered = await answered.refresh()
        continue
      }
    } else if (fact !== undefined) {
      const learned = parts.learn(fact)
      if (learned.kind === 'full') return fail(asked, about, 'lease', Ede.Other, learned.text)
      try {
        await parts.commit(learned)
      } catch (error) {
        return fail(
          asked,
          about,
          'commit',
          Ede.Other,
          `the kernel did not acknowledge: ${error instanceof Error ? error.message : 'unknown'}`,
        )
      }
      if (parts.snapshot() !== snapshot) continue
      committed = learned.elements.length
      ttlSeconds = Math.min(ttlSeconds, learned.ttlSeconds)
    }
    const { rcode, addresses } = answer
    const stale = answered.refresh !== undefined
    const explanation =
      screened.removed !== undefined
        ? { code: Ede.Filtered, text: `namegate: ${screened.removed}` }
        : stale
          ? {
              code: rcode === Rcode.NXDomain ? Ede.StaleNXDomainAnswer : Ede.StaleAnswer,
              text: 'namegate: no upstream answers',
            }
          : undefined
    const reply = buildReply(asked, question, answer, ttlSeconds, answered.ageSeconds, transport, explanation)
    return {
      kind: 'answered',
      reply,
      ...about,
      basis: basisOf(snapshot, answered, answer, fact),
      rcode,
      addresses,
      ttlSeconds,
      leased: fact !== undefined,
      committed,
      cached,
      stale,
      stripped: screened.removed !== undefined,
      why,
    }
  }
  const about = { question, source, endpoint: parts.snapshot().endpointOf(source), transport, basis: undefined }
  return fail(asked, about, 'policy', Ede.NotReady, 'policy changed again and again while the answer was under way')
}

/** What the asker learns; undefined when nothing needs a lease: no address, no name rule, nothing denied, or in-cluster. */
function factOf(
  snapshot: Snapshot,
  policy: SubjectPolicy,
  endpoint: Endpoint,
  name: string,
  grants: readonly Grant[],
  answered: Answered & { kind: 'answer' },
): Fact | undefined {
  const { fallback, entries } = policy.directions.egress
  const isRestricted = fallback === 'deny' || entries.some((entry) => entry.kind === 'deny')
  if (answered.answer.addresses.length === 0 || !isRestricted) return undefined
  const addresses = answered.answer.addresses.filter((address) => !snapshot.isInCluster(address))
  if (grants.length === 0 || addresses.length === 0) return undefined
  return {
    identity: endpoint.identity,
    endpoint: endpoint.id,
    name,
    addresses,
    ttlSeconds: answered.ttlSeconds,
    grants,
  }
}

/**
 * Types and classes that we do not know pass. Not those of which an answer would be more than one message, which only its first could be told of,
 * nor a class that is all classes at once: an answer to it may hold addresses that nobody leased.
 */
function whyUnserved({ qtype, qclass }: Question): string | undefined {
  if (qclass === 0 || qclass === Class.NONE || qclass === Class.ANY) return `class ${className(qclass)} is not served`
  if (qtype === Type.AXFR || qtype === Type.IXFR) return 'zone transfers are not passed'
  return undefined
}

/** Whether some policy lets rules for a canonical name admit its aliases, and no rule denies this very name. */
function mayBeAlias(policy: SubjectPolicy, question: Question): boolean {
  return (
    policy.followsAliases &&
    question.qclass === Class.IN &&
    !policy.grantsFor(question.labels).some((grant) => grant.kind === 'deny')
  )
}

/**
 * The name along the verified chain whose own rule admits the asked one: leases are made under it, so that they go when its rule does. A name on
 * the way that a rule denies ends it.
 */
function aliasOf(
  policy: SubjectPolicy,
  { answer }: Answered & { kind: 'answer' },
):
  | { readonly wire: WireName; readonly name: string; readonly labels: readonly string[]; readonly why: Why }
  | undefined {
  for (const wire of answer.chain.slice(1)) {
    const labels = labelsOf(wire)
    const grants = policy.grantsFor(labels)
    if (grants.some((grant) => grant.kind === 'deny')) return undefined
    const verdict = policy.mayAsk(labels)
    if (verdict.kind === 'allow' && grants.some((grant) => grant.followsAliases === true))
      return { wire, name: nameFromLabels(labels), labels, why: verdict.why }
  }
  return undefined
}

/** Refused by policy. What a search list made of an allowed name does not exist: resolvers then go on to the name that is meant. */
function refuseDenied(
  parts: ProxyParts,
  asked: Query,
  about: Told,
  policy: SubjectPolicy | undefined,
  why: Why,
): Outcome {
  const meant = parts.names.expandedFrom(asked.question.wire).find((labels) => policy?.mayAsk(labels).kind === 'allow')
  if (meant !== undefined) {
    const text = `expanded from ${nameFromLabels(meant)}, which may be asked: ${why.text}`
    return refuse(asked, about, 'search', Rcode.NXDomain, Ede.Blocked, { ...why, text })
  }
  return refuse(asked, about, 'policy', policy?.denyReplyTo(asked.question.wire) === 'nxdomain' ? Rcode.NXDomain : Rcode.Refused, Ede.Blocked, why)
} // prettier-ignore

/** Whose budget a question is taken from. */
export function spenderOf(endpoint: Endpoint | undefined, source: Address): string | number {
  return endpoint?.identity ?? source
}

/** @param told the answer as it was screened: it is its octets that are told again. */
function basisOf(
  { revision }: Snapshot,
  { keptAt, ttlSeconds, ageSeconds }: Answered & { kind: 'answer' },
  told: FitAnswer,
  fact: Fact | undefined,
): Basis | undefined {
  if (keptAt === undefined) return undefined
  return { kind: 'answer', revision, answer: told, keptAt, ttlSeconds: Math.min(ttlSeconds + ageSeconds, keptSecondsMax), fact }
} // prettier-ignore

type Query = Asked & { readonly kind: 'query'; readonly question: Question }
type Told = About & { readonly transport: 'udp' | 'tcp' }

function readAsked(
  message: Uint8Array,
  transport: 'udp' | 'tcp',
): Query | (Outcome & { kind: 'rejected' | 'ignored' }) {
  const judged = gate(message)
  if (judged.kind === 'ignore') return { kind: 'ignored', why: { text: judged.fault } }
  const reject = (
    rcode: Rcode,
    text: string,
    asked: Asked = { message, edns: 'none' },
  ): Outcome & { kind: 'rejected' } => {
    return { kind: 'rejected', reply: buildError(asked, rcode), rcode, transport, why: { text } }
  }
  if (judged.kind === 'reject') return reject(judged.rcode, judged.fault)
  const question = readQuestion(message)
  if (question === undefined) return reject(Rcode.FormErr, 'the question is malformed')
  const edns = readEdns(message, headerOctets + question.octets.length, count(message, 10))
  if (edns === undefined)
    return reject(Rcode.FormErr, 'the additional section is malformed', { message, question, edns: 'none' })
  if (edns !== 'none' && edns.version > 0)
    return reject(Rcode.BadVers, `EDNS version ${edns.version}`, { message, question, edns })
  return { kind: 'query', message, question, edns }
}

type Reason = (Outcome & { kind: 'refused' })['reason']
function refuse(asked: Query, about: Told, reason: Reason, rcode: Rcode, code: Ede, why: Why): Outcome {
  const rule = why.policy === undefined ? '' : ` (${why.policy} ${why.rule ?? ''})`
  const text = `namegate: ${asked.question.name} ${typeName(asked.question.qtype)}: ${why.text}${rule}`
  return { kind: 'refused', reply: buildError(asked, rcode, { code, text }), rcode, reason, ...about, why }
}

function fail(
  asked: Query,
  about: Told,
  stage: (Outcome & { kind: 'failed' })['stage'],
  code: Ede,
  text: string,
): Outcome {
  return {
    kind: 'failed',
    reply: buildError(asked, Rcode.ServFail, { code, text: `namegate: ${text}` }),
    stage,
    ...about,
    why: { text },
  }
}
