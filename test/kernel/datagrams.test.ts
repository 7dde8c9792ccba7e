// A socket that has no room: what does not fit is handed back, and nothing of it is lost.
import { closeSync } from 'node:fs'
import koffi from 'koffi'
import { expect, test } from 'vitest'
import { addressFromText } from '../../src/net/address.ts'
import { makeBatches, placeAt, portOf } from '../../src/proxy/datagrams.ts'
import { addHost, enterLab, whyNoKernel } from '../support/lab.ts'

const reason = whyNoKernel()
const at = (text: string): ReturnType<typeof addressFromText> & {} => addressFromText(text) ?? expect.fail(text)

test.skipIf(reason !== undefined)(`replies to a neighbour that is still looked for wait in the socket, the rest with us ${reason ?? ''}`, async () => {
  enterLab()
  const host = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
  const batches = makeBatches() ?? expect.fail()
  const fd = batches.open(at('10.1.0.1'), 0)
  try {
    const setsockopt = koffi.load('libc.so.6').func('int setsockopt(int fd, int level, int name, int *value, int size)')
    // SO_SNDBUF: the kernel makes it the least that it allows, two replies or three.
    setsockopt(fd, 1, 7, [1], 4)
    const datagrams = batches.on(fd)
    for (let port = 1; port <= 10; port++) {
      datagrams.outgoing.fill(port, datagrams.replyAt(), datagrams.replyAt() + 1000)
      datagrams.replyTo(placeAt(at('10.1.0.77'), port), 1000)
    }
    const left: [port: number, octets: number[]][] = []
    datagrams.flush((reply, place) => left.push([portOf(place), [...new Set(reply)]]))
    expect(left.length).toBeGreaterThan(0)
    expect(left.length).toBeLessThan(10)
    expect(left).toEqual(Array.from({ length: left.length }, (_, i) => [11 - left.length + i, [11 - left.length + i]]))
    expect(datagrams.isFull()).toBe(false)
  } finally {
    closeSync(fd)
    host.stop()
  }
}) // prettier-ignore
