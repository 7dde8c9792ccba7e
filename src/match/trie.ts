// Many patterns, one lookup: a trie over labels from the right. Its cost depends on the name, not on the number of patterns; sibling
// globs (`foo-*.example.com` by the thousand) are found by their literal prefix and suffix, one probe for each distinct pair of lengths.
import { isPlainLabel, type LabelPattern, type Pattern } from './pattern.ts'

export interface NameTrie<T> {
  /** The values of all patterns that match. `labels`: lower case, leftmost first; [] is the root. */
  readonly lookup: (labels: readonly string[]) => T[]
}

interface Node<T> {
  readonly literals: Map<string, Node<T>>
  readonly globs: GlobIndex<Node<T>>
  /** Patterns that end here. */
  readonly here: T[]
  /** Patterns that end here but for one or more further labels (`**.`). */
  readonly deeper: T[]
}

/** Globs of one label, by what they begin and end with. */
interface GlobIndex<N> {
  /** Distinct (prefix length, suffix length) pairs, each once. */
  readonly shapes: { readonly prefix: number; readonly suffix: number }[]
  readonly byEnds: Map<string, Glob<N>[]>
}

interface Glob<N> {
  readonly key: string
  /** Pieces between the first and the last, in order. */
  readonly middle: readonly string[]
  readonly node: N
}

const makeNode = <T>(): Node<T> => ({
  literals: new Map(),
  globs: { shapes: [], byEnds: new Map() },
  here: [],
  deeper: [],
})

/** A trie over the patterns; one value may come with many patterns and then is found once for each that matches. */
export function makeTrie<T>(entries: Iterable<{ readonly pattern: Pattern; readonly value: T }>): NameTrie<T> {
  const root = makeNode<T>()
  const any: T[] = []
  for (const { pattern, value } of entries) {
    if (pattern.kind === 'any') {
      any.push(value)
      continue
    }
    let node = root
    for (let i = pattern.labels.length - 1; i >= 0; i--) node = descend(node, pattern.labels[i])
    if (pattern.deep) node.deeper.push(value)
    else node.here.push(value)
  }

  function lookup(labels: readonly string[]): T[] {
    const found: T[] = []
    // Leading labels that a `**.` or `*` could stand for: plain and not empty.
    let plain = 0
    while (plain < labels.length && labels[plain] !== '' && isPlainLabel(labels[plain] ?? '')) plain++
    if (any.length > 0 && plain === labels.length) found.push(...any)
    collect(root, labels, labels.length, plain, found)
    return found
  }
  return { lookup }
}

function descend<T>(node: Node<T>, label: LabelPattern | undefined): Node<T> {
  if (label === undefined) return node
  if (label.kind === 'literal') {
    let child = node.literals.get(label.text)
    if (child === undefined) node.literals.set(label.text, (child = makeNode<T>()))
    return child
  }
  const [prefix = ''] = label.pieces
  const suffix = label.pieces.at(-1) ?? ''
  const ends = `${prefix}*${suffix}`
  const key = label.pieces.join('*')
  let bucket = node.globs.byEnds.get(ends)
  if (bucket === undefined) {
    node.globs.byEnds.set(ends, (bucket = []))
    const shape = { prefix: prefix.length, suffix: suffix.length }
    if (!node.globs.shapes.some((s) => s.prefix === shape.prefix && s.suffix === shape.suffix))
      node.globs.shapes.push(shape)
  }
  let glob = bucket.find((g) => g.key === key)
  if (glob === undefined) bucket.push((glob = { key, middle: label.pieces.slice(1, -1), node: makeNode<T>() }))
  return glob.node
}

/** Adds what matches from `node` on, with `left` labels to go. Depth is bounded by the labels of a name (127). */
function collect<T>(node: Node<T>, labels: readonly string[], left: number, plain: number, found: T[]): void {
  if (left === 0) {
    if (node.here.length > 0) found.push(...node.here)
    return
  }
  if (node.deeper.length > 0 && left <= plain) found.push(...node.deeper)
  const label = labels[left - 1] ?? ''
  const child = node.literals.get(label)
  if (child !== undefined) collect(child, labels, left - 1, plain, found)
  if (node.globs.shapes.length === 0 || !isPlainLabel(label)) return
  for (const { prefix, suffix } of node.globs.shapes) {
    if (label.length < prefix + suffix) continue
    const bucket = node.globs.byEnds.get(`${label.slice(0, prefix)}*${label.slice(label.length - suffix)}`)
    if (bucket === undefined) continue
    const inner = label.slice(prefix, label.length - suffix)
    for (const glob of bucket)
      if (containsInOrder(inner, glob.middle)) collect(glob.node, labels, left - 1, plain, found)
  }
}

/** Whether the pieces stand in the text one after the other; the leftmost place for each is as good as any, so no backtracking. */
function containsInOrder(text: string, pieces: readonly string[]): boolean {
  let from = 0
  for (const piece of pieces) {
    const at = text.indexOf(piece, from)
    if (at < 0) return false
    from = at + piece.length
  }
  return true
}
