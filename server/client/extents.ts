/** Extents as callers get them. */

/** Part of an export that is of one kind. `hole`: no storage is allocated. `zero`: reads as zeroes. */
export interface Extent {
  /** Bytes, at least 1. */
  readonly length: number
  readonly hole: boolean
  readonly zero: boolean
}

/** Leaves out the first `skipped` bytes, and what lies more than `most` bytes behind those. */
export function clipExtents(extents: readonly Extent[], skipped: number, most: number): Extent[] {
  const clipped: Extent[] = []
  let at = -skipped
  for (const extent of extents) {
    const start = Math.max(at, 0)
    at += extent.length
    const end = Math.min(at, most)
    if (end > start) clipped.push({ ...extent, length: end - start })
  }
  return clipped
}
