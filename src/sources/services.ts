// Services and where their backends are: EndpointSlices, or Endpoints of older clusters.
import { isAbsent, readBoolean, readList, readMap, readPart, readString, readStringMap, type Field, type Report } from '../policy/field.ts' // prettier-ignore
import type { EndpointSlice, Service } from '../policy/rules.ts'
import { spotOf, type ManifestObject } from './object.ts'
import { readAddress, readPortNumber, readProtocol } from './scalars.ts'

/** The label that says whose backends a slice holds. */
const serviceNameLabel = 'kubernetes.io/service-name'

/** Undefined for an ExternalName, which is a name in DNS and has no backends. */
export function readService(object: ManifestObject): Service | undefined {
  const { report, root, fields, name, namespace = 'default', labels } = object
  const spec = readPart(report, fields.get('spec'))
  if (readString(report, spec.get('type')) === 'ExternalName') {
    report.note(root, `Service ${namespace}/${name} is an ExternalName: a name in DNS, not backends`)
    return undefined
  }
  const selector = readStringMap(report, spec.get('selector'))
  const listed = readList(report, spec.get('clusterIPs'))
  const clusterIPs = listed.length > 0 ? listed : [spec.get('clusterIP')]
  return {
    ...spotOf(object),
    namespace,
    name,
    labels,
    selector: selector.size === 0 ? undefined : selector,
    clusterIPs: clusterIPs.flatMap((field) => (isHeadless(field) ? [] : (readAddress(report, field) ?? []))),
    ports: readList(report, spec.get('ports')).flatMap((item) => readServicePort(report, item)),
  }
}

const isHeadless = (field: Field | undefined): boolean => field?.kind === 'scalar' && field.value === 'None'

function readServicePort(report: Report, field: Field): Service['ports'][number][] {
  const fields = readMap(report, field)
  const name = readString(report, fields.get('name'))
  const protocol = readProtocol(report, fields.get('protocol'))
  const port = readPortNumber(report, fields.get('port'))
  const target = fields.get('targetPort')
  const isName = target?.kind === 'scalar' && typeof target.value === 'string' && target.value !== ''
  const targetPort = isAbsent(target) ? port : isName ? readString(report, target) : readPortNumber(report, target)
  return protocol === undefined || port === undefined || targetPort === undefined ? [] : [{ name, protocol, port, targetPort }] // prettier-ignore
}

/** Addresses of the endpoints that take connections: those that are ready, and those that end but still serve. */
export function readEndpointSlice({ report, root, fields, name, namespace = 'default', labels }: ManifestObject): EndpointSlice | undefined {
  const service = labels.get(serviceNameLabel)
  if (service === undefined) {
    report.note(root, `EndpointSlice ${namespace}/${name} belongs to no service: it has no label ${serviceNameLabel}`)
    return undefined
  }
  // Slices of names, addressType FQDN, hold no addresses.
  if (readString(report, fields.get('addressType')) === 'FQDN') return undefined
  const addresses = readList(report, fields.get('endpoints')).flatMap((item) => {
    const endpoint = readMap(report, item)
    const conditions = readPart(report, endpoint.get('conditions'))
    const isReady = readBoolean(report, conditions.get('ready')) ?? true
    const isServing = readBoolean(report, conditions.get('serving')) ?? isReady
    const listed = readList(report, endpoint.get('addresses')).flatMap((address) => readAddress(report, address) ?? [])
    return isReady || isServing ? listed : []
  })
  return { namespace, service, addresses }
} // prettier-ignore

/** An Endpoints object has its service's name. */
export function readEndpoints({ report, fields, name, namespace = 'default' }: ManifestObject): EndpointSlice {
  const addresses = readList(report, fields.get('subsets')).flatMap((subset) =>
    readList(report, readMap(report, subset).get('addresses')).flatMap((item) => readAddress(report, readMap(report, item).get('ip')) ?? []),
  ) // prettier-ignore
  return { namespace, service: name, addresses }
}
