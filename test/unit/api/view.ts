// Something for the API to show: two workloads under a policy, and leases on a clock that stands still. No kernel, no sockets.
import type { ApiView } from '../../../src/api/routes.ts'
import { makeIdentities } from '../../../src/identity/identities.ts'
import type { LeaseFact } from '../../../src/leases/lease.ts'
import { makeLeases } from '../../../src/leases/leases.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'
import { makeObserver } from '../../../src/observe/observer.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import { makeNameRules } from '../../../src/proxy/names.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'
import { wireFromText } from '../../../src/wire/name.ts'

const raise = (text: string): never => {
  throw new Error(text)
}
const at = (text: string): Address => addressFromText(text) ?? raise(text)

const manifests = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIPs: [{ip: 10.1.0.3}, {ip: "fd01::3"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress: [{toFQDNs: [{matchPattern: "*.example.com"}]}]
`

export interface Shown extends ApiView {
  readonly learn: (fact: Partial<LeaseFact> & { readonly name: string; readonly ips: readonly string[] }) => void
  /** Lets the clock, which stands at 0, stand at another moment, and end what is over then. */
  readonly setTime: (millis: number) => void
}

/** Web is endpoint 1 with identity 256, db endpoint 2 with 257. `over` replaces what the agent would say; `more` are further manifests. */
export function showWorld(over: Partial<ApiView> = {}, more = ''): Shown {
  const loaded = loadWorld([{ path: 'world.yaml', text: manifests + more }])
  if (!loaded.ok) return raise(JSON.stringify(loaded.issues))
  const { world } = loaded
  const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', identities: makeIdentities(undefined, (text) => text) })(world) // prettier-ignore
  const rules = makeNameRules({ clusterDomain: wireFromText('cluster.local') ?? raise('cluster.local'), searchSuffixes: [], refuseDoh: false }) // prettier-ignore
  let now = 0
  const leases = makeLeases(() => now, () => 0, { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 86_400, zombieSecondsMax: 3600, addressesPerNameMax: 100_000, leasesMax: 100_000 }, (identity) => identity === 257) // prettier-ignore
  return {
    port: 10053,
    clock: () => now,
    metrics: { text: async () => 'namegate_leases 2\n' },
    snapshot: () => snapshot,
    leases,
    kernelHolds: async () => undefined,
    expandedFrom: (name) => rules.expandedFrom(wireFromText(name) ?? raise(name)),
    resolverTries: async () => [],
    policySet: () => ({ revision: 1, policies: world.policies, warnings: [], refused: [] }),
    cleanLeases: async (matches) => leases.drop(matches).dropped.length,
    troubles: () => [],
    succession: { ask: () => undefined, state: () => ({ kind: 'idle' }) },
    observer: makeObserver({ snapshot: () => snapshot, capacity: 4095, place: { cluster: 'default', node: 'node-1' }, now: () => now }), // prettier-ignore
    ...over,
    learn: ({ ips, ...fact }) => void leases.learn({ identity: 256, endpoint: 1, addresses: ips.map(at), ttlSeconds: 60, ports: [{ kind: 'all' }], ...fact }), // prettier-ignore
    setTime(millis) {
      now = millis
      leases.expire()
    },
  }
}
