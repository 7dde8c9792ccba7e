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
import type { Learned } from '../leases/leases.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { SubjectPolicy, Grant, Snapshot, Why } from '../policy/snapshot.ts'
import { Class, Ede, Rcode, typeName } from '../wire/codes.ts'
import { count, gate, headerOctets, readEdns, readQuestion, type Question } from '../wire/message.ts'
import { buildError, buildReply, flagsOf, type Asked, type QueryFlags } from '../wire/reply.ts'
import type { FitAnswer } from '../wire/answer.ts'
import type { Answered } from './answers.ts'

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
  readonly ask: (question: Question, flags: QueryFlags) => Promise<Answered>
  readonly learn: (fact: Fact) => Learned
  /** Resolves when the kernel has acknowledged; rejects when it did not. */
  readonly commit: (learned: Learned & { readonly kind: 'learned' }) => Promise<void>
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
      })
  | (Said & About & { readonly kind: 'refused'; readonly rcode: number })
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
    const byPolicy: Told = { ...about, basis: { kind: 'policy', revision: snapshot.revision } }
    // Addresses of other classes, and of all at once, are none that a lease could be about.
    if (question.qclass !== Class.IN)
      return refuse(asked, byPolicy, Rcode.Refused, Ede.Prohibited, { text: `class ${question.qclass} is not served` })
    if (endpoint === undefined && parts.unknownEndpoint === 'deny')
      return refuse(asked, byPolicy, Rcode.Refused, Ede.Prohibited, {
        text: 'no endpoint is known with this source address',
      })
    const policy = endpoint === undefined ? undefined : snapshot.policyOf(endpoint.identity)
    const verdict = policy?.mayAsk(question.labels) ?? {
      kind: 'allow' as const,
      why: { text: 'sources without an endpoint are let through' },
    }
    if (verdict.kind === 'deny')
      return refuse(
        asked,
        byPolicy,
        policy?.denyReply === 'nxdomain' ? Rcode.NXDomain : Rcode.Refused,
        Ede.Blocked,
        verdict.why,
      )

    // Ask upstream; does the answer fit? Whoever was permitted to ask need not be permitted to know when the answer is in.
    if (answered === undefined) {
      answered = await parts.ask(question, flags)
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

    // Learn, wait for the kernel, answer.
    const { answer, cached } = answered
    const fact =
      endpoint === undefined || policy === undefined
        ? undefined
        : factOf(snapshot, policy, endpoint, question, answered)
    let { ttlSeconds } = answered
    let committed = 0
    if (fact !== undefined) {
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
    const reply = buildReply(asked, question, answer, ttlSeconds, answered.ageSeconds, transport)
    const { rcode, addresses } = answer
    return {
      kind: 'answered',
      reply,
      ...about,
      basis: basisOf(snapshot, answered, fact),
      rcode,
      addresses,
      ttlSeconds,
      leased: fact !== undefined,
      committed,
      cached,
      why: verdict.why,
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
  question: Question,
  answered: Answered & { kind: 'answer' },
): Fact | undefined {
  const { fallback, entries } = policy.directions.egress
  const isRestricted = fallback === 'deny' || entries.some((entry) => entry.kind === 'deny')
  if (answered.answer.addresses.length === 0 || !isRestricted) return undefined
  const grants = policy.grantsFor(question.labels)
  const addresses = answered.answer.addresses.filter((address) => !snapshot.isInCluster(address))
  if (grants.length === 0 || addresses.length === 0) return undefined
  return {
    identity: endpoint.identity,
    endpoint: endpoint.id,
    name: question.name,
    addresses,
    ttlSeconds: answered.ttlSeconds,
    grants,
  }
}

function basisOf(
  { revision }: Snapshot,
  { answer, keptAt, ttlSeconds, ageSeconds }: Answered & { kind: 'answer' },
  fact: Fact | undefined,
): Basis | undefined {
  if (keptAt === undefined) return undefined
  return { kind: 'answer', revision, answer, keptAt, ttlSeconds: ttlSeconds + ageSeconds, fact }
}

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

function refuse(asked: Query, about: Told, rcode: Rcode, code: Ede, why: Why): Outcome {
  const rule = why.policy === undefined ? '' : ` (${why.policy} ${why.rule ?? ''})`
  const text = `namegate: ${asked.question.name} ${typeName(asked.question.qtype)}: ${why.text}${rule}`
  return { kind: 'refused', reply: buildError(asked, rcode, { code, text }), rcode, ...about, why }
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
