// Learned addresses into the kernel: commits by raw netlink, everything that is asked for while the kernel works in one transaction, each
// promise settled by the kernel's own answer. Where others change the ruleset, transactions are sent aside: whoever loads a large one holds them
// up, and questions whose answers need none must not wait for that. Where nobody else does, short ones are sent at once.
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
  /**
   * A number that changes whenever anybody but `commit` and `remove` has changed the ruleset; NaN, which is equal to none, as long as it cannot
   * be told who has, because a transaction of `ours` is under way. Asks the kernel (3 us).
   */
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

/** Elements that are sent at once, in a turn of the event loop: 0.1 ms together, 0.7 ms each alone. Aside costs 15 us more, and more where the machine is busy. */
const sentAtOnceMax = 64
/** Who changes the ruleset now and then is expected again for so long. */
const quietMillis = 600_000

/** What cannot be added because something stands in a part of its place is not there itself. */
function isAbsent({ verb, elements }: Job, error: unknown): boolean {
  return verb === 'remove' && elements.length === 1 && error instanceof KernelError && error.code === 'EEXIST'
}

export function makeLearnedSets(netlink: Netlink, table: string, clock: Clock, dialect: Dialect): LearnedSets {
  const transaction = new Uint8Array(requestOctetsMax)
  const question = new Uint8Array(64)
  const answer = new Uint8Array(65536)
  let queue: Job[] = []
  let sequence = 0
  /** The ruleset's generation after all that is known to have been done to it. */
  let generation: number | undefined
  let currentEpoch = 0
  /** Our transaction that the kernel works on, and what it has said of it. */
  let underWay: { readonly sequence: number; answer?: Answer } | undefined
  /** Transactions of `ours` that nft works on. */
  let nftUnderWay = 0
  /** When it was last seen that somebody else changes the ruleset. */
  let othersAt: Millis = -Infinity
  /** Elements, since the event loop turned. */
  let sentAtOnce = 0
  let isClosed = false

  const nextSequence = (): number => (sequence = (sequence + 1) & 0x7fffffff)

  /** One transaction, at most `elementsPerTransactionMax` elements. */
  async function transact(verb: Job['verb'], elements: readonly LeaseElement[]): Promise<void> {
    const isAtOnce = mayGoAtOnce(elements.length)
    const mine: NonNullable<typeof underWay> = (underWay = { sequence: nextSequence() })
    try {
      const length =
        verb === 'commit'
          ? addElements(transaction, table, elements, dialect.renewal, mine.sequence)
          : removeElements(transaction, table, elements, dialect.removal, mine.sequence)
      if (isAtOnce) netlink.send(transaction, length)
      else await netlink.sendAside(transaction, length)
      receive()
    } finally {
      underWay = undefined
    }
    if (mine.answer?.kind !== 'ack') {
      const doing = verb === 'commit' ? 'add learned addresses' : 'remove learned addresses'
      throw new KernelError(doing, mine.answer?.kind === 'error' ? mine.answer.errno : 0)
    }
    // A removal that found nothing is acknowledged, and not counted.
    if (verb === 'commit' || ahead(ask()) !== 0) raise()
  }

  /**
   * Whether so many elements may be sent without leaving the thread: few since the event loop turned, and nobody is known who could hold them up.
   * That others are there is known by what they did; the first who comes after `quietMillis` may hold up everything, once: then he is known too.
   */
  function mayGoAtOnce(count: number): boolean {
    epoch()
    const may = sentAtOnce + count <= sentAtOnceMax && nftUnderWay === 0 && clock() - othersAt >= quietMillis
    sentAtOnce = may ? sentAtOnce + count : 0
    return may
  }

  /** A transaction of our own raises the generation by one; anything more is somebody else. */
  function raise(): void {
    if (generation !== undefined) generation = (generation + 1) >>> 0
  }

  /** Reads all that the kernel has said. What is about the transaction under way is kept for it: its first word counts, an error comes before the acknowledgement. */
  function receive(): Answer[] {
    const answers: Answer[] = []
    for (let length = netlink.receive(answer); length > 0; length = netlink.receive(answer))
      answers.push(...readAnswers(answer, length))
    if (underWay !== undefined && underWay.answer === undefined) {
      const { sequence: asked } = underWay
      const first = answers.find((one) => one.kind !== 'other' && one.sequence === asked)
      if (first !== undefined) underWay.answer = first
    }
    return answers
  }

  /** The ruleset's generation; undefined from a kernel that does not even say that: the commit that follows will tell. */
  function ask(): number | undefined {
    const asked = nextSequence()
    try {
      netlink.send(question, askGeneration(question, asked))
      const now = receive().find((one) => one.kind === 'generation' && one.sequence === asked)
      return now?.kind === 'generation' ? now.generation : undefined
    } catch {
      return undefined
    }
  }

  /** By how much the ruleset is ahead of what is known to have been done to it; undefined when neither is known. */
  function ahead(now: number | undefined): number | undefined {
    return now === undefined || generation === undefined ? undefined : (now - generation) >>> 0
  }

  function epoch(): number {
    const now = ask()
    const by = ahead(now)
    const own = underWay === undefined ? 0 : 1
    if (by !== undefined && by <= own) return currentEpoch
    // nft's work may be done before it has told us. Or it was somebody else: until it tells, nothing is relied upon.
    if (by !== undefined && by <= own + nftUnderWay) return NaN
    // The kernel is behind when a transaction of ours found nothing to change: it did not count that.
    const isBehind = by !== undefined && by >= 0x80000000
    if (generation !== undefined && !isBehind) othersAt = clock()
    generation = now
    return ++currentEpoch
  }

  async function ours(run: () => Promise<void>, forgets = false): Promise<number> {
    epoch()
    nftUnderWay++
    try {
      await run()
    } finally {
      nftUnderWay--
    }
    // Our own commits meanwhile are counted already, but for one under way.
    const by = ahead(ask()) ?? 0
    if (by === 1 || (by === 2 && underWay !== undefined)) raise()
    return forgets ? ++currentEpoch : currentEpoch
  }

  async function run(jobs: readonly Job[]): Promise<void> {
    const sent = { sentAt: clock(), epoch: currentEpoch }
    const elements = jobs.flatMap((job) => job.elements)
    const [first] = jobs
    if (first === undefined) return
    try {
      for (let i = 0; i < elements.length; i += elementsPerTransactionMax)
        await transact(first.verb, elements.slice(i, i + elementsPerTransactionMax))
      for (const job of jobs) job.resolve(sent)
    } catch (error) {
      // One bad element spoils its transaction: each job gets a chance of its own.
      if (jobs.length > 1) for (const job of jobs) await run([job])
      else if (isAbsent(first, error)) first.resolve(sent)
      else first.reject(error)
    }
  }

  let isWorking = false
  async function work(): Promise<void> {
    if (isClosed) return
    isWorking = true
    sentAtOnce = 0
    while (queue.length > 0 && !isClosed) {
      const jobs = queue
      queue = []
      // Order between commits and removals is kept; neighbours of one kind share transactions.
      for (let i = 0; i < jobs.length;) {
        const start = i
        while (i < jobs.length && jobs[i]?.verb === jobs[start]?.verb) i++
        await run(jobs.slice(start, i))
      }
    }
    isWorking = false
    if (isClosed) release()
  }

  function enqueue(verb: Job['verb'], elements: readonly LeaseElement[]): Promise<Acknowledged> {
    if (elements.length === 0) return Promise.resolve({ sentAt: clock(), epoch: currentEpoch })
    return new Promise((resolve, reject) => {
      if (isClosed) {
        reject(new KernelError('learned addresses', closedErrno))
        return
      }
      // After the sockets' turn: all answers that arrived together are committed together, and so are all that come while the kernel works
      // (16 us alone, 1.5 us each of 32).
      if (queue.length === 0 && !isWorking) setImmediate(() => void work())
      queue.push({ verb, elements, resolve, reject })
    })
  }

  /** Not under a transaction: its descriptor's number may be another's by then. */
  function release(): void {
    for (const job of queue.splice(0)) job.reject(new KernelError('learned addresses', closedErrno))
    netlink.close()
  }
  function close(): void {
    if (isClosed) return
    isClosed = true
    if (!isWorking) release()
  }

  return {
    commit: (elements) => enqueue('commit', elements),
    remove: (elements) => enqueue('remove', elements),
    epoch,
    ours,
    close,
  }
}

/** EBADF: what comes after `close`. */
const closedErrno = 9
