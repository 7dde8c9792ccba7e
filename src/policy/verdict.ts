// The verdict on one flow, with its why: what the kernel does, said in words. Deny, then allow, then leases, then the default.
import type { IdentityId } from '../identity/endpoints.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'
import { addressToText, type Address } from '../net/address.ts'
import { portsCover, portsToText } from '../net/ports.ts'
import { rangeCovers } from '../net/prefix.ts'
import type { Snapshot, Why } from './egress.ts'

export interface FlowQuestion {
  readonly identity: IdentityId
  readonly address: Address
  readonly protocol: number
  /** Undefined for protocols without ports. */
  readonly port: number | undefined
  /** Names under which this identity holds a lease on the address. */
  readonly leasedNames: readonly string[]
}

export interface Verdict {
  readonly kind: 'allow' | 'deny'
  readonly why: Why
}

/** Decides an egress flow. For a denial without a deciding rule the why says what is missing. */
export function decide(snapshot: Snapshot, { identity, address, protocol, port, leasedNames }: FlowQuestion): Verdict {
  const policy = snapshot.policyOf(identity)
  const covering = policy.entries.filter(
    (e) => portsCover(e.ports, protocol, port) && e.ranges.some((range) => rangeCovers(range, address)),
  )
  const decisive = covering.find((entry) => entry.kind === 'deny') ?? covering[0]
  if (decisive !== undefined) return { kind: decisive.kind, why: decisive.why }

  const grants = leasedNames.flatMap((name) => policy.grantsFor(labelsOfName(name)).map((grant) => ({ name, grant })))
  const open = grants.find(({ grant }) => portsCover(grant.ports, protocol, port))
  if (open !== undefined)
    return { kind: 'allow', why: { ...open.grant.why, text: `leased as ${open.name} by ${open.grant.why.text}` } }
  if (!policy.defaultDeny) return { kind: 'allow', why: { text: 'no policy denies egress by default' } }

  const selected = policy.selectedBy.length === 0 ? '' : `; selected by ${policy.selectedBy.join(', ')}`
  const [near] = grants
  if (near !== undefined) {
    const ports = [...new Set(grants.map(({ grant }) => portsToText(grant.ports)))].join(', ')
    return { kind: 'deny', why: { ...near.grant.why, text: `${near.name} is allowed on ${ports} only` } }
  }
  const missing = policy.grantPorts.length > 0 && !snapshot.isInCluster(address) ? `no rule matched, and no name leased to this identity has ${addressToText(address)}` : 'no rule matched' // prettier-ignore
  return { kind: 'deny', why: { text: missing + selected } }
}

function labelsOfName(name: string): readonly string[] {
  const wire = wireFromText(name)
  return wire === undefined ? [] : labelsOf(wire)
}
