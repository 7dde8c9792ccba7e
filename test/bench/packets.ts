// Sends small UDP packets as fast as one core does and says what they cost; run in a workload's namespace. `first`: each from a port of its
// own, so that the kernel knows the connection of none. `known`: all of one connection.
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int domain, int type, int protocol)')
const sendto = libc.func('long sendto(int fd, void *octets, size_t length, int flags, void *address, uint32_t size)')

const [to = '', mode = 'first'] = process.argv.slice(2)
const source = [10, 1, 0, 2]
const destination = to.split('.').map(Number)
const packets = 40_000
const firstPort = 10_000

const IPPROTO_RAW = 255
const fd = socket(2, 3, IPPROTO_RAW) as number
const address = Uint8Array.from([2, 0, 0, 0, ...destination, ...Array<number>(8).fill(0)])
// IPv4 header and UDP header, to the discard port; a checksum of 0 is none.
const packet = Uint8Array.from([0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, ...source, ...destination, 0, 0, 0, 9, 0, 8, 0, 0]) // prettier-ignore

function send(count: number, from: number): void {
  for (let i = 0; i < count; i++) {
    const port = mode === 'first' ? from + i : firstPort
    packet[20] = port >> 8
    packet[21] = port & 255
    if ((sendto(fd, packet, packet.length, 0, address, 16) as number) < 0) throw new Error(`errno ${koffi.errno()}`)
  }
}

// The neighbour is found and the code is warm before anything is counted.
send(2000, firstPort - 2500)
const started = process.hrtime.bigint()
send(packets, firstPort)
console.log(JSON.stringify({ nanos: Number(process.hrtime.bigint() - started), packets }))
