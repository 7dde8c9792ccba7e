// Loading again and again: what is the same stays the same, and what is read on another thread says what it says here.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { issueToText } from '../../../src/policy/field.ts'
import type { Pod } from '../../../src/policy/rules.ts'
import { makeLoader } from '../../../src/sources/loader.ts'
import { loadWorld, type ManifestFile } from '../../../src/sources/manifests.ts'

test('what stands in a file that did not change is the same object the next time', async () => {
  const load = makeLoader()
  const pod = (name: string, label: string): ManifestFile => ({ path: `${name}.yaml`, text: `apiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, labels: {l: ${label}}}` }) // prettier-ignore
  const podsOf = async (files: readonly ManifestFile[]): Promise<readonly Pod[]> => {
    const loaded = await load(files)
    return loaded.ok ? loaded.world.pods : []
  }
  const first = await podsOf([pod('a', 'x'), pod('b', 'x')])
  const second = await podsOf([pod('b', 'y'), pod('a', 'x')])
  expect(second.map(({ name, labels }) => `${name} ${labels.get('l')}`)).toEqual(['b y', 'a x'])
  expect(second[1]).toBe(first[0])
  expect((await podsOf([pod('b', 'y'), pod('a', 'z')]))[0]).toBe(second[0])
  expect(await podsOf([])).toEqual([])
})

test('what is wrong in a file is said each time, and who is there twice is found across files', async () => {
  const load = makeLoader()
  const file = (path: string, text: string): ManifestFile => ({ path, text })
  const issues = async (...files: readonly ManifestFile[]): Promise<readonly string[]> => {
    const loaded = await load(files)
    return (loaded.ok ? loaded.warnings : loaded.issues).map(issueToText)
  }
  const pod = 'apiVersion: v1\nkind: Pod\nmetadata: {name: a}'
  const [a, b, noise] = [file('a', pod), file('b', pod), file('n', 'apiVersion: v1\nkind: Secret')]
  for (let i = 0; i < 2; i++)
    expect(await issues(a, noise, b)).toEqual(['n:1:1: note: v1 Secret is not read here', 'b:1:1: Pod default/a is there twice; the other is at a:1']) // prettier-ignore
  expect(await issues(b, noise)).toEqual(['n:1:1: note: v1 Secret is not read here'])
})

const pods = (count: number, label = 'x'): string => Array.from({ length: count }, (_, i) => `---\napiVersion: v1\nkind: Pod\nmetadata: {name: p${i}, labels: {l: ${label}}}\nstatus: {podIP: 10.0.${i >> 8}.${i & 255}}\n`).join('') // prettier-ignore
/** As long as needs another thread. */
const long = (path: string, text: string): ManifestFile => ({ path, text: text + `# ${'.'.repeat(50_000)}\n` })

interface Case {
  readonly policies: readonly { readonly kind: string; readonly namespace?: string; readonly spec: readonly string[] }[]
}
const apiVersions: Readonly<Record<string, string>> = { NetworkPolicy: 'networking.k8s.io/v1', ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2', AdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1', BaselineAdminNetworkPolicy: 'policy.networking.k8s.io/v1alpha1' } // prettier-ignore
const textOf = ({ policies }: Case, i: number): string => policies.map(({ kind, namespace = 'a', spec }, j) => `---\napiVersion: ${apiVersions[kind] ?? 'cilium.io/v2'}\nkind: ${kind}\nmetadata: {name: p${i}-${j}, namespace: ${namespace}}\nspec:\n  ${spec.join('\n  ')}\n`).join('') // prettier-ignore

test('every policy of the vectors: read on another thread it is the same, or has the same issues', async () => {
  const { world, cases } = JSON.parse(readFileSync('test/vectors/cnp-cases.json', 'utf8')) as { world: string[]; cases: Case[] } // prettier-ignore
  const file = (path: string, some: readonly Case[]): ManifestFile => long(path, some.map(textOf).join(''))
  const good = [file('good.yaml', cases.filter((one, i) => loadWorld([{ path: 'one', text: textOf(one, i) }]).ok)), { path: 'world.yaml', text: world.join('\n') }, long('pods.yaml', pods(450))] // prettier-ignore
  const bad = [...good, file('bad.yaml', cases), { path: 'broken.yaml', text: 'kind: [' }]
  for (const files of [good, bad]) expect(await makeLoader()(files)).toStrictEqual(loadWorld(files))
  expect([loadWorld(good).ok, loadWorld(bad).ok]).toEqual([true, false])
})

test('a list of many objects comes in parts, all of them in order', async () => {
  const items = Array.from({ length: 1234 }, (_, i) => ({ apiVersion: 'v1', kind: 'Pod', metadata: { name: `p${i}` } }))
  const loaded = await makeLoader()([{ path: 'l.json', text: JSON.stringify({ apiVersion: 'v1', kind: 'List', items }) }]) // prettier-ignore
  expect(loaded.ok && loaded.world.pods.map(({ name }) => name)).toEqual(items.map(({ metadata }) => metadata.name))
})

test('what did not change is the same object, wherever it was read', async () => {
  const load = makeLoader()
  const first = await load([
    long('a', pods(300)),
    { path: 'b', text: 'apiVersion: v1\nkind: Pod\nmetadata: {name: b}' },
  ])
  const second = await load([long('a', pods(300)), { path: 'b', text: 'apiVersion: v1\nkind: Pod\nmetadata: {name: c}' }]) // prettier-ignore
  if (!first.ok || !second.ok) expect.fail()
  expect(second.world.pods.slice(0, 300).every((pod, i) => pod === first.world.pods[i])).toBe(true)
  expect(second.world.pods.at(-1)?.name).toBe('c')
})

test('the event loop turns while much is read', async () => {
  let turns = 0
  const load = makeLoader()([{ path: 'a', text: pods(3000) }])
  let isOver = false
  void load.finally(() => (isOver = true))
  for (; !isOver; turns++) await new Promise((resolve) => setImmediate(resolve))
  expect((await load).ok).toBe(true)
  expect(turns).toBeGreaterThan(30)
})

test('a load that is ended rejects, and so does each after it; its thread is gone', async () => {
  const ending = new AbortController()
  const load = makeLoader({}, ending.signal)
  const under = load([{ path: 'a', text: pods(3000) }])
  ending.abort()
  await expect(under).rejects.toThrow('ended')
  await expect(load([{ path: 'a', text: pods(3000) }])).rejects.toThrow('aborted')
})
