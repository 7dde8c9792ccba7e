// `rules` of a toPorts item: HTTP, Kafka, DNS and generic rules, checked as Cilium's agent checks them.
import { readHeader, type HeaderMatch } from '../l7/http.ts'
import { checkKafka, kafkaApiKeys, readKafkaVersion } from '../l7/kafka.ts'
import { checkRegex } from '../l7/regex.ts'
import { checkPattern, readPattern, type Pattern } from '../match/pattern.ts'
import { isSince, secretName, type Context } from './context.ts'
import { didYouMean, isAbsent, readList, readMap, readString, readStringMap, type Field, type Report } from './field.ts'
import type { HttpRule, KafkaRule, L7, NameMatch } from './rules.ts'

const kinds = ['http', 'kafka', 'dns', 'l7', 'l7proto'] as const
const removed: Readonly<Record<string, string>> = {
  kafka: "leave the port open and let the brokers' own ACLs decide about topics",
  l7: 'leave the port open, or send it to a listener of a CiliumEnvoyConfig',
  l7proto: 'leave the port open, or send it to a listener of a CiliumEnvoyConfig',
}

/** What `rules` demands; undefined when that is nothing: all its lists are empty. */
export function parseL7(context: Context, field: Field): L7 | undefined {
  const { report, options } = context
  const fields = readMap(report, field, kinds)
  const given = kinds.filter((key) => !isAbsent(fields.get(key)))
  if (given.length === 0) report.error(field, '"rules" must validate one and only one schema (oneOf): http or dns')
  // Who has such rules must be able to bring them: they close more than what Cilium 1.20 would make of them.
  if (isSince(options, '1.20'))
    for (const key of given.filter((k) => k in removed))
      report.warn(fields.get(key) ?? field, `Cilium 1.20 removed ${key} rules; here they are judged as before: ${removed[key] ?? ''}`) // prettier-ignore
  const generic = given.includes('l7proto')
  if (given.includes('l7') && !generic)
    report.error(fields.get('l7') ?? field, "'l7' may only be specified when a 'l7proto' is also specified")
  if (given.filter((key) => key !== 'l7').length > 1)
    report.error(field, 'multiple L7 protocol rule types specified in single rule')

  const items = (key: (typeof kinds)[number]): readonly Field[] => readList(report, fields.get(key))
  const http = items('http').map((item) => parseHttp(context, item))
  const kafka = items('kafka').map((item) => parseKafka(report, item))
  const dns = items('dns').flatMap((item) =>
    parseNames(context, item, 'dns').map((name) => ({ ...spotOf(item), ...name })),
  )
  const pairs = items('l7').map((item) => parsePairs(report, item))
  const protocol = readString(report, fields.get('l7proto')) ?? ''
  // With the default deny off, a rule of layer 7 shows what passes and stops none of it: Cilium adds one that allows everything.
  const everything = !context.defaultDeny && isSince(options, '1.18')
  const spot = spotOf(field)
  if (http.length > 0)
    return { kind: 'http', rules: everything ? [...http, { ...spot, headers: [], headerMatches: [] }] : http }
  if (kafka.length > 0) return { kind: 'kafka', rules: everything ? [...kafka, spot] : kafka }
  if (dns.length > 0) return { kind: 'dns', rules: everything ? [...dns, { ...spot, ...everyName }] : dns }
  if (pairs.length > 0 || protocol !== '')
    return {
      kind: 'l7',
      protocol,
      rules: everything || pairs.length === 0 ? [...pairs, new Map<string, string>()] : pairs,
    }
  return undefined
}

const spotOf = ({ path, line }: Field): { readonly path: string; readonly line: number } => ({ path, line })
const everyName: NameMatch = { field: 'matchPattern', text: '*', pattern: { kind: 'any' } }

/** The matchName or matchPattern of an item of toFQDNs or of `dns`; [] with an error when it is not one of them. */
export function parseNames(context: Context, field: Field, list: 'toFQDNs' | 'dns'): NameMatch[] {
  const { report } = context
  const fields = readMap(report, field, ['matchName', 'matchPattern'])
  const given = (['matchName', 'matchPattern'] as const).filter((key) => !isAbsent(fields.get(key)))
  if (given.length > 1) {
    const where = list === 'dns' ? 'a DNS rule' : 'an FQDNSelector'
    report.error(field, `only one of MatchName or MatchPattern is allowed in ${where}`)
  }
  if (given.length === 0) report.error(field, 'one of matchName or matchPattern is required')
  return given.flatMap((key): NameMatch[] => {
    const entry = fields.get(key)
    const text = readString(report, entry)
    if (text === undefined || entry === undefined) return []
    const wrong = checkPattern(text, key)
    if (wrong === undefined) return [{ field: key, text, pattern: patternOf(context, entry, text) }]
    // The agent has two wordings for one check.
    const isOther = list === 'dns' && key === 'matchName'
    report.error(entry, isOther ? wrong.replace('., -, _ characters', '. and - characters') : wrong)
    return []
  })
}

function patternOf({ report, options }: Context, at: Field, text: string): Pattern {
  const pattern = readPattern(text)
  if (pattern.kind === 'any' || !pattern.deep || isSince(options, '1.19')) return pattern
  report.warn(at, 'a leading "**." means more than one label since Cilium 1.19 only; before, it is "*."')
  return { kind: 'labels', deep: false, labels: [{ kind: 'glob', pieces: ['', ''] }, ...pattern.labels] }
}

function parseHttp(context: Context, field: Field): HttpRule {
  const { report } = context
  const fields = readMap(report, field, ['path', 'method', 'host', 'headers', 'headerMatches'])
  const [path, method, host] = ['path', 'method', 'host'].map((key) => readRegex(report, fields.get(key)))
  return {
    ...spotOf(field),
    ...(path === undefined ? {} : { pathRegex: path }),
    ...(method === undefined ? {} : { methodRegex: method }),
    ...(host === undefined ? {} : { hostRegex: host }),
    headers: readList(report, fields.get('headers')).flatMap((item) => parseHeader(report, item) ?? []),
    headerMatches: readList(report, fields.get('headerMatches')).flatMap(
      (item) => parseHeaderMatch(context, item) ?? [],
    ),
  }
}

/** A regular expression that RE2 takes; an empty one demands nothing. */
function readRegex(report: Report, field: Field | undefined): string | undefined {
  const text = readString(report, field)
  if (text === undefined || text === '' || field === undefined) return undefined
  const wrong = checkRegex(text)
  if (wrong !== undefined) report.error(field, wrong)
  return text
}

/** `Name: value` or `Name`. */
function parseHeader(report: Report, field: Field): HttpRule['headers'][number] | undefined {
  const text = readString(report, field)
  if (text === undefined) return undefined
  const header = readHeader(text)
  if (header.name === '' || header.name.includes(':'))
    report.warn(
      field,
      `no header is called "${header.name}": the rule matches no request; write "Name: value", with a space`,
    )
  return header
}

const mismatches = ['LOG', 'ADD', 'DELETE', 'REPLACE'] as const

function parseHeaderMatch(context: Context, field: Field): HeaderMatch | undefined {
  const { report } = context
  const fields = readMap(report, field, ['name', 'value', 'secret', 'mismatch'])
  const name = readString(report, fields.get('name')) ?? ''
  if (name === '') report.error(field, 'Header name missing')
  const value = readString(report, fields.get('value'))
  const action = readString(report, fields.get('mismatch'))
  const mismatch = mismatches.find((known) => known === action)
  if (action !== undefined && mismatch === undefined)
    report.error(fields.get('mismatch') ?? field, `Invalid header action: ${action}${didYouMean(action, mismatches)}`)
  const secret = readSecret(context, fields.get('secret'))
  if (name === '') return undefined
  return {
    name: name.toLowerCase(),
    ...(value === undefined || value === '' ? {} : { value }),
    ...(secret === undefined ? {} : { secret }),
    ...(mismatch === undefined ? {} : { mismatch }),
  }
}

/** A reference to a Secret as `namespace/name`. */
export function readSecret(context: Context, field: Field | undefined): string | undefined {
  if (isAbsent(field)) return undefined
  const { report } = context
  const fields = readMap(report, field, ['namespace', 'name'])
  const name = readString(report, fields.get('name')) ?? ''
  if (name === '') report.error(field, 'Secret name missing')
  return secretName(context, readString(report, fields.get('namespace')), name)
}

const roles = ['produce', 'consume'] as const

function parseKafka(report: Report, field: Field): KafkaRule {
  const fields = readMap(report, field, ['role', 'apiKey', 'apiVersion', 'clientID', 'topic'])
  const read = (key: string): string => readString(report, fields.get(key)) ?? ''
  const [role, apiKey, apiVersion, clientID, topic] = [
    read('role'),
    read('apiKey'),
    read('apiVersion'),
    read('clientID'),
    read('topic'),
  ]
  const known: Readonly<Record<string, readonly string[]>> = { role: roles, apiKey: kafkaApiKeys }
  for (const fault of checkKafka({ role, apiKey, apiVersion, topic }))
    report.error(
      fields.get(fault.field) ?? field,
      fault.message + didYouMean(read(fault.field), known[fault.field] ?? []),
    )
  const knownRole = roles.find((r) => r === role.toLowerCase())
  const version = apiVersion === '' ? undefined : readKafkaVersion(apiVersion)
  return {
    ...spotOf(field),
    ...(knownRole === undefined ? {} : { role: knownRole }),
    ...(apiKey === '' ? {} : { apiKey: apiKey.toLowerCase() }),
    ...(version === undefined ? {} : { apiVersion: version }),
    ...(clientID === '' ? {} : { clientID }),
    ...(topic === '' ? {} : { topic }),
  }
}

function parsePairs(report: Report, field: Field): ReadonlyMap<string, string> {
  const pairs = readStringMap(report, field)
  if (pairs.has('')) report.error(field, 'Empty key not allowed')
  return pairs
}
