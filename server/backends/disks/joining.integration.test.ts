import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { lstat } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { OpenContext } from '../backend.ts'
import type { FileDisk } from '../file/file-disk.ts'
import { directoryOn } from '../file/test-filesystem.ts'
import { openDescriptor } from './descriptors.ts'
import { cannotMount, countDescriptors, makeDirectory } from './test-directory.ts'
import { context, MIB, setUp } from './test-setup.ts'

/** Keeps all threads of libuv's pool waiting, until the function that is returned is called or the test ends. */
function occupyThreadPool(): () => Promise<void> {
  const fifo = join(makeDirectory(), 'fifo')
  execFileSync('mkfifo', [fifo])
  const threads = Number(process.env.UV_THREADPOOL_SIZE ?? 4)
  const readers = Array.from({ length: threads }, () => openDescriptor(fifo, 'r'))
  const end = async () => {
    // For reading too, so that it waits for nobody itself.
    const writer = openSync(fifo, 'r+')
    for (const fd of [...(await Promise.all(readers)), writer]) closeSync(fd)
  }
  let ended: Promise<void> | undefined
  const release = () => {
    ended ??= end()
    return ended
  }
  onTestFinished(release)
  return release
}

describe.skipIf(cannotMount).for(['ext4', 'tmpfs'] as const)('A disk on %s', type => {
  async function openOne(options: Partial<OpenContext> = {}) {
    const { path, backend } = await setUp({ path: directoryOn(type) })
    const disks: FileDisk[] = []
    // Else the file system could not be unmounted.
    onTestFinished(async () => {
      for (const disk of disks) await backend.close(disk)
    })
    const open = async (more: Partial<OpenContext> = {}) => {
      const disk = await backend.open('alice', context({ ...options, ...more }))
      disks.push(disk)
      return disk
    }
    return { open, close: backend.close, file: join(path, 'alice'), first: await open() }
  }

  test.for([false, true])(
    'that is open is shared without the thread pool (to be read only: %s)',
    async readOnly => {
      const { open, close, first } = await openOne({ readOnly })
      const before = await countDescriptors()
      const release = occupyThreadPool()
      let isFree = false
      const queued = lstat('/').then(() => {
        isFree = true
      })
      const second = await open()
      await close(first)
      const third = await open()
      expect(isFree).toBe(false)
      expect(second).toBe(first)
      expect(third).toBe(first)
      await release()
      await queued
      await close(second)
      await close(third)
      expect(await countDescriptors()).toBe(before - 1)
    },
  )

  test('that is open has the size that its file has now', async () => {
    const { open, file } = await openOne()
    truncateSync(file, 3 * MIB)
    expect((await open()).size).toBe(3 * MIB)
  })

  test('that is open is not what has taken its name', async () => {
    const { open, file, first } = await openOne()
    renameSync(file, `${file}.old`)
    writeFileSync(file, 'other')
    const other = await open()
    expect([other === first, other.size]).toEqual([false, 5])
    rmSync(file)
    symlinkSync(`${file}.old`, file)
    await expect(open()).rejects.toMatchObject({ name: 'NotADiskError' })
    rmSync(file)
    execFileSync('mkfifo', [file])
    await expect(open()).rejects.toMatchObject({ name: 'NotADiskError' })
    rmSync(file)
    const made = await open()
    expect([made === first, made === other, made.size]).toEqual([false, false, MIB])
  })

  test('that is open is opened once more where its rights have changed, so that the kernel decides', async () => {
    const { open, file, first } = await openOne()
    chmodSync(file, 0o400)
    const release = occupyThreadPool()
    const opening = open()
    const soon = new Promise(resolve => setImmediate(resolve, 'waiting'))
    expect(await Promise.race([opening, soon])).toBe('waiting')
    await release()
    // Who may do everything may do that too.
    if (process.getuid?.() === 0) expect(await opening).toBe(first)
    else await expect(opening).rejects.toMatchObject({ code: 'EACCES' })
  })

  test('that is open is not given to a client that has gone, nor counted for it', async () => {
    const { open, close, first } = await openOne()
    await expect(open({ signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: 'CreationAbortedError',
    })
    await close(first)
    await expect(open()).resolves.not.toBe(first)
  })

  test('is opened once for all who come together, also if the first of them leaves', async () => {
    const { open, close, first } = await openOne()
    await close(first)
    // The request of that has gone then.
    await new Promise(setImmediate)
    const release = occupyThreadPool()
    const requests = () => process.getActiveResourcesInfo().filter(name => name.startsWith('FSReq')).length
    const before = requests()
    const leaving = new AbortController()
    const opening = Promise.allSettled([open({ signal: leaving.signal }), open(), open()])
    await new Promise(setImmediate)
    expect(requests() - before).toBe(1)
    leaving.abort()
    await release()
    const [left, one, other] = await opening
    expect(left).toMatchObject({ reason: { name: 'CreationAbortedError' } })
    expect(one).toMatchObject({ status: 'fulfilled' })
    expect(other).toEqual(one)
  })
})
