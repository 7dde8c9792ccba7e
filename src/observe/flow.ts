// The flow record: one plain value for each thing that happened to a question, a connection or a lease. Shells make messages and text of it.
import type { Endpoint, IdentityId } from '../identity/endpoints.ts'
import { labelsToText, type Labels } from '../identity/labels.ts'
import { hostId } from '../identity/reserved.ts'
import type { LeaseChange } from '../leases/lease.ts'
import type { Address } from '../net/address.ts'
import type { Outcome } from '../proxy/handle.ts'
import type { Direction } from '../policy/rules.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'

/** What one end of a flow is known by. */
export interface End {
  readonly identity: IdentityId
  readonly address: Address | undefined
  /** `k8s:app=web`, sorted. */
  readonly labels: readonly string[]
  /** '' where no endpoint is known. */
  readonly namespace: string
  readonly pod: string
  /** Number of the endpoint; 0 where none is known. */
  readonly endpoint: number
  /** The names under which the other end holds a lease on the address, without final dot. */
  readonly names: readonly string[]
}

/** What a rule speaks of, with Hubble's numbers: none decided, or peers, ports, a whole protocol, or all there is. */
export const PolicyMatch = { None: 0, L3: 1, L3L4: 2, L4: 3, All: 4, L3Protocol: 5, Protocol: 6 } as const
export type PolicyMatch = (typeof PolicyMatch)[keyof typeof PolicyMatch]

/** As Hubble calls them; `audit`: would be denied, and passes. */
export type FlowVerdict = 'FORWARDED' | 'DROPPED' | 'ERROR' | 'AUDIT' | 'REDIRECTED'

interface Said {
  /** Milliseconds since 1970, for display and for ranges of time that people ask for. */
  readonly time: number
  /** Who decided, or why nobody did; undefined where nothing was decided. */
  readonly why: Why | undefined
}

interface Between extends Said {
  readonly source: End
  readonly destination: End
  readonly verdict: FlowVerdict
}

export interface QueryFlow extends Between {
  readonly kind: 'query'
  readonly transport: 'udp' | 'tcp'
  /** The asker's. */
  readonly clientPort: number
  /** Without final dot; '' is the root. */
  readonly qname: string
  readonly qtype: string
}

export type Refusal = (Outcome & { readonly kind: 'refused' })['reason']

export interface AnswerFlow extends Between {
  readonly kind: 'answer'
  readonly transport: 'udp' | 'tcp'
  /** The asker's. */
  readonly clientPort: number
  readonly qname: string
  readonly qtype: string
  readonly rcode: number
  readonly addresses: readonly Address[]
  readonly ttlSeconds: number
  /** Why the question, or what its answer says, was refused. */
  readonly refused?: Refusal
  /** From the question read to the answer ready. */
  readonly millis: number
}

export interface ConnectionFlow extends Between {
  readonly kind: 'connection'
  /** Of the policy that was asked. */
  readonly direction: Direction
  readonly protocol: number
  /** Undefined for protocols without ports. */
  readonly sourcePort: number | undefined
  readonly destinationPort: number | undefined
  readonly icmp: { readonly type: number; readonly code: number } | undefined
  /** The octet of TCP's flags, FIN lowest (RFC 9293 §3.1); undefined for others. */
  readonly tcpFlags: number | undefined
  /** An explicit deny rule decided; else what no rule allows. */
  readonly byDenyRule: boolean
  /** What the rule that decided speaks of. */
  readonly match: PolicyMatch
}

/** The kernel was asked to hold what an answer taught. */
export interface CommitFlow extends Said {
  readonly kind: 'commit'
  readonly elements: number
  readonly millis: number
  readonly acknowledged: boolean
}

export interface LeaseFlow extends Said {
  readonly kind: 'lease'
  readonly change: LeaseChange
  readonly identity: IdentityId
  readonly endpoint: number
  readonly name: string
  readonly addresses: readonly Address[]
  readonly ttlSeconds: number
}

export type Flow = QueryFlow | AnswerFlow | ConnectionFlow | CommitFlow | LeaseFlow
/** Those that Hubble has a flow for; what happens to leases and commits it calls events of the agent. */
export type HubbleFlow = QueryFlow | AnswerFlow | ConnectionFlow

export function isHubbleFlow(flow: Flow): flow is HubbleFlow {
  return flow.kind === 'query' || flow.kind === 'answer' || flow.kind === 'connection'
}

const texts = new WeakMap<Labels, readonly string[]>()
/** Labels as text, made once for each set: a flow costs no sort. */
export function labelTexts(labels: Labels): readonly string[] {
  let text = texts.get(labels)
  if (text === undefined) texts.set(labels, (text = labelsToText(labels)))
  return text
}

const none: readonly string[] = []

/** The end of a flow that has this address. */
export function endOf(snapshot: Snapshot, address: Address, names: readonly string[] = none): End {
  const endpoint = snapshot.endpointOf(address)
  if (endpoint !== undefined) return endOfEndpoint(endpoint, address)
  const identity = snapshot.identityOf(address)
  const labels = snapshot.identities.get(identity)?.labels
  return { identity, address, labels: labels === undefined ? none : labelTexts(labels), namespace: '', pod: '', endpoint: 0, names } // prettier-ignore
}

export function endOfEndpoint(endpoint: Endpoint, address: Address | undefined): End {
  const { identity, labels, namespace, name, id } = endpoint
  return { identity, address, labels: labelTexts(labels), namespace, pod: name, endpoint: id, names: none }
}

/** The proxy, which answers for whatever resolver the workload addressed; the kernel does not tell which that was. */
export const proxyEnd: End = { identity: hostId, address: undefined, labels: ['reserved:host'], namespace: '', pod: '', endpoint: 0, names: none } // prettier-ignore
