// Mutated queries and answers through everything that reads them: whatever comes, nothing throws, and no address is told or learned that is not
// in a record of the chain that starts at the question.
import { addressFromOctets, type Address } from '../../src/net/address.ts'
import { fit, chainLinksMax } from '../../src/wire/answer.ts'
import { Type } from '../../src/wire/codes.ts'
import { count, gate, headerOctets, readEdns, readQuestion, readRecord, type Question } from '../../src/wire/message.ts'
import { readName } from '../../src/wire/name.ts'
import { buildError, buildQuery, buildReply, flagsOf } from '../../src/wire/reply.ts'
import { rewrite } from '../../src/wire/rewrite.ts'
import { a, aaaa, cname, https, opt, pointer, query, response, soa, HTTPS } from '../unit/wire/build.ts'

/** Numbers that look random and are the same for the same seed (mulberry32). */
export function makeRandom(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

const q = 'api.example.com'
const seeds: readonly Uint8Array[] = [
  query({ name: q }),
  query({ name: q, additionals: [opt(4096, { dnssecOk: true, options: [[10, [1, 2, 3, 4, 5, 6, 7, 8]], [8, [0, 1, 24, 0, 192, 0, 2]]] })] }), // prettier-ignore
  response({ name: q, answers: [cname(q, 'b.net', 50), a('b.net', '192.0.2.1', 60), aaaa('b.net', 7)], additionals: [opt()] }), // prettier-ignore
  response({ name: q, answers: [a(pointer(12), '192.0.2.1'), a(pointer(12), '10.0.0.1')], authorities: [soa('com', 60, 60)] }), // prettier-ignore
  response({ name: q, type: HTTPS, answers: [https(q, '', [[0, [0, 4]], [4, [192, 0, 2, 1]], [5, [1]], [6, Array<number>(16).fill(9)]])] }), // prettier-ignore
  response({ name: q, flags: 0x8183, authorities: [soa('example.com', 60, 60)] }),
]

/** What is put in often, because readers branch on it: lengths, pointers, types, extremes. */
const interesting = [0, 1, 2, 4, 5, 6, 12, 16, 28, 39, 41, 46, 63, 64, 65, 0x7f, 0x80, 0xc0, 0xc1, 0xff]

export function mutate(random: (below: number) => number): Uint8Array {
  let octets = Array.from(seeds[random(seeds.length)] ?? [])
  for (let i = random(6); i >= 0; i--) {
    const at = random(octets.length + 1)
    switch (random(7)) {
      case 0:
        octets[Math.min(at, octets.length - 1)] = random(256)
        break
      case 1:
        octets[Math.min(at, octets.length - 1)] = interesting[random(interesting.length)] ?? 0
        break
      case 2:
        octets.length = at
        break
      case 3:
        octets.splice(at, 0, ...octets.slice(headerOctets, headerOctets + random(40)))
        break
      case 4:
        octets.splice(at, random(8))
        break
      case 5:
        // A pointer anywhere.
        octets.splice(at, 2, 0xc0 | random(2), random(octets.length + 1) & 0xff)
        break
      default:
        // More or fewer records than there are.
        octets[5 + 2 * random(4)] = random(4)
    }
    if (octets.length === 0) octets = [0]
  }
  return Uint8Array.from(octets)
}

const questions: readonly Question[] = [1, HTTPS].flatMap((type) => readQuestion(query({ name: q, type })) ?? [])

/** Puts one message through all readers; throws when it does what it must not. Gives whether it was taken as an answer. */
export function tryOut(message: Uint8Array): boolean {
  if (gate(message).kind === 'accept') asQuery(message)
  let taken = false
  for (const question of questions) {
    const answer = fit(question, message)
    if (answer.kind === 'fault') continue
    taken = true
    const honest = honestAddresses(question, message)
    for (const address of answer.addresses) if (!honest.has(address)) throw new Error('an address outside the chain')
    const asked = { message: query({ name: q, type: question.qtype }), question, edns: 'none' } as const
    for (const transport of ['udp', 'tcp'] as const) {
      const reply = buildReply(asked, question, answer, 60, 0, transport)
      if (transport === 'udp' && reply.length > 512) throw new Error('longer than the client takes')
      const again = fit(question, reply)
      if (again.kind === 'fits') for (const address of again.addresses) if (!honest.has(address)) throw new Error('told an address outside the chain') // prettier-ignore
    }
    const cut = rewrite(question, answer, { isForbidden: (address) => address.length === 4, hints: false, ech: true })
    if (cut.kind === 'fits' && cut.addresses.some((address) => address.length === 4 || !honest.has(address)))
      throw new Error('an address that was taken out')
  }
  return taken
}

function asQuery(message: Uint8Array): void {
  const question = readQuestion(message)
  if (question === undefined) return
  const edns = readEdns(message, headerOctets + question.octets.length, count(message, 10))
  if (edns === undefined) return
  buildQuery(1, question, flagsOf(message, edns))
  buildError({ message, question, edns }, 5, { code: 15, text: question.name })
}

/** The addresses of the chain, found another way: by going round all records until no more names are reached. */
function honestAddresses(question: Question, message: Uint8Array): ReadonlySet<Address> {
  const names = new Set<string>([question.wire])
  const addresses = new Set<Address>()
  for (let round = 0; round <= chainLinksMax; round++) {
    let at = headerOctets + question.octets.length
    for (let i = count(message, 6); i > 0; i--) {
      const record = readRecord(message, at)
      if (record === undefined) return addresses
      at = record.end
      if (!names.has(record.owner)) continue
      const { type, dataAt, dataLength } = record
      if (type === Type.CNAME) names.add(readName(message, dataAt)?.wire ?? '')
      if (type === Type.A && dataLength === 4) addresses.add(addressFromOctets(message, dataAt, 4))
      if (type === Type.AAAA && dataLength === 16) addresses.add(addressFromOctets(message, dataAt, 16))
      if (type === Type.HTTPS || type === Type.SVCB) for (let o = dataAt; o + 4 <= record.end; o++) addHints(addresses, message, o, record.end) // prettier-ignore
    }
  }
  return addresses
}

/** Whatever octets of a service record could be an address: which of them are hints is what is tested elsewhere. */
function addHints(addresses: Set<Address>, message: Uint8Array, at: number, end: number): void {
  addresses.add(addressFromOctets(message, at, 4))
  if (at + 16 <= end) addresses.add(addressFromOctets(message, at, 16))
}
