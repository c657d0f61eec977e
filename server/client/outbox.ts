/**
 * Requests on their way into a socket. The headers and small data of a turn are gathered in one buffer and
 * sent at once; large data goes out from the caller's own memory.
 */
import { addressOf } from '../linux/syscalls.ts'
import { MAX_REQUEST_HEADER, writeRequest } from '../protocol/client-transmission.ts'
import { CMD } from '../protocol/constants.ts'
import type { Operation } from './operation.ts'
import type { Wire } from './wire.ts'

const BUFFER_BYTES = 256 * 2 ** 10
/** Data up to this length is copied behind its header. */
const MAX_COPIED = 64 * 2 ** 10
/** Of larger data this much is copied where the two cannot be sent by one call, so that no packet has a header alone. */
const COPIED_HEAD = 16 * 2 ** 10
/** Most bytes that are handed to a socket that is full; each piece that it takes is a sign of life. */
const PIECE = 2 ** 20
const MAX_SPARE = 4

interface Gathered {
  readonly bytes: Buffer
  readonly address: number
}

const spare: Gathered[] = []

function takeBuffer(): Gathered {
  const taken = spare.pop()
  if (taken !== undefined) return taken
  const bytes = Buffer.allocUnsafeSlow(BUFFER_BYTES)
  return { bytes, address: addressOf(bytes) }
}

/** Whom an outbox tells what has become of its contents. */
export interface OutboxOwner {
  /** A socket that was full has taken something. */
  moved(): void
  /** More can be added again. */
  ready(): void
  /** All of an operation is sent whose reply had come before that. */
  sentLate(operation: Operation): void
}

export class Outbox {
  readonly #wire: Wire
  readonly #isExtended: boolean
  readonly #owner: OutboxOwner
  #gathered: Gathered | undefined
  #start = 0
  #end = 0
  /** The operation whose data goes out from its own memory, behind what is gathered, and how far that is. */
  #large: Operation | undefined
  #largeAt = 0
  /** The socket is full: what is here waits for it. */
  #isBlocked = false

  constructor(wire: Wire, isExtended: boolean, owner: OutboxOwner) {
    this.#wire = wire
    this.#isExtended = isExtended
    this.#owner = owner
  }

  /** True while nothing more can be added. */
  get isBlocked(): boolean {
    return this.#isBlocked
  }

  /** The operation of which a part is not sent yet, if there is one. */
  get unsent(): Operation | undefined {
    return this.#large
  }

  /** Adds a request. False if the socket became full before: add it again when `ready` is called. */
  add(operation: Operation): boolean {
    const isWrite = operation.command === CMD.WRITE
    const copied = isWrite ? this.#copied(operation.length) : 0
    if (this.#end + MAX_REQUEST_HEADER + copied > BUFFER_BYTES) this.flush()
    if (this.#isBlocked) return false
    this.#gathered ??= takeBuffer()
    const { bytes } = this.#gathered
    this.#end = writeRequest(bytes, this.#end, operation, this.#isExtended)
    if (copied > 0) {
      operation.buffer.copy(bytes, this.#end, operation.start, operation.start + copied)
      this.#end += copied
    }
    if (isWrite && copied < operation.length) {
      operation.isUnsent = true
      this.#large = operation
      this.#largeAt = operation.start + copied
      this.flush()
    }
    return true
  }

  /** How much of so much data should be copied behind its header. */
  #copied(length: number): number {
    if (length <= MAX_COPIED) return length
    return this.#wire.isPlain ? 0 : COPIED_HEAD
  }

  /** Sends what is gathered, and what it can of the data behind it. */
  #sendGathered({ bytes, address }: Gathered): void {
    const length = this.#end - this.#start
    const large = this.#large
    if (large === undefined) {
      this.#start += this.#wire.trySend(bytes, this.#start, this.#end, address)
      return
    }
    const end = large.start + large.length
    const sent = this.#wire.trySendBoth(address + this.#start, length, large.buffer, this.#largeAt, end)
    this.#start += Math.min(sent, length)
    this.#largeAt += Math.max(sent - length, 0)
  }

  /** Sends what is here, as far as the socket takes it. */
  flush(): void {
    if (this.#isBlocked) return
    const gathered = this.#gathered
    if (gathered !== undefined) {
      this.#sendGathered(gathered)
      if (this.#start < this.#end) {
        this.#wait(gathered.bytes, this.#start, this.#end)
        return
      }
      this.#dropGathered()
    }
    if (this.#large !== undefined) this.#flushLarge(this.#large)
  }

  #flushLarge(operation: Operation): void {
    const end = operation.start + operation.length
    if (this.#largeAt < end) this.#largeAt += this.#wire.trySend(operation.buffer, this.#largeAt, end)
    if (this.#largeAt < end) {
      this.#wait(operation.buffer, this.#largeAt, Math.min(end, this.#largeAt + PIECE))
      return
    }
    this.#large = undefined
    operation.isUnsent = false
    if (operation.isAnswered) this.#owner.sentLate(operation)
  }

  /** Lets the socket take a piece when it can. */
  #wait(bytes: Buffer, start: number, end: number): void {
    this.#isBlocked = true
    const large = bytes === this.#gathered?.bytes ? undefined : this.#large
    this.#wire.write(bytes.subarray(start, end), () => {
      this.#isBlocked = false
      this.#owner.moved()
      if (large === undefined) this.#start = end
      else this.#largeAt = end
      this.flush()
      if (!this.#isBlocked) this.#owner.ready()
    })
  }

  #dropGathered(): void {
    if (this.#gathered !== undefined && spare.length < MAX_SPARE) spare.push(this.#gathered)
    this.#gathered = undefined
    this.#start = 0
    this.#end = 0
  }
}
