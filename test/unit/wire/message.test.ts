// What is judged of a query before its name matters.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Rcode } from '../../../src/wire/codes.ts'
import { count, gate, headerOctets, readEdns, readQuestion, readRecord } from '../../../src/wire/message.ts'
import { a, message, opt, query, TXT, type Rr } from './build.ts'

describe('gate', () => {
  const rows: { title: string; wire: Uint8Array; want: string; rcode?: number }[] = [
    { title: 'a query', wire: query(), want: 'accept' },
    { title: 'a query with OPT', wire: query({ additionals: [opt()] }), want: 'accept' },
    { title: 'nothing', wire: new Uint8Array(0), want: 'ignore' },
    { title: 'eleven octets', wire: query().subarray(0, 11), want: 'ignore' },
    { title: 'a response: answering it would make a loop', wire: message({ flags: 0x8180 }), want: 'ignore' },
    { title: 'opcode NOTIFY (RFC 1996)', wire: message({ flags: 0x2000 }), want: 'reject', rcode: Rcode.NotImp },
    { title: 'opcode UPDATE (RFC 2136)', wire: message({ flags: 0x2800 }), want: 'reject', rcode: Rcode.NotImp },
    { title: 'opcode 15', wire: message({ flags: 0x7800 }), want: 'reject', rcode: Rcode.NotImp },
    { title: 'no question', wire: query({ counts: [0, 0, 0, 0] }), want: 'reject', rcode: Rcode.FormErr },
    { title: 'two questions', wire: query({ counts: [2, 0, 0, 0] }), want: 'reject', rcode: Rcode.FormErr },
    { title: 'an answer in a query', wire: query({ answers: [a('x', '6.6.6.6')] }), want: 'reject', rcode: Rcode.FormErr }, // prettier-ignore
    { title: 'an authority in a query', wire: query({ counts: [1, 0, 1, 0] }), want: 'reject', rcode: Rcode.FormErr },
    { title: 'two additional records', wire: query({ counts: [1, 0, 0, 2] }), want: 'reject', rcode: Rcode.FormErr },
    { title: '65535 questions', wire: query({ counts: [65535, 0, 0, 0] }), want: 'reject', rcode: Rcode.FormErr },
  ]
  for (const { title, wire, want, rcode } of rows)
    test(title, () => {
      const judged = gate(wire)
      expect(judged.kind).toBe(want)
      if (judged.kind === 'reject') expect(judged.rcode).toBe(rcode)
    })
})

describe('readQuestion', () => {
  test('gives name, type, class, and the octets in the case they were asked in', () => {
    const wire = query({ name: 'API.Example.com', type: TXT })
    const question = readQuestion(wire)
    expect(question).toMatchObject({
      name: 'api.example.com',
      labels: ['api', 'example', 'com'],
      qtype: TXT,
      qclass: 1,
    })
    expect(question?.octets).toEqual(wire.slice(headerOctets))
  })

  test('holds no view of the packet, which a Buffer would give', () => {
    const wire = Buffer.from(query())
    const question = readQuestion(wire)
    wire.fill(0)
    expect(Buffer.from(question?.octets ?? []).includes('example')).toBe(true)
  })

  const rows: [title: string, wire: Uint8Array][] = [
    ['cut off behind the name', query().subarray(0, -3)],
    ['a name without an end', query().subarray(0, 20)],
    ['a compressed name', Uint8Array.from([...query().subarray(0, 12), 0xc0, 0x04, 0, 1, 0, 1])],
  ]
  for (const [title, wire] of rows) test(`${title} is none`, () => expect(readQuestion(wire)).toBeUndefined())
})

describe('readEdns', () => {
  const read = (...additionals: Rr[]): ReturnType<typeof readEdns> => {
    const wire = query({ additionals })
    return readEdns(wire, headerOctets + (readQuestion(wire)?.octets.length ?? 0), count(wire, 10))
  }
  test('none', () => expect(read()).toBe('none'))
  test('size, version, DO', () =>
    expect(read(opt(4096, { version: 1, dnssecOk: true, options: [[3, [7]]] }))).toEqual({ udpOctets: 4096, version: 1, dnssecOk: true, extendedRcode: 0, options: Uint8Array.of(0, 3, 0, 1, 7) })) // prettier-ignore
  test('options that overrun their record', () => expect(read({ ...opt(), data: [0, 3, 0, 9, 1] })).toBeUndefined())
  test('without DO', () =>
    expect(read(opt(512))).toEqual({
      udpOctets: 512,
      version: 0,
      dnssecOk: false,
      extendedRcode: 0,
      options: new Uint8Array(0),
    }))
  test('another record beside it', () => expect(read(a('x', '1.2.3.4'), opt())).toMatchObject({ udpOctets: 1232 }))
  test('twice (RFC 6891 §6.1.1)', () => expect(read(opt(), opt())).toBeUndefined())
  test('not of the root', () => expect(read({ ...opt(), owner: 'x' })).toBeUndefined())
  test('cut off', () => {
    const wire = query({ additionals: [opt()] }).subarray(0, -1)
    expect(readEdns(wire, headerOctets + (readQuestion(wire)?.octets.length ?? 0), 1)).toBeUndefined()
  })
})

test('any octets: every reader gives a value within bounds', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(320), (wire, at) => {
      gate(wire)
      readQuestion(wire)
      readEdns(wire, at, 1)
      const record = readRecord(wire, at)
      if (record !== undefined) expect(record.end).toBeLessThanOrEqual(wire.length)
    }),
  )
})
