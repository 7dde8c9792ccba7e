// Claims: a verdict costs about the same under 10 000 policies as under 10, and there are more than a million a second on one core; a full
// compile of 10 000 policies, 10 000 endpoints and 1 000 identities takes seconds at most, one changed policy milliseconds.
import { parseCiliumPolicy } from '../../src/policy/cilium.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'
import { makeReport } from '../../src/policy/field.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Pod, Policy, World } from '../../src/policy/rules.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { makeDecider, type Flow } from '../../src/policy/verdict.ts'
import { readDocuments } from '../../src/sources/documents.ts'
import { defaultParseOptions } from '../../src/sources/manifests.ts'

const namespaces = 20
const apps = 50
const replicas = 10
const policies = 10_000
const flows = 1 << 17
/** Not counted: code that is still being compiled is not what is asked. */
const warmUps = 3
const rounds = 7
/** Processor time is counted in steps of 4 ms: a round is long against that. */
const passes = 4

/** The same numbers in every run. */
function makeRandom(): (below: number) => number {
  let state = 42
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}
type Random = ReturnType<typeof makeRandom>

const at = (text: string): Address => {
  const address = addressFromText(text)
  if (address === undefined) throw new Error(text)
  return address
}

function podOf(i: number): Pod {
  const app = Math.floor(i / replicas) % apps
  const namespace = `ns${Math.floor(i / replicas / apps)}`
  return { path: '', line: 1, kind: 'Pod', namespace, name: `pod${i}`, file: 'pods.yaml', labels: new Map([['app', `app${app}`], ['tier', `tier${app % 5}`], ['pod-template-hash', String(i)]]), addresses: [`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`], hostNetwork: false, ports: [{ name: 'http', protocol: 6, port: 8080 }], containerPorts: [] } // prettier-ignore
}

/** Ingress and egress of one app: other apps of its namespace, some of another, CIDRs, names, denials. */
function policyText(i: number, random: Random): string {
  const namespace = `ns${i % namespaces}`
  const app = (): string => `app${random(apps)}`
  const rules = [
    `{toEndpoints: [{matchLabels: {app: ${app()}}}, {matchLabels: {tier: tier${random(5)}}}], toPorts: [{ports: [{port: "${8000 + random(90)}", protocol: TCP}, {port: "53", protocol: UDP}]}]}`,
    `{toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": ns${random(namespaces)}, app: ${app()}}}]}`,
    `{toCIDR: ["203.0.${random(256)}.0/24"], toPorts: [{ports: [{port: "443", endPort: ${443 + random(20)}, protocol: TCP}]}]}`,
    `{toFQDNs: [{matchName: "api${random(1000)}.example.com"}], toPorts: [{ports: [{port: "443", protocol: TCP}]}]}`,
  ]
  const deny = i % 7 === 0 ? `\n  egressDeny: [{toCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.${random(256)}/32]}]}]` : '' // prettier-ignore
  return `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p${i}, namespace: ${namespace}}
spec:
  endpointSelector: {matchLabels: {app: app${Math.floor(i / namespaces) % apps}}}
  ingress: [{fromEndpoints: [{matchLabels: {app: ${app()}}}], toPorts: [{ports: [{port: http, protocol: TCP}, {port: "${9000 + random(50)}", protocol: TCP}]}]}, {fromEntities: [host]}]
  egress: [${rules[i % 4] ?? ''}, ${rules[(i + 1) % 4] ?? ''}]${deny}
`
}

function readPolicy(i: number, random: Random): Policy {
  const report = makeReport()
  const [root] = readDocuments(report, { path: `p${i}.yaml`, text: policyText(i, random) })
  const spec = root?.kind === 'map' ? root.entries.get('spec') : undefined
  const found = spec === undefined ? undefined : parseCiliumPolicy(report, { kind: 'CiliumNetworkPolicy', name: `p${i}`, namespace: `ns${i % namespaces}`, annotations: new Map() }, spec, defaultParseOptions) // prettier-ignore
  if (found === undefined) throw new Error(JSON.stringify(report.issues))
  return found
}

function worldOf(pods: readonly Pod[], list: readonly Policy[]): World {
  return { namespaces: new Map(), pods, nodes: [], services: [], endpointSlices: [], cidrGroups: [], policies: list }
}

/** Every fourth leaves the cluster, every other one stays in its namespace. */
function randomFlows(pods: readonly Pod[], random: Random): readonly Flow[] {
  const size = pods.length / namespaces
  return Array.from({ length: flows }, (_, i): Flow => {
    const from = random(pods.length)
    const near = Math.floor(from / size) * size + random(size)
    const to =
      i % 4 === 3
        ? `203.0.${random(256)}.${random(256)}`
        : (pods[i % 4 === 0 ? random(pods.length) : near]?.addresses[0] ?? '')
    const port = [8080, 8000 + random(90), 9000 + random(50), 443][i % 4] ?? 0
    return { from: { kind: 'address', address: at(pods[from]?.addresses[0] ?? '') }, to: { kind: 'address', address: at(to) }, protocol: 6, port } // prettier-ignore
  })
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0
/** Milliseconds of this thread on a processor: what else the machine does is not asked. */
const timed = (work: () => void): number => {
  const before = process.threadCpuUsage()
  work()
  const { user, system } = process.threadCpuUsage(before)
  return (user + system) / 1000
}

/** Nanoseconds a verdict under each snapshot, medians; rounds alternate, so that both meet the same machine. */
function measureVerdicts(snapshots: readonly Snapshot[], list: readonly Flow[]): readonly { readonly nanos: number; readonly allowed: number }[] {
  const sides = snapshots.map((snapshot) => ({ decide: makeDecider(snapshot), millis: [] as number[], allowed: 0 }))
  for (let round = 0; round < warmUps + rounds; round++)
    for (const side of sides) {
      side.allowed = 0
      const millis = timed(() => {
        for (let pass = 0; pass < passes; pass++) for (const flow of list) if (side.decide(flow).verdict === 'allowed') side.allowed++
      })
      if (round >= warmUps) side.millis.push(millis)
    }
  return sides.map(({ millis, allowed }) => ({ nanos: (median(millis) / list.length / passes) * 1e6, allowed: allowed / passes }))
} // prettier-ignore

/** Everything that the kernel would read, so that nothing is left for later. */
function computeAll(snapshot: Snapshot): void {
  for (const id of snapshot.identities.keys()) snapshot.policyOf(id)
}

export function policy(): void {
  const random = makeRandom()
  const pods = Array.from({ length: namespaces * apps * replicas }, (_, i) => podOf(i))
  const all = Array.from({ length: policies }, (_, i) => readPolicy(i, random))
  const options = { hostAddresses: [], upstreams: [], denyReply: 'refused' } as const
  const list = randomFlows(pods, random)

  let compile = makeCompiler(options)
  let snapshot: Snapshot | undefined
  const full = median(Array.from({ length: 3 }, () => timed(() => {
    compile = makeCompiler(options)
    snapshot = compile(worldOf(pods, all))
    computeAll(snapshot)
  }))) // prettier-ignore
  const changes = (change: (i: number) => World): string => {
    const millis = Array.from({ length: 15 }, (_, i) => {
      const next = change(i)
      const startedAt = performance.now()
      computeAll(compile(next))
      const took = performance.now() - startedAt
      computeAll(compile(worldOf(pods, all)))
      return took
    })
    return `${median(millis).toFixed(1)} ms (greatest ${Math.max(...millis).toFixed(1)} ms)`
  }
  const onePod = (i: number, change: Partial<Pod>): readonly Pod[] => pods.map((pod, j) => (j === i * 601 ? { ...pod, ...change } : pod)) // prettier-ignore
  const policyChanged = changes((i) => worldOf(pods, all.with(i * 601, readPolicy(i * 601, random))))
  const addressChanged = changes((i) => worldOf(onePod(i, { addresses: [`10.255.0.${i}`] }), all))
  const labelChanged = changes((i) => worldOf(onePod(i, { labels: new Map([['app', 'app1'], ['new', String(i)]]) }), all)) // prettier-ignore
  const identities = snapshot === undefined ? 0 : [...snapshot.identities.keys()].filter((id) => id >= 256).length
  console.log(`policy: ${all.length} policies, ${pods.length} endpoints, ${identities} identities`)
  console.log(`  full compile ${full.toFixed(0)} ms; one policy changed ${policyChanged}; one address ${addressChanged}; one label ${labelChanged}`) // prettier-ignore
  if (snapshot === undefined) return
  const few = makeCompiler(options)(worldOf(pods, all.slice(0, 10)))
  const [small, large] = measureVerdicts([few, snapshot], list)
  if (small === undefined || large === undefined) return
  console.log(`  verdicts, both directions: ${(1e3 / large.nanos).toFixed(2)} million/s under ${all.length} policies (${large.nanos.toFixed(0)} ns, ${large.allowed} of ${list.length} allowed), ${(1e3 / small.nanos).toFixed(2)} million/s under 10: ${(large.nanos / small.nanos).toFixed(2)}x`) // prettier-ignore
}
