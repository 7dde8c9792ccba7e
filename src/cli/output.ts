// How commands print: aligned tables for people, JSON and YAML for programs.
import { stringify } from 'yaml'

export const formats = ['table', 'json', 'yaml'] as const
export type Format = (typeof formats)[number]

/** Columns padded to their widest cell, two blanks between; no blanks at line ends. The last column is not padded: it may be very wide. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) =>
    i === head.length - 1 ? 0 : rows.reduce((width, row) => Math.max(width, row[i]?.length ?? 0), title.length),
  )
  return [head, ...rows].map((row) => `${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()}\n`).join('') // prettier-ignore
}

/** The value in a format; `asTable` draws it for people. */
export function render(format: Format, value: unknown, asTable: () => string): string {
  if (format === 'json') return `${JSON.stringify(value, null, 2)}\n`
  return format === 'yaml' ? stringify(value) : asTable()
}
