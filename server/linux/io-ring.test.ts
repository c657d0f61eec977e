import { execFileSync } from 'node:child_process'
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

/** Both ends of an empty pipe. */
async function openPipe(): Promise<number> {
  const path = join(await mkdtemp(join(tmpdir(), 'io-ring-')), 'pipe')
  execFileSync('mkfifo', [path])
  const fd = openSync(path, 'r+')
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

  test('waits for a lone read by the call that hands it over, and the event loop hears nothing of it', async () => {
    const ring = new IoRing()
    const fd = await numberedPages(RING_ENTRIES)
    fdatasyncSync(fd)
    expect(fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)).toBe(0)
    const target = Buffer.alloc(LENGTH)
    let result: number | undefined
    ring.read(fd, addressOf(target), LENGTH, 99 * LENGTH, { read: bytes => (result = bytes) })
    expect(ring.wait(performance.now() + 30_000)).toBe(true)
    expect(result).toBe(LENGTH)
    expect(target.every(byte => byte === 100)).toBe(true)
    // A signal may end the sleep; looking for it over and over would be dozens of calls.
    expect(ring.calls).toBeLessThanOrEqual(3)
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(ring.wakeUps).toBe(0)
  })

  test('waits no longer than it may, and tells the event loop of what comes later', async () => {
    const ring = new IoRing()
    const pipe = await openPipe()
    const target = Buffer.alloc(LENGTH)
    const late = new Promise<number>(resolve => {
      ring.read(pipe, addressOf(target), LENGTH, 0, { read: resolve })
    })
    const startedAt = performance.now()
    expect(ring.wait(startedAt + 20)).toBe(false)
    const waited = performance.now() - startedAt
    expect(waited).toBeGreaterThanOrEqual(20)
    expect(waited).toBeLessThan(1000)
    expect(ring.calls).toBeLessThan(10)
    // Whatever looked for it on this turn of the loop has done so: only the event is left to tell.
    await new Promise(resolve => setTimeout(resolve, 20))
    writeSync(pipe, 'late')
    expect(await late).toBe(4)
    expect(ring.wakeUps).toBe(1)
    expect(target.toString('utf8', 0, 4)).toBe('late')
  })

  test('takes no more than it has entries for', async () => {
    const ring = new IoRing()
    const fd = await numberedPages(1)
    const reads = Array.from({ length: RING_ENTRIES }, () => readPage(ring, fd, 0, Buffer.alloc(LENGTH)))
    expect(() => ring.read(fd, 0, 1, 0, { read: () => undefined })).toThrow(RangeError)
    expect(await Promise.all(reads)).toEqual(reads.map(() => LENGTH))
  })
})
