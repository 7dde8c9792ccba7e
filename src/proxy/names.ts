// Questions that are not meant as they stand: names that a resolver made up from its search list, and names by which a client looks for a
// resolver that we would not see.
import { isUnder, labelsOf, wireFromText, type WireName } from '../wire/name.ts'

export interface NameOptions {
  readonly clusterDomain: WireName
  /** Further search domains that workloads are given: those of the node, of a cloud. */
  readonly searchSuffixes: readonly WireName[]
  /** Refuse the canary and the names of known public resolvers. */
  readonly refuseDoh: boolean
}

export interface NameRules {
  /** What `name` may be the expansion of: the labels before each search domain that it ends in. */
  readonly expandedFrom: (name: WireName) => readonly (readonly string[])[]
  /** Whether it is the name of a resolver that would not be seen (not one by which such are only looked for). */
  readonly isResolver: (name: WireName) => boolean
  /** @param byPolicy refused whatever the configuration says. */
  readonly isDohRefused: (name: WireName, byPolicy: boolean) => boolean
}

/** Names by which clients look for such resolvers. Browsers turn their own DNS over HTTPS off when the first does not exist; the other is RFC 9462's. */
const lookouts = ['use-application-dns.net', '_dns.resolver.arpa']

/** Names of public resolvers over HTTPS and TLS. Resolvers without a well-known name are for address rules to hold back. */
const resolvers = [
  'cloudflare-dns.com',
  'mozilla.cloudflare-dns.com',
  'one.one.one.one',
  'dns.google',
  'dns.google.com',
  'dns64.dns.google',
  'dns.quad9.net',
  'dns9.quad9.net',
  'dns10.quad9.net',
  'dns11.quad9.net',
  'doh.opendns.com',
  'doh.familyshield.opendns.com',
  'dns.umbrella.com',
  'doh.umbrella.com',
  'dns.adguard.com',
  'dns.adguard-dns.com',
  'dns.nextdns.io',
  'doh.cleanbrowsing.org',
  'doh.dns.sb',
  'dns.sb',
  'doh.mullvad.net',
  'dns.mullvad.net',
  'doh.xfinity.com',
  'dns.alidns.com',
  'doh.pub',
  'doh.360.cn',
  'dns.controld.com',
  'freedns.controld.com',
  'odoh.cloudflare-dns.com',
]
const toWires = (names: readonly string[]): WireName[] => names.flatMap((name) => wireFromText(name) ?? [])

export function makeNameRules({ clusterDomain, searchSuffixes, refuseDoh }: NameOptions): NameRules {
  const known = toNames(toWires(resolvers))
  const refused = toNames([...known.all, ...toWires(lookouts)])
  const clusterDepth = labelsOf(clusterDomain).length
  return {
    expandedFrom(name) {
      const labels = labelsOf(name)
      const shorter: string[][] = []
      const cut = (depth: number): void => {
        if (depth > 0 && labels.length > depth) shorter.push(labels.slice(0, -depth))
      }
      if (isUnder(name, clusterDomain)) {
        // NAME.NAMESPACE.svc.DOMAIN, NAME.svc.DOMAIN, NAME.DOMAIN: the search list that Kubernetes writes.
        const isService = labels[labels.length - clusterDepth - 1] === 'svc'
        if (isService) cut(clusterDepth + 2)
        if (isService) cut(clusterDepth + 1)
        cut(clusterDepth)
      }
      for (const suffix of searchSuffixes) if (isUnder(name, suffix)) cut(labelsOf(suffix).length)
      return shorter
    },
    // The names under them too: NextDNS and ControlD give each customer one.
    isResolver: (name) => isBelow(name, known),
    isDohRefused: (name, byPolicy) => (refuseDoh || byPolicy) && isBelow(name, refused),
  }
}

/** Whether one of `names`, which all have two labels or more, is `name` or above it. Most names end in none of their last two labels: one look then. */
function isBelow(name: WireName, { all, ends }: Names): boolean {
  return ends.has(lastTwo(name)) && ancestorsOf(name).some((ancestor) => all.has(ancestor))
}

interface Names {
  readonly all: ReadonlySet<WireName>
  /** Their last two labels. */
  readonly ends: ReadonlySet<WireName>
}
const toNames = (wires: readonly WireName[]): Names => ({ all: new Set(wires), ends: new Set(wires.map(lastTwo)) })

function lastTwo(name: WireName): WireName {
  let [second, last] = [0, 0]
  for (let at = 0; at < name.length - 1; at += name.charCodeAt(at) + 1) [second, last] = [last, at]
  return name.slice(second) as WireName
}

function ancestorsOf(name: WireName): WireName[] {
  const names: WireName[] = []
  for (let at = 0; at < name.length - 1; at += name.charCodeAt(at) + 1) names.push(name.slice(at) as WireName)
  return names
}
