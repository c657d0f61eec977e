/** Data that is sent out of the buffer into which it was read: from some size on, a copy costs more than a call. */
import { NBD_ERRNO } from '../protocol/constants.ts'
import {
  dataHeaderLength,
  FRAMING,
  writeDataChunkHeader,
  writeSimpleReply,
} from '../protocol/transmission.ts'
import { HEADER_ROOM } from './buffers.ts'
import type { Channel } from './channel.ts'
import { sendOutbox } from './outbox.ts'
import type { Request } from './request.ts'
import { writeDataAndHoles } from './zeroes.ts'

/** Bytes from which on data is not copied behind other replies. */
const LARGE = 64 * 2 ** 10

/** Is this a READ that has succeeded and whose data is better sent from where it is? */
export function isLargeRead({ buffer, length, error, refusal }: Request): boolean {
  return buffer !== undefined && length >= LARGE && error === undefined && refusal === NBD_ERRNO.OK
}

/** Sends the reply to such a READ, and what has been gathered before it. */
export function sendLargeRead(channel: Channel, request: Request): void {
  const { framing, offset, length } = request
  const buffer = request.buffer as Buffer
  const from = HEADER_ROOM - dataHeaderLength(framing)
  let to = HEADER_ROOM + length
  if (framing === FRAMING.SIMPLE) writeSimpleReply(buffer, from, request, NBD_ERRNO.OK)
  else if (request.dontFragment) writeDataChunkHeader(buffer, from, request, true, offset, length)
  else to = writeDataAndHoles(buffer, from, request, offset, length, true)
  sendOutbox(channel)
  channel.send(buffer, from, to)
}
