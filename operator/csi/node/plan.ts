/**
 * What is to be done on a node for a volume, from what the kernel has of it. Pure. Nothing else is known: a driver that
 * was killed anywhere goes on from there.
 */
import type { AttachedDisk } from '../../../server/attach/attach.ts'
import type { Mount } from '../../../server/fuse/mountinfo.ts'
import { RpcError } from '../rpc/rpc-error.ts'

/** What the kernel has of a volume. */
export interface Observed {
  /** Every mount of the machine. */
  readonly mounts: readonly Mount[]
  /** The disk that is attached for the volume. */
  readonly disk: AttachedDisk | undefined
}

/** The terms on which a volume is to be staged. */
export interface Wanted {
  /** In its one form (`formatNbdUri`). */
  readonly uri: string
  readonly readOnly: boolean
}

export type StageStep = 'release' | 'unmount' | 'attach' | 'mount'

/** Devices that disks are attached as. As a root it is the file of the device, bound to another place. */
const DEVICE_FILE = /^\/(?:loop|nbd)\d+$/

/** The device that a mount shows: its filesystem's, or itself as a file. */
export const deviceOf = ({ root, source }: Mount): string => (DEVICE_FILE.test(root) ? `/dev${root}` : source)

/** The mount that is seen at a path. */
export const mountAt = (mounts: readonly Mount[], path: string): Mount | undefined =>
  mounts.findLast(({ mountpoint }) => mountpoint === path)

/** Other places where a device is mounted. */
function otherPlaces(mounts: readonly Mount[], device: string, path: string): readonly string[] {
  const places = mounts.filter(mount => deviceOf(mount) === device).map(({ mountpoint }) => mountpoint)
  return [...new Set(places)].filter(place => place !== path)
}

/**
 * The way to a volume that is staged at a path.
 * @throws RpcError FAILED_PRECONDITION where it is staged on other terms, or lost its device, and is still in use
 */
export function planStage({ mounts, disk }: Observed, path: string, wanted: Wanted): readonly StageStep[] {
  const staged = mountAt(mounts, path)
  const isSame = disk !== undefined && disk.uri === wanted.uri && disk.readOnly === wanted.readOnly
  if (isSame && (staged === undefined || deviceOf(staged) === disk.device)) {
    return staged === undefined ? ['attach', 'mount'] : []
  }
  for (const device of new Set([disk?.device, staged && deviceOf(staged)])) {
    const [place] = device === undefined ? [] : otherPlaces(mounts, device, path)
    if (place !== undefined) {
      throw new RpcError(
        'FAILED_PRECONDITION',
        `The volume is still in use on this node, at ${place}, from before. Unpublish it there first.`,
      )
    }
  }
  // A device that is mounted is not let go of.
  return [
    ...(staged ? (['unmount'] as const) : []),
    ...(disk && !isSame ? (['release'] as const) : []),
    'attach',
    'mount',
  ]
}

/**
 * The way to a volume that is not staged. The disk is released first: it stays until it is unmounted, and nobody has to
 * find it again if this ends in between. The kernel's NBD driver would cut it off at once, so there it comes last.
 * @throws RpcError FAILED_PRECONDITION where it is still published
 */
export function planUnstage({ mounts, disk }: Observed, path: string): readonly ('release' | 'unmount')[] {
  const staged = mountAt(mounts, path)
  const device = disk?.device ?? (staged && deviceOf(staged))
  const [place] = device === undefined ? [] : otherPlaces(mounts, device, path)
  if (place !== undefined) {
    throw new RpcError(
      'FAILED_PRECONDITION',
      `The volume is still published at ${place}. Unpublish it there first.`,
    )
  }
  const unmount = staged ? (['unmount'] as const) : []
  if (disk === undefined) return unmount
  return disk.via === 'nbd' ? [...unmount, 'release'] : ['release', ...unmount]
}

export interface WantedTarget {
  readonly staging: string
  readonly target: string
  readonly readOnly: boolean
  /** No other place may have the volume. */
  readonly exclusive: boolean
}

/**
 * The way to a volume that is published at a target.
 * @throws RpcError FAILED_PRECONDITION, ALREADY_EXISTS
 */
export function planPublish(
  { mounts, disk }: Observed,
  { staging, target, readOnly, exclusive }: WantedTarget,
): readonly ('bind' | 'protect')[] {
  const staged = mountAt(mounts, staging)
  if (disk === undefined || staged === undefined || deviceOf(staged) !== disk.device) {
    throw new RpcError('FAILED_PRECONDITION', `The volume is not staged at ${staging}. Stage it first.`)
  }
  const published = mountAt(mounts, target)
  if (published !== undefined) {
    if (deviceOf(published) !== disk.device) {
      throw new RpcError('ALREADY_EXISTS', `Something else is mounted on ${target}.`)
    }
    if (published.readOnly && !readOnly && !disk.readOnly) {
      throw new RpcError('ALREADY_EXISTS', `The volume is published at ${target} already, read-only.`)
    }
    // Between its making and its protection somebody may have been killed.
    return readOnly && !published.readOnly ? ['protect'] : []
  }
  const [other] = otherPlaces(mounts, disk.device, staging)
  if (exclusive && other !== undefined) {
    throw new RpcError('FAILED_PRECONDITION', `The volume may be published once only, and is at ${other}.`)
  }
  return readOnly ? ['bind', 'protect'] : ['bind']
}
