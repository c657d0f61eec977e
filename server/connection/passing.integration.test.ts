/** Large reads of another server's disk that go from socket to socket, and all that can happen to them on their way. */
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { setImmediate as soon } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { createForwardBackend } from '../backends/forward/forward.ts'
import { type Asked, dataOf, failed, negotiateAsServer, scripted } from '../client/test-scripted-server.ts'
import { parseNbdUri } from '../client/uri.ts'
import { passages } from '../linux/passage.ts'
import { bytesLent } from './buffers.ts'
import { memoryBackend } from './test-backend.ts'
import {
  assemble,
  extendedRequest,
  FLAG,
  type RawClient,
  READ,
  request,
  takeError,
  takeSimple,
  takeStructured,
  type Wishes,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const SIZE = 4 * MIB
const LARGE = 256 * 1024
const COUNT = 24
const data = randomBytes(SIZE)

/** A server that forwards to the one at `uri`. */
const forwardTo = (uri: string) =>
  serve({
    connections: 4,
    backend: createForwardBackend({
      uri: parseNbdUri(uri),
      exportName: 'fixed',
      shared: false,
      retryMs: 20_000,
    }),
  })

/** The same behind one of ours that has `bytes`. */
async function forwarding(bytes: Buffer = data) {
  const upstream = await serve({ backend: memoryBackend(bytes), connections: 4 })
  return forwardTo(`nbd://127.0.0.1:${upstream.port}/disk`)
}

/** The same behind a scripted one, whose replies are simple or structured. */
async function forwardingToScript(
  replies: 'simple' | 'structured',
  answer: (asked: Asked, socket: Socket, connection: number) => void | Promise<void>,
) {
  const upstream = await scripted((socket, index) => {
    void negotiateAsServer(socket, { size: SIZE, replies }, asked => answer(asked, socket, index))
  })
  return forwardTo(upstream.uri)
}

const partOf = ({ offset, length }: { offset: number; length: number }, of: Buffer = data) =>
  of.subarray(offset, offset + length)
const simpleOf = (asked: Asked): Buffer =>
  Buffer.concat([Buffer.from(`6744669800000000${asked.cookie}`, 'hex'), partOf(asked)])

/** Different lengths, all of them large. */
const rangeOf = (cookie: number) => ({ offset: cookie * 100_000, length: LARGE + cookie * 4097 })

async function takeOne(client: RawClient, { structured, extended }: Wishes) {
  if (structured || extended) {
    const chunks = await takeStructured(client)
    const cookie = Number(chunks[0]?.cookie)
    const { offset, length } = rangeOf(cookie)
    return { cookie, bytes: assemble(chunks, offset, length) }
  }
  const { error, cookie } = await takeSimple(client)
  expect(error).toBe(0)
  return { cookie: Number(cookie), bytes: await client.take(rangeOf(Number(cookie)).length) }
}

/** Asks for COUNT ranges at once and compares what comes. */
async function readAll(client: RawClient, wishes: Wishes = {}, flags = 0, of: Buffer = data): Promise<void> {
  const make = wishes.extended ? extendedRequest : request
  const requests = Array.from({ length: COUNT }, (_, cookie) =>
    make(READ, { cookie, flags, ...rangeOf(cookie) }),
  )
  client.send(Buffer.concat(requests))
  const found = new Set<number>()
  while (found.size < COUNT) {
    const { cookie, bytes } = await takeOne(client, wishes)
    expect(bytes.equals(partOf(rangeOf(cookie), of)), `read ${cookie}`).toBe(true)
    found.add(cookie)
  }
}

describe('A large read that is forwarded', () => {
  test.each<[name: string, wishes: Wishes, flags: number]>([
    ['simple', {}, 0],
    ['structured', { structured: true }, 0],
    ['structured, in one chunk', { structured: true }, FLAG.DF],
    ['extended', { extended: true }, 0],
  ])('goes past memory, and its reply is whole: %s', async (_, wishes, flags) => {
    const server = await forwarding()
    const client = await server.attached('disk', wishes)
    const before = passages.sent
    await readAll(client, wishes, flags)
    expect(passages.sent - before).toBeGreaterThan(COUNT / 2)
  })

  test.each(['simple', 'structured'] as const)('is whole where %s replies come in pieces', async replies => {
    const reply = replies === 'simple' ? simpleOf : (asked: Asked) => dataOf(asked, partOf(asked))
    let asked = 0
    const server = await forwardingToScript(replies, async (request, socket) => {
      const bytes = reply(request)
      const piece = 1 + ((asked++ * 7) % 48)
      for (let at = 0; at < 3 * piece; at += piece) {
        socket.write(bytes.subarray(at, at + piece))
        await soon()
      }
      socket.write(bytes.subarray(3 * piece, 100_000))
      await soon()
      socket.write(bytes.subarray(100_000))
    })
    const client = await server.attached()
    const before = passages.sent
    await readAll(client)
    expect(passages.sent - before).toBeGreaterThan(COUNT / 2)
  })

  test('is whole where there are holes in it, or it comes in two chunks', async () => {
    const sparse = Buffer.from(data)
    for (let at = 0; at < SIZE; at += 300_000) sparse.fill(0, at, at + 50_000)
    const server = await forwarding(sparse)
    await readAll(await server.attached('disk', { structured: true }), { structured: true }, 0, sparse)

    const inTwo = await forwardingToScript('structured', (asked, socket) => {
      const half = Math.floor(asked.length / 2)
      const first = dataOf(asked, data.subarray(asked.offset, asked.offset + half))
      // Not the last one.
      first[5] = 0
      const rest = { ...asked, offset: asked.offset + half, length: asked.length - half }
      socket.write(Buffer.concat([first, dataOf(rest, partOf(rest))]))
    })
    await readAll(await inTwo.attached())
  })

  test('fails where an error follows its data, and the next one does not', async () => {
    let asked = 0
    const server = await forwardingToScript('structured', (request, socket) => {
      const bytes = dataOf(request, partOf(request))
      if (asked++ > 0) {
        socket.write(bytes)
        return
      }
      bytes[5] = 0
      socket.write(Buffer.concat([bytes, failed(request, 5)]))
    })
    const client = await server.attached()
    client.send(request(READ, { length: LARGE }))
    expect(await takeError(client)).toBe(5)
    await readAll(client)
  })

  test.each([0, 10, 28, 1000, 200_000, LARGE + 27])(
    'is asked for again where the server dies after %i bytes of the reply',
    async sent => {
      let asked = 0
      const server = await forwardingToScript('structured', async (request, socket, connection) => {
        const bytes = dataOf(request, partOf(request))
        if (connection > 0 || asked++ < 3) {
          socket.write(bytes)
          return
        }
        if (asked > 4) return
        socket.write(bytes.subarray(0, sent))
        await soon()
        socket.resetAndDestroy()
      })
      await readAll(await server.attached())
    },
  )

  test('waits for a client that reads late, and is whole then', async () => {
    const server = await forwarding()
    const client = await server.attached()
    client.pause()
    const portions = setInterval(() => {
      client.resume()
      setImmediate(() => client.pause())
    }, 1)
    await readAll(client)
    await readAll(client)
    clearInterval(portions)
  })

  test('is whole with the replies of small requests between', async () => {
    const server = await forwarding()
    const client = await server.attached()
    for (let cookie = 0; cookie < 60; cookie++) {
      client.send(request(READ, { cookie, offset: cookie * 1000, length: cookie % 3 === 0 ? LARGE : 1000 }))
    }
    for (let count = 0; count < 60; count++) {
      const { error, cookie } = await takeSimple(client)
      expect(error).toBe(0)
      const length = Number(cookie) % 3 === 0 ? LARGE : 1000
      const bytes = await client.take(length)
      expect(bytes.equals(partOf({ offset: Number(cookie) * 1000, length })), `read ${cookie}`).toBe(true)
    }
  })

  test.each(['hangUp', 'reset'] as const)(
    'leaves nothing behind when its client does not read and leaves (%s)',
    async how => {
      const server = await forwarding()
      for (let round = 0; round < 5; round++) {
        const client = await server.attached()
        client.pause()
        for (let cookie = 0; cookie < COUNT; cookie++)
          client.send(request(READ, { cookie, ...rangeOf(cookie) }))
        for (let turn = 0; turn < 10 * round; turn++) await soon()
        client[how]()
        if (how === 'hangUp') client.resume()
      }
      await allGone(server)
      await vi.waitFor(() => expect(bytesLent()).toBe(0))
      // The pipes are there for others.
      const before = passages.sent
      await readAll(await server.attached())
      expect(passages.sent).toBeGreaterThan(before)
    },
  )
})
