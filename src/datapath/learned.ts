// Learned addresses into the kernel: commits by raw netlink, everything asked for in one turn of the event loop in one transaction,
// each promise settled by the kernel's own answer.
import type { Clock, Millis } from '../clock.ts'
import type { LeaseElement } from './element.ts'
import { KernelError, type Netlink } from './netlink.ts'
import {
  addElements,
  askGeneration,
  elementsPerTransactionMax,
  readAnswers,
  removeElements,
  requestOctetsMax,
  type Answer,
  type Dialect,
} from './nfnetlink.ts'

/** What an acknowledged commit was: when it was sent, and in which epoch it stands. */
export interface Acknowledged {
  readonly sentAt: Millis
  readonly epoch: number
}

export interface LearnedSets {
  /** Adds or renews the elements; resolves when the kernel has acknowledged them. Rejects with `KernelError`: none can be relied upon. */
  readonly commit: (elements: readonly LeaseElement[]) => Promise<Acknowledged>
  /** Takes elements out, present or not; after what was committed before. */
  readonly remove: (elements: readonly LeaseElement[]) => Promise<Acknowledged>
  /** A number that changes whenever anybody but `commit` and `remove` has changed the ruleset. Asks the kernel (3 us). */
  readonly epoch: () => number
  /**
   * Runs one nft transaction of our own: it is no foreign hand. Gives the epoch in which its work stands: what anybody else did before was there
   * to be seen, what comes after changes the epoch again.
   * @param forgets whether the learned sets are emptied by it: then nothing that was acknowledged before is relied upon.
   */
  readonly ours: (transaction: () => Promise<void>, forgets?: boolean) => Promise<number>
  readonly close: () => void
}

interface Job {
  readonly verb: 'commit' | 'remove'
  readonly elements: readonly LeaseElement[]
  readonly resolve: (acknowledged: Acknowledged) => void
  readonly reject: (error: unknown) => void
}

/** What cannot be added because something stands in a part of its place is not there itself. */
function isAbsent({ verb, elements }: Job, error: unknown): boolean {
  return verb === 'remove' && elements.length === 1 && error instanceof KernelError && error.code === 'EEXIST'
}

export function makeLearnedSets(netlink: Netlink, table: string, clock: Clock, dialect: Dialect): LearnedSets {
  const request = new Uint8Array(requestOctetsMax)
  const answer = new Uint8Array(65536)
  let queue: Job[] = []
  let sequence = 0
  let generation: number | undefined
  let currentEpoch = 0

  /** One transaction, at most `elementsPerTransactionMax` elements. */
  function transact(verb: Job['verb'], elements: readonly LeaseElement[]): void {
    drain()
    sequence = (sequence + 1) & 0x7fffffff
    const length =
      verb === 'commit'
        ? addElements(request, table, elements, dialect.renewal, sequence)
        : removeElements(request, table, elements, dialect.removal, sequence)
    netlink.send(request, length)
    const [first] = receive()
    if (first?.kind !== 'ack' || first.sequence !== sequence) {
      const doing = verb === 'commit' ? 'add learned addresses' : 'remove learned addresses'
      throw new KernelError(doing, first?.kind === 'error' ? first.errno : 0)
    }
    // Our own transaction raises the generation by one; anything more was somebody else.
    if (generation !== undefined) generation = (generation + 1) >>> 0
  }

  function receive(): Answer[] {
    const length = netlink.receive(answer)
    return length === 0 ? [] : readAnswers(answer, length)
  }

  /** Throws away what an earlier, failed transaction left in the socket. */
  function drain(): void {
    while (netlink.receive(answer) > 0);
  }

  /** The ruleset's generation; undefined from a kernel that does not even say that: the commit that follows will tell. */
  function ask(): number | undefined {
    sequence = (sequence + 1) & 0x7fffffff
    try {
      netlink.send(request, askGeneration(request, sequence))
      const now = receive().find((a) => a.kind === 'generation' && a.sequence === sequence)
      return now?.kind === 'generation' ? now.generation : undefined
    } catch {
      return undefined
    }
  }

  function epoch(): number {
    const now = ask()
    if (now !== undefined && now === generation) return currentEpoch
    generation = now
    return ++currentEpoch
  }

  async function ours(transaction: () => Promise<void>, forgets = false): Promise<number> {
    epoch()
    await transaction()
    // Our own commits meanwhile are counted already.
    if (generation !== undefined && ask() === (generation + 1) >>> 0) generation = (generation + 1) >>> 0
    return forgets ? ++currentEpoch : currentEpoch
  }

  function run(jobs: readonly Job[]): void {
    const sentAt = clock()
    const elements = jobs.flatMap((job) => job.elements)
    try {
      const [first] = jobs
      for (let i = 0; first !== undefined && i < elements.length; i += elementsPerTransactionMax)
        transact(first.verb, elements.slice(i, i + elementsPerTransactionMax))
      for (const job of jobs) job.resolve({ sentAt, epoch: currentEpoch })
    } catch (error) {
      // One bad element spoils its transaction: each job gets a chance of its own.
      if (jobs.length > 1) for (const job of jobs) run([job])
      else if (jobs[0] !== undefined && isAbsent(jobs[0], error)) jobs[0].resolve({ sentAt, epoch: currentEpoch })
      else jobs[0]?.reject(error)
    }
  }

  function flush(): void {
    const jobs = queue
    queue = []
    // Order between commits and removals is kept; neighbours of one kind share transactions.
    for (let i = 0; i < jobs.length;) {
      const start = i
      while (i < jobs.length && jobs[i]?.verb === jobs[start]?.verb) i++
      run(jobs.slice(start, i))
    }
  }

  function enqueue(verb: Job['verb'], elements: readonly LeaseElement[]): Promise<Acknowledged> {
    if (elements.length === 0) return Promise.resolve({ sentAt: clock(), epoch: currentEpoch })
    return new Promise((resolve, reject) => {
      // After the sockets' turn: all answers that arrived together are committed together (5 us alone, 1.3 us each of 32).
      if (queue.length === 0) setImmediate(flush)
      queue.push({ verb, elements, resolve, reject })
    })
  }

  return {
    commit: (elements) => enqueue('commit', elements),
    remove: (elements) => enqueue('remove', elements),
    epoch,
    ours,
    close: netlink.close,
  }
}
