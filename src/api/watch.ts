// GET /v1/fqdn/cache/watch: what happens to leases, as server-sent events (WHATWG HTML, 9.2), from now on.
import { wallTime, type Clock } from '../clock.ts'
import { addressToText, type Address } from '../net/address.ts'
import type { LeaseFlow } from '../observe/flow.ts'
import type { Observer } from '../observe/observer.ts'

/** What a filter of the cache looks at. */
export type Watched = Pick<LeaseFlow, 'name' | 'identity'> & { readonly address: Address; readonly source: 'lookup' }

/** The events; ends when `signal` is aborted. A watcher that is too slow is told how many flows it has missed. */
export async function* leaseEvents(
  { ring }: Pick<Observer, 'ring'>,
  clock: Clock,
  matches: (lease: Watched) => boolean,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const reader = ring.reader(ring.end())
  // A comment: headers leave with it.
  yield ': watching\n\n'
  while (!signal.aborted) {
    const entry = reader.next()
    if (entry === undefined) await reader.wait(signal)
    else if (entry.kind === 'lost') yield `event: lost\ndata: ${JSON.stringify({ flows: entry.count })}\n\n`
    else if (entry.kind === 'lease') {
      const { name, identity, endpoint, ttlSeconds, change, time } = entry
      const ips = entry.addresses.filter((address) => matches({ name, identity, address, source: 'lookup' }))
      const remaining = change === 'learned' || change === 'renewed' ? Math.round(ttlSeconds - (wallTime(clock, clock()).getTime() - time) / 1000) : 0 // prettier-ignore
      const data = { fqdn: name === '.' ? '.' : `${name}.`, ips: ips.map(addressToText), identity, 'endpoint-id': endpoint, ttl: ttlSeconds, 'remaining-seconds': remaining, time: new Date(time).toISOString() } // prettier-ignore
      if (ips.length > 0) yield `event: ${change}\ndata: ${JSON.stringify(data)}\n\n`
    }
  }
}
