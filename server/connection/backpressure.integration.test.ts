/** Clients that do not read their replies, or read them late. */
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { bytesLent } from './buffers.ts'
import { gate, memoryBackend } from './test-backend.ts'
import {
  assemble,
  errorOf,
  FLAG,
  FLUSH,
  type RawClient,
  READ,
  readSimple,
  request,
  takeSimple,
  takeStructured,
  write,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const soon = () => new Promise(resolve => setImmediate(resolve))
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const STRUCTURED = { structured: true }

/** Bytes in the buffers of this process, of which both client and server are part. */
const buffered = () => process.memoryUsage().arrayBuffers

/** Sends requests until the server takes no more of them. */
async function fillUp(client: RawClient, bytes: Buffer): Promise<number> {
  let sent = 0
  for (;;) {
    client.send(bytes)
    sent++
    for (let round = 0; round < 3; round++) await soon()
    if (client.socket.writableLength > 0) return sent
  }
}

const LONG = 12 * MIB

describe('A client that reads late', () => {
  test('gets every reply, also when the last part that the socket did not take was small', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    client.pause()
    for (let cookie = 0; cookie < 400; cookie++) {
      client.send(request(READ, { cookie, length: 30_000 }))
      // One at a time, so that each reply is sent by itself.
      await soon()
    }
    client.resume()
    for (let cookie = 0; cookie < 400; cookie++) {
      expect(await takeSimple(client)).toEqual({ error: 0, cookie: BigInt(cookie) })
      await client.take(30_000)
    }
  })

  test.each([
    ['simple', {}, 0],
    ['structured', STRUCTURED, 0],
    ['structured, with DF', STRUCTURED, FLAG.DF],
  ])('gets long READs whole (%s)', async (_, wishes, flags) => {
    const server = await serve({ size: LONG })
    const client = await server.attached('disk', wishes)
    const data = randomBytes(LONG)
    await errorOf(client, write(data))
    client.pause()
    for (let count = 0; count < 2; count++) client.send(request(READ, { flags, length: LONG }))
    await pause(50)
    client.resume()
    for (let count = 0; count < 2; count++) {
      if (wishes === STRUCTURED) {
        expect(assemble(await takeStructured(client), 0, LONG).equals(data)).toBe(true)
      } else {
        await takeSimple(client)
        expect((await client.take(LONG)).equals(data)).toBe(true)
      }
    }
  })

  test('in small portions gets everything, in pieces of all kinds', async () => {
    const server = await serve({ size: 4 * MIB })
    const client = await server.attached()
    const data = randomBytes(4 * MIB)
    await errorOf(client, write(data))
    const lengths = Array.from({ length: 60 }, (_, index) => 1 + ((index * 104_729) % (3 * MIB)))
    client.pause()
    for (const [cookie, length] of lengths.entries()) client.send(request(READ, { cookie, length }))
    const portions = setInterval(() => {
      client.resume()
      setImmediate(() => client.pause())
    }, 1)
    const answered = new Set<number>()
    while (answered.size < lengths.length) {
      const { error, cookie } = await takeSimple(client)
      expect(error).toBe(0)
      answered.add(Number(cookie))
      const length = lengths[Number(cookie)] as number
      expect((await client.take(length)).equals(data.subarray(0, length))).toBe(true)
    }
    clearInterval(portions)
  })
})

describe('A client that never reads', () => {
  test.each([
    ['512 bytes', 512, {}],
    ['100 kB', 100_000, {}],
    ['1 MiB', MIB, STRUCTURED],
    ['16 MiB', 16 * MIB, {}],
    ['16 MiB, structured', 16 * MIB, STRUCTURED],
  ])(
    'READs of %s: costs little memory, stalls nobody, and is gone when it leaves',
    async (_, length, wishes) => {
      const server = await serve({ size: 16 * MIB })
      const [other, client] = [await server.attached('other'), await server.attached('disk', wishes)]
      await errorOf(client, write(randomBytes(16 * MIB)))
      client.pause()
      const before = buffered()
      const lent = bytesLent()
      const count = Math.max(4, Math.ceil((20 * MIB) / length))
      client.send(Buffer.concat(Array.from({ length: count }, () => request(READ, { length }))))
      await pause(100)
      // At most a buffer of data and what the socket has not taken of one reply buffer.
      expect(bytesLent() - lent).toBeLessThan(3 * MIB)
      expect(buffered() - before).toBeLessThan(8 * MIB)
      for (let round = 0; round < 20; round++) {
        const started = performance.now()
        expect(await readSimple(other, 0, 4096)).toHaveLength(4096)
        expect(performance.now() - started).toBeLessThan(5000)
      }
      client.reset()
      await allGone(server, 1)
      expect(bytesLent()).toBe(lent)
      await server.attached('disk')
    },
  )

  test('is not read any more once its replies are stuck', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    client.pause()
    await fillUp(client, Buffer.concat(Array.from({ length: 1000 }, () => request(READ, { length: 60_000 }))))
    const before = buffered()
    await pause(100)
    expect(buffered() - before).toBeLessThan(4 * MIB)
  })
})

describe('A client whose disk is slow', () => {
  test('has so many requests waiting, and no more', async () => {
    const reads = gate()
    const backend = memoryBackend(Buffer.alloc(MIB), {
      pread: (_h, _t, _s, _l, _o, completion) => reads.hold(completion),
    })
    const server = await serve({ backend })
    const client = await server.attached()
    const lent = bytesLent()
    client.send(
      Buffer.concat(Array.from({ length: 5000 }, (_, cookie) => request(READ, { cookie, length: 512 }))),
    )
    await expect.poll(() => reads.waiting.length).toBeGreaterThan(500)
    await pause(50)
    expect(reads.waiting.length).toBeLessThanOrEqual(1024)
    expect(bytesLent() - lent).toBeLessThan(20 * MIB)
    const answered = new Set<bigint>()
    while (answered.size < 5000) {
      reads.open()
      while (client.pending >= 528) {
        answered.add((await takeSimple(client)).cookie)
        await client.take(512)
      }
      await soon()
    }
    expect(bytesLent()).toBe(lent)
  })

  test('has so many bytes waiting, and no more, for reading and for writing', async () => {
    for (const kind of ['read', 'write']) {
      const operations = gate()
      const backend = memoryBackend(Buffer.alloc(32 * MIB), {
        pread: (_h, _t, _s, _l, _o, completion) => operations.hold(completion),
        pwrite: (_h, _t, _s, _l, _o, completion) => operations.hold(completion),
      })
      const server = await serve({ backend })
      const client = await server.attached()
      const lent = bytesLent()
      const count = 100
      for (let cookie = 0; cookie < count; cookie++) {
        client.send(
          kind === 'read' ? request(READ, { cookie, length: MIB }) : write(Buffer.alloc(MIB), { cookie }),
        )
      }
      await expect.poll(() => operations.waiting.length).toBeGreaterThan(4)
      await pause(100)
      expect(bytesLent() - lent, kind).toBeLessThan(20 * MIB)
      let answered = 0
      while (answered < count) {
        operations.open()
        const length = kind === 'read' ? MIB : 0
        while (client.pending >= 16 + length) {
          expect((await takeSimple(client)).error).toBe(0)
          await client.take(length)
          answered++
        }
        await soon()
      }
      expect(bytesLent(), kind).toBe(lent)
      client.hangUp()
      await allGone(server)
    }
  })

  test('does not slow down another one', async () => {
    const flushes = gate()
    const server = await serve({
      backend: memoryBackend(Buffer.alloc(MIB), {
        open: name => ({ name }),
        flush: (handle, completion) =>
          (handle as { name: string }).name === 'slow' ? flushes.hold(completion) : undefined,
      }),
    })
    const slow = await server.attached('slow')
    slow.send(Buffer.concat(Array.from({ length: 3000 }, () => request(FLUSH))))
    await pause(30)
    const other = await server.attached('fast')
    const started = performance.now()
    for (let round = 0; round < 100; round++) expect(await errorOf(other, request(FLUSH))).toBe(0)
    expect(performance.now() - started).toBeLessThan(5000)
    const ending = setInterval(() => flushes.open(), 1)
    for (let count = 0; count < 3000; count++) await takeSimple(slow)
    clearInterval(ending)
  })
})
