// resolv.conf(5): the resolvers that a machine uses, and the file that a workload behind the proxy gets instead.
import { addressFromText, type Address } from '../net/address.ts'

/** Its nameservers, in order; what is no address is passed over, as the C library does. */
export function nameserversOf(text: string): Address[] {
  return linesOf(text).flatMap(([keyword, value]) => {
    const address = keyword === 'nameserver' && value !== undefined ? addressFromText(value) : undefined
    return address === undefined ? [] : [address]
  })
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
