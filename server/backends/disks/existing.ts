/** Finds and opens disks that exist, and nothing else that a directory may hold. */
import { type BigIntStats, constants, fstatSync } from 'node:fs'
import { join } from 'node:path'
import { quote } from '../../../crds/quote.ts'
import { codeOf } from '../../linux/errno.ts'
import { foreignKind, type OpenContent, sizeOf } from './content.ts'
import { closeDescriptor, openDescriptor } from './descriptors.ts'
import { DiskError, NotADiskError } from './errors.ts'
import { lookUp, type Records } from './records.ts'

const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR } = constants

/** Where disks are. */
export interface DiskPlace {
  readonly path: string
  readonly records: Records
}

interface Location {
  readonly path: string
  readonly followed: boolean
}

/** Where to open the disk of this name; undefined if there is nothing. Throws NotADiskError. */
async function locate(
  { path, records }: DiskPlace,
  fileName: string,
  seen: BigIntStats | undefined,
): Promise<Location | undefined> {
  const entry = join(path, fileName)
  const stats = seen ?? (await lookUp(entry))
  if (stats === undefined) return undefined
  if (stats.isFile()) return { path: entry, followed: false }
  const foreign = foreignKind(stats)
  if (foreign !== undefined && !stats.isSymbolicLink()) throw new NotADiskError(fileName, `it is ${foreign}`)
  if (await records.has(fileName, stats)) return { path: records.pathOf(fileName), followed: true }
  throw new NotADiskError(
    fileName,
    `it is ${foreign ?? 'a block device'} that no --command of this server made`,
  )
}

function openError(fileName: string, error: unknown): DiskError {
  const code = codeOf(error) ?? 'EIO'
  const reasons: Readonly<Record<string, string>> = {
    EACCES: 'the server may not read and write its file',
    EPERM: 'the server may not read and write its file',
    EROFS: 'it can only be read, so the server needs --read-only',
    EMFILE: 'the server has too many files open; raise its limit (ulimit -n)',
    ENFILE: 'the machine has too many files open',
  }
  return new DiskError(code, `The disk ${quote(fileName)} cannot be opened: ${reasons[code] ?? code}`, {
    cause: error,
  })
}

async function openLocation(
  fileName: string,
  location: Location,
  readOnly: boolean,
): Promise<number | undefined> {
  try {
    // The look before has told what it is, but may be out of date: no link is followed, no FIFO waited for.
    const flags = (readOnly ? O_RDONLY : O_RDWR) | O_NONBLOCK | (location.followed ? 0 : O_NOFOLLOW)
    return await openDescriptor(location.path, flags)
  } catch (error) {
    const code = codeOf(error)
    if (code === 'ENOENT' && !location.followed) return undefined
    if (code === 'ENOENT') throw new NotADiskError(fileName, 'what its link points to is gone')
    if (code === 'ELOOP') throw new NotADiskError(fileName, 'it is a symbolic link')
    if (code === 'EISDIR' || code === 'ENXIO') throw new NotADiskError(fileName, 'it is no file')
    throw openError(fileName, error)
  }
}

/**
 * Opens the disk of this name, which is not looked at again where it has been `seen` already. Undefined if there
 * is nothing of that name. Throws NotADiskError for what is neither a file nor a link or block device that a
 * command of ours made, DiskError if opening fails.
 */
export async function openExisting(
  place: DiskPlace,
  fileName: string,
  readOnly: boolean,
  seen?: BigIntStats,
): Promise<OpenContent | undefined> {
  const location = await locate(place, fileName, seen)
  const fd = location && (await openLocation(fileName, location, readOnly))
  if (fd === undefined) return undefined
  try {
    // Of an open file, the kernel has this in memory.
    const stats = fstatSync(fd, { bigint: true })
    const foreign = foreignKind(stats)
    if (foreign !== undefined) throw new NotADiskError(fileName, `it is ${foreign}`)
    return { fd, size: sizeOf(fd, stats), blockDevice: stats.isBlockDevice(), stats }
  } catch (error) {
    await closeDescriptor(fd)
    throw error
  }
}
