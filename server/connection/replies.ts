/** Replies of the transmission phase, written to the outbox. */
import { CHUNK, CMD, NBD_ERRNO } from '../protocol/constants.ts'
import { boundedText } from '../protocol/handshake.ts'
import {
  dataHeaderLength,
  FRAMING,
  wireErrno,
  writeChunkHeader,
  writeDataChunkHeader,
  writeErrorChunk,
  writeSimpleReply,
} from '../protocol/transmission.ts'
import { HEADER_ROOM } from './buffers.ts'
import { outbox } from './outbox.ts'
import { ClientGone, type Request } from './request.ts'
import { writeDataAndHoles } from './zeroes.ts'

/** Texts longer than this tell a client nothing more. Bytes. */
export const MAX_TEXT = 512

/**
 * Success without data. Structured replies may be mixed with simple ones, but for READ; extended ones may not
 * (proto.md, "Structured reply message", "Extended reply message").
 */
export function replySuccess(request: Request): void {
  const { buffer, used } = outbox
  const isSimple =
    request.framing === FRAMING.SIMPLE ||
    (request.framing === FRAMING.STRUCTURED && request.type !== CMD.READ)
  outbox.used = isSimple
    ? writeSimpleReply(buffer, used, request, NBD_ERRNO.OK)
    : writeChunkHeader(buffer, used, request, CHUNK.NONE, true, 0)
}

const NO_TEXT = Buffer.alloc(0)

/** Failure; all but simple replies can carry a text for people. */
export function replyFailure(request: Request, errno: number, text: Buffer = NO_TEXT): void {
  const { buffer, used } = outbox
  outbox.used =
    request.framing === FRAMING.SIMPLE
      ? writeSimpleReply(buffer, used, request, errno)
      : writeErrorChunk(buffer, used, request, errno, text)
}

/** Where a READ's data has to be put in the outbox, so that its header fits in front of it. */
export function dataStart(request: Request): number {
  return outbox.used + dataHeaderLength(request.framing)
}

/** Completes a READ whose data stands at dataStart(). */
export function replyRead(request: Request): void {
  const { buffer, used } = outbox
  const { framing, offset, length } = request
  if (framing === FRAMING.SIMPLE) {
    outbox.used = writeSimpleReply(buffer, used, request, NBD_ERRNO.OK) + length
  } else if (request.dontFragment) {
    outbox.used = writeDataChunkHeader(buffer, used, request, true, offset, length) + length
  } else {
    outbox.used = writeDataAndHoles(buffer, used, request, offset, length, true)
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

/**
 * Has the request failed in a way that the server's owner has to hear of? Clients try FAST_ZERO to find out whether it
 * can be had, so that no is an answer like others.
 */
export function hasFailed(request: Request): boolean {
  const { error, fast } = request
  if (error === undefined || error instanceof ClientGone) return false
  return !fast || failureErrno(request) !== NBD_ERRNO.ENOTSUP
}

/** The reply to a request that has ended. */
export function replyFinished(request: Request): void {
  if (request.refusal !== NBD_ERRNO.OK) {
    replyFailure(request, request.refusal)
  } else if (request.error !== undefined) {
    const text = request.error instanceof Error ? boundedText(request.error.message, MAX_TEXT) : NO_TEXT
    replyFailure(request, failureErrno(request), text)
  } else if (request.status !== undefined) {
    const { buffer, used } = outbox
    const type = request.framing === FRAMING.EXTENDED ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS
    const at = writeChunkHeader(buffer, used, request, type, true, request.status.length)
    buffer.set(request.status, at)
    outbox.used = at + request.status.length
  } else if (request.buffer !== undefined) {
    request.buffer.copy(outbox.buffer, dataStart(request), HEADER_ROOM, HEADER_ROOM + request.length)
    replyRead(request)
  } else {
    replySuccess(request)
  }
}
