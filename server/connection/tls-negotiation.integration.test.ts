/** STARTTLS in the handshake: when it may be asked for, what is forgotten with it, and what goes without it. */
import { readdirSync } from 'node:fs'
import { describe, expect, test, vi } from 'vitest'
import { HIDDEN_NAME } from '../backends/disks/directory.ts'
import { addressOf, trySend } from '../linux/syscalls.ts'
import {
  ACK,
  ask,
  BLOCK_STATUS,
  ERR,
  errorOf,
  FLUSH,
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
  takeOptionReply,
  u32,
  u64,
  write,
} from './test-client.ts'
import { allGone, serve } from './test-server.ts'
import {
  goOverToTls,
  makeCertificates,
  refusalOf,
  STARTTLS,
  serveTls,
  startTls,
  TLS_REQD,
} from './test-tls.ts'

makeCertificates()

const EXPORT_NAME = 1
const ABORT = 2
const LIST = 3
const STRUCTURED_REPLY = 8
const LIST_META_CONTEXT = 9
const SET_META_CONTEXT = 10
const EXTENDED_HEADERS = 11

/** The server's error to an option, if any. */
const errorTo = async (client: RawClient, type: number, payload?: Uint8Array) =>
  (await outcome(client, type, payload)).error

describe('STARTTLS', () => {
  test('leads to a TLS connection on which the handshake goes on', async () => {
    const server = await serveTls()
    const client = await server.secured()
    expect(client.tls.getProtocol()).toBe('TLSv1.3')
    expect(await errorTo(client, GO, goPayload('alice'))).toBeUndefined()
    expect(await errorOf(client, write(Buffer.from('hello')))).toBe(0)
    expect((await readSimple(client, 0, 5)).toString()).toBe('hello')
  })

  test('with data is INVALID, and the next option is understood', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    expect(await errorTo(client, STARTTLS, Buffer.alloc(1000, 0x49))).toBe(ERR.INVALID)
    expect(await errorTo(client, LIST)).toBeUndefined()
    await startTls(client)
  })

  test('a second time is INVALID, and TLS goes on', async () => {
    const server = await serveTls()
    const client = await server.secured()
    expect(await errorTo(client, STARTTLS)).toBe(ERR.INVALID)
    expect(await errorTo(client, GO, goPayload('alice'))).toBeUndefined()
  })

  test('is refused by POLICY where TLS is off, and the handshake goes on', async () => {
    const server = await serve()
    const client = await server.greeted()
    expect(await errorTo(client, STARTTLS)).toBe(ERR.POLICY)
    expect(await errorTo(client, GO, goPayload('alice'))).toBeUndefined()
  })

  test('may be followed by nothing at all: the server waits for a ClientHello until the handshake is over time', async () => {
    const server = await serveTls({ handshakeTimeoutMs: 300 })
    const client = await server.greeted()
    expect(await errorTo(client, STARTTLS)).toBeUndefined()
    expect(await client.rest()).toHaveLength(0)
    expect(await refusalOf(server)).toBe('The client did not finish its handshake in time.')
    await allGone(server)
  })

  test('goes on over time when the client stops in the middle of the TLS handshake', async () => {
    const server = await serveTls({ handshakeTimeoutMs: 300 })
    const client = await server.greeted()
    await outcome(client, STARTTLS)
    // A TLS record of 512 bytes of which only the header and the first byte come.
    client.send(Buffer.from([22, 3, 1, 2, 0, 1]))
    expect(await client.rest()).toHaveLength(0)
    expect(await refusalOf(server)).toBe('The client did not finish its handshake in time.')
    await allGone(server)
  })
})

describe('A client that leaves during the TLS handshake', () => {
  test.for([
    ['without a ClientHello', [], (client: RawClient) => client.hangUp()],
    ['in the middle of its ClientHello', [22, 3, 1, 2, 0, 1], (client: RawClient) => client.hangUp()],
    ['by a reset', [22, 3, 1, 2, 0, 1], (client: RawClient) => client.reset()],
  ] as const)('%s is gone at once, and the log says so', async ([, bytes, leave]) => {
    const server = await serveTls()
    const client = await server.greeted()
    await outcome(client, STARTTLS)
    client.send(Buffer.from(bytes))
    leave(client)
    await vi.waitFor(() => expect(server.server.connections).toBe(0))
    expect(await refusalOf(server)).toMatch(/left during the TLS handshake|ECONNRESET/)
  })

  test("when it has seen the server's certificate is gone at once", async () => {
    const server = await serveTls()
    const client = await server.greeted()
    const secure = await startTls(client)
    // Its last message of the handshake is not sent any more.
    secure.tls.destroy()
    await vi.waitFor(() => expect(server.server.connections).toBe(0))
    expect(await refusalOf(server)).toMatch(/left during/)
  })
})

describe('What was agreed on before STARTTLS', () => {
  test('structured replies are forgotten (CVE-2021-3716)', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    expect(await errorTo(client, STRUCTURED_REPLY)).toBeUndefined()
    const secure = await startTls(client)
    expect(await errorTo(secure, GO, goPayload('alice'))).toBeUndefined()
    // A simple reply: after STRUCTURED_REPLY it would be a structured one.
    expect(await readSimple(secure, 0, 512)).toEqual(Buffer.alloc(512))
  })

  test('extended headers are forgotten (CVE-2021-3716)', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    expect(await errorTo(client, EXTENDED_HEADERS)).toBeUndefined()
    const secure = await startTls(client)
    // After EXTENDED_HEADERS it would be EXT_HEADER_REQD, and EXPORT_NAME would be forbidden.
    expect(await errorTo(secure, STRUCTURED_REPLY)).toBeUndefined()
    expect(await errorTo(secure, GO, goPayload('alice'))).toBeUndefined()
    expect(await errorOf(secure, request(FLUSH))).toBe(0)
  })

  test('metadata contexts are forgotten (CVE-2021-3716)', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    await ask(client, STRUCTURED_REPLY)
    const replies = await ask(client, SET_META_CONTEXT, metaPayload('alice', 'base:allocation'))
    expect(replies.map(({ type }) => type)).toEqual([4, ACK])
    const secure = await startTls(client)
    await ask(secure, STRUCTURED_REPLY)
    expect(await errorTo(secure, GO, goPayload('alice'))).toBeUndefined()
    expect(await errorOf(secure, request(BLOCK_STATUS, { length: 4096 }))).toBe(22)
  })

  test('metadata contexts cannot be set inside TLS by structured replies from outside', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    await ask(client, STRUCTURED_REPLY)
    const secure = await startTls(client)
    const payload = metaPayload('alice', 'base:allocation')
    expect(await errorTo(secure, SET_META_CONTEXT, payload)).toBe(ERR.INVALID)
  })

  test('the client flag NO_ZEROES stays: it is no option', async () => {
    const server = await serveTls()
    const client = await server.secured()
    client.send(option(EXPORT_NAME, Buffer.from('alice')))
    expect((await client.take(10)).readBigUInt64BE(0)).toBe(2n ** 20n)
    expect(await readSimple(client, 0, 16)).toEqual(Buffer.alloc(16))
  })
})

describe('Plain text where only TLS may be', () => {
  test('behind STARTTLS in one segment ends the connection, and nothing of it is obeyed (CVE-2021-3716)', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    client.send(Buffer.concat([option(STARTTLS), option(GO, goPayload('injected'))]))
    // Not even the ACK, behind which a client would begin TLS.
    expect(await client.rest()).toHaveLength(0)
    expect(await refusalOf(server)).toMatch(/behind STARTTLS/)
    await allGone(server)
    expect(readdirSync(server.path)).toEqual([HIDDEN_NAME])
  })

  test('a single byte behind STARTTLS ends the connection', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    client.send(Buffer.concat([option(STARTTLS), Buffer.from([22])]))
    expect(await client.rest()).toHaveLength(0)
    expect(await refusalOf(server)).toMatch(/behind STARTTLS/)
  })

  test('behind STARTTLS that waits for an earlier option ends the connection', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    client.send(Buffer.concat([option(LIST), option(STARTTLS), option(GO, goPayload('injected'))]))
    const replies = await client.rest()
    expect(replies.readUInt32BE(8)).toBe(LIST)
    expect(replies.indexOf(u32(STARTTLS), 8)).toBe(-1)
    expect(await refusalOf(server)).toMatch(/behind STARTTLS/)
  })

  test('STARTTLS itself may come with earlier options in one segment', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    client.send(Buffer.concat([option(LIST), option(99, Buffer.alloc(10)), option(STARTTLS)]))
    for (;;) {
      const { option: about, type } = await takeOptionReply(client)
      if (about === STARTTLS) {
        expect(type).toBe(ACK)
        break
      }
    }
    const secure = await goOverToTls(client)
    expect(await errorTo(secure, LIST)).toBeUndefined()
  })

  test('between STARTTLS and the ClientHello fails the TLS handshake, and nothing of it is obeyed', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    await outcome(client, STARTTLS)
    client.send(option(GO, goPayload('injected')))
    const answer = await client.rest()
    // At most a TLS alert (content type 21); no reply of NBD.
    expect([undefined, 21]).toContain(answer[0])
    expect(answer.includes(u64(0x3e889045565a9n))).toBe(false)
    expect(await refusalOf(server)).toMatch(/^TLS failed: /)
    await allGone(server)
    expect(readdirSync(server.path)).toEqual([HIDDEN_NAME])
  })

  test('in the middle of the transmission ends the connection', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    const secure = await startTls(client)
    secure.tls.on('error', () => {})
    await outcome(secure, GO, goPayload('alice'))
    // Below TLS, as somebody in the middle would do it.
    const { fd } = (client.socket as unknown as { _handle: { fd: number } })._handle
    const injected = request(READ, { length: 512 })
    expect(trySend(fd, addressOf(injected), injected.length)).toBe(injected.length)
    await secure.over
    await allGone(server)
    expect(server.log.find(({ message }) => message === 'Disk closed')?.fields.reason).toBe(
      'TLS failed: bad record type.',
    )
  })
})

describe('A server that requires TLS', () => {
  const NAME = goPayload('alice')
  test.for([
    ['LIST', LIST, Buffer.alloc(0)],
    ['LIST with data', LIST, Buffer.alloc(300)],
    ['INFO', INFO, NAME],
    ['GO', GO, NAME],
    ['GO that is malformed', GO, Buffer.alloc(3)],
    ['STRUCTURED_REPLY', STRUCTURED_REPLY, Buffer.alloc(0)],
    ['LIST_META_CONTEXT', LIST_META_CONTEXT, metaPayload('alice')],
    ['SET_META_CONTEXT', SET_META_CONTEXT, metaPayload('alice', 'base:allocation')],
    ['EXTENDED_HEADERS', 11, Buffer.alloc(0)],
    ['an option that nobody knows', 0x10000, Buffer.alloc(5000)],
  ] as const)(
    'answers %s with TLS_REQD before TLS, drains its data, and serves after it',
    async ([, type, payload]) => {
      const server = await serveTls({ required: true })
      const client = await server.greeted()
      expect(await errorTo(client, type, payload)).toBe(TLS_REQD)
      expect(await errorTo(client, type, payload)).toBe(TLS_REQD)
      const secure = await startTls(client)
      expect(await errorTo(secure, type, payload)).not.toBe(TLS_REQD)
    },
  )

  test('makes no disk before TLS', async () => {
    const server = await serveTls({ required: true })
    const client = await server.greeted()
    await outcome(client, GO, NAME)
    const secure = await startTls(client)
    expect((await ask(secure, LIST)).map(({ text }) => text.slice(4))).toEqual(['', ''])
  })

  test('hangs up on EXPORT_NAME before TLS, tells the log why, and makes nothing', async () => {
    const server = await serveTls({ required: true })
    const client = await server.greeted()
    client.send(option(EXPORT_NAME, Buffer.from('alice')))
    expect(await client.rest()).toHaveLength(0)
    expect(await refusalOf(server)).toMatch(/TLS/)
    expect((await ask(await server.secured(), LIST)).map(({ text }) => text.slice(4))).toEqual(['', ''])
  })

  test('acknowledges ABORT before TLS', async () => {
    const server = await serveTls({ required: true })
    const client = await server.greeted()
    expect((await outcome(client, ABORT)).type).toBe(ACK)
    expect(await client.rest()).toHaveLength(0)
  })

  test('tells the log of a client that asked for a disk in plain text', async () => {
    const server = await serveTls({ required: true })
    const client = await server.greeted()
    await outcome(client, GO, NAME)
    await vi.waitFor(() => {
      const line = server.log.find(({ message }) => message === 'Export refused')
      expect(line?.fields).toMatchObject({ export: 'alice', reason: expect.stringMatching(/TLS/) })
    })
  })
})

describe('A server that offers TLS', () => {
  test('serves the same disk in plain text and inside TLS', async () => {
    const server = await serveTls()
    const plain = await server.attached('alice')
    await errorOf(plain, write(Buffer.from('from outside')))
    plain.send(request(2))
    await vi.waitFor(() => expect(server.log.at(-1)?.message).toBe('Disk closed'))
    const secure = await server.secured()
    await outcome(secure, GO, goPayload('alice'))
    expect((await readSimple(secure, 0, 12)).toString()).toBe('from outside')
  })

  test('refuses a name by other errors than TLS_REQD, inside TLS and outside', async () => {
    const server = await serveTls()
    for (const client of [await server.greeted(), await server.secured()]) {
      expect(await errorTo(client, GO, goPayload('../x'))).toBe(ERR.UNKNOWN)
      expect(await errorTo(client, 99)).toBe(ERR.UNSUP)
    }
  })

  test('and no more takes options beyond the limit, however many of them came before TLS', async () => {
    const server = await serveTls()
    const client = await server.greeted()
    for (let count = 0; count < 200; count++) client.send(option(99))
    for (let count = 0; count < 200; count++) await takeOptionReply(client)
    const secure = await startTls(client)
    for (let count = 0; count < 100; count++) secure.send(option(99))
    await secure.rest()
    expect(await refusalOf(server)).toMatch(/too many options/)
  })
})

test('A server without TLS never answers TLS_REQD', async () => {
  const server = await serve({ allow: ['127.0.0.1'], deny: [] })
  const client = await greet(await server.connect())
  for (const [type, payload] of [
    [STARTTLS, undefined],
    [LIST, undefined],
    [INFO, goPayload('../x')],
    [GO, goPayload('a/b')],
    [99, undefined],
  ] as const) {
    expect(await errorTo(client, type, payload)).not.toBe(TLS_REQD)
  }
})
