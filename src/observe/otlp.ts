// Flows as OpenTelemetry logs, sent to a collector by OTLP over HTTP with JSON. The packages that do it are optional: they are loaded when the
// configuration names a collector. The queue is the ring: a collector that is slow or dead costs others nothing, and what the ring overtakes
// meanwhile is counted, and told to it when it is back.
import { setTimeout as delay } from 'node:timers/promises'
import type { LogAttributes, LogRecord } from '@opentelemetry/api-logs'
import type { ReadableLogRecord } from '@opentelemetry/sdk-logs'
import type { Logger } from '../log.ts'
import { addressToText, familyOf } from '../net/address.ts'
import { protocolName } from '../net/ports.ts'
import { ExportError, type Exported, type Exports } from './export.ts'
import { compileFilters, directionOf, dropReasonName, dropReasonOf, type FlowFilter } from './filters.ts'
import { isHubbleFlow, type End, type FlowVerdict, type HubbleFlow } from './flow.ts'
import { timestampOf } from './hubble/message.ts'
import type { Observer } from './observer.ts'
import type { Entry } from './ring.ts'
import { summaryOf } from './summary.ts'

export interface OtlpSettings {
  /** Of the collector, with its path: `http://127.0.0.1:4318/v1/logs`. */
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** Hubble's FlowFilters: one of these must match, unless there are none; and none of those. */
  readonly allow: readonly FlowFilter[]
  readonly deny: readonly FlowFilter[]
}

/** What all records say of where they are from. */
export interface Sender {
  readonly version: string
  readonly cluster: string
  readonly node: string
}

/** Records sent at a time. */
const recordsPerBatch = 512
/** Flows that come one by one go together; at 20 000 a second a ring of 4095 is still not overtaken. */
const gatherMillis = 50
/** A try, with the exporter's own repetitions of it: so long may it hold the process up when that ends. */
const tryMillis = 5000
const pauseMillis = 1000
/** What is in the ring when the agent ends has so long to leave. */
const closeMillis = 2000

/** How a batch ended. `refused`: the collector answered that it will not have it; `unreachable`: it may take it later. */
type Sent = { readonly kind: 'taken' } | { readonly kind: 'refused' | 'unreachable'; readonly error: unknown }

/** Loads what sends. Rejects with `ExportError` when it is not installed. */
export async function openOtlp({ url, headers, allow, deny }: OtlpSettings, sender: Sender): Promise<Exports> {
  const { api, sdk, resources, http } = await loadPackages()
  const resource = resources.resourceFromAttributes({
    'service.name': 'namegate',
    'service.version': sender.version,
    'k8s.cluster.name': sender.cluster,
    'k8s.node.name': sender.node,
  })
  const exporter = new http.OTLPLogExporter({ url, headers: { ...headers }, timeoutMillis: tryMillis })
  let made: ReadableLogRecord[] = []
  const nothing = (): Promise<void> => Promise.resolve()
  const logger = new sdk.LoggerProvider({ resource, processors: [{ onEmit: (record) => void made.push(record), forceFlush: nothing, shutdown: nothing }] }).getLogger('namegate', sender.version) // prettier-ignore
  const severities: Readonly<Record<FlowVerdict, number>> = {
    FORWARDED: api.SeverityNumber.INFO,
    REDIRECTED: api.SeverityNumber.INFO,
    AUDIT: api.SeverityNumber.WARN,
    DROPPED: api.SeverityNumber.WARN,
    ERROR: api.SeverityNumber.ERROR,
  }
  const count = { written: 0, lost: 0 }
  const closing = new AbortController()
  let following: Promise<void> = Promise.resolve()

  function emit(entry: Entry): void {
    if (entry.kind === 'lost') logger.emit({ ...lostRecord(entry.count, entry.source, entry.time), severityNumber: api.SeverityNumber.WARN }) // prettier-ignore
    else if (isHubbleFlow(entry)) logger.emit({ ...flowRecord(entry), severityNumber: severities[entry.verdict] })
  }
  const send = (records: ReadableLogRecord[]): Promise<Sent> =>
    new Promise((resolve) => {
      exporter.export(records, ({ code, error }) => {
        // The exporter's errors have a number where the collector answered with one that is not worth another try.
        const isAnswer = typeof (error as { code?: unknown } | undefined)?.code === 'number'
        resolve(Number(code) === 0 ? { kind: 'taken' } : { kind: isAnswer ? 'refused' : 'unreachable', error })
      })
    })
  const pause = (millis: number): Promise<void> => delay(millis, undefined, { signal: closing.signal }).catch(() => undefined) // prettier-ignore

  async function follow({ ring, place }: Pick<Observer, 'ring' | 'place'>, log: Pick<Logger, 'error' | 'info'>): Promise<void> {
    const filters = compileFilters(allow, deny, place)
    if (!filters.ok) throw new Error(filters.error)
    const reader = ring.reader(ring.oldest())
    let isFailing = false
    for (;;) {
      let flows = 0
      let looked = 0
      for (let entry = reader.next(); entry !== undefined; entry = looked < recordsPerBatch ? reader.next() : undefined) {
        looked++
        if (entry.kind === 'lost') count.lost += entry.source === 'ring' ? entry.count : 0
        else if (!filters.shows(entry)) continue
        else flows++
        emit(entry)
      }
      const batch = made
      made = []
      if (looked === 0) {
        if (closing.signal.aborted) return
        await reader.wait(closing.signal)
      }
      for (let isOver = batch.length === 0; !isOver;) {
        const sent = await send(batch)
        isOver = sent.kind !== 'unreachable' || closing.signal.aborted
        if (isOver) count[sent.kind === 'taken' ? 'written' : 'lost'] += flows
        if (sent.kind !== 'taken' && !isFailing) log.error({ err: sent.error, url }, 'flows cannot be sent to the collector; those that it has no time for count as lost')
        if (sent.kind === 'taken' && isFailing) log.info({ url }, 'flows are sent to the collector again')
        isFailing = sent.kind !== 'taken'
        if (!isOver) await pause(pauseMillis)
      }
      if (looked < recordsPerBatch) await pause(gatherMillis)
    }
  }
  return {
    follow: (observer, log) => void (following = follow(observer, log)),
    exported: (): Exported => ({ ...count }),
    close: async () => {
      closing.abort()
      await Promise.race([following, delay(closeMillis, undefined, { ref: false })])
    },
  }
} // prettier-ignore

/** The packages by name, so that an agent without them says what is missing. */
async function loadPackages(): Promise<Packages> {
  try {
    const [api, sdk, resources, http] = await Promise.all([
      import('@opentelemetry/api-logs'),
      import('@opentelemetry/sdk-logs'),
      import('@opentelemetry/resources'),
      import('@opentelemetry/exporter-logs-otlp-http'),
    ])
    return { api, sdk, resources, http }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new ExportError('observe.otlp needs optional packages that are not installed: npm install --include=optional')
  }
}

interface Packages {
  readonly api: typeof import('@opentelemetry/api-logs')
  readonly sdk: typeof import('@opentelemetry/sdk-logs')
  readonly resources: typeof import('@opentelemetry/resources')
  readonly http: typeof import('@opentelemetry/exporter-logs-otlp-http')
}

/** A flow as a record. Attributes have OpenTelemetry's names (semantic conventions) where it has one, and ours under `namegate.`. */
export function flowRecord(flow: HubbleFlow): LogRecord {
  const { time, why, verdict, source, destination } = flow
  const reason = dropReasonOf(flow)
  return {
    ...momentOf(time),
    severityText: verdict,
    eventName: 'namegate.flow',
    body: `${endText(source)} -> ${endText(destination)} ${summaryOf(flow)} ${verdict}${why === undefined ? '' : `: ${why.text}`}`,
    attributes: given({
      'namegate.flow': flow.kind,
      'namegate.verdict': verdict,
      'namegate.direction': directionOf(flow).toLowerCase(),
      'namegate.drop_reason': reason === 0 ? undefined : dropReasonName(reason),
      'namegate.why': why?.text,
      'namegate.policy': why?.policy,
      'namegate.rule': why?.rule,
      'namegate.rule.source': why?.source,
      ...transportOf(flow),
      ...endAttributes('source', source),
      ...endAttributes('destination', destination),
      ...dnsAttributes(flow),
    }),
  }
}

/** As seconds and nanoseconds: a plain number that is small would be read as one of the process's clock. */
function momentOf(millis: number): Pick<LogRecord, 'timestamp' | 'observedTimestamp'> {
  const { seconds, nanos } = timestampOf(millis)
  return { timestamp: [seconds, nanos], observedTimestamp: [seconds, nanos] }
}

function lostRecord(count: number, source: 'ring' | 'kernel', time: number): LogRecord {
  const what = source === 'ring' ? 'the collector was too slow for' : 'the kernel did not tell of'
  return { ...momentOf(time), severityText: 'LOST', eventName: 'namegate.lost', body: `${what} ${count} flows`, attributes: { 'namegate.lost': count, 'namegate.lost.source': source } } // prettier-ignore
}

const endText = ({ pod, namespace, address, names, labels }: End): string => {
  if (pod !== '') return `${namespace}/${pod}`
  return names[0] ?? (address === undefined ? labels.join(',') : addressToText(address))
}

function endAttributes(side: 'source' | 'destination', { identity, address, labels, namespace, pod, names }: End): Loose {
  return {
    [`${side}.address`]: address === undefined ? undefined : addressToText(address),
    [`namegate.${side}.identity`]: identity,
    [`namegate.${side}.labels`]: [...labels],
    [`namegate.${side}.namespace`]: namespace === '' ? undefined : namespace,
    [`namegate.${side}.pod`]: pod === '' ? undefined : pod,
    [`namegate.${side}.names`]: names.length === 0 ? undefined : [...names],
  }
} // prettier-ignore

function transportOf(flow: HubbleFlow): Loose {
  const address = flow.source.address ?? flow.destination.address
  const type = address === undefined ? undefined : familyOf(address) === 4 ? 'ipv4' : 'ipv6'
  if (flow.kind === 'connection')
    return { 'network.type': type, 'network.transport': protocolName(flow.protocol).toLowerCase(), 'source.port': flow.sourcePort, 'destination.port': flow.destinationPort } // prettier-ignore
  const [source, destination] = flow.kind === 'query' ? [flow.clientPort, 53] : [53, flow.clientPort]
  return { 'network.type': type, 'network.transport': flow.transport, 'network.protocol.name': 'dns', 'source.port': source, 'destination.port': destination } // prettier-ignore
}

function dnsAttributes(flow: HubbleFlow): Loose {
  if (flow.kind === 'connection') return {}
  const asked = { 'dns.question.name': flow.qname, 'namegate.dns.qtype': flow.qtype }
  if (flow.kind === 'query') return asked
  return { ...asked, 'dns.answers': flow.addresses.map(addressToText), 'namegate.dns.rcode': flow.rcode, 'namegate.dns.ttl': flow.ttlSeconds, 'namegate.refused': flow.refused } // prettier-ignore
}

/** Attributes of which some are absent. */
type Loose = Readonly<Record<string, LogAttributes[string] | undefined>>
function given(attributes: Loose): LogAttributes {
  const there: LogAttributes = {}
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) there[name] = value
  return there
}
