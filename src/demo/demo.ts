// `npm start`: the main job on an embedded default. Two workloads look names up and connect; a table says what happened and why; then it
// stays up with the API.
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { startAgent, type Agent } from '../agent.ts'
import { serveApi, type ServedApi } from '../api/serve.ts'
import { firstSignal } from '../cli/agent.ts'
import { table } from '../cli/output.ts'
import { defaultSettings } from '../config.ts'
import { makeLog } from '../log.ts'
import { addressFromText } from '../net/address.ts'
import type { Outcome } from '../proxy/handle.ts'
import { mayChangeNetworks, whatIsMissing } from '../run/needs.ts'
import { enforcedPlaces, judge, judgedPlaces, type Places, type WorkloadName } from './places.ts'
import { startEmbeddedUpstream, type EmbeddedUpstream } from './upstream.ts'

export interface DemoOptions {
  /** End after the table. */
  readonly once: boolean
  readonly verdictsOnly: boolean
}

type Step =
  | { readonly who: WorkloadName; readonly lookup: string; readonly server?: string }
  | { readonly who: WorkloadName; readonly connect: string; readonly port: number }

/** The story. The resolver that is addressed does not matter: every port 53 leads to the proxy. */
const story: readonly Step[] = [
  { who: 'shop', connect: '198.18.0.20', port: 443 },
  { who: 'shop', lookup: 'api.example.com' },
  { who: 'shop', connect: '198.18.0.20', port: 443 },
  { who: 'shop', connect: '198.18.0.20', port: 80 },
  { who: 'batch', connect: '198.18.0.20', port: 443 },
  { who: 'batch', lookup: 'api.example.com' },
  { who: 'batch', lookup: 'pay.example.com' },
  { who: 'batch', connect: '198.18.0.21', port: 443 },
  { who: 'shop', lookup: 'www.example.com' },
  { who: 'shop', connect: '198.18.1.7', port: 443 },
  { who: 'shop', lookup: 'tracker.example.net', server: '8.8.8.8' },
  { who: 'shop', connect: '198.18.1.66', port: 443 },
  { who: 'batch', connect: '10.244.1.2', port: 8080 },
  { who: 'shop', connect: '10.244.2.2', port: 8080 },
]

/** Ports tried for the embedded upstream and the API, from here on. */
const portTries = 20

/** Runs the demo; resolves with the exit status. */
export async function demoCommand({ once, verdictsOnly }: DemoOptions): Promise<number> {
  const ending = Promise.race([firstSignal(), readerGone()])
  let why = verdictsOnly ? 'as you asked' : whyNotEnforced()
  const standing =
    why === undefined
      ? await enforcedPlaces().catch((error: Error) => {
          why = error.message
          return undefined
        })
      : undefined
  const places = standing ?? judgedPlaces()
  if (why !== undefined) console.log(`Verdicts only (${why}): names are asked for real, connections are judged but not made.\n`)
  const closers: (() => Promise<unknown>)[] = [places.close]
  try {
    const { upstream, port } = await startUpstreamSomewhere()
    closers.push(upstream.close)
    const outcomes: Outcome[] = []
    const defaults = defaultSettings()
    const address = addressFromText('127.0.0.1')
    const agent = await startAgent({
      ...places.agent,
      settings: { ...defaults, datapath: { ...defaults.datapath, denied: 'reject', interfaces: places.interfaces } },
      log: makeLog('error'),
      manifests: { kind: 'texts', files: [{ path: 'src/demo/world.yaml', text: places.manifest(await readFile(new URL('world.yaml', import.meta.url), 'utf8')) }] },
      upstreams: address === undefined ? [] : [{ address, port }],
      hostAddresses: ['10.244.1.1', '10.244.2.1', '10.244.9.1'].flatMap((text) => addressFromText(text) ?? []),
      onOutcome: (outcome) => outcomes.push(outcome),
    })
    closers.push(agent.close)
    const rows: string[][] = []
    for (const step of story) rows.push(await tell(step, places, agent, outcomes))
    console.log(table(['WHO', 'WHAT', 'RESULT', 'LEASE', 'WHY'], rows))
    if (once) return 0
    const api = await serveSomewhere(agent)
    closers.push(api.close)
    console.log([`The agent stays up, with its API at ${api.urls.join(' and ')}. Try, in another terminal:`, `  export NAMEGATE_API=${api.urls.at(-1)}`, '  bin/namegate fqdn cache list', '  bin/namegate endpoint list', ...places.hints.map((hint) => `  ${hint}`), 'Ctrl-C ends it and leaves nothing behind.'].join('\n'))
    await ending
    return 0
  } finally {
    for (const close of closers.reverse()) await close()
  }
} // prettier-ignore

/** Why this machine lets us judge only; undefined when it lets us enforce. */
function whyNotEnforced(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root: no network namespaces, no nftables'
  if (!mayChangeNetworks())
    return 'root, but without the capabilities CAP_SYS_ADMIN and CAP_NET_ADMIN: no network namespaces, no nftables'
  return whatIsMissing()
}

/** `npm start | head`: whoever stops reading has seen enough. Other errors of stdout end it as well: it is there to be read. */
function readerGone(): Promise<void> {
  return new Promise((resolve) => void process.stdout.on('error', () => resolve()))
}

async function startUpstreamSomewhere(): Promise<{ upstream: EmbeddedUpstream; port: number }> {
  const zones = fileURLToPath(new URL('../../zones', import.meta.url))
  for (let port = 5300; ; port++)
    try {
      return { upstream: await startEmbeddedUpstream(zones, '127.0.0.1', port), port }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || port >= 5300 + portTries) throw error
    }
}

/** On loopback only: a socket would need a folder that a killed demo leaves behind. */
async function serveSomewhere(agent: Agent): Promise<ServedApi> {
  for (let port = 9653; ; port++)
    try {
      return await serveApi(agent, { socket: undefined, address: '127.0.0.1', port })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || port >= 9653 + portTries) throw error
    }
}

/** Does one step and says what came of it. */
async function tell(step: Step, places: Places, agent: Agent, outcomes: Outcome[]): Promise<string[]> {
  if ('lookup' in step) {
    outcomes.length = 0
    const { rcode, addresses, ttlSeconds } = await places.lookUp(
      agent,
      step.who,
      step.lookup,
      step.server ?? '10.96.0.10',
    )
    const outcome = outcomes.at(-1)
    const answer = addresses.length > 0 ? addresses.join(' ') : rcode
    const leased = outcome?.kind === 'answered' && outcome.leased
    const lease = leased
      ? `${ttlSeconds}s, ${places.enforced ? `${outcome.committed} acknowledged by the kernel` : 'no kernel'}`
      : ''
    return [
      step.who,
      `lookup ${step.lookup}${step.server === undefined ? '' : ` @${step.server}`}`,
      answer,
      lease,
      outcome?.why.text ?? 'no answer',
    ]
  }
  const address = places.addressOf(step.connect)
  const result = await places.connect(agent, step.who, address, step.port)
  const { why } = judge(agent, step.who, address, step.port)
  return [
    step.who,
    `connect ${step.connect} tcp/${step.port}`,
    result === 'ECONNREFUSED' ? 'denied' : result,
    '',
    why.text,
  ]
}
