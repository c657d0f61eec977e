/** Requests and replies inside TLS: much of it, slowly read, cut off, and ended in order. */
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, test, vi } from 'vitest'
import {
  ask,
  DISC,
  errorOf,
  FLAG,
  GO,
  goPayload,
  outcome,
  READ,
  readSimple,
  request,
  takeError,
  takeSimple,
  takeStructured,
  WRITE,
  write,
} from './test-client.ts'
import { allGone, holdings, MIB } from './test-server.ts'
import { makeCertificates, type SecureClient, serveTls, type TlsTestServer } from './test-tls.ts'

makeCertificates()

const sha256 = (...parts: readonly Uint8Array[]) => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest('hex')
}

async function attached(server: TlsTestServer, name = 'disk'): Promise<SecureClient> {
  const client = await server.secured()
  const { error, text } = await outcome(client, GO, goPayload(name))
  if (error !== undefined) throw new Error(text)
  return client
}

const PATIENT = { timeout: 10_000, interval: 200 }

/** Bytes that the kernel keeps for a connection between these ports because they have not been acknowledged. */
function unacknowledged(from = 0, to = 0): number {
  const hex = (port: number) => `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const lines = readFileSync('/proc/net/tcp', 'latin1').split('\n')
  const line = lines.find(text => text.includes(`${hex(from)} `) && text.includes(`${hex(to)} 01 `))
  return Number.parseInt(/ 01 ([0-9A-F]{8}):/.exec(line ?? '')?.[1] ?? '0', 16)
}

describe('Inside TLS', () => {
  test('little waits in the kernel for a client that does not read', async () => {
    const server = await serveTls({ size: 32 * MIB })
    const client = await attached(server)
    client.pause()
    client.send(Buffer.concat(Array.from({ length: 128 }, () => request(READ, { length: MIB / 4 }))))
    const { localPort, remotePort } = client.tls
    let last = -1
    // What the client's kernel has taken does not count: the rest is unsent.
    await expect
      .poll(() => {
        const [before, now] = [last, unacknowledged(remotePort, localPort)]
        last = now
        return now > 0 && now === before
      }, PATIENT)
      .toBe(true)
    expect(last).toBeLessThan(MIB / 2)
    client.resume()
    for (let count = 0; count < 128; count++) {
      expect((await takeSimple(client)).error).toBe(0)
      expect(await client.take(MIB / 4)).toHaveLength(MIB / 4)
    }
  })

  test.for(['TLSv1.2', 'TLSv1.3'] as const)(
    'pipelined writes and reads of all sizes arrive unchanged (%s)',
    async maxVersion => {
      const server = await serveTls({ size: 64 * MIB })
      const client = await server.secured({ maxVersion })
      await outcome(client, GO, goPayload('disk'))
      const sizes = [1, 27, 28, 511, 4096, 16_384, 16_385, 65_537, 300_001, MIB, 3 * MIB + 7, 20 * MIB]
      const pieces: { data: Buffer; offset: number }[] = []
      let offset = 3
      for (const size of sizes) {
        pieces.push({ data: randomBytes(size), offset })
        offset += size
      }
      client.send(...pieces.map((piece, cookie) => write(piece.data, { offset: piece.offset, cookie })))
      for (const _ of pieces) expect(await takeError(client)).toBe(0)
      client.send(
        ...pieces.map(({ data, offset }, cookie) => request(READ, { cookie, offset, length: data.length })),
      )
      for (const _ of pieces) {
        const { error, cookie } = await takeSimple(client)
        expect(error).toBe(0)
        const { data } = pieces[Number(cookie)] as { data: Buffer }
        expect(sha256(await client.take(data.length))).toBe(sha256(data))
      }
    },
  )

  test('requests that come byte by byte, and many in one record, are understood', async () => {
    const server = await serveTls()
    const client = await attached(server)
    const data = randomBytes(5000)
    const inBytes = (bytes: Buffer) => [...bytes].map(byte => Buffer.from([byte]))
    client.send(...inBytes(write(data.subarray(0, 40))))
    expect(await takeError(client)).toBe(0)
    client.send(...inBytes(request(READ, { length: 40, cookie: 1 })))
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 1n })
    expect(await client.take(40)).toEqual(data.subarray(0, 40))

    const requests = Array.from({ length: 100 }, (_, index) =>
      write(data.subarray(index * 50, index * 50 + 50), { offset: index * 50 }),
    )
    client.send(Buffer.concat(requests))
    for (let index = 0; index < 100; index++) expect(await takeError(client)).toBe(0)
    expect(await readSimple(client, 0, 5000)).toEqual(data)
  })

  test('the payload of a refused write is drained from TLS, and the next request is understood', async () => {
    const server = await serveTls({ size: MIB })
    const client = await attached(server)
    client.send(write(randomBytes(300_000), { offset: MIB - 5 }), request(READ, { length: 512, cookie: 2 }))
    expect(await takeError(client)).toBe(28)
    expect(await takeSimple(client)).toEqual({ error: 0, cookie: 2n })
    await client.take(512)
  })

  test('structured replies of a read larger than any buffer arrive', async () => {
    const server = await serveTls({ size: 40 * MIB })
    const client = await server.secured()
    await ask(client, 8)
    await outcome(client, GO, goPayload('disk'))
    const data = randomBytes(30 * MIB)
    expect(await errorOf(client, write(data))).toBe(0)
    client.send(request(READ, { length: data.length }))
    const chunks = await takeStructured(client)
    expect(sha256(...chunks.filter(({ type }) => type === 1).map(({ payload }) => payload.subarray(8)))).toBe(
      sha256(data),
    )
  })

  test('writes with FUA and flushes are answered', async () => {
    const server = await serveTls()
    const client = await attached(server)
    expect(await errorOf(client, write(randomBytes(4096), { flags: FLAG.FUA }))).toBe(0)
    expect(await errorOf(client, request(3))).toBe(0)
  })
})

describe('A client that does not read inside TLS', () => {
  test.for([
    ['many reads', 65_536, 4000],
    ['more requests than are kept for it', 4096, 40_000],
    ['reads that are sent piece by piece', 16 * MIB, 16],
  ] as const)(
    'costs little memory, stalls nobody, and gets all in the end (%s)',
    async ([, length, count]) => {
      const server = await serveTls({ size: 16 * MIB })
      const client = await attached(server)
      const data = randomBytes(length)
      expect(await errorOf(client, write(data))).toBe(0)
      client.pause()
      const before = process.memoryUsage()
      const requests = Array.from({ length: count }, (_, cookie) => request(READ, { cookie, length }))
      client.send(Buffer.concat(requests))
      await new Promise(resolve => setTimeout(resolve, 300))
      const other = await attached(server, 'other')
      expect(await errorOf(other, write(data.subarray(0, 512)))).toBe(0)
      expect(await readSimple(other, 0, 512)).toEqual(data.subarray(0, 512))
      const after = process.memoryUsage()
      // At least 156 MiB are wanted.
      expect(after.external + after.arrayBuffers - before.external - before.arrayBuffers).toBeLessThan(
        48 * MIB,
      )
      client.resume()
      for (let index = 0; index < count; index++) {
        expect((await takeSimple(client)).cookie).toBe(BigInt(index))
        expect((await client.take(length)).equals(data)).toBe(true)
      }
    },
  )
})

describe('The end of a connection inside TLS', () => {
  test('comes in order after DISC: the client sees no broken TLS', async () => {
    const server = await serveTls()
    const client = await attached(server)
    let error: Error | undefined
    client.tls.on('error', broken => {
      error = broken
    })
    client.send(request(DISC))
    expect(await client.rest()).toHaveLength(0)
    expect(error).toBeUndefined()
    client.tls.end()
    await allGone(server)
  })

  test('comes after the replies when the client says its last word (close_notify)', async () => {
    const server = await serveTls()
    const client = await attached(server)
    const data = randomBytes(100_000)
    expect(await errorOf(client, write(data))).toBe(0)
    for (let cookie = 0; cookie < 20; cookie++) client.send(request(READ, { cookie, length: data.length }))
    client.hangUp()
    expect(await client.rest()).toHaveLength(20 * (16 + data.length))
    await allGone(server)
  })

  test.for([
    ['in the middle of a request', request(READ).subarray(0, 20)],
    ['in the middle of a payload', Buffer.concat([request(WRITE, { length: MIB }), Buffer.alloc(10_000)])],
    ['with replies on their way', Buffer.concat(Array(100).fill(request(READ, { length: MIB })))],
  ] as const)('by a reset %s leaves nothing behind', async ([, bytes]) => {
    const server = await serveTls()
    const before = holdings(server.path)
    const client = await attached(server)
    client.tls.on('error', () => {})
    client.pause()
    client.send(bytes)
    await new Promise(resolve => setTimeout(resolve, 50))
    client.reset()
    await allGone(server)
    await vi.waitFor(() => expect(holdings(server.path).locks).toBe(before.locks))
    expect(holdings(server.path).files).toEqual(before.files)
    const next = await attached(server)
    expect(await errorOf(next, write(randomBytes(512)))).toBe(0)
  })

  test('by the server finishes what is under way and answers ESHUTDOWN to the rest', async () => {
    const server = await serveTls()
    const client = await attached(server)
    client.tls.on('error', () => {})
    expect(await errorOf(client, write(randomBytes(4096)))).toBe(0)
    const stopped = server.server.stop()
    expect(await errorOf(client, write(randomBytes(4096)))).toBe(108)
    expect(await client.rest()).toHaveLength(0)
    client.tls.end()
    await stopped
    expect(server.server.connections).toBe(0)
  })
})
