// GET /v1/why: a question as people put it, read against the workloads there are, and answered with the chain of facts.
import type { Clock } from '../clock.ts'
import type { Lease } from '../leases/lease.ts'
import type { LeaseTable } from '../leases/leases.ts'
import { checkPattern } from '../match/pattern.ts'
import { addressFromText, addressToText, familyOf, type Address } from '../net/address.ts'
import { icmpProtocol, Protocol, type L4 } from '../net/ports.ts'
import type { Flow } from '../observe/flow.ts'
import type { Observer } from '../observe/observer.ts'
import {
  explainWhy,
  l4Text,
  somewhere,
  withKernel,
  withTries,
  type ResolverTry,
  type WhyQuestion,
  type WhyReport,
} from '../observe/why.ts'
import type { Ring } from '../observe/ring.ts'
import type { Snapshot } from '../policy/snapshot.ts'
import { makeDecider, type Decision, type Party } from '../policy/verdict.ts'
import type { Endpoint } from '../identity/endpoints.ts'
import type { KernelHolds } from '../agent.ts'

export interface WhyView {
  readonly clock: Clock
  readonly snapshot: () => Snapshot
  readonly leases: Pick<LeaseTable, 'leasesAt' | 'leasesAs'>
  readonly observer: Pick<Observer, 'ring'>
  readonly kernelHolds: KernelHolds
  readonly expandedFrom: (name: string) => readonly (readonly string[])[]
  /** Attempts within the last hour at resolvers that would not be seen. */
  readonly resolverTries: () => Promise<readonly ResolverTry[]>
}

/** The report as JSON: what was asked, then what `WhyReport` has. */
export interface WhyAnswer extends Omit<WhyReport, 'relies'> {
  readonly from: string
  readonly to: string
}

export type WhyReading =
  | { readonly ok: true; readonly question: WhyQuestion; readonly from: string; readonly to: string }
  | { readonly ok: false; readonly error: string }

const portDefault = 443
const protocols: Readonly<Record<string, number>> = { tcp: Protocol.TCP, udp: Protocol.UDP, sctp: Protocol.SCTP }
/** Types of echo requests. */
const echo = { 4: 8, 6: 128 } as const

/**
 * Reads the parameters. `from`: NAMESPACE/POD, POD (where only one has that name), or addresses with commas between, of which the first that a
 * workload has counts. `to`: NAME, IP, [IPv6] or NAMESPACE/POD, with `:PORT` (else 443). `protocol`: tcp, udp, sctp or icmp.
 */
export function readWhyQuery(query: Readonly<Record<string, string>>, snapshot: Snapshot): WhyReading {
  const wrong = (error: string): WhyReading => ({ ok: false, error })
  const { from, to, protocol = 'tcp' } = query
  if (from === undefined || to === undefined) return wrong('from and to are required')
  const source = readSource(from, snapshot)
  if (typeof source === 'string') return wrong(source)
  if (protocol !== 'icmp' && protocols[protocol] === undefined) return wrong(`protocol: "${protocol}" is none of tcp, udp, sctp, icmp`) // prettier-ignore
  const target = readTarget(to, snapshot)
  if (typeof target === 'string') return wrong(target)
  const { party, port } = target
  if (protocol === 'icmp' && port !== undefined) return wrong('to: ICMP has no ports')
  const family = party.kind === 'address' ? familyOf(party.address) : party.kind === 'endpoint' && party.endpoint.addresses[0] !== undefined ? familyOf(party.endpoint.addresses[0]) : 4 // prettier-ignore
  const l4: L4 = protocol === 'icmp' ? { protocol: icmpProtocol[family], icmpType: echo[family] } : { protocol: protocols[protocol] ?? 0, port: port ?? portDefault } // prettier-ignore
  const bare = port === undefined ? to : to.slice(0, to.lastIndexOf(':'))
  return { ok: true, question: { from: source, to: party, ...l4 }, from: partyText(source, from), to: `${bare} ${l4Text(l4)}` } // prettier-ignore
}

function partyText(party: Party, text: string): string {
  if (party.kind === 'endpoint') return `${party.endpoint.namespace}/${party.endpoint.name}`
  return party.kind === 'address' ? addressToText(party.address) : text
}

/** A string says what is wrong. */
function readSource(text: string, snapshot: Snapshot): Party | string {
  const addresses = text.split(',').map(addressFromText)
  const [first] = addresses
  if (first !== undefined) {
    if (addresses.some((address) => address === undefined)) return `from: "${text}" has something that is no address`
    return { kind: 'address', address: addresses.find((address) => address !== undefined && snapshot.endpointOf(address) !== undefined) ?? first } // prettier-ignore
  }
  const found = findPod(text, snapshot)
  return typeof found === 'string' ? `from: ${found}` : { kind: 'endpoint', endpoint: found }
}

function findPod(text: string, { endpoints }: Snapshot): Endpoint | string {
  const found = endpoints.filter(({ namespace, name }) => `${namespace}/${name}` === text || name === text)
  if (found[0] === undefined) return `there is no workload ${text}`
  return found.length === 1 ? found[0] : `${text} is ${found.length} workloads: ${found.slice(0, 4).map(({ namespace, name }) => `${namespace}/${name}`).join(', ')}` // prettier-ignore
}

interface Target {
  readonly party: WhyQuestion['to']
  readonly port: number | undefined
}

function readTarget(text: string, snapshot: Snapshot): Target | string {
  const whole = addressFromText(text)
  if (whole !== undefined) return { party: { kind: 'address', address: whole }, port: undefined }
  const colon = text.lastIndexOf(':')
  const hasPort = colon >= 0 && !text.endsWith(']')
  const port = hasPort ? readPort(text.slice(colon + 1)) : undefined
  if (hasPort && port === undefined) return `to: "${text.slice(colon + 1)}" is not a port`
  const host = hasPort ? text.slice(0, colon) : text
  const address = addressFromText(host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host)
  if (address !== undefined) return { party: { kind: 'address', address }, port }
  if (host.includes('/')) {
    const found = findPod(host, snapshot)
    return typeof found === 'string' ? `to: ${found}` : { party: { kind: 'endpoint', endpoint: found }, port }
  }
  const bare = (host.endsWith('.') ? host.slice(0, -1) : host).toLowerCase()
  if (checkPattern(bare, 'matchName') !== undefined) return `to: "${host}" is no name, address or NAMESPACE/POD`
  return { party: { kind: 'name', name: bare }, port }
}

function readPort(text: string): number | undefined {
  const port = text !== '' && text.length < 6 && [...text].every((c) => c >= '0' && c <= '9') ? Number(text) : 0
  return port >= 1 && port <= 65535 ? port : undefined
}

/** Answers with the kernel's word on it. Rejects when the kernel cannot be asked. */
export async function answerWhy(view: WhyView, { question, from, to }: WhyReading & { ok: true }): Promise<WhyAnswer> {
  const { leasesAt, leasesAs } = view.leases
  const facts = { snapshot: view.snapshot(), leasesAt, leasesAs, expandedFrom: view.expandedFrom, flows: () => newestFirst(view.observer.ring), now: view.clock() } // prettier-ignore
  const report = explainWhy(facts, question)
  const held = report.relies === undefined ? undefined : await view.kernelHolds(report.relies.identity, report.relies.address, question) // prettier-ignore
  const tries = report.verdict === 'allowed' ? [] : await view.resolverTries()
  const { verdict, missing, direction, text, by, chain, rule, advice } = withTries(withKernel(report, held), tries, addressesOf(question.from, facts.snapshot)) // prettier-ignore
  return { from, to, verdict, missing, direction, text, by, chain, rule, advice }
}

function addressesOf(from: Party, snapshot: Snapshot): readonly Address[] {
  const endpoint = from.kind === 'endpoint' ? from.endpoint : from.kind === 'address' ? snapshot.endpointOf(from.address) : undefined // prettier-ignore
  return endpoint?.addresses ?? (from.kind === 'address' ? [from.address] : [])
}

/** The verdict alone, both directions, by the names that are leased now; a name without a lease is judged as leading to some address outside. */
export function answerVerdict({ snapshot, leases }: WhyView, { question }: WhyReading & { ok: true }): Decision {
  const { from, to, ...l4 } = question
  const now = snapshot()
  const source = from.kind === 'endpoint' ? from.endpoint.identity : from.kind === 'address' ? now.identityOf(from.address) : from.identity // prettier-ignore
  const judge = makeDecider(now)
  const isMine = ({ identity }: Lease): boolean => identity === source
  if (to.kind !== 'name') {
    const names =
      to.kind === 'address'
        ? leases
            .leasesAt(to.address)
            .filter(isMine)
            .map(({ name }) => name)
        : []
    return judge({ ...l4, from, to, names })
  }
  const addresses = leases
    .leasesAs(to.name)
    .filter(isMine)
    .map(({ address }) => address)
  const all = (addresses.length === 0 ? [somewhere] : addresses).map((address) => judge({ ...l4, from, to: { kind: 'address', address }, names: [to.name] })) // prettier-ignore
  return all.find(({ verdict }) => verdict !== 'allowed') ?? (all[0] as Decision)
}

function* newestFirst(ring: Ring): Iterable<Flow> {
  for (let at = ring.end() - 1; at >= ring.oldest(); at--) {
    const entry = ring.at(at)
    if (entry !== undefined && entry.kind !== 'lost') yield entry
  }
}
