import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as setImmediatePromise } from 'node:timers/promises'
import koffi from 'koffi'
import { expect, onTestFinished, test, vi } from 'vitest'
import { isStayingAwake } from '../../linux/awake.ts'
import { fdatasync } from '../../linux/syscalls.ts'
import { makeDirectory } from '../disks/test-directory.ts'
import { diskQueue, Lane } from './disk-queue.ts'
import { GroupFlush } from './group-flush.ts'

const dup2 = koffi.load(null).func('int dup2(int from, int to)') as unknown as (
  from: number,
  to: number,
) => number

function openFile(): number {
  const path = join(makeDirectory(), 'file')
  writeFileSync(path, 'x')
  const fd = openSync(path, 'r+')
  onTestFinished(() => closeSync(fd))
  return fd
}

/** A descriptor that cannot be synced. */
function openFifo(): number {
  const path = join(makeDirectory(), 'fifo')
  execFileSync('mkfifo', [path])
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
  onTestFinished(() => closeSync(fd))
  return fd
}

function setUp(fd: number) {
  const lane = new Lane()
  const flushes = new GroupFlush(fd, lane)
  const syncs = vi.spyOn(diskQueue, 'submit')
  onTestFinished(() => syncs.mockRestore())
  const flush = () =>
    new Promise<void>((resolve, reject) => {
      flushes.request({ complete: error => (error === undefined ? resolve() : reject(error)) })
    })
  return { flushes, lane, flush, syncs: () => syncs.mock.calls.length }
}

test('Flushes that come while nothing changes are covered by the sync that runs', async () => {
  const { flush, syncs, lane } = setUp(openFile())
  const all = Array.from({ length: 50 }, flush)
  expect(lane.running).toBe(1)
  await Promise.all(all)
  expect(syncs()).toBe(1)
  expect(lane.running).toBe(0)
})

test('Flushes that come after a change wait for the next sync, and share it', async () => {
  const { flushes, flush, syncs, lane } = setUp(openFile())
  const ends: string[] = []
  const note = (what: string) => flush().then(() => ends.push(what))
  const covered = [note('before'), note('before')]
  flushes.changed()
  const later = Array.from({ length: 50 }, () => note('after'))
  await Promise.all(covered)
  expect(ends).toEqual(['before', 'before'])
  expect(syncs()).toBe(2)
  // The second sync has been made since the change: what comes now is covered by it.
  later.push(note('after'))
  await Promise.all(later)
  expect(syncs()).toBe(2)
  expect(lane.running).toBe(0)
})

test('A change that is made while a sync waits for its thread is covered by it', async () => {
  const lane = new Lane()
  const flushes = new GroupFlush(openFile(), lane)
  const queue = vi.spyOn(diskQueue, 'submit').mockImplementation(() => {})
  onTestFinished(() => queue.mockRestore())
  let ended = 0
  const request = () => flushes.request({ complete: () => ended++ })
  request()
  flushes.changed()
  request()
  expect([queue.mock.calls.length, ended]).toEqual([1, 0])
  queue.mockRestore()
  diskQueue.submit(lane, flushes)
  await expect.poll(() => ended).toBe(2)
})

test('Flushes that come one after the other are a sync each', async () => {
  const { flush, syncs } = setUp(openFile())
  for (let round = 0; round < 5; round++) await flush()
  expect(syncs()).toBe(5)
})

test('A flush that the end of another one asks for is a sync of its own', async () => {
  const { flushes, flush, syncs } = setUp(openFile())
  await new Promise<void>(resolve => {
    flushes.request({
      complete: () => {
        expect(syncs()).toBe(1)
        flushes.request({ complete: () => resolve() })
      },
    })
  })
  expect(syncs()).toBe(2)
  await flush()
  expect(syncs()).toBe(3)
})

test('A flush that failed is told to all who waited, and no later one claims success', async () => {
  const fd = openFifo()
  const { flushes, flush } = setUp(fd)
  const all = [flush(), flush()]
  flushes.changed()
  all.push(flush())
  for (const one of all) await expect(one).rejects.toMatchObject({ code: 'EINVAL', syscall: 'fdatasync' })
  dup2(openFile(), fd)
  await expect(flush()).rejects.toMatchObject({ code: 'EINVAL' })
})

/** Has syncs end after so many ms of a clock that only goes by them. Returns what sets it forward. */
function syncsLast(ms: number): (ms: number) => void {
  let now = 1000
  const forward = (by: number) => {
    now += by
  }
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => now)
  const sync = vi.spyOn(fdatasync, 'async').mockImplementation((_fd, done) => {
    setImmediate(() => {
      forward(ms)
      done(null, 0)
    })
  })
  onTestFinished(() => {
    sync.mockRestore()
    clock.mockRestore()
  })
  return forward
}

/** Flushes one after the other; for how many of them the loop stayed awake. */
async function awakeFor(
  flush: () => Promise<void>,
  count: number,
  forward: (ms: number) => void,
): Promise<number> {
  let awake = 0
  for (let index = 0; index < count; index++) {
    const ended = flush()
    if (isStayingAwake()) awake++
    await ended
    while (isStayingAwake()) {
      forward(1)
      await setImmediatePromise()
    }
  }
  return awake
}

test('The loop stays awake for syncs that are soon over, once there have been many', async () => {
  const { flush } = setUp(openFile())
  const forward = syncsLast(0.5)
  expect(await awakeFor(flush, 32, forward)).toBe(0)
  expect(await awakeFor(flush, 200, forward)).toBe(200)
})

test('The loop sleeps while a slow disk syncs, but for a trial', async () => {
  const { flush } = setUp(openFile())
  const forward = syncsLast(1)
  expect(await awakeFor(flush, 32 + 16 + 32, forward)).toBe(16)
})
