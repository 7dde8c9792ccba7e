// The gate: a namespace that every packet of its workloads must pass. It holds the kernel table and the proxy's sockets; workloads hang on
// it by veth, each in a namespace of its own, and one uplink leads out of it.
import { existsSync } from 'node:fs'
import { conntrackGroups } from '../datapath/ctnetlink.ts'
import type { ConntrackSockets } from '../datapath/conntrack.ts'
import { makeNft, type Nft } from '../datapath/nft.ts'
import type { Listener } from '../proxy/listen.ts'
import { bindIn, createNamespace, netlinkIn, shell, type Namespace } from './namespace.ts'

/** Where the proxy listens in the gate; workloads' port 53 is redirected there. */
export const gateProxyPort = 10053

export interface Gate {
  readonly namespace: Namespace
  readonly listeners: readonly Listener[]
  readonly kernel: { readonly nft: Nft; readonly netlinkFd: number; readonly connections: ConntrackSockets }
}

/** A workload's place: addresses without prefix length, its own and the gate's on their link. */
export interface Link {
  /** Interface in the gate; at most 15 characters. */
  readonly name: string
  readonly address4: string
  readonly gateway4: string
  readonly address6: string
  readonly gateway6: string
}

/** A kernel that was booted without IPv6 has none in any namespace. */
const hasSix = existsSync('/proc/sys/net/ipv6')
/** A script's part about IPv6. */
const six = (script: string): string => (hasSix ? script : '')

/** Name of the gate's interface towards the world. */
export const uplinkName = 'out0'

/** An empty gate that forwards. Its kernel table comes with the agent; until then nothing hangs on it. */
export async function makeGate(): Promise<Gate> {
  const namespace = await createNamespace()
  // Addresses must be usable at once: no duplicate address detection on links that have two ends.
  await shell(
    `cd /proc/sys/net; echo 1 > ipv4/ip_forward
     for name in all/forwarding=1 default/accept_dad=0 all/accept_dad=0; do
       if [ -e "ipv6/conf/\${name%=*}" ]; then echo "\${name#*=}" > "ipv6/conf/\${name%=*}"; fi
     done
     ip link set lo up`,
    namespace,
  )
  const sockets = await bindIn(namespace, gateProxyPort, hasSix ? [4, 6] : [4])
  return {
    namespace,
    listeners: sockets.map((pair) => ({ kind: 'sockets', ...pair })),
    kernel: {
      nft: makeNft(['nsenter', `--net=${namespace.path}`]),
      netlinkFd: await netlinkIn(namespace),
      connections: {
        events: await netlinkIn(namespace, Object.values(conntrackGroups)),
        requests: await netlinkIn(namespace),
      },
    },
  }
}

/** A namespace behind the gate, with `eth0`, routes through the gate and nothing else; an empty one may be given. */
export async function attachWorkload(gate: Gate, link: Link, given?: Namespace): Promise<Namespace> {
  const namespace = given ?? (await createNamespace())
  await shell(
    `ip link add ${link.name} type veth peer name eth0 netns ${namespace.path}
     ip addr add ${link.gateway4}/30 dev ${link.name}; ${six(`ip addr add ${link.gateway6}/64 dev ${link.name} nodad`)}
     ip link set ${link.name} up`,
    gate.namespace,
  )
  await shell(
    `${six('cd /proc/sys/net/ipv6/conf/eth0; echo 0 > accept_dad; echo 0 > accept_ra')}
     ip link set lo up
     ip addr add ${link.address4}/30 dev eth0; ${six(`ip addr add ${link.address6}/64 dev eth0 nodad`)}
     ip link set eth0 up
     ip route add default via ${link.gateway4}; ${six(`ip -6 route add default via ${link.gateway6}`)}`,
    namespace,
  )
  return namespace
}

/** Packets leave through the uplink with the uplink's address: nobody outside knows the workloads' own. */
export async function masqueradeUplink(gate: Gate): Promise<void> {
  await gate.kernel.nft(
    ['-f', '-'],
    `table inet uplink { chain out { type nat hook postrouting priority srcnat; oifname "${uplinkName}" masquerade; }; }\n`,
  )
}
