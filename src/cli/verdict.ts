// `namegate policy verdict`: flows in, one line each, verdicts out in the same order; or one flow by flags, for people.
import { open } from 'node:fs/promises'
import { addressFromText, type Address } from '../net/address.ts'
import { issueToText, type Issue } from '../policy/field.ts'
import { makeStepwiseCompiler } from '../policy/compile.ts'
import { explain } from '../policy/explain.ts'
import type { World } from '../policy/rules.ts'
import type { Snapshot, Why } from '../policy/snapshot.ts'
import type { ManifestFile } from '../sources/manifests.ts'
import { makeFlowReader, noteOfQuestion, type Answer, type DirectionAnswer } from './flow.ts'
import { loadFiles, readPaths, type Reading } from './manifests.ts'
import { render, table, type Format } from './output.ts'
import { print } from './print.ts'
import { silent, withProgress, type Progress } from './progress.ts'

/** Beyond Cilium's defaults: what a cluster is set to. */
export interface Enforcing {
  readonly enforcement?: 'default' | 'always' | 'never'
  readonly allowLocalhost?: boolean
  readonly audit?: boolean
  readonly hostPolicies?: boolean
}

/** The manifests are wrong: what is wrong, a line each. */
export class ManifestsError extends Error {
  readonly code = 'manifests'
}

/** What the manifests mean, or an error with every issue. */
export async function readWorld(
  paths: readonly string[],
  options: Reading & Enforcing,
): Promise<{ world: World; snapshot: Snapshot; warnings: readonly Issue[] }> {
  const read = await withProgress(async (tell) => compileFiles(await readPaths(paths, options), options, tell))
  for (const note of read.snapshot.notes) process.stderr.write(`note: ${note}\n`)
  return read
}

function compileFiles(files: readonly ManifestFile[], options: Reading & Enforcing, tell: Progress['tell']): { world: World; snapshot: Snapshot; warnings: readonly Issue[] } {
  const loaded = loadFiles(files, options, tell)
  if (!loaded.ok)
    throw new ManifestsError(
      [
        'the manifests are not valid',
        ...loaded.issues.filter(({ severity }) => severity === 'error').map(issueToText),
      ].join('\n'),
    )
  const { world } = loaded
  const warnings = loaded.warnings.filter(({ severity }) => severity === 'warning')
  const {
    semantics,
    clusterName,
    localNode,
    enforcement = 'default',
    allowLocalhost = true,
    audit = false,
    hostPolicies = false,
  } = options
  if (localNode !== undefined && !world.nodes.some(({ name }) => name === localNode))
    throw new Error(`--local-node: there is no Node ${localNode}`)
  const compile = makeStepwiseCompiler({
    hostAddresses: [],
    upstreams: dnsAddresses(world),
    denyReply: 'refused',
    semantics,
    clusterName,
    localNode,
    enforcement,
    allowLocalhost,
    audit,
    hostPolicies,
  })
  const steps = compile(world)
  for (let done = 0; ; done++) {
    const step = steps.next()
    if (step.done === true) return { world, snapshot: step.value, warnings }
    tell({ what: 'compiling, step', done })
  }
} // prettier-ignore

/** Where names are asked: what a rule for port 53 has to reach for every name to be askable. */
function dnsAddresses({ services }: World): Address[] {
  return services
    .filter(({ name, namespace }) => namespace === 'kube-system' && name === 'kube-dns')
    .flatMap(({ clusterIPs }) => clusterIPs.flatMap((text) => addressFromText(text) ?? []))
}

/** A flow longer than this is none. */
const lineCharactersMax = 1_000_000

/** Answers every line of a file or standard input (`-`). Stops when nobody reads any more. Resolves with the exit status. */
export async function answerFlows(source: string, answer: (value: unknown) => Answer): Promise<number> {
  const asJson = makeJson()
  // Answers on a terminal are progress themselves.
  return process.stdout.isTTY ? answerAll(silent.tell) : withProgress(answerAll)
  async function answerAll(tell: Progress['tell']): Promise<number> {
    let done = 0
    for await (const lines of linesOf(source)) {
      let out = ''
      for (const line of lines) if (line.trim() !== '') out += `${asJson(answerLine(line, answer))}\n`
      if (!(await print(out))) break
      tell({ what: 'answering flows', done: (done += lines.length) })
    }
    return 0
  }
}

function answerLine(line: string, answer: (value: unknown) => Answer): Answer {
  if (line.length > lineCharactersMax) return { error: `a line has at most ${lineCharactersMax} characters` }
  let value: unknown
  try {
    // A byte order mark and a carriage return count as blanks here.
    value = JSON.parse(line.trim())
  } catch (error) {
    return { error: `not JSON: ${(error as Error).message}` }
  }
  return answer(value)
}

/** Lines as they arrive, many at a time. Of a line that is too long only the beginning is kept. */
async function* linesOf(source: string): AsyncGenerator<readonly string[]> {
  const stream = source === '-' ? process.stdin : (await open(source)).createReadStream()
  stream.setEncoding('utf8')
  let rest = ''
  for await (const part of stream) {
    const lines = (rest + String(part)).split('\n')
    rest = (lines.pop() ?? '').slice(0, lineCharactersMax + 1)
    if (lines.length > 0) yield lines
  }
  if (rest !== '') yield [rest]
}

/** Answers as JSON. The engine gives the same object for the same ruling: its text is made once. */
function makeJson(): (answer: Answer) => string {
  const texts = new WeakMap<DirectionAnswer, string>()
  const textOf = (direction: DirectionAnswer): string => {
    let text = texts.get(direction)
    if (text === undefined) texts.set(direction, (text = JSON.stringify(direction)))
    return text
  }
  return (answer) =>
    'error' in answer
      ? JSON.stringify(answer)
      : `{"verdict":"${answer.verdict}","egress":${textOf(answer.egress)},"ingress":${textOf(answer.ingress)}}`
}

/** Prints the answer to one flow; a flow that cannot be answered rejects. */
export async function answerOne(flow: unknown, answer: (value: unknown) => Answer, output: Format): Promise<number> {
  const found = answer(flow)
  if ('error' in found) throw new Error(found.error)
  const rows = (['egress', 'ingress'] as const).flatMap((direction) =>
    found[direction].why.map((why, i) => [
      i === 0 ? direction : '',
      i === 0 ? found[direction].verdict : '',
      whyToText(why),
    ]),
  )
  // A program reads one flow as it reads many: a line.
  await print(
    output === 'json'
      ? `${JSON.stringify(found)}\n`
      : render(output, found, () => `${table(['Direction', 'Verdict', 'Why'], rows)}Verdict: ${found.verdict}\n`),
  )
  return 0
}

/** `allowed by rule (shop/web spec.egress[0], a.yaml:12)`. */
export function whyToText({ text, policy, rule, source }: Why): string {
  const place = [[policy, rule].filter((part) => part !== undefined).join(' '), source ?? '']
    .filter((part) => part !== '')
    .join(', ')
  return place === '' ? text : `${text} (${place})`
}

/** Prints every step to the verdict on one flow; a flow that cannot be answered rejects. */
export async function explainCommand(
  value: unknown,
  world: World,
  snapshot: Snapshot,
  output: Format,
): Promise<number> {
  const { flows, notes } = makeFlowReader(world, snapshot)(value)
  const explanations = flows.map((flow) => explain(snapshot, flow, world.policies))
  const remarks = [...notes, ...explanations.flatMap(({ decision }) => noteOfQuestion(snapshot, flows[0], decision))]
  const views = explanations.map(({ decision: { verdict }, egress, ingress }) => ({
    verdict: verdict === 'denied' ? 'denied' : 'allowed',
    egress,
    ingress,
    ...(remarks.length === 0 ? {} : { notes: remarks }),
  }))
  const text =
    explanations.map((each) => `${each.text.join('\n')}\n`).join('\n') +
    remarks.map((note) => `note: ${whyToText(note)}\n`).join('')
  await print(render(output, views.length === 1 ? views[0] : views, () => text))
  return 0
}
