/** What the client makes of operations: checks, splitting, order, bounds, ends. Contents: see servers.integration.test.ts. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { CMD, CMD_FLAG, TRANSMISSION_FLAG } from '../protocol/constants.ts'
import { type ConnectOptions, connect, type NbdClient } from './client.ts'
import { ClosedError, InvalidRequestError, RefusedError } from './errors.ts'
import {
  ALL_FLAGS,
  type Asked,
  dataOf,
  done,
  failed,
  hex,
  negotiateAsServer,
  type Offer,
  scripted,
} from './test-scripted-server.ts'
import { makeFolder, needPrograms, startNbdkit } from './test-servers.ts'

/** A client, and what its server was asked; `answer` says what to send, if anything. */
async function served(
  offer: Offer,
  answer: (asked: Asked) => Buffer | undefined,
  options: ConnectOptions = {},
): Promise<{ client: NbdClient; asked: Asked[]; left: () => boolean }> {
  const asked: Asked[] = []
  let left = false
  const server = await scripted(socket => {
    void negotiateAsServer(socket, offer, request => {
      asked.push(request)
      const bytes = answer(request)
      if (bytes !== undefined) socket.write(bytes)
    }).then(() => {
      left = true
    })
  })
  return { client: await connect(server.uri, options), asked, left: () => left }
}

const zeroes = (asked: Asked) =>
  asked.type === CMD.READ ? dataOf(asked, Buffer.alloc(asked.length)) : done(asked)
const shape = (asked: readonly Asked[]) =>
  asked.map(({ type, flags, offset, length }) => [type, flags, offset, length])

describe('A request is refused before it is sent', () => {
  test.for<[string, string, (client: NbdClient) => Promise<unknown>]>([
    ['beyond the end', 'EINVAL', client => client.pread(Buffer.alloc(9), 0, 9, 2 ** 20 - 8)],
    ['to be written beyond the end', 'ENOSPC', client => client.pwrite(Buffer.alloc(9), 0, 9, 2 ** 20 - 8)],
    ['to be zeroed beyond the end', 'ENOSPC', client => client.zero(1, 2 ** 20)],
    ['far beyond the end', 'EINVAL', client => client.trim(2 ** 53 - 1, 2 ** 53 - 1)],
    ['before the beginning', 'EINVAL', client => client.cache(1, -1)],
    ['at half a byte', 'EINVAL', client => client.cache(1, 0.5)],
    ['of no number of bytes', 'EINVAL', client => client.cache(Number.NaN, 0)],
    ['for more than the buffer holds', 'EINVAL', client => client.pread(Buffer.alloc(8), 1, 8, 0)],
    ['for a negative place in the buffer', 'EINVAL', client => client.pwrite(Buffer.alloc(8), -1, 8, 0)],
    ['for no extents', 'EINVAL', client => client.extents(1, 0, 0)],
    ['for the extents of nothing', 'EINVAL', client => client.extents(0, 0)],
  ])('%s', async ([, code, request]) => {
    const { client, asked } = await served({}, zeroes)
    await expect(request(client)).rejects.toThrow(InvalidRequestError)
    await expect(request(client)).rejects.toMatchObject({ code })
    expect(asked).toEqual([])
    await client.close()
  })

  test.for<[string, string, number, (client: NbdClient) => Promise<unknown>]>([
    [
      'WRITE to what is read-only',
      'EROFS',
      TRANSMISSION_FLAG.READ_ONLY,
      client => client.pwrite(Buffer.alloc(1), 0, 1, 0),
    ],
    ['TRIM of what is read-only', 'EROFS', TRANSMISSION_FLAG.READ_ONLY, client => client.trim(1, 0)],
    ['WRITE_ZEROES to what is read-only', 'EROFS', TRANSMISSION_FLAG.READ_ONLY, client => client.zero(1, 0)],
    ['FLUSH', 'ENOTSUP', 0, client => client.flush()],
    ['FUA', 'ENOTSUP', 0, client => client.pwrite(Buffer.alloc(1), 0, 1, 0, { fua: true })],
    ['TRIM', 'ENOTSUP', 0, client => client.trim(1, 0)],
    ['WRITE_ZEROES', 'ENOTSUP', 0, client => client.zero(1, 0)],
    [
      'fast WRITE_ZEROES',
      'ENOTSUP',
      TRANSMISSION_FLAG.SEND_WRITE_ZEROES,
      client => client.zero(1, 0, { fast: true }),
    ],
    ['CACHE', 'ENOTSUP', 0, client => client.cache(1, 0)],
    ['BLOCK_STATUS', 'ENOTSUP', 0, client => client.extents(1, 0)],
  ])('that the server does not offer: %s', async ([, code, flags, request]) => {
    const { client, asked } = await served({ flags: flags | 1, replies: 'simple' }, zeroes)
    await expect(request(client)).rejects.toMatchObject({ name: 'InvalidRequestError', code })
    expect(asked).toEqual([])
    await client.close()
  })

  test('in the variant with completions by a throw, and nothing is completed', async () => {
    const { client } = await served({}, zeroes)
    const completion = { complete: () => expect.unreachable() }
    expect(() => client.startPread(Buffer.alloc(1), 0, 1, 2 ** 20, completion)).toThrow(InvalidRequestError)
    expect(() => client.startPwrite(Buffer.alloc(1), 0, 2, 0, false, completion)).toThrow(InvalidRequestError)
    await client.close()
  })
})

describe('A request is sent', () => {
  test('with the flags that were asked for', async () => {
    const { client, asked } = await served({}, zeroes)
    await client.pwrite(Buffer.alloc(2), 0, 2, 1, { fua: true })
    await client.trim(3, 4, { fua: true })
    await client.zero(5, 6)
    await client.zero(7, 8, { mayPunch: true, fast: true, fua: true })
    await client.cache(9, 10)
    await client.flush()
    expect(shape(asked)).toEqual([
      [CMD.WRITE, CMD_FLAG.FUA, 1, 2],
      [CMD.TRIM, CMD_FLAG.FUA, 4, 3],
      [CMD.WRITE_ZEROES, CMD_FLAG.NO_HOLE, 6, 5],
      [CMD.WRITE_ZEROES, CMD_FLAG.FUA | CMD_FLAG.FAST_ZERO, 8, 7],
      [CMD.CACHE, 0, 10, 9],
      [CMD.FLUSH, 0, 0, 0],
    ])
    await client.close()
  })

  test('in parts of what the server takes at most', async () => {
    const { client, asked } = await served({ blockSizes: [512, 4096, 8192] }, zeroes)
    expect(client.blockSizes).toEqual({ minimum: 512, preferred: 4096, maximum: 8192 })
    await client.pread(Buffer.alloc(20_480), 0, 20_480, 512)
    expect(shape(asked)).toEqual([
      [CMD.READ, 0, 512, 8192],
      [CMD.READ, 0, 8704, 8192],
      [CMD.READ, 0, 16_896, 4096],
    ])
    await client.close()
  })

  test('in parts of what the caller wants at most, in whole blocks', async () => {
    const offer = { blockSizes: [512, 4096, 65_536] as const }
    const { client, asked } = await served(offer, zeroes, { partSize: 10_000 })
    await client.pwrite(Buffer.alloc(20_480), 0, 20_480, 4096)
    expect(shape(asked)).toEqual([
      [CMD.WRITE, 0, 4096, 9728],
      [CMD.WRITE, 0, 13_824, 9728],
      [CMD.WRITE, 0, 23_552, 1024],
    ])
    await client.close()
    await expect(served({}, zeroes, { partSize: 0 })).rejects.toThrow('partSize')
  })

  test('in parts of 1 GiB, where no data goes with it, and of which the first decides about a fast one', async () => {
    const { client, asked } = await served({ size: 2 ** 33 }, request => failed(request, 95))
    await expect(client.zero(2 ** 33, 0, { fast: true })).rejects.toMatchObject({ code: 'ENOTSUP' })
    expect(shape(asked)).toEqual([[CMD.WRITE_ZEROES, CMD_FLAG.FAST_ZERO | CMD_FLAG.NO_HOLE, 0, 2 ** 30]])
    await expect(client.trim(2 ** 33, 0)).rejects.toMatchObject({ code: 'ENOTSUP' })
    // The others were on their way already.
    expect(asked.length).toBeLessThanOrEqual(9)
    await client.close()
  })

  test('not at all where it is about no bytes, and ends later all the same', async () => {
    const { client, asked } = await served({}, zeroes)
    let isOver = false
    client.startPread(Buffer.alloc(0), 0, 0, 2 ** 20, {
      complete: () => {
        isOver = true
      },
    })
    expect(isOver).toBe(false)
    await client.trim(0, 0)
    expect([isOver, asked.length]).toEqual([true, 0])
    await client.close()
  })

  test('for extents, of which the server may tell less or more', async () => {
    const extents = (asked: Asked) =>
      asked.flags === CMD_FLAG.REQ_ONE
        ? hex(`668e33ef 0001 0005 ${asked.cookie} 0000000c 00000007 00000200 00000003`)
        : hex(`668e33ef 0001 0005 ${asked.cookie} 00000014 00000007 00000200 00000003 00200000 00000000`)
    const { client, asked } = await served({ size: 2 ** 33 }, extents)
    expect(await client.extents(2 ** 33, 0)).toEqual([
      { length: 512, hole: true, zero: true },
      { length: 2 ** 21, hole: false, zero: false },
    ])
    expect(await client.extents(1000, 2 ** 33 - 1000, 1)).toEqual([{ length: 512, hole: true, zero: true }])
    expect(shape(asked)).toEqual([
      [CMD.BLOCK_STATUS, 0, 0, 2 ** 32 - 65_536],
      [CMD.BLOCK_STATUS, CMD_FLAG.REQ_ONE, 2 ** 33 - 1000, 1000],
    ])
    client.destroy()
  })
})

test('A server of which only extended headers are known is served by those', async () => {
  const extended = (asked: Asked, type: string, payload: Uint8Array) => {
    const offset = asked.offset.toString(16).padStart(16, '0')
    const length = payload.length.toString(16).padStart(16, '0')
    return Buffer.concat([hex(`6e8a278c 0001 ${type} ${asked.cookie} ${offset} ${length}`), payload])
  }
  const disk = randomBytes(2 ** 20)
  const { client, asked } = await served({ size: 2 ** 40, replies: 'extended' }, request => {
    const at = Buffer.alloc(8)
    at.writeBigUInt64BE(BigInt(request.offset))
    if (request.type === CMD.READ) {
      return extended(request, '0001', Buffer.concat([at, disk.subarray(0, request.length)]))
    }
    if (request.type === CMD.BLOCK_STATUS) {
      return extended(request, '0006', hex('00000007 00000001 0000010000000000 0000000000000003'))
    }
    return extended(request, '0000', Buffer.alloc(0))
  })
  const target = Buffer.alloc(2 ** 20)
  await client.pread(target, 0, 2 ** 20, 2 ** 39)
  expect(target.equals(disk)).toBe(true)
  await client.pwrite(disk, 5, 200_000, 2 ** 39)
  expect(asked[1]?.data.equals(disk.subarray(5, 200_005))).toBe(true)
  expect(await client.extents(2 ** 40, 0)).toEqual([{ length: 2 ** 40, hole: true, zero: true }])
  expect(asked[2]?.length).toBe(2 ** 40)
  await client.flush()
  await client.close()
})

describe('Requests in flight', () => {
  test('are bounded, the others wait, and more than may wait are refused', async () => {
    const { client, asked } = await served({}, () => undefined, { maxInFlight: 4, maxWaiting: 6 })
    const requests = Array.from({ length: 10 }, () => client.cache(1, 0).catch(error => error))
    await expect(client.cache(1, 0)).rejects.toMatchObject({ code: 'EAGAIN' })
    await vi.waitFor(() => expect(asked).toHaveLength(4))
    client.destroy()
    for (const request of requests) expect(await request).toBeInstanceOf(ClosedError)
    expect(asked).toHaveLength(4)
  })

  test('are answered in any order', async () => {
    const waiting: Asked[] = []
    let send: (bytes: Buffer) => void = () => undefined
    const server = await scripted(socket => {
      send = bytes => socket.write(bytes)
      void negotiateAsServer(socket, {}, asked => {
        waiting.push(asked)
      })
    })
    const client = await connect(server.uri)
    const targets = Array.from({ length: 20 }, () => Buffer.alloc(64))
    const ends: number[] = []
    const reads = targets.map((target, index) =>
      client.pread(target, 0, 64, index * 64).then(() => ends.push(index)),
    )
    await vi.waitFor(() => expect(waiting).toHaveLength(20))
    for (const asked of waiting.toReversed()) send(dataOf(asked, Buffer.alloc(64, asked.offset / 64)))
    await Promise.all(reads)
    expect(ends).toEqual(Array.from({ length: 20 }, (_, index) => 19 - index))
    for (const [index, target] of targets.entries()) expect(target.equals(Buffer.alloc(64, index))).toBe(true)
    await client.close()
  })

  test('leave when the caller says that there are no more, and a lone one may be answered by then', async () => {
    const { client, asked } = await served({}, zeroes)
    const target = Buffer.alloc(512)
    let ended = 0
    const completion = { complete: () => ended++ }
    for (let request = 0; request < 100; request++) {
      client.startPread(target, 0, 512, request * 512, completion)
      client.endBatch()
      await vi.waitFor(() => expect(ended).toBe(request + 1), { interval: 1 })
    }
    expect(asked).toHaveLength(100)
    await client.close()
    client.endBatch()
  })

  test('of one turn leave together', async () => {
    const pieces: Buffer[] = []
    const server = await scripted(socket => {
      void negotiateAsServer(socket, {}, asked => {
        socket.write(zeroes(asked))
      })
      socket.on('data', (piece: Buffer) => pieces.push(piece))
    })
    const client = await connect(server.uri)
    pieces.length = 0
    await Promise.all(
      Array.from({ length: 30 }, (_, index) => client.pwrite(Buffer.alloc(512), 0, 512, 512 * index)),
    )
    expect(pieces.map(({ length }) => length)).toEqual([30 * 540])
    await client.close()
  })
})

describe('A client that is closed', () => {
  test('waits for what it has begun, in parts or waiting, and then says goodbye', async () => {
    const { client, asked, left } = await served(
      { blockSizes: [1, 512, 512] },
      request => (request.type === CMD.READ ? dataOf(request, Buffer.alloc(512, 7)) : done(request)),
      { maxInFlight: 2 },
    )
    const target = Buffer.alloc(2 ** 15)
    const read = client.pread(target, 0, target.length, 0)
    const others = Array.from({ length: 10 }, () => client.cache(1, 0))
    const closed = client.close()
    await expect(client.cache(1, 0)).rejects.toThrow(ClosedError)
    await Promise.all([read, ...others, closed])
    expect(target.equals(Buffer.alloc(2 ** 15, 7))).toBe(true)
    expect(asked).toHaveLength(64 + 10)
    await vi.waitFor(() => expect(left()).toBe(true))
    await client.close()
    client.destroy()
  })

  test('at once fails what it has begun', async () => {
    const { client } = await served({}, () => undefined)
    const read = client.pread(Buffer.alloc(1), 0, 1, 0)
    client.destroy(new Error('That is enough'))
    await expect(read).rejects.toThrow('That is enough')
    await expect(client.pread(Buffer.alloc(1), 0, 1, 0)).rejects.toThrow()
    await client.close()
  })

  test('by its signal fails what it has begun, and does not connect at all if that comes before', async () => {
    const stop = new AbortController()
    const { client } = await served({}, () => undefined, { signal: stop.signal })
    const read = client.pread(Buffer.alloc(1), 0, 1, 0)
    stop.abort(new Error('Stop'))
    await expect(read).rejects.toThrow('Stop')
    const server = await scripted(() => undefined)
    await expect(connect(server.uri, { signal: stop.signal })).rejects.toThrow('Stop')
    expect(server.connections).toHaveLength(0)
    const later = new AbortController()
    const connecting = connect(server.uri, { signal: later.signal })
    await vi.waitFor(() => expect(server.connections).toHaveLength(1))
    later.abort(new Error('No'))
    await expect(connecting).rejects.toThrow('No')
  })

  test('leaves nothing open, however it ends, so that the process can end', async () => {
    const open = () =>
      process.getActiveResourcesInfo().filter(name => /TCPSocketWrap|TLSWrap/.test(name)).length
    const before = open()
    for (let round = 0; round < 20; round++) {
      const { client } = await served({}, zeroes)
      await client.pread(Buffer.alloc(512), 0, 512, 0)
      if (round % 2 === 0) await client.close()
      else client.destroy()
    }
    // The ends of the servers close when ours have.
    await vi.waitFor(() => expect(open()).toBeLessThanOrEqual(before))
  })
})

test.for<[string, ConnectOptions]>([
  ['maxInFlight', { maxInFlight: 0 }],
  ['requestTimeout', { requestTimeout: Number.POSITIVE_INFINITY }],
  ['connectTimeout', { connectTimeout: -1 }],
  ['maxWaiting', { maxWaiting: 1.5 }],
])('A bad option is refused by its name: %s', async ([name, options]) => {
  await expect(connect('nbd://localhost:1', options)).rejects.toThrow(`The option ${name} is`)
})

test('An export of more than 2^53 bytes is refused, not misread', async () => {
  const server = await scripted(socket => void negotiateAsServer(socket, { size: 2 ** 53 }, () => undefined))
  await expect(connect(server.uri)).rejects.toThrow(RefusedError)
  await expect(connect(server.uri)).rejects.toMatchObject({ code: 'EFBIG' })
})

describe('A minimum block size', () => {
  const policy = [
    '--filter=blocksize-policy',
    'memory',
    '64K',
    'blocksize-minimum=512',
    'blocksize-preferred=4K',
    'blocksize-maximum=16K',
    'blocksize-error-policy=error',
  ]

  test('is kept, or the request is refused', async context => {
    needPrograms(context, 'nbdkit')
    const socket = join(makeFolder(), 's')
    await startNbdkit(makeFolder(), socket, ...policy)
    const client = await connect(`nbd+unix:///?socket=${socket}`)
    expect(client.blockSizes).toEqual({ minimum: 512, preferred: 4096, maximum: 16_384 })
    await expect(client.pread(Buffer.alloc(100), 0, 100, 512)).rejects.toThrow('512')
    await expect(client.pwrite(Buffer.alloc(512), 0, 512, 1)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(client.extents(100, 0)).rejects.toMatchObject({ code: 'EINVAL' })
    await client.pwrite(Buffer.alloc(65_536), 0, 65_536, 0)
    await client.close()
  })

  test('is worked around for those who ask for it', async context => {
    needPrograms(context, 'nbdkit')
    const socket = join(makeFolder(), 's')
    await startNbdkit(makeFolder(), socket, ...policy)
    const client = await connect(`nbd+unix:///?socket=${socket}`, { unaligned: 'read-modify-write' })
    const model = Buffer.alloc(65_536)
    const source = randomBytes(65_536)
    const changes = Array.from({ length: 40 }, async (_, index) => {
      const offset = index * 1601 + (index % 7)
      const length = 1 + ((index * 397) % 1590)
      source.copy(model, offset, index, index + length)
      await client.pwrite(source, index, length, offset, { fua: index % 3 === 0 })
    })
    await Promise.all(changes)
    await client.zero(30_001, 1001)
    model.fill(0, 1001, 31_002)
    const read = Buffer.alloc(65_000)
    await client.pread(read, 0, 65_000, 300)
    expect(read.equals(model.subarray(300, 65_300))).toBe(true)
    const [first] = await client.extents(100, 700)
    expect(first?.length).toBeGreaterThan(0)
    await client.trim(3, 700)
    await client.cache(3, 700)
    await client.close()
  })

  test('cuts off a rest that is smaller', async () => {
    const { client } = await served({ size: 2 ** 20 + 100, blockSizes: [512, 4096, 65_536] }, zeroes)
    expect(client.size).toBe(2 ** 20)
    await client.close()
  })
})

test('A server that fails now and then fails those requests only', async context => {
  needPrograms(context, 'nbdkit')
  const socket = join(makeFolder(), 's')
  const failing = [
    '--filter=error',
    '--filter=delay',
    'memory',
    '1M',
    'error-rate=30%',
    'error=ENOSPC',
    'rdelay=2ms',
    'wdelay=1ms',
  ]
  await startNbdkit(makeFolder(), socket, ...failing)
  const client = await connect(`nbd+unix:///?socket=${socket}`)
  const one = Buffer.alloc(4096, 1)
  const outcomes = await Promise.allSettled(
    Array.from({ length: 200 }, (_, index) => client.pwrite(one, 0, 4096, index * 4096)),
  )
  const failures = outcomes.filter(({ status }) => status === 'rejected')
  expect(failures.length).toBeGreaterThan(20)
  expect(failures.length).toBeLessThan(120)
  for (const failure of failures) expect(failure).toMatchObject({ reason: { code: 'ENOSPC' } })
  await client.close()
})

test('Flags are those of the server', async () => {
  const { client } = await served(
    {
      flags:
        ALL_FLAGS |
        TRANSMISSION_FLAG.ROTATIONAL |
        TRANSMISSION_FLAG.CAN_MULTI_CONN |
        TRANSMISSION_FLAG.SEND_DF,
    },
    zeroes,
  )
  expect(client.flags).toEqual({
    readOnly: false,
    canFlush: true,
    canFua: true,
    canTrim: true,
    canZero: true,
    canFastZero: true,
    canCache: true,
    canMultiConn: true,
    canDf: true,
    canExtents: true,
    rotational: true,
  })
  await client.close()
})
