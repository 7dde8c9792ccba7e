// The agent's configuration file: YAML, checked as a whole, every issue with its place.
import { validateHeaderName, validateHeaderValue } from 'node:http'
import { hostname } from 'node:os'
import { LineCounter, parseDocument, visit, type Node } from 'yaml'
import { z } from 'zod'
import type { AgentSettings } from './settings.ts'
import type { ApiPlaces } from './api/serve.ts'
import { podLabelKey } from './identity/relevant.ts'
import { namespaceKey, type Selector } from './identity/selector.ts'
import { logLevels, type LogLevel } from './log.ts'
import { addressFromText, addressToText, familyOf, type Family } from './net/address.ts'
import { prefixFromText } from './net/prefix.ts'
import type { ExportSettings } from './observe/export.ts'
import { compileFilters, type FlowFilter } from './observe/filters.ts'
import type { OtlpSettings } from './observe/otlp.ts'
import { capacityDefault, capacityMax, isCapacity } from './observe/ring.ts'
import { nearest, type Issue } from './policy/field.ts'
import type { Listener } from './proxy/listen.ts'
import type { Server } from './proxy/upstream.ts'
import { readDenyReplies } from './policy/denyReply.ts'
import { wireFromText } from './wire/name.ts'

export interface Config {
  readonly manifests: string
  readonly listeners: readonly Listener[]
  /** Empty: those of /etc/resolv.conf. */
  readonly upstreams: readonly Server[]
  /** Empty: those of this host's interfaces. */
  readonly hostAddresses: readonly string[]
  readonly enforce: 'kernel' | 'none'
  readonly api: ApiPlaces
  readonly observe: {
    /** The NFLOG group by which the kernel tells of packets; undefined: it does not. */
    readonly logGroup: number | undefined
    readonly capacity: number
    readonly cluster: string
    readonly node: string
    readonly hubbleMetrics: boolean
    readonly exports: readonly ExportSettings[]
    /** The collector that flows are sent to as logs. */
    readonly otlp: OtlpSettings | undefined
    readonly hubble: {
      readonly listen: readonly string[]
      readonly certificate: string | undefined
      readonly key: string | undefined
      readonly clientCa: string | undefined
    }
  }
  /** What goes on when the agent's process dies: see `restart` of the schema. */
  readonly restart: 'standby' | 'cold' | 'none'
  readonly logLevel: LogLevel
  /** Where leases are written down for the next agent. */
  readonly journal: string | undefined
  readonly settings: AgentSettings
}

/** What `serverFromText` takes, for messages. */
export const serverForms =
  'IP:PORT, [IPv6]:PORT or an IP address (in brackets, with its port, where it could be read either way)'

/**
 * `IP:PORT`, `[IPv6]:PORT`, or an address alone (port 53). Undefined when it is none of these, or has a zone, which would be lost, or when
 * what is an IPv6 address would be another with a port as well: `::1:53`.
 */
export function serverFromText(text: string): Server | undefined {
  if (text.includes('%')) return undefined
  const bare = addressFromText(text)
  if (bare !== undefined) return familyOf(bare) === 6 && readsAsPort(text) ? undefined : { address: bare, port: 53 }
  const colon = text.lastIndexOf(':')
  const host = text.slice(0, colon)
  const address = addressFromText(host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host)
  const port = portFromText(text.slice(colon + 1))
  if (address === undefined || port === undefined || (familyOf(address) === 6 && !host.startsWith('[')))
    return undefined
  return { address, port }
}

/** `1.20`, in quotes: YAML reads it as a number else. */
function versionFromText(text: string): readonly [number, number] | undefined {
  const parts = text.split('.')
  const isNumber = (part: string): boolean =>
    part !== '' && part.length < 6 && [...part].every((c) => c >= '0' && c <= '9')
  if (parts.length !== 2 || !parts.every(isNumber)) return undefined
  return [Number(parts[0]), Number(parts[1])]
}

function portFromText(text: string): number | undefined {
  const port = text !== '' && [...text].every((c) => c >= '0' && c <= '9') ? Number(text) : 0
  return port < 1 || port > 65535 ? undefined : port
}

/** Whether an address without its last group is one, and that group a port. */
function readsAsPort(text: string): boolean {
  const colon = text.lastIndexOf(':')
  return portFromText(text.slice(colon + 1)) !== undefined && addressFromText(text.slice(0, colon)) !== undefined
}

const checked = <T>(read: (text: string) => T | undefined, what: string) =>
  z.string().transform((text, context): T => {
    const value = read(text)
    if (value === undefined) {
      context.addIssue({ code: 'custom', message: `"${text}" is not ${what}` })
      return z.NEVER
    }
    return value
  })
const address = checked((text) => (addressFromText(text) === undefined ? undefined : text), 'an IP address')
const server = checked(serverFromText, serverForms)
const name = checked((text) => (wireFromText(text) === undefined ? undefined : text), 'a domain name')
/** Names of PEM files. */
const tlsFiles = z.strictObject({
  certificate: z.string().min(1),
  key: z.string().min(1),
  clientCa: z.string().min(1).optional(),
})
/** A server by its address, or with what is to be said of the way to it. */
const upstream = z.union([
  server,
  z
    .strictObject({
      address: server,
      transport: z.enum(['tcp', 'tls']).optional(),
      serverName: name.optional(),
      caFile: z.string().min(1).optional(),
    })
    .transform(({ address: { address, port }, transport, serverName, caFile }): Server => ({
      address,
      // The port of DNS over TLS (RFC 7858 §3.1), where none is given.
      port: transport === 'tls' && port === 53 ? 853 : port,
      ...(transport === undefined ? {} : { transport }),
      ...(serverName === undefined ? {} : { serverName }),
      ...(caFile === undefined ? {} : { caFile }),
    })),
])
const prefix = checked(prefixFromText, 'a prefix such as 10.0.0.0/8')
/** As nft takes it between quotes: no quote, no blank, at most 15 characters, `*` only at the end. */
const isInterface = (text: string): boolean => {
  const name = text.endsWith('*') ? text.slice(0, -1) : text
  return name.length >= 1 && text.length <= 15 && [...name].every((c) => c > ' ' && c <= '~' && !'"*/\\'.includes(c))
}
const interfaceName = checked((text) => (isInterface(text) ? text : undefined), 'an interface name (it may end in *)')
const isTable = (text: string): boolean =>
  [...text].every((c, i) => (c >= 'a' && c <= 'z') || c === '_' || (i > 0 && c >= '0' && c <= '9'))
const table = checked(
  (text) => (text.length > 0 && text.length <= 64 && isTable(text) ? text : undefined),
  'a table name (a-z, 0-9, _)',
)
const isHttpUrl = (text: string): boolean => URL.canParse(text) && ['http:', 'https:'].includes(new URL(text).protocol)
function isHeader(name: string, value: string): boolean {
  try {
    validateHeaderName(name)
    validateHeaderValue(name, value)
    return true
  } catch {
    return false
  }
}

interface FilterLists {
  readonly allow: readonly FlowFilter[]
  readonly deny: readonly FlowFilter[]
}
function checkFilters({ allow, deny }: FilterLists, context: z.RefinementCtx): void {
  for (const [path, list] of Object.entries({ allow, deny })) {
    const filters = compileFilters(list, [], { cluster: '', node: '' })
    if (!filters.ok) context.addIssue({ code: 'custom', path: [path], message: filters.error })
  }
}

const isHubblePlace = (text: string): boolean =>
  text.startsWith('unix:/') ? text.length < 108 : serverFromText(text) !== undefined && !text.startsWith('unix:')
const isLoopback = (text: string): boolean =>
  text.startsWith('127.') || addressFromText(text) === addressFromText('::1')
/** Whether nobody but this machine's own processes gets there. */
const isLocal = (text: string): boolean =>
  text.startsWith('unix:') || text.startsWith('127.') || text.startsWith('[::1]:')
const version = checked(versionFromText, 'a version such as 1.20')
const count = (fallback: number, min = 0, max = 2 ** 31 - 1) => z.number().int().min(min).max(max).default(fallback)

const auditedEndpoint = z
  .strictObject({
    namespace: z.string().min(1).optional(),
    labels: z.record(z.string().min(1), z.string()).default({}),
  })
  .refine(
    ({ namespace, labels }) => namespace !== undefined || Object.keys(labels).length > 0,
    'must have a namespace or labels; all of them are policy.audit',
  ) // prettier-ignore
  .transform(({ namespace, labels }): Selector => [
    ...(namespace === undefined ? [] : [{ operator: 'In', key: namespaceKey, values: [namespace] } as const]),
    ...Object.entries(labels).map(([key, value]) => ({ operator: 'In', key: podLabelKey(key), values: [value] }) as const), // prettier-ignore
  ])

const schema = z.strictObject({
  /** Folder (or file) of Kubernetes manifests: Namespace, Pod, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy. Watched. */
  manifests: z.string().min(1),
  dns: z
    .strictObject({
      /** Workloads' port 53 is redirected to this port. */
      listen: z
        .array(z.strictObject({ address, port: count(10053, 1, 65535) }))
        .min(1)
        .refine(
          (listen) => listen.every(({ port }) => port === listen[0]?.port),
          'must all have one port: the kernel leads DNS to it',
        )
        .default([
          { address: '0.0.0.0', port: 10053 },
          { address: '::', port: 10053 },
        ]),
      upstreams: z.array(upstream).default([]),
      /** Names that other servers are asked for; the longest suffix counts. */
      routes: z
        .array(z.strictObject({ suffixes: z.array(name).min(1), upstreams: z.array(upstream).min(1) }))
        .default([]),
      timeoutMillis: count(1000, 10, 60_000),
      /** After this long another server is asked too. */
      hedgeMillis: count(300, 10, 60_000),
      deadlineMillis: count(4000, 10, 60_000),
      /** Names in random case over UDP; what becomes of a server that does not keep it. */
      mixCase: z.enum(['off', 'prefer', 'require']).default('off'),
      /** `nxdomain`, or by suffix: `refused, corp.example=nxdomain`. */
      denyReply: z
        .string()
        .default('refused')
        .superRefine((text, context) => {
          const replies = readDenyReplies(text)
          if (typeof replies === 'string') context.addIssue({ code: 'custom', message: replies })
        }),
      /** Its names stay within the cluster: they may lead to private addresses, and Kubernetes' search list is made of it. */
      clusterDomain: name.default('cluster.local'),
      /** Further search domains of workloads: an expansion of an allowed name is NXDOMAIN. */
      searchSuffixes: z.array(name).default([]),
      /** Answers in which a public name leads to a private, loopback, link-local, … address. */
      privateAnswers: z.enum(['refuse', 'strip', 'allow']).default('refuse'),
      /** Zones of one's own, whose names may. */
      privateSuffixes: z.array(name).default([]),
      /** Address hints in HTTPS and SVCB records. */
      serviceHints: z.enum(['lease', 'strip']).default('lease'),
      stripEch: z.boolean().default(false),
      refuseDoh: z.boolean().default(false),
      /** For each identity. */
      budgets: z
        .strictObject({
          queriesPerSecond: count(5000, 1),
          namesPerDomainPerMinute: count(1000, 1),
          nameOctetsPerMinute: count(200_000, 255),
          nxdomainShare: z.number().min(0).max(1).default(0.95),
          nxdomainFrom: count(500, 1),
        })
        .prefault({}),
      unknownEndpoint: z.enum(['deny', 'allow']).default('deny'),
      cache: z
        .strictObject({
          entries: count(100_000, 1, 10_000_000),
          octets: count(64 << 20, 1024),
          /** How long behind its TTL an answer is told when no upstream answers, where the asker's lease stands; 0: never. */
          staleSeconds: count(86_400, 0, 604_800),
          staleAfterMillis: count(1800, 10, 60_000),
          prefetch: z.boolean().default(true),
        })
        .prefault({}),
    })
    .prefault({}),
  leases: z
    .strictObject({
      graceSeconds: count(30, 1),
      ttlMinSeconds: count(0),
      ttlMaxSeconds: count(604_800, 1),
      addressesPerNameMax: count(4096, 1),
      /** How long a connection keeps an address open after TTL and grace. */
      zombieSecondsMax: count(86_400),
      /** A file that leases are written down in for the next agent; by default `/run/namegate/TABLE.leases`, null: none. */
      journal: z.string().min(1).nullable().optional(),
      leasesMax: count(1_000_000, 1),
      /** What leases may take in memory; by default 200 for each of `leasesMax`. */
      octetsMax: z.number().int().min(1024).optional(),
    })
    .refine(({ ttlMinSeconds, ttlMaxSeconds }) => ttlMinSeconds <= ttlMaxSeconds, {
      path: ['ttlMinSeconds'],
      error: 'is more than ttlMaxSeconds',
    })
    .prefault({}),
  datapath: z
    .strictObject({
      enforce: z.enum(['kernel', 'none']).default('kernel'),
      table: table.default('namegate'),
      denied: z.enum(['drop', 'reject']).default('drop'),
      /** Where workloads live. From there, a source address that no endpoint has is dropped. */
      interfaces: z.array(interfaceName).default([]),
      prefixes: z.array(prefix).default([]),
    })
    .prefault({}),
  policy: z
    .strictObject({
      /** Where the sources disagree: what the Kubernetes specification says, or what Cilium does. */
      semantics: z.enum(['spec', 'cilium']).default('spec'),
      ciliumVersion: version.default([1, 20]),
      clusterName: z.string().min(1).max(32).default('default'),
      /** `always`: who is selected by no policy is denied everything. `never`: policies do nothing. */
      enforcement: z.enum(['default', 'always', 'never']).default('default'),
      allowLocalhost: z.boolean().default(true),
      /** Denials are noted, and let through. */
      audit: z.boolean().default(false),
      /** The same for some workloads: those of a namespace, or with all of these labels, or both. */
      auditEndpoints: z.array(auditedEndpoint).default([]),
      /** Policies with a nodeSelector hold for this machine's own traffic. */
      hostPolicies: z.boolean().default(false),
      /** How long established connections go on that policy does not allow any more. */
      drainSeconds: count(0, 0, 86_400),
    })
    .prefault({}),
  host: z.strictObject({ addresses: z.array(address).default([]), node: z.string().min(1).optional() }).prefault({}),
  api: z
    .strictObject({
      socket: z.string().min(1).nullable().default('/run/namegate/api.sock'),
      address: address.default('127.0.0.1'),
      port: z.number().int().min(0).max(65535).nullable().default(9653),
      /** Over TCP the token in it must be shown. */
      tokenFile: z.string().min(1).optional(),
      /** Serves HTTPS; with a client CA only to clients that show a certificate of it. */
      tls: tlsFiles.optional(),
    })
    .refine(
      ({ address: text, port, tokenFile, tls }) =>
        isLoopback(text) || port === null || tokenFile !== undefined || tls?.clientCa !== undefined,
      {
        path: ['address'],
        error: 'elsewhere than on loopback, tokenFile or tls.clientCa is required',
      },
    ) // prettier-ignore
    .prefault({}),
  observe: z
    .strictObject({
      /** Flows kept, 2^n-1. */
      flows: z
        .number()
        .int()
        .refine(isCapacity, { error: `must be 2^n-1 and at most ${capacityMax}` })
        .default(capacityDefault),
      /** Metrics by Hubble's and Cilium's names too, for dashboards that are there. */
      hubbleMetrics: z.boolean().default(false),
      /** Flows as JSON lines in files. */
      export: z
        .array(
          z
            .strictObject({
              file: z.string().min(1),
              /** A file that would become larger is set aside as FILE.1, that as FILE.2, … */
              megabytesMax: z.number().min(0.01).max(100_000).default(10),
              filesMax: count(5, 1, 1000),
              allow: z.array(z.record(z.string(), z.unknown())).default([]),
              deny: z.array(z.record(z.string(), z.unknown())).default([]),
              fields: z.array(z.string().min(1)).default([]),
            })
            .superRefine(checkFilters),
        )
        .refine((all) => new Set(all.map(({ file }) => file)).size === all.length, 'must all have files of their own')
        .default([]),
      /** Flows as OpenTelemetry logs, to a collector by OTLP over HTTP. */
      otlp: z
        .strictObject({
          url: checked((text) => (isHttpUrl(text) ? text : undefined), 'a URL such as http://127.0.0.1:4318/v1/logs'),
          headers: z.record(z.string(), z.string()).default({}),
          allow: z.array(z.record(z.string(), z.unknown())).default([]),
          deny: z.array(z.record(z.string(), z.unknown())).default([]),
        })
        .superRefine(checkFilters)
        .superRefine(({ headers }, context) => {
          for (const [name, value] of Object.entries(headers))
            if (!isHeader(name, value))
              context.addIssue({ code: 'custom', path: ['headers', name], message: 'is no HTTP header' })
        })
        .optional(),
      /** The NFLOG group by which the kernel tells of packets; null: it does not. */
      kernelGroup: z.number().int().min(0).max(65535).nullable().default(4244),
      /** Hubble's API: `unix:/PATH` or `ADDRESS:PORT`; elsewhere than on loopback only with a client CA. */
      hubble: z
        .strictObject({
          listen: z
            .array(checked((text) => (isHubblePlace(text) ? text : undefined), 'unix:/PATH or ADDRESS:PORT'))
            .default([]),
          tls: tlsFiles.optional(),
        })
        .refine(({ listen, tls }) => tls?.clientCa !== undefined || listen.every(isLocal), {
          path: ['listen'],
          error: 'elsewhere than on loopback or a unix socket, tls.clientCa is required',
        })
        .prefault({}),
    })
    .prefault({}),
  /**
   * When the process that answers dies or is replaced: another that has everything ready takes over (`standby`: twice the memory, DNS is back in tens
   * of milliseconds), one is started (`cold`: a second, and more with many policies), or none: there is one process only.
   */
  restart: z.enum(['standby', 'cold', 'none']).default('standby'),
  log: z.strictObject({ level: z.enum(logLevels).default('info') }).prefault({}),
})

export type ConfigResult =
  | { readonly ok: true; readonly config: Config; readonly warnings: readonly Issue[] }
  | { readonly ok: false; readonly issues: readonly Issue[] }

/** Reads a configuration file's text. `file` is its name in issues. */
export function parseConfig(text: string, file: string): ConfigResult {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true })
  const place = (offset: number): { file: string; line: number; column: number } => {
    const { line, col } = lines.linePos(offset)
    return { file, line, column: col }
  }
  if (document.errors.length > 0)
    return { ok: false, issues: document.errors.map((error) => ({ ...place(error.pos[0]), path: '', message: (error.message.split('\n')[0] ?? '').replace(/ at line .*$/, ''), severity: 'error' })) } // prettier-ignore
  const lost: Issue[] = []
  visit(document, {
    Alias: (_, alias) => {
      if (alias.resolve(document) === undefined) lost.push({ ...place(alias.range?.[0] ?? 0), path: '', message: `there is no anchor "${alias.source}" before this alias`, severity: 'error' }) // prettier-ignore
    },
  })
  if (lost.length > 0) return { ok: false, issues: lost }
  let value: unknown
  try {
    value = document.toJS() ?? {}
  } catch (error) {
    // Aliases of aliases that would unfold without end.
    return { ok: false, issues: [{ ...place(0), path: '', message: String(error), severity: 'error' }] }
  }
  const at = (path: readonly PropertyKey[]): number => {
    // A field that is missing has no place: its nearest ancestor has.
    for (let depth = path.length; depth >= 0; depth--) {
      const node = depth === 0 ? document.contents : (document.getIn(path.slice(0, depth), true) as Node | undefined)
      if (node?.range) return node.range[0]
    }
    return 0
  }
  const result = schema.safeParse(value, { error: sayWrong })
  if (result.success) {
    const warnings = gapsIn(result.data).map(([path, message]): Issue => ({ ...place(at(path)), path: pathText(path), message, severity: 'warning' })) // prettier-ignore
    return { ok: true, config: toConfig(result.data), warnings }
  }
  const issues = result.error.issues.flatMap((issue) => {
    const say = (path: readonly PropertyKey[], message: string): Issue => ({ ...place(at(path)), path: pathText(path), message, severity: 'error' }) // prettier-ignore
    if (issue.code !== 'unrecognized_keys') return [say(issue.path, issue.message)]
    return issue.keys.map((key) => {
      const near = nearest(key, knownKeys(issue.path))
      return say([...issue.path, key], `unknown field "${key}"${near === undefined ? '' : `; did you mean "${near}"?`}`)
    })
  })
  return { ok: false, issues: issues.sort((a, b) => a.line - b.line || a.column - b.column) }
}

/** What a configuration leaves open, or closes, by what it does not say: the field, and what comes of it. */
function gapsIn({ dns, datapath, host, api }: z.output<typeof schema>): (readonly [path: readonly string[], message: string])[] {
  const { enforce, interfaces, prefixes } = datapath
  /** The family that none of these is of, where there are some of the other. */
  const missing = (given: readonly Family[]): Family | undefined => (given.length === 0 ? undefined : ([4, 6] as const).find((family) => !given.includes(family)))
  const ofTexts = (texts: readonly string[]): Family[] => texts.flatMap((text) => { const one = addressFromText(text); return one === undefined ? [] : [familyOf(one)] })
  const gaps: (readonly [path: readonly string[], message: string])[] = []
  const deaf = missing(ofTexts(dns.listen.map((listener) => listener.address)))
  if (deaf !== undefined) gaps.push([['dns', 'listen'], `has no IPv${deaf} address: DNS over IPv${deaf} is dropped`])
  const strange = missing(ofTexts(host.addresses))
  if (strange !== undefined) gaps.push([['host', 'addresses'], `has no IPv${strange} address: those of the interfaces count as this host's`])
  if (api.port !== null && api.tokenFile !== undefined && api.tls === undefined && !isLoopback(api.address)) gaps.push([['api', 'tokenFile'], 'goes over the network in clear text: api.tls is missing'])
  if (enforce === 'none' || interfaces.length > 0) return gaps
  const open = missing(prefixes.map(({ family }) => family))
  if (prefixes.length === 0) gaps.push([['datapath'], 'interfaces and prefixes are empty: packets from addresses that no endpoint has are not held back'])
  if (open !== undefined)
    gaps.push([
      ['datapath', 'prefixes'],
      dns.unknownEndpoint === 'deny'
        ? `has no IPv${open} prefix, and there are no interfaces: of IPv${open} only what endpoints send and get is forwarded`
        : `has no IPv${open} prefix, and there are no interfaces: IPv${open} packets from addresses that no endpoint has are not held back`,
    ])
  return gaps
} // prettier-ignore

/** What is wrong with a value, in the words that the manifests' reader uses too. Undefined: the check has words of its own. */
function sayWrong(issue: z.core.$ZodRawIssue): string | undefined {
  const { input } = issue
  switch (issue.code) {
    case 'invalid_type':
      return input === undefined ? 'is required' : `must be ${nouns[issue.expected] ?? issue.expected}, not ${nounOf(input)}`
    case 'invalid_value':
      return `must be one of ${issue.values.map(String).join(', ')}`
    case 'too_small':
      return issue.origin === 'number' || issue.origin === 'int' ? `must be at least ${issue.minimum}` : 'must not be empty'
    case 'too_big':
      return `must be at most ${issue.maximum}`
    case 'invalid_union':
      // Text, or a mapping: what is wrong is said of the one that was written.
      return issue.errors[typeof input === 'string' ? 0 : 1]
        ?.map(({ path, message }) => (path.length === 0 ? message : `${pathText(path)}: ${message}`))
        .join('; ')
    default:
      return undefined
  }
} // prettier-ignore

const nouns: Readonly<Record<string, string>> = { object: 'a mapping', array: 'a list', string: 'a string', number: 'a number', int: 'an integer', boolean: 'a boolean' } // prettier-ignore

function nounOf(value: unknown): string {
  if (value === null) return 'nothing'
  if (Array.isArray(value)) return 'a list'
  return typeof value === 'number' ? String(value) : typeof value === 'object' ? 'a mapping' : `a ${typeof value}`
}

const pathText = (path: readonly PropertyKey[]): string => path.map((part, i) => (typeof part === 'number' ? `[${part}]` : `${i > 0 ? '.' : ''}${String(part)}`)).join('') // prettier-ignore

/** The fields that may stand at a path of the schema; the items of a list are all like its first. */
function knownKeys(path: readonly PropertyKey[]): string[] {
  const defaults: unknown = schema.parse({ manifests: 'x' })
  let here = defaults
  for (const part of path)
    here = (here as Record<PropertyKey, unknown> | undefined)?.[typeof part === 'number' ? 0 : part]
  return here !== null && typeof here === 'object' ? Object.keys(here) : []
}

/** All defaults, for shells that have no configuration file. */
export function defaultSettings(): AgentSettings {
  return toConfig(schema.parse({ manifests: '.' })).settings
}

/** What a lease takes with a long name and an address of its own: a usual one takes 120 to 190. */
const leaseOctetsUsual = 200

function toConfig({
  manifests,
  dns,
  leases,
  policy,
  datapath,
  host,
  api,
  observe,
  restart,
  log,
}: z.output<typeof schema>): Config {
  const { enforce, ...rest } = datapath
  const { journal, octetsMax = leases.leasesMax * leaseOctetsUsual, ...limits } = leases
  return {
    manifests,
    listeners: dns.listen.map((listener) => ({ kind: 'address', ...listener })),
    upstreams: dns.upstreams,
    hostAddresses: host.addresses,
    enforce,
    api: { ...api, socket: api.socket ?? undefined, port: api.port ?? undefined },
    observe: {
      logGroup: observe.kernelGroup ?? undefined,
      capacity: observe.flows,
      cluster: policy.clusterName,
      node: host.node ?? hostname(),
      hubbleMetrics: observe.hubbleMetrics,
      exports: observe.export.map(({ megabytesMax, ...each }) => ({
        ...each,
        sizeOctetsMax: megabytesMax * 1_000_000,
      })),
      otlp: observe.otlp,
      hubble: {
        listen: observe.hubble.listen,
        certificate: observe.hubble.tls?.certificate,
        key: observe.hubble.tls?.key,
        clientCa: observe.hubble.tls?.clientCa,
      },
    },
    restart,
    logLevel: log.level,
    journal: journal === undefined ? `/run/namegate/${datapath.table}.leases` : (journal ?? undefined),
    settings: {
      dns,
      leases: { ...limits, octetsMax },
      policy: { ...policy, localNode: host.node },
      datapath: { ...rest, learnedMax: learnedMaxOf(leases.leasesMax) },
    },
  }
}

/** The kernel may hold an element a moment longer than its lease: at the bound of leases its sets are not full yet. */
const learnedMaxOf = (leasesMax: number): number => Math.min(leasesMax + (leasesMax >> 4), 1 << 20)

/** `10.0.0.10:53`, `[2001:db8::1]:53`. */
export function serverToText({ address: of, port }: Server): string {
  return familyOf(of) === 4 ? `${addressToText(of)}:${port}` : `[${addressToText(of)}]:${port}`
}
