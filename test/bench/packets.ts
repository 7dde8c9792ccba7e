// Sends small UDP packets one after the other to a socket in another namespace and says what a trip costs. `first`: each from a port of its
// own, so that the kernel knows the connection of none. `known`: all of one connection, which has been answered.
import { openSync } from 'node:fs'
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int domain, int type, int protocol)')
const bind = libc.func('int bind(int fd, void *address, uint32_t size)')
const setns = libc.func('int setns(int fd, int kind)')
const sendto = libc.func('long sendto(int fd, void *octets, size_t length, int flags, void *address, uint32_t size)')
const recv = libc.func('long recv(int fd, void *octets, size_t size, int flags)')

const [there = '', to = '', mode = 'first'] = process.argv.slice(2)
const source = [10, 11, 0, 2]
const destination = to.split('.').map(Number)
const packets = 30_000
const warmUp = 3000
const firstPort = 10_000

const CLONE_NEWNET = 0x40000000
const IPPROTO_RAW = 255
const SO_RAW = 3
const SO_DGRAM_NONBLOCK = 2 | 0o4000

const address = Uint8Array.from([2, 0, 0, 9, ...destination, ...Array<number>(8).fill(0)])
const here = openSync('/proc/self/ns/net', 'r')
if ((setns(openSync(there, 'r'), CLONE_NEWNET) as number) !== 0) throw new Error(`setns: errno ${koffi.errno()}`)
const receiver = socket(2, SO_DGRAM_NONBLOCK, 0) as number
if ((bind(receiver, address, 16) as number) !== 0) throw new Error(`bind: errno ${koffi.errno()}`)
setns(here, CLONE_NEWNET)
const sender = socket(2, SO_RAW, IPPROTO_RAW) as number

// IPv4 header and UDP header; a checksum of 0 is none.
const packet = Uint8Array.from([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, ...source, ...destination, 0, 0, 0, 9, 0, 8, 0, 0]) // prettier-ignore
const received = new Uint8Array(64)

/** Nanoseconds from before it is sent until it is there. */
function trip(port: number): number {
  packet[20] = port >> 8
  packet[21] = port & 255
  const started = process.hrtime.bigint()
  if ((sendto(sender, packet, packet.length, 0, address, 16) as number) < 0) throw new Error(`errno ${koffi.errno()}`)
  for (let tries = 0; (recv(receiver, received, received.length, 0) as number) < 0; tries++)
    if (tries > 100_000) throw new Error('a packet did not arrive')
  return Number(process.hrtime.bigint() - started)
}

if (mode === 'known') {
  trip(firstPort)
  const back = Uint8Array.from([2, 0, firstPort >> 8, firstPort & 255, ...source, ...Array<number>(8).fill(0)])
  if ((sendto(receiver, Uint8Array.of(0), 1, 0, back, 16) as number) < 0) throw new Error(`errno ${koffi.errno()}`)
}
const costs = new Float64Array(packets)
for (let i = -warmUp; i < packets; i++) {
  const nanos = trip(mode === 'first' ? firstPort + i : firstPort)
  if (i >= 0) costs[i] = nanos
}
// The median: what else the machine does now and then falls out.
costs.sort()
console.log(JSON.stringify({ nanos: costs[packets >> 1] }))
