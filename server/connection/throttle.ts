/** Holds one connection back while its client has used up its rate limits: by not reading from it, and one timer. */
import { isLimited, type RateAccount } from '../access/rate-limit.ts'
import type { TrafficRecorder } from '../metrics/traffic-recorder.ts'
import { CMD, NBD_ERRNO } from '../protocol/constants.ts'
import type { Channel } from './channel.ts'
import type { Request } from './request.ts'

/** A connection that is not read does not notice that its client has gone, so this is asked so often. */
const CHECK_MS = 5000

/** The client went away while it was held back. */
export class ThrottledClientGone extends Error {
  override readonly name = 'ThrottledClientGone'
  readonly code = 'ECONNRESET'
}

export class Throttle {
  readonly #accounts: readonly RateAccount[]
  readonly #channel: Channel
  readonly #recorder: TrafficRecorder
  readonly #resume: () => void
  #limited: boolean
  #timer: NodeJS.Timeout | undefined
  #since = 0
  #until = 0
  /** The request that is next was charged, and has waited for its turn. */
  #charged = false
  /** The client had sent its last byte when it was last looked at. */
  #finished = false

  /** Requests are charged to all these accounts. `resume` is called when a connection that waits may go on. */
  constructor(
    accounts: readonly RateAccount[],
    channel: Channel,
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
    this.#finished = false
    this.#sleep(wait)
    return false
  }

  #sleep(ms: number): void {
    this.#timer = setTimeout(() => this.#wake(), Math.min(Math.ceil(ms), CHECK_MS))
  }

  #wake(): void {
    const left = this.#until - performance.now()
    if (left <= 0) {
      this.#goOn()
      return
    }
    const state = this.#channel.peerState
    // Whoever has sent its last byte may still read, but a client that died looks the same: it must not keep its disk.
    if (state === 'gone' || (state === 'finished' && this.#finished)) {
      this.#channel.destroy(
        new ThrottledClientGone('The client went away while its rate limit held it back.'),
      )
      return
    }
    this.#finished = state === 'finished'
    this.#sleep(left)
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
