/**
 * The queue in front of libuv's thread pool, through which every operation goes that may wait for a
 * disk. It shares the threads fairly between files: one client's deep queue, or its flushes, leave
 * threads for the others.
 */
import { type CallDone, lastErrno, MAX_ASYNC_CALLS } from '../../linux/syscalls.ts'

/** One operation. Linked by itself, so that queueing allocates nothing. */
export interface Job {
  next: Job | undefined
  /** Hands the operation to the thread pool. It calls DiskQueue.finished exactly once when it is over. */
  start(): void
}

/** The jobs of one file. */
export class Lane {
  head: Job | undefined
  tail: Job | undefined
  running = 0
  /** The lane stands in the ring of lanes that have waiting jobs. */
  waiting = false
  nextLane: Lane | undefined
}

/** Threads in all and for one lane. */
export interface Shares {
  readonly threads: number
  readonly perLane: number
}

/** Shares for a thread pool of this many threads: some stay free for name look-ups and file opens. */
export function sharesOf(poolSize: number): Shares {
  const threads = Math.max(1, Math.min(MAX_ASYNC_CALLS, poolSize - Math.max(1, Math.floor(poolSize / 8))))
  return { threads, perLane: Math.max(1, threads - Math.ceil(threads / 6)) }
}

export class DiskQueue {
  #running = 0
  #waiting = 0
  #first: Lane | undefined
  #last: Lane | undefined
  readonly #shares: Shares

  constructor(shares: Shares) {
    this.#shares = shares
  }

  /** Jobs that wait for a thread. */
  get waiting(): number {
    return this.#waiting
  }

  /** Starts the job, or keeps it until a thread is free for its lane. */
  submit(lane: Lane, job: Job): void {
    if (
      lane.head === undefined &&
      this.#running < this.#shares.threads &&
      lane.running < this.#shares.perLane
    ) {
      this.#start(lane, job)
      return
    }
    this.#waiting++
    job.next = undefined
    if (lane.tail === undefined) lane.head = job
    else lane.tail.next = job
    lane.tail = job
    this.#enter(lane)
  }

  /** Says that a job of the lane is over; starts what waited for its thread. */
  finished(lane: Lane): void {
    this.#running--
    lane.running--
    this.#enter(lane)
    // One turn of the ring at most: a lane at its own limit leaves the ring and enters again above.
    while (this.#running < this.#shares.threads) {
      const next = this.#leave()
      if (next === undefined) return
      const job = next.head
      if (job === undefined || next.running >= this.#shares.perLane) continue
      this.#waiting--
      next.head = job.next
      if (next.head === undefined) next.tail = undefined
      job.next = undefined
      this.#enter(next)
      this.#start(next, job)
    }
  }

  #start(lane: Lane, job: Job): void {
    this.#running++
    lane.running++
    job.start()
  }

  #enter(lane: Lane): void {
    if (lane.waiting || lane.head === undefined || lane.running >= this.#shares.perLane) return
    lane.waiting = true
    lane.nextLane = undefined
    if (this.#last === undefined) this.#first = lane
    else this.#last.nextLane = lane
    this.#last = lane
  }

  #leave(): Lane | undefined {
    const lane = this.#first
    if (lane === undefined) return undefined
    this.#first = lane.nextLane
    if (this.#first === undefined) this.#last = undefined
    lane.nextLane = undefined
    lane.waiting = false
    return lane
  }
}

/** The queue of this process; main.ts sets UV_THREADPOOL_SIZE, whose default in libuv is 4. */
export const diskQueue = new DiskQueue(sharesOf(Number(process.env.UV_THREADPOOL_SIZE ?? 4) || 4))

/** One system call in the thread pool, when it is its lane's turn: its result, or the error number negated. */
export function inTurn(lane: Lane, call: (done: CallDone) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    const job: Job = {
      next: undefined,
      start: () =>
        call((error, result) => {
          const value = result >= 0 ? result : -lastErrno()
          diskQueue.finished(lane)
          if (error === null) resolve(value)
          else reject(error)
        }),
    }
    diskQueue.submit(lane, job)
  })
}
