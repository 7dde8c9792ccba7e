// This host's own addresses, as the kernel has them: all, also of interfaces that are down or have no carrier, to which `os.networkInterfaces`
// is blind though packets to them arrive; and followed as they come and go.
import type { Address } from '../net/address.ts'
import { KernelError, makeNetlink, openNetlink, routing } from './netlink.ts'
import { addressGroups, askAddresses, readAddresses } from './rtnetlink.ts'

export interface HostAddresses {
  /** All that there are now. Throws `KernelError`. */
  readonly read: () => readonly Address[]
  /**
   * Calls `changed` with all of them, whenever they are others than were read or told last; gives what ends that. Should the kernel not say
   * what they are, `failed` hears it once, and it is tried again until it does.
   */
  readonly follow: (changed: (addresses: readonly Address[]) => void, failed: (error: unknown) => void) => () => void
}

/** How soon a change is noticed. To look whether there was any costs 2 us. */
const lookMillis = 200
/** The kernel fills up to 32 kB of an answer when it is asked with that much room: about 400 addresses. */
const answerOctets = 1 << 15

/** Of the network namespace of the calling thread. Throws `KernelError`. */
export function openHostAddresses(): HostAddresses {
  // Before the first reading: what changes from here on is heard.
  const hearing = makeNetlink(openNetlink(addressGroups, routing))
  const asking = makeNetlink(openNetlink([], routing))
  const answer = new Uint8Array(answerOctets)
  const request = new Uint8Array(64)
  let sequence = 0
  let known: readonly Address[] = []

  function read(): readonly Address[] {
    const asked = (sequence = (sequence + 1) & 0x7fffffff)
    asking.send(request, askAddresses(request, asked))
    const found = new Set<Address>()
    for (;;) {
      const length = asking.receive(answer)
      if (length === 0) throw new KernelError('list addresses', 0)
      for (const message of readAddresses(answer, length)) {
        if (message.kind === 'address') found.add(message.address)
        else if (message.sequence !== asked) continue
        else if (message.kind === 'error') throw new KernelError('list addresses', message.errno)
        else {
          return (known = [...found].sort())
        }
      }
    }
  }

  /** Whether the kernel told of any change; events that were lost (ENOBUFS) are one. */
  function heardAny(): boolean {
    let heard = false
    try {
      while (hearing.receive(answer) > 0) heard = true
    } catch {
      heard = true
    }
    return heard
  }

  const follow: HostAddresses['follow'] = (changed, failed) => {
    let isStale = false
    let hasFailed = false
    const looking = setInterval(() => {
      isStale ||= heardAny()
      if (!isStale) return
      try {
        const before = known
        const now = read()
        isStale = hasFailed = false
        if (!isSame(before, now)) changed(now)
      } catch (error) {
        if (!hasFailed) failed(error)
        hasFailed = true
      }
    }, lookMillis)
    looking.unref()
    return () => {
      clearInterval(looking)
      hearing.close()
      asking.close()
    }
  }
  return { read, follow }
}

function isSame(a: readonly Address[], b: readonly Address[]): boolean {
  return a.length === b.length && a.every((address, i) => address === b[i])
}
