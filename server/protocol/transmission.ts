/**
 * The transmission phase as bytes. Everything is written to a buffer at an index and returns the index
 * behind it; nothing is allocated. What has to come back bit by bit is handled as two 32-bit halves.
 */
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  EXTENDED_REPLY_MAGIC,
  NBD_ERRNO,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts'

/** How requests and replies of a connection are laid out: what the handshake agreed on. */
export const FRAMING = { SIMPLE: 0, STRUCTURED: 1, EXTENDED: 2 } as const

/** A compact request: magic 4, flags 2, type 2, cookie 8, offset 8, length 4. An extended one has 8 for the length. */
export const REQUEST_LENGTH = 28
export const EXTENDED_REQUEST_LENGTH = 32
export const REQUEST_FLAGS = 4
export const REQUEST_TYPE = 6
export const REQUEST_COOKIE = 8
export const REQUEST_OFFSET = 16
export const REQUEST_SIZE = 24

/** magic 4, error 4, cookie 8. */
export const SIMPLE_REPLY_LENGTH = 16

/** The request that a reply answers, in so far as the reply repeats it. */
export interface ReplyHead {
  /** One of FRAMING. */
  readonly framing: number
  readonly cookieHigh: number
  readonly cookieLow: number
  /** Halves of the offset, which only extended replies repeat: all 64 bits of it, however wrong they are. */
  readonly offsetHigh: number
  readonly offsetLow: number
}

/**
 * Bytes of a chunk's header. Structured: magic 4, flags 2, type 2, cookie 8, length 4. Extended: offset 8
 * in front of the length, which has 8.
 */
export function chunkHeaderLength(framing: number): number {
  return framing === FRAMING.EXTENDED ? 32 : 20
}

/** Bytes in front of the data of a READ: a simple reply, or a chunk's header and the data's offset. */
export function dataHeaderLength(framing: number): number {
  return framing === FRAMING.SIMPLE ? SIMPLE_REPLY_LENGTH : chunkHeaderLength(framing) + 8
}

const TWO_POW_32 = 2 ** 32

/** Writes an unsigned number below 2^53 as 64 bits. */
export function writeUInt64(buffer: Buffer, value: number, at: number): number {
  buffer.writeUInt32BE(Math.floor(value / TWO_POW_32), at)
  return buffer.writeUInt32BE(value % TWO_POW_32, at + 4)
}

/** Reads 64 bits as a number; above 2^53 it is inexact, but never below 2^53. */
export function readUInt64(buffer: Buffer, at: number): number {
  return buffer.readUInt32BE(at) * TWO_POW_32 + buffer.readUInt32BE(at + 4)
}

/** A simple reply, without its data. */
export function writeSimpleReply(buffer: Buffer, at: number, head: ReplyHead, error: number): number {
  buffer.writeUInt32BE(SIMPLE_REPLY_MAGIC, at)
  buffer.writeUInt32BE(error, at + 4)
  buffer.writeUInt32BE(head.cookieHigh, at + 8)
  return buffer.writeUInt32BE(head.cookieLow, at + 12)
}

/** Header of a chunk of a structured or extended reply; `length` bytes of payload follow. */
export function writeChunkHeader(
  buffer: Buffer,
  at: number,
  head: ReplyHead,
  type: number,
  done: boolean,
  length: number,
): number {
  const isExtended = head.framing === FRAMING.EXTENDED
  buffer.writeUInt32BE(isExtended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC, at)
  buffer.writeUInt16BE(done ? CHUNK_FLAG_DONE : 0, at + 4)
  buffer.writeUInt16BE(type, at + 6)
  buffer.writeUInt32BE(head.cookieHigh, at + 8)
  buffer.writeUInt32BE(head.cookieLow, at + 12)
  if (!isExtended) return buffer.writeUInt32BE(length, at + 16)
  buffer.writeUInt32BE(head.offsetHigh, at + 16)
  buffer.writeUInt32BE(head.offsetLow, at + 20)
  return writeUInt64(buffer, length, at + 24)
}

/** Header of an OFFSET_DATA chunk; `length` bytes of data follow. */
export function writeDataChunkHeader(
  buffer: Buffer,
  at: number,
  head: ReplyHead,
  done: boolean,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(buffer, at, head, CHUNK.OFFSET_DATA, done, 8 + length)
  return writeUInt64(buffer, offset, next)
}

/** A whole OFFSET_HOLE chunk. */
export function writeHoleChunk(
  buffer: Buffer,
  at: number,
  head: ReplyHead,
  done: boolean,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(buffer, at, head, CHUNK.OFFSET_HOLE, done, 12)
  return buffer.writeUInt32BE(length, writeUInt64(buffer, offset, next))
}

/** A whole ERROR chunk, the last of its reply. `message` is at most MAX_STRING bytes. */
export function writeErrorChunk(
  buffer: Buffer,
  at: number,
  head: ReplyHead,
  error: number,
  message: Uint8Array,
): number {
  let next = writeChunkHeader(buffer, at, head, CHUNK.ERROR, true, 6 + message.length)
  next = buffer.writeUInt32BE(error, next)
  next = buffer.writeUInt16BE(message.length, next)
  buffer.set(message, next)
  return next + message.length
}

/** Wire error of an error's `code`; whatever has no number there is EIO. */
export function wireErrno(code: unknown): number {
  switch (code) {
    case 'EPERM':
    case 'EACCES':
    case 'EROFS':
      return NBD_ERRNO.EPERM
    case 'ENOMEM':
      return NBD_ERRNO.ENOMEM
    case 'EINVAL':
      return NBD_ERRNO.EINVAL
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return NBD_ERRNO.ENOSPC
    case 'EOVERFLOW':
      return NBD_ERRNO.EOVERFLOW
    case 'ENOTSUP':
    case 'EOPNOTSUPP':
      return NBD_ERRNO.ENOTSUP
    case 'ESHUTDOWN':
      return NBD_ERRNO.ESHUTDOWN
    default:
      return NBD_ERRNO.EIO
  }
}
