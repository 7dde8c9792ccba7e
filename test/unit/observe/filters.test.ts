// Hubble's filters, field by field: which of three flows (a question, its answer, a refused connection) they show.
import { describe, expect, test } from 'vitest'
import { compileFilters, type FlowFilter } from '../../../src/observe/filters.ts'
import { answer, connection, query } from './flows.ts'

const flows = { query: query(), answer: answer(), connection: connection() }
const place = { cluster: 'default', node: 'node-1' }
function shown(allow: readonly FlowFilter[], deny: readonly FlowFilter[] = []): string[] {
  const result = compileFilters(allow, deny, place)
  if (!result.ok) return [result.error]
  return Object.entries(flows).flatMap(([name, flow]) => (result.shows(flow) ? [name] : []))
}
const all = ['query', 'answer', 'connection']

const table: readonly (readonly [FlowFilter, readonly string[]])[] = [
  [{}, all],
  [{ source_ip: ['10.1.0.2'] }, ['query', 'connection']],
  [{ source_ip: ['10.1.0.0/16'] }, ['query', 'connection']],
  [{ destination_ip: ['198.18.0.0/15', '10.1.0.2'] }, ['answer', 'connection']],
  [{ source_ip: ['10.1'] }, ['"10.1" is not an address or a prefix']],
  [{ source_pod: ['shop/web'] }, ['query', 'connection']],
  [{ source_pod: ['shop/'] }, ['query', 'connection']],
  [{ source_pod: ['/web-7'] }, ['query', 'connection']],
  [{ source_pod: ['web'] }, []],
  [{ destination_pod: ['shop/web-7d9f'] }, ['answer']],
  [{ source_fqdn: ['*'] }, []],
  [{ destination_fqdn: ['*.example.com.'] }, ['connection']],
  [{ destination_fqdn: ['API.example.com'] }, ['connection']],
  [{ destination_fqdn: ['example.com'] }, []],
  [{ source_label: ['app=web'] }, ['query', 'connection']],
  [{ source_label: ['k8s:app in (web, db),!canary'] }, ['query', 'connection']],
  [{ source_label: ['reserved:app'] }, []],
  [{ destination_label: ['reserved:world'] }, ['connection']],
  [{ destination_label: ['app!=web'] }, ['query', 'connection']],
  [{ source_label: ['app in web'] }, ['"app in web" is not a label selector']],
  [{ source_identity: [256] }, ['query', 'connection']],
  [{ destination_identity: ['9'] }, ['connection']],
  [{ verdict: ['DROPPED'] }, ['connection']],
  [{ verdict: [1] }, ['query', 'answer']],
  [{ event_type: [{ type: 129 }] }, ['query', 'answer']],
  [{ event_type: [{ type: 1 }] }, ['connection']],
  [{ event_type: [{ type: 1, match_sub_type: true, sub_type: 181 }] }, []],
  [{ event_type: [{ type: 5 }, { type: 129 }] }, all],
  [{ protocol: ['dns'] }, ['query', 'answer']],
  [{ protocol: ['TCP'] }, ['connection']],
  [{ protocol: ['ipv4'] }, all],
  [{ protocol: ['quic'] }, ['unrecognized protocol: quic']],
  [{ source_port: ['40000'] }, ['connection']],
  [{ source_port: ['40001'] }, ['query']],
  [{ destination_port: ['40001'] }, ['answer']],
  [{ destination_port: ['443', '53'] }, ['query', 'connection']],
  [{ destination_port: ['70000'] }, ['70000 is not a port']],
  [{ reply: [false] }, ['query', 'connection']],
  [{ reply: [true] }, ['answer']],
  [{ dns_query: ['^api\\.'] }, ['query', 'answer']],
  [{ dns_query: ['example'] }, ['query', 'answer']],
  [{ dns_query: ['('] }, ['error parsing regexp: missing closing ): `(`']],
  [{ tcp_flags: [{ SYN: true }] }, ['connection']],
  [{ tcp_flags: [{ SYN: true, ACK: true }] }, []],
  [{ node_name: ['default/node-1'] }, all],
  [{ node_name: ['node-*'] }, all],
  [{ node_name: ['other/*'] }, []],
  [{ ip_version: ['IPv6'] }, []],
  [{ traffic_direction: ['EGRESS'] }, all],
  [{ drop_reason_desc: ['POLICY_DENIED'] }, ['connection']],
  [{ drop_reason_desc: [133] }, ['connection']],
  [{ drop_reason_desc: [132] }, []],
  [{ drop_reason_desc: ['DROP_REASON_UNKNOWN'] }, []],
  [{ source_cluster_name: ['default'] }, ['query', 'connection']],
  [{ destination_cluster_name: ['default'] }, ['answer']],
  [{ source_cluster_name: ['other'] }, []],
  [{ destination_service: ['/dns'] }, ['query']],
  [{ source_service: ['/dns-proxy'] }, ['answer']],
  [{ source_service: ['dns-proxy'] }, []],
  [{ event_type: [{}] }, all],
  [{ event_type: [{ type: 1, match_sub_type: true, sub_type: 133 }] }, ['connection']],
  [{ event_type: [{ type: 4 }] }, []],
  [{ dns_query: ['com\\.$'] }, ['query', 'answer']],
  [{ dns_query: ['com$'] }, []],
  [{ source_label: ['app>1'] }, []],
  [{ source_label: ['app>web'] }, ['"app>web" is not a label selector']],
  [{ source_pod: [''] }, ['a name must not be empty']],
  [{ source_cluster_name: [''] }, ['a name must not be empty']],
  [{ destination_fqdn: ['a!b'] }, ['"a!b" is not a pattern of names']],
  [{ destination_fqdn: ['.'] }, ['"." is not a pattern of names']],
  [{ node_name: ['a/b/c'] }, ['"a/b/c" has more than one slash']],
  [{ source_ip_xlated: ['foo'] }, ['"foo" is not an address or a prefix']],
  [{ http_status_code: ['9+'] }, ['"9+" is not an HTTP status or a prefix such as 4+']],
  [{ http_status_code: ['4+', '40+'] }, []],
  [{ http_path: ['('] }, ['error parsing regexp: missing closing ): `(`']],
  [{ protocol: ['kafka'] }, ['unrecognized protocol: kafka']],
  [{ uuid: ['x'] }, []],
  [{ encrypted: [false] }, all],
  [{ http_status_code: ['404'] }, []],
  [{ http_status_code: ['404'], event_type: [{ type: 5 }] }, ['filtering by HTTP fields requires the event type filter to include L7']],
  [{ source_pod: ['shop/'], verdict: ['DROPPED'] }, ['connection']],
  [{ nonsense: ['x'] }, ['there is no filter "nonsense"']],
  [{ experimental: { cel_expression: ['true'] } }, ['experimental.cel_expression is not supported']],
] // prettier-ignore

describe('filters', () => {
  test('numbers in labels are compared as numbers', () => {
    const source = { ...connection().source, labels: ['k8s:cores=16'] }
    const result = compileFilters([{ source_label: ['cores>4,cores<20'] }], [], place)
    expect(result.ok && [result.shows(connection({ source })), result.shows(connection())]).toEqual([true, false])
  })
  test('denied packets are drops to who asks for drops and not for verdicts', () => {
    const deniedAs = (...types: number[]): unknown => { const result = compileFilters(types.map((type) => ({ event_type: [{ type }] })), [], place); return result.ok && result.deniedAs } // prettier-ignore
    expect([deniedAs(), deniedAs(1), deniedAs(1, 129), deniedAs(1, 5)]).toEqual(['verdict', 'drop', 'drop', 'verdict']) // prettier-ignore
  })
  for (const [filter, expected] of table) test(JSON.stringify(filter), () => expect(shown([filter])).toEqual(expected))
  test('lists are OR-ed, and the deny list takes away', () => {
    expect(shown([{ verdict: ['DROPPED'] }, { reply: [true] }])).toEqual(['answer', 'connection'])
    expect(shown([], [{ protocol: ['dns'] }])).toEqual(['connection'])
    expect(shown([{ source_pod: ['shop/'] }], [{ verdict: ['DROPPED'] }])).toEqual(['query'])
  })
})
