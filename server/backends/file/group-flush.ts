/**
 * One fdatasync for all flushes that wait at the same time, and for those that come while it runs as long as nothing has
 * changed since it began. After a change a flush has to wait for the next one, as this one may have been past the place
 * by then. Whoever changes the file says so before anybody is told that the change has been made.
 */
import { stayAwake } from '../../linux/awake.ts'
import { SystemCallError } from '../../linux/errno.ts'
import { type Lingerers, Lingering } from '../../linux/lingering.ts'
import { fdatasync, lastErrno } from '../../linux/syscalls.ts'
import type { Completion } from '../backend.ts'
import { diskQueue, type Job, type Lane } from './disk-queue.ts'

/** How long the loop stays awake for the end of a sync, in ms: on a quick disk it takes half of that. */
const SYNC_MS = 0.8
/** And how long for what its client sends next, which may have waited for it. */
const NEXT_MS = 0.1
/** Only a disk that is the only one with flushes keeps the loop awake. */
const lingerers: Lingerers = { last: undefined }

export class GroupFlush implements Job {
  next: Job | undefined
  #waiting: Completion[] = []
  #covered: Completion[] = []
  #running = false
  /** The sync that is under way began after all changes until now had been made. */
  #coversAll = false
  readonly #lingering = new Lingering(lingerers, SYNC_MS)
  /** Until when the loop stays awake for the sync; 0: it does not. */
  #until = 0
  #failure: SystemCallError | undefined
  readonly #fd: number
  readonly #lane: Lane
  readonly #done: (error: Error | null, result: number) => void

  constructor(fd: number, lane: Lane) {
    this.#fd = fd
    this.#lane = lane
    this.#done = (error, result) => this.#finished(error, result)
  }

  /** The file has been changed, or may have been. */
  changed(): void {
    this.#coversAll = false
  }

  /** Completes when everything written before this call is on the disk. */
  request(completion: Completion): void {
    if (this.#coversAll) {
      this.#covered.push(completion)
      return
    }
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
    this.#coversAll = true
    fdatasync.async(this.#fd, this.#done)
    this.#until = this.#lingering.until()
    if (this.#until > 0) stayAwake(this.#until)
  }

  #finished(error: Error | null, result: number): void {
    this.#coversAll = false
    this.#ended(performance.now())
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

  #ended(now: number): void {
    if (now > this.#until) return
    this.#lingering.answered()
    stayAwake(now + NEXT_MS)
  }
}
