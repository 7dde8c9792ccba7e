// Addresses that pass from one workload to another, and their connections. The kernel lets pass what is established, whoever has the address
// now: connections that a workload leaves behind are ended, but for those that the policy of its successor allows too.
import type { Connection } from './datapath/ctnetlink.ts'
import type { Connections } from './datapath/conntrack.ts'
import type { IdentityId } from './identity/endpoints.ts'
import type { Address } from './net/address.ts'
import type { Snapshot } from './policy/snapshot.ts'
import { makeDecider, type Party } from './policy/verdict.ts'

export interface Takeovers {
  /** Notes the addresses that have another workload or identity in `next` than before, or none. */
  readonly note: (before: Snapshot, next: Snapshot) => void
  /** Notes those that have another identity now than an earlier agent's table says, or none. */
  readonly noteFound: (found: ReadonlyMap<Address, IdentityId>, now: Snapshot) => void
  readonly isSettled: () => boolean
  /**
   * Ends what must not go on at the addresses that were noted; gives how many connections. To be called when the kernel holds `now`. Rejects with
   * `KernelError`, and is to be called again then.
   */
  readonly settle: (now: Snapshot) => Promise<number>
}

/** Connections that are found before they are ended: 20 MB. Where there are more, the next look finds them. */
const foundMax = 1 << 16

/**
 * @param cut has the kernel refuse what goes on of connections.
 * @param namesOf the names that are leased to an identity at an address.
 * @param proxyPort the workloads' DNS, whatever server they address, is led there.
 */
export function makeTakeovers(
  connections: Pick<Connections, 'list' | 'remove'>,
  cut: (connections: readonly Connection[]) => Promise<void>,
  namesOf: (identity: IdentityId, address: Address) => readonly string[],
  proxyPort: number,
): Takeovers {
  let noted = new Set<Address>()

  function note(before: Snapshot, next: Snapshot): void {
    for (const { addresses } of before.endpoints)
      for (const address of addresses) {
        const [was, is] = [before.endpointOf(address), next.endpointOf(address)]
        if (was !== undefined && (was.id !== is?.id || was.identity !== is.identity)) noted.add(address)
      }
  }
  function noteFound(found: ReadonlyMap<Address, IdentityId>, now: Snapshot): void {
    for (const [address, identity] of found) if (now.endpointOf(address)?.identity !== identity) noted.add(address)
  }

  async function settle(now: Snapshot): Promise<number> {
    const due = noted
    noted = new Set()
    let ended = 0
    try {
      const isOver = makeJudge(due, now)
      for (let found = foundMax; due.size > 0 && found === foundMax;) {
        const over: Connection[] = []
        await connections.list((connection) => {
          if (over.length < foundMax && isOver(connection)) over.push(connection)
        })
        found = over.length
        await cut(over)
        ended += await connections.remove(over)
      }
      return ended
    } catch (error) {
      for (const address of due) noted.add(address)
      throw error
    }
  }

  /** Whether a connection touches one of the addresses, and has nobody there or may not be. */
  function makeJudge(due: ReadonlySet<Address>, now: Snapshot): (connection: Connection) => boolean {
    const decide = makeDecider(now)
    return ({ source, destination, peer, back, protocol, peerPort, destinationPort, icmpType }) => {
      const touched = [source, destination, peer, back].filter((address) => due.has(address))
      if (touched.length === 0) return false
      if (touched.some((address) => now.endpointOf(address) === undefined)) return true
      if (destinationPort === dnsPort && peerPort === proxyPort) return false
      const asker = now.endpointOf(source)
      const names = asker === undefined ? [] : namesOf(asker.identity, peer)
      // In prerouting, where it is judged, the destination is translated already and the source not yet.
      const port = protocolsWithPorts.includes(protocol) ? peerPort : undefined
      const at = (address: Address): Party => ({ kind: 'address', address })
      const { egress, ingress } = decide({ from: at(source), to: at(peer), protocol, port, icmpType, names })
      const passes = (verdict: string): boolean => verdict === 'allowed' || verdict === 'audited'
      const isOurs = (address: Address): boolean => now.endpointOf(address)?.local === true
      return (isOurs(source) && !passes(egress.verdict)) || (isOurs(peer) && !passes(ingress.verdict))
    }
  }

  return { note, noteFound, isSettled: () => noted.size === 0, settle }
}

const dnsPort = 53
/** TCP, UDP, SCTP. */
const protocolsWithPorts: readonly number[] = [6, 17, 132]
