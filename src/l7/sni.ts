// serverNames of policies against the SNI of a TLS ClientHello (RFC 6066 §3), as Cilium's Envoy filter reads them: `*` is any characters of
// a name within one label, `**` as a whole label is one or more labels, `*` or `**` alone is every name.

/** A part of a pattern between two dots. */
type Part = { readonly kind: 'deep' } | { readonly kind: 'glob'; readonly pieces: readonly string[] }

export type ServerNamePattern =
  { readonly kind: 'exact'; readonly name: string } | { readonly kind: 'parts'; readonly parts: readonly Part[] }

export const serverNameCharactersMax = 255

/** What is wrong with a pattern, undefined when nothing is. */
export function checkServerName(text: string): string | undefined {
  if (text === '') return 'empty server name is not allowed'
  if (text.length > serverNameCharactersMax)
    return `Too long: may not be more than ${serverNameCharactersMax} characters`
  const quoted = JSON.stringify(text)
  for (const part of text.split('.')) {
    if (part === '') return `invalid server name ${quoted}: a label is empty`
    if (![...part].every((c) => c === '*' || isPlain(c.charCodeAt(0))))
      return `invalid server name ${quoted}: only 0-9, a-z, A-Z and ., -, _ and * characters are allowed`
    if (part.includes('**') && part !== '**')
      return `invalid server name ${quoted}: ** stands for whole labels and must be alone between dots`
  }
  return undefined
}

/** Reads a pattern that `checkServerName` finds nothing wrong with; case does not matter. */
export function readServerName(text: string): ServerNamePattern {
  const lower = text.toLowerCase()
  if (!lower.includes('*')) return { kind: 'exact', name: lower }
  // `*` alone is not one label: it is any.
  if (lower === '*') return { kind: 'parts', parts: [{ kind: 'deep' }] }
  return { kind: 'parts', parts: lower.split('.').map(readPart) }
}

const readPart = (text: string): Part => (text === '**' ? { kind: 'deep' } : { kind: 'glob', pieces: text.split('*') })

/**
 * Whether the pattern matches the name. Time is at most pattern times name, whatever they are: parts are taken one after the other, with the
 * set of all places in the name that one may have led to.
 */
export function matchServerName(pattern: ServerNamePattern, name: string): boolean {
  // No SNI matches nothing; what is longer than a name, or has characters that no pattern has, is none.
  if (name === '' || name.length > serverNameCharactersMax || !isPlainText(name)) return false
  const lower = name.toLowerCase()
  if (pattern.kind === 'exact') return lower === pattern.name
  const labels = lower.split('.')
  /** reached[n]: the parts so far match the first n labels. */
  let reached = labels.map(() => false)
  reached.unshift(true)
  for (const part of pattern.parts) {
    const next = [false]
    for (const [n, label] of labels.entries())
      next.push(
        part.kind === 'deep'
          ? (reached[n] === true || next[n] === true) && label !== ''
          : reached[n] === true && globMatches(part.pieces, label),
      )
    reached = next
  }
  return reached[labels.length] === true
}

/** Whether the label is the pieces with characters of names between them. */
function globMatches(pieces: readonly string[], label: string): boolean {
  const [first = ''] = pieces
  if (pieces.length === 1) return label === first
  const last = pieces.at(-1) ?? ''
  if (label.length < first.length + last.length) return false
  if (!label.startsWith(first) || !label.endsWith(last)) return false
  const end = label.length - last.length
  let from = first.length
  // The leftmost place for each is as good as any.
  for (const piece of pieces.slice(1, -1)) {
    const at = label.indexOf(piece, from)
    if (at < 0 || at + piece.length > end) return false
    from = at + piece.length
  }
  return true
}

/** Plain characters and dots. Only of these is lower case a matter of ASCII alone. */
function isPlainText(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text[i] !== '.' && !isPlain(text.charCodeAt(i))) return false
  return true
}

/** Letters, digits, `-` and `_`. */
function isPlain(c: number): boolean {
  return (c >= 0x61 && c <= 0x7a) || (c >= 0x41 && c <= 0x5a) || (c >= 0x30 && c <= 0x39) || c === 0x2d || c === 0x5f
}
