// Edits applied to a text, and the same as a unified diff that `patch -p0` and `git apply -p0` take.
import type { Edit, Fix } from './codes.ts'

function overlaps(a: Edit, b: Edit): boolean {
  // Something may be put in where something else is taken out, but not twice in one place.
  if (a.start === b.start) return a.end > a.start === b.end > b.start
  return a.start < b.end && b.start < a.end
}

/** The edits of all fixes that can be made together: of two that touch the same text, the first. A fix is made as a whole or not at all. */
export function editsOf(fixes: readonly Fix[]): Edit[] {
  const taken = new Map<string, Edit[]>()
  /** Where an edit belongs among those of its file, which stand in the order of their places. */
  const slotOf = (edit: Edit, list: readonly Edit[]): number => {
    let [low, high] = [0, list.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((list[middle]?.start ?? 0) < edit.start) low = middle + 1
      else high = middle
    }
    return low
  }
  const isFree = (edit: Edit): boolean => {
    const list = taken.get(edit.file) ?? []
    const slot = slotOf(edit, list)
    // What is taken does not overlap itself: only neighbours can be in the way, of which two may begin in one place.
    return !list.slice(Math.max(0, slot - 2), slot + 3).some((other) => overlaps(edit, other))
  }
  for (const { edits } of fixes) {
    if (!edits.every(isFree)) continue
    for (const edit of edits) {
      const list = taken.get(edit.file) ?? []
      list.splice(slotOf(edit, list), 0, edit)
      taken.set(edit.file, list)
    }
  }
  return [...taken.values()].flat()
}

/** The text with the edits made; they must not overlap. */
export function applyEdits(text: string, edits: readonly Edit[]): string {
  let result = text
  for (const { start, end, text: inserted } of [...edits].sort((a, b) => b.start - a.start || b.end - a.end))
    result = result.slice(0, start) + inserted + result.slice(end)
  return result
}

const contextLines = 3

interface Hunk {
  /** Lines of the old text, from 0, the last excluded. */
  first: number
  last: number
  edits: Edit[]
}

/** Where the lines of a text begin. */
export function lineStarts(text: string): readonly number[] {
  const starts = [0]
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1)
  return starts
}

/** Lines with their line feeds: the last one may have none, and is another line then. */
const linesOf = (part: string): string[] => (part === '' ? [] : part.split(/(?<=\n)/))

/** A unified diff of one file; '' when nothing changes. @param starts of its lines, where many diffs of one text are made */
export function unifiedDiff(
  file: string,
  text: string,
  edits: readonly Edit[],
  starts: readonly number[] = lineStarts(text),
): string {
  if (edits.length === 0) return ''
  const lineAt = (offset: number): number => {
    let [low, high] = [0, starts.length - 1]
    while (low < high) {
      const middle = (low + high + 1) >> 1
      if ((starts[middle] ?? 0) <= offset) low = middle
      else high = middle - 1
    }
    return low
  }
  const offsetOf = (line: number): number => starts[line] ?? text.length
  const hunks: Hunk[] = []
  for (const edit of [...edits].sort((a, b) => a.start - b.start || a.end - b.end)) {
    const first = lineAt(edit.start)
    // The line where it ends is in, too: what is left of it may join the one where it begins.
    const last = lineAt(edit.end) + 1
    const before = hunks.at(-1)
    if (before !== undefined && first <= before.last) {
      before.last = Math.max(before.last, last)
      before.edits.push(edit)
    } else hunks.push({ first, last, edits: [edit] })
  }
  const total = text.endsWith('\n') || text === '' ? starts.length - 1 : starts.length
  let shift = 0
  let out = `--- ${file}\n+++ ${file}\n`
  for (const group of groupNear(hunks)) {
    const from = Math.max(0, (group[0]?.first ?? 0) - contextLines)
    const to = Math.min(total, (group.at(-1)?.last ?? 0) + contextLines)
    let body = ''
    const add = (mark: ' ' | '-' | '+', lines: readonly string[]): void => {
      for (const line of lines) body += mark + line + (line.endsWith('\n') ? '' : '\n\\ No newline at end of file\n')
    }
    let at = from
    let change = 0
    for (const { first, last, edits: own } of group) {
      const old = text.slice(offsetOf(first), offsetOf(last))
      const moved = own.map((edit) => ({
        ...edit,
        start: edit.start - offsetOf(first),
        end: edit.end - offsetOf(first),
      }))
      const [gone, come] = [linesOf(old), linesOf(applyEdits(old, moved))]
      const [head, tail] = commonEnds(gone, come)
      add(' ', linesOf(text.slice(offsetOf(at), offsetOf(first + head))))
      add('-', gone.slice(head, gone.length - tail))
      add('+', come.slice(head, come.length - tail))
      change += come.length - gone.length
      at = Math.min(last, total) - tail
    }
    add(' ', linesOf(text.slice(offsetOf(at), offsetOf(to))))
    const size = to - from
    out += `@@ -${size === 0 ? from : from + 1},${size} +${size + change === 0 ? from + shift : from + shift + 1},${size + change} @@\n${body}`
    shift += change
  }
  return out
}

/** How many lines at the beginning and at the end of both are the same. */
function commonEnds(a: readonly string[], b: readonly string[]): readonly [number, number] {
  const most = Math.min(a.length, b.length)
  let head = 0
  while (head < most && a[head] === b[head]) head++
  let tail = 0
  while (tail < most - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++
  return [head, tail]
}

/** Changes whose contexts would touch stand in one hunk. */
function groupNear(hunks: readonly Hunk[]): Hunk[][] {
  const groups: Hunk[][] = []
  for (const hunk of hunks) {
    const before = groups.at(-1)?.at(-1)
    if (before !== undefined && hunk.first - before.last <= 2 * contextLines) groups.at(-1)?.push(hunk)
    else groups.push([hunk])
  }
  return groups
}
