/** Trims that are answered before they end, on real files: what is written after the answer, flushed, copied and closed. */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Completion, PENDING } from '../backend.ts'
import { prepareRecipe } from '../disks/recipe.ts'
import { cannotMount, makeDirectory, openFilesIn } from '../disks/test-directory.ts'
import { context, setUp } from '../disks/test-setup.ts'
import { createTemporaryBackend, openTemporaryArea } from '../temporary/temporary.ts'
import { type FileDisk, fileOperations, lateTrimsOf, punchHole } from './file-disk.ts'
import { PIECE } from './pending-trims.ts'
import { copyOfNow } from './point-copy.ts'
import { KEEP, openDisk, operate, PUNCH } from './test-disk.ts'
import { directoryOn, loopDevice } from './test-filesystem.ts'

// What else this machine writes must not decide which way our writes take.
vi.mock('./write-pressure.ts', () => ({ mayWriteNow: () => true, beginWrite: () => 0, endWrite: () => {} }))

const MIB = 2 ** 20
const SIZE = 5 * PIECE
const DATA = Buffer.alloc(MIB, 0x55)

function fill(fd: number, size = SIZE): void {
  for (let at = 0; at < size; at += MIB) writeSync(fd, DATA, 0, MIB, at)
}

/** A disk full of data. */
function fullDisk(directory = makeDirectory()): FileDisk {
  const path = join(directory, 'disk')
  writeFileSync(path, '')
  truncateSync(path, SIZE)
  const disk = openDisk(path, SIZE)
  fill(disk.fd)
  return disk
}

interface Piece {
  readonly offset: number
  readonly length: number
  /** Punches it. */
  go(): void
}

/** Has the pieces of a disk's trims wait until they are let go. */
function holdPieces(disk: FileDisk) {
  const waiting: Piece[] = []
  let isOpen = false
  disk.trims = lateTrimsOf(
    (offset, length, done: Completion) => {
      const go = () => punchHole(disk, offset, length, done)
      if (isOpen) go()
      else waiting.push({ offset, length, go })
    },
    () => disk,
  )
  return {
    waiting,
    /** Lets the piece under way go, and waits for the next one. */
    async next() {
      const before = waiting.length
      waiting.at(-1)?.go()
      await vi.waitFor(() => expect(waiting.length > before || !disk.trims.isBusy).toBe(true))
    },
    open() {
      isOpen = true
      waiting.at(-1)?.go()
    },
  }
}

const contentOf = ({ fd }: FileDisk, length: number, offset: number): Buffer => {
  const content = Buffer.alloc(length, 0xee)
  for (let at = 0; at < length; ) at += readSync(fd, content, at, length - at, offset + at)
  return content
}
const isHole = (disk: FileDisk, start: number, end: number) =>
  contentOf(disk, end - start, start).equals(Buffer.alloc(end - start))
const allocated = ({ fd }: FileDisk) => fstatSync(fd).blocks * 512

const extentsOf = (disk: FileDisk, length: number, offset: number) =>
  fileOperations.extents(disk, length, offset, 10)

function watched(promise: Promise<unknown>) {
  const state = { isOver: false }
  void promise.then(() => {
    state.isOver = true
  })
  return state
}
/** Long enough for what would happen at once if it happened. */
const moment = () => new Promise(resolve => setTimeout(resolve, 30))

describe.each([
  ['the file system of the temporary directory', () => fullDisk()],
  ['tmpfs', () => fullDisk(directoryOn('tmpfs'))],
  ['xfs', () => fullDisk(directoryOn('xfs'))],
  [
    'a loop device',
    () => {
      const disk = openDisk(loopDevice(SIZE), undefined, { blockDevice: true })
      fill(disk.fd)
      return disk
    },
  ],
] as const)('A long trim on %s', (what, make) => {
  test('is answered before it ends; what is written then stays, and all else is a hole after a flush', async context => {
    context.skip(!what.startsWith('the file') && cannotMount !== undefined, cannotMount)
    const disk = make()
    const { waiting, open } = holdPieces(disk)
    await operate.trim(disk, SIZE, 0)
    expect(waiting.map(({ offset, length }) => [offset, length])).toEqual([[0, PIECE]])

    const data = Buffer.alloc(8192, 0xaa)
    const at = { underWay: PIECE / 2, pending: 3 * PIECE + 4096, zero: 2 * PIECE, inline: 4 * PIECE }
    // Nothing may go past what is pending, however quick it is.
    expect(fileOperations.pwriteNow(disk, data, 0, 4096, at.inline)).toBe(0)
    await operate.write(disk, data.subarray(0, 4096), at.inline)
    await operate.write(disk, data, at.pending)
    await operate.zero(disk, 65_536, at.zero, KEEP)
    const late = operate.write(disk, data, at.underWay)
    const flush = operate.flush(disk)
    // What has been answered looks done to all who read, and what has been written since is there at once.
    const [read, extents] = [
      operate.read(disk, 65_536, 3 * PIECE + 65_536),
      extentsOf(disk, PIECE, 4 * PIECE),
    ]
    expect(await operate.read(disk, 4096, at.inline)).toEqual(data.subarray(0, 4096))
    expect(fileOperations.preadNow(disk, Buffer.alloc(4096), 0, 4096, 3 * PIECE)).toBe(0)
    const ends = [late, flush, read, extents].map(watched)
    await moment()
    expect(ends.map(({ isOver }) => isOver)).toEqual([false, false, false, false])

    open()
    await Promise.all([late, flush])
    expect(await read).toEqual(Buffer.alloc(65_536))
    if (!disk.blockDevice) {
      expect(await extents).toMatchObject([
        { length: 4096, hole: false },
        { length: PIECE - 4096, hole: true },
      ])
    }
    const written: [number, number][] = [
      [at.underWay, 8192],
      [at.zero, 65_536],
      [at.pending, 8192],
      [at.inline, 4096],
    ]
    let hole = 0
    for (const [start, length] of written) {
      expect(isHole(disk, hole, start)).toBe(true)
      const byte = start === at.zero ? 0 : 0xaa
      expect(contentOf(disk, length, start).equals(Buffer.alloc(length, byte))).toBe(true)
      hole = start + length
    }
    expect(isHole(disk, hole, SIZE)).toBe(true)
    if (!disk.blockDevice) expect(allocated(disk)).toBeLessThan(MIB)
    expect([disk.changes, disk.exclusive, disk.lane.running]).toEqual([0, 0, 0])
  })
})

test('A disk that is written all the time while it is trimmed again and again loses nothing', async () => {
  const disk = fullDisk()
  const blocks = SIZE / 65_536
  const written = new Map<number, number>()
  const source = Buffer.alloc(4096)
  for (let round = 1; round <= 40; round++) {
    const start = (round % 3) * PIECE
    const trimming = operate.trim(disk, SIZE - start, start)
    if (round % 2) await trimming
    else await new Promise(resolve => setImmediate(resolve))
    // What is in flight with a trim may be lost to it, so that only what follows its answer counts.
    for (const block of written.keys()) if (block * 65_536 >= start) written.delete(block)
    await trimming
    const writes = Array.from({ length: 20 }, async (_, index) => {
      const block = (round * 7919 + index * 31) % blocks
      const byte = 1 + ((round + index) % 250)
      if (written.get(block) === -1) return
      written.set(block, -1)
      const data = Buffer.alloc(4096, byte)
      if (index % 2) await operate.write(disk, data, block * 65_536)
      else {
        source.fill(byte)
        const now = fileOperations.pwriteNow(disk, source, 0, 4096, block * 65_536)
        if (now < 4096) await operate.write(disk, data.subarray(now), block * 65_536 + now)
      }
      written.set(block, byte)
    })
    await Promise.all(writes)
    if (round % 5 === 0) await operate.flush(disk)
    for (const [block, byte] of written) {
      expect(contentOf(disk, 4096, block * 65_536).equals(Buffer.alloc(4096, byte)), `round ${round}`).toBe(
        true,
      )
    }
  }
  await disk.trims.settled()
  for (const [block, byte] of written) {
    expect(contentOf(disk, 4096, block * 65_536).equals(Buffer.alloc(4096, byte))).toBe(true)
  }
  expect([disk.changes, disk.exclusive]).toEqual([0, 0])
})

test('A trim of a sparse disk of terabytes is soon over, and one of nothing but holes frees nothing', async () => {
  const path = join(makeDirectory(), 'disk')
  writeFileSync(path, '')
  truncateSync(path, 2 ** 40)
  const disk = openDisk(path, 2 ** 40)
  await operate.trim(disk, 2 ** 40, 0)
  await operate.flush(disk)
  expect([allocated(disk), fstatSync(disk.fd).size]).toEqual([0, 2 ** 40])
})

describe('While a large range is punched', () => {
  test.each([
    ['zeroed', (disk: FileDisk) => operate.zero(disk, disk.size / 2, 0, PUNCH)],
    ['trimmed', (disk: FileDisk) => operate.trim(disk, disk.size / 2, 0)],
  ])('and is %s, writes and cold reads of the same file do not hold the event loop', async (_, punch) => {
    const size = 384 * MIB
    const target = Buffer.alloc(4096)

    /** The longest turn of the event loop as a share of the time for which the range is punched. */
    async function longestTurn(): Promise<number> {
      const path = join(makeDirectory(), 'disk')
      writeFileSync(path, '')
      truncateSync(path, size)
      const disk = openDisk(path, size)
      fill(disk.fd, size / 2)
      let isOver = false
      let longest = 0
      let reads = 0
      const startedAt = performance.now()
      let before = startedAt
      const punching = punch(disk).finally(() => {
        isOver = true
      })
      while (!isOver) {
        const offset = size / 2 + ((reads * 7919 * 4096) % (size / 2))
        expect(fileOperations.pwriteNow(disk, target, 0, 4096, offset)).toBe(0)
        if (reads < 32) void operate.read(disk, 4096, offset)
        expect(fileOperations.preadNow(disk, target, 0, 4096, offset)).toBe(0)
        reads++
        await new Promise(resolve => setImmediate(resolve))
        const now = performance.now()
        longest = Math.max(longest, now - before)
        before = now
      }
      await punching
      const share = longest / (performance.now() - startedAt)
      await disk.trims.settled()
      await vi.waitFor(() => expect(disk.readLane.running).toBe(0))
      expect(fileOperations.pwriteNow(disk, target, 0, 4096, 0)).toBe(4096)
      return share
    }

    // Others may have the processor for a while, but not each time; with the lock in its way, it is 0.9 each time.
    const shares: number[] = []
    do shares.push(await longestTurn())
    while (shares.length < 5 && Math.min(...shares) > 0.6)
    expect(Math.min(...shares)).toBeLessThan(0.6)
  })
})

test('A failing piece leaves the rest, and its EIO is told by the next flush alone', async () => {
  const disk = fullDisk()
  let pieces = 0
  let punchFirst = () => {}
  disk.trims = lateTrimsOf(
    (offset, length, done) => {
      pieces++
      if (pieces === 1) punchFirst = () => punchHole(disk, offset, length, done)
      else done.complete(Object.assign(new Error('lost'), { code: 'EIO' }))
    },
    () => disk,
  )
  await operate.trim(disk, SIZE, 0)
  const flush = operate.flush(disk)
  punchFirst()
  await expect(flush).rejects.toMatchObject({ code: 'EIO' })
  await operate.flush(disk)
  expect(pieces).toBe(2)
  expect(contentOf(disk, MIB, 2 * PIECE).equals(DATA)).toBe(true)
  await operate.write(disk, DATA, 2 * PIECE)
})

describe('A copy', () => {
  const sourceOf = (disk: FileDisk) => ({
    fd: disk.fd,
    size: SIZE,
    changes: () => disk.changes,
    setBarrier(barrier: FileDisk['barrier']) {
      disk.barrier = barrier
    },
  })
  const target = () => {
    const path = join(makeDirectory(), 'copy')
    const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT)
    onTestFinished(() => closeSync(fd))
    return { fd, path }
  }
  const NEVER = new AbortController().signal

  test('of a disk with pending trims waits for those that were answered', async () => {
    const disk = fullDisk()
    const { open } = holdPieces(disk)
    await operate.trim(disk, SIZE - PIECE, 0)
    const { fd, path } = target()
    const copying = copyOfNow(
      { ...sourceOf(disk), answeredTrims: () => disk.trims.answeredDone() },
      fd,
      NEVER,
    )
    open()
    await copying
    const copy = readFileSync(path)
    expect(copy.subarray(0, SIZE - PIECE).equals(Buffer.alloc(SIZE - PIECE))).toBe(true)
    expect(copy.subarray(SIZE - PIECE, SIZE - PIECE + MIB).equals(DATA)).toBe(true)
  })

  test('that comes upon a pending trim waits for its piece only, and finds nothing changing', async () => {
    const disk = fullDisk()
    // The pieces end when the copy has begun to hold changes.
    let punch = () => {}
    let pieces = 0
    disk.trims = lateTrimsOf(
      (offset, length, done) => {
        pieces++
        disk.changes++
        punch = () => {
          disk.changes--
          punchHole(disk, offset, length, done)
        }
      },
      () => disk,
    )
    await operate.trim(disk, SIZE, 0)
    await operate.write(disk, Buffer.alloc(4096, 0xaa), 2 * PIECE)
    const late = operate.write(disk, Buffer.alloc(4096, 0xbb), 0)
    const flush = operate.flush(disk)
    const { fd, path } = target()
    let held: Promise<void> | undefined
    const source = sourceOf(disk)
    await copyOfNow(
      {
        ...source,
        setBarrier(barrier) {
          // A piece that was in the thread pool when the copy began.
          if (barrier !== undefined) punch()
          source.setBarrier(barrier)
          held ??= operate.write(disk, Buffer.alloc(4096, 0xcc), 3 * PIECE)
        },
      },
      fd,
      NEVER,
    )
    await Promise.all([late, flush, held])
    expect(pieces).toBe(1)
    const copy = readFileSync(path)
    expect(copy.subarray(4096, PIECE).equals(Buffer.alloc(PIECE - 4096))).toBe(true)
    expect(copy.subarray(2 * PIECE, 2 * PIECE + 4096).equals(Buffer.alloc(4096, 0xaa))).toBe(true)
    expect(copy.subarray(3 * PIECE, 3 * PIECE + MIB).equals(DATA)).toBe(true)
    expect(contentOf(disk, 4096, 0).equals(Buffer.alloc(4096, 0xbb))).toBe(true)
    expect(contentOf(disk, 4096, 3 * PIECE).equals(Buffer.alloc(4096, 0xcc))).toBe(true)
    expect([disk.trims.isBusy, disk.changes, disk.exclusive, disk.barrier]).toEqual([false, 0, 0, undefined])
  })
})

describe('A disk that is closed while trims are pending', () => {
  async function opened() {
    const { path, backend } = await setUp({ size: SIZE })
    const disk = await backend.open('alice', context())
    fill(disk.fd)
    return { path, backend, disk, pieces: holdPieces(disk) }
  }
  const files = (path: string) => openFilesIn(path).filter(name => name.endsWith('/alice'))

  test('keeps its descriptor and its lock until they are done', async () => {
    const { path, backend, disk, pieces } = await opened()
    await operate.trim(disk, SIZE, 0)
    const closing = backend.close(disk)
    const state = watched(closing)
    await moment()
    expect([state.isOver, files(path).length]).toEqual([false, 1])
    await expect(backend.open('alice', context({ readOnly: true }))).rejects.toMatchObject({ code: 'EBUSY' })
    pieces.open()
    await closing
    expect(files(path)).toEqual([])
    const again = await backend.open('alice', context({ readOnly: true }))
    expect(allocated(again)).toBeLessThan(MIB)
    await backend.close(again)
  })

  test('is shared by who opens it meanwhile, whose writes stay, and closed once', async () => {
    const { path, backend, disk, pieces } = await opened()
    await operate.trim(disk, SIZE, 0)
    const closing = backend.close(disk)
    const other = await backend.open('alice', context())
    expect(other).toBe(disk)
    await operate.write(other, Buffer.alloc(4096, 0xaa), 2 * PIECE)
    await operate.trim(other, PIECE + 4096, 3 * PIECE)
    const last = backend.close(other)
    pieces.open()
    await Promise.all([closing, last])
    expect(files(path)).toEqual([])
    const content = readFileSync(join(path, 'alice'))
    expect(content.subarray(2 * PIECE, 2 * PIECE + 4096).equals(Buffer.alloc(4096, 0xaa))).toBe(true)
    expect(content.subarray(0, 2 * PIECE).equals(Buffer.alloc(2 * PIECE))).toBe(true)
  })

  test('stays open for who is there when they are done', async () => {
    const { path, backend, disk, pieces } = await opened()
    await operate.trim(disk, SIZE, 0)
    const closing = backend.close(disk)
    const other = await backend.open('alice', context())
    pieces.open()
    await closing
    expect(files(path).length).toBe(1)
    await operate.write(other, Buffer.alloc(4096, 0xaa), 0)
    await backend.close(other)
    expect(files(path)).toEqual([])
  })

  test('waits for the piece under way only where nobody will see it again', async () => {
    const path = makeDirectory()
    const area = await openTemporaryArea(path)
    onTestFinished(() => area.close())
    const recipe = await prepareRecipe({ command: 'truncate -s "$size" "$disk"' })
    const backend = createTemporaryBackend({ area, recipe, size: SIZE })
    const disk = await backend.open('any', context())
    fill(disk.fd)
    const { waiting } = holdPieces(disk)
    expect(fileOperations.trim(disk, SIZE, 0, { complete: () => {} })).toBe(PENDING)
    await moment()
    const closing = Promise.resolve(backend.close(disk))
    const state = watched(closing)
    await moment()
    const unnamed = () => openFilesIn(path).filter(name => name.endsWith('(deleted)')).length
    expect([state.isOver, unnamed()]).toEqual([false, 1])
    waiting.at(-1)?.go()
    await closing
    expect([waiting.length, unnamed()]).toEqual([1, 0])
  })
})
