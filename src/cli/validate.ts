// `namegate policy validate`: everything that is wrong with manifests, at once.
import { issueToText, type Issue } from '../policy/field.ts'
import { loadFiles, readPaths, type Reading } from './manifests.ts'
import { render, type Format } from './output.ts'
import { print } from './print.ts'
import { withProgress } from './progress.ts'

/** Prints what is wrong and what is not enforced; resolves with the exit status, 1 when an agent would refuse the set. */
export async function validateCommand(
  paths: readonly string[],
  options: Reading & { readonly output: Format },
): Promise<number> {
  const files = await readPaths(paths, options)
  const loaded = await withProgress((tell) => Promise.resolve(loadFiles(files, options, tell)))
  const order = new Map(files.map(({ path }, i) => [path, i]))
  const rank = ({ file }: Issue): number => order.get(file) ?? 0
  const issues = [...(loaded.ok ? loaded.warnings : loaded.issues)].sort(
    (a, b) => rank(a) - rank(b) || a.line - b.line || a.column - b.column,
  )
  const count = (severity: Issue['severity']): number => issues.filter((issue) => issue.severity === severity).length
  const policies = loaded.ok ? loaded.world.policies.length : undefined
  const view = {
    valid: loaded.ok,
    files: files.length,
    ...(policies === undefined ? {} : { policies }),
    errors: count('error'),
    warnings: count('warning'),
    notes: count('note'),
    issues,
  }
  await print(
    render(
      options.output,
      view,
      () => issues.map((issue) => `${issueToText(issue)}\n`).join('') + `${summaryOf(view)}\n`,
    ),
  )
  return loaded.ok ? 0 : 1
}

interface Counted {
  readonly valid: boolean
  readonly files: number
  readonly policies?: number
  readonly errors: number
  readonly warnings: number
  readonly notes: number
}

/** `3 files, 12 policies: valid, 2 warnings`. */
function summaryOf({ valid, files, policies, errors, warnings, notes }: Counted): string {
  const what = [
    plural(files, 'file'),
    ...(policies === undefined ? [] : [plural(policies, 'policy', 'policies')]),
  ].join(', ')
  const found = [
    ...(valid ? ['valid'] : [plural(errors, 'error')]),
    ...(warnings > 0 ? [plural(warnings, 'warning')] : []),
    ...(notes > 0 ? [plural(notes, 'note')] : []),
  ]
  return `${what}: ${found.join(', ')}`
}

/** `1 file`, `2 files`. */
export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`
