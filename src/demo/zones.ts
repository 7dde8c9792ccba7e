// Zone files (RFC 1035 §5) for the embedded upstream: $ORIGIN, $TTL, relative names, parentheses, comments, quoted strings; and looking up
// in them as a resolver would, along CNAMEs.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** One record; names absolute and lower case without final dot, data fields as they stand in the file. */
export interface ZoneRecord {
  readonly name: string
  readonly type: string
  readonly ttlSeconds: number
  readonly data: readonly string[]
}

/** All records of some zones by name, and the zones' apexes. */
export interface Zones {
  readonly records: ReadonlyMap<string, readonly ZoneRecord[]>
  readonly apexes: readonly string[]
}

export interface Lookup {
  readonly rcode: 'NOERROR' | 'NXDOMAIN' | 'REFUSED'
  readonly answers: readonly ZoneRecord[]
  /** The SOA of the zone that says no. */
  readonly authority: readonly ZoneRecord[]
}

const fieldsOf: Readonly<Record<string, number>> = {
  A: 1,
  AAAA: 1,
  CNAME: 1,
  NS: 1,
  PTR: 1,
  MX: 2,
  SRV: 4,
  SOA: 7,
  TXT: 1,
}
/** Which data fields are names, to be made absolute. */
const namesIn: Readonly<Record<string, readonly number[]>> = {
  CNAME: [0],
  NS: [0],
  PTR: [0],
  MX: [1],
  SRV: [3],
  SOA: [0, 1],
}

/** Reads every *.zone file of a folder. Throws an Error that names file and line. */
export function readZones(folder: string): Zones {
  const files = readdirSync(folder).filter((name) => name.endsWith('.zone'))
  const records = files.flatMap((name) => parseZone(readFileSync(join(folder, name), 'utf8'), join(folder, name)))
  return makeZones(records)
}

export function makeZones(records: readonly ZoneRecord[]): Zones {
  const byName = new Map<string, ZoneRecord[]>()
  for (const record of records) byName.set(record.name, [...(byName.get(record.name) ?? []), record])
  return { records: byName, apexes: records.filter((record) => record.type === 'SOA').map((record) => record.name) }
}

/** Parses one zone file. Throws an Error `file:line: what`. */
export function parseZone(text: string, file: string): ZoneRecord[] {
  const records: ZoneRecord[] = []
  let [origin, ttl, name] = ['', 3600, '']
  for (const { words, line, startsBlank } of entriesOf(text)) {
    const wrong = (what: string): Error => new Error(`${file}:${line}: ${what}`)
    const [first = '', second = ''] = words
    if (first === '$ORIGIN') origin = absolute(second, '')
    else if (first === '$TTL') ttl = seconds(second) ?? raise(wrong(`"${second}" is not a TTL`))
    else {
      const rest = startsBlank ? [...words] : words.slice(1)
      if (!startsBlank) name = absolute(first, origin)
      let own = ttl
      for (let word = rest[0] ?? ''; word.toUpperCase() === 'IN' || seconds(word) !== undefined; word = rest[0] ?? '') {
        own = seconds(word) ?? own
        rest.shift()
      }
      const type = (rest.shift() ?? '').toUpperCase()
      const fields = fieldsOf[type] ?? raise(wrong(`record type "${type}" is not known here`))
      if (type === 'TXT' ? rest.length < 1 : rest.length !== fields)
        throw wrong(`${type} takes ${fields} fields, not ${rest.length}`)
      const data = rest.map((word, i) => (namesIn[type]?.includes(i) === true ? absolute(word, origin) : word))
      records.push({ name, type, ttlSeconds: own, data })
    }
  }
  return records
}

function raise(error: Error): never {
  throw error
}

const isDigits = (word: string): boolean => word !== '' && [...word].every((c) => c >= '0' && c <= '9')
const seconds = (word: string): number | undefined => (isDigits(word) ? Number(word) : undefined)

function absolute(name: string, origin: string): string {
  const lower = name.toLowerCase()
  if (lower === '@') return origin
  if (lower.endsWith('.')) return lower.slice(0, -1)
  return origin === '' ? lower : `${lower}.${origin}`
}

/** The file's entries as words: parentheses join lines, `;` begins a comment, quotes hold words together. */
function* entriesOf(text: string): Iterable<{ words: string[]; line: number; startsBlank: boolean }> {
  let words: string[] = []
  let depth = 0
  let startsBlank = false
  let start = 0
  for (const [i, row] of text.split('\n').entries()) {
    if (depth === 0) [words, startsBlank, start] = [[], row.startsWith(' ') || row.startsWith('\t'), i + 1]
    for (let at = 0; at < row.length;) {
      const c = row.charAt(at)
      if (c === ';') break
      if (c === '(' || c === ')') depth += c === '(' ? 1 : -1
      if (c === ' ' || c === '\t' || c === '\r' || c === '(' || c === ')') at++
      else if (c === '"') {
        const end = row.indexOf('"', at + 1)
        words.push(row.slice(at + 1, end < 0 ? row.length : end))
        at = end < 0 ? row.length : end + 1
      } else {
        let end = at
        while (end < row.length && !' \t\r();"'.includes(row.charAt(end))) end++
        words.push(row.slice(at, end))
        at = end
      }
    }
    if (depth === 0 && words.length > 0) yield { words, line: start, startsBlank }
  }
}

/** CNAMEs that are followed at most. */
const linksMax = 8

/** What a resolver that knows these zones answers. Names outside them are refused. */
export function lookUp(zones: Zones, name: string, type: string): Lookup {
  const answers: ZoneRecord[] = []
  let current = name.toLowerCase()
  for (let i = 0; i <= linksMax; i++) {
    const apex = zones.apexes.filter((zone) => current === zone || current.endsWith(`.${zone}`)).sort((a, b) => b.length - a.length)[0]
    if (apex === undefined) return { rcode: answers.length > 0 ? 'NOERROR' : 'REFUSED', answers, authority: [] }
    const here = zones.records.get(current)
    const soa = (zones.records.get(apex) ?? []).filter((record) => record.type === 'SOA')
    if (here === undefined) {
      const between = [...zones.records.keys()].some((known) => known.endsWith(`.${current}`))
      return { rcode: between ? 'NOERROR' : 'NXDOMAIN', answers, authority: soa }
    }
    const wanted = here.filter((record) => record.type === type)
    const alias = here.find((record) => record.type === 'CNAME')
    if (wanted.length > 0 || alias === undefined) return { rcode: 'NOERROR', answers: [...answers, ...wanted], authority: wanted.length > 0 ? [] : soa }
    answers.push(alias)
    current = alias.data[0] ?? ''
  }
  return { rcode: 'NOERROR', answers, authority: [] }
} // prettier-ignore
