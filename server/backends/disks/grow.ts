/** Making a disk that exists larger: the file at any time, its filesystem only while nobody uses it. */
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { formatSize } from '../../../crds/quantity.ts'
import { lockFile, unlockFile } from '../../linux/syscalls.ts'
import type { DiskDirectory } from './directory.ts'
import { DiskError } from './errors.ts'
import { runProgram } from './run.ts'

/** What has been grown. `file`: the filesystem has to be grown by the client. */
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

async function growFilesystem(path: string, { timeoutMs, signal }: GrowOrder): Promise<void> {
  const run = (name: string, argv: readonly [string, ...string[]]) =>
    runProgram(argv, { name, directory: dirname(path), timeoutMs, signal })
  await run('e2fsck', ['/bin/sh', '-c', CHECK, path])
  await run('resize2fs', ['resize2fs', '--', path])
}

/** Grows the filesystem under a lock, so that no client, of this server or another, can be using it. */
async function growIfUnused(handle: FileHandle, path: string, order: GrowOrder): Promise<Growth> {
  if (order.type === undefined || !EXT.test(order.type) || !lockFile(handle.fd, 'write')) return 'file'
  try {
    await growFilesystem(path, order)
    await handle.sync()
    return 'filesystem'
  } finally {
    unlockFile(handle.fd)
  }
}

/**
 * Grows a disk to a size. One that is a link or a device is left as it is.
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
    if (!stats.isFile() || stats.size === order.size) return 'none'
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
