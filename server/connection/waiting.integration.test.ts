/** Clients that wait for a disk which another one holds, and clients that keep the server waiting. */
import { describe, expect, test } from 'vitest'
import { ExportRefusal } from '../exports/export.ts'
import {
  ACK,
  CLIENT_FLAGS,
  DISC,
  ERR,
  GO,
  goPayload,
  option,
  outcome,
  type RawClient,
  readSimple,
  request,
  takeOptionReplies,
} from './test-client.ts'
import { allGone, holdings, MIB, serve } from './test-server.ts'

const LIST = 3
/** Bytes of the oldstyle handshake, all of which the server says. */
const OLDSTYLE_LENGTH = 152

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** Sends GO and gives the server time to find the disk held. */
async function waitFor(client: RawClient, name = 'disk'): Promise<void> {
  client.send(option(GO, goPayload(name)))
  await pause(30)
  expect(client.pending).toBe(0)
}

const lastOf = async (client: RawClient) => (await takeOptionReplies(client)).at(-1)

describe('A held disk', () => {
  test('is refused at once without --wait, naming who holds it since when', async () => {
    const server = await serve()
    await server.attached()
    const reply = await outcome(await server.greeted(), GO, goPayload('disk'))
    expect(reply.error).toBe(ERR.POLICY)
    expect(reply.text).toMatch(/^Disk disk already has 1 connection from 127\.0\.0\.1, since 20\d\d-.*Z;/)
  })

  test('is had as soon as its holder leaves, by the clients in their order', async () => {
    const server = await serve({ patience: 'unlimited' })
    const holder = await server.attached()
    const waiting: RawClient[] = []
    for (let count = 0; count < 3; count++) {
      waiting.push(await server.greeted())
      await waitFor(waiting.at(-1) as RawClient)
    }
    holder.send(request(DISC))
    for (const client of waiting) {
      expect(await lastOf(client)).toMatchObject({ type: ACK })
      expect(waiting.filter(({ pending }) => pending > 0)).toEqual([])
      client.send(request(DISC))
    }
  })

  test('is waited for as long as --wait says, and the handshake goes on after that', async () => {
    const server = await serve({ patience: 100, handshakeTimeoutMs: 60 })
    await server.attached()
    const client = await server.greeted()
    const before = performance.now()
    expect(await outcome(client, GO, goPayload('disk'))).toMatchObject({ error: ERR.POLICY })
    expect(performance.now() - before).toBeGreaterThan(95)
    expect(await outcome(client, GO, goPayload('other'))).toMatchObject({ type: ACK })
  })

  test('is in nobody’s way who wants another one', async () => {
    const server = await serve({ patience: 'unlimited' })
    await server.attached()
    await Promise.all(Array.from({ length: 20 }, async () => waitFor(await server.greeted())))
    const client = await server.attached('other')
    expect(await readSimple(client, 0, 16)).toEqual(Buffer.alloc(16))
  })

  test.each<[how: string, leave: (client: RawClient) => void]>([
    ['hangs up', client => client.hangUp()],
    ['resets the connection', client => client.reset()],
  ])('is not given to a client that %s while it waits', async (_, leave) => {
    const server = await serve({ patience: 'unlimited' })
    const holder = await server.attached()
    const before = holdings(server.path)
    const leaving = await server.greeted()
    await waitFor(leaving)
    const staying = await server.greeted()
    await waitFor(staying)
    leave(leaving)
    await allGone(server, 2)
    holder.send(request(DISC))
    expect(await lastOf(staying)).toMatchObject({ type: ACK })
    staying.send(request(DISC))
    staying.hangUp()
    holder.hangUp()
    await allGone(server)
    expect(server.admission.size).toBe(0)
    expect(holdings(server.path).locks).toBe(before.locks - 1)
  })

  test('lets a client send ahead no more than fits: beyond that its leaving could not be seen', async () => {
    const server = await serve({ patience: 'unlimited' })
    await server.attached()
    const client = await server.greeted()
    await waitFor(client)
    client.send(Buffer.alloc(MIB))
    await client.over
    client.reset()
    await allGone(server, 1)
    expect(server.admission.size).toBe(1)
  })

  test('is not given to a client that was shut out while it waited', async () => {
    const shutOut = new Set<string>()
    const server = await serve({
      patience: 'unlimited',
      around: catalog => ({
        ...catalog,
        revocation: open => (shutOut.has(open.name) ? 'You are not allowed here any more.' : undefined),
      }),
    })
    const { locks } = holdings(server.path)
    const holder = await server.attached()
    const client = await server.greeted()
    await waitFor(client)
    shutOut.add('disk')
    holder.send(request(DISC))
    expect(await lastOf(client)).toMatchObject({ error: ERR.POLICY })
    expect(server.admission.size).toBe(0)
    expect(holdings(server.path).locks).toBe(locks)
  })

  test('is not given to a client that waited while it was given up', async () => {
    let isGivenUp = false
    const server = await serve({
      patience: 'unlimited',
      around: catalog => ({
        ...catalog,
        resolve(name, peer) {
          if (isGivenUp) throw new ExportRefusal('unknown', 'The disk is being deleted.')
          return catalog.resolve(name, peer)
        },
      }),
    })
    const holder = await server.attached()
    const client = await server.greeted()
    await waitFor(client)
    isGivenUp = true
    holder.send(request(DISC))
    expect(await lastOf(client)).toMatchObject({ error: ERR.UNKNOWN })
    expect(server.admission.size).toBe(0)
  })

  test('is not given to an oldstyle client either that was shut out while it waited', async () => {
    let isShutOut = false
    const server = await serve({
      oldstyle: true,
      patience: 'unlimited',
      around: catalog => ({
        ...catalog,
        revocation: () => (isShutOut ? 'You are not allowed here any more.' : undefined),
      }),
    })
    const holder = await server.connect()
    await holder.take(OLDSTYLE_LENGTH)
    const client = await server.connect()
    await pause(30)
    isShutOut = true
    holder.send(request(DISC))
    expect(await client.rest()).toHaveLength(0)
    expect(server.admission.size).toBe(0)
  })
})

describe('The handshake', () => {
  const LIMIT = 150

  const beginnings = {
    nothing: Buffer.alloc(0),
    'half the flags': CLIENT_FLAGS.subarray(0, 2),
    'the flags': CLIENT_FLAGS,
    'half an option': Buffer.concat([CLIENT_FLAGS, Buffer.from('IHAVE')]),
    'an option without its payload': Buffer.concat([CLIENT_FLAGS, option(99, Buffer.alloc(0), 60_000)]),
    'all but the last byte of GO': Buffer.concat([
      CLIENT_FLAGS,
      option(GO, goPayload('disk')).subarray(0, -1),
    ]),
  }

  test('of a client that begins it, however far, and falls silent is ended', async () => {
    const server = await serve({ handshakeTimeoutMs: LIMIT })
    const started = performance.now()
    const times = Object.entries(beginnings).map(async ([what, bytes]) => {
      const client = await server.connect()
      client.send(bytes)
      await client.over
      return [what, performance.now() - started] as const
    })
    for (const [what, time] of await Promise.all(times)) {
      expect(time, what).toBeGreaterThan(LIMIT / 2)
      expect(time, what).toBeLessThan(LIMIT + 500)
    }
    await allGone(server)
    const failed = server.log.filter(({ message }) => message === 'Handshake failed')
    expect(failed.map(({ fields }) => fields.code)).toEqual(times.map(() => 'ETIMEDOUT'))
  })

  test('of a client that always sends one more byte, or one more option, is ended too', async () => {
    const server = await serve({ handshakeTimeoutMs: LIMIT })
    const [slow, chatty] = [await server.greeted(), await server.greeted()]
    slow.send(option(99, Buffer.alloc(0), 60_000))
    const timer = setInterval(() => {
      slow.send(Buffer.alloc(1))
      chatty.send(option(99))
    }, 10)
    await Promise.all([slow.over, chatty.over])
    clearInterval(timer)
    await allGone(server)
  })

  test('of a client that has its disk is over', async () => {
    const server = await serve({ handshakeTimeoutMs: LIMIT })
    const client = await server.attached()
    await pause(LIMIT + 50)
    expect(await readSimple(client, 0, 4)).toEqual(Buffer.alloc(4))
  })

  test('does not count the time in which the server makes a disk', async () => {
    const server = await serve({
      handshakeTimeoutMs: LIMIT,
      recipe: { command: 'sleep 0.4; truncate -s "$size" "$disk"' },
    })
    const client = await server.greeted()
    expect(await outcome(client, GO, goPayload('disk'))).toMatchObject({ type: ACK })
    expect(await readSimple(client, 0, 4)).toEqual(Buffer.alloc(4))
  })
})

describe('A client that leaves while its disk is made', () => {
  test.each(['hangUp', 'reset'] as const)('%s: the next one has it', async how => {
    const server = await serve({ recipe: { command: 'sleep 0.2; truncate -s "$size" "$disk"' } })
    const client = await server.greeted()
    client.send(option(GO, goPayload('disk')))
    await pause(50)
    client[how]()
    await allGone(server)
    expect(server.admission.size).toBe(0)
    expect(await outcome(await server.greeted(), GO, goPayload('disk'))).toMatchObject({ type: ACK })
  })
})

describe('A list of many exports', () => {
  test('is sent to a client that does not read only when the one before has gone', async () => {
    const names = Array.from({ length: 10_000 }, (_, index) => `${'x'.repeat(240)}${index}`)
    const server = await serve({ around: catalog => ({ ...catalog, list: async () => names }) })
    const clients = await Promise.all(Array.from({ length: 3 }, () => server.greeted()))
    for (const client of clients) {
      client.pause()
      for (let count = 0; count < 8; count++) client.send(option(LIST))
    }
    const growth = async (ms: number) => {
      const before = process.memoryUsage().arrayBuffers
      await pause(ms)
      return process.memoryUsage().arrayBuffers - before
    }
    // A machine with much to do takes its time for the first list of each.
    await expect.poll(() => growth(50)).toBeLessThan(MIB)
    expect(await growth(100)).toBeLessThan(3 * 4 * MIB)
    const [client] = clients as [RawClient]
    client.resume()
    // All of them, each with the acknowledgement of 20 bytes.
    const length = 20 + names.reduce((sum, name) => sum + 24 + name.length, 0)
    expect((await client.take(8 * length)).subarray(-20, -12).toString('hex')).toBe('0003e889045565a9')
  })
})
