/** Disks that grow under open connections: served to their new end, and not a byte behind it. */
import { randomBytes } from 'node:crypto'
import { readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createForwardBackend } from '../backends/forward/forward.ts'
import { parseNbdUri } from '../client/uri.ts'
import { memoryBackend } from './test-backend.ts'
import {
  assemble,
  BLOCK_STATUS,
  CACHE,
  request as compactRequest,
  write as compactWrite,
  errorOf,
  extendedRequest,
  extendedWrite,
  FLAG,
  type RawClient,
  READ,
  readSimple,
  TRIM,
  takeStructured,
  WRITE_ZEROES,
} from './test-client.ts'
import { allGone, MIB, serve } from './test-server.ts'

const [OK, EINVAL, ENOSPC] = [0, 22, 28]
const GROWN = 6 * MIB

describe.each([
  ['simple replies', {}],
  ['structured replies', { structured: true, allocation: true }],
  ['extended headers', { extended: true, allocation: true }],
] as const)('With %s', (_, wishes) => {
  const isSimple = !('allocation' in wishes)
  const isExtended = 'extended' in wishes
  const request = isExtended ? extendedRequest : compactRequest
  const write = isExtended ? extendedWrite : compactWrite

  async function read(client: RawClient, offset: number, length: number): Promise<Buffer> {
    if (isSimple) return readSimple(client, offset, length)
    client.send(request(READ, { offset, length }))
    return assemble(await takeStructured(client), offset, length)
  }

  test('all that a disk can do, it does in the part by which it has grown', async () => {
    const server = await serve()
    const client = await server.attached('disk', wishes)
    const path = join(server.path, 'disk')
    const model = Buffer.alloc(GROWN)
    const put = async (offset: number, length: number, flags = 0) => {
      const data = randomBytes(length)
      data.copy(model, offset)
      expect(await errorOf(client, write(data, { offset, flags }))).toBe(OK)
    }
    await put(MIB - 4096, 4096)
    expect(await errorOf(client, write(randomBytes(2), { offset: MIB - 1 }))).toBe(ENOSPC)
    expect(await errorOf(client, request(READ, { offset: MIB, length: 1 }))).toBe(EINVAL)

    truncateSync(path, GROWN)
    // Across the end of before, of one piece and of many; at the very end, durably.
    await put(MIB - 100, 200)
    await put(MIB + 5, 3 * MIB)
    await put(GROWN - 1, 1, FLAG.FUA)
    expect((await read(client, 0, GROWN)).equals(model)).toBe(true)
    expect((await read(client, GROWN - 3, 3)).equals(model.subarray(-3))).toBe(true)
    for (const type of [TRIM, WRITE_ZEROES]) {
      expect(await errorOf(client, request(type, { offset: GROWN - 8192, length: 4096 }))).toBe(OK)
    }
    model.fill(0, GROWN - 8192, GROWN - 4096)
    expect(await errorOf(client, request(CACHE, { offset: MIB, length: GROWN - MIB }))).toBe(OK)
    if (!isSimple) {
      client.send(request(BLOCK_STATUS, { offset: GROWN - MIB, length: MIB }))
      const [status] = await takeStructured(client)
      const extents = status?.payload.subarray(isExtended ? 8 : 4) ?? Buffer.alloc(0)
      let told = 0
      for (let at = 0; at < extents.length; at += isExtended ? 16 : 8)
        told += isExtended ? Number(extents.readBigUInt64BE(at)) : extents.readUInt32BE(at)
      expect(told).toBe(MIB)
    }

    for (const type of [TRIM, CACHE, READ]) {
      expect(await errorOf(client, request(type, { offset: GROWN - 1, length: 2 }))).toBe(EINVAL)
    }
    expect(await errorOf(client, write(Buffer.alloc(2), { offset: GROWN - 1 }))).toBe(ENOSPC)
    expect(await errorOf(client, request(WRITE_ZEROES, { offset: GROWN, length: 1 }))).toBe(ENOSPC)
    expect((await read(client, 0, GROWN)).equals(model)).toBe(true)
    expect(readFileSync(path).equals(model)).toBe(true)
  })
})

test('Each connection of a disk follows, and who comes later is told its size', async () => {
  const server = await serve({ connections: 3 })
  const [one, other] = [await server.attached('disk'), await server.attached('disk')]
  truncateSync(join(server.path, 'disk'), 2 * MIB)
  expect(await errorOf(one, compactWrite(Buffer.from('new'), { offset: 2 * MIB - 3 }))).toBe(OK)
  expect((await readSimple(other, 2 * MIB - 3, 3)).toString()).toBe('new')
  // It has not asked for the new part, so that nobody has looked yet.
  truncateSync(join(server.path, 'disk'), 3 * MIB)
  const third = await server.attached('disk')
  expect((await readSimple(third, 3 * MIB - 3, 3)).equals(Buffer.alloc(3))).toBe(true)
})

test('A disk whose file has shrunk keeps its bounds, and may grow again', async () => {
  const server = await serve({ size: 2 * MIB })
  const client = await server.attached('disk')
  const path = join(server.path, 'disk')
  truncateSync(path, MIB)
  expect(await errorOf(client, compactRequest(READ, { offset: 2 * MIB, length: 1 }))).toBe(EINVAL)
  truncateSync(path, 3 * MIB)
  expect((await readSimple(client, 3 * MIB - 1, 1)).equals(Buffer.alloc(1))).toBe(true)
})

test('A backend is asked only by who asks for more than is known', async () => {
  const data = Buffer.alloc(2 * MIB)
  let size = MIB
  let asked = 0
  const backend = memoryBackend(data, {
    getSize: () => MIB,
    sizeNow() {
      asked++
      return size
    },
  })
  const server = await serve({ backend })
  const client = await server.attached()
  await readSimple(client, 0, MIB)
  expect(asked).toBe(0)
  expect(await errorOf(client, compactRequest(READ, { offset: MIB, length: 1 }))).toBe(EINVAL)
  expect(asked).toBe(1)
  size = 2 * MIB
  await readSimple(client, MIB, MIB)
  await readSimple(client, MIB, MIB)
  expect(asked).toBe(2)
})

test('A disk that is forwarded has the size that its upstream told when it was connected last', async () => {
  const upstream = await serve()
  const uri = parseNbdUri(`nbd://127.0.0.1:${upstream.port}/disk`)
  const first = await upstream.attached('disk')
  first.hangUp()
  await allGone(upstream)
  const forward = createForwardBackend({ uri, exportName: 'fixed', shared: false, retryMs: 10_000 })
  const client = await (await serve({ backend: forward })).attached('')
  const last = compactRequest(READ, { offset: 2 * MIB - 1, length: 1 })
  truncateSync(join(upstream.path, 'disk'), 2 * MIB)
  expect(await errorOf(client, last)).toBe(EINVAL)
  await upstream.server.stop()
  const endpoint = { kind: 'tcp', host: '127.0.0.1', port: upstream.port } as const
  await serve({ path: upstream.path, endpoints: [endpoint] })
  expect((await readSimple(client, 0, 1)).equals(Buffer.alloc(1))).toBe(true)
  expect((await readSimple(client, 2 * MIB - 1, 1)).equals(Buffer.alloc(1))).toBe(true)
})
