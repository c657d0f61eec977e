/**
 * Reads that miss the page cache, handed to io_uring: dozens wait for the disk at once without a thread each. They
 * stand in a queue of their own, which shares the ring fairly between files as the thread pool is shared.
 */
import { type IoRing, ioRing, RING_ENTRIES } from '../../linux/io-ring.ts'
import type { Lingerers, Lingering } from '../../linux/lingering.ts'
import { DiskQueue } from './disk-queue.ts'

export interface RingReads {
  readonly ring: IoRing
  readonly queue: DiskQueue
}

/** One file may have this many reads under way, which is what a client with a deep queue asks for at once. */
const PER_FILE = 64

let reads: RingReads | undefined

/** Undefined where there is no io_uring. */
export function ringReads(): RingReads | undefined {
  if (reads !== undefined) return reads
  const ring = ioRing()
  if (ring !== undefined) reads = { ring, queue: new DiskQueue({ threads: RING_ENTRIES, perLane: PER_FILE }) }
  return reads
}

/** How long a lone read is looked for, in ms: a disk without moving parts has it by then. */
export const READ_LINGER_MS = 0.25
export const readLingerers: Lingerers = { last: undefined }

/** Looks for the only read that there is, where that has paid, in place of going to sleep until it comes. */
export function lookForRead(lingering: Lingering): void {
  if (reads?.ring.underWay !== 1) return
  const until = lingering.until()
  if (until > 0 && reads.ring.wait(until)) lingering.answered()
}
