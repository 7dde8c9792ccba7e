// Kafka rules of policies (toPorts.rules.kafka, Cilium up to 1.19) against requests: which API keys, versions, clients and topics.
// Every topic of a request must be covered, be it by several rules together.

/** All fields hold; without any it is every request. Not both a role and a key. */
export interface KafkaPattern {
  readonly role?: KafkaRole
  /** Lower case, as `fetch`, `apiversions`. */
  readonly apiKey?: string
  readonly apiVersion?: number
  readonly clientID?: string
  readonly topic?: string
}

export type KafkaRole = 'produce' | 'consume'

export interface KafkaRequest {
  /** A number, or a name in any case. */
  readonly apiKey: number | string
  readonly apiVersion?: number | undefined
  readonly clientID?: string | undefined
  readonly topics?: readonly string[] | undefined
}

/** The names that policies may use, each at its number (Kafka protocol, API keys). */
export const kafkaApiKeys = [
  'produce', 'fetch', 'offsets', 'metadata', 'leaderandisr', 'stopreplica', 'updatemetadata', 'controlledshutdown',
  'offsetcommit', 'offsetfetch', 'findcoordinator', 'joingroup', 'heartbeat', 'leavegroup', 'syncgroup', 'describegroups',
  'listgroups', 'saslhandshake', 'apiversions', 'createtopics', 'deletetopics', 'deleterecords', 'initproducerid', 'offsetforleaderepoch',
  'addpartitionstotxn', 'addoffsetstotxn', 'endtxn', 'writetxnmarkers', 'txnoffsetcommit', 'describeacls', 'createacls', 'deleteacls',
  'describeconfigs', 'alterconfigs',
] as const // prettier-ignore

/** What a role needs: the keys of its work, and those without which no client gets that far. */
export const kafkaRoleKeys: Readonly<Record<KafkaRole, readonly number[]>> = {
  produce: [0, 3, 18],
  consume: [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18],
}

/** Requests that name topics; for all others a rule's topic does not count. */
const topicKeys: ReadonlySet<number> = new Set([0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37])

export const topicCharactersMax = 255
const versionMax = 32_767

/** The number of an API key's name, in any case; undefined when there is none. */
export function kafkaKeyNumber(name: string): number | undefined {
  const number = (kafkaApiKeys as readonly string[]).indexOf(name.toLowerCase())
  return number < 0 ? undefined : number
}

/** `fetch`; the number where there is no name. */
export const kafkaKeyName = (number: number): string => kafkaApiKeys[number] ?? String(number)

/** The fields of a rule as they stand in a manifest; '' is not set. */
export interface KafkaText {
  readonly role?: string | undefined
  readonly apiKey?: string | undefined
  readonly apiVersion?: string | undefined
  readonly topic?: string | undefined
}

/** A fault of a Kafka rule, with the field where it is. */
export interface KafkaFault {
  readonly field: keyof KafkaText
  readonly message: string
}

/** All that is wrong with a rule, in Cilium's words. */
export function checkKafka({ role = '', apiKey = '', apiVersion = '', topic = '' }: KafkaText): KafkaFault[] {
  const faults: KafkaFault[] = []
  const fault = (field: keyof KafkaText, message: string): void => void faults.push({ field, message })
  if (role !== '' && apiKey !== '')
    fault('apiKey', `cannot set both Role ${JSON.stringify(role)} and APIKey ${JSON.stringify(apiKey)} together`)
  if (apiKey !== '' && kafkaKeyNumber(apiKey) === undefined)
    fault('apiKey', `invalid Kafka APIKey ${JSON.stringify(apiKey)}`)
  if (role !== '' && !Object.hasOwn(kafkaRoleKeys, role.toLowerCase()))
    fault('role', `invalid Kafka Role ${JSON.stringify(role)}`)
  if (apiVersion !== '' && readKafkaVersion(apiVersion) === undefined)
    fault('apiVersion', `invalid Kafka APIVersion ${JSON.stringify(apiVersion)}`)
  if (topic.length > topicCharactersMax) fault('topic', `kafka topic exceeds maximum len of ${topicCharactersMax}`)
  else if (!/^[a-zA-Z0-9\\._-]*$/.test(topic)) fault('topic', `invalid Kafka Topic name ${JSON.stringify(topic)}`)
  return faults
}

/** An API version: a decimal of 0 to 32767, with or without a sign. */
export function readKafkaVersion(text: string): number | undefined {
  const version = /^[+]?[0-9]+$|^-0+$/.test(text) ? Math.abs(Number(text)) : -1
  return version >= 0 && version <= versionMax ? version : undefined
}

export type CompiledKafka = readonly CompiledRule[]

interface CompiledRule {
  readonly keys: ReadonlySet<number> | undefined
  readonly apiVersion: number | undefined
  readonly clientID: string | undefined
  readonly topic: string | undefined
}

/** Rules that `checkKafka` found nothing wrong with. */
export function compileKafka(patterns: readonly KafkaPattern[]): CompiledKafka {
  return patterns.map(({ role, apiKey, apiVersion, clientID, topic }) => ({
    keys: compileKeys(role, apiKey),
    apiVersion,
    clientID: clientID || undefined,
    topic: topic || undefined,
  }))
}

/** Undefined: every key. A name that nobody knows is none. */
function compileKeys(role: KafkaRole | undefined, apiKey: string | undefined): ReadonlySet<number> | undefined {
  if (role !== undefined) return new Set(kafkaRoleKeys[role])
  if (apiKey === undefined || apiKey === '') return undefined
  const number = kafkaKeyNumber(apiKey)
  return new Set(number === undefined ? [] : [number])
}

/** The indices of the rules that together let the request pass, in order; empty: it is denied. */
export function matchKafka(compiled: CompiledKafka, request: KafkaRequest): readonly number[] {
  const key = typeof request.apiKey === 'number' ? request.apiKey : (kafkaKeyNumber(request.apiKey) ?? -1)
  const missing = new Set(request.topics)
  const used: number[] = []
  for (const [i, rule] of compiled.entries()) {
    if (rule.keys !== undefined && !rule.keys.has(key)) continue
    if (rule.apiVersion !== undefined && rule.apiVersion !== request.apiVersion) continue
    if (rule.clientID !== undefined && rule.clientID !== request.clientID) continue
    if (rule.topic === undefined || !topicKeys.has(key)) return [i]
    // A request for no topic asks for all of them: no rule about one topic covers that.
    if (!missing.delete(rule.topic)) continue
    used.push(i)
    if (missing.size === 0) return used
  }
  return []
}
