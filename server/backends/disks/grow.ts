/** Making a disk that exists larger: the file at any time, its filesystem only while nobody uses it. */
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { formatSize } from '../../../crds/quantity.ts'
import { lockFile, unlockFile } from '../../linux/syscalls.ts'
import type { DiskDirectory } from './directory.ts'
import { DiskError } from './errors.ts'
import { runProgram } from './run.ts'

/** What has been grown. `file`: its filesystem is smaller, since a client has it open, or is not one that can be grown here. */
export type Growth = 'none' | 'file' | 'filesystem'

/** How a disk is to be grown. */
export interface GrowOrder {
  /** Bytes. */
  readonly size: number
  /** Type of the filesystem on it; only ext2, ext3 and ext4 can be grown here. */
  readonly type: string | undefined
  readonly timeoutMs: number
  readonly signal: AbortSignal
}

const EXT = /^ext[234]$/
/** e2fsck exits with 1 when it has corrected errors, which is a success. */
const CHECK = 'e2fsck -f -p "$0"; test $? -le 1'

/** Can a filesystem of this type be grown here? */
export const canGrow = (type: string | undefined): boolean => type !== undefined && EXT.test(type)

async function growFilesystem(path: string, { timeoutMs, signal }: GrowOrder): Promise<void> {
  const run = (name: string, argv: readonly [string, ...string[]]) =>
    runProgram(argv, { name, directory: dirname(path), timeoutMs, signal })
  await run('e2fsck', ['/bin/sh', '-c', CHECK, path])
  await run('resize2fs', ['resize2fs', '--', path])
}

const SUPERBLOCK_AT = 1024
const SUPERBLOCK_LENGTH = 1024
const EXT_MAGIC = 0xef53
const HAS_64BIT = 0x80

const STATE_VALID = 0x1
const NEEDS_RECOVERY = 0x4

/** The superblock of the ext2, ext3 or ext4 filesystem on a file (fs/ext4/ext4.h); undefined if there is none. */
async function extSuperblock(handle: FileHandle): Promise<Buffer | undefined> {
  const block = Buffer.alloc(SUPERBLOCK_LENGTH)
  const { bytesRead } = await handle.read(block, 0, SUPERBLOCK_LENGTH, SUPERBLOCK_AT)
  return bytesRead < SUPERBLOCK_LENGTH || block.readUInt16LE(0x38) !== EXT_MAGIC ? undefined : block
}

/**
 * Has the filesystem been unmounted? One that has not is in use by a client that has lost its connection and is about
 * to come back, or was; to change it would destroy it under its user.
 */
async function isUnmounted(handle: FileHandle): Promise<boolean> {
  const block = await extSuperblock(handle)
  if (block === undefined) return true
  return (block.readUInt16LE(0x3a) & STATE_VALID) !== 0 && (block.readUInt32LE(0x60) & NEEDS_RECOVERY) === 0
}

/** Bytes of the filesystem on a file. */
async function extSize(handle: FileHandle): Promise<number | undefined> {
  const block = await extSuperblock(handle)
  if (block === undefined) return undefined
  const logBlockSize = block.readUInt32LE(0x18)
  if (logBlockSize > 6) return undefined
  const high = (block.readUInt32LE(0x60) & HAS_64BIT) === 0 ? 0 : block.readUInt32LE(0x150)
  return (high * 2 ** 32 + block.readUInt32LE(0x4)) * 1024 * 2 ** logBlockSize
}

/** Smaller than this the rest of a file is no loss that growing could make good: no block group fits into it. */
const SMALLEST_GROUP = 2 ** 20

/** Did a growth end before it came to the filesystem, because a client had it open or the server died? */
async function isBehind(handle: FileHandle, size: number, type: string | undefined): Promise<boolean> {
  if (!canGrow(type)) return false
  const found = await extSize(handle)
  return found !== undefined && found + SMALLEST_GROUP <= size
}

/** Grows the filesystem under a lock, so that no client, of this server or another, can be using it. */
async function growIfUnused(handle: FileHandle, path: string, order: GrowOrder): Promise<Growth> {
  if (!canGrow(order.type) || !lockFile(handle.fd, 'write')) return 'file'
  try {
    if (!(await isUnmounted(handle))) return 'file'
    await growFilesystem(path, order)
    await handle.sync()
    return 'filesystem'
  } finally {
    unlockFile(handle.fd)
  }
}

/**
 * Grows a disk to a size, and its filesystem with it, also where an earlier growth ended before that. One that is a link
 * or a device is left as it is.
 * @throws DiskError with the code EINVAL if the disk is larger than that already; the errors of the programs
 */
export async function growDisk(
  directory: DiskDirectory,
  fileName: string,
  order: GrowOrder,
): Promise<Growth> {
  const path = join(directory.path, fileName)
  const handle = await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ELOOP') return undefined
      throw error
    },
  )
  if (handle === undefined) return 'none'
  try {
    const stats = await handle.stat()
    if (!stats.isFile()) return 'none'
    if (stats.size === order.size) {
      if (!(await isBehind(handle, order.size, order.type))) return 'none'
      return await growIfUnused(handle, path, order)
    }
    if (stats.size > order.size) {
      throw new DiskError('EINVAL', `The disk has ${formatSize(stats.size)} already and cannot shrink`)
    }
    await handle.truncate(order.size)
    await handle.sync()
    return await growIfUnused(handle, path, order)
  } finally {
    await handle.close()
  }
}
