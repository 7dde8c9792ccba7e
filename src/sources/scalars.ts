// Values that the objects around policies share: addresses, ports, protocols. Wrong ones are reported and left out.
import { addressFromText } from '../net/address.ts'
import { Protocol } from '../net/ports.ts'
import { isAbsent, readInteger, readString, type Field, type Report } from '../policy/field.ts'

/** The address as it was written. */
export function readAddress(report: Report, field: Field | undefined): string | undefined {
  const text = readString(report, field)
  if (field === undefined || text === undefined || text === '') return undefined
  if (addressFromText(text) !== undefined) return text
  report.error(field, `must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff), not "${text}"`)
  return undefined
}

/** A port number from 1 to 65535. */
export function readPortNumber(report: Report, field: Field | undefined): number | undefined {
  const port = readInteger(report, field)
  if (field === undefined || port === undefined || (port >= 1 && port <= 65535)) return port
  report.error(field, `must be between 1 and 65535, inclusive, not ${port}`)
  return undefined
}

/** TCP, UDP or SCTP; TCP when absent. */
export function readProtocol(report: Report, field: Field | undefined): Protocol | undefined {
  if (isAbsent(field)) return Protocol.TCP
  const word = readString(report, field)
  if (word === 'TCP' || word === 'UDP' || word === 'SCTP') return Protocol[word]
  if (word !== undefined) report.error(field, `Unsupported value: "${word}": supported values: "SCTP", "TCP", "UDP"`)
  return undefined
}
