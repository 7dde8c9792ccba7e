// What connections were in order by, from one agent to the next: whole or not at all.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  findEarlier,
  linesOf,
  makeLastPolicyFile,
  parseLastPolicy,
  unsettled,
  type LastPolicy,
} from '../../src/lastPolicy.ts'
import { addressFromText } from '../../src/net/address.ts'
import type { Snapshot } from '../../src/policy/snapshot.ts'
import { temporaryFolder } from '../support/folder.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const policy = (text: string, settings = '{}'): LastPolicy => ({ origin: { files: [{ path: 'a.yaml', text }, { path: 'b.yaml', text: '' }], hostAddresses: [at('10.0.0.1'), at('fd00::1')] }, settings }) // prettier-ignore
const textOf = (last: LastPolicy): string => [...linesOf(last)].join('')

test('what is written is what is read, whatever the texts are', () => {
  const files = fc.array(fc.record({ path: fc.string({ unit: 'binary' }), text: fc.string({ unit: 'binary', maxLength: 300 }) }), { maxLength: 4 }) // prettier-ignore
  fc.assert(
    fc.property(files, fc.string(), (given, settings) => {
      const last = { origin: { files: given, hostAddresses: [at('10.0.0.1')] }, settings }
      expect(parseLastPolicy(textOf(last))).toEqual(last)
    }),
  )
  // Longer than a line.
  const long = policy('x'.repeat(200_000))
  expect(parseLastPolicy(textOf(long))).toEqual(long)
})

test('torn at any place, changed at any place, or not ours: nothing is read', () => {
  const whole = textOf(policy('kind: Pod'))
  for (let length = 0; length < whole.length; length++) expect(parseLastPolicy(whole.slice(0, length))).toBe(undefined)
  for (let i = 0; i < whole.length; i++) expect(parseLastPolicy(`${whole.slice(0, i)}\u0001${whole.slice(i + 1)}`)).toBe(undefined) // prettier-ignore
  const lines = [...linesOf(policy('kind: Pod'))]
  for (const i of lines.keys()) expect(parseLastPolicy(lines.filter((_, other) => other !== i).join(''))).toBe(undefined) // prettier-ignore
})

test('what an earlier agent leaves: nothing, the same, another, what cannot be compared; and a foreign file is set aside', async () => {
  const path = join(await temporaryFolder(), 'leases.policy')
  const said: string[] = []
  const other = {} as Snapshot
  const find = (now: LastPolicy, compiled: Snapshot | undefined = other) => findEarlier(path, now, async () => compiled, (text) => said.push(text)) // prettier-ignore
  expect(await find(policy('one'))).toEqual({ kind: 'none' })
  const file = makeLastPolicyFile(path, (text) => said.push(text))
  void file.write(policy('zero'))
  void file.write(policy('one'))
  await file.close()
  expect(await find(policy('one'))).toEqual({ kind: 'same' })
  expect(await find(policy('two'))).toEqual({ kind: 'other', snapshot: other })
  expect(await find(policy('one', 'others'))).toEqual({ kind: 'unknown' })
  const { kind } = await findEarlier(path, policy('two'), () => Promise.resolve(undefined), (text) => said.push(text)) // prettier-ignore
  expect([kind, said]).toEqual(['unknown', []])
  // While a policy comes into force.
  const next = makeLastPolicyFile(path, (text) => said.push(text))
  await next.write(unsettled)
  expect(await find(policy('one'))).toEqual({ kind: 'unknown' })
  await writeFile(path, 'somebody’s')
  expect(await find(policy('one'))).toEqual({ kind: 'unknown' })
  expect(await readFile(`${path}.unread`, 'utf8')).toBe('somebody’s')
  expect(said).toEqual([expect.stringContaining('set aside')])
})

test('a disk that does not take it: said once, and what is there stays', async () => {
  const folder = await temporaryFolder()
  await writeFile(join(folder, 'file'), '')
  const said: string[] = []
  const file = makeLastPolicyFile(join(folder, 'file', 'leases.policy'), (text) => said.push(text))
  await file.write(policy('one'))
  await file.write(policy('two'))
  await file.close()
  expect([said.length, await readdir(folder)]).toEqual([1, ['file']])
})
