// Snapshots made by hand, for tests of what is enforced: entries as the compiler would give them.
import { expect } from 'vitest'
import type { Endpoint, IdentityId } from '../../src/identity/endpoints.ts'
import { addressFromText, familyOf, type Address } from '../../src/net/address.ts'
import type { Ports } from '../../src/net/ports.ts'
import { prefixFromText, type AddressRange } from '../../src/net/prefix.ts'
import { Tier, type Direction } from '../../src/policy/rules.ts'
import { compareStatements } from '../../src/policy/names.ts'
import type { DirectionPolicy, Entry, Peers, Snapshot } from '../../src/policy/snapshot.ts'

export const at = (text: string): Address => addressFromText(text) ?? expect.fail(text)
export const range = (text: string): AddressRange => prefixFromText(text) ?? expect.fail(`not a prefix: ${text}`)
export const tcp = (first: number, last: number = first): Ports => ({ kind: 'ports', protocol: 6, first, last })

export const host: IdentityId = 1
export const world: Readonly<Record<4 | 6, IdentityId>> = { 4: 9, 6: 10 }

/** Peers of an entry by words: prefixes are outside, those behind `!` everywhere, numbers are identities. */
export function peers(...words: readonly (string | number)[]): Peers {
  const texts = words.filter((word) => typeof word === 'string')
  return {
    identities: new Set(words.filter((word) => typeof word === 'number')),
    outside: texts.filter((text) => !text.startsWith('!')).map(range),
    everywhere: texts.filter((text) => text.startsWith('!')).map((text) => range(text.slice(1))),
  }
}

/** An entry of the Normal tier. */
export function entry(kind: Entry['kind'], to: Peers, ports: Ports, more: Partial<Entry> = {}): Entry {
  const { tier = Tier.Normal, priority = 0 } = more
  const rule = { direction: 'egress', kind, tier, priority, peers: 'everyone', ports: [ports], path: 'spec', line: 1 } as const // prettier-ignore
  return { kind, tier, priority, peers: to, ports, rule, why: { text: 'test' }, ...more }
}

export const open: DirectionPolicy = { selected: false, defaultDeny: false, selectedBy: [], entries: [], fallback: 'allow', fallbackFromHost: 'allow', audit: false } // prettier-ignore

/** Default deny, but for these, put in their order; from the host everything that they do not speak of. */
export function denying(...entries: readonly Entry[]): DirectionPolicy {
  return { ...open, selected: true, defaultDeny: true, fallback: 'deny', entries: [...entries].sort(compareStatements) }
}

export interface HandMade {
  readonly endpoints: readonly { readonly name: string; readonly identity: IdentityId; readonly addresses: readonly string[]; readonly local?: boolean }[] // prettier-ignore
  /** Further addresses with an identity; those of identity 7 are outside. */
  readonly addresses?: Readonly<Record<string, IdentityId>>
  /** Open where absent. */
  readonly policies?: Readonly<Record<number, Partial<Record<Direction, DirectionPolicy>>>>
  /** Whether name rules stand among the Normal tier's entries. */
  readonly named?: boolean
}

export function makeSnapshot({ endpoints: given, addresses: others = {}, policies = {}, named = false }: HandMade): Snapshot {
  const endpoints = given.map(({ name, identity, addresses, local = true }, i): Endpoint => ({ id: i + 1, name, identity, namespace: 'default', labels: new Map([['k8s:app', name]]), addresses: addresses.map(at), local }))
  const addresses = new Map<Address, IdentityId>([
    ...endpoints.flatMap((e) => e.addresses.map((address) => [address, e.identity] as const)),
    ...Object.entries(others).map(([text, identity]) => [at(text), identity] as const),
  ])
  return {
    revision: 1,
    endpoints,
    endpointOf: (address) => endpoints.find((e) => e.addresses.includes(address)),
    identities: new Map(endpoints.map(({ identity: id, labels }) => [id, { id, labels }])),
    policyOf: (identity) => ({
      identity,
      directions: { egress: policies[identity]?.egress ?? open, ingress: policies[identity]?.ingress ?? open },
      denyReplyTo: () => 'refused',
    followsAliases: false,
    refusesDoh: false,
      mayAsk: () => ({ kind: 'deny', why: { text: '' } }),
      grantsFor: () => [],
      grantPorts: [],
      grantRanks: named ? [{ tier: Tier.Normal, priority: 0 }] : [],
      grantNames: [],
    grantsText: '',
    }),
    identityOf: (address) => addresses.get(address) ?? world[familyOf(address)],
    addresses,
    isInCluster: (address) => addresses.has(address) && addresses.get(address) !== 7,
    notes: [],
  }
} // prettier-ignore
