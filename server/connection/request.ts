/** Requests that could not be answered at once. Pooled: once a connection is warm, they allocate nothing. */
import { type Completion, type Outcome, PENDING } from '../backends/backend.ts'
import { AbandonedError } from '../backends/layer/errors.ts'
import type { Passage } from '../linux/passage.ts'
import { CMD_FLAG, NBD_ERRNO } from '../protocol/constants.ts'
import { changesData } from '../protocol/request-rules.ts'
import { FRAMING, type ReplyHead } from '../protocol/transmission.ts'
import { forgetBuffer, giveBuffer } from './buffers.ts'

/** Whom requests report to. */
export interface RequestOwner {
  /** The backend's operations themselves obey FUA, so that no flush has to follow. */
  readonly fuaIsNative: boolean
  /** Starts the flush that a request with FUA needs after its own operation. */
  flush(completion: Completion): Outcome
  /** All operations of the request have ended; `request.error` says how. */
  finished(request: Request): void
  /** A piece of a write has ended and given its buffer of so many bytes back. */
  returned(bytes: number): void
}

/** What the client was still to send, or to get, comes to nothing. */
export class ClientGone extends Error {
  override readonly name = 'ClientGone'
  readonly code = 'ESHUTDOWN'
}

/** Gives a buffer back that was lent to an operation, unless that was given up and may still be using it. */
export function returnBuffer(buffer: Buffer, error: unknown): void {
  if (error instanceof AbandonedError) forgetBuffer(buffer)
  else giveBuffer(buffer)
}

/** Connects the outcome of a backend's operation to its completion. */
export function follow(outcome: Outcome, completion: Completion): void {
  if (outcome === PENDING) return
  if (outcome === undefined) completion.complete()
  else
    outcome.then(
      () => completion.complete(),
      (error: unknown) => completion.complete(error ?? new Error('The backend failed without a reason.')),
    )
}

/**
 * A request as it was parsed and, once it has to wait, its operations. Each connection has one that it parses
 * into; only what waits is copied to one from the pool.
 */
export class Request implements Completion, ReplyHead {
  framing: number = FRAMING.SIMPLE
  type = 0
  flags = 0
  cookieHigh = 0
  cookieLow = 0
  offsetHigh = 0
  offsetLow = 0
  /** Bytes; inexact above 2^53. */
  offset = 0
  /** Bytes; inexact above 2^53. */
  length = 0
  /** Wire error with which the request is refused; 0 if it is not. */
  refusal: number = NBD_ERRNO.OK
  /** When its bytes came, in ms of the steady clock. */
  startedAt = 0
  /** READ: the data, from HEADER_ROOM on. */
  buffer: Buffer | undefined
  /** READ: where all of the data may be in place of the buffer. */
  passage: Passage | undefined
  error: unknown
  /** BLOCK_STATUS: the payload of its chunk. */
  status: Buffer | undefined
  /** Operations that have not ended, and the parts of a write that have not arrived. */
  #open = 0
  #flushing = false
  #owner: RequestOwner | undefined

  /** READ: one chunk only. */
  get dontFragment(): boolean {
    return (this.flags & CMD_FLAG.DF) !== 0
  }

  /** WRITE_ZEROES: it has to be fast or fail. */
  get fast(): boolean {
    return (this.flags & CMD_FLAG.FAST_ZERO) !== 0
  }

  /** The reply has to wait for a flush. */
  get fua(): boolean {
    return (this.flags & CMD_FLAG.FUA) !== 0 && changesData(this.type)
  }

  /** Takes over what was parsed, with one operation open. */
  begin(owner: RequestOwner, parsed: Request): void {
    this.framing = parsed.framing
    this.type = parsed.type
    this.flags = parsed.flags
    this.cookieHigh = parsed.cookieHigh
    this.cookieLow = parsed.cookieLow
    this.offsetHigh = parsed.offsetHigh
    this.offsetLow = parsed.offsetLow
    this.offset = parsed.offset
    this.length = parsed.length
    this.refusal = parsed.refusal
    this.startedAt = parsed.startedAt
    this.#owner = owner
    this.#open = 1
    this.#flushing = false
  }

  /** One more operation belongs to this request. */
  expect(): void {
    this.#open++
  }

  complete(error?: unknown): void {
    if (error !== undefined) this.error ??= error
    this.#open--
    if (this.#open > 0) return
    const owner = this.#owner as RequestOwner
    if (
      !this.fua ||
      owner.fuaIsNative ||
      this.#flushing ||
      this.refusal !== NBD_ERRNO.OK ||
      this.error !== undefined
    ) {
      owner.finished(this)
      return
    }
    this.#flushing = true
    this.#open = 1
    try {
      follow(owner.flush(this), this)
    } catch (failure) {
      this.complete(failure)
    }
  }

  release(): void {
    // Before the buffer, which it uses.
    this.passage?.close()
    this.passage = undefined
    if (this.buffer !== undefined) returnBuffer(this.buffer, this.error)
    this.buffer = undefined
    this.status = undefined
    this.error = undefined
    this.#owner = undefined
    if (idleRequests.length < MAX_IDLE) idleRequests.push(this)
  }
}

/** Data of a WRITE on its way to the backend: a copy of what the receive buffer held. */
export class WritePiece implements Completion {
  #request: Request | undefined
  #owner: RequestOwner | undefined
  #buffer: Buffer | undefined

  begin(request: Request, owner: RequestOwner, buffer: Buffer): void {
    this.#request = request
    this.#owner = owner
    this.#buffer = buffer
    request.expect()
  }

  complete(error?: unknown): void {
    const request = this.#request as Request
    const owner = this.#owner as RequestOwner
    const buffer = this.#buffer as Buffer
    this.#request = undefined
    this.#owner = undefined
    this.#buffer = undefined
    returnBuffer(buffer, error)
    if (idlePieces.length < MAX_IDLE) idlePieces.push(this)
    owner.returned(buffer.length)
    request.complete(error)
  }
}

/** Objects of each kind kept for reuse. */
const MAX_IDLE = 1024
const idleRequests: Request[] = []
const idlePieces: WritePiece[] = []

/** A request from the pool, like the one that was parsed; it has one operation open, which complete() ends. */
export function takeRequest(owner: RequestOwner, parsed: Request): Request {
  const request = idleRequests.pop() ?? new Request()
  request.begin(owner, parsed)
  return request
}

/** A piece from the pool. */
export function takePiece(request: Request, owner: RequestOwner, buffer: Buffer): WritePiece {
  const piece = idlePieces.pop() ?? new WritePiece()
  piece.begin(request, owner, buffer)
  return piece
}
