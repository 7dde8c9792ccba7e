// The regular expressions of HTTP rules: RE2's language as Cilium validates it (Go's regexp), matching in full as Envoy does. Never
// JavaScript's RegExp: it accepts other things, and text from a stranger could hold it up for ever.
import { RE2JS, RE2JSException } from 're2js'

/** Longer ones are refused: ten times what the longest alternations in published policies have. */
export const regexCharactersMax = 8192
/** Instructions of the compiled program (Go bounds them by memory only): counted repeats in counted repeats multiply to millions. */
const programSizeMax = 10_000
/**
 * Instructions times characters of one match. RE2 is linear in both, at 20 to 90 ns a step here when an expression is too ambiguous for its
 * state cache: 0.4 s at worst. A usual program has 50 instructions, and then this is more than a proxy lets a header have.
 */
const stepsMax = 1 << 22

/** Whether a whole text is what was asked for. */
export type TextTest = (text: string) => boolean

/** What is wrong with an expression, in the words of Go's regexp, which Cilium reports; undefined when nothing is. */
export function checkRegex(text: string): string | undefined {
  if (text.length > regexCharactersMax) return `error parsing regexp: expression too large: ${text.length} characters, the most is ${regexCharactersMax}` // prettier-ignore
  const compiled = compile(text)
  return typeof compiled === 'string' ? compiled : undefined
}

/** A test for the expression `text` (one that `checkRegex` finds nothing wrong with). A text too long to be matched in time fails it. */
export function compileRegex(text: string): TextTest {
  const words = literalsOf(text)
  if (words?.length === 1) return (subject) => subject === text
  if (words !== undefined) {
    const set = new Set(words)
    return (subject) => set.has(subject)
  }
  const compiled = compile(text)
  // Nobody checked it: a rule that cannot be understood matches nothing.
  if (typeof compiled === 'string') return () => false
  const charactersMax = Math.floor(stepsMax / compiled.programSize())
  return (subject) => subject.length <= charactersMax && compiled.testExact(subject)
}

function compile(text: string): RE2JS | string {
  try {
    const regex = RE2JS.compile(text)
    return regex.programSize() <= programSizeMax ? regex : 'error parsing regexp: expression too large'
  } catch (error) {
    if (error instanceof RE2JSException) return error.message
    throw error
  }
}

/** `GET|HEAD` is just these words: most methods and many paths are. */
function literalsOf(text: string): string[] | undefined {
  for (const c of text) if (metacharacters.includes(c)) return undefined
  return text.split('|')
}
const metacharacters = '\\.+*?()[]{}^$'
