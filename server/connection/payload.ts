/**
 * The payload of a WRITE on its way from the socket to the disk. What the disk takes at once goes straight from the
 * receive buffer. What has to wait needs memory of its own, and where much of it has still to come, that is received
 * straight into this memory.
 */
import { NBD_ERRNO } from '../protocol/constants.ts'
import { HEADER_ROOM, MAX_DATA, takeBuffer } from './buffers.ts'
import { Collected, WORTH_COLLECTING } from './collected.ts'
import type { OpenedDisk } from './opened-disk.ts'
import { ClientGone, follow, type Request, type RequestOwner, takePiece, type WritePiece } from './request.ts'

/** Parts of an unfinished WRITE end on multiples of this, so that no sector is torn if the client vanishes. */
const SECTOR = 4096

/** Whom a payload reports to. */
export interface PayloadOwner extends RequestOwner {
  /** A buffer of so many bytes waits for the disk; `returned` tells when it does not any more. */
  lent(bytes: number): void
  /** So many bytes of a payload have been dealt with. */
  moved(bytes: number): void
}

export class Payload {
  readonly #disk: OpenedDisk
  readonly #owner: PayloadOwner
  readonly #sector: number
  /** WRITE whose payload is arriving. */
  #request: Request | undefined
  readonly #collected = new Collected()
  /** Bytes that have still to come. */
  left = 0
  /** The last WRITE was such that what follows it should be received in place. */
  isInPlace = false

  constructor(disk: OpenedDisk, owner: PayloadOwner) {
    this.#disk = disk
    this.#owner = owner
    this.#sector = Math.max(SECTOR, disk.capabilities.blockSizes.minimum)
  }

  /** The payload of this request comes next, whether it is to be written or dropped. */
  begin(request: Request): void {
    this.#request = request
    this.left = request.length
  }

  /** Takes what has arrived; returns `at` unchanged if that is less than a sector of a write. */
  take(buffer: Buffer, at: number, end: number): number {
    if (this.#collected.left > 0) {
      const taken = Math.min(end - at, this.#collected.left)
      this.#collected.copy(buffer, at, taken)
      this.filled(taken)
      return at + taken
    }
    const request = this.#request as Request
    const position = request.offset + (request.length - this.left)
    let length = Math.min(end - at, this.left, MAX_DATA)
    if (request.refusal === NBD_ERRNO.OK) {
      if (length < this.left) length -= (position + length) % this.#sector
      if (length <= 0) return at
      if (request.error === undefined) {
        const done = this.writeNow(request, buffer, at, length, position)
        if (done === 0 && this.left - length >= WORTH_COLLECTING) {
          this.#collect(request, position)
          return this.take(buffer, at, end)
        }
        if (done < length) this.writeLater(request, buffer, at + done, length - done, position + done)
      }
    }
    this.#dealtWith(length)
    return at + length
  }

  /** Bytes that could be written without waiting; none where the backend has to be told of FUA. */
  writeNow(request: Request, buffer: Buffer, at: number, length: number, offset: number): number {
    if (request.fua && this.#owner.fuaIsNative) return 0
    return this.#disk.backend.pwriteNow(this.#disk.handle, buffer, at, length, offset)
  }

  /** Copies data out of the receive buffer and has it written when the disk can. */
  writeLater(request: Request, source: Buffer, start: number, length: number, offset: number): void {
    const buffer = takeBuffer(length)
    source.copy(buffer, HEADER_ROOM, start, start + length)
    this.#owner.lent(buffer.length)
    this.#write(request, takePiece(request, this.#owner, buffer), buffer, length, offset)
  }

  #write(request: Request, piece: WritePiece, buffer: Buffer, length: number, offset: number): void {
    try {
      const { backend, handle } = this.#disk
      const fua = request.fua && this.#owner.fuaIsNative
      follow(backend.pwrite(handle, buffer, HEADER_ROOM, length, offset, piece, fua), piece)
    } catch (error) {
      piece.complete(error)
    }
  }

  /** Puts what comes next together, up to the most that a buffer holds. */
  #collect(request: Request, position: number): void {
    let length = Math.min(this.left, MAX_DATA)
    if (length < this.left) length -= (position + length) % this.#sector
    const buffer = takeBuffer(length)
    this.#owner.lent(buffer.length)
    this.isInPlace = true
    this.#collected.begin(takePiece(request, this.#owner, buffer), buffer, length)
  }

  /** The next bytes go into memory that is lent already. Only they can free it: whoever waits for memory must not hold them up. */
  get isCollecting(): boolean {
    return this.#collected.left > 0
  }

  /** Where the next bytes of the payload belong, if they are put together. */
  target(): Buffer | undefined {
    return this.#collected.target()
  }

  /** So many bytes have been put where `target` said. */
  filled(length: number): void {
    const collected = this.#collected
    collected.left -= length
    if (collected.left === 0) {
      const request = this.#request as Request
      const position = request.offset + request.length - this.left - (collected.length - length)
      const { piece, buffer } = collected.end()
      this.#write(request, piece, buffer, collected.length, position)
    }
    this.#dealtWith(length)
  }

  #dealtWith(length: number): void {
    this.#owner.moved(length)
    this.left -= length
    if (this.left > 0) return
    const request = this.#request as Request
    this.#request = undefined
    request.complete()
  }

  /** The rest will not come. */
  abandon(): void {
    const request = this.#request
    if (request === undefined) return
    this.#request = undefined
    this.left = 0
    request.complete(new ClientGone())
    this.#collected.abandon()
  }
}
