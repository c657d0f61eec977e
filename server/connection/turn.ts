/** What one connection may do before others get their turn. */
const MAX_REQUESTS = 512
const MAX_BYTES = 8 * 2 ** 20
/**
 * Milliseconds after which reads that the page cache could not serve end the turn. The kernel asks the disk for each
 * at once, which takes it 10 to 30 us, so that a deep queue of them would hold everybody else up for longer than the
 * disk takes.
 */
const MAX_MISSING_MS = 0.05

export class Turn {
  requests = 0
  /** Bytes moved. */
  bytes = 0
  #startedAt = 0
  #isLate = false

  /** `now` comes from performance.now(). */
  begin(now: number): void {
    this.requests = 0
    this.bytes = 0
    this.#startedAt = now
    this.#isLate = false
  }

  /** A read has begun that has to wait. */
  missed(): void {
    this.#isLate = performance.now() - this.#startedAt >= MAX_MISSING_MS
  }

  get isOver(): boolean {
    return this.requests >= MAX_REQUESTS || this.bytes >= MAX_BYTES || this.#isLate
  }
}
