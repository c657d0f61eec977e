/** What the kernel shows of any block device. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'

const SECTOR = 512

/** As much of so many bytes as a device can have. */
export const inSectors = (bytes: number): number => bytes - (bytes % SECTOR)

/** Bytes that the device has. */
export async function sizeOf(device: string): Promise<number> {
  return SECTOR * Number(await readFile(`/sys/class/block/${basename(device)}/size`, 'utf8'))
}

/** The smallest piece that it reads and writes, in bytes. */
export const logicalBlockOf = async (device: string): Promise<number> =>
  Number(await readFile(`/sys/class/block/${basename(device)}/queue/logical_block_size`, 'utf8'))
