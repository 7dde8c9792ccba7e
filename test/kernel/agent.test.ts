// The whole story on a real kernel: dig and connections from workloads in namespaces, through the agent, to a world behind it.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/agent.ts'
import { answerWhy, readWhyQuery } from '../../src/api/why.ts'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { renderStructure } from '../../src/datapath/structure.ts'
import type { Outcome } from '../../src/proxy/handle.ts'
import type { Listener } from '../../src/proxy/listen.ts'
import { settings, startTestAgent } from '../support/agent.ts'
import { temporaryFolder } from '../support/folder.ts'
import { addHost, answerEverywhere, enterLab, rulesetGeneration, sh, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const pod = (name: string, addresses: string[]): string => `---
apiVersion: v1
kind: Pod
metadata: {name: ${name}, labels: {app: ${name}}}
status: {podIPs: [${addresses.map((ip) => `{ip: "${ip}"}`).join(', ')}]}
`
const pods = pod('web', ['10.1.0.2', 'fd01::2']) + pod('db', ['10.2.0.2', 'fd02::2'])
const policy = (app: string, egress: string): string => `---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ${app}}
spec:
  endpointSelector: {matchLabels: {app: ${app}}}
  egress: [${egress}]
`
const https = 'toPorts: [{ports: [{port: "443", protocol: TCP}]}]'
const names = (...rules: string[]): string => `{toFQDNs: [${rules.join(', ')}], ${https}}`
const base =
  pods + policy('web', names('{matchPattern: "*.example.com"}')) + policy('db', names('{matchName: pay.example.com}'))

describe.skipIf(reason !== undefined)(`agent ${reason ?? ''}`, () => {
  let web: Host
  let db: Host
  let world: Host
  let upstream: EmbeddedUpstream
  let agent: Agent
  const outcomes: Outcome[] = []

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    db = await addHost('db', ['10.2.0.2/24', 'fd02::2/64'], ['10.2.0.1/24', 'fd02::1/64'])
    world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    await answerEverywhere(world)
    upstream = await startEmbeddedUpstream('zones', '127.0.0.1', 5300)
    agent = await startTestAgent(base, { onOutcome: (outcome) => outcomes.push(outcome) })
  })
  afterAll(async () => {
    await agent?.close()
    await upstream?.close()
    for (const host of [web, db, world]) host?.stop()
  })

  const dig = async (from: Host, args: string): Promise<string> => (await from.run(`dig +tries=1 +time=3 ${args}`)).out
  const short = async (from: Host, args: string): Promise<string[]> =>
    (await dig(from, `+short ${args}`)).split('\n').filter(Boolean)
  const connect = async (from: Host, address: string, port = 443): Promise<boolean> =>
    (await from.run(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}'`)).status === 0

  test('what is answered can be reached, by whom it was answered', async () => {
    expect(await connect(web, '198.18.0.20')).toBe(false)
    expect(await short(web, 'api.example.com @9.9.9.9')).toEqual(['198.18.0.20'])
    expect(await connect(web, '198.18.0.20')).toBe(true)
    expect(await connect(web, '198.18.0.20', 80)).toBe(false)
    expect(await connect(db, '198.18.0.20')).toBe(false)
  })

  test('IPv6, and TCP to any server that the workload addresses', async () => {
    expect(await short(web, 'AAAA api.example.com @2001:db8::53')).toEqual(['2001:db8::20'])
    expect(await connect(web, '2001:db8::20')).toBe(true)
    expect(await connect(db, '2001:db8::20')).toBe(false)
    expect(await short(web, '+tcp pay.example.com @10.1.0.1')).toEqual(['198.18.0.21', '198.18.0.22'])
    expect(await connect(web, '198.18.0.22')).toBe(true)
  })

  test('a refusal says why', async () => {
    const said = await dig(db, 'api.example.com @9.9.9.9')
    expect(said).toContain('status: REFUSED')
    expect(said).toMatch(
      /EDE: 15 \(Blocked\).*api\.example\.com A: no DNS or toFQDNs rule matches; selected by default\/db/,
    )
    expect(await dig(world, 'api.example.com @10.3.0.1 -p ' + agent.port)).toMatch(
      /REFUSED[\s\S]*EDE: 18 \(Prohibited\).*no endpoint is known/,
    )
  })

  test('who has name rules and looks for resolvers that would not be seen is noticed', async () => {
    const bypasses = async (): Promise<string[]> =>
      (await agent.metrics.text())
        .split('\n')
        .filter((line) => line.startsWith('namegate_dns_bypass_total{'))
        .sort()
    await agent.lookForBypass()
    expect(await bypasses()).toEqual([])
    await connect(web, '198.18.0.53', 853)
    await connect(web, '2001:db8::53', 853)
    await web.run('echo x > /dev/udp/198.18.0.53/853')
    const query = readWhyQuery({ from: 'web', to: '198.18.0.99:443' }, agent.snapshot())
    const said = query.ok ? await answerWhy(agent, query) : expect.fail(query.error)
    expect(said).toMatchObject({ verdict: 'denied', missing: 'other-resolver' })
    expect(said.text).toContain('within the last hour it tried 198.18.0.53 port 853 (x2)')
    await agent.lookForBypass()
    await short(web, 'dns.google @9.9.9.9')
    await short(web, 'use-application-dns.net @9.9.9.9')
    expect(await bypasses()).toEqual(['namegate_dns_bypass_total{way="name"} 1', 'namegate_dns_bypass_total{way="port"} 3']) // prettier-ignore
  })

  test('an alias is leased under the name that was asked', async () => {
    expect(await short(web, 'www.example.com @9.9.9.9')).toEqual([
      'shop.cdn.example.net.',
      'edge7.cdn.example.net.',
      '198.18.1.7',
    ])
    expect(await connect(web, '198.18.1.7')).toBe(true)
    const lease = [...agent.leases.list()].find((l) => l.name === 'www.example.com')
    expect(lease?.ttlSeconds).toBe(120)
    const ttls = (await dig(web, '+noall +answer www.example.com @9.9.9.9'))
      .split('\n')
      .filter(Boolean)
      .map((line) => Number(line.split(/\s+/)[1]))
    expect(ttls.every((ttl) => ttl <= 120)).toBe(true)
  })

  test('NXDOMAIN and NODATA pass as they are', async () => {
    expect(await dig(web, 'nosuch.example.com @9.9.9.9')).toMatch(/NXDOMAIN[\s\S]*SOA/)
    expect(await dig(web, 'AAAA pay.example.com @9.9.9.9')).toMatch(/NOERROR[\s\S]*ANSWER: 0/)
    expect(await dig(web, 'TXT txt.example.com +short @9.9.9.9')).toContain('"one string" "and another"')
  })

  test('a warm answer costs no transaction, by the kernel’s own count; a cold one costs one', async () => {
    const before = rulesetGeneration()
    expect(await short(web, 'mail.example.com @9.9.9.9')).toEqual(['198.18.0.25'])
    const after = rulesetGeneration()
    expect(after).toBe(before + 1)
    outcomes.length = 0
    for (const how of ['', '+tcp', '+noedns', '']) await short(web, `${how} mail.example.com @9.9.9.9`)
    expect(rulesetGeneration()).toBe(after)
    expect(outcomes.map((o) => o.kind === 'answered' && o.cached)).toEqual([true, true, true, true])
  })

  test('flushed by hand: what the answer from the cache says stands again before it leaves', async () => {
    await short(web, 'api.example.com @9.9.9.9')
    sh('nft flush set inet namegate learned4')
    outcomes.length = 0
    expect(await short(web, 'api.example.com @9.9.9.9')).toEqual(['198.18.0.20'])
    expect(await connect(web, '198.18.0.20')).toBe(true)
    // Who commits it, the question or the agent that has looked after its table meanwhile, is a race; that it stands is not.
    expect(outcomes).toMatchObject([{ kind: 'answered', cached: true }])
    // Once the agent has looked after its table, which it does within a second and may do between two questions, nothing is to be done.
    await expect
      .poll(async () => [await short(web, 'api.example.com @9.9.9.9'), outcomes.at(-1)], { timeout: 5000 })
      .toMatchObject([['198.18.0.20'], { cached: true, committed: 0 }])
  })

  test('told again and again: as it stands in the kernel, and by the story when the table was flushed or a lease cleaned', async () => {
    // Without a cookie, which is another one each time.
    const ask = (): Promise<string[]> => short(web, '+nocookie api.example.com @9.9.9.9')
    await ask()
    await ask()
    outcomes.length = 0
    for (let i = 0; i < 2; i++) expect(await ask()).toEqual(['198.18.0.20'])
    expect(outcomes[0]).toMatchObject({ kind: 'answered', cached: true, committed: 0 })
    // One object for all that are told again.
    expect(outcomes[1]).toBe(outcomes[0])

    const flush = (): Promise<string> => Promise.resolve(sh('nft flush set inet namegate learned4'))
    const clean = (): Promise<number> => agent.cleanLeases((lease) => lease.name === 'api.example.com')
    for (const change of [flush, clean]) {
      await change()
      expect(await ask()).toEqual(['198.18.0.20'])
      expect(await connect(web, '198.18.0.20')).toBe(true)
      expect(outcomes.at(-1)).not.toBe(outcomes.at(-2))
      // The flush may also be put right by the agent's own look at the table.
      if (change === clean) expect(outcomes.at(-1)).toMatchObject({ kind: 'answered', committed: 1 })
      await ask()
      await ask()
    }
  })

  test('an answer from the cache opens for another identity only by its own commit', async () => {
    await short(web, 'pay.example.com @9.9.9.9')
    expect(await connect(db, '198.18.0.21')).toBe(false)
    expect(await short(db, 'pay.example.com @9.9.9.9')).toEqual(['198.18.0.21', '198.18.0.22'])
    expect(await connect(db, '198.18.0.21')).toBe(true)
  })

  test('the table deleted by hand: no address is told, and the agent brings it back', async () => {
    sh('nft delete table inet namegate')
    // It is brought back within a second: who asks behind that is told what stands by then.
    const query = `dig +tries=1 +time=3 short.example.com @10.1.0.1 -p ${agent.port}`
    const { out } = await web.run(query)
    if (out.includes('NOERROR')) expect(sh('nft list set inet namegate learned4')).toContain('198.18.0.21')
    else expect(out).toMatch(/SERVFAIL[\s\S]*EDE: 0 .*the kernel did not acknowledge/)
    await expect.poll(() => sh('nft list tables'), { timeout: 5000 }).toContain('inet namegate')
    await expect.poll(() => sh('nft list set inet namegate learned4'), { timeout: 5000 }).toContain('198.18.0.21')
    expect(await connect(web, '198.18.0.21')).toBe(true)
    expect(await connect(web, '198.18.9.9')).toBe(false)
  })

  test('while a table is replaced, questions are answered', async () => {
    const closed = renderStructure({ ...settings.datapath, proxy: { port: agent.port }, strangers: 'deny' }, 'closed')
    sh('nft -f -', `delete table inet namegate\n${closed}`)
    expect((await web.run('dig +tries=1 +time=3 short.example.com @9.9.9.9')).out).toMatch(/status: (SERVFAIL|NOERROR)/)
    await short(web, 'api.example.com @9.9.9.9')
    await expect.poll(() => connect(web, '198.18.0.20'), { timeout: 5000 }).toBe(true)
  })

  test('a clean takes leases out of the kernel', async () => {
    await short(web, 'api.example.com @9.9.9.9')
    expect(await agent.cleanLeases((lease) => lease.name === 'api.example.com')).toBeGreaterThan(0)
    expect(await connect(web, '198.18.0.20')).toBe(false)
  })

  test('denied flows come with their why', async () => {
    await connect(web, '198.18.66.1')
    const [flow] = (await agent.denied()).filter((f) => f.address === '\xc6\x12\x42\x01')
    expect(flow).toMatchObject({ protocol: 6, port: 443, why: { text: 'no rule matched, and no name leased to this identity has 198.18.66.1; selected by default/web' } }) // prettier-ignore
  })

  const both = (port: number) =>
    (['0.0.0.0', '::'] as const).map((address) => ({ kind: 'address', address, port }) as const)

  test('manifests on disk: a changed policy takes and gives at once, a broken one changes nothing', async () => {
    await agent.close()
    const folder = await temporaryFolder()
    const write = (text: string): Promise<void> => writeFile(join(folder, 'p.yaml'), text)
    await write(base)
    // At the same port: a question from a port that was used before goes where the earlier one was sent.
    agent = await startTestAgent('', { listeners: both(agent.port), manifests: { kind: 'path', path: folder } })
    const revision = (): number => agent.snapshot().revision
    await short(web, 'api.example.com @9.9.9.9')
    await short(web, 'pay.example.com @9.9.9.9')
    expect(await Promise.all([connect(web, '198.18.0.20'), connect(web, '198.18.0.21')])).toEqual([true, true])

    await write(
      pods + policy('web', names('{matchName: pay.example.com}')) + policy('db', `{toCIDR: [198.18.7.0/24], ${https}}`),
    )
    await expect.poll(revision, { timeout: 5000 }).toBe(2)
    await expect.poll(() => connect(web, '198.18.0.20'), { timeout: 2000 }).toBe(false)
    expect(
      await Promise.all([connect(web, '198.18.0.21'), connect(db, '198.18.7.7'), connect(db, '198.18.0.21')]),
    ).toEqual([true, true, false])
    expect(await dig(web, 'api.example.com @9.9.9.9')).toContain('REFUSED')

    await write(
      `${base}---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec: {egres: []}\n`,
    )
    await expect.poll(() => agent.policySet().refused.length, { timeout: 5000 }).toBeGreaterThan(2)
    expect(revision()).toBe(2)
    expect(await dig(web, 'api.example.com @9.9.9.9')).toContain('REFUSED')
    await write(base)
    await expect.poll(revision, { timeout: 5000 }).toBe(3)
    expect(agent.policySet().refused).toEqual([])
    expect(await short(web, 'api.example.com @9.9.9.9')).toEqual(['198.18.0.20'])
  })

  test('a workload with new labels keeps what its new policy grants, and loses the rest', async () => {
    await agent.close()
    const folder = await temporaryFolder()
    await writeFile(join(folder, 'p.yaml'), base)
    agent = await startTestAgent('', { manifests: { kind: 'path', path: folder } })
    await short(web, 'api.example.com @9.9.9.9')
    await short(web, 'pay.example.com @9.9.9.9')
    const before = agent.snapshot().endpoints.find((e) => e.name === 'web')?.identity
    await writeFile(
      join(folder, 'p.yaml'),
      base.replace('metadata: {name: web, labels: {app: web}}', 'metadata: {name: web, labels: {app: db, side: a}}'),
    )
    await expect.poll(() => agent.snapshot().revision, { timeout: 5000 }).toBe(2)
    expect(agent.snapshot().endpoints.find((e) => e.name === 'web')?.identity).not.toBe(before)
    expect(await Promise.all([connect(web, '198.18.0.21'), connect(web, '198.18.0.20')])).toEqual([true, false])
    await agent.close()
    agent = await startTestAgent(base)
    await short(web, 'api.example.com @9.9.9.9')
  })

  describe('a restart', () => {
    const restart = async (manifest: string, listeners: readonly Listener[] = both(agent.port)): Promise<void> => {
      await agent.close()
      agent = await startTestAgent(manifest, { listeners })
    }
    const reach = (): Promise<boolean[]> =>
      Promise.all([connect(web, '198.18.0.20'), connect(db, '198.18.0.20'), connect(web, '198.18.0.10')])

    test('with the agent gone, what was learned stays and nothing else opens; the next one adopts it', async () => {
      await agent.close()
      expect(await reach()).toEqual([true, false, false])
      agent = await startTestAgent(base, { listeners: [{ kind: 'address', address: '0.0.0.0', port: agent.port }] })
      expect(await reach()).toEqual([true, false, false])
    })

    test('numbers stay with their labels, though the pods come in another order', async () => {
      const numbers = (): unknown => Object.fromEntries(agent.snapshot().endpoints.map((e) => [e.name, e.identity]))
      const before = numbers()
      await restart(pod('db', ['10.2.0.2', 'fd02::2']) + pod('web', ['10.1.0.2', 'fd01::2']) + base.slice(pods.length))
      expect(numbers()).toEqual(before)
      expect(await reach()).toEqual([true, false, false])
    })

    test('with other settings, hence another structure: what was learned stays', async () => {
      const port = agent.port
      const structure = (): string => sh('nft -s -t list table inet namegate')
      const before = structure()
      await restart(base, [{ kind: 'address', address: '10.1.0.1', port }])
      expect(structure()).not.toBe(before)
      expect(await reach()).toEqual([true, false, false])
      await restart(base, both(port))
      expect(structure()).toBe(before)
      expect(await reach()).toEqual([true, false, false])
    })

    test('what an address learned under other labels is not its own any more', async () => {
      // Same addresses, the labels of the two exchanged: db now is what web was.
      await restart(base.replace('name: web, labels: {app: web}', 'name: web, labels: {app: db}').replace('name: db, labels: {app: db}', 'name: db, labels: {app: web}')) // prettier-ignore
      expect(await Promise.all([connect(web, '198.18.0.20'), connect(db, '198.18.0.20')])).toEqual([false, true])
      await restart(base)
      expect(await reach()).toEqual([true, false, false])
    })

    test('what an earlier agent learned goes with the grant that it may have come from', async () => {
      const folder = await temporaryFolder()
      await writeFile(join(folder, 'p.yaml'), base)
      const listeners = [{ kind: 'address', address: '0.0.0.0', port: agent.port }] as const
      await agent.close()
      agent = await startTestAgent('', { listeners, manifests: { kind: 'path', path: folder } })
      expect(await reach()).toEqual([true, false, false])
      await short(web, 'pay.example.com @9.9.9.9')
      await writeFile(join(folder, 'p.yaml'), base.replace('*.example.com', 'p*.example.com'))
      await expect.poll(() => agent.snapshot().revision, { timeout: 5000 }).toBe(2)
      await expect.poll(reach, { timeout: 2000 }).toEqual([false, false, false])
      expect(await connect(web, '198.18.0.21')).toBe(true)
      await restart(base)
      await short(web, 'api.example.com @9.9.9.9')
    })

    test('a policy that grants otherwise meanwhile: what was learned is forgotten', async () => {
      await restart(
        pods +
          policy('web', names('{matchName: pay.example.com}')) +
          policy('db', names('{matchName: pay.example.com}')),
      )
      expect(await reach()).toEqual([false, false, false])
    })
  })
})
