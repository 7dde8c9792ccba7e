// Network namespaces without names: a file descriptor holds one, so that whatever way we end, the kernel takes it away with everything in
// it. Only worker threads ever enter one: a thread's namespace is its own, and the main thread stays where it was.
import { spawn } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { isMainThread, Worker } from 'node:worker_threads'
import koffi from 'koffi'
import { KernelError, netfilter, openNetlink, type NetlinkFamily } from '../datapath/netlink.ts'
import { systemEnvironment } from '../datapath/programs.ts'

const libc = koffi.load('libc.so.6')
const libcUnshare = libc.func('int unshare(int flags)')
const libcSetns = libc.func('int setns(int fd, int type)')
const libcOpen = libc.func('int open(const char *path, int flags)')
const libcClose = libc.func('int close(int fd)')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcBind = libc.func('int bind(int fd, void *address, unsigned int size)')
const libcListen = libc.func('int listen(int fd, int backlog)')
const libcSetsockopt = libc.func('int setsockopt(int fd, int level, int name, int *value, int size)')

const CLONE_NEWNS = 0x20000
const CLONE_NEWPID = 0x20000000
const CLONE_NEWNET = 0x40000000
const O_RDONLY_CLOEXEC = 0o2000000
const AF_INET = 2
const AF_INET6 = 10
const SOCK_STREAM = 1
const SOCK_DGRAM = 2
const SOCK_CLOEXEC = 0o2000000
const SOL_SOCKET = 1
const SO_REUSEADDR = 2
const IPPROTO_IPV6 = 41
const IPV6_V6ONLY = 26

/** A namespace held by a descriptor of this process. `path` is good for `nsenter --net=` and `ip link set … netns` while we live. */
export interface Namespace {
  readonly fd: number
  readonly path: string
  readonly release: () => void
}

/** Sockets on one port, bound in a namespace, for use on any thread. */
export interface BoundSockets {
  readonly family: 4 | 6
  readonly udpFd: number
  readonly tcpFd: number
  readonly port: number
}

function check(result: number, doing: string): number {
  if (result < 0) throw new KernelError(doing, koffi.errno())
  return result
}

/** Moves the calling thread into a namespace for good. Workers only: sockets that it makes from then on live there. */
export function enterNamespace(fd: number): void {
  if (isMainThread) throw new Error('the main thread stays in its namespace')
  check(libcSetns(fd, CLONE_NEWNET) as number, 'enter a network namespace')
}

/**
 * Gives the calling thread mounts of its own, and its future children processes of their own: the first becomes PID 1. Workers only; the
 * thread can make no further threads then.
 */
export function leaveMountsAndProcesses(): void {
  if (isMainThread) throw new Error('the main thread stays where it is')
  check(libcUnshare(CLONE_NEWNS | CLONE_NEWPID) as number, 'make namespaces for mounts and processes')
}

/** What a helper thread can be asked to do. */
export type Errand =
  | { readonly kind: 'create' }
  | { readonly kind: 'netlink'; readonly fd: number; readonly groups: readonly number[]; readonly to: NetlinkFamily }
  | { readonly kind: 'bind'; readonly fd: number; readonly port: number; readonly families: readonly (4 | 6)[] }

/** Does an errand on the calling worker thread and gives descriptors. */
export function doErrand(errand: Errand): number[] {
  switch (errand.kind) {
    case 'create':
      check(libcUnshare(CLONE_NEWNET) as number, 'make a network namespace')
      return [check(libcOpen('/proc/thread-self/ns/net', O_RDONLY_CLOEXEC) as number, 'open the new network namespace')]
    case 'netlink':
      enterNamespace(errand.fd)
      return [openNetlink(errand.groups, errand.to)]
    case 'bind':
      enterNamespace(errand.fd)
      return errand.families.flatMap((family) =>
        [SOCK_DGRAM, SOCK_STREAM].map((type) => bindWildcard(family === 4 ? AF_INET : AF_INET6, type, errand.port)),
      )
  }
}

function bindWildcard(family: number, type: number, port: number): number {
  const fd = check(libcSocket(family, type | SOCK_CLOEXEC, 0) as number, 'make a socket')
  libcSetsockopt(fd, SOL_SOCKET, SO_REUSEADDR, [1], 4)
  if (family === AF_INET6) libcSetsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, [1], 4)
  // sockaddr_in and sockaddr_in6 begin alike: family in host order, port in network order; the rest is zero for the wildcard.
  const address = new Uint8Array(family === AF_INET ? 16 : 28)
  new DataView(address.buffer).setUint16(0, family, true)
  new DataView(address.buffer).setUint16(2, port)
  check(libcBind(fd, address, address.length) as number, `bind port ${port}`)
  if (type === SOCK_STREAM) check(libcListen(fd, 512) as number, `listen on port ${port}`)
  return fd
}

/** Sends a fresh thread on an errand; descriptors belong to the process, so they outlive it. Rejects with the errand's error. */
function send(errand: Errand): Promise<number[]> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('errand.ts', import.meta.url), { workerData: errand })
    worker.once('message', (answer: number[] | { error: string }) => {
      if (Array.isArray(answer)) resolve(answer)
      else reject(new Error(answer.error))
    })
    worker.once('error', reject)
  })
}

/** An empty network namespace. Needs CAP_SYS_ADMIN (root, or root of a user namespace). */
export async function createNamespace(): Promise<Namespace> {
  // libuv's pool is one for all threads, and is born of the thread that first needs it, into that thread's namespace: so not of a worker.
  await stat('/')
  const [fd = -1] = await send({ kind: 'create' })
  return { fd, path: `/proc/${process.pid}/fd/${fd}`, release: () => void libcClose(fd) }
}

/** A netlink socket in the namespace, of netfilter unless said otherwise, that hears these groups. */
export async function netlinkIn(
  namespace: Namespace,
  groups: readonly number[] = [],
  to: NetlinkFamily = netfilter,
): Promise<number> {
  const [fd = -1] = await send({ kind: 'netlink', fd: namespace.fd, groups, to })
  return fd
}

/** UDP and TCP sockets on one port of every address in the namespace, a pair for each family. */
export async function bindIn(
  namespace: Namespace,
  port: number,
  families: readonly (4 | 6)[],
): Promise<BoundSockets[]> {
  const fds = await send({ kind: 'bind', fd: namespace.fd, port, families })
  return families.map((family, i) => ({ family, udpFd: fds[i * 2] ?? -1, tcpFd: fds[i * 2 + 1] ?? -1, port }))
}

/** A thread inside the namespace that runs a module; the module's own sockets live there. */
export function workerIn(namespace: Namespace, module: URL, data: unknown): Worker {
  return new Worker(new URL('inside.ts', import.meta.url), {
    workerData: { fd: namespace.fd, module: module.href, data },
  })
}

/** Runs a shell command (`sh -e`), in a namespace or here. Rejects with its stderr. */
export function shell(script: string, namespace?: Namespace): Promise<string> {
  const [program = 'sh', ...args] = [
    ...(namespace === undefined ? [] : ['nsenter', `--net=${namespace.path}`]),
    'sh',
    '-e',
    '-c',
    script,
  ]
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: systemEnvironment() })
    let out = ''
    let complaint = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text))
    child.on('error', reject)
    child.on('close', (status) => {
      if (status === 0) resolve(out)
      else reject(new Error(complaint.trim() || `a command ended with status ${status}`))
    })
  })
}
