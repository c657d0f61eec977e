import { quote } from './quote.ts'

/** Longest label by type, in bytes. mke2fs cuts a longer one with no more than a warning. */
const MAX_LABEL_BYTES: ReadonlyMap<string, number> = new Map([
  ['ext2', 16],
  ['ext3', 16],
  ['ext4', 16],
  ['xfs', 12],
  ['vfat', 11],
  ['fat', 11],
  ['msdos', 11],
  ['btrfs', 255],
])

/** The type of a disk on which no filesystem is made: for whoever wants the bare device. */
export const NO_FILESYSTEM = 'none'

/** NTFS counts UTF-16 units. */
const MAX_NTFS_LABEL = 128

/** Says why a filesystem of this type cannot carry this label; undefined if it can, or the type is not known here. */
export function labelProblem(type: string, label: string): string | undefined {
  if (type === NO_FILESYSTEM && label !== '') {
    return `${quote(label)} has no place on a disk of the type ${NO_FILESYSTEM}. Remove the label, or give a filesystem.`
  }
  const limit = MAX_LABEL_BYTES.get(type)
  const bytes = Buffer.byteLength(label)
  if (limit !== undefined && bytes > limit) {
    return `${quote(label)} is too long for ${type}. Give a label of at most ${limit} bytes, not ${bytes}.`
  }
  if (type === 'ntfs' && label.length > MAX_NTFS_LABEL) {
    return `${quote(label)} is too long for ntfs. Give a label of at most ${MAX_NTFS_LABEL} characters.`
  }
  return undefined
}
