// Bad manifests: every issue at once, each with its place. Good ones: what is read from them.
import { mkdtemp, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { issueToText } from '../../../src/policy/field.ts'
import { readManifests, watchManifests } from '../../../src/sources/folder.ts'
import { loadWorld, type ManifestFile } from '../../../src/sources/manifests.ts'

const issuesOf = (text: string): string[] => {
  const loaded = loadWorld([{ path: 'p.yaml', text }])
  return (loaded.ok ? loaded.warnings : loaded.issues).map(issueToText)
}
const cnp = (spec: string): string =>
  `apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspec:\n${spec}`

const rows: { title: string; text: string; issues: string[] }[] = [
  { title: 'an empty file', text: '', issues: [] },
  { title: 'not a mapping', text: '- 1', issues: ['p.yaml:1:1: must be a mapping, not a list'] },
  { title: 'no kind', text: 'a: 1', issues: ['p.yaml:1:1: apiVersion and kind are required'] },
  { title: 'broken YAML', text: 'kind: [', issues: ['p.yaml:1:8: Flow sequence in block collection must be sufficiently indented and end with a ]'] },
  { title: 'a key twice', text: 'kind: a\nkind: b', issues: ['p.yaml:2:1: kind: Map keys must be unique; "kind" is on line 1 too', 'p.yaml:1:1: apiVersion and kind are required'] },
  { title: 'another kind', text: 'apiVersion: v1\nkind: ConfigMap', issues: ['p.yaml:1:1: note: v1 ConfigMap is not read here'] },
  { title: 'a kind misspelt', text: 'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolcy', issues: ['p.yaml:1:1: warning: cilium.io/v2 CiliumNetworkPolcy is not read here; did you mean CiliumNetworkPolicy?'] },
  { title: 'no name', text: 'apiVersion: v1\nkind: Pod\nmetadata: {}', issues: ['p.yaml:3:1: metadata: metadata.name: must have name'] },
  { title: 'no spec', text: 'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}', issues: ['p.yaml:1:1: spec or specs must be provided'] },
  { title: 'the same twice', text: 'apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}', issues: ['p.yaml:5:1: Pod default/a is there twice; the other is at p.yaml:1'] },
  { title: 'nothing in a spec', text: cnp('  endpointSelector: {}'), issues: ['p.yaml:4:1: spec: rule must have at least one of Ingress, IngressDeny, Egress, EgressDeny'] },
  { title: 'an alias without its anchor', text: cnp('  endpointSelector: {}\n  egress: [{toCIDR: *typo, toPorts: [{ports: [{port: "443", protocol: TCP}]}]}]'), issues: ['p.yaml:6:21: spec.egress[0].toCIDR: there is no anchor "typo" before this alias'] },
  { title: 'a port without quotes', text: cnp('  endpointSelector: {}\n  egress: [{toPorts: [{ports: [{port: 443}]}]}]'), issues: ['p.yaml:6:33: spec.egress[0].toPorts[0].ports[0].port: must be a string (in quotes: "443"), not a number'] },
  { title: 'aliases that multiply', text: `a: &a [1,1,1,1,1,1,1,1,1]\n${'bcdefgh'.split('').map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefg'[i]}`).join()}]`).join('\n')}`, issues: ['aliases stand for more than 100000 nodes'] },
] // prettier-ignore

for (const { title, text, issues } of rows)
  test(title, () => {
    const found = issuesOf(text)
    if (title === 'aliases that multiply') expect(found[0]).toContain(issues[0])
    else expect(found).toEqual(issues)
  })

test('one error anywhere, and there is no world', () => {
  const good = { path: 'good.yaml', text: 'apiVersion: v1\nkind: Pod\nmetadata: {name: a}' }
  expect(loadWorld([good]).ok).toBe(true)
  expect(loadWorld([good, { path: 'bad.yaml', text: 'kind: [' }]).ok).toBe(false)
})

test('pods, namespaces and lists', () => {
  const loaded = loadWorld([
    {
      path: 'l.json',
      text: JSON.stringify({
        apiVersion: 'v1',
        kind: 'List',
        items: [
          { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop', labels: { team: 'a' } } },
          { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' } }, spec: { serviceAccountName: 'sa', containers: [] }, status: { phase: 'Running', podIP: '10.0.0.1', podIPs: [{ ip: '10.0.0.1' }, { ip: 'fd00::1' }] } },
        ],
      }),
    },
  ]) // prettier-ignore
  expect(loaded).toMatchObject({
    ok: true,
    warnings: [],
    world: { pods: [{ namespace: 'shop', name: 'web', serviceAccount: 'sa', addresses: ['10.0.0.1', 'fd00::1'] }] },
  })
  expect(loaded.ok && loaded.world.namespaces.get('shop')).toEqual(new Map([['team', 'a']]))
})

test('a file that kept its size and its time is read again', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'namegate-'))
  const path = join(folder, 'a.yaml')
  // As if the folder had been still for an hour: files that are not fresh are known by their inode.
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3_600_000 })
  let heard: (files: readonly ManifestFile[]) => void = () => undefined
  const next = (): Promise<readonly ManifestFile[]> => new Promise((resolve) => (heard = resolve))
  const watching = watchManifests(folder, [], (files) => heard(files), () => undefined) // prettier-ignore
  try {
    let change = next()
    await writeFile(path, 'one')
    expect(await change).toEqual([{ path, text: 'one' }])
    const { atime, mtime } = await stat(path)
    change = next()
    await writeFile(path, 'two')
    await utimes(path, atime, mtime)
    expect(await change).toEqual([{ path, text: 'two' }])
  } finally {
    watching.close()
    vi.useRealTimers()
    await rm(folder, { recursive: true })
  }
})

test('a folder is watched: written, replaced by rename, broken off', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'namegate-'))
  await writeFile(join(folder, 'b.yaml'), 'b')
  await writeFile(join(folder, '.hidden.yaml'), 'x')
  await writeFile(join(folder, 'notes.txt'), 'x')
  const initial = await readManifests(folder)
  expect(initial.map((f) => f.text)).toEqual(['b'])
  let heard: (files: readonly ManifestFile[] | Error) => void = () => undefined
  const next = (): Promise<readonly ManifestFile[] | Error> => new Promise((resolve) => (heard = resolve))
  const watching = watchManifests(folder, initial, (files) => heard(files), (error) => heard(error)) // prettier-ignore
  let change = next()
  await writeFile(join(folder, 'a.yml'), 'a')
  expect(await change).toMatchObject([{ text: 'a' }, { text: 'b' }])
  change = next()
  await writeFile(join(folder, '.b.tmp'), 'b2')
  await rename(join(folder, '.b.tmp'), join(folder, 'b.yaml'))
  expect(await change).toMatchObject([{ text: 'a' }, { text: 'b2' }])
  change = next()
  await rm(folder, { recursive: true })
  expect(await change).toSatisfy((last: unknown) => last instanceof Error || Array.isArray(last))
  watching.close()
})
