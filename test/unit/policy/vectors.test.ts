// Cilium's own expectations of whole policies: what eight rules about one peer and port come to in any combination, and which names may be
// asked of which server.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { Protocol } from '../../../src/net/ports.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { makeDecider, type Decision, type Flow, type Party } from '../../../src/policy/verdict.ts'
import { loadWorld } from '../../../src/sources/manifests.ts'

const read = (file: string): unknown => JSON.parse(readFileSync(new URL(`../../vectors/${file}`, import.meta.url), 'utf8')) // prettier-ignore

const pod = (name: string, n: number): string => `apiVersion: v1\nkind: Pod\nmetadata: { name: ${name}, namespace: d, labels: { name: ${name} } }\nstatus: { podIPs: [{ ip: 10.0.0.${n} }] }\n` // prettier-ignore
const policy = (name: string, spec: object): string => `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: { name: ${name}, namespace: d }\nspec: ${JSON.stringify(spec)}\n` // prettier-ignore
const peers = (name: string): object[] => [{ matchLabels: { name } }]

function compile(documents: string[]): (from: string, to: string, flow: Omit<Flow, 'from' | 'to'>) => Decision {
  const loaded = loadWorld([{ path: 'p.yaml', text: documents.join('---\n') }])
  if (!loaded.ok) throw new Error(loaded.issues.map(({ message }) => message).join('\n'))
  const snapshot = makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused' })(loaded.world)
  const decide = makeDecider(snapshot)
  return (from, to, flow) => decide({ ...flow, from: party(snapshot, from), to: party(snapshot, to) })
}

function party(snapshot: Snapshot, name: string): Party {
  const endpoint = snapshot.endpoints.find((e) => e.name === name)
  if (endpoint === undefined) throw new Error(`nobody is ${name}`)
  return { kind: 'endpoint', endpoint }
}

describe('eight rules in all combinations', () => {
  const { rows } = read('policy-mergerules.json') as { rows: string[] }
  const ports = [{ port: '80', protocol: 'TCP' }]
  const http = { http: [{ method: 'GET', path: '/' }] }
  const L3 = { fromEndpoints: peers('foo') }
  const L4 = { toPorts: [{ ports }] }
  const L7 = { toPorts: [{ ports, rules: http }] }
  const allows = [L3, L4, { ...L3, ...L4 }, L7, { ...L3, ...L7 }]
  const denies = [L3, L4, { ...L3, ...L4 }]
  const world = [pod('subject', 1), pod('foo', 2), pod('other', 3)]

  /** What the map says of a packet: of the entries that cover it deny goes first, then redirect, then allow. */
  function mapVerdict(entries: string[]): string {
    const there = entries.filter((entry) => entry !== 'XXXX')
    if (there.some((entry) => entry[3] === '1')) return 'denied'
    if (there.some((entry) => entry[2] === '1')) return 'redirect'
    return there.length > 0 ? 'allowed' : 'denied'
  }

  test('256 rows are there', () => expect(rows).toHaveLength(256))
  for (const [n, row] of rows.entries())
    test(`row ${n}`, () => {
      const has = (i: number): boolean => (n & (1 << i)) !== 0
      const decide = compile([
        ...world,
        policy('p', {
          endpointSelector: { matchLabels: { name: 'subject' } },
          ingress: [{}, ...allows.filter((_, i) => has(i))],
          ingressDeny: denies.filter((_, i) => has(i + 5)),
        }),
      ])
      const [both = '', port = '', peer = ''] = row.split(' ')
      const packets = [
        { from: 'foo', port: 80, covering: [both, port, peer], plain: [0, 1, 2] },
        { from: 'foo', port: 81, covering: [peer], plain: [0] },
        { from: 'other', port: 80, covering: [port], plain: [1] },
        { from: 'other', port: 81, covering: [], plain: [] },
      ]
      for (const { from, port, covering, plain } of packets) {
        const verdict = (path?: string): string => decide(from, 'subject', { protocol: Protocol.TCP, port, http: path === undefined ? undefined : { method: 'GET', path } }).verdict // prettier-ignore
        const want = mapVerdict(covering)
        // A proxy that would let everything pass, because a rule without L7 covers the same, is not needed to know the verdict.
        const open = want === 'redirect' && plain.some(has)
        expect(verdict(), `${from} ${port}`).toBe(open ? 'allowed' : want)
        expect(verdict('/'), `${from} ${port} GET /`).toBe(want === 'redirect' ? 'allowed' : want)
        expect(verdict('/x'), `${from} ${port} GET /x`).toBe(want === 'redirect' && !open ? 'denied' : want === 'redirect' ? 'allowed' : want) // prettier-ignore
      }
    })
})

describe('which names may be asked of whom', () => {
  interface Where {
    endpoint: string
    dst: string
    port: number
    proto: 'TCP' | 'UDP'
  }
  const { rules, cases } = read('dns-request-policy.json') as {
    rules: (Where & { matchPatterns: string[] | null })[]
    cases: (Where & { case: number; query: string; outcome: 'allowed' | 'rejected' })[]
  }
  const endpoints = ['EP1', 'EP2', 'EP3']
  const servers = ['DstID1', 'DstID2', 'DstID3', 'DstID4']
  const egress = (endpoint: string): object[] =>
    rules.filter((rule) => rule.endpoint === endpoint).map(({ dst, port, proto, matchPatterns }) => ({
      toEndpoints: dst === '*' ? [{}] : peers(dst.toLowerCase()),
      toPorts: [{ ports: [{ port: String(port), protocol: proto }], ...(matchPatterns === null ? {} : { rules: { dns: matchPatterns.map((matchPattern) => ({ matchPattern })) } }) }],
    })) // prettier-ignore
  const decide = compile([
    ...[...endpoints, ...servers].map((name, i) => pod(name.toLowerCase(), i + 1)),
    ...endpoints.map((name) => policy(name.toLowerCase(), { endpointSelector: { matchLabels: { name: name.toLowerCase() } }, egress: [{}, ...egress(name)] })), // prettier-ignore
  ])
  const ask = ({ endpoint, dst, proto, port }: Where, dns: string): string =>
    decide(endpoint.toLowerCase(), dst.toLowerCase(), { protocol: Protocol[proto], port, dns }).verdict

  test('18 cases are there', () => expect(cases).toHaveLength(18))
  for (const each of cases)
    test(`case ${each.case}: ${each.endpoint} asks ${each.dst} ${each.port}/${each.proto} for ${each.query}`, () =>
      expect(ask(each, each.query)).toBe(each.outcome === 'allowed' ? 'allowed' : 'denied'))

  test('names have no case, and their dots are dots', () => {
    const where = { endpoint: 'EP1', dst: 'DstID2', port: 53, proto: 'UDP' } as const
    expect(ask(where, 'CILIUM.io.')).toBe('allowed')
    expect(ask(where, 'ciliumXio.')).toBe('denied')
  })
})
