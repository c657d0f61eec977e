/** Makes the content of a new disk in a staging directory and looks at what came of it. */
import { type BigIntStats, constants } from 'node:fs'
import { lstat, readlink, statfs } from 'node:fs/promises'
import { isAbsolute, join, resolve } from 'node:path'
import { codeOf } from '../../linux/errno.ts'
import { blockDeviceSize } from '../../linux/syscalls.ts'
import { closeDescriptor, openDescriptor, statDescriptor, truncateDescriptor } from './descriptors.ts'
import { CreationAbortedError, CreationError, DiskError, SPACE_PROBLEMS } from './errors.ts'
import { DISK_NAME, type PreparedRecipe } from './recipe.ts'
import { runProgram } from './run.ts'

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = constants

/** What to make. */
export interface ContentOrder {
  readonly recipe: PreparedRecipe
  /** Bytes. */
  readonly size: number
  /** How long the recipe's program may run, in ms. */
  readonly timeoutMs: number
}

/** What stands at `$disk`. */
export type ContentKind = 'file' | 'link' | 'block device'

/** An open file or block device. */
export interface OpenContent {
  readonly fd: number
  /** Bytes. */
  readonly size: number
  readonly blockDevice: boolean
  readonly stats: BigIntStats
}

/** What something is that is neither file nor block device; undefined for those. */
export function foreignKind(stats: BigIntStats): string | undefined {
  if (stats.isFile() || stats.isBlockDevice()) return undefined
  if (stats.isDirectory()) return 'a directory'
  if (stats.isFIFO()) return 'a FIFO'
  if (stats.isSocket()) return 'a socket'
  if (stats.isSymbolicLink()) return 'a symbolic link'
  return 'a character device'
}

/** Size in bytes of an open file or block device. */
export function sizeOf(fd: number, stats: BigIntStats): number {
  return stats.isBlockDevice() ? blockDeviceSize(fd) : Number(stats.size)
}

async function makeSparseFile(path: string, size: number): Promise<void> {
  const fd = await openDescriptor(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
  try {
    await truncateDescriptor(fd, size)
  } finally {
    await closeDescriptor(fd)
  }
}

/** The kind of what the recipe made. Throws CreationError if it can be no disk. */
async function kindOf(path: string, program: string): Promise<ContentKind> {
  const stats = await lstat(path, { bigint: true }).catch((error: unknown) => {
    if (codeOf(error) !== 'ENOENT') throw error
    throw new CreationError('EIO', `${program} succeeded, but made nothing at $disk`)
  })
  if (stats.isSymbolicLink()) return 'link'
  const foreign = foreignKind(stats)
  if (foreign !== undefined) throw new CreationError('EIO', `${program} made ${foreign}, which is no disk`)
  return stats.isFile() ? 'file' : 'block device'
}

/**
 * Opens what the recipe made at `$disk`, through a link if it is one. Throws CreationError if it is empty
 * or neither a file nor a block device.
 */
export async function openContent(
  directory: string,
  program: string,
  readOnly: boolean,
): Promise<OpenContent> {
  const path = join(directory, DISK_NAME)
  const fd = await openDescriptor(path, (readOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK).catch(
    (error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error
      throw new CreationError('EIO', `${program} made a link that points to nothing`, { cause: error })
    },
  )
  try {
    const stats = await statDescriptor(fd, { bigint: true })
    const foreign = foreignKind(stats)
    if (foreign !== undefined)
      throw new CreationError('EIO', `${program} made a link to ${foreign}, which is no disk`)
    const size = sizeOf(fd, stats)
    if (size === 0) throw new CreationError('EIO', `${program} made an empty disk`)
    return { fd, size, blockDevice: stats.isBlockDevice(), stats }
  } catch (error) {
    await closeDescriptor(fd)
    throw error
  }
}

/**
 * Runs the recipe in an empty directory and says what it made there, at DISK_NAME. `onAllocated` is called
 * between making a sparse file and filling it.
 */
export async function makeContent(
  directory: string,
  { recipe, size, timeoutMs }: ContentOrder,
  signal: AbortSignal,
  onAllocated?: () => Promise<void>,
): Promise<ContentKind> {
  const path = join(directory, DISK_NAME)
  if (recipe.fillsFile) {
    await makeSparseFile(path, size)
    await onAllocated?.()
  }
  await runProgram(recipe.argv(path, size), { name: recipe.program, directory, timeoutMs, signal })
  return await kindOf(path, recipe.program)
}

/**
 * A link in a directory of disks stands elsewhere than where the command made it: its target must be
 * absolute and outside the staging directory, which goes away. Throws CreationError.
 */
export async function checkLink(directory: string, stagingParent: string, program: string): Promise<void> {
  const target = await readlink(join(directory, DISK_NAME))
  if (!isAbsolute(target)) {
    throw new CreationError('EIO', `${program} made a link to a relative path; it must be absolute`)
  }
  if (`${resolve(target)}/`.startsWith(`${stagingParent}/`)) {
    throw new CreationError('EIO', `${program} made a link to a file beside $disk, which does not last`)
  }
}

/** Below so many free bytes a program that failed is taken to have failed for want of space. */
const FULL = 65_536

async function isFull(directory: string): Promise<boolean> {
  try {
    const { bavail, bsize } = await statfs(directory)
    return bavail * bsize < FULL
  } catch {
    // What could not be made is the news, not that its directory has gone too.
    return false
  }
}

/**
 * Turns whatever went wrong while a disk was made in `directory`, before it is removed, into an error
 * that says so, and that says first if there was no space: not every mkfs does.
 */
export async function creationError(error: unknown, directory: string): Promise<DiskError> {
  if (error instanceof CreationAbortedError) return error
  const code = codeOf(error) ?? 'EIO'
  const space = SPACE_PROBLEMS[code === 'EIO' && (await isFull(directory)) ? 'ENOSPC' : code]
  if (error instanceof DiskError) {
    return space === undefined
      ? error
      : new CreationError(code === 'EIO' ? 'ENOSPC' : code, `${space}: ${error.message}`, { cause: error })
  }
  return new CreationError(code, space ?? `Making the disk failed with ${code}`, { cause: error })
}
