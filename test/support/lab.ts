// A network of its own for one test file: the test's process moves into a fresh network namespace, further hosts hang on it by veth.
// Everything ends with the process, so a test that dies leaves nothing.
import { execFile, execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import koffi from 'koffi'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { askGeneration, readAnswers } from '../../src/datapath/nfnetlink.ts'

const CLONE_NEWNET = 0x40000000
const libc = koffi.load('libc.so.6')
const unshare = libc.func('int unshare(int flags)')

/** Why kernel tests cannot run here; undefined when they can. In CI (NAMEGATE_REQUIRE_KERNEL=1) a reason is an error. */
export function whyNoKernel(): string | undefined {
  const reason = process.getuid?.() === 0 ? missingTool() : 'not root: no network namespaces, no nftables'
  if (reason !== undefined && process.env['NAMEGATE_REQUIRE_KERNEL'] === '1')
    throw new Error(`kernel tests must run here, but: ${reason}`)
  return reason
}

function missingTool(): string | undefined {
  for (const tool of ['nft', 'ip', 'nsenter'])
    if (spawnSync(tool, ['--version']).error !== undefined) return `${tool} is not installed`
  return undefined
}

/** Moves this process (its main thread and the children it starts from now on) into an empty network namespace with forwarding. */
export function enterLab(): void {
  if ((unshare(CLONE_NEWNET) as number) !== 0) throw new Error(`unshare: errno ${koffi.errno()}`)
  sh('ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0')
} // prettier-ignore

/** Forgets every connection that this namespace's kernel tracks, so that all packets are first ones. */
export function flushConnections(): void {
  const netlink = makeNetlink(openNetlink())
  // linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE (2) of NFNL_SUBSYS_CTNETLINK (1) about no connection is about all of them.
  const request = Uint8Array.from([20, 0, 0, 0, 2, 1, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
  const answer = new Uint8Array(4096)
  try {
    netlink.send(request, request.length)
    if (netlink.receive(answer) === 0 || answer.slice(16, 20).some((octet) => octet !== 0))
      throw new Error('connections are not flushed')
  } finally {
    netlink.close()
  }
}

/** The generation of this namespace's ruleset: the kernel's own count of transactions, anybody's. */
export function rulesetGeneration(): number {
  const netlink = makeNetlink(openNetlink())
  const octets = new Uint8Array(4096)
  try {
    netlink.send(octets, askGeneration(octets, 1))
    const [answer] = readAnswers(octets, netlink.receive(octets))
    if (answer?.kind !== 'generation') throw new Error('the kernel does not say its generation')
    return answer.generation
  } finally {
    netlink.close()
  }
}

/** Runs a shell script here; gives its stdout, throws with its stderr. */
export function sh(script: string, input = ''): string {
  return execFileSync('bash', ['-c', `set -e; ${script}`], { input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] })
}

/** A map of the policy as nft lists it: of its two copies, the one by which packets are judged. */
export function policyMap(map: string): string {
  const copy = sh('nft list chain inet namegate forwarded').includes('@identity4_b') ? 'b' : 'a'
  return sh(`nft list map inet namegate ${map}_${copy}`)
}

export interface Host {
  /** Path of its network namespace. */
  readonly path: string
  readonly process: ChildProcess
  /** Runs a script there; never throws. */
  readonly sh: (script: string) => { readonly status: number | null; readonly out: string; readonly err: string }
  /** The same without blocking this process: for scripts that talk to something in it. */
  readonly run: (
    script: string,
  ) => Promise<{ readonly status: number | null; readonly out: string; readonly err: string }>
  readonly stop: () => void
}

/**
 * A host behind a veth: `addresses` are its own, with prefix length; `gateways` ours on the same link, also with prefix length, of which
 * the first of each family becomes its default route. Our end of the link is named `name`.
 */
export async function addHost(name: string, addresses: readonly string[], gateways: readonly string[]): Promise<Host> {
  const child = spawn(
    'setpriv',
    ['--pdeathsig', 'KILL', 'unshare', '--net', 'sh', '-c', 'echo ready; exec sleep 3600'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  await once(child.stdout, 'data')
  const path = `/proc/${child.pid}/ns/net`
  const within = (script: string): ReturnType<Host['sh']> => {
    const { status, stdout, stderr } = spawnSync('nsenter', [`--net=${path}`, 'bash', '-c', script], {
      encoding: 'utf8',
    })
    return { status, out: stdout, err: stderr }
  }
  const run: Host['run'] = (script) =>
    new Promise((resolve) => {
      execFile('nsenter', [`--net=${path}`, 'bash', '-c', script], { encoding: 'utf8' }, (error, out, err) => {
        resolve({ status: error === null ? 0 : typeof error.code === 'number' ? error.code : null, out, err })
      })
    })
  const bare = (text: string): string => text.slice(0, text.indexOf('/'))
  sh(`ip link add ${name} type veth peer name eth0 netns ${child.pid}
      ip link set ${name} up
      ${gateways.map((g) => `ip addr add ${g} dev ${name} ${g.includes(':') ? 'nodad' : ''}`).join('\n')}`)
  const { status, err } = within(`set -e; sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0
      ip link set lo up; ip link set eth0 up
      ${addresses.map((a) => `ip addr add ${a} dev eth0 ${a.includes(':') ? 'nodad' : ''}`).join('\n')}
      ${gateways.map((g) => `ip route add default via ${bare(g)}`).join('\n')}`)
  if (status !== 0) throw new Error(err)
  return { path, process: child, sh: within, run, stop: () => void child.kill('SIGKILL') }
}

/** Makes a host own 198.18.0.0/15 and 2001:db8::/32 and accept TCP on every port of them, until the host stops. */
export async function answerEverywhere(host: Host): Promise<void> {
  const { status, err } = host.sh(`set -e
    ip route add local 198.18.0.0/15 dev lo; ip -6 route add local 2001:db8::/32 dev lo
    nft add table inet world
    nft add chain inet world in '{ type nat hook prerouting priority dstnat; }'
    nft add rule inet world in meta l4proto tcp redirect to :7777`)
  if (status !== 0) throw new Error(err)
  const server = "require('net').createServer((c) => c.end()).listen(7777, '::', () => console.log('ready'))"
  const child = spawn(
    'setpriv',
    ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, process.execPath, '-e', server],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  host.process.once('exit', () => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
}

/** Makes a host accept TCP on these ports, on all its addresses, until it stops. */
export async function answerOn(host: Host, ports: readonly number[]): Promise<void> {
  const server = `let left = ${ports.length}; for (const port of ${JSON.stringify(ports)}) require('net').createServer((c) => c.end()).listen(port, '::', () => --left || console.log('ready'))`
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, process.execPath, '-e', server], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
  host.process.once('exit', () => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
}

/** Waits until `check` holds, looking every 20 ms; throws after `seconds`. For processes that say nothing when they are ready. */
export async function until(check: () => Promise<boolean> | boolean, seconds = 10): Promise<void> {
  for (const end = performance.now() + seconds * 1000; performance.now() < end;) {
    if (await check()) return
    await delay(20)
  }
  throw new Error(`waited ${seconds} s in vain`)
}
