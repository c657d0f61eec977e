/** An open disk as the layer sees it: what it can do, and which calls of the backend are under way. */
import type { Capabilities, Completion } from '../backend.ts'
import { Call, type CallOwner } from './call.ts'
import { AbandonedError, BackendError } from './errors.ts'

/** What a handle is made of. */
export interface HandleTerms<Inner> {
  /** The backend's own handle. */
  readonly inner: Inner
  /** Bytes. */
  readonly size: number
  readonly capabilities: Capabilities
  /** A sentence about the disk, for people. */
  readonly description: string | undefined
  /** The backend's own `zero` and `cache` may be called. */
  readonly zeroIsNative: boolean
  readonly cacheIsNative: boolean
  readonly misbehaved: (problem: BackendError) => void
}

export class Handle<Inner> implements CallOwner {
  readonly inner: Inner
  readonly capabilities: Capabilities
  readonly description: string | undefined
  readonly zeroIsNative: boolean
  readonly cacheIsNative: boolean
  readonly misbehaved: (problem: BackendError) => void
  readonly canWrite: boolean
  /** Block sizes in bytes. */
  readonly minimum: number
  readonly maximum: number
  /** What `preadNow` or `pwriteNow` threw: for the operation that follows, which can fail. */
  readFailure: unknown
  writeFailure: unknown
  /** Emulated zeroings that wait for their turn, the running one first. */
  readonly zeroings: (() => void)[] = []
  /** Set by the first `close`. */
  closed: Promise<void> | undefined
  #size: number
  #first: Call | undefined
  #waiting = 0
  #leaving: NodeJS.Timeout | undefined
  #abandoned = false
  #onIdle: (() => void) | undefined

  constructor(terms: HandleTerms<Inner>) {
    this.inner = terms.inner
    this.#size = terms.size
    this.capabilities = terms.capabilities
    this.description = terms.description
    this.zeroIsNative = terms.zeroIsNative
    this.cacheIsNative = terms.cacheIsNative
    this.misbehaved = terms.misbehaved
    this.canWrite = terms.capabilities.canWrite
    this.minimum = terms.capabilities.blockSizes.minimum
    this.maximum = terms.capabilities.blockSizes.maximum
  }

  /** Bytes. */
  get size(): number {
    return this.#size
  }

  /** Takes a new size, if it is a larger one, as far as it is whole blocks. */
  growTo(size: number): void {
    this.#size = Math.max(this.#size, size - (size % this.minimum))
  }

  /** A call that is about to be made. `bytes` as in `Call`. */
  begin(callback: string, completion: Completion, bytes: number): Call {
    if (this.#abandoned) throw new AbandonedError(callback)
    return new Call(this, callback, completion, bytes)
  }

  waits(call: Call): void {
    call.next = this.#first
    if (this.#first !== undefined) this.#first.previous = call
    this.#first = call
    this.#waiting++
  }

  ended(call: Call): void {
    if (call.previous === undefined) this.#first = call.next
    else call.previous.next = call.next
    if (call.next !== undefined) call.next.previous = call.previous
    call.previous = undefined
    call.next = undefined
    this.#waiting--
    if (this.#waiting === 0) this.#onIdle?.()
  }

  /** Calls that have not ended. */
  get waiting(): number {
    return this.#waiting
  }

  /** Abandons what is still under way after `ms`. Does not keep the process alive. */
  leave(ms: number): void {
    if (this.closed === undefined) this.#leaving ??= setTimeout(() => this.#abandon(), ms).unref()
  }

  /** The last call has ended. There will be no more. */
  async idle(): Promise<void> {
    clearTimeout(this.#leaving)
    this.#abandoned = true
    if (this.#waiting > 0) {
      await new Promise<void>(resolve => {
        this.#onIdle = resolve
      })
    }
  }

  #abandon(): void {
    this.#abandoned = true
    let call = this.#first
    while (call !== undefined) {
      // Its completion may end others.
      const { next } = call
      call.abandon()
      call = next
    }
  }

  /** @throws BackendError: the range is not one of this disk, or not one of whole blocks */
  check(length: number, offset: number, past: 'EINVAL' | 'ENOSPC'): void {
    if (!(length > 0 && offset >= 0 && length <= this.size - offset)) {
      throw new BackendError(past, 'The range is not within the disk')
    }
    if (this.minimum > 1 && !this.isAligned(length, offset)) {
      throw new BackendError('EINVAL', `The disk is read and written in blocks of ${this.minimum} bytes only`)
    }
  }

  isAligned(length: number, offset: number): boolean {
    return offset % this.minimum === 0 && length % this.minimum === 0
  }
}
