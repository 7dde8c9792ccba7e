// World -> snapshot: labels become identities, policies become what each identity may ask and reach. Identities that the same policies
// select share one compiled policy. Numbers live on from one snapshot to the next, and so does what a change does not touch.
import type { IdentityId } from '../identity/endpoints.ts'
import { makeIdentities, type IdentityTable } from '../identity/identities.ts'
import { hostId, unknownId, worldId } from '../identity/reserved.ts'
import { selects } from '../identity/selector.ts'
import type { Labels } from '../identity/labels.ts'
import type { Address } from '../net/address.ts'
import { compareStatements, compileNames, whyOf, type PolicyRule } from './names.ts'
import { isNobody, resolvePeers, resolvePorts, type Surroundings } from './resolve.ts'
import { identityOf, makePlaces, type Places } from './places.ts'
import { Tier, type Direction, type NamedPort, type Policy, type Semantics, type World } from './rules.ts'
import type { DirectionPolicy, Entry, Snapshot, SubjectPolicy } from './snapshot.ts'

export interface CompileOptions {
  /** Addresses of this host: entity `host`, in-cluster. */
  readonly hostAddresses: readonly Address[]
  /** The resolvers behind the proxy: a rule that allows port 53 to one of them allows every name. */
  readonly upstreams: readonly Address[]
  readonly denyReply: 'refused' | 'nxdomain'
  readonly semantics?: Semantics
  readonly clusterName?: string
  /** The node whose addresses are this host's too. */
  readonly localNode?: string | undefined
  /** As Cilium's enable-policy. `always`: who is selected by nothing is denied everything; `never`: policies do nothing. */
  readonly enforcement?: 'default' | 'always' | 'never'
  /** This host may always reach its pods, where no rule says otherwise (on unless false). */
  readonly allowLocalhost?: boolean
  /** Denials at L3/L4 are noted, and let through. */
  readonly audit?: boolean
  /** Whether policies with a nodeSelector hold for this host's own traffic. */
  readonly hostPolicies?: boolean
  /** Numbers for label sets; a fresh table when absent. */
  readonly identities?: IdentityTable
}

type Settings = Required<Omit<CompileOptions, 'localNode' | 'identities'>>

/** Compiles worlds one after the other; identity and endpoint numbers stay with their labels and pods. */
export function makeCompiler(options: CompileOptions): (world: World) => Snapshot {
  const settings: Settings = { semantics: 'spec', clusterName: 'default', enforcement: 'default', allowLocalhost: true, audit: false, hostPolicies: false, ...options } // prettier-ignore
  const identities = options.identities ?? makeIdentities()
  const place = makePlaces({ ...settings, localNode: options.localNode, identities })
  let revision = 0

  return (world) => {
    const places = place(world)
    const around: Surroundings = { places, world, semantics: settings.semantics, clusterName: settings.clusterName }
    const compiled = new Map<string, Omit<SubjectPolicy, 'identity'>>()
    const policies = new Map<IdentityId, SubjectPolicy>()
    const unknown = compileSubject(unknownId, [], [], around, { ...settings, enforcement: 'always', audit: false })
    const free = compileSubject(unknownId, [], [], around, { ...settings, enforcement: 'never' })

    function policyOf(identity: IdentityId): SubjectPolicy {
      let policy = policies.get(identity)
      if (policy === undefined) policies.set(identity, (policy = computePolicy(identity)))
      return policy
    }
    function computePolicy(identity: IdentityId): SubjectPolicy {
      const labels = places.universe.identities.get(identity)?.labels
      if (labels === undefined) return { ...unknown, identity, mayAsk: () => ({ kind: 'deny', why: { text: 'no endpoint has this identity' } }) } // prettier-ignore
      if (!isSubject(identity, places, settings)) return { ...free, identity }
      const selecting = world.policies.filter((policy) => isSelected(policy, identity, labels, places))
      const ports = places.namedPorts.get(identity) ?? []
      const key = `${identity === hostId} ${selecting.map((policy) => world.policies.indexOf(policy)).join()} ${JSON.stringify(ports)}` // prettier-ignore
      let shared = compiled.get(key)
      if (shared === undefined) compiled.set(key, (shared = compileSubject(identity, selecting, ports, around, settings))) // prettier-ignore
      return { ...shared, identity }
    }
    return {
      revision: ++revision,
      endpoints: places.endpoints,
      endpointOf: (address) => places.endpointsByAddress.get(address),
      identities: places.universe.identities,
      policyOf,
      identityOf: (address) => identityOf(places, address),
      addresses: places.addresses,
      isInCluster: (address) => places.inCluster.has(address),
      notes: places.notes,
    }
  }
}

/** World, other nodes and API servers have no policy of their own here; this host has one behind a switch. */
function isSubject(identity: IdentityId, { nodeIds, universe }: Places, { hostPolicies }: Settings): boolean {
  if (identity === hostId) return hostPolicies
  if (identity === worldId[4] || identity === worldId[6] || nodeIds.has(identity)) return false
  return universe.identities.get(identity)?.labels.has('reserved:kube-apiserver') !== true
}

function isSelected(policy: Policy, identity: IdentityId, labels: Labels, { hostNodeLabels }: Places): boolean {
  if (policy.subject.kind === 'node') return identity === hostId && selects(policy.subject.selector, hostNodeLabels)
  return identity !== hostId && selects(policy.subject.selector, labels)
}

function compileSubject(
  identity: IdentityId,
  selecting: readonly Policy[],
  ports: readonly NamedPort[],
  around: Surroundings,
  settings: Settings,
): SubjectPolicy {
  const { places } = around
  const direction = (of: Direction): DirectionPolicy => compileDirection(of, identity, selecting, ports, around, settings) // prettier-ignore
  const directions = { ingress: direction('ingress'), egress: direction('egress') }
  const rules = settings.enforcement === 'never' ? [] : rulesOf(selecting, 'egress', settings)
  return {
    identity,
    directions,
    denyReply: selecting.some((policy) => policy.denyReply === 'nxdomain')
      ? 'nxdomain'
      : (selecting.find((policy) => policy.denyReply !== undefined)?.denyReply ?? settings.denyReply),
    ...compileNames(rules, directions.egress, {
      upstreams: settings.upstreams,
      identityOf: (address) => identityOf(places, address),
      isOutside: (address) => !places.inCluster.has(address),
    }),
  }
}

/** The rules of one direction. By the specification a NetworkPolicy's verdict is final: the Baseline tier is not reached where one isolates. */
function rulesOf(selecting: readonly Policy[], direction: Direction, { semantics }: Settings): readonly PolicyRule[] {
  const isIsolated = semantics === 'spec' && selecting.some((policy) => policy.kind === 'NetworkPolicy' && policy.defaultDeny[direction]) // prettier-ignore
  return selecting.flatMap((policy) =>
    policy.rules
      .filter((rule) => rule.direction === direction && !(isIsolated && rule.tier === Tier.Baseline))
      .map((rule) => ({ policy, rule })),
  )
}

function compileDirection(
  direction: Direction,
  identity: IdentityId,
  selecting: readonly Policy[],
  ports: readonly NamedPort[],
  around: Surroundings,
  settings: Settings,
): DirectionPolicy {
  const { enforcement, audit, allowLocalhost } = settings
  const free = { selected: false, defaultDeny: false, selectedBy: [], entries: [], fallback: 'allow', fallbackFromHost: 'allow', audit } as const // prettier-ignore
  if (enforcement === 'never') return free
  const here = selecting.filter((policy) => policy.directions.includes(direction))
  const defaultDeny = enforcement === 'always' || here.some((policy) => policy.defaultDeny[direction])
  const passesLocalhost = direction === 'ingress' && allowLocalhost && here.length > 0 && identity !== hostId
  const entries = rulesOf(here, direction, settings).flatMap(({ policy, rule }) =>
    compileRule(policy, rule, ports, around),
  )
  return {
    selected: here.length > 0,
    defaultDeny,
    selectedBy: here.map((policy) => policy.name),
    entries: entries.sort(compareStatements),
    fallback: defaultDeny ? 'deny' : 'allow',
    fallbackFromHost: defaultDeny && !passesLocalhost ? 'deny' : 'allow',
    audit,
  }
}

const said = { allow: 'allowed by rule', deny: 'denied by rule', pass: 'passed on by rule' } as const

/** A rule as entries, one for each of its ports; none when its peers are nobody. */
function compileRule(policy: Policy, rule: Policy['rules'][number], subjectPorts: readonly NamedPort[], around: Surroundings): readonly Entry[] {
  const resolved = resolvePeers(rule, around)
  if (isNobody(resolved)) return []
  const { kind, tier, priority, l7 } = rule
  const why = whyOf(policy, rule, said[kind])
  return rule.ports.flatMap((rulePorts) =>
    resolvePorts(rulePorts, resolved, rule, subjectPorts, around).map(({ peers, ports }) => ({ kind, tier, priority, peers, ports, ...(l7 === undefined ? {} : { l7 }), rule, why })),
  )
} // prettier-ignore
