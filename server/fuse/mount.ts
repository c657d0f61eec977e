/** Mounts the file: by mount(2) where that is allowed, else by fusermount3, which may do it for every user. */
import { spawn } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'
import { quote } from '../../crds/quote.ts'
import { codeOf } from '../linux/errno.ts'
import {
  MNT_DETACH,
  MNT_FORCE,
  MS_NOATIME,
  MS_NODEV,
  MS_NOSUID,
  MS_RDONLY,
  mount,
  receiveDescriptor,
  socketPair,
  umount,
} from '../linux/mount.ts'
import { FuseError } from './errors.ts'
import { MAX_DATA } from './exchange.ts'
import { startGuard } from './guard.ts'
import { MOUNT_TYPE } from './mountpoint.ts'

export type AllowOther = 'on' | 'off' | 'auto'

export interface MountTerms {
  /** What the mount table shows as the source. */
  readonly source: string
  readonly writable: boolean
  readonly allowOther: AllowOther
}

/** A mount, and a descriptor of its /dev/fuse, which waits in reads. */
export interface MountedFile {
  readonly mountpoint: string
  readonly device: number
  readonly allowOther: boolean
  /** @throws SystemCallError EBUSY while the file is open; FuseError from fusermount3 */
  unmount(): Promise<void>
  /** Takes the name away, whoever has the file open. `abort`: and ends what is under way by errors. */
  detach(abort: boolean): Promise<void>
  /** To be called when the mount is gone: nobody needs to watch over it any more. */
  release(): void
}

/**
 * Mounts the file at `mountpoint`, which is one of `atMountpoint`. If this process is killed, the mount goes.
 * @throws FuseError, SystemCallError
 */
export async function mountFile(mountpoint: string, terms: MountTerms): Promise<MountedFile> {
  const own = process.geteuid?.() === 0
  const attempt = own ? mountDirectly : mountByHelper
  if (terms.allowOther !== 'auto') return attempt(mountpoint, terms, terms.allowOther === 'on')
  try {
    return await attempt(mountpoint, terms, true)
  } catch (error) {
    if (codeOf(error) !== 'EPERM' && codeOf(error) !== 'EHELPER') throw error
    return attempt(mountpoint, terms, false)
  }
}

async function mountDirectly(
  mountpoint: string,
  { source, writable }: MountTerms,
  allowOther: boolean,
): Promise<MountedFile> {
  const device = openDevice('waits')
  const guard = startGuard(mountpoint)
  try {
    const flags = MS_NOSUID | MS_NODEV | MS_NOATIME | (writable ? 0 : MS_RDONLY)
    const owner = `user_id=${process.getuid?.()},group_id=${process.getgid?.()}`
    const options = [`fd=${device}`, 'rootmode=100000', owner, 'default_permissions', `max_read=${MAX_DATA}`]
    if (allowOther) options.push('allow_other')
    mount(source, mountpoint, MOUNT_TYPE, flags, options.join(','))
  } catch (error) {
    guard.release()
    closeSync(device)
    throw error
  }
  return {
    mountpoint,
    device,
    allowOther,
    unmount: () => umount(mountpoint, 0),
    async detach(abort) {
      // It says that the file is in use, and has aborted the connection all the same.
      if (abort) await umount(mountpoint, MNT_FORCE).catch(() => undefined)
      await umount(mountpoint, MNT_DETACH).catch(error => {
        if (codeOf(error) !== 'EINVAL') throw error
      })
    },
    release: () => guard.release(),
  }
}

/** Opens /dev/fuse; a read of it `waits` for a request, or `returns`. @throws FuseError */
export function openDevice(reading: 'waits' | 'returns'): number {
  try {
    return openSync('/dev/fuse', constants.O_RDWR | (reading === 'waits' ? 0 : constants.O_NONBLOCK))
  } catch (cause) {
    const message =
      'Cannot open /dev/fuse. Load the kernel module fuse, or run this as a user who may open it.'
    throw new FuseError(codeOf(cause) ?? 'EIO', message, { cause })
  }
}

const HELPER = 'fusermount3'

/** Runs fusermount3. @throws FuseError with the code EHELPER and what it said */
async function runHelper(args: readonly string[], socket?: number): Promise<void> {
  const child = spawn(HELPER, args, {
    stdio: ['ignore', 'ignore', 'pipe', socket ?? 'ignore'],
    env: { ...process.env, LC_ALL: 'C', ...(socket !== undefined && { _FUSE_COMMFD: '3' }) },
  })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-1000)
  })
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', cause => {
      const message = `Only root can mount without ${HELPER}. Install the package fuse3, or run this as root.`
      reject(new FuseError('EPERM', message, { cause }))
    })
    child.once('close', resolve)
  })
  if (status === 0) return
  throw new FuseError('EHELPER', `${HELPER} failed: ${quote(said.trim().split('\n').at(-1) ?? '')}`)
}

async function mountByHelper(
  mountpoint: string,
  { source, writable }: MountTerms,
  allowOther: boolean,
): Promise<MountedFile> {
  const escaped = source.replace(/[\\,]/g, '\\$&')
  const options = [
    ...[writable ? 'rw' : 'ro', 'nosuid', 'nodev', 'noatime', 'default_permissions', `max_read=${MAX_DATA}`],
    ...[`fsname=${escaped}`, 'subtype=ondemand-disk'],
  ]
  if (allowOther) options.push('allow_other')
  const guard = startGuard(mountpoint, HELPER)
  const [ours, theirs] = socketPair()
  let device: number | undefined
  try {
    await runHelper(['-o', options.join(','), '--', mountpoint], theirs)
    device = receiveDescriptor(ours)
    if (device === undefined) throw new FuseError('EHELPER', `${HELPER} mounted nothing.`)
  } catch (error) {
    guard.release()
    throw error
  } finally {
    closeSync(theirs)
    closeSync(ours)
  }
  return {
    mountpoint,
    device,
    allowOther,
    unmount: () => runHelper(['-u', '--', mountpoint]),
    detach: () => runHelper(['-u', '-z', '--', mountpoint]),
    release: () => guard.release(),
  }
}
