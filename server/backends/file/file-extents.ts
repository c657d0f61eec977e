/** Where a file has data and where holes, by lseek(2) with SEEK_DATA and SEEK_HOLE in the thread pool. */
import { ERRNO, SystemCallError } from '../../linux/errno.ts'
import { lseek, SEEK_DATA, SEEK_HOLE } from '../../linux/syscalls.ts'
import type { Extent } from '../backend.ts'
import { inTurn } from './disk-queue.ts'
import type { FileDisk } from './file-disk.ts'

/** lseek in the thread pool: the position, or the error number negated. */
const seek = (disk: FileDisk, offset: number, whence: number) =>
  inTurn(disk.lane, done => lseek.async(disk.fd, offset, whence, done))

/**
 * The extents of a range, at most `limit`. The first begins at `offset`; the last may reach beyond the
 * range. A file system or device that cannot tell has data everywhere.
 */
export async function fileExtents(
  disk: FileDisk,
  length: number,
  offset: number,
  limit: number,
): Promise<Extent[]> {
  const extents: Extent[] = []
  const end = offset + length
  let position = offset
  while (position < end && extents.length < limit) {
    const data = await seek(disk, position, SEEK_DATA)
    if (data === -ERRNO.EINVAL || data === -ERRNO.ESPIPE || data === -ERRNO.EOPNOTSUPP) {
      return [{ length: disk.size - offset, hole: false, zero: false }]
    }
    if (data < 0 && data !== -ERRNO.ENXIO) throw new SystemCallError('lseek(SEEK_DATA)', -data)
    // ENXIO: no data from here to the end of the file.
    const holeEnd = data < 0 ? disk.size : Math.min(data, disk.size)
    if (holeEnd > position) {
      extents.push({ length: holeEnd - position, hole: true, zero: true })
      position = holeEnd
      continue
    }
    const hole = await seek(disk, position, SEEK_HOLE)
    if (hole < 0) throw new SystemCallError('lseek(SEEK_HOLE)', -hole)
    // A hole punched between the two calls.
    if (hole <= position) continue
    const dataEnd = Math.min(hole, disk.size)
    extents.push({ length: dataEnd - position, hole: false, zero: false })
    position = dataEnd
  }
  return extents
}
