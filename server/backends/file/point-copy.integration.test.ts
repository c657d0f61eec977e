/** Copies of one moment, of disks that are written meanwhile, on real file systems. */
import { execFileSync } from 'node:child_process'
import { closeSync, constants, fstatSync, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { cannotMount, makeDirectory } from '../disks/test-directory.ts'
import { CLUSTER } from './copy-before-write.ts'
import { type FileDisk, fileOperations } from './file-disk.ts'
import { type CopySource, copyOfNow } from './point-copy.ts'
import { openDisk, operate, PUNCH } from './test-disk.ts'
import { directoryOn } from './test-filesystem.ts'

vi.mock('./write-pressure.ts', () => ({ mayWriteNow: () => true, beginWrite: () => 0, endWrite: () => {} }))

const SIZE = 12 * CLUSTER + 700
const NEVER = new AbortController().signal

/** A disk with data, holes, and clusters that are half of each. */
function newDisk(directory: string): FileDisk {
  const path = join(directory, 'disk')
  writeFileSync(path, '')
  truncateSync(path, SIZE)
  const disk = openDisk(path, SIZE)
  for (const cluster of [0, 1, 4, 7, 12]) {
    const length = Math.min(cluster === 7 ? 5000 : CLUSTER, SIZE - cluster * CLUSTER)
    fileOperations.pwriteNow(disk, Buffer.alloc(length, cluster + 1), 0, length, cluster * CLUSTER)
  }
  return disk
}

const sourceOf = (disk: FileDisk): CopySource => ({
  fd: disk.fd,
  size: SIZE,
  answeredTrims: () => disk.trims.answeredDone(),
  changes: () => disk.changes,
  setBarrier(barrier) {
    disk.barrier = barrier
  },
})

function target(directory: string) {
  const path = join(directory, 'copy')
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC)
  onTestFinished(() => closeSync(fd))
  return { fd, path }
}

/** Lets what is under way go on a little. */
const turn = () => new Promise(resolve => setImmediate(resolve))

const change = fc.record({
  kind: fc.constantFrom('write', 'trim', 'zero'),
  offset: fc.oneof(
    fc.nat(SIZE - 1),
    fc.nat(12).map(cluster => cluster * CLUSTER),
  ),
  length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 3 * CLUSTER })),
  turns: fc.nat(6),
})

describe.each([
  ['the file system of the temporary directory', makeDirectory, 'copy'],
  ['ext4', () => directoryOn('ext4'), 'copy'],
  ['tmpfs', () => directoryOn('tmpfs'), 'copy'],
  ['xfs', () => directoryOn('xfs'), 'reflink'],
  ['btrfs', () => directoryOn('btrfs'), 'reflink'],
] as const)('On %s a copy', (what, make, method) => {
  test('is of the moment at which it began, whatever is written meanwhile', async context => {
    context.skip(!what.startsWith('the file') && cannotMount !== undefined, cannotMount)
    const directory = make()
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 12 }), async changes => {
        const disk = newDisk(directory)
        const before = readFileSync(join(directory, 'disk'))
        const { fd, path } = target(directory)
        let begun: () => void = () => {}
        const barrier = new Promise<void>(resolve => {
          begun = resolve
        })
        const copying = copyOfNow(
          {
            ...sourceOf(disk),
            setBarrier(next) {
              disk.barrier = next
              begun()
            },
          },
          fd,
          NEVER,
        )
        await barrier
        const written: Promise<void>[] = []
        for (const { kind, offset, length: wanted, turns } of changes) {
          const length = Math.min(wanted, SIZE - offset)
          for (let count = 0; count < turns; count++) await turn()
          if (kind === 'trim') written.push(operate.trim(disk, length, offset))
          else if (kind === 'zero') written.push(operate.zero(disk, length, offset, PUNCH))
          else written.push(operate.write(disk, Buffer.alloc(length, 0xff), offset))
        }
        const report = await copying
        await Promise.all(written)
        expect(report.size).toBe(SIZE)
        if (!what.startsWith('the file')) expect(report.method).toBe(method)
        expect(readFileSync(path).equals(before)).toBe(true)
        expect(Math.abs(fstatSync(fd).mtimeMs - report.at.getTime())).toBeLessThan(2)
        expect([disk.barrier, disk.changes]).toEqual([undefined, 0])
        execFileSync('rm', [path, join(directory, 'disk')])
      }),
      { numRuns: 12 },
    )
  })
})

test('holes of the disk are holes of the copy', async () => {
  const directory = makeDirectory()
  const disk = newDisk(directory)
  const { fd } = target(directory)
  await copyOfNow(sourceOf(disk), fd, NEVER)
  expect(fstatSync(fd).blocks).toBeLessThanOrEqual(fstatSync(disk.fd).blocks + 16)
})

test('writes that had begun are in the copy, and those that come while they last are not', async () => {
  const directory = makeDirectory()
  const disk = newDisk(directory)
  const { fd, path } = target(directory)
  // A change that is under way when the barrier comes: 16 MiB of queue in front of it would not make it later.
  const early = operate.write(disk, Buffer.alloc(CLUSTER, 0xaa), 0)
  const source = sourceOf(disk)
  let late: Promise<void> | undefined
  const copying = copyOfNow(
    {
      ...source,
      setBarrier(barrier) {
        source.setBarrier(barrier)
        late ??= operate.write(disk, Buffer.alloc(CLUSTER, 0xbb), 0)
      },
    },
    fd,
    NEVER,
  )
  await Promise.all([early, copying])
  await late
  expect(readFileSync(path).subarray(0, CLUSTER)).toEqual(Buffer.alloc(CLUSTER, 0xaa))
  expect(readFileSync(join(directory, 'disk')).subarray(0, CLUSTER)).toEqual(Buffer.alloc(CLUSTER, 0xbb))
})

test('what a disk that grows meanwhile gets behind its end is not in the copy', async () => {
  const directory = makeDirectory()
  const disk = newDisk(directory)
  const before = readFileSync(join(directory, 'disk'))
  const { fd, path } = target(directory)
  const source = sourceOf(disk)
  let late: Promise<unknown> | undefined
  await copyOfNow(
    {
      ...source,
      setBarrier(barrier) {
        source.setBarrier(barrier)
        if (late !== undefined) return
        truncateSync(join(directory, 'disk'), SIZE + 3 * CLUSTER)
        expect(fileOperations.sizeNow(disk)).toBe(SIZE + 3 * CLUSTER)
        const data = Buffer.alloc(CLUSTER, 0xcc)
        const places = [SIZE - 500, SIZE + 2 * CLUSTER]
        late = Promise.all(places.map(offset => operate.write(disk, data, offset)))
      },
    },
    fd,
    NEVER,
  )
  await late
  expect(readFileSync(path).equals(before)).toBe(true)
  expect([disk.barrier, disk.changes]).toEqual([undefined, 0])
})

test('a copy that is called off, or fails, ends soon, and no write fails or waits for it', async () => {
  const directory = makeDirectory()
  const disk = newDisk(directory)
  const { fd } = target(directory)
  const calledOff = new AbortController()
  const source = sourceOf(disk)
  const copying = copyOfNow(source, fd, calledOff.signal)
  const writes = [operate.write(disk, Buffer.alloc(3 * CLUSTER, 1), 5), operate.trim(disk, CLUSTER, 0)]
  calledOff.abort(new Error('called off'))
  await expect(copying).rejects.toThrow('called off')
  await Promise.all(writes)
  const readOnly = openSync(join(directory, 'disk'), constants.O_RDONLY)
  onTestFinished(() => closeSync(readOnly))
  const failing = copyOfNow(source, readOnly, NEVER)
  const more = operate.write(disk, Buffer.alloc(3 * CLUSTER, 2), 5)
  await expect(failing).rejects.toMatchObject({ code: 'EBADF' })
  await more
  expect([disk.barrier, disk.changes]).toEqual([undefined, 0])
})

test('a full file system fails the copy, and only that', async context => {
  context.skip(cannotMount !== undefined, cannotMount)
  const directory = makeDirectory()
  const disk = newDisk(directory)
  const small = directoryOn('tmpfs')
  writeFileSync(join(small, 'filler'), Buffer.alloc(63 * 2 ** 20))
  const { fd } = target(small)
  const copying = copyOfNow(sourceOf(disk), fd, NEVER)
  const writing = operate.write(disk, Buffer.alloc(3 * CLUSTER, 2), 0)
  await expect(copying).rejects.toMatchObject({ code: 'ENOSPC' })
  await writing
})

test('writes that do not end in time call the copy off, and those that were held go on', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => {
    vi.useRealTimers()
  })
  const directory = makeDirectory()
  const disk = newDisk(directory)
  const { fd } = target(directory)
  let waits: () => void = () => {}
  const waiting = new Promise<void>(resolve => {
    waits = resolve
  })
  const copying = copyOfNow(
    {
      ...sourceOf(disk),
      changes() {
        waits()
        return 1
      },
    },
    fd,
    NEVER,
  )
  const refused = expect(copying).rejects.toMatchObject({ code: 'EAGAIN' })
  await waiting
  const held = operate.write(disk, Buffer.alloc(10), 0)
  await turn()
  vi.advanceTimersByTime(6000)
  await refused
  await held
})
