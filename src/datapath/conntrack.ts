// The kernel's connection tracking: what begins and ends, by events; what there is, as a list; and an end to some of it.
import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  askConnections,
  conntrackGroups,
  deleteConnections,
  deletionOctetsMax,
  readConntrack,
  type Connection,
} from './ctnetlink.ts'
import { KernelError, makeNetlink, openNetlink } from './netlink.ts'

/** Netfilter netlink sockets of one network namespace: one hears events, the other asks. */
export interface ConntrackSockets {
  readonly events: number
  readonly requests: number
}

/** Opens both in the network namespace of the calling thread; from then on what begins and ends is heard. Throws `KernelError`. */
export function openConntrack(): ConntrackSockets {
  return { events: openNetlink(Object.values(conntrackGroups)), requests: openNetlink() }
}

/** The connections that are tracked in a network namespace. */
export interface Connections {
  /** Every connection that is tracked now, also TCP that is closed already, in parts between which the event loop turns. Rejects with `KernelError`. */
  readonly list: (each: (connection: Connection, isClosed: boolean) => void) => Promise<void>
  /** Ends the tracking of connections that are still as they were seen; gives how many were. Rejects with `KernelError`. */
  readonly remove: (connections: readonly Connection[]) => Promise<number>
  readonly close: () => void
}

export interface Conntrack extends Connections {
  /**
   * Reads what has begun and ended since the last call, in its order. `all`: that was all. `more`: there may be more (a turn's worth was read).
   * `lost`: the kernel dropped events: only a list can tell what is.
   */
  readonly events: (
    each: (kind: 'begun' | 'closed' | 'over', connection: Connection) => void,
  ) => 'all' | 'more' | 'lost'
}

/** The kernel fills up to 32 kB of an answer when it is asked with that much room: about 120 connections. */
const answerOctets = 1 << 15
/** Events that wait to be read: about 20 000, what a busy machine makes in a second. The kernel takes the memory only while they wait. */
const eventBufferOctets = 1 << 24
/** Messages read before the event loop turns: about 4 ms. */
const messagesPerTurn = 1500
const removalsPerRequest = 64
/** The kernel's words for what is gone already. */
const ENOENT = 2

/** Takes over the sockets, from `openConntrack` or made in another namespace. */
export function makeConntrack(sockets: ConntrackSockets): Conntrack {
  const hearing = makeNetlink(sockets.events, eventBufferOctets)
  const connections = makeConnections(sockets.requests)
  const heard = new Uint8Array(answerOctets)

  const events: Conntrack['events'] = (each) => {
    try {
      for (let i = 0; i < messagesPerTurn; i++) {
        const length = hearing.receive(heard)
        if (length === 0) return 'all'
        readConntrack(heard, length, (message) => {
          if ('connection' in message) each(message.kind, message.connection)
        })
      }
      return 'more'
    } catch (error) {
      if (error instanceof KernelError && error.code === 'ENOBUFS') return 'lost'
      throw error
    }
  }
  const close = (): void => {
    hearing.close()
    connections.close()
  }
  return { ...connections, events, close }
}

/** Takes over a netfilter netlink socket, for lists and removals alone. */
export function makeConnections(fd: number): Connections {
  const asking = makeNetlink(fd)
  const answer = new Uint8Array(answerOctets)
  const request = new Uint8Array(removalsPerRequest * deletionOctetsMax)
  let sequence = 0
  let turn: Promise<unknown> = Promise.resolve()
  /** Answers to two questions on one socket would be mixed. */
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const result = turn.then(work)
    turn = result.catch(() => undefined)
    return result
  }

  async function list(each: (connection: Connection, isClosed: boolean) => void): Promise<void> {
    const asked = (sequence = (sequence + 1) & 0x7fffffff)
    asking.send(request, askConnections(request, asked))
    let read = 0
    for (let isDone = false; !isDone;) {
      const length = asking.receive(answer)
      if (length === 0) throw new KernelError('list connections', 0)
      readConntrack(answer, length, (message) => {
        if ('connection' in message) {
          read++
          each(message.connection, message.kind === 'closed')
        } else if ((message.kind === 'done' || message.kind === 'error') && message.sequence === asked) {
          isDone = true
          if (message.kind === 'error') throw new KernelError('list connections', message.errno)
        }
      })
      if (read < messagesPerTurn) continue
      read = 0
      await nextTurn()
    }
  }

  /** One request; each of its deletions is answered. */
  function removeSome(connections: readonly Connection[]): number {
    const from = (sequence + 1) & 0x7fffffff
    sequence = (sequence + connections.length) & 0x7fffffff
    asking.send(request, deleteConnections(request, connections, from))
    let removed = 0
    for (let answered = 0; answered < connections.length;) {
      const length = asking.receive(answer)
      if (length === 0) throw new KernelError('delete connections', 0)
      readConntrack(answer, length, (message) => {
        if (message.kind !== 'error') return
        answered++
        if (message.errno === 0) removed++
        else if (message.errno !== ENOENT) throw new KernelError('delete connections', message.errno)
      })
    }
    return removed
  }

  async function remove(connections: readonly Connection[]): Promise<number> {
    let removed = 0
    for (let i = 0; i < connections.length; i += removalsPerRequest) {
      removed += removeSome(connections.slice(i, i + removalsPerRequest))
      if (i > 0 && i % messagesPerTurn < removalsPerRequest) await nextTurn()
    }
    return removed
  }

  return { list: (each) => inTurn(() => list(each)), remove: (all) => inTurn(() => remove(all)), close: asking.close }
}
