// What we send, as another decoder (dns-packet) reads it.
import { decode, type DecodedPacket, type OptAnswer } from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fit, type FitAnswer } from '../../../src/wire/answer.ts'
import { Ede, Rcode } from '../../../src/wire/codes.ts'
import { readQuestion, type Edns, type Question } from '../../../src/wire/message.ts'
import { buildError, buildQuery, buildReply, flagsOf, type Asked } from '../../../src/wire/reply.ts'
import { a, A, cname, opt, query, response, soa, type Parts, type Rr } from './build.ts'

const q = 'api.example.com'
const edns = (udpOctets = 1232, dnssecOk = false, version = 0): Edns => ({
  udpOctets,
  version,
  dnssecOk,
  extendedRcode: 0,
  options: new Uint8Array(0),
})
function ask(parts: Parts = {}, with_: Edns | 'none' = 'none'): Asked & { question: Question } {
  const message = query({ name: q, type: A, id: 0xbeef, ...parts })
  return { message, question: readQuestion(message) ?? raise('no question'), edns: with_ }
}
function answerTo(asked: { question: Question }, parts: Parts): FitAnswer {
  const answer = fit(asked.question, response({ name: q, type: A, ...parts }))
  return answer.kind === 'fits' ? answer : raise(answer.fault)
}
const raise = (text: string): never => {
  throw new Error(text)
}
const read = (octets: Uint8Array): DecodedPacket => decode(Buffer.from(octets))
/** dns-packet types an answer's OPT away; ours is the only additional record. */
const optOf = (packet: DecodedPacket): (OptAnswer & { extendedRcode: number }) | undefined =>
  packet.additionals?.find((r): r is OptAnswer & { extendedRcode: number } => r.type === 'OPT')
const flagBits = (octets: Uint8Array): number => ((octets[2] ?? 0) << 8) | (octets[3] ?? 0)

describe('buildError', () => {
  test('echoes ID and question in the case it was asked in; RD and CD as asked, QR and RA set', () => {
    const asked = ask({ name: 'API.Example.com', flags: 0x0110 })
    const reply = buildError(asked, Rcode.Refused)
    expect(read(reply)).toMatchObject({ id: 0xbeef, rcode: 'REFUSED', questions: [{ name: 'API.Example.com', type: 'A' }], answers: [], additionals: [] }) // prettier-ignore
    expect(flagBits(reply)).toBe(0x8195)
  })
  test('RD stays off', () => expect(flagBits(buildError(ask({ flags: 0 }), Rcode.Refused))).toBe(0x8085))
  test('keeps the opcode (RFC 1035 §4.1.1)', () =>
    expect(flagBits(buildError({ message: query({ flags: 0x2800 }), edns: 'none' }, Rcode.NotImp))).toBe(0xa884))
  test('without a question when none could be read', () => {
    const reply = buildError({ message: query(), edns: 'none' }, Rcode.FormErr)
    expect(reply.length).toBe(12)
    expect(read(reply)).toMatchObject({ rcode: 'FORMERR', questions: [] })
  })
  test('explains only to those who speak EDNS', () => {
    const explanation = { code: Ede.Blocked, text: 'no rule' }
    expect(optOf(read(buildError(ask(), Rcode.Refused, explanation)))).toBeUndefined()
    const told = optOf(read(buildError(ask({}, edns()), Rcode.Refused, explanation)))
    expect(told?.options.map((o) => [o.code, [...(o.data ?? [])]])).toEqual([[15, [0, 15, ...Buffer.from('no rule')]]])
    expect(told?.udpPayloadSize).toBe(1232)
  })
  test('gives DO back', () => {
    expect(optOf(read(buildError(ask({}, edns(1232, true)), Rcode.Refused)))?.flag_do).toBe(true)
    expect(optOf(read(buildError(ask({}, edns(1232, false)), Rcode.Refused)))?.flag_do).toBe(false)
  })
  test('BADVERS goes half into the header and half into OPT (RFC 6891 §6.1.3), which says version 0', () => {
    const reply = buildError(ask({}, edns(1232, false, 1)), Rcode.BadVers)
    expect(optOf(read(reply))).toMatchObject({ extendedRcode: 1, ednsVersion: 0 })
    expect(flagBits(reply) & 0xf).toBe(0)
  })
  test('any text is cut to 200 octets, at a character', () => {
    const text = fc.string({ unit: 'binary', maxLength: 300, size: 'max' })
    fc.assert(
      fc.property(text, (said) => {
        const data = optOf(read(buildError(ask({}, edns()), Rcode.ServFail, { code: Ede.Other, text: said })))?.options[0]?.data // prettier-ignore
        const heard = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
          (data ?? raise('no option')).subarray(2),
        )
        expect(Buffer.from(said, 'utf8').toString('utf8').startsWith(heard)).toBe(true)
        expect(Buffer.byteLength(heard)).toBeLessThanOrEqual(200)
        expect(Buffer.byteLength(heard)).toBeGreaterThan(Math.min(Buffer.byteLength(said), 200) - 4)
      }),
    )
  })
})

describe('buildReply', () => {
  const passOn = (
    asked: Asked & { question: Question },
    answers: Rr[],
    ttl = 300,
    age = 0,
    transport: 'udp' | 'tcp' = 'udp',
    parts: Parts = {},
  ): Uint8Array =>
    // prettier-ignore
    buildReply(asked, asked.question, answerTo(asked, { answers, ...parts }), ttl, age, transport)

  test('the client’s ID, question and case; the upstream’s records', () => {
    const packet = read(passOn(ask({ name: 'API.Example.com' }), [cname(q, 'b.net', 60), a('b.net', '192.0.2.1')]))
    expect(packet).toMatchObject({
      id: 0xbeef,
      questions: [{ name: 'API.Example.com' }],
      answers: [
        { type: 'CNAME', data: 'b.net' },
        { type: 'A', data: '192.0.2.1' },
      ],
    })
  })
  test('TTLs go down to what may be told, never up', () => {
    const reply = passOn(ask(), [cname(q, 'b', 500), a('b', '192.0.2.1', 20)], 100)
    expect(read(reply).answers).toMatchObject([{ ttl: 100 }, { ttl: 20 }])
  })
  test('TTLs age', () => expect(read(passOn(ask(), [a(q, '192.0.2.1', 300)], 299, 90)).answers).toMatchObject([{ ttl: 210 }])) // prettier-ignore
  test('a TTL with its top bit set is told as 0', () =>
    expect(read(passOn(ask(), [a(q, '192.0.2.1', 2 ** 31 + 5)], 100)).answers).toMatchObject([{ ttl: 0 }]))
  test('the answer that is kept is not written to', () => {
    const asked = ask()
    const answer = answerTo(asked, { answers: [a(q, '192.0.2.1', 300)] })
    const before = answer.message.slice()
    buildReply(asked, asked.question, answer, 1, 0, 'udp')
    expect(answer.message).toEqual(before)
  })
  test('the upstream’s additional section does not pass; the client’s OPT gets ours', () => {
    const parts = { additionals: [a('glue', '192.0.2.9'), opt(4096)] }
    expect(read(passOn(ask(), [a(q, '192.0.2.1')], 9, 0, 'udp', parts)).additionals).toEqual([])
    const withOpt = read(passOn(ask({}, edns(1232, true)), [a(q, '192.0.2.1')], 9, 0, 'udp', parts))
    expect(withOpt.additionals).toHaveLength(1)
    expect(optOf(withOpt)).toMatchObject({ udpPayloadSize: 1232, flag_do: true })
  })
  test('the upper bits of an rcode pass in OPT; without one they are a failure', () => {
    const parts = { flags: 0x8187, additionals: [opt(1232, { extendedRcode: 1 })] }
    expect(flagBits(passOn(ask({}, edns()), [], 9, 0, 'udp', parts)) & 0xf).toBe(7)
    expect(optOf(read(passOn(ask({}, edns()), [], 9, 0, 'udp', parts)))?.extendedRcode).toBe(1)
    expect(flagBits(passOn(ask(), [], 9, 0, 'udp', parts)) & 0xf).toBe(Rcode.ServFail)
  })
  test('the upstream’s options pass, those of one hop do not; where they do not fit, the records go without', () => {
    const parts = { additionals: [opt(1232, { options: [[3, [1, 2]], [10, [9]], [11, []], [12, [0]], [65001, [7]]] })] } // prettier-ignore
    const codes = (reply: Uint8Array): number[] | undefined => optOf(read(reply))?.options.map((o) => o.code)
    expect(codes(passOn(ask({}, edns()), [], 9, 0, 'udp', parts))).toEqual([3, 65001])
    expect(passOn(ask(), [], 9, 0, 'udp', parts)).toHaveLength(33)
    const long = { additionals: [opt(1232, { options: [[3, Array<number>(500).fill(1)]] })] }
    const reply = passOn(ask({}, edns(512)), [a(q, '192.0.2.1')], 9, 0, 'udp', long)
    expect(codes(reply)).toEqual([])
    expect(read(reply).answers).toHaveLength(1)
  })
  test('authority and rcode pass', () => {
    const packet = read(passOn(ask(), [], 60, 0, 'udp', { flags: 0x8183, authorities: [soa('example.com', 900, 60)] }))
    expect(packet).toMatchObject({ rcode: 'NXDOMAIN', authorities: [{ type: 'SOA', ttl: 60 }] })
  })
  test('AA and RA are ours to say; AD only to those who asked for it (RFC 6840 §5.7)', () => {
    const parts = { flags: 0x85a0 }
    const bits = (asked: Asked & { question: Question }): number => flagBits(passOn(asked, [a(q, '192.0.2.1')], 9, 0, 'udp', parts)) // prettier-ignore
    expect(bits(ask())).toBe(0x8180)
    expect(bits(ask({ flags: 0x0120 }))).toBe(0x81a0)
    expect(bits(ask({}, edns(1232, true)))).toBe(0x81a0)
  })

  describe('size', () => {
    // The header and question take 33 octets, an A record by its full name 31.
    const many = (count: number): Rr[] => Array.from({ length: count }, (_, i) => a(q, `10.0.${i >> 8}.${i & 255}`))
    const rows: { title: string; count: number; edns: Edns | 'none'; transport?: 'udp' | 'tcp'; whole: boolean }[] = [
      { title: '498 octets without OPT', count: 15, edns: 'none', whole: true },
      { title: '529 octets without OPT', count: 16, edns: 'none', whole: false },
      { title: 'an OPT that says less than 512 says 512', count: 15, edns: edns(100), whole: true },
      { title: 'up to what OPT says', count: 38, edns: edns(1232), whole: true },
      { title: 'more than OPT says', count: 39, edns: edns(1232), whole: false },
      { title: 'OPT counts itself', count: 15, edns: edns(508), whole: true },
      { title: 'OPT may say more', count: 130, edns: edns(4096), whole: true },
      { title: 'but no more than 4096', count: 132, edns: edns(65535), whole: false },
      { title: 'TCP has no such limit', count: 1000, edns: 'none', transport: 'tcp', whole: true },
    ]
    for (const { title, count, edns: said, transport = 'udp', whole } of rows)
      test(title, () => {
        const reply = passOn(ask({}, said), many(count), 300, 0, transport)
        const packet = read(reply)
        expect(packet.flag_tc).toBe(!whole)
        expect(packet.answers).toHaveLength(whole ? count : 0)
        expect(packet.questions).toHaveLength(1)
        expect(optOf(packet) !== undefined).toBe(said !== 'none')
        if (transport === 'udp') expect(reply.length).toBeLessThanOrEqual(said === 'none' ? 512 : 4096)
      })
    test('what is truncated itself goes out empty with TC, over TCP too', () => {
      const packet = read(passOn(ask(), [a('evil.test', '192.0.2.1')], 9, 0, 'tcp', { flags: 0x8380 }))
      expect(packet).toMatchObject({ flag_tc: true, answers: [], questions: [{ name: q }] })
    })
  })
})

describe('buildQuery', () => {
  test('our ID, the question as asked, our OPT', () => {
    const asked = ask({ name: 'API.Example.com' })
    const packet = read(buildQuery(0x0102, asked.question, flagsOf(asked.message, 'none')))
    expect(packet).toMatchObject({ id: 0x0102, type: 'query', flag_rd: true, questions: [{ name: 'API.Example.com', type: 'A', class: 'IN' }] }) // prettier-ignore
    expect(optOf(packet)).toMatchObject({ udpPayloadSize: 1232, flag_do: false, options: [] })
  })
  for (const [title, flags, want] of [
    ['RD', 0x0100, 0x0100],
    ['AD', 0x0020, 0x0020],
    ['CD', 0x0010, 0x0010],
    ['nothing else that the client sets', 0x06cf, 0x0000],
  ] as const)
    test(`takes over ${title}`, () => {
      const asked = ask({ flags })
      expect(flagBits(buildQuery(1, asked.question, flagsOf(asked.message, 'none')))).toBe(want)
    })
  test('takes over DO', () => {
    const asked = ask()
    expect(optOf(read(buildQuery(1, asked.question, flagsOf(asked.message, edns(1232, true)))))?.flag_do).toBe(true)
  })
})
