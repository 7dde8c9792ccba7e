// What reading the manifests already found, as findings: what is refused (NG000) and, where it is one of the mistakes that people make again
// and again, its own code: YAML (NG017), misspelt words (NG020), patterns (NG013).
import { entities } from '../rules.ts'
import { nearest, type Field, type Issue, type Place } from '../field.ts'
import type { Code, Finding, Fix } from './codes.ts'
import { at, fixOf, itemsOf, type Context } from './context.ts'

/** Findings of every issue that no check has said better: at one place, one finding. */
export function findingsOfIssues(context: Context, said: readonly Finding[]): Finding[] {
  const places = new Set(
    said
      .filter(({ code }) => code === 'NG019' || code === 'NG017')
      .map(({ file, line, column }) => `${file}:${line}:${column}`),
  )
  const find = makeFinder(context.documents)
  return context.issues
    .filter((issue) => issue.severity === 'error' && !places.has(`${issue.file}:${issue.line}:${issue.column}`))
    .map((issue) => findingOfIssue(context, issue, find))
}

function findingOfIssue(context: Context, { file, line, column, path, message }: Issue, find: Finder): Finding {
  const code = codeOf(path, message)
  const field = find({ file, line, column, path })
  const fix = field === undefined ? undefined : fixIssue(context, field, message)
  const hint = hintOf(message)
  return {
    code,
    severity: 'error',
    file,
    line,
    column,
    path,
    message,
    ...(hint === undefined ? {} : { hint }),
    ...(fix === undefined ? {} : { fix }),
  }
}

function codeOf(path: string, message: string): Code {
  if (message.includes('unsupported entity') || message.includes('reserved')) return 'NG020'
  if (path.includes('.http[') && message.includes('pars')) return 'NG013'
  if (
    path === '' ||
    message.includes('must be unique') ||
    message.startsWith('must be a') ||
    message.startsWith('unknown field') ||
    path.endsWith('.endPort')
  )
    return 'NG017'
  return 'NG000'
}

function hintOf(message: string): string | undefined {
  if (message.startsWith('rule must have at least one of'))
    return 'to deny all of a direction: "ingress: [{}]" or "egress: [{}]"'
  return message.includes('must be unique')
    ? 'the second one would replace the first: put both into one list'
    : undefined
}

function fixIssue(context: Context, field: Field, message: string): Fix | undefined {
  if (field.kind !== 'scalar' || field.value === null) return undefined
  const { replaceValue, written } = context.sources
  if (typeof field.value !== 'string' && message.includes('in quotes'))
    return fixOf('quote it', replaceValue(field, JSON.stringify(field.source ?? String(field.value))))
  if (message.includes('stands without quotes') && String(Number(field.value)) === field.value)
    return fixOf('a number', replaceValue(field, field.value))
  const text = message.startsWith('must be a list') ? written(field) : undefined
  if (text !== undefined && !text.includes('\n')) return fixOf('a list of one', replaceValue(field, `[${text}]`))
  const near = message.includes('unsupported entity') ? nearest(String(field.value), entities) : undefined
  return near === undefined ? undefined : fixOf(near, context.sources.replaceScalar(field, near))
}

type Finder = (place: Place) => Field | undefined

const placeOf = ({ file, line, column, path }: Place): string => `${line}:${column} ${path} ${file}`

/** Finds the field at a place; a path is not enough, as a file has many documents. Read when the first is asked for. */
function makeFinder(documents: readonly Field[]): Finder {
  let index: Map<string, Field> | undefined
  const walk = (known: Map<string, Field>, field: Field): void => {
    known.set(placeOf(field), field)
    for (const child of field.kind === 'map' ? field.entries.values() : itemsOf(field)) walk(known, child)
  }
  return (place) => {
    if (index === undefined) {
      index = new Map()
      for (const document of documents) walk(index, document)
    }
    return index.get(placeOf(place))
  }
}

/** Codes that an annotation of the object tells the linter to leave out: `namegate.io/lint-ignore: NG010, NG022`. */
export function ignoredBy(object: Field): readonly string[] {
  const value = at(object, 'metadata', 'annotations', 'namegate.io/lint-ignore')
  return value?.kind === 'scalar' ? String(value.value).split(/[\s,]+/) : []
}
