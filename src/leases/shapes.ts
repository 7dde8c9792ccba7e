// What leases open, each combination of ports kept once. A lease has a shape by its number, and so has an element its ports: there are as many as
// policies have combinations of rules, and what no lease or element has any more is forgotten.
import type { OpenPorts } from '../datapath/element.ts'

export interface Shapes {
  /** The number of a combination, of which each is counted once, and only "all" where it is among them. It is kept as long as it is held. */
  readonly shapeOf: (ports: readonly OpenPorts[]) => number
  readonly hold: (shape: number) => void
  readonly release: (shape: number) => void
  readonly portsOf: (shape: number) => readonly OpenPorts[]
  /** The ports' own numbers, by which elements know them. */
  readonly numbersOf: (shape: number) => readonly number[]
  readonly opens: (shape: number, number: number) => boolean
}

interface Shape {
  readonly key: string | number
  readonly ports: readonly OpenPorts[]
  readonly numbers: readonly number[]
  holders: number
}

const nothing: Shape = { key: '', ports: [], numbers: [], holders: 1 }

/** Shapes that nobody holds are swept when there are that many more than after the last time. */
const sweptMin = 1024

/** Ports as one number: equal only for equal ports. `all` is -1. */
export function numberOf(ports: OpenPorts): number {
  return ports.kind === 'all' ? -1 : (ports.protocol * 65_536 + ports.first) * 65_536 + ports.last
}
export function portsOf(number: number): OpenPorts {
  if (number < 0) return { kind: 'all' }
  const last = number % 65_536
  const rest = (number - last) / 65_536
  return { kind: 'ports', protocol: Math.floor(rest / 65_536) as 6, first: rest % 65_536, last }
}

export function makeShapes(): Shapes {
  const shapes: (Shape | undefined)[] = [nothing]
  const known = new Map<string | number, number>([['', 0]])
  const idle: number[] = []
  let sweepAt = sweptMin

  function sweep(): void {
    shapes.forEach((shape, i) => {
      if (shape === undefined || shape.holders > 0) return
      known.delete(shape.key)
      shapes[i] = undefined
      idle.push(i)
    })
    sweepAt = known.size + sweptMin
  }

  function shapeOf(ports: readonly OpenPorts[]): number {
    const [only] = ports
    const numbers = ports.length === 1 && only !== undefined ? undefined : distinct(ports.map(numberOf))
    const key = numbers === undefined ? numberOf(only ?? { kind: 'all' }) : numbers.length === 1 ? (numbers[0] ?? -1) : numbers.join() // prettier-ignore
    const found = known.get(key)
    if (found !== undefined) return found
    if (known.size >= sweepAt) sweep()
    const own = numbers ?? [key as number]
    const shape = { key, ports: own.map(portsOf), numbers: own, holders: 0 }
    const number = idle.pop() ?? shapes.length
    shapes[number] = shape
    known.set(key, number)
    return number
  }
  const at = (shape: number): Shape => shapes[shape] ?? nothing
  return {
    shapeOf,
    hold: (shape) => void at(shape).holders++,
    release: (shape) => void at(shape).holders--,
    portsOf: (shape) => at(shape).ports,
    numbersOf: (shape) => at(shape).numbers,
    opens: (shape, number) => at(shape).numbers.includes(number),
  }
}

function distinct(numbers: readonly number[]): readonly number[] {
  return numbers.includes(-1) ? [-1] : [...new Set(numbers)]
}
