// `namegate policy get PATH...`: the policies of manifests, whom they select and what they turn on.
import { portsToText } from '../net/ports.ts'
import { issueToText } from '../policy/field.ts'
import { selects } from '../identity/selector.ts'
import type { Direction, Policy, Rule, RulePorts, World } from '../policy/rules.ts'
import type { Snapshot } from '../policy/snapshot.ts'
import type { Reading } from './manifests.ts'
import { render, table, type Format } from './output.ts'
import { print } from './print.ts'
import { readWorld } from './verdict.ts'

/** Prints the policies; resolves with the exit status. */
export async function getCommand(
  paths: readonly string[],
  options: Reading & { readonly output: Format },
): Promise<number> {
  const { world, snapshot, warnings } = await readWorld(paths, { ...options, hostPolicies: true })
  for (const issue of warnings) process.stderr.write(`${issueToText(issue)}\n`)
  const views = world.policies.map((policy) => viewOf(policy, world, snapshot))
  const head = ['Kind', 'Policy', 'Selects', 'Ingress', 'Egress', 'Default deny', 'File']
  const rows = views.map((view) => [
    view.kind,
    view.name,
    selectsText(view),
    rulesText(view.ingress),
    rulesText(view.egress),
    denyText(view),
    `${view.file}:${view.line}`,
  ])
  await print(render(options.output, views, () => table(head, rows)))
  return 0
}

interface DirectionView {
  /** Whether the policy says anything about this direction. */
  readonly selected: boolean
  readonly 'default-deny': boolean
  readonly allow: number
  readonly deny: number
  readonly pass: number
  readonly rules: readonly RuleView[]
}

interface RuleView {
  readonly rule: string
  readonly line: number
  readonly kind: Rule['kind']
  readonly tier: number
  readonly priority: number
  readonly peers: 'everyone' | readonly string[]
  readonly ports: readonly string[]
  readonly l7?: string
}

interface View {
  readonly kind: Policy['kind']
  readonly name: string
  readonly file: string
  readonly line: number
  readonly subject: 'endpoints' | 'node'
  /** `namespace/name` of pods and workloads; 'this host' of a node policy. */
  readonly selects: readonly string[]
  readonly ingress: DirectionView
  readonly egress: DirectionView
}

function viewOf(policy: Policy, world: World, { endpoints }: Snapshot): View {
  const { kind, name, file, line, subject } = policy
  const selected =
    subject.kind === 'node'
      ? ['nodes']
      : endpoints
          .filter((endpoint, i) => world.pods[i]?.hostNetwork !== true && selects(subject.selector, endpoint.labels))
          .map((endpoint) => `${endpoint.namespace}/${endpoint.name}`)
  return {
    kind,
    name,
    file,
    line,
    subject: subject.kind,
    selects: selected,
    ingress: directionOf(policy, 'ingress'),
    egress: directionOf(policy, 'egress'),
  }
}

function directionOf({ rules, directions, defaultDeny }: Policy, direction: Direction): DirectionView {
  const own = rules.filter((rule) => rule.direction === direction)
  // A rule as it is written may be several here, one for each toPorts item.
  const count = (kind: Rule['kind']): number =>
    new Set(own.filter((rule) => rule.kind === kind).map(({ path }) => path)).size
  return {
    selected: directions.includes(direction),
    'default-deny': defaultDeny[direction],
    allow: count('allow'),
    deny: count('deny'),
    pass: count('pass'),
    rules: own.map(ruleOf),
  }
}

function ruleOf({ path, line, kind, tier, priority, peers, ports, l7, serverNames }: Rule): RuleView {
  const above = l7?.kind ?? (serverNames === undefined ? undefined : 'sni')
  return {
    rule: path,
    line,
    kind,
    tier,
    priority,
    peers: peers === 'everyone' ? 'everyone' : peers.map((peer) => peer.path),
    ports: ports.map(portText),
    ...(above === undefined ? {} : { l7: above }),
  }
}

function portText(ports: RulePorts): string {
  if (ports.kind !== 'named') return portsToText(ports)
  return ports.endPort === undefined ? ports.name : `${ports.name}-${ports.endPort}`
}

function selectsText({ selects: names }: View): string {
  if (names.length === 0) return 'nobody here'
  return names.length <= 3 ? names.join(',') : `${names.slice(0, 2).join(',')} +${names.length - 2}`
}

function rulesText({ selected, allow, deny, pass }: DirectionView): string {
  if (!selected) return '-'
  const parts = [
    ...(allow > 0 ? [`${allow} allow`] : []),
    ...(deny > 0 ? [`${deny} deny`] : []),
    ...(pass > 0 ? [`${pass} pass`] : []),
  ]
  return parts.length === 0 ? 'nothing' : parts.join(' ')
}

function denyText({ ingress, egress }: View): string {
  const on = [...(ingress['default-deny'] ? ['ingress'] : []), ...(egress['default-deny'] ? ['egress'] : [])]
  return on.length === 0 ? '-' : on.join(',')
}
