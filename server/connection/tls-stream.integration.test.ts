import { randomBytes } from 'node:crypto'
import { connect, createServer, type Socket } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import { bytesLent } from './buffers.ts'
import { makeCertificates, serverFiles } from './test-tls.ts'
import { openTls } from './tls.ts'
import { Burst, RECORD_LENGTH, receiveRecords, sendRecords } from './tls-stream.ts'

makeCertificates()

/** Both ends of a TLS connection. */
async function pair(): Promise<{ server: TLSSocket; client: TLSSocket }> {
  const acceptor = await openTls(serverFiles(), { reloaded: () => {}, failed: () => {} })
  const listener = createServer()
  await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
  const accepted = new Promise<Socket>(resolve => listener.once('connection', resolve))
  const { port } = listener.address() as { port: number }
  const client = connectTls({ socket: connect(port, '127.0.0.1'), rejectUnauthorized: false })
  const { socket: server } = await acceptor.accept(await accepted)
  for (const socket of [client, server]) socket.on('error', () => {})
  onTestFinished(() => {
    for (const end of [client, server, listener, acceptor]) 'destroy' in end ? end.destroy() : end.close()
  })
  return { server, client }
}

/** The next bytes that the client gets. */
async function take(client: TLSSocket, length: number): Promise<Buffer> {
  const got: Buffer[] = []
  let count = 0
  await new Promise<void>((resolve, reject) => {
    client.on('close', () => reject(new Error(`The connection ended after ${count} bytes of ${length}.`)))
    client.on('data', (chunk: Buffer) => {
      got.push(chunk)
      count += chunk.length
      if (count >= length) resolve()
    })
  })
  client.removeAllListeners('data')
  return Buffer.concat(got)
}

/** Sends bytes and waits until they have gone, so that the socket is idle. */
async function sendAndTake(server: TLSSocket, client: TLSSocket, length: number): Promise<void> {
  const written = new Promise<void>(resolve => sendRecords(server, Buffer.alloc(length), 0, length, resolve))
  expect(await take(client, length)).toHaveLength(length)
  await written
}

describe('A TLS socket', () => {
  test('decrypts into our buffer, not into one that is made for each record', async () => {
    const { server, client } = await pair()
    const got: Buffer[] = []
    const areas = new Set<ArrayBufferLike>()
    const takesOurs = receiveRecords(server, (bytes, length) => {
      areas.add(bytes.buffer)
      got.push(Buffer.from(bytes.subarray(0, length)))
    })
    expect(takesOurs).toBe(true)
    const sent = randomBytes(1_000_000)
    client.write(sent)
    await expect.poll(() => got.reduce((sum, { length }) => sum + length, 0)).toBe(sent.length)
    expect(Buffer.concat(got).equals(sent)).toBe(true)
    expect(areas.size).toBe(1)
  })

  test('sends what the bytes were when they were given to it, and gives the buffers back', async () => {
    const { server, client } = await pair()
    const before = bytesLent()
    const bytes = randomBytes(3_000_000)
    const wanted = Buffer.from(bytes.subarray(7, 2_999_990))
    let written = 0
    // The first may be encrypted at once, and the second has to wait for it.
    for (const [start, end] of [
      [7, 1_000_000],
      [1_000_000, 2_999_990],
    ] as const)
      sendRecords(server, bytes, start, end, () => written++)
    expect(bytesLent()).toBeGreaterThan(before)
    bytes.fill(0)
    expect((await take(client, wanted.length)).equals(wanted)).toBe(true)
    await expect.poll(() => written).toBe(3)
    expect(bytesLent()).toBe(before)
  })

  test('needs no copy of what it encrypts at once, and its owner has it back then', async () => {
    const { server, client } = await pair()
    // While the last bytes of the handshake are on their way, it does not show what TLS does with others.
    for (let count = 0; count < 2; count++) await sendAndTake(server, client, 16)
    const before = bytesLent()
    const bytes = randomBytes(2_000_000)
    const wanted = Buffer.from(bytes)
    let released = 0
    const owner = { release: () => released++ }
    expect(sendRecords(server, bytes, 0, 1_000_000, () => {}, owner)).toBe(false)
    expect(bytesLent()).toBe(before)
    bytes.fill(0, 0, 1_000_000)
    expect(sendRecords(server, bytes, 1_000_000, 2_000_000, () => {}, owner)).toBe(true)
    expect(bytesLent()).toBe(before)
    expect(released).toBe(0)
    expect((await take(client, wanted.length)).equals(wanted)).toBe(true)
    await expect.poll(() => released).toBe(1)
  })

  test('gives an owner its bytes back also when the client has gone', async () => {
    const { server, client } = await pair()
    client.pause()
    const bytes = Buffer.alloc(2 ** 20)
    let [lent, released] = [0, 0]
    for (let count = 0; count < 20; count++) {
      if (sendRecords(server, bytes, 0, bytes.length, () => {}, { release: () => released++ })) lent++
    }
    expect(lent).toBeGreaterThanOrEqual(19)
    server.destroy()
    await expect.poll(() => released).toBe(lent)
  })

  test('gives the buffers back also when the client has gone', async () => {
    const { server, client } = await pair()
    const before = bytesLent()
    client.pause()
    for (let count = 0; count < 20; count++) sendRecords(server, Buffer.alloc(2 ** 20), 0, 2 ** 20, () => {})
    expect(bytesLent()).toBeGreaterThan(before)
    server.destroy()
    await expect.poll(bytesLent).toBe(before)
  })
})

describe('Burst', () => {
  const record = (length = RECORD_LENGTH) => Buffer.alloc(length, 0x55)

  function burst() {
    const deliveries: Buffer[] = []
    return {
      deliveries,
      burst: new Burst((bytes, length) => deliveries.push(Buffer.from(bytes.subarray(0, length)))),
    }
  }

  test('delivers what was left over, full records and a short one as one piece', () => {
    const { burst: gathering, deliveries } = burst()
    gathering.begin(Buffer.from('left over'))
    gathering.add(record(), RECORD_LENGTH)
    gathering.add(record(), RECORD_LENGTH)
    expect(deliveries).toEqual([])
    gathering.add(Buffer.from('end, and more'), 3)
    expect(deliveries.map(String)).toEqual([`left over${'U'.repeat(2 * RECORD_LENGTH)}end`])
    expect(gathering.isEmpty).toBe(true)
  })

  test('delivers full records at the end of the turn if nothing follows', async () => {
    const { burst: gathering, deliveries } = burst()
    gathering.begin(undefined)
    gathering.add(record(), RECORD_LENGTH)
    await setImmediate()
    expect(deliveries).toEqual([record()])
  })

  test('delivers nothing that was dropped', async () => {
    const before = bytesLent()
    const { burst: gathering, deliveries } = burst()
    gathering.begin(undefined)
    gathering.add(record(), RECORD_LENGTH)
    gathering.drop()
    await setImmediate()
    expect(deliveries).toEqual([])
    expect(bytesLent()).toBe(before)
  })

  test('loses, adds and moves no byte, however records come', async () => {
    const lengths = fc.array(fc.oneof(fc.constant(RECORD_LENGTH), fc.integer({ min: 1, max: RECORD_LENGTH })))
    await fc.assert(
      fc.asyncProperty(lengths, fc.nat(128 * 1024), async (list, leftover) => {
        const { burst: gathering, deliveries } = burst()
        const first = randomBytes(leftover)
        const sent = [first]
        for (const [index, length] of list.entries()) {
          if (gathering.isEmpty) gathering.begin(index === 0 ? first : undefined)
          sent.push(randomBytes(length))
          gathering.add(sent.at(-1) as Buffer, length)
        }
        await setImmediate()
        const wanted = list.length === 0 ? [] : sent
        expect(Buffer.concat(deliveries).equals(Buffer.concat(wanted))).toBe(true)
      }),
      { numRuns: 50 },
    )
  })
})
