/**
 * Makes NBD exports block devices of this machine, and takes them away again. Which there are is asked of the
 * kernel each time; nothing is written down.
 */
import { release } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { formatNbdUri, withAbsolutePaths } from '../client/canonical-uri.ts'
import { probe } from '../client/discovery.ts'
import { NbdError } from '../client/errors.ts'
import { type NbdUri, parseNbdUri } from '../client/uri.ts'
import { readMounts } from '../fuse/mountinfo.ts'
import { AttachError, type AttachedDisk, type AttachTerms, type Way } from './attached-disk.ts'
import { inSectors, sizeOf } from './block-device.ts'
import { lockUri } from './lock.ts'
import { type Growth, growByNbd } from './nbd-growth.ts'
import { findDaemons } from './processes.ts'
import { attachByFuse, detachByFuse, isClaimed, renewByFuse } from './via-fuse.ts'
import {
  attachByNbd,
  detachByNbd,
  findNbdDevices,
  hasNbd,
  healNbd,
  keepsIdentifiers,
  type WatchEvents,
  watchNbd,
} from './via-nbd.ts'

export { AttachError, type AttachedDisk, type AttachTerms, type Way } from './attached-disk.ts'
export { sizeOf } from './block-device.ts'
export type { Growth } from './nbd-growth.ts'
export type { WatchEvents } from './via-nbd.ts'

/** All disks that are attached, by device. */
export async function attached(): Promise<AttachedDisk[]> {
  const [byFuse, byNbd] = await Promise.all([findDaemons(), findNbdDevices()])
  const order = new Intl.Collator('en', { numeric: true }).compare
  return [...byFuse, ...byNbd].sort((a, b) => order(a.device, b.device))
}

/**
 * Attaches the export, unless it is attached already: then the same device is returned, and its connection, if
 * that was lost, made again. Without `via`: by the kernel's NBD driver where there is one and it can do what
 * the URI asks for, else by FUSE.
 * @throws AttachError, and the errors of the NBD client
 */
export async function attach(
  uri: string,
  terms: AttachTerms & { readonly via?: Way | undefined },
): Promise<AttachedDisk> {
  const parsed = withAbsolutePaths(parseNbdUri(uri))
  const name = formatNbdUri(parsed)
  const lock = await lockUri(name, terms.openTimeoutMs)
  try {
    const there = (await attached()).find(disk => disk.uri === name)
    if (there !== undefined) {
      checkSame(there, terms)
      if (there.via === 'nbd') await healIfDead(there, parsed)
      return there
    }
    // Whoever gives a disk a tag means to find it by that.
    const canBeNbd = parsed.tls === undefined && (terms.tag === undefined || keepsIdentifiers(release()))
    const via = terms.via ?? (canBeNbd && (await hasNbd()) ? 'nbd' : 'fuse')
    return via === 'nbd' ? await attachByNbd(parsed, terms) : await attachByFuse(name, terms, lock)
  } finally {
    await lock.close()
  }
}

/**
 * A server that refuses has the kernel's own connection, most likely; one that cannot be reached will be found by
 * whoever attaches next, or watches.
 */
async function healIfDead(disk: AttachedDisk, uri: NbdUri): Promise<void> {
  try {
    await healNbd(disk, uri)
  } catch (error) {
    if (!(error instanceof NbdError)) throw error
  }
}

/**
 * Watches over a disk that is attached by the kernel's NBD driver, and connects it again whenever its server was
 * lost, until `signal` is aborted. A disk that is attached by FUSE does so by itself.
 */
export async function watch(disk: AttachedDisk, events: WatchEvents, signal: AbortSignal): Promise<void> {
  if (disk.via === 'nbd') await watchNbd(disk, parseNbdUri(disk.uri), events, signal)
}

function checkSame(
  { device, readOnly, via }: AttachedDisk,
  terms: AttachTerms & { readonly via?: Way | undefined },
): void {
  if (terms.via !== undefined && terms.via !== via) {
    throw new AttachError('EBUSY', `The disk is attached already, via ${via}, as ${device}. Detach it first.`)
  }
  if (readOnly && !terms.readOnly) {
    throw new AttachError(
      'EROFS',
      `The disk is attached already, for reading only, as ${device}. Detach it first.`,
    )
  }
}

/** The disk that is attached and named by its URI or its device. @throws UriError */
export async function findAttached(what: string): Promise<AttachedDisk | undefined> {
  const isDevice = what.startsWith('/')
  const name = isDevice ? what : formatNbdUri(withAbsolutePaths(parseNbdUri(what)))
  return (await attached()).find(({ device, uri }) => (isDevice ? device : uri) === name)
}

/**
 * Detaches a disk, named by its URI or its device. False: it is not attached. `lazy`: also one that is in use,
 * which then goes when its last user does.
 * @throws AttachError EBUSY
 */
export async function detach(
  what: string,
  { lazy = false }: { readonly lazy?: boolean } = {},
): Promise<boolean> {
  const first = await findAttached(what)
  if (first === undefined) return false
  const lock = await lockUri(first.uri)
  try {
    const disk = await findAttached(what)
    if (disk === undefined) return true
    if (!lazy && (await isClaimed(disk.device))) throw await inUse(disk.device)
    await (disk.via === 'nbd' ? detachByNbd : detachByFuse)(disk, lazy)
    return true
  } finally {
    await lock.close()
  }
}

const POLL_MS = 50

/**
 * Lets a device that is in use grow with its export: to as much as is wanted, or undefined: to what the export has. Returns
 * its bytes then.
 * @throws AttachError ENOTSUP: it keeps the size that it has until it is attached anew; the errors of the NBD client; the
 *   signal's reason
 */
export async function growDevice(disk: AttachedDisk, growth: Growth): Promise<number> {
  const uri = parseNbdUri(disk.uri)
  if (disk.via === 'nbd') {
    const lock = await lockUri(disk.uri)
    try {
      return await growByNbd(disk, uri, growth)
    } finally {
      await lock.close()
    }
  }
  const { signal } = growth
  const wanted = growth.wanted ?? inSectors((await probe(uri, { signal })).size)
  const before = await sizeOf(disk.device)
  if (before >= wanted) return before
  renewByFuse(disk)
  for (;;) {
    const size = await sizeOf(disk.device)
    if (size >= wanted) return size
    await sleep(POLL_MS, undefined, { signal }).catch(() => undefined)
    signal.throwIfAborted()
  }
}

async function inUse(device: string): Promise<AttachError> {
  const mount = (await readMounts()).find(({ source }) => source === device)
  const how = mount === undefined ? 'is in use' : `is mounted on ${mount.mountpoint}`
  const what = mount === undefined ? 'End that' : 'Unmount it'
  return new AttachError('EBUSY', `${device} ${how}. ${what} first, or detach with --lazy.`)
}
