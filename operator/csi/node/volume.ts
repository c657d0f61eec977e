/** A volume on this node: what the kernel has of it, and the single steps that change that. */
import { createHash } from 'node:crypto'
import { mkdir, open, rmdir, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  AttachError,
  type AttachedDisk,
  type AttachTerms,
  attach,
  attached,
  detach,
} from '../../../server/attach/attach.ts'
import { isRunning } from '../../../server/attach/processes.ts'
import { NbdError, RefusedError, UriError } from '../../../server/client/errors.ts'
import { readMounts } from '../../../server/fuse/mountinfo.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { filesystemOf, mountFilesystem } from './filesystem.ts'
import { mountAt, type Observed, type StageStep } from './plan.ts'
import { tool } from './tool.ts'

/** How processes that serve disks are started. */
export type Launch = NonNullable<AttachTerms['launch']>

/** How a volume is staged. */
export interface Staging {
  readonly volumeId: string
  /** Of the directory, or of the file of the device where there is no filesystem. */
  readonly path: string
  readonly uri: string
  readonly readOnly: boolean
  /** Undefined: a raw block device. */
  readonly mount: { readonly type: string; readonly flags: readonly string[] } | undefined
}

export const TAG_PREFIX = 'csi-'

/** By which the disk of a volume is found among all that are attached. */
const tagOf = (volumeId: string): string =>
  `${TAG_PREFIX}${createHash('sha256').update(volumeId).digest('hex').slice(0, 32)}`

/** A device cannot be mounted on a directory, so it stands in it. */
export const devicePath = (stagingPath: string): string => join(stagingPath, 'device')

/** What the kernel has of a volume now. */
export async function observe(volumeId: string): Promise<Observed> {
  const tag = tagOf(volumeId)
  const [mounts, disks] = await Promise.all([readMounts(), attached()])
  return { mounts, disk: disks.find(disk => disk.tag === tag) }
}

/** @throws RpcError */
export async function stage(
  staging: Staging,
  steps: readonly StageStep[],
  launch: Launch | undefined,
): Promise<void> {
  const { volumeId, path, uri, readOnly, mount } = staging
  let disk: AttachedDisk | undefined
  for (const step of steps) {
    if (step === 'release') await release((await observe(volumeId)).disk, false)
    else if (step === 'unmount') await unmount(path)
    else if (step === 'attach') {
      disk = await attachFor(volumeId, uri, { readOnly, tag: tagOf(volumeId), launch })
    } else if (mount === undefined) {
      await bind(disk?.device ?? '', path, 'file')
    } else {
      await mkdir(path, { recursive: true, mode: 0o750 })
      const device = disk?.device ?? ''
      const held = await filesystemOf(device, mount.type)
      await mountFilesystem(device, held, path, { readOnly, flags: mount.flags })
    }
  }
}

async function attachFor(volumeId: string, uri: string, terms: AttachTerms): Promise<AttachedDisk> {
  let disk: AttachedDisk
  try {
    disk = await attach(uri, terms)
  } catch (error) {
    throw deviceFailure('The volume cannot be attached.', error)
  }
  if (disk.tag === terms.tag) return disk
  throw new RpcError(
    'FAILED_PRECONDITION',
    `The disk of ${volumeId} has been attached as ${disk.device} by somebody else. Detach it first.`,
  )
}

/** The disk is somebody else's, its server cannot be reached, or this node cannot do it. */
export function deviceFailure(what: string, error: unknown): unknown {
  if (error instanceof UriError) {
    return new RpcError('INVALID_ARGUMENT', `publish_context: ${error.message}`, { cause: error })
  }
  if (error instanceof AttachError || error instanceof RefusedError) {
    return new RpcError('FAILED_PRECONDITION', `${what} ${error.message}`, { cause: error })
  }
  if (error instanceof NbdError) {
    return new RpcError('UNAVAILABLE', `${what} ${error.message}`, { cause: error })
  }
  return error
}

/** Lets go of a disk. `lazy`: it goes when it is no longer mounted. */
export async function release(disk: AttachedDisk | undefined, lazy: boolean): Promise<void> {
  if (disk === undefined) return
  try {
    await detach(disk.device, { lazy })
  } catch (error) {
    throw deviceFailure('The volume cannot be detached.', error)
  }
}

const POLL_MS = 20
/** How long a disk that is no longer mounted may take to be written back and to go, in ms. */
const LEAVE_MS = 30_000

/** Waits until the process behind a disk that was released has ended, and its server knows. @throws RpcError ABORTED */
export async function gone({ pid, device }: AttachedDisk): Promise<void> {
  if (pid === undefined) return
  const deadline = performance.now() + LEAVE_MS
  while (await isRunning(pid)) {
    if (performance.now() > deadline) {
      throw new RpcError('ABORTED', `${device} is still being written back, or open. Try again.`)
    }
    await sleep(POLL_MS)
  }
}

/** Takes away all that is mounted on a path. @throws RpcError FAILED_PRECONDITION: it is in use */
export async function unmount(path: string): Promise<void> {
  // Of several layers each is one call; no path has many.
  for (let layers = 0; layers < 100; layers++) {
    if (mountAt(await readMounts(), path) === undefined) return
    await tool('umount', ['--', path])
  }
  throw new RpcError('FAILED_PRECONDITION', `There is no end to what is mounted on ${path}.`)
}

/** Mounts what is at one path on another one, which is made. */
export async function bind(from: string, to: string, kind: 'file' | 'directory'): Promise<void> {
  if (kind === 'directory') await mkdir(to, { recursive: true, mode: 0o750 })
  else {
    await mkdir(dirname(to), { recursive: true, mode: 0o750 })
    await (await open(to, 'a', 0o660)).close()
  }
  await tool('mount', ['--bind', '--', from, to])
}

/** Makes a bind mount read-only. */
export const protect = (path: string): Promise<void> => tool('mount', ['-o', 'remount,bind,ro', '--', path])

/** Removes a place that nothing is mounted on, and never anything in it. */
export async function removePlace(path: string): Promise<void> {
  const remove = async (): Promise<void> => {
    try {
      await rmdir(path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOTDIR') throw error
      await unlink(path)
    }
  }
  await remove().catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return
    throw new RpcError('FAILED_PRECONDITION', `${path} cannot be removed (${error.code}).`, { cause: error })
  })
}
