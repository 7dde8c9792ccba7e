// What leases are kept in, each against the plain thing that it stands for: a Map, a sorted list, an array.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { OpenPorts } from '../../../src/datapath/element.ts'
import { makeAskers } from '../../../src/leases/askers.ts'
import { makeRows } from '../../../src/leases/columns.ts'
import { makeDeadlines, makeSchedule } from '../../../src/leases/deadlines.ts'
import { makeElements } from '../../../src/leases/elements.ts'
import { makeKeys } from '../../../src/leases/keys.ts'
import { append, unlink } from '../../../src/leases/rings.ts'
import { makeShapes, numberOf, portsOf } from '../../../src/leases/shapes.ts'
import { makeTexts, textOctetsMax } from '../../../src/leases/texts.ts'

/** The same numbers each time. */
function makeRandom(): (below: number) => number {
  let seed = 1
  return (below) => (seed = (seed * 48_271) % 2_147_483_647) % below
}

test('columns grow and keep what is in them, and a freed row is the next', () => {
  const rows = makeRows({ link: 'int32', moment: 'float64', flag: 'uint8' }, 'link')
  const taken = Array.from({ length: 10_000 }, () => rows.take())
  expect(new Set(taken).size).toBe(10_000)
  expect(taken).not.toContain(0)
  for (const row of taken) rows.at.moment[row] = row + 0.5
  for (const row of taken.slice(0, 100)) rows.free(row)
  const again = Array.from({ length: 100 }, () => rows.take())
  expect(again.toSorted((a, b) => a - b)).toEqual(taken.slice(0, 100))
  for (let i = 0; i < 100_000; i++) rows.take()
  expect(taken.slice(100).every((row) => rows.at.moment[row] === row + 0.5)).toBe(true)
  expect(rows.octets).toBe(13)
})

describe('texts', () => {
  test('are what was written, wherever they were moved, and what is dropped is used again', () => {
    const places = new Map<number, number>()
    const texts = makeTexts((owner, place) => places.set(owner, place))
    const written = new Map<number, string>()
    const random = makeRandom()
    let live = 0
    let most = 0
    for (let owner = 1; owner < 200_000; owner++) {
      const text = String.fromCharCode(...Array.from({ length: random(60) }, () => random(256)))
      places.set(owner, texts.write(owner, text))
      written.set(owner, text)
      live += text.length + 6
      most = Math.max(most, live)
      // Mostly the oldest go, some stay for good.
      const gone = owner - 3000
      const old = written.get(gone)
      if (old === undefined || gone % 97 === 0) continue
      texts.drop(places.get(gone) ?? -1)
      written.delete(gone)
      places.delete(gone)
      live -= old.length + 6
    }
    for (const [owner, text] of written) {
      const place = places.get(owner) ?? -1
      expect(texts.read(place)).toBe(text)
      expect([texts.isAt(place, text), texts.isAt(place, `${text}x`), texts.length(place)]).toEqual([true, false, text.length]) // prettier-ignore
    }
    // Three quarters are in use, but for the chunk that is written to and one that waits.
    expect(texts.reserved()).toBeLessThan(most / 0.75 + 3 * 65_536)
  })

  test('that are no octets, or too long, are refused', () => {
    const texts = makeTexts(() => undefined)
    expect(() => texts.write(1, 'ā')).toThrow('octets')
    expect(() => texts.write(1, 'x'.repeat(textOctetsMax + 1))).toThrow('octets')
    expect(texts.isAt(texts.write(1, '\x01'), 'ā')).toBe(false)
  })
})

test('keys find each text in its own group, as a Map does, through any growth and churn', () => {
  const rows = makeRows({ group: 'int32', place: 'int32', next: 'int32' }, 'next')
  const keys = makeKeys(rows, 12_345)
  const known = new Map<string, number>()
  const random = makeRandom()
  for (let step = 0; step < 60_000; step++) {
    const [group, text] = [random(3), `${random(5000)}.example`]
    const key = `${group} ${text}`
    const row = known.get(key)
    expect(keys.find(group, text)).toBe(row ?? 0)
    if (row === undefined) known.set(key, keys.take(group, text))
    else if (random(3) === 0) {
      keys.free(row)
      known.delete(key)
    }
  }
  for (const [key, row] of known) expect(`${rows.at.group[row]} ${keys.textOf(row)}`).toBe(key)
  expect(known.size).toBeGreaterThan(5000)
})

test('rings keep the order in which rows came', () => {
  const ring = { first: new Int32Array(4), next: new Int32Array(100), before: new Int32Array(100) }
  const rows = (owner: number): number[] => {
    const all: number[] = []
    for (let row = ring.first[owner] ?? 0; row !== 0 && row !== all[0]; row = ring.next[row] ?? 0) all.push(row)
    return all
  }
  for (const row of [5, 6, 7, 8]) append(ring, 1, row)
  append(ring, 2, 9)
  unlink(ring, 1, 5)
  unlink(ring, 1, 7)
  append(ring, 1, 5)
  expect([rows(1), rows(2)]).toEqual([[6, 8, 5], [9]])
  for (const row of [6, 8, 5]) unlink(ring, 1, row)
  expect(rows(1)).toEqual([])
})

describe('deadlines', () => {
  const step = fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 20 }), fc.boolean())

  test('in any order of putting, moving and removing: the first is first, and a walk goes by moment', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const moments = new Map<number, number>()
        const positions = new Int32Array(64)
        const heap = makeDeadlines((row) => moments.get(row) ?? NaN, () => positions) // prettier-ignore
        for (const [row, moment, stays] of steps) {
          if (stays) {
            moments.set(row, moment)
            heap.put(row)
          } else {
            heap.remove(row)
            moments.delete(row)
          }
          const sorted = [...moments.values()].sort((a, b) => a - b)
          expect([heap.earliest(), moments.get(heap.first())]).toEqual([sorted[0], sorted[0]])
          const walked: number[] = []
          heap.walk((each) => walked.push(moments.get(each) ?? NaN) < 1000)
          expect(walked).toEqual(sorted)
        }
      }),
    )
  })

  test('of several groups: what is due comes in order, whoever has it', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const moments = new Map<number, number>()
        const positions = new Int32Array(64)
        const schedule = makeSchedule((row) => moments.get(row) ?? NaN, () => positions) // prettier-ignore
        for (const [row, moment, stays] of steps) {
          if (stays) {
            moments.set(row, moment)
            schedule.put(row % 3, row)
          } else {
            schedule.remove(row % 3, row)
            moments.delete(row)
          }
          expect(schedule.earliest()).toBe(moments.size === 0 ? undefined : Math.min(...moments.values()))
        }
        const due: number[] = []
        for (let row = schedule.due(10); row !== 0; row = schedule.due(10)) {
          due.push(moments.get(row) ?? NaN)
          schedule.remove(row % 3, row)
        }
        expect(due).toEqual([...moments.values()].filter((moment) => moment <= 10).sort((a, b) => a - b))
      }),
    )
  })
})

test('askers are a list of whom asked first to last, of bounded length, and who asked last', () => {
  const askers = makeAskers(5)
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 8 }), { minLength: 1, maxLength: 40 }), fc.integer({ min: 1, max: 8 }), (endpoints, stays) => {
      const [one = 0, ...others] = endpoints
      let field = askers.alone(one)
      let list = [one]
      for (const endpoint of others) {
        field = askers.note(field, endpoint)
        if (!list.includes(endpoint)) list = [...list.slice(-4), endpoint]
        expect([askers.last(field), askers.list(field)]).toEqual([endpoint, list])
      }
      const remain = (endpoint: number): boolean => endpoint % stays === 0
      field = askers.filter(field, remain)
      expect([askers.last(field), askers.list(field)]).toEqual([endpoints.at(-1), list.filter(remain)])
      askers.free(field)
      expect(askers.size()).toBe(0)
    }),
  )
}) // prettier-ignore

describe('shapes', () => {
  const tcp = (first: number, last = first): OpenPorts => ({ kind: 'ports', protocol: 6, first, last })
  const all: OpenPorts = { kind: 'all' }

  test('ports are their number and back', () => {
    for (const ports of [all, tcp(0, 65_535), tcp(443), { kind: 'ports', protocol: 132, first: 1, last: 2 } as OpenPorts]) expect(portsOf(numberOf(ports))).toEqual(ports) // prettier-ignore
  })

  test('the same combination is the same number, once each, "all" alone', () => {
    const shapes = makeShapes()
    expect(shapes.shapeOf([tcp(1), tcp(2), tcp(1)])).toBe(shapes.shapeOf([tcp(1), tcp(2)]))
    expect(shapes.shapeOf([tcp(1), all])).toBe(shapes.shapeOf([all]))
    expect(shapes.portsOf(shapes.shapeOf([tcp(1), tcp(2), tcp(1)]))).toEqual([tcp(1), tcp(2)])
    expect(shapes.portsOf(shapes.shapeOf([]))).toEqual([])
  })

  test('what nobody has any more is forgotten, what somebody has is not', () => {
    const shapes = makeShapes()
    const kept = shapes.shapeOf([tcp(1), tcp(65_535)])
    shapes.hold(kept)
    let most = 0
    for (let port = 2; port < 20_000; port++) most = Math.max(most, shapes.shapeOf([tcp(port), tcp(1)]))
    expect(most).toBeLessThan(3000)
    expect([shapes.portsOf(kept), shapes.shapeOf([tcp(1), tcp(65_535)])]).toEqual([[tcp(1), tcp(65_535)], kept])
  })
})

test('elements: found from anywhere, what is under way is remembered until it is answered', () => {
  const elements = makeElements()
  let first = 0
  let near = 0
  for (const ports of [1, 2, 3]) {
    const added = elements.add(first, ports, near)
    first = added.first
    near = added.row
  }
  for (const ports of [1, 2, 3]) for (const from of [0, 1, 2, 3]) expect(elements.ports(elements.find(first, ports, from === 0 ? 0 : elements.find(first, from)))).toBe(ports) // prettier-ignore
  expect(elements.find(first, 4, near)).toBe(0)
  elements.send(near, 100)
  elements.send(near, 90)
  elements.acknowledge(near, 90, 1)
  expect([elements.until(near), elements.atMost(near), elements.underWay(near)]).toEqual([90, 100, 1])
  elements.refuse(near)
  expect([elements.atMost(near), elements.underWay(near)]).toEqual([100, 0])
  elements.send(near, 120)
  elements.acknowledge(near, 120, 1)
  expect([elements.atMost(near), elements.underWay(near)]).toEqual([120, 0])
  const middle = elements.find(first, 2)
  first = elements.remove(first, middle)
  expect([elements.find(first, 1), elements.find(first, 2), elements.find(first, 3)].map((row) => row > 0)).toEqual([true, false, true]) // prettier-ignore
  first = elements.remove(first, elements.find(first, 1))
  expect(first).toBe(elements.find(first, 3))
})
