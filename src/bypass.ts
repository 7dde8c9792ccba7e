// Workloads whose policy counts on names, and that look for a resolver which we do not see: what they learn there opens nothing to them, and
// nobody would know why. Said once an hour for each, and counted.
import type { Clock, Millis } from './clock.ts'
import type { ResolverAttempt } from './datapath/datapath.ts'
import type { Endpoint } from './identity/endpoints.ts'
import { addressToText, type Address } from './net/address.ts'

/** `port`: packets to port 853, DNS over TLS or QUIC. `name`: a question for the name of a public resolver. */
export type BypassWay = 'port' | 'name'

export interface BypassWatch {
  readonly asked: (endpoint: Endpoint, name: string, end: 'answered' | 'refused') => void
  /** @param attempts all that are remembered now; what was there the last time is not counted again. */
  readonly tried: (attempts: readonly ResolverAttempt[], endpointOf: (address: Address) => Endpoint | undefined) => void
}

const silenceMillis = 3_600_000
/** Endpoints that were warned of; beyond, the one that was first may be warned of again within its hour. */
const warnedMax = 16_384

export function makeBypassWatch(clock: Clock, warn: (endpoint: Endpoint, text: string) => void, count: (way: BypassWay, times: number) => void): BypassWatch {
  const warned = new Map<number, Millis>()
  let seen: ReadonlyMap<string, number> = new Map()

  function notice(endpoint: Endpoint, way: BypassWay, times: number, text: string): void {
    count(way, times)
    const last = warned.get(endpoint.id)
    if (last !== undefined && clock() - last < silenceMillis) return
    const [first] = warned.keys()
    if (warned.size >= warnedMax && first !== undefined) warned.delete(first)
    warned.delete(endpoint.id)
    warned.set(endpoint.id, clock())
    warn(endpoint, text)
  }

  return {
    asked: (endpoint, name, end) => notice(endpoint, 'name', 1, `asks for ${name}, a public resolver whose answers would not be seen (${end}); names learned there open nothing`),
    tried(attempts, endpointOf) {
      const now = new Map<string, number>()
      for (const { source, address, packets } of attempts) {
        const key = source + address
        now.set(key, packets)
        const before = seen.get(key) ?? 0
        const endpoint = endpointOf(source)
        // The kernel forgets after an hour of silence, and counts from the start then.
        const times = packets < before ? packets : packets - before
        if (times > 0 && endpoint !== undefined) notice(endpoint, 'port', times, `tries ${addressToText(address)} port 853 (DNS over TLS), whose answers would not be seen; names learned there open nothing`)
      }
      seen = now
    },
  }
} // prettier-ignore
