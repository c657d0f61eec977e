/** The backend of one disk in memory, which all names and connections share and which ends with the server. */
import {
  API_VERSION,
  type Backend,
  type Completion,
  type Outcome,
  PENDING,
  type ZeroFlags,
} from '../backend.ts'
import { PAGE, Pages } from './pages.ts'

/** What a backend in memory is made of. */
export interface MemoryConfig {
  /** Bytes. Memory is only used for what is written. */
  readonly size: number
}

/** Bytes that are looked at, given back or filled before others get their turn. */
const TURN_FREEING = 2 ** 30
const TURN_FILLING = 2 ** 22

/**
 * Goes over a range in pieces that end with pages, one a turn of the event loop, so that nobody waits for a range of
 * gigabytes. The first is done at once.
 */
function inTurns(
  length: number,
  offset: number,
  largest: number,
  completion: Completion,
  work: (length: number, offset: number) => void,
): Outcome {
  const end = offset + length
  const piece = (at: number): number => {
    const next = Math.min(end, at - (at % PAGE) + largest)
    work(next - at, at)
    return next
  }
  const goOn = (at: number) => {
    try {
      const next = piece(at)
      if (next < end) setImmediate(goOn, next)
      else completion.complete()
    } catch (error) {
      completion.complete(error)
    }
  }
  const next = piece(offset)
  if (next === end) return
  setImmediate(goOn, next)
  return PENDING
}

/** Makes a disk in memory. It is all holes in the beginning. */
export function createMemoryBackend({ size }: MemoryConfig) {
  const pages = new Pages()
  return {
    apiVersion: API_VERSION,
    open: () => pages,
    getSize: () => size,
    probe: () => ({ size }),
    listExports: () => [''],

    preadNow(disk, target, start, length, offset) {
      disk.read(target, start, length, offset)
      return length
    },
    pread(disk, target, start, length, offset) {
      disk.read(target, start, length, offset)
    },
    pwriteNow(disk, source, start, length, offset) {
      disk.write(source, start, length, offset)
      return length
    },
    pwrite(disk, source, start, length, offset) {
      disk.write(source, start, length, offset)
    },
    /** Nothing outlives the server, so that there is nothing to be made durable. */
    flush() {},
    trim: (disk, length, offset, completion) =>
      inTurns(length, offset, TURN_FREEING, completion, (piece, at) => disk.release(piece, at)),
    zero: (disk, length, offset, { mayPunch }: ZeroFlags, completion) =>
      inTurns(length, offset, mayPunch ? TURN_FREEING : TURN_FILLING, completion, (piece, at) =>
        disk.zero(piece, at, !mayPunch),
      ),
    extents: (disk, length, offset, limit) => disk.extents(Math.min(length, TURN_FREEING), offset, limit),
    canFastZero: () => true,
    canMultiConn: () => true,
  } satisfies Backend<Pages>
}
