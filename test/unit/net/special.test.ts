// Which addresses no public name should lead to.
import { describe, expect, test } from 'vitest'
import { addressFromText } from '../../../src/net/address.ts'
import { specialKind } from '../../../src/net/special.ts'

const rows: readonly (readonly [address: string, kind: string | undefined])[] = [
  ['0.0.0.0', 'unspecified'],
  ['0.1.2.3', 'unspecified'],
  ['127.0.0.53', 'loopback'],
  ['10.0.0.1', 'private'],
  ['172.15.255.255', undefined],
  ['172.16.0.0', 'private'],
  ['172.31.255.255', 'private'],
  ['172.32.0.0', undefined],
  ['192.168.1.1', 'private'],
  ['192.169.0.0', undefined],
  ['169.254.169.254', 'link-local'],
  ['100.63.255.255', undefined],
  ['100.64.0.0', 'carrier NAT'],
  ['100.100.100.200', 'carrier NAT'],
  ['100.128.0.0', undefined],
  ['192.0.0.192', 'metadata'],
  ['168.63.129.16', 'metadata'],
  ['168.63.129.17', undefined],
  ['224.0.0.1', 'multicast'],
  ['240.0.0.1', 'reserved'],
  ['255.255.255.255', 'reserved'],
  ['93.184.216.34', undefined],
  ['::', 'unspecified'],
  ['::1', 'loopback'],
  ['::ffff:10.0.0.1', 'private'],
  ['::ffff:8.8.8.8', undefined],
  ['::a00:1', 'private in IPv6'],
  ['fc00::1', 'private'],
  ['fd00:ec2::254', 'private'],
  ['fe80::1', 'link-local'],
  ['fec0::1', 'private'],
  ['ff02::1', 'multicast'],
  ['2606:4700::1111', undefined],
  ['64:ff9b::10.0.0.1', 'private in NAT64'],
  ['64:ff9b::93.184.216.34', undefined],
  ['64:ff9b:1::169.254.169.254', 'link-local in NAT64'],
  ['64:ff9b:1::93.184.216.34', undefined],
  ['64:ff9b:1:a00:0:100::', 'private in NAT64'],
  ['64:ff9b:1:0:a:0:100::', 'private in NAT64'],
  ['2002:7f00:1::1', 'loopback in 6to4'],
  ['2002:5db8:d822::1', undefined],
  ['2001:0:5db8:d822:0:0:f5ff:fffe', 'private in Teredo'],
  ['2001:0:a00:1::1', 'private in Teredo'],
  ['2001:0:5db8:d822:0:0:a247:27dd', undefined],
  ['2606:4700::5efe:a00:1', 'private in ISATAP'],
  ['2606:4700::200:5efe:c0a8:1', 'private in ISATAP'],
  ['2606:4700::5efe:5db8:d822', undefined],
]
describe('specialKind', () => {
  for (const [text, kind] of rows)
    test(`${text}: ${kind ?? 'public'}`, () => expect(specialKind(addressFromText(text) ?? expect.fail())).toBe(kind))
})
