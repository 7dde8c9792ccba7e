// `namegate policy lint`: how findings look to people, programs, code hosts (SARIF) and `patch`.
import { makeReport, type Issue } from '../policy/field.ts'
import {
  codes,
  isAtLeast,
  severities,
  type Code,
  type Edit,
  type Finding,
  type Severity,
} from '../policy/lint/codes.ts'
import { lint } from '../policy/lint/lint.ts'
import { editsOf, lineStarts, unifiedDiff } from '../policy/lint/patch.ts'
import { readDocuments } from '../sources/documents.ts'
import type { ManifestFile } from '../sources/manifests.ts'
import { loadFiles, parseOptionsOf, readPaths, type Reading } from './manifests.ts'
import { render, table, type Format } from './output.ts'
import { print } from './print.ts'
import { withProgress, type Progress } from './progress.ts'
import { plural } from './validate.ts'

export interface LintOptions extends Reading {
  readonly output: Format | 'sarif'
  /** Findings below it are not shown. */
  readonly level: Severity
  readonly failOn: Severity | 'never'
  /** Instead of findings, what would mend them, for `patch -p0`. */
  readonly patch?: boolean
}

/** Prints findings; resolves with the exit status, 1 when one is as severe as `failOn`. */
export async function lintCommand(paths: readonly string[], options: LintOptions, version: string): Promise<number> {
  const files = await readPaths(paths, options)
  const texts = new Map(files.map(({ path, text }) => [path, text]))
  const all = await withProgress((tell) => Promise.resolve(findingsOf(files, texts, options, tell)))
  const { failOn } = options
  const findings = all.filter(({ severity }) => isAtLeast(severity, options.level))
  await print(
    options.patch === true
      ? makeDiffer(texts)(editsOf(findings.flatMap(({ fix }) => fix ?? [])))
      : show(findings, options.output, texts, version),
  )
  return failOn !== 'never' && all.some(({ severity }) => isAtLeast(severity, failOn)) ? 1 : 0
}

function findingsOf(
  files: readonly ManifestFile[],
  texts: ReadonlyMap<string, string>,
  options: LintOptions,
  tell: Progress['tell'],
): readonly Finding[] {
  const loaded = loadFiles(files, options, tell)
  const issues: readonly Issue[] = loaded.ok ? loaded.warnings : loaded.issues
  const documents = files.flatMap((file, done) => {
    tell({ what: 'reading manifests again', done, total: files.length })
    return readDocuments(makeReport(), file)
  })
  const world = loaded.ok ? loaded.world : undefined
  const input = { world, issues, documents, texts, options: parseOptionsOf(options) }
  return lint(input, (done, total) => tell({ what: 'checking', done, total }))
}

/** All codes, as a table. */
export function listCodes(output: Format): string {
  const rows = Object.entries(codes).map(([code, { name, about }]) => ({ code, name, about }))
  return render(output, rows, () =>
    table(
      ['Code', 'Name', 'What it is about'],
      rows.map(({ code, name, about }) => [code, name, about]),
    ),
  )
}

function show(
  findings: readonly Finding[],
  output: LintOptions['output'],
  texts: ReadonlyMap<string, string>,
  version: string,
): string {
  if (output === 'sarif') return `${JSON.stringify(sarifOf(findings, texts, version), null, 2)}\n`
  const text = (): string => findings.map(toText).join('') + `${summaryOf(findings)}\n`
  return output === 'table' ? text() : render(output, viewsOf(findings, texts), text)
}

function viewsOf(findings: readonly Finding[], texts: ReadonlyMap<string, string>): unknown[] {
  const diff = makeDiffer(texts)
  return findings.map(({ fix, ...finding }) => ({
    ...finding,
    name: codes[finding.code].name,
    ...(fix === undefined ? {} : { fix: { title: fix.title, patch: diff(fix.edits) } }),
  }))
}

function toText({ code, severity, file, line, column, message, hint, fix }: Finding): string {
  const lines = [`${file}:${line}:${column}: ${severity} ${code} ${codes[code].name}: ${message}`]
  if (hint !== undefined) lines.push(`    ${hint}`)
  if (fix !== undefined) lines.push(`    --patch: ${fix.title}`)
  return `${lines.join('\n')}\n`
}

function summaryOf(findings: readonly Finding[]): string {
  const counts = [...severities].reverse().flatMap((severity) => {
    const count = findings.filter((finding) => finding.severity === severity).length
    return count === 0 ? [] : [plural(count, severity)]
  })
  return counts.length === 0 ? 'nothing to say' : counts.join(', ')
}

/** Edits as a unified diff of every file that they touch. */
function makeDiffer(texts: ReadonlyMap<string, string>): (edits: readonly Edit[]) => string {
  const starts = new Map<string, readonly number[]>()
  return (edits) =>
    [...new Set(edits.map(({ file }) => file))]
      .map((file) => {
        const text = texts.get(file) ?? ''
        const ofFile = starts.get(file) ?? lineStarts(text)
        starts.set(file, ofFile)
        return unifiedDiff(
          file,
          text,
          edits.filter((edit) => edit.file === file),
          ofFile,
        )
      })
      .join('')
}

/** SARIF 2.1.0, which code hosts show beside the lines of a change. */
function sarifOf(findings: readonly Finding[], texts: ReadonlyMap<string, string>, version: string): unknown {
  const used = [...new Set(findings.map(({ code }) => code))].sort()
  const rules = used.map((code: Code) => ({
    id: code,
    name: codes[code].name,
    shortDescription: { text: codes[code].about },
  }))
  return {
    $schema: 'https://json.schemastore.org/sarif-2.1.0.json',
    version: '2.1.0',
    runs: [
      {
        tool: { driver: { name: 'namegate', version, rules } },
        columnKind: 'utf16CodeUnits',
        results: findings.map(({ code, severity, message, hint, file, line, column, fix }) => ({
          ruleId: code,
          ruleIndex: used.indexOf(code),
          level: severity,
          message: { text: hint === undefined ? message : `${message}. ${hint}` },
          locations: [
            {
              physicalLocation: {
                artifactLocation: { uri: encodeURI(file) },
                region: { startLine: line, startColumn: column },
              },
            },
          ],
          ...(fix === undefined
            ? {}
            : { fixes: [{ description: { text: fix.title }, artifactChanges: changesOf(fix.edits, texts) }] }),
        })),
      },
    ],
  }
}

function changesOf(edits: readonly Edit[], texts: ReadonlyMap<string, string>): unknown[] {
  return [...new Set(edits.map(({ file }) => file))].map((file) => ({
    artifactLocation: { uri: encodeURI(file) },
    replacements: edits
      .filter((edit) => edit.file === file)
      .map(({ start, end, text }) => ({
        deletedRegion: regionOf(texts.get(file) ?? '', start, end),
        insertedContent: { text },
      })),
  }))
}

function regionOf(text: string, start: number, end: number): unknown {
  const place = (offset: number): readonly [number, number] => {
    const before = text.slice(0, offset)
    return [before.split('\n').length, offset - (before.lastIndexOf('\n') + 1) + 1]
  }
  const [[startLine, startColumn], [endLine, endColumn]] = [place(start), place(end)]
  return { startLine, startColumn, endLine, endColumn }
}
