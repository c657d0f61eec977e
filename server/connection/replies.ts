/** Replies of the transmission phase, written to the outbox. */
import { CHUNK, CMD, NBD_ERRNO } from '../protocol/constants.ts'
import { boundedText } from '../protocol/handshake.ts'
import {
  CHUNK_HEADER_LENGTH,
  DATA_CHUNK_HEADER_LENGTH,
  SIMPLE_REPLY_LENGTH,
  wireErrno,
  writeChunkHeader,
  writeDataChunkHeader,
  writeErrorChunk,
  writeSimpleReply,
} from '../protocol/transmission.ts'
import { HEADER_ROOM } from './buffers.ts'
import { outbox } from './outbox.ts'
import type { Request } from './request.ts'
import { writeDataAndHoles } from './zeroes.ts'

/** Texts longer than this tell a client nothing more. Bytes. */
const MAX_TEXT = 512

/** Success without data. A READ of nothing needs the structured form, which READ always has (proto.md, "Structured replies"). */
export function replySuccess(structured: boolean, type: number, cookieHigh: number, cookieLow: number): void {
  outbox.used =
    structured && type === CMD.READ
      ? writeChunkHeader(outbox.buffer, outbox.used, CHUNK.NONE, true, cookieHigh, cookieLow, 0)
      : writeSimpleReply(outbox.buffer, outbox.used, NBD_ERRNO.OK, cookieHigh, cookieLow)
}

const NO_TEXT = Buffer.alloc(0)

/** Failure; the structured form can carry a text for people. */
export function replyFailure(
  structured: boolean,
  cookieHigh: number,
  cookieLow: number,
  errno: number,
  text: Buffer = NO_TEXT,
): void {
  outbox.used = structured
    ? writeErrorChunk(outbox.buffer, outbox.used, cookieHigh, cookieLow, errno, text)
    : writeSimpleReply(outbox.buffer, outbox.used, errno, cookieHigh, cookieLow)
}

/** Where a READ's data has to be put in the outbox, so that its header fits in front of it. */
export function dataStart(structured: boolean): number {
  return outbox.used + (structured ? DATA_CHUNK_HEADER_LENGTH : SIMPLE_REPLY_LENGTH)
}

/** Completes a READ whose data stands at dataStart(). */
export function replyRead(
  structured: boolean,
  dontFragment: boolean,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): void {
  const { buffer, used } = outbox
  if (!structured) {
    outbox.used = writeSimpleReply(buffer, used, NBD_ERRNO.OK, cookieHigh, cookieLow) + length
  } else if (dontFragment) {
    outbox.used = writeDataChunkHeader(buffer, used, true, cookieHigh, cookieLow, offset, length) + length
  } else {
    outbox.used = writeDataAndHoles(buffer, used, length, true, cookieHigh, cookieLow, offset)
  }
}

/**
 * Error number of a failed request. ENOTSUP and EOVERFLOW mean something special on the wire and are
 * only sent to those who asked for it: FAST_ZERO, and a READ with DF.
 */
export function failureErrno(request: Request): number {
  const code = (request.error as { code?: unknown } | null | undefined)?.code
  const errno = wireErrno(code)
  if (errno === NBD_ERRNO.ENOTSUP && !request.fast) return NBD_ERRNO.EIO
  if (errno === NBD_ERRNO.EOVERFLOW && !request.dontFragment) return NBD_ERRNO.EIO
  return errno
}

/** The reply to a request that has ended. */
export function replyFinished(structured: boolean, request: Request): void {
  const { cookieHigh, cookieLow } = request
  if (request.refusal !== 0) {
    replyFailure(structured, cookieHigh, cookieLow, request.refusal)
  } else if (request.error !== undefined) {
    const text = request.error instanceof Error ? boundedText(request.error.message, MAX_TEXT) : NO_TEXT
    replyFailure(structured, cookieHigh, cookieLow, failureErrno(request), text)
  } else if (request.status !== undefined) {
    const { buffer, used } = outbox
    const at = writeChunkHeader(
      buffer,
      used,
      CHUNK.BLOCK_STATUS,
      true,
      cookieHigh,
      cookieLow,
      request.status.length,
    )
    buffer.set(request.status, at)
    outbox.used = at + request.status.length
  } else if (request.buffer !== undefined) {
    request.buffer.copy(outbox.buffer, dataStart(structured), HEADER_ROOM, HEADER_ROOM + request.length)
    replyRead(structured, request.dontFragment, cookieHigh, cookieLow, request.offset, request.length)
  } else {
    replySuccess(structured, request.type, cookieHigh, cookieLow)
  }
}

/** Most bytes that a reply without data takes. */
export const MAX_SHORT_REPLY = CHUNK_HEADER_LENGTH + 6 + MAX_TEXT
