// The command line: what there is, with which options. What a command does stands in its own file, loaded when it is asked for.
import { readFileSync } from 'node:fs'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { CacheRow, EndpointRow, IdentityRow, StatusView } from '../api/routes.ts'
import { defaultSettings, serverForms, serverFromText } from '../config.ts'
import { logLevels, type LogLevel } from '../log.ts'
import type { Server } from '../proxy/upstream.ts'
import { labelFromText } from '../run/labels.ts'
import { networks, type Network } from '../run/uplink.ts'
import { callApi, defaultApi } from './client.ts'
import { addCompletion } from './completion.ts'
import { confirm } from './confirm.ts'
import { formats, render, table, type Format } from './output.ts'
import { addObserve } from './observe.ts'
import { addWhy } from './why.ts'
import { addPolicy } from './policy.ts'
import { print } from './print.ts'
import { withProgress } from './progress.ts'

interface Asking {
  readonly api: string
  readonly output: Format
}

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}
/** The whole program; parse it with argv. */
export function makeProgram(): Command {
  const program = new Command('namegate')
    .description(
      'A DNS-aware egress firewall: policy by name and identity, enforced by the kernel before the answer leaves.',
    )
    .version(version)
    .showHelpAfterError('(--help shows what there is)')
    .configureHelp({ sortSubcommands: false })
    .enablePositionalOptions()
    .addHelpText(
      'after',
      `
Examples:
  namegate run --policy policy.yaml -- npm ci        a build step that reaches what the policy names, and nothing else
  namegate agent --config config.yaml                policies for the workloads of this machine
  namegate policy lint manifests/                    what policies probably do not mean to say
  namegate fqdn cache list -p '*.example.com'        who may reach what, because of which name, for how long
  namegate demo                                      see it work on a world of its own`,
    )
  program
    .command('agent')
    .description('enforce policies for the workloads of this machine')
    .requiredOption('--config <file>', 'configuration file (YAML)')
    .action(async ({ config }: { config: string }) => {
      const { agentCommand } = await import('./agent.ts')
      process.exitCode = await agentCommand(config, version)
    })
  withApi(
    program
      .command('restart')
      .description(
        'replace the agent by one of the code and configuration on disk, and wait until that is ready; no question is lost',
      ),
  )
    .addHelpText(
      'after',
      '\nExit status: 0 when the new one is ready; 1 when the one before it stays, and why, or when what follows is not ready within 2 minutes.',
    )
    .action(async ({ api }: Pick<Asking, 'api'>) => {
      const { restartCommand } = await import('./restart.ts')
      process.exitCode = await restartCommand(api)
    })
  addRun(program)
  program
    .command('demo')
    .description('the main job on a world of its own: two workloads, a policy, lookups and connections; then stays up')
    .option('--once', 'end after the table')
    .option('--verdicts-only', 'do not enforce: judge only, as without the rights for namespaces')
    .action(async (options: { once?: boolean; verdictsOnly?: boolean }) => {
      const { demoCommand } = await import('../demo/demo.ts')
      process.exitCode = await demoCommand({ once: options.once === true, verdictsOnly: options.verdictsOnly === true })
    })
  addObserve(program, withApi)
  addWhy(program, asking)
  addInspection(program)
  addCompletion(program)
  return program
}

const collect =
  <T>(read: (text: string) => T) =>
  (text: string, before: readonly T[] = []): T[] => [...before, read(text)]

function collectLabel(
  text: string,
  before: readonly (readonly [string, string])[] = [],
): (readonly [string, string])[] {
  const label = labelFromText(text)
  if ('fault' in label) throw new InvalidArgumentError(label.fault)
  if (before.some(([key]) => key === label[0])) throw new InvalidArgumentError(`label ${label[0]} is given twice`)
  return [...before, label]
}

function readServer(text: string): Server {
  const server = serverFromText(text)
  if (server === undefined) throw new InvalidArgumentError(`an upstream is ${serverForms}`)
  return server
}

function addRun(program: Command): void {
  program
    .command('run')
    .description('run one command in a network of its own, under the policies given and nothing else')
    .requiredOption('--policy <file>', 'CiliumNetworkPolicy manifests; may be given again', collect(String))
    .option('--label <key=value>', 'label of the workload, which policies select (default: app=run)', collectLabel)
    .option('--upstream <ip:port>', 'resolver to ask (default: those of /etc/resolv.conf)', collect(readServer))
    .addOption(new Option('--network <how>', 'how the workload reaches the network').choices([...networks]).default('auto'))
    .addOption(new Option('--summary <form>', 'what was denied, on stderr at the end').choices(['text', 'json', 'none']).default('text'))
    .addOption(new Option('--log <level>', 'log level').choices([...logLevels]).default('error'))
    .argument('<command...>', 'the command and its arguments, after --')
    .passThroughOptions()
    .addHelpText('after', '\nExample:\n  namegate run --policy policy.yaml -- npm ci\n\nExit status: that of the command; 125 when namegate itself fails.')
    .action(async (command: string[], o: { policy: string[]; label?: [string, string][]; upstream?: Server[]; network: Network; summary: 'text' | 'json' | 'none'; log: LogLevel }) => {
      const { runCommand } = await import('../run/run.ts')
      const labels = o.label ?? [['app', 'run'] as const]
      await runCommand({ policies: o.policy, labels, upstreams: o.upstream ?? [], network: o.network, summary: o.summary, logLevel: o.log, settings: defaultSettings(), command })
    })
} // prettier-ignore

/** Adds the options that every inspecting command has. */
function asking(command: Command): Command {
  return withApi(command).addOption(
    new Option('-o, --output <format>', 'how to print').choices([...formats]).default('table'),
  )
}

function withApi(command: Command): Command {
  return command.addOption(
    new Option('--api <place>', 'the agent: unix:PATH, http://HOST:PORT or https://HOST:PORT')
      .default(defaultApi)
      .env('NAMEGATE_API'),
  )
}

function addInspection(program: Command): void {
  const fqdn = program.command('fqdn').description('the allow cache of names')
  const cache = fqdn.command('cache').description('list or clean it')
  asking(cache.command('list').description('names, addresses and what is left of their TTL, by identity'))
    .option('-p, --matchpattern <pattern>', 'only names that match, as toFQDNs matchPattern does')
    .option('-c, --cidr <prefix>', 'only addresses inside')
    .option('-i, --identity <number>', 'only this identity')
    .option('-s, --source <source>', 'only from this source (lookup; connection: kept by one)')
    .action(async ({ api, output, ...filters }: Asking & Record<string, string>) => {
      const rows = (await withProgress((tell) => callApi(api, 'GET', `/v1/fqdn/cache${query(filters)}`, (characters) => tell({ what: 'receiving leases, kB', done: Math.round(characters / 1000) })))) as CacheRow[]
      const head = ['Endpoint', 'Identity', 'Source', 'FQDN', 'TTL', 'Remaining', 'ExpirationTime', 'IPs']
      const cells = (row: CacheRow): string[] => [String(row['endpoint-id']), String(row.identity), row.source, row.fqdn, String(row.ttl), `${row['remaining-seconds']}s`, row['expiration-time'], row.ips.join(',')]
      await print(render(output, rows, () => table(head, rows.map(cells))))
    })
  asking(cache.command('clean').description('take leases out of the cache and the kernel'))
    .option('-p, --matchpattern <pattern>', 'only names that match (default: all)')
    .option('-f, --force', 'do not ask')
    .action(async ({ api, output, matchpattern, force }: Asking & { matchpattern?: string; force?: boolean }) => {
      if (force !== true && !(await confirm(process.stdin, process.stderr, `Clean ${matchpattern ?? 'all names'}?`))) {
        process.stderr.write(`nothing was cleaned${process.stdin.isTTY ? '' : ' (without a terminal, -f says that you mean it)'}\n`)
        process.exitCode = 1
        return
      }
      const answer = (await callApi(api, 'DELETE', `/v1/fqdn/cache${query({ matchpattern })}`)) as { deleted: number }
      await print(render(output, answer, () => `${answer.deleted} leases cleaned\n`))
    })

  const identity = program.command('identity').description('numbers for label sets')
  const identityTable = (rows: readonly IdentityRow[]): string => table(['Identity', 'Kernel', 'Labels'], rows.flatMap(({ id, labels }) => labels.map((label, i) => (i === 0 ? [String(id), `0x${id.toString(16)}`, label] : ['', '', label]))))
  asking(identity.command('list').description('identities in use, with their labels')).action(async ({ api, output }: Asking) => {
    const rows = (await callApi(api, 'GET', '/v1/identity')) as IdentityRow[]
    await print(render(output, rows, () => identityTable(rows)))
  })
  asking(identity.command('get').argument('<id>').description('one identity')).action(async (id: string, { api, output }: Asking) => {
    const row = (await callApi(api, 'GET', `/v1/identity/${encodeURIComponent(id)}`)) as IdentityRow
    await print(render(output, row, () => identityTable([row])))
  })
  const endpoint = program.command('endpoint').description('workloads')
  asking(endpoint.command('list').description('workloads with identity, addresses and policies')).action(async ({ api, output }: Asking) => {
    const rows = (await callApi(api, 'GET', '/v1/endpoint')) as EndpointRow[]
    const byDefault = (isDeny: boolean): string => (isDeny ? 'deny' : 'allow')
    const cells = (row: EndpointRow): string[] => [String(row.id), `${row.namespace}/${row.name}`, String(row.identity), byDefault(row['ingress-default-deny']), byDefault(row['egress-default-deny']), row.addresses.join(','), row.policies.join(',')]
    await print(render(output, rows, () => table(['Endpoint', 'Pod', 'Identity', 'Ingress', 'Egress', 'Addresses', 'Policies'], rows.map(cells))))
  })
  addPolicy(program, asking, version)
  asking(program.command('status').description('whether the agent does its job; exit status 1 when not')).action(async ({ api, output }: Asking) => {
    const view = (await callApi(api, 'GET', '/v1/status')) as StatusView
    const rows = Object.entries(view).map(([key, value]) => [key, Array.isArray(value) ? value.join('; ') || 'none' : String(value)])
    const refused = view.refused === 0 || output !== 'table' ? [] : ((await callApi(api, 'GET', '/v1/policy')) as { refused: string[] }).refused
    await print(render(output, view, () => table(['Status', view.ready ? 'ready' : 'not ready'], rows.slice(1)) + refusedText(refused)))
    if (!view.ready) process.exitCode = 1
  })
} // prettier-ignore

/** Of what is wrong with manifests, that many are shown; the rest is only counted. */
const refusedMax = 20

/** What is wrong with manifests that are not in force because of it. */
function refusedText(refused: readonly string[]): string {
  if (refused.length === 0) return ''
  const more = refused.length > refusedMax ? [`... and ${refused.length - refusedMax} more: namegate policy get -o json`] : [] // prettier-ignore
  const lines = [...refused.slice(0, refusedMax), ...more].map((line) => `  ${line}\n`)
  return `\nThe newest manifests are refused, and the policy before them stays in force:\n${lines.join('')}`
}

/** `?a=b&c=d` of what is given. */
function query(filters: Readonly<Record<string, string | undefined>>): string {
  const given = Object.entries(filters).filter((entry): entry is [string, string] => entry[1] !== undefined)
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`
}
