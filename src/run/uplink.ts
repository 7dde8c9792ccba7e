// How a gate reaches the world. As root: a veth into this namespace, masqueraded, with forwarding. Otherwise: pasta or slirp4netns, which
// carry packets as ordinary sockets of the user.
import { spawn } from 'node:child_process'
import { mkdir, open, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import koffi from 'koffi'
import { systemEnvironment } from '../datapath/programs.ts'
import { masqueradeUplink, uplinkName, type Gate } from './gate.ts'
import { shell } from './namespace.ts'
import { isInstalled } from './needs.ts'

export const networks = ['auto', 'veth', 'pasta', 'slirp4netns'] as const
export type Network = (typeof networks)[number]

export interface Uplink {
  readonly network: Exclude<Network, 'auto'>
  readonly close: () => Promise<void>
}

/** What the user must do before this can work. */
export class UplinkError extends Error {
  readonly code = 'uplink'
}

/** @param isRoot whether we are root of the machine (not of a user namespace). Rejects with `UplinkError`. */
export async function openUplink(gate: Gate, wanted: Network, isRoot: boolean): Promise<Uplink> {
  const network = wanted === 'auto' ? (isRoot ? 'veth' : isInstalled('pasta') ? 'pasta' : 'slirp4netns') : wanted
  if (network === 'veth') {
    if (!isRoot) throw new UplinkError('--network veth needs root; without it use pasta or slirp4netns')
    return alone(() => openVeth(gate))
  }
  if (!isInstalled(network))
    throw new UplinkError(
      wanted === 'auto'
        ? 'without root namegate needs pasta or slirp4netns to reach the network; install one (Debian: apt-get install passt, or slirp4netns)'
        : `${network} is not installed (Debian: apt-get install ${network === 'pasta' ? 'passt' : network})`,
    )
  return openUserMode(gate, network, isRoot)
}

// ---- pasta and slirp4netns ----

/** They start in well under a second; a machine that is very busy gets this long. */
const readyMillisMax = 10_000

async function openUserMode(gate: Gate, network: 'pasta' | 'slirp4netns', isRoot: boolean): Promise<Uplink> {
  const { path } = gate.namespace
  // Neither may map the host's loopback into the gate, nor answer DNS: what policy allows is decided by us alone.
  const command = {
    // pasta gives up rights before it opens the namespace, and may then not look into our /proc/PID/fd: a mount of its own names it.
    pasta: ['unshare', '--mount', '--propagation', 'private', 'sh', '-ec', 'mount -t tmpfs tmpfs /mnt; : > /mnt/gate; mount --bind "$0" /mnt/gate; exec "$@"', path, 'pasta', '--foreground', '--quiet', '--config-net', '--no-map-gw', '-I', uplinkName, '-t', 'none', '-u', 'none', '-T', 'none', '-U', 'none', ...(isRoot ? ['--runas', '0'] : []), '--netns', '/mnt/gate'],
    slirp4netns: ['slirp4netns', '--configure', '--mtu=65520', '--disable-host-loopback', '--disable-dns', '--netns-type=path', path, uplinkName],
  }[network] // prettier-ignore
  // Out of our process group: Ctrl-C is for the command, which may need the network to end well.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
    env: systemEnvironment(),
  })
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(-2000)))
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  let running = true
  void ended.then(() => (running = false))
  for (const deadline = performance.now() + readyMillisMax; ; await delay(20)) {
    const routes = await shell('ip route show default; ip -6 route show default', gate.namespace)
    if (routes.includes(`dev ${uplinkName}`)) break
    if (!running || performance.now() > deadline) {
      child.kill('SIGKILL')
      throw new UplinkError(`${network} gave the workload no network: ${complaint.trim() || 'it ended without a word'}`)
    }
  }
  await masqueradeUplink(gate)
  return {
    network,
    close: async () => {
      child.kill('SIGTERM')
      await ended
    },
  }
}

// ---- veth ----

/** One file for each run that is up, so that the next one can clean up behind a run that was killed. */
const stateFolder = '/run/namegate'

/** Where the host's ends of all runs' uplinks are, which lead to no service of the host: a corner of the shared address space (RFC 6598) and one of our own (RFC 4193). */
const [hostEnds4, hostEnds6] = ['100.127.192.0/18', 'fd6e:67::/32']

/** A host that forwarded nothing before its runs still forwards nothing but theirs. */
const forwardNothingElse = 'iifname != "ng*" oifname != "ng*" drop'

interface RunState {
  readonly pid: number
  /** Start time of the process in clock ticks: a pid alone may have been given out again. */
  readonly started: string
  /** The network namespace that it changed, and the one that its pid is of: several hosts may share one /run. */
  readonly host: string
  readonly table: string
  /** Whether IPv4 forwarding was off before the first run turned it on. */
  readonly turnedForwardingOn: boolean
}

async function openVeth(gate: Gate): Promise<Uplink> {
  await cleanUpAfterDeadRuns()
  const { pid } = process
  const [name, table] = [`ng${pid}`, `namegate_run_${pid}`]
  const taken = await shell('ip -4 -o addr show; ip -4 route show')
  // /30 by /30, starting from a place of our own.
  const base = Array.from({ length: 64 * 64 }, (_, i) => (i + pid) % 4096)
    .map((i) => `100.127.${192 + (i >> 6)}.${(i & 63) * 4}`)
    .find((network) => !taken.includes(network.slice(0, network.lastIndexOf('.') + 1) + String(Number(network.slice(network.lastIndexOf('.') + 1)) + 1)))
  if (base === undefined) throw new UplinkError(`no free /30 in ${hostEnds4}`)
  const host = (n: number): string => base.slice(0, base.lastIndexOf('.') + 1) + String(Number(base.slice(base.lastIndexOf('.') + 1)) + n)
  const forwardingOff = (await readFile('/proc/sys/net/ipv4/ip_forward', 'utf8')).trim() === '0'
  // Turning IPv6 forwarding on would make the host deaf to router advertisements; so IPv6 leads out only where it is on already.
  const six = (await readFile('/proc/sys/net/ipv6/conf/all/forwarding', 'utf8').catch(() => '0')).trim() === '1'
  const [inner6, outer6] = [`fd6e:67:${(pid >>> 8).toString(16)}:${(pid & 0xff).toString(16)}::2`, `fd6e:67:${(pid >>> 8).toString(16)}:${(pid & 0xff).toString(16)}::1`]
  const state: RunState = { pid, started: await startedAt(pid), host: await thisHost(), table, turnedForwardingOn: forwardingOff }
  await writeFile(stateFile(pid), JSON.stringify(state))
  try {
    // 58 is ICMPv6, neighbours included: its name is in /etc/protocols, which small containers lack.
    await shell(`ip link add ${name} type veth peer name ${uplinkName} netns ${gate.namespace.path}
      ip addr add ${host(1)}/30 dev ${name}; ${six ? `ip addr add ${outer6}/64 dev ${name} nodad` : ''}
      ip link set ${name} up
      nft -f - <<'EOF'
table inet ${table} {
  chain forward {
    type filter hook forward priority filter - 5; policy accept;
    oifname "${name}" ct state != { established, related } drop
    ${forwardingOff ? forwardNothingElse : ''}
  }
  chain input {
    type filter hook input priority filter - 5; policy accept;
    iifname "${name}" ip daddr ${hostEnds4} reject with icmpx admin-prohibited
    iifname "${name}" ip6 daddr ${hostEnds6} meta l4proto != 58 reject with icmpx admin-prohibited
  }
  chain out {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${host(2)} masquerade
    ip6 saddr ${inner6} masquerade
  }
}
EOF
      ${forwardingOff ? 'echo 1 > /proc/sys/net/ipv4/ip_forward' : ''}`)
    await shell(
      `ip addr add ${host(2)}/30 dev ${uplinkName}; ${six ? `ip addr add ${inner6}/64 dev ${uplinkName} nodad` : ''}
       ip link set ${uplinkName} up
       ip route add default via ${host(1)}; ${six ? `ip -6 route add default via ${outer6}` : ''}`,
      gate.namespace,
    )
    await masqueradeUplink(gate)
  } catch (error) {
    await undo(pid)
    throw error
  }
  return { network: 'veth', close: () => alone(() => undo(pid)) }
} // prettier-ignore

const stateFile = (pid: number): string => join(stateFolder, `run-${pid}.json`)

/** Identifies the network that this process changes and the pids that it sees. */
async function thisHost(): Promise<string> {
  return `${await readlink('/proc/self/ns/net')} ${await readlink('/proc/self/ns/pid')}`
}

/** Field 22 of /proc/PID/stat (proc(5)); '' when there is no such process. */
async function startedAt(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
}

/** The runs that changed this host. Those of another are none of our business: their state says nothing about what is here. */
async function otherRuns(): Promise<{ state: RunState; alive: boolean }[]> {
  const host = await thisHost()
  const files = (await readdir(stateFolder).catch(() => [])).filter(
    (file) => file.startsWith('run-') && file.endsWith('.json'),
  )
  const runs = await Promise.all(
    files.map(async (file) => {
      const text = await readFile(join(stateFolder, file), 'utf8').catch(() => '')
      try {
        const state = JSON.parse(text) as RunState
        if (state.host !== host) return []
        return [
          {
            state,
            alive: state.pid !== process.pid && (await startedAt(state.pid)) === state.started && state.started !== '',
          },
        ]
      } catch {
        // Torn by a crash: the run that wrote it had changed nothing yet.
        await rm(join(stateFolder, file), { force: true })
        return []
      }
    }),
  )
  return runs.flat()
}

/** Takes back what a run changed on this host, as its file says: a run that ended before may have left forwarding to it. */
async function undo(pid: number): Promise<void> {
  const state = JSON.parse(await readFile(stateFile(pid), 'utf8')) as RunState
  // Forwarding is turned on after the table is there. No table: it never was; or this is a new namespace with the number of an old one.
  const changed = await shell(`nft list table inet ${state.table} >/dev/null 2>&1 && echo yes || true`)
  if (state.turnedForwardingOn && changed !== '') {
    const heir = (await otherRuns()).find((run) => run.alive)?.state
    if (heir === undefined) await shell('echo 0 > /proc/sys/net/ipv4/ip_forward')
    else {
      await shell(`nft add rule inet ${heir.table} forward ${forwardNothingElse}`)
      await writeFile(stateFile(heir.pid), JSON.stringify({ ...heir, turnedForwardingOn: true }))
    }
  }
  await shell(`ip link del ng${pid} 2>/dev/null || true; nft delete table inet ${state.table} 2>/dev/null || true`)
  await rm(stateFile(pid), { force: true })
}

const libc = koffi.load('libc.so.6')
const libcFlock = libc.func('int flock(int fd, int operation)')
const LOCK_EX = 2

/** Runs start and end one at a time: each looks at what the others have changed. The lock goes with its holder, however that ends. */
async function alone<T>(work: () => Promise<T>): Promise<T> {
  await mkdir(stateFolder, { recursive: true })
  const lock = await open(join(stateFolder, 'lock'), 'w')
  try {
    await new Promise((resolve) => {
      libcFlock.async(lock.fd, LOCK_EX, resolve)
    })
    return await work()
  } finally {
    await lock.close()
  }
}

async function cleanUpAfterDeadRuns(): Promise<void> {
  for (const { state, alive } of await otherRuns()) if (!alive) await undo(state.pid)
}
