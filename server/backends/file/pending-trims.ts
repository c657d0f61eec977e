/**
 * What of long trims is still to be punched, in pieces, and what must not be any more because it has been written since.
 * A trim is advice: what does not fit in here is left out, and never is more punched than was trimmed. Nothing here does I/O.
 */

/** Ranges begin and end at multiples of this, in bytes: what a file system gives back, and what a block device can do. */
const BLOCK = 4096
/**
 * Bytes of a piece. While it is punched nobody else writes the file, so that it is to take milliseconds: of data in the
 * page cache 8 MiB take 7 to 9 ms. Where pieces take none, as in holes, they grow, so that a disk of terabytes is not
 * millions of calls.
 */
export const PIECE = 2 ** 23
const MAX_PIECE = 2 ** 27
/** A piece that took less, in ms, was too small; one that took more, too large. */
const QUICK_MS = 1
const SLOW_MS = 12
/** Trims that may be pending. */
export const MAX_TRIMS = 64
/** Parts of all pending trims; writes into them cut them up. */
export const MAX_PARTS = 1024

/** Bytes from `start` to before `end`. */
export interface Range {
  start: number
  end: number
}

interface Trim<Owner> {
  readonly owner: Owner
  /** In the order of the disk. They do not touch. */
  parts: Range[]
}

/** `Owner`: what the caller knows a trim by. */
export class PendingTrims<Owner> {
  /** In the order in which they came, which is the one in which they end. */
  readonly #trims: Trim<Owner>[] = []
  #parts = 0
  #pieceSize = PIECE
  #piece: Range | undefined

  get count(): number {
    return this.#trims.length
  }

  /** What is being punched now; of the first trim. */
  get piece(): Readonly<Range> | undefined {
    return this.#piece
  }

  /** Takes a trim, unless there are too many. */
  add(offset: number, length: number, owner: Owner): boolean {
    if (this.#trims.length >= MAX_TRIMS || this.#parts >= MAX_PARTS) return false
    this.#trims.push({ owner, parts: [{ start: offset, end: offset + length }] })
    this.#parts++
    return true
  }

  /**
   * This range is about to be changed: it is not to be punched any more. False: part of it is being punched at this
   * moment, and the change has to wait until `ended`.
   */
  exclude(offset: number, length: number): boolean {
    const start = offset - (offset % BLOCK)
    const end = Math.ceil((offset + length) / BLOCK) * BLOCK
    for (const trim of this.#trims) {
      if (trim.parts.some(part => part.start < end && start < part.end)) this.#cut(trim, start, end)
    }
    const piece = this.#piece
    return piece === undefined || piece.end <= start || end <= piece.start
  }

  /** Is any of this range still to be punched, or being punched? */
  touches(offset: number, length: number): boolean {
    const isTouched = (range: Range | undefined) =>
      range !== undefined && range.start < offset + length && offset < range.end
    return isTouched(this.#piece) || this.#trims.some(trim => trim.parts.some(isTouched))
  }

  #cut(trim: Trim<Owner>, start: number, end: number): void {
    const kept: Range[] = []
    for (const part of trim.parts) {
      const before = { start: part.start, end: Math.min(part.end, start) }
      const behind = { start: Math.max(part.start, end), end: part.end }
      const sides = [before, behind].filter(side => side.start < side.end)
      this.#parts += sides.length - 1
      if (this.#parts > MAX_PARTS) {
        // Of two sides the larger one is worth more.
        sides.sort((a, b) => b.end - b.start - (a.end - a.start)).pop()
        this.#parts--
      }
      kept.push(...sides)
    }
    trim.parts = kept
  }

  /** The next piece, which is being punched from now on. Undefined: there is none, or one is. */
  begin(): Readonly<Range> | undefined {
    if (this.#piece !== undefined) return undefined
    const [part] = this.#trims[0]?.parts ?? []
    if (part === undefined) return undefined
    const { start } = part
    const aligned = start + this.#pieceSize - (start % BLOCK)
    const end = Math.min(part.end, aligned)
    this.#piece = { start, end }
    if (end < part.end) part.start = end
    else {
      this.#trims[0]?.parts.shift()
      this.#parts--
    }
    return this.#piece
  }

  /** The piece is punched, and took this long. */
  ended(ms: number): void {
    this.#piece = undefined
    if (ms > SLOW_MS) this.#pieceSize = PIECE
    else if (ms < QUICK_MS) this.#pieceSize = Math.min(MAX_PIECE, 2 * this.#pieceSize)
  }

  /** Takes out the first trim if nothing of it is left, neither pending nor being punched. */
  takeDone(): Owner | undefined {
    if (this.#piece !== undefined || this.#trims[0]?.parts.length !== 0) return undefined
    return this.#trims.shift()?.owner
  }

  /** What is left of the first trim is not punched. */
  dropFirst(): void {
    const [first] = this.#trims
    if (first !== undefined) this.#drop(first)
  }

  /** Nothing more is punched. */
  dropAll(): void {
    for (const trim of this.#trims) this.#drop(trim)
  }

  #drop(trim: Trim<Owner>): void {
    this.#parts -= trim.parts.length
    trim.parts = []
  }

  /** The trims in their order, each with the bytes that are pending until it is done. */
  *backlog(): Generator<[owner: Owner, bytes: number]> {
    let bytes = this.#piece === undefined ? 0 : this.#piece.end - this.#piece.start
    for (const { owner, parts } of this.#trims) {
      for (const part of parts) bytes += part.end - part.start
      yield [owner, bytes]
    }
  }
}
