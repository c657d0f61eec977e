import { describe, expect, test } from 'vitest'
import { apply, covers } from './apply.ts'
import { createClient } from './client.ts'
import { CONFIG_MAPS } from './objects.ts'
import { TestApi } from './test-api.ts'

describe('an object covers what is wanted', () => {
  const actual = {
    metadata: { name: 'a', labels: { x: '1', y: '2' } },
    spec: { ports: [{ port: 1, protocol: 'TCP' }, { port: 2 }], replicas: 1 },
  }

  test.each([
    [{}],
    [{ metadata: { labels: { x: '1' } } }],
    [{ spec: { ports: [{ port: 1 }, { port: 2 }] } }],
    [{ spec: { selector: {} } }],
    [{ spec: { paused: undefined } }],
  ])('%j', wanted => {
    expect(covers(actual, wanted)).toBe(true)
  })

  test.each([
    [{ metadata: { labels: { z: '1' } } }],
    [{ metadata: { labels: { x: 1 } } }],
    [{ spec: { ports: [{ port: 1 }] } }],
    [{ spec: { ports: [{ port: 2 }, { port: 1 }] } }],
    [{ spec: { replicas: null } }],
    [{ spec: { replicas: { a: 1 } } }],
    [{ spec: { selector: { a: '1' } } }],
  ])('not %j', wanted => {
    expect(covers(actual, wanted)).toBe(false)
  })
})

test('server-side apply takes the fields, and says who does', async () => {
  const api = new TestApi()
  const client = createClient({ transport: api.transport })
  const object = {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { namespace: 'a', name: 'c' },
    data: { x: '1' },
  }
  await apply(client, CONFIG_MAPS, object, { fieldManager: 'test' })
  expect(api.requests).toEqual(['PATCH /api/v1/namespaces/a/configmaps/c?fieldManager=test&force=true'])
  expect(api.objects).toMatchObject([object])
})
