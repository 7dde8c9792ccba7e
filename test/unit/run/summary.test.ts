// What a run says at its end: denied is what policy refused; a resolver that fails is told apart.
import { expect, test } from 'vitest'
import type { Outcome } from '../../../src/proxy/handle.ts'
import { collectUnanswered, summaryJson, summaryText } from '../../../src/run/summary.ts'

const outcome = (kind: 'refused' | 'failed', name: string, text: string): Outcome =>
  ({ kind, question: { name, qtype: 1 }, why: { text } }) as unknown as Outcome
const seen = (...outcomes: Outcome[]): ReturnType<typeof collectUnanswered> => {
  const collection = collectUnanswered()
  outcomes.forEach(collection.see)
  return collection
}

test('nothing', () => expect(summaryText(seen().names(), [])).toBe('namegate: nothing was denied\n'))

test('failures are no denials', () => {
  const failures = seen(
    outcome('failed', 'api.example.com', 'no answer'),
    outcome('failed', 'api.example.com', 'no answer'),
  )
  expect(summaryText(failures.names(), [])).toBe(
    'namegate: nothing was denied; 1 lookups failed\n  failed  api.example.com A  x2  no answer\n',
  )
  expect(JSON.parse(summaryJson(failures.names(), []))).toMatchObject({
    names: [],
    failed: [{ name: 'api.example.com', count: 2 }],
  })
})

test('both, for one name too', () => {
  const { names } = seen(outcome('failed', 'a.test', 'no answer'), outcome('refused', 'a.test', 'no rule'))
  expect(summaryText(names(), []).split('\n')).toEqual([
    'namegate: denied 1 names and 0 connections; 1 lookups failed',
    '  name    a.test A  x1  no rule',
    '  failed  a.test A  x1  no answer',
    '',
  ])
})

test('names beyond the bound are counted, and something was denied', () => {
  const { names } = seen(...Array.from({ length: 203 }, (_, i) => outcome('refused', `${i}.test`, 'no rule')))
  expect(names()).toMatchObject({ further: 3 })
  expect(names().denied.length).toBe(200)
})
