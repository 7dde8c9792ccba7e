// Kubernetes manifests as text into a world: every kind that policies are about, every issue with its place. All or nothing: one error
// anywhere and there is no world.
import { isAbsent, makeReport, nearest, readList, readMap, readString, type Field, type Issue, type Place, type Report } from '../policy/field.ts' // prettier-ignore
import { parseCidrGroup } from '../policy/cidr.ts'
import { makeConflictFinder, subjectsMeetIn, type Conflict } from '../policy/conflicts.ts'
import { policyKinds, type CidrGroup, type EndpointSlice, type Node, type ParseOptions, type Pod, type Policy, type PolicyKind, type Service, type World } from '../policy/rules.ts' // prettier-ignore
import { readDocuments, type ManifestFile } from './documents.ts'
import { readNode } from './nodes.ts'
import { readMeta, type ManifestObject } from './object.ts'
import { readPod, readWorkload } from './pods.ts'
import { readPolicies } from './policies.ts'
import { readEndpoints, readEndpointSlice, readService } from './services.ts'

export type { ManifestFile } from './documents.ts'

export type Loaded =
  /** `warnings`: warnings and notes. */
  | { readonly ok: true; readonly world: World; readonly warnings: readonly Issue[] }
  | { readonly ok: false; readonly issues: readonly Issue[] }

/** What holds when nobody says otherwise: the specification's meaning, the newest Cilium, Cilium's default name of a cluster. */
export const defaultParseOptions: ParseOptions = { semantics: 'spec', ciliumVersion: [1, 20], clusterName: 'default' }

/** Reads all files together. @param next is told of each file before it is read, and how many were */
export function loadWorld(
  files: readonly ManifestFile[],
  options: Partial<ParseOptions> = {},
  next: (file: ManifestFile, done: number) => void = () => undefined,
): Loaded {
  const all = { ...defaultParseOptions, ...options }
  return joinContents(
    files.map((file, done) => {
      next(file, done)
      return readFile(file, all)
    }),
    makeConflictWarner(all.clusterName),
  )
}

/** Of a world, a warning for each rule that cannot be merged with an earlier one. */
export type ConflictWarner = (world: World) => readonly Issue[]

/** What rules are about is worked out once for each, as long as it lives: one is made for all loads of a folder. */
export function makeConflictWarner(clusterName: string): ConflictWarner {
  const find = makeConflictFinder(clusterName)
  return (world) => find(world.policies, subjectsMeetIn(world, clusterName)).map(warningOf)
}

function warningOf({ rule: { policy, rule }, other, words }: Conflict): Issue {
  const where = other.policy === policy ? `line ${other.rule.line}` : `${other.policy.name}, ${other.policy.file}:${other.rule.line}`
  return {
    file: policy.file,
    line: rule.line,
    column: rule.column ?? 1,
    path: rule.path,
    message: `${words} with the rule at ${where}: where both hold nothing is opened; in Cilium the endpoints that both select keep their old policy`,
    severity: 'warning',
  }
} // prettier-ignore

/** What one file holds. */
export interface Content extends ManifestFile {
  readonly issues: readonly Issue[]
  readonly world: World
  readonly objects: readonly { readonly id: string; readonly place: Place }[]
}

/** A part of what one file holds: values that may cross from one thread to another. */
export type Part = Omit<Content, keyof ManifestFile>

/** Reads one file. */
export function readFile(file: ManifestFile, options: ParseOptions): Content {
  return joinParts(file, [...readParts(file, options)])
}

/** Objects in a part, about: a millisecond's worth. */
const objectsPerPart = 100

/** Reads one file, in parts. */
export function* readParts(file: ManifestFile, options: ParseOptions): Generator<Part, void> {
  const load: Load = { report: makeReport(), options, objects: [], world: emptyWorld(), count: 0 }
  let told = 0
  const cut = (): Part => {
    const { report, objects, world } = load
    const issues = report.issues.slice(told)
    told = report.issues.length
    Object.assign(load, { objects: [], world: emptyWorld(), count: 0 } satisfies Partial<Load>)
    return { issues, objects, world }
  }
  for (const root of readDocuments(load.report, file))
    for (const read of readObject(load, root)) {
      load.count += read
      if (load.count >= objectsPerPart) yield cut()
    }
  yield cut()
}

/** The parts of one file as its content. */
export function joinParts(file: ManifestFile, parts: readonly Part[]): Content {
  return {
    ...file,
    issues: parts.flatMap(({ issues }) => issues),
    objects: parts.flatMap(({ objects }) => objects),
    world: joinWorlds(parts.map(({ world }) => world)),
  }
}

const emptyWorld = (): Building => ({ namespaces: new Map(), pods: [], nodes: [], services: [], endpointSlices: [], cidrGroups: [], policies: [] }) // prettier-ignore

function joinWorlds(worlds: readonly World[]): World {
  return {
    namespaces: new Map(worlds.flatMap(({ namespaces }) => [...namespaces])),
    pods: worlds.flatMap(({ pods }) => pods),
    nodes: worlds.flatMap(({ nodes }) => nodes),
    services: worlds.flatMap(({ services }) => services),
    endpointSlices: worlds.flatMap(({ endpointSlices }) => endpointSlices),
    cidrGroups: worlds.flatMap(({ cidrGroups }) => cidrGroups),
    policies: worlds.flatMap(({ policies }) => policies),
  }
}

interface Building extends World {
  readonly namespaces: Map<string, ReadonlyMap<string, string>>
  readonly pods: Pod[]
  readonly nodes: Node[]
  readonly services: Service[]
  readonly endpointSlices: EndpointSlice[]
  readonly cidrGroups: CidrGroup[]
  readonly policies: Policy[]
}

/** The contents of all files as one world; objects that are there twice, and rules that conflict, are found here. */
export function joinContents(contents: readonly Content[], warn: ConflictWarner): Loaded {
  const report = makeReport()
  const seen = new Map<string, Place>()
  for (const content of contents) {
    for (const issue of content.issues) report.add(issue)
    for (const { id, place } of content.objects) {
      const twin = seen.get(id)
      if (twin !== undefined) report.error(place, `${id} is there twice; the other is at ${twin.file}:${twin.line}`)
      else seen.set(id, place)
    }
  }
  if (report.errorCount() > 0) return { ok: false, issues: report.issues }
  const world = joinWorlds(contents.map((content) => content.world))
  return { ok: true, world, warnings: [...report.issues, ...warn(world)] }
}

/** One file while it is read: the part that is being filled. */
interface Load {
  readonly report: Report
  readonly options: ParseOptions
  objects: { readonly id: string; readonly place: Place }[]
  world: Building
  /** Objects in the part. */
  count: number
}

interface Kind {
  readonly apiVersions: readonly string[]
  readonly isNamespaced: boolean
  readonly read: (object: ManifestObject, load: Load) => void
}

/** Adds what a reader made of an object to a list of the world. */
const into =
  <K extends 'pods' | 'nodes' | 'services' | 'endpointSlices'>(
    list: K,
    read: (object: ManifestObject) => World[K][number] | undefined,
  ): Kind['read'] =>
  (object, { world }) => {
    const one = read(object)
    if (one !== undefined) (world[list] as World[K][number][]).push(one)
  }

const workload: Kind = { apiVersions: ['apps/v1'], isNamespaced: true, read: into('pods', readWorkload) }

const policy = (kind: PolicyKind, apiVersions: readonly string[], isNamespaced: boolean): readonly [string, Kind] => [
  kind,
  {
    apiVersions,
    isNamespaced,
    read: (object, { world, options }) => void world.policies.push(...readPolicies(object, kind, options)),
  },
]

const kinds: ReadonlyMap<string, Kind> = new Map<string, Kind>([
  ['Namespace', { apiVersions: ['v1'], isNamespaced: false, read: ({ name, labels }, { world }) => void world.namespaces.set(name, labels) }],
  ['Pod', { apiVersions: ['v1'], isNamespaced: true, read: into('pods', readPod) }],
  ['Node', { apiVersions: ['v1'], isNamespaced: false, read: into('nodes', readNode) }],
  ['Service', { apiVersions: ['v1'], isNamespaced: true, read: into('services', readService) }],
  ['Endpoints', { apiVersions: ['v1'], isNamespaced: true, read: into('endpointSlices', readEndpoints) }],
  ['EndpointSlice', { apiVersions: ['discovery.k8s.io/v1', 'discovery.k8s.io/v1beta1'], isNamespaced: true, read: into('endpointSlices', readEndpointSlice) }],
  ['Deployment', workload],
  ['StatefulSet', workload],
  ['DaemonSet', workload],
  ['ReplicaSet', workload],
  ['ReplicationController', { ...workload, apiVersions: ['v1'] }],
  ['Job', { ...workload, apiVersions: ['batch/v1'] }],
  ['CronJob', { ...workload, apiVersions: ['batch/v1', 'batch/v1beta1'] }],
  ['CiliumCIDRGroup', { apiVersions: ['cilium.io/v2', 'cilium.io/v2alpha1'], isNamespaced: false, read: readCidrGroup }],
  policy('NetworkPolicy', ['networking.k8s.io/v1'], true),
  policy('CiliumNetworkPolicy', ['cilium.io/v2'], true),
  policy('CiliumClusterwideNetworkPolicy', ['cilium.io/v2'], false),
  policy('ClusterNetworkPolicy', ['policy.networking.k8s.io/v1alpha2', 'policy.networking.k8s.io/v1beta1'], false),
  policy('AdminNetworkPolicy', ['policy.networking.k8s.io/v1alpha1'], false),
  policy('BaselineAdminNetworkPolicy', ['policy.networking.k8s.io/v1alpha1'], false),
]) // prettier-ignore

function readCidrGroup({ report, root, fields, name, labels }: ManifestObject, { world }: Load): void {
  const spec = fields.get('spec')
  readMap(report, root, ['apiVersion', 'kind', 'metadata', 'spec', 'status'])
  const group = isAbsent(spec)
    ? report.error(root, 'spec must be provided')
    : parseCidrGroup(report, { name, labels }, spec)
  if (typeof group === 'object') world.cidrGroups.push(group)
}

/**
 * Reads an object, or the items of a list of them; gives 1 after each.
 * @param of what a typed list says about its items, which then need not say it themselves
 */
function* readObject(
  load: Load,
  root: Field,
  of?: { readonly apiVersion: string; readonly kind: string },
): Generator<1, void> {
  const { report } = load
  const fields = readMap(report, root)
  if (root.kind !== 'map') return
  const apiVersion = readString(report, fields.get('apiVersion')) ?? of?.apiVersion
  const kind = readString(report, fields.get('kind')) ?? of?.kind
  if (apiVersion === undefined || kind === undefined) {
    report.error(root, 'apiVersion and kind are required')
    return
  }
  const listed = kind.endsWith('List') ? kind.slice(0, -'List'.length) : undefined
  if (listed !== undefined && ((listed === '' && apiVersion === 'v1') || isRead(apiVersion, listed))) {
    // A list whose items nobody finds would be no policies at all.
    readMap(report, root, ['apiVersion', 'kind', 'metadata', 'items'])
    for (const item of readList(report, fields.get('items')))
      yield* readObject(load, item, listed === '' ? undefined : { apiVersion, kind: listed })
    return
  }
  const known = kinds.get(kind)
  if (known?.apiVersions.includes(apiVersion) !== true) {
    sayUnread(report, root, apiVersion, kind)
    return
  }
  readKnown(load, root, fields, kind, known)
  yield 1
}

function readKnown(load: Load, root: Field, fields: ReadonlyMap<string, Field>, kind: string, known: Kind): void {
  const { report } = load
  const meta = readMeta(report, fields)
  const { name } = meta
  if (name === undefined || name === '') {
    report.error(fields.get('metadata') ?? root, 'metadata.name: must have name')
    return
  }
  const namespace = known.isNamespaced ? (meta.namespace ?? 'default') : undefined
  const id = `${kind} ${namespace === undefined ? '' : `${namespace}/`}${name}`
  // Of the object only its place is kept: trees of fields are many times the size of what is made of them.
  const { file, line, column, path } = root
  if (!meta.isGenerated) load.objects.push({ id, place: { file, line, column, path } })
  const { labels, annotations } = meta
  known.read({ report, root, fields, kind, name, namespace, labels, annotations }, load)
}

const isRead = (apiVersion: string, kind: string): boolean => kinds.get(kind)?.apiVersions.includes(apiVersion) === true
const groupOf = (apiVersion: string): string => (apiVersion.includes('/') ? (apiVersion.split('/')[0] ?? '') : '')

/** Says that an object is left out: a note, but a warning where it was probably meant to be read. */
function sayUnread(report: Report, root: Field, apiVersion: string, kind: string): void {
  const group = groupOf(apiVersion)
  const inGroup = [...kinds].filter(([, { apiVersions }]) => apiVersions.some((one) => groupOf(one) === group))
  const said = `${apiVersion} ${kind} is not read here`
  const known = kinds.get(kind)
  const isPolicy = (policyKinds as readonly string[]).includes(kind)
  if (known !== undefined && (isPolicy || inGroup.some(([name]) => name === kind)))
    report.warn(root, `${said}; ${kind} is ${known.apiVersions.join(' or ')}`)
  else {
    const near = nearest(kind, inGroup.map(([name]) => name)) // prettier-ignore
    if (near === undefined) report.note(root, said)
    else report.warn(root, `${said}; did you mean ${near}?`)
  }
}
