import { describe, expect, test, vi } from 'vitest'
import { ExportRefusal } from '../exports/export.ts'
import { exposition } from '../metrics/exposition.ts'
import type { RefusalReason } from '../metrics/server-metrics.ts'
import { REFUSAL_REASONS, serverFamilies } from '../metrics/server-metrics.ts'
import { parseExposition, sampleValue } from '../metrics/test-exposition.ts'
import {
  ask,
  assemble,
  BLOCK_STATUS,
  CACHE,
  DISC,
  errorOf,
  FLAG,
  FLUSH,
  GO,
  goPayload,
  option,
  READ,
  readSimple,
  request,
  TRIM,
  takeError,
  takeOptionReply,
  takeStructured,
  u32,
  WRITE_ZEROES,
  write,
} from './test-client.ts'
import { allGone, MIB, type Setup, serve, type TestServer } from './test-server.ts'
import { makeCertificates, STARTTLS, serveTls } from './test-tls.ts'

makeCertificates()

const ABORT = 2
const EINVAL = 22
const ENOSPC = 28

function scrape({ metrics }: TestServer) {
  const families = parseExposition([...exposition(serverFamilies(metrics))].join(''))
  return (name: string, labels: Record<string, string> = {}) =>
    sampleValue(families, `ondemand_disk_${name}`, labels)
}

describe('after a known workload', () => {
  test('requests, bytes and errors add up, by export and command', async () => {
    const server = await serve({ size: 8 * MIB, connections: 2 })
    const client = await server.attached('a "disk"', { structured: true, allocation: true })
    const data = Buffer.alloc(8192, 1)
    for (let index = 0; index < 5; index++) client.send(write(data, { offset: index * 8192 }))
    for (let index = 0; index < 5; index++) expect(await takeError(client)).toBe(0)
    expect(await errorOf(client, write(data, { flags: FLAG.FUA }))).toBe(0)
    expect(await errorOf(client, write(Buffer.alloc(3 * MIB, 2), { offset: MIB }))).toBe(0)
    for (let index = 0; index < 10; index++) client.send(request(READ, { offset: index * 512, length: 512 }))
    for (let index = 0; index < 10; index++) await takeStructured(client)
    client.send(request(READ, { offset: MIB, length: 3 * MIB }))
    expect(assemble(await takeStructured(client), MIB, 3 * MIB)[0]).toBe(2)
    client.send(request(READ, { length: 0 }))
    expect(await takeError(client)).toBe(0)
    expect(await errorOf(client, request(FLUSH))).toBe(0)
    expect(await errorOf(client, request(FLUSH))).toBe(0)
    expect(await errorOf(client, request(TRIM, { length: 4096 }))).toBe(0)
    expect(await errorOf(client, request(CACHE, { length: 4096 }))).toBe(0)
    expect(await errorOf(client, request(WRITE_ZEROES, { length: 4096 }))).toBe(0)
    client.send(request(BLOCK_STATUS, { length: 8 * MIB }))
    await takeStructured(client)
    expect(await errorOf(client, request(READ, { offset: 8 * MIB, length: 512 }))).toBe(EINVAL)
    expect(await errorOf(client, write(data, { offset: 8 * MIB }))).toBe(ENOSPC)
    expect(await errorOf(client, request(77, { length: 512 }))).toBe(EINVAL)
    const other = await server.attached('other')
    await readSimple(other, 0, 100)

    const value = scrape(server)
    const of = (name: string, command?: string) =>
      value(name, { export: 'a "disk"', ...(command !== undefined && { command }) })
    const counted = (command: string) => [
      of('requests_total', command),
      of('request_errors_total', command),
      of('request_duration_seconds_count', command),
    ]
    expect(counted('read')).toEqual([13, 1, 13])
    expect(counted('write')).toEqual([8, 1, 8])
    expect(counted('flush')).toEqual([2, 0, 2])
    expect(counted('trim')).toEqual([1, 0, 1])
    expect(counted('cache')).toEqual([1, 0, 1])
    expect(counted('write_zeroes')).toEqual([1, 0, 1])
    expect(counted('block_status')).toEqual([1, 0, 1])
    expect(counted('unknown')).toEqual([1, 1, 1])
    expect(of('read_bytes_total')).toBe(10 * 512 + 3 * MIB)
    expect(of('written_bytes_total')).toBe(6 * 8192 + 3 * MIB)
    expect(of('request_duration_seconds_sum', 'write')).toBeGreaterThan(0)
    expect(of('request_duration_seconds_sum', 'write')).toBeLessThan(8)
    expect(of('export_connections')).toBe(1)
    expect(value('export_connections', { export: 'other' })).toBe(1)
    expect(value('read_bytes_total', { export: 'other' })).toBe(100)
    expect(value('connections')).toBe(2)

    client.send(request(DISC))
    client.hangUp()
    other.reset()
    await allGone(server)
    const atEnd = scrape(server)
    expect(atEnd('export_connections', { export: 'a "disk"' })).toBe(0)
    expect(atEnd('export_connections', { export: 'other' })).toBe(0)
    expect([atEnd('connections'), atEnd('connections_total')]).toEqual([0, 2])
    expect(atEnd('handshakes_total', { result: 'opened' })).toBe(2)
  })

  test('a request that waits for its disk has the time that it waited', async () => {
    const server = await serve({ size: MIB })
    const client = await server.attached()
    const start = performance.now()
    for (let index = 0; index < 20; index++) {
      expect(await errorOf(client, write(Buffer.alloc(512, index), { flags: FLAG.FUA }))).toBe(0)
    }
    const seconds = (performance.now() - start) / 1000
    const sum = scrape(server)('request_duration_seconds_sum', { command: 'write' })
    expect(sum).toBeLessThan(seconds)
    expect(sum).toBeGreaterThan(0.0002)
  })
})

test('handshakes are told apart by how they end', async () => {
  const server = await serve()
  const left = await server.greeted()
  await ask(left, ABORT)
  left.hangUp()
  const broken = await server.greeted()
  broken.reset()
  await allGone(server)
  await server.attached()
  const value = scrape(server)
  const results = ['opened', 'left', 'failed'].map(result => value('handshakes_total', { result }))
  expect(results).toEqual([1, 1, 1])
})

test('a client that says goodbye and does not wait for the answer has left', async () => {
  const server = await serve()
  const client = await server.greeted()
  client.send(option(ABORT))
  client.reset()
  await allGone(server)
  const value = scrape(server)
  expect(['left', 'failed'].map(result => value('handshakes_total', { result }))).toEqual([1, 0])
})

describe('a refusal is counted by its reason', () => {
  const tryToOpen = async (server: TestServer, name = 'disk'): Promise<void> => {
    const client = await server.greeted()
    await ask(client, GO, goPayload(name))
  }

  test.each<[RefusalReason, Setup, (server: TestServer) => Promise<unknown>]>([
    ['access', { deny: ['127.0.0.1'] }, async server => (await server.connect()).over],
    ['access', { maxSize: MIB }, server => tryToOpen(server, 'disk:2M')],
    [
      'limit',
      { maxConnections: 1 },
      async server => {
        await server.greeted()
        await (await server.connect()).over
      },
    ],
    [
      'busy',
      {},
      async server => {
        await server.attached()
        await tryToOpen(server)
      },
    ],
    [
      'unknown',
      {
        around: catalog => ({
          ...catalog,
          resolve: () => {
            throw new ExportRefusal('unknown', 'There is none.')
          },
        }),
      },
      tryToOpen,
    ],
    ['invalid', {}, server => tryToOpen(server, 'a/b')],
    ['creation', { recipe: { command: 'false' } }, tryToOpen],
    ['timeout', { handshakeTimeoutMs: 50 }, async server => (await server.connect()).over],
    [
      'protocol',
      {},
      async server => {
        const client = await server.greeted()
        client.send(option(GO, u32(0), 2 ** 31))
        await client.over
      },
    ],
  ])('%s %#', async (reason, setup, provoke) => {
    const server = await serve(setup)
    await provoke(server)
    const expected = Object.fromEntries(REFUSAL_REASONS.map(each => [each, each === reason ? 1 : 0]))
    await vi.waitFor(() => expect(server.metrics.refusals).toEqual(expected))
  })
})

test('a client that loses its disk is counted as revoked', async () => {
  let reason: string | undefined
  const server = await serve({ around: catalog => ({ ...catalog, revocation: () => reason }) })
  const client = await server.attached()
  reason = 'A rule.'
  server.server.enforceAccess()
  await client.over
  expect(server.metrics.refusals.revoked).toBe(1)
})

test('TLS handshakes are counted', async () => {
  const server = await serveTls()
  await server.secured()
  await vi.waitFor(() => expect(server.metrics.tlsHandshakes).toEqual({ done: 1, failed: 0 }))
  const client = await server.greeted()
  client.send(option(STARTTLS))
  await takeOptionReply(client)
  client.send(Buffer.from('This is no TLS.'))
  await client.over
  await vi.waitFor(() => expect(server.metrics.tlsHandshakes).toEqual({ done: 1, failed: 1 }))
  expect(server.metrics.refusals.tls).toBe(1)
})
