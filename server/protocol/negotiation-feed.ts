/** Feeds a negotiation with bytes as they arrive, however they are split. No I/O. */
import { ServerViolation } from './client-handshake.ts'
import type { Negotiation, Step } from './client-negotiation.ts'

/** What a negotiation wants done. */
export interface FeedSink {
  /** `opens`: the answer may take as long as making a disk does. */
  send(bytes: Buffer, opens: boolean): void
  /** Starts TLS; `tlsStarted` is to be called when it stands. */
  startTls(): void
}

const NOTHING = Buffer.alloc(0)

export class NegotiationFeed<Result> {
  readonly #negotiation: Negotiation<Result>
  readonly #sink: FeedSink
  #wanted = 0
  /** The part of what is wanted that has come, and how much that is. */
  #carry: Buffer = NOTHING
  #filled = 0
  #inTls = false
  #outcome: { readonly value: Result } | undefined

  constructor(negotiation: Negotiation<Result>, sink: FeedSink) {
    this.#negotiation = negotiation
    this.#sink = sink
  }

  /** What was negotiated, once it is over. */
  get outcome(): { readonly value: Result } | undefined {
    return this.#outcome
  }

  /** Runs up to the first bytes that it needs. */
  start(): void {
    this.#go(NOTHING)
  }

  /** TLS stands. */
  tlsStarted(): void {
    this.#inTls = false
    this.#go(NOTHING)
  }

  /**
   * Takes bytes and returns the index behind the last one used: less than `end` only when the negotiation
   * is over and the rest belongs to what comes next.
   * @throws what the negotiation throws; ServerViolation where bytes in the clear follow the start of TLS
   */
  receive(bytes: Buffer, start: number, end: number): number {
    let at = start
    while (at < end && this.#outcome === undefined) {
      // They were sent by whoever could write to the line before it was secured.
      if (this.#inTls) throw new ServerViolation('The server sent bytes in the clear after it agreed to TLS.')
      const missing = this.#wanted - this.#filled
      const taken = Math.min(missing, end - at)
      if (taken === missing && this.#filled === 0) {
        this.#go(bytes.subarray(at, at + taken))
      } else {
        if (this.#filled === 0) this.#carry = Buffer.allocUnsafe(this.#wanted)
        bytes.copy(this.#carry, this.#filled, at, at + taken)
        this.#filled += taken
        if (this.#filled === this.#wanted) {
          this.#filled = 0
          this.#go(this.#carry)
        }
      }
      at += taken
    }
    return at
  }

  #go(answer: Buffer): void {
    let next: IteratorResult<Step, Result> = this.#negotiation.next(answer)
    while (!next.done) {
      const step = next.value
      if (step.kind === 'read') {
        this.#wanted = step.length
        return
      }
      if (step.kind === 'tls') {
        this.#inTls = true
        this.#sink.startTls()
        return
      }
      this.#sink.send(step.bytes, step.opens === true)
      next = this.#negotiation.next(NOTHING)
    }
    this.#outcome = { value: next.value }
  }
}
