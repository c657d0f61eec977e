/**
 * Makes NBD exports block devices of this machine, and takes them away again. Which there are is asked of the
 * kernel each time; nothing is written down.
 */

import { readFile } from 'node:fs/promises'
import { release } from 'node:os'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { formatNbdUri } from '../client/canonical-uri.ts'
import { NbdError } from '../client/errors.ts'
import { type NbdUri, parseNbdUri } from '../client/uri.ts'
import { readMounts } from '../fuse/mountinfo.ts'
import { AttachError, type AttachedDisk, type AttachTerms, type Way } from './attached-disk.ts'
import { lockUri } from './lock.ts'
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
  const parsed = parseNbdUri(uri)
  const name = formatNbdUri(parsed)
  const lock = await lockUri(name)
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

/**
 * Detaches a disk, named by its URI or its device. False: it is not attached. `lazy`: also one that is in use,
 * which then goes when its last user does.
 * @throws AttachError EBUSY
 */
export async function detach(
  what: string,
  { lazy = false }: { readonly lazy?: boolean } = {},
): Promise<boolean> {
  const isDevice = what.startsWith('/')
  const name = isDevice ? what : formatNbdUri(parseNbdUri(what))
  const find = async () => (await attached()).find(({ device, uri }) => (isDevice ? device : uri) === name)
  const first = await find()
  if (first === undefined) return false
  const lock = await lockUri(first.uri)
  try {
    const disk = await find()
    if (disk === undefined) return true
    if (!lazy && (await isClaimed(disk.device))) throw await inUse(disk.device)
    await (disk.via === 'nbd' ? detachByNbd : detachByFuse)(disk, lazy)
    return true
  } finally {
    await lock.close()
  }
}

const SECTOR = 512
const POLL_MS = 50

/** Bytes that the device has. */
export async function sizeOf(device: string): Promise<number> {
  return SECTOR * Number(await readFile(`/sys/class/block/${basename(device)}/size`, 'utf8'))
}

/**
 * Lets a device that is in use grow with its export. Returns its bytes when there are `wanted`, or when `signal` is
 * aborted.
 * @throws AttachError ENOTSUP: via nbd it has its size from its attachment
 */
export async function growDevice(disk: AttachedDisk, wanted: number, signal: AbortSignal): Promise<number> {
  const before = await sizeOf(disk.device)
  if (before >= wanted) return before
  if (disk.via === 'nbd') {
    throw new AttachError('ENOTSUP', `${disk.device} keeps its size until it is attached anew.`)
  }
  renewByFuse(disk)
  for (;;) {
    const size = await sizeOf(disk.device)
    if (size >= wanted || signal.aborted) return size
    await sleep(POLL_MS, undefined, { signal }).catch(() => undefined)
  }
}

async function inUse(device: string): Promise<AttachError> {
  const mount = (await readMounts()).find(({ source }) => source === device)
  const how = mount === undefined ? 'is in use' : `is mounted on ${mount.mountpoint}`
  const what = mount === undefined ? 'End that' : 'Unmount it'
  return new AttachError('EBUSY', `${device} ${how}. ${what} first, or detach with --lazy.`)
}
