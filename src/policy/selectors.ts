// Label selectors of manifests: checked as Kubernetes checks them, and with the namespace and the cluster that Cilium adds to them.
import {
  clusterKey,
  keyWithSource,
  labelSources,
  mentions,
  namespaceKey,
  namespaceLabelsPrefix,
  type Requirement,
  type Selector,
} from '../identity/selector.ts'
import { isSince } from './context.ts'
import { didYouMean, isAbsent, readList, readMap, readString, type Field, type Report, type Strays } from './field.ts'
import type { ParseOptions } from './rules.ts'

/** A selector in the two halves in which people write it; all of both holds. */
interface LabelSelector {
  readonly labels: readonly Requirement[]
  readonly expressions: readonly Requirement[]
}

/** What an error begins with; Cilium says the same of all of its selectors. */
const complaint = 'invalid label selector: '

/** Reads a LabelSelector; `keyOf` makes label keys of the keys that are written. */
export function readSelector(report: Report, field: Field, keyOf: (key: string) => string = keyWithSource): Selector {
  const { labels, expressions } = readHalves(report, field, keyOf)
  return [...labels, ...expressions]
}

const halves = ['matchLabels', 'matchExpressions']

/** As the first releases of AdminNetworkPolicy had it. */
const itself = 'this is the selector itself: matchLabels, matchExpressions'
const straysOfSelector: Strays = { namespaceSelector: itself, podSelector: itself }

/** `app: web` where `matchLabels: {app: web}` is meant. */
function straysOf(field: Field): Strays {
  const entries = field.kind === 'map' ? [...field.entries] : []
  return {
    ...straysOfSelector,
    ...Object.fromEntries(
      entries.flatMap(([key, entry]) =>
        entry.kind === 'scalar' && !key.startsWith('match') ? [[key, 'labels stand below matchLabels']] : [],
      ),
    ),
  }
}

function readHalves(report: Report, field: Field, keyOf: (key: string) => string): LabelSelector {
  const fields = readMap(report, field, halves, straysOf(field))
  const matchLabels = fields.get('matchLabels')
  const labels: Requirement[] = []
  for (const [key, entry] of isAbsent(matchLabels) ? [] : readMap(report, matchLabels)) {
    // An empty value is written "": the API server takes `key:` out, and what is left selects more than was meant.
    const value = isAbsent(entry)
      ? report.error(entry, 'must be a string, not nothing (an empty value is "")')
      : readString(report, entry)
    checkKey(report, entry, key)
    if (typeof value !== 'string') continue
    checkValue(report, entry, value)
    labels.push({ operator: 'In', key: keyOf(key), values: [value] })
  }
  const expressions = readList(report, fields.get('matchExpressions')).flatMap(
    (item) => readExpression(report, item, keyOf) ?? [],
  )
  return { labels, expressions }
}

function readExpression(report: Report, field: Field, keyOf: (key: string) => string): Requirement | undefined {
  const fields = readMap(report, field, ['key', 'operator', 'values'])
  const key = readString(report, fields.get('key'))
  const operator = readString(report, fields.get('operator'))
  const list = fields.get('values')
  const values = readList(report, list).flatMap((item) => {
    const value = readString(report, item)
    if (value !== undefined) checkValue(report, item, value)
    return value ?? []
  })
  if (key === undefined) report.error(field, `${complaint}key: Required value`)
  else checkKey(report, fields.get('key') ?? field, key)
  if (operator === 'In' || operator === 'NotIn') {
    if (isAbsent(list) || values.length === 0)
      report.error(
        list ?? field,
        `${complaint}values: Required value: must be specified when \`operator\` is 'In' or 'NotIn'`,
      )
    return key === undefined ? undefined : { operator, key: keyOf(key), values }
  }
  if (operator === 'Exists' || operator === 'DoesNotExist') {
    if (values.length > 0)
      report.error(
        list ?? field,
        `${complaint}values: Forbidden: may not be specified when \`operator\` is 'Exists' or 'DoesNotExist'`,
      )
    return key === undefined ? undefined : { operator, key: keyOf(key) }
  }
  const known = ['In', 'NotIn', 'Exists', 'DoesNotExist']
  if (operator === undefined) report.error(field, `${complaint}operator: Required value: one of ${known.join(', ')}`)
  else
    report.error(
      fields.get('operator') ?? field,
      `${complaint}operator: Invalid value: "${operator}": not a valid selector operator${didYouMean(operator, known)}`,
    )
  return undefined
}

const isAlphanumeric = (c: string | undefined): boolean =>
  c !== undefined && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
const isLabelText = (text: string): boolean =>
  isAlphanumeric(text[0]) &&
  isAlphanumeric(text.at(-1)) &&
  [...text].every((c) => isAlphanumeric(c) || '-_.'.includes(c))

/** A DNS-1123 subdomain, as names of objects and prefixes of label keys are. */
export function isSubdomain(text: string): boolean {
  return (
    text.length <= 253 &&
    text === text.toLowerCase() &&
    text.split('.').every((label) => isLabelText(label) && !label.includes('_'))
  )
}

/** Kubernetes' limit for the name part of a label key, and for a value; the prefix of a key may have 253. */
const labelCharactersMax = 63
const alphanumericText =
  "consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"

function checkKey(report: Report, at: Field, key: string): void {
  const colon = key.indexOf(':')
  const source = colon < 0 ? '' : key.slice(0, colon)
  if (colon >= 0 && !labelSources.includes(source)) {
    report.warn(at, `no label has the source "${source}": nothing here has this key${didYouMean(source, labelSources)}`)
    return
  }
  const prefix = namespaceLabelsPrefix.slice(namespaceLabelsPrefix.indexOf(':') + 1)
  const bare = key.slice(key.startsWith('$') ? 1 : colon + 1)
  // The key of a namespace's label stands behind a prefix, which does not count into its length.
  const wrong = keyComplaint(bare.startsWith(prefix) ? bare.slice(prefix.length) : bare)
  if (wrong !== undefined) report.error(at, `${complaint}key: Invalid value: "${key}": ${wrong}`)
}

function keyComplaint(key: string): string | undefined {
  const slash = key.lastIndexOf('/')
  const [prefix, name] = [slash < 0 ? undefined : key.slice(0, slash), key.slice(slash + 1)]
  if (prefix === '') return 'prefix part must be non-empty'
  if (prefix !== undefined && !isSubdomain(prefix))
    return "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
  if (name === '') return 'name part must be non-empty'
  if (name.length > labelCharactersMax) return `name part must be no more than ${labelCharactersMax} bytes`
  return isLabelText(name) ? undefined : `name part must ${alphanumericText}`
}

function checkValue(report: Report, at: Field, value: string): void {
  if (value.length > labelCharactersMax)
    report.error(at, `${complaint}Invalid value: "${value}": must be no more than ${labelCharactersMax} bytes`)
  else if (value !== '' && !isLabelText(value))
    report.error(
      at,
      `${complaint}Invalid value: "${value}": a valid label must be an empty string or ${alphanumericText}`,
    )
}

/**
 * An endpointSelector. A namespaced policy selects in its own namespace: another one that matchLabels name with the source `k8s:` gives
 * way to it; named in any other way it stays, and then nothing has both.
 */
export function readSubjectSelector(report: Report, field: Field, namespace: string | undefined): Selector {
  const { labels, expressions } = readHalves(report, field, keyWithSource)
  if (namespace === undefined) return [...labels, ...expressions]
  const isElsewhere = (r: Requirement): boolean => r.operator === 'In' && !r.values.includes(namespace)
  const own: Requirement = { operator: 'In', key: namespaceKey, values: [namespace] }
  if (labels.some((r) => r.key === namespaceKey && isElsewhere(r)))
    report.warn(
      field,
      `a policy selects in its own namespace only: the namespace that is named here is replaced by "${namespace}"`,
    )
  const kept = [...labels.filter((r) => r.key !== namespaceKey), ...expressions]
  const anyKey = keyWithSource(namespaceKey.slice('k8s:'.length))
  if (kept.some((r) => [namespaceKey, anyKey].includes(r.key) && isElsewhere(r)))
    report.warn(field, `selects nothing: a policy selects in its own namespace, which is "${namespace}"`)
  return [...kept, own]
}

export interface PeerScope {
  /** The policy's; undefined for a cluster-wide one. */
  readonly namespace: string | undefined
  /** Whether the policy's subject can be an endpoint that has no labels yet; such have no namespace either. */
  readonly matchesInit: boolean
  readonly options: ParseOptions
}

/**
 * An item of fromEndpoints or toEndpoints. It means pods of the policy's namespace unless it says otherwise, of all namespaces in a
 * cluster-wide policy, and of this cluster. Selectors with a `reserved:` key are about what is no pod, and stay as they are.
 */
export function readPeerSelector(report: Report, field: Field, scope: PeerScope): Selector {
  const selector = readSelector(report, field)
  if (selector.some((r) => r.key.startsWith('reserved:'))) return selector
  return [...selector, ...namespaceDefault(selector, scope), ...clusterDefault(selector, scope.options)]
}

function namespaceDefault(selector: Selector, { namespace, matchesInit }: PeerScope): Requirement[] {
  if (mentions(selector, namespaceKey)) return []
  if (namespace === undefined) return matchesInit ? [] : [{ operator: 'Exists', key: namespaceKey }]
  const prefixes = [namespaceLabelsPrefix, keyWithSource(namespaceLabelsPrefix.slice('k8s:'.length))]
  if (selector.some((r) => prefixes.some((prefix) => r.key.startsWith(prefix)))) return []
  return [{ operator: 'In', key: namespaceKey, values: [namespace] }]
}

/** policy-default-local-cluster, on since 1.19: peers that name no cluster are of this one. Before, they are of every connected cluster. */
function clusterDefault(selector: Selector, options: ParseOptions): Requirement[] {
  if (!isSince(options, '1.19') || mentions(selector, clusterKey)) return []
  return [{ operator: 'In', key: clusterKey, values: [options.clusterName] }]
}

/**
 * An item of fromNodes or toNodes: nodes other than this one, by their labels. Those have the source `node:`; the cluster's name is no
 * label of the Node object and keeps its own.
 */
export function readNodesSelector(report: Report, field: Field, options: ParseOptions): Selector {
  const selector = readSelector(report, field, nodeKey)
  return [...selector, ...clusterDefault(selector, options)]
}

/** A key of a nodeSelector, which is about this host: `k8s:` too is a label of its Node object. */
export function hostKey(key: string): string {
  const full = nodeKey(key)
  return full.startsWith('k8s:') && full !== clusterKey ? `node:${full.slice('k8s:'.length)}` : full
}

function nodeKey(key: string): string {
  const full = keyWithSource(key)
  const bare = full.slice(full.indexOf(':') + 1)
  if (`k8s:${bare}` === clusterKey) return clusterKey
  return full.startsWith('any:') ? `node:${bare}` : full
}
