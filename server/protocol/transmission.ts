/**
 * The transmission phase as bytes. Everything is written to a buffer at an index and returns the index
 * behind it; nothing is allocated. The 64-bit cookie is handled as two 32-bit halves.
 */
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  MAX_STRING,
  NBD_ERRNO,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts'

/** magic 4, flags 2, type 2, cookie 8, offset 8, length 4. */
export const REQUEST_LENGTH = 28
export const REQUEST_FLAGS = 4
export const REQUEST_TYPE = 6
export const REQUEST_COOKIE = 8
export const REQUEST_OFFSET = 16
export const REQUEST_SIZE = 24

/** magic 4, error 4, cookie 8. */
export const SIMPLE_REPLY_LENGTH = 16
/** magic 4, flags 2, type 2, cookie 8, length 4. */
export const CHUNK_HEADER_LENGTH = 20
/** Chunk header and the offset in front of the data. */
export const DATA_CHUNK_HEADER_LENGTH = CHUNK_HEADER_LENGTH + 8
/** A whole OFFSET_HOLE chunk. */
export const HOLE_CHUNK_LENGTH = CHUNK_HEADER_LENGTH + 12

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
export function writeSimpleReply(
  buffer: Buffer,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): number {
  buffer.writeUInt32BE(SIMPLE_REPLY_MAGIC, at)
  buffer.writeUInt32BE(error, at + 4)
  buffer.writeUInt32BE(cookieHigh, at + 8)
  return buffer.writeUInt32BE(cookieLow, at + 12)
}

/** Header of a structured reply's chunk; `length` bytes of payload follow. */
export function writeChunkHeader(
  buffer: Buffer,
  at: number,
  type: number,
  done: boolean,
  cookieHigh: number,
  cookieLow: number,
  length: number,
): number {
  buffer.writeUInt32BE(STRUCTURED_REPLY_MAGIC, at)
  buffer.writeUInt16BE(done ? CHUNK_FLAG_DONE : 0, at + 4)
  buffer.writeUInt16BE(type, at + 6)
  buffer.writeUInt32BE(cookieHigh, at + 8)
  buffer.writeUInt32BE(cookieLow, at + 12)
  return buffer.writeUInt32BE(length, at + 16)
}

/** Header of an OFFSET_DATA chunk; `length` bytes of data follow. */
export function writeDataChunkHeader(
  buffer: Buffer,
  at: number,
  done: boolean,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(buffer, at, CHUNK.OFFSET_DATA, done, cookieHigh, cookieLow, 8 + length)
  return writeUInt64(buffer, offset, next)
}

/** A whole OFFSET_HOLE chunk. */
export function writeHoleChunk(
  buffer: Buffer,
  at: number,
  done: boolean,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(buffer, at, CHUNK.OFFSET_HOLE, done, cookieHigh, cookieLow, 12)
  return buffer.writeUInt32BE(length, writeUInt64(buffer, offset, next))
}

/** Most bytes that writeErrorChunk writes. */
export const MAX_ERROR_CHUNK = CHUNK_HEADER_LENGTH + 6 + MAX_STRING

/** A whole ERROR chunk, the last of its reply. `message` is at most MAX_STRING bytes. */
export function writeErrorChunk(
  buffer: Buffer,
  at: number,
  cookieHigh: number,
  cookieLow: number,
  error: number,
  message: Uint8Array,
): number {
  let next = writeChunkHeader(buffer, at, CHUNK.ERROR, true, cookieHigh, cookieLow, 6 + message.length)
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
