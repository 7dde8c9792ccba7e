// `namegate run` as a user runs it: on a host of its own (a namespace), with a resolver and a world behind it.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startEmbeddedUpstream, type EmbeddedUpstream } from '../../src/demo/upstream.ts'
import { addHost, answerEverywhere, enterLab, sh, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const policy = `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ci}
spec:
  endpointSelector: {}
  egress:
  - toFQDNs: [{matchName: api.example.com}, {matchPattern: "*.cdn.example.net"}, {matchName: host.rebind.test}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
`
interface Ended {
  status: number | null
  signal: NodeJS.Signals | null
  out: string
  err: string
}

describe.skipIf(reason !== undefined)(`namegate run ${reason ?? ''}`, () => {
  let world: Host
  let upstream: EmbeddedUpstream
  let folder: string
  let hostService: Server
  beforeAll(async () => {
    enterLab()
    // The host forwards nothing by itself: the run must turn that on, and off again.
    sh('sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0')
    world = await addHost('world', ['10.3.0.2/24'], ['10.3.0.1/24'])
    sh('ip route add default via 10.3.0.2')
    await answerEverywhere(world)
    folder = await mkdtemp(join(tmpdir(), 'namegate-test-'))
    // A name that the policy allows, in the hands of somebody who points it at the host itself.
    await cp('zones', join(folder, 'zones'), { recursive: true })
    await writeFile(
      join(folder, 'zones/rebind.test.zone'),
      '$ORIGIN rebind.test.\n$TTL 60\n@ IN SOA ns hostmaster ( 1 60 60 60 60 )\nhost IN A 10.3.0.1\n',
    )
    hostService = createServer((connection) => connection.end()).listen(443)
    upstream = await startEmbeddedUpstream(join(folder, 'zones'), '127.0.0.1', 5300)
    await writeFile(join(folder, 'policy.yaml'), policy)
  })
  afterAll(async () => {
    await upstream?.close()
    hostService?.close()
    world?.stop()
    await rm(folder, { recursive: true, force: true })
  })

  const start = (args: readonly string[], before: readonly string[] = [], program = 'bin/namegate'): ChildProcess => {
    const [first = '', ...rest] = [...before, program, 'run', '--upstream', '127.0.0.1:5300', ...args]
    return spawn(first, rest, { stdio: ['pipe', 'pipe', 'pipe'] })
  }
  async function ended(child: ChildProcess): Promise<Ended> {
    let [out, err] = ['', '']
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (out += text))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (err += text))
    const [status, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
    return { status, signal, out, err }
  }
  const run = (args: readonly string[], ...more: string[][]): Promise<Ended> => ended(start(args, ...more))
  const under = (script: string, ...options: string[]): Promise<Ended> => run(['--policy', join(folder, 'policy.yaml'), ...options, '--', 'bash', '-c', script]) // prettier-ignore
  const connect = (address: string, port = 443): string =>
    `timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}' 2>/dev/null && echo yes || echo no`
  const leftovers = (): string =>
    `${sh('ip -br link; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward')}`.replace(/ .*/g, '')

  test('what the policy names can be reached, by its own resolver configuration; nothing else', async () => {
    const { out, err, status } = await under(
      `getent ahostsv4 api.example.com | head -1 | cut -d' ' -f1; ${connect('198.18.0.20')}; ${connect('198.18.0.20', 80)}; ${connect('198.18.0.21')}; getent hosts pay.example.com || echo refused; exit 3`,
    )
    expect(out.split('\n')).toEqual(['198.18.0.20', 'yes', 'no', 'no', 'refused', ''])
    expect(status).toBe(3)
    expect(err).toMatch(/namegate: denied \d+ names and 2 connections/)
    expect(err).toMatch(/name +pay\.example\.com A +x\d+ +no DNS or toFQDNs rule matches; selected by default\/ci/)
    expect(err).toMatch(/connection +198\.18\.0\.20 tcp\/80 +x1 +api\.example\.com is allowed on tcp\/443 only/)
    expect(err).toMatch(
      /connection +198\.18\.0\.21 tcp\/443 +x1 +no rule matched, and no name leased to this identity has 198\.18\.0\.21/,
    )
  })

  test('other resolvers, TCP, raw IP, UDP, IPv6 and the host itself are inside the policy', async () => {
    const { out } = await under(
      `dig +short +tries=1 +time=2 @8.8.8.8 api.example.com; dig +short +tcp +tries=1 +time=2 @8.8.4.4 api.example.com
       dig +tries=1 +time=2 @8.8.8.8 evil.test | grep -o 'status: [A-Z]*'
       ${connect('198.18.7.7')}; ${connect('10.3.0.1')}; ${connect('192.0.0.1', 22)}; ${connect('2001:db8::20')}
       ping -c1 -W1 198.18.0.20 >/dev/null && echo pings || echo no ping
       (echo x > /dev/udp/198.18.0.20/443) 2>/dev/null; ip -br addr | cut -d' ' -f1`,
    )
    expect(out.split('\n')).toEqual([
      '198.18.0.20',
      '198.18.0.20',
      'status: REFUSED',
      'no',
      'no',
      'no',
      'no',
      'no ping',
      'lo',
      'eth0@if3',
      '',
    ])
  })

  test('this machine is not what a name or an address range leads to', async () => {
    const script = `getent ahostsv4 host.rebind.test | head -1 | cut -d' ' -f1; ${connect('10.3.0.1')}`
    const refused = await under(script)
    expect(refused.out).toBe('no\n')
    expect(refused.err).toMatch(/name +host\.rebind\.test A +x\d+ +host\.rebind\.test leads to 10\.3\.0\.1 \(private\)/)
    // Nor where its policy lets names lead to private addresses: this one is the host's.
    await writeFile(join(folder, 'private.yaml'), policy.replace('name: ci', 'name: ci, annotations: {namegate.io/allow-private-answers: "true"}')) // prettier-ignore
    const { out, err } = await run(['--policy', join(folder, 'private.yaml'), '--', 'bash', '-c', script])
    expect(out).toBe('10.3.0.1\nno\n')
    expect(err).toMatch(/connection +10\.3\.0\.1 tcp\/443 +x1 +no rule matched; selected by default\/ci/)
    await writeFile(join(folder, 'wide.yaml'), policy.replace(/- toFQDNs[\s\S]*/, '- toCIDR: [0.0.0.0/0]\n'))
    // The host's end of the uplink is beside ours in a /30; its address is known here while the run is up.
    const child = start(['--policy', join(folder, 'wide.yaml'), '--', 'bash', '-c', `read -r uplink; ${connect('$uplink')}; ${connect('198.18.0.20')}`]) // prettier-ignore
    const uplink = (): string => sh("ip -4 -o addr show | sed -n 's/.* ng[0-9]* *inet \\(100[^/]*\\).*/\\1/p'").trim()
    await expect.poll(uplink, { timeout: 5000 }).not.toBe('')
    child.stdin?.end(`${uplink()}\n`)
    expect(await ended(child)).toMatchObject({ out: 'no\nyes\n' })
  })

  test('an idle connection to what becomes an address of this host: the command hears of its end at once', async () => {
    // Other than what answers everywhere, this keeps its connections.
    const keeping = spawn('setpriv', ['--pdeathsig', 'KILL', 'nsenter', `--net=${world.path}`, process.execPath, '-e', "require('net').createServer((c) => c.on('error', () => 0).resume()).listen(7778, () => console.log('up'))"], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
    await once(keeping.stdout, 'data')
    world.sh('nft insert rule inet world in ip daddr 198.18.0.20 tcp dport 443 redirect to :7778')
    const idle = "const s = require('net').connect({ host: '198.18.0.20', port: 443 }, () => console.log('open')).on('error', ({ code }) => { console.log(code); process.exit() })" // prettier-ignore
    const child = start(['--policy', join(folder, 'policy.yaml'), '--', 'bash', '-c', `getent ahostsv4 api.example.com >/dev/null; exec ${process.execPath} -e "${idle}"`]) // prettier-ignore
    const done = ended(child)
    await once(child.stdout ?? expect.fail(), 'data')
    try {
      sh('ip addr add 198.18.0.20/32 dev lo')
      const addedAt = performance.now()
      expect((await done).out).toBe('open\nECONNABORTED\n')
      expect(performance.now() - addedAt).toBeLessThan(2000)
    } finally {
      sh('ip addr del 198.18.0.20/32 dev lo')
      world.sh(
        'nft delete rule inet world in handle $(nft -a list chain inet world in | sed -n "s/.*7778 # handle //p")',
      )
      keeping.kill('SIGKILL')
    }
  })

  test('a connection tried before the lookup is not explained by what the lookup opened', async () => {
    const { err } = await under(`${connect('198.18.0.20')}; getent ahostsv4 api.example.com > /dev/null; ${connect('198.18.0.20')}`) // prettier-ignore
    expect(err).toMatch(/connection +198\.18\.0\.20 tcp\/443 +x1 +not allowed when it was tried; now leased as api\.example\.com by/) // prettier-ignore
  })

  test('what a policy says and is not enforced: told before the command starts', async () => {
    const file = join(folder, 'more.yaml')
    await writeFile(file, policy.replace('  egress:', '  ingress: [{authentication: {mode: required}}]\n  egress:'))
    const { err } = await run(['--policy', file, '--', 'sh', '-c', 'echo started >&2'])
    expect(err).toMatch(
      /^namegate: .*more\.yaml:7:\d+: .*not enforced yet: authentication.*\nstarted\nnamegate: nothing was denied\n$/,
    )
  })

  test('a policy that denies something and nothing by default is one', async () => {
    const file = join(folder, 'deny.yaml')
    await writeFile(file, policy.replace(/ {2}egress:[\s\S]*/, '  enableDefaultDeny: {egress: false}\n  egressDeny: [{toCIDR: [198.18.0.20/32]}]\n')) // prettier-ignore
    const got = await run(['--policy', file, '--', 'bash', '-c', `${connect('198.18.0.20')}; ${connect('198.18.0.21')}`]) // prettier-ignore
    expect(got).toMatchObject({ status: 0, out: 'no\nyes\n' })
  })

  test('a run inside a run: both policies hold', async () => {
    await writeFile(join(folder, 'inner.yaml'), policy.replace('{matchName: api.example.com}', '{matchName: pay.example.com}')) // prettier-ignore
    await writeFile(join(folder, 'outer.yaml'), policy.replace('{matchName: api.example.com}', '{matchPattern: "*.example.com"}')) // prettier-ignore
    const script = `ip -4 -o addr show dev eth0 | grep -o '192[^ ]*'; getent ahostsv4 pay.example.com | head -1 | cut -d' ' -f1; ${connect('198.18.0.21')}; getent hosts api.example.com || echo refused; ${connect('198.18.0.20')}` // prettier-ignore
    const inner = ['bin/namegate', 'run', '--policy', join(folder, 'inner.yaml'), '--', 'bash', '-c', script]
    const { out, err } = await run(['--policy', join(folder, 'outer.yaml'), '--', ...inner])
    expect(out.split('\n'), err).toEqual(['192.0.0.6/30', '198.18.0.21', 'yes', 'refused', 'no', ''])
  })

  test('stdin, stdout and the summary as JSON', async () => {
    const child = start([
      '--policy',
      join(folder, 'policy.yaml'),
      '--summary',
      'json',
      '--',
      'sh',
      '-c',
      'tr a-z A-Z; getent hosts evil.test',
    ])
    child.stdin?.end('hello')
    const { out, err } = await ended(child)
    expect(out).toBe('HELLO')
    expect(JSON.parse(err)).toMatchObject({ names: [{ name: 'evil.test' }, { name: 'evil.test' }], connections: [] })
  })

  test('nothing denied, nothing said but that; and no rights over the network', async () => {
    const { out, err } = await under(
      'id -u; ip link set lo down 2>/dev/null || echo no; nsenter --net=/proc/1/ns/net true 2>/dev/null || echo no; ls -l /proc/self/fd | grep -cE " ([3-9]|[0-9][0-9]+) -> (net|socket):"',
    )
    expect(out.split('\n').slice(0, 4)).toEqual(['0', 'no', 'no', '0'])
    expect(err).toBe('namegate: nothing was denied\n')
  })

  test('signals reach the command, and its death by one is ours', async () => {
    const child = start([
      '--policy',
      join(folder, 'policy.yaml'),
      '--',
      'bash',
      '-c',
      'trap "echo got TERM; exit 7" TERM; echo up; while :; do read -t 1; done',
    ])
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    child.kill('SIGTERM')
    expect(await ended(child)).toMatchObject({ status: 7, out: 'got TERM\n' })
    expect(await under('kill -KILL $$')).toMatchObject({ status: null, signal: 'SIGKILL' })
    expect(await under('kill -TERM $$')).toMatchObject({ status: null, signal: 'SIGTERM' })
  })

  test('what the command leaves running ends with it, before we say that it ended', async () => {
    const nap = `sleep 1000${process.pid}`
    const { status } = await under(`(setsid ${nap}4 >/dev/null 2>&1 &); exit 4`)
    expect(processesWith(nap)).toEqual([])
    expect(status).toBe(4)
  })

  test('its processes are all that it sees: orphans are taken in, nobody outside can be reached', async () => {
    const { out } = await under(
      `(sleep 0.2 &); kill -0 ${process.pid} 2>/dev/null || echo no; sleep 0.4
       setpriv --reuid=65534 kill -0 ${process.pid} 2>/dev/null || echo no; ls -d /proc/${process.pid} 2>/dev/null || echo no
       ps axo stat= | grep -c Z; ps axo pid=,args= | grep -v ' ps \\| grep ' | sed 's/^ *//;s/ .*//' | head -1; readlink /proc/self/cwd`,
    )
    expect(out).toBe(`no\nno\nno\n0\n1\n${process.cwd()}\n`)
  })

  test("the kernel's settings are read only, also where it says which program to start", async () => {
    // Would only write what is there already.
    const write = (file: string): string => `[ ! -e ${file} ] || { cat ${file} > /dev/null && cat ${file} > ${file}; } 2>/dev/null && echo ${file}` // prettier-ignore
    const files = ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/sys/kernel/uevent_helper', '/sys/fs/cgroup/cgroup.procs'] // prettier-ignore
    const existing = files.filter((file) => sh(`[ -w ${file} ] && echo yes || true`) !== '')
    expect(existing).toContain('/proc/sys/kernel/core_pattern')
    const { out } = await under(
      `${existing.map(write).join('\n')}\nunshare --user --map-root-user --mount --pid --fork sh -c 'mount -t proc proc /proc 2>/dev/null && echo fresh; mount -o remount,bind,rw /proc/sys/kernel 2>/dev/null && echo rw'
       cat /proc/sys/net/ipv4/ip_default_ttl > /proc/sys/net/ipv4/ip_default_ttl && echo its own network`,
    )
    expect(out).toBe('its own network\n')
  })

  test('mounts of a chroot, and such as lie under others', async () => {
    const mounts = `mount -t tmpfs tmpfs /mnt; mkdir /mnt/sys /mnt/proc; mount -t sysfs sysfs /mnt/sys; mount -t proc proc /mnt/proc
      mount -t tmpfs tmpfs /mnt; mkdir /mnt/sys /mnt/jail /mnt/jail/proc /mnt/jail/sys; mount -t proc proc /mnt/jail/proc; mount -t sysfs sysfs /mnt/jail/sys`
    const script = `ls -d /mnt/jail/proc/1 /mnt/jail/proc/${process.pid} 2>/dev/null; grep -c ' /mnt/jail/sys ro,' /proc/self/mountinfo; touch /mnt/sys/x && echo still a folder`
    const got = await run(['--policy', join(folder, 'policy.yaml'), '--', 'sh', '-c', script], ['unshare', '--mount', 'sh', '-ec', `${mounts}; exec "$@"`, 'host']) // prettier-ignore
    expect(got, got.err).toMatchObject({ status: 0, out: '/mnt/jail/proc/1\n1\nstill a folder\n' })
  })

  describe('at a terminal', () => {
    let terminal: ChildProcess
    let screen: string
    const type = (text: string): void => void terminal.stdin?.write(text)
    const shows = (text: RegExp): Promise<void> => expect.poll(() => screen, { timeout: 10_000 }).toMatch(text)
    beforeEach(() => {
      screen = ''
      terminal = spawn('script', ['-qc', "env TERM=dumb PS1='> ' bash --norc --noprofile --noediting -i", '/dev/null'])
      terminal.stdout?.setEncoding('utf8').on('data', (text: string) => (screen += text))
    })
    afterEach(() => void terminal.kill('SIGKILL'))
    const command = (args: string): string => `bin/namegate run --upstream 127.0.0.1:5300 --policy ${join(folder, 'policy.yaml')} -- ${args}\n` // prettier-ignore

    test('Ctrl-Z stops all of it, fg goes on, Ctrl-C ends the command', async () => {
      type(command(`sh -c 'echo it is "u"p; exec sleep 1000'`))
      await shows(/it is up/)
      type('\x1a')
      await shows(/Stopped/)
      type('fg\n')
      await shows(/> fg\r\n[^>]*sleep 1000/)
      type('\x03')
      await shows(/nothing was denied/)
      type('echo status $?\n')
      await shows(/status 130/)
    })

    test('a shell inside has jobs of its own', async () => {
      type(command(`env PS1='> ' bash --norc --noprofile --noediting -i`))
      await expect.poll(() => screen.split('> ').length, { timeout: 10_000 }).toBe(3)
      type('sleep 1001\n')
      // The terminal belongs to the new job when its process group is in the foreground.
      await expect.poll(() => sh('ps axo stat=,args=').split('\n').some((line) => /^S\S*\+ +sleep 1001$/.test(line)), { timeout: 5000 }).toBe(true) // prettier-ignore
      type('\x1a')
      await shows(/Stopped/)
      type('fg\n')
      await shows(/> fg\r\nsleep 1001/)
      type('\x03')
      await shows(/\^C\r\n> $/)
      type('exit 5\n')
      await shows(/nothing was denied/)
      type('echo status $?\n')
      await shows(/status 5/)
    })
  })

  test('a signal that comes before the command: it ends us after everything is taken back', async () => {
    const before = leftovers()
    const child = start(['--policy', join(folder, 'policy.yaml'), '--', 'sleep', '1000'])
    await expect.poll(() => sh('ip -br link'), { interval: 10, timeout: 5000 }).toMatch(/^ng/m)
    child.kill('SIGTERM')
    expect(await ended(child)).toMatchObject({ status: null, signal: 'SIGTERM' })
    expect(leftovers()).toBe(before)
  })

  const failures = [
    { title: 'no such command', args: ['--policy', 'POLICY', '--', '/nonexistent'], status: 127, err: /nonexistent/ },
    { title: 'not executable', args: ['--policy', 'POLICY', '--', '/etc/passwd'], status: 126, err: /Permission denied/ },
    { title: 'no such policy', args: ['--policy', '/nonexistent.yaml', '--', 'true'], status: 125, err: /the policy cannot be read: ENOENT/ },
    { title: 'a policy that selects somebody else', args: ['--policy', 'OTHER', '--', 'true'], status: 125, err: /no policy in .* restricts the egress of the workload \(namespace default, labels app=run\)/ },
    { title: 'a broken policy: every issue', args: ['--policy', 'BROKEN', '--', 'true'], status: 125, err: /broken\.yaml:5:24: spec\.egres: unknown field "egres"; did you mean "egress"\?\n.*at least one of[\s\S]*nothing was started/ },
    { title: 'a bad label', args: ['--policy', 'POLICY', '--label', 'x', '--', 'true'], status: 125, err: /a label is KEY=VALUE/ },
    { title: 'a label twice', args: ['--policy', 'POLICY', '--label', 'app=x', '--label', 'app=y', '--', 'true'], status: 125, err: /label app is given twice/ },
    { title: 'an upstream that reads two ways', args: ['--policy', 'POLICY', '--upstream', '::1:53', '--', 'true'], status: 125, err: /in brackets/ },
    { title: 'an unknown option', args: ['--policy', 'POLICY', '--polcy', 'x', '--', 'true'], status: 125, err: /unknown option/ },
    { title: 'a bad upstream', args: ['--policy', 'POLICY', '--upstream', 'x:y', '--', 'true'], status: 125, err: /an upstream is IP:PORT/ },
    { title: 'no command', args: ['--policy', 'POLICY'], status: 125, err: /missing required argument 'command'/ },
  ] // prettier-ignore
  for (const { title, args, status, err } of failures)
    test(title, async () => {
      await writeFile(
        join(folder, 'other.yaml'),
        policy.replace('endpointSelector: {}', 'endpointSelector: {matchLabels: {app: other}}'),
      )
      await writeFile(join(folder, 'broken.yaml'), 'apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\nspec:\n  endpointSelector: {}; egres: []\n'.replace(/\n {2}endpointSelector: \{\}; egres: \[\]/, ' {endpointSelector: {},  \n                       egres: []}')) // prettier-ignore
      const file = (name: string): string => ({ POLICY: join(folder, 'policy.yaml'), OTHER: join(folder, 'other.yaml'), BROKEN: join(folder, 'broken.yaml') })[name] ?? name // prettier-ignore
      const got = await run(args.map(file))
      expect(got.err).toMatch(err)
      expect(got.status).toBe(status)
    })

  describe('resolv.conf', () => {
    // A host whose /etc and /run are its own for the while.
    const hostWith = (script: string): string[] => [
      ...['env', '-u', 'NODE_EXTRA_CA_CERTS', 'unshare', '--mount', 'sh', '-ec'],
      `mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /etc; ${script}; "$@"; status=$?; ls /etc >&2; exit $status`,
      'host',
    ]
    const options = (): string[] => ['--policy', join(folder, 'policy.yaml'), '--summary', 'none', '--']

    test('none to replace: said, and none is made', async () =>
      expect(await run([...options(), 'true'], hostWith('set +e'))).toMatchObject({
        status: 125,
        err: 'namegate: there is no /etc/resolv.conf to put another in its place; an empty file will do; nothing was started\n',
      }))

    test("systemd-resolved's: out of sight, as are its sockets", async () => {
      const resolved = `mkdir -p /run/systemd/resolve; cd /run/systemd/resolve; touch io.systemd.Resolve; cd "$OLDPWD"
        printf 'nameserver 127.0.0.53\nsearch corp.example\n' > /run/systemd/resolve/stub-resolv.conf
        ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; set +e`
      const got = await run(
        [...options(), 'sh', '-c', 'cat /etc/resolv.conf; ls /run/systemd/resolve'],
        hostWith(resolved),
      )
      expect(got).toMatchObject({
        status: 0,
        out: 'nameserver 192.0.0.1\nsearch corp.example\nstub-resolv.conf\n',
        err: 'resolv.conf\n',
      })
    })
  })

  test('a label selects a policy', async () => {
    const got = await run([
      '--policy',
      join(folder, 'other.yaml'),
      '--label',
      'app=other',
      '--',
      'getent',
      'hosts',
      'evil.test',
    ])
    expect(got.status).toBe(2)
    expect(got.err).toContain('evil.test')
  })

  test('afterwards nothing is left, also with five at once', async () => {
    const before = leftovers()
    await Promise.all(
      [0.3, 0, 0.5, 0.1, 0.2].map((seconds) => under(`read -t ${seconds}; getent hosts api.example.com`)),
    )
    expect(leftovers()).toBe(before)
  })

  /** Command lines of this machine's processes that hold a text. */
  const processesWith = (text: string): string[] => sh('ps axo args').split('\n').filter((line) => line.startsWith(text)) // prettier-ignore

  describe('when nobody hears us', () => {
    const script = 'read x; getent hosts evil.test; exit 3'
    const args = (): string[] => ['--policy', join(folder, 'policy.yaml'), '--', 'sh', '-c', script]

    test("a full disk behind stderr: the status is the command's, nothing is left", async () => {
      const before = leftovers()
      const child = start(args(), ['sh', '-c', 'exec "$@" 2>/dev/full', 'sh'])
      child.stdin?.end('x\n')
      expect(await ended(child)).toMatchObject({ status: 3, err: '' })
      expect(leftovers()).toBe(before)
    })

    test('a pipe behind stderr whose reader left: likewise', async () => {
      const before = leftovers()
      const child = start([...args().slice(0, 2), '--log', 'debug', ...args().slice(2)])
      child.stderr?.destroy()
      child.stdin?.end('x\n')
      expect(await ended(child)).toMatchObject({ status: 3 })
      expect(leftovers()).toBe(before)
    })

    test('a terminal that is closed: nothing is left', async () => {
      const before = leftovers()
      const [first = '', ...rest] = ['bin/namegate', 'run', '--upstream', '127.0.0.1:5300', '--policy', join(folder, 'policy.yaml'), '--', 'sh', '-c', '"getent hosts evil.test; echo up; sleep 1000"'] // prettier-ignore
      const terminal = spawn('script', ['-qc', `exec ${[first, ...rest].join(' ')}`, '/dev/null'])
      await once(terminal.stdout, 'data')
      terminal.kill('SIGKILL')
      await expect.poll(leftovers, { timeout: 5000 }).toBe(before)
    })
  })

  /** Kills a run whose command has left its own process group, session and parent behind. */
  const startKilled = async (): Promise<void> => {
    const temporary = join(folder, 'temporary')
    await mkdir(temporary, { recursive: true })
    const nap = `sleep 1000${process.pid}`
    const child = start(
      [
        '--policy',
        join(folder, 'policy.yaml'),
        '--',
        'bash',
        '-c',
        `${nap}1 & (setsid ${nap}2 &); echo up; exec ${nap}3`,
      ],
      ['env', `TMPDIR=${temporary}`],
    )
    await once(child.stdout as NodeJS.ReadableStream, 'data')
    await expect.poll(() => processesWith(nap).length, { timeout: 5000 }).toBe(3)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await expect.poll(() => processesWith(nap), { timeout: 5000 }).toEqual([])
    expect(await readdir(temporary)).toEqual([])
  }

  test('killed: the command and all its descendants die too, and the next run cleans up', async () => {
    const before = leftovers()
    await startKilled()
    expect(leftovers()).not.toBe(before)
    expect((await under('true')).status).toBe(0)
    expect(leftovers()).toBe(before)
  })

  test('killed on one host: a run on another that shares /run changes neither', async () => {
    const before = leftovers()
    await startKilled()
    // The link goes with the gate, a moment later.
    const changes = (): string => sh('nft list ruleset; cat /proc/sys/net/ipv4/ip_forward')
    const behind = changes()
    world.sh('echo 1 > /proc/sys/net/ipv4/ip_forward')
    const elsewhere = await run(['--policy', join(folder, 'policy.yaml'), '--', 'true'], ['nsenter', `--net=${world.path}`]) // prettier-ignore
    expect(elsewhere.status).toBe(0)
    expect(world.sh('cat /proc/sys/net/ipv4/ip_forward').out).toBe('1\n')
    expect(changes()).toBe(behind)
    expect((await under('true')).status).toBe(0)
    expect(leftovers()).toBe(before)
  })

  test('the host forwards for runs only, whichever of them ends first', async () => {
    const others = 'iifname != "ng*" oifname != "ng*" drop'
    const forwarding = (): boolean[] => [sh('cat /proc/sys/net/ipv4/ip_forward') === '1\n', sh('nft list ruleset').includes(others)] // prettier-ignore
    expect(forwarding()).toEqual([false, false])
    const children: ChildProcess[] = []
    for (let i = 0; i < 2; i++) {
      const child = start(['--policy', join(folder, 'policy.yaml'), '--', 'sh', '-c', 'echo up; read x'])
      await once(child.stdout as NodeJS.ReadableStream, 'data')
      children.push(child)
    }
    for (const child of children) {
      expect(forwarding()).toEqual([true, true])
      child.stdin?.end('x\n')
      await ended(child)
    }
    expect(forwarding()).toEqual([false, false])
  })

  describe('without root', () => {
    let copy: string
    beforeAll(async () => {
      // A place that somebody who is not root may read.
      copy = await mkdtemp(join(tmpdir(), 'namegate-copy-'))
      for (const part of ['bin', 'src', 'package.json', 'node_modules'])
        await cp(part, join(copy, part), { recursive: true, verbatimSymlinks: true })
      sh(`chmod 755 ${copy} ${folder}; chmod 644 ${folder}/*`)
    })
    afterAll(() => sh(`rm -rf ${copy}`))
    // Debian lets everybody open /dev/net/tun; where this machine does not, the run sees one that does.
    const openTun =
      'mknod "$0/tun" c 10 200; chmod 666 "$0/tun"; mount --bind "$0/tun" /dev/net/tun; rm "$0/tun"; exec "$@"'
    const asNobody = (): string[] => [
      'unshare',
      '--mount',
      'sh',
      '-ec',
      openTun,
      copy,
      'setpriv',
      '--reuid=65534',
      '--regid=65534',
      '--clear-groups',
    ]

    for (const network of ['pasta', 'slirp4netns'] as const)
      test(network, async () => {
        const script = `id -u; getent ahostsv4 api.example.com | head -1 | cut -d' ' -f1; ${connect('198.18.0.20')}; ${connect('198.18.0.21')}; getent hosts evil.test; exit 5`
        const child = start(
          ['--policy', join(folder, 'policy.yaml'), '--network', network, '--', 'bash', '-c', script],
          asNobody(),
          join(copy, 'bin/namegate'),
        )
        const got = await ended(child)
        expect(got.out.split('\n')).toEqual(['65534', '198.18.0.20', 'yes', 'no', ''])
        expect(got.err).toMatch(/evil\.test A[\s\S]*198\.18\.0\.21 tcp\/443/)
        expect(got.status).toBe(5)
      })

    test('killed: nothing goes on', async () => {
      const nap = `sleep 1000${process.pid}5`
      const child = start(
        ['--policy', join(folder, 'policy.yaml'), '--', 'bash', '-c', `(setsid ${nap} &); exec ${nap}`],
        asNobody(),
        join(copy, 'bin/namegate'),
      )
      await expect.poll(() => processesWith(nap).length, { timeout: 10_000 }).toBe(2)
      child.kill('SIGKILL')
      await once(child, 'exit')
      await expect.poll(() => processesWith(nap), { timeout: 5000 }).toEqual([])
    })
  })

  for (const network of ['pasta', 'slirp4netns'])
    test(`Ctrl-C is for the command, not for ${network}`, async () => {
      const script = `trap '${connect('198.18.0.20').replaceAll("'", '"')}; exit 6' INT; getent ahostsv4 api.example.com > /dev/null; echo up; while :; do read -t 1; done`
      const command = ['run', '--upstream', '127.0.0.1:5300', '--policy', join(folder, 'policy.yaml'), '--network', network, '--', 'bash', '-c', script] // prettier-ignore
      // A terminal sends it to the whole process group.
      const child = spawn('bin/namegate', command, { stdio: ['pipe', 'pipe', 'pipe'], detached: true })
      await once(child.stdout, 'data')
      process.kill(-(child.pid ?? 0), 'SIGINT')
      expect(await ended(child)).toMatchObject({ out: 'yes\n', status: 6 })
    })

  test('root of a container, without rights over networks: as without root', async () => {
    const before = ['setpriv', '--bounding-set', '-sys_admin,-net_admin']
    const script = `id -u; getent ahostsv4 api.example.com | head -1 | cut -d' ' -f1; ${connect('198.18.0.20')}; ${connect('198.18.0.21')}; ip link set lo down 2>/dev/null || echo no
      kill -0 ${process.pid} 2>/dev/null || echo no; cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern; ls -l /proc/1/root 2>/dev/null | grep -c ' -> '`
    const got = await run(['--policy', join(folder, 'policy.yaml'), '--', 'bash', '-c', script], before)
    expect(got.out.split('\n')).toEqual(['0', '198.18.0.20', 'yes', 'no', 'no', 'no', '0', ''])
    expect(got.err).toContain('/proc/sys/kernel/core_pattern: Read-only file system')
    const forbidden = ['sh', '-ec', 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', 'host', ...before]
    const got2 = await run(
      ['--policy', join(folder, 'policy.yaml'), '--', 'true'],
      ['unshare', '--user', '--map-root-user', ...forbidden],
    )
    expect(got2).toMatchObject({ status: 125, out: '' })
    expect(got2.err).toMatch(
      /no user namespace: .*No space left.*; run as root with CAP_SYS_ADMIN.*user\.max_user_namespaces/,
    )
  })

  test('without root, and without pasta and slirp4netns: an error that names the packages', async () => {
    const tools = join(folder, 'tools')
    await mkdir(tools)
    for (const tool of ['sh', 'node', 'nsenter', 'unshare', 'setpriv', 'mount', 'dirname', 'readlink']) sh(`ln -s "$(PATH=$PATH:/usr/sbin:/sbin command -v ${tool})" ${tools}/${tool}`) // prettier-ignore
    for (const tool of ['nft', 'ip']) sh(`cp "$(PATH=$PATH:/usr/sbin:/sbin command -v ${tool})" ${tools}`)
    sh(`chmod 755 ${tools} ${folder}; chmod 644 ${folder}/*`)
    // Mapped to root of a user namespace is what somebody without root becomes. sbin is looked into whatever PATH says: here it is empty.
    const args = ['unshare', '--mount', 'sh', '-ec', 'mount -t tmpfs tmpfs /usr/sbin; exec "$@"', 'host', 'env', `PATH=${tools}`, 'NAMEGATE_MAPPED_FROM=65534:65534'] // prettier-ignore
    const got = await run(['--policy', join(folder, 'policy.yaml'), '--', 'true'], args)
    expect(got).toMatchObject({ status: 125, out: '' })
    expect(got.err).toMatch(/needs pasta or slirp4netns.*apt-get install passt, or slirp4netns/)
    sh(`rm ${tools}/nft ${tools}/unshare`)
    const without = await run(['--policy', join(folder, 'policy.yaml'), '--', 'true'], args)
    expect(without).toMatchObject({
      status: 125,
      err: 'namegate: not installed: nft, unshare (Debian: apt-get install nftables util-linux)\n',
    })
  })

  test('a PATH without sbin, as users other than root have: nft is found there', async () => {
    const where = sh('PATH=/usr/sbin:/sbin command -v nft').trim()
    expect(where).toMatch(/sbin/)
    const elsewhere = (process.env['PATH'] ?? '').split(':').filter((part) => !part.endsWith('sbin'))
    const got = await run(['--policy', join(folder, 'policy.yaml'), '--', 'sh', '-c', 'echo "$PATH"'], ['env', `PATH=${elsewhere.join(':')}`]) // prettier-ignore
    // The command's own PATH is as it was.
    expect(got).toMatchObject({ status: 0, out: `${elsewhere.join(':')}\n`, err: 'namegate: nothing was denied\n' })
  })

  test('no state files stay', async () => {
    expect((await readdir('/run/namegate').catch(() => [])).filter((name) => name.startsWith('run-'))).toEqual([])
  })
})
