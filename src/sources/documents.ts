// Manifest text into fields that know their places: YAML 1.2 or JSON, many documents a file. Aliases and merge keys (`<<`) are followed,
// within a bound. What does not parse is reported and left out.
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseAllDocuments, visit, type Alias, type Document, type Node, type YAMLMap } from 'yaml' // prettier-ignore
import type { Field, Report, Scalar } from '../policy/field.ts'

export interface ManifestFile {
  readonly path: string
  readonly text: string
}

/** A manifest larger than this is refused: nothing that people write comes near it. */
export const manifestCharactersMax = 16_000_000

/** Deeper than this no manifest is. */
const depthMax = 64

/** Paths of deeper fields are left out of issues about the depth. */
const pathDepthMax = 16

/** Aliases multiply: a few lines of them can stand for billions of nodes. This many of one file come from aliases; more is an error. */
const borrowedNodesMax = 100_000

/** What the conversion of one document carries along. */
interface Conversion {
  readonly report: Report
  readonly file: string
  readonly lines: LineCounter
  readonly document: Document.Parsed
  /** How many nodes of the file came from aliases so far. */
  readonly borrowed: { nodes: number }
  /** What each alias of the document stands for; found when the first one is met. */
  targets: ReadonlyMap<Alias, Node> | undefined
  /** What is being read through an alias: whoever meets one of these again goes round in circles. */
  readonly following: Set<Node>
  /** Something is wrong that makes the whole document unreadable; it was said. */
  broken: boolean
}

/** The documents of a file as fields; what does not parse is reported and left out. */
export function readDocuments(report: Report, { path: file, text }: ManifestFile): Field[] {
  if (text.length > manifestCharactersMax) {
    report.error({ file, line: 1, column: 1, path: '' }, `larger than ${manifestCharactersMax} characters`)
    return []
  }
  // A null octet is in no YAML (YAML 1.2 §5.1); in UTF-16 and in binaries it is everywhere.
  if (text.includes('\0')) {
    report.error({ file, line: 1, column: 1, path: '' }, 'is not text in UTF-8: it is binary, or UTF-16')
    return []
  }
  const lines = new LineCounter()
  const borrowed = { nodes: 0 }
  // YAML 1.2 core: `on` and `yes` are strings. Keys that are there twice are found here: the library's own search is quadratic.
  const documents = parseAllDocuments(text, { lineCounter: lines, uniqueKeys: false, version: '1.2' })
  if (!Array.isArray(documents)) return []
  const parsed = documents as Document.Parsed[]
  const template = parsed.some(({ errors }) => errors.length > 0) ? templateAt(text) : undefined
  if (template !== undefined) {
    // What does not parse is a consequence: a screenful of it would hide the cause.
    const { line, col } = lines.linePos(template)
    report.error({ file, line, column: col, path: '' }, unrendered)
    return []
  }
  return parsed.flatMap((document) => {
    sayErrors(report, file, lines, document)
    if (document.errors.length > 0 || document.contents === null) return []
    const conversion: Conversion = {
      report,
      file,
      lines,
      document,
      borrowed,
      targets: undefined,
      following: new Set(),
      broken: false,
    }
    const field = toField(conversion, document.contents, { path: '', depth: 0, isBorrowed: false })
    return conversion.broken || (field.kind === 'scalar' && field.value === null) ? [] : [field]
  })
}

const unrendered = 'a template ({{ … }}) must be rendered first: helm template CHART | namegate policy validate -'

/** Where a line of the text has an action of a Go template, outside of comments; undefined when none has. */
function templateAt(text: string): number | undefined {
  let start = 0
  for (const line of text.split('\n')) {
    const at = line.indexOf('{{')
    if (at >= 0 && !line.trimStart().startsWith('#') && line.includes('}}', at)) return start + at
    start += line.length + 1
  }
  return undefined
}

function sayErrors(report: Report, file: string, lines: LineCounter, { errors }: Document.Parsed): void {
  // The library's parser calls itself; where that ends, whatever else it says of the document is noise.
  const tooDeep = errors.find((error) => error.message.startsWith('Maximum call stack'))
  for (const error of tooDeep === undefined ? errors : [tooDeep]) {
    const { line, col } = lines.linePos(error.pos[0])
    const message = (error.message.split('\n')[0] ?? '').replace(/ at line .*$/, '')
    report.error({ file, line, column: col, path: '' }, error === tooDeep ? `nested deeper than ${depthMax}` : message)
  }
}

/** Where a node stands among the fields; `isBorrowed`: it came here through an alias. */
interface Position {
  readonly path: string
  readonly depth: number
  readonly isBorrowed: boolean
}

const inside = ({ depth, isBorrowed }: Position, path: string): Position => ({ path, depth: depth + 1, isBorrowed })
const pathOf = (path: string, name: string): string => (path === '' ? name : `${path}.${name}`)

function toField(conversion: Conversion, node: unknown, position: Position): Field {
  const { path, depth, isBorrowed } = position
  const place = { file: conversion.file, ...lineOf(conversion, startOf(node) ?? 0), path }
  const nothing: Field = { ...place, kind: 'scalar', value: null }
  if (conversion.broken) return nothing
  const breakOff = (message: string): Field => {
    conversion.broken = true
    // What is nested this deep has a path that nobody reads.
    conversion.report.error(depth > pathDepthMax ? { ...place, path: '' } : place, message)
    return nothing
  }
  if (depth > depthMax) return breakOff(`nested deeper than ${depthMax}`)
  if (isBorrowed && ++conversion.borrowed.nodes > borrowedNodesMax)
    return breakOff(`aliases stand for more than ${borrowedNodesMax} nodes`)
  if (isAlias(node)) {
    const target = targetOf(conversion, node)
    // Without the error the field would count as absent: a rule without peers is a rule about everyone.
    if (target === undefined) return breakOff(`there is no anchor "${node.source}" before this alias`)
    if (conversion.following.has(target)) return breakOff(`the alias "${node.source}" stands for what it is in itself`)
    conversion.following.add(target)
    const field = toField(conversion, target, { path, depth: depth + 1, isBorrowed: true })
    conversion.following.delete(target)
    return { ...field, line: place.line, column: place.column }
  }
  if (isSeq(node)) {
    const items = node.items.map((item, i) => toField(conversion, item, inside(position, `${path}[${i}]`)))
    return { ...place, kind: 'list', items }
  }
  if (isMap(node)) return { ...place, kind: 'map', entries: entriesOf(conversion, node, position) }
  if (!isScalar(node)) return nothing
  const value = scalarOf(node.value)
  const isTold = typeof value === 'string' || value === null || node.source === undefined
  return { ...place, kind: 'scalar', value, ...(isTold ? {} : { source: node.source }) }
}

/** An issue about a field points at its key, where people look for it; one about a list item points at the item. */
function entriesOf(conversion: Conversion, map: YAMLMap, position: Position): ReadonlyMap<string, Field> {
  const { report } = conversion
  const entries = new Map<string, Field>()
  const merged: Field[] = []
  for (const { key, value } of map.items) {
    const at = lineOf(conversion, startOf(key) ?? startOf(map) ?? 0)
    const name = isScalar(key) ? String(key.value) : ''
    const field: Field = { ...toField(conversion, value, inside(position, pathOf(position.path, name))), ...at }
    if (conversion.broken) break
    // `a: {{ .b }}` is YAML: a mapping whose key is a mapping.
    if (!isScalar(key))
      report.error({ ...field, path: position.path }, `a key must be a string${isMap(key) ? `; ${unrendered}` : ''}`) // prettier-ignore
    else if (isMergeKey(key)) merged.push(...(field.kind === 'list' ? field.items : [field]))
    else {
      const twin = entries.get(name)
      if (twin !== undefined) report.error(field, `Map keys must be unique; "${name}" is on line ${twin.line} too`)
      entries.set(name, field)
    }
  }
  // What the mapping says itself wins over what it merges, and what it merges first over what it merges later.
  for (const field of conversion.broken ? [] : merged) {
    if (field.kind !== 'map') report.error(field, 'only mappings can be merged')
    else
      for (const [name, entry] of field.entries)
        if (!entries.has(name)) entries.set(name, moved(entry, pathOf(position.path, name)))
  }
  return entries
}

/** The same field under another path. */
function moved(field: Field, path: string): Field {
  switch (field.kind) {
    case 'scalar':
      return { ...field, path }
    case 'list':
      return { ...field, path, items: field.items.map((item, i) => moved(item, `${path}[${i}]`)) }
    case 'map':
      return { ...field, path, entries: new Map([...field.entries].map(([name, entry]) => [name, moved(entry, `${path}.${name}`)])) } // prettier-ignore
  }
}

function isMergeKey(key: { readonly value: unknown; readonly type?: string | undefined }): boolean {
  return key.value === '<<' && (key.type === undefined || key.type === 'PLAIN')
}

/** An alias means the last node before it that has its anchor. One walk finds all: the library's own search walks the document for each. */
function targetOf(conversion: Conversion, alias: Alias): Node | undefined {
  if (conversion.targets === undefined) {
    const [anchors, targets] = [new Map<string, Node>(), new Map<Alias, Node>()]
    visit(conversion.document, {
      Node: (_key, node) => {
        if (isAlias(node)) {
          const target = anchors.get(node.source)
          if (target !== undefined) targets.set(node, target)
        } else if (node.anchor !== undefined) anchors.set(node.anchor, node)
      },
    })
    conversion.targets = targets
  }
  return conversion.targets.get(alias)
}

function startOf(node: unknown): number | undefined {
  return (node as { readonly range?: readonly [number, number, number] | null } | null)?.range?.[0]
}

function lineOf(conversion: Conversion, offset: number): { readonly line: number; readonly column: number } {
  const { line, col } = conversion.lines.linePos(offset)
  return { line, column: col }
}

/** Values of tags that YAML 1.2 core does not know come as strings. */
function scalarOf(value: unknown): Scalar {
  return value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number'
    ? value
    : ''
}
