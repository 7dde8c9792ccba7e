// matchName and matchPattern as Cilium reads them: a `*` stays within its label, a leading `**.` is one or more labels, `*` alone is
// every name. Patterns are label globs, never regular expressions (a JavaScript one took 6.5 s for seven stars and one long label).

/** A label of a pattern. `glob`: literal pieces between stars, so `a*b**c` is ['a', 'b', 'c'] and `*` is ['', '']. */
export type LabelPattern =
  { readonly kind: 'literal'; readonly text: string } | { readonly kind: 'glob'; readonly pieces: readonly string[] }

export type Pattern =
  /** Every name whose labels are made of letters, digits, `-` and `_`; the root too. */
  | { readonly kind: 'any' }
  /** Labels leftmost first; `deep`: one or more further labels stand before them. */
  | { readonly kind: 'labels'; readonly deep: boolean; readonly labels: readonly LabelPattern[] }

export const patternCharactersMax = 255

/**
 * What is wrong with a matchName or matchPattern, in Cilium's words; undefined when it is well formed. Both of Cilium's checks: the agent's
 * on characters, and the stricter one of the API schema (no empty label, none at the front).
 */
export function checkPattern(text: string, field: 'matchName' | 'matchPattern'): string | undefined {
  const trimmed = text.trim()
  const stars = field === 'matchPattern'
  const Field = stars ? 'MatchPattern' : 'MatchName'
  if (trimmed.length > patternCharactersMax)
    return `Invalid ${Field}: ${JSON.stringify(trimmed)}. Must be <= ${patternCharactersMax} characters long.`
  if (![...trimmed].every((c) => isNameCharacter(c) || c === '.' || (stars && c === '*')))
    return `Invalid characters in ${Field}: "${trimmed}". Only 0-9, a-z, A-Z and ., -, _${stars ? ' and *' : ''} characters are allowed`
  if (trimmed === '' || trimmed.startsWith('.') || trimmed.includes('..'))
    return `should match '^([-a-zA-Z0-9_${stars ? '*' : ''}]+[.]?)+$': a label is empty`
  return undefined
}

/** Reads a pattern of allowed characters (`checkPattern`); case and a final dot do not matter. */
export function readPattern(text: string): Pattern {
  const lower = text.trim().toLowerCase()
  const bare = lower.endsWith('.') ? lower.slice(0, -1) : lower
  if (bare !== '' && [...bare].every((c) => c === '*')) return { kind: 'any' }
  const labels = bare === '' ? [] : bare.split('.')
  const [first = ''] = labels
  const deep = labels.length > 1 && first.length > 1 && [...first].every((c) => c === '*')
  return { kind: 'labels', deep, labels: (deep ? labels.slice(1) : labels).map(readLabel) }
}

function readLabel(text: string): LabelPattern {
  const pieces = text.split('*')
  if (pieces.length === 1) return { kind: 'literal', text }
  // `**` within a label is `*`: empty pieces between stars say nothing.
  return { kind: 'glob', pieces: pieces.filter((piece, i) => piece !== '' || i === 0 || i === pieces.length - 1) }
}

/** A character that `*` stands for, and of which names in patterns are made. */
function isNameCharacter(c: string): boolean {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c === '-' || c === '_'
}

/** Whether a label is made only of characters that `*` stands for; the empty label is. */
export function isPlainLabel(label: string): boolean {
  for (let i = 0; i < label.length; i++) {
    const c = label.charCodeAt(i)
    const plain =
      (c >= 0x61 && c <= 0x7a) || (c >= 0x30 && c <= 0x39) || c === 0x2d || c === 0x5f || (c >= 0x41 && c <= 0x5a)
    if (!plain) return false
  }
  return true
}
