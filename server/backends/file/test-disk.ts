/** What the tests of this folder share: an open disk on a real file, and its operations as promises. */
import { closeSync, constants, openSync } from 'node:fs'
import { onTestFinished } from 'vitest'
import { blockDeviceSize } from '../../linux/syscalls.ts'
import { type Completion, type Outcome, PENDING, type ZeroFlags } from '../backend.ts'
import { type FileDisk, type FileDiskOptions, fileDisk, fileOperations } from './file-disk.ts'

/** Opens a disk on a file or block device that exists, for as long as the test lasts. */
export function openDisk(path: string, size?: number, options: Partial<FileDiskOptions> = {}): FileDisk {
  const { durable = true, readOnly = false, blockDevice = false } = options
  const fd = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR)
  onTestFinished(() => closeSync(fd))
  const bytes = size ?? (blockDevice ? blockDeviceSize(fd) : 0)
  return fileDisk(fd, bytes, { durable, readOnly, blockDevice })
}

/** An operation's end as a promise, which fails if it ends twice. */
export function settled(start: (completion: Completion) => Outcome): Promise<void> {
  return new Promise((resolve, reject) => {
    let ends = 0
    const complete = (error?: unknown) => {
      ends++
      if (ends > 1) throw new Error('The operation ended twice.')
      if (error === undefined) resolve()
      else reject(error)
    }
    const outcome = start({ complete })
    if (outcome === PENDING) return
    if (outcome === undefined) complete()
    else outcome.then(() => complete(), complete)
  })
}

/** The operations of a disk as promises. */
export const operate = {
  read: async (disk: FileDisk, length: number, offset: number): Promise<Buffer> => {
    const target = Buffer.alloc(length + 16, 0xee)
    await settled(completion => fileOperations.pread(disk, target, 8, length, offset, completion))
    return target.subarray(8, 8 + length)
  },
  write: (disk: FileDisk, data: Buffer, offset: number) =>
    settled(completion => fileOperations.pwrite(disk, data, 0, data.length, offset, completion)),
  trim: (disk: FileDisk, length: number, offset: number) =>
    settled(completion => fileOperations.trim(disk, length, offset, completion)),
  zero: (disk: FileDisk, length: number, offset: number, flags: ZeroFlags) =>
    settled(completion => fileOperations.zero(disk, length, offset, flags, completion)),
  cache: (disk: FileDisk, length: number, offset: number) =>
    settled(completion => fileOperations.cache(disk, length, offset, completion)),
  flush: (disk: FileDisk) => settled(completion => fileOperations.flush(disk, completion)),
}

export const PUNCH: ZeroFlags = { mayPunch: true, fast: false }
export const KEEP: ZeroFlags = { mayPunch: false, fast: false }
