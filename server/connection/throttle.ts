/** Holds one connection back while its client has used up its rate limits: by not reading from it, and one timer. */
import { isLimited, type RateAccount } from '../access/rate-limit.ts'
import type { TrafficRecorder } from '../metrics/traffic-recorder.ts'
import { CMD, NBD_ERRNO } from '../protocol/constants.ts'
import type { Request } from './request.ts'

/** A connection that is not read does not notice that its client has gone, so this is asked so often, in ms. */
const CHECK_MS = 1000
/**
 * How long a client that has sent its last byte may be held back, in ms. It may be reading still; but one that
 * died looks the same, and must not keep its disk.
 */
const FINISHED_MS = 10_000

/** The client went away while it was held back. */
export class ThrottledClientGone extends Error {
  override readonly name = 'ThrottledClientGone'
  readonly code = 'ECONNRESET'
}

/** The part of a channel that a throttle uses. */
export interface ThrottledChannel {
  readonly peerState: 'there' | 'finished' | 'gone'
  destroy(error: Error): void
}

export class Throttle {
  readonly #accounts: readonly RateAccount[]
  readonly #channel: ThrottledChannel
  readonly #recorder: TrafficRecorder
  readonly #resume: () => void
  #limited: boolean
  #timer: NodeJS.Timeout | undefined
  #since = 0
  #until = 0
  /** The request that is next was charged, and has waited for its turn. */
  #charged = false
  /** When the client was first seen to have sent its last byte. */
  #finishedAt: number | undefined

  /** Requests are charged to all these accounts. `resume` is called when a connection that waits may go on. */
  constructor(
    accounts: readonly RateAccount[],
    channel: ThrottledChannel,
    recorder: TrafficRecorder,
    resume: () => void,
  ) {
    this.#accounts = accounts
    this.#channel = channel
    this.#recorder = recorder
    this.#resume = resume
    this.#limited = this.#isLimited()
  }

  /** The next request has to wait, and `resume` will be called. */
  get waiting(): boolean {
    return this.#timer !== undefined
  }

  /** May this request begin now? If not, it is to be offered again after `resume`. */
  admits(request: Request): boolean {
    return !this.#limited || this.#charge(request)
  }

  /** Other limits hold: whoever waits for the old ones goes on. */
  limitsChanged(): void {
    this.#limited = this.#isLimited()
    this.#goOn()
  }

  /** Nothing is held back any more. */
  end(): void {
    this.#limited = false
    this.#goOn()
  }

  #isLimited(): boolean {
    return this.#accounts.some(({ limits }) => isLimited(limits))
  }

  #charge({ type, length, refusal, startedAt: now }: Request): boolean {
    if (this.#charged) {
      this.#charged = false
      return true
    }
    const direction = type === CMD.READ ? 'read' : type === CMD.WRITE ? 'write' : 'neither'
    // The payload of a WRITE comes even if it is refused.
    const bytes = refusal === NBD_ERRNO.OK || type === CMD.WRITE ? length : 0
    let wait = 0
    for (const account of this.#accounts) wait = Math.max(wait, account.charge(direction, bytes, now))
    if (wait === 0) return true
    this.#since = now
    this.#until = now + wait
    this.#finishedAt = undefined
    this.#sleep(wait)
    return false
  }

  #sleep(ms: number): void {
    this.#timer = setTimeout(() => this.#wake(), Math.min(Math.ceil(ms), CHECK_MS))
  }

  #wake(): void {
    const now = performance.now()
    if (now >= this.#until) {
      this.#goOn()
    } else if (this.#hasGone(now)) {
      this.#channel.destroy(
        new ThrottledClientGone('The client went away while its rate limit held it back.'),
      )
    } else {
      this.#sleep(this.#until - now)
    }
  }

  #hasGone(now: number): boolean {
    const state = this.#channel.peerState
    if (state === 'finished') this.#finishedAt ??= now
    return state === 'gone' || now - (this.#finishedAt ?? now) >= FINISHED_MS
  }

  #goOn(): void {
    if (this.#timer === undefined) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#charged = this.#limited
    this.#recorder.throttled(performance.now() - this.#since)
    this.#resume()
  }
}
