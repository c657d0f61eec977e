import { closeSync, fdatasyncSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { ERRNO } from './errno.ts'
import { IoRing, RING_ENTRIES } from './io-ring.ts'
import { addressOf, fadvise } from './syscalls.ts'

const LENGTH = 4096
const POSIX_FADV_DONTNEED = 4

/** A file whose page n holds the byte n + 1. */
async function numberedPages(count: number): Promise<number> {
  const path = join(await mkdtemp(join(tmpdir(), 'io-ring-')), 'file')
  const bytes = Buffer.alloc(count * LENGTH)
  for (let page = 0; page < count; page++) bytes.fill(page + 1, page * LENGTH, (page + 1) * LENGTH)
  writeFileSync(path, bytes)
  const fd = openSync(path, 'r')
  onTestFinished(() => closeSync(fd))
  return fd
}

/** Memory that is being read to: its address alone would not keep it. */
const held = new Set<Buffer>()

function readPage(ring: IoRing, fd: number, page: number, target: Buffer): Promise<number> {
  held.add(target)
  return new Promise(resolve => {
    const read = (result: number) => {
      held.delete(target)
      resolve(result)
    }
    ring.read(fd, addressOf(target), LENGTH, page * LENGTH, { read })
  })
}

describe('A ring', () => {
  test('reads what was asked for to where it was asked for, those of one turn by few calls', async () => {
    const ring = new IoRing()
    const fd = await numberedPages(200)
    // More than the ring has room for, one wave after the other: its counters come round.
    for (let wave = 0; wave < 4; wave++) {
      const callsBefore = ring.calls
      const targets = Array.from({ length: 200 }, () => Buffer.alloc(LENGTH))
      const results = await Promise.all(targets.map((target, page) => readPage(ring, fd, page, target)))
      expect(results).toEqual(targets.map(() => LENGTH))
      for (const [page, target] of targets.entries())
        expect(target.every(byte => byte === page + 1)).toBe(true)
      expect(ring.calls - callsBefore).toBe(200 / 8)
    }
  })

  test('tells short reads and errors of each read by itself', async () => {
    const ring = new IoRing()
    const fd = await numberedPages(1)
    const target = Buffer.alloc(LENGTH)
    const [whole, end, bad] = await Promise.all([
      readPage(ring, fd, 0, target),
      readPage(ring, fd, 1, Buffer.alloc(LENGTH)),
      readPage(ring, 1_000_000, 0, Buffer.alloc(LENGTH)),
    ])
    expect([whole, end, bad]).toEqual([LENGTH, 0, -ERRNO.EBADF])
    expect(target[LENGTH - 1]).toBe(1)
  })

  test('reaches offsets above 4 GiB', async () => {
    const ring = new IoRing()
    const path = join(await mkdtemp(join(tmpdir(), 'io-ring-')), 'file')
    writeFileSync(path, '')
    const fd = openSync(path, 'r+')
    onTestFinished(() => closeSync(fd))
    const offset = 5 * 2 ** 30 + LENGTH
    ftruncateSync(fd, offset + LENGTH)
    writeSync(fd, Buffer.alloc(LENGTH, 7), 0, LENGTH, offset)
    const target = Buffer.alloc(LENGTH)
    expect(await readPage(ring, fd, offset / LENGTH, target)).toBe(LENGTH)
    expect(target.every(byte => byte === 7)).toBe(true)
  })

  test('waits for a read that has to come from the disk', async () => {
    const ring = new IoRing()
    const fd = await numberedPages(RING_ENTRIES)
    fdatasyncSync(fd)
    expect(fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)).toBe(0)
    const target = Buffer.alloc(LENGTH)
    expect(await readPage(ring, fd, 99, target)).toBe(LENGTH)
    expect(target.every(byte => byte === 100)).toBe(true)
  })

  test('takes no more than it has entries for', async () => {
    const ring = new IoRing()
    const fd = await numberedPages(1)
    const reads = Array.from({ length: RING_ENTRIES }, () => readPage(ring, fd, 0, Buffer.alloc(LENGTH)))
    expect(() => ring.read(fd, 0, 1, 0, { read: () => undefined })).toThrow(RangeError)
    expect(await Promise.all(reads)).toEqual(reads.map(() => LENGTH))
  })
})
