/** The filesystem on a volume's device: recognised, checked, mounted and grown. Never made. */
import { open } from 'node:fs/promises'
import { quote } from '../../../crds/quote.ts'
import { sizeOf } from '../../../server/attach/attach.ts'
import { RpcError } from '../rpc/rpc-error.ts'
import { tool } from './tool.ts'

/** Kinds that are told apart by their superblocks; ext2, ext3 and ext4 are one. */
export type Family = 'ext' | 'xfs' | 'btrfs'

const EXT_MAGIC_AT = 1024 + 0x38
const EXT_MAGIC = 0xef53
const EXT_64BIT = 0x80
const BTRFS_MAGIC_AT = 0x10000 + 0x40
const BTRFS_MAGIC = '_BHRfS_M'
/** Up to the end of the superblock that is farthest from the beginning. */
const PROBED = 0x11000

/** What a device that begins with these bytes holds; undefined: none of the known ones. */
export function familyOf(start: Buffer): Family | undefined {
  if (start.length >= 4 && start.toString('latin1', 0, 4) === 'XFSB') return 'xfs'
  if (
    start.length >= PROBED &&
    start.toString('latin1', BTRFS_MAGIC_AT, BTRFS_MAGIC_AT + 8) === BTRFS_MAGIC
  ) {
    return 'btrfs'
  }
  return start.length >= EXT_MAGIC_AT + 2 && start.readUInt16LE(EXT_MAGIC_AT) === EXT_MAGIC
    ? 'ext'
    : undefined
}

const familyOfType = (type: string): string => (/^ext[234]$/.test(type) ? 'ext' : type)

/** Bytes of a filesystem, by its superblock (fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h, uapi/linux/btrfs_tree.h). */
export function bytesOf(start: Buffer, family: Family): number {
  if (family === 'xfs') return Number(start.readBigUInt64BE(8)) * start.readUInt32BE(4)
  if (family === 'btrfs') return Number(start.readBigUInt64LE(BTRFS_MAGIC_AT + 0x30))
  const high = (start.readUInt32LE(1024 + 0x60) & EXT_64BIT) === 0 ? 0 : start.readUInt32LE(1024 + 0x150)
  return (high * 2 ** 32 + start.readUInt32LE(1024 + 0x4)) * 2 ** (10 + start.readUInt32LE(1024 + 0x18))
}

/** What a device holds. */
export interface Held {
  /** To mount it as. */
  readonly type: string
  readonly bytes: number
}

/**
 * The filesystem on a device.
 * @param wanted What the volume is said to hold; empty: whatever is there.
 * @throws RpcError FAILED_PRECONDITION: it holds none, or another one, and nothing is done about it here
 */
export async function filesystemOf(device: string, wanted: string): Promise<Held> {
  const handle = await open(device, 'r')
  let start: Buffer
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(PROBED), 0, PROBED, 0)
    start = buffer.subarray(0, bytesRead)
  } finally {
    await handle.close()
  }
  const family = familyOf(start)
  if (family === undefined) {
    throw new RpcError(
      'FAILED_PRECONDITION',
      'The volume holds no filesystem that can be mounted here. A node makes none: the operator has, before the volume was served, or somebody has overwritten it.',
    )
  }
  if (wanted === '' || familyOfType(wanted) === family) {
    const found = family === 'ext' ? 'ext4' : family
    return { type: wanted === '' ? found : wanted, bytes: bytesOf(start, family) }
  }
  throw new RpcError('FAILED_PRECONDITION', `The volume holds ${family}, and not ${quote(wanted)}.`)
}

/** Status of e2fsck: it has found nothing, or has corrected what it found. */
const E2FSCK_GOOD = [0, 1]
/** A rest of the device that is smaller is not worth growing for, or cannot be used. */
const WORTH_GROWING = 2 ** 20

/** Each an option of mount(8) that a filesystem or the kernel knows, with its value. */
const FLAG = /^[A-Za-z][\w-]*(?:=[\w.:@%+/-]*)?$/
/** They would make another mount of it, or run programs. */
const BANNED =
  /^(?:(?:bind|rbind|move|remount|loop|offset|sizelimit|helper|uhelper|r?(?:shared|slave|private|unbindable))(?:=|$)|x-)/i

/** @throws RpcError INVALID_ARGUMENT for a flag that a volume cannot be mounted with */
export function checkFlags(flags: readonly string[]): void {
  for (const flag of flags.flatMap(text => text.split(','))) {
    if (!FLAG.test(flag) || BANNED.test(flag)) {
      throw new RpcError(
        'INVALID_ARGUMENT',
        `volume_capability: A volume cannot be mounted with ${quote(flag)}.`,
      )
    }
  }
}

/**
 * Mounts a device. Before that ext2, ext3 and ext4 are made fit for it; xfs and btrfs do that by themselves. A filesystem
 * that is smaller than its device grows, also one that could not grow while it was in use.
 * @throws RpcError FAILED_PRECONDITION, also where it has errors that somebody has to decide about
 */
export async function mountFilesystem(
  device: string,
  { type, bytes }: Held,
  path: string,
  { readOnly, flags }: { readonly readOnly: boolean; readonly flags: readonly string[] },
): Promise<void> {
  const isExt = familyOfType(type) === 'ext'
  const isBehind = !readOnly && bytes + WORTH_GROWING <= (await sizeOf(device))
  if (isExt && !readOnly) await tool('e2fsck', [...(isBehind ? ['-f'] : []), '-p', device], E2FSCK_GOOD)
  if (isExt && isBehind) await tool('resize2fs', [device])
  const options = [readOnly ? 'ro' : 'rw', ...(type === 'xfs' ? ['nouuid'] : []), ...flags]
  await tool('mount', ['-t', type, '-o', options.join(','), '--', device, path])
  if (!isExt && isBehind) await growFilesystem(device, type, path)
}

/**
 * Lets a mounted filesystem fill its device. The kernel lets only those with CAP_SYS_RESOURCE grow ext4, and nobody ext2.
 * @throws RpcError FAILED_PRECONDITION
 */
export async function growFilesystem(device: string, type: string, path: string): Promise<void> {
  if (familyOfType(type) === 'ext') await tool('resize2fs', [device])
  else if (type === 'xfs') await tool('xfs_growfs', ['-d', path])
  else if (type === 'btrfs') await tool('btrfs', ['filesystem', 'resize', 'max', path])
}
