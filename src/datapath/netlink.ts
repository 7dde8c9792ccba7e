// A netlink socket through libc: sends a request, reads its answers. Requests are executed inside `send`, so the answers are there when it
// returns. A round trip is about 5 us, aside on another thread 16 us.
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcSetsockopt = libc.func('int setsockopt(int fd, int level, int name, int *value, int size)')
const libcBind = libc.func('int bind(int fd, void *address, unsigned int size)')
const libcSend = libc.func('long send(int fd, void *octets, size_t length, int flags)')
const libcRecv = libc.func('long recv(int fd, void *octets, size_t size, int flags)')
const libcClose = libc.func('int close(int fd)')

const AF_NETLINK = 16
const SOCK_RAW_CLOEXEC = 3 | 0o2000000
const SOL_SOCKET = 1
const SO_SNDBUFFORCE = 32
const SO_RCVBUFFORCE = 33
const MSG_DONTWAIT = 0x40
/** A full transaction is under 100 kB; the kernel charges a good deal more for it. */
const socketBufferOctets = 1 << 20

/** The kernel or libc refused. `code` is the errno's name (`ENOENT`), stable. */
export class KernelError extends Error {
  readonly code: string
  constructor(doing: string, errno: number) {
    const code = Object.entries(koffi.os.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`
    super(`${doing}: ${code}`)
    this.name = 'KernelError'
    this.code = code
  }
}

/** Parts of the kernel that speak netlink (linux/netlink.h): nf_tables and connection tracking; addresses and routes; sockets. */
export const netfilter = 12
export const routing = 0
export const socketDiagnosis = 4
export type NetlinkFamily = typeof netfilter | typeof routing | typeof socketDiagnosis

/**
 * Opens a netlink socket in the network namespace of the calling thread.
 * @param groups multicast groups that it hears from the start. (Joined by setsockopt, a socket that is not bound yet hears nothing.)
 */
export function openNetlink(groups: readonly number[] = [], to: NetlinkFamily = netfilter): number {
  const fd = libcSocket(AF_NETLINK, SOCK_RAW_CLOEXEC, to) as number
  if (fd < 0) throw new KernelError('open a netlink socket', koffi.errno())
  if (groups.length === 0) return fd
  // struct sockaddr_nl: family, padding, port (the kernel chooses), bits of groups.
  const address = new Uint32Array([AF_NETLINK, 0, groups.reduce((bits, group) => bits | (1 << (group - 1)), 0)])
  if ((libcBind(fd, address, address.byteLength) as number) === 0) return fd
  const errno = koffi.errno()
  libcClose(fd)
  throw new KernelError(`hear netlink groups ${groups.join(', ')}`, errno)
}

export interface Netlink {
  /** Sends `request[0, length)`. Throws `KernelError`. */
  readonly send: (request: Uint8Array, length: number) => void
  /**
   * The same on a thread of libuv's pool, for what may have to wait in the kernel: whoever changes a ruleset holds up all others who do, for
   * as long as it takes (0.2 s for 20 000 prefixes). `request` must stay as it is until then. Rejects with `KernelError`.
   */
  readonly sendAside: (request: Uint8Array, length: number) => Promise<void>
  /** Reads what is there into `answer`; 0 when there is nothing. Throws `KernelError` (ENOBUFS: answers were lost). */
  readonly receive: (answer: Uint8Array) => number
  readonly close: () => void
}

/**
 * Takes over a netlink socket, from `openNetlink` or made in another namespace.
 * @param bufferOctets how much it may hold, as the kernel counts: several times what the messages are long.
 */
export function makeNetlink(fd: number, bufferOctets: number = socketBufferOctets): Netlink {
  // Without CAP_NET_ADMIN in the first user namespace these fail; the default of 200 kB then holds a full transaction too.
  for (const option of [SO_SNDBUFFORCE, SO_RCVBUFFORCE]) libcSetsockopt(fd, SOL_SOCKET, option, [bufferOctets], 4)

  function send(request: Uint8Array, length: number): void {
    if ((libcSend(fd, request, length, 0) as number) < 0) throw new KernelError('send by netlink', koffi.errno())
  }
  function sendAside(request: Uint8Array, length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      // koffi keeps the thread's errno for the callback.
      libcSend.async(fd, request, length, 0, (_error: unknown, sent: number) => {
        if (sent < 0) reject(new KernelError('send by netlink', koffi.errno()))
        else resolve()
      })
    })
  }
  function receive(answer: Uint8Array): number {
    const length = libcRecv(fd, answer, answer.length, MSG_DONTWAIT) as number
    if (length >= 0) return length
    const errno = koffi.errno()
    if (errno === koffi.os.errno['EAGAIN']) return 0
    throw new KernelError('read by netlink', errno)
  }
  return { send, sendAside, receive, close: () => void libcClose(fd) }
}
