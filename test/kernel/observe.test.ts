// What the kernel tells of packets, joined with who, why and by which name: real packets between namespaces.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/agent.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { openNetlink } from '../../src/datapath/netlink.ts'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import type { ConnectionFlow } from '../../src/observe/flow.ts'
import { summaryOf } from '../../src/observe/summary.ts'
import { answerWhy, readWhyQuery, type WhyAnswer } from '../../src/api/why.ts'
import { addressToText } from '../../src/net/address.ts'
import { settings, startTestAgent } from '../support/agent.ts'
import { addHost, answerEverywhere, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const manifest = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
status: {podIPs: [{ip: "10.1.0.2"}, {ip: "fd01::2"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toFQDNs: [{matchPattern: "*.example.com"}]
      toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  egressDeny:
    - toCIDR: [198.18.66.0/24]
`

/** A workload that no rule lets anywhere, in audit mode. */
const audited = `
---
apiVersion: v1
kind: Pod
metadata: {name: old, labels: {app: old}}
status: {podIP: 10.2.0.2}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: old}
spec:
  endpointSelector: {matchLabels: {app: old}}
  egress: [{toCIDR: [192.0.2.0/24]}]
`

describe.skipIf(reason !== undefined)(`flows of the kernel ${reason ?? ''}`, () => {
  let web: Host
  let old: Host
  let world: Host
  let upstream: EmbeddedUpstream
  let agent: Agent

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    old = await addHost('old', ['10.2.0.2/24'], ['10.2.0.1/24'])
    world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    await answerEverywhere(world)
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
    const auditEndpoints = [[{ operator: 'In', key: 'k8s:app', values: ['old'] }]] as const
    agent = await startTestAgent(manifest + audited, {
      settings: { ...settings, policy: { ...settings.policy, auditEndpoints }, datapath: { ...settings.datapath, interfaces: ['web', 'old'] } }, // prettier-ignore
      kernel: { nft: makeNft(), netlinkFd: openNetlink(), log: { fd: openNetlink(), group: 4244 } },
    })
  })
  afterAll(async () => {
    await agent?.close()
    await upstream?.close()
    for (const host of [web, old, world]) host?.stop()
  })

  const connect = (address: string, port: number): Promise<unknown> => web.run(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}'`) // prettier-ignore
  function connections(): ConnectionFlow[] {
    const { ring } = agent.observer
    const found: ConnectionFlow[] = []
    for (let at = ring.oldest(); at < ring.end(); at++) {
      const entry = ring.at(at)
      if (entry?.kind === 'connection') found.push(entry)
    }
    return found
  }
  const flowTo = async (address: string, port: number): Promise<ConnectionFlow> => {
    const find = (): ConnectionFlow | undefined => connections().find((flow) => flow.destinationPort === port && flow.destination.address !== undefined && addressToText(flow.destination.address) === address) // prettier-ignore
    await expect.poll(find).toBeDefined()
    return find() as ConnectionFlow
  }

  test('a refused connection: who, whereto, and that no rule matched', async () => {
    await connect('198.18.0.21', 443)
    const flow = await flowTo('198.18.0.21', 443)
    expect(flow).toMatchObject({ verdict: 'DROPPED', direction: 'egress', protocol: 6, byDenyRule: false, source: { namespace: 'default', pod: 'web' }, destination: { labels: expect.arrayContaining(['reserved:world']) as string[], names: [] } }) // prettier-ignore
    expect(flow.why?.text).toBe('no rule matched, and no name that is allowed leads there; selected by default/web')
    expect(summaryOf(flow)).toBe('TCP Flags: SYN')
    expect(flow.sourcePort).toBeGreaterThan(1023)
  })
  test('an allowed one: by which name, and which rule', async () => {
    await web.run('dig +short api.example.com @9.9.9.9')
    await connect('198.18.0.20', 443)
    const flow = await flowTo('198.18.0.20', 443)
    expect(flow).toMatchObject({ verdict: 'FORWARDED', destination: { names: ['api.example.com'] }, why: { policy: 'default/web', rule: 'spec.egress[0].toFQDNs[0]' } }) // prettier-ignore
    expect(flow.why?.source).toMatch(/^test\.yaml:\d+$/)
  })
  test('the same name on another port: the rule that is near', async () => {
    await connect('198.18.0.20', 80)
    expect(await flowTo('198.18.0.20', 80)).toMatchObject({ verdict: 'DROPPED', byDenyRule: false, why: { policy: 'default/web', text: 'api.example.com is allowed on tcp/443 only' } }) // prettier-ignore
  })
  test('why: the lease that the kernel holds, and the one that it does not hold any more', async () => {
    const ask = async (to: string): Promise<WhyAnswer> => {
      const query = readWhyQuery({ from: 'web', to }, agent.snapshot())
      return query.ok ? answerWhy(agent, query) : expect.fail(query.error)
    }
    await web.run('dig +short api.example.com @9.9.9.9')
    await connect('198.18.0.20', 443)
    await flowTo('198.18.0.20', 443)
    const said = await ask('api.example.com')
    expect(said).toMatchObject({ verdict: 'allowed', by: { rule: 'spec.egress[0].toFQDNs[0]' } })
    expect(said.chain.map(({ link, holds }) => `${link} ${holds}`)).toEqual(['endpoint true', 'policy undefined', 'question true', 'lookup true', 'lease true', 'egress true', 'ingress true', 'seen undefined', 'kernel true']) // prettier-ignore
    sh('nft flush set inet namegate learned4')
    expect(await ask('198.18.0.20')).toMatchObject({ verdict: 'denied', missing: 'kernel' })
    await agent.cleanLeases(() => true)
  })
  test('a deny rule', async () => {
    await connect('198.18.66.1', 443)
    expect(await flowTo('198.18.66.1', 443)).toMatchObject({ verdict: 'DROPPED', byDenyRule: true, why: { policy: 'default/web' } }) // prettier-ignore
  })
  test('in audit mode of one workload, what would be denied passes and says so; that of the others is denied', async () => {
    const { ring } = agent.observer
    const from = ring.end()
    expect(await old.run('dig +short api.example.com @9.9.9.9')).toMatchObject({ out: expect.stringContaining('198.18.0.20') as string }) // prettier-ignore
    await old.run("timeout 3 bash -c 'exec 3<>/dev/tcp/198.18.0.77/443'")
    await connect('198.18.0.78', 443)
    expect(await flowTo('198.18.0.77', 443)).toMatchObject({ verdict: 'AUDIT', direction: 'egress', source: { pod: 'old' }, why: { text: expect.stringContaining('selected by default/old') as string } }) // prettier-ignore
    expect(await flowTo('198.18.0.78', 443)).toMatchObject({ verdict: 'DROPPED', source: { pod: 'web' } })
    const query = readWhyQuery({ from: 'old', to: '198.18.0.77' }, agent.snapshot())
    expect(query.ok && (await answerWhy(agent, query))).toMatchObject({ verdict: 'audited', missing: 'no-rule' })
    const questions: string[] = []
    for (let at = from; at < ring.end(); at++) {
      const entry = ring.at(at)
      if (entry?.kind === 'query' || entry?.kind === 'answer') questions.push(`${entry.verdict} ${entry.qname}`)
    }
    expect(questions).toEqual(['AUDIT api.example.com', 'AUDIT api.example.com'])
  })
  test('what is learned, committed and cleaned leaves a record each', async () => {
    const { ring } = agent.observer
    const from = ring.end()
    await web.run('dig +short short.example.com @9.9.9.9')
    await agent.cleanLeases(({ name }) => name === 'short.example.com')
    const kinds: string[] = []
    for (let at = from; at < ring.end(); at++) {
      const entry = ring.at(at)
      if (entry?.kind === 'lease') kinds.push(`${entry.change} ${entry.name}`)
      else if (entry !== undefined && entry.kind !== 'connection') kinds.push(entry.kind)
    }
    expect(kinds).toEqual(['learned short.example.com', 'commit', 'query', 'answer', 'revoked short.example.com'])
  })
  test('the table stands as it was rendered', () => {
    expect(sh('nft -s -t list table inet namegate')).toContain('limit rate 2000/second burst 2000 packets log prefix "denied egress" group 4244 snaplen 96\n') // prettier-ignore
  })
  test('IPv6 and ICMP', async () => {
    await connect('2001:db8::66', 443)
    expect(await flowTo('2001:db8::66', 443)).toMatchObject({ verdict: 'DROPPED', source: { pod: 'web' } })
    await web.run('ping -c 1 -W 1 198.18.0.99')
    await expect.poll(() => connections().filter(({ icmp }) => icmp !== undefined).map(summaryOf)).toEqual(['ICMPv4 EchoRequest']) // prettier-ignore
  })
})
