// The ways to an upstream, on real loopback sockets: servers without EDNS, with cookies, slow ones, kept TCP connections, TLS with a CA of its own.
import { execFileSync } from 'node:child_process'
import { createSocket, type RemoteInfo } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { monotonic } from '../../../src/clock.ts'
import { framed } from '../../../src/proxy/frame.ts'
import { makeRoutes } from '../../../src/proxy/routes.ts'
import {
  makeUpstreams,
  type Server,
  type UpstreamOptions,
  type UpstreamReply,
  type Upstreams,
} from '../../../src/proxy/upstream.ts'
import { count, headerOctets, optionOf, readEdns, readQuestion, type Edns } from '../../../src/wire/message.ts'
import { wireFromText, type WireName } from '../../../src/wire/name.ts'
import { a, opt, response, type Parts } from '../wire/build.ts'
import { at, flags, questionOf, raise } from './world.ts'

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0)) close()
})

interface Heard {
  readonly id: number
  readonly name: string
  /** As it was written. */
  readonly written: string
  readonly edns: Edns | 'none'
}
function hear(wire: Uint8Array): Heard {
  const question = readQuestion(wire) ?? raise('no question')
  const edns = readEdns(wire, headerOctets + question.octets.length, count(wire, 10)) ?? raise('no EDNS')
  const written = String.fromCharCode(...question.octets.subarray(1, -5).map((octet) => (octet < 32 ? 46 : octet)))
  return { id: count(wire, 0), name: question.name, written, edns }
}

async function udp(
  answer: (heard: Heard, count: number) => Uint8Array | undefined,
): Promise<Server & { heard: Heard[] }> {
  const socket = createSocket('udp4')
  closers.push(() => socket.close())
  const heard: Heard[] = []
  socket.on('message', (wire: Buffer, from: RemoteInfo) => {
    const last = hear(wire)
    const reply = answer(last, heard.push(last))
    if (reply !== undefined) socket.send(reply, from.port, from.address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return { address: at('127.0.0.1'), port: socket.address().port, heard }
}

/** Calls `serve` with every message of a connection. */
function readMessages(connection: Socket, serve: (message: Uint8Array) => void): void {
  let got: Buffer = Buffer.alloc(0)
  connection.on('error', () => undefined)
  connection.on('data', (chunk: Buffer) => {
    got = Buffer.concat([got, chunk])
    while (got.length >= 2 && got.length >= 2 + got.readUInt16BE(0)) {
      serve(got.subarray(2, 2 + got.readUInt16BE(0)))
      got = got.subarray(2 + got.readUInt16BE(0))
    }
  })
}

function upstreamsOf(servers: readonly Server[], over: Partial<UpstreamOptions> = {}): Upstreams {
  const upstreams = makeUpstreams({ servers, timeoutMillis: 2000, deadlineMillis: 4000, ...over }, monotonic)
  closers.push(upstreams.close)
  return upstreams
}
const ask = (upstreams: Upstreams, name = 'api.example.com'): Promise<UpstreamReply> =>
  upstreams.ask(questionOf({ name }), flags)
const answerTo = ({ id, name }: Heard, last: number, parts: Parts = {}): Uint8Array =>
  response({ id, name, answers: [a(name, `192.0.2.${last}`)], ...parts })
const lastOctet = (reply: UpstreamReply): number | string =>
  reply.kind === 'message' ? (reply.message.at(-1) ?? -1) : reply.text

describe('a server that knows no EDNS', () => {
  const rows: { title: string; formErr: (heard: Heard) => Uint8Array }[] = [
    { title: 'FORMERR', formErr: ({ id, name }) => response({ id, name, flags: 0x8181 }) },
    { title: 'NOTIMP', formErr: ({ id, name }) => response({ id, name, flags: 0x8184 }) },
    {
      title: 'FORMERR as a bare header',
      formErr: ({ id }) => Uint8Array.from([id >> 8, id & 255, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]),
    },
  ]
  for (const { title, formErr } of rows)
    test(`${title}: asked without OPT, and from then on`, async () => {
      const server = await udp((heard) => (heard.edns === 'none' ? answerTo(heard, 1) : formErr(heard)))
      const upstreams = upstreamsOf([server])
      expect(lastOctet(await ask(upstreams))).toBe(1)
      expect(lastOctet(await ask(upstreams))).toBe(1)
      expect(server.heard.map(({ edns }) => edns !== 'none')).toEqual([true, false, false])
    })
  test('FORMERR with OPT is the answer', async () => {
    const server = await udp(({ id, name }) => response({ id, name, flags: 0x8181, additionals: [opt()] }))
    const reply = await ask(upstreamsOf([server]))
    expect(reply.kind === 'message' && reply.message[3]).toBe(0x81)
    expect(server.heard).toHaveLength(1)
  })
})

describe('cookies (RFC 7873)', () => {
  const cookieOf = ({ edns }: Heard): number[] => [...(optionOf(edns, 10) ?? [])]
  test('ours goes out, the server’s comes with it from then on', async () => {
    const server = await udp((heard) =>
      answerTo(heard, 1, {
        additionals: [opt(1232, { options: [[10, [...cookieOf(heard).slice(0, 8), 1, 2, 3, 4, 5, 6, 7, 8]]] })],
      }),
    )
    const upstreams = upstreamsOf([server])
    await ask(upstreams)
    await ask(upstreams)
    const [first, second] = server.heard.map(cookieOf)
    expect(first).toHaveLength(8)
    expect(second).toEqual([...(first ?? []), 1, 2, 3, 4, 5, 6, 7, 8])
  })
  test('BADCOOKIE: asked again with the cookie that came with it', async () => {
    const server = await udp((heard) => {
      const own = cookieOf(heard)
      if (own.length === 16) return answerTo(heard, 7)
      return response({
        id: heard.id,
        name: heard.name,
        flags: 0x8187,
        additionals: [opt(1232, { extendedRcode: 1, options: [[10, [...own, 9, 9, 9, 9, 9, 9, 9, 9]]] })],
      })
    })
    expect(lastOctet(await ask(upstreamsOf([server])))).toBe(7)
  })
  test('an answer with another’s cookie is a stranger’s, and the true one is waited for', async () => {
    const socket = createSocket('udp4')
    closers.push(() => socket.close())
    socket.on('message', (wire: Buffer, from: RemoteInfo) => {
      const heard = hear(wire)
      socket.send(
        answerTo(heard, 66, { additionals: [opt(1232, { options: [[10, Array<number>(16).fill(0)]] })] }),
        from.port,
        from.address,
      )
      socket.send(answerTo(heard, 1), from.port, from.address)
    })
    socket.bind(0, '127.0.0.1')
    await once(socket, 'listening')
    const upstreams = upstreamsOf([{ address: at('127.0.0.1'), port: socket.address().port }])
    expect(lastOctet(await ask(upstreams))).toBe(1)
    expect(upstreams.strangers()).toBe(1)
  })
})

describe('names in random case (0x20)', () => {
  /** A server over UDP, and over TCP on the same port unless `tcp` is undefined; each says in which case it gives names back. */
  async function casing(udpCase: (written: string) => string, tcpCase: ((written: string) => string) | undefined) {
    const heard: string[] = []
    const server = await udp(({ id, written }) => (heard.push(`udp ${written}`), answerTo({ id, name: udpCase(written), written, edns: 'none' }, 1)))
    if (tcpCase !== undefined) {
      const tcp = createServer((connection) =>
        readMessages(connection, (message) => {
          const { id, written } = hear(message)
          heard.push(`tcp ${written}`)
          connection.write(framed(answerTo({ id, name: tcpCase(written), written, edns: 'none' }, 2)))
        }),
      )
      closers.push(() => tcp.close())
      await once(tcp.listen(server.port, '127.0.0.1'), 'listening')
    }
    return { server, heard }
  } // prettier-ignore
  const keeps = (written: string): string => written
  const folds = (written: string): string => written.toLowerCase()
  const long = 'abcdefghijklmnopqrstuvwxyz.abcdefghijklmnopqrstuvwxyz.example'
  const rows: [title: string, mixCase: 'off' | 'prefer' | 'require', udpCase: typeof keeps, tcpCase: typeof keeps | undefined, got: unknown[], ways: string][] = [
    ['off: as the client wrote it', 'off', folds, keeps, [1, 1], 'plain udp, plain udp'],
    ['a server that keeps it', 'require', keeps, undefined, [1, 1], 'mixed udp, mixed udp'],
    ['a forger over UDP: TCP, each time', 'prefer', folds, keeps, [2, 2], 'mixed udp, mixed tcp, mixed udp, mixed tcp'],
    ['a server that folds, preferred: then over UDP', 'prefer', folds, folds, [2, 1], 'mixed udp, mixed tcp, plain udp'],
    ['a server that folds, required: then over TCP', 'require', folds, folds, [2, 2], 'mixed udp, mixed tcp, plain tcp'],
    ['a server that folds and has no TCP, preferred', 'prefer', folds, undefined, [1], 'mixed udp, plain udp'],
  ] // prettier-ignore
  for (const [title, mixCase, udpCase, tcpCase, got, ways] of rows)
    test(title, async () => {
      const { server, heard } = await casing(udpCase, tcpCase)
      const upstreams = upstreamsOf([server], { mixCase })
      const replies: unknown[] = []
      for (let i = 0; i < got.length; i++) replies.push(lastOctet(await ask(upstreams, long)))
      expect(replies).toEqual(got)
      const way = (line: string): string => `${line.slice(4) === long ? 'plain' : 'mixed'} ${line.slice(0, 3)}`
      expect(heard.map(way).join(', ')).toBe(ways)
      for (const line of heard) expect(line.slice(4).toLowerCase()).toBe(long)
    })
  test('a server that folds and has no TCP, required: a failure', async () => {
    const { server } = await casing(folds, undefined)
    expect(lastOctet(await ask(upstreamsOf([server], { mixCase: 'require' }), long))).toMatch(/over TCP: ECONNREFUSED/)
  })
  test('each question in a case of its own', async () => {
    const { server, heard } = await casing(keeps, undefined)
    const upstreams = upstreamsOf([server], { mixCase: 'prefer' })
    for (let i = 0; i < 20; i++) await ask(upstreams, long)
    expect(new Set(heard).size).toBe(20)
  })
})

describe('slow servers', () => {
  test('another is asked beside one that is slow; the first good answer counts', async () => {
    const silent = await udp(() => undefined)
    const live = await udp((heard) => answerTo(heard, 2))
    const started = performance.now()
    expect(lastOctet(await ask(upstreamsOf([silent, live], { hedgeMillis: 30 })))).toBe(2)
    expect(performance.now() - started).toBeLessThan(1500)
    expect(silent.heard).toHaveLength(1)
  })
  test('a lone one is asked again, and its late answer to the first counts', async () => {
    const server = await udp((heard, n) => (n === 1 ? undefined : answerTo(heard, n)))
    expect(lastOctet(await ask(upstreamsOf([server], { hedgeMillis: 20 })))).toBe(2)
  })
  test('one that stays silent is asked last, and now and then first', async () => {
    const silent = await udp(() => undefined)
    const other = await udp(({ id, name }) => response({ id, name, flags: 0x8182 }))
    const upstreams = upstreamsOf([silent, other], { timeoutMillis: 20, deadlineMillis: 60 })
    for (let i = 0; i < 3; i++) await ask(upstreams)
    const before = silent.heard.length
    expect((await ask(upstreams)).kind).toBe('message')
    expect(other.heard.length).toBeGreaterThan(3)
    expect(silent.heard.length - before).toBeLessThanOrEqual(1)
  })
})

describe('streams', () => {
  test('one TCP connection carries many questions, answered in any order', async () => {
    let connections = 0
    const server = createServer((connection) => {
      connections++
      const held: Uint8Array[] = []
      readMessages(connection, (message) => {
        held.push(message)
        if (held.length === 3)
          for (const each of held.reverse())
            connection.write(framed(answerTo(hear(each), Number(hear(each).name.slice(1)))))
      })
    })
    closers.push(() => server.close())
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const upstreams = upstreamsOf([
      { address: at('127.0.0.1'), port: (server.address() as AddressInfo).port, transport: 'tcp' },
    ])
    expect((await Promise.all(['n1', 'n2', 'n3'].map((name) => ask(upstreams, name)))).map(lastOctet)).toEqual([
      1, 2, 3,
    ])
    expect(connections).toBe(1)
  })
  test('a kept connection that the server closed is opened anew, unseen', async () => {
    let connections = 0
    const server = createServer((connection) => {
      connections++
      let seen = 0
      readMessages(connection, (message) => {
        // The second question on a connection meets its end.
        if (++seen === 2) connection.destroy()
        else connection.write(framed(answerTo(hear(message), connections)))
      })
    })
    closers.push(() => server.close())
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const upstreams = upstreamsOf([
      { address: at('127.0.0.1'), port: (server.address() as AddressInfo).port, transport: 'tcp' },
    ])
    expect(lastOctet(await ask(upstreams))).toBe(1)
    expect(lastOctet(await ask(upstreams))).toBe(2)
  })
})

describe('DNS over TLS (RFC 7858)', () => {
  const folder = mkdtempSync(join(tmpdir(), 'namegate-dot-'))
  const file = (name: string): string => join(folder, name)
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' })
  beforeAll(() => {
    for (const ca of ['ca', 'other'])
      openssl(
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-keyout',
        `${ca}.key`,
        '-out',
        `${ca}.pem`,
        '-days',
        '2',
        '-subj',
        `/CN=${ca}`,
      )
    openssl(
      'req',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-keyout',
      'dns.key',
      '-out',
      'dns.csr',
      '-subj',
      '/CN=dns',
      '-addext',
      'subjectAltName=DNS:dns.test',
    )
    openssl(
      'x509',
      '-req',
      '-in',
      'dns.csr',
      '-CA',
      'ca.pem',
      '-CAkey',
      'ca.key',
      '-CAcreateserial',
      '-out',
      'dns.pem',
      '-days',
      '2',
      '-copy_extensions',
      'copy',
    )
  })
  afterAll(() => rmSync(folder, { recursive: true }))

  async function serve(): Promise<{ port: number; questions: () => number }> {
    let questions = 0
    const server = createTlsServer(
      { key: readFileSync(file('dns.key')), cert: readFileSync(file('dns.pem')), ALPNProtocols: ['dot'] },
      (connection) =>
        readMessages(connection, (message) => {
          questions++
          connection.write(framed(answerTo(hear(message), 5)))
        }),
    )
    server.on('tlsClientError', () => undefined)
    closers.push(() => server.close())
    await once(server.listen(0, '127.0.0.1'), 'listening')
    return { port: (server.address() as AddressInfo).port, questions: () => questions }
  }
  const rows = [
    { title: 'the right name and signer', serverName: 'dns.test', ca: 'ca.pem', good: true },
    { title: 'another name', serverName: 'evil.test', ca: 'ca.pem', good: false },
    { title: 'no name: the certificate does not bear the address', ca: 'ca.pem', good: false },
    { title: 'another signer', serverName: 'dns.test', ca: 'other.pem', good: false },
    { title: 'a signer that nobody knows', serverName: 'dns.test', good: false },
  ]
  for (const { title, serverName, ca, good } of rows)
    test(`${title}: ${good ? 'asked' : 'not a question leaves'}`, async () => {
      const { port, questions } = await serve()
      const server: Server = {
        address: at('127.0.0.1'),
        port,
        transport: 'tls',
        ...(serverName === undefined ? {} : { serverName }),
        ...(ca === undefined ? {} : { caFile: file(ca) }),
      }
      const reply = await ask(upstreamsOf([server]))
      expect(good ? lastOctet(reply) : reply.kind).toBe(good ? 5 : 'failed')
      expect(questions()).toBe(good ? 1 : 0)
    })
})

describe('routes', () => {
  test('the longest suffix counts, at labels, whatever the case; the rest goes elsewhere', async () => {
    const servers = await Promise.all([1, 2, 3].map((n) => udp((heard) => answerTo(heard, n))))
    const [cluster, zone, rest] = servers.map((server) => upstreamsOf([server]))
    const wire = (text: string): WireName => wireFromText(text) ?? raise(text)
    const routes = makeRoutes(
      [
        { suffixes: [wire('cluster.local')], upstreams: cluster ?? raise('') },
        { suffixes: [wire('dev.cluster.local')], upstreams: zone ?? raise('') },
      ],
      rest ?? raise(''),
    )
    const rows: readonly (readonly [string, number])[] = [
      ['db.cluster.local', 1],
      ['DB.Cluster.LOCAL', 1],
      ['cluster.local', 1],
      ['a.dev.cluster.local', 2],
      ['notcluster.local', 3],
      ['example.com', 3],
    ]
    for (const [name, server] of rows) expect([name, lastOctet(await ask(routes, name))]).toEqual([name, server])
  })
  test('a route whose servers fail does not fall back to others, who would learn the name', async () => {
    const failing = await udp(({ id, name }) => response({ id, name, flags: 0x8182 }))
    const rest = await udp((heard) => answerTo(heard, 3))
    const routes = makeRoutes([{ suffixes: [wireFromText('local') ?? raise('')], upstreams: upstreamsOf([failing]) }], upstreamsOf([rest])) // prettier-ignore
    await ask(routes, 'db.local')
    expect(rest.heard).toHaveLength(0)
  })
})
