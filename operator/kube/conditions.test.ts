import { describe, expect, test } from 'vitest'
import { createClient } from './client.ts'
import {
  type ConditionChange,
  conditionOf,
  mergeConditions,
  type StatusCondition,
  statusPatch,
  type WithStatus,
  writeStatus,
} from './conditions.ts'
import type { Resource } from './objects.ts'
import { TestApi } from './test-api.ts'

type Thing = WithStatus & {
  readonly status?: { readonly conditions?: readonly StatusCondition[]; readonly size?: number }
}
const THINGS: Resource<Thing> = {
  group: 'x.dev',
  version: 'v1',
  kind: 'Thing',
  plural: 'things',
  namespaced: true,
}

const change = (type: string, status: 'True' | 'False', message = 'As it is.'): ConditionChange => ({
  type,
  status,
  reason: status === 'True' ? 'Fine' : 'Waiting',
  message,
  observedGeneration: 1,
})
const then = new Date('2026-11-20T10:00:00.900Z')
const later = new Date('2026-11-20T11:00:00Z')

describe('conditions', () => {
  const known = mergeConditions([], [change('Ready', 'False'), change('Formatted', 'True')], then)

  test('are found by type, and keep their place and the time of their status', () => {
    const merged = mergeConditions(
      known,
      [change('Ready', 'True'), change('Formatted', 'True', 'Long ago.'), change('Exported', 'True')],
      later,
    )
    expect(
      merged.map(({ type, message, lastTransitionTime }) => [type, message, lastTransitionTime]),
    ).toEqual([
      ['Ready', 'As it is.', '2026-11-20T11:00:00Z'],
      ['Formatted', 'Long ago.', '2026-11-20T10:00:00Z'],
      ['Exported', 'As it is.', '2026-11-20T11:00:00Z'],
    ])
  })

  test('without a change are the same list', () => {
    expect(mergeConditions(known, [change('Formatted', 'True')], later)).toBe(known)
    expect(mergeConditions(known, [], later)).toBe(known)
  })

  test('a message is cut where the API server would refuse it', () => {
    const [long] = mergeConditions([], [change('Ready', 'False', 'x'.repeat(40_000))])
    expect(long?.message).toHaveLength(32_768)
  })
})

const object = (status: object = {}): Thing => ({
  apiVersion: 'x.dev/v1',
  kind: 'Thing',
  metadata: { name: 'one', namespace: 'a', resourceVersion: '7' },
  status,
})

describe('the patch of a status', () => {
  const conditions = mergeConditions([], [change('Ready', 'True'), change('Old', 'True')], then)

  test('is none where nothing changes', () => {
    const same = {
      conditions: [change('Ready', 'True')],
      fields: { size: 5, list: ['a'], gone: null, unset: undefined },
    }
    expect(statusPatch(object({ conditions, size: 5, list: ['a'] }), same)).toBeUndefined()
    expect(statusPatch(object(), {})).toBeUndefined()
    expect(statusPatch(object({ conditions }), { removeConditions: ['Other'] })).toBeUndefined()
  })

  test('holds what changes, and for the state that was looked at only', () => {
    expect(
      statusPatch(object({ conditions, size: 5, uri: 'x' }), {
        conditions: [change('Ready', 'True')],
        removeConditions: ['Old'],
        fields: { size: 6, uri: null },
      }),
    ).toEqual({
      metadata: { resourceVersion: '7' },
      status: { conditions: [conditions[0]], size: 6, uri: null },
    })
  })
})

describe('writing a status', () => {
  const setUp = () => {
    const api = new TestApi()
    const client = createClient({ transport: api.transport })
    return { api, client, seen: api.put(object()) as Thing }
  }

  test('writes what changes, once', async () => {
    const { api, client, seen } = setUp()
    const wanted = { conditions: [change('Ready', 'True')], fields: { size: 5 } }
    const written = await writeStatus(client, THINGS, seen, wanted)
    expect(written.status).toMatchObject({ size: 5, conditions: [{ type: 'Ready' }] })
    expect(await writeStatus(client, THINGS, written, wanted)).toBe(written)
    expect(api.requests).toEqual(['PATCH /apis/x.dev/v1/namespaces/a/things/one/status'])
  })

  test('refuses to decide for a state that nobody looked at', async () => {
    const { api, client, seen } = setUp()
    api.put({ ...seen, status: { size: 1 } } as Thing)
    const writing = writeStatus(client, THINGS, seen, { fields: { size: 5 } })
    await expect(writing).rejects.toMatchObject({ code: 'Conflict' })
  })

  test('looks again where it may, and asks anew what to write', async () => {
    const { api, client, seen } = setUp()
    api.put({
      ...seen,
      status: { size: 1, conditions: mergeConditions([], [change('Exported', 'True')]) },
    } as Thing)
    const sizes: (number | undefined)[] = []
    const written = await writeStatus(
      client,
      THINGS,
      seen,
      ({ status }) => {
        sizes.push(status?.size)
        return { conditions: [change('Ready', 'True')], fields: { size: (status?.size ?? 0) + 1 } }
      },
      { retries: 2 },
    )
    expect(sizes).toEqual([undefined, 1])
    expect(written.status?.size).toBe(2)
    // The other's condition is still there.
    expect([conditionOf(written, 'Exported')?.status, conditionOf(written, 'Ready')?.status]).toEqual([
      'True',
      'True',
    ])
    expect(await writeStatus(client, THINGS, written, () => undefined)).toBe(written)
  })
})
