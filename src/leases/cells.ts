// Ports as the kernel's sets want them: narrow ranges as single ports (hash), wide ranges cut so that no two overlap (interval set).
import { singlesMax, type OpenPorts } from '../datapath/element.ts'
import type { Ports } from '../net/ports.ts'

/**
 * Cuts ports into cells; the same cells for the same ports, so that elements of two names never overlap. Types of ICMP and protocols without
 * ports make none: the kernel's learned sets know only ports and everything.
 */
export type Cells = (ports: readonly Ports[]) => readonly OpenPorts[]

/** Cells for everything that one policy can open; `all` lists it. Ports not in `all` are cut too, but may overlap others of their kind. */
export function makeCells(all: readonly Ports[]): Cells {
  const cuts = new Map<number, number[]>()
  for (const ports of all) {
    if (ports.kind !== 'ports' || isNarrow(ports)) continue
    const at = cuts.get(ports.protocol) ?? []
    cuts.set(ports.protocol, at)
    at.push(ports.first, ports.last + 1)
  }
  for (const at of cuts.values()) at.sort((a, b) => a - b)
  return (ports) => ports.flatMap((one) => cellsOf(one, cuts))
}

function isNarrow(ports: Ports & { kind: 'ports' }): boolean {
  return ports.last - ports.first < singlesMax
}

function cellsOf(ports: Ports, cuts: ReadonlyMap<number, readonly number[]>): OpenPorts[] {
  if (ports.kind === 'all') return [ports]
  if (ports.kind !== 'ports') return []
  const { kind, protocol } = ports
  const cells: OpenPorts[] = []
  if (isNarrow(ports)) {
    for (let port = ports.first; port <= ports.last; port++) cells.push({ kind, protocol, first: port, last: port })
    return cells
  }
  let first = ports.first
  for (const cut of cuts.get(protocol) ?? []) {
    if (cut <= first || cut > ports.last) continue
    cells.push({ kind, protocol, first, last: cut - 1 })
    first = cut
  }
  cells.push({ kind, protocol, first, last: ports.last })
  return cells
}
