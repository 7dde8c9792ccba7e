// resolv.conf(5): the resolvers that a machine uses, and the file that a workload behind the proxy gets instead.
import { addressFromText, type Address } from '../net/address.ts'

export interface Nameservers {
  /** In order; what is no address is passed over, as the C library does. */
  readonly addresses: readonly Address[]
  /** About those that are passed over though the C library asks them. */
  readonly notes: readonly string[]
}

export function nameserversOf(text: string): Nameservers {
  const named = linesOf(text).flatMap(([keyword, value]) =>
    keyword === 'nameserver' && value !== undefined ? [value] : [],
  )
  const zoned = named.filter((value) => value.includes('%'))
  return {
    addresses: named.filter((value) => !value.includes('%')).flatMap((value) => addressFromText(value) ?? []),
    // Without its zone it would be another server, or none.
    notes: zoned.map(
      (value) => `nameserver ${value} of /etc/resolv.conf is not asked: addresses with a zone are not supported`,
    ),
  }
}

/** The same search list and options with other nameservers. */
export function withNameservers(text: string, nameservers: readonly string[]): string {
  const kept = linesOf(text).filter(
    ([keyword]) => keyword === 'search' || keyword === 'domain' || keyword === 'options',
  )
  return [...nameservers.map((server) => `nameserver ${server}`), ...kept.map((words) => words.join(' ')), ''].join(
    '\n',
  )
}

function linesOf(text: string): string[][] {
  const rows = text.split('\n').filter((row) => !row.startsWith('#') && !row.startsWith(';'))
  return rows.map((row) => row.split(/\s+/).filter((word) => word !== '')).filter((words) => words.length > 0)
}
