// `namegate observe`: flows of a running agent as they were and as they come, with the filters and forms of the `hubble` command.
import { Option, type Command } from 'commander'
import { streamApi } from './client.ts'
import { print } from './print.ts'

const forms = ['compact', 'dict', 'json', 'jsonpb'] as const
type Form = (typeof forms)[number]

export interface ObserveOptions {
  readonly last?: string
  readonly first?: string
  readonly since?: string
  readonly until?: string
  readonly follow?: boolean
  readonly output: Form
  readonly verdict?: readonly string[]
  readonly protocol?: readonly string[]
  readonly dnsQuery?: readonly string[]
  readonly pod?: readonly string[]
  readonly fromPod?: readonly string[]
  readonly toPod?: readonly string[]
  readonly ip?: readonly string[]
  readonly fromIp?: readonly string[]
  readonly toIp?: readonly string[]
  readonly fqdn?: readonly string[]
  readonly toFqdn?: readonly string[]
  readonly label?: readonly string[]
  readonly fromLabel?: readonly string[]
  readonly toLabel?: readonly string[]
  readonly identity?: readonly string[]
  readonly fromIdentity?: readonly string[]
  readonly toIdentity?: readonly string[]
  readonly port?: readonly string[]
  readonly fromPort?: readonly string[]
  readonly toPort?: readonly string[]
  readonly reply?: boolean
}

type Filter = Readonly<Record<string, unknown>>

/** Of which flags each is the field of one side; without a side either will do. */
const sided = ['pod', 'ip', 'fqdn', 'label', 'identity', 'port'] as const

/** What the flags ask for as Hubble's filters: one, or several where a flag means either side. */
export function filtersOf(options: ObserveOptions): readonly Filter[] {
  const flat = options as unknown as Readonly<Record<string, readonly string[] | undefined>>
  const common: Record<string, unknown> = {}
  if (options.verdict !== undefined) common['verdict'] = options.verdict.map((verdict) => verdict.toUpperCase())
  if (options.protocol !== undefined) common['protocol'] = options.protocol
  if (options.dnsQuery !== undefined) common['dns_query'] = options.dnsQuery
  if (options.reply !== undefined) common['reply'] = [options.reply]
  let filters: Filter[] = [common]
  for (const name of sided) {
    const title = `${name[0]?.toUpperCase() ?? ''}${name.slice(1)}`
    const [from, to, either] = [flat[`from${title}`], flat[`to${title}`], flat[name]]
    if (from !== undefined) filters = filters.map((filter) => ({ ...filter, [`source_${name}`]: from }))
    if (to !== undefined) filters = filters.map((filter) => ({ ...filter, [`destination_${name}`]: to }))
    if (either !== undefined)
      filters = filters.flatMap((filter) => [
        { ...filter, [`source_${name}`]: either },
        { ...filter, [`destination_${name}`]: either },
      ])
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

interface FlowLine {
  readonly flow?: Readonly<Record<string, unknown>>
  readonly lost_events?: { readonly source: string; readonly num_events_lost: string }
  readonly time: string
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

/** One line for people: time, who, whereto, what, verdict, why. */
export function compactLine({ flow, lost_events: lost, time }: FlowLine, colours: boolean): string {
  const paint = (code: number, text: string): string => (colours ? `\x1b[${code}m${text}\x1b[0m` : text)
  if (lost !== undefined) return `${time}: ${paint(35, `${lost.num_events_lost} flows lost (${lost.source})`)}\n`
  if (flow === undefined) return ''
  const verdict = String(flow['verdict'])
  const ip = (flow['IP'] ?? {}) as { source?: string; destination?: string }
  const ports = Object.values((flow['l4'] ?? {}) as Record<string, Ports>)[0] ?? {}
  const names = (key: string): readonly string[] => (flow[key] ?? []) as readonly string[]
  const from = partyOf(flow['source'] as EndLine, ip.source, names('source_names'), ports.source_port)
  const to = partyOf(flow['destination'] as EndLine, ip.destination, names('destination_names'), ports.destination_port)
  const arrow = flow['is_reply'] === undefined ? '<>' : flow['is_reply'] === true ? '<-' : '->'
  const [left, right] = flow['is_reply'] === true ? [to, from] : [from, to]
  const colour = verdict === 'FORWARDED' ? 32 : verdict === 'DROPPED' || verdict === 'ERROR' ? 31 : 33
  const [why] = names('policy_log')
  return `${time}: ${paint(36, left)} ${arrow} ${paint(36, right)} ${paint(colour, verdict)} (${clean(String(flow['Summary']))})${why === undefined ? '' : `: ${clean(why)}`}\n` // prettier-ignore
}

function partyOf(end: EndLine, ip: string | undefined, names: readonly string[], port: number | undefined): string {
  const [name] = names
  const who = end.pod_name === undefined ? (name ?? ip ?? end.labels?.[0] ?? '?') : `${end.namespace ?? ''}/${end.pod_name}` // prettier-ignore
  return clean(`${who.includes(':') && port !== undefined && name === undefined && end.pod_name === undefined && ip !== undefined ? `[${who}]` : who}${port === undefined ? '' : `:${port}`}`) // prettier-ignore
}

/** Names come from the network: nothing of them may steer the terminal. */
const clean = (text: string): string => [...text].map((c) => (c < ' ' || (c >= '\x7f' && c <= '\x9f') ? '?' : c)).join('') // prettier-ignore

function dictLines({ flow, lost_events: lost, time }: FlowLine): string {
  if (lost !== undefined)
    return `TIMESTAMP: ${time}\n     LOST: ${lost.num_events_lost} (${lost.source})\n------------\n`
  const [line = ''] = compactLine({ time, ...(flow === undefined ? {} : { flow }) }, false).split('\n')
  return `${line.replace(/^[^ ]+: /, `TIMESTAMP: ${time}\n     FLOW: `)}\n------------\n`
}

export function renderLine(text: string, form: Form, colours: boolean): string {
  if (form === 'json' || form === 'jsonpb') return `${text}\n`
  const line = JSON.parse(text) as FlowLine
  return form === 'dict' ? dictLines(line) : compactLine(line, colours)
}

/** Prints flows until the agent ends them or nobody reads any more. */
async function observeCommand(options: ObserveOptions & { readonly api: string }): Promise<void> {
  const { api, last, first, since, until, follow, output } = options
  const allow = filtersOf(options)
  const now = Date.now()
  const query = new URLSearchParams({
    ...(last === undefined ? {} : { last }),
    ...(first === undefined ? {} : { first }),
    ...(since === undefined ? {} : { since: momentOf(since, now) }),
    ...(until === undefined ? {} : { until: momentOf(until, now) }),
    ...(follow === true ? { follow: 'true' } : {}),
    ...(allow.length === 0 ? {} : { allow: JSON.stringify(allow) }),
  })
  const colours = process.stdout.isTTY && process.env['NO_COLOR'] === undefined
  for await (const line of streamApi(api, `/v1/flows?${query.toString()}`))
    if (!(await print(renderLine(line, output, colours)))) return
}

const collect = (text: string, before: readonly string[] = []): readonly string[] => [...before, text]

export function addObserve(program: Command, withApi: (command: Command) => Command): void {
  const command = program.command('observe').description('flows: what was asked, answered, connected and refused, and why')
  withApi(command)
  command
    .addOption(new Option('-o, --output <form>', 'how to print').choices([...forms]).default('compact'))
    .option('-f, --follow', 'go on with what comes')
    .option('--last <n>', 'the newest n (default: 20)')
    .option('--first <n>', 'the oldest n')
    .option('--since <time>', 'from then on: RFC 3339, or 10m for ten minutes ago')
    .option('--until <time>', 'up to then')
    .option('--verdict <verdict>', 'forwarded, dropped, audit, error; may be given again, as all that follow', collect)
    .option('--protocol <name>', 'dns, tcp, udp, icmp, ...', collect)
    .option('--dns-query <regex>', 'names that were asked (RE2)', collect)
    .option('--reply', 'answers only')
    .option('--no-reply', 'no answers')
  command.setOptionValue('reply', undefined)
  const what = { pod: 'NAMESPACE/NAME, NAMESPACE/ or /NAME', ip: 'address or prefix', fqdn: 'name, * for anything', label: 'label selector', identity: 'number', port: 'number' }
  for (const name of sided) {
    command.option(`--${name} <${name}>`, `either end: ${what[name]}`, collect)
    if (name !== 'fqdn') command.option(`--from-${name} <${name}>`, `where it came from`, collect)
    command.option(`--to-${name} <${name}>`, `where it went`, collect)
  }
  command
    .addHelpText('after', "\nExamples:\n  namegate observe -f --verdict dropped\n  namegate observe --from-pod shop/ --to-fqdn '*.example.com'\n  namegate observe --since 10m --protocol dns -o json")
    .action(async (given: ObserveOptions & { readonly api: string }) => observeCommand(given))
} // prettier-ignore
