// The bare wire of a host in a test: sends packets as they are given, and tells every one that comes, before any firewall has seen it.
// Run in the host's network namespace; arguments: its interface's index, the link address of the other end. stdin: JSON lines, lists of
// packets in base64. stdout: `ready`; `sent` when a list is out, or `refused` and why; a line in base64 for each packet that comes.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import koffi from 'koffi'
import type { Octets } from '../support/frames.ts'
import { sh, type Host } from '../support/lab.ts'

export interface Wire {
  /** Resolves when all of it is out. */
  readonly send: (packets: readonly Octets[]) => Promise<void>
  /** Every packet that came, in latin1, oldest first. */
  readonly heard: readonly string[]
  readonly forget: () => void
  /** Resolves when a packet with this in it comes, or has come. */
  readonly hears: (mark: string) => Promise<void>
  readonly stop: () => void
}

interface Interface {
  readonly address: string
  readonly ifindex: number
}
const interfaceOf = (json: string): Interface => (JSON.parse(json) as [Interface])[0]

/** @param link our end of the host's link, `device` his. The sender stays on one core: what it sends arrives in order. */
export async function openWire(host: Host, link: string, device = 'eth0'): Promise<Wire> {
  const { ifindex } = interfaceOf(host.sh(`ip -j link show dev ${device}`).out)
  const { address } = interfaceOf(sh(`ip -j link show dev ${link}`))
  const program = [process.execPath, fileURLToPath(import.meta.url), String(ifindex), address]
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${host.path}`, 'taskset', '-c', '0', ...program], { stdio: ['pipe', 'pipe', 'inherit'] }) // prettier-ignore
  const heard: string[] = []
  const waiting = new Map<string, () => void>()
  const saying: ((word: string) => void)[] = []
  const next = (): Promise<string> => new Promise((resolve) => saying.push(resolve))
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (/^(ready|sent$|refused )/.test(line)) return saying.shift()?.(line)
    const packet = Buffer.from(line, 'base64').toString('latin1')
    heard.push(packet)
    for (const [mark, resolve] of waiting) if (packet.includes(mark)) resolve()
  })
  await next()
  return {
    async send(packets) {
      child.stdin.write(`${JSON.stringify(packets.map((packet) => Buffer.from(packet).toString('base64')))}\n`)
      const answer = await next()
      if (answer !== 'sent') throw new Error(answer)
    },
    heard,
    forget: () => void heard.splice(0),
    async hears(mark) {
      if (!heard.some((packet) => packet.includes(mark)))
        await new Promise<void>((resolve) => waiting.set(mark, resolve))
      waiting.delete(mark)
    },
    stop: () => void child.kill('SIGKILL'),
  }
}

const libc = koffi.load('libc.so.6')
const libcSocket = libc.func('int socket(int domain, int type, int protocol)')
const libcBind = libc.func('int bind(int fd, void *address, uint32_t size)')
const libcSendto = libc.func('long sendto(int fd, void *octets, size_t length, int flags, void *address, uint32_t size)') // prettier-ignore
const libcRecvfrom = libc.func('long recvfrom(int fd, _Out_ void *octets, size_t size, int flags, _Out_ void *address, _Inout_ uint32_t *size)') // prettier-ignore
const libcSetsockopt = libc.func('int setsockopt(int fd, int level, int name, int *value, int size)')
const AF_PACKET = 17
/** Packets without their link header. */
const SOCK_DGRAM = 2
const ETH_P_ALL = 3
const ETH_P_IP = 0x0800
const ETH_P_IPV6 = 0x86dd
const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33
/** sll_pkttype of what this very host sent. */
const PACKET_OUTGOING = 4

/** struct sockaddr_ll: family, protocol in network order, interface, hardware type, packet type, length of the link address, the address. */
function linkAddress(index: number, protocol: number, to: readonly number[] = []): Uint8Array {
  const octets = new Uint8Array(20)
  const view = new DataView(octets.buffer)
  view.setUint16(0, AF_PACKET, true)
  view.setUint16(2, protocol)
  view.setInt32(4, index, true)
  octets[11] = to.length
  octets.set(to, 12)
  return octets
}

async function main(index: number, gateway: string): Promise<never> {
  const to = gateway.split(':').map((part) => parseInt(part, 16))
  const fd = libcSocket(AF_PACKET, SOCK_DGRAM, 0) as number
  libcSetsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, [1 << 22], 4)
  const here = linkAddress(index, ETH_P_ALL)
  if (fd < 0 || (libcBind(fd, here, here.length) as number) !== 0)
    throw new Error(`packet socket: errno ${koffi.errno()}`)

  function send(packet: Uint8Array): string | undefined {
    const address = linkAddress(index, (packet[0] ?? 0) >> 4 === 6 ? ETH_P_IPV6 : ETH_P_IP, to)
    const sent = libcSendto(fd, packet, packet.length, 0, address, address.length) as number
    return sent === packet.length ? undefined : `errno ${koffi.errno()}`
  }
  function hear(): void {
    const [octets, address] = [Buffer.alloc(65536), new Uint8Array(20)]
    libcRecvfrom.async(fd, octets, octets.length, 0, address, [20], (error: unknown, length: number) => {
      if (error !== null || length < 0) process.exit(1)
      if (address[10] !== PACKET_OUTGOING) console.log(octets.toString('base64', 0, length))
      hear()
    })
  }
  hear()
  console.log('ready')
  for await (const line of createInterface({ input: process.stdin })) {
    const faults = (JSON.parse(line) as string[]).map((packet) => send(Buffer.from(packet, 'base64')))
    const fault = faults.find((one) => one !== undefined)
    console.log(fault === undefined ? 'sent' : `refused ${fault}`)
  }
  process.exit()
}

if (import.meta.main) await main(Number(process.argv[2]), process.argv[3] ?? '')
