/** BLOCK_STATUS for the context base:allocation. */
import type { Extent } from '../backends/backend.ts'
import { STATE_HOLE, STATE_ZERO } from '../protocol/constants.ts'

/** The one context that exists has this id. */
export const BASE_ALLOCATION_ID = 1
/** Most extents in one reply: what a backend may spend on one request. */
export const MAX_EXTENTS = 512
/** Largest extent that 32 bits can say and that any block size divides (CVE-2025-47711, CVE-2025-47712). */
const MAX_LENGTH = 0xffff_0000

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
): Buffer {
  const limit = Math.min(onlyOne ? requested : toDiskEnd, MAX_LENGTH)
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
  if (total === 0) throw new Error('The backend told no extents.')
  const payload = Buffer.allocUnsafe(4 + 8 * joined.length)
  let at = payload.writeUInt32BE(BASE_ALLOCATION_ID, 0)
  for (const { length, state } of joined) {
    at = payload.writeUInt32BE(length, at)
    at = payload.writeUInt32BE(state, at)
  }
  return payload
}
