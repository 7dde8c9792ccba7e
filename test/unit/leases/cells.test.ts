// Ports cut for the kernel's sets: narrow ranges as single ports, wide ones so that no two elements overlap.
import { expect, test } from 'vitest'
import { makeCells } from '../../../src/leases/cells.ts'
import { portsToText, Protocol, type Ports } from '../../../src/net/ports.ts'

const tcp = (first: number, last = first): Ports => ({ kind: 'ports', protocol: Protocol.TCP, first, last })
const udp = (first: number, last = first): Ports => ({ kind: 'ports', protocol: Protocol.UDP, first, last })

const rows = [
  { title: 'one port', all: [tcp(443)], ports: [tcp(443)], cells: ['tcp/443'] },
  { title: 'any', all: [], ports: [{ kind: 'all' } as const], cells: ['any'] },
  { title: 'a narrow range is single ports', all: [tcp(80, 82)], ports: [tcp(80, 82)], cells: ['tcp/80', 'tcp/81', 'tcp/82'] },
  { title: 'a wide range alone stays whole', all: [tcp(1000, 2000)], ports: [tcp(1000, 2000)], cells: ['tcp/1000-2000'] },
  { title: 'wide ranges are cut at each other', all: [tcp(1000, 2000), tcp(1500, 3000)], ports: [tcp(1000, 2000)], cells: ['tcp/1000-1499', 'tcp/1500-2000'] },
  { title: 'and so share cells', all: [tcp(1000, 2000), tcp(1500, 3000)], ports: [tcp(1500, 3000)], cells: ['tcp/1500-2000', 'tcp/2001-3000'] },
  { title: 'protocols do not cut each other', all: [tcp(1000, 2000), udp(1500, 3000)], ports: [tcp(1000, 2000)], cells: ['tcp/1000-2000'] },
  { title: 'all ports of a protocol', all: [udp(0, 65535)], ports: [udp(0, 65535)], cells: ['udp/*'] },
] // prettier-ignore

for (const { title, all, ports, cells } of rows)
  test(title, () => expect(makeCells(all)(ports).map(portsToText)).toEqual(cells))
