/**
 * One fdatasync for all flushes that wait at the same time. A flush that arrives while one runs must
 * not count as covered by it: its writes may have ended after that one began.
 */
import { SystemCallError } from '../../linux/errno.ts'
import { fdatasync, lastErrno } from '../../linux/syscalls.ts'
import type { Completion } from '../backend.ts'
import { diskQueue, type Job, type Lane } from './disk-queue.ts'

export class GroupFlush implements Job {
  next: Job | undefined
  #waiting: Completion[] = []
  #covered: Completion[] = []
  #running = false
  #failure: SystemCallError | undefined
  readonly #fd: number
  readonly #lane: Lane
  readonly #done: (error: Error | null, result: number) => void

  constructor(fd: number, lane: Lane) {
    this.#fd = fd
    this.#lane = lane
    this.#done = (error, result) => this.#finished(error, result)
  }

  /** Completes when everything written before this call is on the disk. */
  request(completion: Completion): void {
    this.#waiting.push(completion)
    if (this.#running) return
    this.#running = true
    diskQueue.submit(this.#lane, this)
  }

  /** Called by the disk queue. */
  start(): void {
    const covered = this.#waiting
    this.#waiting = this.#covered
    this.#covered = covered
    fdatasync.async(this.#fd, this.#done)
  }

  #finished(error: Error | null, result: number): void {
    // Linux reports a lost write once to each descriptor (errseq_t); later syncs would claim success for
    // data that is gone. A disk that failed to sync stays failed until it is opened anew.
    if (error === null && result !== 0) this.#failure ??= new SystemCallError('fdatasync', lastErrno())
    const failure = error ?? this.#failure
    diskQueue.finished(this.#lane)
    const covered = this.#covered
    for (let index = 0; index < covered.length; index++) covered[index]?.complete(failure)
    covered.length = 0
    this.#running = this.#waiting.length > 0
    if (this.#running) diskQueue.submit(this.#lane, this)
  }
}
