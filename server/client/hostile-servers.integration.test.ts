/** Servers that break the protocol, hang up or keep silent, over real sockets: an error each time, and soon. */
import type { Socket } from 'node:net'
import { expect, test, vi } from 'vitest'
import { encodeExportInfo, encodeGreeting, encodeOptionReply } from '../protocol/handshake.ts'
import { connect, type NbdClient } from './client.ts'
import { listExports, probe } from './discovery.ts'
import { BrokenServerError, ConnectionError, RefusedError } from './errors.ts'
import {
  ALL_FLAGS,
  type Asked,
  dataOf,
  done,
  hex,
  negotiateAsServer,
  scripted,
} from './test-scripted-server.ts'
import { freePort } from './test-servers.ts'

const SIZE = 2 ** 20
const LIMITS = { connectTimeout: 2000, handshakeTimeout: 150, requestTimeout: 200 }

/** The server's end of the connection is over too. */
async function isOver(socket: Socket | undefined): Promise<void> {
  socket?.resume()
  await vi.waitFor(() =>
    expect(socket?.destroyed || socket?.readableEnded || socket?.errored !== null).toBe(true),
  )
}

const unsup = (option: number) => encodeOptionReply(option, 2 ** 31 + 1)
const handshake = Buffer.concat([
  encodeGreeting(),
  unsup(11),
  encodeOptionReply(8, 1),
  unsup(10),
  encodeExportInfo(7, SIZE, ALL_FLAGS),
  encodeOptionReply(7, 1),
])

test.for<[string, Buffer]>([
  ['another protocol', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')],
  ['a style of its own', hex('4e42444d41474943 0102030405060708')],
  ['a reply to another option', Buffer.concat([encodeGreeting(), encodeOptionReply(9, 1)])],
  ['a reply of 4 GiB', Buffer.concat([encodeGreeting(), hex('0003e889045565a9 0000000b 80000001 ffffffff')])],
  ['no size', Buffer.concat([handshake.subarray(0, -52), encodeOptionReply(7, 1)])],
  [
    'a size of 2^63',
    Buffer.concat([handshake.subarray(0, -52), encodeOptionReply(7, 3, hex('0000 8000000000000000 0001'))]),
  ],
  ['more than was asked for', Buffer.concat([handshake, hex('67446698 00000000 0000000000000000')])],
])('A server that greets by %s is a broken server', async ([, bytes]) => {
  const server = await scripted(socket => socket.write(bytes))
  await expect(connect(server.uri, LIMITS)).rejects.toThrow(BrokenServerError)
  await isOver(server.connections[0])
})

test('A server that hangs up at any byte of the handshake is an error (CVE-2021-20286)', async () => {
  for (let length = 0; length < handshake.length; length += 3) {
    const server = await scripted(socket => socket.end(handshake.subarray(0, length)))
    await expect(connect(server.uri, LIMITS)).rejects.toThrow(ConnectionError)
    await expect(probe(server.uri, LIMITS)).rejects.toThrow()
    await expect(listExports(server.uri, LIMITS)).rejects.toThrow()
    await server.stop()
  }
})

test('A server that is silent, at any place of the handshake, has its time', async () => {
  const places = [0, 8, 18, 30, 60, handshake.length - 1]
  const open = places.map(async length => {
    const server = await scripted(socket => socket.write(handshake.subarray(0, length)))
    await expect(connect(server.uri, LIMITS)).rejects.toMatchObject({ code: 'ETIMEDOUT' })
    await isOver(server.connections[0])
  })
  await Promise.all(open)
})

const beforeGo = handshake.subarray(0, -52)
const GRANTED = { ...LIMITS, openTimeout: 600 }

test('A server that has to make the disk first has its own time to open it', async () => {
  const server = await scripted(socket => {
    socket.write(beforeGo)
    setTimeout(() => socket.write(handshake.subarray(beforeGo.length)), 300)
  })
  const client = await connect(server.uri, GRANTED)
  expect(client.size).toBe(SIZE)
  client.destroy(new Error('It was all that was wanted.'))
})

test('A server that never opens the disk, or is silent before, has no more time than it was granted', async () => {
  const silent = async (bytes: Buffer) => {
    const server = await scripted(socket => socket.write(bytes))
    const start = performance.now()
    const error = await connect(server.uri, GRANTED).catch((thrown: unknown) => thrown)
    return { error, ms: performance.now() - start }
  }
  const opening = await silent(beforeGo)
  expect(opening.error).toMatchObject({
    code: 'ETIMEDOUT',
    message: expect.stringContaining('open the export'),
  })
  const earlier = await silent(encodeGreeting())
  expect(earlier.error).toMatchObject({ code: 'ETIMEDOUT', message: expect.stringContaining('handshake') })
  expect(earlier.ms).toBeLessThan(opening.ms)
})

test('A server that sends a byte now and then has no more time than others', async () => {
  const server = await scripted(socket => {
    let at = 0
    const timer = setInterval(() => socket.write(handshake.subarray(at, ++at)), 20)
    socket.on('close', () => clearInterval(timer))
  })
  const start = performance.now()
  await expect(connect(server.uri, LIMITS)).rejects.toMatchObject({ code: 'ETIMEDOUT' })
  expect(performance.now() - start).toBeLessThan(8000)
})

test('A port where nobody listens is an error at once', async () => {
  const port = await freePort()
  await expect(connect(`nbd://127.0.0.1:${port}`)).rejects.toMatchObject({
    code: 'ECONNREFUSED',
    message: `Cannot connect to 127.0.0.1:${port}: nobody listens there.`,
  })
  await expect(connect('nbd+unix:///?socket=/nowhere/s')).rejects.toMatchObject({ code: 'ENOENT' })
  await expect(connect('nbd://name.invalid')).rejects.toThrow(ConnectionError)
})

test('An address that does not answer has its time', async () => {
  // Reserved for documentation: packets to it go nowhere, or there is no way to it.
  const error = await connect('nbd://192.0.2.1', { connectTimeout: 100 }).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(ConnectionError)
})

test('A refusal tells what the server says, quoted', async () => {
  const server = await scripted(socket => {
    socket.write(Buffer.concat([encodeGreeting(), unsup(11), unsup(8)]))
    socket.write(encodeOptionReply(7, 2 ** 31 + 6, Buffer.from('no\n\u001b[31msuch disk')))
  })
  const error = await connect(server.uri, LIMITS).catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(RefusedError)
  expect(error).toMatchObject({ code: 'ENOENT', message: expect.stringContaining('no\\n') })
  expect(String(error)).not.toContain('\u001b')
  // It is left by ABORT, as the protocol asks.
  const last = await new Promise<Buffer>(resolve => {
    const bytes: Buffer[] = []
    server.connections[0]
      ?.on('data', (piece: Buffer) => bytes.push(piece))
      .on('end', () => resolve(Buffer.concat(bytes)))
  })
  expect(last.subarray(-16)).toEqual(hex('49484156454f5054 00000002 00000000'))
})

/** A client whose server answers each request by these bytes. */
async function answeredBy(answer: (asked: Asked, socket: Socket) => Buffer | undefined): Promise<NbdClient> {
  const server = await scripted(socket => {
    void negotiateAsServer(socket, { size: SIZE }, asked => {
      const bytes = answer(asked, socket)
      if (bytes !== undefined) socket.write(bytes)
    })
  })
  return await connect(server.uri, LIMITS)
}

test.for<[string, (asked: Asked) => Buffer]>([
  ['noise', () => Buffer.alloc(64, 0x5a)],
  ['a simple reply', asked => hex(`67446698 00000000 ${asked.cookie}`)],
  ['a cookie of its own', asked => done({ ...asked, cookie: 'ffffffffffffffff' })],
  ['too much', asked => dataOf(asked, Buffer.alloc(4097))],
  ['too little', asked => dataOf(asked, Buffer.alloc(4095))],
  ['data from elsewhere', asked => dataOf({ ...asked, offset: asked.offset + 1 }, Buffer.alloc(4096))],
  ['nothing', done],
  ['an unknown chunk', asked => hex(`668e33ef 0001 0007 ${asked.cookie} 00000000`)],
  [
    'everything twice',
    asked => Buffer.concat([dataOf(asked, Buffer.alloc(4096)), dataOf(asked, Buffer.alloc(4096))]),
  ],
])('A server that answers a READ by %s is a broken server, and done with', async ([what, answer]) => {
  const client = await answeredBy(answer)
  const target = Buffer.alloc(4098, 0xee)
  const reads = [client.pread(target, 1, 4096, 4096), client.pread(Buffer.alloc(4096), 0, 4096, 0)]
  const [first, second] = await Promise.allSettled(reads)
  if (what !== 'everything twice') expect(first).toMatchObject({ reason: expect.any(BrokenServerError) })
  expect(second).toMatchObject({ reason: expect.any(BrokenServerError) })
  expect([target[0], target[4097]]).toEqual([0xee, 0xee])
  await expect(client.pread(target, 0, 1, 0)).rejects.toMatchObject({ code: 'ENOTCONN' })
  await client.close()
})

test('A server that hangs up at any byte of a reply fails what is in flight', async () => {
  for (const length of [0, 1, 15, 16, 20, 27, 28, 29, 2000, 4123]) {
    const client = await answeredBy((asked, socket) => {
      socket.end(dataOf(asked, Buffer.alloc(4096)).subarray(0, length))
      return undefined
    })
    const reads = Array.from({ length: 3 }, () => client.pread(Buffer.alloc(4096), 0, 4096, 0))
    for (const read of reads) await expect(read).rejects.toMatchObject({ code: 'ECONNRESET' })
    await client.close()
  }
})

test('A server that does not answer has its time, for all that is in flight and waits', async () => {
  const client = await answeredBy(() => undefined)
  const reads = Array.from({ length: 1000 }, () => client.pread(Buffer.alloc(16), 0, 16, 0))
  for (const read of reads) await expect(read).rejects.toMatchObject({ code: 'ETIMEDOUT' })
})

test('A server that sends a byte of its answer now and then has no more time than others', async () => {
  const client = await answeredBy((asked, socket) => {
    const bytes = dataOf(asked, Buffer.alloc(4096))
    let at = 0
    const timer = setInterval(() => socket.write(bytes.subarray(at, ++at)), 10)
    socket.on('close', () => clearInterval(timer))
    return undefined
  })
  await expect(client.pread(Buffer.alloc(4096), 0, 4096, 0)).rejects.toMatchObject({ code: 'ETIMEDOUT' })
})

test('A server that is slow, but answers, has all the time it needs', async () => {
  const client = await answeredBy((asked, socket) => {
    setTimeout(() => socket.write(done(asked)), 60 * Number.parseInt(asked.cookie.slice(0, 8), 16))
    return undefined
  })
  const start = performance.now()
  await Promise.all(Array.from({ length: 8 }, (_, index) => client.cache(1, index)))
  // Longer than the limit of LIMITS: each answer is a sign of life.
  expect(performance.now() - start).toBeGreaterThan(400)
  await client.close()
})

test('A server that does not read has its time', async () => {
  const server = await scripted(socket => {
    void negotiateAsServer(socket, { size: 2 ** 28 }, () => {
      socket.pause()
    })
  })
  const client = await connect(server.uri, LIMITS)
  const writes = Array.from({ length: 4 }, (_, index) =>
    client.pwrite(Buffer.alloc(2 ** 24), 0, 2 ** 24, index * 2 ** 24),
  )
  for (const write of writes) await expect(write).rejects.toMatchObject({ code: 'ETIMEDOUT' })
})

test('A server that answers a WRITE before it has read it does not get what the buffer is used for next', async () => {
  const received: Buffer[] = []
  const length = 2 ** 24
  const server = await scripted(socket => {
    // Knows the first cookie, and answers as soon as it has the header.
    void negotiateAsServer(socket, { size: 2 ** 28 }, () => undefined)
    socket.on('data', (piece: Buffer) => {
      received.push(piece)
      if (received.length === 1 || piece.indexOf(hex('25609513 0000 0001')) < 0) return
      socket.write(hex('668e33ef 0001 0000 00000001 00000000 00000000'))
      socket.pause()
      setTimeout(() => socket.resume(), 100)
    })
  })
  const client = await connect(server.uri, { ...LIMITS, maxInFlight: 1 })
  const source = Buffer.alloc(length, 0x11)
  await client.pwrite(source, 0, length, 0)
  source.fill(0x22)
  await vi.waitFor(() =>
    expect(received.reduce((sum, piece) => sum + piece.length, 0)).toBeGreaterThan(length),
  )
  expect(received.some(piece => piece.includes(Buffer.alloc(64, 0x22)))).toBe(false)
  client.destroy()
})

test('Errors of requests have the name of the wire and the words of the server', async () => {
  const client = await answeredBy(asked => {
    const text = Buffer.from('Disk\u0007 full')
    const head = `668e33ef 0001 8001 ${asked.cookie} ${(6 + text.length).toString(16).padStart(8, '0')}`
    return Buffer.concat([hex(`${head} 0000001c ${text.length.toString(16).padStart(4, '0')}`), text])
  })
  const error = await client.pwrite(Buffer.alloc(1), 0, 1, 0).catch((thrown: unknown) => thrown)
  expect(error).toMatchObject({
    name: 'RequestError',
    code: 'ENOSPC',
    message: expect.stringContaining('full'),
  })
  expect(String(error)).not.toContain('\u0007')
  await expect(client.trim(1, 0)).rejects.toMatchObject({ code: 'ENOSPC' })
  await client.close()
})

test('A server that is shutting down is left by DISC, and what comes later fails', async () => {
  let left = false
  const server = await scripted(socket => {
    void negotiateAsServer(socket, { size: SIZE }, asked => {
      socket.write(hex(`668e33ef 0001 8001 ${asked.cookie} 00000006 0000006c 0000`))
    }).then(() => {
      left = true
    })
  })
  const client = await connect(server.uri, LIMITS)
  await expect(client.flush()).rejects.toMatchObject({ code: 'ESHUTDOWN' })
  await vi.waitFor(() => expect(left).toBe(true))
  await expect(client.flush()).rejects.toMatchObject({ code: 'ENOTCONN' })
  await client.close()
})

test('A server that does not hang up after the goodbye, and goes on sending, is left', {
  timeout: 5000,
}, async () => {
  const server = await scripted(socket => {
    void negotiateAsServer(socket, {}, () => undefined).then(() => {
      const timer = setInterval(() => socket.write('more'), 20)
      socket.on('close', () => clearInterval(timer))
    })
    socket.end = () => socket
  })
  const client = await connect(server.uri, LIMITS)
  await client.close()
  await vi.waitFor(() => expect(server.connections[0]?.destroyed).toBe(true), { timeout: 4000 })
})
