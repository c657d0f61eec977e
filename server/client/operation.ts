/** A request from the moment a caller makes it until it is over, through as many connections as that takes. */
import type { Passage } from '../linux/passage.ts'
import { PendingRequest } from '../protocol/client-transmission.ts'

/** Told once when an operation ends: without an argument as done, with an error as failed. */
export interface Completion {
  complete(error?: unknown): void
}

const NOBODY: Completion = { complete: () => undefined }

/** Made once and used again, so that a request in flight costs no allocation. */
export class Operation extends PendingRequest {
  completion: Completion = NOBODY
  /** The socket has not taken all of its data yet. */
  isUnsent = false
  /** The reply came while data was still unsent. */
  isAnswered = false
  /** When it was first lost with a connection, in ms of `performance.now()`; 0: never. */
  lostAt = 0
  /** For a FLUSH: the writes that were acknowledged before it. */
  covers = 0
  /** For a READ whose data need not come into memory: a way past it. The buffer is the passage's own. */
  passage: Passage | undefined

  override expectReply(): void {
    super.expectReply()
    this.passage?.discard()
  }

  override beginData(_at: number, length: number): void {
    // What comes in several chunks, or with holes, is put together in memory.
    if (length === this.length) this.passage?.open()
  }

  override putData(bytes: Buffer, start: number, end: number, at: number): void {
    if (this.passage?.isOpen && this.passage.append(bytes, start, end)) return
    super.putData(bytes, start, end, at)
  }

  override get isReadInPlace(): boolean {
    return !this.passage?.isOpen
  }
}

/** Operations that are not in use; at most `limit` of them are kept. */
export class OperationPool {
  readonly #free: Operation[] = []
  readonly #limit: number

  constructor(limit: number) {
    this.#limit = limit
  }

  take(): Operation {
    return this.#free.pop() ?? new Operation()
  }

  /** Lets go of what belongs to the caller. */
  giveBack(operation: Operation): void {
    operation.release()
    operation.passage = undefined
    operation.completion = NOBODY
    operation.isUnsent = false
    operation.isAnswered = false
    operation.lostAt = 0
    if (this.#free.length < this.#limit) this.#free.push(operation)
  }

  /** Ends an operation: it may be used again when its caller is told. */
  settle(operation: Operation, error: Error | undefined): void {
    const { completion } = operation
    this.giveBack(operation)
    if (error === undefined) completion.complete()
    else completion.complete(error)
  }
}
