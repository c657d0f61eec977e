/** Requests as a client sends them, and what a client keeps of one until its reply is complete. No I/O. */
import { CMD, CMD_FLAG, EXTENDED_REQUEST_MAGIC, NBD_ERRNO, REQUEST_MAGIC } from './constants.ts'
import type { ReceivedRanges } from './received-ranges.ts'
import { REQUEST_LENGTH, writeUInt64 } from './transmission.ts'

/** Most bytes of a request's header, compact (28) or extended (32). */
export const MAX_REQUEST_HEADER = REQUEST_LENGTH + 4

/** Part of an export that is of one kind: `hole` is not allocated, `zero` reads as zeroes. `length` is bytes. */
export interface ReportedExtent {
  readonly length: number
  readonly hole: boolean
  readonly zero: boolean
}

const NO_BYTES = Buffer.alloc(0)

/**
 * A request and what has come of its reply. One object serves many requests in turn: `begin` fills it in
 * anew.
 */
export class PendingRequest {
  command: number = CMD.READ
  /** Command flags, without PAYLOAD_LEN, which extended headers add by themselves. */
  flags = 0
  offset = 0
  length = 0
  /** What is read into, or written from, `length` bytes from index `start`. Not used by other commands. */
  buffer: Buffer = NO_BYTES
  start = 0
  /** Where the extents of BLOCK_STATUS go, and how many are kept. */
  extents: ReportedExtent[] | undefined = undefined
  limit = 0

  cookieHigh = 0
  cookieLow = 0

  /** The server's error, 0 for none, and its text as it came. */
  errno = 0
  message = ''
  /** Chunks of the reply so far. */
  chunks = 0
  errors = 0
  /** Bytes received from the beginning without a gap, and what came out of order behind them. */
  inOrder = 0
  outOfOrder: ReceivedRanges | undefined = undefined
  statusSeen = false
  /** Bytes that the extents so far describe. */
  described = 0

  /** Forgets what has come of the reply: the request is about to be sent, or sent again. */
  expectReply(): void {
    this.errno = 0
    this.message = ''
    this.chunks = 0
    this.errors = 0
    this.inOrder = 0
    this.outOfOrder = undefined
    this.statusSeen = false
    if (this.extents !== undefined) this.extents.length = 0
  }

  /** The one chunk of a reply that is to bring data, `length` bytes for index `at` of the buffer, has begun. */
  beginData(_at: number, _length: number): void {}

  /** Data of a reply has come, for index `at` of the buffer. */
  putData(bytes: Buffer, start: number, end: number, at: number): void {
    bytes.copy(this.buffer, at, start, end)
  }

  /** The next data may be put straight into the buffer. */
  get isReadInPlace(): boolean {
    return true
  }

  /** Lets go of the caller's memory. */
  release(): void {
    this.buffer = NO_BYTES
    this.extents = undefined
    this.outOfOrder = undefined
  }
}

/** Writes the header of a request, compact or extended; a WRITE's data follows. Returns the index behind it. */
export function writeRequest(buffer: Buffer, at: number, request: PendingRequest, extended: boolean): number {
  let flags = request.flags
  // The protocol asks for PAYLOAD_LEN on every WRITE with an extended header.
  if (extended && request.command === CMD.WRITE) flags |= CMD_FLAG.PAYLOAD_LEN
  buffer.writeUInt32BE(extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC, at)
  buffer.writeUInt16BE(flags, at + 4)
  buffer.writeUInt16BE(request.command, at + 6)
  buffer.writeUInt32BE(request.cookieHigh, at + 8)
  buffer.writeUInt32BE(request.cookieLow, at + 12)
  writeUInt64(buffer, request.offset, at + 16)
  if (extended) return writeUInt64(buffer, request.length, at + 24)
  return buffer.writeUInt32BE(request.length, at + 24)
}

const CODES: ReadonlyMap<number, string> = new Map(
  Object.entries(NBD_ERRNO).map(([code, errno]) => [errno, code]),
)

/** Name of an error on the wire; the protocol lets unknown ones mean EINVAL. */
export function wireErrorCode(errno: number): string {
  return CODES.get(errno) ?? 'EINVAL'
}
