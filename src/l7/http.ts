// HTTP rules of policies (toPorts.rules.http), compiled once and matched as Cilium's proxy does: a rule is the AND of its fields, a list the
// OR of its rules. gRPC is meant too: POST to /package.Service/Method. What a proxy must do to headers comes back as a value.
import { compileRegex, type TextTest } from './regex.ts'

/** One request pattern: all fields hold; without any it is every request. `path`, `method`, `host` are RE2, matching in full; '' is not set. */
export interface HttpPattern {
  readonly pathRegex?: string
  readonly methodRegex?: string
  readonly hostRegex?: string
  /** Must be there; with a value, equal to it. Names are lower case. */
  readonly headers: readonly { readonly name: string; readonly value?: string }[]
  readonly headerMatches: readonly HeaderMatch[]
}

/** `mismatch`: the rule matches whatever the header is, and the proxy does this where it is not as it should. */
export interface HeaderMatch {
  readonly name: string
  /** Absent or '': the header is only to be there. */
  readonly value?: string
  /** `namespace/name` of a Secret that holds the value; it goes before `value`. */
  readonly secret?: string
  readonly mismatch?: 'LOG' | 'ADD' | 'DELETE' | 'REPLACE'
}

/** What is known of a request. A field that is not there matches no rule that asks for it. */
export interface HttpRequest {
  readonly method?: string | undefined
  /** `:path`: with the query, not decoded. */
  readonly path?: string | undefined
  /** `:authority`, or Host: with the port if it was sent. */
  readonly host?: string | undefined
  /** As they came; names in any case, one name any number of times. */
  readonly headers?: readonly (readonly [name: string, value: string])[] | undefined
}

/** What a header was to be, and what the proxy does about it. */
export interface HeaderEffect {
  readonly action: 'LOG' | 'ADD' | 'DELETE' | 'REPLACE'
  readonly name: string
  /** '' where it was only to be there. */
  readonly expected: string
  /** Several of one name are joined by commas. */
  readonly found: string | undefined
  /** `expected` comes from a Secret: not for logs. */
  readonly secret: boolean
}

export interface HttpMatch {
  /** Index of the first rule that matches. */
  readonly rule: number | undefined
  /** Of every rule that matches, in order; each acts on what the ones before it left. */
  readonly effects: readonly HeaderEffect[]
}

/** The value of the Secret `namespace/name`. */
export type Secrets = (secret: string) => string | undefined

export interface CompiledHttp {
  readonly rules: readonly CompiledRule[]
  /** Some rule has effects: then all are tried, so that they add up. */
  readonly effects: boolean
}

interface CompiledRule {
  readonly path: TextTest | undefined
  readonly method: TextTest | undefined
  readonly host: TextTest | undefined
  /** Headers without a `mismatch`: these decide. */
  readonly required: readonly HeaderMatch[]
  /** Headers with one: these never fail but for a missing Secret. */
  readonly corrected: readonly (HeaderMatch & { readonly mismatch: HeaderEffect['action'] })[]
}

/** Rules whose regexes `checkRegex` found nothing wrong with. */
export function compileHttp(patterns: readonly HttpPattern[]): CompiledHttp {
  const rules = patterns.map(compileRule)
  return { rules, effects: rules.some((rule) => rule.corrected.length > 0) }
}

function compileRule(pattern: HttpPattern): CompiledRule {
  const corrected: CompiledRule['corrected'][number][] = []
  const required: HeaderMatch[] = pattern.headers.map(lowerName)
  for (const match of pattern.headerMatches) {
    if (match.mismatch === undefined) required.push(lowerName(match))
    else corrected.push({ ...lowerName(match), mismatch: match.mismatch })
  }
  return {
    path: compileField(pattern.pathRegex),
    method: compileField(pattern.methodRegex),
    host: compileField(pattern.hostRegex),
    required,
    corrected,
  }
}

const compileField = (text: string | undefined): TextTest | undefined =>
  text === undefined || text === '' ? undefined : compileRegex(text)

const lowerName = <M extends { readonly name: string }>(match: M): M => ({ ...match, name: match.name.toLowerCase() })

/** Which rule lets the request pass, if any, and what is to be done to its headers. No rules let nothing pass. */
export function matchHttp(compiled: CompiledHttp, request: HttpRequest, secrets: Secrets): HttpMatch {
  let headers: Map<string, string> | undefined
  let matched: number | undefined
  const effects: HeaderEffect[] = []
  for (const [i, rule] of compiled.rules.entries()) {
    if (!fieldHolds(rule.path, request.path)) continue
    if (!fieldHolds(rule.method, request.method)) continue
    if (!fieldHolds(rule.host, request.host)) continue
    if (rule.required.length + rule.corrected.length > 0) {
      headers ??= readHeaders(request)
      const found = headerEffects(rule, headers, secrets)
      if (found === undefined) continue
      for (const effect of found) apply(headers, effect)
      effects.push(...found)
    }
    matched ??= i
    if (!compiled.effects) break
  }
  return { rule: matched, effects }
}

const fieldHolds = (test: TextTest | undefined, text: string | undefined): boolean =>
  test === undefined || (text !== undefined && test(text))

/** What the rule does to these headers; undefined where it does not match. */
function headerEffects(
  rule: CompiledRule,
  headers: ReadonlyMap<string, string>,
  secrets: Secrets,
): HeaderEffect[] | undefined {
  for (const match of rule.required) {
    const expected = expectedValue(match, secrets)
    if (expected === undefined || !headerHolds(headers.get(match.name), expected)) return undefined
  }
  const effects: HeaderEffect[] = []
  // A later one sees what an earlier one of the same rule did.
  let seen = headers
  for (const match of rule.corrected) {
    const expected = expectedValue(match, secrets)
    if (expected === undefined) return undefined
    const found = seen.get(match.name)
    if (headerHolds(found, expected)) continue
    // Nothing is there to delete.
    if (match.mismatch === 'DELETE' && found === undefined) continue
    const effect = { action: match.mismatch, name: match.name, expected, found, secret: match.secret !== undefined }
    effects.push(effect)
    const changed = new Map(seen)
    apply(changed, effect)
    seen = changed
  }
  return effects
}

/** '' is presence; undefined is a Secret that is missing or empty: then nothing will do. */
function expectedValue(match: HeaderMatch, secrets: Secrets): string | undefined {
  const value = match.value ?? ''
  if (match.secret === undefined) return value
  return secrets(match.secret) || value || undefined
}

function headerHolds(found: string | undefined, expected: string): boolean {
  if (found === undefined) return false
  return expected === '' || equalInSteadyTime(found, expected)
}

/** The value may be a token: how far a guess is right must not show in the time. */
function equalInSteadyTime(a: string, b: string): boolean {
  if (a.length !== b.length) return false
  let difference = 0
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i)
  return difference === 0
}

/** The headers by lower-case name, values of one name joined by commas (RFC 9110 §5.3); the pseudo-headers too, and Host as :authority. */
function readHeaders(request: HttpRequest): Map<string, string> {
  const headers = new Map<string, string>()
  for (const [name, value] of request.headers ?? []) add(headers, name.toLowerCase(), value)
  if (request.method !== undefined) headers.set(':method', request.method)
  if (request.path !== undefined) headers.set(':path', request.path)
  if (request.host !== undefined) headers.set(':authority', request.host).set('host', request.host)
  return headers
}

function apply(headers: Map<string, string>, { action, name, expected }: HeaderEffect): void {
  if (action === 'ADD') add(headers, name, expected)
  else if (action === 'REPLACE') headers.set(name, expected)
  else if (action === 'DELETE') headers.delete(name)
}

function add(headers: Map<string, string>, name: string, value: string): void {
  const before = headers.get(name)
  headers.set(name, before === undefined ? value : `${before},${value}`)
}

/**
 * A `headers` item of a rule as Cilium reads it: `Name: value` asks for that value, a text without a space for presence of a header of just
 * that name (so `Name:value` asks for one that cannot be).
 */
export function readHeader(text: string): { readonly name: string; readonly value?: string } {
  const space = text.indexOf(' ')
  if (space < 0) return { name: text.toLowerCase() }
  let end = space
  while (end > 0 && text[end - 1] === ':') end--
  return { name: text.slice(0, end).toLowerCase(), value: text.slice(space + 1) }
}
