// What allowing statements ask above L4, held against what is known of a flow: HTTP, Kafka, DNS, SNI.
import { compileHttp, matchHttp, type CompiledHttp, type HttpRequest, type Secrets } from '../l7/http.ts'
import { compileKafka, matchKafka, type KafkaRequest } from '../l7/kafka.ts'
import { matchServerName, readServerName, type ServerNamePattern } from '../l7/sni.ts'
import { makeTrie, type NameTrie } from '../match/trie.ts'
import { labelsOf, wireFromText } from '../wire/name.ts'
import type { DnsRule, L7, Rule } from './rules.ts'
import type { Statement } from './rulings.ts'

/** What a proxy sees of a flow. What is not there is not known, and a statement that asks for it is left to the proxy. */
export interface Above {
  readonly http?: HttpRequest | undefined
  readonly kafka?: KafkaRequest | undefined
  readonly sni?: string | undefined
  /** The name that is asked. */
  readonly dns?: string | undefined
}

/** `unknown`: the flow does not carry what is asked for. */
export type Judgement =
  | { readonly kind: 'met'; readonly by: Statement; readonly spot: Spot }
  | { readonly kind: 'unknown'; readonly by: Statement }
  | { readonly kind: 'unmet' }

/** The rule of the list that was met: where it stands, and as people read it. */
interface Spot {
  readonly path: string
  readonly text: string
}

/** Judges of rule lists are made once and kept as long as the rules live. */
export interface Judges {
  readonly judge: (level: readonly Statement[], above: Above) => Judgement
}

/** @param secrets values of the Secrets that HTTP rules name; none when nobody can read them. */
export function makeJudges(secrets: Secrets = () => undefined): Judges {
  const http = new WeakMap<L7, CompiledHttp>()
  const dns = new WeakMap<L7, NameTrie<DnsRule>>()
  const names = new WeakMap<Rule, readonly ServerNamePattern[]>()
  const kept = <K extends object, V>(cache: WeakMap<K, V>, key: K, make: () => V): V => {
    let value = cache.get(key)
    if (value === undefined) cache.set(key, (value = make()))
    return value
  }

  /** Undefined: not known. */
  function meetsSni({ rule }: Statement, { sni }: Above): boolean | undefined {
    const wanted = rule.serverNames
    if (wanted === undefined) return true
    if (sni === undefined) return undefined
    return kept(names, rule, () => wanted.map(readServerName)).some((pattern) => matchServerName(pattern, sni))
  }
  function meetsL7({ l7, rule }: Statement, above: Above): Spot | 'unknown' | undefined {
    if (l7 === undefined) return { path: rule.path, text: 'allowed by rule' }
    switch (l7.kind) {
      case 'http': {
        if (above.http === undefined) return 'unknown'
        const found = matchHttp(kept(http, l7, () => compileHttp(l7.rules)), above.http, secrets).rule
        return found === undefined ? undefined : { path: l7.rules[found]?.path ?? rule.path, text: 'HTTP rule' }
      }
      case 'dns': {
        if (above.dns === undefined) return 'unknown'
        const wire = wireFromText(above.dns)
        const trie = kept(dns, l7, () => makeTrie(l7.rules.map((each) => ({ pattern: each.pattern, value: each }))))
        // In a DNS rule `*` is every name, odd octets and all.
        const found = wire === undefined ? undefined : (l7.rules.find(({ pattern }) => pattern.kind === 'any') ?? trie.lookup(labelsOf(wire))[0])
        return found === undefined ? undefined : { path: found.path, text: `DNS rule ${found.field} "${found.text}"` }
      }
      case 'kafka':
      case 'l7':
        // Kafka is judged for the whole level; nobody here reads generic rules.
        return 'unknown'
    }
  } // prettier-ignore
  /** A request's topics may be covered by several rules together. */
  function meetsKafka(level: readonly Statement[], request: KafkaRequest): Judgement {
    const rules = level.flatMap((by) => (by.l7?.kind === 'kafka' ? by.l7.rules.map((rule) => ({ by, rule })) : []))
    const [found] = matchKafka(compileKafka(rules.map(({ rule }) => rule)), request)
    const met = found === undefined ? undefined : rules[found]
    return met === undefined ? { kind: 'unmet' } : { kind: 'met', by: met.by, spot: { path: met.rule.path, text: 'Kafka rule' } } // prettier-ignore
  }

  function judge(level: readonly Statement[], above: Above): Judgement {
    let unknown: Statement | undefined
    const kafka: Statement[] = []
    for (const by of level) {
      const sni = meetsSni(by, above)
      if (sni === false) continue
      if (by.l7?.kind === 'kafka' && above.kafka !== undefined && sni === true) {
        kafka.push(by)
        continue
      }
      const spot = meetsL7(by, above)
      if (spot === undefined) continue
      if (spot === 'unknown' || sni === undefined) unknown ??= by
      else if (by.l7 !== undefined || by.rule.serverNames !== undefined) return { kind: 'met', by, spot }
      // Beside DNS rules what allows a range of ports does not count.
    }
    const found = above.kafka === undefined || kafka.length === 0 ? undefined : meetsKafka(kafka, above.kafka)
    if (found?.kind === 'met') return found
    return unknown === undefined ? { kind: 'unmet' } : { kind: 'unknown', by: unknown }
  }
  return { judge }
}
