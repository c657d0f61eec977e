import { closeSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Extent } from '../backend.ts'
import { cannotMount, makeDirectory } from '../disks/test-directory.ts'
import { fileExtents } from './file-extents.ts'
import { openDisk, operate, PUNCH } from './test-disk.ts'
import { loopDevice } from './test-filesystem.ts'

const MIB = 2 ** 20
const BLOCK = 64 * 1024
const HOLE = { hole: true, zero: true }
const DATA = { hole: false, zero: false }

/** A disk in which these blocks of 64 KiB have data. */
function diskWith(blocks: readonly number[], size: number) {
  const path = join(makeDirectory(), 'disk')
  writeFileSync(path, '')
  truncateSync(path, size)
  const fd = openSync(path, 'r+')
  for (const block of blocks) writeSync(fd, Buffer.alloc(BLOCK, 1), 0, BLOCK, block * BLOCK)
  closeSync(fd)
  return openDisk(path, size)
}

const total = (extents: readonly Extent[]) => extents.reduce((sum, { length }) => sum + length, 0)

describe('The extents of a file', () => {
  test('are its data and its holes', async () => {
    const disk = diskWith([1, 2, 5], 10 * BLOCK)
    expect(await fileExtents(disk, 10 * BLOCK, 0, 100)).toEqual([
      { length: BLOCK, ...HOLE },
      { length: 2 * BLOCK, ...DATA },
      { length: 2 * BLOCK, ...HOLE },
      { length: BLOCK, ...DATA },
      { length: 4 * BLOCK, ...HOLE },
    ])
  })

  test('begin where they were asked for, and may end behind the range', async () => {
    const disk = diskWith([1, 2, 5], 10 * BLOCK)
    expect(await fileExtents(disk, BLOCK, BLOCK + 100, 100)).toEqual([{ length: 2 * BLOCK - 100, ...DATA }])
    expect(await fileExtents(disk, 1, 10 * BLOCK - 1, 100)).toEqual([{ length: 1, ...HOLE }])
  })

  test('are no more than were asked for', async () => {
    const disk = diskWith([1, 3, 5, 7], 10 * BLOCK)
    expect(await fileExtents(disk, 10 * BLOCK, 0, 3)).toHaveLength(3)
    expect(await fileExtents(disk, 10 * BLOCK, 0, 1)).toEqual([{ length: BLOCK, ...HOLE }])
  })

  test('of an empty terabyte are one hole', async () => {
    const size = 2 ** 40
    const disk = diskWith([], size)
    expect(await fileExtents(disk, 0xffffffff, 12_345, 100)).toEqual([{ length: size - 12_345, ...HOLE }])
  })

  test('agree with what was written', async () => {
    const blocks = fc.uniqueArray(fc.nat(15), { maxLength: 16 })
    await fc.assert(
      fc.asyncProperty(
        blocks,
        fc.nat(16 * BLOCK - 1),
        fc.nat(16 * BLOCK),
        async (written, offset, wanted) => {
          const disk = diskWith(written, 16 * BLOCK)
          const length = Math.max(1, Math.min(wanted, 16 * BLOCK - offset))
          const extents = await fileExtents(disk, length, offset, 100)
          expect(total(extents)).toBeGreaterThanOrEqual(length)
          expect(total(extents)).toBeLessThanOrEqual(16 * BLOCK - offset)
          let position = offset
          for (const extent of extents) {
            for (
              let at = position;
              at < position + extent.length;
              at = (Math.floor(at / BLOCK) + 1) * BLOCK
            ) {
              expect(extent.hole).toBe(!written.includes(Math.floor(at / BLOCK)))
            }
            position += extent.length
          }
        },
      ),
      { numRuns: 30 },
    )
  })

  test('of a file that was cut short are a hole to the end of the disk', async () => {
    const disk = diskWith([0, 1, 2, 3], 4 * BLOCK)
    truncateSync(`/proc/self/fd/${disk.fd}`, BLOCK)
    expect(await fileExtents(disk, 4 * BLOCK, 0, 100)).toEqual([
      { length: BLOCK, ...DATA },
      { length: 3 * BLOCK, ...HOLE },
    ])
    expect(await fileExtents(disk, BLOCK, 2 * BLOCK, 100)).toEqual([{ length: 2 * BLOCK, ...HOLE }])
  })

  test('of a file that has grown end with the disk', async () => {
    const disk = diskWith([0, 1, 2, 3], 2 * BLOCK)
    expect(await fileExtents(disk, BLOCK, 0, 100)).toEqual([{ length: 2 * BLOCK, ...DATA }])
  })

  test('can be asked for while they change', async () => {
    const disk = diskWith([], 16 * MIB)
    const churn = Array.from({ length: 200 }, (_, index) =>
      index % 2
        ? operate.zero(disk, BLOCK, (index % 16) * MIB, PUNCH)
        : operate.write(disk, Buffer.alloc(BLOCK, 1), (index % 16) * MIB),
    )
    const asked = Array.from({ length: 20 }, () => fileExtents(disk, 16 * MIB, 0, 1000))
    for (const extents of await Promise.all(asked)) {
      expect(total(extents)).toBe(16 * MIB)
      expect(extents.every(({ length }) => length > 0)).toBe(true)
    }
    await Promise.all(churn)
  })
})

test('A block device, which cannot tell, has data everywhere', async context => {
  context.skip(cannotMount !== undefined, cannotMount)
  const disk = openDisk(loopDevice(MIB), undefined, { blockDevice: true })
  expect(await fileExtents(disk, MIB, 0, 100)).toEqual([{ length: MIB, ...DATA }])
  expect(await fileExtents(disk, 512, 1000, 100)).toEqual([{ length: MIB - 1000, ...DATA }])
})
