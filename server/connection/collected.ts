/**
 * Payload of a WRITE that is put together in the buffer that the backend gets: received straight into it, where the
 * backend cannot take data out of the shared receive buffer.
 */
import { AbandonedError } from '../backends/layer/errors.ts'
import { HEADER_ROOM } from './buffers.ts'
import type { WritePiece } from './request.ts'

/** What has still to come of a payload, in bytes, so that it is worth a read of the socket of its own. */
export const WORTH_COLLECTING = 32 * 2 ** 10

export class Collected {
  /** Bytes in all, and how many of them have still to come. */
  length = 0
  left = 0
  #piece: WritePiece | undefined
  #buffer: Buffer | undefined

  begin(piece: WritePiece, buffer: Buffer, length: number): void {
    this.#piece = piece
    this.#buffer = buffer
    this.length = length
    this.left = length
  }

  /** Puts bytes in their place; `left` is the caller's to count. */
  copy(bytes: Buffer, start: number, length: number): void {
    const at = HEADER_ROOM + this.length - this.left
    bytes.copy(this.#buffer as Buffer, at, start, start + length)
  }

  /** Where the bytes belong that have still to come. */
  target(): Buffer | undefined {
    if (this.left === 0) return undefined
    const end = HEADER_ROOM + this.length
    return this.#buffer?.subarray(end - this.left, end)
  }

  /** All is there: the piece and its buffer are the caller's from now on. */
  end(): { piece: WritePiece; buffer: Buffer } {
    const ended = { piece: this.#piece as WritePiece, buffer: this.#buffer as Buffer }
    this.#piece = undefined
    this.#buffer = undefined
    return ended
  }

  /** The rest will not come. The buffer is not used again, since the event loop may still fill it. */
  abandon(): void {
    this.left = 0
    this.#piece?.complete(new AbandonedError('pwrite'))
    this.#piece = undefined
    this.#buffer = undefined
  }
}
