// Labels as people write them, by Kubernetes' syntax: a policy could not select any other.

/** KEY and VALUE of `KEY=VALUE`, or what is wrong with it. */
export function labelFromText(text: string): readonly [key: string, value: string] | { readonly fault: string } {
  const equals = text.indexOf('=')
  if (equals < 1) return { fault: 'a label is KEY=VALUE' }
  const [key, value] = [text.slice(0, equals), text.slice(equals + 1)]
  const slash = key.indexOf('/')
  if (slash >= 0 && !isDomain(key.slice(0, slash)))
    return { fault: `"${key.slice(0, slash)}" before the slash of a label's key must be a DNS name in lower case` }
  if (!isWord(key.slice(slash + 1))) return { fault: `"${key.slice(slash + 1)}" is no label key: ${wordRule}` }
  if (value !== '' && !isWord(value)) return { fault: `"${value}" is no label value: ${wordRule}, or nothing` }
  return [key, value]
}

const wordRule = 'it must be 1 to 63 of a-z A-Z 0-9 - _ . that begin and end with a letter or digit'
const isWord = (text: string): boolean => /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/.test(text)
const isDomain = (text: string): boolean =>
  text.length <= 253 && text.split('.').every((label) => /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(label))
