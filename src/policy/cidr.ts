// CIDRs of manifests, and CiliumCIDRGroup.
import { prefixFromText, type AddressRange } from '../net/prefix.ts'
import { isAbsent, readList, readMap, readString, type Field, type Report } from './field.ts'
import type { CidrGroup } from './rules.ts'

/** A prefix, or a bare address as a prefix of full length. */
export function readCidr(report: Report, field: Field): AddressRange | undefined {
  const text = readString(report, field)
  if (text === undefined) return isAbsent(field) ? noAddress(report, field) : undefined
  if (text === '') return noAddress(report, field)
  const range = prefixFromText(text)
  if (range === undefined) report.error(field, `unable to parse CIDR: "${text}" is not an address or a prefix`)
  return range
}

function noAddress(report: Report, field: Field): undefined {
  report.error(field, 'IP must be specified')
  return undefined
}

/** A prefix; a bare address is none here. `complaint` says of what. */
export function readPrefix(
  report: Report,
  field: Field,
  complaint: (text: string) => string,
): AddressRange | undefined {
  const text = readString(report, field)
  if (text === undefined) return undefined
  const range = text.includes('/') ? prefixFromText(text) : undefined
  if (range === undefined)
    report.error(field, `${complaint(text)}: ${text.includes('/') ? 'not an address and a length' : "no '/'"}`)
  return range
}

/** The ranges of `except`; with a prefix around them, each must lie inside of it. */
export function readExcept(
  report: Report,
  field: Field | undefined,
  around?: { readonly range: AddressRange; readonly text: string },
): AddressRange[] {
  return readList(report, field).flatMap((item) => {
    const hole = readPrefix(report, item, (text) => `unable to parse CIDR "${text}"`)
    if (hole === undefined) return []
    if (around !== undefined && !contains(around.range, hole))
      report.error(
        item,
        `allow CIDR prefix ${around.text} does not contain exclude CIDR prefix ${readString(report, item) ?? ''}`,
      )
    return [hole]
  })
}

const contains = (outer: AddressRange, inner: AddressRange): boolean =>
  inner.family === outer.family && inner.first >= outer.first && inner.last <= outer.last

/** The `spec` of a CiliumCIDRGroup (cilium.io/v2 and v2alpha1), or undefined when it has errors; all of them are in the report. */
export function parseCidrGroup(
  report: Report,
  meta: { readonly name: string; readonly labels: ReadonlyMap<string, string> },
  spec: Field,
): CidrGroup | undefined {
  const before = report.errorCount()
  const list = readMap(report, spec, ['externalCIDRs']).get('externalCIDRs')
  if (isAbsent(list)) report.error(spec, 'externalCIDRs: Required value')
  const ranges = readList(report, list).flatMap((item) => readCidr(report, item) ?? [])
  return report.errorCount() > before ? undefined : { name: meta.name, labels: meta.labels, ranges }
}
