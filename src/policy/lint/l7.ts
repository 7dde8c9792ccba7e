// Checks about rules above L4: shadowed by an allow without them (NG006), HTTP patterns (NG013), what releases removed (NG019).
import type { Field } from '../field.ts'
import { makeConflictFinder } from '../conflicts.ts'
import { makeMeeting } from '../merge.ts'
import type { Rule } from '../rules.ts'
import {
  at,
  entriesOf,
  fixOf,
  isCilium,
  isEmptyList,
  isOrdered,
  itemsOf,
  itemsOfSpec,
  textOf,
  type Check,
  type Context,
  type Spec,
} from './context.ts'
import { peersMeet, portsMeet, subjectsMeet } from './coverage.ts'

const hasL7 = (rule: Rule): boolean => rule.l7 !== undefined || (rule.serverNames?.length ?? 0) > 0

/** Whether the allow without L7 rules takes the effect of those of the other: DNS by exactly its port, all others by any overlap. */
function shadows(context: Context, plain: Rule, rule: Rule, keysOf: ReturnType<typeof makeMeeting>): boolean {
  if (
    plain.kind !== 'allow' ||
    hasL7(plain) ||
    plain.listener !== undefined ||
    plain.tier !== rule.tier ||
    plain.priority !== rule.priority
  )
    return false
  if (!peersMeet(context, plain.peers, rule.peers)) return false
  // About exactly one peer and port server names hold for the other rule too.
  if (rule.serverNames !== undefined && keysOf(plain).some((key) => keysOf(rule).includes(key))) return false
  if (rule.l7?.kind !== 'dns') return portsMeet(context, plain.ports, rule.ports)
  return plain.ports.some((port) => rule.ports.some((other) => JSON.stringify(port) === JSON.stringify(other)))
}

/** NG006. */
const shadowed: Check = (context, say) => {
  const keysOf = makeMeeting(context.options.clusterName)
  for (const spec of context.specs) {
    const { policy } = spec
    const restricted = policy?.rules.filter((rule) => rule.kind === 'allow' && hasL7(rule)) ?? []
    if (policy === undefined || restricted.length === 0) continue
    const others = context
      .near(spec)
      .filter(
        (other) =>
          !isOrdered(other) &&
          other.policy !== undefined &&
          (other === spec || subjectsMeet(context, other.policy, policy)),
      )
    const plain = others.flatMap((other) => (other.policy?.rules ?? []).map((rule) => ({ spec: other, rule })))
    for (const rule of restricted) {
      const other = plain.find(
        (each) =>
          each.rule !== rule && each.rule.direction === rule.direction && shadows(context, each.rule, rule, keysOf),
      )
      if (other === undefined) continue
      const first = rule.l7 === undefined || rule.l7.kind === 'l7' ? undefined : rule.l7.rules[0]
      const where =
        other.spec === spec
          ? `line ${other.rule.line}`
          : `${other.spec.name} (${other.spec.field.file}:${other.rule.line})`
      say('NG006', spec, context.fieldAt(spec, first?.path ?? rule.path), {
        severity: 'warning',
        message: `these ${rule.l7?.kind.toUpperCase() ?? 'server name'} rules restrict nothing for some peers: the rule at ${where} allows the same peers and ports without any`,
        hint: 'rules add up: take the peers or ports out of the other rule, or give it the same L7 rules',
      })
    }
  }
}

/** NG024. */
const conflicts: Check = (context, say) => {
  const specs = new Map(context.specs.flatMap((spec) => (spec.policy === undefined ? [] : [[spec.policy, spec] as const])))
  const find = makeConflictFinder(context.options.clusterName)
  for (const { rule, other, words } of find([...specs.keys()], (a, b) => subjectsMeet(context, a, b))) {
    const [spec, otherSpec] = [specs.get(rule.policy), specs.get(other.policy)]
    if (spec === undefined || otherSpec === undefined) continue
    const where = otherSpec === spec ? `line ${other.rule.line}` : `${otherSpec.name} (${otherSpec.field.file}:${other.rule.line})`
    say('NG024', spec, context.fieldAt(spec, rule.rule.path), {
      severity: 'error',
      message: `${words}: with the rule at ${where}, for the same peers and port; in Cilium the endpoints that both select keep their old policy, here nothing is opened there`,
      hint: 'one port has one protocol: take one of the two out',
    })
  }
} // prettier-ignore

const metacharacters = '.*+?()[]{}|^$\\'
const isLiteral = (text: string): boolean => ![...text].some((c) => metacharacters.includes(c))

/** The dots that stand for any character although a dot is meant: not escaped, in no class, and no repetition behind them. */
function looseDots(text: string): number[] {
  const loose: number[] = []
  let inClass = false
  for (let i = 0; i < text.length; i++) {
    const c = text[i]
    if (c === '\\') i++
    else if (c === '[') inClass = true
    else if (c === ']') inClass = false
    else if (c === '.' && !inClass && !['*', '+', '?', '{'].includes(text[i + 1] ?? '')) loose.push(i)
  }
  return loose
}

/** NG013. What is no RE2 at all is refused before this. */
const httpPatterns: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field } of isCilium(spec) ? itemsOfSpec(spec) : [])
      for (const item of itemsOf(at(field, 'toPorts')))
        for (const rule of itemsOf(at(item, 'rules', 'http'))) httpPattern(context, spec, rule, say)
}

function httpPattern(context: Context, spec: Spec, rule: Field, say: Parameters<Check>[1]): void {
  const [path, method, host] = ['path', 'method', 'host'].map((key) => at(rule, key))
  const [pathText, methodText, hostText] = [path, method, host].map((field) => textOf(field))
  if (host !== undefined && hostText !== undefined && looseDots(hostText).length > 0) {
    const loose = looseDots(hostText)
    const escaped = [...hostText].map((c, i) => (loose.includes(i) ? '\\.' : c)).join('')
    say('NG013', spec, host, {
      severity: 'warning',
      message: `host is a regular expression: "." in "${hostText}" is any character, so ${[...hostText].map((c, i) => (loose.includes(i) ? 'x' : c)).join('')} passes too`,
      hint: `write ${escaped}`,
      fix: fixOf('dots as dots', context.sources.replaceScalar(host, escaped)),
    })
  }
  if (
    method !== undefined &&
    methodText !== undefined &&
    methodText !== methodText.toUpperCase() &&
    isLiteral(methodText)
  )
    say('NG013', spec, method, {
      severity: 'warning',
      message: `method "${methodText}" matches no request: methods are compared with their case`,
      fix: fixOf('upper case', context.sources.replaceScalar(method, methodText.toUpperCase())),
    })
  if (path === undefined || pathText === undefined) return
  const [head = ''] = pathText.replace(/^\^/, '')
  if (!['/', '.', '(', '[', '\\', '*'].includes(head) && pathText !== '')
    say('NG013', spec, path, {
      severity: 'warning',
      message: `path "${pathText}" matches no request: a path begins with /, and the expression has to match all of it`,
      hint: `write "/${pathText}"`,
      fix: isLiteral(pathText) ? fixOf('begin with /', context.sources.replaceScalar(path, `/${pathText}`)) : undefined,
    })
  else if (queryAt(pathText) > 0) {
    const escaped = `${pathText.slice(0, queryAt(pathText))}\\${pathText.slice(queryAt(pathText))}`
    say('NG013', spec, path, {
      severity: 'warning',
      message: `path is a regular expression: "?" in "${pathText}" makes what stands before it optional and matches no question mark`,
      hint: `write ${escaped}`,
      fix: fixOf('the question mark as such', context.sources.replaceScalar(path, escaped)),
    })
  } else if (isLiteral(pathText))
    say('NG013', spec, path, {
      severity: 'note',
      message: `path has to match everything, the query too: "${pathText}" lets neither ${pathText}?x=1 nor ${pathText.replace(/\/$/, '')}/x through`,
      hint: `${pathText}(\\?.*)? takes queries, ${pathText.replace(/\/$/, '')}(/.*)? what lies below`,
    })
}

/** Where a query is written as in a URL (`/a?b=c`); -1 when there is none. */
function queryAt(text: string): number {
  const at = text.indexOf('?')
  const before = text[at - 1] ?? ''
  const isQuestion = at > 0 && !metacharacters.includes(before) && text.slice(at + 1).includes('=')
  return isQuestion ? at : -1
}

/** NG019. */
const removedFields: Check = (context, say) => {
  for (const spec of context.specs)
    for (const { field, direction } of isCilium(spec) ? itemsOfSpec(spec) : []) {
      const key = direction === 'ingress' ? 'fromRequires' : 'toRequires'
      const requires = at(field, key)
      if (requires !== undefined && !isEmptyList(requires)) {
        const isGone = context.isCilium(1, 19)
        const endpoints = key.replace('Requires', 'Endpoints')
        say('NG019', spec, requires, {
          severity: isGone ? 'error' : 'warning',
          message: isGone ? `${key} was removed in Cilium 1.19` : `${key} is going away: Cilium 1.19 removes it`,
          hint: `put its labels into every selector of ${endpoints}, which then have to hold both`,
          fix: requiresFix(context, field, requires, endpoints),
        })
      }
      for (const item of itemsOf(at(field, 'toPorts')))
        for (const name of ['kafka', 'l7', 'l7proto']) {
          const rules = at(item, 'rules', name)
          if (rules === undefined || isEmptyList(rules)) continue
          const isGone = context.isCilium(1, 20)
          if (!isGone && !context.isCilium(1, 18)) continue
          say('NG019', spec, rules, {
            severity: isGone ? 'error' : 'warning',
            message: isGone
              ? `rules.${name} was removed in Cilium 1.20`
              : `rules.${name} is deprecated since Cilium 1.18, and removed in 1.20`,
            hint: 'allow the port alone, or put a proxy that knows the protocol in front (listener)',
          })
        }
    }
}

/** The labels of the requirement into the one selector beside it, where both are plain. */
function requiresFix(context: Context, item: Field, requires: Field, endpoints: string): ReturnType<typeof fixOf> {
  const selectors = itemsOf(at(item, endpoints))
  const [required, selector] = [itemsOf(requires)[0], selectors[0]]
  if (
    itemsOf(requires).length !== 1 ||
    required === undefined ||
    [...entriesOf(required)].some(([key]) => key !== 'matchLabels')
  )
    return undefined
  const labels = entriesOf(at(required, 'matchLabels'))
  const flow = (all: readonly (readonly [string, Field])[]): string =>
    `{${all.map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(textOf(value) ?? '')}`).join(', ')}}`
  if (selector === undefined)
    return at(item, endpoints) === undefined
      ? fixOf(endpoints, context.sources.replaceEntry(requires, `${endpoints}: [{matchLabels: ${flow(labels)}}]`))
      : undefined
  if (selectors.length !== 1 || entriesOf(selector).some(([key]) => key !== 'matchLabels')) return undefined
  const both = new Map([...entriesOf(at(selector, 'matchLabels')), ...labels])
  const list = at(item, endpoints)
  const replaced = list && context.sources.replaceEntry(list, `${endpoints}: [{matchLabels: ${flow([...both])}}]`)
  const gone = context.sources.removeEntry(requires)
  return replaced === undefined || gone === undefined
    ? undefined
    : { title: `${endpoints} with both`, edits: [replaced, gone] }
}

export const l7Checks: readonly Check[] = [shadowed, conflicts, httpPatterns, removedFields]
