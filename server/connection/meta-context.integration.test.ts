/** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT, and what they mean for BLOCK_STATUS. */
import { describe, expect, test } from 'vitest'
import {
  ACK,
  ask,
  BLOCK_STATUS,
  ERR,
  errorOf,
  GO,
  goPayload,
  metaPayload,
  option,
  outcome,
  type RawClient,
  request,
  takeOptionReplies,
  takeStructured,
  u32,
} from './test-client.ts'
import { serve } from './test-server.ts'

const STRUCTURED_REPLY = 8
const LIST = 9
const SET = 10
const EINVAL = 22

const status = request(BLOCK_STATUS, { length: 4096 })

async function go(client: RawClient, name = 'disk'): Promise<void> {
  expect((await outcome(client, GO, goPayload(name))).type).toBe(ACK)
}

/** The contexts that a query was answered with, with their ids. */
async function contexts(client: RawClient, type: number, ...queries: string[]) {
  const replies = await ask(client, type, metaPayload('disk', ...queries))
  expect(replies.pop()?.type).toBe(ACK)
  return replies.map(({ payload }) => [payload.readUInt32BE(0), payload.subarray(4).toString()])
}

async function structuredClient(): Promise<RawClient> {
  const client = await (await serve()).greeted()
  expect((await outcome(client, STRUCTURED_REPLY)).type).toBe(ACK)
  return client
}

describe('Metadata contexts', () => {
  test.each([LIST, SET])('need structured replies (option %i)', async type => {
    const client = await (await serve()).greeted()
    expect((await outcome(client, type, metaPayload('disk', 'base:allocation'))).error).toBe(ERR.INVALID)
  })

  test('are listed with id 0: all, those of a namespace, or one', async () => {
    const client = await structuredClient()
    const all = [[0, 'base:allocation']]
    expect(await contexts(client, LIST)).toEqual(all)
    expect(await contexts(client, LIST, 'base:')).toEqual(all)
    expect(await contexts(client, LIST, 'base:allocation')).toEqual(all)
    expect(await contexts(client, LIST, 'base:allocation', 'base:')).toEqual(all)
    expect(await contexts(client, LIST, 'base', 'base:all', 'qemu:', 'x-y:z', '')).toEqual([])
  })

  test('are set by their whole name only, and then have an id', async () => {
    const client = await structuredClient()
    expect(await contexts(client, SET)).toEqual([])
    expect(await contexts(client, SET, 'base:')).toEqual([])
    expect(await contexts(client, SET, 'x:y', 'base:allocation', 'base:allocation')).toEqual([
      [expect.any(Number), 'base:allocation'],
    ])
    await go(client)
    client.send(status)
    const [chunk] = await takeStructured(client)
    expect([chunk?.type, chunk?.payload.length]).toEqual([5, 12])
  })

  test('that were not set are not told', async () => {
    const client = await structuredClient()
    await go(client)
    expect(await errorOf(client, status)).toBe(EINVAL)
  })

  test('of one name are not those of another', async () => {
    const client = await structuredClient()
    expect(await contexts(client, SET, 'base:allocation')).toHaveLength(1)
    await go(client, 'other')
    expect(await errorOf(client, status)).toBe(EINVAL)
  })

  test('survive a GO for another name that fails', async () => {
    const client = await structuredClient()
    expect(await contexts(client, SET, 'base:allocation')).toHaveLength(1)
    expect((await outcome(client, GO, goPayload('../x'))).error).toBe(ERR.UNKNOWN)
    await go(client)
    expect(await errorOf(client, status)).toBe(0)
  })

  test.each([
    ['that sets nothing', metaPayload('disk')],
    ['that is malformed', metaPayload('disk', 'base:allocation').subarray(0, -1)],
    ['for a name that is refused', metaPayload('../x', 'base:allocation')],
  ])('are forgotten by a later SET_META_CONTEXT %s', async (_, payload) => {
    const client = await structuredClient()
    expect(await contexts(client, SET, 'base:allocation')).toHaveLength(1)
    await ask(client, SET, payload)
    await go(client)
    expect(await errorOf(client, status)).toBe(EINVAL)
  })

  test('are not touched by LIST_META_CONTEXT', async () => {
    const client = await structuredClient()
    expect(await contexts(client, SET, 'base:allocation')).toHaveLength(1)
    expect(await contexts(client, LIST, 'x:y')).toEqual([])
    await go(client)
    expect(await errorOf(client, status)).toBe(0)
  })

  const name = Buffer.concat([u32(4), Buffer.from('disk')])
  test.each<[what: string, payload: Buffer]>([
    ['nothing at all', Buffer.alloc(0)],
    ['half a length', Buffer.alloc(3)],
    ['a name of 2^32-1 bytes', Buffer.concat([u32(0xffffffff), Buffer.from('disk'), u32(0)])],
    ['a name behind the end', Buffer.concat([u32(9), Buffer.from('disk'), u32(0)])],
    ['no number of queries', name],
    ['2^32-1 queries', Buffer.concat([name, u32(0xffffffff)])],
    ['one query too few', Buffer.concat([name, u32(2), u32(1), Buffer.from('a')])],
    ['a query of 2^32-1 bytes', Buffer.concat([name, u32(1), u32(0xffffffff), Buffer.from('a')])],
    ['a query behind the end', Buffer.concat([name, u32(1), u32(2), Buffer.from('a')])],
    ['bytes behind the last query', Buffer.concat([metaPayload('disk', 'a'), Buffer.from('b')])],
    ['a name of 4097 bytes', metaPayload('x'.repeat(4097), 'base:allocation')],
    ['a query of 4097 bytes', metaPayload('disk', 'x'.repeat(4097))],
  ])('asked for with %s: INVALID, and the next option is understood', async (_, payload) => {
    const client = await structuredClient()
    for (const type of [LIST, SET]) {
      client.send(option(type, payload))
      const [reply] = await takeOptionReplies(client)
      expect([reply?.option, reply?.error]).toEqual([type, ERR.INVALID])
    }
    await go(client)
  })
})
