/** What a server may answer to a request: each function notes a part of a reply at its request, or throws. */
import { ServerViolation } from './client-handshake.ts'
import type { ReplyStyle } from './client-negotiation.ts'
import type { PendingRequest } from './client-transmission.ts'
import { CHUNK, CMD, CMD_FLAG, MAX_STRING, STATE_HOLE, STATE_ZERO } from './constants.ts'
import { ReceivedRanges } from './received-ranges.ts'

/** Chunk types from here on are errors, known or not. */
const FIRST_ERROR = 2 ** 15
/** What bounds a reply that never ends: errors in one. */
const MAX_ERRORS = 64
/** The same for descriptors in a block status chunk, by the protocol. */
const MAX_DESCRIPTORS = 2 ** 20
/** The same for the payload of an error of unknown type, in bytes. */
const MAX_ERROR_PAYLOAD = 65_536

/** Is this chunk an error, of a known type or not? */
export const isErrorChunk = (type: number): boolean => type >= FIRST_ERROR

/** Bytes in front of the descriptors of a block status chunk, and of each descriptor. */
export const statusPrefixLength = (style: ReplyStyle): number => (style === 'extended' ? 8 : 4)
export const descriptorLength = (style: ReplyStyle): number => (style === 'extended' ? 16 : 8)

/** A simple reply has come. */
export function noteSimpleReply(request: PendingRequest, style: ReplyStyle, errno: number): void {
  if (request.chunks > 0) throw new ServerViolation('The server sent a simple reply after chunks.')
  if (style === 'structured' && request.command === CMD.READ) {
    throw new ServerViolation(
      'The server answered a READ by a simple reply after structured ones were agreed.',
    )
  }
  if (request.command === CMD.BLOCK_STATUS && errno === 0) {
    throw new ServerViolation('The server answered BLOCK_STATUS by a simple reply.')
  }
  request.errno = errno
  if (request.command === CMD.READ && errno === 0) request.inOrder = request.length
}

function fits(request: PendingRequest, style: ReplyStyle, type: number, length: number): boolean {
  switch (type) {
    case CHUNK.NONE:
      return length === 0
    case CHUNK.OFFSET_DATA:
      return length > 8 && length - 8 <= request.length
    case CHUNK.OFFSET_HOLE:
      return length === 12
    case CHUNK.ERROR:
      return length >= 6 && length <= 6 + MAX_STRING
    case CHUNK.ERROR_OFFSET:
      return length >= 14 && length <= 14 + MAX_STRING
    case CHUNK.BLOCK_STATUS:
    case CHUNK.BLOCK_STATUS_EXT: {
      const count = (length - statusPrefixLength(style)) / descriptorLength(style)
      return Number.isInteger(count) && count >= 1 && count <= MAX_DESCRIPTORS
    }
    default:
      return length >= 6 && length <= MAX_ERROR_PAYLOAD
  }
}

function belongs(request: PendingRequest, style: ReplyStyle, type: number): boolean {
  switch (type) {
    case CHUNK.OFFSET_DATA:
    case CHUNK.OFFSET_HOLE:
      return request.command === CMD.READ
    case CHUNK.BLOCK_STATUS:
      return request.command === CMD.BLOCK_STATUS && style === 'structured'
    case CHUNK.BLOCK_STATUS_EXT:
      return request.command === CMD.BLOCK_STATUS && style === 'extended'
    default:
      return type === CHUNK.NONE || isErrorChunk(type)
  }
}

/** The header of a chunk has come, with `length` bytes of payload. */
export function noteChunk(
  request: PendingRequest,
  style: ReplyStyle,
  type: number,
  isLast: boolean,
  length: number,
): void {
  if (!belongs(request, style, type)) {
    throw new ServerViolation(
      `The server sent a chunk of type ${type} to a request of type ${request.command}.`,
    )
  }
  if (!fits(request, style, type, length)) {
    throw new ServerViolation(`The server sent a chunk of type ${type} with a payload of ${length} bytes.`)
  }
  if (type === CHUNK.NONE && !isLast) {
    throw new ServerViolation('The server sent an empty chunk that is not the last.')
  }
  request.chunks++
}

/** A part of a READ's data has come, or is about to. Returns its index in the caller's buffer. */
export function noteData(request: PendingRequest, offset: number, length: number): number {
  const start = offset - request.offset
  const end = start + length
  // `end > request.length` would not do: a huge offset is rounded before it is compared.
  if (length === 0 || start < 0 || start >= request.length || length > request.length - start) {
    throw new ServerViolation('The server sent data that is not from where it was asked for.')
  }
  let isNew = start >= request.inOrder
  if (start === request.inOrder) {
    isNew = request.outOfOrder?.beginsBefore(end) !== true
    request.inOrder = request.outOfOrder?.takeFrom(end) ?? end
  } else if (isNew) {
    request.outOfOrder ??= new ReceivedRanges()
    isNew = request.outOfOrder.add(start, end)
  }
  if (!isNew) throw new ServerViolation('The server sent a part of the data twice, or in too many pieces.')
  return request.start + start
}

/**
 * A block status chunk has come with `count` descriptors; `announced` is what the extended chunk says of
 * their number (0: nothing).
 */
export function noteStatus(request: PendingRequest, count: number, announced: number): void {
  if (request.statusSeen) throw new ServerViolation('The server sent the status of one range twice.')
  request.statusSeen = true
  request.described = 0
  if (announced !== 0 && announced !== count) {
    throw new ServerViolation(`The server announced ${announced} extents and sent ${count}.`)
  }
  if ((request.flags & CMD_FLAG.REQ_ONE) !== 0 && count !== 1) {
    throw new ServerViolation(`The server sent ${count} extents where one was asked for.`)
  }
}

/** An extent has come. All but the last lie within the request; the last may go beyond, unless one was asked for. */
export function noteExtent(request: PendingRequest, length: number, flags: number): void {
  // A caller that goes on behind the last extent would go on for ever (CVE-2023-5871).
  if (length === 0) throw new ServerViolation('The server sent an extent of no bytes.')
  if (request.described >= request.length) {
    throw new ServerViolation('The server sent more extents than the range that was asked for has.')
  }
  request.described += length
  if ((request.flags & CMD_FLAG.REQ_ONE) !== 0 && length > request.length) {
    throw new ServerViolation('The server sent one extent that is longer than what was asked for.')
  }
  if (request.extents !== undefined && request.extents.length < request.limit) {
    request.extents.push({ length, hole: (flags & STATE_HOLE) !== 0, zero: (flags & STATE_ZERO) !== 0 })
  }
}

/** An error chunk has come, with a text and `behind` bytes after it. */
export function noteError(
  request: PendingRequest,
  type: number,
  errno: number,
  textLength: number,
  behind: number,
): void {
  if (errno === 0) throw new ServerViolation('The server sent an error chunk without an error.')
  if (++request.errors > MAX_ERRORS) {
    throw new ServerViolation(`The server sent more than ${MAX_ERRORS} errors to one request.`)
  }
  const isExact =
    type === CHUNK.ERROR ? behind === 0 : type === CHUNK.ERROR_OFFSET ? behind === 8 : behind >= 0
  if (textLength > MAX_STRING || !isExact) {
    throw new ServerViolation(
      `The server sent an error whose text of ${textLength} bytes does not fit its chunk.`,
    )
  }
  if (request.errno === 0) request.errno = errno
}

/** The place of an error has come. */
export function noteErrorOffset(request: PendingRequest, offset: number): void {
  if (offset < request.offset || offset - request.offset >= Math.max(request.length, 1)) {
    throw new ServerViolation('The server sent an error from outside of what was asked for.')
  }
}

/** The reply is said to be complete. */
export function checkComplete(request: PendingRequest): void {
  if (request.errno !== 0) return
  if (request.command === CMD.READ && request.inOrder !== request.length) {
    throw new ServerViolation('The server ended the reply to a READ before all of its data.')
  }
  if (request.command === CMD.BLOCK_STATUS && !request.statusSeen) {
    throw new ServerViolation('The server ended the reply to BLOCK_STATUS without a status.')
  }
}
