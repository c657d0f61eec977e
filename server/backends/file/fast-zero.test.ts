import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { cannotMount } from '../disks/test-directory.ts'
import { openDisk, operate } from './test-disk.ts'
import { directoryOn } from './test-filesystem.ts'

const SIZE = 100_000

test.for([
  ['ntfs', true],
  ['ntfs', false],
  ['ext2', false],
] as const)(
  'FAST_ZERO is refused where it is not fast, and changes nothing: %s, may punch: %s',
  async ([type, mayPunch], context) => {
    context.skip(cannotMount !== undefined, cannotMount)
    const path = join(directoryOn(type), 'disk')
    const data = Buffer.alloc(SIZE, 7)
    writeFileSync(path, data)
    const disk = openDisk(path, SIZE)
    for (let round = 0; round < 2; round++) {
      const zeroing = operate.zero(disk, SIZE, 0, { mayPunch, fast: true })
      await expect(zeroing).rejects.toMatchObject({ code: 'EOPNOTSUPP' })
      expect(readFileSync(path).equals(data)).toBe(true)
    }
  },
)
