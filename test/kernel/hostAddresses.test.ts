// This host's addresses as the kernel has them, while they change; and that policies keep up with them.
import { networkInterfaces } from 'node:os'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Agent } from '../../src/agent.ts'
import { openHostAddresses, type HostAddresses } from '../../src/datapath/hostAddresses.ts'
import { addressToText, type Address } from '../../src/net/address.ts'
import { startTestAgent } from '../support/agent.ts'
import { addHost, answerOn, enterLab, sh, whyNoKernel, type Host, policyMap } from '../support/lab.ts'
import { pod, policy } from '../support/manifests.ts'

const reason = whyNoKernel()
const texts = (addresses: readonly Address[]): string[] => addresses.map(addressToText)

describe.skipIf(reason !== undefined)(`host addresses ${reason ?? ''}`, () => {
  const following: (() => void)[] = []
  const follow = (host: HostAddresses): string[][] => {
    const told: string[][] = []
    following.push(host.follow((addresses) => told.push(texts(addresses)), (error) => expect.fail(String(error)))) // prettier-ignore
    return told
  }
  beforeAll(() => {
    enterLab()
    const link = (name: string): string => `ip link add ${name} type veth peer name ${name}peer`
    sh(
      `${link('d0')}; ip link set d0 up; ip link set d0peer up; ip addr add 10.1.0.1/24 dev d0; ip addr add 10.1.0.9/24 dev d0`,
    )
    // One that is down, with an end that is told apart, and one without carrier.
    sh(`${link('d1')}; ip addr add 10.2.0.1 peer 10.2.0.2/32 dev d1`)
    sh(`${link('d2')}; ip link set d2 up; ip addr add 10.3.0.1/24 dev d2; ip addr add fd03::1/64 dev d2 nodad`)
  })
  afterEach(() => {
    for (const end of following.splice(0)) end()
  })

  test('all of them, also of interfaces that are down, have no carrier, or another end', () => {
    const all = texts(openHostAddresses().read())
    expect(all).toEqual(expect.arrayContaining(['127.0.0.1', '::1', '10.1.0.1', '10.1.0.9', '10.2.0.1', '10.3.0.1', 'fd03::1'])) // prettier-ignore
    expect(all).not.toContain('10.2.0.2')
    // What Node knows is a part of it.
    for (const { address } of Object.values(networkInterfaces()).flatMap((one) => one ?? [])) expect(all).toContain(address) // prettier-ignore
  })

  test('more than one answer holds', () => {
    sh('ip link add many type veth peer name manypeer; ip link set many up')
    sh('ip -batch -', Array.from({ length: 1500 }, (_, i) => `addr add 10.9.${i >> 8}.${i & 255}/32 dev many\n`).join('')) // prettier-ignore
    expect(texts(openHostAddresses().read()).filter((text) => text.startsWith('10.9.'))).toHaveLength(1500)
    sh('ip link del many')
  })

  test('what comes and goes is told, with all the others; what changes nothing is not', async () => {
    const host = openHostAddresses()
    const before = texts(host.read())
    const told = follow(host)
    sh('ip addr add 10.1.0.77/24 dev d0')
    await expect.poll(() => told.at(-1), { timeout: 5000 }).toEqual(expect.arrayContaining([...before, '10.1.0.77']))
    // Another life time is a message, and no change.
    sh('ip addr change 10.1.0.77/24 dev d0 preferred_lft 1000 valid_lft 2000')
    sh('ip addr del 10.1.0.77/24 dev d0; ip addr add fd01::5/64 dev d0 nodad')
    await expect.poll(() => told.at(-1), { timeout: 5000 }).toEqual(expect.arrayContaining([...before, 'fd01::5']))
    expect(told.at(-1)).not.toContain('10.1.0.77')
    sh('ip addr del fd01::5/64 dev d0')
    await expect.poll(() => told.at(-1), { timeout: 5000 }).toEqual(before)
    expect(new Set(told.map(String)).size).toBe(told.length)
  })

  describe('an agent', () => {
    let web: Host
    let agent: Agent | undefined
    beforeAll(async () => {
      web = await addHost('web', ['10.4.0.2/24'], ['10.4.0.1/24'])
      await answerOn({ ...web, path: '/proc/self/ns/net' }, [8080])
    })
    afterAll(async () => {
      await agent?.close()
      web?.stop()
    })
    const connect = async (address: string): Promise<boolean> =>
      (await web.run(`timeout 2 bash -c 'exec 3<>/dev/tcp/${address}/8080'`)).status === 0

    test('an address that this host gets is the host at once, and the world again when it is gone', async () => {
      const host = openHostAddresses()
      agent = await startTestAgent(pod('web', ['10.4.0.2']) + policy('web', '{toCIDR: [0.0.0.0/0]}'), {
        hostAddresses: host.read(),
        followHost: (changed) => host.follow(changed, (error) => expect.fail(String(error))),
      })
      expect(await connect('10.4.0.1')).toBe(false)
      // Prefixes do not lead to this host.
      sh('ip addr add 10.1.0.50/24 dev d0')
      await expect.poll(() => agent?.snapshot().revision, { timeout: 5000 }).toBe(2)
      await expect.poll(() => policyMap('peer4'), { timeout: 5000 }).toContain('10.1.0.50 : 0:1')
      expect(await connect('10.1.0.50')).toBe(false)
      sh('ip addr del 10.1.0.50/24 dev d0')
      await expect.poll(() => policyMap('peer4'), { timeout: 5000 }).not.toContain('10.1.0.50')
    })
  })
})
