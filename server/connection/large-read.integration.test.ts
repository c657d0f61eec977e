/** Large reads with others behind them: left to threads, and sent out of the buffer they were read into. */
import { randomBytes } from 'node:crypto'
import { setTimeout as pause, setImmediate as soon } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { failure, memoryBackend } from './test-backend.ts'
import {
  assemble,
  extendedRequest,
  FLAG,
  GO,
  goPayload,
  outcome,
  type RawClient,
  READ,
  request,
  takeSimple,
  takeStructured,
  type Wishes,
} from './test-client.ts'
import { MIB, serve } from './test-server.ts'
import { makeCertificates, serveTls } from './test-tls.ts'

makeCertificates()

const KIB = 1024
const LARGE = 128 * KIB
const COUNT = 24

/** Random, but for runs of zeroes here and there. */
const data = randomBytes(4 * MIB)
data.fill(0, MIB, MIB + 200 * KIB)
data.fill(0, 2 * MIB - 4096, 2 * MIB)

/** A backend whose data is all there at once, and which tells how it was asked for. */
function countingBackend() {
  const asked = { now: 0, later: 0 }
  const order: (keyof typeof asked)[] = []
  const backend = memoryBackend(data, {
    preadNow: (_, target, start, length, offset) => {
      asked.now++
      order.push('now')
      return data.copy(target, start, offset, offset + length)
    },
    pread: async (_, target, start, length, offset) => {
      asked.later++
      order.push('later')
      await soon()
      if (offset === 3 * MIB) throw failure('EIO')
      data.copy(target, start, offset, offset + length)
    },
  })
  return { backend, asked, order }
}

const rangeOf = (cookie: number) => ({ offset: cookie * 100_000, length: LARGE + cookie * 4097 })

/** Takes COUNT replies in whatever order; returns the data by cookie. */
async function takeAll(client: RawClient, { structured, extended }: Wishes): Promise<Map<number, Buffer>> {
  const found = new Map<number, Buffer>()
  while (found.size < COUNT) {
    if (structured || extended) {
      const chunks = await takeStructured(client)
      const cookie = Number(chunks[0]?.cookie)
      const { offset, length } = rangeOf(cookie)
      found.set(cookie, assemble(chunks, offset, length))
    } else {
      const { error, cookie } = await takeSimple(client)
      expect(error).toBe(0)
      found.set(Number(cookie), await client.take(rangeOf(Number(cookie)).length))
    }
  }
  return found
}

describe('A large read', () => {
  test('that is alone is answered at once', async () => {
    const { backend, asked } = countingBackend()
    const server = await serve({ backend })
    const client = await server.attached()
    for (let round = 0; round < 3; round++) {
      client.send(request(READ, { offset: round, length: LARGE }))
      await takeSimple(client)
      expect((await client.take(LARGE)).equals(data.subarray(round, round + LARGE))).toBe(true)
    }
    expect(asked).toEqual({ now: 3, later: 0 })
  })

  test.each<[name: string, wishes: Wishes, flags: number]>([
    ['simple', {}, 0],
    ['structured', { structured: true }, 0],
    ['structured, in one chunk', { structured: true }, FLAG.DF],
    ['extended', { extended: true }, 0],
    ['extended, in one chunk', { extended: true }, FLAG.DF],
  ])('with others behind it goes to a thread, and its reply is whole: %s', async (_, wishes, flags) => {
    const { backend, asked } = countingBackend()
    const server = await serve({ backend })
    const client = await server.attached('disk', wishes)
    const make = wishes.extended ? extendedRequest : request
    const requests = Array.from({ length: COUNT }, (__, cookie) =>
      make(READ, { cookie, flags, ...rangeOf(cookie) }),
    )
    client.send(Buffer.concat(requests))
    const found = await takeAll(client, wishes)
    for (let cookie = 0; cookie < COUNT; cookie++) {
      const { offset, length } = rangeOf(cookie)
      expect(found.get(cookie)?.equals(data.subarray(offset, offset + length)), `read ${cookie}`).toBe(true)
    }
    expect(asked.later).toBeGreaterThan(4)
    expect(asked.now + asked.later).toBe(COUNT)
  })

  test('inside TLS stays on the loop, with others behind it as well, and its reply is whole', async () => {
    const { backend, asked } = countingBackend()
    const server = await serveTls({ backend })
    const client = await server.secured()
    await outcome(client, GO, goPayload('disk'))
    client.send(
      Buffer.concat(
        Array.from({ length: COUNT }, (__, cookie) => request(READ, { cookie, ...rangeOf(cookie) })),
      ),
    )
    const found = await takeAll(client, {})
    for (let cookie = 0; cookie < COUNT; cookie++) {
      const { offset, length } = rangeOf(cookie)
      expect(found.get(cookie)?.equals(data.subarray(offset, offset + length)), `read ${cookie}`).toBe(true)
    }
    expect(asked).toEqual({ now: COUNT, later: 0 })
  })

  test('stays on the loop where another connection has had such reads a moment before', async () => {
    const { backend, order } = countingBackend()
    const server = await serve({ backend })
    const clients = [await server.attached('one'), await server.attached('two')] as const
    const read = Buffer.concat(
      Array.from({ length: COUNT }, (__, cookie) => request(READ, { cookie, ...rangeOf(cookie) })),
    )
    const firstOf = async (client: RawClient) => {
      order.length = 0
      client.send(read)
      const found = await takeAll(client, {})
      const { offset, length } = rangeOf(7)
      expect(found.get(7)?.equals(data.subarray(offset, offset + length))).toBe(true)
      return order[0]
    }
    expect(await firstOf(clients[0])).toBe('later')
    expect(await firstOf(clients[1])).toBe('now')
    expect(await firstOf(clients[0])).toBe('now')
    await pause(150)
    expect(await firstOf(clients[0])).toBe('later')
  })

  test('that fails in a thread says so, and those before and behind it do not', async () => {
    const { backend } = countingBackend()
    const server = await serve({ backend })
    const client = await server.attached()
    const offsets = [MIB, 3 * MIB, 0]
    client.send(
      Buffer.concat(offsets.map((offset, cookie) => request(READ, { cookie, offset, length: LARGE }))),
    )
    const errors = new Map<bigint, number>()
    for (const __ of offsets) {
      const { error, cookie } = await takeSimple(client)
      errors.set(cookie, error)
      if (error !== 0) continue
      const offset = offsets[Number(cookie)] as number
      expect((await client.take(LARGE)).equals(data.subarray(offset, offset + LARGE))).toBe(true)
    }
    expect(Object.fromEntries(errors)).toEqual({ 0: 0, 1: 5, 2: 0 })
  })
})
