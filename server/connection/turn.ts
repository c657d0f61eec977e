/** What one connection may do before others get their turn. */
const MAX_REQUESTS = 512
const MAX_BYTES = 8 * 2 ** 20
/**
 * Milliseconds after which reads that the page cache could not serve end the turn, while other connections are active
 * and while none is. The kernel asks the disk for each of them at once, which takes it 10 to 30 us: a deep queue would
 * hold everybody else up for longer than the disk takes. Many short turns, on the other hand, cost a fifth of the rate.
 */
const [MAX_MISSING_MS, MAX_MISSING_ALONE_MS] = [0.05, 1]
/** How long after its last turn another connection counts as active, in ms. */
const ACTIVE_MS = 10

let latest: Turn | undefined
let aloneFrom = 0

export class Turn {
  requests = 0
  /** Bytes moved. */
  bytes = 0
  /** Bytes of further requests stand behind the one that was parsed last. */
  moreFollows = false
  #startedAt = 0
  #isLate = false

  /** `now` comes from performance.now(). */
  begin(now: number): void {
    this.requests = 0
    this.bytes = 0
    this.#startedAt = now
    this.#isLate = false
    if (latest !== this) {
      latest = this
      aloneFrom = now + ACTIVE_MS
    }
  }

  /** A request has been parsed. */
  parsed(moreFollows: boolean): void {
    this.requests++
    this.moreFollows = moreFollows
  }

  /** A read has begun that has to wait. */
  missed(): void {
    const limit = this.isAlone ? MAX_MISSING_ALONE_MS : MAX_MISSING_MS
    this.#isLate = performance.now() - this.#startedAt >= limit
  }

  /** No other connection has been active for a while. */
  get isAlone(): boolean {
    return this.#startedAt >= aloneFrom
  }

  get isOver(): boolean {
    return this.requests >= MAX_REQUESTS || this.bytes >= MAX_BYTES || this.#isLate
  }
}
