/** What a backend tells of a range, made into what a client may be told. */
import type { Extent } from '../backend.ts'
import { BackendError, describe } from './errors.ts'

/** Bounds of what may be told of a range. */
export interface ExtentBounds {
  /** Bytes from the beginning of the range to the end of the disk. */
  readonly toDiskEnd: number
  /** Most extents. */
  readonly limit: number
  /** Minimum block size: the range begins on a multiple of it, and so do all extents. */
  readonly block: number
}

type Kind = Pick<Extent, 'hole' | 'zero'>

const DATA: Kind = { hole: false, zero: false }

const inCommon = (a: Kind, b: Kind): Kind => ({ hole: a.hole && b.hole, zero: a.zero && b.zero })

/**
 * At least one extent and at most `limit`, each of at least one byte, none beyond the disk's end. A block in
 * which two extents meet has what they have in common: it is a hole if all of it is, and zero if all of it is.
 * @throws BackendError if the backend told nonsense
 */
export function clipExtents(told: unknown, { toDiskEnd, limit, block }: ExtentBounds): Extent[] {
  if (!Array.isArray(told)) throw nonsense(`${describe(told)} in place of a list`)
  const extents: Extent[] = []
  /** End of what was told, and of the extents. Between them lies the beginning of a block of the kind `begun`. */
  let toldEnd = 0
  let end = 0
  let begun: Kind | undefined
  const extendTo = (newEnd: number, { hole, zero }: Kind) => {
    if (newEnd > end) extents.push({ length: newEnd - end, hole, zero })
    end = Math.max(end, newEnd)
  }
  for (const [index, item] of told.entries()) {
    if (toldEnd >= toDiskEnd || extents.length >= limit) break
    const extent = checked(item, index)
    toldEnd = Math.min(toldEnd + extent.length, toDiskEnd)
    const whole = toldEnd === toDiskEnd ? toldEnd : toldEnd - (toldEnd % block)
    if (begun !== undefined) {
      begun = inCommon(begun, extent)
      if (whole <= end) continue
      extendTo(Math.min(end + block, whole), begun)
    }
    extendTo(whole, extent)
    begun = whole < toldEnd ? extent : undefined
  }
  // Not even one block: what is not known of it counts as data.
  if (end === 0 && toldEnd > 0) extendTo(Math.min(block, toDiskEnd), DATA)
  if (extents.length === 0) throw nonsense('no extent at all')
  return extents.slice(0, limit)
}

function checked(told: unknown, index: number): Extent {
  const { length, hole, zero } = (told ?? {}) as Partial<Record<keyof Extent, unknown>>
  if (typeof length !== 'number' || !Number.isSafeInteger(length) || length < 1) {
    throw nonsense(`an extent of ${describe(length)} bytes (the ${ordinal(index)})`)
  }
  if (typeof hole !== 'boolean' || typeof zero !== 'boolean') {
    throw nonsense(`an extent whose "hole" or "zero" is neither true nor false (the ${ordinal(index)})`)
  }
  return { length, hole, zero }
}

const ordinal = (index: number) => ['first', 'second', 'third'][index] ?? `${index + 1}th`

function nonsense(what: string): BackendError {
  return new BackendError('EIO', `The backend's extents told of ${what}`)
}
