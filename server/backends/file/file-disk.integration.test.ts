import { execFileSync } from 'node:child_process'
import { fstatSync, fsyncSync, readSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { fadvise, fdatasync } from '../../linux/syscalls.ts'
import { cannotMount, makeDirectory, makeSmallFilesystem } from '../disks/test-directory.ts'
import { type FileDisk, fileOperations } from './file-disk.ts'
import { KEEP, openDisk, operate, PUNCH, settled } from './test-disk.ts'
import { directoryOn, loopDevice } from './test-filesystem.ts'

// What else this machine writes must not decide which way our writes take.
vi.mock('./write-pressure.ts', () => ({ mayWriteNow: () => true, beginWrite: () => 0, endWrite: () => {} }))

const KIB = 1024
const MIB = 2 ** 20
const SIZE = 256 * KIB + 700
const PATTERN = Buffer.from(Array.from({ length: 4 * MIB }, (_, index) => (index * 7) % 251))

/** A disk of SIZE bytes on a sparse file in this directory. */
function newDisk(directory: string, size = SIZE): FileDisk {
  const path = join(directory, `disk-${size}`)
  writeFileSync(path, '')
  truncateSync(path, size)
  return openDisk(path, size)
}

/** The content as another descriptor's reader sees it. */
function contentOf({ fd, size }: FileDisk): Buffer {
  const content = Buffer.alloc(size, 0xee)
  for (let at = 0; at < size; ) at += readSync(fd, content, at, size - at, at)
  return content
}

const allocated = ({ fd }: FileDisk) => fstatSync(fd).blocks * 512

const FILESYSTEMS: readonly [what: string, make: () => FileDisk][] = [
  ['the file system of the temporary directory', () => newDisk(makeDirectory())],
  ['tmpfs', () => newDisk(directoryOn('tmpfs'))],
  ['xfs', () => newDisk(directoryOn('xfs'))],
  ['btrfs', () => newDisk(directoryOn('btrfs'))],
  ['ext2, which cannot allocate', () => newDisk(directoryOn('ext2'))],
  ['ntfs, which has no fallocate', () => newDisk(directoryOn('ntfs'))],
  ['a loop device', () => openDisk(loopDevice(256 * KIB + 512), undefined, { blockDevice: true })],
]

/** Ranges that begin and end at pages, sectors, near them, or anywhere. */
const position = fc.oneof(
  fc.constantFrom(0, 511, 512, 4095, 4096, 4097, 8192, 65_536, 256 * KIB),
  fc.nat(256 * KIB),
)
const operation = fc.record({
  kind: fc.constantFrom('write', 'write now', 'zero', 'zero keep', 'zero fast', 'trim', 'read', 'read now'),
  offset: position,
  length: fc.oneof(fc.constantFrom(1, 512, 4096, 8192), fc.integer({ min: 1, max: 64 * KIB })),
  byte: fc.integer({ min: 1, max: 255 }),
})

describe.each(FILESYSTEMS)('A disk on %s', (what, make) => {
  test('holds what was written, whatever the operations and ranges', async context => {
    context.skip(!what.startsWith('the file') && cannotMount !== undefined, cannotMount)
    const disk = make()
    const sequences = fc.array(operation, { minLength: 1, maxLength: 12 })
    await fc.assert(
      fc.asyncProperty(sequences, async operations => {
        const model = contentOf(disk)
        for (const { kind, offset, length: wanted, byte } of operations) {
          const length = Math.min(wanted, disk.size - offset)
          if (length <= 0) continue
          await step(disk, model, kind, offset, length, byte)
        }
        expect(contentOf(disk).equals(model)).toBe(true)
      }),
      { numRuns: 25 },
    )
  })
})

/** Does an operation to the disk and to the model. */
async function step(
  disk: FileDisk,
  model: Buffer,
  kind: string,
  offset: number,
  length: number,
  byte: number,
): Promise<void> {
  const end = offset + length
  const data = Buffer.alloc(length, byte)
  switch (kind) {
    case 'write':
      await operate.write(disk, data, offset)
      model.fill(byte, offset, end)
      return
    case 'write now': {
      const written = fileOperations.pwriteNow(disk, data, 0, length, offset)
      expect(written).toBeLessThanOrEqual(length)
      model.fill(byte, offset, offset + written)
      return
    }
    case 'zero':
    case 'zero keep':
      await operate.zero(disk, length, offset, kind === 'zero' ? PUNCH : KEEP)
      model.fill(0, offset, end)
      return
    case 'zero fast':
      for (const mayPunch of [true, false]) {
        const before = contentOf(disk)
        const outcome = await operate
          .zero(disk, length, offset, { mayPunch, fast: true })
          .catch((error: { code?: string }) => error.code)
        if (outcome === undefined) model.fill(0, offset, end)
        else {
          expect(outcome).toBe('EOPNOTSUPP')
          expect(contentOf(disk).equals(before), 'a refused zero changed data').toBe(true)
        }
      }
      return
    case 'trim': {
      await operate.trim(disk, length, offset)
      // Its contents are undefined now, but everything around it is not.
      contentOf(disk).copy(model, offset, offset, end)
      return
    }
    case 'read':
      expect((await operate.read(disk, length, offset)).equals(model.subarray(offset, end))).toBe(true)
      return
    default: {
      const target = Buffer.alloc(length + 8, 0xee)
      const read = fileOperations.preadNow(disk, target, 4, length, offset)
      expect(target.subarray(4, 4 + read).equals(model.subarray(offset, offset + read))).toBe(true)
      expect(target.subarray(0, 4).toString('hex')).toBe('eeeeeeee')
      expect(target.subarray(4 + length).toString('hex')).toBe('eeeeeeee')
    }
  }
}

describe('WRITE_ZEROES and TRIM', () => {
  const written = async (disk: FileDisk) => {
    await operate.write(disk, Buffer.alloc(disk.size, 7), 0)
    fsyncSync(disk.fd)
    return disk
  }

  test.for<[what: string, make: () => FileDisk]>([
    ['the temporary directory', () => newDisk(makeDirectory(), MIB)],
    ['tmpfs', () => newDisk(directoryOn('tmpfs'), MIB)],
    ['xfs', () => newDisk(directoryOn('xfs'), MIB)],
  ])('on %s give space back, and NO_HOLE keeps it', async ([what, make], context) => {
    context.skip(what !== 'the temporary directory' && cannotMount !== undefined, cannotMount)
    const disk = await written(make())
    expect(allocated(disk)).toBeGreaterThanOrEqual(MIB)
    await operate.zero(disk, MIB, 0, KEEP)
    fsyncSync(disk.fd)
    expect(allocated(disk)).toBeGreaterThanOrEqual(MIB)
    await operate.zero(disk, MIB / 2, 0, PUNCH)
    expect(allocated(disk)).toBeLessThan(0.75 * MIB)
    await operate.trim(disk, MIB / 2, MIB / 2)
    expect(allocated(disk)).toBeLessThan(0.25 * MIB)
    expect(contentOf(disk).equals(Buffer.alloc(MIB))).toBe(true)
  })

  test('with NO_HOLE allocate what was a hole', async () => {
    const disk = newDisk(makeDirectory(), MIB)
    expect(allocated(disk)).toBe(0)
    await operate.zero(disk, MIB, 0, KEEP)
    expect(allocated(disk)).toBeGreaterThanOrEqual(MIB)
  })

  test('never make the file larger', async () => {
    const disk = newDisk(makeDirectory())
    for (const flags of [PUNCH, KEEP]) await operate.zero(disk, SIZE, 0, flags)
    await operate.trim(disk, SIZE, 0)
    expect(fstatSync(disk.fd).size).toBe(SIZE)
  })

  test('of more than one buffer of zeroes are written whole where nothing else helps', async context => {
    context.skip(cannotMount !== undefined, cannotMount)
    const disk = await written(newDisk(directoryOn('ntfs'), 3 * MIB + 5))
    await operate.zero(disk, 3 * MIB + 1, 2, KEEP)
    const expected = Buffer.alloc(disk.size)
    expected.fill(7, 0, 2)
    expected.fill(7, disk.size - 2)
    expect(contentOf(disk).equals(expected)).toBe(true)
  })

  test('of a full file system say ENOSPC', async context => {
    context.skip(cannotMount !== undefined, cannotMount)
    const disk = newDisk(makeSmallFilesystem(MIB), 4 * MIB)
    await expect(operate.zero(disk, 4 * MIB, 0, KEEP)).rejects.toMatchObject({ code: 'ENOSPC' })
    await expect(operate.write(disk, Buffer.alloc(2 * MIB), 0)).rejects.toMatchObject({ code: 'ENOSPC' })
    await operate.zero(disk, 4 * MIB, 0, PUNCH)
    await operate.write(disk, Buffer.alloc(MIB / 2, 1), 0)
  })
})

/** Bytes of the file that the page cache holds. Unlike a read, the question itself brings nothing into it. */
const cachedBytes = ({ fd }: FileDisk) =>
  Number(
    execFileSync('fincore', ['--bytes', '--noheadings', '--output', 'RES', `/proc/${process.pid}/fd/${fd}`]),
  )

const DONTNEED = 4

/** A disk full of data, of which the page cache holds nothing. */
async function uncachedDisk(size: number): Promise<FileDisk> {
  const disk = newDisk(makeDirectory(), size)
  await operate.write(disk, PATTERN.subarray(0, size), 0)
  fsyncSync(disk.fd)
  await expect
    .poll(async () => {
      await new Promise(resolve => fadvise.async(disk.fd, 0, 0, DONTNEED, resolve))
      return cachedBytes(disk)
    })
    .toBe(0)
  return disk
}

describe('What can be had at once', () => {
  test('is what the page cache holds', async () => {
    const disk = newDisk(makeDirectory(), 4 * MIB)
    await operate.write(disk, PATTERN, 0)
    const target = Buffer.alloc(MIB)
    expect(fileOperations.preadNow(disk, target, 0, MIB, MIB)).toBe(MIB)
    expect(target.equals(PATTERN.subarray(MIB, 2 * MIB))).toBe(true)
  })

  test('is nothing else: the rest is read from the disk', async () => {
    const disk = await uncachedDisk(4 * MIB)
    expect(fileOperations.preadNow(disk, Buffer.alloc(MIB), 0, MIB, MIB)).toBe(0)
    expect((await operate.read(disk, MIB, MIB)).equals(PATTERN.subarray(MIB, 2 * MIB))).toBe(true)
  })

  // Each on a disk of its own: asking for one page lets the kernel read ahead, and the next may be there already.
  test.each([
    [512, 512],
    [4096, 8192 + 1],
    [4096 + 512, 16_384],
  ])('is no write of %i bytes at %i, a part of a page that is not cached', async (length, offset) => {
    const disk = await uncachedDisk(MIB)
    const source = Buffer.alloc(3 * 4096, 2)
    const now = () => fileOperations.pwriteNow(disk, source, 0, length, offset)
    expect(now()).toBe(0)
    await operate.read(disk, length, offset)
    expect(now()).toBe(length)
  })

  test('is a write of whole pages that are not cached', async () => {
    const disk = await uncachedDisk(MIB)
    expect(fileOperations.pwriteNow(disk, Buffer.alloc(4096, 2), 0, 4096, 32_768)).toBe(4096)
  })

  test('is nothing above 1 MiB', async () => {
    const disk = newDisk(makeDirectory(), 4 * MIB)
    const buffer = Buffer.alloc(MIB + 1)
    expect(fileOperations.preadNow(disk, buffer, 0, MIB + 1, 0)).toBe(0)
    expect(fileOperations.pwriteNow(disk, buffer, 0, MIB + 1, 0)).toBe(0)
  })

  test('of many buffers is read into and written from the right one', async () => {
    const disk = newDisk(makeDirectory(), MIB)
    const buffers = Array.from({ length: 5 }, (_, index) => Buffer.alloc(4096, index + 1))
    for (let round = 0; round < 3; round++) {
      for (const [index, buffer] of buffers.entries()) {
        await operate.write(disk, buffer, index * 4096)
        expect(fileOperations.pwriteNow(disk, buffer, 16, 100, index * 4096)).toBe(100)
        const target = Buffer.alloc(4096)
        expect(fileOperations.preadNow(disk, target, 0, 4096, index * 4096)).toBe(4096)
        expect(target.equals(buffer)).toBe(true)
      }
    }
  })
})

test('The byte that is read at the edges of writes is not freed memory', () => {
  const program = join(import.meta.dirname, 'writing-process.ts')
  execFileSync(process.execPath, [program, join(makeDirectory(), 'disk')], { stdio: 'pipe' })
})

describe('A disk whose file is not what it was', () => {
  test('cut short: a read behind the end fails, and never invents data', async () => {
    const disk = newDisk(makeDirectory())
    await operate.write(disk, Buffer.alloc(SIZE, 1), 0)
    truncateSync(`/proc/self/fd/${disk.fd}`, 10_000)
    expect((await operate.read(disk, 10_000, 0)).equals(Buffer.alloc(10_000, 1))).toBe(true)
    await expect(operate.read(disk, 10_000, 1)).rejects.toMatchObject({ code: 'EIO' })
    await expect(operate.read(disk, 512, 20_000)).rejects.toMatchObject({ code: 'EIO' })
    expect(fileOperations.preadNow(disk, Buffer.alloc(512), 0, 512, 20_000)).toBe(0)
    await operate.write(disk, Buffer.alloc(512, 2), 20_000)
    expect((await operate.read(disk, 512, 20_000)).equals(Buffer.alloc(512, 2))).toBe(true)
  })

  test('opened to be read only: a write fails', async () => {
    const path = join(makeDirectory(), 'disk')
    writeFileSync(path, 'x'.repeat(4096))
    const disk = openDisk(path, 4096, { readOnly: true })
    await expect(operate.write(disk, Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'EBADF' })
    expect(fileOperations.pwriteNow(disk, Buffer.alloc(4096), 0, 4096, 0)).toBe(0)
    expect((await operate.read(disk, 4096, 0)).toString()).toBe('x'.repeat(4096))
    await operate.flush(disk)
  })
})

test('Hundreds of operations at once on one disk all end, each once', async () => {
  const disk = newDisk(makeDirectory(), 4 * MIB)
  const block = 4096
  const blocks = 300
  await Promise.all(
    Array.from({ length: blocks }, (_, index) =>
      operate.write(disk, Buffer.alloc(block, 1 + (index % 255)), index * block),
    ),
  )
  const reads = Array.from({ length: blocks }, async (_, index) => {
    const data = await operate.read(disk, block, index * block)
    return data.equals(Buffer.alloc(block, 1 + (index % 255)))
  })
  const others = Array.from({ length: 100 }, (_, index) => [
    operate.flush(disk),
    operate.cache(disk, MIB, 0),
    operate.trim(disk, block, 2 * MIB + index * block),
    operate.zero(disk, block, 3 * MIB + index * block, index % 2 ? KEEP : PUNCH),
  ]).flat()
  expect(await Promise.all(reads)).toEqual(Array.from({ length: blocks }, () => true))
  await Promise.all(others)
  expect(disk.lane.running).toBe(0)
  expect(disk.lane.head).toBeUndefined()
})

describe('A flush that comes while another one is under way', () => {
  /** Every way in which a file is changed, and what changes nothing. */
  const between: readonly [what: string, syncs: number, act: (disk: FileDisk) => unknown][] = [
    ['nothing', 1, () => {}],
    ['a read', 1, disk => operate.read(disk, 4096, 0)],
    ['CACHE', 1, disk => operate.cache(disk, 4096, 0)],
    ['a write at once', 2, disk => fileOperations.pwriteNow(disk, PATTERN, 0, 4096, 0)],
    ['a write', 2, disk => operate.write(disk, PATTERN.subarray(0, 4096), 0)],
    ['a trim', 2, disk => operate.trim(disk, 4096, 0)],
    ['a zero', 2, disk => operate.zero(disk, 4096, 0, KEEP)],
  ]

  test.each(between)('and after %s, needs %i syncs', async (_what, syncs, act) => {
    const disk = newDisk(makeDirectory())
    const ends: (() => void)[] = []
    const sync = vi.spyOn(fdatasync, 'async').mockImplementation((_fd, done) => {
      ends.push(() => done(null, 0))
    })
    onTestFinished(() => sync.mockRestore())
    const first = operate.flush(disk)
    expect(ends).toHaveLength(1)
    await act(disk)
    let isOver = false
    const second = operate.flush(disk).then(() => {
      isOver = true
    })
    ends.shift()?.()
    await first
    expect([isOver, sync.mock.calls.length]).toEqual([syncs === 1, syncs])
    ends.shift()?.()
    await second
  })
})

test('A flush of a disk that nothing outlives is over at once', async () => {
  const path = join(makeDirectory(), 'disk')
  writeFileSync(path, 'x')
  const disk = openDisk(path, 1, { durable: false })
  expect(fileOperations.flush(disk, { complete: () => {} })).toBeUndefined()
  await settled(completion => fileOperations.flush(disk, completion))
})

test('CACHE brings a range into the page cache', async () => {
  const disk = await uncachedDisk(4 * MIB)
  await operate.cache(disk, 64 * KIB, MIB)
  await expect.poll(() => cachedBytes(disk)).toBeGreaterThanOrEqual(64 * KIB)
  expect(fileOperations.preadNow(disk, Buffer.alloc(64 * KIB), 0, 64 * KIB, MIB)).toBe(64 * KIB)
})
