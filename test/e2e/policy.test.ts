// The policy commands as people and CI run them: processes, exit statuses, standard input, pipes that close. No agent, no kernel, no root.
import { execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

interface Ended {
  readonly status: number
  readonly out: string
  readonly err: string
}
let folder: string

function run(file: string, args: readonly string[], input = ''): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(file, args, { maxBuffer: 1 << 27, env: { ...process.env, NG: folder } }, (error, out, err) =>
      resolve({ status: error === null ? 0 : Number(error.code), out, err }),
    )
    // What reads no more is seen by its status.
    child.stdin?.on('error', () => undefined)
    child.stdin?.end(input)
  })
}
const policy = (...args: string[]): Promise<Ended> => run('bin/namegate', ['policy', ...args])

const pods = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.1.0.2}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, clusterIP: 10.96.0.5, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
`
const good = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  endpointSelector:
    matchLabels:
      app: db
  ingress:
  - fromEndpoints:
    - matchLabels:
        app: web
    toPorts:
    - ports:
      - port: "5432"
        protocol: TCP
`
const careless = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  endpointSelector:
    matchLabels:
      app: web
  ingress:
  - toPorts:
    - ports:
      - port: "80"
        protocol: TCP
  egressDeny:
  - toCIDR:
    - 203.0.113.0/24
`
const wrong = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {}
  ingress:
  - fromEntities: [wrold]
    toPort: []
  - toPorts: [{ports: [{port: 80}]}]
`

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'namegate-policy-'))
  for (const name of ['good', 'careless', 'wrong', 'empty', 'deep/below']) await mkdir(join(folder, name), { recursive: true }) // prettier-ignore
  await writeFile(join(folder, 'good/pods.yaml'), pods)
  await writeFile(join(folder, 'good/policy.yaml'), good)
  await writeFile(join(folder, 'careless/pods.yaml'), pods)
  await writeFile(join(folder, 'careless/policy.yaml'), careless)
  await writeFile(join(folder, 'wrong/policy.yaml'), wrong)
  await writeFile(join(folder, 'deep/below/policy.yaml'), good)
})
afterAll(() => rm(folder, { recursive: true }))
const at = (name: string): string => join(folder, name)

describe('validate', () => {
  test('a valid folder, and what is not read', async () => {
    const { status, out, err } = await policy('validate', at('good'))
    expect([status, err]).toEqual([0, ''])
    expect(out).toMatch(/pods\.yaml:\d+:\d+: .*ConfigMap/)
    expect(out).toMatch(/2 files, 1 policy: valid, .*\n$/)
  })
  test('every issue at once, each with its place; status 1', async () => {
    const { status, out } = await policy('validate', at('wrong'))
    expect(status).toBe(1)
    const place = at('wrong/policy.yaml')
    expect(out).toContain(`${place}:7:20: spec.ingress[0].fromEntities[0]: unsupported entity: wrold`)
    expect(out).toContain(`${place}:8:5: spec.ingress[0].toPort: unknown field "toPort"; did you mean "toPorts"?`)
    expect(out).toContain(`${place}:9:25: spec.ingress[1].toPorts[0].ports[0].port: must be a string`)
    expect(out).toMatch(/1 file: 3 errors\n$/)
  })
  test('JSON for programs', async () => {
    const { status, out } = await policy('validate', at('wrong'), '-o', 'json')
    expect(status).toBe(1)
    expect(JSON.parse(out)).toMatchObject({ valid: false, errors: 3, issues: [{ line: 7, severity: 'error' }, { line: 8 }, { line: 9 }] }) // prettier-ignore
  })
  test('standard input', async () => {
    const { status, out } = await run('bin/namegate', ['policy', 'validate', '-'], wrong)
    expect(status).toBe(1)
    expect(out).toContain('<stdin>:7:20: ')
  })
  test('folders below only when asked', async () => {
    expect(await policy('validate', at('deep'))).toEqual({ status: 1, out: '', err: `namegate: no manifests (*.yaml, *.yml, *.json) in ${at('deep')}; -R reads the folders below it too\n` }) // prettier-ignore
    expect(await policy('validate', '-R', at('deep'))).toMatchObject({ status: 0, out: '1 file, 1 policy: valid\n' })
  })
  test('a link that leads nowhere is a policy that is not there', async () => {
    await mkdir(at('linked'))
    await symlink('../good/policy.yaml', at('linked/a.yaml'))
    expect(await policy('validate', at('linked'))).toMatchObject({ status: 0 })
    await symlink('gone.yaml', at('linked/b.yaml'))
    expect(await policy('validate', at('linked'))).toMatchObject({ status: 1, err: `namegate: ${at('linked/b.yaml')} is a link that leads nowhere\n` }) // prettier-ignore
  })
  test('a path that is not there', async () => {
    expect(await policy('validate', at('gone'))).toMatchObject({ status: 1, err: expect.stringMatching(/^namegate: ENOENT/) as string }) // prettier-ignore
  })
})

describe('lint', () => {
  test('findings, and what they do to the exit status', async () => {
    const plain = await policy('lint', at('careless'))
    expect([plain.status, plain.err]).toEqual([0, ''])
    expect(plain.out).toMatch(/policy\.yaml:13:9: warning NG003 service-port: 80 is the port of Service shop\/web/)
    expect(plain.out).toMatch(/policy\.yaml:15:3: warning NG004 default-deny: egressDeny alone/)
    expect((await policy('lint', at('careless'), '--fail-on', 'warning')).status).toBe(1)
    expect((await policy('lint', at('good'), '--fail-on', 'warning')).status).toBe(0)
    expect((await policy('lint', at('wrong'))).status).toBe(1)
    expect((await policy('lint', at('wrong'), '--fail-on', 'never')).status).toBe(0)
  })
  test('only what is severe enough is shown', async () => {
    const { out } = await policy('lint', at('careless'), '--level', 'warning')
    expect(out).not.toContain(' note ')
    expect(out).toMatch(/\n2 warnings\n$/)
  })
  test('the patch, applied, leaves nothing to warn of', async () => {
    await mkdir(at('mended'))
    await writeFile(at('mended/pods.yaml'), pods)
    await writeFile(at('mended/policy.yaml'), careless)
    const script = '"$BIN" policy lint --patch mended | git apply -p0 -'
    const patched = await run('sh', ['-c', `cd "$NG" && BIN="${join(process.cwd(), 'bin/namegate')}"; ${script}`])
    expect(patched).toEqual({ status: 0, out: '', err: '' })
    expect(await readFile(at('mended/policy.yaml'), 'utf8')).toContain('enableDefaultDeny:\n    egress: false')
    expect(await policy('lint', '--level', 'warning', at('mended'))).toMatchObject({
      status: 0,
      out: 'nothing to say\n',
    })
  })
  test('JSON carries code, place and patch', async () => {
    const { out } = await policy('lint', at('careless'), '-o', 'json')
    const findings = JSON.parse(out) as { code: string; line: number; fix?: { patch: string } }[]
    const found = findings.find(({ code }) => code === 'NG003')
    expect(found).toMatchObject({ code: 'NG003', name: 'service-port', severity: 'warning', line: 13, column: 9, policy: 'shop/web' }) // prettier-ignore
    expect(found?.fix?.patch).toContain('-      - port: "80"\n+      - port: "8080"\n')
  })
  test('SARIF for code hosts', async () => {
    const { out } = await policy('lint', at('careless'), '-o', 'sarif')
    const { version, runs } = JSON.parse(out) as { version: string; runs: [{ results: unknown[] }] }
    expect(version).toBe('2.1.0')
    expect(runs[0].results).toContainEqual(expect.objectContaining({ ruleId: 'NG003', level: 'warning' }))
    // Places are URIs: a blank in a path is none.
    await mkdir(at('with blank'))
    await writeFile(at('with blank/a.yaml'), careless)
    expect((await policy('lint', at('with blank'), '-o', 'sarif')).out).toContain('/with%20blank/a.yaml"')
  })
  test('the codes', async () => {
    const { status, out } = await policy('lint', '--codes')
    expect(status).toBe(0)
    expect(out).toMatch(/^Code +Name +What it is about\nNG000 /)
    expect(out.trimEnd().split('\n')).toHaveLength(26)
  })
  test('an annotation leaves a code out', async () => {
    await mkdir(at('ignoring'))
    await writeFile(at('ignoring/policy.yaml'), careless.replace('namespace: shop', 'namespace: shop\n  annotations: {namegate.io/lint-ignore: "NG004, NG022"}')) // prettier-ignore
    expect(await policy('lint', at('ignoring'))).toMatchObject({ status: 0, out: 'nothing to say\n' })
  })
  test('the release matters', async () => {
    const text = `${good.replace('toPorts', 'fromRequires: [{matchLabels: {team: a}}]\n    toPorts')}`
    const lint = (...args: string[]): Promise<Ended> => run('bin/namegate', ['policy', 'lint', '-', ...args], text)
    expect((await lint()).out).toContain('error NG019 removed-field: fromRequires was removed in Cilium 1.19')
    expect((await lint('--cilium-version', '1.18')).out).toContain(
      'warning NG019 removed-field: fromRequires is going away',
    )
  })
})

describe('verdict', () => {
  const flow = { from: 'shop/web', to: 'shop/db', protocol: 'TCP', port: 5432 }
  const ask = (lines: readonly unknown[], ...args: string[]): Promise<Ended> =>
    run('bin/namegate', ['policy', 'verdict', '--manifests', at('good'), ...args], lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n')) // prettier-ignore

  test('a line for each flow, in order, errors among them', async () => {
    const lines = [`\u{feff}${JSON.stringify(flow)}\r`, 'nonsense', { ...flow, port: 5433 }, '', { ...flow, from: 'shop/gone' }, { ...flow, from: '192.0.2.1' }] // prettier-ignore
    const { status, out, err } = await ask(lines, '--flows', '-', '-o', 'json')
    expect([status, err]).toEqual([0, ''])
    const answers = out.trimEnd().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>) // prettier-ignore
    const place = at('good/policy.yaml')
    expect(answers).toEqual([
      {
        verdict: 'allowed',
        egress: { verdict: 'allowed', why: [{ text: 'no policy denies egress by default' }] },
        ingress: { verdict: 'allowed', why: [{ text: 'allowed by rule', policy: 'shop/db', policyKind: 'CiliumNetworkPolicy', rule: 'spec.ingress[0]', source: `${place}:11` }] }, // prettier-ignore
      },
      { error: expect.stringMatching(/^not JSON/) as string },
      {
        verdict: 'denied',
        egress: { verdict: 'allowed', why: [{ text: 'no policy denies egress by default' }] },
        ingress: { verdict: 'denied', why: [{ text: 'no rule matched; selected by shop/db' }] },
      },
      { error: 'from: there is no pod or workload shop/gone' },
      expect.objectContaining({ verdict: 'denied' }),
    ])
  })
  test('without --flows standard input is asked; a file by name', async () => {
    await writeFile(at('flows.jsonl'), `${JSON.stringify(flow)}\n`)
    const piped = await ask([flow])
    expect(piped.out).toMatch(/^\{"verdict":"allowed".*\}\n$/)
    expect(await ask([], '--flows', at('flows.jsonl'))).toEqual(piped)
  })
  test('one flow by flags, as a table and as JSON', async () => {
    const one = ['--from', 'shop/web', '--to', 'shop/db', '--port', '5433']
    const { status, out } = await ask([], ...one)
    expect(status).toBe(0)
    expect(out).toBe('Direction  Verdict  Why\negress     allowed  no policy denies egress by default\ningress    denied   no rule matched; selected by shop/db\nVerdict: denied\n') // prettier-ignore
    expect(JSON.parse((await ask([], ...one, '-o', 'json')).out)).toMatchObject({ verdict: 'denied' })
    expect(await ask([], '--from', 'shop/web', '--to', 'shop/db')).toEqual({ status: 1, out: '', err: 'namegate: port is missing\n' }) // prettier-ignore
  })
  test('the local node is the host', async () => {
    const from = { ...flow, from: '192.168.0.1' }
    expect(JSON.parse((await ask([from])).out)).toMatchObject({ verdict: 'denied' })
    expect(JSON.parse((await ask([from], '--local-node', 'here')).out)).toMatchObject({ verdict: 'allowed' })
    expect(JSON.parse((await ask([from], '--local-node', 'here', '--no-allow-localhost')).out)).toMatchObject({ verdict: 'denied' }) // prettier-ignore
    expect(await ask([from], '--local-node', 'gone')).toMatchObject({ status: 1, err: 'namegate: --local-node: there is no Node gone\n' }) // prettier-ignore
  })
  test('wrong manifests: every error on stderr, status 1, nothing answered', async () => {
    const { status, out, err } = await run(
      'bin/namegate',
      ['policy', 'verdict', '-m', at('wrong')],
      JSON.stringify(flow),
    )
    expect([status, out]).toEqual([1, ''])
    expect(err).toMatch(/^namegate: the manifests are not valid\n/)
    expect(err.trimEnd().split('\n')).toHaveLength(4)
  })
  test('100 000 flows, each answered', async () => {
    const ports = [5432, 5433]
    const many = Array.from({ length: 100_000 }, (_, i) => JSON.stringify({ ...flow, port: ports[i % 2] }))
    const { status, out } = await ask(many)
    expect(status).toBe(0)
    const answers = out.trimEnd().split('\n')
    expect(answers).toHaveLength(100_000)
    expect(answers.findIndex((line, i) => !line.startsWith(i % 2 === 0 ? '{"verdict":"allowed"' : '{"verdict":"denied"'))).toBe(-1) // prettier-ignore
  }, 60_000)
  test('a question at a time: each is answered before the next is asked', async () => {
    const child = spawn('bin/namegate', ['policy', 'verdict', '-m', at('good')], { stdio: ['pipe', 'pipe', 'inherit'] })
    for (const port of [5432, 5433, 5432]) {
      child.stdin.write(`${JSON.stringify({ ...flow, port })}\n`)
      const [answer] = (await once(child.stdout, 'data')) as [Buffer]
      expect(JSON.parse(String(answer))).toMatchObject({ verdict: port === 5432 ? 'allowed' : 'denied' })
    }
    child.stdin.end()
    expect(await once(child, 'exit')).toEqual([0, null])
  })
  test('whoever stops reading has seen enough', async () => {
    const many = Array.from({ length: 200_000 }, () => JSON.stringify(flow)).join('\n')
    await writeFile(at('many.jsonl'), many)
    const { out, err } = await run('sh', ['-c', '{ bin/namegate policy verdict -m "$NG/good" --flows "$NG/many.jsonl"; echo "status $?" >&2; } | head -n 1']) // prettier-ignore
    expect(out).toMatch(/^\{"verdict":"allowed".*\n$/)
    expect(err).toBe('status 0\n')
  })
  test('a line without end is an error, not memory', async () => {
    const { out } = await ask([`"${'x'.repeat(3_000_000)}"`, flow])
    const [first, second] = out.trimEnd().split('\n')
    expect(first).toBe('{"error":"a line has at most 1000000 characters"}')
    expect(second).toMatch(/^\{"verdict":"allowed"/)
  })
})

describe('on a terminal', () => {
  const hasScript = spawnSync('script', ['--version']).error === undefined
  const pod = (i: number): string => `---\napiVersion: v1\nkind: Pod\nmetadata: {name: p${i}, namespace: shop, labels: {app: a${i % 7}}}\nstatus: {podIPs: [{ip: 10.2.${i >> 8}.${i & 255}}]}\n` // prettier-ignore
  test.skipIf(!hasScript)(
    `what takes over a second says where it is, and leaves no trace ${hasScript ? '' : '(no program `script` here)'}`,
    async () => {
      await mkdir(at('big'), { recursive: true })
      const big = Array.from({ length: 9000 }, (_, i) => pod(i)).join('')
      expect(big.length).toBeGreaterThan(1_000_000)
      await writeFile(at('big/pods.yaml'), big)
      const { status, out } = await run('script', ['-qec', `bin/namegate policy validate ${at('big')}`, '/dev/null'])
      const lines = out.split('\r').filter((line) => line.trim() !== '')
      expect([status, lines.length >= 2, out.includes('\x1b')]).toEqual([0, true, false])
      expect(lines[0]).toBe('reading manifests: 0 of 1 ...')
      expect(lines.at(-1)).toMatch(/^1 file, 0 policies: valid/)
      // Nobody looks: nothing but the answer.
      expect(await policy('validate', at('big'))).toMatchObject({ status: 0, err: '', out: expect.stringMatching(/^1 file, 0 policies: valid[^\r]*\n$/) as unknown }) // prettier-ignore
    },
  )
})

describe('explain', () => {
  test('every step, by flags or as JSON', async () => {
    const { status, out } = await policy(
      'explain',
      at('good'),
      '--from',
      'shop/web',
      '--to',
      'shop/db',
      '--port',
      '5433',
    )
    expect(status).toBe(0)
    expect(out).toMatch(/ingress: denied: no rule matched; selected by shop\/db/)
    expect(out).toMatch(/lacks the port: tcp\/5433 is not tcp\/5432/)
    expect(await policy('explain', '-m', at('good'), '--flow', '{"from":"shop/web","to":"shop/db","port":5433}')).toEqual({ status, out, err: '' }) // prettier-ignore
  })
  test('JSON', async () => {
    const { out } = await policy('explain', at('good'), '--from', 'shop/web', '--to', 'shop/db', '--port', '5432', '-o', 'json') // prettier-ignore
    expect(JSON.parse(out)).toMatchObject({ verdict: 'allowed', ingress: { verdict: 'allowed', selectedBy: ['shop/db'] } }) // prettier-ignore
  })
})

describe('get', () => {
  test('whom policies select, and what they turn on', async () => {
    const { status, out } = await policy('get', at('good'))
    expect(status).toBe(0)
    expect(out).toMatch(/^Kind +Policy +Selects +Ingress +Egress +Default deny +File\nCiliumNetworkPolicy +shop\/db +shop\/db +1 allow +- +ingress +.*policy\.yaml:6\n$/) // prettier-ignore
    const views: unknown = JSON.parse((await policy('get', at('good'), '-o', 'json')).out)
    expect(views).toMatchObject([{ name: 'shop/db', selects: ['shop/db'], ingress: { 'default-deny': true, allow: 1, rules: [{ rule: 'spec.ingress[0]', ports: ['tcp/5432'] }] }, egress: { selected: false } }]) // prettier-ignore
  })
})

for (const command of [[], ['validate'], ['lint'], ['verdict'], ['explain'], ['get']])
  test(`policy ${command.join(' ')} --help has examples that are commands`, async () => {
    const { status, out } = await policy(...command, '--help')
    expect(status).toBe(0)
    expect(out).toMatch(/\nExamples:\n(?: {2}.*namegate policy .*\n)+/)
  })

const usage = [
  { args: ['validate'], err: /missing required argument 'path'/ },
  { args: ['lint'], err: /missing required argument 'path'/ },
  { args: ['verdict'], err: /required option '-m, --manifests <path>' not specified/ },
  { args: ['verdict', 'x', '--flows', '-', '--from', 'a/b'], err: /exclude each other/ },
  { args: ['verdict', 'x', '--semantics', 'calico'], err: /Allowed choices are spec, cilium/ },
  { args: ['validate', 'x', '--cilium-version', 'new'], err: /a version is MAJOR\.MINOR/ },
  { args: ['verdict', 'x', '--resolved', 'a'], err: /it is NAME=IP/ },
  { args: ['explain', 'x', '--http', '{'], err: /not JSON/ },
  { args: ['verdict', 'x', '--flows', 'f', '--protocol', 'UDP'], err: /--flows and the options that describe one flow/ },
  { args: ['verdict', 'x', '--flows', 'f', '-o', 'yaml'], err: /flows are answered as JSON/ },
  { args: ['verdict', '-m', '-'], err: /standard input cannot be both/ },
  { args: ['explain', 'x', '--flow', '{}', '--port', '1'], err: /--flow and the options/ },
] // prettier-ignore
for (const { args, err } of usage)
  test(`usage: ${args.join(' ')}`, async () => {
    expect(await policy(...args)).toEqual({ status: 2, out: '', err: expect.stringMatching(err) as string })
  })
