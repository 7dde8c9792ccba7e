// Nodes: labels that node selectors look at, and addresses that stand for them.
import { readList, readMap, readPart, readString } from '../policy/field.ts'
import type { Node } from '../policy/rules.ts'
import type { ManifestObject } from './object.ts'
import { readAddress } from './scalars.ts'

/** Addresses are those of status.addresses, without names. */
export function readNode({ report, fields, name, labels }: ManifestObject): Node {
  const status = readPart(report, fields.get('status'))
  const addresses = readList(report, status.get('addresses')).flatMap((item) => {
    const entry = readMap(report, item)
    const type = readString(report, entry.get('type'))
    return type === 'InternalIP' || type === 'ExternalIP' ? (readAddress(report, entry.get('address')) ?? []) : []
  })
  return { name, labels, addresses }
}
