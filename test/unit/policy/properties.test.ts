// The compiled engine against a literal reading of the same policies (test/reference): no disagreement on any world, policy set and flow.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { addressFromText } from '../../../src/net/address.ts'
import { makeCompiler } from '../../../src/policy/compile.ts'
import type { World } from '../../../src/policy/rules.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { makeDecider, type Flow, type Party } from '../../../src/policy/verdict.ts'
import { evaluate, type End, type Question, type Switches } from '../../reference/evaluate.ts'
import { draft, policy, questionIn, switches, world } from '../../reference/worlds.ts'

const at = (text: string) => addressFromText(text) ?? expect.fail(text)
const seed = Number(process.env['NAMEGATE_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
const worlds = Number(process.env['NAMEGATE_TEST_WORLDS'] ?? 1700)
const flowsPerWorld = 60

function compilerFor({ localNode, hostAddresses, ...rest }: Switches): (of: World) => Snapshot {
  return makeCompiler({ ...rest, localNode, hostAddresses: hostAddresses.map(at), upstreams: [], denyReply: 'refused' })
}

function flowOf(snapshot: Snapshot, { from, to, method, ...rest }: Question): Flow {
  const party = (end: End): Party => {
    if (!('pod' in end)) return { kind: 'address', address: at(end.address) }
    const endpoint = snapshot.endpoints.find(({ namespace, name }) => namespace === end.pod.namespace && name === end.pod.name)
    if (endpoint === undefined) return expect.fail(end.pod.name)
    return { kind: 'endpoint', endpoint, ...(end.address === undefined ? {} : { address: at(end.address) }) }
  }
  return { ...rest, from: party(from), to: party(to), ...(method === undefined ? {} : { http: { method } }) }
} // prettier-ignore

const text = (value: unknown): string => JSON.stringify(value, (_, v: unknown): unknown => (v instanceof Map ? [...(v as Map<string, string>)] : typeof v === 'bigint' ? v.toString() : v)) // prettier-ignore

let compared = 0
let deciders = 0
function compare(of: World, by: Switches, snapshot: Snapshot, questions: readonly Question[]): void {
  // Every other decider has no room, and forgets all the time.
  const decide = makeDecider(snapshot, deciders++ % 2 === 0 ? 20 : undefined)
  for (const question of questions) {
    const { egress, ingress } = decide(flowOf(snapshot, question))
    const said = { egress: egress.verdict, ingress: ingress.verdict }
    const wanted = evaluate(of, by, question)
    compared++
    if (said.egress === wanted.egress && said.ingress === wanted.ingress) continue
    expect.fail(`seed ${seed}: ${text(question)} is ${text(said)}, read literally ${text(wanted)}; why ${text([egress.why, ingress.why])}; ${text(by)}; ${text(of)}`) // prettier-ignore
  }
}

test(`${worlds} worlds, ${flowsPerWorld} flows each: the engine says what the policies say`, { timeout: 600_000 }, () => {
  fc.assert(
    fc.property(world, switches, fc.array(draft, { minLength: flowsPerWorld, maxLength: flowsPerWorld }), (of, by, drafts) => {
      compare(of, by, compilerFor(by)(of), drafts.map((each) => questionIn(of, each)))
    }),
    { seed, numRuns: worlds },
  )
  expect(compared).toBeGreaterThanOrEqual(worlds * flowsPerWorld)
}) // prettier-ignore

test('a compiler that has seen other worlds says the same as a fresh one', { timeout: 600_000 }, () => {
  const change = fc.oneof(
    fc.tuple(fc.nat(4), policy).map(([i, fresh]) => (of: World): World => ({ ...of, policies: of.policies.map((policy, j) => (j === i ? fresh : policy)) })),
    policy.map((fresh) => (of: World): World => ({ ...of, policies: [...of.policies, fresh] })),
    fc.nat(4).map((i) => (of: World): World => ({ ...of, policies: of.policies.filter((_, j) => j !== i) })),
    fc.tuple(fc.nat(4), fc.constantFrom('x', 'y', 'z')).map(([i, app]) => (of: World): World => ({ ...of, pods: of.pods.map((pod, j) => (j === i ? { ...pod, labels: new Map([['app', app]]) } : pod)) })),
    fc.nat(4).map((i) => (of: World): World => ({ ...of, pods: of.pods.length < 3 ? of.pods : of.pods.filter((_, j) => j !== i) })),
    world.map((other) => (of: World): World => ({ ...of, services: other.services })),
    world.map((other) => (of: World): World => ({ ...of, endpointSlices: other.endpointSlices })),
    world.map((other) => (of: World): World => ({ ...of, cidrGroups: other.cidrGroups })),
    world.map((other) => (of: World): World => ({ ...of, namespaces: other.namespaces })),
    fc.tuple(fc.nat(4), fc.constantFrom('10.0.0.1', '10.0.0.4', '10.0.0.7')).map(([i, address]) => (of: World): World => ({ ...of, pods: of.pods.map((pod, j) => (j === i ? { ...pod, addresses: [address] } : pod)) })),
    world.map((other) => (of: World): World => ({ ...of, nodes: other.nodes })),
    fc.constant((of: World): World => ({ ...of, policies: [...of.policies].reverse() })),
  )
  fc.assert(
    fc.property(world, switches, fc.array(change, { minLength: 1, maxLength: 5 }), fc.array(draft, { minLength: 20, maxLength: 20 }), (first, by, changes, drafts) => {
      const compile = compilerFor(by)
      let of = first
      compare(of, by, compile(of), drafts.map((each) => questionIn(of, each)))
      for (const each of changes) {
        of = each(of)
        compare(of, by, compile(of), drafts.map((one) => questionIn(of, one)))
      }
    }),
    { seed, numRuns: Math.ceil(worlds / 2) },
  )
}) // prettier-ignore
