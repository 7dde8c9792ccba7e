// The kernel against `decide`: random policies, random connections, no disagreement.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { monotonic } from '../../src/clock.ts'
import { startDatapath, type Datapath } from '../../src/datapath/datapath.ts'
import { makeNetlink, openNetlink } from '../../src/datapath/netlink.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { Protocol } from '../../src/net/ports.ts'
import { makeCompiler } from '../../src/policy/compile.ts'
import type { Snapshot } from '../../src/policy/egress.ts'
import { decide } from '../../src/policy/verdict.ts'
import { loadWorld } from '../../src/sources/manifests.ts'
import { at } from '../support/agent.ts'
import { addHost, answerEverywhere, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const worlds = 25
const flowsPerWorld = 40

const prefix = fc.constantFrom(
  '198.18.0.0/28',
  '198.18.0.0/30',
  '198.18.0.4/30',
  '198.18.0.5/32',
  '198.18.0.8/29',
  '0.0.0.0/0',
)
const peer = fc.oneof(
  prefix.map((cidr) => ({ toCIDR: [cidr] })),
  fc.tuple(fc.constantFrom('198.18.0.0/28', '198.18.0.8/29'), fc.constantFrom('198.18.0.9/32', '198.18.0.8/30')).map(([cidr, hole]) => ({ toCIDRSet: [{ cidr, except: [hole] }] })), // prettier-ignore
  fc.constantFrom('world', 'all', 'cluster').map((entity) => ({ toEntities: [entity] })),
  fc.constant({}),
)
const port = fc
  .record({
    port: fc.integer({ min: 0, max: 6 }),
    span: fc.integer({ min: 0, max: 3 }),
    protocol: fc.constantFrom('TCP', 'UDP', 'ANY'),
  })
  .map(({ port: first, span, protocol }) => ({
    port: String(first),
    ...(span > 0 && first > 0 ? { endPort: first + span } : {}),
    protocol,
  }))
const rule = fc.tuple(peer, fc.option(fc.array(port, { minLength: 1, maxLength: 2 }), { nil: undefined })).map(([to, ports]) => ({ ...to, ...(ports === undefined ? {} : { toPorts: [{ ports }] }) })) // prettier-ignore
const policy = fc.record({
  egress: fc.array(rule, { maxLength: 3 }),
  egressDeny: fc.array(rule, { maxLength: 2 }),
  deny: fc.option(fc.boolean(), { nil: undefined }),
})
const flow = fc.record({
  address: fc.integer({ min: 0, max: 15 }).map((n) => `198.18.0.${n}`),
  port: fc.integer({ min: 1, max: 9 }),
})

describe.skipIf(reason !== undefined)(`verdicts ${reason ?? ''}`, () => {
  let web: Host
  let world: Host
  let datapath: Datapath
  const compile = makeCompiler({ hostAddresses: [at('10.1.0.1')], upstreams: [], denyReply: 'refused' })

  function snapshotOf(
    policies: readonly { egress: object[]; egressDeny: object[]; deny: boolean | undefined }[],
  ): Snapshot {
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web' }, status: { podIP: '10.1.0.2' } }
    const objects = policies
      .filter(({ egress, egressDeny }) => egress.length + egressDeny.length > 0)
      .map(({ egress, egressDeny, deny }, i) => ({
        apiVersion: 'cilium.io/v2',
        kind: 'CiliumNetworkPolicy',
        metadata: { name: `p${i}` },
        spec: {
          endpointSelector: {},
          egress,
          egressDeny,
          ...(deny === undefined ? {} : { enableDefaultDeny: { egress: deny } }),
        },
      }))
    const loaded = loadWorld([
      { path: 'random', text: JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [pod, ...objects] }) },
    ])
    return loaded.ok ? compile(loaded.world) : expect.fail(JSON.stringify(loaded.issues))
  }

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24'], ['10.1.0.1/24'])
    world = await addHost('world', ['10.3.0.2/24'], ['10.3.0.1/24'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2')
    await answerEverywhere(world)
    const structure = { table: 'namegate', proxy: { port: 10053 }, denied: 'reject', interfaces: ['web'], prefixes: [], strangers: 'deny', learnedMax: 1024 } as const // prettier-ignore
    datapath = await startDatapath(
      {
        nft: makeNft(),
        netlink: makeNetlink(openNetlink()),
        clock: monotonic,
        structure,
        digest: (text) => String(text.length),
      },
      snapshotOf([]),
    )
  })
  afterAll(() => {
    datapath?.close()
    for (const host of [web, world]) host?.stop()
  })

  test(`${worlds} policy sets, ${flowsPerWorld} connections each`, async () => {
    const seed = Number(process.env['NAMEGATE_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
    const cases = fc.sample(fc.tuple(fc.array(policy, { maxLength: 2 }), fc.array(flow, { minLength: flowsPerWorld, maxLength: flowsPerWorld })), { seed, numRuns: worlds }) // prettier-ignore
    for (const [policies, flows] of cases) {
      const snapshot = snapshotOf(policies)
      await datapath.apply(snapshot)
      const identity = snapshot.endpoints[0]?.identity ?? 0
      const said = flows.map(
        ({ address, port: to }) =>
          decide(snapshot, { identity, address: at(address), protocol: Protocol.TCP, port: to, leasedNames: [] }).kind,
      )
      const script = flows
        .map(({ address, port: to }) => `(exec 3<>/dev/tcp/${address}/${to}) 2>/dev/null && echo allow || echo deny`)
        .join('\n')
      expect(
        web.sh(script).out.trim().split('\n'),
        `seed ${seed}: ${JSON.stringify(policies)} ${JSON.stringify(flows)}`,
      ).toEqual(said)
      const pings = [0, 5, 9].map((n) => `198.18.0.${n}`)
      const saidOfPings = pings.map(
        (address) =>
          decide(snapshot, { identity, address: at(address), protocol: 1, port: undefined, leasedNames: [] }).kind,
      )
      const ping = pings
        .map((address) => `(ping -c1 -W1 ${address} >/dev/null) 2>/dev/null && echo allow || echo deny`)
        .join('\n')
      expect(web.sh(ping).out.trim().split('\n'), `seed ${seed}: ping, ${JSON.stringify(policies)}`).toEqual(
        saidOfPings,
      )
    }
  })
})
