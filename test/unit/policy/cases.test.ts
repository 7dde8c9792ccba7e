// What policies mean, from manifest to verdict: a table of policies and flows over one small world. Each case names where its expectation
// comes from; a case that does not say which semantics it is about holds in both.
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { addressFromText } from '../../../src/net/address.ts'
import { makeCompiler, type CompileOptions } from '../../../src/policy/compile.ts'
import type { Semantics } from '../../../src/policy/rules.ts'
import type { Snapshot } from '../../../src/policy/snapshot.ts'
import { decide, type Flow, type Party } from '../../../src/policy/verdict.ts'
import { loadWorld, type Loaded } from '../../../src/sources/manifests.ts'

interface Known {
  http?: { method?: string; path?: string; host?: string; headers?: Record<string, string> }
  kafka?: { apiKey: string; topics?: string[] }
  sni?: string
  dns?: string
  resolved?: Record<string, string[]>
}
type CaseFlow = [from: string, to: string, l4: string, want: string, known?: Known]
interface Case {
  title: string
  source: string
  semantics?: Semantics
  options?: { ciliumVersion?: string } & Pick<CompileOptions, 'enforcement' | 'audit' | 'hostPolicies'>
  policies: { kind: string; name: string; namespace?: string; spec: string[] }[]
  flows?: CaseFlow[]
  /** Part of the message with which the policies are refused. */
  refused?: string
}
const { world, cases } = JSON.parse(readFileSync(new URL('../../vectors/cnp-cases.json', import.meta.url), 'utf8')) as { world: string[]; cases: Case[] } // prettier-ignore

const apiVersions: Readonly<Record<string, string>> = {
  NetworkPolicy: 'networking.k8s.io/v1',
  CiliumNetworkPolicy: 'cilium.io/v2',
  CiliumClusterwideNetworkPolicy: 'cilium.io/v2',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
  AdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1',
  BaselineAdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1',
}
const manifest = ({ kind, name, namespace, spec }: Case['policies'][number]): string =>
  `apiVersion: ${apiVersions[kind]}\nkind: ${kind}\nmetadata: { name: ${name}${namespace === undefined ? '' : `, namespace: ${namespace}`} }\nspec:\n  ${spec.join('\n  ')}\n` // prettier-ignore

function load({ policies, options }: Case, semantics: Semantics): Loaded {
  const [major = 1, minor = 20] = (options?.ciliumVersion ?? '1.20').split('.').map(Number)
  const files = [{ path: 'world.yaml', text: world.join('\n') }, { path: 'policies.yaml', text: policies.map(manifest).join('---\n') }] // prettier-ignore
  return loadWorld(files, { semantics, ciliumVersion: [major, minor] })
}

function compile(each: Case, semantics: Semantics): Snapshot {
  const loaded = load(each, semantics)
  if (!loaded.ok) throw new Error(loaded.issues.map(({ message }) => message).join('\n'))
  const { enforcement = 'default', audit = false, hostPolicies = false } = each.options ?? {}
  return makeCompiler({ hostAddresses: [], upstreams: [], denyReply: 'refused', localNode: 'n1', semantics, enforcement, audit, hostPolicies })(loaded.world) // prettier-ignore
}

/** Of the world: a pod on its node's network is its node. */
const onHost: Readonly<Record<string, string>> = { 'a/hostnet': '192.168.0.1' }

function party(snapshot: Snapshot, text: string): Party {
  const endpoint = snapshot.endpoints.find(({ namespace, name }) => text === `${namespace}/${name}`)
  if (endpoint !== undefined) return { kind: 'endpoint', endpoint }
  const address = addressFromText(onHost[text] ?? text)
  if (address === undefined) throw new Error(`nobody is ${text}`)
  return { kind: 'address', address }
}

const protocols: Readonly<Record<string, number>> = { TCP: 6, UDP: 17, SCTP: 132, ICMP: 1, ICMPv6: 58 }

function flow(snapshot: Snapshot, [from, to, l4, , known = {}]: CaseFlow): Flow {
  const { http, kafka, sni, dns, resolved = {} } = known
  const [word = '', number] = l4.split('/')
  const address = to.startsWith('fqdn:') ? (resolved[to.slice(5)]?.[0] ?? '') : to
  return {
    from: party(snapshot, from),
    to: party(snapshot, address),
    protocol: protocols[word] ?? Number(word),
    ...(word.startsWith('ICMP')
      ? { port: undefined, icmpType: Number(number) }
      : { port: number === undefined ? undefined : Number(number) }),
    http: http && { ...http, headers: Object.entries(http.headers ?? {}) },
    kafka,
    sni,
    dns,
    names: Object.keys(resolved).filter((name) => resolved[name]?.includes(address)),
  }
}

const inWords = ([from, to, l4, , known]: CaseFlow, verdict: string): string =>
  `${from} -> ${to} ${l4}${known === undefined ? '' : ` ${JSON.stringify(known)}`}: ${verdict}`

for (const semantics of ['spec', 'cilium'] as const)
  describe(semantics, () => {
    for (const each of cases.filter((c) => (c.semantics ?? semantics) === semantics))
      test(`${each.title} (${each.source})`, () => {
        if (each.refused !== undefined) {
          const loaded = load(each, semantics)
          const messages = loaded.ok ? [] : loaded.issues.map(({ message }) => message)
          expect(messages).toContainEqual(expect.stringContaining(each.refused))
          return
        }
        const snapshot = compile(each, semantics)
        const flows = each.flows ?? []
        const verdicts = flows.map((f) => inWords(f, decide(snapshot, flow(snapshot, f)).verdict))
        expect(verdicts).toEqual(flows.map((f) => inWords(f, f[3])))
      })
  })
