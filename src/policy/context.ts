// What the parts of a Cilium rule must know of the whole while they are parsed.
import type { Field, Report } from './field.ts'
import type { Direction, ParseOptions, PolicyKind } from './rules.ts'

export interface PolicyMeta {
  readonly kind: PolicyKind
  readonly name: string
  /** Undefined for a cluster-wide policy. */
  readonly namespace: string | undefined
  readonly annotations: ReadonlyMap<string, string>
}

/** One of the four lists of rules. */
export interface Section {
  readonly key: 'ingress' | 'ingressDeny' | 'egress' | 'egressDeny'
  readonly direction: Direction
  readonly kind: 'allow' | 'deny'
}

export interface Context {
  readonly report: Report
  readonly meta: PolicyMeta
  readonly options: ParseOptions
  readonly section: Section
  readonly subject: 'endpoints' | 'node'
  /** Whether the subject can be an endpoint that has no labels yet. */
  readonly matchesInit: boolean
  /** Whether what the rules of this direction do not allow is denied. */
  readonly defaultDeny: boolean
}

/** Whether the Cilium that is spoken to is at least this release. */
export function isSince({ ciliumVersion: [major, minor] }: ParseOptions, release: `1.${number}`): boolean {
  return major > 1 || (major === 1 && minor >= Number(release.slice(2)))
}

/**
 * A requirement that is read, kept and judged in verdicts, and that the agent can not hold connections to: without what reads them it opens
 * nothing by such a rule. Who peers are and how their traffic is encrypted is only stated.
 */
export function notEnforced({ report, section }: Context, at: Field, what: string): void {
  const stated = ['authentication', 'terminatingTLS', 'originatingTLS'].includes(what)
  const consequence = stated
    ? 'verdicts state it, and no connection is held to it'
    : 'the agent opens nothing by this rule'
  if (section.kind === 'allow') report.warn(at, `not enforced yet: ${what}; ${consequence}`)
}

/** Where a Secret is: `namespace/name`, in the policy's namespace when none is said, `name` alone in a cluster-wide policy. */
export function secretName({ meta }: Context, namespace: string | undefined, name: string): string {
  const where = namespace === undefined || namespace === '' ? meta.namespace : namespace
  return where === undefined ? name : `${where}/${name}`
}
