/** Clients that do not speak NBD, or stop speaking it. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  CLIENT_FLAGS,
  errorOf,
  GO,
  goPayload,
  option,
  READ,
  request,
  takeSimple,
  write,
} from './test-client.ts'
import { allGone, holdings, MIB, serve } from './test-server.ts'

const GARBAGE = Buffer.alloc(28, 0xaa)

describe('Garbage behind good requests', () => {
  test('does not send the replies of these requests to another client', async () => {
    const server = await serve()
    const [good, bad] = [await server.attached('good'), await server.attached('bad')]
    await errorOf(bad, write(Buffer.from('the secret of another client')))
    bad.send(Buffer.concat([request(READ, { length: 28, cookie: 1 }), GARBAGE]))
    await bad.over
    good.send(request(READ, { length: 28, cookie: 2 }))
    expect((await takeSimple(good)).cookie).toBe(2n)
    expect(await good.take(28)).toEqual(Buffer.alloc(28))
  })

  test('ends the connection after their replies', async () => {
    const server = await serve()
    const client = await server.attached()
    client.send(Buffer.concat([request(READ, { length: 512, cookie: 7 }), GARBAGE]))
    expect(await client.rest()).toHaveLength(16 + 512)
    await allGone(server)
    expect(server.log.find(({ message }) => message === 'Disk closed')?.fields.code).toBe('EPROTO')
  })
})

describe('Whatever bytes come', () => {
  const bytes = fc.uint8Array({ maxLength: 300 }).map(array => Buffer.from(array))
  const magics = fc.constantFrom(Buffer.alloc(0), Buffer.from('IHAVEOPT'), Buffer.from('25609513', 'hex'))
  const stage = fc.constantFrom('greeting', 'options', 'requests')

  test('other clients do not notice, and nothing is left behind', async () => {
    const server = await serve()
    const other = await server.attached('other')
    await server.attached('disk').then(client => client.reset())
    await allGone(server, 1)
    const idle = holdings(server.path)
    await fc.assert(
      fc.asyncProperty(stage, fc.array(fc.tuple(magics, bytes), { maxLength: 6 }), async (where, parts) => {
        const client = await server.connect()
        if (where === 'options') client.send(CLIENT_FLAGS)
        if (where === 'requests') client.send(CLIENT_FLAGS, option(GO, goPayload('disk')))
        client.send(...parts.flat())
        client.hangUp()
        await client.over
        await allGone(server, 1)
        other.send(request(READ, { cookie: 0x77, length: 4 }))
        expect(await takeSimple(other)).toEqual({ error: 0, cookie: 0x77n })
        expect(await other.take(4)).toEqual(Buffer.alloc(4))
      }),
      { numRuns: 150 },
    )
    await expect.poll(() => holdings(server.path)).toEqual(idle)
  })

  test('every request that is well-formed is answered once, and nothing else', async () => {
    const edges = [
      0n,
      1n,
      4096n,
      BigInt(MIB - 1),
      BigInt(MIB),
      2n ** 32n,
      2n ** 53n,
      2n ** 63n,
      2n ** 64n - 1n,
    ]
    const fields = fc.record({
      type: fc.constantFrom(READ, 3, 4, 5, 6, 7, 8, 99, 0xffff),
      flags: fc.oneof(fc.constantFrom(0, 1, 2, 4, 8, 16, 32), fc.nat(0xffff)),
      offset: fc.constantFrom(...edges),
      length: fc.constantFrom(0, 1, 512, 4096, MIB, 2 ** 31, 0xffff_ffff),
    })
    const server = await serve()
    const client = await server.attached('disk', { structured: true, allocation: true })
    let last = 0n
    await fc.assert(
      fc.asyncProperty(fc.array(fields, { minLength: 1, maxLength: 30 }), async requests => {
        const waiting = new Set<bigint>()
        for (const { type, ...rest } of requests) {
          last++
          waiting.add(last)
          client.send(request(type, { ...rest, cookie: last }))
        }
        while (waiting.size > 0) {
          const head = await client.take(16)
          const cookie = head.readBigUInt64BE(8)
          expect(waiting.has(cookie)).toBe(true)
          const isSimple = head.readUInt32BE(0) === 0x67446698
          if (!isSimple) await client.take((await client.take(4)).readUInt32BE(0))
          if (isSimple || (head.readUInt16BE(4) & 1) === 1) waiting.delete(cookie)
        }
        expect(client.pending).toBe(0)
      }),
      { numRuns: 60 },
    )
  })
})
