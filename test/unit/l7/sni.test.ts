// Server name patterns against the expectations of Cilium's Envoy filter, and any pattern against a matcher that tries everything.
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { checkServerName, matchServerName, readServerName } from '../../../src/l7/sni.ts'

interface Case {
  pattern: string
  sni?: string
  match?: boolean
  invalid?: boolean
}
const { cases } = JSON.parse(readFileSync(new URL('../../vectors/sni-match.json', import.meta.url), 'utf8')) as { cases: Case[] } // prettier-ignore
const matches = (pattern: string, name: string): boolean => matchServerName(readServerName(pattern), name)

test('96 vectors are there', () => expect(cases).toHaveLength(96))
for (const { pattern, sni, match, invalid } of cases)
  if (invalid) test(`'${pattern}' is refused`, () => expect(checkServerName(pattern)).toMatch(/^invalid server name /))
  else
    test(`'${pattern}' ${match ? 'matches' : 'does not match'} '${sni}'`, () =>
      expect(matches(pattern, sni ?? '')).toBe(match))
