// Kafka rules against requests; the words of refusal; and any rules against the way Cilium's proxy goes through them.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  checkKafka,
  compileKafka,
  kafkaApiKeys,
  kafkaKeyName,
  kafkaKeyNumber,
  kafkaRoleKeys,
  matchKafka,
  readKafkaVersion,
  type KafkaPattern,
  type KafkaRequest,
  type KafkaText,
} from '../../../src/l7/kafka.ts'

const evaluate = (rules: KafkaPattern[], request: KafkaRequest): readonly number[] =>
  matchKafka(compileKafka(rules), request)

const rows: { title: string; rules: KafkaPattern[]; request: KafkaRequest; want: number[] }[] = [
  { title: 'no rules let nothing pass', rules: [], request: { apiKey: 18 }, want: [] },
  { title: 'an empty rule is every request', rules: [{}], request: { apiKey: 99, topics: ['a', 'b'] }, want: [0] },
  { title: 'empty texts are not set', rules: [{ apiKey: '', clientID: '', topic: '' }], request: { apiKey: 0, topics: ['a'] }, want: [0] },
  { title: 'key by name', rules: [{ apiKey: 'fetch' }], request: { apiKey: 'Fetch', topics: ['a'] }, want: [0] },
  { title: 'key by number', rules: [{ apiKey: 'fetch' }], request: { apiKey: 1, topics: ['a'] }, want: [0] },
  { title: 'another key', rules: [{ apiKey: 'fetch' }], request: { apiKey: 0, topics: ['a'] }, want: [] },
  { title: 'a key nobody knows, in the request', rules: [{ apiKey: 'fetch' }], request: { apiKey: 'fletch' }, want: [] },
  { title: 'two names nobody knows are not the same', rules: [{ apiKey: 'fletch' }], request: { apiKey: 'fletch' }, want: [] },
  { title: 'produce may ask for versions', rules: [{ role: 'produce', topic: 'a' }], request: { apiKey: 'apiversions' }, want: [0] },
  { title: 'produce to its topic', rules: [{ role: 'produce', topic: 'a' }], request: { apiKey: 'produce', topics: ['a'] }, want: [0] },
  { title: 'produce may not fetch', rules: [{ role: 'produce', topic: 'a' }], request: { apiKey: 'fetch', topics: ['a'] }, want: [] },
  { title: 'consume may join a group', rules: [{ role: 'consume', topic: 'a' }], request: { apiKey: 'joingroup' }, want: [0] },
  { title: 'consume may not produce', rules: [{ role: 'consume', topic: 'a' }], request: { apiKey: 'produce', topics: ['a'] }, want: [] },
  { title: 'another topic', rules: [{ topic: 'a' }], request: { apiKey: 1, topics: ['b'] }, want: [] },
  { title: 'topics have a case', rules: [{ topic: 'a' }], request: { apiKey: 1, topics: ['A'] }, want: [] },
  { title: 'one topic of two', rules: [{ topic: 'a' }], request: { apiKey: 1, topics: ['a', 'b'] }, want: [] },
  { title: 'a topic twice is one', rules: [{ topic: 'a' }], request: { apiKey: 1, topics: ['a', 'a'] }, want: [0] },
  { title: 'two rules cover two topics', rules: [{ topic: 'a' }, { apiKey: 'produce', topic: 'b' }, { topic: 'b' }], request: { apiKey: 1, topics: ['a', 'b'] }, want: [0, 2] },
  { title: 'a rule without topic covers all', rules: [{ topic: 'a' }, { apiKey: 'fetch' }], request: { apiKey: 1, topics: ['a', 'b'] }, want: [1] },
  { title: 'metadata of every topic is not covered by one', rules: [{ topic: 'a' }], request: { apiKey: 'metadata', topics: [] }, want: [] },
  { title: 'a topic does not count for a heartbeat', rules: [{ topic: 'a' }], request: { apiKey: 'heartbeat', topics: ['b'] }, want: [0] },
  { title: 'version', rules: [{ apiVersion: 2 }], request: { apiKey: 18, apiVersion: 2 }, want: [0] },
  { title: 'another version', rules: [{ apiVersion: 2 }], request: { apiKey: 18, apiVersion: 3 }, want: [] },
  { title: 'version 0 is a version', rules: [{ apiVersion: 0 }], request: { apiKey: 18, apiVersion: 1 }, want: [] },
  { title: 'version not known', rules: [{ apiVersion: 0 }], request: { apiKey: 18 }, want: [] },
  { title: 'client', rules: [{ clientID: 'c' }], request: { apiKey: 18, clientID: 'c' }, want: [0] },
  { title: 'another client', rules: [{ clientID: 'c' }], request: { apiKey: 18, clientID: 'd' }, want: [] },
  { title: 'client not known', rules: [{ clientID: 'c' }], request: { apiKey: 18 }, want: [] },
] // prettier-ignore
describe('matching', () => {
  for (const { title, rules, request, want } of rows) test(title, () => expect(evaluate(rules, request)).toEqual(want))
})

const faults: { fields: KafkaText; want: [keyof KafkaText, string][] }[] = [
  { fields: {}, want: [] },
  { fields: { role: 'Produce', topic: 'a.b_c-9' }, want: [] },
  { fields: { apiKey: 'ApiVersions', apiVersion: '32767' }, want: [] },
  { fields: { role: 'admin' }, want: [['role', 'invalid Kafka Role "admin"']] },
  { fields: { role: 'constructor' }, want: [['role', 'invalid Kafka Role "constructor"']] },
  { fields: { apiKey: 'pull' }, want: [['apiKey', 'invalid Kafka APIKey "pull"']] },
  { fields: { apiVersion: '-1' }, want: [['apiVersion', 'invalid Kafka APIVersion "-1"']] },
  { fields: { apiVersion: '32768' }, want: [['apiVersion', 'invalid Kafka APIVersion "32768"']] },
  { fields: { apiVersion: '1.0' }, want: [['apiVersion', 'invalid Kafka APIVersion "1.0"']] },
  { fields: { topic: 'a b' }, want: [['topic', 'invalid Kafka Topic name "a b"']] },
  { fields: { topic: 'a\n' }, want: [['topic', 'invalid Kafka Topic name "a\\n"']] },
  { fields: { topic: 'x'.repeat(256) }, want: [['topic', 'kafka topic exceeds maximum len of 255']] },
  { fields: { role: 'x', apiKey: 'y' }, want: [['apiKey', 'cannot set both Role "x" and APIKey "y" together'], ['apiKey', 'invalid Kafka APIKey "y"'], ['role', 'invalid Kafka Role "x"']] },
] // prettier-ignore
describe('faults', () => {
  for (const { fields, want } of faults)
    test(JSON.stringify(fields).slice(0, 40), () =>
      expect(checkKafka(fields).map(({ field, message }) => [field, message])).toEqual(want),
    )
})

test('names and numbers', () => {
  expect(kafkaApiKeys).toHaveLength(34)
  for (const [number, name] of kafkaApiKeys.entries()) {
    expect(kafkaKeyNumber(name.toUpperCase())).toBe(number)
    expect(kafkaKeyName(number)).toBe(name)
  }
  // As the protocol's table has them.
  for (const [name, number] of Object.entries({ produce: 0, fetch: 1, metadata: 3, offsetcommit: 8, apiversions: 18, createtopics: 19, initproducerid: 22, writetxnmarkers: 27, alterconfigs: 33 })) expect(kafkaKeyNumber(name)).toBe(number) // prettier-ignore
  expect(kafkaKeyName(60)).toBe('60')
  expect(kafkaKeyNumber('toString')).toBeUndefined()
  expect(kafkaRoleKeys.produce.map(kafkaKeyName)).toEqual(['produce', 'metadata', 'apiversions'])
  expect(kafkaRoleKeys.consume.map(kafkaKeyName)).toEqual(['fetch', 'offsets', 'metadata', 'offsetcommit', 'offsetfetch', 'findcoordinator', 'joingroup', 'heartbeat', 'leavegroup', 'syncgroup', 'apiversions']) // prettier-ignore
})

test('versions', () => {
  expect(['0', '7', '+7', '32767', '-0'].map(readKafkaVersion)).toEqual([0, 7, 7, 32767, 0])
  expect(['', '-1', '32768', '1e3', '0x1', ' 1', '1 '].map(readKafkaVersion)).toEqual(Array(7).fill(undefined))
})

/** Cilium's proxy, step by step: rules in order take their topic out of the request, and the rule that takes the last lets it pass. */
function literally(rules: KafkaPattern[], key: number, version: number, client: string, topics: string[]): boolean {
  const left = new Set(topics)
  return rules.some((rule) => {
    const keys = rule.role === undefined ? [] : kafkaRoleKeys[rule.role]
    if (keys.length > 0 && !keys.includes(key)) return false
    if (rule.apiKey !== undefined && kafkaKeyNumber(rule.apiKey) !== key) return false
    if (rule.apiVersion !== undefined && rule.apiVersion !== version) return false
    if (rule.clientID !== undefined && rule.clientID !== client) return false
    const aboutTopics = [0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37].includes(key)
    if (rule.topic === undefined || !aboutTopics) return true
    if (!left.has(rule.topic)) return false
    left.delete(rule.topic)
    return left.size === 0
  })
}

test('any rules, any request: as the proxy decides, and the rules that are named suffice', () => {
  const topic = fc.constantFrom('a', 'b', 'c')
  const client = fc.constantFrom('x', 'y')
  const rule = fc
    .record(
      {
        what: fc.constantFrom({}, { role: 'produce' as const }, { role: 'consume' as const }, { apiKey: 'fetch' }),
        apiVersion: fc.constantFrom(0, 1),
        clientID: client,
        topic,
      },
      { requiredKeys: ['what'] },
    ) // prettier-ignore
    .map(({ what, ...rest }): KafkaPattern => ({ ...what, ...rest }))
  const request = fc.record({
    key: fc.constantFrom(0, 1, 3, 8, 11, 18, 19, 33, 34, 60),
    version: fc.constantFrom(0, 1),
    client,
    topics: fc.array(topic, { maxLength: 4 }),
  })
  fc.assert(
    fc.property(fc.array(rule, { maxLength: 6 }), request, (rules, { key, version, client, topics }) => {
      const wire: KafkaRequest = { apiKey: key, apiVersion: version, clientID: client, topics }
      const used = evaluate(rules, wire)
      expect(used.length > 0).toBe(literally(rules, key, version, client, topics))
      if (used.length === 0) return
      const alone = used.map((i) => rules[i] ?? {})
      expect(evaluate(alone, wire)).toEqual(alone.map((_, i) => i))
    }),
    { numRuns: 5000 },
  )
})
