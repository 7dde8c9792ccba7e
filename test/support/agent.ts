// An agent for tests: default settings, one manifest text, the kernel of the lab it runs in.
import { startAgent, type Agent, type AgentParts } from '../../src/agent.ts'
import type { AgentSettings } from '../../src/settings.ts'
import { defaultSettings } from '../../src/config.ts'
import { makeNft } from '../../src/datapath/nft.ts'
import { openNetlink } from '../../src/datapath/netlink.ts'
import { makeLog } from '../../src/log.ts'
import { addressFromText, type Address } from '../../src/net/address.ts'
import type { Server } from '../../src/proxy/upstream.ts'

export const settings: AgentSettings = {
  dns: { ...defaultSettings().dns, privateAnswers: 'allow', timeoutMillis: 500, deadlineMillis: 1500, denyReply: 'refused', unknownEndpoint: 'deny', cache: { ...defaultSettings().dns.cache, entries: 10_000 } },
  leases: { graceSeconds: 30, ttlMinSeconds: 0, ttlMaxSeconds: 604_800, addressesPerNameMax: 4096, leasesMax: 100_000 },
  policy: { semantics: 'spec', ciliumVersion: [1, 20], clusterName: 'default', enforcement: 'default', allowLocalhost: true, audit: false, hostPolicies: false, drainSeconds: 0, localNode: undefined },
  datapath: { table: 'namegate', denied: 'reject', interfaces: ['web', 'db'], prefixes: [], learnedMax: 65_536 },
} // prettier-ignore

export const at = (text: string): Address => addressFromText(text) ?? raise(text)
export const server = (address: string, port: number): Server => ({ address: at(address), port })
const raise = (text: string): never => {
  throw new Error(`not an address: ${text}`)
}

export function startTestAgent(manifest: string, parts: Partial<AgentParts> = {}, kernel = true): Promise<Agent> {
  return startAgent({
    settings,
    log: makeLog(process.env['NAMEGATE_TEST_LOG'] === '1' ? 'debug' : 'silent'),
    manifests: { kind: 'texts', files: [{ path: 'test.yaml', text: manifest }] },
    listeners: [{ kind: 'address', address: '0.0.0.0', port: 0 }, { kind: 'address', address: '::', port: 0 }], // prettier-ignore
    upstreams: [server('127.0.0.1', 5300)],
    hostAddresses: ['10.1.0.1', '10.2.0.1', 'fd01::1', 'fd02::1'].map(at),
    kernel: kernel ? { nft: makeNft(), netlinkFd: openNetlink() } : undefined,
    ...parts,
  })
}
