/** The files that are served: made once, and brought into the page cache or out of it before each measurement. */
import { randomFillSync } from 'node:crypto'
import {
  closeSync,
  fdatasyncSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { SystemCallError } from '../linux/errno.ts'
import { fadvise } from '../linux/syscalls.ts'

const MIB = 2 ** 20
const block = Buffer.allocUnsafeSlow(4 * MIB)

/** Writes all of a file and has it written back. `size` bytes, a multiple of 4 MiB. */
export function fillDisk(path: string, size: number): void {
  inPages.delete(path)
  const file = openSync(path, 'w')
  // Other bytes in each block, so that nothing on the way can find two alike; no zeroes.
  randomFillSync(block)
  for (let at = 0; at < size; at += block.length) {
    block.writeDoubleLE(at + 1, 0)
    writeSync(file, block)
  }
  fdatasyncSync(file)
  closeSync(file)
}

/** Makes the file unless it is there in its size. */
export function needDisk(directory: string, name: string, size: number): void {
  const path = join(directory, name)
  if (statSync(path, { throwIfNoEntry: false })?.size !== size) fillDisk(path, size)
}

/** Sparse files named by `nameOf`, in a directory of their own. */
export function needSparseDisks(directory: string, count: number, nameOf: (index: number) => string): void {
  mkdirSync(directory, { recursive: true })
  for (let index = 0; index < count; index++) {
    const path = join(directory, nameOf(index))
    closeSync(openSync(path, 'a'))
    truncateSync(path, MIB)
  }
}

/** Advice of posix_fadvise(3): no reading ahead; drop what is clean. */
const [POSIX_FADV_RANDOM, POSIX_FADV_DONTNEED] = [1, 4]
/** Files that this process has brought into the page cache page by page, and not dropped since. */
const inPages = new Set<string>()
const piece = block.subarray(0, 65_536)

/**
 * Brings the whole file into the page cache, after what was written to it has reached the disk.
 *
 * In single pages, whatever was there before: what is read ahead or written in large pieces lies there in folios of up
 * to megabytes since Linux 6.16, and ext4 looks through all blocks of a folio for each 4 KiB that are written to it.
 * A write took 4 us or 40, by what had been done with the file before.
 */
export function warm(path: string): void {
  if (!inPages.has(path)) drop(path)
  const file = openSync(path, 'r+')
  try {
    fdatasyncSync(file)
    advise(file, POSIX_FADV_RANDOM)
    while (readSync(file, piece) > 0);
  } finally {
    closeSync(file)
  }
  inPages.add(path)
}

/** Drops the file from the page cache. */
export function drop(path: string): void {
  inPages.delete(path)
  const file = openSync(path, 'r+')
  try {
    fdatasyncSync(file)
    advise(file, POSIX_FADV_DONTNEED)
  } finally {
    closeSync(file)
  }
}

function advise(file: number, advice: number): void {
  const errno = fadvise(file, 0, 0, advice)
  if (errno !== 0) throw new SystemCallError('posix_fadvise', errno)
}
