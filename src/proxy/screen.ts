// What an answer may tell beyond fitting its question: addresses that no public name should lead to (DNS rebinding), hints and ECH parameters.
import { addressToText, type Address } from '../net/address.ts'
import { specialKind } from '../net/special.ts'
import type { Grant } from '../policy/snapshot.ts'
import type { FitAnswer } from '../wire/answer.ts'
import type { Question } from '../wire/message.ts'
import { isUnder, type WireName } from '../wire/name.ts'
import { rewrite } from '../wire/rewrite.ts'

export interface ScreenOptions {
  /** What becomes of an answer in which a public name leads to a private address: none of it is told, or only the other records are. */
  readonly privateAnswers: 'refuse' | 'strip' | 'allow'
  /** Names that may lead there: those of the cluster, zones of one's own. */
  readonly privateSuffixes: readonly WireName[]
  /** `strip`: address hints in HTTPS and SVCB are not told; else they are leased like A and AAAA. */
  readonly serviceHints: 'lease' | 'strip'
  readonly stripEch: boolean
}

export type Screened =
  /** `removed`: what the client should know is missing (undefined: nothing that it asked for). */
  | { readonly kind: 'pass'; readonly answer: FitAnswer; readonly removed: string | undefined }
  | { readonly kind: 'refuse'; readonly text: string }

/** Whether a name, by what is granted to it, may lead to an address. Where no public name should (net/special.ts), policy or configuration must say so. */
export type MayLead = (name: WireName, grants: readonly Grant[], address: Address) => boolean

export function makeMayLead({ privateAnswers, privateSuffixes }: Pick<ScreenOptions, 'privateAnswers' | 'privateSuffixes'>): MayLead {
  return (name, grants, address) =>
    specialKind(address) === undefined ||
    privateAnswers === 'allow' ||
    privateSuffixes.some((suffix) => isUnder(name, suffix)) ||
    grants.some((grant) => grant.kind === 'allow' && grant.privateAnswers === true)
} // prettier-ignore

/** @param name the name by whose rules (`grants`) the answer is told, and its addresses leased: the question's, or one that it is an alias of. */
export type Screen = (question: Question, answer: FitAnswer, name: WireName, grants: readonly Grant[]) => Screened

export function makeScreen(options: ScreenOptions): Screen {
  const { privateAnswers, serviceHints, stripEch } = options
  const mayLead = makeMayLead(options)
  return (question, answer, name, grants) => {
    const kindOf = (address: Address): string | undefined => (mayLead(name, grants, address) ? undefined : specialKind(address))
    const forbidden = answer.addresses.find((address) => kindOf(address) !== undefined)
    const text = forbidden && `${question.name} leads to ${addressToText(forbidden)} (${kindOf(forbidden)}): no public name should`
    if (text !== undefined && privateAnswers === 'refuse') return { kind: 'refuse', text }
    const hints = serviceHints === 'strip'
    if (text === undefined && !((hints || stripEch) && answer.hasService)) return { kind: 'pass', answer, removed: undefined }
    const cut = rewrite(question, answer, { isForbidden: (address) => kindOf(address) !== undefined, hints, ech: stripEch })
    if (cut.kind === 'fault') return { kind: 'refuse', text: `what may be told of the answer does not fit: ${cut.fault}` }
    return { kind: 'pass', answer: { ...cut, ttlSeconds: answer.ttlSeconds }, removed: text }
  }
} // prettier-ignore
