// Asking upstreams over real loopback sockets. Servers here are a few lines each and note what they were asked.
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Server as TcpServer, type Socket } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { monotonic } from '../../../src/clock.ts'
import { framed } from '../../../src/proxy/frame.ts'
import {
  makeUpstreams,
  pendingMax,
  type Server,
  type UpstreamReply,
  type Upstreams,
} from '../../../src/proxy/upstream.ts'
import { count } from '../../../src/wire/message.ts'
import { a, response, type Parts } from '../wire/build.ts'
import { at, flags, questionOf } from './world.ts'

const q = 'api.example.com'
const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0)) close()
})

type Say = (reply: Uint8Array) => void
interface Heard {
  readonly id: number
  readonly port: number
}
interface Fake extends Server {
  readonly heard: Heard[]
}

/** A server on a free port; `answer` gets each query's ID and how to answer it, as often as it likes. */
async function serveUdp(answer: (id: number, say: Say) => void, address = '127.0.0.1', port = 0): Promise<Fake> {
  const socket: UdpSocket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  closers.push(() => socket.close())
  const heard: Heard[] = []
  socket.on('message', (wire: Buffer, from: RemoteInfo) => {
    heard.push({ id: count(wire, 0), port: from.port })
    answer(count(wire, 0), (reply) => socket.send(reply, from.port, from.address))
  })
  socket.bind(port, address)
  await once(socket, 'listening')
  return { address: at(address), port: socket.address().port, heard }
}

async function serveTcp(port: number, answer: (id: number, connection: Socket) => void): Promise<void> {
  const server: TcpServer = createServer((connection) => {
    connection.on('error', () => undefined)
    connection.once('data', (wire: Buffer) => answer(count(wire, 2), connection))
  })
  closers.push(() => server.close())
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
}

/** UDP and TCP on one port: the port of UDP is random, so TCP may find it taken; then another pair is tried. */
async function serveBoth(udp: Parameters<typeof serveUdp>[0], tcp: Parameters<typeof serveTcp>[1]): Promise<Fake> {
  for (;;) {
    const server = await serveUdp(udp)
    try {
      await serveTcp(server.port, tcp)
      return server
    } catch {
      continue
    }
  }
}

/** A port of 127.0.0.1 on which nothing listens. */
async function closedPort(): Promise<Server> {
  const socket = createServer().listen(0, '127.0.0.1')
  await once(socket, 'listening')
  const { port } = socket.address() as AddressInfo
  socket.close()
  await once(socket, 'close')
  return { address: at('127.0.0.1'), port }
}

function upstreamsOf(servers: readonly Server[], { timeoutMillis = 2000, deadlineMillis = 4000 } = {}): Upstreams {
  const upstreams = makeUpstreams({ servers, timeoutMillis, deadlineMillis }, monotonic)
  closers.push(upstreams.close)
  return upstreams
}
const ask = (upstreams: Upstreams, parts: Parts = {}): Promise<UpstreamReply> => upstreams.ask(questionOf(parts), flags)
/** The last octet of the answer's address, the rcode of an answer without, or why there is none. */
function gist(reply: UpstreamReply): string {
  if (reply.kind === 'failed') return reply.reason
  const { message } = reply
  return count(message, 6) > 0 ? `address ${message.at(-1)}` : `rcode ${(message[3] ?? 0) & 0xf}`
}

const good = (id: number, tail = 1, parts: Parts = {}): Uint8Array =>
  response({ id, answers: [a(q, `192.0.2.${tail}`)], ...parts })
const bad = (id: number, rcode = 2): Uint8Array => response({ id, flags: 0x8180 | rcode })
const truncated = (id: number): Uint8Array => response({ id, flags: 0x8380 })
const silent = (): void => undefined

describe('one server', () => {
  for (const address of ['127.0.0.1', '::1'])
    test(`answers, at ${address}`, async () => {
      const server = await serveUdp((id, say) => say(good(id)), address)
      const upstreams = upstreamsOf([server])
      expect(gist(await ask(upstreams))).toBe('address 1')
      expect(upstreams.healthy()).toBe(true)
    })

  const strangers: [title: string, stranger: (id: number) => Uint8Array][] = [
    ['another ID', (id) => good(id ^ 1, 66)],
    [
      'our ID but another question',
      (id) => response({ id, name: 'evil.test', answers: [a('evil.test', '192.0.2.66')] }),
    ],
    ['our ID but another type', (id) => good(id, 66, { type: 28 })],
    ['our query', (id) => good(id, 66, { flags: 0x0100 })],
    ['less than a header', () => new Uint8Array(3)],
  ]
  for (const [title, stranger] of strangers)
    test(`says ${title} first: not an answer, and the wait goes on`, async () => {
      const server = await serveUdp((id, say) => {
        say(stranger(id))
        say(good(id))
      })
      const upstreams = upstreamsOf([server])
      expect(gist(await ask(upstreams))).toBe('address 1')
      expect(upstreams.strangers()).toBe(1)
      expect(server.heard).toHaveLength(1)
    })

  test('answers in another order than it was asked', async () => {
    const held: (() => void)[] = []
    const server = await serveUdp((id, say) => {
      held.push(() => say(good(id, held.length)))
      if (held.length === 3) for (const answer of held.reverse()) answer()
    })
    const upstreams = upstreamsOf([server])
    const replies = await Promise.all([1, 2, 3].map(() => ask(upstreams)))
    expect(replies.map(gist)).toEqual(['address 3', 'address 3', 'address 3'])
    expect(upstreams.strangers()).toBe(0)
  })

  test('loses a datagram: it is asked again', async () => {
    let first = true
    const server = await serveUdp((id, say) => {
      if (!first) say(good(id))
      first = false
    })
    expect(gist(await ask(upstreamsOf([server], { timeoutMillis: 50 })))).toBe('address 1')
    expect(server.heard).toHaveLength(2)
  })

  test('is silent: a timeout, in the end', async () => {
    const upstreams = upstreamsOf([await serveUdp(silent)], { timeoutMillis: 20, deadlineMillis: 50 })
    expect(await ask(upstreams)).toMatchObject({ kind: 'failed', reason: 'timeout' })
    // One silent name says nothing about the servers; five in a row do.
    expect(upstreams.healthy()).toBe(true)
    for (let i = 0; i < 4; i++) await ask(upstreams)
    expect(upstreams.healthy()).toBe(false)
  })

  test('does not listen: the kernel says so', async () => {
    const reply = await ask(upstreamsOf([await closedPort()]))
    expect(reply).toMatchObject({ kind: 'failed', reason: 'network', text: expect.stringContaining('ECONNREFUSED') as string }) // prettier-ignore
  })

  test('has no route: a failure, not an exception', async () => {
    // The kernel refuses to connect to the broadcast address; so it is with a family without routes.
    const reply = await ask(upstreamsOf([{ address: at('255.255.255.255'), port: 53 }]))
    expect(reply).toMatchObject({ kind: 'failed', reason: 'network', text: expect.stringContaining('EACCES') as string }) // prettier-ignore
  })

  test('is asked with unpredictable IDs from several ports', async () => {
    const server = await serveUdp((id, say) => say(good(id)))
    const upstreams = upstreamsOf([server])
    for (let i = 0; i < 100; i++) await ask(upstreams)
    // 100 of 65536: even 10 collisions are beyond any bad luck.
    expect(new Set(server.heard.map(({ id }) => id)).size).toBeGreaterThan(90)
    expect(new Set(server.heard.map(({ port }) => port)).size).toBeGreaterThan(4)
  })

  test('is asked from new ports after a thousand questions each', async () => {
    const server = await serveUdp((id, say) => say(good(id)))
    const upstreams = upstreamsOf([server])
    // Few at a time, so that the server's socket buffer does not run over.
    for (let i = 0; i < 400; i++) await Promise.all(Array.from({ length: 50 }, () => ask(upstreams)))
    const byPort = new Map<number, number>()
    for (const { port } of server.heard) byPort.set(port, (byPort.get(port) ?? 0) + 1)
    expect(byPort.size, 'ports in all; 16 at a time').toBeGreaterThan(18)
  })
})

describe('several servers', () => {
  test('the next is asked when one is silent, and goes first from then on', async () => {
    const dead = await serveUdp(silent)
    const live = await serveUdp((id, say) => say(good(id)))
    const upstreams = upstreamsOf([dead, live], { timeoutMillis: 50 })
    expect(gist(await ask(upstreams))).toBe('address 1')
    expect(gist(await ask(upstreams))).toBe('address 1')
    expect([dead.heard.length, live.heard.length]).toEqual([1, 2])
  })

  test('the next is asked when one cannot be reached', async () => {
    const live = await serveUdp((id, say) => say(good(id)))
    const servers = [{ address: at('255.255.255.255'), port: 53 }, await closedPort(), live]
    expect(gist(await ask(upstreamsOf(servers)))).toBe('address 1')
  })

  for (const [name, rcode] of [
    ['SERVFAIL', 2],
    ['REFUSED', 5],
  ] as const)
    // prettier-ignore
    test(`the next is asked when one says ${name}, which does not go first from then on`, async () => {
      const failing = await serveUdp((id, say) => say(bad(id, rcode)))
      const live = await serveUdp((id, say) => say(good(id)))
      const upstreams = upstreamsOf([failing, live])
      expect(gist(await ask(upstreams))).toBe('address 1')
      expect(gist(await ask(upstreams))).toBe('address 1')
      expect([failing.heard.length, live.heard.length]).toEqual([1, 2])
    })

  test('one that only says SERVFAIL does not go first because another was silent once', async () => {
    let first = true
    const flaky = await serveUdp((id, say) => {
      if (!first) say(good(id))
      first = false
    })
    const failing = await serveUdp((id, say) => say(bad(id)))
    const upstreams = upstreamsOf([flaky, failing], { timeoutMillis: 50 })
    expect(gist(await ask(upstreams))).toBe('rcode 2')
    expect(gist(await ask(upstreams))).toBe('address 1')
    expect(failing.heard).toHaveLength(1)
  })

  test('when all say SERVFAIL, that is the answer', async () => {
    const servers = [await serveUdp((id, say) => say(bad(id))), await serveUdp((id, say) => say(bad(id)))]
    expect(gist(await ask(upstreamsOf(servers)))).toBe('rcode 2')
    expect(servers.map(({ heard }) => heard.length)).toEqual([1, 1])
  })

  test('NXDOMAIN is an answer: nobody else is asked', async () => {
    const servers = [await serveUdp((id, say) => say(bad(id, 3))), await serveUdp((id, say) => say(good(id)))]
    expect(gist(await ask(upstreamsOf(servers)))).toBe('rcode 3')
    expect(servers[1]?.heard).toHaveLength(0)
  })

  test('a lie does not spare the others: what is truncated and silent over TCP fails over too', async () => {
    const lying = await serveBoth((id, say) => say(truncated(id)), silent)
    const live = await serveUdp((id, say) => say(good(id)))
    expect(gist(await ask(upstreamsOf([lying, live], { timeoutMillis: 100 })))).toBe('address 1')
  })
})

describe('truncated', () => {
  test('is asked again over TCP, under another ID', async () => {
    const ids: number[] = []
    const server = await serveBoth(
      (id, say) => say(truncated(id)),
      (id, connection) => {
        ids.push(id)
        connection.end(framed(good(id, 7)))
      },
    )
    expect(gist(await ask(upstreamsOf([server])))).toBe('address 7')
    expect(ids).toHaveLength(1)
  })

  test('over TCP too, strangers do not end the wait, and frames come in pieces', async () => {
    const server = await serveBoth(
      (id, say) => say(truncated(id)),
      (id, connection) => {
        const frames = Buffer.concat([framed(good(id ^ 1, 66)), framed(new Uint8Array(0)), framed(good(id, 7))])
        const next = (i: number): void => {
          if (i < frames.length) connection.write(frames.subarray(i, i + 9), () => next(i + 9))
        }
        next(0)
      },
    )
    const upstreams = upstreamsOf([server])
    expect(gist(await ask(upstreams))).toBe('address 7')
    expect(upstreams.strangers()).toBe(2)
  })

  const ends: [title: string, tcp: ((id: number, connection: Socket) => void) | undefined][] = [
    ['nothing listens', undefined],
    ['the connection is closed without an answer', (_, connection) => connection.end()],
    ['the connection is closed within an answer', (id, connection) => connection.end(framed(good(id)).subarray(0, 9))],
  ]
  for (const [title, tcp] of ends)
    test(`and over TCP ${title}: a failure`, async () => {
      const udp = (id: number, say: Say): void => say(truncated(id))
      const server = await (tcp === undefined ? serveUdp(udp) : serveBoth(udp, tcp))
      expect(await ask(upstreamsOf([server]))).toMatchObject({ kind: 'failed', reason: 'network' })
    })
})

describe('bounds', () => {
  test(`the ${pendingMax + 1}st question under way fails at once`, async () => {
    const upstreams = upstreamsOf([await serveUdp(silent)], { timeoutMillis: 100, deadlineMillis: 100 })
    const pending = Array.from({ length: pendingMax }, () => ask(upstreams))
    expect(await ask(upstreams)).toMatchObject({ kind: 'failed', reason: 'overloaded' })
    expect(new Set((await Promise.all(pending)).map(gist))).toEqual(new Set(['timeout']))
    expect(gist(await ask(upstreams)), 'and there is room again').toBe('timeout')
  })

  test('no server is configured', async () => expect(gist(await ask(upstreamsOf([])))).toBe('network'))

  test('after closing nothing is asked, but what was under way is answered', async () => {
    const answers: (() => void)[] = []
    let heard = (): void => undefined
    const asked = new Promise<void>((resolve) => (heard = resolve))
    const server = await serveUdp((id, say) => {
      answers.push(() => say(good(id)))
      heard()
    })
    const upstreams = upstreamsOf([server])
    const underWay = ask(upstreams)
    await asked
    upstreams.close()
    expect(gist(await ask(upstreams))).toBe('network')
    answers[0]?.()
    expect(gist(await underWay)).toBe('address 1')
    expect(server.heard).toHaveLength(1)
  })
})
