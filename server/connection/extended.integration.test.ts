/** Extended headers (proto.md of the branch extension-ext-header), each rule as a test named after it. */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  ACK,
  ask,
  attach,
  BLOCK_STATUS,
  CACHE,
  ERR,
  errorOf,
  extendedRequest,
  extendedWrite,
  FLAG,
  FLUSH,
  GO,
  goPayload,
  INFO,
  metaPayload,
  option,
  outcome,
  type RawClient,
  READ,
  request,
  TRIM,
  takeChunk,
  takeStructured,
  u32,
  u64,
  WRITE,
  WRITE_ZEROES,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const [EXPORT_NAME, STRUCTURED_REPLY, SET_META_CONTEXT, EXTENDED_HEADERS] = [1, 8, 10, 11]
const EXT_HEADER_REQD = 10
const [OK, EINVAL, ENOSPC] = [0, 22, 28]
const WISHES = { extended: true, allocation: true }
const GIB = 2 ** 30

const hex = (text: string) => text.replaceAll(' ', '')

async function extendedClient(): Promise<RawClient> {
  const client = await (await serve()).greeted()
  expect((await outcome(client, EXTENDED_HEADERS)).type).toBe(ACK)
  return client
}

describe('NBD_OPT_EXTENDED_HEADERS', () => {
  test('with data is INVALID, and is not agreed on', async () => {
    const client = await (await serve()).greeted()
    expect(await outcome(client, EXTENDED_HEADERS, Buffer.alloc(3))).toMatchObject({ error: ERR.INVALID })
    await ask(client, GO, goPayload('disk'))
    expect(await errorOf(client, request(FLUSH))).toBe(OK)
  })

  test('a second time is INVALID, and stays agreed on', async () => {
    const client = await extendedClient()
    expect(await outcome(client, EXTENDED_HEADERS)).toMatchObject({ error: ERR.INVALID })
    await ask(client, GO, goPayload('disk'))
    expect(await errorOf(client, extendedRequest(FLUSH))).toBe(OK)
  })

  test('wins over structured replies that were agreed on before', async () => {
    const client = await (await serve()).greeted()
    await ask(client, STRUCTURED_REPLY)
    await ask(client, EXTENDED_HEADERS)
    await ask(client, GO, goPayload('disk'))
    expect(await errorOf(client, extendedRequest(FLUSH))).toBe(OK)
  })

  test('cannot be taken back by STRUCTURED_REPLY: EXT_HEADER_REQD', async () => {
    const client = await extendedClient()
    expect(await outcome(client, STRUCTURED_REPLY)).toMatchObject({ error: EXT_HEADER_REQD })
    await ask(client, GO, goPayload('disk'))
    expect(await errorOf(client, extendedRequest(FLUSH))).toBe(OK)
  })

  test('forbids EXPORT_NAME, which ends the connection', async () => {
    const server = await serve()
    const client = await server.greeted()
    await ask(client, EXTENDED_HEADERS)
    client.send(option(EXPORT_NAME, Buffer.from('disk')))
    expect(await client.rest()).toHaveLength(0)
    client.hangUp()
    await allGone(server)
  })

  test('is enough for metadata contexts', async () => {
    const client = await extendedClient()
    const replies = await ask(client, SET_META_CONTEXT, metaPayload('disk', 'base:allocation'))
    expect(replies.map(({ type }) => type)).toEqual([4, ACK])
  })

  test('announces DF and the payload of BLOCK_STATUS, the latter to nobody else', async () => {
    const flagsOf = async (client: RawClient) => {
      const [info] = await ask(client, INFO, goPayload('disk'))
      return info?.payload.readUInt16BE(10) ?? 0
    }
    const [SEND_DF, BLOCK_STATUS_PAYLOAD] = [1 << 7, 1 << 12]
    expect((await flagsOf(await extendedClient())) & (SEND_DF | BLOCK_STATUS_PAYLOAD)).toBe(
      SEND_DF | BLOCK_STATUS_PAYLOAD,
    )
    const structured = await (await serve()).greeted()
    await ask(structured, STRUCTURED_REPLY)
    expect((await flagsOf(structured)) & BLOCK_STATUS_PAYLOAD).toBe(0)
  })
})

describe('Every reply has the extended header, cookie and offset of its request', () => {
  const cookie = 0xf102030405060708n
  const offset = 0x45678
  const header = (type: string, length: number) =>
    hex(`6e8a278c 0001 ${type} f102030405060708 0000000000045678 ${u64(length).toString('hex')}`)

  test.each<[what: string, request: Buffer]>([
    ['WRITE', extendedWrite(Buffer.alloc(5000, 1), { cookie, offset })],
    ['WRITE with FUA', extendedWrite(Buffer.alloc(5000, 1), { cookie, offset, flags: FLAG.FUA })],
    ['WRITE of nothing', extendedWrite(Buffer.alloc(0), { cookie, offset })],
    ['FLUSH', extendedRequest(FLUSH, { cookie, offset })],
    ['TRIM', extendedRequest(TRIM, { cookie, offset, length: 4096 })],
    ['CACHE', extendedRequest(CACHE, { cookie, offset, length: 4096 })],
    ['WRITE_ZEROES', extendedRequest(WRITE_ZEROES, { cookie, offset, length: 4096 })],
    ['READ of nothing', extendedRequest(READ, { cookie, offset })],
  ])('%s: an empty chunk', async (_, bytes) => {
    const client = await (await serve()).attached('disk', WISHES)
    client.send(bytes)
    expect((await client.take(32)).toString('hex')).toBe(header('0000', 0))
    expect(client.pending).toBe(0)
  })

  test('READ: data, and a hole', async () => {
    const client = await (await serve()).attached('disk', WISHES)
    client.send(extendedRequest(READ, { cookie, offset, length: 0x1234 }))
    expect((await client.take(44)).toString('hex')).toBe(
      hex(`${header('0002', 12)} 0000000000045678 00001234`),
    )
    expect(await errorOf(client, extendedWrite(Buffer.from('data'), { offset }))).toBe(OK)
    client.send(extendedRequest(READ, { cookie, offset, length: 4 }))
    expect((await client.take(44)).toString('hex')).toBe(
      hex(`${header('0001', 12)} 0000000000045678 64617461`),
    )
  })

  test('BLOCK_STATUS: type 6, context, number of extents, 64-bit length and state', async () => {
    const client = await (await serve()).attached('disk', WISHES)
    client.send(extendedRequest(BLOCK_STATUS, { cookie, offset, length: 0x10000, flags: FLAG.REQ_ONE }))
    expect((await client.take(56)).toString('hex')).toBe(
      hex(`${header('0006', 24)} 00000001 00000001 0000000000010000 0000000000000003`),
    )
  })

  test.each<[what: string, offset: bigint]>([
    ['just behind the disk', BigInt(MIB)],
    ['2^53 + 1', 2n ** 53n + 1n],
    ['2^63', 2n ** 63n],
    ['2^64 - 1', 2n ** 64n - 1n],
  ])('an error, also at an offset of %s', async (_, far) => {
    const client = await (await serve()).attached('disk', WISHES)
    for (const bytes of [
      extendedRequest(READ, { cookie, offset: far, length: 7 }),
      extendedRequest(TRIM, { cookie, offset: far, length: 2n ** 64n - 1n }),
      extendedRequest(BLOCK_STATUS, { cookie, offset: far, length: 7 }),
      extendedRequest(99, { cookie, offset: far }),
      extendedWrite(Buffer.alloc(7), { cookie, offset: far }),
    ]) {
      client.send(bytes)
      expect(await takeChunk(client)).toMatchObject({ done: true, type: 0x8001, cookie, offset: far })
    }
    // Nothing reads it, but it comes back.
    client.send(extendedRequest(FLUSH, { cookie, offset: far }))
    expect(await takeChunk(client)).toMatchObject({ done: true, type: 0, cookie, offset: far })
  })

  test('all chunks of one reply', async () => {
    const client = await (await serve({ size: 4 * MIB })).attached('disk', WISHES)
    await errorOf(client, extendedWrite(Buffer.alloc(65_536, 1), { offset: MIB }))
    client.send(extendedRequest(READ, { cookie, offset, length: 3 * MIB }))
    const chunks = await takeStructured(client)
    expect(chunks.length).toBeGreaterThan(2)
    expect(chunks.every(chunk => chunk.cookie === cookie && chunk.offset === BigInt(offset))).toBe(true)
  })
})

describe('A payload', () => {
  test('of a WRITE that does not say PAYLOAD_LEN is taken all the same, as qemu-nbd does', async () => {
    const server = await serve()
    const client = await server.attached('disk', WISHES)
    client.send(extendedRequest(WRITE, { length: 4 }), Buffer.from('data'))
    expect(await takeChunk(client)).toMatchObject({ done: true, type: 0 })
    expect(readFileSync(join(server.path, 'disk')).toString('latin1', 0, 4)).toBe('data')
  })

  test.each<[what: string, type: number]>([
    ['READ', READ],
    ['FLUSH', FLUSH],
    ['TRIM', TRIM],
    ['CACHE', CACHE],
    ['WRITE_ZEROES', WRITE_ZEROES],
    ['a command that is none', 99],
  ])('of %s is drained, and refused', async (_, type) => {
    const server = await serve()
    const client = await server.attached('disk', WISHES)
    await errorOf(client, extendedWrite(Buffer.alloc(4096, 1)))
    for (const length of [1, 32, 5000, 32 * MIB]) {
      client.send(
        extendedRequest(type, { flags: FLAG.PAYLOAD_LEN, length }),
        // Were it not drained, it would be the next request.
        Buffer.alloc(length, extendedRequest(WRITE_ZEROES, { length: 4096 })),
      )
      expect(await errorOf(client, extendedRequest(CACHE, { length: 1 }))).toBe(EINVAL)
      expect((await takeChunk(client)).type).toBe(0)
    }
    expect(readFileSync(join(server.path, 'disk')).subarray(0, 4096).equals(Buffer.alloc(4096, 1))).toBe(true)
  })

  test.each<[what: string, type: number, length: number | bigint]>([
    ['a WRITE of 32 MiB and a byte', WRITE, 32 * MIB + 1],
    ['a WRITE of 2^64 - 1 bytes', WRITE, 2n ** 64n - 1n],
    ['a READ of 32 MiB and a byte', READ, 32 * MIB + 1],
    ['a BLOCK_STATUS of 2^53 bytes', BLOCK_STATUS, 2n ** 53n],
  ])('that is too long ends the connection: %s', async (_, type, length) => {
    const server = await serve()
    const client = await server.attached('disk', WISHES)
    client.send(extendedRequest(type, { flags: FLAG.PAYLOAD_LEN, length }))
    expect(await client.rest()).toHaveLength(0)
    client.hangUp()
    await allGone(server)
  })

  test('of a BLOCK_STATUS chooses contexts, and has the length', async () => {
    const client = await (await serve()).attached('disk', WISHES)
    const payload = Buffer.concat([u64(4096), u32(1)])
    client.send(
      extendedRequest(BLOCK_STATUS, { flags: FLAG.PAYLOAD_LEN | FLAG.REQ_ONE, offset: 512, length: 12 }),
      payload,
    )
    const chunk = await takeChunk(client)
    expect(chunk).toMatchObject({ type: 6, done: true, offset: 512n })
    expect(chunk.payload.toString('hex')).toBe(hex('00000001 00000001 0000000000001000 0000000000000003'))
  })

  test.each<[what: string, payload: Buffer]>([
    ['with a context twice', Buffer.concat([u64(4096), u32(1), u32(1)])],
    ['with a context that was not set', Buffer.concat([u64(4096), u32(7)])],
    ['with that beside one that was', Buffer.concat([u64(4096), u32(1), u32(7)])],
    ['without contexts', u64(4096)],
    ['of half a length', Buffer.alloc(4)],
    ['of half a context', Buffer.concat([u64(4096), Buffer.alloc(3)])],
    ['with a range past the end', Buffer.concat([u64(MIB + 1), u32(1)])],
    ['with a range of 2^64 - 1', Buffer.concat([u64(2n ** 64n - 1n), u32(1)])],
    ['with a range of nothing', Buffer.concat([u64(0), u32(1)])],
    ['of 100,000 contexts', Buffer.concat([u64(4096), Buffer.alloc(400_000, u32(1))])],
  ])('of a BLOCK_STATUS %s is drained, and refused', async (_, payload) => {
    const client = await (await serve()).attached('disk', WISHES)
    const header = extendedRequest(BLOCK_STATUS, { flags: FLAG.PAYLOAD_LEN, length: payload.length })
    expect(await errorOf(client, Buffer.concat([header, payload]))).toBe(EINVAL)
    expect(await errorOf(client, extendedRequest(FLUSH))).toBe(OK)
  })
})

describe('Lengths of 64 bits', () => {
  const SIZE = 20 * GIB

  test('TRIM, CACHE and WRITE_ZEROES of more than 4 GiB are done in full', async () => {
    const server = await serve({ size: SIZE })
    const client = await server.attached('disk', WISHES)
    const marks = [0, 4 * GIB, 5 * GIB + 100, SIZE - 4096]
    const isZero = async (offset: number) => {
      client.send(extendedRequest(READ, { offset, length: 4, flags: FLAG.DF }))
      return (await takeChunk(client)).payload.subarray(8).equals(Buffer.alloc(4))
    }
    for (const [type, flags] of [
      [WRITE_ZEROES, 0],
      [WRITE_ZEROES, FLAG.FAST_ZERO | FLAG.FUA],
      [TRIM, 0],
    ] as const) {
      for (const offset of marks)
        expect(await errorOf(client, extendedWrite(Buffer.from('mark'), { offset }))).toBe(OK)
      expect(await errorOf(client, extendedRequest(CACHE, { length: SIZE }))).toBe(OK)
      expect(await errorOf(client, extendedRequest(type, { flags, length: SIZE }))).toBe(OK)
      for (const offset of marks) expect(await isZero(offset)).toBe(true)
    }
    expect(statSync(join(server.path, 'disk')).blocks * 512).toBeLessThan(MIB)
  })

  test('BLOCK_STATUS tells one extent of 8 TiB', async () => {
    const client = await (await serve({ size: 2 ** 43 })).attached('disk', WISHES)
    client.send(extendedRequest(BLOCK_STATUS, { length: 2 ** 43 }))
    const { payload } = await takeChunk(client)
    expect(payload.toString('hex')).toBe(hex('00000001 00000001 0000080000000000 0000000000000003'))
  })

  test('past the end are refused, without a wrap-around', async () => {
    const client = await (await serve()).attached('disk', WISHES)
    for (const type of [READ, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS]) {
      for (const [offset, length] of [
        [1, MIB],
        [0, 2n ** 32n],
        [0, 2n ** 53n],
        [4096, 2n ** 64n - 4096n],
        [2n ** 64n - 512n, 1024],
      ] as const) {
        const expected = type === WRITE_ZEROES ? ENOSPC : EINVAL
        expect(await errorOf(client, extendedRequest(type, { offset, length }))).toBe(expected)
      }
    }
  })

  test('a READ of more than 32 MiB is refused', async () => {
    const client = await (await serve({ size: 2 ** 33 })).attached('disk', WISHES)
    for (const length of [32 * MIB + 1, 2 ** 32, 2 ** 33]) {
      expect(await errorOf(client, extendedRequest(READ, { length }))).toBe(EINVAL)
    }
  })
})

test('A request with the compact header ends the connection', async () => {
  const server = await serve()
  const client = await server.attached('disk', WISHES)
  client.send(request(FLUSH), request(FLUSH))
  expect(await client.rest()).toHaveLength(0)
  client.hangUp()
  await allGone(server)
})

test('A request with the extended header ends the connection of a client that did not ask for it', async () => {
  const server = await serve()
  const client = await server.connect()
  await attach(client, 'disk', { structured: true })
  client.send(extendedRequest(FLUSH))
  expect(await client.rest()).toHaveLength(0)
  client.hangUp()
  await allGone(server)
})
