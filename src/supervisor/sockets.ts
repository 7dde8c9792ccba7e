// The sockets that outlive workers: bound once, inherited by each of them.
import koffi from 'koffi'
import { addressFromText, familyOf } from '../net/address.ts'
import { makeBatches, placeAt } from '../proxy/datagrams.ts'
import { placeText, socketError } from '../socketError.ts'
import type { SharedSockets } from './messages.ts'

const [AF_INET, AF_INET6] = [2, 10]
const [SOCK_STREAM, SOCK_DGRAM, SOCK_CLOEXEC] = [1, 2, 0o2000000]
const [SOL_SOCKET, SO_REUSEADDR, IPPROTO_IPV6, IPV6_V6ONLY] = [1, 2, 41, 26]
/** Connections that wait to be taken. The kernel cuts it at net.core.somaxconn. */
const backlog = 511
/** Where struct sockaddr_in6 has its scope. */
const scopeAt = 24

interface Place {
  readonly address: string
  readonly port: number
}

/** Undefined where such sockets are not to be had: then there is one process, as in `namegate run`. */
export function makeSocketOpener(): ((places: readonly Place[]) => SharedSockets[]) | undefined {
  // What reads them in batches is what knows their structures.
  const batches = makeBatches()
  if (batches === undefined) return undefined
  const libc = koffi.load('libc.so.6')
  const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
  const libcBind = libc.func('int bind(int fd, void *place, uint size)')
  const libcListen = libc.func('int listen(int fd, int backlog)')
  const libcClose = libc.func('int close(int fd)')
  const libcSetsockopt = libc.func('int setsockopt(int fd, int level, int name, int *value, int size)')
  const libcIndex = libc.func('uint if_nametoindex(const char *name)')

  function openOne({ address: text, port }: Place, type: number): number {
    const address = addressFromText(text)
    if (address === undefined) throw new Error(`${text} is not an address`)
    const isSix = familyOf(address) === 6
    const place = placeAt(address, port)
    const zone = text.split('%')[1]
    if (zone !== undefined && isSix) new DataView(place.buffer).setUint32(scopeAt, libcIndex(zone) as number, true)
    const fd = libcSocket(isSix ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0) as number
    if (fd < 0) throw failure()
    if (isSix) libcSetsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, [1], 4)
    // A port that connections of an earlier agent still use is free for a listener; two datagram sockets would share it.
    if (type === SOCK_STREAM) libcSetsockopt(fd, SOL_SOCKET, SO_REUSEADDR, [1], 4)
    if (libcBind(fd, place, place.length) === 0 && (type === SOCK_DGRAM || libcListen(fd, backlog) === 0)) return fd
    const error = failure()
    libcClose(fd)
    throw error
  }

  return (places) => {
    const opened: number[] = []
    return places.map((place) => {
      try {
        const [udpFd, tcpFd] = [openOne(place, SOCK_DGRAM), openOne(place, SOCK_STREAM)]
        opened.push(udpFd, tcpFd)
        batches.claim(udpFd)
        return { ...place, family: place.address.includes(':') ? 6 : 4, udpFd, tcpFd }
      } catch (error) {
        for (const fd of opened) libcClose(fd)
        throw socketError('DNS', placeText(place.address, place.port), 'dns.listen', error)
      }
    })
  }
}

function failure(): Error {
  const number = koffi.errno()
  const code = Object.entries(koffi.os.errno).find(([, n]) => n === number)?.[0] ?? `errno ${number}`
  return Object.assign(new Error(code), { code })
}
