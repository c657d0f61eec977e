/**
 * How long to let requests gather before they are looked at. A client with many requests under way sends them one by
 * one. A server that is quicker than its client answers them one by one, with a wake-up and a send for each, and these
 * are most of what a small request costs. A few microseconds later there are several, which share them.
 */
import { Trial } from '../linux/trial.ts'

/**
 * How long to wait, in microseconds: less than a request takes in all. Requests that bring data keep their client busy
 * for longer, so that more come while they are worked on, and a longer wait would only hold them up.
 */
export const WAIT_US = 40
export const WAIT_WITH_DATA_US = 25
/** Bytes that a request has to bring on average to count as one with data. */
const WITH_DATA = 512
/** Requests that have to come at a time, on average, for the wait to pay. */
const WORTH = 6
/** Batches until the first trial. */
const FIRST_PAUSE = 64
/** Batches that are further apart than this, in ms on average, are those of a client that asks now and then. */
const BUSY_MS = 0.15

/**
 * Tries the wait on a connection that is busy, keeps it where it brings requests together, and tries ever more
 * seldom where it does not: a client with one request under way loses nothing to speak of.
 */
export class Gathering {
  /** Microseconds to wait before the next batch; 0: not at all. */
  micros = 0
  #batches = 0
  #requests = 0
  #bytes = 0
  readonly #trial = new Trial(FIRST_PAUSE)
  #untilJudged = FIRST_PAUSE
  #since = 0

  /** A batch of so many requests, and bytes in all, came at `now`, in ms. */
  note(requests: number, bytes: number, now: number): void {
    this.#requests += requests
    this.#bytes += bytes
    this.#batches++
    if (this.#batches < this.#untilJudged) return
    if (this.micros > 0) this.#judge()
    else this.#consider(now)
    this.#batches = 0
    this.#requests = 0
    this.#bytes = 0
    this.#since = now
  }

  #judge(): void {
    const hasPaid = this.#requests >= WORTH * this.#batches
    this.#untilJudged = this.#trial.judge(hasPaid)
    if (hasPaid) this.#wait()
    else this.micros = 0
  }

  #consider(now: number): void {
    if (now - this.#since > BUSY_MS * this.#batches) return
    this.#wait()
    this.#untilJudged = this.#trial.begin()
  }

  #wait(): void {
    this.micros = this.#bytes < WITH_DATA * this.#requests ? WAIT_US : WAIT_WITH_DATA_US
  }
}
