// Socket diagnosis's messages as octets: what the kernel says is read, what is cut or strange is passed over.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { askSockets, destroySocket, readSockets, socketKinds, type SockDiagMessage } from '../../../src/datapath/sockdiag.ts' // prettier-ignore
import { addressFromText } from '../../../src/net/address.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const read = (octets: Uint8Array, length = octets.length): SockDiagMessage[] => {
  const messages: SockDiagMessage[] = []
  readSockets(octets, length, (message) => messages.push(message))
  return messages
}
const pad = (octets: readonly number[], size: number): number[] => [...octets, ...new Array<number>(size - octets.length).fill(0)] // prettier-ignore
const id = (local: number[], remote: number[]): number[] => [0x1b, 0x58, 0x01, 0xbb, ...pad(local, 16), ...pad(remote, 16), 3, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2] // prettier-ignore

/** struct inet_diag_msg behind its header: a socket from port 7000 to port 443, established. */
function message(family: number, local: number[], remote: number[]): Uint8Array {
  const body = [family, 1, 0, 0, ...id(local, remote), ...new Array<number>(20).fill(0)]
  return Uint8Array.from([body.length + 16, 0, 0, 0, 20, 0, 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, ...body])
}
const [four, mapped] = [
  [10, 3, 0, 1],
  [...new Array<number>(10).fill(0), 255, 255, 10, 3, 0, 1],
]
const six = [0xfd, 3, ...new Array<number>(13).fill(0), 1]

test('a socket of each family; IPv4 on a socket for both is IPv4', () => {
  const socket = (local: string, octets: number[]) => [{ kind: 'socket', socket: { local: at(local), localPort: 7000, remote: at(local), remotePort: 443, id: Uint8Array.from(id(octets, octets)) } }] // prettier-ignore
  expect(read(message(2, four, four))).toEqual(socket('10.3.0.1', four))
  expect(read(message(10, six, six))).toEqual(socket('fd03::1', six))
  expect(read(message(10, mapped, mapped))).toEqual(socket('10.3.0.1', mapped))
  expect(read(message(1, four, four))).toEqual([])
})

test('the end of a list, an acknowledgement, an error', () => {
  const plain = (type: number, errno: number): Uint8Array => Uint8Array.from([20, 0, 0, 0, type, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, ...new Uint8Array(Int32Array.of(-errno).buffer)]) // prettier-ignore
  expect(read(plain(3, 0))).toEqual([{ kind: 'done', sequence: 7 }])
  expect(read(plain(2, 0))).toEqual([{ kind: 'error', sequence: 7, errno: 0 }])
  expect(read(plain(2, 95))).toEqual([{ kind: 'error', sequence: 7, errno: 95 }])
})

test('what is asked: never for sockets that listen, or that have no other end', () => {
  const octets = new Uint8Array(128).fill(255)
  const asked = socketKinds.map((kind) => [...octets.subarray(16, askSockets(octets, kind, 1))].slice(0, 8))
  const [tcp, udp] = [
    [0x3e, 0x1b, 0, 0],
    [2, 0, 0, 0],
  ] as const
  expect(asked).toEqual([[2, 6, 0, 0, ...tcp], [10, 6, 0, 0, ...tcp], [2, 17, 0, 0, ...udp], [10, 17, 0, 0, ...udp]]) // prettier-ignore
  const own = Uint8Array.from(id(four, four))
  const length = destroySocket(octets, { family: 2, protocol: 6 }, own, 5)
  expect([...octets.subarray(0, length)]).toEqual([72, 0, 0, 0, 21, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 6, 0, 0, 0, 0, 0, 0, ...own]) // prettier-ignore
})

test('no octets make the reader throw or run on, and a message that is cut tells nothing', () => {
  const whole = message(2, four, four)
  for (let length = 0; length < whole.length; length++) expect(read(whole, length)).toEqual([])
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (octets) => void read(octets)),
    { numRuns: 2000 },
  )
})
