// What reading the manifests already found, as findings: what is refused (NG000) and, where it is one of the mistakes that people make again
// and again, its own code: YAML (NG017), misspelt words (NG020), patterns (NG013).
import { entities } from '../rules.ts'
import { nearest, type Field, type Issue } from '../field.ts'
import type { Code, Finding, Fix } from './codes.ts'
import { at, fixOf, itemsOf, type Context } from './context.ts'

/** Findings of every issue that no check has said better: at one place, one finding. */
export function findingsOfIssues(context: Context, said: readonly Finding[]): Finding[] {
  const places = new Set(
    said
      .filter(({ code }) => code === 'NG019' || code === 'NG017')
      .map(({ file, line, column }) => `${file}:${line}:${column}`),
  )
  return context.issues
    .filter((issue) => issue.severity === 'error' && !places.has(`${issue.file}:${issue.line}:${issue.column}`))
    .map((issue) => findingOfIssue(context, issue))
}

function findingOfIssue(context: Context, { file, line, column, path, message }: Issue): Finding {
  const code = codeOf(path, message)
  const field = findField(context.documents, { file, line, column, path })
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
  return message.includes('must be unique')
    ? 'the second one would replace the first: put both into one list'
    : undefined
}

function fixIssue(context: Context, field: Field, message: string): Fix | undefined {
  if (field.kind !== 'scalar' || field.value === null) return undefined
  if (typeof field.value === 'number' && message.includes('in quotes'))
    return fixOf('quote it', context.sources.replaceValue(field, JSON.stringify(String(field.value))))
  const near = message.includes('unsupported entity') ? nearest(String(field.value), entities) : undefined
  return near === undefined ? undefined : fixOf(near, context.sources.replaceScalar(field, near))
}

/** The field at a place; a path is not enough, as a file has many documents. */
function findField(
  documents: readonly Field[],
  place: Pick<Issue, 'file' | 'line' | 'column' | 'path'>,
): Field | undefined {
  const search = (field: Field): Field | undefined => {
    if (field.path === place.path && field.line === place.line && field.column === place.column) return field
    const children = field.kind === 'map' ? [...field.entries.values()] : itemsOf(field)
    for (const child of children) {
      if (place.path !== '' && !place.path.startsWith(child.path)) continue
      const found = search(child)
      if (found !== undefined) return found
    }
    return undefined
  }
  for (const document of documents) {
    const found = document.file === place.file ? search(document) : undefined
    if (found !== undefined) return found
  }
  return undefined
}

/** Codes that an annotation of the object tells the linter to leave out: `namegate.io/lint-ignore: NG010, NG022`. */
export function ignoredBy(object: Field): readonly string[] {
  const value = at(object, 'metadata', 'annotations', 'namegate.io/lint-ignore')
  return value?.kind === 'scalar' ? String(value.value).split(/[\s,]+/) : []
}
