/** What the kernel shows of any block device. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { AttachError } from './attached-disk.ts'

const SECTOR = 512

/** As much of so many bytes as a device can have. */
export const inSectors = (bytes: number): number => bytes - (bytes % SECTOR)

/**
 * Bytes at the end of an export that a device lacks.
 * @throws AttachError EINVAL: the export has not one sector, and the device would have nothing
 */
export function bytesCutOff(exported: number): number {
  if (exported >= SECTOR) return exported % SECTOR
  throw new AttachError(
    'EINVAL',
    `The size of the export is ${exported}, and a block device has whole sectors of ${SECTOR} bytes. Make the disk larger, or have it as a file by ondemand-disk fuse.`,
  )
}

/** Bytes that the device has. */
export async function sizeOf(device: string): Promise<number> {
  return SECTOR * Number(await readFile(`/sys/class/block/${basename(device)}/size`, 'utf8'))
}

/** The smallest piece that it reads and writes, in bytes. */
export const logicalBlockOf = async (device: string): Promise<number> =>
  Number(await readFile(`/sys/class/block/${basename(device)}/queue/logical_block_size`, 'utf8'))
