// Does the answer fit the question: what teaches addresses, and what must open nothing.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressToText } from '../../../src/net/address.ts'
import { answersQuestion, chainLinksMax, fit, type FitAnswer } from '../../../src/wire/answer.ts'
import { readQuestion, type Question } from '../../../src/wire/message.ts'
import {
  a,
  A,
  aaaa,
  AAAA,
  cname,
  CNAME,
  DNAME,
  HTTPS,
  https,
  nameOctets,
  opt,
  pointer,
  query,
  response,
  RRSIG,
  soa,
  TXT,
  type Parts,
  type Rr,
} from './build.ts'

const asked = (parts: Parts = {}): Question => readQuestion(query(parts)) ?? raise('no question')
const raise = (text: string): never => {
  throw new Error(text)
}
/** `fits TTL address…`, or `fault: …`. */
function told(question: Question, message: Uint8Array): string {
  const judged = fit(question, message)
  if (judged.kind === 'fault') return `fault: ${judged.fault}`
  return ['fits', judged.ttlSeconds, ...judged.addresses.map(addressToText)].join(' ')
}
const fitting = (question: Question, message: Uint8Array): FitAnswer => {
  const judged = fit(question, message)
  return judged.kind === 'fits' ? judged : raise(judged.fault)
}

interface Row {
  readonly title: string
  readonly name?: string
  readonly type?: number
  readonly rcode?: number
  readonly answers?: Rr[]
  readonly authorities?: Rr[]
  readonly want: string
}
function rowsOf(rows: readonly Row[]): void {
  for (const { title, name = 'api.example.com', type = A, rcode = 0, answers = [], authorities = [], want } of rows)
    test(title, () => {
      const message = response({ name, type, flags: 0x8180 | rcode, answers, authorities })
      expect(told(asked({ name, type }), message)).toBe(want)
    })
}
const q = 'api.example.com'

describe('address hints of service records (RFC 9460 §7.3): clients connect to them', () => {
  const four = [192, 0, 2, 1, 192, 0, 2, 2]
  const six = [0x20, 1, 0xd, 0xb8, ...Array<number>(11).fill(0), 9]
  const row = (title: string, answers: Rr[], want: string): Row => ({ title, type: HTTPS, answers, want })
  rowsOf([
    row('both families, beside other parameters', [https(q, '.', [[1, [2, 0x68, 0x32]], [4, four], [6, six]], 90)], 'fits 90 192.0.2.1 192.0.2.2 2001:db8::9'),
    row('none', [https(q, 'svc.example.net', [])], 'fits 300'),
    row('behind an alias', [cname(q, 'b.example.net', 20), https('b.example.net', '.', [[4, [192, 0, 2, 7]]])], 'fits 20 192.0.2.7'),
    row('of another name', [https('evil.test', '.', [[4, four]])], 'fault: a record outside the chain that starts at the question'),
    row('of three octets', [https(q, '.', [[4, [1, 2, 3]]])], 'fault: a service record is malformed'),
    row('of no octet', [https(q, '.', [[6, []]])], 'fault: a service record is malformed'),
    row('cut off', [{ owner: q, type: HTTPS, data: [0, 1, 0, 0, 4, 0, 8, 1, 2] }], 'fault: a service record is malformed'),
    row('a parameter cut off', [{ owner: q, type: HTTPS, data: [0, 1, 0, 0, 4, 0] }], 'fault: a service record is malformed'),
    row('no target', [{ owner: q, type: HTTPS, data: [0, 1] }], 'fault: a service record is malformed'),
    row('a target that runs over', [{ owner: q, type: HTTPS, data: [0, 1, 3, 0x61] }], 'fault: a service record is malformed'),
  ]) // prettier-ignore
})

// Cilium's TestExtractResponseMsgDetails (main aeb2d1b68e, 2026-06-25).
describe("Cilium's extraction cases", () => {
  const foo = 'foo.cilium.io'
  rowsOf([
    { title: 'A', name: foo, answers: [a(foo, '192.0.2.3', 3600)], want: 'fits 3600 192.0.2.3' },
    {
      title: 'two AAAA: the least TTL',
      name: foo,
      type: AAAA,
      answers: [aaaa(foo, 1, 3600), aaaa(foo, 2, 1800)],
      want: 'fits 1800 2001:db8::1 2001:db8::2',
    },
    {
      title: 'a CNAME with a lesser TTL than its A',
      name: foo,
      answers: [cname(foo, 'bar.cilium.io', 1800), a('bar.cilium.io', '192.168.0.2', 3600)],
      want: 'fits 1800 192.168.0.2',
    },
    {
      title: 'three CNAMEs',
      name: foo,
      type: AAAA,
      answers: [
        cname(foo, 'foo1.cilium.io', 7200),
        cname('foo1.cilium.io', 'foo2.cilium.io', 3600),
        cname('foo2.cilium.io', 'foo3.cilium.io', 7200),
        aaaa('foo3.cilium.io', 1, 7200),
      ],
      want: 'fits 3600 2001:db8::1',
    },
    {
      // Cilium accepts this on purpose since commit 6864f1849c (TTL 600, 192.168.0.2). Ours refuses: nothing leads from the question there.
      title: 'a chain that does not start at the question',
      name: foo,
      answers: [cname('cilium.io', 'bar.cilium.io', 600), a('bar.cilium.io', '192.168.0.2', 700)],
      want: 'fault: a record outside the chain that starts at the question',
    },
  ])
  test('no question', () => {
    const message = Uint8Array.from([0x12, 0x34, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0])
    expect(told(asked({ name: foo }), message)).toBe('fault: its question is not the one asked')
  })
})

describe('the question', () => {
  const rows: { title: string; parts?: Parts; wire?: Uint8Array; want: boolean }[] = [
    { title: 'is ours', parts: {}, want: true },
    { title: 'is ours in another case', parts: { name: 'aPi.EXAMPLE.com' }, want: true },
    { title: 'has another name', parts: { name: 'api.example.net' }, want: false },
    { title: 'has a longer name', parts: { name: 'x.api.example.com' }, want: false },
    { title: 'has another type', parts: { type: AAAA }, want: false },
    { title: 'has another class', parts: { class: 3 }, want: false },
    { title: 'is there twice', parts: { counts: [2, 0, 0, 0] }, want: false },
    { title: 'is missing', parts: { counts: [0, 0, 0, 0] }, want: false },
    { title: 'is that of a query', parts: { flags: 0x0100 }, want: false },
    { title: 'is that of another opcode', parts: { flags: 0xa180 }, want: false },
    { title: 'is cut off', wire: response().subarray(0, -1), want: false },
    { title: 'is that of nothing', wire: new Uint8Array(0), want: false },
  ]
  for (const { title, parts = {}, wire = response(parts), want } of rows)
    test(title, () => {
      expect(answersQuestion(asked(), wire)).toBe(want)
      expect(fit(asked(), wire).kind).toBe(want ? 'fits' : 'fault')
    })
})

describe('the chain', () => {
  const links = (count: number): Rr[] => [
    ...Array.from({ length: count }, (_, i) => cname(i === 0 ? q : `n${i}`, `n${i + 1}`)),
    a(`n${count}`, '192.0.2.1'),
  ]
  const outside = 'fault: a record outside the chain that starts at the question'
  rowsOf([
    { title: 'in reverse order', answers: links(3).reverse(), want: 'fits 300 192.0.2.1' },
    { title: 'owners by pointer, in another case', name: 'API.example.com', answers: [a(pointer(12), '192.0.2.1'), a('aPI.EXAMPLE.COM', '192.0.2.2')], want: 'fits 300 192.0.2.1 192.0.2.2' }, // prettier-ignore
    { title: `${chainLinksMax - 1} links`, answers: links(chainLinksMax - 1), want: 'fits 300 192.0.2.1' },
    { title: `${chainLinksMax} links`, answers: links(chainLinksMax), want: 'fault: the chain is longer than 16' },
    { title: 'a loop', answers: [cname(q, 'b'), cname('b', q)], want: 'fault: the chain loops' },
    { title: 'a CNAME to itself', answers: [cname(q, q)], want: 'fault: the chain loops' },
    { title: 'a fork', answers: [cname(q, 'b'), cname(q, 'c'), a('b', '192.0.2.1')], want: 'fault: the chain forks' },
    { title: 'the same CNAME twice', answers: [cname(q, 'b'), cname(q, 'B'), a('b', '192.0.2.1')], want: 'fits 300 192.0.2.1' }, // prettier-ignore
    { title: 'an A of another name', answers: [a(q, '192.0.2.1'), a('evil.test', '192.0.2.2')], want: outside },
    { title: 'an A of the parent', answers: [a('example.com', '192.0.2.2')], want: outside },
    { title: 'an A below the question', answers: [a('x.api.example.com', '192.0.2.2')], want: outside },
    {
      title: 'an A that a missing CNAME would lead to',
      answers: [cname('b', 'c'), a('c', '192.0.2.2')],
      want: outside,
    },
    { title: 'the label "a.b" is not the labels a, b', name: 'a.b', answers: [a([3, 0x61, 0x2e, 0x62, 0], '192.0.2.2')], want: outside }, // prettier-ignore
    { title: 'a TXT of another name', answers: [a(q, '192.0.2.1'), { owner: 'evil.test', type: TXT, data: [0] }], want: outside }, // prettier-ignore
    { title: 'a question for the CNAME itself', type: CNAME, answers: [cname(q, 'b', 60)], want: 'fits 60' },
    { title: 'a question for the CNAME leads no further', type: CNAME, answers: [cname(q, 'b'), a('b', '192.0.2.2')], want: outside }, // prettier-ignore
    { title: 'a CNAME that holds more than a name', answers: [{ ...cname(q, 'b'), data: [...nameOctets('b'), 0] }], want: 'fault: a CNAME is malformed' }, // prettier-ignore
    { title: 'a CNAME to a pointer forward', answers: [{ ...cname(q, 'b'), data: [0xff, 0xff] }], want: 'fault: a CNAME is malformed' }, // prettier-ignore
    { title: 'a DNAME above a name of the chain (RFC 6672)', answers: [{ owner: 'example.com', type: DNAME, ttl: 60, data: nameOctets('example.net') }, cname(q, 'api.example.net'), a('api.example.net', '192.0.2.1')], want: 'fits 60 192.0.2.1' }, // prettier-ignore
    { title: 'a DNAME beside the chain', answers: [a(q, '192.0.2.1'), { owner: 'example.net', type: DNAME, data: nameOctets('x') }], want: outside }, // prettier-ignore
    { title: 'a signature in the chain', answers: [a(q, '192.0.2.1'), { owner: q, type: RRSIG, data: [0, 1] }], want: 'fits 300 192.0.2.1' }, // prettier-ignore
    { title: 'a signature beside the chain', answers: [a(q, '192.0.2.1'), { owner: 'evil.test', type: RRSIG, data: [0, 1] }], want: outside }, // prettier-ignore
    { title: 'OPT among the answers', answers: [opt()], want: 'fault: a record of another class' },
  ])
})

describe('addresses', () => {
  rowsOf([
    { title: 'each once, in order', answers: ['192.0.2.2', '192.0.2.1', '192.0.2.2'].map((ip) => a(q, ip)), want: 'fits 300 192.0.2.2 192.0.2.1' }, // prettier-ignore
    { title: 'IPv4-mapped becomes IPv4', type: AAAA, answers: [{ owner: q, type: AAAA, data: [...Array<number>(10).fill(0), 0xff, 0xff, 192, 0, 2, 1] }], want: 'fits 300 192.0.2.1' }, // prettier-ignore
    { title: 'an A of 5 octets', answers: [{ owner: q, type: A, data: [1, 2, 3, 4, 5] }], want: 'fault: an A record that is not 4 octets' }, // prettier-ignore
    { title: 'an A of 3 octets', answers: [{ owner: q, type: A, data: [1, 2, 3] }], want: 'fault: an A record that is not 4 octets' }, // prettier-ignore
    { title: 'an AAAA of 4 octets', answers: [{ owner: q, type: AAAA, data: [1, 2, 3, 4] }], want: 'fault: an AAAA record that is not 16 octets' }, // prettier-ignore
    { title: 'an A of class CH', answers: [{ ...a(q, '192.0.2.1'), class: 3 }], want: 'fault: a record of another class' }, // prettier-ignore
    { title: 'under NXDOMAIN', rcode: 3, answers: [a(q, '192.0.2.1')], want: 'fault: addresses under NXDOMAIN' },
    { title: 'under SERVFAIL', rcode: 2, answers: [a(q, '192.0.2.1')], want: 'fault: addresses under SERVFAIL' },
    { title: 'not those of the authority section', authorities: [a(q, '192.0.2.1')], want: 'fits 0' },
  ])
  test('not those of the additional section, and its records are behind `end`', () => {
    const message = response({ answers: [a(q, '192.0.2.1')], additionals: [a(q, '192.0.2.2'), opt()] })
    const answer = fitting(asked(), message)
    expect(answer.addresses.map(addressToText)).toEqual(['192.0.2.1'])
    expect(answer.end).toBe(response({ answers: [a(q, '192.0.2.1')] }).length)
  })
})

describe('TTLs', () => {
  rowsOf([
    { title: 'the greatest', answers: [a(q, '192.0.2.1', 2 ** 31 - 1)], want: 'fits 2147483647 192.0.2.1' },
    { title: 'with the top bit set count as 0 (RFC 2181 §8)', answers: [a(q, '192.0.2.1', 2 ** 31)], want: 'fits 0 192.0.2.1' }, // prettier-ignore
    { title: 'zero', answers: [a(q, '192.0.2.1', 0)], want: 'fits 0 192.0.2.1' },
    { title: 'of NXDOMAIN: SOA MINIMUM (RFC 2308 §5)', rcode: 3, authorities: [soa('example.com', 900, 60)], want: 'fits 60' }, // prettier-ignore
    { title: 'of NXDOMAIN: SOA TTL where it is less', rcode: 3, authorities: [soa('example.com', 30, 60)], want: 'fits 30' }, // prettier-ignore
    { title: 'of NODATA', authorities: [soa('example.com', 900, 60)], want: 'fits 60' },
    { title: 'of a chain that ends in nothing', rcode: 3, answers: [cname(q, 'b', 20)], authorities: [soa('.', 900, 60)], want: 'fits 20' }, // prettier-ignore
    { title: 'of NXDOMAIN without SOA', rcode: 3, want: 'fits 0' },
    { title: 'of an SOA that is too short to hold a MINIMUM', rcode: 3, authorities: [{ ...soa('.', 9, 9), data: [0, 0] }], want: 'fits 0' }, // prettier-ignore
    { title: 'of a TXT', type: TXT, answers: [{ owner: q, type: TXT, ttl: 77, data: [1, 0x78] }], want: 'fits 77' },
  ])
  test('stand where `ttlsAt` says', () => {
    const message = response({ answers: [cname(q, 'b', 111), a('b', '192.0.2.1', 222)], authorities: [soa('.', 333, 1)] }) // prettier-ignore
    const view = new DataView(message.buffer)
    expect(fitting(asked(), message).ttlsAt.map((at) => view.getUint32(at))).toEqual([111, 222, 333])
  })
})

describe('a message that cannot be walked', () => {
  const whole = response({ answers: [a(q, '192.0.2.1')] })
  test('cut off anywhere in its records', () => {
    for (let length = response().length; length < whole.length; length++)
      expect(fit(asked(), whole.subarray(0, length)).kind, `${length} octets`).toBe('fault')
  })
  test('counts more records than there are', () =>
    expect(fit(asked(), response({ answers: [a(q, '192.0.2.1')], counts: [1, 2, 0, 0] })).kind).toBe('fault'))
  test('counts more records than any sane answer', () =>
    expect(told(asked(), response({ counts: [1, 65535, 65535, 0] }))).toBe('fault: 131070 records'))
  test('truncated (TC): nothing of it is told, not even what could be read', () => {
    const message = response({ flags: 0x8380, answers: [a('evil.test', '192.0.2.1')] })
    expect(fitting(asked(), message)).toMatchObject({ truncated: true, addresses: [], ttlsAt: [], end: response().length }) // prettier-ignore
    expect(fit(asked(), message.subarray(0, -3)).kind).toBe('fits')
  })
})

describe('any answer', () => {
  const names = [q, 'b', 'c', 'd']
  const someName = fc.constantFrom(...names)
  const someRecord: fc.Arbitrary<Rr> = fc.oneof(
    fc.tuple(someName, someName, fc.nat(9)).map(([owner, target, ttl]) => cname(owner, target, ttl)),
    fc.tuple(someName, fc.nat(9)).map(([owner, ttl]) => a(owner, `192.0.2.${names.indexOf(owner)}`, ttl)),
  )
  const someRecords = fc.array(someRecord, { maxLength: 6 })

  /** What the sentence says, in the plainest words: the names that CNAMEs lead to from the question; all records belong to them. */
  function plainly(records: readonly Rr[]): string[] | 'fault' {
    const chain: string[] = [q]
    for (;;) {
      const here = chain.at(-1)
      const onward = new Set(records.filter((r) => r.type === CNAME && r.owner === here).map((r) => r.data.join()))
      if (onward.size === 0) break
      const next = names.find((name) => nameOctets(name).join() === [...onward][0])
      if (onward.size > 1 || next === undefined || chain.includes(next)) return 'fault'
      chain.push(next)
    }
    if (records.some((r) => !chain.includes(String(r.owner)))) return 'fault'
    return [...new Set(records.filter((r) => r.type === A).map((r) => r.data.join('.')))].sort()
  }

  test('no address outside the question’s chain, and none of it missing', () => {
    let fitted = 0
    fc.assert(
      fc.property(someRecords, (answers) => {
        const judged = fit(asked(), response({ answers }))
        if (judged.kind === 'fits') fitted++
        expect(judged.kind === 'fits' ? judged.addresses.map(addressToText).sort() : 'fault').toEqual(plainly(answers))
      }),
      { numRuns: 3000 },
    )
    expect(fitted, 'answers that fit among those tried').toBeGreaterThan(100)
  })

  test('says the same in whatever order its records stand', () => {
    const shuffled = someRecords.chain((records) =>
      fc.tuple(fc.constant(records), fc.shuffledSubarray(records, { minLength: records.length })),
    )
    fc.assert(
      fc.property(shuffled, ([one, other]) => {
        const [first, second] = [one, other].map((answers) => fit(asked(), response({ answers })))
        expect(first?.kind).toBe(second?.kind)
        if (first?.kind === 'fits' && second?.kind === 'fits') {
          expect(new Set(first.addresses)).toEqual(new Set(second.addresses))
          expect(first.ttlSeconds).toBe(second.ttlSeconds)
        }
      }),
    )
  })

  test('with octets changed at random: a value, all within the message', () => {
    const valid = response({
      answers: [cname(q, 'b'), { owner: pointer(12), type: RRSIG, data: [1] }, a('b', '192.0.2.1'), aaaa('b', 1)],
      authorities: [soa('example.com', 9, 9)],
      additionals: [opt()],
    })
    const changes = fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(changes, fc.nat(valid.length), (octets, cut) => {
        const message = valid.slice(0, valid.length - (cut % 7 === 0 ? cut : 0))
        for (const [at, octet] of octets) if (at < message.length) message[at] = octet
        const judged = fit(asked(), message)
        if (judged.kind === 'fault') return
        expect(judged.end).toBeLessThanOrEqual(message.length)
        expect(judged.ttlsAt.every((at) => at + 4 <= message.length)).toBe(true)
      }),
      { numRuns: 3000 },
    )
  })

  test('of any octets behind the question: a value', () => {
    const head = response()
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(5), fc.nat(5), (tail, answers, authorities) => {
        const message = Uint8Array.from([...head, ...tail])
        message[7] = answers
        message[9] = authorities
        expect(['fits', 'fault']).toContain(fit(asked(), message).kind)
      }),
    )
  })
})
