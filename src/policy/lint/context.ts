// What the checks look at: policies as they are written (fields, with their places) beside what they mean (rules), and the pods they select.
import type { Labels } from '../../identity/labels.ts'
import { labelSetText } from '../../identity/identities.ts'
import type { Selector } from '../../identity/selector.ts'
import { makeUniverse } from '../../identity/universe.ts'
import type { Field, Issue } from '../field.ts'
import { labelsOfPod } from '../podLabels.ts'
import {
  policyKinds,
  type Direction,
  type ParseOptions,
  type Pod,
  type Policy,
  type PolicyKind,
  type Rule,
  type World,
} from '../rules.ts'
import type { Code, Finding, Fix, Severity } from './codes.ts'
import { subjectCovers, subjectCoversMostly } from './coverage.ts'
import { makeSources, type Sources } from './source.ts'

export interface LintInput {
  /** Undefined when the manifests have errors: checks that need it are left out then. */
  readonly world: World | undefined
  /** What reading the manifests found. */
  readonly issues: readonly Issue[]
  /** Every document of the manifests. */
  readonly documents: readonly Field[]
  /** The text of each file. */
  readonly texts: ReadonlyMap<string, string>
  readonly options: ParseOptions
}

/** One `spec` of a policy as it is written. */
export interface Spec {
  readonly kind: PolicyKind
  /** `namespace/name`, or `name` when cluster-wide. */
  readonly name: string
  readonly namespace: string | undefined
  /** The whole object. */
  readonly object: Field
  /** Its `spec`, or one item of `specs`. */
  readonly field: Field
  /** What it means; undefined when the manifests have errors. */
  readonly policy: Policy | undefined
}

/** One item of a list of rules, as it is written. */
export interface Item {
  readonly field: Field
  readonly list: Field
  readonly direction: Direction
  readonly isDeny: boolean
}

/** A pod, or the pods of a workload, with the labels of its identity. */
export interface Workload {
  readonly pod: Pod
  readonly labels: Labels
}

export interface Context extends LintInput {
  readonly specs: readonly Spec[]
  /** Every object that is no policy. */
  readonly others: readonly Field[]
  readonly workloads: readonly Workload[]
  readonly sources: Sources
  /** Whether the manifests are meant for Cilium of this version or later. */
  readonly isCilium: (major: number, minor: number) => boolean
  /** The workloads that a selector selects. */
  readonly selected: (selector: Selector) => readonly Workload[]
  /** The same as numbers for their label sets. */
  readonly identities: (selector: Selector) => ReadonlySet<number>
  /** The specs of which one may select what this one does: those of its namespace and the cluster-wide ones, or all for a cluster-wide one. */
  readonly near: (spec: Pick<Spec, 'namespace'>) => readonly Spec[]
  /** The policies that are about all that this one is about; itself among them. */
  readonly covering: (policy: Policy) => readonly Policy[]
  /** Those that are about it as far as anybody can tell: what they allow is not missing. */
  readonly around: (policy: Policy) => readonly Policy[]
  /** The field of a rule or peer of a policy, by its path. */
  readonly fieldAt: (spec: Spec, path: string) => Field
}

export interface Said {
  readonly severity: Severity
  readonly message: string
  readonly hint?: string
  readonly fix?: Fix | undefined
}

/** Says what is wrong at a field of a spec (or of an object that is no policy: `spec` undefined). */
export type Say = (code: Code, spec: Spec | undefined, at: Field, said: Said) => void

/** One group of checks. */
export type Check = (context: Context, say: Say) => void

/** A fix, if its edits could be made. */
export function fixOf(title: string, edit: ReturnType<Sources['replaceScalar']>): Fix | undefined {
  return edit === undefined ? undefined : { title, edits: [edit] }
}

/** A field of a mapping by its keys; undefined when there is none. */
export function at(field: Field | undefined, ...keys: readonly string[]): Field | undefined {
  return keys.reduce<Field | undefined>(
    (here, key) => (here?.kind === 'map' ? here.entries.get(key) : undefined),
    field,
  )
}

/** The items of a list; [] of anything else. */
export function itemsOf(field: Field | undefined): readonly Field[] {
  return field?.kind === 'list' ? field.items : []
}

/** The entries of a mapping; [] of anything else. */
export function entriesOf(field: Field | undefined): readonly (readonly [string, Field])[] {
  return field?.kind === 'map' ? [...field.entries] : []
}

/** The text of a scalar; undefined when it is none. */
export function textOf(field: Field | undefined): string | undefined {
  return field?.kind === 'scalar' && field.value !== null ? String(field.value) : undefined
}

/** Whether it is a list without items. */
export function isEmptyList(field: Field | undefined): boolean {
  return field?.kind === 'list' && field.items.length === 0
}

/** Whether it is a mapping without entries. */
export function isEmptyMap(field: Field | undefined): boolean {
  return field?.kind === 'map' && field.entries.size === 0
}

const isCiliumKind = (kind: PolicyKind): boolean => kind.startsWith('Cilium')
export const isCilium = ({ kind }: Spec): boolean => isCiliumKind(kind)
/** Kinds whose rules stand in an order. */
export const isOrdered = ({ kind }: Spec): boolean =>
  kind === 'ClusterNetworkPolicy' || kind.endsWith('AdminNetworkPolicy')

/** The rules of a spec as they are written. */
export function itemsOfSpec(spec: Spec): Item[] {
  const lists = [
    ['ingress', 'ingress', false],
    ['ingressDeny', 'ingress', true],
    ['egress', 'egress', false],
    ['egressDeny', 'egress', true],
  ] as const
  return lists.flatMap(([key, direction, isDeny]) => {
    const list = at(spec.field, key)
    return list === undefined ? [] : itemsOf(list).map((field) => ({ field, list, direction, isDeny }))
  })
}

/** Every selector that stands in the spec, with what it is for. */
export function selectorsOf(spec: Spec): { readonly field: Field; readonly isSubject: boolean }[] {
  const found: { field: Field; isSubject: boolean }[] = []
  const walk = (field: Field, key: string): void => {
    if (field.kind === 'map') {
      const isSelector = field.entries.has('matchLabels') || field.entries.has('matchExpressions')
      if (isSelector)
        found.push({
          field,
          isSubject:
            ['endpointSelector', 'nodeSelector'].includes(key) ||
            field.path.startsWith(`${spec.field.path}.subject`) ||
            field.path === `${spec.field.path}.podSelector`,
        })
      else for (const [name, entry] of field.entries) walk(entry, name)
    } else if (field.kind === 'list') for (const item of field.items) walk(item, key)
  }
  walk(spec.field, '')
  return found
}

/** The keys that a selector is about, each with the field to point at. */
export function keysOfSelector(
  field: Field,
): { readonly key: string; readonly field: Field; readonly operator: string }[] {
  return [
    ...entriesOf(at(field, 'matchLabels')).map(([key, entry]) => ({ key, field: entry, operator: 'In' })),
    ...itemsOf(at(field, 'matchExpressions')).flatMap((item) => {
      const [key, operator] = [textOf(at(item, 'key')), textOf(at(item, 'operator'))]
      return key === undefined ? [] : [{ key, field: at(item, 'key') ?? item, operator: operator ?? '' }]
    }),
  ]
}

export function makeContext(input: LintInput): Context {
  const objects = input.documents.flatMap(objectsOf)
  const policies = new Map(input.world?.policies.map((policy) => [placeOf(policy.kind, policy.name, policy), policy]))
  const specs = objects.flatMap((object) => specsOf(object, policies))
  const { ciliumVersion, clusterName, semantics } = input.options
  const isKept = (): boolean => semantics === 'spec'
  const workloads = (input.world?.pods ?? [])
    .filter((pod) => !pod.hostNetwork)
    .map((pod) => ({ pod, labels: labelsOfPod(pod, input.world?.namespaces.get(pod.namespace), clusterName, isKept) }))
  const { selected, identities } = makeSelection(workloads)
  const near = makeNear(specs)
  const paths = new WeakMap<Field, ReadonlyMap<string, Field>>()
  const [coverings, arounds] = [new WeakMap<Policy, readonly Policy[]>(), new WeakMap<Policy, readonly Policy[]>()]
  const among =
    (known: WeakMap<Policy, readonly Policy[]>, isOf: typeof subjectCovers) =>
    (policy: Policy): readonly Policy[] => {
      let found = known.get(policy)
      if (found === undefined) {
        const others = near(policy).flatMap((spec) => spec.policy ?? [])
        known.set(policy, (found = others.filter((other) => isOf({ identities }, other, policy))))
      }
      return found
    }
  return {
    ...input,
    specs,
    others: objects.filter((object) => !(policyKinds as readonly string[]).includes(textOf(at(object, 'kind')) ?? '')),
    workloads,
    sources: makeSources(input.texts),
    isCilium: (major, minor) => ciliumVersion[0] > major || (ciliumVersion[0] === major && ciliumVersion[1] >= minor),
    selected,
    identities,
    near,
    covering: among(coverings, subjectCovers),
    around: among(arounds, subjectCoversMostly),
    fieldAt: (spec, path) => {
      let index = paths.get(spec.field)
      if (index === undefined) paths.set(spec.field, (index = indexPaths(spec.field)))
      // A generated peer has no field of its own: what is around it, then.
      for (let here = path; here !== ''; here = parentOf(here)) {
        const found = index.get(here)
        if (found !== undefined) return found
      }
      return spec.field
    },
  }
}

/** Selectors over workloads. Those with the same labels are one to a selector. */
function makeSelection(workloads: readonly Workload[]): Pick<Context, 'selected' | 'identities'> {
  const numbers = new Map<string, number>()
  const groups: Workload[][] = []
  for (const workload of workloads) {
    const text = labelSetText(workload.labels)
    const number = numbers.get(text) ?? groups.length
    numbers.set(text, number)
    if (groups[number] === undefined) groups[number] = [workload]
    else groups[number].push(workload)
  }
  const universe = makeUniverse(
    new Map(
      groups.flatMap(([first], id) => (first === undefined ? [] : [[id, { id, labels: first.labels }] as const])),
    ),
  )
  const lists = new WeakMap<ReadonlySet<number>, readonly Workload[]>()
  return {
    identities: universe.select,
    selected: (selector) => {
      const ids = universe.select(selector)
      let found = lists.get(ids)
      if (found === undefined) lists.set(ids, (found = [...ids].flatMap((id) => groups[id] ?? [])))
      return found
    },
  }
}

function makeNear(specs: readonly Spec[]): Context['near'] {
  const byNamespace = new Map<string | undefined, Spec[]>()
  for (const spec of specs) {
    const list = byNamespace.get(spec.namespace)
    if (list === undefined) byNamespace.set(spec.namespace, [spec])
    else list.push(spec)
  }
  const joined = new Map<string, readonly Spec[]>()
  const clusterwide = byNamespace.get(undefined) ?? []
  for (const [namespace, list] of byNamespace)
    if (namespace !== undefined) joined.set(namespace, [...list, ...clusterwide])
  return ({ namespace }) => (namespace === undefined ? specs : (joined.get(namespace) ?? clusterwide))
}

const parentOf = (path: string): string => path.slice(0, Math.max(path.lastIndexOf('.'), path.lastIndexOf('['), 0))

function indexPaths(root: Field): ReadonlyMap<string, Field> {
  const index = new Map<string, Field>()
  const walk = (field: Field): void => {
    index.set(field.path, field)
    if (field.kind === 'map') for (const entry of field.entries.values()) walk(entry)
    else if (field.kind === 'list') for (const item of field.items) walk(item)
  }
  walk(root)
  return index
}

/** The object, or those of a List. Items of a typed list need not say their kind: it is put in. */
function objectsOf(document: Field): readonly Field[] {
  const kind = textOf(at(document, 'kind'))
  if (kind?.endsWith('List') !== true) return [document]
  const said: Field = { ...document, kind: 'scalar', value: kind.slice(0, -'List'.length) }
  return itemsOf(at(document, 'items')).map((item) =>
    item.kind !== 'map' || item.entries.has('kind')
      ? item
      : { ...item, entries: new Map([...item.entries, ['kind', said]]) },
  )
}

const placeOf = (
  kind: string,
  name: string,
  { file, line }: { readonly file: string; readonly line: number },
): string => `${kind} ${name} ${file}:${line}`

function specsOf(object: Field, policies: ReadonlyMap<string, Policy>): Spec[] {
  const kind = policyKinds.find((known) => known === textOf(at(object, 'kind')))
  const bare = textOf(at(object, 'metadata', 'name'))
  if (kind === undefined || bare === undefined) return []
  const namespaced = kind === 'NetworkPolicy' || kind === 'CiliumNetworkPolicy'
  const namespace = namespaced ? (textOf(at(object, 'metadata', 'namespace')) ?? 'default') : undefined
  const name = namespace === undefined ? bare : `${namespace}/${bare}`
  const single = at(object, 'spec')
  return [...(single === undefined ? [] : [single]), ...itemsOf(at(object, 'specs'))].map((field) => ({
    kind,
    name,
    namespace,
    object,
    field,
    policy: policies.get(placeOf(kind, name, field)),
  }))
}

/** `shop/web`. */
export const nameOf = ({ pod }: Workload): string => `${pod.namespace}/${pod.name}`

/** `a, b, c and 4 more`. */
export function listed(names: readonly string[], most = 3): string {
  const rest = names.length - most
  return rest > 0 ? `${names.slice(0, most).join(', ')} and ${rest} more` : names.join(', ')
}

/** The finding as the linter gives it. */
export function findingOf(
  code: Code,
  spec: Spec | undefined,
  { file, line, column, path }: Field,
  said: Said,
): Finding {
  const { severity, message, hint, fix } = said
  return {
    code,
    severity,
    file,
    line,
    column,
    path,
    ...(spec === undefined ? {} : { policy: spec.name }),
    message,
    ...(hint === undefined ? {} : { hint }),
    ...(fix === undefined ? {} : { fix }),
  }
}

/** The rules of a policy in one direction. */
export function rulesOf(policy: Policy | undefined, direction: Direction): readonly Rule[] {
  return policy?.rules.filter((rule) => rule.direction === direction) ?? []
}
