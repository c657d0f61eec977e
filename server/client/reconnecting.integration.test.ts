/** Servers that go away and come back, and those that do not. */
import { randomBytes } from 'node:crypto'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { CMD, TRANSMISSION_FLAG } from '../protocol/constants.ts'
import type { NbdClient } from './client.ts'
import { BrokenServerError, ClosedError, ConnectionError, ExportChangedError } from './errors.ts'
import { backoff, connectReconnecting, type ReconnectOptions } from './reconnecting.ts'
import {
  ALL_FLAGS,
  type Asked,
  dataOf,
  done,
  failed,
  hex,
  negotiateAsServer,
  type Offer,
  scripted,
} from './test-scripted-server.ts'
import {
  fileAppears,
  freePort,
  makeFolder,
  needPrograms,
  startNbdkit,
  startOurs,
  startServer,
  type TestServer,
} from './test-servers.ts'

/** A server that plays each connection in its own way; the last way is kept. */
type Play = (asked: Asked, socket: Socket, connection: number) => Buffer | undefined
async function changing(
  offers: (connection: number) => Offer,
  answer: Play,
  options: ReconnectOptions = {},
  port = 0,
) {
  const asked: (Asked & { readonly connection: number })[] = []
  const server = await scripted((socket, connection) => {
    void negotiateAsServer(socket, offers(connection), request => {
      asked.push({ ...request, connection })
      const bytes = answer(request, socket, connection)
      if (bytes !== undefined) socket.write(bytes)
    })
  }, port)
  return { client: await connectReconnecting(server.uri, options), asked, server }
}

const answered: Play = asked =>
  asked.type === CMD.READ ? dataOf(asked, Buffer.alloc(asked.length, 9)) : done(asked)
/** The first connection breaks at the request of this number, the others work. */
const breakingAt = (number: number): Play => {
  let count = 0
  return (asked, socket, connection) => {
    if (connection > 0) return answered(asked, socket, connection)
    if (++count < number) return answered(asked, socket, connection)
    socket.resetAndDestroy()
    return undefined
  }
}

describe('A server is killed in the middle of mixed requests and started again, and nobody notices', () => {
  const SIZE = 8 * 2 ** 20
  const WORKERS = 16

  /** Writes, reads back and flushes in its own part of the disk until it is told to stop. Fails on any error. */
  async function work(
    client: NbdClient,
    worker: number,
    model: Buffer,
    isOver: () => boolean,
  ): Promise<number> {
    const part = SIZE / WORKERS
    const target = Buffer.alloc(part)
    let count = 0
    for (; !isOver(); count++) {
      const length = [1, 512, 4096, 5000, 65_536, 200_000][(worker + count) % 6] ?? 1
      const offset = worker * part + ((count * 7919) % (part - length))
      const source = randomBytes(length)
      await client.pwrite(source, 0, length, offset, { fua: count % 5 === 0 })
      source.copy(model, offset)
      await client.pread(target, 0, length, offset)
      if (!target.subarray(0, length).equals(source)) throw new Error(`Worker ${worker} read something else.`)
      if (count % 7 === 0) await client.flush()
      if (count % 11 === 0) {
        await client.zero(Math.min(length, 4096), offset)
        model.fill(0, offset, offset + Math.min(length, 4096))
      }
    }
    return count
  }

  const kinds: readonly (readonly [
    string,
    string,
    (folder: string, port: number, file: string) => Promise<TestServer>,
  ])[] = [
    ['nbdkit', 'nbdkit', (folder, port, file) => startNbdkit(folder, port, 'file', file)],
    [
      'qemu-nbd',
      'qemu-nbd',
      (folder, port, file) => {
        const pidFile = join(folder, 'pid')
        const place = ['-b', '127.0.0.1', '-p', String(port), `--pid-file=${pidFile}`]
        return startServer('qemu-nbd', ['-t', '-f', 'raw', ...place, file], fileAppears(pidFile))
      },
    ],
    [
      'our own server',
      process.execPath,
      (folder, port) =>
        startOurs(
          folder,
          `127.0.0.1:${port}`,
          '--size',
          String(SIZE),
          '--command',
          'truncate -s $size $disk',
        ),
    ],
  ]

  test.for(kinds)('%s', async ([, program, start], context) => {
    needPrograms(context, program)
    const folder = makeFolder()
    const file = join(folder, program === process.execPath ? 'default' : 'disk')
    if (program !== process.execPath) {
      writeFileSync(file, '')
      truncateSync(file, SIZE)
    }
    const port = await freePort()
    let server = await start(folder, port, file)
    let reconnected = Promise.withResolvers<void>()
    const client = await connectReconnecting(`nbd://127.0.0.1:${port}`, {
      onReconnected: () => reconnected.resolve(),
    })
    const model = Buffer.alloc(SIZE)
    let isOver = false
    const workers = Array.from({ length: WORKERS }, (_, worker) => work(client, worker, model, () => isOver))
    const all = Promise.all(workers)
    all.catch(() => undefined)
    for (let round = 0; round < (program === process.execPath ? 1 : 2); round++) {
      await Promise.race([all, delay(150)])
      reconnected = Promise.withResolvers()
      await server.kill('SIGKILL')
      server = await start(folder, port, file)
      await Promise.race([all, reconnected.promise])
    }
    await Promise.race([all, delay(150)])
    isOver = true
    for (const count of await all) expect(count).toBeGreaterThan(0)
    await client.flush()
    const read = Buffer.alloc(SIZE)
    await client.pread(read, 0, SIZE, 0)
    expect(read.equals(model)).toBe(true)
    await client.close()
    expect(readFileSync(file).equals(model)).toBe(true)
  })
})

describe('After a loss', () => {
  test('what was not answered is sent again, and nothing else', async () => {
    const { client, asked } = await changing(() => ({}), breakingAt(11))
    const writes = Array.from({ length: 30 }, (_, index) =>
      client.pwrite(Buffer.alloc(512, index), 0, 512, 512 * index),
    )
    await Promise.all(writes)
    const first = asked
      .filter(({ connection }) => connection === 0)
      .slice(0, 10)
      .map(({ offset }) => offset)
    const again = asked.filter(({ connection }) => connection === 1)
    expect(again).toHaveLength(20)
    for (const { offset, data } of again) {
      expect(first).not.toContain(offset)
      expect(data.equals(Buffer.alloc(512, offset / 512))).toBe(true)
    }
    await client.close()
  })

  test('a large write of which a part was sent arrives whole', async () => {
    const length = 2 ** 24
    const source = randomBytes(length)
    const data: Buffer[] = []
    const server = await scripted((socket, connection) => {
      void negotiateAsServer(socket, { size: 2 ** 25 }, asked => {
        data.push(asked.data)
        socket.write(done(asked))
      })
      let received = 0
      socket.on('data', (bytes: Buffer) => {
        received += bytes.length
        if (connection === 0 && received > 2 ** 20) socket.resetAndDestroy()
      })
    })
    const client = await connectReconnecting(server.uri)
    await client.pwrite(source, 0, length, 5)
    expect(data.map(bytes => bytes.equals(source))).toEqual([true])
    await client.close()
  })

  test('a read of which a part was received is read again', async () => {
    const { client } = await changing(
      () => ({}),
      (asked, socket, connection) => {
        if (connection > 0) return dataOf(asked, Buffer.alloc(asked.length, 2))
        socket.end(dataOf(asked, Buffer.alloc(asked.length, 1)).subarray(0, 200_000))
        return undefined
      },
    )
    const target = Buffer.alloc(300_000)
    await client.pread(target, 0, 300_000, 7)
    expect(target.equals(Buffer.alloc(300_000, 2))).toBe(true)
    await client.close()
  })

  test('extents that were told before are forgotten', async () => {
    const extents = (asked: Asked, count: number, isLast: boolean) => {
      const length = (4 + 8 * count).toString(16).padStart(8, '0')
      return hex(
        `668e33ef ${isLast ? '0001' : '0000'} 0005 ${asked.cookie} ${length} 00000007 ${'0000000100000000'.repeat(count)}`,
      )
    }
    const { client } = await changing(
      () => ({}),
      (asked, socket, connection) => {
        if (connection > 0) return extents(asked, 2, true)
        socket.end(extents(asked, 5, false))
        return undefined
      },
    )
    expect(await client.extents(100, 0)).toHaveLength(2)
    await client.close()
  })

  test('a server that was shutting down is asked again', async () => {
    const { client, asked } = await changing(
      () => ({}),
      (asked, socket, connection) =>
        connection === 0 ? failed(asked, 108) : answered(asked, socket, connection),
    )
    await Promise.all([client.flush(), client.cache(1, 0), client.cache(1, 1)])
    expect(asked.filter(({ connection }) => connection === 1)).toHaveLength(3)
    await client.close()
  })

  test('a server that does not answer any more is left, and asked again', async () => {
    const { client, server } = await changing(
      () => ({}),
      (asked, socket, connection) => (connection === 0 ? undefined : answered(asked, socket, connection)),
      { requestTimeout: 200 },
    )
    await client.cache(1, 0)
    expect(server.connections).toHaveLength(2)
    await client.close()
  })

  test('whoever answers at the port meanwhile is not believed', async () => {
    let connections = 0
    const server = await scripted((socket, connection) => {
      connections++
      if (connection === 1) {
        socket.end('HTTP/1.1 503 Service Unavailable\r\n\r\n')
        return
      }
      void negotiateAsServer(socket, {}, asked => {
        if (connection === 0) socket.destroy()
        else socket.write(done(asked))
      })
    })
    const client = await connectReconnecting(server.uri)
    await client.flush()
    expect(connections).toBe(3)
    await client.close()
  })

  test('its user is told', async () => {
    const lost: unknown[] = []
    const again: number[] = []
    const { client } = await changing(() => ({}), breakingAt(1), {
      onLost: error => lost.push(error),
      onReconnected: ms => again.push(ms),
    })
    await client.flush()
    expect(lost).toEqual([expect.any(ConnectionError)])
    expect(again).toHaveLength(1)
    expect(again[0]).toBeGreaterThan(10)
    await client.close()
  })
})

describe('An export that is not what it was is used no more', () => {
  const before: Offer = {
    size: 2 ** 20,
    blockSizes: [1, 4096, 2 ** 20],
    flags: ALL_FLAGS | TRANSMISSION_FLAG.CAN_MULTI_CONN,
  }
  const F = TRANSMISSION_FLAG
  test.for<[string, Offer]>([
    ['its size', { ...before, size: 2 ** 19 }],
    ['it may not be written', { ...before, flags: (before.flags ?? 0) | F.READ_ONLY }],
    ['it has no FLUSH', { ...before, flags: (before.flags ?? 0) & ~F.SEND_FLUSH }],
    ['it has no WRITE_ZEROES', { ...before, flags: (before.flags ?? 0) & ~F.SEND_WRITE_ZEROES }],
    ['several connections are not one', { ...before, flags: (before.flags ?? 0) & ~F.CAN_MULTI_CONN }],
    ['it has no extents', { ...before, replies: 'simple' }],
    ['its minimum block size', { ...before, blockSizes: [512, 4096, 2 ** 20] }],
    ['its maximum block size', { ...before, blockSizes: [1, 4096, 2 ** 19] }],
  ])('%s', async ([, after]) => {
    const { client, asked } = await changing(connection => (connection === 0 ? before : after), breakingAt(1))
    const write = client.pwrite(Buffer.alloc(512), 0, 512, 0)
    const second = client.cache(1, 0)
    await expect(write).rejects.toThrow(ExportChangedError)
    await expect(second).rejects.toMatchObject({ code: 'ESTALE' })
    await expect(client.pread(Buffer.alloc(1), 0, 1, 0)).rejects.toThrow(ExportChangedError)
    expect(asked.filter(({ connection }) => connection > 0)).toEqual([])
    await client.close()
  })

  test('but what it has grown by can be used, also when it is opened anew on request', async () => {
    const { client } = await changing(connection => ({ size: 2 ** (20 + connection) }), answered)
    const buffer = Buffer.alloc(512)
    await client.pread(buffer, 0, 512, 0)
    await expect(client.pread(buffer, 0, 512, 2 ** 20)).rejects.toMatchObject({ code: 'EINVAL' })
    client.renew()
    await client.pread(buffer, 0, 512, 0)
    expect(client.size).toBe(2 ** 21)
    await client.pread(buffer, 0, 512, 2 ** 20)
    await client.close()
  })

  test('but what it has gained does no harm', async () => {
    const { client } = await changing(
      connection => (connection === 0 ? { replies: 'simple', flags: 1 } : { replies: 'structured' }),
      (asked, socket, connection) => {
        if (connection > 0) return answered(asked, socket, connection)
        socket.destroy()
        return undefined
      },
    )
    await client.pread(Buffer.alloc(512), 0, 512, 0)
    await client.close()
  })
})

test('A refusal that is final ends all waiting', async () => {
  const seen: string[] = []
  const { client, server } = await changing(() => ({}), answered, {
    retryMs: 3_600_000,
    isFinal: error => seen.push(error.message) === 2,
  })
  await server.stop()
  await expect(client.pread(Buffer.alloc(512), 0, 512, 0)).rejects.toBeInstanceOf(ConnectionError)
  expect(seen).toHaveLength(2)
  await client.close()
})

describe('A server that does not come back', () => {
  test('fails what waits in time, then at once, until it comes back after all', async () => {
    const { client, server } = await changing(() => ({}), answered, { retryMs: 400 })
    await server.stop()
    const start = performance.now()
    const waiting = Array.from({ length: 5 }, () => client.pwrite(Buffer.alloc(1), 0, 1, 0))
    for (const write of waiting) {
      await expect(write).rejects.toMatchObject({
        name: 'ConnectionError',
        code: 'ETIMEDOUT',
        cause: { code: 'ECONNREFUSED' },
      })
    }
    expect(performance.now() - start).toBeGreaterThan(350)
    expect(performance.now() - start).toBeLessThan(8000)
    const later = performance.now()
    await expect(client.flush()).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    expect(performance.now() - later).toBeLessThan(300)
    await scripted(socket => {
      void negotiateAsServer(socket, {}, asked => {
        socket.write(done(asked))
      })
    }, server.port)
    await vi.waitFor(() => client.flush(), { timeout: 5000 })
    await client.close()
  })

  test('or only to go away again, fails what waits in time', async () => {
    const { client, server } = await changing(
      () => ({}),
      (_, socket) => {
        socket.destroy()
        return undefined
      },
      { retryMs: 600 },
    )
    const start = performance.now()
    await expect(client.flush()).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    expect(performance.now() - start).toBeLessThan(8000)
    // Later and later, so not very often.
    expect(server.connections.length).toBeLessThan(15)
    client.destroy()
  })

  test('because it breaks the protocol is not asked again', async () => {
    const { client, server } = await changing(
      () => ({}),
      () => Buffer.alloc(64, 0x5a),
    )
    await expect(client.flush()).rejects.toThrow(BrokenServerError)
    await expect(client.flush()).rejects.toThrow(BrokenServerError)
    await delay(150)
    expect(server.connections).toHaveLength(1)
    await client.close()
  })

  test('does not make others wait without bounds', async () => {
    const { client, server } = await changing(() => ({}), answered, { maxWaiting: 10, retryMs: 300 })
    await server.stop()
    await delay(60)
    const waiting = Array.from({ length: 10 }, () => client.cache(1, 0).catch((error: unknown) => error))
    await expect(client.cache(1, 0)).rejects.toMatchObject({ code: 'EAGAIN' })
    client.destroy()
    await Promise.all(waiting)
  })
})

describe('While it reconnects a client', () => {
  async function lost(options: ReconnectOptions = {}) {
    const all = await changing(() => ({}), answered, options)
    await all.server.stop()
    // Until it knows.
    const read = all.client.pread(Buffer.alloc(1), 0, 1, 0)
    read.catch(() => undefined)
    await delay(60)
    return { ...all, read }
  }

  test('is closed at once where nothing waits', async () => {
    const { client, server } = await changing(() => ({}), answered)
    await server.stop()
    await delay(60)
    await client.close()
    await expect(client.flush()).rejects.toThrow(ClosedError)
  })

  test('is closed when what waits is done', async () => {
    const { client, server, read } = await lost()
    const closed = client.close()
    await scripted(socket => {
      void negotiateAsServer(socket, {}, asked => {
        socket.write(dataOf(asked, Buffer.alloc(1)))
      })
    }, server.port)
    await Promise.all([read, closed])
  })

  test('is closed when what waits has waited long enough', async () => {
    const { client, read } = await lost({ retryMs: 300 })
    const closed = client.close()
    await expect(read).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    await closed
  })

  test('is destroyed at once', async () => {
    const { client, read } = await lost()
    client.destroy(new Error('Enough'))
    await expect(read).rejects.toThrow('Enough')
    await client.close()
  })

  test('is ended by its signal at once', async () => {
    const stop = new AbortController()
    const { client, read } = await lost({ signal: stop.signal })
    stop.abort(new Error('Stop'))
    await expect(read).rejects.toThrow('Stop')
    await expect(client.flush()).rejects.toThrow('Stop')
    await client.close()
  })

  test('is ended by its signal in the middle of a handshake', async () => {
    const stop = new AbortController()
    const server = await scripted((socket, connection) => {
      if (connection === 0) void negotiateAsServer(socket, {}, () => void socket.destroy())
    })
    const client = await connectReconnecting(server.uri, { signal: stop.signal })
    const flush = client.flush()
    await vi.waitFor(() => expect(server.connections).toHaveLength(2))
    stop.abort(new Error('Stop'))
    await expect(flush).rejects.toThrow('Stop')
    await client.close()
  })
})

describe('A FLUSH after a loss', () => {
  const losing: Play = (asked, socket, connection) => {
    if (connection > 0 || asked.type !== CMD.CACHE) return answered(asked, socket, connection)
    socket.destroy()
    return undefined
  }
  const one = Buffer.alloc(1)

  test('is believed, as with a server that only died nothing is lost', async () => {
    const { client } = await changing(() => ({}), losing)
    await client.pwrite(one, 0, 1, 0)
    await client.cache(1, 0)
    await client.flush()
    await client.close()
  })

  test('fails once where its user wants to be sure, and writes were acknowledged since the last', async () => {
    const { client } = await changing(() => ({}), losing, { strictFlush: true })
    await client.pwrite(one, 0, 1, 0)
    await client.cache(1, 0)
    await expect(client.flush()).rejects.toMatchObject({ code: 'EIO' })
    await client.flush()
    await client.close()
  })

  test('also where it was on its way itself', async () => {
    const { client } = await changing(
      () => ({}),
      (asked, socket, connection) => {
        if (connection > 0 || asked.type !== CMD.FLUSH) return answered(asked, socket, connection)
        socket.destroy()
        return undefined
      },
      { strictFlush: true },
    )
    await client.trim(1, 0)
    await expect(client.flush()).rejects.toMatchObject({ code: 'EIO' })
    await client.flush()
    await client.close()
  })

  test('does not fail where everything was durable', async () => {
    const { client } = await changing(() => ({}), losing, { strictFlush: true })
    await client.pwrite(one, 0, 1, 0)
    await client.flush()
    await client.pwrite(one, 0, 1, 0, { fua: true })
    await client.cache(1, 0)
    await client.flush()
    await client.close()
  })
})

test('Attempts come later and later, but not too late, and not all at the same time', () => {
  const delays = Array.from({ length: 10 }, (_, attempt) => [backoff(attempt, 0), backoff(attempt, 0.999)])
  expect(delays[0]?.[0]).toBe(25)
  expect(delays[0]?.[1]).toBeCloseTo(50, 0)
  expect(delays[3]?.[0]).toBe(200)
  expect(delays[9]?.[0]).toBe(1000)
  expect(delays[9]?.[1]).toBeLessThanOrEqual(2000)
  expect(backoff(1e9, 1)).toBe(2000)
})

test('A bad option is refused by its name', async () => {
  await expect(connectReconnecting('nbd://localhost:1', { retryMs: -1 })).rejects.toThrow(
    'The option retryMs is',
  )
})
