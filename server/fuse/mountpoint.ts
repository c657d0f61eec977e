/** The regular file over which the disk is mounted: checks before, and the mount itself. */
import { constants } from 'node:fs'
import { open, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { quote } from '../../crds/quote.ts'
import { codeOf, ERRNO } from '../linux/errno.ts'
import { MNT_DETACH, umount } from '../linux/mount.ts'
import { flock, LOCK_EX_NB, lastErrno } from '../linux/syscalls.ts'
import { FuseError } from './errors.ts'
import { readMounts } from './mountinfo.ts'

/** As the mount table names our mounts. */
export const MOUNT_TYPE = 'fuse.ondemand-disk'

/**
 * Has `mount` done with the path of the file that is to be mounted over, without links, while nobody else of ours does the
 * same there. What a killed process of ours has left mounted is removed first.
 * @throws FuseError, and what `mount` throws
 */
export async function atMountpoint<Result>(
  path: string,
  mount: (mountpoint: string) => Promise<Result>,
): Promise<Result> {
  const mountpoint = await checkMountpoint(path)
  // Who may not read it can have no lock on it, and need not be able to.
  const file = await open(mountpoint, constants.O_RDONLY | constants.O_NONBLOCK).catch(() => undefined)
  try {
    if (file !== undefined && flock(file.fd, LOCK_EX_NB) < 0 && lastErrno() === ERRNO.EAGAIN) {
      throw new FuseError('EEXIST', `Another process is mounting over ${quote(path)}. Give another file.`)
    }
    return await mount(await checked(mountpoint))
  } finally {
    await file?.close()
  }
}

async function checkMountpoint(path: string): Promise<string> {
  try {
    return await checked(path)
  } catch (error) {
    if (codeOf(error) !== 'ENOTCONN') throw error
  }
  await removeDeadMount(path)
  return await checked(path)
}

async function checked(path: string): Promise<string> {
  let resolved: string
  try {
    resolved = await realpath(path)
    if (!(await stat(resolved)).isFile()) {
      throw new FuseError(
        'EINVAL',
        `The mountpoint ${quote(path)} is not a regular file. Give an existing file.`,
      )
    }
  } catch (cause) {
    if (cause instanceof FuseError || codeOf(cause) === 'ENOTCONN') throw cause
    const reason = codeOf(cause) === 'ENOENT' ? 'does not exist; make it with touch' : 'cannot be used'
    throw new FuseError(codeOf(cause) ?? 'EIO', `The mountpoint ${quote(path)} ${reason}.`, { cause })
  }
  if ((await readMounts()).some(({ mountpoint }) => mountpoint === resolved)) {
    throw new FuseError('EEXIST', `${quote(path)} is a mountpoint already. Unmount it, or give another file.`)
  }
  return resolved
}

async function removeDeadMount(path: string): Promise<void> {
  const mounts = await readMounts()
  // realpath(3) fails on a dead mount, but not on the directory that it is in; a link at the end stays as it is.
  const name = join(await realpath(dirname(path)), basename(path))
  const dead = mounts.findLast(({ mountpoint }) => mountpoint === name)
  if (dead?.type !== MOUNT_TYPE) {
    throw new FuseError(
      'ENOTCONN',
      `A dead file system is mounted on ${quote(path)}. Unmount it: umount -l ${path}`,
    )
  }
  await umount(name, MNT_DETACH)
}
