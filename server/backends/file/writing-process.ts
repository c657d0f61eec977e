/** Writes to a disk at once, all over its pages; run by file-disk.integration.test.ts, which looks at how it ends. */
import { openSync, truncateSync, writeFileSync } from 'node:fs'
import { fileDisk, fileOperations } from './file-disk.ts'

const SIZE = 2 ** 20
const path = process.argv[2] as string
writeFileSync(path, Buffer.alloc(SIZE / 2, 0x55))
truncateSync(path, SIZE)
const disk = fileDisk(openSync(path, 'r+'), SIZE, { durable: true, readOnly: false, blockDevice: false })
for (let round = 0; round < 5000; round++) {
  const length = 1 + ((round * 7919) % 65_536)
  const source = Buffer.alloc(length, 0x55)
  fileOperations.pwriteNow(disk, source, 0, length, (round * 104_729) % (SIZE - length))
}
