/** The orderly end: what is under way finishes, what comes is refused, what was written is durable. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { HIDDEN_NAME } from '../backends/disks/directory.ts'
import { failure, gate, memoryBackend } from './test-backend.ts'
import {
  connectRaw,
  ERR,
  FLUSH,
  GO,
  goPayload,
  INFO,
  option,
  outcome,
  type RawClient,
  READ,
  request,
  takeError,
  takeOptionReplies,
  takeSimple,
  WRITE,
  write,
} from './test-client.ts'
import { holdings, MIB, serve } from './test-server.ts'

const ESHUTDOWN = 108
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

async function timed(work: Promise<unknown>): Promise<number> {
  const started = performance.now()
  await work
  return performance.now() - started
}

const lastOf = async (client: RawClient) => (await takeOptionReplies(client)).at(-1)

describe('A server that stops', () => {
  test('lets requests finish, refuses later ones, syncs, and hangs up', async () => {
    const operations = gate()
    const events: string[] = []
    const server = await serve({
      backend: memoryBackend(Buffer.alloc(MIB), {
        pwrite: (_h, _s, _st, _l, _o, completion) => operations.hold(completion),
        flush: () => {
          events.push('flush')
        },
        close: () => {
          events.push('close')
        },
      }),
    })
    const client = await server.attached()
    client.send(write(Buffer.alloc(512), { cookie: 1 }), write(Buffer.alloc(512), { cookie: 2 }))
    await expect.poll(() => operations.waiting.length).toBe(2)
    const stopped = server.server.stop()
    await pause(20)
    for (const [index, type] of [READ, FLUSH, 99].entries()) {
      client.send(request(type, { cookie: 3 + index, length: 512 }))
      expect(await takeSimple(client)).toEqual({ error: ESHUTDOWN, cookie: BigInt(3 + index) })
    }
    client.send(write(Buffer.alloc(100_000), { cookie: 9 }))
    expect(await takeSimple(client)).toEqual({ error: ESHUTDOWN, cookie: 9n })
    await pause(600)
    expect(events).toEqual([])
    operations.open()
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 1n })
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 2n })
    expect(await client.rest()).toHaveLength(0)
    client.hangUp()
    await stopped
    expect(events).toEqual(['flush', 'close'])
    expect(server.server.connections).toBe(0)
  })

  test('takes no more clients', async () => {
    const server = await serve()
    const client = await server.attached()
    const stopped = server.server.stop()
    await expect(connectRaw(server.port)).rejects.toThrow(/ECONNREFUSED/)
    client.hangUp()
    await stopped
  })

  test('is quick when nobody is there, and when clients leave', async () => {
    expect(await timed((await serve()).server.stop())).toBeLessThan(450)
    const server = await serve()
    const clients = await Promise.all([1, 2, 3].map(index => server.attached(`disk${index}`)))
    const stopped = timed(server.server.stop())
    for (const client of clients) client.hangUp()
    expect(await stopped).toBeLessThan(450)
  })

  test('does not wait for a client that has nothing under way, however many requests it still sends', async () => {
    const server = await serve()
    const [idle, chatty] = [await server.attached('idle'), await server.attached('chatty')]
    const sending = setInterval(() => chatty.send(request(READ, { length: 512 })), 1)
    const stopped = timed(server.server.stop())
    await Promise.all([idle.over, chatty.over])
    clearInterval(sending)
    for (const client of [idle, chatty]) client.hangUp()
    expect(await stopped).toBeLessThan(3000)
    expect(await idle.rest()).toHaveLength(0)
    const answers = await chatty.rest()
    expect(answers.subarray(-16, -8).toString('hex')).toBe('674466980000006c')
  })

  test('takes the rest of a WRITE whose payload is on its way', async () => {
    const server = await serve()
    const client = await server.attached()
    client.send(request(WRITE, { length: 10_000 }), Buffer.alloc(5000))
    await pause(20)
    const stopped = server.server.stop()
    await pause(600)
    client.send(Buffer.alloc(5000))
    expect(await takeError(client)).toBe(0)
    client.hangUp()
    await stopped
  })

  test('tells clients in their handshake', async () => {
    const server = await serve()
    const [asking, opening, leaving] = [
      await server.greeted(),
      await server.greeted(),
      await server.greeted(),
    ]
    const stopped = server.server.stop()
    expect(await outcome(asking, INFO, goPayload('disk'))).toMatchObject({ error: ERR.SHUTDOWN })
    opening.send(option(1, Buffer.from('disk')))
    expect(await opening.rest()).toHaveLength(0)
    expect(await outcome(leaving, 2)).toMatchObject({ type: 1 })
    for (const client of [asking, opening, leaving]) client.hangUp()
    await stopped
    expect(readdirSync(server.path).filter(name => name !== HIDDEN_NAME)).toEqual([])
  })

  test('does not give a disk to a client that waited for it', async () => {
    const server = await serve({ patience: 'unlimited' })
    const holder = await server.attached()
    const waiting = [await server.greeted(), await server.greeted()]
    for (const client of waiting) client.send(option(GO, goPayload('disk')))
    await pause(30)
    const stopped = timed(server.server.stop())
    for (const client of waiting) {
      expect(await lastOf(client)).toMatchObject({ error: ERR.SHUTDOWN })
      client.hangUp()
    }
    holder.hangUp()
    expect(await stopped).toBeLessThan(1000)
    expect(server.admission.size).toBe(0)
  })

  test('does not wait for a disk that is being made', async () => {
    const server = await serve({ recipe: { command: 'truncate -s 1M "$disk"; sleep 60' } })
    const client = await server.greeted()
    client.send(option(GO, goPayload('disk')))
    await pause(100)
    const stopped = timed(server.server.stop())
    expect(await lastOf(client)).toMatchObject({ error: ERR.SHUTDOWN })
    client.hangUp()
    expect(await stopped).toBeLessThan(1000)
    expect(readdirSync(server.path)).toEqual([HIDDEN_NAME])
  })

  test('syncs a disk before it is closed, also when its client leaves meanwhile', async () => {
    const flushes = gate()
    const events: string[] = []
    const server = await serve({
      backend: memoryBackend(Buffer.alloc(MIB), {
        flush: (_, completion) => {
          events.push('flush')
          return flushes.hold(completion)
        },
        close: () => {
          events.push('close')
        },
      }),
    })
    const client = await server.attached()
    const stopped = server.server.stop()
    await expect.poll(() => events, { timeout: 2000 }).toEqual(['flush'])
    client.reset()
    await pause(100)
    expect(events).toEqual(['flush'])
    flushes.open()
    await stopped
    await expect.poll(() => events).toEqual(['flush', 'close'])
  })

  test('says which disk could not be synced', async () => {
    const server = await serve({
      backend: memoryBackend(Buffer.alloc(MIB), { flush: () => Promise.reject(failure('EIO')) }),
    })
    const client = await server.attached('alice')
    const stopped = server.server.stop()
    await client.over
    client.hangUp()
    expect(await stopped).toEqual(['alice'])
    const line = server.log.find(({ level }) => level === 'error')
    expect(JSON.stringify(line)).toMatch(/alice/)
    expect(JSON.stringify(line)).toMatch(/EIO/)
  })

  test('leaves no descriptor, lock or socket file', async () => {
    const path = join((await serve()).path, 'socket')
    const server = await serve({ endpoints: [{ kind: 'unix', path }] })
    const before = holdings(server.path)
    const client = await connectRaw(path)
    await client.take(18)
    client.hangUp()
    await server.server.stop()
    await client.over
    client.socket.destroy()
    const after = holdings(server.path)
    expect(after).toMatchObject({ files: before.files, locks: before.locks })
    await expect(connectRaw(path)).rejects.toThrow(/ENOENT/)
  })

  test('may be told to stop twice', async () => {
    const server = await serve()
    const client = await server.attached()
    const stopped = [server.server.stop(), server.server.stop()]
    client.hangUp()
    await Promise.all(stopped)
  })
})
