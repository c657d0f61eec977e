/** The rules of the transmission phase, each as a test named after it. */
import { randomBytes } from 'node:crypto'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { memoryBackend } from './test-backend.ts'
import {
  ask,
  assemble,
  BLOCK_STATUS,
  CACHE,
  type Chunk,
  request as compactRequest,
  write as compactWrite,
  DISC,
  errorOf,
  extendedRequest,
  extendedWrite,
  FLAG,
  FLUSH,
  GO,
  goPayload,
  type RawClient,
  READ,
  readSimple,
  TRIM,
  takeChunk,
  takeError,
  takeSimple,
  takeStructured,
  u64,
  WRITE,
  WRITE_ZEROES,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const [OK, EPERM, EINVAL, ENOSPC] = [0, 1, 22, 28]
const STRUCTURED = { structured: true, allocation: true }
const EXTENDED = { extended: true, allocation: true }
const MODES = [
  ['simple replies', {}],
  ['structured replies', STRUCTURED],
  ['extended headers', EXTENDED],
] as const

describe.each(MODES)('With %s', (_, wishes) => {
  const isExtended = 'extended' in wishes
  const isSimple = !('allocation' in wishes)
  const request = isExtended ? extendedRequest : compactRequest
  const write = isExtended ? extendedWrite : compactWrite
  /** Bytes of a reply that says nothing but success. */
  const replyLength = isExtended ? 32 : 16

  async function read(client: RawClient, offset: number, length: number): Promise<Buffer> {
    if (isSimple) return readSimple(client, offset, length)
    client.send(request(READ, { offset, length }))
    return assemble(await takeStructured(client), offset, length)
  }

  test('what was written is read, also at odd places and to the last byte', async () => {
    const server = await serve()
    const client = await server.attached('disk', wishes)
    const model = Buffer.alloc(MIB)
    for (const [offset, length] of [
      [0, 1],
      [511, 3],
      [4095, 2],
      [10_000, 70_000],
      [MIB - 1, 1],
      [MIB - 5000, 5000],
    ] as const) {
      const data = randomBytes(length)
      data.copy(model, offset)
      expect(await errorOf(client, write(data, { offset }))).toBe(OK)
      expect((await read(client, offset, length)).equals(data)).toBe(true)
    }
    expect((await read(client, 0, MIB)).equals(model)).toBe(true)
    expect(readFileSync(join(server.path, 'disk')).equals(model)).toBe(true)
  })

  test('cookies come back as they were, all 64 bits', async () => {
    const client = await (await serve()).attached('disk', wishes)
    for (const cookie of [0n, 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n, 0x0102_0304_0506_0708n]) {
      client.send(request(FLUSH, { cookie }))
      const bytes = await client.take(replyLength)
      expect(bytes.readBigUInt64BE(8)).toBe(cookie)
    }
  })

  test.each<[what: string, type: number, flags: number]>([
    ['READ', READ, 0],
    ['TRIM', TRIM, 0],
    ['CACHE', CACHE, 0],
    ['WRITE_ZEROES', WRITE_ZEROES, 0],
    ['BLOCK_STATUS', BLOCK_STATUS, 0],
  ])('%s past the end fails and reads no payload', async (_what, type) => {
    const client = await (await serve()).attached('disk', wishes)
    const expected = type === WRITE_ZEROES ? ENOSPC : EINVAL
    for (const [offset, length] of [
      [MIB - 1, 2],
      [MIB, 1],
      [0, 0xffff_ffff],
      [2n ** 64n - 1n, 1],
      [2n ** 64n - 1n, 0xffff_ffff],
      [2n ** 63n, 512],
    ] as const) {
      expect(await errorOf(client, request(type, { offset, length }))).toBe(expected)
    }
    expect((await read(client, 0, 4)).equals(Buffer.alloc(4))).toBe(true)
  })

  const FAILED_WRITES: readonly [
    what: string,
    header: { offset?: number | bigint; flags?: number },
    length: number,
    error: number,
  ][] = [
    ['past the end', { offset: MIB - 1 }, 2, ENOSPC],
    ['far past the end', { offset: 2n ** 64n - 1n }, 100_000, ENOSPC],
    ['with an unknown flag', { flags: 0x8000 }, 512, EINVAL],
    ['with a flag of another command', { flags: FLAG.NO_HOLE }, 512, EINVAL],
  ]
  // Both have another meaning with extended headers (extended.test.ts).
  const COMPACT_ONLY: typeof FAILED_WRITES = [
    ['with a flag of extended headers', { flags: FLAG.PAYLOAD_LEN }, 512, EINVAL],
    ['of more than 32 MiB', {}, 33 * MIB, ENOSPC],
  ]
  test.each(isExtended ? FAILED_WRITES : [...FAILED_WRITES, ...COMPACT_ONLY])(
    'a WRITE %s fails, and its payload is drained',
    async (_what, { flags = 0, offset = 0 }, length, error) => {
      const server = await serve()
      const client = await server.attached('disk', wishes)
      const header = { offset, flags: isExtended ? flags | FLAG.PAYLOAD_LEN : flags, length }
      client.send(request(WRITE, header), randomBytes(length), request(FLUSH, { cookie: 9 }))
      expect(await takeError(client)).toBe(error)
      expect((await client.take(16)).readBigUInt64BE(8)).toBe(9n)
      expect(readFileSync(join(server.path, 'disk')).equals(Buffer.alloc(MIB))).toBe(true)
    },
  )

  test('a command that is none fails', async () => {
    const client = await (await serve()).attached('disk', wishes)
    for (const type of [8, 9, 255, 0x8000, 0xffff]) {
      expect(await errorOf(client, request(type, { length: 512 }))).toBe(EINVAL)
    }
  })

  test('a length of 0 does not disconnect', async () => {
    const client = await (await serve()).attached('disk', wishes)
    for (const type of [READ, WRITE, TRIM, CACHE, WRITE_ZEROES, FLUSH]) {
      for (const flags of [0, FLAG.FUA]) expect(await errorOf(client, request(type, { flags }))).toBe(OK)
    }
    expect(await errorOf(client, request(BLOCK_STATUS))).toBe(EINVAL)
    expect((await read(client, 0, 4)).equals(Buffer.alloc(4))).toBe(true)
  })

  test('FUA is accepted on every command', async () => {
    const client = await (await serve()).attached('disk', wishes)
    for (const type of [TRIM, CACHE, WRITE_ZEROES, FLUSH]) {
      expect(await errorOf(client, request(type, { flags: FLAG.FUA, length: 4096 }))).toBe(OK)
    }
    expect(await errorOf(client, write(Buffer.alloc(5000, 1), { flags: FLAG.FUA }))).toBe(OK)
    client.send(request(READ, { flags: FLAG.FUA, length: 8 }))
    if (!isSimple) expect(assemble(await takeStructured(client), 0, 8)).toEqual(Buffer.alloc(8, 1))
    else expect([(await takeSimple(client)).error, await client.take(8)]).toEqual([OK, Buffer.alloc(8, 1)])
  })

  test('a read-only disk is not changed', async () => {
    const server = await serve({ readOnly: true })
    const path = join(server.path, 'disk')
    writeFileSync(path, 'x'.repeat(8192))
    const client = await server.attached('disk', wishes)
    expect(await errorOf(client, write(Buffer.alloc(4096)))).toBe(EPERM)
    for (const type of [TRIM, WRITE_ZEROES]) {
      expect(await errorOf(client, request(type, { length: 4096 }))).toBe(EPERM)
    }
    for (const type of [FLUSH, CACHE]) expect(await errorOf(client, request(type, { length: 4096 }))).toBe(OK)
    expect((await read(client, 0, 8192)).toString()).toBe('x'.repeat(8192))
    expect(readFileSync(path, 'utf8')).toBe('x'.repeat(8192))
  })

  test('commands without payload may be up to 4 GiB - 1', async () => {
    const server = await serve({ size: 6 * 2 ** 30 })
    const client = await server.attached('disk', wishes)
    expect(await errorOf(client, write(Buffer.alloc(100, 1), { offset: 2 ** 32 - 100 }))).toBe(OK)
    for (const [type, flags] of [
      [CACHE, 0],
      [TRIM, 0],
      [WRITE_ZEROES, 0],
      [WRITE_ZEROES, FLAG.FUA | FLAG.FAST_ZERO],
    ] as const) {
      expect(await errorOf(client, request(type, { flags, offset: 1, length: 0xffff_ffff }))).toBe(OK)
    }
    expect((await read(client, 2 ** 32 - 100, 100)).equals(Buffer.alloc(100))).toBe(true)
    expect(statSync(join(server.path, 'disk')).blocks * 512).toBeLessThan(MIB)
  })

  test('32 MiB are written and read in one request, 1 byte more is not', async () => {
    const server = await serve({ size: 33 * MIB })
    const client = await server.attached('disk', wishes)
    const data = randomBytes(32 * MIB)
    data.fill(0, 5 * MIB, 9 * MIB)
    expect(await errorOf(client, write(data, { offset: 123, flags: FLAG.FUA }))).toBe(OK)
    expect((await read(client, 123, 32 * MIB)).equals(data)).toBe(true)
    expect(await errorOf(client, request(READ, { length: 32 * MIB + 1 }))).toBe(EINVAL)
  })

  test('DISC is not answered, and what came before it is', async () => {
    const server = await serve()
    const client = await server.attached('disk', wishes)
    const requests = [write(Buffer.alloc(100_000, 7), { flags: FLAG.FUA }), request(FLUSH), request(FLUSH)]
    client.send(Buffer.concat([...requests, request(DISC), request(FLUSH)]))
    expect(await client.rest()).toHaveLength(3 * replyLength)
    client.hangUp()
    await allGone(server)
    expect(
      readFileSync(join(server.path, 'disk')).subarray(0, 100_000).equals(Buffer.alloc(100_000, 7)),
    ).toBe(true)
  })

  test('a client that stops sending gets its replies all the same', async () => {
    const server = await serve()
    const client = await server.attached('disk', wishes)
    for (let count = 0; count < 100; count++) client.send(write(Buffer.alloc(5000), { flags: FLAG.FUA }))
    client.hangUp()
    expect(await client.rest()).toHaveLength(100 * replyLength)
    await allGone(server)
  })
})

describe('A disk with blocks of 4096 bytes', () => {
  const blockSizes = { minimum: 4096, preferred: 65_536, maximum: 8 * MIB }
  const serveBlocks = () =>
    serve({ backend: memoryBackend(Buffer.alloc(MIB), { blockSizes: () => blockSizes }) })

  test('tells them to those who ask', async () => {
    const client = await (await serveBlocks()).greeted()
    const replies = await ask(client, GO, goPayload('disk', 3))
    const sizes = replies.find(({ payload }) => payload.length === 14)?.payload as Buffer
    expect([2, 6, 10].map(at => sizes.readUInt32BE(at))).toEqual([4096, 65_536, 8 * MIB])
  })

  test('refuses what is not aligned to them, also to those who did not ask, and goes on', async () => {
    const client = await (await serveBlocks()).attached('disk')
    for (const type of [READ, TRIM, CACHE, WRITE_ZEROES]) {
      for (const range of [
        { offset: 512, length: 4096 },
        { offset: 4096, length: 512 },
      ])
        expect(await errorOf(client, compactRequest(type, range))).toBe(EINVAL)
    }
    expect(await errorOf(client, compactWrite(Buffer.alloc(512)))).toBe(EINVAL)
    expect(await errorOf(client, compactWrite(Buffer.alloc(4096, 1), { offset: 8192 }))).toBe(OK)
    expect(await readSimple(client, 8192, 4096)).toEqual(Buffer.alloc(4096, 1))
  })
})

describe('WRITE_ZEROES and TRIM', () => {
  test('make a range read as zeroes, and give its space back unless told not to', async () => {
    const server = await serve({ size: 8 * MIB })
    const client = await server.attached()
    const allocated = () => statSync(join(server.path, 'disk')).blocks * 512
    const data = Buffer.alloc(8 * MIB, 1)
    for (const [type, flags, limit] of [
      [WRITE_ZEROES, 0, 2 * MIB],
      [WRITE_ZEROES, FLAG.FAST_ZERO, 2 * MIB],
      [WRITE_ZEROES, FLAG.NO_HOLE, Number.POSITIVE_INFINITY],
      [WRITE_ZEROES, FLAG.NO_HOLE | FLAG.FAST_ZERO | FLAG.FUA, Number.POSITIVE_INFINITY],
      [TRIM, 0, 2 * MIB],
    ] as const) {
      expect(await errorOf(client, compactWrite(data, { flags: FLAG.FUA }))).toBe(OK)
      const range = { flags, offset: MIB + 100, length: 6 * MIB }
      expect(await errorOf(client, compactRequest(type, range))).toBe(OK)
      data.fill(0, MIB + 100, 7 * MIB + 100)
      expect((await readSimple(client, 0, 8 * MIB)).equals(data)).toBe(true)
      data.fill(1)
      if (limit < 8 * MIB) expect(allocated()).toBeLessThanOrEqual(limit + 65_536)
      else expect(allocated()).toBeGreaterThanOrEqual(8 * MIB)
    }
  })
})

describe('A structured READ', () => {
  const chunksOf = async (
    client: RawClient,
    fields: Parameters<typeof compactRequest>[1],
  ): Promise<Chunk[]> => {
    client.send(compactRequest(READ, { cookie: 0x55n, ...fields }))
    const chunks = await takeStructured(client)
    expect(chunks.every(({ cookie }) => cookie === 0x55n)).toBe(true)
    return chunks
  }

  test('of a hole is a hole, of data is data, and the last chunk says DONE', async () => {
    const client = await (await serve()).attached('disk', STRUCTURED)
    await errorOf(client, compactWrite(Buffer.alloc(65_536, 1), { offset: 131_072 }))
    const chunks = await chunksOf(client, { length: MIB })
    expect(chunks.map(({ type }) => type)).toEqual([2, 1, 2])
    expect(chunks.map(({ done }) => done)).toEqual([false, false, true])
    expect(chunks[0]?.payload).toEqual(Buffer.concat([u64(0), u64(131_072).subarray(4)]))
    expect(chunks[1]?.payload.subarray(0, 8)).toEqual(u64(131_072))
  })

  test.each([1, 4096, 65_536, MIB])(
    'with DF is one chunk of data, also over a hole: %i bytes',
    async length => {
      const client = await (await serve()).attached('disk', STRUCTURED)
      const chunks = await chunksOf(client, { flags: FLAG.DF, length })
      expect(chunks.map(({ type, done }) => [type, done])).toEqual([[1, true]])
      expect(assemble(chunks, 0, length).equals(Buffer.alloc(length))).toBe(true)
    },
  )

  test('with DF of 32 MiB has one chunk of data', async () => {
    const client = await (await serve({ size: 32 * MIB })).attached('disk', STRUCTURED)
    const chunks = await chunksOf(client, { flags: FLAG.DF, length: 32 * MIB })
    expect(chunks.filter(({ type }) => type !== 0).map(({ type }) => type)).toEqual([1])
    expect(assemble(chunks, 0, 32 * MIB).equals(Buffer.alloc(32 * MIB))).toBe(true)
  })

  test('of nothing is a chunk NONE', async () => {
    const client = await (await serve()).attached('disk', STRUCTURED)
    expect(await chunksOf(client, { length: 0 })).toEqual([
      { done: true, type: 0, cookie: 0x55n, payload: Buffer.alloc(0) },
    ])
  })

  test('that fails is never a simple reply', async () => {
    const client = await (await serve()).attached('disk', STRUCTURED)
    const [chunk] = await chunksOf(client, { offset: MIB, length: 1 })
    expect(chunk).toMatchObject({ type: 0x8001, done: true })
    expect(chunk?.payload.readUInt32BE(0)).toBe(EINVAL)
    expect(chunk?.payload.readUInt16BE(4)).toBe((chunk?.payload.length ?? 0) - 6)
  })

  test('without structured replies may not say DF', async () => {
    const client = await (await serve()).attached()
    expect(await errorOf(client, compactRequest(READ, { flags: FLAG.DF, length: 1 }))).toBe(EINVAL)
  })
})

describe('BLOCK_STATUS', () => {
  const extents = async (client: RawClient, fields: Parameters<typeof compactRequest>[1]) => {
    client.send(compactRequest(BLOCK_STATUS, fields))
    const chunk = await takeChunk(client)
    expect(chunk).toMatchObject({ type: 5, done: true })
    const { payload } = chunk
    return Array.from({ length: (payload.length - 4) / 8 }, (_, index) => [
      payload.readUInt32BE(4 + 8 * index),
      payload.readUInt32BE(8 + 8 * index),
    ])
  }

  test('tells holes and data of the file', async () => {
    const client = await (await serve()).attached('disk', STRUCTURED)
    await errorOf(client, compactWrite(Buffer.alloc(65_536, 1), { offset: 131_072, flags: FLAG.FUA }))
    expect(await extents(client, { length: MIB })).toEqual([
      [131_072, 3],
      [65_536, 0],
      [MIB - 196_608, 3],
    ])
    expect(await extents(client, { offset: 131_000, length: 100, flags: FLAG.REQ_ONE })).toEqual([[72, 3]])
    const [first] = await extents(client, { offset: MIB - 1, length: 1 })
    expect(first).toEqual([1, 3])
  })

  test('of 4 GiB - 1 on a huge empty disk stays below 2^32', async () => {
    const client = await (await serve({ size: 2 ** 43 })).attached('disk', STRUCTURED)
    for (const flags of [0, FLAG.REQ_ONE]) {
      const [[length, state], ...rest] = (await extents(client, { flags, length: 0xffff_ffff })) as [
        [number, number],
      ]
      expect([rest, state]).toEqual([[], 3])
      expect(length % 65_536).toBe(0)
    }
  })

  test('of a very fragmented file is bounded', async () => {
    const server = await serve({ size: 64 * MIB })
    const client = await server.attached('disk', STRUCTURED)
    for (let at = 0; at < 64 * MIB; at += 32_768)
      client.send(compactWrite(Buffer.alloc(4096, 1), { offset: at }))
    for (let at = 0; at < 64 * MIB; at += 32_768) await takeError(client)
    const told = await extents(client, { length: 64 * MIB })
    expect(told.length).toBeGreaterThan(100)
    expect(told.length).toBeLessThan(10_000)
  })
})
