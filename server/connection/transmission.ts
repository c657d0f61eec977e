/**
 * The transmission phase: parses all requests that a read of the socket brought, answers at once what needs no
 * waiting, and sends the replies together. The hot path allocates nothing (request.ts).
 */
import type { Completion, Outcome } from '../backends/backend.ts'
import { TrafficRecorder } from '../metrics/traffic-recorder.ts'
import { CMD, MAX_PAYLOAD, NBD_ERRNO } from '../protocol/constants.ts'
import { ProtocolViolation } from '../protocol/handshake.ts'
import { isBehindEnd, type RequestTerms, refusalOf } from '../protocol/request-rules.ts'
import { EXTENDED_REQUEST_LENGTH, FRAMING, REQUEST_LENGTH } from '../protocol/transmission.ts'
import { decodeStatusPayload, MAX_STATUS_PAYLOAD } from './block-status.ts'
import { bytesLent, HEADER_ROOM, MAX_DATA, takeBuffer } from './buffers.ts'
import { BulkRead } from './bulk-read.ts'
import type { Channel } from './channel.ts'
import { Gathering } from './gathering.ts'
import { forgetReader, isLeftToThreads, offerPassage, sendFinished } from './large-read.ts'
import { type OpenedDisk, transmissionFlags } from './opened-disk.ts'
import { startOperation } from './operations.ts'
import { outbox, outboxIsFull, sendOutbox } from './outbox.ts'
import { hasPayload, parseRequest } from './parse-request.ts'
import { Payload, type PayloadOwner } from './payload.ts'
import type { Receiver } from './receiver.ts'
import { dataStart, hasFailed, replyFailure, replyRead, replySuccess } from './replies.ts'
import { follow, Request, takeRequest } from './request.ts'
import { Throttle } from './throttle.ts'
import type { TransmissionEvents, TransmissionTerms } from './transmission-terms.ts'
import { Turn } from './turn.ts'

/** What may wait for a disk at once: requests of one connection, and the bytes in their buffers. */
const [MAX_WAITING_REQUESTS, MAX_WAITING_BYTES] = [1024, 16 * 2 ** 20]
/** Bytes in all connections' buffers above which each connection may have one buffer only. */
const MAX_LENT_BYTES = 512 * 2 ** 20

export class Transmission implements Receiver, PayloadOwner {
  readonly #channel: Channel
  readonly #disk: OpenedDisk
  #terms: RequestTerms
  readonly payload: Payload
  readonly fuaIsNative: boolean
  readonly #events: TransmissionEvents
  readonly #recorder: TrafficRecorder
  readonly #throttle: Throttle
  readonly #parsed = new Request()
  #waiting = 0
  #waitingBytes = 0
  #bulk: BulkRead | undefined
  readonly #finished: Request[] = []
  readonly #onImmediate = () => this.#nextTurn()
  #immediate = false
  #isReceiving = false
  readonly #turn = new Turn()
  readonly gathering = new Gathering()
  expectsMore = false
  #stopping = false
  /** No further request will be served: DISC, end of stream, or the server's own decision. */
  #hungUp = false
  #ended = false
  #error: Error | undefined

  constructor(channel: Channel, disk: OpenedDisk, terms: TransmissionTerms, events: TransmissionEvents) {
    this.#channel = channel
    this.#disk = disk
    const { size, readOnly, capabilities, multiConn } = disk
    const minimumBlock = capabilities.blockSizes.minimum
    const announced = transmissionFlags(capabilities, multiConn, terms.framing)
    this.#terms = { size, readOnly, announced, minimumBlock, ...terms }
    this.payload = new Payload(disk, this)
    this.fuaIsNative = capabilities.fuaIsNative
    this.#parsed.framing = terms.framing
    this.#events = events
    this.#recorder = new TrafficRecorder(terms.meter)
    this.#throttle = new Throttle(terms.accounts, channel, this.#recorder, this.#onImmediate)
  }

  /** True while requests are being worked on or replies are being sent. */
  get isBusy(): boolean {
    return this.#waiting > 0 || this.#bulk !== undefined || this.#channel.backlog > 0
  }

  /** Answers all further requests with ESHUTDOWN; those under way finish. */
  stop(): void {
    this.#stopping = true
    this.#throttle.end()
  }

  /** The client's rate limits are others now. */
  limitsChanged(): void {
    this.#throttle.limitsChanged()
  }

  /** Ends the connection when the requests under way have finished; a half-received one is dropped. */
  hangUp(): void {
    this.#hungUp = true
    this.#throttle.end()
    this.payload.abandon()
    this.#replyToFinished()
    this.#endWhenIdle()
  }

  get blocked(): boolean {
    return (
      this.#turn.isOver ||
      this.#throttle.waiting ||
      this.#bulk !== undefined ||
      this.#waiting >= MAX_WAITING_REQUESTS ||
      this.#waitingBytes >= MAX_WAITING_BYTES ||
      (this.#waitingBytes > 0 && bytesLent() > MAX_LENT_BYTES && !this.payload.isCollecting) ||
      this.#channel.congested
    )
  }

  receive(buffer: Buffer, start: number, end: number): number {
    this.#isReceiving = true
    this.#parsed.startedAt = this.#recorder.beginTurn()
    this.#turn.begin(this.#parsed.startedAt)
    let at = start
    try {
      while (!this.#hungUp && !this.blocked) {
        const next =
          this.payload.left > 0 ? this.payload.take(buffer, at, end) : this.#takeRequest(buffer, at, end)
        if (next === at) break
        at = next
        if (outboxIsFull()) this.#send()
      }
      if (this.#waiting > 0) this.#endBatch()
      this.#replyToFinished()
    } finally {
      this.#isReceiving = false
      // Also after a violation of the protocol: what stays in the outbox would go to another client.
      this.#send()
    }
    // Some clients send the header of a WRITE and its data apart.
    const isAwaited = this.#waiting === (this.payload.left > 0 ? 1 : 0)
    this.expectsMore = this.#turn.requests <= 1 && isAwaited && at === end
    this.gathering.note(this.#turn.requests, at - start, this.#parsed.startedAt)
    if (this.#turn.isOver) this.#schedule()
    if (this.#hungUp) this.#endWhenIdle()
    return this.#hungUp ? end : at
  }

  #send(): void {
    this.#recorder.settle()
    sendOutbox(this.#channel)
  }

  ended(): void {
    this.hangUp()
  }

  drained(): void {
    this.#bulk?.drained()
    this.#nextTurn()
  }

  closed(error: Error | undefined): void {
    this.#error = error
    this.#bulk?.abandon()
    this.hangUp()
  }

  flush(completion: Completion): Outcome {
    return this.#disk.backend.flush(this.#disk.handle, completion)
  }

  finished(request: Request): void {
    this.#finished.push(request)
    if (!this.#isReceiving) this.#schedule()
  }

  /** Lets the backend send what it has gathered, and answer what it can: what was left for want of room may have it then. */
  #endBatch(): void {
    if (this.blocked) this.#schedule()
    const isLone = this.#turn.requests === 1 && this.#waiting === 1 && this.#finished.length === 0
    this.#disk.backend.endBatch(this.#disk.handle, isLone && this.#turn.isAlone)
  }

  lent(bytes: number): void {
    this.#waitingBytes += bytes
  }

  moved(bytes: number): void {
    this.#turn.bytes += bytes
  }

  returned(bytes: number): void {
    this.#waitingBytes -= bytes
    if (!this.#isReceiving) this.#schedule()
  }

  /** All operations that end in one round of the event loop are answered by one send. */
  #schedule(): void {
    if (this.#immediate) return
    this.#immediate = true
    setImmediate(this.#onImmediate)
  }

  #nextTurn(): void {
    this.#immediate = false
    this.#turn.begin(performance.now())
    this.#replyToFinished()
    this.#endWhenIdle()
    if (!this.blocked && !this.#hungUp) this.#channel.proceed()
  }

  /** Parses and starts one request; returns `at` unchanged if it has not arrived in full. */
  #takeRequest(buffer: Buffer, at: number, end: number): number {
    const request = this.#parsed
    const isExtended = request.framing === FRAMING.EXTENDED
    const next = at + (isExtended ? EXTENDED_REQUEST_LENGTH : REQUEST_LENGTH)
    if (end < next) return at
    parseRequest(buffer, at, request)
    this.#turn.parsed(next < end)
    if (request.type === CMD.DISC) {
      this.#hungUp = true
      return next
    }
    if (isExtended && hasPayload(request)) return this.#takeExtended(buffer, at, next, end)
    request.refusal = this.#refusal(request)
    if (!this.#throttle.admits(request)) return at
    if (request.type === CMD.WRITE) return this.#beginWrite(buffer, next, end)
    this.#start()
    return next
  }

  #refusal({ type, flags, offset, length }: Request): number {
    if (this.#stopping) return NBD_ERRNO.ESHUTDOWN
    if (isBehindEnd(this.#terms, offset, length)) this.#renewSize()
    return refusalOf(this.#terms, type, flags, offset, length)
  }

  /** The disk may have grown since the handshake; clients that know of it, as the kernel's driver does, stay connected. */
  #renewSize(): void {
    const size = this.#disk.backend.renewSize(this.#disk.handle)
    if (size > this.#terms.size) this.#terms = { ...this.#terms, size }
  }

  /** A request with extended header and payload: a WRITE, a BLOCK_STATUS that chooses contexts, or a mistake. */
  #takeExtended(buffer: Buffer, at: number, payload: number, end: number): number {
    const request = this.#parsed
    const { type, length } = request
    // Up to 2^64 bytes could be announced: what nobody would ever send is not read to its end.
    if (length > MAX_PAYLOAD) {
      throw new ProtocolViolation(
        `The client announced a payload of ${length} bytes; ${MAX_PAYLOAD} are allowed.`,
      )
    }
    if (type === CMD.BLOCK_STATUS && length <= MAX_STATUS_PAYLOAD) {
      if (end - payload < length) return at
      const effectLength = decodeStatusPayload(buffer, payload, length)
      request.length = effectLength ?? 0
      request.refusal = effectLength === undefined ? NBD_ERRNO.EINVAL : this.#refusal(request)
      if (!this.#throttle.admits(request)) return at
      this.#start()
      return payload + length
    }
    request.refusal = type === CMD.WRITE ? this.#refusal(request) : NBD_ERRNO.EINVAL
    if (!this.#throttle.admits(request)) return at
    return this.#beginWrite(buffer, payload, end)
  }

  /** Answers a request without payload, or begins to. */
  #start(): void {
    const request = this.#parsed
    if (request.refusal === NBD_ERRNO.OK && (request.length > 0 || request.type === CMD.FLUSH)) {
      if (request.type === CMD.READ && request.length > MAX_DATA) this.#readInBulk()
      else if (request.type === CMD.READ) this.#read(request)
      else startOperation(this.#disk, this.#keep())
      return
    }
    if (request.refusal !== NBD_ERRNO.OK) replyFailure(request, request.refusal)
    else replySuccess(request)
    this.#recorder.answered(request)
  }

  /** Moves the parsed request to where it can wait. */
  #keep(): Request {
    this.#waiting++
    return takeRequest(this, this.#parsed)
  }

  #read(parsed: Request): void {
    const { offset, length } = parsed
    const { backend, handle } = this.#disk
    const start = dataStart(parsed)
    this.#turn.bytes += length
    // TLS encrypts on the loop, and costs more out of the other processor's cache than the copy by a thread saves.
    const isLeft =
      !this.#channel.isSecured &&
      isLeftToThreads(this, length, this.#turn.moreFollows, this.#waitingBytes, parsed.startedAt)
    const read = isLeft ? 0 : backend.preadNow(handle, outbox.buffer, start, length, offset)
    if (read === length) {
      replyRead(parsed)
      this.#recorder.read(length)
      return
    }
    const request = this.#keep()
    const buffer = takeBuffer(length)
    request.buffer = buffer
    this.#waitingBytes += buffer.length
    outbox.buffer.copy(buffer, HEADER_ROOM, start, start + read)
    const from = HEADER_ROOM + read
    if (read === 0 && backend.usesPassages) offerPassage(this.#channel, request)
    try {
      const { passage } = request
      follow(backend.pread(handle, buffer, from, length - read, offset + read, request, passage), request)
    } catch (error) {
      request.complete(error)
    }
    this.#turn.missed()
  }

  #readInBulk(): void {
    sendOutbox(this.#channel)
    const request = takeRequest(this, this.#parsed)
    this.#bulk = new BulkRead(this.#channel, this.#disk, request, error => {
      this.#bulk = undefined
      this.#recorder.answered(request)
      request.release()
      if (error !== undefined) this.#events.failed(CMD.READ, error)
      this.#schedule()
    })
    this.#bulk.next()
  }

  /** Begins a request with payload, whether it is to be written or dropped. */
  #beginWrite(buffer: Buffer, at: number, end: number): number {
    const parsed = this.#parsed
    const { refusal, offset, length } = parsed
    this.payload.isInPlace = false
    const isWhole = refusal === NBD_ERRNO.OK && length <= end - at && length <= MAX_DATA
    const written = isWhole && length > 0 ? this.payload.writeNow(parsed, buffer, at, length, offset) : 0
    if (isWhole && length > 0 && written === length && !parsed.fua) {
      this.#turn.bytes += length
      replySuccess(parsed)
      this.#recorder.wrote(length)
      return at + length
    }
    const request = this.#keep()
    if (isWhole || length === 0) {
      this.#turn.bytes += length
      if (written < length)
        this.payload.writeLater(request, buffer, at + written, length - written, offset + written)
      request.complete()
      return at + length
    }
    this.payload.begin(request)
    return at
  }

  filled(length: number): void {
    if (this.#hungUp) return
    this.#isReceiving = true
    this.#turn.begin(performance.now())
    try {
      this.payload.filled(length)
      this.#endBatch()
      this.#replyToFinished()
    } finally {
      this.#isReceiving = false
      this.#send()
    }
  }

  #replyToFinished(): void {
    if (this.#bulk !== undefined || this.#finished.length === 0) return
    let count = 0
    for (const request of this.#finished) {
      if (this.#channel.congested && !this.#channel.closed) break
      count++
      this.#waiting--
      if (request.buffer !== undefined) this.#waitingBytes -= request.buffer.length
      if (hasFailed(request)) this.#events.failed(request.type, request.error)
      if (this.#channel.closed) request.release()
      else {
        this.#recorder.answered(request)
        sendFinished(this.#channel, request)
      }
      if (outboxIsFull()) sendOutbox(this.#channel)
    }
    if (count === this.#finished.length) this.#finished.length = 0
    else this.#finished.splice(0, count)
    sendOutbox(this.#channel)
  }

  #endWhenIdle(): void {
    if (!this.#hungUp || this.#ended) return
    if (this.#waiting > 0 || this.#bulk !== undefined) {
      // What a backend never ends must not hold the disk and the memory for ever.
      this.#disk.backend.leave(this.#disk.handle)
      return
    }
    this.#ended = true
    forgetReader(this)
    this.#channel.close()
    this.#events.ended(this.#error)
  }
}
