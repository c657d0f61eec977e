import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { fadvise } from '../../linux/syscalls.ts'
import { PENDING } from '../backend.ts'
import { makeDirectory } from '../disks/test-directory.ts'
import { fileOperations } from './file-disk.ts'
import { ringReads } from './ring-reads.ts'
import { openDisk, operate } from './test-disk.ts'

const PAGE = 4096
const PAGES = 200
const POSIX_FADV_DONTNEED = 4

/** A disk of which nothing is in the page cache, and on whose page n stands the byte n. */
async function coldDisk() {
  const path = join(makeDirectory(), 'disk')
  writeFileSync(path, Buffer.concat(Array.from({ length: PAGES }, (_, page) => Buffer.alloc(PAGE, page))))
  const disk = openDisk(path, PAGES * PAGE)
  await operate.flush(disk)
  expect(fadvise(disk.fd, 0, 0, POSIX_FADV_DONTNEED)).toBe(0)
  return disk
}

test('Reads that miss the page cache go to the ring, those of one turn by few calls', async context => {
  const reads = ringReads()
  if (reads === undefined) return context.skip('This kernel or container has no io_uring.')
  const disk = await coldDisk()
  expect(fileOperations.preadNow(disk, Buffer.alloc(PAGE), 0, PAGE, 0)).toBe(0)
  const before = reads.ring.calls
  const pages = await Promise.all(
    Array.from({ length: PAGES }, (_, page) => operate.read(disk, PAGE, page * PAGE)),
  )
  for (const [page, bytes] of pages.entries()) expect(bytes.equals(Buffer.alloc(PAGE, page))).toBe(true)
  // 64 of one file at a time; those that wait follow in a few waves.
  expect(reads.ring.calls - before).toBeGreaterThan(0)
  expect(reads.ring.calls - before).toBeLessThan(PAGES / 2)
})

test('A file that asks for much leaves room in the ring for another', async context => {
  const reads = ringReads()
  if (reads === undefined) return context.skip('This kernel or container has no io_uring.')
  const [greedy, modest] = [await coldDisk(), await coldDisk()]
  const order: string[] = []
  const all = Array.from({ length: PAGES }, (_, page) =>
    operate.read(greedy, PAGE, page * PAGE).then(() => order.push('greedy')),
  )
  all.push(operate.read(modest, PAGE, 0).then(() => order.push('modest')))
  await Promise.all(all)
  expect(order.indexOf('modest')).toBeLessThan(PAGES - 1)
})

test('A lone read is looked for, so that it is there before the event loop goes on', async context => {
  if (ringReads() === undefined) return context.skip('This kernel or container has no io_uring.')
  const disk = await coldDisk()
  const until = vi.spyOn(disk.lingering, 'until').mockImplementation(() => performance.now() + 30_000)
  const answered = vi.spyOn(disk.lingering, 'answered')
  const target = Buffer.alloc(PAGE)
  let isDone = false
  const outcome = fileOperations.pread(disk, target, 0, PAGE, 7 * PAGE, { complete: () => (isDone = true) })
  expect({ outcome, isDone }).toEqual({ outcome: PENDING, isDone: false })
  fileOperations.endBatch(disk, false)
  expect(until).not.toHaveBeenCalled()
  fileOperations.endBatch(disk, true)
  expect(isDone).toBe(true)
  expect(target.equals(Buffer.alloc(PAGE, 7))).toBe(true)
  expect(answered).toHaveBeenCalledOnce()
})

test('One of several reads is not looked for', async context => {
  if (ringReads() === undefined) return context.skip('This kernel or container has no io_uring.')
  const disk = await coldDisk()
  const until = vi.spyOn(disk.lingering, 'until')
  const reads = [0, 1].map(page => operate.read(disk, PAGE, page * PAGE))
  fileOperations.endBatch(disk, true)
  expect(until).not.toHaveBeenCalled()
  await Promise.all(reads)
})
