/** TCP cuts a stream wherever it likes: the same bytes in any pieces must be the same session. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  BLOCK_STATUS,
  CACHE,
  CLIENT_FLAGS,
  request as compactRequest,
  write as compactWrite,
  DISC,
  extendedRequest,
  extendedWrite,
  FLAG,
  FLUSH,
  GO,
  goPayload,
  metaPayload,
  option,
  READ,
  TRIM,
  WRITE_ZEROES,
} from './test-client.ts'
import { MIB, serve, type TestServer } from './test-server.ts'

/** A directory in which syncs cost nothing, where there is one. */
function inMemory(): string {
  const path = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'ondemand-disk-test-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Long enough for the server to take what has been sent: both ends live in this process. */
const turn = async () => {
  for (let round = 0; round < 2; round++) await new Promise(resolve => setImmediate(resolve))
}

type Mode = 'simple' | 'structured' | 'extended'

function parseExtended(bytes: Buffer) {
  let at = bytes.indexOf(Buffer.from('6e8a278c', 'hex'))
  const handshake = bytes.toString('hex', 0, at)
  const replies = new Map<bigint, string>()
  while (at < bytes.length) {
    const cookie = bytes.readBigUInt64BE(at + 8)
    const end = at + 32 + Number(bytes.readBigUInt64BE(at + 24))
    replies.set(cookie, (replies.get(cookie) ?? '') + bytes.toString('hex', at, end))
    at = end
  }
  return { handshake, replies }
}

/** Replies by cookie, for those of different requests may come in any order; what came before them as it came. */
function parse(bytes: Buffer, mode: Mode, lengths: ReadonlyMap<bigint, number>) {
  if (mode === 'extended') return parseExtended(bytes)
  const structured = mode === 'structured'
  const start = bytes.indexOf(Buffer.from(structured ? '668e33ef' : '67446698', 'hex'))
  const simple = bytes.indexOf(Buffer.from('67446698', 'hex'))
  let at = simple < 0 ? start : Math.min(start < 0 ? simple : start, simple)
  const handshake = bytes.toString('hex', 0, at)
  const replies = new Map<bigint, string>()
  while (at < bytes.length) {
    const cookie = bytes.readBigUInt64BE(at + 8)
    const isSimple = bytes.readUInt32BE(at) === 0x67446698
    const isOk = bytes.readUInt32BE(at + 4) === 0
    const data = isSimple && isOk && !structured ? (lengths.get(cookie) ?? 0) : 0
    const end = isSimple ? at + 16 + data : at + 20 + bytes.readUInt32BE(at + 16)
    replies.set(cookie, (replies.get(cookie) ?? '') + bytes.toString('hex', at, end))
    at = end
  }
  return { handshake, replies }
}

/** A session from the client's flags to DISC, and how long the data of its READs is. */
function session(mode: Mode, data: Buffer): { bytes: Buffer; reads: Map<bigint, number> } {
  const agreed =
    mode === 'simple'
      ? []
      : [option(mode === 'extended' ? 11 : 8), option(10, metaPayload('disk', 'base:allocation'))]
  const request = mode === 'extended' ? extendedRequest : compactRequest
  const write = mode === 'extended' ? extendedWrite : compactWrite
  const length = data.length
  return {
    bytes: Buffer.concat([
      CLIENT_FLAGS,
      option(99, Buffer.from('what')),
      ...agreed,
      option(GO, goPayload('disk', 1, 3)),
      write(data, { cookie: 1, offset: 1000 }),
      request(READ, { cookie: 2, offset: 900, length: length + 200 }),
      request(FLUSH, { cookie: 3 }),
      write(data, { cookie: 4, offset: MIB }),
      request(WRITE_ZEROES, { cookie: 5, offset: 100_000, length: 5000 }),
      request(BLOCK_STATUS, { cookie: 6, offset: 500_000, length: 100, flags: FLAG.REQ_ONE }),
      write(data, { cookie: 7, offset: 1000, flags: FLAG.FUA }),
      request(TRIM, { cookie: 8, offset: 200_000, length: 5000 }),
      request(CACHE, { cookie: 9, length: 5000 }),
      request(READ, { cookie: 10, length: 64 }),
      request(77, { cookie: 11 }),
      request(DISC),
    ]),
    reads: new Map([
      [2n, length + 200],
      [10n, 64],
    ]),
  }
}

/** Sends the pieces one by one and takes everything until the server hangs up. */
async function exchange(server: TestServer, pieces: readonly Buffer[]): Promise<Buffer> {
  const client = await server.connect()
  for (const piece of pieces) {
    client.send(piece)
    await turn()
  }
  const answer = await client.rest()
  client.hangUp()
  return answer
}

/** Cuts bytes at these places. */
const cut = (bytes: Buffer, ...places: readonly number[]) =>
  [0, ...places].map((place, index) => bytes.subarray(place, places[index]))

describe.each(['simple', 'structured', 'extended'] as const)('A session with %s replies', mode => {
  test('split at every byte gets the same answers', async () => {
    const server = await serve({ patience: 5000, path: inMemory() })
    await server.attached('disk').then(client => client.hangUp())
    const { bytes, reads } = session(mode, randomBytes(40))
    await exchange(server, [bytes])
    const expected = parse(await exchange(server, [bytes]), mode, reads)
    expect([...expected.replies.keys()].sort((a, b) => Number(a - b))).toEqual(
      Array.from({ length: 11 }, (_, index) => BigInt(index + 1)),
    )
    for (let place = 1; place < bytes.length; place++) {
      const answers = parse(await exchange(server, cut(bytes, place)), mode, reads)
      expect(answers, `split at ${place}`).toEqual(expected)
    }
  })

  test('sent byte by byte gets the same answers', async () => {
    const server = await serve({ patience: 5000, path: inMemory() })
    await server.attached('disk').then(client => client.hangUp())
    const { bytes, reads } = session(mode, randomBytes(40))
    await exchange(server, [bytes])
    const expected = parse(await exchange(server, [bytes]), mode, reads)
    const answers = parse(
      await exchange(
        server,
        [...bytes].map(byte => Buffer.from([byte])),
      ),
      mode,
      reads,
    )
    expect(answers).toEqual(expected)
  })

  test('with payloads of several pages, split around pages and sectors, gets the same answers', async () => {
    const server = await serve({ patience: 5000, path: inMemory() })
    await server.attached('disk').then(client => client.hangUp())
    const { bytes, reads } = session(mode, randomBytes(20_000))
    await exchange(server, [bytes])
    const expected = parse(await exchange(server, [bytes]), mode, reads)
    const header = bytes.indexOf(Buffer.from(mode === 'extended' ? '21e41c71' : '25609513', 'hex'))
    for (let place = header + (mode === 'extended' ? 32 : 28); place < bytes.length; place += 2048) {
      // The payload goes to offset 1000: its pages end at 3096, 7192, ...
      for (const near of [place - 1, place, place + 3096 - 1024, place + 3097 - 1024]) {
        if (near <= 0 || near >= bytes.length) continue
        const answers = parse(await exchange(server, cut(bytes, near)), mode, reads)
        expect(answers, `split at ${near}`).toEqual(expected)
      }
    }
  })
})

test('2000 requests in one segment are all answered', async () => {
  const server = await serve()
  const client = await server.attached()
  const kinds = [
    (cookie: number) => compactRequest(READ, { cookie, length: 512, offset: 512 * (cookie % 2000) }),
    (cookie: number) => compactWrite(Buffer.alloc(512, 1), { cookie, offset: 512 * (cookie % 2000) }),
    (cookie: number) => compactRequest(FLUSH, { cookie }),
    (cookie: number) => compactRequest(TRIM, { cookie, length: 4096, offset: 4096 * (cookie % 200) }),
  ]
  const all = Array.from({ length: 2000 }, (_, cookie) => kinds[cookie % kinds.length]?.(cookie) as Buffer)
  client.send(Buffer.concat([...all, compactRequest(DISC)]))
  const answer = await client.rest()
  const cookies = new Set<number>()
  for (let at = 0; at < answer.length; ) {
    expect(answer.readUInt32BE(at)).toBe(0x67446698)
    expect(answer.readUInt32BE(at + 4)).toBe(0)
    const cookie = Number(answer.readBigUInt64BE(at + 8))
    cookies.add(cookie)
    at += 16 + (cookie % kinds.length === 0 ? 512 : 0)
  }
  expect(cookies.size).toBe(2000)
})
