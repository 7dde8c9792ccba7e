// GET /v1/why and `namegate why`: each link of the chain that can be missing, and that the proposed rule allows.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, onTestFinished, test } from 'vitest'
import { makeApi } from '../../../src/api/routes.ts'
import { serveApi } from '../../../src/api/serve.ts'
import type { WhyAnswer } from '../../../src/api/why.ts'
import { addressesOfProcess } from '../../../src/cli/why.ts'
import { temporaryFolder } from '../../support/folder.ts'
import { answer, at, proxy, web } from '../observe/flows.ts'
import { showWorld, type Shown } from './view.ts'

const policies = `
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: more, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toFQDNs: [{matchName: tls.example.org}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  egressDeny:
  - toFQDNs: [{matchName: bad.example.com}]
  - toCIDR: [198.18.66.0/24]
`
const world = (): Shown => showWorld({}, policies)

async function why(view: Shown, from: string, to: string, more = ''): Promise<WhyAnswer> {
  const { statusCode, body } = await makeApi(view, 'open').inject({ url: `/v1/why?from=${encodeURIComponent(from)}&to=${encodeURIComponent(to)}${more}` }) // prettier-ignore
  const said = JSON.parse(body) as WhyAnswer & { error?: string }
  if (statusCode !== 200) throw new Error(said.error)
  return said
}
const lease = (view: Shown, change: 'expired' | 'revoked', name: string, ip: string): void => view.observer.ring.write({ kind: 'lease', time: 0, why: undefined, change, identity: 256, endpoint: 1, name, addresses: [at(ip)], ttlSeconds: 60 }) // prettier-ignore

const cases: readonly { what: string; from?: string; to: string; before?: (view: Shown) => void; missing?: string; says: string; rule?: string }[] = [
  { what: 'leased', to: 'api.example.com', before: (view) => view.learn({ name: 'api.example.com', ips: ['198.18.0.20'] }), says: 'allowed: toFQDNs matchPattern "*.example.com"' },
  { what: 'the address of a lease', to: '198.18.0.20:80', before: (view) => view.learn({ name: 'api.example.com', ips: ['198.18.0.20'] }), says: 'allowed: toFQDNs matchPattern "*.example.com"' },
  { what: 'no rule for the name', to: 'pay.example.net', missing: 'name-not-allowed', says: 'no DNS or toFQDNs rule matches; selected by shop/web', rule: 'matchName: pay.example.net' },
  { what: 'never asked', to: 'api.example.com', missing: 'never-resolved', says: 'nobody of identity 256 has asked for it' },
  { what: 'asked by another', to: 'api.example.com', before: (view) => view.learn({ name: 'api.example.com', ips: ['198.18.0.20'], identity: 257, endpoint: 2 }), missing: 'other-identity', says: 'was asked by identity 257' },
  { what: 'leased to another', to: '198.18.0.20:443', before: (view) => view.learn({ name: 'api.example.com', ips: ['198.18.0.20'], identity: 257, endpoint: 2 }), missing: 'other-identity', says: 'is leased as api.example.com to identity 257' },
  { what: 'time is over', to: 'api.example.com', before: (view) => lease(view, 'expired', 'api.example.com', '198.18.0.20'), missing: 'lease-over', says: 'its TTL and the grace after it have passed' },
  { what: 'time of the address is over', to: '198.18.0.20:443', before: (view) => lease(view, 'expired', 'api.example.com', '198.18.0.20'), missing: 'lease-over', says: 'the lease as api.example.com is over' },
  { what: 'taken back', to: '198.18.0.20:443', before: (view) => lease(view, 'revoked', 'api.example.com', '198.18.0.20'), missing: 'revoked', says: 'was taken back' },
  { what: 'another resolver', to: '198.18.0.20:443', missing: 'other-resolver', says: 'another resolver was used', rule: '198.18.0.20/32' },
  { what: 'the answer was not given', to: 'api.example.com', before: (view) => view.observer.ring.write(answer({ source: proxy, destination: web, verdict: 'ERROR', rcode: 2, addresses: [], why: { text: 'the answer leads to an address of this network' } })), missing: 'answer-failed', says: 'the answer leads to an address of this network' },
  ...([['private', 'rebinding'], ['doh', 'doh-refused'], ['queries', 'budget'], ['names', 'budget'], ['octets', 'budget'], ['nxdomain', 'budget']] as const).map(([refused, missing]) => ({ what: `refused: ${refused}`, to: 'api.example.com', before: (view: Shown) => view.observer.ring.write(answer({ source: proxy, destination: web, verdict: 'DROPPED', rcode: 5, addresses: [], refused, why: { text: 'no such thing' } })), missing, says: 'api.example.com A was asked, and refused: no such thing' })),
  { what: 'refused, and no policy', from: 'shop/db', to: 'api.example.com', before: (view) => view.observer.ring.write(answer({ source: proxy, destination: { ...web, identity: 257 }, verdict: 'DROPPED', rcode: 5, addresses: [], refused: 'private' })), missing: 'rebinding', says: 'was asked, and refused' },
  { what: 'no such name', to: 'api.example.com', before: (view) => view.observer.ring.write(answer({ source: proxy, destination: web, rcode: 3, addresses: [] })), missing: 'no-address', says: 'there is no address (RCODE 3)' },
  { what: 'the port', to: 'tls.example.org:80', missing: 'port', says: 'toFQDNs matchName "tls.example.org" allows tcp/443 only', rule: 'matchName: tls.example.org' },
  { what: 'a denied name', to: 'bad.example.com', missing: 'name-denied', says: 'in a deny rule' },
  { what: 'a denied address', to: '198.18.66.1:443', missing: 'deny', says: 'a deny rule decides' },
  { what: 'a stranger', from: '10.9.9.9', to: 'api.example.com', missing: 'no-endpoint', says: 'questions of strangers are refused' },
  { what: 'another workload', to: 'shop/db:5432', missing: 'no-rule', says: 'no rule matched', rule: 'toEndpoints' },
  { what: 'a workload without policy', from: 'db', to: '198.18.0.1:25', says: 'allowed: no policy denies egress by default' },
  { what: 'a name for a workload without policy', from: 'db', to: 'any.example.net', says: 'allowed: no policy denies egress by default' },
] // prettier-ignore

describe('GET /v1/why', () => {
  for (const { what, from = 'shop/web', to, before, missing, says, rule } of cases)
    test(what, async () => {
      const view = world()
      before?.(view)
      const said = await why(view, from, to)
      expect(said.text).toContain(says)
      expect(said.missing).toBe(missing)
      expect(said.verdict).toBe(missing === undefined ? 'allowed' : 'denied')
      if (rule === undefined) expect(said.rule).toBeUndefined()
      else expect(said.rule).toContain(rule)
      if (said.rule === undefined) return
      const mended = showWorld({}, `${policies}\n---\n${said.rule}`)
      const isName = to.includes('example')
      if (isName) expect(await why(mended, from, to)).toMatchObject({ missing: 'never-resolved' })
      if (isName) mended.learn({ name: to.split(':')[0] ?? '', ips: ['198.18.7.7'] })
      expect(await why(mended, from, to)).toMatchObject({ verdict: 'allowed' })
    })

  test('rules about names that close each other: no lookup would help', async () => {
    const rule = (asks: string, names = '{matchPattern: "*"}'): string => `{toFQDNs: [${names}], toPorts: [{ports: [{port: "443", protocol: TCP}], ${asks}}]}`
    const listener = (name: string): string => rule(`listener: {name: ${name}, envoyConfig: {kind: CiliumEnvoyConfig, name: c}}`)
    const closing = (...rules: readonly string[]): string => `\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: {endpointSelector: {matchLabels: {app: db}}, egress: [${rules.join(', ')}]}\n`
    const missing = async (text: string): Promise<string | undefined> => (await why(showWorld({}, text), 'shop/db', '198.18.0.99:443')).missing
    expect(await missing(closing(rule('terminatingTLS: {secret: {name: s}}', '{matchName: a.test}, {matchPattern: "*"}'), listener('one')))).toBe('no-rule')
    expect(await missing(closing(rule('terminatingTLS: {secret: {name: s}}')))).toBe('other-resolver')
  }) // prettier-ignore
  test('a name that a search list made', async () => {
    const said = await why(world(), 'shop/web', 'api.example.com.shop.svc.cluster.local')
    expect(said).toMatchObject({ verdict: 'denied', missing: 'search-expansion' })
    expect(said.rule).toBeUndefined()
    expect(said.text).toContain('is what a search list makes of api.example.com, which may be asked')
    expect(await why(world(), 'shop/web', 'pay.example.net.shop.svc.cluster.local')).toMatchObject({ missing: 'name-not-allowed' }) // prettier-ignore
  })
  test('another resolver that was tried, by this workload and no other', async () => {
    const tries = [{ source: at('10.1.0.2'), address: at('198.18.53.1'), packets: 3 }, { source: at('10.1.0.9'), address: at('198.18.53.2'), packets: 1 }] // prettier-ignore
    const view = { ...world(), resolverTries: () => Promise.resolve(tries) }
    for (const [to, missing] of [['198.18.0.20:443', 'other-resolver'], ['api.example.com', 'never-resolved']] as const) {
      const said = await why(view, 'shop/web', to)
      expect(said).toMatchObject({ missing })
      expect(said.text).toMatch(/; within the last hour it tried 198\.18\.53\.1 port 853 \(x3\): DNS over TLS/)
      expect(said.chain.map(({ text }) => text).join()).not.toContain('198.18.53.2')
    } // prettier-ignore
    expect((await why(view, 'shop/web', 'pay.example.net')).text).not.toContain('853')
  })
  test('a refusal since the answer that gave the addresses', async () => {
    const view = world()
    view.learn({ name: 'api.example.com', ips: ['198.18.0.20'] })
    const refused = answer({ source: proxy, destination: web, verdict: 'DROPPED', rcode: 5, addresses: [], refused: 'private', why: { text: 'leads to 10.0.0.1' } }) // prettier-ignore
    view.observer.ring.write(refused)
    const said = await why(view, 'shop/web', 'api.example.com')
    expect(said).toMatchObject({ verdict: 'allowed', advice: expect.stringContaining('dns.privateSuffixes') as string })
    expect(said.chain.map(({ text }) => text)).toContain('since then, at 1970-01-01T00:00:01.001Z, api.example.com A was asked, and refused: leads to 10.0.0.1') // prettier-ignore
    // Answered anew, the refusal is of the past.
    view.observer.ring.write(answer({ source: proxy, destination: web }))
    expect((await why(view, 'shop/web', 'api.example.com')).chain.some(({ text }) => text.includes('since then'))).toBe(false) // prettier-ignore
  })
  test('a lease that the kernel does not hold', async () => {
    const view = { ...world(), kernelHolds: () => Promise.resolve(false) }
    view.learn({ name: 'api.example.com', ips: ['198.18.0.20'] })
    expect(await why(view, 'web', '198.18.0.20')).toMatchObject({ verdict: 'denied', missing: 'kernel' })
    expect(await why({ ...view, kernelHolds: () => Promise.resolve(true) }, 'web', '198.18.0.20')).toMatchObject({ verdict: 'allowed' }) // prettier-ignore
  })

  const wrong: readonly (readonly [from: string, to: string, error: string])[] = [
    ['shop/nobody', 'a.test', 'from: there is no workload shop/nobody'],
    ['shop/web', '198.18.0.1:0', 'to: "0" is not a port'],
    ['shop/web', 'a b', 'to: "a b" is no name, address or NAMESPACE/POD'],
    ['shop/web', 'shop/nobody:1', 'to: there is no workload shop/nobody'],
    ['10.1.0.2,x', 'a.test', 'from: "10.1.0.2,x" has something that is no address'],
  ]
  for (const [from, to, error] of wrong)
    test(`${from} ${to}`, () => expect(why(world(), from, to)).rejects.toThrow(error))
  test('IPv6 with a port; ICMP', async () => {
    expect(await why(world(), '10.9.9.9,10.1.0.2', '[2001:db8::1]:8443')).toMatchObject({ from: '10.1.0.2', to: '[2001:db8::1] tcp/8443' }) // prettier-ignore
    expect(await why(world(), 'web', '2001:db8::1', '&protocol=icmp')).toMatchObject({ to: '2001:db8::1 icmpv6 type 128' }) // prettier-ignore
  })
})

test('namegate why', async () => {
  const socket = join(await temporaryFolder(), 'api.sock')
  const api = await serveApi(world(), { socket, address: '127.0.0.1', port: undefined })
  onTestFinished(() => api.close())
  const run = async (...args: string[]): Promise<string> => (await promisify(execFile)(process.execPath, ['src/main.ts', 'why', '--api', `unix:${socket}`, ...args])).stdout // prettier-ignore
  expect(await run('shop/web', 'tls.example.org:80')).toBe(`shop/web -> tls.example.org tcp/80
denied: toFQDNs matchName "tls.example.org" allows tcp/443 only [port]
  rule: toFQDNs matchName "tls.example.org" (shop/more spec.egress[0].toFQDNs[0], world.yaml:26)
  ok  endpoint  shop/web has identity 256
  --  policy    its egress is selected by shop/web, shop/more
  ok  question  toFQDNs matchName "tls.example.org" (shop/more spec.egress[0].toFQDNs[0], world.yaml:26)
  NO  egress    denied: toFQDNs matchName "tls.example.org" allows tcp/443 only (shop/more spec.egress[0].toFQDNs[0], world.yaml:26)
  ok  ingress   allowed: no policy denies ingress by default
the smallest rule that would allow it:
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: allow-egress-tls-example-org
  namespace: shop
spec:
  endpointSelector:
    matchLabels:
      app: web
  enableDefaultDeny:
    egress: false
  egress:
    - toFQDNs:
        - matchName: tls.example.org
      toPorts:
        - ports:
            - port: "80"
              protocol: TCP
`)
  // A process is known by the addresses of its network; this one is no workload's.
  expect(JSON.parse(await run(String(process.pid), 'api.example.com', '-o', 'json'))).toMatchObject({ missing: 'no-endpoint' }) // prettier-ignore
  expect(await addressesOfProcess(String(process.pid))).not.toContain('127.0.0.1')
  await expect(run('999999999', 'api.example.com')).rejects.toThrow('there is no process 999999999 here')
})
