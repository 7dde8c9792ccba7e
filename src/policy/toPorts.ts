// Items of `toPorts`: protocols and ports, and what must hold above them.
import { checkServerName } from '../l7/sni.ts'
import { Protocol, type Ports } from '../net/ports.ts'
import { notEnforced, type Context } from './context.ts'
import {
  didYouMean,
  isAbsent,
  readInteger,
  readList,
  readMap,
  readString,
  readWord,
  type Field,
  type Report,
  type Strays,
} from './field.ts'
import { parseL7, readSecret } from './l7rules.ts'
import type { L7, Listener, Rule, RulePorts, TlsContext } from './rules.ts'

/** What one item says; a rule for itself, with the peers of the list's entry. */
export type PortStatement = Pick<
  Rule,
  'ports' | 'l7' | 'serverNames' | 'listener' | 'terminatingTLS' | 'originatingTLS'
>

const portRuleKeys = ['ports', 'rules', 'terminatingTLS', 'originatingTLS', 'serverNames', 'listener']
const ofPort = 'it stands in an item of ports'
const straysOfPortRule: Strays = {
  port: ofPort,
  protocol: ofPort,
  endPort: ofPort,
  http: 'it stands in rules',
  dns: 'it stands in rules',
}
const alone = 'a denial is about peers and ports alone'
const straysOfDeny: Strays = {
  ...straysOfPortRule,
  ...Object.fromEntries(portRuleKeys.slice(1).map((key) => [key, alone])),
}
const straysOfPort: Strays = Object.fromEntries(
  portRuleKeys.slice(1).map((key) => [key, 'it stands beside ports, not in its items']),
)
/** Cilium's limits for one item. */
const portsMax = 40
const serverNamesMax = 40

/** Reads an item; undefined when it contributes nothing, having no ports. */
export function parseToPorts(context: Context, field: Field): PortStatement | undefined {
  const { report, section } = context
  const fields =
    section.kind === 'deny'
      ? readMap(report, field, ['ports'], straysOfDeny)
      : readMap(report, field, portRuleKeys, straysOfPortRule)
  const part = (key: string): Field | undefined => (section.kind === 'deny' ? undefined : fields.get(key))
  const list = fields.get('ports')
  const items = readList(report, list)
  if (items.length > portsMax) report.error(list ?? field, `too many ports, the max is ${portsMax}`)
  const ports = items.map((item) => parsePort(context, item))

  const rules = part('rules')
  const l7 = isAbsent(rules) ? undefined : parseL7(context, rules)
  if (l7 !== undefined && rules !== undefined) checkL7(context, field, rules, l7, items.length > 0 ? ports : undefined)
  const terminatingTLS = parseTls(context, part('terminatingTLS'))
  const originatingTLS = parseTls(context, part('originatingTLS'))
  const serverNames = parseServerNames(context, part('serverNames'))
  if (serverNames.length > 0 && l7 !== undefined && terminatingTLS === undefined)
    report.error(field, 'ServerNames are not allowed with L7 rules without TLS termination')
  const listener = parseListener(context, part('listener'), l7 !== undefined)
  for (const key of portRuleKeys.slice(2)) {
    const extra = part(key)
    if (!isAbsent(extra)) notEnforced(context, extra, key)
  }

  const numbers = ports.flatMap((port) => port.ports)
  if (numbers.length === 0) return undefined
  return {
    ports: numbers,
    ...(l7 === undefined ? {} : { l7 }),
    ...(serverNames.length === 0 ? {} : { serverNames }),
    ...(listener === undefined ? {} : { listener }),
    ...(terminatingTLS === undefined ? {} : { terminatingTLS }),
    ...(originatingTLS === undefined ? {} : { originatingTLS }),
  }
}

/** An item of `ports` beside what it stands for: what rules of layer 7 may stand with. */
interface PortItem {
  readonly ports: readonly RulePorts[]
  /** As it is written; ANY when it is not. */
  readonly protocol: string
  readonly isZero: boolean
  readonly isRange: boolean
  readonly field: Field
}

/** Protocols without ports, by IANA number. */
const extendedProtocols: Readonly<Record<string, number>> = {
  VRRP: 112,
  IGMP: 2,
  GRE: 47,
  IPIP: 4,
  IPV6: 41,
  ESP: 50,
  AH: 51,
}
const portedProtocols: Readonly<Record<string, readonly Protocol[]>> = {
  TCP: [Protocol.TCP],
  UDP: [Protocol.UDP],
  SCTP: [Protocol.SCTP],
  ANY: [Protocol.TCP, Protocol.UDP, Protocol.SCTP],
}
const protocolWords = [...Object.keys(portedProtocols), ...Object.keys(extendedProtocols)]

function parsePort(context: Context, field: Field): PortItem {
  const { report } = context
  const fields = readMap(report, field, ['port', 'endPort', 'protocol'], straysOfPort)
  const protocol = readProtocol(report, fields.get('protocol'))
  const text = readString(report, fields.get('port')) ?? ''
  const at = fields.get('port') ?? field
  const endPort = readEndPort(report, fields.get('endPort'))
  const item = { protocol, isZero: false, isRange: false, field }
  const extended = extendedProtocols[protocol]
  if (extended !== undefined) {
    if (text !== '' && text !== '0') report.error(at, 'port must be empty or 0')
    return { ...item, isZero: text === '0', ports: [{ kind: 'protocol', protocol: extended }] }
  }
  const protocols = portedProtocols[protocol] ?? []
  if (text === '') {
    // A number without quotes is an issue already.
    if (isAbsent(fields.get('port')) || readsAsText(at)) report.error(at, 'port must be specified')
    return { ...item, ports: [] }
  }
  if (isServiceName(text)) {
    const end = namedEnd(context, fields.get('endPort'), endPort)
    return {
      ...item,
      ports: protocols.map((p) => ({ kind: 'named', name: text.toLowerCase(), protocol: p, endPort: end })),
    }
  }
  const first = readPortNumber(report, at, text)
  if (first === undefined) return { ...item, ports: [] }
  // Port 0 is any port, and an endPort that is not behind its port says nothing.
  const [low, high] = first === 0 ? [0, 65535] : [first, Math.max(first, endPort)]
  if (first > 0 && endPort > 0 && endPort < first)
    report.warn(fields.get('endPort') ?? at, `endPort ${endPort} is before port ${first}: it is this port only`)
  const ports = protocols.map((p): Ports => ({ kind: 'ports', protocol: p, first: low, last: high }))
  return { ...item, ports, isZero: first === 0, isRange: endPort > first }
}

const readsAsText = (field: Field): boolean => field.kind === 'scalar' && typeof field.value === 'string'

function readProtocol(report: Report, field: Field | undefined): string {
  const text = readString(report, field)
  if (text === undefined || field === undefined) return 'ANY'
  if (protocolWords.includes(text)) return text
  const upper = text.toUpperCase()
  // The agent does not mind the case, but the API server does.
  if (protocolWords.includes(upper))
    report.error(
      field,
      `Unsupported value: "${text}": supported values: ${protocolWords.map((w) => `"${w}"`).join(', ')}; did you mean "${upper}"?`,
    )
  else {
    const hint = upper.startsWith('ICMP') ? '; ICMP goes into icmps' : didYouMean(text, protocolWords)
    report.error(
      field,
      `invalid protocol "${upper}", must be { tcp | udp | sctp | vrrp | igmp | gre | ipip | ipv6 | esp | ah | any }${hint}`,
    )
  }
  return upper
}

function readEndPort(report: Report, field: Field | undefined): number {
  const endPort = readInteger(report, field) ?? 0
  if (field !== undefined && (endPort < 0 || endPort > 65535))
    report.error(field, `endPort must be 0 to 65535, not ${endPort}`)
  return endPort
}

/** On ingress a range goes on from the number that the name stands for; on egress each peer may have its own, and endPort is ignored. */
function namedEnd({ report, section }: Context, field: Field | undefined, endPort: number): number | undefined {
  if (endPort === 0 || field === undefined) return undefined
  if (section.direction === 'ingress') return endPort
  report.warn(field, 'endPort is ignored: on egress a named port is a single port')
  return undefined
}

/** An IANA service name (RFC 6335 §5.1): letters, digits and single hyphens inside, at least one letter. So `0x10` is a name. */
function isServiceName(text: string): boolean {
  const isLetter = (c: string): boolean => (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
  const isDigit = (c: string): boolean => c >= '0' && c <= '9'
  if (text.length > 15 || ![...text].some(isLetter)) return false
  return text.split('-').every((part) => part !== '' && [...part].every((c) => isLetter(c) || isDigit(c)))
}

/** What to write for `80-90`, `80,443` and `*`. */
function severalPorts(text: string): string {
  const parts = text.split(/[-:]/)
  const isNumber = (part: string): boolean => part !== '' && [...part].every((c) => c >= '0' && c <= '9')
  if (parts.length === 2 && parts.every(isNumber)) return `; a range is port: "${parts[0] ?? ''}" with endPort: ${parts[1] ?? ''}`
  if (text.includes(',') && text.split(',').every((part) => isNumber(part.trim()))) return '; each port is an item of its own'
  return text === '*' ? '; every port is "0", or no toPorts' : ''
} // prettier-ignore

/** A port number as Go's ParseUint reads it: `010` is octal, digits may be parted by underscores. */
function readPortNumber(report: Report, at: Field, text: string): number | undefined {
  const complain = (what: string): undefined => {
    report.error(at, `unable to parse port: strconv.ParseUint: parsing "${text}": ${what}${severalPorts(text)}`)
    return undefined
  }
  if (text.length > 32 || !text.split('_').every((part) => part !== '' && [...part].every((c) => c >= '0' && c <= '9')))
    return complain('invalid syntax')
  const digits = text.replaceAll('_', '')
  const octal = digits.startsWith('0')
  if (octal && [...digits].some((c) => c > '7')) return complain('invalid syntax')
  const number = octal ? Number(`0o${digits}`) : Number(digits)
  if (number > 65535) return complain('value out of range')
  if (octal && number !== Number(digits)) report.warn(at, `"${text}" is octal: port ${number}`)
  return number
}

/** What stands against rules of layer 7 where they are. `ports` undefined: the item names none. */
function checkL7(context: Context, field: Field, rules: Field, l7: L7, ports: readonly PortItem[] | undefined): void {
  const { report, section, subject } = context
  const name = { http: 'HTTP', kafka: 'Kafka', dns: 'DNS', l7: 'L7' }[l7.kind]
  const dns = l7.kind === 'dns'
  const ingress = section.direction === 'ingress'
  if (subject === 'node' && ingress) report.error(rules, 'L7 policy is not supported on host ingress yet')
  else if (ingress && dns) report.error(rules, 'L7 protocol DNS is not supported on ingress yet')
  else if (subject === 'node' && !dns) report.error(rules, `L7 protocol ${name} is not supported on host egress yet`)
  if (ingress && dns) report.error(field, 'DNS rules are not allowed on ingress')
  if (ports === undefined && dns) report.error(field, 'port 53 must be specified for DNS rules')
  for (const port of ports ?? []) {
    if (!dns && port.protocol !== 'TCP' && protocolWords.includes(port.protocol))
      report.error(port.field, `L7 rules can only apply to TCP (not ${port.protocol}) except for DNS rules`)
    if (dns && port.isRange) report.error(port.field, 'DNS rules do not support port ranges')
    if (port.isZero) report.error(port.field, 'L7 rules can not be used when a port is 0')
  }
  if (!dns) notEnforced(context, rules, `rules.${l7.kind}`)
}

function parseTls(context: Context, field: Field | undefined): TlsContext | undefined {
  if (isAbsent(field)) return undefined
  const { report } = context
  const fields = readMap(report, field, ['secret', 'trustedCA', 'certificate', 'privateKey'])
  const secret = readSecret(context, fields.get('secret'))
  if (secret === undefined) report.error(field, 'secret: Required value')
  const [trustedCA, certificate, privateKey] = ['trustedCA', 'certificate', 'privateKey'].map((key) =>
    readString(report, fields.get(key)),
  )
  return {
    secret: secret ?? '',
    ...(trustedCA === undefined ? {} : { trustedCA }),
    ...(certificate === undefined ? {} : { certificate }),
    ...(privateKey === undefined ? {} : { privateKey }),
  }
}

function parseServerNames(context: Context, field: Field | undefined): string[] {
  if (isAbsent(field)) return []
  const { report } = context
  const items = readList(report, field)
  if (field.kind === 'list' && items.length === 0)
    report.error(field, 'Invalid value: 0: serverNames in body should have at least 1 items')
  if (items.length > serverNamesMax)
    report.error(field, `Too many: ${items.length}: must have at most ${serverNamesMax} items`)
  const names = new Set<string>()
  for (const item of items) {
    const name = readString(report, item)
    if (name === undefined) continue
    const wrong = checkServerName(name)
    if (wrong !== undefined) report.error(item, wrong)
    if (names.has(name)) report.error(item, `Duplicate value: "${name}"`)
    names.add(name)
  }
  return [...names]
}

const configKinds = ['CiliumEnvoyConfig', 'CiliumClusterwideEnvoyConfig'] as const

function parseListener(context: Context, field: Field | undefined, besideL7: boolean): Listener | undefined {
  if (isAbsent(field)) return undefined
  const { report, section, meta } = context
  const fields = readMap(report, field, ['envoyConfig', 'name', 'priority'])
  const name = readString(report, fields.get('name')) ?? ''
  if (name === '') report.error(field, 'name: Required value')
  const config = fields.get('envoyConfig')
  const reference = isAbsent(config) ? undefined : readMap(report, config, ['kind', 'name'])
  const configName = readString(report, reference?.get('name')) ?? ''
  if (configName === '') report.error(config ?? field, 'envoyConfig.name: Required value')
  const kind =
    readWord(report, reference?.get('kind'), configKinds) ??
    (meta.namespace === undefined ? configKinds[1] : configKinds[0])
  if (meta.namespace === undefined && kind === 'CiliumEnvoyConfig')
    report.warn(field, `Listener "${name}" in CCNP can not use Kind CiliumEnvoyConfig`)
  const priority = readInteger(report, fields.get('priority'))
  if (priority !== undefined && (priority < 1 || priority > 100))
    report.error(fields.get('priority') ?? field, `priority must be 1 to 100, not ${priority}`)
  if (section.direction === 'ingress') report.error(field, `Listener is not allowed on ingress (${name})`)
  if (besideL7) report.error(field, `Listener is not allowed with L7 rules (${name})`)
  return { name, envoyConfig: `${kind}/${configName}`, priority }
}
