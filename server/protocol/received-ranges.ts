/**
 * Ranges of a READ that were received out of order. Without them a server could send one part twice and
 * another not at all, and the caller would take the old contents of its buffer for data of the disk.
 */

/** Gaps that a reply may have at any time; honest servers send in order, or nearly so. */
const MAX_RANGES = 1024

export class ReceivedRanges {
  // Sorted, disjoint, not touching each other.
  readonly #starts: number[] = []
  readonly #ends: number[] = []

  /** Adds a range that is not empty. False if a part of it was there already, or if there are too many gaps. */
  add(start: number, end: number): boolean {
    const starts = this.#starts
    const ends = this.#ends
    let low = 0
    let high = starts.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((starts[middle] ?? 0) < start) low = middle + 1
      else high = middle
    }
    const next = starts[low]
    const previousEnd = low > 0 ? ends[low - 1] : undefined
    if ((next !== undefined && next < end) || (previousEnd !== undefined && previousEnd > start)) return false
    const touchesPrevious = previousEnd === start
    const touchesNext = next === end
    if (touchesPrevious && touchesNext) {
      ends[low - 1] = ends[low] ?? end
      starts.splice(low, 1)
      ends.splice(low, 1)
    } else if (touchesPrevious) {
      ends[low - 1] = end
    } else if (touchesNext) {
      starts[low] = start
    } else {
      if (starts.length >= MAX_RANGES) return false
      starts.splice(low, 0, start)
      ends.splice(low, 0, end)
    }
    return true
  }

  /** Takes the range that begins at `position` out, if there is one, and returns its end; else `position`. */
  takeFrom(position: number): number {
    if (this.#starts[0] !== position) return position
    this.#starts.shift()
    return this.#ends.shift() ?? position
  }

  /** Does the first range begin before `end`? */
  beginsBefore(end: number): boolean {
    const first = this.#starts[0]
    return first !== undefined && first < end
  }
}
