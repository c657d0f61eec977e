/** What a client is told when a backend fails, and that nobody else notices. */
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { FilledBackend } from '../backends/backend.ts'
import { failure, gate, memoryBackend } from './test-backend.ts'
import {
  BLOCK_STATUS,
  CACHE,
  ERR,
  errorOf,
  FLAG,
  FLUSH,
  GO,
  goPayload,
  INFO,
  outcome,
  READ,
  readSimple,
  request,
  TRIM,
  takeChunk,
  takeError,
  takeSimple,
  takeStructured,
  WRITE_ZEROES,
  write,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const [EPERM, EIO, ENOSPC, EOVERFLOW, ENOTSUP] = [1, 5, 28, 75, 95]
const STRUCTURED = { structured: true, allocation: true }

/** A server whose disks are this memory with these changes. */
async function faulty(changes: Partial<FilledBackend>, data = Buffer.alloc(MIB)) {
  return serve({ backend: memoryBackend(data, changes) })
}

/** The three ways in which an operation can fail. */
const WAYS = {
  throws: (error: unknown) => {
    throw error
  },
  rejects: (error: unknown) => Promise.reject(error),
  rejectsLater: async (error: unknown) => {
    await new Promise(resolve => setImmediate(resolve))
    throw error
  },
}

describe.each(Object.entries(WAYS))('An operation that %s', (_, fail) => {
  const backend = (error: unknown): Partial<FilledBackend> => {
    const operation = () => fail(error)
    const extents = () => fail(error) as never
    return {
      pread: operation,
      pwrite: operation,
      flush: operation,
      trim: operation,
      zero: operation,
      cache: operation,
      extents,
    }
  }

  test('is answered by its error, and the connection goes on', async () => {
    const server = await faulty(backend(failure('ENOSPC')))
    const client = await server.attached('disk', STRUCTURED)
    for (const type of [READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS]) {
      expect(await errorOf(client, request(type, { length: 512 })), `command ${type}`).toBe(ENOSPC)
    }
    expect(await errorOf(client, write(Buffer.alloc(512)))).toBe(ENOSPC)
    expect(await errorOf(client, write(Buffer.alloc(512), { flags: FLAG.FUA }))).toBe(ENOSPC)
    const failed = server.log.filter(({ message }) => message === 'Request failed')
    expect(failed).toHaveLength(8)
    expect(failed[0]?.fields).toMatchObject({ export: 'disk', command: 'READ', code: 'ENOSPC' })
  })

  test.each<[thrown: unknown, errno: number]>([
    [failure('EROFS'), EPERM],
    [failure('EDQUOT'), ENOSPC],
    [failure('ENOENT'), EIO],
    [failure('ERANGE'), EIO],
    [new Error('without a code'), EIO],
    ['a text', EIO],
    [null, EIO],
    [{ code: 28 }, EIO],
    [failure('ENOTSUP'), EIO],
    [failure('EOVERFLOW'), EIO],
  ])('with %s as its reason is %i on the wire', async (thrown, errno) => {
    const client = await (await faulty(backend(thrown))).attached('disk', STRUCTURED)
    for (const type of [FLUSH, READ]) {
      expect(await errorOf(client, request(type, { length: 512 }))).toBe(errno)
    }
  })
})

describe('Errors that mean something special', () => {
  test('ENOTSUP is for FAST_ZERO only', async () => {
    const client = await (await faulty({ zero: () => Promise.reject(failure('EOPNOTSUPP')) })).attached()
    const zeroes = { length: 512 }
    expect(await errorOf(client, request(WRITE_ZEROES, zeroes)), 'written instead').toBe(0)
    expect(await errorOf(client, request(WRITE_ZEROES, { ...zeroes, flags: FLAG.FAST_ZERO }))).toBe(ENOTSUP)
  })

  test('ENOTSUP for FAST_ZERO is an answer, and not in the log', async () => {
    const server = await faulty({ zero: () => Promise.reject(failure('ENOTSUP')) })
    const client = await server.attached()
    const fastZero = request(WRITE_ZEROES, { length: 512, flags: FLAG.FAST_ZERO })
    expect(await errorOf(client, fastZero)).toBe(ENOTSUP)
    expect(server.log.filter(({ message }) => message === 'Request failed')).toEqual([])
  })

  test('EOVERFLOW is for DF only', async () => {
    const client = await (await faulty({ pread: () => Promise.reject(failure('EOVERFLOW')) })).attached(
      'disk',
      STRUCTURED,
    )
    expect(await errorOf(client, request(READ, { length: 512 }))).toBe(EIO)
    expect(await errorOf(client, request(READ, { length: 512, flags: FLAG.DF }))).toBe(EOVERFLOW)
  })

  test('a text reaches the client with structured replies, cut where it is long', async () => {
    const server = await faulty({ flush: () => Promise.reject(failure('EIO', `Ä${'x'.repeat(9999)}`)) })
    const client = await server.attached('disk', STRUCTURED)
    client.send(request(FLUSH))
    const { payload } = await takeChunk(client)
    expect(payload.readUInt16BE(4)).toBe(payload.length - 6)
    expect(payload.toString('utf8', 6, 12)).toBe('Äxxxx')
    expect(payload.length).toBeLessThan(4096)
    const plain = await server.attached('other')
    expect(await errorOf(plain, request(FLUSH))).toBe(EIO)
  })
})

describe('A long READ whose disk fails in the middle', () => {
  const BAD = 5 * MIB + 4096
  const data = randomBytes(16 * MIB)
  const breaks = (asked: number) => ({
    pread: (_: unknown, target: Buffer, start: number, length: number, offset: number) => {
      if (offset <= asked && offset + length > asked) throw failure('EIO', 'A sector is gone.')
      data.copy(target, start, offset, offset + length)
    },
  })

  test('by simple replies: the connection ends, since success has been said', async () => {
    const server = await faulty(breaks(BAD), data)
    const client = await server.attached()
    client.send(request(READ, { length: 8 * MIB }))
    expect((await takeSimple(client)).error).toBe(0)
    const answer = await client.rest()
    expect(answer.length).toBeLessThan(8 * MIB)
    expect(answer.equals(data.subarray(0, answer.length))).toBe(true)
    await allGone(server)
  })

  test('by simple replies, at the very beginning: an error, and the connection goes on', async () => {
    const client = await (await faulty(breaks(100), data)).attached()
    expect(await errorOf(client, request(READ, { length: 8 * MIB }))).toBe(EIO)
    expect((await readSimple(client, MIB, 512)).equals(data.subarray(MIB, MIB + 512))).toBe(true)
  })

  test('by structured replies: good chunks, then an error, and the connection goes on', async () => {
    const client = await (await faulty(breaks(BAD), data)).attached('disk', STRUCTURED)
    client.send(request(READ, { length: 8 * MIB }))
    const chunks = await takeStructured(client)
    expect(chunks.at(-1)).toMatchObject({ type: 0x8001, done: true })
    expect(chunks.at(-1)?.payload.readUInt32BE(0)).toBe(EIO)
    for (const { payload } of chunks.slice(0, -1)) {
      const at = Number(payload.readBigUInt64BE(0))
      expect(payload.subarray(8).equals(data.subarray(at, at + payload.length - 8))).toBe(true)
    }
    expect(await errorOf(client, request(FLUSH))).toBe(0)
  })

  test('with DF: the one chunk is filled up, then comes the error', async () => {
    const client = await (await faulty(breaks(BAD), data)).attached('disk', STRUCTURED)
    client.send(request(READ, { flags: FLAG.DF, length: 8 * MIB }))
    const chunks = await takeStructured(client)
    expect(chunks.map(({ type, done }) => [type, done])).toEqual([
      [1, false],
      [0x8001, true],
    ])
    expect(chunks[0]?.payload).toHaveLength(8 + 8 * MIB)
    expect(chunks[0]?.payload.subarray(8, 8 + 5 * MIB).equals(data.subarray(0, 5 * MIB))).toBe(true)
    expect(await errorOf(client, request(FLUSH))).toBe(0)
  })
})

describe('A WRITE that fails in one of its parts', () => {
  test('fails as a whole, and the rest of its payload is drained', async () => {
    const written: number[] = []
    const server = await faulty(
      {
        pwrite: (_, _source, _start, length, offset) => {
          written.push(length)
          if (offset >= 2 * MIB) throw failure('ENOSPC')
        },
      },
      Buffer.alloc(16 * MIB),
    )
    const client = await server.attached()
    client.send(write(Buffer.alloc(8 * MIB), { cookie: 1, flags: FLAG.FUA }), request(FLUSH, { cookie: 2 }))
    expect(await takeSimple(client)).toEqual({ error: ENOSPC, cookie: 1n })
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 2n })
    expect(written.reduce((sum, length) => sum + length, 0)).toBeLessThan(8 * MIB)
  })

  test('whose flush fails for FUA is not acknowledged', async () => {
    const server = await faulty({ flush: () => Promise.reject(failure('EIO')) })
    const client = await server.attached()
    expect(await errorOf(client, write(Buffer.alloc(512)))).toBe(0)
    for (const bytes of [
      write(Buffer.alloc(512), { flags: FLAG.FUA }),
      request(TRIM, { flags: FLAG.FUA, length: 512 }),
      request(WRITE_ZEROES, { flags: FLAG.FUA, length: 512 }),
    ]) {
      expect(await errorOf(client, bytes)).toBe(EIO)
    }
  })
})

describe('FUA', () => {
  test.each([
    ['WRITE', write(Buffer.alloc(512), { flags: FLAG.FUA })],
    ['TRIM', request(TRIM, { flags: FLAG.FUA, length: 512 })],
    ['WRITE_ZEROES', request(WRITE_ZEROES, { flags: FLAG.FUA, length: 512 })],
  ])('%s is answered when the flush after it has ended', async (_, bytes) => {
    const flushes = gate()
    const events: string[] = []
    const note = (event: string) => () => {
      events.push(event)
    }
    const server = await faulty({
      pwrite: note('operation'),
      trim: note('operation'),
      zero: note('operation'),
      flush: (_handle, completion) => {
        events.push('flush')
        return flushes.hold(completion)
      },
    })
    const client = await server.attached()
    client.send(bytes)
    await expect.poll(() => flushes.waiting.length).toBe(1)
    expect(client.pending).toBe(0)
    expect(events).toEqual(['operation', 'flush'])
    flushes.open()
    expect(await takeError(client)).toBe(0)
  })

  test.each([
    ['READ', READ],
    ['CACHE', CACHE],
  ])('%s needs no flush', async (_, type) => {
    const server = await faulty({ flush: () => Promise.reject(failure('EIO')) })
    const client = await server.attached()
    expect(await errorOf(client, request(type, { flags: FLAG.FUA, length: 512 }))).toBe(0)
  })
})

describe('BLOCK_STATUS of a backend that answers nonsense', () => {
  test.each<[what: string, extents: unknown]>([
    ['nothing', []],
    ['lengths of 0', [{ length: 0, hole: false, zero: false }]],
    ['a negative length', [{ length: -5, hole: false, zero: false }]],
    ['no length', [{ hole: true }]],
    ['no list', null],
  ])('(%s) is an error, and the connection goes on', async (_, extents) => {
    const server = await faulty({ extents: () => extents as never })
    const client = await server.attached('disk', STRUCTURED)
    expect(await errorOf(client, request(BLOCK_STATUS, { length: 4096 }))).not.toBe(0)
    expect(await errorOf(client, request(FLUSH))).toBe(0)
  })

  test('(more than was asked for) is cut', async () => {
    const extents = () =>
      Array.from({ length: 5000 }, (_, index) => ({ length: 2 ** 33, hole: index % 2 === 0, zero: false }))
    const client = await (await faulty({ extents })).attached('disk', STRUCTURED)
    client.send(request(BLOCK_STATUS, { length: MIB }))
    const { payload } = await takeChunk(client)
    expect(payload).toHaveLength(12)
    expect(payload.readUInt32BE(4)).toBe(MIB)
  })
})

describe('A disk that cannot be opened', () => {
  test.each<[what: string, changes: Partial<FilledBackend>]>([
    ['open throws', { open: () => WAYS.throws(failure('EACCES')) }],
    ['open rejects', { open: () => Promise.reject(failure('EMFILE')) }],
    ['open rejects with nothing', { open: () => Promise.reject(undefined) }],
    ['its size is unknown', { getSize: () => Promise.reject(failure('EIO')) }],
  ])('(%s) gives its place back', async (_, changes) => {
    const server = await faulty(changes)
    await expect(server.attached()).rejects.toThrow(/GO failed/)
    expect(server.admission.size).toBe(0)
  })

  test.each([
    ['EBUSY', ERR.POLICY],
    ['EACCES', ERR.POLICY],
    ['EPERM', ERR.POLICY],
    ['ESHUTDOWN', ERR.SHUTDOWN],
    ['ENOENT', ERR.UNKNOWN],
    ['EIO', ERR.UNKNOWN],
  ])('as its backend fails with %s is refused as the protocol says that', async (code, error) => {
    const open = () => Promise.reject(failure(code, 'No.'))
    const server = await faulty({ open, probe: open })
    const client = await server.greeted()
    for (const type of [INFO, GO])
      expect(await outcome(client, type, goPayload('disk'))).toMatchObject({ error })
  })

  test('that cannot be closed gives its place back all the same', async () => {
    const server = await faulty({ close: () => Promise.reject(failure('EIO')) })
    const client = await server.attached()
    client.hangUp()
    await allGone(server)
    expect(server.admission.size).toBe(0)
    expect(server.log.some(({ level, message }) => level === 'error' && /closed/.test(message))).toBe(true)
  })
})

test('A request that never ends does not keep others of its connection from being answered', async () => {
  const reads = gate()
  const server = await faulty({ pread: (_h, _t, _s, _l, _o, completion) => reads.hold(completion) })
  const client = await server.attached()
  client.send(request(READ, { length: 512 }))
  expect(await errorOf(client, request(FLUSH, { cookie: 2 }))).toBe(0)
  reads.open(failure('EIO'))
  expect(await takeError(client)).toBe(EIO)
})
