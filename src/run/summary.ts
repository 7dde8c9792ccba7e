// What was denied during a run, and why: names from the proxy, connections from the kernel.
import type { DeniedWithWhy } from '../agent.ts'
import { addressToText } from '../net/address.ts'
import { protocolName } from '../net/ports.ts'
import type { Why } from '../policy/snapshot.ts'
import type { Outcome } from '../proxy/handle.ts'
import { typeName } from '../wire/codes.ts'

export interface DeniedName {
  readonly name: string
  readonly type: string
  readonly count: number
  readonly why: string
}

export interface Denials {
  readonly see: (outcome: Outcome) => void
  readonly names: () => readonly DeniedName[]
  /** Distinct names beyond what is kept. */
  readonly further: () => number
}

/** Distinct names that a summary tells; a tunnel through DNS makes up millions. */
const namesMax = 200

/** Collects what the proxy did not answer with what was asked for. */
export function collectDenials(): Denials {
  const seen = new Map<string, { name: string; type: string; count: number; why: string }>()
  let further = 0
  return {
    see(outcome) {
      if (outcome.kind !== 'refused' && outcome.kind !== 'failed') return
      const [name, type] = [outcome.question.name, typeName(outcome.question.qtype)]
      const known = seen.get(`${name} ${type}`)
      if (known !== undefined) known.count++
      else if (seen.size < namesMax) seen.set(`${name} ${type}`, { name, type, count: 1, why: whyToText(outcome.why) })
      else further++
    },
    names: () => [...seen.values()],
    further: () => further,
  }
}

/** The text, and where the deciding rule stands. */
export function whyToText(why: Why): string {
  return why.source === undefined ? why.text : `${why.text} (${why.policy} ${why.rule} at ${why.source})`
}

const flowName = ({ protocol, port }: DeniedWithWhy): string =>
  protocolName(protocol) + (port === undefined ? '' : `/${port}`)

/** Lines for stderr. */
export function summaryText(names: readonly DeniedName[], further: number, flows: readonly DeniedWithWhy[]): string {
  if (names.length + flows.length === 0) return 'namegate: nothing was denied\n'
  const rows = [
    ...names.map(({ name, type, count, why }) => [`name`, `${name} ${type}`, `x${count}`, why]),
    ...flows.map((flow) => [
      'connection',
      `${addressToText(flow.address)} ${flowName(flow)}`,
      `x${flow.packets}`,
      whyToText(flow.why),
    ]),
  ]
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  const lines = rows.map((row) => `  ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ')}`)
  const more = further > 0 ? [`  and ${further} further questions for names not listed`] : []
  return [`namegate: denied ${names.length} names and ${flows.length} connections`, ...lines, ...more, ''].join('\n')
}

/** One line of JSON. */
export function summaryJson(names: readonly DeniedName[], further: number, flows: readonly DeniedWithWhy[]): string {
  const connections = flows.map((flow) => ({
    address: addressToText(flow.address),
    protocol: protocolName(flow.protocol),
    ...(flow.port === undefined ? {} : { port: flow.port }),
    packets: flow.packets,
    why: whyToText(flow.why),
  }))
  return `${JSON.stringify({ names, furtherQuestions: further, connections })}\n`
}
