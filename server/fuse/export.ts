/** A disk as a mounted file, from its opening to its end. */
import { closeSync, constants, fstatSync } from 'node:fs'
import { type FileHandle, open, realpath } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { quote } from '../../crds/quote.ts'
import { findLockHolder } from '../backends/disks/lock-holder.ts'
import type { NbdClient } from '../client/client.ts'
import { codeOf } from '../linux/errno.ts'
import { cloneFuseDevice } from '../linux/mount.ts'
import { lockFile } from '../linux/syscalls.ts'
import { serveInit } from './device.ts'
import { FuseError } from './errors.ts'
import { type EventDevice, serveEvents } from './event-device.ts'
import { imageDisk, type OpenImage } from './image.ts'
import { type AllowOther, type MountedFile, mountFile, openDevice } from './mount.ts'
import { atMountpoint } from './mountpoint.ts'
import { nbdDisk } from './nbd-disk.ts'
import type { ReaderData } from './reader.ts'
import { newState, Session, type SessionTerms } from './session.ts'

export interface ExportTerms {
  readonly mountpoint: string
  readonly writable: boolean
  readonly growable: boolean
  readonly allowOther: AllowOther
}

/** A file that is mounted and served. */
export interface FuseExport {
  /** The mountpoint without links. */
  readonly mountpoint: string
  /** Resolves when it is unmounted, by whomever; rejects when it cannot be served any more, and is unmounted then. */
  readonly ended: Promise<void>
  /** @throws SystemCallError with EBUSY, FuseError with EHELPER: the file is in use */
  unmount(): Promise<void>
  /** Takes the file away from those who use it, and ends the service. */
  abort(): Promise<void>
}

const openImage = async (path: string, writable: boolean): Promise<FileHandle> => {
  try {
    return await open(path, (writable ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK)
  } catch (cause) {
    const code = codeOf(cause) ?? 'EIO'
    const reason = code === 'ENOENT' ? 'There is no image' : 'Cannot open the image'
    throw new FuseError(code, `${reason} ${quote(path)}${code === 'ENOENT' ? '' : ` (${code})`}.`, { cause })
  }
}

async function checkImage(file: FileHandle, path: string, terms: ExportTerms): Promise<OpenImage> {
  const stats = fstatSync(file.fd, { bigint: true })
  const isBlockDevice = stats.isBlockDevice()
  if (!stats.isFile() && !isBlockDevice) {
    throw new FuseError('EINVAL', `The image ${quote(path)} is neither a regular file nor a block device.`)
  }
  if (terms.growable && isBlockDevice) {
    throw new FuseError('EINVAL', `The image ${quote(path)} is a block device, which cannot grow.`)
  }
  if (!lockFile(file.fd, terms.writable ? 'write' : 'read')) {
    const holder = await findLockHolder(stats)
    const who = holder === undefined ? 'another process' : `${holder.program} (process ${holder.pid})`
    throw new FuseError('EBUSY', `The image ${quote(path)} is in use by ${who}.`)
  }
  return { fd: file.fd, writable: terms.writable, isBlockDevice }
}

function sessionTerms({ writable, growable }: ExportTerms, allowOther: boolean): SessionTerms {
  const state = newState(writable, process.getuid?.() ?? 0, process.getgid?.() ?? 0)
  return { writable, growable, allowOther, state }
}

/** Readers of the device: while one waits for the medium the others go on. */
const READERS = Math.min(8, Math.max(4, availableParallelism()))

/**
 * Mounts an image file or a block device. The image is locked as a served disk is: one writer, or many readers.
 * @throws FuseError, SystemCallError
 */
export async function exportImage(path: string, terms: ExportTerms): Promise<FuseExport> {
  // Before the mount, for the image may itself be what is mounted over.
  const file = await openImage(path, terms.writable)
  try {
    const image = await checkImage(file, path, terms)
    const source = await realpath(path)
    const mounted = await atMountpoint(terms.mountpoint, point => mountFile(point, { ...terms, source }))
    const session = sessionTerms(terms, mounted.allowOther)
    const serve = () => {
      serveInit(mounted.device, new Session(imageDisk(image), session))
      return Promise.all(Array.from({ length: READERS }, () => startReader(mounted.device, image, session)))
    }
    return exported(mounted, serve, () => file.close())
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Resolves when the file is unmounted. */
function startReader(original: number, image: OpenImage, terms: SessionTerms): Promise<void> {
  const device = openDevice('waits')
  cloneFuseDevice(device, original)
  const workerData: ReaderData = { device, image, terms }
  const reader = new Worker(new URL('./reader.ts', import.meta.url), { workerData })
  return new Promise<void>((resolve, reject) => {
    reader.once('error', reject)
    reader.once('exit', () => {
      closeSync(device)
      resolve()
    })
  })
}

/**
 * Mounts an NBD export, and closes `client` when it is unmounted, or when this throws.
 * @throws FuseError, SystemCallError
 */
export async function exportNbd(client: NbdClient, source: string, terms: ExportTerms): Promise<FuseExport> {
  try {
    checkNbd(client, terms)
    const mounted = await atMountpoint(terms.mountpoint, point => mountFile(point, { ...terms, source }))
    // Whoever had the file open has flushed it by closing it, so nothing is left for the end to wait for.
    const serve = () => serveNbd(mounted.device, client, sessionTerms(terms, mounted.allowOther)).ended
    return exported(mounted, serve, () => client.close())
  } catch (error) {
    client.destroy()
    throw error
  }
}

function checkNbd({ flags }: NbdClient, { writable, growable }: ExportTerms): void {
  if (growable)
    throw new FuseError('EINVAL', 'The export of an NBD server cannot grow; leave out --growable.')
  if (writable && flags.readOnly) {
    throw new FuseError('EROFS', 'The NBD server allows reading only; leave out --writable.')
  }
}

/** Serves the device of a mount, whose INIT is waiting, from an NBD export. */
export function serveNbd(original: number, client: NbdClient, terms: SessionTerms): EventDevice {
  const disk = nbdDisk(client)
  serveInit(original, new Session(disk, terms))
  const device = openDevice('returns')
  cloneFuseDevice(device, original)
  return serveEvents(
    device,
    interrupt => new Session(disk, terms, interrupt),
    () => disk.endBatch?.(),
  )
}

/** Serves a mount to its end. If it cannot be served, it is unmounted. */
async function exported(
  mounted: MountedFile,
  serve: () => Promise<unknown>,
  close: () => Promise<void>,
): Promise<FuseExport> {
  let serving: Promise<unknown>
  try {
    serving = serve()
  } catch (error) {
    await mounted.detach(true)
    throw error
  }
  return {
    mountpoint: mounted.mountpoint,
    ended: (async () => {
      try {
        await serving
      } catch (error) {
        await mounted.detach(true)
        throw error
      } finally {
        mounted.release()
        closeSync(mounted.device)
        await close()
      }
    })(),
    unmount: () => mounted.unmount(),
    abort: () => mounted.detach(true),
  }
}
