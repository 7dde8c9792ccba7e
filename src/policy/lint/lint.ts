// The linter: everything that people get wrong in policies again and again, each with its place, and the remedy where it is mechanical.
import { cidrChecks } from './cidrs.ts'
import { clusterChecks } from './cluster.ts'
import { severities, type Finding } from './codes.ts'
import { findingOf, makeContext, type LintInput, type Say } from './context.ts'
import { denyChecks } from './deny.ts'
import { emptyChecks } from './empty.ts'
import { findingsOfIssues, ignoredBy } from './invalid.ts'
import { l7Checks } from './l7.ts'
import { labelChecks } from './labels.ts'
import { nameChecks } from './names.ts'
import { orderChecks } from './order.ts'
import { portChecks } from './ports.ts'
import { wordChecks } from './words.ts'

const checks = [
  ...nameChecks,
  ...cidrChecks,
  ...portChecks,
  ...denyChecks,
  ...emptyChecks,
  ...l7Checks,
  ...labelChecks,
  ...orderChecks,
  ...clusterChecks,
  ...wordChecks,
]

/** All findings, by file and line; at one line the most severe first. @param next is told before each check how many are done, of how many */
export function lint(
  input: LintInput,
  next: (done: number, total: number) => void = () => undefined,
): readonly Finding[] {
  const context = makeContext(input)
  const findings: Finding[] = []
  const told = new Set<string>()
  const say: Say = (code, spec, field, said) => {
    if (spec !== undefined && ignoredBy(spec.object).includes(code)) return
    const finding = findingOf(code, spec, field, said)
    const text = `${code} ${finding.file}:${finding.line}:${finding.column} ${finding.message}`
    if (told.has(text)) return
    told.add(text)
    findings.push(finding)
  }
  checks.forEach((check, done) => {
    next(done, checks.length)
    check(context, say)
  })
  findings.push(...findingsOfIssues(context, findings))
  const rank = new Map(input.documents.map(({ file }, i) => [file, i]))
  return findings.sort(
    (a, b) =>
      (rank.get(a.file) ?? 0) - (rank.get(b.file) ?? 0) ||
      a.line - b.line ||
      severities.indexOf(b.severity) - severities.indexOf(a.severity) ||
      (a.code < b.code ? -1 : a.code > b.code ? 1 : a.column - b.column),
  )
}
