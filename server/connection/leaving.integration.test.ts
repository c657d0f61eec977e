/** Clients that leave in every way and at every moment, and what they leave behind: nothing. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { bytesLent } from './buffers.ts'
import { gate, memoryBackend } from './test-backend.ts'
import {
  CLIENT_FLAGS,
  connectRaw,
  DISC,
  errorOf,
  FLAG,
  FLUSH,
  GO,
  goPayload,
  greet,
  option,
  outcome,
  type RawClient,
  READ,
  readSimple,
  request,
  takeError,
  WRITE,
  write,
} from './test-client.ts'
import { allGone, type Holdings, holdings, MIB, type Setup, serve, type TestServer } from './test-server.ts'

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

type Leave = (client: RawClient) => void
const LEAVES: readonly [how: string, leave: Leave][] = [
  ['hangs up', client => client.hangUp()],
  ['resets the connection', client => client.reset()],
  ['closes', client => client.socket.destroy()],
]

/** A server, and what it holds before any client has come. */
interface IdleServer extends TestServer {
  readonly idle: Holdings
  readonly lent: number
}

async function idleServer(setup: Setup = {}): Promise<IdleServer> {
  const server = await serve(setup)
  return { ...server, idle: holdings(server.path), lent: bytesLent() }
}

/** Waits until the server holds what it held before. */
async function afterwards(server: IdleServer): Promise<void> {
  await allGone(server)
  // A disk that was just being opened is given back when it is open.
  await expect.poll(() => server.admission.size, { interval: 5 }).toBe(0)
  // Descriptors are closed in the thread pool.
  await expect.poll(() => holdings(server.path), { interval: 5 }).toEqual(server.idle)
}

describe.each(LEAVES)('A client that %s', (_, leave) => {
  const header = request(WRITE, { length: 100_000 })

  test.each<[when: string, bytes: Buffer]>([
    ['before it has said anything', Buffer.alloc(0)],
    ['in the middle of its flags', CLIENT_FLAGS.subarray(0, 3)],
    ['after its flags', CLIENT_FLAGS],
    [
      'in the middle of an option',
      Buffer.concat([CLIENT_FLAGS, option(GO, goPayload('disk')).subarray(0, 20)]),
    ],
    ['right behind GO', Buffer.concat([CLIENT_FLAGS, option(GO, goPayload('disk'))])],
    ['right behind GO and requests', Buffer.concat([CLIENT_FLAGS, option(GO, goPayload('disk')), header])],
  ])('%s leaves nothing behind', async (_when, bytes) => {
    const server = await idleServer()
    // The disk is there already, so that no staging directory comes and goes.
    await server.attached('disk').then(client => client.reset())
    await allGone(server)
    const client = await server.connect()
    client.send(bytes)
    await pause(10)
    leave(client)
    await afterwards(server)
  })

  test.each<[when: string, bytes: Buffer]>([
    ['without a word', Buffer.alloc(0)],
    ['in the middle of a request', request(READ, { length: 512 }).subarray(0, 27)],
    ['behind the header of a WRITE', header],
    ['in the middle of a payload', Buffer.concat([header, Buffer.alloc(50_000)])],
    [
      'in the middle of the payload of a WRITE that is refused',
      Buffer.concat([request(WRITE, { offset: MIB, length: MIB }), Buffer.alloc(50_000)]),
    ],
    [
      'with requests under way',
      Buffer.concat(Array.from({ length: 300 }, () => write(Buffer.alloc(100, 1), { flags: FLAG.FUA }))),
    ],
    [
      'with long READs under way',
      Buffer.concat(Array.from({ length: 10 }, () => request(READ, { length: 8 * MIB }))),
    ],
    ['with DISC', request(DISC)],
    [
      'with DISC and requests under way',
      Buffer.concat([...Array.from({ length: 50 }, () => request(FLUSH)), request(DISC)]),
    ],
  ])('%s loses its lock, its descriptor and its buffers', async (_when, bytes) => {
    const server = await idleServer({ size: 16 * MIB })
    const client = await server.attached()
    client.send(bytes)
    await pause(10)
    leave(client)
    await afterwards(server)
    expect(bytesLent()).toBe(server.lent)
    const next = await server.attached()
    expect(await errorOf(next, request(FLUSH))).toBe(0)
  })
})

describe('A client that falls silent in the middle of a request', () => {
  test('keeps its disk, and can go on', async () => {
    const server = await serve()
    const client = await server.attached()
    const bytes = write(Buffer.alloc(10_000, 1))
    client.send(bytes.subarray(0, 20))
    await pause(100)
    client.send(bytes.subarray(20, 5000))
    await pause(100)
    expect(client.pending).toBe(0)
    client.send(bytes.subarray(5000))
    expect(await takeError(client)).toBe(0)
    expect((await readSimple(client, 0, 10_000)).equals(Buffer.alloc(10_000, 1))).toBe(true)
  })
})

describe('A WRITE whose client leaves in the middle of the payload', () => {
  test.each([0, 1000, 4096])('at offset %i tears no sector', async offset => {
    const server = await serve({ size: 2 * MIB })
    const path = join(server.path, 'disk')
    const length = MIB + 700
    for (const arrived of [1, 511, 5000, 100_001, MIB]) {
      const client = await server.attached()
      const old = Buffer.alloc(length, 0x11)
      await errorOf(client, write(old, { offset }))
      client.send(request(WRITE, { offset, length }), Buffer.alloc(arrived, 0x22))
      await pause(10)
      client.hangUp()
      await allGone(server)
      const now = readFileSync(path).subarray(offset, offset + length)
      const changed = now.lastIndexOf(0x22) + 1
      expect(now.subarray(0, changed).every(byte => byte === 0x22)).toBe(true)
      expect(now.subarray(changed).every(byte => byte === 0x11)).toBe(true)
      expect(changed).toBeLessThanOrEqual(arrived)
      // Whole sectors of the disk, not of the payload.
      if (changed > 0) expect((offset + changed) % 512).toBe(0)
    }
  })
})

describe('DISC', () => {
  test('with requests under way: they finish before the disk is given back', async () => {
    const operations = gate()
    const events: string[] = []
    const server = await serve({
      backend: memoryBackend(Buffer.alloc(MIB), {
        flush: (_, completion) => operations.hold(completion),
        close: () => {
          events.push('closed')
        },
      }),
    })
    const client = await server.attached()
    client.send(request(FLUSH, { cookie: 1 }), request(FLUSH, { cookie: 2 }), request(DISC))
    await expect.poll(() => operations.waiting.length).toBe(2)
    await pause(30)
    expect(events).toEqual([])
    expect(server.server.connections).toBe(1)
    operations.open()
    expect(await client.rest()).toHaveLength(32)
    await expect.poll(() => events).toEqual(['closed'])
  })

  test('of a client that is gone with requests under way: they finish before the next client has the disk', async () => {
    const operations = gate()
    const server = await serve({
      patience: 'unlimited',
      backend: memoryBackend(Buffer.alloc(MIB), {
        pwrite: (_h, _s, _st, _l, _o, completion) => operations.hold(completion),
      }),
    })
    const client = await server.attached()
    client.send(write(Buffer.alloc(4096)))
    await expect.poll(() => operations.waiting.length).toBe(1)
    client.reset()
    const next = await server.greeted()
    next.send(option(GO, goPayload('disk')))
    await pause(50)
    expect(next.pending).toBe(0)
    operations.open()
    expect((await next.take(4)).toString('hex')).toBe('0003e889')
  })
})

test('Hundreds of clients that come and go in all ways leave nothing behind', async () => {
  const server = await idleServer({ size: MIB })
  const one = async (index: number) => {
    const client = await connectRaw(server.port)
    await greet(client)
    if (index % 5 === 0) return client.reset()
    await outcome(client, GO, goPayload(`disk${index % 40}`)).catch(() => undefined)
    if (index % 5 === 1) client.send(Buffer.alloc(28, 0xaa))
    if (index % 5 === 2) client.send(request(READ, { length: MIB }), request(DISC))
    if (index % 5 === 3) client.send(request(WRITE, { length: 60_000 }), Buffer.alloc(30_000))
    LEAVES[index % LEAVES.length]?.[1](client)
  }
  // Disks that are there, so that only connections come and go.
  for (let index = 0; index < 40; index++)
    await server.attached(`disk${index}`).then(client => client.reset())
  await allGone(server)
  for (let round = 0; round < 4; round++) {
    await Promise.all(Array.from({ length: 50 }, (_, index) => one(index + 50 * round)))
  }
  await afterwards(server)
  expect(bytesLent()).toBe(server.lent)
})
