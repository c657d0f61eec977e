/** Structured READ replies: runs of zeroes are sent as holes, which saves the client's line. */
import {
  dataHeaderLength,
  type ReplyHead,
  writeDataChunkHeader,
  writeHoleChunk,
} from '../protocol/transmission.ts'

/** Zeroes count from this many bytes on, in steps of it. */
const GRAIN = 4096
const zeroGrain = Buffer.alloc(GRAIN)

function isZero(buffer: Buffer, start: number, end: number): boolean {
  // Most data is told apart by its first bytes, without a call into native code.
  if (buffer[start] !== 0 || buffer[end - 1] !== 0) return false
  return buffer.compare(zeroGrain, 0, end - start, start, end) === 0
}

/** End of the run of grains that are all zero, or all not, from `start` on. */
function runEnd(buffer: Buffer, start: number, end: number, zero: boolean): number {
  let at = start
  while (at < end) {
    const next = Math.min(at + GRAIN, end)
    if (isZero(buffer, at, next) !== zero) return at
    at = next
  }
  return end
}

/**
 * Turns `length` bytes of data, which lie dataHeaderLength() behind `at`, into the chunks of a reply that
 * begins at `at`; the last chunk carries DONE if `done`. Returns the index behind them, never behind the
 * data's end: a hole's chunk is shorter than the zeroes it stands for.
 */
export function writeDataAndHoles(
  buffer: Buffer,
  at: number,
  head: ReplyHead,
  offset: number,
  length: number,
  done: boolean,
): number {
  const headerLength = dataHeaderLength(head.framing)
  const first = at + headerLength
  const end = first + length
  let from = first
  let to = at
  while (from < end) {
    const zero = isZero(buffer, from, Math.min(from + GRAIN, end))
    let next = runEnd(buffer, from, end, zero)
    // A short tail of zeroes is not worth a chunk, and a chunk of its own would not fit in its place.
    if (!zero && end - next < GRAIN) next = end
    const isLast = done && next === end
    const position = offset + (from - first)
    if (zero && next - from >= GRAIN) {
      to = writeHoleChunk(buffer, to, head, isLast, position, next - from)
    } else {
      const data = to + headerLength
      if (data !== from) buffer.copyWithin(data, from, next)
      writeDataChunkHeader(buffer, to, head, isLast, position, next - from)
      to = data + (next - from)
    }
    from = next
  }
  return to
}
