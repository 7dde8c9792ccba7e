// resolv.conf(5) as machines have it.
import { expect, test } from 'vitest'
import { addressToText } from '../../../src/net/address.ts'
import { nameserversOf, withNameservers } from '../../../src/run/resolvConf.ts'

const text =
  '# by hand\n; also\nnameserver 127.0.0.53\nnameserver\tfe80::1%eth0\nnameserver bogus\nsearch a.example b.example\noptions ndots:5\nsortlist x\n'

test('nameservers in order, without what is no address; one with a zone is passed over aloud', () => {
  const { addresses, notes } = nameserversOf(`${text}nameserver 2001:db8::53\n`)
  expect(addresses.map(addressToText)).toEqual(['127.0.0.53', '2001:db8::53'])
  expect(notes).toEqual([expect.stringMatching(/^nameserver fe80::1%eth0 of .* is not asked/)])
})
test('an empty file has none', () => expect(nameserversOf('')).toEqual({ addresses: [], notes: [] }))
test('the workload keeps search and options', () => expect(withNameservers(text, ['192.0.0.1'])).toBe('nameserver 192.0.0.1\nsearch a.example b.example\noptions ndots:5\n')) // prettier-ignore
