/**
 * Removes what servers that died while making disks have left in a directory.
 *
 * A server makes `NAME.lock` and locks it before it makes the directory NAME, and removes them in the
 * opposite order. So a directory whose lock file can be locked, or is gone although the directory was seen
 * before, belongs to nobody. The lock is kept while both are removed: a server that was about to lock the
 * same file then finds it without a link and takes another name.
 */
import { constants } from 'node:fs'
import { lstat, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf, toError } from '../../linux/errno.ts'
import { lockFile } from '../../linux/syscalls.ts'
import { closeDescriptor, openDescriptor } from './descriptors.ts'
import { removeTree } from './remove-tree.ts'

/** Name of a staging directory made of 16 random bytes. `NAME.lock` is its lock file. */
export function stagingName(random: Buffer): string {
  return `ondemand-disk-${random.toString('hex')}`
}

const STAGING_NAME = /^ondemand-disk-[0-9a-f]{32}$/
export const LOCK_SUFFIX = '.lock'

const { O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants

/** Undefined if it is not there (any more). */
async function openLock(path: string): Promise<number | undefined> {
  try {
    return await openDescriptor(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw error
  }
}

/** In /var/tmp anybody may leave anything under such a name; only what is our own is removed. */
async function isOwn(path: string): Promise<boolean> {
  try {
    const { uid } = await lstat(path)
    return uid === process.geteuid?.()
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return true
    throw error
  }
}

async function sweepOne(path: string): Promise<void> {
  const lockPath = path + LOCK_SUFFIX
  if (!(await isOwn(path)) || !(await isOwn(lockPath))) return
  const lock = await openLock(lockPath)
  try {
    if (lock !== undefined && !lockFile(lock, 'write')) return
    await removeTree(path)
    if (lock === undefined) return
    await unlink(lockPath).catch((error: unknown) => {
      if (codeOf(error) !== 'ENOENT') throw error
    })
  } finally {
    if (lock !== undefined) await closeDescriptor(lock)
  }
}

/**
 * Removes the staging directories of dead servers from `parent`. Returns what could not be removed and
 * why: it takes space, but stands in nobody's way.
 */
export async function sweep(parent: string): Promise<readonly Error[]> {
  const names = new Set<string>()
  for (const entry of await readdir(parent)) {
    const name = entry.endsWith(LOCK_SUFFIX) ? entry.slice(0, -LOCK_SUFFIX.length) : entry
    if (STAGING_NAME.test(name)) names.add(name)
  }
  const problems: Error[] = []
  for (const name of names) {
    try {
      await sweepOne(join(parent, name))
    } catch (error) {
      problems.push(toError(error))
    }
  }
  return problems
}
