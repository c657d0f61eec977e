import { join } from 'node:path'
import { expect, test } from 'vitest'
import { NO_LIMITS, type RateLimits } from '../access/rate-limit.ts'
import { makeDirectory } from '../backends/disks/test-directory.ts'
import {
  attach,
  connectRaw,
  DISC,
  errorOf,
  FLUSH,
  type RawClient,
  READ,
  readSimple,
  request,
  TRIM,
  takeError,
  takeSimple,
  write,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const KIB = 1024
const ESHUTDOWN = 108

/** Sends so many reads together, and returns the seconds until the last has been answered. */
async function readMany(client: RawClient, count: number, length: number): Promise<number> {
  const start = performance.now()
  for (let index = 0; index < count; index++) client.send(request(READ, { offset: 0, length }))
  for (let index = 0; index < count; index++) {
    expect((await takeSimple(client)).error).toBe(0)
    await client.take(length)
  }
  return (performance.now() - start) / 1000
}

/** Runs a client into a debt of minutes. */
async function indebt(client: RawClient): Promise<void> {
  await readSimple(client, 0, MIB)
  client.send(request(READ, { offset: 0, length: 1 }))
}

const SLOW: RateLimits = { readBytesPerSecond: KIB }

test('a client gets the bytes of its limit, and no more than a burst ahead', async () => {
  const server = await serve({ limits: { readBytesPerSecond: MIB } })
  const client = await server.attached()
  const seconds = await readMany(client, 12, 64 * KIB)
  // 12 requests less the burst of 4 and the last, which is paid for later, at 16 a second.
  expect(seconds).toBeGreaterThan(0.4)
  expect(seconds).toBeLessThan(4)
})

test('a client gets the requests of its limit, of whatever kind', async () => {
  const server = await serve({ limits: { iops: 50 } })
  const client = await server.attached()
  const start = performance.now()
  for (let index = 0; index < 11; index++) {
    client.send(request(FLUSH), request(TRIM, { length: 512 }), request(READ, { length: 0 }))
  }
  for (let index = 0; index < 33; index++) expect(await takeError(client)).toBe(0)
  const seconds = (performance.now() - start) / 1000
  // 33 less 12.5 and the last at 50 a second.
  expect(seconds).toBeGreaterThan(0.37)
  expect(seconds).toBeLessThan(4)
})

test('a request of any size passes as a whole, and reads and writes have their own limits', async () => {
  const server = await serve({ limits: { ...SLOW, writeBytesPerSecond: KIB } })
  const client = await server.attached()
  const start = performance.now()
  expect(await errorOf(client, write(Buffer.alloc(MIB, 7)))).toBe(0)
  expect((await readSimple(client, 0, MIB)).every(byte => byte === 7)).toBe(true)
  expect(await errorOf(client, request(FLUSH))).toBe(0)
  expect(performance.now() - start).toBeLessThan(5000)
  client.send(write(Buffer.alloc(1)))
  await expect(Promise.race([takeError(client), tick(300)])).resolves.toBe('nothing')
})

const tick = (ms: number) => new Promise(resolve => setTimeout(() => resolve('nothing'), ms))

test('all connections of a client share its limit, each in its turn, and others keep their latency', async () => {
  const socket = join(makeDirectory(), 'socket')
  const server = await serve({
    limits: { readBytesPerSecond: 2 * MIB },
    connections: 4,
    endpoints: [
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
      { kind: 'unix', path: socket },
    ],
  })
  const greedy = [await server.attached(), await server.attached(), await server.attached()]
  // Another client: it is known by its process and not by its address.
  const polite = await connectRaw(socket)
  await attach(polite, 'other')
  const all = Promise.all(greedy.map(client => readMany(client, 12, 64 * KIB)))
  const latencies: number[] = []
  for (let index = 0; index < 40; index++) {
    const start = performance.now()
    await readSimple(polite, 0, KIB)
    latencies.push(performance.now() - start)
    await tick(5)
  }
  const seconds = (await all).sort((one, other) => one - other)
  // 36 requests of all, less the burst of 8 and the last, at 32 a second.
  expect(seconds[2]).toBeGreaterThan(0.8)
  expect(seconds[2]).toBeLessThan(5)
  // Whoever came first had the burst; after that all take turns.
  expect(seconds[0]).toBeGreaterThan(0.2)
  expect(seconds[1]).toBeGreaterThan(0.7)
  latencies.sort((one, other) => one - other)
  // Were it one of those who share, it would wait for their turns of 30 ms each.
  expect(latencies[20]).toBeLessThan(60)
})

test('a client that comes back owes what it owed', async () => {
  const server = await serve({ limits: SLOW })
  const client = await server.attached()
  await readSimple(client, 0, MIB)
  client.hangUp()
  await allGone(server)
  const again = await server.attached()
  again.send(request(READ, { length: 1 }))
  await expect(Promise.race([takeSimple(again), tick(300)])).resolves.toBe('nothing')
})

test('other limits of a disk hold at once for those who have it open, also for who waits', async () => {
  let limits: RateLimits = NO_LIMITS
  const server = await serve({ around: catalog => ({ ...catalog, limits: () => limits }) })
  const client = await server.attached()
  await readSimple(client, 0, MIB)
  limits = SLOW
  server.server.enforceAccess()
  await indebt(client)
  const answer = takeSimple(client)
  await expect(Promise.race([answer, tick(200)])).resolves.toBe('nothing')
  const start = performance.now()
  limits = NO_LIMITS
  server.server.enforceAccess()
  expect((await answer).error).toBe(0)
  await client.take(1)
  expect(await readMany(client, 10, MIB)).toBeLessThan(5)
  expect(performance.now() - start).toBeLessThan(5000)
})

test('the limits of a disk count each disk by itself', async () => {
  const server = await serve({ around: catalog => ({ ...catalog, limits: () => SLOW }) })
  const client = await server.attached('one')
  await indebt(client)
  const other = await server.attached('two')
  const start = performance.now()
  await readSimple(other, 0, MIB)
  expect(performance.now() - start).toBeLessThan(5000)
})

test('a client that goes away while it is held back gives its disk back', async () => {
  const server = await serve({ limits: SLOW })
  const client = await server.attached()
  await indebt(client)
  await tick(50)
  client.reset()
  await allGone(server)
  expect(server.metrics.exports.of('disk').connections).toBe(0)
})

test('what a client sent before DISC is served, in its time', async () => {
  const server = await serve({ limits: { readBytesPerSecond: 256 * KIB } })
  const client = await server.attached()
  const reads = [64, 64, 64, 1].map(size => request(READ, { length: size * KIB }))
  client.send(...reads, request(DISC))
  expect((await client.rest()).length).toBe(4 * 16 + 193 * KIB)
})

test('a server that stops does not keep those waiting who are held back', async () => {
  const server = await serve({ limits: SLOW })
  const client = await server.attached()
  await indebt(client)
  client.send(request(FLUSH))
  await tick(50)
  const start = performance.now()
  const stopped = server.server.stop()
  expect([await takeError(client), await takeError(client)]).toEqual([ESHUTDOWN, ESHUTDOWN])
  expect(performance.now() - start).toBeLessThan(5000)
  client.hangUp()
  await stopped
})
