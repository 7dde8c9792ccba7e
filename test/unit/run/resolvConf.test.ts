// resolv.conf(5) as machines have it.
import { expect, test } from 'vitest'
import { addressToText } from '../../../src/net/address.ts'
import { nameserversOf, withNameservers } from '../../../src/run/resolvConf.ts'

const text =
  '# by hand\n; also\nnameserver 127.0.0.53\nnameserver\tfe80::1%eth0\nnameserver bogus\nsearch a.example b.example\noptions ndots:5\nsortlist x\n'

test('nameservers in order, without what is no address', () =>
  expect(nameserversOf(text).map(addressToText)).toEqual(['127.0.0.53', 'fe80::1']))
test('an empty file has none', () => expect(nameserversOf('')).toEqual([]))
test('the workload keeps search and options', () => expect(withNameservers(text, ['192.0.0.1'])).toBe('nameserver 192.0.0.1\nsearch a.example b.example\noptions ndots:5\n')) // prettier-ignore
