// What every object of a manifest has: kind, name, namespace, labels.
import { readPart, readString, readStringMap, type Field, type Report } from '../policy/field.ts'

export interface ManifestObject {
  readonly report: Report
  readonly root: Field
  readonly fields: ReadonlyMap<string, Field>
  readonly kind: string
  readonly name: string
  /** `default` where a namespaced object names none; undefined for kinds that are cluster-wide. */
  readonly namespace: string | undefined
  readonly labels: ReadonlyMap<string, string>
  readonly annotations: ReadonlyMap<string, string>
}

export interface Meta extends Pick<ManifestObject, 'namespace' | 'labels' | 'annotations'> {
  readonly name: string | undefined
  /** The cluster completes the name: two objects may have the same. */
  readonly isGenerated: boolean
}

export function readMeta(report: Report, fields: ReadonlyMap<string, Field>): Meta {
  const entries = readPart(report, fields.get('metadata'))
  const name = readString(report, entries.get('name'))
  return {
    name: name ?? readString(report, entries.get('generateName')),
    isGenerated: name === undefined,
    // The API server takes an empty one for none.
    namespace: readString(report, entries.get('namespace')) || undefined,
    labels: readStringMap(report, entries.get('labels')),
    annotations: readStringMap(report, entries.get('annotations')),
  }
}

/** Where an object stands in its manifest. */
export function spotOf({ root }: ManifestObject): { readonly file: string; readonly line: number; readonly path: string } {
  return { file: root.file, line: root.line, path: root.path }
} // prettier-ignore
