// What was denied during a run, and why: names from the proxy, connections from the kernel.
import type { DeniedWithWhy } from '../agent.ts'
import { addressToText } from '../net/address.ts'
import { protocolName } from '../net/ports.ts'
import type { Why } from '../policy/snapshot.ts'
import type { Outcome } from '../proxy/handle.ts'
import { typeName } from '../wire/codes.ts'

export interface UnansweredName {
  readonly name: string
  readonly type: string
  readonly count: number
  readonly why: string
}

/** Names that were not answered with what was asked for. */
export interface UnansweredNames {
  readonly denied: readonly UnansweredName[]
  /** Allowed, but an upstream or the kernel failed. */
  readonly failed: readonly UnansweredName[]
  /** Questions for names beyond what is kept. */
  readonly further: number
}

export interface Collection {
  readonly see: (outcome: Outcome) => void
  readonly names: () => UnansweredNames
}

/** Distinct names that a summary tells; a tunnel through DNS makes up millions. */
const namesMax = 200

export function collectUnanswered(): Collection {
  const seen = { refused: new Map<string, Counted>(), failed: new Map<string, Counted>() }
  let further = 0
  return {
    see(outcome) {
      if (outcome.kind !== 'refused' && outcome.kind !== 'failed') return
      const [name, type] = [outcome.question.name, typeName(outcome.question.qtype)]
      const known = seen[outcome.kind].get(`${name} ${type}`)
      if (known !== undefined) known.count++
      else if (seen.refused.size + seen.failed.size >= namesMax) further++
      else seen[outcome.kind].set(`${name} ${type}`, { name, type, count: 1, why: whyToText(outcome.why) })
    },
    names: () => ({ denied: [...seen.refused.values()], failed: [...seen.failed.values()], further }),
  }
}

type Counted = { -readonly [K in keyof UnansweredName]: UnansweredName[K] }

/** The text, and where the deciding rule stands. */
export function whyToText(why: Why): string {
  return why.source === undefined ? why.text : `${why.text} (${why.policy} ${why.rule} at ${why.source})`
}

const flowName = ({ protocol, port }: DeniedWithWhy): string =>
  protocolName(protocol) + (port === undefined ? '' : `/${port}`)

/** Lines for stderr. */
export function summaryText({ denied, failed, further }: UnansweredNames, flows: readonly DeniedWithWhy[]): string {
  const nameRow = (kind: string, { name, type, count, why }: UnansweredName): string[] => [kind, `${name} ${type}`, `x${count}`, why] // prettier-ignore
  const rows = [
    ...denied.map((name) => nameRow('name', name)),
    ...failed.map((name) => nameRow('failed', name)),
    ...flows.map((flow) => ['connection', `${addressToText(flow.address)} ${flowName(flow)}`, `x${flow.packets}`, whyToText(flow.why)]), // prettier-ignore
  ]
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  const lines = rows.map((row) => `  ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ')}`)
  const more = further > 0 ? [`  and ${further} further questions for names not listed`] : []
  const isClean = denied.length + flows.length + further === 0
  const head = isClean ? 'nothing was denied' : `denied ${denied.length} names and ${flows.length} connections`
  const tail = failed.length === 0 ? '' : `; ${failed.length} lookups failed`
  return [`namegate: ${head}${tail}`, ...lines, ...more, ''].join('\n')
}

/** One line of JSON. */
export function summaryJson({ denied, failed, further }: UnansweredNames, flows: readonly DeniedWithWhy[]): string {
  const connections = flows.map((flow) => ({
    address: addressToText(flow.address),
    protocol: protocolName(flow.protocol),
    ...(flow.port === undefined ? {} : { port: flow.port }),
    packets: flow.packets,
    why: whyToText(flow.why),
  }))
  return `${JSON.stringify({ names: denied, failed, furtherQuestions: further, connections })}\n`
}
