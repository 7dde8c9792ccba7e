// `namegate observe`: flows of a running agent as they were and as they come, with the filters and forms of the `hubble` command.
import { InvalidArgumentError, Option, type Command } from 'commander'
import { EventType } from '../observe/filters.ts'
import { capacityMax } from '../observe/ring.ts'
import { streamApi } from './client.ts'
import { print } from './print.ts'

const forms = ['compact', 'dict', 'json', 'jsonpb', 'table'] as const
type Form = (typeof forms)[number]

interface ObserveOptions {
  readonly last?: string
  readonly first?: string
  readonly all?: boolean
  readonly since?: string
  readonly until?: string
  readonly follow?: boolean
  readonly output: Form
  readonly allowlist?: string
  readonly denylist?: string
  readonly printRawFilters?: boolean
  readonly color: 'auto' | 'always' | 'never'
  readonly ipTranslation: boolean
  readonly printNodeName?: boolean
  readonly timeFormat: TimeFormat
}

/** What filter flags were given, by name, with their values in order. */
export type Flags = Readonly<Partial<Record<string, readonly string[]>>>
type Filter = Readonly<Record<string, unknown>>

/** Flags of which each is the field of one side; without a side either will do. */
const sided = {
  pod: 'pod', namespace: 'pod', ip: 'ip', fqdn: 'fqdn', label: 'label', identity: 'identity', port: 'port', cluster: 'cluster_name',
} as const // prettier-ignore
const eventTypes: Readonly<Record<string, number>> = { drop: 1, trace: 4, 'policy-verdict': 5, l7: 129 }
/** Flags that are one field, and how it reads a value. */
const plain: Readonly<Record<string, readonly [field: string, read: (text: string) => unknown]>> = {
  verdict: ['verdict', (text) => text.toUpperCase()],
  protocol: ['protocol', String],
  'dns-query': ['dns_query', String],
  reply: ['reply', (text) => text === 'true'],
  'ip-version': ['ip_version', (text) => (text.endsWith('4') ? 'IPv4' : text.endsWith('6') ? 'IPv6' : text)],
  'traffic-direction': ['traffic_direction', (text) => text.toUpperCase()],
  'drop-reason-desc': ['drop_reason_desc', (text) => text.toUpperCase()],
  'tcp-flags': ['tcp_flags', (text) => Object.fromEntries(text.split(',').map((flag) => [flag.toUpperCase(), true]))],
  'node-name': ['node_name', String],
  type: ['event_type', (text) => readType(text)],
}

/** `drop`, `drop:133`, or numbers. */
function readType(text: string): Filter {
  const [name = '', sub] = text.split(':')
  const type = eventTypes[name] ?? Number(name)
  if (!Number.isInteger(type) || name === '') throw new InvalidArgumentError(`a type is one of ${Object.keys(eventTypes).join(', ')}, or a number`) // prettier-ignore
  return { type, ...(sub === undefined ? {} : { match_sub_type: true, sub_type: Number(sub) }) }
}

/** What the flags ask for as Hubble's filters: one, or several where a flag means either side. */
export function filtersOf(flags: Flags): readonly Filter[] {
  const common: Record<string, unknown> = {}
  for (const [flag, [field, read]] of Object.entries(plain)) if (flags[flag] !== undefined) common[field] = flags[flag].map(read) // prettier-ignore
  let filters: Filter[] = [common]
  const add = (filter: Filter, field: string, values: readonly string[]): Filter => ({ ...filter, [field]: [...((filter[field] ?? []) as readonly string[]), ...values] }) // prettier-ignore
  for (const [name, field] of Object.entries(sided)) {
    const valuesOf = (flag: string): readonly string[] | undefined => name === 'namespace' ? flags[flag]?.map((text) => `${text}/`) : flags[flag] // prettier-ignore
    const [from, to, either] = [valuesOf(`from-${name}`), valuesOf(`to-${name}`), valuesOf(name)]
    const [source, destination] = [`source_${field}`, `destination_${field}`]
    if (from !== undefined) filters = filters.map((filter) => add(filter, source, from))
    if (to !== undefined) filters = filters.map((filter) => add(filter, destination, to))
    if (either !== undefined) filters = filters.flatMap((filter) => [add(filter, source, either), add(filter, destination, either)]) // prettier-ignore
  }
  return filters.filter((filter) => Object.keys(filter).length > 0)
}

/** `10m`, `2h30s`: so long before now; a time is taken as it stands. */
export function momentOf(text: string, now: number): string {
  let millis = 0
  let digits = ''
  for (const c of text) {
    const unit = units[c]
    if (c >= '0' && c <= '9') digits += c
    else if (unit === undefined || digits === '') return text
    else {
      millis += Number(digits) * unit
      digits = ''
    }
  }
  return digits !== '' || text === '' ? text : new Date(now - millis).toISOString()
}
const units: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

const timeFormats = ['RFC3339Milli', 'RFC3339', 'StampMilli'] as const
type TimeFormat = (typeof timeFormats)[number]

export interface Style {
  readonly colours: boolean
  /** Names and pods for addresses, where they are known. */
  readonly translate: boolean
  readonly nodeName: boolean
  readonly time: TimeFormat
}
export const plainStyle: Style = { colours: false, translate: true, nodeName: false, time: 'RFC3339Milli' }

/** @param text as the API writes it: UTC, with milliseconds. */
function timeText(text: string, format: TimeFormat): string {
  if (format === 'RFC3339') return `${text.slice(0, 19)}Z`
  const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']
  return format === 'RFC3339Milli' ? text : `${months[Number(text.slice(5, 7)) - 1] ?? ''} ${text.slice(8, 10).replace(/^0/, ' ')} ${text.slice(11, 23)}` // prettier-ignore
}

interface FlowLine {
  readonly flow?: Readonly<Record<string, unknown>>
  readonly lost_events?: { readonly source: string; readonly num_events_lost: string }
  readonly time: string
  readonly node_name?: string
}
interface EndLine {
  readonly namespace?: string
  readonly pod_name?: string
  readonly identity?: number
  readonly labels?: readonly string[]
}
interface Ports {
  readonly source_port?: number
  readonly destination_port?: number
}

/** What is told of a flow, made harmless for a terminal. */
interface Told {
  readonly time: string
  readonly from: string
  readonly to: string
  readonly arrow: '->' | '<-' | '<>'
  readonly type: string
  readonly verdict: string
  readonly summary: string
  readonly why: string | undefined
}

function toldOf({ flow, time, node_name: node }: FlowLine, style: Style): Told | undefined {
  if (flow === undefined) return undefined
  const ip = (flow['IP'] ?? {}) as { source?: string; destination?: string }
  const ports = Object.values((flow['l4'] ?? {}) as Record<string, Ports>)[0] ?? {}
  const names = (key: string): readonly string[] => (style.translate ? (flow[key] ?? []) : []) as readonly string[]
  const party = (end: EndLine, address: string | undefined, known: readonly string[], port: number | undefined): string => partyOf(style.translate || address === undefined ? end : {}, address, known, port) // prettier-ignore
  const from = party(flow['source'] as EndLine, ip.source, names('source_names'), ports.source_port)
  const to = party(flow['destination'] as EndLine, ip.destination, names('destination_names'), ports.destination_port)
  const dns = (flow['l7'] as { type?: string } | undefined)?.type
  const isDrop = (flow['event_type'] as { type?: number } | undefined)?.type === EventType.Drop
  const [why] = (flow['policy_log'] ?? []) as readonly string[]
  return {
    time: `${timeText(time, style.time)}${style.nodeName ? ` [${clean(node ?? '')}]` : ''}`,
    from,
    to,
    arrow: flow['is_reply'] === undefined ? '<>' : flow['is_reply'] === true ? '<-' : '->',
    type:
      dns === undefined
        ? `${isDrop ? 'drop' : 'policy-verdict'} ${String(flow['traffic_direction'])}`
        : `dns-${dns.toLowerCase()}`,
    verdict: String(flow['verdict']),
    summary: clean(String(flow['Summary'])),
    why: why === undefined ? undefined : clean(why),
  }
}

const colourOf = (verdict: string): number => verdict === 'FORWARDED' ? 32 : verdict === 'DROPPED' || verdict === 'ERROR' ? 31 : 33 // prettier-ignore
const painted = (colours: boolean, code: number, text: string): string => colours ? `\x1b[${code}m${text}\x1b[0m` : text // prettier-ignore
const lostText = ({ num_events_lost: count, source }: NonNullable<FlowLine['lost_events']>): string => `${count} flows lost (${source})` // prettier-ignore

/** One line for people: time, who, whereto, what, verdict, why. */
export function compactLine(line: FlowLine, style: Style): string {
  const paint = (code: number, text: string): string => painted(style.colours, code, text)
  if (line.lost_events !== undefined) return `${timeText(line.time, style.time)}: ${paint(35, lostText(line.lost_events))}\n` // prettier-ignore
  const told = toldOf(line, style)
  if (told === undefined) return ''
  const { time, from, to, arrow, verdict, summary, why } = told
  const [left, right] = arrow === '<-' ? [to, from] : [from, to]
  return `${time}: ${paint(36, left)} ${arrow} ${paint(36, right)} ${paint(colourOf(verdict), verdict)} (${summary})${why === undefined ? '' : `: ${why}`}\n` // prettier-ignore
}

function partyOf(end: EndLine, ip: string | undefined, names: readonly string[], port: number | undefined): string {
  const [name] = names
  const who = end.pod_name === undefined ? (name ?? ip ?? end.labels?.[0] ?? '?') : `${end.namespace ?? ''}/${end.pod_name}` // prettier-ignore
  return clean(`${who.includes(':') && port !== undefined && name === undefined && end.pod_name === undefined && ip !== undefined ? `[${who}]` : who}${port === undefined ? '' : `:${port}`}`) // prettier-ignore
}

/** Names come from the network: nothing of them may steer the terminal. */
const clean = (text: string): string => [...text].map((c) => (c < ' ' || (c >= '\x7f' && c <= '\x9f') ? '?' : c)).join('') // prettier-ignore

function dictLines(line: FlowLine, style: Style): string {
  const fields: (readonly [string, string])[] = []
  if (line.lost_events !== undefined) fields.push(['TIMESTAMP', timeText(line.time, style.time)], ['LOST', lostText(line.lost_events)]) // prettier-ignore
  const told = toldOf(line, style)
  if (told !== undefined) fields.push(['TIMESTAMP', told.time], ['SOURCE', told.from], ['DESTINATION', told.to], ['TYPE', told.type], ['VERDICT', told.verdict], ['SUMMARY', told.summary]) // prettier-ignore
  if (told?.why !== undefined) fields.push(['WHY', told.why])
  const text = ([key, value]: readonly [string, string]): string => `${`${key}:`.padStart(12)} ${key === 'VERDICT' ? painted(style.colours, colourOf(value), value) : value}\n` // prettier-ignore
  return fields.length === 0 ? '' : `${fields.map(text).join('')}------------\n`
}

/** Rows that come one by one: a column is as wide as its widest cell so far. */
function makeTable(style: Style): (line: FlowLine) => string {
  const head = ['TIMESTAMP', 'SOURCE', 'DESTINATION', 'TYPE', 'VERDICT', 'SUMMARY']
  const widths = [24, 30, 30, 22, 9, 0]
  let isFirst = true
  const row = (cells: readonly string[]): string => {
    cells.forEach((cell, i) => (widths[i] = i === cells.length - 1 ? 0 : Math.max(widths[i] ?? 0, cell.length)))
    return `${cells.map((cell, i) => (i === 4 ? painted(style.colours && cell !== 'VERDICT', colourOf(cell), cell) + ' '.repeat((widths[i] ?? 0) - cell.length) : cell.padEnd(widths[i] ?? 0))).join('  ').trimEnd()}\n` // prettier-ignore
  }
  return (line) => {
    const title = isFirst ? row(head) : ''
    isFirst = false
    if (line.lost_events !== undefined) return `${title}${row([timeText(line.time, style.time), '', '', '', '', lostText(line.lost_events)])}` // prettier-ignore
    const told = toldOf(line, style)
    if (told === undefined) return title
    const { time, from, to, type, verdict, summary, why } = told
    return `${title}${row([time, from, to, type, verdict, why === undefined ? summary : `${summary}: ${why}`])}`
  }
}

/** Gives what prints each line of the API's answer in a form. */
export function makeRenderer(form: Form, style: Style): (text: string) => string {
  if (form === 'json' || form === 'jsonpb') return (text) => `${text}\n`
  const inRows = makeTable(style)
  return (text) => {
    const line = JSON.parse(text) as FlowLine
    return form === 'table' ? inRows(line) : form === 'dict' ? dictLines(line, style) : compactLine(line, style)
  }
}

/** Prints flows until the agent ends them or nobody reads any more. */
async function observeCommand(options: ObserveOptions & { readonly api: string }, given: Given): Promise<void> {
  const { api, last, first, all, since, until, follow, output } = options
  const allow = [...readFilters('--allowlist', options.allowlist), ...filtersOf(given.allow)]
  const deny = [...readFilters('--denylist', options.denylist), ...filtersOf(given.deny)]
  if (options.printRawFilters === true) {
    await print(`${[...allow.map((filter) => ({ allowlist: filter })), ...deny.map((filter) => ({ denylist: filter }))].map((each) => JSON.stringify(each)).join('\n')}\n`) // prettier-ignore
    return
  }
  const now = Date.now()
  const query = new URLSearchParams({
    ...(all === true ? { last: String(capacityMax) } : last === undefined ? {} : { last }),
    ...(first === undefined ? {} : { first }),
    ...(since === undefined ? {} : { since: momentOf(since, now) }),
    ...(until === undefined ? {} : { until: momentOf(until, now) }),
    ...(follow === true ? { follow: 'true' } : {}),
    ...(allow.length === 0 ? {} : { allow: JSON.stringify(allow) }),
    ...(deny.length === 0 ? {} : { deny: JSON.stringify(deny) }),
  })
  const isTerminal = process.stdout.isTTY && process.env['NO_COLOR'] === undefined
  const colours = options.color === 'always' || (options.color === 'auto' && isTerminal)
  const renderLine = makeRenderer(output, { colours, translate: options.ipTranslation, nodeName: options.printNodeName === true, time: options.timeFormat }) // prettier-ignore
  for await (const line of streamApi(api, `/v1/flows?${query.toString()}`)) if (!(await print(renderLine(line)))) return
}

/** A list of Hubble's FlowFilters as JSON; one alone is one too. */
function readFilters(flag: string, text: string | undefined): readonly Filter[] {
  if (text === undefined) return []
  try {
    const value: unknown = JSON.parse(text)
    const list: unknown[] = Array.isArray(value) ? value : [value]
    if (list.every((each) => typeof each === 'object' && each !== null)) return list as Filter[]
  } catch {
    // Said below.
  }
  throw new InvalidArgumentError(`${flag}: not JSON of Hubble's FlowFilters`)
}

/** Filter flags in the order in which they came: --not is about the next one only. */
interface Given {
  readonly allow: Record<string, string[]>
  readonly deny: Record<string, string[]>
  isNegated: boolean
}

export function addObserve(program: Command, withApi: (command: Command) => Command): void {
  const command = program.command('observe').description('flows: what was asked, answered, connected and refused, and why')
  const given: Given = { allow: {}, deny: {}, isNegated: false }
  const note = (name: string, value: string): void => {
    const list = given.isNegated ? given.deny : given.allow
    given.isNegated = false
    ;(list[name] ??= []).push(value)
  }
  /** A flag of this value each time, or with a value of its own. */
  const filter = (flags: string, description: string, name: string, value?: string): void => {
    const option = new Option(flags, description)
    command.addOption(option)
    command.on(`option:${option.name()}`, (text: string | null) => note(name, value ?? text ?? ''))
  }
  withApi(command)
  command
    .addOption(new Option('-o, --output <form>', 'how to print').choices([...forms]).default('compact'))
    .option('-f, --follow', 'go on with what comes')
    .option('--last <n>', 'the newest n (default: 20)')
    .option('--first <n>', 'the oldest n')
    .option('--all', 'all that are remembered')
    .option('--since <time>', 'from then on: RFC 3339, or 10m for ten minutes ago')
    .option('--until <time>', 'up to then')
    .option('--allowlist <json>', "Hubble's FlowFilters as JSON, of which one must match")
    .option('--denylist <json>', 'those of which none may')
    .option('--print-raw-filters', 'print the filters that the flags make, and end')
    .addOption(new Option('--color <when>', 'colours').choices(['auto', 'always', 'never']).default('auto'))
    .addOption(new Option('--time-format <name>', 'how to print times').choices([...timeFormats]).default('RFC3339Milli'))
    .option('--no-ip-translation', 'addresses instead of pods and names')
    .option('--print-node-name', 'the node with each flow')
    .option('--not', 'the next filter is of what must not be shown; together, those with --not hide what all of them match')
  command.on('option:not', () => {
    if (given.isNegated) command.error('error: --not twice')
    given.isNegated = true
  })
  filter('--verdict <verdict>', 'forwarded, dropped, audit, error; may be given again, as all that follow', 'verdict')
  filter('-t, --type <type>', 'drop, policy-verdict or l7, with :SUBTYPE', 'type')
  filter('--protocol <name>', 'dns, tcp, udp, icmp, ...', 'protocol')
  filter('--dns-query <regex>', 'names that were asked (RE2)', 'dns-query')
  filter('--reply', 'answers only', 'reply', 'true')
  filter('--no-reply', 'no answers', 'reply', 'false')
  filter('--traffic-direction <direction>', 'ingress or egress: whose policy was asked', 'traffic-direction')
  filter('--drop-reason-desc <reason>', 'policy_denied or policy_deny', 'drop-reason-desc')
  filter('--tcp-flags <flags>', 'all of these, with commas between', 'tcp-flags')
  filter('--ip-version <version>', '4 or 6', 'ip-version')
  filter('-4, --ipv4', 'IPv4 only', 'ip-version', '4')
  filter('-6, --ipv6', 'IPv6 only', 'ip-version', '6')
  filter('--node-name <name>', 'of this node: CLUSTER/NODE, * for anything', 'node-name')
  const what = { pod: 'NAMESPACE/NAME, NAMESPACE/ or /NAME', namespace: 'name of it', ip: 'address or prefix', fqdn: 'name, * for anything', label: 'label selector', identity: 'number', port: 'number', cluster: 'name of it' }
  const short: Readonly<Record<string, string>> = { namespace: '-n, ', label: '-l, ' }
  for (const name of Object.keys(sided) as (keyof typeof sided)[]) {
    filter(`${short[name] ?? ''}--${name} <${name}>`, `either end: ${what[name]}`, name)
    filter(`--from-${name} <${name}>`, 'where it came from', `from-${name}`)
    filter(`--to-${name} <${name}>`, 'where it went', `to-${name}`)
  }
  command
    .addHelpText('after', "\nExamples:\n  namegate observe -f --verdict dropped\n  namegate observe --from-pod shop/ --to-fqdn '*.example.com'\n  namegate observe -f --not --namespace kube-system -o table\n  namegate observe --since 10m --protocol dns -o json")
    .action(async (options: ObserveOptions & { readonly api: string }) => {
      if (given.isNegated) command.error('error: --not: no filter stands behind it')
      try {
        await observeCommand(options, given)
      } catch (error) {
        if (error instanceof InvalidArgumentError) command.error(`error: ${error.message}`)
        throw error
      }
    })
} // prettier-ignore
