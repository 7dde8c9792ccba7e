// Sockets given from one process to another that is not its child: SCM_RIGHTS over an abstract unix socket (unix(7)). Both ends look at who the other
// is: names in /proc/net/unix are there for everybody to see.
import { randomBytes } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcBind = libc.func('int bind(int fd, void *place, uint size)')
const libcListen = libc.func('int listen(int fd, int backlog)')
const libcConnect = libc.func('int connect(int fd, void *place, uint size)')
const libcAccept = libc.func('int accept4(int fd, void *place, void *size, int flags)')
const libcGetsockopt = libc.func('int getsockopt(int fd, int level, int name, void *value, void *size)')
const libcSendmsg = libc.func('long sendmsg(int fd, void *message, int flags)')
const libcRecvmsg = libc.func('long recvmsg(int fd, void *message, int flags)')
const libcClose = libc.func('int close(int fd)')

const AF_UNIX = 1
const [SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC] = [1, 0o4000, 0o2000000]
const [SOL_SOCKET, SO_PEERCRED, SCM_RIGHTS] = [1, 17, 1]
const [MSG_NOSIGNAL, MSG_CMSG_CLOEXEC] = [0x4000, 0x40000000]
/** Of what is said of the sockets. */
const textOctetsMax = 16_384
/** The kernel passes no more at once (SCM_MAX_FD). */
const descriptorsMax = 253
/** struct msghdr, struct iovec and struct cmsghdr of Linux with 64 bits. */
const [headerSize, vectorSize, controlHeadSize] = [56, 16, 16]
const controlSize = controlHeadSize + 4 * descriptorsMax + 4
/** The giver answers at once, or not at all. */
const patienceMillis = 2000
const lookMillis = 5

/** What was given: descriptors, and what they are. */
export interface Given {
  readonly fds: readonly number[]
  readonly text: string
}

/** Where sockets can be received, once. */
export interface Receiver {
  /** Without the leading NUL that makes it abstract. */
  readonly name: string
  /** Undefined: nobody of our own user gave any in time. */
  readonly receive: () => Promise<Given | undefined>
}

export function openReceiver(prefix: string): Receiver {
  const name = `${prefix}${randomBytes(12).toString('hex')}`
  const place = placeOf(name)
  const fd = libcSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) as number
  if (fd < 0 || libcBind(fd, place, place.length) !== 0 || libcListen(fd, 4) !== 0)
    throw new Error(`cannot receive sockets: errno ${koffi.errno()}`)

  async function receive(): Promise<Given | undefined> {
    try {
      for (const until = performance.now() + patienceMillis; performance.now() < until; await pause(lookMillis)) {
        const peer = libcAccept(fd, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK) as number
        if (peer < 0) continue
        const given = isOurs(peer) ? await readFrom(peer, until) : undefined
        libcClose(peer)
        if (given !== undefined) return given
      }
      return undefined
    } finally {
      libcClose(fd)
    }
  }
  return { name, receive }
}

async function readFrom(peer: number, until: number): Promise<Given | undefined> {
  while (performance.now() < until) {
    const message = makeMessage(textOctetsMax)
    const length = Number(libcRecvmsg(peer, message.pointer, MSG_CMSG_CLOEXEC))
    if (length > 0) return { fds: message.fds(), text: Buffer.from(message.text.subarray(0, length)).toString() }
    if (length === 0 || koffi.errno() !== koffi.os.errno['EAGAIN']) return undefined
    await pause(lookMillis)
  }
  return undefined
}

/** Gives sockets to whoever receives under a name, if that is a process of our own user. They stay ours too. */
export function giveTo(name: string, { fds, text }: Given): boolean {
  const octets = Buffer.from(text)
  if (octets.length > textOctetsMax || fds.length > descriptorsMax) return false
  const place = placeOf(name)
  const fd = libcSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) as number
  if (fd < 0) return false
  try {
    if (libcConnect(fd, place, place.length) !== 0 || !isOurs(fd)) return false
    const message = makeMessage(octets.length, fds)
    message.text.set(octets)
    return Number(libcSendmsg(fd, message.pointer, MSG_NOSIGNAL)) === octets.length
  } finally {
    libcClose(fd)
  }
}

/** struct sockaddr_un of an abstract name. */
function placeOf(name: string): Uint8Array {
  return Buffer.concat([Uint8Array.of(AF_UNIX, 0, 0), Buffer.from(name, 'latin1')])
}

/** Whether the process at the other end is of our user (struct ucred: process, user, group). */
function isOurs(fd: number): boolean {
  const credentials = new Uint32Array(3)
  const size = Uint32Array.of(credentials.byteLength)
  return libcGetsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, size) === 0 && credentials[1] === process.geteuid?.()
}

/** A struct msghdr with room for text and descriptors, or with these descriptors. */
function makeMessage(textSize: number, fds?: readonly number[]): { pointer: bigint; text: Uint8Array; fds: () => number[] } {
  const vectorAt = headerSize
  const controlAt = vectorAt + vectorSize
  const textAt = controlAt + controlSize
  // The memory of an array of this size never moves; what points to it holds it.
  const octets = new Uint8Array(Math.max(textAt + textSize, 8192))
  const view = new DataView(octets.buffer)
  const base = koffi.address(octets)
  view.setBigUint64(16, base + BigInt(vectorAt), true)
  view.setBigUint64(24, 1n, true)
  view.setBigUint64(32, base + BigInt(controlAt), true)
  view.setBigUint64(40, BigInt(fds === undefined ? controlSize : controlHeadSize + ((4 * fds.length + 7) & ~7)), true)
  view.setBigUint64(vectorAt, base + BigInt(textAt), true)
  view.setBigUint64(vectorAt + 8, BigInt(textSize), true)
  if (fds !== undefined) {
    view.setBigUint64(controlAt, BigInt(controlHeadSize + 4 * fds.length), true)
    view.setUint32(controlAt + 8, SOL_SOCKET, true)
    view.setUint32(controlAt + 12, SCM_RIGHTS, true)
    for (const [i, fd] of fds.entries()) view.setInt32(controlAt + controlHeadSize + 4 * i, fd, true)
  }
  function read(): number[] {
    const has = view.getBigUint64(40, true) >= BigInt(controlHeadSize) && view.getUint32(controlAt + 12, true) === SCM_RIGHTS
    const count = has ? (Number(view.getBigUint64(controlAt, true)) - controlHeadSize) >> 2 : 0
    return Array.from({ length: count }, (_, i) => view.getInt32(controlAt + controlHeadSize + 4 * i, true))
  }
  return { pointer: base, text: octets.subarray(textAt, textAt + textSize), fds: read }
} // prettier-ignore
