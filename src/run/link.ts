// The link between a workload and its gate. Both ends are inside private namespaces, so all runs may use the same addresses: such as mean
// nothing outside (RFC 7335, RFC 4193). But where the machine itself is the workload of another run, its own link has them already.
import type { Link } from './gate.ts'

/** Runs inside runs, at most. The /30 at 8 and everything from 168 on are other protocols' (IANA: IPv4 special-purpose addresses). */
const places = Array.from({ length: 42 }, (_, i) => i).filter((place) => place !== 2)

/** A link that no address of this machine lies on. */
export function freeLink(ownAddresses: readonly string[]): Link {
  const link = places.map(linkAt).find((one) => !ownAddresses.includes(one.address4))
  if (link === undefined) throw new Error('no free /30 in 192.0.0.0/24')
  return link
}

function linkAt(place: number): Link {
  const [four, six] = [place * 4, place === 0 ? '' : `${place.toString(16)}:`]
  return {
    name: 'work',
    address4: `192.0.0.${four + 2}`,
    gateway4: `192.0.0.${four + 1}`,
    address6: `fd6e:6761:7465:${six}:2`,
    gateway6: `fd6e:6761:7465:${six}:1`,
  }
}
