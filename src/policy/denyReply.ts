// How a refused question is answered, by name: REFUSED ends the search of some resolvers (musl), NXDOMAIN lets them go on.
import { isUnder, wireFromText, type WireName } from '../wire/name.ts'

export type DenyReply = 'refused' | 'nxdomain'

/** Of the suffixes that a name is at or under the longest counts; `otherwise` where there is none. */
export interface DenyReplies {
  readonly otherwise: DenyReply | undefined
  readonly suffixes: readonly { readonly suffix: WireName; readonly reply: DenyReply }[]
}

export const replyFor = ({ otherwise, suffixes }: DenyReplies, name: WireName): DenyReply | undefined => {
  let longest: DenyReplies['suffixes'][number] | undefined
  for (const one of suffixes)
    if (isUnder(name, one.suffix) && one.suffix.length > (longest?.suffix.length ?? 0)) longest = one
  return longest?.reply ?? otherwise
}

/** NXDOMAIN where any of several policies says so; undefined where none says anything. */
export function replyOfAll(policies: readonly DenyReplies[], name: WireName): DenyReply | undefined {
  const said = policies.map((one) => replyFor(one, name))
  return said.includes('nxdomain') ? 'nxdomain' : said.find((reply) => reply !== undefined)
}

/**
 * Reads `nxdomain`, or with suffixes `refused, corp.example=nxdomain`, in any order.
 * @returns a sentence where the text says something else.
 */
export function readDenyReplies(text: string): DenyReplies | string {
  let otherwise: DenyReply | undefined
  const suffixes: { suffix: WireName; reply: DenyReply }[] = []
  for (const part of text.split(',').map((each) => each.trim())) {
    const at = part.indexOf('=')
    const reply = part.slice(at + 1).trim()
    if (reply !== 'refused' && reply !== 'nxdomain') return `must be refused or nxdomain, not "${reply}"`
    if (at < 0) {
      if (otherwise !== undefined) return 'says twice how what has no suffix is answered'
      otherwise = reply
      continue
    }
    const name = part.slice(0, at).trim()
    const suffix = wireFromText(name)
    if (suffix === undefined || suffix.length <= 1) return `"${name}" is not a suffix of names`
    if (suffixes.some((one) => one.suffix === suffix)) return `says twice how names under ${name} are answered`
    suffixes.push({ suffix, reply })
  }
  return { otherwise, suffixes }
}
