// What the resolvers and tools that people use ask and expect, through the agent on a real kernel: glibc, musl, c-ares, systemd-resolved, dig, kdig, drill.
import { spawnSync } from 'node:child_process'
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/agent.ts'
import { framed } from '../../src/proxy/frame.ts'
import type { Outcome } from '../../src/proxy/handle.ts'
import { count, headerOctets, optionOf, readEdns, readQuestion } from '../../src/wire/message.ts'
import { startTestAgent } from '../support/agent.ts'
import { addHost, answerEverywhere, enterLab, sh, until, whyNoKernel, type Host } from '../support/lab.ts'
import { names, pod, policy } from '../support/manifests.ts'
import { a, aaaa, cname, message, nameOctets, opt, pointer, soa, type Parts, type Rr } from '../unit/wire/build.ts'

const reason = whyNoKernel()
/** A reason why a client cannot be tried; undefined when it can. In CI a missing one is an error: setup.sh installs them. */
function whyWithout(program: string, is: boolean): string | undefined {
  if (is || reason !== undefined) return reason
  if (process.env['NAMEGATE_REQUIRE_KERNEL'] === '1')
    throw new Error(`${program} must be here; ./setup.sh test installs it`)
  return `skipped: ${program} is not installed`
}
const has = (program: string): boolean => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0
/** Debian's own: another in the path has no Debian packages. */
const python = '/usr/bin/python3'
const hasCares = (): boolean => spawnSync(python, ['-c', 'import pycares']).status === 0
/** Its package would take over the machine's own resolver: setup.sh takes only its files. */
const debian = fileURLToPath(new URL('../../node_modules/.debian', import.meta.url))
const resolved = [`LD_LIBRARY_PATH=${debian}/usr/lib/$(uname -m)-linux-gnu/systemd ${debian}/lib/systemd/systemd-resolved`, '/lib/systemd/systemd-resolved'].find((command) => spawnSync('sh', ['-c', `${command} --version`]).status === 0) // prettier-ignore

const numbered = (length: number): number[] => Array.from({ length }, (_, i) => i + 1)
const text = (owner: string, words: string, qclass = 1): Rr => ({
  owner,
  type: 16,
  class: qclass,
  data: [words.length, ...Buffer.from(words)],
})
/** What the upstream has. Owner names of the large ones are pointers, as servers write them. */
const zone: Readonly<Record<string, readonly Rr[]>> = {
  'api.example.com': [a('api.example.com', '198.18.0.20'), aaaa('api.example.com', 0x20)],
  'v4.example.com': [a('v4.example.com', '198.18.0.21')],
  'www.example.com': [
    cname('www.example.com', 'edge.cdn.test'),
    a('edge.cdn.test', '198.18.0.22'),
    aaaa('edge.cdn.test', 0x22),
  ],
  // 70 fit 1232 octets and not 512, 300 fit neither.
  'many.example.com': numbered(70).map((i) => ({ ...a('', `198.18.1.${i}`), owner: pointer(12) })),
  'most.example.com': numbered(300).map((i) => ({ ...a('', `198.18.${2 + (i >> 8)}.${i & 255}`), owner: pointer(12) })),
  'huge.example.com': numbered(240).map(() => ({
    owner: pointer(12),
    type: 16,
    data: [255, ...Array<number>(255).fill(120)],
  })),
  'odd.example.com': [{ owner: 'odd.example.com', type: 65280, data: [1, 2, 3, 4] }],
  'echo.example.com': [],
  '_x._tcp.example.com': [
    { owner: '_x._tcp.example.com', type: 33, data: [0, 1, 0, 1, 1, 187, ...nameOctets('api.example.com')] },
  ],
  '20.0.18.198.in-addr.arpa': [{ owner: '20.0.18.198.in-addr.arpa', type: 12, data: nameOctets('api.example.com') }],
  'version.bind': [text('version.bind', 'upstream 1', 3)],
}

/** A resolver with EDNS: what does not fit its client's size goes out empty with TC. */
function answerOf(query: Uint8Array, transport: 'udp' | 'tcp'): Uint8Array {
  const question = readQuestion(query) ?? expect.fail('no question')
  const edns = readEdns(query, headerOctets + question.octets.length, count(query, 10)) ?? 'none'
  const records = zone[question.name]
  const [own, rest] = [question.qtype === 5 ? ['www'] : [], records ?? []]
  const answers =
    own.length > 0
      ? []
      : rest.filter(
          ({ type }) => type === question.qtype || type === 5 || (rest[0]?.type === 5 && type === question.qtype),
        )
  const subnet = optionOf(edns, 8)
  const echoed =
    question.name === 'echo.example.com' && subnet !== undefined ? [[8, [...subnet]] as [number, number[]]] : []
  const bits = ((query[2] ?? 0) << 8) | (query[3] ?? 0)
  const isNegative = answers.length === 0
  // AD to whoever shows that it understands it; CD and RD as they came.
  const wantsAd = (bits & 0x20) !== 0 || (edns !== 'none' && edns.dnssecOk)
  const parts: Parts = {
    id: count(query, 0),
    flags: 0x8080 | (bits & 0x0110) | (wantsAd ? 0x20 : 0) | (records === undefined ? 3 : 0),
    name: question.name,
    type: question.qtype,
    class: question.qclass,
    answers,
    authorities: isNegative && question.qclass === 1 ? [soa('example.com', 60, 60)] : [],
    additionals: edns === 'none' ? [] : [opt(1232, { dnssecOk: edns.dnssecOk, options: echoed })],
  }
  const whole = message(parts)
  if (transport === 'tcp' || whole.length <= (edns === 'none' ? 512 : edns.udpOctets)) return whole
  return message({ ...parts, flags: (parts.flags ?? 0) | 0x200, answers: [], authorities: [] })
}

async function startUpstream(): Promise<{ udp: UdpSocket; tcp: Server }> {
  const udp = createSocket('udp4')
  udp.on('message', (query: Buffer, from: RemoteInfo) => udp.send(answerOf(query, 'udp'), from.port, from.address))
  udp.bind(5300, '127.0.0.1')
  await once(udp, 'listening')
  const tcp = createServer((connection) => {
    let got: Buffer = Buffer.alloc(0)
    connection.on('error', () => undefined)
    connection.on('data', (chunk: Buffer) => {
      got = Buffer.concat([got, chunk])
      for (; got.length >= 2 && got.length >= 2 + got.readUInt16BE(0); got = got.subarray(2 + got.readUInt16BE(0)))
        connection.write(framed(answerOf(got.subarray(2, 2 + got.readUInt16BE(0)), 'tcp')))
    })
  })
  await once(tcp.listen(5300, '127.0.0.1'), 'listening')
  return { udp, tcp }
}

const muslProgram = `
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
  int error = getaddrinfo(argv[1], 0, &hints, &found);
  if (error) { puts(gai_strerror(error)); return 1; }
  for (each = found; each; each = each->ai_next) {
    char text[64];
    getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
    puts(text);
  }
}
`
const caresProgram = `
import pycares, select, sys, socket
channel = pycares.Channel(timeout=2, tries=2)
def done(result, error):
    print(pycares.errno.strerror(error) if error else '\\n'.join(sorted(result.addresses)))
channel.gethostbyname(sys.argv[1], socket.AF_INET, done)
while True:
    reading, writing = channel.getsock()
    if not reading and not writing: break
    ready = select.select(reading, writing, [], channel.timeout() or 0.1)
    for fd in ready[0]: channel.process_fd(fd, pycares.ARES_SOCKET_BAD)
    for fd in ready[1]: channel.process_fd(pycares.ARES_SOCKET_BAD, fd)
    if not ready[0] and not ready[1]: channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
`

describe.skipIf(reason !== undefined)(`clients ${reason ?? ''}`, () => {
  let web: Host
  let world: Host
  let upstream: Awaited<ReturnType<typeof startUpstream>>
  let agent: Agent
  let folder: string
  const outcomes: Outcome[] = []

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
    sh('ip route add 198.18.0.0/15 via 10.3.0.2; ip route add 2001:db8::/32 via fd03::2')
    await answerEverywhere(world)
    upstream = await startUpstream()
    const rules = names('{matchPattern: "**.example.com"}, {matchPattern: "**.in-addr.arpa"}, {matchName: version.bind}')
    agent = await startTestAgent(pod('web', ['10.1.0.2', 'fd01::2']) + policy('web', rules), { onOutcome: (outcome) => outcomes.push(outcome) })
    folder = await mkdtemp(join(tmpdir(), 'namegate-clients-'))
    await writeFile(join(folder, 'musl.c'), muslProgram)
    await writeFile(join(folder, 'cares.py'), caresProgram)
  })
  afterAll(async () => {
    await agent?.close()
    upstream?.udp.close()
    upstream?.tcp.close()
    for (const host of [web, world]) host?.stop()
    if (folder !== undefined) await rm(folder, { recursive: true })
  })

  /** Runs a script in the workload, with a resolver configuration of its own; gives what it printed. */
  async function under(script: string, resolvConf = 'nameserver 9.9.9.9'): Promise<string> {
    const file = join(folder, 'resolv.conf')
    await writeFile(file, `${resolvConf}\n`)
    const { out, err } = await web.run(`unshare --mount sh -c 'mount --bind ${file} /etc/resolv.conf; exec bash -s' <<'end'\n${script}\nend`)
    return (out + err).trim()
  }
  const cluster = 'search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\nnameserver 9.9.9.9'
  const connects = (address: string): string => `timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/443' 2>/dev/null && echo yes || echo no`
  const lines = (output: string): string[] => output.split('\n').filter(Boolean)

  describe('glibc', () => {
    const rows: [title: string, conf: string, script: string, want: string][] = [
      ['A and AAAA at once', 'nameserver 9.9.9.9', 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['a search list (ndots:5)', cluster, 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['one after the other', 'options single-request\nnameserver 9.9.9.9', 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['from two ports', 'options single-request-reopen\nnameserver 9.9.9.9', 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['over TCP, both on one connection', 'options use-vc\nnameserver 9.9.9.9', 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['with EDNS and AD', 'options edns0 trust-ad\nnameserver 9.9.9.9', 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['a server over IPv6', 'nameserver 2001:db8::53', 'getent ahosts api.example.com', '198.18.0.20 2001:db8::20'],
      ['a name without AAAA', cluster, 'getent ahosts v4.example.com', '198.18.0.21'],
      ['an alias', cluster, 'getent ahosts www.example.com', '198.18.0.22 2001:db8::22'],
      ['an address backwards', 'nameserver 9.9.9.9', 'getent hosts 198.18.0.20', '198.18.0.20'],
      ['70 addresses, more than UDP without EDNS holds', 'nameserver 9.9.9.9', 'getent ahostsv4 many.example.com | cut -d" " -f1 | sort -u | wc -l', '70'],
      ['300 addresses, more than UDP holds', 'options edns0\nnameserver 9.9.9.9', 'getent ahostsv4 most.example.com | cut -d" " -f1 | sort -u | wc -l', '300'],
      ['a denied name: at once, by every server', cluster + '\nnameserver 8.8.8.8', 'getent ahosts evil.test || echo none', 'none'],
    ]
    for (const [title, conf, script, want] of rows)
      test(title, async () => {
        const said = lines(await under(script, conf)).map((line) => line.split(' ')[0])
        expect([...new Set(said)].sort().join(' ')).toBe(want)
      })
    test('what it was told can be reached', async () =>
      expect(await under(`getent ahosts api.example.com >/dev/null; ${connects('198.18.0.20')}; ${connects('2001:db8::20')}; ${connects('198.18.0.99')}`, cluster)).toBe('yes\nyes\nno'))
  })

  const noMusl = whyWithout('musl-gcc', has('musl-gcc') && has('gcc'))
  describe.skipIf(noMusl !== undefined)(`musl ${noMusl ?? ''}`, () => {
    beforeAll(() => sh(`musl-gcc -static -O1 -o ${folder}/musl ${folder}/musl.c`))
    const rows: [title: string, conf: string, name: string, want: string[]][] = [
      ['A and AAAA at once', 'nameserver 9.9.9.9', 'api.example.com', ['198.18.0.20', '2001:db8::20']],
      ['a search list (ndots:5): what it made up first does not end it', cluster, 'api.example.com', ['198.18.0.20', '2001:db8::20']],
      ['a name without AAAA', cluster, 'v4.example.com', ['198.18.0.21']],
      ['several servers at once', 'nameserver 9.9.9.9\nnameserver 8.8.8.8\nnameserver 2001:db8::53', 'www.example.com', ['198.18.0.22', '2001:db8::22']],
      ['a name that is not there', cluster, 'none.example.com', ['Name does not resolve']],
    ]
    for (const [title, conf, name, want] of rows)
      test(title, async () => expect(lines(await under(`${folder}/musl ${name}`, conf)).sort()).toEqual(want))
    test('what it was told can be reached', async () =>
      expect(await under(`${folder}/musl www.example.com >/dev/null; ${connects('198.18.0.22')}`, cluster)).toBe('yes'))
  })

  const noCares = whyWithout('pycares (c-ares)', hasCares())
  describe.skipIf(noCares !== undefined)(`c-ares ${noCares ?? ''}`, () => {
    const rows: [title: string, conf: string, name: string, want: string | number][] = [
      ['a name', 'nameserver 9.9.9.9', 'api.example.com', '198.18.0.20'],
      ['a search list (ndots:5)', cluster, 'api.example.com', '198.18.0.20'],
      ['an alias', cluster, 'www.example.com', '198.18.0.22'],
      ['300 addresses: TCP', 'nameserver 9.9.9.9', 'most.example.com', 300],
      // It takes REFUSED for a server that is no good, and asks the next.
      ['a denied name', 'nameserver 9.9.9.9', 'evil.test', 'Could not contact DNS servers'],
    ]
    for (const [title, conf, name, want] of rows)
      test(title, async () => {
        const said = lines(await under(`${python} ${folder}/cares.py ${name}`, conf))
        expect(typeof want === 'number' ? said.length : said.join(' ')).toBe(want)
      })
  })

  const noResolved = reason ?? (resolved === undefined ? 'skipped: there is no systemd-resolved' : undefined)
  describe.skipIf(noResolved !== undefined)(`systemd-resolved ${noResolved ?? ''}`, () => {
    test('names, aliases, large answers; a denied name is refused', async () => {
      const stub = `${folder}/resolved.sh`
      await writeFile(stub, `mount -t tmpfs none /run; mkdir /run/systemd; mount -t tmpfs none /etc/systemd
        printf '[Resolve]\\nDNS=9.9.9.9\\nDNSSEC=no\\nMulticastDNS=no\\nLLMNR=no\\n' > /etc/systemd/resolved.conf
        ${resolved} 2>/dev/null & daemon=$!
        # It says to nobody but systemd when it is ready.
        for i in $(seq 200); do dig +short +tries=1 +time=1 @127.0.0.53 localhost >/dev/null && break; done
        for name in api.example.com www.example.com; do dig +short @127.0.0.53 $name; done
        dig +short @127.0.0.53 most.example.com | wc -l; dig @127.0.0.53 evil.test | grep -o 'status: [A-Z]*'; kill $daemon\n`)
      const { out } = await web.run(`unshare --mount bash ${stub}`)
      expect(lines(out)).toEqual(['198.18.0.20', 'edge.cdn.test.', '198.18.0.22', '300', expect.stringMatching(/REFUSED|SERVFAIL/)])
    })
  })

  const digger = (program: string, defaults: string) => async (args: string) => (await under(`${program} ${defaults} ${args}`)) // prettier-ignore
  describe('dig', () => {
    const dig = digger('dig', '+tries=1 +time=3 @9.9.9.9')
    const rows: [title: string, args: string, want: RegExp][] = [
      ['EDNS comes back with ours', 'api.example.com', /EDNS: version: 0, flags:; udp: 1232[\s\S]*198\.18\.0\.20/],
      ['without EDNS', '+noedns api.example.com', /^(?![\s\S]*EDNS)[\s\S]*NOERROR[\s\S]*198\.18\.0\.20/],
      ['a later version of EDNS', '+edns=1 +noednsneg api.example.com', /status: BADVERS/],
      ['DO and AD', '+dnssec api.example.com', /flags: qr rd ra ad;[\s\S]*flags: do; udp/],
      ['AD alone', '+adflag +noedns api.example.com', /flags: qr rd ra ad;/],
      ['neither', '+noadflag +noedns api.example.com', /flags: qr rd ra;/],
      ['CD', '+cdflag api.example.com', /flags: qr rd ra ad cd;/],
      ['no recursion', '+norecurse api.example.com', /flags: qr ra ad;[\s\S]*198\.18\.0\.20/],
      ['a cookie is between two neighbours only', '+cookie api.example.com', /^(?![\s\S]*COOKIE)[\s\S]*NOERROR/],
      ['client subnet goes there and back', '+subnet=192.0.2.0/24 echo.example.com TXT', /CLIENT-SUBNET: 192\.0\.2\.0\/24\/0/],
      ['an option that nobody knows', '+ednsopt=65001:c0ffee api.example.com', /NOERROR[\s\S]*198\.18\.0\.20/],
      ['padding and keepalive stay on their hop', '+padding=128 +keepalive +tcp api.example.com', /^(?![\s\S]*PAD)[\s\S]*NOERROR/],
      ['70 addresses without EDNS: TC, then TCP', '+noedns many.example.com', /Truncated, retrying in TCP mode[\s\S]*ANSWER: 70/],
      ['… and nothing in the truncated one', '+noedns +ignore many.example.com', /flags: qr tc rd ra[^;]*; QUERY: 1, ANSWER: 0/],
      ['70 addresses within 1232 octets', '+ignore many.example.com', /flags: qr rd[\s\S]*ANSWER: 70/],
      ['300 addresses: TC, then TCP', 'most.example.com', /retrying in TCP mode[\s\S]*ANSWER: 300/],
      ['300 addresses to who takes 65535 octets: not as fragments', '+bufsize=65535 +ignore most.example.com', /flags: qr tc/],
      ['62 000 octets over TCP', '+tcp huge.example.com TXT', /ANSWER: 240[\s\S]*MSG SIZE {2}rcvd: 64\d\d\d/],
      ['a type that nobody knows', 'odd.example.com TYPE65280', /TYPE65280\s+\\# 4 01020304/],
      ['SRV', '_x._tcp.example.com SRV', /SRV\s+1 1 443 api\.example\.com\./],
      ['PTR', '-x 198.18.0.20', /PTR\s+api\.example\.com\./],
      ['class CH', 'CH TXT version.bind', /CH\s+TXT\s+"upstream 1"/],
      ['class CH of a name that is not allowed', 'CH TXT hostname.bind', /REFUSED[\s\S]*EDE: 15 \(Blocked\)/],
      ['class ANY', '-c ANY api.example.com', /REFUSED[\s\S]*EDE: 21 \(Not Supported\)/],
      ['a zone transfer', 'AXFR example.com', /Transfer failed/],
      ['another opcode', '+opcode=status api.example.com', /status: NOTIMP/],
      ['only a header', '+header-only', /status: FORMERR/],
      ['case comes back as it was asked', '+noall +question aPI.exAmple.COM', /aPI\.exAmple\.COM\./],
      ['NXDOMAIN with its SOA', 'none.example.com', /NXDOMAIN[\s\S]*SOA/],
      ['a refusal says why', 'evil.test', /REFUSED[\s\S]*EDE: 15 \(Blocked\): \(namegate: evil\.test A: no DNS or toFQDNs rule matches/],
    ]
    for (const [title, args, want] of rows) test(title, async () => expect(await dig(args)).toMatch(want))
    test('many questions on one connection', async () => {
      const said = await dig('+tcp +keepopen +short api.example.com v4.example.com www.example.com api.example.com AAAA')
      expect(lines(said)).toEqual(expect.arrayContaining(['198.18.0.20', '198.18.0.21', '198.18.0.22']))
      expect(said).not.toMatch(/reset|timed out|end of file/)
    })
  })

  const noKdig = whyWithout('kdig', has('kdig'))
  describe.skipIf(noKdig !== undefined)(`kdig ${noKdig ?? ''}`, () => {
    const kdig = digger('kdig', '+retry=0 +time=3 @9.9.9.9')
    const rows: [title: string, args: string, want: RegExp][] = [
      ['a name', 'api.example.com', /NOERROR[\s\S]*198\.18\.0\.20/],
      ['EDNS with DO', '+edns +dnssec api.example.com', /Flags: qr rd ra ad[\s\S]*EDNS PSEUDOSECTION|NOERROR[\s\S]*198\.18\.0\.20/],
      ['300 addresses', 'most.example.com', /ANSWER: 300/],
      ['TCP, kept', '+tcp +keepopen api.example.com v4.example.com', /198\.18\.0\.20[\s\S]*198\.18\.0\.21/],
      ['TCP Fast Open', '+tcp +fastopen api.example.com', /198\.18\.0\.20/],
      ['NSID and padding', '+nsid +padding=128 api.example.com', /198\.18\.0\.20/],
      ['a refusal', 'evil.test', /REFUSED/],
      ['type and class by number', '-t TYPE65280 odd.example.com', /TYPE65280/],
    ]
    for (const [title, args, want] of rows) test(title, async () => expect(await kdig(args)).toMatch(want))
  })

  const noDrill = whyWithout('drill', has('drill'))
  describe.skipIf(noDrill !== undefined)(`drill ${noDrill ?? ''}`, () => {
    const drill = digger('drill', '')
    const rows: [title: string, args: string, want: RegExp][] = [
      ['a name', 'api.example.com @9.9.9.9', /NOERROR[\s\S]*198\.18\.0\.20/],
      ['DNSSEC wanted', '-D api.example.com @9.9.9.9', /EDNS: version 0; flags: do/],
      ['70 addresses, by EDNS', '-b 1232 many.example.com @9.9.9.9', /ANSWER: 70/],
      ['300 addresses: it says TC, and one asks by TCP', 'most.example.com @9.9.9.9', /qr tc[\s\S]*truncated/],
      ['300 addresses by TCP', '-t most.example.com @9.9.9.9', /ANSWER: 300/],
      ['TCP', '-t api.example.com @9.9.9.9', /198\.18\.0\.20/],
      ['backwards', '-x 198.18.0.20 @9.9.9.9', /PTR\s+api\.example\.com/],
      ['class CH', 'version.bind CH TXT @9.9.9.9', /upstream 1/],
      ['a refusal', 'evil.test @9.9.9.9', /REFUSED/],
    ]
    for (const [title, args, want] of rows) test(title, async () => expect(await drill(args)).toMatch(want))
  })

  test('nothing of all this failed inside, and what was leased lies in the policy', async () => {
    await until(() => outcomes.length > 0)
    expect(outcomes.filter((outcome) => outcome.kind === 'failed')).toEqual([])
    for (const { name } of agent.leases.list()) expect(name).toMatch(/\.example\.com$/)
  })
}) // prettier-ignore
