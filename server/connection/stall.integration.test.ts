/** One client's slow work must not hold up the event loop, which all others depend on. */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { describe, expect, test } from 'vitest'
import { fadvise } from '../linux/syscalls.ts'
import { memoryBackend } from './test-backend.ts'
import {
  BLOCK_STATUS,
  errorOf,
  FLAG,
  type RawClient,
  READ,
  readSimple,
  request,
  TRIM,
  takeChunk,
  takeSimple,
  WRITE_ZEROES,
  write,
} from './test-client.ts'
import { MIB, serve } from './test-server.ts'

const SIZE = 64 * MIB
const DONTNEED = 4
/** Milliseconds: far above what this machine's other work costs, far below what waiting for a disk costs all the time. */
const LIMIT = 500

/** Fills a file with data that is on the disk and not in the page cache. */
async function makeCold(path: string): Promise<void> {
  const fd = openSync(path, 'w')
  const data = Buffer.alloc(MIB, 1)
  for (let at = 0; at < SIZE; at += MIB) writeSync(fd, data, 0, MIB, at)
  fsyncSync(fd)
  await new Promise(resolve => fadvise.async(fd, 0, 0, DONTNEED, resolve))
  closeSync(fd)
}

/** Medians of the event loop's delay and of the latency of another client's small reads while `load` goes on, in ms. */
async function measure(other: RawClient, load: Promise<unknown>) {
  const delay = monitorEventLoopDelay({ resolution: 5 })
  let isOver = false
  void load.finally(() => {
    isOver = true
  })
  await readSimple(other, 0, 4096)
  delay.enable()
  const latencies: number[] = []
  while (!isOver) {
    const started = performance.now()
    await readSimple(other, 0, 4096)
    latencies.push(performance.now() - started)
  }
  delay.disable()
  await load
  latencies.sort((a, b) => a - b)
  return {
    delay: delay.percentile(50) / 1e6,
    latency: latencies[latencies.length >> 1] ?? 0,
    reads: latencies.length,
  }
}

async function cold(client: RawClient): Promise<void> {
  const count = 500
  for (let index = 0; index < count; index++) {
    client.send(request(READ, { length: 65_536, offset: ((index * 7919) % 1024) * 65_536 }))
  }
  for (let index = 0; index < count; index++) {
    await takeSimple(client)
    await client.take(65_536)
  }
}

async function flushes(client: RawClient): Promise<void> {
  for (let round = 0; round < 60; round++) {
    await errorOf(client, write(Buffer.alloc(4096, round), { offset: round * 65_536, flags: FLAG.FUA }))
  }
}

async function holes(client: RawClient): Promise<void> {
  for (let round = 0; round < 50; round++) {
    const range = { offset: round * MIB, length: 4 * MIB }
    await errorOf(client, request(TRIM, range))
    await errorOf(client, request(WRITE_ZEROES, { ...range, flags: FLAG.NO_HOLE }))
  }
}

async function extents(client: RawClient): Promise<void> {
  for (let round = 0; round < 10; round++) {
    client.send(request(BLOCK_STATUS, { length: SIZE }))
    await takeChunk(client)
  }
}

test('A deep queue of reads that the page cache does not serve leaves others their turn', async () => {
  const order: string[] = []
  const backend = memoryBackend(Buffer.alloc(MIB), {
    open: name => ({ name }),
    pread: handle => {
      order.push((handle as { name: string }).name)
      // What the kernel needs until the disk has been asked.
      for (const until = performance.now() + 0.1; performance.now() < until; );
    },
  })
  const server = await serve({ backend })
  const [deep, other] = [await server.attached('deep'), await server.attached('other')]
  deep.send(Buffer.concat(Array.from({ length: 64 }, () => request(READ, { length: 512 }))))
  other.send(request(READ, { length: 512 }))
  await takeSimple(other)
  expect(order).toContain('deep')
  expect(order.filter(name => name === 'deep').length).toBeLessThan(32)
  for (let count = 0; count < 64; count++) {
    await takeSimple(deep)
    await deep.take(512)
  }
})

describe('Another client is served while one', () => {
  test.each<[what: string, load: (client: RawClient) => Promise<void>]>([
    ['reads what is not in the page cache', cold],
    ['writes with FUA in a loop', flushes],
    ['punches and zeroes', holes],
  ])('%s', async (_, load) => {
    const server = await serve({ size: SIZE })
    await makeCold(join(server.path, 'slow'))
    const [slow, other] = [await server.attached('slow'), await server.attached('other')]
    const { delay, latency, reads } = await measure(other, load(slow))
    expect(delay, 'event loop delay').toBeLessThan(LIMIT)
    expect(latency, 'latency of another client').toBeLessThan(LIMIT)
    expect(reads).toBeGreaterThan(5)
  })

  test('asks for the extents of a fragmented file', async () => {
    const server = await serve({ size: SIZE })
    const fd = openSync(join(server.path, 'slow'), 'w')
    for (let at = 0; at < SIZE; at += 16_384) writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, at)
    closeSync(fd)
    const wishes = { structured: true, allocation: true }
    const [slow, other] = [await server.attached('slow', wishes), await server.attached('other')]
    const { delay, latency } = await measure(other, extents(slow))
    expect(Math.max(delay, latency)).toBeLessThan(LIMIT)
  })
})
