// Where the demo happens: a gate with two workloads and a world behind it in namespaces of its own; or, without the rights for that,
// nowhere: lookups over loopback, connections only judged.
import { once } from 'node:events'
import type { Worker } from 'node:worker_threads'
import type { Agent, AgentParts } from '../agent.ts'
import { addressFromText } from '../net/address.ts'
import { Protocol } from '../net/ports.ts'
import { decideEgress, type EgressVerdict } from '../policy/verdict.ts'
import { attachWorkload, makeGate, type Gate, type Link } from '../run/gate.ts'
import { createNamespace, shell, workerIn, type Namespace } from '../run/namespace.ts'
import { lookUpFrom, type LookedUp, type Wish } from './workload.ts'

export const workloads = ['shop', 'batch'] as const
export type WorkloadName = (typeof workloads)[number]

export interface Places {
  readonly enforced: boolean
  /** What the agent needs to stand in this place. */
  readonly agent: Pick<AgentParts, 'kernel' | 'listeners'>
  readonly interfaces: readonly string[]
  /** Rewrites the manifests' addresses to where the workloads really are. */
  readonly manifest: (text: string) => string
  /** The same for one address of the story. */
  readonly addressOf: (text: string) => string
  readonly lookUp: (agent: Agent, who: WorkloadName, name: string, server: string) => Promise<LookedUp>
  /** `connected`, an error code, or (judged only) `would connect`, `would be denied`. */
  readonly connect: (agent: Agent, who: WorkloadName, address: string, port: number) => Promise<string>
  /** Shell commands that take a person into a workload. */
  readonly hints: readonly string[]
  readonly close: () => Promise<void>
}

const links: Readonly<Record<WorkloadName, Link>> = {
  shop: {
    name: 'shop',
    address4: '10.244.1.2',
    gateway4: '10.244.1.1',
    address6: 'fd00:244:1::2',
    gateway6: 'fd00:244:1::1',
  },
  batch: {
    name: 'batch',
    address4: '10.244.2.2',
    gateway4: '10.244.2.1',
    address6: 'fd00:244:2::2',
    gateway6: 'fd00:244:2::1',
  },
}
const worldLink: Link = {
  name: 'world',
  address4: '10.244.9.2',
  gateway4: '10.244.9.1',
  address6: 'fd00:244:9::2',
  gateway6: 'fd00:244:9::1',
}

/** Namespaces, veths, servers. Needs root; everything goes with the process. */
export async function enforcedPlaces(): Promise<Places> {
  const gate = await makeGate()
  // A kernel without nf_tables says so here, while another place can still be taken.
  await gate.kernel.nft(['list', 'tables'])
  const namespaces = { shop: await attachWorkload(gate, links.shop), batch: await attachWorkload(gate, links.batch) }
  const world = await attachWorld(gate)
  const inside = {
    shop: await resident(namespaces.shop),
    batch: await resident(namespaces.batch),
    world: await resident(world),
  }
  await inside.world.grant({ kind: 'serve', ports: [80, 443] })
  await inside.shop.grant({ kind: 'serve', ports: [8080] })
  return {
    enforced: true,
    agent: { kernel: gate.kernel, listeners: gate.listeners },
    interfaces: workloads.map((name) => links[name].name),
    manifest: (text) => text,
    addressOf: (text) => text,
    lookUp: (_agent, who, name, server) =>
      inside[who].grant({ kind: 'lookup', name, type: 'A', server, port: 53 }) as Promise<LookedUp>,
    connect: (_agent, who, address, port) => inside[who].grant({ kind: 'connect', address, port }) as Promise<string>,
    hints: [
      `nsenter --net=${namespaces.shop.path} bash    # be the shop: dig, curl, …`,
      `nsenter --net=${gate.namespace.path} nft list table inet namegate`,
    ],
    close: async () => {
      await Promise.all(Object.values(inside).map(({ worker }) => worker.terminate()))
      for (const namespace of [...Object.values(namespaces), world, gate.namespace]) namespace.release()
    },
  }
}

async function attachWorld(gate: Gate): Promise<Namespace> {
  const world = await createNamespace()
  const { name, address4, gateway4, address6, gateway6 } = worldLink
  await shell(
    `ip link add ${name} type veth peer name eth0 netns ${world.path}
     ip addr add ${gateway4}/30 dev ${name}; ip addr add ${gateway6}/64 dev ${name} nodad; ip link set ${name} up
     ip route add 198.18.0.0/15 via ${address4}`,
    gate.namespace,
  )
  await shell(
    `ip link set lo up; ip addr add ${address4}/30 dev eth0; ip addr add ${address6}/64 dev eth0 nodad; ip link set eth0 up
     ip route add default via ${gateway4}; ip route add local 198.18.0.0/15 dev lo`,
    world,
  )
  await shell(`ip route add 2001:db8::/32 via ${address6}`, gate.namespace)
  await shell(`ip -6 route add default via ${gateway6}; ip -6 route add local 2001:db8::/32 dev lo`, world)
  return world
}

/** A thread that lives in a namespace and grants wishes there. */
async function resident(namespace: Namespace): Promise<{ worker: Worker; grant: (wish: Wish) => Promise<unknown> }> {
  const worker = workerIn(namespace, new URL('workload.ts', import.meta.url), undefined)
  await once(worker, 'online')
  let next = 0
  const grant = (wish: Wish): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const id = next++
      const hear = (answer: { id: number; result: unknown }): void => {
        if (answer.id !== id) return
        worker.removeListener('message', hear)
        worker.removeListener('error', reject)
        resolve(answer.result)
      }
      worker.on('message', hear)
      worker.once('error', reject)
      worker.postMessage({ id, wish })
    })
  return { worker, grant }
}

/** Loopback addresses that stand for the workloads where there are no namespaces. */
const loopbackOf: Readonly<Record<WorkloadName, string>> = { shop: '127.0.1.2', batch: '127.0.2.2' }

export function judgedPlaces(): Places {
  const manifest = (text: string): string =>
    workloads.reduce((now, name) => now.replace(links[name].address4, loopbackOf[name]), text)
  return {
    enforced: false,
    agent: { kernel: undefined, listeners: [{ kind: 'address', address: '127.0.0.1', port: 0 }] },
    interfaces: [],
    manifest,
    addressOf: manifest,
    lookUp: (agent, who, name) =>
      lookUpFrom({ kind: 'lookup', name, type: 'A', server: '127.0.0.1', port: agent.port, from: loopbackOf[who] }),
    connect: (agent, who, address, port) =>
      Promise.resolve(judge(agent, who, address, port).kind === 'allow' ? 'would connect' : 'would be denied'),
    hints: [],
    close: () => Promise.resolve(),
  }
}

/** The verdict on a TCP connection, and why. */
export function judge(agent: Agent, who: WorkloadName, text: string, port: number): EgressVerdict {
  const snapshot = agent.snapshot()
  const identity = snapshot.endpoints.find((endpoint) => endpoint.name === who)?.identity ?? 0
  const address = addressFromText(text)
  if (address === undefined) throw new Error(`${text} is not an address`)
  return decideEgress(snapshot, {
    identity,
    address,
    protocol: Protocol.TCP,
    port,
    leasedNames: agent.leases.namesOf(identity, address),
  })
}
