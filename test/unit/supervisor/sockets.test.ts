// Sockets that outlive who reads them: given from hand to hand, and read by one after the other.
import { closeSync, fstatSync } from 'node:fs'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { claimTable, findHolder } from '../../../src/datapath/claim.ts'
import { listen, type Answerer, type Listener, type Listening } from '../../../src/proxy/listen.ts'
import { giveTo, openReceiver } from '../../../src/supervisor/handover.ts'
import { makeSocketOpener } from '../../../src/supervisor/sockets.ts'

const open = makeSocketOpener()
const inode = (fd: number): number => fstatSync(fd).ino
const prefix = `namegate/test/${process.pid}/`
const echo: Answerer = (message) => Promise.resolve(Uint8Array.from(message, (octet, i) => (i === 2 ? octet | 0x80 : octet))) // prettier-ignore
const query = (id: number): Uint8Array => Uint8Array.of(id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 0, 0, 1, 0, 1) // prettier-ignore

/** Both sockets on a port that is free. */
async function openSockets(): Promise<Listener & { kind: 'sockets' }> {
  const probe = createSocket('udp4').bind(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  await new Promise<void>((done) => void probe.close(done))
  const [sockets] = open?.([{ address: '127.0.0.1', port }]) ?? []
  return { kind: 'sockets', ...(sockets ?? expect.fail()) }
}
/** As a process that inherits them has them: descriptors of its own. */
async function copyOf(listener: Listener & { kind: 'sockets' }): Promise<Listener> {
  const receiver = openReceiver(prefix)
  giveTo(receiver.name, { fds: [listener.udpFd, listener.tcpFd], text: 'copy' })
  const [udpFd = -1, tcpFd = -1] = (await receiver.receive())?.fds ?? []
  return { ...listener, udpFd, tcpFd }
}

test.skipIf(open === undefined)('given to who receives under a name: the same sockets, with what they are', async () => {
  const { udpFd, tcpFd } = await openSockets()
  const receiver = openReceiver(prefix)
  expect(giveTo(receiver.name, { fds: [udpFd, tcpFd], text: '{"a": "ü"}' })).toBe(true)
  const given = await receiver.receive()
  expect(given?.text).toBe('{"a": "ü"}')
  expect(given?.fds.map(inode)).toEqual([udpFd, tcpFd].map(inode))
  for (const fd of [udpFd, tcpFd, ...(given?.fds ?? [])]) closeSync(fd)
}) // prettier-ignore

test('given to nobody: not given', () => expect(giveTo(`${prefix}nobody`, { fds: [0], text: '' })).toBe(false))
test('more than goes at once: not given', async () => {
  const receiver = openReceiver(prefix)
  expect(giveTo(receiver.name, { fds: Array.from({ length: 254 }, () => 0), text: '' })).toBe(false)
  expect(await receiver.receive()).toBe(undefined)
})

test.skipIf(open === undefined)('what comes while one drains and before the next reads is answered by the next', async () => {
  const sockets = await openSockets()
  const started: Listening[] = []
  const start = async (): Promise<Listening> => {
    const listening = await listen([await copyOf(sockets)], echo)
    started.push(listening)
    return listening
  }
  onTestFinished(async () => {
    for (const { close } of started) await close()
    for (const fd of [sockets.udpFd, sockets.tcpFd]) closeSync(fd)
  })
  const client = createSocket({ type: 'udp4', recvBufferSize: 4 << 20 })
  onTestFinished(() => void client.close())
  const ids = new Set<number>()
  client.on('message', (reply) => ids.add(reply.readUInt16BE(0)))
  const ask = async (from: number, to: number): Promise<void> => {
    for (let id = from; id <= to; id++) await new Promise((done) => client.send(query(id), sockets.port, '127.0.0.1', done)) // prettier-ignore
  }
  const first = await start()
  await first.begin()
  await ask(1, 10)
  await expect.poll(() => ids.size).toBe(10)
  const closing = first.close()
  await ask(11, 1000)
  await closing
  const second = await start()
  await ask(1001, 3000)
  expect(ids.size).toBe(10)
  await second.begin()
  await expect.poll(() => ids.size, { timeout: 10_000 }).toBe(3000)
}) // prettier-ignore

test('a holder is asked for nothing while it is not alone; alone, it ends for whom it gave its sockets to', async () => {
  const table = `test_${process.pid}`
  let isAlone = false
  const asked: string[] = []
  const claim = await claimTable(table, {
    process: () => 4711,
    isAlone: () => isAlone,
    give: (name) => asked.push(name) > 1,
    end: () => void asked.push('end'),
  })
  onTestFinished(claim.release)
  const before = await findHolder(table)
  expect(before).toMatchObject({ process: 4711, isAlone: false })
  await before?.gone
  isAlone = true
  const found = (await findHolder(table)) ?? expect.fail()
  expect(found).toMatchObject({ process: 4711, isAlone: true })
  // The first time nothing is given, so nobody is listened to who wants it to end.
  found.askFor('namegate/to/a')
  found.askToEnd()
  await found.gone
  const next = (await findHolder(table)) ?? expect.fail()
  next.askFor('namegate/to/b')
  next.askToEnd()
  await expect.poll(() => asked).toEqual(['namegate/to/a', 'namegate/to/b', 'end'])
  next.askFor('elsewhere')
  await next.gone
  expect(asked).toHaveLength(3)
  await claim.release()
  expect(await findHolder(table)).toBe(undefined)
})
