/** Memory that holds a disk: pages, of which only those exist that were written. */
import type { Extent } from '../backend.ts'

/** Bytes of a page. */
export const PAGE = 65_536

/** There is no memory for another page. */
export class OutOfMemoryError extends Error {
  override readonly name = 'OutOfMemoryError'
  readonly code = 'ENOSPC'
}

export class Pages {
  readonly #pages = new Map<number, Buffer>()

  /** Pages that exist. */
  get count(): number {
    return this.#pages.size
  }

  /** Copies a range into `target` from index `start`. */
  read(target: Buffer, start: number, length: number, offset: number): void {
    let done = 0
    while (done < length) {
      const within = (offset + done) % PAGE
      const piece = Math.min(PAGE - within, length - done)
      const page = this.#pages.get((offset + done - within) / PAGE)
      if (page === undefined) target.fill(0, start + done, start + done + piece)
      else page.copy(target, start + done, within, within + piece)
      done += piece
    }
  }

  /** @throws OutOfMemoryError; what comes before the page that could not be had is written then */
  write(source: Buffer, start: number, length: number, offset: number): void {
    let done = 0
    while (done < length) {
      const within = (offset + done) % PAGE
      const piece = Math.min(PAGE - within, length - done)
      const page = this.#page((offset + done - within) / PAGE)
      source.copy(page, within, start + done, start + done + piece)
      done += piece
    }
  }

  /** Gives whole pages of a range back; they read as zeroes from then on. What is left of it keeps its contents. */
  release(length: number, offset: number): void {
    const end = Math.floor((offset + length) / PAGE)
    for (let index = Math.ceil(offset / PAGE); index < end; index++) this.#pages.delete(index)
  }

  /**
   * Makes a range read as zeroes: by giving its whole pages back, or, if `allocate`, with pages for all of it.
   * @throws OutOfMemoryError
   */
  zero(length: number, offset: number, allocate: boolean): void {
    let done = 0
    while (done < length) {
      const within = (offset + done) % PAGE
      const piece = Math.min(PAGE - within, length - done)
      const index = (offset + done - within) / PAGE
      if (allocate) this.#page(index).fill(0, within, within + piece)
      else if (piece === PAGE) this.#pages.delete(index)
      else this.#pages.get(index)?.fill(0, within, within + piece)
      done += piece
    }
  }

  /** Where there are pages and where not: at most `limit` extents, of which the last may end beyond the range. */
  extents(length: number, offset: number, limit: number): Extent[] {
    const extents: { length: number; hole: boolean; zero: boolean }[] = []
    let at = offset
    while (at < offset + length) {
      const next = at - (at % PAGE) + PAGE
      const hole = !this.#pages.has((next - PAGE) / PAGE)
      const last = extents.at(-1)
      if (last?.hole === hole) last.length += next - at
      else if (extents.length === limit) break
      else extents.push({ length: next - at, hole, zero: hole })
      at = next
    }
    return extents
  }

  #page(index: number): Buffer {
    const existing = this.#pages.get(index)
    if (existing !== undefined) return existing
    try {
      const page = Buffer.alloc(PAGE)
      this.#pages.set(index, page)
      return page
    } catch (error) {
      throw new OutOfMemoryError('There is no memory left for more of the disk', { cause: error })
    }
  }
}
