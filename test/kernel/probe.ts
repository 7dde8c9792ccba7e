// A host of the verdict test, run in its network namespace: listens on every port that is tried, and tries what it is told to.
// stdin: JSON lines, lists of probes; stdout: `ready`, then for each list one JSON line of results.
import { createSocket } from 'node:dgram'
import { createServer, connect } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import koffi from 'koffi'

export interface Probe {
  readonly from: string
  readonly to: string
  /** 6, 17; 1 and 58 with `icmpType`; anything else is sent bare, over IPv4 only. */
  readonly protocol: number
  readonly port?: number
  readonly icmpType?: number
}
/** Anything but `allow` and `deny` is a failure of the test itself. */
export type Result = string

export const ports: readonly number[] = [1, 2, 3, 5, 80, 90, 100, 443]
const patienceMillis = 4000

const libc = koffi.load('libc.so.6')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcSendto = libc.func('long sendto(int fd, void *octets, size_t length, int flags, void *address, uint32_t size)') // prettier-ignore
const libcRecv = libc.func('long recv(int fd, void *octets, size_t size, int flags)')
const MSG_DONTWAIT = 0x40
const SOCK_RAW_NONBLOCK = 3 | 0o4000
const IPPROTO_RAW = 255

async function listenEverywhere(addresses: readonly string[]): Promise<void> {
  const listening: Promise<unknown>[] = []
  for (const port of ports) {
    const server = createServer((socket) => socket.on('error', () => undefined).end())
    listening.push(new Promise<void>((resolve) => server.listen(port, '::', resolve)))
    for (const address of addresses) {
      // Bound to the address, so that the answer comes from it.
      const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
      socket.on('message', (message, { port: to, address: peer }) => socket.send(message, to, peer, () => undefined))
      socket.on('error', () => undefined)
      listening.push(new Promise<void>((resolve) => socket.bind(port, address, resolve)))
    }
  }
  await Promise.all(listening)
}

function tryTcp({ from, to, port = 0 }: Probe): Promise<Result> {
  return new Promise((resolve) => {
    const socket = connect({ host: to, port, localAddress: from, timeout: patienceMillis })
    const end = (result: Result): void => {
      socket.destroy()
      resolve(result)
    }
    socket.on('connect', () => end('allow')).on('timeout', () => end('timeout'))
    socket.on('error', ({ code }: NodeJS.ErrnoException) => end(denials.has(code ?? '') ? 'deny' : `${code}`))
  })
}
/** What a refusal by the kernel looks like; on its way out of this very host it is EPERM. */
const denials = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'EACCES', 'EPERM'])

function tryUdp({ from, to, port = 0 }: Probe): Promise<Result> {
  return new Promise((resolve) => {
    const socket = createSocket(to.includes(':') ? 'udp6' : 'udp4')
    const patience = setTimeout(() => end('timeout'), patienceMillis)
    let ended = false
    const end = (result: Result): void => {
      if (ended) return
      ended = true
      clearTimeout(patience)
      socket.close()
      resolve(result)
    }
    const fail = ({ code }: NodeJS.ErrnoException): void => end(denials.has(code ?? '') ? 'deny' : `${code}`)
    socket.on('message', () => end('allow')).on('error', fail)
    socket.bind(0, from, () => socket.connect(port, to, () => socket.send('?', (error) => error !== null && fail(error)))) // prettier-ignore
  })
}

const octets4 = (text: string): number[] => text.split('.').map(Number)
function octets6(text: string): number[] {
  const [head = '', tail = ''] = text.split('::')
  const words = (part: string): number[] => (part === '' ? [] : part.split(':').map((word) => parseInt(word, 16)))
  const [before, after] = [words(head), words(tail)]
  const all = [...before, ...Array<number>(8 - before.length - after.length).fill(0), ...after]
  return all.flatMap((word) => [word >> 8, word & 255])
}
function checksum(octets: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < octets.length; i += 2) sum += ((octets[i] ?? 0) << 8) | (octets[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  return ~sum & 0xffff
}
function sockaddr(to: string): Uint8Array {
  const address = new Uint8Array(to.includes(':') ? 28 : 16)
  if (to.includes(':')) address.set([10, 0, 0, 0, 0, 0, 0, 0, ...octets6(to)])
  else address.set([2, 0, 0, 0, ...octets4(to)])
  return address
}
const ipv4 = (protocol: number, from: string, to: string, body: Uint8Array): Uint8Array =>
  Uint8Array.from([0x45, 0, 0, 20 + body.length, 0, 0, 0, 0, 64, protocol, 0, 0, ...octets4(from), ...octets4(to), ...body]) // prettier-ignore

/** Raw sockets: what comes back says which probe it is about by a number in the ICMP header, or by protocol and address. */
const raw4 = libcSocket(2, SOCK_RAW_NONBLOCK, 1) as number
const raw6 = libcSocket(10, SOCK_RAW_NONBLOCK, 58) as number
const send4 = libcSocket(2, SOCK_RAW_NONBLOCK, IPPROTO_RAW) as number
const send6 = libcSocket(10, SOCK_RAW_NONBLOCK, IPPROTO_RAW) as number
let nextId = 1

/** Gives the errno, 0 when it is sent. */
function sendRaw({ from, to, protocol, icmpType = 0 }: Probe, id: number): number {
  const body = new Uint8Array(protocol === 1 || protocol === 58 ? 20 : 8)
  if (protocol === 1) {
    body.set([icmpType, 0, 0, 0, id >> 8, id & 255])
    const sum = checksum(body)
    body.set([sum >> 8, sum & 255], 2)
  }
  if (protocol === 58) {
    body.set([icmpType, 0, 0, 0, id >> 8, id & 255])
    const pseudo = Uint8Array.from([...octets6(from), ...octets6(to), 0, 0, 0, body.length, 0, 0, 0, 58, ...body])
    const sum = checksum(pseudo)
    body.set([sum >> 8, sum & 255], 2)
  }
  const packet = to.includes(':')
    ? Uint8Array.from([0x60, 0, 0, 0, 0, body.length, protocol, 64, ...octets6(from), ...octets6(to), ...body])
    : ipv4(protocol, from, to, body)
  const address = sockaddr(to)
  const fd = to.includes(':') ? send6 : send4
  return (libcSendto(fd, packet, packet.length, 0, address, address.length) as number) < 0 ? koffi.errno() : 0
}

interface Heard {
  readonly result: Result
  /** The number in the ICMP header, or `protocol source destination` of a bare packet. */
  readonly about: number | string
}

function hear4(octets: Uint8Array): Heard | undefined {
  const at = ((octets[0] ?? 0) & 15) * 4
  const [type, code] = [octets[at], octets[at + 1]]
  const word = (i: number): number => ((octets[i] ?? 0) << 8) | (octets[i + 1] ?? 0)
  if (type === 0 || type === 14) return { result: 'allow', about: word(at + 4) }
  if (type !== 3) return undefined
  const inner = at + 8
  const result = code === 13 ? 'deny' : code === 2 ? 'allow' : `unreachable ${code}`
  if (octets[inner + 9] === 1) return { result, about: word(inner + ((octets[inner] ?? 0) & 15) * 4 + 4) }
  return {
    result,
    about: [
      octets[inner + 9],
      octets.slice(inner + 12, inner + 16).join('.'),
      octets.slice(inner + 16, inner + 20).join('.'),
    ].join(' '),
  }
}
function hear6(octets: Uint8Array): Heard | undefined {
  const word = (i: number): number => ((octets[i] ?? 0) << 8) | (octets[i + 1] ?? 0)
  if (octets[0] === 129) return { result: 'allow', about: word(4) }
  // What came back with the error must be ours: ICMP, not what another probe sent over UDP.
  if (octets[0] !== 1 || octets[8 + 6] !== 58) return undefined
  return { result: octets[1] === 1 ? 'deny' : `unreachable ${octets[1]}`, about: word(8 + 40 + 4) }
}

async function tryRaw(probes: readonly Probe[]): Promise<Map<Probe, Result>> {
  const buffer = new Uint8Array(2048)
  // A packet refused on its way out fails at once, and the kernel's word on it comes as well: it must not be taken for one on the next.
  for (const fd of [raw4, raw6]) while ((libcRecv(fd, buffer, buffer.length, MSG_DONTWAIT) as number) > 0);
  const results = new Map<Probe, Result>()
  const waiting = new Map<number | string, Probe[]>()
  for (const probe of probes) {
    const id = (nextId = (nextId % 65000) + 1)
    // On its way out of this very host a refusal is no answer but an error.
    const errno = sendRaw(probe, id)
    if (errno !== 0) results.set(probe, errno === koffi.os.errno['EPERM'] ? 'deny' : `errno ${errno}`)
    else {
      const about = probe.icmpType === undefined ? `${probe.protocol} ${probe.from} ${probe.to}` : id
      waiting.set(about, [...(waiting.get(about) ?? []), probe])
    }
  }
  const until = performance.now() + patienceMillis
  while (waiting.size > 0 && performance.now() < until) {
    for (const [fd, hear] of [
      [raw4, hear4],
      [raw6, hear6],
    ] as const)
      // prettier-ignore
      for (let length: number; (length = libcRecv(fd, buffer, buffer.length, MSG_DONTWAIT) as number) > 0;) {
        const heard = hear(buffer.subarray(0, length))
        if (heard === undefined) continue
        for (const probe of waiting.get(heard.about) ?? []) results.set(probe, heard.result)
        waiting.delete(heard.about)
      }
    if (waiting.size > 0) await delay(1)
  }
  for (const probe of [...waiting.values()].flat()) results.set(probe, 'timeout')
  return results
}

async function tryAll(probes: readonly Probe[]): Promise<Result[]> {
  const raw = tryRaw(probes.filter(({ protocol }) => protocol !== 6 && protocol !== 17))
  const results = probes.map(async (probe) =>
    probe.protocol === 6 ? tryTcp(probe) : probe.protocol === 17 ? tryUdp(probe) : ((await raw).get(probe) ?? 'lost'),
  )
  return Promise.all(results)
}

if (import.meta.main) {
  await listenEverywhere(process.argv.slice(2))
  console.log('ready')
  for await (const line of createInterface({ input: process.stdin }))
    console.log(JSON.stringify(await tryAll(JSON.parse(line) as Probe[])))
  process.exit()
}
