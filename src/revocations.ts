// Connections that may not go on. The kernel lets pass what is established, whatever becomes of its policy, its lease or its address: what
// policy allowed and no longer does, and what a workload leaves behind to whoever has its address now, is ended here.
import type { Clock, Millis } from './clock.ts'
import type { Connection } from './datapath/ctnetlink.ts'
import type { Connections } from './datapath/conntrack.ts'
import type { Sockets } from './datapath/sockets.ts'
import type { Endpoint, IdentityId } from './identity/endpoints.ts'
import type { Address } from './net/address.ts'
import type { Snapshot } from './policy/snapshot.ts'
import { hostId } from './identity/reserved.ts'
import { Protocol } from './net/ports.ts'
import { makeDecider, type Decision, type Flow, type Party } from './policy/verdict.ts'

export interface Revocations {
  /**
   * Notes the addresses that have another workload or identity in `next` than before, or none: their connections end at once. And those about
   * which policy says something else, or may: what it does not allow any more ends when the drain time is over.
   */
  readonly note: (before: Snapshot, next: Snapshot) => void
  /** Notes those that have another identity now than an earlier agent's table says, or none. */
  readonly noteFound: (found: ReadonlyMap<Address, IdentityId>, now: Snapshot) => void
  /** Notes all, after what nobody knows: whatever is not allowed now ends when the drain time is over. */
  readonly noteAll: (now: Snapshot) => void
  /** Notes a lease that was taken away before it was over: by hand, or because its name may not lead there any more. */
  readonly noteLost: (identity: IdentityId, address: Address) => void
  readonly isSettled: () => boolean
  /**
   * Ends what must not go on of what was noted and is due; gives how many connections. To be called when the kernel holds `now`. Rejects with
   * `KernelError`, and is to be called again then.
   */
  readonly settle: (now: Snapshot) => Promise<number>
}

/**
 * Why the connections of an address are looked at. `before`: what was in force when they were allowed; undefined: another has the address now, or
 * nobody knows.
 */
interface Noted {
  readonly at: Millis
  readonly before: Snapshot | undefined
}
/** What is due: addresses, and leases that were lost as `keyOf`. */
interface Due {
  readonly addresses: Map<Address, Noted>
  readonly lost: Map<string, Millis>
}
/** What this host itself is allowed whatever its policies say, as the kernel's table has it. */
export interface HostAllowances {
  /** The workloads' DNS, whatever server they address, is led there. */
  readonly proxyPort: number
  /** Resolvers that the proxy asks; [] unless policies of this host hold. */
  readonly upstreams: readonly { readonly address: Address; readonly port: number }[]
}

/** Connections that are found before they are ended: 20 MB. Where there are more, the next look finds them. */
const foundMax = 1 << 16

/** By name: numbers of endpoints are an agent's own, and what was before may be of an earlier one. */
const isSame = (was: Endpoint, is: Endpoint | undefined): boolean =>
  was.namespace === is?.namespace && was.name === is.name

const keyOf = (identity: IdentityId, address: Address): string => `${identity} ${address}`

/**
 * @param cut has the kernel refuse what goes on of connections.
 * @param sockets those of this host; what is at an end of a connection ends with it. Absent: programs hear of it when they send.
 * @param namesOf the names that are leased to an identity at an address.
 * @param drainMillis how long a connection may go on that policy, or its lease, does not allow any more; new packets of others obey at once.
 */
export function makeRevocations(
  clock: Clock,
  connections: Pick<Connections, 'list' | 'remove'>,
  cut: (connections: readonly Connection[]) => Promise<void>,
  sockets: Pick<Sockets, 'destroy'> | undefined,
  namesOf: (identity: IdentityId, address: Address) => readonly string[],
  allowances: HostAllowances,
  drainMillis: Millis,
): Revocations {
  const addresses = new Map<Address, Noted>()
  const lost = new Map<string, Millis>()

  /** Who is noted already stays so: by what was in force first, and the earlier moment. */
  function noteAddress(address: Address, before: Snapshot | undefined, waitMillis: Millis = 0): void {
    const noted = addresses.get(address)
    if (before === undefined)
      addresses.set(address, { at: Math.min(noted?.at ?? Infinity, clock() + waitMillis), before })
    else if (noted === undefined) addresses.set(address, { at: clock() + drainMillis, before })
  }

  function note(before: Snapshot, next: Snapshot): void {
    for (const endpoint of before.endpoints)
      for (const address of endpoint.addresses) {
        const [was, is] = [before.endpointOf(address), next.endpointOf(address)]
        if (was === undefined) continue
        if (!isSame(was, is) || was.identity !== is?.identity) noteAddress(address, undefined)
        else if (is.local && before.policyOf(was.identity).directions !== next.policyOf(is.identity).directions)
          noteAddress(address, before)
      }
    const isOtherHost = before.policyOf(hostId).directions !== next.policyOf(hostId).directions
    if (isOtherHost) for (const [address, id] of next.addresses) if (id === hostId) noteAddress(address, before)
    // Whom others are allowed to reach: who has become, or is no more, a workload, a node or this host.
    for (const [address, identity] of before.addresses)
      if (next.addresses.get(address) !== identity) noteAddress(address, before)
    for (const address of next.addresses.keys()) if (!before.addresses.has(address)) noteAddress(address, before)
  }
  function noteFound(found: ReadonlyMap<Address, IdentityId>, now: Snapshot): void {
    for (const [address, identity] of found)
      if (now.endpointOf(address)?.identity !== identity) noteAddress(address, undefined)
  }
  function noteAll(now: Snapshot): void {
    for (const [address, id] of now.addresses)
      if (id === hostId || now.endpointOf(address)?.local === true) noteAddress(address, undefined, drainMillis)
  }
  function noteLost(identity: IdentityId, address: Address): void {
    const key = keyOf(identity, address)
    if (!lost.has(key)) lost.set(key, clock() + drainMillis)
  }

  function takeDue(): Due {
    const now = clock()
    const due: Due = { addresses: new Map(), lost: new Map() }
    for (const [address, noted] of addresses) if (noted.at <= now) due.addresses.set(address, noted)
    for (const [key, at] of lost) if (at <= now) due.lost.set(key, at)
    for (const address of due.addresses.keys()) addresses.delete(address)
    for (const key of due.lost.keys()) lost.delete(key)
    return due
  }
  function putBack(due: Due): void {
    for (const [address, noted] of due.addresses)
      if (noted.before === undefined || addresses.get(address)?.before !== undefined || !addresses.has(address))
        addresses.set(address, noted)
    for (const [key, at] of due.lost) lost.set(key, at)
  }

  async function settle(now: Snapshot): Promise<number> {
    const due = takeDue()
    if (due.addresses.size === 0 && due.lost.size === 0) return 0
    let ended = 0
    try {
      const isOver = makeJudge(due, now)
      for (let found = foundMax; found === foundMax;) {
        const over: Connection[] = []
        await connections.list((connection) => {
          if (over.length < foundMax && isOver(connection)) over.push(connection)
        })
        found = over.length
        await cut(over)
        // Before they are forgotten: what the kernel then tells the other ends belongs to the connection, and passes.
        await sockets?.destroy(over)
        ended += await connections.remove(over)
      }
      return ended
    } catch (error) {
      putBack(due)
      throw error
    }
  }

  /** Whether a connection must end. */
  function makeJudge(due: Due, now: Snapshot): (connection: Connection) => boolean {
    const decideNow = makeDecider(now)
    const deciders = new Map<Snapshot, (flow: Flow) => Decision>()
    function decideBefore(before: Snapshot): (flow: Flow) => Decision {
      let decide = deciders.get(before)
      if (decide === undefined) deciders.set(before, (decide = makeDecider(before)))
      return decide
    }
    const isHost = (address: Address): boolean => now.addresses.get(address) === hostId
    const isSomebodys = (address: Address): boolean => isHost(address) || now.endpointOf(address) !== undefined
    const isOurs = (address: Address): boolean => isHost(address) || now.endpointOf(address)?.local === true

    return (connection) => {
      const { source, destination, peer, back, peerPort, destinationPort } = connection
      const asker = now.endpointOf(source)?.identity ?? (isHost(source) ? hostId : undefined)
      const touched = [source, destination, peer, back].flatMap((address) => {
        const noted = due.addresses.get(address)
        return noted === undefined ? [] : [{ address, before: noted.before }]
      })
      const hasLost = asker !== undefined && due.lost.has(keyOf(asker, peer))
      if (touched.length === 0 && !hasLost) return false
      if (touched.some(({ address, before }) => before === undefined && !isSomebodys(address))) return true
      if (destinationPort === dnsPort && peerPort === allowances.proxyPort) return false
      // Loopback, by whatever address.
      if (isHost(source) && isHost(peer)) return false

      const flow = flowOf(connection, asker === undefined ? [] : namesOf(asker, peer))
      const { egress, ingress } = decideNow(flow)
      const isDenied = {
        egress:
          isOurs(source) && !passes(egress.verdict) && !(isHost(source) && mayAlways('send', connection, allowances)),
        ingress:
          isOurs(peer) && !passes(ingress.verdict) && !(isHost(peer) && mayAlways('get', connection, allowances)),
      }
      if (!isDenied.egress && !isDenied.ingress) return false
      if ((hasLost && isDenied.egress) || touched.some(({ before }) => before === undefined)) return true

      // The workloads are the same. What was not allowed before, by all that is known, was there for a reason that is not: the lease that opened it
      // is of an earlier agent or over by age, or it is older than the policy. It goes on, unless names are granted otherwise now.
      return touched.some(({ before }) => {
        if (before === undefined) return true
        const was = decideBefore(before)(flow)
        if (isDenied.ingress && passes(was.ingress.verdict)) return true
        if (!isDenied.egress || asker === undefined) return false
        return passes(was.egress.verdict) || before.policyOf(asker).grantsText !== now.policyOf(asker).grantsText
      })
    }
  }

  return { note, noteFound, noteAll, noteLost, isSettled: () => addresses.size === 0 && lost.size === 0, settle }
}

/** In prerouting, where it is judged, the destination is translated already and the source not yet. */
function flowOf({ source, peer, protocol, peerPort, icmpType }: Connection, names: readonly string[]): Flow {
  const at = (address: Address): Party => ({ kind: 'address', address })
  const port = protocolsWithPorts.includes(protocol) ? peerPort : undefined
  return { from: at(source), to: at(peer), protocol, port, icmpType, names }
}

/** Whether this host may begin such a connection, or be at its other end, whatever its policies say: its upstreams, DHCP, the proxy. */
function mayAlways(how: 'send' | 'get', { protocol, sourcePort, peer, peerPort }: Connection, { proxyPort, upstreams }: HostAllowances): boolean {
  if (protocol !== Protocol.TCP && protocol !== Protocol.UDP) return false
  const isDhcp = protocol === Protocol.UDP && dhcpPorts.some((pair) => pair.includes(sourcePort) && pair.includes(peerPort))
  if (isDhcp || how === 'get') return isDhcp || peerPort === proxyPort
  return upstreams.some(({ address, port }) => address === peer && port === peerPort)
} // prettier-ignore

const passes = (verdict: string): boolean => verdict === 'allowed' || verdict === 'audited'
const dnsPort = 53
/** Client and server, in either direction (RFC 2131 §4.1, RFC 8415 §7.2). */
const dhcpPorts: readonly (readonly number[])[] = [[68, 67], [546, 547]] // prettier-ignore
/** TCP, UDP, SCTP. */
const protocolsWithPorts: readonly number[] = [6, 17, 132]
