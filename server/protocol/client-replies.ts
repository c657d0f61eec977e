/**
 * Parser of what a server sends in the transmission phase: simple, structured and extended replies. It
 * takes bytes however they are split, consumes all of them, and copies only what is data of a READ (into
 * the caller's buffer) or a piece of a header that was torn. A server that breaks the protocol is answered
 * by ServerViolation, after which the parser must not be used again.
 */
import { ServerViolation } from './client-handshake.ts'
import type { ReplyStyle } from './client-negotiation.ts'
import type { PendingRequest } from './client-transmission.ts'
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  CMD,
  EXTENDED_REPLY_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts'
import {
  checkComplete,
  descriptorLength,
  isErrorChunk,
  noteChunk,
  noteData,
  noteError,
  noteErrorOffset,
  noteExtent,
  noteSimpleReply,
  noteStatus,
  statusPrefixLength,
} from './reply-rules.ts'
import { readUInt64, SIMPLE_REPLY_LENGTH } from './transmission.ts'

/** magic 4, flags 2, type 2, cookie 8, offset 8, length 8. */
const EXTENDED_HEADER_LENGTH = 32

// What comes next. Plain numbers: this is asked for each piece of each reply.
const HEADER = 0
const STRUCTURED_LENGTH = 1
const DATA_OFFSET = 2
const DATA = 3
const HOLE = 4
const STATUS_PREFIX = 5
const DESCRIPTOR = 6
const ERROR_PREFIX = 7
const ERROR_TEXT = 8
const ERROR_OFFSET = 9
const SKIP = 10

/** Where replies go. */
export interface ReplyHandler<Request extends PendingRequest> {
  /** The request of this cookie that is waiting for a reply. */
  find(cookieHigh: number, cookieLow: number): Request | undefined
  /** The reply is complete; `request.errno` tells whether it is an error. */
  finished(request: Request): void
}

export class ReplyParser<Request extends PendingRequest> {
  readonly #style: ReplyStyle
  readonly #headerLength: number
  readonly #context: number | undefined
  readonly #handler: ReplyHandler<Request>
  #state = HEADER
  /** Bytes of the piece that comes next, and how many of them have come. */
  #need: number
  #filled = 0
  #carry: Buffer = Buffer.allocUnsafeSlow(64)

  // Of the reply that is being received.
  #request: Request | undefined
  #type = 0
  #isLast = false
  /** Payload of the chunk behind the piece that comes next, in bytes. */
  #payload = 0
  #dataAt = 0
  #dataLeft = 0

  /** `context`: id of base:allocation, if it was negotiated. */
  constructor(style: ReplyStyle, context: number | undefined, handler: ReplyHandler<Request>) {
    this.#style = style
    this.#headerLength = style === 'extended' ? EXTENDED_HEADER_LENGTH : SIMPLE_REPLY_LENGTH
    this.#need = this.#headerLength
    this.#context = context
    this.#handler = handler
  }

  /** Bytes of READ data that come next: they belong where `dataTarget` says. */
  get dataLeft(): number {
    return this.#state === DATA ? this.#dataLeft : 0
  }

  /** The request whose data comes next, if that is what comes. */
  get receiving(): Request | undefined {
    return this.#state === DATA ? this.#request : undefined
  }

  /** How many bytes come next, at least, that are not data of a READ; 0 where data comes next. */
  get untilData(): number {
    const left = this.#need - this.#filled
    if (this.#state === DATA) return 0
    if (this.#state === HEADER) {
      // A simple reply of a READ has its data right behind it.
      return this.#style === 'simple' ? left : left + (this.#style === 'structured' ? 12 : 8)
    }
    if (this.#state === STRUCTURED_LENGTH) return left + 8
    return this.#state === SKIP ? this.#payload : left
  }

  /** The part of the caller's buffer for the next `dataLeft` bytes. Who fills a part of it calls `filled`. */
  dataTarget(): Buffer {
    return this.#pending().buffer.subarray(this.#dataAt, this.#dataAt + this.#dataLeft)
  }

  /** So many bytes were put where `dataTarget` says. */
  filled(length: number): void {
    this.#dataAt += length
    this.#dataLeft -= length
    if (this.#dataLeft === 0) this.#endOfChunk()
  }

  /**
   * Consumes bytes; they may change after the call.
   * @throws ServerViolation
   */
  receive(bytes: Buffer, start: number, end: number): void {
    let at = start
    while (at < end) {
      if (this.#state === DATA) {
        const taken = Math.min(this.#dataLeft, end - at)
        this.#pending().putData(bytes, at, at + taken, this.#dataAt)
        at += taken
        this.filled(taken)
      } else if (this.#state === SKIP) {
        const taken = Math.min(this.#payload, end - at)
        at += taken
        this.#payload -= taken
        if (this.#payload === 0) this.#endOfChunk()
      } else if (this.#filled === 0 && end - at >= this.#need) {
        const piece = at
        at += this.#need
        this.#take(bytes, piece)
      } else {
        at += this.#gather(bytes, at, end)
      }
    }
  }

  /** Puts a torn piece together. */
  #gather(bytes: Buffer, start: number, end: number): number {
    const taken = Math.min(this.#need - this.#filled, end - start)
    if (this.#need > this.#carry.length) this.#carry = Buffer.allocUnsafeSlow(this.#need)
    bytes.copy(this.#carry, this.#filled, start, start + taken)
    this.#filled += taken
    if (this.#filled === this.#need) {
      this.#filled = 0
      this.#take(this.#carry, 0)
    }
    return taken
  }

  #pending(): Request {
    if (this.#request === undefined) throw new Error('A reply is being received without its request.')
    return this.#request
  }

  #want(state: number, length: number): void {
    this.#state = state
    this.#need = length
  }

  #take(bytes: Buffer, at: number): void {
    switch (this.#state) {
      case HEADER:
        this.#header(bytes, at)
        return
      case STRUCTURED_LENGTH:
        this.#chunk(this.#pending(), bytes.readUInt32BE(at))
        return
      case DATA_OFFSET:
        this.#dataLeft = this.#payload - 8
        this.#dataAt = noteData(this.#pending(), readUInt64(bytes, at), this.#dataLeft)
        this.#state = DATA
        this.#pending().beginData(this.#dataAt, this.#dataLeft)
        return
      case HOLE:
        this.#hole(this.#pending(), readUInt64(bytes, at), bytes.readUInt32BE(at + 8))
        return
      case STATUS_PREFIX:
        this.#status(this.#pending(), bytes, at)
        return
      case DESCRIPTOR:
        this.#descriptor(this.#pending(), bytes, at)
        return
      case ERROR_PREFIX:
        this.#error(this.#pending(), bytes.readUInt32BE(at), bytes.readUInt16BE(at + 4))
        return
      case ERROR_TEXT:
        this.#pending().message ||= bytes.toString('utf8', at, at + this.#need)
        this.#restOfError()
        return
      default:
        noteErrorOffset(this.#pending(), readUInt64(bytes, at))
        this.#endOfChunk()
    }
  }

  #header(bytes: Buffer, at: number): void {
    const magic = bytes.readUInt32BE(at)
    const isSimple = magic === SIMPLE_REPLY_MAGIC && this.#style !== 'extended'
    const isChunk =
      (magic === STRUCTURED_REPLY_MAGIC && this.#style === 'structured') ||
      (magic === EXTENDED_REPLY_MAGIC && this.#style === 'extended')
    if (!isSimple && !isChunk) {
      throw new ServerViolation(`The server sent 0x${magic.toString(16)} where a reply should begin.`)
    }
    const request = this.#handler.find(bytes.readUInt32BE(at + 8), bytes.readUInt32BE(at + 12))
    if (request === undefined) throw new ServerViolation('The server answered a request that was not sent.')
    this.#request = request
    if (isSimple) {
      this.#simple(request, bytes.readUInt32BE(at + 4))
      return
    }
    this.#isLast = (bytes.readUInt16BE(at + 4) & CHUNK_FLAG_DONE) !== 0
    this.#type = bytes.readUInt16BE(at + 6)
    if (this.#style === 'structured') {
      this.#want(STRUCTURED_LENGTH, 4)
      return
    }
    if (readUInt64(bytes, at + 16) !== request.offset) {
      throw new ServerViolation('The server sent an extended reply whose offset is not that of its request.')
    }
    this.#chunk(request, readUInt64(bytes, at + 24))
  }

  #simple(request: Request, errno: number): void {
    noteSimpleReply(request, this.#style, errno)
    this.#isLast = true
    if (request.command !== CMD.READ || errno !== 0) {
      this.#endOfChunk()
      return
    }
    this.#state = DATA
    this.#dataAt = request.start
    this.#dataLeft = request.length
    request.beginData(request.start, request.length)
  }

  #chunk(request: Request, length: number): void {
    const type = this.#type
    noteChunk(request, this.#style, type, this.#isLast, length)
    this.#payload = length
    if (type === CHUNK.OFFSET_DATA) this.#want(DATA_OFFSET, 8)
    else if (type === CHUNK.OFFSET_HOLE) this.#want(HOLE, 12)
    else if (type === CHUNK.NONE) this.#endOfChunk()
    else if (isErrorChunk(type)) this.#want(ERROR_PREFIX, 6)
    else this.#want(STATUS_PREFIX, statusPrefixLength(this.#style))
  }

  #hole(request: Request, offset: number, length: number): void {
    const start = noteData(request, offset, length)
    request.buffer.fill(0, start, start + length)
    this.#endOfChunk()
  }

  #status(request: Request, bytes: Buffer, at: number): void {
    if (bytes.readUInt32BE(at) !== this.#context) {
      throw new ServerViolation('The server sent the status of a metadata context that was not agreed.')
    }
    this.#payload -= this.#need
    const count = this.#payload / descriptorLength(this.#style)
    noteStatus(request, count, this.#style === 'extended' ? bytes.readUInt32BE(at + 4) : 0)
    this.#want(DESCRIPTOR, descriptorLength(this.#style))
  }

  #descriptor(request: Request, bytes: Buffer, at: number): void {
    if (this.#style === 'extended') noteExtent(request, readUInt64(bytes, at), bytes.readUInt32BE(at + 12))
    else noteExtent(request, bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4))
    this.#payload -= this.#need
    if (this.#payload === 0) this.#endOfChunk()
  }

  #error(request: Request, errno: number, textLength: number): void {
    this.#payload -= 6 + textLength
    noteError(request, this.#type, errno, textLength, this.#payload)
    if (textLength > 0) this.#want(ERROR_TEXT, textLength)
    else this.#restOfError()
  }

  #restOfError(): void {
    if (this.#type === CHUNK.ERROR_OFFSET) this.#want(ERROR_OFFSET, 8)
    else if (this.#payload > 0) this.#state = SKIP
    else this.#endOfChunk()
  }

  #endOfChunk(): void {
    const request = this.#pending()
    this.#state = HEADER
    this.#need = this.#headerLength
    this.#request = undefined
    if (!this.#isLast) return
    checkComplete(request)
    this.#handler.finished(request)
  }
}
