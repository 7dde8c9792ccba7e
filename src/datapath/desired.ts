// What the policy's maps should hold, computed from a snapshot; the difference to what they hold; and that as nft text.
import { addressFromNumber, addressToText, familyOf, type Family } from '../net/address.ts'
import { protocolName } from '../net/ports.ts'
import { everyAddress, type AddressRange } from '../net/prefix.ts'
import type { IdentityId } from '../identity/endpoints.ts'
import { labelSetText, type Digest } from '../identity/identities.ts'
import type { PeerEntry, Snapshot } from '../policy/egress.ts'
import { setOf, type LeaseElement } from './element.ts'
import { compileIntervals, type Intervals } from './intervals.ts'
import { policySets, type PolicySet } from './structure.ts'

/** Set name -> element key -> value; the value is '' in sets. Keys and values are nft text. */
export type Elements = ReadonlyMap<PolicySet, ReadonlyMap<string, string>>

/** Elements to take out and to put in; a changed value is both. Removals go first, in one transaction with the additions. */
export interface Change {
  readonly remove: Elements
  readonly add: Elements
}

/** How nft writes an identity: a classid, `major:minor` in hexadecimal. 257 is `0:101`. */
export function identityToText(identity: IdentityId): string {
  return `${(identity >>> 16).toString(16)}:${(identity & 0xffff).toString(16)}`
}

/**
 * The elements that this snapshot asks for. Identities with the same entries share the work of cutting them into intervals. Each identity's
 * number goes with the digests of its labels and of what its policy grants to names (`readIdentities`).
 */
export function desiredElements(snapshot: Snapshot, digest: Digest): Elements {
  const sets = new Map<PolicySet, Map<string, string>>(policySets.map((name) => [name, new Map()]))
  const put = (set: PolicySet, key: string, value: string): void => void sets.get(set)?.set(key, value)
  const compiled = new Map<readonly PeerEntry[], Record<Family, Intervals>>()
  for (const endpoint of snapshot.endpoints)
    for (const address of endpoint.addresses)
      if (snapshot.endpointOf(address) === endpoint)
        put(
          familyOf(address) === 4 ? 'identity4' : 'identity6',
          addressToText(address),
          identityToText(endpoint.identity),
        )
  for (const [identity, labels] of new Map(
    snapshot.endpoints.map((endpoint) => [endpoint.identity, endpoint.labels]),
  )) {
    const policy = snapshot.policyOf(identity)
    const id = identityToText(identity)
    put('identities', `${id} comment "${digest(labelSetText(labels))}.${digest(policy.grantsText)}"`, '')
    if (!policy.defaultDeny) put('open', id, '')
    let intervals = compiled.get(policy.entries)
    if (intervals === undefined)
      compiled.set(
        policy.entries,
        (intervals = { 4: compileIntervals(policy.entries, 4), 6: compileIntervals(policy.entries, 6) }),
      )
    for (const family of [4, 6] as const) {
      const goto = { allow: 'goto allowed', deny: `goto denied${family}` }
      for (const box of intervals[family].boxes) {
        const protocol = box.protocol === 'any' ? '0-255' : protocolName(box.protocol)
        const ports = box.first === box.last ? String(box.first) : `${box.first}-${box.last}`
        put(`verdict${family}`, `${id} . ${rangeText(box.range)} . ${protocol} . ${ports}`, goto[box.verdict])
      }
      for (const slab of intervals[family].slabs)
        put(`verdict_any${family}`, `${id} . ${rangeText(slab.range)}`, goto[slab.verdict])
    }
  }
  return sets
}

function rangeText({ family, first, last }: AddressRange): string {
  const text = addressToText(addressFromNumber(first, family))
  if (first === last) return text
  if (first === everyAddress[family].first && last === everyAddress[family].last) return `${text}/0`
  return `${text}-${addressToText(addressFromNumber(last, family))}`
}

/** What turns `realised` into `desired`. */
export function diff(desired: Elements, realised: Elements): Change {
  const remove = new Map<PolicySet, Map<string, string>>()
  const add = new Map<PolicySet, Map<string, string>>()
  for (const set of policySets) {
    const want = desired.get(set) ?? new Map<string, string>()
    const have = realised.get(set) ?? new Map<string, string>()
    const gone = [...have].filter(([key, value]) => want.get(key) !== value)
    const fresh = [...want].filter(([key, value]) => have.get(key) !== value)
    if (gone.length > 0) remove.set(set, new Map(gone))
    if (fresh.length > 0) add.set(set, new Map(fresh))
  }
  return { remove, add }
}

/** Elements on one line of nft text: long lines make its parser slow. */
const elementsPerLine = 500

/** The change as commands for `nft -f`; '' when there is nothing to do. */
export function renderChange(table: string, change: Change): string {
  return renderElements('delete', table, change.remove) + renderElements('add', table, change.add)
}

/** Commands that empty every policy set, for a fresh start on a table that is there. */
export function renderFlush(table: string): string {
  return policySets
    .map((set) => `flush ${set === 'open' || set === 'identities' ? 'set' : 'map'} inet ${table} ${set}\n`)
    .join('')
}

function renderElements(verb: 'add' | 'delete', table: string, elements: Elements): string {
  let text = ''
  for (const [set, entries] of elements) {
    const list = [...entries].map(([key, value]) => {
      // A comment is not part of what an element is deleted by.
      const [bare = ''] = verb === 'delete' ? key.split(' comment ') : [key]
      return value === '' ? bare : `${bare} : ${value}`
    })
    for (let i = 0; i < list.length; i += elementsPerLine)
      text += `${verb} element inet ${table} ${set} { ${list.slice(i, i + elementsPerLine).join(', ')} }\n`
  }
  return text
}

/** Adds learned addresses by text, for a table that takes over from another; all other commits go by netlink. */
export function renderLearned(table: string, elements: readonly LeaseElement[]): string {
  return elements
    .filter(({ timeoutMillis }) => timeoutMillis > 0)
    .map((element) => {
      const { identity, address, ports, timeoutMillis } = element
      const port = ports.kind === 'all' ? '' : ` . ${protocolName(ports.protocol)} . ${ports.first === ports.last ? ports.first : `${ports.first}-${ports.last}`}`
      const time = `${Math.ceil(timeoutMillis / 1000)}s`
      return `add element inet ${table} ${setOf(element)} { ${identityToText(identity)} . ${addressToText(address)}${port} timeout ${time} expires ${time} }\n`
    })
    .join('')
} // prettier-ignore
