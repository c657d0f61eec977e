import { writeSync } from 'node:fs'
import { describe, expect, test, vi } from 'vitest'
import { nap } from '../linux/syscalls.ts'
import { Gathering, WAIT_US, WAIT_WITH_DATA_US } from './gathering.ts'
import { descriptorOf, READ, request, takeSimple } from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

vi.mock('../linux/syscalls.ts', { spy: true })

/** Tells of so many batches of equal size, `apart` ms from each other; returns how many of them were waited for. */
function waitsOver(
  gathering: Gathering,
  batches: number,
  requests: number,
  apart = 0.05,
  bytes = 28,
): number {
  let waited = 0
  for (let batch = 0; batch < batches; batch++) {
    if (gathering.micros > 0) waited++
    now += apart
    gathering.note(requests, requests * bytes, now)
  }
  return waited
}
let now = 0

describe('Waiting for more requests', () => {
  test('is kept where it brings many together, and given up when it no longer does', () => {
    const gathering = new Gathering()
    expect(gathering.micros).toBe(0)
    waitsOver(gathering, 64, 2)
    expect(gathering.micros).toBe(WAIT_US)
    expect(waitsOver(gathering, 1000, 12)).toBe(1000)
    waitsOver(gathering, 600, 1)
    expect(gathering.micros).toBe(0)
  })

  test('is shorter where they bring data', () => {
    const gathering = new Gathering()
    waitsOver(gathering, 2000, 12, 0.05, 4124)
    expect(gathering.micros).toBe(WAIT_WITH_DATA_US)
    waitsOver(gathering, 600, 12, 0.05, 28)
    expect(gathering.micros).toBe(WAIT_US)
  })

  test('is tried ever more seldom on a client with one request under way', () => {
    const waited = waitsOver(new Gathering(), 100_000, 1)
    expect(waited).toBeGreaterThan(0)
    expect(waited).toBeLessThan(100_000 / 400)
  })

  test('is not tried on a client that asks now and then', () => {
    expect(waitsOver(new Gathering(), 10_000, 20, 1)).toBe(0)
  })
})

/** Has every connection wait, and more bytes come in meanwhile by the client's descriptor. */
function whileWaiting(arrive: () => void): () => number {
  let waits = 0
  vi.mocked(nap).mockImplementation(() => {
    waits++
    arrive()
  })
  vi.spyOn(Gathering.prototype, 'note').mockImplementation(function (this: Gathering) {
    this.micros = WAIT_US
  })
  return () => waits
}

describe('What comes during the wait', () => {
  test('is answered together with what was there', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    let late = 0
    const waits = whileWaiting(() => {
      // A request and a half.
      if (late === 0)
        writeSync(descriptorOf(client), Buffer.concat([request(READ, { cookie: 3, length: 512 }), half(0)]))
      late++
    })
    const half = (which: number) =>
      request(READ, { cookie: 4, length: 512 }).subarray(which * 14, (which + 1) * 14)
    // The first one has no wait yet.
    client.send(request(READ, { cookie: 1, length: 512 }))
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 1n })
    await client.take(512)
    client.send(request(READ, { cookie: 2, length: 512 }))
    for (const cookie of [2n, 3n]) {
      expect(await takeSimple(client)).toEqual({ error: 0, cookie })
      await client.take(512)
    }
    expect(waits()).toBe(1)
    writeSync(descriptorOf(client), half(1))
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 4n })
    await client.take(512)
  })

  test('may be the end of the stream, or a reset', async () => {
    const server = await serve({ size: MIB })
    for (const leave of ['hangUp', 'reset'] as const) {
      const client = await server.attached()
      whileWaiting(() => client[leave]())
      client.send(request(READ, { cookie: 1, length: 512 }))
      await takeSimple(client)
      client.send(request(READ, { cookie: 2, length: 512 }))
      await allGone(server)
    }
  })
})
