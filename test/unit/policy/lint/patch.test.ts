// Edits as unified diffs: applied by the letter of the format they give the edited text, whatever the edits.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Edit } from '../../../../src/policy/lint/codes.ts'
import { applyEdits, editsOf, unifiedDiff } from '../../../../src/policy/lint/patch.ts'

/** Applies a unified diff of one file; every context line and count must be right. */
function applyDiff(text: string, diff: string): string {
  const lines = text === '' ? [] : text.split(/(?<=\n)/)
  const out: string[] = []
  let at = 0
  const body = diff.split('\n').slice(2, -1)
  while (body.length > 0) {
    const header = /^@@ -(\d+),(\d+) \+(\d+),(\d+) @@$/.exec(body.shift() ?? '')
    if (header === null) throw new Error('no hunk header')
    const [from = 0, size = 0, to = 0, newSize = 0] = header.slice(1).map(Number)
    out.push(...lines.slice(at, size === 0 ? from : from - 1))
    at = size === 0 ? from : from - 1
    expect(newSize === 0 ? to : to - 1).toBe(out.length)
    const [oldEnd, newEnd] = [at + size, out.length + newSize]
    while (at < oldEnd || out.length < newEnd) {
      let line = `${body.shift() ?? ''}\n`
      if (body[0]?.startsWith('\\') === true) {
        expect(body.shift()).toBe('\\ No newline at end of file')
        line = line.slice(0, -1)
      }
      if (line[0] !== '+') expect(lines[at++]).toBe(line.slice(1))
      if (line[0] !== '-') out.push(line.slice(1))
    }
  }
  return [...out, ...lines.slice(at)].join('')
}

const edit = (start: number, end: number, text: string): Edit => ({ file: 'a', start, end, text })

test('a change, with its context', () => {
  const text = 'a\nb\nc\nd\ne\nf\ng\nh\n'
  expect(unifiedDiff('f.yaml', text, [edit(8, 9, 'E')])).toBe(
    '--- f.yaml\n+++ f.yaml\n@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n',
  )
})

test('lines put in and taken out', () => {
  expect(unifiedDiff('f', 'a\nb\nc\n', [edit(2, 2, 'x\n')])).toBe('--- f\n+++ f\n@@ -1,3 +1,4 @@\n a\n+x\n b\n c\n')
  expect(unifiedDiff('f', 'a\nb\nc\n', [edit(2, 4, '')])).toBe('--- f\n+++ f\n@@ -1,3 +1,2 @@\n a\n-b\n c\n')
  expect(unifiedDiff('f', 'a\n', [])).toBe('')
  expect(unifiedDiff('f', 'a\nb', [edit(2, 3, 'c')])).toBe('--- f\n+++ f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n') // prettier-ignore
})

test('any edits: the diff gives what the edits give', () => {
  const line = fc.string({ unit: fc.constantFrom('a', 'b', ' ', '-'), maxLength: 3 })
  const end = fc.constantFrom('', '', 'z')
  const lines = fc.tuple(fc.array(line, { minLength: 1, maxLength: 40 }), end).map(([all, last]) => all.map((each) => `${each}\n`).join('') + last) // prettier-ignore
  const raw = fc.array(fc.tuple(fc.nat(), fc.nat({ max: 12 }), fc.string({ unit: fc.constantFrom('x', 'y', '\n'), maxLength: 4 })), { maxLength: 6 }) // prettier-ignore
  fc.assert(
    fc.property(lines, raw, (text, specs) => {
      const edits = specs.map(([at, length, inserted]) => {
        const start = at % text.length
        return edit(start, Math.min(start + length, text.length), inserted)
      })
      const chosen = editsOf(edits.map((each) => ({ title: '', edits: [each] })))
      const wanted = applyEdits(text, chosen)
      const diff = unifiedDiff('a', text, chosen)
      expect(diff === '' ? text : applyDiff(text, diff)).toBe(wanted)
    }),
    { numRuns: 2000 },
  )
})

test('of two fixes that touch the same text the first is made, and a fix as a whole', () => {
  const fix = (...edits: Edit[]) => ({ title: '', edits })
  const chosen = editsOf([fix(edit(5, 9, 'a')), fix(edit(0, 1, 'b'), edit(8, 12, 'c')), fix(edit(9, 12, 'd')), fix(edit(5, 5, 'e'))]) // prettier-ignore
  expect(chosen.map(({ text }) => text).sort()).toEqual(['a', 'd', 'e'])
})
