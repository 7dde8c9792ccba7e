// How commands print, and how they ask.
import { PassThrough } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { confirm } from '../../../src/cli/confirm.ts'
import { formats, render, table } from '../../../src/cli/output.ts'

describe('table', () => {
  test('columns as wide as their widest cell, nothing at line ends', () => {
    expect(table(['A', 'Name', 'IPs'], [['1000', 'x', '10.0.0.1,10.0.0.2'], ['2', 'longer', '']])).toBe(
      'A     Name    IPs\n1000  x       10.0.0.1,10.0.0.2\n2     longer\n',
    ) // prettier-ignore
  })
  test('no rows', () => expect(table(['A', 'B'], [])).toBe('A  B\n'))
  test('more rows than a call takes arguments', () => {
    const rows = Array.from({ length: 200_000 }, (_, i) => [String(i), 'x'])
    expect(table(['I', 'X'], rows).split('\n').length).toBe(200_002)
  })
})

test('formats', () => {
  const value = [{ fqdn: 'a.test.', ips: ['10.0.0.1'] }]
  const [asTable, asJson, asYaml] = formats.map((format) => render(format, value, () => 'drawn\n'))
  expect(asTable).toBe('drawn\n')
  expect(JSON.parse(asJson ?? '')).toEqual(value)
  expect(asYaml).toBe('- fqdn: a.test.\n  ips:\n    - 10.0.0.1\n')
})

describe('confirm', () => {
  const answers = [
    { typed: 'y\n', is: true },
    { typed: ' YES \n', is: true },
    { typed: 'n\n', is: false },
    { typed: '\n', is: false },
    { typed: 'yeah\n', is: false },
  ]
  for (const { typed, is } of answers)
    test(JSON.stringify(typed), async () => {
      const [input, output] = [new PassThrough(), new PassThrough()]
      const answer = confirm(Object.assign(input, { isTTY: true }), output, 'Clean all names?')
      input.write(typed)
      expect(await answer).toBe(is)
      expect(String(output.read())).toContain('Clean all names? [y/N] ')
    })

  test('without a terminal nobody is asked', async () => {
    const output = new PassThrough()
    expect(await confirm(new PassThrough(), output, 'Clean?')).toBe(false)
    expect(output.read()).toBeNull()
  })
})
