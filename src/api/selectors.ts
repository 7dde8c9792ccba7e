// GET /v1/policy/selectors and /v1/fqdn/names: what policies select by, whom that selects now, and which policies do. Pure.
import { selects, type Selector } from '../identity/selector.ts'
import type { Lease } from '../leases/lease.ts'
import { readPattern } from '../match/pattern.ts'
import { makeTrie } from '../match/trie.ts'
import { rangeToText } from '../net/prefix.ts'
import type { Peer, Policy } from '../policy/rules.ts'
import type { Snapshot } from '../policy/snapshot.ts'
import { labelsOfName } from '../policy/verdict.ts'

export interface SelectorRow {
  readonly selector: string
  /** Those that it selects now; names and prefixes select addresses, and have none. */
  readonly identities: readonly number[]
  /** Policies that have it, as subject or as peer. */
  readonly users: readonly string[]
}

export function selectorRows(policies: readonly Policy[], { identities }: Snapshot): SelectorRow[] {
  const rows = new Map<string, { identities: readonly number[]; users: Set<string> }>()
  const selected = (selector: Selector): number[] => [...identities.values()].filter(({ labels }) => selects(selector, labels)).map(({ id }) => id).sort((a, b) => a - b) // prettier-ignore
  const note = (text: string, user: string, find: () => readonly number[]): void => {
    let row = rows.get(text)
    if (row === undefined) rows.set(text, (row = { identities: find(), users: new Set() }))
    row.users.add(user)
  }
  for (const { name, subject, rules } of policies) {
    note(selectorText(subject.selector), name, () => selected(subject.selector))
    for (const { peers } of rules)
      for (const peer of peers === 'everyone' ? [] : peers) note(peerText(peer), name, () => (peer.kind === 'endpoints' || peer.kind === 'nodes' ? selected(peer.selector) : [])) // prettier-ignore
  }
  return [...rows].map(([selector, row]) => ({ selector, identities: row.identities, users: [...row.users] }))
}

/** As kubectl writes selectors; everything is `*`. */
export function selectorText(selector: Selector): string {
  const texts = selector.map((each) => {
    switch (each.operator) {
      case 'In':
        return each.values.length === 1 ? `${each.key}=${each.values[0] ?? ''}` : `${each.key} in (${each.values.join(', ')})`
      case 'NotIn':
        return `${each.key} notin (${each.values.join(', ')})`
      case 'Exists':
        return each.key
      case 'DoesNotExist':
        return `!${each.key}`
    }
  }) // prettier-ignore
  return texts.length === 0 ? '*' : texts.join(',')
}

function peerText(peer: Peer): string {
  const either = (of: string | Selector): string => (typeof of === 'string' ? of : selectorText(of))
  switch (peer.kind) {
    case 'endpoints':
    case 'nodes':
      return selectorText(peer.selector)
    case 'cidr':
      return peer.text === '' ? peer.ranges.map(rangeToText).join(', ') : peer.text
    case 'cidrGroup':
      return `cidrgroup ${either(peer.group)}`
    case 'entity':
      return `entity ${peer.entity}`
    case 'name':
      return `${peer.field} ${peer.text}`
    case 'service':
      return `service ${peer.namespace ?? '*'}/${either(peer.service)}`
    case 'unresolved':
      return peer.field
  }
}

export interface NameRow {
  readonly field: 'matchName' | 'matchPattern'
  readonly selector: string
  /** Policies that name it in toFQDNs or in DNS rules. */
  readonly users: readonly string[]
  /** Leases of names that it matches, all identities together. */
  readonly leases: number
}

export function nameRows(policies: readonly Policy[], leases: Iterable<Lease>): NameRow[] {
  const rows = new Map<string, { field: NameRow['field']; selector: string; users: Set<string>; leases: number }>()
  for (const { name, rules } of policies)
    for (const { peers, l7 } of rules)
      for (const { field, text } of [
        ...(peers === 'everyone' ? [] : peers.filter((peer) => peer.kind === 'name')),
        ...(l7?.kind === 'dns' ? l7.rules : []),
      ]) {
        // prettier-ignore
        const key = `${field} ${text}`
        const row = rows.get(key) ?? { field, selector: text, users: new Set<string>(), leases: 0 }
        rows.set(key, row)
        row.users.add(name)
      }
  const trie = makeTrie([...rows.values()].map((row) => ({ pattern: readPattern(row.selector), value: row })))
  for (const { name } of leases) for (const row of trie.lookup(labelsOfName(name))) row.leases++
  return [...rows.values()].map((row) => ({ ...row, users: [...row.users] }))
}
