/**
 * Tells a write that slept, for want of memory or of the disk, from one during which another program had the
 * processor: both take long, but only the first kind holds the event loop again and again. The kernel counts how
 * often a thread has gone to sleep by itself; asking costs a tenth of a small write, so that it is asked only for a
 * while after a write that took long.
 */

/** A write that takes longer, in ms, is looked at. */
const SLOW_MS = 2
/** How long the writes after a slow one are watched, in ms. */
const WATCH_MS = 1000
/** How long writes stay off the event loop after one that slept, in ms. */
const RECOVERY_MS = 1000

export class SlowWrites {
  readonly #sleeps: () => number
  #watchedUntil = 0
  #offUntil = 0
  #isWatched = false
  #sleepsBefore = 0

  /** `sleeps` tells how often this thread has gone to sleep by itself. */
  constructor(sleeps: () => number) {
    this.#sleeps = sleeps
  }

  /** May a write be made on the event loop? `now` comes from performance.now(). */
  mayWrite(now: number): boolean {
    return now >= this.#offUntil
  }

  /** A write begins. */
  begin(now: number): void {
    this.#isWatched = now < this.#watchedUntil
    if (this.#isWatched) this.#sleepsBefore = this.#sleeps()
  }

  /** It has ended. Returns whether it took long, whatever the reason. */
  end(startedAt: number, now: number): boolean {
    if (now - startedAt <= SLOW_MS) return false
    if (this.#isWatched && this.#sleeps() !== this.#sleepsBefore) this.#offUntil = now + RECOVERY_MS
    this.#watchedUntil = Math.max(now, this.#offUntil) + WATCH_MS
    return true
  }
}
