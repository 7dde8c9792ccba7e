// /metrics: what Prometheus' own checker says of it, that its labels are bounded, and that dashboards ask for what is there.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { makeMetrics, steps, type Metrics } from '../../src/metrics.ts'
import { queriesMax } from '../../src/observe/hubble/metrics.ts'
import { answer, connection, proxy, query, web } from './observe/flows.ts'

function observed(hubble: boolean): Metrics {
  const one = (): number => 1
  const metrics = makeMetrics({ leases: one, leaseOctets: one, endpoints: one, policyRevision: one, strangers: one, dropped: one, identities: one, policies: one, leasedNames: one, flowsLost: () => ({ ring: 3, kernel: 4 }), settle: () => undefined, restarts: () => ({}), exported: () => ({ written: 5, lost: 6 }), sent: () => ({ written: 7, lost: 8 }), hubble: hubble ? { cluster: 'default' } : undefined }) // prettier-ignore
  for (const step of steps) metrics.step(step, 0.001)
  for (const flow of [query(), answer(), query({ verdict: 'DROPPED', qname: 'pay.example.net' }), answer({ source: proxy, destination: web, rcode: 3, addresses: [] }), connection(), connection({ verdict: 'FORWARDED' })]) metrics.flow(flow, 1) // prettier-ignore
  metrics.flow({ kind: 'commit', time: 0, why: undefined, elements: 1, millis: 1, acknowledged: true }, 1)
  metrics.flow({ kind: 'lease', time: 0, why: undefined, change: 'learned', identity: 256, endpoint: 1, name: 'a.test', addresses: [], ttlSeconds: 1 }, 1) // prettier-ignore
  metrics.commit(0.001, 1)
  metrics.commit(0.001, undefined)
  metrics.upstreamSeconds(0.001, 'message')
  metrics.full({ limit: 'name', budget: 'leases' })
  metrics.evicted({ limit: 'identity', budget: 'octets' }, 3)
  metrics.load(true)
  metrics.repair()
  metrics.question({ kind: 'ignored', why: { text: '' } })
  return metrics
}

/** Its package would start a service: setup.sh takes only the program. */
const promtool = [fileURLToPath(new URL('../../node_modules/.debian/usr/bin/promtool', import.meta.url)), 'promtool'].find((path) => spawnSync(path, ['--version']).error === undefined) // prettier-ignore
test.skipIf(promtool === undefined)(
  `promtool has nothing to say${promtool === undefined ? ' (skipped: there is no promtool)' : ''}`,
  async () => {
    const check = (text: string): string => execFileSync(promtool ?? '', ['check', 'metrics'], { input: text, encoding: 'utf8' }) // prettier-ignore
    expect(check(await observed(false).text())).toBe('')
    // Of Cilium's own names too; those are not ours to mend.
    expect(check(await observed(true).text())).toBe('')
  },
)

test('steps, flows, losses', async () => {
  const text = await observed(false).text()
  for (const step of steps) expect(text).toContain(`namegate_dns_step_seconds_count{step="${step}"} 1\n`)
  expect(text).toContain('namegate_flows_total{kind="query",verdict="DROPPED",direction="egress"} 1\n')
  expect(text).toContain('namegate_flows_total{kind="lease",verdict="learned",direction=""} 1\n')
  expect(text).toContain('namegate_export_flows_total 5\n')
  expect(text).toContain('namegate_export_lost_total 6\n')
  expect(text).toContain('namegate_otlp_flows_total 7\n')
  expect(text).toContain('namegate_otlp_lost_total 8\n')
  expect(text).toContain('namegate_flows_lost_total{source="ring"} 3\nnamegate_flows_lost_total{source="kernel"} 4\n')
  expect(text).toContain('namegate_leases_full_total{limit="name",budget="leases"} 1\n')
  expect(text).toContain('namegate_leases_evicted_total{limit="identity",budget="octets"} 3\n')
  expect(text).toContain('namegate_lease_octets 1\n')
  expect(text).not.toContain('hubble_')
})

test("what the stock DNS dashboard asks for is there, with its labels", async () => {
  const text = await observed(true).text()
  for (const line of [
    'hubble_dns_queries_total{cluster="default",source="shop/web-7d9f",destination="reserved:host",source_namespace="shop",destination_namespace="",qtypes="A",query="api.example.com.",rcode="",ips_returned="0"} 1',
    'hubble_dns_responses_total{cluster="default",source="reserved:host",destination="shop/web-7d9f",source_namespace="",destination_namespace="shop",qtypes="A",query="api.example.com.",rcode="Non-Existent Domain",ips_returned="0"} 1',
    'hubble_dns_queries_total{cluster="default",source="shop/web-7d9f",destination="reserved:host",source_namespace="shop",destination_namespace="",qtypes="A",query="pay.example.net.",rcode="Policy denied",ips_returned="0"} 1',
    'cilium_version{cluster="default",version="namegate"} 1',
    'hubble_drop_total{cluster="default",reason="POLICY_DENIED",protocol="TCP"} 1',
    'cilium_policy_l7_total{rule="denied",proxy_type="fqdn"} 1',
    'hubble_lost_events_total{source="hubble_ring_buffer"} 3',
  ])
    expect(text).toContain(`${line}\n`)
}) // prettier-ignore

test('names without end make no series without end', async () => {
  const metrics = observed(true)
  for (let i = 0; i < 3 * queriesMax; i++) metrics.flow(query({ qname: `n${i}.example.com` }), 1)
  const series = (await metrics.text()).split('\n').filter((line) => line.startsWith('hubble_dns_queries_total{'))
  expect(series.length).toBeLessThanOrEqual(queriesMax + 2)
  expect(series.find((line) => line.includes('query="other"'))).toMatch(/ \d{3,4}$/)
})

test('the dashboard of this repository asks for what is there', async () => {
  const text = await observed(true).text()
  const dashboard = JSON.parse(readFileSync('dashboards/namegate.json', 'utf8')) as { panels: { title: string; targets: { expr: string }[] }[] } // prettier-ignore
  const asked = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr))
  expect(asked.length).toBeGreaterThan(8)
  for (const expr of asked)
    for (const [name, labels = ''] of [...expr.matchAll(/(namegate_\w+)(?:\{([^}]*)\})?/g)].map(([, ...parts]) => parts)) {
      const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      expect(lines, expr).not.toEqual([])
      for (const [, label = ''] of [...labels.matchAll(/(\w+)=/g), ...expr.matchAll(/by \((\w+)/g)])
        expect(lines.some((line) => line.includes(`${label}="`)), `${expr}: ${label}`).toBe(true)
    }
}) // prettier-ignore
