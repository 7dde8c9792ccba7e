// An answer with some of its records left out or changed. Names are written out in full, since what they pointed at may be gone.
import { addressFromOctets, type Address } from '../net/address.ts'
import { fit, type Fit, type FitAnswer } from './answer.ts'
import { Type } from './codes.ts'
import { count, headerOctets, readRecord, type Question, type RecordAt } from './message.ts'
import { readName } from './name.ts'

/** What is taken out. */
export interface Cut {
  /** Addresses that are not told: their A and AAAA records, and every hint list that holds one. */
  readonly isForbidden: (address: Address) => boolean
  /** All address hints of HTTPS and SVCB: clients then ask for the addresses themselves (RFC 9460 §7.3). */
  readonly hints: boolean
  /** The `ech` parameter of HTTPS and SVCB: server names stay readable to whoever must judge them. */
  readonly ech: boolean
}

const [mandatoryKey, ipv4hintKey, echKey, ipv6hintKey] = [0, 4, 5, 6]

/** The answer without that; what is left is judged like any answer. The message is a new one, without additional section. */
export function rewrite(question: Question, answer: FitAnswer, cut: Cut): Fit {
  const { message } = answer
  const out: number[] = [...message.subarray(0, headerOctets), ...question.octets]
  const counts: [number, number] = [0, 0]
  let at = headerOctets + question.octets.length
  const answers = count(message, 6)
  for (let i = 0; i < answers + count(message, 8); i++) {
    const record = readRecord(message, at)
    if (record === undefined) return { kind: 'fault', fault: 'a record is malformed or cut off' }
    at = record.end
    // Signatures are over what was there before.
    const data = i < answers ? cutData(message, record, cut) : writtenOut(message, record)
    if (data === undefined) continue
    counts[i < answers ? 0 : 1]++
    out.push(...latin1(record.owner), ...message.subarray(record.ttlAt - 4, record.ttlAt + 4), data.length >>> 8, data.length & 0xff, ...data) // prettier-ignore
  }
  const rewritten = Uint8Array.from(out)
  counts.forEach((n, i) => rewritten.set([n >>> 8, n & 0xff], 6 + 2 * i))
  rewritten.set([0, 0], 10)
  // AD vouches for the whole answer (RFC 6840 §5.8), which this is not any more.
  rewritten[3] = ((rewritten[3] ?? 0) & 0xd0) | (answer.rcode & 0xf)
  if (rewritten.length > 65535) return { kind: 'fault', fault: 'it is too long when written out' }
  return fit(question, rewritten)
}

const latin1 = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0))

/** The record's data as it is told; `undefined` when the record is left out. */
function cutData(message: Uint8Array, record: RecordAt, cut: Cut): Uint8Array | undefined {
  const { type, dataAt } = record
  if (type === Type.A || type === Type.AAAA)
    if (cut.isForbidden(addressFromOctets(message, dataAt, type === Type.A ? 4 : 16))) return undefined
  return type === Type.SVCB || type === Type.HTTPS ? cutParameters(message, record, cut) : writtenOut(message, record)
}

/** A service record without some parameters; what must not be missing (`mandatory`) does not name them any more. The record was read before. */
function cutParameters(message: Uint8Array, { dataAt, end }: RecordAt, cut: Cut): Uint8Array {
  const target = readName(message, dataAt + 2)
  const kept: [key: number, value: Uint8Array][] = []
  const gone = new Set<number>()
  for (let at = target?.end ?? end; at + 4 <= end; at += 4 + count(message, at + 2)) {
    const key = count(message, at)
    const value = message.subarray(at + 4, at + 4 + count(message, at + 2))
    if (isCut(key, value, cut)) gone.add(key)
    else kept.push([key, value])
  }
  const out = [...message.subarray(dataAt, dataAt + 2), ...latin1(target?.wire ?? '\0')]
  for (const [key, whole] of kept) {
    const value = key === mandatoryKey ? without(whole, gone) : whole
    if (key === mandatoryKey && value.length === 0) continue
    out.push(key >>> 8, key & 0xff, value.length >>> 8, value.length & 0xff, ...value)
  }
  return Uint8Array.from(out)
}

function isCut(key: number, value: Uint8Array, cut: Cut): boolean {
  if (key === echKey) return cut.ech
  const size = key === ipv4hintKey ? 4 : key === ipv6hintKey ? 16 : undefined
  if (size === undefined) return false
  if (cut.hints) return true
  for (let i = 0; i < value.length; i += size) if (cut.isForbidden(addressFromOctets(value, i, size))) return true
  return false
}

function without(keys: Uint8Array, gone: ReadonlySet<number>): Uint8Array {
  const left: number[] = []
  for (let i = 0; i + 2 <= keys.length; i += 2) if (!gone.has(count(keys, i))) left.push(keys[i] ?? 0, keys[i + 1] ?? 0)
  return Uint8Array.from(left)
}

/** Types whose data may hold compressed names (RFC 3597 §4), SRV because some compress it all the same: octets before the names, and how many. */
const namesIn: ReadonlyMap<number, readonly [before: number, names: number]> = new Map([
  [Type.NS, [0, 1]],
  [Type.CNAME, [0, 1]],
  [Type.SOA, [0, 2]],
  [Type.PTR, [0, 1]],
  [Type.MX, [2, 1]],
  [Type.SRV, [6, 1]],
  [Type.DNAME, [0, 1]],
])

/** The data with its names in full; `undefined` when they are malformed: then it says nothing to anybody. */
function writtenOut(message: Uint8Array, { type, dataAt, end }: RecordAt): Uint8Array | undefined {
  const form = namesIn.get(type)
  if (form === undefined) return message.subarray(dataAt, end)
  let at = dataAt + form[0]
  const out = [...message.subarray(dataAt, at)]
  for (let i = 0; i < form[1]; i++) {
    const name = readName(message, at)
    if (name === undefined || name.end > end) return undefined
    out.push(...latin1(name.wire))
    at = name.end
  }
  return Uint8Array.from([...out, ...message.subarray(at, end)])
}
