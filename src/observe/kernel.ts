// What the kernel tells of packets (NFLOG), as flows with their why. Polls: Node cannot wait on a netlink socket, and a look costs 1 us.
import { bindGroup, readLogged, type Logged } from '../datapath/nflog.ts'
import { KernelError, type Netlink } from '../datapath/netlink.ts'
import { readAnswers } from '../datapath/nfnetlink.ts'
import { logPrefix } from '../datapath/structure.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import type { Address } from '../net/address.ts'
import type { Direction } from '../policy/rules.ts'
import { portsCover, type L4, type Ports } from '../net/ports.ts'
import type { Statement } from '../policy/rulings.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'
import { labelsOfName, makeDecider, type Decision, type Flow, type VerdictKind } from '../policy/verdict.ts'
import { endOf, PolicyMatch, type ConnectionFlow } from './flow.ts'

const pollMillis = 20
/** Messages read in one turn; what is more waits in the socket, and past that is lost and counted. */
const messagesPerTurn = 64

export interface KernelFlows {
  /** Looks at once instead of at the next turn. */
  readonly poll: () => void
  readonly close: () => void
}

/** Joins packets with policy: who, by which names, and which rule. Pure but for what it remembers of one snapshot. */
export function makeJoiner(
  snapshot: () => Snapshot,
  namesOf: (identity: IdentityId, address: Address) => string[],
): (logged: Logged, time: number) => ConnectionFlow | undefined {
  let of: Snapshot | undefined
  let decide: (flow: Flow) => Decision
  const audited = makeRecent(auditedMax)
  return (logged, time) => {
    const denied = directionOf(logged.prefix)
    const isDenied = denied !== undefined
    if (!isDenied && logged.prefix !== logPrefix.allowed) return undefined
    // Audit mode lets pass what it has told of: that is one flow.
    const packet = packetKey(logged)
    if (!isDenied && audited.take(packet)) return undefined
    const now = snapshot()
    if (of !== now) {
      of = now
      decide = makeDecider(now)
    }
    const { source, destination, protocol, sourcePort, destinationPort, icmp, tcpFlags } = logged
    const from = now.endpointOf(source)
    const names = from === undefined ? [] : namesOf(from.identity, destination)
    const decision = decide({ from: { kind: 'address', address: source }, to: { kind: 'address', address: destination }, protocol, port: destinationPort, icmpType: icmp?.type, names }) // prettier-ignore
    // Who has no policy of ours was not asked: then the receiver's let it pass.
    const isSubject = from !== undefined ? from.local : now.policyOf(now.identityOf(source)).directions.egress.selected
    const direction = denied ?? (isSubject ? 'egress' : 'ingress')
    const said = decision[direction]
    const subject = direction === 'egress' ? source : destination
    const isAudited = isDenied && now.policyOf(now.identityOf(subject)).directions[direction].audit
    if (isAudited) audited.add(packet)
    const statement = statementOf(now, direction, subject, names, { protocol, port: destinationPort, icmpType: icmp?.type }, said.why[0]) // prettier-ignore
    return {
      kind: 'connection',
      time,
      direction,
      source: endOf(now, source),
      destination: endOf(now, destination, names),
      verdict: !isDenied ? 'FORWARDED' : isAudited ? 'AUDIT' : 'DROPPED',
      why: sayWhy(said.why[0], isDenied, said.verdict),
      protocol,
      sourcePort,
      destinationPort,
      icmp,
      tcpFlags,
      byDenyRule: isDenied && statement?.kind === 'deny',
      match: matchOf(statement, isDenied, said.verdict),
    }
  }
}

/** The statement that decided, where one did: verdicts carry its very why, which the statements of one rule share. */
function statementOf(
  snapshot: Snapshot,
  direction: Direction,
  subject: Address,
  names: readonly string[],
  packet: L4,
  why: Why,
): Statement | undefined {
  if (why.policy === undefined) return undefined
  const policy = snapshot.policyOf(snapshot.identityOf(subject))
  const statements = [...policy.directions[direction].entries, ...names.flatMap((name) => policy.grantsFor(labelsOfName(name)))] // prettier-ignore
  return statements.find((statement) => statement.why === why && portsCover(statement.ports, packet))
}

/** Policy may be another by now than when the kernel decided: then no rule is known that did. */
function matchOf(statement: Statement | undefined, isDenied: boolean, verdict: VerdictKind): PolicyMatch {
  if (isDenied) return statement?.kind === 'deny' ? ruleMatch(statement) : PolicyMatch.None
  if (verdict !== 'allowed') return PolicyMatch.None
  // Allowed without a rule: no policy selects, or the default lets it pass.
  return statement === undefined ? PolicyMatch.All : ruleMatch(statement)
}

function ruleMatch(statement: Statement): PolicyMatch {
  // Who is granted a name is granted its addresses.
  const hasPeers = !('peers' in statement) || statement.peers !== 'everyone'
  switch (scopeOf(statement.ports)) {
    case 'all':
      return hasPeers ? PolicyMatch.L3 : PolicyMatch.All
    case 'protocol':
      return hasPeers ? PolicyMatch.L3Protocol : PolicyMatch.Protocol
    case 'ports':
      return hasPeers ? PolicyMatch.L3L4 : PolicyMatch.L4
  }
}

/** A type of ICMP is what a port is elsewhere. */
function scopeOf(ports: Ports): 'all' | 'protocol' | 'ports' {
  if (ports.kind === 'icmp') return 'ports'
  return ports.kind === 'ports' && ports.first === 0 && ports.last === 65535 ? 'protocol' : ports.kind
}

/** The kernel decided when the packet came; policy or leases may be others by now. */
function sayWhy(why: Why, isDenied: boolean, verdict: VerdictKind): Why {
  if (isDenied && verdict === 'allowed') return { ...why, text: `not allowed when it was tried; now ${why.text}` }
  if (isDenied && verdict === 'redirect') return { ...why, text: `not enforced yet: ${why.text}` }
  if (!isDenied && verdict === 'denied') return { ...why, text: `allowed when it was tried; now ${why.text}` }
  return why
}

/** Whose denial it is; undefined: none. */
function directionOf(prefix: string): Direction | undefined {
  if (prefix === logPrefix.egress) return 'egress'
  return prefix === logPrefix.ingress ? 'ingress' : undefined
}

/** Packets of audit mode whose passing is still to be told of: it follows at once, or was not logged. */
const auditedMax = 4096

/** The last so many keys; those longest in it go first. */
function makeRecent(max: number): { add: (key: string) => void; take: (key: string) => boolean } {
  const keys = new Set<string>()
  return {
    add: (key) => {
      keys.add(key)
      if (keys.size <= max) return
      const [eldest] = keys
      if (eldest !== undefined) keys.delete(eldest)
    },
    take: (key) => keys.delete(key),
  }
}

const packetKey = ({ source, destination, protocol, sourcePort, destinationPort, icmp }: Logged): string =>
  `${source} ${destination} ${protocol} ${sourcePort ?? icmp?.type} ${destinationPort}`

/**
 * Listens to a group. Takes over the socket. Throws `KernelError` when the kernel has no such thing, or somebody else has the group.
 * @param lost is told how many packets were not told of.
 */
export function listenToKernel(
  netlink: Netlink,
  group: number,
  tell: (logged: Logged) => void,
  lost: (count: number) => void,
): KernelFlows {
  const octets = new Uint8Array(1 << 16)
  netlink.send(octets, bindGroup(octets, group, 1))
  const [answer] = readAnswers(octets, netlink.receive(octets))
  if (answer?.kind !== 'ack') {
    netlink.close()
    throw new KernelError(`listen to NFLOG group ${group}`, answer?.kind === 'error' ? answer.errno : 0)
  }
  let next: number | undefined
  function read(): number {
    try {
      return netlink.receive(octets)
    } catch {
      // ENOBUFS: the numbers of what comes next tell how many.
      return -1
    }
  }
  function poll(): void {
    for (let i = 0; i < messagesPerTurn; i++) {
      const length = read()
      if (length === 0) return
      for (const logged of length < 0 ? [] : readLogged(octets, length)) {
        const missing = next === undefined ? 0 : (logged.sequence - next) >>> 0
        if (missing > 0) lost(missing)
        next = (logged.sequence + 1) >>> 0
        tell(logged)
      }
    }
  }
  const polling = setInterval(poll, pollMillis)
  polling.unref()
  return {
    poll,
    close: () => {
      clearInterval(polling)
      netlink.close()
    },
  }
}
