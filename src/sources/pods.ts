// Pods, and workloads whose template says what their pods will be: one Pod record each, without addresses.
import { readBoolean, readList, readMap, readPart, readString, readStringMap, type Field, type Report } from '../policy/field.ts' // prettier-ignore
import type { NamedPort, Pod } from '../policy/rules.ts'
import { spotOf, type ManifestObject } from './object.ts'
import { readAddress, readPortNumber, readProtocol } from './scalars.ts'

/** Addresses are those of status.podIPs, else of status.podIP. A pod that has ended has none: they may be another's by now. */
export function readPod(object: ManifestObject): Pod {
  const { report, fields, labels } = object
  const status = readPart(report, fields.get('status'))
  const listed = readList(report, status.get('podIPs')).flatMap((item) => readAddress(report, readMap(report, item).get('ip')) ?? []) // prettier-ignore
  const single = readAddress(report, status.get('podIP'))
  const hasEnded = ['Succeeded', 'Failed'].includes(readString(report, status.get('phase')) ?? '')
  const addresses = hasEnded ? [] : listed.length > 0 ? listed : single === undefined ? [] : [single]
  return podOf(object, labels, addresses, readPart(report, fields.get('spec')))
}

/** Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job; CronJob's template is one level further down. */
export function readWorkload(object: ManifestObject): Pod | undefined {
  const { report, root, fields, kind } = object
  let spec = readPart(report, fields.get('spec'))
  if (kind === 'CronJob') spec = readPart(report, readPart(report, spec.get('jobTemplate')).get('spec'))
  const template = readPart(report, spec.get('template'))
  if (template.size === 0) {
    report.error(fields.get('spec') ?? root, `${kind} must have a pod template`)
    return undefined
  }
  const labels = readStringMap(report, readPart(report, template.get('metadata')).get('labels'))
  return podOf(object, labels, [], readPart(report, template.get('spec')))
}

function podOf(object: ManifestObject, labels: ReadonlyMap<string, string>, addresses: readonly string[], spec: ReadonlyMap<string, Field>): Pod {
  const { report, kind, name, namespace = 'default' } = object
  // `serviceAccount` is the field's old name; the API server keeps both alike, and gives `default` to a pod that names none.
  const serviceAccount = readString(report, spec.get('serviceAccountName')) || readString(report, spec.get('serviceAccount')) || 'default'
  const node = readString(report, spec.get('nodeName'))
  const ports = portsOf(report, spec)
  return {
    ...spotOf(object),
    kind,
    namespace,
    name,
    labels,
    serviceAccount,
    addresses,
    hostNetwork: readBoolean(report, spec.get('hostNetwork')) ?? false,
    ...(node === undefined || node === '' ? {} : { node }),
    ports: ports.flatMap(({ name, protocol, port }): NamedPort[] => (name === undefined ? [] : [{ name, protocol, port }])),
    containerPorts: ports.map(({ protocol, port }) => ({ protocol, port })),
  }
} // prettier-ignore

type ContainerPort = Omit<NamedPort, 'name'> & { readonly name: string | undefined }

/** Of the containers that run while the pod does: init containers only where they are sidecars. */
function portsOf(report: Report, spec: ReadonlyMap<string, Field>): ContainerPort[] {
  const containers = readList(report, spec.get('containers')).map((item) => readMap(report, item))
  const sidecars = readList(report, spec.get('initContainers'))
    .map((item) => readMap(report, item))
    .filter((container) => readString(report, container.get('restartPolicy')) === 'Always')
  return [...containers, ...sidecars].flatMap((container) =>
    readList(report, container.get('ports')).flatMap((item) => readContainerPort(report, item)),
  )
}

function readContainerPort(report: Report, field: Field): ContainerPort[] {
  const fields = readMap(report, field)
  const name = readString(report, fields.get('name'))
  const protocol = readProtocol(report, fields.get('protocol'))
  const port = readPortNumber(report, fields.get('containerPort'))
  if (field.kind === 'map' && !fields.has('containerPort')) report.error(field, 'must have containerPort')
  return protocol === undefined || port === undefined ? [] : [{ name, protocol, port }]
}
