// What long commands say while they work, on a clock that is stepped.
import { expect, test } from 'vitest'
import { makeProgress } from '../../../src/cli/progress.ts'

/** @param isTTY undefined: a pipe */
function screenOf(isTTY: true | undefined, columns?: number): { write: (text: string) => number; isTTY: true | undefined; columns: number | undefined; written: string[] } {
  const written: string[] = []
  return { isTTY, columns, written, write: (text) => written.push(text) }
} // prettier-ignore

test('after a second, ten times a second, and taken away', () => {
  const screen = screenOf(true)
  let now = 5000
  const { tell, end } = makeProgress(screen, () => now)
  for (; now < 6250; now += 10) tell({ what: 'reading', done: now, total: 9999 })
  tell({ what: 'compiling', done: 1 }, true)
  end()
  end()
  expect(screen.written).toEqual(['\rreading: 6000 of 9999 ...', '\rreading: 6100 of 9999 ...', '\rreading: 6200 of 9999 ...', '\rcompiling: 1 ...         ', `\r${' '.repeat(16)}\r`]) // prettier-ignore
})

test('what is over within a second says nothing, unless it is known to be long', () => {
  const screen = screenOf(true)
  const { tell, end } = makeProgress(screen, () => 0)
  tell({ what: 'reading', done: 0, total: 2 })
  end()
  expect(screen.written).toEqual([])
  tell({ what: 'reading', done: 1, total: 2 }, true)
  expect(screen.written).toEqual(['\rreading: 1 of 2 ...'])
})

test('a line is never wider than the terminal', () => {
  const screen = screenOf(true, 12)
  makeProgress(screen, () => 0).tell({ what: 'reading manifests', done: 1 }, true)
  expect(screen.written).toEqual(['\rreading man'])
  const unknown = screenOf(true, 0)
  makeProgress(unknown, () => 0).tell({ what: 'reading manifests', done: 1 }, true)
  expect(unknown.written).toEqual(['\rreading manifests: 1 ...'])
})

test('no terminal, no line', () => {
  const screen = screenOf(undefined)
  let now = 0
  const { tell, end } = makeProgress(screen, () => now)
  now = 10_000
  tell({ what: 'reading', done: 1 }, true)
  end()
  expect(screen.written).toEqual([])
})
