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
import { outputOf } from './process.ts'

const MIB = 2 ** 20
const block = Buffer.allocUnsafeSlow(4 * MIB)

/** Writes all of a file and has it written back. `size` bytes, a multiple of 4 MiB. */
export function fillDisk(path: string, size: number): void {
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

/** Reads the whole file into the page cache, after what was written to it has reached the disk. */
export function warm(path: string): void {
  const file = openSync(path, 'r+')
  fdatasyncSync(file)
  while (readSync(file, block) > 0);
  closeSync(file)
}

/** Drops the file from the page cache. */
export async function drop(path: string): Promise<void> {
  const file = openSync(path, 'r+')
  fdatasyncSync(file)
  closeSync(file)
  // posix_fadvise(DONTNEED) of the whole file, which needs no root.
  await outputOf('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}
