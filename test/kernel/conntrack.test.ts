// Connection tracking on a real kernel: what begins is heard, what is there is listed, what is removed is gone and only that.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { makeConntrack, openConntrack, type Conntrack } from '../../src/datapath/conntrack.ts'
import type { Connection } from '../../src/datapath/ctnetlink.ts'
import { addressToText } from '../../src/net/address.ts'
import { addHost, answerEverywhere, enterLab, sh, until, whyNoKernel, type Host } from '../support/lab.ts'

const reason = whyNoKernel()
const said = ({ protocol, source, destination, destinationPort, peer, peerPort }: Connection): string =>
  `${protocol} ${addressToText(source)} to ${addressToText(destination)}/${destinationPort} by ${addressToText(peer)}/${peerPort}`

describe.skipIf(reason !== undefined)(`connections ${reason ?? ''}`, () => {
  let web: Host
  let world: Host
  let conntrack: Conntrack
  const heard: string[] = []
  const hear = (): string => conntrack.events((kind, connection) => heard.push(`${kind} ${said(connection)}`))
  const list = async (): Promise<Connection[]> => {
    const all: Connection[] = []
    await conntrack.list((connection) => all.push(connection))
    return all
  }

  beforeAll(async () => {
    enterLab()
    web = await addHost('web', ['10.1.0.2/24', 'fd01::2/64'], ['10.1.0.1/24', 'fd01::1/64'])
    world = await addHost('world', ['10.3.0.2/24', 'fd03::2/64'], ['10.3.0.1/24', 'fd03::1/64'])
    sh(`ip route add 198.18.0.0/15 via 10.3.0.2; ip -6 route add 2001:db8::/32 via fd03::2
        nft add table inet lab; nft add chain inet lab translate '{ type nat hook prerouting priority dstnat; }'
        nft add rule inet lab translate ip daddr 10.96.0.1 tcp dport 80 dnat ip to 198.18.0.7:443; nft add chain inet lab watch '{ type filter hook forward priority 0; }'; nft add rule inet lab watch ct state established accept`) // prettier-ignore
    await answerEverywhere(world)
    conntrack = makeConntrack(openConntrack())
  })
  afterAll(() => {
    conntrack?.close()
    for (const host of [web, world]) host?.stop()
  })
  const connect = async (address: string, port: number): Promise<void> => {
    expect((await web.run(`timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}'`)).status).toBe(0)
  }

  test('TCP of both families, a translated one, and pings are heard and listed', async () => {
    await connect('198.18.0.1', 443)
    await connect('2001:db8::1', 443)
    await connect('10.96.0.1', 80)
    await web.run('ping -c1 -W2 10.3.0.2; ping -c1 -W2 fd03::2')
    expect(hear()).toBe('all')
    const wanted = [
      '6 10.1.0.2 to 198.18.0.1/443 by 198.18.0.1/443',
      '6 fd01::2 to 2001:db8::1/443 by 2001:db8::1/443',
      '6 10.1.0.2 to 10.96.0.1/80 by 198.18.0.7/443',
      '1 10.1.0.2 to 10.3.0.2/0 by 10.3.0.2/0',
      '58 fd01::2 to fd03::2/0 by fd03::2/0',
    ]
    expect(heard).toEqual(expect.arrayContaining(wanted.map((one) => `begun ${one}`)))
    expect((await list()).map(said)).toEqual(expect.arrayContaining(wanted))
  })

  test('what is removed is heard to be over, others stay, and a second removal finds nothing', async () => {
    heard.length = 0
    const gone = (await list()).filter(({ peer }) => addressToText(peer) !== '198.18.0.1')
    expect(await conntrack.remove(gone)).toBe(gone.length)
    expect(await conntrack.remove(gone)).toBe(0)
    hear()
    expect(heard.filter((one) => one.startsWith('over'))).toHaveLength(gone.length)
    expect((await list()).map(said)).toEqual(['6 10.1.0.2 to 198.18.0.1/443 by 198.18.0.1/443'])
  })

  test('a connection that took the place of the one that was seen is left alone', async () => {
    const [seen] = await list()
    if (seen === undefined) return expect.fail('nothing is tracked')
    expect(await conntrack.remove([{ ...seen, id: seen.id ^ 1 }])).toBe(0)
    expect(await list()).toHaveLength(1)
    return undefined
  })

  test('more events than the socket holds: the loss is told, once, and events go on', async () => {
    await web.run(
      `node -e "const s = require('dgram').createSocket('udp4'); let n = 0; const go = () => { if (n > 60000) return s.close(); for (let i = 0; i < 1000; i++) s.send('x', 1 + (n++ % 60000), '198.18.' + (n % 250) + '.9'); setImmediate(go) }; go()"`,
    )
    const results = new Set<string>()
    await until(() => {
      const result = hear()
      results.add(result)
      return result === 'all'
    })
    expect(results).toContain('lost')
    heard.length = 0
    await connect('198.18.0.3', 443)
    hear()
    expect(heard).toContain('begun 6 10.1.0.2 to 198.18.0.3/443 by 198.18.0.3/443')
  })
})
