// Label selectors as `kubectl -l` takes them, against labels with sources: `app=web,tier!=db`, `env in (prod, test)`, `!canary`, `cores>4`. Pure.

/** Whether labels (`k8s:app=web`) meet the selector. */
export type LabelTest = (labels: readonly string[]) => boolean

interface Requirement {
  readonly key: string
  readonly operator: 'in' | 'notin' | 'exists' | 'absent' | 'greater' | 'less'
  readonly values: readonly string[]
}

/** Reads a selector, or says what is wrong with it. @param sources what may stand in front of a key's first colon; without, any source is meant. */
export function readLabelSelector(text: string, sources: readonly string[]): LabelTest | string {
  const requirements: Requirement[] = []
  for (const part of splitOutside(text)) {
    const requirement = readRequirement(part.trim())
    if (requirement === undefined) return `"${text}" is not a label selector`
    requirements.push(requirement)
  }
  const keys = requirements.map(({ key }) => keyTest(key, sources))
  return (labels) =>
    requirements.every(({ operator, values }, i) => {
      const found = labels.flatMap((label) => valueOf(label, keys[i]) ?? [])
      switch (operator) {
        case 'exists':
          return found.length > 0
        case 'absent':
          return found.length === 0
        case 'in':
          return found.some((value) => values.includes(value))
        case 'notin':
          return !found.some((value) => values.includes(value))
        case 'greater':
          return found.some((value) => isWhole(value) && Number(value) > Number(values[0]))
        case 'less':
          return found.some((value) => isWhole(value) && Number(value) < Number(values[0]))
      }
    })
}

/** At commas that are not between parentheses. */
function splitOutside(text: string): string[] {
  const parts: string[] = []
  let depth = 0
  let start = 0
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '(') depth++
    else if (text[i] === ')') depth--
    else if (text[i] === ',' && depth === 0) {
      parts.push(text.slice(start, i))
      start = i + 1
    }
  }
  return [...parts, text.slice(start)]
}

function readRequirement(text: string): Requirement | undefined {
  if (text === '') return undefined
  if (text.startsWith('!')) {
    const key = text.slice(1).trim()
    return isKey(key) ? { key, operator: 'absent', values: [] } : undefined
  }
  for (const [sign, operator] of [['!=', 'notin'], ['==', 'in'], ['=', 'in']] as const) {
    const at = text.indexOf(sign)
    if (at < 0) continue
    const [key, value] = [text.slice(0, at).trim(), text.slice(at + sign.length).trim()]
    return isKey(key) && isWord(value) ? { key, operator, values: [value] } : undefined
  } // prettier-ignore
  for (const [sign, operator] of [['>', 'greater'], ['<', 'less']] as const) {
    const at = text.indexOf(sign)
    if (at < 0) continue
    const [key, value] = [text.slice(0, at).trim(), text.slice(at + 1).trim()]
    return isKey(key) && isWhole(value) ? { key, operator, values: [value] } : undefined
  } // prettier-ignore
  const open = text.indexOf('(')
  if (open < 0) return isKey(text) ? { key: text, operator: 'exists', values: [] } : undefined
  const [key = '', operator = '', ...rest] = text.slice(0, open).trim().split(' ').filter(Boolean)
  if (!isKey(key) || rest.length > 0 || (operator !== 'in' && operator !== 'notin') || !text.endsWith(')')) return undefined // prettier-ignore
  const values = text.slice(open + 1, -1).split(',').map((value) => value.trim()) // prettier-ignore
  return values.every(isWord) ? { key, operator, values } : undefined
}

const isKey = (text: string): boolean => text !== '' && isWord(text)
const isWord = (text: string): boolean => [...text].every((c) => c > ' ' && c <= '~' && !'()!=<>,"'.includes(c))
const isWhole = (text: string): boolean => text !== '' && [...text].every((c) => c >= '0' && c <= '9')

interface KeyTest {
  readonly source: string | undefined
  readonly bare: string
}

/** `k8s.app` is how `k8s:app` is written where a colon may not stand. */
function keyTest(key: string, sources: readonly string[]): KeyTest {
  const colon = key.indexOf(':')
  const source = key.slice(0, Math.max(0, colon))
  if (colon < 0 || !sources.includes(source)) return { source: undefined, bare: key }
  return { source: source === 'any' ? undefined : source, bare: key.slice(colon + 1) }
}

function valueOf(label: string, test: KeyTest | undefined): string | undefined {
  if (test === undefined) return undefined
  const colon = label.indexOf(':')
  if (test.source !== undefined && label.slice(0, colon) !== test.source) return undefined
  const equals = label.indexOf('=', colon)
  const key = label.slice(colon + 1, equals < 0 ? undefined : equals)
  if (key !== test.bare) return undefined
  return equals < 0 ? '' : label.slice(equals + 1)
}
