/**
 * Large reads. To copy so much out of the page cache takes longer than the way to a thread and back. Threads copy side by
 * side, and the event loop meanwhile sends what is there, straight out of the buffer it was read into.
 */
import { Passage } from '../linux/passage.ts'
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
import { replyFinished } from './replies.ts'
import type { Request } from './request.ts'
import { writeDataAndHoles } from './zeroes.ts'

/** Bytes from which on a read is left to threads, and how many of them one connection may have with threads. */
const [LARGE, MAX_SHARED_BYTES] = [128 * 2 ** 10, 2 * 2 ** 20]
/** Bytes from which on a copy behind other replies costs more than a call of its own. */
const COPIED_BELOW = 64 * 2 ** 10

/** For how long after another connection has had a large read that one counts as busy, in ms. */
const SHARED_MS = 100
/** The connection that had the last one, and until when it shares the processors with others that have them. */
let latest: object | undefined
let sharedUntil = 0

/**
 * Should this read of a connection, asked for at `now` in ms of `performance.now()`, be left to threads? Others are
 * behind it (`moreFollows`), or `waiting` bytes are under way. Where several connections have large reads, their clients
 * keep the processors busy, and what a thread has copied into the cache of one the loop sends out of that of another.
 */
export function isLeftToThreads(
  connection: object,
  length: number,
  moreFollows: boolean,
  waiting: number,
  now: number,
): boolean {
  if (length < LARGE) return false
  if (latest !== connection) {
    if (latest !== undefined) sharedUntil = now + SHARED_MS
    latest = connection
  }
  return (moreFollows || waiting > 0) && waiting < MAX_SHARED_BYTES && now >= sharedUntil
}

/** The connection is over: it does not share the processors any more. */
export function forgetReader(connection: object): void {
  if (latest === connection) latest = undefined
}

/** Offers a READ, whose buffer has been taken, a way for its data past memory, where that is worth it. */
export function offerPassage(channel: Channel, request: Request): void {
  const { framing, offset, length } = request
  if (length < LARGE || channel.isSecured) return
  const buffer = request.buffer as Buffer
  const from = HEADER_ROOM - dataHeaderLength(framing)
  // The reply will be that of a READ which has succeeded, or the passage is not used.
  if (framing === FRAMING.SIMPLE) writeSimpleReply(buffer, from, request, NBD_ERRNO.OK)
  else writeDataChunkHeader(buffer, from, request, true, offset, length)
  request.passage = new Passage(buffer, from, HEADER_ROOM, length)
}

/** Is this a READ that has succeeded and whose data is better sent from where it is? */
function isSentInPlace({ buffer, length, error, refusal }: Request): boolean {
  return buffer !== undefined && length >= COPIED_BELOW && error === undefined && refusal === NBD_ERRNO.OK
}

/** Gathers the reply to a request that has ended, or sends it, and what has been gathered before it. Releases the request. */
export function sendFinished(channel: Channel, request: Request): void {
  if (request.passage?.isWhole && request.error === undefined) {
    sendOutbox(channel)
    channel.sendPassage({ passage: request.passage, buffer: request.buffer as Buffer, owner: request })
  } else if (isSentInPlace(request)) {
    sendInPlace(channel, request)
  } else {
    replyFinished(request)
    request.release()
  }
}

function sendInPlace(channel: Channel, request: Request): void {
  const { framing, offset, length } = request
  const buffer = request.buffer as Buffer
  const from = HEADER_ROOM - dataHeaderLength(framing)
  let to = HEADER_ROOM + length
  if (framing === FRAMING.SIMPLE) writeSimpleReply(buffer, from, request, NBD_ERRNO.OK)
  else if (request.dontFragment) writeDataChunkHeader(buffer, from, request, true, offset, length)
  else to = writeDataAndHoles(buffer, from, request, offset, length, true)
  sendOutbox(channel)
  channel.sendLent(buffer, from, to, request)
}
