/** Clients that do not speak NBD, or stop speaking it. */
import { describe, expect, test } from 'vitest'
import { errorOf, READ, request, takeSimple, write } from './test-client.ts'
import { allGone, serve } from './test-server.ts'

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
