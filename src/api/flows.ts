// GET /v1/flows: flows as JSON lines in the form of `hubble observe -o json`, the last so many or as they come.
import { compileFilters, type DeniedAs, type FlowFilter, type Place } from '../observe/filters.ts'
import { flowLine } from '../observe/hubble/message.ts'
import type { Observer } from '../observe/observer.ts'
import type { Range } from '../observe/range.ts'
import { readRange } from '../observe/read.ts'
import type { Entry } from '../observe/ring.ts'

export type FlowQuery =
  | {
      readonly ok: true
      readonly range: Range
      readonly shows: (entry: Entry) => boolean
      readonly deniedAs: DeniedAs
    }
  | { readonly ok: false; readonly error: string }

const lastDefault = 20
/**
 * Reads the parameters: `last`, `first` (numbers), `since`, `until` (RFC 3339), `follow` (true), `allow`, `deny` (JSON lists of Hubble's
 * FlowFilters).
 */
export function readFlowQuery(query: Readonly<Record<string, string>>, place: Place): FlowQuery {
  const wrong = (error: string): FlowQuery => ({ ok: false, error })
  const { last, first, since, until, follow = 'false' } = query
  if (follow !== 'true' && follow !== 'false') return wrong('follow: true or false')
  if (first !== undefined && (last !== undefined || follow === 'true')) return wrong('first goes neither with last nor with follow') // prettier-ignore
  for (const [key, value] of Object.entries({ last, first }))
    if (value !== undefined && (value === '' || value.length > 9 || [...value].some((c) => c < '0' || c > '9'))) return wrong(`${key}: "${value}" is not a number`) // prettier-ignore
  const moments = [since, until].map((text) => (text === undefined ? undefined : Date.parse(text)))
  if (moments.some((moment) => Number.isNaN(moment))) return wrong('since and until are times such as 2026-01-02T03:04:05Z') // prettier-ignore
  const lists: FlowFilter[][] = []
  for (const key of ['allow', 'deny'] as const) {
    const list = readFilters(query[key])
    if (list === undefined) return wrong(`${key}: a JSON list of filters`)
    lists.push(list)
  }
  const filters = compileFilters(lists[0] ?? [], lists[1] ?? [], place)
  if (!filters.ok) return wrong(filters.error)
  const fallback = since !== undefined || until !== undefined ? undefined : follow === 'true' ? 0 : lastDefault
  const given = first ?? last
  const range: Range = { number: given === undefined ? fallback : Number(given), first: first !== undefined, follow: follow === 'true', since: moments[0], until: moments[1] } // prettier-ignore
  return {
    ok: true,
    range,
    shows: (entry) => entry.kind !== 'lost' && filters.shows(entry),
    deniedAs: filters.deniedAs,
  }
}

function readFilters(text: string | undefined): FlowFilter[] | undefined {
  if (text === undefined) return []
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) && value.every((each) => typeof each === 'object' && each !== null) ? (value as FlowFilter[]) : undefined // prettier-ignore
  } catch {
    return undefined
  }
}

/** The flows as lines; ends with the range, or when `signal` is aborted. */
export async function* flowLines(
  { ring, place }: Pick<Observer, 'ring' | 'place'>,
  { range, shows, deniedAs }: FlowQuery & { ok: true },
  signal: AbortSignal,
): AsyncGenerator<string> {
  // Headers leave with the first line, and a follower's first flow may be long in coming.
  if (range.follow) yield '\n'
  for await (const line of readRange(ring, range, shows, (entry) => flowLine(entry, place, deniedAs), signal))
    yield `${JSON.stringify(line)}\n`
}
