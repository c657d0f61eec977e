/** Large data of a backend that answers later: received and sent in the one buffer that it gets, and intact. */
import { randomBytes } from 'node:crypto'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { bytesLent, giveBuffer, MAX_DATA, takeBuffer } from './buffers.ts'
import { gate, memoryBackend } from './test-backend.ts'
import { errorOf, FLAG, READ, readSimple, request, takeSimple, takeStructured, write } from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const soon = () => new Promise(resolve => setImmediate(resolve))

/** What the backend was given to write. */
interface Written {
  readonly offset: number
  readonly bytes: Buffer
}

function recording(data: Buffer) {
  const written: Written[] = []
  const backend = memoryBackend(data, {
    pwrite: (_, source, start, length, offset) => {
      source.copy(data, offset, start, start + length)
      written.push({ offset, bytes: Buffer.from(source.subarray(start, start + length)) })
    },
  })
  return { backend, written }
}

describe('A WRITE', () => {
  test.each([32 * 1024, 100_000, 256 * 1024, MIB, 2 * MIB + 5000, 3 * MIB])(
    'of %i bytes reaches the disk as it was, however it is cut',
    async length => {
      const disk = Buffer.alloc(4 * MIB)
      const { backend } = recording(disk)
      const server = await serve({ backend })
      const client = await server.attached()
      const payload = randomBytes(length)
      const bytes = write(payload, { offset: 1000 })
      for (const cut of [1, 28, 29, 4000, 16_384, 16_412, length - 1]) {
        disk.fill(0)
        for (const part of [bytes.subarray(0, cut), bytes.subarray(cut)]) {
          client.send(part)
          await soon()
          await soon()
        }
        expect((await takeSimple(client)).error).toBe(0)
        expect(disk.subarray(1000, 1000 + length).equals(payload)).toBe(true)
      }
    },
  )

  test('that comes in pieces is given to the backend in one', async () => {
    const { backend, written } = recording(Buffer.alloc(MIB))
    const server = await serve({ backend })
    const client = await server.attached()
    const payload = randomBytes(256 * 1024)
    const bytes = write(payload)
    for (let at = 0; at < bytes.length; at += 10_000) {
      client.send(bytes.subarray(at, at + 10_000))
      await soon()
      await soon()
    }
    expect((await takeSimple(client)).error).toBe(0)
    // The first piece may be too little to know that there is much to come.
    expect(written.length).toBeLessThan(3)
    expect(Buffer.concat(written.map(({ bytes }) => bytes)).equals(payload)).toBe(true)
  })

  test('is followed by other requests in the same bytes', async () => {
    const disk = Buffer.alloc(4 * MIB)
    const { backend } = recording(disk)
    const server = await serve({ backend })
    const client = await server.attached()
    const payloads = Array.from({ length: 12 }, (_, index) => randomBytes(index % 2 ? 300_000 : 500))
    client.send(Buffer.concat(payloads.map((payload, index) => write(payload, { offset: index * 300_000 }))))
    for (const _ of payloads) expect((await takeSimple(client)).error).toBe(0)
    for (const [index, payload] of payloads.entries()) {
      expect((await readSimple(client, index * 300_000, payload.length)).equals(payload)).toBe(true)
    }
  })

  test('whose client vanishes in the middle is not written, and its memory is not used again', async () => {
    const { backend, written } = recording(Buffer.alloc(4 * MIB))
    const before = bytesLent()
    const server = await serve({ backend })
    const client = await server.attached()
    client.send(write(randomBytes(MIB)).subarray(0, 600_000))
    await vi.waitFor(() => expect(bytesLent()).toBeGreaterThan(before))
    client.socket.destroy()
    await allGone(server)
    expect(written).toEqual([])
    expect(bytesLent()).toBe(before)
  })

  test('of which half has come gets the other half though others use up all memory', async () => {
    const disk = Buffer.alloc(2 * MIB)
    const { backend } = recording(disk)
    const server = await serve({ backend })
    const client = await server.attached()
    const others = Array.from({ length: 513 }, () => takeBuffer(MAX_DATA))
    onTestFinished(() => others.forEach(giveBuffer))
    const payload = randomBytes(MIB + 5000)
    const bytes = write(payload)
    for (let at = 0; at < bytes.length; at += 500_000) {
      client.send(bytes.subarray(at, at + 500_000))
      await soon()
      await soon()
    }
    expect((await takeSimple(client)).error).toBe(0)
    expect(disk.subarray(0, payload.length).equals(payload)).toBe(true)
  })

  test('with FUA is the same', async () => {
    const disk = Buffer.alloc(MIB)
    const { backend } = recording(disk)
    const server = await serve({ backend })
    const client = await server.attached()
    const payload = randomBytes(500_000)
    expect(await errorOf(client, write(payload, { flags: FLAG.FUA }))).toBe(0)
    expect(disk.subarray(0, payload.length).equals(payload)).toBe(true)
  })
})

describe('A READ', () => {
  test.each([
    ['simple', {}, 0],
    ['structured', { structured: true }, 0],
    ['structured, with DF', { structured: true }, FLAG.DF],
  ])('of much data is intact though the client takes it late (%s)', async (_, wishes, flags) => {
    const disk = randomBytes(4 * MIB)
    disk.fill(0, 70_000, 200_000)
    const before = bytesLent()
    const server = await serve({ backend: memoryBackend(disk) })
    const client = await server.attached('disk', wishes)
    client.pause()
    for (let index = 0; index < 16; index++) {
      client.send(request(READ, { flags, cookie: index, offset: index * 250_000, length: 250_000 }))
    }
    for (let round = 0; round < 50; round++) await soon()
    client.resume()
    for (let index = 0; index < 16; index++) {
      const expected = disk.subarray(index * 250_000, (index + 1) * 250_000)
      if ('structured' in wishes) {
        const chunks = await takeStructured(client)
        const data = Buffer.alloc(expected.length)
        for (const chunk of chunks) {
          if (chunk.type !== 1) continue
          const at = Number(chunk.payload.readBigUInt64BE(0)) - index * 250_000
          chunk.payload.copy(data, at, 8)
        }
        expect(data.equals(expected)).toBe(true)
      } else {
        expect((await takeSimple(client)).cookie).toBe(BigInt(index))
        expect((await client.take(expected.length)).equals(expected)).toBe(true)
      }
    }
    await vi.waitFor(() => expect(bytesLent()).toBe(before))
  })

  test('that a client does not take gives its memory back when the client goes', async () => {
    const disk = randomBytes(4 * MIB)
    const before = bytesLent()
    const server = await serve({ backend: memoryBackend(disk) })
    const client = await server.attached()
    client.pause()
    for (let index = 0; index < 32; index++) client.send(request(READ, { length: MIB }))
    await vi.waitFor(() => expect(bytesLent()).toBeGreaterThan(before))
    client.socket.destroy()
    await allGone(server)
    await vi.waitFor(() => expect(bytesLent()).toBe(before))
  })
})

test('Requests that come together are told of when all have been started', async () => {
  const held = gate()
  const batches: number[] = []
  const server = await serve({
    backend: memoryBackend(Buffer.alloc(MIB), {
      pread: (_handle, _target, _start, _length, _offset, completion) => held.hold(completion),
      endBatch: () => {
        batches.push(held.waiting.length)
        held.open()
      },
    }),
  })
  const client = await server.attached()
  client.send(Buffer.concat(Array.from({ length: 5 }, () => request(READ, { length: 4096 }))))
  for (let index = 0; index < 5; index++) {
    expect((await takeSimple(client)).error).toBe(0)
    await client.take(4096)
  }
  expect(batches.reduce((sum, count) => sum + count)).toBe(5)
  expect(Math.max(...batches)).toBeGreaterThan(1)
})
