// Flows for tests: a workload that asks, connects and is refused.
import type { AnswerFlow, ConnectionFlow, End, QueryFlow } from '../../../src/observe/flow.ts'
import { proxyEnd as proxy } from '../../../src/observe/flow.ts'
import { addressFromText, type Address } from '../../../src/net/address.ts'

export { proxy }
export const at = (text: string): Address => {
  const address = addressFromText(text)
  if (address === undefined) throw new Error(text)
  return address
}
export const web: End = { identity: 256, address: at('10.1.0.2'), labels: ['k8s:app=web', 'k8s:io.kubernetes.pod.namespace=shop'], namespace: 'shop', pod: 'web-7d9f', endpoint: 1, names: [] } // prettier-ignore
export const world: End = { identity: 9, address: at('198.18.0.20'), labels: ['reserved:world', 'reserved:world-ipv4'], namespace: '', pod: '', endpoint: 0, names: ['api.example.com'] } // prettier-ignore

export const query = (over: Partial<QueryFlow> = {}): QueryFlow => ({ kind: 'query', time: 1000, why: { text: 'toFQDNs', policy: 'shop/web', rule: 'spec.egress[0]' }, source: web, destination: proxy, verdict: 'FORWARDED', transport: 'udp', clientPort: 40001, qname: 'api.example.com', qtype: 'A', ...over }) // prettier-ignore
export const answer = (over: Partial<AnswerFlow> = {}): AnswerFlow => ({ kind: 'answer', time: 1001, why: undefined, source: proxy, destination: web, verdict: 'FORWARDED', transport: 'udp', clientPort: 40001, qname: 'api.example.com', qtype: 'A', rcode: 0, addresses: [at('198.18.0.20')], ttlSeconds: 60, millis: 1, ...over }) // prettier-ignore
export const connection = (over: Partial<ConnectionFlow> = {}): ConnectionFlow => ({ kind: 'connection', time: 1002, why: { text: 'no rule matched; selected by shop/web' }, source: web, destination: world, verdict: 'DROPPED', direction: 'egress', protocol: 6, sourcePort: 40000, destinationPort: 443, icmp: undefined, tcpFlags: 2, byDenyRule: false, match: 0, ...over }) // prettier-ignore
