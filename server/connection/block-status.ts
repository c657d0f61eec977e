/** BLOCK_STATUS for the context base:allocation. */
import type { Extent } from '../backends/backend.ts'
import { STATE_HOLE, STATE_ZERO } from '../protocol/constants.ts'
import { readUInt64, writeUInt64 } from '../protocol/transmission.ts'

/** The one context that exists has this id. */
export const BASE_ALLOCATION_ID = 1
/** Most extents in one reply: what a backend may spend on one request. */
export const MAX_EXTENTS = 512
/** Largest extent that 32 bits can say and that any block size divides (CVE-2025-47711, CVE-2025-47712). */
const MAX_LENGTH = 0xffff_0000
/** Largest extent where lengths have 64 bits: all that is an exact number here. */
const MAX_EXTENDED_LENGTH = 2 ** 53

const stateOf = (extent: Extent) => (extent.hole ? STATE_HOLE : 0) | (extent.zero ? STATE_ZERO : 0)

/**
 * Payload of the BLOCK_STATUS chunk: the context's id, then length and state of each extent. Neighbours
 * of one state are joined. What reaches beyond the request is cut off with REQ_ONE and beyond the disk always;
 * there is at least one extent. Throws if the backend gave none.
 */
export function encodeBlockStatus(
  extents: readonly Extent[],
  requested: number,
  toDiskEnd: number,
  onlyOne: boolean,
  extended = false,
): Buffer {
  const limit = Math.min(onlyOne ? requested : toDiskEnd, extended ? MAX_EXTENDED_LENGTH : MAX_LENGTH)
  const joined: { length: number; state: number }[] = []
  let total = 0
  for (const extent of extents) {
    if (total >= requested || total >= limit) break
    const length = Math.min(extent.length, limit - total)
    const last = joined.at(-1)
    const state = stateOf(extent)
    if (last?.state === state) last.length += length
    else if (onlyOne && last !== undefined) break
    else joined.push({ length, state })
    total += length
  }
  if (!(total > 0)) throw new Error('The backend told no extents.')
  return extended ? encodeExtended(joined) : encodeCompact(joined)
}

type Described = readonly { readonly length: number; readonly state: number }[]

/** Context id 4, then length 4 and state 4 of each extent. */
function encodeCompact(extents: Described): Buffer {
  const payload = Buffer.allocUnsafe(4 + 8 * extents.length)
  let at = payload.writeUInt32BE(BASE_ALLOCATION_ID, 0)
  for (const { length, state } of extents) {
    at = payload.writeUInt32BE(length, at)
    at = payload.writeUInt32BE(state, at)
  }
  return payload
}

/** Context id 4, number of extents 4, then length 8 and state 8 of each extent. */
function encodeExtended(extents: Described): Buffer {
  const payload = Buffer.allocUnsafe(8 + 16 * extents.length)
  let at = payload.writeUInt32BE(BASE_ALLOCATION_ID, 0)
  at = payload.writeUInt32BE(extents.length, at)
  for (const { length, state } of extents) {
    at = writeUInt64(payload, length, at)
    at = writeUInt64(payload, state, at)
  }
  return payload
}

/** Bytes of a BLOCK_STATUS request's payload that are read: more contexts than there are cannot be meant. */
export const MAX_STATUS_PAYLOAD = 8 + 4 * 64

/**
 * Decodes the payload of a BLOCK_STATUS request (proto.md, "NBD_CMD_BLOCK_STATUS"): effect length 8, then the
 * ids of the contexts that the reply is to have. Returns the effect length, or undefined if the payload is
 * malformed or names anything but the one context there is, once.
 */
export function decodeStatusPayload(buffer: Buffer, at: number, length: number): number | undefined {
  if (length !== 12 || buffer.readUInt32BE(at + 8) !== BASE_ALLOCATION_ID) return undefined
  return readUInt64(buffer, at)
}
