// The proxy's sockets, by real clients over loopback.
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { addressFromText, addressToText } from '../../../src/net/address.ts'
import { framed } from '../../../src/proxy/frame.ts'
import { addressOf, makeBatches, placeAt, portOf, type Batches } from '../../../src/proxy/datagrams.ts'
import { listen, type Answerer, type Listener, type Listening, type ListenOptions } from '../../../src/proxy/listen.ts'
import { count } from '../../../src/wire/message.ts'
import { query, response } from '../wire/build.ts'
import { promised, settle } from './world.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** How datagrams come and go in the tests of `both`. */
let using: Batches | undefined
function both(title: string, body: () => void): void {
  for (const [how, batches] of [['in batches', makeBatches()], ['one by one', undefined]] as const)
    describe(`${title}, ${how}`, () => {
      beforeEach(() => {
        using = batches
      })
      body()
    })
} // prettier-ignore

const here: Listener = { kind: 'address', address: '127.0.0.1', port: 0 }
/** Answers a query with its own octets, QR set. */
const echo: Answerer = (message) => {
  const reply = Uint8Array.from(message)
  reply[2] = (reply[2] ?? 0) | 0x80
  return Promise.resolve(reply)
}
async function start(
  answer: Answerer,
  listeners: readonly Listener[] = [here],
  onFault?: (error: unknown) => void,
  options?: Partial<ListenOptions>,
): Promise<Listening> {
  const listening = await listen(listeners, answer, onFault, { batches: using, ...options })
  closers.push(listening.close)
  return listening
}

interface Client {
  readonly send: (...messages: Uint8Array[]) => void
  /** IDs of the replies so far. */
  readonly ids: number[]
  /** Resolves when there are so many of them. */
  readonly got: (count: number) => Promise<number[]>
}
async function udpClient(port: number, address = '127.0.0.1', from?: string): Promise<Client> {
  const socket: UdpSocket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
  closers.push(() => socket.close())
  if (from !== undefined) await new Promise<void>((done) => socket.bind({ address: from }, done))
  socket.connect(port, address)
  await once(socket, 'connect')
  const client = collecting((message) => socket.send(message))
  socket.on('message', client.hear)
  return client
}
async function tcpClient(port: number, address = '127.0.0.1'): Promise<Client & { readonly socket: Socket }> {
  const socket = connect({ port, host: address, allowHalfOpen: true })
  closers.push(() => socket.destroy())
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  const client = collecting((message) => socket.write(framed(message)))
  let buffered: Buffer = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk])
    while (buffered.length >= 2 && buffered.length >= 2 + buffered.readUInt16BE(0)) {
      const end = 2 + buffered.readUInt16BE(0)
      client.hear(buffered.subarray(2, end))
      buffered = buffered.subarray(end)
    }
  })
  return { ...client, socket }
}
function collecting(send: (message: Uint8Array) => void): Client & { readonly hear: (message: Uint8Array) => void } {
  const ids: number[] = []
  let heard = (): void => undefined
  return {
    ids,
    send: (...messages) => messages.forEach(send),
    hear(message) {
      ids.push(count(message, 0))
      heard()
    },
    got: (wanted) =>
      new Promise((resolve) => {
        heard = () => {
          if (ids.length >= wanted) resolve(ids)
        }
        heard()
      }),
  }
}
/** Waits until something holds; the test's own timeout ends what never does. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await settle()
}
/** An answerer that holds questions until they are released, by ID. */
function holding(): { answer: Answerer; ids: () => number[]; release: (...ids: number[]) => void } {
  const held = new Map<number, () => void>()
  const answer: Answerer = async (message, source, transport) => {
    const { promise, resolve } = promised<undefined>()
    held.set(count(message, 0), () => resolve(undefined))
    await promise
    return echo(message, source, transport, 0)
  }
  const release = (...ids: number[]): void => {
    for (const id of ids) {
      held.get(id)?.()
      held.delete(id)
    }
  }
  return { answer, ids: () => [...held.keys()], release }
}
const numbers = (length: number, first = 1): number[] => Array.from({ length }, (_, i) => first + i)
const asked = (ids: number[]): Uint8Array[] => ids.map((id) => query({ id }))

both('one port', () => {
  test('for UDP and TCP, IPv4 and IPv6, when any will do', async () => {
    const sources: string[] = []
    const answer: Answerer = (message, source, transport) => {
      sources.push(`${transport} ${addressToText(source)}`)
      return echo(message, source, transport, 0)
    }
    const { port } = await start(answer, [here, { kind: 'address', address: '::1', port: 0 }])
    for (const address of ['127.0.0.1', '::1'])
      for (const client of [await udpClient(port, address), await tcpClient(port, address)]) {
        client.send(query({ id: 5 }))
        expect(await client.got(1)).toEqual([5])
      }
    expect(sources).toEqual(['udp 127.0.0.1', 'tcp 127.0.0.1', 'udp ::1', 'tcp ::1'])
  })

  test('that is taken: rejects, and holds nothing', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    closers.push(() => other.close())
    await once(other, 'listening')
    const { port } = other.address() as AddressInfo
    await expect(start(echo, [{ ...here, port }])).rejects.toMatchObject({ code: 'EADDRINUSE' })
    // UDP was bound before TCP failed: it must be free again.
    const socket = createSocket('udp4')
    closers.push(() => socket.close())
    socket.bind({ port, address: '127.0.0.1', exclusive: true })
    await once(socket, 'listening')
  })

  test('of an address that is not ours: rejects', async () =>
    await expect(start(echo, [{ ...here, address: '192.0.2.1' }])).rejects.toMatchObject({ code: 'EADDRNOTAVAIL' }))
  test('of no listener: rejects', async () => await expect(listen([], echo)).rejects.toThrow('no listener'))
})

describe('TCP', () => {
  test('answers leave as they come, in whatever order', async () => {
    const held = holding()
    const { port } = await start(held.answer)
    const client = await tcpClient(port)
    client.send(...asked([1, 2, 3]))
    await until(() => held.ids().length === 3)
    held.release(3)
    await client.got(1)
    held.release(1, 2)
    expect(await client.got(3)).toEqual([3, 1, 2])
  })

  test('queries may come octet by octet, or many in one piece', async () => {
    const { port } = await start(echo)
    const client = await tcpClient(port)
    client.socket.setNoDelay(true)
    for (const octet of framed(query({ id: 1 }))) client.socket.write(Uint8Array.of(octet))
    await client.got(1)
    client.socket.write(Buffer.concat(asked(numbers(50, 2)).map(framed)))
    expect(await client.got(51)).toEqual(numbers(51))
  })

  test('a query of 65535 octets', async () => {
    const lengths: number[] = []
    const { port } = await start((message) => (lengths.push(message.length), Promise.resolve(response())))
    const client = await tcpClient(port)
    client.send(new Uint8Array(65535))
    await client.got(1)
    expect(lengths).toEqual([65535])
  })

  test('64 in hand: no more is read until one is answered', async () => {
    const held = holding()
    const { port } = await start(held.answer)
    const client = await tcpClient(port)
    client.send(...asked(numbers(100)))
    await until(() => held.ids().length >= 64)
    for (let i = 0; i < 20; i++) await settle()
    expect(held.ids()).toEqual(numbers(64))
    held.release(1)
    await until(() => held.ids().length === 64)
    expect(held.ids()).toEqual(numbers(64, 2))
    held.release(...numbers(64, 2))
    await until(() => held.ids().length === 35)
    held.release(...numbers(35, 66))
    expect(new Set(await client.got(100))).toEqual(new Set(numbers(100)))
  })

  test('a client that does not read its answers is not read from either', async () => {
    let answered = 0
    const huge = new Uint8Array(65535)
    const { port } = await start(() => (answered++, Promise.resolve(huge)))
    const client = await tcpClient(port)
    client.socket.pause()
    client.send(...asked(numbers(2000)))
    // The kernel's buffers take some megabytes; what is beyond them is ours to hold.
    let before = -1
    for (let quiet = 0; quiet < 200; quiet = answered === before ? quiet + 1 : 0) {
      before = answered
      await settle()
    }
    expect(answered).toBeLessThan(1000)
    client.socket.resume()
    await until(() => answered === 2000)
  })

  test('a client may close its half and still gets its answers; then the connection ends', async () => {
    const held = holding()
    const { port } = await start(held.answer)
    const client = await tcpClient(port)
    client.send(...asked([1, 2]))
    client.socket.end()
    await until(() => held.ids().length === 2)
    // So that the closed half is seen before the answers leave.
    for (let i = 0; i < 20; i++) await settle()
    const ended = once(client.socket, 'end')
    held.release(2, 1)
    expect(await client.got(2)).toEqual([2, 1])
    await ended
  })

  let sentAt = 0
  const idlers: [title: string, answer: Answerer, idle: (client: Socket) => void][] = [
    ['that says nothing', echo, () => undefined],
    ['whose question never becomes whole', echo, (socket) => {
      if (performance.now() - sentAt < 5) return
      sentAt = performance.now()
      socket.write(Uint8Array.of(0xff))
    }],
    ['that does not read its answers', () => Promise.resolve(new Uint8Array(65535)), (socket) => {
      socket.pause()
      if (socket.writableLength === 0) socket.write(framed(query()))
    }],
  ] // prettier-ignore
  for (const [title, answer, idle] of idlers)
    test(`a client ${title} is not waited for`, async () => {
      const { port } = await start(answer, [here], undefined, { tcpIdleMillis: 300 })
      const { socket } = await tcpClient(port)
      let closed = false
      // A paused socket hears of no end: writing to what is closed tells it.
      for (const event of ['close', 'end', 'error']) socket.on(event, () => (closed = true))
      await until(() => (idle(socket), closed))
    })
  test('a client that goes on asking is kept, and one whose answer takes its time within the limit', async () => {
    const { port } = await start(echo, [here], undefined, { tcpIdleMillis: 200 })
    const client = await tcpClient(port)
    const since = performance.now()
    let asked = 0
    while (performance.now() - since < 400) {
      client.send(query({ id: ++asked }))
      await client.got(asked)
    }
    expect(client.ids).toHaveLength(asked)
  })

  test('one source holds no more than 128 connections; others still get in', async () => {
    const { port } = await start(echo)
    for (let i = 0; i < 128; i++) await tcpClient(port)
    const tooMany = await tcpClient(port)
    await once(tooMany.socket, 'end')
    const socket = connect({ port, host: '127.0.0.1', localAddress: '127.0.0.2' })
    closers.push(() => socket.destroy())
    await once(socket, 'connect')
    socket.write(framed(query()))
    await once(socket, 'data')
  })
})

both('UDP', () => {
  test('1024 in hand of one source, 4096 in all: what comes on top is dropped and counted', async () => {
    const held = holding()
    const { port, dropped } = await start(held.answer)
    let sent = 0
    for (const from of ['127.0.0.1', '127.0.0.2', '127.0.0.3', '127.0.0.4']) {
      const client = await udpClient(port, '127.0.0.1', from)
      // In portions, so that no socket buffer runs over.
      for (let own = 0; own < 1024; own += 64) {
        client.send(...asked(numbers(64, sent + 1)))
        sent += 64
        await until(() => held.ids().length === sent)
      }
      const before = dropped()
      client.send(...asked([5001, 5002, 5003]))
      await until(() => dropped() === before + 3)
    }
    const late = await udpClient(port, '127.0.0.1', '127.0.0.5')
    late.send(query({ id: 6000 }))
    await until(() => dropped() === 13)
    held.release(7)
    await until(() => !held.ids().includes(7))
    await settle()
    late.send(query({ id: 6001 }))
    await until(() => held.ids().includes(6001))
    held.release(...held.ids())
  })

  test('many at once, of both families: each gets its own, from the story or told again', async () => {
    const asked = new Map<string, number>()
    // Even numbers are told again, with QR set; what is not the very datagram would show.
    const replays: ListenOptions['replays'] = {
      turn: () => undefined,
      replay(message, start, end, source, reply, at) {
        const text = addressToText(source)
        asked.set(text, (asked.get(text) ?? 0) + 1)
        if (count(message, start) % 2 === 1) return 0
        reply.set(message.subarray(start, end), at)
        reply[at + 2] = (reply[at + 2] ?? 0) | 0x80
        return end - start
      },
    }
    const { port } = await start(echo, [here, { kind: 'address', address: '::1', port: 0 }], undefined, { replays })
    const clients = [await udpClient(port), await udpClient(port, '127.0.0.1', '127.0.0.9'), await udpClient(port, '::1')] // prettier-ignore
    clients.forEach((client, i) =>
      client.send(...numbers(150, 1 + i * 1000).map((id) => query({ id, name: `n${id}` }))),
    )
    for (const [i, client] of clients.entries())
      expect((await client.got(150)).toSorted((a, b) => a - b)).toEqual(numbers(150, 1 + i * 1000))
    expect([...asked].sort()).toEqual([['127.0.0.1', 150], ['127.0.0.9', 150], ['::1', 150]]) // prettier-ignore
  })

  test('the port is nobody else’s', async () => {
    const { port } = await start(echo)
    const other = createSocket({ type: 'udp4', reuseAddr: true })
    closers.push(() => other.close())
    other.bind({ port, address: '127.0.0.1', exclusive: true })
    expect(await once(other, 'error')).toMatchObject([{ code: 'EADDRINUSE' }])
  })

  test('what deserves no answer gets none', async () => {
    const { port } = await start((message, source, transport) =>
      count(message, 0) === 1 ? Promise.resolve(undefined) : echo(message, source, transport, 0),
    )
    const client = await udpClient(port)
    client.send(...asked([1, 2]))
    expect(await client.got(1)).toEqual([2])
  })
})

both('a fault of ours', () => {
  for (const transport of ['udp', 'tcp'] as const)
    test(`over ${transport}: is told, and answered with SERVFAIL`, async () => {
      const faults: unknown[] = []
      const { port } = await start(
        () => Promise.reject(new Error('a bug')),
        [here],
        (error) => faults.push(error),
      )
      const replies: Buffer[] = []
      if (transport === 'udp') {
        const socket = createSocket('udp4').on('message', (message) => replies.push(message))
        closers.push(() => socket.close())
        socket.send(query({ id: 9 }), port, '127.0.0.1')
      } else {
        const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(framed(query({ id: 9 }))))
        closers.push(() => socket.destroy())
        socket.on('data', (chunk: Buffer) => replies.push(chunk.subarray(2)))
      }
      await until(() => replies.length === 1)
      expect(count(replies[0] ?? Buffer.alloc(0), 0)).toBe(9)
      expect(count(replies[0] ?? Buffer.alloc(0), 2)).toBe(0x8182)
      expect(faults).toEqual([new Error('a bug')])
    })

  test('on a response: is told, and not answered', async () => {
    const faults: unknown[] = []
    const answer: Answerer = (message, ...rest) =>
      count(message, 0) === 1 ? Promise.reject(new Error('a bug')) : echo(message, ...rest)
    const { port } = await start(answer, [here], (error) => faults.push(error))
    const client = await udpClient(port)
    client.send(response({ id: 1 }), query({ id: 2 }))
    expect(await client.got(1)).toEqual([2])
    expect(faults).toHaveLength(1)
  })
})

both('close', () => {
  test('waits for what is in hand, and that is answered; nothing more is read', async () => {
    const held = holding()
    const { port, close } = await start(held.answer)
    const [udp, tcp] = [await udpClient(port), await tcpClient(port)]
    udp.send(query({ id: 1 }))
    tcp.send(query({ id: 2 }))
    await until(() => held.ids().length === 2)
    let closed = false
    const closing = close().then(() => (closed = true))
    udp.send(query({ id: 3 }))
    tcp.send(query({ id: 4 }))
    for (let i = 0; i < 20; i++) await settle()
    expect(closed).toBe(false)
    expect(held.ids()).toEqual([1, 2])
    held.release(1, 2)
    expect(await udp.got(1)).toEqual([1])
    expect(await tcp.got(1)).toEqual([2])
    await closing
  })

  test('an answer that comes after the wait is over has nowhere to go', async () => {
    const held = holding()
    const { port, close } = await start(held.answer)
    const client = await udpClient(port)
    client.send(query({ id: 1 }))
    await until(() => held.ids().length === 1)
    await close()
    // To send it on the closed socket would throw, and end the process.
    held.release(1)
    await settle()
    expect(client.ids).toEqual([])
  })

  test('ends idle connections and gives the port back', async () => {
    const { port, close } = await start(echo)
    const idle = await tcpClient(port)
    const ended = once(idle.socket, 'close')
    await close()
    await close()
    idle.socket.end()
    await ended
    await start(echo, [{ ...here, port }])
  })
})

describe('datagrams in batches', () => {
  const batches = makeBatches()
  const place = (text: string, port: number): Uint8Array => placeAt(addressFromText(text) ?? expect.fail(text), port)

  test('are to be had on this machine', () => expect(batches !== undefined).toBe(process.platform === 'linux'))

  test.skipIf(batches === undefined)('one that cannot be sent does not hold up the others', async () => {
    const { port } = await start(echo)
    const client = createSocket('udp4')
    closers.push(() => client.close())
    const heard: string[] = []
    client.on('message', (message) => heard.push(message.toString()))
    await new Promise<void>((done) => client.bind({ address: '127.0.0.1' }, done))
    const fd = batches?.open(addressFromText('127.0.0.1') ?? expect.fail(), 0) ?? -1
    closers.push(() => closeSync(fd))
    const datagrams = batches?.on(fd) ?? expect.fail()
    // Nobody has port 0, and no IPv4 socket sends to IPv6.
    const places = [place('127.0.0.1', client.address().port), place('127.0.0.1', 0), place('::1', port)]
    const left: unknown[] = []
    for (let i = 0; i < 9; i++) {
      datagrams.outgoing.set(Buffer.from(`reply ${i}`), datagrams.replyAt())
      datagrams.replyTo(places[i % 3] ?? expect.fail(), 7)
    }
    datagrams.flush((reply, to) => left.push([reply, to]))
    await until(() => heard.length === 3)
    expect(heard).toEqual(['reply 0', 'reply 3', 'reply 6'])
    expect(left).toEqual([])
  })

  test('a place says what it was made of', () => {
    for (const [text, port] of [['192.0.2.7', 53], ['2001:db8::53', 65_535]] as const)
      expect([addressToText(addressOf(place(text, port))), portOf(place(text, port))]).toEqual([text, port])
  }) // prettier-ignore
})
