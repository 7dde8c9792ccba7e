// Sends the same packets again and again, as fast as it can, until it is told to stop. Run in a host's network namespace; arguments: its
// interface's index, the link addresses of both ends, then the packets in base64. stdin: anything ends it. stdout: `ready`; at the end how many
// it has sent.
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcBind = libc.func('int bind(int fd, void *address, uint32_t size)')
const libcSendmmsg = libc.func('int sendmmsg(int fd, void *messages, uint32_t count, int flags)')
const AF_PACKET = 17
const SOCK_RAW = 3
/** Between these it looks whether it is to stop. */
const millisPerTurn = 5

const [index = '', own = '', gateway = '', ...packets] = process.argv.slice(2)
const link = (text: string): number[] => text.split(':').map((part) => parseInt(part, 16))
const frames = packets.map((text) => {
  const packet = Buffer.from(text, 'base64')
  return Buffer.concat([Buffer.from([...link(gateway), ...link(own), ...((packet[0] ?? 0) >> 4 === 6 ? [0x86, 0xdd] : [8, 0])]), packet]) // prettier-ignore
})

// struct sockaddr_ll; struct mmsghdr (64 octets): a msghdr with one iovec (16 octets), and the length sent.
const here = new Uint8Array(20)
const view = new DataView(here.buffer)
view.setUint16(0, AF_PACKET, true)
view.setInt32(4, Number(index), true)
const fd = libcSocket(AF_PACKET, SOCK_RAW, 0) as number
if ((libcBind(fd, here, here.length) as number) !== 0) throw new Error(`packet socket: errno ${koffi.errno()}`)
// All in one buffer, which each call is given: what only an address points to may be taken away.
const count = frames.length
const messages = Buffer.concat([Buffer.alloc((64 + 16) * count), ...frames])
const address = BigInt(koffi.address(messages))
let offset = (64 + 16) * count
for (const [i, frame] of frames.entries()) {
  const vector = 64 * count + 16 * i
  messages.writeBigUInt64LE(address + BigInt(offset), vector)
  messages.writeBigUInt64LE(BigInt(frame.length), vector + 8)
  messages.writeBigUInt64LE(address + BigInt(vector), i * 64 + 16)
  messages.writeBigUInt64LE(1n, i * 64 + 24)
  offset += frame.length
}

let sent = 0
let isOver = false
process.stdin.once('data', () => (isOver = true))
console.log('ready')
function turn(): void {
  for (const until = performance.now() + millisPerTurn; performance.now() < until;)
    sent += Math.max(0, libcSendmmsg(fd, messages, count, 0) as number)
  if (!isOver) return void setImmediate(turn)
  console.log(sent)
  process.exit()
}
turn()
