// Where fields stand in the text of their file, and edits of that text: what a fix is made of. Fields know where they begin; for where they
// end, the file is read again, when the first fix needs it.
import {
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseAllDocuments,
  type Document,
  type Node,
  type Pair,
} from 'yaml'
import type { Field } from '../field.ts'
import type { Edit } from './codes.ts'

interface Span {
  readonly start: number
  readonly end: number
}

/** A value in the text; `key` when it is one of a mapping's, `list` when it is an item in block style. */
interface Found {
  readonly value: Span
  readonly key?: Span
  readonly quote: '"' | "'" | ''
  readonly flow: boolean
  readonly list?: { readonly items: readonly Span[]; readonly flow: boolean }
  /** Of an entry: where the next one begins, and where the one before it ends. */
  readonly next?: number | undefined
  readonly before?: number | undefined
}

export interface Sources {
  /** A scalar's text; quotes stay as they are. */
  readonly replaceScalar: (field: Field, text: string) => Edit | undefined
  /** The value, whatever it is, by text in flow style. */
  readonly replaceValue: (field: Field, text: string) => Edit | undefined
  /** A value as it is written, quotes and all. */
  readonly written: (field: Field) => string | undefined
  /** Key and value of a mapping's entry by one line `key: value`. */
  readonly replaceEntry: (field: Field, text: string) => Edit | undefined
  readonly renameKey: (field: Field, text: string) => Edit | undefined
  /** New lines in front of the list's first item, which must be in block style. `lines` of one item, without indentation. */
  readonly insertItem: (list: Field, lines: readonly string[]) => Edit | undefined
  /** New entries in front of the first one of a mapping in block style. */
  readonly insertEntry: (map: Field, lines: readonly string[]) => Edit | undefined
  /** A new entry at the end of a mapping in flow style that has some. */
  readonly appendFlow: (map: Field, text: string) => Edit | undefined
  /** Takes an entry out of a mapping; undefined when it is the only one. */
  readonly removeEntry: (field: Field) => Edit | undefined
  /** Takes an item out of a list in block style; undefined when it is the only one. */
  readonly removeItem: (item: Field) => Edit | undefined
}

const isItem = (field: Field): boolean => field.path.endsWith(']')

/** Reads files as they are asked for. */
export function makeSources(texts: ReadonlyMap<string, string>): Sources {
  const files = new Map<string, ReadonlyMap<string, Found>>()
  const find = (field: Field): (Found & { text: string }) | undefined => {
    const text = texts.get(field.file) ?? ''
    let index = files.get(field.file)
    if (index === undefined) files.set(field.file, (index = indexText(text)))
    const found = index.get(`${isItem(field) || field.path === '' ? 'value' : 'key'} ${field.line}:${field.column}`)
    return found === undefined ? undefined : { ...found, text }
  }
  const edit = (field: Field, { start, end }: Span, text: string): Edit => ({ file: field.file, start, end, text })

  return {
    replaceScalar: (field, text) => {
      const found = field.kind === 'scalar' ? find(field) : undefined
      // A number stays one.
      const isNumber = field.kind === 'scalar' && typeof field.value === 'number' && !Number.isNaN(Number(text))
      const written = found && (isNumber ? text : quoted(text, found.quote))
      return found && written !== undefined ? edit(field, found.value, written) : undefined
    },
    replaceValue: (field, text) => {
      const found = find(field)
      return found && edit(field, found.value, text)
    },
    written: (field) => {
      const found = find(field)
      return found?.text.slice(found.value.start, found.value.end)
    },
    replaceEntry: (field, text) => {
      const found = find(field)
      return found?.key && edit(field, { start: found.key.start, end: found.value.end }, text)
    },
    renameKey: (field, text) => {
      const found = find(field)
      return found?.key && edit(field, found.key, text)
    },
    insertItem: (list, lines) => {
      const [first] = list.kind === 'list' ? list.items : []
      const found = first && find(first)
      if (found === undefined || found.list === undefined || found.list.flow) return undefined
      const dash = found.text.lastIndexOf('-', found.value.start - 1)
      const start = lineStart(found.text, dash)
      const indent = found.text.slice(start, dash)
      if (indent.trim() !== '') return undefined
      return edit(
        list,
        { start, end: start },
        lines.map((line, i) => `${indent}${i === 0 ? '- ' : '  '}${line}${lineEnd(found.text)}`).join(''),
      )
    },
    insertEntry: (map, lines) => {
      const first = map.kind === 'map' ? [...map.entries.values()][0] : undefined
      const [found, outer] = [first && find(first), find(map)]
      if (found?.key === undefined || outer === undefined || outer.flow) return undefined
      const start = lineStart(found.text, found.key.start)
      const before = found.text.slice(start, found.key.start)
      // The first key of a list item stands behind its dash: the new ones take its place.
      const indent = ' '.repeat(before.length)
      return edit(
        map,
        { start: found.key.start, end: found.key.start },
        lines.map((line) => `${line}${lineEnd(found.text)}${indent}`).join(''),
      )
    },
    appendFlow: (map, text) => {
      const found = map.kind === 'map' && map.entries.size > 0 ? find(map) : undefined
      if (found === undefined || !found.flow) return undefined
      return edit(map, { start: found.value.end - 1, end: found.value.end - 1 }, `, ${text}`)
    },
    removeEntry: (field) => {
      const found = find(field)
      if (found?.key === undefined) return undefined
      if (found.next !== undefined) return edit(field, { start: found.key.start, end: found.next }, '')
      return found.before === undefined ? undefined : edit(field, { start: found.before, end: found.value.end }, '')
    },
    removeItem: (item) => {
      const found = find(item)
      if (found?.list === undefined || found.list.flow || found.list.items.length < 2) return undefined
      const dash = found.text.lastIndexOf('-', found.value.start - 1)
      const start = lineStart(found.text, dash)
      if (found.text.slice(start, dash).trim() !== '') return undefined
      const next = found.text.indexOf('\n', Math.max(found.value.end - 1, found.value.start))
      return edit(item, { start, end: next < 0 ? found.text.length : next + 1 }, '')
    },
  }
}

/** How the lines of a text end: what is put in ends so too. */
const lineEnd = (text: string): string => (text.includes('\r\n') ? '\r\n' : '\n')
const lineStart = (text: string, at: number): number => text.lastIndexOf('\n', at - 1) + 1

/** The text of a scalar between its quotes; undefined when it cannot stand there. Plain text is quoted where YAML would read it otherwise. */
function quoted(text: string, quote: Found['quote']): string | undefined {
  if (text.includes('\n')) return undefined
  if (quote === "'") return `'${text.replaceAll("'", "''")}'`
  if (quote === '"' || !isPlain(text)) return JSON.stringify(text)
  return text
}

const plainCharacters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-\\'
const isPlain = (text: string): boolean =>
  text !== '' &&
  [...text].every((c) => plainCharacters.includes(c)) &&
  !text.startsWith('-') &&
  !['true', 'false', 'null'].includes(text.toLowerCase()) &&
  Number.isNaN(Number(text))

/** Every value of the text by where it begins: `key LINE:COLUMN` of an entry's key, `value LINE:COLUMN` of an item. */
function indexText(text: string): ReadonlyMap<string, Found> {
  const lines = new LineCounter()
  const documents = parseAllDocuments(text, { lineCounter: lines, uniqueKeys: false, version: '1.2' })
  const index = new Map<string, Found>()
  const place = (offset: number): string => {
    const { line, col } = lines.linePos(offset)
    return `${line}:${col}`
  }
  const spanOf = (node: Node): Span => {
    const [start, end] = node.range ?? [0, 0]
    // Blocks end behind their last line.
    return { start, end: start + text.slice(start, end).trimEnd().length }
  }
  const found = (node: Node, more: Omit<Partial<Found>, 'value'>): Found => ({
    value: spanOf(node),
    quote: !isScalar(node) ? '' : node.type === 'QUOTE_DOUBLE' ? '"' : node.type === 'QUOTE_SINGLE' ? "'" : '',
    flow: (isMap(node) || isSeq(node)) && node.flow === true,
    ...more,
  })
  const walk = (node: Node): void => {
    if (isSeq(node)) {
      const items = node.items as Node[]
      const list = { items: items.map(spanOf), flow: node.flow === true }
      for (const item of items) {
        index.set(`value ${place(spanOf(item).start)}`, found(item, { list }))
        walk(item)
      }
    } else if (isMap(node)) {
      for (const [i, { key, value }] of (node.items as Pair<Node, Node | null>[]).entries()) {
        if (value === null || isAlias(value)) continue
        const [previous, following] = [node.items[i - 1], node.items[i + 1]] as (Pair<Node, Node | null> | undefined)[]
        const next = following && spanOf(following.key).start
        const before = previous && spanOf(previous.value ?? previous.key).end
        index.set(`key ${place(spanOf(key).start)}`, found(value, { key: spanOf(key), next, before }))
        walk(value)
      }
    }
  }
  if (!Array.isArray(documents)) return index
  for (const { contents } of documents as Document.Parsed[]) {
    if (contents === null) continue
    index.set(`value ${place(spanOf(contents).start)}`, found(contents, {}))
    walk(contents)
  }
  return index
}
