// Kubernetes manifests as text into a world: YAML or JSON, many documents a file, every issue with its place. All or nothing: one error
// anywhere and there is no world.
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseAllDocuments, type Document } from 'yaml'
import { isAbsent, makeReport, nearest, readList, readMap, readString, readStringMap, type Field, type Issue, type Report } from '../policy/field.ts' // prettier-ignore
import { parseCiliumPolicy, type PolicyMeta } from '../policy/cilium.ts'
import type {
  CidrGroup,
  EndpointSlice,
  Node,
  ParseOptions,
  Pod,
  Policy,
  PolicyKind,
  Service,
  World,
} from '../policy/rules.ts'

export interface ManifestFile {
  readonly path: string
  readonly text: string
}

export type Loaded =
  | { readonly ok: true; readonly world: World; readonly warnings: readonly Issue[] }
  | { readonly ok: false; readonly issues: readonly Issue[] }

/** A manifest larger than this is refused: nothing that people write comes near it. */
export const manifestCharactersMax = 16_000_000

/** What holds when nobody says otherwise: the specification's meaning, the newest Cilium, Cilium's default name of a cluster. */
export const defaultParseOptions: ParseOptions = { semantics: 'spec', ciliumVersion: [1, 20], clusterName: 'default' }

const kinds = ['Namespace', 'Pod', 'CiliumNetworkPolicy', 'CiliumClusterwideNetworkPolicy', 'List']

/** Reads all files together. */
export function loadWorld(files: readonly ManifestFile[], options: Partial<ParseOptions> = {}): Loaded {
  const report = makeReport()
  const world: Building = { namespaces: new Map(), pods: [], nodes: [], services: [], endpointSlices: [], cidrGroups: [], policies: [], options: { ...defaultParseOptions, ...options } } // prettier-ignore
  const seen = new Map<string, Field>()
  for (const file of files) for (const root of readDocuments(report, file)) readObject(report, root, world, seen)
  const errors = report.issues.filter((issue) => issue.severity === 'error')
  return errors.length > 0 ? { ok: false, issues: report.issues } : { ok: true, world, warnings: report.issues }
}

/** The documents of a YAML (or JSON) file as fields; what does not parse is reported and left out. */
export function readDocuments(report: Report, { path: file, text }: ManifestFile): Field[] {
  const start = { file, line: 1, column: 1, path: '' }
  if (text.length > manifestCharactersMax) {
    report.error(start, `larger than ${manifestCharactersMax} characters`)
    return []
  }
  const lines = new LineCounter()
  // YAML 1.2 core: `on` and `yes` are strings, duplicate keys are errors.
  const documents = parseAllDocuments(text, { lineCounter: lines, uniqueKeys: true, version: '1.2' })
  if (!Array.isArray(documents)) return []
  return (documents as Document.Parsed[]).flatMap((document) => {
    for (const error of document.errors) {
      const { line, col } = lines.linePos(error.pos[0])
      report.error(
        { file, line, column: col, path: '' },
        (error.message.split('\n')[0] ?? '').replace(/ at line .*$/, ''),
      )
    }
    if (document.errors.length > 0 || document.contents === null) return []
    const field = toField({ report, file, lines, document, nodes: 0 }, document.contents, '', 0)
    return field.kind === 'scalar' && field.value === null ? [] : [field]
  })
}

/** Deeper than this no manifest is. */
const depthMax = 64
/** Aliases multiply: a few lines of them can stand for billions of nodes. */
const nodesMax = 2_000_000

interface Conversion {
  readonly report: Report
  readonly file: string
  readonly lines: LineCounter
  readonly document: Document.Parsed
  nodes: number
}

function toField(conversion: Conversion, node: unknown, path: string, depth: number): Field {
  const { report, file, lines, document } = conversion
  const offset = (node as { range?: [number, number, number] | null } | null)?.range?.[0] ?? 0
  const { line, col } = lines.linePos(offset)
  const place = { file, line, column: col, path }
  if (depth > depthMax || ++conversion.nodes > nodesMax) {
    // Said once: everything above stops here too.
    if (conversion.nodes <= nodesMax + 1)
      report.error(place, depth > depthMax ? `nested deeper than ${depthMax}` : `more than ${nodesMax} nodes`)
    conversion.nodes = Math.max(conversion.nodes, nodesMax + 1)
    return { ...place, kind: 'scalar', value: null }
  }
  const child = (value: unknown, name: string): Field => toField(conversion, value, name, depth + 1)
  if (isAlias(node)) return toField(conversion, node.resolve(document), path, depth + 1)
  if (isSeq(node)) return { ...place, kind: 'list', items: node.items.map((item, i) => child(item, `${path}[${i}]`)) }
  if (isMap(node)) {
    const entries = new Map<string, Field>()
    for (const { key, value } of node.items) {
      const name = isScalar(key) ? String(key.value) : ''
      const keyAt = lines.linePos((key as { range?: [number, number, number] }).range?.[0] ?? offset)
      const field = child(value, path === '' ? name : `${path}.${name}`)
      // An issue about a field points at its key, where people look for it; one about a list item points at the item.
      entries.set(name, { ...field, line: keyAt.line, column: keyAt.col })
    }
    return { ...place, kind: 'map', entries }
  }
  const value: unknown = isScalar(node) ? node.value : null
  if (value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number')
    return { ...place, kind: 'scalar', value }
  return { ...place, kind: 'scalar', value: '' }
}

interface Building extends World {
  readonly namespaces: Map<string, ReadonlyMap<string, string>>
  readonly pods: Pod[]
  readonly nodes: Node[]
  readonly services: Service[]
  readonly endpointSlices: EndpointSlice[]
  readonly cidrGroups: CidrGroup[]
  readonly policies: Policy[]
  readonly options: ParseOptions
}

function readObject(report: Report, root: Field, world: Building, seen: Map<string, Field>): void {
  const fields = readMap(report, root)
  if (root.kind !== 'map') return
  const [apiVersion, kind] = [readString(report, fields.get('apiVersion')), readString(report, fields.get('kind'))]
  if (apiVersion === undefined || kind === undefined) {
    report.error(root, 'apiVersion and kind are required')
    return
  }
  if (kind === 'List' || (apiVersion === 'v1' && kind.endsWith('List'))) {
    for (const item of readList(report, fields.get('items'))) readObject(report, item, world, seen)
    return
  }
  const meta = readMeta(report, fields)
  const known = (apiVersion === 'v1' && (kind === 'Namespace' || kind === 'Pod')) || (apiVersion === 'cilium.io/v2' && kinds.slice(2, 4).includes(kind))
  if (!known) {
    const near = kinds.includes(kind) ? `; ${kind} is ${kind.startsWith('Cilium') ? 'cilium.io/v2' : 'v1'}` : suggestion(nearest(kind, kinds))
    report.warn(root, `${apiVersion} ${kind} is not read here${near}`)
    return
  }
  if (meta.name === undefined) {
    report.error(fields.get('metadata') ?? root, 'metadata.name: must have name')
    return
  }
  const clusterwide = kind === 'Namespace' || kind === 'CiliumClusterwideNetworkPolicy'
  const namespace = clusterwide ? undefined : (meta.namespace ?? 'default')
  const id = `${kind} ${namespace === undefined ? '' : `${namespace}/`}${meta.name}`
  const twin = seen.get(id)
  if (twin !== undefined) report.error(root, `${id} is there twice; the other is at ${twin.file}:${twin.line}`)
  seen.set(id, root)
  if (kind === 'Namespace') world.namespaces.set(meta.name, meta.labels)
  else if (kind === 'Pod') world.pods.push(readPod(report, root, fields, meta.name, namespace ?? 'default', meta.labels))
  else world.policies.push(...readPolicies(report, root, fields, { kind: kind as PolicyKind, name: meta.name, namespace, annotations: meta.annotations }, world.options))
} // prettier-ignore

const suggestion = (near: string | undefined): string => (near === undefined ? '' : `; did you mean ${near}?`)

interface Meta {
  readonly name: string | undefined
  readonly namespace: string | undefined
  readonly labels: ReadonlyMap<string, string>
  readonly annotations: ReadonlyMap<string, string>
}

function readMeta(report: Report, fields: ReadonlyMap<string, Field>): Meta {
  const metadata = fields.get('metadata')
  const entries = isAbsent(metadata) ? new Map<string, Field>() : readMap(report, metadata)
  return {
    name: readString(report, entries.get('name')),
    namespace: readString(report, entries.get('namespace')),
    labels: readStringMap(report, entries.get('labels')),
    annotations: readStringMap(report, entries.get('annotations')),
  }
}

/** Of a Pod only what identity needs; addresses from status.podIPs, else status.podIP. */
function readPod(report: Report, root: Field, fields: ReadonlyMap<string, Field>, name: string, namespace: string, labels: ReadonlyMap<string, string>): Pod {
  const part = (key: string): ReadonlyMap<string, Field> => {
    const field = fields.get(key)
    return isAbsent(field) ? new Map() : readMap(report, field)
  }
  const [spec, status] = [part('spec'), part('status')]
  const serviceAccount = readString(report, spec.get('serviceAccountName'))
  const listed = readList(report, status.get('podIPs')).flatMap((item) => readString(report, readMap(report, item, ['ip']).get('ip')) ?? [])
  const single = readString(report, status.get('podIP'))
  const addresses = listed.length > 0 ? listed : single === undefined ? [] : [single]
  const place = { file: root.file, line: root.line, path: root.path }
  return { ...place, kind: 'Pod', namespace, name, labels, addresses, hostNetwork: false, ports: [], containerPorts: [], ...(serviceAccount === undefined ? {} : { serviceAccount }) }
} // prettier-ignore

function readPolicies(report: Report, root: Field, fields: ReadonlyMap<string, Field>, meta: PolicyMeta, options: ParseOptions): Policy[] {
  readMap(report, root, ['apiVersion', 'kind', 'metadata', 'spec', 'specs', 'status'])
  const spec = fields.get('spec')
  const specs = [...(isAbsent(spec) ? [] : [spec]), ...readList(report, fields.get('specs'))]
  if (specs.length === 0) report.error(root, 'spec or specs must be provided')
  return specs.flatMap((field) => parseCiliumPolicy(report, meta, field, options) ?? [])
} // prettier-ignore
