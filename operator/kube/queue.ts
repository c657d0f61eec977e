/**
 * A queue of keys to work on: each stands in it once however often it is added, is worked on by one worker at a
 * time, and comes back later when its work failed or asks for it.
 */
import { Histogram } from '../../server/metrics/histogram.ts'
import { DelayQueue } from './delay-queue.ts'

/** News goes before what is only looked at once more: what was there at the start, or a resync. */
export type Priority = 'news' | 'low'

export interface WorkQueueTerms {
  /** Delay after the first failure, in ms, doubled with each further one. Default: 5. */
  readonly firstRetryMs?: number
  /** Default: 1,000,000 (17 minutes). */
  readonly maxRetryMs?: number
}

const FIRST_RETRY_MS = 5
const MAX_RETRY_MS = 1_000_000

/** What is counted of a queue. */
export interface QueueMeter {
  adds: number
  retries: number
  /** Seconds that a key waits. */
  readonly waits: Histogram
  /** Seconds that a key is worked on. */
  readonly works: Histogram
}

/** Seconds from 10 ns, in steps of ten: the buckets of controller-runtime. */
const SECONDS = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10, 100, 1000]

export class WorkQueue {
  readonly meter: QueueMeter = {
    adds: 0,
    retries: 0,
    waits: new Histogram(SECONDS),
    works: new Histogram(SECONDS),
  }
  readonly #firstRetryMs: number
  readonly #maxRetryMs: number
  /** Keys that wait for a worker, in order, with the time since when. */
  readonly #waiting: Readonly<Record<Priority, Map<string, number>>> = { news: new Map(), low: new Map() }
  /** Keys that are worked on, with the time since when. */
  readonly #working = new Map<string, number>()
  /** Keys that were added while they are worked on. */
  readonly #again = new Map<string, Priority>()
  readonly #failures = new Map<string, number>()
  readonly #later: DelayQueue
  #takers: ((key: string | undefined) => void)[] = []
  #closed = false
  #idle: (() => void)[] = []

  constructor({ firstRetryMs = FIRST_RETRY_MS, maxRetryMs = MAX_RETRY_MS }: WorkQueueTerms = {}) {
    this.#firstRetryMs = firstRetryMs
    this.#maxRetryMs = maxRetryMs
    this.#later = new DelayQueue(key => this.add(key))
  }

  /** Keys that wait for a worker. */
  get length(): number {
    return this.#waiting.news.size + this.#waiting.low.size
  }

  /** Keys that are to come back at their time. */
  get delayed(): number {
    return this.#later.size
  }

  /** Since when each key that is worked on is, by `performance.now()`. */
  get working(): ReadonlyMap<string, number> {
    return this.#working
  }

  /** Adds a key, once the work on it that is under way has ended. Where it waits already it keeps its place. */
  add(key: string, priority: Priority = 'news'): void {
    if (this.#closed) return
    if (this.#working.has(key)) {
      if (this.#again.has(key) && priority === 'low') return
      if (!this.#again.has(key)) this.meter.adds++
      this.#again.set(key, priority)
      return
    }
    if (this.#waiting.news.has(key) || (priority === 'low' && this.#waiting.low.has(key))) return
    const since = this.#waiting.low.get(key)
    if (since !== undefined) this.#waiting.low.delete(key)
    else this.meter.adds++
    this.#put(key, priority, since ?? performance.now())
  }

  /** Adds a key when the time has passed, in ms; of several times the earliest counts. */
  addAfter(key: string, ms: number): void {
    if (this.#closed) return
    if (ms <= 0) this.add(key)
    else this.#later.add(key, ms)
  }

  /** Adds a key whose work failed, after a delay that doubles with each failure until `forget`. */
  retry(key: string): void {
    if (this.#closed) return
    const failures = this.#failures.get(key) ?? 0
    this.#failures.set(key, failures + 1)
    this.meter.retries++
    this.addAfter(key, Math.min(this.#firstRetryMs * 2 ** Math.min(failures, 50), this.#maxRetryMs))
  }

  /** How often the key has been retried since its work last succeeded. */
  failures(key: string): number {
    return this.#failures.get(key) ?? 0
  }

  /** The work on a key succeeded: its next failure is its first. */
  forget(key: string): void {
    this.#failures.delete(key)
  }

  /** The next key, when there is one; `done` has to follow. Undefined once the queue is closed and empty. */
  take(): Promise<string | undefined> {
    const key = this.#next()
    if (key !== undefined || this.#closed) return Promise.resolve(key)
    return new Promise(resolve => {
      this.#takers.push(resolve)
    })
  }

  /** The work on a key has ended. If it was added meanwhile it is in the queue again. */
  done(key: string): void {
    const since = this.#working.get(key)
    if (since === undefined) return
    this.#working.delete(key)
    this.meter.works.observe((performance.now() - since) / 1000)
    const priority = this.#again.get(key)
    this.#again.delete(key)
    if (priority !== undefined && !this.#closed) this.#put(key, priority, performance.now())
    if (this.#working.size > 0) return
    for (const resolve of this.#idle.splice(0)) resolve()
  }

  /**
   * Closes the queue: nothing is added any more, what waits is dropped (who comes next finds it again), and takers
   * get undefined. Resolves when all work that is under way has ended.
   */
  drain(): Promise<void> {
    this.#closed = true
    this.#later.close()
    this.#waiting.news.clear()
    this.#waiting.low.clear()
    this.#again.clear()
    for (const taker of this.#takers.splice(0)) taker(undefined)
    if (this.#working.size === 0) return Promise.resolve()
    return new Promise(resolve => {
      this.#idle.push(resolve)
    })
  }

  #put(key: string, priority: Priority, since: number): void {
    this.#waiting[priority].set(key, since)
    const taker = this.#takers.shift()
    taker?.(this.#next())
  }

  #next(): string | undefined {
    const queue = this.#waiting.news.size > 0 ? this.#waiting.news : this.#waiting.low
    for (const [key, since] of queue) {
      queue.delete(key)
      const now = performance.now()
      this.#working.set(key, now)
      this.meter.waits.observe((now - since) / 1000)
      return key
    }
    return undefined
  }
}
