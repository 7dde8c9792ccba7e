// Checks about ports: a Service's port for the pods' (NG003), ranges the wrong way round (NG017), named ports that nobody defines (NG018),
// ICMP (NG022).
import { Protocol, protocolName } from '../../net/ports.ts'
import type { Field } from '../field.ts'
import { nearest } from '../field.ts'
import type { Rule, RulePorts, Service } from '../rules.ts'
import {
  at,
  fixOf,
  isCilium,
  itemsOf,
  itemsOfSpec,
  listed,
  nameOf,
  rulesOf,
  textOf,
  type Check,
  type Context,
  type Item,
  type Spec,
  type Workload,
} from './context.ts'

/** Where a port stands in an item of a list of ports, as the kinds of policy write it. */
const portPaths: readonly (readonly string[])[] = [
  ['port'],
  ['portNumber', 'port'],
  ['namedPort'],
  ['destinationNamedPort'],
  ...['tcp', 'udp', 'sctp'].map((protocol) => [protocol, 'destinationPort', 'number']),
]

/** The fields of an item that hold a port. */
function portFields({ field }: Item): { readonly field: Field; readonly text: string; readonly item: Field }[] {
  const ofCilium = itemsOf(at(field, 'toPorts')).flatMap((entry) => itemsOf(at(entry, 'ports')))
  return [...ofCilium, ...itemsOf(at(field, 'ports')), ...itemsOf(at(field, 'protocols'))].flatMap((item) =>
    portPaths.flatMap((path) => {
      const port = at(item, ...path)
      const text = textOf(port)
      return port === undefined || text === undefined ? [] : [{ field: port, text, item }]
    }),
  )
}

/** The rules that came of an item. */
function rulesOfItem(spec: Spec, { field, direction }: Item): readonly Rule[] {
  return rulesOf(spec.policy, direction).filter(({ path }) => path === field.path || path.startsWith(`${field.path}.`))
}

/** The workloads whose ports a rule is about: those that it leads to. Undefined when others may be meant too. */
function targetsOf(context: Context, spec: Spec, rules: readonly Rule[]): readonly Workload[] | undefined {
  const targets = new Set<Workload>()
  for (const rule of rules) {
    if (rule.direction === 'ingress') {
      if (spec.policy === undefined || spec.policy.subject.kind === 'node') return undefined
      for (const workload of context.selected(spec.policy.subject.selector)) targets.add(workload)
      continue
    }
    if (rule.peers === 'everyone') return undefined
    for (const peer of rule.peers) {
      if (peer.kind !== 'endpoints') return undefined
      for (const workload of context.selected(peer.selector)) targets.add(workload)
    }
  }
  return [...targets]
}

const isDigits = (text: string): boolean => text !== '' && [...text].every((c) => c >= '0' && c <= '9')

const selectsPod = ({ selector, namespace }: Service, { pod }: Workload): boolean =>
  selector !== undefined &&
  namespace === pod.namespace &&
  [...selector].every(([key, value]) => pod.labels.get(key) === value)

const listensOn = ({ pod }: Workload, port: number): boolean =>
  pod.containerPorts.some((declared) => declared.port === port)

/** NG003: policy sees ports after service translation. */
const servicePorts: Check = (context, say) => {
  for (const spec of context.specs)
    for (const item of itemsOfSpec(spec)) {
      const targets = targetsOf(context, spec, rulesOfItem(spec, item)) ?? []
      for (const { field, text, item: entry } of portFields(item)) {
        const number = isDigits(text) ? Number(text) : 0
        if (number === 0 || targets.length === 0 || targets.some((target) => listensOn(target, number))) continue
        if (Number(textOf(at(entry, 'endPort')) ?? 0) > number) continue
        const service = context.world?.services.find(
          (s) =>
            s.ports.some(({ port, targetPort }) => port === number && targetPort !== number) &&
            targets.some((target) => selectsPod(s, target)),
        )
        const target = service?.ports.find(({ port }) => port === number)?.targetPort
        if (service !== undefined && target !== undefined)
          say('NG003', spec, field, {
            severity: 'warning',
            message: `${number} is the port of Service ${service.namespace}/${service.name}; policy sees the pods' port, which is ${target}`,
            hint: `write "${target}"`,
            fix: fixOf(`port ${target}`, context.sources.replaceScalar(field, String(target))),
          })
        else if (targets.every(({ pod }) => pod.containerPorts.length > 0))
          say('NG003', spec, field, {
            severity: 'note',
            message: `none of the pods that this is about (${listed(targets.map(nameOf))}) declares port ${number}`,
          })
      }
    }
}

/** NG017: Cilium takes a range that ends before it begins for its first port. */
const ranges: Check = (context, say) => {
  for (const spec of context.specs)
    for (const item of isCilium(spec) ? itemsOfSpec(spec) : [])
      for (const { text, item: entry } of portFields(item)) {
        const end = at(entry, 'endPort')
        const last = Number(textOf(end) ?? 0)
        if (end === undefined || last === 0 || !isDigits(text) || last > Number(text)) continue
        say('NG017', spec, end, {
          severity: 'warning',
          message: `endPort ${last} is not above port ${text}: only port ${text} is meant by this`,
          hint: 'write the smaller one as port',
        })
      }
}

/** NG018. Without workloads at hand nobody knows. */
const namedPorts: Check = (context, say) => {
  for (const spec of context.specs)
    for (const item of itemsOfSpec(spec)) {
      const rules = rulesOfItem(spec, item)
      const targets = targetsOf(context, spec, rules) ?? (item.direction === 'egress' ? context.workloads : [])
      const told = new Set<string>()
      for (const { field, text } of portFields(item)) {
        if (isCilium(spec) && ['any', 'all'].includes(text.toLowerCase()))
          say('NG018', spec, field, {
            severity: 'warning',
            message: `"${text}" is a port of that name, not every port`,
            hint: 'every port is "0"; without toPorts a rule is about every port and protocol',
            fix: fixOf('every port', context.sources.replaceScalar(field, '0')),
          })
        const named = rules
          .flatMap((rule) => rule.ports)
          .filter(
            (port): port is RulePorts & { kind: 'named' } => port.kind === 'named' && port.name === text.toLowerCase(),
          )
        if (named.length === 0 || targets.length === 0 || told.has(field.path)) continue
        const defined = (port: { name: string; protocol: Protocol }): boolean =>
          targets.some(({ pod }) =>
            pod.ports.some(({ name, protocol }) => name === port.name && protocol === port.protocol),
          )
        if (named.some(defined)) continue
        told.add(field.path)
        const names = [...new Set(targets.flatMap(({ pod }) => pod.ports.map(({ name }) => name)))]
        const other = targets.flatMap(({ pod }) => pod.ports).find(({ name }) => name === text)
        const near = other === undefined ? nearest(text, names) : undefined
        say('NG018', spec, field, {
          severity: 'error',
          message:
            other === undefined
              ? `no pod that this is about (${listed(targets.map(nameOf))}) names a port "${text}": the rule matches nothing`
              : `"${text}" is a port of ${protocolName(other.protocol).toUpperCase()} in ${listed(targets.map(nameOf))}: the rule matches nothing`,
          ...(names.length === 0
            ? {}
            : { hint: near === undefined ? `named ports there: ${listed(names, 8)}` : `did you mean "${near}"?` }),
          fix: near === undefined ? undefined : fixOf(`port ${near}`, context.sources.replaceScalar(field, near)),
        })
      }
    }
}

const letsIcmp = (rule: Rule): boolean =>
  rule.kind === 'allow' && rule.ports.some(({ kind }) => kind === 'all' || kind === 'icmp' || kind === 'protocol')

/** NG022. */
const icmp: Check = (context, say) => {
  for (const spec of context.specs)
    for (const direction of ['ingress', 'egress'] as const) {
      const { policy } = spec
      if (policy === undefined || !policy.defaultDeny[direction]) continue
      const rules = rulesOf(policy, direction).filter(({ kind }) => kind === 'allow')
      const ported = rules.find((rule) => !letsIcmp(rule))
      if (ported === undefined) continue
      const others = context.around(policy)
      if (others.some((other) => rulesOf(other, direction).some(letsIcmp))) continue
      const own = itemsOfSpec(spec).filter((item) => item.direction === direction)
      const any = own.some((item) =>
        itemsOf(at(item.field, 'toPorts')).some((entry) =>
          itemsOf(at(entry, 'ports')).some((port) => textOf(at(port, 'protocol'))?.toUpperCase() === 'ANY'),
        ),
      )
      say('NG022', spec, context.fieldAt(spec, ported.path), {
        severity: 'note',
        message: `${direction} is allowed by ports only: ping and other ICMP are denied${any ? ' (protocol ANY is TCP, UDP and SCTP)' : ''}`,
        hint: isCilium(spec)
          ? 'where ping is wanted, a rule of its own: icmps: [{fields: [{type: EchoRequest, family: IPv4}]}]'
          : 'a rule without ports lets every protocol through',
      })
    }
}

export const portChecks: readonly Check[] = [servicePorts, ranges, namedPorts, icmp]
