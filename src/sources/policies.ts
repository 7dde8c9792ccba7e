// Policy objects of every kind, each to its parser. These are strict: a field that is not known is an error.
import { parseCiliumPolicy } from '../policy/cilium.ts'
import { parseAdminNetworkPolicy, parseClusterNetworkPolicy } from '../policy/cluster.ts'
import type { PolicyMeta } from '../policy/context.ts'
import { isAbsent, readList, readMap, readPart, type Field } from '../policy/field.ts'
import { parseNetworkPolicy } from '../policy/kubernetes.ts'
import type { ParseOptions, Policy, PolicyKind } from '../policy/rules.ts'
import type { ManifestObject } from './object.ts'

/** The policies of one object: one for its spec, and for a Cilium kind one for each of its specs. */
export function readPolicies(object: ManifestObject, kind: PolicyKind, options: ParseOptions): Policy[] {
  const { report, root, fields, name, namespace, annotations } = object
  checkName(object)
  const isCilium = kind === 'CiliumNetworkPolicy' || kind === 'CiliumClusterwideNetworkPolicy'
  readMap(report, root, [
    'apiVersion',
    'kind',
    'metadata',
    'spec',
    ...(isCilium ? ['specs', 'description'] : []),
    'status',
  ])
  const remark = fields.get('description')
  // Published examples of Cilium's have it there; kubectl drops or refuses it.
  if (isCilium && remark !== undefined)
    report.warn(remark, 'stands beside spec, where nobody keeps it: it belongs into spec')
  const meta: PolicyMeta = { kind, name, namespace, annotations }
  const spec = fields.get('spec')
  switch (kind) {
    case 'CiliumNetworkPolicy':
    case 'CiliumClusterwideNetworkPolicy': {
      const specs = [...(isAbsent(spec) ? [] : [spec]), ...readList(report, fields.get('specs'))]
      if (specs.length === 0) report.error(root, 'spec or specs must be provided')
      return specs.flatMap((one) => parseCiliumPolicy(report, meta, one, options) ?? [])
    }
    case 'NetworkPolicy':
      // Without a spec it has an empty one: it isolates every pod of its namespace.
      return listOf(parseNetworkPolicy(report, meta, isAbsent(spec) ? emptySpec(root) : spec, options))
    case 'ClusterNetworkPolicy':
      return listOf(parseClusterNetworkPolicy(report, meta, isAbsent(spec) ? emptySpec(root) : spec, options))
    case 'AdminNetworkPolicy':
    case 'BaselineAdminNetworkPolicy':
      return listOf(parseAdminNetworkPolicy(report, meta, isAbsent(spec) ? emptySpec(root) : spec, options))
  }
}

const listOf = (policy: Policy | undefined): Policy[] => (policy === undefined ? [] : [policy])

function emptySpec({ file, line, column, path }: Field): Field {
  return { file, line, column, path: path === '' ? 'spec' : `${path}.spec`, kind: 'map', entries: new Map() }
}

/** The longest name of an object (RFC 1123 subdomain). */
const nameCharactersMax = 253

/** What the API server asks of names; a policy whose name it refuses is enforced nowhere. */
function checkName({ report, root, fields, kind, name, namespace }: ManifestObject): void {
  const at = fields.get('metadata') ?? root
  const place = readPart(report, fields.get('metadata')).get('namespace')
  if (namespace === undefined && place?.kind === 'scalar' && typeof place.value === 'string' && place.value !== '')
    report.warn(place, `a ${kind} has no namespace: it holds in all of them, not in "${place.value}" alone`)
  else if (namespace !== undefined && !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(namespace))
    report.error(place ?? at, `Invalid value: "${namespace}": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`) // prettier-ignore
  if (name.length > nameCharactersMax) report.error(at, `metadata.name: Invalid value: must be no more than ${nameCharactersMax} characters`) // prettier-ignore
  else if (!/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(name))
    report.error(at, `metadata.name: Invalid value: "${name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`) // prettier-ignore
}
