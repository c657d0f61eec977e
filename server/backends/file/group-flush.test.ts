import { execFileSync } from 'node:child_process'
import { closeSync, constants, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import koffi from 'koffi'
import { expect, onTestFinished, test, vi } from 'vitest'
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

test('Flushes that wait at the same time are one sync, and the one that runs does not cover them', async () => {
  const { flush, syncs, lane } = setUp(openFile())
  const first = flush()
  expect(lane.running).toBe(1)
  const later = Array.from({ length: 50 }, flush)
  expect(syncs()).toBe(1)
  await first
  await Promise.all(later)
  expect(syncs()).toBe(2)
  expect(lane.running).toBe(0)
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
  const { flush } = setUp(fd)
  const all = [flush(), flush(), flush()]
  for (const one of all) await expect(one).rejects.toMatchObject({ code: 'EINVAL', syscall: 'fdatasync' })
  dup2(openFile(), fd)
  await expect(flush()).rejects.toMatchObject({ code: 'EINVAL' })
})
