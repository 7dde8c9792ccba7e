// The upstream of the benchmarks: answers every A and AAAA with one address made from the digits of the first label, straight from octets.
// Runs as a process of its own; says `ready` when it listens.
import { createSocket } from 'node:dgram'

const [address = '', port = '0'] = process.argv.slice(2)
const socket = createSocket({ type: 'udp4', recvBufferSize: 8 << 20 })
const reply = Buffer.alloc(512)

socket.on('message', (query, from) => {
  let number = 0
  let at = 13
  for (const end = 13 + (query[12] ?? 0); at < end; at++) {
    const digit = (query[at] ?? 0) - 48
    if (digit >= 0 && digit <= 9) number = number * 10 + digit
  }
  while ((query[at] ?? 0) !== 0) at += 1 + (query[at] ?? 0)
  const end = at + 5
  const six = query[at + 2] === 28
  query.copy(reply, 0, 0, end)
  reply.writeUInt16BE(0x8180, 2)
  reply.writeUInt32BE(0x00010001, 4)
  reply.writeUInt32BE(0, 8)
  reply.writeUInt16BE(0xc00c, end)
  reply.writeUInt16BE(six ? 28 : 1, end + 2)
  reply.writeUInt16BE(1, end + 4)
  reply.writeUInt32BE(3600, end + 6)
  reply.writeUInt16BE(six ? 16 : 4, end + 10)
  if (six) reply.fill(0, end + 12, end + 28)
  // 2001:db8::N and 198.18.0.0 + N, N below 2^17.
  if (six) reply.writeUInt32BE(0x20010db8, end + 12)
  reply.writeUInt32BE((six ? 0 : 0xc6120000) + (number % 131072), end + (six ? 24 : 12))
  socket.send(reply.subarray(0, end + (six ? 28 : 16)), from.port, from.address)
})
socket.bind(Number(port), address, () => console.log('ready'))
