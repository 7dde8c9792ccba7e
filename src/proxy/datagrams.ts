// Datagrams in batches, through libc: recvmmsg and sendmmsg. libuv watches the socket and reads the first datagram; what is behind that is
// read here in one call, and replies leave in one. Nothing here waits. Linux with 64 bits, little-endian; elsewhere `node:dgram` does it alone.
import { endianness } from 'node:os'
import koffi from 'koffi'
import { addressFromNumber, addressFromOctets, addressToText, type Address } from '../net/address.ts'

/** Datagrams of one call. */
export const batchMax = 64
/** Room for one that comes in, any; and for a reply, which is at most 4096 octets over UDP. Odd lines of cache, or all would share the same. */
const incomingOctets = 65_536 + 320
export const replyOctetsMax = 4096
const outgoingOctets = replyOctetsMax + 320
/** struct mmsghdr, struct iovec, and room for a struct sockaddr_in6 of 28. */
const headerSize = 64
const vectorSize = 16
const placeSize = 32
const placeOctets = 28
/** Where in struct mmsghdr stand: length of the name, pointer to the vector, number of vectors, length of the datagram. */
const [nameLengthAt, vectorAt, vectorsAt, lengthAt] = [8, 16, 24, 56]

const [AF_INET, AF_INET6] = [2, 10]
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000
const [SOL_SOCKET, SO_REUSEADDR, SO_RCVBUF, SO_RCVBUFFORCE, IPPROTO_IPV6, IPV6_V6ONLY] = [1, 2, 8, 33, 41, 26]
const F_DUPFD_CLOEXEC = 1030
const MSG_DONTWAIT = 0x40
/** What waits in a socket while nobody reads, as the kernel counts: 20 000 questions, four seconds of 5 000 a second. A resolver waits five. */
const waitingOctets = 8 << 20

/** Where a datagram is from or goes: the octets of a struct sockaddr_in or sockaddr_in6. */
export type Place = Uint8Array

export interface Batches {
  /** A bound socket for a literal address. Throws an `Error` with `code` (EADDRINUSE, EACCES, …). */
  readonly open: (address: Address, port: number) => number
  /** `node:dgram` lets others share the port of a socket that it is handed; ours is nobody else's. And much may wait in it. */
  readonly claim: (fd: number) => void
  readonly on: (fd: number) => Datagrams
}

/** Reads and writes one socket by a descriptor of its own: whoever has the other may close it, and what is to be sent still leaves. */
export interface Datagrams {
  /** What the last `receive` read. */
  readonly incoming: Uint8Array
  /** Reads what is there, at most a batch; gives how many. */
  readonly receive: () => number
  readonly startOf: (i: number) => number
  readonly lengthOf: (i: number) => number
  /** A copy. */
  readonly placeOf: (i: number) => Place
  readonly sourceOf: (i: number) => Address
  readonly portOf: (i: number) => number
  /** Where the next reply may be written, at `replyAt()`, 4096 octets; `reply…` then says how long it is and to whom it goes. */
  readonly outgoing: Uint8Array
  readonly replyAt: () => number
  readonly replyTo: (place: Place, length: number) => void
  /** To the sender of the i-th datagram that was read last. */
  readonly replyBack: (i: number, length: number) => void
  readonly isFull: () => boolean
  /** Sends all replies. `left` gets those for which the socket has no room now; one that cannot be sent at all is lost, as on the way. */
  readonly flush: (left: (reply: Uint8Array, place: Place) => void) => void
  readonly close: () => void
}

/** Undefined where these calls are not to be had. */
export function makeBatches(): Batches | undefined {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch) || endianness() !== 'LE')
    return undefined
  try {
    return bind(koffi.load('libc.so.6'))
  } catch {
    return undefined
  }
}

function bind(libc: ReturnType<typeof koffi.load>): Batches {
  const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
  const libcBind = libc.func('int bind(int fd, void *place, uint size)')
  const libcClose = libc.func('int close(int fd)')
  const libcSetsockopt = libc.func('int setsockopt(int fd, int level, int name, int *value, int size)')
  const libcFcntl = libc.func('int fcntl(int fd, int command, ...)')
  const recvmmsg = libc.func('int recvmmsg(int fd, void *messages, uint count, int flags, void *timeout)')
  const sendmmsg = libc.func('int sendmmsg(int fd, void *messages, uint count, int flags)')

  function open(address: Address, port: number): number {
    const isSix = address.length === 16
    const fd = libcSocket(isSix ? AF_INET6 : AF_INET, SOCK_DGRAM_CLOEXEC, 0) as number
    if (fd < 0) throw failure('socket')
    if (isSix) libcSetsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, [1], 4)
    const place = placeAt(address, port)
    if ((libcBind(fd, place, place.length) as number) === 0) return fd
    // As libuv says it.
    const error = Object.assign(failure('bind'), { address: addressToText(address), port })
    libcClose(fd)
    throw error
  }

  function on(of: number): Datagrams {
    const fd = libcFcntl(of, F_DUPFD_CLOEXEC, 'int', 0) as number
    if (fd < 0) throw failure('fcntl')
    const read = makeBatch(incomingOctets)
    const write = makeBatch(outgoingOctets)
    const sourceOf4 = makeReader4()
    const { errno } = koffi.os
    let waiting = 0
    const placeLength = (i: number): number => read.view.getUint32(i * headerSize + nameLengthAt, true)
    const replyAt = (): number => datagramAt(waiting, outgoingOctets)

    function receive(): number {
      for (let i = 0; i < batchMax; i++) read.view.setUint32(i * headerSize + nameLengthAt, placeOctets, true)
      return Math.max(0, recvmmsg(fd, read.pointer, batchMax, MSG_DONTWAIT, null) as number)
    }
    function noteReply(placeLength: number, length: number): void {
      write.view.setUint32(waiting * headerSize + nameLengthAt, placeLength, true)
      write.view.setUint32(vectorOf(waiting) + 8, length, true)
      waiting++
    }
    function flush(left: (reply: Uint8Array, place: Place) => void): void {
      let sent = 0
      while (sent < waiting) {
        const count = sendmmsg(fd, write.pointer + BigInt(sent * headerSize), waiting - sent, MSG_DONTWAIT) as number
        if (count > 0) {
          sent += count
          continue
        }
        const code = koffi.errno()
        if (code === errno['EAGAIN'] || code === errno['ENOBUFS']) break
        // EMSGSIZE, EPERM, no route: this one cannot go, the others may.
        sent++
      }
      for (; sent < waiting; sent++) {
        const at = datagramAt(sent, outgoingOctets)
        const length = write.view.getUint32(vectorOf(sent) + 8, true)
        const placeEnd = placeAtOf(sent) + write.view.getUint32(sent * headerSize + nameLengthAt, true)
        left(write.octets.slice(at, at + length), write.octets.slice(placeAtOf(sent), placeEnd))
      }
      waiting = 0
    }

    return {
      incoming: read.octets,
      receive,
      startOf: (i) => datagramAt(i, incomingOctets),
      lengthOf: (i) => read.view.getUint32(i * headerSize + lengthAt, true),
      placeOf: (i) => read.octets.slice(placeAtOf(i), placeAtOf(i) + placeLength(i)),
      sourceOf(i) {
        const at = placeAtOf(i)
        return placeLength(i) === 16 ? sourceOf4(read.view.getUint32(at + 4)) : addressFromOctets(read.octets, at + 8, 16)
      },
      portOf: (i) => portOf(read.octets, placeAtOf(i)),
      outgoing: write.octets,
      replyAt,
      replyTo(place, length) {
        write.octets.set(place, placeAtOf(waiting))
        noteReply(place.length, length)
      },
      replyBack(i, length) {
        const [from, to] = [placeAtOf(i), placeAtOf(waiting)]
        for (let k = 0; k < placeOctets; k++) write.octets[to + k] = read.octets[from + k] ?? 0
        noteReply(placeLength(i), length)
      },
      isFull: () => waiting === batchMax,
      flush,
      close: () => void libcClose(fd),
    }
  }

  function claim(fd: number): void {
    libcSetsockopt(fd, SOL_SOCKET, SO_REUSEADDR, [0], 4)
    // The first is for CAP_NET_ADMIN; the other takes as much of it as net.core.rmem_max lets it.
    for (const option of [SO_RCVBUFFORCE, SO_RCVBUF]) if (libcSetsockopt(fd, SOL_SOCKET, option, [waitingOctets], 4) === 0) return
  }

  return { open, claim, on }
} // prettier-ignore

const vectorOf = (i: number): number => batchMax * headerSize + i * vectorSize
const placeAtOf = (i: number): number => batchMax * (headerSize + vectorSize) + i * placeSize
const datagramAt = (i: number, octets: number): number => placeAtOf(batchMax) + i * octets

/** Memory for one batch, laid out once, with its pointers. What is never written to is never touched. */
function makeBatch(octetsEach: number): { pointer: bigint; octets: Uint8Array; view: DataView } {
  // The memory of an array of this size never moves.
  const octets = new Uint8Array(datagramAt(batchMax, octetsEach))
  const view = new DataView(octets.buffer)
  const base = koffi.address(octets)
  for (let i = 0; i < batchMax; i++) {
    view.setBigUint64(i * headerSize, base + BigInt(placeAtOf(i)), true)
    view.setUint32(i * headerSize + nameLengthAt, placeOctets, true)
    view.setBigUint64(i * headerSize + vectorAt, base + BigInt(vectorOf(i)), true)
    view.setBigUint64(i * headerSize + vectorsAt, 1n, true)
    view.setBigUint64(vectorOf(i), base + BigInt(datagramAt(i, octetsEach)), true)
    view.setBigUint64(vectorOf(i) + 8, BigInt(Math.min(octetsEach, 65_536)), true)
  }
  return { pointer: base, octets, view }
}

/** The struct sockaddr_in or sockaddr_in6 of an address; without scope. */
export function placeAt(address: Address, port: number): Place {
  const isSix = address.length === 16
  const place = new Uint8Array(isSix ? 28 : 16)
  place.set([isSix ? AF_INET6 : AF_INET, 0, port >>> 8, port & 0xff])
  for (let i = 0; i < address.length; i++) place[(isSix ? 8 : 4) + i] = address.charCodeAt(i)
  return place
}

/** Addresses by number, the last of each place remembered: few workloads ask many questions, and a new string each time costs 0.1 us. */
function makeReader4(): (number: number) => Address {
  const numbers = new Uint32Array(1024)
  const addresses: Address[] = new Array<Address>(1024).fill(addressFromNumber(0n, 4))
  return (number) => {
    const place = (number ^ (number >>> 10)) & 1023
    if (numbers[place] !== number) {
      numbers[place] = number
      addresses[place] = addressFromNumber(BigInt(number), 4)
    }
    return addresses[place] ?? addressFromNumber(BigInt(number), 4)
  }
}

export function addressOf(place: Place): Address {
  return place.length === 16 ? addressFromOctets(place, 4, 4) : addressFromOctets(place, 8, 16)
}

/** @param at where the place begins */
export function portOf(places: Uint8Array, at = 0): number {
  return ((places[at + 2] ?? 0) << 8) | (places[at + 3] ?? 0)
}

function failure(doing: string): Error {
  const number = koffi.errno()
  const code = Object.entries(koffi.os.errno).find(([, n]) => n === number)?.[0] ?? `errno ${number}`
  return Object.assign(new Error(`${doing} ${code}`), { code, syscall: doing })
}
