// `namegate policy`: what works on manifests without an agent (validate, lint, verdict, explain, get PATH), and `get` that asks the agent.
import { InvalidArgumentError, Option, type Command } from 'commander'
import type { PolicyView } from '../api/routes.ts'
import type { Severity } from '../policy/lint/codes.ts'
import { callApi } from './client.ts'
import { reading, type Reading } from './manifests.ts'
import { formats, render, table, type Format } from './output.ts'
import { print } from './print.ts'
import type { Enforcing } from './verdict.ts'

interface Output {
  readonly output: Format
}

const output = (): Option => new Option('-o, --output <format>', 'how to print').choices([...formats]).default('table')

/** @param asking adds the options that every command has which asks an agent */
export function addPolicy(program: Command, asking: (command: Command) => Command, version: string): void {
  const policy = program.command('policy').description('policies: check them, ask them, look at them')
  addValidate(policy)
  addLint(policy, version)
  addVerdict(policy)
  addExplain(policy)
  addGet(policy, asking)
}

function addValidate(policy: Command): void {
  reading(
    policy
      .command('validate')
      .description('everything that is wrong with manifests; exit status 1 when an agent would refuse them'),
  )
    .argument('<path...>', 'files or folders of manifests; - for standard input')
    .addOption(output())
    .action(async (paths: string[], options: Reading & Output) => {
      const { validateCommand } = await import('./validate.ts')
      process.exitCode = await validateCommand(paths, options)
    })
}

function addLint(policy: Command, version: string): void {
  reading(
    policy
      .command('lint')
      .description(
        'what is valid and probably not meant: the usual mistakes, each with a code and, where it can, a patch',
      ),
  )
    .argument('[path...]', 'files or folders of manifests; - for standard input')
    .addOption(new Option('-o, --output <format>', 'how to print').choices([...formats, 'sarif']).default('table'))
    .addOption(
      new Option('--level <severity>', 'the least that is shown').choices(['note', 'warning', 'error']).default('note'),
    )
    .addOption(
      new Option('--fail-on <severity>', 'the least that makes the exit status 1')
        .choices(['note', 'warning', 'error', 'never'])
        .default('error'),
    )
    .option('--patch', 'print what mends them instead, for: patch -p0')
    .option('--codes', 'list the codes')
    .addHelpText(
      'after',
      '\nExamples:\n  namegate policy lint manifests/ --fail-on warning\n  namegate policy lint --patch manifests/ | patch -p0\n\nAn annotation namegate.io/lint-ignore: NG010,NG022 leaves codes out for one policy.',
    )
    .action(
      async (
        paths: string[],
        options: Reading & {
          output: Format | 'sarif'
          level: Severity
          failOn: Severity | 'never'
          patch?: boolean
          codes?: boolean
        },
        command: Command,
      ) => {
        const { lintCommand, listCodes } = await import('./lint.ts')
        if (options.codes === true) await print(listCodes(options.output === 'sarif' ? 'json' : options.output))
        else if (paths.length === 0) command.error("error: missing required argument 'path'")
        else process.exitCode = await lintCommand(paths, options, version)
      },
    )
}

/** Options that describe one flow; as JSON they are the fields of a flow. */
interface FlowFlags {
  readonly from?: string
  readonly to?: string
  readonly protocol?: string
  readonly port?: string
  readonly icmpType?: string
  readonly sni?: string
  readonly dns?: string
  readonly http?: unknown
  readonly kafka?: unknown
  readonly resolved?: Record<string, string[]>
}

interface Asking extends Reading, Enforcing, FlowFlags {
  readonly manifests: string[]
}

const collect = (text: string, before: readonly string[] = []): string[] => [...before, text]

function readJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    throw new InvalidArgumentError(`not JSON: ${(error as Error).message}`)
  }
}

function collectResolved(text: string, before: Record<string, string[]> = {}): Record<string, string[]> {
  const equals = text.indexOf('=')
  if (equals < 1) throw new InvalidArgumentError('it is NAME=IP[,IP...]')
  const name = text.slice(0, equals)
  return { ...before, [name]: [...(before[name] ?? []), ...text.slice(equals + 1).split(',')] }
}

/** Options of the commands that decide flows. */
function deciding(command: Command): Command {
  return reading(command)
    .option('-m, --manifests <path>', 'file or folder of manifests; may be given again', collect)
    .addOption(
      new Option('--enforcement <mode>', 'as enable-policy of Cilium')
        .choices(['default', 'always', 'never'])
        .default('default'),
    )
    .option('--no-allow-localhost', 'the host does not reach its pods unless a rule says so')
    .option('--audit', 'denials are noted, and let through')
    .option('--host-policies', 'policies with a nodeSelector hold for the local node')
    .option('--from <party>', 'NAMESPACE/NAME or an IP address')
    .option('--to <party>', 'NAMESPACE/NAME, an IP address or fqdn:NAME')
    .option('--protocol <protocol>', 'TCP, UDP, SCTP, ICMP, ICMPv6, or a number (default: TCP)')
    .option('--port <port>', 'port of the destination, by number or name')
    .option('--icmp-type <type>', 'type of ICMP (default: that of a ping)')
    .option('--resolved <name=ip,...>', 'addresses that a name leads to; may be given again', collectResolved)
    .option('--sni <name>', 'server name of a TLS connection')
    .option('--dns <name>', 'name that is asked')
    .option('--http <json>', 'request: {"method", "path", "host", "headers"}', readJson)
    .option('--kafka <json>', 'request: {"apiKey", "apiVersion", "clientID", "topics"}', readJson)
}

const flowOf = ({ from, to, protocol, port, icmpType, sni, dns, http, kafka, resolved }: FlowFlags): FlowFlags =>
  ({ from, to, protocol, port, icmpType, sni, dns, http, kafka, resolved }) as FlowFlags

/** Where manifests are: by option, or as arguments. */
function placesOf(paths: readonly string[], { manifests = [] }: Partial<Asking>, command: Command): readonly string[] {
  const places = [...paths, ...manifests]
  if (places.length === 0) command.error("error: required option '-m, --manifests <path>' not specified")
  return places
}

function addVerdict(policy: Command): void {
  deciding(policy.command('verdict').description('what becomes of flows under the policies of manifests'))
    .argument('[path...]', 'files or folders of manifests')
    .option(
      '--flows <file>',
      'flows, a JSON object each line; - for standard input (the default, unless --from says what flow)',
    )
    .addOption(
      new Option('-o, --output <format>', 'how to print the answer to one flow; flows are answered a JSON line each')
        .choices([...formats])
        .default('table'),
    )
    .addHelpText(
      'after',
      `
A flow: {"from": "shop/web", "to": "fqdn:api.example.com", "protocol": "TCP", "port": 443, "resolved": {"api.example.com": ["198.51.100.1"]}}
also with "icmpType", "http": {"method", "path", "host", "headers"}, "sni", "dns", "kafka": {"apiKey", "topics"}.

Examples:
  namegate policy verdict --manifests k8s/ --from shop/web --to shop/db --port 5432
  namegate policy verdict --manifests k8s/ --flows flows.jsonl`,
    )
    .action(async (paths: string[], options: Asking & Output & { flows?: string }, command: Command) => {
      const { answerFlows, answerOne, readWorld } = await import('./verdict.ts')
      const { makeAnswerer } = await import('./flow.ts')
      const isOne = options.from !== undefined || options.to !== undefined
      if (isOne && options.flows !== undefined) command.error('error: --flows and --from/--to exclude each other')
      const { world, snapshot } = await readWorld(placesOf(paths, options, command), options)
      const answer = makeAnswerer(world, snapshot)
      process.exitCode = await (isOne
        ? answerOne(flowOf(options), answer, options.output)
        : answerFlows(options.flows ?? '-', answer))
    })
}

function addExplain(policy: Command): void {
  deciding(policy.command('explain').description('one flow, and every step that leads to its verdict'))
    .argument('[path...]', 'files or folders of manifests')
    .option('--flow <json>', 'the flow as JSON, instead of the options', readJson)
    .addOption(output())
    .addHelpText(
      'after',
      '\nExample:\n  namegate policy explain --manifests k8s/ --from shop/web --to 198.51.100.1 --port 443',
    )
    .action(async (paths: string[], options: Asking & Output & { flow?: unknown }, command: Command) => {
      const { explainCommand, readWorld } = await import('./verdict.ts')
      const { world, snapshot } = await readWorld(placesOf(paths, options, command), options)
      process.exitCode = await explainCommand(options.flow ?? flowOf(options), world, snapshot, options.output)
    })
}

function addGet(policy: Command, asking: (command: Command) => Command): void {
  asking(
    reading(
      policy
        .command('get')
        .description(
          'with PATH the policies of manifests; without, those in force at the agent, and what is wrong with a newer set',
        ),
    ),
  )
    .argument('[path...]', 'files or folders of manifests; - for standard input')
    .action(async (paths: string[], options: Reading & Output & { api: string }) => {
      if (paths.length > 0) {
        const { getCommand } = await import('./get.ts')
        process.exitCode = await getCommand(paths, options)
      } else await printInForce(options.api, options.output)
    })
}

async function printInForce(api: string, format: Format): Promise<void> {
  const view = (await callApi(api, 'GET', '/v1/policy')) as PolicyView
  const rows = view.policies.map((p) => [
    p.kind,
    p.name,
    String(p['ingress-rules']),
    String(p['egress-rules']),
    p.endpoints.join(','),
    p.file,
  ])
  const notes = [...view.refused.map((text) => `refused: ${text}\n`), ...view.warnings.map((text) => `${text}\n`)].join(
    '',
  )
  await print(
    render(
      format,
      view,
      () =>
        `Revision: ${view.revision}\n${table(['Kind', 'Policy', 'Ingress', 'Egress', 'Endpoints', 'File'], rows)}${notes}`,
    ),
  )
}
