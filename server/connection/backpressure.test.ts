/** Clients that do not read their replies, or read them late. */
import { describe, expect, test } from 'vitest'
import { READ, request, takeSimple } from './test-client.ts'
import { MIB, serve } from './test-server.ts'

const soon = () => new Promise(resolve => setImmediate(resolve))

describe('A client that reads late', () => {
  test('gets every reply, also when the last part that the socket did not take was small', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    client.pause()
    for (let cookie = 0; cookie < 400; cookie++) {
      client.send(request(READ, { cookie, length: 30_000 }))
      // One at a time, so that each reply is sent by itself.
      await soon()
    }
    client.resume()
    for (let cookie = 0; cookie < 400; cookie++) {
      expect(await takeSimple(client)).toEqual({ error: 0, cookie: BigInt(cookie) })
      await client.take(30_000)
    }
  })
})
