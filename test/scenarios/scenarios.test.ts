// Stories with time, as text: see the *.txt beside this file. A clock that is stepped, an upstream that says what it is told, and a kernel
// that is a plain record of elements; everything else is the real thing.
//
//   manifests … end            the manifests, indented
//   upstream NAME TTL TYPE DATA…    what the upstream answers for a name (again: another record of the same answer)
//   upstream NAME nothing           no answer
//   query WHO NAME TYPE -> RCODE [ADDRESS…] [ttl N] [committed N]
//   time passes N s
//   kernel refuses | kernel accepts | kernel flushed
//   kernel holds WHO ADDRESS PORTS for N s     in any order; `kernel holds nothing`
import { decode, encode, type Answer, type Packet } from 'dns-packet'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { setOf, type LeaseElement } from '../../src/datapath/element.ts'
import { makeCells } from '../../src/leases/cells.ts'
import { makeLeases } from '../../src/leases/leases.ts'
import { addressToText } from '../../src/net/address.ts'
import { portsToText } from '../../src/net/ports.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import { makeAnswers } from '../../src/proxy/answers.ts'
import { handle, type Outcome, type ProxyParts } from '../../src/proxy/handle.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { nothingBeside } from '../unit/proxy/world.ts'
import { rcodeName } from '../../src/wire/codes.ts'
import { headerOctets } from '../../src/wire/message.ts'

const folder = new URL('.', import.meta.url)

function play(text: string): () => Promise<void> {
  const [, manifests = '', steps = ''] = /manifests\n([\s\S]*?)\nend\n([\s\S]*)/.exec(text) ?? expect.fail('no manifests')
  const loaded = loadWorld([{ path: 'scenario', text: manifests.replace(/^ {2}/gm, '') }])
  if (!loaded.ok) expect.fail(JSON.stringify(loaded.issues))
  const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world)
  const who = (name: string) => snapshot.endpoints.find((endpoint) => endpoint.name === name) ?? expect.fail(`nobody is called ${name}`)

  let now = 0
  let epoch = 1
  let kernelRefuses = false
  const kernel = new Map<string, { element: LeaseElement; until: number }>()
  const records = new Map<string, Answer[] | 'nothing'>()
  const clock = (): number => now
  const leases = makeLeases(clock, () => epoch, { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, addressesPerNameMax: 100, leasesMax: 1000 })
  const ask = makeAnswers(
    (question) => {
      const answers = records.get(question.name)
      if (answers === 'nothing') return Promise.resolve({ kind: 'failed', reason: 'timeout', text: 'nobody answered' })
      const asked = decode(Buffer.concat([Buffer.from([0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]), question.octets])) as Packet
      const flags = 0x0180 | (answers === undefined ? 3 : 0)
      const message = encode({ ...asked, type: 'response', flags, answers: (answers ?? []).filter((a) => a.type === 'CNAME' || a.type === asked.questions?.[0]?.type) })
      return Promise.resolve({ kind: 'message', message })
    },
    clock,
    { entries: 100, octets: 100_000, staleSeconds: 86_400, staleAfterMillis: 1800, prefetch: false },
  )
  const parts: ProxyParts = {
    snapshot: () => snapshot,
    unknownEndpoint: 'deny',
    ...nothingBeside({}, clock),
    ask,
    learn: ({ grants, ...fact }) => {
      const cells = makeCells(snapshot.policyOf(fact.identity).grantPorts)
      return leases.learn({ ...fact, ports: cells(grants.map((grant) => grant.ports)) })
    },
    commit: async ({ elements }) => {
      if (kernelRefuses && elements.length > 0) throw new Error('EBUSY')
      for (const element of elements)
        kernel.set(`${setOf(element)} ${element.identity} ${element.address} ${portsToText(element.ports)}`, { element, until: now + element.timeoutMillis })
      leases.committed(elements, now, epoch)
    },
    standsFor: ({ identity, name, addresses }) => {
      const assured = leases.assured(identity, name, addresses)
      return assured?.epoch === epoch ? Math.floor((assured.tellUntil - now) / 1000) : 0
    },
    report: () => undefined,
  }

  async function query(name: string, asked: string, type: string, wanted: string): Promise<void> {
    const message = encode({ type: 'query', id: 7, flags: 0x100, questions: [{ name: asked, type: type as 'A' }] })
    const outcome: Outcome = await handle(parts, message, who(name).addresses[0] ?? expect.fail(), 'udp')
    if (outcome.kind === 'ignored') expect.fail('ignored')
    expect(outcome.reply.length).toBeGreaterThan(headerOctets)
    const { answers = [] } = decode(Buffer.from(outcome.reply)) as Packet
    const addresses = answers.filter((a) => a.type === type).map((a) => (a as unknown as { data: string }).data)
    const ttls = answers.map((a) => (a as { ttl?: number }).ttl ?? 0)
    const said = [rcodeName((outcome.reply[3] ?? 0) & 0xf), ...addresses]
    if (wanted.includes(' ttl ')) said.push('ttl', String(Math.max(...ttls)))
    if (wanted.includes(' committed ')) said.push('committed', outcome.kind === 'answered' ? String(outcome.committed) : 'none')
    expect(said.join(' ')).toBe(wanted)
  }

  return async () => {
    const lines = steps.split('\n').map((line, i) => ({ line: line.replace(/#.*/, '').trim(), number: i + 1 })).filter(({ line }) => line !== '')
    for (let i = 0; i < lines.length; i++) {
      const { line = '' } = lines[i] ?? {}
      const words = line.split(/\s+/)
      const [verb = '', second = '', third = '', fourth = '', ...rest] = words
      try {
        if (verb === 'upstream' && third === 'nothing') records.set(second, 'nothing')
        else if (verb === 'upstream') {
          const before = records.get(second)
          const [owner, data = ''] = rest.length > 1 ? [rest[0] ?? '', rest[1]] : [second, rest[0]]
          const record = { name: owner, ttl: Number(third), type: fourth, data } as unknown as Answer
          records.set(second, [...(Array.isArray(before) ? before : []), record])
        } else if (verb === 'query') await query(second, third, fourth, line.slice(line.indexOf('-> ') + 3))
        else if (verb === 'time') {
          now += Number(third) * 1000
          leases.expire()
          for (const [key, { until }] of kernel) if (until <= now) kernel.delete(key)
        } else if (line === 'kernel refuses' || line === 'kernel accepts') kernelRefuses = line === 'kernel refuses'
        else if (line === 'kernel flushed') {
          kernel.clear()
          epoch++
        } else if (line.startsWith('kernel holds')) {
          const group = [line]
          while (lines[i + 1]?.line.startsWith('kernel holds') === true) group.push(lines[++i]?.line ?? '')
          const held = [...kernel.values()].map(({ element, until }) => `kernel holds ${snapshot.endpoints.find((e) => e.identity === element.identity)?.name} ${addressToText(element.address)} ${portsToText(element.ports)} for ${(until - now) / 1000} s`)
          expect(held.sort()).toEqual(line === 'kernel holds nothing' ? [] : group.sort())
        } else expect.fail(`no such step: ${line}`)
      } catch (error) {
        if (error instanceof Error) error.message = `step "${line}": ${error.message}`
        throw error
      }
    }
  }
} // prettier-ignore

const stories = readdirSync(folder).filter((name) => name.endsWith('.txt'))
describe('scenarios', () => {
  for (const name of stories) test(name, play(readFileSync(new URL(name, folder), 'utf8')))
  test('there are some', () => expect(stories.length).toBeGreaterThan(3))
})
