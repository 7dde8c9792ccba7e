// A manifest as a tree that knows where each field stands, and readers that collect every issue instead of stopping at the first.

export interface Issue {
  readonly file: string
  readonly line: number
  readonly column: number
  /** `spec.egress[0].toFQDNs[1].matchName`; '' for the document. */
  readonly path: string
  readonly message: string
  /** `note`: worth knowing, nothing to change. */
  readonly severity: 'error' | 'warning' | 'note'
}

export type Scalar = string | number | boolean | null

/** Where a field stands. */
export interface Place {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly path: string
}

export type Field = Place &
  (
    | { readonly kind: 'map'; readonly entries: ReadonlyMap<string, Field> }
    | { readonly kind: 'list'; readonly items: readonly Field[] }
    /** `source`: how a number or boolean is written, which its value does not tell (`1.10`). */
    | { readonly kind: 'scalar'; readonly value: Scalar; readonly source?: string }
  )

/** Issues of one load, in the order they were found. */
export interface Report {
  readonly issues: Issue[]
  readonly error: (at: Place, message: string) => void
  readonly warn: (at: Place, message: string) => void
  readonly note: (at: Place, message: string) => void
  readonly add: (issue: Issue) => void
  /** How many errors there are so far. */
  readonly errorCount: () => number
}

export function makeReport(): Report {
  const issues: Issue[] = []
  let errors = 0
  const add = (issue: Issue): void => {
    if (issue.severity === 'error') errors++
    issues.push(issue)
  }
  const say =
    (severity: Issue['severity']) =>
    ({ file, line, column, path }: Place, message: string): void =>
      add({ file, line, column, path, message, severity })
  return { issues, error: say('error'), warn: say('warning'), note: say('note'), add, errorCount: () => errors }
}

/** `file:line:column: path: message`, as people and editors read it. */
export function issueToText({ file, line, column, path, message, severity }: Issue): string {
  return `${file}:${line}:${column}: ${severity === 'error' ? '' : `${severity}: `}${path === '' ? '' : `${path}: `}${message}`
}

const kindOf = (field: Field): string => {
  if (field.kind !== 'scalar') return field.kind === 'map' ? 'a mapping' : 'a list'
  return field.value === null ? 'nothing' : typeof field.value === 'boolean' ? 'a boolean' : `a ${typeof field.value}`
}

const wrongType = (report: Report, field: Field, wanted: string): undefined => {
  report.error(field, `must be ${wanted}, not ${kindOf(field)}`)
  return undefined
}

/** A field that is absent or explicitly null. */
export function isAbsent(field: Field | undefined): field is undefined {
  return field === undefined || (field.kind === 'scalar' && field.value === null)
}

/** What to say of fields that belong elsewhere, by their names: people carry them over from other kinds of policy and other places. */
export type Strays = Readonly<Record<string, string>>

/** The entries of a mapping; with `known`, any other key is an error with a suggestion. */
export function readMap(report: Report, field: Field, known?: readonly string[], strays: Strays = {}): ReadonlyMap<string, Field> {
  if (field.kind !== 'map') return wrongType(report, field, 'a mapping') ?? new Map<string, Field>()
  if (known !== undefined)
    for (const [key, entry] of field.entries) {
      if (known.includes(key)) continue
      const stray = Object.hasOwn(strays, key) ? strays[key] : undefined
      report.error(entry, `unknown field "${key}"${stray === undefined ? didYouMean(key, known) : `; ${stray}`}`)
    }
  return field.entries
} // prettier-ignore

/** The entries of a mapping that may be absent: none then. */
export function readPart(report: Report, field: Field | undefined, known?: readonly string[], strays?: Strays): ReadonlyMap<string, Field> {
  return isAbsent(field) ? new Map() : readMap(report, field, known, strays)
} // prettier-ignore

/** The items of a list; [] when absent. */
export function readList(report: Report, field: Field | undefined): readonly Field[] {
  if (isAbsent(field)) return []
  if (field.kind !== 'list') return wrongType(report, field, 'a list') ?? []
  return field.items
}

export function readString(report: Report, field: Field | undefined): string | undefined {
  if (isAbsent(field)) return undefined
  if (field.kind === 'scalar' && typeof field.value === 'string') return field.value
  if (field.kind === 'scalar' && (typeof field.value === 'number' || typeof field.value === 'boolean'))
    return wrongType(report, field, `a string (in quotes: "${field.source ?? String(field.value)}")`)
  return wrongType(report, field, 'a string')
}

/** One of a few words; any other is an error in the API server's text, with the word that was probably meant. */
export function readWord<W extends string>(report: Report, field: Field | undefined, words: readonly W[]): W | undefined {
  const text = readString(report, field)
  if (text === undefined || field === undefined) return undefined
  const word = words.find((candidate) => candidate === text)
  if (word === undefined) report.error(field, `Unsupported value: "${text}": supported values: ${words.map((w) => `"${w}"`).join(', ')}${didYouMean(text, words)}`)
  return word
} // prettier-ignore

export function readInteger(report: Report, field: Field | undefined): number | undefined {
  if (isAbsent(field)) return undefined
  if (field.kind === 'scalar' && typeof field.value === 'number' && Number.isInteger(field.value)) return field.value
  return wrongType(report, field, 'an integer')
}

export function readBoolean(report: Report, field: Field | undefined): boolean | undefined {
  if (isAbsent(field)) return undefined
  if (field.kind === 'scalar' && typeof field.value === 'boolean') return field.value
  return wrongType(report, field, 'a boolean')
}

/** A mapping of strings, such as labels; {} when absent. */
export function readStringMap(report: Report, field: Field | undefined): ReadonlyMap<string, string> {
  const map = new Map<string, string>()
  if (isAbsent(field)) return map
  for (const [key, entry] of readMap(report, field)) {
    const value = isAbsent(entry) ? '' : readString(report, entry)
    if (value !== undefined) map.set(key, value)
  }
  return map
}

/** `; did you mean "web"?` where a known word is near, else ''. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = nearest(word, known)
  return near === undefined || near === word ? '' : `; did you mean "${near}"?`
}

/** The JSON of a field. */
export function fieldToJson(field: Field): string {
  return JSON.stringify(toValue(field))
}

function toValue(field: Field): unknown {
  switch (field.kind) {
    case 'scalar':
      return field.value
    case 'list':
      return field.items.map(toValue)
    case 'map':
      return Object.fromEntries([...field.entries].map(([key, entry]) => [key, toValue(entry)]))
  }
}

/** The known word nearest to a misspelt one, where it is near enough to be meant. @param most letters that may differ */
export function nearest(word: string, known: readonly string[], most: number = Math.max(2, Math.floor(word.length / 3))): string | undefined {
  let best: string | undefined
  let least = most + 1
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase())
    if (distance < least) [best, least] = [candidate, distance]
  }
  return best
} // prettier-ignore

/** Levenshtein distance; long words are cut, since only near ones matter. */
function editDistance(a: string, b: string): number {
  const [left, right] = [a.slice(0, 40), b.slice(0, 40)]
  let row = Array.from({ length: right.length + 1 }, (_, i) => i)
  for (let i = 1; i <= left.length; i++) {
    const next = [i]
    for (let j = 1; j <= right.length; j++)
      next.push(
        Math.min((next[j - 1] ?? 0) + 1, (row[j] ?? 0) + 1, (row[j - 1] ?? 0) + (left[i - 1] === right[j - 1] ? 0 : 1)),
      )
    row = next
  }
  return row[right.length] ?? 0
}
