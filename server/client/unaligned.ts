/**
 * Requests that do not keep to a server's minimum block size, by reading the blocks at their ends, changing
 * them, and writing them back. Only for callers that ask for it: a crash in between can tear a block, and
 * other clients of the same export are not kept out.
 */
import { CMD, CMD_FLAG } from '../protocol/constants.ts'

/** Sends one aligned request and waits for its end. */
export type Issue = (
  command: number,
  flags: number,
  buffer: Buffer,
  start: number,
  length: number,
  offset: number,
) => Promise<void>

/** Part of a request: whole blocks, or some bytes of one block. `at` counts from the request's beginning. */
export interface Piece {
  readonly at: number
  readonly length: number
  readonly isWhole: boolean
}

/** Cuts a range at its first and last border of a block: a torn head, whole blocks, a torn tail. */
export function pieces(offset: number, length: number, block: number): Piece[] {
  const end = offset + length
  const firstBorder = Math.ceil(offset / block) * block
  const lastBorder = Math.floor(end / block) * block
  if (firstBorder > lastBorder) return [{ at: 0, length, isWhole: false }]
  return [
    { at: 0, length: firstBorder - offset, isWhole: false },
    { at: firstBorder - offset, length: lastBorder - firstBorder, isWhole: true },
    { at: lastBorder - offset, length: end - lastBorder, isWhole: false },
  ].filter(piece => piece.length > 0)
}

/** Settled when all are; their results are let go, or each lock would keep those of all before. */
const over = async (promises: Promise<unknown>[]): Promise<void> => {
  await Promise.allSettled(promises)
}

/** Many may share it, or one may have it alone; in the order of asking. */
class SharedLock {
  #holders: Promise<unknown> = Promise.resolve()
  #exclusive: Promise<unknown> = Promise.resolve()

  async shared<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#exclusive.then(work)
    this.#holders = over([this.#holders, result])
    return await result
  }

  async alone<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = Promise.all([this.#holders, this.#exclusive]).then(work)
    this.#exclusive = over([result])
    return await result
  }
}

/** Makes `issue` take any offset and length. Writes that would race for a block are kept apart. */
export function unaligned(issue: Issue, block: number): Issue {
  const lock = new SharedLock()

  const floor = (offset: number) => Math.floor(offset / block) * block

  const read: Issue = async (command, flags, buffer, start, length, offset) => {
    await Promise.all(
      pieces(offset, length, block).map(async piece => {
        const from = offset + piece.at
        if (piece.isWhole) return await issue(command, flags, buffer, start + piece.at, piece.length, from)
        const whole = Buffer.allocUnsafe(block)
        await issue(CMD.READ, flags, whole, 0, block, floor(from))
        whole.copy(buffer, start + piece.at, from - floor(from), from - floor(from) + piece.length)
      }),
    )
  }

  /** WRITE, and WRITE_ZEROES, which is a write of zeroes where it does not cover a block. */
  const change: Issue = async (command, flags, buffer, start, length, offset) => {
    // Whole blocks first: a fast zeroing that is refused must have changed nothing.
    for (const piece of pieces(offset, length, block).toSorted(
      (a, b) => Number(b.isWhole) - Number(a.isWhole),
    )) {
      const from = offset + piece.at
      if (piece.isWhole) {
        await issue(command, flags, buffer, start + piece.at, piece.length, from)
        continue
      }
      const whole = Buffer.allocUnsafe(block)
      const within = from - floor(from)
      await issue(CMD.READ, 0, whole, 0, block, floor(from))
      if (command === CMD.WRITE) buffer.copy(whole, within, start + piece.at, start + piece.at + piece.length)
      else whole.fill(0, within, within + piece.length)
      await issue(CMD.WRITE, flags & CMD_FLAG.FUA, whole, 0, block, floor(from))
    }
  }

  /** TRIM is advice: what is not a whole block is left alone. */
  const trim: Issue = async (command, flags, buffer, start, length, offset) => {
    const whole = pieces(offset, length, block).find(piece => piece.isWhole)
    if (whole !== undefined) await issue(command, flags, buffer, start, whole.length, offset + whole.at)
  }

  const cache: Issue = (command, flags, buffer, start, length, offset) =>
    issue(
      command,
      flags,
      buffer,
      start,
      Math.ceil((offset + length) / block) * block - floor(offset),
      floor(offset),
    )

  return (command, flags, buffer, start, length, offset) => {
    const isAligned = offset % block === 0 && length % block === 0
    switch (command) {
      case CMD.READ:
        return read(command, flags, buffer, start, length, offset)
      case CMD.CACHE:
        return cache(command, flags, buffer, start, length, offset)
      case CMD.TRIM:
        return lock.shared(() => trim(command, flags, buffer, start, length, offset))
      case CMD.WRITE:
      case CMD.WRITE_ZEROES:
        if (isAligned) return lock.shared(() => issue(command, flags, buffer, start, length, offset))
        return lock.alone(() => change(command, flags, buffer, start, length, offset))
      default:
        return issue(command, flags, buffer, start, length, offset)
    }
  }
}
