/**
 * Fast I/O on a file or block device: what can be done without waiting for the disk is done at once, the
 * rest goes through the disk queue to the thread pool. No operation allocates anything but its place in
 * the pool of jobs. Shared by the disk directory and temporary disks.
 */
import { fstatSync, statfsSync } from 'node:fs'
import { ERRNO } from '../../linux/errno.ts'
import { Lingering } from '../../linux/lingering.ts'
import { addressOf, blockDeviceSize, lastErrno, pread, pwrite, tryPreadCached } from '../../linux/syscalls.ts'
import { type Backend, type Completion, type Outcome, PENDING, type ZeroFlags } from '../backend.ts'
import { Lane } from './disk-queue.ts'
import { fileExtents } from './file-extents.ts'
import { type FileJob, takeJob } from './file-job.ts'
import { GroupFlush } from './group-flush.ts'
import { isLong, LateTrims, type Punch } from './late-trims.ts'
import { lookForRead, READ_LINGER_MS, readLingerers } from './ring-reads.ts'
import { beginWrite, endWrite, mayWriteNow } from './write-pressure.ts'

const PAGE = 4096
/** Reads and writes above this, in bytes, would hold the event loop too long. */
const MAX_IMMEDIATE = 2 ** 20
const TMPFS_MAGIC = 0x01021994
const RAMFS_MAGIC = 0x858458f6

/** How far reads can go without waiting for a disk. */
type CachedReads = 'nowait' | 'memory' | 'unknown'

/** An open disk. The descriptor stays the caller's to close, after all operations have ended. */
export interface FileDisk {
  readonly fd: number
  /** Bytes; grows when `sizeNow` finds the file grown. */
  size: number
  readonly durable: boolean
  readonly readOnly: boolean
  readonly blockDevice: boolean
  /** @internal */
  readonly lane: Lane
  /** @internal reads that go to the ring */
  readonly readLane: Lane
  /** @internal whether to look for a lone read */
  readonly lingering: Lingering
  /** @internal */
  readonly flushes: GroupFlush
  /** @internal */
  cachedReads: CachedReads
  /** @internal fallocate modes that this file system has refused */
  refusedModes: number
  /** @internal writes, trims and zeroes that are under way */
  changes: number
  /**
   * @internal what may hold the file's lock for long, or must not be gone past by a write: large fallocates under way,
   * and pending trims
   */
  exclusive: number
  /** @internal */
  trims: LateTrims
  /** @internal stands between the disk and its writers while a copy of it is made */
  barrier: WriteBarrier | undefined
}

/** Keeps changes of a file from what a copy of it still has to read. */
export interface WriteBarrier {
  /** May this range be changed now? */
  passes(offset: number, length: number): boolean
  /** Calls `go` when it may. */
  wait(offset: number, length: number, go: () => void): void
  /** No change of this disk is under way any more. */
  idle(): void
}

/** What a FileDisk needs to know beside its descriptor. */
export interface FileDiskOptions {
  /** False where nothing outlives the connection: flush and FUA then cost nothing. */
  readonly durable: boolean
  readonly readOnly: boolean
  readonly blockDevice: boolean
}

function isInMemory(fd: number): boolean {
  try {
    const { type } = statfsSync(`/proc/self/fd/${fd}`)
    return type === TMPFS_MAGIC || type === RAMFS_MAGIC
  } catch {
    return false
  }
}

/** Wraps an open descriptor of a file or block device of `size` bytes. */
export function fileDisk(fd: number, size: number, options: FileDiskOptions): FileDisk {
  const lane = new Lane()
  const disk: FileDisk = {
    fd,
    size,
    ...options,
    lane,
    readLane: new Lane(),
    lingering: new Lingering(readLingerers, READ_LINGER_MS),
    flushes: new GroupFlush(fd, lane),
    cachedReads: !options.blockDevice && isInMemory(fd) ? 'memory' : 'nowait',
    refusedModes: 0,
    changes: 0,
    exclusive: 0,
    trims: lateTrimsOf(
      (offset, length, done) => punchHole(disk, offset, length, done),
      () => disk,
    ),
    barrier: undefined,
  }
  return disk
}

/** Punches at once and in one piece. */
export function punchHole(disk: FileDisk, offset: number, length: number, done: Completion): void {
  range(disk, 'trim', length, offset, done)
}

/** The late trims of a disk, which punch by `punch`. */
export function lateTrimsOf(punch: Punch, disk: () => FileDisk): LateTrims {
  return new LateTrims({
    punch,
    isHeld: () => disk().barrier !== undefined,
    becameBusy(isBusy) {
      disk().exclusive += isBusy ? 1 : -1
    },
  })
}

// The server uses two buffers over and over, its receive buffer and its reply buffer; their addresses
// are looked up once.
let knownA: Buffer | undefined
let addressA = 0
let knownB: Buffer | undefined
let addressB = 0

function cachedAddress(buffer: Buffer): number {
  if (buffer === knownA) return addressA
  if (buffer === knownB) return addressB
  knownB = knownA
  addressB = addressA
  knownA = buffer
  addressA = addressOf(buffer)
  return addressA
}

/** Bytes that could be read without waiting: all, some, or none. */
function readImmediately(disk: FileDisk, address: number, length: number, offset: number): number {
  // The kernel looks for what is not cached under a lock that fallocate holds, RWF_NOWAIT or not.
  if (length > MAX_IMMEDIATE || disk.exclusive > 0) return 0
  if (disk.cachedReads === 'nowait') {
    const read = tryPreadCached(disk.fd, address, length, offset)
    if (read >= 0) return read
    if (lastErrno() === ERRNO.EOPNOTSUPP) disk.cachedReads = 'unknown'
    return 0
  }
  return disk.cachedReads === 'memory' ? Math.max(0, pread(disk.fd, address, length, offset)) : 0
}

function submit(job: FileJob): typeof PENDING {
  job.submit()
  return PENDING
}

function probeOf(byte: Buffer) {
  return { byte, address: addressOf(byte) }
}
// The object keeps the byte: what only its address is known of would be freed after this module has run.
const probe = probeOf(Buffer.allocUnsafeSlow(1))

/** A write that covers part of a page has to read the page first, unless it is cached. */
function edgeIsCached(disk: FileDisk, position: number): boolean {
  return position % PAGE === 0 || readImmediately(disk, probe.address, 1, position) === 1
}

function mayWriteImmediately(disk: FileDisk, length: number, offset: number): boolean {
  return (
    length <= MAX_IMMEDIATE &&
    (disk.cachedReads === 'memory' ||
      (mayWriteNow(length) &&
        edgeIsCached(disk, offset) &&
        (offset + length >= disk.size || edgeIsCached(disk, offset + length))))
  )
}

function range(
  disk: FileDisk,
  operation: FileJob['operation'],
  length: number,
  offset: number,
  completion: Completion,
): typeof PENDING {
  return submit(takeJob(disk, operation, undefined, 0, length, offset, completion))
}

function flushNow(disk: FileDisk, completion: Completion): Outcome {
  if (!disk.durable) return
  const failure = disk.trims.takeFailure()
  if (failure === undefined) disk.flushes.request(completion)
  else disk.flushes.request({ complete: error => completion.complete(error ?? failure) })
  return PENDING
}

/** The operations of the backend interface over a FileDisk. */
export const fileOperations = {
  getSize: (disk: FileDisk) => disk.size,

  sizeNow(disk: FileDisk): number {
    const size = disk.blockDevice ? blockDeviceSize(disk.fd) : fstatSync(disk.fd).size
    disk.size = Math.max(disk.size, size)
    return disk.size
  },

  preadNow: (disk: FileDisk, target: Buffer, start: number, length: number, offset: number): number =>
    readImmediately(disk, cachedAddress(target) + start, length, offset),

  pread: (
    disk: FileDisk,
    target: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
  ): Outcome => submit(takeJob(disk, 'read', target, addressOf(target) + start, length, offset, completion)),

  pwriteNow(disk: FileDisk, source: Buffer, start: number, length: number, offset: number): number {
    if (disk.barrier !== undefined || disk.exclusive > 0 || !mayWriteImmediately(disk, length, offset))
      return 0
    const startedAt = beginWrite()
    const written = pwrite(disk.fd, cachedAddress(source) + start, length, offset)
    endWrite(startedAt)
    disk.flushes.changed()
    return Math.max(0, written)
  },

  pwrite: (
    disk: FileDisk,
    source: Buffer,
    start: number,
    length: number,
    offset: number,
    completion: Completion,
  ): Outcome => submit(takeJob(disk, 'write', source, addressOf(source) + start, length, offset, completion)),

  /** Also waits for trims that were answered before they had ended: their space is free when a flush has ended. */
  flush(disk: FileDisk, completion: Completion): Outcome {
    if (disk.trims.isBusy) {
      const go = () => {
        if (flushNow(disk, completion) !== PENDING) completion.complete()
      }
      if (disk.trims.afterAnswered(go)) return PENDING
    }
    return flushNow(disk, completion)
  },

  endBatch(disk: FileDisk, isLone: boolean): void {
    if (isLone) lookForRead(disk.lingering)
  },

  trim: (disk: FileDisk, length: number, offset: number, completion: Completion): Outcome =>
    isLong(length) && disk.trims.add(offset, length, completion)
      ? PENDING
      : range(disk, 'trim', length, offset, completion),

  zero: (disk: FileDisk, length: number, offset: number, flags: ZeroFlags, completion: Completion): Outcome =>
    submit(
      takeJob(
        disk,
        flags.mayPunch ? 'zero' : 'zero-allocated',
        undefined,
        0,
        length,
        offset,
        completion,
        flags.fast,
      ),
    ),

  canFastZero: () => true,

  cache: (disk: FileDisk, length: number, offset: number, completion: Completion): Outcome =>
    range(disk, 'cache', length, offset, completion),

  async extents(disk: FileDisk, length: number, offset: number, limit: number) {
    await disk.trims.punched(offset, length)
    return await fileExtents(disk, length, offset, limit)
  },
} satisfies Partial<Backend<FileDisk>>
