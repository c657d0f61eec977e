/**
 * A READ too large for one buffer, sent piece by piece, so that it costs one buffer however long it is
 * and however slowly the client takes it. While it runs, nothing else is sent on its connection.
 */
import type { Completion } from '../backends/backend.ts'
import { CHUNK, NBD_ERRNO } from '../protocol/constants.ts'
import { boundedText } from '../protocol/handshake.ts'
import {
  dataHeaderLength,
  FRAMING,
  writeChunkHeader,
  writeDataChunkHeader,
  writeErrorChunk,
  writeSimpleReply,
} from '../protocol/transmission.ts'
import { HEADER_ROOM, MAX_DATA, takeBuffer } from './buffers.ts'
import type { Channel } from './channel.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { failureErrno, MAX_TEXT } from './replies.ts'
import { follow, type Request, returnBuffer } from './request.ts'
import { writeDataAndHoles } from './zeroes.ts'

export class BulkRead implements Completion {
  readonly #channel: Channel
  readonly #disk: OpenedDisk
  readonly #request: Request
  readonly #onEnd: (error: unknown) => void
  readonly #buffer = takeBuffer(MAX_DATA)
  #sent = 0
  #piece = 0
  #waitsForDrain = false

  constructor(channel: Channel, disk: OpenedDisk, request: Request, onEnd: (error: unknown) => void) {
    this.#channel = channel
    this.#disk = disk
    this.#request = request
    this.#onEnd = onEnd
  }

  /** Reads the next piece. */
  next(): void {
    const { backend, handle } = this.#disk
    const { offset, length } = this.#request
    this.#piece = Math.min(MAX_DATA, length - this.#sent)
    const position = offset + this.#sent
    try {
      const read = backend.preadNow(handle, this.#buffer, HEADER_ROOM, this.#piece, position)
      if (read === this.#piece) this.complete()
      else {
        follow(
          backend.pread(handle, this.#buffer, HEADER_ROOM + read, this.#piece - read, position + read, this),
          this,
        )
      }
    } catch (error) {
      this.complete(error)
    }
  }

  /** The socket has taken what was kept. */
  drained(): void {
    if (!this.#waitsForDrain) return
    this.#waitsForDrain = false
    this.next()
  }

  /** The client has gone while it was to take the last piece. */
  abandon(): void {
    if (this.#waitsForDrain) this.#end(undefined)
  }

  complete(error?: unknown): void {
    if (this.#channel.closed) this.#end(error)
    else if (error === undefined) this.#sendPiece()
    else this.#sendError(error)
  }

  get #isSplit(): boolean {
    return this.#request.framing !== FRAMING.SIMPLE && !this.#request.dontFragment
  }

  #sendPiece(): void {
    const request = this.#request
    const { framing, offset, length } = request
    const buffer = this.#buffer
    const position = offset + this.#sent
    let from = HEADER_ROOM
    let to = HEADER_ROOM + this.#piece
    const isLast = this.#sent + this.#piece === length
    if (this.#isSplit) {
      from = HEADER_ROOM - dataHeaderLength(framing)
      to = writeDataAndHoles(buffer, from, request, position, this.#piece, isLast)
    } else if (this.#sent === 0) {
      from = this.#writeHead()
    }
    this.#channel.send(buffer, from, to)
    this.#sent += this.#piece
    if (!isLast) this.#goOn()
    else {
      // With DF the only data chunk could not say DONE, since an error might have had to follow it.
      if (framing !== FRAMING.SIMPLE && !this.#isSplit) this.#sendDone()
      this.#end(undefined)
    }
  }

  /** Head of a reply that is one piece on the wire; returns the index where it begins. */
  #writeHead(): number {
    const request = this.#request
    const from = HEADER_ROOM - dataHeaderLength(request.framing)
    if (request.framing === FRAMING.SIMPLE) writeSimpleReply(this.#buffer, from, request, NBD_ERRNO.OK)
    else writeDataChunkHeader(this.#buffer, from, request, false, request.offset, request.length)
    return from
  }

  #goOn(): void {
    if (this.#channel.congested) this.#waitsForDrain = true
    else setImmediate(() => this.next())
  }

  #sendDone(): void {
    const end = writeChunkHeader(this.#buffer, 0, this.#request, CHUNK.NONE, true, 0)
    this.#channel.send(this.#buffer, 0, end)
  }

  #sendError(error: unknown): void {
    const request = this.#request
    request.error = error
    const errno = failureErrno(request)
    if (request.framing === FRAMING.SIMPLE) {
      if (this.#sent > 0) {
        // A simple reply that has said "no error" can only be taken back by hanging up.
        this.#channel.destroy(new Error('A READ failed after its reply had begun.', { cause: error }))
      } else {
        this.#channel.send(this.#buffer, 0, writeSimpleReply(this.#buffer, 0, request, errno))
      }
    } else {
      if (!this.#isSplit && this.#sent > 0) this.#pad()
      const text = error instanceof Error ? boundedText(error.message, MAX_TEXT) : Buffer.alloc(0)
      this.#channel.send(this.#buffer, 0, writeErrorChunk(this.#buffer, 0, request, errno, text))
    }
    this.#end(error)
  }

  /** Fills the rest of the announced chunk with zeroes, after which an error may be told. */
  #pad(): void {
    this.#buffer.fill(0)
    let missing = this.#request.length - this.#sent
    while (missing > 0) {
      const length = Math.min(missing, this.#buffer.length)
      this.#channel.send(this.#buffer, 0, length)
      missing -= length
    }
  }

  #end(error: unknown): void {
    returnBuffer(this.#buffer, error)
    this.#onEnd(error)
  }
}
