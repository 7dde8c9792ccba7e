// The verdict on one egress flow of one identity, as the kernel gives it: what is above L4 is not looked at.
import type { IdentityId } from '../identity/endpoints.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'
import { addressToText, type Address } from '../net/address.ts'
import { portsCover, portsToText } from '../net/ports.ts'
import { rangeCovers } from '../net/prefix.ts'
import { compareStatements } from './names.ts'
import type { Entry, Grant, Peers, Snapshot, Why } from './snapshot.ts'

export interface FlowQuestion {
  readonly identity: IdentityId
  readonly address: Address
  readonly protocol: number
  /** Undefined for protocols without ports. */
  readonly port: number | undefined
  readonly icmpType?: number | undefined
  /** Names under which this identity holds a lease on the address. */
  readonly leasedNames: readonly string[]
}

export interface EgressVerdict {
  readonly kind: 'allow' | 'deny'
  readonly why: Why
}

/** Whether an address is among the peers. */
export function isPeer(peers: Peers, snapshot: Pick<Snapshot, 'identityOf' | 'isInCluster'>, address: Address): boolean {
  if (peers === 'everyone') return true
  return (
    peers.identities.has(snapshot.identityOf(address)) ||
    peers.everywhere.some((range) => rangeCovers(range, address)) ||
    (!snapshot.isInCluster(address) && peers.outside.some((range) => rangeCovers(range, address)))
  )
} // prettier-ignore

/** Decides an egress flow. For a denial without a deciding rule the why says what is missing. */
export function decideEgress(snapshot: Snapshot, flow: FlowQuestion): EgressVerdict {
  const { identity, address, leasedNames } = flow
  const policy = snapshot.policyOf(identity)
  const egress = policy.directions.egress
  const grants = snapshot.isInCluster(address)
    ? []
    : leasedNames.flatMap((name) => policy.grantsFor(labelsOfName(name)).map((grant) => ({ name, grant })))
  const covering: readonly (Entry | Grant)[] = [
    ...egress.entries.filter((e) => portsCover(e.ports, flow) && isPeer(e.peers, snapshot, address)),
    ...grants.flatMap(({ grant }) => (portsCover(grant.ports, flow) ? [grant] : [])),
  ]
  let passed = -1
  for (const statement of [...covering].sort(compareStatements)) {
    if (statement.tier <= passed) continue
    if (statement.kind === 'pass') {
      passed = statement.tier
      continue
    }
    const leased = grants.find(({ grant }) => grant === statement)
    if (leased === undefined) return { kind: statement.kind, why: statement.why }
    return {
      kind: statement.kind,
      why: { ...statement.why, text: `leased as ${leased.name} by ${statement.why.text}` },
    }
  }
  if (egress.fallback === 'allow') return { kind: 'allow', why: { text: 'no policy denies egress by default' } }

  const selected = egress.selectedBy.length === 0 ? '' : `; selected by ${egress.selectedBy.join(', ')}`
  const [near] = grants
  if (near !== undefined) {
    const ports = [...new Set(grants.map(({ grant }) => portsToText(grant.ports)))].join(', ')
    return { kind: 'deny', why: { ...near.grant.why, text: `${near.name} is allowed on ${ports} only` } }
  }
  const missing = policy.grantPorts.length > 0 && !snapshot.isInCluster(address) ? `no rule matched, and no name leased to this identity has ${addressToText(address)}` : 'no rule matched' // prettier-ignore
  return { kind: 'deny', why: { text: missing + selected } }
}

export function labelsOfName(name: string): readonly string[] {
  const wire = wireFromText(name)
  return wire === undefined ? [] : labelsOf(wire)
}
