import { writeSync } from 'node:fs'
import { describe, expect, test, vi } from 'vitest'
import { Lingering } from '../linux/lingering.ts'
import { descriptorOf, READ, request, takeError, takeSimple, WRITE } from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const answered = vi.spyOn(Lingering.prototype, 'answered')

/** Has each lone request followed by a look for the next, and calls this each time before. */
function whileLooking(arrive: () => void): void {
  answered.mockClear()
  vi.spyOn(Lingering.prototype, 'until').mockImplementation(() => {
    arrive()
    return performance.now() + 1000
  })
}

const read = (cookie: number) => request(READ, { cookie, length: 512 })

describe('What comes while the next request of a client is looked for', () => {
  test('is answered before the event loop sleeps', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    let late: number[] = []
    whileLooking(() => {
      const cookie = late.shift()
      if (cookie !== undefined) writeSync(descriptorOf(client), read(cookie))
    })
    // Where another program has the processor for long, the turn is over before.
    while (answered.mock.calls.length === 0) {
      late = [2, 3]
      client.send(read(1))
      for (const cookie of [1n, 2n, 3n]) {
        expect(await takeSimple(client)).toEqual({ error: 0, cookie })
        await client.take(512)
      }
    }
  })

  test('may be the data of a WRITE whose header came alone, or a part of a header', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    const data = Buffer.alloc(5000, 7)
    const late = [data, read(2).subarray(0, 5)]
    whileLooking(() => {
      const bytes = late.shift()
      if (bytes !== undefined) writeSync(descriptorOf(client), bytes)
    })
    client.send(request(WRITE, { cookie: 1, length: data.length }))
    expect(await takeError(client)).toBe(0)
    client.send(read(2).subarray(5))
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 2n })
    expect((await client.take(512)).every(byte => byte === 7)).toBe(true)
  })

  test.each(['hangUp', 'reset'] as const)('may be the end: %s', async leave => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    whileLooking(() => client[leave]())
    client.send(read(1))
    await allGone(server)
  })

  test('does not keep others from their turn, however much it is', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    let sent = 0
    let isOver = false
    whileLooking(() => {
      if (isOver) return
      sent++
      writeSync(descriptorOf(client), read(sent))
    })
    client.send(read(0))
    client.socket.resume()
    const turns = await new Promise<number>(resolve => {
      let count = 0
      const turn = () => {
        if (++count === 20) resolve(count)
        else setImmediate(turn)
      }
      setTimeout(turn, 20)
    })
    isOver = true
    expect(turns).toBe(20)
    expect(sent).toBeGreaterThan(20)
  })
})
