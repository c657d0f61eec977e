/** One connection in its transmission phase: many requests in flight, each told when it is answered. */
import { type Lingerers, Lingering } from '../linux/lingering.ts'
import { yieldProcessor } from '../linux/syscalls.ts'
import { ServerViolation } from '../protocol/client-handshake.ts'
import type { NegotiatedExport } from '../protocol/client-negotiation.ts'
import { openExport } from '../protocol/client-negotiation.ts'
import { ReplyParser } from '../protocol/client-replies.ts'
import { CMD, NBD_ERRNO } from '../protocol/constants.ts'
import { BrokenServerError, ClosedError, ConnectionError, InvalidRequestError } from './errors.ts'
import { type ExportInfo, exportInfo } from './export-info.ts'
import { Fifo } from './fifo.ts'
import { GOODBYE_TIMEOUT, type HandshakeLimits, negotiate } from './handshake.ts'
import { Operation } from './operation.ts'
import { Outbox } from './outbox.ts'
import { describeAddress, type NbdUri } from './uri.ts'
import type { Wire } from './wire.ts'

/** Bounds of a connection. */
export interface ConnectionLimits extends HandshakeLimits {
  /** A server that leaves requests unanswered and moves hardly any data for so many ms counts as gone. */
  readonly requestTimeout: number
  /** Requests in flight at once; more wait here. */
  readonly maxInFlight: number
  /** Requests that may wait for their turn. */
  readonly maxWaiting: number
}

/** Whom a connection tells what becomes of operations. */
export interface ConnectionOwner {
  /** The server has answered; `operation.errno` tells whether by an error. */
  finished(operation: Operation): void
  /** The connection is over, and these operations were not answered. Called once. */
  lost(operations: Operation[], error: Error): void
}

/** Bytes that count as a sign of life, and as much as an answer. */
const PROGRESS = 65_536
/** How often within `requestTimeout` is looked for a sign of life. */
const CHECKS = 4
const lingerers: Lingerers = { last: undefined }
/** A READ from this length on is received straight into the caller's buffer. */
const DIRECT = 32 * 2 ** 10
/** What is read at once while data for the caller's buffers is on its way: its header, and little of it to copy. */
const HEAD = 16 * 2 ** 10
/** The same while data is on its way past memory. */
const PROBE = 4096
/** Headers that are taken in one turn, before others have theirs. */
const MAX_PASSED = 2

export class Connection {
  readonly info: ExportInfo
  readonly #wire: Wire
  readonly #owner: ConnectionOwner
  readonly #limits: ConnectionLimits
  readonly #outbox: Outbox
  readonly #parser: ReplyParser<Operation>
  readonly #inFlight: (Operation | undefined)[]
  readonly #freeCookies: number[]
  #serial = 0
  readonly #waiting = new Fifo<Operation>()
  readonly #timer: NodeJS.Timeout
  readonly #closed = Promise.withResolvers<void>()
  /** The server is shutting down: nothing more is sent. */
  #isRetiring = false
  /** We are: nothing more is accepted. */
  #isClosing = false
  #isOver = false
  #isReceiving = false
  #flushIsScheduled = false
  #progress = 0
  #quietChecks = 0
  readonly #lingering = new Lingering(lingerers)
  /** The last READ was long: what it brings should be received in place, or go past memory. */
  #expectsData = false
  #passesData = false

  constructor(wire: Wire, negotiated: NegotiatedExport, limits: ConnectionLimits, owner: ConnectionOwner) {
    this.info = exportInfo(negotiated)
    this.#wire = wire
    this.#owner = owner
    this.#limits = limits
    this.#outbox = new Outbox(wire, negotiated.replies === 'extended', {
      moved: () => {
        this.#progress += PROGRESS
      },
      ready: () => this.#sendWaiting(),
      sentLate: operation => this.#settle(operation),
    })
    this.#parser = new ReplyParser<Operation>(negotiated.replies, negotiated.allocationContext, {
      find: (high, low) => this.#find(high, low),
      finished: operation => this.#answered(operation),
    })
    this.#inFlight = Array.from({ length: limits.maxInFlight }, () => undefined)
    this.#freeCookies = Array.from(
      { length: limits.maxInFlight },
      (_, index) => limits.maxInFlight - 1 - index,
    )
    this.#timer = setInterval(() => this.#checkProgress(), limits.requestTimeout / CHECKS)
    // The socket keeps the process alive, as long as it should.
    this.#timer.unref()
    const connection = this
    wire.listen({
      receive: (bytes, start, end) => this.#receive(bytes, start, end),
      target: () => this.#target(),
      filled: length => this.#filled(length),
      get most() {
        return connection.#most
      },
      closed: error => this.#over(error),
    })
  }

  /**
   * Sends a request, or lets it wait for its turn.
   * @throws ClosedError, InvalidRequestError (EAGAIN) where too many wait
   */
  submit(operation: Operation): void {
    if (this.#isOver || this.#isClosing) throw new ClosedError()
    if (!this.#canSend() || this.#waiting.length > 0) {
      this.#wait(operation)
      return
    }
    this.#send(operation)
    this.#scheduleFlush()
  }

  #wait(operation: Operation): void {
    if (this.#waiting.length >= this.#limits.maxWaiting) {
      throw new InvalidRequestError(
        'EAGAIN',
        `More than ${this.#limits.maxWaiting} requests wait to be sent.`,
      )
    }
    this.#waiting.push(operation)
  }

  #canSend(): boolean {
    return !this.#isRetiring && !this.#outbox.isBlocked && this.#freeCookies.length > 0
  }

  /** False if the socket became full. */
  #send(operation: Operation): boolean {
    const cookie = this.#freeCookies.pop()
    if (cookie === undefined) throw new Error('There is no cookie left for a request.')
    this.#serial = (this.#serial + 1) >>> 0
    operation.cookieHigh = this.#serial
    operation.cookieLow = cookie
    operation.expectReply()
    this.#inFlight[cookie] = operation
    if (operation.command === CMD.READ) {
      this.#expectsData = operation.length >= DIRECT
      this.#passesData = operation.passage !== undefined
    }
    if (this.#outbox.add(operation)) return true
    this.#inFlight[cookie] = undefined
    this.#freeCookies.push(cookie)
    this.#waiting.push(operation)
    return false
  }

  #sendWaiting(): void {
    while (this.#canSend()) {
      const operation = this.#waiting.shift()
      if (operation === undefined) break
      this.#send(operation)
    }
    this.#scheduleFlush()
    this.#leaveIfDone()
  }

  /** One send a turn: when what runs now has made all its requests. */
  #scheduleFlush(): void {
    if (this.#flushIsScheduled || this.#isReceiving) return
    this.#flushIsScheduled = true
    process.nextTick(flushOf, this)
  }

  /**
   * The caller has submitted all that it has now: sends that, and looks for the answer of a lone small request for
   * some microseconds, where that has paid.
   */
  endBatch(): void {
    if (this.#isOver || this.#isReceiving) return
    this.#outbox.flush()
    if (this.#expectsData || this.#countInFlight() !== 1 || this.#outbox.isBlocked) return
    const until = this.#lingering.until()
    if (until === 0) return
    for (;;) {
      if (this.#wire.receiveNow() && this.#countInFlight() === 0) {
        this.#lingering.answered()
        return
      }
      if (performance.now() >= until) return
      // The server may need it to answer.
      yieldProcessor()
    }
  }

  /** For `flushOf`. */
  flushNow(): void {
    this.#flushIsScheduled = false
    this.#outbox.flush()
  }

  #receive(bytes: Buffer, start: number, end: number): void {
    this.#progress += end - start
    this.#isReceiving = true
    try {
      this.#parser.receive(bytes, start, end)
      this.#passOn()
    } finally {
      this.#isReceiving = false
    }
    this.#afterReceiving()
  }

  #filled(length: number): void {
    this.#progress += length
    this.#isReceiving = true
    try {
      this.#parser.filled(length)
      this.#passOn()
    } finally {
      this.#isReceiving = false
    }
    this.#afterReceiving()
  }

  /** Where the next bytes belong, if they are data for the caller's memory and worth a read of their own. */
  #target(): Buffer | undefined {
    const isWorth = this.#parser.dataLeft >= DIRECT && this.#parser.receiving?.isReadInPlace
    return isWorth ? this.#parser.dataTarget() : undefined
  }

  get #most(): number {
    if (!this.#expectsData) return Number.POSITIVE_INFINITY
    if (!this.#passesData) return HEAD
    // What the event loop reads of the data itself is copied: that it is there is all that it is to find out.
    return this.#parser.untilData || Math.min(this.#parser.dataLeft, PROBE)
  }

  /** Lets data of READs go past memory as long as there is some, with the headers between. */
  #passOn(): void {
    for (let replies = 0; replies < MAX_PASSED; ) {
      const { receiving, untilData } = this.#parser
      if (receiving?.passage?.isOpen) {
        const moved = this.#wire.fill(receiving.passage)
        if (moved === 0) return
        this.#progress += moved
        this.#parser.filled(moved)
      } else {
        if (!this.#passesData || untilData === 0 || this.#countInFlight() === 0) return
        const bytes = this.#wire.take(untilData)
        if (bytes === undefined) return
        replies++
        this.#parser.receive(bytes, 0, bytes.length)
      }
    }
  }

  #afterReceiving(): void {
    if (this.#isOver) return
    if (this.#waiting.length > 0) this.#sendWaiting()
    this.#outbox.flush()
    this.#leaveIfDone()
  }

  #find(high: number, low: number): Operation | undefined {
    const operation = this.#inFlight[low]
    return operation?.cookieHigh === high ? operation : undefined
  }

  #answered(operation: Operation): void {
    this.#progress += PROGRESS
    this.#inFlight[operation.cookieLow] = undefined
    this.#freeCookies.push(operation.cookieLow)
    // The caller gets its memory back only when nobody reads it any more.
    if (operation.isUnsent) operation.isAnswered = true
    else this.#settle(operation)
  }

  #settle(operation: Operation): void {
    // The protocol asks clients to leave then.
    if (operation.errno === NBD_ERRNO.ESHUTDOWN) this.#isRetiring = true
    this.#owner.finished(operation)
  }

  #checkProgress(): void {
    const isQuiet = this.#countInFlight() > 0 && this.#progress < PROGRESS
    this.#progress = 0
    this.#quietChecks = isQuiet ? this.#quietChecks + 1 : 0
    // The first of them may have come right after the request.
    if (this.#quietChecks <= CHECKS) return
    const where = describeAddress(this.#wire.address)
    const seconds = this.#limits.requestTimeout / 1000
    this.destroy(
      new ConnectionError('ETIMEDOUT', `The NBD server at ${where} has not answered for ${seconds} s.`),
    )
  }

  #countInFlight(): number {
    return this.#inFlight.length - this.#freeCookies.length + (this.#outbox.unsent?.isAnswered ? 1 : 0)
  }

  /** Says goodbye once everything that was sent is answered. */
  #leaveIfDone(): void {
    if (this.#isOver || this.#outbox.isBlocked || this.#countInFlight() > 0) return
    if (!this.#isRetiring && !(this.#isClosing && this.#waiting.length === 0)) return
    const disconnect = new Operation()
    disconnect.command = CMD.DISC
    this.#outbox.add(disconnect)
    this.#outbox.flush()
    this.#over(
      this.#isRetiring
        ? new ConnectionError('ESHUTDOWN', 'The NBD server is shutting down.')
        : new ClosedError(),
    )
    this.#wire.end(GOODBYE_TIMEOUT)
  }

  /**
   * Lets what was submitted be answered, says goodbye and ends. That takes bounded time, for a server that
   * does not answer counts as gone after `requestTimeout`.
   */
  close(): Promise<void> {
    this.#isClosing = true
    this.#leaveIfDone()
    return this.#closed.promise
  }

  /** Sends nothing more, and ends when what was sent is answered; what waits comes back by `lost`. */
  retire(): void {
    this.#isRetiring = true
    this.#leaveIfDone()
  }

  /** Ends at once; what is not answered comes back by `lost`. */
  destroy(error: Error): void {
    this.#wire.destroy(error)
  }

  #over(error: Error): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#isRetiring = true
    clearInterval(this.#timer)
    const lost = this.#inFlight.filter(operation => operation !== undefined)
    const unsent = this.#outbox.unsent
    if (unsent?.isAnswered) lost.push(unsent)
    lost.push(...this.#waiting.drain())
    for (const operation of lost) {
      operation.isUnsent = false
      operation.isAnswered = false
    }
    this.#inFlight.fill(undefined)
    this.#owner.lost(lost, this.#explain(error))
    this.#closed.resolve()
  }

  #explain(error: Error): Error {
    if (!(error instanceof ServerViolation)) return error
    const where = describeAddress(this.#wire.address)
    return new BrokenServerError(`The NBD server at ${where} breaks the protocol: ${error.message}`, {
      cause: error,
    })
  }
}

/** One function for all connections, so that no turn makes a closure. */
function flushOf(connection: Connection): void {
  connection.flushNow()
}

/**
 * Opens the export of `uri`.
 * @throws what `negotiate` throws
 */
export async function openConnection(
  uri: NbdUri,
  limits: ConnectionLimits,
  owner: ConnectionOwner,
  signal?: AbortSignal,
): Promise<Connection> {
  const terms = { tls: uri.tls !== undefined }
  const { wire, value } = await negotiate(uri, openExport(uri.exportName, terms), limits, signal)
  try {
    return new Connection(wire, value, limits, owner)
  } catch (error) {
    wire.end(GOODBYE_TIMEOUT)
    throw error
  }
}
