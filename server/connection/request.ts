/** Requests that could not be answered at once. Pooled: once a connection is warm, they allocate nothing. */
import { type Completion, type Outcome, PENDING } from '../backends/backend.ts'
import { giveBuffer } from './buffers.ts'

/** Whom requests report to. */
export interface RequestOwner {
  /** Starts the flush that a request with FUA needs after its own operation. */
  flush(completion: Completion): Outcome
  /** All operations of the request have ended; `request.error` says how. */
  finished(request: Request): void
  /** A piece of a write has ended and given its buffer of so many bytes back. */
  returned(bytes: number): void
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

export class Request implements Completion {
  type = 0
  cookieHigh = 0
  cookieLow = 0
  offset = 0
  length = 0
  /** The reply has to wait for a flush. */
  fua = false
  /** READ: one chunk only. */
  dontFragment = false
  /** WRITE_ZEROES: FAST_ZERO was asked for. */
  fast = false
  /** Wire error of a WRITE that is refused, but whose payload has to be read first; 0 otherwise. */
  refusal = 0
  /** READ: the data, from HEADER_ROOM on. */
  buffer: Buffer | undefined
  error: unknown
  /** BLOCK_STATUS: the payload of its chunk. */
  status: Buffer | undefined
  /** Operations that have not ended, and the parts of a write that have not arrived. */
  #open = 0
  #flushing = false
  #owner: RequestOwner | undefined

  begin(owner: RequestOwner): void {
    this.#owner = owner
    this.#open = 1
    this.#flushing = false
    this.fua = false
    this.dontFragment = false
    this.fast = false
    this.refusal = 0
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
    if (!this.fua || this.#flushing || this.refusal !== 0 || this.error !== undefined) {
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
    if (this.buffer !== undefined) giveBuffer(this.buffer)
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
    giveBuffer(buffer)
    if (idlePieces.length < MAX_IDLE) idlePieces.push(this)
    owner.returned(buffer.length)
    request.complete(error)
  }
}

/** Objects of each kind kept for reuse. */
const MAX_IDLE = 1024
const idleRequests: Request[] = []
const idlePieces: WritePiece[] = []

/** A request from the pool, with no flag set and one operation open, which complete() ends. */
export function takeRequest(owner: RequestOwner): Request {
  const request = idleRequests.pop() ?? new Request()
  request.begin(owner)
  return request
}

/** A piece from the pool. */
export function takePiece(request: Request, owner: RequestOwner, buffer: Buffer): WritePiece {
  const piece = idlePieces.pop() ?? new WritePiece()
  piece.begin(request, owner, buffer)
  return piece
}
