/** The rules of the fixed newstyle handshake, each as a test named after it. */
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { HIDDEN_NAME } from '../backends/disks/directory.ts'
import { memoryBackend } from './test-backend.ts'
import {
  ACK,
  ask,
  CLIENT_FLAGS,
  ERR,
  errorOf,
  GO,
  goPayload,
  greet,
  INFO,
  metaPayload,
  option,
  outcome,
  type RawClient,
  READ,
  readSimple,
  request,
  takeOptionReplies,
  takeOptionReply,
  u32,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const EXPORT_NAME = 1
const ABORT = 2
const LIST = 3
const STARTTLS = 5
const STRUCTURED_REPLY = 8
const LIST_META_CONTEXT = 9

/** Proves that the server still understands options. */
async function inSync(client: RawClient): Promise<void> {
  expect(await outcome(client, STRUCTURED_REPLY)).toMatchObject({ option: STRUCTURED_REPLY, type: ACK })
}

const disksIn = (path: string) => readdirSync(path).filter(name => name !== HIDDEN_NAME)

describe('The greeting', () => {
  test('is NBDMAGIC, IHAVEOPT, and fixed newstyle without zeroes', async () => {
    const client = await (await serve()).connect()
    expect((await client.take(18)).toString('latin1')).toBe('NBDMAGICIHAVEOPT\x00\x03')
  })

  test.each([4, 7, 0x8000_0000, 0xffff_ffff])(
    'of a client with unknown flags (%i) is the end',
    async flags => {
      const server = await serve()
      const client = await greet(await server.connect(), u32(flags))
      expect(await client.rest()).toHaveLength(0)
      await allGone(server)
    },
  )

  test.each([0, 2])('without fixed newstyle (flags %i) allows EXPORT_NAME only', async flags => {
    const server = await serve()
    const client = await greet(await server.connect(), u32(flags))
    client.send(option(LIST))
    expect(await client.rest()).toHaveLength(0)
    const other = await greet(await server.connect(), u32(flags))
    other.send(option(EXPORT_NAME, Buffer.from('disk')))
    expect((await other.take(8)).readBigUInt64BE(0)).toBe(BigInt(MIB))
  })
})

describe('An option that is not understood or malformed', () => {
  test.each([
    ['unknown', 99, 1000, ERR.UNSUP],
    ['unknown, with the longest payload', 0xffff_ffff, 65_536, ERR.UNSUP],
    ['PEEK_EXPORT', 4, 10, ERR.UNSUP],
    ['LIST with data', LIST, 1, ERR.INVALID],
    ['STARTTLS with data', STARTTLS, 5, ERR.INVALID],
    ['STARTTLS', STARTTLS, 0, ERR.POLICY],
    ['STRUCTURED_REPLY with data', STRUCTURED_REPLY, 4, ERR.INVALID],
    ['GO without anything', GO, 0, ERR.INVALID],
    ['INFO without anything', INFO, 0, ERR.INVALID],
  ])('%s: is drained and answered, and the next one is understood', async (_, type, length, error) => {
    const client = await (await serve()).greeted()
    client.send(option(type, Buffer.alloc(length, 0x49)), option(STRUCTURED_REPLY))
    const reply = await takeOptionReply(client)
    expect(reply).toMatchObject({ option: type, error })
    expect(reply.text).toMatch(/^\S.*\.$/)
    expect(await takeOptionReply(client)).toMatchObject({ option: STRUCTURED_REPLY, type: ACK })
    await inSync(client)
  })

  test('of more than 64 KiB ends the connection at once, before its payload has come', async () => {
    const server = await serve()
    for (const length of [65_537, 2 ** 31, 0xffff_ffff]) {
      const client = await server.greeted()
      client.send(option(LIST, Buffer.alloc(0), length))
      expect(await client.rest()).toHaveLength(0)
    }
    await allGone(server)
  })

  test('with another magic ends the connection', async () => {
    const client = await (await serve()).greeted()
    client.send(Buffer.from('IHAVEOPS'), u32(LIST), u32(0))
    expect(await client.rest()).toHaveLength(0)
  })

  test('hundreds of times ends the connection', async () => {
    const server = await serve()
    const client = await server.greeted()
    for (let count = 0; count < 300; count++) client.send(option(99))
    expect((await client.rest()).length / 20).toBeLessThan(300 * 3)
    await allGone(server)
  })
})

describe('ABORT', () => {
  test.each([0, 100])('with %i bytes of data is acknowledged, and is the end', async length => {
    const server = await serve()
    const client = await server.greeted()
    client.send(option(ABORT, Buffer.alloc(length)))
    expect(await takeOptionReply(client)).toMatchObject({ option: ABORT, type: ACK })
    expect(await client.rest()).toHaveLength(0)
    client.hangUp()
    await allGone(server)
  })

  test('of a client that does not wait for the answer is the end as well', async () => {
    const server = await serve()
    const client = await server.greeted()
    client.send(option(ABORT))
    client.reset()
    await allGone(server)
  })
})

describe('EXPORT_NAME', () => {
  test.each([
    ['with zeroes', 1, 134],
    ['without zeroes', 3, 10],
  ])('%s', async (_, flags, length) => {
    const client = await greet(await (await serve()).connect(), u32(flags))
    client.send(option(EXPORT_NAME, Buffer.from('disk')), request(READ, { cookie: 5, length: 16 }))
    const answer = await client.take(length)
    expect(answer.readBigUInt64BE(0)).toBe(BigInt(MIB))
    expect(answer.subarray(10).every(byte => byte === 0)).toBe(true)
    expect((await client.take(32)).toString('hex')).toBe(`67446698${'0'.repeat(23)}5${'00'.repeat(16)}`)
  })

  test.each([
    ['an invalid name', Buffer.from('../x')],
    ['a name with NUL', Buffer.from('a\0b')],
    ['broken UTF-8', Buffer.from([0xff, 0xfe])],
    ['65536 bytes', Buffer.alloc(65_536, 0x61)],
  ])('with %s can only be answered by hanging up', async (_, name) => {
    const server = await serve()
    const client = await server.greeted()
    client.send(option(EXPORT_NAME, name))
    expect(await client.rest()).toHaveLength(0)
    client.hangUp()
    await allGone(server)
    expect(disksIn(server.path)).toEqual([])
  })

  test('keeps what the options before it agreed on', async () => {
    const client = await (await serve()).greeted()
    await ask(client, STRUCTURED_REPLY)
    client.send(option(EXPORT_NAME, Buffer.from('disk')))
    const SEND_DF = 1 << 7
    expect((await client.take(10)).readUInt16BE(8) & SEND_DF).toBe(SEND_DF)
    client.send(request(READ, { length: 16 }))
    expect((await client.take(4)).toString('hex')).toBe('668e33ef')
  })
})

describe('INFO and GO', () => {
  const exportInfo = (payload: Buffer | undefined) => payload?.toString('hex')

  test('tell size and flags whether asked for or not, and only what is known beside', async () => {
    const client = await (await serve()).greeted()
    const replies = await ask(client, INFO, goPayload('disk', 0, 0, 1, 2, 3, 99, 0xffff))
    expect(replies.at(-1)?.type).toBe(ACK)
    const infos = replies.slice(0, -1).map(({ payload }) => [payload.readUInt16BE(0), payload.subarray(2)])
    expect(infos.find(([type]) => type === 1)?.[1]?.toString()).toBe('disk')
    const sizes = infos.find(([type]) => type === 3)?.[1] as Buffer
    expect([0, 4, 8].map(at => sizes.readUInt32BE(at))).toEqual([1, 4096, 32 * MIB])
    expect(infos.map(([type]) => type).sort()).toEqual([0, 1, 3])
    const plain = await ask(client, INFO, goPayload('disk'))
    expect(plain.map(({ type }) => type)).toEqual([3, ACK])
  })

  test.each(['disk', '', 'two words', 'Ünïcode'])(
    'of %j: INFO, then GO with nothing between, say the same',
    async name => {
      const client = await (await serve()).greeted()
      for (const structured of [false, true]) {
        if (structured) await ask(client, STRUCTURED_REPLY)
        const asked = await ask(client, INFO, goPayload(name))
        if (!structured) continue
        const gone = await ask(client, GO, goPayload(name))
        expect(exportInfo(gone[0]?.payload)).toBe(exportInfo(asked[0]?.payload))
        expect(await errorOf(client, request(READ, { offset: MIB, length: 1 }))).toBe(22)
      }
    },
  )

  test('INFO and LIST make nothing', async () => {
    const server = await serve({ recipe: { type: 'ext4' } })
    const client = await server.greeted()
    await ask(client, INFO, goPayload('disk'))
    await ask(client, INFO, goPayload(''))
    await ask(client, LIST)
    await ask(client, STRUCTURED_REPLY)
    await ask(client, 10, metaPayload('disk', 'base:allocation'))
    expect(disksIn(server.path)).toEqual([])
    await ask(client, GO, goPayload(''))
    expect(disksIn(server.path)).toEqual(['default'])
  })

  test('INFO of a disk whose size only a command knows makes it', async () => {
    const server = await serve({ recipe: { command: 'truncate -s 12345 "$disk"' } })
    const client = await server.greeted()
    const [asked] = await ask(client, INFO, goPayload('disk'))
    expect(asked?.payload.readBigUInt64BE(2)).toBe(12_345n)
    expect(disksIn(server.path)).toEqual(['disk'])
    const [gone] = await ask(client, GO, goPayload('disk'))
    expect(gone?.payload).toEqual(asked?.payload)
  })

  test.each<[what: string, name: Buffer, error: number]>([
    ['../x', Buffer.from('../x'), ERR.UNKNOWN],
    ['a dot', Buffer.from('a.b'), ERR.UNKNOWN],
    ['a colon', Buffer.from('a:b'), ERR.UNKNOWN],
    ['256 bytes', Buffer.alloc(256, 0x61), ERR.UNKNOWN],
    ['4096 bytes', Buffer.alloc(4096, 0x61), ERR.UNKNOWN],
    ['4097 bytes', Buffer.alloc(4097, 0x61), ERR.INVALID],
    ['65530 bytes', Buffer.alloc(65_530, 0x61), ERR.INVALID],
    ['NUL', Buffer.from('a\0b'), ERR.INVALID],
    ['broken UTF-8', Buffer.from([0x61, 0xff]), ERR.INVALID],
    ['an overlong slash', Buffer.from([0x61, 0xc0, 0xaf]), ERR.INVALID],
    ['a surrogate', Buffer.from([0xed, 0xa0, 0x80]), ERR.INVALID],
  ])('of a name with %s is refused with a text, and the handshake goes on', async (_, name, error) => {
    const server = await serve()
    const client = await server.greeted()
    for (const type of [INFO, GO]) {
      const reply = await outcome(client, type, goPayload(name))
      expect(reply).toMatchObject({ option: type, error })
      expect(reply.payload.length).toBeGreaterThan(5)
      expect(reply.payload.length).toBeLessThanOrEqual(4096)
    }
    expect(await outcome(client, GO, goPayload('disk'))).toMatchObject({ type: ACK })
    expect(disksIn(server.path)).toEqual(['disk'])
  })

  test('whose lengths do not add up are INVALID', async () => {
    const client = await (await serve()).greeted()
    const good = goPayload('disk', 1)
    const lied = Buffer.from(good)
    lied.writeUInt32BE(0xffff_ffff, 0)
    const requests = Buffer.from(good)
    requests.writeUInt16BE(0xffff, 8)
    for (const payload of [lied, requests, good.subarray(0, -1), Buffer.concat([good, u32(0)])]) {
      expect(await outcome(client, GO, payload)).toMatchObject({ error: ERR.INVALID })
    }
    await inSync(client)
  })

  test('are never followed by zeroes', async () => {
    const client = await greet(await (await serve()).connect(), u32(1))
    await ask(client, GO, goPayload('disk'))
    expect(await readSimple(client, 0, 16)).toEqual(Buffer.alloc(16))
  })

  test('announce what the disk can do', async () => {
    const flagsOf = async (client: RawClient) => {
      const [info] = await ask(client, INFO, goPayload('disk'))
      return info?.payload.readUInt16BE(10)
    }
    const [HAS, READ_ONLY, FLUSH, FUA, TRIM, ZEROES, DF, MULTI, CACHE, FAST] = [
      1, 2, 4, 8, 32, 64, 128, 256, 1024, 2048,
    ]
    const writable = HAS + FLUSH + FUA + TRIM + ZEROES + CACHE + FAST
    const client = await (await serve()).greeted()
    expect(await flagsOf(client)).toBe(writable)
    await ask(client, STRUCTURED_REPLY)
    expect(await flagsOf(client)).toBe(writable + DF)
    expect(await flagsOf(await (await serve({ connections: 2 })).greeted())).toBe(writable + MULTI)
    expect(await flagsOf(await (await serve({ temporary: true, connections: 2 })).greeted())).toBe(writable)
    const readOnly = await serve({ readOnly: true })
    writeFileSync(join(readOnly.path, 'disk'), 'x'.repeat(4096))
    expect(await flagsOf(await readOnly.greeted())).toBe(HAS + READ_ONLY + FLUSH + MULTI + CACHE)
  })
})

describe('STRUCTURED_REPLY', () => {
  test('is acknowledged as often as it is asked for', async () => {
    const client = await (await serve()).greeted()
    await inSync(client)
    await inSync(client)
  })
})

describe('LIST', () => {
  const names = async (client: RawClient) =>
    (await ask(client, LIST)).slice(0, -1).map(({ payload }) => {
      expect(payload.readUInt32BE(0)).toBe(payload.length - 4)
      return payload.subarray(4).toString()
    })

  test('has the empty name and all valid ones, sorted, and nothing else of the directory', async () => {
    const server = await serve()
    for (const name of ['b', 'a', 'Ä', '.hidden', 'with.dot', 'default']) {
      writeFileSync(join(server.path, name), 'x')
    }
    mkdirSync(join(server.path, 'folder'))
    expect(await names(await server.greeted())).toEqual(['', 'a', 'b', 'Ä'])
  })

  test('allows questions about all the names that it told, and a second one no more of them', async () => {
    const listed = Array.from({ length: 300 }, (_, index) => `disk${index}`)
    const backend = memoryBackend(Buffer.alloc(MIB), { listExports: () => listed })
    const client = await (await serve({ backend })).greeted()
    for (const round of [1, 2]) {
      expect(await names(client), `list ${round}`).toHaveLength(300)
      for (const name of listed) {
        expect(await outcome(client, INFO, goPayload(name))).toMatchObject({ type: ACK })
        await outcome(client, LIST_META_CONTEXT, metaPayload(name))
      }
    }
    // 256, 8 for each of 300 names; two lists count as 32 each, and there were 4 questions about each name.
    const left = 256 + 300 * 8 - 2 * 32 - 300 * 4
    for (let index = 0; index < left; index++) client.send(option(99))
    for (let index = 0; index < left; index++) {
      expect(await takeOptionReply(client)).toMatchObject({ error: ERR.UNSUP })
    }
    client.send(option(99))
    await client.over
  })

  test('can be switched off', async () => {
    const client = await (await serve({ list: false })).greeted()
    expect(await outcome(client, LIST)).toMatchObject({ error: ERR.POLICY })
    await inSync(client)
  })

  test('of a directory that has gone is an error of the platform, and the handshake goes on', async () => {
    const server = await serve()
    const client = await server.greeted()
    rmSync(server.path, { recursive: true })
    expect(await outcome(client, LIST)).toMatchObject({ error: ERR.PLATFORM })
    await inSync(client)
    mkdirSync(server.path)
  })

  test('is not answered for ever', async () => {
    const server = await serve()
    const client = await server.greeted()
    for (let count = 0; count < 30; count++) client.send(option(LIST))
    await client.rest()
    await allGone(server)
  })
})

describe('A client that has said its last word (FIN)', () => {
  test('gets the answers to what it asked before', async () => {
    const server = await serve()
    const client = await greet(await server.connect(), CLIENT_FLAGS)
    client.send(option(STRUCTURED_REPLY), option(99, Buffer.alloc(10)), option(LIST))
    client.hangUp()
    expect(await takeOptionReply(client)).toMatchObject({ option: STRUCTURED_REPLY, type: ACK })
    expect(await takeOptionReply(client)).toMatchObject({ option: 99, error: ERR.UNSUP })
    expect((await takeOptionReplies(client)).at(-1)).toMatchObject({ option: LIST, type: ACK })
    expect(await client.rest()).toHaveLength(0)
    await allGone(server)
  })

  test('gets the acknowledgement of its ABORT', async () => {
    const server = await serve()
    const client = await greet(await server.connect(), CLIENT_FLAGS)
    client.send(option(LIST), option(ABORT))
    client.hangUp()
    await takeOptionReplies(client)
    expect(await takeOptionReply(client)).toMatchObject({ option: ABORT, type: ACK })
    expect(await client.over).toBe(false)
  })

  test('gets no disk', async () => {
    const server = await serve()
    const client = await greet(await server.connect(), CLIENT_FLAGS)
    client.send(option(LIST), option(GO, goPayload('disk')))
    client.hangUp()
    await takeOptionReplies(client)
    expect(await client.rest()).toHaveLength(0)
    await allGone(server)
  })
})

describe('Bytes behind GO in the same segment', () => {
  test('are requests', async () => {
    const client = await (await serve()).connect()
    client.send(CLIENT_FLAGS, option(GO, goPayload('disk')), request(READ, { cookie: 1, length: 8 }))
    await client.take(18)
    await takeOptionReplies(client)
    expect((await client.take(24)).toString('hex')).toBe(`67446698${'0'.repeat(23)}1${'00'.repeat(8)}`)
  })

  test('are options, if it fails', async () => {
    const client = await (await serve()).connect()
    client.send(CLIENT_FLAGS, option(GO, goPayload('../x')), option(STRUCTURED_REPLY))
    await client.take(18)
    expect(await takeOptionReply(client)).toMatchObject({ option: GO, error: ERR.UNKNOWN })
    expect(await takeOptionReply(client)).toMatchObject({ option: STRUCTURED_REPLY, type: ACK })
  })
})
