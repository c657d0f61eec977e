/**
 * One operation of a file disk on its way through the thread pool or the ring: retried, continued and, where the file
 * system lacks a call, replaced by another.
 */
import { ERRNO, SystemCallError } from '../../linux/errno.ts'
import type { RingWaiter } from '../../linux/io-ring.ts'
import {
  addressOf,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  fadvise,
  fallocate,
  lastErrno,
  POSIX_FADV_WILLNEED,
  pread,
  pwrite,
} from '../../linux/syscalls.ts'
import type { Completion } from '../backend.ts'
import { diskQueue, type Job } from './disk-queue.ts'
import type { FileDisk } from './file-disk.ts'
import { type RingReads, ringReads } from './ring-reads.ts'

export type FileOperation = 'read' | 'write' | 'trim' | 'zero' | 'zero-allocated' | 'cache'

const PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
const ZERO = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
const ALLOCATE = FALLOC_FL_KEEP_SIZE
/** Bit of `FileDisk.refusedModes` for a fallocate mode. */
const refusal = (mode: number) => 1 << mode

/**
 * The fallocate calls that reach each goal, the best first; the inner list is made one after the other.
 * tmpfs has no ZERO_RANGE, but can punch and allocate. A file system that can only punch, as ext2, must be
 * found out before it has: what FAST_ZERO refuses must not have changed.
 */
const WAYS: Record<'trim' | 'zero' | 'zero-allocated', readonly (readonly number[])[]> = {
  trim: [[PUNCH]],
  zero: [[PUNCH], [ZERO]],
  'zero-allocated': [[ZERO], [ALLOCATE, PUNCH, ALLOCATE]],
}

/** fallocates of more bytes than this are not over at once, and nobody else may write the file meanwhile. */
const BRIEF = 2 ** 18

const isChange = (operation: FileOperation) => operation !== 'read' && operation !== 'cache'

const zeroes = Buffer.alloc(2 ** 20)
const zeroesAddress = addressOf(zeroes)

export class FileJob implements Job, RingWaiter {
  next: Job | undefined
  operation: FileOperation = 'read'
  #disk: FileDisk | undefined
  #completion: Completion | undefined
  /** Keeps the memory behind the address alive. */
  buffer: Buffer | undefined
  #address = 0
  #length = 0
  #offset = 0
  #fast = false
  #way = 0
  #step = 0
  /** It counts in `FileDisk.exclusive`. */
  #isExclusive = false
  /** Where it stands in line, once it does: for the ring or for the thread pool. */
  #ring: RingReads | undefined
  readonly #done: (error: Error | null, result: number) => void

  constructor() {
    this.#done = (error, result) => this.#returned(error, result)
  }

  prepare(
    disk: FileDisk,
    operation: FileOperation,
    buffer: Buffer | undefined,
    address: number,
    length: number,
    offset: number,
    completion: Completion,
    fast: boolean,
  ): void {
    this.#disk = disk
    this.operation = operation
    this.buffer = buffer
    this.#address = address
    this.#length = length
    this.#offset = offset
    this.#completion = completion
    this.#fast = fast
    this.#way = 0
    this.#step = 0
  }

  /**
   * Puts the job in line. One that changes what is being trimmed, or what a copy of the disk still has to read, waits
   * first, and so does one that reads what is still to be trimmed.
   */
  submit(): void {
    const disk = this.#disk as FileDisk
    if (disk.exclusive > 0 && this.#waitsForTrims(disk)) {
      disk.trims.wait(() => this.submit())
      return
    }
    if (isChange(this.operation)) {
      const { barrier } = disk
      if (barrier !== undefined && !barrier.passes(this.#offset, this.#length)) {
        barrier.wait(this.#offset, this.#length, () => this.submit())
        return
      }
      disk.changes++
      this.#isExclusive = this.operation !== 'write' && this.#length > BRIEF
      if (this.#isExclusive) disk.exclusive++
    }
    this.#ring = this.operation === 'read' && disk.cachedReads === 'nowait' ? ringReads() : undefined
    if (this.#ring === undefined) diskQueue.submit(disk.lane, this)
    else this.#ring.queue.submit(disk.readLane, this)
  }

  #waitsForTrims({ trims }: FileDisk): boolean {
    if (this.operation === 'read') return trims.hides(this.#offset, this.#length)
    return (
      this.operation !== 'cache' && this.operation !== 'trim' && !trims.mayChange(this.#offset, this.#length)
    )
  }

  /** Called by the queue, and again by the job itself to go on. */
  start(): void {
    const disk = this.#disk as FileDisk
    if (this.#ring !== undefined) {
      const mayBlock = disk.exclusive > 0
      this.#ring.ring.read(disk.fd, this.#address, this.#length, this.#offset, this, mayBlock)
      return
    }
    switch (this.operation) {
      case 'read':
        pread.async(disk.fd, this.#address, this.#length, this.#offset, this.#done)
        return
      case 'write':
        pwrite.async(disk.fd, this.#address, this.#length, this.#offset, this.#done)
        return
      case 'cache':
        fadvise.async(disk.fd, this.#offset, this.#length, POSIX_FADV_WILLNEED, this.#done)
        return
      default:
        this.#allocate(disk, this.operation)
    }
  }

  #allocate(disk: FileDisk, operation: 'trim' | 'zero' | 'zero-allocated'): void {
    const ways = WAYS[operation]
    let way = ways[this.#way]
    while (way?.some(mode => disk.refusedModes & refusal(mode))) {
      this.#way++
      way = ways[this.#way]
    }
    if (way === undefined) this.#withoutFallocate(operation)
    else fallocate.async(disk.fd, way[this.#step] as number, this.#offset, this.#length, this.#done)
  }

  /** No call of the file system does it: a trim may do nothing, zeroes are written, unless they had to be fast. */
  #withoutFallocate(operation: 'trim' | 'zero' | 'zero-allocated'): void {
    const disk = this.#disk as FileDisk
    if (operation === 'trim') this.#finish(undefined)
    else if (this.#fast) this.#finish(new SystemCallError('fallocate', ERRNO.EOPNOTSUPP))
    else pwrite.async(disk.fd, zeroesAddress, Math.min(this.#length, zeroes.length), this.#offset, this.#done)
  }

  /** Called by the ring. */
  read(result: number): void {
    if (result === -ERRNO.EINTR || result === -ERRNO.EAGAIN) this.start()
    else this.#transferred(Math.max(0, -result), result)
  }

  #returned(error: Error | null, result: number): void {
    if (error !== null) {
      this.#finish(error)
      return
    }
    const errno = result < 0 ? lastErrno() : 0
    if (errno === ERRNO.EINTR) {
      this.start()
      return
    }
    switch (this.operation) {
      case 'read':
      case 'write':
        this.#transferred(errno, result)
        return
      case 'cache':
        // Advice; a file system without it is as good.
        this.#finish(undefined)
        return
      default:
        this.#allocated(this.operation, errno, result)
    }
  }

  #transferred(errno: number, result: number): void {
    // 0 bytes: the file was cut short behind our back.
    if (result <= 0) {
      this.#finish(new SystemCallError(this.operation === 'read' ? 'pread' : 'pwrite', errno || ERRNO.EIO))
      return
    }
    this.#address += result
    this.#offset += result
    this.#length -= result
    if (this.#length === 0) this.#finish(undefined)
    else this.start()
  }

  #allocated(operation: 'trim' | 'zero' | 'zero-allocated', errno: number, result: number): void {
    const disk = this.#disk as FileDisk
    const way = WAYS[operation][this.#way]
    if (way === undefined) {
      this.#zeroesWritten(errno, result)
    } else if (errno === 0) {
      this.#step++
      if (this.#step === way.length) this.#finish(undefined)
      else this.start()
    } else if (
      errno === ERRNO.EOPNOTSUPP ||
      errno === ERRNO.ENOSYS ||
      (errno === ERRNO.EINVAL && disk.blockDevice)
    ) {
      // A block device says EINVAL to a range that its logical sectors do not divide, which another range may not be.
      if (errno !== ERRNO.EINVAL) disk.refusedModes |= refusal(way[this.#step] as number)
      this.#way++
      this.#step = 0
      this.start()
    } else {
      this.#finish(new SystemCallError('fallocate', errno))
    }
  }

  #zeroesWritten(errno: number, result: number): void {
    if (result <= 0) {
      this.#finish(new SystemCallError('pwrite', errno || ERRNO.EIO))
      return
    }
    this.#offset += result
    this.#length -= result
    if (this.#length === 0) this.#finish(undefined)
    else this.start()
  }

  #finish(error: Error | undefined): void {
    const completion = this.#completion as Completion
    const disk = this.#disk as FileDisk
    const ring = this.#ring
    this.#disk = undefined
    this.#ring = undefined
    this.#completion = undefined
    this.buffer = undefined
    if (this.#isExclusive) disk.exclusive--
    this.#isExclusive = false
    if (isChange(this.operation)) {
      disk.flushes.changed()
      if (--disk.changes === 0) disk.barrier?.idle()
    }
    if (ring === undefined) diskQueue.finished(disk.lane)
    else ring.queue.finished(disk.readLane)
    if (idle.length < MAX_IDLE) idle.push(this)
    completion.complete(error)
  }
}

/** Jobs kept for reuse. */
const MAX_IDLE = 1024
const idle: FileJob[] = []

/** A job, from the pool where there is one. `address` points into `buffer`. */
export function takeJob(
  disk: FileDisk,
  operation: FileOperation,
  buffer: Buffer | undefined,
  address: number,
  length: number,
  offset: number,
  completion: Completion,
  fast = false,
): FileJob {
  const job = idle.pop() ?? new FileJob()
  job.prepare(disk, operation, buffer, address, length, offset, completion, fast)
  return job
}
