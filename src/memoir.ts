// Leases as the journal has them, and back: by labels and names, since numbers of identities and endpoints are an agent's own.
import type { Clock } from './clock.ts'
import type { IdentityId } from './identity/endpoints.ts'
import type { Digest } from './identity/identities.ts'
import { labelsToText } from './identity/labels.ts'
import type { JournalEntry } from './journal.ts'
import type { EarlierLease } from './keeper.ts'
import { addressFromText, addressToText, type Address } from './net/address.ts'
import type { Snapshot } from './policy/snapshot.ts'

/** What is written down of a lease. */
export type Written = Omit<EarlierLease, 'learnedAt'> & { readonly learnedAt: number }

export interface Memoir {
  /** Undefined where nobody has the identity any more. */
  readonly entryOf: (snapshot: Snapshot, lease: Written) => JournalEntry | undefined
  readonly labelsOf: (snapshot: Snapshot, identity: IdentityId) => string | undefined
  /** Leases of those who are there; what is of nobody here is left out. */
  readonly leasesOf: (snapshot: Snapshot, entries: readonly JournalEntry[]) => EarlierLease[]
}

/** @param wall the wall clock, in milliseconds. */
export function makeMemoir(clock: Clock, wall: () => number, digest: Digest): Memoir {
  /** Of one snapshot: digests of its identities, and names of its endpoints. */
  let known:
    | { readonly of: Snapshot; readonly digests: Map<IdentityId, string>; readonly names: Map<number, string> }
    | undefined
  function index(snapshot: Snapshot): NonNullable<typeof known> {
    if (known?.of === snapshot) return known
    const names = new Map(snapshot.endpoints.map(({ id, namespace, name }) => [id, `${namespace}/${name}`]))
    return (known = { of: snapshot, digests: new Map(), names })
  }
  function labelsOf(snapshot: Snapshot, identity: IdentityId): string | undefined {
    const { digests } = index(snapshot)
    const labels = snapshot.identities.get(identity)?.labels
    let text = digests.get(identity)
    if (text === undefined && labels !== undefined)
      digests.set(identity, (text = digest(JSON.stringify(labelsToText(labels)))))
    return text
  }

  function entryOf(
    snapshot: Snapshot,
    { identity, endpoint, name, address, ttlSeconds, learnedAt }: Written,
  ): JournalEntry | undefined {
    const labels = labelsOf(snapshot, identity)
    if (labels === undefined) return undefined
    return {
      labels,
      endpoint: index(snapshot).names.get(endpoint) ?? '',
      name,
      address: addressToText(address),
      ttlSeconds,
      learnedAt: wall() + learnedAt - clock(),
    }
  }

  function leasesOf(snapshot: Snapshot, entries: readonly JournalEntry[]): EarlierLease[] {
    if (entries.length === 0) return []
    const identities = new Map([...snapshot.identities.keys()].map((id) => [labelsOf(snapshot, id), id]))
    const endpoints = new Map([...index(snapshot).names].map(([id, name]) => [name, id]))
    return entries.flatMap(({ labels, endpoint, name, address: text, ttlSeconds, learnedAt }) => {
      const identity = identities.get(labels)
      const address: Address | undefined = addressFromText(text)
      if (identity === undefined || address === undefined) return []
      // Who asked is gone: then the lease is its identity's, and nobody's to take along.
      return [
        {
          identity,
          endpoint: endpoints.get(endpoint) ?? nobody,
          name,
          address,
          ttlSeconds,
          learnedAt: clock() + learnedAt - wall(),
        },
      ]
    })
  }
  return { entryOf, labelsOf, leasesOf }
}

/** No endpoint has it. */
const nobody = 0
