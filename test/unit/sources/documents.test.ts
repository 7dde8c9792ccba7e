// Manifest text: aliases and merge keys mean what they stand for, each field keeps its place, and no text costs more than its size.
import { expect, test } from 'vitest'
import { issueToText, makeReport, type Field } from '../../../src/policy/field.ts'
import { readDocuments } from '../../../src/sources/documents.ts'

const readText = (text: string): { readonly fields: readonly Field[]; readonly issues: readonly string[] } => {
  const report = makeReport()
  return { fields: readDocuments(report, { path: 'p', text }), issues: report.issues.map(issueToText) }
}
/** The plain value of a field. */
const valueOf = (field: Field): unknown => {
  switch (field.kind) {
    case 'scalar':
      return field.value
    case 'list':
      return field.items.map(valueOf)
    case 'map':
      return Object.fromEntries([...field.entries].map(([key, entry]) => [key, valueOf(entry)]))
  }
}
/** `path line:column` of every field, depth first. */
const placesOf = (field: Field): readonly string[] => [
  `${field.path} ${field.line}:${field.column}`,
  ...(field.kind === 'list' ? field.items : field.kind === 'map' ? [...field.entries.values()] : []).flatMap(placesOf),
]

const values: readonly { text: string; values: readonly unknown[] }[] = [
  { text: '', values: [] },
  { text: '---\n---\n# nothing\n', values: [] },
  { text: 'a: 1\n---\nb: 2', values: [{ a: 1 }, { b: 2 }] },
  { text: '{"a": ["b", null, true, 1.5]}', values: [{ a: ['b', null, true, 1.5] }] },
  { text: 'on: yes', values: [{ on: 'yes' }] },
  { text: '8080: 010', values: [{ 8080: 10 }] },
  { text: 'a: &x [1]\nb: *x', values: [{ a: [1], b: [1] }] },
  { text: 'a: &x 1\nb: *x\nc: &x 2\nd: *x', values: [{ a: 1, b: 1, c: 2, d: 2 }] },
  { text: 'a: &x 1\nb: &y [*x]\nc: &x 2\nd: *y', values: [{ a: 1, b: [1], c: 2, d: [1] }] },
  { text: 'a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}', values: [{ a: { k: 1, l: 2 }, b: { l: 3, k: 1 } }] },
  { text: 'a: &x {k: 1}\nb: &y {k: 2, l: 2}\nc: {<<: [*x, *y]}', values: [{ a: { k: 1 }, b: { k: 2, l: 2 }, c: { k: 1, l: 2 } }] },
  { text: '"<<": 1', values: [{ '<<': 1 }] },
] // prettier-ignore

for (const { text, values: want } of values)
  test(`reads ${JSON.stringify(text)}`, () => {
    const { fields, issues } = readText(text)
    expect(issues).toEqual([])
    expect(fields.map(valueOf)).toEqual(want)
  })

test('a field stands at its key, an item at itself, what an alias stands for where it was written', () => {
  const [root] = readText('a: &x\n  - b: 1\nc: *x\nd: {<<: {e: [2]}}\nf:\n- *x').fields
  expect(root === undefined ? [] : placesOf(root)).toEqual([
    ' 1:1',
    'a 1:1',
    'a[0] 2:5',
    'a[0].b 2:5',
    'c 3:1',
    'c[0] 2:5',
    'c[0].b 2:5',
    'd 4:1',
    'd.e 4:10',
    'd.e[0] 4:14',
    'f 5:1',
    'f[0] 6:3',
    'f[0][0] 2:5',
    'f[0][0].b 2:5',
  ])
})

const bomb = `a: &a [1,1,1,1,1,1,1,1,1]\n${[...'bcdefgh'].map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefg'[i]}`).join()}]`).join('\n')}` // prettier-ignore
const wrong: readonly { title: string; text: string; says: string }[] = [
  { title: 'a key twice', text: 'a: 1\nb: {c: 1,\n c: 2}', says: 'p:3:2: b.c: Map keys must be unique; "c" is on line 2 too' },
  { title: 'a key that is a mapping', text: 'a:\n  ? {b: c}\n  : d', says: 'p:2:5: a: a key must be a string; a template' },
  { title: 'no anchor', text: 'a: *x', says: 'p:1:4: a: there is no anchor "x" before this alias' },
  { title: 'an anchor that comes later', text: 'a: *x\nb: &x 1', says: 'p:1:4: a: there is no anchor "x" before this alias' },
  { title: 'an alias within itself', text: 'a: &x [*x]', says: 'p:1:8: a[0][0]: the alias "x" stands for what it is in itself' },
  { title: 'a merge of oneself', text: 'a: &x {<<: *x}', says: 'the alias "x" stands for what it is in itself' },
  { title: 'a path that nobody reads', text: '['.repeat(100) + ']'.repeat(100), says: 'p:1:66: nested deeper than 64' },
  { title: 'UTF-16', text: 'a\0:\0 \0b\0', says: 'p:1:1: is not text in UTF-8: it is binary, or UTF-16' },
  { title: 'a template', text: 'a: 1\nb: {{ .Values.b }}-x\n{{- if .c }}\nc: 2\n{{- end }}\n', says: 'p:2:4: a template ({{ … }}) must be rendered first' },
  { title: 'a template that happens to be YAML', text: 'a: {{ .Values.b }}', says: 'p:1:5: a: a key must be a string; a template ({{ … }}) must be rendered first' },
  { title: 'a merge of a word', text: 'a: {<<: b}', says: 'p:1:5: a.<<: only mappings can be merged' },
  { title: 'tabs', text: 'a:\n\tb: 1', says: 'p:2:1: Tabs are not allowed as indentation' },
  { title: 'an end that is missing', text: 'a: "b', says: 'p:1:6: Missing closing "quote' },
  { title: 'aliases that multiply', text: bomb, says: 'aliases stand for more than 100000 nodes' },
  { title: 'depth', text: '['.repeat(100) + ']'.repeat(100), says: 'nested deeper than 64' },
  { title: 'a depth that ends the parser', text: '- '.repeat(50_000), says: 'nested deeper than 64' },
  { title: 'a text without end', text: ' '.repeat(16_000_001), says: 'p:1:1: larger than 16000000 characters' },
] // prettier-ignore

for (const { title, text, says } of wrong)
  test(`refuses ${title}`, () => {
    const { issues } = readText(text)
    expect(issues).toHaveLength(1)
    expect(issues[0]).toContain(says)
  })

test('the bound on aliases is for a whole file', () => {
  const report = makeReport()
  const text = `a: &a [${Array(99).fill('1').join()}]\nb: [${Array(600).fill('*a').join()}]`
  expect(readDocuments(report, { path: 'p', text })).toHaveLength(1)
  expect(readDocuments(report, { path: 'q', text: `${text}\n---\n${text}` })).toHaveLength(1)
  expect(report.issues).toHaveLength(1)
})

test('ten times the keys cost about ten times as much, not a hundred times', () => {
  const keys = (n: number): string => Array.from({ length: n }, (_, i) => `k${i}: 1`).join('\n')
  const costOf = (n: number): number => {
    const text = keys(n)
    const start = performance.now()
    expect(readText(text).issues).toEqual([])
    return performance.now() - start
  }
  costOf(2000)
  expect(costOf(40_000)).toBeLessThan(60 * costOf(4000))
})
